//! System calls that have no wrapper elsewhere. Each is one block, with the reason that it is sound.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    let raw = RawFd::try_from(check(result)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// A path for the kernel.
pub fn c_string(path: impl AsRef<std::ffi::OsStr>) -> io::Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    CString::new(path.as_ref().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the path has a NUL byte"))
}

/// What `clone3` made.
pub enum Cloned {
    /// We are the child.
    Child,
    /// We are the parent.
    Parent { pid: i32, pidfd: OwnedFd },
}

/// `clone3` without shared memory: the child is a copy, as after `fork`.
pub fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    const CLONE_PIDFD: u64 = 0x1000;
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: RawFd = -1;
    // SAFETY: all zero is a valid value of this plain structure.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = flags | CLONE_PIDFD;
    arguments.pidfd = (&raw mut pidfd) as u64;
    arguments.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    // SAFETY: no memory is shared and the process has one thread, so the child may run on like after `fork`; the
    // arguments outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) };
    match check(result)? {
        0 => Ok(Cloned::Child),
        pid => Ok(Cloned::Parent {
            pid: i32::try_from(pid).map_err(io::Error::other)?,
            // SAFETY: the kernel stored a new descriptor here.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
    }
}

/// Opens below `root`, which the path cannot leave; links of `/proc` are not followed.
pub fn open_in_root(root: BorrowedFd<'_>, path: &Path, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    let path = c_string(path)?;
    // SAFETY: all zero is a valid value of this plain structure.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = u64::from((flags | libc::O_CLOEXEC).cast_unsigned());
    how.mode = u64::from(mode);
    how.resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
    loop {
        // SAFETY: path and structure outlive the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                root.as_raw_fd(),
                path.as_ptr(),
                &raw const how,
                size_of::<libc::open_how>(),
            )
        };
        match descriptor(result) {
            // The tree changed meanwhile; the kernel asks to try again.
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
            other => return other,
        }
    }
}

/// A detached copy of the mounts at a descriptor.
pub fn open_tree(at: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    const OPEN_TREE_CLONE: u32 = 1;
    let recursive = if recursive { libc::AT_RECURSIVE } else { 0 };
    let flags = OPEN_TREE_CLONE | (libc::O_CLOEXEC | libc::AT_EMPTY_PATH | recursive).cast_unsigned();
    // SAFETY: the empty path is a constant.
    descriptor(unsafe { libc::syscall(libc::SYS_open_tree, at.as_raw_fd(), c"".as_ptr(), flags) })
}

/// Puts a detached mount at a descriptor.
pub fn move_mount(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    const FROM_EMPTY: u32 = 4;
    const TO_EMPTY: u32 = 0x40;
    // SAFETY: the empty paths are constants.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            FROM_EMPTY | TO_EMPTY,
        )
    })
    .map(drop)
}

/// Attributes for [`mount_setattr`].
#[derive(Debug, Default, Clone, Copy)]
pub struct MountAttributes {
    pub set: u64,
    pub clear: u64,
    pub propagation: u64,
}

/// Changes a mount, with those below it if asked.
pub fn mount_setattr(at: BorrowedFd<'_>, recursive: bool, attributes: MountAttributes) -> io::Result<()> {
    // SAFETY: all zero is a valid value of this plain structure.
    let mut raw: libc::mount_attr = unsafe { std::mem::zeroed() };
    raw.attr_set = attributes.set;
    raw.attr_clr = attributes.clear;
    raw.propagation = attributes.propagation;
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a constant, the structure outlives the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            at.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const raw,
            size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

/// Joins namespaces by a descriptor of a namespace or of a process.
pub fn setns(descriptor: BorrowedFd<'_>, kinds: i32) -> io::Result<()> {
    // SAFETY: takes numbers only.
    check(libc::c_long::from(unsafe { libc::setns(descriptor.as_raw_fd(), kinds) })).map(drop)
}

/// A session keyring of its own; kernels without keyrings are fine.
pub fn new_keyring() {
    const JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) };
}

/// Marks every descriptor from `first` on to be closed by exec.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    const CLOEXEC: u32 = 4;
    // SAFETY: takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOEXEC) }).map(drop)
}

/// Closes every descriptor from `first` on.
pub fn close_from(first: u32) {
    // SAFETY: takes numbers only; called where no owner of such a descriptor runs on.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
}

/// `prctl` with numbers.
pub fn prctl(option: i32, argument: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the options used here take numbers only.
    check(libc::c_long::from(unsafe { libc::prctl(option, argument, 0, 0, 0) })).map(drop)
}

/// The capabilities that this process may ever have, as bits.
pub fn bounding_set() -> u64 {
    (0..64).fold(0, |set, capability| {
        // SAFETY: PR_CAPBSET_READ takes a number and answers 0 or 1, or an error beyond the last capability.
        let held = unsafe { libc::prctl(libc::PR_CAPBSET_READ, capability as libc::c_ulong, 0, 0, 0) } == 1;
        set | u64::from(held) << capability
    })
}

/// `prctl` for ambient capabilities.
pub fn prctl_ambient(operation: i32, capability: libc::c_ulong) -> io::Result<()> {
    // SAFETY: takes numbers only.
    check(libc::c_long::from(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, operation, capability, 0, 0) })).map(drop)
}

/// Sets effective, permitted and inheritable capabilities of this process.
pub fn capset(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let header: [u32; 2] = [VERSION_3, 0];
    let mut data = [0_u32; 6];
    for (at, value) in [effective, permitted, inheritable].into_iter().enumerate() {
        data[at] = (value & 0xffff_ffff) as u32;
        data[at + 3] = (value >> 32) as u32;
    }
    // SAFETY: header and data have the layout of version 3: two words, and twice three.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) }).map(drop)
}

/// Installs a filter for system calls.
pub fn seccomp_filter(program: &[libc::sock_filter]) -> io::Result<()> {
    const SET_MODE_FILTER: libc::c_long = 1;
    let length = u16::try_from(program.len()).map_err(|_| io::Error::other("the filter is too long"))?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel reads the program of the given length and keeps a copy.
    check(unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, 0, &raw const program) }).map(drop)
}

/// Makes the terminal at a descriptor that of this session.
pub fn set_controlling_terminal(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes numbers only.
    check(libc::c_long::from(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) })).map(drop)
}

/// The other side of a pseudo terminal.
pub fn terminal_peer(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let unlock: libc::c_int = 0;
    // SAFETY: the kernel reads one integer.
    check(libc::c_long::from(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) }))?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: takes numbers only.
    descriptor(libc::c_long::from(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) }))
}

/// Sets a terminal's size.
pub fn set_terminal_size(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel reads one structure.
    check(libc::c_long::from(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })).map(drop)
}

/// Sets all three user and group ids.
pub fn set_ids(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: takes numbers only; the process has one thread, so the raw calls need no agreement of others.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: as above.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// Sets the further groups.
pub fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: the kernel reads as many numbers as are there.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// Gives a signal its default effect.
pub fn default_signal(signal: i32) {
    // SAFETY: sets no handler.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// Ends the process at once.
pub fn exit(code: i32) -> ! {
    // SAFETY: never returns and runs no destructors, which is what a cloned child wants.
    unsafe { libc::_exit(code) }
}

/// Runs a program; returns only on failure.
pub fn execve(path: &CStr, arguments: &[CString], environment: &[CString]) -> io::Error {
    fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    }
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: both lists end with a null pointer and outlive the call.
    unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// `fork` of a process with one thread.
pub fn fork() -> io::Result<i32> {
    // SAFETY: one thread, so the copy is consistent.
    check(libc::c_long::from(unsafe { libc::fork() })).and_then(|pid| i32::try_from(pid).map_err(io::Error::other))
}
