//! Ports as texts. Pure.

use std::net::IpAddr;

use bollard_stubs::models::{ContainerConfig, HostConfig, PortBinding, PortMap, PortSummary, PortSummaryTypeEnum};

use crate::error::{Error, Result};

/// `80`, `80/udp`, `8000-8010/tcp` as first, last and protocol.
pub(crate) fn parse(text: &str) -> Result<(u16, u16, &str)> {
    let invalid = || Error::invalid(format!("invalid port specification: {text:?}"));
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    if !matches!(protocol, "tcp" | "udp" | "sctp") {
        return Err(invalid());
    }
    let (first, last) = range(numbers).ok_or_else(invalid)?;
    if first == 0 { Err(invalid()) } else { Ok((first, last, protocol)) }
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

/// Writes every exposed port singly and with its protocol, and refuses wrong ones.
pub(crate) fn normalize(config: &mut ContainerConfig, host: &mut HostConfig) -> Result<()> {
    let mut exposed = Vec::new();
    for text in config.exposed_ports.iter().flatten() {
        let (first, last, protocol) = parse(text)?;
        exposed.extend((first..=last).map(|port| format!("{port}/{protocol}")));
    }
    let mut bindings = PortMap::new();
    for (text, wanted) in host.port_bindings.take().into_iter().flatten() {
        let (first, last, protocol) = parse(&text)?;
        if first != last {
            return Err(Error::invalid(format!(
                "invalid port specification: {text:?}: a published port is a single one"
            )));
        }
        for binding in wanted.iter().flatten() {
            let port = binding.host_port.as_deref().unwrap_or("");
            if !port.is_empty() && range(port).is_none() {
                return Err(Error::invalid(format!("invalid port specification: {port:?}")));
            }
            let address = binding.host_ip.as_deref().unwrap_or("");
            if !address.is_empty() && address.trim_matches(['[', ']']).parse::<IpAddr>().is_err() {
                return Err(Error::invalid(format!("invalid IP address for a published port: {address:?}")));
            }
        }
        let port = format!("{first}/{protocol}");
        if !exposed.contains(&port) {
            exposed.push(port.clone());
        }
        bindings.insert(port, Some(wanted.filter(|wanted| !wanted.is_empty()).unwrap_or_else(|| vec![anywhere()])));
    }
    exposed.sort();
    exposed.dedup();
    config.exposed_ports = (!exposed.is_empty()).then_some(exposed);
    host.port_bindings = Some(bindings);
    Ok(())
}

fn anywhere() -> PortBinding {
    PortBinding { host_ip: Some(String::new()), host_port: Some(String::new()) }
}

/// What is to be published when the container starts.
pub(crate) fn to_publish(config: &ContainerConfig, host: &HostConfig) -> PortMap {
    let mut ports = host.port_bindings.clone().unwrap_or_default();
    if host.publish_all_ports == Some(true) {
        for port in config.exposed_ports.iter().flatten() {
            ports.entry(port.clone()).or_insert_with(|| Some(vec![anywhere()]));
        }
    }
    ports.retain(|_, wanted| wanted.as_ref().is_some_and(|wanted| !wanted.is_empty()));
    ports
}

/// Exposed ports, published or not, as `inspect` shows them.
pub(crate) fn shown(config: &ContainerConfig, published: PortMap) -> PortMap {
    let mut all = published;
    for port in config.exposed_ports.iter().flatten() {
        all.entry(port.clone()).or_insert(None);
    }
    all
}

/// The same for `ps`.
pub(crate) fn summary(ports: &PortMap) -> Vec<PortSummary> {
    let mut all = Vec::new();
    for (text, bindings) in ports {
        let Ok((private_port, _, protocol)) = parse(text) else { continue };
        let typ = match protocol {
            "udp" => PortSummaryTypeEnum::UDP,
            "sctp" => PortSummaryTypeEnum::SCTP,
            _ => PortSummaryTypeEnum::TCP,
        };
        let entry = |ip: Option<String>, public_port| PortSummary { ip, private_port, public_port, typ: Some(typ) };
        match bindings.as_ref().filter(|bindings| !bindings.is_empty()) {
            None => all.push(entry(None, None)),
            Some(bindings) => all.extend(bindings.iter().map(|binding| {
                entry(binding.host_ip.clone(), binding.host_port.as_ref().and_then(|port| port.parse().ok()))
            })),
        }
    }
    all.sort_by(|a, b| (a.private_port, a.public_port, &a.ip).cmp(&(b.private_port, b.public_port, &b.ip)));
    all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ports_are_read_and_refused() {
        assert_eq!(parse("80").unwrap(), (80, 80, "tcp"));
        assert_eq!(parse("53/udp").unwrap(), (53, 53, "udp"));
        assert_eq!(parse("8000-8002/sctp").unwrap(), (8000, 8002, "sctp"));
        for bad in ["", "0", "x", "70000", "80/http", "9-8", "-1"] {
            assert_eq!(parse(bad).unwrap_err().message, format!("invalid port specification: {bad:?}"));
        }
    }

    #[test]
    fn published_ports_are_exposed_and_all_can_be_published() {
        let mut config = ContainerConfig { exposed_ports: Some(vec!["9000-9001".into()]), ..Default::default() };
        let bindings = PortMap::from([("80".to_owned(), None)]);
        let mut host = HostConfig { port_bindings: Some(bindings), ..HostConfig::default() };
        normalize(&mut config, &mut host).unwrap();
        assert_eq!(config.exposed_ports.as_ref().unwrap(), &["80/tcp", "9000/tcp", "9001/tcp"]);
        assert_eq!(to_publish(&config, &host).len(), 1);
        host.publish_all_ports = Some(true);
        assert_eq!(to_publish(&config, &host).len(), 3);
        let shown = shown(&config, PortMap::new());
        assert_eq!(summary(&shown).iter().map(|port| port.private_port).collect::<Vec<_>>(), [80, 9000, 9001]);
    }

    #[test]
    fn wrong_bindings_are_refused() {
        let with = |ip: &str, port: &str| {
            let binding = PortBinding { host_ip: Some(ip.into()), host_port: Some(port.into()) };
            let bindings = PortMap::from([("80/tcp".to_owned(), Some(vec![binding]))]);
            let mut host = HostConfig { port_bindings: Some(bindings), ..HostConfig::default() };
            normalize(&mut ContainerConfig::default(), &mut host)
        };
        assert!(with("", "8080").is_ok() && with("127.0.0.1", "8000-8010").is_ok() && with("::1", "").is_ok());
        assert_eq!(with("", "many").unwrap_err().message, "invalid port specification: \"many\"");
        assert!(with("localhost", "80").is_err());
    }
}
