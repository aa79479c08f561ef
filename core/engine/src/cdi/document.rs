//! A specification's document, checked as far as a container depends on it.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use sampan_build::device::{is_device, is_kind};
use serde::Deserialize;
use serde_json::Value;

/// Devices of one specification.
const DEVICES: usize = 4096;
/// Entries of one list of edits.
const ENTRIES: usize = 1024;

/// A specification: <https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md>.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document {
    pub cdi_version: String,
    /// `vendor.com/class`
    pub kind: String,
    #[serde(default)]
    pub devices: Vec<Device>,
    #[serde(default)]
    pub annotations: BTreeMap<String, Value>,
    /// For whichever of the devices is used.
    #[serde(default)]
    pub container_edits: Edits,
    /// Whether nobody but root can write the file.
    #[serde(skip)]
    pub trusted: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Device {
    pub name: String,
    #[serde(default)]
    pub annotations: BTreeMap<String, Value>,
    #[serde(default)]
    pub container_edits: Edits,
}

/// What is done to a container.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Edits {
    pub env: Vec<String>,
    pub device_nodes: Vec<DeviceNode>,
    pub mounts: Vec<Mount>,
    #[serde(rename = "additionalGIDs", alias = "additionalGids")]
    pub additional_gids: Vec<u32>,
    pub hooks: Vec<Hook>,
    intel_rdt: Option<Value>,
    net_devices: Vec<Value>,
}

/// A program that runs at a moment of a container's life.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Hook {
    /// The moment.
    pub hook_name: String,
    /// On the host; in the container for `startContainer`.
    pub path: String,
    /// Its own name first.
    pub args: Vec<String>,
    pub env: Vec<String>,
    /// In seconds.
    pub timeout: Option<i64>,
}

/// A device node for a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct DeviceNode {
    /// In the container.
    pub path: String,
    /// On the host; the same when empty.
    pub host_path: String,
    /// `b`, `c`, `u`, `p`, or empty: as it is on the host.
    #[serde(rename = "type")]
    pub kind: String,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    /// Permission bits.
    pub file_mode: Option<u32>,
    /// Some of `rwm`; all when empty.
    pub permissions: String,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

/// A folder or file of the host's for a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Mount {
    pub host_path: String,
    pub container_path: String,
    pub options: Vec<String>,
    #[serde(rename = "type")]
    pub kind: String,
}

impl Document {
    /// What holds for all of it; edits are checked when they are used.
    pub(super) fn check(&self) -> Result<(), String> {
        let mut numbers = self.cdi_version.split('.');
        let major = numbers.next().and_then(|text| text.parse::<u32>().ok());
        if !matches!(major, Some(0 | 1)) {
            return Err(format!("cdiVersion {:?} is not one that is known: 0.x or 1.x", self.cdi_version));
        }
        if !is_kind(&self.kind) {
            return Err(format!("kind {:?} is not as vendor.com/class", self.kind));
        }
        if self.devices.len() > DEVICES {
            return Err(format!("it has more than {DEVICES} devices"));
        }
        match self.devices.iter().find(|device| !is_device(&device.name)) {
            Some(device) => Err(format!("{:?} is not the name of a device", device.name)),
            None => Ok(()),
        }
    }
}

impl Edits {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.intel_rdt.as_ref().is_some_and(|value| !value.is_null()) {
            return Err("intelRdt is not supported".to_owned());
        }
        if !self.net_devices.is_empty() {
            return Err("netDevices are not supported".to_owned());
        }
        let lists =
            [self.env.len(), self.device_nodes.len(), self.mounts.len(), self.additional_gids.len(), self.hooks.len()];
        if lists.iter().any(|length| *length > ENTRIES) {
            return Err(format!("a list of its edits is longer than {ENTRIES}"));
        }
        check_variables(&self.env)?;
        self.hooks.iter().try_for_each(Hook::check)?;
        self.device_nodes.iter().try_for_each(DeviceNode::check)?;
        self.mounts.iter().try_for_each(Mount::check)
    }
}

fn check_variables(all: &[String]) -> Result<(), String> {
    let wrong = |variable: &&String| {
        variable.contains('\0') || variable.split_once('=').is_none_or(|(name, _)| name.is_empty())
    };
    match all.iter().find(wrong) {
        Some(variable) => Err(format!("{variable:?} is not a variable as NAME=VALUE")),
        None => Ok(()),
    }
}

impl Hook {
    /// The moments that there are.
    const MOMENTS: [&str; 6] =
        ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

    fn check(&self) -> Result<(), String> {
        if !Self::MOMENTS.contains(&self.hook_name.as_str()) {
            return Err(format!(
                "the hook {} is of {:?}; known are {}",
                self.path,
                self.hook_name,
                Self::MOMENTS.join(", ")
            ));
        }
        if !is_plain(&self.path) {
            return Err(format!("the hook {:?} has no absolute path", self.path));
        }
        if self.args.len().max(self.env.len()) > ENTRIES || self.args.iter().any(|word| word.contains('\0')) {
            return Err(format!("the hook {} has arguments that can't be passed", self.path));
        }
        check_variables(&self.env)
    }

    /// Whether it is run with the rights of the engine.
    pub(super) fn is_of_the_host(&self) -> bool {
        self.hook_name != "startContainer"
    }
}

/// Whether a path is absolute and leads where it says.
fn is_plain(path: &str) -> bool {
    path.starts_with('/')
        && !path.contains('\0')
        && !Path::new(path).components().any(|part| part == Component::ParentDir)
        && !path.trim_matches('/').is_empty()
}

impl DeviceNode {
    fn check(&self) -> Result<(), String> {
        if !is_plain(&self.path) || !self.host_path.is_empty() && !is_plain(&self.host_path) {
            return Err(format!("the device {:?} has no absolute path", self.path));
        }
        if !matches!(self.kind.as_str(), "" | "b" | "c" | "u") {
            return Err(format!("the device {} is of type {:?}; known are b, c and u", self.path, self.kind));
        }
        if !self.permissions.chars().all(|c| "rwm".contains(c)) {
            return Err(format!(
                "the device {} has permissions {:?}; they are of r, w and m",
                self.path, self.permissions
            ));
        }
        if self.file_mode.is_some_and(|mode| mode > 0o7777) {
            return Err(format!("the device {} has a mode beyond permission bits", self.path));
        }
        Ok(())
    }
}

impl Mount {
    /// Options that a bind may have.
    const OPTIONS: [&str; 17] = [
        "ro", "rw", "bind", "rbind", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "private", "rprivate",
        "slave", "rslave", "shared", "rshared", "relatime",
    ];

    fn check(&self) -> Result<(), String> {
        if !is_plain(&self.host_path) || !is_plain(&self.container_path) {
            return Err(format!(
                "the mount {:?} at {:?} is not between absolute paths",
                self.host_path, self.container_path
            ));
        }
        if !matches!(self.kind.as_str(), "" | "bind" | "none") {
            return Err(format!(
                "the mount at {} is of type {:?}; only binds are made",
                self.container_path, self.kind
            ));
        }
        match self.options.iter().find(|option| !Self::OPTIONS.contains(&option.as_str())) {
            Some(option) => Err(format!("the mount at {} has the option {option:?}", self.container_path)),
            None => Ok(()),
        }
    }
}
