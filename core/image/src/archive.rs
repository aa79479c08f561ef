//! Images as archives: what `save` writes and `load` reads.
//!
//! One tar holds both forms: an OCI layout (`oci-layout`, `index.json`, blobs by digest) and Docker's `manifest.json`
//! over the same blobs. Reading takes either. Nothing of an archive is visible until all of it was verified.

mod intake;
mod load;
mod save;

use serde::{Deserialize, Serialize};

use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::manifest::{Descriptor, Manifest, Platform, is_foreign};
use crate::store::ExpectedLayer;

pub use load::{Loaded, load};
pub use save::{SaveItem, save, save_items};

const WHAT: &str = "the archive";
const CONTAINERD_NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

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

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
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

/// Signatures, attestations and the like lie beside images in an index.
pub(crate) fn is_image(descriptor: &Descriptor) -> bool {
    let attested =
        descriptor.annotations.as_ref().is_some_and(|notes| notes.contains_key(crate::store::REFERENCE_TYPE));
    !attested && descriptor.platform.as_ref().is_none_or(|platform| platform.os != "unknown")
}

pub(crate) fn expected(layer: &Descriptor, diff_id: crate::digest::DiffId) -> ExpectedLayer {
    let media_type = Some(layer.media_type.clone()).filter(|kind| !kind.is_empty());
    let urls = layer.urls.clone().filter(|_| is_foreign(&layer.media_type)).unwrap_or_default();
    ExpectedLayer { diff_id, blob: Some(layer.digest), blob_size: Some(layer.size), media_type, urls }
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

/// What a manifest says of itself; older OCI ones say nothing.
pub(crate) fn media_type(manifest: &Manifest) -> String {
    manifest.media_type.clone().unwrap_or_else(|| crate::manifest::OCI_MANIFEST.to_owned())
}

/// What an image's configuration says it runs on.
pub(crate) fn platform_of(config: &ImageConfig) -> Platform {
    Platform {
        os: config.os.clone(),
        architecture: config.architecture.clone(),
        variant: config.variant.clone(),
        os_version: None,
    }
}
