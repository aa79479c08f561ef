//! `/volumes`.

use bollard_stubs::models::VolumeCreateRequest;
use http::StatusCode;
use sampan_engine::Engine;

use crate::request::Call;
use crate::response::{Answer, json, json_status, no_content};

/// `GET /volumes`
pub async fn list(engine: &Engine, call: &Call) -> Answer {
    json(&engine.list_volumes(call.query.filters()?).await?)
}

/// `POST /volumes/create`
pub async fn create(engine: &Engine, call: &mut Call) -> Answer {
    let request: VolumeCreateRequest = call.json_or_default().await?;
    json_status(StatusCode::CREATED, &engine.create_volume(request).await?)
}

/// `GET /volumes/{name}`
pub async fn inspect(engine: &Engine, name: &str) -> Answer {
    json(&engine.inspect_volume(name).await?)
}

/// `DELETE /volumes/{name}`
pub async fn remove(engine: &Engine, name: &str, call: &Call) -> Answer {
    engine.remove_volume(name, call.query.flag("force")).await?;
    no_content()
}

/// `POST /volumes/prune`
pub async fn prune(engine: &Engine, call: &Call) -> Answer {
    let mut filters = call.query.filters()?;
    // Until version 1.42, named volumes were pruned too.
    if call.version < (1, 42) && !filters.has("all") {
        filters.add("all", "true");
    }
    json(&engine.prune_volumes(filters).await?)
}
