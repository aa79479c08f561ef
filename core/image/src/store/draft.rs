//! Layers that are unpacked before it is known which they are, or upon which they lie.
//!
//! An archive may tell last what its files are, and a tar has its digest only at its end. Such a layer is unpacked into
//! a directory of its own, which nothing refers to, and takes its place once everything about it was verified.

use std::fs;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use super::ImageStore;
use crate::backend::Whiteouts;
use crate::digest::{ChainId, Digest};
use crate::error::{Context, ImageError};
use crate::ingest::{Keep, ingest};
use crate::record::LayerRef;
use crate::timestamp;
use crate::unpack::{Limits, Target, root_as_below};

/// See the module. Dropped before it has its place, it leaves nothing.
pub(crate) struct Draft<'a> {
    store: &'a ImageStore,
    /// By which the layer driver knows the directory meanwhile.
    name: ChainId,
    target: Target,
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        self.store.sweeper.doom([self.name]);
    }
}

impl ImageStore {
    /// A directory for a layer over these ones here (nearest first), if they are known. `None` where the layer driver
    /// keeps full trees, which begin with what lies below.
    pub(crate) fn draft(&self, parents: Option<&[ChainId]>) -> Result<Option<Draft<'_>>, ImageError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let whiteouts = self.backend.whiteouts()?;
        if whiteouts == Whiteouts::Remove && parents.is_none_or(|parents| !parents.is_empty()) {
            return Ok(None);
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("draft {} {} {number}", std::process::id(), timestamp::now());
        let name = ChainId(Digest::of(name.as_bytes()));
        self.intend(&name)?;
        let lower = parents.map(|parents| self.lower(parents)).transpose()?;
        let target =
            self.backend.prepare(&name, &[]).map(|root| Target { root, lower, whiteouts, limits: Limits::default() });
        match target {
            Ok(target) => Ok(Some(Draft { store: self, name, target })),
            Err(error) => {
                self.sweeper.doom([name]);
                Err(error.into())
            }
        }
    }
}

impl Draft<'_> {
    /// Where to unpack.
    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// Gives what was unpacked its place as a layer over `parents` (nearest first). Its blob is here and held; `has_root`
    /// says whether its archive told what the root is.
    pub(crate) fn place(self, layer: LayerRef, has_root: bool, parents: &[ChainId]) -> Result<LayerRef, ImageError> {
        let (store, chain) = (self.store, layer.chain_id);
        let lock = store.unpacking_lock(&chain);
        let _unpacking = lock.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = store.layer(&chain) {
            store.state_mut().fresh.insert(chain);
            return Ok(LayerRef { size: known.size, ..layer });
        }
        let target = store.begin_layer(&chain, parents)?;
        let placed = self.move_to(&target, has_root).and_then(|moved| {
            if !moved {
                let blob = store.blobs.open_blob(&layer.blob)?;
                ingest(&format!("layer {}", layer.blob), blob, u64::MAX, Keep::Known(layer.blob), &target)?;
            }
            store.finish_layer(layer, parents)
        });
        store.end_layer(&chain, placed)
    }

    /// Whether it could be moved: not where a layer driver keeps directories that cannot be renamed.
    fn move_to(&self, target: &Target, has_root: bool) -> Result<bool, ImageError> {
        let from: &PathBuf = &self.target.root;
        if let Some(below) = target.lower.as_ref().and_then(|lower| lower.first()).filter(|_| !has_root) {
            root_as_below(from, below).context(|| format!("make {} look like the layer below", from.display()))?;
        }
        match fs::rename(from, &target.root) {
            Ok(()) => Ok(true),
            Err(error) => {
                tracing::debug!(%error, "a layer cannot be moved to its place: it is unpacked once more");
                Ok(false)
            }
        }
    }
}
