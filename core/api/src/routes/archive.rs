//! `/containers/{id}/archive` and `/export`: files in and out of containers.

use base64::Engine as _;
use futures_util::stream;
use http::{HeaderValue, StatusCode};
use sampan_engine::{Engine, Error, Result};

use crate::request::Call;
use crate::response::{Answer, empty, stream as stream_body};

const STAT: &str = "X-Docker-Container-Path-Stat";

/// `GET /containers/{id}/export`
pub async fn export(engine: &Engine, id: &str) -> Answer {
    let chunks = engine.export(id).await?;
    stream_body("application/x-tar", receiver(chunks))
}

/// A receiver as a stream.
pub fn receiver<T: Send + 'static>(
    receiver: tokio::sync::mpsc::Receiver<T>,
) -> impl futures_util::Stream<Item = T> + Send {
    stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|item| (item, receiver)) })
}

fn stat_header(stat: &impl serde::Serialize) -> Result<HeaderValue> {
    let json = serde_json::to_vec(stat).map_err(|error| Error::internal(format!("write the answer: {error}")))?;
    HeaderValue::from_str(&base64::engine::general_purpose::STANDARD.encode(json))
        .map_err(|error| Error::internal(format!("write the answer: {error}")))
}

/// `GET /containers/{id}/archive`
pub async fn get(engine: &Engine, id: &str, call: &Call) -> Answer {
    let (stat, chunks) = engine.archive_get(id, call.query.required("path")?).await?;
    let mut response = stream_body("application/x-tar", receiver(chunks))?;
    response.headers_mut().insert(STAT, stat_header(&stat)?);
    Ok(response)
}

/// `HEAD /containers/{id}/archive`
pub async fn head(engine: &Engine, id: &str, call: &Call) -> Answer {
    let stat = engine.archive_head(id, call.query.required("path")?).await?;
    let mut response = empty(StatusCode::OK)?;
    response.headers_mut().insert(STAT, stat_header(&stat)?);
    Ok(response)
}

/// `PUT /containers/{id}/archive`
pub async fn put(engine: &Engine, id: &str, call: &mut Call) -> Answer {
    let path = call.query.required("path")?.to_owned();
    let keep_kinds = call.query.flag("noOverwriteDirNonDir");
    let copy_ids = call.query.flag("copyUIDGID");
    let upload = call.upload();
    engine.archive_put(id, &path, upload, keep_kinds, copy_ids).await?;
    empty(StatusCode::OK)
}
