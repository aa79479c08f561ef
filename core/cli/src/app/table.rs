//! Every command, under every name.

use clap::{Args, Command};

use super::stack_verbs::*;
use super::verbs::*;
use super::{Group, RootArgs, Verb, declared, refine};
use crate::commands::compose::ProjectArgs;

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
    &LS,
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
    &SCALE,
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
    &VOLUMES,
    &WAIT,
    &WATCH,
];

/// Groups of commands.
pub static GROUPS: &[Group] = &[
    Group {
        names: &["compose"],
        about: "Define and run stacks of containers",
        verbs: &[
            &COMPOSE_ATTACH,
            &COMPOSE_BRIDGE,
            &COMPOSE_BUILD,
            &COMPOSE_COMMIT,
            &CONFIG,
            &COMPOSE_CP,
            &COMPOSE_CREATE,
            &COMPOSE_DIFF,
            &DOWN,
            &COMPOSE_EVENTS,
            &COMPOSE_EXEC,
            &COMPOSE_EXPORT,
            &COMPOSE_IMAGES,
            &COMPOSE_KILL,
            &COMPOSE_LOGS,
            &LS,
            &COMPOSE_PAUSE,
            &COMPOSE_PORT,
            &COMPOSE_PS,
            &COMPOSE_PUBLISH,
            &COMPOSE_PULL,
            &COMPOSE_PUSH,
            &COMPOSE_RESTART,
            &COMPOSE_RM,
            &COMPOSE_RUN,
            &SCALE,
            &COMPOSE_START,
            &COMPOSE_STATS,
            &COMPOSE_STOP,
            &COMPOSE_TOP,
            &COMPOSE_UNPAUSE,
            &UP,
            &COMPOSE_VERSION,
            &VOLUMES,
            &COMPOSE_WAIT,
            &WATCH,
        ],
        project: true,
    },
    Group {
        names: &["stack"],
        about: "Manage stacks by name",
        verbs: &[
            &STACK_LS,
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
    Group {
        names: &["builder", "buildx"],
        about: "Manage builds",
        verbs: &[&BUILD, &BUILDER_USAGE, &BUILDER_PRUNE],
        project: false,
    },
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

/// What people type most, in the order in which they meet it.
const COMMON: [&str; 12] =
    ["run", "exec", "ps", "build", "pull", "push", "images", "login", "logout", "search", "version", "info"];
/// What acts on the project whose files lie here.
const STACK: [&str; 8] = ["up", "down", "ls", "config", "diff", "scale", "volumes", "watch"];

/// What the program's help lists: titles, then names with what they do.
pub fn sections() -> Vec<(&'static str, Vec<(&'static str, &'static str)>)> {
    let mut groups: Vec<_> = GROUPS.iter().map(|group| (group.names[0], group.about)).collect();
    let mut rest: Vec<_> = TOP.iter().map(|verb| (verb.names[0], verb.about)).collect();
    rest.push(("daemon", "Run the engine"));
    groups.sort_unstable();
    rest.sort_unstable();
    let mut take = |names: &[&str]| -> Vec<_> {
        let found = names.iter().filter_map(|name| rest.iter().find(|(known, _)| known == name).copied()).collect();
        rest.retain(|(known, _)| !names.contains(known));
        found
    };
    let (common, stack) = (take(&COMMON), take(&STACK));
    vec![("Common Commands", common), ("Stack Commands", stack), ("Management Commands", groups), ("Commands", rest)]
}

/// The whole program as one clap command: for shell completions only, since it builds everything.
pub fn tree() -> Command {
    let verb = |verb: &'static Verb, of_project: bool| {
        declared(verb, of_project).about(verb.about).visible_aliases(verb.names[1..].iter().copied())
    };
    let group = |group: &'static Group| {
        let command = Command::new(group.names[0]).about(group.about);
        let command = if group.project { refine::refine(ProjectArgs::augment_args(command)) } else { command };
        command
            .visible_aliases(group.names[1..].iter().copied())
            .subcommands(group.verbs.iter().map(|found| verb(found, group.project)))
    };
    let daemon = <crate::DaemonArgs as clap::Args>::augment_args(Command::new("daemon").about("Run the engine"));
    refine::refine(RootArgs::augment_args(Command::new("sampan")))
        .subcommands(TOP.iter().map(|found| verb(found, false)))
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
    fn help_lists_every_command_once() {
        let mut listed: Vec<&str> = sections().into_iter().flat_map(|(_, all)| all).map(|(name, _)| name).collect();
        listed.sort_unstable();
        let mut all: Vec<&str> = TOP.iter().map(|verb| verb.names[0]).chain(["daemon"]).collect();
        all.extend(GROUPS.iter().map(|group| group.names[0]));
        all.sort_unstable();
        assert_eq!(listed, all);
        assert!(COMMON.iter().chain(&STACK).all(|name| all.contains(name)));
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
