//! Manifest lists: one name for images of several platforms that the registry holds already.

use std::collections::HashMap;

use bytes::Bytes;
use http::{Method, StatusCode, header};

use super::client::{Endpoint, Extra, Repository, RequestError, endpoints};
use super::look::exists;
use super::pull::{config_of, document};
use super::push::denied;
use super::{RegistryAuth, RegistryClient};
use crate::archive::platform_of;
use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::manifest::{Descriptor, Document, Index, Manifest, OCI_INDEX, Platform, is_foreign};
use crate::reference::ImageRef;

/// Images of one list.
const MAX_MANIFESTS: usize = 200;

/// What the image of a manifest runs on, by its configuration.
pub async fn platform(
    client: &RegistryClient,
    name: &ImageRef,
    manifest: &[u8],
    auth: Option<&RegistryAuth>,
) -> Result<Platform, ImageError> {
    let what = || format!("manifest of {}", name.familiar());
    let document = Document::parse(manifest, "").map_err(|why| ImageError::refused(what(), why))?;
    let Document::Manifest(manifest) = document else {
        return Err(ImageError::refused(what(), "it is a list of manifests, and not an image"));
    };
    manifest.check().map_err(|why| ImageError::refused(what(), why))?;
    let mut last = None;
    for endpoint in endpoints(name, &client.config, false) {
        let repository = Repository::new(client, endpoint, name, "pull", auth);
        match config_of(&repository, &manifest).await {
            Ok(bytes) => {
                let config: ImageConfig = serde_json::from_slice(&bytes)
                    .map_err(|error| ImageError::refused(what(), format!("not an image configuration: {error}")))?;
                return Ok(platform_of(&config));
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| ImageError::Unreachable("no registry to ask".to_owned())))
}

/// Puts a list under a name. `sources` say in which repository of the same registry each of its manifests is; what is
/// in another one is made known in the list's own first. The list's digest.
pub async fn put_list(
    client: &RegistryClient,
    name: &ImageRef,
    list: &[u8],
    sources: &[ImageRef],
    auth: Option<&RegistryAuth>,
) -> Result<Digest, ImageError> {
    let what = || format!("manifest list {}", name.familiar());
    let document = Document::parse(list, "").map_err(|why| ImageError::refused(what(), why))?;
    let Document::Index(index) = document else {
        return Err(ImageError::refused(what(), "it is no list of manifests"));
    };
    if index.manifests.is_empty() || index.manifests.len() > MAX_MANIFESTS {
        return Err(ImageError::refused(what(), format!("it must name 1 to {MAX_MANIFESTS} manifests")));
    }
    let mut repositories: HashMap<Digest, ImageRef> = HashMap::new();
    for source in sources {
        if source.domain() != name.domain() {
            return Err(ImageError::Invalid(format!(
                "{} is in another registry than {}: push it to {} first",
                source.familiar(),
                name.familiar(),
                name.domain()
            )));
        }
        if let Some(digest) = source.digest() {
            repositories.insert(*digest, source.clone());
        }
    }
    let mut paths: Vec<String> =
        sources.iter().map(|source| source.path().to_owned()).filter(|path| path != name.path()).collect();
    paths.sort();
    paths.dedup();
    let mut last = None;
    for endpoint in endpoints(name, &client.config, true) {
        let target = Repository::new(client, endpoint.clone(), name, "pull,push", auth).reading(paths.clone());
        match target.request(&Method::GET, &format!("{}/v2/", endpoint.base), &Extra::default()).await {
            Ok(_) => {
                for descriptor in &index.manifests {
                    let source = repositories.get(&descriptor.digest);
                    bring(client, &endpoint, &target, name, descriptor, source, auth).await?;
                }
                let tag = name.tag().unwrap_or(crate::reference::DEFAULT_TAG);
                put(&target, tag, media_type(&index), list).await.map_err(|error| denied(name, error))?;
                return Ok(Digest::of(list));
            }
            Err(error) if error.is_wrong_door() => last = last.or(Some(error)),
            Err(error) => return Err(denied(name, error)),
        }
    }
    Err(last.map_or_else(|| ImageError::Unreachable("no registry to ask".to_owned()), Into::into))
}

fn media_type(index: &Index) -> &str {
    index.media_type.as_deref().unwrap_or(OCI_INDEX)
}

async fn put(repository: &Repository, reference: &str, media_type: &str, bytes: &[u8]) -> Result<(), RequestError> {
    let extra =
        Extra { headers: vec![(header::CONTENT_TYPE, media_type.to_owned())], body: Bytes::copy_from_slice(bytes) };
    repository.request(&Method::PUT, &repository.url(&format!("manifests/{reference}")), &extra).await.map(drop)
}

/// Makes sure that a repository has a manifest of the list, with all that it names.
async fn bring(
    client: &RegistryClient,
    endpoint: &Endpoint,
    target: &Repository,
    name: &ImageRef,
    descriptor: &Descriptor,
    source: Option<&ImageRef>,
    auth: Option<&RegistryAuth>,
) -> Result<(), ImageError> {
    let digest = descriptor.digest;
    let Some(source) = source.filter(|source| source.path() != name.path()) else {
        return match document(target, &digest.to_string(), Some(&digest)).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_missing() => Err(ImageError::NotFound(format!(
                "manifest {digest} in {}: push that image first",
                name.familiar_name()
            ))),
            Err(error) => Err(error.into()),
        };
    };
    let from = Repository::new(client, endpoint.clone(), source, "pull", auth);
    let found = document(&from, &digest.to_string(), Some(&digest)).await?;
    let what = || format!("manifest {digest}");
    let parsed = Document::parse(&found.bytes, &found.media_type).map_err(|why| ImageError::refused(what(), why))?;
    let Document::Manifest(manifest) = parsed else {
        return Err(ImageError::refused(what(), "it is a list of manifests, and not an image"));
    };
    for blob in blobs(&manifest) {
        if !exists(target, &format!("blobs/{blob}")).await? {
            mount(target, &blob, source.path()).await?;
        }
    }
    Ok(put(target, &digest.to_string(), &crate::archive::media_type(&manifest), &found.bytes).await?)
}

fn blobs(manifest: &Manifest) -> impl Iterator<Item = Digest> {
    let layers = manifest.layers.iter().filter(|layer| !is_foreign(&layer.media_type));
    layers.map(|layer| layer.digest).chain([manifest.config.digest])
}

async fn mount(target: &Repository, blob: &Digest, from: &str) -> Result<(), ImageError> {
    let url = target.url(&format!("blobs/uploads/?mount={blob}&from={from}"));
    let zero = Extra { headers: vec![(header::CONTENT_LENGTH, "0".to_owned())], ..Extra::default() };
    let response = target.request(&Method::POST, &url, &zero).await?;
    if response.status() == StatusCode::CREATED {
        return Ok(());
    }
    Err(ImageError::Registry(format!(
        "the registry does not take blob {blob} over from {from}: push that image to this repository, too"
    )))
}
