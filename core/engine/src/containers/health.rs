//! Health checks: when to probe, what the results mean, and the task that does it.
//!
//! Until the first success there are probes beyond the asked ones, close together at first: a success tells that the
//! container is ready, while such a failure proves nothing and counts for nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard_stubs::models::{ExecConfig, Health, HealthConfig, HealthStatusEnum, HealthcheckResult};
use sampan_shim_protocol::ExecRequest;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::record::Status;
use super::{Container, Containers, exec};
use crate::error::Result;
use crate::events::now_ns;

/// Results that are kept.
const KEPT: usize = 5;
/// Bytes of a probe's output that are kept.
const OUTPUT: usize = 4096;
/// Between the first two probes.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// How long a killed probe is waited for.
const KILL_WAIT: Duration = Duration::from_secs(2);

/// What is checked, and how; with Docker's defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Check {
    command: Vec<String>,
    interval: Duration,
    timeout: Duration,
    retries: i64,
    start_period: Duration,
    start_interval: Duration,
}

impl Check {
    /// The check of a configuration, if it has one.
    fn of(config: &HealthConfig, shell: Option<&[String]>) -> Option<Self> {
        let test = config.test.as_deref()?;
        let command = match test.split_first()? {
            (kind, arguments) if kind == "CMD" && !arguments.is_empty() => arguments.to_vec(),
            (kind, [script, ..]) if kind == "CMD-SHELL" => {
                let usual = ["/bin/sh".to_owned(), "-c".to_owned()];
                let shell = shell.filter(|shell| !shell.is_empty()).unwrap_or(&usual);
                shell.iter().cloned().chain([script.clone()]).collect()
            }
            _ => return None,
        };
        let time = |nanoseconds: Option<i64>, usual: Duration| match nanoseconds.and_then(|ns| u64::try_from(ns).ok()) {
            None | Some(0) => usual,
            Some(nanoseconds) => Duration::from_nanos(nanoseconds),
        };
        Some(Self {
            command,
            interval: time(config.interval, Duration::from_secs(30)),
            timeout: time(config.timeout, Duration::from_secs(30)),
            retries: config.retries.filter(|retries| *retries > 0).unwrap_or(3),
            start_period: time(config.start_period, Duration::ZERO),
            start_interval: time(config.start_interval, Duration::from_secs(5)),
        })
    }
}

/// When to probe.
#[derive(Debug, Clone)]
struct Schedule {
    check: Check,
    started: Instant,
    /// When the next probe is due that counts.
    due: Instant,
    pause: Duration,
}

impl Schedule {
    fn new(check: Check, started: Instant) -> Self {
        let mut schedule = Self { check, started, due: started, pause: FIRST_PAUSE };
        schedule.due = started + schedule.interval(started, true);
        schedule
    }

    fn interval(&self, now: Instant, starting: bool) -> Duration {
        let early = starting && now < self.started + self.check.start_period;
        if early { self.check.start_interval } else { self.check.interval }
    }

    /// The time of the next probe after one that ended now, and whether it counts.
    fn next(&mut self, now: Instant, starting: bool) -> (Instant, bool) {
        if starting {
            let early = now + self.pause;
            // From a probe in each interval on there is nothing to come earlier.
            self.pause = (self.pause * 2).min(self.check.interval.max(FIRST_PAUSE));
            if early < self.due {
                return (early, false);
            }
        }
        let due = self.due.max(now);
        self.due = due + self.interval(due, starting);
        (due, true)
    }

    fn in_start_period(&self, now: Instant) -> bool {
        now < self.started + self.check.start_period
    }
}

/// What is known of a container's health.
#[derive(Debug, Clone, Default)]
struct State {
    status: Option<HealthStatusEnum>,
    streak: i64,
    log: VecDeque<HealthcheckResult>,
}

impl State {
    fn starting() -> Self {
        Self { status: Some(HealthStatusEnum::STARTING), ..Self::default() }
    }

    /// Takes a result in; the new status if it is another.
    fn judge(
        &mut self,
        result: HealthcheckResult,
        counts: bool,
        retries: i64,
        in_start_period: bool,
    ) -> Option<HealthStatusEnum> {
        let before = self.status;
        let healthy = result.exit_code == Some(0);
        if !healthy && !counts {
            return None;
        }
        if self.log.len() == KEPT {
            self.log.pop_front();
        }
        self.log.push_back(result);
        if healthy {
            self.streak = 0;
            self.status = Some(HealthStatusEnum::HEALTHY);
        } else if !(in_start_period && before == Some(HealthStatusEnum::STARTING)) {
            self.streak += 1;
            if self.streak >= retries {
                self.status = Some(HealthStatusEnum::UNHEALTHY);
            }
        }
        self.status.filter(|status| before != Some(*status))
    }
}

#[derive(Debug, Default)]
struct Inner {
    state: State,
    task: Option<AbortHandle>,
    /// Probes that run, by the id of their exec.
    waiting: HashMap<String, oneshot::Sender<u8>>,
}

/// A container's health, and the task that watches it.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    inner: Mutex<Inner>,
}

impl Checks {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As `inspect` shows it; none without a check or before the first start.
    pub(crate) fn report(&self) -> Option<Health> {
        let inner = self.inner();
        let status = inner.state.status?;
        Some(Health {
            status: Some(status),
            failing_streak: Some(inner.state.streak),
            log: Some(inner.state.log.iter().cloned().collect()),
        })
    }

    /// A process that is no exec of a user's has ended.
    pub(super) fn exited(&self, id: &str, code: u8) {
        if let Some(waiter) = self.inner().waiting.remove(id) {
            let _ = waiter.send(code);
        }
    }
}

/// Whether a container has a check.
pub(crate) fn has_check(record: &super::record::ContainerRecord) -> bool {
    record.config.healthcheck.as_ref().is_some_and(|health| Check::of(health, record.config.shell.as_deref()).is_some())
}

/// The container runs (started or adopted): begins to check, when it has a check.
pub(crate) fn begin(containers: &Containers, container: &Arc<Container>) {
    let check = {
        let record = container.record();
        let config = &record.config;
        config.healthcheck.as_ref().and_then(|health| Check::of(health, config.shell.as_deref()))
    };
    let mut inner = container.checks.inner();
    if let Some(task) = inner.task.take() {
        task.abort();
    }
    let Some(check) = check else {
        inner.state = State::default();
        return;
    };
    inner.state = State::starting();
    let task = tokio::spawn(watch(containers.clone(), Arc::clone(container), check, Instant::now()));
    inner.task = Some(task.abort_handle());
}

/// The check of a container that runs is another. What was known holds until the first result of the new one.
pub(crate) async fn renew(containers: &Containers, container: &Arc<Container>) {
    let (check, ran) = {
        let record = container.record();
        let config = &record.config;
        let check = config.healthcheck.as_ref().and_then(|health| Check::of(health, config.shell.as_deref()));
        (check, Duration::from_nanos(now_ns().saturating_sub(record.state.started_ns)))
    };
    let checked = check.is_some();
    {
        let mut inner = container.checks.inner();
        if let Some(task) = inner.task.take() {
            task.abort();
        }
        if let Some(check) = check {
            inner.state.streak = 0;
            inner.state.status.get_or_insert(HealthStatusEnum::STARTING);
            // The start period is over when it would have been.
            let started = Instant::now().checked_sub(ran).unwrap_or_else(Instant::now);
            let task = tokio::spawn(watch(containers.clone(), Arc::clone(container), check, started));
            inner.task = Some(task.abort_handle());
        } else {
            inner.state = State::default();
        }
    }
    if !checked {
        containers.networks().set_ready(&container.id, true).await;
    }
}

/// The container has ended: checks no more.
pub(crate) fn end(container: &Container) {
    let mut inner = container.checks.inner();
    inner.waiting.clear();
    if let Some(task) = inner.task.take() {
        task.abort();
    }
}

async fn watch(containers: Containers, container: Arc<Container>, check: Check, started: Instant) {
    let mut schedule = Schedule::new(check.clone(), started);
    let mut phase = container.phase();
    loop {
        let starting = container.checks.inner().state.status == Some(HealthStatusEnum::STARTING);
        let (at, counts) = schedule.next(Instant::now(), starting);
        tokio::time::sleep_until(at).await;
        // A paused container cannot answer; that is no sign of sickness.
        if phase.wait_for(|phase| phase.status != Status::Paused).await.is_err() {
            return;
        }
        let Some(result) = probe(&containers, &container, &check).await else { return };
        let in_start_period = schedule.in_start_period(Instant::now());
        let changed = container.checks.inner().state.judge(result, counts, check.retries, in_start_period);
        if let Some(status) = changed {
            containers.networks().set_ready(&container.id, status == HealthStatusEnum::HEALTHY).await;
            containers.publish(&container, &format!("health_status: {status}"), []);
        }
    }
}

/// One probe; `None` when the container is gone.
async fn probe(containers: &Containers, container: &Arc<Container>, check: &Check) -> Option<HealthcheckResult> {
    let shim = container.shim()?;
    let start = now_ns();
    let result = |code: i64, output: String| HealthcheckResult {
        start: Some(timestamp(start)),
        end: Some(timestamp(now_ns())),
        exit_code: Some(code),
        output: Some(output),
    };
    let id = match super::new_id() {
        Ok(id) => id,
        Err(error) => return Some(result(-1, error.message)),
    };
    let (sender, ended) = oneshot::channel();
    container.checks.inner().waiting.insert(id.clone(), sender);
    let _forget = Forget { container, id: &id };
    let (sender, mut output) = mpsc::channel(16);
    let attempt = async {
        let request = request(containers, container, check, &id).await?;
        shim.exec(request).await
    };
    let carrying = match attempt.await {
        Ok(Ok((_, descriptors))) => match exec::carry(descriptors, [true; 2], sender) {
            Ok(carrying) => carrying,
            Err(error) => return Some(result(-1, error.to_string())),
        },
        Ok(Err(failure)) => return Some(result(-1, exec::complaint(&failure))),
        Err(_) if shim.is_gone() => return None,
        Err(error) => return Some(result(-1, error.message)),
    };
    let reading = tokio::spawn(carrying);
    let gather = tokio::spawn(async move {
        let mut text = Vec::new();
        while let Some(piece) = output.recv().await {
            let room = OUTPUT.saturating_sub(text.len()).min(piece.bytes.len());
            text.extend_from_slice(&piece.bytes[..room]);
        }
        text
    });
    let mut ended = ended;
    let outcome = match tokio::time::timeout(check.timeout, &mut ended).await {
        Ok(Ok(code)) => Some(i64::from(code)),
        // The container has ended.
        Ok(Err(_)) => return None,
        Err(_) => {
            let _ = shim.kill_exec(&id, nix::sys::signal::Signal::SIGKILL as i32).await;
            let _ = tokio::time::timeout(KILL_WAIT, ended).await;
            None
        }
    };
    // What it left running may hold its output open.
    let mut reading = reading;
    if tokio::time::timeout(Duration::from_millis(100), &mut reading).await.is_err() {
        reading.abort();
    }
    let text = gather.await.unwrap_or_default();
    Some(match outcome {
        Some(code) => result(code, String::from_utf8_lossy(&text).into_owned()),
        None => result(-1, format!("Health check exceeded timeout ({})", in_words(check.timeout))),
    })
}

fn timestamp(nanoseconds: u64) -> String {
    sampan_image::timestamp::format(i64::try_from(nanoseconds).unwrap_or(i64::MAX))
}

/// A duration as Docker writes it: `1m30s`, `1.5s`, `200ms`.
fn in_words(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        return format!("{}ms", time.as_secs_f64() * 1000.0);
    }
    let minutes = time.as_secs() / 60;
    let seconds = (time - Duration::from_secs(minutes * 60)).as_secs_f64();
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// Nobody waits for a probe that is over or was given up.
struct Forget<'a> {
    container: &'a Container,
    id: &'a str,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.container.checks.inner().waiting.remove(self.id);
    }
}

async fn request(containers: &Containers, container: &Container, check: &Check, id: &str) -> Result<ExecRequest> {
    let config = ExecConfig { cmd: Some(check.command.clone()), ..ExecConfig::default() };
    let process = exec::process_in(containers, container, &config).await?;
    let record = container.record();
    Ok(ExecRequest {
        id: id.to_owned(),
        process,
        user: record.config.user.clone().unwrap_or_default(),
        groups: record.host.group_add.clone().unwrap_or_default(),
        stdin: false,
        size: None,
        privileged: false,
        detached: false,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(interval: u64, start_period: u64) -> Check {
        Check {
            command: vec!["true".into()],
            interval: Duration::from_secs(interval),
            timeout: Duration::from_secs(1),
            retries: 2,
            start_period: Duration::from_secs(start_period),
            start_interval: Duration::from_secs(1),
        }
    }

    fn result(code: i64) -> HealthcheckResult {
        HealthcheckResult { exit_code: Some(code), ..HealthcheckResult::default() }
    }

    fn list(text: &[&str]) -> Option<Vec<String>> {
        Some(text.iter().map(|item| (*item).to_owned()).collect())
    }

    #[test]
    fn probes_come_early_and_count_at_their_time() {
        let started = Instant::now();
        let mut schedule = Schedule::new(check(3, 0), started);
        let mut times = Vec::new();
        let mut now = started;
        for _ in 0..11 {
            let (at, counts) = schedule.next(now, true);
            now = at;
            times.push(((now - started).as_millis(), counts));
        }
        let early = [10, 30, 70, 150, 310, 630, 1270, 2550].map(|time| (time, false));
        assert_eq!(times[..8], early);
        assert_eq!(times[8..], [(3000, true), (6000, true), (9000, true)]);
        // Healthy: only at the interval.
        assert_eq!(schedule.next(now, false), (now + Duration::from_secs(3), true));
    }

    #[test]
    fn a_check_that_is_at_its_start_for_long_goes_on() {
        let started = Instant::now();
        let mut schedule = Schedule::new(check(3, 3600), started);
        let mut now = started;
        for _ in 0..1000 {
            now = schedule.next(now, true).0;
        }
        assert_eq!(schedule.next(now, true), (now + Duration::from_secs(1), true));
    }

    #[test]
    fn the_start_period_has_an_interval_of_its_own() {
        let started = Instant::now();
        let mut schedule = Schedule::new(check(30, 3), started);
        schedule.pause = Duration::from_secs(100);
        let mut now = started;
        let mut times = Vec::new();
        for _ in 0..4 {
            now = schedule.next(now, true).0;
            times.push((now - started).as_secs());
        }
        assert_eq!(times, [1, 2, 3, 33]);
    }

    #[test]
    fn only_failures_that_count_make_unhealthy_and_one_success_heals() {
        let mut state = State::starting();
        for _ in 0..10 {
            assert_eq!(state.judge(result(1), false, 2, false), None);
        }
        assert_eq!((state.streak, state.log.len()), (0, 0));
        assert_eq!(state.judge(result(1), true, 2, true), None);
        assert_eq!(state.streak, 0);
        assert_eq!(state.judge(result(1), true, 2, false), None);
        assert_eq!(state.judge(result(1), true, 2, false), Some(HealthStatusEnum::UNHEALTHY));
        assert_eq!(state.judge(result(1), true, 2, false), None);
        assert_eq!(state.judge(result(0), true, 2, false), Some(HealthStatusEnum::HEALTHY));
        for _ in 0..9 {
            state.judge(result(0), true, 2, false);
        }
        assert_eq!((state.streak, state.log.len()), (0, KEPT));
    }

    #[test]
    fn durations_are_written_as_docker_writes_them() {
        let words = |milliseconds| in_words(Duration::from_millis(milliseconds));
        assert_eq!([words(200), words(1500), words(90_000), words(3_600_000)], ["200ms", "1.5s", "1m30s", "1h0m0s"]);
    }

    #[test]
    fn tests_are_read_as_docker_reads_them() {
        let command = |test: &[&str], shell: Option<&[String]>| {
            Check::of(&HealthConfig { test: list(test), ..HealthConfig::default() }, shell).map(|check| check.command)
        };
        assert_eq!(command(&["CMD", "curl", "-f"], None), list(&["curl", "-f"]));
        assert_eq!(command(&["CMD-SHELL", "exit 1"], None), list(&["/bin/sh", "-c", "exit 1"]));
        assert_eq!(command(&["CMD-SHELL", "x"], list(&["bash", "-ec"]).as_deref()), list(&["bash", "-ec", "x"]));
        assert_eq!(command(&["NONE"], None), None);
        assert_eq!(command(&[], None), None);
        let usual = Check::of(&HealthConfig { test: list(&["CMD", "x"]), ..HealthConfig::default() }, None).unwrap();
        assert_eq!((usual.interval.as_secs(), usual.timeout.as_secs(), usual.retries), (30, 30, 3));
    }
}
