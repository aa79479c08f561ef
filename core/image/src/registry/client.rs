//! The distribution API of one repository: requests with authorisation, redirects, and second tries.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;

use super::RegistryClient;
use super::auth::{Challenge, RegistryAuth, escape};
use super::nearness::Nearness;
use super::proxy::{Proxies, in_network, is_loopback};
use super::transport::{Body, Peer, SendError, Transport, full};
use crate::error::ImageError;
use crate::manifest::MAX_DOCUMENT;
use crate::reference::{DEFAULT_DOMAIN, ImageRef};

const TRIES: u32 = 5;
const REDIRECTS: usize = 5;
const MAX_WAIT: Duration = Duration::from_secs(60);

/// How registries are reached.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// Registries that may be spoken to without TLS or with certificates that nobody vouches for, as `host[:port]` or
    /// as a network such as `10.0.0.0/8`; those on loopback always may.
    pub insecure: Vec<String>,
    /// Mirrors of Docker Hub, tried first: `https://host[:port]`.
    pub mirrors: Vec<String>,
    /// Folders with `HOST/*.crt`, `HOST/*.cert` and `HOST/*.key`.
    pub certificates: Vec<PathBuf>,
    /// Proxies; what is left out the environment says.
    pub proxies: Proxies,
    /// How long a registry may be silent before the connection counts as broken.
    pub patience: Duration,
    /// The first pause before something is tried again; it doubles.
    pub pause: Duration,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            insecure: Vec::new(),
            mirrors: Vec::new(),
            certificates: ["/etc/docker/certs.d", "/etc/sampan/certs.d"].map(PathBuf::from).to_vec(),
            proxies: Proxies::default(),
            patience: Duration::from_secs(60),
            pause: Duration::from_millis(250),
        }
    }
}

impl RegistryConfig {
    /// What is wrong with it, if anything.
    pub fn check(&self) -> Result<(), String> {
        for mirror in &self.mirrors {
            let uri: Option<Uri> = mirror.parse().ok();
            let fits = uri.as_ref().is_some_and(|uri| {
                matches!(uri.scheme_str(), Some("http" | "https"))
                    && uri.host().is_some_and(|host| !host.is_empty())
                    && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
                    && uri.query().is_none()
                    && !mirror.contains('#')
            });
            if !fits {
                return Err(format!("registry-mirrors: {mirror:?} is not of the form https://host[:port]"));
            }
        }
        self.proxies.check()?;
        for host in &self.insecure {
            if host.is_empty() || host.contains("://") {
                return Err(format!("insecure-registries: {host:?} is not of the form host[:port] or address/bits"));
            }
        }
        Ok(())
    }

    /// Whether a registry may be spoken to in the clear.
    pub fn is_insecure(&self, domain: &str) -> bool {
        let host = host_of(domain);
        self.insecure.iter().any(|rule| rule == domain || in_network(rule, host))
    }
}

/// A place where a repository can be had.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `https://host:port`.
    pub base: String,
    /// Whether credentials for the registry are for it, too.
    pub own: bool,
}

/// The endpoints of an image's registry in the order in which they are tried.
pub fn endpoints(name: &ImageRef, config: &RegistryConfig, push: bool) -> Vec<Endpoint> {
    let domain = name.domain();
    let mut found = Vec::new();
    if domain == DEFAULT_DOMAIN {
        if !push {
            let mirrors = config.mirrors.iter().map(|mirror| mirror.trim_end_matches('/').to_owned());
            found.extend(mirrors.map(|base| Endpoint { base, own: false }));
        }
        found.push(Endpoint { base: "https://registry-1.docker.io".to_owned(), own: true });
        return found;
    }
    found.push(Endpoint { base: format!("https://{domain}"), own: true });
    let local = is_loopback(host_of(domain));
    if local || config.is_insecure(domain) {
        let plain = Endpoint { base: format!("http://{domain}"), own: true };
        // On loopback TLS is the exception.
        if local { found.insert(0, plain) } else { found.push(plain) }
    }
    found
}

/// A registry's name without its port.
fn host_of(domain: &str) -> &str {
    match domain.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => domain.split(':').next().unwrap_or_default(),
    }
}

/// One repository at one endpoint.
pub struct Repository {
    transport: Transport,
    pub endpoint: Endpoint,
    path: String,
    actions: &'static str,
    auth: Option<RegistryAuth>,
    /// Other repositories of the registry that are read, too.
    sources: Vec<String>,
    /// See [`RegistryConfig`].
    pause: Duration,
    pub patience: Duration,
    /// The `Authorization` header that was accepted last.
    token: Mutex<Option<HeaderValue>>,
    /// What a token service gave to come again with, instead of a password.
    pub identity: Mutex<Option<String>>,
    /// How near the registry has been at the farthest.
    nearness: Mutex<Option<Nearness>>,
}

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// There was no answer at all.
    #[error("{url}: {source}")]
    Unreachable {
        /// What was asked.
        url: String,
        #[source]
        source: SendError,
    },
    /// The registry refuses.
    #[error("{url}: {status}{detail}")]
    Status {
        /// What was asked.
        url: String,
        status: StatusCode,
        /// What it says, after `: `.
        detail: String,
    },
    /// The answer broke off, or stalled.
    #[error("{url}: {source}")]
    Broken {
        /// What was asked.
        url: String,
        #[source]
        source: io::Error,
    },
    /// An answer that cannot be used.
    #[error("{url}: {why}")]
    Answer {
        /// What was asked.
        url: String,
        why: String,
    },
}

impl RequestError {
    /// Whether another endpoint of the same registry may be the right one: nobody answers here, or somebody who speaks
    /// TLS was spoken to without.
    pub fn is_wrong_door(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken { .. } => true,
            Self::Status { url, status, .. } => url.starts_with("http://") && *status == StatusCode::BAD_REQUEST,
            Self::Answer { .. } => false,
        }
    }

    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Status { status: StatusCode::NOT_FOUND, .. })
    }

    /// Whether the same request may succeed later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken { .. } => true,
            Self::Status { status, .. } => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
            Self::Answer { .. } => false,
        }
    }
}

impl From<RequestError> for ImageError {
    fn from(error: RequestError) -> Self {
        match &error {
            RequestError::Unreachable { .. } | RequestError::Broken { .. } => Self::Unreachable(error.to_string()),
            RequestError::Status { status: StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, .. } => {
                Self::Unauthorized(error.to_string())
            }
            RequestError::Status { status: StatusCode::NOT_FOUND, .. } => Self::NotFound(error.to_string()),
            _ => Self::Registry(error.to_string()),
        }
    }
}

/// What is sent with a request; a body that can be sent again.
#[derive(Debug, Clone, Default)]
pub struct Extra {
    pub headers: Vec<(header::HeaderName, String)>,
    pub body: Bytes,
}

impl Repository {
    pub fn new(
        client: &RegistryClient,
        endpoint: Endpoint,
        name: &ImageRef,
        actions: &'static str,
        auth: Option<&RegistryAuth>,
    ) -> Self {
        let auth = auth.filter(|_| endpoint.own).cloned();
        let token =
            auth.as_ref().filter(|auth| !auth.registry_token.is_empty()).and_then(|auth| bearer(&auth.registry_token));
        Self {
            transport: client.transport.clone(),
            endpoint,
            path: name.path().to_owned(),
            actions,
            auth,
            sources: Vec::new(),
            pause: client.config.pause,
            patience: client.config.patience,
            token: Mutex::new(token),
            identity: Mutex::new(None),
            nearness: Mutex::new(None),
        }
    }

    /// For what the registry's documents name elsewhere: nobody is told who asks, and nothing is reached that is nearer
    /// than the registry itself has been.
    pub fn elsewhere(&self) -> Self {
        let limit = self.nearness.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(Nearness::Anywhere);
        Self {
            transport: self.transport.within(limit),
            endpoint: Endpoint { base: self.endpoint.base.clone(), own: false },
            path: self.path.clone(),
            actions: self.actions,
            auth: None,
            sources: Vec::new(),
            pause: self.pause,
            patience: self.patience,
            token: Mutex::new(None),
            identity: Mutex::new(None),
            nearness: Mutex::new(None),
        }
    }

    /// Asks for the right to read other repositories, too.
    pub fn reading(mut self, sources: Vec<String>) -> Self {
        self.sources = sources;
        self
    }

    /// Waits before the next try, longer each time.
    pub async fn wait(&self, failures: u32) {
        tokio::time::sleep((self.pause * 2_u32.saturating_pow(failures.min(10))).min(MAX_WAIT)).await;
    }

    /// No repository, but the account at the registry: its tokens are for no scope.
    pub fn account(client: &RegistryClient, endpoint: Endpoint, name: &ImageRef, auth: Option<&RegistryAuth>) -> Self {
        Self::new(client, endpoint, name, "", auth)
    }

    /// An address below this repository.
    pub fn url(&self, rest: &str) -> String {
        format!("{}/v2/{}/{rest}", self.endpoint.base, self.path)
    }

    /// Sends a request, with second tries for what passes, authorisation when asked for, and redirects followed.
    pub async fn request(&self, method: &Method, url: &str, extra: &Extra) -> Result<Response<Incoming>, RequestError> {
        let mut wait = self.pause;
        for attempt in 1.. {
            let error = match self.authorised(method, url, extra).await {
                Ok(response) => return Ok(response),
                Err((error, asked_to_wait)) => {
                    // Behind a mirror that is not there stands the next one.
                    let elsewhere = !self.endpoint.own && matches!(error, RequestError::Unreachable { .. });
                    if attempt >= TRIES || elsewhere || !error.is_passing() {
                        return Err(error);
                    }
                    wait = asked_to_wait.unwrap_or(wait).min(MAX_WAIT);
                    error
                }
            };
            tracing::debug!(%error, attempt, "ask the registry again");
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
        Err(RequestError::Answer { url: url.to_owned(), why: "no tries left".to_owned() })
    }

    async fn authorised(
        &self,
        method: &Method,
        url: &str,
        extra: &Extra,
    ) -> Result<Response<Incoming>, (RequestError, Option<Duration>)> {
        let now = |error| (error, None);
        let (response, from) = self.redirected(method, url, extra).await.map_err(now)?;
        // Who is redirected to may not ask for what the registry is shown.
        if response.status() != StatusCode::UNAUTHORIZED || !same_host(&from, &self.endpoint.base) {
            return self.accept(&from, response).await;
        }
        let challenges: Vec<_> = response
            .headers()
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| Challenge::parse(value.to_str().ok()?))
            .collect();
        let Some(token) = self.answer(&challenges).await.map_err(now)? else { return self.accept(url, response).await };
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token);
        let (response, from) = self.redirected(method, url, extra).await.map_err(now)?;
        self.accept(&from, response).await
    }

    /// The answer, and who gave it in the end.
    async fn redirected(
        &self,
        method: &Method,
        url: &str,
        extra: &Extra,
    ) -> Result<(Response<Incoming>, String), RequestError> {
        let mut url = url.to_owned();
        let bad = |url: &str, why: &str| RequestError::Answer { url: shown(url), why: why.to_owned() };
        for _ in 0..=REDIRECTS {
            let response = self.once(method, &url, extra).await?;
            let moved = response.status().is_redirection() && response.status() != StatusCode::NOT_MODIFIED;
            if !moved {
                return Ok((response, url));
            }
            let target = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            let target = join(&url, target.ok_or_else(|| bad(&url, "a redirect to nowhere"))?);
            if url.starts_with("https:") && !target.starts_with("https:") {
                return Err(bad(&url, "a redirect that leaves TLS"));
            }
            url = target;
        }
        Err(bad(&url, "too many redirects"))
    }

    /// One request. The registry's token goes to the registry alone, not where it redirects to.
    async fn once(&self, method: &Method, url: &str, extra: &Extra) -> Result<Response<Incoming>, RequestError> {
        let mut request = self.prepare(method, url, extra, full(extra.body.clone()))?;
        if !same_host(url, &self.endpoint.base) {
            request.headers_mut().remove(header::AUTHORIZATION);
        }
        let response = match self.transport.send(request).await {
            Ok(response) => response,
            Err(SendError::TooNear(why)) => return Err(RequestError::Answer { url: shown(url), why }),
            Err(source) => return Err(RequestError::Unreachable { url: shown(url), source }),
        };
        if same_host(url, &self.endpoint.base) {
            let peer = response.extensions().get::<Peer>().map_or(Nearness::Anywhere, |peer| peer.0);
            let mut nearness = self.nearness.lock().unwrap_or_else(PoisonError::into_inner);
            *nearness = Some(nearness.map_or(peer, |known| known.min(peer)));
        }
        Ok(response)
    }

    fn prepare(&self, method: &Method, url: &str, extra: &Extra, body: Body) -> Result<Request<Body>, RequestError> {
        let bad = |why: String| RequestError::Answer { url: shown(url), why };
        let uri: Uri = url.parse().map_err(|_| bad("not an address".to_owned()))?;
        let mut request = Request::new(body);
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("sampan/", env!("CARGO_PKG_VERSION"))));
        for (name, value) in &extra.headers {
            headers.append(
                name,
                HeaderValue::from_str(value).map_err(|_| bad(format!("a header {name} that cannot be sent")))?,
            );
        }
        if let Some(token) = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            headers.insert(header::AUTHORIZATION, token);
        }
        Ok(request)
    }

    /// Sends a body that can be sent once only, with the token that is at hand.
    pub async fn upload(
        &self,
        method: &Method,
        url: &str,
        extra: &Extra,
        body: Body,
        sent: &AtomicU64,
    ) -> Result<Response<Incoming>, RequestError> {
        let mut request = self.prepare(method, url, extra, body)?;
        if !same_host(url, &self.endpoint.base) {
            request.headers_mut().remove(header::AUTHORIZATION);
        }
        let sent = self.transport.upload(request, sent).await;
        let response = sent.map_err(|source| RequestError::Unreachable { url: shown(url), source })?;
        self.accept(url, response).await.map_err(|(error, _)| error)
    }

    /// What to send after a challenge; `None` if there is nothing (more) to show.
    async fn answer(&self, challenges: &[Challenge]) -> Result<Option<HeaderValue>, RequestError> {
        if let Some(challenge) = challenges.iter().find(|challenge| challenge.scheme == "bearer") {
            return match self.fetch_token(challenge, &self.sources).await {
                // What may be read here may not be told, and what was there may be gone.
                Err(error @ RequestError::Status { .. }) if !self.sources.is_empty() => {
                    tracing::debug!(%error, "no token that reads other repositories, too");
                    self.fetch_token(challenge, &[]).await.map(Some)
                }
                token => token.map(Some),
            };
        }
        let basic = challenges.iter().any(|challenge| challenge.scheme == "basic");
        let header = self.auth.as_ref().filter(|_| basic).and_then(RegistryAuth::basic);
        Ok(header.and_then(|text| secret(&text)))
    }

    /// Asks the token service, for the right to read `sources`, too.
    async fn fetch_token(&self, challenge: &Challenge, sources: &[String]) -> Result<HeaderValue, RequestError> {
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
            refresh_token: Option<String>,
        }
        let realm = challenge.get("realm").unwrap_or_default();
        let bad = |why: &str| RequestError::Answer { url: shown(realm), why: why.to_owned() };
        if !(realm.starts_with("https://") || realm.starts_with("http://") && self.endpoint.base.starts_with("http://"))
        {
            return Err(bad("the registry names no token service that can be trusted"));
        }
        let own = || format!("repository:{}:{}", self.path, self.actions);
        let scope = match challenge.get("scope") {
            Some(scope) => Some(scope.to_owned()),
            None => (!self.actions.is_empty()).then(own),
        };
        let sources = sources.iter().map(|source| format!("repository:{source}:pull"));
        let scope: String =
            scope.into_iter().chain(sources).map(|scope| format!("&scope={}", escape(&scope))).collect();
        let service = challenge.get("service").unwrap_or_default();
        let mut extra = Extra::default();
        let refresh = self.auth.as_ref().map(|auth| auth.identity_token.clone()).filter(|token| !token.is_empty());
        let (method, url) = if let Some(refresh) = refresh {
            let form = format!(
                "grant_type=refresh_token&service={}{scope}&client_id=sampan&refresh_token={}",
                escape(service),
                escape(&refresh)
            );
            extra.body = form.into();
            extra.headers.push((header::CONTENT_TYPE, "application/x-www-form-urlencoded".to_owned()));
            (Method::POST, realm.to_owned())
        } else {
            let separator = if realm.contains('?') { '&' } else { '?' };
            // Whoever asks for no repository logs in, and may come again.
            let user = self.auth.as_ref().filter(|auth| self.actions.is_empty() && !auth.username.is_empty());
            let offline = user.map_or_else(String::new, |auth| {
                format!("&account={}&client_id=sampan&offline_token=true", escape(&auth.username))
            });
            (Method::GET, format!("{realm}{separator}service={}{scope}{offline}", escape(service)))
        };
        let mut request = self.prepare(&method, &url, &extra, full(extra.body.clone()))?;
        request.headers_mut().remove(header::AUTHORIZATION);
        if let Some(basic) = self.auth.as_ref().filter(|_| method == Method::GET).and_then(RegistryAuth::basic)
            && let Some(basic) = secret(&basic)
        {
            request.headers_mut().insert(header::AUTHORIZATION, basic);
        }
        let sent = self.transport.send(request).await;
        let response = sent.map_err(|source| RequestError::Unreachable { url: shown(realm), source })?;
        let response = self.accept(realm, response).await.map_err(|(error, _)| error)?;
        let body = self.bounded(realm, response.into_body(), 1 << 20).await?;
        let token: Token = serde_json::from_slice(&body).map_err(|_| bad("its answer is no token"))?;
        if let Some(refresh) = token.refresh_token.filter(|text| !text.is_empty()) {
            *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = Some(refresh);
        }
        let token = token.token.or(token.access_token).ok_or_else(|| bad("its answer holds no token"))?;
        bearer(&token).ok_or_else(|| bad("its token cannot be sent"))
    }

    /// A document with the type by which it was announced.
    pub async fn document(&self, url: &str, accept: &[&str]) -> Result<(Bytes, HeaderMap), RequestError> {
        let headers: Vec<_> = accept.iter().map(|kind| (header::ACCEPT, (*kind).to_owned())).collect();
        let mut failures = 0;
        loop {
            let response =
                self.request(&Method::GET, url, &Extra { headers: headers.clone(), ..Extra::default() }).await?;
            let (parts, body) = response.into_parts();
            match self.bounded(url, body, MAX_DOCUMENT).await {
                Ok(body) => return Ok((body, parts.headers)),
                Err(error) if error.is_passing() && failures < TRIES => {
                    tracing::debug!(%error, "fetch the document again");
                    self.wait(failures).await;
                    failures += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// A success as it is; a refusal with what the registry says.
    async fn accept(
        &self,
        url: &str,
        response: Response<Incoming>,
    ) -> Result<Response<Incoming>, (RequestError, Option<Duration>)> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let wait = response.headers().get(header::RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?));
        let body = self.bounded(url, response.into_body(), 64 << 10).await.unwrap_or_default();
        Err((RequestError::Status { url: shown(url), status, detail: refusal(&body) }, wait))
    }

    /// A whole body, refused when it is longer than `limit` or stalls.
    async fn bounded(&self, url: &str, mut body: Incoming, limit: u64) -> Result<Bytes, RequestError> {
        let mut bytes = Vec::new();
        let broken = |source| RequestError::Broken { url: shown(url), source };
        while let Some(piece) = next_piece(&mut body, self.patience).await.map_err(broken)? {
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 > limit {
                let why = format!("the answer is longer than {limit} bytes");
                return Err(RequestError::Answer { url: shown(url), why });
            }
        }
        Ok(bytes.into())
    }
}

/// Seconds, or the time by the calendar at which to come back.
fn retry_after(text: &str) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let then = httpdate::parse_http_date(text).ok()?;
    Some(then.duration_since(SystemTime::now()).unwrap_or_default())
}

fn bearer(token: &str) -> Option<HeaderValue> {
    secret(&format!("Bearer {token}"))
}

fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// An address without its query, which may hold signatures.
fn shown(url: &str) -> String {
    url.split('?').next().unwrap_or_default().to_owned()
}

fn same_host(a: &str, b: &str) -> bool {
    let part = |url: &str| {
        let uri: Uri = url.parse().ok()?;
        Some((uri.scheme_str()?.to_owned(), uri.authority()?.as_str().to_ascii_lowercase()))
    };
    part(a).is_some_and(|a| Some(a) == part(b))
}

/// A redirect's or an upload's location, which may be relative.
pub fn join(base: &str, location: &str) -> String {
    if location.contains("://") {
        return location.to_owned();
    }
    let scheme_end = base.find("://").map_or(0, |at| at + 3);
    let host_end = base[scheme_end..].find('/').map_or(base.len(), |at| scheme_end + at);
    if location.starts_with("//") {
        return format!("{}{location}", &base[..scheme_end.saturating_sub(2)]);
    }
    if location.starts_with('/') {
        return format!("{}{location}", &base[..host_end]);
    }
    let folder = base.rfind('/').filter(|at| *at >= host_end).map_or(base.len(), |at| at);
    format!("{}/{location}", &base[..folder])
}

fn refusal(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Errors {
        errors: Option<Vec<Message>>,
        details: Option<String>,
        message: Option<String>,
    }
    #[derive(Deserialize)]
    struct Message {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(errors) = serde_json::from_slice::<Errors>(body) else { return String::new() };
    let listed =
        errors.errors.unwrap_or_default().into_iter().map(|error| {
            if error.message.is_empty() { error.code } else { format!("{} ({})", error.message, error.code) }
        });
    let mut texts: Vec<String> = listed.chain(errors.details).chain(errors.message).collect();
    texts.retain(|text| !text.is_empty());
    // What a registry says is shown on a terminal.
    let text: String = texts.join("; ").chars().filter(|each| !each.is_control()).take(500).collect();
    if text.is_empty() { text } else { format!(": {text}") }
}

/// The next piece of a body; `None` at its end.
pub async fn next_piece(body: &mut Incoming, patience: Duration) -> io::Result<Option<Bytes>> {
    loop {
        let frame = match tokio::time::timeout(patience, body.frame()).await {
            Err(_) => {
                let why = format!("the body stalled for {} seconds", patience.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
            Ok(None) => return Ok(None),
            Ok(Some(frame)) => frame.map_err(io::Error::other)?,
        };
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn locations_are_joined_as_in_a_browser() {
        let base = "https://r.io:5/v2/a/blobs/uploads/";
        assert_eq!(join(base, "https://cdn/x"), "https://cdn/x");
        assert_eq!(join(base, "/v2/x?y=1"), "https://r.io:5/v2/x?y=1");
        assert_eq!(join(base, "uuid"), "https://r.io:5/v2/a/blobs/uploads/uuid");
        assert_eq!(join(base, "//h/x"), "https://h/x");
        assert_eq!(join("http://h", "x"), "http://h/x");
    }

    #[test]
    fn endpoints_follow_name_and_configuration() {
        let config = RegistryConfig {
            insecure: vec!["plain:5000".into(), "10.0.0.0/8".into()],
            mirrors: vec!["https://mirror/".into()],
            ..RegistryConfig::default()
        };
        let bases = |name: &str, push| -> Vec<String> {
            endpoints(&ImageRef::parse(name).unwrap(), &config, push)
                .into_iter()
                .map(|endpoint| endpoint.base)
                .collect()
        };
        assert_eq!(bases("alpine", false), ["https://mirror", "https://registry-1.docker.io"]);
        assert_eq!(bases("alpine", true), ["https://registry-1.docker.io"]);
        assert_eq!(bases("ghcr.io/a/b", false), ["https://ghcr.io"]);
        assert_eq!(bases("plain:5000/x", false), ["https://plain:5000", "http://plain:5000"]);
        assert_eq!(bases("10.1.2.3:5000/x", true), ["https://10.1.2.3:5000", "http://10.1.2.3:5000"]);
        assert_eq!(bases("localhost:5000/x", false), ["http://localhost:5000", "https://localhost:5000"]);
        assert_eq!(bases("[::1]:5000/x", false)[0], "http://[::1]:5000");
        assert!(same_host("https://A/x", "https://a") && !same_host("https://a.b/x", "https://a"));
    }
    #[test]
    fn settings_are_checked_and_waits_are_read() {
        let mirror = |text: &str| RegistryConfig { mirrors: vec![text.into()], ..RegistryConfig::default() }.check();
        assert_eq!(mirror("https://mirror:5000/"), Ok(()));
        for wrong in ["mirror", "ftp://mirror", "https://u:p@mirror", "https://mirror?x=1", "https://"] {
            assert!(mirror(wrong).unwrap_err().contains("registry-mirrors"), "{wrong}");
        }
        let insecure = RegistryConfig { insecure: vec!["http://r".into()], ..RegistryConfig::default() };
        assert!(insecure.check().unwrap_err().contains("insecure-registries"));
        assert_eq!(retry_after("7"), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert!(retry_after("Wed, 21 Oct 2099 07:28:00 GMT").unwrap() > Duration::from_secs(1 << 20));
        assert_eq!(retry_after("soon"), None);
    }
}
