//! What tests share: a layer driver of plain folders, and archives made by hand.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tar::EntryType;

use crate::backend::{BackendError, LayerBackend, Whiteouts};
use crate::digest::ChainId;
use crate::store::ImageStore;
use crate::tar_writer::{Head, TarWriter};

/// Layers as folders; in the full-tree form each begins as a copy of the one below.
pub struct Folders {
    pub root: PathBuf,
    pub form: Whiteouts,
}

impl Folders {
    pub fn path(&self, chain: &ChainId) -> PathBuf {
        self.root.join(chain.0.hex())
    }
}

impl LayerBackend for Folders {
    fn whiteouts(&self) -> Result<Whiteouts, BackendError> {
        Ok(self.form)
    }

    fn prepare(&self, chain: &ChainId, parents: &[ChainId]) -> Result<PathBuf, BackendError> {
        let path = self.path(chain);
        if !path.exists() {
            let result = match parents.first().filter(|_| self.form == Whiteouts::Remove) {
                None => fs::create_dir_all(&path),
                Some(parent) => {
                    let status = std::process::Command::new("cp").arg("-a").arg(self.path(parent)).arg(&path).status();
                    status.map(drop)
                }
            };
            result.map_err(|error| BackendError(error.to_string()))?;
        }
        Ok(path)
    }

    fn remove(&self, chain: &ChainId) -> Result<(), BackendError> {
        drop(fs::remove_dir_all(self.path(chain)));
        Ok(())
    }
}

/// A store in a folder of its own.
pub struct Fixture {
    pub folder: tempfile::TempDir,
    pub backend: Arc<Folders>,
    pub images: ImageStore,
}

impl Fixture {
    pub fn new(form: Whiteouts) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let backend = Arc::new(Folders { root: folder.path().join("layers"), form });
        let images = Self::open(folder.path(), &backend);
        Self { folder, backend, images }
    }

    pub fn open(folder: &Path, backend: &Arc<Folders>) -> ImageStore {
        let store = sampan_store::Store::open(&folder.join("state.db")).unwrap();
        ImageStore::open(&folder.join("images"), store, backend.clone()).unwrap()
    }

    /// Nothing but what belongs to the given number of layers and blobs.
    pub fn assert_holds(&self, layers: usize, blobs: usize) {
        self.images.settle();
        let count = |path: PathBuf| fs::read_dir(path).map_or(0, Iterator::count);
        assert_eq!(count(self.backend.root.clone()), layers, "layers");
        assert_eq!(count(self.folder.path().join("images/blobs/sha256")), blobs, "blobs");
        assert_eq!(count(self.folder.path().join("images/blobs/tmp")), 0, "scratch files");
    }
}

/// Writes archives entry by entry.
pub struct Archive(TarWriter<Vec<u8>>);

impl Archive {
    pub fn new() -> Self {
        Self(TarWriter::new(Vec::new()))
    }

    pub fn add(mut self, head: &Head<'_>) -> Self {
        self.0.entry(head, None).unwrap();
        self
    }

    pub fn file(mut self, path: &str, content: &str) -> Self {
        let head = Head { path: path.as_bytes(), size: content.len() as u64, mtime: 1_000, ..Head::default() };
        self.0.entry(&head, Some(&mut content.as_bytes())).unwrap();
        self
    }

    pub fn dir(self, path: &str) -> Self {
        self.add(&Head {
            kind: EntryType::Directory,
            path: path.as_bytes(),
            mode: 0o755,
            mtime: 2_000,
            ..Head::default()
        })
    }

    pub fn link(self, kind: EntryType, path: &str, target: &str) -> Self {
        self.add(&Head { kind, path: path.as_bytes(), link: target.as_bytes(), mode: 0o777, ..Head::default() })
    }

    pub fn done(self) -> Vec<u8> {
        self.0.finish().unwrap()
    }
}

/// A tree in words: one line an entry, sorted.
pub fn describe(root: &Path) -> Vec<String> {
    fn walk(root: &Path, path: &Path, lines: &mut Vec<String>) {
        let mut entries: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for entry in entries {
            // An overlay lists a whiteout that hides nothing, and then says that nothing is there.
            let Ok(metadata) = fs::symlink_metadata(&entry) else { continue };
            let kind = metadata.file_type();
            let what = if kind.is_dir() {
                "dir".to_owned()
            } else if kind.is_symlink() {
                format!("-> {}", fs::read_link(&entry).unwrap().display())
            } else if kind.is_file() {
                format!("{:?}", String::from_utf8_lossy(&fs::read(&entry).unwrap()))
            } else {
                format!("node {:o} {}", metadata.mode() & libc::S_IFMT, metadata.rdev())
            };
            let mode = if kind.is_symlink() { 0 } else { metadata.permissions().mode() & 0o7777 };
            let links = if kind.is_dir() { 0 } else { metadata.nlink() };
            // A whiteout's time means nothing, and is that of its making.
            let whiteout = kind.is_char_device() && metadata.rdev() == 0;
            let time = if whiteout { 0 } else { metadata.mtime() };
            let name = entry.strip_prefix(root).unwrap().display().to_string();
            lines.push(format!("{name} {mode:o} {}:{} @{time} x{links} {what}", metadata.uid(), metadata.gid()));
            if kind.is_dir() {
                walk(root, &entry, lines);
            }
        }
    }
    let mut lines = Vec::new();
    walk(root, root, &mut lines);
    lines
}
