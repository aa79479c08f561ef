//! Ports of the host that lead to containers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bollard_stubs::models::PortMap;
use sampan_network::ports::{Hold, hold};
use sampan_network::{Protocol, Publish};
use sampan_store::Durability;

use super::record::{PUBLISHED, PublishedPort, PublishedRecord};
use super::state::{Inner, State, lock};
use crate::error::{Error, Result};

/// One binding of the request.
struct Wanted {
    key: String,
    container: u16,
    protocol: Protocol,
    /// As given; empty for every address.
    host_ip: Option<IpAddr>,
    /// The first and last port that will do; none for any.
    range: Option<(u16, u16)>,
}

/// Ports that were chosen, and what holds those that are the container's alone.
type Chosen = (Vec<PublishedPort>, Vec<((Protocol, SocketAddr), Hold)>);

impl Wanted {
    fn is_fixed(&self) -> bool {
        self.range.is_some_and(|(first, last)| first == last)
    }

    /// Adds the ports that were chosen to what is published and to what is shown.
    fn note(&self, chosen: Vec<PublishedPort>, target: Target, record: &mut PublishedRecord, map: &mut PortMap) {
        for port in chosen {
            map.entry(self.key.clone()).or_default().get_or_insert_default().push(port.binding());
            record.filter.extend(target.filtered(&port));
            record.ports.push(port);
        }
    }

    /// Takes out of what is published the ports that are as wanted, when there is one on every address.
    fn among(&self, published: &mut Vec<PublishedPort>, hosts: &[IpAddr], grouped: bool) -> Option<Vec<PublishedPort>> {
        let fits = |port: &PublishedPort| {
            port.protocol == self.protocol
                && port.container == self.container
                && port.shared == (self.is_fixed() && grouped)
                && self.range.is_none_or(|(first, last)| (first..=last).contains(&port.host.port()))
        };
        let numbers: Vec<u16> = published.iter().filter(|port| fits(port)).map(|port| port.host.port()).collect();
        for number in numbers {
            let kept: Vec<PublishedPort> = published
                .iter()
                .filter(|port| fits(port) && port.host.port() == number && hosts.contains(&port.host.ip()))
                .copied()
                .collect();
            if kept.len() == hosts.len() {
                published.retain(|port| !kept.contains(port));
                return Some(kept);
            }
        }
        None
    }
}

/// Addresses of an endpoint that ports lead to.
#[derive(Clone, Copy, Default)]
pub(super) struct Target {
    v4: Option<IpAddr>,
    v6: Option<IpAddr>,
}

impl Target {
    /// Where a port leads: to the same family if the endpoint has it, else from IPv6 to IPv4 by the daemon.
    pub(super) fn of(self, port: &PublishedPort) -> Option<SocketAddr> {
        let address = if port.host.is_ipv4() { self.v4 } else { self.v6.or(self.v4) };
        address.map(|address| SocketAddr::new(address, port.container))
    }

    /// What the packet filter carries of a port.
    fn filtered(self, port: &PublishedPort) -> Option<Publish> {
        if port.shared {
            return None;
        }
        let target = self.of(port)?;
        let by_daemon = target.is_ipv4() != port.host.is_ipv4() || port.host.ip() == IpAddr::V6(Ipv6Addr::LOCALHOST);
        (!by_daemon).then_some(Publish { protocol: port.protocol, host: port.host, target })
    }
}

impl State {
    /// The endpoint that leads, among those of networks whose ports are published.
    /// With it the address for ports that name none, unless all are meant.
    pub(super) fn target(&self, container: &str) -> Option<(Target, Option<IpAddr>)> {
        let list = self.in_order(container);
        let (endpoint, network) = list.into_iter().find(|(_, network)| network.publishes)?;
        let target = Target {
            v4: endpoint.address(true).map(|net| net.addr()),
            v6: endpoint.address(false).map(|net| net.addr()),
        };
        let usual = network.options.get("com.docker.network.bridge.host_binding_ipv4");
        let usual = usual.and_then(|text| text.parse::<IpAddr>().ok()).filter(|address| !address.is_unspecified());
        Some((target, usual))
    }
}

impl Inner {
    fn target(&self, container: &str) -> Option<(Target, Option<IpAddr>)> {
        self.state().target(container)
    }

    /// `group`: whoever is of the same has fixed ports together with the container.
    pub(super) fn publish(&self, container: &str, ports: &PortMap, group: Option<&str>) -> Result<PortMap> {
        let mut map: PortMap = ports.keys().map(|key| (normal(key), None)).collect();
        let wanted = in_turn(ports)?;
        if wanted.is_empty() {
            return Ok(map);
        }
        let Some((target, default_ip)) = self.target(container) else { return Ok(map) };
        let mut record = PublishedRecord { group: group.map(str::to_owned), ..PublishedRecord::default() };
        let mut holds = Vec::new();
        let _choice = lock(&self.choice);
        for wanted in wanted {
            let host_ip = wanted.host_ip.or(default_ip);
            let chosen = self.choose(container, &wanted, host_ip, target, group);
            let (chosen, held) = chosen.inspect_err(|_| self.settle_shares())?;
            wanted.note(chosen, target, &mut record, &mut map);
            holds.extend(held);
        }
        map.clone_into(&mut record.map);
        // Written first: after a crash the entries are known and can be withdrawn.
        self.shared.store.write::<_, Error>(Durability::Process, |tx| Ok(PUBLISHED.put(tx, container, &record)?))?;
        let published = self.filter.publish(&record.filter);
        let mut state = self.state();
        state.published.insert(container.to_owned(), record);
        state.sandboxes.entry(container.to_owned()).or_default().holds = holds;
        drop(state);
        if let Err(error) = published {
            self.unpublish(container)?;
            return Err(Error::internal(format!("publish ports: {error}")));
        }
        self.settle_shares();
        Ok(map)
    }

    /// Publishes other ports of a container that runs. Those that stay are not touched; when it fails, nothing has changed.
    pub(super) fn republish(&self, container: &str, ports: &PortMap, group: Option<&str>) -> Result<PortMap> {
        let mut map: PortMap = ports.keys().map(|key| (normal(key), None)).collect();
        let wanted = in_turn(ports)?;
        let Some((target, default_ip)) = self.target(container) else { return Ok(map) };
        let _choice = lock(&self.choice);
        let before = self.state().published.get(container).cloned().unwrap_or_default();
        let mut going = before.ports.clone();
        let mut found = Vec::new();
        for wanted in wanted {
            let host_ip = wanted.host_ip.or(default_ip);
            let kept = wanted.among(&mut going, &self.hosts(host_ip, target)?, group.is_some());
            found.push((wanted, host_ip, kept));
        }
        // What goes may come back with another target, so it is let go of first.
        let goes = |key: &(Protocol, SocketAddr)| going.iter().any(|port| (port.protocol, port.host) == *key);
        if let Some(sandbox) = self.state().sandboxes.get_mut(container) {
            sandbox.holds.retain(|(key, _)| !goes(key));
        }
        let mut record = PublishedRecord { group: group.map(str::to_owned), ..PublishedRecord::default() };
        let mut holds = Vec::new();
        for (wanted, host_ip, kept) in found {
            let chosen = match kept {
                Some(kept) => kept,
                None => match self.choose(container, &wanted, host_ip, target, group) {
                    Ok((chosen, held)) => {
                        holds.extend(held);
                        chosen
                    }
                    Err(error) => {
                        drop(holds);
                        self.hold_again(container);
                        self.settle_shares();
                        return Err(error);
                    }
                },
            };
            wanted.note(chosen, target, &mut record, &mut map);
        }
        map.clone_into(&mut record.map);
        self.shared.store.write::<_, Error>(Durability::Process, |tx| Ok(PUBLISHED.put(tx, container, &record)?))?;
        let only = |of: &[Publish], not: &[Publish]| -> Vec<Publish> {
            of.iter().filter(|publish| !not.contains(publish)).copied().collect()
        };
        let (gone, come) = (only(&before.filter, &record.filter), only(&record.filter, &before.filter));
        let swapped = self.filter.unpublish(&gone).and_then(|()| self.filter.publish(&come));
        let mut state = self.state();
        state.published.insert(container.to_owned(), record);
        state.sandboxes.entry(container.to_owned()).or_default().holds.extend(holds);
        drop(state);
        if let Err(error) = swapped {
            tracing::warn!(container, %error, "ports could not be led elsewhere one by one; the packet filter is set up anew");
            self.rebuild_filter();
        }
        self.settle_shares();
        Ok(map)
    }

    /// Holds the port that is wanted, or a free one, on every address that is meant.
    fn choose(
        &self,
        container: &str,
        wanted: &Wanted,
        host_ip: Option<IpAddr>,
        target: Target,
        group: Option<&str>,
    ) -> Result<Chosen> {
        let group = group.filter(|_| wanted.is_fixed());
        let hosts = self.hosts(host_ip, target)?;
        let candidates: Vec<u16> = match wanted.range {
            Some((first, last)) => (first..=last).collect(),
            None => ephemeral(),
        };
        let mut refused = None;
        for port in candidates {
            match self.hold_all(wanted, &hosts, port, target, group) {
                Ok(found) => return Ok(found),
                Err((host, error)) => refused = Some((host, error)),
            }
        }
        let Some((host, error)) = refused else {
            return Err(Error::unavailable(format!("no port of the host is free for {}", wanted.key)));
        };
        let whole = format!("{host}/{}", wanted.protocol.as_str());
        if error.kind() == std::io::ErrorKind::AddrInUse {
            if wanted.range.is_none_or(|(first, last)| first != last) {
                return Err(Error::unavailable(format!(
                    "no port of the host is free for {}: all are allocated",
                    wanted.key
                )));
            }
            let message = match self.owner(container, wanted.protocol, host) {
                Some(owner) => format!("Bind for {host} failed: port is already allocated (by container {owner})"),
                None => format!("failed to bind host port {whole}: address already in use (another program has it)"),
            };
            return Err(Error::conflict(message));
        }
        if error.kind() == std::io::ErrorKind::AddrNotAvailable {
            return Err(Error::invalid(format!(
                "failed to bind host port {whole}: this host does not have the address"
            )));
        }
        Err(Error::internal(format!("failed to bind host port {whole}: {error}")))
    }

    fn hosts(&self, host_ip: Option<IpAddr>, target: Target) -> Result<Vec<IpAddr>> {
        let v4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let v6 = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let hosts = match host_ip {
            Some(address) => vec![address],
            None if self.shared.facts.has("ipv6") => vec![v4, v6],
            None => vec![v4],
        };
        let reachable: Vec<IpAddr> = hosts.into_iter().filter(|host| host.is_ipv6() || target.v4.is_some()).collect();
        if reachable.is_empty() {
            return Err(Error::invalid("an IPv4 port of the host cannot lead to a container that has IPv6 alone"));
        }
        Ok(reachable)
    }

    fn hold_all(
        &self,
        wanted: &Wanted,
        hosts: &[IpAddr],
        port: u16,
        target: Target,
        group: Option<&str>,
    ) -> Result<Chosen, (SocketAddr, std::io::Error)> {
        let mut ports = Vec::new();
        let mut holds = Vec::new();
        for host in hosts {
            let host = SocketAddr::new(*host, port);
            let (protocol, shared) = (wanted.protocol, group.is_some());
            let published = PublishedPort { protocol, host, container: wanted.container, shared };
            let Some(target) = target.of(&published) else { continue };
            let held = match group {
                Some(group) => self.hold_for_group(group, protocol, host).map(|()| None),
                None => hold(&self.runtime, protocol, host, target).map(|held| Some(((protocol, host), held))),
            };
            holds.extend(held.map_err(|error| (host, error))?);
            ports.push(published);
        }
        Ok((ports, holds))
    }

    /// The name of the container that has a port.
    fn owner(&self, not: &str, protocol: Protocol, host: SocketAddr) -> Option<String> {
        let state = self.state();
        let meets = |port: &PublishedPort| {
            let same_family = port.host.is_ipv4() == host.is_ipv4();
            let same_address =
                port.host.ip() == host.ip() || port.host.ip().is_unspecified() || host.ip().is_unspecified();
            port.protocol == protocol && port.host.port() == host.port() && same_family && same_address
        };
        let (owner, _) = state.published.iter().find(|(_, record)| record.ports.iter().any(meets))?;
        let name = state.endpoints_of(owner).next().map(|endpoint| endpoint.container_name.clone());
        Some(name.unwrap_or_else(|| if owner == not { "itself".to_owned() } else { owner.clone() }))
    }

    /// Withdraws the ports of a container. Idempotent.
    pub(super) fn unpublish(&self, container: &str) -> Result<()> {
        let Some(record) = self.state().published.remove(container) else { return Ok(()) };
        if let Err(error) = self.filter.unpublish(&record.filter) {
            tracing::warn!(container, %error, "the packet filter did not know all ports; it is set up anew");
            self.rebuild_filter();
        }
        self.shared.store.write::<_, Error>(Durability::Process, |tx| Ok(PUBLISHED.delete(tx, container)?))?;
        if let Some(sandbox) = self.state().sandboxes.get_mut(container) {
            sandbox.holds.clear();
        }
        if record.ports.iter().any(|port| port.shared) {
            self.settle_shares();
        }
        Ok(())
    }

    /// The container has joined or left a network: its ports lead to the endpoint that leads now.
    pub(super) fn retarget(&self, container: &str) -> Result<()> {
        let Some(record) = self.state().published.get(container).cloned() else { return Ok(()) };
        let target = self.target(container).map_or(Target { v4: None, v6: None }, |(target, _)| target);
        let filter: Vec<Publish> = record.ports.iter().filter_map(|port| target.filtered(port)).collect();
        if record.ports.iter().any(|port| port.shared) {
            self.settle_shares();
        }
        if filter == record.filter {
            return Ok(());
        }
        let changed = PublishedRecord { filter, ..record.clone() };
        self.shared.store.write::<_, Error>(Durability::Process, |tx| Ok(PUBLISHED.put(tx, container, &changed)?))?;
        let swapped = self.filter.unpublish(&record.filter).and_then(|()| self.filter.publish(&changed.filter));
        self.state().published.insert(container.to_owned(), changed);
        if let Err(error) = swapped {
            tracing::warn!(container, %error, "ports could not be led elsewhere one by one; the packet filter is set up anew");
            self.rebuild_filter();
        }
        self.hold_again(container);
        Ok(())
    }

    /// Takes the ports of a container that runs on; one that another program took meanwhile is told.
    pub(super) fn hold_again(&self, container: &str) {
        let Some((target, _)) = self.target(container) else { return };
        let ports = {
            let mut state = self.state();
            if let Some(sandbox) = state.sandboxes.get_mut(container) {
                sandbox.holds.clear();
            }
            state.published.get(container).map(|record| record.ports.clone()).unwrap_or_default()
        };
        let mut holds = Vec::new();
        for port in ports {
            let Some(target) = target.of(&port) else { continue };
            if port.shared {
                self.hold_shared_again(container, &port);
                continue;
            }
            match hold(&self.runtime, port.protocol, port.host, target) {
                Ok(held) => holds.push(((port.protocol, port.host), held)),
                Err(error) => tracing::warn!(container, host = %port.host, %error, "a published port cannot be held"),
            }
        }
        self.state().sandboxes.entry(container.to_owned()).or_default().holds = holds;
    }
}

/// `80` is `80/tcp`.
fn normal(key: &str) -> String {
    if key.contains('/') { key.to_ascii_lowercase() } else { format!("{key}/tcp") }
}

fn wanted(ports: &PortMap) -> Result<Vec<Wanted>> {
    let mut all = Vec::new();
    for (given, bindings) in ports {
        let key = normal(given);
        let invalid = |why: &str| Error::invalid(format!("invalid port {given:?}: {why}"));
        let (number, protocol) = key.split_once('/').unwrap_or((&key, "tcp"));
        let container: u16 = number
            .parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| invalid("a number from 1 to 65535 is expected"))?;
        let protocol: Protocol = protocol.parse().map_err(|error: String| invalid(&error))?;
        for binding in bindings.iter().flatten() {
            let host_ip = match binding.host_ip.as_deref().map(|text| text.trim_matches(['[', ']'])) {
                None | Some("") => None,
                Some(text) => Some(
                    text.parse()
                        .map_err(|_| Error::invalid(format!("invalid host address {text:?} for port {given}")))?,
                ),
            };
            let range = match binding.host_port.as_deref() {
                None | Some("" | "0") => None,
                Some(text) => {
                    let (first, last) = text.split_once('-').unwrap_or((text, text));
                    let read = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
                    let ends = read(first).zip(read(last)).filter(|(first, last)| first <= last);
                    Some(ends.ok_or_else(|| Error::invalid(format!("invalid host port {text:?} for port {given}")))?)
                }
            };
            all.push(Wanted { key: key.clone(), container, protocol, host_ip, range });
        }
    }
    all.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(all)
}

/// The same in turn: those that want one port come before those that take what is left.
fn in_turn(ports: &PortMap) -> Result<Vec<Wanted>> {
    let mut all = wanted(ports)?;
    all.sort_by_key(|wanted| !wanted.is_fixed());
    Ok(all)
}

/// The ports that the kernel itself gives to those who ask for any, from a random one on.
fn ephemeral() -> Vec<u16> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().filter_map(|word| word.parse::<u16>().ok());
    let (first, last) = (numbers.next().unwrap_or(32_768), numbers.next().unwrap_or(60_999));
    let mut random = [0; 2];
    let _ = getrandom::fill(&mut random);
    let count = usize::from(last.saturating_sub(first)) + 1;
    let start = usize::from(u16::from_ne_bytes(random)) % count;
    // Whoever finds none among a thousand is told so.
    (0..count.min(1000))
        .filter_map(|offset| u16::try_from(usize::from(first) + (start + offset) % count).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bollard_stubs::models::PortBinding;

    use super::*;
    use std::collections::HashMap;

    fn binding(ip: &str, port: &str) -> PortBinding {
        PortBinding { host_ip: Some(ip.to_owned()), host_port: Some(port.to_owned()) }
    }

    #[test]
    fn bindings_are_read_in_every_form() {
        let map: PortMap = HashMap::from([
            ("80".to_owned(), Some(vec![binding("", "8080"), binding("127.0.0.1", "")])),
            ("53/udp".to_owned(), Some(vec![binding("[::1]", "5300-5310")])),
            ("9/tcp".to_owned(), None),
        ]);
        let all = wanted(&map).unwrap();
        let shown: Vec<_> = all
            .iter()
            .map(|wanted| (wanted.key.as_str(), wanted.host_ip.map(|ip| ip.to_string()), wanted.range))
            .collect();
        assert_eq!(
            shown,
            [
                ("53/udp", Some("::1".to_owned()), Some((5300, 5310))),
                ("80/tcp", None, Some((8080, 8080))),
                ("80/tcp", Some("127.0.0.1".to_owned()), None),
            ]
        );
        for (key, port) in [("0", "1"), ("80/xyz", "1"), ("80", "70000"), ("80", "9-8"), ("x", "1")] {
            assert!(wanted(&HashMap::from([(key.to_owned(), Some(vec![binding("", port)]))])).is_err(), "{key} {port}");
        }
        assert!(wanted(&HashMap::from([("80".to_owned(), Some(vec![binding("nowhere", "1")]))])).is_err());
        assert!(ephemeral().iter().all(|port| *port > 1024));
    }
}
