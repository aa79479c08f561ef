//! Drivers that answer with plans: an instance for each call.

use std::sync::Arc;

use sampan_network::plan as net;
use sampan_storage::plan as disk;
use wasmtime::Store;

use crate::bindings::sampan::driver as wit;
use crate::bindings::{layer, network};
use crate::error::DriverError;
use crate::host::{Data, Grant};
use crate::slot::{Loaded, Slot};

/// What the host can do, so that drivers choose and never probe.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Release of the kernel.
    pub kernel: String,
    /// Type of the file system below the data root.
    pub data_root_fs: String,
    /// Such as `overlay`, `ipv6`, `link.macvlan`.
    pub features: Vec<String>,
}

type Options = [(String, String)];

impl From<&HostFacts> for wit::types::HostFacts {
    fn from(facts: &HostFacts) -> Self {
        Self {
            kernel: facts.kernel.clone(),
            data_root_fs: facts.data_root_fs.clone(),
            features: facts.features.clone(),
        }
    }
}

fn object(object: &net::Object) -> wit::types::Object {
    wit::types::Object { id: object.id.clone(), name: object.name.clone() }
}

pub(crate) fn options(options: &Options) -> Vec<wit::types::OptionValue> {
    options.iter().map(|(key, value)| wit::types::OptionValue { key: key.clone(), value: value.clone() }).collect()
}

impl Slot {
    /// One call in a store of its own.
    fn once<T>(
        &self,
        call: &'static str,
        options: &Options,
        body: impl AsyncFnOnce(&mut Store<Data>, &Loaded) -> wasmtime::Result<Result<T, wit::types::Failure>>,
    ) -> Result<T, DriverError> {
        self.admit()?;
        let loaded = self.loaded()?;
        let manifest = self.manifest();
        let mut store = self.store(&Grant { capabilities: &manifest.capabilities, options, log: None })?;
        self.call(call, &mut store, async |store| body(store, &loaded).await)
    }
}

/// The registry gives a handle only to slots of its kind, and a slot's kind never changes.
fn other_kind<T>() -> wasmtime::Result<T> {
    Err(wasmtime::Error::msg("the driver is of another kind"))
}

macro_rules! call {
    ($slot:expr, $name:literal, $options:expr, $kind:ident, $export:ident, |$store:ident, $guest:ident| $body:expr) => {
        $slot.once($name, $options, async |$store, loaded| {
            let Loaded::$kind(component) = loaded else { return other_kind() };
            let driver = component.instantiate_async(&mut *$store).await?;
            let $guest = driver.$export();
            $body.await
        })
    };
}

/// How a layer says that something of its parents is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whiteouts {
    /// As overlayfs does.
    Overlay,
    /// The layer's directory is a full tree: it is removed there.
    Remove,
}

/// Steps, and the place that they lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// To be validated and executed.
    pub plan: Vec<disk::Step>,
    /// Where the result lies.
    pub root: disk::Place,
}

/// How the changes of a container are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeView {
    /// An overlay's upper directory.
    Upper(disk::Place),
    /// The second tree, compared with the first.
    Compare(disk::Place, disk::Place),
}

/// A driver for layers of images and containers.
#[derive(Debug, Clone)]
pub struct LayerDriver {
    pub(crate) slot: Arc<Slot>,
}

impl LayerDriver {
    /// The driver's own name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.slot.name
    }

    /// In which form layers are unpacked; also whether the driver can work on this host.
    pub fn style(&self, facts: &HostFacts) -> Result<Whiteouts, DriverError> {
        let style = call!(self.slot, "style", &[], Layer, sampan_driver_layers, |store, guest| guest
            .call_style(store, &facts.into()))?;
        Ok(match style {
            layer::exports::sampan::driver::layers::Whiteouts::Overlay => Whiteouts::Overlay,
            layer::exports::sampan::driver::layers::Whiteouts::Remove => Whiteouts::Remove,
        })
    }

    /// A place to unpack a layer into, over its parents (nearest first).
    pub fn prepare(&self, facts: &HostFacts, layer: &str, parents: &[String]) -> Result<Prepared, DriverError> {
        call!(self.slot, "prepare", &[], Layer, sampan_driver_layers, |store, guest| guest.call_prepare(
            store,
            &facts.into(),
            layer,
            parents
        ))
        .map(Into::into)
    }

    /// A container's root, at `given(0)`.
    pub fn mount(&self, facts: &HostFacts, container: &str, parents: &[String]) -> Result<Prepared, DriverError> {
        call!(self.slot, "mount", &[], Layer, sampan_driver_layers, |store, guest| guest.call_mount(
            store,
            &facts.into(),
            container,
            parents
        ))
        .map(Into::into)
    }

    /// How to find what a container has changed.
    pub fn changes(&self, container: &str, parents: &[String]) -> Result<ChangeView, DriverError> {
        use layer::exports::sampan::driver::layers::ChangeView as Wit;
        let view = call!(self.slot, "changes", &[], Layer, sampan_driver_layers, |store, guest| guest
            .call_changes(store, container, parents))?;
        Ok(match view {
            Wit::Upper(place) => ChangeView::Upper(place.into()),
            Wit::Compare((before, after)) => ChangeView::Compare(before.into(), after.into()),
        })
    }

    /// Forgets a layer.
    pub fn remove_layer(&self, layer: &str) -> Result<Vec<disk::Step>, DriverError> {
        call!(self.slot, "remove-layer", &[], Layer, sampan_driver_layers, |store, guest| guest
            .call_remove_layer(store, layer))
        .map(steps)
    }

    /// Forgets a container's writable layer.
    pub fn remove_container(&self, container: &str) -> Result<Vec<disk::Step>, DriverError> {
        call!(self.slot, "remove-container", &[], Layer, sampan_driver_layers, |store, guest| guest
            .call_remove_container(store, container))
        .map(steps)
    }
}

/// A driver for volumes.
#[derive(Debug, Clone)]
pub struct VolumeDriver {
    pub(crate) slot: Arc<Slot>,
}

impl VolumeDriver {
    /// The driver's own name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.slot.name
    }

    /// Called once, when a volume is made. The options are checked by name here.
    pub fn create(
        &self,
        facts: &HostFacts,
        volume: &net::Object,
        given: &Options,
    ) -> Result<Vec<disk::Step>, DriverError> {
        let all = self.slot.manifest().options(given)?;
        call!(self.slot, "create", &all, Volume, sampan_driver_volumes, |store, guest| guest.call_create(
            store,
            &facts.into(),
            &object(volume),
            &options(&all)
        ))
        .map(steps)
    }

    /// Called before each container that uses the volume.
    pub fn mount(&self, facts: &HostFacts, volume: &net::Object, given: &Options) -> Result<Prepared, DriverError> {
        let all = self.slot.manifest().options(given)?;
        let mounted = call!(self.slot, "mount", &all, Volume, sampan_driver_volumes, |store, guest| guest.call_mount(
            store,
            &facts.into(),
            &object(volume),
            &options(&all)
        ))?;
        Ok(Prepared { plan: steps(mounted.plan), root: mounted.at.into() })
    }

    /// Called when the last container that used it has ended.
    pub fn unmount(&self, volume: &net::Object, given: &Options) -> Result<Vec<disk::Step>, DriverError> {
        let all = self.slot.manifest().completed(given);
        call!(self.slot, "unmount", &all, Volume, sampan_driver_volumes, |store, guest| guest.call_unmount(
            store,
            &object(volume),
            &options(&all)
        ))
        .map(steps)
    }

    /// Called once, when the volume is removed.
    pub fn remove(&self, volume: &net::Object, given: &Options) -> Result<Vec<disk::Step>, DriverError> {
        let all = self.slot.manifest().completed(given);
        call!(self.slot, "remove", &all, Volume, sampan_driver_volumes, |store, guest| guest.call_remove(
            store,
            &object(volume),
            &options(&all)
        ))
        .map(steps)
    }
}

/// A driver for networks.
#[derive(Debug, Clone)]
pub struct NetworkDriver {
    pub(crate) slot: Arc<Slot>,
}

impl NetworkDriver {
    /// The driver's own name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.slot.name
    }

    /// The specification with its options completed; checked too when the network is new.
    fn complete(
        &self,
        network: &net::NetworkSpec,
        new: bool,
    ) -> Result<(network::exports::sampan::driver::network::NetworkSpec, Vec<(String, String)>), DriverError> {
        use network::exports::sampan::driver::network as wit;
        let all = if new {
            self.slot.manifest().options(&network.options)?
        } else {
            self.slot.manifest().completed(&network.options)
        };
        let subnets = network
            .subnets
            .iter()
            .map(|subnet| wit::Subnet { cidr: subnet.cidr.clone(), gateway: subnet.gateway.clone() })
            .collect();
        let spec = wit::NetworkSpec {
            network: object(&network.network),
            subnets,
            internal: network.internal,
            ipv6: network.ipv6,
            options: options(&all),
        };
        Ok((spec, all))
    }

    /// How endpoints of this network live.
    pub fn attached(&self, network: &net::NetworkSpec) -> Result<net::Attachment, DriverError> {
        use network::exports::sampan::driver::network::Attachment as Wit;
        let (spec, all) = self.complete(network, true)?;
        let attached = call!(self.slot, "attached", &all, Network, sampan_driver_network, |store, guest| guest
            .call_attached(store, &spec))?;
        Ok(match attached {
            Wit::Joined => net::Attachment::Joined,
            Wit::Host => net::Attachment::Host,
            Wit::Isolated => net::Attachment::Isolated,
        })
    }

    /// Called when a network is made, and again after a restart.
    pub fn create(&self, facts: &HostFacts, network: &net::NetworkSpec) -> Result<Vec<net::Step>, DriverError> {
        let (spec, all) = self.complete(network, false)?;
        call!(self.slot, "create", &all, Network, sampan_driver_network, |store, guest| guest.call_create(
            store,
            &facts.into(),
            &spec
        ))
        .map(net_steps)
    }

    /// Called when a container joins. An endpoint's options go to the driver as they are.
    pub fn join(
        &self,
        facts: &HostFacts,
        network: &net::NetworkSpec,
        endpoint: &net::EndpointSpec,
    ) -> Result<Vec<net::Step>, DriverError> {
        let (spec, all) = self.complete(network, false)?;
        let endpoint = end(endpoint);
        call!(self.slot, "join", &all, Network, sampan_driver_network, |store, guest| guest.call_join(
            store,
            &facts.into(),
            &spec,
            &endpoint
        ))
        .map(net_steps)
    }

    /// Whether the core publishes ports of this network's endpoints in the usual way.
    pub fn publishes(&self, network: &net::NetworkSpec) -> Result<bool, DriverError> {
        let (spec, all) = self.complete(network, false)?;
        call!(self.slot, "publishes", &all, Network, sampan_driver_network, |store, guest| guest
            .call_publishes(store, &spec))
    }

    /// To forget what the driver kept of an endpoint.
    pub fn left(&self, network: &net::NetworkSpec, endpoint: &net::EndpointSpec) -> Result<(), DriverError> {
        let (spec, all) = self.complete(network, false)?;
        let endpoint = end(endpoint);
        call!(self.slot, "left", &all, Network, sampan_driver_network, |store, guest| guest
            .call_left(store, &spec, &endpoint))
    }

    /// To forget what the driver kept of a network.
    pub fn removed(&self, network: &net::NetworkSpec) -> Result<(), DriverError> {
        let (spec, all) = self.complete(network, false)?;
        call!(self.slot, "removed", &all, Network, sampan_driver_network, |store, guest| guest
            .call_removed(store, &spec))
    }
}

fn end(endpoint: &net::EndpointSpec) -> network::exports::sampan::driver::network::EndpointSpec {
    network::exports::sampan::driver::network::EndpointSpec {
        endpoint: object(&endpoint.endpoint),
        addresses: endpoint.addresses.clone(),
        mac: endpoint.mac.clone(),
        interface_name: endpoint.interface_name.clone(),
        options: options(&endpoint.options),
    }
}

impl From<layer::exports::sampan::driver::layers::Prepared> for Prepared {
    fn from(prepared: layer::exports::sampan::driver::layers::Prepared) -> Self {
        Self { plan: steps(prepared.plan), root: prepared.root.into() }
    }
}

impl From<wit::storage_plan::Place> for disk::Place {
    fn from(place: wit::storage_plan::Place) -> Self {
        match place {
            wit::storage_plan::Place::Tree(path) => Self::Tree(path),
            wit::storage_plan::Place::Given(number) => Self::Given(number),
        }
    }
}

fn steps(steps: Vec<wit::storage_plan::Step>) -> Vec<disk::Step> {
    use wit::storage_plan::Step as Wit;
    let step = |step| match step {
        Wit::Directory(directory) => disk::Step::Directory {
            at: directory.at.into(),
            mode: directory.mode,
            uid: directory.uid,
            gid: directory.gid,
        },
        Wit::Remove(place) => disk::Step::Remove(place.into()),
        Wit::Mount(mount) => disk::Step::Mount {
            fstype: mount.fstype,
            source: mount.source.map(Into::into),
            target: mount.target.into(),
            options: mount.options,
            places: mount.places.into_iter().map(|(name, place)| (name, place.into())).collect(),
        },
        Wit::Remote(remote) => disk::Step::Remote {
            fstype: remote.fstype,
            device: remote.device,
            target: remote.target.into(),
            options: remote.options,
        },
        Wit::Bind((device, target, options)) => disk::Step::Bind { device, target: target.into(), options },
        Wit::Copy((from, to)) => disk::Step::Copy { from: from.into(), to: to.into() },
        Wit::Unmount(place) => disk::Step::Unmount(place.into()),
    };
    steps.into_iter().map(step).collect()
}

fn place(place: wit::network_plan::Place) -> net::Place {
    match place {
        wit::network_plan::Place::Host => net::Place::Host,
        wit::network_plan::Place::Endpoint => net::Place::Endpoint,
    }
}

fn net_steps(steps: Vec<wit::network_plan::Step>) -> Vec<net::Step> {
    use wit::network_plan::{Intent, LinkKind, Step as Wit};
    let kind = |kind| match kind {
        LinkKind::Bridge => net::LinkKind::Bridge,
        LinkKind::Veth(veth) => {
            net::LinkKind::Veth(net::Veth { peer_label: veth.peer_label, peer_place: place(veth.peer_place) })
        }
        LinkKind::Vxlan(vxlan) => {
            net::LinkKind::Vxlan(net::Vxlan { vni: vxlan.vni, port: vxlan.port, local: vxlan.local })
        }
        LinkKind::Macvlan(macvlan) => {
            net::LinkKind::Macvlan(net::Macvlan { parent: macvlan.parent, mode: macvlan.mode })
        }
        LinkKind::Ipvlan(parent) => net::LinkKind::Ipvlan(parent),
        LinkKind::Dummy => net::LinkKind::Dummy,
    };
    let step = |step| match step {
        Wit::Link(link) => net::Step::Link(net::Link {
            label: link.label,
            kind: kind(link.kind),
            place: place(link.place),
            mtu: link.mtu,
            mac: link.mac,
            master: link.master,
        }),
        Wit::Rename((label, name)) => net::Step::Rename(label, name),
        Wit::Address(address) => net::Step::Address(net::Address { label: address.label, cidr: address.cidr }),
        Wit::Up(label) => net::Step::Up(label),
        Wit::Route(route) => {
            net::Step::Route(net::Route { destination: route.destination, gateway: route.gateway, label: route.label })
        }
        Wit::Filter(intent) => net::Step::Filter(match intent {
            Intent::Masquerade(subnet) => net::Intent::Masquerade(subnet),
            Intent::Isolate(label) => net::Intent::Isolate(label),
            Intent::Internal(label) => net::Intent::Internal(label),
            Intent::NoInterContainer(label) => net::Intent::NoInterContainer(label),
        }),
    };
    steps.into_iter().map(step).collect()
}
