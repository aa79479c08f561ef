//! Versions of a stack: those that were reached, the one that an update goes back to, and those that are held.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use sampan_compose::Project;
use sampan_compose::model::Service;
use sampan_store::{Durability, StoreError, Tx};
use tokio::sync::watch;

use super::Stack;
use crate::desired;
use crate::execute::Outcome;
use crate::images::ImageOptions;
use crate::plan::PlanOptions;
use crate::progress::Progress;
use crate::replace::FailedUpdate;
use crate::request::{self, Applied, Back, Bounds, HISTORY, Held, KEPT, StackRecord, version_key};
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
            ..record
        };
        let project = record.effective();
        let rolling_back = project.services.keys().cloned().collect();
        let options = PlanOptions { stopped: record.stopped.clone(), retired, rolling_back, ..PlanOptions::default() };
        self.keep(record).await?;
        self.set_broken(None);
        self.follow();
        progress
            .warning("the files are not followed until the next `sampan up`, as they say something else".to_owned())
            .await;
        let outcome = self
            .apply(&project, options, &ImageOptions::default(), progress, cancel.clone(), Bounds::default())
            .await?;
        let outcome = self.settle(outcome, true, progress, cancel).await;
        outcome.tell(progress).await;
        self.note_outcome(&outcome);
        Ok(outcome.ok())
    }

    pub(super) fn frozen(&self) -> BTreeSet<String> {
        let still = |record: &StackRecord| {
            let held = record.held.iter().filter(|(_, held)| held.back.is_none());
            held.map(|(name, _)| name.clone()).collect()
        };
        self.look(still).unwrap_or_default()
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
        if outcome.ok() {
            if self.look(|record| !record.retired.is_empty()).unwrap_or(false)
                && let Some(record) = self.record()
                && let Err(problem) = self.keep(StackRecord { retired: BTreeSet::new(), ..record }).await
            {
                tracing::warn!(stack = self.name, "{problem}");
            }
            if whole {
                self.remember().await;
            }
            return outcome;
        }
        let Some(mut record) = self.record() else { return outcome };
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
        let project = record.effective();
        if let Err(problem) = self.keep(record).await {
            progress.error(problem).await;
            return outcome;
        }
        if !rolling_back.is_empty() {
            self.begin_anew();
            let options =
                PlanOptions { services: rolling_back.clone(), no_deps: true, rolling_back, ..PlanOptions::default() };
            match self.apply(&project, options, &ImageOptions::default(), progress, cancel, Bounds::default()).await {
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

    /// The versions that were reached, the newest first.
    pub(super) async fn history(&self) -> Vec<Applied> {
        let (store, name) = (self.engine.store().clone(), self.name.clone());
        let read = move || store.read::<_, StoreError>(|tx| versions(tx, &name));
        tokio::task::spawn_blocking(read).await.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// The project is how the stack is now, in whole.
    async fn remember(&self) {
        let (new, known) = {
            let reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
            let is_known =
                |project: &Arc<Project>| reached.as_ref().is_some_and(|known| request::is_same(known, project));
            let is_new = |record: &StackRecord| (!is_known(&record.project)).then(|| Arc::clone(&record.project));
            (self.look(is_new).flatten(), reached.is_some())
        };
        let Some(project) = new else { return };
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let at_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let (store, name) = (self.engine.store().clone(), self.name.clone());
        let applied = Applied { at_ms, project: project.clone() };
        let write =
            move || store.write::<_, StoreError>(Durability::Process, |tx| add_version(tx, &name, &applied, known));
        match tokio::task::spawn_blocking(write).await {
            Ok(Err(error)) => tracing::warn!(stack = self.name, %error, "the stack's history could not be kept"),
            _ => *self.reached.lock().unwrap_or_else(PoisonError::into_inner) = Some(project),
        }
    }
}

/// The versions of a stack, the newest first.
pub(crate) fn versions(tx: &Tx<'_>, stack: &str) -> Result<Vec<Applied>, StoreError> {
    Ok(HISTORY.prefix(tx, &format!("{stack}/"))?.into_iter().rev().map(|(_, applied)| applied).collect())
}

/// Adds a version that is another than the last one, which the caller may know it to be, and forgets those that are too old.
fn add_version(tx: &Tx<'_>, stack: &str, applied: &Applied, is_other: bool) -> Result<(), StoreError> {
    let keys = HISTORY.keys(tx, &format!("{stack}/"))?;
    let mut number = 0;
    if let Some(newest) = keys.last() {
        if !is_other && HISTORY.get(tx, newest)?.is_some_and(|last| last.project == applied.project) {
            return Ok(());
        }
        number = newest.rsplit_once('/').and_then(|(_, number)| number.parse::<u64>().ok()).map_or(0, |last| last + 1);
    }
    HISTORY.put(tx, &version_key(stack, number), applied)?;
    for old in keys.iter().rev().skip(KEPT - 1) {
        HISTORY.delete(tx, old)?;
    }
    Ok(())
}
