//! What the daemon and a container's shim say to each other.
//!
//! One packet of a `SOCK_SEQPACKET` unix socket is one message in JSON; descriptors travel beside it (`SCM_RIGHTS`).
//! The shim listens on `shim.sock` in the bundle, and its first connection is inherited as descriptor 3, so that
//! the start needs no rendezvous. At most one daemon is connected; a new connection replaces the old one.
//!
//! Invariants:
//! - the shim alone takes bytes out of the output pipes. The daemon looks at them with `tee(2)`, hands them to the log
//!   driver, and then says [`Request::Consumed`]; a daemon that dies in between finds the same bytes again;
//! - the shim answers every request that has a `seq` with a [`Message`] of the same `seq`, in order;
//! - the exit status is in `exit.json` before [`Event::Exited`] is sent.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect,
    listen, recvmsg, sendmsg, setsockopt, socket, socketpair, sockopt,
};
use serde::{Deserialize, Serialize};

/// The descriptor of the inherited connection.
pub const CONTROL_FD: RawFd = 3;
/// The longest message. An `exec` with the largest environment that the kernel takes stays below.
pub const MESSAGE_LIMIT: usize = 512 << 10;
/// Capacity asked for the output pipes, in bytes.
pub const PIPE_SIZE: i32 = 1 << 20;

/// The file of the bundle with the [`ShimConfig`].
pub const SHIM_CONFIG: &str = "shim.json";
/// The file with the OCI runtime configuration.
pub const OCI_CONFIG: &str = "config.json";
/// The shim's socket.
pub const SOCKET: &str = "shim.sock";
/// The file with the [`ExitStatus`].
pub const EXIT: &str = "exit.json";
/// Output that nobody was there to take, as frames (see [`SpoolFrame`]).
pub const SPOOL: &str = "spool";

/// What the shim needs beside the OCI configuration.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ShimConfig {
    /// The container's id.
    pub id: String,
    /// Keep the input open, for `-i`.
    pub open_stdin: bool,
    /// Run a small init as process 1, for `--init`.
    pub init: bool,
    /// Who runs the program, in Docker's form `user[:group]` with names or numbers; empty takes the OCI user.
    pub user: String,
    /// Further groups, by name or number.
    pub groups: Vec<String>,
    /// The default seccomp filter, or none when `unconfined`; a profile in the OCI configuration goes before it.
    pub seccomp: Seccomp,
    /// Rows and columns of the terminal at the start.
    pub size: Option<(u16, u16)>,
    /// How much output is kept while no daemon is connected, in bytes.
    pub spool_limit: u64,
}

/// Which filter applies when the OCI configuration has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seccomp {
    /// The engine's own table.
    #[default]
    Default,
    /// None.
    Unconfined,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// 0 to 255; 128 + n for signal n.
    pub code: u8,
    /// Whether the kernel killed a process of it for want of memory.
    pub oom: bool,
    /// Nanoseconds since the epoch.
    pub time: u64,
}

/// What the daemon asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// Take over the output: answered by [`Reply::Connected`] with the descriptors of stdout, stderr (unless a terminal)
    /// and stdin's writing end (if open).
    Connect,
    /// The log has these bytes of a stream (0 stdout, 1 stderr): forget them. The next batch will carry times from
    /// `next_time` on. Answered when they are gone.
    Consumed { stream: usize, bytes: u64, next_time: u64 },
    /// Send a signal to process 1, or to every process.
    Kill { signal: i32, all: bool },
    /// The terminal's size, of the container or of an exec.
    Resize { exec: Option<String>, rows: u16, columns: u16 },
    /// End the input.
    CloseStdin,
    /// Run another process: answered by [`Reply::ExecStarted`] with the descriptors of its stdin, stdout, stderr as asked.
    Exec(Box<ExecRequest>),
    /// Send a signal to an exec's process and its group.
    KillExec { id: String, signal: i32 },
    /// The end was taken note of: leave.
    Shutdown,
}

/// A process to run inside.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecRequest {
    /// The exec's id.
    pub id: String,
    /// What to run, as OCI.
    pub process: oci_spec::runtime::Process,
    /// As [`ShimConfig::user`].
    pub user: String,
    /// As [`ShimConfig::groups`].
    pub groups: Vec<String>,
    /// Whether an input is wanted.
    pub stdin: bool,
    /// Rows and columns of its terminal.
    pub size: Option<(u16, u16)>,
    /// Without a filter for system calls; the rights are those of `process`.
    pub privileged: bool,
    /// Nobody takes its output: no descriptors are handed out.
    #[serde(default)]
    pub detached: bool,
}

/// A failed step on the way to the user's program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartFailure {
    /// What was being done.
    pub step: String,
    /// Why it failed.
    pub cause: String,
    /// 125 for the engine's failures, 126 for a program that cannot be run, 127 for one that is not there.
    pub code: u8,
}

impl std::fmt::Display for StartFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.step, self.cause)
    }
}

/// What the shim answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    Done,
    /// It failed.
    Failed(String),
    /// See [`Request::Connect`].
    Connected(Box<Connected>),
    /// The exec runs.
    ExecStarted { pid: i32 },
    /// The exec could not be started.
    ExecFailed(StartFailure),
}

/// The state that a daemon finds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Connected {
    /// Process 1, in the host's numbering.
    pub pid: i32,
    /// Set when it has ended.
    pub exit: Option<ExitStatus>,
    /// Bytes in the spool, of which nothing is written any more.
    pub spooled: u64,
    /// Bytes that found no room in the spool.
    pub dropped: u64,
    /// For each stream, the time from which the batch in flight was to be stamped when the last daemon went; zero if none was.
    pub next_time: [u64; 2],
    /// Whether stdin's descriptor follows those of the outputs.
    pub stdin: bool,
    /// Whether one descriptor carries both outputs.
    pub terminal: bool,
}

/// What the shim says by itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Event {
    /// The program runs.
    Started { pid: i32 },
    /// It could not be started; the shim is about to leave.
    StartFailed(StartFailure),
    /// Process 1 has ended.
    Exited(ExitStatus),
    /// An exec's process has ended.
    ExecExited { id: String, code: u8 },
    /// The kernel killed a process for want of memory.
    Oom,
}

/// A packet to the shim.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Packet {
    /// Echoed in the answer.
    pub seq: u64,
    /// What is asked.
    pub request: Request,
}

/// A packet from the shim.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Message {
    /// An answer.
    Reply { seq: u64, reply: Reply },
    /// Something happened.
    Event(Event),
}

/// The head of a frame of the spool: `time: u64 · stream: u8 · length: u32`, little endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpoolFrame {
    /// Nanoseconds since the epoch.
    pub time: u64,
    /// 0 stdout, 1 stderr.
    pub stream: u8,
    /// Bytes that follow.
    pub length: u32,
}

impl SpoolFrame {
    /// Length of the head in bytes.
    pub const HEAD: usize = 13;

    /// The head as bytes.
    #[must_use]
    pub fn encode(self) -> [u8; Self::HEAD] {
        let mut head = [0; Self::HEAD];
        head[..8].copy_from_slice(&self.time.to_le_bytes());
        head[8] = self.stream;
        head[9..].copy_from_slice(&self.length.to_le_bytes());
        head
    }

    /// Reads a head.
    #[must_use]
    pub fn decode(head: &[u8; Self::HEAD]) -> Self {
        let (time, rest) = head.split_at(8);
        Self {
            time: u64::from_le_bytes(time.try_into().unwrap_or_default()),
            stream: rest[0],
            length: u32::from_le_bytes(rest[1..].try_into().unwrap_or_default()),
        }
    }
}

/// One end of a connection.
#[derive(Debug)]
pub struct Connection(OwnedFd);

impl Connection {
    /// Wraps a connected socket.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        // An exec with a large environment must fit into one packet. Without the right the default is kept.
        let _ = setsockopt(&socket, sockopt::SndBuf, &(MESSAGE_LIMIT * 2));
        Self(socket)
    }

    /// Connects to the shim of a bundle. The path goes through a descriptor, since `sun_path` is short.
    pub fn open(bundle: &Path) -> io::Result<Self> {
        let folder = std::fs::File::open(bundle)?;
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        let address = UnixAddr::new(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()).as_str())?;
        connect(socket.as_raw_fd(), &address)?;
        Ok(Self::new(socket))
    }

    /// Makes sends and receives return [`io::ErrorKind::WouldBlock`] instead of waiting.
    pub fn set_nonblocking(&self) -> io::Result<()> {
        let flags = fcntl(&self.0, FcntlArg::F_GETFL)?;
        fcntl(&self.0, FcntlArg::F_SETFL(OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK))?;
        Ok(())
    }

    /// A pair of connections, such as a daemon and the shim that it starts use.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Self::new(ours), theirs))
    }

    /// Sends one message with descriptors.
    pub fn send<T: Serialize>(&self, message: &T, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message).map_err(io::Error::other)?;
        if bytes.len() > MESSAGE_LIMIT {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a message of {} bytes is too long", bytes.len()),
            ));
        }
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let control = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &control[..0] } else { &control[..] };
        loop {
            match sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(&bytes)], control, MsgFlags::MSG_NOSIGNAL, None) {
                Ok(_) => return Ok(()),
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Waits for one message; `None` when the other side is gone.
    pub fn receive<T: for<'de> Deserialize<'de>>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        // The length first: a buffer for the longest message would stay in the shim's memory.
        let waiting = loop {
            let mut none = [IoSliceMut::new(&mut [])];
            let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC;
            match recvmsg::<()>(self.0.as_raw_fd(), &mut none, None, flags) {
                Ok(peeked) => break peeked.bytes,
                Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::ECONNRESET) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
        };
        if waiting > MESSAGE_LIMIT {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a message of {waiting} bytes is too long"),
            ));
        }
        let mut buffer = vec![0; waiting];
        let mut space = nix::cmsg_space!([RawFd; 4]);
        let (length, descriptors) = loop {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            match recvmsg::<()>(self.0.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
                Ok(received) => {
                    let mut descriptors = Vec::new();
                    for control in received.cmsgs()? {
                        if let ControlMessageOwned::ScmRights(raw) = control {
                            descriptors.extend(raw.into_iter().map(own));
                        }
                    }
                    break (received.bytes, descriptors);
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::ECONNRESET) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
        };
        if length == 0 {
            return Ok(None);
        }
        serde_json::from_slice(&buffer[..length]).map(|message| Some((message, descriptors))).map_err(io::Error::other)
    }
}

#[allow(unsafe_code)]
fn own(raw: RawFd) -> OwnedFd {
    // SAFETY: the kernel made this descriptor for us in recvmsg, and nothing else has seen its number.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Listens in a bundle; the shim's side of [`Connection::open`].
pub fn listen_in(bundle: &Path) -> io::Result<OwnedFd> {
    let folder = std::fs::File::open(bundle)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    let address = UnixAddr::new(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()).as_str())?;
    bind(socket.as_raw_fd(), &address)?;
    listen(&socket, Backlog::new(8)?)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn messages_and_descriptors_arrive_whole() {
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let (a, b) = (Connection::new(a), Connection::new(b));
        let (read, write) = nix::unistd::pipe().unwrap();
        let big = "x".repeat(300 << 10);
        a.send(&Packet { seq: 7, request: Request::KillExec { id: big.clone(), signal: 9 } }, &[write.as_fd()])
            .unwrap();
        drop(write);
        let (packet, mut descriptors) = b.receive::<Packet>().unwrap().unwrap();
        assert_eq!(packet.seq, 7);
        assert!(matches!(packet.request, Request::KillExec { id, signal: 9 } if id == big));
        let mut writer = std::fs::File::from(descriptors.remove(0));
        writer.write_all(b"hi").unwrap();
        drop(writer);
        let mut text = String::new();
        std::fs::File::from(read).read_to_string(&mut text).unwrap();
        assert_eq!(text, "hi");
        drop(a);
        assert!(b.receive::<Packet>().unwrap().is_none());
    }

    #[test]
    fn spool_heads_survive() {
        let head = SpoolFrame { time: u64::MAX - 1, stream: 1, length: 70_000 };
        assert_eq!(SpoolFrame::decode(&head.encode()), head);
    }
}
