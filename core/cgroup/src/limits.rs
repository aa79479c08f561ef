//! Limits in Docker's units, and their conversion to the kernel's.

use serde::{Deserialize, Serialize};

use crate::devices::DeviceRule;

/// What a container may use. `None` leaves what is set; `-1` means unlimited where Docker says so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<i64>,
    /// Bytes of memory and swap together; -1 for unlimited swap.
    pub memory_swap: Option<i64>,
    /// Bytes that are protected from reclaim pressure.
    pub memory_reservation: Option<i64>,
    /// How readily memory is swapped out, 0 to 100; version 1 alone.
    pub swappiness: Option<u64>,
    /// Processes wait when memory runs out, and are not killed; version 1 alone.
    pub oom_kill_disable: bool,
    /// Relative weight, 2 to 262144; 1024 is the usual.
    pub cpu_shares: Option<u64>,
    /// Microseconds of run time in each period.
    pub cpu_quota: Option<i64>,
    /// Length of a period in microseconds.
    pub cpu_period: Option<u64>,
    /// Such as `0-1,3`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes.
    pub cpuset_mems: Option<String>,
    /// Number of tasks; -1 or 0 for unlimited.
    pub pids: Option<i64>,
    /// Relative weight of block I/O, 10 to 1000.
    pub blkio_weight: Option<u16>,
    /// Limits of block devices.
    pub throttle: Vec<Throttle>,
    /// Which devices may be used.
    pub devices: Option<Vec<DeviceRule>>,
}

/// What a block device does in a second at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throttle {
    /// What is counted.
    pub kind: ThrottleKind,
    /// Number of the driver.
    pub major: u32,
    /// Number of the device.
    pub minor: u32,
    /// Bytes or operations.
    pub rate: u64,
}

/// What a [`Throttle`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ThrottleKind {
    /// Bytes read.
    ReadBytes,
    /// Bytes written.
    WriteBytes,
    /// Operations that read.
    ReadOperations,
    /// Operations that write.
    WriteOperations,
}

/// Version 2 counts weight from 1 to 10000 with 100 as the usual; the kernel's own documents give this mapping.
#[must_use]
pub(crate) fn weight_of_shares(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    1 + ((shares - 2) * 9_999) / 262_142
}

/// Version 2 counts weight of block I/O from 1 to 10000, Docker from 10 to 1000.
#[must_use]
pub(crate) fn weight_of_blkio(weight: u16) -> u64 {
    1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9_999 / 990
}

/// Version 2 counts swap alone, Docker memory and swap together.
#[must_use]
pub(crate) fn swap_alone(memory: Option<i64>, memory_swap: i64) -> Option<i64> {
    if memory_swap == -1 {
        return Some(-1);
    }
    memory.filter(|memory| *memory > 0).map(|memory| (memory_swap - memory).max(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_convert() {
        assert_eq!(weight_of_shares(2), 1);
        assert_eq!(weight_of_shares(1024), 39);
        assert_eq!(weight_of_shares(262_144), 10_000);
        assert_eq!([10, 1000].map(weight_of_blkio), [1, 10_000]);
        assert_eq!(swap_alone(Some(100), 150), Some(50));
        assert_eq!(swap_alone(Some(100), -1), Some(-1));
        assert_eq!(swap_alone(None, 150), None);
    }

    proptest! {
        #[test]
        fn weights_stay_in_range_and_order(a in any::<u64>(), b in any::<u64>()) {
            let (x, y) = (weight_of_shares(a), weight_of_shares(b));
            prop_assert!((1..=10_000).contains(&x));
            prop_assert!(a > b || x <= y);
        }
    }
}
