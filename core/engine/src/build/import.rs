//! Results of earlier builds that come with a build: from a directory, a registry, or the configuration of an image.

use std::os::unix::fs::OpenOptionsExt;

use sampan_build::cache::{Entry, Key};
use sampan_build::context::Context;
use sampan_build::error::BuildError;
use sampan_build::exported::{self, Document, Found, INLINE, MEDIA_TYPE};
use sampan_image::registry::{self, Artifact, ArtifactLayer, RegistryAuth, Reporter};
use sampan_image::{ChainId, ImageConfig, ImageRecord, ImageRef, LayerRef, Platform};

use crate::Engine;
use crate::error::{Error, Result};

/// The name of the document in a directory.
pub(super) const DOCUMENT: &str = "cache.json";
/// Where a directory has its layers.
pub(super) const BLOBS: &str = "blobs/sha256";

/// A cache that came with a build.
#[derive(Debug)]
pub(crate) struct Imported {
    document: Document,
    place: Place,
}

/// Where its layers are.
#[derive(Debug)]
enum Place {
    Directory(Context),
    Registry {
        name: ImageRef,
        auth: Option<RegistryAuth>,
    },
    /// In the engine's own store, as an image has them.
    Here,
}

impl Imported {
    /// Reads a cache of a directory. Blocks.
    pub(crate) fn open(files: Context) -> Result<Self, BuildError> {
        let wrong = |why: String| BuildError::Invalid(format!("--cache-from: {DOCUMENT}: {why}"));
        let text = files
            .read_text(DOCUMENT)?
            .ok_or_else(|| wrong("is not there: not a cache that --cache-to has written".to_owned()))?;
        let document = Document::parse(text.as_bytes()).map_err(wrong)?;
        Ok(Self { document, place: Place::Directory(files) })
    }

    /// Reads what a name leads to in its registry: a cache, or an image with one in its configuration.
    pub(crate) async fn of_registry(
        engine: &Engine,
        name: &ImageRef,
        platform: &Platform,
        auth: Option<RegistryAuth>,
    ) -> Result<Self> {
        let registries = engine.inner.images.registries();
        let found = registry::artifact(registries, name, platform, auth.as_ref()).await?;
        let document = document_of(&found).map_err(|why| Error::invalid(format!("{}: {why}", name.familiar())))?;
        Ok(Self { document, place: Place::Registry { name: name.clone(), auth } })
    }

    /// The cache in the configuration of an image that is here.
    pub(crate) fn of_image(image: &ImageRecord) -> Result<Self> {
        let layers = image.layers.iter().map(|layer| exported::Layer {
            blob: layer.blob,
            size: layer.blob_size,
            media_type: layer.media_type.clone(),
            diff_id: layer.diff_id,
        });
        let document = inline_of(&image.config, layers.collect()).map_err(Error::invalid)?;
        Ok(Self { document, place: Place::Here })
    }

    pub(crate) fn find(&self, key: Key) -> Option<Found> {
        self.document.find(key)
    }

    /// Takes a result into the engine's own cache. Its layer must be what the document says, on the layers on which the
    /// step is to lie.
    pub(crate) async fn take(
        &self,
        engine: &Engine,
        key: Key,
        on: Option<ChainId>,
        found: Found,
        reporter: &Reporter,
    ) -> Result<Entry> {
        let layer = match &found.layer {
            Some(layer) => Some(self.layer(engine, layer, on, reporter).await?),
            None => None,
        };
        let entry = Entry { layer, created: found.created, description: found.description };
        let (builds, kept) = (engine.inner.builds.clone(), entry.clone());
        crate::blocking(move || builds.remember(key, kept)).await?;
        Ok(entry)
    }

    async fn layer(
        &self,
        engine: &Engine,
        layer: &exported::Layer,
        on: Option<ChainId>,
        reporter: &Reporter,
    ) -> Result<LayerRef> {
        let store = engine.inner.images.store();
        if let Some(known) = store.layer(&ChainId::on(on.as_ref(), &layer.diff_id)) {
            return Ok(known);
        }
        let parents = store.ancestors(on);
        let wanted = ArtifactLayer { blob: layer.blob, size: layer.size, media_type: layer.media_type.clone() };
        match &self.place {
            Place::Registry { name, auth } => {
                let registries = engine.inner.images.registries();
                let (diff_id, auth) = (layer.diff_id, auth.as_ref());
                Ok(registry::pull_layer(registries, store, name, &wanted, diff_id, parents, auth, reporter).await?)
            }
            Place::Directory(files) => {
                let path = files.root().join(BLOBS).join(layer.blob.hex());
                let diff_id = layer.diff_id;
                let take = move |store: &sampan_image::ImageStore| {
                    let mut options = std::fs::File::options();
                    let file = options.read(true).custom_flags(nix::libc::O_NOFOLLOW).open(&path);
                    let file = file.map_err(|error| Error::invalid(format!("open an imported layer: {error}")))?;
                    Ok(registry::layer_from_file(store, file, &wanted, diff_id, &parents)?)
                };
                engine.inner.images.blocking(take).await
            }
            Place::Here => Err(Error::not_found("the image's layers lie on others")),
        }
    }
}

fn document_of(found: &Artifact) -> Result<Document, String> {
    if found.config_type == MEDIA_TYPE {
        return Document::parse(&found.config);
    }
    let config: ImageConfig = serde_json::from_slice(&found.config)
        .map_err(|error| format!("neither a build cache nor an image ({}): {error}", found.config_type))?;
    let layers = found.layers.iter().zip(&config.rootfs.diff_ids).map(|(layer, diff_id)| exported::Layer {
        blob: layer.blob,
        size: layer.size,
        media_type: layer.media_type.clone(),
        diff_id: *diff_id,
    });
    inline_of(&config, layers.collect())
}

fn inline_of(config: &ImageConfig, layers: Vec<exported::Layer>) -> Result<Document, String> {
    match config.extra.get(INLINE) {
        Some(value) => Document::parse_inline(value, layers),
        None => Err("the image has no cache in it: `--cache-to type=inline` writes one".to_owned()),
    }
}
