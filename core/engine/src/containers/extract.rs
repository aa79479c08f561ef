//! Unpacking what a client sends into a container's tree, by descriptor: no name or link in the archive or in the tree
//! leads out of the container's root.

use std::io::{self, Read, Seek, SeekFrom, Write};

use nix::errno::Errno;
use nix::sys::stat::SFlag;
use sampan_image::tar_reader::{Entry, Kind, TarReader};
use sampan_image::tree::{self, Tree};

use super::archive::read_below;
use crate::error::{Error, Result};

/// The longest `/etc/passwd` that is looked at.
const PASSWD_LIMIT: u64 = 1 << 20;

/// Unpacks a tar into the folder `target` of a tree. With `owner`, everything is given to it.
pub(super) fn extract(
    reader: impl Read,
    tree: Tree,
    target: &[u8],
    keep_kinds: bool,
    owner: Option<(u32, u32)>,
) -> Result<()> {
    let mut unpacking = Unpacking {
        tar: TarReader::new(reader),
        tree,
        target: target.to_vec(),
        keep_kinds,
        owner,
        folders: Vec::new(),
    };
    while let Some(entry) = unpacking.tar.next_entry().map_err(|error| bad("", &error))? {
        let shown = String::from_utf8_lossy(&entry.path).into_owned();
        let path = tree::clean(&entry.path).map_err(|rule| Error::invalid(format!("unpack {shown:?}: {rule}")))?;
        unpacking.one(&entry, &path, &shown)?;
    }
    unpacking.finish()
}

fn bad(shown: &str, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::unavailable(format!("unpack {shown:?}: {error}"))
        }
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            Error::invalid(format!("unpack the archive: {error}"))
        }
        io::ErrorKind::ReadOnlyFilesystem => Error::forbidden(format!("unpack {shown:?}: {error}")),
        _ => Error::internal(format!("unpack {shown:?}: {error}")),
    }
}

struct Unpacking<R> {
    tar: TarReader<R>,
    tree: Tree,
    target: Vec<u8>,
    keep_kinds: bool,
    owner: Option<(u32, u32)>,
    /// Folders with the times that they get when all is in them.
    folders: Vec<(Vec<u8>, (i64, u32))>,
}

impl<R: Read> Unpacking<R> {
    /// A path of the archive as one of the tree.
    fn at(&self, path: &[u8]) -> Vec<u8> {
        match (self.target.is_empty(), path.is_empty()) {
            (true, _) => path.to_vec(),
            (_, true) => self.target.clone(),
            _ => [&self.target[..], b"/", path].concat(),
        }
    }

    /// The folder of that path of the archive, made where it is not there.
    fn folder(&mut self, path: &[u8]) -> nix::Result<std::rc::Rc<tree::Folder>> {
        let whole = self.at(path);
        match self.tree.folder(&whole) {
            Err(Errno::ENOENT) if !path.is_empty() => {
                let (parent, name) = tree::split(path);
                let above = self.folder(parent)?;
                tree::make_folder(&*above, name, 0o755)?;
                self.tree.folder(&whole)
            }
            other => other,
        }
    }

    fn one(&mut self, entry: &Entry, path: &[u8], shown: &str) -> Result<()> {
        if path.is_empty() {
            // The folder itself: it is there, and stays as it is.
            return Ok(());
        }
        let failed = |errno: Errno| bad(shown, &errno.into());
        let (parent, name) = tree::split(path);
        let folder = self.folder(parent).map_err(failed)?;
        let before = tree::stat(&*folder, name).map_err(failed)?;
        let is_folder = before.is_some_and(|stat| tree::format(&stat) == nix::libc::S_IFDIR);
        let wants_folder = entry.kind == Kind::Directory;
        if before.is_some() && self.keep_kinds && is_folder != wants_folder {
            let (old, new) = if is_folder { ("directory", "non-directory") } else { ("non-directory", "directory") };
            return Err(Error::invalid(format!("cannot overwrite {old} {shown:?} with {new} {shown:?}")));
        }
        if before.is_some() && !(is_folder && wants_folder) {
            tree::remove(&*folder, name).map_err(failed)?;
            self.tree.forget();
        }
        self.make(entry, &folder, name, path, is_folder, shown)
    }

    fn make(
        &mut self,
        entry: &Entry,
        folder: &tree::Folder,
        name: &[u8],
        path: &[u8],
        is_there: bool,
        shown: &str,
    ) -> Result<()> {
        let failed = |errno: Errno| bad(shown, &errno.into());
        match entry.kind {
            Kind::Directory => {
                if !is_there {
                    tree::make_folder(folder, name, 0o700).map_err(failed)?;
                }
            }
            Kind::File => self.file(entry, folder, name).map_err(|error| bad(shown, &error))?,
            Kind::Symlink => tree::make_link(&entry.link, folder, name).map_err(failed)?,
            Kind::Hardlink => {
                let link = tree::clean(&entry.link)
                    .map_err(|rule| Error::invalid(format!("unpack {shown:?}: the link's target: {rule}")))?;
                let (parent, old) = tree::split(&link);
                let from = self.folder(parent).map_err(failed)?;
                tree::hard_link(&*from, old, folder, name).map_err(failed)?;
                return Ok(());
            }
            Kind::Character | Kind::Block => {
                let kind = if entry.kind == Kind::Character { SFlag::S_IFCHR } else { SFlag::S_IFBLK };
                let device = nix::sys::stat::makedev(entry.device.0.into(), entry.device.1.into());
                tree::make_node(folder, name, kind, 0o600, device).map_err(failed)?;
            }
            Kind::Fifo => tree::make_node(folder, name, SFlag::S_IFIFO, 0o600, 0).map_err(failed)?,
        }
        let id = |id: u64| u32::try_from(id).unwrap_or(u32::MAX);
        let (uid, gid) = self.owner.unwrap_or((id(entry.uid), id(entry.gid)));
        tree::set_owner(folder, name, uid, gid).map_err(failed)?;
        if entry.kind != Kind::Symlink {
            // Behind the owner, whose change takes set-id bits away.
            tree::set_mode(folder, name, entry.mode & 0o7777).map_err(failed)?;
        }
        if entry.kind == Kind::Directory {
            self.folders.push((path.to_vec(), entry.mtime));
            return Ok(());
        }
        tree::set_times(folder, name, entry.mtime).map_err(failed)
    }

    fn file(&mut self, entry: &Entry, folder: &tree::Folder, name: &[u8]) -> io::Result<()> {
        let mut file = tree::create_file(folder, name, 0o600)?;
        let mut parts = entry.parts.clone().unwrap_or_else(|| vec![(0, entry.size)]).into_iter();
        let mut room = 0;
        loop {
            let mut chunk = self.tar.chunk()?;
            if chunk.is_empty() {
                break;
            }
            while !chunk.is_empty() {
                if room == 0 {
                    let Some((offset, length)) = parts.next() else { return Err(io::ErrorKind::InvalidData.into()) };
                    file.seek(SeekFrom::Start(offset))?;
                    room = length;
                    continue;
                }
                let take = usize::try_from(room).unwrap_or(usize::MAX).min(chunk.len());
                file.write_all(&chunk[..take])?;
                room -= take as u64;
                chunk = &chunk[take..];
            }
        }
        file.set_len(entry.size)
    }

    /// Gives folders their times, the deepest first.
    fn finish(mut self) -> Result<()> {
        for (path, time) in std::mem::take(&mut self.folders).into_iter().rev() {
            let (parent, name) = tree::split(&path);
            let set = self.folder(parent).and_then(|folder| tree::set_times(&*folder, name, time));
            set.map_err(|errno| bad(&String::from_utf8_lossy(&path), &errno.into()))?;
        }
        self.tar.drain().map_err(|error| bad("", &error))
    }
}

/// The ids of a container's user, in Docker's form `user[:group]` with names or numbers.
pub(super) fn user_ids(tree: &Tree, user: &str) -> Result<(u32, u32)> {
    let (name, group) = user.split_once(':').map_or((user, None), |(name, group)| (name, Some(group)));
    let lines = |file: &str| -> Vec<Vec<String>> {
        let mut text = String::new();
        let read = read_below(tree, b"etc", file).and_then(|file| file.take(PASSWD_LIMIT).read_to_string(&mut text));
        if read.is_err() {
            return Vec::new();
        }
        text.lines().map(|line| line.split(':').map(ToOwned::to_owned).collect()).collect()
    };
    let number = |field: Option<&String>| field.and_then(|field| field.parse::<u32>().ok());
    let unknown = |what: &str, name: &str| Error::invalid(format!("unable to find {what} {name} in the container"));
    let passwd = lines("passwd");
    let entry = passwd.iter().find(|fields| {
        fields.first().is_some_and(|found| found == name) || fields.get(2).is_some_and(|found| found == name)
    });
    let uid = number(entry.and_then(|fields| fields.get(2)))
        .or_else(|| name.parse().ok())
        .ok_or_else(|| unknown("user", name))?;
    let gid = match group {
        None => number(entry.and_then(|fields| fields.get(3))).unwrap_or(0),
        Some(group) => lines("group")
            .iter()
            .find(|fields| fields.first().is_some_and(|found| found == group))
            .and_then(|fields| number(fields.get(2)))
            .or_else(|| group.parse().ok())
            .ok_or_else(|| unknown("group", group))?,
    };
    Ok((uid, gid))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;
    use std::path::Path;

    fn archive(entries: &[(&str, u8, &str)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::new(*kind));
            header.set_mode(0o644);
            header.set_uid(7);
            header.set_gid(8);
            header.set_mtime(1_000_000_000);
            header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
            let content = match kind {
                b'0' => content.as_bytes(),
                b'5' => b"",
                _ => {
                    header.as_gnu_mut().unwrap().linkname[..content.len()].copy_from_slice(content.as_bytes());
                    b""
                }
            };
            header.set_size(content.len() as u64);
            header.set_cksum();
            tar.append(&header, content).unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn put(root: &Path, target: &str, entries: &[(&str, u8, &str)], keep: bool) -> Result<()> {
        extract(&archive(entries)[..], Tree::open(root).unwrap(), target.as_bytes(), keep, None)
    }

    #[test]
    fn links_do_not_lead_out_and_kinds_are_kept_when_asked() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: links_do_not_lead_out_and_kinds_are_kept_when_asked needs root");
            return;
        }
        let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = folder.path();
        fs::create_dir_all(root.join("data/dir")).unwrap();
        std::os::unix::fs::symlink(outside.path(), root.join("data/out")).unwrap();
        put(root, "data", &[("a/b", b'0', "text")], false).unwrap();
        // Within the root there is nothing where the link points to.
        assert!(put(root, "data", &[("out/file", b'0', "inside")], false).is_err());
        assert_eq!(fs::read_to_string(root.join("data/a/b")).unwrap(), "text");
        // The link's target is taken within the root.
        assert!(fs::read_dir(outside.path()).unwrap().next().is_none());
        assert!(put(root, "data", &[("../x", b'0', "")], false).is_err());
        let refused = put(root, "data", &[("dir", b'0', "")], true).unwrap_err();
        assert!(refused.message.contains("cannot overwrite directory"), "{refused}");
        put(root, "data", &[("dir", b'0', "now a file"), ("l", b'2', "/etc/passwd"), ("h", b'1', "dir")], false)
            .unwrap();
        assert_eq!(fs::read_to_string(root.join("data/h")).unwrap(), "now a file");
        use std::os::unix::fs::MetadataExt;
        let found = fs::metadata(root.join("data/dir")).unwrap();
        assert_eq!((found.uid(), found.gid(), found.mtime(), found.nlink()), (7, 8, 1_000_000_000, 2));
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("etc")).unwrap();
        fs::write(folder.path().join("etc/passwd"), "web:x:101:102::/:/bin/sh\n").unwrap();
        fs::write(folder.path().join("etc/group"), "staff:x:50:\n").unwrap();
        let tree = Tree::open(folder.path()).unwrap();
        let ids = |user: &str| user_ids(&tree, user).map_err(|error| error.message);
        assert_eq!(ids("web"), Ok((101, 102)));
        assert_eq!(ids("web:staff"), Ok((101, 50)));
        assert_eq!(ids("5:6"), Ok((5, 6)));
        assert_eq!(ids("101"), Ok((101, 102)));
        assert!(ids("nobody").is_err());
    }
}
