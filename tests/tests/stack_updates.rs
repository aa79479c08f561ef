//! Updates of what runs: under load, in place, given up, cut short.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use sampan_tests::{Host, IMAGE, load};

/// A page that says its version and who serves it. One that serves is healthy unless `/sick` is there; one that does not
/// serve yet is waited for, however slow the machine is.
fn web(version: &str, policy: &str, start: &str, extra: &str) -> String {
    let script = format!("{start} mkdir -p /www; echo $V-$HOSTNAME > /www/index.html; exec httpd -f -p 80 -h /www");
    // What Compose would put in itself is the shell's.
    let script = script.replace('$', "$$");
    format!(
        "name: demo
services:
  web:
    image: {IMAGE}
    init: true
    command: ['sh', '-c', {script:?}]
    environment: {{ V: '{version}' }}
    healthcheck:
      test: 'until wget -q -O - http://127.0.0.1/; do sleep 0.05; done; test ! -e /sick'
      interval: 100ms
      retries: 2
    stop_grace_period: 1s
    volumes: ['./state:/state']
    deploy: {{ replicas: 3, update_config: {{ {policy} }} }}
{extra}"
    )
}

const PORT: &str = "    ports: ['8090:80']\n";

fn folder(file: &Path) -> PathBuf {
    std::fs::create_dir_all(file.with_file_name("state")).unwrap();
    file.parent().unwrap().to_owned()
}

/// The versions that run, one for each container.
fn versions(host: &Host) -> Vec<String> {
    // Names change while containers are replaced.
    let ids = host.ok(&["ps", "-q", "--no-trunc", "--filter", "label=com.docker.compose.service=web"]);
    let mut all: Vec<String> = ids
        .lines()
        .map(|name| {
            let (status, found) = host.api("GET", &format!("/containers/{name}/json"), None);
            let env = found["Config"]["Env"].as_array().cloned().unwrap_or_default();
            let version = env.iter().filter_map(|text| text.as_str()?.strip_prefix("V=").map(str::to_owned)).next();
            if status == 200 { version.unwrap_or_default() } else { String::new() }
        })
        .collect();
    all.sort();
    all
}

fn problem(host: &Host) -> String {
    host.api("GET", "/sampan/v1/stacks/demo", None).1["problem"].as_str().unwrap_or_default().to_owned()
}

/// Who has served requests, and what went wrong.
#[derive(Debug, Default)]
struct Seen {
    bodies: BTreeSet<String>,
    served: usize,
    failures: Vec<String>,
}

/// Requests one after the other, from several at once, until told to end.
fn steady_load(host: &Host) -> (Arc<AtomicBool>, Vec<JoinHandle<Seen>>) {
    let over = Arc::new(AtomicBool::new(false));
    let threads = (0..4)
        .map(|_| {
            let over = Arc::clone(&over);
            load::in_namespace(host.network_namespace(), move || {
                let mut seen = Seen::default();
                while !over.load(Ordering::Relaxed) {
                    match load::get("127.0.0.1:8090".parse().unwrap()) {
                        Ok(text) if text.starts_with("HTTP/1.") && text.contains(" 200 ") => {
                            seen.served += 1;
                            seen.bodies.insert(text.lines().last().unwrap_or_default().to_owned());
                        }
                        Ok(text) => seen.failures.push(text),
                        Err(error) => seen.failures.push(error.to_string()),
                    }
                }
                seen
            })
        })
        .collect();
    (over, threads)
}

fn total(threads: Vec<JoinHandle<Seen>>) -> Seen {
    threads.into_iter().map(|thread| thread.join().unwrap()).fold(Seen::default(), |mut all, seen| {
        all.bodies.extend(seen.bodies);
        all.served += seen.served;
        all.failures.extend(seen.failures);
        all
    })
}

#[test]
fn an_update_and_its_rollback_lose_no_request() {
    let Some(host) = Host::with_image("an_update_and_its_rollback_lose_no_request") else { return };
    let policy = "order: start-first, failure_action: rollback";
    let file = host.write("stack/compose.yaml", web("1", policy, "", PORT));
    let folder = folder(&file);
    host.ok_in(&folder, &["up", "-d", "--wait"]);
    let (over, threads) = steady_load(&host);
    host.write("stack/compose.yaml", web("2", policy, "", PORT));
    host.wait_until("the update is through", || versions(&host) == ["2", "2", "2"]);
    // Two of the next version become healthy, the third never does.
    let third = "n=$(ls /state | wc -l); touch /state/$HOSTNAME; [ $n -lt 2 ] || touch /sick;";
    host.write("stack/compose.yaml", web("3", policy, third, PORT));
    host.wait_until("it is rolled back", || problem(&host).contains("rolled back"));
    host.wait_until("the version before runs again", || versions(&host) == ["2", "2", "2"]);
    over.store(true, Ordering::Relaxed);
    let seen = total(threads);
    assert!(seen.failures.is_empty(), "{} of {} failed: {:?}", seen.failures.len(), seen.served, seen.failures.first());
    let of = |version: &str| seen.bodies.iter().filter(|body| body.starts_with(version)).count();
    assert!(of("1-") >= 2 && of("2-") >= 3 && of("3-") >= 1, "several replicas serve: {:?}", seen.bodies);
    assert!(problem(&host).contains("is unhealthy"), "{}", problem(&host));
    assert_eq!(std::fs::read_dir(folder.join("state")).unwrap().count(), 3, "it is not tried again");
    let told = host.run_in(&folder, &["ps"]);
    assert!(told.err.contains("rolled back"), "{}{}", told.out, told.err);
    assert!(host.ok(&["stack", "ls"]).contains("update held back"));
    // A definition that works ends the matter.
    host.write("stack/compose.yaml", web("4", policy, "", PORT));
    host.wait_until("the next version runs", || versions(&host) == ["4", "4", "4"] && problem(&host).is_empty());
    host.wait_until("it is remembered", || host.ok(&["stack", "history", "demo"]).contains("environment.V"));
    let (over, threads) = steady_load(&host);
    host.ok(&["stack", "rollback", "demo"]);
    assert_eq!(versions(&host), ["2", "2", "2"]);
    over.store(true, Ordering::Relaxed);
    let seen = total(threads);
    assert!(seen.failures.is_empty(), "{} of {} failed: {:?}", seen.failures.len(), seen.served, seen.failures.first());
    assert!(seen.served > 0 && seen.bodies.iter().any(|body| body.starts_with("2-")), "{:?}", seen.bodies);
}

#[test]
fn ports_health_checks_and_log_options_change_in_place() {
    let Some(host) = Host::with_image("ports_health_checks_and_log_options_change_in_place") else { return };
    let stack = |ports: &str, check: &str, size: &str| {
        format!(
            "name: demo\nservices:\n  web:\n    image: {IMAGE}\n    init: true\n    command: ['sh', '-c', 'mkdir /www; echo page > /www/index.html; httpd -p 80 -h /www; while :; do echo line-of-the-log; sleep 0.02; done']\n    ports: [{ports}]\n    healthcheck: {{ test: '{check}', interval: 50ms, retries: 1 }}\n    logging: {{ driver: json-file, options: {{ max-size: {size}, max-file: '2' }} }}\n"
        )
    };
    let file = host.write("stack/compose.yaml", stack("'8090:80', '8095:80'", "true", "10m"));
    let folder = file.parent().unwrap().to_owned();
    host.ok_in(&folder, &["up", "-d", "--wait"]);
    let before = host.inspect("demo-web-1");
    let answers = |port: u16| host.fetch(&format!("127.0.0.1:{port}")).is_ok_and(|text| text.contains("page"));
    assert!(answers(8090) && answers(8095) && !answers(8091));
    let same = || {
        let after = host.inspect("demo-web-1");
        assert_eq!((&after["Id"], &after["State"]["Pid"]), (&before["Id"], &before["State"]["Pid"]), "it is the same");
        after
    };
    host.write("stack/compose.yaml", stack("'8091:80', '8095:80'", "true", "10m"));
    host.wait_until("the new port answers", || answers(8091));
    host.wait_until("the old one refuses", || host.fetch("127.0.0.1:8090").is_err());
    assert!(answers(8095), "what stays is not touched");
    assert!(same()["NetworkSettings"]["Ports"].to_string().contains("8091"));
    // The same port of the host for another one of the container.
    host.ok(&["exec", "demo-web-1", "httpd", "-p", "81", "-h", "/www"]);
    host.write("stack/compose.yaml", stack("'8091:81'", "true", "10m"));
    host.wait_until("8095 is given back", || host.fetch("127.0.0.1:8095").is_err());
    assert!(answers(8091));
    // One that another program has changes nothing.
    let other = host.in_network(|| std::net::TcpListener::bind("0.0.0.0:8099").unwrap());
    host.write("stack/compose.yaml", stack("'8099:80'", "true", "10m"));
    host.wait_until("it is told", || problem(&host).contains("8099"));
    assert!(answers(8091), "{}", problem(&host));
    same();
    drop(other);
    host.wait_until("it is tried again", || answers(8099) && problem(&host).is_empty());
    let shown = |edit: &str| {
        host.write("stack/next.yaml", edit);
        host.ok_in(&folder, &["compose", "-f", "next.yaml", "up", "-d", "--dry-run"])
    };
    let dry = shown(&stack("'8099:80'", "false", "20m"));
    assert!(dry.contains("change container demo-web-1 in place: health check, log options"), "{dry}");
    host.write("stack/compose.yaml", stack("'8099:80'", "false", "10m"));
    host.wait_until("the new check fails", || host.inspect("demo-web-1")["State"]["Health"]["Status"] == "unhealthy");
    host.write("stack/compose.yaml", stack("'8099:80'", "true", "1k"));
    host.wait_until("the next one does not", || host.inspect("demo-web-1")["State"]["Health"]["Status"] == "healthy");
    let log = same()["LogPath"].as_str().unwrap().to_owned();
    host.wait_until("the log is kept to the new size", || std::path::Path::new(&format!("{log}.1")).exists());
    assert!(std::fs::metadata(&log).unwrap().len() < 10_000);
    assert!(host.ok(&["logs", "--tail", "1", "demo-web-1"]).contains("line-of-the-log"));
    let dry = shown(&stack("'8099:80'", "true", "1k").replace("    init", "    environment: { A: b }\n    init"));
    assert!(dry.contains("recreate container demo-web-1: its definition changed (environment)"), "{dry}");
    same();
}

#[test]
fn a_failed_update_stands_still_and_an_edit_goes_on() {
    let Some(host) = Host::with_image("a_failed_update_stands_still_and_an_edit_goes_on") else { return };
    let policy = "order: stop-first";
    let file = host.write("stack/compose.yaml", web("1", policy, "", ""));
    let folder = folder(&file);
    host.ok_in(&folder, &["up", "-d", "--wait"]);
    host.write("stack/compose.yaml", web("2", policy, "touch /sick;", ""));
    host.wait_until("the failure is told", || problem(&host).contains("stands still"));
    assert_eq!(versions(&host), ["1", "1", "1"], "what was replaced is back, the others were not touched");
    let up = host.run_in(&folder, &["up", "-d"]);
    assert_ne!(up.code, 0, "an explicit up tries it again");
    assert!(format!("{}{}", up.out, up.err).contains("is unhealthy"), "{}{}", up.out, up.err);
    host.write("stack/compose.yaml", web("3", policy, "", ""));
    host.wait_until("the edit is through", || versions(&host) == ["3", "3", "3"] && problem(&host).is_empty());
}

#[test]
fn an_edit_supersedes_an_update_that_hangs() {
    let Some(host) = Host::with_image("an_edit_supersedes_an_update_that_hangs") else { return };
    let policy = "order: start-first";
    let file = host.write("stack/compose.yaml", web("1", policy, "", ""));
    let folder = folder(&file);
    host.ok_in(&folder, &["up", "-d", "--wait"]);
    let hangs = web("2", policy, "touch /sick;", "").replace("interval: 100ms", "interval: 1h");
    host.write("stack/compose.yaml", hangs);
    host.wait_until("the update has begun", || versions(&host).contains(&"2".to_owned()));
    host.write("stack/compose.yaml", web("3", policy, "", ""));
    host.wait_until("the newer one is through", || versions(&host) == ["3", "3", "3"]);
    host.wait_until("nothing is left aside", || host.ok(&["ps", "-aq"]).lines().count() == 3);
}

/// A stack of version 1 whose update to 2 has begun, and waits for the file `state/go` in the folder.
fn begun_update(host: &Host, policy: &str) -> PathBuf {
    let file = host.write("stack/compose.yaml", web("1", policy, "", ""));
    let folder = folder(&file);
    host.ok_in(&folder, &["up", "-d", "--wait"]);
    let waits = "until [ -e /state/go ]; do sleep 0.05; done;";
    host.write("stack/compose.yaml", web("2", policy, waits, "").replace("retries: 2", "retries: 1000"));
    host.wait_until("the update has begun", || versions(host) == ["1", "1", "1", "2"]);
    folder
}

#[test]
fn an_update_goes_on_after_the_daemon_was_killed() {
    let Some(mut host) = Host::with_image("an_update_goes_on_after_the_daemon_was_killed") else { return };
    let policy = "order: start-first";
    let folder = begun_update(&host, policy);
    let new = host.inspect("demo-web-1")["Id"].clone();
    host.crash_and_restart();
    assert!(versions(&host).iter().filter(|version| *version == "1").count() >= 3, "what serves goes on");
    std::fs::write(folder.join("state/go"), "").unwrap();
    host.wait_until("the update is through", || versions(&host) == ["2", "2", "2"]);
    assert_eq!(host.inspect("demo-web-1")["Id"], new, "what the daemon before has made is taken");
    host.wait_until("nothing is left aside", || host.ok(&["ps", "-aq"]).lines().count() == 3);
}

#[test]
fn an_update_goes_on_after_its_new_container_was_killed() {
    let Some(host) = Host::with_image("an_update_goes_on_after_its_new_container_was_killed") else { return };
    let policy = "order: start-first";
    let folder = begun_update(&host, policy);
    host.ok(&["kill", "demo-web-1"]);
    host.wait_until("it is told", || problem(&host).contains("exited (137)"));
    assert!(versions(&host).iter().filter(|version| *version == "1").count() >= 3, "what serves goes on");
    std::fs::write(folder.join("state/go"), "").unwrap();
    host.wait_until("the update is through", || versions(&host) == ["2", "2", "2"] && problem(&host).is_empty());
}

#[test]
fn an_update_is_not_blamed_for_a_network_that_was_removed_by_hand() {
    let Some(host) = Host::with_image("an_update_is_not_blamed_for_a_network_that_was_removed_by_hand") else { return };
    let policy = "order: start-first, failure_action: rollback";
    let folder = begun_update(&host, policy);
    for id in host.ok(&["ps", "-q", "--no-trunc"]).lines() {
        host.ok(&["network", "disconnect", "-f", "demo_default", id]);
    }
    host.ok(&["network", "rm", "demo_default"]);
    std::fs::write(folder.join("state/go"), "").unwrap();
    host.wait_until("the update is through", || versions(&host) == ["2", "2", "2"] && problem(&host).is_empty());
    assert_eq!(host.run(&["network", "inspect", "demo_default"]).code, 0, "and the network is there again");
}

#[test]
fn a_rollback_goes_on_after_the_daemon_was_killed() {
    let Some(mut host) = Host::with_image("a_rollback_goes_on_after_the_daemon_was_killed") else { return };
    let policy = "order: start-first, failure_action: rollback";
    let first = |version: &str| {
        let waits = "until [ -e /state/go ]; do sleep 0.05; done;";
        web(version, policy, waits, "").replace("retries: 2", "retries: 1000")
    };
    let file = host.write("stack/compose.yaml", first("1"));
    let folder = folder(&file);
    let go = folder.join("state/go");
    std::fs::write(&go, "").unwrap();
    host.ok_in(&folder, &["up", "-d", "--wait"]);
    std::fs::remove_file(&go).unwrap();
    // Two of the next version become healthy, the third never does.
    let third = "n=$(ls /state | wc -l); touch /state/$HOSTNAME; [ $n -lt 2 ] || touch /sick;";
    host.write("stack/compose.yaml", web("2", policy, third, ""));
    host.wait_until("it goes back", || problem(&host).contains("rolled back"));
    host.wait_until("the way back has begun", || {
        let now = versions(&host);
        now.iter().filter(|version| *version == "1").count() > 1 && now.contains(&"2".to_owned())
    });
    host.crash_and_restart();
    std::fs::write(&go, "").unwrap();
    host.wait_until("it comes to its end", || versions(&host) == ["1", "1", "1"]);
    host.wait_until("nothing is left aside", || host.ok(&["ps", "-aq"]).lines().count() == 3);
    assert!(problem(&host).contains("rolled back"), "it is still told: {}", problem(&host));
    let tried = std::fs::read_dir(folder.join("state")).unwrap().count();
    host.write("stack/compose.yaml", first("4"));
    host.wait_until("an edit ends the matter", || versions(&host) == ["4", "4", "4"] && problem(&host).is_empty());
    assert_eq!(tried, 4, "the three of the failed update and the word to go: it was not tried again");
}

#[test]
fn limits_labels_and_networks_change_in_place() {
    let Some(host) = Host::with_image("limits_labels_and_networks_change_in_place") else { return };
    let stack = |memory: &str, label: &str, alias: &str, restart: &str| {
        format!(
            "name: demo\nservices:\n  web:\n    image: {IMAGE}\n    init: true\n    command: [sleep, '1000']\n    mem_limit: {memory}\n    labels: {{ owner: {label} }}\n    restart: {restart}\n    networks: {{ front: {{ aliases: [{alias}] }} }}\n  other: {{ image: {IMAGE}, init: true, command: [sleep, '1000'], networks: [front] }}\nnetworks: {{ front: {{}} }}\n"
        )
    };
    let file = host.write("stack/compose.yaml", stack("32m", "me", "page", "always"));
    host.ok_in(file.parent().unwrap(), &["up", "-d"]);
    let before = host.inspect("demo-web-1");
    host.write("stack/compose.yaml", stack("48m", "you", "site", "'no'"));
    host.wait_until("the labels are others", || host.inspect("demo-web-1")["Config"]["Labels"]["owner"] == "you");
    let after = host.inspect("demo-web-1");
    assert_eq!((&after["Id"], &after["State"]["Pid"]), (&before["Id"], &before["State"]["Pid"]), "it is the same");
    assert_eq!(after["HostConfig"]["Memory"], 48 << 20);
    assert_eq!(after["HostConfig"]["RestartPolicy"]["Name"], "no");
    assert_eq!(
        host.ok(&["exec", "demo-other-1", "sh", "-c", "ping -c1 -W2 site >/dev/null && echo reached"]),
        "reached"
    );
    assert_ne!(
        host.run(&["exec", "demo-other-1", "ping", "-c1", "-W1", "page"]).code,
        0,
        "the alias of before is gone"
    );
    let dry = host.run_in(file.parent().unwrap(), &["up", "-d", "--dry-run"]);
    assert!(!format!("{}{}", dry.out, dry.err).contains("demo-web-1"), "it is as it should be: {}{}", dry.out, dry.err);
}

#[test]
fn names_mean_healthy_replicas() {
    let Some(host) = Host::with_image("names_mean_healthy_replicas") else { return };
    let file = host.write("stack/compose.yaml", web("1", "order: start-first", "", ""));
    host.ok_in(&folder(&file), &["up", "-d", "--wait"]);
    let known = || {
        let answer = host.run(&["exec", "demo-web-1", "nslookup", "web", "127.0.0.11"]).out;
        answer.lines().filter(|line| line.starts_with("Address") && !line.contains("127.0.0.11")).count()
    };
    assert_eq!(known(), 3);
    host.ok(&["exec", "demo-web-2", "touch", "/sick"]);
    host.wait_until("the sick one is not found", || known() == 2);
    host.ok(&["exec", "demo-web-2", "rm", "/sick"]);
    host.wait_until("it is found again", || known() == 3);
}

/// A command that runs until the test ends, and what it has written.
struct Following {
    child: std::process::Child,
    output: PathBuf,
}

impl Following {
    fn start(host: &Host, folder: &Path, arguments: &[&str]) -> Self {
        let output = host.path("following");
        let file = std::fs::File::create(&output).unwrap();
        let mut command = host.command(arguments);
        let child = command.current_dir(folder).stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Self { child, output }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn sources_show_in_containers_as_they_are_saved() {
    let Some(host) = Host::with_image("sources_show_in_containers_as_they_are_saved") else { return };
    host.write("stack/src/first.txt", "one");
    host.write("stack/image/version", "1");
    host.write("stack/image/Dockerfile", format!("FROM {IMAGE}\nCOPY version /version\n"));
    let folder = host
        .write(
            "stack/compose.yaml",
            format!(
                "name: demo
services:
  web:
    build: ./image
    init: true
    command: ['sh', '-c', 'exec sleep 1000']
    develop:
      watch:
        - {{ path: ./src, action: sync, target: /app, ignore: ['*.log'], initial_sync: true }}
        - {{ path: ./conf, action: sync+restart, target: /conf }}
        - {{ path: ./css, action: sync+exec, target: /css, exec: {{ command: ['sh', '-c', 'cat /css/* > /bundle'] }} }}
        - {{ path: ./flags, action: restart, include: ['*.flag'] }}
        - {{ path: ./image, action: rebuild }}
  still: {{ image: {IMAGE}, init: true, command: [sleep, '1000'] }}
"
            ),
        )
        .parent()
        .unwrap()
        .to_owned();
    for empty in ["conf", "css", "flags"] {
        std::fs::create_dir(folder.join(empty)).unwrap();
    }
    let watch = Following::start(&host, &folder, &["watch"]);
    host.wait_until("the watch is on", || {
        assert!(!watch.said().contains("rror") && !watch.said().contains("unknown"), "{}", watch.said());
        watch.said().contains("Watch enabled")
    });
    let read = |path: &str| host.run(&["exec", "demo-web-1", "cat", path]).out;
    assert_eq!(read("/app/first.txt"), "one", "what was there is synced at first");
    let id = host.inspect("demo-web-1")["Id"].clone();

    host.write("stack/src/deep/er/second.txt", "two");
    host.write("stack/src/noise.log", "noise");
    host.wait_until("a new file is there", || read("/app/deep/er/second.txt") == "two");
    host.write("stack/src/next", "changed");
    std::fs::rename(folder.join("src/next"), folder.join("src/first.txt")).unwrap();
    host.wait_until("a save by rename shows", || read("/app/first.txt") == "changed" && read("/app/next").is_empty());
    std::fs::remove_dir_all(folder.join("src/deep")).unwrap();
    host.wait_until("what is gone is gone", || read("/app/deep/er/second.txt").is_empty());
    assert_eq!(read("/app/noise.log"), "", "what is ignored does not come");

    let started = || host.inspect("demo-web-1")["State"]["StartedAt"].clone();
    let restarted = |before: &serde_json::Value| {
        let state = host.inspect("demo-web-1")["State"].clone();
        state["StartedAt"] != *before && state["Running"] == true
    };
    let before = started();
    host.write("stack/flags/notes.txt", "no flag");
    host.write("stack/css/a.css", "blue");
    host.wait_until("a command follows", || read("/bundle") == "blue");
    assert_eq!(started(), before, "what is not included does nothing");
    host.write("stack/flags/on.flag", "");
    host.wait_until("a restart follows", || restarted(&before));
    let before = started();
    host.write("stack/conf/app.ini", "x = 1");
    host.wait_until("a restart follows a sync", || restarted(&before));
    assert_eq!(read("/conf/app.ini"), "x = 1");
    assert_eq!(host.inspect("demo-web-1")["Id"], id, "it is still the same container");

    host.write("stack/image/version", "2");
    host.wait_until("a build follows", || read("/version") == "2");
    assert_ne!(host.inspect("demo-web-1")["Id"], id);
    let said = watch.said();
    for line in ["Syncing service \"web\" after", "\"web\" restarted", "Rebuilding service \"web\""] {
        assert!(said.contains(line), "{said}");
    }
    drop(watch);
    let none = host.run_in(&folder, &["watch", "--no-up", "still"]);
    assert!(none.code != 0 && none.err.contains("consider setting a 'develop' section"), "{}", none.err);
}

#[test]
fn an_attached_stack_follows_its_sources_too() {
    let Some(host) = Host::with_image("an_attached_stack_follows_its_sources_too") else { return };
    host.write("stack/src/old.txt", "old");
    let file = host.write(
        "stack/compose.yaml",
        format!("name: demo\nservices:\n  web:\n    image: {IMAGE}\n    init: true\n    command: [sleep, '1000']\n    develop: {{ watch: [{{ path: ./src, action: sync, target: /app }}] }}\n"),
    );
    let folder = folder(&file);
    let up = Following::start(&host, &folder, &["up", "--watch"]);
    host.wait_until("the watch is on", || up.said().contains("Watch enabled"));
    host.write("stack/src/new.txt", "new");
    let read = |path: &str| host.run(&["exec", "demo-web-1", "cat", path]).out;
    host.wait_until("a new file is there", || read("/app/new.txt") == "new");
    assert_eq!(read("/app/old.txt"), "", "what was there comes only when `initial_sync` says so");
    host.wait_until("it is told in a line", || {
        up.said().lines().any(|line| line.contains("Syncing service \"web\" after 1 change"))
    });
}

#[test]
fn a_stack_is_left_alone_goes_back_and_shows_what_would_change() {
    let Some(host) = Host::with_image("a_stack_is_left_alone_goes_back_and_shows_what_would_change") else { return };
    let stack = |version: &str| {
        format!(
            "name: demo\nservices:\n  web: {{ image: {IMAGE}, init: true, command: [sleep, '1000'], environment: {{ V: '{version}' }} }}\n"
        )
    };
    let file = host.write("stack/compose.yaml", stack("1"));
    let folder = file.parent().unwrap().to_owned();
    host.ok_in(&folder, &["up", "-d"]);
    host.ok(&["stack", "pause", "demo"]);
    assert!(host.ok(&["stack", "ls"]).contains("paused"));
    host.write("stack/compose.yaml", stack("2"));
    let diff = host.ok_in(&folder, &["compose", "diff"]);
    assert!(diff.contains("services.web.environment.V  (made anew)\n  - \"1\"\n  + \"2\"\n"), "{diff}");
    let json: serde_json::Value =
        serde_json::from_str(&host.ok_in(&folder, &["compose", "diff", "--format", "json"])).unwrap();
    assert_eq!(json["changes"][0]["path"], "services.web.environment.V");
    // Another stack in the same folder is followed: the edit of the paused one was seen by then, too.
    let beside = host.write("stack/beside.yaml", stack("1").replace("name: demo", "name: beside"));
    host.ok_in(&folder, &["compose", "-f", "beside.yaml", "up", "-d"]);
    std::fs::write(&beside, stack("9").replace("name: demo", "name: beside")).unwrap();
    host.wait_until("the one beside is followed", || {
        let found = host.api("GET", "/containers/beside-web-1/json", None).1;
        found["Config"]["Env"].to_string().contains("V=9")
    });
    host.ok_in(&folder, &["compose", "-p", "beside", "down"]);
    assert_eq!(versions(&host), ["1"], "a paused stack is left alone");
    host.ok(&["stack", "resume", "demo"]);
    host.wait_until("the edit is applied", || versions(&host) == ["2"]);
    host.wait_until("it is remembered", || {
        host.ok(&["stack", "history", "demo"]).contains("services.web.environment.V")
    });
    host.ok(&["stack", "rollback", "demo"]);
    assert_eq!(versions(&host), ["1"]);
    host.ok_in(&folder, &["up", "-d"]);
    assert_eq!(versions(&host), ["2"], "an up follows the files again");
    let other = host.write("elsewhere/compose.yaml", stack("3"));
    let refused = host.run_in(other.parent().unwrap(), &["up", "-d"]);
    assert!(refused.code != 0 && refused.err.contains("is up already, from"), "{}", refused.err);
    assert_eq!(versions(&host), ["2"]);
}
