//! COPY and ADD on files: what a source names, what it contains, and how it lands in a root.
//!
//! Both trees are walked by descriptor and within their roots. Collecting comes first, because the contents make the
//! key of the step; only when the key is new is anything written.

mod collect;
mod land;

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Mutex;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag};
use sampan_image::tree::{self, Tree};

use crate::cache::KeyWriter;
use crate::dockerignore::Ignore;
use crate::error::FileError;
use crate::extract::{Digests, ExtractError};

pub use collect::collect;
pub use land::{Landing, land, land_inline};

/// A tree that is copied from.
#[derive(Debug)]
pub struct Origin<'a> {
    /// Its directory.
    pub root: &'a Path,
    /// What does not count.
    pub ignore: Option<&'a Ignore>,
    /// Digests that are known already; new ones are added.
    pub digests: &'a Mutex<Digests>,
    /// Owners, attributes and hard links are kept: a stage or an image. Of a context everything is root's.
    pub keep: bool,
    /// For messages: `the build context`, `the stage build`.
    pub label: &'a str,
}

/// What a source pattern may be told.
#[derive(Debug, Default)]
pub struct Selection {
    /// `--exclude`.
    pub exclude: Ignore,
    /// `--parents`.
    pub parents: bool,
}

/// One thing that a source named.
#[derive(Debug, Clone)]
pub struct Match {
    /// Its last name.
    name: Vec<u8>,
    /// The directories to make above it, with `--parents`.
    above: Vec<u8>,
    directory: bool,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    /// Below the match; empty for the match itself.
    below: Vec<u8>,
    /// In the tree, without links on the way.
    path: Vec<u8>,
    kind: Kind,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, u32),
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Device and inode of a file with several names.
    linked: Option<(u64, u64)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    File { digest: [u8; 32] },
    Directory,
    Symlink(Vec<u8>),
    Node { flag: SFlag, device: u64 },
}

/// Why a copy failed.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The Dockerfile names what is not there, or what cannot be copied so.
    #[error("{0}")]
    Source(String),
    /// An archive of ADD.
    #[error("{archive}: {source}")]
    Archive {
        archive: String,
        #[source]
        source: Box<ExtractError>,
    },
    /// A file cannot be read or written.
    #[error("{0}")]
    File(#[from] FileError),
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn join(above: &[u8], name: &[u8]) -> Vec<u8> {
    match (above.is_empty(), name.is_empty()) {
        (true, _) => name.to_vec(),
        (_, true) => above.to_vec(),
        _ => [above, b"/", name].concat(),
    }
}

/// How many links are followed for one name.
const MAX_LINKS: usize = 40;

/// Follows every link of a name inside the tree. The name without links and what is there; `None` where nothing is.
pub fn resolve(tree: &mut Tree, path: &[u8]) -> io::Result<(Vec<u8>, Option<FileStat>)> {
    let mut rest: Vec<Vec<u8>> = path.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec).collect();
    let mut reached: Vec<u8> = Vec::new();
    let mut links = 0;
    while let Some(part) = rest.pop() {
        match part.as_slice() {
            b"" | b"." => continue,
            b".." => {
                reached = tree::split(&reached).0.to_vec();
                continue;
            }
            _ => {}
        }
        let folder = match tree.folder(&reached) {
            Ok(folder) => folder,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok((join(&reached, &part), None)),
            Err(error) => return Err(error.into()),
        };
        let Some(stat) = tree::stat(&*folder, &part)? else {
            rest.reverse();
            let missing = rest.iter().fold(join(&reached, &part), |path, each| join(&path, each));
            return Ok((missing, None));
        };
        if tree::format(&stat) != libc::S_IFLNK {
            reached = join(&reached, &part);
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(Errno::ELOOP.into());
        }
        let target = tree::read_link(&*folder, &part)?;
        if target.starts_with(b"/") {
            reached.clear();
        }
        rest.extend(target.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec));
    }
    let (parent, last) = tree::split(&reached);
    let folder = match tree.folder(parent) {
        Ok(folder) => folder,
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok((reached, None)),
        Err(error) => return Err(error.into()),
    };
    let stat = tree::stat(&*folder, if last.is_empty() { b"." } else { last })?;
    Ok((reached, stat))
}

fn open(folder: &tree::Folder, name: &[u8]) -> nix::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    openat(folder, name, flags, Mode::empty()).map(File::from)
}

/// Adds what was collected to a key: everything but times.
pub fn hash_into(key: &mut KeyWriter, matches: &[Match]) {
    key.number(matches.len() as u64);
    for found in matches {
        key.bytes(&found.name).bytes(&found.above).number(found.directory.into()).number(found.entries.len() as u64);
        for entry in &found.entries {
            key.bytes(&entry.below).number(entry.mode.into());
            key.number(entry.owner.0.into()).number(entry.owner.1.into());
            match &entry.kind {
                Kind::File { digest } => key.text("f").bytes(digest),
                Kind::Directory => key.text("d"),
                Kind::Symlink(target) => key.text("l").bytes(target),
                Kind::Node { flag, device } => key.text("n").number(flag.bits().into()).number(*device),
            };
            key.number(entry.xattrs.len() as u64);
            for (name, value) in &entry.xattrs {
                key.bytes(name).bytes(value);
            }
        }
    }
}

#[cfg(test)]
mod tests;
