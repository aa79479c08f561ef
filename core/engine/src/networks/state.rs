//! The tables of networks and endpoints, and what is done to them when the daemon starts.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use sampan_drivers::{HostFacts, NetworkDriver};
use sampan_network::dns::{DnsServer, HostResolver};
use sampan_network::names::{Endpoint, Names};
use sampan_network::plan::Attachment;
use sampan_network::ports::Hold;
use sampan_network::{
    ExecuteError, Executor, Filter, Protocol, Purpose, Refusal, Rules, Validated, Wanted, ensure_forwarding, validate,
};
use sampan_store::Durability;
use tokio::runtime::Handle;

use super::record::{
    ENDPOINTS, EndpointRecord, NETWORKS, NetworkRecord, PREDEFINED, PUBLISHED, PublishedRecord, Stage,
};
use super::share::{SharedPort, Standby};
use crate::Shared;
use crate::error::{Error, Result};

impl From<ExecuteError> for Error {
    fn from(error: ExecuteError) -> Self {
        match error {
            ExecuteError::Foreign(_) => Self::conflict(error),
            other => Self::internal(other),
        }
    }
}

impl From<sampan_network::NetlinkError> for Error {
    fn from(error: sampan_network::NetlinkError) -> Self {
        Self::internal(format!("packet filter: {error}"))
    }
}

/// What all networks of an engine share.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) shared: Arc<Shared>,
    pub(super) facts: HostFacts,
    pub(super) runtime: Handle,
    pub(super) executor: Executor,
    pub(super) filter: Filter,
    /// Why joined networks cannot be used on this host.
    pub(super) filter_problem: Mutex<Option<String>>,
    pub(super) names: Arc<Names>,
    pub(super) host_resolver: Arc<HostResolver>,
    state: Mutex<State>,
    /// One create or remove of a network at a time: subnets are chosen among those that are there.
    pub(super) shape: Mutex<()>,
    /// Links and rules are gone for good: nothing makes them again. Set with `shape` held.
    pub(super) ended: AtomicBool,
    /// One choice of host ports at a time.
    pub(super) choice: Mutex<()>,
    /// One change of shared ports at a time. Taken behind `choice`.
    pub(super) settling: Mutex<()>,
}

/// Tables. Changed by this process alone, after the store.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) networks: BTreeMap<String, NetworkRecord>,
    /// By container, then by network.
    pub(super) endpoints: BTreeMap<String, BTreeMap<String, EndpointRecord>>,
    pub(super) published: BTreeMap<String, PublishedRecord>,
    pub(super) sandboxes: HashMap<String, Sandbox>,
    pub(super) shared: BTreeMap<(Protocol, SocketAddr), SharedPort>,
    pub(super) standby: Standby,
}

/// What the daemon serves for a container.
#[derive(Debug, Default)]
pub(super) struct Sandbox {
    pub(super) dns: Option<DnsServer>,
    pub(super) holds: Vec<((Protocol, SocketAddr), Hold)>,
}

impl State {
    /// By whole id, name, or the beginning of an id.
    pub(super) fn find(&self, reference: &str) -> Result<&NetworkRecord> {
        let reference = if reference == "default" { "bridge" } else { reference };
        let missing = || Error::not_found(format!("network {reference} not found"));
        if reference.is_empty() {
            return Err(missing());
        }
        if let Some(found) = self.networks.get(reference) {
            return Ok(found);
        }
        if let Some(found) = self.networks.values().find(|network| network.name == reference) {
            return Ok(found);
        }
        let mut beginning = self.networks.values().filter(|network| network.id.starts_with(reference));
        match (beginning.next(), beginning.next()) {
            (Some(found), None) => Ok(found),
            (Some(_), Some(_)) => {
                Err(Error::invalid(format!("network {reference} is ambiguous: several ids begin so")))
            }
            (None, _) => Err(missing()),
        }
    }

    pub(super) fn endpoints_of(&self, container: &str) -> impl Iterator<Item = &EndpointRecord> {
        self.endpoints.get(container).into_iter().flat_map(BTreeMap::values)
    }

    pub(super) fn endpoints_in(&self, network: &str) -> impl Iterator<Item = &EndpointRecord> {
        self.endpoints.values().filter_map(move |networks| networks.get(network))
    }

    fn lease_again(&mut self, endpoint: &EndpointRecord) {
        let Some(network) = self.networks.get_mut(&endpoint.network) else { return };
        for net in &endpoint.addresses {
            if let Some(pool) = network.pools.iter_mut().find(|pool| pool.subnet.contains(&net.addr())) {
                pool.leased.insert(net.addr());
            }
        }
    }

    /// Ends an endpoint's leases.
    pub(super) fn release(&mut self, network: &str, addresses: &[IpNet]) {
        let Some(network) = self.networks.get_mut(network) else { return };
        for net in addresses {
            for pool in &mut network.pools {
                pool.release(&net.addr());
            }
        }
    }

    /// Forgets an endpoint and its leases.
    pub(super) fn remove_endpoint(&mut self, container: &str, network: &str) -> Option<EndpointRecord> {
        let networks = self.endpoints.get_mut(container)?;
        let removed = networks.remove(network)?;
        if networks.is_empty() {
            self.endpoints.remove(container);
        }
        self.release(network, &removed.addresses);
        Some(removed)
    }
}

impl Inner {
    /// Reads the store. The kernel is looked at by [`Inner::restore`].
    pub(super) fn open(shared: &Arc<Shared>, runtime: Handle) -> Result<Self> {
        let cannot = |what: &str, error: std::io::Error| Error::internal(format!("{what}: {error}"));
        let instance = shared.instance.as_str();
        let mut state = State::default();
        shared.store.read::<_, Error>(|tx| {
            state.networks.extend(NETWORKS.all(tx)?);
            for (_, endpoint) in ENDPOINTS.all(tx)? {
                let networks = state.endpoints.entry(endpoint.container.clone()).or_default();
                networks.insert(endpoint.network.clone(), endpoint);
            }
            state.published.extend(PUBLISHED.all(tx)?);
            Ok(())
        })?;
        let endpoints: Vec<EndpointRecord> = state.endpoints.values().flat_map(BTreeMap::values).cloned().collect();
        endpoints.iter().for_each(|endpoint| state.lease_again(endpoint));
        let mut facts = HostFacts::from(&shared.facts);
        let found = sampan_network::features().map_err(|error| cannot("look at the kernel's networking", error))?;
        facts.features.extend(found.into_iter().filter(|feature| !shared.facts.has(feature)));
        let inner = Self {
            facts,
            runtime,
            executor: Executor::open(instance).map_err(|error| cannot("open route netlink", error))?,
            filter: Filter::open(instance).map_err(|error| cannot("open the packet filter", error))?,
            filter_problem: Mutex::default(),
            names: Arc::new(Names::default()),
            host_resolver: Arc::new(HostResolver::new(Path::new("/etc/resolv.conf"))),
            state: Mutex::new(state),
            shape: Mutex::default(),
            ended: AtomicBool::new(false),
            choice: Mutex::default(),
            settling: Mutex::default(),
            shared: Arc::clone(shared),
        };
        Ok(inner)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(super) fn netns(&self, container: &str) -> PathBuf {
        self.shared.config.netns(container)
    }

    /// The networks as the store has them come to be in the kernel; half-made and half-removed ones are undone; the
    /// predefined ones are made when they are not there.
    pub(super) fn restore(&self) {
        let networks: Vec<NetworkRecord> = self.state().networks.values().cloned().collect();
        for network in networks {
            let outcome = match network.stage {
                Stage::There => self.ensure(&network),
                Stage::Making | Stage::Going => self.forget_network(&network),
            };
            if let Err(error) = outcome {
                tracing::error!(network = network.name, %error, "a network could not be restored");
            }
        }
        self.open_shares();
        self.rebuild_filter();
        for name in PREDEFINED {
            if self.state().find(name).is_err()
                && let Err(error) = self.create_predefined(name)
            {
                tracing::error!(network = name, %error, "a predefined network could not be made");
            }
        }
        let state = self.state();
        let endpoints = state.endpoints.values().flat_map(BTreeMap::values);
        for endpoint in endpoints.filter(|endpoint| endpoint.stage == Stage::There) {
            self.name_endpoint(&state, endpoint);
        }
    }

    /// After links or tables were removed, by whomever: what is ours and wanted is made again. Connections go on where
    /// their links are left.
    pub(super) fn heal(&self) {
        let _shape = lock(&self.shape);
        if self.ended.load(Ordering::Relaxed) {
            return;
        }
        if !self.filter.exists().unwrap_or(true) {
            tracing::warn!("the packet filter's table was removed by another program: it is set up again");
            self.rebuild_filter();
        }
        let Ok(marked) = self.executor.marked() else { return };
        let is_there = |name: &String| marked.iter().any(|link| link.name == *name);
        let broken: Vec<NetworkRecord> = {
            let state = self.state();
            let there = state.networks.values().filter(|network| network.stage == Stage::There);
            there.filter(|network| !network.side.links.values().all(is_there)).cloned().collect()
        };
        for network in broken {
            tracing::warn!(network = network.name, "a network's link was removed by another program: it is made again");
            let endpoints: Vec<EndpointRecord> = self.state().endpoints_in(&network.id).cloned().collect();
            let healed = self.ensure(&network).and_then(|()| {
                endpoints
                    .iter()
                    .try_for_each(|endpoint| Ok(self.executor.attach_again(&endpoint.joined, &network.side)?))
            });
            if let Err(error) = healed {
                tracing::error!(network = network.name, %error, "a network's link could not be made again");
            }
        }
    }

    fn ensure(&self, network: &NetworkRecord) -> Result<()> {
        if network.attachment != Attachment::Joined {
            return Ok(());
        }
        let plan = self.network_plan(network)?;
        let rules = network.subnet_rules();
        let side = self.executor.ensure_network(&network.id, network.bridge_name(), &plan, &rules)?;
        self.forwarding(network)?;
        if side != network.side {
            let changed = NetworkRecord { side, ..network.clone() };
            self.put_network(&changed)?;
        }
        Ok(())
    }

    /// Writes the whole table anew. Failing is remembered: networks without links go on to work.
    pub(super) fn rebuild_filter(&self) {
        let wanted = {
            let state = self.state();
            let joined = state.networks.values().filter(|network| network.stage == Stage::There);
            Wanted {
                networks: joined.map(|network| (network.id.clone(), network.side.filter.clone())).collect(),
                publishes: state.published.values().flat_map(|published| published.filter.clone()).collect(),
                shares: state.shared.values().map(|shared| shared.applied.clone()).collect(),
            }
        };
        let problem = self.filter.rebuild(&wanted).err().map(|error| {
            tracing::error!(%error, "the packet filter could not be set up");
            format!("this kernel's packet filter cannot be used (nf_tables with NAT is needed): {error}")
        });
        *lock(&self.filter_problem) = problem;
    }

    /// The checked plan of a network's host side.
    pub(super) fn network_plan(&self, network: &NetworkRecord) -> Result<Validated> {
        let driver = self.driver(&network.driver)?;
        let steps = driver.create(&self.facts, &network.spec())?;
        let locals: Vec<IpAddr> = self.executor.host_addresses()?;
        let rules = Rules {
            purpose: Purpose::Network,
            subnets: &network.subnet_rules(),
            parents: &network.parents(),
            locals: &locals,
        };
        validate(&steps, &rules).map_err(|refusal| refused(&driver, "create", &refusal))
    }

    pub(super) fn driver(&self, name: &str) -> Result<NetworkDriver> {
        Ok(self.shared.drivers.network(name)?)
    }

    /// Networks that leave the host need a host that forwards.
    pub(super) fn forwarding(&self, network: &NetworkRecord) -> Result<()> {
        if network.internal || network.side.filter.bridges.is_empty() {
            return Ok(());
        }
        for pool in &network.pools {
            let v6 = pool.subnet.addr().is_ipv6();
            ensure_forwarding(v6).map_err(|error| Error::internal(format!("let the host forward packets: {error}")))?;
        }
        Ok(())
    }

    pub(super) fn put_network(&self, network: &NetworkRecord) -> Result<()> {
        let mut kept = network.clone();
        for pool in &mut kept.pools {
            pool.leased.clear();
            pool.last = None;
        }
        let mut state = self.state();
        // What survives a loss of power: endpoints refer to networks by id.
        self.shared.store.write::<_, Error>(Durability::Power, |tx| Ok(NETWORKS.put(tx, &kept.id, &kept)?))?;
        match state.networks.get_mut(&network.id) {
            // Leases may have changed since the record was copied.
            Some(known) => {
                let pools = std::mem::take(&mut known.pools);
                *known = NetworkRecord { pools, ..network.clone() };
            }
            None => {
                state.networks.insert(network.id.clone(), network.clone());
            }
        }
        Ok(())
    }

    /// Removes the kernel's side and the record. Idempotent.
    pub(super) fn forget_network(&self, network: &NetworkRecord) -> Result<()> {
        self.executor.remove_network(&network.side)?;
        let marked = self.executor.marked()?;
        for link in marked.iter().filter(|link| link.object == network.id) {
            self.executor.remove_marked(link)?;
        }
        self.shared.store.write::<_, Error>(Durability::Power, |tx| Ok(NETWORKS.delete(tx, &network.id)?))?;
        self.state().networks.remove(&network.id);
        Ok(())
    }

    pub(super) fn put_endpoint(&self, endpoint: &EndpointRecord) -> Result<()> {
        self.shared
            .store
            .write::<_, Error>(Durability::Process, |tx| Ok(ENDPOINTS.put(tx, &endpoint.key(), endpoint)?))
    }

    /// Lets others find an endpoint by its names.
    pub(super) fn name_endpoint(&self, state: &State, endpoint: &EndpointRecord) {
        let Some(network) = state.networks.get(&endpoint.network) else { return };
        if network.has_names() {
            let addresses = endpoint.addresses.iter().map(|net| net.addr()).collect();
            let standby = state.standby.has(&endpoint.container);
            let known = Endpoint { names: endpoint.names(), addresses, standby };
            self.names.set(&network.id, &network.name, &endpoint.id, known);
        }
    }
}

pub(super) fn refused(driver: &NetworkDriver, call: &str, refusal: &Refusal) -> Error {
    Error::internal(format!("driver {:?} (network): {call}: {refusal}", driver.name()))
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
