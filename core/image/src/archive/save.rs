//! Writing images as one tar.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use super::{CONTAINERD_NAME, DockerEntry, REF_NAME, blob_path, media_type, platform_of};
use crate::digest::Digest;
use crate::error::{Context, ImageError};
use crate::manifest::{Descriptor, Document, Index, MAX_DOCUMENT, OCI_INDEX};
use crate::record::ImageRecord;
use crate::reference::ImageRef;
use crate::store::{ImageStore, IndexRecord};
use crate::tar_writer::{Head, TarWriter};

/// An image to be saved, with the names to save it under.
#[derive(Debug, Clone)]
pub struct SaveItem {
    /// It.
    pub image: Arc<ImageRecord>,
    /// None when it was asked for by id.
    pub names: Vec<ImageRef>,
    /// The index that it is part of under these names: it is saved with what is here of it.
    pub index: Option<Arc<IndexRecord>>,
}

impl SaveItem {
    /// What to call it.
    #[must_use]
    pub fn shown(&self) -> String {
        self.names.first().map_or_else(|| self.image.id.to_string(), ImageRef::familiar)
    }
}

/// Looks up what is to be saved. A repository without a tag means all its tags.
pub fn save_items(store: &ImageStore, names: &[String]) -> Result<Vec<SaveItem>, ImageError> {
    let mut items: Vec<SaveItem> = Vec::new();
    let mut add = |image: Arc<ImageRecord>, names: Vec<ImageRef>, index: Option<Arc<IndexRecord>>| {
        // By another manifest than the index names, the image is no part of it that could be saved.
        let fits = |index: &Arc<IndexRecord>| index.members.iter().any(|member| member.digest() == image.manifest);
        let index = index.filter(fits);
        let same = |item: &&mut SaveItem| {
            let digest = |index: &Option<Arc<IndexRecord>>| index.as_ref().map(|index| index.digest);
            item.image.id == image.id && digest(&item.index) == digest(&index)
        };
        match items.iter_mut().find(same) {
            Some(item) => {
                item.names.extend(names.into_iter().filter(|name| !item.names.contains(name)).collect::<Vec<_>>())
            }
            None => items.push(SaveItem { image, names, index }),
        }
    };
    for text in names {
        if let Ok(bare) = ImageRef::parse_bare(text)
            && bare.tag().is_none()
            && bare.digest().is_none()
        {
            let tags: Vec<_> = store
                .list()
                .into_iter()
                .flat_map(|(image, names)| names.into_iter().map(move |name| (image.clone(), name)))
                .filter(|(_, name)| name.repository() == bare.repository() && name.tag().is_some())
                .collect();
            if !tags.is_empty() {
                for (image, name) in tags {
                    let index = store.index_by_name(&name);
                    add(image, vec![name], index);
                }
                continue;
            }
        }
        let image = store.resolve(text)?;
        let by_name =
            ImageRef::parse(text).ok().filter(|name| store.names(&image.id).contains(name) && name.tag().is_some());
        add(image, by_name.into_iter().collect(), store.index(text));
    }
    Ok(items)
}

/// Writes images as one tar. They are kept from being removed meanwhile.
pub fn save<W: Write>(store: &ImageStore, items: &[SaveItem], out: W) -> Result<W, ImageError> {
    let mut blobs: BTreeMap<Digest, ()> = BTreeMap::new();
    for item in items {
        blobs.extend([item.image.id, item.image.manifest].map(|digest| (digest, ())));
        blobs.extend(item.image.layers.iter().map(|layer| (layer.blob, ())));
        blobs.extend(item.index.iter().flat_map(|index| store.index_blobs(index)).map(|digest| (digest, ())));
    }
    let _hold = store.hold(blobs.keys().copied());
    let failed = || "write the archive".to_owned();
    let mut tar = TarWriter::new(out);
    let newest = items.iter().map(|item| item.image.created_ns).max().unwrap_or(0).max(0) / 1_000_000_000;
    fn head(path: &[u8], mtime: i64) -> Head<'_> {
        Head { path, mtime, ..Head::default() }
    }
    for folder in ["blobs", "blobs/sha256"] {
        let head = Head { kind: tar::EntryType::Directory, mode: 0o755, ..head(folder.as_bytes(), newest) };
        tar.entry(&head, None).context(failed)?;
    }
    for digest in blobs.keys() {
        let mut file = store.blobs().open_blob(digest)?;
        let size = file.metadata().context(|| format!("look at blob {digest}"))?.len();
        let path = blob_path(digest);
        tar.entry(&Head { size, ..head(path.as_bytes(), newest) }, Some(&mut file)).context(failed)?;
    }
    let documents = [
        ("index.json", serde_json::to_vec(&index_of(store, items)?)),
        ("manifest.json", serde_json::to_vec(&docker_of(items))),
        ("oci-layout", Ok(br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())),
    ];
    for (name, document) in documents {
        let document = document.context(failed)?;
        let head = Head { size: document.len() as u64, ..head(name.as_bytes(), newest) };
        tar.entry(&head, Some(&mut document.as_slice())).context(failed)?;
    }
    tar.finish().context(failed)
}

fn index_of(store: &ImageStore, items: &[SaveItem]) -> Result<Index, ImageError> {
    let mut manifests = Vec::new();
    for item in items {
        let image = &item.image;
        let bytes = store.blobs().read(&image.manifest, MAX_DOCUMENT)?;
        let Document::Manifest(manifest) = Document::parse(&bytes, "")
            .map_err(|why| ImageError::refused(format!("manifest {}", image.manifest), why))?
        else {
            return Err(ImageError::refused(format!("manifest {}", image.manifest), "not that of an image"));
        };
        let descriptor = match &item.index {
            Some(index) => Descriptor::new(&index.media_type, index.digest, index.size),
            None => {
                let mut descriptor = Descriptor::new(&media_type(&manifest), image.manifest, bytes.len() as u64);
                descriptor.platform = Some(platform_of(&image.config)).filter(|platform| !platform.os.is_empty());
                descriptor
            }
        };
        if item.names.is_empty() {
            manifests.push(descriptor);
            continue;
        }
        for name in &item.names {
            let mut notes = BTreeMap::from([(CONTAINERD_NAME.to_owned(), name.to_string())]);
            notes.extend(name.tag().map(|tag| (REF_NAME.to_owned(), tag.to_owned())));
            manifests.push(Descriptor { annotations: Some(notes), ..descriptor.clone() });
        }
    }
    Ok(Index { schema_version: 2, media_type: Some(OCI_INDEX.to_owned()), manifests })
}

fn docker_of(items: &[SaveItem]) -> Vec<DockerEntry> {
    items
        .iter()
        .map(|item| DockerEntry {
            config: blob_path(&item.image.id),
            repo_tags: Some(item.names.iter().map(ImageRef::familiar).collect()),
            layers: item.image.layers.iter().map(|layer| blob_path(&layer.blob)).collect(),
        })
        .collect()
}
