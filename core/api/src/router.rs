//! Which handler answers which path.

use http::Method;
use sampan_engine::Error;

use crate::request::Call;
use crate::response::{Answer, text};
use crate::routes::{archive, build, containers, exec, images, networks, plugins, stacks, system, volumes};
use crate::server::Server;

/// Answers one request. Names of images contain slashes, so their routes match from both ends.
pub async fn route(server: &Server, mut call: Call) -> Answer {
    let path = std::mem::take(&mut call.path);
    let segments: Vec<&str> = path.iter().map(String::as_str).collect();
    let engine = &server.engine;
    let method = match call.method {
        Method::HEAD => Method::HEAD,
        ref other => other.clone(),
    };
    match (method.as_str(), segments.as_slice()) {
        ("GET" | "HEAD", ["_ping"]) => system::ping(),
        ("GET", ["version"]) => system::version(engine).await,
        ("GET", ["info"]) => system::info(engine).await,
        ("GET", ["events"]) => system::events(engine, &call).await,
        ("GET", ["system", "df"]) => system::disk_usage(engine).await,
        ("POST", ["auth"]) => system::auth(engine, &mut call).await,
        ("GET", ["sampan", "v1"]) => text("sampan/v1\n"),

        ("GET", ["containers", "json"]) => containers::list(engine, &call).await,
        ("POST", ["containers", "create"]) => containers::create(server, &mut call).await,
        ("POST", ["containers", "prune"]) => containers::prune(engine, &call).await,
        ("GET", ["containers", id, "json"]) => containers::inspect(engine, id, &call).await,
        ("POST", ["containers", id, "start"]) => containers::start(engine, id).await,
        ("POST", ["containers", id, "stop"]) => containers::stop(engine, id, &call).await,
        ("POST", ["containers", id, "restart"]) => containers::restart(engine, id, &call).await,
        ("POST", ["containers", id, "kill"]) => containers::kill(engine, id, &call).await,
        ("POST", ["containers", id, "pause"]) => containers::pause(engine, id).await,
        ("POST", ["containers", id, "unpause"]) => containers::unpause(engine, id).await,
        ("POST", ["containers", id, "rename"]) => containers::rename(engine, id, &call).await,
        ("POST", ["containers", id, "resize"]) => containers::resize(engine, id, &call).await,
        ("POST", ["containers", id, "attach"]) => containers::attach(engine, id, &mut call).await,
        ("POST", ["containers", id, "wait"]) => containers::wait(engine, id, &call).await,
        ("POST", ["containers", id, "update"]) => containers::update(engine, id, &mut call).await,
        ("GET", ["containers", id, "logs"]) => containers::logs(engine, id, &call).await,
        ("GET", ["containers", id, "top"]) => containers::top(engine, id, &call).await,
        ("GET", ["containers", id, "stats"]) => containers::stats(engine, id, &call).await,
        ("GET", ["containers", id, "changes"]) => containers::changes(engine, id).await,
        ("GET", ["containers", id, "export"]) => archive::export(engine, id).await,
        ("GET", ["containers", id, "archive"]) => archive::get(engine, id, &call).await,
        ("HEAD", ["containers", id, "archive"]) => archive::head(engine, id, &call).await,
        ("PUT", ["containers", id, "archive"]) => archive::put(engine, id, &mut call).await,
        ("POST", ["containers", id, "exec"]) => exec::create(engine, id, &mut call).await,
        ("DELETE", ["containers", id]) => containers::remove(server, id, &call).await,

        ("POST", ["exec", id, "start"]) => exec::start(engine, id, &mut call).await,
        ("POST", ["exec", id, "resize"]) => exec::resize(engine, id, &call).await,
        ("GET", ["exec", id, "json"]) => exec::inspect(engine, id).await,

        ("GET", ["images", "json"]) => images::list(engine, &call).await,
        ("POST", ["images", "create"]) => images::create(engine, &mut call).await,
        ("POST", ["images", "load"]) => images::load(engine, &mut call).await,
        ("GET", ["images", "get"]) => images::save(engine, call.query.all("names"), &call).await,
        ("GET", ["images", "search"]) => images::search(engine, &call).await,
        ("POST", ["images", "prune"]) => images::prune(engine, &call).await,
        ("GET", ["images", name @ .., "json"]) if !name.is_empty() => {
            images::inspect(engine, &name.join("/"), &call).await
        }
        ("GET", ["images", name @ .., "history"]) if !name.is_empty() => {
            images::history(engine, &name.join("/"), &call).await
        }
        ("GET", ["images", name @ .., "get"]) if !name.is_empty() => {
            images::save(engine, vec![name.join("/")], &call).await
        }
        ("POST", ["images", name @ .., "tag"]) if !name.is_empty() => images::tag(engine, &name.join("/"), &call).await,
        ("POST", ["images", name @ .., "push"]) if !name.is_empty() => {
            images::push(engine, &name.join("/"), &call).await
        }
        ("DELETE", ["images", name @ ..]) if !name.is_empty() => images::remove(engine, &name.join("/"), &call).await,
        ("GET", ["distribution", name @ .., "json"]) if !name.is_empty() => {
            images::distribution(engine, &name.join("/"), &call).await
        }
        ("GET", ["sampan", "v1", "manifests", name @ ..]) if !name.is_empty() => {
            images::manifest(engine, &name.join("/"), &call).await
        }
        ("PUT", ["sampan", "v1", "manifests", name @ ..]) if !name.is_empty() => {
            let name = name.join("/");
            images::put_manifest(engine, &name, &mut call).await
        }
        ("GET", ["sampan", "v1", "compositions", name @ ..]) if !name.is_empty() => {
            images::composition(engine, &name.join("/"), &call).await
        }
        ("PUT", ["sampan", "v1", "compositions", name @ ..]) if !name.is_empty() => {
            let name = name.join("/");
            images::put_composition(engine, &name, &mut call).await
        }
        ("POST", ["commit"]) => images::commit(engine, &mut call).await,
        ("POST", ["build"]) => build::build(engine, &mut call).await,
        ("POST", ["build", "prune"]) => build::prune(engine, &call).await,
        ("POST", ["sampan", "v1", "build", "cache"]) => build::export_cache(engine, &mut call).await,

        ("GET", ["volumes"]) => volumes::list(engine, &call).await,
        ("POST", ["volumes", "create"]) => volumes::create(engine, &mut call).await,
        ("POST", ["volumes", "prune"]) => volumes::prune(engine, &call).await,
        ("GET", ["volumes", name]) => volumes::inspect(engine, name).await,
        ("DELETE", ["volumes", name]) => volumes::remove(engine, name, &call).await,

        ("GET", ["networks"]) => networks::list(engine, &call).await,
        ("POST", ["networks", "create"]) => networks::create(engine, &mut call).await,
        ("POST", ["networks", "prune"]) => networks::prune(engine, &call).await,
        ("POST", ["networks", id, "connect"]) => networks::connect(engine, id, &mut call).await,
        ("POST", ["networks", id, "disconnect"]) => networks::disconnect(engine, id, &mut call).await,
        ("GET", ["networks", id]) => networks::inspect(engine, id, &call).await,
        ("DELETE", ["networks", id]) => {
            stacks::before_network_remove(server, &call, id).await?;
            networks::remove(engine, id).await
        }

        ("GET", ["plugins"]) => plugins::list_docker(engine).await,
        ("GET", ["sampan", "v1", "plugins"]) => plugins::list(engine).await,
        ("POST", ["sampan", "v1", "plugins"]) => plugins::install(engine, &mut call).await,
        ("GET", ["sampan", "v1", "plugins", name]) => plugins::inspect(engine, name).await,
        ("POST", ["sampan", "v1", "plugins", name, "enable"]) => plugins::enable(engine, name, true).await,
        ("POST", ["sampan", "v1", "plugins", name, "disable"]) => plugins::enable(engine, name, false).await,
        ("POST", ["sampan", "v1", "plugins", name, "upgrade"]) => plugins::upgrade(engine, name, &mut call).await,
        ("DELETE", ["sampan", "v1", "plugins", name]) => plugins::remove(engine, name, &call).await,

        (_, ["sampan", "v1", "stacks", rest @ ..]) => {
            stacks::route(server, &call.method.clone(), rest, &mut call).await
        }

        ("POST", ["grpc"]) => server.buildkit.grpc(&mut call),
        ("POST", ["session"]) => server.buildkit.session(&mut call),
        (_, ["swarm" | "nodes" | "services" | "tasks" | "secrets" | "configs", ..]) => Err(Error::unavailable(
            "This node is not a swarm manager. Sampan runs stacks on one host: use `sampan up` with a compose file",
        )),
        _ => Err(Error::not_found(format!("page not found: {method} /{}", path.join("/")))),
    }
}
