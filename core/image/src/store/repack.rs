//! Images in the form that whoever builds them asks for: how layers are packed, by which media types, with which notes.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Write};
use std::sync::{Arc, PoisonError};

use sampan_store::Durability;

use super::{Hold, IMAGES, ImageStore};
use crate::decompress::{Compression, Decompress};
use crate::digest::{DiffId, Digest};
use crate::error::{Context, ImageError};
use crate::gzip;
use crate::manifest::{
    DOCKER_CONFIG, DOCKER_MANIFEST, Descriptor, Manifest, OCI_CONFIG, docker_layer_type, is_foreign, layer_compression,
    layer_media_type,
};
use crate::record::{ImageRecord, LayerRef};

/// Notes on a manifest, and bytes of all of them.
const MAX_NOTES: usize = 256;
const MAX_NOTE_BYTES: usize = 256 << 10;

/// The form of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packing {
    /// How layers are packed; gzip when it does not say.
    pub compression: Option<Compression>,
    /// How hard: 0 to 9 for gzip, 0 to 22 for zstd.
    pub level: Option<u32>,
    /// Layers that are packed in another way are packed anew.
    pub force: bool,
    /// Docker's media types instead of OCI's.
    pub docker_types: bool,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
}

impl Packing {
    /// Whether that can be made.
    ///
    /// # Errors
    /// A sentence.
    pub fn check(&self) -> Result<(), String> {
        let most = match self.compression.unwrap_or(Compression::Gzip) {
            Compression::None if self.level.is_some() => {
                return Err("compression-level: what is not compressed has none".to_owned());
            }
            Compression::None => 0,
            Compression::Gzip => 9,
            Compression::Zstd => 22,
        };
        if let Some(level) = self.level.filter(|level| *level > most) {
            return Err(format!("compression-level={level}: expected 0 to {most}"));
        }
        if self.docker_types && self.compression == Some(Compression::Zstd) {
            return Err("oci-mediatypes=false: Docker's media types know no zstd".to_owned());
        }
        if self.docker_types && !self.annotations.is_empty() {
            return Err("oci-mediatypes=false: Docker's manifests have no annotations".to_owned());
        }
        let bytes: usize = self.annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
        if self.annotations.len() > MAX_NOTES || bytes > MAX_NOTE_BYTES {
            return Err(format!("annotations: more than {MAX_NOTES}, or than {MAX_NOTE_BYTES} bytes of them"));
        }
        if self.annotations.keys().any(String::is_empty) {
            return Err("annotation: its name is empty".to_owned());
        }
        Ok(())
    }

    fn pack(&self, reader: impl Read + Send, out: impl Write) -> io::Result<()> {
        match self.compression.unwrap_or(Compression::Gzip) {
            Compression::None => copy(reader, out),
            Compression::Gzip => gzip::compress_at(reader, out, self.level),
            Compression::Zstd => {
                let level = self.level.and_then(|level| i32::try_from(level).ok()).unwrap_or(0);
                let mut encoder = zstd::stream::Encoder::new(out, level)?;
                copy(reader, &mut encoder)?;
                encoder.finish().map(drop)
            }
        }
    }
}

fn copy(mut reader: impl Read, mut out: impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(()),
            read => out.write_all(&buffer[..read])?,
        }
    }
}

impl ImageStore {
    /// Gives an image the form that is asked for. It has one manifest: that of before is forgotten.
    pub fn repack(&self, id: &Digest, packing: &Packing) -> Result<Arc<ImageRecord>, ImageError> {
        packing.check().map_err(|why| ImageError::refused(format!("image {id}"), why))?;
        let _packing = self.packing.lock().unwrap_or_else(PoisonError::into_inner);
        let image = self.get(id).ok_or_else(|| ImageError::NotFound(id.to_string()))?;
        let mut hold = self.hold(image.layers.iter().map(|layer| layer.blob).chain([*id, image.manifest]));
        let mut made: HashMap<DiffId, LayerRef> = HashMap::new();
        let mut layers = Vec::new();
        for layer in &image.layers {
            let packed = match made.get(&layer.diff_id) {
                Some(known) => LayerRef { chain_id: layer.chain_id, ..known.clone() },
                None => self.repacked(layer, packing, &mut hold)?,
            };
            made.insert(layer.diff_id, packed.clone());
            layers.push(packed);
        }
        let size = self.blobs.size(id);
        let mut manifest = Manifest::of_layers(Descriptor::new(OCI_CONFIG, *id, size), &layers);
        if packing.docker_types {
            manifest.media_type = Some(DOCKER_MANIFEST.to_owned());
            manifest.config.media_type = DOCKER_CONFIG.to_owned();
            for layer in &mut manifest.layers {
                layer.media_type = docker_layer_type(&layer.media_type).to_owned();
            }
        }
        manifest.annotations = Some(packing.annotations.clone()).filter(|notes| !notes.is_empty());
        let document = serde_json::to_vec(&manifest).context(|| "write the image's manifest".to_owned())?;
        hold.add(Digest::of(&document));
        let manifest = self.blobs.write(&document)?;
        let stale: Vec<Digest> = image.layers.iter().map(|layer| layer.blob).chain([image.manifest]).collect();
        let record = {
            let _changing = self.changing();
            let now = self.get(id).ok_or_else(|| ImageError::NotFound(id.to_string()))?;
            // From here on it stays as it was asked for.
            let record = Arc::new(ImageRecord { layers, manifest, made_here: false, ..(*now).clone() });
            self.store
                .write::<_, ImageError>(Durability::Power, |tx| Ok(IMAGES.put(tx, &id.hex(), record.as_ref())?))?;
            self.state_mut().images.insert(*id, record.clone());
            record
        };
        drop(hold);
        self.abandon_blobs(&stale)?;
        Ok(record)
    }

    /// A layer in the form that is asked for: as it is, as another image has it, or packed now.
    fn repacked(&self, layer: &LayerRef, packing: &Packing, hold: &mut Hold<'_>) -> Result<LayerRef, ImageError> {
        let what = || format!("pack layer {}", layer.blob);
        let wanted = packing.compression.unwrap_or(Compression::Gzip);
        let known = |layer: &LayerRef| layer_compression(&layer.media_type).ok().flatten();
        let keeps = match known(layer) {
            Some(present) => present == wanted || (present != Compression::None && !packing.force),
            None => !packing.force,
        };
        // What lies elsewhere stays there.
        if keeps || is_foreign(&layer.media_type) || !layer.urls.is_empty() {
            return Ok(layer.clone());
        }
        if packing.level.is_none()
            && let Some(other) = self.layer_packed_as(&layer.diff_id, wanted)
        {
            hold.add(other.blob);
            if self.blobs.has(&other.blob) {
                return Ok(LayerRef { chain_id: layer.chain_id, ..other });
            }
        }
        let file = self.blobs.open_blob(&layer.blob)?;
        let plain = Decompress::new(file).context(what)?;
        let mut out = self.blobs.writer()?;
        packing.pack(plain, &mut out).context(what)?;
        hold.add(out.digest_so_far());
        let (blob, blob_size) = out.finish()?;
        Ok(LayerRef { blob, blob_size, media_type: layer_media_type(wanted).to_owned(), ..layer.clone() })
    }

    fn layer_packed_as(&self, diff_id: &DiffId, wanted: Compression) -> Option<LayerRef> {
        let fits = |layer: &&LayerRef| {
            layer.diff_id == *diff_id
                && layer.urls.is_empty()
                && layer_compression(&layer.media_type) == Ok(Some(wanted))
        };
        self.state().images.values().flat_map(|image| &image.layers).find(fits).cloned()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::backend::Whiteouts;
    use crate::config::ImageConfig;
    use crate::manifest::{Document, MAX_DOCUMENT};
    use crate::testing::{Archive, Fixture};

    fn image(fixture: &Fixture, text: &str) -> Arc<ImageRecord> {
        let archive = Archive::new().file("f", text).file("same", "x").done();
        let layer = fixture.images.add_layer_from_tar(archive.as_slice(), &[]).unwrap();
        fixture.images.create_image(ImageConfig::default(), vec![layer], None, &[]).unwrap()
    }

    fn manifest(fixture: &Fixture, image: &ImageRecord) -> Manifest {
        let bytes = fixture.images.blobs().read(&image.manifest, MAX_DOCUMENT).unwrap();
        match Document::parse(&bytes, "").unwrap() {
            Document::Manifest(manifest) => manifest,
            Document::Index(_) => panic!("an index"),
        }
    }

    #[test]
    fn layers_are_packed_as_asked_and_hold_the_same() {
        let fixture = Fixture::new(Whiteouts::Overlay);
        let made = image(&fixture, "text");
        let notes = BTreeMap::from([("a.b".to_owned(), "c".to_owned())]);
        let forced = |compression| Packing { compression: Some(compression), force: true, ..Packing::default() };
        for (packing, kind) in [
            (Packing { annotations: notes.clone(), ..forced(Compression::Zstd) }, "tar+zstd"),
            (Packing { level: Some(1), ..forced(Compression::Gzip) }, "tar+gzip"),
            (forced(Compression::None), "layer.v1.tar"),
        ] {
            let packed = fixture.images.repack(&made.id, &packing).unwrap();
            assert!(packed.layers[0].media_type.ends_with(kind), "{}", packed.layers[0].media_type);
            let document = manifest(&fixture, &packed);
            assert_eq!(document.annotations.unwrap_or_default(), packing.annotations);
            assert_eq!(document.layers[0].digest, packed.layers[0].blob);
            let blob = fixture.images.blobs().open_blob(&packed.layers[0].blob).unwrap();
            let mut plain = Vec::new();
            Decompress::new(blob).unwrap().read_to_end(&mut plain).unwrap();
            assert_eq!(DiffId(Digest::of(&plain)), packed.layers[0].diff_id);
            // Once more changes nothing, and pushing it packs nothing.
            assert_eq!(fixture.images.repack(&made.id, &packing).unwrap().manifest, packed.manifest);
            assert_eq!(fixture.images.pack_layers(&made.id).unwrap().manifest, packed.manifest);
        }
        fixture.images.delete(&made.id).unwrap();
        fixture.assert_holds(0, 0);
    }

    #[test]
    fn what_is_packed_already_stays_unless_forced() {
        let fixture = Fixture::new(Whiteouts::Overlay);
        let made = image(&fixture, "text");
        fixture.images.pack_layers(&made.id).unwrap();
        let zstd = Packing { compression: Some(Compression::Zstd), ..Packing::default() };
        let packed = fixture.images.repack(&made.id, &zstd).unwrap();
        assert!(packed.layers[0].media_type.ends_with("gzip"));
        let packed = fixture.images.repack(&made.id, &Packing { force: true, ..zstd }).unwrap();
        assert!(packed.layers[0].media_type.ends_with("zstd"));
    }

    #[test]
    fn dockers_media_types_are_all_of_one_kind() {
        let fixture = Fixture::new(Whiteouts::Overlay);
        let made = image(&fixture, "text");
        let packing = Packing { docker_types: true, ..Packing::default() };
        let document = manifest(&fixture, &fixture.images.repack(&made.id, &packing).unwrap());
        assert_eq!(document.media_type.as_deref(), Some(DOCKER_MANIFEST));
        assert_eq!(document.config.media_type, DOCKER_CONFIG);
        assert_eq!(document.layers[0].media_type, "application/vnd.docker.image.rootfs.diff.tar.gzip");
    }

    #[test]
    fn what_cannot_be_made_is_refused() {
        let zstd = Packing { compression: Some(Compression::Zstd), ..Packing::default() };
        let notes = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        for (packing, part) in [
            (Packing { level: Some(23), ..zstd.clone() }, "0 to 22"),
            (Packing { level: Some(10), ..Packing::default() }, "0 to 9"),
            (Packing { compression: Some(Compression::None), level: Some(0), ..Packing::default() }, "has none"),
            (Packing { docker_types: true, ..zstd }, "no zstd"),
            (Packing { docker_types: true, annotations: notes, ..Packing::default() }, "no annotations"),
        ] {
            let why = packing.check().unwrap_err();
            assert!(why.contains(part), "{why}");
        }
    }
}
