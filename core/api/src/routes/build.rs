//! `POST /build`, the classic build endpoint.

use base64::Engine as _;
use sampan_engine::build::{BuildContext, BuildRequest};
use sampan_engine::{Engine, Error, Result};
use std::collections::HashMap;

use sampan_engine::messages::Credentials;

use crate::request::Call;
use crate::response::{Answer, json, json_stream};
use crate::routes::archive::receiver;

/// `POST /build`: the body is the context as a tar, compressed or not.
pub async fn build(engine: &Engine, call: &mut Call) -> Answer {
    let query = &call.query;
    if query.get("version") == Some("2") {
        return Err(Error::unsupported(
            "BuildKit's protocol is not spoken here; use `sampan build`, or set DOCKER_BUILDKIT=0 for the classic one",
        ));
    }
    if let Some(remote) = query.get("remote") {
        return Err(Error::unsupported(format!("remote build context {remote}: send the context with the request")));
    }
    let request = BuildRequest {
        context: BuildContext::Tar(Box::pin(tokio::io::empty())),
        dockerfile: query.get("dockerfile").map(str::to_owned),
        tags: query.all("t").into_iter().filter(|tag| !tag.is_empty()).collect(),
        build_args: query.json::<HashMap<String, Option<String>>>("buildargs")?.unwrap_or_default(),
        labels: query.json::<HashMap<String, String>>("labels")?.unwrap_or_default(),
        target: query.get("target").map(str::to_owned),
        platform: query.get("platform").map(str::to_owned),
        network: query.get("networkmode").map(str::to_owned),
        extra_hosts: query
            .get("extrahosts")
            .map(|text| text.split(',').map(str::to_owned).collect())
            .unwrap_or_default(),
        shm_size: query.number("shmsize")?,
        memory: query.number("memory")?,
        memory_swap: query.number("memswap")?,
        no_cache: query.flag("nocache"),
        pull: query.flag("pull"),
        quiet: query.flag("q"),
        registry_auth: registry_config(call)?,
        ..BuildRequest::default()
    };
    let request = BuildRequest { context: BuildContext::Tar(call.upload()), ..request };
    json_stream(receiver(engine.build_image(request).await?))
}

/// The `X-Registry-Config` header: base64 of a map from registry to credentials.
fn registry_config(call: &Call) -> Result<HashMap<String, Credentials>> {
    let Some(text) = call.header("x-registry-config").filter(|text| !text.is_empty()) else {
        return Ok(HashMap::new());
    };
    let wrong = || Error::invalid("header X-Registry-Config: not base64 of a JSON document");
    let json = base64::engine::general_purpose::URL_SAFE
        .decode(text)
        .or_else(|_| base64::engine::general_purpose::STANDARD.decode(text))
        .map_err(|_| wrong())?;
    let found: Option<HashMap<String, Credentials>> = serde_json::from_slice(&json).map_err(|_| wrong())?;
    Ok(found.unwrap_or_default())
}

/// `POST /build/prune`
pub async fn prune(engine: &Engine, call: &Call) -> Answer {
    json(&engine.prune_build(call.query.flag("all"), call.query.filters()?).await?)
}
