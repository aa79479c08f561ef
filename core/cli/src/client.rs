//! The command line's side of the API: requests over the daemon's socket, streams, and hijacked connections.

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use crate::autostart;
use crate::failure::{Failure, Outcome};

/// The API version that the client speaks.
pub const API_VERSION: &str = "1.51";

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Where the daemon listens.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    autostart: bool,
    /// The version in the paths of requests, such as `1.51`.
    version: String,
    /// Connections that may be free for another request.
    idle: Arc<Mutex<Vec<SendRequest<Body>>>>,
}

/// A connection taken over from HTTP.
pub type Raw = TokioIo<hyper::upgrade::Upgraded>;

impl Client {
    /// A client of a `unix://` address; other kinds are refused with what to do instead.
    pub fn new(host: &str, autostart: bool) -> Outcome<Self> {
        // For daemons that speak an older one.
        let version = std::env::var("DOCKER_API_VERSION").ok().filter(|version| !version.is_empty());
        let version = version.unwrap_or_else(|| API_VERSION.to_owned());
        let path = host.strip_prefix("unix://").or_else(|| host.starts_with('/').then_some(host));
        match path {
            Some(path) if !path.is_empty() => {
                Ok(Self { socket: PathBuf::from(path), autostart, version, idle: Arc::default() })
            }
            _ => Err(Failure::usage(format!(
                "cannot use host {host:?}: only unix:///path/to/socket addresses are supported (see --host, SAMPAN_HOST, DOCKER_HOST)"
            ))),
        }
    }

    /// The same without its open connections, for use in another runtime.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self { idle: Arc::default(), ..self.clone() }
    }

    /// The socket's path.
    pub fn socket(&self) -> &std::path::Path {
        &self.socket
    }

    async fn connect(&self) -> Outcome<UnixStream> {
        match UnixStream::connect(&self.socket).await {
            Ok(stream) => Ok(stream),
            Err(error) if autostart::may_help(&error) && self.autostart => {
                autostart::start(&self.socket).await?;
                UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(&error))
            }
            Err(error) => Err(self.unreachable(&error)),
        }
    }

    fn unreachable(&self, error: &io::Error) -> Failure {
        let hint = if error.kind() == io::ErrorKind::PermissionDenied {
            "; run as root, or join the group that owns the socket"
        } else {
            "; is the daemon running? (`sampan daemon`)"
        };
        Failure::new(format!("Cannot connect to the Sampan daemon at unix://{}: {error}{hint}", self.socket.display()))
    }

    /// A connection whose last answer was read to its end, or a new one.
    async fn sender(&self) -> Outcome<SendRequest<Body>> {
        if let Some(sender) = self.free() {
            return Ok(sender);
        }
        let stream = self.connect().await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Failure::new(format!("talk to the daemon: {error}")))?;
        tokio::spawn(async move {
            let _ = connection.with_upgrades().await;
        });
        Ok(sender)
    }

    fn free(&self) -> Option<SendRequest<Body>> {
        let mut idle = self.idle.lock().ok()?;
        idle.retain(|sender| !sender.is_closed());
        let at = idle.iter().position(SendRequest::is_ready)?;
        Some(idle.swap_remove(at))
    }

    /// Sends a request and returns the answer's head with its body unread.
    pub async fn send(&self, request: Request<Body>) -> Outcome<Response<Incoming>> {
        if self.idle.lock().is_ok_and(|idle| !idle.is_empty()) {
            // Lets a connection notice that its last answer ended.
            tokio::task::yield_now().await;
        }
        let mut sender = self.sender().await?;
        let response = match sender.try_send_request(request).await {
            Ok(response) => response,
            Err(mut error) => match error.take_message() {
                // An idle connection may end while the request is on its way to it: nothing was sent, so it goes to another.
                Some(request) => {
                    if let Ok(mut idle) = self.idle.lock() {
                        idle.clear();
                    }
                    sender = self.sender().await?;
                    sender.send_request(request).await.map_err(|error| ended(&error))?
                }
                None => return Err(ended(error.error())),
            },
        };
        if let Ok(mut idle) = self.idle.lock() {
            idle.push(sender);
        }
        Ok(response)
    }

    fn request(&self, method: Method, path: &str, body: Body, content_type: &'static str) -> Outcome<Request<Body>> {
        let uri = if path.starts_with("/sampan/") { path.to_owned() } else { format!("/v{}{path}", self.version) };
        Request::builder()
            .method(method)
            .uri(uri)
            .header(header::HOST, "sampan")
            .header(header::USER_AGENT, concat!("sampan/", env!("CARGO_PKG_VERSION")))
            .header(header::CONTENT_TYPE, content_type)
            .body(body)
            .map_err(|error| Failure::new(format!("request {path}: {error}")))
    }

    async fn checked(&self, request: Request<Body>) -> Outcome<Response<Incoming>> {
        let response = self.send(request).await?;
        let status = response.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS || status == StatusCode::NOT_MODIFIED {
            return Ok(response);
        }
        let body = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let message = serde_json::from_slice::<Value>(&body)
            .ok()
            .and_then(|body| body.get("message").and_then(Value::as_str).map(str::to_owned))
            .unwrap_or_else(|| String::from_utf8_lossy(&body).trim().to_owned());
        Err(Failure::daemon(status.as_u16(), message))
    }

    /// A request with an optional JSON body; the answer's body is unread.
    pub async fn call(&self, method: Method, path: &str, body: Option<&impl Serialize>) -> Outcome<Response<Incoming>> {
        let bytes = match body {
            Some(body) => serde_json::to_vec(body).map_err(|error| Failure::new(format!("request {path}: {error}")))?,
            None => Vec::new(),
        };
        self.checked(self.request(method, path, full(bytes), "application/json")?).await
    }

    /// `GET` of a JSON document.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Outcome<T> {
        let response = self.call(Method::GET, path, None::<&()>).await?;
        decode(path, response).await
    }

    /// `GET` of a JSON document, with extra headers.
    pub async fn get_with_headers<T: DeserializeOwned>(
        &self,
        path: &str,
        headers: &[(&'static str, String)],
    ) -> Outcome<T> {
        let mut request = self.request(Method::GET, path, full(Vec::new()), "application/json")?;
        add(&mut request, headers)?;
        decode(path, self.checked(request).await?).await
    }

    /// `POST` with a JSON body and a JSON answer.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Outcome<T> {
        let response = self.call(Method::POST, path, Some(body)).await?;
        decode(path, response).await
    }

    /// `POST` without a body, whose answer does not matter.
    pub async fn act(&self, path: &str) -> Outcome<()> {
        let response = self.call(Method::POST, path, None::<&()>).await?;
        // Read to its end, so that the connection serves the next request.
        let _ = response.into_body().collect().await;
        Ok(())
    }

    /// `POST` with a body, whose answer does not matter.
    pub async fn act_with(&self, path: &str, body: &impl Serialize) -> Outcome<()> {
        let response = self.call(Method::POST, path, Some(body)).await?;
        let _ = response.into_body().collect().await;
        Ok(())
    }

    /// `DELETE`; the answer as JSON, null when there is none.
    pub async fn delete(&self, path: &str) -> Outcome<Value> {
        let response = self.call(Method::DELETE, path, None::<&()>).await?;
        let body = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        Ok(serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// A request with a streamed body (a tar) and extra headers.
    pub async fn upload(
        &self,
        method: Method,
        path: &str,
        chunks: mpsc::Receiver<io::Result<Bytes>>,
        headers: &[(&'static str, String)],
    ) -> Outcome<Response<Incoming>> {
        self.upload_as(method, path, "application/x-tar", chunks, headers).await
    }

    /// The same, of another kind.
    pub async fn upload_as(
        &self,
        method: Method,
        path: &str,
        content_type: &'static str,
        chunks: mpsc::Receiver<io::Result<Bytes>>,
        headers: &[(&'static str, String)],
    ) -> Outcome<Response<Incoming>> {
        let stream = futures_util::stream::unfold(chunks, |mut chunks| async move {
            chunks.recv().await.map(|chunk| (chunk.map(Frame::data), chunks))
        });
        let mut request = self.request(method, path, StreamBody::new(stream).boxed_unsync(), content_type)?;
        add(&mut request, headers)?;
        self.checked(request).await
    }

    /// `POST` without a body, with extra headers.
    pub async fn post_with_headers(
        &self,
        path: &str,
        headers: &[(&'static str, String)],
    ) -> Outcome<Response<Incoming>> {
        let mut request = self.request(Method::POST, path, full(Vec::new()), "application/json")?;
        add(&mut request, headers)?;
        self.checked(request).await
    }

    /// `PUT` with a document and extra headers; the answer as JSON.
    pub async fn put_with_headers<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        headers: &[(&'static str, String)],
    ) -> Outcome<T> {
        let body = serde_json::to_vec(body).map_err(|error| Failure::new(format!("write the request: {error}")))?;
        let mut request = self.request(Method::PUT, path, full(body), "application/json")?;
        add(&mut request, headers)?;
        decode(path, self.checked(request).await?).await
    }

    /// Takes the connection over (attach, exec): what follows are the raw streams.
    pub async fn hijack(&self, path: &str, body: Option<&impl Serialize>) -> Outcome<Option<Raw>> {
        let bytes = match body {
            Some(body) => serde_json::to_vec(body).map_err(|error| Failure::new(format!("request {path}: {error}")))?,
            None => Vec::new(),
        };
        let mut request = self.request(Method::POST, path, full(bytes), "application/json")?;
        request.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
        request.headers_mut().insert(header::UPGRADE, header::HeaderValue::from_static("tcp"));
        let response = self.checked(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(None);
        }
        let upgraded = hyper::upgrade::on(response)
            .await
            .map_err(|error| Failure::new(format!("take the connection over: {error}")))?;
        Ok(Some(TokioIo::new(upgraded)))
    }
}

fn add(request: &mut Request<Body>, headers: &[(&'static str, String)]) -> Outcome {
    for (name, value) in headers {
        let value =
            header::HeaderValue::from_str(value).map_err(|_| Failure::new(format!("header {name}: not text")))?;
        request.headers_mut().insert(*name, value);
    }
    Ok(())
}

fn ended(error: &hyper::Error) -> Failure {
    Failure::new(format!("the daemon ended the connection: {error}"))
}

fn full(bytes: Vec<u8>) -> Body {
    Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync()
}

async fn decode<T: DeserializeOwned>(path: &str, response: Response<Incoming>) -> Outcome<T> {
    let body = response
        .into_body()
        .collect()
        .await
        .map_err(|error| Failure::new(format!("read the answer to {path}: {error}")))?
        .to_bytes();
    serde_json::from_slice(&body).map_err(|error| Failure::new(format!("read the answer to {path}: {error}")))
}

/// The chunks of a body as they come.
pub async fn next_chunk(body: &mut Incoming) -> Option<io::Result<Bytes>> {
    loop {
        match body.frame().await? {
            Ok(frame) => {
                if let Ok(data) = frame.into_data() {
                    return Some(Ok(data));
                }
            }
            Err(error) => return Some(Err(io::Error::other(error))),
        }
    }
}

/// A body of JSON documents, one a line, as they come.
#[derive(Debug)]
pub struct JsonLines {
    body: Incoming,
    buffer: BytesMut,
}

impl JsonLines {
    /// Over an answer's body.
    pub fn new(response: Response<Incoming>) -> Self {
        Self { body: response.into_body(), buffer: BytesMut::new() }
    }

    /// The next document; `None` at the end of the stream.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Outcome<Option<T>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return serde_json::from_slice(&line)
                    .map(Some)
                    .map_err(|error| Failure::new(format!("read the daemon's stream: {error}")));
            }
            match next_chunk(&mut self.body).await {
                Some(Ok(chunk)) => self.buffer.extend_from_slice(&chunk),
                Some(Err(error)) => return Err(Failure::new(format!("the daemon's stream broke off: {error}"))),
                None if self.buffer.iter().all(u8::is_ascii_whitespace) => return Ok(None),
                None => {
                    let rest = self.buffer.split();
                    return serde_json::from_slice(&rest)
                        .map(Some)
                        .map_err(|error| Failure::new(format!("the daemon's stream broke off: {error}")));
                }
            }
        }
    }
}

/// A query string, built up.
#[derive(Debug, Default, Clone)]
pub struct Query(String);

impl Query {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a parameter.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.0.push(if self.0.is_empty() { '?' } else { '&' });
        let _ = write!(self.0, "{name}={}", escape(value.as_ref()));
        self
    }

    /// Adds a parameter if there is a value.
    #[must_use]
    pub fn maybe(self, name: &str, value: Option<impl AsRef<str>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// Adds `name=1` if it holds.
    #[must_use]
    pub fn flag(self, name: &str, on: bool) -> Self {
        if on { self.with(name, "1") } else { self }
    }

    /// Adds the `filters` of `--filter` options.
    pub fn filters(self, filters: &[String]) -> Outcome<Self> {
        if filters.is_empty() {
            return Ok(self);
        }
        let mut map = std::collections::BTreeMap::<&str, Vec<&str>>::new();
        for filter in filters {
            let Some((name, value)) = filter.split_once('=') else {
                return Err(Failure::usage(format!(
                    "invalid argument \"{filter}\" for \"-f, --filter\" flag: bad format of filter (expected name=value)"
                )));
            };
            map.entry(name).or_default().push(value);
        }
        let json = serde_json::to_string(&map).map_err(|error| Failure::new(error.to_string()))?;
        Ok(self.with("filters", json))
    }
}

impl std::fmt::Display for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Percent-encodes everything but unreserved characters (RFC 3986).
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => escaped.push(char::from(byte)),
            _ => {
                let _ = write!(escaped, "%{byte:02X}");
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn queries_escape_what_they_carry() {
        let query = Query::new().with("name", "a b/ü&c").flag("all", true).flag("size", false).maybe("x", None::<&str>);
        assert_eq!(query.to_string(), "?name=a%20b%2F%C3%BC%26c&all=1");
    }

    #[test]
    fn other_hosts_are_refused_by_name() {
        let error = Client::new("tcp://127.0.0.1:2375", false).unwrap_err();
        assert!(error.message.contains("tcp://127.0.0.1:2375"));
        assert!(Client::new("unix:///run/x.sock", false).is_ok());
    }
}
