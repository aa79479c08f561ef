//! Images: the engine's side of `sampan-image`.

use std::pin::Pin;
use std::sync::Arc;

use bollard_stubs::models::{
    ContainerConfig, CreateImageInfo, HistoryResponseItem, IdResponse, ImageDeleteResponseItem, ImageInspect,
    ImagePruneResponse, ImageSummary, PushImageInfo,
};
use bytes::Bytes;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;

use crate::error::{Error, Result};
use crate::filters::Filters;
use crate::layers::Layers;
use crate::messages::{BuildMessage, Credentials};
use crate::{Engine, Shared};

/// A byte stream that comes in.
pub type Upload = Pin<Box<dyn AsyncRead + Send>>;
/// A byte stream that goes out.
pub type Download = mpsc::Receiver<std::io::Result<Bytes>>;

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
}

impl Images {
    pub(crate) fn open(shared: &Arc<Shared>, _layers: &Layers) -> Result<Self> {
        Ok(Self { shared: Arc::clone(shared) })
    }
}

fn unsupported<T>() -> Result<T> {
    Err(Error::unsupported("images are not there yet"))
}

impl Engine {
    /// `images`.
    pub async fn list_images(&self, _all: bool, _filters: Filters, _digests: bool) -> Result<Vec<ImageSummary>> {
        unsupported()
    }

    /// By name, id, or the beginning of an id.
    pub async fn inspect_image(&self, _name: &str) -> Result<ImageInspect> {
        unsupported()
    }

    /// The newest step first.
    pub async fn image_history(&self, _name: &str) -> Result<Vec<HistoryResponseItem>> {
        unsupported()
    }

    /// Gives an image another name.
    pub async fn tag_image(&self, _name: &str, _repo: &str, _tag: Option<&str>) -> Result<()> {
        unsupported()
    }

    /// Takes a name away, and the image with its last one.
    pub async fn remove_image(
        &self,
        _name: &str,
        _force: bool,
        _noprune: bool,
    ) -> Result<Vec<ImageDeleteResponseItem>> {
        unsupported()
    }

    /// Makes an image of one layer from a file system's tar.
    pub async fn import_image(
        &self,
        _upload: Upload,
        _options: ImportOptions,
    ) -> Result<mpsc::Receiver<CreateImageInfo>> {
        unsupported()
    }

    /// Fetches an image.
    pub async fn pull_image(
        &self,
        _reference: &str,
        _platform: Option<&str>,
        _auth: Option<Credentials>,
    ) -> Result<mpsc::Receiver<CreateImageInfo>> {
        unsupported()
    }

    /// Sends an image.
    pub async fn push_image(
        &self,
        _name: &str,
        _tag: Option<&str>,
        _auth: Option<Credentials>,
    ) -> Result<mpsc::Receiver<PushImageInfo>> {
        unsupported()
    }

    /// Reads what `save` wrote (docker-archive or OCI layout).
    pub async fn load_images(&self, _upload: Upload, _quiet: bool) -> Result<mpsc::Receiver<BuildMessage>> {
        unsupported()
    }

    /// Writes images as one tar.
    pub async fn save_images(&self, _names: Vec<String>) -> Result<Download> {
        unsupported()
    }

    /// Removes what nothing needs.
    pub async fn prune_images(&self, _filters: Filters) -> Result<ImagePruneResponse> {
        unsupported()
    }

    /// Makes an image of a container's changes.
    pub async fn commit(&self, _options: CommitOptions) -> Result<IdResponse> {
        unsupported()
    }
}
