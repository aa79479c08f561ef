//! A container in the place of another: at once, or a few at a time behind a gate; and changes without another one.

use std::collections::HashMap;
use std::time::Duration;

use bollard_stubs::models::{ContainerInspectResponse, HealthStatusEnum, MountPointTypeEnum, NetworkConnectRequest};
use futures_util::StreamExt;
use futures_util::future::join_all;
use sampan_engine::containers::{RemoveOptions, WaitCondition};
use sampan_engine::{Error, ErrorKind, Filters, Result};
use tokio::time::Instant;

use crate::execute::{Executor, settled};
use crate::in_place::{self, Change};
use crate::labels;
use crate::plan::Replica;
use crate::rollout::{FailureAction, Order, Policy};

/// How long a container that others were told to leave still gets what is on its way, at least and at most.
const DRAIN: (Duration, Duration) = (Duration::from_millis(150), Duration::from_secs(10));
/// Between two looks at its connections.
const LOOK: Duration = Duration::from_millis(25);

/// An update that was given up.
#[derive(Debug, Clone, PartialEq)]
pub struct FailedUpdate {
    /// Of which service.
    pub service: String,
    /// What is to follow.
    pub action: FailureAction,
    /// What went wrong.
    pub why: String,
    /// Configuration hash of the version before.
    pub hash: String,
    /// Id of its image.
    pub image: String,
}

/// Why an update did not come to its end.
#[derive(Debug)]
pub(crate) enum Unfinished {
    /// The version is no good: what follows is as its policy says.
    Failed(FailedUpdate),
    /// It was disturbed, and is to be tried again.
    Disturbed(String),
}

/// Why a container was not replaced.
#[derive(Debug)]
enum Missed {
    /// It, or the one that was to take its place, was taken away by hand meanwhile.
    Vanished,
    /// No program's own doing: the new one was killed with SIGKILL, and not for want of memory; or what it needs was taken
    /// away by hand, or could not be had just then.
    Disturbed(Error),
    Failed(Error),
}

impl Missed {
    fn of(error: Error) -> Self {
        match error.kind {
            ErrorKind::NotFound | ErrorKind::Unavailable => Self::Disturbed(error),
            _ => Self::Failed(error),
        }
    }
}

/// The exit code of what was killed with SIGKILL.
const KILLED: i64 = 137;
/// How long after a failure the end of a container may take to be known.
const KILLED_SOON: Duration = Duration::from_millis(300);

/// What a container that is being replaced was.
struct Before {
    name: String,
    running: bool,
    /// Anonymous volumes: name by path in the container.
    anonymous: HashMap<String, String>,
}

impl Executor {
    /// Replaces running containers, so many at a time. What fails is left as it was.
    pub(crate) async fn update(
        &self,
        service: &str,
        replicas: &[Replica],
        policy: &Policy,
        mut prepare: bool,
    ) -> std::result::Result<(), Unfinished> {
        let (hash, image) = match replicas.first() {
            Some(replica) => self.version(&replica.old).await,
            None => return Ok(()),
        };
        let given_up = |why: String| {
            Unfinished::Failed(FailedUpdate {
                service: service.to_owned(),
                action: policy.failure_action,
                why,
                hash: hash.clone(),
                image: image.clone(),
            })
        };
        let mut failures: Vec<String> = Vec::new();
        let mut disturbed: Vec<String> = Vec::new();
        for (number, group) in replicas.chunks(policy.groups(replicas.len())).enumerate() {
            if number > 0 && !self.pause(policy.delay).await {
                return Err(given_up("something newer was asked for".to_owned()));
            }
            // What runs before the service does so once, before the first.
            if std::mem::take(&mut prepare)
                && let Some(first) = group.first()
                && let Err(error) = self.prepare(service, &first.old).await
            {
                return Err(given_up(error.message));
            }
            let work = group.iter().map(|replica| self.replace(service, replica, policy));
            for (replica, result) in group.iter().zip(join_all(work).await) {
                let Err(missed) = result else { continue };
                tracing::warn!(stack = self.name, container = replica.name, ?missed, "a replacement failed");
                match missed {
                    // No fault of the new version, and the next look makes it anew.
                    Missed::Vanished => {}
                    Missed::Disturbed(error) => disturbed.push(format!("{}: {error}", replica.name)),
                    Missed::Failed(error) => failures.push(format!("{}: {error}", replica.name)),
                }
            }
            if !disturbed.is_empty() {
                break;
            }
            let stops = policy.failure_action != FailureAction::Continue;
            if stops && policy.is_failed(failures.len(), replicas.len()) || *self.cancel.borrow() {
                break;
            }
        }
        if policy.is_failed(failures.len(), replicas.len()) {
            return Err(given_up(failures.join("; ")));
        }
        if disturbed.is_empty() { Ok(()) } else { Err(Unfinished::Disturbed(disturbed.join("; "))) }
    }

    /// The configuration hash and the image of a container.
    async fn version(&self, id: &str) -> (String, String) {
        let Ok(found) = self.engine.inspect_container(id, false).await else { return Default::default() };
        let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
        (labels::version(&labels), found.image.unwrap_or_default())
    }

    /// Whether it may go on after a while.
    async fn pause(&self, time: Duration) -> bool {
        let mut cancel = self.cancel.clone();
        if *cancel.borrow() {
            return false;
        }
        tokio::select! {
            () = tokio::time::sleep(time) => true,
            _ = cancel.wait_for(|cancel| *cancel) => false,
        }
    }

    /// One container in the place of one that runs, with a gate.
    async fn replace(&self, service: &str, replica: &Replica, policy: &Policy) -> Result<(), Missed> {
        let tell = |status| self.progress.action(format!("Container {}", replica.name), Some(service), status, None);
        let Replica { number, name, old, .. } = replica;
        tell("Recreate").await;
        let place = (service, *number);
        let before = match self.set_aside(name, old).await {
            Ok(before) => before,
            Err(error) => return Err(self.missed(error, &[old], place).await),
        };
        if let Err(error) = self.create(service, *number, name, &before.anonymous).await {
            let missed = self.missed(error, &[old], place).await;
            return Err(self.go_back(name, old, &before, missed).await);
        }
        let attempt = async {
            if policy.order == Order::StopFirst {
                self.retire(old).await?;
            }
            self.start(name).await?;
            tell("Waiting").await;
            self.gate(service, name, policy.monitor).await
        };
        if let Err(error) = attempt.await {
            // A hook in a container that is killed fails before the end is known.
            if let Ok(end) = self.engine.wait(name, WaitCondition::NotRunning).await {
                let _ = tokio::time::timeout(KILLED_SOON, end).await;
            }
            let standing = self.engine.container_standing(name);
            let missed = match self.missed(error, &[old, name], place).await {
                Missed::Failed(error) if standing.code == KILLED && !standing.oom => Missed::Disturbed(error),
                missed => missed,
            };
            return Err(self.go_back(name, old, &before, missed).await);
        }
        let end = async {
            if policy.order == Order::StartFirst {
                self.retire(old).await?;
            }
            let options = RemoveOptions { force: true, ..RemoveOptions::default() };
            settled(self.engine.remove(old, options).await, ErrorKind::NotFound)
        };
        // The new one serves: what is left of the old one is the next plan's.
        end.await.map_err(Missed::Disturbed)?;
        tell("Recreated").await;
        Ok(())
    }

    /// What an error means: where one of the containers or of the networks is gone by now, it came of that.
    async fn missed(&self, error: Error, containers: &[&str], (service, number): (&str, u32)) -> Missed {
        if !containers.iter().all(|container| self.engine.has_container(container)) {
            return Missed::Vanished;
        }
        let wanted = self.wanted(service, number).ok().and_then(|wanted| wanted.body.networking_config.as_ref());
        let networks = wanted.and_then(|networking| networking.endpoints_config.as_ref());
        for network in networks.into_iter().flat_map(HashMap::keys) {
            if self.engine.inspect_network(network, false).await.is_err() {
                return Missed::Disturbed(error);
            }
        }
        Missed::of(error)
    }

    /// The old container is again what it was.
    async fn go_back(&self, name: &str, old: &str, before: &Before, missed: Missed) -> Missed {
        match missed {
            Missed::Vanished => {
                let gone = Error::not_found("a container vanished while it was replaced");
                self.bring_back(name, old, before, gone).await;
                Missed::Vanished
            }
            Missed::Disturbed(error) => Missed::Disturbed(self.bring_back(name, old, before, error).await),
            Missed::Failed(error) => Missed::Failed(self.bring_back(name, old, before, error).await),
        }
    }

    /// Another container in the place of one. The old one keeps aside until the new one runs, and comes back if it does not.
    /// `prepare`: what runs before the service does so between the making of the new one and its start.
    pub(crate) async fn recreate(
        &self,
        service: &str,
        number: u32,
        (name, old): (&str, &str),
        prepare: bool,
    ) -> Result<()> {
        let before = self.set_aside(name, old).await?;
        let attempt = async {
            self.create(service, number, name, &before.anonymous).await?;
            self.stop(old).await?;
            if prepare {
                self.prepare(service, name).await?;
            }
            self.start(name).await
        };
        if let Err(error) = attempt.await {
            return Err(self.bring_back(name, old, &before, error).await);
        }
        let options = RemoveOptions { force: true, ..RemoveOptions::default() };
        settled(self.engine.remove(old, options).await, ErrorKind::NotFound)
    }

    /// Makes a container's name free for the one that comes.
    async fn set_aside(&self, name: &str, old: &str) -> Result<Before> {
        let found = self.engine.inspect_container(old, false).await?;
        let before = Before {
            running: found.state.as_ref().and_then(|state| state.running).unwrap_or(false),
            name: found.name.unwrap_or_default().trim_start_matches('/').to_owned(),
            anonymous: found
                .mounts
                .into_iter()
                .flatten()
                .filter(|mount| !self.renew_anon_volumes && mount.typ == Some(MountPointTypeEnum::VOLUME))
                .filter_map(|mount| Some((mount.destination?, mount.name?)))
                .filter(|(_, volume)| volume.len() == 64 && volume.bytes().all(|byte| byte.is_ascii_hexdigit()))
                .collect(),
        };
        if before.name == name {
            self.engine.rename(old, &format!("{}_{name}", &old[..old.len().min(12)])).await?;
        }
        Ok(before)
    }

    /// The old container is again what it was; the error tells more when it is not.
    async fn bring_back(&self, name: &str, old: &str, before: &Before, error: Error) -> Error {
        let _ = self.engine.remove(name, RemoveOptions { force: true, ..RemoveOptions::default() }).await;
        if let Err(worse) = self.engine.rename(old, name).await {
            return error.context(format!("and the container before it could not get its name back ({worse})"));
        }
        if before.running {
            let _ = self.engine.start(old).await;
            let _ = self.engine.withdraw(old, false).await;
        }
        error
    }

    /// Stops a container after what it serves has come to its end.
    async fn retire(&self, id: &str) -> Result<()> {
        settled(self.engine.withdraw(id, true).await, ErrorKind::NotFound)?;
        let begun = Instant::now();
        while begun.elapsed() < DRAIN.1 {
            tokio::time::sleep(LOOK).await;
            let open = self.engine.open_connections(id).await.unwrap_or(0);
            if open == 0 && begun.elapsed() >= DRAIN.0 {
                break;
            }
        }
        self.stop(id).await
    }

    /// Waits until a container that was started is ready, and stays so for a while.
    async fn gate(&self, service: &str, name: &str, monitor: Duration) -> Result<()> {
        let mut filters = Filters::default();
        filters.add("label", &format!("{}={}", labels::PROJECT, self.name));
        filters.add("label", &format!("{}={service}", labels::SERVICE));
        let mut events = self.engine.events_stream(None, None, filters).await?;
        let mut cancel = self.cancel.clone();
        let mut until: Option<Instant> = None;
        loop {
            let found = self.engine.inspect_container(name, false).await?;
            if is_ready(name, &found)? {
                let end = *until.get_or_insert_with(|| Instant::now() + monitor);
                if Instant::now() >= end {
                    return Ok(());
                }
            } else if until.is_some() {
                return Err(Error::conflict(format!("container {name} did not stay ready")));
            }
            let look = until.map_or(Duration::from_secs(1), |end| end.saturating_duration_since(Instant::now()));
            tokio::select! {
                event = events.next() => if event.is_none() {
                    return Err(Error::unavailable("the engine is stopping"));
                },
                _ = cancel.wait_for(|cancel| *cancel) => return Err(Error::unavailable("something newer was asked for")),
                () = tokio::time::sleep(look.min(Duration::from_secs(1))) => {}
            }
        }
    }

    /// Changes a container as it is; where the engine cannot, it is made anew.
    pub(crate) async fn change(
        &self,
        service: &str,
        number: u32,
        (name, id): (&str, &str),
        changes: &[Change],
    ) -> Result<()> {
        match self.try_change(service, number, id, changes).await {
            Ok(()) => Ok(()),
            Err(error) if error.kind == ErrorKind::NotFound => Err(error),
            // A port that another has: a container made anew would not get it either.
            Err(error) if error.kind == ErrorKind::Conflict && changes.contains(&Change::Ports) => Err(error),
            Err(error) => {
                self.progress.warning(format!("{name} is made anew, as it cannot be changed in place: {error}")).await;
                let wanted = self.wanted(service, number)?.name.clone();
                self.recreate(service, number, (&wanted, id), false).await
            }
        }
    }

    async fn try_change(&self, service: &str, number: u32, id: &str, changes: &[Change]) -> Result<()> {
        let wanted = self.wanted(service, number)?;
        let limits = |change: &Change| matches!(change, Change::Limit(_) | Change::RestartPolicy | Change::Restore);
        if changes.iter().any(limits) {
            self.engine.set_limits(id, wanted.body.host_config.clone().unwrap_or_default()).await?;
        }
        let reconfigured = in_place::reconfigured(changes);
        if !reconfigured.is_empty() {
            self.engine.reconfigure(id, wanted.body.clone(), reconfigured).await?;
        }
        let networking = wanted.body.networking_config.clone().unwrap_or_default();
        let mut endpoints = networking.endpoints_config.unwrap_or_default();
        for change in changes {
            match change {
                Change::Disconnect(network) => {
                    settled(self.engine.disconnect_network(network, id, true).await, ErrorKind::NotFound)?;
                }
                Change::Connect(network) => {
                    self.engine.disconnect_network(network, id, true).await?;
                    let endpoint_config = endpoints.remove(network);
                    let request = NetworkConnectRequest { container: id.to_owned(), endpoint_config };
                    self.engine.connect_network(network, request).await?;
                }
                _ => {}
            }
        }
        // Last: from here on the container is what the plan wants.
        let found = self.engine.inspect_container(id, false).await?;
        let image = self.engine.inspect_image(&found.image.unwrap_or_default()).await;
        let of_image = image.ok().and_then(|image| image.config).and_then(|config| config.labels);
        let mut all: HashMap<String, String> = of_image.unwrap_or_default().into_iter().collect();
        let before = found.config.and_then(|config| config.labels).unwrap_or_default();
        all.extend(
            before.into_iter().filter(|(name, _)| [labels::IMAGE, labels::MOUNTED_IMAGES].contains(&name.as_str())),
        );
        all.extend(wanted.labels(&*self.project()?, service));
        self.engine.relabel(id, all).await
    }
}

/// Whether a container is ready for work; an error when it cannot become so.
fn is_ready(name: &str, found: &ContainerInspectResponse) -> Result<bool> {
    let state = found.state.clone().unwrap_or_default();
    let running = state.running.unwrap_or(false) && !state.restarting.unwrap_or(false);
    if !running || found.restart_count.unwrap_or(0) > 0 {
        let code = state.exit_code.unwrap_or(0);
        return Err(Error::conflict(format!("container {name} exited ({code})")));
    }
    match state.health.and_then(|health| health.status) {
        None | Some(HealthStatusEnum::NONE | HealthStatusEnum::EMPTY | HealthStatusEnum::HEALTHY) => Ok(true),
        Some(HealthStatusEnum::UNHEALTHY) => Err(Error::conflict(format!("container {name} is unhealthy"))),
        Some(_) => Ok(false),
    }
}
