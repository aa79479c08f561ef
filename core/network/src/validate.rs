//! The border between network drivers and the host. Pure: a plan's words become [`Act`]s, or the plan is refused.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::plan::{Intent, Link, LinkKind, Place, Step};

/// A subnet of a network, and the host's address in it if there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetRule {
    pub subnet: IpNet,
    pub gateway: Option<IpAddr>,
}

/// What the plan is for.
#[derive(Debug, Clone, Copy)]
pub enum Purpose<'a> {
    /// The host's side of a network.
    Network,
    /// A join.
    Endpoint {
        /// Labels of the network's own plan.
        network: &'a Labels,
        /// What the core leased for the endpoint.
        addresses: &'a [IpNet],
    },
}

/// What a plan may ask for.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    pub purpose: Purpose<'a>,
    pub subnets: &'a [SubnetRule],
    /// The host's links that the user named in the network's options.
    pub parents: &'a [String],
    /// The host's addresses that tunnels may send from.
    pub locals: &'a [IpAddr],
}

/// What a label of a plan stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    Bridge,
    Veth,
    Vxlan,
    Macvlan,
    Ipvlan,
    Dummy,
}

/// The labels of a plan, with kind and place.
pub type Labels = BTreeMap<String, (Kind, Place)>;

/// How traffic passes between the links on one parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MacvlanMode {
    Private,
    Vepa,
    Bridge,
    Passthru,
}

/// A link's kind with what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Make {
    Bridge,
    /// The label of the end in the endpoint.
    Veth {
        peer: String,
    },
    Vxlan {
        vni: u32,
        port: u16,
        local: Option<IpAddr>,
    },
    Macvlan {
        parent: String,
        mode: MacvlanMode,
    },
    Ipvlan {
        parent: String,
    },
    Dummy,
}

/// A hardware address.
pub type Mac = [u8; 6];

/// A link to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLink {
    pub label: String,
    pub make: Make,
    pub place: Place,
    pub mtu: Option<u32>,
    pub mac: Option<Mac>,
    pub master: Option<String>,
}

/// A checked step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    Link(NewLink),
    Address { label: String, cidr: IpNet },
    Up(String),
    Route { destination: IpNet, gateway: Option<IpAddr>, label: Option<String> },
    Filter(Meaning),
}

/// A checked intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    Masquerade(IpNet),
    Isolate(String),
    Internal(String),
    NoInterContainer(String),
}

/// A plan that was checked whole.
#[derive(Debug, Clone, Default)]
pub struct Validated {
    pub(crate) acts: Vec<Act>,
    /// Names that links have inside.
    pub(crate) names: BTreeMap<String, String>,
    labels: Labels,
}

impl Validated {
    /// The labels that this plan declares.
    #[must_use]
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// The steps.
    #[must_use]
    pub fn acts(&self) -> &[Act] {
        &self.acts
    }

    /// The gateways of routes to everywhere.
    #[must_use]
    pub fn default_gateways(&self) -> Vec<IpAddr> {
        let gateway = |act: &Act| match act {
            Act::Route { destination, gateway, .. } if destination.prefix_len() == 0 => *gateway,
            _ => None,
        };
        self.acts.iter().filter_map(gateway).collect()
    }

    /// Gives the endpoint's link further addresses, which its user asked for and the core has checked.
    pub fn add_addresses(&mut self, addresses: &[IpNet]) {
        let Some((at, label)) = self.acts.iter().enumerate().rev().find_map(|(at, act)| match act {
            Act::Address { label, .. } => Some((at + 1, label.clone())),
            _ => None,
        }) else {
            return;
        };
        let further = addresses.iter().map(|cidr| Act::Address { label: label.clone(), cidr: *cidr });
        self.acts.splice(at..at, further.collect::<Vec<_>>());
    }

    /// The plan for an endpoint whose traffic to everywhere leaves by another network.
    pub fn remove_default_routes(&mut self) {
        self.acts.retain(|act| !matches!(act, Act::Route { destination, .. } if destination.prefix_len() == 0));
    }
}

/// Why a plan is refused: which step breaks which rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the plan is refused: step {step}: {rule}: {detail}")]
pub struct Refusal {
    /// Counted from 1.
    pub step: usize,
    /// The rule.
    pub rule: &'static str,
    /// What broke it.
    pub detail: String,
}

type Broken = (&'static str, String);

/// Steps that a plan may have.
const STEPS: usize = 256;

/// Checks every step before the first one is taken.
pub fn validate(steps: &[Step], rules: &Rules<'_>) -> Result<Validated, Refusal> {
    if steps.len() > STEPS {
        let rule = "a plan has at most 256 steps";
        return Err(Refusal { step: STEPS + 1, rule, detail: steps.len().to_string() });
    }
    let mut plan = Validated::default();
    for (at, step) in steps.iter().enumerate() {
        check(step, rules, &mut plan).map_err(|(rule, detail)| Refusal { step: at + 1, rule, detail })?;
    }
    let nameless =
        plan.labels.iter().find(|(label, (_, place))| *place == Place::Endpoint && !plan.names.contains_key(*label));
    match nameless {
        Some((label, _)) => {
            Err(Refusal { step: steps.len(), rule: "a link in an endpoint is given its name", detail: label.clone() })
        }
        None => Ok(plan),
    }
}

fn check(step: &Step, rules: &Rules<'_>, plan: &mut Validated) -> Result<(), Broken> {
    let endpoint = matches!(rules.purpose, Purpose::Endpoint { .. });
    match step {
        Step::Link(link) => {
            let new = new_link(link, rules, plan)?;
            plan.acts.push(Act::Link(new));
        }
        Step::Rename(label, name) => {
            own_label(label, Some(Place::Endpoint), plan)?;
            interface_name(name)?;
            if plan.names.values().any(|taken| taken == name) {
                return Err(("names inside an endpoint differ", name.clone()));
            }
            if plan.names.insert(label.clone(), name.clone()).is_some() {
                return Err(("a link is named once", label.clone()));
            }
        }
        Step::Address(address) => {
            let place = if endpoint { Place::Endpoint } else { Place::Host };
            own_label(&address.label, Some(place), plan)?;
            let cidr = network_address(&address.cidr)?;
            let allowed = match rules.purpose {
                Purpose::Endpoint { addresses, .. } => addresses.contains(&cidr),
                Purpose::Network => rules
                    .subnets
                    .iter()
                    .any(|rule| rule.gateway == Some(cidr.addr()) && rule.subnet.prefix_len() == cidr.prefix_len()),
            };
            if !allowed {
                let rule = "addresses are the endpoint's leases or, on the host, the network's gateways";
                return Err((rule, address.cidr.clone()));
            }
            plan.acts.push(Act::Address { label: address.label.clone(), cidr });
        }
        Step::Up(label) => {
            own_label(label, None, plan)?;
            plan.acts.push(Act::Up(label.clone()));
        }
        Step::Route(route) => {
            if !endpoint {
                return Err(("routes are made in endpoints", route.destination.clone()));
            }
            let destination = network_address(&route.destination)?.trunc();
            let gateway = route.gateway.as_deref().map(|text| gateway(text, destination, rules)).transpose()?;
            if let Some(label) = &route.label {
                own_label(label, Some(Place::Endpoint), plan)?;
            }
            if gateway.is_none() && route.label.is_none() {
                return Err(("a route has a gateway or a link", route.destination.clone()));
            }
            plan.acts.push(Act::Route { destination, gateway, label: route.label.clone() });
        }
        Step::Filter(intent) => {
            if endpoint {
                return Err(("intents belong to the network's plan", format!("{intent:?}")));
            }
            plan.acts.push(Act::Filter(meaning(intent, rules, plan)?));
        }
    }
    Ok(())
}

fn gateway(text: &str, destination: IpNet, rules: &Rules<'_>) -> Result<IpAddr, Broken> {
    let address: IpAddr = text.parse().map_err(|_| ("a gateway is an address", text.to_owned()))?;
    let inside = rules.subnets.iter().any(|rule| rule.subnet.contains(&address));
    if !inside || address.is_ipv4() != destination.addr().is_ipv4() {
        return Err(("a gateway lies in a subnet of the network", text.to_owned()));
    }
    Ok(address)
}

fn meaning(intent: &Intent, rules: &Rules<'_>, plan: &Validated) -> Result<Meaning, Broken> {
    let bridge = |label: &String| match plan.labels.get(label) {
        Some((Kind::Bridge, _)) => Ok(label.clone()),
        _ => Err(("intents are about a bridge of the plan", label.clone())),
    };
    Ok(match intent {
        Intent::Masquerade(cidr) => {
            let subnet = network_address(cidr)?;
            if !rules.subnets.iter().any(|rule| rule.subnet == subnet) {
                return Err(("only the network's subnets are translated", cidr.clone()));
            }
            Meaning::Masquerade(subnet)
        }
        Intent::Isolate(label) => Meaning::Isolate(bridge(label)?),
        Intent::Internal(label) => Meaning::Internal(bridge(label)?),
        Intent::NoInterContainer(label) => Meaning::NoInterContainer(bridge(label)?),
    })
}

fn new_link(link: &Link, rules: &Rules<'_>, plan: &mut Validated) -> Result<NewLink, Broken> {
    let shown = || link.label.clone();
    let (make, kind) = make(link, rules)?;
    let place = match (rules.purpose, &make) {
        (Purpose::Network, Make::Bridge | Make::Vxlan { .. } | Make::Dummy) => Place::Host,
        (Purpose::Network, _) => {
            return Err(("a network's links are bridges, vxlan tunnels and dummies", shown()));
        }
        (Purpose::Endpoint { .. }, Make::Veth { .. }) => Place::Host,
        (Purpose::Endpoint { .. }, Make::Macvlan { .. } | Make::Ipvlan { .. } | Make::Dummy) => Place::Endpoint,
        (Purpose::Endpoint { .. }, _) => {
            return Err(("an endpoint's links are veth, macvlan, ipvlan and dummies", shown()));
        }
    };
    if link.place != place {
        return Err(("links of a network and outer ends of pairs are on the host, others in the endpoint", shown()));
    }
    if let Some(mtu) = link.mtu
        && !(68..=65_535).contains(&mtu)
    {
        return Err(("an mtu is 68 to 65535", mtu.to_string()));
    }
    let mac = link.mac.as_deref().map(mac).transpose()?;
    if let Some(master) = &link.master {
        let given = match rules.purpose {
            Purpose::Endpoint { network, .. } => network.get(master),
            Purpose::Network => plan.labels.get(master),
        };
        if !matches!(given, Some((Kind::Bridge, Place::Host))) || place != Place::Host || kind == Kind::Bridge {
            return Err(("a master is a bridge of the network, for a link on the host", master.clone()));
        }
    }
    declare(&link.label, kind, place, rules, plan)?;
    if let Make::Veth { peer } = &make {
        declare(peer, Kind::Veth, Place::Endpoint, rules, plan)?;
    }
    Ok(NewLink { label: link.label.clone(), make, place, mtu: link.mtu, mac, master: link.master.clone() })
}

fn make(link: &Link, rules: &Rules<'_>) -> Result<(Make, Kind), Broken> {
    let parent = |name: &String| {
        if rules.parents.contains(name) {
            Ok(name.clone())
        } else {
            Err(("a parent is a link that the user named in the network's options", name.clone()))
        }
    };
    Ok(match &link.kind {
        LinkKind::Bridge => (Make::Bridge, Kind::Bridge),
        LinkKind::Dummy => (Make::Dummy, Kind::Dummy),
        LinkKind::Veth(veth) => {
            if veth.peer_place != Place::Endpoint {
                return Err(("a pair's peer is in the endpoint", veth.peer_label.clone()));
            }
            (Make::Veth { peer: veth.peer_label.clone() }, Kind::Veth)
        }
        LinkKind::Vxlan(vxlan) => {
            if !(1..1 << 24).contains(&vxlan.vni) || vxlan.port == 0 {
                let rule = "a vxlan has an identifier of 24 bits and a port, neither of them 0";
                return Err((rule, format!("{} {}", vxlan.vni, vxlan.port)));
            }
            let local = vxlan.local.as_ref().map(|text| match text.parse::<IpAddr>() {
                Ok(address) if rules.locals.contains(&address) => Ok(address),
                _ => Err(("a tunnel sends from one of the host's addresses", text.clone())),
            });
            (Make::Vxlan { vni: vxlan.vni, port: vxlan.port, local: local.transpose()? }, Kind::Vxlan)
        }
        LinkKind::Macvlan(macvlan) => {
            let mode = match macvlan.mode.as_str() {
                "bridge" => MacvlanMode::Bridge,
                "private" => MacvlanMode::Private,
                "vepa" => MacvlanMode::Vepa,
                "passthru" => MacvlanMode::Passthru,
                other => return Err(("a macvlan's mode is bridge, private, vepa or passthru", other.to_owned())),
            };
            (Make::Macvlan { parent: parent(&macvlan.parent)?, mode }, Kind::Macvlan)
        }
        LinkKind::Ipvlan(name) => (Make::Ipvlan { parent: parent(name)? }, Kind::Ipvlan),
    })
}

fn declare(label: &str, kind: Kind, place: Place, rules: &Rules<'_>, plan: &mut Validated) -> Result<(), Broken> {
    let good =
        (1..=64).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if !good {
        return Err(("a label has 1 to 64 letters, digits and _.-", format!("{label:?}")));
    }
    let networks = matches!(rules.purpose, Purpose::Endpoint { network, .. } if network.contains_key(label));
    if networks || plan.labels.insert(label.to_owned(), (kind, place)).is_some() {
        return Err(("a label is declared once", label.to_owned()));
    }
    Ok(())
}

fn own_label(label: &str, wanted: Option<Place>, plan: &Validated) -> Result<(), Broken> {
    match plan.labels.get(label) {
        None => Err(("a step is about a link that the plan has made", label.to_owned())),
        Some((_, place)) if wanted.is_some_and(|wanted| wanted != *place) => {
            Err(("a step acts on links of its own side, host or endpoint", label.to_owned()))
        }
        Some(_) => Ok(()),
    }
}

fn network_address(text: &str) -> Result<IpNet, Broken> {
    text.parse().map_err(|_| ("an address has a prefix length, such as 10.0.0.2/24", text.to_owned()))
}

fn interface_name(name: &str) -> Result<(), Broken> {
    let good = (1..=15).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        && !matches!(name, "." | ".." | "lo" | "all" | "default");
    if good {
        Ok(())
    } else {
        Err(("an interface's name has 1 to 15 letters, digits and _.-, and is not lo", format!("{name:?}")))
    }
}

/// Reads `02:42:ac:11:00:02`; only addresses that a single station may have.
pub fn mac(text: &str) -> Result<Mac, (&'static str, String)> {
    let rule = "a hardware address is six bytes such as 02:42:ac:11:00:02, neither of a group nor zero";
    let broken = || (rule, text.to_owned());
    let mut bytes = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.len() == 2).ok_or_else(broken)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| broken())?;
    }
    if parts.next().is_some() || bytes[0] & 1 == 1 || bytes == [0; 6] {
        return Err(broken());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::plan::{Address, Macvlan, Route, Veth, Vxlan};
    use proptest::prelude::*;

    fn subnets() -> Vec<SubnetRule> {
        vec![SubnetRule { subnet: "172.18.0.0/16".parse().unwrap(), gateway: Some("172.18.0.1".parse().unwrap()) }]
    }

    fn link(label: &str, kind: LinkKind, place: Place) -> Step {
        Step::Link(Link { label: label.into(), kind, place, mtu: None, mac: None, master: None })
    }

    fn veth(peer: &str) -> LinkKind {
        LinkKind::Veth(Veth { peer_label: peer.into(), peer_place: Place::Endpoint })
    }

    fn address(label: &str, cidr: &str) -> Step {
        Step::Address(Address { label: label.into(), cidr: cidr.into() })
    }

    fn network_labels() -> Labels {
        Labels::from([
            ("bridge".to_owned(), (Kind::Bridge, Place::Host)),
            ("tunnel".to_owned(), (Kind::Vxlan, Place::Host)),
        ])
    }

    fn for_network(steps: &[Step]) -> Result<Validated, Refusal> {
        validate(steps, &Rules { purpose: Purpose::Network, subnets: &subnets(), parents: &[], locals: &[] })
    }

    fn for_endpoint(steps: &[Step]) -> Result<Validated, Refusal> {
        let purpose = Purpose::Endpoint { network: &network_labels(), addresses: &["172.18.0.2/16".parse().unwrap()] };
        validate(steps, &Rules { purpose, subnets: &subnets(), parents: &["eth0".to_owned()], locals: &[] })
    }

    fn join() -> Vec<Step> {
        let mut host = Link {
            label: "host".into(),
            kind: veth("inside"),
            place: Place::Host,
            mtu: Some(1500),
            mac: Some("02:42:ac:12:00:02".into()),
            master: Some("bridge".into()),
        };
        host.mtu = Some(1400);
        vec![
            Step::Link(host),
            Step::Rename("inside".into(), "eth0".into()),
            address("inside", "172.18.0.2/16"),
            Step::Up("host".into()),
            Step::Up("inside".into()),
            Step::Route(Route { destination: "0.0.0.0/0".into(), gateway: Some("172.18.0.1".into()), label: None }),
        ]
    }

    #[test]
    fn further_addresses_come_behind_the_links_own() {
        let mut plan = Validated::default();
        plan.add_addresses(&["169.254.1.1/16".parse().unwrap()]);
        assert!(plan.acts().is_empty(), "there is no link to have them");
        let own: IpNet = "10.0.0.2/24".parse().unwrap();
        let further: IpNet = "169.254.1.1/16".parse().unwrap();
        let address = |cidr| Act::Address { label: "in".to_owned(), cidr };
        plan.acts = vec![address(own), Act::Up("in".to_owned())];
        plan.add_addresses(&[further]);
        assert_eq!(plan.acts(), [address(own), address(further), Act::Up("in".to_owned())]);
    }

    #[test]
    fn the_usual_plans_pass() {
        let network = for_network(&[
            link("bridge", LinkKind::Bridge, Place::Host),
            address("bridge", "172.18.0.1/16"),
            Step::Up("bridge".into()),
            Step::Filter(Intent::Isolate("bridge".into())),
            Step::Filter(Intent::Masquerade("172.18.0.0/16".into())),
        ])
        .unwrap();
        assert_eq!(network.labels()["bridge"], (Kind::Bridge, Place::Host));
        assert_eq!(for_endpoint(&join()).unwrap().names["inside"], "eth0");
        let macvlan = LinkKind::Macvlan(Macvlan { parent: "eth0".into(), mode: "bridge".into() });
        for_endpoint(&[link("m", macvlan, Place::Endpoint), Step::Rename("m".into(), "eth0".into())]).unwrap();
    }

    #[test]
    fn a_plan_that_reaches_out_is_refused_by_step_and_rule() {
        let vxlan = |vni, local: Option<&str>| LinkKind::Vxlan(Vxlan { vni, port: 4789, local: local.map(Into::into) });
        for step in [
            link("bridge", LinkKind::Bridge, Place::Host),
            link("b", LinkKind::Bridge, Place::Endpoint),
            link("a/b", LinkKind::Bridge, Place::Host),
            link("v", veth("w"), Place::Host),
            link("x", vxlan(0, None), Place::Host),
            link("x", vxlan(1 << 24, None), Place::Host),
            link("x", vxlan(5, Some("10.0.0.1")), Place::Host),
            Step::Link(Link {
                label: "y".into(),
                kind: LinkKind::Dummy,
                place: Place::Host,
                mtu: Some(67),
                mac: None,
                master: None,
            }),
            Step::Link(Link {
                label: "y".into(),
                kind: LinkKind::Dummy,
                place: Place::Host,
                mtu: None,
                mac: Some("01:00:00:00:00:01".into()),
                master: None,
            }),
            Step::Link(Link {
                label: "y".into(),
                kind: LinkKind::Dummy,
                place: Place::Host,
                mtu: None,
                mac: None,
                master: Some("eth0".into()),
            }),
            address("bridge", "172.18.0.2/16"),
            address("bridge", "172.18.0.1/8"),
            address("eth0", "172.18.0.1/16"),
            Step::Up("eth0".into()),
            Step::Rename("bridge".into(), "eth0".into()),
            Step::Route(Route { destination: "0.0.0.0/0".into(), gateway: Some("172.18.0.1".into()), label: None }),
            Step::Filter(Intent::Masquerade("0.0.0.0/0".into())),
            Step::Filter(Intent::Masquerade("172.18.0.0/17".into())),
            Step::Filter(Intent::Internal("eth0".into())),
        ] {
            let shown = format!("{step:?}");
            let refusal = for_network(&[link("bridge", LinkKind::Bridge, Place::Host), step]).unwrap_err();
            assert_eq!(refusal.step, 2, "{shown}");
        }
        for step in [
            address("inside", "172.18.0.3/16"),
            address("host", "172.18.0.2/16"),
            address("bridge", "172.18.0.1/16"),
            Step::Up("bridge".into()),
            Step::Rename("inside".into(), "eth1".into()),
            link("bridge", LinkKind::Dummy, Place::Endpoint),
            link("m", LinkKind::Ipvlan("eth1".into()), Place::Endpoint),
            link("m", LinkKind::Macvlan(Macvlan { parent: "eth0".into(), mode: "source".into() }), Place::Endpoint),
            Step::Route(Route { destination: "0.0.0.0/0".into(), gateway: Some("10.0.0.1".into()), label: None }),
            Step::Route(Route { destination: "::/0".into(), gateway: Some("172.18.0.1".into()), label: None }),
            Step::Route(Route { destination: "0.0.0.0/0".into(), gateway: None, label: None }),
            Step::Route(Route { destination: "0.0.0.0/0".into(), gateway: None, label: Some("host".into()) }),
            Step::Filter(Intent::Isolate("bridge".into())),
        ] {
            let shown = format!("{step:?}");
            let mut plan = join();
            plan.push(step);
            assert_eq!(for_endpoint(&plan).unwrap_err().step, 7, "{shown}");
        }
        for name in ["", "lo", "..", "a/b", "a b", "0123456789abcdef"] {
            let steps = [link("host", veth("inside"), Place::Host), Step::Rename("inside".into(), name.into())];
            assert_eq!(for_endpoint(&steps).unwrap_err().step, 2, "{name}");
        }
        assert!(
            for_endpoint(&[link("host", veth("inside"), Place::Host)]).unwrap_err().rule.contains("given its name")
        );
        assert!(for_network(&vec![Step::Up("x".into()); 257]).unwrap_err().rule.contains("256"));
    }

    proptest! {
        #[test]
        fn addresses_that_pass_are_leases(cidr in "(172\\.1[89]|10\\.0)\\.[0-3]\\.[0-9]{1,2}/[0-9]{1,2}") {
            let mut plan = join();
            plan[2] = address("inside", &cidr);
            if for_endpoint(&plan).is_ok() {
                prop_assert_eq!(cidr, "172.18.0.2/16");
            }
        }

        #[test]
        fn names_that_pass_are_the_kernels(name in "[ -~]{0,18}") {
            if interface_name(&name).is_ok() {
                prop_assert!(name.len() < 16 && !name.is_empty() && !name.contains(['/', ' ', ':', '%']));
            }
        }

        #[test]
        fn hardware_addresses_are_single_stations(text in "[0-9a-f:]{0,20}") {
            if let Ok(bytes) = mac(&text) {
                prop_assert_eq!(bytes[0] & 1, 0);
            }
        }
    }
}
