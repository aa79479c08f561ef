//! From a project to the kernel: what is there, what is to be done, and doing it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use sampan_compose::Project;
use tokio::sync::watch;

use super::Stack;
use crate::desired::{self, DesiredContainer};
use crate::execute::{Executor, Outcome};
use crate::images::{self, ImageOptions, Source};
use crate::init_containers::{self, InitContainer};
use crate::observe::{observe, observe_others};
use crate::observed::Observed;
use crate::plan::{self, Plan, PlanOptions};
use crate::progress::Progress;
use crate::request::{Bounds, Held};

/// The containers of services as they should be, and what they were reckoned from: a stack is looked at far more often
/// than it is changed.
pub(super) struct Reckoned {
    project: Arc<Project>,
    services: Vec<String>,
    held: BTreeMap<String, Held>,
    containers: Arc<BTreeMap<String, Vec<DesiredContainer>>>,
}

impl Stack {
    pub(super) async fn observe(&self, project: &Project, services: &[String]) -> Result<Observed, String> {
        let mut images: BTreeSet<String> = services.iter().map(|service| project.image_name(service)).collect();
        images.extend(services.iter().flat_map(|service| project.mounted_images(service)));
        let mut observed = observe(&self.engine, &self.name, &images).await.map_err(|error| error.message)?;
        observe_others(&self.engine, project, &mut observed).await;
        Ok(observed)
    }

    pub(super) fn desired(
        &self,
        project: &Arc<Project>,
        services: &[String],
    ) -> Result<Arc<BTreeMap<String, Vec<DesiredContainer>>>, String> {
        let held = self.look(|record| record.held.clone()).unwrap_or_default();
        let mut reckoned = self.reckoned.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |known: &&Reckoned| {
            Arc::ptr_eq(&known.project, project) && known.services == services && known.held == held
        };
        if let Some(known) = reckoned.as_ref().filter(is_it) {
            return Ok(Arc::clone(&known.containers));
        }
        let mut all = BTreeMap::new();
        for service in services {
            let Some(found) = project.services.get(service) else { continue };
            // A service that was rolled back is as its project of then said, secrets and all.
            let back = held.get(service).and_then(|held| held.back.as_ref()).map(|back| &back.project);
            let containers = desired::containers(back.unwrap_or(project), service, found.replicas(), &self.material);
            all.insert(service.clone(), containers.map_err(|error| error.to_string())?);
        }
        let containers = Arc::new(all);
        let (project, services) = (Arc::clone(project), services.to_vec());
        *reckoned = Some(Reckoned { project, services, held, containers: Arc::clone(&containers) });
        Ok(containers)
    }

    /// What runs before the containers of services.
    fn init_containers(
        &self,
        project: &Project,
        services: &[String],
    ) -> Result<BTreeMap<String, Vec<InitContainer>>, String> {
        let held = self.look(|record| record.held.clone()).unwrap_or_default();
        let of = |service: &String| {
            let back = held.get(service).and_then(|held| held.back.as_ref()).map(|back| &*back.project);
            let containers = init_containers::of(back.unwrap_or(project), service, &self.material);
            Ok((service.clone(), containers.map_err(|error| error.to_string())?))
        };
        services.iter().map(of).collect()
    }

    pub(super) fn plan(
        &self,
        project: &Arc<Project>,
        observed: &Observed,
        options: &PlanOptions,
    ) -> Result<Plan, String> {
        let services = plan::selected(project, options);
        let desired = self.desired(project, &services)?;
        plan::up(project, &desired, observed, options).map_err(|error| error.to_string())
    }

    /// Whether a plan is another than the one before: what is waited for is planned again and again.
    fn is_news(&self, plan: &Plan) -> bool {
        let text = plan.to_string();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let news = *told != text;
        *told = text;
        news
    }

    /// Brings images, plans, and carries the plan out.
    pub(super) async fn apply(
        &self,
        project: &Arc<Project>,
        mut options: PlanOptions,
        images: &ImageOptions,
        progress: &Progress,
        cancel: watch::Receiver<bool>,
        bounds: Bounds,
    ) -> Result<Outcome, String> {
        options.frozen = self.frozen();
        let services = plan::selected(project, &options);
        let mut observed = self.observe(project, &services).await?;
        let present = observed.images.keys().cloned().collect();
        let present = images::fresh(&self.engine, project, &services, present).await;
        let mut failures = Vec::new();
        let mut lacking = BTreeSet::new();
        let sources = images::decide(project, &services, &present, images)?;
        let mut work: FuturesUnordered<_> = sources
            .iter()
            .filter(|need| need.source != Source::Present)
            .map(|need| async move { (&need.service, images::provide(&self.engine, project, need, progress).await) })
            .collect();
        let brought = !work.is_empty();
        let mut superseded = cancel.clone();
        loop {
            let (service, result) = tokio::select! {
                next = work.next() => match next {
                    Some(brought) => brought,
                    None => break,
                },
                // Pulls and builds end when nobody wants them any more.
                Ok(_) = superseded.wait_for(|cancel| *cancel) => {
                    return Ok(Outcome { failures, cancelled: true, ..Outcome::default() });
                }
            };
            if let Err(error) = result {
                failures.push(error.message);
                lacking.insert(service.clone());
            }
        }
        drop(work);
        if brought {
            observed = self.observe(project, &services).await?;
        }
        let desired = self.desired(project, &services)?;
        let mut plan = plan::up(project, &desired, &observed, &options).map_err(|error| error.to_string())?;
        if !lacking.is_empty() {
            plan.leave_out(&lacking);
        }
        for warning in &plan.warnings {
            progress.warning(warning.clone()).await;
        }
        let executor = Executor {
            desired,
            before: Arc::new(self.init_containers(project, &services)?),
            renew_anon_volumes: options.renew_anon_volumes,
            waits: !options.healing,
            ..self.executor(Some(Arc::clone(project)), progress, bounds, cancel)
        };
        if !plan.is_empty() && self.is_news(&plan) {
            tracing::info!(stack = self.name, actions = plan.nodes.len(), "applying\n{plan}");
        }
        let mut outcome = executor.run(&plan).await;
        outcome.acted |= brought;
        failures.append(&mut outcome.failures);
        outcome.failures = failures;
        Ok(outcome)
    }
}
