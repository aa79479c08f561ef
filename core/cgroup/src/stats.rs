//! Numbers of a cgroup.

use std::collections::BTreeMap;
use std::path::Path;

/// What a cgroup has used. Times in nanoseconds, sizes in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Processor time in all.
    pub cpu_usage: u64,
    /// Of it, in user mode.
    pub cpu_user: u64,
    /// Of it, in the kernel.
    pub cpu_system: u64,
    /// Periods, of which throttled, and for how long.
    pub cpu_throttling: [u64; 3],
    /// Memory in use, page cache included.
    pub memory_usage: u64,
    /// The most that it ever was, where the kernel counts it.
    pub memory_peak: Option<u64>,
    /// The limit; `None` without one.
    pub memory_limit: Option<u64>,
    /// `memory.stat`.
    pub memory: BTreeMap<String, u64>,
    /// Tasks.
    pub pids_current: u64,
    /// Their limit.
    pub pids_limit: Option<u64>,
    /// Bytes read and written by device, as major, minor, operation, bytes.
    pub blkio_bytes: Vec<(u64, u64, String, u64)>,
    /// Whether these are numbers of version 2.
    pub unified: bool,
}

/// A file of lines `key number`.
pub(crate) fn keyed(path: &Path) -> BTreeMap<String, u64> {
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

/// A file of one number; `max` is none.
pub(crate) fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}
