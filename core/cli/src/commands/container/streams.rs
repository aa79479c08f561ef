//! The raw connection of an attach or an exec, joined to this process's own streams.

use bytes::{Buf, BytesMut};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::client::{Client, Query, Raw};
use crate::failure::{Failure, Outcome};
use crate::output::terminal::{self, DetachKeys, RawMode, Typed};

/// The exit status of a program whose output nobody reads any more: 128 and SIGPIPE.
const PIPE_GONE: u8 = 141;
const CHUNK: usize = 64 << 10;

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The other side closed its output.
    Output,
    /// The detach keys were typed.
    Detached,
}

/// What to join.
#[derive(Debug)]
pub struct Session {
    /// The connection.
    pub raw: Raw,
    /// Whether the container has a terminal: its output comes as it is, else in frames.
    pub tty: bool,
    /// Whether to send standard input.
    pub input: bool,
    /// The keys that detach; only looked for on a terminal.
    pub detach_keys: DetachKeys,
}

/// Carries bytes both ways until the other side ends or the user detaches.
pub async fn join(session: Session) -> Outcome<Ended> {
    let Session { raw, tty, input, detach_keys } = session;
    // Held until the end: the terminal is put back on every way out.
    let _mode = if tty && input { RawMode::enter()? } else { RawMode::default() };
    let keys = (tty && input && terminal::input_is_terminal()).then_some(detach_keys);
    let (from, to) = tokio::io::split(raw);
    // Apart from each other: a process that reads nothing while it writes must not stop its own output.
    let (mut output, mut typing) = (std::pin::pin!(receive(from, tty)), std::pin::pin!(send(to, keys)));
    let mut open = input;
    loop {
        tokio::select! {
            ended = &mut output => return ended.map(|()| Ended::Output),
            detached = &mut typing, if open => {
                open = false;
                if detached {
                    return Ok(Ended::Detached);
                }
            }
        }
    }
}

/// Writes what comes until the other side ends.
async fn receive(mut from: impl AsyncRead + Unpin, tty: bool) -> Outcome {
    let mut sink = Sink::new(tty)?;
    let mut buffer = BytesMut::with_capacity(CHUNK);
    loop {
        match from.read_buf(&mut buffer).await {
            Ok(0) => return Ok(()),
            Ok(_) => {
                sink.take(&mut buffer)?;
                buffer.reserve(CHUNK);
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(Failure::new(format!("read the container's output: {error}"))),
        }
    }
}

/// Sends standard input until it ends or the other side takes no more; whether the keys to detach were typed.
async fn send(mut to: impl AsyncWrite + Unpin, mut keys: Option<DetachKeys>) -> bool {
    let mut typed = standard_input();
    while let Some(bytes) = typed.recv().await {
        let (bytes, leave) = match keys.as_mut().map(|keys| keys.feed(&bytes)) {
            None => (bytes, false),
            Some(Typed::Pass(bytes)) => (bytes, false),
            Some(Typed::Detach(bytes)) => (bytes, true),
        };
        // A process that ended takes no more input; its output still comes.
        if to.write_all(&bytes).await.is_err() || to.flush().await.is_err() {
            return false;
        }
        if leave {
            return true;
        }
    }
    let _ = to.shutdown().await;
    false
}

/// Standard input, read by a thread of its own, since a read from a terminal cannot be cancelled.
fn standard_input() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut input = io::stdin().lock();
        let mut buffer = vec![0_u8; 32 << 10];
        loop {
            match input.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => {
                    if sender.blocking_send(buffer[..count].to_vec()).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
    receiver
}

/// Takes the daemon's frames apart and writes what is in them.
#[derive(Debug)]
pub struct Sink {
    tty: bool,
    output: File,
    errors: File,
    /// Left of the frame that is being read, and whether it is of standard error.
    left: usize,
    to_errors: bool,
}

impl Sink {
    /// To standard output and standard error, unbuffered.
    pub fn new(tty: bool) -> Outcome<Self> {
        let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let errors = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        Ok(Self { tty, output, errors, left: 0, to_errors: false })
    }

    /// Writes what is complete and leaves the rest of a header in the buffer.
    pub fn take(&mut self, buffer: &mut BytesMut) -> Outcome {
        if self.tty {
            write(&mut self.output, buffer)?;
            buffer.clear();
            return Ok(());
        }
        loop {
            if self.left == 0 {
                let Some(header) = buffer.first_chunk::<8>() else { return Ok(()) };
                let [stream, _, _, _, a, b, c, d] = *header;
                self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                self.to_errors = match stream {
                    0 | 1 => false,
                    2 => true,
                    other => {
                        return Err(Failure::new(format!("the daemon sent a frame of the unknown stream {other}")));
                    }
                };
                buffer.advance(8);
                continue;
            }
            let now = self.left.min(buffer.len());
            if now == 0 {
                return Ok(());
            }
            write(if self.to_errors { &mut self.errors } else { &mut self.output }, &buffer[..now])?;
            buffer.advance(now);
            self.left -= now;
        }
    }
}

fn write(file: &mut File, bytes: &[u8]) -> Outcome {
    match file.write_all(bytes) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::exit(PIPE_GONE)),
        other => other.map_err(|error| Failure::new(format!("write the container's output: {error}"))),
    }
}

/// How often the first size is offered: a process that was just started may not have its terminal yet.
const FIRST_TRIES: u32 = 5;

/// Gives the container's terminal the size of this one, now and whenever it changes.
pub fn follow_size(client: &Client, path: String) {
    let client = client.clone();
    tokio::spawn(async move {
        let Ok(mut changes) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::window_change()) else {
            return;
        };
        for attempt in 1..=FIRST_TRIES {
            if resize(&client, &path, 0).await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10) * attempt).await;
        }
        while changes.recv().await.is_some() {
            // The process may have ended meanwhile; there is nothing to say about it.
            let _ = resize(&client, &path, 0).await;
        }
    });
}

/// Sets the container's terminal to this one's size, with some rows more.
pub async fn resize(client: &Client, path: &str, more_rows: u16) -> Outcome {
    match terminal::size() {
        Some((rows, columns)) => {
            let query = Query::new().with("h", (rows + more_rows).to_string()).with("w", columns.to_string());
            client.act(&format!("{path}/resize{query}")).await
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::{Seek, SeekFrom};

    fn sink(tty: bool) -> Sink {
        Sink {
            tty,
            output: tempfile::tempfile().unwrap(),
            errors: tempfile::tempfile().unwrap(),
            left: 0,
            to_errors: false,
        }
    }

    fn text(file: &mut File) -> String {
        file.seek(SeekFrom::Start(0)).unwrap();
        io::read_to_string(file).unwrap()
    }

    #[test]
    fn frames_come_apart_wherever_the_reads_end() {
        let whole = b"\x01\0\0\0\0\0\0\x05hello\x02\0\0\0\0\0\0\x03bad\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\x01!";
        for size in 1..whole.len() {
            let mut sink = sink(false);
            let mut buffer = BytesMut::new();
            for part in whole.chunks(size) {
                buffer.extend_from_slice(part);
                sink.take(&mut buffer).unwrap();
            }
            assert_eq!(text(&mut sink.output), "hello!");
            assert_eq!(text(&mut sink.errors), "bad");
        }
    }

    #[test]
    fn a_terminal_has_no_frames_and_unknown_streams_are_refused() {
        let mut raw = sink(true);
        raw.take(&mut BytesMut::from(&b"\x09abc"[..])).unwrap();
        assert_eq!(text(&mut raw.output), "\x09abc");
        assert!(sink(false).take(&mut BytesMut::from(&b"\x09\0\0\0\0\0\0\x01a"[..])).is_err());
    }
}
