//! Networks, their endpoints, published ports and names, as their drivers decide.
//!
//! A record is the intent: it is written before the kernel is touched and says so until it is done, so that the next
//! daemon undoes what was left half-way. Lock order: `shape` (networks come and go), `choice` (ports of the host), the
//! tables; the tables' lock is never held over a driver's call or over the kernel's.

mod create;
mod endpoint;
mod publish;
mod record;
mod resolve;
mod share;
mod show;
mod state;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bollard_stubs::models::{
    EndpointSettings, NetworkConnectRequest, NetworkCreateRequest, NetworkCreateResponse, NetworkInspect,
    NetworkPruneResponse, PortMap,
};
use sampan_network::Watch;
use sampan_network::plan::Attachment;

use crate::containers::record::Status;
use crate::error::{Error, Result};
use crate::filters::Filters;
use crate::{Engine, Shared, blocking};

use state::{Inner, lock};

/// The networks of an engine. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Networks {
    inner: Arc<Inner>,
    _watch: Arc<Option<Watch>>,
}

/// How a container lives in networks, from its `NetworkMode`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A namespace of its own (`config.netns(id)`), joined to networks.
    Sandbox,
    /// The host's namespace.
    Host,
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
        let shared = Arc::clone(shared);
        let runtime = tokio::runtime::Handle::current();
        blocking(move || {
            let inner = Inner::open(&shared, runtime)?;
            inner.restore();
            let inner = Arc::new(inner);
            let weak = Arc::downgrade(&inner);
            let watch = Watch::open(move || {
                if let Some(inner) = weak.upgrade() {
                    inner.heal();
                }
            });
            if let Err(error) = &watch {
                tracing::warn!(%error, "removals of links and tables by other programs are not noticed");
            }
            Ok(Self { inner, _watch: Arc::new(watch.ok()) })
        })
        .await
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce(&Inner) -> Result<T> + Send + 'static) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        blocking(move || work(&inner)).await
    }

    /// What a network's name (or id) means for the namespace of a container: `bridge`, `host`, `none`, `default`, custom.
    /// `container:…` is the caller's.
    pub(crate) async fn mode(&self, network: &str) -> Result<Mode> {
        let state = self.inner.state();
        Ok(match state.find(network)?.attachment {
            Attachment::Joined => Mode::Sandbox,
            Attachment::Host => Mode::Host,
            Attachment::Isolated => Mode::Isolated,
        })
    }

    /// Refuses, when a container is created, what could not be joined: unknown networks, addresses outside of subnets.
    pub(crate) async fn check(&self, network: &str, settings: &EndpointSettings) -> Result<()> {
        self.inner.check(network, settings)
    }

    /// Makes the namespace of a container (idempotent) with its loopback up, and returns its path.
    pub(crate) async fn create_sandbox(&self, container: &str) -> Result<PathBuf> {
        let container = container.to_owned();
        self.run(move |inner| inner.create_sandbox(&container)).await
    }

    /// Leaves every network, withdraws the published ports, and removes the namespace. Idempotent.
    pub(crate) async fn remove_sandbox(&self, container: &str) -> Result<()> {
        let container = container.to_owned();
        self.run(move |inner| inner.remove_sandbox(&container)).await
    }

    /// Joins a network: links, addresses, routes, names. Returns the settings as `inspect` shows them.
    pub(crate) async fn join(&self, join: Join) -> Result<EndpointSettings> {
        self.run(move |inner| inner.join(join)).await
    }

    /// Leaves one network.
    pub(crate) async fn leave(&self, container: &str, network: &str, force: bool) -> Result<()> {
        let (container, network) = (container.to_owned(), network.to_owned());
        self.run(move |inner| inner.leave(&container, &network, force)).await
    }

    /// Publishes ports of a container that has joined; free host ports are chosen where none is named. Returns what is
    /// published. All or nothing. Containers of one group have fixed ports together.
    pub(crate) async fn publish(&self, container: &str, ports: &PortMap, group: Option<String>) -> Result<PortMap> {
        let (container, ports) = (container.to_owned(), ports.clone());
        self.run(move |inner| inner.publish(&container, &ports, group.as_deref())).await
    }

    /// Publishes other ports of a container that runs; see [`Networks::publish`]. What stays is not touched.
    pub(crate) async fn republish(&self, container: &str, ports: &PortMap, group: Option<String>) -> Result<PortMap> {
        let (container, ports) = (container.to_owned(), ports.clone());
        self.run(move |inner| inner.republish(&container, &ports, group.as_deref())).await
    }

    /// Whether those that look for one of several containers shall find this one.
    pub(crate) async fn set_ready(&self, container: &str, ready: bool) {
        let container = container.to_owned();
        let _ = self
            .run(move |inner| {
                inner.set_ready(&container, ready);
                Ok(())
            })
            .await;
    }

    /// Takes a container out of what is found by name and by port where there are others, or back in.
    pub(crate) async fn withdraw(&self, container: &str, away: bool) -> Result<()> {
        let container = container.to_owned();
        self.run(move |inner| {
            inner.withdraw(&container, away);
            Ok(())
        })
        .await
    }

    /// What belongs into the container's `resolv.conf`, now that it has joined.
    pub(crate) async fn resolver(&self, container: &str) -> Result<Resolver> {
        let container = container.to_owned();
        self.run(move |inner| inner.resolver(&container)).await
    }

    /// After a start of the daemon, for a container that still runs: serves its names again, and completes what was under
    /// way when the last daemon went: networks that are not among the `wanted` ones (names or ids) are left.
    pub(crate) async fn adopt(&self, container: &str, wanted: Vec<String>) -> Result<()> {
        let container = container.to_owned();
        self.run(move |inner| {
            inner.hold_again(&container);
            inner.serve_names(&container)?;
            inner.leave_all_but(&container, &wanted)
        })
        .await
    }

    /// After adoption: removes namespaces, links and leases of containers that are not in `live`.
    pub(crate) async fn sweep(&self, live: &[String]) -> Result<()> {
        let live = live.to_vec();
        self.run(move |inner| inner.sweep(&live)).await
    }

    /// The container's name has changed.
    pub(crate) async fn renamed(&self, container: &str, name: &str) -> Result<()> {
        let (container, name) = (container.to_owned(), name.to_owned());
        self.run(move |inner| inner.renamed(&container, &name)).await
    }

    /// Endpoints of a container as `inspect` shows them, by network name.
    pub(crate) fn endpoints(&self, container: &str) -> HashMap<String, EndpointSettings> {
        self.inner.endpoints(container)
    }

    /// Names and ids of the networks that a container has joined.
    pub(crate) fn joined(&self, container: &str) -> Vec<(String, String)> {
        self.inner.joined(container)
    }

    /// Ends what the daemon serves; what lies in the kernel stays.
    pub(crate) async fn shutdown(&self) {
        self.inner.state().sandboxes.clear();
    }

    /// At an orderly end with nothing running: takes the links and the packet filter away. The next start makes them anew.
    pub(crate) async fn clear(&self) -> Result<()> {
        self.run(|inner| {
            let _shape = lock(&inner.shape);
            inner.ended.store(true, Ordering::Relaxed);
            for marked in inner.executor.marked()? {
                inner.executor.remove_marked(&marked)?;
            }
            inner.filter.drop_table().map_err(|error| Error::internal(format!("remove the packet filter: {error}")))
        })
        .await
    }
}

impl Engine {
    /// `network ls`.
    pub async fn list_networks(&self, filters: Filters) -> Result<Vec<NetworkInspect>> {
        self.inner.networks.inner.list(&filters)
    }

    /// `network create`.
    pub async fn create_network(&self, request: NetworkCreateRequest) -> Result<NetworkCreateResponse> {
        self.inner.networks.run(move |inner| inner.create(request)).await
    }

    /// `network inspect`.
    pub async fn inspect_network(&self, id: &str, _verbose: bool) -> Result<NetworkInspect> {
        self.inner.networks.inner.inspect(id)
    }

    /// `network rm`.
    pub async fn remove_network(&self, id: &str) -> Result<()> {
        let id = id.to_owned();
        self.inner.networks.run(move |inner| inner.remove(&id)).await
    }

    /// `network connect`: at once when the container runs, at its next start otherwise.
    pub async fn connect_network(&self, id: &str, request: NetworkConnectRequest) -> Result<()> {
        let networks = &self.inner.networks;
        let containers = &self.inner.containers;
        let container = containers.find(&request.container)?;
        let _operation = container.operation.lock().await;
        let settings = request.endpoint_config.unwrap_or_default();
        let name = networks.inner.state().find(id)?.name.clone();
        networks.check(&name, &settings).await?;
        if networks.mode(&name).await? != Mode::Sandbox {
            return Err(Error::forbidden(format!(
                "a container cannot be connected to the {name} network while it exists"
            )));
        }
        let record = container.snapshot();
        let mode = record.host.network_mode.clone().unwrap_or_default();
        if mode.starts_with("container:") {
            let why = "container sharing network namespace with another container or host cannot be connected to any other network";
            return Err(Error::forbidden(why));
        }
        let mode = if mode.is_empty() { "default" } else { &mode };
        // The network that it was made with may be gone: then its other networks count.
        match networks.mode(mode).await.unwrap_or(Mode::Sandbox) {
            Mode::Host => {
                let why = "container sharing network namespace with another container or host cannot be connected to any other network";
                return Err(Error::forbidden(why));
            }
            Mode::Isolated if !record.networks.is_empty() || !name.is_empty() => {
                let why = "container cannot be connected to multiple networks with one of the networks in private (none) mode";
                return Err(Error::forbidden(why));
            }
            _ => {}
        }
        let runs = matches!(record.state.status, Status::Running | Status::Paused);
        if record.networks.contains_key(&name) && !runs {
            let container = &record.name;
            return Err(Error::forbidden(format!("endpoint with name {container} already exists in network {name}")));
        }
        if runs {
            let hostname = record.config.hostname.clone().unwrap_or_default();
            let dns = record.host.dns.clone().unwrap_or_default();
            let join = Join {
                container: record.id.clone(),
                name: record.name.clone(),
                hostname,
                network: name.clone(),
                settings: settings.clone(),
                dns,
            };
            networks.join(join).await?;
        }
        containers.update(&container, |record| record.networks.insert(name, settings))?;
        Ok(())
    }

    /// `network disconnect`.
    pub async fn disconnect_network(&self, id: &str, container: &str, force: bool) -> Result<()> {
        let networks = &self.inner.networks;
        let containers = &self.inner.containers;
        let name = networks.inner.state().find(id)?.name.clone();
        let container = match containers.find(container) {
            // What a container that is gone left behind.
            Err(_) if force => return networks.leave(container, id, true).await,
            other => other?,
        };
        let _operation = container.operation.lock().await;
        let record = container.snapshot();
        let known = record
            .networks
            .keys()
            .find(|key| **key == name || networks.inner.state().find(key).is_ok_and(|found| found.name == name));
        let Some(known) = known.cloned() else {
            if force {
                return Ok(());
            }
            let container = &record.id;
            return Err(Error::forbidden(format!("container {container} is not connected to network {name}")));
        };
        // Noted first: when the daemon goes meanwhile, the next one leaves what is not noted.
        let settings = containers.update(&container, |record| record.networks.remove(&known))?;
        if matches!(record.state.status, Status::Running | Status::Paused)
            && let Err(error) = networks.leave(&record.id, &name, true).await
        {
            containers.update(&container, |record| settings.map(|settings| record.networks.insert(known, settings)))?;
            return Err(error);
        }
        Ok(())
    }

    /// `network prune`.
    pub async fn prune_networks(&self, filters: Filters) -> Result<NetworkPruneResponse> {
        filters.only(&["label", "label!", "until"])?;
        let until = filters.values("until").next().map(until_ns).transpose()?;
        // Networks that containers refer to stay, whether these run or not.
        let wanted: Vec<String> = self
            .inner
            .containers
            .all()
            .iter()
            .flat_map(|container| container.snapshot().networks.keys().cloned().collect::<Vec<_>>())
            .collect();
        let networks = &self.inner.networks;
        let unused: Vec<String> = {
            let state = networks.inner.state();
            let used = |network: &record::NetworkRecord| {
                state.endpoints_in(&network.id).next().is_some()
                    || wanted.iter().any(|key| state.find(key).is_ok_and(|found| found.id == network.id))
            };
            let all = state.networks.values().filter(|network| !network.is_predefined() && !used(network));
            let passing = all.filter(|network| {
                filters.labels(&network.labels) && until.is_none_or(|until| network.created_ns < until)
            });
            passing.map(|network| network.name.clone()).collect()
        };
        let mut deleted = Vec::new();
        for name in unused {
            // Joined meanwhile: it is in use.
            if self.remove_network(&name).await.is_ok() {
                deleted.push(name);
            }
        }
        Ok(NetworkPruneResponse { networks_deleted: Some(deleted) })
    }
}

/// `until`: seconds since the epoch, or a duration back from now, as `24h` or `90s`.
fn until_ns(text: &str) -> Result<u64> {
    const SECOND: u64 = 1_000_000_000;
    let invalid =
        || Error::invalid(format!("invalid filter 'until={text}': a time or a duration such as 24h is expected"));
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(seconds.saturating_mul(SECOND));
    }
    if let Some(time) = sampan_image::timestamp::parse(text) {
        return u64::try_from(time).map_err(|_| invalid());
    }
    let mut total = 0_u64;
    let mut number = String::new();
    for character in text.chars() {
        if character.is_ascii_digit() {
            number.push(character);
            continue;
        }
        let unit = match character {
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return Err(invalid()),
        };
        let count: u64 = number.parse().map_err(|_| invalid())?;
        total = total.saturating_add(count.saturating_mul(unit * SECOND));
        number.clear();
    }
    if !number.is_empty() {
        return Err(invalid());
    }
    Ok(crate::events::now_ns().saturating_sub(total))
}
