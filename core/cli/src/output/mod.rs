//! What commands print: tables, Go templates, human numbers and times.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// A line on standard output; a reader that went away ends the command quietly.
macro_rules! say {
    () => { $crate::output::table::write_all("\n") };
    ($($part:tt)*) => { $crate::output::table::write_all(&(format!($($part)*) + "\n")) };
}

/// Text on standard output without an end of line.
macro_rules! show {
    ($($part:tt)*) => { $crate::output::table::write_all(&format!($($part)*)) };
}

/// A line on standard error, where it does not matter whether somebody reads it.
macro_rules! tell {
    ($($part:tt)*) => {{
        use std::io::Write as _;
        // Standard error has no buffer: the line goes out whole, not letter by letter.
        let mut line = format!($($part)*);
        line.push('\n');
        let _ = std::io::stderr().write_all(line.as_bytes());
    }};
}

pub(crate) use {say, show, tell};

/// A warning on standard error, once: files are read here and by the daemon, and both say what is odd about them.
pub fn warn(text: &str) {
    if first(text) {
        tell!("{text}");
    }
}

/// Whether a text has not been told by this command.
pub fn first(text: &str) -> bool {
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    TOLD.lock().unwrap_or_else(PoisonError::into_inner).insert(text.to_owned())
}

pub mod build_window;
pub mod human;
pub mod ids;
pub mod json;
pub mod progress;
pub mod table;
pub mod template;
pub mod terminal;
