//! Where one engine keeps its things, and what it does when nothing is asked for.

use std::path::{Path, PathBuf};

pub use sampan_image::registry::Proxies;

/// Settings of one daemon, fixed while it runs.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// What survives a reboot: `SAMPAN_ROOT`, `/var/lib/sampan` by default.
    pub root: PathBuf,
    /// What does not: `SAMPAN_RUN`, `/run/sampan` by default. Best on a tmpfs.
    pub run: PathBuf,
    /// The folder with the components that ship with the binary.
    pub drivers: PathBuf,
    /// The `sampan-shim` program.
    pub shim: PathBuf,
    /// Log driver of containers that name none.
    pub log_driver: String,
    /// Options of that driver.
    pub log_opts: std::collections::HashMap<String, String>,
    /// Layer driver; `None` takes `overlay` where the kernel has it, else `vfs`.
    pub storage_driver: Option<String>,
    /// Registries that are spoken to without TLS, as `host:port`; loopback ones always may be.
    pub insecure_registries: Vec<String>,
    /// Mirrors of Docker Hub, tried first.
    pub registry_mirrors: Vec<String>,
    /// How registries and what builds fetch are reached; what is left out the environment says.
    pub proxies: Proxies,
    /// Bytes that unused images may keep; the longest unused go first. Without it and without an age they stay.
    pub unused_image_size: Option<u64>,
    /// How long an image without a container is kept.
    pub unused_image_age: Option<std::time::Duration>,
    /// Whether those two are about images with names, too.
    pub unused_image_all: bool,
    /// Bytes that results of builds may keep beside images; the longest unused go first.
    pub build_cache_size: Option<u64>,
    /// How long an unused result of a build is kept.
    pub build_cache_age: Option<std::time::Duration>,
    /// Where specifications of devices lie (Container Device Interface); later folders count more.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// Labels of the engine, shown by `info`.
    pub labels: Vec<String>,
    /// Whether containers go on when the daemon is told to stop.
    pub live_restore: bool,
}

impl EngineConfig {
    /// Defaults for a data root and a run directory.
    #[must_use]
    pub fn new(root: PathBuf, run: PathBuf, drivers: PathBuf, shim: PathBuf) -> Self {
        Self {
            root,
            run,
            drivers,
            shim,
            log_driver: "json-file".to_owned(),
            log_opts: std::collections::HashMap::new(),
            storage_driver: None,
            insecure_registries: Vec::new(),
            registry_mirrors: Vec::new(),
            proxies: Proxies::default(),
            unused_image_size: None,
            unused_image_age: None,
            unused_image_all: false,
            build_cache_size: None,
            build_cache_age: None,
            cdi_spec_dirs: ["/etc/cdi", "/var/run/cdi"].map(PathBuf::from).to_vec(),
            labels: Vec::new(),
            live_restore: false,
        }
    }

    /// The state database.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.root.join("sampan.db")
    }

    /// What a container has beside its root, whether it runs or not: its logs.
    #[must_use]
    pub fn container_dir(&self, id: &str) -> PathBuf {
        self.root.join("containers").join(id)
    }

    /// A running container's bundle, shared with its shim, and what is mounted over its `/etc/hosts` and the like.
    #[must_use]
    pub fn bundle(&self, id: &str) -> PathBuf {
        self.run.join("c").join(id)
    }

    /// Where a container's root file system is mounted.
    #[must_use]
    pub fn rootfs(&self, id: &str) -> PathBuf {
        self.run.join("m").join(id)
    }

    /// The bind mount that keeps a sandbox's network namespace.
    #[must_use]
    pub fn netns(&self, sandbox: &str) -> PathBuf {
        self.run.join("netns").join(sandbox)
    }

    /// Machine code of drivers and compiled filters; only root may write here.
    #[must_use]
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// Scratch space that is emptied at every start.
    #[must_use]
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }
}

/// Whether `path` is the default data root, which owns the default names.
#[must_use]
pub fn is_default_root(path: &Path) -> bool {
    path == Path::new("/var/lib/sampan")
}
