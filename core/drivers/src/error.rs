//! Why a driver, or something about one, failed.

use std::path::PathBuf;

use crate::manifest::Kind;

/// Why a driver refuses: its own words, made safe to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The user's mistake.
    Invalid(String),
    /// The host lacks something.
    Unsupported(String),
    /// The present state forbids it.
    Conflict(String),
    /// Something outside may come back.
    Unavailable(String),
    /// The driver's own fault.
    Internal(String),
}

impl Failure {
    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        let (Self::Invalid(text)
        | Self::Unsupported(text)
        | Self::Conflict(text)
        | Self::Unavailable(text)
        | Self::Internal(text)) = self;
        text
    }
}

/// What a caller can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// No such driver.
    NotFound,
    /// The user's mistake.
    Invalid,
    /// The host, or this version, lacks something.
    Unsupported,
    /// The present state forbids it.
    Conflict,
    /// Capabilities were not granted.
    Forbidden,
    /// Try again later.
    Unavailable,
    /// A fault of the driver or of the engine.
    Internal,
}

/// A failure of a driver, or of what was asked of one.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// No driver goes by the name.
    #[error("there is no {kind} driver {name:?}; known: {}", list(known))]
    Unknown { kind: Kind, name: String, known: Vec<String> },
    /// No driver of any kind goes by the name.
    #[error("there is no driver {name:?}; known: {}", list(known))]
    UnknownName { name: String, known: Vec<String> },
    /// Drivers of several kinds go by the name.
    #[error("there are several drivers {name:?}: say which of {}", list(names))]
    Ambiguous { name: String, names: Vec<String> },
    /// The name is taken.
    #[error("there is a {kind} driver {name:?} already; upgrade it instead")]
    Exists { kind: Kind, name: String },
    /// It ships with the engine.
    #[error("driver {name:?} ({kind}) ships with Sampan and cannot be removed; disable it instead")]
    Shipped { kind: Kind, name: String },
    /// Something uses it.
    #[error("driver {name:?} ({kind}) is in use by {users}; stop them first or use force")]
    InUse { kind: Kind, name: String, users: String },
    /// An option that the manifest does not name.
    #[error("driver {driver:?} ({kind}) has no option {option:?}; known: {}", list(known))]
    UnknownOption { kind: Kind, driver: String, option: String, known: Vec<String> },
    /// An option that must be given.
    #[error("driver {driver:?} ({kind}) needs the option {option:?}: {help}")]
    MissingOption { kind: Kind, driver: String, option: String, help: String },
    /// The driver said no.
    #[error("driver {driver:?} ({kind}): {call}: {}", failure.text())]
    Refused { kind: Kind, driver: String, call: &'static str, failure: Failure },
    /// The driver broke: it trapped, took too long or too much.
    #[error("driver {driver:?} ({kind}): {call}: {cause}")]
    Fault { kind: Kind, driver: String, call: &'static str, cause: String },
    /// It failed several times in a row and is left alone for a while.
    #[error(
        "driver {driver:?} ({kind}) is left alone for {seconds} s after {failures} failures in a row; the last: {last}"
    )]
    BackingOff { kind: Kind, driver: String, failures: u32, seconds: u64, last: String },
    /// It is switched off.
    #[error("driver {driver:?} ({kind}) is disabled: {reason}")]
    Disabled { kind: Kind, driver: String, reason: String },
    /// The component does not keep the contract.
    #[error("driver {driver:?} ({kind}): {detail}")]
    Contract { kind: Kind, driver: String, detail: String },
    /// The manifest cannot be used.
    #[error("manifest: {0}")]
    Manifest(String),
    /// The user has not agreed to what it wants.
    #[error("driver {driver:?} ({kind}) wants {}; grant it to install", wants.join(", "))]
    NotGranted { kind: Kind, driver: String, wants: Vec<String> },
    /// A component, manifest or directory cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The state store failed.
    #[error(transparent)]
    Store(#[from] sampan_store::StoreError),
    /// The Wasm engine cannot work here.
    #[error("the Wasm engine: {0}")]
    Host(String),
}

impl DriverError {
    /// What a caller can do about it.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Unknown { .. } | Self::UnknownName { .. } => Class::NotFound,
            Self::Ambiguous { .. }
            | Self::UnknownOption { .. }
            | Self::MissingOption { .. }
            | Self::Contract { .. }
            | Self::Manifest(_) => Class::Invalid,
            Self::Exists { .. } | Self::Shipped { .. } | Self::InUse { .. } => Class::Conflict,
            Self::NotGranted { .. } => Class::Forbidden,
            Self::BackingOff { .. } | Self::Disabled { .. } => Class::Unavailable,
            Self::Fault { .. } | Self::File { .. } | Self::Store(_) | Self::Host(_) => Class::Internal,
            Self::Refused { failure, .. } => match failure {
                Failure::Invalid(_) => Class::Invalid,
                Failure::Unsupported(_) => Class::Unsupported,
                Failure::Conflict(_) => Class::Conflict,
                Failure::Unavailable(_) => Class::Unavailable,
                Failure::Internal(_) => Class::Internal,
            },
        }
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Text of a driver's as a terminal and a log may show it: one line or several, without control characters.
#[must_use]
pub(crate) fn shown(text: &str, limit: usize) -> String {
    let mut out = String::with_capacity(text.len().min(limit));
    for character in text.trim_end().chars() {
        if out.len() >= limit {
            out.push('…');
            break;
        }
        match character {
            '\n' | '\t' => out.push(character),
            // Formatting characters can turn the order of what is shown around.
            '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' => {}
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_driver_says_cannot_steer_a_terminal() {
        assert_eq!(shown("a\x1b[31mred\u{202e}\r\nb\n", 100), "a\\u{1b}[31mred\\r\nb");
        assert_eq!(shown("abcdef", 3), "abc…");
    }
}
