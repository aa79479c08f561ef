//! For tests: a data root of its own, with the drivers that ship.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sampan_store::Store;

use crate::config::EngineConfig;
use crate::events::Events;
use crate::facts::Facts;
use crate::instance::Instance;
use crate::{Shared, plugins};

/// A data root that goes with the value.
pub(crate) struct Root {
    _folder: tempfile::TempDir,
    pub(crate) config: EngineConfig,
    pub(crate) facts: Facts,
    store: Store,
}

/// `None`, said, where the test cannot run: it needs root and built drivers.
pub(crate) fn root(test: &str) -> Option<Root> {
    let named = std::env::var_os("SAMPAN_DRIVERS").map(PathBuf::from);
    let drivers = named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/debug/drivers"));
    if !nix::unistd::geteuid().is_root() || !drivers.join("storage-overlay.wasm").exists() {
        println!("skipped: {test} needs root, and drivers in {} (cargo xtask build)", drivers.display());
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    let config = EngineConfig::new(root.clone(), folder.path().join("run"), drivers, PathBuf::from("/nowhere"));
    std::fs::create_dir_all(config.cache()).unwrap();
    std::fs::create_dir_all(config.tmp()).unwrap();
    std::fs::create_dir_all(&config.run).unwrap();
    let store = Store::open(&config.database()).unwrap();
    let facts = Facts::measure(&root);
    Some(Root { _folder: folder, config, facts, store })
}

impl Root {
    /// What managers are opened with; each call as after a restart.
    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::new(Shared {
            config: self.config.clone(),
            instance: Instance::of(&self.config.root).unwrap(),
            store: self.store.clone(),
            facts: self.facts.clone(),
            drivers: plugins::open_with(&self.config, &self.store, self.config.drivers.with_file_name("driver-code"))
                .unwrap(),
            events: Events::default(),
            cgroups: sampan_cgroup::Hierarchy::detect().unwrap(),
        })
    }
}
