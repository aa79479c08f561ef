//! Indexes: one name for images of several platforms, and for what is said about them (attestations, signatures).
//!
//! An index is kept as it came or was made. Of what it names, images that are here are images like any other; what is
//! none is kept byte for byte; the rest is not here. It lives as long as a name leads to it; one that was made without a
//! name, as long as its images do. A name of an index leads to the image that suits this machine, or the one that came
//! last.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use sampan_store::Durability;
use serde::{Deserialize, Serialize};

use super::{IMAGES, INDEX_NAMES, INDEXES, ImageStore, NAMES, State, find_in};
use crate::archive::{is_image, media_type};
use crate::digest::Digest;
use crate::error::{Context, ImageError};
use crate::manifest::{
    Descriptor, Document, IN_TOTO, Index, MAX_DOCUMENT, Manifest, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Platform,
};
use crate::record::ImageRecord;
use crate::reference::ImageRef;
use crate::timestamp;

/// Of which image a manifest of an index says something.
pub(crate) const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";
/// What kind of thing it says.
pub(crate) const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
const ATTESTATION: &str = "attestation-manifest";
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";

/// What is here of one manifest of an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// Nothing.
    Absent,
    /// An image, by its id.
    Image(Digest),
    /// The manifest and these blobs, which are no image for this system.
    Kept(Vec<Digest>),
}

/// One manifest of an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub(crate) descriptor: Descriptor,
    /// What is here of it.
    pub content: Content,
}

impl Member {
    /// Its manifest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.descriptor.digest
    }

    /// What the image is for, if it is one and the index says so.
    #[must_use]
    pub fn platform(&self) -> Option<&Platform> {
        self.descriptor.platform.as_ref().filter(|_| self.is_image())
    }

    /// Whether it is an image, and nothing that is said about one.
    #[must_use]
    pub fn is_image(&self) -> bool {
        is_image(&self.descriptor)
    }

    /// The manifest of the image that something is said about.
    #[must_use]
    pub fn subject(&self) -> Option<Digest> {
        subject(&self.descriptor)
    }

    /// Bytes of its manifest.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.descriptor.size
    }

    /// Its media type.
    #[must_use]
    pub fn media_type(&self) -> &str {
        &self.descriptor.media_type
    }
}

/// Of which image of an index a manifest says something.
pub(crate) fn subject(descriptor: &Descriptor) -> Option<Digest> {
    let notes = descriptor.annotations.as_ref()?;
    notes.get(REFERENCE_TYPE)?;
    Digest::parse(notes.get(REFERENCE_DIGEST)?).ok()
}

/// An index that is here, with more or less of what it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexRecord {
    /// Of the document.
    pub digest: Digest,
    /// Bytes of the document.
    pub size: u64,
    /// Of the document.
    pub media_type: String,
    /// In the order of the document.
    pub members: Vec<Member>,
    /// Whether it was made here without a name.
    #[serde(default)]
    pub anonymous: bool,
}

impl IndexRecord {
    /// Ids of its images that are here.
    pub fn images(&self) -> impl Iterator<Item = Digest> {
        self.members.iter().filter_map(|member| match member.content {
            Content::Image(id) => Some(id),
            _ => None,
        })
    }

    /// The image that is here and suits a platform best.
    #[must_use]
    pub fn image_for(&self, wanted: &Platform) -> Option<Digest> {
        let mut best: Option<(u32, Digest)> = None;
        for member in &self.members {
            let Content::Image(id) = member.content else { continue };
            let suits = match &member.descriptor.platform {
                Some(offered) => wanted.suits(offered),
                None => Some(0),
            };
            if let Some(suits) = suits.filter(|suits| best.is_none_or(|(most, _)| *suits > most)) {
                best = Some((suits, id));
            }
        }
        best.map(|(_, id)| id)
    }

    fn blobs(&self) -> impl Iterator<Item = Digest> {
        let kept = self.members.iter().filter_map(|member| match &member.content {
            Content::Kept(blobs) => Some(std::iter::once(member.descriptor.digest).chain(blobs.iter().copied())),
            _ => None,
        });
        std::iter::once(self.digest).chain(kept.flatten())
    }

    /// The same with what another knows to be here.
    fn joined(&self, other: &Self) -> Self {
        let mut joined = self.clone();
        for (member, known) in joined.members.iter_mut().zip(&other.members) {
            if member.content == Content::Absent {
                member.content = known.content.clone();
            }
        }
        joined.anonymous &= other.anonymous;
        joined
    }
}

/// A statement about an image: its predicate's type, and its document.
#[derive(Debug, Clone)]
pub struct Statement {
    /// What readers know it by.
    pub predicate_type: String,
    /// In the form of in-toto.
    pub document: Vec<u8>,
}

/// An image of an index that is being made.
#[derive(Debug, Clone)]
pub struct IndexEntry {
    /// What it is for.
    pub platform: Platform,
    /// It; its layers are packed as they are to stay.
    pub image: Arc<ImageRecord>,
    /// What is said about it.
    pub statements: Vec<Statement>,
}

impl ImageStore {
    /// The index that goes by this very name.
    #[must_use]
    pub fn index_by_name(&self, name: &ImageRef) -> Option<Arc<IndexRecord>> {
        let state = self.state();
        let digest = find_in(&state.index_names, name)?;
        state.indexes.get(&digest).cloned()
    }

    /// The index that a text leads to: a name, a digest, or the beginning of one.
    #[must_use]
    pub fn index(&self, text: &str) -> Option<Arc<IndexRecord>> {
        let state = self.state();
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if let Some(digest) = Digest::from_hex(hex) {
            return state.indexes.get(&digest).cloned();
        }
        if !text.starts_with("sha256:")
            && let Ok(name) = ImageRef::parse(text)
            && super::find_name(&state, &name).is_some()
        {
            return state.indexes.get(&find_in(&state.index_names, &name)?).cloned();
        }
        by_prefix(&state, hex).cloned()
    }

    /// Every index that has a name, with its names.
    #[must_use]
    pub fn indexes(&self) -> Vec<(Arc<IndexRecord>, Vec<ImageRef>)> {
        let state = self.state();
        let mut names: BTreeMap<Digest, Vec<ImageRef>> = BTreeMap::new();
        for (name, digest) in &state.index_names {
            names.entry(*digest).or_default().push(name.clone());
        }
        names.into_iter().filter_map(|(digest, names)| Some((state.indexes.get(&digest)?.clone(), names))).collect()
    }

    /// Images that are part of an index with a name.
    #[must_use]
    pub fn index_images(&self) -> HashSet<Digest> {
        self.indexes().iter().flat_map(|(index, _)| index.images().collect::<Vec<_>>()).collect()
    }

    /// Images that are part of an index with this one.
    #[must_use]
    pub fn fellows(&self, id: &Digest) -> BTreeSet<Digest> {
        let state = self.state();
        let with = state.indexes.values().filter(|index| index.images().any(|image| image == *id));
        with.flat_map(|index| index.images().collect::<Vec<_>>()).filter(|image| image != id).collect()
    }

    /// Whether all that an index names is here as it names it.
    #[must_use]
    pub fn is_whole(&self, index: &IndexRecord) -> bool {
        index.members.iter().all(|member| self.has_member(member))
    }

    /// Whether what a member names is here as it is named; an image may be here by another manifest only.
    #[must_use]
    pub fn has_member(&self, member: &Member) -> bool {
        match member.content {
            Content::Absent => false,
            Content::Kept(_) => true,
            Content::Image(id) => self.get(&id).is_some_and(|image| image.manifest == member.descriptor.digest),
        }
    }

    /// Blobs that an index and what is here of it are made of.
    #[must_use]
    pub fn index_blobs(&self, index: &IndexRecord) -> BTreeSet<Digest> {
        let mut blobs: BTreeSet<Digest> = index.blobs().collect();
        for member in index.members.iter().filter(|member| self.has_member(member)) {
            if let Content::Image(id) = member.content
                && let Some(image) = self.get(&id)
            {
                blobs.extend([image.id, image.manifest]);
                blobs.extend(image.layers.iter().map(|layer| layer.blob));
            }
        }
        blobs
    }

    /// Makes an index of images that are here, and gives it names. What is said about them comes after them.
    pub fn create_index(&self, entries: &[IndexEntry], names: &[ImageRef]) -> Result<Arc<IndexRecord>, ImageError> {
        let failed = || "write an index".to_owned();
        let mut hold = self.hold(entries.iter().flat_map(|entry| [entry.image.id, entry.image.manifest]));
        let (mut manifests, mut contents) = (Vec::new(), Vec::new());
        for entry in entries {
            let bytes = self.blobs.read(&entry.image.manifest, MAX_DOCUMENT)?;
            let manifest: Manifest = serde_json::from_slice(&bytes).context(failed)?;
            let mut descriptor = Descriptor::new(&media_type(&manifest), entry.image.manifest, bytes.len() as u64);
            descriptor.platform = Some(entry.platform.clone());
            manifests.push(descriptor);
            contents.push(Content::Image(entry.image.id));
        }
        for entry in entries.iter().filter(|entry| !entry.statements.is_empty()) {
            let mut blobs = Vec::new();
            let mut write = |bytes: &[u8]| {
                hold.add(Digest::of(bytes));
                blobs.push(Digest::of(bytes));
                self.blobs.write(bytes)
            };
            let mut layers = Vec::new();
            for statement in &entry.statements {
                let digest = write(&statement.document)?;
                let notes = BTreeMap::from([(PREDICATE_TYPE.to_owned(), statement.predicate_type.clone())]);
                let descriptor = Descriptor::new(IN_TOTO, digest, statement.document.len() as u64);
                layers.push(Descriptor { annotations: Some(notes), ..descriptor });
            }
            let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.digest).collect();
            let config = serde_json::json!({
                "architecture": "unknown", "os": "unknown", "config": {},
                "rootfs": { "type": "layers", "diff_ids": diff_ids },
            });
            let config = serde_json::to_vec(&config).context(failed)?;
            let config = Descriptor::new(OCI_CONFIG, write(&config)?, config.len() as u64);
            let manifest = Manifest::new(config, layers);
            let document = serde_json::to_vec(&manifest).context(failed)?;
            let digest = write(&document)?;
            blobs.retain(|blob| *blob != digest);
            let unknown =
                Platform { os: "unknown".to_owned(), architecture: "unknown".to_owned(), ..Platform::default() };
            let notes =
                [(REFERENCE_DIGEST, entry.image.manifest.to_string()), (REFERENCE_TYPE, ATTESTATION.to_owned())];
            manifests.push(Descriptor {
                platform: Some(unknown),
                annotations: Some(notes.map(|(key, value)| (key.to_owned(), value)).into()),
                ..Descriptor::new(OCI_MANIFEST, digest, document.len() as u64)
            });
            contents.push(Content::Kept(blobs));
        }
        let index = Index { schema_version: 2, media_type: Some(OCI_INDEX.to_owned()), manifests };
        let document = serde_json::to_vec(&index).context(failed)?;
        self.put_index(&document, contents, None, names)
    }

    /// Keeps an index, of whose manifests `contents` says in their order what is here, and gives it names. They lead to
    /// the image that suits this machine, else to `preferred`, else to the first. What is known of the index already
    /// stays known.
    pub(crate) fn put_index(
        &self,
        document: &[u8],
        contents: Vec<Content>,
        preferred: Option<Digest>,
        names: &[ImageRef],
    ) -> Result<Arc<IndexRecord>, ImageError> {
        let digest = Digest::of(document);
        let what = || format!("index {digest}");
        let Document::Index(index) = Document::parse(document, "").map_err(|why| ImageError::refused(what(), why))?
        else {
            return Err(ImageError::refused(what(), "it is the manifest of an image"));
        };
        let members = index.manifests.into_iter().zip(contents);
        let record = IndexRecord {
            digest,
            size: document.len() as u64,
            media_type: index.media_type.unwrap_or_else(|| OCI_INDEX.to_owned()),
            members: members.map(|(descriptor, content)| Member { descriptor, content }).collect(),
            anonymous: names.is_empty(),
        };
        let _hold = self.hold([digest]);
        self.blobs.write(document)?;
        let _changing = self.changing();
        let known = self.state().indexes.get(&digest).cloned();
        let mut record = known.as_ref().map_or_else(|| record.clone(), |known| record.joined(known));
        // What went meanwhile is not here any more.
        for member in &mut record.members {
            if matches!(member.content, Content::Image(id) if self.get(&id).is_none()) {
                member.content = Content::Absent;
            }
        }
        let default = record.image_for(&Platform::host()).or(preferred).or_else(|| record.images().next());
        let default = default.ok_or_else(|| ImageError::Conflict(format!("{}: none of its images is here", what())))?;
        let mut names: BTreeSet<ImageRef> = names.iter().cloned().collect();
        names.extend(self.state().index_names.iter().filter(|(_, at)| **at == digest).map(|(name, _)| name.clone()));
        let former: BTreeSet<Digest> =
            names.iter().filter_map(|name| self.state().index_names.get(name).copied()).collect();
        // A manifest that an index names must not change.
        let mut frozen: Vec<ImageRecord> = Vec::new();
        for member in &record.members {
            if let Content::Image(id) = member.content
                && let Some(image) = self.get(&id).filter(|image| image.manifest == member.descriptor.digest)
                && (image.made_here || id == default)
            {
                frozen.push(ImageRecord { made_here: false, tagged_ns: timestamp::now(), ..(*image).clone() });
            }
        }
        self.store.write::<_, ImageError>(Durability::Power, |tx| {
            INDEXES.put(tx, &digest.hex(), &record)?;
            for image in &frozen {
                IMAGES.put(tx, &image.id.hex(), image)?;
            }
            for name in &names {
                NAMES.put(tx, &name.to_string(), &default)?;
                INDEX_NAMES.put(tx, &name.to_string(), &digest)?;
            }
            Ok(())
        })?;
        let record = Arc::new(record);
        {
            let mut state = self.state_mut();
            state.indexes.insert(digest, Arc::clone(&record));
            for image in frozen {
                state.images.insert(image.id, Arc::new(image));
            }
            for name in names {
                state.names.insert(name.clone(), default);
                state.index_names.insert(name, digest);
            }
        }
        self.drop_indexes(former)?;
        Ok(record)
    }

    /// Gives what a text leads to another name: the index with its images, or the image.
    pub fn tag_as(&self, text: &str, name: &ImageRef) -> Result<Arc<ImageRecord>, ImageError> {
        let image = self.resolve(text)?;
        match self.index(text) {
            Some(index) => {
                let document = self.blobs.read(&index.digest, MAX_DOCUMENT)?;
                let contents = index.members.iter().map(|member| member.content.clone()).collect();
                self.put_index(&document, contents, Some(image.id), std::slice::from_ref(name))?;
            }
            None => drop(self.tag(&image.id, name)?),
        }
        Ok(image)
    }

    /// Takes an image out of what is here of an index. Its names lead to another one of it then.
    pub fn withdraw(&self, index: &Digest, id: &Digest) -> Result<(), ImageError> {
        let _changing = self.changing();
        let not_found = || ImageError::NotFound(index.to_string());
        let mut record = (*self.state().indexes.get(index).cloned().ok_or_else(not_found)?).clone();
        for member in &mut record.members {
            if member.content == Content::Image(*id) {
                member.content = Content::Absent;
            }
        }
        let default = record.image_for(&Platform::host()).or_else(|| record.images().next());
        let default = default.ok_or_else(|| ImageError::Conflict(format!("index {index} has no other image here")))?;
        let names: Vec<ImageRef> = {
            let state = self.state();
            state.index_names.iter().filter(|(_, at)| *at == index).map(|(name, _)| name.clone()).collect()
        };
        self.store.write::<_, ImageError>(Durability::Power, |tx| {
            INDEXES.put(tx, &index.hex(), &record)?;
            for name in &names {
                NAMES.put(tx, &name.to_string(), &default)?;
            }
            Ok(())
        })?;
        let mut state = self.state_mut();
        state.indexes.insert(*index, Arc::new(record));
        for name in names {
            state.names.insert(name, default);
        }
        Ok(())
    }

    /// Removes indexes that nothing leads to any more, with what only they needed.
    pub(super) fn drop_indexes(&self, candidates: impl IntoIterator<Item = Digest>) -> Result<(), ImageError> {
        for digest in candidates {
            let Some(index) = self.state().indexes.get(&digest).cloned() else { continue };
            if is_needed(&self.state(), &index) {
                continue;
            }
            self.store
                .write::<_, ImageError>(Durability::Process, |tx| Ok(INDEXES.delete(tx, &digest.hex()).map(drop)?))?;
            self.state_mut().indexes.remove(&digest);
            self.drop_blobs(index.blobs())?;
        }
        Ok(())
    }

    /// An image is gone: indexes with it know that.
    pub(super) fn forget_member(&self, id: &Digest) -> Result<(), ImageError> {
        let affected: Vec<IndexRecord> = {
            let state = self.state();
            let with = state.indexes.values().filter(|index| index.images().any(|image| image == *id));
            with.map(|index| (**index).clone()).collect()
        };
        for mut index in affected {
            for member in &mut index.members {
                if member.content == Content::Image(*id) {
                    member.content = Content::Absent;
                }
            }
            self.store
                .write::<_, ImageError>(Durability::Power, |tx| Ok(INDEXES.put(tx, &index.digest.hex(), &index)?))?;
            let digest = index.digest;
            self.state_mut().indexes.insert(digest, Arc::new(index));
            self.drop_indexes([digest])?;
        }
        Ok(())
    }
}

pub(super) fn by_prefix<'a>(state: &'a State, hex: &str) -> Option<&'a Arc<IndexRecord>> {
    if hex.is_empty() {
        return None;
    }
    let mut found = state.indexes.values().filter(|index| index.digest.hex().starts_with(hex));
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

fn is_needed(state: &State, index: &IndexRecord) -> bool {
    if state.index_names.values().any(|digest| *digest == index.digest) {
        return true;
    }
    index.anonymous
        && index.members.iter().all(|member| !member.is_image() || matches!(member.content, Content::Image(_)))
}

/// Blobs that indexes need beside those of their images.
pub(super) fn live_blobs(state: &State) -> impl Iterator<Item = Digest> {
    state.indexes.values().flat_map(|index| index.blobs().collect::<Vec<_>>())
}
