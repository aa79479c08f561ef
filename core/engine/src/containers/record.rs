//! What is known of a container.

use std::collections::HashMap;

use bollard_stubs::models::{ContainerConfig, EndpointSettings, HostConfig, PortMap};
use sampan_store::Collection;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Containers by id.
pub(crate) const CONTAINERS: Collection<ContainerRecord> = Collection::new("containers");
/// Ids of containers by name.
pub(crate) const NAMES: Collection<String> = Collection::new("container-names");

/// A container as the store keeps it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Without a slash.
    pub name: String,
    /// Nanoseconds since the epoch.
    pub created_ns: u64,
    /// `sha256:…` of the image; empty for one without (a file system of its own).
    pub image: String,
    /// Chain ids of the image's layers, nearest first.
    pub chain: Vec<String>,
    /// What the image brought and the request changed.
    pub config: ContainerConfig,
    /// How it is run.
    pub host: HostConfig,
    /// Networks to join, by the name asked for.
    pub networks: HashMap<String, EndpointSettings>,
    /// What is mounted.
    pub mounts: Vec<MountRecord>,
    /// Log driver with the daemon's defaults applied.
    pub log_driver: String,
    /// Its options.
    pub log_options: HashMap<String, String>,
    /// How it stands.
    pub state: State,
    /// How often the restart policy has started it.
    pub restart_count: u32,
    /// Stopped by hand, which `unless-stopped` and `always` honour.
    pub stopped_by_hand: bool,
    /// Ended with the daemon, the host or its shim: not the program's doing, nor a user's.
    #[serde(default)]
    pub lost: bool,
    /// Its limits or restart policy were changed by a user's `update`.
    #[serde(default)]
    pub updated: bool,
    /// Is being created: a daemon that finds it so takes it back.
    #[serde(default)]
    pub creating: bool,
}

/// A mount of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountRecord {
    /// `bind`, `volume`, `tmpfs` or `image`.
    pub kind: String,
    /// Name of the volume, or of the image as it was asked for.
    pub name: Option<String>,
    /// Path on the host; empty for volumes until they are mounted.
    pub source: String,
    /// Path in the container.
    pub destination: String,
    /// Of the volume.
    pub driver: Option<String>,
    /// As given, such as `ro,z`.
    pub mode: String,
    /// Writable.
    pub rw: bool,
    /// Such as `rprivate`.
    pub propagation: String,
    /// Do not copy what the image has there into an empty volume: asked for so, or done already.
    pub no_copy: bool,
    /// What is mounted below the source stays outside.
    #[serde(default)]
    pub non_recursive: bool,
    /// Read-only for what is mounted below, too, and refused where the kernel cannot.
    #[serde(default)]
    pub read_only_recursive: bool,
    /// Make the directory on the host when it is not there.
    #[serde(default)]
    pub create_source: bool,
    /// Folder of the volume or of the image.
    pub subpath: Option<String>,
    /// Options of a tmpfs.
    pub options: String,
    /// The image whose files are mounted.
    #[serde(default)]
    pub image: Option<MountedImage>,
}

/// An image as it was when the container was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountedImage {
    /// `sha256:…`
    pub id: String,
    /// Chain ids of its layers, nearest first.
    pub chain: Vec<String>,
}

impl MountRecord {
    /// The layer driver's name of the root that shows an image's files: one for each mount of each container.
    pub(crate) fn root_name(&self, container: &str) -> String {
        let digest = Sha256::digest(format!("{container} {}", self.destination));
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The state of a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// Never started.
    #[default]
    Created,
    /// Runs.
    Running,
    /// Runs, frozen.
    Paused,
    /// Waits for the restart policy.
    Restarting,
    /// Is being removed.
    Removing,
    /// Has ended.
    Exited,
    /// Could not be removed whole.
    Dead,
}

/// How a container stands.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct State {
    /// The state.
    pub status: Status,
    /// Process 1 in the host's numbering, while it runs.
    pub pid: i32,
    /// Of the last end.
    pub exit_code: i64,
    /// Why it could not start.
    pub error: String,
    /// The kernel killed a process for want of memory.
    pub oom_killed: bool,
    /// Nanoseconds since the epoch; zero when never.
    pub started_ns: u64,
    /// The same since the host's start, by a clock that nobody sets; zero when it is not known.
    #[serde(default)]
    pub started_boot_ns: u64,
    /// Nanoseconds since the epoch; zero when never.
    pub finished_ns: u64,
    /// Exposed ports and where they are published, while it runs.
    #[serde(default)]
    pub ports: PortMap,
}

impl Status {
    /// Docker's word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }

    /// Whether there are processes.
    pub(crate) fn is_alive(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}

impl ContainerRecord {
    /// Where its cgroup lies, when it was asked for.
    pub(crate) fn cgroup_parent(&self) -> Option<&str> {
        self.host.cgroup_parent.as_deref().filter(|parent| !parent.is_empty())
    }

    /// Names of the roots of images that it mounts.
    pub(crate) fn image_roots(&self) -> impl Iterator<Item = String> {
        self.mounts.iter().filter(|mount| mount.image.is_some()).map(|mount| mount.root_name(&self.id))
    }

    /// `bridge`, `host`, `none`, `container:ID` or a network.
    pub(crate) fn network_mode(&self) -> &str {
        self.host.network_mode.as_deref().unwrap_or("bridge")
    }
}
