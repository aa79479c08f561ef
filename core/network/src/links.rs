//! Links, addresses and routes of one network namespace, by route netlink.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::IpNet;

use crate::netlink::{CREATE, EXCL, Message, NetlinkError, REPLACE, Socket, attributes, text};
use crate::validate::{Mac, MacvlanMode};

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const NEWADDR: u16 = 20;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;
const GETROUTE: u16 = 26;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_LEARNING: u16 = 8;
const IFLA_BRPORT_UNICAST_FLOOD: u16 = 9;
const IFLA_BRPORT_FLUSH: u16 = 24;
const IFLA_BRPORT_MCAST_FLOOD: u16 = 27;
const IFLA_BRPORT_BCAST_FLOOD: u16 = 30;
const IFLA_BRPORT_LOCKED: u16 = 39;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFF_UP: u32 = 1;

/// A link as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub index: u32,
    pub name: String,
    /// Marks what Sampan has made.
    pub alias: String,
    pub mac: Option<Mac>,
    pub mtu: u32,
    pub up: bool,
}

/// What kind of link is made.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind<'a> {
    Bridge,
    Veth { peer: &'a str, mac: Option<Mac>, namespace: BorrowedFd<'a> },
    Vxlan { vni: u32, port: u16, local: Option<IpAddr> },
    Macvlan { parent: u32, mode: MacvlanMode },
    Ipvlan { parent: u32 },
    Dummy,
}

/// A link to make.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spec<'a> {
    pub(crate) name: &'a str,
    pub(crate) kind: Kind<'a>,
    pub(crate) mtu: Option<u32>,
    pub(crate) mac: Option<Mac>,
    pub(crate) master: Option<u32>,
    /// Made there instead of here; `name` is its name there.
    pub(crate) namespace: Option<BorrowedFd<'a>>,
}

/// Route netlink of one namespace.
#[derive(Debug)]
pub struct Links {
    socket: Socket,
}

fn interface(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..].copy_from_slice(&change.to_ne_bytes());
    header
}

fn octets(address: IpAddr) -> ([u8; 16], usize) {
    let mut bytes = [0; 16];
    match address {
        IpAddr::V4(address) => {
            bytes[..4].copy_from_slice(&address.octets());
            (bytes, 4)
        }
        IpAddr::V6(address) => (address.octets(), 16),
    }
}

fn family(address: IpAddr) -> u8 {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    u8::try_from(family).unwrap_or_default()
}

fn put_address(message: &mut Message, attribute: u16, address: IpAddr) {
    let (bytes, length) = octets(address);
    message.put(attribute, &bytes[..length]);
}

impl Links {
    /// The links of the calling thread's namespace.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: Socket::open(netlink_sys::protocols::NETLINK_ROUTE)? })
    }

    /// Makes a link, down unless its kind says otherwise. An existing name is `EEXIST`.
    pub(crate) fn create(&mut self, spec: &Spec<'_>) -> Result<(), NetlinkError> {
        let mut message = Message::new(NEWLINK, CREATE | EXCL, &interface(0, 0, 0));
        message.put_text(IFLA_IFNAME, spec.name);
        if let Some(mtu) = spec.mtu {
            message.put_u32(IFLA_MTU, mtu);
        }
        if let Some(mac) = spec.mac {
            message.put(IFLA_ADDRESS, &mac);
        }
        if let Some(master) = spec.master {
            message.put_u32(IFLA_MASTER, master);
        }
        if let Some(namespace) = spec.namespace {
            message.put(IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
        }
        if let Kind::Macvlan { parent, .. } | Kind::Ipvlan { parent } = spec.kind {
            message.put_u32(IFLA_LINK, parent);
        }
        message.nest(IFLA_LINKINFO, |info| kind(info, spec));
        self.socket.request(message)
    }

    /// Marks a link, and how a bridge treats it: frames may leave by the port on which they came, and ports that are
    /// apart do not reach each other.
    pub(crate) fn mark(&mut self, name: &str, alias: &str, port: Option<bool>) -> Result<(), NetlinkError> {
        let mut message = Message::new(NEWLINK, 0, &interface(0, 0, 0));
        message.put_text(IFLA_IFNAME, name).put(IFLA_IFALIAS, alias.as_bytes());
        if let Some(apart) = port {
            message.nest(IFLA_LINKINFO, |info| {
                info.put_text(IFLA_INFO_SLAVE_KIND, "bridge").nest(IFLA_INFO_SLAVE_DATA, |data| {
                    data.put_u8(IFLA_BRPORT_MODE, 1).put_u8(IFLA_BRPORT_ISOLATED, u8::from(apart));
                });
            });
        }
        self.socket.request(message)
    }

    /// Marks a link and gives it another name, both or nothing.
    pub(crate) fn mark_renamed(&mut self, index: u32, name: &str, alias: &str) -> Result<(), NetlinkError> {
        let mut message = Message::new(NEWLINK, 0, &interface(index, 0, 0));
        message.put_text(IFLA_IFNAME, name).put(IFLA_IFALIAS, alias.as_bytes());
        self.socket.request(message)
    }

    /// Cuts a port off its bridge at once: nothing goes to it, nothing that comes from it is taken. Unlike a removal it
    /// waits for nothing; unlike a disabled state it is not undone by the next change of the carrier.
    pub(crate) fn cut_off(&mut self, name: &str) -> Result<(), NetlinkError> {
        let mut message = Message::new(NEWLINK, 0, &interface(0, 0, 0));
        message.put_text(IFLA_IFNAME, name).nest(IFLA_LINKINFO, |info| {
            info.put_text(IFLA_INFO_SLAVE_KIND, "bridge").nest(IFLA_INFO_SLAVE_DATA, |data| {
                for on in
                    [IFLA_BRPORT_LEARNING, IFLA_BRPORT_UNICAST_FLOOD, IFLA_BRPORT_MCAST_FLOOD, IFLA_BRPORT_BCAST_FLOOD]
                {
                    data.put_u8(on, 0);
                }
                data.put_u8(IFLA_BRPORT_LOCKED, 1).put(IFLA_BRPORT_FLUSH, &[]);
            });
        });
        self.socket.request(message)
    }

    /// Makes sure that a link is up.
    pub fn set_up(&mut self, index: u32) -> Result<(), NetlinkError> {
        self.socket.request(Message::new(NEWLINK, 0, &interface(index, IFF_UP, IFF_UP)))
    }

    pub(crate) fn set_up_by_name(&mut self, name: &str) -> Result<(), NetlinkError> {
        let mut message = Message::new(NEWLINK, 0, &interface(0, IFF_UP, IFF_UP));
        message.put_text(IFLA_IFNAME, name);
        self.socket.request(message)
    }

    /// Makes sure that a link has a master.
    pub(crate) fn set_master(&mut self, index: u32, master: u32) -> Result<(), NetlinkError> {
        let mut message = Message::new(NEWLINK, 0, &interface(index, 0, 0));
        message.put_u32(IFLA_MASTER, master);
        self.socket.request(message)
    }

    /// Removes a link by name. Whether there was one.
    pub fn delete(&mut self, name: &str) -> Result<bool, NetlinkError> {
        let mut message = Message::new(DELLINK, 0, &interface(0, 0, 0));
        message.put_text(IFLA_IFNAME, name);
        match self.socket.request(message) {
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// The link of that name.
    pub fn find(&mut self, name: &str) -> Result<Option<Found>, NetlinkError> {
        let mut message = Message::new(GETLINK, 0, &interface(0, 0, 0));
        message.put_text(IFLA_IFNAME, name);
        let mut found = None;
        match self.socket.get(message, |kind, payload| found = found.take().or_else(|| link(kind, payload))) {
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
            other => other.map(|()| found),
        }
    }

    /// Every link.
    pub fn list(&mut self) -> Result<Vec<Found>, NetlinkError> {
        let mut list = Vec::new();
        let message = Message::new(GETLINK, 0, &interface(0, 0, 0));
        self.socket.dump(message, |kind, payload| list.extend(link(kind, payload)))?;
        Ok(list)
    }

    /// Makes sure that a link has an address; one of IPv6 is usable at once, without a probe for duplicates.
    pub(crate) fn add_address(&mut self, index: u32, cidr: IpNet) -> Result<(), NetlinkError> {
        const IFA_F_NODAD: u8 = 0x02;
        let address = cidr.addr();
        let mut header = [family(address), cidr.prefix_len(), IFA_F_NODAD, 0, 0, 0, 0, 0];
        header[4..].copy_from_slice(&index.to_ne_bytes());
        let mut message = Message::new(NEWADDR, CREATE | REPLACE, &header);
        put_address(&mut message, 2, address);
        put_address(&mut message, 1, address);
        if let IpNet::V4(net) = cidr
            && net.prefix_len() < 31
        {
            message.put(4, &net.broadcast().octets());
        }
        self.socket.request(message)
    }

    /// Every address with the index of its link.
    pub fn addresses(&mut self) -> Result<Vec<(u32, IpNet)>, NetlinkError> {
        let mut list = Vec::new();
        self.socket.dump(Message::new(GETADDR, 0, &[0; 8]), |kind, payload| {
            if kind == NEWADDR && payload.len() >= 8 {
                let index = u32::from_ne_bytes([payload[4], payload[5], payload[6], payload[7]]);
                // The local address comes after the peer's, which it equals on anything but point-to-point links.
                let address = attributes(&payload[8..]).filter(|(kind, _)| matches!(kind, 1 | 2)).last();
                let net =
                    address.and_then(|(_, value)| from_octets(value)).map(|address| IpNet::new(address, payload[1]));
                list.extend(net.and_then(Result::ok).map(|net| (index, net)));
            }
        })?;
        Ok(list)
    }

    /// Forgets where a neighbour was; not to know it is no error.
    pub(crate) fn forget_neighbour(&mut self, index: u32, address: IpAddr) -> Result<(), NetlinkError> {
        const DELNEIGH: u16 = 29;
        let mut header = [0; 12];
        header[0] = family(address);
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        let mut message = Message::new(DELNEIGH, 0, &header);
        put_address(&mut message, 1, address);
        match self.socket.request(message) {
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }

    /// Makes sure that a route exists; a default route through another gateway is replaced.
    pub(crate) fn add_route(
        &mut self,
        destination: IpNet,
        gateway: Option<IpAddr>,
        index: Option<u32>,
    ) -> Result<(), NetlinkError> {
        const TABLE_MAIN: u8 = 254;
        const PROTOCOL_STATIC: u8 = 4;
        const SCOPE_LINK: u8 = 253;
        const UNICAST: u8 = 1;
        let scope = if gateway.is_none() && destination.addr().is_ipv4() { SCOPE_LINK } else { 0 };
        let header = [
            family(destination.addr()),
            destination.prefix_len(),
            0,
            0,
            TABLE_MAIN,
            PROTOCOL_STATIC,
            scope,
            UNICAST,
            0,
            0,
            0,
            0,
        ];
        let mut message = Message::new(NEWROUTE, CREATE | REPLACE, &header);
        if destination.prefix_len() > 0 {
            put_address(&mut message, 1, destination.network());
        }
        if let Some(gateway) = gateway {
            put_address(&mut message, 5, gateway);
        }
        if let Some(index) = index {
            message.put_u32(4, index);
        }
        self.socket.request(message)
    }

    /// Destinations of the main table's routes with the index of the link they leave by.
    pub fn routes(&mut self) -> Result<Vec<(IpNet, Option<u32>)>, NetlinkError> {
        let mut list = Vec::new();
        self.socket.dump(Message::new(GETROUTE, 0, &[0; 12]), |kind, payload| {
            if kind != NEWROUTE || payload.len() < 12 || payload[4] != 254 {
                return;
            }
            let mut destination = None;
            let mut link = None;
            for (kind, value) in attributes(&payload[12..]) {
                match kind {
                    1 => destination = from_octets(value),
                    4 => link = value.try_into().ok().map(u32::from_ne_bytes),
                    _ => {}
                }
            }
            let any = if i32::from(payload[0]) == libc::AF_INET {
                IpAddr::V4(Ipv4Addr::UNSPECIFIED)
            } else {
                IpAddr::V6(Ipv6Addr::UNSPECIFIED)
            };
            if let Ok(net) = IpNet::new(destination.unwrap_or(any), payload[1]) {
                list.push((net, link));
            }
        })?;
        Ok(list)
    }
}

fn from_octets(value: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(value) {
        return Some(IpAddr::from(bytes));
    }
    <[u8; 16]>::try_from(value).ok().map(IpAddr::from)
}

fn kind(info: &mut Message, spec: &Spec<'_>) {
    match spec.kind {
        Kind::Bridge => {
            info.put_text(IFLA_INFO_KIND, "bridge");
        }
        Kind::Dummy => {
            info.put_text(IFLA_INFO_KIND, "dummy");
        }
        Kind::Veth { peer, mac, namespace } => {
            info.put_text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |data| {
                data.nest(VETH_INFO_PEER, |end| {
                    end.raw(&interface(0, 0, 0)).put_text(IFLA_IFNAME, peer);
                    end.put(IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
                    if let Some(mac) = mac {
                        end.put(IFLA_ADDRESS, &mac);
                    }
                    if let Some(mtu) = spec.mtu {
                        end.put_u32(IFLA_MTU, mtu);
                    }
                });
            });
        }
        Kind::Vxlan { vni, port, local } => {
            info.put_text(IFLA_INFO_KIND, "vxlan").nest(IFLA_INFO_DATA, |data| {
                data.put_u32(1, vni).put(15, &port.to_be_bytes());
                match local {
                    Some(IpAddr::V4(address)) => data.put(4, &address.octets()),
                    Some(IpAddr::V6(address)) => data.put(17, &address.octets()),
                    None => data,
                };
            });
        }
        Kind::Macvlan { mode, .. } => {
            let mode = match mode {
                MacvlanMode::Private => 1,
                MacvlanMode::Vepa => 2,
                MacvlanMode::Bridge => 4,
                MacvlanMode::Passthru => 8,
            };
            info.put_text(IFLA_INFO_KIND, "macvlan").nest(IFLA_INFO_DATA, |data| {
                data.put_u32(1, mode);
            });
        }
        Kind::Ipvlan { .. } => {
            info.put_text(IFLA_INFO_KIND, "ipvlan").nest(IFLA_INFO_DATA, |data| {
                data.put_u16(1, 0);
            });
        }
    }
}

fn link(kind: u16, payload: &[u8]) -> Option<Found> {
    if kind != NEWLINK || payload.len() < 16 {
        return None;
    }
    let number = |at: usize| u32::from_ne_bytes([payload[at], payload[at + 1], payload[at + 2], payload[at + 3]]);
    let mut found = Found {
        index: number(4),
        name: String::new(),
        alias: String::new(),
        mac: None,
        mtu: 0,
        up: number(8) & IFF_UP != 0,
    };
    for (kind, value) in attributes(&payload[16..]) {
        match kind {
            IFLA_IFNAME => found.name = text(value),
            IFLA_IFALIAS => found.alias = text(value),
            IFLA_ADDRESS => found.mac = value.try_into().ok(),
            IFLA_MTU => found.mtu = value.try_into().map(u32::from_ne_bytes).unwrap_or_default(),
            _ => {}
        }
    }
    Some(found)
}
