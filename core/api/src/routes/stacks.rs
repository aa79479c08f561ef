//! `/sampan/v1/stacks`: the reconciler.

use std::collections::BTreeSet;

use http::Method;
use sampan_engine::Error;
use sampan_reconcile::{StackOptions, StackRequest, Verb};
use serde::Deserialize;

use crate::request::Call;
use crate::response::{Answer, json, json_stream};
use crate::routes::archive::receiver;
use crate::server::Server;

/// The body of a request to a stack.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Body {
    /// Where it comes from; for `up`.
    request: Option<StackRequest>,
    services: BTreeSet<String>,
    options: StackOptions,
}

/// The body of `rollback`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RollBack {
    /// How many versions; 1 when not said.
    back: Option<usize>,
}

/// Routes below `/sampan/v1/stacks`. Requests that change something answer with one JSON document a line; the last one
/// is `done`.
pub async fn route(server: &Server, method: &Method, path: &[&str], call: &mut Call) -> Answer {
    let stacks = &server.stacks;
    match (method.as_str(), path) {
        ("GET", []) => json(&stacks.list().await?),
        ("GET", [name]) => json(&stacks.inspect(name).await?),
        ("GET", [name, "config"]) => json(&stacks.project(name).await?),
        ("POST", [name, "up"]) => {
            let body: Body = call.json().await?;
            let request = body.request.ok_or_else(|| Error::invalid("request body, field request: it is missing"))?;
            json_stream(receiver(stacks.up(name, request, body.services, body.options).await?))
        }
        ("POST", [name, "down"]) => {
            let body: Body = call.json_or_default().await?;
            json_stream(receiver(stacks.down(name, body.services, body.options).await?))
        }
        ("GET", [name, "history"]) => json(&stacks.history(name).await?),
        ("POST", [name, "hold"]) => json_stream(receiver(stacks.hold(name, true).await?)),
        ("POST", [name, "resume"]) => json_stream(receiver(stacks.hold(name, false).await?)),
        ("POST", [name, "rollback"]) => {
            let body: RollBack = call.json_or_default().await?;
            json_stream(receiver(stacks.roll_back(name, body.back.unwrap_or(1)).await?))
        }
        ("POST", [name, "watch"]) => {
            let body: Body = call.json_or_default().await?;
            json_stream(receiver(stacks.watch(name, body.services).await?))
        }
        ("POST", [name, verb]) => {
            let verb = match *verb {
                "start" => Verb::Start,
                "stop" => Verb::Stop,
                "restart" => Verb::Restart,
                "kill" => Verb::Kill,
                "pause" => Verb::Pause,
                "unpause" => Verb::Unpause,
                "rm" => Verb::Remove,
                "build" => Verb::Build,
                "pull" => Verb::Pull,
                other => return Err(Error::not_found(format!("a stack has no {other}"))),
            };
            let body: Body = call.json_or_default().await?;
            json_stream(receiver(stacks.act(name, verb, body.services, body.options).await?))
        }
        _ => Err(Error::not_found(format!("page not found: {method} /sampan/v1/stacks/{}", path.join("/")))),
    }
}
