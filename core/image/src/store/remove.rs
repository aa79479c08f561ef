//! Removing images, and layers and blobs that nothing needs any more.

use std::collections::HashSet;

use sampan_store::Durability;

use super::{IMAGES, INDEX_NAMES, ImageStore, LAYERS, NAMES, State, UNPACKING, index};
use crate::digest::{ChainId, Digest};
use crate::error::ImageError;
use crate::reference::ImageRef;

/// One thing that a removal did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name was taken away.
    Untagged(ImageRef),
    /// An image, by its id.
    Image(Digest),
    /// A layer, by its chain.
    Layer(ChainId),
}

impl ImageStore {
    /// Gives up layers that were taken for an image that did not come to be.
    pub(crate) fn abandon(&self, layers: &[ChainId]) -> Result<(), ImageError> {
        let _changing = self.changing();
        for chain in layers.iter().rev() {
            self.state_mut().fresh.remove(chain);
            self.drop_layers(Some(*chain), &mut Vec::new())?;
        }
        Ok(())
    }

    /// Gives up blobs that nothing came to need.
    pub(crate) fn abandon_blobs(&self, blobs: &[Digest]) -> Result<(), ImageError> {
        let _changing = self.changing();
        self.drop_blobs(blobs.iter().copied()).map(drop)
    }

    /// Bytes of unpacked layers and of blobs.
    #[must_use]
    pub fn disk_size(&self) -> u64 {
        let blobs: u64 = self.blobs.all().unwrap_or_default().iter().map(|digest| self.blobs.size(digest)).sum();
        blobs + self.layers_size()
    }

    /// Removes an image with all its names, and what only it needed. Whether that may be is for the caller to say.
    pub fn delete(&self, id: &Digest) -> Result<Vec<Removed>, ImageError> {
        let _changing = self.changing();
        let record = self.get(id).ok_or_else(|| ImageError::NotFound(id.to_string()))?;
        let names = self.names(id);
        self.store.write::<_, ImageError>(Durability::Power, |tx| {
            for name in &names {
                NAMES.delete(tx, &name.to_string())?;
                INDEX_NAMES.delete(tx, &name.to_string())?;
            }
            Ok(IMAGES.delete(tx, &id.hex())?)
        })?;
        let indexes: Vec<Digest> = {
            let mut state = self.state_mut();
            state.images.remove(id);
            names
                .iter()
                .filter_map(|name| {
                    state.names.remove(name);
                    state.index_names.remove(name)
                })
                .collect()
        };
        self.drop_indexes(indexes)?;
        self.forget_member(id)?;
        let mut removed: Vec<_> = names.into_iter().map(Removed::Untagged).collect();
        removed.push(Removed::Image(*id));
        self.drop_layers(record.top(), &mut removed)?;
        let documents = [record.id, record.manifest];
        self.drop_blobs(documents.into_iter().chain(record.layers.iter().map(|layer| layer.blob)))?;
        Ok(removed)
    }

    /// Removes a layer and those below it, as far as nothing needs them; their files go afterwards.
    pub(super) fn drop_layers(&self, from: Option<ChainId>, removed: &mut Vec<Removed>) -> Result<(), ImageError> {
        let mut next = from;
        while let Some(chain) = next {
            let row = {
                let state = self.state();
                let Some(row) = state.layers.get(&chain) else { return Ok(()) };
                if is_needed(&state, &chain) {
                    return Ok(());
                }
                row.clone()
            };
            self.store.write::<_, ImageError>(Durability::Process, |tx| {
                UNPACKING.put(tx, &chain.to_string(), &())?;
                Ok(LAYERS.delete(tx, &chain.to_string())?)
            })?;
            self.state_mut().layers.remove(&chain);
            self.sweeper.doom([chain]);
            removed.push(Removed::Layer(chain));
            self.drop_blobs([row.layer.blob])?;
            next = row.parent;
        }
        Ok(())
    }

    pub(super) fn drop_blobs(&self, candidates: impl IntoIterator<Item = Digest>) -> Result<u64, ImageError> {
        let live = live_blobs(&self.state());
        let mut freed = 0;
        for digest in candidates {
            if live.contains(&digest) {
                continue;
            }
            // Whoever holds it from now on looks for it afterwards, and finds it gone.
            let state = self.state_mut();
            if !state.held.contains_key(&digest) {
                freed += self.blobs.remove(&digest)?;
            }
        }
        Ok(freed)
    }

    /// Removes every layer and blob that nothing needs. Bytes that were freed.
    pub fn gc(&self) -> Result<u64, ImageError> {
        let _changing = self.changing();
        let indexes: Vec<Digest> = self.state().indexes.keys().copied().collect();
        self.drop_indexes(indexes)?;
        let before = self.layers_size();
        let mut removed = Vec::new();
        let chains: Vec<_> = self.state().layers.keys().copied().collect();
        for chain in chains {
            self.drop_layers(Some(chain), &mut removed)?;
        }
        let freed = self.drop_blobs(self.blobs.all()?)?;
        Ok(freed + before.saturating_sub(self.layers_size()))
    }

    /// Returns when the files of removed layers are gone, too.
    pub fn settle(&self) {
        self.sweeper.settle();
    }
}

fn is_needed(state: &State, chain: &ChainId) -> bool {
    state.held.contains_key(&chain.0)
        || state.fresh.contains(chain)
        || state.pins.range((*chain, String::new())..).next().is_some_and(|(pinned, _)| pinned == chain)
        || state.layers.values().any(|row| row.parent == Some(*chain))
        || state.images.values().any(|image| image.layers.iter().any(|layer| layer.chain_id == *chain))
}

fn live_blobs(state: &State) -> HashSet<Digest> {
    let mut live: HashSet<Digest> = state.held.keys().copied().collect();
    live.extend(state.layers.values().map(|row| row.layer.blob));
    for image in state.images.values() {
        live.extend([image.id, image.manifest]);
        live.extend(image.layers.iter().map(|layer| layer.blob));
    }
    live.extend(index::live_blobs(state));
    live
}
