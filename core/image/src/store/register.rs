//! Making images visible whose layers are here.

use std::sync::Arc;

use sampan_store::Durability;

use super::{IMAGES, INDEX_NAMES, ImageStore, NAMES};
use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::error::{Context, ImageError};
use crate::manifest::{Descriptor, Manifest, OCI_CONFIG};
use crate::record::{ImageRecord, LayerRef};
use crate::reference::ImageRef;
use crate::timestamp;

impl ImageStore {
    /// Makes an image of layers that are here (lowest first): writes configuration and manifest and gives it names.
    /// The `rootfs` of the configuration is filled in from the layers.
    pub fn create_image(
        &self,
        mut config: ImageConfig,
        mut layers: Vec<LayerRef>,
        parent: Option<Digest>,
        names: &[ImageRef],
    ) -> Result<Arc<ImageRecord>, ImageError> {
        // What was packed meanwhile is known by another digest to those who remembered it.
        for layer in layers.iter_mut().filter(|layer| !self.blobs.has(&layer.blob)) {
            if let Some(present) = self.layer(&layer.chain_id) {
                *layer = present;
            }
        }
        config.rootfs.diff_ids = layers.iter().map(|layer| layer.diff_id).collect();
        let document = serde_json::to_vec(&config).context(|| "write the image's configuration".to_owned())?;
        let mut hold = self.hold([Digest::of(&document)]);
        let id = self.blobs.write(&document)?;
        let manifest = Manifest::of_layers(Descriptor::new(OCI_CONFIG, id, document.len() as u64), &layers);
        let document = serde_json::to_vec(&manifest).context(|| "write the image's manifest".to_owned())?;
        hold.add(Digest::of(&document));
        let manifest = self.blobs.write(&document)?;
        self.register(id, (manifest, true), config, layers, parent, names)
    }

    /// Makes an image visible whose layers are here, from its documents as they came. Without a manifest one is written.
    pub(crate) fn register_documents(
        &self,
        config_bytes: &[u8],
        manifest_bytes: Option<&[u8]>,
        config: ImageConfig,
        layers: Vec<LayerRef>,
        names: &[ImageRef],
    ) -> Result<Arc<ImageRecord>, ImageError> {
        let id = Digest::of(config_bytes);
        let made_here = manifest_bytes.is_none();
        let written;
        let manifest_bytes = match manifest_bytes {
            Some(bytes) => bytes,
            None => {
                let manifest = Manifest::of_layers(Descriptor::new(OCI_CONFIG, id, config_bytes.len() as u64), &layers);
                written = serde_json::to_vec(&manifest).context(|| "write the image's manifest".to_owned())?;
                &written
            }
        };
        let _hold = self.hold([id, Digest::of(manifest_bytes)]);
        self.blobs.write(config_bytes)?;
        let manifest = self.blobs.write(manifest_bytes)?;
        self.register(id, (manifest, made_here), config, layers, None, names)
    }

    /// Makes an image visible whose documents and layers are here. With the manifest comes whether it was written here.
    fn register(
        &self,
        id: Digest,
        (manifest, made_here): (Digest, bool),
        config: ImageConfig,
        layers: Vec<LayerRef>,
        parent: Option<Digest>,
        names: &[ImageRef],
    ) -> Result<Arc<ImageRecord>, ImageError> {
        let _changing = self.changing();
        if let Some(gone) = layers.iter().find(|layer| !self.state().layers.contains_key(&layer.chain_id)) {
            return Err(ImageError::Conflict(format!("layer {} was removed meanwhile: try again", gone.chain_id)));
        }
        let now = timestamp::now();
        let record = match self.get(&id) {
            // The same image once more: its first manifest stays, its names grow.
            Some(known) => ImageRecord { tagged_ns: now, ..(*known).clone() },
            None => ImageRecord {
                id,
                size: layers.iter().map(|layer| layer.size).sum(),
                created_ns: config.created.as_deref().and_then(timestamp::parse).unwrap_or(0),
                tagged_ns: now,
                config,
                layers,
                manifest,
                made_here,
                parent: parent.filter(|parent| *parent != id),
            },
        };
        self.store.write::<_, ImageError>(Durability::Power, |tx| {
            IMAGES.put(tx, &id.hex(), &record)?;
            for name in names {
                NAMES.put(tx, &name.to_string(), &id)?;
                INDEX_NAMES.delete(tx, &name.to_string())?;
            }
            Ok(())
        })?;
        let record = Arc::new(record);
        let mut indexes = Vec::new();
        {
            let mut state = self.state_mut();
            for layer in &record.layers {
                state.fresh.remove(&layer.chain_id);
            }
            state.images.insert(id, record.clone());
            for name in names {
                state.names.insert(name.clone(), id);
                indexes.extend(state.index_names.remove(name));
            }
        }
        self.drop_indexes(indexes)?;
        Ok(record)
    }
}
