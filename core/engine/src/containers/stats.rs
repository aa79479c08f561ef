//! `stats`: numbers of a container's cgroup and of its network namespace.

use std::collections::HashMap;
use std::fs;

use bollard_stubs::models::{
    ContainerBlkioStatEntry, ContainerBlkioStats, ContainerCpuStats, ContainerCpuUsage, ContainerMemoryStats,
    ContainerNetworkStats, ContainerPidsStats, ContainerThrottlingData,
};
use serde::Serialize;

use crate::error::Result;
use crate::events::now_ns;
use crate::{Engine, blocking};

/// A sample, as Docker writes it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ContainerStats {
    /// The container's id.
    pub id: String,
    /// Its name with a slash.
    pub name: String,
    /// When this was read, RFC 3339.
    pub read: String,
    /// When the sample before was read.
    pub preread: String,
    /// Processor time.
    pub cpu_stats: ContainerCpuStats,
    /// Of the sample before.
    pub precpu_stats: ContainerCpuStats,
    /// Memory.
    pub memory_stats: ContainerMemoryStats,
    /// Tasks.
    pub pids_stats: ContainerPidsStats,
    /// Block devices.
    pub blkio_stats: ContainerBlkioStats,
    /// Zero on Linux.
    pub num_procs: u32,
    /// By name of the link in the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub networks: Option<HashMap<String, ContainerNetworkStats>>,
}

/// What stands for "never" where a time is wanted.
const NEVER: &str = "0001-01-01T00:00:00Z";

impl Engine {
    /// One sample. A container that does not run gives zeros, as Docker's does.
    pub async fn stats(&self, id: &str) -> Result<ContainerStats> {
        let containers = &self.inner.containers;
        let container = containers.find(id)?;
        let (name, pid) = {
            let record = container.record();
            (format!("/{}", record.name), record.state.pid)
        };
        let empty = ContainerStats {
            id: container.id.clone(),
            name,
            read: NEVER.to_owned(),
            preread: NEVER.to_owned(),
            ..ContainerStats::default()
        };
        if container.shim().is_none() {
            return Ok(empty);
        }
        let cgroup = containers.cgroup(&container.record());
        blocking(move || Ok(sample(empty, &cgroup, pid))).await
    }
}

fn sample(empty: ContainerStats, cgroup: &sampan_cgroup::Cgroup, pid: i32) -> ContainerStats {
    let found = cgroup.stats();
    let read = i64::try_from(now_ns()).unwrap_or(i64::MAX);
    ContainerStats {
        read: sampan_image::timestamp::format(read),
        cpu_stats: ContainerCpuStats {
            cpu_usage: Some(ContainerCpuUsage {
                total_usage: Some(found.cpu_usage),
                percpu_usage: None,
                usage_in_kernelmode: Some(found.cpu_system),
                usage_in_usermode: Some(found.cpu_user),
            }),
            system_cpu_usage: fs::read_to_string("/proc/stat").ok().and_then(|text| system_time(&text)),
            online_cpus: std::thread::available_parallelism().ok().and_then(|count| u32::try_from(count.get()).ok()),
            throttling_data: Some(ContainerThrottlingData {
                periods: Some(found.cpu_throttling[0]),
                throttled_periods: Some(found.cpu_throttling[1]),
                throttled_time: Some(found.cpu_throttling[2]),
            }),
        },
        memory_stats: ContainerMemoryStats {
            usage: Some(found.memory_usage),
            max_usage: found.memory_peak,
            limit: found
                .memory_limit
                .or_else(|| fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_memory(&text))),
            stats: Some(found.memory.into_iter().collect()),
            ..ContainerMemoryStats::default()
        },
        pids_stats: ContainerPidsStats {
            current: Some(found.pids_current),
            // Docker writes the largest number for "no limit".
            limit: Some(found.pids_limit.unwrap_or(u64::MAX)),
        },
        blkio_stats: ContainerBlkioStats {
            io_service_bytes_recursive: Some(
                found
                    .blkio_bytes
                    .into_iter()
                    .map(|(major, minor, operation, bytes)| ContainerBlkioStatEntry {
                        major: Some(major),
                        minor: Some(minor),
                        op: Some(operation.to_lowercase()),
                        value: Some(bytes),
                    })
                    .collect(),
            ),
            ..ContainerBlkioStats::default()
        },
        networks: fs::read_to_string(format!("/proc/{pid}/net/dev")).ok().map(|text| links(&text)),
        ..empty
    }
}

/// Processor time of the host in nanoseconds: the first line of `/proc/stat`, in ticks of a hundredth of a second.
fn system_time(text: &str) -> Option<u64> {
    let ticks: u64 =
        text.lines().next()?.strip_prefix("cpu ")?.split_whitespace().take(7).flat_map(str::parse::<u64>).sum();
    Some(ticks * 10_000_000)
}

fn total_memory(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kibibytes| kibibytes << 10)
}

/// The links of `/proc/net/dev` but the loopback.
fn links(text: &str) -> HashMap<String, ContainerNetworkStats> {
    let link = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers.split_whitespace().flat_map(str::parse).collect();
        let at = |index: usize| numbers.get(index).copied();
        let name = name.trim();
        (name != "lo").then(|| {
            let counted = ContainerNetworkStats {
                rx_bytes: at(0),
                rx_packets: at(1),
                rx_errors: at(2),
                rx_dropped: at(3),
                tx_bytes: at(8),
                tx_packets: at(9),
                tx_errors: at(10),
                tx_dropped: at(11),
                ..ContainerNetworkStats::default()
            };
            (name.to_owned(), counted)
        })
    };
    text.lines().skip(2).filter_map(link).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn files_of_the_kernel_are_read() {
        let text = "Inter-|   Receive\n face |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 100 2 0 1 0 0 0 0 200 3 4 5 0 0 0 0\n";
        let links = links(text);
        assert_eq!(links.len(), 1);
        let link = &links["eth0"];
        assert_eq!(
            (link.rx_bytes, link.rx_dropped, link.tx_bytes, link.tx_dropped),
            (Some(100), Some(1), Some(200), Some(5))
        );
        assert_eq!(system_time("cpu  1 2 3 4 5 6 7 100 100\ncpu0 1\n"), Some(280_000_000));
        assert_eq!(total_memory("MemTotal:       24 kB\nMemFree: 1 kB\n"), Some(24 << 10));
    }
}
