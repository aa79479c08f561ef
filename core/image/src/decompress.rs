//! Compressed streams, known by their first bytes, with a bound on what they may grow to.

use std::io::{self, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;

const BUFFER: usize = 256 << 10;
/// A stream may always grow to this; beyond it the ratio counts.
const FREE: u64 = 2 << 30;
/// Layers of programs and data stay far below it, deflate's own limit is a bit over a thousand.
const MAX_RATIO: u64 = 200;

/// How a tar is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Compression {
    /// By the first bytes of a stream; the name of a packing that is not understood.
    pub fn detect(start: &[u8]) -> Result<Self, &'static str> {
        if start.starts_with(&[0x1f, 0x8b]) {
            Ok(Self::Gzip)
        } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
            || (start.len() >= 4 && start[0] & 0xf0 == 0x50 && start[1..4] == [0x2a, 0x4d, 0x18])
        {
            Ok(Self::Zstd)
        } else if start.starts_with(b"BZh") {
            Err("bzip2")
        } else if start.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
            Err("xz")
        } else {
            Ok(Self::None)
        }
    }
}

/// So many first bytes tell how a stream is packed.
const MAGIC: u64 = 6;

/// Counts what was taken from a stream.
#[derive(Debug)]
struct Counted<R> {
    /// What was looked at beforehand and is still to be read.
    start: io::Cursor<Vec<u8>>,
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match self.start.read(buffer)? {
            0 => self.inner.read(buffer)?,
            read => read,
        };
        self.count.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

enum Kind<R: Read> {
    None(BufReader<Counted<R>>),
    Gzip(Box<MultiGzDecoder<BufReader<Counted<R>>>>),
    Zstd(zstd::stream::read::Decoder<'static, BufReader<Counted<R>>>),
}

/// A stream that is unpacked while it is read.
pub struct Decompress<R: Read> {
    kind: Kind<R>,
    taken: Arc<AtomicU64>,
    given: u64,
    /// See [`FREE`].
    free: u64,
}

impl<R: Read> std::fmt::Debug for Decompress<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decompress").field("compression", &self.compression()).finish_non_exhaustive()
    }
}

impl<R: Read> Decompress<R> {
    pub fn new(mut reader: R) -> io::Result<Self> {
        let taken = Arc::new(AtomicU64::new(0));
        let mut start = Vec::new();
        // Streams may come byte by byte.
        (&mut reader).take(MAGIC).read_to_end(&mut start)?;
        let compression = Compression::detect(&start).map_err(|name| {
            io::Error::new(
                io::ErrorKind::Unsupported,
                format!("the archive is packed with {name}; pack it with gzip or zstd, or not at all"),
            )
        })?;
        let counted = Counted { start: io::Cursor::new(start), inner: reader, count: taken.clone() };
        let buffered = BufReader::with_capacity(BUFFER, counted);
        let kind = match compression {
            Compression::None => Kind::None(buffered),
            Compression::Gzip => Kind::Gzip(Box::new(MultiGzDecoder::new(buffered))),
            Compression::Zstd => Kind::Zstd(zstd::stream::read::Decoder::with_buffer(buffered)?),
        };
        Ok(Self { kind, taken, given: 0, free: FREE })
    }

    /// The stream beneath; what was read ahead of need is dropped, having been seen by it.
    pub fn into_inner(self) -> R {
        match self.kind {
            Kind::None(inner) => inner.into_inner().inner,
            Kind::Gzip(inner) => inner.into_inner().into_inner().inner,
            Kind::Zstd(inner) => inner.finish().into_inner().inner,
        }
    }

    pub const fn compression(&self) -> Compression {
        match self.kind {
            Kind::None(_) => Compression::None,
            Kind::Gzip(_) => Compression::Gzip,
            Kind::Zstd(_) => Compression::Zstd,
        }
    }
}

impl<R: Read> Read for Decompress<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.kind {
            Kind::None(inner) => return inner.read(buffer),
            Kind::Gzip(inner) => inner.read(buffer)?,
            Kind::Zstd(inner) => inner.read(buffer)?,
        };
        self.given += read as u64;
        if self.given > self.free && self.given / MAX_RATIO > self.taken.load(Ordering::Relaxed) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the archive grows to more than {MAX_RATIO} times its packed size"),
            ));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_bomb_is_refused_and_ordinary_content_is_not() {
        let bomb = zstd::encode_all(io::repeat(0).take(64 << 20), 19).unwrap();
        let mut stream = Decompress::new(bomb.as_slice()).unwrap();
        stream.free = 1 << 20;
        let error = io::copy(&mut stream, &mut io::sink()).unwrap_err();
        assert!(error.kind() == io::ErrorKind::InvalidData && error.to_string().contains("packed size"), "{error}");

        let plain: Vec<u8> = (0..4 << 20).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let packed = zstd::encode_all(plain.as_slice(), 3).unwrap();
        let mut stream = Decompress::new(packed.as_slice()).unwrap();
        stream.free = 1 << 20;
        assert_eq!(io::copy(&mut stream, &mut io::sink()).unwrap(), plain.len() as u64);
    }
}
