//! RFC 3339 times, as image documents write them, to and from nanoseconds since 1970.

use jiff::Timestamp;

/// Nanoseconds since 1970; `None` for a text that is no time, or one out of range.
#[must_use]
pub fn parse(text: &str) -> Option<i64> {
    i64::try_from(text.parse::<Timestamp>().ok()?.as_nanosecond()).ok()
}

/// With as many digits after the point as needed, in UTC.
#[must_use]
pub fn format(nanoseconds: i64) -> String {
    // Every time that 64 bits hold is one that jiff knows.
    Timestamp::from_nanosecond(nanoseconds.into()).unwrap_or_default().to_string()
}

/// The present, in nanoseconds since 1970.
#[must_use]
pub fn now() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_times() {
        assert_eq!(parse("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(parse("2000-02-29T12:00:00.5+01:00"), Some(951_822_000_500_000_000));
        assert_eq!(format(951_822_000_500_000_000), "2000-02-29T11:00:00.5Z");
        assert_eq!(parse("0001-01-01T00:00:00Z"), None);
        for bad in
            ["", "2000", "2000-13-01T00:00:00Z", "2000-01-01T00:00:00", "2000-01-01T00:00:00.Z", "2000-01-01T0:00:00Z"]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(time in -2_000_000_000_000_000_000_i64..8_000_000_000_000_000_000) {
            prop_assert_eq!(parse(&format(time)), Some(time));
        }
    }
}
