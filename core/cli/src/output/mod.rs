//! What commands print: tables, Go templates, human numbers and times.

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
        let _ = writeln!(std::io::stderr(), $($part)*);
    }};
}

pub(crate) use {say, show, tell};

pub mod build_window;
pub mod human;
pub mod ids;
pub mod json;
pub mod progress;
pub mod table;
pub mod template;
pub mod terminal;
