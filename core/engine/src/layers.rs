//! Layers of images and roots of containers, as the layer driver decides.

use std::path::PathBuf;
use std::sync::Arc;

use crate::Shared;
use crate::error::{Error, Result};

/// Where a container's changes are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ChangeView {
    /// An overlay's upper directory.
    Upper(PathBuf),
    /// What the second tree has over the first.
    Compare(PathBuf, PathBuf),
}

/// The layers of an engine. Clones share it. Calls block.
#[derive(Debug, Clone)]
pub(crate) struct Layers {
    shared: Arc<Shared>,
}

impl Layers {
    pub(crate) fn open(shared: &Arc<Shared>) -> Result<Self> {
        Ok(Self { shared: Arc::clone(shared) })
    }

    /// Name of the layer driver.
    pub(crate) fn driver(&self) -> &str {
        self.shared.config.storage_driver.as_deref().unwrap_or("overlay")
    }

    /// Makes sure that a container's root is mounted at `config.rootfs(id)` over its layers (chain ids, nearest first),
    /// and returns that path.
    pub(crate) fn mount(&self, _container: &str, _parents: &[String]) -> Result<PathBuf> {
        Err(Error::unsupported("layers are not there yet"))
    }

    /// Takes a container's root off; what was written stays.
    pub(crate) fn unmount(&self, _container: &str) -> Result<()> {
        Err(Error::unsupported("layers are not there yet"))
    }

    /// Forgets a container's writable layer; it is unmounted first.
    pub(crate) fn remove(&self, _container: &str) -> Result<()> {
        Err(Error::unsupported("layers are not there yet"))
    }

    /// Where a container's changes are found.
    pub(crate) fn changes(&self, _container: &str, _parents: &[String]) -> Result<ChangeView> {
        Err(Error::unsupported("layers are not there yet"))
    }
}
