//! Stacks: projects that the engine is kept true to.
//!
//! A project (from `sampan-compose`) and what the engine has ([`observed`]) enter; a plan ([`plan`]) leaves and is carried
//! out ([`execute`]). Planning is pure: functions from data to data, without files, kernel or tokio. [`Stacks`] holds a
//! task for each stack, which plans again when its files or its containers change.
//!
//! Invariants: a file that cannot be loaded changes nothing; the last request counts; a plan that was cut short anywhere
//! is completed by the next one; what is not the stack's own is never touched.

mod build;
pub mod desired;
pub mod develop;
mod devices;
pub mod diff;
mod execute;
mod hooks;
mod host_files;
mod images;
pub mod in_place;
mod init_containers;
pub mod labels;
mod material;
mod observe;
pub mod observed;
mod places;
pub mod plan;
mod progress;
pub mod provided;
mod replace;
mod request;
pub mod rollout;
mod schedule;
mod stack;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use sampan_engine::{Engine, Error, Result};
use sampan_store::Durability;
use serde::Serialize;
use tokio::sync::{Mutex, mpsc};

pub use host_files::HostFiles;
pub use material::{Content, Material};
pub use places::Place;
pub use progress::{Progress, StackEvent};
pub use request::{StackOptions, StackRequest, Verb};

use request::{Command, STACKS, StackRecord};
use stack::Stack;

/// Requests that wait for a stack.
const QUEUE: usize = 8;
/// Events that wait for a listener.
const EVENTS: usize = 256;

/// A stack as `stack ls` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct StackInfo {
    /// The project's name.
    pub name: String,
    /// Such as `running(2)`, `exited(1), running(1)`.
    pub status: String,
    /// The compose files.
    pub config_files: Vec<String>,
    /// Whether its files are followed.
    pub watching: bool,
    /// Whether the daemon leaves it alone for now.
    pub paused: bool,
    /// The client that changed it last, if the daemon leaves it alone for that.
    pub left_to: Option<String>,
    /// What is wrong with its files, or with what was tried last.
    pub problem: Option<String>,
    /// Whether something is wrong with its files: the last good project goes on.
    pub broken: bool,
    /// Services whose update failed, and why: what ran before runs on.
    pub held: BTreeMap<String, String>,
    /// How it stands with each service.
    pub services: Vec<ServiceInfo>,
    /// Services that programs on the host provide, and the type of each.
    pub providers: BTreeMap<String, String>,
    /// Whether the daemon keeps it up; others are only seen by their labels.
    pub managed: bool,
}

/// A service of a stack.
#[derive(Debug, Clone, Serialize)]
pub struct ServiceInfo {
    /// Its name.
    pub name: String,
    /// The image that it runs.
    pub image: String,
    /// How many containers there should be.
    pub desired: u32,
    /// How many there are and run.
    pub running: u32,
}

/// What a stack was brought to once.
#[derive(Debug, Clone, Serialize)]
pub struct HistoryEntry {
    /// How many versions ago; 0 is the last one.
    pub back: usize,
    /// Milliseconds since the epoch.
    pub at_ms: u64,
    /// How many it had.
    pub services: usize,
    /// What was different from the one before.
    pub changes: Vec<diff::FieldChange>,
}

/// The stacks of an engine. Clones share them.
#[derive(Debug, Clone)]
pub struct Stacks {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    engine: Engine,
    stacks: Mutex<BTreeMap<String, Handle>>,
}

#[derive(Debug)]
struct Handle {
    commands: mpsc::Sender<Command>,
    record: Arc<RwLock<Option<StackRecord>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Stacks {
    /// Takes up the stacks that the store knows; each is brought to what it should be.
    pub async fn open(engine: Engine) -> Result<Self> {
        let records = engine.store().read(|tx| STACKS.all(tx))?;
        let stacks = Self { inner: Arc::new(Inner { engine, stacks: Mutex::new(BTreeMap::new()) }) };
        let mut open = stacks.inner.stacks.lock().await;
        let since = SystemTime::now();
        for (name, mut record) in records {
            // One whose files are not followed stays what it was.
            let loaded = if record.watch { Some(stack::load(&record.request).await) } else { None };
            match loaded {
                None => {}
                Some(Ok(loaded)) if loaded.project.name == name => {
                    let before = record.clone();
                    record.become_edited(loaded.project, loaded.inputs);
                    // What is in memory is what is kept.
                    if !before.is_kept_as(&record) {
                        let write = |tx: &sampan_store::Tx<'_>| STACKS.put(tx, &name, &record);
                        stacks.inner.engine.store().write::<_, sampan_store::StoreError>(Durability::Power, write)?;
                    }
                }
                Some(Ok(_)) => {
                    record.broken = true;
                    record.problem =
                        Some("the files name another project now; the last one that was applied goes on".to_owned())
                }
                Some(Err(broken)) => {
                    record.broken = true;
                    record.problem = Some(format!("{}\nthe last project that was applied goes on", broken.message));
                }
            }
            // After a start of the host nothing is left of what its containers bind.
            let material = desired::material(&record.effective(), &stack::material(&stacks.inner.engine, &name));
            if let Err(error) = material::put(material).await {
                tracing::warn!(stack = name, %error, "configs and secrets of a stack were not put in place");
            }
            let handle = stacks.spawn(&name, Some(record), since);
            open.insert(name, handle);
        }
        drop(open);
        Ok(stacks)
    }

    /// `since`: when the record's files were looked at.
    fn spawn(&self, name: &str, record: Option<StackRecord>, since: SystemTime) -> Handle {
        let record = Arc::new(RwLock::new(record));
        let (commands, receiver) = mpsc::channel(QUEUE);
        let engine = self.inner.engine.clone();
        let material = stack::material(&engine, name);
        let stack = Stack::new(engine, name.to_owned(), Arc::clone(&record), (material, since));
        Handle { commands, record, task: tokio::spawn(stack.run(receiver)) }
    }

    async fn send(&self, name: &str, make: impl FnOnce(Progress) -> Command) -> Result<mpsc::Receiver<StackEvent>> {
        check_name(name)?;
        let (sender, receiver) = mpsc::channel(EVENTS);
        let command = make(Progress::to(sender));
        let mut stacks = self.inner.stacks.lock().await;
        if stacks.get(name).is_some_and(|handle| handle.task.is_finished() || handle.commands.is_closed()) {
            stacks.remove(name);
        }
        let handle = stacks.entry(name.to_owned()).or_insert_with(|| self.spawn(name, None, SystemTime::now()));
        handle
            .commands
            .try_send(command)
            .map_err(|_| Error::unavailable(format!("the stack {name} is busy with other requests; try again")))?;
        Ok(receiver)
    }

    /// `up`: the stack is the daemon's from then on.
    pub async fn up(
        &self,
        name: &str,
        request: StackRequest,
        services: BTreeSet<String>,
        options: StackOptions,
    ) -> Result<mpsc::Receiver<StackEvent>> {
        self.send(name, |progress| Command::Up { request: Box::new(request), services, options, progress }).await
    }

    /// `down`: it is no longer.
    pub async fn down(
        &self,
        name: &str,
        services: BTreeSet<String>,
        options: StackOptions,
    ) -> Result<mpsc::Receiver<StackEvent>> {
        self.send(name, |progress| Command::Down { services, options, progress }).await
    }

    /// Does something to services that are there.
    pub async fn act(
        &self,
        name: &str,
        verb: Verb,
        services: BTreeSet<String>,
        options: StackOptions,
    ) -> Result<mpsc::Receiver<StackEvent>> {
        self.send(name, |progress| Command::Act { verb, services, options, progress }).await
    }

    /// `run`: what a container like a service's own is made from, with all that it needs in place.
    pub async fn pattern(
        &self,
        name: &str,
        request: StackRequest,
        service: String,
        options: StackOptions,
    ) -> Result<mpsc::Receiver<StackEvent>> {
        self.send(name, |progress| Command::Pattern { request: Box::new(request), service, options, progress }).await
    }

    /// `stack pause` and `resume`: whether the daemon leaves a stack alone, its files and its containers.
    pub async fn hold(&self, name: &str, paused: bool) -> Result<mpsc::Receiver<StackEvent>> {
        self.inspect(name).await?;
        self.send(name, |progress| Command::Hold { paused, progress }).await
    }

    /// `stack rollback`: applies again what the stack was brought to before; 1 is the one before the last.
    pub async fn roll_back(&self, name: &str, back: usize) -> Result<mpsc::Receiver<StackEvent>> {
        self.inspect(name).await?;
        self.send(name, |progress| Command::RollBack { back, progress }).await
    }

    /// What a stack was brought to in whole, the newest first.
    pub async fn history(&self, name: &str) -> Result<Vec<HistoryEntry>> {
        self.inspect(name).await?;
        let (store, key) = (self.inner.engine.store().clone(), name.to_owned());
        let read = move || store.read::<_, sampan_store::StoreError>(|tx| stack::versions(tx, &key));
        let history = tokio::task::spawn_blocking(read)
            .await
            .map_err(|error| Error::internal(error.to_string()))?
            .map_err(|error| Error::internal(error.to_string()))?;
        let older = history.iter().skip(1).map(Some).chain([None]);
        let entries = history.iter().zip(older).enumerate();
        Ok(entries
            .map(|(back, (applied, older))| HistoryEntry {
                back,
                at_ms: applied.at_ms,
                services: applied.project.services.len(),
                changes: diff::fields(older.map(|older| &*older.project), &applied.project),
            })
            .collect())
    }

    /// `watch`: follows the files that services' `develop.watch` names, as long as the answer is listened to.
    pub async fn watch(&self, name: &str, services: BTreeSet<String>) -> Result<mpsc::Receiver<StackEvent>> {
        check_name(name)?;
        let record =
            self.records().await.remove(name).ok_or_else(|| Error::not_found(format!("no such stack: {name}")))?;
        if let Some(unknown) = services.iter().find(|service| !record.project.services.contains_key(*service)) {
            return Err(Error::not_found(format!("no such service: {unknown}")));
        }
        let (sender, receiver) = mpsc::channel(EVENTS);
        let progress = Progress::to(sender);
        let watching =
            develop::Watching { engine: self.inner.engine.clone(), name: name.to_owned(), services, progress };
        let stacks = self.clone();
        tokio::spawn(async move {
            let rebuild = |service: String| stacks.rebuild(&record.name, &record.request, service, &watching.progress);
            // Rules that were edited meanwhile hold from the next watch on.
            let result = watching.run(&record.effective(), rebuild).await;
            if let Err(error) = &result {
                watching.progress.error(error.message.clone()).await;
            }
            watching.progress.done(result.is_ok()).await;
        });
        Ok(receiver)
    }

    /// Builds a service's image, and makes its containers anew; whether that went well.
    async fn rebuild(&self, name: &str, request: &StackRequest, service: String, progress: &Progress) -> bool {
        let services = BTreeSet::from([service.clone()]);
        // As many as there are: nobody asked for another number.
        let mut scale = self.records().await.remove(name).map(|record| record.scale).unwrap_or_default();
        scale.retain(|known, _| *known == service);
        let options = StackOptions { build: true, no_deps: true, scale, ..StackOptions::default() };
        let mut events = match self.up(name, request.clone(), services, options).await {
            Ok(events) => events,
            Err(error) => {
                progress.watch(&service, error.message).await;
                return false;
            }
        };
        let mut ok = false;
        while let Some(event) = events.recv().await {
            match event.kind {
                "done" => ok = event.ok.unwrap_or(false),
                "error" => progress.watch(&service, event.message.unwrap_or_default()).await,
                _ => {}
            }
        }
        ok
    }

    /// The stacks that the daemon keeps, and projects that others made.
    pub async fn list(&self) -> Result<Vec<StackInfo>> {
        let records = self.records().await;
        let mut names: BTreeSet<String> = records.keys().cloned().collect();
        let mut filters = sampan_engine::Filters::default();
        filters.add("label", labels::PROJECT);
        filters.add("label", labels::ONEOFF);
        let options = sampan_engine::containers::ListOptions { all: true, filters, ..Default::default() };
        let containers = self.inner.engine.list_containers(options).await?;
        let label = |container: &bollard_stubs::models::ContainerSummary, name: &str| {
            container.labels.as_ref().and_then(|all| all.get(name)).cloned().unwrap_or_default()
        };
        names.extend(containers.iter().map(|container| label(container, labels::PROJECT)));
        let mut all = Vec::new();
        for name in names {
            let own: Vec<_> = containers.iter().filter(|container| label(container, labels::PROJECT) == name).collect();
            let mut states: BTreeMap<String, u32> = BTreeMap::new();
            for container in &own {
                *states.entry(container.state.map(|state| state.to_string()).unwrap_or_default()).or_default() += 1;
            }
            let status: Vec<String> = states.iter().map(|(state, number)| format!("{state}({number})")).collect();
            let record = records.get(&name);
            let running = |service: &str| {
                let of = |container: &&&bollard_stubs::models::ContainerSummary| {
                    label(container, labels::SERVICE) == service
                        && container.state == Some(bollard_stubs::models::ContainerSummaryStateEnum::RUNNING)
                };
                u32::try_from(own.iter().filter(of).count()).unwrap_or(u32::MAX)
            };
            let loops = own.iter().filter_map(|container| {
                let (_, text) = container.status.as_deref()?.split_once("(crash loop, ")?;
                let name = container.names.iter().flatten().next()?.trim_start_matches('/');
                Some(format!("container {name}: crash loop, {}", text.trim_end_matches(')')))
            });
            let trouble: Vec<String> = record.and_then(StackRecord::trouble).into_iter().chain(loops).collect();
            all.push(StackInfo {
                status: status.join(", "),
                config_files: match record {
                    Some(record) => {
                        record.project.compose_files.iter().map(|file| file.display().to_string()).collect()
                    }
                    None => own
                        .first()
                        .map(|container| label(container, labels::CONFIG_FILES))
                        .into_iter()
                        .flat_map(|text| text.split(',').map(str::to_owned).collect::<Vec<_>>())
                        .collect(),
                },
                watching: record.is_some_and(|record| record.watch && !record.paused),
                paused: record.is_some_and(|record| record.paused),
                left_to: record.and_then(|record| record.left_to.clone()),
                problem: (!trouble.is_empty()).then(|| trouble.join("\n")),
                broken: record.is_some_and(|record| record.broken),
                held: record
                    .map(|record| record.held.iter().map(|(name, held)| (name.clone(), held.why.clone())).collect())
                    .unwrap_or_default(),
                services: record
                    .map(|record| {
                        record
                            .project
                            .services
                            .iter()
                            .map(|(service, found)| ServiceInfo {
                                name: service.clone(),
                                image: record.project.image_name(service),
                                desired: record.scale.get(service).copied().unwrap_or_else(|| found.replicas()),
                                running: running(service),
                            })
                            .collect()
                    })
                    .unwrap_or_default(),
                providers: record.map(|record| record.request.provided.kinds()).unwrap_or_default(),
                managed: record.is_some(),
                name,
            });
        }
        Ok(all)
    }

    /// One stack.
    pub async fn inspect(&self, name: &str) -> Result<StackInfo> {
        self.list()
            .await?
            .into_iter()
            .find(|stack| stack.name == name)
            .ok_or_else(|| Error::not_found(format!("no such stack: {name}")))
    }

    /// The normalized project that was applied last.
    pub async fn project(&self, name: &str) -> Result<Arc<sampan_compose::Project>> {
        match self.records().await.remove(name) {
            Some(record) => Ok(record.project),
            None => Err(Error::not_found(format!("no such stack: {name}"))),
        }
    }

    async fn records(&self) -> BTreeMap<String, StackRecord> {
        let stacks = self.inner.stacks.lock().await;
        stacks
            .iter()
            .filter_map(|(name, handle)| {
                let record = handle.record.read().unwrap_or_else(PoisonError::into_inner).clone()?;
                Some((name.clone(), record))
            })
            .collect()
    }

    /// Lets go of every stack; their containers are the engine's business.
    pub async fn shutdown(&self) {
        let stacks = std::mem::take(&mut *self.inner.stacks.lock().await);
        for (_, handle) in stacks {
            let _ = handle.commands.send(Command::Leave).await;
            let _ = tokio::time::timeout(std::time::Duration::from_secs(10), handle.task).await;
        }
    }
}

fn check_name(name: &str) -> Result<()> {
    let good = name.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
        && name.len() <= 128
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_');
    if good {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "invalid project name {name:?}: must consist only of lowercase alphanumeric characters, hyphens, and underscores as well as start with a letter or number"
    )))
}
