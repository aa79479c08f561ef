//! `--health-*` and `--no-healthcheck`.

use bollard_stubs::models::HealthConfig;

use super::Parsed;

/// The values of the flags; times in nanoseconds.
#[derive(Debug, Default, Clone, Copy)]
pub struct Health<'a> {
    /// The shell command.
    pub command: Option<&'a str>,
    /// Between probes.
    pub interval: Option<i64>,
    /// For one probe.
    pub timeout: Option<i64>,
    /// Failures until unhealthy.
    pub retries: Option<i64>,
    /// In which failures do not count.
    pub start_period: Option<i64>,
    /// Between probes meanwhile.
    pub start_interval: Option<i64>,
    /// No check at all, whatever the image says.
    pub none: bool,
}

/// The check to send; `None` leaves the image's.
pub fn config(health: Health<'_>) -> Parsed<Option<HealthConfig>> {
    let Health { command, interval, timeout, retries, start_period, start_interval, none } = health;
    let some =
        command.is_some() || [interval, timeout, retries, start_period, start_interval].iter().any(Option::is_some);
    if none {
        if some {
            return Err("--no-healthcheck conflicts with --health-* options".to_owned());
        }
        return Ok(Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }));
    }
    if !some {
        return Ok(None);
    }
    for (value, flag) in [
        (interval, "--health-interval"),
        (timeout, "--health-timeout"),
        (retries, "--health-retries"),
        (start_period, "--health-start-period"),
        (start_interval, "--health-start-interval"),
    ] {
        if value.is_some_and(|value| value < 0) {
            return Err(format!("{flag} cannot be negative"));
        }
    }
    let test =
        command.filter(|command| !command.is_empty()).map(|command| vec!["CMD-SHELL".to_owned(), command.to_owned()]);
    Ok(Some(HealthConfig { test, interval, timeout, retries, start_period, start_interval }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn checks() {
        assert!(config(Health::default()).unwrap().is_none());
        let found = config(Health { command: Some("true"), interval: Some(5), ..Health::default() }).unwrap().unwrap();
        assert_eq!(found.test.unwrap(), ["CMD-SHELL", "true"]);
        assert_eq!(found.interval, Some(5));
        let found = config(Health { none: true, ..Health::default() }).unwrap().unwrap();
        assert_eq!(found.test.unwrap(), ["NONE"]);
        assert!(
            config(Health { none: true, retries: Some(1), ..Health::default() }).unwrap_err().contains("conflicts")
        );
        assert!(config(Health { timeout: Some(-1), ..Health::default() }).unwrap_err().contains("--health-timeout"));
    }
}
