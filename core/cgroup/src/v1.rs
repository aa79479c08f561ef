//! Version 1: a hierarchy for each controller.

use std::fs;
use std::path::Path;

use crate::devices::DeviceRule;
use crate::limits::{Limits, ThrottleKind};
use crate::stats::{Stats, keyed, number};
use crate::{Cgroup, CgroupError, make_directory, write};

pub(crate) fn ensure(cgroup: &Cgroup) -> Result<(), CgroupError> {
    let mut roots: Vec<_> = cgroup.hierarchy.controllers.values().cloned().collect();
    roots.sort();
    roots.dedup();
    for root in roots {
        let mut current = root;
        for part in Path::new(&cgroup.path) {
            let parent = current.clone();
            current.push(part);
            make_directory(&current)?;
            // A cpuset without processors and nodes takes no process.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let own = current.join(file);
                if fs::read_to_string(&own).is_ok_and(|value| value.trim().is_empty())
                    && let Ok(inherited) = fs::read_to_string(parent.join(file))
                {
                    write(&own, inherited.trim())?;
                }
            }
        }
    }
    Ok(())
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

pub(crate) fn apply(cgroup: &Cgroup, limits: &Limits) -> Result<(), CgroupError> {
    memory(cgroup, limits)?;
    if let Some(bytes) = limits.memory_reservation {
        set(cgroup, "memory", "a memory reservation", "memory.soft_limit_in_bytes", &bytes.to_string())?;
    }
    if let Some(swappiness) = limits.swappiness {
        set(cgroup, "memory", "swappiness", "memory.swappiness", &swappiness.to_string())?;
    }
    if limits.oom_kill_disable {
        set(cgroup, "memory", "to disable kills for want of memory", "memory.oom_control", "1")?;
    }
    if let Some(shares) = limits.cpu_shares {
        set(cgroup, "cpu", "a share of the processors", "cpu.shares", &shares.to_string())?;
    }
    if let Some(period) = limits.cpu_period.filter(|period| *period > 0) {
        set(cgroup, "cpu", "a processor limit", "cpu.cfs_period_us", &period.to_string())?;
    }
    if let Some(quota) = limits.cpu_quota {
        let quota = if quota == 0 { -1 } else { quota };
        set(cgroup, "cpu", "a processor limit", "cpu.cfs_quota_us", &quota.to_string())?;
    }
    if let Some(cpus) = &limits.cpuset_cpus {
        set(cgroup, "cpuset", "a set of processors", "cpuset.cpus", cpus)?;
    }
    if let Some(nodes) = &limits.cpuset_mems {
        set(cgroup, "cpuset", "a set of memory nodes", "cpuset.mems", nodes)?;
    }
    if let Some(pids) = limits.pids {
        let value = if pids <= 0 { "max".to_owned() } else { pids.to_string() };
        set(cgroup, "pids", "a limit of processes", "pids.max", &value)?;
    }
    if let Some(weight) = limits.blkio_weight {
        set(cgroup, "blkio", "a weight of block I/O", "blkio.bfq.weight", &weight.to_string())?;
    }
    for limit in &limits.throttle {
        let file = match limit.kind {
            ThrottleKind::ReadBytes => "blkio.throttle.read_bps_device",
            ThrottleKind::WriteBytes => "blkio.throttle.write_bps_device",
            ThrottleKind::ReadOperations => "blkio.throttle.read_iops_device",
            ThrottleKind::WriteOperations => "blkio.throttle.write_iops_device",
        };
        let value = format!("{}:{} {}", limit.major, limit.minor, limit.rate);
        set(cgroup, "blkio", "a limit of a block device", file, &value)?;
    }
    Ok(())
}

/// The kernel keeps memory ≤ memory and swap at every moment, so the order depends on the direction.
fn memory(cgroup: &Cgroup, limits: &Limits) -> Result<(), CgroupError> {
    let wanted = "a memory limit";
    let set_memory = |bytes: i64| set(cgroup, "memory", wanted, "memory.limit_in_bytes", &bytes.to_string());
    let set_both = |bytes: i64| -> Result<(), CgroupError> {
        let Some(directory) = cgroup.directory("memory") else { return Ok(()) };
        let file = directory.join("memory.memsw.limit_in_bytes");
        // Kernels without swap accounting do not have the file; then there is no swap to limit.
        if file.exists() { write(&file, &bytes.to_string()) } else { Ok(()) }
    };
    match (limits.memory, limits.memory_swap) {
        (Some(memory), Some(both)) => {
            if set_memory(memory).is_ok() {
                set_both(both)
            } else {
                set_both(both)?;
                set_memory(memory)
            }
        }
        (Some(memory), None) => set_memory(memory),
        (None, Some(both)) => set_both(both),
        (None, None) => Ok(()),
    }
}

pub(crate) fn devices(cgroup: &Cgroup, rules: &[DeviceRule]) -> Result<(), CgroupError> {
    let Some(directory) = cgroup.directory("devices") else { return Ok(()) };
    for rule in rules {
        let file = if rule.allow { "devices.allow" } else { "devices.deny" };
        write(&directory.join(file), &rule.to_string())?;
    }
    Ok(())
}

pub(crate) fn stats(cgroup: &Cgroup) -> Stats {
    let file = |controller: &str, name: &str| cgroup.directory(controller).map(|directory| directory.join(name));
    let single = |controller: &str, name: &str| file(controller, name).and_then(|path| number(&path));
    // `cpuacct.stat` counts in ticks of a hundredth of a second.
    let ticks = file("cpuacct", "cpuacct.stat").map(|path| keyed(&path)).unwrap_or_default();
    let tick = |key: &str| ticks.get(key).copied().unwrap_or(0) * 10_000_000;
    let throttling = file("cpu", "cpu.stat").map(|path| keyed(&path)).unwrap_or_default();
    let throttle = |key: &str| throttling.get(key).copied().unwrap_or(0);
    let memory = file("memory", "memory.stat").map(|path| keyed(&path)).unwrap_or_default();
    let blkio = file("blkio", "blkio.throttle.io_service_bytes").and_then(|path| fs::read_to_string(path).ok());
    Stats {
        cpu_usage: single("cpuacct", "cpuacct.usage").unwrap_or(0),
        cpu_user: tick("user"),
        cpu_system: tick("system"),
        cpu_throttling: [throttle("nr_periods"), throttle("nr_throttled"), throttle("throttled_time")],
        memory_usage: single("memory", "memory.usage_in_bytes").unwrap_or(0),
        memory_peak: single("memory", "memory.max_usage_in_bytes"),
        // The kernel writes "unlimited" as the largest number of pages.
        memory_limit: single("memory", "memory.limit_in_bytes").filter(|limit| *limit < 1 << 62),
        memory,
        pids_current: single("pids", "pids.current").unwrap_or(0),
        pids_limit: single("pids", "pids.max"),
        blkio_bytes: blkio.as_deref().map(blkio_lines).unwrap_or_default(),
        unified: false,
    }
}

fn blkio_lines(text: &str) -> Vec<(u64, u64, String, u64)> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (major, minor) = fields.next()?.split_once(':')?;
            Some((major.parse().ok()?, minor.parse().ok()?, fields.next()?.to_owned(), fields.next()?.parse().ok()?))
        })
        .collect()
}
