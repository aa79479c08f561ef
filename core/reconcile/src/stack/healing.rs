//! Keeping a stack true when nobody asks: to its files, and against what happens to its containers.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use sampan_compose::Project;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Stack, load};
use crate::host_files::fingerprints;
use crate::images::ImageOptions;
use crate::observed::Observed;
use crate::plan::{self, Action, PlanOptions};
use crate::progress::Progress;

/// How an attempt to make a stack whole went.
#[derive(Debug, Default)]
pub(super) struct Healed {
    /// Something could not be done; it is to be tried again.
    pub failed: bool,
    /// Something is due then.
    pub again: Option<Instant>,
}

impl Healed {
    fn failed() -> Self {
        Self { failed: true, again: None }
    }
}

impl Stack {
    /// A file may have changed: load anew, and apply what is different. A broken file changes nothing.
    pub(super) async fn files_changed(&mut self, cancel: watch::Receiver<bool>) -> Healed {
        let Some(record) = self.record() else { return Healed::default() };
        let inputs = record.inputs.clone();
        let Ok(now) = tokio::task::spawn_blocking(move || fingerprints(&inputs)).await else {
            return Healed::default();
        };
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if now == *seen {
                return Healed::default();
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
                self.mending = false;
                self.set_problem(Some(broken.message));
                return Healed::default();
            }
        };
        if loaded.project.name != self.name {
            self.set_problem(Some(format!(
                "the files now name the project {:?}; take this one down and bring that one up",
                loaded.project.name
            )));
            return Healed::default();
        }
        let mut next = record;
        next.become_edited(loaded.project, loaded.inputs);
        tracing::info!(stack = self.name, "the files have changed");
        let project = Arc::new(next.effective());
        let options = next.healing();
        if let Err(problem) = self.keep(next).await {
            self.set_problem(Some(problem));
            return Healed::failed();
        }
        self.set_problem(None);
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
        self.mending = problem.is_some();
        self.set_problem(problem);
        Healed { failed: self.mending, again: None }
    }

    /// Makes the containers as they should be, leaving alone what ended as it was meant to.
    pub(super) async fn heal(&mut self, cancel: watch::Receiver<bool>) -> Healed {
        let Some(record) = self.record() else { return Healed::default() };
        let project = Arc::new(record.effective());
        let mut options = PlanOptions { frozen: self.frozen(), ..record.healing() };
        let services = plan::selected(&project, &options);
        let observed = match self.observe(&project, &services).await {
            Ok(observed) => observed,
            Err(problem) => return self.not_healed(problem),
        };
        let again = self.judge(&project, &observed, &mut options);
        let plan = match self.plan(&project, &observed, &options) {
            Ok(plan) => plan,
            Err(problem) => return Healed { again, ..self.not_healed(problem) },
        };
        if plan.is_empty() {
            self.is_whole();
            return Healed { failed: false, again };
        }
        for node in &plan.nodes {
            if let Action::CreateVolume { name, .. } = &node.action
                && self.volumes.contains(name)
            {
                tracing::warn!(
                    stack = self.name,
                    volume = name,
                    "the volume was removed by hand: it is made again, and is empty"
                );
            }
        }
        let whole = options.services.is_empty();
        let quiet = Progress::default();
        let result = self.apply(&project, options, &ImageOptions::default(), &quiet, cancel.clone(), None).await;
        let outcome = match result {
            Ok(outcome) => self.settle(outcome, whole, &quiet, cancel).await,
            Err(problem) => return Healed { again, ..self.not_healed(problem) },
        };
        if !outcome.failures.is_empty() {
            return Healed { again, ..self.not_healed(outcome.failures.join("\n")) };
        }
        if !outcome.cancelled {
            self.is_whole();
        }
        Healed { failed: false, again }
    }

    fn not_healed(&mut self, problem: String) -> Healed {
        self.mending = true;
        self.set_problem(Some(problem));
        Healed::failed()
    }

    /// What could not be done before is done.
    fn is_whole(&mut self) {
        if std::mem::take(&mut self.mending) {
            self.set_problem(None);
        }
    }

    /// Decides who waits and who is sick; when to look again.
    fn judge(&mut self, project: &Project, observed: &Observed, options: &mut PlanOptions) -> Option<Instant> {
        let own = observed.volumes.iter().filter(|(_, found)| found.project.as_ref() == Some(&project.name));
        self.volumes.extend(own.map(|(name, _)| name.clone()));
        let verdict = self.patience.judge(project, observed, options, Instant::now());
        for (id, times, wait) in &verdict.begun {
            self.engine.note_wait(id, *times, *wait);
        }
        if let Some(record) = self.record.write().unwrap_or_else(PoisonError::into_inner).as_mut()
            && record.notes != verdict.given_up
        {
            for note in &verdict.given_up {
                tracing::warn!(stack = self.name, "{note}");
            }
            record.notes = verdict.given_up;
        }
        options.waiting = verdict.waiting;
        options.sick = verdict.sick;
        verdict.again
    }
}
