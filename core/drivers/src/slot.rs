//! One driver: its component, loaded when it is first used and swapped between two calls, and how it has been doing.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use wasmtime::Store;

use crate::bindings::{layer, log, network, volume};
use crate::cache::{self, Cache};
use crate::contract;
use crate::error::{DriverError, Failure, shown};
use crate::host::{Cut, Data, Grant, Host};
use crate::kv;
use crate::manifest::{Kind, Manifest};
use crate::voice::Voice;

/// Bytes of a driver's message.
const MESSAGE: usize = 4096;
/// Failures in a row after which a driver is left alone for a while, and after which it is disabled.
const PATIENCE: u32 = 3;
const ENOUGH: u32 = 10;

/// A component that is ready to be instantiated.
pub enum Loaded {
    Layer(layer::LayerDriverPre<Data>),
    Volume(volume::VolumeDriverPre<Data>),
    Network(network::NetworkDriverPre<Data>),
    Log(log::LogDriverPre<Data>),
}

/// What happened to a driver, told to whoever listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What it is for.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Whether it is disabled now; else it is left alone for a while.
    pub disabled: bool,
    /// Why.
    pub reason: String,
}

/// Who is told of trouble.
#[derive(Default)]
pub struct Listener(OnceLock<Box<dyn Fn(&Trouble) + Send + Sync>>);

impl Listener {
    /// The first one stays.
    pub fn set(&self, listener: Box<dyn Fn(&Trouble) + Send + Sync>) {
        let _ = self.0.set(listener);
    }
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Listener")
    }
}

/// Where a driver comes from.
#[derive(Debug, Clone)]
pub struct Origin {
    pub manifest: Arc<Manifest>,
    pub component: PathBuf,
    pub shipped: bool,
}

#[derive(Debug, Default)]
struct Health {
    /// Failures since the last success.
    failures: u32,
    rest: Option<Instant>,
    last: String,
    disabled: Option<String>,
}

/// A driver.
pub struct Slot {
    pub kind: Kind,
    pub name: String,
    host: Arc<Host>,
    cache: Arc<Cache>,
    origin: RwLock<Origin>,
    loaded: Mutex<Option<Arc<Loaded>>>,
    digest: Mutex<Option<String>>,
    generation: AtomicU64,
    health: Mutex<Health>,
    state: Arc<kv::Shared>,
    voice: Arc<Voice>,
    listener: Arc<Listener>,
    /// Sinks that are open.
    pub sinks: AtomicUsize,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot").field("kind", &self.kind).field("name", &self.name).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a driver is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    Ready,
    Resting(String),
    Disabled(String),
}

impl Slot {
    pub fn new(
        host: Arc<Host>,
        cache: Arc<Cache>,
        listener: Arc<Listener>,
        origin: Origin,
        store: sampan_store::Store,
    ) -> Self {
        let (kind, name) = (origin.manifest.kind, origin.manifest.name.clone());
        let path = format!("{kind}/{name}");
        Self {
            kind,
            host,
            cache,
            origin: RwLock::new(origin),
            loaded: Mutex::default(),
            digest: Mutex::default(),
            generation: AtomicU64::new(0),
            health: Mutex::default(),
            state: Arc::new(kv::Shared::new(store, &path)),
            voice: Arc::new(Voice::new(path)),
            listener,
            sinks: AtomicUsize::new(0),
            name,
        }
    }

    pub fn origin(&self) -> Origin {
        self.origin.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn manifest(&self) -> Arc<Manifest> {
        self.origin.read().unwrap_or_else(PoisonError::into_inner).manifest.clone()
    }

    /// Counts swaps: who keeps an instance opens a new one when this has changed.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Puts another component in its place. Calls that run finish with the old one.
    pub fn swap(&self, origin: Origin) {
        let mut loaded = lock(&self.loaded);
        *self.origin.write().unwrap_or_else(PoisonError::into_inner) = origin;
        *loaded = None;
        *lock(&self.digest) = None;
        *lock(&self.health) = Health::default();
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    pub fn condition(&self) -> Condition {
        let health = lock(&self.health);
        if let Some(reason) = &health.disabled {
            return Condition::Disabled(reason.clone());
        }
        match health.rest {
            Some(until) if until > Instant::now() => {
                Condition::Resting(format!("{} failures in a row; the last: {}", health.failures, health.last))
            }
            _ => Condition::Ready,
        }
    }

    pub fn disable(&self, reason: &str) {
        lock(&self.health).disabled = Some(reason.to_owned());
    }

    pub fn enable(&self) {
        *lock(&self.health) = Health::default();
    }

    /// Forgets what it kept.
    pub fn forget(&self) -> Result<(), DriverError> {
        Ok(self.state.forget()?)
    }

    /// Whether a call may be made now.
    pub fn admit(&self) -> Result<(), DriverError> {
        let health = lock(&self.health);
        if let Some(reason) = &health.disabled {
            return Err(DriverError::Disabled { kind: self.kind, driver: self.name.clone(), reason: reason.clone() });
        }
        let left = health.rest.map(|until| until.saturating_duration_since(Instant::now())).unwrap_or_default();
        if left.is_zero() {
            return Ok(());
        }
        Err(DriverError::BackingOff {
            kind: self.kind,
            driver: self.name.clone(),
            failures: health.failures,
            seconds: left.as_secs() + 1,
            last: health.last.clone(),
        })
    }

    fn succeeded(&self) {
        let mut health = lock(&self.health);
        health.failures = 0;
        health.rest = None;
    }

    /// Notes a failure of the driver's own, and makes the error.
    pub fn fault(&self, call: &'static str, cause: &str) -> DriverError {
        let cause = shown(cause, MESSAGE);
        let trouble = {
            let mut health = lock(&self.health);
            health.failures += 1;
            health.last = format!("{call}: {}", cause.lines().next().unwrap_or_default());
            let reason = format!("{} failures in a row; the last: {}", health.failures, health.last);
            if health.failures >= ENOUGH {
                health.disabled = Some(reason.clone());
            } else if health.failures >= PATIENCE {
                health.rest = Some(Instant::now() + Duration::from_secs(1 << (health.failures - PATIENCE).min(6)));
            }
            let disabled = health.failures >= ENOUGH;
            let told = health.failures >= PATIENCE;
            told.then(|| Trouble { kind: self.kind, name: self.name.clone(), disabled, reason })
        };
        if let Some(trouble) = trouble {
            tracing::warn!(driver = %self.name, kind = %self.kind, disabled = trouble.disabled, "{}", trouble.reason);
            if let Some(listener) = self.listener.0.get() {
                listener(&trouble);
            }
        }
        DriverError::Fault { kind: self.kind, driver: self.name.clone(), call, cause }
    }

    pub fn contract(&self, detail: String) -> DriverError {
        DriverError::Contract { kind: self.kind, driver: self.name.clone(), detail }
    }

    /// The content hash of the component.
    pub fn digest(&self) -> Result<String, DriverError> {
        if let Some(known) = lock(&self.digest).clone() {
            return Ok(known);
        }
        let found = cache::digest(&self.read()?);
        *lock(&self.digest) = Some(found.clone());
        Ok(found)
    }

    fn read(&self) -> Result<Vec<u8>, DriverError> {
        let path = self.origin().component;
        fs::read(&path).map_err(|source| DriverError::File { path, source })
    }

    /// The component, read and compiled if it is not there yet.
    pub fn loaded(&self) -> Result<Arc<Loaded>, DriverError> {
        let mut place = lock(&self.loaded);
        if let Some(loaded) = &*place {
            return Ok(loaded.clone());
        }
        let component = self.read()?;
        let digest = cache::digest(&component);
        let loaded = Arc::new(
            prepare(&self.host, &self.cache, &digest, &component, &self.manifest())
                .map_err(|detail| self.contract(detail))?,
        );
        *lock(&self.digest) = Some(digest);
        *place = Some(loaded.clone());
        Ok(loaded)
    }

    /// Makes sure that machine code is there, without keeping it in memory.
    pub fn warm(&self) -> Result<(), DriverError> {
        let digest = self.digest()?;
        if self.cache.has(&digest) {
            return Ok(());
        }
        self.loaded().map(drop)
    }

    /// A store for an instance of this driver.
    pub fn store(&self, grant: &Grant<'_>) -> Result<Store<Data>, DriverError> {
        self.host.store(grant, self.state.clone(), self.voice.clone())
    }

    /// Makes one call in a store: within its time, and with its state kept if it succeeds.
    pub fn call<T>(
        &self,
        call: &'static str,
        store: &mut Store<Data>,
        body: impl AsyncFnOnce(
            &mut Store<Data>,
        ) -> wasmtime::Result<Result<T, crate::bindings::sampan::driver::types::Failure>>,
    ) -> Result<T, DriverError> {
        let outcome = self.host.run(store, body);
        let succeeded = matches!(outcome, Ok(Ok(_)));
        let kept = store.data_mut().kv.finish(succeeded);
        match outcome {
            // The store's failure is not the driver's.
            Err(Cut::Store(error)) => Err(error.into()),
            Err(Cut::Driver(cause)) => Err(self.fault(call, &cause)),
            Ok(Err(failure)) => {
                self.succeeded();
                Err(DriverError::Refused { kind: self.kind, driver: self.name.clone(), call, failure: failure.into() })
            }
            Ok(Ok(value)) => {
                if let Err(violation) = kept? {
                    return Err(self.fault(call, &violation));
                }
                self.succeeded();
                Ok(value)
            }
        }
    }
}

/// Compiles or loads a component and checks it against the contract. The text says what is wrong.
pub fn prepare(
    host: &Host,
    cache: &Cache,
    digest: &str,
    component: &[u8],
    manifest: &Manifest,
) -> Result<Loaded, String> {
    contract::bytes(component)?;
    let text = |error: wasmtime::Error| shown(&format!("{error:#}"), MESSAGE);
    let compiled = cache
        .load(host.engine(), digest, component)
        .map_err(|error| format!("the component cannot be used: {}", text(error)))?;
    contract::check(host.engine(), &compiled, manifest)?;
    let ready = host
        .linker()
        .instantiate_pre(&compiled)
        .map_err(|error| format!("it imports what this engine does not have: {}", text(error)))?;
    let mistyped = |error| format!("it does not keep the contract: {}", text(error));
    Ok(match manifest.kind {
        Kind::Layer => Loaded::Layer(layer::LayerDriverPre::new(ready).map_err(mistyped)?),
        Kind::Volume => Loaded::Volume(volume::VolumeDriverPre::new(ready).map_err(mistyped)?),
        Kind::Network => Loaded::Network(network::NetworkDriverPre::new(ready).map_err(mistyped)?),
        Kind::Log => Loaded::Log(log::LogDriverPre::new(ready).map_err(mistyped)?),
    })
}

impl From<crate::bindings::sampan::driver::types::Failure> for Failure {
    fn from(failure: crate::bindings::sampan::driver::types::Failure) -> Self {
        use crate::bindings::sampan::driver::types::Failure as Wit;
        match failure {
            Wit::Invalid(text) => Self::Invalid(shown(&text, MESSAGE)),
            Wit::Unsupported(text) => Self::Unsupported(shown(&text, MESSAGE)),
            Wit::Conflict(text) => Self::Conflict(shown(&text, MESSAGE)),
            Wit::Unavailable(text) => Self::Unavailable(shown(&text, MESSAGE)),
            Wit::Internal(text) => Self::Internal(shown(&text, MESSAGE)),
        }
    }
}
