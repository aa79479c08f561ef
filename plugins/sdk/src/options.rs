//! Values of options.

/// A truth, as Docker's options write it.
pub fn truth(name: &str, text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" | "" => Ok(false),
        _ => Err(format!("option {name}: {text:?} is neither true nor false")),
    }
}

/// A number of bytes with an optional unit (`10m`, `1g`, `512k`), powers of 1024.
pub fn size(name: &str, text: &str) -> Result<u64, String> {
    let wrong = || format!("option {name}: {text:?} is not a size such as 10m, 512k or 1g");
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: u64 = match lower[digits.len()..].trim_end_matches('b') {
        "" => 1,
        "k" | "ki" => 1 << 10,
        "m" | "mi" => 1 << 20,
        "g" | "gi" => 1 << 30,
        _ => return Err(wrong()),
    };
    digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).ok_or_else(wrong)
}
