//! Containers: their records, their life cycle, and what goes in and out of them.
//!
//! `record` is what the store keeps, `link` the connection to a container's shim, `streams` its output and input.

pub(crate) mod archive;
mod attach;
mod bench;
mod commit;
mod container;
mod create;
pub(crate) mod devices;
mod drain;
mod exec;
mod extract;
pub(crate) mod files;
mod framing;
mod health;
mod inspect;
mod keeper;
mod limits;
pub(crate) mod link;
mod list;
#[cfg(test)]
mod live;
mod logs;
mod merge;
mod monitor;
mod mounts;
mod names;
mod policy;
mod populate;
mod ports;
mod pump;
mod readiness;
mod reconfigure;
pub(crate) mod record;
mod remove;
mod restore;
mod security;
mod shim_program;
mod signals;
pub(crate) mod spec;
mod spool;
mod standing;
mod start;
mod stats;
mod status;
mod stop;
mod streams;
mod top;
mod update;
mod validate;
mod wait;

use std::future::Future;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::error::Result;
use crate::filters::Filters;

pub(crate) use commit::CommitSource;
pub(crate) use container::{Container, Containers};
pub(crate) use names::new_id;
pub use policy::Backoff;
pub use reconfigure::Part;
pub(crate) use record::Status;
pub use standing::{Kept, Standing};
pub use streams::{Attached, Output, OutputStream, StdinWriter};
pub(crate) use validate::extra_host;

/// `ps`.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Those that do not run, too.
    pub all: bool,
    /// The newest so many.
    pub limit: Option<usize>,
    /// Compute sizes.
    pub size: bool,
    /// Docker's filters.
    pub filters: Filters,
}

/// `rm`.
#[derive(Debug, Clone, Copy, Default)]
pub struct RemoveOptions {
    /// Kill it if it runs.
    pub force: bool,
    /// Remove its anonymous volumes.
    pub volumes: bool,
    /// Remove a link instead; refused.
    pub link: bool,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitCondition {
    /// That it does not run, which may be so already.
    NotRunning,
    /// That it ends after now.
    NextExit,
    /// That it is gone.
    Removed,
}

/// How a wait ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitStatus {
    /// The exit code.
    pub code: i64,
    /// Why there is none.
    pub error: Option<String>,
}

/// `attach`.
#[derive(Debug, Clone, Copy, Default)]
pub struct AttachOptions {
    /// Follow what comes from now on.
    pub stream: bool,
    /// Begin with what was written before.
    pub logs: bool,
    /// Take input.
    pub stdin: bool,
    /// Give output.
    pub stdout: bool,
    /// Give errors.
    pub stderr: bool,
}

/// `logs`.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// Go on with what comes.
    pub follow: bool,
    /// Output.
    pub stdout: bool,
    /// Errors.
    pub stderr: bool,
    /// Nanoseconds since the epoch.
    pub since_ns: Option<i64>,
    /// Nanoseconds since the epoch.
    pub until_ns: Option<i64>,
    /// The last so many lines.
    pub tail: Option<u64>,
    /// With the attributes of log options; not kept by every driver.
    pub details: bool,
}

/// A piece of a log: a line with its end, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// Nanoseconds since the epoch.
    pub time_ns: u64,
    /// Which output.
    pub stream: OutputStream,
    /// The line goes on in the next record of the stream.
    pub partial: bool,
    /// The bytes, with the newline unless partial.
    pub bytes: Bytes,
}

/// A log being read.
#[derive(Debug)]
pub struct Logs {
    /// Whether it is of a terminal.
    pub tty: bool,
    /// Ends at the end of the log, or of the container when followed.
    pub records: mpsc::Receiver<LogRecord>,
}

/// `exec` being started.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExecStart {
    /// Nobody wants its output.
    pub detach: bool,
    /// It has a terminal; must agree with how it was created.
    pub tty: bool,
    /// Rows and columns.
    pub size: Option<(u16, u16)>,
}

/// A file in a container, for the header of `archive`.
#[derive(Debug, Clone, Serialize)]
pub struct PathStat {
    /// Last part of the path.
    pub name: String,
    /// Bytes.
    pub size: i64,
    /// Go's file mode bits.
    pub mode: u32,
    /// RFC 3339.
    pub mtime: String,
    /// Where a link points to.
    #[serde(rename = "linkTarget")]
    pub link_target: String,
}

/// A future that [`crate::Engine::wait`] hands out, so that the wait has begun before it is awaited.
pub type Waiting = std::pin::Pin<Box<dyn Future<Output = Result<WaitStatus>> + Send>>;
