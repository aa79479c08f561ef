//! RFC 3339 with nanoseconds, both ways.

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimeParser;

/// Appends a second as Docker writes it (`2006-01-02T15:04:05`).
pub fn write_second(seconds: u64, out: &mut Vec<u8>) {
    let second = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    let text = second.unwrap_or_default().to_string();
    out.extend_from_slice(text.strip_suffix('Z').unwrap_or(&text).as_bytes());
}

/// Appends nanoseconds of a second with their dot, without trailing zeros; nothing for none.
pub fn write_fraction(nanoseconds: u64, out: &mut Vec<u8>) {
    if nanoseconds == 0 {
        return;
    }
    let mut digits = *b".000000000";
    let mut rest = u32::try_from(nanoseconds).unwrap_or(0);
    for place in digits[1..].iter_mut().rev() {
        *place = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    let end = digits.iter().rposition(|digit| *digit != b'0').map_or(0, |at| at + 1);
    out.extend_from_slice(&digits[..end]);
}

/// Reads a time in UTC, or with another zone as foreign writers have it.
pub fn parse(text: &[u8]) -> Option<u64> {
    let time = DateTimeParser::new().parse_timestamp(text).ok()?;
    u64::try_from(time.as_nanosecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(time: u64) -> Vec<u8> {
        let mut text = Vec::new();
        write_second(time / 1_000_000_000, &mut text);
        write_fraction(time % 1_000_000_000, &mut text);
        text.push(b'Z');
        text
    }

    #[test]
    fn times_survive() {
        for time in [
            0,
            1,
            1_709_210_096_000_000_007,
            1_709_210_096_120_000_000,
            951_868_799_999_999_999,
            4_102_444_800_000_000_000,
        ] {
            assert_eq!(parse(&written(time)), Some(time));
        }
        assert_eq!(written(1_709_210_096_120_000_000), b"2024-02-29T12:34:56.12Z");
        assert_eq!(parse(b"2024-02-29T13:34:56.12+01:00"), Some(1_709_210_096_120_000_000));
        for wrong in
            ["", "2024", "2024-13-01T00:00:00Z", "2024-02-29T12:34:56", "2024-02-29T12:34:56.Z", "xxxx-02-29T12:34:56Z"]
        {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
