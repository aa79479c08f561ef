//! `/sampan/v1/stacks`: the reconciler.

use std::collections::{BTreeSet, HashMap};

use bollard_stubs::models::ContainerCreateBody;
use http::Method;
use sampan_engine::Error;
use sampan_reconcile::{StackOptions, StackRequest, Verb, labels};
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

/// Whether a request is Compose's: what it asks for, the user asked it for.
fn of_compose(call: &Call) -> Option<&str> {
    call.header("user-agent").filter(|agent| agent.starts_with("compose/"))
}

/// Before Compose makes a container: a stack that the daemon keeps is left to it.
pub async fn before_create(server: &Server, call: &Call, body: &ContainerCreateBody) -> sampan_engine::Result<()> {
    match (of_compose(call), &body.labels) {
        (Some(agent), Some(labels)) => make_way(server, agent, labels).await,
        _ => Ok(()),
    }
}

/// The same before it removes one.
pub async fn before_remove(server: &Server, call: &Call, id: &str) -> sampan_engine::Result<()> {
    let Some(agent) = of_compose(call) else { return Ok(()) };
    let found = server.engine.inspect_container(id, false).await?;
    let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
    make_way(server, agent, &labels).await
}

/// And before it removes a network.
pub async fn before_network_remove(server: &Server, call: &Call, id: &str) -> sampan_engine::Result<()> {
    let Some(agent) = of_compose(call) else { return Ok(()) };
    let found = server.engine.inspect_network(id, false).await?;
    make_way(server, agent, &found.labels.unwrap_or_default()).await
}

async fn make_way(server: &Server, agent: &str, all: &HashMap<String, String>) -> sampan_engine::Result<()> {
    // What `run` makes changes nothing of the stack.
    let once = labels::is_one_off(all);
    match all.get(labels::PROJECT) {
        Some(project) if !once => {
            server.stacks.make_way(project, agent, all.get(labels::WORKING_DIR).map(String::as_str)).await
        }
        _ => Ok(()),
    }
}

/// Routes below `/sampan/v1/stacks`. Requests that change something answer with one JSON document a line; the last one
/// is `done`.
pub async fn route(server: &Server, method: &Method, path: &[&str], call: &mut Call) -> Answer {
    let stacks = &server.stacks;
    match (method.as_str(), path) {
        ("GET", []) => json(&stacks.list().await?),
        ("GET", [name]) => json(&stacks.inspect(name).await?),
        ("GET", [name, "config"]) => json(&*stacks.project(name).await?),
        ("POST", [name, "up"]) => {
            let body: Body = call.json().await?;
            let request = body.request.ok_or_else(|| Error::invalid("request body, field request: it is missing"))?;
            json_stream(receiver(stacks.up(name, request, body.services, body.options).await?))
        }
        ("POST", [name, "pattern"]) => {
            let body: Body = call.json().await?;
            let request = body.request.ok_or_else(|| Error::invalid("request body, field request: it is missing"))?;
            let service = body.services.into_iter().next();
            let service = service.ok_or_else(|| Error::invalid("request body, field services: name one"))?;
            json_stream(receiver(stacks.pattern(name, request, service, body.options).await?))
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
