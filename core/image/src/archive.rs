//! Images as archives: what `save` writes and `load` reads.
//!
//! One tar holds both forms: an OCI layout (`oci-layout`, `index.json`, blobs by digest) and Docker's `manifest.json`
//! over the same blobs. Reading takes either. Nothing of an archive is visible until all of it was verified.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::config::ImageConfig;
use crate::decompress::{Compression, Decompress};
use crate::digest::{ChainId, Digest};
use crate::error::{Context, ImageError};
use crate::ingest::read_error;
use crate::manifest::{Descriptor, Document, Index, MAX_DOCUMENT, Manifest, OCI_INDEX, Platform};
use crate::record::{ImageRecord, LayerRef};
use crate::reference::ImageRef;
use crate::store::{ExpectedLayer, ImageStore};
use crate::tar_reader::{Kind, TarReader};
use crate::tar_writer::{Head, TarWriter};

const WHAT: &str = "the archive";
const CONTAINERD_NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Indexes within indexes.
const MAX_NESTING: usize = 4;
const MAX_ENTRIES: usize = 100_000;

/// An image that was read from an archive.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// It.
    pub image: Arc<ImageRecord>,
    /// The names that the archive gave it.
    pub names: Vec<ImageRef>,
}

/// Docker's `manifest.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

/// Where things lie in an archive on disk.
struct Contents {
    path: PathBuf,
    /// Offset and length.
    files: HashMap<Vec<u8>, (u64, u64)>,
    /// Removed when dropped: the unpacked copy of a packed archive.
    scratch: Option<PathBuf>,
}

impl Drop for Contents {
    fn drop(&mut self) {
        if let Some(path) = &self.scratch {
            drop(std::fs::remove_file(path));
        }
    }
}

impl Contents {
    fn open(path: &Path, scratch: PathBuf) -> Result<Self, ImageError> {
        let file = File::open(path).context(|| format!("read {WHAT}"))?;
        let mut plain = Decompress::new(file).map_err(|error| read_error(WHAT, error))?;
        let mut contents = Self { path: path.to_owned(), files: HashMap::new(), scratch: None };
        if plain.compression() != Compression::None {
            contents.scratch = Some(scratch.clone());
            contents.path.clone_from(&scratch);
            let mut out = File::create_new(&scratch).context(|| format!("unpack {WHAT}"))?;
            io::copy(&mut plain, &mut out).map_err(|error| read_error(WHAT, error))?;
        }
        contents.index()?;
        Ok(contents)
    }

    fn index(&mut self) -> Result<(), ImageError> {
        let file = File::open(&self.path).context(|| format!("read {WHAT}"))?;
        let mut tar = TarReader::new(file);
        let mut links: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        while let Some(entry) = tar.next_entry().map_err(|error| read_error(WHAT, error))? {
            if self.files.len() + links.len() > MAX_ENTRIES {
                return Err(ImageError::refused(WHAT, format!("more than {MAX_ENTRIES} entries")));
            }
            let name = crate::tree::clean(&entry.path).map_err(|why| {
                ImageError::refused(WHAT, format!("{:?}: {why}", String::from_utf8_lossy(&entry.path)))
            })?;
            match entry.kind {
                Kind::File if entry.parts.is_none() => {
                    self.files.insert(name, (tar.position(), entry.size));
                }
                // Older archives name a layer that two images share by a link.
                Kind::Symlink => {
                    let (folder, _) = crate::tree::split(&name);
                    links.push((name.clone(), crate::unpack::within(&[folder, b"/", &entry.link].concat())));
                }
                Kind::Hardlink => links.push((name, entry.link)),
                _ => {}
            }
        }
        for (name, target) in links {
            if let Some(place) = self.files.get(&target).copied() {
                self.files.insert(name, place);
            }
        }
        Ok(())
    }

    fn has(&self, name: &str) -> bool {
        self.files.contains_key(name.as_bytes())
    }

    fn open_file(&self, name: &str) -> Result<io::Take<File>, ImageError> {
        let (offset, size) = *self
            .files
            .get(name.as_bytes())
            .ok_or_else(|| ImageError::refused(WHAT, format!("{name} is missing from it")))?;
        let mut file = File::open(&self.path).context(|| format!("read {WHAT}"))?;
        file.seek(SeekFrom::Start(offset)).context(|| format!("read {WHAT}"))?;
        Ok(file.take(size))
    }

    /// A document, bounded.
    fn document(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let mut file = self.open_file(name)?;
        if file.limit() > MAX_DOCUMENT {
            return Err(ImageError::refused(WHAT, format!("{name} is longer than {MAX_DOCUMENT} bytes")));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).context(|| format!("read {WHAT}"))?;
        Ok(bytes)
    }

    /// A document by digest, verified.
    fn blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let name = blob_path(&descriptor.digest);
        let bytes = self.document(&name)?;
        verify(&name, &bytes, &descriptor.digest)?;
        if bytes.len() as u64 != descriptor.size {
            return Err(ImageError::refused(WHAT, format!("{name} is not as long as its descriptor says")));
        }
        Ok(bytes)
    }
}

fn verify(what: &str, bytes: &[u8], expected: &Digest) -> Result<(), ImageError> {
    let actual = Digest::of(bytes);
    if actual == *expected {
        Ok(())
    } else {
        Err(ImageError::Mismatch { what: what.to_owned(), expected: *expected, actual })
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// An image as the archive describes it, complete but not yet taken in.
struct Planned {
    config: ImageConfig,
    config_bytes: Vec<u8>,
    /// As it stands in an OCI layout; written anew for Docker's form.
    manifest_bytes: Option<Vec<u8>>,
    /// Names within the archive, and what they must be.
    layers: Vec<(String, ExpectedLayer)>,
    names: Vec<ImageRef>,
}

/// Reads an archive on disk, packed or not, and makes its images visible, all or none.
pub fn load(store: &ImageStore, path: &Path) -> Result<Vec<Loaded>, ImageError> {
    let contents = Contents::open(path, store.blobs().scratch())?;
    let planned = plan(&contents)?;
    if planned.is_empty() {
        return Err(ImageError::refused(WHAT, "there is no image for this platform in it"));
    }
    for image in &planned {
        for (name, _) in &image.layers {
            if !contents.has(name) {
                return Err(ImageError::refused(WHAT, format!("{name} is missing from it")));
            }
        }
    }
    let mut taken = Vec::new();
    let mut ready = Vec::new();
    let result = planned.into_iter().try_for_each(|image| {
        let layers = take_layers(store, &contents, &image, &mut taken)?;
        ready.push((image, layers));
        Ok(())
    });
    if let Err(error) = result {
        store.abandon(&taken)?;
        return Err(error);
    }
    let mut loaded = Vec::new();
    for (image, layers) in ready {
        let record = store.register_documents(
            &image.config_bytes,
            image.manifest_bytes.as_deref(),
            image.config,
            layers,
            &image.names,
        )?;
        loaded.push(Loaded { image: record, names: image.names });
    }
    Ok(loaded)
}

fn take_layers(
    store: &ImageStore,
    contents: &Contents,
    image: &Planned,
    taken: &mut Vec<ChainId>,
) -> Result<Vec<LayerRef>, ImageError> {
    let mut layers: Vec<LayerRef> = Vec::new();
    for (name, expected) in &image.layers {
        let parents: Vec<ChainId> = layers.iter().rev().map(|layer| layer.chain_id).collect();
        let layer = store.take_layer(name, contents.open_file(name)?, expected, &parents)?;
        taken.push(layer.chain_id);
        layers.push(layer);
    }
    Ok(layers)
}

fn plan(contents: &Contents) -> Result<Vec<Planned>, ImageError> {
    let docker: Vec<DockerEntry> = if contents.has("manifest.json") {
        serde_json::from_slice(&contents.document("manifest.json")?)
            .map_err(|error| ImageError::refused(WHAT, format!("manifest.json: {error}")))?
    } else {
        Vec::new()
    };
    if contents.has("index.json") {
        let mut planned = plan_layout(contents)?;
        // Names that only Docker's part tells.
        for entry in &docker {
            for image in planned.iter_mut().filter(|image| blob_path(&Digest::of(&image.config_bytes)) == entry.config)
            {
                for name in docker_names(entry)? {
                    if !image.names.contains(&name) {
                        image.names.push(name);
                    }
                }
            }
        }
        return Ok(planned);
    }
    if docker.is_empty() {
        return Err(ImageError::refused(WHAT, "neither manifest.json nor index.json is in it: it holds no images"));
    }
    docker.iter().map(|entry| plan_docker(contents, entry)).collect()
}

fn docker_names(entry: &DockerEntry) -> Result<Vec<ImageRef>, ImageError> {
    entry.repo_tags.iter().flatten().map(|name| Ok(ImageRef::parse(name)?)).collect()
}

fn parse_config(what: &str, bytes: &[u8], layers: usize) -> Result<ImageConfig, ImageError> {
    let config: ImageConfig = serde_json::from_slice(bytes)
        .map_err(|error| ImageError::refused(what, format!("not an image configuration: {error}")))?;
    check_config(what, &config, layers)?;
    Ok(config)
}

/// What a configuration must say to be used here.
pub(crate) fn check_config(what: &str, config: &ImageConfig, layers: usize) -> Result<(), ImageError> {
    if config.rootfs.diff_ids.len() != layers {
        let count = config.rootfs.diff_ids.len();
        return Err(ImageError::refused(
            what,
            format!("the configuration names {count} layers, the manifest {layers}"),
        ));
    }
    if layers > crate::store::MAX_LAYERS {
        return Err(ImageError::refused(what, format!("more than {} layers", crate::store::MAX_LAYERS)));
    }
    if !config.os.is_empty() && config.os != "linux" {
        return Err(ImageError::refused(what, format!("it is made for {}, not for linux", config.os)));
    }
    Ok(())
}

fn plan_docker(contents: &Contents, entry: &DockerEntry) -> Result<Planned, ImageError> {
    let bytes = contents.document(&entry.config)?;
    if let Some(digest) = entry.config.strip_prefix("blobs/sha256/").and_then(Digest::from_hex) {
        verify(&entry.config, &bytes, &digest)?;
    }
    let config = parse_config(&entry.config, &bytes, entry.layers.len())?;
    let expected = |diff_id: &crate::digest::DiffId| ExpectedLayer {
        diff_id: *diff_id,
        blob: None,
        blob_size: None,
        media_type: None,
    };
    let layers = entry.layers.iter().cloned().zip(config.rootfs.diff_ids.iter().map(expected)).collect();
    Ok(Planned { layers, names: docker_names(entry)?, config_bytes: bytes, manifest_bytes: None, config })
}

fn plan_layout(contents: &Contents) -> Result<Vec<Planned>, ImageError> {
    let bytes = contents.document("index.json")?;
    let document = Document::parse(&bytes, "").map_err(|why| ImageError::refused("index.json", why))?;
    let Document::Index(index) = document else { return Err(ImageError::refused("index.json", "not an index")) };
    let mut planned: Vec<Planned> = Vec::new();
    for descriptor in &index.manifests {
        if !is_image(descriptor) {
            continue;
        }
        let names = names_of(descriptor)?;
        for mut image in plan_descriptor(contents, descriptor, 0)? {
            match planned.iter_mut().find(|known| known.manifest_bytes == image.manifest_bytes) {
                // One entry for each name of an image.
                Some(known) => known.names.extend(names.clone()),
                None => {
                    image.names.clone_from(&names);
                    planned.push(image);
                }
            }
        }
    }
    Ok(planned)
}

/// Signatures, attestations and the like lie beside images in an index.
pub(crate) fn is_image(descriptor: &Descriptor) -> bool {
    let attested = descriptor.annotations.as_ref().is_some_and(|notes| notes.contains_key("vnd.docker.reference.type"));
    !attested && descriptor.platform.as_ref().is_none_or(|platform| platform.os != "unknown")
}

fn names_of(descriptor: &Descriptor) -> Result<Vec<ImageRef>, ImageError> {
    let Some(notes) = &descriptor.annotations else { return Ok(Vec::new()) };
    if let Some(name) = notes.get(CONTAINERD_NAME) {
        return Ok(vec![ImageRef::parse(name)?]);
    }
    // Often a tag alone, which names nothing.
    let name = notes.get(REF_NAME).filter(|name| name.contains(['/', ':']));
    Ok(name.and_then(|name| ImageRef::parse(name).ok()).into_iter().collect())
}

fn plan_descriptor(contents: &Contents, descriptor: &Descriptor, depth: usize) -> Result<Vec<Planned>, ImageError> {
    if depth > MAX_NESTING {
        return Err(ImageError::refused(WHAT, "its indexes are nested too deeply"));
    }
    let bytes = contents.blob(descriptor)?;
    let what = blob_path(&descriptor.digest);
    match Document::parse(&bytes, &descriptor.media_type).map_err(|why| ImageError::refused(&what, why))? {
        Document::Manifest(manifest) => {
            manifest.check().map_err(|why| ImageError::refused(&what, why))?;
            let config_bytes = contents.blob(&manifest.config)?;
            let config = parse_config(&blob_path(&manifest.config.digest), &config_bytes, manifest.layers.len())?;
            let layers = manifest
                .layers
                .iter()
                .zip(&config.rootfs.diff_ids)
                .map(|(layer, diff_id)| (blob_path(&layer.digest), expected(layer, *diff_id)))
                .collect();
            Ok(vec![Planned { config, config_bytes, manifest_bytes: Some(bytes), layers, names: Vec::new() }])
        }
        Document::Index(index) => {
            // Of several platforms the one that suits and whose manifest is in the archive.
            let present = |descriptor: &&Descriptor| contents.has(&blob_path(&descriptor.digest));
            match choose(index.manifests.iter().filter(present), &Platform::host()) {
                Some(chosen) => plan_descriptor(contents, chosen, depth + 1),
                None => Ok(Vec::new()),
            }
        }
    }
}

pub(crate) fn expected(layer: &Descriptor, diff_id: crate::digest::DiffId) -> ExpectedLayer {
    let media_type = Some(layer.media_type.clone()).filter(|kind| !kind.is_empty());
    ExpectedLayer { diff_id, blob: Some(layer.digest), blob_size: Some(layer.size), media_type }
}

/// The image that suits a platform best.
pub(crate) fn choose<'a>(manifests: impl Iterator<Item = &'a Descriptor>, wanted: &Platform) -> Option<&'a Descriptor> {
    let mut best: Option<(u32, &Descriptor)> = None;
    for descriptor in manifests.filter(|descriptor| is_image(descriptor)) {
        let suits = match &descriptor.platform {
            Some(platform) => wanted.suits(platform),
            None => Some(0),
        };
        // The first of equals, as clients do.
        if let Some(suits) = suits.filter(|suits| best.is_none_or(|(most, _)| *suits > most)) {
            best = Some((suits, descriptor));
        }
    }
    best.map(|(_, descriptor)| descriptor)
}

// ---- writing ----

/// An image to be saved, with the names to save it under.
#[derive(Debug, Clone)]
pub struct SaveItem {
    /// It.
    pub image: Arc<ImageRecord>,
    /// None when it was asked for by id.
    pub names: Vec<ImageRef>,
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
    let mut add =
        |image: Arc<ImageRecord>, names: Vec<ImageRef>| match items.iter_mut().find(|item| item.image.id == image.id) {
            Some(item) => {
                item.names.extend(names.into_iter().filter(|name| !item.names.contains(name)).collect::<Vec<_>>())
            }
            None => items.push(SaveItem { image, names }),
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
                tags.into_iter().for_each(|(image, name)| add(image, vec![name]));
                continue;
            }
        }
        let image = store.resolve(text)?;
        let by_name =
            ImageRef::parse(text).ok().filter(|name| store.names(&image.id).contains(name) && name.tag().is_some());
        add(image, by_name.into_iter().collect());
    }
    Ok(items)
}

/// Writes images as one tar. They are kept from being removed meanwhile.
pub fn save<W: Write>(store: &ImageStore, items: &[SaveItem], out: W) -> Result<W, ImageError> {
    let mut blobs: BTreeMap<Digest, ()> = BTreeMap::new();
    for item in items {
        blobs.extend([item.image.id, item.image.manifest].map(|digest| (digest, ())));
        blobs.extend(item.image.layers.iter().map(|layer| (layer.blob, ())));
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
        let kind = media_type(&manifest);
        let mut descriptor = Descriptor::new(&kind, image.manifest, bytes.len() as u64);
        descriptor.platform = Some(Platform {
            os: image.config.os.clone(),
            architecture: image.config.architecture.clone(),
            variant: image.config.variant.clone(),
            os_version: None,
        })
        .filter(|platform| !platform.os.is_empty());
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

/// What a manifest says of itself; older OCI ones say nothing.
pub(crate) fn media_type(manifest: &Manifest) -> String {
    manifest.media_type.clone().unwrap_or_else(|| crate::manifest::OCI_MANIFEST.to_owned())
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
