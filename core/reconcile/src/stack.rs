//! One stack: its record, its task, and what wakes it.
//!
//! A task owns a stack. It takes requests in order, and between them it wakes when a file or a container of the stack
//! changes. What goes on is cut short when something newer comes: the last request counts.

mod versions;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use sampan_compose::model::Condition;
use sampan_compose::{Loaded, Project};
use sampan_engine::{Engine, Filters};
use sampan_store::{Durability, StoreError};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::desired::{self, DesiredContainer};
use crate::diff;
use crate::execute::{Executor, Outcome};
use crate::host_files::{Fingerprint, HostFiles, fingerprints, written_since};
use crate::images::{self, ImageOptions, Source};
use crate::labels;
use crate::observe::observe;
use crate::observed::Observed;
use crate::plan::{self, Action, DownOptions, Plan, PlanOptions};
use crate::progress::Progress;
use crate::request::{Command, HISTORY, STACKS, StackOptions, StackRecord, StackRequest, Verb};
use crate::watch::{DEBOUNCE, FileWatch};

/// Events of containers within this time are looked at together.
const SETTLE: Duration = Duration::from_millis(50);
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
    backoff: Duration,
}

enum Next {
    Command(Option<Command>),
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
        Self {
            engine,
            name,
            record,
            files: FileWatch::new(sender),
            hints: Some(hints),
            seen: Arc::default(),
            material,
            loaded_at,
            backoff: BACKOFF.0,
        }
    }

    fn record(&self) -> Option<StackRecord> {
        self.record.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_paused(&self) -> bool {
        self.record().is_some_and(|record| record.paused)
    }

    fn set_problem(&self, problem: Option<String>) {
        if let Some(record) = self.record.write().unwrap_or_else(PoisonError::into_inner).as_mut() {
            if let Some(problem) = &problem
                && record.problem.as_ref() != Some(problem)
            {
                tracing::warn!(stack = self.name, "{problem}");
            }
            record.problem = problem;
        }
    }

    /// Serves until the stack is taken down or the daemon ends.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut filters = Filters::default();
        filters.add("type", "container");
        filters.add("label", &format!("{}={}", labels::PROJECT, self.name));
        let Ok(mut events) = self.engine.events_stream(None, None, filters).await else { return };
        let Some(mut hints) = self.hints.take() else { return };
        // A stack that was there before this daemon: its files may have changed meanwhile, its containers ended.
        let mut heal_at = self.record().map(|_| Instant::now());
        if heal_at.is_some() {
            self.follow();
        }
        let mut pending: Option<Command> = None;
        let mut edited = false;
        loop {
            let next = match pending.take() {
                Some(command) => Next::Command(Some(command)),
                None if std::mem::take(&mut edited) => Next::Files,
                None => tokio::select! {
                    biased;
                    command = commands.recv() => Next::Command(command),
                    Some(()) = hints.recv() => Next::Files,
                    Some(event) = events.next() => {
                        let action = event.action.as_deref().unwrap_or_default();
                        if matches!(action, "die" | "destroy" | "rename" | "stop" | "kill") {
                            heal_at.get_or_insert(Instant::now() + SETTLE);
                        }
                        continue;
                    }
                    () = wake(heal_at) => Next::Heal,
                },
            };
            match next {
                Next::Command(None | Some(Command::Leave)) => return,
                Next::Command(Some(command)) => {
                    let left = matches!(&command, Command::Down { services, options, .. } if services.is_empty() && !options.dry_run);
                    let (cancel, cancelled) = watch::channel(false);
                    let gone = unless_newer(self.serve(command, cancelled), &cancel, &mut commands, &mut pending).await;
                    if left && gone {
                        // Whoever waits behind us is told by the closed channel, and begins anew.
                        commands.close();
                        if let Some(
                            Command::Up { progress, .. }
                            | Command::Down { progress, .. }
                            | Command::Act { progress, .. }
                            | Command::Hold { progress, .. }
                            | Command::RollBack { progress, .. },
                        ) = pending.take()
                        {
                            progress.error("the stack was taken down meanwhile; try again".to_owned()).await;
                            progress.done(false).await;
                        }
                        return;
                    }
                    heal_at = None;
                }
                Next::Files | Next::Heal if self.is_paused() => heal_at = None,
                Next::Files => {
                    tokio::time::sleep(DEBOUNCE).await;
                    while hints.try_recv().is_ok() {}
                    let (cancel, cancelled) = watch::channel(false);
                    let edits = Edits::of(&self, &mut hints, &mut edited);
                    let work = edits.over(self.files_changed(cancelled), &cancel);
                    unless_newer(work, &cancel, &mut commands, &mut pending).await;
                }
                Next::Heal => {
                    let (cancel, cancelled) = watch::channel(false);
                    let edits = Edits::of(&self, &mut hints, &mut edited);
                    let work = edits.over(self.heal(cancelled), &cancel);
                    let healed = unless_newer(work, &cancel, &mut commands, &mut pending).await;
                    heal_at = match healed {
                        Healed::Whole => {
                            self.backoff = BACKOFF.0;
                            None
                        }
                        Healed::Mended => {
                            // Look again soon: what was started may end at once. Then the pauses grow.
                            let at = Instant::now() + self.backoff;
                            self.backoff = (self.backoff * 2).min(BACKOFF.1);
                            Some(at)
                        }
                    };
                }
            }
        }
    }

    /// Watches for the files of the record, if it wants that.
    fn follow(&mut self) {
        let Some(record) = self.record() else { return };
        if !record.watch {
            self.files.clear();
            return;
        }
        if let Err(problem) = self.files.set(&record.inputs) {
            tracing::warn!(stack = self.name, "{problem}; edits there show at the next `up`");
        }
        let mut seen = fingerprints(&record.inputs);
        // Written between the loading and the watching: nobody would tell of it.
        if written_since(&record.inputs, self.loaded_at) {
            seen.clear();
            self.files.hint();
        }
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
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
            Command::Hold { paused, progress } => (self.hold(paused, &progress, cancel).await, progress, false),
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
        let gone = ends && ok && self.record().is_none();
        progress.done(ok).await;
        gone
    }

    /// Carries out plans for a listener. Without a project nothing can be made, only ended and removed.
    fn executor(
        &self,
        project: Option<Arc<Project>>,
        progress: &Progress,
        timeout: Option<i64>,
        cancel: watch::Receiver<bool>,
    ) -> Executor {
        Executor {
            engine: self.engine.clone(),
            name: self.name.clone(),
            project,
            desired: Arc::default(),
            progress: progress.clone(),
            timeout,
            renew_anon_volumes: false,
            cancel,
        }
    }

    async fn up(
        &mut self,
        request: StackRequest,
        services: BTreeSet<String>,
        options: &StackOptions,
        progress: &Progress,
        cancel: watch::Receiver<bool>,
    ) -> Result<bool, String> {
        self.loaded_at = SystemTime::now();
        let loaded = load(&request).await?;
        for warning in &loaded.warnings {
            progress.warning(warning.to_string()).await;
        }
        if loaded.project.name != self.name {
            return Err(format!("the files name the project {:?}, the request {:?}", loaded.project.name, self.name));
        }
        if let Some(unknown) =
            services.iter().chain(options.scale.keys()).find(|name| !loaded.project.services.contains_key(*name))
        {
            return Err(format!("no such service: {unknown}"));
        }
        let before = self.record();
        if let Some(before) = &before
            && before.project.working_dir != loaded.project.working_dir
            && before.project.compose_files.iter().any(|file| file.exists())
        {
            return Err(format!(
                "a stack named {} is up already, from {}; give this one another name (-p), or take that one down first (`sampan stack rm {}`)",
                self.name,
                before.project.working_dir.display(),
                self.name
            ));
        }
        let mut record = StackRecord {
            name: self.name.clone(),
            request,
            project: loaded.project,
            inputs: loaded.inputs,
            // Naming services adds to what is up already.
            services: match &before {
                Some(before) if !services.is_empty() && before.services.is_empty() => BTreeSet::new(),
                Some(before) if !services.is_empty() => before.services.union(&services).cloned().collect(),
                _ => services.clone(),
            },
            no_deps: options.no_deps,
            scale: before.as_ref().map(|before| before.scale.clone()).unwrap_or_default(),
            stopped: before.as_ref().map(|before| before.stopped.clone()).unwrap_or_default(),
            watch: options.watch.unwrap_or(true),
            paused: false,
            retired: BTreeSet::new(),
            held: BTreeMap::new(),
            problem: None,
        };
        record.scale.extend(options.scale.clone());
        let named = PlanOptions { services: services.clone(), no_deps: options.no_deps, ..PlanOptions::default() };
        if options.no_start {
            record.stopped.extend(plan::selected(&record.project, &named));
        } else {
            for service in plan::selected(&record.project, &named) {
                record.stopped.remove(&service);
            }
        }
        let project = Arc::new(record.effective());
        let plan_options = PlanOptions {
            services,
            no_deps: options.no_deps,
            force_recreate: options.force_recreate,
            no_recreate: options.no_recreate,
            renew_anon_volumes: options.renew_anon_volumes,
            no_start: options.no_start,
            remove_orphans: options.remove_orphans,
            ..PlanOptions::default()
        };
        let images = ImageOptions { build: options.build, no_build: options.no_build, pull: options.pull.clone() };
        if options.dry_run {
            return self.dry_run(&project, &plan_options, &images, progress).await;
        }
        // The intent is kept before anything is done: a daemon that dies meanwhile goes on with it.
        self.keep(record).await?;
        self.follow();
        let whole = plan_options.services.is_empty();
        let outcome = self.apply(&project, plan_options, &images, progress, cancel.clone(), options.timeout_s).await?;
        let outcome = self.settle(outcome, whole, progress, cancel.clone()).await;
        outcome.tell(progress).await;
        if outcome.cancelled {
            progress.error("something newer was asked for".to_owned()).await;
        }
        self.set_problem((!outcome.failures.is_empty()).then(|| outcome.failures.join("\n")));
        let mut ok = outcome.ok();
        if ok && options.wait {
            ok = self.wait(&project, options, progress, cancel).await;
        }
        Ok(ok)
    }

    async fn dry_run(
        &self,
        project: &Project,
        options: &PlanOptions,
        images: &ImageOptions,
        progress: &Progress,
    ) -> Result<bool, String> {
        let services = plan::selected(project, options);
        let observed = self.observe(project, &services).await?;
        let present = observed.images.keys().cloned().collect();
        let mut lines: Vec<String> = images::decide(project, &services, &present, images)?
            .into_iter()
            .filter_map(|(service, source)| {
                let image = project.image_name(&service);
                match source {
                    Source::Present => None,
                    Source::Build => Some(format!("build image {image}")),
                    Source::Pull => Some(format!("pull image {image}")),
                    Source::PullOrBuild => Some(format!("pull or build image {image}")),
                }
            })
            .collect();
        let plan = self.plan(project, &observed, options)?;
        lines.extend(plan.nodes.iter().map(|node| node.action.to_string()));
        for warning in plan.warnings {
            progress.warning(warning).await;
        }
        let before = self.record().map(|record| record.project);
        progress.plan(lines, diff::fields(before.as_ref(), project)).await;
        Ok(true)
    }

    async fn observe(&self, project: &Project, services: &[String]) -> Result<Observed, String> {
        let images = services.iter().map(|service| project.image_name(service)).collect();
        observe(&self.engine, &self.name, &images).await.map_err(|error| error.message)
    }

    fn desired(
        &self,
        project: &Project,
        services: &[String],
    ) -> Result<BTreeMap<String, Vec<DesiredContainer>>, String> {
        let held = self.record().map(|record| record.held).unwrap_or_default();
        let mut all = BTreeMap::new();
        for service in services {
            let Some(found) = project.services.get(service) else { continue };
            // A service that was rolled back is as its project of then said, secrets and all.
            let back = held.get(service).and_then(|held| held.back.as_ref()).map(|back| &back.project);
            let containers = (1..=found.replicas())
                .map(|number| desired::container(back.unwrap_or(project), service, number, &self.material))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| error.to_string())?;
            all.insert(service.clone(), containers);
        }
        Ok(all)
    }

    fn plan(&self, project: &Project, observed: &Observed, options: &PlanOptions) -> Result<Plan, String> {
        let services = plan::selected(project, options);
        let desired = self.desired(project, &services)?;
        plan::up(project, &desired, observed, options).map_err(|error| error.to_string())
    }

    /// Brings images, plans, and carries the plan out.
    async fn apply(
        &self,
        project: &Arc<Project>,
        mut options: PlanOptions,
        images: &ImageOptions,
        progress: &Progress,
        cancel: watch::Receiver<bool>,
        timeout: Option<i64>,
    ) -> Result<Outcome, String> {
        options.frozen = self.frozen();
        let services = plan::selected(project, &options);
        let mut observed = self.observe(project, &services).await?;
        let present: BTreeSet<String> = observed.images.keys().cloned().collect();
        let mut failures = Vec::new();
        let mut lacking = BTreeSet::new();
        let sources = images::decide(project, &services, &present, images)?;
        let mut work: FuturesUnordered<_> = sources
            .iter()
            .filter(|(_, source)| **source != Source::Present)
            .map(|(service, source)| async move {
                (service, images::provide(&self.engine, project, service, *source, progress).await)
            })
            .collect();
        let brought = !work.is_empty();
        while let Some((service, result)) = work.next().await {
            if let Err(error) = result {
                failures.push(error.message);
                lacking.insert(service.clone());
            }
        }
        drop(work);
        if brought {
            observed = self.observe(project, &services).await?;
        }
        let desired = Arc::new(self.desired(project, &services)?);
        let mut plan = plan::up(project, &desired, &observed, &options).map_err(|error| error.to_string())?;
        if !lacking.is_empty() {
            plan.leave_out(&lacking);
        }
        for warning in &plan.warnings {
            progress.warning(warning.clone()).await;
        }
        let executor = Executor {
            desired,
            renew_anon_volumes: options.renew_anon_volumes,
            ..self.executor(Some(Arc::clone(project)), progress, timeout, cancel)
        };
        if !plan.is_empty() {
            tracing::info!(stack = self.name, actions = plan.nodes.len(), "applying\n{plan}");
        }
        let mut outcome = executor.run(&plan).await;
        failures.append(&mut outcome.failures);
        outcome.failures = failures;
        Ok(outcome)
    }

    /// `--wait`: until every service runs, and is healthy where it can tell.
    async fn wait(
        &self,
        project: &Arc<Project>,
        options: &StackOptions,
        progress: &Progress,
        cancel: watch::Receiver<bool>,
    ) -> bool {
        let executor = self.executor(Some(Arc::clone(project)), progress, None, cancel);
        let all = async {
            let mut ok = true;
            for (name, service) in &project.services {
                if service.replicas() == 0 {
                    continue;
                }
                let checked = service.healthcheck.as_ref().is_some_and(|check| !check.disable);
                let condition = if checked { Condition::Healthy } else { Condition::Started };
                match executor.wait_for(name, condition).await {
                    Ok(()) => {
                        progress
                            .action(
                                format!("Service {name}"),
                                Some(name),
                                if checked { "Healthy" } else { "Running" },
                                None,
                            )
                            .await
                    }
                    Err(error) => {
                        progress.error(error.message).await;
                        ok = false;
                    }
                }
            }
            ok
        };
        match options.wait_timeout_s {
            None => all.await,
            Some(seconds) => match tokio::time::timeout(Duration::from_secs(seconds), all).await {
                Ok(ok) => ok,
                Err(_) => {
                    progress.error(format!("the stack was not up within {seconds} seconds")).await;
                    false
                }
            },
        }
    }

    async fn down(
        &mut self,
        services: BTreeSet<String>,
        options: &StackOptions,
        progress: &Progress,
        cancel: watch::Receiver<bool>,
    ) -> Result<bool, String> {
        let record = self.record();
        let project = record.as_ref().map(|record| record.project.clone());
        let observed = observe(&self.engine, &self.name, &BTreeSet::new()).await.map_err(|error| error.message)?;
        let down = DownOptions {
            services: services.clone(),
            volumes: options.volumes,
            remove_orphans: options.remove_orphans,
        };
        let plan = plan::down(&self.name, project.as_ref(), &observed, &down);
        if options.dry_run {
            progress.plan(plan.nodes.iter().map(|node| node.action.to_string()).collect(), Vec::new()).await;
            return Ok(true);
        }
        if services.is_empty() {
            // From here on the daemon no longer keeps it up, whatever comes between.
            self.files.clear();
            self.forget().await?;
        } else if let Some(mut record) = record.clone() {
            record.stopped.extend(services);
            self.keep(record).await?;
        }
        let executor = self.executor(project.clone().map(Arc::new), progress, options.timeout_s, cancel);
        let outcome = executor.run(&plan).await;
        outcome.tell(progress).await;
        if outcome.ok() && down.services.is_empty() {
            if let (Some(which), Some(project)) = (&options.rmi, &project) {
                self.remove_images(project, which == "local", progress).await;
            }
            let folder = self.material.clone();
            let _ = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(folder)).await;
        }
        Ok(outcome.ok())
    }

    async fn remove_images(&self, project: &Project, local: bool, progress: &Progress) {
        for (name, service) in &project.services {
            if local && !service.image.is_empty() {
                continue;
            }
            let image = project.image_name(name);
            match self.engine.remove_image(&image, false, false).await {
                Ok(_) => progress.action(format!("Image {image}"), Some(name), "Removed", None).await,
                Err(error) => progress.warning(error.message).await,
            }
        }
    }

    async fn act(
        &mut self,
        verb: Verb,
        services: BTreeSet<String>,
        options: &StackOptions,
        progress: &Progress,
        cancel: watch::Receiver<bool>,
    ) -> Result<bool, String> {
        let Some(mut record) = self.record() else {
            return Err(format!("there is no stack {}; bring it up first (`sampan up`)", self.name));
        };
        if let Some(unknown) = services.iter().find(|name| !record.project.services.contains_key(*name)) {
            return Err(format!("no such service: {unknown}"));
        }
        let all: BTreeSet<String> = record.project.services.keys().cloned().collect();
        let named = if services.is_empty() { all } else { services };
        match verb {
            Verb::Build | Verb::Pull => return self.bring(&record.project, &named, verb, progress).await,
            Verb::Start => {
                record.stopped.retain(|service| !named.contains(service));
                let project = Arc::new(record.effective());
                self.keep(record).await?;
                let options = PlanOptions { services: named, no_recreate: true, ..PlanOptions::default() };
                let outcome = self.apply(&project, options, &ImageOptions::default(), progress, cancel, None).await?;
                outcome.tell(progress).await;
                return Ok(outcome.ok());
            }
            Verb::Stop => {
                record.stopped.extend(named.iter().cloned());
                self.keep(record.clone()).await?;
            }
            _ => {}
        }
        let observed = observe(&self.engine, &self.name, &BTreeSet::new()).await.map_err(|error| error.message)?;
        let order = desired::order(&record.project);
        let mut containers: Vec<_> = observed
            .containers
            .iter()
            .filter(|container| named.contains(&container.service) && !container.oneoff)
            .collect();
        containers
            .sort_by_key(|container| (order.iter().position(|name| *name == container.service), container.number));
        let mut ok = true;
        if verb == Verb::Stop {
            let down = DownOptions { services: named, ..DownOptions::default() };
            let mut plan = plan::down(&self.name, Some(&record.project), &observed, &down);
            plan.keep_only(|action| matches!(action, Action::Stop { .. }));
            let outcome = self.executor(None, progress, options.timeout_s, cancel).run(&plan).await;
            outcome.tell(progress).await;
            return Ok(outcome.ok());
        }
        for container in containers {
            let id = container.id.as_str();
            let (result, status) = match verb {
                Verb::Restart => (self.engine.restart(id, None, options.timeout_s).await, "Started"),
                Verb::Kill if container.status.is_alive() => {
                    (self.engine.kill(id, options.signal.as_deref()).await, "Killed")
                }
                Verb::Pause if container.status.is_alive() => (self.engine.pause(id).await, "Paused"),
                Verb::Unpause if container.status == crate::observed::Status::Paused => {
                    (self.engine.unpause(id).await, "Unpaused")
                }
                Verb::Remove if !container.status.is_alive() => {
                    let options = sampan_engine::containers::RemoveOptions {
                        force: false,
                        volumes: options.volumes,
                        link: false,
                    };
                    (self.engine.remove(id, options).await, "Removed")
                }
                _ => continue,
            };
            let name = format!("Container {}", container.name);
            match result {
                Ok(()) => progress.action(name, Some(&container.service), status, None).await,
                Err(error) => {
                    ok = false;
                    progress.error(format!("{name}: {error}")).await;
                }
            }
        }
        Ok(ok)
    }

    async fn bring(
        &self,
        project: &Project,
        services: &BTreeSet<String>,
        verb: Verb,
        progress: &Progress,
    ) -> Result<bool, String> {
        let mut ok = true;
        for service in services {
            let Some(found) = project.services.get(service) else { continue };
            let source = match verb {
                Verb::Build if found.build.is_some() => Source::Build,
                Verb::Pull if found.build.is_none() => Source::Pull,
                _ => continue,
            };
            if let Err(error) = images::provide(&self.engine, project, service, source, progress).await {
                progress.error(error.message).await;
                ok = false;
            }
        }
        Ok(ok)
    }

    /// Leaves the stack alone, or takes it up again with what its files say by now.
    async fn hold(&mut self, paused: bool, progress: &Progress, cancel: watch::Receiver<bool>) -> Result<bool, String> {
        let Some(record) = self.record() else { return Err(format!("there is no stack {}", self.name)) };
        self.keep(StackRecord { paused, ..record }).await?;
        progress.action(format!("Stack {}", self.name), None, if paused { "Paused" } else { "Resumed" }, None).await;
        if !paused {
            self.files_changed(cancel.clone()).await;
            self.heal(cancel).await;
        }
        Ok(true)
    }

    /// A file may have changed: load anew, and apply what is different. A broken file changes nothing.
    async fn files_changed(&mut self, cancel: watch::Receiver<bool>) {
        let Some(record) = self.record() else { return };
        let inputs = record.inputs.clone();
        let Ok(now) = tokio::task::spawn_blocking(move || fingerprints(&inputs)).await else { return };
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if now == *seen {
                return;
            }
            *seen = now;
        }
        self.loaded_at = SystemTime::now();
        let loaded = match load(&record.request).await {
            Ok(loaded) => loaded,
            Err(broken) => {
                // What a new include names may be what is broken.
                let inputs: BTreeSet<PathBuf> = record.inputs.iter().cloned().chain(broken.inputs).collect();
                if let Some(record) = self.record.write().unwrap_or_else(PoisonError::into_inner).as_mut() {
                    record.inputs = inputs.into_iter().collect();
                }
                self.follow();
                self.set_problem(Some(broken.message));
                return;
            }
        };
        if loaded.project.name != self.name {
            self.set_problem(Some(format!(
                "the files now name the project {:?}; take this one down and bring that one up",
                loaded.project.name
            )));
            return;
        }
        let mut next = record;
        next.become_edited(loaded.project, loaded.inputs);
        tracing::info!(stack = self.name, "the files have changed");
        let project = Arc::new(next.effective());
        let options = next.healing();
        if let Err(problem) = self.keep(next).await {
            self.set_problem(Some(problem));
            return;
        }
        self.follow();
        let whole = options.services.is_empty();
        let quiet = Progress::default();
        let result = self.apply(&project, options, &ImageOptions::default(), &quiet, cancel.clone(), None).await;
        let problem = match result {
            Ok(outcome) => {
                let outcome = self.settle(outcome, whole, &quiet, cancel).await;
                (!outcome.failures.is_empty()).then(|| outcome.failures.join("\n"))
            }
            Err(problem) => Some(problem),
        };
        self.set_problem(problem);
    }

    /// Makes the containers as they should be, leaving alone what ended as it was meant to.
    async fn heal(&mut self, cancel: watch::Receiver<bool>) -> Healed {
        let Some(record) = self.record() else { return Healed::Whole };
        let project = Arc::new(record.effective());
        let options = PlanOptions { frozen: self.frozen(), ..record.healing() };
        let services = plan::selected(&project, &options);
        let needed = match self.observe(&project, &services).await {
            Ok(observed) => self.plan(&project, &observed, &options).map(|plan| !plan.is_empty()),
            Err(problem) => Err(problem),
        };
        match needed {
            Ok(false) => Healed::Whole,
            Ok(true) => {
                let whole = options.services.is_empty();
                let quiet = Progress::default();
                let images = ImageOptions::default();
                let result = self.apply(&project, options, &images, &quiet, cancel.clone(), None).await;
                let result = match result {
                    Ok(outcome) => Ok(self.settle(outcome, whole, &quiet, cancel).await),
                    Err(problem) => Err(problem),
                };
                match result {
                    Ok(outcome) if outcome.failures.is_empty() => {}
                    Ok(outcome) => self.set_problem(Some(outcome.failures.join("\n"))),
                    Err(problem) => self.set_problem(Some(problem)),
                }
                Healed::Mended
            }
            Err(problem) => {
                self.set_problem(Some(problem));
                Healed::Mended
            }
        }
    }

    async fn keep(&self, record: StackRecord) -> Result<(), String> {
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
                HISTORY.delete(tx, &name)?;
                STACKS.delete(tx, &name)
            })
        };
        tokio::task::spawn_blocking(write)
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        *self.record.write().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }
}

enum Healed {
    /// There was nothing to do.
    Whole,
    /// Something was done, or tried.
    Mended,
}

/// Edits of the files while something goes on: it is told to come to its end, as it is outdated.
struct Edits<'a> {
    hints: &'a mut mpsc::Receiver<()>,
    edited: &'a mut bool,
    record: Arc<RwLock<Option<StackRecord>>>,
    seen: Arc<Mutex<BTreeMap<PathBuf, Fingerprint>>>,
}

impl<'a> Edits<'a> {
    fn of(stack: &Stack, hints: &'a mut mpsc::Receiver<()>, edited: &'a mut bool) -> Self {
        Self { hints, edited, record: Arc::clone(&stack.record), seen: Arc::clone(&stack.seen) }
    }

    async fn over<T>(self, work: impl Future<Output = T>, cancel: &watch::Sender<bool>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                Some(()) = self.hints.recv(), if !*self.edited => {
                    tokio::select! {
                        done = &mut work => {
                            *self.edited = true;
                            return done;
                        }
                        () = tokio::time::sleep(DEBOUNCE) => {}
                    }
                    let record = self.record.read().unwrap_or_else(PoisonError::into_inner).clone();
                    let inputs = record.map(|record| record.inputs).unwrap_or_default();
                    let now = tokio::task::spawn_blocking(move || fingerprints(&inputs)).await.unwrap_or_default();
                    // Something else in the same folder is no edit.
                    if now != *self.seen.lock().unwrap_or_else(PoisonError::into_inner) {
                        *self.edited = true;
                        let _ = cancel.send(true);
                    }
                }
            }
        }
    }
}

/// Does work to its end. What is asked for meanwhile is kept for next, and the work is told to come to its end soon: the
/// last request counts, and a second one behind it waits its turn in the channel.
async fn unless_newer<T>(
    work: impl Future<Output = T>,
    cancel: &watch::Sender<bool>,
    commands: &mut mpsc::Receiver<Command>,
    pending: &mut Option<Command>,
) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            newer = commands.recv(), if pending.is_none() => {
                *pending = Some(newer.unwrap_or(Command::Leave));
                let _ = cancel.send(true);
            }
        }
    }
}

async fn wake(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Why a project cannot be loaded, and the files that have a part in it.
pub(crate) struct Broken {
    pub message: String,
    pub inputs: Vec<PathBuf>,
}

impl From<Broken> for String {
    fn from(broken: Broken) -> Self {
        broken.message
    }
}

/// Loads on a thread that may block.
pub(crate) async fn load(request: &StackRequest) -> Result<Loaded, Broken> {
    let options = request.load_options();
    match tokio::task::spawn_blocking(move || sampan_compose::load(&options, &HostFiles)).await {
        Ok(Ok(loaded)) => Ok(loaded),
        Ok(Err(diagnostics)) => Err(Broken { message: diagnostics.to_string(), inputs: diagnostics.inputs.clone() }),
        Err(error) => Err(Broken { message: format!("load the project: {error}"), inputs: Vec::new() }),
    }
}

/// The folder for the texts of configs and secrets of a stack.
pub(crate) fn material(engine: &Engine, name: &str) -> PathBuf {
    Path::join(&engine.config().root, "stacks").join(name)
}
