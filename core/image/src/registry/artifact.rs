//! Manifests that are read and written for what they carry beside an image, such as the results of builds: their
//! configuration as it stands, and their layers one by one.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::client::{Repository, endpoints};
use super::pull::{Taking, blocking, bring, config_of, denied, document, find};
use super::push::push_document;
use super::{RegistryAuth, RegistryClient, Reporter};
use crate::archive::{choose, expected};
use crate::digest::{ChainId, DiffId, Digest};
use crate::error::{Context, ImageError};
use crate::manifest::{Descriptor, Document, Manifest, Platform};
use crate::record::LayerRef;
use crate::reference::ImageRef;
use crate::store::ImageStore;

/// A manifest with its configuration, both verified against their digests; what they say is not judged.
#[derive(Debug, Clone)]
pub struct Artifact {
    /// What the configuration is.
    pub config_type: String,
    /// The configuration.
    pub config: Vec<u8>,
    /// Lowest first.
    pub layers: Vec<ArtifactLayer>,
}

/// A layer that a manifest names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactLayer {
    /// The tar as it is kept, compressed or not.
    pub blob: Digest,
    /// Its bytes.
    pub size: u64,
    /// Its media type.
    pub media_type: String,
}

impl ArtifactLayer {
    fn descriptor(&self) -> Descriptor {
        Descriptor::new(&self.media_type, self.blob, self.size)
    }
}

/// Reads the manifest that a name leads to, and its configuration; of an index the one for a platform.
pub async fn artifact(
    client: &RegistryClient,
    name: &ImageRef,
    platform: &Platform,
    auth: Option<&RegistryAuth>,
) -> Result<Artifact, ImageError> {
    let mut last = None;
    for endpoint in endpoints(name, &client.config, false) {
        let repository = Repository::new(client, endpoint, name, "pull", auth);
        match find(&repository, name).await {
            Ok(mut found) => {
                let parse = |found: &super::Found| {
                    Document::parse(&found.bytes, &found.media_type)
                        .map_err(|why| ImageError::refused(format!("manifest {}", found.digest), why))
                };
                if let Document::Index(index) = parse(&found)? {
                    let chosen = choose(index.manifests.iter(), platform).ok_or_else(|| {
                        ImageError::NotFound(format!("{}: nothing for {platform} in its index", name.familiar()))
                    })?;
                    found = document(&repository, &chosen.digest.to_string(), Some(&chosen.digest)).await?;
                }
                let Document::Manifest(manifest) = parse(&found)? else {
                    return Err(ImageError::refused(format!("manifest {}", found.digest), "an index in an index"));
                };
                let config = config_of(&repository, &manifest).await?;
                let layers = manifest
                    .layers
                    .into_iter()
                    .map(|layer| ArtifactLayer { blob: layer.digest, size: layer.size, media_type: layer.media_type })
                    .collect();
                return Ok(Artifact { config_type: manifest.config.media_type, config, layers });
            }
            Err(error) => last = last.filter(|_| error.is_wrong_door()).or(Some(error)),
        }
    }
    Err(denied(name, last))
}

/// Fetches one layer and unpacks it over layers that are here (nearest first). It is taken only if it is what both its
/// digests say, and kept as by [`ImageStore::add_layer_from_tar`].
#[allow(clippy::too_many_arguments)]
pub async fn pull_layer(
    client: &RegistryClient,
    store: &Arc<ImageStore>,
    name: &ImageRef,
    layer: &ArtifactLayer,
    diff_id: DiffId,
    parents: Vec<ChainId>,
    auth: Option<&RegistryAuth>,
    reporter: &Reporter,
) -> Result<LayerRef, ImageError> {
    let descriptor = layer.descriptor();
    let chain = ChainId::on(parents.first(), &diff_id);
    // What is given up goes after the hold on it.
    let taking = Taking::new(store);
    let _hold = store.hold(parents.iter().map(|parent| parent.0).chain([chain.0, descriptor.digest]));
    let mut last = None;
    for endpoint in endpoints(name, &client.config, false) {
        let repository = Repository::new(client, endpoint, name, "pull", auth);
        // It is unpacked when it is here whole.
        let (begun, _) = oneshot::channel();
        let id = descriptor.digest.short();
        match bring(client, &repository, store, &descriptor, &id, reporter, &taking, begun).await {
            Ok(()) => {
                let what = format!("layer {}", descriptor.digest);
                let wanted = expected(&descriptor, diff_id);
                let taken = blocking(store, move |store| store.take_downloaded(&what, &wanted, &parents, None)).await?;
                taking.keep();
                return Ok(taken);
            }
            Err(error) => last = last.or(Some(error)),
        }
    }
    Err(last.unwrap_or_else(|| ImageError::Unreachable(format!("{}: no registry to ask", name.familiar()))))
}

/// Takes in a layer from a file, as [`pull_layer`] does from a registry. Blocks.
pub fn layer_from_file(
    store: &ImageStore,
    file: std::fs::File,
    layer: &ArtifactLayer,
    diff_id: DiffId,
    parents: &[ChainId],
) -> Result<LayerRef, ImageError> {
    let what = format!("layer {}", layer.blob);
    store.take_layer(&what, file, &expected(&layer.descriptor(), diff_id), parents)
}

/// Sends a configuration of a kind of its own, and layers that are in the store and held by the caller.
pub async fn push_artifact(
    client: &RegistryClient,
    store: &Arc<ImageStore>,
    name: &ImageRef,
    artifact: &Artifact,
    auth: Option<&RegistryAuth>,
    reporter: &Reporter,
) -> Result<Digest, ImageError> {
    let config = Descriptor::new(&artifact.config_type, Digest::of(&artifact.config), artifact.config.len() as u64);
    let written = config.digest;
    let manifest = Manifest::new(config, artifact.layers.iter().map(ArtifactLayer::descriptor).collect());
    let bytes = serde_json::to_vec(&manifest).context(|| "write a manifest".to_owned())?;
    let hold = store.hold([written]);
    let document = artifact.config.clone();
    blocking(store, move |store| store.blobs().write(&document).map(drop)).await?;
    let pushed = push_document(client, store, name, &bytes, auth, reporter).await;
    drop(hold);
    blocking(store, move |store| store.abandon_blobs(&[written])).await?;
    pushed.map(|pushed| pushed.digest)
}
