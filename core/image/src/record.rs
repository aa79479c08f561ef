//! What the store knows of an image.

use serde::{Deserialize, Serialize};

use crate::archive::platform_of;
use crate::config::ImageConfig;
use crate::digest::{ChainId, DiffId, Digest};
use crate::manifest::Platform;

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRef {
    /// Digest of the uncompressed tar.
    pub diff_id: DiffId,
    /// This layer with all below it; names its directory.
    pub chain_id: ChainId,
    /// The tar as it came, compressed or not.
    pub blob: Digest,
    /// Bytes of that tar.
    pub blob_size: u64,
    /// The media type of that tar.
    pub media_type: String,
    /// Bytes of the unpacked files.
    pub size: u64,
    /// Where the tar is had from, if registries do not hold it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
}

/// An image that is there whole: configuration, manifest, and every layer unpacked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// Digest of the configuration document.
    pub id: Digest,
    /// The configuration, parsed.
    pub config: ImageConfig,
    /// Lowest first.
    pub layers: Vec<LayerRef>,
    /// Digest of the manifest under which it came, or was first written.
    pub manifest: Digest,
    /// Bytes of all unpacked layers.
    pub size: u64,
    /// When it was made, by its own account: nanoseconds since 1970, 0 if it does not say.
    pub created_ns: i64,
    /// When it came here or was tagged last, nanoseconds since 1970.
    pub tagged_ns: i64,
    /// Whether its manifest was written here. One that it came with must not change.
    #[serde(default)]
    pub made_here: bool,
    /// The image it was built upon here, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Digest>,
}

impl ImageRecord {
    /// The layers' directories, nearest first: what a layer driver takes as parents.
    #[must_use]
    pub fn chain_top_first(&self) -> Vec<ChainId> {
        self.layers.iter().rev().map(|layer| layer.chain_id).collect()
    }

    /// What it runs on, by its own account.
    #[must_use]
    pub fn platform(&self) -> Platform {
        platform_of(&self.config)
    }

    /// The topmost layer's chain.
    #[must_use]
    pub fn top(&self) -> Option<ChainId> {
        self.layers.last().map(|layer| layer.chain_id)
    }
}
