//! Finding and making paths below a root, by descriptor.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use crate::sys::{self, open_in_root};

/// The name of a descriptor, for system calls that take paths.
pub fn descriptor_path(descriptor: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
}

/// How many links of the image may lead to places that are yet to be made; the kernel's own bound.
const LINKS: usize = 40;

/// Opens a directory below the root, making what is missing on the way with mode 0755.
pub fn ensure_directory(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    ensure_below(root, path, LINKS)
}

fn ensure_below(root: BorrowedFd<'_>, path: &Path, links: usize) -> io::Result<OwnedFd> {
    match open_in_root(root, path, libc::O_PATH | libc::O_DIRECTORY, 0) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let mut walked = PathBuf::new();
    let mut current = open_in_root(root, Path::new("."), libc::O_PATH | libc::O_DIRECTORY, 0)?;
    for part in parts(path) {
        walked.push(&part);
        // Each step is resolved from the root again, so that links of the image work and cannot lead out.
        current = match open_in_root(root, &walked, libc::O_PATH | libc::O_DIRECTORY, 0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let name = sys::c_string(&part)?;
                match nix::sys::stat::mkdirat(
                    current.as_fd(),
                    name.as_c_str(),
                    nix::sys::stat::Mode::from_bits_truncate(0o755),
                ) {
                    Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
                    Err(errno) => return Err(errno.into()),
                }
                match open_in_root(root, &walked, libc::O_PATH | libc::O_DIRECTORY, 0) {
                    // A link to what is not there: make that, below the root like everything.
                    Err(error) if error.kind() == io::ErrorKind::NotFound && links > 0 => {
                        let target = PathBuf::from(nix::fcntl::readlinkat(current.as_fd(), name.as_c_str())?);
                        let target = walked.parent().unwrap_or(Path::new("")).join(target);
                        ensure_below(root, &target, links - 1)?
                    }
                    other => other?,
                }
            }
            other => other?,
        };
    }
    Ok(current)
}

/// Opens a file below the root to mount over it, making an empty one if there is none.
pub fn ensure_file(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    match open_in_root(root, path, libc::O_PATH, 0) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    if let Some(parent) = path.parent() {
        ensure_directory(root, parent)?;
    }
    drop(open_in_root(root, path, libc::O_CREAT | libc::O_WRONLY, 0o644)?);
    open_in_root(root, path, libc::O_PATH, 0)
}

fn parts(path: &Path) -> Vec<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}
