//! Files of the disk, for tests.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use sampan_compose::{Files, LoadOptions, MemoryFiles, PathKind, ReadError};

#[derive(Debug)]
pub struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>, ReadError> {
        let file = std::fs::File::open(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => ReadError::NotFound,
            _ => ReadError::Other(error.to_string()),
        })?;
        let mut content = Vec::new();
        file.take(limit + 1).read_to_end(&mut content).map_err(|error| ReadError::Other(error.to_string()))?;
        if content.len() as u64 > limit { Err(ReadError::TooLarge { limit }) } else { Ok(content) }
    }

    fn kind(&self, path: &Path) -> PathKind {
        match std::fs::metadata(path) {
            Ok(meta) if meta.is_file() => PathKind::File,
            Ok(meta) if meta.is_dir() => PathKind::Directory,
            Ok(_) => PathKind::Other,
            Err(_) => PathKind::Missing,
        }
    }
}

/// A project in memory at `/p`: the compose file, and others by path.
pub fn files(compose: &str, others: &[(&str, &str)]) -> MemoryFiles {
    let start = MemoryFiles::default().with("/p/compose.yaml", compose);
    others.iter().fold(start, |files, (path, content)| files.with(format!("/p/{path}"), *content))
}

pub fn options() -> LoadOptions {
    LoadOptions { working_dir: "/p".into(), env: env(&[("HOME", "/home/me")]), ..LoadOptions::default() }
}

pub fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}
