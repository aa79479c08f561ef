//! What a request can fail with, in terms that a client can act on.

use std::fmt;

/// The class of a failure. `api` maps it to an HTTP status, the command line to an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Nothing goes by that name or id (404).
    NotFound,
    /// The object's present state forbids it: in use, name taken, port taken (409).
    Conflict,
    /// The request is wrong in itself (400).
    Invalid,
    /// It is so already (304).
    NotModified,
    /// Not allowed to this caller or by configuration (403).
    Forbidden,
    /// A registry wants (other) credentials (401).
    Unauthorized,
    /// Something outside did not answer, or a resource is exhausted: try again later (503).
    Unavailable,
    /// The host, or this version, cannot do it (501).
    Unsupported,
    /// The program of a container cannot be started: its own mistake, not the engine's (400, exit code 125 to 127).
    CannotStart,
    /// A fault of the engine or of the kernel (500).
    Internal,
}

/// A failed request: a class and a text for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The class.
    pub kind: ErrorKind,
    /// What failed, on what, why, and what to do.
    pub message: String,
}

/// The result of an engine operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident),* $(,)?) => {
        impl Error {
            $($(#[$doc])* #[must_use] pub fn $name(message: impl fmt::Display) -> Self {
                Self { kind: ErrorKind::$kind, message: message.to_string() }
            })*
        }
    };
}

constructors! {
    /// See [`ErrorKind::NotFound`].
    not_found => NotFound,
    /// See [`ErrorKind::Conflict`].
    conflict => Conflict,
    /// See [`ErrorKind::Invalid`].
    invalid => Invalid,
    /// See [`ErrorKind::NotModified`].
    not_modified => NotModified,
    /// See [`ErrorKind::Forbidden`].
    forbidden => Forbidden,
    /// See [`ErrorKind::Unauthorized`].
    unauthorized => Unauthorized,
    /// See [`ErrorKind::Unavailable`].
    unavailable => Unavailable,
    /// See [`ErrorKind::Unsupported`].
    unsupported => Unsupported,
    /// See [`ErrorKind::CannotStart`].
    cannot_start => CannotStart,
    /// See [`ErrorKind::Internal`].
    internal => Internal,
}

impl Error {
    /// The same failure, with what was being done before its text.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<sampan_store::StoreError> for Error {
    fn from(error: sampan_store::StoreError) -> Self {
        Self::internal(error)
    }
}
