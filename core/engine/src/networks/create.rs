//! Networks come and go.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use bollard_stubs::models::{EventMessageTypeEnum, Ipam, IpamConfig, NetworkCreateRequest, NetworkCreateResponse};
use ipnet::IpNet;
use sampan_network::ipam::{IpamError, Pool, choose_subnet, choose_subnet6, default_pools, meets};
use sampan_network::plan::Attachment;

use super::record::{NetworkRecord, PREDEFINED, Stage};
use super::state::{Inner, lock};
use crate::containers::new_id;
use crate::error::{Error, Result};
use crate::events::now_ns;

impl From<IpamError> for Error {
    fn from(error: IpamError) -> Self {
        match error {
            IpamError::NoSubnet | IpamError::Full { .. } => Self::unavailable(error),
            IpamError::Overlap { .. } | IpamError::Taken(_) => Self::forbidden(error),
            IpamError::Outside(_) | IpamError::Invalid(_) => Self::invalid(error),
        }
    }
}

impl Inner {
    pub(super) fn create_predefined(&self, name: &str) -> Result<()> {
        let driver = if name == "none" { "null" } else { name };
        let mut request = NetworkCreateRequest {
            name: name.to_owned(),
            driver: Some(driver.to_owned()),
            ..NetworkCreateRequest::default()
        };
        if name == "bridge" {
            let option = |key: &str, value: &str| (format!("com.docker.network.{key}"), value.to_owned());
            request.options = Some(HashMap::from([
                option("bridge.default_bridge", "true"),
                option("bridge.enable_icc", "true"),
                option("bridge.enable_ip_masquerade", "true"),
                option("bridge.host_binding_ipv4", "0.0.0.0"),
                option("driver.mtu", "1500"),
            ]));
        }
        self.make(request).map(|_| ())
    }

    /// `network create`.
    pub(super) fn create(&self, request: NetworkCreateRequest) -> Result<NetworkCreateResponse> {
        let name = request.name.as_str();
        let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let rest = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
        if !first || !rest || name.len() > 255 {
            let rule = "it begins with a letter or digit, then come letters, digits and _.-";
            return Err(Error::invalid(format!("invalid network name {name:?}: {rule}")));
        }
        if PREDEFINED.contains(&name) || name == "default" {
            return Err(Error::forbidden(format!("operation is not permitted on predefined {name} network")));
        }
        if request.config_only == Some(true) || request.config_from.is_some() {
            return Err(Error::unsupported(
                "networks of configuration alone (config-only, config-from) are not supported",
            ));
        }
        if request.ingress == Some(true) || request.scope.as_deref() == Some("swarm") {
            return Err(Error::unsupported("networks of a swarm are not supported: this engine has no swarm mode"));
        }
        self.make(request)
    }

    fn make(&self, request: NetworkCreateRequest) -> Result<NetworkCreateResponse> {
        let _shape = lock(&self.shape);
        if let Some(found) = self.state().networks.values().find(|network| network.name == request.name) {
            return Err(Error::conflict(format!("network with name {} already exists", found.name)));
        }
        let mut network = self.drafted(request)?;
        let driver = self.driver(&network.driver)?;
        // Its options are checked by this first call.
        network.attachment = driver.attached(&network.spec())?;
        if network.attachment == Attachment::Joined {
            self.give_subnets(&mut network)?;
            if let Some(problem) = lock(&self.filter_problem).clone() {
                return Err(Error::unsupported(problem));
            }
        } else if !network.is_predefined() {
            let driver = &network.driver;
            return Err(Error::forbidden(format!("only one instance of \"{driver}\" network is allowed")));
        }
        network.publishes = network.attachment == Attachment::Joined && driver.publishes(&network.spec())?;
        self.put_network(&network)?;
        match self.put_into_kernel(&mut network) {
            Ok(()) => {
                self.tell(&network, "create", []);
                Ok(NetworkCreateResponse { id: network.id, warning: String::new() })
            }
            Err(error) => {
                if let Err(undo) = self.forget_network(&network) {
                    tracing::error!(network = network.name, error = %undo, "a network that failed could not be undone");
                }
                Err(error)
            }
        }
    }

    fn put_into_kernel(&self, network: &mut NetworkRecord) -> Result<()> {
        if network.attachment == Attachment::Joined {
            let plan = self.network_plan(network)?;
            let rules = network.subnet_rules();
            network.side = self.executor.ensure_network(&network.id, network.bridge_name(), &plan, &rules)?;
            self.forwarding(network)?;
            self.filter.add_network(&network.side.filter)?;
        }
        network.stage = Stage::There;
        self.put_network(network)
    }

    fn drafted(&self, request: NetworkCreateRequest) -> Result<NetworkRecord> {
        let ipam = request.ipam.unwrap_or_default();
        if let Some(driver) = ipam.driver.as_deref().filter(|driver| !matches!(*driver, "" | "default")) {
            return Err(Error::invalid(format!("ipam driver {driver:?} is not known: default is the only one")));
        }
        let Ipam { config, options: ipam_options, .. } = ipam;
        let driver = request.driver.filter(|driver| !driver.is_empty()).unwrap_or_else(|| "bridge".to_owned());
        let driver = self.driver(&driver)?.name().to_owned();
        let config = config.unwrap_or_default();
        let has_v6 = config.iter().any(|entry| entry.subnet.as_deref().is_some_and(|subnet| subnet.contains(':')));
        Ok(NetworkRecord {
            id: new_id()?,
            name: request.name,
            driver,
            created_ns: now_ns(),
            internal: request.internal.unwrap_or(false),
            attachable: request.attachable.unwrap_or(false),
            enable_ipv4: request.enable_ipv4.unwrap_or(true),
            enable_ipv6: request.enable_ipv6.unwrap_or(false) || has_v6,
            ipam_options: ipam_options.unwrap_or_default(),
            ipam_config: config,
            options: request.options.unwrap_or_default().into_iter().collect::<BTreeMap<_, _>>(),
            labels: request.labels.unwrap_or_default(),
            attachment: Attachment::Isolated,
            publishes: false,
            pools: Vec::new(),
            side: sampan_network::HostSide::default(),
            stage: Stage::Making,
        })
    }

    /// Pools as configured, and chosen ones where none is.
    fn give_subnets(&self, network: &mut NetworkRecord) -> Result<()> {
        if network.enable_ipv6 && !self.shared.facts.has("ipv6") {
            return Err(Error::unsupported("IPv6 is off on this host: networks can have IPv4 alone"));
        }
        if !network.enable_ipv4 && !network.enable_ipv6 {
            return Err(Error::invalid("IPv4 or IPv6 must be enabled"));
        }
        let others: Vec<(IpNet, String)> = {
            let state = self.state();
            let pools = |other: &NetworkRecord| {
                let name = format!("network {}", other.name);
                other.pools.iter().map(|pool| (pool.subnet, name.clone())).collect::<Vec<_>>()
            };
            state.networks.values().flat_map(pools).collect()
        };
        let routes: Vec<IpNet> = self.executor.host_routes()?;
        let mut taken: Vec<IpNet> = others.iter().map(|(net, _)| *net).chain(routes.iter().copied()).collect();
        for entry in &network.ipam_config {
            let pool = configured(entry)?;
            let routed = routes.iter().map(|net| (*net, format!("the host's route to {net}")));
            if let Some((_, other)) = others.iter().cloned().chain(routed).find(|(net, _)| meets(net, &pool.subnet)) {
                return Err(IpamError::Overlap { wanted: pool.subnet, other }.into());
            }
            if network.pools.iter().any(|known| meets(&known.subnet, &pool.subnet)) {
                let other = "another subnet of the same network".to_owned();
                return Err(IpamError::Overlap { wanted: pool.subnet, other }.into());
            }
            if pool.subnet.addr().is_ipv4() && !network.enable_ipv4 {
                return Err(Error::invalid(format!(
                    "IPv4 is off for the network, but subnet {} is given",
                    pool.subnet
                )));
            }
            taken.push(pool.subnet);
            network.pools.push(pool);
        }
        if network.enable_ipv4 && !network.pools.iter().any(|pool| pool.subnet.addr().is_ipv4()) {
            network.pools.push(Pool::new(choose_subnet(&default_pools(), &taken)?, None, true, None, &[])?);
        }
        if network.enable_ipv6 && !network.pools.iter().any(|pool| pool.subnet.addr().is_ipv6()) {
            let subnet = choose_subnet6(self.shared.instance.as_str(), &network.id, &taken)?;
            network.pools.push(Pool::new(subnet, None, true, None, &[])?);
        }
        let shown = |pool: &Pool| {
            let given = network.ipam_config.iter().find(|entry| {
                entry
                    .subnet
                    .as_deref()
                    .and_then(|text| text.parse::<IpNet>().ok())
                    .is_some_and(|net| net.trunc() == pool.subnet)
            });
            IpamConfig {
                subnet: Some(pool.subnet.to_string()),
                gateway: pool.gateway.map(|address| address.to_string()),
                ..given.cloned().unwrap_or_default()
            }
        };
        network.ipam_config = network.pools.iter().map(shown).collect();
        Ok(())
    }

    /// `network rm`.
    pub(super) fn remove(&self, reference: &str) -> Result<()> {
        let _shape = lock(&self.shape);
        let network = {
            let mut state = self.state();
            let network = state.find(reference)?.clone();
            if network.is_predefined() {
                let name = &network.name;
                return Err(Error::forbidden(format!("{name} is a pre-defined network and cannot be removed")));
            }
            let active: Vec<String> = state
                .endpoints_in(&network.id)
                .map(|endpoint| {
                    let short = endpoint.id.get(..12).unwrap_or(&endpoint.id);
                    format!("name:{:?} id:{short:?}", endpoint.container_name)
                })
                .collect();
            if !active.is_empty() {
                let (name, id) = (&network.name, &network.id);
                let list = active.join(", ");
                return Err(Error::forbidden(format!(
                    "error while removing network: network {name} id {id} has active endpoints ({list})"
                )));
            }
            // No container joins from here on.
            if let Some(known) = state.networks.get_mut(&network.id) {
                known.stage = Stage::Going;
            }
            NetworkRecord { stage: Stage::Going, ..network }
        };
        self.put_network(&network)?;
        if let Err(error) = self.filter.remove_network(&network.side.filter) {
            tracing::warn!(network = network.name, %error, "the packet filter did not know the network; it is set up anew");
            self.forget_network(&network)?;
            self.rebuild_filter();
        } else {
            self.forget_network(&network)?;
        }
        if let Err(error) = self.driver(&network.driver).and_then(|driver| Ok(driver.removed(&network.spec())?)) {
            tracing::warn!(network = network.name, %error, "the driver failed to forget a network");
        }
        self.tell(&network, "destroy", []);
        Ok(())
    }

    /// Tells an event of a network.
    pub(super) fn tell<const N: usize>(&self, network: &NetworkRecord, action: &str, more: [(&str, String); N]) {
        let own = [("name", network.name.clone()), ("type", network.driver.clone())];
        let attributes = own.into_iter().chain(more).map(|(key, value)| (key.to_owned(), value));
        self.shared.events.publish(EventMessageTypeEnum::NETWORK, action, &network.id, attributes);
    }
}

fn configured(entry: &IpamConfig) -> Result<Pool> {
    fn given(text: &Option<String>) -> Option<&str> {
        text.as_deref().filter(|text| !text.is_empty())
    }
    let net = |what: &str, text: &str| -> Result<IpNet> {
        text.parse().map_err(|_| {
            Error::invalid(format!("invalid {what} {text:?}: an address with a prefix length is expected"))
        })
    };
    let address = |what: &str, text: &str| -> Result<IpAddr> {
        text.parse().map_err(|_| Error::invalid(format!("invalid {what} {text:?}: an address is expected")))
    };
    let Some(subnet) = given(&entry.subnet) else {
        return Err(Error::invalid("a gateway, ip-range or auxiliary address needs a subnet"));
    };
    let subnet = net("subnet", subnet)?;
    if subnet.trunc() != subnet {
        let right = subnet.trunc();
        return Err(Error::invalid(format!("invalid subnet {subnet}: it should be {right}")));
    }
    let gateway = given(&entry.gateway).map(|text| address("gateway", text)).transpose()?;
    let range = given(&entry.ip_range).map(|text| net("ip-range", text)).transpose()?;
    let auxiliary = entry.auxiliary_addresses.iter().flatten().map(|(_, text)| address("auxiliary address", text));
    let auxiliary = auxiliary.collect::<Result<Vec<_>>>()?;
    Ok(Pool::new(subnet, gateway, true, range, &auxiliary)?)
}
