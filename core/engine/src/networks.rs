//! Networks, their endpoints, published ports and names, as their drivers decide.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use bollard_stubs::models::{
    EndpointSettings, NetworkConnectRequest, NetworkCreateRequest, NetworkCreateResponse, NetworkInspect,
    NetworkPruneResponse, PortMap,
};

use crate::error::{Error, Result};
use crate::filters::Filters;
use crate::{Engine, Shared};

/// The networks of an engine. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Networks {
    shared: Arc<Shared>,
}

/// How a container lives in networks, from its `NetworkMode`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A namespace of its own (`config.netns(id)`), joined to networks.
    Sandbox,
    /// The host's namespace.
    Host,
    /// The namespace of another container, by id.
    Container(String),
    /// A namespace of its own with a loopback alone.
    Isolated,
}

/// A container joins one network.
#[derive(Debug, Clone)]
pub(crate) struct Join {
    /// The container's id.
    pub container: String,
    /// Its name, without a slash.
    pub name: String,
    /// Its host name.
    pub hostname: String,
    /// Name or id of the network.
    pub network: String,
    /// What was asked for: aliases, addresses, MAC.
    pub settings: EndpointSettings,
    /// Servers of `--dns`, `--dns-search`, `--dns-option`.
    pub dns: Vec<String>,
}

/// What a container's `resolv.conf` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Resolver {
    /// Addresses of servers: 127.0.0.11 where the embedded server answers.
    pub servers: Vec<String>,
    /// Search domains of the host, when none were asked for.
    pub search: Vec<String>,
    /// Options of the host, when none were asked for.
    pub options: Vec<String>,
}

impl Networks {
    /// Opens the state, makes sure that the default networks, every network's links and the packet filter are there.
    pub(crate) async fn open(shared: &Arc<Shared>) -> Result<Self> {
        Ok(Self { shared: Arc::clone(shared) })
    }

    /// What a network's name (or id) means for the namespace of a container: `bridge`, `host`, `none`, `default`, custom.
    /// `container:…` is the caller's.
    pub(crate) async fn mode(&self, _network: &str) -> Result<Mode> {
        unsupported()
    }

    /// Refuses, when a container is created, what could not be joined: unknown networks, addresses outside of subnets.
    pub(crate) async fn check(&self, _network: &str, _settings: &EndpointSettings) -> Result<()> {
        unsupported()
    }

    /// Makes the namespace of a container (idempotent) with its loopback up, and returns its path.
    pub(crate) async fn create_sandbox(&self, _container: &str) -> Result<PathBuf> {
        unsupported()
    }

    /// Leaves every network, withdraws the published ports, and removes the namespace. Idempotent.
    pub(crate) async fn remove_sandbox(&self, _container: &str) -> Result<()> {
        unsupported()
    }

    /// Joins a network: links, addresses, routes, names. Returns the settings as `inspect` shows them.
    pub(crate) async fn join(&self, _join: Join) -> Result<EndpointSettings> {
        unsupported()
    }

    /// Leaves one network.
    pub(crate) async fn leave(&self, _container: &str, _network: &str, _force: bool) -> Result<()> {
        unsupported()
    }

    /// Publishes ports of a container that has joined; free host ports are chosen where none is named. Returns what is
    /// published. All or nothing.
    pub(crate) async fn publish(&self, _container: &str, _ports: &PortMap) -> Result<PortMap> {
        unsupported()
    }

    /// Withdraws the published ports of a container.
    pub(crate) async fn unpublish(&self, _container: &str) -> Result<()> {
        unsupported()
    }

    /// What belongs into the container's `resolv.conf`, now that it has joined.
    pub(crate) async fn resolver(&self, _container: &str) -> Result<Resolver> {
        unsupported()
    }

    /// After a start of the daemon, for a container that still runs: serves its names again.
    pub(crate) async fn adopt(&self, _container: &str) -> Result<()> {
        unsupported()
    }

    /// After adoption: removes namespaces, links and leases of containers that are not in `live`.
    pub(crate) async fn sweep(&self, _live: &[String]) -> Result<()> {
        unsupported()
    }

    /// The container's name has changed.
    pub(crate) async fn renamed(&self, _container: &str, _name: &str) -> Result<()> {
        unsupported()
    }

    /// Endpoints of a container as `inspect` shows them, by network name.
    pub(crate) fn endpoints(&self, _container: &str) -> HashMap<String, EndpointSettings> {
        HashMap::new()
    }

    /// Ends what the daemon serves; what lies in the kernel stays.
    pub(crate) async fn shutdown(&self) {}
}

fn unsupported<T>() -> Result<T> {
    Err(Error::unsupported("networks are not there yet"))
}

impl Engine {
    /// `network ls`.
    pub async fn list_networks(&self, _filters: Filters) -> Result<Vec<NetworkInspect>> {
        unsupported()
    }

    /// `network create`.
    pub async fn create_network(&self, _request: NetworkCreateRequest) -> Result<NetworkCreateResponse> {
        unsupported()
    }

    /// `network inspect`.
    pub async fn inspect_network(&self, _id: &str, _verbose: bool) -> Result<NetworkInspect> {
        unsupported()
    }

    /// `network rm`.
    pub async fn remove_network(&self, _id: &str) -> Result<()> {
        unsupported()
    }

    /// `network connect`: at once when the container runs, at its next start otherwise.
    pub async fn connect_network(&self, _id: &str, _request: NetworkConnectRequest) -> Result<()> {
        unsupported()
    }

    /// `network disconnect`.
    pub async fn disconnect_network(&self, _id: &str, _container: &str, _force: bool) -> Result<()> {
        unsupported()
    }

    /// `network prune`.
    pub async fn prune_networks(&self, _filters: Filters) -> Result<NetworkPruneResponse> {
        unsupported()
    }
}
