//! Why a build failed.

use crate::source::Diagnostic;

/// A failed build, in terms that its caller can act on.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The Dockerfile is wrong, or asks for what is not there: the user's to mend.
    #[error("{0}")]
    Dockerfile(Box<Diagnostic>),
    /// A program of a RUN ended with a code. The text is Docker's, which clients know.
    #[error("The command '{command}' returned a non-zero code: {code}")]
    Run { command: String, code: i32, place: Box<Diagnostic> },
    /// The context cannot be read, or breaks a rule.
    #[error("build context: {0}")]
    Context(String),
    /// The request is wrong in itself.
    #[error("{0}")]
    Invalid(String),
    /// It is not done here; the text says what to do instead.
    #[error("{0}")]
    Unsupported(String),
    /// The engine failed in its part.
    #[error("{0}")]
    Backend(String),
    /// Nobody waits for the result any more.
    #[error("the build was cancelled")]
    Cancelled,
}

impl From<Diagnostic> for BuildError {
    fn from(diagnostic: Diagnostic) -> Self {
        Self::Dockerfile(Box::new(diagnostic))
    }
}

/// The result of a part of a build.
pub type Result<T, E = BuildError> = std::result::Result<T, E>;

/// A step on a file, with what it was and why it failed.
#[derive(Debug, thiserror::Error)]
#[error("{step} {path}: {source}")]
pub struct FileError {
    /// What was being done.
    pub step: &'static str,
    /// To which name.
    pub path: String,
    /// Why it failed.
    #[source]
    pub source: std::io::Error,
}

/// Adds step and name to a failure.
pub trait At<T> {
    /// See the trait.
    fn at(self, step: &'static str, path: &[u8]) -> Result<T, FileError>;
}

impl<T, E: Into<std::io::Error>> At<T> for Result<T, E> {
    fn at(self, step: &'static str, path: &[u8]) -> Result<T, FileError> {
        self.map_err(|source| FileError {
            step,
            path: String::from_utf8_lossy(path).into_owned(),
            source: source.into(),
        })
    }
}
