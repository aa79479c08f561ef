//! The container's terminal: made in its own devpts, its master handed to the shim.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::paths::ensure_file;
use crate::sys;
use crate::{At, Failure};

/// Both sides of a new terminal of the present root's `/dev/pts`.
pub fn open_terminal(size: Option<(u16, u16)>) -> Result<(OwnedFd, OwnedFd), Failure> {
    let step = || "open a terminal".to_owned();
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = open("/dev/pts/ptmx", flags, Mode::empty()).at(step)?;
    let peer = sys::terminal_peer(master.as_fd()).at(step)?;
    if let Some((rows, columns)) = size {
        sys::set_terminal_size(master.as_fd(), rows, columns).at(step)?;
    }
    Ok((master, peer))
}

/// Shows the terminal as `/dev/console`.
pub fn bind_console(peer: &OwnedFd) -> Result<(), Failure> {
    let step = || "bind /dev/console".to_owned();
    let root = open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).at(step)?;
    let console = ensure_file(root.as_fd(), Path::new("dev/console")).at(step)?;
    let tree = sys::open_tree(peer.as_fd(), false).at(step)?;
    sys::move_mount(tree.as_fd(), console.as_fd()).at(step)
}

/// Makes the terminal that of a new session.
pub fn take(peer: &OwnedFd) -> Result<(), Failure> {
    sys::set_controlling_terminal(peer.as_fd()).at(|| "take the terminal".into())
}
