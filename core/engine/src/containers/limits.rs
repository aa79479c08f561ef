//! What a container may use: checked as Docker does, and in the terms of the kernel.

use bollard_stubs::models::HostConfig;
use sampan_cgroup::{Hierarchy, Limits};

use crate::error::{Error, Result};

const LEAST_MEMORY: i64 = 6 << 20;
/// Of a processor limit given in billionths of a processor.
const PERIOD: i64 = 100_000;

/// What this host has to give.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    /// Processors.
    pub cpus: usize,
    /// Their set, such as `0-3`.
    pub cpu_set: String,
    /// Memory nodes.
    pub node_set: String,
    /// Names of the cgroup controllers.
    pub controllers: Vec<String>,
    /// A group's memory has a swappiness of its own.
    pub swappiness: bool,
    /// The kernel can be kept from killing for want of memory.
    pub oom_kill_disable: bool,
}

impl Host {
    /// Looks at the host.
    pub(crate) fn measure(cgroups: &Hierarchy) -> Self {
        let read = |path: &str, otherwise: String| {
            std::fs::read_to_string(path).map_or(otherwise, |text| text.trim().to_owned())
        };
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let cpu_set = read("/sys/devices/system/cpu/online", format!("0-{}", cpus.saturating_sub(1)));
        let cpus = parse_set(&cpu_set).map_or(cpus, |set| set.len());
        Self {
            cpus,
            cpu_set,
            node_set: read("/sys/devices/system/node/online", "0".to_owned()),
            controllers: cgroups.controllers().map(str::to_owned).collect(),
            swappiness: cgroups.has_swappiness(),
            oom_kill_disable: cgroups.can_disable_oom_kills(),
        }
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|found| found == controller)
    }
}

/// The numbers of `0-2,5`.
pub(crate) fn parse_set(text: &str) -> Option<Vec<u32>> {
    let mut all = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (u32, u32) = (from.parse().ok()?, to.parse().ok()?);
        if from > to || to > 8191 {
            return None;
        }
        all.extend(from..=to);
    }
    all.sort_unstable();
    all.dedup();
    Some(all)
}

fn given(value: Option<i64>) -> Option<i64> {
    value.filter(|value| *value != 0)
}

/// Refuses limits that make no sense or that this host cannot set, completes those that follow from others, and returns
/// warnings about those that are left out as in Docker.
pub(crate) fn check(host: &mut HostConfig, has: &Host) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    unsupported(host)?;
    discard(host, has, &mut warnings);
    memory(host)?;
    if host.oom_kill_disable == Some(true) && given(host.memory).is_none() {
        warnings.push(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources."
                .to_owned(),
        );
    }
    processors(host, has)?;
    if let Some(weight) = host.blkio_weight.filter(|weight| *weight != 0)
        && !(10..=1000).contains(&weight)
    {
        return Err(Error::invalid("Range of blkio weight is from 10 to 1000"));
    }
    if let Some(score) = host.oom_score_adj
        && !(-1000..=1000).contains(&score)
    {
        return Err(Error::invalid(format!("Invalid value {score}, range for oom score adj is [-1000, 1000]")));
    }
    if host.shm_size.is_some_and(|size| size < 0) {
        return Err(Error::invalid("SHM size can not be less than 0"));
    }
    ulimits(host)?;
    Ok(warnings)
}

/// Refuses by name what is not done, rather than to run without it.
fn unsupported(host: &HostConfig) -> Result<()> {
    let refuse = |what: &str| Err(Error::unsupported(format!("{what} is not supported by this engine")));
    let filled = |list: Option<usize>| list.is_some_and(|length| length > 0);
    if filled(host.blkio_weight_device.as_ref().map(Vec::len)) {
        return refuse("BlkioWeightDevice (--blkio-weight-device)");
    }
    if given(host.cpu_realtime_period).is_some() || given(host.cpu_realtime_runtime).is_some() {
        return refuse("a limit of realtime scheduling (--cpu-rt-period, --cpu-rt-runtime)");
    }
    for (value, option) in [
        (host.cpu_count, "CpuCount"),
        (host.cpu_percent, "CpuPercent"),
        (host.io_maximum_iops, "IOMaximumIOps"),
        (host.io_maximum_bandwidth, "IOMaximumBandwidth"),
    ] {
        if given(value).is_some() {
            return refuse(&format!("{option} (an option of Windows)"));
        }
    }
    Ok(())
}

/// As Docker: a limit whose controller the host lacks is left out, and said so.
fn discard(host: &mut HostConfig, has: &Host, warnings: &mut Vec<String>) {
    let warn = |warnings: &mut Vec<String>, what: &str| {
        warnings
            .push(format!("Your kernel does not support {what} or the cgroup is not mounted. Limitation discarded."));
    };
    if !has.has("memory")
        && (given(host.memory).is_some()
            || given(host.memory_swap).is_some()
            || given(host.memory_reservation).is_some())
    {
        warn(warnings, "memory limit capabilities");
        (host.memory, host.memory_swap, host.memory_reservation) = (None, None, None);
    }
    if !has.has("cpu")
        && [host.cpu_shares, host.cpu_quota, host.cpu_period, host.nano_cpus].into_iter().any(|v| given(v).is_some())
    {
        warn(warnings, "CPU limits");
        (host.cpu_shares, host.cpu_quota, host.cpu_period, host.nano_cpus) = (None, None, None, None);
    }
    // Docker's own way to say that it is left as it is.
    host.memory_swappiness = host.memory_swappiness.filter(|value| *value != -1);
    if host.memory_swappiness.is_some() && !has.swappiness {
        warnings.push(
            "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded."
                .to_owned(),
        );
        host.memory_swappiness = None;
    }
    if host.oom_kill_disable == Some(true) && !has.oom_kill_disable {
        warnings.push("Your kernel does not support OomKillDisable. OomKillDisable discarded.".to_owned());
        host.oom_kill_disable = None;
    }
    let set = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    if !has.has("cpuset") && (set(&host.cpuset_cpus) || set(&host.cpuset_mems)) {
        warn(warnings, "cpuset");
        (host.cpuset_cpus, host.cpuset_mems) = (None, None);
    }
    if !has.has("pids") && host.pids_limit.is_some_and(|limit| limit > 0) {
        warn(warnings, "PIDs limit");
        host.pids_limit = None;
    }
    if !has.has("blkio") && !has.has("io") && host.blkio_weight.is_some_and(|weight| weight > 0) {
        warn(warnings, "Block I/O weight");
        host.blkio_weight = None;
    }
    let lists = [
        &mut host.blkio_device_read_bps,
        &mut host.blkio_device_write_bps,
        &mut host.blkio_device_read_iops,
        &mut host.blkio_device_write_iops,
    ];
    if !has.has("blkio")
        && !has.has("io")
        && lists.iter().any(|list| list.as_ref().is_some_and(|list| !list.is_empty()))
    {
        warn(warnings, "limits of block devices");
        lists.into_iter().for_each(|list| *list = None);
    }
}

fn memory(host: &mut HostConfig) -> Result<()> {
    let (memory, swap, reservation) =
        (given(host.memory).unwrap_or(0), given(host.memory_swap).unwrap_or(0), host.memory_reservation.unwrap_or(0));
    if memory < 0 || (memory > 0 && memory < LEAST_MEMORY) {
        return Err(Error::invalid("Minimum memory limit allowed is 6MB"));
    }
    if let Some(swappiness) = host.memory_swappiness
        && !(0..=100).contains(&swappiness)
    {
        return Err(Error::invalid(format!("Invalid value: {swappiness}, valid memory swappiness range is 0-100")));
    }
    if swap < -1 {
        return Err(Error::invalid(format!("invalid memory swap limit {swap}: give bytes, or -1 for unlimited swap")));
    }
    if memory > 0 && swap > 0 && swap < memory {
        return Err(Error::invalid("Minimum memoryswap limit should be larger than memory limit, see usage"));
    }
    if memory == 0 && swap > 0 {
        return Err(Error::invalid("You should always set the Memory limit when using Memoryswap limit, see usage"));
    }
    if reservation < 0 || (reservation > 0 && reservation < LEAST_MEMORY) {
        return Err(Error::invalid("Minimum memory reservation allowed is 6MB"));
    }
    if memory > 0 && reservation > memory {
        return Err(Error::invalid("Minimum memory limit can not be less than memory reservation limit, see usage"));
    }
    if memory > 0 && swap == 0 {
        host.memory_swap = Some(memory.saturating_mul(2));
    }
    Ok(())
}

fn processors(host: &HostConfig, has: &Host) -> Result<()> {
    let (nano, period, quota) = (given(host.nano_cpus), given(host.cpu_period), given(host.cpu_quota));
    if nano.is_some() && period.is_some() {
        return Err(Error::invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set"));
    }
    if nano.is_some() && quota.is_some() {
        return Err(Error::invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set"));
    }
    let most = i64::try_from(has.cpus).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
    if let Some(nano) = nano
        && !(10_000_000..=most).contains(&nano)
    {
        let cpus = has.cpus;
        return Err(Error::invalid(format!(
            "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
        )));
    }
    if period.is_some_and(|period| !(1000..=1_000_000).contains(&period)) {
        return Err(Error::invalid(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        ));
    }
    if quota.is_some_and(|quota| quota < 1000 && quota != -1) {
        return Err(Error::invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)"));
    }
    if host.cpu_shares.is_some_and(|shares| shares < 0) {
        return Err(Error::invalid(format!(
            "invalid CPU shares ({}): value must be a positive integer",
            host.cpu_shares.unwrap_or(0)
        )));
    }
    for (wanted, available, what, name) in [
        (&host.cpuset_cpus, &has.cpu_set, "CPUs", "cpuset cpus"),
        (&host.cpuset_mems, &has.node_set, "memory nodes", "cpuset mems"),
    ] {
        let Some(wanted) = wanted.as_ref().filter(|text| !text.is_empty()) else { continue };
        let set = parse_set(wanted).ok_or_else(|| Error::invalid(format!("Invalid value {wanted} for {name}")))?;
        if let Some(present) = parse_set(available)
            && set.iter().any(|number| !present.contains(number))
        {
            return Err(Error::invalid(format!(
                "Requested {what} are not available - requested {wanted}, available: {available}"
            )));
        }
    }
    Ok(())
}

/// Names of resource limits, and the kernel's.
pub(crate) const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

fn ulimits(host: &HostConfig) -> Result<()> {
    for limit in host.ulimits.iter().flatten() {
        let name = limit.name.as_deref().unwrap_or("");
        if !ULIMITS.contains(&name) {
            return Err(Error::invalid(format!("invalid ulimit type: {name} (known: {})", ULIMITS.join(", "))));
        }
        let (soft, hard) = (limit.soft.unwrap_or(0), limit.hard.unwrap_or(0));
        if hard != -1 && (soft == -1 || soft > hard) {
            return Err(Error::invalid(format!(
                "ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
            )));
        }
    }
    Ok(())
}

/// The limits in the terms of the kernel; what was not asked for is none.
pub(crate) fn of(host: &HostConfig) -> Limits {
    let unsigned = |value: Option<i64>| given(value).and_then(|value| u64::try_from(value).ok());
    let text = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
    let nano = given(host.nano_cpus);
    Limits {
        memory: given(host.memory),
        memory_swap: given(host.memory_swap),
        memory_reservation: given(host.memory_reservation),
        swappiness: host.memory_swappiness.and_then(|value| u64::try_from(value).ok()),
        oom_kill_disable: host.oom_kill_disable == Some(true),
        cpu_shares: unsigned(host.cpu_shares).map(|shares| shares.clamp(2, 262_144)),
        cpu_quota: nano.map(|nano| nano.saturating_mul(PERIOD) / 1_000_000_000).or(given(host.cpu_quota)),
        cpu_period: nano.map(|_| PERIOD.unsigned_abs()).or(unsigned(host.cpu_period)),
        cpuset_cpus: text(&host.cpuset_cpus),
        cpuset_mems: text(&host.cpuset_mems),
        pids: host.pids_limit.filter(|limit| *limit > 0),
        blkio_weight: host.blkio_weight.filter(|weight| *weight > 0),
        // Named by number, which is found when the container starts.
        throttle: Vec::new(),
        devices: None,
    }
}

/// What makes a running container's limits those of `after`: what only `before` has is taken away.
pub(crate) fn between(before: &HostConfig, after: &HostConfig, has: &Host) -> Limits {
    let (old, mut new) = (of(before), of(after));
    fn free<T>(new: &mut Option<T>, old: &Option<T>, unlimited: T) {
        if new.is_none() && old.is_some() {
            *new = Some(unlimited);
        }
    }
    free(&mut new.memory, &old.memory, -1);
    free(&mut new.memory_swap, &old.memory_swap, -1);
    free(&mut new.memory_reservation, &old.memory_reservation, -1);
    free(&mut new.cpu_shares, &old.cpu_shares, 1024);
    free(&mut new.cpu_quota, &old.cpu_quota, -1);
    free(&mut new.cpu_period, &old.cpu_period, PERIOD.unsigned_abs());
    free(&mut new.cpuset_cpus, &old.cpuset_cpus, has.cpu_set.clone());
    free(&mut new.cpuset_mems, &old.cpuset_mems, has.node_set.clone());
    free(&mut new.pids, &old.pids, -1);
    new
}

#[cfg(test)]
pub(crate) fn some_host() -> Host {
    Host {
        cpus: 4,
        cpu_set: "0-3".into(),
        node_set: "0".into(),
        controllers: ["cpu", "cpuset", "memory", "pids", "blkio"].map(str::to_owned).to_vec(),
        swappiness: true,
        oom_kill_disable: true,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bollard_stubs::models::ResourcesUlimits;

    #[test]
    fn limits_that_are_no_longer_there_are_taken_away() {
        let before = HostConfig { memory: Some(64 << 20), nano_cpus: Some(500_000_000), ..HostConfig::default() };
        let after = HostConfig { pids_limit: Some(10), ..HostConfig::default() };
        let limits = between(&before, &after, &some_host());
        assert_eq!((limits.memory, limits.cpu_quota, limits.pids), (Some(-1), Some(-1), Some(10)));
        assert_eq!((limits.cpu_shares, limits.cpuset_cpus), (None, None), "what was never set stays as it is");
    }

    fn refused(host: HostConfig) -> String {
        let mut host = host;
        check(&mut host, &some_host()).unwrap_err().message
    }

    #[test]
    fn wrong_limits_are_refused_in_dockers_words() {
        let mib = 1 << 20;
        let d = HostConfig::default;
        assert_eq!(refused(HostConfig { memory: Some(mib), ..d() }), "Minimum memory limit allowed is 6MB");
        assert!(refused(HostConfig { memory_swap: Some(mib), ..d() }).starts_with("You should always set the Memory"));
        let both = HostConfig { memory: Some(64 * mib), memory_swap: Some(32 * mib), ..d() };
        assert!(refused(both).starts_with("Minimum memoryswap limit"));
        assert_eq!(
            refused(HostConfig { nano_cpus: Some(5_000_000_000), ..d() }),
            "range of CPUs is from 0.01 to 4.00, as there are only 4 CPUs available"
        );
        assert_eq!(
            refused(HostConfig { cpuset_cpus: Some("2-5".into()), ..d() }),
            "Requested CPUs are not available - requested 2-5, available: 0-3"
        );
        assert_eq!(refused(HostConfig { cpuset_cpus: Some("x".into()), ..d() }), "Invalid value x for cpuset cpus");
        assert_eq!(
            refused(HostConfig { memory_swappiness: Some(101), ..d() }),
            "Invalid value: 101, valid memory swappiness range is 0-100"
        );
        let ulimit = |name: &str, soft, hard| HostConfig {
            ulimits: Some(vec![ResourcesUlimits { name: Some(name.into()), soft: Some(soft), hard: Some(hard) }]),
            ..HostConfig::default()
        };
        assert!(refused(ulimit("files", 1, 1)).starts_with("invalid ulimit type: files"));
        assert_eq!(
            refused(ulimit("nofile", 2, 1)),
            "ulimit soft limit must be less than or equal to hard limit: 2 > 1"
        );
    }

    #[test]
    fn swap_follows_memory_and_missing_controllers_warn() {
        let mut host = HostConfig { memory: Some(64 << 20), nano_cpus: Some(1_500_000_000), ..HostConfig::default() };
        assert!(check(&mut host, &some_host()).unwrap().is_empty());
        let limits = of(&host);
        assert_eq!(limits.memory_swap, Some(128 << 20));
        assert_eq!((limits.cpu_quota, limits.cpu_period), (Some(150_000), Some(100_000)));
        let poor = Host { controllers: vec!["memory".into()], ..some_host() };
        let warnings = check(&mut host, &poor).unwrap();
        assert_eq!(warnings.len(), 1);
        assert_eq!(of(&host).cpu_quota, None);
    }

    #[test]
    fn sets_are_read() {
        assert_eq!(parse_set("0-2,5"), Some(vec![0, 1, 2, 5]));
        assert_eq!(parse_set("2-1"), None);
        assert_eq!(parse_set(""), None);
        assert_eq!(parse_set("0-99999999"), None);
    }
}
