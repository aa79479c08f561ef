//! Drivers as components: what is installed, and its state.

use serde::Serialize;

use crate::Engine;
use crate::error::{Error, Result};

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

fn unsupported<T>() -> Result<T> {
    Err(Error::unsupported("drivers are not there yet"))
}

impl Engine {
    /// `plugin ls`.
    pub async fn list_plugins(&self) -> Result<Vec<PluginInfo>> {
        unsupported()
    }

    /// `plugin inspect`.
    pub async fn inspect_plugin(&self, _name: &str) -> Result<PluginInfo> {
        unsupported()
    }

    /// `plugin install`.
    pub async fn install_plugin(
        &self,
        _component: Vec<u8>,
        _manifest: serde_json::Value,
        _grant: bool,
    ) -> Result<PluginInfo> {
        unsupported()
    }

    /// `plugin upgrade`.
    pub async fn upgrade_plugin(
        &self,
        _name: &str,
        _component: Vec<u8>,
        _manifest: serde_json::Value,
        _grant: bool,
    ) -> Result<PluginInfo> {
        unsupported()
    }

    /// `plugin enable` and `plugin disable`.
    pub async fn enable_plugin(&self, _name: &str, _on: bool) -> Result<()> {
        unsupported()
    }

    /// `plugin rm`.
    pub async fn remove_plugin(&self, _name: &str, _force: bool) -> Result<()> {
        unsupported()
    }
}
