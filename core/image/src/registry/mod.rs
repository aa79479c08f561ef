//! Registries: pulling and pushing by the OCI distribution API.
//!
//! What a registry sends is checked against the digests of the documents that name it before anything of it is
//! visible; credentials go to the registry they are for and to nobody else.

mod artifact;
mod auth;
mod client;
mod download;
mod fetch;
mod files;
mod lists;
mod login;
mod look;
mod nearness;
mod proxy;
mod pull;
mod push;
mod transport;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::mpsc;

use crate::digest::Digest;

pub use artifact::{Artifact, ArtifactLayer, artifact, layer_from_file, pull_layer, push_artifact};
pub use auth::{RegistryAuth, decode_basic};
pub use client::RegistryConfig;
pub use fetch::FetchError;
pub use files::{RemoteFile, RemoteFiles, files, push_files};
pub use lists::{platform, put_list};
pub use login::login;
pub use look::{Found, SearchResult, manifest, search, tags};
pub use proxy::{Proxies, unescape};
pub use pull::{Pulled, pull};
pub use push::{Pushed, push};

/// Reaches registries; keeps connections. Clones share them.
#[derive(Clone)]
pub struct RegistryClient {
    transport: transport::Transport,
    config: Arc<RegistryConfig>,
    /// One lock for each blob that is being downloaded: who comes second waits, and finds it here.
    downloading: Arc<Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>>,
    /// Threads that unpack what still comes. There are always others left for what they wait for.
    unpacking: Arc<tokio::sync::Semaphore>,
}

/// See [`RegistryClient::unpacking`].
const UNPACKING: usize = 64;

impl std::fmt::Debug for RegistryClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryClient").field("config", &self.config).finish_non_exhaustive()
    }
}

impl RegistryClient {
    /// Reads the host's certificates. Must be called within a tokio runtime.
    #[must_use]
    pub fn new(config: RegistryConfig) -> Self {
        let config = Arc::new(config);
        Self {
            transport: transport::Transport::new(&config),
            config,
            downloading: Arc::default(),
            unpacking: Arc::new(tokio::sync::Semaphore::new(UNPACKING)),
        }
    }

    /// One that speaks to a registry without asking for its certificate, or in the clear.
    #[must_use]
    pub fn insecure_for(&self, domain: &str) -> Self {
        let mut config = (*self.config).clone();
        config.insecure.push(domain.to_owned());
        Self::new(config)
    }

    fn download_lock(&self, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.downloading.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = locks.get(digest).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        locks.insert(*digest, Arc::downgrade(&lock));
        lock
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
