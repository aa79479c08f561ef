//! Which drivers there are: those that ship, and those that were installed.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};

use sampan_store::{Collection, Durability, Store, StoreError};
use serde::{Deserialize, Serialize};

use crate::cache::{self, Cache};
use crate::error::DriverError;
use crate::host::{Host, Limits};
use crate::log_drivers::LogDriver;
use crate::manifest::{Kind, Manifest};
use crate::plan_drivers::{LayerDriver, NetworkDriver, VolumeDriver};
use crate::slot::{self, Condition, Listener, Origin, Slot, Trouble};

/// Where things lie.
#[derive(Debug, Clone)]
pub struct DriversConfig {
    /// What ships: `NAME.wasm` with its manifest in `NAME.json`.
    pub shipped: PathBuf,
    /// Installed components, by digest.
    pub installed: PathBuf,
    /// Machine code; made for root only.
    pub cache: PathBuf,
    /// A directory for each driver: `<kind>/<name>`.
    pub trees: PathBuf,
}

/// What was installed or switched off, by `kind/name`.
const RECORDS: Collection<Record> = Collection::new("drivers");

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Record {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    installed: Option<Installed>,
    #[serde(default)]
    disabled: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Installed {
    digest: String,
    manifest: Manifest,
}

/// A driver, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DriverInfo {
    /// What it is for.
    pub kind: Kind,
    /// The name that users write.
    pub name: String,
    /// Whether it ships with the engine, and was not replaced.
    pub shipped: bool,
    /// Whether calls are made.
    pub enabled: bool,
    /// `ready`, `resting` or `disabled`.
    pub state: String,
    /// Why it is not ready.
    pub reason: Option<String>,
    /// `sha256:…` of the component.
    pub digest: String,
    /// What it says of itself; its capabilities were granted.
    pub manifest: Manifest,
    /// The capabilities in words.
    pub wants: Vec<String>,
    /// Containers whose output it takes now.
    pub sinks: usize,
}

/// The drivers of one data root. Clones share them.
#[derive(Debug, Clone)]
pub struct Drivers {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: DriversConfig,
    store: Store,
    host: Arc<Host>,
    cache: Arc<Cache>,
    listener: Arc<Listener>,
    slots: RwLock<BTreeMap<(Kind, String), Arc<Slot>>>,
    /// What ships, to fall back to.
    shipped: BTreeMap<(Kind, String), Origin>,
}

const SWITCHED_OFF: &str = "it was disabled by the user";

fn file(path: &Path) -> impl FnOnce(io::Error) -> DriverError {
    let path = path.to_owned();
    move |source| DriverError::File { path, source }
}

fn key(kind: Kind, name: &str) -> String {
    format!("{kind}/{name}")
}

impl Drivers {
    /// Finds the drivers. None is loaded yet; those without machine code are compiled on a thread of their own.
    pub fn open(config: DriversConfig, store: Store) -> Result<Self, DriverError> {
        let drivers = Self::open_with(config, store, Limits::default())?;
        drivers.warm();
        Ok(drivers)
    }

    /// The same with other bounds, and without compiling ahead.
    pub fn open_with(config: DriversConfig, store: Store, limits: Limits) -> Result<Self, DriverError> {
        let host = Arc::new(Host::new(limits)?);
        let cache = Arc::new(Cache::open(config.cache.clone(), host.engine()));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.installed).map_err(file(&config.installed))?;
        let shipped = shipped(&config.shipped)?;
        let records = store.read(|tx| RECORDS.all(tx))?;
        let inner = Inner { config, store, host, cache, listener: Arc::default(), slots: RwLock::default(), shipped };
        let mut origins = inner.shipped.clone();
        let mut disabled = Vec::new();
        let mut digests = HashSet::new();
        for (key, record) in records {
            if let Some(installed) = record.installed {
                digests.insert(installed.digest.clone());
                let id = (installed.manifest.kind, installed.manifest.name.clone());
                let component = inner.component(&installed.digest);
                origins.insert(id, Origin { manifest: Arc::new(installed.manifest), component, shipped: false });
            }
            if record.disabled {
                disabled.push(key);
            }
        }
        // What a crash left between the file and the record.
        for entry in fs::read_dir(&inner.config.installed).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.strip_suffix(".wasm").is_some_and(|digest| digests.contains(digest)) {
                let _ = fs::remove_file(entry.path());
            }
        }
        let slots =
            origins.into_iter().map(|(id, origin)| (id, Arc::new(inner.slot(origin)))).collect::<BTreeMap<_, _>>();
        for slot in slots.values().filter(|slot| disabled.contains(&key(slot.kind, &slot.name))) {
            slot.disable(SWITCHED_OFF);
        }
        *inner.slots.write().unwrap_or_else(PoisonError::into_inner) = slots;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Compiles what has no machine code yet, behind everyone's back.
    fn warm(&self) {
        let slots = self.slots();
        let cache = self.inner.cache.clone();
        let work = move || {
            let mut digests = Vec::new();
            for slot in slots {
                match slot.digest() {
                    Ok(digest) => digests.push(digest),
                    // Not a time to tidy up: the code of this one may be needed again.
                    Err(_) => return,
                }
                if let Err(error) = slot.warm() {
                    tracing::warn!(driver = %slot.name, kind = %slot.kind, "{error}");
                }
            }
            cache.keep_only(&digests);
        };
        if let Err(error) = std::thread::Builder::new().name("driver-compile".into()).spawn(work) {
            tracing::warn!("drivers are compiled at their first use: {error}");
        }
    }

    fn slots(&self) -> Vec<Arc<Slot>> {
        self.inner.slots.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Who is told when a driver is left alone or disabled because it fails. Set once.
    pub fn on_trouble(&self, listener: impl Fn(&Trouble) + Send + Sync + 'static) {
        self.inner.listener.set(Box::new(listener));
    }

    /// Every driver, by kind and name.
    #[must_use]
    pub fn list(&self) -> Vec<DriverInfo> {
        self.slots().iter().map(|slot| describe(slot)).collect()
    }

    /// The drivers of a kind, by name.
    #[must_use]
    pub fn names(&self, kind: Kind) -> Vec<String> {
        self.slots().iter().filter(|slot| slot.kind == kind).map(|slot| slot.name.clone()).collect()
    }

    /// One driver: by name if that is enough, else by `kind/name`.
    #[must_use]
    pub fn info(&self, name: &str) -> Option<DriverInfo> {
        self.named(name).ok().map(|slot| describe(&slot))
    }

    /// One driver, or why there is none.
    pub fn inspect(&self, name: &str) -> Result<DriverInfo, DriverError> {
        self.named(name).map(|slot| describe(&slot))
    }

    fn named(&self, name: &str) -> Result<Arc<Slot>, DriverError> {
        let slots = self.slots();
        let (kind, bare) = match name.split_once('/') {
            Some((kind, rest)) => (Some(kind), rest),
            None => (None, name),
        };
        let of_kind = |slot: &&Arc<Slot>| kind.is_none_or(|kind| slot.kind.word() == kind);
        let mut found: Vec<_> = slots.iter().filter(of_kind).filter(|slot| slot.name == bare).cloned().collect();
        if found.is_empty() {
            found = slots.iter().filter(of_kind).filter(|slot| slot.manifest().is_called(bare)).cloned().collect();
        }
        match found.len() {
            0 => Err(DriverError::UnknownName {
                name: name.to_owned(),
                known: slots.iter().map(|slot| key(slot.kind, &slot.name)).collect(),
            }),
            1 => Ok(found.remove(0)),
            _ => Err(DriverError::Ambiguous {
                name: name.to_owned(),
                names: found.iter().map(|slot| key(slot.kind, &slot.name)).collect(),
            }),
        }
    }

    fn find(&self, kind: Kind, name: &str) -> Result<Arc<Slot>, DriverError> {
        let slots = self.inner.slots.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(&(kind, name.to_owned())) {
            return Ok(slot.clone());
        }
        let of_kind = || slots.values().filter(|slot| slot.kind == kind);
        of_kind().find(|slot| slot.manifest().is_called(name)).cloned().ok_or_else(|| DriverError::Unknown {
            kind,
            name: name.to_owned(),
            known: of_kind().map(|slot| slot.name.clone()).collect(),
        })
    }

    /// A driver for layers, by name or alias.
    pub fn layer(&self, name: &str) -> Result<LayerDriver, DriverError> {
        self.find(Kind::Layer, name).map(|slot| LayerDriver { slot })
    }

    /// A driver for volumes, by name or alias.
    pub fn volume(&self, name: &str) -> Result<VolumeDriver, DriverError> {
        self.find(Kind::Volume, name).map(|slot| VolumeDriver { slot })
    }

    /// A driver for networks, by name or alias.
    pub fn network(&self, name: &str) -> Result<NetworkDriver, DriverError> {
        self.find(Kind::Network, name).map(|slot| NetworkDriver { slot })
    }

    /// A driver for logs, by name or alias.
    pub fn log(&self, name: &str) -> Result<LogDriver, DriverError> {
        self.find(Kind::Log, name).map(|slot| LogDriver { slot })
    }

    /// A driver's own directory, for plans. It is not made here.
    #[must_use]
    pub fn tree(&self, kind: Kind, name: &str) -> PathBuf {
        self.inner.config.trees.join(kind.word()).join(name)
    }

    /// Installs a driver. Nothing is kept when anything is wrong with it.
    pub fn install(&self, component: &[u8], manifest: Manifest, granted: bool) -> Result<DriverInfo, DriverError> {
        manifest.check()?;
        let (kind, name) = (manifest.kind, manifest.name.clone());
        self.names_are_free(&manifest, None)?;
        let wants = manifest.capabilities.wants();
        if !granted && !wants.is_empty() {
            return Err(DriverError::NotGranted { kind, driver: name, wants });
        }
        let origin = self.inner.keep(component, manifest)?;
        let slot = Arc::new(self.inner.slot(origin));
        self.inner.slots.write().unwrap_or_else(PoisonError::into_inner).insert((kind, name), slot.clone());
        Ok(describe(&slot))
    }

    /// Puts another component in the place of a driver's, between two calls. It may want no more than was granted,
    /// unless that is granted now.
    pub fn upgrade(
        &self,
        name: &str,
        component: &[u8],
        manifest: Manifest,
        granted: bool,
    ) -> Result<DriverInfo, DriverError> {
        manifest.check()?;
        let slot = self.named(name)?;
        if (manifest.kind, &manifest.name) != (slot.kind, &slot.name) {
            return Err(DriverError::Manifest(format!(
                "it describes {}, not {}",
                key(manifest.kind, &manifest.name),
                key(slot.kind, &slot.name)
            )));
        }
        self.names_are_free(&manifest, Some(&slot))?;
        let wants = manifest.capabilities.beyond(&slot.manifest().capabilities);
        if !granted && !wants.is_empty() {
            return Err(DriverError::NotGranted { kind: slot.kind, driver: slot.name.clone(), wants });
        }
        let before = slot.origin();
        let origin = self.inner.keep(component, manifest)?;
        let replaced = before.component != origin.component && !before.shipped;
        slot.swap(origin);
        if replaced {
            self.discard(&before.component);
        }
        Ok(describe(&slot))
    }

    /// No two drivers of a kind go by one name.
    fn names_are_free(&self, manifest: &Manifest, itself: Option<&Arc<Slot>>) -> Result<(), DriverError> {
        let slots = self.slots();
        let others = slots
            .iter()
            .filter(|slot| slot.kind == manifest.kind && itself.is_none_or(|itself| !Arc::ptr_eq(slot, itself)));
        for other in others {
            let taken = other.manifest();
            if let Some(name) =
                std::iter::once(&manifest.name).chain(&manifest.aliases).find(|name| taken.is_called(name))
            {
                return Err(DriverError::Exists { kind: manifest.kind, name: name.clone() });
            }
        }
        Ok(())
    }

    /// Switches a driver on or off. On also forgives its failures.
    pub fn enable(&self, name: &str, on: bool) -> Result<(), DriverError> {
        let slot = self.named(name)?;
        self.inner.store.write::<_, StoreError>(Durability::Power, |tx| {
            let key = key(slot.kind, &slot.name);
            let mut record = RECORDS.get(tx, &key)?.unwrap_or_default();
            record.disabled = !on;
            RECORDS.put(tx, &key, &record)
        })?;
        if on {
            slot.enable()
        } else {
            slot.disable(SWITCHED_OFF)
        }
        Ok(())
    }

    /// Removes an installed driver with its state; one that ships comes back where it was replaced.
    pub fn remove(&self, name: &str, force: bool) -> Result<(), DriverError> {
        let slot = self.named(name)?;
        let (kind, name) = (slot.kind, slot.name.clone());
        let origin = slot.origin();
        if origin.shipped {
            return Err(DriverError::Shipped { kind, name });
        }
        let sinks = slot.sinks.load(Ordering::SeqCst);
        if sinks > 0 && !force {
            let users =
                if sinks == 1 { "a running container".to_owned() } else { format!("{sinks} running containers") };
            return Err(DriverError::InUse { kind, name, users });
        }
        self.inner
            .store
            .write::<_, StoreError>(Durability::Power, |tx| RECORDS.delete(tx, &key(kind, &name)).map(drop))?;
        match self.inner.shipped.get(&(kind, name.clone())) {
            Some(shipped) => slot.swap(shipped.clone()),
            None => {
                self.inner.slots.write().unwrap_or_else(PoisonError::into_inner).remove(&(kind, name));
                slot.disable("it was removed");
                slot.forget()?;
            }
        }
        self.discard(&origin.component);
        Ok(())
    }

    /// Removes an installed component's file, unless another driver has the same.
    fn discard(&self, component: &Path) {
        if !self.slots().iter().any(|slot| slot.origin().component == component) {
            let _ = fs::remove_file(component);
        }
    }
}

impl Inner {
    fn slot(&self, origin: Origin) -> Slot {
        Slot::new(self.host.clone(), self.cache.clone(), self.listener.clone(), origin, self.store.clone())
    }

    fn component(&self, digest: &str) -> PathBuf {
        self.config.installed.join(format!("{digest}.wasm"))
    }

    /// Checks a component, then keeps it: the file first, the record after it.
    fn keep(&self, component: &[u8], manifest: Manifest) -> Result<Origin, DriverError> {
        let digest = cache::digest(component);
        let wrong = |detail| DriverError::Contract { kind: manifest.kind, driver: manifest.name.clone(), detail };
        slot::prepare(&self.host, &self.cache, &digest, component, &manifest).map_err(wrong)?;
        let path = self.component(&digest);
        write_durably(&path, component).map_err(file(&path))?;
        let record = Installed { digest, manifest: manifest.clone() };
        self.store.write::<_, StoreError>(Durability::Power, |tx| {
            RECORDS.put(tx, &key(manifest.kind, &manifest.name), &Record { installed: Some(record), disabled: false })
        })?;
        Ok(Origin { manifest: Arc::new(manifest), component: path, shipped: false })
    }
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension(format!("{}.new", std::process::id()));
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// The manifests that ship. One that cannot be read is passed over, and said.
fn shipped(folder: &Path) -> Result<BTreeMap<(Kind, String), Origin>, DriverError> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(file(folder))? {
        let path = entry.map_err(file(folder))?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let read = fs::read(&path).map_err(file(&path)).and_then(|text| Manifest::parse(&text));
        match read {
            Ok(manifest) => {
                let id = (manifest.kind, manifest.name.clone());
                found.insert(
                    id,
                    Origin { manifest: Arc::new(manifest), component: path.with_extension("wasm"), shipped: true },
                );
            }
            Err(error) => tracing::error!(path = %path.display(), "a driver that ships cannot be used: {error}"),
        }
    }
    Ok(found)
}

fn describe(slot: &Slot) -> DriverInfo {
    let origin = slot.origin();
    let (state, reason) = match slot.condition() {
        Condition::Ready => ("ready", None),
        Condition::Resting(reason) => ("resting", Some(reason)),
        Condition::Disabled(reason) => ("disabled", Some(reason)),
    };
    let manifest = &origin.manifest;
    DriverInfo {
        kind: slot.kind,
        name: slot.name.clone(),
        shipped: origin.shipped,
        enabled: state != "disabled",
        state: state.to_owned(),
        reason,
        digest: slot.digest().map_or_else(|_| String::new(), |digest| format!("sha256:{digest}")),
        manifest: manifest.as_ref().clone(),
        wants: manifest.capabilities.wants(),
        sinks: slot.sinks.load(Ordering::SeqCst),
    }
}
