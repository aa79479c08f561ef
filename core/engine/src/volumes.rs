//! Volumes, as their drivers decide.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use bollard_stubs::models::{Volume, VolumeCreateRequest, VolumeListResponse, VolumePruneResponse};

use crate::error::{Error, Result};
use crate::filters::Filters;
use crate::{Engine, Shared};

/// The volumes of an engine. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Volumes {
    shared: Arc<Shared>,
}

impl Volumes {
    pub(crate) fn open(shared: &Arc<Shared>) -> Result<Self> {
        Ok(Self { shared: Arc::clone(shared) })
    }

    /// Makes sure that a volume is there, notes that a container refers to it, and returns its name. Without a name an
    /// anonymous one is made. An existing volume keeps its driver and options; another driver asked for is a conflict.
    pub(crate) async fn ensure(
        &self,
        _name: Option<&str>,
        _driver: Option<&str>,
        _options: HashMap<String, String>,
        _labels: HashMap<String, String>,
        _container: &str,
    ) -> Result<String> {
        Err(Error::unsupported("volumes are not there yet"))
    }

    /// Before a container starts: the directory that it shall see.
    pub(crate) async fn mount(&self, _name: &str, _container: &str) -> Result<PathBuf> {
        Err(Error::unsupported("volumes are not there yet"))
    }

    /// After a container has ended.
    pub(crate) async fn unmount(&self, _name: &str, _container: &str) -> Result<()> {
        Err(Error::unsupported("volumes are not there yet"))
    }

    /// When a container is removed: it no longer refers to any volume. With `remove_anonymous`, its anonymous volumes go
    /// when no other container refers to them.
    pub(crate) async fn release(&self, _container: &str, _remove_anonymous: bool) -> Result<()> {
        Err(Error::unsupported("volumes are not there yet"))
    }
}

fn unsupported<T>() -> Result<T> {
    Err(Error::unsupported("volumes are not there yet"))
}

impl Engine {
    /// `volume ls`.
    pub async fn list_volumes(&self, _filters: Filters) -> Result<VolumeListResponse> {
        unsupported()
    }

    /// `volume create`.
    pub async fn create_volume(&self, _request: VolumeCreateRequest) -> Result<Volume> {
        unsupported()
    }

    /// `volume inspect`.
    pub async fn inspect_volume(&self, _name: &str) -> Result<Volume> {
        unsupported()
    }

    /// `volume rm`.
    pub async fn remove_volume(&self, _name: &str, _force: bool) -> Result<()> {
        unsupported()
    }

    /// `volume prune`.
    pub async fn prune_volumes(&self, _filters: Filters) -> Result<VolumePruneResponse> {
        unsupported()
    }
}
