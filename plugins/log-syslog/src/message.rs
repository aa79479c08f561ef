//! Messages in the formats that servers know.

use std::fmt::Write;

use sampan_driver_sdk::frame::Record;

const FACILITIES: [&str; 24] = [
    "kern",
    "user",
    "mail",
    "daemon",
    "auth",
    "syslog",
    "lpr",
    "news",
    "uucp",
    "cron",
    "authpriv",
    "ftp",
    "ntp",
    "security",
    "console",
    "solaris-cron",
    "local0",
    "local1",
    "local2",
    "local3",
    "local4",
    "local5",
    "local6",
    "local7",
];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Rfc5424 { digits: usize },
    Rfc3164,
}

/// How messages look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Style {
    format: Format,
    facility: u8,
    tag: String,
}

impl Style {
    pub fn parse(format: &str, facility: &str) -> Result<Self, String> {
        let format = match format {
            "" | "rfc5424" => Format::Rfc5424 { digits: 0 },
            "rfc5424micro" => Format::Rfc5424 { digits: 6 },
            "rfc3164" => Format::Rfc3164,
            _ => return Err(format!("option syslog-format: {format:?} is not rfc5424, rfc5424micro or rfc3164")),
        };
        let known = FACILITIES.iter().position(|name| *name == facility);
        let number = known.or_else(|| facility.parse().ok().filter(|number| *number < FACILITIES.len()));
        let number = if facility.is_empty() { Some(3) } else { number };
        let number = number
            .ok_or_else(|| format!("option syslog-facility: {facility:?} is none of {}", FACILITIES.join(", ")))?;
        Ok(Self { format, facility: u8::try_from(number).unwrap_or(3), tag: "-".into() })
    }

    /// Who the messages come from: one word of visible characters.
    pub fn from(&mut self, tag: &str) {
        let tag: String = tag.chars().filter(char::is_ascii_graphic).take(48).collect();
        self.tag = if tag.is_empty() { "-".into() } else { tag };
    }

    /// Appends a message. Lines within it would be taken for others: they are spaces.
    pub fn message(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        let severity = if record.stream == 2 { 3 } else { 6 };
        let priority = self.facility * 8 + severity;
        let time = Time::of(record.time);
        let mut head = String::with_capacity(64);
        let _ = match self.format {
            Format::Rfc5424 { digits } => {
                let _ = write!(head, "<{priority}>1 ");
                time.full(digits, &mut head);
                write!(head, " - {} - - - ", self.tag)
            }
            Format::Rfc3164 => {
                let Time { month, day, hour, minute, second, .. } = time;
                let month = MONTHS[usize::try_from(month - 1).unwrap_or(0) % 12];
                write!(head, "<{priority}>{month} {day:>2} {hour:02}:{minute:02}:{second:02} localhost {}: ", self.tag)
            }
        };
        out.extend_from_slice(head.as_bytes());
        let text = String::from_utf8_lossy(record.bytes);
        out.extend(text.bytes().map(|byte| if matches!(byte, b'\n' | b'\r' | 0) { b' ' } else { byte }));
    }
}

struct Time {
    year: i64,
    month: i64,
    day: i64,
    hour: u64,
    minute: u64,
    second: u64,
    nanosecond: u64,
}

impl Time {
    /// Counted in eras of 400 years from March.
    fn of(nanoseconds: u64) -> Self {
        let seconds = nanoseconds / 1_000_000_000;
        let shifted = i64::try_from(seconds / 86_400).unwrap_or(0) + 719_468;
        let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        Self {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month,
            day: day_of_year - (153 * from_march + 2) / 5 + 1,
            hour: seconds % 86_400 / 3600,
            minute: seconds / 60 % 60,
            second: seconds % 60,
            nanosecond: nanoseconds % 1_000_000_000,
        }
    }

    fn full(&self, digits: usize, out: &mut String) {
        let Self { year, month, day, hour, minute, second, nanosecond } = self;
        let _ = write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
        if digits > 0 {
            let fraction = format!("{nanosecond:09}");
            let _ = write!(out, ".{}", &fraction[..digits]);
        }
        out.push('Z');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(format: &str, record: &Record<'_>) -> String {
        let mut style = Style::parse(format, "local0").unwrap();
        style.from("web 1");
        let mut out = Vec::new();
        style.message(record, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn messages_are_as_servers_want_them() {
        let record = Record { time: 1_709_210_096_123_456_789, stream: 2, partial: false, bytes: b"a\nb\xff" };
        assert_eq!(message("rfc5424", &record), "<131>1 2024-02-29T12:34:56Z - web1 - - - a b\u{fffd}");
        assert_eq!(message("rfc5424micro", &record), "<131>1 2024-02-29T12:34:56.123456Z - web1 - - - a b\u{fffd}");
        let record = Record { time: 1_700_000_000_000_000_000, stream: 1, partial: false, bytes: b"x" };
        assert_eq!(message("rfc3164", &record), "<134>Nov 14 22:13:20 localhost web1: x");
    }

    #[test]
    fn mistakes_are_told() {
        assert!(Style::parse("rfc1", "").unwrap_err().contains("rfc5424"));
        assert!(Style::parse("", "loud").unwrap_err().contains("none of kern"));
        assert!(Style::parse("", "24").is_err());
        assert_eq!(Style::parse("", "16"), Style::parse("rfc5424", "local0"));
    }
}
