//! A blob that is still coming: a download writes it to a file, and whoever unpacks it reads the file meanwhile.
//!
//! The disk is the buffer, so a download is as fast as the wire and not as whoever unpacks, and one that breaks goes on
//! where it broke. The reader sees the end only once the whole was found to be what its digest says.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Coming,
    /// All of it is in the file and is right.
    Verified,
    /// It has its name among the blobs.
    Kept,
    /// It will not come; the download says why.
    GivenUp,
}

#[derive(Debug)]
struct Shared {
    file: File,
    /// How many bytes can be read.
    present: Mutex<(u64, Stage)>,
    changed: Condvar,
    /// How many bytes were read.
    taken: AtomicU64,
}

impl Shared {
    fn present(&self) -> MutexGuard<'_, (u64, Stage)> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `found` has something to say.
    fn wait<T>(&self, found: impl Fn(u64, Stage) -> Option<T>) -> io::Result<T> {
        let mut present = self.present();
        loop {
            if present.1 == Stage::GivenUp {
                return Err(io::Error::other("the download was given up"));
            }
            if let Some(found) = found(present.0, present.1) {
                return Ok(found);
            }
            present = self.changed.wait(present).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The download's end. Dropped before [`Self::kept`], it tells the others that no more comes.
#[derive(Debug)]
pub(crate) struct Arriving(Arc<Shared>);

/// The other end; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Arrival(Arc<Shared>);

/// Reads from the beginning. Calls block until there is something to read.
#[derive(Debug)]
struct Reader {
    at: u64,
    shared: Arc<Shared>,
}

/// A blob of which nothing is there yet; the file is what the download writes to.
pub(crate) fn arrival(file: File) -> (Arriving, Arrival) {
    let shared = Arc::new(Shared {
        file,
        present: Mutex::new((0, Stage::Coming)),
        changed: Condvar::new(),
        taken: AtomicU64::new(0),
    });
    (Arriving(Arc::clone(&shared)), Arrival(shared))
}

impl Arriving {
    /// Appends to the file. Blocks as files do.
    pub(crate) fn write(&self, piece: &[u8]) -> io::Result<()> {
        // Nobody else changes the length.
        let at = self.0.present().0;
        self.0.file.write_all_at(piece, at)?;
        self.0.present().0 = at + piece.len() as u64;
        self.0.changed.notify_all();
        Ok(())
    }

    /// All of it is there, and is what its digest says.
    pub(crate) fn verified(&self) {
        self.0.present().1 = Stage::Verified;
        self.0.changed.notify_all();
    }

    /// It is a blob now.
    pub(crate) fn kept(self) {
        self.0.present().1 = Stage::Kept;
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let mut present = self.0.present();
        if present.1 != Stage::Kept {
            present.1 = Stage::GivenUp;
        }
        drop(present);
        self.0.changed.notify_all();
    }
}

impl Arrival {
    /// Reads what is there and what is still to come.
    pub(crate) fn reader(&self) -> impl Read + Send + use<> {
        Reader { at: 0, shared: Arc::clone(&self.0) }
    }

    /// Blocks until it is a blob.
    pub(crate) fn wait(&self) -> io::Result<()> {
        self.0.wait(|_, stage| (stage == Stage::Kept).then_some(()))
    }

    /// How many bytes were read, once all of them are there.
    pub(crate) fn taken(&self) -> Option<u64> {
        let all = matches!(self.0.present().1, Stage::Verified | Stage::Kept);
        all.then(|| self.0.taken.load(Ordering::Relaxed))
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let at = self.at;
        let at_hand = self.shared.wait(|length, stage| match stage {
            _ if length > at => Some(length - at),
            Stage::Verified | Stage::Kept => Some(0),
            Stage::Coming | Stage::GivenUp => None,
        })?;
        if at_hand == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let step = buffer.len().min(usize::try_from(at_hand).unwrap_or(usize::MAX));
        let read = self.shared.file.read_at(&mut buffer[..step], at)?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file of a download was cut off"));
        }
        self.at += read as u64;
        self.shared.taken.store(self.at, Ordering::Relaxed);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn blob() -> (Arriving, Arrival) {
        arrival(tempfile::tempfile().unwrap())
    }

    #[test]
    fn what_comes_is_read_while_it_comes_and_ends_when_it_is_right() {
        let (arriving, arrival) = blob();
        let mut reader = arrival.reader();
        arriving.write(b"hello").unwrap();
        assert_eq!(reader.read(&mut [0; 16]).unwrap(), 5);
        let reading = std::thread::spawn(move || {
            let mut rest = String::new();
            reader.read_to_string(&mut rest).map(|_| rest)
        });
        arriving.write(b" world").unwrap();
        assert_eq!(arrival.taken(), None);
        arriving.verified();
        assert_eq!(reading.join().unwrap().unwrap(), " world");
        assert_eq!(arrival.taken(), Some(11));
        arriving.kept();
        arrival.wait().unwrap();
        let mut all = String::new();
        arrival.reader().read_to_string(&mut all).unwrap();
        assert_eq!(all, "hello world");
    }

    #[test]
    fn a_download_that_is_given_up_is_an_error_and_not_an_end() {
        let (arriving, arrival) = blob();
        let mut reader = arrival.reader();
        let reading = std::thread::spawn(move || reader.read(&mut [0; 16]));
        arriving.write(b"").unwrap();
        drop(arriving);
        assert!(reading.join().unwrap().unwrap_err().to_string().contains("given up"));
        assert!(arrival.wait().is_err());
        // Verified, but never named.
        let (arriving, arrival) = blob();
        arriving.verified();
        drop(arriving);
        assert!(arrival.wait().is_err());
    }
}
