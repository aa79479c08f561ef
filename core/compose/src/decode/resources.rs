//! Top-level networks, volumes, secrets, configs.

use std::net::IpAddr;
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use super::Cx;
use super::fields::Fields;
use crate::files::PathKind;
use crate::hash::hex;
use crate::model::{Config, Ipam, IpamPool, Network, Secret, SecretValue, Volume};
use crate::node::{Node, Value};

/// `external: true`, or the older `external: {name: …}`.
#[derive(Default)]
struct External {
    set: bool,
    name: Option<String>,
}

fn external(cx: &mut Cx<'_, '_>, node: &Node) -> Option<External> {
    if !matches!(node.value, Value::Map(_)) {
        return Some(External { set: cx.boolean(node)?, name: None });
    }
    let mut fields = Fields::of(cx, node, "`external`")?;
    let name = fields.option(cx, "name", Cx::string);
    fields.finish(cx, &[]);
    cx.session.warning(node.at, "`external.name` is obsolete; write `external: true` and `name:`");
    Some(External { set: true, name })
}

/// What an external resource must not say about itself. A file that is laid over another may say that what is described
/// there exists already.
fn nothing_else(cx: &mut Cx<'_, '_>, node: &Node, external: &External) {
    let Some(said) = node.entry("external").filter(|_| external.set).map(|entry| entry.at.file) else { return };
    for entry in node.entries() {
        let own = matches!(entry.key.as_str(), "name" | "external") || entry.key.starts_with("x-");
        if !own && !entry.value.is_null() && entry.at.file == said {
            cx.session.error(entry.at, format!("an external resource is only looked up; `{}` can't be set", entry.key));
        }
    }
}

fn name(cx: &mut Cx<'_, '_>, fields: &mut Fields<'_>, external: &External) -> String {
    let name: Option<String> = fields.option(cx, "name", Cx::string);
    if name.is_some() && external.name.is_some() && name != external.name {
        cx.session.error(fields.at, "`name` and `external.name` differ");
    }
    name.or_else(|| external.name.clone()).unwrap_or_default()
}

pub(super) fn network(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Network> {
    if node.is_null() {
        return Some(Network::default());
    }
    let mut fields = Fields::of(cx, node, "a network")?;
    let external = fields.get(cx, "external", external);
    nothing_else(cx, node, &external);
    let mut network = Network {
        name: name(cx, &mut fields, &external),
        driver: fields.get(cx, "driver", Cx::string),
        driver_opts: fields.get(cx, "driver_opts", Cx::options),
        ipam: fields.get(cx, "ipam", ipam),
        external: external.set,
        internal: fields.get(cx, "internal", Cx::boolean),
        attachable: fields.get(cx, "attachable", Cx::boolean),
        labels: fields.get(cx, "labels", Cx::pairs),
        enable_ipv4: fields.get(cx, "enable_ipv4", Cx::optional_boolean),
        enable_ipv6: fields.get(cx, "enable_ipv6", Cx::optional_boolean),
        ..Network::default()
    };
    network.extensions = fields.finish(cx, &[]);
    Some(network)
}

fn ipam(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Ipam> {
    let mut fields = Fields::of(cx, node, "`ipam`")?;
    let mut ipam = Ipam {
        driver: fields.get(cx, "driver", Cx::string),
        config: fields.get(cx, "config", |cx, node| cx.list(node, pool)),
        options: fields.get(cx, "options", Cx::options),
        ..Ipam::default()
    };
    ipam.extensions = fields.finish(cx, &[]);
    Some(ipam)
}

fn pool(cx: &mut Cx<'_, '_>, node: &Node) -> Option<IpamPool> {
    let mut fields = Fields::of(cx, node, "an address pool")?;
    let mut pool = IpamPool {
        subnet: fields.get(cx, "subnet", subnet),
        gateway: fields.get(cx, "gateway", Cx::address),
        ip_range: fields.get(cx, "ip_range", subnet),
        aux_addresses: fields.get(cx, "aux_addresses", Cx::options),
        ..IpamPool::default()
    };
    pool.extensions = fields.finish(cx, &[]);
    for (host, address) in &pool.aux_addresses {
        if address.parse::<IpAddr>().is_err() {
            cx.bad(node, format!("the address `{address}` of {host} is not an IP address"));
        }
    }
    Some(pool)
}

fn subnet(cx: &mut Cx<'_, '_>, node: &Node) -> Option<String> {
    let text = cx.string(node)?;
    let valid = text.split_once('/').is_some_and(|(address, bits)| {
        let most = match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        bits.parse::<u8>().is_ok_and(|bits| bits <= most)
    });
    if !valid && !text.is_empty() {
        cx.bad(node, format!("`{text}` is not a network such as 10.5.0.0/16"));
        return None;
    }
    Some(text)
}

pub(super) fn volume(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Volume> {
    if node.is_null() {
        return Some(Volume::default());
    }
    let mut fields = Fields::of(cx, node, "a volume")?;
    let external = fields.get(cx, "external", external);
    nothing_else(cx, node, &external);
    let mut volume = Volume {
        name: name(cx, &mut fields, &external),
        driver: fields.get(cx, "driver", Cx::string),
        driver_opts: fields.get(cx, "driver_opts", Cx::options),
        external: external.set,
        labels: fields.get(cx, "labels", Cx::pairs),
        ..Volume::default()
    };
    volume.extensions = fields.finish(cx, &[]);
    if volume.driver == "local"
        && volume.driver_opts.get("o").is_some_and(|options| options == "bind")
        && let Some(written) = node.get("driver_opts").and_then(|options| options.get("device"))
        && let Some(device) = volume.driver_opts.get_mut("device")
    {
        *device = cx.session.path(written, device).to_string_lossy().into_owned();
    }
    Some(volume)
}

/// The file of a config or secret, and the digest of what is in it; a missing one is found out by whoever mounts it.
fn file(cx: &mut Cx<'_, '_>, node: &Node) -> Option<(PathBuf, Option<String>)> {
    let written = cx.string(node)?;
    let path = cx.session.resolve(node.at, &written);
    let content = match cx.session.kind(&path) {
        PathKind::File => cx.session.read(&path).ok(),
        _ => None,
    };
    Some((cx.session.path(node, &written), content.map(|content| hex(&Sha256::digest(content)))))
}

fn value(cx: &mut Cx<'_, '_>, node: &Node, variable: &str) -> Option<SecretValue> {
    let value = cx.env.get(variable).cloned().map(SecretValue);
    if value.is_none() {
        let at = node.get("environment").unwrap_or(node).at;
        cx.session.warning(at, format!("the variable {variable} is not set"));
    }
    value
}

/// Reports unless exactly one source is given.
fn one_source(cx: &mut Cx<'_, '_>, node: &Node, external: bool, given: usize, sources: &str) {
    if given + usize::from(external) != 1 && !(external && given <= 1) {
        let count = if given == 0 { "none" } else { "several" };
        cx.session.error(node.at, format!("exactly one of {sources} must be given; here are {count}"));
    }
}

pub(super) fn secret(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Secret> {
    let mut fields = Fields::of(cx, node, "a secret")?;
    let external = fields.get(cx, "external", external);
    nothing_else(cx, node, &external);
    let (file, digest) = fields.option(cx, "file", file).unzip();
    let mut secret = Secret {
        name: name(cx, &mut fields, &external),
        file,
        digest: digest.flatten(),
        environment: fields.option(cx, "environment", Cx::string),
        external: external.set,
        labels: fields.get(cx, "labels", Cx::pairs),
        ..Secret::default()
    };
    // A driver's secrets live in a cluster.
    secret.extensions = fields.finish(cx, &["driver", "driver_opts", "template_driver", "content"]);
    let given = [secret.file.is_some(), secret.environment.is_some()];
    one_source(cx, node, secret.external, given.iter().filter(|set| **set).count(), "file, environment and external");
    secret.value = secret.environment.as_deref().and_then(|variable| value(cx, node, variable));
    Some(secret)
}

pub(super) fn config(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Config> {
    let mut fields = Fields::of(cx, node, "a config")?;
    let external = fields.get(cx, "external", external);
    nothing_else(cx, node, &external);
    let (file, digest) = fields.option(cx, "file", file).unzip();
    let mut config = Config {
        name: name(cx, &mut fields, &external),
        file,
        digest: digest.flatten(),
        environment: fields.option(cx, "environment", Cx::string),
        content: fields.option(cx, "content", Cx::string),
        external: external.set,
        labels: fields.get(cx, "labels", Cx::pairs),
        ..Config::default()
    };
    config.extensions = fields.finish(cx, &["template_driver"]);
    let given = [config.file.is_some(), config.environment.is_some(), config.content.is_some()];
    one_source(
        cx,
        node,
        config.external,
        given.iter().filter(|set| **set).count(),
        "file, environment, content and external",
    );
    config.value = config.environment.as_deref().and_then(|variable| value(cx, node, variable));
    Some(config)
}
