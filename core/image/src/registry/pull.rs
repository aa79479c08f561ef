//! Fetching an image: manifest, configuration, and layers, which are downloaded side by side and unpacked in order while
//! they come.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use http::StatusCode;
use tokio::sync::oneshot;

use super::client::{Repository, RequestError, endpoints};
use super::download::{Sink, download};
use super::look::Found;
use super::push::note;
use super::{RegistryAuth, RegistryClient, Reporter};
use crate::archive::{check_config, choose, expected, platform_of};
use crate::arrival::Arrival;
use crate::config::ImageConfig;
use crate::digest::{ChainId, DiffId, Digest};
use crate::error::ImageError;
use crate::manifest::{
    DOCKER_LIST, DOCKER_MANIFEST, Descriptor, Document, Manifest, OCI_INDEX, OCI_MANIFEST, Platform,
};
use crate::record::{ImageRecord, LayerRef};
use crate::reference::ImageRef;
use crate::store::{Content, Hold, ImageStore, subject};

/// Layers on the wire at once.
const PARALLEL: usize = 3;
/// How often progress is told.
pub(super) const REPORT: Duration = Duration::from_millis(100);
const MAX_NESTING: usize = 3;
/// Manifests by which an index says something about one image, and bytes of all that they name.
const MAX_STATEMENTS: usize = 64;
const MAX_STATEMENT_BYTES: u64 = 256 << 20;

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
    let mut last: Option<RequestError> = None;
    for endpoint in endpoints(name, &client.config, false) {
        let (base, own) = (endpoint.base.clone(), endpoint.own);
        let repository = Arc::new(Repository::new(client, endpoint, name, "pull", auth));
        match find(&repository, name).await {
            Ok(found) => match fetch(client, &repository, store, name, platform, reporter, found).await {
                // The registry itself may have what a mirror has lost or spoilt.
                Err(error) if !own && !is_local(&error) => {
                    tracing::warn!(mirror = base, %error, "a mirror fails: ask the next one");
                }
                result => return result,
            },
            Err(error) => {
                tracing::debug!(endpoint = base, %error, "the image is not to be had here");
                // What the registry itself says counts more than that there is no TLS or no mirror.
                if last.as_ref().is_none_or(RequestError::is_wrong_door) || !error.is_wrong_door() {
                    last = Some(error);
                }
            }
        }
    }
    Err(denied(name, last))
}

/// Whether a failure lies here and not with who was asked.
const fn is_local(error: &ImageError) -> bool {
    matches!(error, ImageError::Io { .. } | ImageError::Store(_) | ImageError::Backend(_) | ImageError::Conflict(_))
}

/// Why a name leads to nothing, in Docker's words.
pub(super) fn denied(name: &ImageRef, last: Option<RequestError>) -> ImageError {
    match last {
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
    }
}

pub(super) const ACCEPT: [&str; 4] = [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST];

pub(super) async fn find(repository: &Repository, name: &ImageRef) -> Result<Found, RequestError> {
    let wanted = match (name.digest(), name.tag()) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.unwrap_or(crate::reference::DEFAULT_TAG).to_owned(),
    };
    document(repository, &wanted, name.digest()).await
}

pub(super) async fn document(
    repository: &Repository,
    reference: &str,
    expected: Option<&Digest>,
) -> Result<Found, RequestError> {
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
    client: &RegistryClient,
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
    let Chosen { manifest, bytes: manifest_bytes, index } =
        choose_manifest(repository, found, platform.unwrap_or(&host)).await?;
    let what = format!("image {}", name.familiar());
    let config_bytes = config_of(repository, &manifest).await?;
    let config: ImageConfig = serde_json::from_slice(&config_bytes)
        .map_err(|error| ImageError::refused(&what, format!("not an image configuration: {error}")))?;
    check_config(&what, &config, manifest.layers.len())?;
    if let Some(wanted) = platform {
        let offered = platform_of(&config);
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
        if let Some(index) = index {
            let listed = |name| store.index_by_name(name).filter(|known| known.digest == top);
            let known =
                names.iter().all(|name| listed(name).is_some_and(|known| known.images().any(|each| each == id)));
            if !known {
                put_index(client, repository, store, (id, image.manifest), &index, names, reporter).await?;
            }
            return Ok(Pulled { image, digest: top, known });
        }
        let known = names.iter().all(|name| store.by_name(name).is_some_and(|image| image.id == id));
        let image = if known { image } else { name_it(store, id, names).await?.unwrap_or(image) };
        return Ok(Pulled { image, digest: top, known });
    }
    let taking = Taking::new(store);
    let chains = ChainId::chain(&config.rootfs.diff_ids);
    // Nobody takes away what is here or comes, whoever else gives it up meanwhile.
    let hold = store.hold(chains.iter().map(|chain| chain.0).chain(manifest.layers.iter().map(|layer| layer.digest)));
    let result = async {
        let layers = layers(client, repository, store, &manifest, &config, reporter, &taking).await?;
        // The names of an index are given with it.
        let own = if index.is_some() { Vec::new() } else { names.clone() };
        blocking(store, move |store| {
            store.register_documents(&config_bytes, Some(&manifest_bytes), config, layers, &own)
        })
        .await
    }
    .await;
    match result {
        Ok(image) => {
            taking.keep();
            note(store, name, image.layers.clone()).await;
            if let Some(index) = index {
                put_index(client, repository, store, (image.id, image.manifest), &index, names, reporter).await?;
            }
            Ok(Pulled { image, digest: top, known: false })
        }
        Err(error) => {
            drop(hold);
            taking.give_up().await;
            Err(error)
        }
    }
}

/// What a pull has brought before there is an image to refer to it. When the pull ends without one, it goes, also what
/// a thread finishes later.
pub(super) struct Taking {
    store: Arc<ImageStore>,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    given_up: bool,
    chains: Vec<ChainId>,
    blobs: Vec<Digest>,
}

impl Taken {
    /// What an image refers to by now stays.
    fn abandon(&mut self, store: &ImageStore) {
        self.given_up = true;
        let (chains, blobs) = (std::mem::take(&mut self.chains), std::mem::take(&mut self.blobs));
        if let Err(error) = store.abandon(&chains).and_then(|()| store.abandon_blobs(&blobs)) {
            tracing::warn!(%error, "what a pull left stays until the next start");
        }
    }
}

impl Taking {
    pub(super) fn new(store: &Arc<ImageStore>) -> Self {
        Self { store: store.clone(), taken: Arc::default() }
    }

    /// Notes what a thread has brought. It runs on that thread.
    fn note(taken: &Mutex<Taken>, store: &ImageStore, chain: Option<ChainId>, blob: Option<Digest>) {
        let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.chains.extend(chain);
        taken.blobs.extend(blob);
        if taken.given_up {
            taken.abandon(store);
        }
    }

    /// There is an image now.
    pub(super) fn keep(self) {
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner) = Taken::default();
    }

    async fn give_up(self) {
        let taken = self.taken.clone();
        let work = move |store: &ImageStore| {
            taken.lock().unwrap_or_else(PoisonError::into_inner).abandon(store);
            Ok(())
        };
        if let Err(error) = blocking(&self.store, work).await {
            tracing::warn!(%error, "what a pull left stays until the next start");
        }
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        let nothing = {
            let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
            taken.given_up = true;
            taken.chains.is_empty() && taken.blobs.is_empty()
        };
        if nothing {
            return;
        }
        let (store, taken) = (self.store.clone(), self.taken.clone());
        let work = move || taken.lock().unwrap_or_else(PoisonError::into_inner).abandon(&store);
        // Removing trees takes a while; where there is no runtime any more, the next start removes them.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            drop(runtime.spawn_blocking(work));
        }
    }
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

/// What a name led to.
struct Chosen {
    manifest: Manifest,
    /// Of the manifest.
    bytes: Vec<u8>,
    /// The index that names the manifest, if the name led to one.
    index: Option<Vec<u8>>,
}

async fn choose_manifest(repository: &Repository, mut found: Found, wanted: &Platform) -> Result<Chosen, ImageError> {
    let mut outer = None;
    for depth in 0..=MAX_NESTING {
        let what = format!("manifest {}", found.digest);
        match Document::parse(&found.bytes, &found.media_type).map_err(|why| ImageError::refused(&what, why))? {
            Document::Manifest(manifest) => {
                manifest.check().map_err(|why| ImageError::refused(&what, why))?;
                // Of indexes in an index only the image is kept.
                let index = outer.filter(|_| depth == 1);
                return Ok(Chosen { manifest, bytes: found.bytes, index });
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
                outer = Some(found.bytes);
                found = Found { media_type: declared, ..next };
            }
        }
    }
    Err(ImageError::refused(format!("manifest {}", found.digest), "indexes are nested too deeply"))
}

/// Keeps the index that led to an image, with what it says about that image (attestations, signatures), as far as that
/// is to be had: an image without it is still an image.
async fn put_index(
    client: &RegistryClient,
    repository: &Repository,
    store: &Arc<ImageStore>,
    (id, manifest): (Digest, Digest),
    document: &[u8],
    names: Vec<ImageRef>,
    reporter: &Reporter,
) -> Result<(), ImageError> {
    let Document::Index(index) = Document::parse(document, "").map_err(|why| ImageError::refused("the index", why))?
    else {
        return Ok(());
    };
    let taking = Taking::new(store);
    let mut hold = store.hold([Digest::of(document)]);
    let mut contents = Vec::new();
    let (mut room, mut kept) = (MAX_STATEMENT_BYTES, 0);
    for descriptor in &index.manifests {
        contents.push(if descriptor.digest == manifest {
            Content::Image(id)
        } else if subject(descriptor) == Some(manifest) && kept < MAX_STATEMENTS {
            kept += 1;
            match keep(client, repository, store, descriptor, reporter, &taking, &mut hold, &mut room).await {
                Ok(blobs) => Content::Kept(blobs),
                Err(error) => {
                    tracing::warn!(manifest = %descriptor.digest, %error, "what is said about an image stays away");
                    Content::Absent
                }
            }
        } else {
            Content::Absent
        });
    }
    let document = document.to_vec();
    blocking(store, move |store| store.put_index(&document, contents, Some(id), &names).map(drop)).await?;
    taking.keep();
    Ok(())
}

/// Fetches a manifest and what it names, to be kept as it is; the blobs beside the manifest.
#[allow(clippy::too_many_arguments)] // one task's surroundings
async fn keep(
    client: &RegistryClient,
    repository: &Repository,
    store: &Arc<ImageStore>,
    descriptor: &Descriptor,
    reporter: &Reporter,
    taking: &Taking,
    hold: &mut Hold<'_>,
    room: &mut u64,
) -> Result<Vec<Digest>, ImageError> {
    let found = document(repository, &descriptor.digest.to_string(), Some(&descriptor.digest)).await?;
    let what = format!("manifest {}", descriptor.digest);
    let parsed = Document::parse(&found.bytes, &descriptor.media_type);
    let Document::Manifest(manifest) = parsed.map_err(|why| ImageError::refused(&what, why))? else {
        return Err(ImageError::refused(&what, "it is an index"));
    };
    let parts: Vec<&Descriptor> = manifest.layers.iter().chain([&manifest.config]).collect();
    let size = parts.iter().fold(0_u64, |sum, part| sum.saturating_add(part.size));
    *room = room.checked_sub(size).ok_or_else(|| {
        ImageError::refused(&what, format!("more than {MAX_STATEMENT_BYTES} bytes are said about the image"))
    })?;
    let mut blobs = Vec::new();
    for part in parts {
        hold.add(part.digest);
        let (begun, _) = oneshot::channel();
        bring(client, repository, store, part, &part.digest.short(), reporter, taking, begun).await?;
        blobs.push(part.digest);
    }
    hold.add(descriptor.digest);
    let (bytes, taken, digest) = (found.bytes, taking.taken.clone(), descriptor.digest);
    blocking(store, move |store| {
        store.blobs().write(&bytes)?;
        Taking::note(&taken, store, None, Some(digest));
        Ok(())
    })
    .await?;
    Ok(blobs)
}

pub(super) async fn config_of(repository: &Repository, manifest: &Manifest) -> Result<Vec<u8>, ImageError> {
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

/// Where a layer's blob is when it is to be unpacked.
pub(super) enum Source {
    /// Among the blobs.
    Here,
    /// On its way.
    Coming(Arrival),
}

/// Downloads what is not here, several at once, and unpacks in order: each layer while it comes, as soon as those below
/// it are there.
async fn layers(
    client: &RegistryClient,
    repository: &Arc<Repository>,
    store: &Arc<ImageStore>,
    manifest: &Manifest,
    config: &ImageConfig,
    reporter: &Reporter,
    taking: &Taking,
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
        let (begun, receiver) = oneshot::channel();
        arrivals.push(Some(receiver));
        downloads.push(bring(client, repository, store, descriptor, id, reporter, taking, begun));
    }
    let downloading =
        futures_util::stream::iter(downloads).buffer_unordered(PARALLEL).try_for_each(|()| async { Ok(()) });
    let unpacking = async {
        let mut layers: Vec<LayerRef> = Vec::new();
        for (at, arrival) in arrivals.into_iter().enumerate() {
            let source = match arrival {
                None => None,
                Some(begun) => {
                    Some(begun.await.map_err(|_| ImageError::Registry("a download ended early".to_owned()))?)
                }
            };
            let expected = expected(&manifest.layers[at], diff_ids[at]);
            let parents: Vec<ChainId> = layers.iter().rev().map(|layer| layer.chain_id).collect();
            let what = format!("layer {}", manifest.layers[at].digest);
            let taken = taking.taken.clone();
            let arrival = match &source {
                Some(Source::Coming(arrival)) => Some(arrival.clone()),
                _ => None,
            };
            let known = source.is_none();
            // Nobody closes it.
            let _turn = client.unpacking.acquire().await;
            let unpacking = blocking(store, move |store| {
                let layer = if known {
                    store.take_known_layer(&expected, &parents)?
                } else {
                    store.take_downloaded(&what, &expected, &parents, arrival.as_ref())?
                };
                Taking::note(&taken, store, Some(layer.chain_id), None);
                Ok(layer)
            });
            let layer = match &source {
                None => unpacking.await?,
                Some(source) => {
                    let layer = extracting(unpacking, source, &ids[at], manifest.layers[at].size, reporter).await?;
                    reporter.say(Some(&ids[at]), "Pull complete").await;
                    layer
                }
            };
            layers.push(layer);
        }
        Ok(layers)
    };
    let mut downloading = Box::pin(downloading);
    tokio::pin!(unpacking);
    let downloaded = tokio::select! {
        // A download that fails knows why; whoever unpacks it only that no more comes.
        biased;
        result = &mut downloading => result,
        // A failure ends the downloads, too.
        result = &mut unpacking => return result,
    };
    // Whoever unpacks what does not come any more ends, and has cleared up then.
    drop(downloading);
    let unpacked = unpacking.await;
    downloaded.and(unpacked)
}

/// Tells how far a layer is that is wholly here and still being unpacked.
async fn extracting<T>(
    unpacking: impl Future<Output = T>,
    source: &Source,
    id: &str,
    size: u64,
    reporter: &Reporter,
) -> T {
    tokio::pin!(unpacking);
    if matches!(source, Source::Here) {
        reporter.progress(id, "Extracting", 0, size);
    }
    loop {
        match tokio::time::timeout(REPORT, &mut unpacking).await {
            Ok(done) => return done,
            Err(_) => {
                if let Source::Coming(arrival) = source
                    && let Some(taken) = arrival.taken()
                {
                    reporter.progress(id, "Extracting", taken.min(size), size);
                }
            }
        }
    }
}

/// Makes sure that a blob is here, which the caller holds. Of several who want it one downloads it; the others wait. Tells
/// as soon as there is something to unpack.
#[allow(clippy::too_many_arguments)] // one task's surroundings
pub(super) async fn bring(
    client: &RegistryClient,
    repository: &Repository,
    store: &Arc<ImageStore>,
    descriptor: &Descriptor,
    id: &str,
    reporter: &Reporter,
    taking: &Taking,
    begun: oneshot::Sender<Source>,
) -> Result<(), ImageError> {
    let digest = descriptor.digest;
    let lock = client.download_lock(&digest);
    let _turn = match lock.try_lock() {
        Ok(turn) => turn,
        Err(_) => {
            reporter.say(Some(id), "Waiting").await;
            lock.lock().await
        }
    };
    // Blobs are checked before they get their name, so one that is here is the right one.
    if store.blobs().has(&digest) && store.blobs().size(&digest) == descriptor.size {
        reporter.say(Some(id), "Download complete").await;
        // Whoever waits for it may have given up.
        drop(begun.send(Source::Here));
        return Ok(());
    }
    let (partial, sink, arrival) = Sink::open(store, descriptor).await?;
    drop(begun.send(Source::Coming(arrival)));
    if let Err(error) = download(repository, descriptor, &sink, id, reporter).await {
        // When the disk is why, the sink knows more.
        return Err(sink.finish().await.err().unwrap_or(error));
    }
    reporter.say(Some(id), "Verifying Checksum").await;
    let (actual, arriving) = sink.finish().await?;
    if actual != digest {
        return Err(ImageError::Mismatch { what: format!("layer {digest}"), expected: digest, actual });
    }
    arriving.verified();
    let taken = taking.taken.clone();
    blocking(store, move |store| {
        store.take_blob_file(&partial.0, &digest)?;
        Taking::note(&taken, store, None, Some(digest));
        arriving.kept();
        Ok(())
    })
    .await?;
    reporter.say(Some(id), "Download complete").await;
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
