//! What concerns the whole engine: `version`, `info`, `system df`, `events`, `login`.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::pin::Pin;

use bollard_stubs::models::{
    AuthResponse, EventMessage, IndexInfo, LocalNodeState, PluginsInfo, RegistryServiceConfig, Runtime, SwarmInfo,
    SystemInfo, SystemInfoCgroupDriverEnum, SystemInfoCgroupVersionEnum, SystemVersion, SystemVersionComponents,
    SystemVersionPlatform,
};
use futures_util::{Stream, StreamExt, stream};
use sampan_drivers::Kind;
use serde::Serialize;

use crate::containers::ListOptions;
use crate::error::Result;
use crate::events;
use crate::filters::Filters;
use crate::messages::Credentials;
use crate::{Engine, Shared, blocking};

/// The newest version of Docker's API that is spoken.
const API_VERSION: &str = "1.51";
/// The oldest.
const MIN_API_VERSION: &str = "1.24";

/// `system df`, in the form of API versions up to 1.51.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DiskUsage {
    /// Bytes of all layers, shared ones once.
    pub layers_size: i64,
    /// `images -a`.
    pub images: Vec<bollard_stubs::models::ImageSummary>,
    /// `ps -as`.
    pub containers: Vec<bollard_stubs::models::ContainerSummary>,
    /// Volumes with their sizes.
    pub volumes: Vec<bollard_stubs::models::Volume>,
    /// Cached build results.
    pub build_cache: Vec<bollard_stubs::models::BuildCache>,
}

impl Engine {
    /// `version`.
    pub async fn version(&self) -> Result<SystemVersion> {
        let kernel = self.inner.shared.facts.kernel.clone();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let details = [
            ("ApiVersion", API_VERSION),
            ("Arch", architecture()),
            ("Experimental", "false"),
            ("KernelVersion", kernel.as_str()),
            ("MinAPIVersion", MIN_API_VERSION),
            ("Os", "linux"),
        ];
        let details = details.map(|(key, value)| (key.to_owned(), value.to_owned()));
        Ok(SystemVersion {
            platform: Some(SystemVersionPlatform { name: "Sampan".to_owned() }),
            components: Some(vec![SystemVersionComponents {
                name: "Engine".to_owned(),
                version: version.clone(),
                details: Some(details.into()),
            }]),
            version: Some(version),
            api_version: Some(API_VERSION.to_owned()),
            min_api_version: Some(MIN_API_VERSION.to_owned()),
            git_commit: Some(String::new()),
            go_version: Some(String::new()),
            os: Some("linux".to_owned()),
            arch: Some(architecture().to_owned()),
            kernel_version: Some(kernel),
            experimental: Some(false),
            build_time: Some(String::new()),
        })
    }

    /// `info`.
    pub async fn info(&self) -> Result<SystemInfo> {
        let shared = &self.inner.shared;
        let counts = self.count_containers();
        let count = |states: &[&str]| states.iter().map(|state| counts.get(state).copied().unwrap_or(0)).sum::<i64>();
        let images = self.list_images(false, Filters::default(), false).await.map_or(0, |images| images.len());
        let cgroups = &shared.cgroups;
        let has = |controller: &str| Some(cgroups.has(controller));
        let names = |kind| shared.drivers.names(kind);
        let layer = self.inner.layers.driver().to_owned();
        let status = vec![vec!["Backing Filesystem".to_owned(), shared.facts.data_root_fs.clone()]];
        let runtime = Runtime { path: Some(shared.config.shim.to_string_lossy().into_owned()), ..Runtime::default() };
        Ok(SystemInfo {
            id: Some(shared.instance.to_string()),
            containers: Some(counts.values().sum()),
            containers_running: Some(count(&["running", "restarting"])),
            containers_paused: Some(count(&["paused"])),
            containers_stopped: Some(count(&["created", "exited", "dead", "removing"])),
            images: i64::try_from(images).ok(),
            driver: Some(layer),
            driver_status: Some(status),
            docker_root_dir: Some(shared.config.root.to_string_lossy().into_owned()),
            plugins: Some(PluginsInfo {
                volume: Some(names(Kind::Volume)),
                network: Some(names(Kind::Network)),
                authorization: None,
                log: Some(names(Kind::Log)),
            }),
            memory_limit: has("memory"),
            swap_limit: Some(cgroups.has("memory") && counts_swap(cgroups)),
            cpu_cfs_period: has("cpu"),
            cpu_cfs_quota: has("cpu"),
            cpu_shares: has("cpu"),
            cpu_set: has("cpuset"),
            pids_limit: has("pids"),
            oom_kill_disable: Some(false),
            ipv4_forwarding: Some(read("/proc/sys/net/ipv4/ip_forward") == "1"),
            debug: Some(false),
            nfd: i64::try_from(fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)).ok(),
            n_goroutines: Some(0),
            n_events_listener: Some(0),
            system_time: Some(sampan_image::timestamp::format(i64::try_from(events::now_ns()).unwrap_or(0))),
            logging_driver: Some(shared.config.log_driver.clone()),
            cgroup_driver: Some(SystemInfoCgroupDriverEnum::CGROUPFS),
            cgroup_version: Some(match cgroups.version() {
                sampan_cgroup::Version::V1 => SystemInfoCgroupVersionEnum::_1,
                sampan_cgroup::Version::V2 => SystemInfoCgroupVersionEnum::_2,
            }),
            kernel_version: Some(shared.facts.kernel.clone()),
            operating_system: Some(operating_system("PRETTY_NAME").unwrap_or_else(|| "Linux".to_owned())),
            os_version: operating_system("VERSION_ID"),
            os_type: Some("linux".to_owned()),
            architecture: Some(std::env::consts::ARCH.to_owned()),
            ncpu: i64::try_from(std::thread::available_parallelism().map_or(1, usize::from)).ok(),
            mem_total: Some(memory()),
            index_server_address: Some("https://index.docker.io/v1/".to_owned()),
            registry_config: Some(self.registries()),
            generic_resources: None,
            http_proxy: Some(shown_proxy(shared, "HTTP_PROXY")),
            https_proxy: Some(shown_proxy(shared, "HTTPS_PROXY")),
            no_proxy: Some(shown_proxy(shared, "NO_PROXY")),
            name: Some(read("/proc/sys/kernel/hostname")),
            cdi_spec_dirs: Some(
                shared.config.cdi_spec_dirs.iter().map(|folder| folder.to_string_lossy().into_owned()).collect(),
            ),
            labels: Some(shared.config.labels.clone()),
            experimental_build: Some(false),
            server_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            runtimes: Some([("sampan".to_owned(), runtime)].into()),
            default_runtime: Some("sampan".to_owned()),
            swarm: Some(SwarmInfo {
                node_id: Some(String::new()),
                local_node_state: Some(LocalNodeState::INACTIVE),
                ..SwarmInfo::default()
            }),
            live_restore_enabled: Some(shared.config.live_restore),
            init_binary: Some("sampan-shim".to_owned()),
            security_options: Some(vec!["name=seccomp,profile=builtin".to_owned(), "name=cgroupns".to_owned()]),
            warnings: Some(self.warnings()),
            ..SystemInfo::default()
        })
    }

    fn registries(&self) -> RegistryServiceConfig {
        let config = &self.inner.shared.config;
        let insecure = config.insecure_registries.iter();
        let hub = IndexInfo {
            name: Some("docker.io".to_owned()),
            mirrors: Some(config.registry_mirrors.clone()),
            secure: Some(true),
            official: Some(true),
        };
        let mut all = HashMap::from([("docker.io".to_owned(), hub)]);
        for name in insecure {
            let registry = IndexInfo {
                name: Some(name.clone()),
                mirrors: Some(Vec::new()),
                secure: Some(false),
                official: Some(false),
            };
            all.insert(name.clone(), registry);
        }
        RegistryServiceConfig {
            insecure_registry_cidrs: Some(vec!["127.0.0.0/8".to_owned(), "::1/128".to_owned()]),
            index_configs: Some(all),
            mirrors: Some(config.registry_mirrors.clone()),
        }
    }

    fn warnings(&self) -> Vec<String> {
        let shared = &self.inner.shared;
        let mut warnings = Vec::new();
        let mut warn = |on: bool, text: &str| {
            if on {
                warnings.push(format!("WARNING: {text}"));
            }
        };
        for (controller, what) in
            [("memory", "memory limit"), ("cpu", "cpu cfs quota"), ("cpuset", "cpuset"), ("pids", "pids limit")]
        {
            warn(!shared.cgroups.has(controller), &format!("No {what} support"));
        }
        warn(
            shared.cgroups.hybrid(),
            "The host has cgroups of both versions; limits go through version 1, version 2 is better",
        );
        warn(
            shared.cgroups.version() == sampan_cgroup::Version::V1 && !shared.cgroups.hybrid(),
            "Support for cgroup v1 is deprecated; boot with cgroup v2",
        );
        warn(read("/proc/sys/net/ipv4/ip_forward") == "0", "IPv4 forwarding is disabled");
        for name in &shared.config.insecure_registries {
            warn(true, &format!("{name} is spoken to without TLS (insecure-registries)"));
        }
        warnings
    }

    /// `system df`.
    pub async fn disk_usage(&self) -> Result<DiskUsage> {
        let all = ListOptions { all: true, size: true, ..ListOptions::default() };
        let builds = self.inner.builds.clone();
        let (images, containers, volumes, build_cache) = tokio::join!(
            self.list_images(false, Filters::default(), false),
            self.list_containers(all),
            self.inner.volumes.usage(),
            blocking(move || builds.usage()),
        );
        let mut images = images?;
        let containers = containers?;
        for image in &mut images {
            let uses = containers.iter().filter(|container| container.image_id.as_ref() == Some(&image.id)).count();
            image.containers = i64::try_from(uses).unwrap_or(0);
        }
        Ok(DiskUsage {
            layers_size: images.iter().map(|image| image.size).sum(),
            images,
            containers,
            volumes: volumes?,
            build_cache: build_cache?,
        })
    }

    /// `login`.
    pub async fn auth(&self, credentials: Credentials) -> Result<AuthResponse> {
        let identity_token = self.inner.images.login(credentials).await?;
        Ok(AuthResponse { status: "Login Succeeded".to_owned(), identity_token })
    }

    /// Tells that something happened to what is not the engine's own, such as a stack.
    pub fn tell(
        &self,
        kind: bollard_stubs::models::EventMessageTypeEnum,
        action: &str,
        id: &str,
        attributes: impl IntoIterator<Item = (String, String)>,
    ) {
        self.inner.shared.events.publish(kind, action, id, attributes);
    }

    /// Events from `since` on, until `until` (nanoseconds since the epoch), or for ever.
    pub async fn events_stream(
        &self,
        since: Option<i64>,
        until: Option<i64>,
        filters: Filters,
    ) -> Result<Pin<Box<dyn Stream<Item = EventMessage> + Send>>> {
        filters.only(&[
            "type",
            "event",
            "container",
            "image",
            "volume",
            "network",
            "label",
            "label!",
            "scope",
            "daemon",
            "plugin",
            "stack",
        ])?;
        // With an end alone, Docker tells what has happened until then.
        let since = since.or_else(|| until.map(|_| 0));
        let (past, receiver) = self.inner.shared.events.subscribe(since);
        let remaining = until.map(|until| {
            let now = i64::try_from(events::now_ns()).unwrap_or(i64::MAX);
            std::time::Duration::from_nanos(u64::try_from(until.saturating_sub(now)).unwrap_or(0))
        });
        let end = Box::pin(async move {
            match remaining {
                Some(remaining) => tokio::time::sleep(remaining).await,
                None => std::future::pending().await,
            }
        });
        let live = stream::unfold(receiver, |mut receiver| async move {
            loop {
                match receiver.recv().await {
                    Ok(event) => return Some((event, receiver)),
                    Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => return None,
                }
            }
        });
        let before_end = move |event: &EventMessage| until.is_none_or(|until| event.time_nano.unwrap_or(0) <= until);
        let all = stream::iter(past).chain(live.take_until(end));
        Ok(Box::pin(all.filter(move |event| std::future::ready(before_end(event) && events::matches(event, &filters)))))
    }
}

/// In Go's words.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// A proxy of the daemon's environment; what is told of it has no password.
fn shown_proxy(shared: &Shared, name: &str) -> String {
    let value = shared.config.proxies.get(name).unwrap_or_default();
    match (value.find("://"), value.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}xxxxx:xxxxx{}", &value[..scheme + 3], &value[at..]),
        _ => value,
    }
}

fn operating_system(key: &str) -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").or_else(|_| fs::read_to_string("/usr/lib/os-release")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
    Some(line.trim_matches('"').to_owned())
}

/// Bytes of the host.
fn memory() -> i64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<i64>().ok()).map_or(0, |kib| kib * 1024)
}

/// Whether the kernel limits swap by cgroup.
fn counts_swap(cgroups: &sampan_cgroup::Hierarchy) -> bool {
    match cgroups.version() {
        sampan_cgroup::Version::V2 => true,
        sampan_cgroup::Version::V1 => Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists(),
    }
}
