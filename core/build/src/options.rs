//! What a build is told to do, whoever asks and whatever it is made of.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::backend::Ulimit;
use crate::device::Allowed;
use crate::provenance::Provenance;

/// The options of a build.
#[derive(Clone, Default)]
pub struct Options {
    /// `--build-arg`; `None` takes the default.
    pub build_args: HashMap<String, Option<String>>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// The stage to build, by name or number; the last one if there is none.
    pub target: Option<String>,
    /// Network of RUN: `default` (also when empty), `none`, `host`, or a network's name.
    pub network: String,
    /// `host:address` for RUN.
    pub extra_hosts: Vec<String>,
    /// Bytes of `/dev/shm` for RUN.
    pub shm_size: Option<i64>,
    /// Bytes of memory for RUN.
    pub memory: Option<i64>,
    /// Bytes of memory and swap for RUN.
    pub memory_swap: Option<i64>,
    /// Limits of RUN's processes.
    pub ulimits: Vec<Ulimit>,
    /// Take no remembered result.
    pub no_cache: bool,
    /// Take none in these stages, by name or number.
    pub no_cache_stages: Vec<String>,
    /// Times in layers that are after `SOURCE_DATE_EPOCH` become that.
    pub rewrite_timestamp: bool,
    /// Ask registries for newer base images.
    pub pull: bool,
    /// Tell the id alone.
    pub quiet: bool,
    /// Stages tell what they do while they do it, and not one after the other.
    pub live: bool,
    /// Secrets by id, for `RUN --mount=type=secret`.
    pub secrets: BTreeMap<String, Arc<[u8]>>,
    /// Sockets of agents on this host by id, for `RUN --mount=type=ssh`.
    pub ssh: BTreeMap<String, PathBuf>,
    /// What steps may have beyond a container's rights.
    pub allowed: Allowed,
    /// What is said beside the image about how it was made.
    pub provenance: Option<Provenance>,
}

impl Options {
    /// Network of RUN.
    #[must_use]
    pub fn network(&self) -> &str {
        if self.network.is_empty() { "default" } else { &self.network }
    }
}

impl fmt::Debug for Options {
    /// Arguments and secrets are nobody's to read in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("target", &self.target).finish_non_exhaustive()
    }
}
