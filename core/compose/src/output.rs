//! The text of `config`: canonical JSON and YAML.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::model::Project;

impl Project {
    /// The canonical model as the reference prints it: active services, the resources they use, dollar signs doubled
    /// so that it can be loaded again, no value of any secret.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut value = self.canonical();
        // Keys that the reference's JSON always has, unlike its YAML.
        for (section, key, empty) in [
            ("services", "command", Value::Null),
            ("services", "entrypoint", Value::Null),
            ("networks", "ipam", Value::Object(Map::new())),
        ] {
            for entry in value.get_mut(section).and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut) {
                let Some(entry) = entry.as_object_mut() else { continue };
                entry.entry(key).or_insert_with(|| empty.clone());
                let before = entry.get_mut("pre_start").and_then(Value::as_array_mut);
                for container in before.into_iter().flatten().filter_map(Value::as_object_mut) {
                    container.entry(key).or_insert_with(|| empty.clone());
                }
            }
        }
        value
    }

    fn canonical(&self) -> Value {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        let Some(map) = value.as_object_mut() else { return value };
        for key in ["inactive", "working_dir", "compose_files", "profiles", "compatibility", "all_resources"] {
            map.shift_remove(key);
        }
        let used = self.used();
        for (section, keep) in [
            ("networks", &used.networks),
            ("volumes", &used.volumes),
            ("secrets", &used.secrets),
            ("configs", &used.configs),
            ("models", &used.models),
        ] {
            let Some(resources) = map.get_mut(section).and_then(Value::as_object_mut) else { continue };
            resources.retain(|key, _| keep.contains(key));
            if section == "secrets" || section == "configs" {
                for resource in resources.values_mut().filter_map(Value::as_object_mut) {
                    resource.shift_remove("value");
                    resource.shift_remove("digest");
                }
            }
            if resources.is_empty() {
                map.shift_remove(section);
            }
        }
        escape(&mut value);
        value
    }

    /// The same in YAML, which leaves more defaults out.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        match self.canonical() {
            Value::Object(map) => yaml(&map),
            _ => String::new(),
        }
    }
}

/// A mapping as YAML text.
pub(crate) fn yaml(map: &Map<String, Value>) -> String {
    let mut out = String::new();
    write_map(&mut out, map, 0);
    out
}

fn escape(value: &mut Value) {
    match value {
        Value::String(text) if text.contains('$') => *text = text.replace('$', "$$"),
        Value::Array(items) => items.iter_mut().for_each(escape),
        Value::Object(map) => map.values_mut().for_each(escape),
        _ => {}
    }
}

fn indent(out: &mut String, depth: usize) {
    out.extend(std::iter::repeat_n("  ", depth));
}

fn write_map(out: &mut String, map: &Map<String, Value>, depth: usize) {
    for (index, (key, value)) in map.iter().enumerate() {
        if index > 0 || depth == 0 || !out.ends_with("- ") {
            indent(out, depth);
        }
        write_scalar(out, key, depth, true);
        out.push(':');
        write_value(out, value, depth + 1);
    }
}

/// A value after its key and colon.
fn write_value(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            write_map(out, map, depth);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            write_items(out, items, depth);
        }
        other => {
            out.push(' ');
            write_leaf(out, other, depth);
        }
    }
}

fn write_items(out: &mut String, items: &[Value], depth: usize) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 || !out.ends_with("- ") {
            indent(out, depth);
        }
        out.push_str("- ");
        match item {
            Value::Object(map) if !map.is_empty() => write_map(out, map, depth + 1),
            Value::Array(items) if !items.is_empty() => write_items(out, items, depth + 1),
            other => write_leaf(out, other, depth + 1),
        }
    }
}

fn write_leaf(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Object(_) => out.push_str("{}"),
        Value::Array(_) => out.push_str("[]"),
        Value::String(text) => write_scalar(out, text, depth, false),
        other => {
            let _ = write!(out, "{other}");
        }
    }
    out.push('\n');
}

fn write_scalar(out: &mut String, text: &str, depth: usize, key: bool) {
    if is_typed(text) {
        write_quoted(out, text);
    } else if is_plain(text, key) {
        out.push_str(text);
    } else if !key && is_block(text) {
        // The end: kept newlines, one, or none.
        out.push('|');
        match (text.ends_with('\n'), text.ends_with("\n\n")) {
            (false, _) => out.push('-'),
            (true, true) => out.push('+'),
            (true, false) => {}
        }
        for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
            out.push('\n');
            if !line.is_empty() {
                indent(out, depth);
                out.push_str(line);
            }
        }
    } else if text.chars().any(is_special) {
        write_quoted(out, text);
    } else {
        out.push('\'');
        out.push_str(&text.replace('\'', "''"));
        out.push('\'');
    }
}

/// Several lines that a block can hold unchanged.
fn is_block(text: &str) -> bool {
    text.contains('\n')
        && text.split('\n').all(|line| !line.ends_with([' ', '\t']))
        && !text.starts_with([' ', '\t', '\n'])
        && text.chars().all(|c| c == '\n' || !is_special(c))
}

fn write_quoted(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if is_special(c) => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Whether a text stays itself without quotes, for this reader and for those of YAML 1.1.
fn is_plain(text: &str, key: bool) -> bool {
    let mut characters = text.chars();
    let (first, second) = (characters.next(), characters.next());
    // These start other things only when a space or nothing follows.
    let marker = |c: char| "-:?".contains(c) && (key || second.is_none_or(|c| c == ' ' || c == '-'));
    first.is_some_and(|c| !" ,[]{}#&*!|>'\"%@`".contains(c) && !marker(c))
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && !text.contains(" #")
        && !text.chars().any(is_special)
}

/// Whether a reader would take a plain text for a number, a boolean, nothing, a time.
fn is_typed(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let word = matches!(lower.as_str(), "y" | "yes" | "n" | "no" | "on" | "off" | "=" | "<<");
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    // `1:30` is 90 to a reader of YAML 1.1, and `2001-01-01` a day.
    let sexagesimal = text.contains(':') && text.trim_start_matches(['-', '+']).split([':', '.']).all(digits);
    let day = text.len() >= 8 && text.get(..4).is_some_and(digits) && text.get(4..5) == Some("-");
    word || sexagesimal || day || crate::yaml::is_typed(text)
}

fn is_special(c: char) -> bool {
    c.is_control() || matches!(c, '\u{feff}' | '\u{2028}' | '\u{2029}')
}
