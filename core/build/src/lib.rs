//! Dockerfile builds: text in, layers and an image configuration out.
//!
//! The middle is pure: [`parser`] reads the language, [`expand`] its variables, [`graph`] what depends on what,
//! [`dockerignore`] which files count, [`cache`] what a step's result is known by. None of them touches a file, the
//! network or the clock. [`executor`] walks the graph over a [`backend::Backend`], which the engine implements: it alone
//! opens roots, runs programs and keeps layers.
//!
//! Invariants:
//! - nothing of a build context, a Dockerfile or a base image is trusted: every path below a root is resolved inside it;
//! - a key is made of contents, never of times; secrets are in no key, no history and no message;
//! - a file that does not parse, or a build that fails, leaves no layer, no image and no scratch space behind.
//!
//! The parser is ours: of the maintained ones, `parse-dockerfile` has spans but reads one here-document at most and
//! drops its name, and none splits the arguments of ENV, LABEL and ARG.

pub mod backend;
pub mod cache;
pub mod context;
pub mod copy;
pub mod device;
pub mod dockerignore;
pub mod error;
pub mod executor;
pub mod expand;
pub mod exported;
pub mod extract;
pub mod graph;
pub mod instruction;
pub mod lines;
pub mod lint;
pub mod mount;
pub mod options;
pub mod outline;
pub mod owner;
pub mod parser;
pub mod pattern;
pub mod provenance;
pub mod remote;
pub mod scope;
pub mod source;
pub mod state;
mod step;
mod stubs;
pub mod words;

/// Runs blocking work on files.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, error::BuildError> + Send + 'static,
) -> Result<T, error::BuildError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(error::BuildError::Backend(format!("a worker thread failed: {error}"))))
}
