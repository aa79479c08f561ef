//! What the image has at a volume's path goes into the volume when that is empty; and folders of volumes.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MsFlags, mount};

/// Copies what the root file system has at `destination` into an empty directory, its owner and mode with it. A path
/// that is not there, or is no directory, is fine. Whatever links the image has, nothing outside of its root is read.
pub(crate) fn populate(rootfs: &Path, destination: &str, volume: &Path) -> io::Result<()> {
    if !is_empty(volume)? {
        return Ok(());
    }
    let root = File::open(rootfs)?;
    let relative = destination.trim_start_matches('/');
    let source = match open_below(&root, relative, ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(()),
        other => other?,
    };
    sampan_storage::copy_tree(&PathBuf::from(format!("/proc/self/fd/{}/.", source.as_raw_fd())), volume)
}

fn is_empty(directory: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(directory)? {
        // A fresh file system of its own has this folder.
        if entry?.file_name() != "lost+found" {
            return Ok(false);
        }
    }
    Ok(true)
}

fn open_below(root: &File, path: &str, resolve: ResolveFlag) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { "." } else { path };
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC).resolve(resolve);
    openat2(root, path, how).map_err(io::Error::from)
}

/// Binds a folder (or file) of a volume at `at`, so that a container that can write the volume cannot lead its mount
/// elsewhere by a link.
pub(crate) fn bind_subpath(volume: &Path, subpath: &str, at: &Path) -> io::Result<()> {
    let root = File::open(volume)?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let source = openat2(&root, subpath, how).map_err(io::Error::from)?;
    let is_directory = nix::sys::stat::fstat(&source)?.st_mode & nix::libc::S_IFMT == nix::libc::S_IFDIR;
    if is_directory {
        fs::create_dir_all(at)?;
    } else {
        File::create(at)?;
    }
    let from = format!("/proc/self/fd/{}", source.as_raw_fd());
    mount(Some(from.as_str()), at, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn an_empty_volume_gets_the_images_files_and_nothing_of_the_hosts() {
        let folder = tempfile::tempdir().unwrap();
        let (rootfs, volume) = (folder.path().join("root"), folder.path().join("volume"));
        fs::create_dir_all(rootfs.join("data/sub")).unwrap();
        fs::create_dir(&volume).unwrap();
        fs::write(rootfs.join("data/sub/file"), "x").unwrap();
        // An image's link that means the host's root stays below the image's.
        symlink("/data", rootfs.join("link")).unwrap();
        symlink("/../../../../etc", rootfs.join("out")).unwrap();
        populate(&rootfs, "/link", &volume).unwrap();
        assert_eq!(fs::read_to_string(volume.join("sub/file")).unwrap(), "x");
        fs::write(rootfs.join("data/later"), "y").unwrap();
        populate(&rootfs, "/data", &volume).unwrap();
        assert!(!volume.join("later").exists());
        let other = folder.path().join("other");
        fs::create_dir(&other).unwrap();
        for missing in ["/no", "/data/sub/file", "/out"] {
            populate(&rootfs, missing, &other).unwrap();
        }
        assert!(is_empty(&other).unwrap());
    }

    #[test]
    fn a_subpath_does_not_follow_links() {
        let folder = tempfile::tempdir().unwrap();
        symlink("/etc", folder.path().join("link")).unwrap();
        assert!(bind_subpath(folder.path(), "link", &folder.path().join("at")).is_err());
        assert!(bind_subpath(folder.path(), "../x", &folder.path().join("at")).is_err());
    }
}
