//! Commands of containers, images, networks, volumes, drivers and the engine.

use super::{Verb, verb};
use crate::commands::container::{
    attach, change, commit, copy, create, exec, list, logs, prune, run, show, stats, update,
};
use crate::commands::image::{build, list as images, login, manifest, pull, transfer};
use crate::commands::{builder, completion, doctor, events, inspect, network, plugin, system, version, volume};

pub(super) static RUN: Verb = verb!(
    ["run"],
    "Create and run a new container from an image",
    "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    run::RunArgs,
    run::run
);
pub(super) static CREATE: Verb =
    verb!(["create"], "Create a new container", "[OPTIONS] IMAGE [COMMAND] [ARG...]", create::CreateArgs, create::run);
pub(super) static START: Verb = verb!(
    ["start"],
    "Start one or more stopped containers",
    "[OPTIONS] [CONTAINER|SERVICE...]",
    attach::StartArgs,
    attach::start
);
pub(super) static STOP: Verb = verb!(
    ["stop"],
    "Stop one or more running containers",
    "[OPTIONS] [CONTAINER|SERVICE...]",
    change::StopArgs,
    change::stop
);
pub(super) static RESTART: Verb = verb!(
    ["restart"],
    "Restart one or more containers",
    "[OPTIONS] [CONTAINER|SERVICE...]",
    change::StopArgs,
    change::restart
);
pub(super) static KILL: Verb = verb!(
    ["kill"],
    "Kill one or more running containers",
    "[OPTIONS] [CONTAINER|SERVICE...]",
    change::KillArgs,
    change::kill
);
pub(super) static PAUSE: Verb = verb!(
    ["pause"],
    "Pause all processes within one or more containers",
    "[CONTAINER|SERVICE...]",
    change::NamesArgs,
    change::pause
);
pub(super) static UNPAUSE: Verb = verb!(
    ["unpause"],
    "Unpause all processes within one or more containers",
    "[CONTAINER|SERVICE...]",
    change::NamesArgs,
    change::unpause
);
pub(super) static WAIT: Verb = verb!(
    ["wait"],
    "Block until one or more containers stop, then print their exit codes",
    "[CONTAINER|SERVICE...]",
    change::NamesArgs,
    change::wait
);
pub(super) static RM: Verb = verb!(
    ["rm", "remove"],
    "Remove one or more containers",
    "[OPTIONS] [CONTAINER|SERVICE...]",
    change::RemoveArgs,
    change::remove
);
pub(super) static RENAME: Verb =
    verb!(["rename"], "Rename a container", "CONTAINER NEW_NAME", change::RenameArgs, change::rename);
pub(super) static PS: Verb = verb!(["ps"], "List containers", "[OPTIONS]", list::ListArgs, list::run);
pub(super) static CONTAINER_LS: Verb =
    verb!(["ls", "ps", "list"], "List containers", "[OPTIONS]", list::ListArgs, list::run);
pub(super) static LOGS: Verb = verb!(
    ["logs"],
    "Fetch the logs of a container, or of services of the project here",
    "[OPTIONS] [CONTAINER | SERVICE...]",
    logs::LogsArgs,
    logs::run
);
pub(super) static EXEC: Verb = verb!(
    ["exec"],
    "Execute a command in a running container",
    "[OPTIONS] CONTAINER|SERVICE COMMAND [ARG...]",
    exec::ExecArgs,
    exec::run
);
pub(super) static ATTACH: Verb = verb!(
    ["attach"],
    "Attach local standard input, output, and error streams to a running container",
    "[OPTIONS] CONTAINER|SERVICE",
    attach::AttachArgs,
    attach::attach
);
pub(super) static CONTAINER_INSPECT: Verb = verb!(
    ["inspect"],
    "Display detailed information on one or more containers",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    show::InspectArgs,
    show::inspect
);
pub(super) static TOP_VERB: Verb = verb!(
    ["top"],
    "Display the running processes of a container",
    "[CONTAINER|SERVICE] [ps OPTIONS]",
    show::TopArgs,
    show::top
);
pub(super) static PORT: Verb = verb!(
    ["port"],
    "List port mappings or a specific mapping for the container",
    "[CONTAINER|SERVICE] [PRIVATE_PORT[/PROTO]]",
    show::PortArgs,
    show::port
);
pub(super) static DIFF: Verb = verb!(
    ["diff"],
    "Inspect changes of a container's files, or what up would change of the project here",
    "[OPTIONS] [CONTAINER|SERVICE]",
    show::DiffArgs,
    show::diff
);
pub(super) static UPDATE: Verb = verb!(
    ["update"],
    "Update configuration of one or more containers",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    update::UpdateArgs,
    update::run
);
pub(super) static CP: Verb = verb!(
    ["cp"],
    "Copy files/folders between a container and the local filesystem",
    "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|- | SRC_PATH|- CONTAINER:DEST_PATH",
    copy::CopyArgs,
    copy::run
);
pub(super) static EXPORT: Verb = verb!(
    ["export"],
    "Export a container's filesystem as a tar archive",
    "[OPTIONS] CONTAINER|SERVICE",
    copy::ExportArgs,
    copy::export
);
pub(super) static STATS: Verb = verb!(
    ["stats"],
    "Display a live stream of container(s) resource usage statistics",
    "[OPTIONS] [CONTAINER|SERVICE...]",
    stats::StatsArgs,
    stats::run
);
pub(super) static COMMIT: Verb = verb!(
    ["commit"],
    "Create a new image from a container's changes",
    "[OPTIONS] CONTAINER|SERVICE [REPOSITORY[:TAG]]",
    commit::CommitArgs,
    commit::run
);
pub(super) static CONTAINER_PRUNE: Verb =
    verb!(["prune"], "Remove all stopped containers", "[OPTIONS]", prune::PruneArgs, prune::run);

pub(super) static BUILD: Verb =
    verb!(["build"], "Build an image from a Dockerfile", "[OPTIONS] [PATH | -]", build::BuildArgs, build::run);
pub(super) static IMAGES: Verb =
    verb!(["images"], "List images", "[OPTIONS] [REPOSITORY[:TAG]]", images::ListArgs, images::list);
pub(super) static IMAGE_LS: Verb =
    verb!(["ls", "list"], "List images", "[OPTIONS] [REPOSITORY[:TAG]]", images::ListArgs, images::list);
pub(super) static HISTORY: Verb =
    verb!(["history"], "Show the history of an image", "[OPTIONS] IMAGE", images::HistoryArgs, images::history);
pub(super) static RMI: Verb =
    verb!(["rmi"], "Remove one or more images", "[OPTIONS] IMAGE [IMAGE...]", images::RemoveArgs, images::remove);
pub(super) static IMAGE_RM: Verb = verb!(
    ["rm", "remove"],
    "Remove one or more images",
    "[OPTIONS] IMAGE [IMAGE...]",
    images::RemoveArgs,
    images::remove
);
pub(super) static TAG: Verb = verb!(
    ["tag"],
    "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
    "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    images::TagArgs,
    images::tag
);
pub(super) static IMAGE_INSPECT: Verb = verb!(
    ["inspect"],
    "Display detailed information on one or more images",
    "[OPTIONS] IMAGE [IMAGE...]",
    images::InspectArgs,
    images::inspect
);
pub(super) static IMAGE_PRUNE: Verb =
    verb!(["prune"], "Remove unused images", "[OPTIONS]", images::PruneArgs, images::prune);
pub(super) static SAVE: Verb = verb!(
    ["save"],
    "Save one or more images to a tar archive (streamed to STDOUT by default)",
    "[OPTIONS] IMAGE [IMAGE...]",
    transfer::SaveArgs,
    transfer::save
);
pub(super) static LOAD: Verb =
    verb!(["load"], "Load an image from a tar archive or STDIN", "[OPTIONS]", transfer::LoadArgs, transfer::load);
pub(super) static IMPORT: Verb = verb!(
    ["import"],
    "Import the contents from a tarball to create a filesystem image",
    "[OPTIONS] file|- [REPOSITORY[:TAG]]",
    transfer::ImportArgs,
    transfer::import
);
pub(super) static PULL: Verb =
    verb!(["pull"], "Download an image from a registry", "[OPTIONS] [NAME[:TAG|@DIGEST]]", pull::PullArgs, pull::pull);
pub(super) static PUSH: Verb =
    verb!(["push"], "Upload an image to a registry", "[OPTIONS] [NAME[:TAG]]", pull::PushArgs, pull::push);
pub(super) static SEARCH: Verb =
    verb!(["search"], "Search a registry for images", "[OPTIONS] TERM", pull::SearchArgs, pull::search);
pub(super) static LOGIN: Verb =
    verb!(["login"], "Authenticate to a registry", "[OPTIONS] [SERVER]", login::LoginArgs, login::login);
pub(super) static LOGOUT: Verb =
    verb!(["logout"], "Log out from a registry", "[SERVER]", login::LogoutArgs, login::logout);
pub(super) static MANIFEST_INSPECT: Verb = verb!(
    ["inspect"],
    "Display an image manifest, or manifest list",
    "[OPTIONS] [MANIFEST_LIST] MANIFEST",
    manifest::InspectArgs,
    manifest::inspect
);
pub(super) static MANIFEST_CREATE: Verb = verb!(
    ["create"],
    "Create a local manifest list for annotating and pushing to a registry",
    "MANIFEST_LIST MANIFEST [MANIFEST...]",
    manifest::CreateArgs,
    manifest::create
);
pub(super) static MANIFEST_ANNOTATE: Verb = verb!(
    ["annotate"],
    "Add additional information to a local image manifest",
    "[OPTIONS] MANIFEST_LIST MANIFEST",
    manifest::AnnotateArgs,
    manifest::annotate
);
pub(super) static MANIFEST_PUSH: Verb = verb!(
    ["push"],
    "Push a manifest list to a repository",
    "[OPTIONS] MANIFEST_LIST",
    manifest::PushArgs,
    manifest::push
);
pub(super) static MANIFEST_RM: Verb = verb!(
    ["rm"],
    "Delete one or more manifest lists from local storage",
    "MANIFEST_LIST [MANIFEST_LIST...]",
    manifest::RemoveArgs,
    manifest::remove
);

pub(super) static VOLUME_CREATE: Verb =
    verb!(["create"], "Create a volume", "[OPTIONS] [VOLUME]", volume::CreateArgs, volume::create);
pub(super) static VOLUME_INSPECT: Verb = verb!(
    ["inspect"],
    "Display detailed information on one or more volumes",
    "[OPTIONS] VOLUME [VOLUME...]",
    volume::InspectArgs,
    volume::inspect
);
pub(super) static VOLUME_LS: Verb = verb!(["ls", "list"], "List volumes", "[OPTIONS]", volume::ListArgs, volume::list);
pub(super) static VOLUME_PRUNE: Verb =
    verb!(["prune"], "Remove unused local volumes", "[OPTIONS]", volume::PruneArgs, volume::prune);
pub(super) static VOLUME_RM: Verb = verb!(
    ["rm", "remove"],
    "Remove one or more volumes",
    "[OPTIONS] VOLUME [VOLUME...]",
    volume::RemoveArgs,
    volume::remove
);

pub(super) static NETWORK_CONNECT: Verb = verb!(
    ["connect"],
    "Connect a container to a network",
    "[OPTIONS] NETWORK CONTAINER",
    network::ConnectArgs,
    network::connect
);
pub(super) static NETWORK_CREATE: Verb =
    verb!(["create"], "Create a network", "[OPTIONS] NETWORK", network::CreateArgs, network::create);
pub(super) static NETWORK_DISCONNECT: Verb = verb!(
    ["disconnect"],
    "Disconnect a container from a network",
    "[OPTIONS] NETWORK CONTAINER",
    network::DisconnectArgs,
    network::disconnect
);
pub(super) static NETWORK_INSPECT: Verb = verb!(
    ["inspect"],
    "Display detailed information on one or more networks",
    "[OPTIONS] NETWORK [NETWORK...]",
    network::InspectArgs,
    network::inspect
);
pub(super) static NETWORK_LS: Verb =
    verb!(["ls", "list"], "List networks", "[OPTIONS]", network::ListArgs, network::list);
pub(super) static NETWORK_PRUNE: Verb =
    verb!(["prune"], "Remove all unused networks", "[OPTIONS]", prune::PruneArgs, network::prune);
pub(super) static NETWORK_RM: Verb = verb!(
    ["rm", "remove"],
    "Remove one or more networks",
    "NETWORK [NETWORK...]",
    network::RemoveArgs,
    network::remove
);

pub(super) static PLUGIN_LS: Verb = verb!(["ls", "list"], "List drivers", "[OPTIONS]", plugin::ListArgs, plugin::list);
pub(super) static PLUGIN_INSPECT: Verb = verb!(
    ["inspect"],
    "Display detailed information on one or more drivers",
    "[OPTIONS] PLUGIN [PLUGIN...]",
    plugin::InspectArgs,
    plugin::inspect
);
pub(super) static PLUGIN_INSTALL: Verb =
    verb!(["install"], "Install a driver from a file", "[OPTIONS] FILE", plugin::InstallArgs, plugin::install);
pub(super) static PLUGIN_UPGRADE: Verb =
    verb!(["upgrade"], "Replace a driver's component", "[OPTIONS] PLUGIN FILE", plugin::UpgradeArgs, plugin::upgrade);
pub(super) static PLUGIN_ENABLE: Verb =
    verb!(["enable"], "Enable a driver", "PLUGIN [PLUGIN...]", plugin::NamesArgs, plugin::enable);
pub(super) static PLUGIN_DISABLE: Verb =
    verb!(["disable"], "Disable a driver", "PLUGIN [PLUGIN...]", plugin::NamesArgs, plugin::disable);
pub(super) static PLUGIN_RM: Verb = verb!(
    ["rm", "remove"],
    "Remove one or more drivers",
    "[OPTIONS] PLUGIN [PLUGIN...]",
    plugin::NamesArgs,
    plugin::remove
);

pub(super) static VERSION: Verb =
    verb!(["version"], "Show the Sampan version information", "[OPTIONS]", version::VersionArgs, version::run);
pub(super) static INFO: Verb =
    verb!(["info"], "Display system-wide information", "[OPTIONS]", system::InfoArgs, system::info);
pub(super) static EVENTS: Verb =
    verb!(["events"], "Get real time events from the server", "[OPTIONS]", events::EventsArgs, events::run);
pub(super) static INSPECT: Verb = verb!(
    ["inspect"],
    "Return low-level information on objects",
    "[OPTIONS] [NAME|ID|SERVICE...]",
    inspect::InspectArgs,
    inspect::run
);
pub(super) static SYSTEM_DF: Verb = verb!(["df"], "Show disk usage", "[OPTIONS]", system::UsageArgs, system::usage);
pub(super) static SYSTEM_PRUNE: Verb =
    verb!(["prune"], "Remove unused data", "[OPTIONS]", system::PruneArgs, system::prune);
pub(super) static BUILDER_USAGE: Verb =
    verb!(["du"], "Disk usage of the build cache", "[OPTIONS]", builder::UsageArgs, builder::usage);
pub(super) static BUILDER_PRUNE: Verb =
    verb!(["prune"], "Remove build cache", "[OPTIONS]", system::BuilderPruneArgs, system::builder_prune);
pub(super) static COMPLETION: Verb = verb!(
    ["completion"],
    "Generate the autocompletion script for the specified shell",
    "SHELL",
    completion::CompletionArgs,
    completion::run
);
pub(super) static DOCTOR: Verb =
    verb!(["doctor"], "Check the host and the daemon", "", doctor::DoctorArgs, doctor::run);
