//! After a start, and for the disk.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::MetadataExt;

use sampan_store::Durability;

use super::{ImageStore, LAYERS, LayerRow, UNPACKING};
use crate::digest::ChainId;
use crate::error::{Context, ImageError};
use crate::ingest::{Keep, ingest};

impl ImageStore {
    /// Removes what an interrupted daemon left, and unpacks anew what power was lost over. Call it once, before layers
    /// are used and as soon as the layer driver answers.
    pub fn recover(&self) -> Result<(), ImageError> {
        let left = self.store.read::<_, ImageError>(|tx| Ok(UNPACKING.all(tx)?))?;
        let left = left.iter().map(|(key, ())| ChainId::parse(key)).collect::<Result<Vec<_>, _>>()?;
        self.sweeper.doom(left);
        let boot = boot_id();
        let mut doubtful: Vec<LayerRow> = self
            .state()
            .layers
            .values()
            .filter(|row| row.unflushed.as_ref().is_some_and(|then| *then != boot))
            .cloned()
            .collect();
        doubtful.sort_by_key(|row| self.ancestors(row.parent).len());
        for row in doubtful {
            let chain = row.layer.chain_id;
            if let Err(error) = self.unpack_again(&row) {
                tracing::warn!(layer = %chain, %error, "a layer that power was lost over cannot be unpacked again");
            }
        }
        self.flush()?;
        self.gc().map(drop)
    }

    fn unpack_again(&self, row: &LayerRow) -> Result<(), ImageError> {
        let chain = row.layer.chain_id;
        tracing::info!(layer = %chain, "unpack again: its files may not have reached the disk");
        self.sweeper.reclaim(&chain)?;
        self.backend.remove(&chain)?;
        let target = self.begin_layer(&chain, &self.ancestors(row.parent))?;
        let found = ingest(
            &format!("layer {chain}"),
            self.blobs.open_blob(&row.layer.blob)?,
            u64::MAX,
            Keep::Known(row.layer.blob),
            &target,
        )?;
        if found.diff_id != row.layer.diff_id {
            let what = format!("layer {chain}");
            return Err(ImageError::Mismatch { what, expected: row.layer.diff_id.0, actual: found.diff_id.0 });
        }
        self.store.write::<_, ImageError>(Durability::Process, |tx| Ok(UNPACKING.delete(tx, &chain.to_string())?))?;
        Ok(())
    }

    /// Puts the files of new layers on the disk. Until that is done, a loss of power makes the next start unpack them
    /// again; it may take seconds, so call it in the background after layers were added.
    pub fn flush(&self) -> Result<(), ImageError> {
        let chains: Vec<ChainId> =
            self.state().layers.iter().filter(|(_, row)| row.unflushed.is_some()).map(|(chain, _)| *chain).collect();
        let mut flushed = HashSet::new();
        for chain in &chains {
            let Some(parent) = self.state().layers.get(chain).map(|row| row.parent) else { continue };
            let root = self.backend.prepare(chain, &self.ancestors(parent))?;
            let folder = File::open(&root).context(|| format!("open {}", root.display()))?;
            let device = folder.metadata().context(|| format!("look at {}", root.display()))?.dev();
            if flushed.insert(device) {
                nix::unistd::syncfs(&folder).context(|| format!("flush {}", root.display()))?;
            }
        }
        let _changing = self.changing();
        for chain in chains {
            let row = self.state().layers.get(&chain).map(|row| LayerRow { unflushed: None, ..row.clone() });
            if let Some(row) = row {
                self.store.write::<_, ImageError>(Durability::Process, |tx| {
                    Ok(LAYERS.put(tx, &chain.to_string(), &row)?)
                })?;
                self.state_mut().layers.insert(chain, row);
            }
        }
        Ok(())
    }
}

/// Names the present boot, so that a later one is known to be another.
pub(super) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}
