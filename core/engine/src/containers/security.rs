//! Rights: capabilities, `--security-opt`, and custom seccomp profiles in Docker's format. Pure.

use serde_json::{Value, json};

use crate::error::{Error, Result};

/// Capabilities of a container that asks for nothing.
pub(crate) const DEFAULT_CAPABILITIES: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

pub(super) const ALL_CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Names with `CAP_` in a settled order; `add` and `drop` as on the command line.
pub(crate) fn capabilities(add: &[String], drop: &[String], privileged: bool) -> Result<Vec<String>> {
    let parse = |list: &[String], option: &str| -> Result<(bool, Vec<&'static str>)> {
        let (mut all, mut names) = (false, Vec::new());
        for given in list {
            let upper = given.to_ascii_uppercase();
            let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
            if bare == "ALL" {
                all = true;
                continue;
            }
            match ALL_CAPABILITIES.iter().find(|known| **known == bare) {
                Some(known) => names.push(*known),
                None => return Err(Error::invalid(format!("invalid {option}: unknown capability: \"CAP_{bare}\""))),
            }
        }
        Ok((all, names))
    };
    let (add_all, added) = parse(add, "CapAdd")?;
    let (drop_all, dropped) = parse(drop, "CapDrop")?;
    let has = |name: &str| match (privileged, add_all, drop_all) {
        (true, ..) => true,
        (_, true, _) => !dropped.contains(&name),
        (_, _, true) => added.contains(&name),
        _ => added.contains(&name) || (DEFAULT_CAPABILITIES.contains(&name) && !dropped.contains(&name)),
    };
    Ok(ALL_CAPABILITIES.iter().filter(|name| has(name)).map(|name| format!("CAP_{name}")).collect())
}

/// What `--security-opt` asks for.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct SecurityOptions {
    /// `no-new-privileges`.
    pub no_new_privileges: bool,
    /// `seccomp=unconfined`.
    pub seccomp_unconfined: bool,
    /// `seccomp=PROFILE`, as text.
    pub seccomp_profile: Option<String>,
    /// `systempaths=unconfined`.
    pub system_paths_unconfined: bool,
    /// `writable-cgroups=true`.
    pub writable_cgroups: bool,
    /// What was taken but does nothing here.
    pub warnings: Vec<String>,
}

impl SecurityOptions {
    /// Reads the options, refusing those that are not known.
    pub(crate) fn parse(options: &[String]) -> Result<Self> {
        let mut parsed = Self::default();
        for option in options {
            if option == "no-new-privileges" {
                parsed.no_new_privileges = true;
                continue;
            }
            let invalid = || Error::invalid(format!("invalid --security-opt 2: {option:?}"));
            // The older form has a colon; a profile's own colons stay.
            let at = option.find(['=', ':']).ok_or_else(invalid)?;
            let (key, value) = (&option[..at], &option[at + 1..]);
            let truth = || match value {
                "true" | "1" => Ok(true),
                "false" | "0" => Ok(false),
                _ => Err(invalid()),
            };
            match key {
                "no-new-privileges" => parsed.no_new_privileges = truth()?,
                "writable-cgroups" => parsed.writable_cgroups = truth()?,
                "systempaths" if value == "unconfined" => parsed.system_paths_unconfined = true,
                "seccomp" => match value {
                    "unconfined" => parsed.seccomp_unconfined = true,
                    "builtin" | "default" => {}
                    profile => parsed.seccomp_profile = Some(profile.to_owned()),
                },
                "apparmor" if value == "unconfined" => {}
                "apparmor" => parsed.warnings.push(format!(
                    "This engine sets no AppArmor profiles: {option:?} has no effect. Seccomp and capabilities apply."
                )),
                "label" if value == "disable" => {}
                "label" => {
                    return Err(Error::unsupported(format!(
                        "--security-opt {option:?}: SELinux labels are not supported by this engine"
                    )));
                }
                _ => return Err(invalid()),
            }
        }
        if let Some(profile) = &parsed.seccomp_profile {
            // An error is told when the container is made, not when it starts.
            profile_to_oci(profile, &[])?;
        }
        Ok(parsed)
    }
}

/// A profile in Docker's format (or OCI's, which is a part of it) as OCI's `linux.seccomp`.
pub(crate) fn profile_to_oci(profile: &str, capabilities: &[String]) -> Result<Value> {
    let invalid = |why: &str| Error::invalid(format!("Decoding seccomp profile failed: {why}"));
    let document: Value = serde_json::from_str(profile).map_err(|error| invalid(&error.to_string()))?;
    let Value::Object(document) = document else { return Err(invalid("it is not a JSON object")) };
    let Some(default_action) = document.get("defaultAction").and_then(Value::as_str) else {
        return Err(invalid("defaultAction is missing"));
    };
    let listed = |condition: Option<&Value>, key: &str| -> Vec<String> {
        let list = condition.and_then(|condition| condition.get(key)).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let here = if cfg!(target_arch = "aarch64") { ["arm64", "aarch64"] } else { ["amd64", "x86_64"] };
    let applies = |rule: &Value| {
        let (includes, excludes) = (rule.get("includes"), rule.get("excludes"));
        let is_here = |arch: &String| here.contains(&arch.as_str());
        let (arches, caps) = (listed(includes, "arches"), listed(includes, "caps"));
        (arches.is_empty() || arches.iter().any(is_here))
            && caps.iter().all(|capability| capabilities.contains(capability))
            && !listed(excludes, "arches").iter().any(is_here)
            && !listed(excludes, "caps").iter().any(|capability| capabilities.contains(capability))
    };
    let mut calls = Vec::new();
    for rule in document.get("syscalls").and_then(Value::as_array).into_iter().flatten() {
        if !applies(rule) {
            continue;
        }
        let names: Vec<Value> = match (rule.get("names"), rule.get("name")) {
            (Some(Value::Array(names)), _) => names.clone(),
            (_, Some(name @ Value::String(_))) => vec![name.clone()],
            _ => return Err(invalid("a rule of syscalls has no names")),
        };
        let action = rule.get("action").cloned().unwrap_or_else(|| json!("SCMP_ACT_ALLOW"));
        let mut out = json!({ "names": names, "action": action });
        for key in ["errnoRet", "args"] {
            match rule.get(key) {
                None | Some(Value::Null) => {}
                Some(Value::Array(list)) if list.is_empty() => {}
                Some(value) => out[key] = value.clone(),
            }
        }
        calls.push(out);
    }
    let mut out = json!({ "defaultAction": default_action, "syscalls": calls });
    if let Some(code @ Value::Number(_)) = document.get("defaultErrnoRet") {
        out["defaultErrnoRet"] = code.clone();
    }
    serde_json::from_value::<oci_spec::runtime::LinuxSeccomp>(out.clone())
        .map_err(|error| invalid(&error.to_string()))?;
    Ok(out)
}

/// Paths that a container does not see.
pub(crate) fn masked_paths() -> Vec<String> {
    let mut paths: Vec<String> = [
        "/proc/asound",
        "/proc/acpi",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/sys/firmware",
        "/sys/devices/virtual/powercap",
    ]
    .map(str::to_owned)
    .to_vec();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let throttles = (0..cpus).map(|cpu| format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle"));
    paths.extend(throttles.filter(|path| std::path::Path::new(path).exists()));
    paths
}

/// Paths that a container may only read.
pub(crate) fn readonly_paths() -> Vec<String> {
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"].map(str::to_owned).to_vec()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn of(add: &[&str], drop: &[&str]) -> Vec<String> {
        let own = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        capabilities(&own(add), &own(drop), false).unwrap()
    }

    #[test]
    fn capabilities_add_and_drop() {
        assert_eq!(of(&[], &[]).len(), 14);
        assert_eq!(of(&["ALL"], &[]).len(), 41);
        assert_eq!(of(&[], &["ALL"]), Vec::<String>::new());
        assert_eq!(of(&["net_admin"], &["all"]), ["CAP_NET_ADMIN"]);
        assert_eq!(of(&["ALL"], &["CAP_SYS_ADMIN"]).len(), 40);
        assert!(!of(&[], &["MKNOD"]).contains(&"CAP_MKNOD".to_owned()));
        assert_eq!(capabilities(&[], &["ALL".to_owned()], true).unwrap().len(), 41);
        assert_eq!(
            capabilities(&["FLY".to_owned()], &[], false).unwrap_err().message,
            "invalid CapAdd: unknown capability: \"CAP_FLY\""
        );
    }

    #[test]
    fn options_are_read_in_both_forms() {
        let parse = |options: &[&str]| {
            SecurityOptions::parse(&options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
        };
        assert!(parse(&["no-new-privileges"]).unwrap().no_new_privileges);
        assert!(parse(&["no-new-privileges:true"]).unwrap().no_new_privileges);
        assert!(parse(&["seccomp=unconfined", "apparmor=unconfined", "label=disable"]).unwrap().seccomp_unconfined);
        assert_eq!(parse(&["apparmor=mine"]).unwrap().warnings.len(), 1);
        for bad in ["colour=red", "nonsense", "no-new-privileges=maybe", "seccomp={", "label=type:x"] {
            assert!(parse(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn profiles_keep_what_applies_here() {
        let profile = r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,"archMap":[],"syscalls":[
            {"names":["read"],"action":"SCMP_ACT_ALLOW","args":[]},
            {"names":["mount"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}},
            {"names":["arm_fadvise64_64"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["arm"]}}]}"#;
        let names = |capabilities: &[String]| {
            let oci = profile_to_oci(profile, capabilities).unwrap();
            oci["syscalls"].as_array().unwrap().iter().map(|rule| rule["names"][0].clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(&[]), ["read"]);
        assert_eq!(names(&["CAP_SYS_ADMIN".to_owned()]), ["read", "mount"]);
    }
}
