//! The state of one data root: typed collections of documents in one SQLite file.
//!
//! Data enters as `serde` values and leaves as the same types; each document has a collection and a key, and keys are
//! ordered, so that a prefix or a range can be walked. What belongs together changes together: [`Store::write`] runs a
//! closure in one transaction, which either happens whole or not at all.
//!
//! Invariants:
//! - the file is opened by one daemon only (the engine holds the data root's lock before it opens the store);
//! - a file of a newer schema, or one that is not a database, is refused and left untouched;
//! - an older schema is copied aside before it is migrated;
//! - on a full disk there is room for some more changes, which is what removals need;
//! - the crate knows nothing of containers or images: each owner declares its [`Collection`]s.

mod fault;
mod reserve;

use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use reserve::Reserve;

/// The schema that this build writes.
pub const SCHEMA_VERSION: i64 = 1;
/// Marks the file as ours, so that another program's database is not taken for an empty one ("Smpn").
const APPLICATION_ID: i64 = 0x536d_706e;

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file is a database, but not one of Sampan's, or not a database at all.
    #[error(
        "{path}: not a Sampan state database ({detail}); it was left as it is. Restore it from a backup, or move it away to start empty"
    )]
    Foreign { path: PathBuf, detail: String },
    /// The file was written by a later release.
    #[error(
        "{path}: written by a newer Sampan (schema {found}, this one knows {known}); it was left as it is. Start that version instead"
    )]
    Newer { path: PathBuf, found: i64, known: i64 },
    /// A key that must be new exists already.
    #[error("{collection} {key:?} exists already")]
    Exists { collection: &'static str, key: String },
    /// A document does not have the shape that this build expects.
    #[error("state database: {collection} {key:?} cannot be read: {source}")]
    Document {
        collection: &'static str,
        key: String,
        #[source]
        source: serde_json::Error,
    },
    /// The file cannot be written: a read-only or a full file system, or an I/O error.
    #[error("state database: {context}: {source}")]
    Database {
        context: &'static str,
        #[source]
        source: rusqlite::Error,
    },
    /// The file or its backup cannot be created.
    #[error("{path}: {source}")]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

fn database(context: &'static str) -> impl FnOnce(rusqlite::Error) -> StoreError {
    move |source| StoreError::Database { context, source }
}

/// How much a change must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The death of the daemon: no flush is waited for.
    Process,
    /// Loss of power: returns when the change is on the disk. Call it from a blocking thread.
    Power,
}

/// An open state database. Clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    connection: Mutex<Connection>,
    path: Option<PathBuf>,
    reserve: Option<Reserve>,
}

impl Store {
    /// Opens the database, creating or migrating it. The parent directory must exist.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(database("open"))?;
        Self::prepare(connection, Some(path.to_owned()))
    }

    /// A database that lives as long as the value: for tests and for `--dry-run`.
    pub fn in_memory() -> Result<Self, StoreError> {
        let connection = Connection::open_in_memory().map_err(database("open"))?;
        Self::prepare(connection, None)
    }

    /// Where the database lies; `None` for one in memory.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.inner.path.as_deref()
    }

    fn prepare(connection: Connection, path: Option<PathBuf>) -> Result<Self, StoreError> {
        let shown = path.clone().unwrap_or_else(|| PathBuf::from(":memory:"));
        let foreign = |detail: String| StoreError::Foreign { path: shown.clone(), detail };
        let version = pragma(&connection, "user_version").map_err(|e| match e {
            StoreError::Database { source, .. } if is_corrupt(&source) => foreign(source.to_string()),
            other => other,
        })?;
        let tables: i64 = connection
            .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
            .map_err(database("read schema"))?;
        let application = pragma(&connection, "application_id")?;
        if tables > 0 && application != APPLICATION_ID {
            return Err(foreign("another program's tables".to_owned()));
        }
        if version > SCHEMA_VERSION {
            return Err(StoreError::Newer { path: shown, found: version, known: SCHEMA_VERSION });
        }
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA busy_timeout = 5000;
                 PRAGMA cache_size = -2000; PRAGMA temp_store = MEMORY;",
            )
            .map_err(database("prepare"))?;
        if version == 0 {
            connection
                .execute_batch(&format!(
                    "BEGIN IMMEDIATE;
                     CREATE TABLE IF NOT EXISTS documents (
                         collection TEXT NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL,
                         PRIMARY KEY (collection, key)) WITHOUT ROWID;
                     PRAGMA application_id = {APPLICATION_ID};
                     PRAGMA user_version = {SCHEMA_VERSION};
                     COMMIT;"
                ))
                .map_err(database("create schema"))?;
        } else if version < SCHEMA_VERSION {
            migrate(&connection, path.as_deref(), version)?;
        }
        connection.set_prepared_statement_cache_capacity(32);
        let reserve = path.as_deref().map(Reserve::beside);
        Ok(Self { inner: Arc::new(Inner { connection: Mutex::new(connection), path, reserve }) })
    }

    /// A panic inside a closure rolls its transaction back, so a poisoned lock guards nothing half-changed.
    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.inner.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `body` in one transaction: committed when it returns `Ok`, rolled back otherwise.
    /// Keep it short: no other reader or writer runs meanwhile.
    pub fn write<T, E: From<StoreError>>(
        &self,
        durability: Durability,
        body: impl FnOnce(&Tx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut connection = self.lock();
        if let Some(reserve) = &self.inner.reserve {
            reserve.tend();
        }
        if durability == Durability::Power {
            connection.execute_batch("PRAGMA synchronous = FULL").map_err(database("set durability"))?;
        }
        let result = (|| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(database("begin"))?;
            let value = body(&Tx { connection: &transaction })?;
            fault::point();
            transaction.commit().map_err(database("commit"))?;
            fault::point();
            Ok(value)
        })();
        if durability == Durability::Power {
            connection.execute_batch("PRAGMA synchronous = NORMAL").map_err(database("set durability"))?;
        }
        result
    }

    /// Runs `body` over one consistent view.
    pub fn read<T, E: From<StoreError>>(&self, body: impl FnOnce(&Tx<'_>) -> Result<T, E>) -> Result<T, E> {
        let mut connection = self.lock();
        let transaction = connection.transaction().map_err(database("begin"))?;
        body(&Tx { connection: &transaction })
    }

    /// Folds the write-ahead log into the file; called at an orderly stop.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        self.lock().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(database("checkpoint"))
    }
}

fn is_corrupt(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}

fn pragma(connection: &Connection, name: &str) -> Result<i64, StoreError> {
    connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0)).map_err(database("read header"))
}

/// Older schemas are copied aside first. There is none yet before version 1.
fn migrate(connection: &Connection, path: Option<&Path>, from: i64) -> Result<(), StoreError> {
    if let Some(path) = path {
        let backup = path.with_extension(format!("db.schema-{from}"));
        connection.execute("VACUUM INTO ?1", params![backup.to_string_lossy()]).map_err(database("back up"))?;
    }
    connection.execute_batch(&format!("PRAGMA user_version = {SCHEMA_VERSION}")).map_err(database("migrate"))
}

/// An open transaction.
#[derive(Debug)]
pub struct Tx<'a> {
    connection: &'a Connection,
}

/// A named set of documents of one type.
#[derive(Debug)]
pub struct Collection<T> {
    name: &'static str,
    kind: PhantomData<fn() -> T>,
}

impl<T> Collection<T> {
    /// Declares a collection; the name is part of the file's format.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name, kind: PhantomData }
    }
}

impl<T: Serialize + DeserializeOwned> Collection<T> {
    /// The document with this key.
    pub fn get(&self, tx: &Tx<'_>, key: &str) -> Result<Option<T>, StoreError> {
        let body: Option<Vec<u8>> = tx
            .connection
            .prepare_cached("SELECT body FROM documents WHERE collection = ?1 AND key = ?2")
            .and_then(|mut statement| statement.query_row(params![self.name, key], |row| row.get(0)).optional())
            .map_err(database("get"))?;
        body.map(|body| self.decode(key, &body)).transpose()
    }

    /// Writes the document, replacing the one with this key.
    pub fn put(&self, tx: &Tx<'_>, key: &str, value: &T) -> Result<(), StoreError> {
        let body = self.encode(key, value)?;
        tx.connection
            .prepare_cached("INSERT OR REPLACE INTO documents (collection, key, body) VALUES (?1, ?2, ?3)")
            .and_then(|mut statement| statement.execute(params![self.name, key, body]))
            .map_err(database("put"))?;
        Ok(())
    }

    /// Writes a new document; [`StoreError::Exists`] if the key is taken.
    pub fn insert(&self, tx: &Tx<'_>, key: &str, value: &T) -> Result<(), StoreError> {
        let body = self.encode(key, value)?;
        let added = tx
            .connection
            .prepare_cached("INSERT OR IGNORE INTO documents (collection, key, body) VALUES (?1, ?2, ?3)")
            .and_then(|mut statement| statement.execute(params![self.name, key, body]))
            .map_err(database("insert"))?;
        if added == 0 {
            return Err(StoreError::Exists { collection: self.name, key: key.to_owned() });
        }
        Ok(())
    }

    /// Removes the document; whether there was one.
    pub fn delete(&self, tx: &Tx<'_>, key: &str) -> Result<bool, StoreError> {
        let removed = tx
            .connection
            .prepare_cached("DELETE FROM documents WHERE collection = ?1 AND key = ?2")
            .and_then(|mut statement| statement.execute(params![self.name, key]))
            .map_err(database("delete"))?;
        Ok(removed > 0)
    }

    /// All documents in the order of their keys.
    pub fn all(&self, tx: &Tx<'_>) -> Result<Vec<(String, T)>, StoreError> {
        self.prefix(tx, "")
    }

    /// The documents whose keys begin with `prefix`, in order.
    pub fn prefix(&self, tx: &Tx<'_>, prefix: &str) -> Result<Vec<(String, T)>, StoreError> {
        let mut statement = tx
            .connection
            .prepare_cached("SELECT key, body FROM documents WHERE collection = ?1 AND key >= ?2 ORDER BY key")
            .map_err(database("list"))?;
        let mut rows = statement.query(params![self.name, prefix]).map_err(database("list"))?;
        let mut found = Vec::new();
        while let Some(row) = rows.next().map_err(database("list"))? {
            let key: String = row.get(0).map_err(database("list"))?;
            if !key.starts_with(prefix) {
                break;
            }
            let body: Vec<u8> = row.get(1).map_err(database("list"))?;
            let value = self.decode(&key, &body)?;
            found.push((key, value));
        }
        Ok(found)
    }

    /// The keys that begin with `prefix`, in order.
    pub fn keys(&self, tx: &Tx<'_>, prefix: &str) -> Result<Vec<String>, StoreError> {
        let mut statement = tx
            .connection
            .prepare_cached("SELECT key FROM documents WHERE collection = ?1 AND key >= ?2 ORDER BY key")
            .map_err(database("list keys"))?;
        let mut rows = statement.query(params![self.name, prefix]).map_err(database("list keys"))?;
        let mut found = Vec::new();
        while let Some(row) = rows.next().map_err(database("list keys"))? {
            let key: String = row.get(0).map_err(database("list keys"))?;
            if !key.starts_with(prefix) {
                break;
            }
            found.push(key);
        }
        Ok(found)
    }

    fn encode(&self, key: &str, value: &T) -> Result<Vec<u8>, StoreError> {
        serde_json::to_vec(value).map_err(|source| StoreError::Document {
            collection: self.name,
            key: key.to_owned(),
            source,
        })
    }

    fn decode(&self, key: &str, body: &[u8]) -> Result<T, StoreError> {
        serde_json::from_slice(body).map_err(|source| StoreError::Document {
            collection: self.name,
            key: key.to_owned(),
            source,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const NUMBERS: Collection<u32> = Collection::new("numbers");
    const NAMES: Collection<String> = Collection::new("names");

    #[test]
    fn a_failed_transaction_leaves_nothing() {
        let store = Store::in_memory().unwrap();
        let failed: Result<(), StoreError> = store.write(Durability::Process, |tx| {
            NUMBERS.put(tx, "one", &1)?;
            NUMBERS.insert(tx, "one", &2)
        });
        assert!(matches!(failed, Err(StoreError::Exists { collection: "numbers", .. })));
        let found: Option<u32> = store.read(|tx| NUMBERS.get(tx, "one")).unwrap();
        assert_eq!(found, None);
    }

    #[test]
    fn collections_do_not_see_each_other_and_survive_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state.db");
        {
            let store = Store::open(&file).unwrap();
            store
                .write::<_, StoreError>(Durability::Power, |tx| {
                    NUMBERS.put(tx, "a", &1)?;
                    NAMES.put(tx, "a", &"x".to_owned())
                })
                .unwrap();
        }
        let store = Store::open(&file).unwrap();
        assert_eq!(store.read(|tx| NUMBERS.all(tx)).unwrap(), vec![("a".to_owned(), 1)]);
        assert_eq!(store.read(|tx| NAMES.get(tx, "a")).unwrap().as_deref(), Some("x"));
    }

    #[test]
    fn garbage_and_newer_files_are_refused_and_untouched() {
        let folder = tempfile::tempdir().unwrap();
        let garbage = folder.path().join("garbage.db");
        std::fs::write(&garbage, vec![b'x'; 8192]).unwrap();
        let error = Store::open(&garbage).unwrap_err();
        assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
        assert_eq!(std::fs::read(&garbage).unwrap(), vec![b'x'; 8192]);

        let newer = folder.path().join("newer.db");
        drop(Store::open(&newer).unwrap());
        Connection::open(&newer).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
        let error = Store::open(&newer).unwrap_err();
        assert!(matches!(error, StoreError::Newer { found: 99, .. }), "{error}");

        let other = folder.path().join("other.db");
        Connection::open(&other).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
        assert!(matches!(Store::open(&other).unwrap_err(), StoreError::Foreign { .. }));
    }

    proptest! {
        #[test]
        fn a_collection_behaves_as_an_ordered_map(
            operations in proptest::collection::vec(("[a-c]{0,3}", proptest::option::of(any::<u32>())), 0..40),
            prefix in "[a-c]{0,2}",
        ) {
            let store = Store::in_memory().unwrap();
            let mut model = BTreeMap::new();
            for (key, value) in operations {
                store.write::<_, StoreError>(Durability::Process, |tx| match value {
                    Some(value) => { NUMBERS.put(tx, &key, &value)?; model.insert(key.clone(), value); Ok(()) }
                    None => { assert_eq!(NUMBERS.delete(tx, &key)?, model.remove(&key).is_some()); Ok(()) }
                }).unwrap();
            }
            let expected: Vec<_> = model.into_iter().filter(|(key, _)| key.starts_with(&prefix)).collect();
            prop_assert_eq!(store.read(|tx| NUMBERS.prefix(tx, &prefix)).unwrap(), expected);
        }
    }
}
