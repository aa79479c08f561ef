//! How near an address is. Whoever writes the manifest of an image may name addresses from which layers are to be had;
//! they reach nothing by that which is nearer to this machine than the registry itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How near an address is, the farthest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nearness {
    /// Somewhere on the internet.
    Anywhere,
    /// In a network that is not seen from elsewhere.
    Network,
    /// On this machine, or on its own links.
    Machine,
}

impl Nearness {
    /// Of an address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => of_v4(address),
            IpAddr::V6(address) => of_v6(address),
        }
    }

    /// Of a host as it is written, if that says it: names are for those to judge who resolve them.
    pub fn of_text(host: &str) -> Option<Self> {
        let bare = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase();
        match bare.parse::<IpAddr>() {
            Ok(address) => Some(Self::of(address)),
            Err(_) => (bare == "localhost" || bare.ends_with(".localhost")).then_some(Self::Machine),
        }
    }

    /// For messages.
    pub const fn shown(self) -> &'static str {
        match self {
            Self::Anywhere => "an address of the internet",
            Self::Network => "an address of a private network",
            Self::Machine => "an address of this machine",
        }
    }
}

fn of_v4(address: Ipv4Addr) -> Nearness {
    let [first, second, ..] = address.octets();
    if address.is_loopback() || address.is_link_local() || first == 0 {
        Nearness::Machine
    } else if address.is_private()
        || address.is_multicast()
        || address.is_broadcast()
        // Shared by the customers of a provider.
        || first == 100 && second & 0xc0 == 64
        // For measurements between networks.
        || first == 198 && second & 0xfe == 18
        || first >= 240
    {
        Nearness::Network
    } else {
        Nearness::Anywhere
    }
}

fn of_v6(address: Ipv6Addr) -> Nearness {
    if let Some(inner) = embedded(address) {
        return of_v4(inner);
    }
    if address.is_loopback() || address.is_unspecified() || address.is_unicast_link_local() {
        Nearness::Machine
    } else if address.is_unique_local() || address.is_multicast() || address.segments()[0] & 0xffc0 == 0xfec0 {
        Nearness::Network
    } else {
        Nearness::Anywhere
    }
}

/// The address of the older protocol that an address stands for: mapped, translated (`64:ff9b::/96`), or tunnelled
/// (`2002::/16`).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    if let Some(inner) = address.to_ipv4_mapped() {
        return Some(inner);
    }
    let [a, b, c, d, e, f, high, low] = address.segments();
    let of = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Some(Ipv4Addr::new(a, b, c, d))
    };
    match (a, b) {
        (0x64, 0xff9b) if (c, d, e, f) == (0, 0, 0, 0) => of(high, low),
        (0x2002, _) => of(b, c),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn addresses_are_as_near_as_they_are() {
        for (nearness, texts) in [
            (
                Nearness::Machine,
                "127.0.0.1 127.255.0.1 0.0.0.0 0.1.2.3 169.254.169.254 ::1 :: fe80::1 ::ffff:127.0.0.1 64:ff9b::7f00:1 2002:7f00:1::",
            ),
            (
                Nearness::Network,
                "10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 100.64.0.1 198.18.0.1 255.255.255.255 224.0.0.1 fc00::1 fd12::1 ff02::1 fec0::1 ::ffff:10.0.0.1 2002:c0a8:101::",
            ),
            (Nearness::Anywhere, "8.8.8.8 172.32.0.1 100.128.0.1 192.0.2.1 2001:db8::1 2606:4700::1 ::ffff:8.8.8.8"),
        ] {
            for text in texts.split(' ') {
                assert_eq!(Nearness::of(text.parse().unwrap()), nearness, "{text}");
                assert_eq!(Nearness::of_text(text), Some(nearness), "{text}");
            }
        }
        assert_eq!(Nearness::of_text("LOCALHOST."), Some(Nearness::Machine));
        assert_eq!(Nearness::of_text("[::1]"), Some(Nearness::Machine));
        assert_eq!(Nearness::of_text("layers.example"), None);
        assert!(Nearness::Anywhere < Nearness::Network && Nearness::Network < Nearness::Machine);
    }
}
