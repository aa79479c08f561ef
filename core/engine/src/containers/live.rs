//! Link, pump and exec over a real shim. They need root, busybox, and a built `sampan-shim` beside the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use sampan_shim_protocol::{Event, OCI_CONFIG, SHIM_CONFIG, ShimConfig, StartFailure};
use serde_json::json;

use super::framing;
use super::keeper::{LogTarget, Open};
use super::link::{Shim, ShimEvents};
use super::streams::{Hub, Wiring};
use super::{Output, OutputStream};

/// The shim beside the test's own program.
pub(super) fn program(test: &str) -> Option<PathBuf> {
    let own = std::env::current_exe().unwrap();
    let shim = own.parent().and_then(Path::parent).unwrap().join("sampan-shim");
    if !nix::unistd::geteuid().is_root() || !Path::new("/bin/busybox").exists() || !shim.exists() {
        println!("skipped: {test} needs root, /bin/busybox (package busybox-static) and {}", shim.display());
        return None;
    }
    Some(shim)
}

pub(super) struct Bundle {
    folder: tempfile::TempDir,
    cgroup: String,
}

impl Bundle {
    fn new(name: &str, script: &str, change: impl FnOnce(&mut serde_json::Value, &mut ShimConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("rootfs");
        for directory in ["bin", "etc", "proc", "dev", "tmp"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for tool in ["sh", "cat", "sleep", "seq", "yes", "head", "stty"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(tool)).unwrap();
        }
        let cgroup = format!("/sampan-live-{}-{name}", std::process::id());
        let mut spec = json!({
            "ociVersion": "1.2.0",
            "process": {
                "terminal": false, "user": {"uid": 0, "gid": 0}, "args": ["/bin/sh", "-c", script],
                "env": ["PATH=/bin"], "cwd": "/",
                "capabilities": {"bounding": [], "effective": [], "permitted": [], "inheritable": [], "ambient": []},
            },
            "root": {"path": root},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666", "mode=0620"]},
            ],
            "linux": {
                "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "ipc"}, {"type": "network"}, {"type": "cgroup"}],
                "cgroupsPath": cgroup,
                "resources": {"devices": []},
            },
        });
        let mut config = ShimConfig { id: name.to_owned(), spool_limit: 64 << 20, ..ShimConfig::default() };
        change(&mut spec, &mut config);
        fs::write(folder.path().join(OCI_CONFIG), serde_json::to_vec(&spec).unwrap()).unwrap();
        fs::write(folder.path().join(SHIM_CONFIG), serde_json::to_vec(&config).unwrap()).unwrap();
        Self { folder, cgroup }
    }

    async fn start(&self, program: &Path) -> (Shim, ShimEvents) {
        let (shim, mut events) = Shim::launch(program, self.folder.path()).await.unwrap();
        match events.recv().await.unwrap() {
            Event::Started { .. } => (shim, events),
            other => panic!("{other:?}"),
        }
    }

    /// Waits for the end, and lets the shim go.
    async fn end(self, shim: Shim, mut events: ShimEvents, hub: &Hub) -> u8 {
        let code = exit(&mut events).await;
        hub.finish().await;
        shim.shutdown().await.unwrap();
        while events.recv().await.is_some() {}
        self.gone().await;
        code
    }

    async fn gone(&self) {
        let root = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].into_iter().find(|root| Path::new(root).exists()).unwrap();
        let cgroup = Path::new(root).join(self.cgroup.trim_start_matches('/'));
        for _ in 0..400 {
            if !cgroup.exists() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{} is left", cgroup.display());
    }
}

async fn exit(events: &mut ShimEvents) -> u8 {
    loop {
        if let Event::Exited(status) = events.recv().await.expect("an end") {
            return status.code;
        }
    }
}

#[derive(Debug, Default)]
struct Log {
    /// Time, stream, partial, text.
    records: Mutex<Vec<(u64, OutputStream, bool, Vec<u8>)>>,
    /// The daemon "dies" when the log has so many records.
    limit: Option<usize>,
}

impl Log {
    fn text(&self) -> Vec<u8> {
        let records = self.records.lock().unwrap();
        let mut text = Vec::new();
        for (_, _, partial, bytes) in records.iter() {
            text.extend_from_slice(bytes);
            if !partial {
                text.push(b'\n');
            }
        }
        text
    }

    fn open(self: &Arc<Self>) -> Open {
        let log = Arc::clone(self);
        Box::new(move || Ok(Box::new(Arc::clone(&log)) as Box<dyn LogTarget>))
    }

    fn wiring(self: &Arc<Self>, bundle: &Path) -> Wiring {
        let log = Arc::clone(self);
        Wiring {
            bundle: bundle.to_owned(),
            backlog: bundle.join("backlog"),
            open: self.open(),
            ahead: Box::new(move |since| {
                let records = log.records.lock().unwrap();
                let mut ahead = [0; 2];
                for (time, stream, ..) in records.iter() {
                    let stream = usize::from(*stream == OutputStream::Stderr);
                    if since[stream] > 0 && *time >= since[stream] {
                        ahead[stream] += 1;
                    }
                }
                (records.last().map_or(0, |record| record.0), ahead)
            }),
        }
    }
}

impl LogTarget for Arc<Log> {
    fn write(&mut self, frames: &[u8]) -> Result<(), String> {
        let mut records = self.records.lock().unwrap();
        for frame in framing::frames(frames) {
            assert!(records.last().is_none_or(|last| last.0 <= frame.time));
            records.push((frame.time, frame.stream, frame.partial, frame.bytes.to_vec()));
        }
        if self.limit.is_some_and(|limit| records.len() > limit) {
            drop(records);
            // As if killed after the write and before its acknowledgement.
            panic!("the daemon dies here");
        }
        Ok(())
    }
}

async fn collect(mut output: tokio::sync::mpsc::Receiver<Output>) -> (Vec<u8>, Vec<u8>) {
    let mut texts = (Vec::new(), Vec::new());
    while let Some(Output { stream, bytes }) = output.recv().await {
        let text = if stream == OutputStream::Stdout { &mut texts.0 } else { &mut texts.1 };
        text.extend_from_slice(&bytes);
    }
    texts
}

async fn connect(hub: &Hub, shim: &Shim, log: &Arc<Log>, bundle: &Path) {
    let (connected, descriptors): (_, Vec<OwnedFd>) = shim.connect().await.unwrap();
    hub.wire("box", log.wiring(bundle), shim, connected, descriptors).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn output_reaches_log_and_client_and_a_prompt_only_the_client() {
    let Some(program) = program("output_reaches_log_and_client_and_a_prompt_only_the_client") else { return };
    let container =
        Bundle::new("talk", "echo out; echo err >&2; printf 'name? '; read x; echo hi $x; cat", |_, config| {
            config.open_stdin = true;
        });
    let (hub, log) = (Hub::default(), Arc::new(Log::default()));
    let mut output = hub.subscribe();
    let mut input = hub.stdin();
    // Typed before the start.
    let typing = tokio::spawn(async move {
        input.write(Bytes::from_static(b"")).await.unwrap();
        input
    });
    let (shim, events) = container.start(&program).await;
    connect(&hub, &shim, &log, container.folder.path()).await;
    let mut seen = Vec::new();
    while !seen.ends_with(b"name? ") {
        let output = output.recv().await.unwrap();
        if output.stream == OutputStream::Stdout {
            seen.extend_from_slice(&output.bytes);
        }
    }
    assert!(!log.text().ends_with(b"name? \n"));
    let mut input = typing.await.unwrap();
    input.write(Bytes::from_static(b"you\nmore")).await.unwrap();
    input.close().await;
    let rest = tokio::spawn(collect(output));
    assert_eq!(container.end(shim, events, &hub).await, 0);
    seen.extend(rest.await.unwrap().0);
    assert_eq!(String::from_utf8_lossy(&seen), "out\nname? hi you\nmore");
    let mut lines: Vec<_> = String::from_utf8(log.text()).unwrap().lines().map(ToOwned::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["err", "more", "name? hi you", "out"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_cannot_start_is_told() {
    let Some(program) = program("a_program_that_cannot_start_is_told") else { return };
    let container = Bundle::new("none", "true", |spec, _| spec["process"]["args"] = json!(["nothere"]));
    let (_shim, mut events) = Shim::launch(&program, container.folder.path()).await.unwrap();
    match events.recv().await.unwrap() {
        Event::StartFailed(StartFailure { code: 127, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert!(events.recv().await.is_none());
    container.gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_dies_again_and_again_has_every_line_once() {
    let Some(program) = program("a_daemon_that_dies_again_and_again_has_every_line_once") else { return };
    let container = Bundle::new("die", "seq 1 300000; echo end", |_, _| {});
    let (mut shim, mut events) = container.start(&program).await;
    let mut log = Arc::new(Log { limit: Some(5_000), ..Log::default() });
    let mut hub = Hub::default();
    let mut deaths = 0;
    loop {
        let (connected, descriptors): (_, Vec<OwnedFd>) = shim.connect().await.unwrap();
        // The daemon may die while it takes in what was kept meanwhile.
        let _ = hub.wire("box", log.wiring(container.folder.path()), &shim, connected, descriptors).await;
        // The pump panics with the log when its limit is reached; the link is dropped as with the process.
        let mut tries = 0;
        while log.limit.is_some_and(|limit| log.records.lock().unwrap().len() <= limit) && tries < 400 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            tries += 1;
        }
        if deaths == 6 {
            break;
        }
        deaths += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop((shim, hub, events));
        tokio::time::sleep(Duration::from_millis(20)).await;
        let records = std::mem::take(&mut *log.records.lock().unwrap());
        let limit = (deaths < 6).then_some(records.len() + 2_000);
        log = Arc::new(Log { records: Mutex::new(records), limit });
        hub = Hub::default();
        (shim, events) = Shim::adopt(container.folder.path()).await.unwrap();
    }
    // It has ended already, most likely; the event was another daemon's.
    for _ in 0..2_000 {
        if container.folder.path().join("exit.json").exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    hub.finish().await;
    shim.shutdown().await.unwrap();
    while events.recv().await.is_some() {}
    container.gone().await;
    let expected: String = (1..=300_000).map(|number| format!("{number}\n")).chain(["end\n".to_owned()]).collect();
    let text = String::from_utf8(log.text()).unwrap();
    assert_eq!(text.len(), expected.len());
    assert!(text == expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_joins_both_outputs() {
    let Some(program) = program("a_terminal_joins_both_outputs") else { return };
    let container = Bundle::new("tty", "stty size; echo err >&2; read x; echo got $x", |spec, config| {
        spec["process"]["terminal"] = json!(true);
        config.open_stdin = true;
        config.size = Some((30, 100));
    });
    let (hub, log) = (Hub::default(), Arc::new(Log::default()));
    let output = tokio::spawn(collect(hub.subscribe()));
    let (shim, events) = container.start(&program).await;
    connect(&hub, &shim, &log, container.folder.path()).await;
    shim.resize(None, 10, 20).await.unwrap();
    hub.stdin().write(Bytes::from_static(b"x\n")).await.unwrap();
    assert_eq!(container.end(shim, events, &hub).await, 0);
    let text = String::from_utf8(output.await.unwrap().0).unwrap();
    assert!(text.contains("err\r\n") && text.contains("got x\r\n"), "{text}");
    assert_eq!(String::from_utf8(log.text()).unwrap(), text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_shim_ends_its_streams() {
    let Some(program) = program("a_killed_shim_ends_its_streams") else { return };
    let container = Bundle::new("kill", "echo before; sleep 100", |_, _| {});
    let (hub, log) = (Hub::default(), Arc::new(Log::default()));
    let mut output = hub.subscribe();
    let (shim, mut events) = container.start(&program).await;
    connect(&hub, &shim, &log, container.folder.path()).await;
    output.recv().await.unwrap();
    let pid = shim_pid(container.folder.path());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    while events.recv().await.is_some() {}
    hub.finish().await;
    assert!(output.recv().await.is_none());
    assert_eq!(log.text(), b"before\n");
    assert!(shim.kill(9, false).await.is_err() && shim.is_gone());
    let cgroup = sampan_cgroup::Hierarchy::detect().unwrap().cgroup(&container.cgroup);
    cgroup.kill().unwrap();
    cgroup.remove().unwrap();
}

fn shim_pid(bundle: &Path) -> i32 {
    let bundle = bundle.to_str().unwrap();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        if line.starts_with("sampan-shim\0") && line.contains(bundle) {
            return entry.file_name().to_str().unwrap().parse().unwrap();
        }
    }
    panic!("there is no shim for {bundle}");
}

/// Says how fast the pump is: `cargo test -p sampan-engine --release -- --ignored --nocapture pace`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn pace() {
    struct Count(Arc<std::sync::atomic::AtomicU64>);
    impl LogTarget for Count {
        fn write(&mut self, frames: &[u8]) -> Result<(), String> {
            self.0.fetch_add(frames.len() as u64, std::sync::atomic::Ordering::Relaxed);
            Ok(())
        }
    }
    let Some(program) = program("pace") else { return };
    let line = "x".repeat(99);
    let container = Bundle::new("pace", &format!("yes {line} | head -c 1000000000"), |_, _| {});
    let count = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counter = Arc::clone(&count);
    let hub = Hub::default();
    let (shim, events) = container.start(&program).await;
    let begun = std::time::Instant::now();
    let (connected, descriptors) = shim.connect().await.unwrap();
    let mut wiring = Arc::new(Log::default()).wiring(container.folder.path());
    wiring.open = Box::new(move || Ok(Box::new(Count(Arc::clone(&counter)))));
    hub.wire("pace", wiring, &shim, connected, descriptors).await.unwrap();
    container.end(shim, events, &hub).await;
    println!("1 GB of lines in {:?}", begun.elapsed());
    assert_eq!(count.load(std::sync::atomic::Ordering::Relaxed), 1_000_000_000 / 100 * (99 + 16));
}
