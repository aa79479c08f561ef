//! The normalized project: every short form made long, every path absolute, every variable replaced.
//!
//! Serialized by `serde` it is what the daemon stores; the canonical text of `config` is
//! [`Project::to_json`](crate::Project::to_json) and `to_yaml`, which leave out what is the daemon's own business.

pub(crate) mod build;
mod deploy;
mod models;
mod mounts;
pub(crate) mod own;
mod ports;
mod resource;
mod service;
pub mod units;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use build::{Build, BuildSecret};
pub use deploy::{Deploy, DeployResources, Placement, Preference, ResourceLimits, RestartPolicy, UpdateConfig};
pub use models::{DiscreteResource, GenericResource, Model, Provider, ServiceModel};
pub use mounts::{BindOptions, FileReference, ImageOptions, MountType, TmpfsOptions, VolumeMount, VolumeOptions};
pub use own::RestartUnhealthy;
pub use ports::{Port, PublishedPorts};
pub use resource::{Config, Digest, Ipam, IpamPool, Network, Secret, SecretValue, Volume};
pub use service::{
    BlkioConfig, Condition, CredentialSpec, Dependency, Develop, DeviceMapping, DeviceRequest, EnvFile, Exec,
    Healthcheck, Logging, Service, ServiceNetwork, ThrottleDevice, Ulimit, WatchAction, WatchRule, WeightDevice,
};
pub use units::Bytes;

/// Free-form values under `x-*` keys.
pub type Extensions = BTreeMap<String, serde_json::Value>;

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Declares model structures: absent fields take their default and default fields are not written.
macro_rules! model {
    ($($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)* })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default)]
        pub struct $name {
            $($(#[$field_meta])* #[serde(skip_serializing_if = "crate::model::is_default")] pub $field: $type,)*
        }
    )*};
}
pub(crate) use model;

/// A whole stack.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Project {
    /// Lower case letters, digits, `-` and `_`.
    pub name: String,
    /// Services that the chosen profiles enable, by name.
    pub services: BTreeMap<String, Service>,
    /// Every declared network, `default` among them when a service uses it. See [`Project::used`] for those that a
    /// service needs.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub networks: BTreeMap<String, Network>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, Volume>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, Secret>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub configs: BTreeMap<String, Config>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub models: BTreeMap<String, Model>,
    /// Services whose profiles are not chosen. Not part of `config`'s text.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub inactive: BTreeMap<String, Service>,
    /// The project directory, absolute. Not part of `config`'s text.
    pub working_dir: PathBuf,
    /// The compose files as given, absolute. Not part of `config`'s text.
    pub compose_files: Vec<PathBuf>,
    /// The chosen profiles. Not part of `config`'s text.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<String>,
    /// Containers and images are named with `_`, as by the first Compose. Not part of `config`'s text.
    #[serde(skip_serializing_if = "is_default")]
    pub compatibility: bool,
    /// Networks and volumes that no service uses are made, too. Not part of `config`'s text.
    #[serde(skip_serializing_if = "is_default")]
    pub all_resources: bool,
    /// Top-level `x-*`.
    #[serde(flatten)]
    pub extensions: Extensions,
}
