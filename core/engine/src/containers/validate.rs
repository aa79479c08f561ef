//! Refuses, when a container is made, what could not run or would not do what it says. Pure but for the host's facts.

use std::net::IpAddr;
use std::time::Duration;

use bollard_stubs::models::{ContainerConfig, HostConfig, HostConfigIsolationEnum, RestartPolicyNameEnum};

use super::limits::{self, Host};
use super::security::{self, SecurityOptions};
use super::{devices, ports, signals};
use crate::error::{Error, Result};

/// Checks a request that was completed by its image, writes what follows from it into it, and returns warnings.
pub(crate) fn check(config: &mut ContainerConfig, host: &mut HostConfig, has: &Host) -> Result<Vec<String>> {
    if config.entrypoint.as_ref().is_none_or(Vec::is_empty) && config.cmd.as_ref().is_none_or(Vec::is_empty) {
        return Err(Error::invalid("no command specified"));
    }
    settings(config)?;
    unsupported(host)?;
    let mut warnings = limits::check(host, has)?;
    restart_policy(host)?;
    ports::normalize(config, host)?;
    modes(config, host)?;
    names(host)?;
    security::capabilities(
        host.cap_add.as_deref().unwrap_or_default(),
        host.cap_drop.as_deref().unwrap_or_default(),
        false,
    )?;
    let options = SecurityOptions::parse(host.security_opt.as_deref().unwrap_or_default())?;
    warnings.extend(options.warnings);
    devices::check(host)?;
    sysctls(host)?;
    for (path, options) in host.tmpfs.iter().flatten() {
        super::mounts::tmpfs_options(options).map_err(|error| error.context(format!("tmpfs {path}")))?;
    }
    if network(host).is_host() && host.port_bindings.as_ref().is_some_and(|ports| !ports.is_empty()) {
        warnings.push("Published ports are discarded when using host network mode".to_owned());
    }
    Ok(warnings)
}

fn settings(config: &ContainerConfig) -> Result<()> {
    let directory = config.working_dir.as_deref().unwrap_or("");
    if !directory.is_empty() && !directory.starts_with('/') {
        return Err(Error::invalid(format!(
            "the working directory '{directory}' is invalid, it needs to be an absolute path"
        )));
    }
    for variable in config.env.iter().flatten() {
        if variable.starts_with('=') || variable.is_empty() {
            return Err(Error::invalid(format!("invalid environment variable: {variable:?}")));
        }
    }
    let texts = config.env.iter().chain(&config.cmd).chain(&config.entrypoint).flatten();
    if let Some(text) = texts.clone().find(|text| text.contains('\0')) {
        return Err(Error::invalid(format!("{text:?} has a NUL byte")));
    }
    for name in [&config.hostname, &config.domainname].into_iter().flatten() {
        if name.len() > 63 || name.contains(['\0', '\n', '/', ' ']) {
            return Err(Error::invalid(format!(
                "invalid hostname format: {name}: at most 63 letters, digits, '-' and '.'"
            )));
        }
    }
    if let Some(signal) = config.stop_signal.as_deref().filter(|signal| !signal.is_empty()) {
        signals::parse(signal)?;
    }
    healthcheck(config)
}

/// Refuses a health check that makes no sense.
pub(crate) fn healthcheck(config: &ContainerConfig) -> Result<()> {
    let Some(check) = &config.healthcheck else { return Ok(()) };
    let least = i64::try_from(Duration::from_millis(1).as_nanos()).unwrap_or(0);
    for (name, value) in [
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
    ] {
        if value.is_some_and(|value| value != 0 && value < least) {
            return Err(Error::invalid(format!("{name} in Healthcheck cannot be less than 1ms")));
        }
    }
    if check.retries.is_some_and(|retries| retries < 0) {
        return Err(Error::invalid("Retries in Healthcheck cannot be negative"));
    }
    match check.test.as_ref().and_then(|test| test.first()).map(String::as_str) {
        None | Some("" | "NONE" | "CMD" | "CMD-SHELL") => Ok(()),
        Some(other) => {
            Err(Error::invalid(format!("Unknown healthcheck type {other:?}: expected NONE, CMD or CMD-SHELL")))
        }
    }
}

fn unsupported(host: &HostConfig) -> Result<()> {
    let refuse = |what: &str| Err(Error::unsupported(format!("{what} is not supported by this engine")));
    if host.links.as_ref().is_some_and(|links| !links.is_empty()) {
        return refuse("Links (--link), which user-defined networks have replaced,");
    }
    if let Some(option) = host.storage_opt.iter().flatten().map(|(option, _)| option).min() {
        return Err(Error::invalid(match option.as_str() {
            "size" => "--storage-opt size needs a layer driver that sets project quotas (overlay over xfs with the mount option pquota); this engine's have none".to_owned(),
            _ => format!("unknown storage option {option}: only size is known"),
        }));
    }
    cgroup_parent(host)?;
    if host.cgroup.as_ref().is_some_and(|cgroup| !cgroup.is_empty()) {
        return refuse("Cgroup");
    }
    match host.isolation {
        None | Some(HostConfigIsolationEnum::EMPTY | HostConfigIsolationEnum::DEFAULT) => {}
        Some(other) => {
            return Err(Error::invalid(format!("invalid isolation '{other}': only 'default' is known on Linux")));
        }
    }
    match host.userns_mode.as_deref() {
        None | Some("" | "host") => {}
        Some(other) => {
            return Err(Error::unsupported(format!(
                "the user namespace mode {other:?} (--userns) is not supported yet; 'host' is"
            )));
        }
    }
    match host.runtime.as_deref() {
        None | Some("" | "sampan" | "runc") => Ok(()),
        Some(other) => Err(Error::invalid(format!("unknown or invalid runtime name: {other}"))),
    }
}

/// A parent is a path below the root of the cgroups, or below the engine's own group.
fn cgroup_parent(host: &HostConfig) -> Result<()> {
    const DEEPEST: usize = 16;
    let Some(parent) = host.cgroup_parent.as_deref().filter(|parent| !parent.is_empty()) else { return Ok(()) };
    let invalid = |why: &str| Err(Error::invalid(format!("invalid cgroup parent {parent:?}: {why}")));
    let parts: Vec<&str> = parent.trim_matches('/').split('/').collect();
    if parts == [""] {
        return invalid("name a group; containers do not lie in the root");
    }
    if parts.len() > DEEPEST {
        return invalid("it is more than 16 groups deep");
    }
    for part in parts {
        if matches!(part, "" | "." | "..") || part.len() > 255 || part.contains(|c: char| c.is_control()) {
            return invalid("each part is a plain name, not empty, '.' or '..'");
        }
        if part.len() == 64 && part.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return invalid("64 hexadecimal digits are a container's own group");
        }
    }
    Ok(())
}

/// Checks a restart policy, also one of `update`.
pub(crate) fn restart_policy(host: &HostConfig) -> Result<()> {
    let Some(policy) = &host.restart_policy else { return Ok(()) };
    let count = policy.maximum_retry_count.unwrap_or(0);
    let name = policy.name.unwrap_or(RestartPolicyNameEnum::EMPTY);
    if count < 0 {
        return Err(Error::invalid("invalid restart policy: maximum retry count cannot be negative"));
    }
    if count > 0 && name != RestartPolicyNameEnum::ON_FAILURE {
        return Err(Error::invalid("invalid restart policy: maximum retry count can only be used with 'on-failure'"));
    }
    let restarts = !matches!(name, RestartPolicyNameEnum::EMPTY | RestartPolicyNameEnum::NO);
    if restarts && host.auto_remove == Some(true) {
        return Err(Error::invalid("can't create 'AutoRemove' container with restart policy"));
    }
    Ok(())
}

/// How one of a container's namespaces is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Its own.
    Own,
    /// Its own, which others may join.
    Shareable,
    /// None, where that makes sense.
    None,
    /// The host's.
    Host,
    /// Another container's, by name or id.
    Container(String),
}

impl Sharing {
    fn parse(mode: Option<&str>, what: &str, known: &[&str]) -> Result<Self> {
        let mode = mode.unwrap_or("");
        let invalid = || Error::invalid(format!("invalid {what} mode: {mode}"));
        if let Some(name) = mode.strip_prefix("container:") {
            return if known.contains(&"container") && !name.is_empty() {
                Ok(Self::Container(name.to_owned()))
            } else {
                Err(invalid())
            };
        }
        match mode {
            "" => Ok(Self::Own),
            mode if !known.contains(&mode) => Err(invalid()),
            "host" => Ok(Self::Host),
            "shareable" => Ok(Self::Shareable),
            "none" => Ok(Self::None),
            _ => Ok(Self::Own),
        }
    }

    /// Whether it is the host's.
    pub(crate) fn is_host(&self) -> bool {
        *self == Self::Host
    }
}

/// Of processes.
pub(crate) fn pid(host: &HostConfig) -> Result<Sharing> {
    Sharing::parse(host.pid_mode.as_deref(), "PID", &["private", "host", "container"])
}

/// Of semaphores, queues and shared memory.
pub(crate) fn ipc(host: &HostConfig) -> Result<Sharing> {
    Sharing::parse(host.ipc_mode.as_deref(), "IPC", &["none", "private", "shareable", "host", "container"])
}

/// Of the host name.
pub(crate) fn uts(host: &HostConfig) -> Result<Sharing> {
    Sharing::parse(host.uts_mode.as_deref(), "UTS", &["private", "host"])
}

/// Of links and addresses; networks are `Own`.
pub(crate) fn network(host: &HostConfig) -> Sharing {
    match host.network_mode.as_deref().unwrap_or("") {
        "host" => Sharing::Host,
        "none" => Sharing::None,
        mode => match mode.strip_prefix("container:") {
            Some(name) => Sharing::Container(name.to_owned()),
            None => Sharing::Own,
        },
    }
}

fn modes(config: &ContainerConfig, host: &HostConfig) -> Result<()> {
    pid(host)?;
    ipc(host)?;
    let named = config.hostname.as_ref().is_some_and(|name| !name.is_empty());
    if uts(host)?.is_host() && named {
        return Err(Error::invalid("conflicting options: hostname and the UTS mode"));
    }
    let Sharing::Container(target) = network(host) else { return Ok(()) };
    if target.is_empty() {
        return Err(Error::invalid("invalid container format container:<name|id>"));
    }
    let filled = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let conflict = |what: &str| Err(Error::invalid(format!("conflicting options: {what}")));
    if named {
        return conflict("hostname and the network mode");
    }
    if filled(&host.dns) || filled(&host.dns_search) || filled(&host.dns_options) {
        return conflict("dns and the network mode");
    }
    if filled(&host.extra_hosts) {
        return conflict("custom host-to-IP mapping and the network mode");
    }
    if host.port_bindings.as_ref().is_some_and(|ports| !ports.is_empty()) || host.publish_all_ports == Some(true) {
        return conflict("port publishing and the container type network mode");
    }
    Ok(())
}

fn names(host: &HostConfig) -> Result<()> {
    for entry in host.extra_hosts.iter().flatten() {
        let (name, address) = extra_host(entry)?;
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(Error::invalid(format!("bad format for add-host: {entry:?}")));
        }
        if address != "host-gateway" && address.trim_matches(['[', ']']).parse::<IpAddr>().is_err() {
            return Err(Error::invalid(format!("invalid IP address in add-host: {address:?}")));
        }
    }
    for server in host.dns.iter().flatten() {
        if server.parse::<IpAddr>().is_err() {
            return Err(Error::invalid(format!("bad nameserver address {server}: it is not an IP address")));
        }
    }
    for group in host.group_add.iter().flatten() {
        if group.is_empty() || group.contains(':') {
            return Err(Error::invalid(format!("invalid group to add: {group:?}")));
        }
    }
    Ok(())
}

/// `NAME:ADDRESS` or `NAME=ADDRESS`.
pub(crate) fn extra_host(entry: &str) -> Result<(&str, &str)> {
    entry
        .split_once([':', '='])
        .filter(|(_, address)| !address.is_empty())
        .ok_or_else(|| Error::invalid(format!("bad format for add-host: {entry:?}")))
}

/// Kernel parameters that belong to a namespace of the container's.
fn sysctls(host: &HostConfig) -> Result<()> {
    const IPC: [&str; 9] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.shm_next_id",
    ];
    let shares_network = network(host).is_host();
    let shares_ipc = matches!(ipc(host)?, Sharing::Host | Sharing::Container(_));
    for name in host.sysctls.iter().flatten().map(|(name, _)| name) {
        let key = name.replace('/', ".");
        if key.split('.').any(str::is_empty) || key.contains("..") {
            return Err(Error::invalid(format!("sysctl '{name}' is not the name of a kernel parameter")));
        }
        if key.starts_with("net.") {
            if shares_network {
                return Err(Error::invalid(format!("sysctl '{name}' not allowed in host network namespace")));
            }
        } else if IPC.contains(&key.as_str()) || key.starts_with("fs.mqueue.") {
            if shares_ipc {
                return Err(Error::invalid(format!("sysctl '{name}' not allowed in a shared ipc namespace")));
            }
        } else if key == "kernel.domainname" {
            if uts(host)?.is_host() {
                return Err(Error::invalid(format!("sysctl '{name}' not allowed in host UTS namespace")));
            }
        } else {
            return Err(Error::invalid(format!("sysctl '{name}' is not in a separate kernel namespace")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bollard_stubs::models::{HealthConfig, RestartPolicy};

    fn with(config: ContainerConfig, host: HostConfig) -> Result<Vec<String>> {
        let mut config = ContainerConfig { cmd: Some(vec!["true".into()]), ..config };
        let mut host = host;
        check(&mut config, &mut host, &limits::some_host())
    }

    fn host(change: impl FnOnce(&mut HostConfig)) -> String {
        let mut host = HostConfig::default();
        change(&mut host);
        with(ContainerConfig::default(), host).unwrap_err().message
    }

    fn config(change: impl FnOnce(&mut ContainerConfig)) -> String {
        let mut config = ContainerConfig::default();
        change(&mut config);
        with(config, HostConfig::default()).unwrap_err().message
    }

    #[test]
    fn plain_requests_pass_without_a_warning() {
        assert_eq!(with(ContainerConfig::default(), HostConfig::default()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn conflicts_are_told_in_dockers_words() {
        let policy = |name| Some(RestartPolicy { name: Some(name), maximum_retry_count: None });
        assert_eq!(
            host(|h| (h.auto_remove, h.restart_policy) = (Some(true), policy(RestartPolicyNameEnum::ALWAYS))),
            "can't create 'AutoRemove' container with restart policy"
        );
        assert_eq!(
            host(|h| h.restart_policy =
                Some(RestartPolicy { name: Some(RestartPolicyNameEnum::ALWAYS), maximum_retry_count: Some(2) })),
            "invalid restart policy: maximum retry count can only be used with 'on-failure'"
        );
        assert_eq!(
            host(|h| {
                h.network_mode = Some("container:web".into());
                h.publish_all_ports = Some(true);
            }),
            "conflicting options: port publishing and the container type network mode"
        );
        assert_eq!(host(|h| h.ipc_mode = Some("mine".into())), "invalid IPC mode: mine");
        assert_eq!(host(|h| h.pid_mode = Some("container:".into())), "invalid PID mode: container:");
        assert!(host(|h| h.links = Some(vec!["db".into()])).contains("--link"));
        assert!(host(|h| h.userns_mode = Some("auto".into())).contains("--userns"));
        assert_eq!(host(|h| h.runtime = Some("kata".into())), "unknown or invalid runtime name: kata");
        let sized = |option: &str| Some([(option.to_owned(), "1g".to_owned())].into());
        assert!(host(|h| h.storage_opt = sized("size")).contains("project quotas"));
        assert!(host(|h| h.storage_opt = sized("x")).contains("unknown storage option x"));
    }

    #[test]
    fn a_cgroup_parent_is_a_plain_path() {
        let parent = |text: &str| {
            let host = HostConfig { cgroup_parent: Some(text.to_owned()), ..HostConfig::default() };
            with(ContainerConfig::default(), host)
        };
        for good in ["", "/ci", "ci/jobs", "/system.slice/x.slice/"] {
            assert!(parent(good).is_ok(), "{good}");
        }
        for bad in ["/", "..", "/a/../b", "a//b", "a/./b", "a\nb", &"a/".repeat(20), &"0a".repeat(32), &"x".repeat(300)]
        {
            let message = parent(bad).unwrap_err().message;
            assert!(message.starts_with("invalid cgroup parent "), "{bad}: {message}");
        }
    }

    #[test]
    fn wrong_values_are_refused() {
        assert!(config(|c| c.working_dir = Some("app".into())).contains("needs to be an absolute path"));
        assert_eq!(config(|c| c.env = Some(vec!["=x".into()])), "invalid environment variable: \"=x\"");
        assert_eq!(config(|c| c.stop_signal = Some("SIGX".into())), "invalid signal: SIGX");
        assert!(config(|c| c.hostname = Some("a".repeat(64))).starts_with("invalid hostname format"));
        let check = |interval, test: &str| {
            Some(HealthConfig { interval: Some(interval), test: Some(vec![test.into()]), ..HealthConfig::default() })
        };
        assert_eq!(config(|c| c.healthcheck = check(5, "CMD")), "Interval in Healthcheck cannot be less than 1ms");
        assert!(config(|c| c.healthcheck = check(0, "RUN")).starts_with("Unknown healthcheck type \"RUN\""));
        assert_eq!(host(|h| h.extra_hosts = Some(vec!["db".into()])), "bad format for add-host: \"db\"");
        assert!(host(|h| h.extra_hosts = Some(vec!["db:x".into()])).starts_with("invalid IP address in add-host"));
        let sysctl = |name: &str| Some([(name.to_owned(), "1".to_owned())].into());
        assert!(host(|h| h.sysctls = sysctl("vm.swappiness")).contains("separate kernel namespace"));
        assert!(host(|h| h.sysctls = sysctl("net..x")).contains("not the name"));
        assert!(
            host(|h| (h.sysctls, h.network_mode) = (sysctl("net.ipv4.ip_forward"), Some("host".into())))
                .contains("host network")
        );
    }

    #[test]
    fn host_entries_take_both_forms_and_ipv6() {
        assert_eq!(extra_host("db:10.0.0.1").unwrap(), ("db", "10.0.0.1"));
        assert_eq!(extra_host("db=::1").unwrap(), ("db", "::1"));
        assert_eq!(extra_host("db:::1").unwrap(), ("db", "::1"));
    }
}
