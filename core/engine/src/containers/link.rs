//! The daemon's end of a shim.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use sampan_shim_protocol::{Connected, Event, ExecRequest, StartFailure};
use tokio::sync::mpsc;

use crate::error::{Error, Result};

/// A connected shim. Clones share the connection.
#[derive(Debug, Clone)]
pub(crate) struct Shim {
    _inner: Arc<()>,
}

/// What the shim says by itself, in order; ends when the shim is gone.
pub(crate) type ShimEvents = mpsc::UnboundedReceiver<Event>;

fn unsupported<T>() -> Result<T> {
    Err(Error::unsupported("shims are not there yet"))
}

impl Shim {
    /// Starts a shim for a bundle whose files are written. `Started` or `StartFailed` is its first event.
    pub(crate) async fn launch(_program: &Path, _bundle: &Path) -> Result<(Self, ShimEvents)> {
        unsupported()
    }

    /// Connects to the shim of a bundle that runs already. Fails when there is none.
    pub(crate) async fn adopt(_bundle: &Path) -> Result<(Self, ShimEvents)> {
        unsupported()
    }

    /// Takes the output over: descriptors of stdout, stderr (unless a terminal) and stdin's writing end (if open).
    pub(crate) async fn connect(&self) -> Result<(Connected, Vec<OwnedFd>)> {
        unsupported()
    }

    /// Says that the log has these bytes of a stream.
    pub(crate) async fn consumed(&self, _stream: usize, _bytes: u64, _next_time: u64) -> Result<()> {
        unsupported()
    }

    /// Signals process 1, or every process.
    pub(crate) async fn kill(&self, _signal: i32, _all: bool) -> Result<()> {
        unsupported()
    }

    /// Sets a terminal's size.
    pub(crate) async fn resize(&self, _exec: Option<&str>, _rows: u16, _columns: u16) -> Result<()> {
        unsupported()
    }

    /// Ends the input.
    pub(crate) async fn close_stdin(&self) -> Result<()> {
        unsupported()
    }

    /// Runs another process: its pid and the descriptors as asked.
    pub(crate) async fn exec(
        &self,
        _request: ExecRequest,
    ) -> Result<std::result::Result<(i32, Vec<OwnedFd>), StartFailure>> {
        unsupported()
    }

    /// Signals an exec's process.
    pub(crate) async fn kill_exec(&self, _exec: &str, _signal: i32) -> Result<()> {
        unsupported()
    }

    /// The end was taken note of: the shim may leave.
    pub(crate) async fn shutdown(&self) -> Result<()> {
        unsupported()
    }
}
