//! Results of build steps, kept over builds.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use bollard_stubs::models::{BuildCache, BuildCacheTypeEnum};
use sampan_build::backend::Flights;
use sampan_build::cache::{Entry, Key};
use sampan_image::{ChainId, Digest, LayerRef, timestamp};
use sampan_store::{Collection, Durability};
use serde::{Deserialize, Serialize};

use super::mounts::{Mount, Mounts};
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
    mounts: Mounts,
    /// Builds that run, and when the first of them began.
    running: AtomicU64,
    since: AtomicI64,
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

    fn takes_mount(&self, mount: &Mount) -> bool {
        (self.ids.is_empty() || self.ids.iter().any(|id| mount.name.starts_with(id.as_str())))
            && self.shared.is_none_or(|shared| !shared)
            && self.description.as_deref().is_none_or(|part| mount.id.contains(part))
    }

    /// Mounts go when all goes, or when they are asked for.
    fn takes_mounts(&self) -> bool {
        match self.kind.as_deref() {
            None => self.all,
            Some(kind) => kind == "exec.cachemount",
        }
    }
}

pub(crate) fn nanoseconds(time: std::time::Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

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
                mounts: Mounts::open(shared),
                running: AtomicU64::new(0),
                since: AtomicI64::new(0),
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

    /// What is remembered, as `system df` shows it, and the directories of cache mounts. Blocks.
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
        let running = self.inner.running.load(Ordering::SeqCst) > 0;
        let since = self.inner.since.load(Ordering::SeqCst);
        all.extend(self.inner.mounts.all()?.into_iter().map(|mount| BuildCache {
            id: Some(mount.name),
            typ: Some(BuildCacheTypeEnum::EXEC_CACHEMOUNT),
            description: Some(format!("cache mount {}", mount.id)),
            in_use: Some(running && mount.last_used >= since),
            shared: Some(false),
            size: Some(i64::try_from(mount.size).unwrap_or(i64::MAX)),
            created_at: Some(timestamp::format(mount.created)),
            last_used_at: Some(timestamp::format(mount.last_used)),
            usage_count: Some(i64::try_from(mount.uses).unwrap_or(i64::MAX)),
            ..BuildCache::default()
        }));
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
        let mut mounts = match wanted.takes_mounts() {
            true => self.inner.mounts.all()?,
            false => Vec::new(),
        };
        let mut left = match wanted.keep {
            Some(_) => self.total(&found) + mounts.iter().map(|mount| mount.size).sum::<u64>(),
            None => 0,
        };
        mounts.retain(|mount| wanted.takes_mount(mount) && mount.last_used <= limit);
        mounts.sort_by_key(|mount| std::cmp::Reverse(mount.last_used));
        let (mut keys, mut freed) = (Vec::new(), 0);
        for (name, remembered) in found {
            // Directories of mounts go between results, by the same order.
            while let Some(mount) = mounts.pop_if(|mount| mount.last_used <= remembered.last_used) {
                self.prune_mount(&mount, limit, wanted.keep, (&mut left, &mut freed, &mut keys))?;
            }
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
        while let Some(mount) = mounts.pop() {
            self.prune_mount(&mount, limit, wanted.keep, (&mut left, &mut freed, &mut keys))?;
        }
        Ok((keys, freed))
    }

    fn prune_mount(
        &self,
        mount: &Mount,
        limit: i64,
        keep: Option<u64>,
        (left, freed, keys): (&mut u64, &mut u64, &mut Vec<String>),
    ) -> Result<()> {
        if keep.is_none_or(|keep| *left > keep) && self.inner.mounts.remove(mount, limit)? {
            *left = left.saturating_sub(mount.size);
            *freed += mount.size;
            keys.push(mount.name.clone());
        }
        Ok(())
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
            self.prune(&Prune { all: true, until, ..Prune::default() })?;
        }
        if config.build_cache_size.is_some() {
            let keep = config.build_cache_size;
            self.prune(&Prune { all: true, keep, ..Prune::default() })?;
        }
        Ok(())
    }

    /// The directories of cache mounts.
    pub(super) fn mounts(&self) -> &Mounts {
        &self.inner.mounts
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
