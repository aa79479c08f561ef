//! Signals by name and number, as Docker takes them.

use nix::sys::signal::Signal;

use crate::error::{Error, Result};

/// First and last real-time signal that programs see.
const REAL_TIME: (i32, i32) = (34, 64);

/// The number of `SIGTERM`, `term`, `15` or `RTMIN+3`.
pub(crate) fn parse(text: &str) -> Result<i32> {
    let invalid = || Error::invalid(format!("invalid signal: {text}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=REAL_TIME.1).contains(&number) { Ok(number) } else { Err(invalid()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(rest) = name.strip_prefix("RTMIN") {
        return real_time(REAL_TIME.0, 1, rest.strip_prefix('+').or(rest.is_empty().then_some("0")))
            .ok_or_else(invalid);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        return real_time(REAL_TIME.1, -1, rest.strip_prefix('-').or(rest.is_empty().then_some("0")))
            .ok_or_else(invalid);
    }
    let name = match name {
        "CLD" => "CHLD",
        "POLL" => "IO",
        other => other,
    };
    format!("SIG{name}").parse::<Signal>().map(|signal| signal as i32).map_err(|_| invalid())
}

fn real_time(base: i32, direction: i32, distance: Option<&str>) -> Option<i32> {
    let distance: i32 = distance?.parse().ok()?;
    let number = base.checked_add(direction.checked_mul(distance)?)?;
    (REAL_TIME.0..=REAL_TIME.1).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_and_numbers_are_taken() {
        for (text, number) in
            [("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGRTMIN", 34), ("RTMIN+3", 37), ("RTMAX-1", 63), ("CHLD", 17)]
        {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        for bad in ["", "0", "65", "SIGFOO", "RTMIN+99", "RTMINx", "-9"] {
            assert_eq!(parse(bad).unwrap_err().message, format!("invalid signal: {bad}"));
        }
    }
}
