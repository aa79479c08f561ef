//! Taking a mapping apart, and values of one type or another.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::Duration;

use super::Cx;
use crate::merge;
use crate::model::units::{parse_bytes, parse_duration};
use crate::model::{Bytes, Extensions};
use crate::node::{At, Entry, Node, Value};
use crate::suggest::nearest;

/// The keys of a mapping that were not taken yet.
pub(crate) struct Fields<'n> {
    pub at: At,
    what: &'static str,
    left: Vec<&'n Entry>,
    asked: Vec<&'static str>,
}

impl<'n> Fields<'n> {
    /// Starts on a mapping; anything else is reported.
    pub(crate) fn of(cx: &mut Cx<'_, '_>, node: &'n Node, what: &'static str) -> Option<Self> {
        match &node.value {
            Value::Map(entries) => Some(Self { at: node.at, what, left: entries.iter().collect(), asked: Vec::new() }),
            _ => {
                cx.session.error(node.at, format!("{what} is a mapping, this is {}", node.kind()));
                None
            }
        }
    }

    /// Takes a key with its value; none when it is absent. An empty value counts as absent.
    pub(crate) fn node(&mut self, key: &'static str) -> Option<&'n Node> {
        self.asked.push(key);
        let index = self.left.iter().position(|entry| entry.key == key)?;
        Some(&self.left.swap_remove(index).value).filter(|node| !node.is_null())
    }

    /// Takes a key and decodes it; the default when it is absent or wrong, which is then reported.
    pub(crate) fn get<'s, 'a, T: Default>(
        &mut self,
        cx: &mut Cx<'s, 'a>,
        key: &'static str,
        decode: impl FnOnce(&mut Cx<'s, 'a>, &Node) -> Option<T>,
    ) -> T {
        self.option(cx, key, decode).unwrap_or_default()
    }

    /// As [`Fields::get`], keeping apart what is absent.
    pub(crate) fn option<'s, 'a, T>(
        &mut self,
        cx: &mut Cx<'s, 'a>,
        key: &'static str,
        decode: impl FnOnce(&mut Cx<'s, 'a>, &Node) -> Option<T>,
    ) -> Option<T> {
        let node = self.node(key)?;
        let outer = std::mem::replace(&mut cx.key, key);
        let value = decode(cx, node);
        cx.key = outer;
        value
    }

    /// Takes a key whose value maps names to things; a name without a value goes to `decode` as null.
    pub(crate) fn map<'s, 'a, T>(
        &mut self,
        cx: &mut Cx<'s, 'a>,
        key: &'static str,
        decode: impl Fn(&mut Cx<'s, 'a>, &Node) -> Option<T>,
    ) -> BTreeMap<String, T> {
        let Some(node) = self.node(key) else { return BTreeMap::new() };
        let Value::Map(entries) = &node.value else {
            cx.session.error(node.at, format!("`{key}` is a mapping of names, not {}", node.kind()));
            return BTreeMap::new();
        };
        let outer = std::mem::replace(&mut cx.key, key);
        let mut out = BTreeMap::new();
        for entry in entries {
            if entry.key.starts_with("x-") && matches!(key, "services" | "networks" | "volumes" | "secrets" | "configs")
            {
                cx.session.warning(entry.at, format!("`{}` is taken as a name here, not as an extension", entry.key));
            }
            if !is_name(&entry.key) {
                let message = format!("`{}` is not a name; use letters, digits, `.`, `_` and `-`", entry.key);
                cx.session.error(entry.at, message);
            }
            if let Some(value) = decode(cx, &entry.value) {
                out.insert(entry.key.clone(), value);
            }
        }
        cx.key = outer;
        out
    }

    /// Ends: `x-*` are kept, known keys that are not handled and unknown ones are reported.
    pub(crate) fn finish(self, cx: &mut Cx<'_, '_>, unsupported: &[&str]) -> Extensions {
        let mut extensions = Extensions::new();
        for entry in &self.left {
            let key = entry.key.as_str();
            if key.starts_with("x-") {
                extensions.insert(entry.key.clone(), entry.value.to_json());
            } else if unsupported.contains(&key) {
                cx.session.error(entry.at, format!("`{key}` is not supported yet"));
            } else {
                let message = format!("`{key}` is not a key of {}", self.what);
                match nearest(key, self.asked.iter().copied().chain(unsupported.iter().copied())) {
                    Some(meant) => cx.session.error_help(entry.at, message, format!("did you mean `{meant}`?")),
                    None => cx.session.error(entry.at, message),
                }
            }
        }
        extensions
    }
}

/// Whether a name may be given to a service or resource.
fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
        && name.len() <= 255
}

impl Cx<'_, '_> {
    /// Reports that the current key takes something else.
    pub(crate) fn wants(&mut self, node: &Node, wanted: &str) {
        let message = format!("`{}` must be {wanted}, not {}", self.key, node.kind());
        match (wanted, &node.value) {
            ("a string", Value::Int(_) | Value::Float(_) | Value::Bool(_)) => {
                self.session.error_help(node.at, message, "put it in quotes");
            }
            _ => self.session.error(node.at, message),
        }
    }

    /// Reports a wrong value.
    pub(crate) fn bad(&mut self, node: &Node, message: impl std::fmt::Display) {
        let message = format!("`{}`: {message}", self.key);
        self.session.error(node.at, message);
    }

    /// A string, and nothing that merely looks like one.
    pub(crate) fn string(&mut self, node: &Node) -> Option<String> {
        let text = node.as_str().map(str::to_owned);
        if text.is_none() {
            self.wants(node, "a string");
        }
        text
    }

    /// A string or a number, as text.
    pub(crate) fn text(&mut self, node: &Node) -> Option<String> {
        let text = node.scalar_text().filter(|_| !matches!(node.value, Value::Bool(_)));
        if text.is_none() {
            self.wants(node, "a string or a number");
        }
        text
    }

    pub(crate) fn boolean(&mut self, node: &Node) -> Option<bool> {
        match &node.value {
            Value::Bool(value) => Some(*value),
            Value::Str(text) => match text.to_ascii_lowercase().as_str() {
                "true" => Some(true),
                "false" => Some(false),
                old @ ("y" | "yes" | "on" | "n" | "no" | "off") => {
                    let value = old.starts_with('y') || old == "on";
                    let message = format!("`{text}` is not a boolean in YAML 1.2; write {value}");
                    self.session.warning(node.at, message);
                    Some(value)
                }
                _ => {
                    self.bad(node, format!("`{text}` is neither true nor false"));
                    None
                }
            },
            _ => {
                self.wants(node, "true or false");
                None
            }
        }
    }

    pub(crate) fn optional_boolean(&mut self, node: &Node) -> Option<Option<bool>> {
        self.boolean(node).map(Some)
    }

    pub(crate) fn integer(&mut self, node: &Node) -> Option<i64> {
        let value = match &node.value {
            Value::Int(value) => Some(*value),
            Value::Float(value) if value.fract() == 0.0 && value.abs() < 9e15 => {
                #[allow(clippy::cast_possible_truncation)]
                let whole = *value as i64;
                Some(whole)
            }
            Value::Str(text) => text.trim().parse().ok(),
            _ => None,
        };
        if value.is_none() {
            match &node.value {
                Value::Str(text) => self.bad(node, format!("`{text}` is not a whole number")),
                Value::Float(value) => self.bad(node, format!("{value} is not a whole number")),
                _ => self.wants(node, "a number"),
            }
        }
        value
    }

    /// A count: 0 or more.
    pub(crate) fn count(&mut self, node: &Node) -> Option<u32> {
        let value = self.integer(node)?;
        let count = u32::try_from(value).ok();
        if count.is_none() {
            self.bad(node, format!("{value} is out of range"));
        }
        count
    }

    pub(crate) fn float(&mut self, node: &Node) -> Option<f64> {
        #[allow(clippy::cast_precision_loss)]
        let value = match &node.value {
            Value::Int(value) => Some(*value as f64),
            Value::Float(value) => Some(*value),
            Value::Str(text) => text.trim().parse().ok(),
            _ => {
                self.wants(node, "a number");
                return None;
            }
        };
        let value = value.filter(|value| value.is_finite() && *value >= 0.0);
        if value.is_none() {
            self.bad(node, format!("`{}` is not a number of 0 or more", node.scalar_text().unwrap_or_default()));
        }
        value
    }

    pub(crate) fn duration(&mut self, node: &Node) -> Option<Duration> {
        let Some(text) = node.as_str() else {
            let help = "write a unit: for example 10s";
            let message = format!("`{}` must be a duration, not {}", self.key, node.kind());
            self.session.error_help(node.at, message, help);
            return None;
        };
        parse_duration(text).map_err(|message| self.bad(node, message)).ok()
    }

    pub(crate) fn bytes(&mut self, node: &Node) -> Option<Bytes> {
        let value = match &node.value {
            Value::Int(value) if *value >= 0 => Ok(*value),
            Value::Str(text) => parse_bytes(text),
            _ => {
                self.wants(node, "a size such as 512m");
                return None;
            }
        };
        value.map(Bytes).map_err(|message| self.bad(node, message)).ok()
    }

    /// As [`Cx::bytes`]; -1 is unlimited.
    pub(crate) fn bytes_or_unlimited(&mut self, node: &Node) -> Option<Bytes> {
        match &node.value {
            Value::Int(-1) => Some(Bytes(-1)),
            Value::Str(text) if text.trim() == "-1" => Some(Bytes(-1)),
            _ => self.bytes(node),
        }
    }

    /// The items of a list.
    pub(crate) fn items<'n>(&mut self, node: &'n Node) -> &'n [Node] {
        if let Value::Seq(items) = &node.value {
            return items;
        }
        self.wants(node, "a list");
        &[]
    }

    /// A list, each item decoded; wrong ones are reported and left out.
    pub(crate) fn list<T>(
        &mut self,
        node: &Node,
        mut decode: impl FnMut(&mut Self, &Node) -> Option<T>,
    ) -> Option<Vec<T>> {
        let mut out = Vec::new();
        for item in self.items(node) {
            out.extend(decode(self, item));
        }
        Some(out)
    }

    /// A list of strings, repetitions left out.
    pub(crate) fn strings(&mut self, node: &Node) -> Option<Vec<String>> {
        self.list(node, Self::string).map(unique)
    }

    /// A string or a list of them.
    pub(crate) fn one_or_more(&mut self, node: &Node) -> Option<Vec<String>> {
        match &node.value {
            Value::Str(text) => Some(vec![text.clone()]),
            Value::Seq(_) => self.strings(node),
            _ => {
                self.wants(node, "a string or a list of strings");
                None
            }
        }
    }

    /// A mapping or a list of `KEY=VALUE`; a key without a value has none.
    pub(crate) fn optional_pairs(&mut self, node: &Node) -> Option<BTreeMap<String, Option<String>>> {
        let pairs = match &node.value {
            Value::Map(_) => node.clone(),
            Value::Seq(items) => {
                if let Some(wrong) = items.iter().find(|item| item.scalar_text().is_none()) {
                    self.bad(wrong, format!("an item must be KEY=VALUE, not {}", wrong.kind()));
                    return None;
                }
                merge::pairs(node.clone())
            }
            _ => {
                self.wants(node, "a mapping or a list of KEY=VALUE");
                return None;
            }
        };
        let mut out = BTreeMap::new();
        for entry in pairs.entries() {
            let value = entry.value.scalar_text();
            if value.is_none() && !entry.value.is_null() {
                let message = format!("the value of {} must be a string, not {}", entry.key, entry.value.kind());
                self.bad(&entry.value, message);
                continue;
            }
            if entry.key.is_empty() || entry.key.contains('\0') {
                self.session.error(entry.at, format!("`{}`: an item has no name", self.key));
                continue;
            }
            out.insert(entry.key.clone(), value);
        }
        Some(out)
    }

    /// As [`Cx::optional_pairs`], a key without a value having an empty one.
    pub(crate) fn pairs(&mut self, node: &Node) -> Option<BTreeMap<String, String>> {
        let pairs = self.optional_pairs(node)?;
        Some(pairs.into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect())
    }

    /// A mapping of scalars; no list form.
    pub(crate) fn options(&mut self, node: &Node) -> Option<BTreeMap<String, String>> {
        if !matches!(node.value, Value::Map(_)) {
            self.wants(node, "a mapping");
            return None;
        }
        self.pairs(node)
    }

    /// One of a few words.
    pub(crate) fn word(&mut self, node: &Node, words: &[&'static str]) -> Option<String> {
        let text = self.string(node)?;
        if text.is_empty() || words.contains(&text.as_str()) {
            return Some(text);
        }
        let choice = if words.len() > 1 { "one of " } else { "" };
        let message = format!("`{}`: `{text}` is not {choice}{}", self.key, words.join(", "));
        match nearest(&text, words.iter().copied()) {
            Some(meant) => self.session.error_help(node.at, message, format!("did you mean `{meant}`?")),
            None => self.session.error(node.at, message),
        }
        None
    }

    /// Where a text stands in a list of texts, or the list.
    pub(crate) fn item_place(&self, node: &Node, key: &str, text: &str) -> At {
        let list = node.get(key).unwrap_or(node);
        match &list.value {
            Value::Seq(items) => items.iter().find(|item| item.as_str() == Some(text)).map_or(list.at, |item| item.at),
            _ => list.at,
        }
    }

    /// An address, checked.
    pub(crate) fn address(&mut self, node: &Node) -> Option<String> {
        let text = self.string(node)?;
        if text.is_empty() || text.parse::<std::net::IpAddr>().is_ok() {
            return Some(text);
        }
        self.bad(node, format!("`{text}` is not an IP address"));
        None
    }
}

/// The list without repetitions, in its order.
pub(crate) fn unique(list: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    list.into_iter().filter(|item| seen.insert(item.clone())).collect()
}

/// A list in which each key stands once; a later item takes the place of an earlier one.
pub(crate) struct Keyed<T, K> {
    items: Vec<T>,
    index: HashMap<K, usize>,
}

impl<T, K: Eq + Hash> Keyed<T, K> {
    pub(crate) fn new() -> Self {
        Self { items: Vec::new(), index: HashMap::new() }
    }

    pub(crate) fn put(&mut self, key: K, item: T) {
        match self.index.get(&key).and_then(|&index| self.items.get_mut(index)) {
            Some(slot) => *slot = item,
            None => {
                self.index.insert(key, self.items.len());
                self.items.push(item);
            }
        }
    }

    pub(crate) fn into_items(self) -> Vec<T> {
        self.items
    }
}
