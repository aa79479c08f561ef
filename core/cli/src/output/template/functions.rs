//! The functions that templates call, and how values are shown and compared.

use serde_json::Value;
use std::fmt::Write as _;

use super::evaluate::entries;
use crate::output::table;

pub(super) const FUNCTIONS: [&str; 25] = [
    "json",
    "len",
    "index",
    "join",
    "lower",
    "upper",
    "title",
    "split",
    "println",
    "print",
    "printf",
    "truncate",
    "pad",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "and",
    "or",
    "not",
    "slice",
    "html",
    "prettyjson",
];

pub(super) fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// As Go's `fmt.Print` writes a value.
pub(super) fn show(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(" ")),
        Value::Object(_) => {
            let mut out = "map[".to_owned();
            for (at, (key, value)) in entries(value.clone()).iter().enumerate() {
                let _ = write!(out, "{}{}:{}", if at > 0 { " " } else { "" }, show(key), show(value));
            }
            out + "]"
        }
        other => other.to_string(),
    }
}

pub(super) fn call(name: &str, arguments: &[Value]) -> Result<Value, String> {
    let wrong = || format!("template: wrong number or kind of arguments for {name}");
    let text = |at: usize| arguments.get(at).map(show).ok_or_else(wrong);
    let first = || arguments.first().ok_or_else(wrong);
    Ok(match name {
        "json" => {
            let mut value = first()?.clone();
            if let Value::Object(map) = &mut value {
                map.shift_remove(table::LABELS);
            }
            Value::String(value.to_string())
        }
        "prettyjson" => Value::String(serde_json::to_string_pretty(first()?).map_err(|error| error.to_string())?),
        "len" => Value::from(match first()? {
            Value::String(text) => text.len(),
            Value::Array(items) => items.len(),
            Value::Object(map) => map.len(),
            Value::Null => 0,
            _ => return Err(wrong()),
        }),
        "index" => index(arguments)?,
        "join" => {
            let Value::Array(items) = first()? else { return Err(wrong()) };
            Value::String(items.iter().map(show).collect::<Vec<_>>().join(&text(1)?))
        }
        "split" => Value::Array(text(0)?.split(&text(1)?).map(Value::from).collect()),
        "lower" => Value::String(text(0)?.to_lowercase()),
        "upper" => Value::String(text(0)?.to_uppercase()),
        "title" => {
            let word = text(0)?;
            let mut letters = word.chars();
            Value::String(letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect()))
        }
        "html" => Value::String(text(0)?.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")),
        "print" => Value::String(arguments.iter().map(show).collect()),
        "println" => Value::String(arguments.iter().map(show).collect::<Vec<_>>().join(" ") + "\n"),
        "printf" => Value::String(printf(&text(0)?, &arguments[1..])),
        "truncate" => {
            let limit = arguments.get(1).and_then(Value::as_u64).ok_or_else(wrong)?;
            Value::String(text(0)?.chars().take(usize::try_from(limit).unwrap_or(usize::MAX)).collect())
        }
        "pad" => {
            let side = |at: usize| arguments.get(at).and_then(Value::as_u64).unwrap_or(0).min(1000);
            let spaces = |count: u64| " ".repeat(usize::try_from(count).unwrap_or(0));
            Value::String(spaces(side(1)) + &text(0)? + &spaces(side(2)))
        }
        "slice" => {
            let from = arguments.get(1).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
            let word: Vec<char> = text(0)?.chars().collect();
            let to =
                arguments.get(2).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok()).unwrap_or(word.len());
            Value::String(word.get(from..to).ok_or_else(wrong)?.iter().collect())
        }
        "not" => Value::Bool(!truth(first()?)),
        "and" => arguments.iter().find(|value| !truth(value)).or(arguments.last()).cloned().ok_or_else(wrong)?,
        "or" => arguments.iter().find(|value| truth(value)).or(arguments.last()).cloned().ok_or_else(wrong)?,
        "eq" => Value::Bool(arguments.len() > 1 && arguments[1..].iter().any(|other| *other == arguments[0])),
        "ne" => Value::Bool(first()? != arguments.get(1).ok_or_else(wrong)?),
        "lt" | "le" | "gt" | "ge" => {
            let ordering = compare(first()?, arguments.get(1).ok_or_else(wrong)?).ok_or_else(wrong)?;
            Value::Bool(match name {
                "lt" => ordering.is_lt(),
                "le" => ordering.is_le(),
                "gt" => ordering.is_gt(),
                _ => ordering.is_ge(),
            })
        }
        other => return Err(format!("template: function \"{other}\" not defined")),
    })
}

fn compare(a: &Value, b: &Value) -> Option<std::cmp::Ordering> {
    match (a, b) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
    }
}

static EMPTY: Value = Value::String(String::new());

fn index(arguments: &[Value]) -> Result<Value, String> {
    let Some((first, keys)) = arguments.split_first() else {
        return Err("template: wrong number of arguments for index".to_owned());
    };
    let mut current = first;
    for key in keys {
        current = match (current, key) {
            (Value::Object(map), Value::String(key)) => match map.get(key) {
                Some(found) => found,
                // Go gives the empty value of what the map holds.
                None if map.values().all(Value::is_string) => &EMPTY,
                None => &Value::Null,
            },
            (Value::Array(items), Value::Number(at)) => {
                let found = at.as_u64().and_then(|at| usize::try_from(at).ok()).and_then(|at| items.get(at));
                found.ok_or_else(|| format!("template: error calling index: index out of range: {at}"))?
            }
            (Value::Null, _) => &Value::Null,
            _ => return Err("template: error calling index: cannot index this value".to_owned()),
        };
    }
    Ok(current.clone())
}

fn printf(format: &str, arguments: &[Value]) -> String {
    let mut out = String::new();
    let mut arguments = arguments.iter();
    let mut letters = format.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let mut width = String::new();
        while let Some(next) = letters.next_if(|c| c.is_ascii_digit() || matches!(c, '-' | '.')) {
            width.push(next);
        }
        match letters.next() {
            Some('%') => out.push('%'),
            Some(verb) => {
                let value = arguments.next().map_or_else(
                    || format!("%!{verb}(MISSING)"),
                    |value| match verb {
                        'q' => serde_json::to_string(&show(value)).unwrap_or_default(),
                        _ => show(value),
                    },
                );
                let left = width.starts_with('-');
                let columns = width.trim_start_matches('-').split('.').next().and_then(|n| n.parse().ok()).unwrap_or(0);
                let columns = usize::min(columns, 1000);
                let _ = if left { write!(out, "{value:<columns$}") } else { write!(out, "{value:>columns$}") };
            }
            None => out.push('%'),
        }
    }
    out
}
