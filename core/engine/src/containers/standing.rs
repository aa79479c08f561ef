//! How a container stands, for those who decide what shall become of it.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bollard_stubs::models::{ContainerSummaryStateEnum, HealthStatusEnum, PortSummary};

use super::record::{ContainerRecord, Status};
use super::status::crash_loop;
use super::{Container, list, ports};
use crate::error::Result;
use crate::events::now_ns;
use crate::{Engine, Filters};

/// What a summary does not tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Of the last end; 128 and more for a signal.
    pub code: i64,
    /// The kernel ended it for want of memory.
    pub oom: bool,
    /// A user asked for the end.
    pub by_hand: bool,
    /// The end was not the program's doing: the host was restarted, or the shim was killed.
    pub lost: bool,
    /// Of the last start; nanoseconds since the epoch.
    pub started_ns: u64,
    /// The same since the host's start, to be compared with that of others; zero when it is not known.
    pub started_boot_ns: u64,
    /// Of the last end; nanoseconds since the epoch.
    pub finished_ns: u64,
    /// Limits or the restart policy were changed by `update`.
    pub updated: bool,
    /// What its health check says; none while it does not know.
    pub well: Option<bool>,
    /// Ids of the containers whose namespaces it shares.
    pub bound: Vec<String>,
}

/// A container, as those see it who keep it.
#[derive(Debug, Clone)]
pub struct Kept {
    record: Arc<ContainerRecord>,
    /// How it stands.
    pub standing: Standing,
    /// What its health check says.
    pub health: Option<HealthStatusEnum>,
    /// Names of its networks.
    pub networks: Vec<String>,
}

impl Kept {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.record.id
    }

    /// Its name, without a slash.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// The id of its image.
    #[must_use]
    pub fn image(&self) -> &str {
        &self.record.image
    }

    /// Its labels, if it has any.
    #[must_use]
    pub fn labels(&self) -> Option<&HashMap<String, String>> {
        self.record.config.labels.as_ref()
    }

    /// What it does.
    #[must_use]
    pub fn state(&self) -> ContainerSummaryStateEnum {
        list::state(self.record.state.status)
    }

    /// Its ports while it runs, as `ps` tells them.
    #[must_use]
    pub fn ports(&self) -> Vec<PortSummary> {
        let alive = self.record.state.status.is_alive();
        if alive { ports::summary(&self.record.state.ports) } else { Vec::new() }
    }
}

fn health_of(container: &Container) -> Option<HealthStatusEnum> {
    container.checks.report().and_then(|health| health.status)
}

fn standing(record: &ContainerRecord, health: Option<HealthStatusEnum>) -> Standing {
    let modes = [&record.host.network_mode, &record.host.pid_mode, &record.host.ipc_mode];
    let bound = modes.into_iter().flatten().filter_map(|mode| mode.strip_prefix("container:"));
    Standing {
        code: record.state.exit_code,
        oom: record.state.oom_killed,
        by_hand: record.stopped_by_hand,
        lost: record.lost,
        started_ns: record.state.started_ns,
        started_boot_ns: record.state.started_boot_ns,
        finished_ns: record.state.finished_ns,
        updated: record.updated,
        well: match health.filter(|_| record.state.status.is_alive()) {
            Some(HealthStatusEnum::HEALTHY) => Some(true),
            Some(HealthStatusEnum::UNHEALTHY) => Some(false),
            _ => None,
        },
        bound: bound.map(str::to_owned).collect(),
    }
}

impl Engine {
    /// How a container stands, by its whole id; zeros for one that is not there.
    #[must_use]
    pub fn container_standing(&self, id: &str) -> Standing {
        let Ok(container) = self.inner.containers.find(id) else { return Standing::default() };
        standing(&container.record(), health_of(&container))
    }

    /// The containers whose labels pass, the newest first, with what those who keep them go by. That is a tenth of what
    /// `ps` tells of each, and costs as much less.
    #[must_use]
    pub fn kept_containers(&self, filters: &Filters) -> Vec<Kept> {
        let containers = &self.inner.containers;
        let none = HashMap::new();
        let mut found: Vec<(Arc<Container>, Arc<ContainerRecord>)> = containers
            .all()
            .into_iter()
            .map(|container| (Arc::clone(&container), container.snapshot()))
            .filter(|(_, record)| filters.labels(record.config.labels.as_ref().unwrap_or(&none)))
            .collect();
        found.sort_by_key(|(_, record)| Reverse(record.created_ns));
        let kept = |(container, record): (Arc<Container>, Arc<ContainerRecord>)| {
            let health = health_of(&container);
            let networks = containers.network_names(&record);
            Kept { standing: standing(&record, health), health, networks, record }
        };
        found.into_iter().map(kept).collect()
    }

    /// Whether a container of that name or id is there, and nobody is removing it.
    #[must_use]
    pub fn has_container(&self, reference: &str) -> bool {
        self.inner.containers.find(reference).is_ok_and(|container| container.status() != Status::Removing)
    }

    /// Labels of a container, in the order of `names`.
    pub fn container_labels<const N: usize>(&self, reference: &str, names: [&str; N]) -> Result<[Option<String>; N]> {
        let container = self.inner.containers.find(reference)?;
        let record = container.record();
        Ok(names.map(|name| record.config.labels.as_ref()?.get(name).cloned()))
    }

    /// Notes that a container waits for its next start, for the `starts`th time in a row.
    pub fn note_wait(&self, id: &str, starts: u32, wait: Duration) {
        if let Ok(container) = self.inner.containers.find(id) {
            self.inner.containers.note_wait(&container, starts, wait);
        }
    }
}

impl super::Containers {
    /// See [`Engine::note_wait`]. Shown in `ps` and told as an event once it is a crash loop.
    pub(super) fn note_wait(&self, container: &super::Container, starts: u32, wait: Duration) {
        let at_ns = now_ns().saturating_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX));
        let noted = super::status::Wait { starts, at_ns };
        let text = crash_loop(Some(noted), now_ns());
        if let Ok(mut known) = container.wait.lock() {
            *known = Some(noted);
        }
        if let Some(text) = text {
            self.publish(container, &format!("crash_loop: {text}"), [("starts", starts.to_string())]);
        }
    }
}
