//! A service's keys.

use super::fields::Fields;
use super::{Cx, build, deploy, mounts, networking, ports, process, special};
use crate::merge::{merge, settle};
use crate::model::{Service, own};
use crate::node::{Node, Value};

const PULL: &[&str] = &["always", "never", "missing", "if_not_present", "build", "refresh", "daily", "weekly"];

pub(super) fn service(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Service> {
    let mut fields = Fields::of(cx, node, "a service")?;
    let mut service = Service::default();
    program(cx, &mut fields, &mut service);
    limits(cx, &mut fields, &mut service);
    rights(cx, &mut fields, &mut service);
    places(cx, &mut fields, &mut service);
    operation(cx, &mut fields, &mut service);
    special::special(cx, node, &mut fields, &mut service);
    service.extensions = fields.finish(cx, &[]);
    if let Some(entry) = node.entries().iter().find(|entry| entry.key == own::KEY)
        && let Err(message) = own::read(&entry.value.to_json())
    {
        cx.session.error(entry.at, message);
    }
    Some(service)
}

/// What belongs to a service and not to the containers that run before it; `volumes` it may have of its own.
const SERVICES_OWN: &[&str] = &[
    "attach",
    "build",
    "container_name",
    "depends_on",
    "deploy",
    "develop",
    "expose",
    "external_links",
    "healthcheck",
    "links",
    "ports",
    "post_start",
    "pre_start",
    "pre_stop",
    "profiles",
    "provider",
    "restart",
    "scale",
    "stdin_open",
    "tty",
    "volumes",
];

/// A container that runs before its service: what it does not say is as the service says.
pub(super) fn init_container(cx: &mut Cx<'_, '_>, of: &Node, node: &Node) -> Option<Service> {
    if !matches!(node.value, Value::Map(_)) {
        cx.session
            .error(node.at, format!("a container that runs before a service is a mapping, this is {}", node.kind()));
        return None;
    }
    let mut own = node.clone();
    if let Some(each) = own.take("per_replica")
        && cx.boolean(&each) == Some(true)
    {
        let message = "`per_replica` is not supported: a container runs once before all of a service's";
        cx.session.unsupported(each.at, message);
    }
    if let Some(entry) =
        own.entries().iter().find(|entry| entry.key != "volumes" && SERVICES_OWN.contains(&entry.key.as_str()))
    {
        let message = format!("`{}` is not a key of a container that runs before a service", entry.key);
        cx.session.error(entry.at, message);
        return None;
    }
    // What it takes over is worked out with all else that is.
    if cx.session.without.normalization {
        return service(cx, &own);
    }
    let mut base = of.clone();
    if let Some(entries) = base.entries_mut() {
        entries.retain(|entry| !SERVICES_OWN.contains(&entry.key.as_str()) && !entry.key.starts_with("x-"));
    }
    let path = &mut vec!["services".to_owned(), "before".to_owned()];
    let mut merged = merge(cx.session, base, own, path);
    settle(&mut merged);
    service(cx, &merged)
}

/// What runs.
fn program(cx: &mut Cx<'_, '_>, fields: &mut Fields<'_>, service: &mut Service) {
    service.image = fields.get(cx, "image", Cx::string);
    service.build = fields.option(cx, "build", build::build);
    service.platform = fields.get(cx, "platform", Cx::string);
    service.pull_policy = fields.get(cx, "pull_policy", pull_policy);
    service.command = fields.option(cx, "command", process::command);
    service.entrypoint = fields.option(cx, "entrypoint", process::command);
    service.working_dir = fields.get(cx, "working_dir", Cx::string);
    service.user = fields.get(cx, "user", Cx::string);
    service.init = fields.get(cx, "init", Cx::optional_boolean);
    service.tty = fields.get(cx, "tty", Cx::boolean);
    service.stdin_open = fields.get(cx, "stdin_open", Cx::boolean);
    service.runtime = fields.get(cx, "runtime", Cx::string);
    process::environment(cx, fields, service);
    process::labels(cx, fields, service);
    service.annotations = fields.get(cx, "annotations", Cx::pairs);
}

/// A limit of 0 is none.
pub(super) fn set<T: Default + PartialEq>(limit: Option<T>) -> Option<T> {
    limit.filter(|limit| *limit != T::default())
}

/// What it may use.
fn limits(cx: &mut Cx<'_, '_>, fields: &mut Fields<'_>, service: &mut Service) {
    service.cpus = set(fields.option(cx, "cpus", Cx::float));
    service.cpuset = fields.get(cx, "cpuset", Cx::string);
    service.cpu_shares = set(fields.option(cx, "cpu_shares", Cx::integer));
    service.cpu_period = set(fields.option(cx, "cpu_period", process::microseconds));
    service.cpu_quota = set(fields.option(cx, "cpu_quota", process::microseconds));
    service.mem_limit = set(fields.option(cx, "mem_limit", Cx::bytes_or_unlimited));
    service.mem_reservation = set(fields.option(cx, "mem_reservation", Cx::bytes));
    service.mem_swappiness = fields.option(cx, "mem_swappiness", Cx::integer);
    service.memswap_limit = set(fields.option(cx, "memswap_limit", Cx::bytes_or_unlimited));
    service.oom_kill_disable = fields.get(cx, "oom_kill_disable", Cx::boolean);
    service.oom_score_adj = set(fields.option(cx, "oom_score_adj", Cx::integer));
    service.pids_limit = set(fields.option(cx, "pids_limit", Cx::integer));
    service.shm_size = set(fields.option(cx, "shm_size", Cx::bytes));
    service.ulimits = fields.get(cx, "ulimits", process::ulimits);
    service.sysctls = fields.get(cx, "sysctls", Cx::pairs);
    service.storage_opt = fields.get(cx, "storage_opt", Cx::options);
    service.deploy = fields.option(cx, "deploy", deploy::deploy);
    for (name, value, low, high) in [
        ("oom_score_adj", service.oom_score_adj, -1000, 1000),
        ("mem_swappiness", service.mem_swappiness, -1, 100),
        ("pids_limit", service.pids_limit, -1, i64::from(i32::MAX)),
        ("cpu_shares", service.cpu_shares, 0, 262_144),
    ] {
        if let Some(value) = value.filter(|value| !(low..=high).contains(value)) {
            cx.session.error(fields.at, format!("`{name}`: {value} is not between {low} and {high}"));
        }
    }
}

/// What it is allowed and kept from.
fn rights(cx: &mut Cx<'_, '_>, fields: &mut Fields<'_>, service: &mut Service) {
    service.cap_add = fields.get(cx, "cap_add", Cx::strings);
    service.cap_drop = fields.get(cx, "cap_drop", Cx::strings);
    service.privileged = fields.get(cx, "privileged", Cx::boolean);
    service.read_only = fields.get(cx, "read_only", Cx::boolean);
    service.security_opt = fields.get(cx, "security_opt", process::security_options);
    service.group_add = fields.get(cx, "group_add", super::process::groups);
    service.userns_mode = fields.get(cx, "userns_mode", Cx::string);
    service.pid = fields.get(cx, "pid", Cx::string);
    service.ipc = fields.get(cx, "ipc", Cx::string);
    service.uts = fields.get(cx, "uts", Cx::string);
    service.cgroup = fields.get(cx, "cgroup", |cx, node| cx.word(node, &["host", "private"]));
    service.cgroup_parent = fields.get(cx, "cgroup_parent", Cx::string);
    service.devices = fields.get(cx, "devices", process::devices);
    service.device_cgroup_rules = fields.get(cx, "device_cgroup_rules", Cx::strings);
}

/// Where it is reached and what it reaches.
fn places(cx: &mut Cx<'_, '_>, fields: &mut Fields<'_>, service: &mut Service) {
    service.ports = fields.get(cx, "ports", ports::ports);
    service.expose = fields.get(cx, "expose", ports::expose);
    service.networks = fields.get(cx, "networks", networking::networks);
    service.network_mode = fields.get(cx, "network_mode", Cx::string);
    service.links = fields.get(cx, "links", Cx::strings);
    service.extra_hosts = fields.get(cx, "extra_hosts", networking::extra_hosts);
    service.dns = fields.get(cx, "dns", networking::dns);
    service.dns_search = fields.get(cx, "dns_search", Cx::one_or_more);
    service.dns_opt = fields.get(cx, "dns_opt", Cx::strings);
    service.hostname = fields.get(cx, "hostname", networking::hostname);
    service.domainname = fields.get(cx, "domainname", Cx::string);
    service.mac_address = fields.get(cx, "mac_address", networking::mac_address);
    service.volumes = fields.get(cx, "volumes", mounts::volumes);
    service.volumes_from = fields.get(cx, "volumes_from", Cx::strings);
    service.tmpfs = fields.get(cx, "tmpfs", Cx::one_or_more);
    service.secrets = fields.get(cx, "secrets", mounts::secrets);
    service.configs = fields.get(cx, "configs", mounts::configs);
}

/// How it is run and watched over.
fn operation(cx: &mut Cx<'_, '_>, fields: &mut Fields<'_>, service: &mut Service) {
    service.container_name = fields.get(cx, "container_name", process::container_name);
    service.profiles = fields.get(cx, "profiles", process::profiles);
    service.depends_on = fields.get(cx, "depends_on", networking::depends_on);
    service.restart = fields.get(cx, "restart", process::restart);
    service.healthcheck = fields.option(cx, "healthcheck", process::healthcheck);
    service.logging = fields.option(cx, "logging", process::logging);
    service.scale = fields.option(cx, "scale", Cx::count);
    service.stop_signal = fields.get(cx, "stop_signal", Cx::string);
    service.stop_grace_period = fields.option(cx, "stop_grace_period", Cx::duration);
    service.attach = fields.get(cx, "attach", Cx::optional_boolean);
    service.develop = fields.option(cx, "develop", process::develop);
    // Resolved before; what is left of a wrong one was reported there.
    let _ = fields.node("extends");
}

fn pull_policy(cx: &mut Cx<'_, '_>, node: &Node) -> Option<String> {
    if let Some(period) = node.as_str().and_then(|text| text.strip_prefix("every_")) {
        let checked = crate::model::units::parse_duration(period);
        return checked.map_err(|message| cx.bad(node, message)).ok().map(|_| format!("every_{period}"));
    }
    // Two words for one thing.
    let policy = cx.word(node, PULL)?;
    Some(if policy == "if_not_present" && !cx.session.without.normalization { "missing".to_owned() } else { policy })
}
