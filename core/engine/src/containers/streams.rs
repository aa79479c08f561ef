//! What goes in and out of a container while it lives: to its log, and to those attached.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use sampan_shim_protocol::Connected;
use tokio::sync::mpsc;

use super::link::Shim;
use super::record::ContainerRecord;
use crate::Shared;
use crate::error::{Error, Result};

/// Which output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputStream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Which.
    pub stream: OutputStream,
    /// What.
    pub bytes: Bytes,
}

/// A client attached to a container or an exec.
#[derive(Debug)]
pub struct Attached {
    /// Whether it is a terminal.
    pub tty: bool,
    /// The input, when wanted and open.
    pub stdin: Option<StdinWriter>,
    /// Ends when the process has ended and all was told.
    pub output: mpsc::Receiver<Output>,
}

/// The way to a process's input. Dropping it leaves the input open for others.
#[derive(Debug)]
pub struct StdinWriter {
    _private: (),
}

impl StdinWriter {
    /// Writes all of it; fails when the process has closed its input. Waits until a container that was not started yet is.
    pub async fn write(&mut self, _bytes: Bytes) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    /// Ends the input.
    pub async fn close(self) {}
}

/// Joins a container to those attached, over all its starts. Made with the container, kept as long as it.
/// Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hub {
    _inner: Arc<()>,
}

impl Hub {
    /// What is written from now on; may be asked for before the container starts. Ends with the container.
    pub(crate) fn subscribe(&self) -> mpsc::Receiver<Output> {
        mpsc::channel(1).1
    }

    /// The input of this start or the next.
    pub(crate) fn stdin(&self) -> StdinWriter {
        StdinWriter { _private: () }
    }

    /// Serves a start: opens the log driver's sink, drains the spool, and moves output to log and subscribers until its
    /// end. Call it after [`Shim::connect`].
    pub(crate) async fn serve(
        &self,
        _shared: &Arc<Shared>,
        _record: &ContainerRecord,
        _shim: &Shim,
        _connected: Connected,
        _descriptors: Vec<OwnedFd>,
    ) -> Result<()> {
        Err(Error::unsupported("streams are not there yet"))
    }

    /// After the container's end: returns when all of its output has reached the log and the subscribers, and ends them.
    pub(crate) async fn finish(&self) {}
}
