//! Help texts, laid out as `docker`'s.

use clap::{Arg, ArgAction, Command};
use std::fmt::Write as _;

use super::{Group, table};

/// Columns of a line when there is no terminal.
const WIDTH: usize = 80;

fn width() -> usize {
    crate::output::terminal::size().map_or(WIDTH, |(_, columns)| usize::from(columns).max(40))
}

/// The help of one command.
pub fn verb(path: &str, names: &[&str], usage: &str, about: &str, command: &Command) -> String {
    let mut out = format!("Usage:  {path} {usage}\n\n{about}\n");
    if names.len() > 1 {
        let stem = path.rsplit_once(' ').map_or("sampan", |(stem, _)| stem);
        let all: Vec<String> = names.iter().map(|name| format!("{stem} {name}")).collect();
        let _ = write!(out, "\nAliases:\n  {}\n", all.join(", "));
    }
    options(&mut out, command);
    out
}

/// The options of a command.
fn options(out: &mut String, command: &Command) {
    let mut args: Vec<&Arg> = command
        .get_arguments()
        .filter(|arg| !arg.is_positional() && !arg.is_hide_set() && arg.get_id() != "help")
        .collect();
    if args.is_empty() {
        return;
    }
    args.sort_by_key(|arg| arg.get_long().unwrap_or_default());
    let lines: Vec<(String, String)> = args.iter().map(|arg| (heading(arg), explanation(arg))).collect();
    out.push_str("\nOptions:\n");
    columns(out, &lines, width());
}

fn heading(arg: &Arg) -> String {
    let short = arg.get_short().map_or("    ".to_owned(), |short| format!("-{short}, "));
    let long = arg.get_long().unwrap_or_default();
    let is_flag = arg.is_require_equals_set() || !matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    let kind = match arg.get_value_names() {
        Some([name, ..]) if !is_flag => format!(" {name}"),
        _ => String::new(),
    };
    format!("  {short}--{long}{kind}")
}

fn explanation(arg: &Arg) -> String {
    let mut text = arg.get_help().map(ToString::to_string).unwrap_or_default();
    if let [default] = arg.get_default_values()
        && default != "false"
        && !text.contains("(default")
    {
        let _ = write!(text, " (default {})", default.to_string_lossy());
    }
    text
}

/// Two columns, the second wrapped at the terminal's edge.
fn columns(out: &mut String, lines: &[(String, String)], width: usize) {
    let left = lines.iter().map(|(left, _)| left.len()).max().unwrap_or(0) + 3;
    let room = width.saturating_sub(left).max(20);
    for (heading, text) in lines {
        let mut line = format!("{heading:left$}");
        let mut used = 0;
        for word in text.split_whitespace() {
            if used > 0 && used + 1 + word.len() > room {
                out.push_str(line.trim_end());
                out.push('\n');
                line = " ".repeat(left);
                used = 0;
            }
            if used > 0 {
                line.push(' ');
                used += 1;
            }
            line.push_str(word);
            used += word.len();
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
}

/// The help of a group of commands.
pub fn group(group: &Group) -> String {
    let path = format!("sampan {}", group.names[0]);
    let options_hint = if group.project { " [OPTIONS]" } else { "" };
    let mut out = format!("Usage:  {path}{options_hint} COMMAND\n\n{}\n", group.about);
    if group.project {
        let command = <crate::commands::compose::ProjectArgs as clap::Args>::augment_args(Command::new("compose"));
        options(&mut out, &super::refine::refine(command));
    }
    out.push_str("\nCommands:\n");
    let mut lines: Vec<(String, String)> =
        group.verbs.iter().map(|verb| (format!("  {}", verb.names[0]), verb.about.to_owned())).collect();
    lines.sort();
    columns(&mut out, &lines, usize::MAX);
    let _ = write!(out, "\nRun '{path} COMMAND --help' for more information on a command.\n");
    out
}

/// The help of the program.
pub fn root() -> String {
    let mut out =
        "Usage:  sampan [OPTIONS] COMMAND\n\nContainers, images and stacks, with docker's commands\n".to_owned();
    for (title, verbs) in table::sections() {
        let _ = write!(out, "\n{title}:\n");
        let lines: Vec<(String, String)> =
            verbs.iter().map(|(name, about)| (format!("  {name}"), (*about).to_owned())).collect();
        columns(&mut out, &lines, usize::MAX);
    }
    let command = <super::RootArgs as clap::Args>::augment_args(Command::new("sampan"));
    let command = super::refine::refine(command);
    let mut global = String::new();
    options(&mut global, &command);
    out.push_str(&global.replacen("\nOptions:", "\nGlobal Options:", 1));
    out.push_str("\nRun 'sampan COMMAND --help' for more information on a command.\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_wrap_at_words() {
        let mut out = String::new();
        columns(&mut out, &[("  --a".into(), "one two three four five six".into())], 28);
        assert_eq!(out, "  --a   one two three four\n        five six\n");
    }
}
