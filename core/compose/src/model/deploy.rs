//! `deploy`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Bytes, DeviceRequest, Extensions, GenericResource, model};

model! {
    /// How many, with what resources, and how they are replaced.
    pub struct Deploy {
        /// `replicated` (default) or `global`.
        pub mode: String,
        pub replicas: Option<u32>,
        /// Labels of the service, not of its containers.
        pub labels: BTreeMap<String, String>,
        pub update_config: Option<UpdateConfig>,
        pub rollback_config: Option<UpdateConfig>,
        pub resources: DeployResources,
        pub restart_policy: Option<RestartPolicy>,
        pub placement: Placement,
        /// `vip` or `dnsrr`.
        pub endpoint_mode: String,
        #[serde(flatten)]
        pub extensions: Extensions,
    }

    pub struct DeployResources {
        pub limits: Option<ResourceLimits>,
        pub reservations: Option<ResourceLimits>,
        #[serde(flatten)]
        pub extensions: Extensions,
    }

    pub struct ResourceLimits {
        /// In processors.
        pub cpus: Option<f64>,
        pub memory: Option<Bytes>,
        pub pids: Option<i64>,
        /// Of a reservation.
        pub devices: Vec<DeviceRequest>,
        /// Of a reservation.
        pub generic_resources: Vec<GenericResource>,
        #[serde(flatten)]
        pub extensions: Extensions,
    }

    pub struct RestartPolicy {
        /// `none`, `on-failure` or `any`.
        pub condition: String,
        #[serde(with = "super::units::optional_duration")]
        pub delay: Option<Duration>,
        pub max_attempts: Option<u32>,
        #[serde(with = "super::units::optional_duration")]
        pub window: Option<Duration>,
        #[serde(flatten)]
        pub extensions: Extensions,
    }

    /// How replicas are replaced.
    pub struct UpdateConfig {
        /// 0 is all at once.
        pub parallelism: Option<u32>,
        #[serde(with = "super::units::optional_duration")]
        pub delay: Option<Duration>,
        /// `continue`, `rollback` or `pause`.
        pub failure_action: String,
        #[serde(with = "super::units::optional_duration")]
        pub monitor: Option<Duration>,
        pub max_failure_ratio: f64,
        /// `stop-first` (default) or `start-first`.
        pub order: String,
        #[serde(flatten)]
        pub extensions: Extensions,
    }

    pub struct Placement {
        pub constraints: Vec<String>,
        pub preferences: Vec<Preference>,
        pub max_replicas_per_node: u32,
        #[serde(flatten)]
        pub extensions: Extensions,
    }

    pub struct Preference {
        pub spread: String,
    }
}
