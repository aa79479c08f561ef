//! Content named by its digest: `blobs/sha256/<hex>`.
//!
//! A blob appears under its name only when it is whole: written to a temporary name, flushed, renamed, and the
//! directory flushed.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::digest::Digest;
use crate::error::{Context, ImageError};

/// The folder of blobs.
#[derive(Debug)]
pub struct Blobs {
    folder: PathBuf,
    temporary: PathBuf,
}

impl Blobs {
    /// Opens the folder, creating it; what an interrupted writer left is removed.
    pub(crate) fn open(root: &Path) -> Result<Self, ImageError> {
        let folder = root.join("blobs/sha256");
        let temporary = root.join("blobs/tmp");
        if temporary.exists() {
            fs::remove_dir_all(&temporary).context(|| format!("empty {}", temporary.display()))?;
        }
        for path in [&folder, &temporary] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .context(|| format!("create {}", path.display()))?;
        }
        Ok(Self { folder, temporary })
    }

    /// Where a blob lies, whether it is there or not.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.hex())
    }

    /// Whether it is there.
    #[must_use]
    pub fn has(&self, digest: &Digest) -> bool {
        self.path(digest).exists()
    }

    /// Its length, 0 if it is not there.
    #[must_use]
    pub fn size(&self, digest: &Digest) -> u64 {
        fs::symlink_metadata(self.path(digest)).map_or(0, |metadata| metadata.len())
    }

    /// Opens a blob for reading.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, ImageError> {
        match File::open(self.path(digest)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(ImageError::MissingBlob(*digest)),
            other => other.context(|| format!("open blob {digest}")),
        }
    }

    /// Reads a document. More than `limit` bytes are refused.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        self.open_blob(digest)?.take(limit + 1).read_to_end(&mut bytes).context(|| format!("read blob {digest}"))?;
        if bytes.len() as u64 > limit {
            return Err(ImageError::refused(format!("blob {digest}"), format!("longer than {limit} bytes")));
        }
        Ok(bytes)
    }

    /// Writes a small document.
    pub fn write(&self, bytes: &[u8]) -> Result<Digest, ImageError> {
        let digest = Digest::of(bytes);
        if self.has(&digest) {
            return Ok(digest);
        }
        let mut writer = self.writer()?;
        writer.write_all(bytes).context(|| format!("write blob {digest}"))?;
        writer.finish().map(|(digest, _)| digest)
    }

    /// Begins a blob whose digest is found while it is written. Dropped unfinished, it leaves nothing.
    pub fn writer(&self) -> Result<BlobWriter<'_>, ImageError> {
        let path = self.scratch();
        let file = File::options()
            .write(true)
            .create_new(true)
            .open(&path)
            .context(|| format!("create {}", path.display()))?;
        Ok(BlobWriter {
            blobs: self,
            path,
            file: BufWriter::with_capacity(1 << 18, file),
            hash: Sha256::new(),
            size: 0,
            named: false,
        })
    }

    /// An unused path on the same file system, for spooling; removed at the next start.
    #[must_use]
    pub fn scratch(&self) -> PathBuf {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        self.temporary.join(format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    /// Takes over a finished file whose digest is known. It must lie in the scratch folder.
    pub(crate) fn adopt(&self, path: &Path, digest: &Digest) -> Result<(), ImageError> {
        File::open(path).and_then(|file| file.sync_data()).context(|| format!("flush blob {digest}"))?;
        fs::rename(path, self.path(digest)).context(|| format!("name blob {digest}"))?;
        File::open(&self.folder)
            .and_then(|folder| folder.sync_all())
            .context(|| format!("flush {}", self.folder.display()))
    }

    /// Removes a blob; one that is not there is fine. The bytes that were freed.
    pub(crate) fn remove(&self, digest: &Digest) -> Result<u64, ImageError> {
        let path = self.path(digest);
        let size = fs::symlink_metadata(&path).map_or(0, |metadata| metadata.len());
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            other => other.map(|()| size).context(|| format!("remove blob {digest}")),
        }
    }

    /// Every blob that is there.
    pub(crate) fn all(&self) -> Result<Vec<Digest>, ImageError> {
        let entries = fs::read_dir(&self.folder).context(|| format!("list {}", self.folder.display()))?;
        Ok(entries.flatten().filter_map(|entry| Digest::from_hex(entry.file_name().to_str()?)).collect())
    }
}

/// A blob that is being written.
#[derive(Debug)]
pub struct BlobWriter<'a> {
    blobs: &'a Blobs,
    path: PathBuf,
    file: BufWriter<File>,
    hash: Sha256,
    size: u64,
    named: bool,
}

impl BlobWriter<'_> {
    /// The digest of what was written until now.
    #[must_use]
    pub fn digest_so_far(&self) -> Digest {
        Digest::from_bytes(self.hash.clone().finalize().into())
    }

    /// Gives the blob its name. Its digest and length.
    pub fn finish(mut self) -> Result<(Digest, u64), ImageError> {
        self.file.flush().context(|| format!("write {}", self.path.display()))?;
        let digest = Digest::from_bytes(std::mem::take(&mut self.hash).finalize().into());
        if self.blobs.has(&digest) {
            return Ok((digest, self.size));
        }
        self.blobs.adopt(&self.path, &digest)?;
        self.named = true;
        Ok((digest, self.size))
    }
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for BlobWriter<'_> {
    fn drop(&mut self) {
        if !self.named {
            // Nobody can see the file; the next start would remove it anyway.
            drop(fs::remove_file(&self.path));
        }
    }
}
