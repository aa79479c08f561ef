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
use crate::manifest::{Descriptor, Document, Platform};
use crate::record::{ImageRecord, LayerRef};
use crate::reference::ImageRef;
use crate::store::{ExpectedLayer, ImageStore};

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

/// Reads an archive, packed or not, and makes its images visible, all or none: of those for several platforms the one
/// for `platform`, which is this machine's if none is given.
pub fn load(
    store: &ImageStore,
    reader: impl Read + Send,
    platform: Option<&Platform>,
) -> Result<Vec<Loaded>, ImageError> {
    let mut contents = Intake::read(store, reader)?;
    let planned = plan(&contents, platform)?;
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
    Ok(loaded)
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

fn plan(contents: &Intake<'_>, platform: Option<&Platform>) -> Result<Vec<Planned>, ImageError> {
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
    let planned = docker.iter().map(|entry| plan_docker(contents, entry)).collect::<Result<Vec<_>, _>>()?;
    Ok(planned
        .into_iter()
        .filter(|image| platform.is_none_or(|wanted| wanted.suits(&platform_of(&image.config)).is_some()))
        .collect())
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

fn plan_layout(contents: &Intake<'_>, platform: Option<&Platform>) -> Result<Vec<Planned>, ImageError> {
    let bytes = contents.document("index.json")?;
    let document = Document::parse(&bytes, "").map_err(|why| ImageError::refused("index.json", why))?;
    let Document::Index(index) = document else { return Err(ImageError::refused("index.json", "not an index")) };
    let mut planned: Vec<Planned> = Vec::new();
    for descriptor in &index.manifests {
        let suits = |offered: &Platform| platform.is_none_or(|wanted| wanted.suits(offered).is_some());
        if !is_image(descriptor) || !descriptor.platform.as_ref().is_none_or(suits) {
            continue;
        }
        let names = names_of(descriptor)?;
        for mut image in plan_descriptor(contents, descriptor, platform, 0)? {
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
