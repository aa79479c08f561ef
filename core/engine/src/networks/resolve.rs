//! Names for sandboxes: the embedded server, and what `resolv.conf` says.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};

use sampan_network::dns::{ADDRESS, DnsServer, ResolvConf, Upstream};
use sampan_network::names::View;

use super::Resolver;
use super::state::{Inner, State};
use crate::error::{Error, Result};

impl Inner {
    fn view(&self, state: &State, container: &str) -> (View, Upstream) {
        let list = state.in_order(container);
        let mut view = View::default();
        let mut dns: &[IpAddr] = &[];
        for (endpoint, network) in &list {
            if network.has_names() {
                view.networks.push(network.id.clone());
                for link in endpoint.settings.links.iter().flatten() {
                    let (target, alias) = link.split_once(':').unwrap_or((link, link));
                    view.links.insert(alias.to_ascii_lowercase(), target.trim_start_matches('/').to_owned());
                }
            }
            if dns.is_empty() {
                dns = &endpoint.dns;
            }
        }
        let upstream = if list.iter().all(|(_, network)| network.internal) {
            Upstream::Nobody
        } else if dns.is_empty() {
            Upstream::Host(self.host_resolver.clone())
        } else {
            Upstream::Servers(dns.iter().map(|address| SocketAddr::new(*address, 53)).collect())
        };
        (view, upstream)
    }

    /// Makes sure that a container with names has its server, and that the server knows the container's networks.
    pub(super) fn serve_names(&self, container: &str) -> Result<()> {
        let state = self.state();
        let (view, upstream) = self.view(&state, container);
        if let Some(server) = state.sandboxes.get(container).and_then(|sandbox| sandbox.dns.as_ref()) {
            server.set_view(view, upstream);
            return Ok(());
        }
        drop(state);
        if view.networks.is_empty() {
            return Ok(());
        }
        self.open_server(container, view, upstream)
    }

    fn open_server(&self, container: &str, view: View, upstream: Upstream) -> Result<()> {
        let opened = File::open(self.netns(container))
            .and_then(|namespace| DnsServer::open(&self.runtime, &namespace, self.names.clone(), view, upstream));
        let server =
            opened.map_err(|error| Error::internal(format!("open the name server of a container: {error}")))?;
        self.state().sandboxes.entry(container.to_owned()).or_default().dns = Some(server);
        Ok(())
    }

    /// What the container's `resolv.conf` says. The user's own search domains and options are the caller's.
    pub(super) fn resolver(&self, container: &str) -> Result<Resolver> {
        let host = self.host_resolver.conf();
        let (embedded, joined, given, view, upstream) = {
            let state = self.state();
            let list = state.in_order(container);
            let joined = list.iter().any(|(endpoint, _)| !endpoint.addresses.is_empty());
            let given = list.iter().map(|(endpoint, _)| endpoint.dns.clone()).find(|dns| !dns.is_empty());
            let (view, upstream) = self.view(&state, container);
            let embedded = state.sandboxes.get(container).is_some_and(|sandbox| sandbox.dns.is_some());
            (embedded || !view.networks.is_empty(), joined, given, view, upstream)
        };
        if embedded {
            return Ok(by_server(host));
        }
        let servers: Vec<IpAddr> = match given {
            Some(given) => given,
            // In the host's namespace, or in none: the host's own words.
            None if !joined => host.servers.clone(),
            None => host.servers.iter().copied().filter(|address| !address.is_loopback()).collect(),
        };
        if servers.is_empty() && joined {
            // The host asks a server of its own, which a container cannot reach: the embedded one asks it instead.
            self.open_server(container, view, upstream)?;
            return Ok(by_server(host));
        }
        let servers = servers.into_iter().map(|address| address.to_string()).collect();
        Ok(Resolver { servers, search: host.search, options: host.options })
    }
}

fn by_server(host: ResolvConf) -> Resolver {
    let mut options = host.options;
    if !options.iter().any(|option| option.starts_with("ndots:")) {
        options.push("ndots:0".to_owned());
    }
    Resolver { servers: vec![ADDRESS.to_string()], search: host.search, options }
}
