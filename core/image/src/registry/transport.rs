//! Connections to registries: TCP, TLS over it, and what a request may cost.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::client::RegistryConfig;
use super::nearness::Nearness;
use super::proxy::{Proxies, Proxy, is_loopback};

const CONNECT: Duration = Duration::from_secs(20);

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

/// What the host trusts (`SSL_CERT_FILE` first), else what browsers trust.
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

/// What the administrator gave for one registry: authorities (`*.crt`), and certificates to show (`NAME.cert` with
/// `NAME.key`).
#[derive(Default)]
struct HostCertificates {
    authorities: Vec<CertificateDer<'static>>,
    client: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl HostCertificates {
    /// Reads the folders of one registry. What cannot be read is an error: a certificate that is silently left out
    /// looks like a registry that refuses.
    fn read(folders: &[PathBuf], host: &str) -> io::Result<Self> {
        let mut found = Self::default();
        for folder in folders.iter().map(|folder| folder.join(host)) {
            let mut paths: Vec<PathBuf> =
                std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
            paths.sort();
            for path in paths {
                match path.extension().and_then(std::ffi::OsStr::to_str) {
                    Some("crt") => found.authorities.extend(certificates(&path)?),
                    Some("cert") => {
                        let key = path.with_extension("key");
                        if !key.exists() {
                            return Err(named(&path, "has no key beside it: a .key file of the same name is missing"));
                        }
                        let private = PrivateKeyDer::from_pem_file(&key).map_err(|error| named(&key, error))?;
                        found.client = Some((certificates(&path)?, private));
                    }
                    Some("key") if !path.with_extension("cert").exists() => {
                        return Err(named(
                            &path,
                            "has no certificate beside it: a .cert file of the same name is missing",
                        ));
                    }
                    _ => {}
                }
            }
        }
        Ok(found)
    }
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|error| named(path, error))?;
    if found.is_empty() { Err(named(path, "holds no certificate")) } else { Ok(found) }
}

fn named(path: &Path, why: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", path.display()))
}

/// Takes any certificate, for registries that the administrator calls insecure.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Makes connections.
#[derive(Clone)]
pub struct Connector {
    roots: Arc<RootCertStore>,
    config: Arc<RegistryConfig>,
    /// Nothing nearer is connected to, whatever its name.
    limit: Nearness,
}

/// How near the peer of a connection is; in the extensions of its answers. What a proxy reaches is not known.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub Nearness);

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
pub struct Pooled {
    stream: TokioIo<Stream>,
    /// Whether requests go to a proxy, which wants whole addresses in them.
    proxied: bool,
    peer: Option<Peer>,
}

impl Connection for Pooled {
    fn connected(&self) -> Connected {
        let connected = Connected::new().proxy(self.proxied);
        match self.peer {
            Some(peer) => connected.extra(peer),
            None => connected,
        }
    }
}

impl hyper::rt::Read for Pooled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl hyper::rt::Write for Pooled {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
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
                Ok(connected) => connected,
                Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no connection within 20 seconds")),
            }
        })
    }
}

impl Connector {
    async fn connect(&self, uri: &Uri) -> io::Result<Pooled> {
        let missing = || io::Error::new(io::ErrorKind::InvalidInput, "an address without a host");
        let host = uri.host().ok_or_else(missing)?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let proxy = self.config.proxies.proxy(uri)?;
        let proxied = proxy.is_some() && !secure;
        let stream = match &proxy {
            Some(proxy) if secure => tunnel(proxy, host, port).await?,
            Some(proxy) => proxy.connect().await?,
            None => self.direct(bare, port).await?,
        };
        if proxy.is_some() && Nearness::of_text(bare).is_some_and(|near| near > self.limit) {
            return Err(too_near(bare, Nearness::of_text(bare)));
        }
        let peer = match &proxy {
            Some(_) => None,
            None => Some(Peer(Nearness::of(stream.peer_addr()?.ip()))),
        };
        stream.set_nodelay(true)?;
        let stream = if secure {
            let authority = uri.authority().map_or(host, |authority| authority.as_str());
            let config = self.tls(authority, bare)?;
            let name = ServerName::try_from(bare.to_owned()).map_err(io::Error::other)?;
            let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
            Stream::Tls(Box::new(connected.map_err(|error| explained(error, authority))?))
        } else {
            Stream::Plain(stream)
        };
        Ok(Pooled { stream: TokioIo::new(stream), proxied, peer })
    }

    /// A connection to one of the addresses that a name has now; the same are judged and used.
    async fn direct(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let found: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
        let (near, far): (Vec<SocketAddr>, Vec<SocketAddr>) =
            found.into_iter().partition(|address| Nearness::of(address.ip()) > self.limit);
        match near.first() {
            Some(address) if far.is_empty() => {
                let shown =
                    if host.parse::<IpAddr>().is_ok() { host.to_owned() } else { format!("{host} ({})", address.ip()) };
                Err(too_near(&shown, Some(Nearness::of(address.ip()))))
            }
            _ => TcpStream::connect(far.as_slice()).await,
        }
    }

    /// How one host is spoken to over TLS.
    fn tls(&self, authority: &str, host: &str) -> io::Result<ClientConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let given = HostCertificates::read(&self.config.certificates, authority)?;
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        // Who names an authority for a registry wants it checked, wherever it is.
        let builder = if given.authorities.is_empty() && (is_loopback(host) || self.config.is_insecure(authority)) {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider.clone())))
        } else {
            let mut roots = (*self.roots).clone();
            roots.add_parsable_certificates(given.authorities);
            builder.with_root_certificates(roots)
        };
        match given.client {
            Some((chain, key)) => {
                let key = provider.key_provider.load_private_key(key).map_err(io::Error::other)?;
                // Whether the two fit is the registry's to judge: certificates of version 1, which many tools still
                // make, would not even be looked at here.
                let certified = rustls::sign::CertifiedKey::new(chain, key);
                Ok(builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified))))
            }
            None => Ok(builder.with_no_client_auth()),
        }
    }
}

/// A failure to agree on TLS, with what can be done.
fn explained(error: io::Error, authority: &str) -> io::Error {
    use rustls::{CertificateError, Error};
    let hint = match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            format!("to trust its authority, put that one's certificate into /etc/sampan/certs.d/{authority}/ca.crt")
        }
        Some(Error::InvalidMessage(_)) => {
            format!("if it speaks HTTP without TLS, name {authority} among insecure-registries in daemon.json")
        }
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{error}: {hint}"))
}

/// What is not connected to.
fn too_near(host: &str, nearness: Option<Nearness>) -> io::Error {
    let what = nearness.unwrap_or(Nearness::Machine).shown();
    io::Error::new(io::ErrorKind::PermissionDenied, format!("{host} is {what}, which the registry is not"))
}

/// Asks a proxy for a connection to the registry.
async fn tunnel(proxy: &Proxy, host: &str, port: u16) -> io::Result<TcpStream> {
    let bad = |why: String| io::Error::other(format!("proxy {}: {why}", proxy.host));
    let mut stream = proxy.connect().await?;
    let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n");
    if let Some(credentials) = &proxy.credentials {
        request.push_str(&format!("Proxy-Authorization: {credentials}\r\n"));
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
    /// How long a registry may be silent.
    patience: Duration,
    config: Arc<RegistryConfig>,
    connector: Connector,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error("{}", chain(.0))]
    Client(ClientError),
    #[error("no answer within {} seconds", .0.as_secs())]
    Silent(Duration),
    /// The address is nearer than may be.
    #[error("{0}")]
    TooNear(String),
}

impl SendError {
    fn of(error: ClientError) -> Self {
        let mut next: Option<&dyn std::error::Error> = std::error::Error::source(&error);
        while let Some(cause) = next {
            if let Some(io) = cause.downcast_ref::<io::Error>()
                && io.kind() == io::ErrorKind::PermissionDenied
            {
                return Self::TooNear(io.to_string());
            }
            next = cause.source();
        }
        Self::Client(error)
    }
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
    pub fn new(config: &Arc<RegistryConfig>) -> Self {
        Self::by(Connector { roots: Arc::new(roots()), config: config.clone(), limit: Nearness::Machine })
    }

    fn by(connector: Connector) -> Self {
        let client =
            Client::builder(TokioExecutor::new()).pool_idle_timeout(Duration::from_secs(15)).build(connector.clone());
        Self { client, patience: connector.config.patience, config: Arc::clone(&connector.config), connector }
    }

    /// One that connects to nothing nearer, with connections of its own.
    pub fn within(&self, limit: Nearness) -> Self {
        Self::by(Connector { limit, ..self.connector.clone() })
    }

    /// Sends one request; redirects and refusals are answers.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, SendError> {
        let request = for_proxy(request, &self.config.proxies);
        match tokio::time::timeout(self.patience, self.client.request(request)).await {
            Ok(answer) => answer.map_err(SendError::of),
            Err(_) => Err(SendError::Silent(self.patience)),
        }
    }

    /// The same for uploads, which take longer than an answer: `sent` counts the bytes that were taken, and while it
    /// grows there is no hurry.
    pub async fn upload(&self, request: Request<Body>, sent: &AtomicU64) -> Result<Response<Incoming>, SendError> {
        let sending = self.client.request(for_proxy(request, &self.config.proxies));
        tokio::pin!(sending);
        let mut before = 0;
        loop {
            tokio::select! {
                answer = &mut sending => return answer.map_err(SendError::of),
                () = tokio::time::sleep(self.patience) => {
                    let now = sent.load(Ordering::Relaxed);
                    if now == before {
                        return Err(SendError::Silent(self.patience));
                    }
                    before = now;
                }
            }
        }
    }
}

/// A proxy that passes requests on without TLS is shown its credentials with each.
fn for_proxy(mut request: Request<Body>, proxies: &Proxies) -> Request<Body> {
    if request.uri().scheme_str() == Some("http")
        && let Ok(Some(proxy)) = proxies.proxy(request.uri())
        && let Some(Ok(mut value)) = proxy.credentials.as_deref().map(HeaderValue::from_str)
    {
        value.set_sensitive(true);
        request.headers_mut().insert(header::PROXY_AUTHORIZATION, value);
    }
    request
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn names_are_judged_by_what_they_resolve_to() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let near = Transport::new(&Arc::new(RegistryConfig::default()));
        for limit in [Nearness::Anywhere, Nearness::Network] {
            let far = near.within(limit);
            for host in ["localhost", "127.0.0.1", "[::ffff:127.0.0.1]"] {
                let request = Request::get(format!("http://{host}:{port}/")).body(full(Vec::new())).unwrap();
                let error = far.send(request).await.unwrap_err();
                assert!(matches!(&error, SendError::TooNear(why) if why.contains("this machine")), "{host}: {error}");
            }
        }
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "somebody connected");
    }

    #[test]
    fn half_a_client_certificate_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let host = folder.path().join("r.example:5000");
        std::fs::create_dir(&host).unwrap();
        let read = || HostCertificates::read(&[folder.path().to_owned()], "r.example:5000");
        assert!(read().unwrap().client.is_none());
        std::fs::write(host.join("client.key"), "").unwrap();
        assert!(read().err().unwrap().to_string().contains("client.key: has no certificate"));
        std::fs::remove_file(host.join("client.key")).unwrap();
        std::fs::write(host.join("client.cert"), "").unwrap();
        assert!(read().err().unwrap().to_string().contains("client.cert: has no key"));
        std::fs::remove_file(host.join("client.cert")).unwrap();
        std::fs::write(host.join("ca.crt"), "no certificate").unwrap();
        assert!(read().err().unwrap().to_string().contains("ca.crt"));
        assert!(HostCertificates::read(&[folder.path().to_owned()], "other").unwrap().authorities.is_empty());
    }
}
