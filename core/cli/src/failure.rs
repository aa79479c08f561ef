//! What a command ends with when it does not succeed.

use std::fmt;

/// A failed command: what to print and the exit status.
#[derive(Debug)]
pub struct Failure {
    /// Printed to standard error; empty when all is said already.
    pub message: String,
    /// The exit status.
    pub code: u8,
    /// The HTTP status, when the daemon refused.
    pub status: Option<u16>,
    kind: Kind,
}

/// What has to be said beside the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    /// The command was typed wrong: where to read more.
    Usage,
    /// It lacks what it is for: how it is typed.
    Lacking,
}

/// A command's result.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// Exit status 1.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 1, status: None, kind: Kind::Plain }
    }

    /// The command was typed wrong: exit status 125, as Docker's.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 125, status: None, kind: Kind::Usage }
    }

    /// Nothing was named, and nothing else says what is meant: `wanted` completes "the command …". Exit status 1.
    pub fn lacking(wanted: impl Into<String>) -> Self {
        Self { message: wanted.into(), code: 1, status: None, kind: Kind::Lacking }
    }

    /// The daemon refused.
    pub fn daemon(status: u16, message: impl Into<String>) -> Self {
        Self {
            message: format!("Error response from daemon: {}", message.into()),
            code: 1,
            status: Some(status),
            kind: Kind::Plain,
        }
    }

    /// A command of `compose` that was typed wrong ends with 1, as Compose's do.
    #[must_use]
    pub fn of_compose(mut self) -> Self {
        if self.kind == Kind::Usage {
            self.code = 1;
        }
        self
    }

    /// Ends with a program's own exit status, and nothing to print.
    pub fn exit(code: u8) -> Self {
        Self { message: String::new(), code, status: None, kind: Kind::Plain }
    }

    /// The same with another exit status.
    #[must_use]
    pub fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// The same with the program's name in front, as `docker` says whose error it is beside a container's output.
    #[must_use]
    pub fn of_program(mut self) -> Self {
        self.message.insert_str(0, "sampan: ");
        self
    }

    /// A usage error found after parsing says where to read more, as those found while parsing do.
    #[must_use]
    pub fn located(mut self, path: &str, usage: &str) -> Self {
        match self.kind {
            Kind::Usage if !self.message.contains("\nSee '") => {
                self.message = format!("sampan: {}\nSee '{path} --help'.", self.message);
            }
            Kind::Lacking => self.message = crate::app::wrong_count(path, usage, &self.message),
            _ => {}
        }
        self
    }

    /// Whether the daemon answered that there is no such thing.
    pub fn is_not_found(&self) -> bool {
        self.status == Some(404)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(error.to_string())
    }
}
