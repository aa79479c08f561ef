//! From an OCI runtime configuration to a running container.
//!
//! [`launch`] makes namespaces, mounts, cgroup, rights and filter, and starts the user's program; [`exec`] runs another
//! process inside. The caller is a process with a single thread (the shim), so that what is cloned may go on as
//! ordinary code until it executes the program.
//!
//! Steps in the order of their files: `launch` (the parent's side), `init` (the child's), `rootfs`, `mounts`, `paths`,
//! `terminal`, `identity` (user, capabilities, filter), `program` (the last step); between them those of `hooks`.
//!
//! Invariants:
//! - what comes from the image is resolved below its root by descriptor (`openat2` with `RESOLVE_IN_ROOT`), never by name;
//! - nothing but the descriptors 0 to 2 reaches the user's program;
//! - a step that fails is named, with its cause, and leaves no process behind.

#![allow(unsafe_code)] // system calls that nix has no wrapper for; one block each, in `sys`

pub mod capabilities;
pub mod hooks;
mod identity;
mod init;
mod launch;
mod mounts;
mod paths;
mod program;
mod rootfs;
pub mod seccomp;
mod sys;
mod terminal;
mod tiny_init;
pub mod user;

pub use launch::{ExecOptions, LaunchOptions, Launched, Stdio, cgroup_limits, exec, launch};

use serde::{Deserialize, Serialize};

/// Sets the size of the terminal behind a master.
pub fn resize(master: std::os::fd::BorrowedFd<'_>, rows: u16, columns: u16) -> std::io::Result<()> {
    sys::set_terminal_size(master, rows, columns)
}

/// A step that failed on the way to the user's program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What was being done.
    pub step: String,
    /// Why it failed.
    pub cause: String,
    /// 125, or 126 for a program that cannot be run, or 127 for one that is not there.
    pub code: u8,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.step, self.cause)
    }
}

impl std::error::Error for Failure {}

/// Names the step that failed.
trait At<T> {
    fn at(self, step: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: std::fmt::Display> At<T> for Result<T, E> {
    fn at(self, step: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| Failure { step: step(), cause: error.to_string(), code: 125 })
    }
}
