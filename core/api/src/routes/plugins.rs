//! `/plugins` as Docker lists them, and `/sampan/v1/plugins` for drivers as components.

use base64::Engine as _;
use http::StatusCode;
use sampan_engine::Engine;
use serde::Deserialize;

use crate::request::Call;
use crate::response::{Answer, json, json_status, no_content};

/// A component and its manifest may be this long together; interpreters compiled to Wasm take tens of megabytes.
const COMPONENT_LIMIT: usize = 128 << 20;

/// `GET /plugins`: Docker's managed plugins, of which there are none; drivers are listed under `/sampan/v1/plugins`.
pub async fn list_docker(_engine: &Engine) -> Answer {
    json(&Vec::<bollard_stubs::models::Plugin>::new())
}

/// `GET /sampan/v1/plugins`
pub async fn list(engine: &Engine) -> Answer {
    json(&engine.list_plugins().await?)
}

/// `GET /sampan/v1/plugins/{name}`
pub async fn inspect(engine: &Engine, name: &str) -> Answer {
    json(&engine.inspect_plugin(name).await?)
}

/// The body of an install or an upgrade.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Install {
    /// The component, base64.
    component: String,
    /// The manifest, as JSON.
    manifest: serde_json::Value,
    /// Whether the caller agrees to the capabilities that the manifest wants.
    #[serde(default)]
    grant: bool,
}

async fn read(call: &mut Call) -> sampan_engine::Result<(Vec<u8>, serde_json::Value, bool)> {
    let body = call.bytes(COMPONENT_LIMIT * 4 / 3 + (1 << 20)).await?;
    let install: Install = serde_json::from_slice(&body)
        .map_err(|error| sampan_engine::Error::invalid(format!("request body: {error}")))?;
    let component = base64::engine::general_purpose::STANDARD
        .decode(install.component)
        .map_err(|error| sampan_engine::Error::invalid(format!("request body, field component: {error}")))?;
    Ok((component, install.manifest, install.grant))
}

/// `POST /sampan/v1/plugins`
pub async fn install(engine: &Engine, call: &mut Call) -> Answer {
    let (component, manifest, grant) = read(call).await?;
    json_status(StatusCode::CREATED, &engine.install_plugin(component, manifest, grant).await?)
}

/// `POST /sampan/v1/plugins/{name}/upgrade`
pub async fn upgrade(engine: &Engine, name: &str, call: &mut Call) -> Answer {
    let (component, manifest, grant) = read(call).await?;
    json(&engine.upgrade_plugin(name, component, manifest, grant).await?)
}

/// `POST /sampan/v1/plugins/{name}/enable` and `/disable`
pub async fn enable(engine: &Engine, name: &str, on: bool) -> Answer {
    engine.enable_plugin(name, on).await?;
    no_content()
}

/// `DELETE /sampan/v1/plugins/{name}`
pub async fn remove(engine: &Engine, name: &str, call: &Call) -> Answer {
    engine.remove_plugin(name, call.query.flag("force")).await?;
    no_content()
}
