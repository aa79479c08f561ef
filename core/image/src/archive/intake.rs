//! Reading an archive once, from its beginning to its end.
//!
//! What its files are is often told last. Documents are kept in memory, within bounds; what may be a layer becomes a
//! blob and is unpacked while it is read, into a directory of its own that takes its place later.

use std::collections::HashMap;
use std::io::{self, Read};

use super::{WHAT, blob_path};
use crate::decompress::{Compression, Decompress};
use crate::digest::{ChainId, Digest};
use crate::error::ImageError;
use crate::ingest::{Found, Keep, read_error, try_ingest};
use crate::manifest::{Descriptor, MAX_DOCUMENT};
use crate::record::LayerRef;
use crate::store::{Draft, ExpectedLayer, Hold, ImageStore};
use crate::tar_reader::{Entry, Kind, Stored, TarReader, is_header};

const MAX_ENTRIES: usize = 100_000;
/// Bytes of all documents together.
const MAX_DOCUMENTS: u64 = 64 << 20;
/// So many first bytes tell a layer from a document.
const START: u64 = 512;
/// Documents that are always taken.
const KNOWN: [&[u8]; 3] = [b"index.json", b"manifest.json", b"oci-layout"];

/// What a file of the archive became.
enum Taken<'a> {
    Document(Vec<u8>),
    Layer {
        blob: Digest,
        /// What reading it showed, and where it was unpacked; once used, it is read from its blob.
        unpacked: Option<Box<(Found, Draft<'a>)>>,
    },
    /// Neither; it matters only if something refers to it.
    Unusable(String),
}

/// An archive that was read to its end. Dropped, it takes with it whatever no image came to need.
pub(super) struct Intake<'a> {
    store: &'a ImageStore,
    files: Vec<Taken<'a>>,
    names: HashMap<Vec<u8>, usize>,
    /// Bytes of documents.
    memory: u64,
    /// Blobs that were not here before.
    brought: Vec<Digest>,
    hold: Option<Hold<'a>>,
}

impl Drop for Intake<'_> {
    fn drop(&mut self) {
        self.files.clear();
        drop(self.hold.take());
        if let Err(error) = self.store.abandon_blobs(&self.brought) {
            tracing::warn!(%error, "what an archive brought stays until the next start");
        }
    }
}

impl<'a> Intake<'a> {
    /// Reads an archive, packed or not.
    pub(super) fn read(store: &'a ImageStore, reader: impl Read + Send) -> Result<Self, ImageError> {
        let failed = |error| read_error(WHAT, error);
        let mut intake = Self {
            store,
            files: Vec::new(),
            names: HashMap::new(),
            memory: 0,
            brought: Vec::new(),
            hold: Some(store.hold([])),
        };
        let mut tar = TarReader::new(Decompress::new(reader).map_err(failed)?);
        let mut links: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let mut entries = 0;
        while let Some(entry) = tar.next_entry().map_err(failed)? {
            entries += 1;
            if entries > MAX_ENTRIES {
                return Err(ImageError::refused(WHAT, format!("more than {MAX_ENTRIES} entries")));
            }
            let name = crate::tree::clean(&entry.path).map_err(|why| {
                ImageError::refused(WHAT, format!("{:?}: {why}", String::from_utf8_lossy(&entry.path)))
            })?;
            match entry.kind {
                Kind::File if entry.parts.is_none() => {
                    let taken = intake.take(&name, &entry, tar.stored())?;
                    intake.names.insert(name, intake.files.len());
                    intake.files.push(taken);
                }
                // Older archives name a layer that two images share by a link.
                Kind::Symlink => {
                    let (folder, _) = crate::tree::split(&name);
                    let target = crate::unpack::within(&[folder, b"/", &entry.link].concat());
                    links.push((name, target));
                }
                Kind::Hardlink => links.push((name, entry.link)),
                _ => {}
            }
        }
        for (name, target) in links {
            if let Some(place) = intake.names.get(&target).copied() {
                intake.names.insert(name, place);
            }
        }
        tar.drain().map_err(failed)?;
        Ok(intake)
    }

    fn take(
        &mut self,
        name: &[u8],
        entry: &Entry,
        mut content: Stored<'_, impl Read + Send>,
    ) -> Result<Taken<'a>, ImageError> {
        let failed = |error| read_error(WHAT, error);
        let mut start = Vec::new();
        (&mut content).take(START).read_to_end(&mut start).map_err(failed)?;
        let packed = Compression::detect(&start) != Ok(Compression::None);
        let mut content = io::Cursor::new(start).chain(content);
        if packed || is_header(content.get_ref().0.get_ref()) {
            return self.take_layer(name, content);
        }
        if entry.size > MAX_DOCUMENT {
            return Ok(Taken::Unusable(format!("it is no layer, and longer than {MAX_DOCUMENT} bytes")));
        }
        if self.memory + entry.size > MAX_DOCUMENTS && !KNOWN.contains(&name) {
            return Ok(Taken::Unusable(format!("there are more than {MAX_DOCUMENTS} bytes of documents")));
        }
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes).map_err(failed)?;
        self.memory += entry.size;
        Ok(Taken::Document(bytes))
    }

    fn take_layer(&mut self, name: &[u8], content: impl Read + Send) -> Result<Taken<'a>, ImageError> {
        let Some(hold) = &mut self.hold else { return Ok(Taken::Unusable("the archive is closed".to_owned())) };
        let named =
            name.strip_prefix(b"blobs/sha256/").and_then(|hex| Digest::from_hex(std::str::from_utf8(hex).ok()?));
        if let Some(digest) = named {
            hold.add(digest);
            // What is here was verified when it came.
            if self.store.blobs().has(&digest) {
                return Ok(Taken::Layer { blob: digest, unpacked: None });
            }
        }
        let what = String::from_utf8_lossy(name).into_owned();
        let mut blob = self.store.blobs().writer()?;
        let Some(draft) = self.store.draft(None)? else {
            let mut content = content;
            io::copy(&mut content, &mut blob).map_err(|error| read_error(&what, error))?;
            let digest = blob.digest_so_far();
            hold.add(digest);
            blob.finish()?;
            self.brought.push(digest);
            return Ok(Taken::Layer { blob: digest, unpacked: None });
        };
        let tried = match try_ingest(&what, content, Keep::Blob(&mut blob), draft.target()) {
            Ok(tried) => tried,
            Err(ImageError::Refused { why, .. }) => return Ok(Taken::Unusable(why)),
            Err(error) => return Err(error),
        };
        let digest = tried.blob;
        hold.add(digest);
        blob.finish()?;
        self.brought.push(digest);
        Ok(Taken::Layer { blob: digest, unpacked: tried.found().map(|found| Box::new((found, draft))) })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.names.contains_key(name.as_bytes())
    }

    fn place(&self, name: &str) -> Result<usize, ImageError> {
        let place = self.names.get(name.as_bytes()).copied();
        place.ok_or_else(|| ImageError::refused(WHAT, format!("{name} is missing from it")))
    }

    /// A document, bounded.
    pub(super) fn document(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        match &self.files[self.place(name)?] {
            Taken::Document(bytes) => Ok(bytes.clone()),
            Taken::Layer { .. } => Err(ImageError::refused(WHAT, format!("{name} is no document"))),
            Taken::Unusable(why) => Err(ImageError::refused(WHAT, format!("{name}: {why}"))),
        }
    }

    /// A document by digest, verified.
    pub(super) fn blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let name = blob_path(&descriptor.digest);
        let bytes = self.document(&name)?;
        verify(&name, &bytes, &descriptor.digest)?;
        if bytes.len() as u64 != descriptor.size {
            return Err(ImageError::refused(WHAT, format!("{name} is not as long as its descriptor says")));
        }
        Ok(bytes)
    }

    /// Whether a blob can be kept as it is.
    pub(super) fn holds(&self, digest: &Digest) -> bool {
        let place = self.names.get(blob_path(digest).as_bytes());
        match place.map(|place| &self.files[*place]) {
            Some(Taken::Document(bytes)) => Digest::of(bytes) == *digest,
            Some(Taken::Layer { blob, .. }) => blob == digest,
            Some(Taken::Unusable(_)) | None => false,
        }
    }

    /// Keeps a blob as it is; the caller holds it.
    pub(super) fn keep(&self, digest: &Digest) -> Result<(), ImageError> {
        match &self.files[self.place(&blob_path(digest))?] {
            Taken::Document(bytes) => self.store.blobs().write(bytes).map(drop),
            // What may be a layer is among the blobs already.
            Taken::Layer { .. } | Taken::Unusable(_) => Ok(()),
        }
    }

    /// Takes a file as the layer that it must be, over `parents` (nearest first).
    pub(super) fn layer(
        &mut self,
        name: &str,
        expected: &ExpectedLayer,
        parents: &[ChainId],
    ) -> Result<LayerRef, ImageError> {
        let place = self.place(name)?;
        let (blob, unpacked) = match &mut self.files[place] {
            // Such as an empty tar, which begins with nothing.
            Taken::Document(bytes) => {
                return self.store.take_layer(name, io::Cursor::new(&*bytes), expected, parents);
            }
            Taken::Layer { blob, unpacked } => (*blob, unpacked.take()),
            Taken::Unusable(why) => return Err(ImageError::refused(name, why.clone())),
        };
        let chain = ChainId::on(parents.first(), &expected.diff_id);
        if expected.blob.is_none() && self.store.layer(&chain).is_some() {
            // How it was packed does not matter to anyone.
            return self.store.take_known_layer(expected, parents);
        }
        let expected = ExpectedLayer { blob: Some(expected.blob.unwrap_or(blob)), ..expected.clone() };
        if expected.blob != Some(blob) {
            let expected = expected.blob.unwrap_or(blob);
            return Err(ImageError::Mismatch { what: name.to_owned(), expected, actual: blob });
        }
        let Some((found, draft)) = unpacked.map(|unpacked| *unpacked) else {
            return self.store.take_downloaded(name, &expected, parents, None);
        };
        expected.check(name, &found)?;
        draft.place(expected.found(&found, chain), found.has_root, parents)
    }
}

pub(super) fn verify(what: &str, bytes: &[u8], expected: &Digest) -> Result<(), ImageError> {
    let actual = Digest::of(bytes);
    if actual == *expected {
        Ok(())
    } else {
        Err(ImageError::Mismatch { what: what.to_owned(), expected: *expected, actual })
    }
}
