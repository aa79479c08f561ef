//! Every command, under every name.

use clap::Command;

use super::{Group, Verb, refine, verb};
use crate::commands::compose::{
    act, config, exec as service_exec, images as stack_images, logs as stack_logs, show as stacks, stack, up,
};
use crate::commands::container::{
    attach, change, commit, copy, create, exec, list, logs, prune, run, show, stats, update,
};
use crate::commands::image::{build, list as images, login, manifest, pull, transfer};
use crate::commands::{completion, doctor, events, inspect, network, plugin, system, version, volume};

static RUN: Verb = verb!(
    ["run"],
    "Create and run a new container from an image",
    "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    run::RunArgs,
    run::run
);
static CREATE: Verb =
    verb!(["create"], "Create a new container", "[OPTIONS] IMAGE [COMMAND] [ARG...]", create::CreateArgs, create::run);
static START: Verb = verb!(
    ["start"],
    "Start one or more stopped containers",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    attach::StartArgs,
    attach::start
);
static STOP: Verb = verb!(
    ["stop"],
    "Stop one or more running containers",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    change::StopArgs,
    change::stop
);
static RESTART: Verb = verb!(
    ["restart"],
    "Restart one or more containers",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    change::StopArgs,
    change::restart
);
static KILL: Verb = verb!(
    ["kill"],
    "Kill one or more running containers",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    change::KillArgs,
    change::kill
);
static PAUSE: Verb = verb!(
    ["pause"],
    "Pause all processes within one or more containers",
    "CONTAINER [CONTAINER...]",
    change::NamesArgs,
    change::pause
);
static UNPAUSE: Verb = verb!(
    ["unpause"],
    "Unpause all processes within one or more containers",
    "CONTAINER [CONTAINER...]",
    change::NamesArgs,
    change::unpause
);
static WAIT: Verb = verb!(
    ["wait"],
    "Block until one or more containers stop, then print their exit codes",
    "CONTAINER [CONTAINER...]",
    change::NamesArgs,
    change::wait
);
static RM: Verb = verb!(
    ["rm", "remove"],
    "Remove one or more containers",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    change::RemoveArgs,
    change::remove
);
static RENAME: Verb = verb!(["rename"], "Rename a container", "CONTAINER NEW_NAME", change::RenameArgs, change::rename);
static PS: Verb = verb!(["ps"], "List containers", "[OPTIONS]", list::ListArgs, list::run);
static CONTAINER_LS: Verb = verb!(["ls", "ps", "list"], "List containers", "[OPTIONS]", list::ListArgs, list::run);
static LOGS: Verb = verb!(
    ["logs"],
    "Fetch the logs of a container, or of the stack whose files lie here",
    "[OPTIONS] [CONTAINER]",
    logs::LogsArgs,
    logs::run
);
static EXEC: Verb = verb!(
    ["exec"],
    "Execute a command in a running container",
    "[OPTIONS] CONTAINER COMMAND [ARG...]",
    exec::ExecArgs,
    exec::run
);
static ATTACH: Verb = verb!(
    ["attach"],
    "Attach local standard input, output, and error streams to a running container",
    "[OPTIONS] CONTAINER",
    attach::AttachArgs,
    attach::attach
);
static CONTAINER_INSPECT: Verb = verb!(
    ["inspect"],
    "Display detailed information on one or more containers",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    show::InspectArgs,
    show::inspect
);
static TOP_VERB: Verb =
    verb!(["top"], "Display the running processes of a container", "CONTAINER [ps OPTIONS]", show::TopArgs, show::top);
static PORT: Verb = verb!(
    ["port"],
    "List port mappings or a specific mapping for the container",
    "CONTAINER [PRIVATE_PORT[/PROTO]]",
    show::PortArgs,
    show::port
);
static DIFF: Verb = verb!(
    ["diff"],
    "Inspect changes to files or directories on a container's filesystem",
    "CONTAINER",
    show::DiffArgs,
    show::diff
);
static UPDATE: Verb = verb!(
    ["update"],
    "Update configuration of one or more containers",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    update::UpdateArgs,
    update::run
);
static CP: Verb = verb!(
    ["cp"],
    "Copy files/folders between a container and the local filesystem",
    "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|- | SRC_PATH|- CONTAINER:DEST_PATH",
    copy::CopyArgs,
    copy::run
);
static EXPORT: Verb = verb!(
    ["export"],
    "Export a container's filesystem as a tar archive",
    "[OPTIONS] CONTAINER",
    copy::ExportArgs,
    copy::export
);
static STATS: Verb = verb!(
    ["stats"],
    "Display a live stream of container(s) resource usage statistics",
    "[OPTIONS] [CONTAINER...]",
    stats::StatsArgs,
    stats::run
);
static COMMIT: Verb = verb!(
    ["commit"],
    "Create a new image from a container's changes",
    "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
    commit::CommitArgs,
    commit::run
);
static CONTAINER_PRUNE: Verb =
    verb!(["prune"], "Remove all stopped containers", "[OPTIONS]", prune::PruneArgs, prune::run);

static BUILD: Verb =
    verb!(["build"], "Build an image from a Dockerfile", "[OPTIONS] PATH | -", build::BuildArgs, build::run);
static IMAGES: Verb = verb!(["images"], "List images", "[OPTIONS] [REPOSITORY[:TAG]]", images::ListArgs, images::list);
static IMAGE_LS: Verb =
    verb!(["ls", "list"], "List images", "[OPTIONS] [REPOSITORY[:TAG]]", images::ListArgs, images::list);
static HISTORY: Verb =
    verb!(["history"], "Show the history of an image", "[OPTIONS] IMAGE", images::HistoryArgs, images::history);
static RMI: Verb =
    verb!(["rmi"], "Remove one or more images", "[OPTIONS] IMAGE [IMAGE...]", images::RemoveArgs, images::remove);
static IMAGE_RM: Verb = verb!(
    ["rm", "remove"],
    "Remove one or more images",
    "[OPTIONS] IMAGE [IMAGE...]",
    images::RemoveArgs,
    images::remove
);
static TAG: Verb = verb!(
    ["tag"],
    "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
    "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    images::TagArgs,
    images::tag
);
static IMAGE_INSPECT: Verb = verb!(
    ["inspect"],
    "Display detailed information on one or more images",
    "[OPTIONS] IMAGE [IMAGE...]",
    images::InspectArgs,
    images::inspect
);
static IMAGE_PRUNE: Verb = verb!(["prune"], "Remove unused images", "[OPTIONS]", images::PruneArgs, images::prune);
static SAVE: Verb = verb!(
    ["save"],
    "Save one or more images to a tar archive (streamed to STDOUT by default)",
    "[OPTIONS] IMAGE [IMAGE...]",
    transfer::SaveArgs,
    transfer::save
);
static LOAD: Verb =
    verb!(["load"], "Load an image from a tar archive or STDIN", "[OPTIONS]", transfer::LoadArgs, transfer::load);
static IMPORT: Verb = verb!(
    ["import"],
    "Import the contents from a tarball to create a filesystem image",
    "[OPTIONS] file|- [REPOSITORY[:TAG]]",
    transfer::ImportArgs,
    transfer::import
);
static PULL: Verb =
    verb!(["pull"], "Download an image from a registry", "[OPTIONS] NAME[:TAG|@DIGEST]", pull::PullArgs, pull::pull);
static PUSH: Verb =
    verb!(["push"], "Upload an image to a registry", "[OPTIONS] NAME[:TAG]", pull::PushArgs, pull::push);
static SEARCH: Verb =
    verb!(["search"], "Search a registry for images", "[OPTIONS] TERM", pull::SearchArgs, pull::search);
static LOGIN: Verb =
    verb!(["login"], "Authenticate to a registry", "[OPTIONS] [SERVER]", login::LoginArgs, login::login);
static LOGOUT: Verb = verb!(["logout"], "Log out from a registry", "[SERVER]", login::LogoutArgs, login::logout);
static MANIFEST_INSPECT: Verb = verb!(
    ["inspect"],
    "Display an image manifest, or manifest list",
    "[OPTIONS] [MANIFEST_LIST] MANIFEST",
    manifest::InspectArgs,
    manifest::inspect
);
static MANIFEST_CREATE: Verb = verb!(
    ["create"],
    "Create a local manifest list for annotating and pushing to a registry",
    "MANIFEST_LIST MANIFEST [MANIFEST...]",
    manifest::CreateArgs,
    manifest::create
);
static MANIFEST_ANNOTATE: Verb = verb!(
    ["annotate"],
    "Add additional information to a local image manifest",
    "[OPTIONS] MANIFEST_LIST MANIFEST",
    manifest::AnnotateArgs,
    manifest::annotate
);
static MANIFEST_PUSH: Verb = verb!(
    ["push"],
    "Push a manifest list to a repository",
    "[OPTIONS] MANIFEST_LIST",
    manifest::PushArgs,
    manifest::push
);
static MANIFEST_RM: Verb = verb!(
    ["rm"],
    "Delete one or more manifest lists from local storage",
    "MANIFEST_LIST [MANIFEST_LIST...]",
    manifest::RemoveArgs,
    manifest::remove
);

static VOLUME_CREATE: Verb =
    verb!(["create"], "Create a volume", "[OPTIONS] [VOLUME]", volume::CreateArgs, volume::create);
static VOLUME_INSPECT: Verb = verb!(
    ["inspect"],
    "Display detailed information on one or more volumes",
    "[OPTIONS] VOLUME [VOLUME...]",
    volume::InspectArgs,
    volume::inspect
);
static VOLUME_LS: Verb = verb!(["ls", "list"], "List volumes", "[OPTIONS]", volume::ListArgs, volume::list);
static VOLUME_PRUNE: Verb =
    verb!(["prune"], "Remove unused local volumes", "[OPTIONS]", volume::PruneArgs, volume::prune);
static VOLUME_RM: Verb = verb!(
    ["rm", "remove"],
    "Remove one or more volumes",
    "[OPTIONS] VOLUME [VOLUME...]",
    volume::RemoveArgs,
    volume::remove
);

static NETWORK_CONNECT: Verb = verb!(
    ["connect"],
    "Connect a container to a network",
    "[OPTIONS] NETWORK CONTAINER",
    network::ConnectArgs,
    network::connect
);
static NETWORK_CREATE: Verb =
    verb!(["create"], "Create a network", "[OPTIONS] NETWORK", network::CreateArgs, network::create);
static NETWORK_DISCONNECT: Verb = verb!(
    ["disconnect"],
    "Disconnect a container from a network",
    "[OPTIONS] NETWORK CONTAINER",
    network::DisconnectArgs,
    network::disconnect
);
static NETWORK_INSPECT: Verb = verb!(
    ["inspect"],
    "Display detailed information on one or more networks",
    "[OPTIONS] NETWORK [NETWORK...]",
    network::InspectArgs,
    network::inspect
);
static NETWORK_LS: Verb = verb!(["ls", "list"], "List networks", "[OPTIONS]", network::ListArgs, network::list);
static NETWORK_PRUNE: Verb =
    verb!(["prune"], "Remove all unused networks", "[OPTIONS]", prune::PruneArgs, network::prune);
static NETWORK_RM: Verb = verb!(
    ["rm", "remove"],
    "Remove one or more networks",
    "NETWORK [NETWORK...]",
    network::RemoveArgs,
    network::remove
);

static PLUGIN_LS: Verb = verb!(["ls", "list"], "List drivers", "[OPTIONS]", plugin::ListArgs, plugin::list);
static PLUGIN_INSPECT: Verb = verb!(
    ["inspect"],
    "Display detailed information on one or more drivers",
    "[OPTIONS] PLUGIN [PLUGIN...]",
    plugin::InspectArgs,
    plugin::inspect
);
static PLUGIN_INSTALL: Verb =
    verb!(["install"], "Install a driver from a file", "[OPTIONS] FILE", plugin::InstallArgs, plugin::install);
static PLUGIN_UPGRADE: Verb =
    verb!(["upgrade"], "Replace a driver's component", "[OPTIONS] PLUGIN FILE", plugin::UpgradeArgs, plugin::upgrade);
static PLUGIN_ENABLE: Verb =
    verb!(["enable"], "Enable a driver", "PLUGIN [PLUGIN...]", plugin::NamesArgs, plugin::enable);
static PLUGIN_DISABLE: Verb =
    verb!(["disable"], "Disable a driver", "PLUGIN [PLUGIN...]", plugin::NamesArgs, plugin::disable);
static PLUGIN_RM: Verb = verb!(
    ["rm", "remove"],
    "Remove one or more drivers",
    "[OPTIONS] PLUGIN [PLUGIN...]",
    plugin::NamesArgs,
    plugin::remove
);

static VERSION: Verb =
    verb!(["version"], "Show the Sampan version information", "[OPTIONS]", version::VersionArgs, version::run);
static INFO: Verb = verb!(["info"], "Display system-wide information", "[OPTIONS]", system::InfoArgs, system::info);
static EVENTS: Verb =
    verb!(["events"], "Get real time events from the server", "[OPTIONS]", events::EventsArgs, events::run);
static INSPECT: Verb = verb!(
    ["inspect"],
    "Return low-level information on objects",
    "[OPTIONS] NAME|ID [NAME|ID...]",
    inspect::InspectArgs,
    inspect::run
);
static SYSTEM_DF: Verb = verb!(["df"], "Show disk usage", "[OPTIONS]", system::UsageArgs, system::usage);
static SYSTEM_PRUNE: Verb = verb!(["prune"], "Remove unused data", "[OPTIONS]", system::PruneArgs, system::prune);
static BUILDER_PRUNE: Verb =
    verb!(["prune"], "Remove build cache", "[OPTIONS]", system::BuilderPruneArgs, system::builder_prune);
static COMPLETION: Verb = verb!(
    ["completion"],
    "Generate the autocompletion script for the specified shell",
    "SHELL",
    completion::CompletionArgs,
    completion::run
);
static DOCTOR: Verb = verb!(["doctor"], "Check the host and the daemon", "", doctor::DoctorArgs, doctor::run);

static UP: Verb = verb!(
    ["up"],
    "Create and start a stack, which the daemon then keeps as its files say",
    "[OPTIONS] [SERVICE...]",
    up::UpArgs,
    up::up
);
static DOWN: Verb = verb!(
    ["down"],
    "Stop and remove a stack's containers and networks",
    "[OPTIONS] [SERVICES]",
    up::DownArgs,
    up::down
);
static CONFIG: Verb = verb!(
    ["config", "convert"],
    "Parse, resolve and render a compose file in canonical form",
    "[OPTIONS] [SERVICE...]",
    config::ConfigArgs,
    config::run
);
static COMPOSE_CREATE: Verb =
    verb!(["create"], "Creates containers for a service", "[OPTIONS] [SERVICE...]", up::UpArgs, up::create);
static WATCH: Verb = verb!(
    ["watch"],
    "Bring a stack up, and changes of its sources into its containers",
    "[OPTIONS] [SERVICE...]",
    up::WatchArgs,
    up::watch
);
static COMPOSE_DIFF: Verb =
    verb!(["diff"], "Show what up would change and do", "[OPTIONS] [SERVICE...]", stack::DiffArgs, stack::diff);
static STACK_INSPECT: Verb =
    verb!(["inspect"], "Show how stacks stand, as JSON", "STACK [STACK...]", stack::NamedArgs, stack::inspect);
static STACK_PAUSE: Verb = verb!(
    ["pause"],
    "Leave stacks alone: neither follow their files nor heal them",
    "STACK [STACK...]",
    stack::NamedArgs,
    stack::pause
);
static STACK_RESUME: Verb =
    verb!(["resume"], "Take stacks up again that were paused", "STACK [STACK...]", stack::NamedArgs, stack::resume);
static STACK_HISTORY: Verb =
    verb!(["history"], "Show what a stack was brought to", "[OPTIONS] STACK", stack::HistoryArgs, stack::history);
static STACK_ROLLBACK: Verb = verb!(
    ["rollback"],
    "Apply again what a stack was brought to before",
    "[OPTIONS] STACK",
    stack::RollbackArgs,
    stack::rollback
);
static COMPOSE_PS: Verb = verb!(["ps"], "List containers", "[OPTIONS] [SERVICE...]", stacks::PsArgs, stacks::ps);
static COMPOSE_LS: Verb = verb!(["ls", "list"], "List stacks", "[OPTIONS]", stacks::LsArgs, stacks::ls);
static COMPOSE_LOGS: Verb =
    verb!(["logs"], "View output from containers", "[OPTIONS] [SERVICE...]", stack_logs::LogsArgs, stack_logs::run);
static COMPOSE_START: Verb = verb!(["start"], "Start services", "[SERVICE...]", act::ServicesArgs, act::start);
static COMPOSE_STOP: Verb = verb!(["stop"], "Stop services", "[OPTIONS] [SERVICE...]", act::StopArgs, act::stop);
static COMPOSE_RESTART: Verb =
    verb!(["restart"], "Restart service containers", "[OPTIONS] [SERVICE...]", act::StopArgs, act::restart);
static COMPOSE_KILL: Verb =
    verb!(["kill"], "Force stop service containers", "[OPTIONS] [SERVICE...]", act::KillArgs, act::kill);
static COMPOSE_PAUSE: Verb = verb!(["pause"], "Pause services", "[SERVICE...]", act::ServicesArgs, act::pause);
static COMPOSE_UNPAUSE: Verb = verb!(["unpause"], "Unpause services", "[SERVICE...]", act::ServicesArgs, act::unpause);
static COMPOSE_RM: Verb =
    verb!(["rm"], "Removes stopped service containers", "[OPTIONS] [SERVICE...]", act::RemoveArgs, act::remove);
static COMPOSE_BUILD: Verb = verb!(
    ["build"],
    "Build or rebuild services",
    "[OPTIONS] [SERVICE...]",
    stack_images::BuildArgs,
    stack_images::build
);
static COMPOSE_PULL: Verb =
    verb!(["pull"], "Pull service images", "[OPTIONS] [SERVICE...]", stack_images::PullArgs, stack_images::pull);
static COMPOSE_SCALE: Verb = verb!(["scale"], "Scale services", "[SERVICE=REPLICAS...]", act::ScaleArgs, act::scale);
static COMPOSE_EXEC: Verb = verb!(
    ["exec"],
    "Execute a command in a running container",
    "[OPTIONS] SERVICE COMMAND [ARGS...]",
    service_exec::ExecArgs,
    service_exec::exec
);
static COMPOSE_RUN: Verb = verb!(
    ["run"],
    "Run a one-off command on a service",
    "[OPTIONS] SERVICE [COMMAND] [ARGS...]",
    service_exec::RunArgs,
    service_exec::run
);
static COMPOSE_IMAGES: Verb = verb!(
    ["images"],
    "List images used by the created containers",
    "[OPTIONS] [SERVICE...]",
    stacks::ImagesArgs,
    stacks::images
);
static COMPOSE_TOP: Verb =
    verb!(["top"], "Display the running processes", "[SERVICES...]", stacks::TopArgs, stacks::top);
static COMPOSE_PORT: Verb = verb!(
    ["port"],
    "Print the public port for a port binding",
    "[OPTIONS] SERVICE PRIVATE_PORT",
    stacks::PortArgs,
    stacks::port
);
static COMPOSE_EVENTS: Verb = verb!(
    ["events"],
    "Receive real time events from containers",
    "[OPTIONS] [SERVICE...]",
    stacks::EventsArgs,
    stacks::events
);
static COMPOSE_STATS: Verb = verb!(
    ["stats"],
    "Display a live stream of container(s) resource usage statistics",
    "[OPTIONS] [SERVICE]",
    stacks::StatsArgs,
    stacks::stats
);
static COMPOSE_VOLUMES: Verb = verb!(["volumes"], "List volumes", "[OPTIONS]", stacks::VolumesArgs, stacks::volumes);
static COMPOSE_CP: Verb = verb!(
    ["cp"],
    "Copy files/folders between a service container and the local filesystem",
    "[OPTIONS] SERVICE:SRC_PATH DEST_PATH|- | SRC_PATH|- SERVICE:DEST_PATH",
    stacks::CopyArgs,
    stacks::copy
);
static COMPOSE_VERSION: Verb =
    verb!(["version"], "Show the version information", "[OPTIONS]", stacks::VersionArgs, stacks::version);
static STACK_PS: Verb =
    verb!(["ps"], "List the containers of a stack", "STACK [STACK...]", stacks::StackArgs, stacks::stack_ps);
static STACK_RM: Verb = verb!(
    ["rm", "down", "remove"],
    "Remove one or more stacks",
    "[OPTIONS] STACK [STACK...]",
    stacks::StackArgs,
    stacks::stack_rm
);

/// Commands that stand alone.
pub static TOP: &[&Verb] = &[
    &ATTACH,
    &BUILD,
    &COMMIT,
    &COMPLETION,
    &CONFIG,
    &CP,
    &CREATE,
    &DIFF,
    &DOCTOR,
    &DOWN,
    &EVENTS,
    &EXEC,
    &EXPORT,
    &HISTORY,
    &IMAGES,
    &IMPORT,
    &INFO,
    &INSPECT,
    &KILL,
    &LOAD,
    &LOGIN,
    &LOGOUT,
    &LOGS,
    &PAUSE,
    &PORT,
    &PS,
    &PULL,
    &PUSH,
    &RENAME,
    &RESTART,
    &RM,
    &RMI,
    &RUN,
    &SAVE,
    &SEARCH,
    &START,
    &STATS,
    &STOP,
    &TAG,
    &TOP_VERB,
    &UNPAUSE,
    &UP,
    &UPDATE,
    &VERSION,
    &WAIT,
    &WATCH,
];

/// Groups of commands.
pub static GROUPS: &[Group] = &[
    Group {
        names: &["compose"],
        about: "Define and run stacks of containers",
        verbs: &[
            &COMPOSE_BUILD,
            &CONFIG,
            &COMPOSE_CP,
            &COMPOSE_CREATE,
            &COMPOSE_DIFF,
            &DOWN,
            &COMPOSE_EVENTS,
            &COMPOSE_EXEC,
            &COMPOSE_IMAGES,
            &COMPOSE_KILL,
            &COMPOSE_LOGS,
            &COMPOSE_LS,
            &COMPOSE_PAUSE,
            &COMPOSE_PORT,
            &COMPOSE_PS,
            &COMPOSE_PULL,
            &COMPOSE_RESTART,
            &COMPOSE_RM,
            &COMPOSE_RUN,
            &COMPOSE_SCALE,
            &COMPOSE_START,
            &COMPOSE_STATS,
            &COMPOSE_STOP,
            &COMPOSE_TOP,
            &COMPOSE_UNPAUSE,
            &UP,
            &COMPOSE_VERSION,
            &COMPOSE_VOLUMES,
            &WATCH,
        ],
        project: true,
    },
    Group {
        names: &["stack"],
        about: "Manage stacks by name",
        verbs: &[
            &COMPOSE_LS,
            &STACK_PS,
            &STACK_RM,
            &STACK_INSPECT,
            &STACK_PAUSE,
            &STACK_RESUME,
            &STACK_HISTORY,
            &STACK_ROLLBACK,
            &CONFIG,
            &UP,
            &COMPOSE_DIFF,
        ],
        project: true,
    },
    Group {
        names: &["container"],
        about: "Manage containers",
        verbs: &[
            &ATTACH,
            &COMMIT,
            &CP,
            &CREATE,
            &DIFF,
            &EXEC,
            &EXPORT,
            &CONTAINER_INSPECT,
            &KILL,
            &LOGS,
            &CONTAINER_LS,
            &PAUSE,
            &PORT,
            &CONTAINER_PRUNE,
            &RENAME,
            &RESTART,
            &RM,
            &RUN,
            &START,
            &STATS,
            &STOP,
            &TOP_VERB,
            &UNPAUSE,
            &UPDATE,
            &WAIT,
        ],
        project: false,
    },
    Group {
        names: &["image"],
        about: "Manage images",
        verbs: &[
            &BUILD,
            &HISTORY,
            &IMPORT,
            &IMAGE_INSPECT,
            &LOAD,
            &IMAGE_LS,
            &IMAGE_PRUNE,
            &PULL,
            &PUSH,
            &IMAGE_RM,
            &SAVE,
            &TAG,
        ],
        project: false,
    },
    Group {
        names: &["volume"],
        about: "Manage volumes",
        verbs: &[&VOLUME_CREATE, &VOLUME_INSPECT, &VOLUME_LS, &VOLUME_PRUNE, &VOLUME_RM],
        project: false,
    },
    Group {
        names: &["network"],
        about: "Manage networks",
        verbs: &[
            &NETWORK_CONNECT,
            &NETWORK_CREATE,
            &NETWORK_DISCONNECT,
            &NETWORK_INSPECT,
            &NETWORK_LS,
            &NETWORK_PRUNE,
            &NETWORK_RM,
        ],
        project: false,
    },
    Group {
        names: &["plugin", "driver"],
        about: "Manage drivers",
        verbs: &[
            &PLUGIN_DISABLE,
            &PLUGIN_ENABLE,
            &PLUGIN_INSPECT,
            &PLUGIN_INSTALL,
            &PLUGIN_LS,
            &PLUGIN_RM,
            &PLUGIN_UPGRADE,
        ],
        project: false,
    },
    Group {
        names: &["system"],
        about: "Manage Sampan",
        verbs: &[&SYSTEM_DF, &EVENTS, &INFO, &SYSTEM_PRUNE],
        project: false,
    },
    Group { names: &["builder", "buildx"], about: "Manage builds", verbs: &[&BUILD, &BUILDER_PRUNE], project: false },
    Group {
        names: &["manifest"],
        about: "Manage image manifests and manifest lists",
        verbs: &[&MANIFEST_ANNOTATE, &MANIFEST_CREATE, &MANIFEST_INSPECT, &MANIFEST_PUSH, &MANIFEST_RM],
        project: false,
    },
];

/// All names at the top.
pub fn names() -> impl Iterator<Item = &'static str> {
    TOP.iter().flat_map(|verb| verb.names).chain(GROUPS.iter().flat_map(|group| group.names)).copied()
}

/// What the program's help lists: titles, then names with what they do.
pub fn sections() -> Vec<(&'static str, Vec<(&'static str, &'static str)>)> {
    let mut groups: Vec<_> = GROUPS.iter().map(|group| (group.names[0], group.about)).collect();
    let mut rest: Vec<_> = TOP.iter().map(|verb| (verb.names[0], verb.about)).collect();
    rest.push(("daemon", "Run the engine"));
    groups.sort_unstable();
    rest.sort_unstable();
    vec![("Management Commands", groups), ("Commands", rest)]
}

/// The whole program as one clap command: for shell completions only, since it builds everything.
pub fn tree() -> Command {
    let verb = |verb: &'static Verb| {
        let command = Command::new(verb.names[0]).about(verb.about).visible_aliases(verb.names[1..].iter().copied());
        refine::refine((verb.declare)(command))
    };
    let group = |group: &'static Group| {
        Command::new(group.names[0]).about(group.about).subcommands(group.verbs.iter().map(|found| verb(found)))
    };
    let daemon = <crate::DaemonArgs as clap::Args>::augment_args(Command::new("daemon").about("Run the engine"));
    Command::new("sampan")
        .subcommands(TOP.iter().map(|found| verb(found)))
        .subcommands(GROUPS.iter().map(group))
        .subcommand(daemon)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clap finds mistakes in declarations only when a command is built.
    #[test]
    fn every_command_is_declared_soundly() {
        tree().debug_assert();
    }

    #[test]
    fn names_are_unique() {
        let mut all: Vec<&str> = names().collect();
        all.sort_unstable();
        let count = all.len();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
