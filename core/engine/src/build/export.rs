//! Results of builds leave the engine: as a tar for a client, into a directory of this host, or to a registry.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use sampan_build::cache::{Entry, Key};
use sampan_build::exported::{Document, MEDIA_TYPE};
use sampan_image::registry::{self, Artifact, ArtifactLayer, RegistryAuth, Reporter};
use sampan_image::{DiffId, Digest, Hold, ImageRef};

use super::import::{BLOBS, DOCUMENT};
use crate::Engine;
use crate::error::{Error, Result};

/// The results among `keys` that are still known; with `only`, those alone whose layers are among these, or that have
/// none.
pub(super) fn results(
    engine: &Engine,
    keys: impl IntoIterator<Item = Key>,
    only: Option<&[DiffId]>,
) -> Vec<(Key, Entry)> {
    let wanted = |entry: &Entry| match (&entry.layer, only) {
        (Some(layer), Some(only)) => only.contains(&layer.diff_id),
        _ => true,
    };
    let known = keys.into_iter().filter_map(|key| Some((key, engine.inner.builds.known(key)?)));
    known.filter(|(_, entry)| wanted(entry)).collect()
}

/// Keeps the layers of a document while they are sent.
fn hold<'a>(engine: &'a Engine, document: &Document) -> Hold<'a> {
    engine.inner.images.store().hold(document.layers.iter().map(|layer| layer.blob))
}

/// Sends results to a registry, under a name of their own; the digest that they have there.
pub(super) async fn to_registry(
    engine: &Engine,
    document: &Document,
    name: &ImageRef,
    auth: Option<&RegistryAuth>,
    reporter: &Reporter,
) -> Result<Digest> {
    let _hold = hold(engine, document);
    let config = serde_json::to_vec(document).map_err(Error::internal)?;
    let layers = document.layers.iter().map(|layer| ArtifactLayer {
        blob: layer.blob,
        size: layer.size,
        media_type: layer.media_type.clone(),
    });
    let artifact = Artifact { config_type: MEDIA_TYPE.to_owned(), config, layers: layers.collect() };
    let images = &engine.inner.images;
    Ok(registry::push_artifact(images.registries(), images.store(), name, &artifact, auth, reporter).await?)
}

/// Writes results into a directory: complete, or not at all. What was a cache there before is replaced. Blocks.
pub(super) fn to_directory(engine: &Engine, document: &Document, folder: &Path) -> Result<()> {
    let _hold = hold(engine, document);
    let write = || -> io::Result<()> {
        let blobs = folder.join(BLOBS);
        fs::create_dir_all(&blobs)?;
        let mut kept = BTreeSet::new();
        for layer in &document.layers {
            let target = blobs.join(layer.blob.hex());
            kept.insert(layer.blob.hex());
            if target.exists() {
                continue;
            }
            let partial = folder.join(".blob.new");
            let mut blob = engine.inner.images.store().blobs().open_blob(&layer.blob).map_err(io::Error::other)?;
            io::copy(&mut blob, &mut File::create(&partial)?)?;
            fs::rename(&partial, &target)?;
        }
        let fresh = folder.join(format!(".{DOCUMENT}.new"));
        fs::write(&fresh, serde_json::to_vec(document).map_err(io::Error::other)?)?;
        fs::rename(&fresh, folder.join(DOCUMENT))?;
        for entry in fs::read_dir(&blobs)? {
            let entry = entry?;
            if !kept.contains(entry.file_name().to_string_lossy().as_ref()) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    };
    write().map_err(|error| Error::internal(format!("write a build cache into {}: {error}", folder.display())))
}

impl Engine {
    /// Writes results of builds as the tar of a directory. Keys that are not known any more are left out.
    pub async fn export_build_cache(
        &self,
        keys: Vec<String>,
    ) -> Result<tokio::sync::mpsc::Receiver<io::Result<bytes::Bytes>>> {
        let keys = keys.iter().map(|text| {
            Digest::from_hex(text).map(Key).ok_or_else(|| Error::invalid(format!("{text:?} is not a key")))
        });
        let document = Document::of(&results(self, keys.collect::<Result<Vec<_>>>()?, None));
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        let engine = self.clone();
        tokio::task::spawn_blocking(move || {
            let failed = sender.clone();
            if let Err(error) = write(&engine, &document, sender) {
                let _ = failed.blocking_send(Err(error));
            }
        });
        Ok(receiver)
    }
}

/// Bytes for a channel, in pieces.
struct Pieces {
    sender: tokio::sync::mpsc::Sender<io::Result<bytes::Bytes>>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sender
            .blocking_send(Ok(bytes::Bytes::copy_from_slice(bytes)))
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write(
    engine: &Engine,
    document: &Document,
    sender: tokio::sync::mpsc::Sender<io::Result<bytes::Bytes>>,
) -> io::Result<()> {
    let store = engine.inner.images.store();
    let _hold = hold(engine, document);
    let mut out = io::BufWriter::with_capacity(256 << 10, Pieces { sender });
    let text = serde_json::to_vec(document).map_err(io::Error::other)?;
    file(&mut out, DOCUMENT, text.len() as u64, &mut text.as_slice())?;
    for layer in &document.layers {
        let mut blob = store.blobs().open_blob(&layer.blob).map_err(io::Error::other)?;
        let size = blob.metadata()?.len();
        file(&mut out, &format!("{BLOBS}/{}", layer.blob.hex()), size, &mut blob)?;
    }
    out.write_all(&[0; 1024])?;
    out.flush()
}

/// One file of a tar, in the plain form of POSIX.
fn file(out: &mut impl Write, name: &str, size: u64, content: &mut impl Read) -> io::Result<()> {
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
    let copied = io::copy(&mut content.take(size), out)?;
    if copied != size {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a layer's tar is shorter than it was"));
    }
    let padding = usize::try_from((512 - size % 512) % 512).unwrap_or(0);
    out.write_all(&[0; 512][..padding])
}
