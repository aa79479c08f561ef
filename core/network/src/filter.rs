//! The instance's one table in the packet filter: what it shall mean, and how changes reach the kernel.
//!
//! Rules are fixed; networks are elements of sets and published ports are elements of maps, so that a change is one
//! message and lookups cost the same for one port and for thousands. Chains accept by default and use priorities of
//! their own, so that the host's own filter still has its say.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::conntrack;
use crate::netlink::{NetlinkError, Socket};
use crate::nft::{Element, Expr, Hook, Meta, Register, Set, Table, Type, Value, Verdict};

/// How a bridge is treated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeFilter {
    /// The kernel's name.
    pub name: String,
    /// Apart from the instance's other networks.
    pub isolate: bool,
    /// Apart from other hosts.
    pub internal: bool,
    /// Its endpoints are apart from each other.
    pub no_inter_container: bool,
}

/// What a network means to the filter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkFilter {
    pub bridges: Vec<BridgeFilter>,
    pub subnets: Vec<IpNet>,
    /// Subnets whose traffic leaves under the host's address.
    pub masquerade: Vec<IpNet>,
}

/// What a port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// As in `80/tcp`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl std::str::FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            other => Err(format!("invalid proto: {other}: tcp, udp and sctp are known")),
        }
    }
}

/// A published port: from an address of the host (unspecified: every one of its family) to an endpoint's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Publish {
    pub protocol: Protocol,
    pub host: SocketAddr,
    /// Of the same family.
    pub target: SocketAddr,
}

/// A published port that several endpoints have: each new connection goes to one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    pub protocol: Protocol,
    pub host: SocketAddr,
    /// Of the same family; none: nobody answers.
    pub targets: Vec<SocketAddr>,
}

/// Everything that the table shall say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// By the network's id.
    pub networks: BTreeMap<String, NetworkFilter>,
    pub publishes: Vec<Publish>,
    pub shares: Vec<Share>,
}

const OWN: Set = Set::of("own", &[Type::Interface]);
const ISOLATED: Set = Set::of("isolated", &[Type::Interface]);
const INTERNAL: Set = Set::of("internal", &[Type::Interface]);
const INSIDE: Set = Set::map("inside", &[Type::Interface, Type::Interface], &[Type::Verdict]);
const SUBNETS4: Set = Set::of_ranges("subnets4", &[Type::Ipv4]);
const SUBNETS6: Set = Set::of_ranges("subnets6", &[Type::Ipv6]);
const MASQUERADE4: Set = Set::of_ranges("masquerade4", &[Type::Ipv4]);
const MASQUERADE6: Set = Set::of_ranges("masquerade6", &[Type::Ipv6]);
const PUBLISH4: Set = Set::map("publish4", &[Type::Protocol, Type::Ipv4, Type::Port], &[Type::Ipv4, Type::Port]);
const PUBLISH4_ANY: Set = Set::map("publish4-any", &[Type::Protocol, Type::Port], &[Type::Ipv4, Type::Port]);
const PUBLISH6: Set = Set::map("publish6", &[Type::Protocol, Type::Ipv6, Type::Port], &[Type::Ipv6, Type::Port]);
const PUBLISH6_ANY: Set = Set::map("publish6-any", &[Type::Protocol, Type::Port], &[Type::Ipv6, Type::Port]);
const SHARE4: Set =
    Set::map("share4", &[Type::Protocol, Type::Ipv4, Type::Port, Type::Port], &[Type::Ipv4, Type::Port]);
const SHARE4_ANY: Set = Set::map("share4-any", &[Type::Protocol, Type::Port, Type::Port], &[Type::Ipv4, Type::Port]);
const SHARE6: Set =
    Set::map("share6", &[Type::Protocol, Type::Ipv6, Type::Port, Type::Port], &[Type::Ipv6, Type::Port]);
const SHARE6_ANY: Set = Set::map("share6-any", &[Type::Protocol, Type::Port, Type::Port], &[Type::Ipv6, Type::Port]);
/// Of a shared port; a connection's is in some bits of the port that it comes from. The kernel gives these in steps of two.
const SLOTS: u16 = 16;
const SLOT_SHIFT: u16 = 1;
const SETS: [&Set; 16] = [
    &OWN,
    &ISOLATED,
    &INTERNAL,
    &INSIDE,
    &SUBNETS4,
    &SUBNETS6,
    &MASQUERADE4,
    &MASQUERADE6,
    &PUBLISH4,
    &PUBLISH4_ANY,
    &PUBLISH6,
    &PUBLISH6_ANY,
    &SHARE4,
    &SHARE4_ANY,
    &SHARE6,
    &SHARE6_ANY,
];

/// The table in the kernel.
#[derive(Debug)]
pub struct Filter {
    table: String,
    socket: Mutex<Socket>,
}

impl Filter {
    /// The table of an instance, in the calling thread's namespace.
    pub fn open(instance: &str) -> io::Result<Self> {
        let socket = Socket::open(netlink_sys::protocols::NETLINK_NETFILTER)?;
        Ok(Self { table: format!("sampan-{instance}"), socket: Mutex::new(socket) })
    }

    fn socket(&self) -> MutexGuard<'_, Socket> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the whole table at once; connections go on.
    pub fn rebuild(&self, wanted: &Wanted) -> Result<(), NetlinkError> {
        let mut table = Table::named(&self.table);
        table.create();
        table.delete();
        table.create();
        for (set, id) in SETS.iter().zip(1..) {
            table.set(set, id);
        }
        for network in wanted.networks.values() {
            each_element(network, |set, elements| table.add(set, elements));
        }
        for publish in &wanted.publishes {
            let (set, element) = published(publish);
            table.add(set, &[element]);
        }
        for share in &wanted.shares {
            let (set, elements) = shared(share);
            table.add(set, &elements);
        }
        chains(&mut table);
        self.socket().transact(table.finish())
    }

    /// Whether the table is there.
    pub fn exists(&self) -> Result<bool, NetlinkError> {
        const GETTABLE: u16 = 10 << 8 | 1;
        let mut message = crate::netlink::Message::new(GETTABLE, 0, &[1, 0, 0, 0]);
        message.put_text(1, &self.table);
        match self.socket().get(message, |_, _| {}) {
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Takes a network up.
    pub fn add_network(&self, network: &NetworkFilter) -> Result<(), NetlinkError> {
        let mut table = Table::named(&self.table);
        each_element(network, |set, elements| table.add(set, elements));
        self.socket().transact(table.finish())
    }

    /// Forgets a network.
    pub fn remove_network(&self, network: &NetworkFilter) -> Result<(), NetlinkError> {
        let mut table = Table::named(&self.table);
        each_element(network, |set, elements| table.remove(set, elements));
        self.socket().transact(table.finish())
    }

    /// Publishes ports, all or none.
    pub fn publish(&self, publishes: &[Publish]) -> Result<(), NetlinkError> {
        let batch = self.ports(publishes, Table::add);
        let mut socket = self.socket();
        socket.transact(batch)?;
        conntrack::forget(&mut socket, publishes)
    }

    /// Withdraws ports, all or none.
    pub fn unpublish(&self, publishes: &[Publish]) -> Result<(), NetlinkError> {
        let batch = self.ports(publishes, Table::remove);
        let mut socket = self.socket();
        socket.transact(batch)?;
        conntrack::forget(&mut socket, publishes)
    }

    /// Leads shared ports elsewhere, all or none, and with no moment between: `before` is what the table says.
    pub fn share(&self, before: &[Share], after: &[Share]) -> Result<(), NetlinkError> {
        let mut table = Table::named(&self.table);
        for (shares, change) in [(before, Table::remove as fn(&mut Table, &Set, &[Element])), (after, Table::add)] {
            for share in shares.iter().filter(|share| !share.targets.is_empty()) {
                let (set, elements) = shared(share);
                change(&mut table, set, &elements);
            }
        }
        let batch = table.finish();
        if batch.is_empty() {
            return Ok(());
        }
        let datagrams: Vec<Publish> = before
            .iter()
            .chain(after)
            .map(|share| Publish { protocol: share.protocol, host: share.host, target: share.host })
            .collect();
        let mut socket = self.socket();
        socket.transact(batch)?;
        conntrack::forget(&mut socket, &datagrams)
    }

    fn ports(&self, publishes: &[Publish], change: fn(&mut Table, &Set, &[Element])) -> Vec<crate::netlink::Message> {
        let mut table = Table::named(&self.table);
        let mut by_set: BTreeMap<&str, (&Set, Vec<Element>)> = BTreeMap::new();
        for publish in publishes {
            let (set, element) = published(publish);
            by_set.entry(set.name).or_insert_with(|| (set, Vec::new())).1.push(element);
        }
        for (set, elements) in by_set.values() {
            change(&mut table, set, elements);
        }
        table.finish()
    }

    /// Removes the table. One that is not there is no error.
    pub fn drop_table(&self) -> Result<(), NetlinkError> {
        let mut table = Table::named(&self.table);
        table.create();
        table.delete();
        self.socket().transact(table.finish())
    }
}

fn interface(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The start of a subnet, and the address behind its end if there is one.
fn interval(net: &IpNet) -> Vec<Element> {
    let mut elements = vec![Element::key(octets(net.network()))];
    let mut behind = octets(net.broadcast());
    for byte in behind.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            break;
        }
    }
    if behind.iter().any(|byte| *byte != 0) {
        elements.push(Element { key: behind, value: None, end: true });
    }
    elements
}

fn each_element(network: &NetworkFilter, mut each: impl FnMut(&'static Set, &[Element])) {
    for bridge in &network.bridges {
        let name = interface(&bridge.name);
        each(&OWN, &[Element::key(name.clone())]);
        if bridge.isolate {
            each(&ISOLATED, &[Element::key(name.clone())]);
        }
        if bridge.internal {
            each(&INTERNAL, &[Element::key(name.clone())]);
        }
        let verdict = if bridge.no_inter_container { Verdict::Drop } else { Verdict::Accept };
        let pair = [name.clone(), name].concat();
        each(&INSIDE, &[Element { key: pair, value: Some(Value::Verdict(verdict)), end: false }]);
    }
    for net in &network.subnets {
        each(if net.addr().is_ipv4() { &SUBNETS4 } else { &SUBNETS6 }, &interval(net));
    }
    for net in &network.masquerade {
        each(if net.addr().is_ipv4() { &MASQUERADE4 } else { &MASQUERADE6 }, &interval(net));
    }
}

/// A field of a concatenated key fills whole words.
fn port(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// A target for each slot, the targets in turn.
fn shared(share: &Share) -> (&'static Set, Vec<Element>) {
    let set = match (share.host.ip().is_unspecified(), share.host.is_ipv4()) {
        (true, true) => &SHARE4_ANY,
        (true, false) => &SHARE6_ANY,
        (false, true) => &SHARE4,
        (false, false) => &SHARE6,
    };
    let mut elements = Vec::new();
    for (slot, target) in (0..SLOTS).zip(share.targets.iter().cycle()) {
        let publish = Publish { protocol: share.protocol, host: share.host, target: *target };
        let (_, mut element) = published(&publish);
        element.key.extend(port(slot << SLOT_SHIFT));
        elements.push(element);
    }
    (set, elements)
}

fn published(publish: &Publish) -> (&'static Set, Element) {
    let host = publish.host;
    let mut key = vec![publish.protocol.number(), 0, 0, 0];
    let set = match (host.ip().is_unspecified(), host.is_ipv4()) {
        (true, true) => &PUBLISH4_ANY,
        (true, false) => &PUBLISH6_ANY,
        (false, true) => &PUBLISH4,
        (false, false) => &PUBLISH6,
    };
    if !host.ip().is_unspecified() {
        key.extend(octets(host.ip()));
    }
    key.extend(port(host.port()));
    let mut value = octets(publish.target.ip());
    value.extend(port(publish.target.port()));
    (set, Element { key, value: Some(Value::Bytes(value)), end: false })
}

const A: Register = Register(0);
const LOCAL: u32 = 2;

fn v4() -> [Expr; 2] {
    [Expr::Meta(Meta::Family, A), Expr::Equal(A, vec![2])]
}

fn v6() -> [Expr; 2] {
    [Expr::Meta(Meta::Family, A), Expr::Equal(A, vec![10])]
}

fn source(v4: bool) -> Expr {
    if v4 { Expr::Network { offset: 12, length: 4, to: A } } else { Expr::Network { offset: 8, length: 16, to: A } }
}

fn family(is_v4: bool) -> [Expr; 2] {
    if is_v4 { v4() } else { v6() }
}

fn words<const N: usize>(head: impl IntoIterator<Item = Expr>, tail: [Expr; N]) -> Vec<Expr> {
    head.into_iter().chain(tail).collect()
}

/// Destination translation: first the ports of one address, then those of every address of the host. Of each, those that
/// lead to one place go before those that are shared.
fn translate(table: &mut Table, chain: &str) {
    for is_v4 in [true, false] {
        let (specific, any, address_words) = if is_v4 {
            ([&PUBLISH4, &SHARE4], [&PUBLISH4_ANY, &SHARE4_ANY], 1)
        } else {
            ([&PUBLISH6, &SHARE6], [&PUBLISH6_ANY, &SHARE6_ANY], 4)
        };
        let (offset, length) = if is_v4 { (16, 4) } else { (24, 16) };
        let port = |at| Expr::Transport { offset: 2, length: 2, to: Register(at) };
        // What is looked up is loaded by `key`, up to before the register `end`.
        let mut lead = |key: Vec<Expr>, end: u32, [alone, shared]: [&Set; 2]| {
            for (map, spread) in [(alone, None), (shared, Some(slot(Register(end))))] {
                let mut rule = words(family(is_v4), []);
                rule.extend(key.iter().cloned().chain(spread.into_iter().flatten()));
                rule.push(Expr::Map { map: map.name, from: A, to: A });
                rule.push(Expr::DestinationNat { v4: is_v4, address: A, port: Register(address_words) });
                table.rule(chain, &rule);
            }
        };
        let address = Expr::Network { offset, length, to: Register(1) };
        lead(vec![Expr::Meta(Meta::Protocol, A), address, port(1 + address_words)], 2 + address_words, specific);
        let local = [Expr::DestinationType(A), Expr::Equal(A, LOCAL.to_ne_bytes().to_vec())];
        lead(words(local, [Expr::Meta(Meta::Protocol, A), port(1)]), 2, any);
    }
}

/// Which slot of a shared port a connection has.
fn slot(to: Register) -> [Expr; 2] {
    let [high, low] = ((SLOTS - 1) << SLOT_SHIFT).to_be_bytes();
    [Expr::Transport { offset: 0, length: 2, to }, Expr::Mask { at: to, mask: vec![high, low, 0, 0] }]
}

fn own6() -> Expr {
    Expr::Equal(A, Ipv6Addr::LOCALHOST.octets().to_vec())
}

fn loopback(offset: u32) -> Vec<Expr> {
    words(
        v4(),
        [
            Expr::Network { offset, length: 4, to: A },
            Expr::Mask { at: A, mask: vec![255, 0, 0, 0] },
            Expr::Equal(A, vec![127, 0, 0, 0]),
        ],
    )
}

const IN_OWN: [Expr; 2] = [Expr::Meta(Meta::InName, A), Expr::InSet { set: OWN.name, from: A }];
const OUT_OWN: [Expr; 2] = [Expr::Meta(Meta::OutName, A), Expr::InSet { set: OWN.name, from: A }];

fn chains(table: &mut Table) {
    // Loopback addresses are routable on bridges, for ports published there: from inside nothing may use that.
    table.chain("raw", "filter", Hook::Prerouting, -300);
    for offset in [12, 16] {
        table.rule("raw", &[&IN_OWN[..], &loopback(offset), &[Expr::Then(Verdict::Drop)]].concat());
    }

    table.chain("prerouting", "nat", Hook::Prerouting, -100);
    table.rule("prerouting", &[&loopback(16)[..], &[Expr::Then(Verdict::Return)]].concat());
    translate(table, "prerouting");
    table.chain("output", "nat", Hook::Output, -100);
    // The kernel does not let answers to ::1 in by a bridge: the engine's own proxy serves that address.
    let to_own6 = [Expr::Network { offset: 24, length: 16, to: A }, own6(), Expr::Then(Verdict::Return)];
    table.rule("output", &[&v6()[..], &to_own6].concat());
    translate(table, "output");

    postrouting(table);
    forward(table);
}

fn postrouting(table: &mut Table) {
    table.chain("postrouting", "nat", Hook::Postrouting, 100);
    for (is_v4, set) in [(true, &MASQUERADE4), (false, &MASQUERADE6)] {
        table.rule(
            "postrouting",
            &words(
                family(is_v4),
                [
                    source(is_v4),
                    Expr::InSet { set: set.name, from: A },
                    Expr::Meta(Meta::OutName, A),
                    Expr::NotInSet { set: OWN.name, from: A },
                    Expr::Masquerade,
                ],
            ),
        );
    }
    // From the host's loopback to a published port.
    table.rule("postrouting", &[&OUT_OWN[..], &loopback(12), &[Expr::Masquerade]].concat());
    // From an endpoint through the host's address to an endpoint: the answer must come back by the host.
    for (is_v4, set) in [(true, &SUBNETS4), (false, &SUBNETS6)] {
        let hairpin = [source(is_v4), Expr::InSet { set: set.name, from: A }, Expr::Masquerade];
        table.rule("postrouting", &[&translated()[..], &OUT_OWN, &family(is_v4), &hairpin].concat());
    }
}

/// The connection's destination was translated.
fn translated() -> [Expr; 3] {
    const DST_NAT: u32 = 0x20;
    flags(Expr::ConnectionStatus(A), DST_NAT)
}

fn flags(load: Expr, mask: u32) -> [Expr; 3] {
    [load, Expr::Mask { at: A, mask: mask.to_ne_bytes().to_vec() }, Expr::Differs(A, vec![0; 4])]
}

fn forward(table: &mut Table) {
    const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
    let accept = [Expr::Then(Verdict::Accept)];
    let drop = [Expr::Then(Verdict::Drop)];
    table.chain("forward", "filter", Hook::Forward, 0);
    let known = flags(Expr::ConnectionState(A), ESTABLISHED_OR_RELATED);
    table.rule("forward", &[&known[..], &accept].concat());
    // The two ends of traffic within one network. A published port may be reached from inside, too.
    let both = [
        Expr::Meta(Meta::InName, A),
        Expr::Meta(Meta::OutName, Register(4)),
        Expr::VerdictMap { map: INSIDE.name, from: A },
    ];
    let in_internal = [Expr::Meta(Meta::InName, A), Expr::InSet { set: INTERNAL.name, from: A }];
    let out_internal = [Expr::Meta(Meta::OutName, A), Expr::InSet { set: INTERNAL.name, from: A }];
    let not_internal = [Expr::Meta(Meta::InName, A), Expr::NotInSet { set: INTERNAL.name, from: A }];
    table.rule("forward", &[&translated()[..], &not_internal, &accept].concat());
    table.rule("forward", &both);
    table.rule("forward", &[&in_internal[..], &drop].concat());
    table.rule("forward", &[&out_internal[..], &drop].concat());
    let in_isolated = [Expr::Meta(Meta::InName, A), Expr::InSet { set: ISOLATED.name, from: A }];
    let out_isolated = [Expr::Meta(Meta::OutName, A), Expr::InSet { set: ISOLATED.name, from: A }];
    table.rule("forward", &[&in_isolated[..], &OUT_OWN, &drop].concat());
    table.rule("forward", &[&out_isolated[..], &IN_OWN, &drop].concat());
    // Between networks that are not apart; what else comes to an endpoint was not published.
    table.rule("forward", &[&IN_OWN[..], &OUT_OWN, &accept].concat());
    table.rule("forward", &[&OUT_OWN[..], &drop].concat());
}

/// Makes sure that the host forwards packets of a family. Hosts that take their routes from router advertisements go on
/// to do so.
pub fn ensure_forwarding(v6: bool) -> io::Result<()> {
    let switch = if v6 { "/proc/sys/net/ipv6/conf/all/forwarding" } else { "/proc/sys/net/ipv4/ip_forward" };
    if fs::read_to_string(switch)?.trim() != "0" {
        return Ok(());
    }
    if v6 {
        for entry in fs::read_dir("/proc/sys/net/ipv6/conf")? {
            let accept = entry?.path().join("accept_ra");
            if fs::read_to_string(&accept).is_ok_and(|text| text.trim() == "1") {
                fs::write(accept, "2")?;
            }
        }
    }
    fs::write(switch, "1")
}
