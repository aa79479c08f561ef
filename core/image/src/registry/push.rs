//! Sending an image: the layers that the registry lacks, the configuration, and the manifest as it is kept.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Method, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::io::AsyncReadExt;

use super::client::{Extra, Repository, RequestError, endpoints, join};
use super::pull::blocking;
use super::transport::{Body, full};
use super::{RegistryAuth, RegistryClient, Reporter};
use crate::archive::media_type;
use crate::digest::Digest;
use crate::error::{Context, ImageError};
use crate::manifest::{Document, MAX_DOCUMENT, Manifest};
use crate::reference::ImageRef;
use crate::store::ImageStore;

const CHUNK: usize = 256 << 10;
/// Layers on the wire at once.
const PARALLEL: usize = 3;

/// A finished push.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// Of the manifest.
    pub digest: Digest,
    /// Of the manifest, in bytes.
    pub size: u64,
}

/// Sends the image that goes by this name.
pub async fn push(
    client: &RegistryClient,
    store: &Arc<ImageStore>,
    name: &ImageRef,
    auth: Option<&RegistryAuth>,
    reporter: &Reporter,
) -> Result<Pushed, ImageError> {
    let image = store.by_name(name).ok_or_else(|| {
        ImageError::NotFound(format!("An image does not exist locally with the tag: {}", name.familiar_name()))
    })?;
    let blobs = image.layers.iter().map(|layer| layer.blob).chain([image.id, image.manifest]);
    let _hold = store.hold(blobs);
    let manifest = image.manifest;
    let bytes = blocking(store, move |store| store.blobs().read(&manifest, MAX_DOCUMENT)).await?;
    let document =
        Document::parse(&bytes, "").map_err(|why| ImageError::refused(format!("manifest {manifest}"), why))?;
    let Document::Manifest(document) = document else {
        return Err(ImageError::refused(format!("manifest {manifest}"), "not that of an image"));
    };
    let mut last = None;
    for endpoint in endpoints(name, &client.config, true) {
        let repository = Repository::new(&client.transport, endpoint, name, "pull,push", auth);
        // The first request tells whether there is a registry, and brings the token that uploads are sent with.
        match repository.request(&Method::GET, &format!("{}/v2/", repository.endpoint.base), &Extra::default()).await {
            Ok(_) => {
                send(&repository, store, &document, reporter).await?;
                put_manifest(&repository, name, &document, &bytes).await?;
                return Ok(Pushed { digest: manifest, size: bytes.len() as u64 });
            }
            Err(error @ RequestError::Unreachable { .. }) => last = last.or(Some(error)),
            Err(error) => return Err(denied(name, error)),
        }
    }
    Err(last.map_or_else(|| ImageError::Unreachable("no registry to ask".to_owned()), Into::into))
}

fn denied(name: &ImageRef, error: RequestError) -> ImageError {
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

async fn send(
    repository: &Repository,
    store: &Arc<ImageStore>,
    manifest: &Manifest,
    reporter: &Reporter,
) -> Result<(), ImageError> {
    let mut seen = std::collections::HashSet::new();
    let layers: Vec<_> = manifest.layers.iter().filter(|layer| seen.insert(layer.digest)).collect();
    for layer in &layers {
        reporter.say(Some(&layer.digest.short()), "Preparing").await;
    }
    let mut sending = Vec::new();
    for layer in layers {
        sending.push(send_layer(repository, store, layer.digest, layer.size, reporter));
    }
    let mut sending = stream::iter(sending).buffer_unordered(PARALLEL);
    while let Some(result) = sending.next().await {
        result?;
    }
    if !has(repository, &manifest.config.digest).await? {
        upload(repository, store, &manifest.config.digest, manifest.config.size, None).await?;
    }
    Ok(())
}

async fn send_layer(
    repository: &Repository,
    store: &Arc<ImageStore>,
    digest: Digest,
    size: u64,
    reporter: &Reporter,
) -> Result<(), ImageError> {
    let id = digest.short();
    if has(repository, &digest).await? {
        reporter.say(Some(&id), "Layer already exists").await;
        return Ok(());
    }
    upload(repository, store, &digest, size, Some((&id, reporter))).await?;
    reporter.say(Some(&id), "Pushed").await;
    Ok(())
}

async fn has(repository: &Repository, digest: &Digest) -> Result<bool, ImageError> {
    let url = repository.url(&format!("blobs/{digest}"));
    match repository.request(&Method::HEAD, &url, &Extra::default()).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_missing() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// One upload in one request.
async fn upload(
    repository: &Repository,
    store: &Arc<ImageStore>,
    digest: &Digest,
    size: u64,
    progress: Option<(&str, &Reporter)>,
) -> Result<(), ImageError> {
    let begin = repository.url("blobs/uploads/");
    let zero = Extra { headers: vec![(header::CONTENT_LENGTH, "0".to_owned())], ..Extra::default() };
    let response = repository.request(&Method::POST, &begin, &zero).await?;
    let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
    let location =
        location.ok_or_else(|| ImageError::Registry(format!("{begin}: the registry names no place to upload to")))?;
    let location = join(&begin, location);
    let separator = if location.contains('?') { '&' } else { '?' };
    let target = format!("{location}{separator}digest={digest}");
    let extra = Extra {
        headers: vec![
            (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
            (header::CONTENT_LENGTH, size.to_string()),
        ],
        ..Extra::default()
    };
    let body = blob_body(store, digest, size, progress).await?;
    repository.upload(&Method::PUT, &target, &extra, body).await?;
    Ok(())
}

async fn blob_body(
    store: &Arc<ImageStore>,
    digest: &Digest,
    size: u64,
    progress: Option<(&str, &Reporter)>,
) -> Result<Body, ImageError> {
    let path = store.blobs().path(digest);
    let file = tokio::fs::File::open(&path).await.context(|| format!("open blob {digest}"))?;
    if size == 0 {
        return Ok(full(Bytes::new()));
    }
    let progress = progress.map(|(id, reporter)| (id.to_owned(), reporter.clone()));
    let pieces = stream::try_unfold((file, 0_u64), move |(mut file, mut done)| {
        let progress = progress.clone();
        async move {
            let mut piece = vec![0; CHUNK];
            let read = file.read(&mut piece).await?;
            if read == 0 {
                return Ok::<_, std::io::Error>(None);
            }
            piece.truncate(read);
            done += read as u64;
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
    manifest: &Manifest,
    bytes: &[u8],
) -> Result<(), ImageError> {
    let tag = name.tag().unwrap_or(crate::reference::DEFAULT_TAG);
    let extra =
        Extra { headers: vec![(header::CONTENT_TYPE, media_type(manifest))], body: Bytes::copy_from_slice(bytes) };
    let result = repository.request(&Method::PUT, &repository.url(&format!("manifests/{tag}")), &extra).await;
    result.map(drop).map_err(|error| denied(name, error))
}
