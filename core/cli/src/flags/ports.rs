//! `-p` and `--expose`.

use bollard_stubs::models::{PortBinding, PortMap};
use std::net::IpAddr;

use super::{Parsed, csv};

/// Ports of the container as `80/tcp`, and what of the host leads to them.
#[derive(Debug, Default, PartialEq)]
pub struct Ports {
    /// Exposed ports, published or not, in order.
    pub exposed: Vec<String>,
    /// Bindings.
    pub bindings: PortMap,
}

/// Reads all `--publish` and `--expose` values.
pub fn parse(publish: &[String], expose: &[String]) -> Parsed<Ports> {
    let mut ports = Ports::default();
    for text in publish {
        for (port, binding) in published(text)? {
            if !ports.exposed.contains(&port) {
                ports.exposed.push(port.clone());
            }
            ports.bindings.entry(port).or_default().get_or_insert_default().push(binding);
        }
    }
    for text in expose {
        for port in exposed(text)? {
            if !ports.exposed.contains(&port) {
                ports.exposed.push(port);
            }
        }
    }
    Ok(ports)
}

/// One `--publish` value: `[ip:][host[-end]:]container[-end][/proto]`, or the long form.
pub fn published(text: &str) -> Parsed<Vec<(String, PortBinding)>> {
    if text.contains('=') {
        return published(&short_form(text)?);
    }
    let (rest, protocol) = text.rsplit_once('/').unwrap_or((text, "tcp"));
    let (host, container) = rest.rsplit_once(':').map_or((None, rest), |(host, container)| (Some(host), container));
    let (address, host) =
        host.map(|host| host.rsplit_once(':').map_or((None, host), |(ip, port)| (Some(ip), port))).unwrap_or_default();
    let address = address.map(ip).transpose()?.unwrap_or_default();
    if container.is_empty() {
        return Err(format!("no port specified: {text}<empty>"));
    }
    let (start, end) = range(container).ok_or_else(|| format!("invalid containerPort: {container}"))?;
    let host_range = match host {
        "" => None,
        host => Some(range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?),
    };
    if let Some((host_start, host_end)) = host_range
        && host_end - host_start != end - start
        && start != end
    {
        return Err(format!("invalid ranges specified for container and host Ports: {container} and {host}"));
    }
    let protocol = protocol_name(protocol)?;
    let one = |offset: u16| {
        let host_port = match host_range {
            None => String::new(),
            // One port of the container and a range of the host's: the engine picks a free one.
            Some((from, to)) if start == end && from != to => format!("{from}-{to}"),
            Some((from, _)) => (from + offset).to_string(),
        };
        (
            format!("{}/{protocol}", start + offset),
            PortBinding { host_ip: Some(address.clone()), host_port: Some(host_port) },
        )
    };
    Ok((0..=end - start).map(one).collect())
}

/// One `--expose` value: `port[-end][/proto]`.
fn exposed(text: &str) -> Parsed<Vec<String>> {
    if text.contains(':') {
        return Err(format!("invalid port format for --expose: {text}"));
    }
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol_name(protocol)?;
    let (start, end) = range(ports).ok_or_else(|| format!("invalid range format for --expose: {text}"))?;
    Ok((start..=end).map(|port| format!("{port}/{protocol}")).collect())
}

fn protocol_name(text: &str) -> Parsed<String> {
    let lower = text.to_ascii_lowercase();
    if matches!(lower.as_str(), "tcp" | "udp" | "sctp") { Ok(lower) } else { Err(format!("invalid proto: {text}")) }
}

fn ip(text: &str) -> Parsed<String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let bare = match text.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or_else(|| format!("invalid IP address: {text}"))?,
        None => text,
    };
    bare.parse::<IpAddr>().map_err(|_| format!("invalid IP address: {bare}"))?;
    Ok(bare.to_owned())
}

/// `80` or `80-90`.
fn range(text: &str) -> Option<(u16, u16)> {
    let number =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u16>().ok()).flatten();
    let (start, end) = match text.split_once('-') {
        Some((start, end)) => (number(start)?, number(end)?),
        None => {
            let port = number(text)?;
            (port, port)
        }
    };
    (start <= end).then_some((start, end))
}

/// `target=80,published=8080,protocol=udp,mode=host` as `8080:80/udp`.
fn short_form(text: &str) -> Parsed<String> {
    let (mut target, mut published, mut protocol, mut host_ip) = (None, None, "tcp".to_owned(), None);
    for field in csv(text)? {
        let (key, value) = field
            .split_once('=')
            .ok_or_else(|| format!("invalid publish opts format (should be name=value but got '{field}')"))?;
        let value = value.to_owned();
        match key.to_ascii_lowercase().as_str() {
            "target" => target = Some(value),
            "published" => published = Some(value),
            "protocol" => protocol = value,
            "host_ip" | "host-ip" => host_ip = Some(value),
            // Both modes are the same thing on one host.
            "mode" if matches!(value.as_str(), "host" | "ingress") => {}
            _ => return Err(format!("invalid publish opts format: unexpected '{key}' in '{text}'")),
        }
    }
    let target = target.ok_or_else(|| format!("invalid publish opts format: target is missing in '{text}'"))?;
    Ok(match (host_ip, published) {
        (Some(ip), published) => format!("{ip}:{}:{target}/{protocol}", published.unwrap_or_default()),
        (None, Some(published)) => format!("{published}:{target}/{protocol}"),
        (None, None) => format!("{target}/{protocol}"),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn shown(text: &str) -> Vec<String> {
        published(text)
            .unwrap()
            .into_iter()
            .map(|(port, binding)| format!("{}|{}|{port}", binding.host_ip.unwrap(), binding.host_port.unwrap()))
            .collect()
    }

    #[test]
    fn every_form_of_publishing() {
        for (text, expected) in [
            ("80", &["||80/tcp"][..]),
            ("8080:80", &["|8080|80/tcp"]),
            ("8080:80/udp", &["|8080|80/udp"]),
            ("8080:80/UDP", &["|8080|80/udp"]),
            ("127.0.0.1:8080:80", &["127.0.0.1|8080|80/tcp"]),
            ("127.0.0.1::80", &["127.0.0.1||80/tcp"]),
            ("[::1]:8080:80", &["::1|8080|80/tcp"]),
            ("[::]::80/sctp", &["::||80/sctp"]),
            ("::1:8080:80", &["::1|8080|80/tcp"]),
            (":80", &["||80/tcp"]),
            ("8000-8002:80-82", &["|8000|80/tcp", "|8001|81/tcp", "|8002|82/tcp"]),
            ("8000-8010:80", &["|8000-8010|80/tcp"]),
            ("80-81", &["||80/tcp", "||81/tcp"]),
            ("0:80", &["|0|80/tcp"]),
            ("target=80,published=8080,protocol=udp,mode=host", &["|8080|80/udp"]),
            ("target=80", &["||80/tcp"]),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("", "no port specified"),
            ("8080:", "no port specified"),
            ("abc", "invalid containerPort: abc"),
            ("abc:80", "invalid hostPort: abc"),
            ("70000:80", "invalid hostPort: 70000"),
            ("80:70000", "invalid containerPort: 70000"),
            ("localhost:8080:80", "invalid IP address: localhost"),
            ("abc:1:2:3:x", "invalid IP address: abc:1:2"),
            ("[::1:8080:80", "invalid IP address"),
            ("90-80", "invalid containerPort: 90-80"),
            ("8000-8001:80-82", "invalid ranges specified"),
            ("80/icmp", "invalid proto: icmp"),
            ("+80", "invalid containerPort"),
            ("frob=1", "unexpected 'frob'"),
            ("published=80", "target is missing"),
        ] {
            let error = published(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn exposed_ports_join_published_ones() {
        let ports =
            parse(&["8080:80".into(), "9090:80".into()], &["80".into(), "443/tcp".into(), "50-51/udp".into()]).unwrap();
        assert_eq!(ports.exposed, ["80/tcp", "443/tcp", "50/udp", "51/udp"]);
        assert_eq!(ports.bindings["80/tcp"].as_ref().unwrap().len(), 2);
        assert!(parse(&[], &["1:2".into()]).unwrap_err().contains("--expose"));
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "[0-9a-z:.\\[\\]/=,-]{0,24}") {
            let _ = published(&text);
        }
    }
}
