//! Keeping a stack true when nobody asks: to its files, and against what happens to its containers.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use sampan_compose::Project;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Stack, earlier, load};
use crate::execute::Outcome;
use crate::host_files::fingerprints;
use crate::images::ImageOptions;
use crate::observed::Observed;
use crate::plan::{self, Action, PlanOptions};
use crate::progress::Progress;
use crate::request::Bounds;

/// How an attempt to make a stack whole went.
#[derive(Debug, Default)]
pub(super) struct Healed {
    /// Something could not be done; it is to be tried again.
    pub failed: bool,
    /// Something was begun, not only looked at.
    pub acted: bool,
    /// Something is due then.
    pub again: Option<Instant>,
}

/// How soon it is looked again for what others wait for, should its event be missed.
const UNREADY: Duration = Duration::from_secs(5);

impl Healed {
    fn failed() -> Self {
        Self { failed: true, ..Self::default() }
    }

    fn from(outcome: &Outcome) -> Self {
        let again = outcome.unready.then(|| Instant::now() + UNREADY);
        Self { failed: !outcome.failures.is_empty(), acted: outcome.acted, again }
    }

    /// With something else that is due.
    fn or_at(mut self, due: Option<Instant>) -> Self {
        self.again = earlier(self.again, due);
        self
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
                drop(seen);
                self.rewatch();
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
                self.set_broken(Some(broken.message));
                return Healed::default();
            }
        };
        if loaded.project.name != self.name {
            self.set_broken(Some(format!(
                "the files now name the project {:?}; take this one down and bring that one up",
                loaded.project.name
            )));
            return Healed::default();
        }
        let mut next = record;
        next.become_edited(loaded.project, loaded.inputs);
        tracing::info!(stack = self.name, "the files have changed");
        self.begin_anew();
        let project = next.effective();
        let options = next.healing();
        if let Err(problem) = self.keep(next).await {
            return self.not_healed(problem);
        }
        self.set_broken(None);
        self.follow();
        let whole = options.services.is_empty();
        let quiet = Progress::default();
        let result =
            self.apply(&project, options, &ImageOptions::default(), &quiet, cancel.clone(), Bounds::default()).await;
        match result {
            Ok(outcome) => {
                let outcome = self.settle(outcome, whole, &quiet, cancel).await;
                self.note_outcome(&outcome);
                Healed::from(&outcome)
            }
            Err(problem) => self.not_healed(problem),
        }
    }

    /// Makes the containers as they should be, leaving alone what ended as it was meant to.
    pub(super) async fn heal(&mut self, cancel: watch::Receiver<bool>) -> Healed {
        let Some(record) = self.record() else { return Healed::default() };
        let project = record.effective();
        let mut options = PlanOptions { frozen: self.frozen(), ..record.healing() };
        let services = plan::selected(&project, &options);
        let observed = match self.observe(&project, &services).await {
            Ok(observed) => observed,
            Err(problem) => return self.not_healed(problem),
        };
        let again = self.judge(&project, &observed, &mut options);
        let plan = match self.plan(&project, &observed, &options) {
            Ok(plan) => plan,
            Err(problem) => return self.not_healed(problem).or_at(again),
        };
        if plan.is_empty() {
            self.set_failing(None);
            return Healed::default().or_at(again);
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
        let result =
            self.apply(&project, options, &ImageOptions::default(), &quiet, cancel.clone(), Bounds::default()).await;
        let outcome = match result {
            Ok(outcome) => self.settle(outcome, whole, &quiet, cancel).await,
            Err(problem) => return self.not_healed(problem).or_at(again),
        };
        self.note_outcome(&outcome);
        Healed::from(&outcome).or_at(again)
    }

    pub(super) fn not_healed(&mut self, problem: String) -> Healed {
        self.set_failing(Some(problem));
        Healed::failed()
    }

    /// Notes what a plan could not do; what is left of one that was cut short is not known to be done.
    pub(super) fn note_outcome(&mut self, outcome: &Outcome) {
        if !outcome.failures.is_empty() {
            self.set_failing(Some(outcome.failures.join("\n")));
        } else if outcome.ok() {
            self.set_failing(None);
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
