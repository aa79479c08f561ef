//! `/networks`.

use bollard_stubs::models::{NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest};
use http::StatusCode;
use sampan_engine::Engine;

use crate::request::Call;
use crate::response::{Answer, empty, json, json_status, no_content};

/// `GET /networks`
pub async fn list(engine: &Engine, call: &Call) -> Answer {
    json(&engine.list_networks(call.query.filters()?).await?)
}

/// `POST /networks/create`
pub async fn create(engine: &Engine, call: &mut Call) -> Answer {
    let request: NetworkCreateRequest = call.json().await?;
    json_status(StatusCode::CREATED, &engine.create_network(request).await?)
}

/// `GET /networks/{id}`
pub async fn inspect(engine: &Engine, id: &str, call: &Call) -> Answer {
    json(&engine.inspect_network(id, call.query.flag("verbose")).await?)
}

/// `DELETE /networks/{id}`
pub async fn remove(engine: &Engine, id: &str) -> Answer {
    engine.remove_network(id).await?;
    no_content()
}

/// `POST /networks/{id}/connect`
pub async fn connect(engine: &Engine, id: &str, call: &mut Call) -> Answer {
    let request: NetworkConnectRequest = call.json().await?;
    engine.connect_network(id, request).await?;
    empty(StatusCode::OK)
}

/// `POST /networks/{id}/disconnect`
pub async fn disconnect(engine: &Engine, id: &str, call: &mut Call) -> Answer {
    let request: NetworkDisconnectRequest = call.json().await?;
    let container = request.container;
    engine.disconnect_network(id, &container, request.force.unwrap_or(false)).await?;
    empty(StatusCode::OK)
}

/// `POST /networks/prune`
pub async fn prune(engine: &Engine, call: &Call) -> Answer {
    json(&engine.prune_networks(call.query.filters()?).await?)
}
