//! Getting images ready to be sent: layers that were made here are kept as plain tars until then.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use sampan_store::Durability;

use super::{IMAGES, ImageStore, LAYERS};
use crate::decompress::Compression;
use crate::digest::Digest;
use crate::error::{Context, ImageError};
use crate::gzip;
use crate::manifest::{Descriptor, Manifest, OCI_CONFIG, OCI_LAYER, layer_media_type};
use crate::record::{ImageRecord, LayerRef};

/// A plain layer's packed form.
#[derive(Debug, Clone, Copy)]
struct Packed {
    blob: Digest,
    size: u64,
}

impl Packed {
    fn of(self, layer: &LayerRef) -> LayerRef {
        let media_type = layer_media_type(Compression::Gzip).to_owned();
        LayerRef { blob: self.blob, blob_size: self.size, media_type, ..layer.clone() }
    }
}

impl ImageStore {
    /// Packs the layers of an image that was made here, once: the packed form takes the place of the plain one, also for
    /// the other images made of the layer. What came with a manifest stays as it came.
    pub fn pack_layers(&self, id: &Digest) -> Result<Arc<ImageRecord>, ImageError> {
        self.pack_layers_but(id, |_| false)
    }

    /// The layers of an image that are packed before it is sent, each once.
    pub(crate) fn unpacked(&self, image: &ImageRecord) -> Vec<LayerRef> {
        let mut found: Vec<LayerRef> = Vec::new();
        if !image.made_here {
            return found;
        }
        for layer in &image.layers {
            let known = found.iter().any(|other| other.blob == layer.blob);
            if layer.media_type == OCI_LAYER && !known && !self.came_with_manifest(layer) {
                found.push(layer.clone());
            }
        }
        found
    }

    /// The same, but for layers that need not be.
    pub(crate) fn pack_layers_but(
        &self,
        id: &Digest,
        spared: impl Fn(&LayerRef) -> bool,
    ) -> Result<Arc<ImageRecord>, ImageError> {
        let _packing = self.packing.lock().unwrap_or_else(PoisonError::into_inner);
        let get = || self.get(id).ok_or_else(|| ImageError::NotFound(id.to_string()));
        let image = get()?;
        let mut hold = self.hold(image.layers.iter().map(|layer| layer.blob));
        let mut packed = HashMap::new();
        for layer in self.unpacked(&image).iter().filter(|layer| !spared(layer)) {
            let plain = self.blobs.open_blob(&layer.blob)?;
            let mut out = self.blobs.writer()?;
            gzip::compress(plain, &mut out).context(|| format!("pack layer {}", layer.blob))?;
            hold.add(out.digest_so_far());
            let (blob, size) = out.finish()?;
            packed.insert(layer.blob, Packed { blob, size });
        }
        if packed.is_empty() {
            return Ok(image);
        }
        let stale = self.put_packed(&packed, &mut hold)?;
        drop(hold);
        self.abandon_blobs(&stale)?;
        get()
    }

    /// Whether another image has the layer by a manifest that must not change.
    fn came_with_manifest(&self, layer: &LayerRef) -> bool {
        self.state()
            .images
            .values()
            .any(|image| !image.made_here && image.layers.iter().any(|other| other.blob == layer.blob))
    }

    /// Changes images and layers to the packed forms. What they referred to before.
    fn put_packed(
        &self,
        packed: &HashMap<Digest, Packed>,
        hold: &mut super::Hold<'_>,
    ) -> Result<Vec<Digest>, ImageError> {
        let _changing = self.changing();
        let mut stale: Vec<Digest> = packed.keys().copied().collect();
        let affected: Vec<Arc<ImageRecord>> = {
            let state = self.state();
            let made = state.images.values().filter(|image| image.made_here);
            made.filter(|image| image.layers.iter().any(|layer| packed.contains_key(&layer.blob))).cloned().collect()
        };
        let change = |layer: &LayerRef| packed.get(&layer.blob).map_or_else(|| layer.clone(), |form| form.of(layer));
        let mut records = Vec::new();
        for image in affected {
            let layers: Vec<LayerRef> = image.layers.iter().map(change).collect();
            let config = Descriptor::new(OCI_CONFIG, image.id, self.blobs.size(&image.id));
            let document = serde_json::to_vec(&Manifest::of_layers(config, &layers))
                .context(|| "write the image's manifest".to_owned())?;
            hold.add(Digest::of(&document));
            let manifest = self.blobs.write(&document)?;
            stale.push(image.manifest);
            records.push(ImageRecord { layers, manifest, ..(*image).clone() });
        }
        let mut rows: Vec<_> = {
            let state = self.state();
            state.layers.values().filter(|row| packed.contains_key(&row.layer.blob)).cloned().collect()
        };
        for row in &mut rows {
            row.layer = change(&row.layer);
        }
        self.store.write::<_, ImageError>(Durability::Power, |tx| {
            for record in &records {
                IMAGES.put(tx, &record.id.hex(), record)?;
            }
            for row in &rows {
                LAYERS.put(tx, &row.layer.chain_id.to_string(), row)?;
            }
            Ok(())
        })?;
        let mut state = self.state_mut();
        for record in records {
            state.images.insert(record.id, Arc::new(record));
        }
        for row in rows {
            state.layers.insert(row.layer.chain_id, row);
        }
        Ok(stale)
    }
}
