//! Results of builds outside of the engine: a document that names steps by their keys, and the layers that they made.
//!
//! A document comes from a directory, a registry or an image's configuration, all of which may say anything. What it
//! promises of a layer is checked when the layer is taken; here it is kept within bounds.

use sampan_image::{DiffId, Digest};
use serde::{Deserialize, Serialize};

use crate::cache::{Entry, Key};

/// Changes when the form does.
const VERSION: u32 = 2;
/// More steps than builds have.
const MAX_STEPS: usize = 20_000;
/// Bytes of a step's text that are taken.
const MAX_DESCRIPTION: usize = 4096;

/// The media type of the document as a manifest's configuration.
pub const MEDIA_TYPE: &str = "application/vnd.sampan.build.cache.v2+json";
/// The key of an image's configuration that holds a document.
pub const INLINE: &str = "sampan.build.cache.v2";

/// Results of builds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    version: u32,
    /// Each once. None in an image's configuration: there they are the image's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Layer>,
    steps: Vec<Step>,
}

/// What a step added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Layer {
    /// The tar as it is kept, compressed or not.
    pub blob: Digest,
    /// Its bytes.
    pub size: u64,
    /// Its media type.
    pub media_type: String,
    /// The digest of the tar uncompressed.
    pub diff_id: DiffId,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Step {
    key: Digest,
    /// Which of the layers; none when the step changed nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layer: Option<usize>,
    created: i64,
    description: String,
}

/// One result of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What the step added.
    pub layer: Option<Layer>,
    /// When it was made, nanoseconds since 1970.
    pub created: i64,
    /// The step's text.
    pub description: String,
}

impl Document {
    /// Writes results down.
    #[must_use]
    pub fn of(results: &[(Key, Entry)]) -> Self {
        let mut layers: Vec<Layer> = Vec::new();
        let mut steps = Vec::new();
        for (key, entry) in results {
            let layer = entry.layer.as_ref().map(|layer| {
                let wanted = Layer {
                    blob: layer.blob,
                    size: layer.blob_size,
                    media_type: layer.media_type.clone(),
                    diff_id: layer.diff_id,
                };
                layers.iter().position(|known| *known == wanted).unwrap_or_else(|| {
                    layers.push(wanted);
                    layers.len() - 1
                })
            });
            steps.push(Step { key: key.0, layer, created: entry.created, description: entry.description.clone() });
        }
        Self { version: VERSION, layers, steps }
    }

    /// The same for the configuration of an image, lowest layer first; what is in none of its layers is left out.
    #[must_use]
    pub fn inline(results: &[(Key, Entry)], image: &[DiffId]) -> Self {
        let steps = results.iter().filter_map(|(key, entry)| {
            let layer = match &entry.layer {
                Some(layer) => Some(image.iter().position(|diff_id| *diff_id == layer.diff_id)?),
                None => None,
            };
            Some(Step { key: key.0, layer, created: entry.created, description: entry.description.clone() })
        });
        Self { version: VERSION, layers: Vec::new(), steps: steps.collect() }
    }

    /// Reads a document.
    ///
    /// # Errors
    /// A sentence.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let document: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        document.checked()
    }

    /// Reads the document of an image's configuration, whose layers are given (lowest first).
    ///
    /// # Errors
    /// A sentence.
    pub fn parse_inline(value: &serde_json::Value, layers: Vec<Layer>) -> Result<Self, String> {
        let document = Self::deserialize(value).map_err(|error| error.to_string())?;
        Self { layers, ..document }.checked()
    }

    fn checked(mut self) -> Result<Self, String> {
        if self.version != VERSION {
            return Err(format!("it has version {}, and {VERSION} is read here", self.version));
        }
        if self.steps.len() > MAX_STEPS || self.layers.len() > MAX_STEPS {
            return Err(format!("it has more than {MAX_STEPS} steps"));
        }
        for step in &mut self.steps {
            if step.layer.is_some_and(|layer| layer >= self.layers.len()) {
                return Err(format!("the step {} names a layer that is not in it", step.key.short()));
            }
            let end = (0..=step.description.len().min(MAX_DESCRIPTION))
                .rev()
                .find(|end| step.description.is_char_boundary(*end));
            step.description.truncate(end.unwrap_or(0));
        }
        self.steps.sort_by_key(|step| step.key);
        Ok(self)
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// What a document that was read says of a step.
    #[must_use]
    pub fn find(&self, key: Key) -> Option<Found> {
        let at = self.steps.binary_search_by_key(&key.0, |step| step.key).ok()?;
        let step = self.steps.get(at)?;
        let layer = step.layer.and_then(|layer| self.layers.get(layer)).cloned();
        Some(Found { layer, created: step.created, description: step.description.clone() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sampan_image::{ChainId, LayerRef};

    fn entry(text: &str) -> (Key, Entry) {
        let diff_id = DiffId(Digest::of(text.as_bytes()));
        let layer = LayerRef {
            diff_id,
            chain_id: ChainId(diff_id.0),
            blob: diff_id.0,
            blob_size: 5,
            media_type: "application/vnd.oci.image.layer.v1.tar".to_owned(),
            size: 7,
            urls: Vec::new(),
        };
        let key = Key(Digest::of(format!("key of {text}").as_bytes()));
        (key, Entry { layer: Some(layer), created: 9, description: format!("RUN {text}") })
    }

    #[test]
    fn what_is_written_is_read() {
        let results = [entry("a"), entry("b"), (Key(Digest::of(b"same")), entry("a").1)];
        let written = Document::of(&results);
        assert_eq!(written.layers.len(), 2, "a layer is named once");
        let read = Document::parse(&serde_json::to_vec(&written).unwrap()).unwrap();
        for (key, entry) in &results {
            let found = read.find(*key).unwrap();
            assert_eq!(found.layer.unwrap().diff_id, entry.layer.as_ref().unwrap().diff_id);
            assert_eq!((found.created, found.description), (9, entry.description.clone()));
        }
        assert_eq!(read.find(Key(Digest::of(b"other"))), None);
    }

    #[test]
    fn an_image_tells_of_its_own_layers_alone() {
        let (own, other) = (entry("own"), entry("other"));
        let diff_id = own.1.layer.as_ref().unwrap().diff_id;
        let value = serde_json::to_value(Document::inline(&[own.clone(), other.clone()], &[diff_id])).unwrap();
        let layers = Document::of(std::slice::from_ref(&own)).layers;
        let read = Document::parse_inline(&value, layers).unwrap();
        assert_eq!(read.find(own.0).unwrap().layer.unwrap().diff_id, diff_id);
        assert_eq!(read.find(other.0), None);
        // The layers that the image has are fewer than the document says.
        assert!(Document::parse_inline(&value, Vec::new()).unwrap_err().contains("not in it"));
    }

    #[test]
    fn documents_are_kept_within_bounds() {
        let mut value = serde_json::to_value(Document::of(&[entry("a")])).unwrap();
        value["steps"][0]["description"] = "é".repeat(MAX_DESCRIPTION).into();
        let read = Document::parse(value.to_string().as_bytes()).unwrap();
        assert_eq!(read.find(entry("a").0).unwrap().description.len(), MAX_DESCRIPTION);
        let mut wrong = value.clone();
        wrong["steps"][0]["layer"] = 1.into();
        assert!(Document::parse(wrong.to_string().as_bytes()).is_err());
        let mut wrong = value.clone();
        wrong["version"] = 1.into();
        assert!(Document::parse(wrong.to_string().as_bytes()).unwrap_err().contains("version 1"));
        let mut wrong = value;
        wrong["steps"] = vec![wrong["steps"][0].clone(); MAX_STEPS + 1].into();
        assert!(Document::parse(wrong.to_string().as_bytes()).unwrap_err().contains("more than"));
        assert!(Document::parse(b"[]").is_err());
    }
}
