//! `RUN --mount=type=bind,rw`: files that a step may write to, and whose changes go with it.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use sampan_build::context::Scratch;

use crate::error::{Error, Result};

/// What the views in a bundle begin with.
const PREFIX: &str = "view-";

/// Makes a writable view of a file or a directory; what is written is in `scratch`. A directory is laid below an overlay,
/// and copied where the kernel has none for it. Blocks.
pub(super) fn ensure(bundle: &Path, number: usize, source: &Path, scratch: &Scratch) -> Result<PathBuf> {
    let make = || -> io::Result<PathBuf> {
        if !fs::metadata(source)?.is_dir() {
            let copy = scratch.path().join("file");
            fs::copy(source, &copy)?;
            let of = fs::metadata(source)?;
            use std::os::unix::fs::MetadataExt;
            std::os::unix::fs::chown(&copy, Some(of.uid()), Some(of.gid()))?;
            return Ok(copy);
        }
        let view = bundle.join(format!("{PREFIX}{number}"));
        fs::create_dir(&view)?;
        match overlay(source, scratch.path(), &view) {
            Ok(()) => Ok(view),
            Err(error) => {
                tracing::debug!(%error, "no overlay over the source of a writable mount: it is copied");
                let copy = scratch.path().join("copy");
                fs::create_dir(&copy)?;
                super::run::copy_tree(source, &copy).map_err(|error| io::Error::other(error.message))?;
                Ok(copy)
            }
        }
    };
    make().map_err(|error| Error::internal(format!("make the writable mount {number} of a build step: {error}")))
}

/// Paths are given by descriptor: no name of the user's has to be written as an option.
fn overlay(lower: &Path, scratch: &Path, view: &Path) -> io::Result<()> {
    let (upper, work) = (scratch.join("upper"), scratch.join("work"));
    fs::create_dir(&upper)?;
    fs::create_dir(&work)?;
    let of = fs::metadata(lower)?;
    std::os::unix::fs::chown(
        &upper,
        Some(std::os::unix::fs::MetadataExt::uid(&of)),
        Some(std::os::unix::fs::MetadataExt::gid(&of)),
    )?;
    fs::set_permissions(&upper, of.permissions())?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let folder = |path: &Path| open(path, flags, Mode::empty()).map(File::from);
    let (lower, upper, work) = (folder(lower)?, folder(&upper)?, folder(&work)?);
    let at = |file: &File| format!("/proc/self/fd/{}", file.as_raw_fd());
    let options = format!("lowerdir={},upperdir={},workdir={}", at(&lower), at(&upper), at(&work));
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    Ok(mount(Some("overlay"), view, Some("overlay"), flags, Some(options.as_str()))?)
}

/// Takes the views of a bundle off; none is fine. Blocks.
pub(super) fn remove(bundle: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(bundle) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            match umount2(&entry.path(), MntFlags::MNT_DETACH) {
                Ok(()) | Err(Errno::ENOENT | Errno::EINVAL) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}
