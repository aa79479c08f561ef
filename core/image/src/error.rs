//! What can go wrong with images, in variants that a caller can act on.

use std::io;

use sampan_store::StoreError;

use crate::backend::BackendError;
use crate::digest::{Digest, InvalidDigest};
use crate::reference::InvalidRef;

/// A failed operation on images.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Nothing goes by that name or id.
    #[error("No such image: {0}")]
    NotFound(String),
    /// More than one id begins so.
    #[error("{0:?} is the beginning of more than one image id: give more digits")]
    Ambiguous(String),
    /// See [`InvalidRef`].
    #[error(transparent)]
    Reference(#[from] InvalidRef),
    /// See [`InvalidDigest`].
    #[error(transparent)]
    Digest(#[from] InvalidDigest),
    /// The object's present state forbids it.
    #[error("{0}")]
    Conflict(String),
    /// The request is wrong in itself.
    #[error("{0}")]
    Invalid(String),
    /// An archive, a document or a layer breaks a rule; nothing of it was kept.
    #[error("{what}: {why}")]
    Refused {
        /// Which archive, document, layer or entry.
        what: String,
        /// Which rule.
        why: String,
    },
    /// A blob is not here.
    #[error("blob {0} is missing from the image store")]
    MissingBlob(Digest),
    /// Bytes that are not what their digest says.
    #[error("{what}: expected digest {expected}, got {actual}")]
    Mismatch {
        /// Which blob or layer.
        what: String,
        /// By the document that names it.
        expected: Digest,
        /// By its bytes.
        actual: Digest,
    },
    /// A registry's refusal or an unusable answer.
    #[error("{0}")]
    Registry(String),
    /// A registry wants (other) credentials.
    #[error("{0}")]
    Unauthorized(String),
    /// A registry does not answer.
    #[error("{0}")]
    Unreachable(String),
    /// A tree cannot be packed.
    #[error("pack: {0}")]
    Pack(#[from] crate::pack::PackError),
    /// The layer driver's failure.
    #[error("layer driver: {0}")]
    Backend(#[from] BackendError),
    /// The state database's failure.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A system call failed.
    #[error("{context}: {source}")]
    Io {
        /// What was being done, and on what.
        context: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl ImageError {
    /// An archive, a document or a layer that breaks a rule.
    pub(crate) fn refused(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Refused { what: what.into(), why: why.into() }
    }
}

/// Adds to a system call's failure what was being done.
pub(crate) trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, ImageError>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, ImageError> {
        self.map_err(|error| ImageError::Io { context: what(), source: error.into() })
    }
}
