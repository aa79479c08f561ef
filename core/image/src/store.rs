//! The images of one data root.
//!
//! What is visible is in memory and in the database; the database is changed first. Layers and blobs that nothing
//! refers to any more are removed with the image that used them last; what an operation still needs while nothing
//! visible refers to it is held by a [`Hold`].

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use sampan_store::{Collection, Durability, Store};
use serde::{Deserialize, Serialize};

use crate::backend::{ChangeView, LayerBackend, Whiteouts};
use crate::blobs::{BlobWriter, Blobs};
use crate::config::{HistoryEntry, ImageConfig};
use crate::decompress::Decompress;
use crate::digest::{ChainId, DiffId, Digest};
use crate::error::{Context, ImageError};
use crate::ingest::{Found, Keep, ingest, read_error, unpack_error};
use crate::manifest::{Descriptor, Manifest, OCI_CONFIG, OCI_LAYER, layer_compression, layer_media_type};
use crate::pack::{self, Change, pack_changes};
use crate::record::{ImageRecord, LayerRef};
use crate::reference::ImageRef;
use crate::tar_reader::read_some;
use crate::timestamp;
use crate::unpack::{Limits, Target, unpack};

/// More layers than overlayfs can join are refused when an image arrives.
pub const MAX_LAYERS: usize = 500;

const IMAGES: Collection<ImageRecord> = Collection::new("images");
const NAMES: Collection<Digest> = Collection::new("image-names");
const LAYERS: Collection<LayerRow> = Collection::new("layers");
/// Layers that are being unpacked: what is found here at a start is removed.
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
    layers: HashMap<ChainId, LayerRow>,
    pins: BTreeSet<(ChainId, String)>,
    /// Layers that were made and that nothing refers to yet.
    fresh: HashSet<ChainId>,
    /// Chains and blobs that running operations need, counted.
    held: HashMap<Digest, usize>,
}

/// What the documents of an image say about a layer.
#[derive(Debug, Clone)]
pub(crate) struct ExpectedLayer {
    pub diff_id: DiffId,
    pub blob: Option<Digest>,
    pub blob_size: Option<u64>,
    pub media_type: Option<String>,
}

impl ExpectedLayer {
    fn check(&self, what: &str, found: &Found) -> Result<(), ImageError> {
        if let Some(expected) = self.blob_size.filter(|size| *size != found.blob_size) {
            return Err(ImageError::refused(
                what,
                format!("{} bytes instead of the {expected} promised", found.blob_size),
            ));
        }
        let digests = [self.blob.map(|blob| (blob, found.blob)), Some((self.diff_id.0, found.diff_id.0))];
        for (expected, actual) in digests.into_iter().flatten() {
            if expected != actual {
                return Err(ImageError::Mismatch { what: what.to_owned(), expected, actual });
            }
        }
        let declared = match self.media_type.as_deref().map(layer_compression) {
            None => None,
            Some(Ok(compression)) => compression,
            Some(Err(why)) => return Err(ImageError::refused(what, why)),
        };
        match declared.filter(|declared| *declared != found.compression) {
            None => Ok(()),
            Some(declared) => Err(ImageError::refused(
                what,
                format!("declared as {declared:?}, but packed as {:?}", found.compression),
            )),
        }
    }
}

/// One thing that a removal did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name was taken away.
    Untagged(ImageRef),
    /// An image, by its id.
    Image(Digest),
    /// A layer, by its chain.
    Layer(ChainId),
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
            store,
            backend: layers,
            state: RwLock::new(state),
            changing: Mutex::new(()),
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
        if let Some(id) = Digest::from_hex(hex) {
            return state.images.get(&id).cloned().ok_or_else(not_found);
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
            (None, _) => Err(not_found()),
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

    /// Gives an image a name, taking it from the image that had it. The image that lost it, if another.
    pub fn tag(&self, id: &Digest, name: &ImageRef) -> Result<Option<Digest>, ImageError> {
        let _changing = self.changing();
        let record = self.get(id).ok_or_else(|| ImageError::NotFound(id.to_string()))?;
        let record = ImageRecord { tagged_ns: timestamp::now(), ..(*record).clone() };
        self.store.write::<_, ImageError>(Durability::Power, |tx| {
            IMAGES.put(tx, &id.hex(), &record)?;
            Ok(NAMES.put(tx, &name.to_string(), id)?)
        })?;
        let mut state = self.state_mut();
        state.images.insert(*id, Arc::new(record));
        Ok(state.names.insert(name.clone(), *id).filter(|former| former != id))
    }

    /// Takes a name away. The image that had it.
    pub fn untag(&self, name: &ImageRef) -> Result<Option<Digest>, ImageError> {
        let _changing = self.changing();
        self.untag_locked(name)
    }

    fn untag_locked(&self, name: &ImageRef) -> Result<Option<Digest>, ImageError> {
        self.store.write::<_, ImageError>(Durability::Power, |tx| Ok(NAMES.delete(tx, &name.to_string())?))?;
        Ok(self.state_mut().names.remove(name))
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

    // ---- making ----

    /// Adds a layer from a tar, compressed or not, whose digests are not known beforehand. `parents` nearest first.
    /// The layer is kept until an image or a pin refers to it, or the daemon starts anew.
    pub fn add_layer_from_tar(&self, reader: impl Read, parents: &[ChainId]) -> Result<LayerRef, ImageError> {
        let what = "the archive";
        let mut blob = self.blobs.writer()?;
        let mut plain = Decompress::new(reader).map_err(|error| read_error(what, error))?;
        let mut piece = vec![0; 256 << 10];
        loop {
            let read = read_some(&mut plain, &mut piece).map_err(|error| read_error(what, error))?;
            if read == 0 {
                break;
            }
            blob.write_all(&piece[..read]).context(|| "keep the layer".to_owned())?;
        }
        self.layer_from_blob(what, blob, parents)
    }

    /// Makes a layer of what a container changed over `parents` (nearest first). Kept as by
    /// [`Self::add_layer_from_tar`].
    pub fn commit_layer(&self, changes: &ChangeView, parents: &[ChainId]) -> Result<LayerRef, ImageError> {
        let blob = pack_changes(changes, self.blobs.writer()?)?;
        self.layer_from_blob("the container's changes", blob, parents)
    }

    /// What a container changed over `parents` (nearest first), in the order of names.
    pub fn changes(&self, view: &ChangeView, parents: &[ChainId]) -> Result<Vec<Change>, ImageError> {
        let lower = match view {
            ChangeView::Upper(_) => self.lower(parents)?,
            ChangeView::Compare(..) => Vec::new(),
        };
        Ok(pack::changes(view, &lower)?)
    }

    /// Takes in a layer whose digests are known: nothing is visible unless they are right. `parents` nearest first.
    pub(crate) fn take_layer(
        &self,
        what: &str,
        reader: impl Read + Send,
        expected: &ExpectedLayer,
        parents: &[ChainId],
    ) -> Result<LayerRef, ImageError> {
        let chain = ChainId::on(parents.first(), &expected.diff_id);
        let lock = self.unpacking_lock(&chain);
        let _unpacking = lock.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = self.layer(&chain) {
            return self.take_blob(what, reader, expected, known);
        }
        let target = self.begin_layer(&chain, parents)?;
        let mut blob = self.blobs.writer()?;
        let taken = ingest(what, reader, expected.blob_size.unwrap_or(u64::MAX), Keep::Blob(&mut blob), &target)
            .and_then(|found| {
                expected.check(what, &found)?;
                let (digest, size) = blob.finish()?;
                let media_type =
                    expected.media_type.clone().unwrap_or_else(|| layer_media_type(found.compression).to_owned());
                let layer = LayerRef {
                    diff_id: found.diff_id,
                    chain_id: chain,
                    blob: digest,
                    blob_size: size,
                    media_type,
                    size: found.size,
                };
                self.finish_layer(layer, parents)
            });
        self.end_layer(&chain, taken)
    }

    /// A layer that is here already with the blob that is wanted.
    pub(crate) fn take_known_layer(
        &self,
        expected: &ExpectedLayer,
        parents: &[ChainId],
    ) -> Result<LayerRef, ImageError> {
        let chain = ChainId::on(parents.first(), &expected.diff_id);
        let _changing = self.changing();
        let known = self.layer(&chain);
        let known =
            known.ok_or_else(|| ImageError::Conflict(format!("layer {chain} was removed meanwhile: try again")))?;
        self.state_mut().fresh.insert(chain);
        Ok(known)
    }

    /// Names a downloaded file, whose digest was checked while it came, as a blob. Nothing keeps it but a hold.
    pub(crate) fn take_blob_file(&self, path: &Path, digest: &Digest) -> Result<(), ImageError> {
        self.blobs.adopt(path, digest)
    }

    /// Unpacks a blob that is here and held.
    pub(crate) fn take_downloaded(
        &self,
        what: &str,
        expected: &ExpectedLayer,
        parents: &[ChainId],
    ) -> Result<LayerRef, ImageError> {
        let digest = expected.blob.ok_or_else(|| ImageError::Invalid(format!("{what}: no digest to find it by")))?;
        let chain = ChainId::on(parents.first(), &expected.diff_id);
        let hold = self.hold([digest]);
        let lock = self.unpacking_lock(&chain);
        let _unpacking = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let media_type =
            |compression| expected.media_type.clone().unwrap_or_else(|| layer_media_type(compression).to_owned());
        let blob_size = self.blobs.size(&digest);
        if let Some(known) = self.layer(&chain) {
            self.state_mut().fresh.insert(chain);
            let media_type = expected.media_type.clone().unwrap_or_else(|| known.media_type.clone());
            return Ok(LayerRef { blob: digest, blob_size, media_type, ..known });
        }
        let target = self.begin_layer(&chain, parents)?;
        let taken = self
            .blobs
            .open_blob(&digest)
            .and_then(|file| ingest(what, file, u64::MAX, Keep::Known(digest), &target))
            .and_then(|found| {
                expected.check(what, &found)?;
                let media_type = media_type(found.compression);
                let layer = LayerRef {
                    diff_id: found.diff_id,
                    chain_id: chain,
                    blob: digest,
                    blob_size,
                    media_type,
                    size: found.size,
                };
                self.finish_layer(layer, parents)
            });
        drop(hold);
        if taken.is_err() {
            self.drop_blobs([digest])?;
        }
        self.end_layer(&chain, taken)
    }

    /// The layer is here already, perhaps packed otherwise: only its bytes as they came are kept.
    fn take_blob(
        &self,
        what: &str,
        mut reader: impl Read,
        expected: &ExpectedLayer,
        known: LayerRef,
    ) -> Result<LayerRef, ImageError> {
        let Some(wanted) = expected.blob.filter(|wanted| *wanted != known.blob) else { return Ok(known) };
        let mut blob = self.blobs.writer()?;
        let limit = expected.blob_size.unwrap_or(u64::MAX);
        let size = io::copy(&mut (&mut reader).take(limit.saturating_add(1)), &mut blob)
            .map_err(|error| read_error(what, error))?;
        if size > limit {
            return Err(ImageError::refused(
                what,
                format!("longer than the {limit} bytes that its descriptor promises"),
            ));
        }
        let actual = blob.digest_so_far();
        if actual != wanted {
            return Err(ImageError::Mismatch { what: what.to_owned(), expected: wanted, actual });
        }
        blob.finish()?;
        let media_type = expected.media_type.clone().unwrap_or_else(|| known.media_type.clone());
        Ok(LayerRef { blob: wanted, blob_size: size, media_type, ..known })
    }

    fn layer_from_blob(&self, what: &str, blob: BlobWriter<'_>, parents: &[ChainId]) -> Result<LayerRef, ImageError> {
        let hold = self.hold([blob.digest_so_far()]);
        let (digest, blob_size) = blob.finish()?;
        let diff_id = DiffId(digest);
        let chain = ChainId::on(parents.first(), &diff_id);
        let lock = self.unpacking_lock(&chain);
        let _unpacking = lock.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = self.layer(&chain) {
            self.state_mut().fresh.insert(chain);
            return Ok(LayerRef { blob: digest, blob_size, media_type: OCI_LAYER.to_owned(), ..known });
        }
        let target = self.begin_layer(&chain, parents)?;
        let taken = self.blobs.open_blob(&digest).and_then(|file| {
            // The bytes were hashed while they were written to a place that is ours alone.
            let size = unpack(file, &target).map_err(|error| unpack_error(what, error))?;
            let media_type = OCI_LAYER.to_owned();
            self.finish_layer(LayerRef { diff_id, chain_id: chain, blob: digest, blob_size, media_type, size }, parents)
        });
        drop(hold);
        if taken.is_err() {
            self.drop_blobs([digest])?;
        }
        self.end_layer(&chain, taken)
    }

    fn unpacking_lock(&self, chain: &ChainId) -> Arc<Mutex<()>> {
        let mut locks = self.unpacking.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        locks.entry(*chain).or_default().clone()
    }

    /// Records the intent and prepares the directory.
    fn begin_layer(&self, chain: &ChainId, parents: &[ChainId]) -> Result<Target, ImageError> {
        self.store
            .write::<_, ImageError>(Durability::Process, |tx| Ok(UNPACKING.put(tx, &chain.to_string(), &())?))?;
        let whiteouts = self.backend.whiteouts()?;
        let root = self.backend.prepare(chain, parents)?;
        let lower = if whiteouts == Whiteouts::Overlay { self.lower(parents)? } else { Vec::new() };
        Ok(Target { root, lower, whiteouts, limits: Limits::default() })
    }

    /// The directories of layers, in the given order (nearest first).
    fn lower(&self, parents: &[ChainId]) -> Result<Vec<PathBuf>, ImageError> {
        let mut found = Vec::with_capacity(parents.len());
        for (at, chain) in parents.iter().enumerate() {
            found.push(self.backend.prepare(chain, &parents[at + 1..])?);
        }
        Ok(found)
    }

    fn finish_layer(&self, layer: LayerRef, parents: &[ChainId]) -> Result<LayerRef, ImageError> {
        let _changing = self.changing();
        if let Some(gone) = parents.first().filter(|parent| !self.state().layers.contains_key(parent)) {
            return Err(ImageError::Conflict(format!("layer {gone}, on which this one lies, was removed meanwhile")));
        }
        let row = LayerRow { layer: layer.clone(), parent: parents.first().copied(), unflushed: Some(boot_id()) };
        let key = layer.chain_id.to_string();
        self.store.write::<_, ImageError>(Durability::Process, |tx| {
            LAYERS.put(tx, &key, &row)?;
            Ok(UNPACKING.delete(tx, &key)?)
        })?;
        let mut state = self.state_mut();
        state.fresh.insert(layer.chain_id);
        state.layers.insert(layer.chain_id, row);
        Ok(layer)
    }

    /// After a failure nothing of the layer stays.
    fn end_layer(&self, chain: &ChainId, taken: Result<LayerRef, ImageError>) -> Result<LayerRef, ImageError> {
        if taken.is_err() {
            self.forget_unpacking(chain)?;
        }
        taken
    }

    fn forget_unpacking(&self, chain: &ChainId) -> Result<(), ImageError> {
        self.backend.remove(chain)?;
        self.store.write::<_, ImageError>(Durability::Process, |tx| Ok(UNPACKING.delete(tx, &chain.to_string())?))?;
        Ok(())
    }

    // ---- after a start, and for the disk ----

    /// Removes what an interrupted daemon left, and unpacks anew what power was lost over. Call it once, before layers
    /// are used and as soon as the layer driver answers.
    pub fn recover(&self) -> Result<(), ImageError> {
        let left = self.store.read::<_, ImageError>(|tx| Ok(UNPACKING.all(tx)?))?;
        for (key, ()) in left {
            self.forget_unpacking(&ChainId::parse(&key)?)?;
        }
        let boot = boot_id();
        let mut doubtful: Vec<LayerRow> = self
            .state()
            .layers
            .values()
            .filter(|row| row.unflushed.as_ref().is_some_and(|then| *then != boot))
            .cloned()
            .collect();
        doubtful.sort_by_key(|row| self.ancestors(row.parent).len());
        for row in doubtful {
            let chain = row.layer.chain_id;
            if let Err(error) = self.unpack_again(&row) {
                tracing::warn!(layer = %chain, %error, "a layer that power was lost over cannot be unpacked again");
            }
        }
        self.flush()?;
        self.gc().map(drop)
    }

    fn unpack_again(&self, row: &LayerRow) -> Result<(), ImageError> {
        let chain = row.layer.chain_id;
        tracing::info!(layer = %chain, "unpack again: its files may not have reached the disk");
        self.backend.remove(&chain)?;
        let target = self.begin_layer(&chain, &self.ancestors(row.parent))?;
        let found = ingest(
            &format!("layer {chain}"),
            self.blobs.open_blob(&row.layer.blob)?,
            u64::MAX,
            Keep::Known(row.layer.blob),
            &target,
        )?;
        if found.diff_id != row.layer.diff_id {
            let what = format!("layer {chain}");
            return Err(ImageError::Mismatch { what, expected: row.layer.diff_id.0, actual: found.diff_id.0 });
        }
        self.store.write::<_, ImageError>(Durability::Process, |tx| Ok(UNPACKING.delete(tx, &chain.to_string())?))?;
        Ok(())
    }

    /// A layer and those below it, nearest first.
    #[must_use]
    pub fn ancestors(&self, from: Option<ChainId>) -> Vec<ChainId> {
        let state = self.state();
        std::iter::successors(from, |chain| state.layers.get(chain).and_then(|row| row.parent)).collect()
    }

    /// Puts the files of new layers on the disk. Until that is done, a loss of power makes the next start unpack them
    /// again; it may take seconds, so call it in the background after layers were added.
    pub fn flush(&self) -> Result<(), ImageError> {
        let chains: Vec<ChainId> =
            self.state().layers.iter().filter(|(_, row)| row.unflushed.is_some()).map(|(chain, _)| *chain).collect();
        let mut flushed = HashSet::new();
        for chain in &chains {
            let Some(parent) = self.state().layers.get(chain).map(|row| row.parent) else { continue };
            let root = self.backend.prepare(chain, &self.ancestors(parent))?;
            let folder = File::open(&root).context(|| format!("open {}", root.display()))?;
            let device = folder.metadata().context(|| format!("look at {}", root.display()))?.dev();
            if flushed.insert(device) {
                nix::unistd::syncfs(&folder).context(|| format!("flush {}", root.display()))?;
            }
        }
        let _changing = self.changing();
        for chain in chains {
            let row = self.state().layers.get(&chain).map(|row| LayerRow { unflushed: None, ..row.clone() });
            if let Some(row) = row {
                self.store.write::<_, ImageError>(Durability::Process, |tx| {
                    Ok(LAYERS.put(tx, &chain.to_string(), &row)?)
                })?;
                self.state_mut().layers.insert(chain, row);
            }
        }
        Ok(())
    }

    /// Makes an image of layers that are here (lowest first): writes configuration and manifest and gives it names.
    /// The `rootfs` of the configuration is filled in from the layers.
    pub fn create_image(
        &self,
        mut config: ImageConfig,
        layers: Vec<LayerRef>,
        parent: Option<Digest>,
        names: &[ImageRef],
    ) -> Result<Arc<ImageRecord>, ImageError> {
        config.rootfs.diff_ids = layers.iter().map(|layer| layer.diff_id).collect();
        let document = serde_json::to_vec(&config).context(|| "write the image's configuration".to_owned())?;
        let mut hold = self.hold([Digest::of(&document)]);
        let id = self.blobs.write(&document)?;
        let manifest = Manifest::of_layers(Descriptor::new(OCI_CONFIG, id, document.len() as u64), &layers);
        let document = serde_json::to_vec(&manifest).context(|| "write the image's manifest".to_owned())?;
        hold.add(Digest::of(&document));
        let manifest = self.blobs.write(&document)?;
        self.register(id, manifest, config, layers, parent, names)
    }

    /// Makes an image visible whose layers are here, from its documents as they came. Without a manifest one is written.
    pub(crate) fn register_documents(
        &self,
        config_bytes: &[u8],
        manifest_bytes: Option<&[u8]>,
        config: ImageConfig,
        layers: Vec<LayerRef>,
        names: &[ImageRef],
    ) -> Result<Arc<ImageRecord>, ImageError> {
        let id = Digest::of(config_bytes);
        let written;
        let manifest_bytes = match manifest_bytes {
            Some(bytes) => bytes,
            None => {
                let manifest = Manifest::of_layers(Descriptor::new(OCI_CONFIG, id, config_bytes.len() as u64), &layers);
                written = serde_json::to_vec(&manifest).context(|| "write the image's manifest".to_owned())?;
                &written
            }
        };
        let _hold = self.hold([id, Digest::of(manifest_bytes)]);
        self.blobs.write(config_bytes)?;
        let manifest = self.blobs.write(manifest_bytes)?;
        self.register(id, manifest, config, layers, None, names)
    }

    /// Gives up layers that were taken for an image that did not come to be.
    pub(crate) fn abandon(&self, layers: &[ChainId]) -> Result<(), ImageError> {
        let _changing = self.changing();
        for chain in layers.iter().rev() {
            self.state_mut().fresh.remove(chain);
            self.drop_layers(Some(*chain), &mut Vec::new())?;
        }
        Ok(())
    }

    /// Gives up blobs that nothing came to need.
    pub(crate) fn abandon_blobs(&self, blobs: &[Digest]) -> Result<(), ImageError> {
        let _changing = self.changing();
        self.drop_blobs(blobs.iter().copied()).map(drop)
    }

    /// Bytes of unpacked layers and of blobs.
    #[must_use]
    pub fn disk_size(&self) -> u64 {
        let blobs: u64 = self.blobs.all().unwrap_or_default().iter().map(|digest| self.blobs.size(digest)).sum();
        blobs + self.layers_size()
    }

    /// Makes an image visible whose documents and layers are here.
    pub(crate) fn register(
        &self,
        id: Digest,
        manifest: Digest,
        config: ImageConfig,
        layers: Vec<LayerRef>,
        parent: Option<Digest>,
        names: &[ImageRef],
    ) -> Result<Arc<ImageRecord>, ImageError> {
        let _changing = self.changing();
        if let Some(gone) = layers.iter().find(|layer| !self.state().layers.contains_key(&layer.chain_id)) {
            return Err(ImageError::Conflict(format!("layer {} was removed meanwhile: try again", gone.chain_id)));
        }
        let now = timestamp::now();
        let record = match self.get(&id) {
            // The same image once more: its first manifest stays, its names grow.
            Some(known) => ImageRecord { tagged_ns: now, ..(*known).clone() },
            None => ImageRecord {
                id,
                size: layers.iter().map(|layer| layer.size).sum(),
                created_ns: config.created.as_deref().and_then(timestamp::parse).unwrap_or(0),
                tagged_ns: now,
                config,
                layers,
                manifest,
                parent: parent.filter(|parent| *parent != id),
            },
        };
        self.store.write::<_, ImageError>(Durability::Power, |tx| {
            IMAGES.put(tx, &id.hex(), &record)?;
            for name in names {
                NAMES.put(tx, &name.to_string(), &id)?;
            }
            Ok(())
        })?;
        let record = Arc::new(record);
        let mut state = self.state_mut();
        for layer in &record.layers {
            state.fresh.remove(&layer.chain_id);
        }
        state.images.insert(id, record.clone());
        for name in names {
            state.names.insert(name.clone(), id);
        }
        Ok(record)
    }

    // ---- removing ----

    /// Removes an image with all its names, and what only it needed. Whether that may be is for the caller to say.
    pub fn delete(&self, id: &Digest) -> Result<Vec<Removed>, ImageError> {
        let _changing = self.changing();
        let record = self.get(id).ok_or_else(|| ImageError::NotFound(id.to_string()))?;
        let names = self.names(id);
        self.store.write::<_, ImageError>(Durability::Power, |tx| {
            for name in &names {
                NAMES.delete(tx, &name.to_string())?;
            }
            Ok(IMAGES.delete(tx, &id.hex())?)
        })?;
        {
            let mut state = self.state_mut();
            state.images.remove(id);
            for name in &names {
                state.names.remove(name);
            }
        }
        let mut removed: Vec<_> = names.into_iter().map(Removed::Untagged).collect();
        removed.push(Removed::Image(*id));
        self.drop_layers(record.top(), &mut removed)?;
        let documents = [record.id, record.manifest];
        self.drop_blobs(documents.into_iter().chain(record.layers.iter().map(|layer| layer.blob)))?;
        Ok(removed)
    }

    /// Removes a layer and those below it, as far as nothing needs them.
    fn drop_layers(&self, from: Option<ChainId>, removed: &mut Vec<Removed>) -> Result<(), ImageError> {
        let mut next = from;
        while let Some(chain) = next {
            let row = {
                let state = self.state();
                let Some(row) = state.layers.get(&chain) else { return Ok(()) };
                if is_needed(&state, &chain) {
                    return Ok(());
                }
                row.clone()
            };
            self.store.write::<_, ImageError>(Durability::Process, |tx| {
                UNPACKING.put(tx, &chain.to_string(), &())?;
                Ok(LAYERS.delete(tx, &chain.to_string())?)
            })?;
            self.state_mut().layers.remove(&chain);
            self.backend.remove(&chain)?;
            self.store
                .write::<_, ImageError>(Durability::Process, |tx| Ok(UNPACKING.delete(tx, &chain.to_string())?))?;
            removed.push(Removed::Layer(chain));
            self.drop_blobs([row.layer.blob])?;
            next = row.parent;
        }
        Ok(())
    }

    fn drop_blobs(&self, candidates: impl IntoIterator<Item = Digest>) -> Result<u64, ImageError> {
        let live = live_blobs(&self.state());
        let mut freed = 0;
        for digest in candidates {
            if live.contains(&digest) {
                continue;
            }
            // Whoever holds it from now on looks for it afterwards, and finds it gone.
            let state = self.state_mut();
            if !state.held.contains_key(&digest) {
                freed += self.blobs.remove(&digest)?;
            }
        }
        Ok(freed)
    }

    /// Removes every layer and blob that nothing needs. Bytes that were freed.
    pub fn gc(&self) -> Result<u64, ImageError> {
        let _changing = self.changing();
        let before = self.layers_size();
        let mut removed = Vec::new();
        let chains: Vec<_> = self.state().layers.keys().copied().collect();
        for chain in chains {
            self.drop_layers(Some(chain), &mut removed)?;
        }
        let freed = self.drop_blobs(self.blobs.all()?)?;
        Ok(freed + before.saturating_sub(self.layers_size()))
    }
}

fn find_name(state: &State, name: &ImageRef) -> Option<Digest> {
    if let Some(id) = state.names.get(name) {
        return Some(*id);
    }
    // A tag beside a digest is a comment: the digest decides.
    let digest = name.digest()?;
    state.names.get(&name.with_digest(*digest)).copied()
}

fn pin_key(chain: &ChainId, owner: &str) -> String {
    format!("{chain} {owner}")
}

fn is_needed(state: &State, chain: &ChainId) -> bool {
    state.held.contains_key(&chain.0)
        || state.fresh.contains(chain)
        || state.pins.range((*chain, String::new())..).next().is_some_and(|(pinned, _)| pinned == chain)
        || state.layers.values().any(|row| row.parent == Some(*chain))
        || state.images.values().any(|image| image.layers.iter().any(|layer| layer.chain_id == *chain))
}

fn live_blobs(state: &State) -> HashSet<Digest> {
    let mut live: HashSet<Digest> = state.held.keys().copied().collect();
    live.extend(state.layers.values().map(|row| row.layer.blob));
    for image in state.images.values() {
        live.extend([image.id, image.manifest]);
        live.extend(image.layers.iter().map(|layer| layer.blob));
    }
    live
}

/// Names the present boot, so that a later one is known to be another.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
