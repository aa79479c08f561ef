//! Containers join networks and leave them.

use std::cmp::Reverse;
use std::fs::File;
use std::net::IpAddr;
use std::path::PathBuf;

use bollard_stubs::models::EndpointSettings;
use ipnet::IpNet;
use sampan_network::plan::Attachment;
use sampan_network::{Joined, Purpose, Rules, create_netns, mac, remove_netns, validate};
use sampan_store::Durability;

use super::Join;
use super::record::{ENDPOINTS, EndpointRecord, NetworkRecord, PUBLISHED, Stage};
use super::state::{Inner, State, refused};
use crate::containers::new_id;
use crate::error::{Error, Result};

impl State {
    /// A container's endpoints, the one that leads first: the highest gateway priority, then the network's name.
    pub(super) fn in_order(&self, container: &str) -> Vec<(&EndpointRecord, &NetworkRecord)> {
        let with_network = |endpoint| Some((endpoint, self.networks.get(EndpointRecord::network_of(endpoint))?));
        let mut list: Vec<(&EndpointRecord, &NetworkRecord)> = self
            .endpoints_of(container)
            .filter(|endpoint| endpoint.stage == Stage::There)
            .filter_map(with_network)
            .collect();
        list.sort_by_key(|(endpoint, network)| (Reverse(endpoint.settings.gw_priority.unwrap_or(0)), &network.name));
        list
    }

    /// Where a container's traffic to everywhere leaves, one gateway of each family.
    fn gateways(&self, container: &str) -> Vec<IpAddr> {
        let mut gateways: Vec<IpAddr> = Vec::new();
        for gateway in self.in_order(container).into_iter().flat_map(|(endpoint, _)| endpoint.gateways.iter()) {
            if !gateways.iter().any(|known| known.is_ipv4() == gateway.is_ipv4()) {
                gateways.push(*gateway);
            }
        }
        gateways
    }
}

impl EndpointRecord {
    fn network_of(&self) -> &str {
        &self.network
    }
}

impl Inner {
    pub(super) fn create_sandbox(&self, container: &str) -> Result<PathBuf> {
        let path = self.netns(container);
        create_netns(&path).map_err(|error| Error::internal(format!("make a network namespace: {error}")))?;
        Ok(path)
    }

    fn namespace(&self, container: &str) -> Result<File> {
        let path = self.netns(container);
        File::open(&path)
            .map_err(|error| Error::internal(format!("open the network namespace {}: {error}", path.display())))
    }

    /// What can be said before a join is tried.
    pub(super) fn check(&self, network: &str, settings: &EndpointSettings) -> Result<()> {
        let state = self.state();
        check(state.find(network)?, settings)
    }

    pub(super) fn join(&self, join: Join) -> Result<EndpointSettings> {
        let (network, mut endpoint) = self.begin_join(join)?;
        match self.finish_join(&network, &mut endpoint) {
            Ok(shown) => {
                self.tell(&network, "connect", [("container", endpoint.container.clone())]);
                Ok(shown)
            }
            Err(error) => {
                self.drop_endpoint(&endpoint);
                Err(error.context(format!(
                    "failed to set up container networking: join network {} with {}",
                    network.name, endpoint.container_name
                )))
            }
        }
    }

    /// Leases addresses and writes down that the endpoint is being made.
    fn begin_join(&self, join: Join) -> Result<(NetworkRecord, EndpointRecord)> {
        let mut state = self.state();
        let network = state.find(&join.network)?.clone();
        check(&network, &join.settings)?;
        if network.stage != Stage::There {
            return Err(Error::unavailable(format!("network {} is being made or removed", network.name)));
        }
        if let Some(known) = state.endpoints.get(&join.container).and_then(|networks| networks.get(&network.id)) {
            if known.stage == Stage::There {
                let (name, network) = (&join.name, &network.name);
                return Err(Error::forbidden(format!("endpoint with name {name} already exists in network {network}")));
            }
            state.remove_endpoint(&join.container, &network.id);
        }
        let mut endpoint = EndpointRecord {
            id: new_id()?,
            network: network.id.clone(),
            container: join.container,
            container_name: join.name,
            hostname: join.hostname,
            dns: join.dns.iter().filter_map(|text| text.parse().ok()).collect(),
            settings: join.settings,
            addresses: Vec::new(),
            mac: String::new(),
            interface: String::new(),
            joined: Joined::default(),
            gateways: Vec::new(),
            stage: Stage::Making,
        };
        if network.attachment == Attachment::Joined {
            endpoint.interface = interface(&state, &network, &endpoint)?;
            lease(&mut state, &mut endpoint)?;
            endpoint.mac = hardware_address(&endpoint)?;
        }
        if let Err(error) = self.put_endpoint(&endpoint) {
            state.release(&network.id, &endpoint.addresses);
            return Err(error);
        }
        let networks = state.endpoints.entry(endpoint.container.clone()).or_default();
        networks.insert(network.id.clone(), endpoint.clone());
        Ok((network, endpoint))
    }

    fn finish_join(&self, network: &NetworkRecord, endpoint: &mut EndpointRecord) -> Result<EndpointSettings> {
        if network.attachment == Attachment::Joined {
            self.ensure_in_kernel(network, endpoint)?;
        }
        endpoint.stage = Stage::There;
        self.put_endpoint(endpoint)?;
        let mut state = self.state();
        if let Some(networks) = state.endpoints.get_mut(&endpoint.container) {
            networks.insert(network.id.clone(), endpoint.clone());
        }
        self.name_endpoint(&state, endpoint);
        let several = state.in_order(&endpoint.container).len() > 1;
        let gateways = state.gateways(&endpoint.container);
        drop(state);
        if network.attachment == Attachment::Joined {
            if several && !gateways.is_empty() {
                self.executor.leave_by(&self.namespace(&endpoint.container)?, &gateways)?;
            }
            self.serve_names(&endpoint.container)?;
            if several {
                self.retarget(&endpoint.container)?;
            }
        }
        Ok(endpoint.shown(network))
    }

    fn ensure_in_kernel(&self, network: &NetworkRecord, endpoint: &mut EndpointRecord) -> Result<()> {
        let driver = self.driver(&network.driver)?;
        let steps = driver.join(&self.facts, &network.spec(), &endpoint.spec())?;
        let rules = Rules {
            purpose: Purpose::Endpoint { network: &network.side.labels, addresses: &endpoint.addresses },
            subnets: &network.subnet_rules(),
            parents: &network.parents(),
            locals: &[],
        };
        let mut plan = validate(&steps, &rules).map_err(|refusal| refused(&driver, "join", &refusal))?;
        plan.add_addresses(&link_local_addresses(&endpoint.settings)?);
        endpoint.gateways = plan.default_gateways();
        if !self.state().gateways(&endpoint.container).is_empty() {
            plan.remove_default_routes();
        }
        let namespace = self.namespace(&endpoint.container)?;
        endpoint.joined = self.executor.join(&endpoint.id, &namespace, &plan, &network.side)?;
        Ok(())
    }

    /// Takes back a join that failed, as far as it came.
    fn drop_endpoint(&self, endpoint: &EndpointRecord) {
        let namespace = self.namespace(&endpoint.container).ok();
        if let Err(error) = self.executor.leave(&endpoint.joined, namespace.as_ref()) {
            tracing::warn!(container = endpoint.container, %error, "links of a join that failed could not be removed");
        }
        self.names.remove(&endpoint.network, &endpoint.id);
        self.state().remove_endpoint(&endpoint.container, &endpoint.network);
        let forgotten =
            self.shared.store.write::<_, Error>(Durability::Process, |tx| Ok(ENDPOINTS.delete(tx, &endpoint.key())?));
        if let Err(error) = forgotten {
            tracing::warn!(container = endpoint.container, %error, "an endpoint could not be forgotten");
        }
    }

    /// Leaves one network; the container runs on.
    pub(super) fn leave(&self, container: &str, reference: &str, force: bool) -> Result<()> {
        let (network, endpoint) = {
            let state = self.state();
            let network = state.find(reference)?.clone();
            let Some(endpoint) = state.endpoints.get(container).and_then(|networks| networks.get(&network.id)).cloned()
            else {
                let message = format!("container {container} is not connected to network {}", network.name);
                return if force { Ok(()) } else { Err(Error::forbidden(message)) };
            };
            (network, endpoint)
        };
        self.executor.leave(&endpoint.joined, self.namespace(container).ok().as_ref())?;
        self.forget_endpoint(&network, &endpoint)?;
        let gateways = self.state().gateways(container);
        if !gateways.is_empty() {
            self.executor.leave_by(&self.namespace(container)?, &gateways)?;
        }
        self.serve_names(container)?;
        self.retarget(container)
    }

    /// Leaves the networks of a container that are none of the `wanted` ones, by name or id.
    pub(super) fn leave_all_but(&self, container: &str, wanted: &[String]) -> Result<()> {
        let others: Vec<String> = {
            let state = self.state();
            let wanted: Vec<&str> =
                wanted.iter().filter_map(|key| state.find(key).ok()).map(|network| network.id.as_str()).collect();
            let joined = state.endpoints.get(container).into_iter().flat_map(|networks| networks.keys());
            joined.filter(|id| !wanted.contains(&id.as_str())).cloned().collect()
        };
        others.iter().try_for_each(|network| self.leave(container, network, true))
    }

    /// Forgets an endpoint whose links are gone.
    fn forget_endpoint(&self, network: &NetworkRecord, endpoint: &EndpointRecord) -> Result<()> {
        self.names.remove(&endpoint.network, &endpoint.id);
        if network.attachment == Attachment::Joined {
            let left =
                self.driver(&network.driver).and_then(|driver| Ok(driver.left(&network.spec(), &endpoint.spec())?));
            if let Err(error) = left {
                tracing::warn!(network = network.name, %error, "the driver failed to forget an endpoint");
            }
        }
        self.shared.store.write::<_, Error>(Durability::Process, |tx| Ok(ENDPOINTS.delete(tx, &endpoint.key())?))?;
        self.state().remove_endpoint(&endpoint.container, &endpoint.network);
        self.tell(network, "disconnect", [("container", endpoint.container.clone())]);
        Ok(())
    }

    /// Everything of a container that has ended. Goes on after failures, which are told at the end.
    pub(super) fn remove_sandbox(&self, container: &str) -> Result<()> {
        let mut outcome = self.unpublish(container);
        let endpoints: Vec<(EndpointRecord, Option<NetworkRecord>)> = {
            let mut state = self.state();
            state.sandboxes.remove(container);
            state.standby.forget(container);
            let with_network =
                |endpoint: &EndpointRecord| (endpoint.clone(), state.networks.get(&endpoint.network).cloned());
            state.endpoints_of(container).map(with_network).collect()
        };
        for (endpoint, network) in endpoints {
            // Links go with the namespace, but only after a while: an address must not have two owners meanwhile.
            let left = self.executor.abandon(&endpoint.joined).map_err(Error::from);
            let forgotten = match network {
                Some(network) => self.forget_endpoint(&network, &endpoint),
                None => {
                    self.drop_endpoint(&endpoint);
                    Ok(())
                }
            };
            outcome = outcome.and(left).and(forgotten);
        }
        let path = self.netns(container);
        let removed = remove_netns(&path);
        outcome.and(
            removed
                .map_err(|error| Error::internal(format!("remove the network namespace {}: {error}", path.display()))),
        )
    }

    /// The container's name has changed.
    pub(super) fn renamed(&self, container: &str, name: &str) -> Result<()> {
        let mut state = self.state();
        let mut changed = Vec::new();
        for endpoint in state.endpoints.get_mut(container).into_iter().flat_map(|networks| networks.values_mut()) {
            name.clone_into(&mut endpoint.container_name);
            changed.push(endpoint.clone());
        }
        for endpoint in &changed {
            self.name_endpoint(&state, endpoint);
            self.put_endpoint(endpoint)?;
        }
        Ok(())
    }

    /// Removes what belongs to containers that do not live, and links of ours that nothing knows.
    pub(super) fn sweep(&self, live: &[String]) -> Result<()> {
        let is_live = |container: &str| live.iter().any(|id| id == container);
        let mut dead: Vec<String> = {
            let state = self.state();
            state.endpoints.keys().chain(state.published.keys()).filter(|id| !is_live(id)).cloned().collect()
        };
        let directory = self.shared.config.run.join("netns");
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            dead.extend(entry.file_name().into_string().ok().filter(|id| !is_live(id)));
        }
        dead.sort_unstable();
        dead.dedup();
        for container in &dead {
            if let Err(error) = self.remove_sandbox(container) {
                tracing::warn!(container, %error, "left-overs of a container's networking could not be removed");
            }
        }
        for link in self.executor.marked()? {
            let known = {
                let state = self.state();
                let endpoints = state.endpoints.values().flat_map(|networks| networks.values());
                state.networks.contains_key(&link.object)
                    || endpoints.into_iter().any(|endpoint| endpoint.id == link.object)
            };
            if !known {
                tracing::info!(link = link.name, "a left-over link is removed");
                self.executor.remove_marked(&link)?;
            }
        }
        // Half-made joins of live containers are undone, too.
        let half: Vec<EndpointRecord> = {
            let state = self.state();
            let all = state.endpoints.values().flat_map(|networks| networks.values());
            all.filter(|endpoint| endpoint.stage != Stage::There).cloned().collect()
        };
        half.iter().for_each(|endpoint| self.drop_endpoint(endpoint));
        let published: Vec<String> = self.state().published.keys().filter(|id| !is_live(id)).cloned().collect();
        for container in published {
            self.shared.store.write::<_, Error>(Durability::Process, |tx| Ok(PUBLISHED.delete(tx, &container)?))?;
        }
        Ok(())
    }
}

fn check(network: &NetworkRecord, settings: &EndpointSettings) -> Result<()> {
    let wanted = wanted_addresses(settings)?;
    if let Some(address) = wanted.iter().flatten().next() {
        if network.is_predefined() {
            return Err(Error::invalid("user specified IP address is supported on user defined networks only"));
        }
        let _ = address;
    }
    for address in wanted.into_iter().flatten() {
        if !network.pools.iter().any(|pool| pool.subnet.contains(&address)) {
            let name = &network.name;
            return Err(Error::invalid(format!("no configured subnet contains IP address {address} (network {name})")));
        }
    }
    if !link_local_addresses(settings)?.is_empty() && network.attachment != Attachment::Joined {
        let name = &network.name;
        return Err(Error::invalid(format!("network {name} has no links for link-local addresses to be on")));
    }
    if let Some(text) = settings.mac_address.as_deref().filter(|text| !text.is_empty()) {
        mac(text).map_err(|(rule, given)| Error::invalid(format!("invalid MAC address {given:?}: {rule}")))?;
    }
    if !network.has_names() && settings.aliases.iter().flatten().next().is_some() {
        return Err(Error::invalid("network-scoped aliases are only supported for user-defined networks"));
    }
    Ok(())
}

/// IPv4, IPv6.
fn wanted_addresses(settings: &EndpointSettings) -> Result<[Option<IpAddr>; 2]> {
    let Some(config) = &settings.ipam_config else { return Ok([None, None]) };
    let read = |text: &Option<String>, v4: bool| match text.as_deref().filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => match text.parse::<IpAddr>() {
            Ok(address) if address.is_ipv4() == v4 => Ok(Some(address)),
            _ => {
                let kind = if v4 { "IPv4" } else { "IPv6" };
                Err(Error::invalid(format!("invalid {kind} address: {text}")))
            }
        },
    };
    Ok([read(&config.ipv4_address, true)?, read(&config.ipv6_address, false)?])
}

/// Addresses beside those of the network's pools, with Docker's lengths of prefixes.
fn link_local_addresses(settings: &EndpointSettings) -> Result<Vec<IpNet>> {
    const MOST: usize = 16;
    let given: Vec<&String> =
        settings.ipam_config.iter().flat_map(|config| config.link_local_ips.iter().flatten()).collect();
    if given.len() > MOST {
        return Err(Error::invalid(format!(
            "an endpoint has at most {MOST} link-local addresses, not {}",
            given.len()
        )));
    }
    let mut all: Vec<IpNet> = Vec::new();
    for text in given {
        let invalid = |why: &str| Error::invalid(format!("invalid link-local IP address: {text}{why}"));
        let outside = || invalid(": it does not lie in 169.254.0.0/16 or fe80::/10");
        let (address, prefix) = match text.parse::<IpAddr>().map_err(|_| invalid(""))? {
            IpAddr::V4(address) if address.is_link_local() => (IpAddr::V4(address), 16),
            IpAddr::V6(address) if address.is_unicast_link_local() => (IpAddr::V6(address), 64),
            _ => return Err(outside()),
        };
        let net = IpNet::new(address, prefix).map_err(|_| outside())?;
        if !all.contains(&net) {
            all.push(net);
        }
    }
    Ok(all)
}

fn lease(state: &mut State, endpoint: &mut EndpointRecord) -> Result<()> {
    let wanted = wanted_addresses(&endpoint.settings)?;
    let Some(network) = state.networks.get_mut(&endpoint.network) else {
        return Err(Error::not_found(format!("network {} not found", endpoint.network)));
    };
    let mut failed = None;
    for (wanted, v4) in wanted.into_iter().zip([true, false]) {
        let pools = network.pools.iter_mut().filter(|pool| pool.subnet.addr().is_ipv4() == v4);
        let mut outcome = None;
        for pool in pools.filter(|pool| wanted.is_none_or(|address| pool.subnet.contains(&address))) {
            let leased = pool.lease(wanted).map(|address| pool.cidr(address));
            let done = leased.is_ok();
            outcome = Some(leased);
            if done {
                break;
            }
        }
        match outcome {
            Some(Ok(net)) => endpoint.addresses.push(net),
            Some(Err(error)) => failed = Some(error),
            None => {}
        }
    }
    match failed {
        None => Ok(()),
        Some(error) => {
            let name = network.name.clone();
            state.release(&endpoint.network, &endpoint.addresses);
            Err(Error::from(error).context(format!("network {name}")))
        }
    }
}

/// The one that was asked for, or one that follows from the address: a neighbour that remembers it is right again.
fn hardware_address(endpoint: &EndpointRecord) -> Result<String> {
    if let Some(text) = endpoint.settings.mac_address.as_deref().filter(|text| !text.is_empty()) {
        return Ok(text.to_ascii_lowercase().replace('-', ":"));
    }
    let tail = match endpoint.address(true).map(|net: IpNet| net.addr()) {
        Some(IpAddr::V4(address)) => address.octets(),
        _ => {
            let mut random = [0; 4];
            getrandom::fill(&mut random).map_err(|error| Error::internal(format!("random numbers: {error}")))?;
            random
        }
    };
    let [a, b, c, d] = tail;
    Ok(format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}"))
}

fn interface(state: &State, network: &NetworkRecord, endpoint: &EndpointRecord) -> Result<String> {
    let option = |key: &str| endpoint.settings.driver_opts.as_ref().and_then(|options| options.get(key)).cloned();
    let used = |name: &str| state.endpoints_of(&endpoint.container).any(|other| other.interface == name);
    if let Some(name) = option("com.docker.network.endpoint.ifname") {
        if used(&name) {
            return Err(Error::conflict(format!("the container has an interface {name} already")));
        }
        return Ok(name);
    }
    let prefix = network.options.get("com.docker.network.container_iface_prefix").map_or("eth", String::as_str);
    let free = (0..1000).map(|number| format!("{prefix}{number}")).find(|name| !used(name));
    free.ok_or_else(|| Error::unavailable("the container has a thousand interfaces already"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bollard_stubs::models::EndpointIpamConfig;

    #[test]
    fn link_local_addresses_are_just_that() {
        let read = |texts: &[&str]| {
            let list = texts.iter().map(|text| (*text).to_owned()).collect();
            let config = EndpointIpamConfig { link_local_ips: Some(list), ..EndpointIpamConfig::default() };
            let settings = EndpointSettings { ipam_config: Some(config), ..EndpointSettings::default() };
            link_local_addresses(&settings).map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(read(&["169.254.8.8", "fe80::8", "169.254.8.8"]).unwrap(), ["169.254.8.8/16", "fe80::8/64"]);
        for bad in ["", "x", "10.0.0.1", "127.0.0.1", "::1", "2001:db8::1", "169.254.1.1/16"] {
            let message = read(&[bad]).unwrap_err().message;
            assert!(message.starts_with(&format!("invalid link-local IP address: {bad}")), "{message}");
        }
        assert!(read(&["169.254.1.1"; 17]).is_err());
    }
}
