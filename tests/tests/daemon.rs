//! The daemon may die, and refuses what it must.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use sampan_tests::{Host, IMAGE, links_of, programs};

#[test]
fn a_killed_daemon_is_followed_by_one_that_adopts_everything() {
    let Some(mut host) = Host::with_image("a_killed_daemon_is_followed_by_one_that_adopts_everything") else { return };
    host.ok(&[
        "run",
        "-d",
        "--name",
        "counter",
        IMAGE,
        "sh",
        "-c",
        "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.002; done",
    ]);
    host.ok(&[
        "run",
        "-d",
        "--name",
        "page",
        "-p",
        "8080:80",
        IMAGE,
        "sh",
        "-c",
        "while :; do printf 'HTTP/1.0 200 OK\\r\\n\\r\\nhello' | nc -l -p 80; done",
    ]);
    host.ok(&["run", "-d", "--name", "ends", IMAGE, "sh", "-c", "sleep 0.5; exit 4"]);
    host.wait_until("the page answers", || host.fetch("127.0.0.1:8080").is_ok_and(|page| page.ends_with("hello")));
    let pid = host.inspect("counter")["State"]["Pid"].clone();
    let namespace = host.network_namespace();
    let ends = i32::try_from(host.inspect("ends")["State"]["Pid"].as_i64().unwrap_or(0)).unwrap_or(0);
    host.kill_daemon();
    host.wait_until("one ends while there is no daemon", || {
        ends <= 1 || nix::sys::signal::kill(nix::unistd::Pid::from_raw(ends), None).is_err()
    });
    host.spawn_in(namespace);
    assert_eq!(host.inspect("counter")["State"]["Pid"], pid, "it never noticed");
    host.wait_until("the page answers again", || {
        host.fetch("127.0.0.1:8080").is_ok_and(|page| page.ends_with("hello"))
    });
    host.wait_until("the one that ended meanwhile is known", || host.inspect("ends")["State"]["Status"] == "exited");
    assert_eq!(host.inspect("ends")["State"]["ExitCode"], 4);
    host.ok(&["exec", "counter", "true"]);
    host.ok(&["stop", "-t", "0", "counter"]);
    let log = host.ok(&["logs", "counter"]);
    let numbers: Vec<u64> = log.lines().map(|line| line.strip_prefix("line ").unwrap().parse().unwrap()).collect();
    let expected: Vec<u64> = (1..=numbers.len() as u64).collect();
    assert_eq!(numbers, expected, "every line once");
}

#[test]
fn a_second_daemon_on_the_same_root_is_refused() {
    let Some(host) = Host::start("a_second_daemon_on_the_same_root_is_refused") else { return };
    let second = std::process::Command::new(programs().join("sampan"))
        .arg("daemon")
        .envs(host.environment())
        .env("SAMPAN_HOST", "")
        .args(["--socket", host.path("other.sock").to_str().unwrap()])
        .output()
        .unwrap();
    assert!(!second.status.success());
    let error = String::from_utf8_lossy(&second.stderr);
    assert!(error.contains("another daemon"), "{error}");
    assert_eq!(host.ok(&["ps", "-q"]), "", "the first one goes on");
}

#[test]
fn an_orderly_end_takes_links_away_and_a_new_start_brings_networks_back() {
    let Some(mut host) = Host::with_image("an_orderly_end_takes_links_away_and_a_new_start_brings_networks_back")
    else {
        return;
    };
    host.ok(&["network", "create", "kept"]);
    host.ok(&["run", "-d", "--name", "one", "--network", "kept", "--init", IMAGE, "sleep", "1000"]);
    let namespace = || host.network_namespace();
    let (after, again) = (namespace(), namespace());
    assert_eq!(host.stop_daemon(), Some(0));
    assert_eq!(links_of(after), ["lo"]);
    host.spawn_in(again);
    assert_eq!(host.inspect("one")["State"]["Running"], false);
    host.ok(&["start", "one"]);
    assert_eq!(host.run(&["exec", "one", "ping", "-c1", "-W2", "one"]).code, 0);
}

#[test]
fn a_garbled_database_is_named_and_left_alone() {
    let Some(mut host) = Host::start("a_garbled_database_is_named_and_left_alone") else { return };
    host.stop_daemon();
    let database = host.root().join("sampan.db");
    let good = std::fs::read(&database).unwrap();
    for suffix in ["db-wal", "db-shm"] {
        let _ = std::fs::remove_file(host.root().join(format!("sampan.{suffix}")));
    }
    std::fs::write(&database, vec![b'x'; 8192]).unwrap();
    let output =
        std::process::Command::new(programs().join("sampan")).arg("daemon").envs(host.environment()).output().unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("sampan.db") && error.contains("left as it is") || error.contains("left as it was"),
        "{error}"
    );
    assert_eq!(std::fs::read(&database).unwrap(), vec![b'x'; 8192]);
    std::fs::write(&database, good).unwrap();
}

#[test]
fn the_api_says_what_docker_says() {
    let Some(host) = Host::with_image("the_api_says_what_docker_says") else { return };
    let (status, version) = host.api("GET", "/version", None);
    assert_eq!(
        (status, version["ApiVersion"].as_str(), version["MinAPIVersion"].as_str()),
        (200, Some("1.51"), Some("1.24"))
    );
    assert_eq!(host.api("GET", "/v1.40/info", None).0, 200);
    let (status, error) = host.api("GET", "/v9.99/info", None);
    assert_eq!(status, 400, "{error}");
    assert_eq!(
        host.api("GET", "/containers/nothing/json", None),
        (404, serde_json::json!({"message": "No such container: nothing"}))
    );
    let (status, error) = host.api(
        "POST",
        "/containers/create",
        Some(&serde_json::json!({"Image": IMAGE, "HostConfig": {"Memory": "much"}})),
    );
    assert_eq!(status, 400, "{error}");
    assert!(error["message"].as_str().unwrap().contains("HostConfig.Memory"), "{error}");
    assert_eq!(host.api("POST", "/swarm/init", Some(&serde_json::json!({}))).0, 503);
}

/// A file system of its own, gone with the value.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (none, flags) = (None::<&str>, nix::mount::MsFlags::empty());
        let options = format!("size={size}");
        nix::mount::mount(none, folder.path(), Some("tmpfs"), flags, Some(options.as_str())).unwrap();
        Self(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_disk_that_a_container_fills_is_given_back() {
    let test = "a_disk_that_a_container_fills_is_given_back";
    if let Some(obstacle) = sampan_tests::obstacle() {
        println!("skipped: {test} needs {obstacle}");
        return;
    }
    let disk = SmallDisk::mount("48m");
    let host = Host::start_in(disk.0.path(), &[]);
    host.import_busybox();
    host.ok(&["run", "-d", "--name", "before", IMAGE, "sleep", "1000"]);
    let fill = ["run", "--name", "greedy", IMAGE, "sh", "-c", "cat /dev/zero > /big || echo full"];
    let answer = host.run(&fill);
    assert!(answer.err.contains("No space left on device"), "{answer:?}");
    assert_eq!(host.ok(&["exec", "before", "echo", "runs"]), "runs", "what ran goes on");
    let refused = host.run(&["import", host.path("busybox.tar").to_str().unwrap(), "more:1"]);
    assert_ne!(refused.code, 0);
    assert!(
        refused.err.to_lowercase().contains("no space left") || refused.err.contains("disk is full"),
        "{refused:?}"
    );
    host.ok(&["rm", "-f", "greedy"]);
    assert_eq!(host.ok(&["run", "--rm", IMAGE, "echo", "again"]), "again");
    host.ok(&["rm", "-f", "before"]);
    drop(host);
}
