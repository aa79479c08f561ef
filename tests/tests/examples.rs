//! The stacks of `compose-examples/` run as they are.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sampan_tests::{Host, IMAGE, load, programs};

/// A daemon whose `busybox` is the test's, and a copy of the example that may be edited.
fn example(test: &str, name: &str) -> Option<(Host, PathBuf)> {
    let host = Host::with_image(test)?;
    host.ok(&["tag", IMAGE, "busybox"]);
    let from = PathBuf::from(env!("CARGO_MANIFEST_DIR")).with_file_name("compose-examples").join(name);
    let to = host.path(name);
    copy(&from, &to);
    Some((host, to))
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn rolling_update() {
    let Some((host, folder)) = example("rolling_update", "rolling-update") else { return };
    host.ok_in(&folder, &["up", "-d", "--wait"]);
    let page = || host.fetch("127.0.0.1:8080").unwrap();
    assert!(page().contains("Hello from"));
    let file = folder.join("compose.yaml");
    let done = Arc::new(AtomicBool::new(false));
    let (ended, namespace) = (Arc::clone(&done), host.network_namespace());
    let asking = load::in_namespace(namespace, move || {
        let (mut asked, mut failed) = (0, Vec::new());
        while !ended.load(Ordering::Relaxed) {
            asked += 1;
            match load::get("127.0.0.1:8080".parse().unwrap()) {
                Ok(page) if page.contains(" from ") => {}
                other => failed.push(format!("{other:?}")),
            }
        }
        (asked, failed)
    });
    let edited = fs::read_to_string(&file).unwrap().replace("GREETING: Hello", "GREETING: Goodbye");
    fs::write(&file, edited).unwrap();
    let mut row = 0;
    host.wait_until("every replica is replaced", || {
        row = if page().contains("Goodbye from") { row + 1 } else { 0 };
        row >= 20
    });
    done.store(true, Ordering::Relaxed);
    let (asked, failed) = asking.join().unwrap();
    assert!(asked > 20 && failed.is_empty(), "{} of {asked} requests failed: {failed:?}", failed.len());
}

#[test]
fn migration_job() {
    let Some((host, folder)) = example("migration_job", "migration-job") else { return };
    host.ok_in(&folder, &["up", "-d"]);
    assert_eq!(host.ok(&["exec", "migration-job-app-1", "cat", "/data/schema"]), "3");
    assert_eq!(host.inspect("migration-job-migrate-1")["State"]["Status"], "exited");
}

#[test]
fn dev_loop() {
    let Some((host, folder)) = example("dev_loop", "dev-loop") else { return };
    let mut watch = host.command(&["watch"]).current_dir(&folder).spawn().unwrap();
    host.wait_until("the page is synced", || host.fetch("127.0.0.1:8081").is_ok_and(|page| page.contains("Edit me")));
    fs::write(folder.join("src/index.html"), "edited").unwrap();
    host.wait_until("the edit shows", || host.fetch("127.0.0.1:8081").is_ok_and(|page| page.contains("edited")));
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn backup_sidecar() {
    let Some((host, folder)) = example("backup_sidecar", "backup-sidecar") else { return };
    host.ok_in(&folder, &["up", "-d"]);
    host.wait_until("there is a backup", || {
        host.run(&["exec", "backup-sidecar-backup-1", "tar", "-tf", "/backup/data.tar"]).code == 0
    });
    assert_ne!(host.run(&["exec", "backup-sidecar-backup-1", "touch", "/data/x"]).code, 0, "the data is read-only");
}

#[test]
fn profiles() {
    let Some((host, folder)) = example("profiles", "profiles") else { return };
    host.ok_in(&folder, &["up", "-d"]);
    assert_eq!(host.ok(&["ps", "--format", "{{.Names}}"]), "profiles-app-1");
    host.ok_in(&folder, &["compose", "--profile", "monitoring", "up", "-d"]);
    assert_eq!(host.ok(&["ps", "-q"]).lines().count(), 2);
}

#[test]
fn two_networks() {
    let Some((host, folder)) = example("two_networks", "two-networks") else { return };
    host.ok_in(&folder, &["up", "-d"]);
    let reached = "two-networks-gateway-1";
    assert_eq!(host.run(&["exec", reached, "ping", "-c1", "-W2", "10.96.2.20"]).code, 0);
    assert_eq!(host.run(&["exec", reached, "ping", "-6", "-c1", "-W2", "fd96:2::20"]).code, 0);
    let stranger = ["run", "--rm", "--network", "two-networks_front", IMAGE, "ping", "-c1", "-W1", "10.96.2.20"];
    assert_ne!(host.run(&stranger).code, 0, "who is in front alone does not reach the database");
    let settings = host.inspect("two-networks-database-1")["NetworkSettings"]["Networks"]["two-networks_back"].clone();
    assert_eq!(settings["IPAddress"], "10.96.2.20");
    assert_eq!(settings["GlobalIPv6Address"], "fd96:2::20");
}

#[test]
fn secrets() {
    let Some((host, folder)) = example("secrets", "secrets") else { return };
    host.ok_in(&folder, &["up", "-d", "--wait"]);
    assert_eq!(host.ok(&["exec", "secrets-web-1", "cat", "/run/secrets/database"]), "change me");
    assert!(host.ok(&["logs", "secrets-web-1"]).contains("database = database:5432"));
    fs::write(folder.join("password.txt"), "another\n").unwrap();
    host.wait_until("another password is there", || {
        host.run(&["exec", "secrets-web-1", "cat", "/run/secrets/database"]).out == "another\n"
    });
}

#[test]
fn log_driver() {
    let Some((host, folder)) = example("log_driver", "log-driver") else { return };
    let told = host.run_in(&folder, &["up", "-d"]);
    assert_ne!(told.code, 0);
    let told = told.out + &told.err;
    assert!(told.contains("plain") && told.contains("json-file"), "which drivers there are: {told}");
    let component = programs().join("drivers/examples/log-plain.wasm");
    host.ok(&["plugin", "install", "--grant-all-permissions", component.to_str().unwrap()]);
    host.ok_in(&folder, &["up", "-d"]);
    let id = host.inspect("log-driver-shop-1")["Id"].as_str().unwrap().to_owned();
    host.wait_until("the driver has written", || {
        let text = contents(&host.root().join("containers").join(&id));
        text.contains("shop time=")
            && text.contains("stream=stdout message=\"an order came in\"")
            && text.contains("stream=stderr message=\"a coupon was refused\"")
    });
    host.wait_until("the other one's are where all are", || {
        host.ok(&["logs", "log-driver-stock-1"]).contains("42 left")
    });
}

fn contents(folder: &Path) -> String {
    let mut all = String::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => all += &contents(&path),
            path => all += &String::from_utf8_lossy(&fs::read(path).unwrap_or_default()),
        }
    }
    all
}
