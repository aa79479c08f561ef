//! Names of containers: Docker's rule, and names for those that were given none.

use crate::error::{Error, Result};

const ADJECTIVES: [&str; 64] = [
    "agile", "amber", "ample", "blithe", "bold", "brave", "breezy", "bright", "brisk", "calm", "candid", "cheery",
    "civil", "clear", "clever", "coastal", "cosy", "crisp", "curious", "daring", "deft", "eager", "earnest", "easy",
    "fair", "fleet", "fluent", "fond", "frank", "gentle", "glad", "golden", "grand", "hardy", "hearty", "humble",
    "jolly", "keen", "kind", "lively", "lucid", "mellow", "merry", "mild", "nimble", "noble", "patient", "plucky",
    "quick", "quiet", "ready", "robust", "serene", "sharp", "silver", "snug", "sound", "steady", "sunny", "swift",
    "tidy", "warm", "wise", "witty",
];

const SURNAMES: [&str; 96] = [
    "abel",
    "agnesi",
    "ampere",
    "anning",
    "babbage",
    "banach",
    "bardeen",
    "becquerel",
    "bell",
    "bohr",
    "boole",
    "bose",
    "boyle",
    "brahe",
    "cantor",
    "carson",
    "cauchy",
    "cerf",
    "chandra",
    "church",
    "curie",
    "dalton",
    "darwin",
    "davy",
    "dijkstra",
    "dirac",
    "edison",
    "einstein",
    "engelbart",
    "erdos",
    "euclid",
    "euler",
    "faraday",
    "fermat",
    "fermi",
    "feynman",
    "fourier",
    "franklin",
    "galileo",
    "galois",
    "gauss",
    "germain",
    "goodall",
    "godel",
    "hamilton",
    "hawking",
    "heisenberg",
    "hertz",
    "hilbert",
    "hodgkin",
    "hopper",
    "hubble",
    "hypatia",
    "joule",
    "kepler",
    "knuth",
    "lamarr",
    "lamport",
    "laplace",
    "leibniz",
    "linnaeus",
    "liskov",
    "lovelace",
    "maxwell",
    "mendel",
    "mirzakhani",
    "morse",
    "napier",
    "nash",
    "newton",
    "nobel",
    "noether",
    "ohm",
    "pascal",
    "pasteur",
    "pauli",
    "perlman",
    "planck",
    "poincare",
    "ramanujan",
    "ride",
    "ritchie",
    "rutherford",
    "sagan",
    "sammet",
    "shannon",
    "somerville",
    "stallman",
    "tesla",
    "thompson",
    "torvalds",
    "turing",
    "volta",
    "wiles",
    "wozniak",
    "wu",
];

/// Refuses what is not a name: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`. Returns it without a leading slash.
pub(crate) fn check(name: &str) -> Result<&str> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    let good = bare.len() >= 2
        && bare.starts_with(|c: char| c.is_ascii_alphanumeric())
        && bare.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    if good {
        return Ok(bare);
    }
    Err(Error::invalid(format!("Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")))
}

/// A name that `is_free`; after some tries with a number at its end.
pub(crate) fn generate(random: impl Fn() -> u32, is_free: impl Fn(&str) -> bool) -> String {
    let pick = |list: &[&'static str]| list[random() as usize % list.len()];
    let mut name = String::new();
    for attempt in 0..64 {
        name = format!("{}_{}", pick(&ADJECTIVES), pick(&SURNAMES));
        if attempt > 5 {
            name.push_str(&(random() % 10_000).to_string());
        }
        if is_free(&name) {
            break;
        }
    }
    name
}

/// Four random bytes; falls back to the clock when the kernel has none.
pub(crate) fn random() -> u32 {
    let mut bytes = [0; 4];
    if getrandom::fill(&mut bytes).is_err() {
        return u32::try_from(crate::events::now_ns() % u64::from(u32::MAX)).unwrap_or(0);
    }
    u32::from_le_bytes(bytes)
}

/// 64 hexadecimal digits, for whatever needs an id. The first twelve never read as a decimal number, which would be taken for one as a host name.
pub(crate) fn new_id() -> Result<String> {
    loop {
        let mut bytes = [0_u8; 32];
        getrandom::fill(&mut bytes).map_err(|error| Error::internal(format!("random bytes: {error}")))?;
        let id = sampan_image::Digest::from_bytes(bytes).hex();
        if !id[..12].bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(id);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::cell::Cell;

    #[test]
    fn names_follow_dockers_rule() {
        for good in ["web", "/web", "a1", "a_b.c-d", "0x"] {
            assert!(check(good).is_ok(), "{good}");
        }
        assert_eq!(check("/web").unwrap(), "web");
        for bad in ["", "a", "_a", "a b", "a/b", "ä1", "//web"] {
            let message = check(bad).unwrap_err().message;
            assert!(message.ends_with("only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"), "{message}");
        }
    }

    #[test]
    fn taken_names_get_a_number() {
        let counter = Cell::new(0);
        let random = || {
            counter.set(counter.get() + 1);
            0
        };
        assert_eq!(generate(random, |_| true), "agile_abel");
        assert_eq!(generate(random, |name| name != "agile_abel"), "agile_abel0");
    }

    #[test]
    fn ids_are_long_and_differ() {
        let (a, b) = (new_id().unwrap(), new_id().unwrap());
        assert_eq!(a.len(), 64);
        assert_ne!(a, b);
    }
}
