//! Machine code of components, made once and kept.
//!
//! What lies there is run by the host as it is, so only root's own files in a directory that only root can enter are
//! taken; anything else is compiled anew. An entry is named by the component's content and by everything that its code
//! depends on (version, configuration, processor).

use std::fs::{self, File, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::host;

/// The directory.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    compatible: String,
    usable: bool,
}

/// The content hash of a component.
pub fn digest(component: &[u8]) -> String {
    use std::fmt::Write;
    Sha256::digest(component).iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Hashes with the same hash for each run, which the standard library's do not promise.
struct Stable(Sha256);

impl Hasher for Stable {
    fn finish(&self) -> u64 {
        let bytes = self.0.clone().finalize();
        bytes.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

impl Cache {
    /// Opens or makes the directory.
    pub fn open(folder: PathBuf, engine: &Engine) -> Self {
        let mut hasher = Stable(Sha256::new());
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        let usable = made.is_ok() && is_own(&folder, true);
        if !usable {
            tracing::warn!(folder = %folder.display(), "only root may be able to enter the directory of drivers' machine code; drivers are compiled at every start");
        }
        Self { folder, compatible: format!("{:016x}", hasher.finish()), usable }
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.folder.join(format!("{digest}-{}.cwasm", self.compatible))
    }

    /// Whether there is code for a component already.
    pub fn has(&self, digest: &str) -> bool {
        self.usable && is_own(&self.path(digest), false)
    }

    /// The code of a component, compiled if there is none.
    pub fn load(&self, engine: &Engine, digest: &str, component: &[u8]) -> wasmtime::Result<Component> {
        let path = self.path(digest);
        if self.has(digest) {
            match load_file(engine, &path) {
                Ok(loaded) => return Ok(loaded),
                Err(error) => {
                    tracing::warn!(path = %path.display(), "machine code of a driver cannot be used: {error:#}")
                }
            }
        }
        let code = compile(component)?;
        if self.usable {
            match keep(&path, &code) {
                Ok(()) => return load_file(engine, &path),
                Err(error) => tracing::warn!(path = %path.display(), "keep machine code of a driver: {error}"),
            }
        }
        load_bytes(engine, &code)
    }

    /// Removes what no driver uses any more, and what another version left.
    pub fn keep_only(&self, digests: &[String]) {
        let wanted: Vec<PathBuf> = digests.iter().map(|digest| self.path(digest)).collect();
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let gone = match path.extension().and_then(|extension| extension.to_str()) {
                Some("cwasm") => !wanted.contains(&path),
                // Another daemon may be about to rename it.
                Some("new") => entry.metadata().and_then(|found| found.modified()).is_ok_and(is_old),
                _ => false,
            };
            if self.usable && gone {
                let _ = fs::remove_file(path);
            }
        }
    }
}

fn is_old(time: SystemTime) -> bool {
    time.elapsed().is_ok_and(|age| age > Duration::from_secs(600))
}

/// Whether something belongs to this user alone.
fn is_own(path: &Path, folder: bool) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    fs::symlink_metadata(path).is_ok_and(|found| {
        let kind = if folder {
            found.is_dir() && found.mode() & 0o077 == 0
        } else {
            found.is_file() && found.mode() & 0o022 == 0
        };
        kind && found.uid() == own
    })
}

/// Compiles with an engine of its own, whose compiler goes when it is done.
fn compile(component: &[u8]) -> wasmtime::Result<Vec<u8>> {
    let code = Engine::new(&host::config())?.precompile_component(component)?;
    give_back_memory();
    Ok(code)
}

/// The compiler leaves tens of megabytes of free pieces behind, which an idle daemon need not hold.
fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code)]
    // SAFETY: only asks the allocator to return free pages.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn keep(path: &Path, code: &[u8]) -> io::Result<()> {
    let new = path.with_extension(format!("{}.new", std::process::id()));
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let written = file.write_all(code).and_then(|()| file.sync_all());
    if let Err(error) = written.and_then(|()| fs::rename(&new, path)) {
        let _ = fs::remove_file(&new);
        return Err(error);
    }
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[allow(unsafe_code)]
fn load_file(engine: &Engine, path: &Path) -> wasmtime::Result<Component> {
    // SAFETY: the file is this user's own, in a directory that nobody else can enter, and was written by `keep`, whole,
    // from what the compiler made; the engine checks that version, configuration and processor fit.
    unsafe { Component::deserialize_file(engine, path) }
}

#[allow(unsafe_code)]
fn load_bytes(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the bytes are what the compiler made just now.
    unsafe { Component::deserialize(engine, code) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn code_is_kept_and_a_foreign_directory_is_not_trusted() {
        let folder = tempfile::tempdir().unwrap();
        let engine = Engine::new(&host::config()).unwrap();
        let component = wat::parse_str("(component)").unwrap();
        let name = digest(&component);
        let cache = Cache::open(folder.path().join("code"), &engine);
        assert!(!cache.has(&name));
        cache.load(&engine, &name, &component).unwrap();
        assert!(cache.has(&name));
        cache.load(&engine, &name, &component).unwrap();

        // Others could have written there.
        fs::set_permissions(cache.path(&name), fs::Permissions::from_mode(0o666)).unwrap();
        assert!(!cache.has(&name));
        fs::set_permissions(cache.path(&name), fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(folder.path().join("code"), fs::Permissions::from_mode(0o755)).unwrap();
        let open = Cache::open(folder.path().join("code"), &engine);
        assert!(!open.has(&name));
        open.load(&engine, &name, &component).unwrap();

        // Junk in place of code is compiled anew.
        fs::set_permissions(folder.path().join("code"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(cache.path(&name), b"junk").unwrap();
        cache.load(&engine, &name, &component).unwrap();
        cache.keep_only(&[]);
        assert!(!cache.has(&name));
    }
}
