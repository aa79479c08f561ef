//! Netlink messages and a socket that speaks them synchronously: the kernel handles a request within the call that
//! sends it, so an answer is there when `send` returns and no task needs to wait for it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::{Socket as RawSocket, SocketAddr};

const HEADER: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const OVERRUN: u16 = 4;

pub(crate) const REQUEST: u16 = 0x01;
pub(crate) const ACK: u16 = 0x04;
pub(crate) const DUMP: u16 = 0x300;
/// Set in the answers of a list that changed while it was read.
const DUMP_INTERRUPTED: u16 = 0x10;
/// How often a list is asked for that changes all the time.
const DUMPS: usize = 50;
pub(crate) const EXCL: u16 = 0x200;
pub(crate) const CREATE: u16 = 0x400;
pub(crate) const REPLACE: u16 = 0x100;

const NESTED: u16 = 0x8000;

/// The kernel's refusal of a request.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The request was understood and refused.
    #[error("{}{}", io::Error::from_raw_os_error(*errno), detail.as_ref().map(|text| format!(" ({text})")).unwrap_or_default())]
    Refused {
        errno: i32,
        /// What the kernel says about it.
        detail: Option<String>,
        /// Which message of a batch it was.
        sequence: u32,
    },
    /// The socket failed.
    #[error("netlink: {0}")]
    Socket(#[from] io::Error),
}

impl NetlinkError {
    /// The error number, if the kernel refused.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Socket(error) => error.raw_os_error(),
        }
    }
}

/// A message in the making.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A message with its family's fixed header.
    pub(crate) fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(header);
        let mut message = Self { bytes };
        message.pad();
        message
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// An attribute. Values are at most 64 KiB.
    pub(crate) fn put(&mut self, attribute: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&attribute.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    pub(crate) fn put_u8(&mut self, attribute: u16, value: u8) -> &mut Self {
        self.put(attribute, &[value])
    }

    pub(crate) fn put_u16(&mut self, attribute: u16, value: u16) -> &mut Self {
        self.put(attribute, &value.to_ne_bytes())
    }

    pub(crate) fn put_u32(&mut self, attribute: u16, value: u32) -> &mut Self {
        self.put(attribute, &value.to_ne_bytes())
    }

    /// In network order, as netfilter wants its numbers.
    pub(crate) fn put_be32(&mut self, attribute: u16, value: u32) -> &mut Self {
        self.put(attribute, &value.to_be_bytes())
    }

    pub(crate) fn put_text(&mut self, attribute: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.put(attribute, &bytes)
    }

    /// Bytes without a header: structures inside of attributes.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// An attribute of attributes.
    pub(crate) fn nest(&mut self, attribute: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.nest_plain(attribute | NESTED, fill)
    }

    /// The same without the flag, for families older than it.
    pub(crate) fn nest_plain(&mut self, attribute: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&attribute.to_ne_bytes());
        fill(self);
        let length = u16::try_from(self.bytes.len() - at).unwrap_or(u16::MAX);
        self.bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    fn finish(&mut self, sequence: u32, flags: u16) -> &[u8] {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | flags;
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        &self.bytes
    }
}

/// The attributes in a stretch of bytes; ends at the first that is malformed.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A text attribute's value.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// A netlink socket of the namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Socket {
    inner: RawSocket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// One message of an answer: kind, sequence, payload.
struct Received<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut inner = RawSocket::new(protocol)?;
        inner.bind_auto()?;
        inner.connect(&SocketAddr::new(0, 0))?;
        // Both only make answers better, older kernels go without.
        let _ = inner.set_ext_ack(true);
        let _ = inner.set_cap_ack(true);
        let _ = inner.set_rx_buf_sz(1_u32 << 20);
        Ok(Self { inner, sequence: 0, buffer: vec![0; 65_536] })
    }

    /// Opens a socket that hears what a group tells, without ever waiting.
    pub(crate) fn listen(protocol: isize, group: u32) -> io::Result<Self> {
        let mut inner = RawSocket::new(protocol)?;
        inner.bind_auto()?;
        inner.add_membership(group)?;
        inner.set_non_blocking(true)?;
        Ok(Self { inner, sequence: 0, buffer: vec![0; 65_536] })
    }

    /// Whether any message heard is of one of the kinds. What was lost counts as heard.
    pub(crate) fn heard(&mut self, kinds: &[u16]) -> bool {
        let mut heard = false;
        loop {
            match self.receive(libc::MSG_DONTWAIT) {
                Ok(read) => heard |= messages(&self.buffer[..read]).any(|message| kinds.contains(&message.kind)),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => heard = true,
                Err(_) => return heard,
            }
        }
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.sequence
    }

    /// Sends a request and waits for the kernel's yes.
    pub(crate) fn request(&mut self, message: Message) -> Result<(), NetlinkError> {
        self.query(message, ACK, |_, _| {}).map(drop)
    }

    /// Sends a question; `each` sees the kind and the payload of every answer. What changes while the kernel lists it may
    /// be missing from the list, which the kernel says: then it is asked again.
    pub(crate) fn dump(&mut self, message: Message, mut each: impl FnMut(u16, &[u8])) -> Result<(), NetlinkError> {
        for _ in 0..DUMPS {
            let mut answers: Vec<(u16, Vec<u8>)> = Vec::new();
            if self.query(message.clone(), DUMP, |kind, payload| answers.push((kind, payload.to_vec())))? {
                answers.iter().for_each(|(kind, payload)| each(*kind, payload));
                return Ok(());
            }
        }
        Err(io::Error::other("what the kernel lists changes all the time").into())
    }

    /// Sends a question about one object.
    pub(crate) fn get(&mut self, message: Message, each: impl FnMut(u16, &[u8])) -> Result<(), NetlinkError> {
        self.query(message, ACK, each).map(drop)
    }

    /// Whether the answers are of one moment.
    fn query(
        &mut self,
        mut message: Message,
        flags: u16,
        mut each: impl FnMut(u16, &[u8]),
    ) -> Result<bool, NetlinkError> {
        let sequence = self.next();
        self.send(message.finish(sequence, flags))?;
        let mut whole = true;
        loop {
            let read = self.receive(0)?;
            for message in messages(&self.buffer[..read]) {
                if message.sequence != sequence {
                    continue;
                }
                whole &= message.flags & DUMP_INTERRUPTED == 0;
                match message.kind {
                    ERROR => return verdict(message.payload, sequence).map(|()| whole),
                    DONE => return Ok(whole),
                    OVERRUN => return Err(io::Error::other("the kernel lost an answer").into()),
                    kind => each(kind, message.payload),
                }
            }
        }
    }

    /// Sends messages as one netfilter batch: all of them happen, or none.
    pub(crate) fn transact(&mut self, batch: Vec<Message>) -> Result<(), NetlinkError> {
        const BATCH_BEGIN: u16 = 16;
        const BATCH_END: u16 = 17;
        const SUBSYSTEM: [u8; 4] = [0, 0, 0, 10];
        if batch.is_empty() {
            return Ok(());
        }
        let first = self.next();
        let mut bytes = Message::new(BATCH_BEGIN, 0, &SUBSYSTEM).finish(first, 0).to_vec();
        let count = batch.len();
        let mut last = first;
        for (at, mut message) in batch.into_iter().enumerate() {
            last = self.next();
            bytes.extend_from_slice(message.finish(last, if at + 1 == count { ACK } else { 0 }));
        }
        let end = self.next();
        bytes.extend_from_slice(Message::new(BATCH_END, 0, &SUBSYSTEM).finish(end, 0));
        self.send(&bytes)?;
        let mut done = false;
        let mut refused = None;
        while !done {
            let read = self.receive(0)?;
            for Received { kind, sequence: of, payload, .. } in messages(&self.buffer[..read]) {
                if kind != ERROR || of.wrapping_sub(first) > end.wrapping_sub(first) {
                    continue;
                }
                if let Err(error) = verdict(payload, of) {
                    refused.get_or_insert(error);
                }
                done |= of == last || of == first;
            }
            // A refused batch may end without the last message's answer.
            done |= refused.is_some();
        }
        self.drain();
        refused.map_or(Ok(()), Err)
    }

    fn drain(&mut self) {
        while self.receive(libc::MSG_DONTWAIT).is_ok_and(|read| read > 0) {}
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        loop {
            match self.inner.send(bytes, 0) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn receive(&mut self, flags: libc::c_int) -> io::Result<usize> {
        loop {
            let mut window = &mut self.buffer[..];
            match self.inner.recv(&mut window, flags) {
                Ok(read) => return Ok(read),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

fn verdict(payload: &[u8], sequence: u32) -> Result<(), NetlinkError> {
    let code = payload.get(..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes);
    if code == 0 {
        return Ok(());
    }
    // The capped answer repeats the request's header alone, then come the kernel's words.
    let words = attributes(payload.get(4 + HEADER..).unwrap_or_default()).find(|(kind, _)| *kind == 1);
    Err(NetlinkError::Refused { errno: -code, detail: words.map(|(_, value)| text(value)), sequence })
}

fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?);
        let length = usize::try_from(length).ok().filter(|length| *length >= HEADER)?;
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let flags = u16::from_ne_bytes(bytes.get(6..8)?.try_into().ok()?);
        let sequence = u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?);
        let payload = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Received { kind, flags, sequence, payload })
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let mut message = Message::new(16, 0, &[1, 2, 3, 4]);
        message.put_u16(3, 7).nest(4, |inner| {
            inner.put_text(1, "veth");
        });
        let bytes = message.finish(9, ACK).to_vec();
        let Received { kind, sequence, payload, .. } = messages(&bytes).next().unwrap();
        assert_eq!((kind, sequence), (16, 9));
        let read: Vec<_> = attributes(&payload[4..]).collect();
        assert_eq!(read[0], (3, 7_u16.to_ne_bytes().as_slice()));
        assert_eq!(
            attributes(read[1].1).map(|(kind, value)| (kind, text(value))).collect::<Vec<_>>(),
            [(1, "veth".to_owned())]
        );
    }

    #[test]
    fn rubbish_ends_the_reading() {
        assert_eq!(attributes(&[2, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[200, 0, 1, 0, 9]).count(), 0);
        assert_eq!(messages(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).count(), 0);
    }
}
