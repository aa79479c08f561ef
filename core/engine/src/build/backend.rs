//! The engine's part in a build.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use sampan_build::backend::{Backend, Fetched, Flights, Message, Output, Root, RunStep};
use sampan_build::cache::{Entry, Key};
use sampan_build::error::{BuildError, Result};
use sampan_build::remote::Remote;
use sampan_image::{ChainId, Digest, ImageConfig, ImageRecord, ImageRef, LayerRef, Platform};

use super::export::Imported;
use super::root::BuildRoot;
use super::run;
use crate::Engine;
use crate::error::{Error, ErrorKind};
use crate::messages::Credentials;

/// One build's view of the engine.
#[derive(Debug)]
pub(crate) struct EngineBackend {
    pub engine: Engine,
    /// By registry.
    pub auth: HashMap<String, Credentials>,
    /// Caches that came with the request.
    pub caches: Vec<Imported>,
    /// The results that the build has made or taken.
    pub used: Mutex<BTreeSet<Key>>,
}

impl Root for BuildRoot {
    fn path(&self) -> &Path {
        self.path()
    }
}

fn fault(error: Error) -> BuildError {
    match error.kind {
        ErrorKind::NotFound | ErrorKind::Invalid | ErrorKind::Unauthorized | ErrorKind::CannotStart => {
            BuildError::Invalid(error.message)
        }
        ErrorKind::Unsupported => BuildError::Unsupported(error.message),
        _ => BuildError::Backend(error.message),
    }
}

impl EngineBackend {
    /// An image that is here and runs on the platform.
    fn here(&self, name: &str, platform: &Platform) -> Option<Arc<ImageRecord>> {
        let image = self.engine.inner.images.resolve(name).ok()?;
        let offered = Platform {
            os: image.config.os.clone(),
            architecture: image.config.architecture.clone(),
            variant: image.config.variant.clone(),
            os_version: None,
        };
        // An image made by `import` of a foreign tool may not say.
        (offered.architecture.is_empty() || platform.suits(&offered).is_some()).then_some(image)
    }

    /// The results that the build has made or taken.
    pub(crate) fn used(&self) -> BTreeSet<Key> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A result is part of this build.
    fn note(&self, key: Key) {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
    }

    /// A result of a cache that came with the request, taken into the engine's own.
    async fn imported(&self, key: Key) -> Option<Entry> {
        let found = self.caches.iter().find_map(|cache| cache.find(key))?;
        let engine = self.engine.clone();
        match crate::blocking(move || found.take(&engine, key)).await {
            Ok(entry) => Some(entry),
            Err(error) => {
                tracing::warn!(%error, "a step of an imported cache is not used");
                None
            }
        }
    }

    fn credentials(&self, name: &ImageRef) -> Option<Credentials> {
        let domain = name.domain();
        let hub = ["https://index.docker.io/v1/", "index.docker.io", "docker.io"];
        let found = self.auth.get(domain).or_else(|| {
            let bare = |key: &str| key.trim_start_matches("https://").trim_start_matches("http://").to_owned();
            self.auth.iter().find(|(key, _)| bare(key).split('/').next() == Some(domain)).map(|(_, found)| found)
        });
        let found =
            found.or_else(|| (domain == "docker.io").then(|| hub.iter().find_map(|key| self.auth.get(*key)))?);
        found.filter(|found| !found.is_empty()).cloned()
    }
}

impl Backend for EngineBackend {
    type Root = BuildRoot;

    async fn image(&self, name: &str, platform: &Platform, pull: bool, output: &Output) -> Result<Arc<ImageRecord>> {
        if !pull && let Some(image) = self.here(name, platform) {
            return Ok(image);
        }
        let reference = ImageRef::parse(name).map_err(|error| BuildError::Invalid(error.to_string()))?;
        let text = reference.to_string();
        let wanted = platform.to_string();
        let pulled = self.engine.pull_image(&text, Some(&wanted), self.credentials(&reference)).await;
        let mut progress = pulled.map_err(|error| fault(error.context(format!("pull {}", reference.familiar()))))?;
        while let Some(message) = progress.recv().await {
            if let Some(failure) = &message.error_detail {
                let why = failure.message.clone().unwrap_or_default();
                return Err(BuildError::Invalid(format!("pull {}: {why}", reference.familiar())));
            }
            let message = serde_json::to_value(&message).map_err(|error| BuildError::Backend(error.to_string()))?;
            output.send(Message::Pull(message)).await.map_err(|_| BuildError::Cancelled)?;
        }
        self.here(name, platform).ok_or_else(|| {
            BuildError::Invalid(format!("{} is not there for the platform {platform}", reference.familiar()))
        })
    }

    async fn open(&self, parents: &[ChainId]) -> Result<BuildRoot> {
        BuildRoot::open(&self.engine, parents).await.map_err(fault)
    }

    async fn run(&self, root: &BuildRoot, step: RunStep, output: &Output) -> Result<i32> {
        run::run(&self.engine, root, step, output).await.map_err(fault)
    }

    async fn commit(&self, root: &BuildRoot, parents: &[ChainId], latest: Option<i64>) -> Result<LayerRef> {
        root.commit(parents, latest).await.map_err(fault)
    }

    async fn fetch(&self, remote: &Remote, keep_git_dir: bool, checksum: Option<&str>) -> Result<Fetched> {
        super::fetch::fetch(&self.engine, remote, keep_git_dir, checksum).await
    }

    async fn cached(&self, key: Key) -> Option<Entry> {
        let found = match self.engine.inner.builds.get(key) {
            Some(found) => Some(found),
            None => self.imported(key).await,
        };
        if found.is_some() {
            self.note(key);
        }
        found
    }

    async fn remember(&self, key: Key, entry: Entry) -> Result<()> {
        self.note(key);
        let engine = self.engine.clone();
        crate::blocking(move || engine.inner.builds.remember(key, entry)).await.map_err(fault)
    }

    async fn create(
        &self,
        config: ImageConfig,
        layers: Vec<LayerRef>,
        parent: Option<Digest>,
        names: Vec<ImageRef>,
    ) -> Result<Arc<ImageRecord>> {
        let images = &self.engine.inner.images;
        let tagged = names.clone();
        let created = images.blocking(move |store| Ok(store.create_image(config, layers, parent, &names)?)).await;
        let image = created.map_err(fault)?;
        for name in tagged {
            images.event("tag", &image.id.to_string(), Some(name.familiar()));
        }
        images.flush_soon();
        Ok(image)
    }

    fn flights(&self) -> &Flights {
        self.engine.inner.builds.flights()
    }
}
