//! Whether and when a container that has ended is started again. Pure.

use std::time::Duration;

use bollard_stubs::models::{HostConfig, RestartPolicyNameEnum};

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(60);
/// A container that ran this long has recovered: the next wait begins anew.
const RECOVERED: Duration = Duration::from_secs(10);

/// Docker's restart policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Never.
    No,
    /// Always; after a stop by hand not before the daemon starts anew.
    Always,
    /// Unless it was stopped by hand.
    UnlessStopped,
    /// After a failure, at most so many times; zero for ever.
    OnFailure(u32),
}

impl Policy {
    /// The policy of a container.
    pub(crate) fn of(host: &HostConfig) -> Self {
        let Some(policy) = &host.restart_policy else { return Self::No };
        match policy.name {
            Some(RestartPolicyNameEnum::ALWAYS) => Self::Always,
            Some(RestartPolicyNameEnum::UNLESS_STOPPED) => Self::UnlessStopped,
            Some(RestartPolicyNameEnum::ON_FAILURE) => {
                Self::OnFailure(policy.maximum_retry_count.and_then(|count| u32::try_from(count).ok()).unwrap_or(0))
            }
            _ => Self::No,
        }
    }

    /// Whether a container that has just ended is started again.
    pub(crate) fn restarts(self, code: i64, restarts_so_far: u32, stopped_by_hand: bool) -> bool {
        !stopped_by_hand && self.wants(code, restarts_so_far)
    }

    /// Whether a container that does not run is started when the daemon starts.
    pub(crate) fn starts_with_daemon(self, code: i64, restarts_so_far: u32, stopped_by_hand: bool) -> bool {
        self == Self::Always || self.restarts(code, restarts_so_far, stopped_by_hand)
    }

    fn wants(self, code: i64, restarts_so_far: u32) -> bool {
        match self {
            Self::No => false,
            Self::Always | Self::UnlessStopped => true,
            Self::OnFailure(most) => code != 0 && (most == 0 || restarts_so_far < most),
        }
    }
}

/// The growing wait between restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    last: Option<Duration>,
    times: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::starting_at(FIRST)
    }
}

impl Backoff {
    /// Waits that grow from a first one.
    #[must_use]
    pub fn starting_at(first: Duration) -> Self {
        Self { first, last: None, times: 0 }
    }

    /// The wait before the next start, after a run of this length.
    pub fn next(&mut self, ran: Duration) -> Duration {
        let wait = match self.last {
            Some(last) if !Self::is_over(ran) => (last * 2).min(LONGEST),
            _ => {
                self.times = 0;
                self.first
            }
        };
        self.last = Some(wait);
        self.times += 1;
        wait
    }

    /// Whether after so long a time that was good a row of waits begins anew.
    #[must_use]
    pub fn is_over(good: Duration) -> bool {
        good >= RECOVERED
    }

    /// How many waits there were in a row.
    #[must_use]
    pub fn times(&self) -> u32 {
        self.times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_decide_as_dockers() {
        use Policy::{Always, No, OnFailure, UnlessStopped};
        assert!(!No.restarts(1, 0, false));
        assert!(Always.restarts(0, 9, false) && !Always.restarts(0, 0, true));
        assert!(UnlessStopped.restarts(0, 0, false) && !UnlessStopped.restarts(0, 0, true));
        assert!(OnFailure(0).restarts(1, 1000, false) && !OnFailure(0).restarts(0, 0, false));
        assert!(OnFailure(3).restarts(1, 2, false) && !OnFailure(3).restarts(1, 3, false));
        assert!(Always.starts_with_daemon(0, 0, true) && !UnlessStopped.starts_with_daemon(0, 0, true));
    }

    #[test]
    fn waits_double_to_a_minute_and_begin_anew_after_ten_seconds() {
        let mut backoff = Backoff::default();
        let short = Duration::from_secs(1);
        let waits: Vec<u128> = (0..12).map(|_| backoff.next(short).as_millis()).collect();
        assert_eq!(waits[..5], [100, 200, 400, 800, 1600]);
        assert_eq!(waits[10..], [60_000, 60_000]);
        assert_eq!(backoff.times(), 12);
        assert_eq!(backoff.next(Duration::from_secs(10)), FIRST);
        assert_eq!(backoff.next(short), FIRST * 2);
        assert_eq!(backoff.times(), 2);
    }
}
