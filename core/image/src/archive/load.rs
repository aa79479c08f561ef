//! Making images of what an archive holds.

use std::io::Read;
use std::sync::Arc;

use super::intake::{Intake, verify};
use super::{
    CONTAINERD_NAME, DockerEntry, REF_NAME, WHAT, blob_path, check_config, choose, expected, is_image, platform_of,
};
use crate::config::ImageConfig;
use crate::digest::{ChainId, Digest};
use crate::error::ImageError;
use crate::manifest::{Descriptor, Document, Platform, is_foreign};
use crate::record::{ImageRecord, LayerRef};
use crate::reference::ImageRef;
use crate::store::{Content, ExpectedLayer, ImageStore};

/// Indexes within indexes.
const MAX_NESTING: usize = 4;

/// An image that was read from an archive.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// It.
    pub image: Arc<ImageRecord>,
    /// The names that the archive gave it.
    pub names: Vec<ImageRef>,
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

/// An index as the archive holds it: it is kept, with all that is in the archive of what it names.
struct PlannedIndex {
    bytes: Vec<u8>,
    names: Vec<ImageRef>,
    members: Vec<PlannedMember>,
}

/// One manifest of an index.
enum PlannedMember {
    /// Not in the archive.
    Absent,
    /// One of the planned images, by its configuration's digest.
    Image(Digest),
    /// No image for this system: names within the archive of what is kept, the manifest first.
    Kept(Vec<Digest>),
}

/// What an archive holds.
#[derive(Default)]
struct Plan {
    images: Vec<Planned>,
    indexes: Vec<PlannedIndex>,
}

impl Plan {
    /// Takes an image in, whose names are added to those of the same that is there already.
    fn add(&mut self, image: Planned) {
        match self.images.iter_mut().find(|known| known.manifest_bytes == image.manifest_bytes) {
            // One entry for each name of an image.
            Some(known) => known.names.extend(image.names),
            None => self.images.push(image),
        }
    }
}

/// Reads an archive, packed or not, and makes its images visible, all or none. With a `platform`, of those for several
/// platforms the one that suits it; else all that are in the archive.
pub fn load(
    store: &ImageStore,
    reader: impl Read + Send,
    platform: Option<&Platform>,
) -> Result<Vec<Loaded>, ImageError> {
    let mut contents = Intake::read(store, reader)?;
    let Plan { images: planned, indexes } = plan(&contents, platform)?;
    if planned.is_empty() {
        let wanted = platform.map_or_else(|| "this platform".to_owned(), ToString::to_string);
        return Err(ImageError::refused(WHAT, format!("there is no image for {wanted} in it")));
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
        let layers = take_layers(&mut contents, &image, &mut taken)?;
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
    for index in indexes {
        let (image, at) = take_index(store, &contents, &index)?;
        match loaded.iter_mut().find(|known| known.image.id == image.id && known.names.is_empty()) {
            Some(known) => known.names = index.names,
            None => loaded.push(Loaded { image, names: index.names }),
        }
        // The others of an index are no loaded images of their own.
        loaded.retain(|known| !known.names.is_empty() || !at.contains(&known.image.id));
    }
    Ok(loaded)
}

/// Keeps an index whose images are visible; the image that its names lead to, and the ids of the others.
fn take_index(
    store: &ImageStore,
    contents: &Intake<'_>,
    index: &PlannedIndex,
) -> Result<(Arc<ImageRecord>, Vec<Digest>), ImageError> {
    let mut hold = store.hold([]);
    let (mut found, mut images) = (Vec::new(), Vec::new());
    for member in &index.members {
        found.push(match member {
            PlannedMember::Absent => Content::Absent,
            PlannedMember::Image(id) => {
                images.push(*id);
                Content::Image(*id)
            }
            PlannedMember::Kept(blobs) => {
                for digest in blobs {
                    hold.add(*digest);
                    contents.keep(digest)?;
                }
                Content::Kept(blobs.iter().skip(1).copied().collect())
            }
        });
    }
    let record = store.put_index(&index.bytes, found, images.first().copied(), &index.names)?;
    let gone = || ImageError::Conflict(format!("index {} was removed meanwhile: try again", record.digest));
    let image = store.resolve(&record.digest.to_string()).map_err(|_| gone())?;
    images.retain(|id| *id != image.id);
    Ok((image, images))
}

fn take_layers(
    contents: &mut Intake<'_>,
    image: &Planned,
    taken: &mut Vec<ChainId>,
) -> Result<Vec<LayerRef>, ImageError> {
    let mut layers: Vec<LayerRef> = Vec::new();
    for (name, expected) in &image.layers {
        let parents: Vec<ChainId> = layers.iter().rev().map(|layer| layer.chain_id).collect();
        let layer = contents.layer(name, expected, &parents)?;
        taken.push(layer.chain_id);
        layers.push(layer);
    }
    Ok(layers)
}

fn plan(contents: &Intake<'_>, platform: Option<&Platform>) -> Result<Plan, ImageError> {
    let docker: Vec<DockerEntry> = if contents.has("manifest.json") {
        serde_json::from_slice(&contents.document("manifest.json")?)
            .map_err(|error| ImageError::refused(WHAT, format!("manifest.json: {error}")))?
    } else {
        Vec::new()
    };
    if contents.has("index.json") {
        let mut planned = plan_layout(contents, platform)?;
        // Names that only Docker's part tells.
        for entry in &docker {
            let known: Vec<ImageRef> = planned.indexes.iter().flat_map(|index| index.names.clone()).collect();
            let described = |image: &&mut Planned| blob_path(&Digest::of(&image.config_bytes)) == entry.config;
            for image in planned.images.iter_mut().filter(described) {
                for name in docker_names(entry)? {
                    if !image.names.contains(&name) && !known.contains(&name) {
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
    let planned = docker.iter().map(|entry| plan_docker(contents, entry)).collect::<Result<Vec<_>, _>>()?;
    let suits = |image: &Planned| platform.is_none_or(|wanted| wanted.suits(&platform_of(&image.config)).is_some());
    Ok(Plan { images: planned.into_iter().filter(suits).collect(), indexes: Vec::new() })
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

fn plan_docker(contents: &Intake<'_>, entry: &DockerEntry) -> Result<Planned, ImageError> {
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
        urls: Vec::new(),
    };
    let layers = entry.layers.iter().cloned().zip(config.rootfs.diff_ids.iter().map(expected)).collect();
    Ok(Planned { layers, names: docker_names(entry)?, config_bytes: bytes, manifest_bytes: None, config })
}

fn plan_layout(contents: &Intake<'_>, platform: Option<&Platform>) -> Result<Plan, ImageError> {
    let bytes = contents.document("index.json")?;
    let document = Document::parse(&bytes, "").map_err(|why| ImageError::refused("index.json", why))?;
    let Document::Index(index) = document else { return Err(ImageError::refused("index.json", "not an index")) };
    let mut planned = Plan::default();
    for descriptor in &index.manifests {
        let suits = |offered: &Platform| platform.is_none_or(|wanted| wanted.suits(offered).is_some());
        if !is_image(descriptor) || !descriptor.platform.as_ref().is_none_or(suits) {
            continue;
        }
        let names = names_of(descriptor)?;
        if platform.is_none() && plan_index(contents, descriptor, &names, &mut planned)? {
            continue;
        }
        for image in plan_descriptor(contents, descriptor, platform, 0)? {
            planned.add(Planned { names: names.clone(), ..image });
        }
    }
    Ok(planned)
}

/// Plans an index whole; whether the descriptor is of one that names images in the archive itself.
fn plan_index(
    contents: &Intake<'_>,
    descriptor: &Descriptor,
    names: &[ImageRef],
    planned: &mut Plan,
) -> Result<bool, ImageError> {
    let bytes = contents.blob(descriptor)?;
    let what = blob_path(&descriptor.digest);
    let parsed = Document::parse(&bytes, &descriptor.media_type).map_err(|why| ImageError::refused(&what, why))?;
    let Document::Index(index) = parsed else { return Ok(false) };
    if let Some(known) = planned.indexes.iter_mut().find(|known| known.bytes == bytes) {
        known.names.extend_from_slice(names);
        return Ok(true);
    }
    let (mut members, mut images) = (Vec::new(), Vec::new());
    for member in &index.manifests {
        let mut planned = PlannedMember::Absent;
        if contents.has(&blob_path(&member.digest)) {
            if is_image(member) && member.platform.as_ref().is_none_or(|platform| platform.os == "linux") {
                // An index in an index: what is in there is taken by itself.
                let Some(image) = plan_member(contents, member)? else { return Ok(false) };
                if image.layers.iter().all(|(name, _)| contents.has(name)) {
                    planned = PlannedMember::Image(Digest::of(&image.config_bytes));
                    images.push(image);
                }
            } else if let Some(blobs) = kept(contents, member)? {
                planned = PlannedMember::Kept(blobs);
            }
        }
        members.push(planned);
    }
    if images.is_empty() {
        return Ok(false);
    }
    images.into_iter().for_each(|image| planned.add(image));
    planned.indexes.push(PlannedIndex { bytes, names: names.to_vec(), members });
    Ok(true)
}

/// The image of a manifest; `None` if it is no manifest of one image.
fn plan_member(contents: &Intake<'_>, descriptor: &Descriptor) -> Result<Option<Planned>, ImageError> {
    let bytes = contents.blob(descriptor)?;
    match Document::parse(&bytes, &descriptor.media_type) {
        Ok(Document::Index(_)) => Ok(None),
        _ => Ok(plan_descriptor(contents, descriptor, None, 0)?.pop()),
    }
}

/// The blobs of a manifest that is kept as it is, itself first, if all of them are in the archive.
fn kept(contents: &Intake<'_>, descriptor: &Descriptor) -> Result<Option<Vec<Digest>>, ImageError> {
    let bytes = contents.blob(descriptor)?;
    let Ok(Document::Manifest(manifest)) = Document::parse(&bytes, &descriptor.media_type) else { return Ok(None) };
    let mut blobs = vec![descriptor.digest];
    blobs.extend(manifest.layers.iter().filter(|layer| !is_foreign(&layer.media_type)).map(|layer| layer.digest));
    blobs.push(manifest.config.digest);
    Ok(blobs.iter().all(|digest| contents.holds(digest)).then_some(blobs))
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

fn plan_descriptor(
    contents: &Intake<'_>,
    descriptor: &Descriptor,
    platform: Option<&Platform>,
    depth: usize,
) -> Result<Vec<Planned>, ImageError> {
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
            let host = Platform::host();
            match choose(index.manifests.iter().filter(present), platform.unwrap_or(&host)) {
                Some(chosen) => plan_descriptor(contents, chosen, platform, depth + 1),
                None => Ok(Vec::new()),
            }
        }
    }
}
