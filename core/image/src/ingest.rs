//! Taking a layer in: its bytes are hashed, kept, decompressed, hashed again and unpacked in one pass.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use sha2::{Digest as _, Sha256};

use crate::blobs::BlobWriter;
use crate::decompress::{Compression, Decompress};
use crate::digest::{DiffId, Digest};
use crate::error::ImageError;
use crate::unpack::{Target, UnpackError, unpack};

const CHUNK: usize = 256 << 10;
/// Pieces on their way from one thread to the next.
const QUEUE: usize = 16;

/// What a layer was found to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub blob: Digest,
    pub blob_size: u64,
    pub diff_id: DiffId,
    pub compression: Compression,
    /// Bytes of the unpacked files.
    pub size: u64,
}

/// What becomes of the bytes as they come.
pub(crate) enum Keep<'a, 'b> {
    /// They are kept here, for the caller to finish once the digests have been compared.
    Blob(&'a mut BlobWriter<'b>),
    /// They are kept already, and were checked then.
    Known(Digest),
}

/// Counts what is read, and keeps it.
struct Tee<'a, 'b, R> {
    inner: R,
    keep: Keep<'a, 'b>,
    size: u64,
    /// More than this is refused.
    limit: u64,
}

impl<R: Read> Read for Tee<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if let Keep::Blob(blob) = &mut self.keep {
            blob.write_all(&buffer[..read])?;
        }
        self.size += read as u64;
        if self.size > self.limit {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("longer than the {} bytes that its descriptor promises", self.limit),
            ));
        }
        Ok(read)
    }
}

type Piece = Arc<Vec<u8>>;

/// Pieces that another thread makes, read as a stream. A sender's error ends it.
struct Pieces {
    from: Receiver<io::Result<Piece>>,
    present: Option<(Piece, usize)>,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some((piece, at)) = &mut self.present
                && *at < piece.len()
            {
                let step = buffer.len().min(piece.len() - *at);
                buffer[..step].copy_from_slice(&piece[*at..*at + step]);
                *at += step;
                return Ok(step);
            }
            match self.from.recv() {
                Ok(piece) => self.present = Some((piece?, 0)),
                Err(_) => return Ok(0),
            }
        }
    }
}

/// Reads a layer's tar to its end and unpacks it. More than `limit` bytes are refused.
pub(crate) fn ingest(
    what: &str,
    reader: impl Read + Send,
    limit: u64,
    keep: Keep<'_, '_>,
    target: &Target,
) -> Result<Found, ImageError> {
    let (to_unpack, from_reader) = sync_channel::<io::Result<Piece>>(QUEUE);
    let (to_hash, for_hash) = sync_channel::<Piece>(QUEUE);
    let unpacked = |result: Result<u64, UnpackError>| result.map_err(|error| unpack_error(what, error));
    thread::scope(|scope| {
        let hashing = scope.spawn(move || {
            let mut hash = Sha256::new();
            for piece in for_hash {
                hash.update(&*piece);
            }
            Digest::from_bytes(hash.finalize().into())
        });
        let reading = scope.spawn(move || {
            let tee = Tee { inner: reader, keep, size: 0, limit };
            read_pieces(tee, &to_unpack, &to_hash)
        });
        let size = unpacked(unpack(Pieces { from: from_reader, present: None }, target));
        // The channel is gone by now, so a reader that has more to give ends.
        let gone = || ImageError::refused(what, "a thread ended early");
        let read = reading.join().map_err(|_| gone())?;
        let plain = hashing.join().map_err(|_| gone())?;
        let size = size?;
        let (compression, blob, blob_size) = read.map_err(|error| read_error(what, error))?;
        Ok(Found { blob, blob_size, diff_id: DiffId(plain), compression, size })
    })
}

pub(crate) fn unpack_error(what: &str, error: UnpackError) -> ImageError {
    match error {
        UnpackError::Write { path, step, source } => {
            ImageError::Io { context: format!("unpack {what}: {path:?}: {step}"), source }
        }
        UnpackError::Archive(source) if !is_refusal(&source) => {
            ImageError::Io { context: format!("read {what}"), source }
        }
        other => ImageError::refused(what, other.to_string()),
    }
}

/// Whether the bytes are at fault, rather than the disk or the wire.
pub(crate) fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::Unsupported
    )
}

/// A failure to read an archive.
pub(crate) fn read_error(what: &str, source: io::Error) -> ImageError {
    if is_refusal(&source) {
        ImageError::refused(what, source.to_string())
    } else {
        ImageError::Io { context: format!("read {what}"), source }
    }
}

fn read_pieces<R: Read>(
    tee: Tee<'_, '_, R>,
    to_unpack: &SyncSender<io::Result<Piece>>,
    to_hash: &SyncSender<Piece>,
) -> io::Result<(Compression, Digest, u64)> {
    let mut stream = Decompress::new(tee)?;
    let compression = stream.compression();
    loop {
        let mut piece = vec![0; CHUNK];
        match fill(&mut stream, &mut piece) {
            Ok(0) => break,
            Ok(length) => piece.truncate(length),
            Err(error) => {
                let copy = io::Error::new(error.kind(), error.to_string());
                drop(to_unpack.send(Err(copy)));
                return Err(error);
            }
        }
        let piece = Arc::new(piece);
        if to_hash.send(piece.clone()).is_err() || to_unpack.send(Ok(piece)).is_err() {
            // The other end gave up and says why.
            return Err(io::Error::other("unpacking ended early"));
        }
    }
    let mut tee = stream.into_inner();
    // What follows the compressed stream belongs to the blob all the same.
    io::copy(&mut tee, &mut io::sink())?;
    let digest = match &tee.keep {
        Keep::Blob(blob) => blob.digest_so_far(),
        Keep::Known(digest) => *digest,
    };
    Ok((compression, digest, tee.size))
}

fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match crate::tar_reader::read_some(reader, &mut buffer[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}
