//! Makes clap read options as `docker` does: `--flag=false`, `-itd`, values that begin with a hyphen, the last one wins.

use clap::{Arg, ArgAction, Command, builder::ValueParser};
use std::ffi::OsString;

/// Applies the rules to every option of a command.
pub fn refine(command: Command) -> Command {
    command
        .disable_help_flag(true)
        .disable_version_flag(true)
        .disable_help_subcommand(true)
        .args_override_self(true)
        .mut_args(one)
        .arg(Arg::new("help").long("help").action(ArgAction::Help).help("Print usage"))
}

fn one(arg: Arg) -> Arg {
    if arg.is_positional() {
        return arg;
    }
    match arg.get_action() {
        ArgAction::SetTrue => {
            let plain = arg.get_default_values().is_empty();
            let arg = arg
                .action(ArgAction::Set)
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .value_parser(ValueParser::from(truth));
            if plain { arg.default_value("false") } else { arg }
        }
        ArgAction::Append => named(arg, "list").allow_hyphen_values(true),
        ArgAction::Set if arg.is_require_equals_set() => arg,
        ArgAction::Set => named(arg, "string").allow_hyphen_values(true),
        _ => arg,
    }
}

/// The kind of value, as `docker` names it, where the declaration names none.
fn named(arg: Arg, kind: &'static str) -> Arg {
    let own = arg.get_id().as_str().to_uppercase();
    let plain = arg.get_value_names().is_none_or(|names| names.iter().all(|name| name.as_str() == own));
    if plain { arg.value_name(kind) } else { arg }
}

/// Go's `strconv.ParseBool`.
fn truth(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {text:?}: invalid syntax")),
    }
}

/// How many of the arguments are options of the command (with their values) before the first word.
pub fn leading(command: &Command, arguments: &[OsString]) -> usize {
    let takes_value =
        |arg: &Arg| matches!(arg.get_action(), ArgAction::Set | ArgAction::Append) && !arg.is_require_equals_set();
    let mut at = 0;
    while let Some(argument) = arguments.get(at) {
        let text = argument.to_string_lossy();
        if let Some(long) = text.strip_prefix("--") {
            let known = command.get_arguments().find(|arg| {
                arg.get_long() == Some(long) || arg.get_all_aliases().is_some_and(|aliases| aliases.contains(&long))
            });
            at += if known.is_some_and(takes_value) { 2 } else { 1 };
        } else if text.len() > 1 && text.starts_with('-') {
            // The last of joined letters may have its value in the next argument: `-DH unix:///x`.
            let mut letters = text[1..].chars();
            let mut separate = false;
            while let Some(letter) = letters.next() {
                let known = command.get_arguments().find(|arg| arg.get_short() == Some(letter));
                if known.is_some_and(takes_value) {
                    separate = letters.as_str().is_empty();
                    break;
                }
            }
            at += if separate { 2 } else { 1 };
        } else {
            break;
        }
    }
    at.min(arguments.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::{Args, FromArgMatches};

    #[derive(Debug, Args)]
    struct Sample {
        #[arg(short, long)]
        interactive: bool,
        #[arg(short, long)]
        tty: bool,
        #[arg(long, default_value = "true")]
        proxy: bool,
        #[arg(long)]
        score: Option<String>,
        #[arg(short, long)]
        env: Vec<String>,
        image: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    }

    fn parsed(words: &[&str]) -> Result<Sample, clap::Error> {
        let command = refine(Sample::augment_args(Command::new("x")).no_binary_name(true));
        Sample::from_arg_matches(&command.try_get_matches_from(words)?)
    }

    #[test]
    fn options_read_as_dockers() {
        let sample = parsed(&[
            "-it",
            "--proxy=false",
            "--score",
            "-5",
            "--score=-7",
            "-eA=1",
            "-e",
            "-B",
            "img",
            "-x",
            "--y",
            "-it",
        ])
        .unwrap();
        assert!(sample.interactive && sample.tty && !sample.proxy);
        assert_eq!(sample.score.unwrap(), "-7");
        assert_eq!(sample.env, ["A=1", "-B"]);
        assert_eq!(sample.image, "img");
        assert_eq!(sample.command, ["-x", "--y", "-it"]);
        let sample = parsed(&["-i=false", "--", "img", "--", "a"]).unwrap();
        assert!(!sample.interactive && sample.proxy);
        assert_eq!(sample.command, ["--", "a"]);
        assert!(parsed(&["--frob", "img"]).is_err());
        assert!(parsed(&["-i=what", "img"]).is_err());
    }

    #[test]
    fn options_before_the_command_are_told_from_it() {
        let command = refine(Sample::augment_args(Command::new("x")));
        let count = |words: &[&str]| leading(&command, &words.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(count(&["--score", "5", "-i", "up", "-i"]), 3);
        assert_eq!(count(&["--score=5", "-ite", "A", "up"]), 3);
        assert_eq!(count(&["up"]), 0);
        assert_eq!(count(&["--score"]), 1);
    }
}
