//! One request, taken apart: version, path, query, body.

use bytes::Bytes;
use http::{HeaderMap, Method};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use std::borrow::Cow;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::TryStreamExt;
use sampan_engine::{Error, Filters, Result};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// A JSON body may be this long. Docker's own largest (a service with its configs) stay well below.
pub const JSON_LIMIT: usize = 4 << 20;

/// The decoded query string. A name may occur several times.
#[derive(Debug, Default, Clone)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes `a=b&c=d`, with `+` as a space.
    pub fn parse(text: &str) -> Self {
        let decode = |part: &str| percent_decode(&part.replace('+', " ")).into_owned();
        Self(
            text.split('&')
                .filter(|part| !part.is_empty())
                .map(|part| {
                    let (name, value) = part.split_once('=').unwrap_or((part, ""));
                    (decode(name), decode(value))
                })
                .collect(),
        )
    }

    /// The first value of that name, unless it is empty: clients that send several mean that one, as with Docker.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str()).filter(|v| !v.is_empty())
    }

    /// All values of that name.
    pub fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(found, _)| found == name).map(|(_, value)| value.clone()).collect()
    }

    /// Docker's truth: everything but the empty string, `0`, `no`, `false` and `none`.
    pub fn flag(&self, name: &str) -> bool {
        self.flag_or(name, false)
    }

    /// As [`Query::flag`], with what counts when it is not given.
    pub fn flag_or(&self, name: &str, absent: bool) -> bool {
        match self.0.iter().rev().find(|(found, _)| found == name) {
            None => absent,
            Some((_, value)) => {
                !matches!(value.trim().to_ascii_lowercase().as_str(), "" | "0" | "no" | "false" | "none")
            }
        }
    }

    /// A number, or a refusal that names the parameter.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>> {
        self.get(name)
            .map(|text| {
                text.parse().map_err(|_| Error::invalid(format!("parameter {name}: {text:?} is not a number in range")))
            })
            .transpose()
    }

    /// A JSON document in a parameter, such as `buildargs`.
    pub fn json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        self.get(name)
            .map(|text| {
                serde_json::from_str(text).map_err(|error| Error::invalid(format!("parameter {name}: {error}")))
            })
            .transpose()
    }

    /// The `filters` parameter.
    pub fn filters(&self) -> Result<Filters> {
        Filters::parse(self.get("filters").unwrap_or_default())
    }

    /// A required parameter.
    pub fn required(&self, name: &str) -> Result<&str> {
        self.get(name).ok_or_else(|| Error::invalid(format!("parameter {name} is missing")))
    }
}

/// `%41` → `A`; what is not a valid escape stays as it is.
pub fn percent_decode(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes
            .get(at + 1..at + 3)
            .filter(|_| bytes[at] == b'%')
            .and_then(|pair| std::str::from_utf8(pair).ok())
            .and_then(|pair| u8::from_str_radix(pair, 16).ok());
        match hex {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&decoded).into_owned())
}

/// A request on its way to a handler.
#[derive(Debug)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// Segments of the path behind the version, decoded.
    pub path: Vec<String>,
    /// The query.
    pub query: Query,
    /// The headers.
    pub headers: HeaderMap,
    /// The API version that the client asked for, the newest when it named none.
    pub version: (u32, u32),
    /// The body; taken by whoever reads it.
    body: Option<Incoming>,
    /// What becomes the raw connection, when the client asked for an upgrade.
    upgrade: Option<hyper::upgrade::OnUpgrade>,
}

/// An uploaded byte stream.
pub type Upload = Pin<Box<dyn AsyncRead + Send>>;

impl Call {
    /// Takes a request apart; a version outside of what is spoken is refused with Docker's words.
    pub fn new(mut request: http::Request<Incoming>) -> Result<Self> {
        let wants_upgrade = request.headers().contains_key(http::header::UPGRADE);
        let upgrade = wants_upgrade.then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let mut path: Vec<String> = parts
            .uri
            .path()
            .split('/')
            .filter(|segment| !segment.is_empty())
            .map(|segment| percent_decode(segment).into_owned())
            .collect();
        let mut version = (1, 51);
        if let Some(asked) = path.first().and_then(|first| parse_version(first)) {
            path.remove(0);
            check_version(asked)?;
            version = asked;
        }
        Ok(Self {
            method: parts.method,
            path,
            query: Query::parse(parts.uri.query().unwrap_or_default()),
            headers: parts.headers,
            version,
            body: Some(body),
            upgrade,
        })
    }

    /// Whether the client asked to take the connection over.
    pub fn take_upgrade(&mut self) -> Option<hyper::upgrade::OnUpgrade> {
        self.upgrade.take()
    }

    /// Reads the whole body, at most `limit` bytes.
    pub async fn bytes(&mut self, limit: usize) -> Result<Bytes> {
        let Some(body) = self.body.take() else { return Ok(Bytes::new()) };
        match Limited::new(body, limit).collect().await {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => {
                Err(Error::invalid(format!("the request body is longer than {limit} bytes")))
            }
            Err(error) => Err(Error::invalid(format!("the request body ended early: {error}"))),
        }
    }

    /// Reads a JSON body; an error names the field.
    pub async fn json<T: DeserializeOwned>(&mut self) -> Result<T> {
        let body = self.bytes(JSON_LIMIT).await?;
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err(Error::invalid("the request needs a JSON body, and it is empty"));
        }
        decode(&body)
    }

    /// As [`Call::json`], with the default for an absent body.
    pub async fn json_or_default<T: DeserializeOwned + Default>(&mut self) -> Result<T> {
        let body = self.bytes(JSON_LIMIT).await?;
        if body.iter().all(u8::is_ascii_whitespace) || &*body == b"null" {
            return Ok(T::default());
        }
        decode(&body)
    }

    /// The body as a stream, for archives.
    pub fn upload(&mut self) -> Upload {
        match self.body.take() {
            None => Box::pin(tokio::io::empty()),
            Some(body) => {
                let stream = body.into_data_stream().map_err(io::Error::other);
                Box::pin(Uploaded { rest: Some(Box::pin(tokio_util::io::StreamReader::new(stream))) })
            }
        }
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// A body that is read on for a while when nobody wants the rest of it: who is still sending it hears the answer then,
/// and not that the connection broke.
struct Uploaded {
    /// None once it was read to its end.
    rest: Option<Upload>,
}

/// Of what nobody wants so much is read, for so long.
const UNWANTED: (u64, Duration) = (64 << 20, Duration::from_secs(10));

impl AsyncRead for Uploaded {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some(rest) = &mut this.rest else { return Poll::Ready(Ok(())) };
        let (before, room) = (buffer.filled().len(), buffer.remaining());
        let polled = rest.as_mut().poll_read(cx, buffer);
        let ended = matches!(polled, Poll::Ready(Ok(()))) && buffer.filled().len() == before && room > 0;
        if ended || matches!(polled, Poll::Ready(Err(_))) {
            this.rest = None;
        }
        polled
    }
}

impl Drop for Uploaded {
    fn drop(&mut self) {
        let (most, time) = UNWANTED;
        if let (Some(rest), Ok(runtime)) = (self.rest.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move {
                let mut rest = rest.take(most);
                drop(tokio::time::timeout(time, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await);
            });
        }
    }
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let cause = error.into_inner();
        if path == "." {
            Error::invalid(format!("request body: {cause}"))
        } else {
            Error::invalid(format!("request body, field {path}: {cause}"))
        }
    })?;
    reader.end().map_err(|error| Error::invalid(format!("request body: {error}")))?;
    Ok(value)
}

fn parse_version(segment: &str) -> Option<(u32, u32)> {
    let (major, minor) = segment.strip_prefix('v')?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn check_version((major, minor): (u32, u32)) -> Result<()> {
    if (major, minor) > (1, 51) {
        return Err(Error::invalid(format!(
            "client version {major}.{minor} is too new. Maximum supported API version is {}",
            crate::API_VERSION
        )));
    }
    if (major, minor) < (1, 24) {
        return Err(Error::invalid(format!(
            "client version {major}.{minor} is too old. Minimum supported API version is {}, please upgrade your client to a newer version",
            crate::MIN_API_VERSION
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn queries_decode_and_know_dockers_truth() {
        let query = Query::parse("name=a%20b+c&all=1&size=false&t=x&t=y&empty=");
        assert_eq!(query.get("name"), Some("a b c"));
        assert!(query.flag("all") && !query.flag("size") && !query.flag("absent") && query.flag_or("absent", true));
        assert_eq!(query.all("t"), ["x", "y"]);
        assert_eq!(query.get("empty"), None);
        assert_eq!(query.number::<i64>("all").unwrap(), Some(1));
        assert!(query.number::<i64>("name").unwrap_err().message.contains("parameter name"));
    }

    #[test]
    fn wrong_types_name_the_field() {
        let error = decode::<bollard_stubs::models::ContainerCreateBody>(br#"{"HostConfig":{"Memory":"much"}}"#);
        let text = error.unwrap_err().message;
        assert!(text.contains("HostConfig.Memory"), "{text}");
        decode::<bollard_stubs::models::ContainerCreateBody>(br#"{"Unknown":1,"Cmd":null}"#).unwrap();
    }

    #[test]
    fn versions_outside_of_the_range_are_refused() {
        assert_eq!(parse_version("v1.43"), Some((1, 43)));
        assert_eq!(parse_version("volumes"), None);
        assert!(check_version((1, 99)).unwrap_err().message.contains("too new"));
        assert!(check_version((1, 12)).unwrap_err().message.contains("too old"));
        check_version((1, 24)).unwrap();
    }

    proptest! {
        #[test]
        fn decoding_never_fails_and_leaves_plain_text_alone(text in "[ -~]{0,60}") {
            let decoded = percent_decode(&text);
            if !text.contains('%') { prop_assert_eq!(decoded.as_ref(), text.as_str()); }
        }
    }
}
