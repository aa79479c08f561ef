//! In which form registries have layers: remembered beyond the images, so that a layer that comes here again as a plain
//! tar need not be packed and sent again.
//!
//! A form is noted only after its blob was unpacked here to the layer's diff id, or was packed here from it. Where it is
//! to be had is a hint: whoever uses one asks the registry first.

use sampan_store::{Collection, Durability, StoreError, Tx};
use serde::{Deserialize, Serialize};

use super::ImageStore;
use crate::digest::{DiffId, Digest};
use crate::error::ImageError;
use crate::record::LayerRef;
use crate::timestamp;

/// By diff id.
const FORMS: Collection<Known> = Collection::new("layer-forms");

/// Layers that are remembered; when there are more, those that nobody needed for longest are forgotten.
const MAX_LAYERS: usize = 4096;
/// Forms of one layer, and repositories of one form; the last ones.
const MAX_FORMS: usize = 3;
const MAX_REPOSITORIES: usize = 8;

/// What is remembered of a layer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Known {
    /// The last one first.
    forms: Vec<Form>,
    /// When a registry was last seen to have it, nanoseconds since 1970.
    noted_ns: i64,
}

/// A layer's blob as registries have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Form {
    pub blob: Digest,
    pub size: u64,
    pub media_type: String,
    /// Repositories with their registry's name, the last one first.
    repositories: Vec<String>,
}

impl Form {
    /// The repositories of a registry that had it, by their paths.
    pub fn paths<'a>(&'a self, domain: &'a str) -> impl Iterator<Item = &'a str> {
        self.repositories.iter().filter_map(move |name| name.strip_prefix(domain)?.strip_prefix('/'))
    }

    /// A layer in this form.
    pub fn of(&self, layer: &LayerRef) -> LayerRef {
        LayerRef { blob: self.blob, blob_size: self.size, media_type: self.media_type.clone(), ..layer.clone() }
    }
}

impl Known {
    fn note(&mut self, layer: &LayerRef, repository: &str, now: i64) {
        let known = self.forms.iter().position(|form| form.blob == layer.blob).map(|at| self.forms.remove(at));
        let mut repositories = known.map(|form| form.repositories).unwrap_or_default();
        repositories.retain(|other| other != repository);
        repositories.insert(0, repository.to_owned());
        repositories.truncate(MAX_REPOSITORIES);
        let (blob, size, media_type) = (layer.blob, layer.blob_size, layer.media_type.clone());
        self.forms.insert(0, Form { blob, size, media_type, repositories });
        self.forms.truncate(MAX_FORMS);
        self.noted_ns = now;
    }
}

impl ImageStore {
    /// Remembers that a repository (`registry/path`) has layers in the form in which they are here.
    pub(crate) fn note_forms(&self, layers: &[LayerRef], repository: &str) -> Result<(), ImageError> {
        // Layers with addresses lie elsewhere.
        let layers: Vec<&LayerRef> = layers.iter().filter(|layer| layer.urls.is_empty()).collect();
        if layers.is_empty() {
            return Ok(());
        }
        let now = timestamp::now();
        self.store.write::<_, ImageError>(Durability::Process, |tx| {
            for layer in layers {
                let key = layer.diff_id.0.hex();
                let mut known = FORMS.get(tx, &key)?.unwrap_or_default();
                known.note(layer, repository, now);
                FORMS.put(tx, &key, &known)?;
            }
            Ok(forget(tx, MAX_LAYERS)?)
        })
    }

    /// The forms in which registries had a layer, the last one first.
    pub(crate) fn forms(&self, diff_id: &DiffId) -> Result<Vec<Form>, ImageError> {
        let known = self.store.read::<_, ImageError>(|tx| Ok(FORMS.get(tx, &diff_id.0.hex())?))?;
        Ok(known.map(|known| known.forms).unwrap_or_default())
    }
}

/// Forgets the oldest beyond `most`, with some to spare so that this is seldom done.
fn forget(tx: &Tx<'_>, most: usize) -> Result<(), StoreError> {
    if FORMS.keys(tx, "")?.len() <= most {
        return Ok(());
    }
    let mut all = FORMS.all(tx)?;
    all.sort_by_key(|(_, known)| std::cmp::Reverse(known.noted_ns));
    for (key, _) in all.split_off(most - most / 8) {
        FORMS.delete(tx, &key)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::digest::ChainId;
    use crate::manifest::OCI_LAYER;
    use sampan_store::Store;

    fn layer(content: &str, packed: &str) -> LayerRef {
        let diff_id = DiffId(Digest::of(content.as_bytes()));
        LayerRef {
            diff_id,
            chain_id: ChainId::on(None, &diff_id),
            blob: Digest::of(packed.as_bytes()),
            blob_size: packed.len() as u64,
            media_type: OCI_LAYER.to_owned(),
            size: 1,
            urls: Vec::new(),
        }
    }

    #[test]
    fn the_last_forms_and_repositories_are_remembered() {
        let mut known = Known::default();
        for number in 0..20 {
            known.note(&layer("x", "gzip"), &format!("r.io/{number}"), number);
        }
        assert_eq!(known.forms.len(), 1);
        assert_eq!(known.forms[0].paths("r.io").collect::<Vec<_>>(), ["19", "18", "17", "16", "15", "14", "13", "12"]);
        assert_eq!(known.forms[0].paths("r.i").count(), 0, "another registry's name that begins alike");
        known.note(&layer("x", "gzip"), "r.io/15", 20);
        assert_eq!(known.forms[0].paths("r.io").take(2).collect::<Vec<_>>(), ["15", "19"]);
        for packed in ["zstd", "a", "b"] {
            known.note(&layer("x", packed), "r.io/z", 21);
        }
        let blobs: Vec<_> = known.forms.iter().map(|form| form.blob).collect();
        assert_eq!(blobs, ["b", "a", "zstd"].map(|packed| Digest::of(packed.as_bytes())));
    }

    #[test]
    fn the_oldest_layers_are_forgotten() {
        let store = Store::in_memory().unwrap();
        let count = |tx: &Tx<'_>| FORMS.keys(tx, "").map(|keys| keys.len());
        store
            .write::<_, StoreError>(Durability::Process, |tx| {
                for number in 0_i64..17 {
                    let mut known = Known::default();
                    known.note(&layer(&number.to_string(), "p"), "r.io/x", number);
                    FORMS.put(tx, &format!("{number:02}"), &known)?;
                }
                forget(tx, 17)?;
                assert_eq!(count(tx)?, 17);
                forget(tx, 16)?;
                assert_eq!((count(tx)?, FORMS.keys(tx, "")?[0].as_str()), (14, "03"));
                Ok(())
            })
            .unwrap();
    }
}
