//! Sizes and times as Docker's command line words them.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// `1.23MB`: decimal units, three significant digits, as Docker prints sizes of images.
pub fn decimal_size(bytes: u64) -> String {
    scaled(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB"])
}

/// `1.234MB`: decimal units, four significant digits, as Docker prints sums.
pub fn size(bytes: u64) -> String {
    let (value, unit) = scale(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB"]);
    format!("{}{unit}", significant(value, 4))
}

/// `1.234MiB`: binary units, four significant digits, as `stats` prints memory.
pub fn binary_size(bytes: u64) -> String {
    let (value, unit) = scale(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB"]);
    format!("{}{unit}", significant(value, 4))
}

fn scaled(bytes: u64, base: f64, units: &[&str]) -> String {
    let (value, unit) = scale(bytes, base, units);
    format!("{}{unit}", significant(value, 3))
}

#[allow(clippy::cast_precision_loss)]
fn scale<'a>(bytes: u64, base: f64, units: &[&'a str]) -> (f64, &'a str) {
    let mut value = bytes as f64;
    let mut at = 0;
    while value >= base && at + 1 < units.len() {
        value /= base;
        at += 1;
    }
    (value, units[at])
}

/// Go's `%.4g`: significant digits without trailing zeros.
fn significant(value: f64, digits: usize) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let before = if value >= 1.0 { value.log10().floor() as usize + 1 } else { 1 };
    let text = format!("{value:.*}", digits.saturating_sub(before));
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// `3 minutes`, `About an hour`: how Docker words a duration of seconds.
pub fn duration(seconds: u64) -> String {
    let minutes = seconds / 60;
    // Docker rounds hours to the nearest.
    let hours = (seconds + 1800) / 3600;
    match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".to_owned(),
        (1, ..) => "1 second".to_owned(),
        (s, ..) if s < 60 => format!("{s} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, m, _) if m < 60 => format!("{m} minutes"),
        (_, _, 1) => "About an hour".to_owned(),
        (_, _, h) if h < 48 => format!("{h} hours"),
        (_, _, h) if h < 24 * 7 * 2 => format!("{} days", h / 24),
        (_, _, h) if h < 24 * 30 * 2 => format!("{} weeks", h / 24 / 7),
        (_, _, h) if h < 24 * 365 * 2 => format!("{} months", h / 24 / 30),
        (_, _, h) => format!("{} years", h / 24 / 365),
    }
}

/// Seconds since the epoch, now.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

/// `3 minutes ago`, from seconds since the epoch.
pub fn ago(then: i64) -> String {
    if then <= 0 {
        return "N/A".to_owned();
    }
    format!("{} ago", duration(now().saturating_sub(u64::try_from(then).unwrap_or(0))))
}

/// An RFC 3339 time.
pub fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// Seconds since the epoch of an RFC 3339 time.
pub fn unix_seconds(text: &str) -> Option<i64> {
    parse_rfc3339(text).map(Timestamp::as_second)
}

/// `2006-01-02 15:04:05 +0000 UTC`, as the `CreatedAt` fields read.
pub fn date(seconds: i64) -> String {
    rfc3339(seconds).replacen('T', " ", 1).replace('Z', " +0000 UTC")
}

/// `2006-01-02T15:04:05Z`.
pub fn rfc3339(seconds: i64) -> String {
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX).to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sizes_read_as_dockers() {
        assert_eq!(decimal_size(0), "0B");
        assert_eq!(decimal_size(999), "999B");
        assert_eq!(decimal_size(1_234_567), "1.23MB");
        assert_eq!(decimal_size(77_800_000), "77.8MB");
        assert_eq!(size(1_234_567), "1.235MB");
        assert_eq!(binary_size(1_536), "1.5KiB");
        assert_eq!(binary_size(12_345_678), "11.77MiB");
    }

    #[test]
    fn durations_read_as_dockers() {
        for (seconds, words) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (125, "2 minutes"),
            (3_600, "About an hour"),
            (7_200, "2 hours"),
            (172_800, "2 days"),
            (1_209_600, "2 weeks"),
            (6_000_000, "2 months"),
            (70_000_000, "2 years"),
        ] {
            assert_eq!(duration(seconds), words);
        }
    }

    #[test]
    fn times_parse_with_zones_and_fractions() {
        assert_eq!(unix_seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(unix_seconds("2024-02-29T12:34:56.000000007Z"), Some(1_709_210_096));
        assert_eq!(unix_seconds("2024-02-29T14:34:56+02:00"), Some(1_709_210_096));
        assert_eq!(unix_seconds("yesterday"), None);
        assert_eq!(date(1_709_210_096), "2024-02-29 12:34:56 +0000 UTC");
    }
}
