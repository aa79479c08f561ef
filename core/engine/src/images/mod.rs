//! Images: the engine's side of `sampan-image`.

mod changes;
mod collect;
mod commit;
mod compositions;
mod list;
mod manifests;
mod remove;
mod transfer;
mod tree;

use std::pin::Pin;
use std::sync::Arc;

use bollard_stubs::models::{ContainerConfig, EventMessageTypeEnum};
use bytes::Bytes;
use sampan_image::registry::{RegistryClient, RegistryConfig};
use sampan_image::{Digest, ImageError, ImageRecord, ImageRef, ImageStore};
use tokio::io::AsyncRead;
use tokio::sync::mpsc;

use crate::Shared;
use crate::error::{Error, ErrorKind, Result};
use crate::layers::Layers;

pub(crate) use changes::apply_changes;
pub use compositions::{Composition, CompositionFile, CompositionKind, NewComposition};
pub use manifests::{ManifestList, RemoteManifest};
pub use transfer::TransferMessage;
pub(crate) use transfer::registry_auth;

/// A byte stream that comes in.
pub type Upload = Pin<Box<dyn AsyncRead + Send>>;
/// A byte stream that goes out.
pub type Download = mpsc::Receiver<std::io::Result<Bytes>>;

/// Where an import's archive comes from.
pub enum ImportSource {
    /// The client sends it.
    Upload(Upload),
    /// The daemon fetches it: `http` or `https`.
    Url(String),
}

impl std::fmt::Debug for ImportSource {
    /// An address may hold a credential.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Upload(_) => "Upload",
            Self::Url(_) => "Url",
        })
    }
}

/// An import as asked for.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// Name without a tag.
    pub repo: Option<String>,
    /// Tag.
    pub tag: Option<String>,
    /// For the history.
    pub message: Option<String>,
    /// Dockerfile instructions to apply.
    pub changes: Vec<String>,
    /// `os/arch[/variant]`.
    pub platform: Option<String>,
}

/// A commit as asked for.
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// Name or id.
    pub container: String,
    /// Name without a tag.
    pub repo: Option<String>,
    /// Tag.
    pub tag: Option<String>,
    /// For the history.
    pub comment: Option<String>,
    /// For the image.
    pub author: Option<String>,
    /// Freeze the container meanwhile.
    pub pause: bool,
    /// Dockerfile instructions to apply.
    pub changes: Vec<String>,
    /// Replaces the container's configuration.
    pub config: Option<ContainerConfig>,
}

/// The image store of an engine. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Images {
    shared: Arc<Shared>,
    store: Arc<ImageStore>,
    registries: RegistryClient,
}

impl Images {
    pub(crate) fn open(shared: &Arc<Shared>, layers: &Layers) -> Result<Self> {
        let root = shared.config.root.join("images");
        let store = ImageStore::open(&root, shared.store.clone(), Arc::new(layers.clone()))?;
        store.recover()?;
        let registries = RegistryConfig {
            insecure: shared.config.insecure_registries.clone(),
            mirrors: shared.config.registry_mirrors.clone(),
            proxies: shared.config.proxies.clone(),
            ..RegistryConfig::default()
        };
        registries.check().map_err(Error::invalid)?;
        let registries = RegistryClient::new(registries);
        Ok(Self { shared: Arc::clone(shared), store: Arc::new(store), registries })
    }

    /// What reaches registries.
    pub(crate) fn registries(&self) -> &RegistryClient {
        &self.registries
    }

    /// The store itself, whose calls block but for look-ups.
    pub(crate) fn store(&self) -> &Arc<ImageStore> {
        &self.store
    }

    /// Finds an image by name, id, or the beginning of an id. Does not block.
    pub(crate) fn resolve(&self, name: &str) -> Result<Arc<ImageRecord>> {
        Ok(self.store.resolve(name)?)
    }

    /// As [`Self::resolve`], of an index the image for the platform that is wanted, if any; one for another is none.
    pub(crate) fn resolve_for(&self, name: &str, platform: Option<&str>) -> Result<Arc<ImageRecord>> {
        let image = self.resolve(name)?;
        if let Some(wanted) = transfer::parse_platform(platform)? {
            let listed = self.store.index(name).and_then(|index| index.image_for(&wanted));
            if let Some(image) = listed.and_then(|id| self.store.get(&id)) {
                return Ok(image);
            }
            let offered = image.platform();
            if wanted.suits(&offered).is_none() {
                return Err(Error::not_found(format!(
                    "image with reference {name} was found but its platform ({offered}) does not match the specified platform ({wanted})"
                )));
            }
        }
        Ok(image)
    }

    /// Runs work on the store on a thread of its own.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ImageStore) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = Arc::clone(&self.store);
        tokio::task::spawn_blocking(move || work(&store))
            .await
            .map_err(|error| Error::internal(format!("a task on images failed: {error}")))?
    }

    /// Puts new layers on the disk in the background.
    pub(crate) fn flush_soon(&self) {
        let store = Arc::clone(&self.store);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = store.flush() {
                tracing::warn!(%error, "new layers are not known to be on the disk");
            }
        });
    }

    /// Tells an event of an image: its id, or the name for what is known by name only.
    pub(crate) fn event(&self, action: &str, id: &str, name: Option<String>) {
        let labels = Digest::parse(id).ok().and_then(|id| self.store.get(&id));
        let labels = labels.map(|image| image.config.config.labels.clone()).unwrap_or_default();
        let attributes = labels.into_iter().chain(name.map(|name| ("name".to_owned(), name)));
        self.shared.events.publish(EventMessageTypeEnum::IMAGE, action, id, attributes);
    }
}

impl From<ImageError> for Error {
    fn from(error: ImageError) -> Self {
        let kind = match &error {
            ImageError::NotFound(_) => ErrorKind::NotFound,
            ImageError::Conflict(_) => ErrorKind::Conflict,
            ImageError::Ambiguous(_)
            | ImageError::Reference(_)
            | ImageError::Digest(_)
            | ImageError::Invalid(_)
            | ImageError::Refused { .. }
            | ImageError::Mismatch { .. } => ErrorKind::Invalid,
            ImageError::Unauthorized(_) => ErrorKind::Unauthorized,
            ImageError::Unreachable(_) => ErrorKind::Unavailable,
            _ => ErrorKind::Internal,
        };
        Self { kind, message: error.to_string() }
    }
}

/// A repository and a tag as Docker's API takes them apart.
pub(crate) fn reference(repo: &str, tag: Option<&str>) -> Result<ImageRef> {
    let invalid = |error: sampan_image::InvalidRef| Error::invalid(error);
    let bare = ImageRef::parse_bare(repo).map_err(invalid)?;
    match tag.filter(|tag| !tag.is_empty()) {
        Some(tag) if bare.digest().is_none() => bare.with_tag(tag).map_err(invalid),
        Some(_) => Err(Error::invalid(format!("{repo}: a digest and a tag exclude each other"))),
        None => ImageRef::parse(repo).map_err(invalid),
    }
}
