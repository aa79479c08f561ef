//! Room that is kept for the state: on a disk that something else has filled, the removal of what fills it must still be
//! written down.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;

/// Bytes that are kept.
const SIZE: i64 = 2 << 20;
/// With less free than this they are given up.
const LOW: u64 = 1 << 20;
/// With more free than this they are taken again.
const PLENTY: u64 = 8 << 20;

#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
    held: AtomicBool,
}

impl Reserve {
    /// The reserve of a database, a file beside it.
    pub(crate) fn beside(database: &Path) -> Self {
        let path = database.with_extension("reserve");
        let held = AtomicBool::new(path.exists());
        Self { path, held }
    }

    /// Gives room up or takes it again, as the disk is; called before something is written. What fails is tried again
    /// by the next call.
    pub(crate) fn tend(&self) {
        let Some(stat) = self.path.parent().and_then(|folder| statvfs(folder).ok()) else { return };
        let free = stat.blocks_available().saturating_mul(stat.fragment_size());
        let held = self.held.load(Ordering::Relaxed);
        if held && free < LOW {
            self.held.store(std::fs::remove_file(&self.path).is_err(), Ordering::Relaxed);
        } else if !held && free > PLENTY {
            self.held.store(self.take().is_ok(), Ordering::Relaxed);
        }
    }

    fn take(&self) -> std::io::Result<()> {
        let file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&self.path)?;
        let taken = fallocate(&file, FallocateFlags::empty(), 0, SIZE);
        if taken.is_err() {
            let _ = std::fs::remove_file(&self.path);
        }
        Ok(taken?)
    }
}
