//! Unpacks a tar below a directory: an uploaded context, or an archive that ADD unpacks into a root.
//!
//! Unlike a layer, an archive hides nothing: `.wh.` is a name like others. Every name is resolved within the tree and
//! used by descriptor; what leads out is refused by name.

use std::collections::HashMap;
use std::io::{Read, Write};

use nix::errno::Errno;
use nix::sys::stat::{SFlag, makedev};
use sampan_image::tar_reader::{Entry, Kind, TarReader};
use sampan_image::tree::{self, Tree};
use sha2::{Digest as _, Sha256};

use crate::error::{At, FileError};

/// Bounds of one archive.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Names.
    pub entries: u64,
    /// Bytes of all files together.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 5_000_000, bytes: 1 << 38 }
    }
}

/// How an archive is unpacked.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Owner of everything, in place of the archive's.
    pub owner: Option<(u32, u32)>,
    /// Devices are made; refused otherwise.
    pub devices: bool,
    /// Attributes are set; dropped otherwise.
    pub attributes: bool,
    /// Digests of the files are wanted.
    pub hash: bool,
    /// Bounds.
    pub limits: Limits,
}

/// Why an archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// An entry breaks a rule.
    #[error("{path:?}: {why}")]
    Entry { path: String, why: String },
    /// The archive cannot be read.
    #[error("{0}")]
    Archive(#[source] std::io::Error),
    /// The directory cannot be written.
    #[error("{0}")]
    File(#[from] FileError),
}

/// Digests of files, by cleaned name below the directory.
pub type Digests = HashMap<Vec<u8>, [u8; 32]>;

struct Extract<'a> {
    tree: &'a mut Tree,
    prefix: &'a [u8],
    rules: &'a Rules,
    digests: Digests,
    folders: Vec<(Vec<u8>, Entry)>,
    entries: u64,
    bytes: u64,
}

fn rule(path: &[u8], why: impl Into<String>) -> ExtractError {
    ExtractError::Entry { path: String::from_utf8_lossy(path).into_owned(), why: why.into() }
}

/// Unpacks below `prefix`, which exists. On failure a part of it is there.
pub fn extract(reader: impl Read, tree: &mut Tree, prefix: &[u8], rules: &Rules) -> Result<Digests, ExtractError> {
    let mut tar = TarReader::new(reader);
    let mut work = Extract { tree, prefix, rules, digests: Digests::new(), folders: Vec::new(), entries: 0, bytes: 0 };
    while let Some(entry) = tar.next_entry().map_err(ExtractError::Archive)? {
        work.entry(entry, &mut tar)?;
    }
    work.finish()?;
    let digests = work.digests;
    tar.drain().map_err(ExtractError::Archive)?;
    Ok(digests)
}

impl Extract<'_> {
    fn entry<R: Read>(&mut self, entry: Entry, tar: &mut TarReader<R>) -> Result<(), ExtractError> {
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(entry.size);
        if self.entries > self.rules.limits.entries {
            return Err(rule(&entry.path, format!("more than {} entries", self.rules.limits.entries)));
        }
        if self.bytes > self.rules.limits.bytes {
            return Err(rule(&entry.path, format!("more than {} bytes of files", self.rules.limits.bytes)));
        }
        let name = tree::clean(&entry.path).map_err(|why| rule(&entry.path, why))?;
        if name.is_empty() {
            return Ok(());
        }
        let path = self.below(&name);
        let (parent, last) = tree::split(&path);
        self.parents(parent)?;
        match entry.kind {
            Kind::Directory => return self.directory(path, entry),
            Kind::File => {
                let digest = self.file(&path, parent, last, &entry, tar)?;
                self.digests.extend(digest.map(|digest| (name, digest)));
                return Ok(());
            }
            Kind::Symlink => {
                self.replace(&path, parent, last, |folder, last| tree::make_link(&entry.link, folder, last))?;
            }
            Kind::Hardlink => {
                let from = tree::clean(&entry.link).map_err(|why| rule(&entry.path, why))?;
                let digest = self.digests.get(&from).copied();
                self.hardlink(&path, &from)?;
                self.digests.extend(digest.map(|digest| (name, digest)));
                return Ok(());
            }
            Kind::Fifo => {
                self.replace(&path, parent, last, |folder, last| {
                    tree::make_node(folder, last, SFlag::S_IFIFO, entry.mode & 0o7777, 0)
                })?;
            }
            Kind::Character | Kind::Block if self.rules.devices => {
                let flag = if entry.kind == Kind::Block { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
                let device = makedev(entry.device.0.into(), entry.device.1.into());
                self.replace(&path, parent, last, |folder, last| {
                    tree::make_node(folder, last, flag, entry.mode & 0o7777, device)
                })?;
            }
            Kind::Character | Kind::Block => return Err(rule(&entry.path, "a device in a build context")),
        }
        let folder = self.tree.folder(parent).at("open", parent)?;
        let (uid, gid) = self.owner(&entry)?;
        tree::set_owner(&*folder, last, uid, gid).at("set the owner of", &path)?;
        self.attributes(&path, parent, last, &entry)?;
        tree::set_times(&*folder, last, entry.mtime).at("set the time of", &path)?;
        Ok(())
    }

    fn below(&self, name: &[u8]) -> Vec<u8> {
        if self.prefix.is_empty() {
            return name.to_vec();
        }
        [self.prefix, b"/", name].concat()
    }

    fn owner(&self, entry: &Entry) -> Result<(u32, u32), ExtractError> {
        if let Some(owner) = self.rules.owner {
            return Ok(owner);
        }
        let id = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX);
        id(entry.uid).zip(id(entry.gid)).ok_or_else(|| rule(&entry.path, "its owner's number is out of range"))
    }

    /// Folders that the archive does not mention.
    fn parents(&mut self, path: &[u8]) -> Result<(), ExtractError> {
        ensure_folder(self.tree, path, self.rules.owner.unwrap_or((0, 0)), 0o755, None)?;
        Ok(())
    }

    /// Makes a name; whatever was there is replaced, as the last entry of a name wins.
    fn replace<T>(
        &mut self,
        path: &[u8],
        parent: &[u8],
        last: &[u8],
        make: impl Fn(&tree::Folder, &[u8]) -> nix::Result<T>,
    ) -> Result<T, ExtractError> {
        let folder = self.tree.folder(parent).at("open", parent)?;
        match make(&folder, last) {
            Err(Errno::EEXIST) => {}
            other => return Ok(other.at("create", path)?),
        }
        tree::remove(&*folder, last).at("replace", path)?;
        self.tree.forget();
        let mut inside = path.to_vec();
        inside.push(b'/');
        self.folders.retain(|(each, _)| each != path && !each.starts_with(&inside));
        Ok(make(&folder, last).at("create", path)?)
    }

    fn directory(&mut self, path: Vec<u8>, entry: Entry) -> Result<(), ExtractError> {
        let (parent, last) = tree::split(&path);
        let folder = self.tree.folder(parent).at("open", parent)?;
        match tree::make_folder(&*folder, last, 0o700) {
            Ok(()) => {}
            Err(Errno::EEXIST) => {
                // A link to a directory stays, as tar leaves it too; what it leads to is still inside the tree.
                if self.tree.folder(&path).is_ok() {
                    let is_link = tree::stat(&*folder, last)
                        .at("look at", &path)?
                        .is_some_and(|stat| tree::format(&stat) == libc::S_IFLNK);
                    if is_link {
                        return Ok(());
                    }
                } else {
                    self.replace(&path, parent, last, |folder, last| tree::make_folder(folder, last, 0o700))?;
                }
            }
            Err(error) => return Ok(Err(error).at("create", &path)?),
        }
        self.folders.push((path, entry));
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        path: &[u8],
        parent: &[u8],
        last: &[u8],
        entry: &Entry,
        tar: &mut TarReader<R>,
    ) -> Result<Option<[u8; 32]>, ExtractError> {
        if entry.parts.is_some() {
            return Err(rule(path, "a sparse file; write the archive without --sparse"));
        }
        let mut file = self.replace(path, parent, last, |folder, last| tree::create_file(folder, last, 0o600))?;
        let mut hash = self.rules.hash.then(Sha256::new);
        loop {
            let chunk = tar.chunk().map_err(ExtractError::Archive)?;
            if chunk.is_empty() {
                break;
            }
            if let Some(hash) = &mut hash {
                hash.update(chunk);
            }
            file.write_all(chunk).at("write", path)?;
        }
        let (uid, gid) = self.owner(entry)?;
        nix::unistd::fchown(&file, Some(uid.into()), Some(gid.into())).at("set the owner of", path)?;
        let mode = nix::sys::stat::Mode::from_bits_truncate(entry.mode & 0o7777);
        nix::sys::stat::fchmod(&file, mode).at("set the mode of", path)?;
        self.attributes(path, parent, last, entry)?;
        let time = nix::sys::time::TimeSpec::new(entry.mtime.0, i64::from(entry.mtime.1));
        nix::sys::stat::futimens(&file, &time, &time).at("set the time of", path)?;
        Ok(hash.map(|hash| hash.finalize().into()))
    }

    /// Links to what is below the same directory.
    fn hardlink(&mut self, path: &[u8], from: &[u8]) -> Result<(), ExtractError> {
        let from = self.below(from);
        let (from_parent, from_last) = tree::split(&from);
        let there = self.tree.folder(from_parent).at("open", from_parent)?;
        let stat = tree::stat(&*there, from_last).at("look at", &from)?;
        if stat.is_none_or(|stat| tree::format(&stat) == libc::S_IFDIR) {
            return Err(rule(path, format!("links to {}, which is no file here", String::from_utf8_lossy(&from))));
        }
        let (parent, last) = tree::split(path);
        if from == path {
            return Ok(());
        }
        self.replace(path, parent, last, |folder, last| tree::hard_link(&*there, from_last, folder, last))
    }

    fn attributes(&mut self, path: &[u8], parent: &[u8], last: &[u8], entry: &Entry) -> Result<(), ExtractError> {
        if !self.rules.attributes {
            return Ok(());
        }
        let folder = self.tree.folder(parent).at("open", parent)?;
        for (key, value) in &entry.xattrs {
            // What would tell overlayfs where else to look is not an archive's to say.
            if key.starts_with(b"trusted.") {
                continue;
            }
            match tree::set_attribute(&*folder, last, key, value) {
                Ok(()) | Err(Errno::ENOTSUP) => {}
                Err(error) => return Ok(Err(error).at("set an attribute of", path)?),
            }
        }
        Ok(())
    }

    /// Attributes and times of directories, deepest first, when nothing changes them any more.
    fn finish(&mut self) -> Result<(), ExtractError> {
        let mut folders = std::mem::take(&mut self.folders);
        folders.sort_by(|a, b| b.0.cmp(&a.0));
        for (path, entry) in folders {
            let (parent, last) = tree::split(&path);
            let folder = self.tree.folder(parent).at("open", parent)?;
            let (uid, gid) = self.owner(&entry)?;
            tree::set_owner(&*folder, last, uid, gid).at("set the owner of", &path)?;
            tree::set_mode(&*folder, last, entry.mode & 0o7777).at("set the mode of", &path)?;
            self.attributes(&path, parent, last, &entry)?;
            tree::set_times(&*folder, last, entry.mtime).at("set the time of", &path)?;
        }
        Ok(())
    }
}

/// How often a link is followed on the way to a folder that is still to be made.
const MAX_LINKS: usize = 40;

/// Makes sure that a folder is there, and those above it, each new one with this owner, mode 0755 and time. Links on the
/// way are followed inside the tree, also to what is not there yet. The folder's own name, without links that dangle.
pub fn ensure_folder(
    tree: &mut Tree,
    path: &[u8],
    owner: (u32, u32),
    mode: u32,
    time: Option<(i64, u32)>,
) -> Result<Vec<u8>, FileError> {
    if tree.folder(path).is_ok() {
        return Ok(path.to_vec());
    }
    let mut rest: Vec<Vec<u8>> = path.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec).collect();
    let mut reached: Vec<u8> = Vec::new();
    let mut links = 0;
    let mut made: Vec<Vec<u8>> = Vec::new();
    while let Some(part) = rest.pop() {
        if part.is_empty() || part == b"." {
            continue;
        }
        if part == b".." {
            reached = tree::split(&reached).0.to_vec();
            continue;
        }
        let next = if reached.is_empty() { part.clone() } else { [reached.as_slice(), b"/", &part].concat() };
        let folder = tree.folder(&reached).at("open", &reached)?;
        match tree::make_folder(&*folder, &part, 0o755) {
            Ok(()) => {
                tree::set_owner(&*folder, &part, owner.0, owner.1).at("set the owner of", &next)?;
                tree::set_mode(&*folder, &part, mode).at("set the mode of", &next)?;
                made.push(next.clone());
            }
            Err(Errno::EEXIST) => match tree.folder(&next) {
                Ok(_) => {}
                Err(Errno::ENOENT) if links < MAX_LINKS => {
                    links += 1;
                    let target = tree::read_link(&*folder, &part).at("read the link", &next)?;
                    if target.starts_with(b"/") {
                        reached.clear();
                    }
                    rest.extend(target.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec));
                    continue;
                }
                Err(error) => return Err(error).at("open the directory", &next),
            },
            Err(error) => return Err(error).at("create the directory", &next),
        }
        reached = next;
    }
    // What is made in a directory changes its time: the deepest first.
    for path in made.iter().rev() {
        if let Some(time) = time {
            let (parent, last) = tree::split(path);
            let folder = tree.folder(parent).at("open", parent)?;
            tree::set_times(&*folder, last, time).at("set the time of", path)?;
        }
    }
    Ok(reached)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn archive(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        builder.into_inner().unwrap()
    }

    fn header(kind: tar::EntryType, size: u64, mode: u32) -> tar::Header {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(mode);
        header.set_uid(nix::unistd::geteuid().as_raw().into());
        header.set_gid(nix::unistd::getegid().as_raw().into());
        header.set_mtime(1000);
        header
    }

    fn raw_name(header: &mut tar::Header, name: &[u8]) {
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_cksum();
    }

    #[test]
    fn files_folders_and_links_are_made_and_hashed() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = archive(|tar| {
            tar.append_data(&mut header(tar::EntryType::Directory, 0, 0o750), "d/", &b""[..]).unwrap();
            tar.append_data(&mut header(tar::EntryType::Regular, 5, 0o640), "d/f", &b"hello"[..]).unwrap();
            tar.append_link(&mut header(tar::EntryType::Symlink, 0, 0o777), "d/l", "/etc/passwd").unwrap();
            tar.append_link(&mut header(tar::EntryType::Link, 0, 0o777), "h", "d/f").unwrap();
        });
        let mut tree = Tree::open(folder.path()).unwrap();
        let rules = Rules { hash: true, ..Rules::default() };
        let digests = extract(&bytes[..], &mut tree, b"", &rules).unwrap();
        assert_eq!(digests[&b"d/f"[..]], digests[&b"h"[..]]);
        let stat = std::fs::metadata(folder.path().join("d")).unwrap();
        assert_eq!((stat.permissions().mode() & 0o7777, stat.mtime()), (0o750, 1000));
        assert_eq!(std::fs::read_to_string(folder.path().join("h")).unwrap(), "hello");
        assert_eq!(std::fs::read_link(folder.path().join("d/l")).unwrap().to_str(), Some("/etc/passwd"));
    }

    #[test]
    fn nothing_is_written_outside() {
        let outside = tempfile::tempdir().unwrap();
        let folder = tempfile::tempdir().unwrap();
        symlink(outside.path(), folder.path().join("out")).unwrap();
        let bytes = archive(|tar| {
            tar.append_data(&mut header(tar::EntryType::Regular, 1, 0o644), "out/x", &b"x"[..]).unwrap();
        });
        let mut tree = Tree::open(folder.path()).unwrap();
        extract(&bytes[..], &mut tree, b"", &Rules::default()).unwrap();
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);

        for (name, link) in [(&b"../x"[..], None), (b"a/../../x", None), (b"h", Some("../../etc/passwd"))] {
            let bytes = archive(|tar| {
                let kind = if link.is_some() { tar::EntryType::Link } else { tar::EntryType::Regular };
                let mut header = header(kind, 0, 0o644);
                if let Some(link) = link {
                    header.set_link_name_literal(link).unwrap();
                }
                raw_name(&mut header, name);
                tar.append(&header, &b""[..]).unwrap();
            });
            extract(&bytes[..], &mut tree, b"", &Rules::default()).unwrap_err();
        }
    }

    #[test]
    fn devices_and_floods_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut tree = Tree::open(folder.path()).unwrap();
        let bytes = archive(|tar| {
            let mut header = header(tar::EntryType::Char, 0, 0o666);
            header.set_device_major(1).unwrap();
            raw_name(&mut header, b"null");
            tar.append(&header, &b""[..]).unwrap();
        });
        let error = extract(&bytes[..], &mut tree, b"", &Rules::default()).unwrap_err();
        assert_eq!(error.to_string(), "\"null\": a device in a build context");
        let bytes = archive(|tar| {
            for name in ["a", "b", "c"] {
                tar.append_data(&mut header(tar::EntryType::Regular, 1, 0o644), name, &b"x"[..]).unwrap();
            }
        });
        let rules = Rules { limits: Limits { entries: 2, bytes: 10 }, ..Rules::default() };
        assert!(extract(&bytes[..], &mut tree, b"", &rules).unwrap_err().to_string().contains("more than 2 entries"));
    }

    #[test]
    fn folders_are_made_through_links_that_dangle() {
        let folder = tempfile::tempdir().unwrap();
        symlink("/real/place", folder.path().join("link")).unwrap();
        let mut tree = Tree::open(folder.path()).unwrap();
        let owner = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        assert_eq!(ensure_folder(&mut tree, b"link/x", owner, 0o755, None).unwrap(), b"real/place/x");
        assert!(folder.path().join("real/place/x").is_dir());
        symlink("loop", folder.path().join("loop")).unwrap();
        ensure_folder(&mut tree, b"loop/x", owner, 0o755, None).unwrap_err();
        std::fs::write(folder.path().join("file"), "").unwrap();
        ensure_folder(&mut tree, b"file/x", owner, 0o755, None).unwrap_err();
    }
}
