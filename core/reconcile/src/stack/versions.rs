//! Versions of a stack: those that were reached, the one that an update goes back to, and those that are held.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sampan_compose::Project;
use sampan_compose::model::Service;
use sampan_store::{Durability, StoreError};
use tokio::sync::watch;

use super::Stack;
use crate::desired;
use crate::execute::Outcome;
use crate::images::ImageOptions;
use crate::plan::PlanOptions;
use crate::progress::Progress;
use crate::replace::FailedUpdate;
use crate::request::{Applied, Back, HISTORY, Held, KEPT, StackRecord};
use crate::rollout::FailureAction;

impl Stack {
    /// Applies again what was applied before. The files say something else: they are not followed until the next `up`.
    pub(super) async fn roll_back(
        &mut self,
        back: usize,
        progress: &Progress,
        cancel: watch::Receiver<bool>,
    ) -> Result<bool, String> {
        let Some(record) = self.record() else { return Err(format!("there is no stack {}", self.name)) };
        let history = self.history().await;
        let Some(applied) = history.get(back) else {
            return Err(format!("the stack {} was brought to {} versions that are known", self.name, history.len()));
        };
        let retired = record.retiring(&applied.project);
        let record = StackRecord {
            retired: retired.clone(),
            project: applied.project.clone(),
            watch: false,
            held: BTreeMap::new(),
            problem: None,
            ..record
        };
        let project = Arc::new(record.effective());
        let rolling_back = project.services.keys().cloned().collect();
        let options = PlanOptions { stopped: record.stopped.clone(), retired, rolling_back, ..PlanOptions::default() };
        self.keep(record).await?;
        self.follow();
        progress
            .warning("the files are not followed until the next `sampan up`, as they say something else".to_owned())
            .await;
        let outcome = self.apply(&project, options, &ImageOptions::default(), progress, cancel.clone(), None).await?;
        let outcome = self.settle(outcome, true, progress, cancel).await;
        outcome.tell(progress).await;
        Ok(outcome.ok())
    }

    pub(super) fn frozen(&self) -> BTreeSet<String> {
        let held = self.record().map(|record| record.held).unwrap_or_default();
        held.into_iter().filter(|(_, held)| held.back.is_none()).map(|(name, _)| name).collect()
    }

    /// After a plan was carried out: updates that failed are held, those that shall go back do, and what was reached in
    /// whole is remembered as good.
    pub(super) async fn settle(
        &self,
        outcome: Outcome,
        whole: bool,
        progress: &Progress,
        cancel: watch::Receiver<bool>,
    ) -> Outcome {
        let Some(mut record) = self.record() else { return outcome };
        if outcome.ok() {
            if !record.retired.is_empty() {
                record.retired.clear();
                if let Err(problem) = self.keep(record.clone()).await {
                    tracing::warn!(stack = self.name, "{problem}");
                }
            }
            if whole {
                self.remember(record.project).await;
            }
            return outcome;
        }
        let failed: Vec<FailedUpdate> =
            outcome.updates.iter().filter(|update| update.action != FailureAction::Continue).cloned().collect();
        let mut rolling_back = BTreeSet::new();
        for update in failed {
            let Some(refused) = record.project.services.get(&update.service).cloned() else { continue };
            let before = match update.action {
                FailureAction::Rollback => self.before(&update, Some(&refused)).await,
                _ => None,
            };
            let (service, reason) = (&update.service, &update.why);
            let why = match (&before, update.action) {
                (Some(_), _) => format!("service {service}: the update failed and was rolled back: {reason}"),
                (None, FailureAction::Rollback) => format!(
                    "service {service}: the update failed and stands still, as the version before is not known: {reason}"
                ),
                _ => format!("service {service}: the update failed and stands still: {reason}"),
            };
            tracing::warn!(stack = self.name, "{why}");
            progress.warning(why.clone()).await;
            if before.is_some() {
                rolling_back.insert(service.clone());
            }
            record.held.insert(service.clone(), Held { refused, why, back: before.map(Box::new) });
        }
        if record.held.is_empty() {
            return outcome;
        }
        let project = Arc::new(record.effective());
        if let Err(problem) = self.keep(record).await {
            progress.error(problem).await;
            return outcome;
        }
        if !rolling_back.is_empty() {
            let options =
                PlanOptions { services: rolling_back.clone(), no_deps: true, rolling_back, ..PlanOptions::default() };
            match self.apply(&project, options, &ImageOptions::default(), progress, cancel, None).await {
                Ok(back) => back.tell(progress).await,
                Err(problem) => progress.error(problem).await,
            }
        }
        outcome
    }

    /// The version that an update was to replace, as it was applied.
    async fn before(&self, update: &FailedUpdate, refused: Option<&Service>) -> Option<Back> {
        let history = self.history().await;
        let is_it = |project: &Project| {
            desired::container(project, &update.service, 1, &self.material)
                .is_ok_and(|container| container.hash == update.hash)
        };
        if let Some(found) = history.iter().find(|applied| is_it(&applied.project)) {
            return Some(Back { project: found.project.clone(), image: update.image.clone() });
        }
        // What it was to replace had never come to its end: the last version that had counts.
        let project = history
            .into_iter()
            .map(|applied| applied.project)
            .find(|project| project.services.get(&update.service).is_some_and(|found| Some(found) != refused))?;
        Some(Back { image: project.image_name(&update.service), project })
    }

    pub(super) async fn history(&self) -> Vec<Applied> {
        let (store, name) = (self.engine.store().clone(), self.name.clone());
        let read = move || store.read::<_, StoreError>(|tx| HISTORY.get(tx, &name));
        tokio::task::spawn_blocking(read).await.ok().and_then(Result::ok).flatten().unwrap_or_default()
    }

    /// The project is how the stack is now, in whole.
    async fn remember(&self, project: Project) {
        let mut history = self.history().await;
        if history.first().is_some_and(|applied| applied.project == project) {
            return;
        }
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let at_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        history.insert(0, Applied { at_ms, project });
        history.truncate(KEPT);
        let (store, name) = (self.engine.store().clone(), self.name.clone());
        let write = move || store.write::<_, StoreError>(Durability::Process, |tx| HISTORY.put(tx, &name, &history));
        if let Ok(Err(error)) = tokio::task::spawn_blocking(write).await {
            tracing::warn!(stack = self.name, %error, "the stack's history could not be kept");
        }
    }
}
