//! What concerns the whole engine.

use http::{HeaderValue, StatusCode};
use sampan_engine::Engine;
use sampan_engine::messages::Credentials;

use crate::request::Call;
use crate::response::{Answer, build, full, json, json_stream};
use crate::routes::containers::timestamp;

/// `GET` and `HEAD /_ping`. The builder version tells clients before `docker buildx` to use the classic build endpoint;
/// those that have the plugin use it whatever is said here.
pub fn ping() -> Answer {
    let mut response = build(StatusCode::OK, "text/plain; charset=utf-8", full("OK"))?;
    let headers = response.headers_mut();
    headers.insert("Builder-Version", HeaderValue::from_static("1"));
    headers.insert("Swarm", HeaderValue::from_static("inactive"));
    headers.insert("Cache-Control", HeaderValue::from_static("no-cache, no-store, must-revalidate"));
    headers.insert("Pragma", HeaderValue::from_static("no-cache"));
    Ok(response)
}

/// `GET /version`
pub async fn version(engine: &Engine) -> Answer {
    json(&engine.version().await?)
}

/// `GET /info`
pub async fn info(engine: &Engine) -> Answer {
    json(&engine.info().await?)
}

/// `GET /system/df`
pub async fn disk_usage(engine: &Engine) -> Answer {
    json(&engine.disk_usage().await?)
}

/// `POST /auth`
pub async fn auth(engine: &Engine, call: &mut Call) -> Answer {
    let credentials: Credentials = call.json().await?;
    json(&engine.auth(credentials).await?)
}

/// `GET /events`
pub async fn events(engine: &Engine, call: &Call) -> Answer {
    let since = timestamp(call, "since")?;
    let until = timestamp(call, "until")?;
    json_stream(engine.events_stream(since, until, call.query.filters()?).await?)
}
