//! Fetching an image: manifest, configuration, and layers, which are downloaded side by side and unpacked in order.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use http::{Method, StatusCode, header};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::sync::oneshot;

use super::client::{Extra, Repository, RequestError, endpoints, next_piece};
use super::{RegistryAuth, RegistryClient, Reporter};
use crate::archive::{check_config, choose, expected};
use crate::config::ImageConfig;
use crate::digest::{ChainId, DiffId, Digest};
use crate::error::{Context, ImageError};
use crate::manifest::{
    DOCKER_LIST, DOCKER_MANIFEST, Descriptor, Document, Manifest, OCI_INDEX, OCI_MANIFEST, Platform,
};
use crate::record::{ImageRecord, LayerRef};
use crate::reference::ImageRef;
use crate::store::ImageStore;

/// Layers on the wire at once.
const PARALLEL: usize = 3;
/// How often a broken download is taken up again.
const RESUMES: u32 = 5;
const REPORT: Duration = Duration::from_millis(100);
const MAX_NESTING: usize = 3;

/// A finished pull.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// The image.
    pub image: Arc<ImageRecord>,
    /// Digest of what the name led to: an index or a manifest.
    pub digest: Digest,
    /// Whether it was here already, by this name.
    pub known: bool,
}

/// Fetches an image and gives it the name by which it was asked for. Dropped midway it leaves nothing visible.
pub async fn pull(
    client: &RegistryClient,
    store: &Arc<ImageStore>,
    name: &ImageRef,
    platform: Option<&Platform>,
    auth: Option<&RegistryAuth>,
    reporter: &Reporter,
) -> Result<Pulled, ImageError> {
    let mut last = None;
    for endpoint in endpoints(name, &client.config, false) {
        let base = endpoint.base.clone();
        let repository = Arc::new(Repository::new(&client.transport, endpoint, name, "pull", auth));
        match find(&repository, name).await {
            Ok(found) => return fetch(&repository, store, name, platform, reporter, found).await,
            Err(error) => {
                tracing::debug!(endpoint = base, %error, "the image is not to be had here");
                // What the registry itself says counts more than that there is no TLS or no mirror.
                let better = last.as_ref().is_none_or(|last| matches!(last, RequestError::Unreachable { .. }));
                if better || !matches!(error, RequestError::Unreachable { .. }) {
                    last = Some(error);
                }
            }
        }
    }
    Err(match last {
        Some(error) if error.is_missing() => {
            ImageError::NotFound(format!("manifest for {} not found: {error}", name.familiar()))
        }
        Some(RequestError::Status {
            url,
            status: status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN),
            detail,
        }) => ImageError::Unauthorized(format!(
            "pull access denied for {}, repository does not exist or may require 'docker login': {url}: {status}{detail}",
            name.familiar_name()
        )),
        Some(error) => error.into(),
        None => ImageError::Unreachable(format!("{}: no registry to ask", name.familiar())),
    })
}

/// The document that a name leads to.
struct Found {
    bytes: Vec<u8>,
    digest: Digest,
    media_type: String,
}

const ACCEPT: [&str; 4] = [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST];

async fn find(repository: &Repository, name: &ImageRef) -> Result<Found, RequestError> {
    let wanted = match (name.digest(), name.tag()) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.unwrap_or(crate::reference::DEFAULT_TAG).to_owned(),
    };
    document(repository, &wanted, name.digest()).await
}

async fn document(repository: &Repository, reference: &str, expected: Option<&Digest>) -> Result<Found, RequestError> {
    let url = repository.url(&format!("manifests/{reference}"));
    let (bytes, headers) = repository.document(&url, &ACCEPT).await?;
    let digest = Digest::of(&bytes);
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let announced = text("docker-content-digest").and_then(|text| Digest::parse(text).ok());
    if let Some(wrong) = expected.copied().or(announced).filter(|wanted| *wanted != digest) {
        return Err(RequestError::Answer { url, why: format!("expected the document {wrong}, got {digest}") });
    }
    let media_type = text("content-type").unwrap_or_default().split(';').next().unwrap_or_default().trim().to_owned();
    // Some servers announce every document as plain JSON.
    let media_type =
        if media_type == "application/json" || media_type.starts_with("text/") { String::new() } else { media_type };
    Ok(Found { bytes: bytes.to_vec(), digest, media_type })
}

async fn fetch(
    repository: &Arc<Repository>,
    store: &Arc<ImageStore>,
    name: &ImageRef,
    platform: Option<&Platform>,
    reporter: &Reporter,
    found: Found,
) -> Result<Pulled, ImageError> {
    let tag = name.tag().map_or_else(|| found.digest.to_string(), str::to_owned);
    reporter.say(Some(&tag), format!("Pulling from {}", name.path())).await;
    let top = found.digest;
    let host = Platform::host();
    let (manifest, manifest_bytes) = choose_manifest(repository, found, platform.unwrap_or(&host)).await?;
    let what = format!("image {}", name.familiar());
    let config_bytes = config_of(repository, &manifest).await?;
    let config: ImageConfig = serde_json::from_slice(&config_bytes)
        .map_err(|error| ImageError::refused(&what, format!("not an image configuration: {error}")))?;
    check_config(&what, &config, manifest.layers.len())?;
    if let Some(wanted) = platform {
        let offered = Platform {
            os: config.os.clone(),
            architecture: config.architecture.clone(),
            variant: config.variant.clone(),
            os_version: None,
        };
        if wanted.suits(&offered).is_none() {
            return Err(ImageError::NotFound(format!(
                "image with reference {} was found but its platform ({offered}) does not match the specified platform ({wanted})",
                name.familiar()
            )));
        }
    }
    let mut names = vec![name.with_digest(top)];
    if name.digest().is_none() {
        names.insert(0, name.clone());
    }
    let id = Digest::of(&config_bytes);
    if let Some(image) = store.get(&id) {
        // A name that was asked for by digest is known by it too.
        let known = names.iter().all(|name| store.by_name(name).is_some_and(|image| image.id == id));
        let image = if known { image } else { name_it(store, id, names).await?.unwrap_or(image) };
        return Ok(Pulled { image, digest: top, known });
    }
    let layers = layers(repository, store, &manifest, &config, reporter).await?;
    let image = blocking(store, move |store| {
        store.register_documents(&config_bytes, Some(&manifest_bytes), config, layers, &names)
    })
    .await?;
    Ok(Pulled { image, digest: top, known: false })
}

async fn name_it(
    store: &Arc<ImageStore>,
    id: Digest,
    names: Vec<ImageRef>,
) -> Result<Option<Arc<ImageRecord>>, ImageError> {
    blocking(store, move |store| {
        for name in &names {
            store.tag(&id, name)?;
        }
        Ok(store.get(&id))
    })
    .await
}

async fn choose_manifest(
    repository: &Repository,
    mut found: Found,
    wanted: &Platform,
) -> Result<(Manifest, Vec<u8>), ImageError> {
    for _ in 0..=MAX_NESTING {
        let what = format!("manifest {}", found.digest);
        match Document::parse(&found.bytes, &found.media_type).map_err(|why| ImageError::refused(&what, why))? {
            Document::Manifest(manifest) => {
                manifest.check().map_err(|why| ImageError::refused(&what, why))?;
                return Ok((manifest, found.bytes));
            }
            Document::Index(index) => {
                let Some(chosen) = choose(index.manifests.iter(), wanted) else {
                    return Err(ImageError::NotFound(format!(
                        "no matching manifest for {wanted} in the manifest list entries"
                    )));
                };
                let next = document(repository, &chosen.digest.to_string(), Some(&chosen.digest)).await?;
                if next.bytes.len() as u64 != chosen.size {
                    return Err(ImageError::refused(
                        format!("manifest {}", chosen.digest),
                        "not as long as its descriptor says",
                    ));
                }
                let declared = if chosen.media_type.is_empty() { next.media_type } else { chosen.media_type.clone() };
                found = Found { media_type: declared, ..next };
            }
        }
    }
    Err(ImageError::refused(format!("manifest {}", found.digest), "indexes are nested too deeply"))
}

async fn config_of(repository: &Repository, manifest: &Manifest) -> Result<Vec<u8>, ImageError> {
    let descriptor = &manifest.config;
    let url = repository.url(&format!("blobs/{}", descriptor.digest));
    let (bytes, _) = repository.document(&url, &[]).await?;
    let actual = Digest::of(&bytes);
    if actual != descriptor.digest {
        return Err(ImageError::Mismatch {
            what: "the image's configuration".to_owned(),
            expected: descriptor.digest,
            actual,
        });
    }
    Ok(bytes.to_vec())
}

/// Removes what a download has written when it is given up.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

/// Downloads what is not here, and unpacks in order while later layers are still coming.
async fn layers(
    repository: &Arc<Repository>,
    store: &Arc<ImageStore>,
    manifest: &Manifest,
    config: &ImageConfig,
    reporter: &Reporter,
) -> Result<Vec<LayerRef>, ImageError> {
    let diff_ids: &[DiffId] = &config.rootfs.diff_ids;
    let chains = ChainId::chain(diff_ids);
    let ids: Vec<String> = manifest.layers.iter().map(|layer| layer.digest.short()).collect();
    let mut arrivals = Vec::new();
    let mut downloads = Vec::new();
    for ((descriptor, chain), id) in manifest.layers.iter().zip(&chains).zip(&ids) {
        let here = store.layer(chain).is_some_and(|layer| layer.blob == descriptor.digest);
        if here {
            reporter.say(Some(id), "Already exists").await;
            arrivals.push(None);
            continue;
        }
        reporter.say(Some(id), "Pulling fs layer").await;
        let (sender, receiver) = oneshot::channel();
        arrivals.push(Some(receiver));
        let (repository, store, reporter) = (repository.clone(), store.clone(), reporter.clone());
        let (descriptor, id) = (descriptor.clone(), id.clone());
        downloads.push(async move {
            let path = Partial(store.blobs().scratch());
            let result = download(&repository, &descriptor, &path.0, &id, &reporter).await;
            // Whoever waits for it may have given up.
            drop(sender.send(result.map(|()| path)));
        });
    }
    let downloading = futures_util::stream::iter(downloads).buffer_unordered(PARALLEL).for_each(|()| async {});
    let unpacking = async {
        let mut taken: Vec<LayerRef> = Vec::new();
        for (at, arrival) in arrivals.into_iter().enumerate() {
            let result = async {
                let file = match arrival {
                    None => None,
                    Some(arrival) => {
                        Some(arrival.await.map_err(|_| ImageError::Registry("a download ended early".to_owned()))??)
                    }
                };
                let descriptor = &manifest.layers[at];
                if file.is_some() {
                    reporter.progress(&ids[at], "Extracting", 0, descriptor.size);
                }
                let expected = expected(descriptor, diff_ids[at]);
                let parents: Vec<ChainId> = taken.iter().rev().map(|layer| layer.chain_id).collect();
                let what = format!("layer {}", descriptor.digest);
                let layer = blocking(store, move |store| match file {
                    None => store.take_known_layer(&expected, &parents),
                    Some(partial) => store.take_downloaded(&what, &partial.0, &expected, &parents),
                })
                .await?;
                if store.layer(&layer.chain_id).is_some() {
                    reporter.say(Some(&ids[at]), "Pull complete").await;
                }
                Ok(layer)
            }
            .await;
            match result {
                Ok(layer) => taken.push(layer),
                Err(error) => {
                    let chains: Vec<ChainId> = taken.iter().map(|layer| layer.chain_id).collect();
                    blocking(store, move |store| store.abandon(&chains)).await?;
                    return Err(error);
                }
            }
        }
        Ok(taken)
    };
    tokio::pin!(downloading, unpacking);
    tokio::select! {
        // Unpacking ends last, or first with a failure, which ends the downloads too.
        result = &mut unpacking => result,
        () = &mut downloading => unpacking.await,
    }
}

/// Downloads one blob into a file and checks it. A connection that breaks is taken up where it broke.
async fn download(
    repository: &Repository,
    descriptor: &Descriptor,
    path: &Path,
    id: &str,
    reporter: &Reporter,
) -> Result<(), ImageError> {
    let what = format!("layer {}", descriptor.digest);
    let failed = |error: io::Error| ImageError::Io { context: format!("keep {what}"), source: error };
    let mut file = tokio::fs::File::create_new(path).await.map_err(failed)?;
    let url = repository.url(&format!("blobs/{}", descriptor.digest));
    let mut hash = Sha256::new();
    let mut done: u64 = 0;
    let mut resumes = 0;
    while done < descriptor.size {
        match download_from(repository, &url, descriptor, &mut file, (&mut hash, &mut done), id, reporter).await {
            Ok(()) => {}
            Err(Broken::For(error)) => return Err(error),
            Err(Broken::Meanwhile(error)) if resumes < RESUMES => {
                tracing::debug!(%error, done, "a download is taken up again");
                tokio::time::sleep(Duration::from_millis(500) * 2_u32.pow(resumes)).await;
                resumes += 1;
            }
            Err(Broken::Meanwhile(error)) => {
                return Err(ImageError::Unreachable(format!(
                    "{what}: {error} (after {done} of {} bytes)",
                    descriptor.size
                )));
            }
        }
    }
    file.flush().await.map_err(failed)?;
    reporter.say(Some(id), "Verifying Checksum").await;
    let actual = Digest::from_bytes(hash.finalize().into());
    if actual != descriptor.digest {
        return Err(ImageError::Mismatch { what, expected: descriptor.digest, actual });
    }
    reporter.say(Some(id), "Download complete").await;
    Ok(())
}

enum Broken {
    /// Asking again does not help.
    For(ImageError),
    Meanwhile(io::Error),
}

async fn download_from(
    repository: &Repository,
    url: &str,
    descriptor: &Descriptor,
    file: &mut tokio::fs::File,
    (hash, done): (&mut Sha256, &mut u64),
    id: &str,
    reporter: &Reporter,
) -> Result<(), Broken> {
    let mut extra = Extra::default();
    if *done > 0 {
        extra.headers.push((header::RANGE, format!("bytes={done}-")));
    }
    let response = repository.request(&Method::GET, url, &extra).await.map_err(|error| Broken::For(error.into()))?;
    if *done > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
        // The server begins anew, and so do we.
        let again = async {
            use tokio::io::AsyncSeekExt;
            file.set_len(0).await?;
            file.rewind().await
        };
        again.await.map_err(Broken::Meanwhile)?;
        *hash = Sha256::new();
        *done = 0;
    }
    let mut body = response.into_body();
    let mut reported = Instant::now();
    while let Some(piece) = next_piece(&mut body).await.map_err(Broken::Meanwhile)? {
        *done += piece.len() as u64;
        if *done > descriptor.size {
            let why = format!("longer than the {} bytes that its descriptor promises", descriptor.size);
            return Err(Broken::For(ImageError::refused(format!("layer {}", descriptor.digest), why)));
        }
        hash.update(&piece);
        let written = file.write_all(&piece).await;
        written.context(|| format!("keep layer {}", descriptor.digest)).map_err(Broken::For)?;
        if reported.elapsed() >= REPORT {
            reported = Instant::now();
            reporter.progress(id, "Downloading", *done, descriptor.size);
        }
    }
    if *done < descriptor.size {
        return Err(Broken::Meanwhile(io::Error::new(io::ErrorKind::UnexpectedEof, "the body ends too early")));
    }
    Ok(())
}

/// Runs work on the store on a thread of its own.
pub(super) async fn blocking<T: Send + 'static>(
    store: &Arc<ImageStore>,
    work: impl FnOnce(&ImageStore) -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    let store = store.clone();
    match tokio::task::spawn_blocking(move || work(&store)).await {
        Ok(result) => result,
        Err(error) => Err(ImageError::Registry(format!("a task on images failed: {error}"))),
    }
}
