//! Published ports.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One published port of a service: ranges on both sides are already taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Port {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// `ingress` (default) or `host`; the same thing on one host.
    pub mode: String,
    /// Empty: every address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host_ip: String,
    /// The port in the container.
    pub target: u16,
    /// None: the engine chooses. A range over one target: the engine takes a free one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published: Option<PublishedPorts>,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub app_protocol: String,
    #[serde(flatten)]
    pub extensions: super::Extensions,
}

/// One host port, or a range to choose from. `first <= last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublishedPorts {
    pub first: u16,
    pub last: u16,
}

impl PublishedPorts {
    /// A single port.
    #[must_use]
    pub fn one(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// The port, unless it is a range.
    #[must_use]
    pub fn single(self) -> Option<u16> {
        (self.first == self.last).then_some(self.first)
    }
}

impl fmt::Display for PublishedPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.single() {
            Some(port) => write!(f, "{port}"),
            None => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl FromStr for PublishedPorts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = |part: &str| {
            let plain = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            plain
                .then(|| part.parse::<u16>().ok())
                .flatten()
                .ok_or_else(|| format!("`{part}` is not a port; ports are numbers from 0 to 65535"))
        };
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (port(first)?, port(last)?),
            None => (port(text)?, port(text)?),
        };
        if first > last {
            return Err(format!("the port range `{text}` ends before it starts"));
        }
        Ok(Self { first, last })
    }
}

impl Serialize for PublishedPorts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublishedPorts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
