//! The container's output: pipes that a daemon looks into, a spool for when there is none, and the terminal's pump.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use sampan_shim_protocol::{PIPE_SIZE, SPOOL, SpoolFrame};

/// A pipe whose reading end stays here.
#[derive(Debug)]
pub struct Stream {
    /// The container's output comes out here.
    pub reader: OwnedFd,
    /// Whether its end was seen.
    pub ended: bool,
}

/// A pipe as large as may be.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    // Beyond an unprivileged user's share the kernel says no; the ordinary size serves too.
    let _ = fcntl(&reader, FcntlArg::F_SETPIPE_SZ(PIPE_SIZE));
    Ok((reader, writer))
}

/// Makes reads or writes return instead of waiting.
pub fn set_nonblocking(descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(descriptor, FcntlArg::F_GETFL)?);
    fcntl(descriptor, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Nanoseconds since the epoch.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|elapsed| u64::try_from(elapsed.as_nanos()).ok())
        .unwrap_or(0)
}

/// Takes exactly so many bytes out of a pipe and forgets them.
pub fn discard(reader: BorrowedFd<'_>, null: BorrowedFd<'_>, mut bytes: u64) -> io::Result<()> {
    while bytes > 0 {
        let step = usize::try_from(bytes).unwrap_or(usize::MAX).min(1 << 20);
        match splice(reader, None, null, None, step, SpliceFFlags::SPLICE_F_NONBLOCK) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(moved) => bytes -= moved as u64,
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// What was written while nobody listened.
#[derive(Debug)]
pub struct Spool {
    file: Option<File>,
    /// Bytes in the file.
    pub length: u64,
    /// Bytes that found no room.
    pub dropped: u64,
    limit: u64,
    /// Output moves in pieces of this.
    buffer: Vec<u8>,
}

impl Spool {
    /// An empty one with a bound in bytes.
    pub fn new(limit: u64) -> Self {
        Self { file: None, length: 0, dropped: 0, limit, buffer: Vec::new() }
    }

    /// Moves what a stream has into the file; whether the stream has ended.
    pub fn take(&mut self, bundle: &Path, number: u8, stream: &Stream) -> bool {
        self.buffer.resize(64 << 10, 0);
        let read = match nix::unistd::read(stream.reader.as_fd(), &mut self.buffer) {
            Ok(0) => return true,
            Ok(read) => read,
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => return false,
            Err(_) => return true,
        };
        let wanted = (SpoolFrame::HEAD + read) as u64;
        if self.length + wanted > self.limit || self.append(bundle, number, read).is_err() {
            self.dropped += read as u64;
        } else {
            self.length += wanted;
        }
        false
    }

    fn append(&mut self, bundle: &Path, stream: u8, read: usize) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(File::options().create(true).append(true).open(bundle.join(SPOOL))?),
        };
        let length = u32::try_from(read).map_err(io::Error::other)?;
        file.write_all(&SpoolFrame { time: now(), stream, length }.encode())?;
        file.write_all(&self.buffer[..read])
    }

    /// Hands the file over: what comes next begins a new one.
    pub fn hand_over(&mut self) -> (u64, u64) {
        self.file = None;
        self.buffer = Vec::new();
        (std::mem::take(&mut self.length), std::mem::take(&mut self.dropped))
    }
}

/// A terminal's master between the pipes that stand for the container's input and output.
#[derive(Debug)]
pub struct Terminal {
    /// The master.
    pub master: OwnedFd,
    /// Where output goes; `None` once the terminal is closed.
    pub output: Option<OwnedFd>,
    /// Where input comes from.
    pub input: Option<OwnedFd>,
    /// Input that the terminal had no room for.
    pending: Vec<u8>,
    /// Output that the pipe had no room for.
    unwritten: Vec<u8>,
}

impl Terminal {
    /// Joins a master to the ends of two pipes.
    pub fn new(master: OwnedFd, output: OwnedFd, input: Option<OwnedFd>) -> io::Result<Self> {
        set_nonblocking(master.as_fd())?;
        set_nonblocking(output.as_fd())?;
        if let Some(input) = &input {
            set_nonblocking(input.as_fd())?;
        }
        Ok(Self { master, output: Some(output), input, pending: Vec::new(), unwritten: Vec::new() })
    }

    /// Whether output waits for room in the pipe.
    pub fn is_blocked(&self) -> bool {
        !self.unwritten.is_empty()
    }

    /// Whether input waits for room in the terminal.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Moves what the container has written.
    pub fn pump_output(&mut self) {
        let Some(output) = &self.output else { return };
        let mut buffer = [0; 16 << 10];
        loop {
            if !self.unwritten.is_empty() {
                match nix::unistd::write(output.as_fd(), &self.unwritten) {
                    Ok(written) => drop(self.unwritten.drain(..written)),
                    Err(nix::errno::Errno::EAGAIN) => return,
                    Err(nix::errno::Errno::EINTR) => {}
                    // Nobody reads any more; the program must not block for that.
                    Err(_) => self.unwritten.clear(),
                }
                continue;
            }
            match nix::unistd::read(self.master.as_fd(), &mut buffer) {
                Ok(0) => break,
                Ok(read) => self.unwritten.extend_from_slice(&buffer[..read]),
                Err(nix::errno::Errno::EAGAIN) => return,
                Err(nix::errno::Errno::EINTR) => {}
                // EIO says that the last process has closed the other side.
                Err(_) => break,
            }
        }
        self.output = None;
    }

    /// Moves what was typed; at the end of the input the terminal gets its end-of-file key.
    pub fn pump_input(&mut self) {
        if self.pending.is_empty()
            && let Some(input) = &self.input
        {
            let mut buffer = [0; 4096];
            match nix::unistd::read(input.as_fd(), &mut buffer) {
                Ok(0) => {
                    self.input = None;
                    self.pending.push(4);
                }
                Ok(read) => self.pending.extend_from_slice(&buffer[..read]),
                Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => {}
                Err(_) => self.input = None,
            }
        }
        if !self.pending.is_empty()
            && let Ok(written) = nix::unistd::write(self.master.as_fd(), &self.pending)
        {
            self.pending.drain(..written);
        }
    }
}
