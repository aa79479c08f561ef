//! A service's networks, hosts, names, dependencies.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Cx;
use super::fields::{Fields, unique};
use crate::merge;
use crate::model::{Condition, Dependency, ServiceNetwork};
use crate::node::{Node, Value};

pub(super) fn networks(cx: &mut Cx<'_, '_>, node: &Node) -> Option<BTreeMap<String, Option<ServiceNetwork>>> {
    let node = named(cx, node, false)?;
    let mut out = BTreeMap::new();
    for entry in node.entries() {
        let network = match &entry.value.value {
            Value::Null => None,
            _ => network(cx, &entry.value),
        };
        out.insert(entry.key.clone(), network);
    }
    Some(out)
}

/// A mapping, or a list of its keys.
pub(super) fn named(cx: &mut Cx<'_, '_>, node: &Node, dependencies: bool) -> Option<Node> {
    match &node.value {
        Value::Map(_) => Some(node.clone()),
        Value::Seq(items) => {
            for item in items.iter().filter(|item| item.as_str().is_none()) {
                cx.wants(item, "a list of names or a mapping");
            }
            Some(merge::keys(node.clone(), dependencies)).filter(|node| matches!(node.value, Value::Map(_)))
        }
        _ => {
            cx.wants(node, "a list of names or a mapping");
            None
        }
    }
}

fn network(cx: &mut Cx<'_, '_>, node: &Node) -> Option<ServiceNetwork> {
    let mut fields = Fields::of(cx, node, "a service's network")?;
    let mut network = ServiceNetwork {
        aliases: fields.get(cx, "aliases", Cx::strings),
        driver_opts: fields.get(cx, "driver_opts", Cx::options),
        gw_priority: fields.get(cx, "gw_priority", Cx::integer),
        interface_name: fields.get(cx, "interface_name", Cx::string),
        ipv4_address: fields.get(cx, "ipv4_address", |cx, node| family(cx, node, IpAddr::is_ipv4, "an IPv4 address")),
        ipv6_address: fields.get(cx, "ipv6_address", |cx, node| family(cx, node, IpAddr::is_ipv6, "an IPv6 address")),
        link_local_ips: fields.get(cx, "link_local_ips", |cx, node| cx.list(node, Cx::address)),
        mac_address: fields.get(cx, "mac_address", mac_address),
        priority: fields.get(cx, "priority", Cx::integer),
        ..ServiceNetwork::default()
    };
    network.extensions = fields.finish(cx, &[]);
    if network.interface_name.len() > 15 || network.interface_name.contains(['/', ' ', ':']) {
        cx.bad(node, format!("`{}` is not a name for an interface", network.interface_name));
    }
    Some(network)
}

fn family(cx: &mut Cx<'_, '_>, node: &Node, right: fn(&IpAddr) -> bool, what: &str) -> Option<String> {
    let text = cx.string(node)?;
    if text.is_empty() || text.parse().is_ok_and(|address| right(&address)) {
        return Some(text);
    }
    cx.bad(node, format!("`{text}` is not {what}"));
    None
}

pub(super) fn mac_address(cx: &mut Cx<'_, '_>, node: &Node) -> Option<String> {
    let text = cx.string(node)?;
    let parts: Vec<&str> = text.split([':', '-']).collect();
    let valid = parts.len() == 6 && parts.iter().all(|part| part.len() == 2 && u8::from_str_radix(part, 16).is_ok());
    if !valid && !text.is_empty() {
        cx.bad(node, format!("`{text}` is not a MAC address"));
        return None;
    }
    Some(text)
}

pub(super) fn depends_on(cx: &mut Cx<'_, '_>, node: &Node) -> Option<BTreeMap<String, Dependency>> {
    let node = named(cx, node, true)?;
    let mut out = BTreeMap::new();
    for entry in node.entries() {
        let Some(mut fields) = Fields::of(cx, &entry.value, "a dependency") else { continue };
        let condition = fields.option(cx, "condition", |cx, node| {
            let words = ["service_started", "service_healthy", "service_completed_successfully"];
            Some(match cx.word(node, &words)?.as_str() {
                "service_healthy" => Condition::Healthy,
                "service_completed_successfully" => Condition::CompletedSuccessfully,
                _ => Condition::Started,
            })
        });
        let restart = fields.get(cx, "restart", Cx::boolean);
        let required = fields.option(cx, "required", Cx::boolean).unwrap_or(true);
        fields.finish(cx, &[]);
        if condition.is_none() && entry.value.lacks("condition") {
            cx.session.error(entry.at, format!("the dependency on `{}` needs a `condition`", entry.key));
        }
        out.insert(entry.key.clone(), Dependency { condition: condition.unwrap_or_default(), restart, required });
    }
    Some(out)
}

/// `HOST=ADDRESS`, or `HOST:ADDRESS`; sorted as the reference prints them.
pub(super) fn extra_hosts(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Vec<String>> {
    let node = match &node.value {
        Value::Map(_) => merge::hosts(node.clone()),
        _ => node.clone(),
    };
    let list = cx.list(&node, |cx, item| {
        let text = cx.string(item)?;
        let (host, address) = text.split_once('=').or_else(|| text.split_once(':')).unwrap_or((&text, ""));
        let plain = address.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || (plain != "host-gateway" && plain.parse::<IpAddr>().is_err()) {
            cx.bad(item, format!("`{text}` is not HOST=ADDRESS"));
            return None;
        }
        Some(format!("{host}={plain}"))
    })?;
    let mut list = unique(list);
    list.sort_unstable();
    Some(list)
}

pub(super) fn dns(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Vec<String>> {
    let list = match &node.value {
        Value::Seq(_) => cx.list(node, Cx::address)?,
        _ => vec![cx.address(node)?],
    };
    Some(unique(list))
}

pub(super) fn hostname(cx: &mut Cx<'_, '_>, node: &Node) -> Option<String> {
    let name = cx.string(node)?;
    let valid = name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        });
    if !valid && !name.is_empty() {
        cx.bad(node, format!("`{name}` is not a host name"));
        return None;
    }
    Some(name)
}
