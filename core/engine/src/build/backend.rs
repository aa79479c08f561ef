//! The engine's part in a build.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use sampan_build::backend::{Backend, Fetched, Flights, Message, Output, Part, Root, RunStep};
use sampan_build::cache::{Entry, Key};
use sampan_build::device::{Allowed, Chosen, Device};
use sampan_build::error::{BuildError, Result};
use sampan_build::exported::{Document, INLINE};
use sampan_build::provenance;
use sampan_build::remote::Remote;
use sampan_image::registry::Reporter;
use sampan_image::{
    ChainId, DiffId, Digest, ImageConfig, ImageRecord, ImageRef, IndexEntry, LayerRef, Packing, Platform, Statement,
};

use super::export;
use super::import::Imported;
use super::root::BuildRoot;
use super::{AskLogin, CachePlace, CacheSource, CacheTarget, Checked, Telling, run};
use crate::Engine;
use crate::error::{Error, ErrorKind};
use crate::images::registry_auth;
use crate::messages::Credentials;

/// One build's view of the engine.
pub(crate) struct EngineBackend {
    pub engine: Engine,
    /// By registry.
    pub auth: HashMap<String, Credentials>,
    /// Asked where there are none.
    pub login: Option<AskLogin>,
    /// Caches that came with the request.
    pub caches: Vec<Imported>,
    /// Where the fetching of their layers is told.
    pub reporter: Reporter,
    /// The image tells in its configuration which steps its layers are of.
    pub inline: bool,
    /// The form of the image, if one was asked for.
    pub packing: Option<Packing>,
    /// In which form statements on how an image was made are written.
    pub provenance: Option<provenance::Version>,
    /// The results that the build has made or taken.
    pub used: Mutex<BTreeSet<Key>>,
    /// The layers of the images that came of it.
    pub layers: Mutex<Vec<DiffId>>,
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

async fn say(told: Option<&Telling>, text: String) -> Result<()> {
    match told {
        Some(told) => told.send(Ok(Message::Stream(text))).await.map_err(|_| BuildError::Cancelled),
        None => Ok(()),
    }
}

impl EngineBackend {
    /// An image that is here and runs on the platform.
    fn here(&self, name: &str, platform: &Platform) -> Option<Arc<ImageRecord>> {
        let image = self.engine.inner.images.resolve_for(name, Some(&platform.to_string()));
        let image = image.or_else(|_| self.engine.inner.images.resolve(name)).ok()?;
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

    /// What the build has made or taken: all of it, or what the image is of.
    pub(crate) fn results(&self, all: bool) -> Vec<(Key, Entry)> {
        let layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        export::results(&self.engine, self.used(), (!all).then_some(&layers))
    }

    /// Opens the caches that are in registries or in images. One that is not there is no cache yet, which is said.
    pub(crate) async fn find_caches(
        &mut self,
        sources: &[CacheSource],
        checked: &Checked,
        told: Option<&Telling>,
    ) -> Result<()> {
        for source in sources {
            let found = match source {
                CacheSource::Upload | CacheSource::Directory(_) => continue,
                CacheSource::Image(name) => {
                    self.engine.inner.images.resolve(name).and_then(|image| Imported::of_image(&image))
                }
                CacheSource::Registry(text) => {
                    let Some(name) = checked.caches.get(text) else { continue };
                    let auth = self.credentials(name).await.map(registry_auth);
                    let platform = checked.platforms.first().cloned().unwrap_or_else(Platform::host);
                    let found = Imported::of_registry(&self.engine, name, &platform, auth).await;
                    // An image that never left this host may have what is wanted.
                    found.or_else(|error| match self.engine.inner.images.store().by_name(name) {
                        Some(image) => Imported::of_image(&image).map_err(|_| error),
                        None => Err(error),
                    })
                }
            };
            match (found, source) {
                (Ok(found), _) => self.caches.push(found),
                // Docker names there what is merely likely to have something.
                (Err(error), CacheSource::Image(name)) => tracing::debug!(%error, name, "an image brings no cache"),
                (Err(error), _) => say(told, format!("[Warning] --cache-from: {error}\n")).await?,
            }
        }
        Ok(())
    }

    /// Takes the results elsewhere.
    pub(crate) async fn export(
        &self,
        target: &CacheTarget,
        names: &HashMap<String, ImageRef>,
        told: Option<&Telling>,
    ) -> Result<()> {
        let document = Document::of(&self.results(target.all));
        let result = match &target.place {
            // The image has it already.
            CachePlace::Inline => return Ok(()),
            CachePlace::Directory(path) => {
                let (engine, path) = (self.engine.clone(), path.clone());
                let written = crate::blocking(move || export::to_directory(&engine, &document, &path)).await;
                written.map(|()| "Cache written\n".to_owned())
            }
            CachePlace::Registry(text) => {
                let Some(name) = names.get(text) else { return Ok(()) };
                let auth = self.credentials(name).await.map(registry_auth);
                say(told, format!("Exporting the cache to {}\n", name.familiar())).await?;
                let pushed = export::to_registry(&self.engine, &document, name, auth.as_ref(), &self.reporter).await;
                pushed.map(|digest| format!("Exported the cache: {digest}\n"))
            }
        };
        match result {
            Ok(text) => say(told, text).await,
            Err(error) if target.ignore_error => say(told, format!("[Warning] --cache-to: {error}\n")).await,
            Err(error) => Err(fault(error.context("--cache-to"))),
        }
    }

    /// A result is part of this build.
    fn note(&self, key: Key) {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
    }

    /// A result of a cache that came with the request, taken into the engine's own.
    async fn imported(&self, key: Key, on: Option<ChainId>) -> Option<Entry> {
        for cache in &self.caches {
            let Some(found) = cache.find(key) else { continue };
            match cache.take(&self.engine, key, on, found, &self.reporter).await {
                Ok(entry) => return Some(entry),
                Err(error) => tracing::warn!(%error, %key, "a step of an imported cache is not used"),
            }
        }
        None
    }

    /// What is known of a registry that an image or a cache is in.
    pub(crate) async fn credentials(&self, name: &ImageRef) -> Option<Credentials> {
        let known = self.given(name);
        match (&known, &self.login) {
            (None, Some(ask)) => ask(name.domain().to_owned()).await.filter(|found| !found.is_empty()),
            _ => known,
        }
    }

    /// What came with the request.
    fn given(&self, name: &ImageRef) -> Option<Credentials> {
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
        let pulled = self.engine.pull_image(&text, Some(&wanted), self.credentials(&reference).await).await;
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

    async fn devices(&self, wanted: Vec<Device>, allowed: &Allowed) -> Result<Chosen> {
        let (allowed, folders) = (allowed.clone(), self.engine.config().cdi_spec_dirs.clone());
        let chosen = crate::blocking(move || crate::cdi::for_build(&wanted, &allowed, &folders)).await;
        // Told with the step's place.
        chosen.map_err(|error| BuildError::Invalid(error.message))
    }

    async fn run(&self, root: &BuildRoot, step: RunStep, output: &Output) -> Result<i32> {
        run::run(&self.engine, root, step, output).await.map_err(fault)
    }

    async fn commit(&self, root: &BuildRoot, parents: &[ChainId], latest: Option<i64>) -> Result<LayerRef> {
        root.commit(parents, latest).await.map_err(fault)
    }

    async fn rebase(&self, layer: &LayerRef, parents: &[ChainId]) -> Result<LayerRef> {
        let (layer, parents) = (layer.clone(), parents.to_vec());
        let images = &self.engine.inner.images;
        images.blocking(move |store| Ok(store.lay(&layer, &parents)?)).await.map_err(fault)
    }

    async fn fetch(&self, remote: &Remote, keep_git_dir: bool, checksum: Option<&str>) -> Result<Fetched> {
        super::fetch::fetch(&self.engine, remote, keep_git_dir, checksum).await
    }

    async fn cached(&self, key: Key, on: Option<ChainId>) -> Option<Entry> {
        let found = match self.engine.inner.builds.get(key, on) {
            Some(found) => Some(found),
            None => self.imported(key, on).await,
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
        mut config: ImageConfig,
        layers: Vec<LayerRef>,
        parent: Option<Digest>,
        names: Vec<ImageRef>,
    ) -> Result<Arc<ImageRecord>> {
        let diff_ids: Vec<DiffId> = layers.iter().map(|layer| layer.diff_id).collect();
        self.layers.lock().unwrap_or_else(PoisonError::into_inner).extend(&diff_ids);
        if self.inline {
            let document = Document::inline(&export::results(&self.engine, self.used(), None), &diff_ids);
            let document = serde_json::to_value(document).map_err(|error| BuildError::Backend(error.to_string()))?;
            config.extra.insert(INLINE.to_owned(), document);
        }
        let images = &self.engine.inner.images;
        let tagged = names.clone();
        let packing = self.packing.clone();
        let created = images.blocking(move |store| {
            let image = store.create_image(config, layers, parent, &names)?;
            Ok(match packing {
                Some(packing) => store.repack(&image.id, &packing)?,
                None => image,
            })
        });
        let created = created.await;
        let image = created.map_err(fault)?;
        for name in tagged {
            images.event("tag", &image.id.to_string(), Some(name.familiar()));
        }
        images.flush_soon();
        Ok(image)
    }

    async fn join(&self, parts: Vec<Part>, names: Vec<ImageRef>) -> Result<Digest> {
        let images = &self.engine.inner.images;
        let (version, tagged) = (self.provenance.unwrap_or_default(), names.clone());
        let joined = images.blocking(move |store| {
            let mut entries = Vec::new();
            for part in parts {
                // What an index names must not change: what would be packed when it is pushed is packed now.
                let image = store.pack_layers(&part.image.id)?;
                let mut statements = Vec::new();
                if let Some(predicate) = &part.provenance {
                    let of = (&part.platform, &image.manifest);
                    let document = provenance::statement(version, predicate, &names, of);
                    statements.push(Statement {
                        predicate_type: version.predicate_type().to_owned(),
                        document: serde_json::to_vec(&document).map_err(Error::internal)?,
                    });
                }
                entries.push(IndexEntry { platform: part.platform, image, statements });
            }
            Ok(store.create_index(&entries, &names)?)
        });
        let index = joined.await.map_err(fault)?;
        for name in tagged {
            images.event("tag", &index.digest.to_string(), Some(name.familiar()));
        }
        images.flush_soon();
        Ok(index.digest)
    }

    fn flights(&self) -> &Flights {
        self.engine.inner.builds.flights()
    }
}
