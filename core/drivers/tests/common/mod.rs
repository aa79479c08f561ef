//! A data root with the drivers that ship.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, missing_debug_implementations)]

use std::path::{Path, PathBuf};

use sampan_drivers::{Drivers, DriversConfig, HostFacts, Limits, Object, Source};
use sampan_store::Store;

pub struct Root {
    pub folder: tempfile::TempDir,
    pub store: Store,
    pub drivers: Drivers,
}

/// Where the built drivers lie; `None`, said, where they were not built.
pub fn shipped() -> Option<PathBuf> {
    let named = std::env::var_os("SAMPAN_DRIVERS").map(PathBuf::from);
    let folder = named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/debug/drivers"));
    if folder.join("log-json-file.wasm").exists() {
        return Some(folder);
    }
    println!("skipped: no drivers in {}; build them with cargo xtask build", folder.display());
    None
}

pub fn config(folder: &Path, shipped: PathBuf) -> DriversConfig {
    DriversConfig {
        shipped,
        installed: folder.join("installed"),
        cache: Path::new(env!("CARGO_TARGET_TMPDIR")).join("driver-code"),
        trees: folder.join("trees"),
    }
}

pub fn root(shipped: PathBuf, limits: Limits) -> Root {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::in_memory().unwrap();
    let drivers = Drivers::open_with(config(folder.path(), shipped), store.clone(), limits).unwrap();
    Root { folder, store, drivers }
}

pub fn facts() -> HostFacts {
    HostFacts { kernel: "6.12.8".into(), data_root_fs: "ext4".into(), features: vec!["overlay".into(), "ipv6".into()] }
}

pub fn source(options: &[(&str, &str)]) -> Source {
    Source {
        container: Object { id: "ab".repeat(32), name: "/web".into() },
        image: "busybox:latest".into(),
        labels: vec![("tier".into(), "front".into())],
        environment: vec!["LANG=C".into()],
        options: options.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
    }
}

pub fn record(time: u64, stream: u8, partial: bool, text: &[u8]) -> Vec<u8> {
    let mut out = time.to_le_bytes().to_vec();
    out.extend_from_slice(&[stream, u8::from(partial), 0, 0]);
    out.extend_from_slice(&u32::try_from(text.len()).unwrap().to_le_bytes());
    out.extend_from_slice(text);
    out
}

/// Time, stream and text of framed records.
pub fn unframe(mut batch: &[u8]) -> Vec<(u64, u8, bool, String)> {
    let mut found = Vec::new();
    while !batch.is_empty() {
        let length = u32::from_le_bytes(batch[12..16].try_into().unwrap()) as usize;
        let time = u64::from_le_bytes(batch[..8].try_into().unwrap());
        found.push((time, batch[8], batch[9] & 1 != 0, String::from_utf8(batch[16..16 + length].to_vec()).unwrap()));
        batch = &batch[16 + length..];
    }
    found
}
