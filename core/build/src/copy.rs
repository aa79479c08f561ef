//! COPY and ADD on files: what a source names, what it contains, and how it lands in a root.
//!
//! Both trees are walked by descriptor and within their roots. Collecting comes first, because the contents make the
//! key of the step; only when the key is new is anything written.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag};
use sampan_image::Decompress;
use sampan_image::tree::{self, Tree};
use sha2::{Digest as _, Sha256};

use crate::cache::KeyWriter;
use crate::dockerignore::Ignore;
use crate::error::{At, FileError};
use crate::extract::{self, Digests, ExtractError, Rules, ensure_folder};
use crate::owner::ModeChange;
use crate::pattern::{Pattern, clean};
use crate::source::nearest;

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
const MAX_DEPTH: usize = 250;

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

/// What a source names, with digests of all contents. A pattern may name nothing; a plain name may not.
pub fn collect(origin: &Origin<'_>, source: &str, selection: &Selection) -> Result<Vec<Match>, CopyError> {
    let cleaned = clean(source.trim_start_matches('/'));
    if cleaned == ".." || cleaned.starts_with("../") {
        return Err(CopyError::Source(format!("{source} lies outside {}", origin.label)));
    }
    let path = if cleaned == "." { String::new() } else { cleaned };
    let mut tree = Tree::open(origin.root).at("open", origin.root.as_os_str().as_encoded_bytes())?;
    let mut work = Collect { origin, selection, tree: &mut tree };
    let literal = Pattern::is_literal(&path);
    let names = if literal { vec![path.clone().into_bytes()] } else { work.expand(&path)? };
    let pivot = source.find("/./").map(|at| clean(source[..at].trim_start_matches('/')));
    let mut matches = Vec::new();
    for name in names {
        if let Some(found) = work.one(&name, pivot.as_deref())? {
            matches.push(found);
        } else if literal {
            return Err(work.missing(source, &path));
        }
    }
    Ok(matches)
}

struct Collect<'a> {
    origin: &'a Origin<'a>,
    selection: &'a Selection,
    tree: &'a mut Tree,
}

impl Collect<'_> {
    fn ignored(&self, path: &[u8]) -> bool {
        self.origin.ignore.is_some_and(|ignore| !path.is_empty() && ignore.ignores(&String::from_utf8_lossy(path)))
    }

    fn missing(&mut self, source: &str, path: &str) -> CopyError {
        let (parent, last) = path.rsplit_once('/').unwrap_or(("", path));
        let names: Vec<String> = resolve(self.tree, parent.as_bytes())
            .ok()
            .filter(|(_, stat)| stat.is_some())
            .and_then(|(parent, _)| self.tree.open_folder(&parent).ok())
            .and_then(|folder| tree::names(std::os::fd::AsFd::as_fd(&folder)).ok())
            .unwrap_or_default()
            .iter()
            .map(|name| shown(name))
            .collect();
        if names.iter().any(|name| name == last) {
            return CopyError::Source(format!("{source}: excluded from {} by .dockerignore", self.origin.label));
        }
        let hint = nearest(last, names.iter().map(String::as_str)).map(|name| format!("; did you mean {name}?"));
        CopyError::Source(format!("{source}: not found in {}{}", self.origin.label, hint.unwrap_or_default()))
    }

    /// Names that match a pattern with something wild in it.
    fn expand(&mut self, pattern: &str) -> Result<Vec<Vec<u8>>, CopyError> {
        let mut names: Vec<Vec<u8>> = vec![Vec::new()];
        for part in pattern.split('/') {
            let glob = Pattern::go(part).map_err(|error| CopyError::Source(error.to_string()))?;
            let mut next = Vec::new();
            for name in names {
                if Pattern::is_literal(part) {
                    next.push(join(&name, part.as_bytes()));
                    continue;
                }
                let (folder, stat) = resolve(self.tree, &name).at("open", &name)?;
                if stat.is_none_or(|stat| tree::format(&stat) != libc::S_IFDIR) {
                    continue;
                }
                let open = self.tree.open_folder(&folder).at("open", &folder)?;
                let found = tree::names(std::os::fd::AsFd::as_fd(&open)).at("list", &folder)?;
                next.extend(found.iter().filter(|each| glob.matches(&shown(each))).map(|each| join(&name, each)));
            }
            names = next;
        }
        Ok(names)
    }

    fn one(&mut self, name: &[u8], pivot: Option<&str>) -> Result<Option<Match>, CopyError> {
        if self.ignored(name) && !self.may_hold_exceptions(name) {
            return Ok(None);
        }
        let (path, stat) = resolve(self.tree, name).at("look at", name)?;
        let Some(stat) = stat else { return Ok(None) };
        let (above, last) = tree::split(name);
        let directory = tree::format(&stat) == libc::S_IFDIR;
        let mut entries = Vec::new();
        if directory {
            self.walk(name, &path, &[], 0, &mut entries)?;
        } else {
            let excluded = |text: &[u8]| self.selection.exclude.ignores(&String::from_utf8_lossy(text));
            if excluded(name) || excluded(last) {
                return Ok(Some(Match { name: last.to_vec(), above: Vec::new(), directory: true, entries }));
            }
            entries.push(self.entry(Vec::new(), path, &stat)?);
        }
        let above = if self.selection.parents {
            let whole = if directory { name } else { above };
            let cut = pivot.map_or(0, str::len);
            let rest = whole.get(cut..).unwrap_or_default();
            rest.strip_prefix(b"/").unwrap_or(rest).to_vec()
        } else {
            Vec::new()
        };
        Ok(Some(Match { name: last.to_vec(), above, directory, entries }))
    }

    fn may_hold_exceptions(&self, name: &[u8]) -> bool {
        self.origin.ignore.is_some_and(|ignore| !ignore.prunes(&String::from_utf8_lossy(name)))
    }

    /// The contents of a directory, `named` as the user sees it, `path` without links.
    fn walk(
        &mut self,
        named: &[u8],
        path: &[u8],
        below: &[u8],
        depth: usize,
        entries: &mut Vec<Entry>,
    ) -> Result<(), CopyError> {
        if depth > MAX_DEPTH {
            return Err(CopyError::Source(format!("{}: directories are nested too deep", shown(named))));
        }
        let open = self.tree.open_folder(path).at("open", path)?;
        for name in tree::names(std::os::fd::AsFd::as_fd(&open)).at("list", path)? {
            let (inner, inner_named, inner_below) = (join(path, &name), join(named, &name), join(below, &name));
            let Some(stat) = tree::stat(&open, &name).at("look at", &inner)? else { continue };
            let directory = tree::format(&stat) == libc::S_IFDIR;
            let ignored =
                self.ignored(&inner_named) || self.selection.exclude.ignores(&String::from_utf8_lossy(&inner_below));
            if ignored && !directory {
                continue;
            }
            if !directory {
                // Pipes and sockets of a context are nobody's files.
                if !self.origin.keep && !matches!(tree::format(&stat), libc::S_IFREG | libc::S_IFLNK) {
                    continue;
                }
                if tree::format(&stat) == libc::S_IFSOCK {
                    continue;
                }
                entries.push(self.entry(inner_below, inner, &stat)?);
                continue;
            }
            if ignored {
                let text = String::from_utf8_lossy(&inner_named);
                let nothing = self.origin.ignore.is_none_or(|ignore| ignore.prunes(&text))
                    || self.selection.exclude.prunes(&String::from_utf8_lossy(&inner_below));
                if !nothing {
                    // The directory itself counts only for what an exception keeps below it.
                    let mut kept = Vec::new();
                    self.walk(&inner_named, &inner, &inner_below, depth + 1, &mut kept)?;
                    if !kept.is_empty() {
                        entries.push(self.entry(inner_below, inner, &stat)?);
                        entries.extend(kept);
                    }
                }
                continue;
            }
            entries.push(self.entry(inner_below.clone(), inner.clone(), &stat)?);
            self.walk(&inner_named, &inner, &inner_below, depth + 1, entries)?;
        }
        Ok(())
    }

    fn entry(&mut self, below: Vec<u8>, path: Vec<u8>, stat: &FileStat) -> Result<Entry, CopyError> {
        let (parent, last) = tree::split(&path);
        let last = if last.is_empty() { &b"."[..] } else { last };
        let folder = self.tree.folder(parent).at("open", parent)?;
        let kind = match tree::format(stat) {
            libc::S_IFREG => Kind::File { digest: self.digest(&path, &folder, last)? },
            libc::S_IFDIR => Kind::Directory,
            libc::S_IFLNK => Kind::Symlink(tree::read_link(&*folder, last).at("read the link", &path)?),
            format => Kind::Node { flag: SFlag::from_bits_truncate(format), device: stat.st_rdev },
        };
        let xattrs = if self.origin.keep {
            let all = tree::attributes(&*folder, last).at("read the attributes of", &path)?;
            all.into_iter().filter(|(key, _)| !key.starts_with(b"trusted.")).collect()
        } else {
            Vec::new()
        };
        Ok(Entry {
            linked: (self.origin.keep && stat.st_nlink > 1 && matches!(kind, Kind::File { .. }))
                .then_some((stat.st_dev, stat.st_ino)),
            below,
            kind,
            mode: stat.st_mode & 0o7777,
            owner: if self.origin.keep { (stat.st_uid, stat.st_gid) } else { (0, 0) },
            mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
            xattrs,
            path,
        })
    }

    fn digest(&self, path: &[u8], folder: &tree::Folder, last: &[u8]) -> Result<[u8; 32], CopyError> {
        if let Some(known) = self.origin.digests.lock().unwrap_or_else(PoisonError::into_inner).get(path) {
            return Ok(*known);
        }
        let mut file = open(folder, last).at("open", path)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 256 << 10];
        loop {
            let length = file.read(&mut buffer).at("read", path)?;
            if length == 0 {
                break;
            }
            hash.update(&buffer[..length]);
        }
        let digest: [u8; 32] = hash.finalize().into();
        self.origin.digests.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_vec(), digest);
        Ok(digest)
    }
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

/// How what was collected lands.
#[derive(Debug, Clone)]
pub struct Landing {
    /// Absolute, cleaned.
    pub dest: String,
    /// It was written with a slash at its end.
    pub folder: bool,
    /// `--chown`.
    pub owner: Option<(u32, u32)>,
    /// `--chmod`.
    pub mode: Option<ModeChange>,
    /// Archives are unpacked (ADD).
    pub unpack: bool,
    /// Time of new directories, and of files that stand in the Dockerfile.
    pub time: (i64, u32),
}

/// Writes what was collected into a root.
pub fn land(origin: &Origin<'_>, matches: &[Match], root: &Path, landing: &Landing) -> Result<(), CopyError> {
    let mut from = Tree::open(origin.root).at("open", origin.root.as_os_str().as_encoded_bytes())?;
    let mut work = Land::open(root, landing)?;
    for found in matches {
        work.one(&mut from, found)?;
    }
    work.finish()
}

/// Writes a file whose content is given.
pub fn land_inline(name: &str, content: &[u8], root: &Path, landing: &Landing) -> Result<(), CopyError> {
    let mut work = Land::open(root, landing)?;
    let target = work.file_target(name.as_bytes(), false)?;
    let (parent, last) = tree::split(&target);
    work.touch(parent)?;
    let folder = work.tree.folder(parent).at("open", parent)?;
    work.clear_file(&folder, last, &target)?;
    let mut file = tree::create_file(&*folder, last, 0o600).at("create", &target)?;
    io::Write::write_all(&mut file, content).at("write", &target)?;
    let mode = landing.mode.as_ref().map_or(0o644, |change| change.apply(0o644, false));
    work.attributes(&file, &target, landing.owner.unwrap_or((0, 0)), mode, landing.time)?;
    drop(folder);
    work.finish()
}

struct Land<'a> {
    tree: Tree,
    landing: &'a Landing,
    /// Directories that get their times at the end: made here, or there before and only written into.
    times: HashMap<Vec<u8>, (i64, u32)>,
    /// Where a file with several names was first written.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl<'a> Land<'a> {
    fn open(root: &Path, landing: &'a Landing) -> Result<Self, CopyError> {
        let tree = Tree::open(root).at("open", root.as_os_str().as_encoded_bytes())?;
        Ok(Self { tree, landing, times: HashMap::new(), links: HashMap::new() })
    }

    fn dest(&self) -> Vec<u8> {
        self.landing.dest.trim_start_matches('/').as_bytes().to_vec()
    }

    /// A directory of the root, made if need be; its name without links.
    fn folder(&mut self, path: &[u8]) -> Result<Vec<u8>, CopyError> {
        // What is there before keeps its time, although something new is put into it.
        let mut above = path;
        loop {
            let (reached, stat) = resolve(&mut self.tree, above).at("look at", above)?;
            if stat.is_some() {
                self.touch(&reached)?;
                break;
            }
            above = tree::split(above).0;
        }
        let owner = self.landing.owner.unwrap_or((0, 0));
        ensure_folder(&mut self.tree, path, owner, Some(self.landing.time))?;
        let (reached, _) = resolve(&mut self.tree, path).at("look at", path)?;
        // New directories on the way get their time when everything is in them.
        let mut each = reached.as_slice();
        while !each.is_empty() && !self.times.contains_key(each) {
            self.touch(each)?;
            each = tree::split(each).0;
        }
        Ok(reached)
    }

    /// Remembers the time of a directory that is about to be written into.
    fn touch(&mut self, path: &[u8]) -> Result<(), CopyError> {
        if self.times.contains_key(path) {
            return Ok(());
        }
        let folder = self.tree.folder(path).at("open the directory", path)?;
        if let Some(stat) = tree::stat(&*folder, b".").at("look at", path)? {
            let time = (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0));
            self.times.insert(path.to_vec(), time);
        }
        Ok(())
    }

    /// Where a single file goes, links followed.
    fn file_target(&mut self, name: &[u8], into: bool) -> Result<Vec<u8>, CopyError> {
        let dest = self.dest();
        let is_folder = into || self.landing.folder || dest.is_empty() || {
            let (_, stat) = resolve(&mut self.tree, &dest).at("look at", &dest)?;
            stat.is_some_and(|stat| tree::format(&stat) == libc::S_IFDIR)
        };
        let wanted = if is_folder {
            join(&self.folder(&dest)?, name)
        } else {
            let (parent, last) = tree::split(&dest);
            join(&self.folder(parent)?, last)
        };
        let (target, _) = resolve(&mut self.tree, &wanted).at("look at", &wanted)?;
        let parent = tree::split(&target).0.to_vec();
        self.folder(&parent)?;
        Ok(target)
    }

    fn one(&mut self, from: &mut Tree, found: &Match) -> Result<(), CopyError> {
        if !found.directory {
            let Some(entry) = found.entries.first() else { return Ok(()) };
            if self.landing.unpack && self.archive(from, entry)? {
                return Ok(());
            }
            let target = if found.above.is_empty() {
                self.file_target(&found.name, false)?
            } else {
                let folder = self.folder(&join(&self.dest(), &found.above))?;
                join(&folder, &found.name)
            };
            return self.entry(from, entry, &target);
        }
        let base = self.folder(&join(&self.dest(), &found.above))?;
        for entry in &found.entries {
            let target = join(&base, &entry.below);
            self.entry(from, entry, &target)?;
        }
        Ok(())
    }

    fn entry(&mut self, from: &mut Tree, entry: &Entry, target: &[u8]) -> Result<(), CopyError> {
        let (parent, last) = tree::split(target);
        self.touch(parent)?;
        let folder = self.tree.folder(parent).at("open the directory", parent)?;
        let owner = self.landing.owner.unwrap_or(entry.owner);
        let directory = entry.kind == Kind::Directory;
        let mode = self.landing.mode.as_ref().map_or(entry.mode, |change| change.apply(entry.mode, directory));
        match &entry.kind {
            Kind::Directory => {
                match tree::make_folder(&*folder, last, 0o700) {
                    Ok(()) => {
                        self.times.insert(target.to_vec(), entry.mtime);
                    }
                    Err(Errno::EEXIST) => {
                        let stat = tree::stat(&*folder, last).at("look at", target)?;
                        let format = stat.as_ref().map(tree::format);
                        if format == Some(libc::S_IFLNK) && self.tree.folder(target).is_ok() {
                            // A link to a directory, such as /lib: what is copied goes where it leads.
                            return Ok(());
                        }
                        if format != Some(libc::S_IFDIR) {
                            return Err(CopyError::Source(format!("/{} is there and is no directory", shown(target))));
                        }
                        self.touch(target)?;
                    }
                    Err(error) => return Ok(Err(error).at("create the directory", target)?),
                }
                tree::set_owner(&*folder, last, owner.0, owner.1).at("set the owner of", target)?;
                tree::set_mode(&*folder, last, mode).at("set the mode of", target)?;
            }
            Kind::Symlink(link) => {
                self.clear_file(&folder, last, target)?;
                tree::make_link(link, &*folder, last).at("create the link", target)?;
                tree::set_owner(&*folder, last, owner.0, owner.1).at("set the owner of", target)?;
                tree::set_times(&*folder, last, entry.mtime).at("set the time of", target)?;
            }
            Kind::Node { flag, device } => {
                self.clear_file(&folder, last, target)?;
                tree::make_node(&*folder, last, *flag, mode, *device).at("create", target)?;
                tree::set_owner(&*folder, last, owner.0, owner.1).at("set the owner of", target)?;
                tree::set_mode(&*folder, last, mode).at("set the mode of", target)?;
                tree::set_times(&*folder, last, entry.mtime).at("set the time of", target)?;
            }
            Kind::File { .. } => {
                if let Some(first) = entry.linked.and_then(|id| self.links.get(&id)).cloned() {
                    self.clear_file(&folder, last, target)?;
                    let (first_parent, first_last) = tree::split(&first);
                    let there = self.tree.folder(first_parent).at("open", first_parent)?;
                    return Ok(tree::hard_link(&*there, first_last, &*folder, last).at("link", target)?);
                }
                self.clear_file(&folder, last, target)?;
                let (source_parent, source_last) = tree::split(&entry.path);
                let source = from.folder(source_parent).at("open", source_parent)?;
                let mut read = open(&source, source_last).at("open", &entry.path)?;
                let mut file = tree::create_file(&*folder, last, 0o600).at("create", target)?;
                io::copy(&mut read, &mut file).at("write", target)?;
                self.attributes(&file, target, owner, mode, entry.mtime)?;
                if let Some(id) = entry.linked {
                    self.links.insert(id, target.to_vec());
                }
            }
        }
        for (key, value) in &entry.xattrs {
            match tree::set_attribute(&*folder, last, key, value) {
                Ok(()) | Err(Errno::ENOTSUP) => {}
                Err(error) => return Ok(Err(error).at("set an attribute of", target)?),
            }
        }
        Ok(())
    }

    fn attributes(
        &self,
        file: &File,
        target: &[u8],
        owner: (u32, u32),
        mode: u32,
        time: (i64, u32),
    ) -> Result<(), CopyError> {
        nix::unistd::fchown(file, Some(owner.0.into()), Some(owner.1.into())).at("set the owner of", target)?;
        nix::sys::stat::fchmod(file, Mode::from_bits_truncate(mode)).at("set the mode of", target)?;
        let time = nix::sys::time::TimeSpec::new(time.0, time.1.into());
        Ok(nix::sys::stat::futimens(file, &time, &time).at("set the time of", target)?)
    }

    /// Makes room for a file; a directory is never replaced by one.
    fn clear_file(&mut self, folder: &tree::Folder, last: &[u8], target: &[u8]) -> Result<(), CopyError> {
        match tree::stat(folder, last).at("look at", target)? {
            None => Ok(()),
            Some(stat) if tree::format(&stat) == libc::S_IFDIR => {
                Err(CopyError::Source(format!("/{} is a directory; a file cannot take its place", shown(target))))
            }
            Some(stat) => {
                if tree::format(&stat) == libc::S_IFLNK {
                    self.tree.forget();
                }
                Ok(tree::remove(folder, last).at("replace", target)?)
            }
        }
    }

    /// Unpacks an entry if it is a tar; whether it was one.
    fn archive(&mut self, from: &mut Tree, entry: &Entry) -> Result<bool, CopyError> {
        if !matches!(entry.kind, Kind::File { .. }) {
            return Ok(false);
        }
        let (parent, last) = tree::split(&entry.path);
        let folder = from.folder(parent).at("open", parent)?;
        let wrong = |source: io::Error| CopyError::Archive {
            archive: shown(last),
            source: Box::new(ExtractError::Archive(source)),
        };
        if !is_tar(open(&folder, last).at("open", &entry.path)?).map_err(wrong)? {
            return Ok(false);
        }
        let file = open(&folder, last).at("open", &entry.path)?;
        let dest = self.dest();
        let prefix = self.folder(&dest)?;
        let rules = Rules { owner: self.landing.owner, devices: true, attributes: true, ..Rules::default() };
        let reader = Decompress::new(file).map_err(wrong)?;
        extract::extract(reader, &mut self.tree, &prefix, &rules)
            .map_err(|source| CopyError::Archive { archive: shown(last), source: Box::new(source) })?;
        Ok(true)
    }

    /// Sets the times of directories, the deepest first.
    fn finish(mut self) -> Result<(), CopyError> {
        let mut times: Vec<_> = std::mem::take(&mut self.times).into_iter().collect();
        times.sort_by(|a, b| b.0.cmp(&a.0));
        for (path, time) in times {
            match self.tree.folder(&path) {
                Ok(folder) => tree::set_times(&*folder, b".", time).at("set the time of", &path)?,
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(error) => return Ok(Err(error).at("open", &path)?),
            }
        }
        Ok(())
    }
}

/// Whether a file begins as a tar does, packed or not.
fn is_tar(file: File) -> io::Result<bool> {
    let mut reader = Decompress::new(file)?;
    let mut block = [0_u8; 512];
    let mut filled = 0;
    while filled < block.len() {
        match reader.read(&mut block[filled..]) {
            Ok(0) => return Ok(false),
            Ok(length) => filled += length,
            // What looks packed but is not is a file like others.
            Err(_) => return Ok(false),
        }
    }
    let field = std::str::from_utf8(&block[148..156]).unwrap_or_default();
    let written = u64::from_str_radix(field.trim_matches(|c: char| c == '\0' || c == ' '), 8);
    let sum: u64 =
        block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) }).sum();
    Ok(written == Ok(sum))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::PathBuf;

    struct World {
        _folder: tempfile::TempDir,
        context: PathBuf,
        root: PathBuf,
        digests: Mutex<Digests>,
        ignore: Ignore,
    }

    fn world() -> World {
        let folder = tempfile::tempdir().unwrap();
        let (context, root) = (folder.path().join("context"), folder.path().join("root"));
        fs::create_dir_all(context.join("src/deep")).unwrap();
        fs::create_dir_all(root.join("etc")).unwrap();
        for (name, text) in [("a.txt", "a"), ("b.txt", "b"), ("src/main.c", "m"), ("src/deep/x.h", "x"), ("skip", "s")]
        {
            fs::write(context.join(name), text).unwrap();
        }
        symlink("a.txt", context.join("link")).unwrap();
        symlink("/etc/passwd", context.join("src/out")).unwrap();
        World { _folder: folder, context, root, digests: Mutex::default(), ignore: Ignore::parse("skip\n").unwrap() }
    }

    impl World {
        fn origin(&self) -> Origin<'_> {
            Origin {
                root: &self.context,
                ignore: Some(&self.ignore),
                digests: &self.digests,
                keep: false,
                label: "the build context",
            }
        }

        fn copy(&self, sources: &[&str], dest: &str) -> Result<(), CopyError> {
            self.copy_with(sources, dest, &Selection::default(), |_| {})
        }

        fn copy_with(
            &self,
            sources: &[&str],
            dest: &str,
            selection: &Selection,
            change: impl Fn(&mut Landing),
        ) -> Result<(), CopyError> {
            let me = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
            let mut landing = Landing {
                dest: clean(dest),
                folder: dest.ends_with('/'),
                owner: Some(me),
                mode: None,
                unpack: false,
                time: (5, 0),
            };
            change(&mut landing);
            for source in sources {
                let matches = collect(&self.origin(), source, selection)?;
                land(&self.origin(), &matches, &self.root, &landing)?;
            }
            Ok(())
        }

        fn read(&self, path: &str) -> String {
            fs::read_to_string(self.root.join(path)).unwrap()
        }

        fn key(&self, source: &str) -> crate::cache::Key {
            let mut key = KeyWriter::new("copy", None);
            hash_into(&mut key, &collect(&self.origin(), source, &Selection::default()).unwrap());
            key.finish()
        }
    }

    #[test]
    fn a_file_a_folder_and_a_pattern() {
        let world = world();
        world.copy(&["a.txt"], "/new/name").unwrap();
        assert_eq!(world.read("new/name"), "a");
        world.copy(&["a.txt"], "/etc").unwrap();
        assert_eq!(world.read("etc/a.txt"), "a");
        world.copy(&["src"], "/app").unwrap();
        assert_eq!(world.read("app/main.c"), "m");
        assert_eq!(world.read("app/deep/x.h"), "x");
        assert_eq!(fs::read_link(world.root.join("app/out")).unwrap().to_str(), Some("/etc/passwd"));
        world.copy(&["*.txt"], "/texts/").unwrap();
        assert_eq!(world.read("texts/b.txt"), "b");
        world.copy(&["link"], "/linked").unwrap();
        assert!(fs::symlink_metadata(world.root.join("linked")).unwrap().is_file());
        world.copy(&["."], "/all").unwrap();
        assert!(!world.root.join("all/skip").exists());
        assert!(world.root.join("all/src/main.c").exists());
        assert!(world.copy(&["*.nothing"], "/x/").is_ok());
    }

    #[test]
    fn what_is_not_there_is_said() {
        let world = world();
        let fault = |source: &str| world.copy(&[source], "/x/").unwrap_err().to_string();
        assert_eq!(fault("a.tx"), "a.tx: not found in the build context; did you mean a.txt?");
        assert_eq!(fault("skip"), "skip: excluded from the build context by .dockerignore");
        assert_eq!(fault("../x"), "../x lies outside the build context");
        assert_eq!(fault("src/main.d"), "src/main.d: not found in the build context; did you mean main.c?");
    }

    #[test]
    fn links_in_the_root_are_followed_inside_it() {
        let world = world();
        let outside = tempfile::tempdir().unwrap();
        symlink(outside.path(), world.root.join("out")).unwrap();
        symlink("usr/lib", world.root.join("lib")).unwrap();
        world.copy(&["a.txt"], "/out/x").unwrap();
        world.copy(&["src"], "/out/sub/").unwrap();
        world.copy(&["a.txt"], "/lib/x").unwrap();
        world.copy(&["a.txt"], "/../../x").unwrap();
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        assert_eq!(world.read("usr/lib/x"), "a");
        assert_eq!(world.read("x"), "a");
    }

    #[test]
    fn a_folder_meets_a_link_to_one() {
        let world = world();
        fs::create_dir_all(world.root.join("usr/lib")).unwrap();
        symlink("usr/lib", world.root.join("lib")).unwrap();
        fs::create_dir_all(world.context.join("tree/lib")).unwrap();
        fs::write(world.context.join("tree/lib/f"), "f").unwrap();
        world.copy(&["tree"], "/").unwrap();
        assert_eq!(world.read("usr/lib/f"), "f");
        assert!(world.root.join("lib").is_symlink());
    }

    #[test]
    fn a_folder_is_not_replaced_by_a_file() {
        let world = world();
        fs::create_dir_all(world.root.join("d/a.txt")).unwrap();
        assert!(world.copy(&["a.txt"], "/d/").unwrap_err().to_string().contains("/d/a.txt is a directory"));
        fs::write(world.root.join("file"), "").unwrap();
        assert!(world.copy(&["src"], "/file").is_err());
    }

    #[test]
    fn modes_exclusions_and_parents() {
        let world = world();
        let selection = Selection { exclude: Ignore::from_patterns(["**/*.h"]).unwrap(), parents: false };
        world.copy_with(&["src"], "/x", &selection, |landing| landing.mode = Some(ModeChange::Exact(0o600))).unwrap();
        assert!(!world.root.join("x/deep/x.h").exists());
        assert_eq!(fs::metadata(world.root.join("x/main.c")).unwrap().permissions().mode() & 0o777, 0o600);
        let parents = Selection { parents: true, ..Selection::default() };
        world.copy_with(&["src/deep/x.h", "./src/./deep"], "/p/", &parents, |_| {}).unwrap();
        assert_eq!(world.read("p/src/deep/x.h"), "x");
        assert_eq!(world.read("p/deep/x.h"), "x");
    }

    #[test]
    fn keys_are_made_of_contents() {
        let world = world();
        let before = world.key(".");
        fs::File::options()
            .write(true)
            .open(world.context.join("a.txt"))
            .unwrap()
            .set_modified(std::time::SystemTime::UNIX_EPOCH)
            .unwrap();
        fs::write(world.context.join("skip"), "changed").unwrap();
        world.digests.lock().unwrap().clear();
        assert_eq!(world.key("."), before);
        fs::set_permissions(world.context.join("a.txt"), fs::Permissions::from_mode(0o600)).unwrap();
        assert_ne!(world.key("."), before);
        assert_ne!(world.key("a.txt"), world.key("b.txt"));
    }

    #[test]
    fn archives_are_unpacked_and_other_files_are_not() {
        let world = world();
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_path_with_name(world.context.join("a.txt"), "inner/a").unwrap();
        fs::write(world.context.join("x.tar"), builder.into_inner().unwrap()).unwrap();
        let unpack = |landing: &mut Landing| landing.unpack = true;
        world.copy_with(&["x.tar", "a.txt"], "/into/", &Selection::default(), unpack).unwrap();
        assert_eq!(world.read("into/inner/a"), "a");
        assert_eq!(world.read("into/a.txt"), "a");
        assert!(!world.root.join("into/x.tar").exists());
    }

    #[test]
    fn folders_that_were_there_keep_their_times() {
        let world = world();
        let etc = fs::File::open(world.root.join("etc")).unwrap();
        etc.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        world.copy(&["a.txt"], "/etc/new/x").unwrap();
        assert_eq!(fs::metadata(world.root.join("etc")).unwrap().mtime(), 0);
        assert_eq!(fs::metadata(world.root.join("etc/new")).unwrap().mtime(), 5);
    }
}
