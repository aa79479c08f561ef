//! Packing with gzip by several threads.
//!
//! Pieces of a fixed length are packed each on its own and joined to one member, so the same bytes give the same result
//! on every machine, with however many threads.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use flate2::{Compress, Compression, Crc, FlushCompress, Status};

const PIECE: usize = 1 << 20;
/// No name, no time, no particular system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
const THREADS: usize = 16;

struct Packed {
    bytes: Vec<u8>,
    crc: Crc,
}

/// A piece to be packed, whether it is the last, and who waits for it.
struct Work {
    piece: Vec<u8>,
    last: bool,
    done: SyncSender<io::Result<Packed>>,
}

/// Packs a stream to its end.
pub(crate) fn compress(reader: impl Read + Send, out: impl Write) -> io::Result<()> {
    compress_at(reader, out, None)
}

/// The same as hard as is asked for, 0 to 9.
pub(crate) fn compress_at(reader: impl Read + Send, mut out: impl Write, level: Option<u32>) -> io::Result<()> {
    let level = level.map_or_else(Compression::default, Compression::new);
    let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS);
    let (to_workers, work) = sync_channel::<Work>(threads);
    // Results in the order of the pieces.
    let (to_writer, results) = sync_channel::<Receiver<io::Result<Packed>>>(threads * 2);
    let work = Mutex::new(work);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let next = work.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(Work { piece, last, done }) = next else { return };
                    // Whoever waits may have given up.
                    drop(done.send(deflate(&piece, last, level)));
                }
            });
        }
        let reading = scope.spawn(move || read_pieces(reader, &to_workers, &to_writer));
        let written = write_pieces(results, &mut out);
        let read = reading.join().map_err(|_| io::Error::other("the thread that reads ended early"))?;
        read.and(written)
    })
}

fn read_pieces(
    mut reader: impl Read,
    to_workers: &SyncSender<Work>,
    to_writer: &SyncSender<Receiver<io::Result<Packed>>>,
) -> io::Result<()> {
    let mut next = |length: usize| -> io::Result<Vec<u8>> {
        let mut piece = Vec::with_capacity(length);
        (&mut reader).take(length as u64).read_to_end(&mut piece)?;
        Ok(piece)
    };
    let mut piece = next(PIECE)?;
    loop {
        let following = if piece.len() < PIECE { Vec::new() } else { next(PIECE)? };
        let last = following.is_empty();
        let (done, result) = sync_channel(1);
        if to_writer.send(result).is_err() || to_workers.send(Work { piece, last, done }).is_err() {
            // The writer failed, and says why.
            return Ok(());
        }
        if last {
            return Ok(());
        }
        piece = following;
    }
}

fn write_pieces(results: Receiver<Receiver<io::Result<Packed>>>, out: &mut impl Write) -> io::Result<()> {
    let mut crc = Crc::new();
    out.write_all(&HEADER)?;
    for result in results {
        let packed = result.recv().map_err(|_| io::Error::other("a thread that packs ended early"))??;
        out.write_all(&packed.bytes)?;
        crc.combine(&packed.crc);
    }
    out.write_all(&crc.sum().to_le_bytes())?;
    out.write_all(&crc.amount().to_le_bytes())
}

/// One piece: blocks that end at a byte's border, or the last ones of the stream.
fn deflate(piece: &[u8], last: bool, level: Compression) -> io::Result<Packed> {
    let mut crc = Crc::new();
    crc.update(piece);
    let mut compress = Compress::new(level, false);
    let flush = if last { FlushCompress::Finish } else { FlushCompress::Sync };
    let mut bytes = Vec::with_capacity(piece.len() / 2 + 1024);
    loop {
        let taken = usize::try_from(compress.total_in()).unwrap_or(piece.len());
        let status = compress.compress_vec(&piece[taken..], &mut bytes, flush).map_err(io::Error::other)?;
        let room = bytes.len() < bytes.capacity();
        if status == Status::StreamEnd || (!last && room && compress.total_in() == piece.len() as u64) {
            return Ok(Packed { bytes, crc });
        }
        bytes.reserve(piece.len() / 4 + 1024);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        compress(bytes, &mut out).unwrap();
        out
    }

    #[test]
    fn what_is_packed_unpacks_to_the_same_in_one_member() {
        // Numbers that neither repeat nor are random.
        let mut number = 1_u64;
        let mut bytes = Vec::new();
        while bytes.len() < 3 * PIECE + 17 {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            bytes.extend_from_slice(&number.to_le_bytes()[3..]);
            bytes.extend_from_slice(b"words that come again");
        }
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, bytes.len()] {
            let packed = packed(&bytes[..length]);
            // Takes one member only.
            let mut one = flate2::bufread::GzDecoder::new(packed.as_slice());
            let mut back = Vec::new();
            one.read_to_end(&mut back).unwrap();
            assert!(back == bytes[..length], "{length}");
            assert!(one.into_inner().is_empty(), "nothing follows the member");
        }
        assert_eq!(packed(&bytes), packed(&bytes));
    }

    #[test]
    fn failures_to_read_and_to_write_are_told() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::Error::from(io::ErrorKind::StorageFull))
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let error = compress(io::repeat(7).take(9 * PIECE as u64), Full).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::from(io::ErrorKind::ConnectionReset))
            }
        }
        let error = compress(Broken, Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
