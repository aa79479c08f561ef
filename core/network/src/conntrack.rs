//! Flows that the kernel remembers: a datagram's way is found once, and followed as long as packets come. When a port
//! begins or ceases to lead somewhere, what is remembered of it is wrong.

use std::collections::HashSet;

use crate::filter::{Protocol, Publish};
use crate::netlink::{Message, NetlinkError, Socket, attributes};

const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
const TUPLE_ORIG: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const UDP: u8 = 17;

/// Makes the kernel forget the flows of datagrams to these ports of the host.
pub(crate) fn forget(socket: &mut Socket, publishes: &[Publish]) -> Result<(), NetlinkError> {
    let datagrams = publishes.iter().filter(|publish| publish.protocol == Protocol::Udp);
    let ports: HashSet<(bool, u16)> = datagrams.map(|publish| (publish.host.is_ipv4(), publish.host.port())).collect();
    for is_v4 in [true, false] {
        let ports: HashSet<u16> = ports.iter().filter(|(v4, _)| *v4 == is_v4).map(|(_, port)| *port).collect();
        if ports.is_empty() {
            continue;
        }
        let family = u8::try_from(if is_v4 { libc::AF_INET } else { libc::AF_INET6 }).unwrap_or_default();
        let mut stale: Vec<Vec<u8>> = Vec::new();
        socket.dump(Message::new(GET, 0, &[family, 0, 0, 0]), |_, payload| {
            let entry = payload.get(4..).unwrap_or_default();
            let tuple = attributes(entry).find(|(kind, _)| *kind == TUPLE_ORIG).map(|(_, value)| value);
            stale.extend(tuple.filter(|tuple| leads_to(tuple, &ports)).map(<[u8]>::to_vec));
        })?;
        for tuple in stale {
            let mut message = Message::new(DELETE, 0, &[family, 0, 0, 0]);
            message.nest(TUPLE_ORIG, |inner| {
                inner.raw(&tuple);
            });
            match socket.request(message) {
                // It ended meanwhile.
                Err(error) if error.errno() == Some(libc::ENOENT) => {}
                other => other?,
            }
        }
    }
    Ok(())
}

fn leads_to(tuple: &[u8], ports: &HashSet<u16>) -> bool {
    let Some((_, protocol)) = attributes(tuple).find(|(kind, _)| *kind == TUPLE_PROTO) else { return false };
    let mut number = 0;
    let mut port = 0;
    for (kind, value) in attributes(protocol) {
        match (kind, value) {
            (1, [value]) => number = *value,
            (3, [high, low]) => port = u16::from_be_bytes([*high, *low]),
            _ => {}
        }
    }
    number == UDP && ports.contains(&port)
}
