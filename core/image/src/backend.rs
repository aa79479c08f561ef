//! The seam to whoever keeps unpacked layers: in the engine a layer driver, in tests a folder.

use std::path::PathBuf;

use crate::digest::ChainId;

/// How an unpacked layer says that something of its parents is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whiteouts {
    /// As overlayfs does: character devices 0:0 and the attribute `trusted.overlay.opaque`.
    Overlay,
    /// The directory is a full tree that already holds the parents: what is gone is removed from it.
    Remove,
}

/// A layer driver's failure, in its words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BackendError(pub String);

/// Keeps the directories of layers. Every call may block.
pub trait LayerBackend: Send + Sync {
    /// In which form to unpack.
    fn whiteouts(&self) -> Result<Whiteouts, BackendError>;
    /// The directory into which a layer is unpacked over its parents (nearest first). Called again for the same layer
    /// it yields the same place, with whatever an interrupted unpacking has left there.
    fn prepare(&self, chain: &ChainId, parents: &[ChainId]) -> Result<PathBuf, BackendError>;
    /// Forgets a layer. One that is not there is fine.
    fn remove(&self, chain: &ChainId) -> Result<(), BackendError>;
}

/// Where a container's changes are read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeView {
    /// The upper directory of an overlay.
    Upper(PathBuf),
    /// The second tree, compared with the first.
    Compare(PathBuf, PathBuf),
}
