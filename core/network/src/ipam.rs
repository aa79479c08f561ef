//! Which subnets networks get and which addresses endpoints get. Pure; the engine keeps [`Pool`]s in its store.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// Why no address or subnet is given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// Every default pool is in use by a network or a route of the host.
    #[error("all predefined address pools have been fully subnetted")]
    NoSubnet,
    /// The wanted subnet meets another.
    #[error("Pool overlaps with other one on this address space: {wanted} meets {other}")]
    Overlap { wanted: IpNet, other: String },
    /// No address is free.
    #[error("no available IPv4 addresses on this network's address pools: {subnet}")]
    Full { subnet: IpNet },
    /// The wanted address is leased.
    #[error("Address already in use: {0}")]
    Taken(IpAddr),
    /// The wanted address is not an endpoint's to have.
    #[error("no configured subnet contains the address {0}")]
    Outside(IpAddr),
    /// The configuration contradicts itself.
    #[error("{0}")]
    Invalid(String),
}

/// A range that subnets of one size are cut from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressPool {
    pub base: Ipv4Net,
    /// Prefix length of the subnets.
    pub size: u8,
}

/// The pools: Docker's first, so that addresses look as people know them, then 10.x, so that they last.
#[must_use]
pub fn default_pools() -> Vec<AddressPool> {
    let pool = |a, b, length, size| {
        Ipv4Net::new(Ipv4Addr::new(a, b, 0, 0), length).ok().map(|base| AddressPool { base, size })
    };
    let docker = (17..32).map(|second| pool(172, second, 16, 16)).chain([pool(192, 168, 16, 20)]);
    docker.chain([pool(10, 0, 8, 24)]).flatten().collect()
}

/// The first subnet of the pools that meets nothing of `taken` (other networks' subnets, routes of the host).
pub fn choose_subnet(pools: &[AddressPool], taken: &[IpNet]) -> Result<IpNet, IpamError> {
    let mut busy: Vec<(u32, u32)> = taken
        .iter()
        .filter_map(|net| match net {
            IpNet::V4(net) if net.prefix_len() > 0 => Some((u32::from(net.network()), u32::from(net.broadcast()))),
            _ => None,
        })
        .collect();
    busy.sort_unstable();
    // Disjoint ranges, so that each is jumped over once.
    let mut ranges: Vec<(u64, u64)> = Vec::with_capacity(busy.len());
    for (low, high) in busy.into_iter().map(|(low, high)| (u64::from(low), u64::from(high))) {
        match ranges.last_mut() {
            Some(last) if low <= last.1 + 1 => last.1 = last.1.max(high),
            _ => ranges.push((low, high)),
        }
    }
    for pool in pools {
        let step = 1u64 << (32 - u32::from(pool.size.min(32)));
        let last = u64::from(u32::from(pool.base.broadcast()));
        let mut start = u64::from(u32::from(pool.base.network()));
        while start + step - 1 <= last {
            let in_the_way = ranges.get(ranges.partition_point(|range| range.1 < start));
            match in_the_way.filter(|range| range.0 < start + step) {
                Some(range) => start = (range.1 / step + 1) * step,
                None => {
                    let address = Ipv4Addr::from(u32::try_from(start).unwrap_or(u32::MAX));
                    return Ipv4Net::new(address, pool.size).map(IpNet::V4).map_err(|_| IpamError::NoSubnet);
                }
            }
        }
    }
    Err(IpamError::NoSubnet)
}

/// A private IPv6 subnet (RFC 4193): the instance's global id and the first free subnet number from the network's id on.
pub fn choose_subnet6(instance: &str, network: &str, taken: &[IpNet]) -> Result<IpNet, IpamError> {
    let global = fnv(instance.as_bytes()).to_be_bytes();
    let first = fnv(network.as_bytes()).to_be_bytes();
    let first = u16::from_be_bytes([first[6], first[7]]);
    for offset in 0..=u16::MAX {
        let number = first.wrapping_add(offset).to_be_bytes();
        let mut bytes = [0; 16];
        bytes[0] = 0xfd;
        bytes[1..6].copy_from_slice(&global[3..8]);
        bytes[6..8].copy_from_slice(&number);
        let Ok(net) = Ipv6Net::new(Ipv6Addr::from(bytes), 64) else { break };
        let net = IpNet::V6(net);
        if !taken.iter().any(|other| meets(&net, other)) {
            return Ok(net);
        }
    }
    Err(IpamError::NoSubnet)
}

/// FNV-1a: short names from long ids, where nothing hangs on who could forge one.
pub(crate) fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Whether two subnets share an address.
#[must_use]
pub fn meets(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// The addresses of one subnet of one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    pub subnet: IpNet,
    pub gateway: Option<IpAddr>,
    /// Where addresses that nobody asked for come from.
    pub range: Option<IpNet>,
    /// Reserved by the user, and the gateway.
    pub reserved: BTreeSet<IpAddr>,
    /// Leased to endpoints.
    pub leased: BTreeSet<IpAddr>,
    /// The last one that was chosen: a new endpoint does not get the address that one has just left.
    pub last: Option<IpAddr>,
}

impl Pool {
    /// A pool, with the first address as the gateway unless one is given or none is wanted.
    pub fn new(
        subnet: IpNet,
        gateway: Option<IpAddr>,
        wants_gateway: bool,
        range: Option<IpNet>,
        aux: &[IpAddr],
    ) -> Result<Self, IpamError> {
        let subnet = subnet.trunc();
        let invalid = |text: String| Err(IpamError::Invalid(text));
        if subnet.max_prefix_len() - subnet.prefix_len() < 2
            && wants_gateway
            && subnet.prefix_len() == subnet.max_prefix_len()
        {
            return invalid(format!("subnet {subnet} has no room for a gateway and an endpoint"));
        }
        let range = range.map(|range| range.trunc());
        if let Some(range) = &range
            && !subnet.contains(range)
        {
            return invalid(format!("invalid ip-range {range}: it is not inside of subnet {subnet}"));
        }
        if let Some(address) = aux.iter().chain(&gateway).find(|address| !subnet.contains(*address)) {
            return invalid(format!("no matching subnet for {address}: it is not inside of {subnet}"));
        }
        let mut pool = Self {
            subnet,
            gateway,
            range,
            reserved: aux.iter().copied().collect(),
            leased: BTreeSet::new(),
            last: None,
        };
        if let Some(gateway) = gateway {
            if !pool.reserved.insert(gateway) {
                return invalid(format!("gateway {gateway} is an auxiliary address too"));
            }
        } else if wants_gateway {
            let first = pool.free_from(first_host(&subnet), last_host(&subnet)).ok_or(IpamError::Full { subnet })?;
            pool.gateway = Some(first);
            pool.reserved.insert(first);
        }
        Ok(pool)
    }

    /// Leases the wanted address, or the next free one.
    pub fn lease(&mut self, wanted: Option<IpAddr>) -> Result<IpAddr, IpamError> {
        let address = match wanted {
            Some(address) => {
                let hosts = first_host(&self.subnet)..=last_host(&self.subnet);
                if !self.subnet.contains(&address) || !hosts.contains(&number(address)) {
                    return Err(IpamError::Outside(address));
                }
                if self.is_taken(&address) {
                    return Err(IpamError::Taken(address));
                }
                address
            }
            None => {
                let range = self.range.unwrap_or(self.subnet);
                let (low, high) = match self.range {
                    Some(range) => (
                        number(range.network()).max(first_host(&self.subnet)),
                        number(range.broadcast()).min(last_host(&self.subnet)),
                    ),
                    None => (first_host(&range), last_host(&range)),
                };
                let next = self.last.map_or(low, |last| number(last).saturating_add(1)).clamp(low, high.max(low));
                let found = self.free_from(next, high).or_else(|| self.free_from(low, high));
                let address = found.ok_or(IpamError::Full { subnet: self.subnet })?;
                self.last = Some(address);
                address
            }
        };
        self.leased.insert(address);
        Ok(address)
    }

    /// Ends a lease; one that does not exist is no error.
    pub fn release(&mut self, address: &IpAddr) {
        self.leased.remove(address);
        if self.leased.is_empty() {
            self.last = None;
        }
    }

    /// The address with the subnet's prefix length.
    #[must_use]
    pub fn cidr(&self, address: IpAddr) -> IpNet {
        IpNet::new(address, self.subnet.prefix_len()).unwrap_or_else(|_| IpNet::from(address))
    }

    fn is_taken(&self, address: &IpAddr) -> bool {
        self.reserved.contains(address) || self.leased.contains(address)
    }

    fn free_from(&self, low: u128, high: u128) -> Option<IpAddr> {
        let mut at = low;
        while at <= high {
            let address = from_number(at, self.subnet.addr().is_ipv4());
            if !self.is_taken(&address) {
                return Some(address);
            }
            at += 1;
        }
        None
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn from_number(number: u128, v4: bool) -> IpAddr {
    if v4 {
        IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)))
    } else {
        IpAddr::V6(Ipv6Addr::from(number))
    }
}

/// The network's own address is nobody's, except in subnets of one or two addresses (RFC 3021).
fn first_host(net: &IpNet) -> u128 {
    let first = number(net.network());
    if net.max_prefix_len() - net.prefix_len() < 2 { first } else { first + 1 }
}

fn last_host(net: &IpNet) -> u128 {
    let last = number(net.broadcast());
    let v4 = net.addr().is_ipv4();
    if v4 && net.max_prefix_len() - net.prefix_len() >= 2 { last - 1 } else { last }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn subnets_are_dockers_first_and_last_for_thousands() {
        let pools = default_pools();
        let mut taken = vec![net("172.17.0.0/16"), net("192.168.0.0/24"), net("10.0.5.0/24"), net("0.0.0.0/0")];
        let mut chosen = Vec::new();
        for _ in 0..3000 {
            let next = choose_subnet(&pools, &taken).unwrap();
            taken.push(next);
            chosen.push(next);
        }
        assert_eq!(chosen[0], net("172.18.0.0/16"));
        assert_eq!(chosen[14], net("192.168.16.0/20"));
        assert_eq!(chosen[29], net("10.0.0.0/24"));
        assert!(!chosen.contains(&net("10.0.5.0/24")));
        taken.push(net("172.16.0.0/12"));
        taken.push(net("192.168.0.0/16"));
        taken.push(net("10.0.0.0/8"));
        assert_eq!(choose_subnet(&pools, &taken), Err(IpamError::NoSubnet));
    }

    #[test]
    fn private_ipv6_subnets_follow_the_instance() {
        let first = choose_subnet6("abcd", "net", &[]).unwrap();
        assert_eq!(choose_subnet6("abcd", "net", &[]).unwrap(), first);
        assert_ne!(choose_subnet6("abcd", "net", &[first]).unwrap(), first);
        assert!(net("fd00::/8").contains(&first));
    }

    #[test]
    fn leases_go_on_and_come_round() {
        let mut pool = Pool::new(net("10.0.0.0/29"), None, true, None, &[ip("10.0.0.3")]).unwrap();
        assert_eq!(pool.gateway, Some(ip("10.0.0.1")));
        assert_eq!(pool.lease(None).unwrap(), ip("10.0.0.2"));
        assert_eq!(pool.lease(None).unwrap(), ip("10.0.0.4"));
        pool.release(&ip("10.0.0.2"));
        assert_eq!(pool.lease(None).unwrap(), ip("10.0.0.5"));
        assert_eq!(pool.lease(Some(ip("10.0.0.6"))).unwrap(), ip("10.0.0.6"));
        assert_eq!(pool.lease(None).unwrap(), ip("10.0.0.2"));
        assert_eq!(pool.lease(None), Err(IpamError::Full { subnet: net("10.0.0.0/29") }));
        assert_eq!(pool.lease(Some(ip("10.0.0.6"))), Err(IpamError::Taken(ip("10.0.0.6"))));
        for outside in ["10.0.0.0", "10.0.0.7", "10.0.1.1", "::1"] {
            assert_eq!(pool.lease(Some(ip(outside))), Err(IpamError::Outside(ip(outside))));
        }
    }

    #[test]
    fn ranges_gateways_and_auxiliaries_lie_inside() {
        let mut pool =
            Pool::new(net("10.1.0.0/16"), Some(ip("10.1.0.254")), true, Some(net("10.1.5.0/24")), &[]).unwrap();
        assert_eq!(pool.lease(None).unwrap(), ip("10.1.5.0"));
        assert!(Pool::new(net("10.1.0.0/16"), Some(ip("10.2.0.1")), true, None, &[]).is_err());
        assert!(Pool::new(net("10.1.0.0/16"), None, true, Some(net("10.2.0.0/24")), &[]).is_err());
        assert!(Pool::new(net("10.1.0.0/16"), Some(ip("10.1.0.1")), true, None, &[ip("10.1.0.1")]).is_err());
        assert!(Pool::new(net("10.1.0.0/32"), None, true, None, &[]).is_err());
        assert_eq!(Pool::new(net("fd00::/64"), None, true, None, &[]).unwrap().lease(None).unwrap(), ip("fd00::2"));
    }

    proptest! {
        #[test]
        fn chosen_subnets_meet_nothing(taken in proptest::collection::vec((any::<u32>(), 8u8..=32), 0..40)) {
            let taken: Vec<IpNet> = taken.into_iter().map(|(address, length)| IpNet::new(Ipv4Addr::from(address | 0x0a00_0000).into(), length).unwrap()).collect();
            if let Ok(net) = choose_subnet(&default_pools(), &taken) {
                prop_assert!(taken.iter().all(|other| !meets(&net, other)));
            }
        }

        #[test]
        fn no_address_is_leased_twice(length in 24u8..=30, steps in proptest::collection::vec(any::<Option<u8>>(), 0..200)) {
            let mut pool = Pool::new(IpNet::new(ip("10.9.9.0"), length).unwrap(), None, true, None, &[]).unwrap();
            let mut held = BTreeSet::new();
            for step in steps {
                match step {
                    None => if let Ok(address) = pool.lease(None) {
                        prop_assert!(held.insert(address) && pool.subnet.contains(&address) && Some(address) != pool.gateway);
                    },
                    Some(last) => {
                        let address = IpAddr::V4(Ipv4Addr::new(10, 9, 9, last));
                        pool.release(&address);
                        held.remove(&address);
                    }
                }
            }
        }
    }
}
