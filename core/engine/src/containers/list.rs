//! `ps`.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use bollard_stubs::models::{
    ContainerSummary, ContainerSummaryHostConfig, ContainerSummaryNetworkSettings, ContainerSummaryStateEnum,
    HealthStatusEnum, MountPoint, MountPointTypeEnum,
};

use super::record::{ContainerRecord, MountRecord, Status};
use super::{Container, Containers, ListOptions, ports, spec, status};
use crate::error::{Error, Result};
use crate::events::now_ns;
use crate::filters::Filters;
use crate::{Engine, blocking};

const KNOWN: [&str; 16] = [
    "id",
    "name",
    "label",
    "label!",
    "status",
    "ancestor",
    "before",
    "since",
    "exited",
    "health",
    "network",
    "volume",
    "publish",
    "expose",
    "is-task",
    "isolation",
];

/// What filters mean, once and before any container is looked at.
#[derive(Debug, Default)]
struct Wanted {
    before_ns: Option<u64>,
    since_ns: Option<u64>,
    names: Vec<regex::Regex>,
    /// Ids and top layers of images.
    ancestors: Vec<(String, Option<String>)>,
    codes: HashSet<i64>,
    networks: HashSet<String>,
    published: Vec<(u16, u16, String)>,
    exposed: Vec<(u16, u16, String)>,
    all: bool,
    none: bool,
}

impl Engine {
    /// `ps`.
    pub async fn list_containers(&self, options: ListOptions) -> Result<Vec<ContainerSummary>> {
        let filters = &options.filters;
        let wanted = self.wanted(filters).await?;
        if wanted.none {
            return Ok(Vec::new());
        }
        let containers = &self.inner.containers;
        let all = options.all || wanted.all || options.limit.is_some();
        let mut found: Vec<(Arc<Container>, Arc<ContainerRecord>)> = containers
            .all()
            .into_iter()
            .map(|container| (Arc::clone(&container), container.snapshot()))
            .filter(|(_, record)| all || record.state.status.is_alive() || record.state.status == Status::Restarting)
            .filter(|(container, record)| fits(container, record, filters, &wanted))
            .collect();
        found.sort_by_key(|(_, record)| std::cmp::Reverse(record.created_ns));
        if !wanted.networks.is_empty() {
            found.retain(|(_, record)| self.is_in_network(record, &wanted.networks));
        }
        if let Some(limit) = options.limit {
            found.truncate(limit);
        }
        let mut summaries = Vec::with_capacity(found.len());
        for (container, record) in found {
            let mut summary = self.summary(&container, &record);
            if options.size {
                let (written, whole) = self.sizes(&container).await?;
                summary.size_rw = Some(written);
                summary.size_root_fs = Some(whole);
            }
            summaries.push(summary);
        }
        Ok(summaries)
    }

    async fn wanted(&self, filters: &Filters) -> Result<Wanted> {
        filters.only(&KNOWN)?;
        let containers = &self.inner.containers;
        let mut wanted = Wanted::default();
        let created = |name: &str| containers.find(name).map(|container| container.record().created_ns);
        for name in filters.values("before") {
            let at = created(name)?;
            wanted.before_ns = Some(wanted.before_ns.map_or(at, |other| other.min(at)));
        }
        for name in filters.values("since") {
            let at = created(name)?;
            wanted.since_ns = Some(wanted.since_ns.map_or(at, |other| other.max(at)));
        }
        for name in filters.values("name") {
            let pattern = regex::Regex::new(name).or_else(|_| regex::Regex::new(&regex::escape(name)));
            wanted
                .names
                .push(pattern.map_err(|error| Error::invalid(format!("invalid filter 'name={name}': {error}")))?);
        }
        for state in filters.values("status") {
            let known = ["created", "restarting", "running", "removing", "paused", "exited", "dead"];
            if !known.contains(&state) {
                return Err(Error::invalid(format!("invalid filter 'status={state}' (known: {})", known.join(", "))));
            }
            wanted.all = true;
        }
        for health in filters.values("health") {
            if !["starting", "healthy", "unhealthy", "none"].contains(&health) {
                return Err(Error::invalid(format!("invalid filter 'health={health}'")));
            }
        }
        for code in filters.values("exited") {
            let code =
                code.parse().map_err(|_| Error::invalid(format!("invalid filter 'exited={code}': not a number")))?;
            wanted.codes.insert(code);
        }
        for (filter, list) in [("publish", &mut wanted.published), ("expose", &mut wanted.exposed)] {
            for text in filters.values(filter) {
                let (first, last, protocol) =
                    ports::parse(text).map_err(|error| error.context(format!("invalid filter '{filter}={text}'")))?;
                list.push((first, last, protocol.to_owned()));
            }
        }
        if filters.truth("is-task")? == Some(true) {
            wanted.none = true;
        }
        for name in filters.values("ancestor") {
            // An image that is not there is the ancestor of nothing.
            if let Ok(image) = self.inspect_image(name).await {
                let chain = super::create::chain(&image);
                wanted.ancestors.push((image.id.unwrap_or_default(), chain.into_iter().next()));
            }
        }
        for name in filters.values("network") {
            wanted.networks.insert(name.to_owned());
        }
        Ok(wanted)
    }

    fn is_in_network(&self, record: &ContainerRecord, wanted: &HashSet<String>) -> bool {
        let endpoints = self.inner.networks.endpoints(&record.id);
        let by_id = |id: &Option<String>| {
            id.as_ref()
                .is_some_and(|id| wanted.iter().any(|wanted| !wanted.is_empty() && id.starts_with(wanted.as_str())))
        };
        endpoints.iter().any(|(name, endpoint)| wanted.contains(name) || by_id(&endpoint.network_id))
            || record.networks.keys().any(|name| wanted.contains(name))
    }

    fn summary(&self, container: &Container, record: &ContainerRecord) -> ContainerSummary {
        let health = container.checks.report().and_then(|health| health.status);
        let wait = container.wait.lock().ok().and_then(|wait| *wait);
        let alive = record.state.status.is_alive();
        let networks = self.inner.containers.endpoints(record);
        ContainerSummary {
            id: Some(record.id.clone()),
            names: Some(vec![format!("/{}", record.name)]),
            image: Some(record.config.image.clone().unwrap_or_default()),
            image_id: Some(record.image.clone()),
            command: Some(status::command(&spec::arguments(record))),
            created: i64::try_from(record.created_ns / 1_000_000_000).ok(),
            ports: Some(if alive { ports::summary(&record.state.ports) } else { Vec::new() }),
            labels: Some(record.config.labels.clone().unwrap_or_default()),
            state: Some(state(record.state.status)),
            status: Some(status::line(&record.state, health, wait, now_ns())),
            host_config: Some(ContainerSummaryHostConfig {
                network_mode: record.host.network_mode.clone(),
                annotations: record.host.annotations.clone(),
            }),
            network_settings: Some(ContainerSummaryNetworkSettings { networks: Some(networks) }),
            mounts: Some(record.mounts.iter().map(mount_point).collect()),
            ..ContainerSummary::default()
        }
    }
}

impl Engine {
    /// Bytes that a container has written, and of its whole root.
    pub(super) async fn sizes(&self, container: &Container) -> Result<(i64, i64)> {
        let written = self.inner.containers.written(container).await?;
        let image = container.record().image.clone();
        // An image that was removed by force leaves its size unknown.
        let image = self.inspect_image(&image).await.ok().and_then(|image| image.size).unwrap_or(0);
        Ok((written, written + image))
    }
}

impl Containers {
    /// Bytes that a container has written.
    pub(super) async fn written(&self, container: &Container) -> Result<i64> {
        let (layers, record) = (self.layers().clone(), container.snapshot());
        let size = |root: &Path| i64::try_from(sampan_storage::tree_size(root)).unwrap_or(i64::MAX);
        blocking(move || {
            Ok(match layers.changes(&record.id, &record.chain) {
                Ok(sampan_image::ChangeView::Upper(upper)) => size(&upper),
                Ok(sampan_image::ChangeView::Compare(before, after)) => (size(&after) - size(&before)).max(0),
                // Never started: nothing is written.
                Err(_) => 0,
            })
        })
        .await
    }
}

fn fits(container: &Container, record: &ContainerRecord, filters: &Filters, wanted: &Wanted) -> bool {
    let empty = HashMap::new();
    let at = record.created_ns;
    let name = format!("/{}", record.name);
    let inside = |list: &[(u16, u16, String)], ports: &[(u16, String)]| {
        list.is_empty()
            || ports.iter().any(|(port, protocol)| {
                list.iter().any(|(first, last, wanted)| wanted == protocol && (*first..=*last).contains(port))
            })
    };
    filters.any("id", |id| record.id.starts_with(id))
        && (wanted.names.is_empty()
            || wanted.names.iter().any(|pattern| pattern.is_match(&name) || pattern.is_match(&record.name)))
        && filters.labels(record.config.labels.as_ref().unwrap_or(&empty))
        && filters.any("status", |status| status == record.state.status.word())
        && wanted.before_ns.is_none_or(|before| at < before)
        && wanted.since_ns.is_none_or(|since| at > since)
        && (wanted.codes.is_empty()
            || (record.state.status == Status::Exited && wanted.codes.contains(&record.state.exit_code)))
        && (!filters.has("ancestor")
            || wanted
                .ancestors
                .iter()
                .any(|(id, top)| *id == record.image || top.as_ref().is_some_and(|top| record.chain.contains(top))))
        && filters.any("health", |health| health == health_word(container))
        && filters.any("volume", |volume| {
            record.mounts.iter().any(|mount| {
                mount.name.as_deref() == Some(volume) || mount.destination == volume || mount.source == volume
            })
        })
        && inside(&wanted.published, &published(record))
        && inside(&wanted.exposed, &exposed(record))
}

fn health_word(container: &Container) -> &'static str {
    match container.checks.report().and_then(|health| health.status) {
        Some(HealthStatusEnum::STARTING) => "starting",
        Some(HealthStatusEnum::HEALTHY) => "healthy",
        Some(HealthStatusEnum::UNHEALTHY) => "unhealthy",
        _ => "none",
    }
}

/// Ports on the host.
fn published(record: &ContainerRecord) -> Vec<(u16, String)> {
    let all = ports::summary(&record.state.ports).into_iter();
    all.filter_map(|port| Some((port.public_port?, port.typ?.to_string()))).collect()
}

/// Ports of the container.
fn exposed(record: &ContainerRecord) -> Vec<(u16, String)> {
    let all = record.config.exposed_ports.iter().flatten();
    all.filter_map(|text| ports::parse(text).ok().map(|(port, _, protocol)| (port, protocol.to_owned()))).collect()
}

pub(super) fn state(status: Status) -> ContainerSummaryStateEnum {
    match status {
        Status::Created => ContainerSummaryStateEnum::CREATED,
        Status::Running => ContainerSummaryStateEnum::RUNNING,
        Status::Paused => ContainerSummaryStateEnum::PAUSED,
        Status::Restarting => ContainerSummaryStateEnum::RESTARTING,
        Status::Removing => ContainerSummaryStateEnum::REMOVING,
        Status::Exited => ContainerSummaryStateEnum::EXITED,
        Status::Dead => ContainerSummaryStateEnum::DEAD,
    }
}

/// A mount as `ps` and `inspect` show it.
pub(super) fn mount_point(mount: &MountRecord) -> MountPoint {
    MountPoint {
        typ: Some(match mount.kind.as_str() {
            "bind" => MountPointTypeEnum::BIND,
            "tmpfs" => MountPointTypeEnum::TMPFS,
            "image" => MountPointTypeEnum::IMAGE,
            _ => MountPointTypeEnum::VOLUME,
        }),
        name: mount.name.clone(),
        source: Some(mount.source.clone()),
        destination: Some(mount.destination.clone()),
        driver: mount.driver.clone(),
        mode: Some(mount.mode.clone()),
        rw: Some(mount.rw),
        propagation: Some(mount.propagation.clone()),
    }
}

/// A time for `until`: seconds since the epoch, RFC 3339, or a length of time before now. In nanoseconds.
pub(super) fn parse_time(text: &str) -> Result<u64> {
    let invalid =
        || Error::invalid(format!("invalid time {text:?}: expected a Unix time, RFC 3339, or a length such as 24h"));
    if let Some(time) = sampan_image::timestamp::parse(text) {
        return u64::try_from(time).map_err(|_| invalid());
    }
    if let Ok(seconds) = text.parse::<f64>() {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        return if seconds >= 0.0 { Ok((seconds * 1e9) as u64) } else { Err(invalid()) };
    }
    Ok(now_ns().saturating_sub(parse_length(text).ok_or_else(invalid)?))
}

/// Go's lengths of time: `1h30m`, `10s`, `250ms`. In nanoseconds.
fn parse_length(text: &str) -> Option<u64> {
    let (mut rest, mut total) = (text, 0_u64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_length = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..unit_length] {
            "ns" => 1,
            "us" | "µs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60 * 1_000_000_000,
            "h" => 3600 * 1_000_000_000,
            "d" => 86_400 * 1_000_000_000,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[unit_length..];
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bollard_stubs::models::{ContainerConfig, PortBinding, PortMap};

    fn record() -> ContainerRecord {
        let binding = PortBinding { host_ip: Some("0.0.0.0".into()), host_port: Some("8080".into()) };
        let mut record = ContainerRecord {
            id: "abc".repeat(20),
            name: "web".into(),
            created_ns: 50,
            image: "sha256:1".into(),
            chain: vec!["sha256:top".into(), "sha256:base".into()],
            config: ContainerConfig {
                labels: Some([("a".to_owned(), "b".to_owned())].into()),
                exposed_ports: Some(vec!["80/tcp".into()]),
                ..ContainerConfig::default()
            },
            mounts: vec![MountRecord { name: Some("data".into()), destination: "/d".into(), ..MountRecord::default() }],
            ..ContainerRecord::default()
        };
        record.state.status = Status::Exited;
        record.state.exit_code = 3;
        record.state.ports = PortMap::from([("80/tcp".to_owned(), Some(vec![binding]))]);
        record
    }

    fn passes(filters: &[(&str, &str)], wanted: Wanted) -> bool {
        let mut all = Filters::default();
        for (name, value) in filters {
            all.add(name, value);
        }
        fits(&Container::new(record()), &record(), &all, &wanted)
    }

    #[tokio::test]
    async fn filters_choose() {
        let w = Wanted::default;
        assert!(passes(&[], w()));
        assert!(passes(&[("id", "abca")], w()) && !passes(&[("id", "b")], w()));
        assert!(passes(&[("label", "a")], w()) && !passes(&[("label", "a=c")], w()));
        assert!(passes(&[("status", "exited"), ("status", "dead")], w()) && !passes(&[("status", "running")], w()));
        assert!(
            passes(&[("volume", "data")], w()) && passes(&[("volume", "/d")], w()) && !passes(&[("volume", "x")], w())
        );
        assert!(passes(&[("health", "none")], w()) && !passes(&[("health", "healthy")], w()));
        assert!(passes(&[], Wanted { codes: [3].into(), ..w() }) && !passes(&[], Wanted { codes: [0].into(), ..w() }));
        assert!(
            passes(&[], Wanted { before_ns: Some(51), ..w() }) && !passes(&[], Wanted { since_ns: Some(50), ..w() })
        );
        let name = |text: &str| Wanted { names: vec![regex::Regex::new(text).unwrap()], ..w() };
        assert!(passes(&[], name("^/web$")) && passes(&[], name("^we")) && !passes(&[], name("db")));
        let port = |first, last| vec![(first, last, "tcp".to_owned())];
        assert!(passes(&[], Wanted { published: port(8000, 8100), ..w() }));
        assert!(!passes(&[], Wanted { published: port(80, 80), ..w() }));
        assert!(passes(&[], Wanted { exposed: port(80, 80), ..w() }));
        let ancestor = |top: &str| Wanted { ancestors: vec![("sha256:x".into(), Some(top.into()))], ..w() };
        assert!(passes(&[("ancestor", "base")], ancestor("sha256:base")));
        assert!(!passes(&[("ancestor", "other")], ancestor("sha256:other")));
    }

    #[test]
    fn times_and_lengths_are_read() {
        assert_eq!(parse_time("10").unwrap(), 10_000_000_000);
        assert_eq!(parse_length("1h30m"), Some(5_400_000_000_000));
        assert_eq!(parse_length("250ms"), Some(250_000_000));
        assert!(parse_time("soon").is_err());
        assert!(parse_time("-1").is_err());
    }
}
