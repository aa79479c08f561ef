//! Taking a layer in: its bytes are hashed, kept, decompressed, hashed again and unpacked in one pass.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use sha2::{Digest as _, Sha256};

use crate::blobs::BlobWriter;
use crate::decompress::{Compression, Decompress};
use crate::digest::{DiffId, Digest};
use crate::error::{Context, ImageError};
use crate::unpack::{Target, UnpackError, Unpacked, unpack};

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
    /// See [`Unpacked::has_root`].
    pub has_root: bool,
}

/// What a stream was found to be, and what came of unpacking it.
#[derive(Debug)]
pub(crate) struct Tried {
    pub blob: Digest,
    pub blob_size: u64,
    pub diff_id: DiffId,
    pub compression: Compression,
    /// Why it could not be unpacked: it is no layer, a bad one, or one that needs those below it.
    pub unpacked: Result<Unpacked, UnpackError>,
}

impl Tried {
    fn with(self, unpacked: Unpacked) -> Found {
        let Self { blob, blob_size, diff_id, compression, .. } = self;
        Found { blob, blob_size, diff_id, compression, size: unpacked.bytes, has_root: unpacked.has_root }
    }

    /// If it was unpacked.
    pub(crate) fn found(self) -> Option<Found> {
        let unpacked = *self.unpacked.as_ref().ok()?;
        Some(self.with(unpacked))
    }
}

/// What becomes of the bytes as they come.
pub(crate) enum Keep<'a, 'b> {
    /// They are kept here, for the caller to finish once the digests have been compared.
    Blob(&'a mut BlobWriter<'b>),
    /// What they unpack to, the plain tar, is kept here, for the caller to finish.
    Plain(&'a mut BlobWriter<'b>),
    /// They are kept already, and were checked then.
    Known(Digest),
}

/// Counts what is read, and keeps it.
struct Tee<'a, 'b, R> {
    inner: R,
    keep: Option<&'a mut BlobWriter<'b>>,
    size: u64,
    /// More than this is refused.
    limit: u64,
}

impl<R: Read> Read for Tee<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if let Some(blob) = &mut self.keep {
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
    let mut tried = run(what, reader, limit, keep, target, Patience::None)?;
    let unpacked = std::mem::replace(&mut tried.unpacked, Err(UnpackError::LowerUnknown));
    Ok(tried.with(unpacked.map_err(|error| unpack_error(what, error))?))
}

/// Reads a layer's tar, a blob that is kept, to its end for its digests, and unpacks nothing of it.
pub(crate) fn look_through(what: &str, reader: impl Read, blob: Digest) -> Result<Found, ImageError> {
    let mut stream = Decompress::new(Tee { inner: reader, keep: None, size: 0, limit: u64::MAX })
        .map_err(|error| read_error(what, error))?;
    let compression = stream.compression();
    let mut hash = Sha256::new();
    let mut piece = vec![0; CHUNK];
    loop {
        match fill(&mut stream, &mut piece).map_err(|error| read_error(what, error))? {
            0 => break,
            length => hash.update(&piece[..length]),
        }
    }
    let mut tee = stream.into_inner();
    io::copy(&mut tee, &mut io::sink()).map_err(|error| read_error(what, error))?;
    let diff_id = DiffId(Digest::from_bytes(hash.finalize().into()));
    Ok(Found { blob, blob_size: tee.size, diff_id, compression, size: 0, has_root: false })
}

/// Reads what may be a layer's tar to its end, and unpacks it if that can be done.
pub(crate) fn try_ingest(
    what: &str,
    reader: impl Read + Send,
    keep: Keep<'_, '_>,
    target: &Target,
) -> Result<Tried, ImageError> {
    let tried = run(what, reader, u64::MAX, keep, target, Patience::ToTheEnd)?;
    match tried.unpacked {
        // The disk or the wire is at fault.
        Err(error @ UnpackError::Write { .. }) => Err(unpack_error(what, error)),
        Err(UnpackError::Archive(error)) if !is_refusal(&error) => Err(read_error(what, error)),
        unpacked => Ok(Tried { unpacked, ..tried }),
    }
}

/// How far a stream is read that cannot be unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    None,
    ToTheEnd,
}

fn run(
    what: &str,
    reader: impl Read + Send,
    limit: u64,
    keep: Keep<'_, '_>,
    target: &Target,
    patience: Patience,
) -> Result<Tried, ImageError> {
    let (to_unpack, from_reader) = sync_channel::<io::Result<Piece>>(QUEUE);
    let (to_hash, for_hash) = sync_channel::<Piece>(QUEUE);
    let (packed, plain, known) = match keep {
        Keep::Blob(blob) => (Some(blob), None, None),
        Keep::Plain(blob) => (None, Some(blob), None),
        Keep::Known(digest) => (None, None, Some(digest)),
    };
    let keeps_plain = plain.is_some();
    thread::scope(|scope| {
        let hashing = scope.spawn(move || hash_pieces(for_hash, plain));
        let reading = scope.spawn(move || {
            let tee = Tee { inner: reader, keep: packed, size: 0, limit };
            read_pieces(tee, known, &to_unpack, &to_hash)
        });
        let mut pieces = Pieces { from: from_reader, present: None };
        let unpacked = unpack(&mut pieces, target);
        if patience == Patience::ToTheEnd && unpacked.is_err() {
            for piece in &pieces.from {
                drop(piece);
            }
        }
        // Once the channel is gone, a reader that has more to give ends.
        drop(pieces);
        let gone = || ImageError::refused(what, "a thread ended early");
        let read = reading.join().map_err(|_| gone())?;
        let hashed = hashing.join().map_err(|_| gone())?;
        if patience == Patience::None
            && let Err(error) = unpacked
        {
            return Err(unpack_error(what, error));
        }
        let (plain, plain_size) = hashed.context(|| format!("keep {what}"))?;
        let (compression, blob, blob_size) = read.map_err(|error| read_error(what, error))?;
        let (blob, blob_size) = if keeps_plain { (plain, plain_size) } else { (blob, blob_size) };
        Ok(Tried { blob, blob_size, diff_id: DiffId(plain), compression, unpacked })
    })
}

/// Hashes the plain tar, and keeps it if that is wanted: its digest and length.
fn hash_pieces(pieces: Receiver<Piece>, keep: Option<&mut BlobWriter<'_>>) -> io::Result<(Digest, u64)> {
    let mut size = 0;
    match keep {
        Some(blob) => {
            for piece in pieces {
                blob.write_all(&piece)?;
                size += piece.len() as u64;
            }
            Ok((blob.digest_so_far(), size))
        }
        None => {
            let mut hash = Sha256::new();
            for piece in pieces {
                hash.update(&*piece);
                size += piece.len() as u64;
            }
            Ok((Digest::from_bytes(hash.finalize().into()), size))
        }
    }
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
    known: Option<Digest>,
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
    // Of what is kept in its plain form, the packed one does not matter.
    let digest = tee.keep.as_ref().map(|blob| blob.digest_so_far()).or(known).unwrap_or_else(|| Digest::of(b""));
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
