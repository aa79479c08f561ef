//! Registries: pulling and pushing by the OCI distribution API.
//!
//! What a registry sends is checked against the digests of the documents that name it before anything of it is
//! visible; credentials go to the registry they are for and to nobody else.

mod auth;
mod client;
mod login;
mod pull;
mod push;
mod transport;

use tokio::sync::mpsc;

pub use auth::{RegistryAuth, decode_basic};
pub use client::RegistryConfig;
pub use login::login;
pub use pull::{Pulled, pull};
pub use push::{Pushed, push};

/// Reaches registries; keeps connections. Clones share them.
#[derive(Clone)]
pub struct RegistryClient {
    transport: transport::Transport,
    config: RegistryConfig,
}

impl std::fmt::Debug for RegistryClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryClient").field("config", &self.config).finish_non_exhaustive()
    }
}

impl RegistryClient {
    /// Reads the host's certificates. Must be called within a tokio runtime.
    #[must_use]
    pub fn new(config: RegistryConfig) -> Self {
        Self { transport: transport::Transport::new(), config }
    }
}

/// How a transfer goes on, in Docker's words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TransferEvent {
    /// Of which layer, by the beginning of its digest; or the tag.
    pub id: Option<String>,
    /// Such as `Downloading`.
    pub status: String,
    /// Done and total, in bytes.
    pub progress: Option<(u64, u64)>,
}

/// Takes events. When the receiver is slow, progress is left out; when it is gone, the transfer goes on.
#[derive(Debug, Clone)]
pub struct Reporter(pub mpsc::Sender<TransferEvent>);

impl Reporter {
    async fn say(&self, id: Option<&str>, status: impl Into<String>) {
        let event = TransferEvent { id: id.map(str::to_owned), status: status.into(), progress: None };
        drop(self.0.send(event).await);
    }

    fn progress(&self, id: &str, status: &str, done: u64, total: u64) {
        let event = TransferEvent { id: Some(id.to_owned()), status: status.to_owned(), progress: Some((done, total)) };
        drop(self.0.try_send(event));
    }
}

#[cfg(test)]
mod tests;
