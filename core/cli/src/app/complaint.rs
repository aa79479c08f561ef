//! What is said when a command was typed wrong, in `docker`'s words.

use clap::Command;
use clap::error::{ContextKind, ContextValue, Error, ErrorKind};
use std::ffi::OsString;

use crate::failure::Failure;

/// A usage error: the message and where to read more; exit status 125.
pub fn usage(message: impl std::fmt::Display, path: &str) -> Failure {
    Failure::usage(format!("{message}\nSee '{path} --help'."))
}

/// There is no such command; the nearest one is suggested.
pub fn unknown_command<'a>(path: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Failure {
    let hint = nearest(name, known).map_or(String::new(), |other| format!(" (did you mean '{other}'?)"));
    Failure::new(format!("sampan: unknown command: {path} {name}{hint}\nSee '{path} --help'."))
}

/// A clap error in `docker`'s words and exit statuses: 125 for options, 1 for the number of arguments.
pub fn of_clap(error: &Error, command: &Command, path: &str, usage_line: &str, arguments: &[OsString]) -> Failure {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(" "),
        _ => String::new(),
    };
    let invalid = text(ContextKind::InvalidArg);
    match error.kind() {
        ErrorKind::UnknownArgument if !invalid.starts_with('-') => count(command, path, usage_line),
        ErrorKind::UnknownArgument => {
            if let Some(letter) = invalid.strip_prefix('-').filter(|rest| !rest.starts_with('-')) {
                let whole = arguments
                    .iter()
                    .map(|word| word.to_string_lossy())
                    .find(|word| word.starts_with('-') && !word.starts_with("--") && word.contains(letter));
                let whole = whole.map_or_else(|| invalid.clone(), |word| word.into_owned());
                return usage(format!("unknown shorthand flag: '{letter}' in {whole}"), path);
            }
            usage(format!("unknown flag: {}", invalid.split('=').next().unwrap_or_default()), path)
        }
        ErrorKind::MissingRequiredArgument | ErrorKind::TooFewValues => count(command, path, usage_line),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation | ErrorKind::NoEquals | ErrorKind::WrongNumberOfValues => {
            let value = text(ContextKind::InvalidValue);
            let name = option(command, &invalid);
            if value.is_empty() && error.kind() == ErrorKind::InvalidValue {
                return usage(format!("flag needs an argument: {}", name.rsplit(' ').next().unwrap_or_default()), path);
            }
            let why = std::error::Error::source(error).map_or_else(|| "invalid value".to_owned(), ToString::to_string);
            usage(format!("invalid argument {value:?} for {name:?} flag: {why}"), path)
        }
        ErrorKind::ArgumentConflict => {
            let other = text(ContextKind::PriorArg);
            usage(format!("conflicting options: cannot specify both {invalid} and {other}"), path)
        }
        ErrorKind::InvalidUtf8 => usage("arguments must be UTF-8", path),
        _ => usage(error.to_string().trim_start_matches("error: ").trim_end(), path),
    }
}

/// `-m, --memory` from clap's `--memory <bytes>`.
fn option(command: &Command, shown: &str) -> String {
    let long = shown.split([' ', '=', '[']).next().unwrap_or_default();
    let arg =
        command.get_arguments().find(|arg| arg.get_long().is_some_and(|name| long.strip_prefix("--") == Some(name)));
    match arg.and_then(clap::Arg::get_short) {
        Some(short) => format!("-{short}, {long}"),
        None => long.to_owned(),
    }
}

/// The number of arguments is wrong.
fn count(command: &Command, path: &str, usage_line: &str) -> Failure {
    let (mut least, mut most) = (0, Some(0));
    for arg in command.get_positionals() {
        least += usize::from(arg.is_required_set());
        let many = matches!(arg.get_action(), clap::ArgAction::Append)
            || arg.get_num_args().is_some_and(|range| range.max_values() > 1);
        most = if many { None } else { most.map(|most| most + 1) };
    }
    let plural = |count: usize| if count == 1 { "argument" } else { "arguments" };
    let wanted = match (least, most) {
        (0, Some(0)) => "accepts no arguments".to_owned(),
        (least, Some(most)) if least == most => format!("requires {least} {}", plural(least)),
        (0, Some(most)) => format!("accepts at most {most} {}", plural(most)),
        (least, Some(most)) => format!("requires at least {least} and at most {most} {}", plural(most)),
        (least, None) => format!("requires at least {least} {}", plural(least)),
    };
    Failure::new(wrong_count(path, usage_line, &wanted))
}

/// What is said when there are too few or too many arguments.
pub fn wrong_count(path: &str, usage_line: &str, wanted: &str) -> String {
    format!("sampan: '{path}' {wanted}\n\nUsage:  {path} {usage_line}\n\nSee '{path} --help'.")
}

/// The known name that was probably meant.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = known.map(|other| (distance(name, other), other));
    near.filter(|(far, other)| *far <= 2 && *far < other.len()).min().map(|(_, other)| other)
}

/// Edit distance, for suggestions; two neighbours that changed places count once.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let changed = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = changed.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::app::refine::refine;
    use clap::Args;

    #[derive(Debug, Args)]
    #[allow(dead_code)]
    struct Sample {
        #[arg(short, long)]
        detach: bool,
        #[arg(short, long, value_parser = |text: &str| text.parse::<u64>().map_err(|_| format!("invalid size: '{text}'")))]
        memory: Option<u64>,
        #[arg(long)]
        name: Option<String>,
        image: String,
        extra: Option<String>,
    }

    fn said(words: &[&str]) -> (String, u8) {
        let command = refine(Sample::augment_args(Command::new("run"))).no_binary_name(true);
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let error = command.clone().try_get_matches_from(&words).unwrap_err();
        let failure = of_clap(&error, &command, "sampan run", "[OPTIONS] IMAGE [EXTRA]", &words);
        (failure.message.lines().next().unwrap().to_owned(), failure.code)
    }

    #[test]
    fn mistakes_are_worded_as_dockers() {
        for (words, message, code) in [
            (&["--frob", "x"][..], "unknown flag: --frob", 125),
            (&["--frob=1", "x"], "unknown flag: --frob", 125),
            (&["-dz", "x"], "unknown shorthand flag: 'z' in -dz", 125),
            (&["-m", "foo", "x"], "invalid argument \"foo\" for \"-m, --memory\" flag: invalid size: 'foo'", 125),
            (
                &["-d=foo", "x"],
                "invalid argument \"foo\" for \"-d, --detach\" flag: strconv.ParseBool: parsing \"foo\": invalid syntax",
                125,
            ),
            (&["--name"], "flag needs an argument: --name", 125),
            (&[], "sampan: 'sampan run' requires at least 1 and at most 2 arguments", 1),
            (&["a", "b", "c"], "sampan: 'sampan run' requires at least 1 and at most 2 arguments", 1),
        ] {
            assert_eq!(said(words), (message.to_owned(), code), "{words:?}");
        }
    }

    #[test]
    fn near_names_are_suggested() {
        let failure = unknown_command("sampan", "rnu", ["run", "rm"].into_iter());
        assert!(
            failure.message.starts_with("sampan: unknown command: sampan rnu (did you mean 'run'?)"),
            "{}",
            failure.message
        );
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
