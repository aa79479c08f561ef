//! Sizes and durations as they are written in canonical text.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A size in bytes; written as a string of digits, as the reference does. -1 means unlimited where that is allowed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub i64);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

/// A duration as `1h2m3.5s`: nonzero units only below the largest, fractions below a second as `1.5ms`, `10µs`, `7ns`.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    for (unit, name) in [(1_000_u128, "ns"), (1_000_000, "µs"), (1_000_000_000, "ms")] {
        if nanos < unit {
            return format!("{}{name}", decimal(nanos, unit / 1_000));
        }
    }
    let second = 1_000_000_000_u128;
    let (minutes, rest) = (nanos / (60 * second), nanos % (60 * second));
    let seconds = decimal(rest, second);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, m) => format!("{m}m{seconds}s"),
        (h, m) => format!("{h}h{m}m{seconds}s"),
    }
}

/// `value / unit` without trailing zeros.
fn decimal(value: u128, unit: u128) -> String {
    let digits = unit.ilog10() as usize;
    let text = format!("{}.{:0digits$}", value / unit, value % unit);
    if digits == 0 {
        return (value / unit).to_string();
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Reads a duration such as `1h30m`, `1.5s`, `300ms`, `2d`, `1w`.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is not a duration; write for example 10s, 1m30s or 500ms");
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(bad());
    }
    let mut total = 0_u128;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let (number, tail) = rest.split_at(end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let scale: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "d" => 86_400_000_000_000,
            "w" => 604_800_000_000_000,
            _ => return Err(bad()),
        };
        total = scaled(number, scale).and_then(|part| total.checked_add(part)).ok_or_else(bad)?;
        rest = tail;
    }
    // Durations travel as signed 64-bit nanoseconds in Docker's API.
    u64::try_from(total).ok().filter(|&n| i64::try_from(n).is_ok()).map(Duration::from_nanos).ok_or_else(bad)
}

/// A decimal number times `scale`, exactly, fractions below one cut off.
fn scaled(number: &str, scale: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || number.len() > 40 {
        return None;
    }
    let mut total = if whole.is_empty() { 0 } else { whole.parse::<u128>().ok()?.checked_mul(scale)? };
    let mut place = scale;
    for digit in fraction.bytes() {
        place /= 10;
        total = total.checked_add(u128::from(digit - b'0') * place)?;
    }
    Some(total)
}

/// Reads a size such as `512`, `64m`, `1.5GB`, `20KiB`: units are powers of 1024, as everywhere in Docker's options.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_bytes(text: &str) -> Result<i64, String> {
    let bad = || format!("`{text}` is not a size; write for example 512m, 1g or 65536");
    let trimmed = text.trim();
    let end = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(end);
    let unit = unit.trim().to_ascii_lowercase();
    let shift = match unit.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return Err(bad()),
    };
    // Fractions of a power of two: scaled in parts of 10^6 so that 1.5g is exact.
    let micro = scaled(number, 1_000_000).ok_or_else(bad)?;
    let bytes = micro.checked_mul(1 << shift).ok_or_else(bad)? / 1_000_000;
    i64::try_from(bytes).map_err(|_| bad())
}

/// Serde form of an optional duration: its text.
pub mod optional_duration {
    use super::{Deserialize, Deserializer, Duration, Serializer, format_duration, parse_duration};

    /// # Errors
    /// The serializer's.
    #[allow(clippy::ref_option)]
    pub fn serialize<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(duration) => serializer.serialize_str(&format_duration(*duration)),
            None => serializer.serialize_none(),
        }
    }

    /// # Errors
    /// When the text is not a duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| parse_duration(&text).map_err(serde::de::Error::custom)).transpose()
    }
}

/// Serde form of an optional number: its text. A number is read too.
pub mod optional_text {
    use super::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Number(i64),
        Text(String),
    }

    /// # Errors
    /// The serializer's.
    #[allow(clippy::ref_option)]
    pub fn serialize<S: Serializer>(value: &Option<i64>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_none(),
        }
    }

    /// # Errors
    /// When the text is not a number.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
        match Option::<Form>::deserialize(deserializer)? {
            Some(Form::Number(value)) => Ok(Some(value)),
            Some(Form::Text(text)) => text.parse().map(Some).map_err(serde::de::Error::custom),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_does() {
        for (text, canonical) in [
            ("90s", "1m30s"),
            ("1500ms", "1.5s"),
            ("1h", "1h0m0s"),
            ("1h30m", "1h30m0s"),
            ("300ms", "300ms"),
            ("10us", "10µs"),
            ("1500ns", "1.5µs"),
            ("7ns", "7ns"),
            ("0", "0s"),
            ("1d", "24h0m0s"),
            ("1.5h", "1h30m0s"),
        ] {
            assert_eq!(parse_duration(text).map(format_duration).as_deref(), Ok(canonical), "{text}");
        }
        for text in ["", "10", "s", "1x", "-1s", "1 s", "1..5s", "99999999999h", "."] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_in_powers_of_1024() {
        for (text, bytes) in [("5", 5), ("5b", 5), ("1k", 1024), ("64 MB", 64 << 20), ("1.5g", 3 << 29), ("2KiB", 2048)]
        {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "x", "-1", "1q", "1.2.3k", "99999999999999p"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }
}
