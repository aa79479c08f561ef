//! The upload of Sampan's own client: several byte streams one after the other, each in pieces with their lengths (four
//! bytes, big endian) and ended by an empty piece.

use std::io::{self, Read};

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::error::{Error, Result};

/// A piece may be this long.
const MAX_PIECE: u32 = 4 << 20;

/// Reads one part whole.
pub(crate) async fn whole(reader: &mut (impl AsyncRead + Unpin), limit: usize) -> Result<Vec<u8>> {
    let wrong = |error: io::Error| Error::invalid(format!("the upload ended early: {error}"));
    let mut bytes = Vec::new();
    loop {
        let length = reader.read_u32().await.map_err(wrong)?;
        if length == 0 {
            return Ok(bytes);
        }
        let length = length as usize;
        if bytes.len() + length > limit {
            return Err(Error::invalid(format!("the options of the build are longer than {limit} bytes")));
        }
        let start = bytes.len();
        bytes.resize(start + length, 0);
        reader.read_exact(&mut bytes[start..]).await.map_err(wrong)?;
    }
}

/// One part as a stream.
pub(crate) struct Part<'a, R> {
    inner: &'a mut R,
    left: u32,
    done: bool,
}

impl<'a, R: Read> Part<'a, R> {
    pub(crate) fn new(inner: &'a mut R) -> Self {
        Self { inner, left: 0, done: false }
    }

    /// Passes over what is left, so that the next part can be read.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        io::copy(&mut self, &mut io::sink()).map(drop)
    }
}

impl<R: Read> Read for Part<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.done || buffer.is_empty() {
            return Ok(0);
        }
        if self.left == 0 {
            let mut length = [0; 4];
            self.inner.read_exact(&mut length)?;
            self.left = u32::from_be_bytes(length);
            if self.left > MAX_PIECE {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a piece of the upload is too long"));
            }
            if self.left == 0 {
                self.done = true;
                return Ok(0);
            }
        }
        let most = buffer.len().min(self.left as usize);
        let length = self.inner.read(&mut buffer[..most])?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= u32::try_from(length).unwrap_or(self.left);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn upload(parts: &[&[&str]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in parts {
            for piece in part.iter().chain([&""]) {
                bytes.extend(u32::try_from(piece.len()).unwrap().to_be_bytes());
                bytes.extend(piece.bytes());
            }
        }
        bytes
    }

    #[tokio::test]
    async fn parts_are_told_apart() {
        let bytes = upload(&[&["{", "}"], &["one", "two"], &[], &["three"]]);
        let mut reader = &bytes[..];
        assert_eq!(whole(&mut reader, 10).await.unwrap(), b"{}");
        let mut text = String::new();
        let mut first = Part::new(&mut reader);
        first.by_ref().take(4).read_to_string(&mut text).unwrap();
        first.finish().unwrap();
        assert_eq!(text, "onet");
        Part::new(&mut reader).finish().unwrap();
        text.clear();
        Part::new(&mut reader).read_to_string(&mut text).unwrap();
        assert_eq!(text, "three");
        assert!(whole(&mut &bytes[..], 1).await.is_err());
        assert!(whole(&mut &bytes[..7], 10).await.is_err());
        assert!(Part::new(&mut &[0xff, 0xff, 0xff, 0xff][..]).finish().is_err());
    }
}
