//! How a container stands, for those who decide what shall become of it.

use std::time::Duration;

use bollard_stubs::models::HealthStatusEnum;

use super::record::Status;
use super::status::crash_loop;
use crate::Engine;
use crate::error::Result;
use crate::events::now_ns;

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

impl Engine {
    /// How a container stands, by its whole id; zeros for one that is not there.
    #[must_use]
    pub fn container_standing(&self, id: &str) -> Standing {
        let Ok(container) = self.inner.containers.find(id) else { return Standing::default() };
        let health = container.checks.report().and_then(|health| health.status);
        let record = container.record();
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
