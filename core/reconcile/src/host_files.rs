//! The host's files, for loading projects.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sampan_compose::{Files, PathKind, ReadError};
use sha2::{Digest as _, Sha256};

/// Times of files come in steps as coarse as this.
const TICK: Duration = Duration::from_millis(20);

/// Whether some file was written since a moment, or may have been.
pub(crate) fn written_since(inputs: &[PathBuf], since: SystemTime) -> bool {
    use std::os::unix::fs::MetadataExt;
    let since = since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().saturating_sub(TICK);
    inputs.iter().filter_map(|input| fs::metadata(input).ok()).any(|found| {
        let seconds = u64::try_from(found.ctime()).unwrap_or(0);
        Duration::new(seconds, u32::try_from(found.ctime_nsec()).unwrap_or(0)) >= since
    })
}

/// Files as the daemon sees them.
#[derive(Debug, Clone, Default)]
pub struct HostFiles {
    /// What was fetched by whoever asked for the stack: the file for each reference to elsewhere.
    pub fetched: BTreeMap<String, PathBuf>,
}

impl Files for HostFiles {
    fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>, ReadError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => ReadError::NotFound,
            io::ErrorKind::IsADirectory => ReadError::IsDirectory,
            _ => ReadError::Other(error.to_string()),
        };
        let metadata = fs::metadata(path).map_err(failed)?;
        if metadata.is_dir() {
            return Err(ReadError::IsDirectory);
        }
        // A pipe or a device would be waited for without end.
        if !metadata.is_file() {
            return Err(ReadError::Other("is not a regular file".to_owned()));
        }
        let mut content = Vec::new();
        File::open(path).map_err(failed)?.take(limit + 1).read_to_end(&mut content).map_err(failed)?;
        if content.len() as u64 > limit { Err(ReadError::TooLarge { limit }) } else { Ok(content) }
    }

    fn fetched(&self, reference: &str) -> Option<Result<PathBuf, String>> {
        let found = self.fetched.get(reference).cloned();
        Some(found.ok_or_else(|| "it lies elsewhere and was not fetched yet; `sampan up` fetches it".to_owned()))
    }

    fn kind(&self, path: &Path) -> PathKind {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => PathKind::Directory,
            Ok(metadata) if metadata.is_file() => PathKind::File,
            Ok(_) => PathKind::Other,
            Err(error) if error.kind() == io::ErrorKind::NotFound => PathKind::Missing,
            Err(_) => PathKind::Other,
        }
    }
}

/// Files longer than this are compared by size and time.
const HASHED: u64 = 16 << 20;

/// What tells one content of a file from another; `None` where there is no file.
pub type Fingerprint = Option<[u8; 32]>;

/// The contents of the inputs by path, so that a save that changes nothing is no change.
#[must_use]
pub fn fingerprints(inputs: &[PathBuf]) -> BTreeMap<PathBuf, Fingerprint> {
    inputs.iter().map(|path| (path.clone(), fingerprint(path))).collect()
}

fn fingerprint(path: &Path) -> Fingerprint {
    let metadata = fs::metadata(path).ok()?;
    let mut hash = Sha256::new();
    if metadata.is_file() && metadata.len() <= HASHED {
        hash.update(fs::read(path).ok()?);
    } else {
        use std::os::unix::fs::MetadataExt;
        hash.update(format!("{:o} {} {} {}", metadata.mode(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()));
    }
    Some(hash.finalize().into())
}
