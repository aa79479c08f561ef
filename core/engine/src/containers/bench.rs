//! Looking into a pipe without taking anything out, with what a thread needs for it.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, tee};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sampan_shim_protocol::PIPE_SIZE;

/// A pipe and buffers. One for each thread that looks into pipes, and gone with it: containers that write nothing need none.
pub(super) struct Bench {
    reader: OwnedFd,
    writer: OwnedFd,
    looked: Vec<u8>,
    /// For framed records.
    pub frames: Vec<u8>,
}

thread_local! {
    static BENCH: RefCell<Option<Bench>> = const { RefCell::new(None) };
}

/// What a pipe holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// Bytes that were looked at, from the front.
    pub bytes: usize,
    /// They are all, and no more will come.
    pub last: bool,
}

impl Bench {
    fn new() -> io::Result<Self> {
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let _ = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(PIPE_SIZE));
        Ok(Self { reader, writer, looked: Vec::new(), frames: Vec::with_capacity(sampan_drivers::BATCH) })
    }

    /// Lends this thread's bench.
    pub(super) fn with<T>(work: impl FnOnce(&mut Self) -> io::Result<T>) -> io::Result<T> {
        BENCH.with_borrow_mut(|place| {
            let mut bench = match place.take() {
                Some(bench) => bench,
                None => Self::new()?,
            };
            let result = work(&mut bench);
            // After a failure its pipe may not be empty, so that it is made anew.
            if result.is_ok() {
                *place = Some(bench);
            }
            result
        })
    }

    /// Looks at what a pipe holds.
    pub(super) fn look(&mut self, pipe: BorrowedFd<'_>) -> io::Result<Seen> {
        let hung_up = hung_up(pipe)?;
        let seen = match tee(pipe, self.writer.as_fd(), PIPE_SIZE as usize, SpliceFFlags::SPLICE_F_NONBLOCK) {
            Ok(seen) => seen,
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => 0,
            Err(errno) => return Err(errno.into()),
        };
        if self.looked.len() < seen {
            self.looked.resize(seen, 0);
        }
        let mut filled = 0;
        while filled < seen {
            match nix::unistd::read(self.reader.as_fd(), &mut self.looked[filled..seen]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => filled += read,
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let last = hung_up && rustix::io::ioctl_fionread(pipe).map_err(io::Error::from)? == seen as u64;
        Ok(Seen { bytes: seen, last })
    }

    /// What [`Bench::look`] saw, and the place for frames.
    pub(super) fn parts(&mut self) -> (&[u8], &mut Vec<u8>) {
        (&self.looked, &mut self.frames)
    }
}

/// Whether nobody can write any more.
fn hung_up(pipe: BorrowedFd<'_>) -> io::Result<bool> {
    let mut polled = [PollFd::new(pipe, PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::ZERO)?;
    Ok(polled[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP)))
}

/// Takes bytes out of a pipe that nobody else reads any more.
pub(super) fn discard(pipe: BorrowedFd<'_>, mut bytes: u64) -> io::Result<()> {
    let mut sink = [0; 16 << 10];
    while bytes > 0 {
        let step = usize::try_from(bytes).unwrap_or(usize::MAX).min(sink.len());
        match nix::unistd::read(pipe, &mut sink[..step]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => bytes -= read as u64,
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn looking_takes_nothing_and_sees_the_end() {
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_NONBLOCK).unwrap();
        let look = || {
            Bench::with(|bench| {
                let seen = bench.look(reader.as_fd())?;
                Ok((bench.parts().0[..seen.bytes].to_vec(), seen.last))
            })
            .unwrap()
        };
        assert_eq!(look(), (Vec::new(), false));
        nix::unistd::write(&writer, b"hello").unwrap();
        assert_eq!(look(), (b"hello".to_vec(), false));
        nix::unistd::write(&writer, b" you").unwrap();
        assert_eq!(look(), (b"hello you".to_vec(), false));
        discard(reader.as_fd(), 6).unwrap();
        drop(writer);
        assert_eq!(look(), (b"you".to_vec(), true));
        discard(reader.as_fd(), 3).unwrap();
        assert_eq!(look(), (Vec::new(), true));
    }
}
