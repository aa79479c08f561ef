//! Drivers are files that can be replaced.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use sampan_tests::{Host, IMAGE, programs};

#[test]
fn a_driver_of_ones_own_takes_the_logs() {
    let Some(host) = Host::with_image("a_driver_of_ones_own_takes_the_logs") else { return };
    let (_, error) = host.fails(&["run", "--rm", "--log-driver", "plain", IMAGE, "true"]);
    assert!(error.contains("plain") && error.contains("json-file"), "{error}");
    let component = programs().join("drivers/examples/log-plain.wasm");
    host.ok(&["plugin", "install", "--grant-all-permissions", component.to_str().unwrap()]);
    assert!(host.ok(&["plugin", "ls"]).contains("plain"));
    host.ok(&["run", "--name", "one", "--log-driver", "plain", IMAGE, "echo", "hello"]);
    let id = host.inspect("one")["Id"].as_str().unwrap().to_owned();
    let folder = host.root().join("containers").join(id);
    let mut found = String::new();
    for entry in walk(&folder) {
        found += &std::fs::read_to_string(entry).unwrap_or_default();
    }
    assert!(found.contains("hello"), "{found}");
    host.ok(&["rm", "one"]);
    host.ok(&["plugin", "disable", "plain"]);
    host.fails(&["run", "--rm", "--log-driver", "plain", IMAGE, "true"]);
    host.ok(&["plugin", "rm", "-f", "plain"]);
    let garbage = host.write("garbage.wasm", "not a component");
    host.write(
        "garbage.json",
        r#"{"name": "bad", "kind": "log", "description": "", "options": [], "capabilities": {}}"#,
    );
    let (_, error) = host.fails(&["plugin", "install", "--grant-all-permissions", garbage.to_str().unwrap()]);
    assert!(error.contains("component"), "{error}");
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}

#[test]
fn without_its_file_there_is_no_driver() {
    let folder = tempfile::tempdir().unwrap();
    let source = programs().join("drivers");
    for entry in std::fs::read_dir(&source).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if entry.path().is_file() && !name.to_string_lossy().starts_with("log-json-file") {
            std::fs::copy(entry.path(), folder.path().join(name)).unwrap();
        }
    }
    let drivers = folder.path().to_str().unwrap().to_owned();
    let Some(host) =
        Host::start_with("without_its_file_there_is_no_driver", &["--drivers", &drivers, "--log-driver", "none"])
    else {
        return;
    };
    host.import_busybox();
    let (_, error) = host.fails(&["run", "--rm", "--log-driver", "json-file", IMAGE, "true"]);
    assert!(error.contains("json-file") && error.contains("none"), "{error}");
    assert_eq!(host.ok(&["run", "--rm", IMAGE, "echo", "hello"]), "hello");
}

#[test]
fn json_file_logs_rotate_and_read_back_whole() {
    let Some(host) = Host::with_image("json_file_logs_rotate_and_read_back_whole") else { return };
    host.ok(&[
        "run",
        "--name",
        "many",
        "--log-opt",
        "max-size=20k",
        "--log-opt",
        "max-file=50",
        IMAGE,
        "seq",
        "1",
        "2000",
    ]);
    let lines = host.ok(&["logs", "many"]);
    assert_eq!(lines.lines().count(), 2000);
    assert_eq!(lines.lines().last(), Some("2000"));
    assert_eq!(host.ok(&["logs", "--tail", "2", "many"]), "1999\n2000");
    let (code, error) = host.fails(&["run", "--rm", "--log-opt", "max-size=lots", IMAGE, "true"]);
    assert_eq!(code, 125);
    assert!(error.contains("max-size"), "{error}");
    let (_, error) = host.fails(&["run", "--rm", "--log-opt", "colour=red", IMAGE, "true"]);
    assert!(error.contains("colour"), "{error}");
}
