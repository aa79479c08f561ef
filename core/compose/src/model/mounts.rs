//! What a service sees in its file system: volumes, configs, secrets.

use serde::{Deserialize, Serialize};

use super::{Bytes, Extensions, model};

/// The kind of a mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountType {
    Bind,
    #[default]
    Volume,
    Tmpfs,
    Image,
    /// Of Windows alone.
    Npipe,
    /// Of clusters alone.
    Cluster,
}

/// An entry of a service's `volumes`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeMount {
    #[serde(rename = "type")]
    pub kind: MountType,
    /// An absolute path for a bind, a key of the project's `volumes` for a volume (empty: anonymous), an image.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    pub target: String,
    #[serde(skip_serializing_if = "super::is_default")]
    pub read_only: bool,
    #[serde(skip_serializing_if = "super::is_default")]
    pub consistency: String,
    /// Of a bind, and of a volume with a label of SELinux.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind: Option<BindOptions>,
    /// Of a volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmpfs: Option<TmpfsOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageOptions>,
    #[serde(flatten)]
    pub extensions: Extensions,
}

impl VolumeMount {
    /// Whether a missing bind source is created: so unless the file says otherwise.
    #[must_use]
    pub fn create_host_path(&self) -> bool {
        self.bind.as_ref().is_none_or(|bind| bind.create_host_path != Some(false))
    }
}

model! {
    pub struct BindOptions {
        /// `z` (shared) or `Z` (private).
        pub selinux: String,
        /// `rprivate`, `private`, `rshared`, `shared`, `rslave` or `slave`.
        pub propagation: String,
        pub create_host_path: Option<bool>,
        /// `enabled`, `disabled`, `writable` or `readonly`.
        pub recursive: String,
    }

    pub struct VolumeOptions {
        pub labels: std::collections::BTreeMap<String, String>,
        pub nocopy: bool,
        /// A path inside the volume.
        pub subpath: String,
    }

    pub struct TmpfsOptions {
        pub size: Option<Bytes>,
        /// Permission bits.
        pub mode: Option<u32>,
    }

    pub struct ImageOptions {
        pub subpath: String,
    }

    /// A config or secret as a service uses it.
    pub struct FileReference {
        /// A key of the project's `configs` or `secrets`.
        pub source: String,
        /// Path in the container, of a secret also below `/run/secrets`; empty for a config: `/SOURCE`.
        pub target: String,
        pub uid: String,
        pub gid: String,
        #[serde(with = "octal")]
        pub mode: Option<u32>,
        #[serde(flatten)]
        pub extensions: Extensions,
    }
}

/// Permission bits as `"0440"`.
mod octal {
    use serde::{Deserialize, Deserializer, Serializer};

    #[allow(clippy::ref_option)]
    pub fn serialize<S: Serializer>(value: &Option<u32>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(mode) => serializer.collect_str(&format_args!("0{mode:o}")),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| u32::from_str_radix(&text, 8).map_err(serde::de::Error::custom)).transpose()
    }
}
