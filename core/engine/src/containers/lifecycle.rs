//! Create, start, stop, and all that changes how a container stands.

use std::collections::HashMap;

use bollard_stubs::models::{
    ContainerCreateBody, ContainerCreateResponse, ContainerInspectResponse, ContainerPruneResponse, ContainerSummary,
    ContainerUpdateBody, ContainerUpdateResponse,
};

use super::{Containers, ListOptions, RemoveOptions, WaitCondition, Waiting};
use crate::Engine;
use crate::error::{Error, Result};
use crate::filters::Filters;

fn unsupported<T>() -> Result<T> {
    Err(Error::unsupported("containers are not there yet"))
}

impl Containers {
    /// Adopts what runs, clears what is left over, and starts what policies say.
    pub(crate) async fn restore(&self) -> Result<()> {
        Ok(())
    }

    /// Lets go of containers (live restore), or stops them.
    pub(crate) async fn shutdown(&self) {}
}

impl Engine {
    /// `create`.
    pub async fn create(
        &self,
        _name: Option<&str>,
        _body: ContainerCreateBody,
        _platform: Option<&str>,
    ) -> Result<ContainerCreateResponse> {
        unsupported()
    }

    /// `start`. Not modified when it runs.
    pub async fn start(&self, _id: &str) -> Result<()> {
        unsupported()
    }

    /// `stop`: the signal, then after `timeout` seconds SIGKILL; negative waits for ever.
    pub async fn stop(&self, _id: &str, _signal: Option<&str>, _timeout: Option<i64>) -> Result<()> {
        unsupported()
    }

    /// `restart`.
    pub async fn restart(&self, _id: &str, _signal: Option<&str>, _timeout: Option<i64>) -> Result<()> {
        unsupported()
    }

    /// `kill`.
    pub async fn kill(&self, _id: &str, _signal: Option<&str>) -> Result<()> {
        unsupported()
    }

    /// `pause`.
    pub async fn pause(&self, _id: &str) -> Result<()> {
        unsupported()
    }

    /// `unpause`.
    pub async fn unpause(&self, _id: &str) -> Result<()> {
        unsupported()
    }

    /// `rename`.
    pub async fn rename(&self, _id: &str, _name: &str) -> Result<()> {
        unsupported()
    }

    /// `rm`.
    pub async fn remove(&self, _id: &str, _options: RemoveOptions) -> Result<()> {
        unsupported()
    }

    /// `wait`: the wait has begun when this returns.
    pub async fn wait(&self, _id: &str, _condition: WaitCondition) -> Result<Waiting> {
        unsupported()
    }

    /// `update`.
    pub async fn update(&self, _id: &str, _body: ContainerUpdateBody) -> Result<ContainerUpdateResponse> {
        unsupported()
    }

    /// `ps`.
    pub async fn list_containers(&self, _options: ListOptions) -> Result<Vec<ContainerSummary>> {
        unsupported()
    }

    /// `inspect`.
    pub async fn inspect_container(&self, _id: &str, _size: bool) -> Result<ContainerInspectResponse> {
        unsupported()
    }

    /// `container prune`.
    pub async fn prune_containers(&self, _filters: Filters) -> Result<ContainerPruneResponse> {
        unsupported()
    }

    /// How many containers there are, by state, for `info`.
    pub(crate) fn count_containers(&self) -> HashMap<&'static str, i64> {
        HashMap::new()
    }
}
