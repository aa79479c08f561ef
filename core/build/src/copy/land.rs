//! How what was collected lands in a root.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::Mode;
use sampan_image::Decompress;
use sampan_image::tree::{self, Tree};

use super::{CopyError, Entry, Kind, Match, Origin, join, open, resolve, shown};
use crate::error::At;
use crate::extract::{self, ExtractError, Rules, ensure_folder};
use crate::owner::ModeChange;

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
        // What is made on the way has the mode that is asked for, as with BuildKit.
        let mode = self.landing.mode.as_ref().map_or(0o755, |change| change.apply(0o755, true));
        ensure_folder(&mut self.tree, path, owner, mode, Some(self.landing.time))?;
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
