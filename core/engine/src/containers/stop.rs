//! `stop`, `kill`, `restart`, `pause`, `unpause`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::libc::{SIGKILL, SIGTERM};

use super::record::{ContainerRecord, Status};
use super::{Container, Containers, signals};
use crate::error::{Error, Result};
use crate::events::now_ns;
use crate::{Engine, blocking, detached};

/// Between the signal and SIGKILL, where nobody says otherwise.
const DEFAULT_TIMEOUT: i64 = 10;
/// For the end to come after SIGKILL.
const AFTER_KILL: Duration = Duration::from_secs(10);

impl Engine {
    /// `stop`: the signal, then after `timeout` seconds SIGKILL; negative waits for ever.
    pub async fn stop(&self, id: &str, signal: Option<&str>, timeout: Option<i64>) -> Result<()> {
        let signal = signal.filter(|signal| !signal.is_empty()).map(signals::parse).transpose()?;
        let containers = self.inner.containers.clone();
        let container = containers.find(id)?;
        detached(async move {
            let _operation = container.operation.lock().await;
            containers.stop_by_hand(&container, signal, timeout).await
        })
        .await
    }

    /// `restart`.
    pub async fn restart(&self, id: &str, signal: Option<&str>, timeout: Option<i64>) -> Result<()> {
        let signal = signal.filter(|signal| !signal.is_empty()).map(signals::parse).transpose()?;
        let containers = self.inner.containers.clone();
        let container = containers.find(id)?;
        detached(async move { containers.restart(&container, signal, timeout).await }).await
    }

    /// `kill`.
    pub async fn kill(&self, id: &str, signal: Option<&str>) -> Result<()> {
        let signal = signal.filter(|signal| !signal.is_empty()).map_or(Ok(SIGKILL), signals::parse)?;
        let containers = self.inner.containers.clone();
        let container = containers.find(id)?;
        let id = id.to_owned();
        detached(async move { containers.kill(&container, &id, signal).await }).await
    }

    /// `pause`.
    pub async fn pause(&self, id: &str) -> Result<()> {
        let containers = self.inner.containers.clone();
        let container = containers.find(id)?;
        detached(async move { containers.pause(&container).await }).await
    }

    /// `unpause`.
    pub async fn unpause(&self, id: &str) -> Result<()> {
        let containers = self.inner.containers.clone();
        let container = containers.find(id)?;
        detached(async move {
            let _operation = container.operation.lock().await;
            if container.status() != Status::Paused {
                return Err(Error::conflict(format!("Container {} is not paused", container.id)));
            }
            containers.thaw(&container).await
        })
        .await
    }
}

impl Containers {
    /// Stops a container; whoever calls has its `operation` lock. Its policy does not start it again.
    pub(super) async fn stop_by_hand(
        &self,
        container: &Arc<Container>,
        signal: Option<i32>,
        timeout: Option<i64>,
    ) -> Result<()> {
        match container.status() {
            Status::Running | Status::Paused => {}
            Status::Restarting => {
                self.update(container, |record| {
                    record.stopped_by_hand = true;
                    record.state.status = Status::Exited;
                    record.state.finished_ns = now_ns();
                })?;
                self.publish(container, "stop", []);
                return Ok(());
            }
            _ => return Err(Error::not_modified("container is already stopped")),
        }
        self.update(container, |record| record.stopped_by_hand = true)?;
        self.end(container, signal, timeout).await?;
        self.publish(container, "stop", []);
        Ok(())
    }

    /// Signals, waits, kills; returns when the container has ended and is cleared away.
    pub(super) async fn end(
        &self,
        container: &Arc<Container>,
        signal: Option<i32>,
        timeout: Option<i64>,
    ) -> Result<()> {
        let (own_signal, own_timeout) = {
            let record = container.record();
            let signal = record.config.stop_signal.as_deref().filter(|signal| !signal.is_empty());
            (signal.and_then(|signal| signals::parse(signal).ok()), record.config.stop_timeout)
        };
        let signal = signal.or(own_signal).unwrap_or(SIGTERM);
        let timeout = timeout.or(own_timeout).unwrap_or(DEFAULT_TIMEOUT);
        self.signal(container, signal).await?;
        let patience = u64::try_from(timeout).ok().map(Duration::from_secs);
        if self.has_ended(container, patience).await {
            return Ok(());
        }
        tracing::info!(container = %container.id, signal, timeout, "it did not end in time and is killed");
        self.kill_hard(container).await
    }

    /// SIGKILL to all, by the shim or by the cgroup.
    pub(super) async fn kill_hard(&self, container: &Arc<Container>) -> Result<()> {
        // A frozen process takes its signal when it is thawed.
        let signalled = self.signal(container, SIGKILL).await;
        if signalled.is_ok() && self.has_ended(container, Some(AFTER_KILL)).await {
            return Ok(());
        }
        let cgroup = self.cgroup(&container.record());
        let killed = blocking(move || cgroup.kill().map_err(|error| Error::internal(error.to_string()))).await;
        if self.has_ended(container, Some(AFTER_KILL)).await {
            return Ok(());
        }
        killed?;
        Err(Error::internal("tried to kill container, but did not receive an exit event"))
    }

    /// Sends a signal to process 1 and thaws the container, so that it is taken. One that has ended is fine.
    async fn signal(&self, container: &Arc<Container>, signal: i32) -> Result<()> {
        let Some(shim) = container.shim() else { return Ok(()) };
        if let Err(error) = shim.kill(signal, false).await {
            // It may be at its end already; whoever waits for that finds out, and has other means.
            if error.message.contains("not the number of a signal") {
                return Err(error);
            }
            tracing::debug!(container = %container.id, signal, %error, "a signal was not sent");
        }
        self.publish(container, "kill", [("signal", signal.to_string())]);
        if container.status() == Status::Paused {
            self.thaw(container).await?;
        }
        Ok(())
    }

    async fn has_ended(&self, container: &Container, patience: Option<Duration>) -> bool {
        let mut phase = container.phase();
        let ended = phase.wait_for(|phase| !phase.status.is_alive());
        match patience {
            Some(patience) => tokio::time::timeout(patience, ended).await.is_ok(),
            None => ended.await.is_ok(),
        }
    }

    pub(super) fn cgroup(&self, record: &ContainerRecord) -> sampan_cgroup::Cgroup {
        self.shared().cgroups.cgroup(&self.cgroup_path(record))
    }

    /// The container's group: below the engine's own, or where `--cgroup-parent` says.
    pub(super) fn cgroup_path(&self, record: &ContainerRecord) -> String {
        let own = self.shared().instance.cgroup_parent();
        match record.cgroup_parent() {
            None => format!("{own}/{}", record.id),
            Some(parent) if parent.starts_with('/') => format!("{}/{}", parent.trim_end_matches('/'), record.id),
            Some(parent) => format!("{own}/{}/{}", parent.trim_end_matches('/'), record.id),
        }
    }

    async fn restart(&self, container: &Arc<Container>, signal: Option<i32>, timeout: Option<i64>) -> Result<()> {
        {
            let _operation = container.operation.lock().await;
            match container.status() {
                Status::Running | Status::Paused => {
                    container.restarting_by_hand.store(true, Ordering::SeqCst);
                    let ended = self.end(container, signal, timeout).await;
                    if ended.is_err() {
                        container.restarting_by_hand.store(false, Ordering::SeqCst);
                    }
                    ended?;
                    self.publish(container, "stop", []);
                }
                Status::Restarting => self.update(container, |record| record.state.status = Status::Exited)?,
                _ => {}
            }
        }
        let started = self.start_by_hand(container).await;
        container.restarting_by_hand.store(false, Ordering::SeqCst);
        match started {
            // Somebody else was quicker.
            Err(error) if error.kind == crate::ErrorKind::NotModified => {}
            other => other?,
        }
        self.publish(container, "restart", []);
        Ok(())
    }

    async fn kill(&self, container: &Arc<Container>, reference: &str, signal: i32) -> Result<()> {
        let status = container.status();
        if !status.is_alive() {
            return Err(Error::conflict(format!(
                "cannot kill container: {reference}: container {} is not running",
                container.id
            )));
        }
        let stop_signal = {
            let record = container.record();
            record.config.stop_signal.as_deref().and_then(|signal| signals::parse(signal).ok()).unwrap_or(SIGTERM)
        };
        // Other signals tell the program something; these mean its end, which is what was asked for.
        if signal == SIGKILL || signal == stop_signal {
            self.update(container, |record| record.stopped_by_hand = true)?;
        }
        if signal == SIGKILL {
            self.kill_hard(container)
                .await
                .map_err(|error| error.context(format!("cannot kill container: {reference}")))
        } else if status == Status::Paused && signal != stop_signal {
            // It is taken when the container goes on.
            match container.shim() {
                Some(shim) => shim.kill(signal, false).await,
                None => Ok(()),
            }
        } else {
            self.signal(container, signal).await
        }
    }

    async fn pause(&self, container: &Arc<Container>) -> Result<()> {
        let _operation = container.operation.lock().await;
        match container.status() {
            Status::Running => {}
            Status::Paused => return Err(Error::conflict(format!("Container {} is already paused", container.id))),
            Status::Restarting => {
                return Err(Error::conflict(format!(
                    "Container {} is restarting, wait until the container is running",
                    container.id
                )));
            }
            _ => return Err(Error::conflict(format!("Container {} is not running", container.id))),
        }
        let cgroup = self.cgroup(&container.record());
        let frozen = blocking(move || {
            cgroup.freeze().map_err(|error| Error::internal(error.to_string())).inspect_err(|_| drop(cgroup.thaw()))
        })
        .await;
        frozen.map_err(|error| error.context(format!("cannot pause container {}", container.id)))?;
        // It may have ended in between.
        self.update(container, |record| {
            if record.state.status == Status::Running {
                record.state.status = Status::Paused;
            }
        })?;
        self.publish(container, "pause", []);
        Ok(())
    }

    pub(super) async fn thaw(&self, container: &Arc<Container>) -> Result<()> {
        let cgroup = self.cgroup(&container.record());
        let thawed = blocking(move || cgroup.thaw().map_err(|error| Error::internal(error.to_string()))).await;
        if container.status() != Status::Paused {
            return Ok(());
        }
        thawed.map_err(|error| error.context(format!("cannot unpause container {}", container.id)))?;
        self.update(container, |record| {
            if record.state.status == Status::Paused {
                record.state.status = Status::Running;
            }
        })?;
        self.publish(container, "unpause", []);
        Ok(())
    }
}
