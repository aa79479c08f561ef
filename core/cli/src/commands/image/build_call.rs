//! `build --call`: what is asked of a Dockerfile instead of an image.

use serde_json::Value;

use crate::failure::{Failure, Outcome};
use crate::output::{json, table};

/// What is to be done with the Dockerfile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    /// An image is built.
    #[default]
    Build,
    /// What is not well in it is said.
    Check,
    /// What the target takes is said.
    Outline,
    /// Which targets there are is said.
    Targets,
}

impl Method {
    /// As the daemon takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Check => "check",
            Self::Outline => "outline",
            Self::Targets => "targets",
        }
    }
}

/// A method, and whether its answer is shown as a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Call {
    /// What.
    pub method: Method,
    /// As JSON.
    pub json: bool,
}

impl Call {
    /// Reads `METHOD[,format=json|text]`; `check` is `--check`.
    pub fn parse(text: Option<&str>, check: bool) -> Outcome<Self> {
        let mut call = Self { method: if check { Method::Check } else { Method::Build }, json: false };
        let Some(text) = text else { return Ok(call) };
        let usage = |why: &str| Err(Failure::usage(format!("--call {text}: {why}")));
        for part in text.split(',') {
            match part.split_once('=').unwrap_or((part, "")) {
                ("build", "") => call.method = Method::Build,
                ("check" | "lint", "") => call.method = Method::Check,
                ("outline", "") => call.method = Method::Outline,
                ("targets", "") => call.method = Method::Targets,
                ("format", "json") => call.json = true,
                ("format", "text" | "table") => call.json = false,
                ("format", _) => return usage("expected format=json or format=text"),
                _ => return usage("expected build, check, outline or targets"),
            }
        }
        if check && call.method != Method::Check {
            return usage("--check asks for another");
        }
        Ok(call)
    }

    /// Shows an answer of the daemon.
    pub fn show(self, answer: &Value) -> Outcome {
        if self.json {
            return table::write_all(&format!("{}\n", json::pretty(answer)));
        }
        match self.method {
            Method::Outline => table::write_all(&outline(answer)),
            Method::Targets => table::write_all(&targets(answer)),
            Method::Build | Method::Check => Ok(()),
        }
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn items<'a>(value: &'a Value, key: &str) -> Vec<&'a Value> {
    value[key].as_array().into_iter().flatten().collect()
}

/// Lines of cells with a gap between the columns, as BuildKit's tools print them.
fn columns(lines: &[Vec<String>], gap: usize) -> String {
    let count = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0) + gap).collect();
    let mut out = String::new();
    for line in lines {
        let mut written = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            written.push_str(cell);
            written.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
        }
        out.push_str(written.trim_end());
        out.push('\n');
    }
    out
}

fn outline(answer: &Value) -> String {
    let mut parts = Vec::new();
    let cells = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
    let (name, description) = (text(answer, "name"), text(answer, "description"));
    if !name.is_empty() || !description.is_empty() {
        let mut lines = vec![cells(&["TARGET:", if name.is_empty() { "(default)" } else { name }])];
        if !description.is_empty() {
            lines.push(cells(&["DESCRIPTION:", description]));
        }
        parts.push(columns(&lines, 1));
    }
    let args = items(answer, "args");
    if !args.is_empty() {
        let mut lines = vec![cells(&["BUILD ARG", "VALUE", "DESCRIPTION"])];
        lines.extend(
            args.into_iter().map(|arg| cells(&[text(arg, "name"), text(arg, "value"), text(arg, "description")])),
        );
        parts.push(columns(&lines, 3));
    }
    for (key, heading) in [("secrets", "SECRET"), ("ssh", "SSH")] {
        let needs = items(answer, key);
        if !needs.is_empty() {
            let mut lines = vec![cells(&[heading, "REQUIRED"])];
            let required = |need: &Value| if need["required"] == true { "true" } else { "" };
            lines.extend(needs.into_iter().map(|need| cells(&[text(need, "name"), required(need)])));
            parts.push(columns(&lines, 3));
        }
    }
    parts.join("\n")
}

fn targets(answer: &Value) -> String {
    let mut lines = vec![vec!["TARGET".to_owned(), "DESCRIPTION".to_owned()]];
    for target in items(answer, "targets") {
        let (name, default) = (text(target, "name"), target["default"] == true);
        let name = match (name, default) {
            ("", true) => "(default)".to_owned(),
            (name, true) => format!("{name} (default)"),
            (name, false) => name.to_owned(),
        };
        lines.push(vec![name, text(target, "description").to_owned()]);
    }
    columns(&lines, 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn methods_are_read_with_their_format() {
        let read = |text: &str| Call::parse(Some(text), false).unwrap();
        assert_eq!(read("outline"), Call { method: Method::Outline, json: false });
        assert_eq!(read("targets,format=json"), Call { method: Method::Targets, json: true });
        assert_eq!(read("lint"), Call { method: Method::Check, json: false });
        assert_eq!(Call::parse(None, true).unwrap().method, Method::Check);
        assert_eq!(Call::parse(None, false).unwrap(), Call::default());
        for (text, check, part) in [
            ("outlin", false, "expected build, check"),
            ("check,format=xml", false, "format=json"),
            ("outline", true, "another"),
        ] {
            assert!(Call::parse(Some(text), check).unwrap_err().message.contains(part), "{text}");
        }
    }

    #[test]
    fn answers_are_shown_as_buildx_shows_them() {
        let shown = outline(&json!({
            "name": "app", "description": "makes it",
            "args": [{ "name": "VERSION", "value": "1.2", "description": "of it" }, { "name": "X" }],
            "secrets": [{ "name": "token", "required": true }, { "name": "other" }],
        }));
        assert_eq!(
            shown,
            "TARGET:      app\nDESCRIPTION: makes it\n\nBUILD ARG   VALUE   DESCRIPTION\nVERSION     1.2     of it\nX\n\n\
             SECRET   REQUIRED\ntoken    true\nother\n"
        );
        let listed = json!({ "targets": [{ "name": "build", "description": "all" }, { "default": true }] });
        assert_eq!(targets(&listed), "TARGET    DESCRIPTION\nbuild     all\n(default)\n");
        let listed = json!({ "targets": [{ "name": "app", "default": true }] });
        assert_eq!(targets(&listed), "TARGET        DESCRIPTION\napp (default)\n");
    }
}
