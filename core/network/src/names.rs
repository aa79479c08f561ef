//! Which names mean which endpoints, network by network.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The names of an instance's networks.
#[derive(Debug, Default)]
pub struct Names {
    networks: RwLock<HashMap<String, Network>>,
}

#[derive(Debug, Default)]
struct Network {
    name: String,
    endpoints: HashMap<String, Endpoint>,
    /// Ids of endpoints by lower-case name.
    by_name: HashMap<String, BTreeSet<String>>,
    by_address: HashMap<IpAddr, String>,
}

/// An endpoint's names: the first is the one that its address is shown by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoint {
    pub names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// Not to be found by a name that an endpoint has which is ready: unhealthy, not yet healthy, or about to go.
    pub standby: bool,
}

/// What one sandbox may look into.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Ids of its networks; the first that knows a name answers.
    pub networks: Vec<String>,
    /// Names of its own for others (`--link`).
    pub links: HashMap<String, String>,
}

impl Names {
    fn read(&self) -> RwLockReadGuard<'_, HashMap<String, Network>> {
        self.networks.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<String, Network>> {
        self.networks.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an endpoint or replaces what is known of it.
    pub fn set(&self, network: &str, network_name: &str, id: &str, endpoint: Endpoint) {
        let mut networks = self.write();
        let network = networks.entry(network.to_owned()).or_default();
        network.name = network_name.to_ascii_lowercase();
        network.remove(id);
        for name in &endpoint.names {
            network.by_name.entry(name.to_ascii_lowercase()).or_default().insert(id.to_owned());
        }
        for address in &endpoint.addresses {
            network.by_address.insert(*address, id.to_owned());
        }
        network.endpoints.insert(id.to_owned(), endpoint);
    }

    /// Forgets an endpoint.
    pub fn remove(&self, network: &str, id: &str) {
        let mut networks = self.write();
        let Some(found) = networks.get_mut(network) else { return };
        found.remove(id);
        if found.endpoints.is_empty() {
            networks.remove(network);
        }
    }

    /// Every address of the endpoints with that name that are ready, or of all when none is; `None` when no network of the
    /// view knows it.
    #[must_use]
    pub fn addresses(&self, view: &View, name: &str) -> Option<Vec<IpAddr>> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let name = view.links.get(&name).map_or(name, |linked| linked.to_ascii_lowercase());
        let networks = self.read();
        let mine = || view.networks.iter().filter_map(|id| networks.get(id));
        if let Some(found) = mine().find_map(|network| network.find(&name)) {
            return Some(found);
        }
        // A name may say its network: `web.backend`.
        let dots = name.match_indices('.').map(|(at, _)| at);
        dots.rev().find_map(|at| {
            mine().find(|network| network.name == name[at + 1..]).and_then(|network| network.find(&name[..at]))
        })
    }

    /// The name of the endpoint with that address, with its network's.
    #[must_use]
    pub fn name_of(&self, view: &View, address: IpAddr) -> Option<String> {
        let networks = self.read();
        view.networks.iter().filter_map(|id| networks.get(id)).find_map(|network| {
            let endpoint = network.endpoints.get(network.by_address.get(&address)?)?;
            endpoint.names.first().map(|name| format!("{name}.{}", network.name))
        })
    }
}

impl Network {
    fn find(&self, name: &str) -> Option<Vec<IpAddr>> {
        let ids = self.by_name.get(name)?;
        let named = || ids.iter().filter_map(|id| self.endpoints.get(id));
        let any_ready = named().any(|endpoint| !endpoint.standby);
        let meant = named().filter(|endpoint| !(any_ready && endpoint.standby));
        Some(meant.flat_map(|endpoint| endpoint.addresses.clone()).collect())
    }

    fn remove(&mut self, id: &str) {
        let Some(endpoint) = self.endpoints.remove(id) else { return };
        for name in &endpoint.names {
            let name = name.to_ascii_lowercase();
            if let Some(ids) = self.by_name.get_mut(&name) {
                ids.remove(id);
                if ids.is_empty() {
                    self.by_name.remove(&name);
                }
            }
        }
        for address in &endpoint.addresses {
            if self.by_address.get(address).is_some_and(|owner| owner == id) {
                self.by_address.remove(address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn endpoint(names: &[&str], address: &str) -> Endpoint {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Endpoint { names, addresses: vec![ip(address)], standby: false }
    }

    #[test]
    fn names_mean_endpoints_of_the_views_networks() {
        let names = Names::default();
        names.set("n1", "Front", "e1", endpoint(&["Web-1", "web"], "10.0.0.2"));
        names.set("n1", "Front", "e2", endpoint(&["web-2", "web"], "10.0.0.3"));
        names.set("n2", "back", "e3", endpoint(&["db"], "10.0.1.2"));
        let view = View { networks: vec!["n1".into()], links: HashMap::from([("alias".into(), "web-1".into())]) };
        assert_eq!(names.addresses(&view, "WEB."), Some(vec![ip("10.0.0.2"), ip("10.0.0.3")]));
        assert_eq!(names.addresses(&view, "web-2.front"), Some(vec![ip("10.0.0.3")]));
        assert_eq!(names.addresses(&view, "alias"), Some(vec![ip("10.0.0.2")]));
        assert_eq!(names.addresses(&view, "db"), None);
        assert_eq!(names.addresses(&view, "db.back"), None);
        assert_eq!(names.name_of(&view, ip("10.0.0.2")).unwrap(), "Web-1.front");
        assert_eq!(names.name_of(&view, ip("10.0.1.2")), None);
        names.set("n1", "front", "e1", endpoint(&["renamed"], "10.0.0.2"));
        assert_eq!(names.addresses(&view, "web"), Some(vec![ip("10.0.0.3")]));
        names.remove("n1", "e1");
        names.remove("n1", "e2");
        names.remove("n1", "e2");
        assert_eq!(names.addresses(&view, "renamed"), None);
        assert_eq!(names.read().len(), 1);
    }

    #[test]
    fn a_name_means_those_that_are_ready_or_all() {
        let names = Names::default();
        let view = View { networks: vec!["n".into()], links: HashMap::new() };
        let standby = |names: &[&str], address: &str| Endpoint { standby: true, ..endpoint(names, address) };
        names.set("n", "n", "e1", endpoint(&["web-1", "web"], "10.0.0.2"));
        names.set("n", "n", "e2", standby(&["web-2", "web"], "10.0.0.3"));
        assert_eq!(names.addresses(&view, "web"), Some(vec![ip("10.0.0.2")]));
        assert_eq!(names.addresses(&view, "web-2"), Some(vec![ip("10.0.0.3")]), "its own name is always its own");
        names.set("n", "n", "e1", standby(&["web-1", "web"], "10.0.0.2"));
        assert_eq!(names.addresses(&view, "web").unwrap().len(), 2, "rather one that may answer than none");
    }
}
