//! What of a step must never be on a disk: secrets, scripts and sockets, in a file system of memory in its bundle.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tokio::net::{UnixListener, UnixStream};

use crate::error::{Error, Result};

fn place(bundle: &Path) -> PathBuf {
    bundle.join("memory")
}

/// Makes sure that it is mounted.
pub(super) async fn ensure(bundle: &Path) -> Result<PathBuf> {
    let folder = place(bundle);
    let at = folder.clone();
    crate::blocking(move || {
        let make = || -> io::Result<()> {
            match fs::create_dir(&at) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
                made => made?,
            }
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
            Ok(mount(Some("tmpfs"), &at, Some("tmpfs"), flags, Some("mode=0700,size=64m"))?)
        };
        make().map_err(|error| Error::internal(format!("mount memory for a build step: {error}")))
    })
    .await?;
    Ok(folder)
}

/// Unmounts it; one that is not there is fine. Blocks.
pub(super) fn remove(bundle: &Path) -> io::Result<()> {
    match umount2(&place(bundle), MntFlags::MNT_DETACH) {
        Ok(()) | Err(Errno::ENOENT | Errno::EINVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A socket that leads to an agent of the user's, until the handle is aborted.
pub(super) async fn agent(
    folder: &Path,
    name: &str,
    agent: PathBuf,
    mode: u32,
    owner: (u32, u32),
) -> Result<tokio::task::AbortHandle> {
    let wrong = |error: io::Error| Error::internal(format!("make the socket of a build step: {error}"));
    let open = File::open(folder).map_err(wrong)?;
    // The name of a socket is short; the bundle's may be long.
    let path = PathBuf::from(format!("/proc/self/fd/{}/{name}", open.as_raw_fd()));
    let listener = UnixListener::bind(&path).map_err(wrong)?;
    let real = folder.join(name);
    std::os::unix::fs::chown(&real, Some(owner.0), Some(owner.1)).map_err(wrong)?;
    fs::set_permissions(&real, fs::Permissions::from_mode(mode & 0o777)).map_err(wrong)?;
    // Asked now, an agent that is not there fails the step with its name, and not a program in it without.
    UnixStream::connect(&agent)
        .await
        .map_err(|error| Error::invalid(format!("the agent {}: {error}", agent.display())))?;
    let task = tokio::spawn(async move {
        while let Ok((mut inner, _)) = listener.accept().await {
            let agent = agent.clone();
            tokio::spawn(async move {
                if let Ok(mut outer) = UnixStream::connect(&agent).await {
                    let _ = tokio::io::copy_bidirectional(&mut inner, &mut outer).await;
                }
            });
        }
    });
    Ok(task.abort_handle())
}
