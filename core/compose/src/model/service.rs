//! A service.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    Build, Bytes, Deploy, Extensions, FileReference, Port, Provider, ResourceLimits, ServiceModel, VolumeMount, model,
};

model! {
    /// A service, normalized. Empty texts, lists and maps mean "not set" unless the field is an option.
    pub struct Service {
        pub profiles: Vec<String>,
        pub annotations: BTreeMap<String, String>,
        /// Whether `up` attaches to its logs; so unless false.
        pub attach: Option<bool>,
        pub build: Option<Build>,
        pub blkio_config: Option<BlkioConfig>,
        pub cap_add: Vec<String>,
        pub cap_drop: Vec<String>,
        /// `host` or `private`.
        pub cgroup: String,
        pub cgroup_parent: String,
        /// Of Windows alone, as `cpu_percent`.
        pub cpu_count: i64,
        pub cpu_percent: f64,
        /// Microseconds of real-time scheduling, as `cpu_rt_runtime`.
        pub cpu_rt_period: i64,
        pub cpu_rt_runtime: i64,
        /// Microseconds.
        pub cpu_period: Option<i64>,
        /// Microseconds.
        pub cpu_quota: Option<i64>,
        pub cpus: Option<f64>,
        pub cpuset: String,
        pub cpu_shares: Option<i64>,
        /// Arguments; none: the image's; empty: explicitly none.
        pub command: Option<Vec<String>>,
        pub configs: Vec<FileReference>,
        pub container_name: String,
        pub credential_spec: Option<CredentialSpec>,
        pub depends_on: BTreeMap<String, Dependency>,
        pub deploy: Option<Deploy>,
        pub develop: Option<Develop>,
        pub device_cgroup_rules: Vec<String>,
        pub devices: Vec<DeviceMapping>,
        pub dns: Vec<String>,
        pub dns_opt: Vec<String>,
        pub dns_search: Vec<String>,
        pub domainname: String,
        /// None: the image's; empty: explicitly none.
        pub entrypoint: Option<Vec<String>>,
        /// `env_file`s included. A variable without a value is not set in the container.
        pub environment: BTreeMap<String, Option<String>>,
        /// Of a project whose env files were not to be read; else they are in `environment`.
        pub env_file: Vec<EnvFile>,
        /// `PORT[-PORT][/PROTOCOL]`.
        pub expose: Vec<String>,
        /// `CONTAINER[:ALIAS]` of other stacks.
        pub external_links: Vec<String>,
        /// `HOST=ADDRESS`; the address may be `host-gateway`.
        pub extra_hosts: Vec<String>,
        pub gpus: Vec<DeviceRequest>,
        pub group_add: Vec<String>,
        pub healthcheck: Option<Healthcheck>,
        pub hostname: String,
        /// Empty: built, see [`crate::Project::image_name`].
        pub image: String,
        pub init: Option<bool>,
        /// `shareable`, `private`, `host`, `none`, `service:NAME` or `container:NAME`.
        pub ipc: String,
        /// Of Windows alone.
        pub isolation: String,
        /// `label_file`s included.
        pub labels: BTreeMap<String, String>,
        /// Where some of the labels came from; absolute.
        pub label_file: Vec<PathBuf>,
        /// `SERVICE[:ALIAS]`; the services are also in `depends_on`.
        pub links: Vec<String>,
        pub logging: Option<Logging>,
        pub mac_address: String,
        pub mem_limit: Option<Bytes>,
        pub mem_reservation: Option<Bytes>,
        /// -1 to 100.
        #[serde(with = "super::units::optional_text")]
        pub mem_swappiness: Option<i64>,
        /// -1 is unlimited.
        pub memswap_limit: Option<Bytes>,
        /// By key of the project's `models`.
        pub models: BTreeMap<String, Option<ServiceModel>>,
        /// `host`, `none`, `bridge`, `service:NAME`, `container:NAME` or a network's engine name; excludes `networks`.
        pub network_mode: String,
        /// By key of the project's `networks`.
        pub networks: BTreeMap<String, Option<ServiceNetwork>>,
        pub oom_kill_disable: bool,
        pub oom_score_adj: Option<i64>,
        /// `host`, `service:NAME` or `container:NAME`.
        pub pid: String,
        pub pids_limit: Option<i64>,
        pub platform: String,
        pub ports: Vec<Port>,
        /// Run in the container once it started, in order.
        pub post_start: Vec<Exec>,
        /// Run as containers of their own before the service starts, in order.
        pub pre_start: Vec<Service>,
        /// Run in the container before it is stopped, in order.
        pub pre_stop: Vec<Exec>,
        pub privileged: bool,
        /// What runs the service instead of the engine.
        pub provider: Option<Provider>,
        /// `always`, `never`, `missing`, `build`, `daily`, `weekly` or `every_DURATION`.
        pub pull_policy: String,
        pub read_only: bool,
        /// `no`, `always`, `unless-stopped`, `on-failure` or `on-failure:N`.
        pub restart: String,
        pub runtime: String,
        pub scale: Option<u32>,
        pub secrets: Vec<FileReference>,
        pub security_opt: Vec<String>,
        pub shm_size: Option<Bytes>,
        pub stdin_open: bool,
        #[serde(with = "super::units::optional_duration")]
        pub stop_grace_period: Option<Duration>,
        pub stop_signal: String,
        pub storage_opt: BTreeMap<String, String>,
        pub sysctls: BTreeMap<String, String>,
        /// `PATH[:OPTIONS]`.
        pub tmpfs: Vec<String>,
        pub tty: bool,
        /// Whether the engine's socket and the user's registry credentials are in the container.
        pub use_api_socket: bool,
        pub ulimits: BTreeMap<String, Ulimit>,
        pub user: String,
        pub userns_mode: String,
        pub uts: String,
        pub volumes: Vec<VolumeMount>,
        /// `SERVICE[:ro|rw]` or `container:NAME[:ro|rw]`.
        pub volumes_from: Vec<String>,
        pub working_dir: String,
        #[serde(flatten)]
        pub extensions: Extensions,
    }

    pub struct Healthcheck {
        /// Starts with `CMD`, `CMD-SHELL` or `NONE`; empty: the image's.
        pub test: Vec<String>,
        #[serde(with = "super::units::optional_duration")]
        pub timeout: Option<Duration>,
        #[serde(with = "super::units::optional_duration")]
        pub interval: Option<Duration>,
        pub retries: Option<u32>,
        #[serde(with = "super::units::optional_duration")]
        pub start_period: Option<Duration>,
        #[serde(with = "super::units::optional_duration")]
        pub start_interval: Option<Duration>,
        pub disable: bool,
        #[serde(flatten)]
        pub extensions: Extensions,
    }

    pub struct Logging {
        pub driver: String,
        pub options: BTreeMap<String, String>,
        #[serde(flatten)]
        pub extensions: Extensions,
    }

    /// A service's place on a network.
    pub struct ServiceNetwork {
        pub aliases: Vec<String>,
        pub driver_opts: BTreeMap<String, String>,
        /// The highest one is the default gateway.
        pub gw_priority: i64,
        pub interface_name: String,
        pub ipv4_address: String,
        pub ipv6_address: String,
        pub link_local_ips: Vec<String>,
        pub mac_address: String,
        /// Networks are connected in descending order.
        pub priority: i64,
        #[serde(flatten)]
        pub extensions: Extensions,
    }

    /// A device of the host, or a CDI name (source and target equal, with `=`).
    pub struct DeviceMapping {
        pub source: String,
        pub target: String,
        /// Of `rwm`; empty is all of them.
        pub permissions: String,
    }

    pub struct Develop {
        pub watch: Vec<WatchRule>,
        #[serde(flatten)]
        pub extensions: Extensions,
    }

    /// Shares and limits of block devices.
    pub struct BlkioConfig {
        /// 10 to 1000.
        pub weight: u16,
        pub weight_device: Vec<WeightDevice>,
        pub device_read_bps: Vec<ThrottleDevice>,
        pub device_read_iops: Vec<ThrottleDevice>,
        pub device_write_bps: Vec<ThrottleDevice>,
        pub device_write_iops: Vec<ThrottleDevice>,
        #[serde(flatten)]
        pub extensions: Extensions,
    }

    /// A credential of Windows' domains.
    pub struct CredentialSpec {
        pub config: String,
        pub file: String,
        pub registry: String,
        #[serde(flatten)]
        pub extensions: Extensions,
    }

    /// Devices that a driver provides.
    pub struct DeviceRequest {
        pub capabilities: Vec<String>,
        pub driver: String,
        /// -1 is all; none beside `device_ids`.
        pub count: Option<i64>,
        pub device_ids: Vec<String>,
        pub options: BTreeMap<String, String>,
        #[serde(flatten)]
        pub extensions: Extensions,
    }

    /// Variables in a file.
    pub struct EnvFile {
        pub path: PathBuf,
        /// Whether the file must be there: so unless false.
        pub required: Option<bool>,
        /// `raw`, or empty for the usual one with quotes and variables.
        pub format: String,
    }

    /// A command run in the container.
    pub struct Exec {
        pub command: Vec<String>,
        pub user: String,
        pub privileged: bool,
        pub working_dir: String,
        pub environment: BTreeMap<String, Option<String>>,
        #[serde(flatten)]
        pub extensions: Extensions,
    }
}

/// A block device's share.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WeightDevice {
    pub path: String,
    pub weight: u16,
}

/// A block device's limit, in bytes or operations a second.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ThrottleDevice {
    pub path: String,
    pub rate: Bytes,
}

/// What to do when files below a path change.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WatchRule {
    /// Absolute.
    pub path: PathBuf,
    pub action: WatchAction,
    /// In the container; for the actions that sync.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec: Option<Exec>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignore: Vec<String>,
    #[serde(skip_serializing_if = "super::is_default")]
    pub initial_sync: bool,
    #[serde(flatten)]
    pub extensions: Extensions,
}

impl Service {
    /// How many containers: `scale`, else `deploy.replicas`, else 1.
    #[must_use]
    pub fn replicas(&self) -> u32 {
        self.scale.or_else(|| self.deploy.as_ref().and_then(|deploy| deploy.replicas)).unwrap_or(1)
    }

    fn limits(&self) -> Option<&ResourceLimits> {
        self.deploy.as_ref().and_then(|deploy| deploy.resources.limits.as_ref())
    }

    /// Processors it may use: `cpus` or `deploy.resources.limits.cpus`.
    #[must_use]
    pub fn cpu_limit(&self) -> Option<f64> {
        self.cpus.or_else(|| self.limits().and_then(|limits| limits.cpus))
    }

    /// Memory it may use: `mem_limit` or `deploy.resources.limits.memory`.
    #[must_use]
    pub fn memory_limit(&self) -> Option<Bytes> {
        self.mem_limit.or_else(|| self.limits().and_then(|limits| limits.memory))
    }

    /// Memory it is meant to have: `mem_reservation` or `deploy.resources.reservations.memory`.
    #[must_use]
    pub fn memory_reservation(&self) -> Option<Bytes> {
        let deploy = || self.deploy.as_ref()?.resources.reservations.as_ref()?.memory;
        self.mem_reservation.or_else(deploy)
    }

    /// Processes it may have: `pids_limit` or `deploy.resources.limits.pids`.
    #[must_use]
    pub fn process_limit(&self) -> Option<i64> {
        self.pids_limit.or_else(|| self.limits().and_then(|limits| limits.pids))
    }

    /// `restart`, or what `deploy.restart_policy` says in its words; empty when neither is given.
    #[must_use]
    pub fn restart_policy(&self) -> String {
        if !self.restart.is_empty() {
            return self.restart.clone();
        }
        let Some(policy) = self.deploy.as_ref().and_then(|deploy| deploy.restart_policy.as_ref()) else {
            return String::new();
        };
        match (policy.condition.as_str(), policy.max_attempts) {
            ("none", _) => "no".to_owned(),
            ("on-failure", Some(attempts)) => format!("on-failure:{attempts}"),
            ("on-failure", None) => "on-failure".to_owned(),
            _ => "always".to_owned(),
        }
    }
}

/// What to do when a watched file changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WatchAction {
    #[default]
    Sync,
    Rebuild,
    Restart,
    #[serde(rename = "sync+restart")]
    SyncRestart,
    #[serde(rename = "sync+exec")]
    SyncExec,
}

/// When a dependency counts as met.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    #[default]
    #[serde(rename = "service_started")]
    Started,
    #[serde(rename = "service_healthy")]
    Healthy,
    #[serde(rename = "service_completed_successfully")]
    CompletedSuccessfully,
}

impl Condition {
    /// Compose's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "service_started",
            Self::Healthy => "service_healthy",
            Self::CompletedSuccessfully => "service_completed_successfully",
        }
    }
}

/// What a service waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dependency {
    pub condition: Condition,
    /// Whether this service is restarted after the dependency was by the user.
    #[serde(skip_serializing_if = "super::is_default")]
    pub restart: bool,
    /// False: only a warning when the dependency is absent or fails to start.
    pub required: bool,
}

impl Default for Dependency {
    fn default() -> Self {
        Self { condition: Condition::Started, restart: false, required: true }
    }
}

/// A resource limit; -1 is unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ulimit {
    pub soft: i64,
    pub hard: i64,
    /// Whether it was written as one number, and is so printed.
    pub single: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum UlimitForm {
    Single(i64),
    Pair { soft: i64, hard: i64 },
}

impl Serialize for Ulimit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let form = match self.single {
            true => UlimitForm::Single(self.soft),
            false => UlimitForm::Pair { soft: self.soft, hard: self.hard },
        };
        form.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Ulimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match UlimitForm::deserialize(deserializer)? {
            UlimitForm::Single(value) => Self { soft: value, hard: value, single: true },
            UlimitForm::Pair { soft, hard } => Self { soft, hard, single: false },
        })
    }
}
