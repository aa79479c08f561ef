//! Connections to registries: TCP, TLS over it, and what a request may cost.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const CONNECT: Duration = Duration::from_secs(20);
/// From the request to the head of its answer.
const ANSWER: Duration = Duration::from_secs(60);

/// A request's body.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A body that is at hand.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Where the host keeps the certificates that it trusts.
const CERTIFICATES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What the host trusts (`SSL_CERT_FILE` first), else what browsers trust; and beside it what the administrator gave
/// for single registries (`/etc/docker/certs.d/HOST/*.crt`).
fn roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let named = std::env::var("SSL_CERT_FILE").ok();
    for path in named.as_deref().into_iter().chain(CERTIFICATES.iter().copied()) {
        if let Ok(found) = CertificateDer::pem_file_iter(path) {
            roots.add_parsable_certificates(found.flatten());
        }
        if !roots.is_empty() {
            break;
        }
    }
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

/// The administrator's certificates for one registry.
fn add_certificates_of(host: &str, roots: &mut RootCertStore) {
    let entries = std::fs::read_dir(format!("/etc/docker/certs.d/{host}"));
    for entry in entries.into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "crt")
            && let Ok(found) = CertificateDer::pem_file_iter(entry.path())
        {
            roots.add_parsable_certificates(found.flatten());
        }
    }
}

/// Makes connections.
#[derive(Clone)]
pub struct Connector {
    roots: Arc<RootCertStore>,
}

/// A connection of either kind.
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// For hyper's pool.
pub struct Pooled(TokioIo<Stream>);

impl Connection for Pooled {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for Pooled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl hyper::rt::Write for Pooled {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = Pooled;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Pooled>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            match tokio::time::timeout(CONNECT, connector.connect(&uri)).await {
                Ok(stream) => Ok(Pooled(TokioIo::new(stream?))),
                Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no connection within 20 seconds")),
            }
        })
    }
}

impl Connector {
    async fn connect(&self, uri: &Uri) -> io::Result<Stream> {
        let missing = || io::Error::new(io::ErrorKind::InvalidInput, "an address without a host");
        let host = uri.host().ok_or_else(missing)?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = match proxy(secure, bare) {
            Some(proxy) if secure => tunnel(&proxy, host, port).await?,
            _ => TcpStream::connect((bare, port)).await?,
        };
        stream.set_nodelay(true)?;
        if !secure {
            return Ok(Stream::Plain(stream));
        }
        let mut roots = (*self.roots).clone();
        add_certificates_of(uri.authority().map_or(host, |authority| authority.as_str()), &mut roots);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(bare.to_owned()).map_err(io::Error::other)?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        Ok(Stream::Tls(Box::new(stream)))
    }
}

/// The proxy that the environment asks for, as `host:port` and perhaps credentials.
fn proxy(secure: bool, host: &str) -> Option<Uri> {
    let read = |name: &str| {
        let lower = std::env::var(name.to_lowercase());
        lower.or_else(|_| std::env::var(name)).ok().filter(|text| !text.is_empty())
    };
    let exempt = read("NO_PROXY").unwrap_or_default();
    let covers = |rule: &str| {
        let rule = rule.trim();
        rule == "*"
            || rule == host
            || (!rule.is_empty()
                && host.strip_suffix(rule.trim_start_matches('.')).is_some_and(|rest| rest.ends_with('.')))
    };
    if host == "localhost"
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        || exempt.split(',').any(covers)
    {
        return None;
    }
    let text = read(if secure { "HTTPS_PROXY" } else { "HTTP_PROXY" })?;
    let text = if text.contains("://") { text } else { format!("http://{text}") };
    text.parse().ok()
}

/// Asks a proxy for a connection to the registry.
async fn tunnel(proxy: &Uri, host: &str, port: u16) -> io::Result<TcpStream> {
    use base64::Engine as _;
    let bad = |why: String| io::Error::other(format!("proxy {}: {why}", proxy.host().unwrap_or_default()));
    let address = proxy.host().ok_or_else(|| bad("no host in its address".to_owned()))?;
    let mut stream = TcpStream::connect((address, proxy.port_u16().unwrap_or(3128))).await?;
    let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n");
    if let Some((user, _)) = proxy.authority().and_then(|authority| authority.as_str().rsplit_once('@')) {
        let encoded = base64::engine::general_purpose::STANDARD.encode(user);
        request.push_str(&format!("Proxy-Authorization: Basic {encoded}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > 8192 {
            return Err(bad("its answer is too long".to_owned()));
        }
        head.push(stream.read_u8().await?);
    }
    let line = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
    if line.split(' ').nth(1) == Some("200") { Ok(stream) } else { Err(bad(format!("it answers {line:?}"))) }
}

/// Sends requests.
#[derive(Clone)]
pub struct Transport {
    client: Client<Connector, Body>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error("{}", chain(.0))]
    Client(#[from] ClientError),
    #[error("no answer within {} seconds", ANSWER.as_secs())]
    Silent,
}

/// An error with its causes: hyper's own text says only "client error".
fn chain(error: &ClientError) -> String {
    let mut text = String::new();
    let mut next: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(cause) = next {
        text = cause.to_string();
        next = cause.source();
    }
    if text.is_empty() { error.to_string() } else { text }
}

impl Transport {
    pub fn new() -> Self {
        let connector = Connector { roots: Arc::new(roots()) };
        let client = Client::builder(TokioExecutor::new()).pool_idle_timeout(Duration::from_secs(15)).build(connector);
        Self { client }
    }

    /// Sends one request; redirects and refusals are answers.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, SendError> {
        match tokio::time::timeout(ANSWER, self.client.request(request)).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(SendError::Silent),
        }
    }

    /// The same for uploads, which may take longer than an answer.
    pub async fn upload(&self, request: Request<Body>) -> Result<Response<Incoming>, SendError> {
        Ok(self.client.request(request).await?)
    }
}
