//! Counts by name, in SQLite.

use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, params};

use crate::http;

/// Serves `GET /add/NAME`, which counts and answers the new count.
pub fn run(file: &str) -> Result<(), String> {
    let failed = |error: rusqlite::Error| format!("{file}: {error}");
    let connection = Connection::open(file).map_err(failed)?;
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             CREATE TABLE IF NOT EXISTS counts (name TEXT PRIMARY KEY, count INTEGER NOT NULL);",
        )
        .map_err(failed)?;
    let connection = Arc::new(Mutex::new(connection));
    http::serve(7000, move |path| {
        let Some(name) = path.strip_prefix("/add/") else {
            return if path == "/health" { (200, "ok\n".to_owned()) } else { (404, "no such page\n".to_owned()) };
        };
        let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
        let added = connection.query_row(
            "INSERT INTO counts VALUES (?1, 1) ON CONFLICT (name) DO UPDATE SET count = count + 1 RETURNING count",
            params![name],
            |row| row.get::<_, i64>(0),
        );
        match added {
            Ok(count) => (200, format!("{count}\n")),
            Err(error) => (500, format!("{error}\n")),
        }
    })
}
