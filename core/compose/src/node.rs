//! The tree of a YAML text, each node with its place.

use std::collections::HashMap;

/// A place in a source. Line and column from 1; line 0: nowhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct At {
    pub file: u32,
    pub line: u32,
    pub column: u32,
}

/// How a node behaves when it is merged over another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum MergeTag {
    #[default]
    Merge,
    /// `!reset`: takes the key away.
    Reset,
    /// `!override`: replaces instead of merging.
    Override,
}

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub at: At,
    pub tag: MergeTag,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    Seq(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub key: String,
    pub at: At,
    pub value: Node,
}

/// Places and tags do not count: two definitions are the same when they say the same.
impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        match (&self.value, &other.value) {
            (Value::Map(a), Value::Map(b)) => {
                let by_key: HashMap<&str, &Node> = b.iter().map(|entry| (entry.key.as_str(), &entry.value)).collect();
                a.len() == b.len()
                    && a.iter().all(|entry| by_key.get(entry.key.as_str()).is_some_and(|value| **value == entry.value))
            }
            (a, b) => a == b,
        }
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.value == other.value
    }
}

impl Value {
    pub(crate) fn is_collection(&self) -> bool {
        matches!(self, Self::Seq(_) | Self::Map(_))
    }
}

impl Node {
    /// Whether something in it says how it is to be merged.
    pub(crate) fn has_tags(&self) -> bool {
        self.tag != MergeTag::Merge
            || match &self.value {
                Value::Seq(items) => items.iter().any(Self::has_tags),
                Value::Map(entries) => entries.iter().any(|entry| entry.value.has_tags()),
                _ => false,
            }
    }

    pub(crate) fn new(at: At, value: Value) -> Self {
        Self { at, tag: MergeTag::Merge, value }
    }

    pub(crate) fn string(at: At, text: impl Into<String>) -> Self {
        Self::new(at, Value::Str(text.into()))
    }

    pub(crate) fn is_null(&self) -> bool {
        self.value == Value::Null
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    pub(crate) fn entries_mut(&mut self) -> Option<&mut Vec<Entry>> {
        match &mut self.value {
            Value::Map(entries) => Some(entries),
            _ => None,
        }
    }

    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// Whether a key is absent or has no value.
    pub(crate) fn lacks(&self, key: &str) -> bool {
        self.get(key).is_none_or(Node::is_null)
    }

    pub(crate) fn take(&mut self, key: &str) -> Option<Node> {
        let entries = self.entries_mut()?;
        let index = entries.iter().position(|entry| entry.key == key)?;
        Some(entries.remove(index).value)
    }

    /// What it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "empty",
            Value::Bool(_) => "a boolean",
            Value::Int(_) | Value::Float(_) => "a number",
            Value::Str(_) => "a string",
            Value::Seq(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// A scalar as text, as the reference prints it; none for lists, mappings and null.
    pub(crate) fn scalar_text(&self) -> Option<String> {
        match &self.value {
            Value::Bool(value) => Some(value.to_string()),
            Value::Int(value) => Some(value.to_string()),
            Value::Float(value) => Some(float_text(*value)),
            Value::Str(text) => Some(text.clone()),
            Value::Null | Value::Seq(_) | Value::Map(_) => None,
        }
    }

    /// The bytes it roughly takes, for bounding what aliases expand to.
    pub(crate) fn weight(&self) -> usize {
        64 + match &self.value {
            Value::Str(text) => text.len(),
            Value::Seq(items) => items.iter().map(Node::weight).sum(),
            Value::Map(entries) => entries.iter().map(|entry| entry.key.len() + 64 + entry.value.weight()).sum(),
            _ => 0,
        }
    }

    /// The plain value, for `x-*`.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(value) => Json::Bool(*value),
            Value::Int(value) => Json::from(*value),
            Value::Float(value) => serde_json::Number::from_f64(*value).map_or(Json::Null, Json::Number),
            Value::Str(text) => Json::String(text.clone()),
            Value::Seq(items) => Json::Array(items.iter().map(Node::to_json).collect()),
            Value::Map(entries) => entries.iter().map(|entry| (entry.key.clone(), entry.value.to_json())).collect(),
        }
    }
}

/// A float as Go's `%v` prints it: the shortest form, with an exponent below 1e-4 and from 1e6.
pub(crate) fn float_text(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e6).contains(&size) {
        let text = format!("{value:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, digits) = match exponent.strip_prefix('-') {
            Some(digits) => ('-', digits),
            None => ('+', exponent),
        };
        return format!("{mantissa}e{sign}{digits:0>2}");
    }
    format!("{value}")
}
