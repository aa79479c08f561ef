//! Fixed ports of the host that several containers have together, and who of them is ready.
//!
//! The replicas of a service are a group. Whoever of a group is ready gets new connections; when nobody is, all do. The
//! packet filter spreads them, with or without the daemon; connections that are open stay where they are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use sampan_network::ports::{Hold, Targets, hold_shared};
use sampan_network::{Protocol, Share};

use super::publish::Target;
use super::record::PublishedPort;
use super::state::{Inner, State, lock};

/// A port that a group has.
#[derive(Debug)]
pub(super) struct SharedPort {
    group: String,
    targets: Arc<Targets>,
    /// None until a container that has it is adopted.
    hold: Option<Hold>,
    /// What the filter says of it.
    pub(super) applied: Share,
}

/// Containers that shall not be found while others are.
#[derive(Debug, Default)]
pub(super) struct Standby {
    unready: BTreeSet<String>,
    withdrawn: BTreeSet<String>,
}

impl Standby {
    pub(super) fn has(&self, container: &str) -> bool {
        self.unready.contains(container) || self.withdrawn.contains(container)
    }

    pub(super) fn forget(&mut self, container: &str) {
        self.unready.remove(container);
        self.withdrawn.remove(container);
    }
}

type Key = (Protocol, SocketAddr);

impl State {
    /// Of each shared port: its group, and where it leads.
    fn wanted_shares(&self) -> BTreeMap<Key, (String, Vec<SocketAddr>)> {
        let mut all: BTreeMap<Key, (String, Vec<(SocketAddr, bool)>)> = BTreeMap::new();
        for (container, record) in &self.published {
            let Some(group) = &record.group else { continue };
            let target = self.target(container).map_or(Target::default(), |(target, _)| target);
            for port in record.ports.iter().filter(|port| port.shared) {
                let entry = all.entry((port.protocol, port.host)).or_insert_with(|| (group.clone(), Vec::new()));
                entry.1.extend(target.of(port).map(|target| (target, self.standby.has(container))));
            }
        }
        all.into_iter().map(|(key, (group, targets))| (key, (group, meant(&targets)))).collect()
    }
}

/// Those that are ready, or all.
fn meant(targets: &[(SocketAddr, bool)]) -> Vec<SocketAddr> {
    let any_ready = targets.iter().any(|(_, standby)| !standby);
    targets.iter().filter(|(_, standby)| !(any_ready && *standby)).map(|(target, _)| *target).collect()
}

/// What the filter can carry of a shared port; the daemon carries the rest.
fn filtered((protocol, host): Key, targets: &[SocketAddr]) -> Share {
    let by_daemon = host.ip() == IpAddr::V6(Ipv6Addr::LOCALHOST);
    let targets = targets.iter().filter(|target| !by_daemon && target.is_ipv4() == host.is_ipv4()).copied().collect();
    Share { protocol, host, targets }
}

impl Inner {
    /// Takes a port for a group, unless the group has it.
    pub(super) fn hold_for_group(
        &self,
        group: &str,
        protocol: Protocol,
        host: SocketAddr,
    ) -> Result<(), std::io::Error> {
        let mut state = self.state();
        match state.shared.get(&(protocol, host)) {
            Some(known) if known.group == group => Ok(()),
            Some(_) => Err(std::io::ErrorKind::AddrInUse.into()),
            None => {
                let targets = Arc::new(Targets::default());
                let hold = hold_shared(&self.runtime, protocol, host, Arc::clone(&targets))?;
                let applied = Share { protocol, host, targets: Vec::new() };
                let known = SharedPort { group: group.to_owned(), targets, hold: Some(hold), applied };
                state.shared.insert((protocol, host), known);
                Ok(())
            }
        }
    }

    /// After a start of the daemon: a shared port of a container that runs on is held again.
    pub(super) fn hold_shared_again(&self, container: &str, port: &PublishedPort) {
        let mut state = self.state();
        let Some(known) = state.shared.get_mut(&(port.protocol, port.host)).filter(|known| known.hold.is_none()) else {
            return;
        };
        match hold_shared(&self.runtime, port.protocol, port.host, Arc::clone(&known.targets)) {
            Ok(held) => known.hold = Some(held),
            Err(error) => tracing::warn!(container, host = %port.host, %error, "a published port cannot be held"),
        }
    }

    /// What the store knows of shared ports, for the first writing of the filter.
    pub(super) fn open_shares(&self) {
        let mut state = self.state();
        for (key, (group, list)) in state.wanted_shares() {
            let applied = filtered(key, &list);
            let targets = Arc::new(Targets::default());
            targets.set(list);
            state.shared.insert(key, SharedPort { group, targets, hold: None, applied });
        }
    }

    /// Leads shared ports to where they should, now that a container came, went, or is ready or not. A port that nobody
    /// has is given back.
    pub(super) fn settle_shares(&self) {
        let _settling = lock(&self.settling);
        let (mut before, mut after) = (Vec::new(), Vec::new());
        {
            let mut state = self.state();
            let wanted = state.wanted_shares();
            state.shared.retain(|key, known| {
                let list = wanted.get(key).map(|(_, list)| list.clone());
                let stays = list.is_some();
                let share = filtered(*key, list.as_deref().unwrap_or_default());
                known.targets.set(list.unwrap_or_default());
                if share != known.applied {
                    before.push(std::mem::replace(&mut known.applied, share.clone()));
                    after.push(share);
                }
                stays
            });
        }
        if let Err(error) = self.filter.share(&before, &after) {
            tracing::warn!(%error, "shared ports could not be led elsewhere; the packet filter is set up anew");
            self.rebuild_filter();
        }
    }

    /// Whether a container is ready for those that look for one of several; of one alone it means nothing.
    pub(super) fn set_ready(&self, container: &str, ready: bool) {
        let changed = {
            let mut state = self.state();
            if ready {
                state.standby.unready.remove(container)
            } else {
                state.standby.unready.insert(container.to_owned())
            }
        };
        if changed {
            self.readiness_changed(container);
        }
    }

    /// The container is about to go: others are found in its place, if there are any.
    pub(super) fn withdraw(&self, container: &str, away: bool) {
        let changed = {
            let mut state = self.state();
            let withdrawn = &mut state.standby.withdrawn;
            if away { withdrawn.insert(container.to_owned()) } else { withdrawn.remove(container) }
        };
        if changed {
            self.readiness_changed(container);
        }
    }

    fn readiness_changed(&self, container: &str) {
        {
            let state = self.state();
            state.endpoints_of(container).for_each(|endpoint| self.name_endpoint(&state, endpoint));
        }
        self.settle_shares();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn those_that_are_ready_get_the_connections_or_all() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (one, two) = (at("10.0.0.2:80"), at("10.0.0.3:80"));
        assert_eq!(meant(&[(one, false), (two, true)]), [one]);
        assert_eq!(meant(&[(one, true), (two, true)]), [one, two]);
        assert_eq!(meant(&[]), []);
        let key = (Protocol::Tcp, at("[::]:8080"));
        assert!(filtered(key, &[one]).targets.is_empty(), "from IPv6 to IPv4 the daemon carries");
    }
}
