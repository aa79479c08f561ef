//! Carries out checked plans. Each step makes sure that something is there; what was made is taken back when a later
//! step fails. All of it blocks: call it from a thread that may.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::filter::{BridgeFilter, NetworkFilter};
use crate::ipam::fnv;
use crate::links::{self, Found, Links, Spec};
use crate::netlink::NetlinkError;
use crate::netns::inside;
use crate::plan::Place;
use crate::validate::{Act, Labels, Mac, Make, Meaning, NewLink, SubnetRule, Validated};

/// Why a plan could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    /// The kernel refused a step.
    #[error("{step}: {source}")]
    Kernel {
        step: String,
        #[source]
        source: NetlinkError,
    },
    /// The kernel's other interfaces failed.
    #[error("{step}: {source}")]
    File {
        step: String,
        #[source]
        source: io::Error,
    },
    /// A link that the plan stands on is not there.
    #[error("{0}")]
    Missing(String),
    /// A link of that name is another's.
    #[error("link {0} exists and is not this engine's: choose another name")]
    Foreign(String),
}

fn kernel(step: impl Into<String>) -> impl FnOnce(NetlinkError) -> ExecuteError {
    let step = step.into();
    move |source| ExecuteError::Kernel { step, source }
}

/// What a network has on the host. Kept, so that endpoints can join and all of it can be undone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSide {
    /// The kernel's names by label.
    pub links: BTreeMap<String, String>,
    pub labels: Labels,
    pub filter: NetworkFilter,
}

/// What an endpoint has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// Links on the host; their other ends go with them.
    pub host: Vec<String>,
    /// Names of all links inside of the endpoint.
    pub inside: Vec<String>,
    /// Those of them that have no end on the host.
    pub alone: Vec<String>,
    /// The hardware address of the first link inside.
    pub mac: Option<Mac>,
}

/// A link with this instance's mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    pub name: String,
    /// Id of the network or endpoint; empty for one that was never marked, which nothing claims.
    pub object: String,
}

/// Carries out plans for one instance, in the namespace of the thread that opened it.
#[derive(Debug)]
pub struct Executor {
    instance: String,
    links: Mutex<Links>,
}

impl Executor {
    /// For an instance: six letters and digits, which begin the kernel's names.
    pub fn open(instance: &str) -> io::Result<Self> {
        Ok(Self { instance: instance.to_owned(), links: Mutex::new(Links::open()?) })
    }

    fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alias(&self, object: &str, label: &str) -> String {
        format!("sampan:{}:{object}:{label}", self.instance)
    }

    /// What the kernel's names of this instance's links begin with.
    fn prefix(&self) -> String {
        format!("sp{:.6}-", self.instance)
    }

    /// Such as `sp1a2b3c-k3f9zq`: the kernel allows 15 bytes. `attempt` makes another name when one is taken.
    fn name(&self, object: &str, label: &str, attempt: u8) -> String {
        const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        let mut hash = fnv(format!("{object}/{label}/{attempt}").as_bytes());
        let mut name = self.prefix();
        for _ in 0..6 {
            name.push(char::from(DIGITS[(hash & 31) as usize]));
            hash >>= 5;
        }
        name
    }

    /// Makes sure that the host's side of a network is there. `bridge_name` is what the user wants the first bridge to
    /// be called. Twice the same changes nothing.
    pub fn ensure_network(
        &self,
        network: &str,
        bridge_name: Option<&str>,
        plan: &Validated,
        subnets: &[SubnetRule],
    ) -> Result<HostSide, ExecuteError> {
        let mut made = Vec::new();
        let mut links = self.links();
        let result = self.network_steps(&mut links, network, bridge_name, plan, subnets, &mut made);
        if result.is_err() {
            for name in made.iter().rev() {
                let _ = links.delete(name);
            }
        }
        result
    }

    fn network_steps(
        &self,
        links: &mut Links,
        network: &str,
        mut bridge_name: Option<&str>,
        plan: &Validated,
        subnets: &[SubnetRule],
        made: &mut Vec<String>,
    ) -> Result<HostSide, ExecuteError> {
        let mut side = HostSide { labels: plan.labels().clone(), ..HostSide::default() };
        side.filter.subnets = subnets.iter().map(|rule| rule.subnet).collect();
        let mut index = BTreeMap::new();
        for act in &plan.acts {
            match act {
                Act::Link(new) => {
                    let wanted = if new.make == Make::Bridge { bridge_name.take() } else { None };
                    let found = self.ensure_host_link(links, network, new, wanted, &index, made)?;
                    if new.make == Make::Bridge {
                        let name = found.name.clone();
                        bridge_settings(&name);
                        side.filter.bridges.push(BridgeFilter {
                            name,
                            isolate: false,
                            internal: false,
                            no_inter_container: false,
                        });
                    }
                    side.links.insert(new.label.clone(), found.name);
                    index.insert(new.label.as_str(), found.index);
                }
                Act::Address { label, cidr } => {
                    let (name, at) = (&side.links[label], index[label.as_str()]);
                    if cidr.addr().is_ipv6() {
                        enable_ipv6(name)?;
                    }
                    links.add_address(at, *cidr).map_err(kernel(format!("address {cidr} on {name}")))?;
                }
                Act::Up(label) => {
                    let (name, at) = (&side.links[label], index[label.as_str()]);
                    links.set_up(at).map_err(kernel(format!("bring up {name}")))?;
                }
                Act::Filter(meaning) => mean(&mut side, meaning),
                Act::Route { .. } => {}
            }
        }
        Ok(side)
    }

    fn ensure_host_link(
        &self,
        links: &mut Links,
        network: &str,
        new: &NewLink,
        wanted: Option<&str>,
        index: &BTreeMap<&str, u32>,
        made: &mut Vec<String>,
    ) -> Result<Found, ExecuteError> {
        let alias = self.alias(network, &new.label);
        let look = |links: &mut Links, name: &str| links.find(name).map_err(kernel(format!("look for link {name}")));
        let attempts = (0..=u8::MAX).map(|attempt| self.name(network, &new.label, attempt));
        for name in wanted.map(str::to_owned).into_iter().chain(attempts) {
            if let Some(found) = look(links, &name)? {
                if found.alias == alias {
                    if let Some(master) = new.master.as_deref().and_then(|label| index.get(label)) {
                        links
                            .set_master(found.index, *master)
                            .map_err(kernel(format!("put {name} into its bridge")))?;
                    }
                    return Ok(found);
                }
                if wanted == Some(&name) {
                    return Err(ExecuteError::Foreign(name));
                }
                continue;
            }
            // A name that is the user's is given together with the mark: whoever dies between the making and the marking
            // leaves a link that is known as this instance's by the name that it was made with.
            if wanted == Some(&name) {
                continue;
            }
            let kind = match &new.make {
                Make::Bridge => links::Kind::Bridge,
                Make::Vxlan { vni, port, local } => links::Kind::Vxlan { vni: *vni, port: *port, local: *local },
                _ => links::Kind::Dummy,
            };
            // Without an address of its own a bridge takes that of a port, and its neighbours would see it change.
            let mac = new.mac.or_else(|| (new.make == Make::Bridge).then(|| steady_mac(&alias)));
            let master = new.master.as_deref().and_then(|label| index.get(label)).copied();
            let spec = Spec { name: &name, kind, mtu: new.mtu, mac, master, namespace: None };
            links.create(&spec).map_err(kernel(format!("make link {name}")))?;
            made.push(name.clone());
            let vanished = || ExecuteError::Missing(format!("link {name} vanished while it was made"));
            let Some(user) = wanted else {
                links.mark(&name, &alias, None).map_err(kernel(format!("mark link {name}")))?;
                return look(links, &name)?.ok_or_else(vanished);
            };
            let index = look(links, &name)?.ok_or_else(vanished)?.index;
            links.mark_renamed(index, user, &alias).map_err(kernel(format!("mark link {user}")))?;
            made.push(user.to_owned());
            return look(links, user)?.ok_or_else(vanished);
        }
        Err(ExecuteError::Missing("no free name for a link".to_owned()))
    }

    /// Removes the host's side of a network. Idempotent.
    pub fn remove_network(&self, side: &HostSide) -> Result<(), ExecuteError> {
        let mut links = self.links();
        for name in side.links.values() {
            let mine = links.find(name).map_err(kernel(format!("look for link {name}")))?;
            if mine.is_some_and(|found| self.object_of(&found).is_some()) {
                links.delete(name).map_err(kernel(format!("remove link {name}")))?;
            }
        }
        Ok(())
    }

    /// Joins an endpoint. A left-over of the same endpoint is replaced.
    pub fn join(
        &self,
        endpoint: &str,
        namespace: &impl AsFd,
        plan: &Validated,
        network: &HostSide,
    ) -> Result<Joined, ExecuteError> {
        let namespace = namespace.as_fd();
        let mut joined = Joined { inside: plan.names.values().cloned().collect(), ..Joined::default() };
        let outside = self.host_steps(endpoint, namespace, plan, network, &mut joined);
        let result = outside.and_then(|()| inside_steps(namespace, plan));
        match result {
            Ok(mac) => {
                joined.mac = mac;
                self.settle(&joined, network);
                Ok(joined)
            }
            Err(error) => {
                let _ = self.leave(&joined, Some(&namespace));
                Err(error)
            }
        }
    }

    /// The kernel notices a carrier some time after it is there, and drops what comes earlier: the first packet of a
    /// container would be sent again after a second. To ask for a link makes it look at once.
    fn settle(&self, joined: &Joined, network: &HostSide) {
        let mut links = self.links();
        let bridges = network.filter.bridges.iter().map(|bridge| &bridge.name);
        for name in joined.host.iter().chain(bridges) {
            let _ = links.find(name);
        }
    }

    fn host_steps(
        &self,
        endpoint: &str,
        namespace: BorrowedFd<'_>,
        plan: &Validated,
        network: &HostSide,
        joined: &mut Joined,
    ) -> Result<(), ExecuteError> {
        let mut links = self.links();
        let mut names: BTreeMap<&str, String> = BTreeMap::new();
        for act in &plan.acts {
            match act {
                Act::Link(new) if new.place == Place::Host => {
                    let master = new.master.as_ref().and_then(|label| network.links.get(label));
                    let name = self.pair(&mut links, endpoint, namespace, plan, new, master)?;
                    joined.host.push(name.clone());
                    let apart = master.map(|bridge| {
                        !bridges_are_filtered()
                            && network
                                .filter
                                .bridges
                                .iter()
                                .any(|filter| filter.name == *bridge && filter.no_inter_container)
                    });
                    let alias = self.alias(endpoint, &new.label);
                    links.mark(&name, &alias, apart).map_err(kernel(format!("mark link {name}")))?;
                    names.insert(&new.label, name);
                }
                Act::Link(new) => {
                    let parent = |links: &mut Links, name: &str| {
                        let found = links.find(name).map_err(kernel(format!("look for link {name}")))?;
                        found
                            .map(|found| found.index)
                            .ok_or_else(|| ExecuteError::Missing(format!("the host has no link {name}")))
                    };
                    let kind = match &new.make {
                        Make::Macvlan { parent: name, mode } => {
                            links::Kind::Macvlan { parent: parent(&mut links, name)?, mode: *mode }
                        }
                        Make::Ipvlan { parent: name } => links::Kind::Ipvlan { parent: parent(&mut links, name)? },
                        _ => links::Kind::Dummy,
                    };
                    let name = &plan.names[&new.label];
                    let spec =
                        Spec { name, kind, mtu: new.mtu, mac: new.mac, master: None, namespace: Some(namespace) };
                    links.create(&spec).map_err(kernel(format!("make link {name} in the endpoint")))?;
                    joined.alone.push(name.clone());
                }
                Act::Up(label) => {
                    if let Some(name) = names.get(label.as_str()) {
                        links.set_up_by_name(name).map_err(kernel(format!("bring up {name}")))?;
                    }
                }
                Act::Address { cidr, .. } => {
                    // Another endpoint may have had the address, with another hardware address.
                    for bridge in network.filter.bridges.iter() {
                        if let Ok(Some(found)) = links.find(&bridge.name) {
                            let _ = links.forget_neighbour(found.index, cidr.addr());
                        }
                    }
                }
                Act::Route { .. } | Act::Filter(_) => {}
            }
        }
        Ok(())
    }

    /// A pair, one end here and one inside.
    fn pair(
        &self,
        links: &mut Links,
        endpoint: &str,
        namespace: BorrowedFd<'_>,
        plan: &Validated,
        new: &NewLink,
        master: Option<&String>,
    ) -> Result<String, ExecuteError> {
        let Make::Veth { peer } = &new.make else {
            return Err(ExecuteError::Missing(format!("{}: not a pair", new.label)));
        };
        let alias = self.alias(endpoint, &new.label);
        let look = |name: &str| kernel(format!("look for link {name}"));
        let master = match master {
            Some(name) => Some(links.find(name).map_err(look(name))?.map(|found| found.index).ok_or_else(|| {
                ExecuteError::Missing(format!(
                    "bridge {name} is gone: was it removed by hand? Restart the engine to restore it"
                ))
            })?),
            None => None,
        };
        let inner = plan.names[peer].as_str();
        for attempt in 0..=u8::MAX {
            let name = self.name(endpoint, &new.label, attempt);
            let kind = links::Kind::Veth { peer: inner, mac: new.mac, namespace };
            let spec = Spec { name: &name, kind, mtu: new.mtu, mac: None, master, namespace: None };
            match links.create(&spec) {
                Ok(()) => return Ok(name),
                Err(error) if error.errno() == Some(libc::EEXIST) => match links.find(&name).map_err(look(&name))? {
                    // A left-over of this endpoint.
                    Some(found) if found.alias == alias => {
                        links.delete(&name).map_err(kernel(format!("remove link {name}")))?;
                        links.create(&spec).map_err(kernel(format!("make link {name}")))?;
                        return Ok(name);
                    }
                    Some(_) => {}
                    // The name is free here, so it is the one inside that is taken.
                    None => return Err(kernel(format!("make link {inner} in the endpoint"))(error)),
                },
                Err(error) => return Err(kernel(format!("make link {name}"))(error)),
            }
        }
        Err(ExecuteError::Missing("no free name for a link".to_owned()))
    }

    /// Takes an endpoint out. `namespace` is not needed when the namespace goes too. Idempotent.
    pub fn leave(&self, joined: &Joined, namespace: Option<&impl AsFd>) -> Result<(), ExecuteError> {
        {
            let mut links = self.links();
            for name in &joined.host {
                links.delete(name).map_err(kernel(format!("remove link {name}")))?;
            }
        }
        if let Some(namespace) = namespace
            && !joined.alone.is_empty()
        {
            inside(namespace, || {
                let mut links = Links::open()?;
                for name in &joined.alone {
                    links.delete(name).map_err(io::Error::other)?;
                }
                Ok(())
            })
            .map_err(|source| ExecuteError::File { step: "remove links in the endpoint".to_owned(), source })?;
        }
        Ok(())
    }

    /// Puts an endpoint's links back into a bridge that was made anew.
    pub fn attach_again(&self, joined: &Joined, network: &HostSide) -> Result<(), ExecuteError> {
        let Some(bridge) = network.filter.bridges.first() else { return Ok(()) };
        let mut links = self.links();
        let master = links.find(&bridge.name).map_err(kernel(format!("look for link {}", bridge.name)))?;
        let Some(master) = master.map(|found| found.index) else { return Ok(()) };
        for name in &joined.host {
            let found = links.find(name).map_err(kernel(format!("look for link {name}")))?;
            if let Some(found) = found {
                links.set_master(found.index, master).map_err(kernel(format!("put {name} into its bridge")))?;
                let apart = bridge.no_inter_container && !bridges_are_filtered();
                links.mark(name, &found.alias, Some(apart)).map_err(kernel(format!("mark link {name}")))?;
            }
        }
        Ok(())
    }

    /// For an endpoint whose namespace goes: cuts it off its network now, so that its addresses are free. The kernel
    /// removes the links with the namespace, many at once, which is far quicker than one by one.
    pub fn abandon(&self, joined: &Joined) -> Result<(), ExecuteError> {
        let mut links = self.links();
        for name in &joined.host {
            match links.cut_off(name) {
                Err(error) if error.errno() == Some(libc::ENODEV) => {}
                // No port of a bridge.
                Err(_) => {
                    links.delete(name).map_err(kernel(format!("remove link {name}")))?;
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Lets what an endpoint sends to everywhere leave by these gateways, one of each family at most.
    pub fn leave_by(&self, namespace: &impl AsFd, gateways: &[IpAddr]) -> Result<(), ExecuteError> {
        let route = || {
            let mut links = Links::open()?;
            for gateway in gateways {
                let everywhere =
                    if gateway.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
                let everywhere = IpNet::new(everywhere, 0).map_err(io::Error::other)?;
                links.add_route(everywhere, Some(*gateway), None).map_err(io::Error::other)?;
            }
            Ok(())
        };
        let step = || "change the default route in the endpoint".to_owned();
        inside(namespace, route).map_err(|source| ExecuteError::File { step: step(), source })
    }

    /// The network or endpoint that a link was made for; empty when whoever made it died before it was marked.
    fn object_of(&self, found: &Found) -> Option<String> {
        if found.alias.is_empty() && found.name.starts_with(&self.prefix()) {
            return Some(String::new());
        }
        let rest = found.alias.strip_prefix("sampan:")?.strip_prefix(self.instance.as_str())?.strip_prefix(':')?;
        rest.split_once(':').map(|(object, _)| object.to_owned())
    }

    /// Every link on the host that carries this instance's mark, or only its kind of name: its maker died in between.
    pub fn marked(&self) -> Result<Vec<Marked>, ExecuteError> {
        let list = self.links().list().map_err(kernel("list the links"))?;
        let marked = |found: Found| self.object_of(&found).map(|object| Marked { name: found.name, object });
        Ok(list.into_iter().filter_map(marked).collect())
    }

    /// Removes a link of this instance that nothing claims.
    pub fn remove_marked(&self, marked: &Marked) -> Result<(), ExecuteError> {
        let name = &marked.name;
        self.links().delete(name).map(|_| ()).map_err(kernel(format!("remove link {name}")))
    }

    /// Subnets that the host itself reaches, without default routes and without `own` links: what pools must avoid.
    pub fn host_routes(&self) -> Result<Vec<IpNet>, ExecuteError> {
        let mut links = self.links();
        let own: Vec<u32> = {
            let list = links.list().map_err(kernel("list the links"))?;
            list.iter().filter(|found| self.object_of(found).is_some()).map(|found| found.index).collect()
        };
        let routes = links.routes().map_err(kernel("list the routes"))?;
        let foreign = routes
            .into_iter()
            .filter(|(net, link)| net.prefix_len() > 0 && !link.is_some_and(|link| own.contains(&link)));
        Ok(foreign.map(|(net, _)| net).collect())
    }

    /// The host's addresses.
    pub fn host_addresses(&self) -> Result<Vec<IpAddr>, ExecuteError> {
        let list = self.links().addresses().map_err(kernel("list the addresses"))?;
        Ok(list.into_iter().map(|(_, net)| net.addr()).collect())
    }
}

fn mean(side: &mut HostSide, meaning: &Meaning) {
    let label = match meaning {
        Meaning::Masquerade(subnet) => {
            side.filter.masquerade.push(*subnet);
            return;
        }
        Meaning::Isolate(label) | Meaning::Internal(label) | Meaning::NoInterContainer(label) => label,
    };
    let name = side.links.get(label);
    let Some(bridge) = side.filter.bridges.iter_mut().find(|bridge| Some(&bridge.name) == name) else { return };
    match meaning {
        Meaning::Isolate(_) => bridge.isolate = true,
        Meaning::Internal(_) => bridge.internal = true,
        Meaning::NoInterContainer(_) => bridge.no_inter_container = true,
        Meaning::Masquerade(_) => {}
    }
}

/// Whether the filter sees what a bridge passes on; then the ports of a bridge need not be kept apart by themselves, and
/// what is published there can be reached.
fn bridges_are_filtered() -> bool {
    ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"]
        .iter()
        .all(|key| fs::read_to_string(Path::new("/proc/sys/net/bridge").join(key)).is_ok_and(|text| text.trim() == "1"))
}

/// Ports that are published on the host's loopback are forwarded to bridges; advertisements from inside mean nothing.
fn bridge_settings(name: &str) {
    for (family, key, value) in
        [("ipv4", "route_localnet", "1"), ("ipv6", "accept_ra", "0"), ("ipv6", "accept_dad", "0")]
    {
        // Absent where the kernel has no IPv6.
        let _ = fs::write(Path::new("/proc/sys/net").join(family).join("conf").join(name).join(key), value);
    }
}

/// Links may come with IPv6 off, by the namespace's defaults.
fn enable_ipv6(name: &str) -> Result<(), ExecuteError> {
    let switch = Path::new("/proc/sys/net/ipv6/conf").join(name).join("disable_ipv6");
    fs::write(switch, "0").map_err(|source| ExecuteError::File { step: format!("turn on IPv6 for {name}"), source })
}

/// A locally administered address that follows from a name.
fn steady_mac(name: &str) -> Mac {
    let hash = fnv(name.as_bytes()).to_be_bytes();
    [0x02, 0x42, hash[4], hash[5], hash[6], hash[7]]
}

/// The steps in the endpoint's namespace, in one visit.
fn inside_steps(namespace: BorrowedFd<'_>, plan: &Validated) -> Result<Option<Mac>, ExecuteError> {
    let mut failed = None;
    let result = inside(&namespace, || {
        let mut links = Links::open()?;
        match endpoint_acts(&mut links, plan) {
            Ok(mac) => Ok(mac),
            Err(error) => {
                failed = Some(error);
                Ok(None)
            }
        }
    });
    match failed {
        Some(error) => Err(error),
        None => {
            result.map_err(|source| ExecuteError::File { step: "enter the endpoint's namespace".to_owned(), source })
        }
    }
}

fn endpoint_acts(links: &mut Links, plan: &Validated) -> Result<Option<Mac>, ExecuteError> {
    let mut index = BTreeMap::new();
    let mut mac = None;
    for (label, name) in &plan.names {
        let found = links.find(name).map_err(kernel(format!("look for {name} in the endpoint")))?;
        let found = found.ok_or_else(|| ExecuteError::Missing(format!("{name} is not in the endpoint")))?;
        mac = mac.or(found.mac);
        index.insert(label.as_str(), found.index);
    }
    for act in &plan.acts {
        match act {
            Act::Address { label, cidr } => {
                let name = &plan.names[label];
                if cidr.addr().is_ipv6() {
                    enable_ipv6(name)?;
                }
                let step = format!("address {cidr} on {name} in the endpoint");
                links.add_address(index[label.as_str()], *cidr).map_err(kernel(step))?;
            }
            Act::Up(label) => {
                if let Some(at) = index.get(label.as_str()) {
                    links.set_up(*at).map_err(kernel(format!("bring up {} in the endpoint", plan.names[label])))?;
                }
            }
            Act::Route { destination, gateway, label } => {
                let at = label.as_deref().and_then(|label| index.get(label)).copied();
                let step = format!("route to {destination} in the endpoint");
                links.add_route(*destination, *gateway, at).map_err(kernel(step))?;
            }
            Act::Link(_) | Act::Filter(_) => {}
        }
    }
    Ok(mac)
}
