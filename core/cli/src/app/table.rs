//! Every command, under every name.

use clap::Command;

use super::{Group, Verb, refine, verb};
use crate::commands::{compose, version};

static VERSION: Verb =
    verb!(["version"], "Show the Sampan version information", "[OPTIONS]", version::Args, version::run);

/// Commands that stand alone.
pub static TOP: &[&Verb] = &[&VERSION];

/// Groups of commands.
pub static GROUPS: &[Group] =
    &[Group { names: &["compose"], about: "Define and run stacks of containers", verbs: &[], project: true }];

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
