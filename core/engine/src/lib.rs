//! The engine: containers, images, volumes, networks, events, and the policies that keep them as asked.
//!
//! Requests enter as Docker's own models (`bollard_stubs::models`, data only), effects go through the crates that know
//! how (`image`, `build`, `network`, `storage`, `drivers`, the shim), and the truth is in the store. The engine knows
//! nothing of HTTP.
//!
//! Invariants:
//! - a change of state is one transaction; what the kernel must show for it is written as an intent first;
//! - one lock per container, taken before any of network, volume or store, and never held across another container's;
//! - what a driver decides, the engine executes; there is no driver behaviour here that a component could not replace.

pub mod build;
mod cdi;
pub mod config;
pub mod containers;
pub mod error;
pub mod events;
pub mod facts;
pub mod filters;
pub mod images;
pub mod instance;
mod layers;
pub mod messages;
mod networks;
mod plugins;
mod system;
#[cfg(test)]
mod testing;
mod volumes;

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use sampan_store::Store;

pub use config::EngineConfig;
pub use error::{Error, ErrorKind, Result};
pub use filters::Filters;
pub use sampan_image::{Digest, timestamp};

use containers::Containers;
use events::Events;
use facts::Facts;
use images::Images;
use instance::Instance;
use layers::Layers;
use networks::Networks;
use volumes::Volumes;

/// One engine over one data root. Clones share it.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    layers: Layers,
    images: Images,
    volumes: Volumes,
    networks: Networks,
    containers: Containers,
    builds: build::Builds,
    /// Read while a container is made from an image, written while images are removed: a removal sees every container
    /// whose layers it must leave.
    image_use: Arc<tokio::sync::RwLock<()>>,
    /// Held as long as the engine lives; the kernel lets go of it when the process dies.
    _lock: Flock<File>,
}

/// What every manager works with.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: EngineConfig,
    pub(crate) instance: Instance,
    pub(crate) store: Store,
    pub(crate) facts: Facts,
    pub(crate) drivers: sampan_drivers::Drivers,
    pub(crate) events: Events,
    pub(crate) cgroups: sampan_cgroup::Hierarchy,
}

impl Engine {
    /// Opens the data root: takes its lock, opens the state, adopts what runs, clears what is left over, and starts
    /// what restart policies say. Must be called within a tokio runtime.
    pub async fn open(config: EngineConfig) -> Result<Self> {
        private_directory(&config.root, 0o711)?;
        let lock = lock(&config.root).await?;
        for directory in [config.root.join("containers"), config.cache(), config.tmp()] {
            private_directory(&directory, 0o700)?;
        }
        private_directory(&config.run, 0o711)?;
        for directory in ["c", "m", "netns"] {
            private_directory(&config.run.join(directory), 0o711)?;
        }
        empty(&config.tmp())?;
        let instance = Instance::of(&config.root)
            .map_err(|error| Error::internal(format!("read the instance's identity: {error}")))?;
        let store = Store::open(&config.database())?;
        let facts = Facts::measure(&config.root);
        let drivers = plugins::open(&config, &store)?;
        let cgroups = sampan_cgroup::Hierarchy::detect().map_err(Error::unsupported)?;
        let shared = Arc::new(Shared { config, instance, store, facts, drivers, events: Events::default(), cgroups });
        plugins::tell_trouble(&shared.drivers, &shared.events);
        let layers = Layers::open(&shared)?;
        let images = Images::open(&shared, &layers)?;
        let volumes = Volumes::open(&shared)?;
        let networks = Networks::open(&shared).await?;
        let containers = Containers::open(&shared, &layers, &volumes, &networks)?;
        let builds = build::Builds::open(&shared, &images);
        let inner = Inner {
            shared,
            layers,
            images,
            volumes,
            networks,
            containers,
            builds,
            image_use: Arc::default(),
            _lock: lock,
        };
        let engine = Self { inner: Arc::new(inner) };
        build::recover(&engine).await;
        engine.inner.containers.restore().await?;
        engine.collect_images_from_now_on();
        Ok(engine)
    }

    /// Ends in order: containers go on when live restore is set, and are stopped otherwise; the state is folded.
    pub async fn shutdown(&self) {
        self.inner.containers.shutdown().await;
        self.inner.networks.shutdown().await;
        let alive = self.inner.containers.all().iter().any(|container| container.status().is_alive());
        if !self.inner.shared.config.live_restore
            && !alive
            && let Err(error) = self.inner.networks.clear().await
        {
            tracing::warn!(%error, "links or rules are left");
        }
        if let Err(error) = self.inner.shared.store.checkpoint() {
            tracing::warn!(%error, "the state was not folded");
        }
    }

    /// The state store, for those who keep documents of their own beside the engine's (the reconciler).
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.inner.shared.store
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &EngineConfig {
        &self.inner.shared.config
    }
}

/// How long descriptors of a daemon that was killed may outlive it: a process that it was about to start has copies of
/// them until its program begins.
pub const COPIES: Duration = Duration::from_secs(2);

async fn lock(root: &Path) -> Result<Flock<File>> {
    let path = root.join("lock");
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| Error::internal(format!("open {}: {error}", path.display())))?;
    let deadline = Instant::now() + COPIES;
    loop {
        let errno = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, nix::errno::Errno::EWOULDBLOCK)) if Instant::now() < deadline => {
                file = back;
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            Err((_, errno)) => errno,
        };
        return Err(match errno {
            nix::errno::Errno::EWOULDBLOCK => Error::conflict(format!(
                "another daemon works on {} already; stop it, or give this one a root of its own (--root, SAMPAN_ROOT)",
                root.display()
            )),
            other => Error::internal(format!("lock {}: {other}", path.display())),
        });
    }
}

fn private_directory(path: &Path, mode: u32) -> Result<()> {
    let make = || {
        fs::create_dir_all(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    };
    make().map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::PermissionDenied => "; the daemon must run as root",
            std::io::ErrorKind::ReadOnlyFilesystem => "; choose a root on a writable file system (--root, SAMPAN_ROOT)",
            _ => "",
        };
        Error::internal(format!("create the directory {}: {error}{hint}", path.display()))
    })
}

fn empty(directory: &Path) -> Result<()> {
    let clear = || -> std::io::Result<()> {
        for entry in fs::read_dir(directory)? {
            sampan_storage::remove_tree(&entry?.path())?;
        }
        Ok(())
    };
    clear().map_err(|error| Error::internal(format!("empty {}: {error}", directory.display())))
}

/// Runs blocking work (file trees, driver calls, namespaces) on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::internal(format!("a worker thread failed: {error}"))),
    }
}

/// Runs an operation to its end, also when whoever asked goes away.
pub(crate) async fn detached<T: Send + 'static>(
    work: impl std::future::Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::internal(format!("an operation failed: {error}"))),
    }
}
