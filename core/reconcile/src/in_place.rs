//! What of a container can be changed while it runs. Pure.
//!
//! A container carries the hashes of its parts as a label: each limit, the restart policy, each network, the ports, the
//! health check, the log's options, the hooks, the labels, and the rest. Where the rest is the same, what differs is
//! changed in place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use sampan_engine::containers::Part;
use serde::Serialize;
use serde_json::Value;

use crate::desired;

/// Limits, by their names in the request.
const LIMITS: [&str; 9] = [
    "Memory",
    "MemorySwap",
    "MemoryReservation",
    "NanoCpus",
    "CpuShares",
    "CpuPeriod",
    "CpuQuota",
    "CpusetCpus",
    "PidsLimit",
];
const RESTART: &str = "RestartPolicy";
const PORTS: &str = "ports";
const HEALTH: &str = "health";
const LOG_OPTIONS: &str = "log-options";
pub(crate) const HOOKS: &str = "hooks";
const LABELS: &str = "labels";
const REST: &str = "rest";
const NETWORK: &str = "network/";

/// Hashes of a container's parts.
pub type Parts = BTreeMap<String, String>;

/// One thing to change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// A limit of the control group.
    Limit(String),
    /// The restart policy.
    RestartPolicy,
    /// Leave a network.
    Disconnect(String),
    /// Join a network, or join it otherwise.
    Connect(String),
    /// Exposed and published ports.
    Ports,
    /// The health check.
    Healthcheck,
    /// Options of the log driver.
    LogOptions,
    /// What is run after the start and before the stop.
    Hooks,
    /// Other labels.
    Labels,
    /// Limits and restart policy that were changed by hand.
    Restore,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit(name) => f.write_str(match name.as_str() {
                "Memory" | "MemorySwap" | "MemoryReservation" => "memory",
                "PidsLimit" => "pids",
                _ => "cpu",
            }),
            Self::RestartPolicy => f.write_str("restart policy"),
            Self::Disconnect(network) => write!(f, "leave network {network}"),
            Self::Connect(network) => write!(f, "join network {network}"),
            Self::Ports => f.write_str("published ports"),
            Self::Healthcheck => f.write_str("health check"),
            Self::LogOptions => f.write_str("log options"),
            Self::Hooks => f.write_str("hooks"),
            Self::Labels => f.write_str("labels"),
            Self::Restore => f.write_str("limits and restart policy that were changed by hand"),
        }
    }
}

fn short(value: &impl Serialize) -> String {
    let mut hash = desired::hash(value);
    hash.truncate(16);
    hash
}

/// The parts of a request, in which maps are in order; `others` counts to the rest.
pub(crate) fn parts(body: &Value, labels: &impl Serialize, no_labels: bool, others: &impl Serialize) -> Parts {
    let mut body = body.clone();
    let mut parts = Parts::new();
    let exposed =
        body.as_object_mut().and_then(|body| body.shift_remove("ExposedPorts")).filter(|value| !value.is_null());
    let health =
        body.as_object_mut().and_then(|body| body.shift_remove("Healthcheck")).filter(|value| !value.is_null());
    let mut published = None;
    if let Some(health) = health {
        parts.insert(HEALTH.to_owned(), short(&health));
    }
    if let Some(host) = body.get_mut("HostConfig").and_then(Value::as_object_mut) {
        for name in LIMITS.iter().chain([&RESTART]) {
            if let Some(value) = host.shift_remove(*name).filter(|value| !value.is_null()) {
                parts.insert((*name).to_owned(), short(&value));
            }
        }
        published = host.shift_remove("PortBindings").filter(|value| !value.is_null());
        let log = host.get_mut("LogConfig").and_then(Value::as_object_mut);
        if let Some(options) = log.and_then(|log| log.shift_remove("Config")).filter(|value| !value.is_null()) {
            parts.insert(LOG_OPTIONS.to_owned(), short(&options));
        }
        // Options of the usual driver, which is not named.
        if host.get("LogConfig").and_then(Value::as_object).is_some_and(|log| log.values().all(Value::is_null)) {
            host.shift_remove("LogConfig");
        }
    }
    if exposed.is_some() || published.is_some() {
        parts.insert(PORTS.to_owned(), short(&(exposed, published)));
    }
    if let Some(networks) = body.pointer_mut("/NetworkingConfig/EndpointsConfig").and_then(Value::as_object_mut) {
        for (name, endpoint) in std::mem::take(networks) {
            parts.insert(format!("{NETWORK}{name}"), short(&endpoint));
        }
    }
    if !no_labels {
        parts.insert(LABELS.to_owned(), short(labels));
    }
    parts.insert(REST.to_owned(), short(&(body, others)));
    parts
}

/// As the label carries them.
pub(crate) fn to_text(parts: &Parts) -> String {
    parts.iter().map(|(name, hash)| format!("{name}={hash}")).collect::<Vec<_>>().join(",")
}

fn from_text(text: &str) -> Parts {
    text.split(',').filter_map(|part| part.split_once('=')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
}

/// What makes a container with these parts one with those; `None` when it must be made anew.
#[must_use]
pub fn changes(before: &str, after: &Parts) -> Option<Vec<Change>> {
    let before = from_text(before);
    if before.get(REST)? != after.get(REST)? {
        return None;
    }
    let mut all = BTreeSet::new();
    for name in before.keys().chain(after.keys()) {
        let (old, new) = (before.get(name), after.get(name));
        if old == new {
            continue;
        }
        all.insert(match (name.as_str(), name.strip_prefix(NETWORK)) {
            (_, Some(network)) if new.is_none() => Change::Disconnect(network.to_owned()),
            (_, Some(network)) => Change::Connect(network.to_owned()),
            (LABELS, _) => Change::Labels,
            (RESTART, _) => Change::RestartPolicy,
            (PORTS, _) => Change::Ports,
            (HEALTH, _) => Change::Healthcheck,
            (LOG_OPTIONS, _) => Change::LogOptions,
            (HOOKS, _) => Change::Hooks,
            (limit, _) => Change::Limit(limit.to_owned()),
        });
    }
    Some(all.into_iter().collect())
}

/// What the engine reconfigures of a container.
pub(crate) fn reconfigured(changes: &[Change]) -> Vec<Part> {
    let part = |change: &Change| match change {
        Change::Ports => Some(Part::Ports),
        Change::Healthcheck => Some(Part::Healthcheck),
        Change::LogOptions => Some(Part::LogOptions),
        _ => None,
    };
    changes.iter().filter_map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Parts {
        pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    }

    #[test]
    fn each_part_has_its_own_hash() {
        let of = |body: serde_json::Value| parts(&body, &"", true, &());
        let body = |port: &str, driver: &str, size: &str, interval: u64| {
            serde_json::json!({
                "Image": "web",
                "ExposedPorts": ["80/tcp"],
                "Healthcheck": { "Interval": interval },
                "HostConfig": {
                    "PortBindings": { "80/tcp": [{ "HostPort": port }] },
                    "LogConfig": { "Type": driver, "Config": { "max-size": size } },
                },
            })
        };
        let before = to_text(&of(body("8080", "json-file", "1m", 1)));
        let now = |port, driver, size, interval| changes(&before, &of(body(port, driver, size, interval)));
        assert_eq!(now("8080", "json-file", "1m", 1), Some(vec![]));
        assert_eq!(now("8081", "json-file", "1m", 1), Some(vec![Change::Ports]));
        assert_eq!(now("8080", "json-file", "2m", 2), Some(vec![Change::Healthcheck, Change::LogOptions]));
        assert_eq!(now("8080", "local", "1m", 1), None, "another driver");
        let bare = serde_json::json!({ "Image": "web", "HostConfig": { "LogConfig": { "Type": "json-file" } } });
        assert_eq!(
            changes(&before, &of(bare)),
            Some(vec![Change::Ports, Change::Healthcheck, Change::LogOptions]),
            "what is no longer there"
        );
    }

    #[test]
    fn what_the_kernel_can_is_changed_and_the_rest_is_made_anew() {
        let before = to_text(&of(&[("rest", "1"), ("Memory", "1"), ("network/a", "1"), ("network/b", "1")]));
        let same = of(&[("rest", "1"), ("Memory", "1"), ("network/a", "1"), ("network/b", "1")]);
        assert_eq!(changes(&before, &same), Some(vec![]));
        let other = of(&[("rest", "1"), ("Memory", "2"), ("network/b", "2"), ("network/c", "1"), ("labels", "1")]);
        assert_eq!(
            changes(&before, &other),
            Some(vec![
                Change::Limit("Memory".into()),
                Change::Disconnect("a".into()),
                Change::Connect("b".into()),
                Change::Connect("c".into()),
                Change::Labels
            ])
        );
        assert_eq!(changes(&before, &of(&[("rest", "2"), ("Memory", "1")])), None);
        let free = of(&[("rest", "1"), ("network/a", "1"), ("network/b", "1"), ("ports", "1"), ("hooks", "1")]);
        assert_eq!(
            changes(&before, &free),
            Some(vec![Change::Limit("Memory".into()), Change::Ports, Change::Hooks]),
            "a limit that is no longer there is taken away"
        );
        assert_eq!(changes("", &same), None, "made by something else");
    }
}
