//! Packing directories into tars: the changes of a container as a layer, or a whole tree.
//!
//! Entries are in the order of their names, times in whole seconds as Docker writes them, and nothing depends on the
//! machine, so that the same tree gives the same bytes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, major, minor};
use tar::EntryType;

use crate::backend::ChangeView;
use crate::tar_writer::{Head, TarWriter};
use crate::tree;

/// What the engine itself puts into every container's root so that it can mount over it. As empty files or directories
/// they are nobody's change.
const ENGINE_MADE: &[&str] = &[
    ".dockerenv",
    "dev/console",
    "dev/pts",
    "dev/shm",
    "dev/mqueue",
    "etc/hostname",
    "etc/hosts",
    "etc/mtab",
    "etc/resolv.conf",
    "proc",
    "sys",
    "dev",
];

/// How a path differs from what lies below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChangeKind {
    /// It, or something in it, differs.
    Modified,
    /// It is new.
    Added,
    /// It is gone.
    Deleted,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// In which way.
    pub kind: ChangeKind,
    /// Absolute within the container.
    pub path: Vec<u8>,
}

/// A path at which packing failed.
#[derive(Debug, thiserror::Error)]
#[error("{path:?}: {step}: {source}")]
pub struct PackError {
    /// Within the tree.
    pub path: String,
    /// What was being done.
    pub step: &'static str,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

trait Step<T> {
    fn step(self, path: &[u8], step: &'static str) -> Result<T, PackError>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, path: &[u8], step: &'static str) -> Result<T, PackError> {
        self.map_err(|error| PackError { path: String::from_utf8_lossy(path).into_owned(), step, source: error.into() })
    }
}

fn open_root(path: &Path) -> Result<OwnedFd, PackError> {
    openat(AT_FDCWD, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .step(path.to_string_lossy().as_bytes(), "open")
}

/// A container's upper directory; `None` before it was first mounted, as then nothing has changed.
fn open_upper(path: &Path) -> Result<Option<OwnedFd>, PackError> {
    match openat(AT_FDCWD, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()) {
        Err(nix::errno::Errno::ENOENT) => Ok(None),
        other => other.map(Some).step(path.to_string_lossy().as_bytes(), "open"),
    }
}

fn open_folder(folder: impl AsFd, name: &[u8], path: &[u8]) -> Result<OwnedFd, PackError> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(folder, name, flags, Mode::empty()).step(path, "open")
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

struct Packer<W: Write> {
    tar: TarWriter<W>,
    /// First names of files that have several.
    links: HashMap<(u64, u64), Vec<u8>>,
}

/// Packs the whole tree, without an entry for the root itself.
pub fn pack_tree<W: Write>(root: &Path, out: W) -> Result<W, PackError> {
    let mut packer = Packer { tar: TarWriter::new(out), links: HashMap::new() };
    let folder = open_root(root)?;
    packer.whole(&folder, b"")?;
    packer.tar.finish().step(b"/", "write the archive")
}

/// Packs one entry of an open folder, with what is below it, under another name. `.` stands for the folder itself.
pub fn pack_entry<W: Write>(folder: &OwnedFd, name: &[u8], named: &[u8], out: W) -> Result<W, PackError> {
    let mut packer = Packer { tar: TarWriter::new(out), links: HashMap::new() };
    let Some(stat) = tree::stat(folder, name).step(named, "look at it")? else {
        return Err(io::Error::from(io::ErrorKind::NotFound)).step(named, "look at it");
    };
    packer.one(folder, name, named, &stat)?;
    if tree::format(&stat) == libc::S_IFDIR {
        packer.whole(&open_folder(folder, name, named)?, named)?;
    }
    packer.tar.finish().step(named, "write the archive")
}

/// Whether a folder shows what the kernel makes up, such as `/proc`: nothing to keep, and without end.
fn is_made_up(folder: &OwnedFd) -> bool {
    use nix::sys::statfs;
    // Those that nix has no name for: sysfs, devpts, mqueue, both versions of cgroups.
    const OTHERS: [u64; 5] = [0x6265_6572, 0x1cd1, 0x1980_0202, 0x0027_e0eb, 0x6367_7270];
    statfs::fstatfs(folder).is_ok_and(|found| {
        let kind = found.filesystem_type();
        kind == statfs::PROC_SUPER_MAGIC || OTHERS.contains(&(kind.0 as u64))
    })
}

/// Packs what changed, as a layer.
pub fn pack_changes<W: Write>(view: &ChangeView, out: W) -> Result<W, PackError> {
    let mut packer = Packer { tar: TarWriter::new(out), links: HashMap::new() };
    match view {
        ChangeView::Upper(upper) => {
            if let Some(folder) = open_upper(upper)? {
                packer.upper(&folder, b"")?;
            }
        }
        ChangeView::Compare(old, new) => {
            let mut found = Vec::new();
            compare(&open_root(old)?, &open_root(new)?, b"", &mut found)?;
            let new = open_root(new)?;
            packer.listed(&new, &found)?;
        }
    }
    packer.tar.finish().step(b"/", "write the archive")
}

impl<W: Write> Packer<W> {
    fn whole(&mut self, folder: &OwnedFd, path: &[u8]) -> Result<(), PackError> {
        if is_made_up(folder) {
            return Ok(());
        }
        for name in tree::names(folder.as_fd()).step(path, "list")? {
            let inner = join(path, &name);
            let Some(stat) = tree::stat(folder, &name).step(&inner, "look at it")? else { continue };
            self.one(folder, &name, &inner, &stat)?;
            if tree::format(&stat) == libc::S_IFDIR {
                self.whole(&open_folder(folder, &name, &inner)?, &inner)?;
            }
        }
        Ok(())
    }

    fn upper(&mut self, folder: &OwnedFd, path: &[u8]) -> Result<(), PackError> {
        for name in tree::names(folder.as_fd()).step(path, "list")? {
            let inner = join(path, &name);
            let Some(stat) = tree::stat(folder, &name).step(&inner, "look at it")? else { continue };
            if tree::is_whiteout(&stat) {
                self.whiteout(path, &name)?;
                continue;
            }
            if tree::format(&stat) != libc::S_IFDIR {
                if !engine_made(&inner, &stat) {
                    self.one(folder, &name, &inner, &stat)?;
                }
                continue;
            }
            let deeper = open_folder(folder, &name, &inner)?;
            refuse_redirect(folder, &name, &inner)?;
            if engine_made(&inner, &stat) && tree::names(deeper.as_fd()).step(&inner, "list")?.is_empty() {
                continue;
            }
            self.one(folder, &name, &inner, &stat)?;
            if is_opaque(folder, &name).step(&inner, "read an attribute")? {
                self.whiteout(&inner, b".wh..opq")?;
            }
            self.upper(&deeper, &inner)?;
        }
        Ok(())
    }

    fn listed(&mut self, root: &OwnedFd, changes: &[Change]) -> Result<(), PackError> {
        for change in changes {
            let path = &change.path[1..];
            let (parent, name) = tree::split(path);
            if change.kind == ChangeKind::Deleted {
                self.whiteout(parent, name)?;
                continue;
            }
            let folder =
                if parent.is_empty() { open_folder(root, b".", path)? } else { open_folder(root, parent, path)? };
            if let Some(stat) = tree::stat(&folder, name).step(path, "look at it")?
                && !(engine_made(path, &stat) && tree::format(&stat) != libc::S_IFDIR)
            {
                self.one(&folder, name, path, &stat)?;
            }
        }
        Ok(())
    }

    fn whiteout(&mut self, parent: &[u8], name: &[u8]) -> Result<(), PackError> {
        let path = join(parent, &[b".wh.", name].concat());
        self.tar.entry(&Head { path: &path, mode: 0o600, ..Head::default() }, None).step(&path, "write the archive")
    }

    /// One entry with its content.
    fn one(&mut self, folder: &OwnedFd, name: &[u8], path: &[u8], stat: &FileStat) -> Result<(), PackError> {
        let format = tree::format(stat);
        let mut head = Head {
            path,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: stat.st_mtime,
            ..Head::default()
        };
        if format != libc::S_IFDIR && stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                let first = first.clone();
                (head.kind, head.link) = (EntryType::Link, &first);
                return self.tar.entry(&head, None).step(path, "write the archive");
            }
            self.links.insert((stat.st_dev, stat.st_ino), path.to_vec());
        }
        let mut xattrs = tree::attributes(folder, name).step(path, "read its attributes")?;
        xattrs.retain(|(key, _)| !key.starts_with(b"trusted.overlay."));
        head.xattrs = &xattrs;
        let link;
        match format {
            libc::S_IFDIR => head.kind = EntryType::Directory,
            libc::S_IFLNK => {
                link = tree::read_link(folder, name).step(path, "read the link")?;
                (head.kind, head.link) = (EntryType::Symlink, &link);
            }
            libc::S_IFREG => {
                let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
                let mut file = File::from(openat(folder, name, flags, Mode::empty()).step(path, "open")?);
                head.size = u64::try_from(stat.st_size).unwrap_or(0);
                return self.tar.entry(&head, Some(&mut file)).step(path, "pack");
            }
            libc::S_IFCHR | libc::S_IFBLK => {
                head.kind = if format == libc::S_IFCHR { EntryType::Char } else { EntryType::Block };
                let part = |number: u64| u32::try_from(number).unwrap_or(0);
                head.device = (part(major(stat.st_rdev)), part(minor(stat.st_rdev)));
            }
            libc::S_IFIFO => head.kind = EntryType::Fifo,
            // A socket is nothing without its process.
            _ => return Ok(()),
        }
        self.tar.entry(&head, None).step(path, "write the archive")
    }
}

fn engine_made(path: &[u8], stat: &FileStat) -> bool {
    ENGINE_MADE.iter().any(|made| made.as_bytes() == path)
        && match tree::format(stat) {
            libc::S_IFREG => stat.st_size == 0,
            // Whether a directory is empty is for the caller to see.
            libc::S_IFDIR => true,
            libc::S_IFLNK => path == b"etc/mtab",
            _ => false,
        }
}

fn is_opaque(folder: impl AsFd, name: &[u8]) -> nix::Result<bool> {
    Ok(tree::get_attribute(folder, name, c"trusted.overlay.opaque")?.is_some_and(|value| value == b"y"))
}

/// Layers cannot say "renamed", so the layer driver must mount without it.
fn refuse_redirect(folder: impl AsFd, name: &[u8], path: &[u8]) -> Result<(), PackError> {
    match tree::get_attribute(folder, name, c"trusted.overlay.redirect").step(path, "read an attribute")? {
        None => Ok(()),
        Some(_) => Err(io::Error::from(io::ErrorKind::Unsupported))
            .step(path, "the directory was renamed within an overlay mounted with redirect_dir=on"),
    }
}

// ---- lists of changes ----

/// What changed, in the order of names; `lower` are the directories of the layers below, nearest first, which tell what
/// is new from what is modified (unused when trees are compared).
pub fn changes(view: &ChangeView, lower: &[PathBuf]) -> Result<Vec<Change>, PackError> {
    let mut found = Vec::new();
    match view {
        ChangeView::Upper(upper) => {
            let lower = lower.iter().map(|path| open_root(path)).collect::<Result<Vec<_>, _>>()?;
            let lower: Vec<_> = lower.iter().map(|fd| Some(fd.as_fd())).collect();
            if let Some(upper) = open_upper(upper)? {
                upper_changes(&upper, &lower, b"", &mut found)?;
            }
        }
        ChangeView::Compare(old, new) => {
            compare(&open_root(old)?, &open_root(new)?, b"", &mut found)?;
            let new = open_root(new)?;
            found.retain(|change| {
                let stat = tree::stat(&new, &change.path[1..]).ok().flatten();
                change.kind != ChangeKind::Added || !stat.is_some_and(|stat| engine_made(&change.path[1..], &stat))
            });
            drop_hollow(&mut found, |path| {
                let stats = [old_stat(old, path), tree::stat(&new, path).ok().flatten()];
                !matches!(stats, [Some(a), Some(b)] if tree::format(&b) == libc::S_IFDIR && same_folder(&a, &b))
            });
        }
    }
    Ok(found)
}

fn old_stat(root: &Path, path: &[u8]) -> Option<FileStat> {
    tree::stat(open_root(root).ok()?, path).ok().flatten()
}

/// A directory counts as modified for what is in it; when that was left out and it is the same itself, it is not.
fn drop_hollow(found: &mut Vec<Change>, differs: impl Fn(&[u8]) -> bool) {
    let mut keep = vec![true; found.len()];
    for at in (0..found.len()).rev() {
        if found[at].kind != ChangeKind::Modified {
            continue;
        }
        let below = [found[at].path.as_slice(), b"/"].concat();
        let filled = found[at + 1..]
            .iter()
            .zip(&keep[at + 1..])
            .take_while(|(change, _)| change.path.starts_with(&below))
            .any(|(_, keep)| *keep);
        keep[at] = filled || differs(&found[at].path[1..]);
    }
    let mut keep = keep.into_iter();
    found.retain(|_| keep.next().unwrap_or(true));
}

fn absolute(path: &[u8]) -> Vec<u8> {
    [b"/", path].concat()
}

/// `lower` are the folders of this name in the layers below, none where there is none or where it is hidden.
fn upper_changes(
    folder: &OwnedFd,
    lower: &[Option<std::os::fd::BorrowedFd<'_>>],
    path: &[u8],
    found: &mut Vec<Change>,
) -> Result<(), PackError> {
    for name in tree::names(folder.as_fd()).step(path, "list")? {
        let inner = join(path, &name);
        let Some(stat) = tree::stat(folder, &name).step(&inner, "look at it")? else { continue };
        let below = below(lower, &name).step(&inner, "look at the layers below")?;
        if tree::is_whiteout(&stat) {
            if below.is_some() {
                found.push(Change { kind: ChangeKind::Deleted, path: absolute(&inner) });
            }
            continue;
        }
        let kind = if below.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
        if tree::format(&stat) != libc::S_IFDIR {
            if !(below.is_none() && engine_made(&inner, &stat)) {
                found.push(Change { kind, path: absolute(&inner) });
            }
            continue;
        }
        let at = found.len();
        found.push(Change { kind, path: absolute(&inner) });
        let deeper = open_folder(folder, &name, &inner)?;
        let opaque = is_opaque(folder, &name).step(&inner, "read an attribute")?;
        let mut opened = Vec::new();
        for layer in lower {
            let next = layer.and_then(|layer| {
                let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                openat(layer, name.as_slice(), flags, Mode::empty()).ok()
            });
            // What stands before a directory of the same name hides those further below.
            let ends = match (&next, layer) {
                (Some(_), Some(layer)) => is_opaque(layer, &name).unwrap_or(false),
                (None, Some(layer)) => tree::stat(layer, &name).ok().flatten().is_some(),
                (_, None) => false,
            };
            opened.push(next);
            if ends {
                break;
            }
        }
        let visible: Vec<_> = opened.iter().map(|fd| fd.as_ref().map(AsFd::as_fd)).collect();
        if opaque {
            hidden_by_opaque(&deeper, &visible, &inner, found)?;
        }
        upper_changes(&deeper, if opaque { &[] } else { &visible }, &inner, found)?;
        let hollow = found.len() == at + 1;
        let same = below.is_some_and(|below| same_folder(&below, &stat));
        if hollow && (same || (kind == ChangeKind::Added && engine_made(&inner, &stat))) {
            found.truncate(at);
        }
    }
    Ok(())
}

fn same_folder(a: &FileStat, b: &FileStat) -> bool {
    (a.st_mode, a.st_uid, a.st_gid) == (b.st_mode, b.st_uid, b.st_gid)
}

fn below(lower: &[Option<std::os::fd::BorrowedFd<'_>>], name: &[u8]) -> nix::Result<Option<FileStat>> {
    for layer in lower.iter().flatten() {
        if let Some(stat) = tree::stat(layer, name)? {
            return Ok((!tree::is_whiteout(&stat)).then_some(stat));
        }
    }
    Ok(None)
}

/// An opaque directory replaced the one below: what that held and this does not is gone.
fn hidden_by_opaque(
    folder: &OwnedFd,
    lower: &[Option<std::os::fd::BorrowedFd<'_>>],
    path: &[u8],
    found: &mut Vec<Change>,
) -> Result<(), PackError> {
    let mut seen = std::collections::BTreeSet::new();
    for layer in lower.iter().flatten() {
        seen.extend(tree::names(*layer).step(path, "list the layers below")?);
    }
    for name in seen {
        let gone = tree::stat(folder, &name).step(path, "look at it")?.is_none();
        if gone && below(lower, &name).step(path, "look at the layers below")?.is_some() {
            found.push(Change { kind: ChangeKind::Deleted, path: absolute(&join(path, &name)) });
        }
    }
    Ok(())
}

/// Differences of two trees. A directory that differs only within is listed before what is in it.
fn compare(old: &OwnedFd, new: &OwnedFd, path: &[u8], found: &mut Vec<Change>) -> Result<(), PackError> {
    let before = tree::names(old.as_fd()).step(path, "list")?;
    let after = tree::names(new.as_fd()).step(path, "list")?;
    let mut names: Vec<_> = before.iter().chain(&after).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let inner = join(path, name);
        let was = tree::stat(old, name).step(&inner, "look at it")?;
        let is = tree::stat(new, name).step(&inner, "look at it")?;
        let (kind, was) = match (was, &is) {
            (None, None) => continue,
            (Some(_), None) => {
                found.push(Change { kind: ChangeKind::Deleted, path: absolute(&inner) });
                continue;
            }
            (None, Some(_)) => (ChangeKind::Added, None),
            (Some(was), Some(_)) => (ChangeKind::Modified, Some(was)),
        };
        let Some(is) = is else { continue };
        let folder = |stat: &FileStat| tree::format(stat) == libc::S_IFDIR;
        if !folder(&is) {
            let same = match &was {
                Some(was) => same_entry((old, was), (new, &is), name).step(&inner, "compare")?,
                None => false,
            };
            if !same {
                found.push(Change { kind, path: absolute(&inner) });
            }
            continue;
        }
        let deeper = open_folder(new, name, &inner)?;
        let at = found.len();
        found.push(Change { kind, path: absolute(&inner) });
        match &was {
            Some(was) if folder(was) => {
                compare(&open_folder(old, name, &inner)?, &deeper, &inner, found)?;
                let attributes = |root| tree::attributes(root, name).step(&inner, "read its attributes");
                if found.len() == at + 1 && same_folder(was, &is) && attributes(old)? == attributes(new)? {
                    found.truncate(at);
                }
            }
            _ => added(&deeper, &inner, found)?,
        }
    }
    Ok(())
}

fn added(folder: &OwnedFd, path: &[u8], found: &mut Vec<Change>) -> Result<(), PackError> {
    for name in tree::names(folder.as_fd()).step(path, "list")? {
        let inner = join(path, &name);
        found.push(Change { kind: ChangeKind::Added, path: absolute(&inner) });
        if tree::stat(folder, &name)
            .step(&inner, "look at it")?
            .is_some_and(|stat| tree::format(&stat) == libc::S_IFDIR)
        {
            added(&open_folder(folder, &name, &inner)?, &inner, found)?;
        }
    }
    Ok(())
}

/// By what can be seen without reading contents: kind, owner, mode, length, time, target, attributes.
fn same_entry(was: (&OwnedFd, &FileStat), is: (&OwnedFd, &FileStat), name: &[u8]) -> nix::Result<bool> {
    let (a, b) = (was.1, is.1);
    if !same_folder(a, b)
        || (a.st_size, a.st_mtime, a.st_mtime_nsec, a.st_rdev) != (b.st_size, b.st_mtime, b.st_mtime_nsec, b.st_rdev)
    {
        return Ok(false);
    }
    if tree::format(a) == libc::S_IFLNK && tree::read_link(was.0, name)? != tree::read_link(is.0, name)? {
        return Ok(false);
    }
    Ok(was.0.as_raw_fd() == is.0.as_raw_fd() || tree::attributes(was.0, name)? == tree::attributes(is.0, name)?)
}
