//! The drivers that ship, through the host.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use common::{facts, record, root, shipped, source, unframe};
use sampan_drivers::{ChangeView, Class, Kind, Limits, Object, Query, Whiteouts};
use sampan_network::plan as net;
use sampan_storage::plan::{Place, Step};

#[test]
fn all_are_there_and_unknown_names_say_what_is_known() {
    let Some(shipped) = shipped() else { return };
    let root = root(shipped, Limits::default());
    let mut names: Vec<String> =
        root.drivers.list().iter().map(|info| format!("{}/{}", info.kind, info.name)).collect();
    names.sort();
    for name in [
        "layer/overlay",
        "layer/vfs",
        "log/json-file",
        "log/none",
        "network/bridge",
        "network/host",
        "network/null",
        "volume/local",
    ] {
        assert!(names.iter().any(|found| found == name), "{name} in {names:?}");
    }
    let error = root.drivers.log("splunk").unwrap_err();
    assert!(error.to_string().starts_with("there is no log driver \"splunk\"; known: json-file"), "{error}");
    assert_eq!(root.drivers.network("none").unwrap().name(), "null");
    assert_eq!(root.drivers.layer("overlay2").unwrap().name(), "overlay");
    assert!(root.drivers.info("json-file").unwrap().digest.starts_with("sha256:"));
    assert!(root.drivers.tree(Kind::Volume, "local").ends_with("trees/volume/local"));
}

#[test]
fn an_overlay_plan_comes_out() {
    let Some(shipped) = shipped() else { return };
    let root = root(shipped, Limits::default());
    let overlay = root.drivers.layer("overlay").unwrap();
    assert_eq!(overlay.style(&facts()).unwrap(), Whiteouts::Overlay);
    let layer = format!("sha256:{}", "1".repeat(64));
    let mounted = overlay.mount(&facts(), &"c".repeat(64), std::slice::from_ref(&layer)).unwrap();
    assert_eq!(mounted.root, Place::Given(0));
    assert!(matches!(mounted.plan.last(), Some(Step::Mount { fstype, .. }) if fstype == "overlay"));
    assert!(matches!(overlay.changes(&"c".repeat(64), &[layer]).unwrap(), ChangeView::Upper(_)));
    let without = sampan_drivers::HostFacts { features: vec![], ..facts() };
    let error = overlay.style(&without).unwrap_err();
    assert_eq!(error.class(), Class::Unsupported);
    assert!(error.to_string().starts_with("driver \"overlay\" (layer): style: the kernel"), "{error}");
}

#[test]
fn volumes_and_their_options() {
    let Some(shipped) = shipped() else { return };
    let root = root(shipped, Limits::default());
    let local = root.drivers.volume("local").unwrap();
    let volume = Object { id: "data".into(), name: "data".into() };
    let mounted = local.mount(&facts(), &volume, &[]).unwrap();
    assert_eq!(mounted.root, Place::Tree("data/_data".into()));
    let error = local.create(&facts(), &volume, &[("size".into(), "1".into())]).unwrap_err();
    assert_eq!(error.to_string(), "driver \"local\" (volume) has no option \"size\"; known: type, o, device");
    let error = local.create(&facts(), &volume, &[("type".into(), "none".into())]).unwrap_err();
    assert_eq!(error.class(), Class::Invalid);
}

#[test]
fn a_bridge_plan_comes_out() {
    let Some(shipped) = shipped() else { return };
    let root = root(shipped, Limits::default());
    let bridge = root.drivers.network("bridge").unwrap();
    let spec = net::NetworkSpec {
        network: Object { id: "n".repeat(64), name: "front".into() },
        subnets: vec![net::Subnet { cidr: "172.20.0.0/16".into(), gateway: "172.20.0.1".into() }],
        internal: false,
        ipv6: false,
        options: vec![],
    };
    assert_eq!(bridge.attached(&spec).unwrap(), net::Attachment::Joined);
    assert!(bridge.publishes(&spec).unwrap());
    let plan = bridge.create(&facts(), &spec).unwrap();
    assert!(plan.contains(&net::Step::Address(net::Address { label: "bridge".into(), cidr: "172.20.0.1/16".into() })));
    assert!(plan.contains(&net::Step::Filter(net::Intent::Masquerade("172.20.0.0/16".into()))));
    assert_eq!(root.drivers.network("host").unwrap().attached(&spec).unwrap(), net::Attachment::Host);
}

#[test]
fn json_file_writes_dockers_lines_and_reads_them_back() {
    let Some(shipped) = shipped() else { return };
    let root = root(shipped, Limits::default());
    let driver = root.drivers.log("json-file").unwrap();
    assert!(driver.readable().unwrap());
    assert!(!root.drivers.log("none").unwrap().readable().unwrap());
    assert_eq!(driver.check(&[("max-size".into(), "lots".into())]).unwrap_err().class(), Class::Invalid);

    let dir = root.folder.path().join("log");
    fs::create_dir(&dir).unwrap();
    let source = source(&[("labels", "tier"), ("tag", "{{.Name}}")]);
    let mut sink = driver.open(&source, &dir).unwrap();
    let mut batch = record(1_000_000_000, 1, false, b"hello \"you\"");
    batch.extend(record(2_000_000_000, 2, true, b"part"));
    batch.extend(record(3_000_000_000, 2, false, b"ner"));
    sink.write(&batch).unwrap();
    sink.flush().unwrap();
    let path = dir.join(format!("{}-json.log", source.container.id));
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        r#"{"log":"hello \"you\"\n","stream":"stdout","attrs":{"tag":"web","tier":"front"},"time":"1970-01-01T00:00:01Z"}"#
    );
    assert_eq!(
        lines[1],
        r#"{"log":"part","stream":"stderr","attrs":{"tag":"web","tier":"front"},"time":"1970-01-01T00:00:02Z"}"#
    );
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);

    let mut cursor = driver.read(&source, &dir, Query { tail: Some(2), ..Query::default() }).unwrap();
    let read = unframe(&cursor.next().unwrap());
    assert_eq!(read, [(2_000_000_000, 2, true, "part".into()), (3_000_000_000, 2, false, "ner".into())]);
    assert!(cursor.next().unwrap().is_empty());
    sink.write(&record(4_000_000_000, 1, false, b"more")).unwrap();
    assert_eq!(unframe(&cursor.next().unwrap()), [(4_000_000_000, 1, false, "more".into())]);
    let mut cursor = driver
        .read(&source, &dir, Query { since: Some(3_000_000_000), until: Some(3_500_000_000), ..Query::default() })
        .unwrap();
    assert_eq!(unframe(&cursor.next().unwrap()).len(), 1);
    sink.close().unwrap();
}

#[test]
fn a_swapped_driver_takes_the_next_write() {
    let Some(shipped) = shipped() else { return };
    let component = fs::read(shipped.join("log-json-file.wasm")).unwrap();
    let manifest = sampan_drivers::Manifest::parse(&fs::read(shipped.join("log-json-file.json")).unwrap()).unwrap();
    let plain = fs::read(shipped.join("examples/log-plain.wasm")).unwrap();
    let root = root(shipped, Limits::default());
    let dir = root.folder.path().join("log");
    fs::create_dir(&dir).unwrap();
    let mut sink = root.drivers.log("json-file").unwrap().open(&source(&[]), &dir).unwrap();
    sink.write(&record(1, 1, false, b"one")).unwrap();
    let info = root.drivers.upgrade("json-file", &plain, manifest.clone(), false).unwrap();
    assert!(!info.shipped);
    sink.write(&record(2, 1, false, b"two")).unwrap();
    assert_eq!(fs::read_to_string(dir.join("plain.log")).unwrap(), "time=2 stream=stdout message=\"two\"\n");
    assert!(root.drivers.remove("json-file", false).unwrap_err().to_string().contains("in use by a running container"));
    root.drivers.upgrade("json-file", &component, manifest, false).unwrap();
    sink.write(&record(3, 1, false, b"three")).unwrap();
    let text = fs::read_to_string(dir.join(format!("{}-json.log", source(&[]).container.id))).unwrap();
    assert_eq!(text.lines().count(), 2);
    drop(sink);
    root.drivers.remove("json-file", false).unwrap();
    assert!(root.drivers.info("json-file").unwrap().shipped);
}

#[test]
fn local_logs_are_bounded_and_read_back() {
    let Some(shipped) = shipped() else { return };
    let root = root(shipped, Limits::default());
    let driver = root.drivers.log("local").unwrap();
    driver.check(&[("max-file".into(), "1".into())]).unwrap();
    driver.check(&[("max-size".into(), "-1".into())]).unwrap();
    assert_eq!(driver.check(&[("labels".into(), "x".into())]).unwrap_err().class(), Class::Invalid);
    let dir = root.folder.path().join("log");
    fs::create_dir(&dir).unwrap();
    let source = source(&[("max-size", "2k"), ("max-file", "3")]);
    let mut sink = driver.open(&source, &dir).unwrap();
    for number in 0..200 {
        sink.write(&record(number + 1, 1, false, format!("line {number}").as_bytes())).unwrap();
    }
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 3);
    let mut cursor = driver.read(&source, &dir, Query { tail: Some(100), ..Query::default() }).unwrap();
    let mut found = Vec::new();
    loop {
        let batch = cursor.next().unwrap();
        if batch.is_empty() {
            break;
        }
        found.extend(unframe(&batch));
    }
    assert_eq!(found.last().unwrap().3, "line 199");
    assert!(found.windows(2).all(|pair| pair[1].0 == pair[0].0 + 1));
}
