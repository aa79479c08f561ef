//! Tar streams between threads that read or write files and the connection.

use bytes::{Bytes, BytesMut};
use hyper::body::Incoming;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};
use tokio::sync::mpsc;

use crate::client::next_chunk;

/// What one chunk of an upload holds; larger ones save no time.
const CHUNK: usize = 256 << 10;

/// A writer whose bytes are sent as the chunks of an upload.
#[derive(Debug)]
pub struct ChannelWriter {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: BytesMut,
    /// Bytes written so far.
    pub written: u64,
}

/// A writer for a thread, and the chunks for the connection.
pub fn pipe() -> (ChannelWriter, mpsc::Receiver<io::Result<Bytes>>) {
    let (sender, receiver) = mpsc::channel(4);
    (ChannelWriter { sender, buffer: BytesMut::with_capacity(CHUNK), written: 0 }, receiver)
}

impl ChannelWriter {
    /// Breaks the upload off, so that the daemon does not take half of it for the whole.
    pub fn fail(self, error: &io::Error) {
        let _ = self.sender.blocking_send(Err(io::Error::new(error.kind(), error.to_string())));
    }
}

impl Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        self.written += bytes.len() as u64;
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = self.buffer.split().freeze();
        self.buffer.reserve(CHUNK);
        // The daemon that takes no more has answered already; its answer says why.
        self.sender.blocking_send(Ok(chunk)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

impl Drop for ChannelWriter {
    fn drop(&mut self) {
        let _ = self.flush();
    }
}

/// Sends everything that a reader gives, from a thread of its own.
pub fn upload(mut from: impl Read + Send + 'static) -> mpsc::Receiver<io::Result<Bytes>> {
    let (mut writer, receiver) = pipe();
    std::thread::spawn(move || {
        if let Err(error) = io::copy(&mut from, &mut writer)
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            writer.fail(&error);
        }
    });
    receiver
}

/// The body of an answer, for a thread to read.
#[derive(Debug)]
pub struct ChannelReader {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    left: Bytes,
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left.is_empty() {
            match self.receiver.blocking_recv() {
                None => return Ok(0),
                Some(chunk) => self.left = chunk?,
            }
        }
        let count = buffer.len().min(self.left.len());
        buffer[..count].copy_from_slice(&self.left.split_to(count));
        Ok(count)
    }
}

/// Hands a body to a thread; the body is read by a task of this runtime.
pub fn download(mut body: Incoming) -> ChannelReader {
    let (sender, receiver) = mpsc::channel(8);
    tokio::spawn(async move {
        while let Some(chunk) = next_chunk(&mut body).await {
            if sender.send(chunk).await.is_err() {
                return;
            }
        }
    });
    ChannelReader { receiver, left: Bytes::new() }
}

/// Whose files they are in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Root's, whoever owns them here.
    Root,
    /// As here.
    Same,
}

/// What to do with an entry of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// It belongs in the archive.
    Yes,
    /// It does not, but something below may.
    Below,
    /// Neither it nor anything below.
    No,
}

/// Appends a file or a whole tree under a name, in the order of the names; the filter sees paths relative to the root.
pub fn append_tree<W: Write>(
    archive: &mut tar::Builder<W>,
    root: &Path,
    name: &Path,
    owner: Owner,
    take: &dyn Fn(&Path, bool) -> Take,
) -> io::Result<()> {
    append(archive, root, name, Path::new(""), owner, take)
}

fn append<W: Write>(
    archive: &mut tar::Builder<W>,
    path: &Path,
    name: &Path,
    relative: &Path,
    owner: Owner,
    take: &dyn Fn(&Path, bool) -> Take,
) -> io::Result<()> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let metadata = fs::symlink_metadata(path).map_err(named)?;
    let is_root = relative.as_os_str().is_empty();
    let taken = if is_root { Take::Yes } else { take(relative, metadata.is_dir()) };
    if taken == Take::No {
        return Ok(());
    }
    // The root of a context has no entry of its own.
    if taken == Take::Yes && !name.as_os_str().is_empty() {
        append_one(archive, path, name, &metadata, owner).map_err(named)?;
    }
    if metadata.is_dir() {
        let mut names: Vec<_> = fs::read_dir(path).map_err(named)?.collect::<io::Result<Vec<_>>>().map_err(named)?;
        names.sort_by_key(fs::DirEntry::file_name);
        for entry in names {
            let child = entry.file_name();
            append(archive, &entry.path(), &name.join(&child), &relative.join(&child), owner, take)?;
        }
    }
    Ok(())
}

fn append_one<W: Write>(
    archive: &mut tar::Builder<W>,
    path: &Path,
    name: &Path,
    metadata: &Metadata,
    owner: Owner,
) -> io::Result<()> {
    let kind = metadata.file_type();
    if kind.is_socket() {
        return Ok(());
    }
    let mut header = tar::Header::new_gnu();
    header.set_metadata(metadata);
    if owner == Owner::Root {
        header.set_uid(0);
        header.set_gid(0);
    }
    if kind.is_symlink() {
        header.set_size(0);
        return archive.append_link(&mut header, name, fs::read_link(path)?);
    }
    if kind.is_file() {
        let size = metadata.len();
        header.set_size(size);
        // A file that shrinks meanwhile is filled up: the archive stays whole, as its header promised.
        let content = File::open(path)?.chain(io::repeat(0)).take(size);
        return archive.append_data(&mut header, name, content);
    }
    header.set_size(0);
    archive.append_data(&mut header, name, io::empty())
}

/// Appends the entries of another archive below a folder, which is made. Links within the archive go along.
///
/// # Errors
/// What the archives say.
pub fn append_below<W: Write>(archive: &mut tar::Builder<W>, from: impl Read, folder: &str) -> io::Result<()> {
    if !folder.is_empty() {
        let mut root = tar::Header::new_ustar();
        root.set_entry_type(tar::EntryType::Directory);
        root.set_mode(0o755);
        root.set_size(0);
        archive.append_data(&mut root, format!("{folder}/"), io::empty())?;
    }
    let mut from = tar::Archive::new(from);
    for entry in from.entries()? {
        let mut entry = entry?;
        let name = Path::new(folder).join(relative(&entry.path()?));
        if name == Path::new(folder) {
            continue;
        }
        // Names, links and lengths are written anew; owners, times and attributes beyond a plain header stay as they are.
        let mut kept = Vec::new();
        for extension in entry.pax_extensions()?.into_iter().flatten() {
            let extension = extension?;
            let key = extension.key().map_err(io::Error::other)?;
            if !["path", "linkpath", "size"].contains(&key) && !key.starts_with("GNU.sparse") {
                kept.push((key.to_owned(), extension.value_bytes().to_owned()));
            }
        }
        archive.append_pax_extensions(kept.iter().map(|(key, value)| (key.as_str(), value.as_slice())))?;
        let mut header = entry.header().clone();
        let kind = header.entry_type();
        if let Some(link) = entry.link_name()? {
            let link = if kind.is_hard_link() { Path::new(folder).join(relative(&link)) } else { link.into_owned() };
            header.set_size(0);
            archive.append_link(&mut header, name, link)?;
            continue;
        }
        header.set_size(entry.size());
        archive.append_data(&mut header, name, &mut entry)?;
    }
    Ok(())
}

/// A name without `/` and `.` at its beginning.
fn relative(name: &Path) -> PathBuf {
    name.components().filter(|part| !matches!(part, Component::RootDir | Component::CurDir)).collect()
}

/// Unpacks an archive: the first part of each name is replaced by the target. Nothing is written outside of it.
///
/// # Errors
/// A name or a link that leads out, and what the file system says.
pub fn unpack(from: impl Read, target: &Path, own: bool) -> io::Result<u64> {
    let mut archive = tar::Archive::new(from);
    archive.set_preserve_permissions(true);
    archive.set_preserve_mtime(true);
    archive.set_preserve_ownerships(own);
    let mut total = 0;
    let mut root: Option<PathBuf> = None;
    let mut directories = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.into_owned();
        let below = below_root(&name)?;
        let place = if below.as_os_str().is_empty() { target.to_path_buf() } else { target.join(&below) };
        if !below.as_os_str().is_empty() {
            let root = match &root {
                Some(root) => root,
                None => root.insert(fs::canonicalize(target)?),
            };
            inside(root, &place)?;
        }
        total += entry.size();
        if entry.header().entry_type().is_dir() {
            match fs::create_dir(&place) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && place.is_dir() => {}
                other => other?,
            }
            directories.push((place, entry.header().mode().unwrap_or(0o755), entry.header().mtime().unwrap_or(0)));
        } else if entry.header().entry_type().is_hard_link() {
            let link = entry.link_name()?.ok_or_else(|| leaves(&name))?.into_owned();
            let source = target.join(below_root(&link)?);
            let root = fs::canonicalize(target)?;
            inside(&root, &source)?;
            let _ = fs::remove_file(&place);
            fs::hard_link(source, place)?;
        } else {
            entry.unpack(&place)?;
        }
    }
    // Last and from the inside out: writing into a directory changes its time, and its mode may forbid it.
    for (place, mode, _) in directories.iter().rev() {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(place, fs::Permissions::from_mode(mode & 0o7777))?;
    }
    Ok(total)
}

/// The name without its first part; one that climbs is refused.
fn below_root(name: &Path) -> io::Result<PathBuf> {
    let mut parts = Vec::new();
    for part in name.components() {
        match part {
            Component::Normal(part) => parts.push(part),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(leaves(name)),
        }
    }
    Ok(parts.into_iter().skip(1).collect())
}

/// Whether the directory of a place lies inside of the root, links followed.
fn inside(root: &Path, place: &Path) -> io::Result<()> {
    let parent = place.parent().unwrap_or(root);
    if fs::canonicalize(parent)?.starts_with(root) { Ok(()) } else { Err(leaves(place)) }
}

fn leaves(name: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the archive's entry {} leads out of the destination", name.display()),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn all(_: &Path, _: bool) -> Take {
        Take::Yes
    }

    #[test]
    fn a_tree_comes_back_under_another_name() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::write(from.join("a/b/f"), "hello").unwrap();
        std::os::unix::fs::symlink("b/f", from.join("a/l")).unwrap();
        let mut archive = tar::Builder::new(Vec::new());
        append_tree(&mut archive, &from, Path::new("base"), Owner::Root, &all).unwrap();
        let bytes = archive.into_inner().unwrap();
        let to = dir.path().join("to");
        unpack(&bytes[..], &to, false).unwrap();
        assert_eq!(fs::read_to_string(to.join("a/l")).unwrap(), "hello");
        assert!(fs::symlink_metadata(to.join("a/l")).unwrap().is_symlink());
    }

    #[test]
    fn archives_are_put_below_folders_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let long = "n".repeat(120);
        let mut one = tar::Builder::new(Vec::new());
        let head = |kind: tar::EntryType, size: u64| {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(kind);
            header.set_mode(0o640);
            header.set_size(size);
            header
        };
        one.append_data(&mut head(tar::EntryType::Directory, 0), "./", io::empty()).unwrap();
        one.append_pax_extensions([("SCHILY.xattr.user.note", &b"kept"[..]), ("mtime", &b"5.25"[..])]).unwrap();
        one.append_data(&mut head(tar::EntryType::Regular, 2), format!("d/{long}"), &b"hi"[..]).unwrap();
        one.append_link(&mut head(tar::EntryType::Link, 0), "hard", format!("d/{long}")).unwrap();
        one.append_link(&mut head(tar::EntryType::Symlink, 0), "soft", "/hard").unwrap();
        let one = one.into_inner().unwrap();
        let mut all = tar::Builder::new(Vec::new());
        for folder in ["linux_amd64", "linux_arm_v7"] {
            append_below(&mut all, &one[..], folder).unwrap();
        }
        let bytes = all.into_inner().unwrap();
        tar::Archive::new(&bytes[..]).unpack(dir.path()).unwrap();
        for folder in ["linux_amd64", "linux_arm_v7"] {
            let at = dir.path().join(folder);
            assert_eq!(fs::read_to_string(at.join("d").join(&long)).unwrap(), "hi");
            assert_eq!(fs::read_to_string(at.join("hard")).unwrap(), "hi");
            assert_eq!(fs::read_link(at.join("soft")).unwrap(), Path::new("/hard"));
        }
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut notes = 0;
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            for extension in entry.pax_extensions().unwrap().into_iter().flatten() {
                let extension = extension.unwrap();
                notes += usize::from(extension.key() == Ok("SCHILY.xattr.user.note"));
                assert!(["SCHILY.xattr.user.note", "mtime"].contains(&extension.key().unwrap()));
            }
        }
        assert_eq!(notes, 2);
    }

    #[test]
    fn nothing_leaves_the_destination() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        let link = |archive: &mut tar::Builder<Vec<u8>>, name: &str, to: &Path| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            archive.append_link(&mut header, name, to).unwrap();
        };
        let file = |archive: &mut tar::Builder<Vec<u8>>, name: &str| {
            let mut header = tar::Header::new_gnu();
            header.set_size(1);
            header.set_mode(0o644);
            archive.append_data(&mut header, name, &b"x"[..]).unwrap();
        };
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        header.set_mode(0o755);
        archive.append_data(&mut header, "base", io::empty()).unwrap();
        link(&mut archive, "base/l", &outside);
        file(&mut archive, "base/l/evil");
        let error = unpack(&archive.into_inner().unwrap()[..], &dir.path().join("to"), false).unwrap_err();
        assert!(error.to_string().contains("leads out"), "{error}");
        assert!(fs::read_dir(&outside).unwrap().next().is_none());
        assert!(below_root(Path::new("a/../../b")).is_err());
    }
}
