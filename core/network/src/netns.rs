//! Network namespaces: made, kept by a bind mount, entered on a thread of their own, removed.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::links::Links;

/// Makes a namespace with its loopback up and keeps it at `path`. One that is there already is kept as it is.
///
/// IPv6 is off on links that come later until they get an address of that kind, and router advertisements are ignored.
pub fn create_netns(path: &Path) -> io::Result<()> {
    if is_netns(path) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    File::create(path)?;
    let made = on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let mut links = Links::open()?;
        links.set_up(1).map_err(io::Error::other)?;
        // Neighbours that knew another owner of an address are told of the new one.
        let _ = fs::write("/proc/sys/net/ipv4/conf/default/arp_notify", "1");
        for (name, value) in [("accept_ra", "0"), ("disable_ipv6", "1"), ("accept_dad", "0"), ("ndisc_notify", "1")] {
            // Absent where the kernel has no IPv6.
            let _ = fs::write(Path::new("/proc/sys/net/ipv6/conf/default").join(name), value);
        }
        let none = None::<&str>;
        mount(Some("/proc/thread-self/ns/net"), path, none, MsFlags::MS_BIND, none)?;
        Ok(())
    });
    if made.is_err() {
        let _ = fs::remove_file(path);
    }
    made
}

/// Whether a namespace is kept at `path`.
#[must_use]
pub fn is_netns(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|found| found.filesystem_type() == nix::sys::statfs::NSFS_MAGIC)
}

/// Lets go of the namespace at `path`; it ends with its last process. One that is not there is no error.
pub fn remove_netns(path: &Path) -> io::Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Runs `work` in a namespace, on a thread that ends with it. Sockets that it opens stay in that namespace.
pub fn inside<T: Send>(namespace: &impl AsFd, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let namespace = namespace.as_fd();
    on_thread(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        work()
    })
}

pub(crate) fn on_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("netns".to_owned()).stack_size(128 * 1024);
        let handle = worker.spawn_scoped(scope, work)?;
        handle.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
    })
}
