//! Carrying out a plan through the engine, with bounded parallelism. Every action may be repeated.
//!
//! The engine is called directly: there is one, and the planner, where the cleverness lies, is tested without it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bollard_stubs::models::{ContainerSummaryStateEnum, HealthStatusEnum, MountTypeEnum};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use sampan_compose::Project;
use sampan_compose::model::Condition;
use sampan_engine::containers::{Kept, RemoveOptions};
use sampan_engine::{Engine, Error, ErrorKind, Filters, Result};
use tokio::sync::watch;

use crate::desired::{self, DesiredContainer};
use crate::hooks::When;
use crate::init_containers::InitContainer;
use crate::labels;
use crate::material;
use crate::observe::of_project;
use crate::plan::{Action, Plan};
use crate::progress::Progress;
use crate::replace::{FailedUpdate, Unfinished};
use crate::request::Bounds;
use crate::schedule::{Mark, Schedule};

/// What a plan is carried out with.
#[derive(Debug, Clone)]
pub(crate) struct Executor {
    /// The engine.
    pub engine: Engine,
    /// Name of the project.
    pub name: String,
    /// The project; none when a stack is taken down whose files are gone.
    pub project: Option<Arc<Project>>,
    /// Its containers.
    pub desired: Arc<BTreeMap<String, Vec<DesiredContainer>>>,
    /// What runs before them, by service.
    pub before: Arc<BTreeMap<String, Vec<InitContainer>>>,
    /// Who listens.
    pub progress: Progress,
    /// How long containers have to stop, and how much is done at once.
    pub bounds: Bounds,
    /// Containers made anew get empty anonymous volumes, not those of the ones before them.
    pub renew_anon_volumes: bool,
    /// Anonymous volumes go with their containers.
    pub remove_volumes: bool,
    /// A service that is not yet as another needs it is waited for. Without it, what stands behind is left to the next
    /// plan, so that nothing else waits meanwhile.
    pub waits: bool,
    /// Becomes true when something newer is wanted: no further action begins.
    pub cancel: watch::Receiver<bool>,
}

/// How it went.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// What failed, each with the reason.
    pub failures: Vec<String>,
    /// Whether it was cut short.
    pub cancelled: bool,
    /// Whether something is left, as what it needs is not ready yet.
    pub unready: bool,
    /// Whether anything was begun but looking.
    pub acted: bool,
    /// Updates that failed as a whole.
    pub updates: Vec<FailedUpdate>,
}

impl Outcome {
    /// Whether all was done.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.failures.is_empty() && !self.cancelled && !self.unready
    }

    /// Tells what failed.
    pub async fn tell(&self, progress: &Progress) {
        for failure in &self.failures {
            progress.error(failure.clone()).await;
        }
    }
}

/// What became of an action that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    Done,
    Later,
}

impl Executor {
    /// Carries out a plan. An action whose need failed is left out; the others go on.
    pub async fn run(&self, plan: &Plan) -> Outcome {
        let mut schedule = Schedule::new(plan, self.bounds.parallel);
        let mut work = FuturesUnordered::new();
        let mut outcome = Outcome::default();
        loop {
            let halted = *self.cancel.borrow();
            for number in if halted { Vec::new() } else { schedule.begin() } {
                let action = &plan.nodes[number].action;
                outcome.acted |= !matches!(action, Action::Await { .. });
                work.push(async move {
                    let mut failed = None;
                    (number, self.take(action, &mut failed).await, failed)
                });
            }
            let Some((number, result, failed)) = work.next().await else { break };
            if !*self.cancel.borrow() {
                outcome.updates.extend(failed);
            }
            match result {
                Ok(Taken::Done) => schedule.note(number, Mark::Done),
                Ok(Taken::Later) => {
                    schedule.note(number, Mark::Later);
                    outcome.unready = true;
                }
                Err(error) => {
                    let action = &plan.nodes[number].action;
                    tracing::warn!(stack = self.name, %action, %error, "an action failed");
                    self.progress.action(subject(action), service(action), "Error", Some(error.message.clone())).await;
                    // What newer requests have ended is no failure: the next plan begins where this one stopped.
                    if !*self.cancel.borrow() {
                        outcome.failures.push(format!("{}: {error}", subject(action)));
                    }
                    schedule.note(number, Mark::Failed);
                }
            }
        }
        outcome.cancelled = schedule.is_cut(*self.cancel.borrow());
        outcome
    }

    async fn take(&self, action: &Action, failed: &mut Option<FailedUpdate>) -> Result<Taken> {
        let tell = |status| self.progress.action(subject(action), service(action), status, None);
        match action {
            Action::CreateNetwork { key, .. } => {
                let project = self.project()?;
                let Some(network) = project.networks.get(key) else { return Ok(Taken::Done) };
                tell("Creating").await;
                settled(
                    self.engine.create_network(desired::network(&project, key, network)).await.map(drop),
                    ErrorKind::Conflict,
                )?;
                tell("Created").await;
            }
            Action::RemoveNetwork { name, anew } => {
                tell("Removing").await;
                match self.engine.remove_network(name).await {
                    // As with Compose: whoever else is in it needs it.
                    Err(error) if error.kind == ErrorKind::Forbidden && !anew => tell("Resource is still in use").await,
                    removed => {
                        settled(removed, ErrorKind::NotFound)?;
                        tell("Removed").await;
                    }
                }
            }
            Action::CreateVolume { key, .. } => {
                let project = self.project()?;
                let Some(volume) = project.volumes.get(key) else { return Ok(Taken::Done) };
                tell("Creating").await;
                self.engine.create_volume(desired::volume(&project, key, volume)).await?;
                tell("Created").await;
            }
            Action::RemoveVolume { name } => {
                tell("Removing").await;
                settled(self.engine.remove_volume(name, true).await, ErrorKind::NotFound)?;
                tell("Removed").await;
            }
            Action::Create { service, number, name } => {
                tell("Creating").await;
                self.create(service, *number, name, &HashMap::new()).await?;
                tell("Created").await;
            }
            Action::Start { service, name, prepare, .. } => {
                if *prepare {
                    self.prepare(service, name).await?;
                }
                tell("Starting").await;
                self.start(name).await?;
                tell("Started").await;
            }
            Action::Restart { name, .. } => {
                tell("Restarting").await;
                self.restart(name).await?;
                tell("Started").await;
            }
            Action::Stop { id, .. } => {
                tell("Stopping").await;
                self.stop(id).await?;
                tell("Stopped").await;
            }
            Action::Remove { id, .. } => {
                tell("Removing").await;
                let options = RemoveOptions { force: true, volumes: self.remove_volumes, link: false };
                settled(self.engine.remove(id, options).await, ErrorKind::NotFound)?;
                tell("Removed").await;
            }
            Action::Recreate { service, number, name, old, prepare, .. } => {
                tell("Recreate").await;
                self.recreate(service, *number, (name, old), *prepare).await?;
                tell("Recreated").await;
            }
            Action::Update { service, replicas, policy, prepare } => {
                match self.update(service, replicas, policy, *prepare).await {
                    Ok(()) => {}
                    Err(Unfinished::Disturbed(why)) => return Err(Error::conflict(why)),
                    Err(Unfinished::Failed(update)) => {
                        let message = update.why.clone();
                        *failed = Some(update);
                        return Err(Error::conflict(message));
                    }
                }
            }
            Action::Change { service, number, name, id, changes } => {
                tell("Updating").await;
                self.change(service, *number, (name, id), changes).await?;
                tell("Updated").await;
            }
            Action::Rename { name, id, .. } => {
                self.engine.rename(id, name).await?;
                tell("Renamed").await;
            }
            Action::Await { service, condition, required } => {
                if *condition == Condition::Started {
                    return Ok(Taken::Done);
                }
                self.tell_each(service, "Waiting").await;
                let met = match self.waits {
                    true => self.wait_for(service, *condition).await.map(|()| true),
                    false => self.is_met(service, *condition),
                };
                match met {
                    Ok(false) => return Ok(Taken::Later),
                    Ok(true) => {
                        let status = if *condition == Condition::Healthy { "Healthy" } else { "Exited" };
                        self.tell_each(service, status).await;
                    }
                    Err(error) if !required => self.progress.warning(format!("optional dependency: {error}")).await,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(Taken::Done)
    }

    pub(crate) fn project(&self) -> Result<Arc<Project>> {
        self.project.clone().ok_or_else(|| Error::internal("the stack has no project"))
    }

    /// When something newer is wanted.
    pub(crate) async fn cancelled(&self) {
        let mut cancel = self.cancel.clone();
        if cancel.wait_for(|cancel| *cancel).await.is_err() {
            std::future::pending().await
        }
    }

    /// Starts a container, and runs what is to follow.
    pub(crate) async fn start(&self, name: &str) -> Result<()> {
        match self.engine.start(name).await {
            Err(error) if error.kind == ErrorKind::NotModified => Ok(()),
            Err(error) => Err(error),
            Ok(()) => self.hooks(name, When::PostStart).await,
        }
    }

    /// Stops and starts a container, with what goes before and follows.
    pub(crate) async fn restart(&self, name: &str) -> Result<()> {
        self.hooks(name, When::PreStop).await?;
        self.engine.restart(name, None, self.bounds.timeout).await?;
        self.hooks(name, When::PostStart).await
    }

    /// Stops a container, after what is to go before.
    pub(crate) async fn stop(&self, id: &str) -> Result<()> {
        self.hooks(id, When::PreStop).await?;
        match self.engine.stop(id, None, self.bounds.timeout).await {
            Err(error) if matches!(error.kind, ErrorKind::NotModified | ErrorKind::NotFound) => Ok(()),
            other => other,
        }
    }

    /// Makes a container. `inherited` are anonymous volumes of the one before it: name by path in the container.
    pub(crate) async fn create(
        &self,
        service: &str,
        number: u32,
        name: &str,
        inherited: &HashMap<String, String>,
    ) -> Result<()> {
        let wanted = self.wanted(service, number)?;
        material::put(wanted.material.clone()).await?;
        let mut body = wanted.body.clone();
        // A service that goes back to the version before names its image by id.
        let project = self.project()?;
        let image = project.image_name(service);
        let image_id = self.engine.inspect_image(&image).await?.id.unwrap_or_default();
        body.image = Some(image);
        let mut labels = wanted.labels(&project, service);
        labels.insert(labels::IMAGE.to_owned(), image_id.clone());
        let mut mounted = Vec::new();
        for name in project.mounted_images(service) {
            mounted.push(self.engine.inspect_image(&name).await?.id.unwrap_or_default());
        }
        if !mounted.is_empty() {
            labels.insert(labels::MOUNTED_IMAGES.to_owned(), mounted.join(","));
        }
        body.labels = Some(labels);
        if !inherited.is_empty() {
            let mounts = body.host_config.get_or_insert_default().mounts.get_or_insert_default();
            for (target, volume) in inherited {
                match mounts.iter_mut().find(|mount| mount.target.as_ref() == Some(target)) {
                    // Declared without a name: it is the one that the container before had.
                    Some(mount) if mount.typ == Some(MountTypeEnum::VOLUME) && mount.source.is_none() => {
                        mount.source = Some(volume.clone());
                    }
                    Some(_) => {}
                    None => mounts.push(bollard_stubs::models::Mount {
                        target: Some(target.clone()),
                        source: Some(volume.clone()),
                        typ: Some(MountTypeEnum::VOLUME),
                        ..Default::default()
                    }),
                }
            }
        }
        let platform =
            self.project.as_ref().and_then(|project| project.services.get(service)).map(|found| found.platform.clone());
        let platform = platform.filter(|platform| !platform.is_empty());
        match self.engine.create(Some(name), body, platform.as_deref()).await {
            Ok(made) => {
                for warning in made.warnings {
                    self.progress.warning(format!("{name}: {warning}")).await;
                }
                Ok(())
            }
            // A plan that was cut short has made it already; another's container of that name is the user's to remove.
            Err(error) if error.kind == ErrorKind::Conflict && self.is_ours(name, &wanted.hash, &image_id).await => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) fn wanted(&self, service: &str, number: u32) -> Result<&DesiredContainer> {
        self.desired
            .get(service)
            .and_then(|containers| containers.iter().find(|container| container.number == number))
            .ok_or_else(|| {
                Error::internal(format!("the plan has container {number} of {service}, the project does not"))
            })
    }

    async fn is_ours(&self, name: &str, hash: &str, image: &str) -> bool {
        let Ok(found) = self.engine.inspect_container(name, false).await else { return false };
        let all = found.config.and_then(|config| config.labels).unwrap_or_default();
        found.image.as_deref() == Some(image)
            && all.get(labels::PROJECT) == Some(&self.name)
            && all.get(labels::HASH).is_some_and(|found| found == hash)
    }

    /// Tells how it stands with each container of a service.
    pub(crate) async fn tell_each(&self, service: &str, status: &'static str) {
        let Some(project) = &self.project else { return };
        let replicas = project.services.get(service).map_or(1, sampan_compose::Service::replicas);
        for number in 1..=replicas {
            let name = desired::container_name(project, service, number);
            self.progress.action(format!("Container {name}"), Some(service), status, None).await;
        }
    }

    /// Waits until every container of a service is as wanted; fails when one cannot become so.
    pub async fn wait_for(&self, service: &str, condition: Condition) -> Result<()> {
        let mut filters = Filters::default();
        filters.add("label", &format!("{}={}", labels::PROJECT, self.name));
        filters.add("label", &format!("{}={service}", labels::SERVICE));
        let mut events = self.engine.events_stream(None, None, filters).await?;
        let mut cancel = self.cancel.clone();
        loop {
            if self.is_met(service, condition)? {
                return Ok(());
            }
            tokio::select! {
                event = events.next() => if event.is_none() {
                    return Err(Error::unavailable("the engine is stopping"));
                },
                _ = cancel.wait_for(|cancel| *cancel) => return Err(Error::unavailable("something newer was asked for")),
                // Should an event be missed, the state is looked at all the same.
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
    }

    fn is_met(&self, service: &str, condition: Condition) -> Result<bool> {
        let mut met = true;
        for found in self.engine.kept_containers(&of_project(&self.name, Some(service))) {
            if !found.labels().is_some_and(labels::is_one_off) {
                met &= is_as(condition, service, &found)?;
            }
        }
        Ok(met)
    }
}

/// Whether a container of a service is as it is waited for; fails when it cannot become so.
fn is_as(condition: Condition, service: &str, found: &Kept) -> Result<bool> {
    use ContainerSummaryStateEnum as State;
    let (name, code) = (found.name(), found.standing.code);
    let running = matches!(found.state(), State::RUNNING | State::PAUSED | State::RESTARTING);
    let started = found.standing.started_ns > 0;
    Ok(match condition {
        Condition::Started if running => true,
        Condition::Started if !started => false,
        // A job that has done its work.
        Condition::Started if code == 0 => true,
        Condition::Started => return Err(Error::conflict(format!("container {name} exited ({code})"))),
        Condition::CompletedSuccessfully if running || !started => false,
        Condition::CompletedSuccessfully if code == 0 => true,
        Condition::CompletedSuccessfully => {
            return Err(Error::conflict(format!(
                "service \"{service}\" didn't complete successfully: {name} exited ({code})"
            )));
        }
        Condition::Healthy => {
            let failed =
                |why: &str| Err(Error::conflict(format!("dependency failed to start: container {name} {why}")));
            match found.health {
                Some(HealthStatusEnum::HEALTHY) if running => true,
                Some(HealthStatusEnum::UNHEALTHY) => return failed("is unhealthy"),
                _ if started && !running => return failed(&format!("exited ({code})")),
                None | Some(HealthStatusEnum::NONE | HealthStatusEnum::EMPTY) if running => {
                    return failed("has no healthcheck configured");
                }
                _ => false,
            }
        }
    })
}

/// A result for which one kind of failure says that it is so already.
pub(crate) fn settled(result: Result<()>, already: ErrorKind) -> Result<()> {
    match result {
        Err(error) if error.kind == already => Ok(()),
        other => other,
    }
}

fn subject(action: &Action) -> String {
    match action {
        Action::CreateNetwork { name, .. } | Action::RemoveNetwork { name, .. } => format!("Network {name}"),
        Action::CreateVolume { name, .. } | Action::RemoveVolume { name } => format!("Volume {name}"),
        Action::Create { name, .. }
        | Action::Start { name, .. }
        | Action::Recreate { name, .. }
        | Action::Change { name, .. }
        | Action::Rename { name, .. }
        | Action::Restart { name, .. }
        | Action::Stop { name, .. }
        | Action::Remove { name, .. } => format!("Container {name}"),
        Action::Update { service, .. } | Action::Await { service, .. } => format!("Service {service}"),
    }
}

fn service(action: &Action) -> Option<&str> {
    match action {
        Action::Create { service, .. }
        | Action::Start { service, .. }
        | Action::Recreate { service, .. }
        | Action::Update { service, .. }
        | Action::Change { service, .. }
        | Action::Rename { service, .. }
        | Action::Restart { service, .. }
        | Action::Stop { service, .. }
        | Action::Remove { service, .. }
        | Action::Await { service, .. } => Some(service),
        _ => None,
    }
}
