//! Ports of the host that are published: held, so that no other program takes them and one that has them is noticed.
//!
//! The packet filter carries the traffic, with or without the daemon. What it cannot carry, the daemon does: from IPv6
//! to endpoints that have IPv4 alone, and from the host's own `::1`.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage, sockopt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::filter::Protocol;

/// Connections that one port's proxy carries at once.
const CONNECTIONS: usize = 1024;
/// Senders that one port's relay of datagrams knows at once.
const SENDERS: usize = 1024;
const SENDER_IDLE: Duration = Duration::from_secs(90);
const CONNECT: Duration = Duration::from_secs(10);

/// A port that is held until the value is dropped.
#[derive(Debug)]
pub struct Hold {
    _socket: Option<OwnedFd>,
    _proxy: JoinSet<()>,
}

/// Where a port leads, one connection after the other. May change while the port is held.
#[derive(Debug, Default)]
pub struct Targets {
    list: RwLock<Vec<SocketAddr>>,
    next: AtomicUsize,
}

impl Targets {
    /// Leads elsewhere from now on; what is connected stays.
    pub fn set(&self, targets: Vec<SocketAddr>) {
        *self.list.write().unwrap_or_else(PoisonError::into_inner) = targets;
    }

    /// Every target, another one first each time.
    fn in_turn(&self) -> Vec<SocketAddr> {
        let mut list = self.list.read().unwrap_or_else(PoisonError::into_inner).clone();
        if !list.is_empty() {
            let turn = self.next.fetch_add(1, Ordering::Relaxed) % list.len();
            list.rotate_left(turn);
        }
        list
    }
}

/// Takes a port of the host that leads to one target, see [`hold_shared`].
pub fn hold(runtime: &Handle, protocol: Protocol, host: SocketAddr, target: SocketAddr) -> io::Result<Hold> {
    let targets = Targets::default();
    targets.set(vec![target]);
    hold_shared(runtime, protocol, host, Arc::new(targets))
}

/// Takes a port of the host. An IPv6 one is served towards the targets, wherever the filter does not do it.
///
/// `EADDRINUSE` means that another program has it; `EADDRNOTAVAIL` that the address is not the host's.
pub fn hold_shared(runtime: &Handle, protocol: Protocol, host: SocketAddr, targets: Arc<Targets>) -> io::Result<Hold> {
    let mut proxy = JoinSet::new();
    let held = match protocol {
        // A bound socket is enough of a hindrance, and nobody is ever connected to it by accident.
        Protocol::Tcp if host.is_ipv4() => match bound(protocol, host, false) {
            // Connections that have just ended stand in the way of a bind, but not of a listener.
            Err(Errno::EADDRINUSE) => Some(listening(host)?),
            other => Some(other?),
        },
        Protocol::Udp if host.is_ipv4() => Some(bound(protocol, host, false)?),
        Protocol::Tcp => {
            let listener = std::net::TcpListener::from(listening(host)?);
            listener.set_nonblocking(true)?;
            let _entered = runtime.enter();
            proxy.spawn_on(carry_streams(TcpListener::from_std(listener)?, targets), runtime);
            None
        }
        Protocol::Udp => {
            let socket = std::net::UdpSocket::from(bound(protocol, host, false)?);
            socket.set_nonblocking(true)?;
            let _entered = runtime.enter();
            proxy.spawn_on(carry_datagrams(Arc::new(UdpSocket::from_std(socket)?), targets), runtime);
            None
        }
        Protocol::Sctp => match bound(protocol, host, false) {
            // A host without the protocol has no program that could take the port.
            Err(Errno::EPROTONOSUPPORT | Errno::ESOCKTNOSUPPORT) => None,
            other => Some(other?),
        },
    };
    Ok(Hold { _socket: held, _proxy: proxy })
}

fn bound(protocol: Protocol, at: SocketAddr, reuse: bool) -> Result<OwnedFd, Errno> {
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SockType::Stream, SockProtocol::Tcp),
        Protocol::Udp => (SockType::Datagram, SockProtocol::Udp),
        Protocol::Sctp => (SockType::Stream, SockProtocol::Sctp),
    };
    let socket = socket::socket(family, kind, SockFlag::SOCK_CLOEXEC, number)?;
    if at.is_ipv6() {
        socket::setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    socket::setsockopt(&socket, sockopt::ReuseAddr, &reuse)?;
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(at))?;
    Ok(socket)
}

fn listening(at: SocketAddr) -> Result<OwnedFd, Errno> {
    let socket = bound(Protocol::Tcp, at, true)?;
    socket::listen(&socket, Backlog::new(if at.is_ipv4() { 1 } else { 128 })?)?;
    Ok(socket)
}

async fn carry_streams(listener: TcpListener, targets: Arc<Targets>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok((mut outer, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        let targets = targets.in_turn();
        connections.spawn(async move {
            for target in targets {
                if let Ok(Ok(mut inner)) = timeout(CONNECT, TcpStream::connect(target)).await {
                    let _ = (outer.set_nodelay(true), inner.set_nodelay(true));
                    let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
                    break;
                }
            }
            drop(permit);
        });
    }
}

async fn carry_datagrams(outer: Arc<UdpSocket>, targets: Arc<Targets>) {
    let mut senders: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut answers: JoinSet<SocketAddr> = JoinSet::new();
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok((length, from)) = outer.recv_from(&mut buffer).await else {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        while let Some(ended) = answers.try_join_next() {
            if let Ok(sender) = ended {
                senders.remove(&sender);
            }
        }
        let inner = match senders.get(&from) {
            Some(inner) => Arc::clone(inner),
            None if senders.len() >= SENDERS => continue,
            None => {
                let Some(target) = targets.in_turn().first().copied() else { continue };
                let any = if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
                let Ok(inner) = UdpSocket::bind(SocketAddr::new(any, 0)).await else { continue };
                if inner.connect(target).await.is_err() {
                    continue;
                }
                let inner = Arc::new(inner);
                senders.insert(from, Arc::clone(&inner));
                answers.spawn(answer_sender(Arc::clone(&outer), Arc::clone(&inner), from));
                inner
            }
        };
        let _ = inner.send(&buffer[..length]).await;
    }
}

/// Carries back what the endpoint answers, until it is silent for long.
async fn answer_sender(outer: Arc<UdpSocket>, inner: Arc<UdpSocket>, to: SocketAddr) -> SocketAddr {
    let mut buffer = vec![0; 65_536];
    while let Ok(Ok(length)) = timeout(SENDER_IDLE, inner.recv(&mut buffer)).await {
        if outer.send_to(&buffer[..length], to).await.is_err() {
            break;
        }
    }
    to
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn free() -> u16 {
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    #[tokio::test]
    async fn a_held_port_is_noticed_and_a_taken_one_too() {
        let runtime = Handle::current();
        let port = free();
        let here = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        let target = at("127.0.0.1:9");
        let held = hold(&runtime, Protocol::Tcp, here, target).unwrap();
        assert_eq!(std::net::TcpListener::bind(here).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(hold(&runtime, Protocol::Tcp, here, target).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(held);
        let other = std::net::TcpListener::bind(here).unwrap();
        assert_eq!(hold(&runtime, Protocol::Tcp, here, target).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        // A connection that has just ended is no program.
        let client = std::net::TcpStream::connect(here).unwrap();
        drop(other.accept().unwrap());
        drop((client, other));
        hold(&runtime, Protocol::Tcp, here, target).unwrap();
        let datagrams = hold(&runtime, Protocol::Udp, here, target).unwrap();
        assert!(std::net::UdpSocket::bind(here).is_err());
        drop(datagrams);
        let foreign = hold(&runtime, Protocol::Tcp, at("198.51.100.1:80"), target).unwrap_err();
        assert_eq!(foreign.kind(), io::ErrorKind::AddrNotAvailable);
    }

    #[tokio::test]
    async fn ipv6_is_carried_to_where_ipv4_is_spoken() {
        if std::net::TcpListener::bind("[::1]:0").is_err() {
            eprintln!("skipped: needs IPv6");
            return;
        }
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let echo = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (stream_target, datagram_target) = (server.local_addr().unwrap(), echo.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.unwrap();
            stream.write_all(b"hello").await.unwrap();
        });
        tokio::spawn(async move {
            let mut buffer = [0; 64];
            let (length, from) = echo.recv_from(&mut buffer).await.unwrap();
            echo.send_to(&buffer[..length], from).await.unwrap();
        });
        let host = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), free());
        let _streams = hold(&Handle::current(), Protocol::Tcp, host, stream_target).unwrap();
        let _datagrams = hold(&Handle::current(), Protocol::Udp, host, datagram_target).unwrap();
        let mut text = String::new();
        TcpStream::connect(host).await.unwrap().read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
        let client = UdpSocket::bind("[::1]:0").await.unwrap();
        client.connect(host).await.unwrap();
        client.send(b"ping").await.unwrap();
        let mut buffer = [0; 64];
        assert_eq!(client.recv(&mut buffer).await.unwrap(), 4);
    }
}
