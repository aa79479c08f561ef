//! Hears when links or tables are removed, by whomever.

use std::io::{self, PipeWriter};
use std::os::fd::AsFd;
use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::netlink::Socket;

/// Removals come in bursts: one look at the end is enough.
const SETTLE: u16 = 150;

/// Listens until it is dropped.
#[derive(Debug)]
pub struct Watch {
    _stop: PipeWriter,
}

impl Watch {
    /// Calls `removed` on a thread of its own some time after links or tables of the calling thread's namespace were
    /// removed; which ones is for it to find out.
    pub fn open(mut removed: impl FnMut() + Send + 'static) -> io::Result<Self> {
        const LINKS: u32 = 1;
        const TABLES: u32 = 7;
        const DELLINK: u16 = 17;
        const DELTABLE: u16 = 10 << 8 | 2;
        let mut links = Socket::listen(netlink_sys::protocols::NETLINK_ROUTE, LINKS)?;
        let mut tables = Socket::listen(netlink_sys::protocols::NETLINK_NETFILTER, TABLES)?;
        let (stopped, stop) = io::pipe()?;
        thread::Builder::new().name("net-watch".to_owned()).stack_size(256 * 1024).spawn(move || {
            loop {
                let mut waiting =
                    [stopped.as_fd(), links.as_fd(), tables.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
                let ready = poll(&mut waiting, PollTimeout::NONE);
                let ended = waiting[0].any() == Some(true);
                if ended || ready.is_err_and(|error| error != nix::Error::EINTR) {
                    return;
                }
                // Both are drained.
                if !(links.heard(&[DELLINK]) | tables.heard(&[DELTABLE])) {
                    continue;
                }
                if poll(&mut [PollFd::new(stopped.as_fd(), PollFlags::POLLIN)], SETTLE).is_ok_and(|ready| ready > 0) {
                    return;
                }
                removed();
            }
        })?;
        Ok(Self { _stop: stop })
    }
}
