//! Removing the directories of layers that nobody can see any more: afterwards, on a thread of its own.
//!
//! Trees of many files take seconds to remove, and whoever removed the image, or starts a container meanwhile, need not
//! wait for that. What is to go stands in the database until it is gone, so that the next start goes on.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use sampan_store::{Durability, Store};

use super::UNPACKING;
use crate::backend::LayerBackend;
use crate::digest::ChainId;
use crate::error::ImageError;

/// Whose directories go.
#[derive(Debug, Default)]
struct Queue {
    waiting: BTreeSet<ChainId>,
    present: Option<ChainId>,
    /// Whether there is a thread at it.
    running: bool,
}

struct Shared {
    backend: Arc<dyn LayerBackend>,
    store: Store,
    queue: Mutex<Queue>,
    /// Told whenever a directory is gone.
    gone: Condvar,
}

/// See the module.
pub(super) struct Sweeper(Arc<Shared>);

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove(&self, chain: &ChainId) -> Result<(), ImageError> {
        self.backend.remove(chain)?;
        self.store.write::<_, ImageError>(Durability::Process, |tx| Ok(UNPACKING.delete(tx, &chain.to_string())?))?;
        Ok(())
    }

    /// Removes one after the other until there are no more.
    fn run(&self) {
        loop {
            let chain = {
                let mut queue = self.queue();
                queue.present = queue.waiting.pop_first();
                match queue.present {
                    Some(chain) => chain,
                    None => {
                        queue.running = false;
                        self.gone.notify_all();
                        return;
                    }
                }
            };
            // A driver that panics must not leave others waiting.
            let removed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.remove(&chain)));
            match removed {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(layer = %chain, %error, "a layer's files stay until the next start"),
                Err(_) => tracing::error!(layer = %chain, "a layer's files stay until the next start: a panic"),
            }
            self.queue().present = None;
            self.gone.notify_all();
        }
    }
}

impl Sweeper {
    pub(super) fn new(backend: Arc<dyn LayerBackend>, store: Store) -> Self {
        Self(Arc::new(Shared { backend, store, queue: Mutex::default(), gone: Condvar::new() }))
    }

    /// Has directories removed, of which the database says that they are to go.
    pub(super) fn doom(&self, chains: impl IntoIterator<Item = ChainId>) {
        let mut queue = self.0.queue();
        queue.waiting.extend(chains);
        if queue.running || queue.waiting.is_empty() {
            return;
        }
        let shared = Arc::clone(&self.0);
        match std::thread::Builder::new().name("layer-sweep".to_owned()).spawn(move || shared.run()) {
            Ok(_) => queue.running = true,
            // The next one that goes brings another try, and so does the next start.
            Err(error) => tracing::warn!(%error, "no thread to remove the files of layers"),
        }
    }

    /// Returns when nothing of an earlier layer of that name is left. Nobody may doom it meanwhile.
    pub(super) fn reclaim(&self, chain: &ChainId) -> Result<(), ImageError> {
        let mut queue = self.0.queue();
        if queue.waiting.remove(chain) {
            drop(queue);
            return self.0.remove(chain);
        }
        while queue.present == Some(*chain) {
            queue = self.0.gone.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// Returns when everything is gone that was to go.
    pub(super) fn settle(&self) {
        let mut queue = self.0.queue();
        while queue.running && (queue.present.is_some() || !queue.waiting.is_empty()) {
            queue = self.0.gone.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
