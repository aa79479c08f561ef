//! Small files under a name of a registry: a manifest whose layers are the files themselves, as Compose publishes projects.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::client::{Repository, endpoints};
use super::pull::{blocking, denied, find};
use super::push::push_document;
use super::{RegistryAuth, RegistryClient, Reporter};
use crate::digest::Digest;
use crate::error::{Context, ImageError};
use crate::manifest::{Descriptor, Document, Manifest};
use crate::reference::ImageRef;
use crate::store::ImageStore;

/// Files of one manifest.
const FILES: usize = 64;
/// Bytes of one file.
const LARGEST: u64 = 4 << 20;
/// Bytes of all of them.
const ALL: u64 = 16 << 20;

/// Files, and the document that names them.
#[derive(Debug, Clone)]
pub struct RemoteFiles {
    /// Of the manifest.
    pub digest: Digest,
    /// `artifactType`, or the media type of the configuration where there is none.
    pub kind: String,
    /// In the manifest's order.
    pub files: Vec<RemoteFile>,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// Its media type.
    pub media_type: String,
    /// What the manifest says of it.
    pub annotations: BTreeMap<String, String>,
    /// Verified against its digest.
    pub content: Vec<u8>,
}

/// Reads the files that a name leads to.
pub async fn files(
    client: &RegistryClient,
    name: &ImageRef,
    auth: Option<&RegistryAuth>,
) -> Result<RemoteFiles, ImageError> {
    let mut last = None;
    for endpoint in endpoints(name, &client.config, false) {
        let repository = Repository::new(client, endpoint, name, "pull", auth);
        match find(&repository, name).await {
            Ok(found) => {
                let refused = |why: String| ImageError::refused(format!("manifest {}", found.digest), why);
                let document = Document::parse(&found.bytes, &found.media_type).map_err(&refused)?;
                let Document::Manifest(manifest) = document else {
                    return Err(refused("it is an index, and no files".to_owned()));
                };
                let kind = serde_json::from_slice::<serde_json::Value>(&found.bytes)
                    .ok()
                    .and_then(|document| document["artifactType"].as_str().map(str::to_owned))
                    .unwrap_or_else(|| manifest.config.media_type.clone());
                if manifest.layers.len() > FILES {
                    return Err(refused(format!("it names more than {FILES} files")));
                }
                if manifest.layers.iter().any(|layer| layer.size > LARGEST) {
                    return Err(refused(format!("it names a file of more than {} MiB", LARGEST >> 20)));
                }
                if manifest.layers.iter().map(|layer| layer.size).sum::<u64>() > ALL {
                    return Err(refused(format!("its files have more than {} MiB", ALL >> 20)));
                }
                let mut files = Vec::new();
                for layer in manifest.layers {
                    let content = blob(&repository, &layer).await?;
                    let annotations = layer.annotations.unwrap_or_default();
                    files.push(RemoteFile { media_type: layer.media_type, annotations, content });
                }
                return Ok(RemoteFiles { digest: found.digest, kind, files });
            }
            Err(error) => last = last.filter(|_| error.is_wrong_door()).or(Some(error)),
        }
    }
    Err(denied(name, last))
}

async fn blob(repository: &Repository, layer: &Descriptor) -> Result<Vec<u8>, ImageError> {
    let (bytes, _) = repository.document(&repository.url(&format!("blobs/{}", layer.digest)), &[]).await?;
    let actual = Digest::of(&bytes);
    if actual != layer.digest || bytes.len() as u64 != layer.size {
        return Err(ImageError::Mismatch { what: "a file".to_owned(), expected: layer.digest, actual });
    }
    Ok(bytes.to_vec())
}

/// Puts files under a name: with an `artifact_type` as OCI 1.1 has it, or by the type of the configuration as 1.0 did.
pub async fn push_files(
    client: &RegistryClient,
    store: &Arc<ImageStore>,
    name: &ImageRef,
    (artifact_type, config_type): (Option<&str>, &str),
    files: &[RemoteFile],
    auth: Option<&RegistryAuth>,
    reporter: &Reporter,
) -> Result<Digest, ImageError> {
    const CONFIG: &[u8] = b"{}";
    let layer = |file: &RemoteFile| Descriptor {
        annotations: Some(file.annotations.clone()),
        ..Descriptor::new(&file.media_type, Digest::of(&file.content), file.content.len() as u64)
    };
    let config = Descriptor::new(config_type, Digest::of(CONFIG), CONFIG.len() as u64);
    let manifest = Manifest::new(config, files.iter().map(layer).collect());
    let mut document = serde_json::to_value(&manifest).context(|| "write a manifest".to_owned())?;
    if let Some(artifact_type) = artifact_type {
        document["artifactType"] = artifact_type.into();
    }
    let bytes = serde_json::to_vec(&document).context(|| "write a manifest".to_owned())?;
    let contents: Vec<Vec<u8>> = files.iter().map(|file| file.content.clone()).chain([CONFIG.to_vec()]).collect();
    let digests: Vec<Digest> = contents.iter().map(|content| Digest::of(content)).collect();
    let hold = store.hold(digests.iter().copied());
    let written =
        blocking(store, move |store| contents.iter().try_for_each(|bytes| store.blobs().write(bytes).map(drop)));
    let pushed = match written.await {
        Ok(()) => push_document(client, store, name, &bytes, auth, reporter).await,
        Err(error) => Err(error),
    };
    drop(hold);
    blocking(store, move |store| store.abandon_blobs(&digests)).await?;
    pushed.map(|pushed| pushed.digest)
}
