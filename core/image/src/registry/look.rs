//! Looking without fetching: a repository's tags, the document that a name leads to, and search.

use http::{Method, StatusCode, header};
use serde::{Deserialize, Serialize};

use super::auth::escape;
use super::client::{Endpoint, Extra, Repository, RequestError, endpoints, join};
use super::pull::{ACCEPT, denied, find};
use super::{RegistryAuth, RegistryClient};
use crate::digest::Digest;
use crate::error::ImageError;
use crate::reference::{DEFAULT_DOMAIN, ImageRef};

/// Tags of one repository that are taken; more are refused.
const MAX_TAGS: usize = 100_000;

/// The document that a name leads to: a manifest, an index, or what else the registry keeps there.
#[derive(Debug, Clone)]
pub struct Found {
    /// As it is kept.
    pub bytes: Vec<u8>,
    /// Of those bytes.
    pub digest: Digest,
    /// By which the registry announces it; empty if by none.
    pub media_type: String,
}

/// Why the endpoints that were asked until now had no answer.
#[derive(Default)]
struct Failures(Option<RequestError>);

impl Failures {
    /// What a registry says counts more than that nobody answers at another of its endpoints.
    fn add(&mut self, error: RequestError) {
        if self.0.as_ref().is_none_or(RequestError::is_wrong_door) || !error.is_wrong_door() {
            self.0 = Some(error);
        }
    }
}

/// The document that a name leads to, unjudged but for its digest.
pub async fn manifest(
    client: &RegistryClient,
    name: &ImageRef,
    auth: Option<&RegistryAuth>,
) -> Result<Found, ImageError> {
    let mut failures = Failures::default();
    for endpoint in endpoints(name, &client.config, false) {
        let repository = Repository::new(client, endpoint, name, "pull", auth);
        match find(&repository, name).await {
            Ok(found) => return Ok(found),
            Err(error) => failures.add(error),
        }
    }
    Err(denied(name, failures.0))
}

/// The tags of a repository, in the registry's order.
pub async fn tags(
    client: &RegistryClient,
    name: &ImageRef,
    auth: Option<&RegistryAuth>,
) -> Result<Vec<String>, ImageError> {
    let mut failures = Failures::default();
    for endpoint in endpoints(name, &client.config, false) {
        let repository = Repository::new(client, endpoint, name, "pull", auth);
        match tags_of(&repository).await {
            Ok(found) => return Ok(found),
            Err(error) => failures.add(error),
        }
    }
    Err(denied(name, failures.0))
}

async fn tags_of(repository: &Repository) -> Result<Vec<String>, RequestError> {
    #[derive(Deserialize)]
    struct Tags {
        tags: Option<Vec<String>>,
    }
    let mut found = Vec::new();
    let mut next = Some(repository.url("tags/list?n=1000"));
    while let Some(url) = next.take() {
        let bad = |why: &str| RequestError::Answer { url: repository.url("tags/list"), why: why.to_owned() };
        let (bytes, headers) = repository.document(&url, &[]).await?;
        let page: Tags = serde_json::from_slice(&bytes).map_err(|_| bad("its answer is no list of tags"))?;
        let page = page.tags.unwrap_or_default();
        let more =
            headers.get(header::LINK).and_then(|value| next_page(value.to_str().ok()?)).map(|link| join(&url, link));
        // A page of nothing that names another page leads nowhere.
        next = more.filter(|more| !page.is_empty() && *more != url);
        found.extend(page);
        if found.len() > MAX_TAGS {
            return Err(bad("more tags than can be taken"));
        }
    }
    Ok(found)
}

/// `</v2/…?last=x>; rel="next"`
fn next_page(header: &str) -> Option<&str> {
    header.split(',').find_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        parameters.replace(['"', ' '], "").split(';').any(|each| each == "rel=next").then_some(target)
    })
}

/// One hit of a search, as Docker's API gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[derive(Default)]
pub struct SearchResult {
    /// The repository.
    pub name: String,
    /// What it says of itself.
    pub description: String,
    /// How many people like it.
    pub star_count: i64,
    /// Whether the registry's operator answers for it.
    pub is_official: bool,
    /// Whether it is built by the registry.
    pub is_automated: bool,
}

/// Searches Docker Hub, or the registry that the term begins with (`host:port/words`).
pub async fn search(
    client: &RegistryClient,
    term: &str,
    limit: u32,
    auth: Option<&RegistryAuth>,
) -> Result<Vec<SearchResult>, ImageError> {
    #[derive(Deserialize)]
    struct Results {
        results: Vec<SearchResult>,
    }
    let (host, words) = match term.split_once('/') {
        Some((host, words)) if host.contains(['.', ':']) || host == "localhost" => (host, words),
        _ => (DEFAULT_DOMAIN, term),
    };
    let name = ImageRef::parse(&format!("{host}/library/search"))?;
    let mut last: Option<RequestError> = None;
    for endpoint in endpoints(&name, &client.config, true) {
        let base = if host == DEFAULT_DOMAIN { "https://index.docker.io".to_owned() } else { endpoint.base };
        let repository = Repository::account(client, Endpoint { base, own: true }, &name, auth);
        let url = format!("{}/v1/search?q={}&n={limit}", repository.endpoint.base, escape(words));
        match repository.document(&url, &["application/json"]).await {
            Ok((bytes, _)) => {
                let found: Result<Results, _> = serde_json::from_slice(&bytes);
                return Ok(found.map_err(|_| without_search(host))?.results);
            }
            Err(error) if error.is_wrong_door() => last = last.or(Some(error)),
            Err(RequestError::Status { status: StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED, .. }) => {
                return Err(without_search(host));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(last.map_or_else(|| ImageError::Unreachable("no registry to ask".to_owned()), Into::into))
}

fn without_search(host: &str) -> ImageError {
    ImageError::NotFound(format!("in {host}: this registry offers no search; name the repository to pull it"))
}

/// Whether a registry has something under this path.
pub async fn exists(repository: &Repository, rest: &str) -> Result<bool, RequestError> {
    match repository.request(&Method::HEAD, &repository.url(rest), &Extra::default()).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_missing() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a registry has a manifest or an index.
pub async fn has_manifest(repository: &Repository, digest: &Digest) -> Result<bool, RequestError> {
    let headers = vec![(header::ACCEPT, ACCEPT.join(", "))];
    let url = repository.url(&format!("manifests/{digest}"));
    match repository.request(&Method::HEAD, &url, &Extra { headers, ..Extra::default() }).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_missing() => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_name_the_next_one() {
        assert_eq!(next_page(r#"</v2/x/tags/list?last=b&n=2>; rel="next""#), Some("/v2/x/tags/list?last=b&n=2"));
        assert_eq!(next_page(r#"</a>; rel="prev", </b>;rel=next"#), Some("/b"));
        assert_eq!(next_page("nothing"), None);
    }
}
