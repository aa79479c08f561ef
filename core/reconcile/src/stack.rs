//! One stack: its record, its task, and what wakes it.
//!
//! A task owns a stack. It takes requests in order, and between them it wakes when a file or a container of the stack
//! changes. What goes on is cut short when something newer comes: the last request counts.

mod applying;
mod foreign;
mod healing;
mod one_off;
mod patience;
mod reading;
mod requests;
mod versions;
mod waiting;
mod yielding;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use bollard_stubs::models::{EventMessage, EventMessageTypeEnum};
use futures_util::{FutureExt, StreamExt};
use sampan_compose::Project;
use sampan_engine::{Engine, Filters};
use sampan_store::{Durability, StoreError};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::desired;
use crate::execute::Executor;
use crate::host_files::{Fingerprint, fingerprints, written_since};
use crate::labels;
use crate::progress::Progress;
use crate::request::{Bounds, Command, HISTORY, STACKS, StackRecord};
use crate::watch::{DEBOUNCE, FileWatch};
use applying::Reckoned;
use patience::Patience;
use reading::Reading;
pub(crate) use reading::load;
pub(crate) use versions::versions;
use waiting::{Edited, Edits, unless_newer, wake};

/// Events of containers within this time are looked at together.
const SETTLE: Duration = Duration::from_millis(50);
/// Mending that is late by so much comes before files that may have changed.
const OVERDUE: Duration = Duration::from_secs(1);
/// First and longest pause between attempts to mend what keeps failing.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What a stack's task works with.
pub(crate) struct Stack {
    engine: Engine,
    name: String,
    /// None until the first `up` has succeeded in loading.
    record: Arc<RwLock<Option<StackRecord>>>,
    files: FileWatch,
    hints: Option<mpsc::Receiver<()>>,
    /// Of the inputs, when they were last looked at.
    seen: Arc<Mutex<BTreeMap<PathBuf, Fingerprint>>>,
    /// Folder for the texts of configs and secrets.
    material: PathBuf,
    /// Just before the files were loaded last.
    loaded_at: SystemTime,
    /// What they were for the last `up`.
    reading: Option<Reading>,
    backoff: Duration,
    /// What is wrong with the files.
    broken: Option<String>,
    /// What could not be done, and is to be tried again.
    failing: Option<String>,
    patience: Patience,
    /// The project's volumes that were seen.
    volumes: BTreeSet<String>,
    /// The version that was reached last, once it is known.
    reached: Mutex<Option<Arc<Project>>>,
    /// The plan that was told last.
    told: Mutex<String>,
    /// The containers that were reckoned last.
    reckoned: Mutex<Option<Reckoned>>,
}

enum Next {
    Command(Option<Box<Command>>),
    Files,
    Heal,
}

impl Stack {
    pub(crate) fn new(
        engine: Engine,
        name: String,
        record: Arc<RwLock<Option<StackRecord>>>,
        (material, loaded_at): (PathBuf, SystemTime),
    ) -> Self {
        let (sender, hints) = mpsc::channel(1);
        let broken =
            record.read().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(|known| known.problem.clone());
        Self {
            engine,
            name,
            record,
            files: FileWatch::new(sender),
            hints: Some(hints),
            seen: Arc::default(),
            material,
            loaded_at,
            reading: None,
            backoff: BACKOFF.0,
            broken,
            failing: None,
            patience: Patience::default(),
            volumes: BTreeSet::new(),
            reached: Mutex::default(),
            told: Mutex::default(),
            reckoned: Mutex::default(),
        }
    }

    fn record(&self) -> Option<StackRecord> {
        self.record.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is asked of the record, which is too large to be copied for each question.
    fn look<T>(&self, ask: impl FnOnce(&StackRecord) -> T) -> Option<T> {
        self.record.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(ask)
    }

    fn is_paused(&self) -> bool {
        self.look(|record| record.paused).unwrap_or(false)
    }

    /// Notes what is wrong with the files, or that nothing is.
    fn set_broken(&mut self, broken: Option<String>) {
        self.broken = broken;
        self.tell_problem();
    }

    /// Notes what could not be done, or that all is.
    fn set_failing(&mut self, failing: Option<String>) {
        self.failing = failing;
        self.tell_problem();
    }

    /// Tells what is wrong, or that nothing is any more: in the log and as an event.
    fn tell_problem(&self) {
        let all: Vec<&str> = self.broken.iter().chain(&self.failing).map(String::as_str).collect();
        let problem = (!all.is_empty()).then(|| all.join("\n"));
        let mut record = self.record.write().unwrap_or_else(PoisonError::into_inner);
        let Some(record) = record.as_mut().filter(|record| record.problem != problem) else { return };
        record.problem.clone_from(&problem);
        record.broken = self.broken.is_some();
        if let Some(problem) = &problem {
            tracing::warn!(stack = self.name, "{problem}");
        }
        let attribute = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let mut attributes = vec![attribute("name", &self.name), attribute(labels::PROJECT, &self.name)];
        attributes.extend(problem.as_ref().map(|problem| attribute("problem", &problem.replace('\n', "; "))));
        // Docker knows no stacks: their files are what is told of.
        let action = if problem.is_some() { "broken" } else { "mended" };
        self.engine.tell(EventMessageTypeEnum::CONFIG, action, &self.name, attributes);
    }

    /// Serves until the stack is taken down or the daemon ends.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut filters = Filters::default();
        filters.add("type", "container");
        filters.add("label", &format!("{}={}", labels::PROJECT, self.name));
        let Ok(mut events) = self.engine.events_stream(None, None, filters).await else { return };
        let mut filters = Filters::default();
        for kind in ["network", "volume"] {
            filters.add("type", kind);
        }
        let Ok(mut resources) = self.engine.events_stream(None, None, filters).await else { return };
        let Some(mut hints) = self.hints.take() else { return };
        // A stack that was there before this daemon: its files may have changed meanwhile, its containers ended.
        let mut heal_at = self.look(|_| Instant::now());
        if heal_at.is_some() {
            self.follow();
        }
        let mut pending: Option<Command> = None;
        let mut edited = Edited::No;
        loop {
            while let Some(Some(event)) = events.next().now_or_never() {
                if self.concerns(&event) {
                    heal_at = sooner(heal_at, SETTLE);
                }
            }
            let overdue = heal_at.is_some_and(|at| at + OVERDUE <= Instant::now());
            let next = match pending.take() {
                Some(command) => Next::Command(Some(Box::new(command))),
                None if edited == Edited::Surely => Next::Files,
                // Who writes beside the files all the time keeps nobody from being mended.
                None if overdue => Next::Heal,
                None if edited == Edited::Perhaps => Next::Files,
                None => tokio::select! {
                    biased;
                    command = commands.recv() => Next::Command(command.map(Box::new)),
                    Some(()) = hints.recv() => Next::Files,
                    Some(event) = events.next() => {
                        if self.concerns(&event) {
                            heal_at = sooner(heal_at, SETTLE);
                        }
                        continue;
                    }
                    Some(event) = resources.next() => {
                        if self.misses(&event) {
                            heal_at = sooner(heal_at, SETTLE);
                        }
                        continue;
                    }
                    () = wake(heal_at) => Next::Heal,
                },
            };
            match next {
                Next::Command(None) => return,
                Next::Command(Some(command)) if matches!(*command, Command::Leave) => return,
                Next::Command(Some(command)) => {
                    let resumes = matches!(&*command, Command::Hold { paused: false, .. });
                    let left = matches!(&*command, Command::Down { services, options, .. } if services.is_empty() && !options.dry_run);
                    let (cancel, cancelled) = watch::channel(false);
                    let gone =
                        unless_newer(self.serve(*command, cancelled), &cancel, &mut commands, &mut pending).await;
                    let cut = *cancel.borrow();
                    if left && gone {
                        // Whoever waits behind us is told by the closed channel, and begins anew.
                        commands.close();
                        if let Some(
                            Command::Up { progress, .. }
                            | Command::Down { progress, .. }
                            | Command::Act { progress, .. }
                            | Command::Pattern { progress, .. }
                            | Command::Hold { progress, .. }
                            | Command::Yield { progress, .. }
                            | Command::RollBack { progress, .. },
                        ) = pending.take()
                        {
                            progress.error("the stack was taken down meanwhile; try again".to_owned()).await;
                            progress.done(false).await;
                        }
                        return;
                    }
                    self.backoff = BACKOFF.0;
                    // Whoever waits for a later start still does. What was cut short may have nobody else who ends it.
                    if cut || resumes || heal_at.is_some() {
                        heal_at = sooner(None, SETTLE);
                    } else if self.failing.is_some() {
                        // The user may want to look at what failed: it is not tried again at once for its own events.
                        while let Some(Some(_)) = events.next().now_or_never() {}
                        heal_at = sooner(None, self.backoff);
                    }
                }
                Next::Files | Next::Heal if self.is_paused() => {
                    (heal_at, edited) = (None, Edited::No);
                    self.forget_if_gone().await;
                }
                Next::Files => {
                    tokio::time::sleep(DEBOUNCE).await;
                    while hints.try_recv().is_ok() {}
                    edited = Edited::No;
                    let (cancel, cancelled) = watch::channel(false);
                    let edits = Edits::of(&self, &mut hints, &mut edited);
                    let work = edits.over(self.files_changed(cancelled), &cancel);
                    let healed = unless_newer(work, &cancel, &mut commands, &mut pending).await;
                    if *cancel.borrow() {
                        heal_at = sooner(heal_at, SETTLE);
                    }
                    if healed.failed {
                        heal_at = sooner(heal_at, self.backoff);
                    }
                    heal_at = earlier(heal_at, healed.again);
                }
                Next::Heal => {
                    let (cancel, cancelled) = watch::channel(false);
                    let edits = Edits::of(&self, &mut hints, &mut edited);
                    let work = edits.over(self.heal(cancelled), &cancel);
                    let healed = unless_newer(work, &cancel, &mut commands, &mut pending).await;
                    heal_at = healed.again;
                    if *cancel.borrow() {
                        heal_at = sooner(heal_at, SETTLE);
                    }
                    if healed.failed {
                        // What was tried has told events, too: they are no reason to try at once. The pauses grow.
                        while healed.acted
                            && let Some(Some(_)) = events.next().now_or_never()
                        {}
                        heal_at = sooner(heal_at, self.backoff);
                        self.backoff = (self.backoff * 2).min(BACKOFF.1);
                    } else {
                        self.backoff = BACKOFF.0;
                    }
                }
            }
        }
    }

    /// Whether something may have to be mended after an event of one of the stack's containers.
    fn concerns(&self, event: &EventMessage) -> bool {
        match event.action.as_deref().unwrap_or_default() {
            "die" | "destroy" | "rename" | "stop" | "kill" | "update" => true,
            // Others may have to follow.
            "start" => {
                let follows = |record: &StackRecord| {
                    let mut needs =
                        record.project.services.values().flat_map(|service| desired::needs(service).into_values());
                    needs.any(|(_, restart, _)| restart)
                };
                self.look(follows).unwrap_or(false)
            }
            action => action.starts_with("health_status"),
        }
    }

    /// Whether an event takes one of the project's networks or volumes away.
    fn misses(&self, event: &EventMessage) -> bool {
        if !matches!(event.action.as_deref(), Some("destroy" | "disconnect")) {
            return false;
        }
        let actor = event.actor.clone().unwrap_or_default();
        let name = actor.attributes.and_then(|all| all.get("name").cloned()).or(actor.id).unwrap_or_default();
        let is_ours = |record: &StackRecord| {
            record.project.networks.values().any(|network| network.name == name)
                || record.project.volumes.values().any(|volume| volume.name == name)
        };
        self.look(is_ours).unwrap_or(false)
    }

    /// Watches for the files of the record, if it wants that.
    fn follow(&mut self) {
        let Some((watch, inputs)) = self.look(|record| (record.watch, record.inputs.clone())) else { return };
        if !watch {
            self.files.clear();
            return;
        }
        if let Err(problem) = self.files.set(&inputs) {
            tracing::warn!(stack = self.name, "{problem}; edits there show at the next `up`");
        }
        let mut now = fingerprints(&inputs);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // Written or put in place between the loading and the watching: nobody would tell of it.
        let other = |(path, found): (&PathBuf, &Fingerprint)| seen.get(path).is_some_and(|before| before != found);
        if written_since(&inputs, self.loaded_at) || now.iter().any(other) {
            now.clear();
            self.files.hint();
        }
        *seen = now;
    }

    /// Watches anew where a directory has become another one of the same name.
    fn rewatch(&mut self) {
        let Some(inputs) = self.look(|record| record.watch.then(|| record.inputs.clone())).flatten() else { return };
        match self.files.set(&inputs) {
            Ok(false) => {}
            // What was saved in between is seen by another look.
            Ok(true) => self.files.hint(),
            Err(problem) => tracing::warn!(stack = self.name, "{problem}; edits there show at the next `up`"),
        }
    }

    /// Serves a request; whether the stack is gone after it.
    async fn serve(&mut self, command: Command, cancel: watch::Receiver<bool>) -> bool {
        let (result, progress, ends) = match command {
            Command::Up { request, services, options, progress } => {
                (self.up(*request, services, &options, &progress, cancel).await, progress, false)
            }
            Command::Down { services, options, progress } => {
                (self.down(services, &options, &progress, cancel).await, progress, true)
            }
            Command::Act { verb, services, options, progress } => {
                (self.act(verb, services, &options, &progress, cancel).await, progress, false)
            }
            Command::Pattern { request, service, options, progress } => {
                (self.pattern(&request, &service, &options, &progress, cancel).await, progress, false)
            }
            Command::Hold { paused, progress } => (self.hold(paused, &progress, cancel).await, progress, false),
            Command::Yield { by, progress } => (self.make_way(by, &progress).await, progress, false),
            Command::RollBack { back, progress } => (self.roll_back(back, &progress, cancel).await, progress, false),
            Command::Leave => return false,
        };
        let ok = match result {
            Ok(ok) => ok,
            Err(message) => {
                progress.error(message).await;
                false
            }
        };
        let gone = ends && ok && self.look(|_| ()).is_none();
        progress.done(ok).await;
        gone
    }

    /// What is planned next is news, whether it reads as what was planned before or not.
    fn begin_anew(&self) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Carries out plans for a listener. Without a project nothing can be made, only ended and removed.
    fn executor(
        &self,
        project: Option<Arc<Project>>,
        progress: &Progress,
        bounds: Bounds,
        cancel: watch::Receiver<bool>,
    ) -> Executor {
        Executor {
            engine: self.engine.clone(),
            name: self.name.clone(),
            project,
            desired: Arc::default(),
            before: Arc::default(),
            progress: progress.clone(),
            bounds,
            renew_anon_volumes: false,
            remove_volumes: false,
            waits: true,
            cancel,
        }
    }

    /// Keeps the record; what is wrong is another matter ([`Self::tell_problem`]).
    async fn keep(&self, mut record: StackRecord) -> Result<(), String> {
        (record.problem, record.broken) = self.look(|known| (known.problem.clone(), known.broken)).unwrap_or_default();
        // A second `up` of the same files changes nothing.
        if self.look(|known| known.is_kept_as(&record)).unwrap_or(false) {
            *self.record.write().unwrap_or_else(PoisonError::into_inner) = Some(record);
            return Ok(());
        }
        let store = self.engine.store().clone();
        let kept = record.clone();
        let write = move || store.write::<_, StoreError>(Durability::Power, |tx| STACKS.put(tx, &kept.name, &kept));
        tokio::task::spawn_blocking(write)
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        *self.record.write().unwrap_or_else(PoisonError::into_inner) = Some(record);
        Ok(())
    }

    async fn forget(&self) -> Result<(), String> {
        let (store, name) = (self.engine.store().clone(), self.name.clone());
        let write = move || {
            store.write::<_, StoreError>(Durability::Power, |tx| {
                for key in HISTORY.keys(tx, &format!("{name}/"))? {
                    HISTORY.delete(tx, &key)?;
                }
                STACKS.delete(tx, &name)
            })
        };
        tokio::task::spawn_blocking(write)
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        *self.record.write().unwrap_or_else(PoisonError::into_inner) = None;
        *self.reached.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }
}

/// In a while, or when it was to be before.
fn sooner(at: Option<Instant>, wait: Duration) -> Option<Instant> {
    let next = Instant::now() + wait;
    Some(at.map_or(next, |at| at.min(next)))
}

/// The earlier of two moments, of which there need not be any.
fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

/// The folder for the configs and secrets of a stack.
pub(crate) fn material(engine: &Engine, name: &str) -> PathBuf {
    engine.config().run.join("stacks").join(name)
}
