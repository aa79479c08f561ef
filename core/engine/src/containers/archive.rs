//! Files in and out: `cp`, `export`, `diff`.
//!
//! Paths are resolved by descriptor below the container's root (`sampan_image::tree`). A container that runs is entered
//! through its first process, so that its volumes are seen; one that does not has its root mounted meanwhile.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bollard_stubs::models::{ChangeType, FilesystemChange};
use bytes::{Bytes, BytesMut};
use sampan_image::{ChainId, ChangeKind, ChangeView, LayerBackend, tree};
use tokio::sync::mpsc;
use tokio_util::io::SyncIoBridge;

use super::record::Status;
use super::{Container, Containers, PathStat, extract};
use crate::error::{Error, Result};
use crate::images::{Download, Upload};
use crate::layers::Layers;
use crate::{Engine, blocking};

/// Pieces of a tar on their way to a client.
const QUEUE: usize = 16;
/// Bytes of a piece.
const PIECE: usize = 64 << 10;

/// A place to look for a path: a directory of the host, and the rest of the path in it.
pub(super) struct Root {
    /// Which nothing leaves.
    pub anchor: PathBuf,
    /// Within it.
    pub path: String,
    /// Keeps the root mounted, and the container from being started meanwhile.
    _hold: Option<Hold>,
}

/// A root that is mounted for us alone.
struct Hold {
    containers: Containers,
    id: String,
    _lock: tokio::sync::OwnedMutexGuard<()>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Err(error) = self.containers.layers().unmount(&self.id) {
            tracing::warn!(container = self.id, %error, "a root that was mounted for a copy stays mounted");
        }
    }
}

impl Containers {
    /// Where a path of a container is found. With `volumes`, what is mounted over it counts.
    async fn root_for(&self, container: &Arc<Container>, path: &str, volumes: bool) -> Result<Root> {
        let path = format!("/{}", path.trim_start_matches('/'));
        let id = container.id.clone();
        let mut record = container.snapshot();
        let runs = |status| matches!(status, Status::Running | Status::Paused);
        let mut lock = None;
        if !runs(record.state.status) {
            lock = Some(Arc::clone(&container.operation).lock_owned().await);
            record = container.snapshot();
        }
        let Some(lock) = lock.filter(|_| !runs(record.state.status)) else {
            let anchor = if volumes {
                PathBuf::from(format!("/proc/{}/root", record.state.pid))
            } else {
                self.shared().config.rootfs(&id)
            };
            return Ok(Root { anchor, path, _hold: None });
        };
        let (containers, chain) = (self.clone(), record.chain.clone());
        let hold = Hold { containers: self.clone(), id: id.clone(), _lock: lock };
        // What never ran is what its image is.
        let has_run = record.state.started_ns != 0;
        let anchor = blocking(move || {
            let layers = containers.layers();
            if has_run { layers.mount_container(&id, &chain) } else { layers.mount(&id, &chain) }
        })
        .await?;
        // The nearest mount over the path is looked into by itself.
        let over = record
            .mounts
            .iter()
            .filter(|mount| volumes && !mount.source.is_empty())
            .filter_map(|mount| Some((mount, within(&path, &mount.destination)?)))
            .max_by_key(|(mount, _)| mount.destination.len());
        Ok(match over {
            Some((mount, rest)) => {
                Root { anchor: PathBuf::from(&mount.source), path: format!("/{rest}"), _hold: Some(hold) }
            }
            None => Root { anchor, path, _hold: Some(hold) },
        })
    }
}

/// The rest of a path behind a folder that it lies in.
fn within<'a>(path: &'a str, folder: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(folder.trim_end_matches('/'))?;
    if rest.is_empty() { Some("") } else { rest.strip_prefix('/') }
}

/// A path's folder and name. The last part is not followed when it is a link, unless the path says that it is a folder.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    folder: Vec<u8>,
    name: Vec<u8>,
    /// How the client calls it.
    called: String,
}

impl Wanted {
    fn parse(path: &str) -> Self {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        let folder = path.ends_with('/') || path.ends_with("/.") || path == ".";
        let called = match parts.last() {
            _ if path.ends_with("/.") || path == "." => ".",
            None => "/",
            Some(last) => last,
        };
        let called = called.to_owned();
        // What ends in `..` has no name to look up in its folder.
        if folder || parts.last().is_none_or(|last| *last == "..") {
            return Self { folder: parts.join("/").into_bytes(), name: b".".to_vec(), called };
        }
        let name = parts.last().copied().unwrap_or(".").as_bytes().to_vec();
        let folder = parts[..parts.len() - 1].join("/").into_bytes();
        Self { folder, name, called }
    }
}

fn found(anchor: &Path, path: &str, container: &str) -> Result<(Wanted, OwnedFd, PathStat)> {
    let missing = || Error::not_found(format!("Could not find the file {path} in container {container}"));
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => missing(),
        io::ErrorKind::NotADirectory => Error::invalid(format!("{path}: a part of it is not a directory")),
        _ => Error::internal(format!("look for {path} in container {container}: {error}")),
    };
    let wanted = Wanted::parse(path);
    let tree = tree::Tree::open(anchor).map_err(failed)?;
    let folder = tree.open_folder(&wanted.folder).map_err(|errno| failed(errno.into()))?;
    let stat = tree::stat(&folder, &wanted.name).map_err(|errno| failed(errno.into()))?.ok_or_else(missing)?;
    let link_target = if tree::format(&stat) == nix::libc::S_IFLNK {
        let target = tree::read_link(&folder, &wanted.name).map_err(|errno| failed(errno.into()))?;
        absolute_link(&wanted, &String::from_utf8_lossy(&target))
    } else {
        String::new()
    };
    let described = PathStat {
        name: wanted.called.clone(),
        size: stat.st_size,
        mode: go_mode(stat.st_mode),
        mtime: sampan_image::timestamp::format(
            stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(stat.st_mtime_nsec),
        ),
        link_target,
    };
    Ok((wanted, folder, described))
}

/// Where a link points, as a path from the container's root, which is how clients follow it.
fn absolute_link(wanted: &Wanted, target: &str) -> String {
    if target.starts_with('/') {
        return target.to_owned();
    }
    let folder = String::from_utf8_lossy(&wanted.folder).into_owned();
    let mut parts: Vec<&str> = Vec::new();
    for part in folder.split('/').chain(target.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// The bits of Go's `os.FileMode`.
fn go_mode(mode: u32) -> u32 {
    let kind = match mode & nix::libc::S_IFMT {
        nix::libc::S_IFDIR => 1 << 31,
        nix::libc::S_IFLNK => 1 << 27,
        nix::libc::S_IFBLK => 1 << 26,
        nix::libc::S_IFIFO => 1 << 25,
        nix::libc::S_IFSOCK => 1 << 24,
        nix::libc::S_IFCHR => 1 << 26 | 1 << 21,
        _ => 0,
    };
    let special = [(nix::libc::S_ISUID, 1 << 23), (nix::libc::S_ISGID, 1 << 22), (nix::libc::S_ISVTX, 1 << 20)];
    special.into_iter().filter(|(bit, _)| mode & bit != 0).fold(kind | mode & 0o777, |all, (_, bit)| all | bit)
}

/// Writes pieces into a channel; blocks while it is full.
pub(crate) struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: BytesMut,
}

impl Pieces {
    fn send(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = self.buffer.split().freeze();
        self.sender.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

/// Runs the writer of a tar on a thread; a failure is the last thing in the channel.
pub(crate) fn download(
    work: impl FnOnce(Pieces) -> std::result::Result<Pieces, sampan_image::PackError> + Send + 'static,
) -> Download {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::task::spawn_blocking(move || {
        let pieces = Pieces { sender: sender.clone(), buffer: BytesMut::new() };
        let outcome = work(pieces).map_err(io::Error::other).and_then(|mut pieces| pieces.flush());
        if let Err(error) = outcome {
            let _ = sender.blocking_send(Err(error));
        }
    });
    receiver
}

impl Engine {
    /// A path as a tar.
    pub async fn archive_get(&self, id: &str, path: &str) -> Result<(PathStat, Download)> {
        let containers = &self.inner.containers;
        let container = containers.find(id)?;
        let root = containers.root_for(&container, path, true).await?;
        let name = container.name();
        let (wanted, folder, stat, root) = blocking(move || {
            let (wanted, folder, stat) = found(&root.anchor, &root.path, &name)?;
            Ok((wanted, folder, stat, root))
        })
        .await?;
        // The root itself has no name of its own.
        let called = if wanted.called == "/" { ".".to_owned() } else { wanted.called.clone() };
        let chunks = download(move |out| {
            let packed = sampan_image::pack_entry(&folder, &wanted.name, called.as_bytes(), out);
            drop(root);
            packed
        });
        Ok((stat, chunks))
    }

    /// What a path is.
    pub async fn archive_head(&self, id: &str, path: &str) -> Result<PathStat> {
        let containers = &self.inner.containers;
        let container = containers.find(id)?;
        let root = containers.root_for(&container, path, true).await?;
        let name = container.name();
        blocking(move || Ok(found(&root.anchor, &root.path, &name)?.2)).await
    }

    /// Unpacks a tar into a directory. `keep_kinds` refuses to replace a directory by something else and the reverse;
    /// `copy_ids` gives everything to the container's user instead of keeping the owners of the archive.
    pub async fn archive_put(
        &self,
        id: &str,
        path: &str,
        upload: Upload,
        keep_kinds: bool,
        copy_ids: bool,
    ) -> Result<()> {
        let containers = &self.inner.containers;
        let container = containers.find(id)?;
        let root = containers.root_for(&container, path, true).await?;
        let (name, user, read_only) = {
            let record = container.record();
            (
                record.name.clone(),
                record.config.user.clone().filter(|user| copy_ids && !user.is_empty()),
                record.host.readonly_rootfs.unwrap_or(false) && !covered(&record.mounts, path),
            )
        };
        if read_only {
            return Err(Error::forbidden("container rootfs is marked read-only"));
        }
        let shown = path.to_owned();
        let upload = SyncIoBridge::new(upload);
        blocking(move || {
            let target = root.path.trim_end_matches("/.").trim_matches('/').as_bytes().to_vec();
            let tree = tree::Tree::open(&root.anchor)
                .map_err(|error| Error::internal(format!("open the root of container {name}: {error}")))?;
            match tree.open_folder(&target) {
                Ok(_) => {}
                Err(nix::errno::Errno::ENOENT) => {
                    return Err(Error::not_found(format!("Could not find the file {shown} in container {name}")));
                }
                Err(nix::errno::Errno::ENOTDIR) => return Err(Error::invalid("extraction point is not a directory")),
                Err(errno) => return Err(Error::internal(format!("open {shown} in container {name}: {errno}"))),
            }
            let owner = match user {
                Some(user) => Some(extract::user_ids(&tree, &user)?),
                None => None,
            };
            extract::extract(upload, tree, &target, keep_kinds, owner)
        })
        .await
    }

    /// Removes files and folders. What is not there is gone already.
    pub async fn remove_paths(&self, id: &str, paths: Vec<String>) -> Result<()> {
        let containers = &self.inner.containers;
        let container = containers.find(id)?;
        for path in paths {
            let root = containers.root_for(&container, &path, true).await?;
            let name = container.name();
            blocking(move || {
                let failed =
                    |errno: nix::errno::Errno| Error::internal(format!("remove {path} from container {name}: {errno}"));
                let wanted = Wanted::parse(&root.path);
                let tree = tree::Tree::open(&root.anchor)
                    .map_err(|error| Error::internal(format!("open the root of container {name}: {error}")))?;
                let folder = match tree.open_folder(&wanted.folder) {
                    Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR) => return Ok(()),
                    other => other.map_err(failed)?,
                };
                match tree::remove(&folder, &wanted.name) {
                    Err(nix::errno::Errno::ENOENT) => Ok(()),
                    other => other.map_err(failed),
                }
            })
            .await?;
        }
        Ok(())
    }

    /// The whole root as a tar.
    pub async fn export(&self, id: &str) -> Result<Download> {
        let containers = &self.inner.containers;
        let container = containers.find(id)?;
        let root = containers.root_for(&container, "/", false).await?;
        containers.publish(&container, "export", []);
        Ok(download(move |out| {
            let packed = sampan_image::pack_tree(&root.anchor, out);
            drop(root);
            packed
        }))
    }

    /// What has changed over the image.
    pub async fn changes(&self, id: &str) -> Result<Vec<FilesystemChange>> {
        let containers = self.inner.containers.clone();
        let container = containers.find(id)?;
        let chain = container.record().chain.clone();
        blocking(move || {
            let layers = containers.layers();
            let view = layers.changes(&container.id, &chain)?;
            let lower = match view {
                ChangeView::Upper(_) => directories(layers, &chain)?,
                ChangeView::Compare(..) => Vec::new(),
            };
            let found = sampan_image::changes(&view, &lower)
                .map_err(|error| Error::internal(format!("compare the container with its image: {error}")))?;
            let kind = |kind| match kind {
                ChangeKind::Modified => ChangeType::_0,
                ChangeKind::Added => ChangeType::_1,
                ChangeKind::Deleted => ChangeType::_2,
            };
            let change = |change: sampan_image::Change| FilesystemChange {
                path: String::from_utf8_lossy(&change.path).into_owned(),
                kind: kind(change.kind),
            };
            Ok(found.into_iter().map(change).collect())
        })
        .await
    }
}

/// Where the layers of a chain lie, nearest first.
fn directories(layers: &Layers, chain: &[String]) -> Result<Vec<PathBuf>> {
    let chain: Vec<ChainId> = chain
        .iter()
        .map(|id| ChainId::parse(id).map_err(|error| Error::internal(format!("the layer {id}: {error}"))))
        .collect::<Result<_>>()?;
    (0..chain.len()).map(|at| layers.prepare(&chain[at], &chain[at + 1..]).map_err(Error::internal)).collect()
}

/// Whether a writable mount lies over a path.
fn covered(mounts: &[super::record::MountRecord], path: &str) -> bool {
    let path = format!("/{}", path.trim_start_matches('/'));
    mounts
        .iter()
        .filter(|mount| within(&path, &mount.destination).is_some())
        .max_by_key(|mount| mount.destination.len())
        .is_some_and(|mount| mount.rw)
}

/// Opens a file for reading below an anchor, however the path's links go.
pub(super) fn read_below(tree: &tree::Tree, folder: &[u8], name: &str) -> io::Result<File> {
    use nix::fcntl::{OFlag, openat};
    let folder = tree.open_folder(folder)?;
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    Ok(File::from(openat(&folder, name, flags, nix::sys::stat::Mode::empty())?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn modes_have_the_bits_of_go() {
        let bits = |mode| format!("{:o}", go_mode(mode));
        assert_eq!(go_mode(0o100_644), 0o644);
        assert_eq!(go_mode(0o040_755), 0x8000_0000 | 0o755);
        assert_eq!(go_mode(0o120_777), 0x0800_0000 | 0o777);
        assert_eq!(go_mode(0o020_666), 0x0420_0000 | 0o666);
        assert_eq!(go_mode(0o060_660), 0x0400_0000 | 0o660);
        assert_eq!(go_mode(0o104_755), 0x0080_0000 | 0o755);
        assert_eq!(go_mode(0o041_777), 0x8010_0000 | 0o777);
        assert_eq!(bits(0o100_000), "0");
    }

    #[test]
    fn paths_are_called_as_the_client_calls_them() {
        let parsed = |path: &str| {
            let wanted = Wanted::parse(path);
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            (text(&wanted.folder), text(&wanted.name), wanted.called)
        };
        let of = |folder: &str, name: &str, called: &str| (folder.to_owned(), name.to_owned(), called.to_owned());
        assert_eq!(parsed("/etc/passwd"), of("etc", "passwd", "passwd"));
        assert_eq!(parsed("/etc/"), of("etc", ".", "etc"));
        assert_eq!(parsed("/etc/."), of("etc", ".", "."));
        assert_eq!(parsed("/"), of("", ".", "/"));
        assert_eq!(parsed("/a/.."), of("a/..", ".", ".."));
        assert_eq!(parsed("/a//./b"), of("a", "b", "b"));
    }

    #[test]
    fn the_nearest_mount_counts() {
        assert_eq!(within("/data/x", "/data"), Some("x"));
        assert_eq!(within("/data", "/data/"), Some(""));
        assert_eq!(within("/database", "/data"), None);
        let mount = |destination: &str, rw| super::super::record::MountRecord {
            destination: destination.to_owned(),
            rw,
            ..Default::default()
        };
        let mounts = [mount("/data", true), mount("/data/ro", false)];
        assert!(covered(&mounts, "/data/x") && !covered(&mounts, "/data/ro/x") && !covered(&mounts, "/x"));
    }

    #[test]
    fn what_is_found_is_described() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
        std::fs::write(folder.path().join("a/b/file"), "text").unwrap();
        std::os::unix::fs::symlink("b/../b/file", folder.path().join("a/link")).unwrap();
        std::os::unix::fs::symlink("/a", folder.path().join("root")).unwrap();
        let stat = |path: &str| found(folder.path(), path, "box").map(|found| found.2);
        assert_eq!(stat("/root/b/file").unwrap().size, 4);
        assert_eq!(stat("/a/link").unwrap().link_target, "/a/b/file");
        assert_eq!(stat("/root").unwrap().link_target, "/a");
        assert_eq!(stat("/root/").unwrap().mode >> 31, 1);
        let error = stat("/nothing").unwrap_err();
        assert_eq!(error.message, "Could not find the file /nothing in container box");
    }
}
