//! Version 2: one hierarchy, controllers enabled on the way down.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::limits::{Limits, ThrottleKind, swap_alone, weight_of_blkio, weight_of_shares};
use crate::stats::{Stats, keyed, number};
use crate::{Cgroup, CgroupError, make_directory, write};

pub(crate) fn ensure(cgroup: &Cgroup) -> Result<(), CgroupError> {
    let Some(root) = &cgroup.hierarchy.unified else { return Err(CgroupError::Absent) };
    let mut current = root.clone();
    for part in Path::new(&cgroup.path) {
        enable_controllers(&current);
        current.push(part);
        make_directory(&current)?;
    }
    Ok(())
}

/// Enables one by one, since one that cannot be (a realtime process in `cpu`) must not keep the others back.
/// A limit whose controller is missing is refused when it is applied.
fn enable_controllers(directory: &Path) {
    let available = fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
    let enabled = fs::read_to_string(directory.join("cgroup.subtree_control")).unwrap_or_default();
    for controller in available.split_whitespace() {
        if !enabled.split_whitespace().any(|found| found == controller) {
            let _ = fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
}

fn set(
    cgroup: &Cgroup,
    controller: &'static str,
    wanted: &'static str,
    file: &str,
    value: &str,
) -> Result<(), CgroupError> {
    let directory = cgroup.directory(controller).ok_or(CgroupError::NoController { controller, wanted })?;
    write(&directory.join(file), value)
}

fn or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

pub(crate) fn apply(cgroup: &Cgroup, limits: &Limits) -> Result<(), CgroupError> {
    if let Some(bytes) = limits.memory {
        set(cgroup, "memory", "a memory limit", "memory.max", &or_max(if bytes == 0 { -1 } else { bytes }))?;
    }
    if let Some(swap) = limits.memory_swap.and_then(|both| swap_alone(limits.memory, both)) {
        let present = cgroup.directory("memory").is_some_and(|directory| directory.join("memory.swap.max").exists());
        if present {
            set(cgroup, "memory", "a swap limit", "memory.swap.max", &or_max(swap))?;
        }
    }
    if let Some(bytes) = limits.memory_reservation {
        set(cgroup, "memory", "a memory reservation", "memory.low", &bytes.max(0).to_string())?;
    }
    if let Some(shares) = limits.cpu_shares.filter(|shares| *shares > 0) {
        set(cgroup, "cpu", "a share of the processors", "cpu.weight", &weight_of_shares(shares).to_string())?;
    }
    if limits.cpu_quota.is_some() || limits.cpu_period.is_some() {
        let quota = match limits.cpu_quota {
            Some(quota) if quota > 0 => quota.to_string(),
            _ => "max".to_owned(),
        };
        let period = limits.cpu_period.filter(|period| *period > 0).unwrap_or(100_000);
        set(cgroup, "cpu", "a processor limit", "cpu.max", &format!("{quota} {period}"))?;
    }
    if let Some(cpus) = &limits.cpuset_cpus {
        set(cgroup, "cpuset", "a set of processors", "cpuset.cpus", cpus)?;
    }
    if let Some(nodes) = &limits.cpuset_mems {
        set(cgroup, "cpuset", "a set of memory nodes", "cpuset.mems", nodes)?;
    }
    if let Some(pids) = limits.pids {
        set(cgroup, "pids", "a limit of processes", "pids.max", &or_max(if pids == 0 { -1 } else { pids }))?;
    }
    if let Some(weight) = limits.blkio_weight {
        let directory = cgroup.directory("io");
        let has = |file: &str| directory.as_ref().is_some_and(|directory| directory.join(file).exists());
        // Which of them there is depends on the scheduler that the kernel was built with.
        let (file, weight) = if has("io.bfq.weight") {
            ("io.bfq.weight", u64::from(weight))
        } else if has("io.weight") {
            ("io.weight", weight_of_blkio(weight))
        } else {
            return Err(CgroupError::NoController { controller: "io weight", wanted: "a weight of block I/O" });
        };
        set(cgroup, "io", "a weight of block I/O", file, &format!("default {weight}"))?;
    }
    for limit in &limits.throttle {
        let key = match limit.kind {
            ThrottleKind::ReadBytes => "rbps",
            ThrottleKind::WriteBytes => "wbps",
            ThrottleKind::ReadOperations => "riops",
            ThrottleKind::WriteOperations => "wiops",
        };
        let value = format!("{}:{} {key}={}", limit.major, limit.minor, limit.rate);
        set(cgroup, "io", "a limit of a block device", "io.max", &value)?;
    }
    Ok(())
}

/// Kills everything in it and below at once, so that nothing can multiply faster than it dies. Kernels before 5.14
/// cannot; what is left is killed one by one.
pub(crate) fn kill(cgroup: &Cgroup) {
    if let Some(root) = &cgroup.hierarchy.unified {
        let _ = fs::write(root.join(&cgroup.path).join("cgroup.kill"), "1");
    }
}

pub(crate) fn stats(cgroup: &Cgroup) -> Stats {
    let Some(root) = &cgroup.hierarchy.unified else { return Stats::default() };
    let directory = root.join(&cgroup.path);
    let cpu = keyed(&directory.join("cpu.stat"));
    let cpu_of = |key: &str| cpu.get(key).copied().unwrap_or(0);
    let io = fs::read_to_string(directory.join("io.stat")).unwrap_or_default();
    Stats {
        cpu_usage: cpu_of("usage_usec") * 1000,
        cpu_user: cpu_of("user_usec") * 1000,
        cpu_system: cpu_of("system_usec") * 1000,
        cpu_throttling: [cpu_of("nr_periods"), cpu_of("nr_throttled"), cpu_of("throttled_usec") * 1000],
        memory_usage: number(&directory.join("memory.current")).unwrap_or(0),
        memory_peak: number(&directory.join("memory.peak")),
        memory_limit: number(&directory.join("memory.max")),
        memory: keyed(&directory.join("memory.stat")),
        pids_current: number(&directory.join("pids.current")).unwrap_or(0),
        pids_limit: number(&directory.join("pids.max")),
        blkio_bytes: io_lines(&io),
        unified: true,
    }
}

/// Lines `8:0 rbytes=1 wbytes=2 …`.
fn io_lines(text: &str) -> Vec<(u64, u64, String, u64)> {
    let mut found = Vec::new();
    for line in text.lines() {
        let Some((device, values)) = line.split_once(' ') else { continue };
        let Some((Ok(major), Ok(minor))) = device.split_once(':').map(|(a, b)| (a.parse(), b.parse())) else {
            continue;
        };
        let values: BTreeMap<&str, u64> = values
            .split(' ')
            .filter_map(|pair| pair.split_once('='))
            .filter_map(|(k, v)| Some((k, v.parse().ok()?)))
            .collect();
        for (key, operation) in [("rbytes", "read"), ("wbytes", "write")] {
            if let Some(bytes) = values.get(key) {
                found.push((major, minor, operation.to_owned(), *bytes));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_is_read_by_device() {
        let lines = io_lines("8:0 rbytes=10 wbytes=20 rios=1\n8:16 \nbad\n");
        assert_eq!(lines, [(8, 0, "read".to_owned(), 10), (8, 0, "write".to_owned(), 20)]);
    }
}
