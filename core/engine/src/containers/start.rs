//! `start`: root file system, volumes and networks side by side, then files, then the shim.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bollard_stubs::models::{EndpointSettings, PortMap};
use sampan_shim_protocol::{Event, OCI_CONFIG, SHIM_CONFIG, StartFailure};
use tracing::Instrument;

use super::link::{Shim, ShimEvents};
use super::record::{ContainerRecord, MountRecord, Status};
use super::spec::{self, Resolved};
use super::validate::{self, Sharing};
use super::{Container, Containers, create, devices, drain, files, health, populate, ports};
use crate::error::{Error, ErrorKind, Result};
use crate::events::now_ns;
use crate::networks::{Join, Mode, Resolver};
use crate::{Engine, blocking, cdi, detached};

/// How long the way to the user's program may take; a source on a slow file system may hold it up.
const LAUNCH: Duration = Duration::from_secs(120);

/// A container's place in the network.
#[derive(Debug, Default)]
struct Network {
    /// The namespace; the host's when none.
    netns: Option<PathBuf>,
    endpoints: Vec<EndpointSettings>,
    published: PortMap,
    resolver: Option<Resolver>,
    /// The files of another container serve.
    shared_with: Option<Arc<Container>>,
    /// It has ports of its own.
    has_ports: bool,
}

impl Engine {
    /// `start`. Not modified when it runs.
    pub async fn start(&self, id: &str) -> Result<()> {
        let containers = self.inner.containers.clone();
        let container = containers.find(id)?;
        detached(async move { containers.start_by_hand(&container).await }).await
    }
}

impl Containers {
    /// Starts on somebody's word: what went before is forgotten.
    pub(super) async fn start_by_hand(&self, container: &Arc<Container>) -> Result<()> {
        let _operation = container.operation.lock().await;
        match container.status() {
            Status::Running | Status::Restarting => return Err(Error::not_modified("container is already running")),
            Status::Paused => return Err(Error::conflict("cannot start a paused container, try unpause instead")),
            Status::Removing => return Err(Error::conflict("container is marked for removal and cannot be started")),
            Status::Dead => {
                return Err(Error::conflict(
                    "container is dead (its removal failed) and cannot be started; remove it again",
                ));
            }
            Status::Created | Status::Exited => {}
        }
        self.update(container, |record| {
            record.stopped_by_hand = false;
            record.restart_count = 0;
        })?;
        if let Ok(mut backoff) = container.backoff.lock() {
            *backoff = super::policy::Backoff::default();
        }
        if let Ok(mut wait) = container.wait.lock() {
            *wait = None;
        }
        let started = self.start_locked(container).await;
        if started.is_err() && container.record().host.auto_remove == Some(true) {
            self.remove_after_end(container);
        }
        started
    }

    /// Starts a container that does not run; whoever calls has its `operation` lock. A failed start leaves nothing.
    pub(super) async fn start_locked(&self, container: &Arc<Container>) -> Result<()> {
        // What an end has left is cleared away before.
        let settled = container.settling.lock().await;
        drop(settled);
        if self.is_ending() {
            return Err(Error::conflict("the daemon is stopping: nothing is started any more"));
        }
        let record = container.snapshot();
        let span = tracing::info_span!("start", container = %&record.id[..12], name = %record.name);
        match self.try_start(container, &record).instrument(span).await {
            Ok(()) => Ok(()),
            Err(error) => {
                container.set_shim(None);
                self.tear_down(&record).await;
                self.remove_bundle(&record.id).await;
                let (error, code) = told(error);
                self.update(container, |record| {
                    record.state.status = if record.state.started_ns == 0 { Status::Created } else { Status::Exited };
                    record.state.pid = 0;
                    record.state.exit_code = code;
                    record.state.error.clone_from(&error.message);
                    record.state.ports.clear();
                })?;
                container.set_phase(|phase| phase.ends += 1);
                Err(error)
            }
        }
    }

    async fn try_start(&self, container: &Arc<Container>, record: &ContainerRecord) -> Result<(), Failed> {
        let bundle = self.shared().config.bundle(&record.id);
        self.remove_bundle(&record.id).await;
        make_private(&bundle).map_err(|error| Error::internal(format!("create {}: {error}", bundle.display())))?;
        let (rootfs, volumes, network) = tokio::join!(
            self.mount_root(record).instrument(tracing::debug_span!("root")),
            self.mount_volumes(record).instrument(tracing::debug_span!("volumes")),
            self.join_networks(record).instrument(tracing::debug_span!("networks")),
        );
        let (rootfs, mounts, network) = (rootfs?, volumes?, network?);
        let published = network.published.clone();
        let has_ports = network.has_ports;
        let resolved = self.resolve(record, rootfs, mounts, network)?;
        let work = {
            let (record, bundle) = (record.clone(), bundle.clone());
            let cgroup = self.cgroup(&record);
            let owner = self.shared().instance.as_str().to_owned();
            move || {
                if record.cgroup_parent().is_some() {
                    cgroup.ensure_for(&owner).map_err(|error| Error::invalid(format!("cgroup parent: {error}")))?;
                }
                write_bundle(&record, &resolved, &bundle)
            }
        };
        blocking(work).instrument(tracing::debug_span!("bundle")).await?;
        let (shim, mut events, pid) =
            launch(&self.shared().config.shim, &bundle).instrument(tracing::debug_span!("launch")).await?;
        let ports = if has_ports { ports::shown(&record.config, published) } else { PortMap::new() };
        match self.take_over(container, record, &shim, pid, ports).await {
            Ok(()) => {
                self.publish(container, "start", []);
                health::begin(self, container);
                self.watch(container, shim, events);
                Ok(())
            }
            Err(error) => {
                end(&shim, &mut events).await;
                Err(error.into())
            }
        }
    }

    /// The program runs: serves its output, and notes it.
    async fn take_over(
        &self,
        container: &Arc<Container>,
        record: &ContainerRecord,
        shim: &Shim,
        pid: i32,
        ports: PortMap,
    ) -> Result<()> {
        let (connected, descriptors) = shim.connect().await?;
        let served = container.hub.serve(self.shared(), record, shim, connected, descriptors).await;
        served.map_err(|error| error.context("failed to initialize logging driver"))?;
        container.set_shim(Some(shim.clone()));
        self.update(container, |record| {
            record.lost = false;
            let state = &mut record.state;
            state.status = Status::Running;
            state.pid = pid;
            state.exit_code = 0;
            state.error.clear();
            state.oom_killed = false;
            state.started_ns = now_ns();
            state.started_boot_ns = boot_ns();
            state.ports = ports;
            for mount in &mut record.mounts {
                // What was copied once is the volume's own business.
                mount.no_copy = true;
            }
        })?;
        container.restarting_by_hand.store(false, Ordering::SeqCst);
        Ok(())
    }

    async fn mount_root(&self, record: &ContainerRecord) -> Result<PathBuf> {
        let (layers, id, chain) = (self.layers().clone(), record.id.clone(), record.chain.clone());
        blocking(move || layers.mount_container(&id, &chain)).await
    }

    /// The record's mounts with their paths on the host.
    async fn mount_volumes(&self, record: &ContainerRecord) -> Result<Vec<(PathBuf, MountRecord)>> {
        let mut mounts = Vec::new();
        for (number, mount) in record.mounts.iter().enumerate() {
            let source = match mount.kind.as_str() {
                "volume" => {
                    let name = mount.name.as_deref().unwrap_or("");
                    let path = self.volumes().mount(name, &record.id).await?;
                    match &mount.subpath {
                        None => path,
                        Some(subpath) => self.bind_subpath(&record.id, number, path, subpath, "the volume").await?,
                    }
                }
                "image" => {
                    let (layers, root) = (self.layers().clone(), mount.root_name(&record.id));
                    let chain = mount.image.clone().unwrap_or_default().chain;
                    let path = blocking(move || layers.mount(&root, &chain)).await.map_err(|error| {
                        error.context(format!("the image {}", mount.name.as_deref().unwrap_or_default()))
                    })?;
                    match &mount.subpath {
                        None => path,
                        Some(subpath) => self.bind_subpath(&record.id, number, path, subpath, "the image").await?,
                    }
                }
                "bind" => {
                    bind_source(mount)?;
                    PathBuf::from(&mount.source)
                }
                _ => PathBuf::new(),
            };
            mounts.push((source, mount.clone()));
        }
        Ok(mounts)
    }

    /// A folder or file of what a container's mount has, bound at a place of its own.
    async fn bind_subpath(
        &self,
        container: &str,
        number: usize,
        path: PathBuf,
        subpath: &str,
        of: &'static str,
    ) -> Result<PathBuf> {
        let at = self.shared().config.bundle(container).join(format!("subpath-{number}"));
        let (subpath, to) = (subpath.to_owned(), at.clone());
        blocking(move || {
            populate::bind_subpath(&path, &subpath, &to)
                .map_err(|error| Error::invalid(format!("cannot access subpath {subpath:?} of {of}: {error}")))
        })
        .await?;
        Ok(at)
    }

    async fn join_networks(&self, record: &ContainerRecord) -> Result<Network> {
        match validate::network(&record.host) {
            Sharing::Container(target) => return self.join_container(&target),
            Sharing::Host => return Ok(Network::default()),
            _ => {}
        }
        let disabled = record.config.network_disabled == Some(true);
        let mode = if disabled { Mode::Isolated } else { self.networks().mode(record.network_mode()).await? };
        match mode {
            Mode::Host => return Ok(Network::default()),
            Mode::Isolated => {
                let netns = self.networks().create_sandbox(&record.id).await?;
                return Ok(Network { netns: Some(netns), ..Network::default() });
            }
            Mode::Sandbox => {}
        }
        let mut network = Network {
            netns: Some(self.networks().create_sandbox(&record.id).await?),
            has_ports: true,
            ..Network::default()
        };
        // Until its check has passed, others of its name are found before it.
        self.networks().set_ready(&record.id, !health::has_check(record)).await;
        for (name, settings) in in_order(record) {
            let join = Join {
                container: record.id.clone(),
                name: record.name.clone(),
                hostname: record.config.hostname.clone().unwrap_or_default(),
                network: name.clone(),
                settings: settings.clone(),
                dns: record.host.dns.clone().unwrap_or_default(),
            };
            network.endpoints.push(self.networks().join(join).await?);
        }
        let wanted = ports::to_publish(&record.config, &record.host);
        if !wanted.is_empty() {
            network.published = self.networks().publish(&record.id, &wanted, drain::group(record)).await?;
        }
        network.resolver = Some(self.networks().resolver(&record.id).await?);
        Ok(network)
    }

    fn join_container(&self, target: &str) -> Result<Network> {
        let target =
            self.find(target).map_err(|error| error.context("cannot join the network of another container"))?;
        let record = target.snapshot();
        if !record.state.status.is_alive() {
            return Err(Error::conflict(format!("cannot join network of a non running container: {}", target.id)));
        }
        // What another container shares is what the kernel shows of its process, whatever its own mode.
        let netns = Some(PathBuf::from(format!("/proc/{}/ns/net", record.state.pid)));
        Ok(Network { netns, shared_with: Some(target), ..Network::default() })
    }

    /// The namespace of another container that runs.
    fn namespace_of(&self, target: &str, namespace: &str, what: &str) -> Result<PathBuf> {
        let found =
            self.find(target).map_err(|error| error.context(format!("cannot join the {what} of another container")))?;
        let record = found.record();
        if !record.state.status.is_alive() {
            return Err(Error::conflict(format!("cannot join {what} of a non running container: {}", found.id)));
        }
        Ok(PathBuf::from(format!("/proc/{}/ns/{namespace}", record.state.pid)))
    }

    /// Writes the container's files, and puts together what the configuration names.
    fn resolve(
        &self,
        record: &ContainerRecord,
        rootfs: PathBuf,
        mounts: Vec<(PathBuf, MountRecord)>,
        network: Network,
    ) -> Result<Resolved> {
        let host = &record.host;
        let config = &self.shared().config;
        let pid = match validate::pid(host)? {
            Sharing::Container(target) => Some(self.namespace_of(&target, "pid", "PID namespace")?),
            _ => None,
        };
        let (ipc, shm) = match validate::ipc(host)? {
            Sharing::Container(target) => {
                let ipc = self.namespace_of(&target, "ipc", "IPC namespace")?;
                (Some(ipc), Some(config.bundle(&self.find(&target)?.id).join("shm")))
            }
            // Others can see it only when it is mounted outside.
            Sharing::Shareable => (None, Some(config.bundle(&record.id).join("shm"))),
            _ => (None, None),
        };
        let uses_hosts_name = validate::uts(host)?.is_host();
        let hostname = match (&network.shared_with, &record.config.hostname) {
            (Some(other), _) => other.record().config.hostname.clone(),
            (None, own) => own.clone(),
        };
        let hostname = hostname.filter(|name| !name.is_empty()).unwrap_or_else(create::host_name);
        let directory = config.bundle(network.shared_with.as_ref().map_or(&record.id, |other| &other.id));
        if network.shared_with.is_none() {
            write_files(record, &network, &hostname, &directory)
                .map_err(|error| Error::internal(format!("write files into {}: {error}", directory.display())))?;
        }
        let requests = host.device_requests.as_deref().unwrap_or_default();
        let brought = cdi::resolve(requests, &config.cdi_spec_dirs)?;
        let mut given = if host.privileged == Some(true) { devices::all() } else { devices::wanted(host)? };
        devices::add(&mut given, &brought.devices)?;
        let mut mounts = mounts;
        mounts.extend(brought.mounts.iter().map(devices::mount));
        let files = [("resolv.conf", "/etc/resolv.conf"), ("hostname", "/etc/hostname"), ("hosts", "/etc/hosts")];
        Ok(Resolved {
            rootfs,
            cgroup: self.cgroup_path(record),
            netns: network.netns,
            pid,
            ipc,
            shm,
            hostname: (!uses_hosts_name).then(|| hostname.clone()),
            hostname_variable: hostname,
            files: files.into_iter().map(|(name, at)| (directory.join(name), at)).collect(),
            mounts,
            devices: given,
            env: brought.env,
            groups: brought.groups,
            hooks: brought.hooks,
            throttles: devices::throttles(host)?,
        })
    }

    /// Takes off all that a start has made in the kernel. Idempotent; what fails is told, and tried again at the next
    /// start of the daemon.
    pub(super) async fn tear_down(&self, record: &ContainerRecord) {
        let cgroup = self.cgroup(record);
        let shared = Arc::clone(self.shared());
        let has_parent = record.cgroup_parent().is_some();
        let killed = blocking(move || {
            cgroup.kill().and_then(|()| cgroup.remove()).map_err(|error| Error::internal(error.to_string()))?;
            if has_parent {
                cgroup.remove_parents(shared.instance.as_str(), &shared.instance.cgroup_parent());
            }
            Ok(())
        })
        .await;
        let network = self.networks().remove_sandbox(&record.id);
        let (layers, id) = (self.layers().clone(), record.id.clone());
        let bundle = self.shared().config.bundle(&record.id);
        let image_roots: Vec<String> = record.image_roots().collect();
        let files = async {
            let unmounted = blocking(move || {
                unmount_below(&bundle)?;
                // Nobody writes there: nothing is kept for the next start.
                image_roots.iter().try_for_each(|root| layers.remove(root))?;
                layers.unmount(&id)
            })
            .await;
            let volumes = record.mounts.iter().filter(|mount| mount.kind == "volume");
            for name in volumes.filter_map(|mount| mount.name.as_deref()) {
                if let Err(error) = self.volumes().unmount(name, &record.id).await {
                    tracing::warn!(container = %record.id, volume = name, %error, "a volume was not unmounted");
                }
            }
            unmounted
        };
        let (network, files) = tokio::join!(network, files);
        for (what, result) in [("processes", killed), ("network", network), ("root file system", files)] {
            if let Err(error) = result {
                tracing::warn!(container = %record.id, %error, "{what} of a container were not cleared away");
            }
        }
    }

    pub(super) async fn remove_bundle(&self, id: &str) {
        let bundle = self.shared().config.bundle(id);
        let removed = blocking(move || {
            if !bundle.exists() {
                return Ok(());
            }
            unmount_below(&bundle)?;
            sampan_storage::remove_tree(&bundle)
                .map_err(|error| Error::internal(format!("remove {}: {error}", bundle.display())))
        })
        .await;
        if let Err(error) = removed {
            tracing::warn!(container = id, %error, "a bundle was not removed");
        }
    }
}

/// Networks in the order of joining: the network mode's own first.
fn in_order(record: &ContainerRecord) -> Vec<(&String, &EndpointSettings)> {
    let mut all: Vec<_> = record.networks.iter().collect();
    let first = record.network_mode();
    all.sort_by(|(a, _), (b, _)| (a.as_str() != first, a).cmp(&(b.as_str() != first, b)));
    all
}

/// What a bundle has mounted: shared memory, folders of volumes.
fn unmount_below(bundle: &Path) -> Result<()> {
    for entry in fs::read_dir(bundle).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name == "shm" || name.to_string_lossy().starts_with("subpath-") {
            sampan_storage::unmount(&entry.path())
                .map_err(|error| Error::internal(format!("unmount {}: {error}", entry.path().display())))?;
        }
    }
    Ok(())
}

fn bind_source(mount: &MountRecord) -> Result<()> {
    let source = Path::new(&mount.source);
    match fs::symlink_metadata(source) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && mount.create_source => fs::create_dir_all(source)
            .map_err(|error| {
                Error::internal(format!("error while creating mount source path '{}': {error}", mount.source))
            }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::invalid(format!(
            "invalid mount config for type \"bind\": bind source path does not exist: {}",
            mount.source
        ))),
        Err(error) => Err(Error::invalid(format!("bind source path {}: {error}", mount.source))),
    }
}

fn make_private(directory: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

fn write_files(record: &ContainerRecord, network: &Network, hostname: &str, directory: &Path) -> std::io::Result<()> {
    let on_host = network.netns.is_none();
    let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let names = files::Names {
        hostname: hostname.to_owned(),
        addresses: network
            .endpoints
            .iter()
            .flat_map(|endpoint| [filled(&endpoint.ip_address), filled(&endpoint.global_ipv6_address)])
            .flatten()
            .collect(),
        gateway: network.endpoints.iter().find_map(|endpoint| filled(&endpoint.gateway)),
        base: on_host.then(|| fs::read_to_string("/etc/hosts").unwrap_or_default()),
    };
    let embedded = network.resolver.as_ref().is_some_and(|found| found.servers.iter().any(|s| s == "127.0.0.11"));
    let found = match &network.resolver {
        Some(found) => found.clone(),
        None => files::parse_resolv_conf(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default()),
    };
    files::write(directory, hostname, &files::hosts(record, &names), &files::resolv_conf(record, &found, embedded))
}

/// Copies into volumes, mounts shared memory that others will see, and writes what the shim reads.
fn write_bundle(record: &ContainerRecord, resolved: &Resolved, bundle: &Path) -> Result<()> {
    for (source, mount) in resolved.mounts.iter().filter(|(_, mount)| mount.kind == "volume" && !mount.no_copy) {
        populate::populate(&resolved.rootfs, &mount.destination, source).map_err(|error| {
            let name = mount.name.as_deref().unwrap_or("");
            Error::internal(format!("copy what the image has at {} into the volume {name}: {error}", mount.destination))
        })?;
    }
    if let Some(shm) = resolved.shm.as_deref().filter(|shm| shm.starts_with(bundle)) {
        let size = record.host.shm_size.filter(|size| *size > 0).unwrap_or(64 << 20);
        let make = || -> std::io::Result<()> {
            fs::create_dir_all(shm)?;
            let flags = nix::mount::MsFlags::MS_NOSUID | nix::mount::MsFlags::MS_NODEV | nix::mount::MsFlags::MS_NOEXEC;
            let data = format!("mode=1777,size={size}");
            nix::mount::mount(Some("shm"), shm, Some("tmpfs"), flags, Some(data.as_str()))?;
            fs::set_permissions(shm, fs::Permissions::from_mode(0o1777))
        };
        make().map_err(|error| Error::internal(format!("mount shared memory at {}: {error}", shm.display())))?;
    }
    let oci = spec::oci(record, resolved)?;
    let shim = spec::shim(record, resolved)?;
    let write = |name: &str, bytes: serde_json::Result<Vec<u8>>| -> Result<()> {
        let bytes = bytes.map_err(|error| Error::internal(format!("write {name}: {error}")))?;
        fs::write(bundle.join(name), bytes)
            .map_err(|error| Error::internal(format!("write {}: {error}", bundle.join(name).display())))
    };
    write(OCI_CONFIG, serde_json::to_vec(&oci))?;
    write(SHIM_CONFIG, serde_json::to_vec(&shim))
}

/// Ends a container that the daemon cannot serve, its shim with it.
pub(super) async fn end(shim: &Shim, events: &mut ShimEvents) {
    const PATIENCE: Duration = Duration::from_secs(10);
    let _ = shim.kill(nix::libc::SIGKILL, true).await;
    let _ = shim.kill(nix::libc::SIGKILL, false).await;
    let gone = async {
        while let Some(event) = events.recv().await {
            if matches!(event, Event::Exited(_)) {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(PATIENCE, gone).await;
    let _ = shim.shutdown().await;
}

/// Nanoseconds since the host's start.
fn boot_ns() -> u64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map(Duration::from);
    time.ok().and_then(|time| u64::try_from(time.as_nanos()).ok()).unwrap_or(0)
}

async fn launch(program: &Path, bundle: &Path) -> Result<(Shim, ShimEvents, i32), Failed> {
    let (shim, mut events) = Shim::launch(program, bundle).await?;
    match tokio::time::timeout(LAUNCH, events.recv()).await {
        Ok(Some(Event::Started { pid })) => Ok((shim, events, pid)),
        Ok(Some(Event::StartFailed(failure))) => Err(Failed::Program(failure)),
        Ok(Some(other)) => {
            Err(Error::internal(format!("the shim said {other:?} instead of that it has started")).into())
        }
        Ok(None) => Err(Error::internal("the shim ended before the program had started").into()),
        Err(_) => Err(Error::unavailable(format!(
            "the program was not reached within {} s; a mount's source may not answer",
            LAUNCH.as_secs()
        ))
        .into()),
    }
}

/// Why a start failed.
#[derive(Debug)]
enum Failed {
    /// On the way.
    Engine(Error),
    /// At the program.
    Program(StartFailure),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

/// The error as Docker tells it, and the exit code that `inspect` shows.
fn told(failed: Failed) -> (Error, i64) {
    match failed {
        Failed::Program(failure) => {
            let code = match failure.code {
                code @ (126 | 127) => i64::from(code),
                _ => 128,
            };
            let message = format!("failed to create task for container: {failure}");
            (Error { kind: ErrorKind::CannotStart, message }, code)
        }
        Failed::Engine(error) => (error, 128),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_the_program_keep_its_code() {
        let failed = |code| {
            Failed::Program(StartFailure {
                step: "exec: \"x\"".into(),
                cause: "executable file not found in $PATH".into(),
                code,
            })
        };
        let (error, code) = told(failed(127));
        assert_eq!(error.kind, ErrorKind::CannotStart);
        assert_eq!(
            error.message,
            "failed to create task for container: exec: \"x\": executable file not found in $PATH"
        );
        assert_eq!((code, told(failed(126)).1, told(failed(125)).1), (127, 126, 128));
    }

    #[test]
    fn the_network_of_the_mode_is_joined_first() {
        let mut record = ContainerRecord::default();
        record.host.network_mode = Some("m".into());
        for name in ["z", "a", "m"] {
            record.networks.insert(name.into(), EndpointSettings::default());
        }
        let names: Vec<_> = in_order(&record).into_iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["m", "a", "z"]);
    }
}
