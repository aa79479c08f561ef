//! Connections that stop being HTTP: attach and exec, with Docker's stream framing.
//!
//! A client that sends `Upgrade: tcp` gets `101 UPGRADED` and the raw connection, in both directions. One that does not
//! gets the output as the body of an ordinary answer.

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream;
use http::{Response, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use sampan_engine::containers::{Attached, Output, OutputStream, StdinWriter};

use crate::request::Call;
use crate::response::{Answer, build, full, stream as stream_body};

const RAW: &str = "application/vnd.docker.raw-stream";
const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";

/// `[stream, 0, 0, 0, length: u32 big endian]` before each chunk, unless a terminal mixes both anyway.
pub fn frame(tty: bool, stream: OutputStream, bytes: &Bytes) -> Bytes {
    if tty {
        return bytes.clone();
    }
    let mut framed = BytesMut::with_capacity(8 + bytes.len());
    framed.put_u8(match stream {
        OutputStream::Stdout => 1,
        OutputStream::Stderr => 2,
    });
    framed.put_bytes(0, 3);
    framed.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    framed.extend_from_slice(bytes);
    framed.freeze()
}

fn content_type(call: &Call, tty: bool) -> &'static str {
    // The name of the framed form came with API version 1.42.
    if tty || call.version < (1, 42) { RAW } else { MULTIPLEXED }
}

/// Hands the connection to the client, joined to what was attached.
pub fn answer(call: &mut Call, attached: Attached) -> Answer {
    let content_type = content_type(call, attached.tty);
    match call.take_upgrade() {
        Some(upgrade) => {
            let response = Response::builder()
                .status(StatusCode::SWITCHING_PROTOCOLS)
                .header(header::CONNECTION, "Upgrade")
                .header(header::UPGRADE, "tcp")
                .header(header::CONTENT_TYPE, content_type)
                .body(full(Bytes::new()));
            tokio::spawn(pump(upgrade, attached));
            response.map_err(|error| sampan_engine::Error::internal(format!("write the answer: {error}")))
        }
        None => {
            let tty = attached.tty;
            // Without an upgrade there is no way for input; dropping the writer must not end the container's.
            drop(attached.stdin);
            stream_body(
                content_type,
                stream::unfold(attached.output, move |mut output| async move {
                    let chunk = output.recv().await?;
                    Some((Ok(frame(tty, chunk.stream, &chunk.bytes)), output))
                }),
            )
        }
    }
}

/// An answer for an attach that has nothing to carry.
pub fn nothing() -> Answer {
    build(StatusCode::OK, RAW, full(Bytes::new()))
}

async fn pump(upgrade: OnUpgrade, attached: Attached) {
    let Ok(upgraded) = upgrade.await else { return };
    let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(upgraded));
    let Attached { tty, stdin, mut output, .. } = attached;
    let input = tokio::spawn(async move {
        match stdin {
            Some(stdin) => feed(&mut from_client, stdin).await,
            None => drain(&mut from_client).await,
        }
    });
    let mut client_left = Box::pin(input);
    let mut input_open = true;
    loop {
        tokio::select! {
            chunk = output.recv() => match chunk {
                Some(Output { stream, bytes }) => {
                    if to_client.write_all(&frame(tty, stream, &bytes)).await.is_err() {
                        break;
                    }
                }
                None => break,
            },
            left = &mut client_left, if input_open => {
                input_open = false;
                // A half-closed connection still wants the output; a broken one wants nothing.
                if !matches!(left, Ok(Ok(()))) {
                    break;
                }
            }
        }
    }
    let _ = to_client.shutdown().await;
    client_left.abort();
}

/// Copies what the client types; ends the container's input when the client ends its own.
async fn feed(from: &mut (impl AsyncReadExt + Unpin), mut stdin: StdinWriter) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(16 << 10);
    loop {
        buffer.reserve(16 << 10);
        if from.read_buf(&mut buffer).await? == 0 {
            stdin.close().await;
            return Ok(());
        }
        if stdin.write(buffer.split().freeze()).await.is_err() {
            // The process closed its input: what else comes is read and dropped, so that the end is seen.
            return drain(from).await;
        }
    }
}

async fn drain(from: &mut (impl AsyncReadExt + Unpin)) -> io::Result<()> {
    let mut sink = [0_u8; 4096];
    while from.read(&mut sink).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_carry_stream_and_length_unless_a_terminal_is_there() {
        let bytes = Bytes::from_static(b"hey");
        assert_eq!(&frame(false, OutputStream::Stderr, &bytes)[..], b"\x02\0\0\0\0\0\0\x03hey");
        assert_eq!(&frame(true, OutputStream::Stdout, &bytes)[..], b"hey");
    }
}
