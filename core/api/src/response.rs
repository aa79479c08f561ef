//! Answers: JSON, nothing, streams, and errors in Docker's form.

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::{Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use serde::Serialize;
use std::io;

use sampan_engine::{Error, ErrorKind};

/// Every answer's body.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;
/// A handler's answer.
pub type Answer = Result<Response<Body>, Error>;

/// A body that is at hand.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// 200 with JSON.
pub fn json<T: Serialize>(value: &T) -> Answer {
    json_status(StatusCode::OK, value)
}

/// JSON with a status, such as 201 for what was created.
pub fn json_status<T: Serialize>(status: StatusCode, value: &T) -> Answer {
    let mut body = serde_json::to_vec(value).map_err(|error| Error::internal(format!("write the answer: {error}")))?;
    body.push(b'\n');
    build(status, "application/json", full(body))
}

/// 204.
pub fn no_content() -> Answer {
    empty(StatusCode::NO_CONTENT)
}

/// A status alone.
pub fn empty(status: StatusCode) -> Answer {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = status;
    Ok(response)
}

/// Plain text.
pub fn text(body: &'static str) -> Answer {
    build(StatusCode::OK, "text/plain; charset=utf-8", full(body))
}

/// 200 with a body that is sent as it comes.
pub fn stream(content_type: &'static str, chunks: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Answer {
    build(StatusCode::OK, content_type, StreamBody::new(chunks.map(|chunk| chunk.map(Frame::data))).boxed_unsync())
}

/// 200 with one JSON document a line, sent as they come.
pub fn json_stream<T: Serialize>(items: impl Stream<Item = T> + Send + 'static) -> Answer {
    stream(
        "application/json",
        items.map(|item| {
            let mut line = serde_json::to_vec(&item).map_err(io::Error::other)?;
            line.extend_from_slice(b"\r\n");
            Ok(Bytes::from(line))
        }),
    )
}

/// An answer with a content type.
pub fn build(status: StatusCode, content_type: &'static str, body: Body) -> Answer {
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, content_type)
        .body(body)
        .map_err(|error| Error::internal(format!("write the answer: {error}")))
}

/// The status of a class of failures.
pub fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::Invalid | ErrorKind::CannotStart => StatusCode::BAD_REQUEST,
        ErrorKind::NotModified => StatusCode::NOT_MODIFIED,
        ErrorKind::Forbidden => StatusCode::FORBIDDEN,
        ErrorKind::Unauthorized => StatusCode::UNAUTHORIZED,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A failure as Docker writes it: `{"message": "…"}`.
pub fn failure(error: &Error) -> Response<Body> {
    let status = status(error.kind);
    let body = if status == StatusCode::NOT_MODIFIED {
        Bytes::new()
    } else {
        Bytes::from(serde_json::json!({ "message": error.message }).to_string())
    };
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}
