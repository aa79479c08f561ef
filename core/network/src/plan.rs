//! The steps of a plan and what drivers are told; see `wit/network.wit`. Strings are the driver's words: the validator
//! parses them.

use serde::{Deserialize, Serialize};

/// Where a link lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    Host,
    Endpoint,
}

/// The other end of a pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Veth {
    pub peer_label: String,
    pub peer_place: Place,
}

/// A link with an address of its own on one of the host's links.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Macvlan {
    /// The host's link.
    pub parent: String,
    /// `bridge`, `private`, `vepa` or `passthru`.
    pub mode: String,
}

/// A tunnel end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vxlan {
    pub vni: u32,
    pub port: u16,
    /// The host's address that it sends from.
    pub local: Option<String>,
}

/// What kind of link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkKind {
    Bridge,
    Veth(Veth),
    Vxlan(Vxlan),
    Macvlan(Macvlan),
    /// On the host's link of that name.
    Ipvlan(String),
    Dummy,
}

/// A link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub label: String,
    pub kind: LinkKind,
    pub place: Place,
    pub mtu: Option<u32>,
    /// In an endpoint it is the address of the end inside.
    pub mac: Option<String>,
    /// The label of a bridge.
    pub master: Option<String>,
}

/// An address of a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    pub label: String,
    pub cidr: String,
}

/// A route in the endpoint's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub destination: String,
    pub gateway: Option<String>,
    pub label: Option<String>,
}

/// What the packet filter shall mean.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Intent {
    /// Source translation for a subnet that leaves by other links than the network's.
    Masquerade(String),
    /// No traffic between this network, by the label of its bridge, and the instance's others.
    Isolate(String),
    /// No traffic to or from other hosts.
    Internal(String),
    /// No traffic among the network's own endpoints.
    NoInterContainer(String),
}

/// A step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    Link(Link),
    /// The label of an endpoint's link and the name that it has inside.
    Rename(String, String),
    Address(Address),
    Up(String),
    Route(Route),
    Filter(Intent),
}

/// An object of the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    pub id: String,
    pub name: String,
}

/// A subnet of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    pub cidr: String,
    pub gateway: String,
}

/// A network as drivers see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    pub network: Object,
    pub subnets: Vec<Subnet>,
    pub internal: bool,
    pub ipv6: bool,
    pub options: Vec<(String, String)>,
}

/// An endpoint as drivers see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSpec {
    pub endpoint: Object,
    /// CIDRs, one for each subnet at most.
    pub addresses: Vec<String>,
    pub mac: Option<String>,
    /// What the core proposes.
    pub interface_name: String,
    pub options: Vec<(String, String)>,
}

/// How endpoints of a driver's networks live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attachment {
    /// In a namespace of their own, joined by plans.
    Joined,
    /// In the host's namespace.
    Host,
    /// In a namespace of their own with nothing but a loopback.
    Isolated,
}
