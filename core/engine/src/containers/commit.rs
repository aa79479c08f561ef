//! What of a container becomes an image.

use bollard_stubs::models::ContainerConfig;

use super::record::Status;
use crate::Engine;
use crate::error::Result;

/// A container as far as a commit needs it.
#[derive(Debug)]
pub(crate) struct CommitSource {
    /// Its id.
    pub id: String,
    /// Id of its image; empty without one.
    pub image: String,
    /// Chain ids of the image's layers, nearest first.
    pub chain: Vec<String>,
    /// Its configuration.
    pub config: ContainerConfig,
    /// Whether its processes run.
    pub running: bool,
}

impl Engine {
    pub(crate) fn commit_source(&self, container: &str) -> Result<CommitSource> {
        let record = self.inner.containers.find(container)?.snapshot();
        Ok(CommitSource {
            id: record.id.clone(),
            image: record.image.clone(),
            chain: record.chain.clone(),
            config: record.config.clone(),
            running: record.state.status == Status::Running,
        })
    }
}
