//! The files that a build may copy: an uploaded tar in a scratch folder, or a directory of the host.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use sampan_image::Decompress;
use sampan_image::tree::{self, Tree};

use crate::copy::{Landing, Origin, Selection, collect, land};
use crate::dockerignore::Ignore;
use crate::error::{BuildError, Result};
use crate::extract::{Digests, Rules, extract};
use crate::lines::MAX_FILE;
use crate::pattern::clean;

/// A context. An uploaded one is removed with the value.
#[derive(Debug)]
pub struct Context {
    root: PathBuf,
    ignore: Ignore,
    digests: Mutex<Digests>,
    _scratch: Option<Scratch>,
    /// Of a directory of the host: where a copy without what is ignored may be made, and that copy.
    copies_in: Option<PathBuf>,
    copy: Mutex<Option<Scratch>>,
}

/// A folder that goes with the value.
#[derive(Debug)]
pub struct Scratch(PathBuf);

static NEXT: AtomicU64 = AtomicU64::new(0);

impl Scratch {
    /// A new folder below `parent`, for root alone.
    pub fn new(parent: &Path) -> std::io::Result<Self> {
        let time = sampan_image::timestamp::now();
        let path = parent.join(format!("build-{time:x}-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "a build's scratch folder was left behind");
        }
    }
}

fn open_to_all(folder: &Path) -> std::io::Result<()> {
    std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755))
}

impl Context {
    /// Unpacks an uploaded tar, compressed or not, below `scratch`. Blocks.
    pub fn receive(reader: impl Read, scratch: &Path) -> Result<Self> {
        let wrong = |error: &dyn std::fmt::Display| BuildError::Context(error.to_string());
        let scratch = Scratch::new(scratch).map_err(|error| BuildError::Backend(format!("scratch folder: {error}")))?;
        let root = scratch.path().to_owned();
        let mut tree = Tree::open(&root).map_err(|error| wrong(&error))?;
        let rules = Rules {
            owner: Some((nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())),
            hash: true,
            ..Rules::default()
        };
        let reader = Decompress::new(reader).map_err(|error| wrong(&error))?;
        let digests = extract(reader, &mut tree, b"", &rules).map_err(|error| wrong(&error))?;
        // Mounted, it is seen by programs of any user; on the host it lies below a folder that is root's.
        open_to_all(&root).map_err(|error| wrong(&error))?;
        Ok(Self::new(root, digests, Some(scratch)))
    }

    /// A directory of the host, read where it is.
    #[must_use]
    pub fn directory(root: PathBuf) -> Self {
        Self::new(root, Digests::default(), None)
    }

    /// The same; copies of it are made below `scratch`.
    #[must_use]
    pub fn directory_with(root: PathBuf, scratch: PathBuf) -> Self {
        Self { copies_in: Some(scratch), ..Self::directory(root) }
    }

    fn new(root: PathBuf, digests: Digests, scratch: Option<Scratch>) -> Self {
        let (digests, copy) = (Mutex::new(digests), Mutex::default());
        Self { root, ignore: Ignore::default(), digests, _scratch: scratch, copies_in: None, copy }
    }

    /// Where the context can be mounted from: nothing that is ignored may be seen there. Blocks.
    pub fn mountable(&self) -> Result<PathBuf> {
        let Some(parent) = self.copies_in.as_ref().filter(|_| !self.ignore.is_empty()) else {
            return Ok(self.root.clone());
        };
        let mut copy = self.copy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(copy) = &*copy {
            return Ok(copy.path().to_owned());
        }
        let wrong = |error: &dyn std::fmt::Display| BuildError::Context(format!("copy it to be mounted: {error}"));
        let scratch = Scratch::new(parent).map_err(|error| wrong(&error))?;
        let landing =
            Landing { dest: "/".to_owned(), folder: true, owner: None, mode: None, unpack: false, time: (0, 0) };
        let matches = collect(&self.origin(), "/", &Selection::default()).map_err(|error| wrong(&error))?;
        land(&self.origin(), &matches, scratch.path(), &landing).map_err(|error| wrong(&error))?;
        open_to_all(scratch.path()).map_err(|error| wrong(&error))?;
        Ok(copy.insert(scratch).path().to_owned())
    }

    /// What was fetched into a folder of its own, which goes with the value.
    #[must_use]
    pub fn scratch(scratch: Scratch) -> Self {
        let root = scratch.path().to_owned();
        Self::new(root, Digests::default(), Some(scratch))
    }

    /// The same, of which only a directory below counts; links are followed inside. Blocks.
    pub fn below(mut self, folder: &str) -> Result<Self> {
        let wrong = |error: &dyn std::fmt::Display| BuildError::Context(format!("{folder}: {error}"));
        let mut tree = Tree::open(&self.root).map_err(|error| wrong(&error))?;
        let (path, stat) = crate::copy::resolve(&mut tree, folder.as_bytes()).map_err(|error| wrong(&error))?;
        if stat.is_none_or(|stat| tree::format(&stat) != libc::S_IFDIR) {
            return Err(wrong(&"is not a directory there"));
        }
        self.root.push(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&path));
        Ok(self)
    }

    /// A text file of the context, links followed inside it; `None` when there is none. Blocks.
    pub fn read_text(&self, path: &str) -> Result<Option<String>> {
        let wrong = |error: &dyn std::fmt::Display| BuildError::Context(format!("{path}: {error}"));
        let cleaned = clean(path.trim_start_matches('/'));
        if cleaned == ".." || cleaned.starts_with("../") {
            return Err(wrong(&"lies outside the build context"));
        }
        let mut tree = Tree::open(&self.root).map_err(|error| wrong(&error))?;
        let (found, stat) = crate::copy::resolve(&mut tree, cleaned.as_bytes()).map_err(|error| wrong(&error))?;
        match stat {
            None => return Ok(None),
            Some(stat) if tree::format(&stat) == libc::S_IFREG => {}
            Some(_) => return Err(wrong(&"is not a file")),
        }
        let (parent, last) = tree::split(&found);
        let folder = tree.folder(parent).map_err(|error| wrong(&error))?;
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&*folder, last, flags, Mode::empty()).map_err(|error| wrong(&error))?;
        let mut bytes = Vec::new();
        let limit = MAX_FILE as u64 + 1;
        std::fs::File::from(file).take(limit).read_to_end(&mut bytes).map_err(|error| wrong(&error))?;
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(wrong(&"is binary, not text")),
        }
    }

    /// The Dockerfile, by its name in the context.
    pub fn dockerfile(&self, name: &str) -> Result<String> {
        if let Some(text) = self.read_text(name)? {
            return Ok(text);
        }
        // Docker reads a file of the old spelling too.
        if name == "Dockerfile"
            && let Some(text) = self.read_text("dockerfile")?
        {
            return Ok(text);
        }
        Err(BuildError::Context(format!("there is no file {name}; name the Dockerfile with -f")))
    }

    /// Reads `NAME.dockerignore` or `.dockerignore`.
    pub fn read_ignore(&mut self, dockerfile: &str) -> Result<()> {
        for name in [format!("{dockerfile}.dockerignore"), ".dockerignore".to_owned()] {
            if let Some(text) = self.read_text(&name)? {
                self.ignore = rules(&name, &text)?;
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes a text as its `.dockerignore`.
    pub fn set_ignore(&mut self, text: &str) -> Result<()> {
        self.ignore = rules(".dockerignore", text)?;
        Ok(())
    }

    /// What does not count of it.
    #[must_use]
    pub fn ignore(&self) -> &Ignore {
        &self.ignore
    }

    /// What COPY sees.
    #[must_use]
    pub fn origin(&self) -> Origin<'_> {
        Origin {
            root: &self.root,
            ignore: Some(&self.ignore),
            digests: &self.digests,
            keep: false,
            label: "the build context",
        }
    }

    /// Where it is on the host.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// The rules of a `.dockerignore`, which is called `name`.
pub fn rules(name: &str, text: &str) -> Result<Ignore> {
    Ignore::parse(text).map_err(|error| BuildError::Context(format!("{name}: {error}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_uploaded_context_is_read_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let mut builder = tar::Builder::new(Vec::new());
        for (name, text) in [("Dockerfile", "FROM scratch\n"), (".dockerignore", "secret\n"), ("bin", "\u{1}")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            header.set_uid(7);
            header.set_gid(7);
            header.set_mtime(0);
            builder.append_data(&mut header, name, text.as_bytes()).unwrap();
        }
        let bytes = builder.into_inner().unwrap();
        let mut context = Context::receive(&bytes[..], folder.path()).unwrap();
        context.read_ignore("Dockerfile").unwrap();
        assert!(context.ignore.ignores("secret"));
        assert_eq!(context.dockerfile("Dockerfile").unwrap(), "FROM scratch\n");
        assert_eq!(
            context.dockerfile("Other").unwrap_err().to_string(),
            "build context: there is no file Other; name the Dockerfile with -f"
        );
        assert!(context.dockerfile("../x").unwrap_err().to_string().contains("outside the build context"));
        drop(context);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        Context::receive(&bytes[..100], folder.path()).unwrap_err();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
