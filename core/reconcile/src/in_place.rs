//! What of a container can be changed while it runs. Pure.
//!
//! A container carries the hashes of its parts as a label: each limit, the restart policy, each network, the labels, and
//! the rest. Where the rest is the same, what differs is changed in place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bollard_stubs::models::ContainerCreateBody;
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
    /// Other labels.
    Labels,
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
            Self::Labels => f.write_str("labels"),
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
    if let Some(host) = body.get_mut("HostConfig").and_then(Value::as_object_mut) {
        for name in LIMITS.iter().chain([&RESTART]) {
            if let Some(value) = host.remove(*name).filter(|value| !value.is_null()) {
                parts.insert((*name).to_owned(), short(&value));
            }
        }
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
            // The kernel's idea of no limit is not the engine's: a limit that was taken away is a new container.
            _ if new.is_none() => return None,
            (limit, _) => Change::Limit(limit.to_owned()),
        });
    }
    Some(all.into_iter().collect())
}

/// The request that sets limits and restart policy as a container's body says.
pub(crate) fn update(body: &ContainerCreateBody, changes: &[Change]) -> bollard_stubs::models::ContainerUpdateBody {
    use bollard_stubs::models::{ContainerUpdateBody, RestartPolicy, RestartPolicyNameEnum};
    let host = body.host_config.clone().unwrap_or_default();
    let mut request = ContainerUpdateBody::default();
    if changes.iter().any(|change| matches!(change, Change::Limit(_))) {
        request.memory = host.memory;
        // As at the creation: twice the memory, unless it is said.
        request.memory_swap = host.memory_swap.or_else(|| host.memory.map(|memory| memory.saturating_mul(2)));
        request.memory_reservation = host.memory_reservation;
        request.nano_cpus = host.nano_cpus;
        request.cpu_shares = host.cpu_shares;
        request.cpu_period = host.cpu_period;
        request.cpu_quota = host.cpu_quota;
        request.cpuset_cpus = host.cpuset_cpus;
        request.pids_limit = host.pids_limit;
    }
    if changes.contains(&Change::RestartPolicy) {
        let never = RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None };
        request.restart_policy = Some(host.restart_policy.unwrap_or(never));
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Parts {
        pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
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
        assert_eq!(changes(&before, &of(&[("rest", "1"), ("network/a", "1"), ("network/b", "1")])), None, "no limit");
        assert_eq!(changes("", &same), None, "made by something else");
    }
}
