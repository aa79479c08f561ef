//! A container in memory, and the table of all.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use bollard_stubs::models::EventMessageTypeEnum;
use sampan_store::Durability;
use tokio::sync::{Mutex, watch};

use super::exec::Execs;
use super::health::Checks;
use super::link::Shim;
use super::policy::Backoff;
use super::record::{CONTAINERS, ContainerRecord, NAMES, Status};
use super::status::Wait;
use super::streams::Hub;
use crate::Shared;
use crate::error::{Error, Result};
use crate::layers::Layers;
use crate::networks::Networks;
use crate::volumes::Volumes;

/// What those see who wait for a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Phase {
    /// How it stands.
    pub status: Status,
    /// How many ends there were since the daemon knows it.
    pub ends: u64,
    /// Code of the last end.
    pub code: i64,
    /// Why the last start failed; empty otherwise.
    pub error: String,
    /// It is gone.
    pub removed: bool,
}

/// A container.
///
/// Locks: `operation` first, by what changes its state; then `settling`, by what follows from its end. Both are held over
/// awaits; the others guard values and are never held over one.
#[derive(Debug)]
pub(crate) struct Container {
    /// 64 hexadecimal digits.
    pub id: String,
    /// One start, stop, rename, … at a time.
    pub operation: Arc<Mutex<()>>,
    /// Held while what its end leaves is cleared away.
    pub settling: Mutex<()>,
    /// The waits between its restarts.
    pub backoff: std::sync::Mutex<Backoff>,
    /// What it waits for, between a crash and the next start.
    pub wait: std::sync::Mutex<Option<Wait>>,
    /// Its next end is a part of a restart by hand: neither policy nor removal follows.
    pub restarting_by_hand: AtomicBool,
    /// Its output and input over all starts.
    pub hub: Hub,
    /// Its `exec`s.
    pub execs: Execs,
    /// Its health check.
    pub checks: Checks,
    record: RwLock<Arc<ContainerRecord>>,
    shim: RwLock<Option<Shim>>,
    phase: watch::Sender<Phase>,
}

impl Container {
    /// A container as the store has it; no shim yet.
    pub(crate) fn new(record: ContainerRecord) -> Self {
        let phase = Phase {
            status: record.state.status,
            code: record.state.exit_code,
            error: record.state.error.clone(),
            ..Phase::default()
        };
        Self {
            id: record.id.clone(),
            operation: Arc::default(),
            settling: Mutex::default(),
            backoff: std::sync::Mutex::default(),
            wait: std::sync::Mutex::default(),
            restarting_by_hand: AtomicBool::new(false),
            hub: Hub::default(),
            execs: Execs::default(),
            checks: Checks::default(),
            record: RwLock::new(Arc::new(record)),
            shim: RwLock::default(),
            phase: watch::Sender::new(phase),
        }
    }

    /// What is known of it now. Do not hold it over an await.
    pub(crate) fn record(&self) -> RwLockReadGuard<'_, Arc<ContainerRecord>> {
        self.record.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of it now, and stays so.
    pub(crate) fn snapshot(&self) -> Arc<ContainerRecord> {
        Arc::clone(&self.record())
    }

    /// How it stands.
    pub(crate) fn status(&self) -> Status {
        self.record().state.status
    }

    /// Its name, without a slash.
    pub(crate) fn name(&self) -> String {
        self.record().name.clone()
    }

    /// Its shim, while it runs.
    pub(crate) fn shim(&self) -> Option<Shim> {
        self.shim.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_shim(&self, shim: Option<Shim>) {
        *self.shim.write().unwrap_or_else(PoisonError::into_inner) = shim;
    }

    /// Follows how it stands.
    pub(crate) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    pub(crate) fn set_phase(&self, change: impl FnOnce(&mut Phase)) {
        self.phase.send_modify(change);
    }
}

/// The containers of an engine. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Containers {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    layers: Layers,
    volumes: Volumes,
    networks: Networks,
    table: RwLock<Table>,
    unfinished: Vec<ContainerRecord>,
    /// The daemon is about to end: what ends now is neither restarted nor removed.
    ending: AtomicBool,
}

#[derive(Debug, Default)]
struct Table {
    by_id: BTreeMap<String, Arc<Container>>,
    ids_by_name: HashMap<String, String>,
}

impl Containers {
    /// Reads what the store has.
    pub(crate) fn open(shared: &Arc<Shared>, layers: &Layers, volumes: &Volumes, networks: &Networks) -> Result<Self> {
        let mut table = Table::default();
        let mut unfinished = Vec::new();
        for (id, record) in shared.store.read(|tx| CONTAINERS.all(tx))? {
            table.ids_by_name.insert(record.name.clone(), id.clone());
            if record.creating {
                unfinished.push(record);
            } else {
                table.by_id.insert(id, Arc::new(Container::new(record)));
            }
        }
        Ok(Self {
            inner: Arc::new(Inner {
                shared: Arc::clone(shared),
                layers: layers.clone(),
                volumes: volumes.clone(),
                networks: networks.clone(),
                table: RwLock::new(table),
                unfinished,
                ending: AtomicBool::new(false),
            }),
        })
    }

    /// Whether the daemon is about to end.
    pub(crate) fn is_ending(&self) -> bool {
        self.inner.ending.load(Ordering::SeqCst)
    }

    pub(crate) fn set_ending(&self) {
        self.inner.ending.store(true, Ordering::SeqCst);
    }

    /// What every manager works with.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    pub(crate) fn layers(&self) -> &Layers {
        &self.inner.layers
    }

    pub(crate) fn volumes(&self) -> &Volumes {
        &self.inner.volumes
    }

    pub(crate) fn networks(&self) -> &Networks {
        &self.inner.networks
    }

    fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.inner.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// All, in the order of their ids.
    pub(crate) fn all(&self) -> Vec<Arc<Container>> {
        self.table().by_id.values().cloned().collect()
    }

    /// The container that goes by a whole id, a name, or the beginning of an id.
    pub(crate) fn find(&self, reference: &str) -> Result<Arc<Container>> {
        let missing = || Error::not_found(format!("No such container: {reference}"));
        if reference.is_empty() {
            return Err(missing());
        }
        let table = self.table();
        if let Some(found) = table.by_id.get(reference) {
            return Ok(Arc::clone(found));
        }
        let name = reference.strip_prefix('/').unwrap_or(reference);
        if let Some(found) = table.ids_by_name.get(name).and_then(|id| table.by_id.get(id)) {
            return Ok(Arc::clone(found));
        }
        let mut beginning =
            table.by_id.range(reference.to_owned()..).take_while(|(id, _)| id.starts_with(reference)).map(|(_, c)| c);
        match (beginning.next(), beginning.next()) {
            (Some(found), None) => Ok(Arc::clone(found)),
            (Some(_), Some(_)) => Err(Error::invalid(format!("multiple IDs found with provided prefix: {reference}"))),
            (None, _) => Err(missing()),
        }
    }

    /// The container that goes by a reference, and its shim; a conflict when it does not run.
    pub(crate) fn running(&self, reference: &str) -> Result<(Arc<Container>, Shim)> {
        let found = self.find(reference)?;
        match (found.status(), found.shim()) {
            (Status::Running | Status::Paused, Some(shim)) => Ok((found, shim)),
            (Status::Restarting, _) => Err(Error::conflict(format!(
                "Container {} is restarting, wait until the container is running",
                found.id
            ))),
            _ => Err(Error::conflict(format!("container {} is not running", found.id))),
        }
    }

    /// Takes a name for a container that is being made; a conflict when it is taken. The container is not found yet.
    pub(crate) fn reserve(&self, record: &ContainerRecord) -> Result<()> {
        let mut table = self.inner.table.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(owner) = table.ids_by_name.get(&record.name) {
            return Err(taken(&record.name, owner));
        }
        self.inner.shared.store.write::<_, Error>(Durability::Process, |tx| {
            NAMES.put(tx, &record.name, &record.id)?;
            Ok(CONTAINERS.insert(tx, &record.id, record)?)
        })?;
        table.ids_by_name.insert(record.name.clone(), record.id.clone());
        Ok(())
    }

    /// Gives a reserved name back.
    pub(crate) fn unreserve(&self, record: &ContainerRecord) -> Result<()> {
        let mut table = self.inner.table.write().unwrap_or_else(PoisonError::into_inner);
        self.inner.shared.store.write::<_, Error>(Durability::Process, |tx| {
            NAMES.delete(tx, &record.name)?;
            CONTAINERS.delete(tx, &record.id)?;
            Ok(())
        })?;
        table.ids_by_name.remove(&record.name);
        Ok(())
    }

    /// Lets a container that is whole be found.
    pub(crate) fn show(&self, record: ContainerRecord) -> Result<Arc<Container>> {
        let mut table = self.inner.table.write().unwrap_or_else(PoisonError::into_inner);
        self.inner
            .shared
            .store
            .write::<_, Error>(Durability::Process, |tx| Ok(CONTAINERS.put(tx, &record.id, &record)?))?;
        let container = Arc::new(Container::new(record));
        table.by_id.insert(container.id.clone(), Arc::clone(&container));
        Ok(container)
    }

    /// Records of containers that an earlier daemon had begun to make.
    pub(crate) fn unfinished(&self) -> Vec<ContainerRecord> {
        self.inner.unfinished.clone()
    }

    /// Whether a name is free.
    pub(crate) fn is_free(&self, name: &str) -> bool {
        !self.table().ids_by_name.contains_key(name)
    }

    /// A conflict when the name is taken.
    pub(crate) fn require_free(&self, name: &str) -> Result<()> {
        self.table().ids_by_name.get(name).map_or(Ok(()), |owner| Err(taken(name, owner)))
    }

    /// Changes a container's name.
    pub(crate) fn set_name(&self, container: &Container, name: &str) -> Result<()> {
        let mut table = self.inner.table.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(owner) = table.ids_by_name.get(name) {
            return Err(taken(name, owner));
        }
        let old = container.name();
        let record = Arc::new(ContainerRecord { name: name.to_owned(), ..ContainerRecord::clone(&container.record()) });
        self.inner.shared.store.write::<_, Error>(Durability::Process, |tx| {
            NAMES.delete(tx, &old)?;
            NAMES.put(tx, name, &container.id)?;
            Ok(CONTAINERS.put(tx, &container.id, &record)?)
        })?;
        *container.record.write().unwrap_or_else(PoisonError::into_inner) = record;
        table.ids_by_name.remove(&old);
        table.ids_by_name.insert(name.to_owned(), container.id.clone());
        Ok(())
    }

    /// Forgets a container, its name with it.
    pub(crate) fn forget(&self, container: &Container) -> Result<()> {
        let mut table = self.inner.table.write().unwrap_or_else(PoisonError::into_inner);
        let name = container.name();
        self.inner.shared.store.write::<_, Error>(Durability::Process, |tx| {
            NAMES.delete(tx, &name)?;
            CONTAINERS.delete(tx, &container.id)?;
            Ok(())
        })?;
        table.ids_by_name.remove(&name);
        table.by_id.remove(&container.id);
        Ok(())
    }

    /// Changes a container's record in memory and store; nothing has changed when it fails. Those who wait for a state
    /// see it afterwards.
    pub(crate) fn update<T>(&self, container: &Container, change: impl FnOnce(&mut ContainerRecord) -> T) -> Result<T> {
        let mut record = container.record.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = ContainerRecord::clone(&record);
        let value = change(&mut changed);
        self.inner
            .shared
            .store
            .write::<_, Error>(Durability::Process, |tx| Ok(CONTAINERS.put(tx, &container.id, &changed)?))?;
        *record = Arc::new(changed);
        let (status, code, error) = (record.state.status, record.state.exit_code, record.state.error.clone());
        drop(record);
        container.phase.send_if_modified(|phase| {
            let differs = phase.status != status || phase.error != error;
            phase.status = status;
            phase.code = code;
            phase.error = error;
            differs
        });
        Ok(value)
    }

    /// Tells an event of a container, with its name, image and labels beside the attributes given.
    pub(crate) fn publish<const N: usize>(&self, container: &Container, action: &str, attributes: [(&str, String); N]) {
        let record = container.record();
        let mut all = record.config.labels.clone().unwrap_or_default();
        all.insert("name".to_owned(), record.name.clone());
        all.insert("image".to_owned(), record.config.image.clone().unwrap_or_default());
        drop(record);
        all.extend(attributes.into_iter().map(|(key, value)| (key.to_owned(), value)));
        self.inner.shared.events.publish(EventMessageTypeEnum::CONTAINER, action, &container.id, all);
    }
}

fn taken(name: &str, owner: &str) -> Error {
    Error::conflict(format!(
        "Conflict. The container name \"/{name}\" is already in use by container \"{owner}\". You have to remove (or \
         rename) that container to be able to reuse that name."
    ))
}
