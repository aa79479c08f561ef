//! What the store keeps of networks, endpoints and published ports.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use bollard_stubs::models::{EndpointSettings, IpamConfig, PortBinding, PortMap};
use ipnet::IpNet;
use sampan_network::ipam::Pool;
use sampan_network::plan::{Attachment, EndpointSpec, NetworkSpec, Object, Subnet};
use sampan_network::{HostSide, Joined, Publish, SubnetRule};
use sampan_store::Collection;
use serde::{Deserialize, Serialize};

/// Networks by id.
pub(super) const NETWORKS: Collection<NetworkRecord> = Collection::new("networks");
/// Endpoints by `container/network`.
pub(super) const ENDPOINTS: Collection<EndpointRecord> = Collection::new("endpoints");
/// Published ports by container.
pub(super) const PUBLISHED: Collection<PublishedRecord> = Collection::new("published");

/// Names of networks that are there from the start.
pub(super) const PREDEFINED: [&str; 3] = ["bridge", "host", "none"];

/// How far something is: what is not there is undone after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Stage {
    Making,
    There,
    Going,
}

/// A network.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct NetworkRecord {
    pub id: String,
    pub name: String,
    pub driver: String,
    /// Nanoseconds since the epoch.
    pub created_ns: u64,
    pub internal: bool,
    pub attachable: bool,
    pub enable_ipv4: bool,
    pub enable_ipv6: bool,
    pub ipam_options: HashMap<String, String>,
    /// As given, completed by what was chosen.
    pub ipam_config: Vec<IpamConfig>,
    pub options: BTreeMap<String, String>,
    pub labels: HashMap<String, String>,
    pub attachment: Attachment,
    /// Whether ports of its endpoints are published by the engine.
    pub publishes: bool,
    /// Leases are not kept here: they follow from the endpoints.
    pub pools: Vec<Pool>,
    pub side: HostSide,
    pub stage: Stage,
}

impl NetworkRecord {
    pub(super) fn is_predefined(&self) -> bool {
        PREDEFINED.contains(&self.name.as_str())
    }

    /// Whether endpoints know each other by name: as with Docker, not on the default bridge.
    pub(super) fn has_names(&self) -> bool {
        self.attachment == Attachment::Joined && !self.is_predefined()
    }

    pub(super) fn given_options(&self) -> Vec<(String, String)> {
        self.options.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    pub(super) fn spec(&self) -> NetworkSpec {
        let subnet = |pool: &Pool| Subnet {
            cidr: pool.subnet.to_string(),
            gateway: pool.gateway.map(|address| address.to_string()).unwrap_or_default(),
        };
        NetworkSpec {
            network: Object { id: self.id.clone(), name: self.name.clone() },
            subnets: self.pools.iter().map(subnet).collect(),
            internal: self.internal,
            ipv6: self.enable_ipv6,
            options: self.given_options(),
        }
    }

    pub(super) fn subnet_rules(&self) -> Vec<SubnetRule> {
        self.pools.iter().map(|pool| SubnetRule { subnet: pool.subnet, gateway: pool.gateway }).collect()
    }

    /// Links of the host that the user named.
    pub(super) fn parents(&self) -> Vec<String> {
        self.options.get("parent").into_iter().cloned().collect()
    }

    pub(super) fn bridge_name(&self) -> Option<&str> {
        let wanted = self.options.get("com.docker.network.bridge.name").map(String::as_str);
        wanted.filter(|name| !name.is_empty() && !self.is_predefined())
    }

    pub(super) fn gateway(&self, v4: bool) -> Option<IpAddr> {
        self.pools.iter().filter_map(|pool| pool.gateway).find(|address| address.is_ipv4() == v4)
    }
}

/// A container's place in a network.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct EndpointRecord {
    /// 64 hexadecimal digits.
    pub id: String,
    pub network: String,
    pub container: String,
    pub container_name: String,
    pub hostname: String,
    /// What was asked for.
    pub settings: EndpointSettings,
    /// Servers of `--dns`.
    pub dns: Vec<IpAddr>,
    pub addresses: Vec<IpNet>,
    pub mac: String,
    pub interface: String,
    pub joined: Joined,
    /// Where traffic to everywhere leaves, if by this network.
    pub gateways: Vec<IpAddr>,
    pub stage: Stage,
}

impl EndpointRecord {
    pub(super) fn key(&self) -> String {
        format!("{}/{}", self.container, self.network)
    }

    pub(super) fn address(&self, v4: bool) -> Option<IpNet> {
        self.addresses.iter().copied().find(|net| net.addr().is_ipv4() == v4)
    }

    /// By which others find it: its container's name first.
    pub(super) fn names(&self) -> Vec<String> {
        let short = self.container.get(..12).unwrap_or(&self.container);
        let aliases = self.settings.aliases.iter().flatten().map(String::as_str);
        let mut names: Vec<String> = Vec::new();
        for name in std::iter::once(self.container_name.as_str()).chain(aliases).chain([short, &self.hostname]) {
            if !name.is_empty() && !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        names
    }

    pub(super) fn spec(&self) -> EndpointSpec {
        let options = self.settings.driver_opts.iter().flatten();
        EndpointSpec {
            endpoint: Object { id: self.id.clone(), name: self.container_name.clone() },
            addresses: self.addresses.iter().map(ToString::to_string).collect(),
            mac: Some(self.mac.clone()),
            interface_name: self.interface.clone(),
            options: options.map(|(key, value)| (key.clone(), value.clone())).collect(),
        }
    }

    /// As `inspect` shows it.
    pub(super) fn shown(&self, network: &NetworkRecord) -> EndpointSettings {
        let text = |address: Option<IpAddr>| Some(address.map(|address| address.to_string()).unwrap_or_default());
        let (v4, v6) = (self.address(true), self.address(false));
        EndpointSettings {
            network_id: Some(network.id.clone()),
            endpoint_id: Some(self.id.clone()),
            gateway: text(v4.and(network.gateway(true))),
            ip_address: text(v4.map(|net| net.addr())),
            ip_prefix_len: Some(v4.map_or(0, |net| i64::from(net.prefix_len()))),
            ipv6_gateway: text(v6.and(network.gateway(false))),
            global_ipv6_address: text(v6.map(|net| net.addr())),
            global_ipv6_prefix_len: Some(v6.map_or(0, |net| i64::from(net.prefix_len()))),
            mac_address: Some(self.mac.clone()),
            dns_names: network.has_names().then(|| self.names()),
            ..self.settings.clone()
        }
    }
}

/// Ports of a container.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct PublishedRecord {
    /// With the host's ports that were chosen.
    pub map: PortMap,
    /// The same, one by one.
    pub ports: Vec<PublishedPort>,
    /// What the filter carries, shared ports apart.
    pub filter: Vec<Publish>,
    /// Containers of one group have fixed ports of the host together.
    #[serde(default)]
    pub group: Option<String>,
}

/// A port of the host that leads to a container's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PublishedPort {
    pub protocol: sampan_network::Protocol,
    pub host: std::net::SocketAddr,
    pub container: u16,
    /// Had together with the others of the group.
    #[serde(default)]
    pub shared: bool,
}

impl PublishedPort {
    /// As the API shows it.
    pub(super) fn binding(&self) -> PortBinding {
        PortBinding { host_ip: Some(self.host.ip().to_string()), host_port: Some(self.host.port().to_string()) }
    }
}
