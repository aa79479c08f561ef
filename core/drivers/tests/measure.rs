//! `cargo test -p sampan-drivers --release --test measure -- --ignored --nocapture`
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{facts, record, shipped, source, unframe};
use sampan_drivers::{Drivers, DriversConfig, Limits, Query};
use sampan_store::Store;

/// This thread's own time: others may keep the machine busy.
fn now() -> Duration {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
    Duration::from(time)
}

fn timed<T>(what: &str, times: u32, mut work: impl FnMut() -> T) -> Duration {
    let began = now();
    (0..times).for_each(|_| drop(work()));
    let each = (now() - began) / times;
    println!("{what}: {each:?}");
    each
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
#[ignore = "measures, decides nothing"]
fn measure() {
    let Some(shipped) = shipped() else { return };
    let folder = tempfile::tempdir().unwrap();
    let config =
        || DriversConfig { cache: folder.path().join("cache"), ..common::config(folder.path(), shipped.clone()) };
    let open = || Drivers::open_with(config(), Store::in_memory().unwrap(), Limits::default()).unwrap();
    timed("open", 5, open);
    let drivers = open();
    timed("first style (compiles)", 1, || drivers.layer("overlay").unwrap().style(&facts()).unwrap());
    let drivers = open();
    timed("first style (cached)", 1, || drivers.layer("overlay").unwrap().style(&facts()).unwrap());
    let overlay = drivers.layer("overlay").unwrap();
    timed("style", 1000, || overlay.style(&facts()).unwrap());
    let parents: Vec<String> = (0..10).map(|number| format!("sha256:{number:064}")).collect();
    timed("mount plan of ten layers", 1000, || overlay.mount(&facts(), &"c".repeat(64), &parents).unwrap());

    let dir = folder.path().join("log");
    std::fs::create_dir(&dir).unwrap();
    let source = source(&[]);
    let driver = drivers.log("json-file").unwrap();
    timed("open a sink", 20, || driver.open(&source, &dir).unwrap());
    let mut sink = driver.open(&source, &dir).unwrap();
    let mut batch = Vec::new();
    let mut lines = 0;
    while batch.len() < 60_000 {
        batch.extend(record(1_700_000_000_000_000_000 + lines * 1000, 1, false, &[b'x'; 100]));
        lines += 1;
    }
    let rounds = 2000;
    let each = timed("write a batch", rounds, || sink.write(&batch).unwrap());
    #[allow(clippy::cast_precision_loss)]
    let rate = lines as f64 * 101.0 / each.as_secs_f64() / 1e6;
    println!("json-file: {rate:.0} MB/s of text, {} lines", lines * u64::from(rounds));
    let began = now();
    let mut cursor = driver.read(&source, &dir, Query::default()).unwrap();
    let mut bytes = 0;
    loop {
        let batch = cursor.next().unwrap();
        if batch.is_empty() {
            break;
        }
        bytes += batch.len();
    }
    #[allow(clippy::cast_precision_loss)]
    let rate = bytes as f64 / (now() - began).as_secs_f64() / 1e6;
    println!("read back: {rate:.0} MB/s");
    timed("the last ten lines", 20, || {
        let mut cursor = driver.read(&source, &dir, Query { tail: Some(10), ..Query::default() }).unwrap();
        assert_eq!(unframe(&cursor.next().unwrap()).len(), 10);
    });
    timed("since the end", 20, || {
        driver.read(&source, &dir, Query { since: Some(u64::MAX / 2), ..Query::default() }).unwrap().next().unwrap()
    });
    let before = resident();
    let many: Vec<_> = (0..200)
        .map(|number| {
            let dir = folder.path().join(number.to_string());
            std::fs::create_dir(&dir).unwrap();
            let mut sink = driver.open(&source, &dir).unwrap();
            sink.write(&batch[..1160]).unwrap();
            sink
        })
        .collect();
    println!("resident: {before} KiB, and {} KiB for each sink", (resident() - before) / 200);
    drop(many);
}
