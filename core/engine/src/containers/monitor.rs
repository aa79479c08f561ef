//! What follows from a container's end: the log's end, the clearing away, and the restart policy.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sampan_shim_protocol::{EXIT, Event, ExitStatus};

use super::link::{Shim, ShimEvents};
use super::policy::Policy;
use super::record::Status;
use super::{Container, Containers, exec, health};
use crate::events::now_ns;

/// How long the rest of the output may take to reach the log.
const REST_OF_OUTPUT: Duration = Duration::from_secs(30);

/// How a container came to its end.
#[derive(Debug, Clone, Default)]
pub(super) struct End {
    /// 0 to 255.
    pub code: i64,
    /// The kernel killed a process for want of memory.
    pub oom: bool,
    /// Nanoseconds since the epoch.
    pub time_ns: u64,
    /// When it was not the program that ended it.
    pub error: String,
}

impl From<ExitStatus> for End {
    fn from(status: ExitStatus) -> Self {
        Self { code: i64::from(status.code), oom: status.oom, time_ns: status.time, error: String::new() }
    }
}

impl Containers {
    /// Watches a container that runs until its end, and does what follows.
    pub(super) fn watch(&self, container: &Arc<Container>, shim: Shim, events: ShimEvents) {
        let (containers, container) = (self.clone(), Arc::clone(container));
        tokio::spawn(async move {
            let end = containers.follow(&container, events).await;
            containers.settle(&container, Some(shim), end).await;
        });
    }

    /// Returns when the container has ended.
    async fn follow(&self, container: &Arc<Container>, mut events: ShimEvents) -> End {
        while let Some(event) = events.recv().await {
            match event {
                Event::Oom => self.publish(container, "oom", []),
                Event::ExecExited { id, code } => exec::exited(self, container, &id, code),
                Event::Exited(status) => return status.into(),
                Event::Started { .. } | Event::StartFailed(_) => {}
            }
        }
        self.end_without_shim(container)
    }

    /// How it ended, when its shim is gone: by its last word, or it was killed.
    pub(super) fn end_without_shim(&self, container: &Container) -> End {
        if let Some(status) = self.last_word(&container.id) {
            return status.into();
        }
        tracing::warn!(container = %container.id, "its shim was killed");
        End { code: 137, oom: false, time_ns: now_ns(), error: "its shim was killed, and the container with it".into() }
    }

    /// The exit status that a shim has left.
    pub(super) fn last_word(&self, id: &str) -> Option<ExitStatus> {
        let bytes = std::fs::read(self.shared().config.bundle(id).join(EXIT)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// The container has ended: clears away, notes it, tells it, and starts or removes it as its policies say.
    pub(super) async fn settle(&self, container: &Arc<Container>, shim: Option<Shim>, end: End) {
        let settling = container.settling.lock().await;
        health::end(container);
        exec::end_all(self, container);
        if tokio::time::timeout(REST_OF_OUTPUT, container.hub.finish()).await.is_err() {
            tracing::warn!(container = %container.id, "the rest of its output did not reach the log in time");
        }
        if let Some(shim) = shim {
            let _ = shim.shutdown().await;
        }
        container.set_shim(None);
        let record = container.snapshot();
        self.tear_down(&record).await;
        let by_hand = container.restarting_by_hand.load(Ordering::SeqCst);
        let restarts = !by_hand
            && !self.is_ending()
            && Policy::of(&record.host).restarts(end.code, record.restart_count, container.record().stopped_by_hand);
        let noted = self.update(container, |record| {
            let state = &mut record.state;
            state.status = if restarts { Status::Restarting } else { Status::Exited };
            state.pid = 0;
            state.exit_code = end.code;
            state.oom_killed = end.oom;
            state.finished_ns = end.time_ns;
            state.error.clone_from(&end.error);
            state.ports.clear();
        });
        if let Err(error) = noted {
            // The status in memory is what waits go by; the store learns it at the next start.
            tracing::error!(container = %container.id, %error, "its end was not noted");
        }
        let ran = Duration::from_nanos(end.time_ns.saturating_sub(record.state.started_ns));
        self.publish(
            container,
            "die",
            [("exitCode", end.code.to_string()), ("execDuration", ran.as_secs().to_string())],
        );
        container.set_phase(|phase| phase.ends += 1);
        self.remove_bundle(&container.id).await;
        drop(settling);
        if restarts {
            self.restart_after(container, end.code, ran);
        } else if record.host.auto_remove == Some(true) && !by_hand {
            self.remove_after_end(container);
        }
    }

    /// Starts a container whose policy says so, after a growing wait, until it runs or the policy gives up.
    pub(super) fn restart_after(&self, container: &Arc<Container>, code: i64, ran: Duration) {
        let (containers, container) = (self.clone(), Arc::clone(container));
        let next = move |containers: &Self, container: &Container, ran| {
            let next = container.backoff.lock().map(|mut backoff| (backoff.next(ran), backoff.times()));
            let (wait, times) = next.unwrap_or((Duration::from_secs(60), 1));
            containers.note_wait(container, times, wait);
            wait
        };
        tokio::spawn(async move {
            let (mut code, mut wait) = (code, next(&containers, &container, ran));
            loop {
                let mut phase = container.phase();
                let changed = phase.wait_for(|phase| phase.status != Status::Restarting || phase.removed);
                if tokio::time::timeout(wait, changed).await.is_ok() {
                    return;
                }
                let _operation = container.operation.lock().await;
                if container.status() != Status::Restarting || containers.is_ending() {
                    return;
                }
                let counted = containers.update(&container, |record| {
                    record.restart_count += 1;
                    record.restart_count
                });
                let count = counted.unwrap_or(u32::MAX);
                let Err(error) = containers.start_locked(&container).await else { return };
                tracing::warn!(container = %container.id, %error, "it could not be started again");
                let record = container.snapshot();
                code = if record.state.exit_code == 0 { code.max(1) } else { record.state.exit_code };
                if !Policy::of(&record.host).restarts(code, count, record.stopped_by_hand) {
                    return;
                }
                let _ = containers.update(&container, |record| record.state.status = Status::Restarting);
                wait = next(&containers, &container, Duration::ZERO);
            }
        });
    }
}
