//! Descriptors that tasks wait for.

use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use sampan_shim_protocol::Connection;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A pipe's end, which no longer blocks.
pub(super) fn of_pipe(pipe: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    let flags = OFlag::from_bits_retain(fcntl(&pipe, FcntlArg::F_GETFL)?);
    fcntl(&pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    of_descriptor(pipe, interest)
}

/// Any descriptor, as it is.
#[allow(unsafe_code)]
pub(super) fn of_descriptor(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd owns its descriptor, and nothing replaces or closes it within the AsyncFd.
    unsafe { AsyncFd::register_with_interest(descriptor, interest) }.map_err(io::Error::from)
}

/// A connection to a shim, which no longer blocks.
#[allow(unsafe_code)]
pub(super) fn of_connection(connection: Connection) -> io::Result<AsyncFd<Connection>> {
    connection.set_nonblocking()?;
    // SAFETY: a connection owns its descriptor for as long as it lives, and never replaces it.
    unsafe { AsyncFd::register_with_interest(connection, Interest::READABLE | Interest::WRITABLE) }
        .map_err(io::Error::from)
}
