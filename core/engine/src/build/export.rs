//! Build results outside of the engine: a folder with `cache.json`, which names steps by their keys, and the layers'
//! tars in `blobs/sha256`.

use std::path::PathBuf;

use sampan_build::cache::{Entry, Key};
use sampan_build::context::Context;
use sampan_build::error::BuildError;
use sampan_image::{ChainId, Digest};
use serde::{Deserialize, Serialize};

use crate::Engine;
use crate::error::{Error, Result};

/// Changes when the form does.
const VERSION: u32 = 1;

/// `cache.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Document {
    version: u32,
    steps: Vec<Step>,
}

/// One result.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Step {
    key: Digest,
    entry: Entry,
    /// Layers below, nearest first.
    #[serde(default)]
    parents: Vec<ChainId>,
}

/// A cache that came with a build.
#[derive(Debug)]
pub(crate) struct Imported {
    document: Document,
    files: Context,
}

/// A result of an imported cache.
pub(crate) struct Found {
    step: Step,
    blob: Option<PathBuf>,
}

impl Imported {
    /// Reads a cache that was unpacked. Blocks.
    pub(crate) fn open(files: Context) -> Result<Self, BuildError> {
        let wrong = |why: String| BuildError::Invalid(format!("--cache-from: {why}"));
        let text = files
            .read_text("cache.json")?
            .ok_or_else(|| wrong("there is no cache.json: not a cache that --cache-to has written".to_owned()))?;
        let document: Document = serde_json::from_str(&text).map_err(|error| wrong(format!("cache.json: {error}")))?;
        if document.version != VERSION {
            return Err(wrong(format!("cache.json has version {}, and {VERSION} is read here", document.version)));
        }
        Ok(Self { document, files })
    }

    pub(crate) fn find(&self, key: Key) -> Option<Found> {
        let step = self.document.steps.iter().find(|step| step.key == key.0)?.clone();
        let blob = step.entry.layer.as_ref();
        let blob = blob.map(|layer| self.files.root().join("blobs/sha256").join(layer.blob.hex()));
        Some(Found { step, blob })
    }
}

impl Found {
    /// Takes the result into the engine's own cache. A layer that is not what it says is refused. Blocks.
    pub(crate) fn take(self, engine: &Engine, key: Key) -> Result<Entry> {
        let store = engine.inner.images.store();
        let mut entry = self.step.entry;
        if let (Some(promised), Some(blob)) = (&entry.layer, self.blob) {
            let layer = match store.layer(&promised.chain_id) {
                Some(known) => known,
                None => {
                    use std::os::unix::fs::OpenOptionsExt;
                    let mut options = std::fs::File::options();
                    let file = options.read(true).custom_flags(nix::libc::O_NOFOLLOW).open(&blob);
                    let file = file.map_err(|error| Error::invalid(format!("open an imported layer: {error}")))?;
                    store.add_layer_from_tar(file, &self.step.parents)?
                }
            };
            if layer.chain_id != promised.chain_id {
                return Err(Error::invalid(format!("the imported layer of {key} is another than it says")));
            }
            entry.layer = Some(layer);
        }
        engine.inner.builds.remember(key, entry.clone())?;
        Ok(entry)
    }
}

impl Engine {
    /// Writes results of builds as a tar of such a folder. Keys that are not known any more are left out.
    pub async fn export_build_cache(
        &self,
        keys: Vec<String>,
    ) -> Result<tokio::sync::mpsc::Receiver<std::io::Result<bytes::Bytes>>> {
        let mut steps = Vec::new();
        for text in keys {
            let digest = Digest::from_hex(&text).ok_or_else(|| Error::invalid(format!("{text:?} is not a key")))?;
            let Some(entry) = self.inner.builds.get(Key(digest)) else { continue };
            let chain = entry.layer.as_ref().map(|layer| layer.chain_id);
            let parents = self.inner.images.store().ancestors(chain).into_iter().skip(1).collect();
            steps.push(Step { key: digest, entry, parents });
        }
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        let engine = self.clone();
        tokio::task::spawn_blocking(move || {
            let failed = sender.clone();
            if let Err(error) = write(&engine, steps, sender) {
                let _ = failed.blocking_send(Err(error));
            }
        });
        Ok(receiver)
    }
}

/// Bytes for a channel, in pieces.
struct Pieces {
    sender: tokio::sync::mpsc::Sender<std::io::Result<bytes::Bytes>>,
}

impl std::io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.sender
            .blocking_send(Ok(bytes::Bytes::copy_from_slice(bytes)))
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn write(
    engine: &Engine,
    steps: Vec<Step>,
    sender: tokio::sync::mpsc::Sender<std::io::Result<bytes::Bytes>>,
) -> std::io::Result<()> {
    let store = engine.inner.images.store();
    let blobs: std::collections::BTreeSet<Digest> =
        steps.iter().filter_map(|step| step.entry.layer.as_ref().map(|layer| layer.blob)).collect();
    let _hold = store.hold(blobs.iter().copied());
    let mut out = std::io::BufWriter::with_capacity(256 << 10, Pieces { sender });
    let document = serde_json::to_vec_pretty(&Document { version: VERSION, steps }).map_err(std::io::Error::other)?;
    file(&mut out, "cache.json", document.len() as u64, &mut document.as_slice())?;
    for digest in blobs {
        let mut blob = store.blobs().open_blob(&digest).map_err(std::io::Error::other)?;
        let size = blob.metadata()?.len();
        file(&mut out, &format!("blobs/sha256/{}", digest.hex()), size, &mut blob)?;
    }
    std::io::Write::write_all(&mut out, &[0; 1024])?;
    std::io::Write::flush(&mut out)
}

/// One file of a tar, in the plain form of POSIX.
fn file(out: &mut impl std::io::Write, name: &str, size: u64, content: &mut impl std::io::Read) -> std::io::Result<()> {
    let mut block = [0_u8; 512];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o} ").as_bytes());
    put(136, b"00000000000 ");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.write_all(&block)?;
    let copied = std::io::copy(&mut std::io::Read::take(content, size), out)?;
    if copied != size {
        return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "a layer's tar is shorter than it was"));
    }
    let padding = usize::try_from((512 - size % 512) % 512).unwrap_or(0);
    out.write_all(&[0; 512][..padding])
}
