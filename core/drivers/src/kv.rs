//! The drivers' own durable state: a map for each driver, changed as a whole by each call that succeeds.
//!
//! A call that touches its driver's map holds it until it ends, so calls of one driver see each other's changes whole
//! or not at all. The map is read from the store once and kept.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use sampan_store::{Collection, Durability, Store, StoreError};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::{Mutex, OwnedMutexGuard};

const STATE: Collection<Value> = Collection::new("driver-kv");

/// Bytes, in a document as base64.
struct Value(Vec<u8>);

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64.decode(text).map(Self).map_err(serde::de::Error::custom)
    }
}

const KEY: usize = 256;
const VALUE: usize = 64 << 10;
/// Keys that one call may list.
const LISTED: usize = 1000;
/// What one driver may keep.
const TOTAL: usize = 16 << 20;

/// A driver's map.
#[derive(Debug)]
pub struct Shared {
    store: Store,
    prefix: String,
    map: Arc<Mutex<Option<Map>>>,
    /// Its driver was removed: what calls that still run have changed is not kept.
    gone: AtomicBool,
}

type Map = BTreeMap<String, Vec<u8>>;

impl Shared {
    /// The map of a driver by its path in the collection (`log/json-file`).
    pub fn new(store: Store, driver: &str) -> Self {
        Self { store, prefix: format!("{driver}/"), map: Arc::default(), gone: AtomicBool::new(false) }
    }

    /// Holds the map, read from the store the first time. What cannot be read there is an error, not an empty value.
    async fn hold(&self) -> Result<OwnedMutexGuard<Option<Map>>, StoreError> {
        let mut held = self.map.clone().lock_owned().await;
        if held.is_none() {
            let rows = self.store.read(|tx| STATE.prefix(tx, &self.prefix))?;
            let strip = |key: String| key.get(self.prefix.len()..).unwrap_or_default().to_owned();
            *held = Some(rows.into_iter().map(|(key, value)| (strip(key), value.0)).collect());
        }
        Ok(held)
    }

    /// Forgets everything: the driver is removed.
    pub fn forget(&self) -> Result<(), StoreError> {
        self.gone.store(true, Ordering::SeqCst);
        self.store.write(Durability::Process, |tx| {
            for (key, _) in STATE.prefix(tx, &self.prefix)? {
                STATE.delete(tx, &key)?;
            }
            Ok(())
        })
    }
}

/// What one call has changed so far.
#[derive(Debug)]
pub struct Transaction {
    shared: Arc<Shared>,
    held: Option<OwnedMutexGuard<Option<Map>>>,
    changes: BTreeMap<String, Option<Vec<u8>>>,
    /// Why the call fails although the driver may say that it succeeded.
    violation: Option<String>,
    /// Bytes of the changes.
    added: usize,
}

impl Transaction {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, held: None, changes: BTreeMap::new(), violation: None, added: 0 }
    }

    async fn map(&mut self) -> Result<&Map, StoreError> {
        if self.held.is_none() {
            self.held = Some(self.shared.hold().await?);
        }
        static EMPTY: Map = BTreeMap::new();
        Ok(self.held.as_deref().and_then(Option::as_ref).unwrap_or(&EMPTY))
    }

    pub async fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        if let Some(change) = self.changes.get(key) {
            return Ok(change.clone());
        }
        Ok(self.map().await?.get(key).cloned())
    }

    pub async fn set(&mut self, key: String, value: Option<Vec<u8>>) -> Result<(), StoreError> {
        self.map().await?;
        if key.is_empty() || key.len() > KEY {
            self.violation = Some(format!("a key of its state has {} bytes, not 1 to {KEY}", key.len()));
        } else if value.as_ref().is_some_and(|value| value.len() > VALUE) {
            self.violation = Some(format!("the value of {key:?} in its state has more than {VALUE} bytes"));
        } else if self.changes.len() >= 10 * LISTED || self.added > TOTAL {
            self.violation = Some("one call changes too much of its state".to_owned());
        } else {
            self.added += key.len() + value.as_ref().map_or(0, Vec::len);
            self.changes.insert(key, value);
        }
        Ok(())
    }

    pub async fn keys(&mut self, prefix: &str, after: Option<&str>) -> Result<Vec<String>, StoreError> {
        self.map().await?;
        static EMPTY: Map = BTreeMap::new();
        let map = self.held.as_deref().and_then(Option::as_ref).unwrap_or(&EMPTY);
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let range = (from, Bound::Unbounded);
        let kept = map.range::<str, _>(range).map(|(key, _)| key).filter(|key| !self.changes.contains_key(*key));
        let new = self.changes.range::<str, _>(range).filter(|(_, value)| value.is_some()).map(|(key, _)| key);
        let matching = |key: &&String| key.starts_with(prefix);
        let mut keys: Vec<String> = kept.take_while(matching).take(LISTED).cloned().collect();
        keys.extend(new.take_while(matching).take(LISTED).cloned());
        keys.sort_unstable();
        keys.truncate(LISTED);
        Ok(keys)
    }

    /// Ends the call: keeps what it changed if it succeeded. `Err` with a text is the driver's fault.
    pub fn finish(&mut self, succeeded: bool) -> Result<Result<(), String>, StoreError> {
        let changes = std::mem::take(&mut self.changes);
        self.added = 0;
        let violation = self.violation.take();
        let Some(mut held) = self.held.take() else { return Ok(violation.map_or(Ok(()), Err)) };
        if let Some(violation) = violation {
            return Ok(Err(violation));
        }
        let Some(map) = held.as_mut().filter(|_| succeeded && !changes.is_empty()) else { return Ok(Ok(())) };
        let size = |key: &str, value: &Vec<u8>| key.len() + value.len();
        let before: usize = map.iter().map(|(key, value)| size(key, value)).sum();
        let added: usize = changes.iter().filter_map(|(key, value)| value.as_ref().map(|value| size(key, value))).sum();
        if before + added > TOTAL {
            return Ok(Err(format!("its state has more than {} MiB", TOTAL >> 20)));
        }
        let prefix = &self.shared.prefix;
        let kept = self.shared.store.write::<_, StoreError>(Durability::Process, |tx| {
            // Looked at within the transaction: a removal comes before it or after it.
            if self.shared.gone.load(Ordering::SeqCst) {
                return Ok(false);
            }
            for (key, value) in &changes {
                let path = format!("{prefix}{key}");
                match value {
                    Some(value) => STATE.put(tx, &path, &Value(value.clone()))?,
                    None => drop(STATE.delete(tx, &path)?),
                }
            }
            Ok(true)
        })?;
        if !kept {
            return Ok(Ok(()));
        }
        for (key, value) in changes {
            match value {
                Some(value) => drop(map.insert(key, value)),
                None => drop(map.remove(&key)),
            }
        }
        Ok(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_call_changes_all_or_nothing() {
        let store = Store::in_memory().unwrap();
        let shared = Arc::new(Shared::new(store.clone(), "log/x"));
        let mut call = Transaction::new(shared.clone());
        call.set("b".into(), Some(b"1".to_vec())).await.unwrap();
        call.set("a".into(), Some(b"2".to_vec())).await.unwrap();
        assert_eq!(call.keys("", None).await.unwrap(), ["a", "b"]);
        assert_eq!(call.finish(false).unwrap(), Ok(()));

        let mut call = Transaction::new(shared.clone());
        assert_eq!(call.get("a").await.unwrap(), None);
        call.set("a".into(), Some(b"3".to_vec())).await.unwrap();
        call.set("c".into(), Some(b"4".to_vec())).await.unwrap();
        assert_eq!(call.finish(true).unwrap(), Ok(()));

        // Another process of the same store sees it.
        let again = Arc::new(Shared::new(store, "log/x"));
        let mut call = Transaction::new(again);
        assert_eq!(call.get("a").await.unwrap().unwrap(), b"3");
        call.set("a".into(), None).await.unwrap();
        assert_eq!(call.keys("", Some("a")).await.unwrap(), ["c"]);
        assert_eq!(call.keys("", None).await.unwrap(), ["c"]);
        call.set("x".repeat(300), Some(Vec::new())).await.unwrap();
        assert!(call.finish(true).unwrap().unwrap_err().contains("300 bytes"));
        for number in 0..300 {
            call.set(format!("{number}"), Some(vec![0; VALUE])).await.unwrap();
        }
        assert!(call.finish(true).unwrap().unwrap_err().contains("changes too much"));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_damaged_value_is_an_error_that_names_it() {
        let store = Store::in_memory().unwrap();
        let damaged: Collection<String> = Collection::new("driver-kv");
        store.write::<_, StoreError>(Durability::Process, |tx| damaged.put(tx, "log/x/key", &"$".to_owned())).unwrap();
        let mut call = Transaction::new(Arc::new(Shared::new(store, "log/x")));
        let error = call.get("key").await.unwrap_err().to_string();
        assert!(error.contains("log/x/key"), "{error}");
    }
}
