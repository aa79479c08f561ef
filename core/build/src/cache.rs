//! What the result of a step is known by: a digest over everything that the result depends on, and nothing else.
//! Times are no part of it, nor are labels, ports and other words of the configuration that no program can see.

use sampan_image::{ChainId, Digest, LayerRef};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Changes when equal inputs begin to mean another result.
const FORMAT: &str = "sampan-build-1";

/// The name of a step's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub Digest);

impl Key {
    /// Twelve digits, for progress.
    #[must_use]
    pub fn short(&self) -> String {
        self.0.hex().chars().take(12).collect()
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.hex())
    }
}

/// A remembered result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What the step added; `None` when it changed nothing.
    pub layer: Option<LayerRef>,
    /// When it was made, nanoseconds since 1970.
    pub created: i64,
    /// The step, for `du` and prune; without secrets.
    pub description: String,
}

/// Collects the inputs of a key. Each part is framed, so that no two lists of parts run into each other.
#[derive(Debug, Clone)]
pub struct KeyWriter {
    hash: Sha256,
}

impl KeyWriter {
    /// A key of one kind of step over a parent layer.
    #[must_use]
    pub fn new(kind: &str, parent: Option<ChainId>) -> Self {
        let mut writer = Self { hash: Sha256::new() };
        writer.text(FORMAT).text(kind).text(&parent.map(|chain| chain.to_string()).unwrap_or_default());
        writer
    }

    /// Adds a text.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    /// Adds bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.hash.update((bytes.len() as u64).to_le_bytes());
        self.hash.update(bytes);
        self
    }

    /// Adds a number.
    pub fn number(&mut self, number: u64) -> &mut Self {
        self.hash.update(8u64.to_le_bytes());
        self.hash.update(number.to_le_bytes());
        self
    }

    /// Adds a list.
    pub fn list<T: AsRef<str>>(&mut self, items: impl IntoIterator<Item = T>) -> &mut Self {
        let mut inner = Self { hash: Sha256::new() };
        let mut count = 0;
        for item in items {
            inner.text(item.as_ref());
            count += 1;
        }
        self.number(count);
        let digest = inner.hash.finalize();
        self.bytes(&digest)
    }

    /// Adds a text that may be missing, which is not the same as empty.
    pub fn maybe(&mut self, text: Option<&str>) -> &mut Self {
        self.list(text)
    }

    /// The key.
    #[must_use]
    pub fn finish(self) -> Key {
        Key(Digest::from_bytes(self.hash.finalize().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(parts: &[String]) -> Key {
        let mut writer = KeyWriter::new("test", None);
        for part in parts {
            writer.text(part);
        }
        writer.finish()
    }

    #[test]
    fn a_key_is_the_same_in_every_release_of_the_format() {
        let mut writer = KeyWriter::new("run", None);
        writer.text("a").number(1).list(["x", "y"]).maybe(None).maybe(Some(""));
        insta::assert_snapshot!(writer.finish().to_string());
    }

    #[test]
    fn missing_is_not_empty() {
        let key = |text| {
            let mut writer = KeyWriter::new("x", None);
            writer.maybe(text);
            writer.finish()
        };
        assert_ne!(key(None), key(Some("")));
    }

    proptest! {
        #[test]
        fn parts_do_not_run_into_each_other(a in proptest::collection::vec("[ab]{0,3}", 0..4), b in proptest::collection::vec("[ab]{0,3}", 0..4)) {
            prop_assert_eq!(a == b, key(&a) == key(&b));
        }
    }
}
