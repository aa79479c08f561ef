//! `--since` and `--until`: points in time, given absolutely or as an age.

use super::{Parsed, quantity};
use crate::output::human::parse_rfc3339;

/// Seconds and nanoseconds since the epoch, as the API takes them, from `42m`, a date, a time, or Unix seconds.
pub fn point(text: &str, now_ns: i64) -> Parsed<String> {
    let wrong =
        || format!("invalid time {text:?}: use a duration such as 42m, a date, an RFC 3339 time or Unix seconds");
    if let Ok(age) = quantity::duration(text) {
        let then = now_ns.saturating_sub(age).max(0);
        return Ok(format!("{}.{:09}", then / 1_000_000_000, then % 1_000_000_000));
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !whole.is_empty() && whole.bytes().all(|byte| byte.is_ascii_digit()) && whole.len() > 4 {
        let digits = fraction.bytes().all(|byte| byte.is_ascii_digit()) && fraction.len() <= 9;
        return if digits { Ok(text.to_owned()) } else { Err(wrong()) };
    }
    // Shorter forms are completed: a date is its midnight, a time without a zone is UTC.
    let full = match text.len() {
        4 => format!("{text}-01-01T00:00:00Z"),
        7 => format!("{text}-01T00:00:00Z"),
        10 => format!("{text}T00:00:00Z"),
        13 => format!("{text}:00:00Z"),
        16 => format!("{text}:00Z"),
        _ if text.ends_with('Z') || text.get(19..).is_some_and(|zone| zone.contains(['+', '-'])) => text.to_owned(),
        _ => format!("{text}Z"),
    };
    let then = parse_rfc3339(&full).ok_or_else(wrong)?;
    Ok(format!("{}.{:09}", then.as_second(), then.subsec_nanosecond()))
}

/// As [`point`], from this moment.
pub fn ago(text: &str) -> Parsed<String> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_nanos());
    point(text, i64::try_from(now).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn points_in_time() {
        let now = 1_700_000_000_500_000_000;
        for (text, expected) in [
            ("10s", "1699999990.500000000"),
            ("1h", "1699996400.500000000"),
            ("1699999999", "1699999999"),
            ("1699999999.25", "1699999999.25"),
            ("2024-02-29", "1709164800.000000000"),
            ("2024-02-29T12:34:56Z", "1709210096.000000000"),
            ("2024-02-29T12:34:56", "1709210096.000000000"),
            ("2024-02-29T12:34:56.007Z", "1709210096.007000000"),
            ("2024-02-29T14:34:56+02:00", "1709210096.000000000"),
            ("2024-02-29T12:34", "1709210040.000000000"),
        ] {
            assert_eq!(point(text, now).unwrap(), expected, "{text}");
        }
        for text in ["", "yesterday", "1699999999.x", "2024-xx-01"] {
            assert!(point(text, now).is_err(), "{text}");
        }
    }
}
