//! `/exec`.

use bollard_stubs::models::ExecConfig;
use http::StatusCode;
use sampan_engine::Engine;
use sampan_engine::containers::ExecStart;
use serde::Deserialize;
use serde_json::json;

use crate::hijack;
use crate::request::Call;
use crate::response::{self, Answer, json_status};
use crate::routes::containers::size;

/// `POST /containers/{id}/exec`
pub async fn create(engine: &Engine, id: &str, call: &mut Call) -> Answer {
    let config: ExecConfig = call.json().await?;
    let created = engine.exec_create(id, config).await?;
    json_status(StatusCode::CREATED, &json!({ "Id": created.id }))
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct StartBody {
    detach: bool,
    tty: bool,
    /// Rows and columns, or null.
    console_size: Option<Vec<u16>>,
}

/// `POST /exec/{id}/start`
pub async fn start(engine: &Engine, id: &str, call: &mut Call) -> Answer {
    let body: StartBody = call.json_or_default().await?;
    let size = body.console_size.as_deref().and_then(|size| match size {
        [0, 0] => None,
        [rows, columns] => Some((*rows, *columns)),
        _ => None,
    });
    match engine.exec_start(id, ExecStart { detach: body.detach, tty: body.tty, size }).await? {
        Some(attached) => hijack::answer(call, attached),
        None => hijack::nothing(),
    }
}

/// `POST /exec/{id}/resize`
pub async fn resize(engine: &Engine, id: &str, call: &Call) -> Answer {
    let (rows, columns) = size(call)?;
    engine.exec_resize(id, rows, columns).await?;
    json_status(StatusCode::CREATED, &serde_json::json!({}))
}

/// `GET /exec/{id}/json`
pub async fn inspect(engine: &Engine, id: &str) -> Answer {
    response::json(&engine.exec_inspect(id).await?)
}
