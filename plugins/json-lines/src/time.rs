//! RFC 3339 with nanoseconds, both ways.

/// Appends a second as Docker writes it (`2006-01-02T15:04:05`).
pub fn write_second(seconds: u64, out: &mut Vec<u8>) {
    let (year, month, day) = civil(i64::try_from(seconds / 86_400).unwrap_or(0));
    let of_day = seconds % 86_400;
    two(u64::try_from(year / 100).unwrap_or(0), out);
    two(u64::try_from(year % 100).unwrap_or(0), out);
    for (separator, number) in
        [(b'-', month), (b'-', day), (b'T', of_day / 3600), (b':', of_day / 60 % 60), (b':', of_day % 60)]
    {
        out.push(separator);
        two(number, out);
    }
}

fn two(number: u64, out: &mut Vec<u8>) {
    out.push(b'0' + u8::try_from(number / 10 % 10).unwrap_or(0));
    out.push(b'0' + u8::try_from(number % 10).unwrap_or(0));
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
    (
        year_of_era + era * 400 + i64::from(month <= 2),
        u64::try_from(month).unwrap_or(1),
        u64::try_from(day).unwrap_or(1),
    )
}

/// Reads a time in UTC, or with another zone as foreign writers have it.
pub fn parse(text: &[u8]) -> Option<u64> {
    let number = |from: usize, to: usize| digits(text.get(from..to)?);
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=12).contains(&month) {
        return None;
    }
    let mut rest = text.get(19..)?;
    let mut fraction = 0;
    if let Some(behind) = rest.strip_prefix(b".") {
        let length = behind.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (shown, zone) = behind.split_at(length);
        fraction = digits(shown.get(..9).unwrap_or(shown))? * 10_i64.pow(9 - u32::try_from(length.min(9)).ok()?);
        rest = zone;
    }
    let offset = match rest {
        b"Z" => 0,
        [sign @ (b'+' | b'-'), a, b, b':', c, d] => {
            let minutes = digits(&[*a, *b])? * 60 + digits(&[*c, *d])?;
            if *sign == b'+' { minutes } else { -minutes }
        }
        _ => return None,
    };
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
    let seconds = days * 86_400 + hour * 3600 + (minute - offset) * 60 + second;
    u64::try_from(seconds).ok()?.checked_mul(1_000_000_000)?.checked_add(u64::try_from(fraction).ok()?)
}

fn digits(text: &[u8]) -> Option<i64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(text.iter().fold(0, |number, byte| number * 10 + i64::from(byte - b'0')))
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
