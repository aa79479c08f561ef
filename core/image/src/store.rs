//! The images of one data root.
//!
//! What is visible is in memory and in the database; the database is changed first. Layers and blobs that nothing
//! refers to any more are removed with the image that used them last; what an operation still needs while nothing
//! visible refers to it is held by a [`Hold`].

mod draft;
mod forms;
mod index;
mod layers;
mod recover;
mod register;
mod remove;
mod repack;
mod sweep;
mod transfer;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use sampan_store::{Collection, Durability, Store};
use serde::{Deserialize, Serialize};

use crate::backend::LayerBackend;
use crate::blobs::Blobs;
use crate::config::HistoryEntry;
use crate::digest::{ChainId, Digest};
use crate::error::ImageError;
use crate::manifest::Platform;
use crate::record::{ImageRecord, LayerRef};
use crate::reference::ImageRef;
use crate::timestamp;

pub(crate) use draft::Draft;
pub(crate) use forms::Form;
pub use index::{Content, IndexEntry, IndexRecord, Member, Statement};
pub(crate) use index::{REFERENCE_TYPE, subject};
pub(crate) use layers::ExpectedLayer;
use recover::boot_id;
pub use remove::Removed;
pub use repack::Packing;
use sweep::Sweeper;

/// More layers than overlayfs can join are refused when an image arrives.
pub const MAX_LAYERS: usize = 500;

const IMAGES: Collection<ImageRecord> = Collection::new("images");
const NAMES: Collection<Digest> = Collection::new("image-names");
const INDEXES: Collection<IndexRecord> = Collection::new("image-indexes");
/// Which of the names are those of an index.
const INDEX_NAMES: Collection<Digest> = Collection::new("image-index-names");
const LAYERS: Collection<LayerRow> = Collection::new("layers");
/// Directories that are not visible, those that are being unpacked into and those that are to go: what is found here at
/// a start is removed.
const UNPACKING: Collection<()> = Collection::new("layers-unpacking");
/// Layers that others than images need, by `chain owner`.
const PINS: Collection<()> = Collection::new("layer-pins");

/// An unpacked layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRow {
    pub layer: LayerRef,
    pub parent: Option<ChainId>,
    /// The boot in which it was unpacked, until its files are known to be on the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unflushed: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    images: BTreeMap<Digest, Arc<ImageRecord>>,
    names: BTreeMap<ImageRef, Digest>,
    indexes: BTreeMap<Digest, Arc<IndexRecord>>,
    /// Each of these is among `names`, too, which says to which image of the index it leads.
    index_names: BTreeMap<ImageRef, Digest>,
    layers: HashMap<ChainId, LayerRow>,
    pins: BTreeSet<(ChainId, String)>,
    /// Layers that were made and that nothing refers to yet.
    fresh: HashSet<ChainId>,
    /// Chains and blobs that running operations need, counted.
    held: HashMap<Digest, usize>,
}

/// The images of one data root. Methods block unless they say otherwise; share it by `Arc`.
pub struct ImageStore {
    blobs: Blobs,
    store: Store,
    backend: Arc<dyn LayerBackend>,
    state: RwLock<State>,
    /// Held by whoever changes what is visible, so that readers do not wait for the disk.
    changing: Mutex<()>,
    /// One lock for each layer that is being unpacked.
    unpacking: Mutex<HashMap<ChainId, Arc<Mutex<()>>>>,
    sweeper: Sweeper,
    /// Held by whoever packs layers to be sent.
    packing: Mutex<()>,
}

impl std::fmt::Debug for ImageStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageStore").field("blobs", &self.blobs).finish_non_exhaustive()
    }
}

/// Keeps layers and blobs from being removed until it is dropped.
#[derive(Debug)]
pub struct Hold<'a> {
    store: &'a ImageStore,
    what: Vec<Digest>,
}

impl Hold<'_> {
    pub(crate) fn add(&mut self, digest: Digest) {
        *self.store.state_mut().held.entry(digest).or_default() += 1;
        self.what.push(digest);
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let mut state = self.store.state_mut();
        for digest in &self.what {
            if let Some(count) = state.held.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    state.held.remove(digest);
                }
            }
        }
    }
}

impl ImageStore {
    /// Opens the store below `root` (its own folder, made if it is not there). Call [`Self::recover`] before layers are
    /// used, as soon as the layer driver answers.
    pub fn open(root: &Path, store: Store, layers: Arc<dyn LayerBackend>) -> Result<Self, ImageError> {
        let blobs = Blobs::open(root)?;
        let mut state = State::default();
        store.read::<_, ImageError>(|tx| {
            for (_, record) in IMAGES.all(tx)? {
                state.images.insert(record.id, Arc::new(record));
            }
            for (name, id) in NAMES.all(tx)? {
                state.names.insert(ImageRef::parse_bare(&name)?, id);
            }
            for (_, record) in INDEXES.all(tx)? {
                state.indexes.insert(record.digest, Arc::new(record));
            }
            for (name, digest) in INDEX_NAMES.all(tx)? {
                state.index_names.insert(ImageRef::parse_bare(&name)?, digest);
            }
            for (_, row) in LAYERS.all(tx)? {
                state.layers.insert(row.layer.chain_id, row);
            }
            for (key, ()) in PINS.all(tx)? {
                if let Some((chain, owner)) = key.split_once(' ') {
                    state.pins.insert((ChainId::parse(chain)?, owner.to_owned()));
                }
            }
            Ok(())
        })?;
        Ok(Self {
            blobs,
            sweeper: Sweeper::new(Arc::clone(&layers), store.clone()),
            store,
            backend: layers,
            state: RwLock::new(state),
            changing: Mutex::new(()),
            packing: Mutex::new(()),
            unpacking: Mutex::new(HashMap::new()),
        })
    }

    fn state(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The content store.
    #[must_use]
    pub const fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// The layer driver's seam.
    #[must_use]
    pub fn backend(&self) -> &Arc<dyn LayerBackend> {
        &self.backend
    }

    // ---- looking up; these do not block ----

    /// Finds an image by name, by id, or by the beginning of an id that only one has.
    pub fn resolve(&self, text: &str) -> Result<Arc<ImageRecord>, ImageError> {
        let state = self.state();
        let not_found = || ImageError::NotFound(text.to_owned());
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        // An index stands for the image of it that suits best.
        let of_index = |index: &IndexRecord| {
            let id = index.image_for(&Platform::host()).or_else(|| index.images().next())?;
            state.images.get(&id).cloned()
        };
        if let Some(id) = Digest::from_hex(hex) {
            let index = || of_index(state.indexes.get(&id)?);
            return state.images.get(&id).cloned().or_else(index).ok_or_else(not_found);
        }
        if !text.starts_with("sha256:")
            && let Ok(name) = ImageRef::parse(text)
            && let Some(id) = find_name(&state, &name)
        {
            return state.images.get(&id).cloned().ok_or_else(not_found);
        }
        if hex.is_empty() || !hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            // A text that could not name an image is told so, rather than that there is none.
            if !text.starts_with("sha256:") {
                ImageRef::parse(text)?;
            }
            return Err(not_found());
        }
        let mut found = state.images.iter().filter(|(id, _)| id.hex().starts_with(hex));
        match (found.next(), found.next()) {
            (Some((_, record)), None) => Ok(record.clone()),
            (Some(_), Some(_)) => Err(ImageError::Ambiguous(text.to_owned())),
            (None, _) => index::by_prefix(&state, hex).and_then(|index| of_index(index)).ok_or_else(not_found),
        }
    }

    /// The image that goes by this very name.
    #[must_use]
    pub fn by_name(&self, name: &ImageRef) -> Option<Arc<ImageRecord>> {
        let state = self.state();
        find_name(&state, name).and_then(|id| state.images.get(&id).cloned())
    }

    /// The image with this id.
    #[must_use]
    pub fn get(&self, id: &Digest) -> Option<Arc<ImageRecord>> {
        self.state().images.get(id).cloned()
    }

    /// All names of an image, those with tags and those with digests.
    #[must_use]
    pub fn names(&self, id: &Digest) -> Vec<ImageRef> {
        self.state().names.iter().filter(|(_, named)| *named == id).map(|(name, _)| name.clone()).collect()
    }

    /// All images with their names.
    #[must_use]
    pub fn list(&self) -> Vec<(Arc<ImageRecord>, Vec<ImageRef>)> {
        let state = self.state();
        let mut names: HashMap<&Digest, Vec<ImageRef>> = HashMap::new();
        for (name, id) in &state.names {
            names.entry(id).or_default().push(name.clone());
        }
        state.images.values().map(|record| (record.clone(), names.remove(&record.id).unwrap_or_default())).collect()
    }

    /// The images that were built upon this one here.
    #[must_use]
    pub fn children(&self, id: &Digest) -> Vec<Digest> {
        self.state().images.values().filter(|image| image.parent == Some(*id)).map(|image| image.id).collect()
    }

    /// An unpacked layer.
    #[must_use]
    pub fn layer(&self, chain: &ChainId) -> Option<LayerRef> {
        self.state().layers.get(chain).map(|row| row.layer.clone())
    }

    /// Bytes of all unpacked layers, each counted once.
    #[must_use]
    pub fn layers_size(&self) -> u64 {
        self.state().layers.values().map(|row| row.layer.size).sum()
    }

    /// How many images use each layer.
    #[must_use]
    pub fn layer_uses(&self) -> HashMap<ChainId, usize> {
        let mut uses = HashMap::new();
        for image in self.state().images.values() {
            for layer in &image.layers {
                *uses.entry(layer.chain_id).or_default() += 1;
            }
        }
        uses
    }

    /// How the image came to be, newest first, each step with the layer that it made.
    #[must_use]
    pub fn history(&self, image: &ImageRecord) -> Vec<(HistoryEntry, Option<LayerRef>)> {
        let mut layers = image.layers.iter();
        let mut steps: Vec<_> = image
            .config
            .history
            .iter()
            .map(|entry| (entry.clone(), if entry.empty_layer { None } else { layers.next().cloned() }))
            .collect();
        // Layers that the history does not mention are shown nevertheless.
        steps.extend(layers.map(|layer| (HistoryEntry::default(), Some(layer.clone()))));
        steps.reverse();
        steps
    }

    // ---- names ----

    /// Gives an image a name, taking it from the image or index that had it. The image that lost it, if another.
    pub fn tag(&self, id: &Digest, name: &ImageRef) -> Result<Option<Digest>, ImageError> {
        let _changing = self.changing();
        let record = self.get(id).ok_or_else(|| ImageError::NotFound(id.to_string()))?;
        let record = ImageRecord { tagged_ns: timestamp::now(), ..(*record).clone() };
        self.store.write::<_, ImageError>(Durability::Power, |tx| {
            IMAGES.put(tx, &id.hex(), &record)?;
            INDEX_NAMES.delete(tx, &name.to_string())?;
            Ok(NAMES.put(tx, &name.to_string(), id)?)
        })?;
        let (former, index) = {
            let mut state = self.state_mut();
            state.images.insert(*id, Arc::new(record));
            (state.names.insert(name.clone(), *id), state.index_names.remove(name))
        };
        self.drop_indexes(index)?;
        Ok(former.filter(|former| former != id))
    }

    /// Takes a name away. The image that had it.
    pub fn untag(&self, name: &ImageRef) -> Result<Option<Digest>, ImageError> {
        let _changing = self.changing();
        self.untag_locked(name)
    }

    fn untag_locked(&self, name: &ImageRef) -> Result<Option<Digest>, ImageError> {
        self.store.write::<_, ImageError>(Durability::Power, |tx| {
            INDEX_NAMES.delete(tx, &name.to_string())?;
            Ok(NAMES.delete(tx, &name.to_string())?)
        })?;
        let (id, index) = {
            let mut state = self.state_mut();
            (state.names.remove(name), state.index_names.remove(name))
        };
        self.drop_indexes(index)?;
        Ok(id)
    }

    // ---- holding ----

    /// Keeps layers and blobs while an operation needs them.
    #[must_use]
    pub fn hold(&self, what: impl IntoIterator<Item = Digest>) -> Hold<'_> {
        let mut hold = Hold { store: self, what: Vec::new() };
        for digest in what {
            hold.add(digest);
        }
        hold
    }

    /// Keeps a layer, and with it those below, for an owner that outlives the daemon (a container, the build cache).
    pub fn pin(&self, chain: &ChainId, owner: &str) -> Result<(), ImageError> {
        let _changing = self.changing();
        let key = (*chain, owner.to_owned());
        if self.state().pins.contains(&key) {
            return Ok(());
        }
        self.store
            .write::<_, ImageError>(Durability::Process, |tx| Ok(PINS.put(tx, &pin_key(chain, owner), &())?))?;
        let mut state = self.state_mut();
        state.fresh.remove(chain);
        state.pins.insert(key);
        Ok(())
    }

    /// Every claim: a layer and its owner.
    #[must_use]
    pub fn pins(&self) -> Vec<(ChainId, String)> {
        self.state().pins.iter().cloned().collect()
    }

    /// Ends an owner's claim. The layer goes at once if nothing else needs it; what was removed.
    pub fn unpin(&self, chain: &ChainId, owner: &str) -> Result<Vec<Removed>, ImageError> {
        let _changing = self.changing();
        self.store.write::<_, ImageError>(Durability::Process, |tx| Ok(PINS.delete(tx, &pin_key(chain, owner))?))?;
        self.state_mut().pins.remove(&(*chain, owner.to_owned()));
        let mut removed = Vec::new();
        self.drop_layers(Some(*chain), &mut removed)?;
        Ok(removed)
    }
}

fn find_name(state: &State, name: &ImageRef) -> Option<Digest> {
    find_in(&state.names, name)
}

fn find_in(names: &BTreeMap<ImageRef, Digest>, name: &ImageRef) -> Option<Digest> {
    if let Some(id) = names.get(name) {
        return Some(*id);
    }
    // A tag beside a digest is a comment: the digest decides.
    let digest = name.digest()?;
    names.get(&name.with_digest(*digest)).copied()
}

fn pin_key(chain: &ChainId, owner: &str) -> String {
    format!("{chain} {owner}")
}

#[cfg(test)]
mod tests;
