//! `exec`: further processes in a container.

use bollard_stubs::models::{ExecConfig, ExecInspectResponse, IdResponse};

use super::{Attached, ExecStart};
use crate::Engine;
use crate::error::{Error, Result};

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
