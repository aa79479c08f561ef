//! The hashes by which Compose tells that something must be made anew.

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::model::{Network, Project, Volume};

/// Lower case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0');
        out.push(digit(byte >> 4));
        out.push(digit(byte & 15));
        out
    })
}

/// Of a service's keys, those that do not make a container another one: how many there are, what they wait for, how
/// the image comes about.
const NOT_IN_CONTAINER: &[&str] = &["build", "depends_on", "profiles", "pull_policy", "scale"];

/// A service's keys in the order in which the reference writes them for its hash.
const ORDER: &[&str] = &[
    "profiles",
    "annotations",
    "attach",
    "build",
    "develop",
    "blkio_config",
    "cap_add",
    "cap_drop",
    "cgroup_parent",
    "cgroup",
    "cpu_count",
    "cpu_percent",
    "cpu_period",
    "cpu_quota",
    "cpu_rt_period",
    "cpu_rt_runtime",
    "cpus",
    "cpuset",
    "cpu_shares",
    "command",
    "configs",
    "container_name",
    "credential_spec",
    "depends_on",
    "deploy",
    "device_cgroup_rules",
    "devices",
    "dns",
    "dns_opt",
    "dns_search",
    "domainname",
    "entrypoint",
    "provider",
    "environment",
    "env_file",
    "expose",
    "external_links",
    "extra_hosts",
    "group_add",
    "gpus",
    "hostname",
    "healthcheck",
    "image",
    "init",
    "ipc",
    "isolation",
    "labels",
    "label_file",
    "links",
    "logging",
    "mem_limit",
    "mem_reservation",
    "memswap_limit",
    "mem_swappiness",
    "mac_address",
    "models",
    "network_mode",
    "networks",
    "oom_kill_disable",
    "oom_score_adj",
    "pid",
    "pids_limit",
    "platform",
    "ports",
    "privileged",
    "pull_policy",
    "read_only",
    "restart",
    "runtime",
    "scale",
    "secrets",
    "security_opt",
    "shm_size",
    "stdin_open",
    "stop_grace_period",
    "stop_signal",
    "storage_opt",
    "sysctls",
    "tmpfs",
    "tty",
    "ulimits",
    "use_api_socket",
    "user",
    "userns_mode",
    "uts",
    "volumes",
    "volumes_from",
    "working_dir",
    "pre_start",
    "post_start",
    "pre_stop",
];

/// The keys of `deploy`, likewise.
const DEPLOY: &[&str] = &[
    "mode",
    "labels",
    "update_config",
    "rollback_config",
    "resources",
    "restart_policy",
    "placement",
    "endpoint_mode",
];

/// The keys of a watch rule, likewise.
const WATCH: &[&str] = &["path", "action", "target", "exec", "include", "ignore", "initial_sync"];

/// Mappings whose keys are the user's: none of them is an extension.
const NAMED: &[&str] =
    &["annotations", "args", "driver_opts", "environment", "labels", "options", "storage_opt", "sysctls"];

impl Project {
    /// The hash of a service's configuration as Compose has it in a container's labels; none when there is no such
    /// service. What configs and secrets hold has no part in it.
    #[must_use]
    pub fn config_hash(&self, service: &str) -> Option<String> {
        let mut value = serde_json::to_value(self.service(service)?).unwrap_or_default();
        plain(&mut value);
        let service = value.as_object_mut()?;
        let empty = || Value::Object(Map::new());
        if let Some(deploy) = service.get_mut("deploy").and_then(Value::as_object_mut) {
            *deploy = ordered(deploy, DEPLOY, &[("resources", empty()), ("placement", empty())]);
        }
        let rules =
            service.get_mut("develop").and_then(|develop| develop.get_mut("watch")).and_then(Value::as_array_mut);
        for rule in rules.into_iter().flatten().filter_map(Value::as_object_mut) {
            *rule = ordered(rule, WATCH, &[("exec", serde_json::json!({ "command": null }))]);
        }
        if let Some(blkio) = service.get_mut("blkio_config") {
            capitalize(blkio);
        }
        let always = [("command", Value::Null), ("entrypoint", Value::Null)];
        let first = service.get_mut("pre_start").and_then(Value::as_array_mut);
        for container in first.into_iter().flatten().filter_map(Value::as_object_mut) {
            if let Some(blkio) = container.get_mut("blkio_config") {
                capitalize(blkio);
            }
            *container = ordered(container, ORDER, &always);
        }
        let without: Map<String, Value> =
            std::mem::take(service).into_iter().filter(|(key, _)| !NOT_IN_CONTAINER.contains(&key.as_str())).collect();
        let service = ordered(&without, ORDER, &always);
        Some(hex(&Sha256::digest(text(&Value::Object(service)))))
    }
}

/// The keys of a network, and of a volume.
const RESOURCE: &[&str] = &[
    "name",
    "driver",
    "driver_opts",
    "ipam",
    "external",
    "internal",
    "attachable",
    "labels",
    "enable_ipv4",
    "enable_ipv6",
];

/// Of a network or volume, with what is always there.
fn resource(value: &impl serde::Serialize, always: &[(&str, Value)]) -> String {
    let mut value = serde_json::to_value(value).unwrap_or_default();
    plain(&mut value);
    let found = value.as_object_mut().map(std::mem::take).unwrap_or_default();
    hex(&Sha256::digest(text(&Value::Object(ordered(&found, RESOURCE, always)))))
}

impl Network {
    /// The hash of its configuration as Compose has it in the network's labels.
    #[must_use]
    pub fn config_hash(&self) -> String {
        resource(self, &[("ipam", Value::Object(Map::new()))])
    }
}

impl Volume {
    /// The hash of its configuration as Compose has it in the volume's labels.
    #[must_use]
    pub fn config_hash(&self) -> String {
        resource(self, &[("driver", Value::from("local"))])
    }
}

/// The keys that are named, in that order, with those that are always there.
fn ordered(map: &Map<String, Value>, order: &[&str], always: &[(&str, Value)]) -> Map<String, Value> {
    let found = |key: &str| {
        let known = always.iter().find(|(name, _)| *name == key).map(|(_, value)| value);
        map.get(key).or(known).cloned().map(|value| (key.to_owned(), value))
    };
    order.iter().filter_map(|key| found(key)).collect()
}

/// Without extensions; whole numbers without a point.
fn plain(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| !key.starts_with("x-"));
            map.iter_mut().filter(|(key, _)| !NAMED.contains(&key.as_str())).for_each(|(_, value)| plain(value));
        }
        Value::Array(items) => items.iter_mut().for_each(plain),
        Value::Number(number) => {
            if let Some(float) =
                number.as_f64().filter(|float| number.is_f64() && float.fract() == 0.0 && float.abs() < 1e15)
            {
                *value = Value::from(float as i64);
            }
        }
        _ => {}
    }
}

/// The lists of devices name their keys with capitals.
fn capitalize(config: &mut Value) {
    let lists = config.as_object_mut().into_iter().flat_map(Map::values_mut).filter_map(Value::as_array_mut);
    for item in lists.flatten().filter_map(Value::as_object_mut) {
        let capital =
            |key: String| key.get(..1).map_or_else(String::new, str::to_uppercase) + key.get(1..).unwrap_or_default();
        *item = std::mem::take(item).into_iter().map(|(key, value)| (capital(key), value)).collect();
    }
}

/// As Go writes JSON: what HTML would take for its own is escaped.
fn text(value: &Value) -> String {
    let text = value.to_string();
    if !text.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return text;
    }
    let mut out = String::with_capacity(text.len() + 64);
    for c in text.chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            c => out.push(c),
        }
    }
    out
}
