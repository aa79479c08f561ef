//! The directories of cache mounts: made once, shared or locked as steps ask, listed and pruned one by one.
//!
//! A directory has its name, the digest of the mount's id, once it is whole. When it was last used stands in the
//! database; it goes only under the lock under which it is handed out.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sampan_build::mount::Sharing;
use sampan_image::{Digest, timestamp};
use sampan_storage::{remove_tree, tree_size};
use sampan_store::{Collection, Durability};
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;

use super::run::copy_tree;
use crate::Shared;
use crate::error::{Error, Result};

/// By the names of their directories.
const MOUNTS: Collection<Row> = Collection::new("build-mounts");
/// What the name of a directory ends with until it is whole, and while it goes.
const MAKING: &str = "new";
const GOING: &str = "gone";

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Row {
    /// As steps call it.
    id: String,
    /// Nanoseconds since 1970.
    created: i64,
    last_used: i64,
    uses: u64,
}

/// A directory that is handed out, and what keeps others out of it.
#[derive(Debug)]
pub(crate) struct CacheFolder {
    /// Where it is.
    pub path: PathBuf,
    /// Made for one step that found the shared one taken; it goes with the value.
    alone: bool,
    _lock: Option<OwnedMutexGuard<()>>,
}

impl Drop for CacheFolder {
    fn drop(&mut self) {
        if self.alone
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(folder = %self.path.display(), %error, "a cache directory of one step stays until it is pruned");
        }
    }
}

/// What is known of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Of the directory.
    pub name: String,
    /// As steps call it; empty if that is not known.
    pub id: String,
    /// Nanoseconds since 1970.
    pub created: i64,
    pub last_used: i64,
    pub uses: u64,
    /// Bytes of its files.
    pub size: u64,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Mounts {
    shared: Arc<Shared>,
    /// By directory.
    locks: Mutex<HashMap<PathBuf, Arc<tokio::sync::Mutex<()>>>>,
    private: AtomicU64,
}

impl Mounts {
    pub fn open(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared), locks: Mutex::default(), private: AtomicU64::new(0) }
    }

    fn folder(&self) -> PathBuf {
        self.shared.config.root.join("build-cache")
    }

    fn lock(&self, path: &Path) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(path.to_owned()).or_default())
    }

    /// Held by whoever makes a directory, hands it out or takes it away.
    fn making(&self, path: &Path) -> Arc<tokio::sync::Mutex<()>> {
        self.lock(&path.with_extension(MAKING))
    }

    /// The directory of a cache mount, made if it is not there with the files of `seed` in it. Of several who want a new
    /// one at once all find it whole.
    pub async fn take(
        &self,
        id: &str,
        sharing: Sharing,
        mode: u32,
        user: (u32, u32),
        seed: Option<PathBuf>,
    ) -> Result<CacheFolder> {
        let name = Digest::of(id.as_bytes()).hex();
        let mut path = self.folder().join(&name);
        let lock = self.lock(&path);
        let mut alone = false;
        let guard = match sharing {
            Sharing::Shared => None,
            Sharing::Locked => Some(lock.lock_owned().await),
            Sharing::Private => match lock.try_lock_owned() {
                Ok(guard) => Some(guard),
                // Someone else is in it: one of its own, that no one finds again.
                Err(_) => {
                    let number = self.private.fetch_add(1, Ordering::Relaxed);
                    path = self.folder().join(format!("{name}-{:x}-{number}", timestamp::now()));
                    alone = true;
                    None
                }
            },
        };
        let making = self.making(&path).lock_owned().await;
        let (at, store, id) = (path.clone(), self.shared.store.clone(), id.to_owned());
        crate::blocking(move || {
            // Whoever gives up waiting leaves this to its end all the same.
            let _making = making;
            make(&at, mode, user, seed.as_deref())?;
            if alone {
                return Ok(());
            }
            let now = timestamp::now();
            store.write::<_, Error>(Durability::Process, |tx| {
                let known = MOUNTS.get(tx, &name)?.unwrap_or(Row { created: now, ..Row::default() });
                Ok(MOUNTS.put(tx, &name, &Row { id, last_used: now, uses: known.uses + 1, ..known })?)
            })
        })
        .await?;
        Ok(CacheFolder { path, alone, _lock: guard })
    }

    /// What is there. Blocks: files are counted.
    pub fn all(&self) -> Result<Vec<Mount>> {
        let rows: HashMap<String, Row> =
            self.shared.store.read::<_, Error>(|tx| Ok(MOUNTS.all(tx)?))?.into_iter().collect();
        let mut all = Vec::new();
        for entry in fs::read_dir(self.folder()).into_iter().flatten().flatten() {
            let (Ok(name), Ok(meta)) = (entry.file_name().into_string(), entry.metadata()) else { continue };
            // One without a row is of an older engine, or of one that was killed.
            let made = meta.mtime().saturating_mul(1_000_000_000);
            let row = rows.get(&name).cloned().unwrap_or(Row { created: made, last_used: made, ..Row::default() });
            let Row { id, created, last_used, uses } = row;
            all.push(Mount { size: tree_size(&entry.path()), name, id, created, last_used, uses });
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// Removes a directory unless it was used after `limit`; whether it went. Blocks.
    pub fn remove(&self, mount: &Mount, limit: i64) -> Result<bool> {
        let path = self.folder().join(&mount.name);
        let _making = self.making(&path).blocking_lock_owned();
        let row = self.shared.store.read::<_, Error>(|tx| Ok(MOUNTS.get(tx, &mount.name)?))?;
        if row.is_some_and(|row| row.last_used > limit) {
            return Ok(false);
        }
        let wrong = |error: io::Error| Error::internal(format!("remove the directory of a cache mount: {error}"));
        let going = path.with_extension(GOING);
        // What an interrupted removal left.
        remove_tree(&going).map_err(wrong)?;
        match fs::rename(&path, &going) {
            // What is not there need not go.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => renamed.map_err(wrong)?,
        }
        self.shared.store.write::<_, Error>(Durability::Process, |tx| Ok(MOUNTS.delete(tx, &mount.name)?))?;
        remove_tree(&going).map_err(wrong)?;
        Ok(true)
    }
}

/// Makes a directory with the files of another unless it is there. It gets its name when it is whole.
fn make(path: &Path, mode: u32, user: (u32, u32), seed: Option<&Path>) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    if path.is_dir() {
        return Ok(());
    }
    let wrong = |error: io::Error| Error::internal(format!("make a cache directory: {error}"));
    let new = path.with_extension(MAKING);
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(wrong)?;
    }
    // One that a killed daemon left.
    remove_tree(&new).map_err(wrong)?;
    let begin = || {
        fs::create_dir(&new)?;
        std::os::unix::fs::chown(&new, Some(user.0), Some(user.1))?;
        fs::set_permissions(&new, fs::Permissions::from_mode(mode & 0o7777))
    };
    begin().map_err(wrong)?;
    if let Some(seed) = seed {
        copy_tree(seed, &new)?;
    }
    fs::rename(&new, path).map_err(wrong)
}
