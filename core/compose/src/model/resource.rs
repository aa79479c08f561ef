//! Top-level networks, volumes, configs, secrets.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Extensions, model};

/// SHA-256 of a file's content in hex: tells that it changed, without keeping it.
pub type Digest = String;

model! {
    pub struct Network {
        /// The engine's name: `PROJECT_KEY` unless the file says otherwise.
        pub name: String,
        pub driver: String,
        pub driver_opts: BTreeMap<String, String>,
        pub ipam: Ipam,
        /// Looked up, never created or removed.
        pub external: bool,
        pub internal: bool,
        pub attachable: bool,
        pub labels: BTreeMap<String, String>,
        pub enable_ipv4: Option<bool>,
        pub enable_ipv6: Option<bool>,
        #[serde(flatten)]
        pub extensions: Extensions,
    }

    pub struct Ipam {
        pub driver: String,
        pub config: Vec<IpamPool>,
        pub options: BTreeMap<String, String>,
        #[serde(flatten)]
        pub extensions: Extensions,
    }

    /// One pool; texts are checked to be networks and addresses.
    pub struct IpamPool {
        pub subnet: String,
        pub gateway: String,
        pub ip_range: String,
        pub aux_addresses: BTreeMap<String, String>,
        #[serde(flatten)]
        pub extensions: Extensions,
    }

    pub struct Volume {
        /// The engine's name: `PROJECT_KEY` unless the file says otherwise.
        pub name: String,
        pub driver: String,
        pub driver_opts: BTreeMap<String, String>,
        /// Looked up, never created or removed.
        pub external: bool,
        pub labels: BTreeMap<String, String>,
        #[serde(flatten)]
        pub extensions: Extensions,
    }

    /// Exactly one of `file`, `environment`, `content`, `external` is set.
    pub struct Config {
        pub name: String,
        /// Absolute.
        pub file: Option<PathBuf>,
        /// A variable of the caller's environment; its value is in `value`.
        pub environment: Option<String>,
        pub content: Option<String>,
        pub external: bool,
        pub labels: BTreeMap<String, String>,
        /// The variable's value at load. Not part of `config`'s text.
        pub value: Option<SecretValue>,
        /// Of the file's content at load, if it is a readable file. Not part of `config`'s text.
        pub digest: Option<Digest>,
        #[serde(flatten)]
        pub extensions: Extensions,
    }

    /// Exactly one of `file`, `environment`, `external` is set.
    pub struct Secret {
        pub name: String,
        /// Absolute.
        pub file: Option<PathBuf>,
        /// A variable of the caller's environment; its value is in `value`.
        pub environment: Option<String>,
        pub external: bool,
        pub labels: BTreeMap<String, String>,
        /// The variable's value at load. Not part of `config`'s text.
        pub value: Option<SecretValue>,
        /// Of the file's content at load, if it is a readable file. Not part of `config`'s text.
        pub digest: Option<Digest>,
        #[serde(flatten)]
        pub extensions: Extensions,
    }
}

/// A value that debug output does not show.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretValue(pub String);

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(…)")
    }
}
