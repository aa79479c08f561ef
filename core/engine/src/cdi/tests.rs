#![allow(clippy::unwrap_used)]
use super::*;

const YAML: &str = r#"
# As a vendor's generator writes it.
cdiVersion: "0.6.0"
kind: example.com/thing
devices:
  - name: "0"
    containerEdits:
      deviceNodes:
        - path: /dev/thing0
          hostPath: /dev/null
          permissions: rw
          fileMode: 0640
      env: [THING=0]
  - name: with-hook
    containerEdits:
      hooks: [{hookName: createContainer, path: /usr/bin/thing-hook}]
containerEdits:
  env:
    - ALL=things
  mounts:
    - {hostPath: /opt/thing, containerPath: /opt/thing, options: [ro, nosuid, rbind]}
  additionalGids: [44]
"#;

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn named(ids: &[&str]) -> DeviceRequest {
    DeviceRequest {
        driver: Some("cdi".into()),
        device_ids: Some(ids.iter().map(|id| (*id).to_owned()).collect()),
        ..DeviceRequest::default()
    }
}

fn gpus(count: i64, ids: &[&str]) -> DeviceRequest {
    DeviceRequest {
        count: Some(count),
        device_ids: Some(ids.iter().map(|id| (*id).to_owned()).collect()),
        capabilities: Some(vec![vec!["gpu".into()]]),
        ..DeviceRequest::default()
    }
}

fn told(request: DeviceRequest, folder: &tempfile::TempDir) -> String {
    resolve(&[request], &[folder.path().to_owned()]).unwrap_err().message
}

#[test]
fn a_device_brings_its_own_edits_and_those_of_all() {
    let folder = folder(&[("thing.yaml", YAML)]);
    let found =
        resolve(&[named(&["example.com/thing=0", "example.com/thing=0"])], &[folder.path().to_owned()]).unwrap();
    assert_eq!(found.env, ["THING=0", "ALL=things"]);
    let device = &found.devices[0];
    assert_eq!((device.path.as_str(), device.host_path.as_str()), ("/dev/thing0", "/dev/null"));
    assert_eq!((device.file_mode, device.permissions.as_str()), (Some(0o640), "rw"));
    assert_eq!((found.devices.len(), found.mounts[0].options.len(), found.groups), (1, 3, vec![44]));
}

#[test]
fn what_is_not_there_or_not_done_is_told() {
    let folder = folder(&[("thing.yaml", YAML), ("broken.json", "{")]);
    let message = told(named(&["example.com/thing=7"]), &folder);
    assert!(
        message.starts_with("CDI device injection failed: unresolvable CDI devices example.com/thing=7"),
        "{message}"
    );
    assert!(message.contains("broken.json"), "{message}");
    assert!(told(named(&["thing"]), &folder).contains("vendor.com/class=name"));
    let message = told(named(&["example.com/thing=with-hook"]), &folder);
    assert!(message.contains("the hook /usr/bin/thing-hook: No such file"), "{message}");
    assert_eq!(told(gpus(-1, &[]), &folder), "could not select device driver \"\" with capabilities: [[gpu]]");
    let other = DeviceRequest {
        driver: Some("x".into()),
        capabilities: Some(vec![vec!["a".into(), "b".into()]]),
        ..named(&[])
    };
    assert_eq!(
        told(DeviceRequest { driver: Some("x".into()), ..other }, &folder),
        "could not select device driver \"x\" with capabilities: [[a b]]"
    );
}

#[test]
fn gpus_are_counted_and_named() {
    let device = |name: &str| format!(r#"{{"name": "{name}", "containerEdits": {{"env": ["GPU={name}"]}}}}"#);
    let text = format!(
        r#"{{"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": [{}, {}, {}]}}"#,
        device("10"),
        device("2"),
        device("all")
    );
    let folder = folder(&[("nvidia.json", &text)]);
    let chosen = |request| resolve(&[request], &[folder.path().to_owned()]).map(|found| found.env);
    assert_eq!(chosen(gpus(-1, &[])).unwrap(), ["GPU=all"]);
    assert_eq!(chosen(gpus(1, &[])).unwrap(), ["GPU=2"]);
    assert_eq!(chosen(gpus(0, &["10"])).unwrap(), ["GPU=10"]);
    assert!(chosen(gpus(3, &[])).unwrap_err().message.contains("this host has 2: 2, 10"));
    assert!(chosen(gpus(1, &["10"])).unwrap_err().message.contains("both Count and DeviceIDs"));
}

#[test]
fn later_folders_count_more_and_one_folder_does_not_say_two_things() {
    let text = |value: &str| {
        format!(
            r#"{{"cdiVersion": "0.6.0", "kind": "a.b/c", "devices": [{{"name": "d", "containerEdits": {{"env": ["X={value}"]}}}}]}}"#
        )
    };
    let first = folder(&[("a.json", &text("first"))]);
    let second = folder(&[("a.json", &text("second"))]);
    let folders = [first.path().to_owned(), second.path().to_owned(), "/no/such".into()];
    assert_eq!(resolve(&[named(&["a.b/c=d"])], &folders).unwrap().env, ["X=second"]);
    fs::write(first.path().join("b.json"), text("again")).unwrap();
    let message = told(named(&["a.b/c=d"]), &first);
    assert!(message.contains("in two files of one folder"), "{message}");
}

#[test]
fn specifications_are_bounded_and_checked() {
    let with = |edits: &str| {
        format!(
            r#"{{"cdiVersion": "0.6.0", "kind": "a.b/c", "devices": [{{"name": "d", "containerEdits": {edits}}}]}}"#
        )
    };
    for bad in [
        r#"{"env": ["x"]}"#,
        r#"{"deviceNodes": [{"path": "dev/x"}]}"#,
        r#"{"deviceNodes": [{"path": "/dev/../x"}]}"#,
        r#"{"deviceNodes": [{"path": "/dev/x", "permissions": "z"}]}"#,
        r#"{"deviceNodes": [{"path": "/dev/x", "type": "p"}]}"#,
        r#"{"mounts": [{"hostPath": "/a", "containerPath": "/"}]}"#,
        r#"{"mounts": [{"hostPath": "/a", "containerPath": "/b", "type": "tmpfs"}]}"#,
        r#"{"mounts": [{"hostPath": "/a", "containerPath": "/b", "options": ["upperdir=/x"]}]}"#,
        r#"{"intelRdt": {"closID": "x"}}"#,
        r#"{"netDevices": [{"hostInterfaceName": "eth0"}]}"#,
    ] {
        let folder = folder(&[("a.json", &with(bad))]);
        assert!(told(named(&["a.b/c=d"]), &folder).contains("a.json"), "{bad}");
    }
    for unread in ["{}", r#"{"cdiVersion": "2.0.0", "kind": "a.b/c"}"#, r#"{"cdiVersion": "0.6.0", "kind": "c"}"#] {
        let folder = folder(&[("a.json", unread)]);
        assert!(told(named(&["a.b/c=d"]), &folder).contains("not read"), "{unread}");
    }
    for bad in ["a: &x [*x]", "a: !t b", "a: 1\na: 2", "--- 1\n--- 2", "", "[", &"[".repeat(40)] {
        assert!(yaml::parse(bad).is_err(), "{bad}");
    }
    let read = yaml::parse("a: [1, 010, '1', true, ~, x y, -3]").unwrap();
    assert_eq!(read, serde_json::json!({"a": [1, 8, "1", true, null, "x y", -3]}));
}

#[test]
fn builds_get_devices_by_name_class_and_permission() {
    use sampan_build::device::{allowed, parse};
    let yaml = r#"
cdiVersion: "0.6.0"
kind: v.com/gpu
annotations: {org.mobyproject.buildkit.device.class: big}
devices:
  - {name: "0", containerEdits: {env: [A=0]}}
  - {name: "1", annotations: {org.mobyproject.buildkit.device.class: small}, containerEdits: {env: [A=1]}}
  - name: free
    annotations: {org.mobyproject.buildkit.device.autoallow: "true"}
    containerEdits: {env: [A=2]}
"#;
    let folder = folder(&[("gpu.yaml", yaml)]);
    let choose = |wanted: &[&str], allow: &[&str]| {
        let wanted: Vec<_> = wanted.iter().map(|text| parse(text).unwrap()).collect();
        let allow: Vec<_> = allow.iter().map(|text| (*text).to_owned()).collect();
        for_build(&wanted, &allowed(&allow).unwrap(), &[folder.path().to_owned()])
    };
    for (wanted, names) in [
        (&["v.com/gpu"][..], &["v.com/gpu=0"][..]),
        (&["v.com/gpu=*"][..], &["v.com/gpu=0", "v.com/gpu=1", "v.com/gpu=free"][..]),
        (&["v.com/gpu=1,required", "v.com/gpu=small"][..], &["v.com/gpu=1"][..]),
        (&["v.com/gpu=big"][..], &["v.com/gpu=0", "v.com/gpu=free"][..]),
        (&["v.com/gpu=7", "x.com/y"][..], &[][..]),
    ] {
        let chosen = choose(wanted, &["device"]).unwrap();
        assert_eq!(chosen.names, names, "{wanted:?}");
        assert_eq!(chosen.missing.len(), if names.is_empty() { 2 } else { 0 }, "{wanted:?}");
    }
    assert_eq!(choose(&["v.com/gpu=free"], &[]).unwrap().names, ["v.com/gpu=free"]);
    assert_eq!(choose(&["v.com/gpu=0"], &["device=v.com/gpu=0"]).unwrap().names, ["v.com/gpu=0"]);
    for (wanted, allow, part) in [
        ("v.com/gpu=7,required", &["device"][..], "required device \"v.com/gpu=7\" is not registered"),
        ("v.com/gpu=0", &[][..], "build with --allow device=v.com/gpu=0"),
        ("v.com/gpu=*", &["device=v.com/gpu=0"][..], "--allow device=v.com/gpu=1"),
    ] {
        let message = choose(&[wanted], allow).unwrap_err().message;
        assert!(message.contains(part), "{wanted}: {message}");
    }
}
