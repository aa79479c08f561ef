//! Drivers as components: what is installed, and its state.

use std::path::PathBuf;

use bollard_stubs::models::EventMessageTypeEnum;
use sampan_drivers::{Class, DriverError, DriverInfo, Drivers, DriversConfig, HostFacts, Kind, Manifest};
use sampan_store::Store;
use serde::Serialize;

use crate::config::EngineConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::events::Events;
use crate::facts::Facts;
use crate::{Engine, blocking};

/// A driver as `plugin ls` shows it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PluginInfo {
    /// By which it is chosen.
    pub name: String,
    /// Other names for it.
    pub aliases: Vec<String>,
    /// `layer`, `volume`, `network` or `log`.
    pub kind: String,
    /// From the manifest.
    pub description: String,
    /// Whether it may be used.
    pub enabled: bool,
    /// Whether it ships with the engine.
    pub shipped: bool,
    /// Of the component, `sha256:…`.
    pub digest: String,
    /// Why it was disabled, or its last failure.
    pub problem: Option<String>,
    /// The manifest.
    pub manifest: serde_json::Value,
}

impl From<DriverInfo> for PluginInfo {
    fn from(info: DriverInfo) -> Self {
        Self {
            name: info.name,
            aliases: info.manifest.aliases.clone(),
            kind: info.kind.to_string(),
            description: info.manifest.description.clone(),
            enabled: info.enabled,
            shipped: info.shipped,
            digest: info.digest,
            problem: info.reason,
            manifest: serde_json::to_value(&info.manifest).unwrap_or_default(),
        }
    }
}

impl From<DriverError> for Error {
    fn from(error: DriverError) -> Self {
        let kind = match error.class() {
            Class::NotFound => ErrorKind::NotFound,
            Class::Invalid => ErrorKind::Invalid,
            Class::Unsupported => ErrorKind::Unsupported,
            Class::Conflict => ErrorKind::Conflict,
            Class::Forbidden => ErrorKind::Forbidden,
            Class::Unavailable => ErrorKind::Unavailable,
            Class::Internal => ErrorKind::Internal,
        };
        Self { kind, message: error.to_string() }
    }
}

impl From<&Facts> for HostFacts {
    fn from(facts: &Facts) -> Self {
        Self {
            kernel: facts.kernel.clone(),
            data_root_fs: facts.data_root_fs.clone(),
            features: facts.features.clone(),
        }
    }
}

/// Finds the drivers of a data root.
pub(crate) fn open(config: &EngineConfig, store: &Store) -> Result<Drivers> {
    // Test suites start many daemons with the same drivers: compiled once, they start as a warm one does.
    let shared = std::env::var_os("SAMPAN_DRIVER_CACHE").map(PathBuf::from);
    open_with(config, store, shared.unwrap_or_else(|| config.cache().join("drivers")))
}

/// The same with machine code kept in `cache`.
pub(crate) fn open_with(config: &EngineConfig, store: &Store, cache: PathBuf) -> Result<Drivers> {
    let drivers = DriversConfig {
        shipped: config.drivers.clone(),
        installed: config.root.join("drivers"),
        cache,
        trees: config.root.clone(),
    };
    Drivers::open(drivers, store.clone()).map_err(|error| Error::from(error).context("open the drivers"))
}

/// A driver that is left alone or disabled because it fails is told in events.
pub(crate) fn tell_trouble(drivers: &Drivers, events: &Events) {
    let events = events.clone();
    drivers.on_trouble(move |trouble| {
        let action = if trouble.disabled { "disable" } else { "degrade" };
        let attributes = [
            ("name".to_owned(), trouble.name.clone()),
            ("kind".to_owned(), trouble.kind.to_string()),
            ("reason".to_owned(), trouble.reason.clone()),
        ];
        events.publish(EventMessageTypeEnum::PLUGIN, action, &trouble.name, attributes);
    });
}

fn tell(events: &Events, action: &str, info: &DriverInfo) {
    let attributes = [("name".to_owned(), info.name.clone()), ("kind".to_owned(), info.kind.to_string())];
    events.publish(EventMessageTypeEnum::PLUGIN, action, &info.name, attributes);
}

impl Engine {
    async fn with_drivers<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Drivers) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let drivers = self.inner.shared.drivers.clone();
        blocking(move || work(&drivers)).await
    }

    /// `plugin ls`.
    pub async fn list_plugins(&self) -> Result<Vec<PluginInfo>> {
        self.with_drivers(|drivers| Ok(drivers.list().into_iter().map(Into::into).collect())).await
    }

    /// `plugin inspect`.
    pub async fn inspect_plugin(&self, name: &str) -> Result<PluginInfo> {
        let name = name.to_owned();
        self.with_drivers(move |drivers| Ok(drivers.inspect(&name)?.into())).await
    }

    /// `plugin install`.
    pub async fn install_plugin(
        &self,
        component: Vec<u8>,
        manifest: serde_json::Value,
        grant: bool,
    ) -> Result<PluginInfo> {
        let manifest = read(manifest)?;
        let info = self.with_drivers(move |drivers| Ok(drivers.install(&component, manifest, grant)?)).await?;
        tell(&self.inner.shared.events, "install", &info);
        Ok(info.into())
    }

    /// `plugin upgrade`.
    pub async fn upgrade_plugin(
        &self,
        name: &str,
        component: Vec<u8>,
        manifest: serde_json::Value,
        grant: bool,
    ) -> Result<PluginInfo> {
        let manifest = read(manifest)?;
        let name = name.to_owned();
        let upgrade = move |drivers: &Drivers| Ok(drivers.upgrade(&name, &component, manifest, grant)?);
        let info = self.with_drivers(upgrade).await?;
        tell(&self.inner.shared.events, "upgrade", &info);
        Ok(info.into())
    }

    /// `plugin enable` and `plugin disable`.
    pub async fn enable_plugin(&self, name: &str, on: bool) -> Result<()> {
        let name = name.to_owned();
        let switch = move |drivers: &Drivers| {
            drivers.enable(&name, on)?;
            Ok(drivers.inspect(&name)?)
        };
        let info = self.with_drivers(switch).await?;
        tell(&self.inner.shared.events, if on { "enable" } else { "disable" }, &info);
        Ok(())
    }

    /// `plugin rm`.
    pub async fn remove_plugin(&self, name: &str, force: bool) -> Result<()> {
        let name = name.to_owned();
        let used = self.inner.volumes.by_driver();
        let layers = self.inner.layers.driver().to_owned();
        self.with_drivers(move |drivers| {
            let info = drivers.inspect(&name)?;
            let users = match info.kind {
                Kind::Volume => used.get(&info.name).cloned().unwrap_or_default(),
                Kind::Layer if info.name == layers => vec!["every image and container".to_owned()],
                _ => Vec::new(),
            };
            if !users.is_empty() && !force && !info.shipped {
                return Err(Error::conflict(format!(
                    "driver {:?} ({}) is in use by {}; remove them first or use force",
                    info.name,
                    info.kind,
                    users.join(", ")
                )));
            }
            drivers.remove(&format!("{}/{}", info.kind, info.name), force)?;
            Ok(info)
        })
        .await
        .map(|info| tell(&self.inner.shared.events, "remove", &info))
    }
}

fn read(manifest: serde_json::Value) -> Result<Manifest> {
    serde_json::from_value(manifest).map_err(|error| Error::invalid(format!("manifest: {error}")))
}
