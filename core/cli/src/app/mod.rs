//! From arguments to a command. Only the command that was named is built, so that the others cost nothing.

mod complaint;
mod help;
mod refine;
mod stack_verbs;
mod table;
mod verbs;

use clap::{ArgMatches, Args, Command, FromArgMatches};
use std::ffi::OsString;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;

use crate::client::Client;
use crate::commands::compose::ProjectArgs;
use crate::commands::compose::remote::Remote;
use crate::context::Context;
use crate::daemon::DaemonArgs;
use crate::failure::{Failure, Outcome};
use crate::output::{say, show, tell};
use crate::paths;

pub use complaint::{nearest, wrong_count};
pub use table::tree;

/// What the program brings along.
#[derive(Debug, Clone, Copy)]
pub struct Hooks {
    /// Becomes the daemon, with the options of `sampan daemon`, which have been checked.
    pub daemon: fn(&[OsString]) -> ExitCode,
}

/// A command under way.
pub type Running = Pin<Box<dyn Future<Output = Outcome>>>;

/// A command.
#[derive(Debug)]
pub struct Verb {
    /// Its name and other names.
    pub names: &'static [&'static str],
    /// One line on what it does.
    pub about: &'static str,
    /// What follows the name.
    pub usage: &'static str,
    /// Declares its options.
    pub declare: fn(Command) -> Command,
    /// Runs it.
    pub run: fn(Context, ArgMatches) -> Running,
}

/// Declares a [`Verb`]: names, about, usage, arguments, function.
macro_rules! verb {
    ([$($name:literal),+], $about:literal, $usage:literal, $args:ty, $run:path) => {
        $crate::app::Verb {
            names: &[$($name),+],
            about: $about,
            usage: $usage,
            declare: |command| <$args as clap::Args>::augment_args(command),
            run: |context, matches| {
                Box::pin(async move {
                    let args = <$args as clap::FromArgMatches>::from_arg_matches(&matches)
                        .map_err(|error| $crate::failure::Failure::usage(error.to_string()))?;
                    $run(context, args).await
                })
            },
        }
    };
}
pub(crate) use verb;

/// Commands under one name.
#[derive(Debug)]
pub struct Group {
    /// Its name and other names.
    pub names: &'static [&'static str],
    /// One line on what it is about.
    pub about: &'static str,
    /// The commands in it.
    pub verbs: &'static [&'static Verb],
    /// Whether project options may stand before the command.
    pub project: bool,
}

/// Options that stand before the command.
#[derive(Debug, Args)]
struct RootArgs {
    /// Which project is meant.
    #[command(flatten)]
    project: ProjectArgs,
    /// Location of client config files (default "$HOME/.docker")
    #[arg(long)]
    config: Option<PathBuf>,
    /// Daemon socket to connect to
    #[arg(short = 'H', long)]
    host: Option<String>,
    /// Do not start a daemon when none answers
    #[arg(long)]
    no_autostart: bool,
    /// Print version information and quit
    #[arg(short, long)]
    version: bool,
    /// Enable debug mode
    #[arg(short = 'D', long, hide = true)]
    debug: bool,
    /// Set the logging level
    #[arg(short = 'l', long, hide = true)]
    log_level: Option<String>,
    /// Name of the context to use
    #[arg(short, long, hide = true)]
    context: Option<String>,
}

/// Runs the program's command line.
pub fn main(hooks: Hooks) -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    // Compose's own spelling of a plugin's name, and `docker` as a link to this program, change nothing.
    exit_code(dispatch(hooks, &arguments))
}

/// Runs the daemon's command line, which is that of `sampan daemon`.
pub fn daemon(run: fn(DaemonArgs) -> ExitCode) -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    exit_code(daemon_args("sampand", &arguments).map(run))
}

fn daemon_args(path: &'static str, arguments: &[OsString]) -> Outcome<DaemonArgs> {
    let command = refine::refine(DaemonArgs::augment_args(Command::new("daemon")));
    let describe = command.clone();
    parse(command, path, "[OPTIONS]", arguments, &|| {
        help::verb(path, &["daemon"], "[OPTIONS]", "Run the engine", &describe)
    })
}

fn exit_code(outcome: Outcome<ExitCode>) -> ExitCode {
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            if !failure.message.is_empty() {
                tell!("{}", without_numbers(&failure.message));
            }
            ExitCode::from(failure.code)
        }
    }
}

/// Messages of the operating system without ` (os error 2)` behind them.
fn without_numbers(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(" (os error ") {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        match after.find(')') {
            Some(end) => rest = &after[end + 1..],
            None => {
                out.push_str(after);
                return out;
            }
        }
    }
    out + rest
}

fn dispatch(hooks: Hooks, arguments: &[OsString]) -> Outcome<ExitCode> {
    let root = refine::refine(RootArgs::augment_args(Command::new("sampan")));
    let split = refine::leading(&root, arguments);
    let (before, rest) = arguments.split_at(split);
    let options: RootArgs = parse(root, "sampan", "[OPTIONS] COMMAND [ARG...]", before, &help::root)?;
    if options.version {
        say!("Sampan version {}", env!("CARGO_PKG_VERSION"))?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(context) = options.context.as_deref().filter(|context| *context != "default") {
        return Err(Failure::usage(format!(
            "contexts are not supported (got {context:?}): name the daemon's socket with --host"
        )));
    }
    let Some((name, rest)) = rest.split_first() else {
        show!("{}", help::root())?;
        return Ok(ExitCode::SUCCESS);
    };
    let name = name.to_string_lossy();
    match (&*name, rest) {
        ("daemon", rest) => {
            daemon_args("sampan daemon", rest)?;
            Ok((hooks.daemon)(rest))
        }
        ("help", rest) => {
            let mut asked: Vec<OsString> = rest.to_vec();
            asked.push("--help".into());
            find(&options, &asked)
        }
        _ => {
            let all: Vec<OsString> = std::iter::once(OsString::from(&*name)).chain(rest.iter().cloned()).collect();
            find(&options, &all)
        }
    }
}

/// Finds the command, in a group or alone, and runs it.
fn find(options: &RootArgs, arguments: &[OsString]) -> Outcome<ExitCode> {
    let Some((first, rest)) = arguments.split_first() else { return Ok(ExitCode::SUCCESS) };
    let name = first.to_string_lossy();
    if name == "--help" {
        show!("{}", help::root())?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(group) = table::GROUPS.iter().find(|group| group.names.contains(&&*name)) {
        return in_group(options, group, rest);
    }
    match table::TOP.iter().find(|verb| verb.names.contains(&&*name)) {
        Some(verb) => run(options, verb, &format!("sampan {name}"), rest, Place::Top),
        None => Err(complaint::unknown_command("sampan", &name, table::names())),
    }
}

fn in_group(options: &RootArgs, group: &'static Group, arguments: &[OsString]) -> Outcome<ExitCode> {
    let path = format!("sampan {}", group.names[0]);
    let mut project = ProjectArgs::default();
    let mut rest = arguments;
    if group.project {
        let command = refine::refine(ProjectArgs::augment_args(Command::new("compose")));
        let split = refine::leading(&command, arguments);
        let (before, after) = arguments.split_at(split);
        let own = parse(command, &path, "[OPTIONS] COMMAND", before, &|| help::group(group))?;
        project = options.project.clone().joined(own);
        rest = after;
    }
    let Some((name, rest)) = rest.split_first() else {
        show!("{}", help::group(group))?;
        return Ok(ExitCode::SUCCESS);
    };
    let name = name.to_string_lossy();
    if matches!(&*name, "--help" | "-h" | "help") {
        show!("{}", help::group(group))?;
        return Ok(ExitCode::SUCCESS);
    }
    match group.verbs.iter().find(|verb| verb.names.contains(&&*name)) {
        Some(verb) => {
            let place = if group.project { Place::Project(Box::new(project)) } else { Place::Group };
            run(options, verb, &format!("{path} {name}"), rest, place)
        }
        None if name.starts_with('-') => Err(complaint::usage(format!("unknown flag: {name}"), &path)),
        None => Err(complaint::unknown_command(&path, &name, group.verbs.iter().map(|verb| verb.names[0]))),
    }
    .map_err(|failure| if group.project { failure.of_compose() } else { failure })
}

/// Where a command stands.
#[derive(Debug)]
enum Place {
    /// `sampan VERB`: names are those of containers, or of services of the project here.
    Top,
    /// `sampan container VERB`: names are what the group says.
    Group,
    /// `sampan compose OPTIONS VERB`.
    Project(Box<ProjectArgs>),
}

/// The option that all commands on projects take behind their name as well.
const DRY_RUN: &str = "dry_run";

/// A command of a group; those on projects share an option.
fn declared(verb: &Verb, of_project: bool) -> Command {
    let mut command = (verb.declare)(Command::new(verb.names[0]));
    if of_project && command.get_arguments().all(|arg| arg.get_id() != DRY_RUN) {
        command = command.arg(
            clap::Arg::new(DRY_RUN)
                .long("dry-run")
                .action(clap::ArgAction::SetTrue)
                .help("Show what would be done, and do nothing"),
        );
    }
    refine::refine(command)
}

fn run(options: &RootArgs, verb: &'static Verb, path: &str, arguments: &[OsString], place: Place) -> Outcome<ExitCode> {
    let command = declared(verb, matches!(place, Place::Project(_)));
    if options.project.dry_run && command.get_arguments().all(|arg| arg.get_id() != DRY_RUN) {
        let why = "it is of stacks (`sampan compose VERB --dry-run`)";
        return Err(Failure::usage(format!("--dry-run is not for `{path}`: {why}")));
    }
    let describe = command.clone();
    let text = || help::verb(path, verb.names, verb.usage, verb.about, &describe);
    let matches = matches(command, path, verb.usage, arguments, &text)?;
    let services = matches!(place, Place::Top);
    let mut project = match place {
        Place::Project(project) => *project,
        Place::Top | Place::Group => options.project.clone(),
    };
    project.dry_run |= matches.try_get_one::<bool>(DRY_RUN).ok().flatten().copied().unwrap_or(false);
    let client = Client::new(&paths::host(options.host.as_deref()), !options.no_autostart)?;
    let config = options.config.clone().unwrap_or_else(paths::client_config);
    project.remote = Some(Arc::new(Remote::new(client.clone(), config.clone())));
    let context = Context { client, config, project, services };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("start the runtime: {error}")))?;
    let outcome = runtime.block_on((verb.run)(context, matches));
    // A thread may wait for input for ever; what counts is done.
    runtime.shutdown_background();
    outcome.map(|()| ExitCode::SUCCESS).map_err(|failure| failure.located(path, verb.usage))
}

/// Parses arguments; `--help` prints the text and ends.
fn matches(
    command: Command,
    path: &str,
    usage: &str,
    arguments: &[OsString],
    text: &dyn Fn() -> String,
) -> Outcome<ArgMatches> {
    let describe = command.clone();
    command.no_binary_name(true).try_get_matches_from(arguments).map_err(|error| {
        if error.kind() == clap::error::ErrorKind::DisplayHelp {
            return show!("{}", text()).err().unwrap_or_else(|| Failure::exit(0));
        }
        complaint::of_clap(&error, &describe, path, usage, arguments)
    })
}

fn parse<T: FromArgMatches>(
    command: Command,
    path: &str,
    usage: &str,
    arguments: &[OsString],
    text: &dyn Fn() -> String,
) -> Outcome<T> {
    let matches = matches(command, path, usage, arguments, text)?;
    T::from_arg_matches(&matches).map_err(|error| Failure::usage(error.to_string()))
}

/// Parses words as a command's arguments.
#[cfg(test)]
pub fn parse_for_test<T: Args>(words: &[&str]) -> Outcome<T> {
    let command = refine::refine(T::augment_args(Command::new("test")));
    let words: Vec<OsString> = words.iter().map(OsString::from).collect();
    parse(command, "sampan test", "", &words, &String::new)
}
