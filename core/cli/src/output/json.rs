//! JSON as `docker inspect` lays it out.

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{PrettyFormatter, Serializer};

use super::table;
use crate::failure::{Failure, Outcome};

/// With four spaces a level.
pub fn pretty(value: &Value) -> String {
    let mut out = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut out, PrettyFormatter::with_indent(b"    "));
    // Writing to memory does not fail.
    let _ = value.serialize(&mut serializer);
    String::from_utf8_lossy(&out).into_owned()
}

/// What `inspect` prints: all objects as an array, or each by a template or `json`; then what was not found.
pub fn inspected(found: &[Value], failed: &[Failure], format: Option<&str>) -> Outcome {
    let mut out = String::new();
    match format {
        None | Some("") => out = pretty(&Value::Array(found.to_vec())) + "\n",
        Some("json") => {
            for value in found {
                out.push_str(&value.to_string());
                out.push('\n');
            }
        }
        Some(format) => {
            let template = table::parse(format)?;
            for value in found {
                out.push_str(&template.render(value).map_err(Failure::new)?);
                out.push('\n');
            }
        }
    }
    table::write_all(&out)?;
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::new(failed.iter().map(|failure| failure.message.as_str()).collect::<Vec<_>>().join("\n")))
}

/// One document by a template, `json`, or in the caller's own words.
pub fn one(value: &Value, format: Option<&str>, otherwise: impl FnOnce(&Value) -> String) -> Outcome {
    match format {
        None | Some("" | "pretty") => table::write_all(&otherwise(value)),
        Some("json") => table::write_all(&format!("{value}\n")),
        Some(format) => table::write_all(&(table::parse(format)?.render(value).map_err(Failure::new)? + "\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_spaces_a_level() {
        assert_eq!(pretty(&serde_json::json!([{"a": 1}])), "[\n    {\n        \"a\": 1\n    }\n]");
    }
}
