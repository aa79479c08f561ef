//! Whole trees: removing and copying them without following a link.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, mknod, utimensat};
use nix::sys::time::TimeSpec;

/// Removes a tree; nothing there is fine. `std` removes by descriptor, so a link that appears meanwhile is not followed.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if metadata.is_dir() => match fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        },
        Ok(_) => fs::remove_file(path),
    }
}

/// Bytes of the files below a directory, hard links once; what cannot be read counts nothing.
#[must_use]
pub fn tree_size(root: &Path) -> u64 {
    let (mut seen, mut folders, mut bytes) = (HashSet::new(), vec![root.to_owned()], 0);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else { continue };
            if found.is_dir() {
                folders.push(entry.path());
            } else if found.nlink() == 1 || seen.insert((found.dev(), found.ino())) {
                bytes += found.len();
            }
        }
    }
    bytes
}

/// Copies a tree with owners, modes, times, links, hard links, devices and attributes.
pub fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    let mut seen = HashMap::new();
    copy_into(from, to, &mut seen)?;
    copy_metadata(from, to, &fs::symlink_metadata(from)?)
}

fn copy_into(from: &Path, to: &Path, seen: &mut HashMap<(u64, u64), PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let metadata = entry.metadata()?;
        let kind = metadata.file_type();
        if !metadata.is_dir() && metadata.nlink() > 1 {
            if let Some(first) = seen.get(&(metadata.dev(), metadata.ino())) {
                fs::hard_link(first, &target)?;
                continue;
            }
            seen.insert((metadata.dev(), metadata.ino()), target.clone());
        }
        if kind.is_dir() {
            fs::create_dir(&target)?;
            copy_into(&source, &target, seen)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
        } else if kind.is_file() {
            // `std` asks the kernel to share blocks, or to copy them itself.
            fs::copy(&source, &target)?;
        } else {
            let format = if kind.is_block_device() {
                SFlag::S_IFBLK
            } else if kind.is_char_device() {
                SFlag::S_IFCHR
            } else if kind.is_fifo() {
                SFlag::S_IFIFO
            } else {
                SFlag::S_IFSOCK
            };
            mknod(&target, format, Mode::from_bits_truncate(metadata.mode()), metadata.rdev())?;
        }
        copy_metadata(&source, &target, &metadata)?;
    }
    Ok(())
}

fn copy_metadata(from: &Path, to: &Path, metadata: &fs::Metadata) -> io::Result<()> {
    lchown(to, Some(metadata.uid()), Some(metadata.gid()))?;
    if !metadata.is_symlink() {
        fs::set_permissions(to, fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
    }
    copy_attributes(from, to)?;
    let time = |seconds, nanoseconds| TimeSpec::new(seconds, nanoseconds);
    utimensat(
        nix::fcntl::AT_FDCWD,
        to,
        &time(metadata.atime(), metadata.atime_nsec()),
        &time(metadata.mtime(), metadata.mtime_nsec()),
        nix::sys::stat::UtimensatFlags::NoFollowSymlink,
    )
    .map_err(io::Error::from)
}

#[allow(unsafe_code)]
fn copy_attributes(from: &Path, to: &Path) -> io::Result<()> {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    let from = CString::new(from.as_os_str().as_bytes())?;
    let to = CString::new(to.as_os_str().as_bytes())?;
    let mut names = vec![0_u8; 4096];
    // SAFETY: the buffer has the length that is told.
    let length = unsafe { libc::llistxattr(from.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    let Ok(length) = usize::try_from(length) else { return Ok(()) };
    for name in names[..length].split_inclusive(|byte| *byte == 0) {
        let Ok(name) = std::ffi::CStr::from_bytes_with_nul(name) else { continue };
        let mut value = vec![0_u8; 65_536];
        // SAFETY: as above.
        let length = unsafe { libc::lgetxattr(from.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        let Ok(length) = usize::try_from(length) else { continue };
        // SAFETY: as above. What this file system cannot hold is left out, as `cp` does.
        unsafe { libc::lsetxattr(to.as_ptr(), name.as_ptr(), value.as_ptr().cast(), length, 0) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_tree_weighs_what_its_files_do_each_once() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        assert_eq!(tree_size(&root), 0, "nothing there");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/file"), [0; 1000]).unwrap();
        fs::hard_link(root.join("a/b/file"), root.join("again")).unwrap();
        fs::write(root.join("other"), [0; 24]).unwrap();
        fs::write(folder.path().join("outside"), [0; 5000]).unwrap();
        symlink("..", root.join("up")).unwrap();
        assert_eq!(tree_size(&root), 1026, "a link weighs its own text");
    }
}
