//! How a container stands, in Docker's words. Pure.

use bollard_stubs::models::HealthStatusEnum;

use super::record::{State, Status};

/// A length of time as Docker tells it to people.
pub(crate) fn duration(nanoseconds: u64) -> String {
    let seconds = nanoseconds / 1_000_000_000;
    let minutes = seconds / 60;
    // Hours are rounded, the others cut.
    let hours = (seconds + 1800) / 3600;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", hours / 24 / 365),
    }
}

/// A container that has ended waits for its next start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wait {
    /// How many starts there were in a row that came to nothing.
    pub starts: u32,
    /// Of the next start; nanoseconds since the epoch.
    pub at_ns: u64,
}

/// This many in a row are a crash loop.
const CRASH_LOOP: u32 = 3;

/// What a wait is called, when it is one in a crash loop.
pub(crate) fn crash_loop(wait: Option<Wait>, now_ns: u64) -> Option<String> {
    let wait = wait.filter(|wait| wait.starts >= CRASH_LOOP)?;
    let left = match wait.at_ns.saturating_sub(now_ns) {
        0 => "now".to_owned(),
        left if left < 1_000_000_000 => format!("in {} ms", left / 1_000_000),
        left => format!("in {}", duration(left)),
    };
    Some(format!("next start {left}"))
}

/// The status column of `ps`.
pub(crate) fn line(state: &State, health: Option<HealthStatusEnum>, wait: Option<Wait>, now_ns: u64) -> String {
    let line = plain(state, health, now_ns);
    let ended = matches!(state.status, Status::Restarting | Status::Exited);
    match crash_loop(wait.filter(|wait| ended && wait.at_ns > state.finished_ns), now_ns) {
        Some(text) => format!("{line} (crash loop, {text})"),
        None => line,
    }
}

fn plain(state: &State, health: Option<HealthStatusEnum>, now_ns: u64) -> String {
    let up = || duration(now_ns.saturating_sub(state.started_ns));
    let ago = || duration(now_ns.saturating_sub(state.finished_ns));
    match state.status {
        Status::Created => "Created".to_owned(),
        Status::Paused => format!("Up {} (Paused)", up()),
        Status::Restarting => format!("Restarting ({}) {} ago", state.exit_code, ago()),
        Status::Removing => "Removal In Progress".to_owned(),
        Status::Dead => "Dead".to_owned(),
        Status::Exited => format!("Exited ({}) {} ago", state.exit_code, ago()),
        Status::Running => match health {
            Some(HealthStatusEnum::STARTING) => format!("Up {} (health: starting)", up()),
            Some(HealthStatusEnum::HEALTHY) => format!("Up {} (healthy)", up()),
            Some(HealthStatusEnum::UNHEALTHY) => format!("Up {} (unhealthy)", up()),
            _ => format!("Up {}", up()),
        },
    }
}

/// The command column of `ps`: the program and its arguments, quoted where a shell would need it.
pub(crate) fn command(arguments: &[String]) -> String {
    let quoted = |text: &String| {
        if text.is_empty() || text.contains([' ', '\t', '\n', '"', '\'']) {
            format!("'{}'", text.replace('\'', "'\\''"))
        } else {
            text.clone()
        }
    };
    match arguments.split_first() {
        None => String::new(),
        Some((program, rest)) => {
            std::iter::once(program.clone()).chain(rest.iter().map(quoted)).collect::<Vec<_>>().join(" ")
        }
    }
}

/// A time for `inspect`; Go's zero when it never was.
pub(crate) fn time(nanoseconds: u64) -> String {
    if nanoseconds == 0 {
        return "0001-01-01T00:00:00Z".to_owned();
    }
    sampan_image::timestamp::format(i64::try_from(nanoseconds).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const DAY: u64 = 86_400 * SECOND;

    #[test]
    fn lengths_read_as_dockers() {
        for (nanoseconds, text) in [
            (SECOND / 2, "Less than a second"),
            (SECOND, "1 second"),
            (59 * SECOND, "59 seconds"),
            (90 * SECOND, "About a minute"),
            (300 * SECOND, "5 minutes"),
            (3600 * SECOND, "About an hour"),
            (5400 * SECOND, "2 hours"),
            (3 * DAY, "3 days"),
            (15 * DAY, "2 weeks"),
            (70 * DAY, "2 months"),
            (800 * DAY, "2 years"),
        ] {
            assert_eq!(duration(nanoseconds), text);
        }
    }

    #[test]
    fn states_read_as_dockers() {
        let state = |status, exit_code| State {
            status,
            exit_code,
            started_ns: SECOND,
            finished_ns: 121 * SECOND,
            ..State::default()
        };
        let at = |status, code, health| line(&state(status, code), health, None, 241 * SECOND);
        assert_eq!(at(Status::Running, 0, None), "Up 4 minutes");
        assert_eq!(at(Status::Running, 0, Some(HealthStatusEnum::HEALTHY)), "Up 4 minutes (healthy)");
        assert_eq!(at(Status::Running, 0, Some(HealthStatusEnum::STARTING)), "Up 4 minutes (health: starting)");
        assert_eq!(at(Status::Paused, 0, None), "Up 4 minutes (Paused)");
        assert_eq!(at(Status::Exited, 3, None), "Exited (3) 2 minutes ago");
        assert_eq!(at(Status::Restarting, 1, None), "Restarting (1) 2 minutes ago");
        assert_eq!(at(Status::Created, 0, None), "Created");
        let waits = |starts, seconds: u64, status| {
            line(&state(status, 1), None, Some(Wait { starts, at_ns: (241 + seconds) * SECOND }), 241 * SECOND)
        };
        assert_eq!(
            waits(3, 5, Status::Restarting),
            "Restarting (1) 2 minutes ago (crash loop, next start in 5 seconds)"
        );
        assert_eq!(waits(9, 0, Status::Exited), "Exited (1) 2 minutes ago (crash loop, next start now)");
        assert_eq!(waits(2, 5, Status::Restarting), "Restarting (1) 2 minutes ago", "not yet");
        assert_eq!(waits(3, 5, Status::Running), "Up 4 minutes");
    }

    #[test]
    fn commands_are_quoted_where_needed() {
        let list = ["sh".to_owned(), "-c".to_owned(), "echo a; it's".to_owned()];
        assert_eq!(command(&list), "sh -c 'echo a; it'\\''s'");
    }
}
