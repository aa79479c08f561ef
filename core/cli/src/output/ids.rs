//! Identifiers and texts cut to what a table has room for.

use serde_json::Value;

/// Digits of a short id.
const SHORT: usize = 12;

/// The first twelve digits of an id, without the hash's name; or all of it.
pub fn short(id: &str, whole: bool) -> String {
    if whole {
        return id.to_owned();
    }
    id.split_once(':').map_or(id, |(_, digits)| digits).chars().take(SHORT).collect()
}

/// At most so many letters, the last an ellipsis when some are missing.
pub fn ellipsis(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// `a=1,b=2`, in the order of the keys.
pub fn labels(labels: &Value) -> String {
    let mut pairs: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    pairs.sort_unstable();
    pairs.join(",")
}
