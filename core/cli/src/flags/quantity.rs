//! Sizes, shares of processors, durations, whole numbers.

use super::Parsed;

/// `512`, `10m`, `1.5g`, `2GiB`: bytes in binary units, as memory is given everywhere.
pub fn bytes(text: &str) -> Parsed<i64> {
    let wrong = || format!("invalid size: '{text}'");
    let split = text.rfind(|letter: char| letter.is_ascii_digit() || letter == '.').ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split + 1);
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let power = match unit.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        _ => return Err(format!("invalid suffix: '{unit}'")),
    };
    if !number.starts_with(|letter: char| letter.is_ascii_digit() || letter == '.') {
        return Err(wrong());
    }
    let factor = 1_i64 << (10 * power);
    if let Ok(whole) = number.parse::<i64>() {
        return whole.checked_mul(factor).ok_or_else(wrong);
    }
    let number: f64 = number.parse().map_err(|_| wrong())?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
    let total = (number * factor as f64) as i64;
    if total == i64::MAX { Err(wrong()) } else { Ok(total) }
}

/// As [`bytes`], with `-1` for no limit.
pub fn bytes_or_unlimited(text: &str) -> Parsed<i64> {
    if text == "-1" { Ok(-1) } else { bytes(text) }
}

/// `1.5` processors in billionths; at most nine digits behind the point.
pub fn nano_cpus(text: &str) -> Parsed<i64> {
    let wrong = || format!("failed to parse {text} as a rational number");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return Err(wrong());
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 9 {
        return Err("value is too precise".to_owned());
    }
    let billions: i64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| wrong())? };
    let rest: i64 = format!("{fraction:0<9}").parse().map_err(|_| wrong())?;
    billions.checked_mul(1_000_000_000).and_then(|nano| nano.checked_add(rest)).ok_or_else(wrong)
}

/// Go's durations, `1h2m3.5s`, in nanoseconds.
pub fn duration(text: &str) -> Parsed<i64> {
    let wrong = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut total = 0_f64;
    while !rest.is_empty() {
        let end = rest
            .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
            .ok_or_else(|| format!("time: missing unit in duration {text:?}"))?;
        let number: f64 = rest[..end].parse().map_err(|_| wrong())?;
        rest = &rest[end..];
        let end = rest.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            other => return Err(format!("time: unknown unit {other:?} in duration {text:?}")),
        };
        total += number * unit;
        rest = &rest[end..];
    }
    #[allow(clippy::cast_possible_truncation)]
    let total = total.round() as i64;
    if total == i64::MAX {
        return Err(wrong());
    }
    Ok(if negative { -total } else { total })
}

/// A whole number, in Go's words when it is none.
pub fn integer(text: &str) -> Parsed<i64> {
    text.parse().map_err(|error: std::num::ParseIntError| {
        let why = match error.kind() {
            std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        format!("strconv.ParseInt: parsing {text:?}: {why}")
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("0", 0),
            ("512", 512),
            ("10b", 10),
            ("10k", 10 << 10),
            ("10M", 10 << 20),
            ("1.5g", 3 << 29),
            ("2GiB", 2 << 30),
            ("2 gb", 2 << 30),
            ("1t", 1 << 40),
            (".5k", 512),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["foo", "", "-5m", "m", "1x", "1.2.3", "9999999999999999999", "9999999p"] {
            assert!(bytes(text).is_err(), "{text}");
        }
        assert_eq!(bytes("foo").unwrap_err(), "invalid size: 'foo'");
        assert_eq!(bytes_or_unlimited("-1"), Ok(-1));
    }

    #[test]
    fn shares_of_processors() {
        assert_eq!(nano_cpus("1.5"), Ok(1_500_000_000));
        assert_eq!(nano_cpus("2"), Ok(2_000_000_000));
        assert_eq!(nano_cpus(".25"), Ok(250_000_000));
        assert_eq!(nano_cpus("0.1000000000"), Ok(100_000_000));
        assert!(nano_cpus("0.0000000001").unwrap_err().contains("too precise"));
        assert!(nano_cpus("a").is_err() && nano_cpus("-1").is_err() && nano_cpus(".").is_err());
    }

    #[test]
    fn durations() {
        for (text, expected) in [
            ("0", 0),
            ("1s", 1_000_000_000),
            ("1m30s", 90_000_000_000),
            ("1.5h", 5_400_000_000_000),
            ("100ms", 100_000_000),
            ("5us", 5_000),
            ("-2s", -2_000_000_000),
        ] {
            assert_eq!(duration(text), Ok(expected), "{text}");
        }
        assert!(duration("5").unwrap_err().contains("missing unit"));
        assert!(duration("5x").unwrap_err().contains("unknown unit"));
        assert!(duration("").is_err() && duration("s").is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC{0,12}") {
            let _ = (bytes(&text), nano_cpus(&text), duration(&text), integer(&text));
        }
    }
}
