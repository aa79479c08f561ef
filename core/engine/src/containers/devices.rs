//! Devices of the host for containers.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use bollard_stubs::models::HostConfig;
use serde_json::{Value, json};

use super::record::MountRecord;
use crate::cdi;
use crate::error::{Error, Result};

/// A device node to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    /// In the container.
    pub path: String,
    /// `b` or `c`.
    pub kind: char,
    /// Number of the driver.
    pub major: u64,
    /// Number of the device.
    pub minor: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Some of `rwm`.
    pub access: String,
}

impl Device {
    /// As OCI's `linux.devices`.
    pub(crate) fn node(&self) -> Value {
        json!({
            "path": self.path, "type": self.kind.to_string(), "major": self.major, "minor": self.minor,
            "fileMode": self.mode, "uid": self.uid, "gid": self.gid,
        })
    }

    /// As OCI's `linux.resources.devices`.
    pub(crate) fn rule(&self) -> Value {
        json!({
            "allow": true, "type": self.kind.to_string(), "major": self.major, "minor": self.minor,
            "access": self.access,
        })
    }
}

/// Limits of block devices as OCI's `linux.resources.blockIO`; the devices are looked up on the host.
pub(crate) fn throttles(host: &HostConfig) -> Result<Vec<(&'static str, Vec<Value>)>> {
    let mut all = Vec::new();
    for (key, list) in throttle_lists(host) {
        let mut devices = Vec::new();
        for device in list.iter().flatten() {
            let path = device.path.as_deref().unwrap_or("");
            let found = fs::metadata(path).map_err(|error| Error::invalid(format!("the device {path}: {error}")))?;
            if !found.file_type().is_block_device() {
                return Err(Error::invalid(format!("{path} is not a block device; only such can be limited")));
            }
            let (major, minor) = (nix::sys::stat::major(found.rdev()), nix::sys::stat::minor(found.rdev()));
            devices.push(json!({ "major": major, "minor": minor, "rate": device.rate.unwrap_or(0) }));
        }
        if !devices.is_empty() {
            all.push((key, devices));
        }
    }
    Ok(all)
}

type Throttles = Option<Vec<bollard_stubs::models::ThrottleDevice>>;

fn throttle_lists(host: &HostConfig) -> [(&'static str, &Throttles); 4] {
    [
        ("throttleReadBpsDevice", &host.blkio_device_read_bps),
        ("throttleWriteBpsDevice", &host.blkio_device_write_bps),
        ("throttleReadIOPSDevice", &host.blkio_device_read_iops),
        ("throttleWriteIOPSDevice", &host.blkio_device_write_iops),
    ]
}

/// Refuses wrong forms of devices and rules before anything is made.
pub(crate) fn check(host: &HostConfig) -> Result<()> {
    for device in throttle_lists(host).into_iter().flat_map(|(_, list)| list.iter().flatten()) {
        let path = device.path.as_deref().unwrap_or("");
        if !path.starts_with("/dev/") || Path::new(path).components().any(|part| part.as_os_str() == "..") {
            return Err(Error::invalid(format!("bad format for device path: {path}: it must lie below /dev")));
        }
        if device.rate.is_none_or(|rate| rate <= 0) {
            return Err(Error::invalid(format!("the limit of {path} must be a positive number")));
        }
    }
    for device in host.devices.iter().flatten() {
        let access = device.cgroup_permissions.as_deref().unwrap_or("rwm");
        if !access.chars().all(|c| "rwm".contains(c)) {
            return Err(Error::invalid(format!("invalid device mode: {access}: give some of r, w and m")));
        }
        let inside = device.path_in_container.as_deref().unwrap_or("");
        if !inside.is_empty() && !inside.starts_with('/') {
            return Err(Error::invalid(format!("{inside} is not an absolute path")));
        }
        if device.path_on_host.as_deref().unwrap_or("").is_empty() {
            return Err(Error::invalid("a device has no path on the host"));
        }
    }
    for rule in host.device_cgroup_rules.iter().flatten() {
        parse_rule(rule)?;
    }
    Ok(())
}

/// `c 1:3 rwm`, `b *:* r`, `a`.
pub(crate) fn parse_rule(rule: &str) -> Result<Value> {
    let invalid = || Error::invalid(format!("invalid device cgroup rule format: '{rule}'"));
    let parts: Vec<&str> = rule.split_whitespace().collect();
    let (kind, numbers, access) = match parts[..] {
        [kind @ ("a" | "b" | "c"), numbers, access] => (kind, numbers, access),
        _ => return Err(invalid()),
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(invalid)?;
    let number = |text: &str| match text {
        "*" => Ok(None),
        text => text.parse::<u32>().map(Some).map_err(|_| invalid()),
    };
    if access.is_empty() || !access.chars().all(|c| "rwm".contains(c)) {
        return Err(invalid());
    }
    let mut out = json!({ "allow": true, "type": kind, "access": access });
    for (key, value) in [("major", number(major)?), ("minor", number(minor)?)] {
        if let Some(value) = value {
            out[key] = json!(value);
        }
    }
    Ok(out)
}

/// The devices that were asked for; a directory stands for all that is in it.
pub(crate) fn wanted(host: &HostConfig) -> Result<Vec<Device>> {
    let mut found = Vec::new();
    for device in host.devices.iter().flatten() {
        let outside = PathBuf::from(device.path_on_host.as_deref().unwrap_or(""));
        let inside = device.path_in_container.as_deref().filter(|path| !path.is_empty());
        let inside = inside.map_or_else(|| outside.clone(), PathBuf::from);
        let access = device.cgroup_permissions.as_deref().filter(|text| !text.is_empty()).unwrap_or("rwm");
        let gather = |error: &dyn std::fmt::Display| {
            Error::invalid(format!(
                "error gathering device information while adding custom device \"{}\": {error}",
                outside.display()
            ))
        };
        let real = fs::canonicalize(&outside).map_err(|error| gather(&error))?;
        if real.is_dir() {
            collect(&real, &inside, access, &mut found);
        } else {
            found.push(describe(&real, &inside, access).ok_or_else(|| gather(&"not a device node"))?);
        }
    }
    Ok(found)
}

/// Every device of the host, for `--privileged`.
pub(crate) fn all() -> Vec<Device> {
    let mut found = Vec::new();
    collect(Path::new("/dev"), Path::new("/dev"), "rwm", &mut found);
    found
}

/// Adds device nodes that specifications name; one at the same path is replaced.
pub(crate) fn add(all: &mut Vec<Device>, nodes: &[cdi::DeviceNode]) -> Result<()> {
    for node in nodes {
        let outside = PathBuf::from(if node.host_path.is_empty() { &node.path } else { &node.host_path });
        let failed = |why: &dyn std::fmt::Display| {
            Error::invalid(format!("CDI device injection failed: device node {}: {why}", outside.display()))
        };
        let access = if node.permissions.is_empty() { "rwm" } else { &node.permissions };
        let kind = match node.kind.as_str() {
            "b" => Some('b'),
            "c" | "u" => Some('c'),
            _ => None,
        };
        let mut device = match (kind, node.major) {
            // Described whole: it need not be there yet.
            (Some(kind), Some(major)) => Device {
                path: node.path.clone(),
                kind,
                major: major.into(),
                minor: node.minor.unwrap_or(0).into(),
                mode: 0o666,
                uid: 0,
                gid: 0,
                access: access.to_owned(),
            },
            _ => {
                let real = fs::canonicalize(&outside).map_err(|error| failed(&error))?;
                let found = describe(&real, Path::new(&node.path), access);
                let found = found.ok_or_else(|| failed(&"it is not a device node"))?;
                if kind.is_some_and(|kind| kind != found.kind) {
                    return Err(failed(&format!("it is of type {} and not {}", found.kind, node.kind)));
                }
                found
            }
        };
        device.mode = node.file_mode.unwrap_or(device.mode);
        device.uid = node.uid.unwrap_or(device.uid);
        device.gid = node.gid.unwrap_or(device.gid);
        all.retain(|other| other.path != device.path);
        all.push(device);
    }
    Ok(())
}

/// A bind that a specification names: its source and how it is mounted.
pub(crate) fn mount(wanted: &cdi::Mount) -> (PathBuf, MountRecord) {
    let has = |option: &str| wanted.options.iter().any(|given| given == option);
    let propagations = ["private", "rprivate", "slave", "rslave", "shared", "rshared"];
    let propagation = wanted.options.iter().find(|option| propagations.contains(&option.as_str()));
    let other = |option: &&String| {
        !propagations.contains(&option.as_str()) && !["ro", "rw", "bind", "rbind"].contains(&option.as_str())
    };
    let record = MountRecord {
        kind: "bind".to_owned(),
        source: wanted.host_path.clone(),
        destination: wanted.container_path.clone(),
        rw: !has("ro"),
        propagation: propagation.cloned().unwrap_or_default(),
        non_recursive: has("bind") && !has("rbind"),
        options: wanted.options.iter().filter(other).cloned().collect::<Vec<_>>().join(","),
        ..MountRecord::default()
    };
    (PathBuf::from(&wanted.host_path), record)
}

fn collect(outside: &Path, inside: &Path, access: &str, found: &mut Vec<Device>) {
    for entry in fs::read_dir(outside).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            let own_mount = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];
            if !own_mount.iter().any(|skipped| name == *skipped) {
                collect(&entry.path(), &inside.join(&name), access, found);
            }
        } else if name != "console" && name != "ptmx" {
            found.extend(describe(&entry.path(), &inside.join(&name), access));
        }
    }
}

fn describe(outside: &Path, inside: &Path, access: &str) -> Option<Device> {
    let metadata = fs::symlink_metadata(outside).ok()?;
    let kind = match metadata.file_type() {
        kind if kind.is_block_device() => 'b',
        kind if kind.is_char_device() => 'c',
        _ => return None,
    };
    Some(Device {
        path: inside.to_string_lossy().into_owned(),
        kind,
        major: nix::sys::stat::major(metadata.rdev()),
        minor: nix::sys::stat::minor(metadata.rdev()),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        access: access.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bollard_stubs::models::DeviceMapping;

    fn asking_for(path: &str) -> HostConfig {
        let device = DeviceMapping { path_on_host: Some(path.into()), ..DeviceMapping::default() };
        HostConfig { devices: Some(vec![device]), ..HostConfig::default() }
    }

    #[test]
    fn devices_are_found_and_others_refused() {
        let null = wanted(&asking_for("/dev/null")).unwrap().remove(0);
        assert_eq!((null.kind, null.major, null.minor, null.access.as_str()), ('c', 1, 3, "rwm"));
        for bad in ["/etc/passwd", "/dev/no-such"] {
            let message = wanted(&asking_for(bad)).unwrap_err().message;
            assert!(
                message
                    .starts_with(&format!("error gathering device information while adding custom device \"{bad}\""))
            );
        }
    }

    #[test]
    fn nodes_of_specifications_are_looked_up_or_made_as_described() {
        let mut all = wanted(&asking_for("/dev/null")).unwrap();
        let node = |path: &str| cdi::DeviceNode { path: path.into(), ..cdi::DeviceNode::default() };
        let as_on_host = cdi::DeviceNode { host_path: "/dev/zero".into(), file_mode: Some(0o600), ..node("/dev/null") };
        let described =
            cdi::DeviceNode { kind: "c".into(), major: Some(240), minor: Some(1), uid: Some(5), ..node("/dev/later") };
        add(&mut all, &[as_on_host, described]).unwrap();
        let found: Vec<_> = all.iter().map(|d| (d.path.as_str(), d.major, d.minor, d.mode, d.uid)).collect();
        assert_eq!(found, [("/dev/null", 1, 5, 0o600, 0), ("/dev/later", 240, 1, 0o666, 5)]);
        let other = cdi::DeviceNode { kind: "b".into(), ..node("/dev/null") };
        for bad in [node("/dev/no-such"), node("/etc/passwd"), other] {
            let message = add(&mut all, &[bad]).unwrap_err().message;
            assert!(message.starts_with("CDI device injection failed: device node"), "{message}");
        }
    }

    #[test]
    fn binds_of_specifications_keep_their_options() {
        let wanted = cdi::Mount {
            host_path: "/a".into(),
            container_path: "/b".into(),
            options: ["ro", "nosuid", "bind", "rslave", "nodev"].map(str::to_owned).to_vec(),
            kind: String::new(),
        };
        let (source, record) = mount(&wanted);
        assert_eq!((source, record.rw, record.non_recursive), (PathBuf::from("/a"), false, true));
        assert_eq!((record.propagation.as_str(), record.options.as_str()), ("rslave", "nosuid,nodev"));
    }

    #[test]
    fn rules_are_read() {
        assert_eq!(parse_rule("c 1:3 rw").unwrap(), json!({"allow":true,"type":"c","access":"rw","major":1,"minor":3}));
        assert_eq!(parse_rule("b *:* m").unwrap(), json!({"allow":true,"type":"b","access":"m"}));
        for bad in ["", "a", "d 1:3 r", "c 1 r", "c 1:x r", "c 1:3 z"] {
            assert!(parse_rule(bad).is_err(), "{bad}");
        }
    }
}
