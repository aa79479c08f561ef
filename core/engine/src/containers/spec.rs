//! From a container's record to the OCI configuration that its shim takes. Pure.

use std::path::{Path, PathBuf};

use sampan_shim_protocol::{Seccomp, ShimConfig};
use serde_json::{Map, Value, json};

use super::devices::{self, Device};
use super::limits;
use super::record::{ContainerRecord, MountRecord};
use super::security::{self, SecurityOptions};
use super::validate::{self, Sharing};
use crate::cdi;
use crate::error::Result;

/// Where programs are looked for when the image does not say.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const DEFAULT_SHM: i64 = 64 << 20;
/// How much output waits in the shim while no daemon is there.
const SPOOL_LIMIT: u64 = 64 << 20;

/// What was found or made for this start.
#[derive(Debug, Clone, Default)]
pub(crate) struct Resolved {
    /// The mounted root file system.
    pub rootfs: PathBuf,
    /// Such as `/sampan-ab12cd/<id>`.
    pub cgroup: String,
    /// The network namespace; the host's when none.
    pub netns: Option<PathBuf>,
    /// The namespace of processes to join.
    pub pid: Option<PathBuf>,
    /// The namespace of IPC to join.
    pub ipc: Option<PathBuf>,
    /// The host's folder that is its `/dev/shm`, when others see it too.
    pub shm: Option<PathBuf>,
    /// The host name; none with the host's.
    pub hostname: Option<String>,
    /// Value of `HOSTNAME`.
    pub hostname_variable: String,
    /// Files of the engine's own: host path, path in the container.
    pub files: Vec<(PathBuf, &'static str)>,
    /// The record's mounts with their paths on the host.
    pub mounts: Vec<(PathBuf, MountRecord)>,
    /// Devices to make.
    pub devices: Vec<Device>,
    /// Variables that devices bring; they count more than the container's own.
    pub env: Vec<String>,
    /// Groups that devices bring.
    pub groups: Vec<u32>,
    /// Programs that devices have run at moments of the container's life.
    pub hooks: Vec<cdi::Hook>,
    /// Limits of block devices, by OCI's names of the lists.
    pub throttles: Vec<(&'static str, Vec<Value>)>,
}

/// The OCI configuration of a container.
pub(crate) fn oci(record: &ContainerRecord, resolved: &Resolved) -> Result<Value> {
    let (config, host) = (&record.config, &record.host);
    let privileged = host.privileged == Some(true);
    let security = SecurityOptions::parse(host.security_opt.as_deref().unwrap_or_default())?;
    let capabilities = security::capabilities(
        host.cap_add.as_deref().unwrap_or_default(),
        host.cap_drop.as_deref().unwrap_or_default(),
        privileged,
    )?;
    let mut process = json!({
        "terminal": config.tty == Some(true),
        "user": { "uid": 0, "gid": 0 },
        "args": arguments(record),
        "env": with(environment(record, &resolved.hostname_variable), &resolved.env),
        "cwd": config.working_dir.as_deref().filter(|path| !path.is_empty()).unwrap_or("/"),
        "capabilities": {
            "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
        },
        "rlimits": rlimits(record),
        "noNewPrivileges": security.no_new_privileges,
    });
    if let Some(score) = host.oom_score_adj.filter(|score| *score != 0) {
        process["oomScoreAdj"] = json!(score);
    }
    let unconfined = privileged || security.system_paths_unconfined;
    let paths = |given: &Option<Vec<String>>, default: fn() -> Vec<String>| match given {
        _ if unconfined => Vec::new(),
        Some(paths) => paths.clone(),
        None => default(),
    };
    let mut linux = json!({
        "cgroupsPath": resolved.cgroup,
        "namespaces": namespaces(record, resolved)?,
        "resources": resources(record, resolved)?,
        "devices": resolved.devices.iter().map(Device::node).collect::<Vec<_>>(),
        "maskedPaths": paths(&host.masked_paths, security::masked_paths),
        "readonlyPaths": paths(&host.readonly_paths, security::readonly_paths),
    });
    let sysctls: Map<String, Value> =
        host.sysctls.iter().flatten().map(|(name, value)| (name.replace('/', "."), json!(value))).collect();
    if !sysctls.is_empty() {
        linux["sysctl"] = Value::Object(sysctls);
    }
    if let Some(profile) = security.seccomp_profile.as_deref().filter(|_| !privileged) {
        linux["seccomp"] = security::profile_to_oci(profile, &capabilities)?;
    }
    let mut spec = json!({
        "ociVersion": "1.2.0",
        "root": { "path": resolved.rootfs, "readonly": host.readonly_rootfs == Some(true) },
        "process": process,
        "mounts": mounts(record, resolved, &security)?,
        "linux": linux,
        "annotations": host.annotations.clone().unwrap_or_default(),
    });
    if !resolved.hooks.is_empty() {
        spec["hooks"] = hooks(&resolved.hooks);
    }
    if let Some(hostname) = &resolved.hostname {
        spec["hostname"] = json!(hostname);
        if let Some(domain) = config.domainname.as_deref().filter(|domain| !domain.is_empty()) {
            spec["domainname"] = json!(domain);
        }
    }
    Ok(spec)
}

/// By their moments, in their order.
fn hooks(all: &[cdi::Hook]) -> Value {
    let mut by_moment: Map<String, Value> = Map::new();
    for hook in all {
        let mut written = json!({ "path": hook.path, "args": hook.args, "env": hook.env });
        if let Some(seconds) = hook.timeout {
            written["timeout"] = json!(seconds);
        }
        let list = by_moment.entry(hook.hook_name.clone()).or_insert_with(|| json!([]));
        list.as_array_mut().into_iter().for_each(|list| list.push(written.clone()));
    }
    Value::Object(by_moment)
}

/// What the shim needs beside it.
pub(crate) fn shim(record: &ContainerRecord, resolved: &Resolved) -> Result<ShimConfig> {
    let (config, host) = (&record.config, &record.host);
    let security = SecurityOptions::parse(host.security_opt.as_deref().unwrap_or_default())?;
    let unconfined = host.privileged == Some(true) || security.seccomp_unconfined;
    let size = match host.console_size.as_deref() {
        Some([rows, columns]) => u16::try_from(*rows).ok().zip(u16::try_from(*columns).ok()),
        _ => None,
    };
    Ok(ShimConfig {
        id: record.id.clone(),
        open_stdin: config.open_stdin == Some(true),
        init: host.init == Some(true),
        user: config.user.clone().unwrap_or_default(),
        // Without a user, groups are still the container's root's.
        groups: {
            let of_devices = resolved.groups.iter().map(ToString::to_string);
            host.group_add.iter().flatten().cloned().chain(of_devices).collect()
        },
        seccomp: if unconfined { Seccomp::Unconfined } else { Seccomp::Default },
        size: size.filter(|(rows, columns)| *rows > 0 && *columns > 0),
        spool_limit: SPOOL_LIMIT,
    })
}

/// The program and its arguments.
pub(crate) fn arguments(record: &ContainerRecord) -> Vec<String> {
    let config = &record.config;
    config.entrypoint.iter().chain(&config.cmd).flatten().cloned().collect()
}

/// The environment: the engine's own variables, unless the container has others of the name.
pub(crate) fn environment(record: &ContainerRecord, hostname: &str) -> Vec<String> {
    let mut all = vec![format!("PATH={DEFAULT_PATH}"), format!("HOSTNAME={hostname}")];
    if record.config.tty == Some(true) {
        all.push("TERM=xterm".to_owned());
    }
    for variable in record.config.env.iter().flatten() {
        let (name, has_value) = match variable.split_once('=') {
            Some((name, _)) => (name, true),
            None => (variable.as_str(), false),
        };
        let same = |other: &String| other.split('=').next() == Some(name);
        match (all.iter().position(same), has_value) {
            (Some(at), true) => all[at].clone_from(variable),
            (None, true) => all.push(variable.clone()),
            // A name alone takes the variable away.
            (Some(at), false) => drop(all.remove(at)),
            (None, false) => {}
        }
    }
    all
}

/// An environment with further variables, which take the place of those of the same names.
fn with(mut all: Vec<String>, further: &[String]) -> Vec<String> {
    for variable in further {
        let name = variable.split('=').next();
        all.retain(|other| other.split('=').next() != name);
        all.push(variable.clone());
    }
    all
}

fn rlimits(record: &ContainerRecord) -> Vec<Value> {
    // The kernel's "unlimited" is the largest number.
    let number = |value: Option<i64>| value.map_or(0, |value| u64::try_from(value).unwrap_or(u64::MAX));
    let limits = record.host.ulimits.iter().flatten();
    limits
        .map(|limit| {
            let name = limit.name.as_deref().unwrap_or("").to_ascii_uppercase();
            json!({ "type": format!("RLIMIT_{name}"), "soft": number(limit.soft), "hard": number(limit.hard) })
        })
        .collect()
}

fn namespaces(record: &ContainerRecord, resolved: &Resolved) -> Result<Vec<Value>> {
    let host = &record.host;
    let mut all = vec![json!({ "type": "mount" })];
    if let Some(path) = &resolved.netns {
        all.push(json!({ "type": "network", "path": path }));
    }
    match validate::pid(host)? {
        Sharing::Host => {}
        Sharing::Container(_) => all.push(json!({ "type": "pid", "path": resolved.pid })),
        _ => all.push(json!({ "type": "pid" })),
    }
    match validate::ipc(host)? {
        Sharing::Host => {}
        Sharing::Container(_) => all.push(json!({ "type": "ipc", "path": resolved.ipc })),
        _ => all.push(json!({ "type": "ipc" })),
    }
    if !validate::uts(host)?.is_host() {
        all.push(json!({ "type": "uts" }));
    }
    if host.cgroupns_mode != Some(bollard_stubs::models::HostConfigCgroupnsModeEnum::HOST) {
        all.push(json!({ "type": "cgroup" }));
    }
    Ok(all)
}

fn resources(record: &ContainerRecord, resolved: &Resolved) -> Result<Value> {
    let host = &record.host;
    let limits = limits::of(host);
    let object = |pairs: Vec<(&str, Option<Value>)>| {
        let given = pairs.into_iter().filter_map(|(key, value)| value.map(|value| (key.to_owned(), value)));
        Value::Object(given.collect())
    };
    let rules: Vec<Value> = if host.privileged == Some(true) {
        vec![json!({ "allow": true, "access": "rwm" })]
    } else {
        let mut rules: Vec<Value> = resolved.devices.iter().map(Device::rule).collect();
        for rule in host.device_cgroup_rules.iter().flatten() {
            rules.push(devices::parse_rule(rule)?);
        }
        rules
    };
    Ok(object(vec![
        (
            "memory",
            Some(object(vec![
                ("limit", limits.memory.map(Value::from)),
                ("swap", limits.memory_swap.map(Value::from)),
                ("reservation", limits.memory_reservation.map(Value::from)),
                ("swappiness", limits.swappiness.map(Value::from)),
                ("disableOOMKiller", limits.oom_kill_disable.then_some(Value::from(true))),
            ])),
        ),
        (
            "cpu",
            Some(object(vec![
                ("shares", limits.cpu_shares.map(Value::from)),
                ("quota", limits.cpu_quota.map(Value::from)),
                ("period", limits.cpu_period.map(Value::from)),
                ("cpus", limits.cpuset_cpus.map(Value::from)),
                ("mems", limits.cpuset_mems.map(Value::from)),
            ])),
        ),
        ("pids", limits.pids.map(|limit| json!({ "limit": limit }))),
        ("blockIO", block_io(limits.blkio_weight, &resolved.throttles)),
        ("devices", Some(Value::Array(rules))),
    ]))
}

fn block_io(weight: Option<u16>, throttles: &[(&'static str, Vec<Value>)]) -> Option<Value> {
    let mut all = Map::new();
    all.extend(weight.map(|weight| ("weight".to_owned(), json!(weight))));
    all.extend(throttles.iter().map(|(key, devices)| ((*key).to_owned(), json!(devices))));
    (!all.is_empty()).then_some(Value::Object(all))
}

fn mount(kind: &str, at: &str, options: &[&str]) -> Value {
    json!({ "type": kind, "source": kind, "destination": at, "options": options })
}

fn mounts(record: &ContainerRecord, resolved: &Resolved, security: &SecurityOptions) -> Result<Vec<Value>> {
    let host = &record.host;
    let privileged = host.privileged == Some(true);
    let quiet = ["nosuid", "noexec", "nodev"];
    let with = |more: &[&'static str]| quiet.iter().chain(more).copied().collect::<Vec<_>>();
    let writable: &[&'static str] = if privileged { &[] } else { &["ro"] };
    let cgroups: &[&'static str] = if privileged || security.writable_cgroups { &[] } else { &["ro"] };
    let mut own = vec![
        mount("proc", "/proc", &quiet),
        mount("tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("devpts", "/dev/pts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        mount("sysfs", "/sys", &with(writable)),
        mount("cgroup", "/sys/fs/cgroup", &with(cgroups)),
    ];
    let bind = |source: &Path, at: &str, options: &[&str]| json!({ "type": "bind", "source": source, "destination": at, "options": options });
    let ipc = validate::ipc(host)?;
    // Shows the queues of whichever IPC namespace it is mounted in.
    own.push(mount("mqueue", "/dev/mqueue", &quiet));
    let size = host.shm_size.filter(|size| *size > 0).unwrap_or(DEFAULT_SHM);
    match (&ipc, &resolved.shm) {
        (Sharing::Host, _) => own.push(bind(Path::new("/dev/shm"), "/dev/shm", &["rbind"])),
        (Sharing::None, _) => {}
        (_, Some(shared)) => own.push(bind(shared, "/dev/shm", &["rbind", "rprivate"])),
        (_, None) => own.push(mount(
            "tmpfs",
            "/dev/shm",
            &with(&["mode=1777"]).into_iter().chain([format!("size={size}").as_str()]).collect::<Vec<_>>(),
        )),
    }
    let mut user: Vec<(String, Value)> = Vec::new();
    for (source, at) in &resolved.files {
        // A file of the user's takes the place of the engine's.
        if !resolved.mounts.iter().any(|(_, mount)| mount.destination == *at) {
            let read_only: &[&str] = if host.readonly_rootfs == Some(true) { &["ro"] } else { &[] };
            let options: Vec<&str> = ["rbind", "rprivate"].iter().chain(read_only).copied().collect();
            user.push(((*at).to_owned(), bind(source, at, &options)));
        }
    }
    for (source, wanted) in &resolved.mounts {
        let entry = if wanted.kind == "tmpfs" {
            let options: Vec<&str> = wanted.options.split(',').filter(|option| !option.is_empty()).collect();
            json!({ "type": "tmpfs", "source": "tmpfs", "destination": wanted.destination, "options": options })
        } else {
            bind(source, &wanted.destination, &bind_options(wanted))
        };
        user.push((wanted.destination.clone(), entry));
    }
    for (path, options) in host.tmpfs.iter().flatten() {
        let options = super::mounts::tmpfs_options(options)?;
        let entry = json!({ "type": "tmpfs", "source": "tmpfs", "destination": path, "options": options });
        user.push((path.clone(), entry));
    }
    // What lies deeper comes later, so that nothing is covered. The engine's own come first, except where replaced.
    user.sort_by(|(a, _), (b, _)| depth(a).cmp(&depth(b)).then_with(|| a.cmp(b)));
    own.retain(|entry| {
        let at = entry["destination"].as_str().unwrap_or("");
        at == "/proc" || at == "/dev" || !user.iter().any(|(path, _)| path == at)
    });
    own.extend(user.into_iter().map(|(_, entry)| entry));
    Ok(own)
}

fn depth(path: &str) -> usize {
    Path::new(path).components().count()
}

fn bind_options(wanted: &MountRecord) -> Vec<&str> {
    let mut options = vec![if wanted.non_recursive { "bind" } else { "rbind" }];
    if !wanted.rw {
        options.push(if wanted.read_only_recursive { "rro" } else { "ro" });
    }
    options.push(if wanted.propagation.is_empty() { "rprivate" } else { &wanted.propagation });
    options.extend(wanted.options.split(',').filter(|option| !option.is_empty()));
    options
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bollard_stubs::models::{ContainerConfig, HostConfig, ResourcesUlimits};

    fn record() -> ContainerRecord {
        ContainerRecord {
            id: "f00d".repeat(16),
            name: "web".into(),
            config: ContainerConfig {
                entrypoint: Some(vec!["/entry".into()]),
                cmd: Some(vec!["serve".into(), "-v".into()]),
                env: Some(vec!["MODE=x".into(), "PATH=/app".into(), "HOSTNAME".into()]),
                ..ContainerConfig::default()
            },
            // Of the machine, otherwise.
            host: HostConfig {
                masked_paths: Some(vec!["/proc/kcore".into()]),
                readonly_paths: Some(vec!["/proc/sys".into()]),
                ..HostConfig::default()
            },
            ..ContainerRecord::default()
        }
    }

    fn resolved() -> Resolved {
        Resolved {
            rootfs: "/run/m/c".into(),
            cgroup: "/sampan-ab12cd/c".into(),
            netns: Some("/run/netns/c".into()),
            hostname: Some("web".into()),
            hostname_variable: "web".into(),
            files: vec![("/c/hosts".into(), "/etc/hosts")],
            mounts: vec![
                (
                    "/v/data".into(),
                    MountRecord {
                        kind: "volume".into(),
                        destination: "/srv/data/x".into(),
                        rw: true,
                        ..Default::default()
                    },
                ),
                (
                    "/src".into(),
                    MountRecord {
                        kind: "bind".into(),
                        destination: "/srv".into(),
                        propagation: "rslave".into(),
                        ..Default::default()
                    },
                ),
            ],
            ..Resolved::default()
        }
    }

    fn valid(spec: &Value) {
        let parsed: oci_spec::runtime::Spec = serde_json::from_value(spec.clone()).unwrap();
        assert!(parsed.process().is_some());
    }

    #[test]
    fn a_plain_container() {
        let spec = oci(&record(), &resolved()).unwrap();
        valid(&spec);
        insta::assert_snapshot!(serde_json::to_string_pretty(&spec).unwrap());
    }

    #[test]
    fn a_limited_container() {
        let mut record = record();
        record.host.memory = Some(64 << 20);
        record.host.memory_swap = Some(128 << 20);
        record.host.nano_cpus = Some(500_000_000);
        record.host.pids_limit = Some(10);
        record.host.readonly_rootfs = Some(true);
        record.host.cap_drop = Some(vec!["ALL".into()]);
        record.host.security_opt = Some(vec!["no-new-privileges".into()]);
        record.host.ulimits =
            Some(vec![ResourcesUlimits { name: Some("nofile".into()), soft: Some(1024), hard: Some(-1) }]);
        record.host.tmpfs = Some([("/tmp".to_owned(), "size=1m".to_owned())].into());
        record.host.network_mode = Some("host".into());
        record.host.pid_mode = Some("host".into());
        record.host.ipc_mode = Some("host".into());
        record.host.sysctls = Some([("net/ipv4/ip_forward".to_owned(), "1".to_owned())].into());
        record.config.tty = Some(true);
        let spec = oci(&record, &Resolved { netns: None, ..resolved() }).unwrap();
        valid(&spec);
        insta::assert_snapshot!(serde_json::to_string_pretty(&spec).unwrap());
    }

    #[test]
    fn a_privileged_container_has_all_rights_and_no_filter() {
        let mut record = record();
        record.host.privileged = Some(true);
        let spec = oci(&record, &resolved()).unwrap();
        valid(&spec);
        assert_eq!(spec["process"]["capabilities"]["bounding"].as_array().unwrap().len(), 41);
        assert_eq!(spec["linux"]["maskedPaths"], json!([]));
        assert_eq!(spec["linux"]["resources"]["devices"], json!([{ "allow": true, "access": "rwm" }]));
        assert_eq!(shim(&record, &resolved()).unwrap().seccomp, Seccomp::Unconfined);
        let sys = spec["mounts"].as_array().unwrap().iter().find(|mount| mount["destination"] == "/sys").unwrap();
        assert_eq!(sys["options"], json!(["nosuid", "noexec", "nodev"]));
    }

    #[test]
    fn devices_bring_variables_groups_and_binds() {
        let mut resolved = Resolved { env: vec!["MODE=device".into()], groups: vec![44], ..resolved() };
        let bind = MountRecord { options: "nosuid,nodev".into(), destination: "/lib/x".into(), ..Default::default() };
        resolved.mounts.push(("/lib/x".into(), bind));
        let spec = oci(&record(), &resolved).unwrap();
        assert_eq!(spec["process"]["env"], json!(["PATH=/app", "MODE=device"]));
        let bind = spec["mounts"].as_array().unwrap().iter().find(|mount| mount["destination"] == "/lib/x").unwrap();
        assert_eq!(bind["options"], json!(["rbind", "ro", "rprivate", "nosuid", "nodev"]));
        assert_eq!(shim(&record(), &resolved).unwrap().groups, ["44"]);
    }

    #[test]
    fn the_environment_replaces_and_takes_away() {
        assert_eq!(environment(&record(), "web"), ["PATH=/app", "MODE=x"]);
    }
}
