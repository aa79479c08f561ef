//! What a shim kept while no daemon was there.
//!
//! The file is taken by renaming it, so that what the shim keeps later goes into another. Its new name carries where the
//! log stood: `spool.NUMBER.TIME.TIME`, with the time for each stream from which records in the log are of this file (or
//! of the batch that was on its way before). It is removed when all of it is in the log; a daemon that dies before finds
//! it, and passes over as many records as the log has since those times.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use sampan_shim_protocol::{SPOOL, SpoolFrame};

/// A spool that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Taken {
    number: u64,
    /// From when on records in the log may be of it, for each stream.
    pub since: [u64; 2],
    path: PathBuf,
}

impl Taken {
    fn parse(path: PathBuf) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let mut parts = name.strip_prefix(SPOOL)?.strip_prefix('.')?.split('.').map(|part| part.parse::<u64>().ok());
        let (number, output, errors) = (parts.next()??, parts.next()??, parts.next()??);
        Some(Self { number, since: [output, errors], path })
    }

    /// Its pieces in order: time, stream, bytes. What a crash of the shim left torn is not there.
    pub(super) fn pieces(&self) -> io::Result<impl Iterator<Item = (u64, usize, Vec<u8>)> + use<>> {
        let mut file = BufReader::with_capacity(128 << 10, File::open(&self.path)?);
        Ok(std::iter::from_fn(move || {
            let mut head = [0; SpoolFrame::HEAD];
            file.read_exact(&mut head).ok()?;
            let head = SpoolFrame::decode(&head);
            let mut bytes = Vec::new();
            let read = (&mut file).take(u64::from(head.length)).read_to_end(&mut bytes).ok()?;
            (read == head.length as usize).then_some((head.time, usize::from(head.stream.min(1)), bytes))
        }))
    }

    /// Forgets it.
    pub(super) fn remove(self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "what was read from a spool stays");
        }
    }
}

/// Takes what the shim has kept, with what an earlier daemon did not finish; oldest first.
pub(super) fn take(bundle: &Path, since: [u64; 2]) -> io::Result<Vec<Taken>> {
    let mut found: Vec<Taken> =
        fs::read_dir(bundle)?.flatten().filter_map(|entry| Taken::parse(entry.path())).collect();
    found.sort_by_key(|taken| taken.number);
    let number = found.last().map_or(0, |taken| taken.number + 1);
    let path = bundle.join(format!("{SPOOL}.{number}.{}.{}", since[0], since[1]));
    match fs::rename(bundle.join(SPOOL), &path) {
        Ok(()) => found.push(Taken { number, since, path }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_spool_is_taken_once_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        assert!(take(folder.path(), [1, 2]).unwrap().is_empty());
        let mut bytes = SpoolFrame { time: 9, stream: 1, length: 3 }.encode().to_vec();
        bytes.extend_from_slice(b"abc");
        let torn = [&bytes[..], &SpoolFrame { time: 9, stream: 0, length: 30 }.encode(), b"torn"].concat();
        fs::write(folder.path().join(SPOOL), torn).unwrap();
        assert_eq!(take(folder.path(), [1, 2]).unwrap().len(), 1);
        fs::write(folder.path().join(SPOOL), &bytes).unwrap();
        let taken = take(folder.path(), [3, 4]).unwrap();
        assert_eq!(taken.iter().map(|taken| taken.since).collect::<Vec<_>>(), [[1, 2], [3, 4]]);
        for one in taken {
            assert_eq!(one.pieces().unwrap().collect::<Vec<_>>(), [(9, 1, b"abc".to_vec())]);
            one.remove();
        }
        assert!(take(folder.path(), [5, 6]).unwrap().is_empty());
    }
}
