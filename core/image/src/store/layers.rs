//! Taking layers in: each is unpacked into the directory of its chain, and visible once its row is written.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sampan_store::Durability;

use super::{ImageStore, LAYERS, LayerRow, UNPACKING, boot_id};
use crate::arrival::Arrival;
use crate::backend::{ChangeView, Whiteouts};
use crate::blobs::BlobWriter;
use crate::decompress::Decompress;
use crate::digest::{ChainId, DiffId, Digest};
use crate::error::{Context, ImageError};
use crate::ingest::{Found, Keep, ingest, read_error, unpack_error};
use crate::manifest::{OCI_LAYER, layer_compression, layer_media_type};
use crate::pack::{self, Change, pack_changes};
use crate::record::LayerRef;
use crate::tar_reader::read_some;
use crate::unpack::{Limits, Target, unpack};

/// What the documents of an image say about a layer.
#[derive(Debug, Clone)]
pub(crate) struct ExpectedLayer {
    pub diff_id: DiffId,
    pub blob: Option<Digest>,
    pub blob_size: Option<u64>,
    pub media_type: Option<String>,
    /// See [`LayerRef::urls`].
    pub urls: Vec<String>,
}

impl ExpectedLayer {
    /// A layer that is as it should be, by what was found of it.
    pub(crate) fn found(&self, found: &Found, chain_id: ChainId) -> LayerRef {
        let media_type = self.media_type.clone();
        LayerRef {
            diff_id: found.diff_id,
            chain_id,
            blob: found.blob,
            blob_size: found.blob_size,
            media_type: media_type.unwrap_or_else(|| layer_media_type(found.compression).to_owned()),
            size: found.size,
            urls: self.urls.clone(),
        }
    }

    /// A layer that is here already, in the form that was found.
    fn in_form(&self, form: &Found, known: LayerRef) -> LayerRef {
        LayerRef { size: known.size, ..self.found(form, known.chain_id) }
    }

    pub(crate) fn check(&self, what: &str, found: &Found) -> Result<(), ImageError> {
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

/// Another form of a layer whose files are here: it must unpack to the same tar.
fn read_form(what: &str, reader: impl Read, expected: &ExpectedLayer, blob: Digest) -> Result<Found, ImageError> {
    let form = crate::ingest::look_through(what, reader, blob)?;
    expected.check(what, &form)?;
    Ok(form)
}

impl ImageStore {
    /// Adds a layer from a tar, compressed or not, whose digests are not known beforehand. `parents` nearest first.
    /// The layer is kept until an image or a pin refers to it, or the daemon starts anew.
    pub fn add_layer_from_tar(&self, reader: impl Read + Send, parents: &[ChainId]) -> Result<LayerRef, ImageError> {
        let what = "the archive";
        let mut blob = self.blobs.writer()?;
        if let Some(draft) = self.draft(Some(parents))? {
            let found = ingest(what, reader, u64::MAX, Keep::Plain(&mut blob), draft.target())?;
            let hold = self.hold([found.blob]);
            blob.finish()?;
            let layer = LayerRef {
                diff_id: found.diff_id,
                chain_id: ChainId::on(parents.first(), &found.diff_id),
                blob: found.blob,
                blob_size: found.blob_size,
                media_type: OCI_LAYER.to_owned(),
                size: found.size,
                urls: Vec::new(),
            };
            let placed = draft.place(layer, true, parents);
            drop(hold);
            if placed.is_err() {
                self.drop_blobs([found.blob])?;
            }
            return placed;
        }
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

    /// Lays a layer that is here over others (nearest first). Kept as by [`Self::add_layer_from_tar`].
    pub fn lay(&self, layer: &LayerRef, parents: &[ChainId]) -> Result<LayerRef, ImageError> {
        let expected = ExpectedLayer {
            diff_id: layer.diff_id,
            blob: Some(layer.blob),
            blob_size: Some(layer.blob_size),
            media_type: Some(layer.media_type.clone()),
            urls: layer.urls.clone(),
        };
        {
            let chain = ChainId::on(parents.first(), &layer.diff_id);
            let _changing = self.changing();
            // It may have been packed meanwhile.
            if let Some(known) = self.layer(&chain) {
                self.state_mut().fresh.insert(chain);
                return Ok(known);
            }
        }
        self.take_downloaded(&format!("layer {}", layer.blob), &expected, parents, None)
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
                blob.finish()?;
                self.finish_layer(expected.found(&found, chain), parents)
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

    /// Unpacks a blob that is here and held, or comes meanwhile.
    pub(crate) fn take_downloaded(
        &self,
        what: &str,
        expected: &ExpectedLayer,
        parents: &[ChainId],
        arrival: Option<&Arrival>,
    ) -> Result<LayerRef, ImageError> {
        let digest = expected.blob.ok_or_else(|| ImageError::Invalid(format!("{what}: no digest to find it by")))?;
        let chain = ChainId::on(parents.first(), &expected.diff_id);
        let hold = self.hold([digest, chain.0]);
        let lock = self.unpacking_lock(&chain);
        let _unpacking = lock.lock().unwrap_or_else(PoisonError::into_inner);
        // What is visible says only what is here.
        let wait = || arrival.map_or(Ok(()), |arrival| arrival.wait().context(|| format!("read {what}")));
        if let Some(known) = self.layer(&chain) {
            wait()?;
            if known.blob == digest {
                self.state_mut().fresh.insert(chain);
                let media_type = expected.media_type.clone().unwrap_or_else(|| known.media_type.clone());
                return Ok(LayerRef { media_type, urls: expected.urls.clone(), ..known });
            }
            let form = self.blobs.open_blob(&digest).and_then(|file| read_form(what, file, expected, digest));
            if form.is_ok() {
                self.state_mut().fresh.insert(chain);
            }
            drop(hold);
            if form.is_err() {
                self.drop_blobs([digest])?;
            }
            return Ok(expected.in_form(&form?, known));
        }
        let target = self.begin_layer(&chain, parents)?;
        let ingested = match arrival {
            Some(arrival) => ingest(what, arrival.reader(), u64::MAX, Keep::Known(digest), &target),
            None => self
                .blobs
                .open_blob(&digest)
                .and_then(|file| ingest(what, file, u64::MAX, Keep::Known(digest), &target)),
        };
        let taken = ingested.and_then(|found| {
            expected.check(what, &found)?;
            wait()?;
            self.finish_layer(expected.found(&found, chain), parents)
        });
        if taken.is_err()
            && let Some(arrival) = arrival.filter(|arrival| arrival.taken().is_some())
        {
            // What came whole is just being named; it goes with the rest.
            drop(arrival.wait());
        }
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
        let hold = self.hold([wanted]);
        blob.finish()?;
        let form = self.blobs.open_blob(&wanted).and_then(|file| read_form(what, file, expected, wanted));
        drop(hold);
        if form.is_err() {
            self.drop_blobs([wanted])?;
        }
        Ok(expected.in_form(&form?, known))
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
            return Ok(LayerRef {
                blob: digest,
                blob_size,
                media_type: OCI_LAYER.to_owned(),
                urls: Vec::new(),
                ..known
            });
        }
        let target = self.begin_layer(&chain, parents)?;
        let taken = self.blobs.open_blob(&digest).and_then(|file| {
            // The bytes were hashed while they were written to a place that is ours alone.
            let size = unpack(file, &target).map_err(|error| unpack_error(what, error))?.bytes;
            let media_type = OCI_LAYER.to_owned();
            self.finish_layer(
                LayerRef { diff_id, chain_id: chain, blob: digest, blob_size, media_type, size, urls: Vec::new() },
                parents,
            )
        });
        drop(hold);
        if taken.is_err() {
            self.drop_blobs([digest])?;
        }
        self.end_layer(&chain, taken)
    }

    pub(super) fn unpacking_lock(&self, chain: &ChainId) -> Arc<Mutex<()>> {
        let mut locks = self.unpacking.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        locks.entry(*chain).or_default().clone()
    }

    /// Records the intent and prepares the directory.
    pub(super) fn begin_layer(&self, chain: &ChainId, parents: &[ChainId]) -> Result<Target, ImageError> {
        self.sweeper.reclaim(chain)?;
        self.intend(chain)?;
        let whiteouts = self.backend.whiteouts()?;
        let root = self.backend.prepare(chain, parents)?;
        let lower = if whiteouts == Whiteouts::Overlay { self.lower(parents)? } else { Vec::new() };
        Ok(Target { root, lower: Some(lower), whiteouts, limits: Limits::default() })
    }

    /// Records that a directory comes, so that a start finds it that finds no more.
    pub(super) fn intend(&self, chain: &ChainId) -> Result<(), ImageError> {
        let key = chain.to_string();
        self.store.write::<_, ImageError>(Durability::Process, |tx| Ok(UNPACKING.put(tx, &key, &())?))
    }

    /// The directories of layers, in the given order (nearest first).
    pub(super) fn lower(&self, parents: &[ChainId]) -> Result<Vec<PathBuf>, ImageError> {
        let mut found = Vec::with_capacity(parents.len());
        for (at, chain) in parents.iter().enumerate() {
            found.push(self.backend.prepare(chain, &parents[at + 1..])?);
        }
        Ok(found)
    }

    pub(super) fn finish_layer(&self, layer: LayerRef, parents: &[ChainId]) -> Result<LayerRef, ImageError> {
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
    pub(super) fn end_layer(
        &self,
        chain: &ChainId,
        taken: Result<LayerRef, ImageError>,
    ) -> Result<LayerRef, ImageError> {
        if taken.is_err() {
            self.sweeper.doom([*chain]);
        }
        taken
    }

    /// A layer and those below it, nearest first.
    #[must_use]
    pub fn ancestors(&self, from: Option<ChainId>) -> Vec<ChainId> {
        let state = self.state();
        std::iter::successors(from, |chain| state.layers.get(chain).and_then(|row| row.parent)).collect()
    }
}
