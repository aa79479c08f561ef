//! Image builds: the engine's side of `sampan-build`.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;

use bollard_stubs::models::BuildPruneResponse;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;

use crate::Engine;
use crate::error::{Error, Result};
use crate::filters::Filters;
use crate::messages::{BuildMessage, Credentials};

/// Where the files of a build come from.
pub enum BuildContext {
    /// A tar, compressed or not.
    Tar(Pin<Box<dyn AsyncRead + Send>>),
    /// A directory of this host, for builds that the daemon itself begins (stacks).
    Directory(std::path::PathBuf),
}

impl Default for BuildContext {
    fn default() -> Self {
        Self::Tar(Box::pin(tokio::io::empty()))
    }
}

impl fmt::Debug for BuildContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tar(_) => f.write_str("Tar"),
            Self::Directory(path) => f.debug_tuple("Directory").field(path).finish(),
        }
    }
}

/// A build as asked for.
#[derive(Debug, Default)]
pub struct BuildRequest {
    /// The files.
    pub context: BuildContext,
    /// Path of the Dockerfile in the context; `Dockerfile` by default.
    pub dockerfile: Option<String>,
    /// Text of a Dockerfile that is not in the context, before `dockerfile`.
    pub dockerfile_inline: Option<String>,
    /// Names for the image.
    pub tags: Vec<String>,
    /// `ARG` values; `None` takes the default.
    pub build_args: HashMap<String, Option<String>>,
    /// Labels for the image.
    pub labels: HashMap<String, String>,
    /// The stage to build; the last by default.
    pub target: Option<String>,
    /// `os/arch[/variant]`.
    pub platform: Option<String>,
    /// Network of `RUN`: `default`, `none`, `host`, or a network's name.
    pub network: Option<String>,
    /// `host:address` for `RUN`.
    pub extra_hosts: Vec<String>,
    /// Bytes of `/dev/shm` for `RUN`.
    pub shm_size: Option<i64>,
    /// Bytes of memory for `RUN`.
    pub memory: Option<i64>,
    /// Bytes of memory and swap for `RUN`.
    pub memory_swap: Option<i64>,
    /// Use no cached result.
    pub no_cache: bool,
    /// Ask registries for newer base images.
    pub pull: bool,
    /// Tell the id alone.
    pub quiet: bool,
    /// Credentials by registry.
    pub registry_auth: HashMap<String, Credentials>,
}

impl Engine {
    /// Builds an image. Progress comes in Docker's form; the last message carries the id in `aux`, or an error.
    /// Dropping the receiver cancels the build.
    pub async fn build_image(&self, _request: BuildRequest) -> Result<mpsc::Receiver<BuildMessage>> {
        Err(Error::unsupported("builds are not there yet"))
    }

    /// Forgets cached build results.
    pub async fn prune_build(&self, _all: bool, _filters: Filters) -> Result<BuildPruneResponse> {
        Err(Error::unsupported("builds are not there yet"))
    }
}
