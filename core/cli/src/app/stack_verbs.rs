//! Commands of stacks.

use super::{Verb, verb};
use crate::commands::compose::{
    act, config, copy as stack_copy, exec as service_exec, images as stack_images, logs as stack_logs, look, publish,
    run as service_run, show as stacks, stack, up, wait,
};

pub(super) static UP: Verb = verb!(
    ["up"],
    "Create and start a stack, which the daemon then keeps as its files say",
    "[OPTIONS] [SERVICE...]",
    up::UpArgs,
    up::up
);
pub(super) static DOWN: Verb = verb!(
    ["down"],
    "Stop and remove a stack's containers and networks",
    "[OPTIONS] [SERVICES]",
    up::DownArgs,
    up::down
);
pub(super) static CONFIG: Verb = verb!(
    ["config", "convert"],
    "Parse, resolve and render a compose file in canonical form",
    "[OPTIONS] [SERVICE...]",
    config::ConfigArgs,
    config::run
);
pub(super) static COMPOSE_CREATE: Verb =
    verb!(["create"], "Creates containers for a service", "[OPTIONS] [SERVICE...]", up::CreateArgs, up::create);
pub(super) static WATCH: Verb = verb!(
    ["watch"],
    "Bring a stack up, and changes of its sources into its containers",
    "[OPTIONS] [SERVICE...]",
    up::WatchArgs,
    up::watch
);
pub(super) static COMPOSE_DIFF: Verb =
    verb!(["diff"], "Show what up would change and do", "[OPTIONS] [SERVICE...]", stack::DiffArgs, stack::diff);
pub(super) static STACK_INSPECT: Verb =
    verb!(["inspect"], "Show how stacks stand, as JSON", "STACK [STACK...]", stack::NamedArgs, stack::inspect);
pub(super) static STACK_PAUSE: Verb = verb!(
    ["pause"],
    "Leave stacks alone: neither follow their files nor heal them",
    "STACK [STACK...]",
    stack::NamedArgs,
    stack::pause
);
pub(super) static STACK_RESUME: Verb =
    verb!(["resume"], "Take stacks up again that were paused", "STACK [STACK...]", stack::NamedArgs, stack::resume);
pub(super) static STACK_HISTORY: Verb =
    verb!(["history"], "Show what a stack was brought to", "[OPTIONS] STACK", stack::HistoryArgs, stack::history);
pub(super) static STACK_ROLLBACK: Verb = verb!(
    ["rollback"],
    "Apply again what a stack was brought to before",
    "[OPTIONS] STACK",
    stack::RollbackArgs,
    stack::rollback
);
pub(super) static COMPOSE_PS: Verb =
    verb!(["ps"], "List containers", "[OPTIONS] [SERVICE...]", stacks::PsArgs, stacks::ps);
pub(super) static LS: Verb = verb!(["ls", "list"], "List running stacks", "[OPTIONS]", stacks::LsArgs, stacks::ls);
pub(super) static COMPOSE_LOGS: Verb =
    verb!(["logs"], "View output from containers", "[OPTIONS] [SERVICE...]", stack_logs::LogsArgs, stack_logs::run);
pub(super) static COMPOSE_START: Verb =
    verb!(["start"], "Start services", "[OPTIONS] [SERVICE...]", act::StartArgs, act::start);
pub(super) static COMPOSE_STOP: Verb =
    verb!(["stop"], "Stop services", "[OPTIONS] [SERVICE...]", act::StopArgs, act::stop);
pub(super) static COMPOSE_RESTART: Verb =
    verb!(["restart"], "Restart service containers", "[OPTIONS] [SERVICE...]", act::RestartArgs, act::restart);
pub(super) static COMPOSE_KILL: Verb =
    verb!(["kill"], "Force stop service containers", "[OPTIONS] [SERVICE...]", act::KillArgs, act::kill);
pub(super) static COMPOSE_PAUSE: Verb =
    verb!(["pause"], "Pause services", "[SERVICE...]", act::ServicesArgs, act::pause);
pub(super) static COMPOSE_UNPAUSE: Verb =
    verb!(["unpause"], "Unpause services", "[SERVICE...]", act::ServicesArgs, act::unpause);
pub(super) static COMPOSE_RM: Verb =
    verb!(["rm"], "Removes stopped service containers", "[OPTIONS] [SERVICE...]", act::RemoveArgs, act::remove);
pub(super) static COMPOSE_BUILD: Verb = verb!(
    ["build"],
    "Build or rebuild services",
    "[OPTIONS] [SERVICE...]",
    stack_images::BuildArgs,
    stack_images::build
);
pub(super) static COMPOSE_PULL: Verb =
    verb!(["pull"], "Pull service images", "[OPTIONS] [SERVICE...]", stack_images::PullArgs, stack_images::pull);
pub(super) static SCALE: Verb =
    verb!(["scale"], "Scale services", "[OPTIONS] SERVICE=REPLICAS...", act::ScaleArgs, act::scale);
pub(super) static COMPOSE_EXEC: Verb = verb!(
    ["exec"],
    "Execute a command in a running container",
    "[OPTIONS] SERVICE COMMAND [ARGS...]",
    service_exec::ExecArgs,
    service_exec::exec
);
pub(super) static COMPOSE_RUN: Verb = verb!(
    ["run"],
    "Run a one-off command on a service",
    "[OPTIONS] SERVICE [COMMAND] [ARGS...]",
    service_run::RunArgs,
    service_run::run
);
pub(super) static COMPOSE_IMAGES: Verb = verb!(
    ["images"],
    "List images used by the created containers",
    "[OPTIONS] [SERVICE...]",
    look::ImagesArgs,
    look::images
);
pub(super) static COMPOSE_TOP: Verb =
    verb!(["top"], "Display the running processes", "[SERVICES...]", look::TopArgs, look::top);
pub(super) static COMPOSE_PORT: Verb = verb!(
    ["port"],
    "List port mappings or print the public port for a specific mapping for the service",
    "[OPTIONS] SERVICE [PRIVATE_PORT]",
    look::PortArgs,
    look::port
);
pub(super) static COMPOSE_EVENTS: Verb = verb!(
    ["events"],
    "Receive real time events from containers",
    "[OPTIONS] [SERVICE...]",
    look::EventsArgs,
    look::events
);
pub(super) static COMPOSE_STATS: Verb = verb!(
    ["stats"],
    "Display a live stream of container(s) resource usage statistics",
    "[OPTIONS] [SERVICE]",
    look::StatsArgs,
    look::stats
);
pub(super) static VOLUMES: Verb =
    verb!(["volumes"], "List volumes of a stack", "[OPTIONS] [SERVICE...]", look::VolumesArgs, look::volumes);
pub(super) static COMPOSE_CP: Verb = verb!(
    ["cp"],
    "Copy files/folders between a service container and the local filesystem",
    "[OPTIONS] SERVICE:SRC_PATH DEST_PATH|- | SRC_PATH|- SERVICE:DEST_PATH",
    stack_copy::CopyArgs,
    stack_copy::copy
);
pub(super) static COMPOSE_VERSION: Verb =
    verb!(["version"], "Show the version information", "[OPTIONS]", look::VersionArgs, look::version);
pub(super) static STACK_PS: Verb =
    verb!(["ps"], "List the containers of a stack", "STACK [STACK...]", stacks::StackArgs, stacks::stack_ps);
pub(super) static STACK_RM: Verb = verb!(
    ["rm", "down", "remove"],
    "Remove one or more stacks",
    "[OPTIONS] STACK [STACK...]",
    stacks::StackArgs,
    stacks::stack_rm
);
pub(super) static STACK_LS: Verb = verb!(["ls", "list"], "List stacks", "[OPTIONS]", stacks::LsArgs, stacks::stack_ls);
pub(super) static COMPOSE_ATTACH: Verb = verb!(
    ["attach"],
    "Attach local standard input, output, and error streams to a service's running container",
    "[OPTIONS] SERVICE",
    wait::AttachArgs,
    wait::attach
);
pub(super) static COMPOSE_COMMIT: Verb = verb!(
    ["commit"],
    "Create a new image from a service container's changes",
    "[OPTIONS] SERVICE [REPOSITORY[:TAG]]",
    wait::CommitArgs,
    wait::commit
);
pub(super) static COMPOSE_EXPORT: Verb = verb!(
    ["export"],
    "Export a service container's filesystem as a tar archive",
    "[OPTIONS] SERVICE",
    wait::ExportArgs,
    wait::export
);
pub(super) static COMPOSE_PUSH: Verb =
    verb!(["push"], "Push service images", "[OPTIONS] [SERVICE...]", stack_images::PushArgs, stack_images::push);
pub(super) static COMPOSE_WAIT: Verb = verb!(
    ["wait"],
    "Block until containers of all (or specified) services stop",
    "[OPTIONS] [SERVICE...]",
    wait::WaitArgs,
    wait::run
);
pub(super) static COMPOSE_PUBLISH: Verb = verb!(
    ["publish"],
    "Publish compose application",
    "[OPTIONS] REPOSITORY[:TAG]",
    publish::PublishArgs,
    publish::publish
);
pub(super) static COMPOSE_BRIDGE: Verb =
    verb!(["bridge"], "Convert compose files into another model (not supported)", "", wait::RefusedArgs, wait::bridge);
