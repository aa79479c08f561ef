//! Who is started or restarted now and who later: crash loops and unhealthy containers. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sampan_compose::Project;
use sampan_engine::containers::Backoff;
use tokio::time::Instant;

use crate::observed::{Observed, ObservedContainer, Status};
use crate::plan::{self, PlanOptions};

/// First pause between restarts of a container that is unhealthy.
const PAUSE: Duration = Duration::from_secs(1);

/// What is remembered of a stack's containers, by id.
#[derive(Debug, Default)]
pub(super) struct Patience {
    crashes: BTreeMap<String, Crash>,
    illnesses: BTreeMap<String, Illness>,
}

#[derive(Debug)]
struct Crash {
    backoff: Backoff,
    /// The end that is waited after.
    finished_ns: u64,
    due: Instant,
}

#[derive(Debug)]
struct Illness {
    backoff: Backoff,
    /// Before the next restart; none was needed until now when that is none.
    pause: Option<Duration>,
    /// Unhealthy since then.
    since: Option<Instant>,
    /// Healthy since then.
    well_since: Option<Instant>,
}

impl Default for Illness {
    fn default() -> Self {
        Self { backoff: Backoff::starting_at(PAUSE), pause: None, since: None, well_since: None }
    }
}

/// What follows from how containers stand.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Verdict {
    /// Ids of those whose next start is not due.
    pub waiting: BTreeSet<String>,
    /// Ids of those that are restarted now.
    pub sick: BTreeSet<String>,
    /// When to look again.
    pub again: Option<Instant>,
    /// Waits that begin: id, how many there were in a row, how long.
    pub begun: Vec<(String, u32, Duration)>,
    /// For a person: those that are restarted no more.
    pub given_up: Vec<String>,
}

impl Verdict {
    fn look_again(&mut self, at: Instant) {
        self.again = Some(self.again.map_or(at, |before| before.min(at)));
    }
}

impl Patience {
    /// Looks at the containers. What it calls sick counts as restarted.
    pub(super) fn judge(
        &mut self,
        project: &Project,
        observed: &Observed,
        options: &PlanOptions,
        now: Instant,
    ) -> Verdict {
        let is_there = |id: &String| observed.containers.iter().any(|container| container.id == *id);
        self.crashes.retain(|id, _| is_there(id));
        self.illnesses.retain(|id, _| is_there(id));
        let mut verdict = Verdict::default();
        for container in observed.containers.iter().filter(|container| !container.oneoff) {
            self.crash(project, container, options, now, &mut verdict);
            self.illness(project, container, options, now, &mut verdict);
        }
        verdict
    }

    fn crash(
        &mut self,
        project: &Project,
        container: &ObservedContainer,
        options: &PlanOptions,
        now: Instant,
        verdict: &mut Verdict,
    ) {
        let Status::Exited { lost, .. } = container.status else { return };
        if lost || !plan::heals(project, container, options) {
            self.crashes.remove(&container.id);
            return;
        }
        let (started, finished) = container.ran_ns;
        let crash = self.crashes.entry(container.id.clone()).or_insert_with(|| Crash {
            backoff: Backoff::default(),
            finished_ns: 0,
            due: now,
        });
        if crash.finished_ns != finished {
            crash.finished_ns = finished;
            let wait = crash.backoff.next(Duration::from_nanos(finished.saturating_sub(started)));
            crash.due = now + wait;
            verdict.begun.push((container.id.clone(), crash.backoff.times(), wait));
        }
        if crash.due > now {
            verdict.waiting.insert(container.id.clone());
            verdict.look_again(crash.due);
        }
    }

    fn illness(
        &mut self,
        project: &Project,
        container: &ObservedContainer,
        options: &PlanOptions,
        now: Instant,
        verdict: &mut Verdict,
    ) {
        let wanted = project.services.get(&container.service).and_then(|service| service.restart_unhealthy());
        let Some(wanted) = wanted.filter(|_| !options.stopped.contains(&container.service)) else {
            self.illnesses.remove(&container.id);
            return;
        };
        let illness = self.illnesses.entry(container.id.clone()).or_default();
        if container.status != Status::Running || container.well != Some(false) {
            illness.since = None;
            if container.well == Some(true) {
                illness.well_since.get_or_insert(now);
            }
            return;
        }
        if illness.well_since.take().is_some_and(|since| Backoff::is_over(now.duration_since(since))) {
            *illness = Illness::default();
        }
        let since = *illness.since.get_or_insert(now);
        let restarts = illness.backoff.times();
        if wanted.max.is_some_and(|max| restarts >= max) {
            verdict.given_up.push(format!(
                "container {} is still unhealthy after {restarts} restarts, and is left alone",
                container.name
            ));
            return;
        }
        let due = since + wanted.after.max(illness.pause.unwrap_or_default());
        if due > now {
            verdict.look_again(due);
            return;
        }
        illness.pause = Some(illness.backoff.next(Duration::ZERO));
        illness.since = None;
        verdict.sick.insert(container.id.clone());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sampan_compose::{LoadOptions, MemoryFiles};

    fn project(extra: &str) -> Project {
        let text = format!("services: {{ web: {{ image: web{extra} }} }}");
        let files = MemoryFiles::default().with("/p/compose.yaml", text);
        let options =
            LoadOptions { working_dir: "/p".into(), project_name: Some("p".into()), ..LoadOptions::default() };
        sampan_compose::load(&options, &files).unwrap_or_else(|error| panic!("{error}")).project
    }

    fn observed(status: Status, well: Option<bool>, ran_ns: (u64, u64)) -> Observed {
        let (id, name, service) = ("1".to_owned(), "p-web-1".to_owned(), "web".to_owned());
        let container =
            ObservedContainer { id, name, service, number: 1, status, well, ran_ns, ..ObservedContainer::default() };
        Observed { containers: vec![container], ..Observed::default() }
    }

    #[test]
    fn a_crash_loop_waits_twice_as_long_each_time() {
        const KILLED: Status = Status::Exited { code: 137, by_hand: false, lost: false };
        let (project, options, now) = (project(""), PlanOptions::default(), Instant::now());
        let mut patience = Patience::default();
        for (turn, wait) in [100, 200, 400].into_iter().enumerate() {
            let ended = observed(KILLED, None, (turn as u64 * 10, turn as u64 * 10 + 5));
            let verdict = patience.judge(&project, &ended, &options, now);
            let wait = Duration::from_millis(wait);
            assert_eq!(verdict.begun, [("1".to_owned(), turn as u32 + 1, wait)]);
            assert_eq!((verdict.waiting.len(), verdict.again), (1, Some(now + wait)));
            let again = patience.judge(&project, &ended, &options, now);
            assert!(again.begun.is_empty() && again.again == verdict.again, "the same end is no other one");
            assert_eq!(patience.judge(&project, &ended, &options, now + wait), Verdict::default(), "now it is due");
        }
        let lost = Status::Exited { code: 255, by_hand: false, lost: true };
        assert_eq!(patience.judge(&project, &observed(lost, None, (1, 2)), &options, now), Verdict::default());
        let long = observed(KILLED, None, (0, 11_000_000_000));
        assert_eq!(patience.judge(&project, &long, &options, now).begun[0].2, Duration::from_millis(100));
    }

    #[test]
    fn the_unhealthy_are_restarted_when_asked_with_growing_pauses() {
        let (options, now) = (PlanOptions::default(), Instant::now());
        let ill = observed(Status::Running, Some(false), (1, 0));
        let well = observed(Status::Running, Some(true), (1, 0));
        let second = Duration::from_secs(1);
        let mut patience = Patience::default();
        assert_eq!(patience.judge(&project(""), &ill, &options, now), Verdict::default(), "nobody asked");
        let asked = project(", x-sampan: { restart_unhealthy: true }");
        assert!(patience.judge(&asked, &ill, &options, now).sick.contains("1"));
        assert_eq!(patience.judge(&asked, &ill, &options, now).again, Some(now + second));
        assert!(patience.judge(&asked, &ill, &options, now + second).sick.contains("1"));
        patience.judge(&asked, &well, &options, now + second);
        let verdict = patience.judge(&asked, &ill, &options, now + 2 * second);
        assert_eq!(verdict.again, Some(now + 4 * second), "well for too short a time");
        patience.judge(&asked, &well, &options, now + 3 * second);
        assert!(patience.judge(&asked, &ill, &options, now + 20 * second).sick.contains("1"), "it had recovered");
        let mut patience = Patience::default();
        let asked = project(", x-sampan: { restart_unhealthy: { after: 5s, max: 1 } }");
        assert_eq!(patience.judge(&asked, &ill, &options, now).again, Some(now + 5 * second));
        assert!(patience.judge(&asked, &ill, &options, now + 5 * second).sick.contains("1"));
        let verdict = patience.judge(&asked, &ill, &options, now + 100 * second);
        assert_eq!(verdict.given_up, ["container p-web-1 is still unhealthy after 1 restarts, and is left alone"]);
        assert!(verdict.sick.is_empty());
    }
}
