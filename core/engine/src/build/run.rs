//! RUN: a program in a root, as containers run it, with their rights and no more.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard_stubs::models::{ContainerConfig, DeviceRequest, EndpointSettings, HostConfig, ResourcesUlimits};
use sampan_build::backend::{Message, MountSource, Output, RunStep, Ulimit};
use sampan_build::context::Scratch;
use sampan_shim_protocol::{Event, OCI_CONFIG, SHIM_CONFIG};

use super::mounts::CacheFolder;
use super::root::BuildRoot;
use super::{discard, memory};
use crate::Engine;
use crate::cdi;
use crate::containers::devices;
use crate::containers::files;
use crate::containers::link::{Shim, ShimEvents};
use crate::containers::record::{ContainerRecord, MountRecord};
use crate::containers::spec::{self, Resolved};
use crate::error::{Error, Result};
use crate::networks::{Join, Mode};

/// Name of the host that programs see; the same in every build.
const HOSTNAME: &str = "buildhost";
/// How long a killed program may take to be gone.
const LAST_WAIT: Duration = Duration::from_secs(10);

/// What a run has made outside of its root.
#[derive(Debug)]
pub(crate) struct Program {
    id: String,
    bundle: PathBuf,
    shim: Option<Shim>,
    sandbox: bool,
    /// Held until the program is gone.
    caches: Vec<CacheFolder>,
    /// What the step writes to mounts that forget it.
    discarded: Vec<Scratch>,
    /// Ways to the users' agents.
    agents: Vec<tokio::task::AbortHandle>,
}

impl Program {
    /// What an earlier daemon may have left of one.
    pub(crate) async fn left(engine: &Engine, id: &str) -> Self {
        let bundle = engine.config().bundle(id);
        let shim = Shim::adopt(&bundle).await.ok().map(|(shim, _)| shim);
        Self { shim, ..Self::of(id, bundle) }
    }

    fn of(id: &str, bundle: PathBuf) -> Self {
        Self {
            id: id.to_owned(),
            bundle,
            shim: None,
            sandbox: true,
            caches: Vec::new(),
            discarded: Vec::new(),
            agents: Vec::new(),
        }
    }

    /// Kills it if it runs, and removes what was made for it.
    pub(crate) async fn end(mut self, engine: &Engine) {
        if let Some(shim) = self.shim.take() {
            let exit = self.bundle.join(sampan_shim_protocol::EXIT);
            let begin = std::time::Instant::now();
            while !exit.exists() && begin.elapsed() < LAST_WAIT {
                if shim.kill(9, true).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let _ = shim.shutdown().await;
        }
        let cgroup = format!("{}/{}", engine.inner.shared.instance.cgroup_parent(), self.id);
        let cgroup = engine.inner.shared.cgroups.cgroup(&cgroup);
        let emptied = tokio::task::spawn_blocking(move || cgroup.kill().and_then(|()| cgroup.remove())).await;
        if let Ok(Err(error)) = emptied {
            tracing::warn!(root = self.id, %error, "the cgroup of a build step was left");
        }
        if self.sandbox
            && let Err(error) = engine.inner.networks.remove_sandbox(&self.id).await
        {
            tracing::warn!(root = self.id, %error, "the network of a build step was left");
        }
        for agent in &self.agents {
            agent.abort();
        }
        let (bundle, caches) = (self.bundle.clone(), std::mem::take(&mut self.caches));
        let gone = tokio::task::spawn_blocking(move || {
            drop(caches);
            memory::remove(&bundle)?;
            discard::remove(&bundle)?;
            match fs::remove_dir_all(&bundle) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        });
        if let Ok(Err(error)) = gone.await {
            tracing::warn!(bundle = %self.bundle.display(), %error, "the bundle of a build step was left");
        }
    }
}

/// Runs a step to its end; the exit code. Dropped, the root's own end kills what runs.
pub(crate) async fn run(engine: &Engine, root: &BuildRoot, step: RunStep, output: &Output) -> Result<i32> {
    // Whoever drops this future must not leave half a start behind: a task of its own goes through with it, and the
    // root that it holds ends the program.
    let (of, held) = (engine.clone(), root.clone());
    let start = tokio::spawn(async move { start(&of, &held, &step).await });
    let (shim, events) =
        start.await.map_err(|error| Error::internal(format!("start the program of a build step: {error}")))??;
    let code = follow(&shim, events, output).await;
    root.stop().await;
    code
}

async fn start(engine: &Engine, root: &BuildRoot, step: &RunStep) -> Result<(Shim, ShimEvents)> {
    let bundle = engine.config().bundle(root.id());
    let mut program = Program { sandbox: false, ..Program::of(root.id(), bundle.clone()) };
    let prepared = prepare(engine, root, step, &mut program).await;
    let launched = match prepared {
        Ok(()) => Shim::launch(&engine.config().shim, &bundle).await,
        Err(error) => Err(error),
    };
    match launched {
        Ok((shim, events)) => {
            program.shim = Some(shim.clone());
            root.runs(program);
            Ok((shim, events))
        }
        Err(error) => {
            program.end(engine).await;
            Err(error)
        }
    }
}

/// Writes the bundle and makes the network.
async fn prepare(engine: &Engine, root: &BuildRoot, step: &RunStep, program: &mut Program) -> Result<()> {
    let bundle = program.bundle.clone();
    let at = bundle.clone();
    crate::blocking(move || {
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&at)
            .map_err(|error| Error::internal(format!("make a bundle: {error}")))
    })
    .await?;
    let networks = &engine.inner.networks;
    let mode = networks.mode(match step.network.as_str() {
        "" => "default",
        other => other,
    });
    let mode = mode.await?;
    let mut servers = None;
    let (mut addresses, mut gateway) = (Vec::new(), None);
    let netns = match mode {
        Mode::Host => None,
        Mode::Isolated => {
            program.sandbox = true;
            Some(networks.create_sandbox(root.id()).await?)
        }
        Mode::Sandbox => {
            program.sandbox = true;
            let path = networks.create_sandbox(root.id()).await?;
            let network = match step.network.as_str() {
                "" | "default" => "bridge",
                other => other,
            };
            let settings = networks
                .join(Join {
                    container: root.id().to_owned(),
                    name: format!("build-{}", step.id),
                    hostname: HOSTNAME.to_owned(),
                    network: network.to_owned(),
                    settings: EndpointSettings::default(),
                    dns: Vec::new(),
                })
                .await?;
            let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
            addresses.extend(filled(settings.ip_address));
            addresses.extend(filled(settings.global_ipv6_address));
            gateway = filled(settings.gateway);
            servers = Some(networks.resolver(root.id()).await?);
            Some(path)
        }
    };
    let record = record(root.id(), step);
    let names = files::Names {
        hostname: HOSTNAME.to_owned(),
        addresses,
        gateway,
        base: netns.is_none().then(|| fs::read_to_string("/etc/hosts").unwrap_or_default()),
    };
    let embedded = servers.as_ref().is_some_and(|found| found.servers.iter().any(|server| server == "127.0.0.11"));
    let resolver = servers
        .unwrap_or_else(|| files::parse_resolv_conf(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default()));
    let (hosts, resolv) = (files::hosts(&record, &names), files::resolv_conf(&record, &resolver, embedded));
    let mut mounts = mounts(engine, step, &bundle, program).await?;
    let brought = devices_of(engine, step).await?;
    let mut given = Vec::new();
    devices::add(&mut given, &brought.devices)?;
    mounts.extend(brought.mounts.iter().map(devices::mount));
    let resolved = Resolved {
        rootfs: root.path().to_owned(),
        cgroup: format!("{}/{}", engine.inner.shared.instance.cgroup_parent(), root.id()),
        netns,
        hostname: Some(HOSTNAME.to_owned()),
        hostname_variable: HOSTNAME.to_owned(),
        files: [("hosts", "/etc/hosts"), ("hostname", "/etc/hostname"), ("resolv.conf", "/etc/resolv.conf")]
            .map(|(name, target)| (bundle.join(name), target))
            .to_vec(),
        mounts,
        devices: given,
        env: brought.env,
        groups: brought.groups,
        hooks: brought.hooks,
        ..Resolved::default()
    };
    let oci = spec::oci(&record, &resolved)?;
    let shim = spec::shim(&record, &resolved)?;
    crate::blocking(move || {
        let write = |name: &str, bytes: &[u8]| {
            fs::write(bundle.join(name), bytes).map_err(|error| Error::internal(format!("write {name}: {error}")))
        };
        files::write(&bundle, HOSTNAME, &hosts, &resolv)
            .map_err(|error| Error::internal(format!("write files into {}: {error}", bundle.display())))?;
        let json = |value: serde_json::Result<Vec<u8>>| value.map_err(Error::internal);
        write(OCI_CONFIG, &json(serde_json::to_vec(&oci))?)?;
        write(SHIM_CONFIG, &json(serde_json::to_vec(&shim))?)
    })
    .await
}

/// What the step's devices bring.
async fn devices_of(engine: &Engine, step: &RunStep) -> Result<cdi::Injection> {
    if step.devices.is_empty() {
        return Ok(cdi::Injection::default());
    }
    let request = DeviceRequest {
        driver: Some(cdi::CDI.to_owned()),
        device_ids: Some(step.devices.clone()),
        ..DeviceRequest::default()
    };
    let folders = engine.config().cdi_spec_dirs.clone();
    crate::blocking(move || cdi::resolve(&[request], &folders)).await
}

fn record(id: &str, step: &RunStep) -> ContainerRecord {
    ContainerRecord {
        id: id.to_owned(),
        name: format!("build-{}", step.id),
        config: ContainerConfig {
            cmd: Some(step.args.clone()),
            env: Some(step.env.clone()),
            working_dir: Some(step.cwd.clone()),
            user: Some(step.user.clone()),
            ..ContainerConfig::default()
        },
        host: HostConfig {
            memory: step.memory.filter(|bytes| *bytes > 0),
            memory_swap: step.memory_swap.filter(|bytes| *bytes != 0),
            extra_hosts: Some(step.extra_hosts.clone()).filter(|hosts| !hosts.is_empty()),
            shm_size: step.shm_size.filter(|bytes| *bytes > 0),
            ulimits: Some(step.ulimits.iter().map(ulimit).collect::<Vec<_>>()).filter(|limits| !limits.is_empty()),
            ..HostConfig::default()
        },
        ..ContainerRecord::default()
    }
}

fn ulimit(limit: &Ulimit) -> ResourcesUlimits {
    ResourcesUlimits { name: Some(limit.name.clone()), soft: Some(limit.soft), hard: Some(limit.hard) }
}

/// The step's mounts with what they need on the host.
async fn mounts(
    engine: &Engine,
    step: &RunStep,
    bundle: &Path,
    program: &mut Program,
) -> Result<Vec<(PathBuf, MountRecord)>> {
    let mut all = Vec::new();
    for (number, mount) in step.mounts.iter().enumerate() {
        let mut wanted = MountRecord {
            kind: "bind".to_owned(),
            destination: mount.target.clone(),
            propagation: "rprivate".to_owned(),
            rw: false,
            ..MountRecord::default()
        };
        let source = match &mount.source {
            MountSource::Path(path) => path.clone(),
            MountSource::Discarded(path) => {
                let tmp = engine.config().tmp();
                let (bundle, path) = (bundle.to_owned(), path.clone());
                let (view, scratch) = crate::blocking(move || {
                    let scratch = Scratch::new(&tmp)
                        .map_err(|error| Error::internal(format!("scratch folder of a build step: {error}")))?;
                    Ok((discard::ensure(&bundle, number, &path, &scratch)?, scratch))
                })
                .await?;
                program.discarded.push(scratch);
                wanted.rw = true;
                view
            }
            MountSource::Tmpfs { size } => {
                wanted.kind = "tmpfs".to_owned();
                wanted.rw = true;
                wanted.options = "nosuid,nodev".to_owned();
                if let Some(size) = size {
                    wanted.options.push_str(&format!(",size={size}"));
                }
                PathBuf::new()
            }
            MountSource::Cache { id, seed, read_only, sharing, mode, owner } => {
                let folder = engine.inner.builds.mounts().take(id, *sharing, *mode, *owner, seed.clone()).await?;
                let path = folder.path.clone();
                program.caches.push(folder);
                wanted.rw = !read_only;
                path
            }
            MountSource::Secret { content, mode, owner } => {
                let path = memory::ensure(bundle).await?.join(format!("file-{number}"));
                let (at, content, mode, owner) = (path.clone(), content.clone(), *mode, *owner);
                crate::blocking(move || {
                    let write = || -> io::Result<()> {
                        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&at)?;
                        io::Write::write_all(&mut file, &content)?;
                        std::os::unix::fs::fchown(&file, Some(owner.0), Some(owner.1))?;
                        file.set_permissions(fs::Permissions::from_mode(mode & 0o777))
                    };
                    // The error names the file's number alone: its content is nobody's to see.
                    write().map_err(|error| Error::internal(format!("write the file of mount {number}: {error}")))
                })
                .await?;
                path
            }
            MountSource::Ssh { agent, mode, owner } => {
                let folder = memory::ensure(bundle).await?;
                let name = format!("agent-{number}");
                program.agents.push(memory::agent(&folder, &name, agent.clone(), *mode, *owner).await?);
                wanted.rw = true;
                folder.join(name)
            }
        };
        all.push((source, wanted));
    }
    Ok(all)
}

/// Copies all files below a directory into another. Blocks.
pub(super) fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    use sampan_build::copy::{Landing, Origin, Selection, collect, land};
    let digests = std::sync::Mutex::default();
    let origin = Origin { root: from, ignore: None, digests: &digests, keep: true, label: "the mount's source" };
    let landing = Landing { dest: "/".to_owned(), folder: true, owner: None, mode: None, unpack: false, time: (0, 0) };
    let wrong = |error: &dyn std::fmt::Display| Error::internal(format!("copy the source of a mount: {error}"));
    let matches = collect(&origin, "/", &Selection::default()).map_err(|error| wrong(&error))?;
    land(&origin, &matches, to, &landing).map_err(|error| wrong(&error))
}

/// Hands the output on until the program has ended.
async fn follow(shim: &Shim, mut events: ShimEvents, output: &Output) -> Result<i32> {
    loop {
        match events.recv().await {
            Some(Event::Started { .. }) => break,
            // The kernel knows no such program: it may be one for another machine.
            Some(Event::StartFailed(failure)) if failure.code == 126 && failure.cause.contains("exec format") => {
                return Err(Error::unsupported(failure));
            }
            Some(Event::StartFailed(failure)) => return Err(Error::cannot_start(failure)),
            Some(_) => {}
            None => return Err(Error::internal("the shim ended before the program began")),
        }
    }
    let (connected, descriptors) = shim.connect().await?;
    let readers: Vec<_> = descriptors
        .into_iter()
        .map(|descriptor| {
            let output = output.clone();
            tokio::task::spawn_blocking(move || pump(descriptor, &output))
        })
        .collect();
    let code = match connected.exit {
        Some(status) => status.code,
        None => loop {
            match events.recv().await {
                Some(Event::Exited(status)) => break status.code,
                Some(_) => {}
                None => return Err(Error::internal("the shim ended before the program did")),
            }
        },
    };
    for reader in readers {
        let _ = reader.await;
    }
    Ok(code.into())
}

/// Reads a pipe to its end. Characters that are cut between two pieces are joined again.
fn pump(descriptor: OwnedFd, output: &Output) {
    let mut file = File::from(descriptor);
    let mut buffer = vec![0; 32 << 10];
    let mut kept = 0;
    loop {
        let length = match file.read(&mut buffer[kept..]) {
            Ok(0) => 0,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
                let _ = poll(&mut [PollFd::new(std::os::fd::AsFd::as_fd(&file), PollFlags::POLLIN)], PollTimeout::NONE);
                continue;
            }
            Err(_) => 0,
        };
        let filled = kept + length;
        if filled == 0 {
            return;
        }
        let whole = match std::str::from_utf8(&buffer[..filled]) {
            Err(error) if error.error_len().is_none() && length > 0 => error.valid_up_to(),
            _ => filled,
        };
        if whole > 0 {
            let text = String::from_utf8_lossy(&buffer[..whole]).into_owned();
            if output.blocking_send(Message::Stream(text)).is_err() {
                return;
            }
        }
        buffer.copy_within(whole..filled, 0);
        kept = filled - whole;
        if length == 0 {
            return;
        }
    }
}
