//! The shim as a program: kept where nothing in a container can write it, started, and reaped.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use sampan_shim_protocol::CONTROL_FD;
use tokio::io::Interest;

use super::readiness;

/// What the shim writes to its standard error, in the bundle: nothing, unless it panics.
pub(crate) const SHIM_LOG: &str = "shim.log";
/// Above any descriptor that a spawned shim gets by number.
const FIRST_DESCRIPTOR: i32 = 16;

/// Which file a copy was made of.
#[derive(Debug, PartialEq, Eq)]
struct Original {
    path: PathBuf,
    identity: (u64, u64, i64, i64, u64),
}

/// The copies of this process: one for each version of the program on the disk, usually one.
static COPIES: Mutex<Vec<(Original, Arc<OwnedFd>)>> = Mutex::new(Vec::new());

/// The program as a descriptor to be executed: a sealed copy in memory, so that a container that reaches its shim's
/// `/proc/PID/exe` finds nothing that it could change for others.
pub(crate) fn prepare(program: &Path) -> io::Result<Arc<OwnedFd>> {
    let file = File::open(program)?;
    let found = file.metadata()?;
    let identity = (found.dev(), found.ino(), found.mtime(), found.mtime_nsec(), found.size());
    let original = Original { path: program.to_owned(), identity };
    let mut copies = COPIES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, copy)) = copies.iter().find(|(known, _)| *known == original) {
        return Ok(Arc::clone(copy));
    }
    copies.retain(|(known, _)| known.path != original.path);
    // A kernel that was told to make no executable memory files is left with the file itself.
    let copy = sealed(&file).unwrap_or_else(|_| OwnedFd::from(file));
    let raw = fcntl(copy.as_fd(), FcntlArg::F_DUPFD_CLOEXEC(FIRST_DESCRIPTOR))?;
    let copy = Arc::new(own(raw));
    copies.push((original, Arc::clone(&copy)));
    Ok(copy)
}

fn sealed(mut file: &File) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut memory = File::from(memfd_create(c"sampan-shim", flags)?);
    io::copy(&mut file, &mut memory)?;
    let seals = SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    fcntl(&memory, FcntlArg::F_ADD_SEALS(seals))?;
    if rustix::fs::fcntl_getfl(&memory)?.contains(rustix::fs::OFlags::RDWR) {
        // A file that is open for writing cannot be executed; opened anew for reading it can.
        return File::open(format!("/proc/self/fd/{}", memory.as_raw_fd())).map(OwnedFd::from);
    }
    Ok(memory.into())
}

#[allow(unsafe_code)]
fn own(raw: i32) -> OwnedFd {
    // SAFETY: fcntl has just made this descriptor for us, and nobody else knows it.
    unsafe { std::os::fd::FromRawFd::from_raw_fd(raw) }
}

/// Starts the program for a bundle with the given end of its connection, in a session of its own.
pub(crate) fn spawn(program: &OwnedFd, control: BorrowedFd<'_>, bundle: &Path) -> io::Result<Pid> {
    let mut actions = PosixSpawnFileActions::init()?;
    // First, since what is opened below takes low numbers only after it.
    actions.add_dup2(control.as_raw_fd(), CONTROL_FD)?;
    actions.add_open(0, "/dev/null", OFlag::O_RDWR, Mode::empty())?;
    actions.add_dup2(0, 1)?;
    let log = bundle.join(SHIM_LOG);
    actions.add_open(2, &log, OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_APPEND, Mode::from_bits_truncate(0o600))?;
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF)?;
    attributes.set_sigmask(&SigSet::empty())?;
    let mut ordinary = SigSet::all();
    ordinary.remove(Signal::SIGKILL);
    ordinary.remove(Signal::SIGSTOP);
    attributes.set_sigdefault(&ordinary)?;
    let bundle = CString::new(bundle.as_os_str().as_bytes())?;
    let path = format!("/proc/self/fd/{}", program.as_raw_fd());
    let arguments = [c"sampan-shim", c"--bundle", bundle.as_c_str()];
    // Nothing of the daemon's environment is the shim's business.
    posix_spawn(path.as_str(), &actions, &attributes, &arguments, &[] as &[CString]).map_err(io::Error::from)
}

/// Takes the exit status when the process ends, so that it does not stay as a zombie.
pub(crate) fn reap(pid: Pid) {
    let wait = move || {
        let _ = nix::sys::wait::waitpid(pid, None);
    };
    let watched = rustix::process::Pid::from_raw(pid.as_raw())
        .and_then(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok())
        .and_then(|pidfd| readiness::of_descriptor(pidfd, Interest::READABLE).ok());
    match watched {
        Some(pidfd) => drop(tokio::spawn(async move {
            let _ = pidfd.readable().await;
            wait();
        })),
        None => drop(tokio::task::spawn_blocking(wait)),
    }
}
