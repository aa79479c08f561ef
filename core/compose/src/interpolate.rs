//! `$VAR` and `${VAR…}` in texts.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::node::{At, Node, Value};
use crate::session::Session;

/// Variables by name.
pub(crate) type Env = BTreeMap<String, String>;

/// Deepest nesting of `${A:-${B:-…}}`.
const DEPTH: usize = 50;

/// What is wrong with a template, and the part that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TemplateError {
    pub message: String,
    pub part: String,
    pub help: Option<String>,
}

/// Replaces the variables in a text. `unset` hears the names that have no value and no default.
pub(crate) fn substitute(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
    unset: &mut dyn FnMut(&str),
) -> Result<String, TemplateError> {
    expand(text, lookup, unset, 0)
}

fn expand(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
    unset: &mut dyn FnMut(&str),
    depth: usize,
) -> Result<String, TemplateError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        let (before, from) = rest.split_at(dollar);
        out.push_str(before);
        let after = from.get(1..).unwrap_or_default();
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some(body) = after.strip_prefix('{') {
            let end = closing(body).filter(|_| depth < DEPTH).ok_or_else(|| invalid(from))?;
            let (inner, tail) = body.split_at(end);
            out.push_str(&braced(inner, lookup, unset, depth)?);
            rest = tail.get(1..).unwrap_or_default();
        } else {
            let length = name_length(after);
            let (name, tail) = after.split_at(length);
            if name.is_empty() {
                out.push('$');
            } else {
                let value = lookup(name);
                if value.is_none() {
                    unset(name);
                }
                out.push_str(&value.unwrap_or_default());
            }
            rest = tail;
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn invalid(part: &str) -> TemplateError {
    TemplateError {
        message: "this is not a valid variable".to_owned(),
        part: part.to_owned(),
        help: Some("write $$ for a dollar sign that stands for itself".to_owned()),
    }
}

/// Where the brace that was opened just before is closed.
fn closing(body: &str) -> Option<usize> {
    let mut open = 1_usize;
    for (index, byte) in body.bytes().enumerate() {
        match byte {
            b'{' => open += 1,
            b'}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some(index);
        }
    }
    None
}

fn name_length(text: &str) -> usize {
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts {
        return 0;
    }
    text.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count()
}

/// The inside of `${…}`.
fn braced(
    inner: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
    unset: &mut dyn FnMut(&str),
    depth: usize,
) -> Result<String, TemplateError> {
    let (name, operation) = inner.split_at(name_length(inner));
    if name.is_empty() {
        return Err(invalid(&format!("${{{inner}}}")));
    }
    let value = lookup(name);
    let (operator, operand) = match operation.as_bytes() {
        [] => {
            if value.is_none() {
                unset(name);
            }
            return Ok(value.unwrap_or_default());
        }
        [b':', b'-' | b'?' | b'+', ..] => operation.split_at(2),
        [b'-' | b'?' | b'+', ..] => operation.split_at(1),
        _ => return Err(invalid(&format!("${{{inner}}}"))),
    };
    let present = match &value {
        Some(value) => !operator.starts_with(':') || !value.is_empty(),
        None => false,
    };
    let operand = |unset: &mut dyn FnMut(&str)| expand(operand, lookup, unset, depth + 1);
    match (operator.trim_start_matches(':'), present) {
        ("-", true) | ("?", true) => Ok(value.unwrap_or_default()),
        ("-", false) | ("+", true) => operand(unset),
        ("+", false) => Ok(String::new()),
        _ => {
            let mut message = format!("the required variable {name} has no value");
            let reason = operand(unset)?;
            if !reason.is_empty() {
                let _ = write!(message, ": {reason}");
            }
            Err(TemplateError { message, part: format!("${{{inner}}}"), help: None })
        }
    }
}

/// A variable as a text names it.
pub(crate) struct Named<'t> {
    pub name: &'t str,
    /// Of `:-`, `-`, `:?`, `?`, `:+`, `+`; empty: none.
    pub operator: &'t str,
    /// What follows the operator.
    pub operand: &'t str,
}

/// The variables that a text names, without those inside of others. What is not valid is passed over.
pub(crate) fn named(text: &str) -> Vec<Named<'_>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('$') {
        if let Some(tail) = after.strip_prefix('$') {
            rest = tail;
        } else if let Some(body) = after.strip_prefix('{')
            && let Some(end) = closing(body)
        {
            let (inner, tail) = body.split_at(end);
            let (name, operation) = inner.split_at(name_length(inner));
            let length = operation.len() - operation.trim_start_matches(':').len();
            let cut = match operation.get(length..).unwrap_or_default().starts_with(['-', '?', '+']) {
                true => length + 1,
                false => 0,
            };
            let (operator, operand) = operation.split_at(cut);
            if !name.is_empty() && (operation.is_empty() || cut > 0) {
                found.push(Named { name, operator, operand });
            }
            rest = tail;
        } else {
            let (name, tail) = after.split_at(name_length(after));
            if !name.is_empty() {
                found.push(Named { name, operator: "", operand: "" });
            }
            rest = tail;
        }
    }
    found
}

/// Replaces the variables in every value below a node; keys stay.
pub(crate) fn interpolate(session: &mut Session<'_>, node: &mut Node, env: &Env) {
    match &mut node.value {
        Value::Str(text) if text.contains('$') => {
            let mut missing = Vec::new();
            let result = substitute(text, &|name| env.get(name).cloned(), &mut |name| missing.push(name.to_owned()));
            for name in missing {
                session.warn(format!("the variable {name} is not set; it is taken as empty"));
            }
            match result {
                Ok(new) => *text = new,
                Err(_) if session.saturated() => {}
                Err(error) => {
                    let at = place(session, node.at, &error.part);
                    match error.help {
                        Some(help) => session.error_help(at, error.message, help),
                        None => session.error(at, error.message),
                    }
                }
            }
        }
        Value::Seq(items) => items.iter_mut().for_each(|item| interpolate(session, item, env)),
        Value::Map(entries) => entries.iter_mut().for_each(|entry| interpolate(session, &mut entry.value, env)),
        _ => {}
    }
}

/// The place of a part of a text, if it can be seen on the line where the text starts.
fn place(session: &Session<'_>, at: At, part: &str) -> At {
    let line = session.text(at.file).split('\n').nth((at.line as usize).saturating_sub(1)).unwrap_or_default();
    let skip = at.column.saturating_sub(1) as usize;
    let tail: String = line.chars().skip(skip).collect();
    match tail.find(part) {
        Some(offset) => {
            let characters = tail.get(..offset).map_or(0, |before| before.chars().count());
            At { column: at.column + u32::try_from(characters).unwrap_or_default(), ..at }
        }
        None => at,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn with(text: &str) -> Result<String, TemplateError> {
        let lookup = |name: &str| match name {
            "SET" => Some("value".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        substitute(text, &lookup, &mut |_| {})
    }

    #[test]
    fn every_operator() {
        for (text, expected) in [
            ("$SET-${SET}", "value-value"),
            ("${SET:-d}${EMPTY:-d}${NO:-d}", "valuedd"),
            ("${SET-d}|${EMPTY-d}|${NO-d}", "value||d"),
            ("${SET:+a}|${EMPTY:+a}|${NO:+a}", "a||"),
            ("${SET+a}|${EMPTY+a}|${NO+a}", "a|a|"),
            ("${SET:?e}${SET?e}${EMPTY?e}", "valuevalue"),
            ("${NO:-${EMPTY:-${SET}}}", "value"),
            ("${NO:-{\"a\": {}}}", "{\"a\": {}}"),
            ("$$SET $${SET} $$$SET", "$SET ${SET} $value"),
            ("cost: 5$ $1 $(x) $-", "cost: 5$ $1 $(x) $-"),
            ("${NO:-a$$b}", "a$b"),
            ("$SET.x$SET/y", "value.xvalue/y"),
            ("$NO|${NO}", "|"),
            ("é${SET}é", "évalueé"),
        ] {
            assert_eq!(with(text).as_deref(), Ok(expected), "{text}");
        }
        for text in ["${", "${}", "${1}", "${A B}", "${SET", "${SET:=x}", "${SET:}", "a ${SET} ${"] {
            assert!(with(text).is_err(), "{text}");
        }
        assert_eq!(with("${NO:?say}").unwrap_err().message, "the required variable NO has no value: say");
        assert_eq!(with("${EMPTY:?}").unwrap_err().message, "the required variable EMPTY has no value");
        let deep = format!("{}x{}", "${A:-".repeat(10_000), "}".repeat(10_000));
        assert!(with(&deep).is_err());
    }

    proptest! {
        #[test]
        fn escaped_text_is_itself(text in "\\PC{0,40}") {
            prop_assert_eq!(with(&text.replace('$', "$$")), Ok(text));
        }

        #[test]
        fn nothing_panics(text in "[${}A:?+a-]{0,30}") {
            let _ = with(&text);
        }
    }
}
