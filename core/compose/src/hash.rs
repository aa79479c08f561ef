//! Hashes that tell whether something must be made anew.

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::model::{FileReference, Network, Project, Service, Volume};

/// Lower case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0');
        out.push(digit(byte >> 4));
        out.push(digit(byte & 15));
        out
    })
}

/// The SHA-256 of a value's canonical JSON. Keys are in the order of the model and of names, defaults are not written:
/// a new key of the model changes no hash until a file uses it.
fn hash(value: &impl Serialize, without: &[&str], more: &[Value]) -> String {
    let mut value = serde_json::to_value(value).unwrap_or_default();
    if let Some(map) = value.as_object_mut() {
        for key in without {
            map.shift_remove(*key);
        }
        if let Some(deploy) = map.get_mut("deploy").and_then(Value::as_object_mut) {
            deploy.shift_remove("replicas");
            if deploy.is_empty() {
                map.shift_remove("deploy");
            }
        }
    }
    let mut hasher = Sha256::new();
    hasher.update(value.to_string());
    for value in more {
        hasher.update([0]);
        hasher.update(value.to_string());
    }
    hex(&hasher.finalize())
}

/// Of a service's keys, those that do not make a container another one: how many there are, what they wait for, how
/// the image comes about (its digest tells), and what only `up` and `watch` look at.
const NOT_IN_CONTAINER: &[&str] = &["attach", "build", "depends_on", "develop", "profiles", "pull_policy", "scale"];

impl Project {
    /// The hash of a service's configuration, configs' and secrets' contents included; none when there is no such
    /// service. The number of replicas has no part in it.
    #[must_use]
    pub fn config_hash(&self, service: &str) -> Option<String> {
        let service = self.service(service)?;
        Some(hash(service, NOT_IN_CONTAINER, &self.contents(service)))
    }

    /// What the configs and secrets of a service hold, without naming it.
    fn contents(&self, service: &Service) -> Vec<Value> {
        let describe = |reference: &FileReference, resource: Option<Value>| {
            Value::Array(vec![Value::from(reference.source.clone()), resource.unwrap_or_default()])
        };
        let configs = service.configs.iter().map(|reference| {
            let config = self.configs.get(&reference.source);
            describe(reference, config.and_then(|config| serde_json::to_value(config).ok()))
        });
        let secrets = service.secrets.iter().map(|reference| {
            let secret = self.secrets.get(&reference.source);
            describe(reference, secret.and_then(|secret| serde_json::to_value(secret).ok()))
        });
        configs.chain(secrets).collect()
    }
}

impl Network {
    /// The hash of its configuration.
    #[must_use]
    pub fn config_hash(&self) -> String {
        hash(self, &[], &[])
    }
}

impl Volume {
    /// The hash of its configuration.
    #[must_use]
    pub fn config_hash(&self) -> String {
        hash(self, &[], &[])
    }
}
