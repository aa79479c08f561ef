//! Which addresses a driver may send to: decided on the address, after names were resolved.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use wasmtime_wasi::sockets::SocketAddrUse;

use crate::manifest::{Capabilities, Egress};

/// How long a resolved name is believed.
const FRESH: Duration = Duration::from_secs(30);

/// The allow list of one instance.
#[derive(Debug, Default)]
pub struct Allowed {
    targets: Vec<(Option<String>, Option<u16>)>,
    resolved: Mutex<HashMap<String, (Instant, Vec<IpAddr>)>>,
}

impl Allowed {
    /// From what was granted and what the user gave.
    pub fn new(capabilities: &Capabilities, options: &[(String, String)]) -> Self {
        let mut targets = Vec::new();
        for target in capabilities.network.iter().filter_map(|text| Egress::parse(text).ok()) {
            match target {
                Egress::To { host, port } => targets.push((host, port)),
                Egress::Option(name) => {
                    let values = options.iter().filter(|(option, _)| *option == name);
                    targets.extend(values.filter_map(|(_, value)| match Egress::of_value(value) {
                        Some(Egress::To { host, port }) => Some((host, port)),
                        _ => None,
                    }));
                }
            }
        }
        Self { targets, resolved: Mutex::default() }
    }

    /// Whether there is anything at all.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// Whether names have to be resolved for it.
    pub fn has_names(&self) -> bool {
        self.targets.iter().any(|(host, _)| host.as_ref().is_none_or(|host| host.parse::<IpAddr>().is_err()))
    }

    async fn allows(&self, address: SocketAddr) -> bool {
        for (host, port) in &self.targets {
            if port.is_some_and(|port| port != address.port()) {
                continue;
            }
            match host {
                None => return true,
                Some(host) if self.addresses(host).await.contains(&address.ip().to_canonical()) => return true,
                Some(_) => {}
            }
        }
        false
    }

    async fn addresses(&self, host: &str) -> Vec<IpAddr> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return vec![address.to_canonical()];
        }
        let known = self.resolved.lock().unwrap_or_else(PoisonError::into_inner).get(host).cloned();
        if let Some((at, addresses)) = known
            && at.elapsed() < FRESH
        {
            return addresses;
        }
        let Ok(found) = tokio::net::lookup_host((host, 0)).await else { return Vec::new() };
        let addresses: Vec<IpAddr> = found.map(|address| address.ip().to_canonical()).collect();
        let entry = (Instant::now(), addresses.clone());
        self.resolved.lock().unwrap_or_else(PoisonError::into_inner).insert(host.to_owned(), entry);
        addresses
    }
}

/// The check for each use of an address: outward as listed, nothing inward.
pub fn check(
    allowed: Arc<Allowed>,
) -> impl Fn(SocketAddr, SocketAddrUse) -> Pin<Box<dyn Future<Output = bool> + Send + Sync>> + Send + Sync + 'static {
    move |address, purpose| {
        let allowed = allowed.clone();
        // Only the answer leaves the task, which makes the future shareable.
        let answer = match purpose {
            // What the kernel chooses by itself before a connection.
            SocketAddrUse::TcpBind | SocketAddrUse::UdpBind => {
                return Box::pin(std::future::ready(address.ip().is_unspecified() && address.port() == 0));
            }
            SocketAddrUse::TcpListen | SocketAddrUse::TcpAccept => return Box::pin(std::future::ready(false)),
            _ => tokio::spawn(async move { allowed.allows(address).await }),
        };
        Box::pin(async move { answer.await.unwrap_or(false) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn only_what_is_listed_is_reached() {
        let capabilities = Capabilities {
            network: vec!["127.0.0.1:514".into(), "option:address".into(), "*:53".into()],
            ..Capabilities::default()
        };
        let allowed = Allowed::new(
            &capabilities,
            &[("address".into(), "tcp://[::1]:601".into()), ("other".into(), "10.0.0.1:1".into())],
        );
        for (address, expected) in [
            ("127.0.0.1:514", true),
            ("127.0.0.1:515", false),
            ("[::1]:601", true),
            ("10.0.0.1:1", false),
            ("9.9.9.9:53", true),
            ("[::ffff:127.0.0.1]:514", true),
        ] {
            assert_eq!(allowed.allows(address.parse().unwrap()).await, expected, "{address}");
        }
        let check = check(Arc::new(Allowed::new(
            &Capabilities { network: vec!["*:*".into()], ..Capabilities::default() },
            &[],
        )));
        assert!(!check("0.0.0.0:514".parse().unwrap(), SocketAddrUse::TcpBind).await);
        assert!(check("0.0.0.0:0".parse().unwrap(), SocketAddrUse::UdpBind).await);
    }
}
