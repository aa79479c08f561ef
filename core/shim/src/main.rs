//! `sampan-shim`: one for each container, from its start to its end, whether a daemon is there or not.
//!
//! It launches the container of a bundle, holds its input, outputs and terminal, runs further processes in it, reaps,
//! and writes the exit status before it tells it. It has one thread and waits in `poll`.
//!
//! Invariants: the container's output is never lost while there is room, and never blocks for want of a daemon; the
//! container does not outlive its shim.

mod output;
mod process;
mod server;

use std::os::fd::{FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let bundle = match (arguments.next(), arguments.next()) {
        (Some(flag), Some(bundle)) if flag == "--bundle" && bundle.as_encoded_bytes().starts_with(b"/") => {
            PathBuf::from(bundle)
        }
        _ => {
            eprintln!("usage: sampan-shim --bundle DIRECTORY (started by the daemon)");
            return ExitCode::from(125);
        }
    };
    // Signals are read from a descriptor; what is meant for the container comes by the socket.
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGPIPE] {
        signals.add(signal);
    }
    if signals.thread_block().is_err() {
        return ExitCode::from(125);
    }
    let _ = nix::unistd::setsid();
    // It runs from a descriptor, whose number would be its name in process lists.
    let _ = nix::sys::prctl::set_name(c"sampan-shim");
    // It must not keep the daemon's working directory busy.
    let _ = nix::unistd::chdir("/");
    let _ = nix::sys::prctl::set_child_subreaper(true);
    let control = inherited_control();
    match server::Server::start(bundle, control, &signals) {
        Ok(mut server) => {
            server.run();
            ExitCode::SUCCESS
        }
        Err(code) => ExitCode::from(code),
    }
}

/// The connection that the daemon left at descriptor 3, if it is a socket.
#[allow(unsafe_code)]
fn inherited_control() -> Option<OwnedFd> {
    let number = sampan_shim_protocol::CONTROL_FD;
    // SAFETY: only looks; the descriptor is taken over below, once, before anything else opens one.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    let stat = nix::sys::stat::fstat(borrowed).ok()?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFSOCK {
        return None;
    }
    // SAFETY: the daemon passed it on to us, and nobody else in this process owns it.
    let owned = unsafe { OwnedFd::from_raw_fd(number) };
    nix::fcntl::fcntl(&owned, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC)).ok()?;
    Some(owned)
}
