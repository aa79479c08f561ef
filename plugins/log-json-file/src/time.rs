//! RFC 3339 with nanoseconds, both ways. Times of one batch share their second, so that is kept.

/// Appends a time as Docker writes it (`2006-01-02T15:04:05.000000001Z`, without trailing zeros).
pub fn write(nanoseconds: u64, out: &mut Vec<u8>) {
    let seconds = nanoseconds / 1_000_000_000;
    let (year, month, day) = civil(i64::try_from(seconds / 86_400).unwrap_or(0));
    let of_day = seconds % 86_400;
    two(u64::try_from(year / 100).unwrap_or(0), out);
    two(u64::try_from(year % 100).unwrap_or(0), out);
    for (separator, number) in [(b'-', month), (b'-', day), (b'T', of_day / 3600), (b':', of_day / 60 % 60), (b':', of_day % 60)] {
        out.push(separator);
        two(number, out);
    }
    let mut fraction = nanoseconds % 1_000_000_000;
    if fraction > 0 {
        out.push(b'.');
        let mut divisor = 100_000_000;
        while fraction > 0 {
            out.push(b'0' + u8::try_from(fraction / divisor).unwrap_or(0));
            fraction %= divisor;
            divisor /= 10;
        }
    }
    out.push(b'Z');
}

fn two(number: u64, out: &mut Vec<u8>) {
    out.push(b'0' + u8::try_from(number / 10 % 10).unwrap_or(0));
    out.push(b'0' + u8::try_from(number % 10).unwrap_or(0));
}

/// Days since 1970-01-01 as a date, counted in eras of 400 years from March.
fn civil(days: i64) -> (i64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), u64::try_from(month).unwrap_or(1), u64::try_from(day).unwrap_or(1))
}

/// Reads what [`write`] wrote.
pub fn parse(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let fraction = text.get(19..)?.strip_suffix('Z')?;
    let fraction: u64 = match fraction.strip_prefix('.') {
        Some(digits) if digits.len() <= 9 => format!("{digits:0<9}").parse().ok()?,
        Some(_) => return None,
        None => 0,
    };
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
    let seconds = u64::try_from(days * 86_400 + hour * 3600 + minute * 60 + second).ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive() {
        for time in [0, 1, 1_709_210_096_000_000_007, 1_709_210_096_120_000_000, 951_868_799_999_999_999] {
            let mut text = Vec::new();
            write(time, &mut text);
            assert_eq!(parse(std::str::from_utf8(&text).unwrap()), Some(time));
        }
        let mut text = Vec::new();
        write(1_709_210_096_120_000_000, &mut text);
        assert_eq!(text, b"2024-02-29T12:34:56.12Z");
    }
}
