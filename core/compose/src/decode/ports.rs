//! `ports` and `expose`.

use std::net::IpAddr;

use super::Cx;
use super::fields::{Fields, Keyed, unique};
use crate::model::{Port, PublishedPorts};
use crate::node::{Node, Value};

/// Ports one entry may stand for.
const RANGE: usize = 65_536;

/// All ports of a service, one entry per port.
pub(super) fn ports(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Vec<Port>> {
    let mut out = Keyed::new();
    let mut total = 0_usize;
    for item in cx.items(node) {
        let found = match &item.value {
            Value::Map(_) => long(cx, item),
            Value::Str(text) => short(text).map_err(|message| cx.bad(item, message)).ok(),
            Value::Int(value) => short(&value.to_string()).map_err(|message| cx.bad(item, message)).ok(),
            _ => {
                cx.bad(item, format!("an item must be a string, a number or a mapping, not {}", item.kind()));
                None
            }
        };
        let found = found.unwrap_or_default();
        total += found.len();
        if total > RANGE {
            cx.bad(item, "more ports than there are");
            return None;
        }
        found.into_iter().for_each(|port| out.put(key(&port), port));
    }
    Some(out.into_items())
}

fn key(port: &Port) -> (String, Option<PublishedPorts>, u16, String) {
    let host = if port.host_ip.is_empty() { "0.0.0.0" } else { &port.host_ip };
    (host.to_owned(), port.published, port.target, port.protocol.clone())
}

fn protocol(text: &str) -> Result<String, String> {
    let text = text.to_ascii_lowercase();
    match text.as_str() {
        "tcp" | "udp" | "sctp" => Ok(text),
        _ => Err(format!("`{text}` is not a protocol; it is tcp, udp or sctp")),
    }
}

/// A range of container ports: 1 to 65535.
fn targets(text: &str) -> Result<PublishedPorts, String> {
    let range: PublishedPorts = text.parse()?;
    if range.first == 0 {
        return Err("port 0 can't be published".to_owned());
    }
    Ok(range)
}

/// `[[IP:][HOST[-HOST]]:]PORT[-PORT][/PROTOCOL]`.
pub(crate) fn short(text: &str) -> Result<Vec<Port>, String> {
    let (rest, protocol) = match text.rsplit_once('/') {
        Some((rest, word)) => (rest, protocol(word)?),
        None => (text, "tcp".to_owned()),
    };
    let (rest, target) = match rest.rsplit_once(':') {
        Some((rest, target)) => (Some(rest), target),
        None => (None, rest),
    };
    if target.is_empty() {
        return Err(format!("`{text}` names no container port"));
    }
    let target = targets(target)?;
    let (address, host) = match rest {
        None => ("", ""),
        Some(rest) => split_address(rest),
    };
    let host_ip = match address {
        "" => String::new(),
        address => {
            let plain = address.trim_start_matches('[').trim_end_matches(']');
            let valid = plain.parse::<IpAddr>().map_err(|_| format!("`{address}` is not an IP address"))?;
            valid.to_string()
        }
    };
    let host = match host {
        "" => None,
        host => Some(host.parse::<PublishedPorts>()?),
    };
    pair(&host_ip, host, target, &protocol).map_err(|message| format!("`{text}`: {message}"))
}

/// The address and the host ports of `IP:HOST`, `IP:`, `HOST`; IPv6 in brackets or bare.
fn split_address(rest: &str) -> (&str, &str) {
    if rest.starts_with('[') {
        return match rest.find(']') {
            Some(end) => {
                let (address, tail) = rest.split_at(end + 1);
                (address, tail.trim_start_matches(':'))
            }
            None => (rest, ""),
        };
    }
    rest.rsplit_once(':').unwrap_or(("", rest))
}

fn pair(
    host_ip: &str,
    host: Option<PublishedPorts>,
    target: PublishedPorts,
    protocol: &str,
) -> Result<Vec<Port>, String> {
    let count = |range: PublishedPorts| range.last - range.first;
    let port = |target, published| Port {
        mode: "ingress".to_owned(),
        host_ip: host_ip.to_owned(),
        target,
        published,
        protocol: protocol.to_owned(),
        ..Port::default()
    };
    match host {
        None => Ok((target.first..=target.last).map(|target| port(target, None)).collect()),
        Some(host) if count(host) == count(target) => Ok((target.first..=target.last)
            .zip(host.first..=host.last)
            .map(|(target, host)| port(target, Some(PublishedPorts::one(host))))
            .collect()),
        Some(host) if count(target) == 0 => Ok(vec![port(target.first, Some(host))]),
        Some(_) => Err("the two ranges are not of the same length".to_owned()),
    }
}

fn long(cx: &mut Cx<'_, '_>, item: &Node) -> Option<Vec<Port>> {
    let mut fields = Fields::of(cx, item, "a port")?;
    let target = fields.option(cx, "target", |cx, node| {
        let text = cx.text(node)?;
        targets(&text).map_err(|message| cx.bad(node, message)).ok()
    });
    let published = fields.option(cx, "published", |cx, node| {
        let text = cx.text(node)?;
        if text.is_empty() {
            return None;
        }
        text.parse::<PublishedPorts>().map_err(|message| cx.bad(node, message)).ok()
    });
    let host_ip = fields.get(cx, "host_ip", Cx::address);
    let protocol = fields.option(cx, "protocol", |cx, node| {
        let text = cx.string(node)?;
        protocol(&text).map_err(|message| cx.bad(node, message)).ok()
    });
    let mode = fields.get(cx, "mode", |cx, node| cx.word(node, &["ingress", "host"]));
    let name = fields.get(cx, "name", Cx::string);
    let app_protocol = fields.get(cx, "app_protocol", Cx::string);
    let at = fields.at;
    let missing = item.lacks("target");
    let extensions = fields.finish(cx, &[]);
    let Some(target) = target else {
        if missing {
            cx.session.error(at, "a port needs a `target`");
        }
        return None;
    };
    let ports = pair(&host_ip, published, target, protocol.as_deref().unwrap_or("tcp"));
    let mut ports = ports.map_err(|message| cx.bad(item, message)).ok()?;
    for port in &mut ports {
        port.name.clone_from(&name);
        port.app_protocol.clone_from(&app_protocol);
        port.extensions.clone_from(&extensions);
        if !mode.is_empty() {
            port.mode.clone_from(&mode);
        }
    }
    Some(ports)
}

/// `PORT[-PORT][/PROTOCOL]`, checked and kept as written.
pub(super) fn expose(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Vec<String>> {
    let list = cx.list(node, |cx, item| {
        let text = cx.text(item)?;
        let (range, word) = match text.split_once('/') {
            Some((range, word)) => (range, Some(word)),
            None => (text.as_str(), None),
        };
        let checked = targets(range).and_then(|_| word.map_or(Ok(String::new()), protocol));
        checked.map_err(|message| cx.bad(item, message)).ok()?;
        Some(text)
    })?;
    Some(unique(list))
}
