//! Sending an image: the layers that the registry lacks, the configuration, and the manifest as it is kept.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Method, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::client::{Extra, Repository, RequestError, endpoints, join};
use super::look::{exists, has_manifest};
use super::pull::blocking;
use super::transport::{Body, full};
use super::{RegistryAuth, RegistryClient, Reporter};
use crate::archive::media_type;
use crate::digest::Digest;
use crate::error::{Context, ImageError};
use crate::manifest::{Descriptor, Document, MAX_DOCUMENT, Manifest, OCI_CONFIG, Platform, is_foreign};
use crate::record::{ImageRecord, LayerRef};
use crate::reference::ImageRef;
use crate::store::{Form, ImageStore, IndexRecord};

const CHUNK: usize = 256 << 10;
/// Layers on the wire at once.
const PARALLEL: usize = 3;
/// How often a broken upload is taken up again, or begun anew.
const RESUMES: u32 = 5;
/// Repositories that a token is asked for beside the one that is pushed to.
const MAX_SOURCES: usize = 8;
/// Said of a layer that the repository has.
const ALREADY: &str = "Layer already exists";

/// A finished push.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// Of the manifest.
    pub digest: Digest,
    /// Of the manifest, in bytes.
    pub size: u64,
}

/// Sends the image that goes by this name. Of an index all is sent that it names, as far as it is here and the registry
/// has the rest; else, or with a `platform`, the image alone.
pub async fn push(
    client: &RegistryClient,
    store: &Arc<ImageStore>,
    name: &ImageRef,
    platform: Option<&Platform>,
    auth: Option<&RegistryAuth>,
    reporter: &Reporter,
) -> Result<Pushed, ImageError> {
    let missing =
        || ImageError::NotFound(format!("An image does not exist locally with the tag: {}", name.familiar_name()));
    let image = store.by_name(name).ok_or_else(missing)?;
    let index = store.index_by_name(name);
    let image = match (platform, &index) {
        (Some(wanted), Some(index)) => index.image_for(wanted).and_then(|id| store.get(&id)).ok_or_else(|| {
            ImageError::NotFound(format!("{} is not here for the platform {wanted}", name.familiar()))
        })?,
        _ => image,
    };
    if let Some(index) = index.filter(|_| platform.is_none())
        && let Some(pushed) = push_index(client, store, name, &index, auth, reporter).await?
    {
        return Ok(pushed);
    }
    push_image(client, store, name, &image, auth, reporter).await
}

/// Sends one image.
async fn push_image(
    client: &RegistryClient,
    store: &Arc<ImageStore>,
    name: &ImageRef,
    image: &Arc<ImageRecord>,
    auth: Option<&RegistryAuth>,
    reporter: &Reporter,
) -> Result<Pushed, ImageError> {
    let remembered = {
        let image = image.clone();
        blocking(store, move |store| Remembered::of(store, &image)).await?
    };
    let sources = sources_of(store, name, image.layers.iter().map(|layer| layer.blob), &remembered);
    let repository = open(client, name, &sources, auth).await?;
    let there = look_for(&repository, name, &remembered, &sources).await?;
    let id = image.id;
    let spared: HashSet<Digest> = there.keys().copied().collect();
    let image = blocking(store, move |store| store.pack_layers_but(&id, |layer| spared.contains(&layer.blob))).await?;
    let blobs = image.layers.iter().map(|layer| layer.blob).chain([image.id, image.manifest]);
    let _hold = store.hold(blobs);
    let mut layers = image.layers.clone();
    for layer in &mut layers {
        if let Some(found) = there.get(&layer.blob) {
            *layer = found.form.of(layer);
        }
    }
    let bytes = if layers == image.layers {
        document_of(store, image.manifest).await?
    } else {
        // Of what the registry has in another form than it has here, the manifest says so.
        let config = Descriptor::new(OCI_CONFIG, image.id, store.blobs().size(&image.id));
        serde_json::to_vec(&Manifest::of_layers(config, &layers)).context(|| "write the image's manifest".to_owned())?
    };
    let digest = Digest::of(&bytes);
    let manifest = manifest_of(&digest, &bytes)?;
    let settled = there.into_values().map(|found| (found.form.blob, found.state)).collect();
    send(&repository, store, &manifest, &sources, &settled, reporter).await?;
    put_manifest(&repository, name, tag_of(name), &media_type(&manifest), &bytes).await?;
    note(store, name, layers).await;
    Ok(Pushed { digest, size: bytes.len() as u64 })
}

/// Remembers for the next push what a repository has now.
pub(super) async fn note(store: &Arc<ImageStore>, name: &ImageRef, layers: Vec<LayerRef>) {
    let repository = name.repository();
    if let Err(error) = blocking(store, move |store| store.note_forms(&layers, &repository)).await {
        tracing::warn!(%error, "what a registry has is not remembered");
    }
}

/// The forms in which registries had an image's layers.
#[derive(Default)]
struct Remembered {
    /// By blobs that would have to be packed.
    to_pack: Vec<(Digest, Vec<Form>)>,
    /// All of them.
    forms: Vec<Form>,
}

impl Remembered {
    fn of(store: &ImageStore, image: &ImageRecord) -> Result<Self, ImageError> {
        let unpacked: HashSet<Digest> = store.unpacked(image).into_iter().map(|layer| layer.blob).collect();
        let mut remembered = Self::default();
        for layer in &image.layers {
            let forms = store.forms(&layer.diff_id)?;
            if unpacked.contains(&layer.blob) {
                remembered.to_pack.push((layer.blob, forms.clone()));
            }
            remembered.forms.extend(forms);
        }
        Ok(remembered)
    }
}

/// A layer that the registry has, in which form, and what to say of it.
struct There {
    form: Form,
    state: String,
}

/// Looks which of the layers that would have to be packed the registry has in a form that it had before; by their blobs.
async fn look_for(
    repository: &Repository,
    name: &ImageRef,
    remembered: &Remembered,
    sources: &Sources,
) -> Result<HashMap<Digest, There>, ImageError> {
    let mut looks = Vec::new();
    for (blob, forms) in &remembered.to_pack {
        looks.push(look_for_one(repository, name.domain(), *blob, forms, sources));
    }
    let mut looking = stream::iter(looks).buffer_unordered(PARALLEL);
    let mut found = HashMap::new();
    while let Some(look) = looking.next().await {
        found.extend(look?);
    }
    Ok(found)
}

async fn look_for_one(
    repository: &Repository,
    domain: &str,
    blob: Digest,
    forms: &[Form],
    sources: &Sources,
) -> Result<Option<(Digest, There)>, RequestError> {
    // What only others had is not asked for: the answer would hardly be yes, and nobody is told who else has what.
    for form in forms.iter().filter(|form| form.paths(domain).next().is_some()) {
        if exists(repository, &format!("blobs/{}", form.blob)).await? {
            return Ok(Some((blob, There { form: form.clone(), state: ALREADY.to_owned() })));
        }
        let from = sources.get(&form.blob).map(Vec::as_slice).unwrap_or_default();
        if let Some(source) = mount(repository, &form.blob, from).await {
            return Ok(Some((blob, There { form: form.clone(), state: format!("Mounted from {source}") })));
        }
    }
    Ok(None)
}

/// Makes the registry take a blob from another of its repositories: from which it did.
async fn mount(repository: &Repository, digest: &Digest, sources: &[String]) -> Option<String> {
    for source in sources.iter().take(MAX_SOURCES) {
        match begin(repository, &mount_url(repository, digest, source)).await {
            Ok(None) => return Some(source.clone()),
            Ok(Some(location)) => cancel(repository, &location).await,
            Err(error) => tracing::debug!(%error, source, "the registry does not mount the blob"),
        }
    }
    None
}

fn mount_url(repository: &Repository, digest: &Digest, source: &str) -> String {
    repository.url(&format!("blobs/uploads/?mount={digest}&from={source}"))
}

/// Begins an upload: where to send the blob; `None` if the registry has it by now.
async fn begin(repository: &Repository, url: &str) -> Result<Option<String>, RequestError> {
    let zero = Extra { headers: vec![(header::CONTENT_LENGTH, "0".to_owned())], ..Extra::default() };
    let response = repository.request(&Method::POST, url, &zero).await?;
    if response.status() == StatusCode::CREATED {
        return Ok(None);
    }
    location(url, &response).map(Some)
}

/// Tells the registry to forget an upload; it would do so by itself after a while.
async fn cancel(repository: &Repository, location: &str) {
    drop(repository.request(&Method::DELETE, location, &Extra::default()).await);
}

async fn document_of(store: &Arc<ImageStore>, digest: Digest) -> Result<Vec<u8>, ImageError> {
    blocking(store, move |store| store.blobs().read(&digest, MAX_DOCUMENT)).await
}

fn manifest_of(digest: &Digest, bytes: &[u8]) -> Result<Manifest, ImageError> {
    let what = || format!("manifest {digest}");
    match Document::parse(bytes, "").map_err(|why| ImageError::refused(what(), why))? {
        Document::Manifest(manifest) => Ok(manifest),
        Document::Index(_) => Err(ImageError::refused(what(), "not that of an image")),
    }
}

/// Sends an index and what it names; `None` if something of that is neither here nor there.
async fn push_index(
    client: &RegistryClient,
    store: &Arc<ImageStore>,
    name: &ImageRef,
    index: &IndexRecord,
    auth: Option<&RegistryAuth>,
    reporter: &Reporter,
) -> Result<Option<Pushed>, ImageError> {
    let _hold = store.hold(store.index_blobs(index));
    let document = document_of(store, index.digest).await?;
    let (mut manifests, mut absent) = (Vec::new(), Vec::new());
    for member in &index.members {
        if store.has_member(member) {
            let bytes = document_of(store, member.digest()).await?;
            manifests.push((manifest_of(&member.digest(), &bytes)?, bytes));
        } else {
            absent.push(member);
        }
    }
    let images: Vec<Arc<ImageRecord>> = index.images().filter_map(|id| store.get(&id)).collect();
    let remembered = {
        let images = images.clone();
        let all = move |store: &ImageStore| {
            let mut all = Remembered::default();
            for image in &images {
                all.forms.extend(Remembered::of(store, image)?.forms);
            }
            Ok(all)
        };
        blocking(store, all).await?
    };
    let blobs = manifests.iter().flat_map(|(manifest, _)| manifest.layers.iter().map(|layer| layer.digest));
    let sources = sources_of(store, name, blobs, &remembered);
    let repository = open(client, name, &sources, auth).await?;
    for member in absent {
        if !has_manifest(&repository, &member.digest()).await? {
            let shown = member.platform().map_or_else(|| member.digest().to_string(), ToString::to_string);
            let note =
                format!("Not all of the index is here ({shown} is not): the image for this platform is pushed alone");
            reporter.say(None, note).await;
            return Ok(None);
        }
    }
    for (manifest, bytes) in &manifests {
        send(&repository, store, manifest, &sources, &HashMap::new(), reporter).await?;
        let digest = Digest::of(bytes).to_string();
        put_manifest(&repository, name, &digest, &media_type(manifest), bytes).await?;
    }
    put_manifest(&repository, name, tag_of(name), &index.media_type, &document).await?;
    note(store, name, images.iter().flat_map(|image| image.layers.clone()).collect()).await;
    Ok(Some(Pushed { digest: index.digest, size: index.size }))
}

/// Sends a manifest and what it names, all of which is in the store and held by the caller.
pub(super) async fn push_document(
    client: &RegistryClient,
    store: &Arc<ImageStore>,
    name: &ImageRef,
    bytes: &[u8],
    auth: Option<&RegistryAuth>,
    reporter: &Reporter,
) -> Result<Pushed, ImageError> {
    let digest = Digest::of(bytes);
    let manifest = manifest_of(&digest, bytes)?;
    let blobs = manifest.layers.iter().map(|layer| layer.digest);
    let sources = sources_of(store, name, blobs, &Remembered::default());
    let repository = open(client, name, &sources, auth).await?;
    send(&repository, store, &manifest, &sources, &HashMap::new(), reporter).await?;
    put_manifest(&repository, name, tag_of(name), &media_type(&manifest), bytes).await?;
    Ok(Pushed { digest, size: bytes.len() as u64 })
}

fn tag_of(name: &ImageRef) -> &str {
    name.tag().unwrap_or(crate::reference::DEFAULT_TAG)
}

/// The repository of a name, where it is to be had. The token for it serves for reading those that blobs may come from.
async fn open(
    client: &RegistryClient,
    name: &ImageRef,
    sources: &Sources,
    auth: Option<&RegistryAuth>,
) -> Result<Repository, ImageError> {
    let mut from: Vec<String> = sources.values().flatten().cloned().collect();
    from.sort();
    from.dedup();
    from.truncate(MAX_SOURCES);
    let mut last = None;
    for endpoint in endpoints(name, &client.config, true) {
        let repository = Repository::new(client, endpoint, name, "pull,push", auth).reading(from.clone());
        // The first request tells whether there is a registry, and brings the token that uploads are sent with.
        match repository.request(&Method::GET, &format!("{}/v2/", repository.endpoint.base), &Extra::default()).await {
            Ok(_) => return Ok(repository),
            Err(error) if error.is_wrong_door() => last = last.or(Some(error)),
            Err(error) => return Err(denied(name, error)),
        }
    }
    Err(last.map_or_else(|| ImageError::Unreachable("no registry to ask".to_owned()), Into::into))
}

pub(super) fn denied(name: &ImageRef, error: RequestError) -> ImageError {
    match error {
        RequestError::Status { url, status: status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN), detail } => {
            ImageError::Unauthorized(format!(
                "push access denied for {}: {url}: {status}{detail}; log in with an account that may write there",
                name.familiar_name()
            ))
        }
        other => other.into(),
    }
}

/// Repositories of the registry that is pushed to, by the blobs that they are known to hold.
type Sources = HashMap<Digest, Vec<String>>;

/// Where else in the same registry blobs are: images that came from there, or went there, have a name by digest, and
/// what was there in the past is remembered.
fn sources_of(
    store: &ImageStore,
    name: &ImageRef,
    blobs: impl Iterator<Item = Digest>,
    remembered: &Remembered,
) -> Sources {
    let wanted: HashSet<Digest> = blobs.chain(remembered.forms.iter().map(|form| form.blob)).collect();
    let mut found = Sources::new();
    let mut add = |blob: Digest, path: &str| {
        let paths = found.entry(blob).or_default();
        if path != name.path() && !paths.iter().any(|known| known == path) {
            paths.push(path.to_owned());
        }
    };
    for (image, names) in store.list() {
        let shared: Vec<Digest> =
            image.layers.iter().map(|layer| layer.blob).filter(|blob| wanted.contains(blob)).collect();
        for other in names.iter().filter(|other| other.digest().is_some() && other.domain() == name.domain()) {
            shared.iter().for_each(|blob| add(*blob, other.path()));
        }
    }
    for form in &remembered.forms {
        form.paths(name.domain()).for_each(|path| add(form.blob, path));
    }
    found
}

/// Sends the blobs of an image that the registry lacks. Of those that are `settled` it is known that it has them, and what
/// to say of that.
async fn send(
    repository: &Repository,
    store: &Arc<ImageStore>,
    manifest: &Manifest,
    sources: &Sources,
    settled: &HashMap<Digest, String>,
    reporter: &Reporter,
) -> Result<(), ImageError> {
    let mut seen = HashSet::new();
    let (foreign, layers): (Vec<_>, Vec<_>) = manifest
        .layers
        .iter()
        .filter(|layer| seen.insert(layer.digest))
        .partition(|layer| is_foreign(&layer.media_type));
    for layer in foreign {
        reporter.say(Some(&layer.digest.short()), "Skipped foreign layer").await;
    }
    for layer in &layers {
        reporter.say(Some(&layer.digest.short()), "Preparing").await;
    }
    let mut sending = Vec::new();
    for layer in layers {
        if let Some(state) = settled.get(&layer.digest) {
            reporter.say(Some(&layer.digest.short()), state).await;
            continue;
        }
        let from = sources.get(&layer.digest).map(Vec::as_slice).unwrap_or_default();
        sending.push(send_layer(repository, store, layer.digest, layer.size, from, reporter));
    }
    let mut sending = stream::iter(sending).buffer_unordered(PARALLEL);
    while let Some(result) = sending.next().await {
        result?;
    }
    let config = &manifest.config;
    if !exists(repository, &format!("blobs/{}", config.digest)).await? {
        let upload = Upload { repository, store, digest: config.digest, size: config.size, progress: None };
        upload.run(&[]).await?;
    }
    Ok(())
}

async fn send_layer(
    repository: &Repository,
    store: &Arc<ImageStore>,
    digest: Digest,
    size: u64,
    sources: &[String],
    reporter: &Reporter,
) -> Result<(), ImageError> {
    let id = digest.short();
    if exists(repository, &format!("blobs/{digest}")).await? {
        reporter.say(Some(&id), ALREADY).await;
        return Ok(());
    }
    let upload = Upload { repository, store, digest, size, progress: Some((&id, reporter)) };
    match upload.run(sources).await? {
        Some(from) => reporter.say(Some(&id), format!("Mounted from {from}")).await,
        None => reporter.say(Some(&id), "Pushed").await,
    }
    Ok(())
}

/// One blob on its way.
struct Upload<'a> {
    repository: &'a Repository,
    store: &'a Arc<ImageStore>,
    digest: Digest,
    size: u64,
    progress: Option<(&'a str, &'a Reporter)>,
}

impl Upload<'_> {
    /// Makes the registry take the blob from another repository, if it does (which one), or sends it. What breaks is
    /// taken up where the registry says it broke, or begun anew.
    async fn run(&self, sources: &[String]) -> Result<Option<String>, ImageError> {
        for source in sources.iter().take(MAX_SOURCES) {
            match begin(self.repository, &mount_url(self.repository, &self.digest, source)).await {
                Ok(None) => return Ok(Some(source.clone())),
                // No mount, but an upload was begun: the next try needs none, the last one is used.
                Ok(Some(location)) if Some(source) == sources.last() => {
                    return self.send_from(location).await.map(|()| None);
                }
                Ok(Some(location)) => cancel(self.repository, &location).await,
                Err(error) => tracing::debug!(%error, source, "the registry does not mount the blob"),
            }
        }
        match begin(self.repository, &self.repository.url("blobs/uploads/")).await? {
            Some(location) => self.send_from(location).await.map(|()| None),
            None => Ok(None),
        }
    }

    async fn send_from(&self, mut location: String) -> Result<(), ImageError> {
        let mut offset = 0;
        let mut failures = 0;
        loop {
            let error = match self.piece(&location, offset).await {
                Ok(next) => match self.finish(&next).await {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            // A token may end while a blob is sent; asking how far it came brings a new one.
            let expired = matches!(error, RequestError::Status { status: StatusCode::UNAUTHORIZED, .. });
            if failures >= RESUMES || !(error.is_passing() || expired || is_lost(&error)) {
                return Err(error.into());
            }
            tracing::debug!(%error, blob = %self.digest, "an upload is taken up again");
            self.repository.wait(failures).await;
            failures += 1;
            match self.progress_of(&location).await {
                Ok((next, done)) if !is_lost(&error) && done <= self.size => (location, offset) = (next, done),
                _ => match begin(self.repository, &self.repository.url("blobs/uploads/")).await? {
                    None => return Ok(()),
                    Some(anew) => (location, offset) = (anew, 0),
                },
            }
        }
    }

    /// Sends the bytes from an offset on; where the upload goes on.
    async fn piece(&self, url: &str, offset: u64) -> Result<String, RequestError> {
        if offset >= self.size && offset > 0 {
            return Ok(url.to_owned());
        }
        let mut headers = vec![
            (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
            (header::CONTENT_LENGTH, (self.size - offset).to_string()),
        ];
        if offset > 0 {
            headers.push((header::CONTENT_RANGE, format!("{offset}-{}", self.size - 1)));
        }
        let sent = Arc::new(AtomicU64::new(0));
        let body = self.body(offset, &sent).await.map_err(|error| RequestError::Answer {
            url: url.split('?').next().unwrap_or_default().to_owned(),
            why: error.to_string(),
        })?;
        let extra = Extra { headers, ..Extra::default() };
        let response = self.repository.upload(&Method::PATCH, url, &extra, body, &sent).await?;
        location(url, &response)
    }

    /// Gives the blob its name.
    async fn finish(&self, url: &str) -> Result<(), RequestError> {
        let separator = if url.contains('?') { '&' } else { '?' };
        let zero = Extra { headers: vec![(header::CONTENT_LENGTH, "0".to_owned())], ..Extra::default() };
        let target = format!("{url}{separator}digest={}", self.digest);
        match self.repository.request(&Method::PUT, &target, &zero).await {
            Ok(_) => Ok(()),
            // The answer to an earlier try may have been lost.
            Err(error) if exists(self.repository, &format!("blobs/{}", self.digest)).await.unwrap_or(false) => {
                tracing::debug!(%error, "the blob is there all the same");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Where an upload goes on, and how many bytes of it the registry has.
    async fn progress_of(&self, url: &str) -> Result<(String, u64), RequestError> {
        let response = self.repository.request(&Method::GET, url, &Extra::default()).await?;
        let range = response.headers().get(header::RANGE).and_then(|value| value.to_str().ok());
        // `0-0` is what registries say of an upload without a byte.
        let last = range.and_then(|range| range.rsplit_once('-')?.1.parse().ok()).unwrap_or(0_u64);
        let done = if last == 0 { 0 } else { last.saturating_add(1) };
        Ok((location(url, &response).unwrap_or_else(|_| url.to_owned()), done))
    }

    async fn body(&self, offset: u64, sent: &Arc<AtomicU64>) -> Result<Body, ImageError> {
        let progress = self.progress.map(|(id, reporter)| (id.to_owned(), reporter.clone()));
        blob_body(self.store, &self.digest, (offset, self.size), sent.clone(), progress).await
    }
}

/// Whether the registry knows nothing (more) of an upload, or knows it otherwise.
fn is_lost(error: &RequestError) -> bool {
    matches!(
        error,
        RequestError::Status {
            status: StatusCode::NOT_FOUND
                | StatusCode::RANGE_NOT_SATISFIABLE
                | StatusCode::BAD_REQUEST
                | StatusCode::CONFLICT
                | StatusCode::GONE,
            ..
        }
    )
}

fn location<T>(url: &str, response: &http::Response<T>) -> Result<String, RequestError> {
    let found = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
    found.map(|found| join(url, found)).ok_or_else(|| RequestError::Answer {
        url: url.split('?').next().unwrap_or_default().to_owned(),
        why: "the registry names no place to upload to".to_owned(),
    })
}

async fn blob_body(
    store: &Arc<ImageStore>,
    digest: &Digest,
    (offset, size): (u64, u64),
    sent: Arc<AtomicU64>,
    progress: Option<(String, Reporter)>,
) -> Result<Body, ImageError> {
    let path = store.blobs().path(digest);
    let mut file = tokio::fs::File::open(&path).await.context(|| format!("open blob {digest}"))?;
    if size == 0 {
        return Ok(full(Bytes::new()));
    }
    file.seek(std::io::SeekFrom::Start(offset)).await.context(|| format!("read blob {digest}"))?;
    let pieces = stream::try_unfold((file, offset), move |(mut file, mut done)| {
        let (progress, sent) = (progress.clone(), sent.clone());
        async move {
            let mut piece = vec![0; CHUNK];
            let read = file.read(&mut piece).await?;
            if read == 0 {
                return Ok::<_, std::io::Error>(None);
            }
            piece.truncate(read);
            done += read as u64;
            sent.fetch_add(read as u64, Ordering::Relaxed);
            if let Some((id, reporter)) = &progress {
                reporter.progress(id, "Pushing", done, size);
            }
            Ok(Some((Frame::data(Bytes::from(piece)), (file, done))))
        }
    });
    Ok(StreamBody::new(pieces).boxed_unsync())
}

async fn put_manifest(
    repository: &Repository,
    name: &ImageRef,
    reference: &str,
    media_type: &str,
    bytes: &[u8],
) -> Result<(), ImageError> {
    let extra =
        Extra { headers: vec![(header::CONTENT_TYPE, media_type.to_owned())], body: Bytes::copy_from_slice(bytes) };
    let result = repository.request(&Method::PUT, &repository.url(&format!("manifests/{reference}")), &extra).await;
    result.map(drop).map_err(|error| denied(name, error))
}
