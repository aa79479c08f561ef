//! How file contents reach this crate.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What lies at a path, links followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathKind {
    Missing,
    File,
    Directory,
    /// A socket, device, pipe, or something that could not be looked at.
    Other,
}

/// Why a file could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("no such file")]
    NotFound,
    #[error("is a directory")]
    IsDirectory,
    #[error("is larger than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("{0}")]
    Other(String),
}

/// The files of the host, as far as loading a project needs them. Paths given are absolute, except `-` (standard input).
pub trait Files {
    /// The whole content, or [`ReadError::TooLarge`] when it has more than `limit` bytes.
    ///
    /// # Errors
    /// See [`ReadError`].
    fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>, ReadError>;

    /// What lies at the path.
    fn kind(&self, path: &Path) -> PathKind;

    /// The file of this host that holds what a reference to elsewhere (`oci://…`, a git repository) leads to, or why
    /// there is none. None: such references are not taken at all.
    fn fetched(&self, reference: &str) -> Option<Result<PathBuf, String>> {
        let _ = reference;
        None
    }

    /// Whether anything lies at the path.
    fn exists(&self, path: &Path) -> bool {
        self.kind(path) != PathKind::Missing
    }
}

/// Files held in memory: for tests, and for a project sent over a socket.
#[derive(Debug, Clone, Default)]
pub struct MemoryFiles(pub BTreeMap<PathBuf, Vec<u8>>);

impl MemoryFiles {
    /// Adds or replaces a file.
    #[must_use]
    pub fn with(mut self, path: impl Into<PathBuf>, content: impl Into<Vec<u8>>) -> Self {
        self.0.insert(path.into(), content.into());
        self
    }
}

impl Files for MemoryFiles {
    fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>, ReadError> {
        match self.0.get(path) {
            Some(content) if content.len() as u64 > limit => Err(ReadError::TooLarge { limit }),
            Some(content) => Ok(content.clone()),
            None if self.kind(path) == PathKind::Directory => Err(ReadError::IsDirectory),
            None => Err(ReadError::NotFound),
        }
    }

    fn kind(&self, path: &Path) -> PathKind {
        if self.0.contains_key(path) {
            PathKind::File
        } else if self.0.keys().any(|known| known.starts_with(path)) {
            PathKind::Directory
        } else {
            PathKind::Missing
        }
    }
}
