//! Results of build steps, kept over builds, and the directories of cache mounts.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bollard_stubs::models::{BuildCache, BuildCacheTypeEnum};
use sampan_build::backend::Flights;
use sampan_build::cache::{Entry, Key};
use sampan_build::mount::Sharing;
use sampan_image::{ChainId, Digest, LayerRef, timestamp};
use sampan_store::{Collection, Durability};
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;

use super::run::copy_tree;
use crate::Shared;
use crate::error::{Error, Result};
use crate::images::Images;

const CACHE: Collection<Remembered> = Collection::new("build-cache");
/// Roots in which a RUN may be, so that what a killed daemon leaves is found.
const ROOTS: Collection<()> = Collection::new("build-roots");
/// A use is written down again only after this, in nanoseconds.
const USE_STEP: i64 = 60_000_000_000;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Remembered {
    entry: Entry,
    /// Nanoseconds since 1970.
    last_used: i64,
    uses: u64,
}

/// What builds of one engine share. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Builds {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    images: Images,
    flights: Arc<Flights>,
    /// Locks of cache mounts, by directory.
    mounts: Mutex<HashMap<PathBuf, Arc<tokio::sync::Mutex<()>>>>,
    /// Builds that run, and when the first of them began.
    running: AtomicU64,
    since: AtomicI64,
    private: AtomicU64,
}

/// A build that runs: what it may be about to use is not pruned.
#[derive(Debug)]
pub(crate) struct Running(Builds);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.inner.running.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Which results are forgotten.
#[derive(Debug, Default)]
pub(crate) struct Prune {
    /// Also those whose layers images have, and the directories of cache mounts.
    pub all: bool,
    /// None that was used after this, nanoseconds since 1970.
    pub until: Option<i64>,
    /// The longest unused first, until no more than these bytes are left.
    pub keep: Option<u64>,
    /// Keys, or the beginnings of keys.
    pub ids: Vec<String>,
    /// `regular` or `exec.cachemount`.
    pub kind: Option<String>,
    /// Whether an image has the layer, too.
    pub shared: Option<bool>,
    /// A part of the step's text.
    pub description: Option<String>,
}

impl Prune {
    fn takes(&self, key: &str, remembered: &Remembered, shared: bool) -> bool {
        (self.ids.is_empty() || self.ids.iter().any(|id| key.starts_with(id.as_str())))
            && self.kind.as_deref().is_none_or(|kind| kind == "regular")
            && self.shared.is_none_or(|wanted| wanted == shared)
            && self.description.as_deref().is_none_or(|part| remembered.entry.description.contains(part))
    }

    fn takes_mounts(&self) -> bool {
        self.ids.is_empty()
            && self.until.is_none()
            && self.keep.is_none()
            && self.shared.is_none_or(|shared| !shared)
            && self.description.is_none()
            && self.kind.as_deref().is_none_or(|kind| kind == "exec.cachemount")
    }
}

pub(crate) fn nanoseconds(time: std::time::Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

/// A directory of a cache mount, and what keeps others out of it.
#[derive(Debug)]
pub(crate) struct CacheFolder {
    /// Where it is.
    pub path: PathBuf,
    _lock: Option<OwnedMutexGuard<()>>,
}

/// What the name of a directory of a cache mount ends with until it is whole.
const MAKING: &str = "new";

/// What the claims of results begin with; their keys follow.
const OWNER: &str = "build:";

fn owner(key: Key) -> String {
    format!("{OWNER}{key}")
}

impl Builds {
    pub(crate) fn open(shared: &Arc<Shared>, images: &Images) -> Self {
        Self {
            inner: Arc::new(Inner {
                shared: Arc::clone(shared),
                images: images.clone(),
                flights: Arc::default(),
                mounts: Mutex::default(),
                running: AtomicU64::new(0),
                since: AtomicI64::new(0),
                private: AtomicU64::new(0),
            }),
        }
    }

    pub(crate) fn flights(&self) -> &Flights {
        &self.inner.flights
    }

    /// Takes note of a build.
    pub(crate) fn begin(&self) -> Running {
        if self.inner.running.fetch_add(1, Ordering::SeqCst) == 0 {
            self.inner.since.store(timestamp::now(), Ordering::SeqCst);
        }
        Running(self.clone())
    }

    /// A result whose layer is still here.
    pub(crate) fn known(&self, key: Key) -> Option<Entry> {
        self.remembered(&key.to_string()).map(|found| found.entry)
    }

    fn remembered(&self, name: &str) -> Option<Remembered> {
        let mut found = match self.inner.shared.store.read::<_, Error>(|tx| Ok(CACHE.get(tx, name)?)) {
            Ok(found) => found?,
            Err(error) => {
                tracing::warn!(%error, "a remembered build step cannot be read");
                return None;
            }
        };
        if let Some(layer) = &mut found.entry.layer {
            // One that was packed meanwhile to be sent is another blob now.
            *layer = self.inner.images.store().layer(&layer.chain_id)?;
        }
        Some(found)
    }

    /// The same, if it lies on `on`; the use is noted.
    pub(crate) fn get(&self, key: Key, on: Option<ChainId>) -> Option<Entry> {
        let name = key.to_string();
        let mut found = self.remembered(&name)?;
        let lies = |layer: &LayerRef| layer.chain_id == ChainId::on(on.as_ref(), &layer.diff_id);
        if !found.entry.layer.as_ref().is_none_or(lies) {
            return None;
        }
        let now = timestamp::now();
        if now - found.last_used > USE_STEP {
            found.last_used = now;
            found.uses += 1;
            if let Err(error) = self.put(&name, &found) {
                tracing::warn!(%error, "the use of a build step was not noted");
            }
        }
        Some(found.entry)
    }

    fn put(&self, name: &str, value: &Remembered) -> Result<()> {
        self.inner.shared.store.write::<_, Error>(Durability::Process, |tx| Ok(CACHE.put(tx, name, value)?))
    }

    /// Remembers a result and keeps its layer. Blocks for a moment.
    pub(crate) fn remember(&self, key: Key, entry: Entry) -> Result<()> {
        if let Some(layer) = &entry.layer {
            self.inner.images.store().pin(&layer.chain_id, &owner(key))?;
        }
        self.put(&key.to_string(), &Remembered { entry, last_used: timestamp::now(), uses: 1 })
    }

    /// Ends claims whose results are not remembered: the daemon went between the one and the other. Call it before the
    /// first build. Blocks for a moment.
    pub(crate) fn release(&self) -> Result<()> {
        let store = self.inner.images.store();
        let stray = self.inner.shared.store.read::<_, Error>(|tx| {
            let mut stray = Vec::new();
            for (layer, owner) in store.pins() {
                let Some(key) = owner.strip_prefix(OWNER) else { continue };
                if CACHE.get(tx, key)?.is_none() {
                    stray.push((layer, owner));
                }
            }
            Ok(stray)
        })?;
        for (layer, owner) in stray {
            store.unpin(&layer, &owner)?;
        }
        Ok(())
    }

    /// What is remembered, as `system df` shows it, and the directories of cache mounts as one. Blocks.
    pub(crate) fn usage(&self) -> Result<Vec<BuildCache>> {
        let store = self.inner.images.store();
        let uses = store.layer_uses();
        let found = self.inner.shared.store.read::<_, Error>(|tx| Ok(CACHE.all(tx)?))?;
        let mut all: Vec<BuildCache> = found
            .into_iter()
            .map(|(name, remembered)| {
                let layer = remembered.entry.layer.as_ref();
                BuildCache {
                    id: Some(name),
                    typ: Some(BuildCacheTypeEnum::REGULAR),
                    in_use: Some(false),
                    description: Some(remembered.entry.description),
                    created_at: Some(timestamp::format(remembered.entry.created)),
                    shared: Some(layer.is_some_and(|layer| uses.contains_key(&layer.chain_id))),
                    size: Some(layer.map_or(0, |layer| i64::try_from(layer.size).unwrap_or(i64::MAX))),
                    last_used_at: Some(timestamp::format(remembered.last_used)),
                    usage_count: Some(i64::try_from(remembered.uses).unwrap_or(i64::MAX)),
                    ..BuildCache::default()
                }
            })
            .collect();
        let folder = self.folder();
        if folder.exists() {
            all.push(BuildCache {
                id: Some("cache-mounts".to_owned()),
                typ: Some(BuildCacheTypeEnum::EXEC_CACHEMOUNT),
                in_use: Some(self.inner.running.load(Ordering::SeqCst) > 0),
                shared: Some(false),
                size: Some(i64::try_from(size(&folder)).unwrap_or(i64::MAX)),
                ..BuildCache::default()
            });
        }
        Ok(all)
    }

    /// Forgets results: all, or those whose layers no image has; none that a build that runs may have taken. The keys,
    /// and the bytes that are free again. Blocks.
    pub(crate) fn prune(&self, wanted: &Prune) -> Result<(Vec<String>, u64)> {
        let store = self.inner.images.store();
        let busy = self.inner.running.load(Ordering::SeqCst) > 0;
        let limit = if busy {
            wanted.until.unwrap_or(i64::MAX).min(self.inner.since.load(Ordering::SeqCst))
        } else {
            wanted.until.unwrap_or(i64::MAX)
        };
        let uses = store.layer_uses();
        let mut found = self.inner.shared.store.read::<_, Error>(|tx| Ok(CACHE.all(tx)?))?;
        // What was not used for longest goes first, so that what is kept is what is likely to be used again.
        found.sort_by_key(|(_, remembered)| remembered.last_used);
        let mut left = match wanted.keep {
            Some(_) => self.total(&found),
            None => 0,
        };
        let (mut keys, mut freed) = (Vec::new(), 0);
        for (name, remembered) in found {
            let layer = remembered.entry.layer.as_ref();
            let needed = layer.is_some_and(|layer| uses.contains_key(&layer.chain_id));
            if wanted.keep.is_some_and(|keep| left <= keep) {
                break;
            }
            if remembered.last_used > limit || (needed && !wanted.all) || !wanted.takes(&name, &remembered, needed) {
                continue;
            }
            self.inner.shared.store.write::<_, Error>(Durability::Process, |tx| Ok(CACHE.delete(tx, &name)?))?;
            if let (Some(layer), Some(digest)) = (layer, Digest::from_hex(&name)) {
                let before = store.layer(&layer.chain_id).map_or(0, |layer| layer.size);
                store.unpin(&layer.chain_id, &owner(Key(digest)))?;
                if store.layer(&layer.chain_id).is_none() {
                    freed += before;
                    left = left.saturating_sub(before);
                }
            }
            keys.push(name);
        }
        if wanted.all && wanted.takes_mounts() && !busy {
            freed += self.prune_mounts()?;
        }
        Ok((keys, freed))
    }

    /// Bytes of the layers that results keep and no image has.
    fn total(&self, found: &[(String, Remembered)]) -> u64 {
        let uses = self.inner.images.store().layer_uses();
        let layers: std::collections::HashMap<_, _> = found
            .iter()
            .filter_map(|(_, remembered)| remembered.entry.layer.as_ref())
            .filter(|layer| !uses.contains_key(&layer.chain_id))
            .map(|layer| (layer.chain_id, layer.size))
            .collect();
        layers.values().sum()
    }

    /// Keeps the cache within what the daemon is told, after a build. Blocks.
    pub(crate) fn collect(&self) -> Result<()> {
        let config = &self.inner.shared.config;
        let until = config.build_cache_age.map(|age| timestamp::now().saturating_sub(nanoseconds(age)));
        if until.is_some() {
            self.prune(&Prune { all: true, until, kind: Some("regular".to_owned()), ..Prune::default() })?;
        }
        if config.build_cache_size.is_some() {
            let keep = config.build_cache_size;
            self.prune(&Prune { all: true, keep, kind: Some("regular".to_owned()), ..Prune::default() })?;
        }
        Ok(())
    }

    fn folder(&self) -> PathBuf {
        self.inner.shared.config.root.join("build-cache")
    }

    fn prune_mounts(&self) -> Result<u64> {
        let wrong = |error: std::io::Error| Error::internal(format!("remove the directories of cache mounts: {error}"));
        let folder = self.folder();
        let freed = size(&folder);
        match std::fs::remove_dir_all(&folder) {
            Ok(()) => Ok(freed),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(wrong(error)),
        }
    }

    fn mount_lock(&self, path: &Path) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.inner.mounts.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(path.to_owned()).or_default())
    }

    /// The directory of a cache mount, made if it is not there with the files of `seed` in it. Of several who want a new
    /// one at once all find it whole.
    pub(crate) async fn cache_folder(
        &self,
        id: &str,
        sharing: Sharing,
        mode: u32,
        user: (u32, u32),
        seed: Option<PathBuf>,
    ) -> Result<CacheFolder> {
        let name = Digest::of(id.as_bytes()).hex();
        let mut path = self.folder().join(&name);
        let lock = self.mount_lock(&path);
        let guard = match sharing {
            Sharing::Shared => None,
            Sharing::Locked => Some(lock.lock_owned().await),
            Sharing::Private => match lock.try_lock_owned() {
                Ok(guard) => Some(guard),
                // Someone else is in it: one of its own, that no one finds again.
                Err(_) => {
                    let number = self.inner.private.fetch_add(1, Ordering::Relaxed);
                    path = self.folder().join(format!("{name}-{:x}-{number}", timestamp::now()));
                    None
                }
            },
        };
        let _making = self.mount_lock(&path.with_extension(MAKING)).lock_owned().await;
        let at = path.clone();
        crate::blocking(move || make(&at, mode, user, seed.as_deref())).await?;
        Ok(CacheFolder { path, _lock: guard })
    }

    /// Writes down that a root is about to be made.
    pub(crate) fn root_begins(&self, id: &str) -> Result<()> {
        self.inner.shared.store.write::<_, Error>(Durability::Process, |tx| Ok(ROOTS.put(tx, id, &())?))
    }

    /// A root is gone.
    pub(crate) fn root_ended(&self, id: &str) -> Result<()> {
        self.inner.shared.store.write::<_, Error>(Durability::Process, |tx| Ok(ROOTS.delete(tx, id).map(drop)?))
    }

    /// Roots that an earlier daemon left.
    pub(crate) fn roots(&self) -> Result<Vec<String>> {
        let found = self.inner.shared.store.read::<_, Error>(|tx| Ok(ROOTS.all(tx)?))?;
        Ok(found.into_iter().map(|(id, ())| id).collect())
    }
}

/// Makes a directory with the files of another unless it is there. It gets its name when it is whole.
fn make(path: &Path, mode: u32, user: (u32, u32), seed: Option<&Path>) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    if path.is_dir() {
        return Ok(());
    }
    let wrong = |error: std::io::Error| Error::internal(format!("make a cache directory: {error}"));
    let new = path.with_extension(MAKING);
    if let Some(parent) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(wrong)?;
    }
    // One that a killed daemon left.
    match std::fs::remove_dir_all(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(wrong(error)),
        _ => {}
    }
    let begin = || {
        std::fs::create_dir(&new)?;
        std::os::unix::fs::chown(&new, Some(user.0), Some(user.1))?;
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(mode & 0o7777))
    };
    begin().map_err(wrong)?;
    if let Some(seed) = seed {
        copy_tree(seed, &new)?;
    }
    std::fs::rename(&new, path).map_err(wrong)
}

/// Bytes of all files below a directory.
fn size(path: &Path) -> u64 {
    let mut total = 0;
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                folders.push(entry.path());
            } else {
                total += meta.len();
            }
        }
    }
    total
}
