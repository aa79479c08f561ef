//! What is asked of a stack: `up`, `down`, `start`, `stop`, …

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use sampan_compose::Project;
use sampan_compose::model::Condition;
use tokio::sync::watch;

use super::{Stack, reading};
use crate::desired;
use crate::diff;
use crate::execute::Executor;
use crate::images::{self, ImageOptions, Need, Source};
use crate::labels;
use crate::observe::{observe, summaries};
use crate::observed::{Observed, ObservedContainer, Status};
use crate::places::places;
use crate::plan::{self, Action, DownOptions, PlanOptions, Why};
use crate::progress::Progress;
use crate::request::{StackOptions, StackRecord, StackRequest, Verb};

impl Stack {
    pub(super) async fn up(
        &mut self,
        request: StackRequest,
        services: BTreeSet<String>,
        options: &StackOptions,
        progress: &Progress,
        cancel: watch::Receiver<bool>,
    ) -> Result<bool, String> {
        self.loaded_at = SystemTime::now();
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let before = self.record();
        let mut request = self.with_provided(request, options.dry_run);
        request.enabled = StackRecord::still_enabled(before.as_ref());
        request.enabled.extend(services.iter().chain(options.scale.keys()).cloned());
        let loaded = reading::read(request.clone(), self.reading.take()).await?;
        // Those that every project has need no word.
        let by_profile = |name: &String| loaded.project.services.get(name).is_some_and(|it| !it.profiles.is_empty());
        request.enabled.retain(by_profile);
        for warning in &loaded.warnings {
            progress.warning(warning.clone()).await;
        }
        if loaded.project.name != self.name {
            return Err(format!("the files name the project {:?}, the request {:?}", loaded.project.name, self.name));
        }
        if let Some(unknown) =
            services.iter().chain(options.scale.keys()).find(|name| !loaded.project.services.contains_key(*name))
        {
            return Err(no_service(&loaded.project, unknown));
        }
        if let Some(before) = &before
            && before.project.working_dir != loaded.project.working_dir
            // Each version of what lies elsewhere has a folder of its own.
            && (before.request.origin().is_none() || before.request.origin() != request.origin())
            && before.project.compose_files.iter().any(|file| file.exists())
        {
            return Err(format!(
                "a stack named {} is up already, from {}; give this one another name (-p), or take that one down first (`sampan stack rm {}`)",
                self.name,
                before.project.working_dir.display(),
                self.name
            ));
        }
        if before.is_none() {
            self.refuse_anothers(&loaded.project).await?;
        }
        let retired = before.as_ref().map(|before| before.left_by(&request, &loaded.project)).unwrap_or_default();
        // What was reckoned from the one that is known holds for its equal.
        let is_known = |known: &&Arc<Project>| Arc::ptr_eq(known, &loaded.project) || **known == loaded.project;
        let known = before.as_ref().map(|before| &before.project).filter(is_known);
        let project = Arc::clone(known.unwrap_or(&loaded.project));
        let mut record = StackRecord {
            name: self.name.clone(),
            request,
            // Naming services adds to what is up already.
            services: match &before {
                Some(before) if !services.is_empty() && before.services.is_empty() => BTreeSet::new(),
                Some(before) if !services.is_empty() => before.services.union(&services).cloned().collect(),
                _ => services.clone(),
            },
            no_deps: options.no_deps,
            // As with Compose: a number that was asked for holds until the service is brought up without one.
            scale: before.as_ref().map(|before| before.scale_beside(&services)).unwrap_or_default(),
            stopped: before.as_ref().map(|before| before.stopped.clone()).unwrap_or_default(),
            removed: before.as_ref().map(|before| before.removed.clone()).unwrap_or_default(),
            watch: options.watch.unwrap_or(true),
            paused: false,
            left_to: None,
            retired,
            held: BTreeMap::new(),
            notes: Vec::new(),
            problem: None,
            broken: false,
            project,
            inputs: loaded.inputs.clone(),
        };
        self.reading = Some(loaded.with_known(&record.project));
        record.scale.extend(options.scale.clone());
        let named = PlanOptions { services: services.clone(), no_deps: options.no_deps, ..PlanOptions::default() };
        for service in plan::selected(&record.project, &named) {
            record.removed.remove(&service);
            if options.no_start {
                record.stopped.insert(service);
            } else {
                record.stopped.remove(&service);
            }
        }
        let project = record.effective();
        let plan_options = PlanOptions {
            services,
            no_deps: options.no_deps,
            force_recreate: options.force_recreate,
            no_recreate: options.no_recreate,
            recreate_deps: options.recreate_deps,
            renew_anon_volumes: options.renew_anon_volumes,
            no_start: options.no_start,
            remove_orphans: options.remove_orphans,
            ignore_orphans: options.ignore_orphans,
            retired: record.retired.clone(),
            ..PlanOptions::default()
        };
        let images = ImageOptions { build: options.build, no_build: options.no_build, pull: options.pull.clone() };
        if options.dry_run {
            return self.dry_run(&project, &plan_options, &images, progress).await;
        }
        // The intent is kept before anything is done: a daemon that dies meanwhile goes on with it.
        self.keep(record).await?;
        self.set_broken(None);
        self.begin_anew();
        self.follow();
        let whole = plan_options.services.is_empty();
        let services = plan::selected(&project, &plan_options);
        let applied = self.apply(&project, plan_options, &images, progress, cancel.clone(), options.bounds()).await;
        let outcome = applied.inspect_err(|problem| self.set_failing(Some(problem.clone())))?;
        let outcome = self.settle(outcome, whole, progress, cancel.clone()).await;
        outcome.tell(progress).await;
        if outcome.cancelled {
            progress.error("something newer was asked for".to_owned()).await;
        }
        if whole || !outcome.ok() {
            self.note_outcome(&outcome);
        }
        let mut ok = outcome.ok();
        if ok && options.wait {
            ok = self.wait(&project, &services, options, progress, cancel).await;
        }
        if ok && !options.no_start {
            progress.places(places(&self.engine, &self.name)).await;
        }
        Ok(ok)
    }

    /// Refuses a project whose name another one has that the daemon does not keep, such as one that Compose brought up.
    async fn refuse_anothers(&self, project: &Project) -> Result<(), String> {
        let found = summaries(&self.engine, &self.name, None).await.map_err(|error| error.message)?;
        for container in found {
            let all = container.labels.unwrap_or_default();
            let label = |name: &str| all.get(name).map(String::as_str).unwrap_or_default();
            let files = label(labels::CONFIG_FILES);
            let folder = label(labels::WORKING_DIR);
            if !folder.is_empty()
                && std::path::Path::new(folder) != project.working_dir
                && files.split(',').any(|file| std::path::Path::new(file).exists())
            {
                return Err(format!(
                    "a stack named {} is up already, from {folder}; give this one another name (-p), or take that one down first",
                    self.name
                ));
            }
        }
        Ok(())
    }

    /// The request with what programs said at earlier ones; a dry run, which runs none, goes by that first.
    pub(super) fn with_provided(&self, mut request: StackRequest, dry_run: bool) -> StackRequest {
        if let Some(before) = self.look(|record| record.request.provided.clone()) {
            let given = std::mem::take(&mut request.provided);
            request.provided = if dry_run { before.or(&given) } else { given.or(&before) };
        }
        request
    }

    async fn dry_run(
        &self,
        project: &Arc<Project>,
        options: &PlanOptions,
        images: &ImageOptions,
        progress: &Progress,
    ) -> Result<bool, String> {
        let services = plan::selected(project, options);
        let observed = self.observe(project, &services).await?;
        let present = observed.images.keys().cloned().collect();
        let present = images::fresh(&self.engine, project, &services, present).await;
        let mut lines: Vec<String> = images::decide(project, &services, &present, images)?
            .into_iter()
            .filter_map(|need| {
                let image = need.image;
                match need.source {
                    Source::Present => None,
                    Source::Build => Some(format!("build image {image}")),
                    Source::Pull => Some(format!("pull image {image}")),
                    Source::PullOrBuild => Some(format!("pull or build image {image}")),
                }
            })
            .collect();
        let plan = self.plan(project, &observed, options)?;
        let before = self.look(|record| Arc::clone(&record.project));
        let changes = diff::fields(before.as_deref(), project);
        lines.extend(plan.nodes.iter().map(|node| match &node.action {
            action @ (Action::Recreate { service, why: Why::Definition, .. } | Action::Update { service, .. }) => {
                let keys = diff::keys(&changes, service);
                let why = if keys.is_empty() { String::new() } else { format!(" ({})", keys.join(", ")) };
                format!("{action}{why}")
            }
            action => action.to_string(),
        }));
        for warning in plan.warnings {
            progress.warning(warning).await;
        }
        progress.plan(lines, changes).await;
        Ok(true)
    }

    /// `--wait`: until the services run, are healthy where they can tell, and have done their work where others need that.
    /// One that ends well by itself has done it.
    async fn wait(
        &self,
        project: &Arc<Project>,
        services: &[String],
        options: &StackOptions,
        progress: &Progress,
        cancel: watch::Receiver<bool>,
    ) -> bool {
        let executor = self.executor(Some(Arc::clone(project)), progress, options.bounds(), cancel);
        let one = async |name: &String| {
            let condition = awaited(project, name);
            executor.tell_each(name, "Waiting").await;
            match executor.wait_for(name, condition).await {
                Ok(()) => {
                    let status = match condition {
                        Condition::Healthy => "Healthy",
                        Condition::CompletedSuccessfully => "Exited",
                        Condition::Started => "Running",
                    };
                    executor.tell_each(name, status).await;
                    true
                }
                Err(error) => {
                    executor.tell_each(name, "Error").await;
                    progress.error(error.message).await;
                    false
                }
            }
        };
        let there = |name: &&String| project.services.get(*name).is_some_and(|service| service.replicas() > 0);
        let all = futures_util::future::join_all(services.iter().filter(there).map(one));
        let all = async { all.await.into_iter().all(|ok| ok) };
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

    pub(super) async fn down(
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
        let plan = plan::down(&self.name, project.as_deref(), &observed, &down);
        if options.dry_run {
            progress.plan(plan.nodes.iter().map(|node| node.action.to_string()).collect(), Vec::new()).await;
            return Ok(true);
        }
        if services.is_empty() {
            // From here on the daemon no longer keeps it up, whatever comes between.
            self.files.clear();
            self.forget().await?;
        } else if let Some(mut record) = record.clone() {
            record.take_away(services);
            self.keep(record).await?;
        }
        let executor = Executor {
            remove_volumes: options.volumes,
            ..self.executor(project.clone(), progress, options.bounds(), cancel)
        };
        let outcome = executor.run(&plan).await;
        outcome.tell(progress).await;
        if outcome.ok() && down.services.is_empty() {
            if let (Some(which), Some(project)) = (&options.rmi, &project) {
                self.remove_images(project, which == "local", progress).await;
            }
            if let Err(error) = crate::material::remove(self.material.clone()).await {
                progress.warning(error.message).await;
            }
        }
        Ok(outcome.ok())
    }

    async fn remove_images(&self, project: &Project, local: bool, progress: &Progress) {
        for (name, service) in &project.services {
            if local && !service.image.is_empty() {
                continue;
            }
            let image = project.image_name(name);
            match self.engine.remove_image(&image, false, false, &[]).await {
                Ok(_) => progress.action(format!("Image {image}"), Some(name), "Removed", None).await,
                Err(error) => progress.warning(error.message).await,
            }
        }
    }

    pub(super) async fn act(
        &mut self,
        verb: Verb,
        services: BTreeSet<String>,
        options: &StackOptions,
        progress: &Progress,
        cancel: watch::Receiver<bool>,
    ) -> Result<bool, String> {
        let Some(mut record) = self.record() else {
            return self.act_on_anothers(verb, &services, options, progress, cancel).await;
        };
        if let Some(unknown) = services.iter().find(|name| !record.project.services.contains_key(*name)) {
            return Err(no_service(&record.project, unknown));
        }
        let all: BTreeSet<String> = record.project.services.keys().cloned().collect();
        let mut named = if services.is_empty() { all } else { services };
        if verb == Verb::Restart && !options.no_deps {
            followers(&record.project, &mut named);
        }
        match verb {
            Verb::Build | Verb::Pull => return self.bring(&record.project, &named, verb, progress).await,
            Verb::Start => {
                record.stopped.retain(|service| !named.contains(service));
                record.removed.retain(|service| !named.contains(service));
                let project = record.effective();
                let plan = PlanOptions { services: named, no_recreate: true, ..PlanOptions::default() };
                if options.dry_run {
                    return self.dry_run(&project, &plan, &ImageOptions::default(), progress).await;
                }
                self.keep(record).await?;
                let services = plan::selected(&project, &plan);
                let images = ImageOptions::default();
                let outcome = self.apply(&project, plan, &images, progress, cancel.clone(), options.bounds()).await?;
                outcome.tell(progress).await;
                let ok = outcome.ok();
                if !ok {
                    self.note_outcome(&outcome);
                }
                return Ok(ok && (!options.wait || self.wait(&project, &services, options, progress, cancel).await));
            }
            Verb::Stop if !options.dry_run => {
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
            .filter(|container| named.contains(&container.service) && (verb == Verb::Kill || !container.oneoff))
            .collect();
        containers
            .sort_by_key(|container| (order.iter().position(|name| *name == container.service), container.number));
        if verb == Verb::Stop {
            return self.halt((&record.project, &observed), named, options, progress, cancel).await;
        }
        let stay: BTreeSet<&str> = containers
            .iter()
            .filter(|container| !applies(verb, container.status))
            .map(|container| container.service.as_str())
            .collect();
        if verb == Verb::Remove && !options.dry_run {
            // What is taken away as a whole is not made again at once.
            let gone: BTreeSet<String> = containers.iter().map(|container| container.service.clone()).collect();
            record.take_away(gone.into_iter().filter(|service| !stay.contains(service.as_str())));
            self.keep(record).await?;
        }
        containers.retain(|container| applies(verb, container.status));
        self.treat(verb, &containers, options, progress, cancel).await
    }

    /// Stops the containers of services, those that need others first.
    pub(super) async fn halt(
        &self,
        (project, observed): (&Project, &Observed),
        services: BTreeSet<String>,
        options: &StackOptions,
        progress: &Progress,
        cancel: watch::Receiver<bool>,
    ) -> Result<bool, String> {
        let down = DownOptions { services, ..DownOptions::default() };
        let mut plan = plan::down(&self.name, Some(project), observed, &down);
        plan.keep_only(|action| matches!(action, Action::Stop { .. }));
        if options.dry_run {
            progress.plan(plan.nodes.iter().map(|node| node.action.to_string()).collect(), Vec::new()).await;
            return Ok(true);
        }
        let outcome = self.executor(None, progress, options.bounds(), cancel).run(&plan).await;
        outcome.tell(progress).await;
        Ok(outcome.ok())
    }

    /// Does something to one container after the other, in their order.
    pub(super) async fn treat(
        &self,
        verb: Verb,
        containers: &[&ObservedContainer],
        options: &StackOptions,
        progress: &Progress,
        cancel: watch::Receiver<bool>,
    ) -> Result<bool, String> {
        if options.dry_run {
            let lines = containers.iter().map(|container| format!("{} container {}", verb.as_str(), container.name));
            progress.plan(lines.collect(), Vec::new()).await;
            return Ok(true);
        }
        let mut ok = true;
        let executor = self.executor(None, progress, options.bounds(), cancel);
        for container in containers {
            let id = container.id.as_str();
            let (result, status) = match verb {
                Verb::Restart => (executor.restart(id).await, "Started"),
                Verb::Kill => (self.engine.kill(id, options.signal.as_deref()).await, "Killed"),
                Verb::Pause => (self.engine.pause(id).await, "Paused"),
                Verb::Unpause => (self.engine.unpause(id).await, "Unpaused"),
                Verb::Remove => {
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
            if let Err(error) =
                images::provide(&self.engine, project, &Need::own(project, service, source), progress).await
            {
                progress.error(error.message).await;
                ok = false;
            }
        }
        Ok(ok)
    }

    /// Leaves the stack alone, or takes it up again with what its files say by now.
    pub(super) async fn hold(
        &mut self,
        paused: bool,
        progress: &Progress,
        cancel: watch::Receiver<bool>,
    ) -> Result<bool, String> {
        let Some(record) = self.record() else { return Err(format!("there is no stack {}", self.name)) };
        self.keep(StackRecord { paused, left_to: None, ..record }).await?;
        progress.action(format!("Stack {}", self.name), None, if paused { "Paused" } else { "Resumed" }, None).await;
        if !paused {
            self.files_changed(cancel.clone()).await;
            self.heal(cancel).await;
        }
        Ok(true)
    }
}

/// Whether a request does something to a container that stands so.
pub(super) fn applies(verb: Verb, status: Status) -> bool {
    match verb {
        Verb::Kill => status.is_alive(),
        Verb::Pause => status == Status::Running,
        Verb::Unpause => status == Status::Paused,
        Verb::Remove => !status.is_alive(),
        _ => true,
    }
}

/// How a service is when it is up.
fn awaited(project: &Project, name: &str) -> Condition {
    let needs = |condition: Condition| {
        let all = project.services.values().flat_map(|service| &service.depends_on);
        all.into_iter().any(|(peer, need)| peer == name && need.condition == condition)
    };
    let checked = project.services.get(name).and_then(|service| service.healthcheck.as_ref());
    if needs(Condition::CompletedSuccessfully) {
        Condition::CompletedSuccessfully
    } else if checked.is_some_and(|check| !check.disable) {
        Condition::Healthy
    } else {
        Condition::Started
    }
}

/// There is no such service, but there are others.
fn no_service(project: &Project, name: &str) -> String {
    let names: Vec<&str> = project.services.keys().map(String::as_str).collect();
    format!("no such service: {name} (project {} has {})", project.name, names.join(", "))
}

/// Adds the services that are restarted with those that are named.
fn followers(project: &Project, named: &mut BTreeSet<String>) {
    loop {
        let follows = |service: &sampan_compose::Service| {
            desired::needs(service).iter().any(|(peer, (_, restart, _))| *restart && named.contains(peer))
        };
        let more: Vec<String> = project
            .services
            .iter()
            .filter(|(name, service)| !named.contains(*name) && follows(service))
            .map(|(name, _)| name.clone())
            .collect();
        if more.is_empty() {
            return;
        }
        named.extend(more);
    }
}
