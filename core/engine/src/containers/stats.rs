//! `stats` and `top`.

use std::collections::HashMap;

use bollard_stubs::models::{
    ContainerBlkioStats, ContainerCpuStats, ContainerMemoryStats, ContainerNetworkStats, ContainerPidsStats,
    ContainerTopResponse,
};
use serde::Serialize;

use crate::Engine;
use crate::error::{Error, Result};

/// A sample, as Docker writes it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ContainerStats {
    /// The container's id.
    pub id: String,
    /// Its name with a slash.
    pub name: String,
    /// When this was read, RFC 3339.
    pub read: String,
    /// When the sample before was read.
    pub preread: String,
    /// Processor time.
    pub cpu_stats: ContainerCpuStats,
    /// Of the sample before.
    pub precpu_stats: ContainerCpuStats,
    /// Memory.
    pub memory_stats: ContainerMemoryStats,
    /// Tasks.
    pub pids_stats: ContainerPidsStats,
    /// Block devices.
    pub blkio_stats: ContainerBlkioStats,
    /// Zero on Linux.
    pub num_procs: u32,
    /// By name of the link in the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub networks: Option<HashMap<String, ContainerNetworkStats>>,
}

impl Engine {
    /// One sample. A container that does not run gives zeros, as Docker's does.
    pub async fn stats(&self, _id: &str) -> Result<ContainerStats> {
        Err(Error::unsupported("stats are not there yet"))
    }

    /// `top`, with the arguments of ps(1).
    pub async fn top(&self, _id: &str, _arguments: &str) -> Result<ContainerTopResponse> {
        Err(Error::unsupported("top is not there yet"))
    }
}
