//! Unpacking a layer's tar into its directory.
//!
//! Every name is resolved within the directory and used by descriptor (see [`crate::tree`]); what leads out is refused
//! by name. Whiteouts act on what lies below the layer only.

mod gone;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::sys::stat::{FileStat, SFlag, makedev};

use crate::backend::Whiteouts;
use crate::tar_reader::{Entry, Kind, TarReader};
use crate::tree::{self, Folder, Tree};

const OPAQUE: &[u8] = b"trusted.overlay.opaque";
/// Attributes that would tell overlayfs where else to look.
const OVERLAY: &[u8] = b"trusted.overlay.";
/// How many links are followed through lower layers for one name.
const MAX_LINKS: usize = 40;

/// Fewer zeros than this are written as they are.
const LEAST_HOLE: usize = 64 << 10;

fn is_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    bytes.chunks(ZEROS.len()).all(|piece| piece == &ZEROS[..piece.len()])
}

/// What one archive may hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Names.
    pub entries: u64,
    /// Bytes of all files together.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 10_000_000, bytes: 1 << 40 }
    }
}

/// Where and how a layer is unpacked.
#[derive(Debug, Clone)]
pub struct Target {
    /// The layer's directory.
    pub root: PathBuf,
    /// The directories of the layers below, nearest first: where a folder that the archive does not mention takes its
    /// owner and mode from. `None` when they are not known yet. Unused when the directory is a full tree.
    pub lower: Option<Vec<PathBuf>>,
    /// The form of what is gone.
    pub whiteouts: Whiteouts,
    /// Bounds.
    pub limits: Limits,
}

/// Why an archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// An entry breaks a rule.
    #[error("{path:?}: {why}")]
    Entry {
        /// Its name.
        path: String,
        /// Which rule.
        why: String,
    },
    /// What the layers below hold would have to be known.
    #[error("it cannot be unpacked without the layers below it")]
    LowerUnknown,
    /// The archive cannot be read.
    #[error("{0}")]
    Archive(#[source] io::Error),
    /// The layer's directory cannot be written.
    #[error("{path:?}: {step}: {source}")]
    Write {
        /// The entry's name.
        path: String,
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn rule(path: &[u8], why: impl Into<String>) -> UnpackError {
    UnpackError::Entry { path: shown(path), why: why.into() }
}

/// A name whose folder is a link to something else: whoever wrote the archive did not see what it was to lie upon.
fn leads_to_none(path: &[u8], folder: &[u8]) -> UnpackError {
    rule(path, format!("its folder {:?} leads to what is no folder", shown(folder)))
}

trait Step<T> {
    fn step(self, path: &[u8], step: &'static str) -> Result<T, UnpackError>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, path: &[u8], step: &'static str) -> Result<T, UnpackError> {
        self.map_err(|error| UnpackError::Write { path: shown(path), step, source: error.into() })
    }
}

/// A directory's times and attributes, set when nothing changes it any more.
struct Finish {
    mtime: (i64, u32),
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

struct Unpack<'a> {
    tree: Tree,
    target: &'a Target,
    lower: Vec<Tree>,
    /// Something was asked of lower layers that are not known.
    lower_missed: bool,
    umask: u32,
    ours: (u32, u32),
    folders: HashMap<Vec<u8>, Finish>,
    /// Names that this archive made; kept only where a whiteout must not touch them.
    made: HashSet<Vec<u8>>,
    /// Folders that no entry made, but what lies in them; kept only where a whiteout would find them in its way.
    implied: HashSet<Vec<u8>>,
    entries: u64,
    bytes: u64,
    root_seen: bool,
}

/// What was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpacked {
    /// Bytes of the files.
    pub bytes: u64,
    /// Whether the archive says what its root is; otherwise it must look like that of the layer below.
    pub has_root: bool,
}

/// Unpacks a tar. On failure the directory holds a part and must be removed.
pub fn unpack(reader: impl Read, target: &Target) -> Result<Unpacked, UnpackError> {
    let mut tar = TarReader::new(reader);
    let mut unpack = Unpack {
        tree: Tree::open(&target.root).step(b"/", "open the layer's directory")?,
        lower: target
            .lower
            .iter()
            .flatten()
            .map(|path| Tree::open(path))
            .collect::<io::Result<_>>()
            .step(b"/", "open the layers below")?,
        lower_missed: false,
        target,
        umask: tree::umask(),
        ours: (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()),
        folders: HashMap::new(),
        made: HashSet::new(),
        implied: HashSet::new(),
        entries: 0,
        bytes: 0,
        root_seen: false,
    };
    while let Some(entry) = tar.next_entry().map_err(UnpackError::Archive)? {
        let done = unpack.entry(entry, &mut tar);
        if unpack.lower_missed {
            return Err(UnpackError::LowerUnknown);
        }
        done?;
    }
    unpack.finish()?;
    let done = Unpacked { bytes: unpack.bytes, has_root: unpack.root_seen };
    tar.drain().map_err(UnpackError::Archive)?;
    Ok(done)
}

/// Makes a layer's root look like that of the layer below: overlayfs shows the nearest one's.
pub(crate) fn root_as_below(root: &Path, below: &Path) -> io::Result<()> {
    let (root, below) = (Tree::open(root)?.folder(b"")?, Tree::open(below)?.folder(b"")?);
    let stat = nix::sys::stat::fstat(below.as_fd())?;
    tree::set_owner(&*root, b".", stat.st_uid, stat.st_gid)?;
    tree::set_mode(&*root, b".", stat.st_mode & 0o7777)?;
    let mtime = (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0));
    Ok(tree::set_times(&*root, b".", mtime)?)
}

impl Unpack<'_> {
    fn entry<R: Read>(&mut self, entry: Entry, tar: &mut TarReader<R>) -> Result<(), UnpackError> {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(entry.size);
        if self.entries > self.target.limits.entries {
            return Err(rule(&entry.path, format!("more than {} entries", self.target.limits.entries)));
        }
        if self.bytes > self.target.limits.bytes {
            return Err(rule(&entry.path, format!("more than {} bytes of files", self.target.limits.bytes)));
        }
        let path = tree::clean(&entry.path).map_err(|why| rule(&entry.path, why))?;
        if path.is_empty() {
            return self.root(entry);
        }
        let (parent, name) = tree::split(&path);
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            return self.whiteout(&path, parent, hidden);
        }
        if entry.kind == Kind::Character && entry.device == (0, 0) {
            // Overlayfs would take it for one, so it means the same everywhere.
            return self.hide(&path, parent, name);
        }
        let folder = self.folder(parent, &path)?;
        match entry.kind {
            Kind::File => self.file(&path, &folder, name, &entry, tar)?,
            Kind::Directory => self.directory(&path, &folder, entry)?,
            Kind::Symlink => self.symlink(&path, &folder, name, &entry)?,
            Kind::Hardlink => self.hardlink(&path, &folder, name, &entry)?,
            Kind::Character | Kind::Block | Kind::Fifo => self.node(&path, &folder, name, &entry)?,
        }
        self.mark(&path, &folder);
        Ok(())
    }

    /// Remembers that an entry made a name in a folder.
    fn mark(&mut self, path: &[u8], folder: &Folder) {
        match self.target.whiteouts {
            Whiteouts::Remove => {
                let (parent, name) = tree::split(path);
                let parent = self.tree.name_of(folder).unwrap_or_else(|| parent.to_vec());
                self.made.insert(joined(&parent, name));
            }
            Whiteouts::Overlay => drop(self.implied.remove(path)),
        }
    }

    fn imply(&mut self, folder: &[u8]) {
        if self.target.whiteouts == Whiteouts::Overlay {
            self.implied.insert(folder.to_vec());
        }
    }

    fn owner(&self, path: &[u8], entry: &Entry) -> Result<(u32, u32), UnpackError> {
        let id = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX);
        id(entry.uid).zip(id(entry.gid)).ok_or_else(|| rule(path, "its owner's number is out of range"))
    }

    /// Makes room for a name and makes it; whatever was there is replaced, as the last entry of a name wins.
    fn make<T>(
        &mut self,
        path: &[u8],
        folder: &Folder,
        name: &[u8],
        step: &'static str,
        make: impl Fn() -> nix::Result<T>,
    ) -> Result<T, UnpackError> {
        match make() {
            Err(Errno::EEXIST) => {}
            other => return other.step(path, step),
        }
        tree::remove(folder, name).step(path, "replace what is there")?;
        self.replaced(path);
        make().step(path, step)
    }

    /// After something was removed, names may lead elsewhere, and directories that were to be finished may be gone.
    fn replaced(&mut self, path: &[u8]) {
        self.tree.forget();
        let within = |folder: &[u8]| folder.strip_prefix(path).is_some_and(|rest| rest.first() == Some(&b'/'));
        if self.folders.remove(path).is_some() {
            self.folders.retain(|folder, _| !within(folder));
        }
        if self.implied.remove(path) {
            self.implied.retain(|folder| !within(folder));
        }
    }

    fn file<R: Read>(
        &mut self,
        path: &[u8],
        folder: &Folder,
        name: &[u8],
        entry: &Entry,
        tar: &mut TarReader<R>,
    ) -> Result<(), UnpackError> {
        let mut file =
            self.make(path, folder, name, "create", || tree::create_file(folder, name, entry.mode & 0o777))?;
        match &entry.parts {
            None => self.content(path, &mut file, tar)?,
            Some(parts) => self.sparse(path, &file, parts, entry.size, tar)?,
        }
        let (uid, gid) = self.owner(path, entry)?;
        let chowned = (uid, gid) != self.ours || folder.set_gid;
        if chowned {
            nix::unistd::fchown(&file, Some(uid.into()), Some(gid.into())).step(path, "set the owner")?;
        }
        if entry.mode & (self.umask | 0o7000) != 0 {
            let mode = nix::sys::stat::Mode::from_bits_truncate(entry.mode);
            nix::sys::stat::fchmod(&file, mode).step(path, "set the mode")?;
        }
        self.attributes(path, folder, name, &entry.xattrs)?;
        let time = nix::sys::time::TimeSpec::new(entry.mtime.0, i64::from(entry.mtime.1));
        nix::sys::stat::futimens(&file, &time, &time).step(path, "set the time")
    }

    /// Writes an entry's bytes. What is all zeros is left out of the file, where it reads the same: whoever packs much of
    /// nothing fills no disk.
    fn content<R: Read>(&self, path: &[u8], file: &mut File, tar: &mut TarReader<R>) -> Result<(), UnpackError> {
        let (mut at, mut hole) = (0_u64, false);
        loop {
            let chunk = tar.chunk().map_err(UnpackError::Archive)?;
            if chunk.is_empty() {
                break;
            }
            let length = chunk.len() as u64;
            if chunk.len() >= LEAST_HOLE && is_zero(chunk) {
                hole = true;
            } else {
                if hole {
                    file.seek(SeekFrom::Start(at)).step(path, "write")?;
                    hole = false;
                }
                file.write_all(chunk).step(path, "write")?;
            }
            at += length;
        }
        if hole { file.set_len(at).step(path, "set the size") } else { Ok(()) }
    }

    fn sparse<R: Read>(
        &self,
        path: &[u8],
        file: &File,
        parts: &[(u64, u64)],
        size: u64,
        tar: &mut TarReader<R>,
    ) -> Result<(), UnpackError> {
        file.set_len(size).step(path, "set the size")?;
        let mut parts = parts.iter().copied().filter(|(_, length)| *length > 0);
        let mut part = parts.next();
        loop {
            let mut chunk = tar.chunk().map_err(UnpackError::Archive)?;
            if chunk.is_empty() {
                return Ok(());
            }
            while let (Some((offset, length)), false) = (part, chunk.is_empty()) {
                let step = usize::try_from(length).unwrap_or(usize::MAX).min(chunk.len());
                file.write_all_at(&chunk[..step], offset).step(path, "write")?;
                chunk = &chunk[step..];
                let left = length - step as u64;
                part = if left == 0 { parts.next() } else { Some((offset + step as u64, left)) };
            }
        }
    }

    fn directory(&mut self, path: &[u8], folder: &Folder, entry: Entry) -> Result<(), UnpackError> {
        let (_, name) = tree::split(path);
        match tree::make_folder(folder, name, entry.mode & 0o777) {
            Ok(()) => {}
            Err(Errno::EEXIST) => {
                let present = tree::stat(folder, name).step(path, "look at what is there")?;
                let is_folder = present.as_ref().is_some_and(|stat| tree::format(stat) == libc::S_IFDIR);
                if !is_folder {
                    self.make(path, folder, name, "create", || tree::make_folder(folder, name, entry.mode & 0o777))?;
                    if self.target.whiteouts == Whiteouts::Overlay {
                        // What was here first hid what lies below.
                        tree::set_attribute(folder, name, OPAQUE, b"y").step(path, "hide what lies below")?;
                    }
                }
            }
            Err(error) => return Err(error).step(path, "create"),
        }
        let (uid, gid) = self.owner(path, &entry)?;
        tree::set_owner(folder, name, uid, gid).step(path, "set the owner")?;
        tree::set_mode(folder, name, entry.mode).step(path, "set the mode")?;
        self.folders.insert(path.to_vec(), Finish { mtime: entry.mtime, xattrs: entry.xattrs });
        // Its set-group bit may have changed, which the cache remembers.
        if entry.mode & libc::S_ISGID != 0 {
            self.tree.forget();
        }
        Ok(())
    }

    /// The archive's own root: only its metadata count.
    fn root(&mut self, entry: Entry) -> Result<(), UnpackError> {
        if entry.kind != Kind::Directory {
            return Err(rule(&entry.path, "the root of a layer can only be a directory"));
        }
        let (uid, gid) = self.owner(b"/", &entry)?;
        let root = self.tree.folder(b"").step(b"/", "open")?;
        tree::set_owner(&*root, b".", uid, gid).step(b"/", "set the owner")?;
        tree::set_mode(&*root, b".", entry.mode).step(b"/", "set the mode")?;
        self.tree.forget();
        self.root_seen = true;
        self.folders.insert(Vec::new(), Finish { mtime: entry.mtime, xattrs: entry.xattrs });
        Ok(())
    }

    fn symlink(&mut self, path: &[u8], folder: &Folder, name: &[u8], entry: &Entry) -> Result<(), UnpackError> {
        if entry.link.is_empty() || entry.link.len() >= 4096 || entry.link.contains(&0) {
            return Err(rule(path, "a symbolic link whose target is empty or too long"));
        }
        // Where it points does not matter: it is followed inside the root only.
        self.make(path, folder, name, "link", || tree::make_link(&entry.link, folder, name))?;
        self.metadata(path, folder, name, entry)
    }

    fn hardlink(&mut self, path: &[u8], folder: &Folder, name: &[u8], entry: &Entry) -> Result<(), UnpackError> {
        let target = tree::clean(&entry.link).map_err(|why| rule(path, format!("the file that it links to: {why}")))?;
        if target == path {
            return Ok(());
        }
        let missing = || rule(path, format!("it links to {:?}, which this layer does not hold", shown(&entry.link)));
        let (parent, old) = tree::split(&target);
        let step = "open the folder of what it links to";
        let parent = self.real(parent).step(path, step)?.ok_or_else(missing)?;
        let from = match self.tree.folder(&parent) {
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Err(missing()),
            other => other.step(path, step)?,
        };
        if self.target.whiteouts == Whiteouts::Remove && !self.made.contains(&joined(&parent, old)) {
            return Err(missing());
        }
        match tree::stat(&*from, old).step(path, "look at what it links to")? {
            None => return Err(missing()),
            Some(stat) if tree::format(&stat) == libc::S_IFDIR => return Err(rule(path, "a hard link to a directory")),
            Some(_) => {}
        }
        self.make(path, folder, name, "link", || tree::hard_link(&*from, old, folder, name))
    }

    fn node(&mut self, path: &[u8], folder: &Folder, name: &[u8], entry: &Entry) -> Result<(), UnpackError> {
        let kind = match entry.kind {
            Kind::Character => SFlag::S_IFCHR,
            Kind::Block => SFlag::S_IFBLK,
            _ => SFlag::S_IFIFO,
        };
        let device = if kind == SFlag::S_IFIFO { 0 } else { makedev(entry.device.0.into(), entry.device.1.into()) };
        self.make(path, folder, name, "create", || tree::make_node(folder, name, kind, entry.mode & 0o777, device))?;
        self.metadata(path, folder, name, entry)
    }

    /// Owner, mode, attributes and time of what has no descriptor.
    fn metadata(&self, path: &[u8], folder: &Folder, name: &[u8], entry: &Entry) -> Result<(), UnpackError> {
        let (uid, gid) = self.owner(path, entry)?;
        if (uid, gid) != self.ours || folder.set_gid {
            tree::set_owner(folder, name, uid, gid).step(path, "set the owner")?;
        }
        if entry.kind != Kind::Symlink {
            tree::set_mode(folder, name, entry.mode).step(path, "set the mode")?;
        }
        self.attributes(path, folder, name, &entry.xattrs)?;
        tree::set_times(folder, name, entry.mtime).step(path, "set the time")
    }

    fn attributes(
        &self,
        path: &[u8],
        folder: impl AsFd,
        name: &[u8],
        xattrs: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<(), UnpackError> {
        for (key, value) in xattrs {
            if key.starts_with(OVERLAY) || key.is_empty() || key.contains(&0) {
                continue;
            }
            match tree::set_attribute(&folder, name, key, value) {
                // What this file system or kernel cannot hold is left out, as every tar does.
                Ok(()) | Err(Errno::ENOTSUP) => {}
                Err(Errno::EPERM) if !key.starts_with(b"security.capability") => {}
                Err(error) => return Err(error).step(path, "set an attribute"),
            }
        }
        Ok(())
    }

    // ---- folders that the archive does not mention ----

    fn folder(&mut self, parent: &[u8], path: &[u8]) -> Result<Rc<Folder>, UnpackError> {
        match self.tree.folder(parent) {
            Ok(folder) => return Ok(folder),
            Err(Errno::ENOENT) => {}
            Err(Errno::ENOTDIR) => return self.replace_parents(parent, path),
            Err(error) => return Err(error).step(path, "open its folder"),
        }
        self.make_parents(parent, path, 0)
    }

    /// A file stands where a folder must be: by "last wins" the folder it is.
    fn replace_parents(&mut self, parent: &[u8], path: &[u8]) -> Result<Rc<Folder>, UnpackError> {
        let mut end = 0;
        loop {
            let next =
                parent[end..].iter().skip(1).position(|byte| *byte == b'/').map_or(parent.len(), |at| end + 1 + at);
            let (above, name) = tree::split(&parent[..next]);
            let folder = self.tree.folder(above).step(path, "open its folder")?;
            match tree::stat(&*folder, name).step(path, "look at its folder")? {
                Some(stat) if tree::format(&stat) == libc::S_IFDIR => {}
                Some(stat) if tree::format(&stat) == libc::S_IFLNK => match self.tree.folder(&parent[..next]) {
                    Ok(_) => {}
                    Err(_) => return Err(leads_to_none(path, &parent[..next])),
                },
                Some(_) => {
                    tree::remove(&*folder, name).step(path, "replace what is there")?;
                    self.replaced(&parent[..next]);
                    if self.target.whiteouts == Whiteouts::Overlay {
                        // What was here first hid what lies below.
                        self.plain_folder(path, &folder, name)?;
                        tree::set_attribute(&*folder, name, OPAQUE, b"y").step(path, "hide what lies below")?;
                    }
                    return self.make_parents(parent, path, 0);
                }
                None => return self.make_parents(parent, path, 0),
            }
            if next == parent.len() {
                return self.tree.folder(parent).step(path, "open its folder");
            }
            end = next;
        }
    }

    /// A folder for which there is no pattern.
    fn plain_folder(&self, path: &[u8], folder: &Folder, name: &[u8]) -> Result<(), UnpackError> {
        tree::make_folder(folder, name, 0o755).step(path, "create its folder")?;
        if folder.set_gid {
            // Neither the group nor the bit goes down.
            tree::set_owner(folder, name, self.ours.0, self.ours.1).step(path, "set its folder's owner")?;
        }
        tree::set_mode(folder, name, 0o755).step(path, "set its folder's mode")
    }

    /// Makes the folders of a name one by one, as the layers below have them.
    fn make_parents(&mut self, parent: &[u8], path: &[u8], links: usize) -> Result<Rc<Folder>, UnpackError> {
        if links > MAX_LINKS {
            return Err(rule(path, "too many links in its name"));
        }
        let mut end = 0;
        while end < parent.len() {
            let next =
                parent[end..].iter().skip(1).position(|byte| *byte == b'/').map_or(parent.len(), |at| end + 1 + at);
            let prefix = &parent[..next];
            let (above, name) = tree::split(prefix);
            end = next;
            match self.tree.folder(prefix) {
                Ok(_) => continue,
                Err(Errno::ENOENT) => {}
                Err(error) => return Err(error).step(path, "open its folder"),
            }
            let folder = self.tree.folder(above).step(path, "open its folder")?;
            if let Some(stat) = tree::stat(&*folder, name).step(path, "look at its folder")? {
                if tree::format(&stat) != libc::S_IFLNK {
                    return Err(leads_to_none(path, prefix));
                }
                // Where it leads there is nothing of this layer yet.
                let link = tree::read_link(&*folder, name).step(path, "look at its folder")?;
                return self.linked_parents(&led(above, &link, &parent[next..]), path, links);
            }
            // What the archive has hidden is no pattern for what comes in its place.
            let below = match self.covers(above).step(path, "read an attribute")? {
                true => None,
                false => self.below(prefix).step(path, "look at the layers below")?,
            };
            match below {
                Some((stat, _)) if tree::format(&stat) == libc::S_IFDIR => {
                    self.imply(prefix);
                    tree::make_folder(&*folder, name, stat.st_mode & 0o777).step(path, "create its folder")?;
                    tree::set_owner(&*folder, name, stat.st_uid, stat.st_gid).step(path, "set its folder's owner")?;
                    tree::set_mode(&*folder, name, stat.st_mode & 0o7777).step(path, "set its folder's mode")?;
                    let mtime = (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0));
                    self.folders.insert(prefix.to_vec(), Finish { mtime, xattrs: Vec::new() });
                }
                Some((stat, Some(link))) if tree::format(&stat) == libc::S_IFLNK => {
                    // Below it is a link, such as /lib: what the archive puts there belongs where it leads.
                    return self.linked_parents(&led(above, &link, &parent[next..]), path, links);
                }
                Some(_) if links > 0 => return Err(leads_to_none(path, prefix)),
                _ => {
                    self.imply(prefix);
                    self.plain_folder(path, &folder, name)?;
                }
            }
        }
        self.tree.folder(parent).step(path, "open its folder")
    }

    /// The folder where a link of this layer or of those below leads.
    fn linked_parents(&mut self, real: &[u8], path: &[u8], links: usize) -> Result<Rc<Folder>, UnpackError> {
        match self.tree.folder(real) {
            Ok(folder) => Ok(folder),
            Err(Errno::ENOENT) => self.make_parents(real, path, links + 1),
            Err(error) => Err(error).step(path, "open its folder"),
        }
    }

    /// A folder's own name, once the links on the way, of this layer or of those below, are followed: what a full tree
    /// would lead to. `None` where no folder is.
    fn real(&mut self, path: &[u8]) -> nix::Result<Option<Vec<u8>>> {
        if self.target.whiteouts == Whiteouts::Remove {
            return match self.tree.folder(path) {
                Ok(folder) => Ok(Some(self.tree.name_of(&folder).unwrap_or_else(|| path.to_vec()))),
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
                Err(error) => Err(error),
            };
        }
        let mut ahead: Vec<Vec<u8>> = parts(path);
        let (mut real, mut links) = (Vec::new(), 0);
        while let Some(name) = ahead.pop() {
            let next = joined(&real, &name);
            let ours = match self.tree.folder(&real) {
                Ok(folder) => match tree::stat(&*folder, &name)? {
                    Some(stat) if tree::format(&stat) == libc::S_IFLNK => {
                        Some((stat, Some(tree::read_link(&*folder, &name)?)))
                    }
                    Some(stat) => Some((stat, None)),
                    None => None,
                },
                Err(Errno::ENOENT) => None,
                Err(error) => return Err(error),
            };
            let found = match ours {
                Some(found) => Some(found),
                None if self.covers(&real)? => None,
                None => self.below(&next)?,
            };
            match found {
                Some((stat, _)) if tree::format(&stat) == libc::S_IFDIR => real = next,
                Some((_, Some(link))) if links < MAX_LINKS => {
                    links += 1;
                    let mut path = led(&real, &link, b"");
                    for name in ahead.iter().rev() {
                        path = joined(&path, name);
                    }
                    (real, ahead) = (Vec::new(), parts(&path));
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(real))
    }

    /// Whether one of this layer's own folders on the way to a name, itself among them, hides what lies below it.
    fn covers(&mut self, path: &[u8]) -> nix::Result<bool> {
        if self.target.whiteouts != Whiteouts::Overlay {
            return Ok(false);
        }
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in std::iter::once(0).chain(ends).chain([path.len()]) {
            match self.tree.folder(&path[..end]) {
                Ok(folder) if is_opaque(&folder, b".")? => return Ok(true),
                Ok(_) => {}
                Err(Errno::ENOENT) => return Ok(false),
                // A whiteout, or something else in a folder's place.
                Err(Errno::ENOTDIR) => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// What the layers below show under a name.
    fn below(&mut self, path: &[u8]) -> nix::Result<Option<(FileStat, Option<Vec<u8>>)>> {
        if self.target.lower.is_none() {
            self.lower_missed = true;
            return Err(Errno::EAGAIN);
        }
        // The layers that still have a say, each with its folder of the part of the name that was walked.
        let mut layers = Vec::with_capacity(self.lower.len());
        for layer in &mut self.lower {
            layers.push(layer.folder(b"")?);
        }
        let mut parts = path.split(|byte| *byte == b'/').peekable();
        while let Some(name) = parts.next() {
            let mut inner = Vec::new();
            let mut found = None;
            for layer in &layers {
                let Some(stat) = tree::stat(&**layer, name)? else { continue };
                let is_folder = tree::format(&stat) == libc::S_IFDIR;
                if found.is_none() {
                    if tree::is_whiteout(&stat) {
                        return Ok(None);
                    }
                    found = Some((layer.clone(), stat));
                }
                if !is_folder {
                    break;
                }
                let opaque = is_opaque(layer, name)?;
                inner.push(Rc::new(tree::inner(&**layer, name)?));
                if opaque {
                    break;
                }
            }
            let Some((layer, stat)) = found else { return Ok(None) };
            if parts.peek().is_none() {
                let is_link = tree::format(&stat) == libc::S_IFLNK;
                let link = if is_link { Some(tree::read_link(&*layer, name)?) } else { None };
                return Ok(Some((stat, link)));
            }
            layers = inner;
        }
        Ok(None)
    }

    /// Directories' attributes and times, the deepest first.
    fn finish(&mut self) -> Result<(), UnpackError> {
        if !self.root_seen
            && let Some(below) = self.target.lower.as_ref().and_then(|lower| lower.first())
        {
            root_as_below(&self.target.root, below).step(b"/", "make it look like the layer below")?;
        }
        let mut folders: Vec<_> = std::mem::take(&mut self.folders).into_iter().collect();
        folders.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
        for (path, finish) in folders {
            let (parent, name) = tree::split(&path);
            let name = if path.is_empty() { b"." } else { name };
            let folder = match self.tree.folder(parent) {
                // Replaced by a later entry.
                Err(Errno::ENOENT | Errno::ENOTDIR) => continue,
                other => other.step(&path, "open its folder")?,
            };
            match tree::stat(&*folder, name).step(&path, "look at it")? {
                Some(stat) if tree::format(&stat) == libc::S_IFDIR => {}
                _ => continue,
            }
            self.attributes(&path, &*folder, name, &finish.xattrs)?;
            tree::set_times(&*folder, name, finish.mtime).step(&path, "set the time")?;
        }
        Ok(())
    }
}

fn is_opaque(folder: &Folder, name: &[u8]) -> nix::Result<bool> {
    Ok(tree::get_attribute(folder, name, c"trusted.overlay.opaque")?.as_deref() == Some(b"y"))
}

/// A name in a folder.
fn joined(folder: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = folder.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// The parts of a cleaned name, the first one last.
fn parts(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).rev().map(<[u8]>::to_vec).collect()
}

/// Where a link in a folder leads, with what comes after it.
fn led(folder: &[u8], link: &[u8], rest: &[u8]) -> Vec<u8> {
    let mut real = if link.starts_with(b"/") { Vec::new() } else { folder.to_vec() };
    real.push(b'/');
    real.extend_from_slice(link);
    real.push(b'/');
    real.extend_from_slice(rest);
    within(&real)
}

/// Cleans a link's way: `..` goes up, and no higher than the root.
pub(crate) fn within(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

#[cfg(test)]
mod tests;
