//! `exec`: further processes in a container.

use bollard_stubs::models::{ExecConfig, ExecInspectResponse, IdResponse};

use std::sync::Arc;

use super::{Attached, Container, Containers, ExecStart};
use crate::Engine;
use crate::error::{Error, Result};

/// The `exec`s of a container.
#[derive(Debug, Default)]
pub(crate) struct Execs {}

impl Execs {
    /// Ids, for `inspect`.
    pub(crate) fn ids(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The shim has told that an exec has ended. Called in the order of the shim's events, so it must not wait.
pub(crate) fn exited(_containers: &Containers, _container: &Arc<Container>, _id: &str, _code: u8) {}

/// The container has ended, and its `exec`s with it.
pub(crate) fn end_all(_containers: &Containers, _container: &Arc<Container>) {}

fn unsupported<T>() -> Result<T> {
    Err(Error::unsupported("exec is not there yet"))
}

impl Engine {
    /// Prepares a process.
    pub async fn exec_create(&self, _container: &str, _config: ExecConfig) -> Result<IdResponse> {
        unsupported()
    }

    /// Starts it; nothing is attached when detached.
    pub async fn exec_start(&self, _id: &str, _options: ExecStart) -> Result<Option<Attached>> {
        unsupported()
    }

    /// Sets its terminal's size.
    pub async fn exec_resize(&self, _id: &str, _rows: u16, _columns: u16) -> Result<()> {
        unsupported()
    }

    /// How it stands.
    pub async fn exec_inspect(&self, _id: &str) -> Result<ExecInspectResponse> {
        unsupported()
    }
}
