//! What a driver says of itself, and the decisions that follow from it. Pure.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::DriverError;

/// What a driver is for; which world its component implements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Keeps layers of images and containers.
    Layer,
    /// Keeps volumes.
    Volume,
    /// Makes networks.
    Network,
    /// Takes what containers write.
    Log,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Layer, Self::Volume, Self::Network, Self::Log];

    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Layer => "layer",
            Self::Volume => "volume",
            Self::Network => "network",
            Self::Log => "log",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A driver's description, beside its component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The name that users write.
    pub name: String,
    /// Other names that mean the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// What it is for.
    pub kind: Kind,
    /// Its own version, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// One line.
    #[serde(default)]
    pub description: String,
    /// Options that users may give.
    #[serde(default)]
    pub options: Vec<OptionSpec>,
    /// What it wants of the host.
    #[serde(default)]
    pub capabilities: Capabilities,
}

/// An option.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptionSpec {
    /// The name; one that ends in `*` stands for every name that begins so.
    pub name: String,
    /// What kind of value it has: for people.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The value when none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// Whether one must be given.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// One line.
    #[serde(default)]
    pub help: String,
}

/// What a driver wants of the host besides its own state. Nothing else is there for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Capabilities {
    /// Log drivers: the container's log directory, as `/log`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub log_directory: bool,
    /// Where it may send to: `host:port`, `*:port`, `host:*`, or `option:NAME` for the address that the user gives in
    /// that option.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub network: Vec<String>,
    /// Directories of the host, seen at the same path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub directories: Vec<Directory>,
    /// Variables of the engine's environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub environment: Vec<String>,
    /// Memory in MiB, when more than usual is needed: interpreters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u32>,
}

/// A directory of the host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Directory {
    /// An absolute path.
    pub path: String,
    /// Whether it may be changed.
    #[serde(default)]
    pub write: bool,
}

/// Most memory that can be asked for, in MiB.
const MEMORY: u32 = 4096;

impl Manifest {
    /// Reads and checks a manifest.
    pub fn parse(text: &[u8]) -> Result<Self, DriverError> {
        let manifest: Self = serde_json::from_slice(text).map_err(|error| DriverError::Manifest(error.to_string()))?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Whether it makes sense.
    pub fn check(&self) -> Result<(), DriverError> {
        let wrong = |text: String| Err(DriverError::Manifest(text));
        for name in std::iter::once(&self.name).chain(&self.aliases) {
            if !is_name(name) {
                return wrong(format!(
                    "{name:?} is not a name: 1 to 64 lower-case letters, digits, dots, dashes or underscores, a letter or digit first"
                ));
            }
        }
        let mut seen = BTreeSet::new();
        for option in &self.options {
            if option.name.is_empty()
                || option.name.len() > 128
                || !option.name.bytes().all(|b| b.is_ascii_graphic() && b != b'=')
            {
                return wrong(format!("option {:?}: a name has 1 to 128 visible characters without =", option.name));
            }
            if !seen.insert(&option.name) {
                return wrong(format!("option {:?} is there twice", option.name));
            }
        }
        let capabilities = &self.capabilities;
        if capabilities.log_directory && self.kind != Kind::Log {
            return wrong(format!("log-directory is for log drivers, not for {} drivers", self.kind));
        }
        for target in &capabilities.network {
            Egress::parse(target).map_err(DriverError::Manifest)?;
        }
        for directory in &capabilities.directories {
            if !directory.path.starts_with('/') || directory.path.split('/').any(|part| part == "..") {
                return wrong(format!("directory {:?} is not an absolute path without ..", directory.path));
            }
        }
        if capabilities.memory.is_some_and(|memory| memory == 0 || memory > MEMORY) {
            return wrong(format!("memory is a number of MiB from 1 to {MEMORY}"));
        }
        Ok(())
    }

    /// Whether it goes by this name.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.aliases.iter().any(|alias| alias == name)
    }

    /// What the user gave, checked by name and completed with what the manifest gives when nothing was.
    pub fn options(&self, given: &[(String, String)]) -> Result<Vec<(String, String)>, DriverError> {
        for (name, _) in given {
            if !self.options.iter().any(|option| option.is_called(name)) {
                return Err(DriverError::UnknownOption {
                    kind: self.kind,
                    driver: self.name.clone(),
                    option: name.clone(),
                    known: self.options.iter().map(|option| option.name.clone()).collect(),
                });
            }
        }
        if let Some(missing) =
            self.options.iter().find(|option| option.required && !given.iter().any(|(name, _)| option.is_called(name)))
        {
            return Err(DriverError::MissingOption {
                kind: self.kind,
                driver: self.name.clone(),
                option: missing.name.clone(),
                help: missing.help.clone(),
            });
        }
        Ok(self.completed(given))
    }

    /// The same without the check: for what was accepted when it was made, and must be let go by a later version too.
    #[must_use]
    pub fn completed(&self, given: &[(String, String)]) -> Vec<(String, String)> {
        let mut complete = given.to_vec();
        let missing = self.options.iter().filter(|option| !given.iter().any(|(name, _)| option.is_called(name)));
        complete.extend(missing.filter_map(|option| Some((option.name.clone(), option.default.clone()?))));
        complete
    }
}

impl OptionSpec {
    fn is_called(&self, name: &str) -> bool {
        match self.name.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => self.name == name,
        }
    }
}

fn is_name(name: &str) -> bool {
    name.len() <= 64
        && name.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_'))
}

impl Capabilities {
    /// What a person has to agree to, in words. A log driver's own directory needs no asking.
    #[must_use]
    pub fn wants(&self) -> Vec<String> {
        let mut wants: Vec<String> = self
            .network
            .iter()
            .map(|target| match target.strip_prefix("option:") {
                Some(option) => format!("network access to what the option {option} says"),
                None => format!("network access to {target}"),
            })
            .collect();
        wants.extend(self.directories.iter().map(|directory| {
            format!("the directory {} to {}", directory.path, if directory.write { "read and write" } else { "read" })
        }));
        wants.extend(self.environment.iter().map(|name| format!("the variable {name}")));
        wants.extend(self.memory.map(|memory| format!("{memory} MiB of memory")));
        wants
    }

    /// What these want that others did not.
    #[must_use]
    pub fn beyond(&self, granted: &Self) -> Vec<String> {
        let before = granted.wants();
        let memory = self.memory.filter(|memory| granted.memory.is_some_and(|granted| granted >= *memory));
        let wants = self.wants().into_iter().filter(|want| !before.contains(want));
        // Less memory than was granted is no new wish.
        let smaller = memory.map(|memory| format!("{memory} MiB of memory"));
        wants.filter(|want| Some(want) != smaller.as_ref()).collect()
    }
}

/// A place that a driver may send to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Egress {
    /// A host, or any; a port, or any.
    To { host: Option<String>, port: Option<u16> },
    /// What the user says in an option.
    Option(String),
}

impl Egress {
    /// Reads `host:port`, with `*` for any, or `option:NAME`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(option) = text.strip_prefix("option:") {
            return Ok(Self::Option(option.to_owned()));
        }
        let wrong = || format!("network {text:?} is not host:port (with * for any) or option:NAME");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(wrong());
        }
        let port = match port {
            "*" => None,
            number => Some(number.parse().map_err(|_| wrong())?),
        };
        Ok(Self::To { host: (host != "*").then(|| host.to_owned()), port })
    }

    /// The host and port in a value such as `tcp://logs.example:514/path` or `[::1]:514`.
    #[must_use]
    pub fn of_value(value: &str) -> Option<Self> {
        let value = value.split_once("://").map_or(value, |(_, rest)| rest);
        let value = value.split(['/', '?', '#']).next()?;
        let value = value.rsplit_once('@').map_or(value, |(_, rest)| rest);
        let (host, port) = match value.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !port.is_empty() => {
                (host, port.parse().ok()?)
            }
            // Without a port the protocol's own is meant, which the driver knows.
            _ => {
                return Some(Self::To { host: Some(value.trim_matches(['[', ']']).to_owned()), port: None })
                    .filter(|_| !value.is_empty());
            }
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        (!host.is_empty()).then(|| Self::To { host: Some(host.to_owned()), port: Some(port) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn manifest(json: &str) -> Result<Manifest, DriverError> {
        Manifest::parse(json.as_bytes())
    }

    #[test]
    fn unknown_options_are_named_and_defaults_filled_in() {
        let manifest = manifest(
            r#"{"name":"x","kind":"log","options":[{"name":"a","default":"1"},{"name":"b"},{"name":"label.*"}]}"#,
        )
        .unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            manifest.options(&[pair("b", "2"), pair("label.z", "")]).unwrap(),
            [pair("b", "2"), pair("label.z", ""), pair("a", "1")]
        );
        let error = manifest.options(&[pair("c", "")]).unwrap_err();
        assert_eq!(error.to_string(), "driver \"x\" (log) has no option \"c\"; known: a, b, label.*");
    }

    #[test]
    fn bad_manifests_are_refused_by_what_is_wrong() {
        for (json, says) in [
            (r#"{"name":"X","kind":"log"}"#, "is not a name"),
            (r#"{"name":"../x","kind":"log"}"#, "is not a name"),
            (r#"{"name":"x","kind":"drum"}"#, "unknown variant"),
            (
                r#"{"name":"x","kind":"volume","capabilities":{"log-directory":true}}"#,
                "log-directory is for log drivers",
            ),
            (r#"{"name":"x","kind":"log","capabilities":{"root":true}}"#, "unknown field"),
            (r#"{"name":"x","kind":"log","capabilities":{"network":["nowhere"]}}"#, "is not host:port"),
            (
                r#"{"name":"x","kind":"log","capabilities":{"directories":[{"path":"/a/../etc"}]}}"#,
                "is not an absolute path",
            ),
            (r#"{"name":"x","kind":"log","options":[{"name":"a"},{"name":"a"}]}"#, "is there twice"),
        ] {
            let error = manifest(json).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn an_upgrade_that_wants_more_says_what() {
        let old = Capabilities { network: vec!["a:1".into()], memory: Some(200), ..Capabilities::default() };
        let new =
            Capabilities { network: vec!["a:1".into(), "b:2".into()], memory: Some(100), ..Capabilities::default() };
        assert_eq!(new.beyond(&old), ["network access to b:2"]);
        assert!(old.beyond(&old).is_empty());
    }

    #[test]
    fn addresses_are_found_in_values() {
        let to = |host: &str, port| Some(Egress::To { host: Some(host.into()), port });
        assert_eq!(Egress::of_value("tcp://logs.example:514"), to("logs.example", Some(514)));
        assert_eq!(Egress::of_value("udp://[::1]:514"), to("::1", Some(514)));
        assert_eq!(Egress::of_value("https://u:p@h:8080/x?y"), to("h", Some(8080)));
        assert_eq!(Egress::of_value("logs.example"), to("logs.example", None));
        assert_eq!(Egress::of_value(""), None);
    }
}
