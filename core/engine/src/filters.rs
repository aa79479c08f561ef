//! Docker's `filters` parameter: a map from a filter's name to the values it may have.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use crate::error::{Error, Result};

/// Parsed filters. Values of one name are alternatives; different names must all hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, BTreeSet<String>>);

impl Filters {
    /// Reads both of Docker's forms: `{"status":["running"]}` and the older `{"status":{"running":true}}`.
    pub fn parse(json: &str) -> Result<Self> {
        let invalid = |why: &str| Error::invalid(format!("filters: {why}: {json}"));
        if json.is_empty() {
            return Ok(Self::default());
        }
        let document: BTreeMap<String, Value> =
            serde_json::from_str(json).map_err(|error| invalid(&error.to_string()))?;
        let mut filters = Self::default();
        for (name, values) in document {
            let set = filters.0.entry(name).or_default();
            match values {
                Value::Array(items) => {
                    for item in items {
                        match item {
                            Value::String(text) => set.insert(text),
                            _ => return Err(invalid("a value is not a string")),
                        };
                    }
                }
                Value::Object(items) => {
                    for (text, on) in items {
                        match on {
                            Value::Bool(true) => {
                                set.insert(text);
                            }
                            Value::Bool(false) => {}
                            _ => return Err(invalid("a value is not true or false")),
                        }
                    }
                }
                _ => return Err(invalid("expected lists of values")),
            }
        }
        Ok(filters)
    }

    /// Adds one alternative, as `--filter name=value` does.
    pub fn add(&mut self, name: &str, value: &str) {
        self.0.entry(name.to_owned()).or_default().insert(value.to_owned());
    }

    /// Refuses names that the operation does not know, as Docker does.
    pub fn only(&self, known: &[&str]) -> Result<()> {
        match self.0.keys().find(|name| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) => Err(Error::invalid(format!("invalid filter '{name}' (known: {})", known.join(", ")))),
        }
    }

    /// Whether nothing is filtered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The alternatives of one name, none when it is not filtered by.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.get(name).into_iter().flatten().map(String::as_str)
    }

    /// Whether one is filtered by this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|set| !set.is_empty())
    }

    /// True when there is no such filter, or one of its values satisfies `test`.
    pub fn any(&self, name: &str, test: impl FnMut(&str) -> bool) -> bool {
        !self.has(name) || self.values(name).any(test)
    }

    /// `label` filters: every `key` or `key=value` given must be there.
    #[must_use]
    pub fn labels(&self, labels: &HashMap<String, String>) -> bool {
        self.values("label").all(|wanted| has_label(labels, wanted))
            && !self.values("label!").any(|unwanted| has_label(labels, unwanted))
    }

    /// A filter whose value is a truth (`true`, `1`, `false`, `0`).
    pub fn truth(&self, name: &str) -> Result<Option<bool>> {
        match self.values(name).next() {
            None => Ok(None),
            Some("true" | "1" | "True" | "TRUE" | "t" | "T") => Ok(Some(true)),
            Some("false" | "0" | "False" | "FALSE" | "f" | "F") => Ok(Some(false)),
            Some(other) => Err(Error::invalid(format!("invalid filter '{name}={other}': expected true or false"))),
        }
    }
}

fn has_label(labels: &HashMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
        None => labels.contains_key(wanted),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn both_forms_mean_the_same() {
        let list = Filters::parse(r#"{"label":["a=b","c"],"status":["running"]}"#).unwrap();
        let map = Filters::parse(r#"{"label":{"a=b":true,"c":true,"d":false},"status":{"running":true}}"#).unwrap();
        assert_eq!(list, map);
        let labels = HashMap::from([("a".to_owned(), "b".to_owned()), ("c".to_owned(), String::new())]);
        assert!(list.labels(&labels));
        assert!(!Filters::parse(r#"{"label":["a=x"]}"#).unwrap().labels(&labels));
    }

    #[test]
    fn wrong_shapes_are_refused_by_name() {
        for bad in ["[]", "{\"a\":1}", "{\"a\":[1]}", "x"] {
            assert!(Filters::parse(bad).unwrap_err().message.starts_with("filters: "), "{bad}");
        }
        let unknown = Filters::parse(r#"{"colour":["red"]}"#).unwrap().only(&["label"]).unwrap_err();
        assert_eq!(unknown.message, "invalid filter 'colour' (known: label)");
    }
}
