//! What the daemon mends by itself, what it runs around starts and stops, and what it follows.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sampan_tests::{Host, IMAGE};

fn pid(host: &Host, container: &str) -> i64 {
    host.api("GET", &format!("/containers/{container}/json"), None).1["State"]["Pid"].as_i64().unwrap_or(0)
}

fn runs(host: &Host, container: &str) -> bool {
    pid(host, container) > 0
}

/// Kills a container's program as a fault would, not as a user.
fn crash(host: &Host, container: &str) {
    let pid = pid(host, container);
    assert!(pid > 1);
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
}

fn problem(host: &Host) -> String {
    host.api("GET", "/sampan/v1/stacks/demo", None).1["problem"].as_str().unwrap_or_default().to_owned()
}

fn events(host: &Host) -> String {
    let until = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let (since, until) = ((until - 600).to_string(), (until + 1).to_string());
    host.ok(&["events", "--since", &since, "--until", &until])
}

fn folder(file: &Path) -> PathBuf {
    file.parent().unwrap().to_owned()
}

#[test]
fn unhealthy_containers_are_restarted_when_asked() {
    let Some(host) = Host::with_image("unhealthy_containers_are_restarted_when_asked") else { return };
    let service = |extra: &str| {
        format!(
            "    image: {IMAGE}\n    init: true\n    command: ['sh', '-c', 'rm -f /sick; exec sleep 1000']\n    healthcheck: {{ test: 'test ! -e /sick', interval: 50ms, retries: 1 }}\n{extra}"
        )
    };
    let stack = |extra: &str| format!("name: demo\nservices:\n  web:\n{}  still:\n{}", service(extra), service(""));
    let file = host.write("stack/compose.yaml", stack("    x-sampan: { restart_unhealthy: often }\n"));
    let refused = host.run_in(&folder(&file), &["up", "-d"]);
    assert!(refused.code != 0 && refused.err.contains("restart_unhealthy"), "{}", refused.err);
    assert!(refused.err.contains("compose.yaml:8:5"), "{}", refused.err);
    host.write("stack/compose.yaml", stack("    x-sampan: { restart_unhealthy: { after: 10ms, max: 5 } }\n"));
    host.ok_in(&folder(&file), &["up", "-d", "--wait"]);
    let before = [pid(&host, "demo-web-1"), pid(&host, "demo-still-1")];
    for name in ["demo-web-1", "demo-still-1"] {
        host.ok(&["exec", name, "touch", "/sick"]);
    }
    host.wait_until("the one that asked is restarted and healthy", || {
        let found = host.inspect("demo-web-1");
        found["State"]["Health"]["Status"] == "healthy" && pid(&host, "demo-web-1") != before[0]
    });
    host.wait_until("the other one is told to be unhealthy", || {
        host.inspect("demo-still-1")["State"]["Health"]["Status"] == "unhealthy"
    });
    assert_eq!(pid(&host, "demo-still-1"), before[1], "nobody asked for that");
}

#[test]
fn crash_loops_back_off_and_are_seen() {
    let Some(host) = Host::with_image("crash_loops_back_off_and_are_seen") else { return };
    let file = host.write(
        "stack/compose.yaml",
        format!(
            "name: demo\nservices:\n  own: {{ image: {IMAGE}, command: ['sh', '-c', 'exit 3'], restart: always }}\n  killed: {{ image: {IMAGE}, init: true, command: ['sh', '-c', 'kill -9 $$$$'] }}\n  well: {{ image: {IMAGE}, init: true, command: [sleep, '1000'] }}\n"
        ),
    );
    host.ok_in(&folder(&file), &["up", "-d"]);
    for name in ["demo-own-1", "demo-killed-1"] {
        host.wait_until(&format!("ps shows the loop of {name}"), || {
            let line = host.ok(&["ps", "-a", "--filter", &format!("name={name}"), "--format", "{{.Status}}"]);
            line.contains("(crash loop, next start in")
        });
        host.wait_until("the stack tells it", || problem(&host).contains(&format!("{name}: crash loop, next start")));
        host.wait_until("an event tells it", || events(&host).contains("crash_loop: next start in"));
    }
    assert!(runs(&host, "demo-well-1"));
    assert!(host.ok(&["stack", "inspect", "demo"]).contains("crash loop, next start"));
    host.ok_in(&folder(&file), &["down"]);
}

#[test]
fn networks_and_volumes_that_were_deleted_by_hand_are_made_again() {
    let Some(host) = Host::with_image("networks_and_volumes_that_were_deleted_by_hand_are_made_again") else { return };
    let file = host.write(
        "stack/compose.yaml",
        format!(
            "name: demo\nservices:\n  web:\n    image: {IMAGE}\n    init: true\n    command: [sleep, '1000']\n    networks: {{ front: {{ aliases: [page] }} }}\n    volumes: ['data:/data']\n  db: {{ image: {IMAGE}, init: true, command: [sleep, '1000'], networks: [front] }}\nnetworks: {{ front: {{}} }}\nvolumes: {{ data: {{}} }}\n"
        ),
    );
    host.ok_in(&folder(&file), &["up", "-d"]);
    let ids = || [host.inspect("demo-web-1")["Id"].clone(), host.inspect("demo-db-1")["Id"].clone()];
    let before = ids();
    let reached = || host.run(&["exec", "demo-db-1", "ping", "-c1", "-W1", "page"]).code == 0;
    assert!(reached());
    host.ok(&["network", "disconnect", "demo_front", "demo-web-1"]);
    host.wait_until("it is connected again", reached);
    host.ok(&["stack", "pause", "demo"]);
    for name in ["demo-web-1", "demo-db-1"] {
        host.ok(&["network", "disconnect", "demo_front", name]);
    }
    host.ok(&["network", "rm", "demo_front"]);
    host.ok(&["stack", "resume", "demo"]);
    host.wait_until("the network is there again with both", reached);
    assert_eq!(ids(), before, "the containers are the same");
    host.ok(&["exec", "demo-web-1", "touch", "/data/precious"]);
    host.ok(&["stack", "pause", "demo"]);
    host.ok(&["rm", "-f", "demo-web-1"]);
    host.ok(&["volume", "rm", "demo_data"]);
    host.ok(&["stack", "resume", "demo"]);
    host.wait_until("the container is there again", || runs(&host, "demo-web-1"));
    assert_eq!(host.ok(&["exec", "demo-web-1", "ls", "/data"]), "");
    assert!(host.log().contains("it is made again, and is empty"), "what is lost is said");
    assert_eq!(problem(&host), "");
}

#[test]
fn networks_are_shared_by_stacks_and_made_again_for_what_is_stopped() {
    let Some(host) = Host::with_image("networks_are_shared_by_stacks_and_made_again_for_what_is_stopped") else {
        return;
    };
    let service = format!("{{ image: {IMAGE}, init: true, command: [sleep, '1000'], networks: [shared] }}");
    let own =
        |network: &str| format!("name: demo\nservices: {{ web: {service} }}\nnetworks: {{ shared: {network} }}\n");
    let file = host.write("stack/compose.yaml", own("{}"));
    let guest = host.write(
        "guest/compose.yaml",
        format!("name: guest\nservices: {{ app: {service} }}\nnetworks: {{ shared: {{ name: demo_shared, external: true }} }}\n"),
    );
    host.ok_in(&folder(&file), &["up", "-d"]);
    let id = host.inspect("demo-web-1")["Id"].clone();
    host.ok_in(&folder(&file), &["compose", "stop"]);
    host.ok(&["network", "rm", "demo_shared"]);
    let there = || host.run(&["network", "inspect", "demo_shared"]).code == 0;
    host.wait_until("the network is there again", there);
    host.ok_in(&folder(&file), &["compose", "start"]);
    assert!(runs(&host, "demo-web-1"));
    assert_eq!(host.inspect("demo-web-1")["Id"], id);

    host.ok_in(&folder(&guest), &["up", "-d"]);
    let reached = || host.run(&["exec", "guest-app-1", "ping", "-c1", "-W1", "web"]).code == 0;
    assert!(reached());
    let told = {
        host.write("stack/compose.yaml", own("{ internal: true }"));
        host.run_in(&folder(&file), &["up", "-d"])
    };
    assert!(told.code == 0 && told.err.contains("containers of others are in it (guest-app-1)"), "{}", told.err);
    assert!(reached(), "nothing of the stack was taken down for a network that cannot be made anew");
    host.ok_in(&folder(&guest), &["down"]);
    host.wait_until("it is made anew when they have left", || {
        // For a moment there is none.
        let found = host.run(&["network", "inspect", "--format", "{{.Internal}}", "demo_shared"]);
        found.out.trim() == "true" && runs(&host, "demo-web-1")
    });
    host.ok_in(&folder(&guest), &["up", "-d"]);
    let down = host.run_in(&folder(&file), &["down"]);
    assert!(down.code == 0 && down.err.contains("still in use"), "{}{}", down.out, down.err);
    assert!(runs(&host, "guest-app-1"));
    host.ok_in(&folder(&guest), &["down"]);
    host.ok(&["network", "rm", "demo_shared"]);
}

#[test]
fn what_waits_for_another_keeps_nothing_else_from_being_mended() {
    let Some(host) = Host::with_image("what_waits_for_another_keeps_nothing_else_from_being_mended") else { return };
    let stack = |more: &str| {
        format!("name: demo\nservices:\n  web: {{ image: {IMAGE}, init: true, command: [sleep, '1000'] }}\n{more}")
    };
    let gated = format!(
        "  db: {{ image: {IMAGE}, init: true, command: [sleep, '1000'], healthcheck: {{ test: 'test -e /ready', interval: 100ms, retries: 100000 }} }}\n  app: {{ image: {IMAGE}, init: true, command: [sleep, '1000'], depends_on: {{ db: {{ condition: service_healthy }} }} }}\n"
    );
    let file = host.write("stack/compose.yaml", stack(""));
    host.ok_in(&folder(&file), &["up", "-d"]);
    host.write("stack/compose.yaml", stack(&gated));
    host.wait_until("the database is waited for", || runs(&host, "demo-db-1"));
    let before = pid(&host, "demo-web-1");
    crash(&host, "demo-web-1");
    host.wait_until("the other one is mended meanwhile", || ![0, before].contains(&pid(&host, "demo-web-1")));
    assert!(!runs(&host, "demo-app-1"));
    host.ok(&["exec", "demo-db-1", "touch", "/ready"]);
    host.wait_until("what waited is started", || runs(&host, "demo-app-1"));
    assert_eq!(problem(&host), "");

    // An `up` that somebody else's question has cut short is completed all the same.
    host.ok_in(&folder(&file), &["down"]);
    let mut up = host.command(&["up", "-d"]).current_dir(folder(&file)).spawn().unwrap();
    host.wait_until("the database is waited for", || runs(&host, "demo-db-1"));
    host.ok_in(&folder(&file), &["up", "-d", "--dry-run"]);
    assert_eq!(up.wait().unwrap().code(), Some(1), "it is told that it was cut short");
    assert!(!runs(&host, "demo-app-1"));
    host.ok(&["exec", "demo-db-1", "touch", "/ready"]);
    host.wait_until("it is completed", || runs(&host, "demo-app-1"));
}

#[test]
fn what_failed_at_an_up_is_tried_again() {
    let Some(host) = Host::with_image("what_failed_at_an_up_is_tried_again") else { return };
    let stack = |more: &str| {
        format!(
            "name: demo\nservices:\n  web: {{ image: {IMAGE}, init: true, command: [sleep, '1000'], ports: ['8090:80'] }}\n{more}"
        )
    };
    let file = host.write("stack/compose.yaml", stack(""));
    let other = host.in_network(|| std::net::TcpListener::bind("0.0.0.0:8090").unwrap());
    let failed = host.run_in(&folder(&file), &["up", "-d"]);
    assert!(failed.code != 0 && failed.err.contains("8090"), "{}{}", failed.out, failed.err);
    assert!(problem(&host).contains("8090"));
    assert!(host.ok(&["ls", "-a"]).contains("something failed"), "it is not the files: {}", host.ok(&["ls", "-a"]));
    // What is wrong with the files is told beside it, and is still wrong when the rest is mended.
    host.write("stack/compose.yaml", stack("  db: { imagee: x }\n"));
    host.wait_until("both are told", || problem(&host).contains("imagee") && problem(&host).contains("8090"));
    drop(other);
    host.wait_until("it is tried again", || runs(&host, "demo-web-1"));
    host.wait_until("what is left is told", || !problem(&host).contains("8090"));
    assert!(problem(&host).contains("imagee") && host.ok(&["ls", "-a"]).contains("files broken"));
    host.write("stack/compose.yaml", stack(""));
    host.wait_until("nothing is wrong", || problem(&host).is_empty());
}

#[test]
fn what_was_changed_by_hand_comes_back() {
    let Some(host) = Host::with_image("what_was_changed_by_hand_comes_back") else { return };
    let file = host.write(
        "stack/compose.yaml",
        format!(
            "name: demo\nservices:\n  web: {{ image: {IMAGE}, init: true, command: [sleep, '1000'], mem_limit: 32m }}\n"
        ),
    );
    host.ok_in(&folder(&file), &["up", "-d"]);
    let before = host.inspect("demo-web-1");
    host.ok(&[
        "update",
        "--memory",
        "64m",
        "--memory-swap",
        "128m",
        "--pids-limit",
        "50",
        "--restart",
        "always",
        "demo-web-1",
    ]);
    host.wait_until("the limits are the file's", || {
        let host_config = host.inspect("demo-web-1")["HostConfig"].clone();
        host_config["Memory"] == 32 << 20
            && host_config["PidsLimit"].as_i64().unwrap_or(0) == 0
            && host_config["RestartPolicy"]["Name"] != "always"
    });
    host.ok(&["rename", "demo-web-1", "mine"]);
    host.wait_until("it has its name again", || host.api("GET", "/containers/demo-web-1/json", None).0 == 200);
    let after = host.inspect("demo-web-1");
    assert_eq!((&after["Id"], &after["State"]["Pid"]), (&before["Id"], &before["State"]["Pid"]));
    host.ok(&["pause", "demo-web-1"]);
    host.ok(&["update", "--cpu-shares", "512", "demo-web-1"]);
    host.wait_until("that, too", || host.inspect("demo-web-1")["HostConfig"]["CpuShares"].as_i64().unwrap_or(0) == 0);
    assert_eq!(host.inspect("demo-web-1")["State"]["Paused"], true, "what was paused by hand stays so");
    host.ok(&["unpause", "demo-web-1"]);
}

#[test]
fn what_is_bound_to_a_service_follows_its_crash_restart_and_update() {
    let Some(host) = Host::with_image("what_is_bound_to_a_service_follows_its_crash_restart_and_update") else {
        return;
    };
    let stack = |version: &str| {
        format!(
            "name: demo
services:
  vpn:
    image: {IMAGE}
    init: true
    command: [httpd, -f, -p, '80', -h, /etc]
    environment: {{ V: '{version}' }}
    restart: always
    ipc: shareable
  app: {{ image: {IMAGE}, init: true, command: [sleep, '1000'], network_mode: 'service:vpn', ipc: 'service:vpn' }}
  probe: {{ image: {IMAGE}, command: [sleep, '1000'], pid: 'service:vpn' }}
  web:
    image: {IMAGE}
    init: true
    command: [sleep, '1000']
    depends_on: {{ vpn: {{ condition: service_started, restart: true }} }}
  still: {{ image: {IMAGE}, init: true, command: [sleep, '1000'], depends_on: [vpn] }}
"
        )
    };
    let file = host.write("stack/compose.yaml", stack("1"));
    host.ok_in(&folder(&file), &["up", "-d"]);
    let namespace =
        |container: &str, kind: &str| std::fs::read_link(format!("/proc/{}/ns/{kind}", pid(&host, container))).ok();
    let started = |name: &str| host.inspect(name)["State"]["StartedAt"].as_str().unwrap_or_default().to_owned();
    let is_whole = |before: &str, still: i64| {
        let same = |container: &str, kind: &str| {
            let own = namespace(container, kind);
            own.is_some() && own == namespace("demo-vpn-1", kind)
        };
        let answers = host.run(&["exec", "demo-app-1", "wget", "-q", "-O", "-", "http://127.0.0.1/hostname"]).code == 0;
        let whole = same("demo-app-1", "net") && same("demo-app-1", "ipc") && same("demo-probe-1", "pid") && answers;
        whole
            && started("demo-vpn-1").as_str() > before
            && started("demo-web-1") > started("demo-vpn-1")
            && pid(&host, "demo-still-1") == still
    };
    let still = pid(&host, "demo-still-1");
    host.wait_until("all is up", || is_whole("", still));
    let before = started("demo-vpn-1");
    crash(&host, "demo-vpn-1");
    host.wait_until("the others follow a crash", || is_whole(&before, still));
    let before = started("demo-vpn-1");
    host.ok(&["restart", "-t", "1", "demo-vpn-1"]);
    host.wait_until("the others follow a restart by hand", || is_whole(&before, still));
    let before = started("demo-vpn-1");
    host.ok_in(&folder(&file), &["compose", "restart", "vpn"]);
    assert!(is_whole(&before, still), "they are restarted with it");
    let before = host.inspect("demo-vpn-1")["Id"].clone();
    host.write("stack/compose.yaml", stack("2"));
    host.wait_until("the others follow an update", || {
        host.api("GET", "/containers/demo-vpn-1/json", None).1["Id"] != before && is_whole("", still)
    });
    assert_eq!(problem(&host), "");
}

#[test]
fn hooks_run_around_starts_and_stops() {
    let Some(host) = Host::with_image("hooks_run_around_starts_and_stops") else { return };
    let stack = |version: &str, fails: &str| {
        format!(
            "name: demo
services:
  web:
    image: {IMAGE}
    init: true
    user: web
    command: [sleep, '1000']
    environment: {{ V: '{version}' }}
    volumes: ['./log:/log']
    deploy: {{ update_config: {{ order: start-first }} }}
    post_start:
      - command: ['sh', '-c', 'echo start-$$V-$$A-$$(id -un)-$$(pwd) >> /log/all']
        user: root
        working_dir: /log
        environment: [A=b]
      - {{ command: ['sh', '-c', '{fails}'] }}
    pre_stop:
      - {{ command: ['sh', '-c', 'echo stop-$$V-$$(id -un) >> /log/all'], user: root }}
      - {{ command: ['false'] }}
"
        )
    };
    let file = host.write("stack/compose.yaml", stack("1", "true"));
    let folder = folder(&file);
    std::fs::create_dir(folder.join("log")).unwrap();
    let log = || std::fs::read_to_string(folder.join("log/all")).unwrap_or_default();
    let said = |lines: &[&str]| log().lines().eq(lines.iter().copied());
    host.ok_in(&folder, &["up", "-d"]);
    let mut all = vec!["start-1-b-root-/log"];
    assert!(said(&all), "{}", log());
    host.ok_in(&folder, &["compose", "restart", "web"]);
    all.extend(["stop-1-root", "start-1-b-root-/log"]);
    assert!(said(&all), "{}", log());
    let id = host.inspect("demo-web-1")["Id"].clone();
    host.write("stack/compose.yaml", stack("2", "true"));
    all.extend(["start-2-b-root-/log", "stop-1-root"]);
    host.wait_until("an update runs them, the old ones for the old container", || said(&all));
    host.wait_until("it is through", || host.ok(&["ps", "-aq"]).lines().count() == 1);
    assert_ne!(host.inspect("demo-web-1")["Id"], id);
    host.ok_in(&folder, &["compose", "stop", "web"]);
    all.push("stop-2-root");
    assert!(said(&all), "{}", log());
    host.ok_in(&folder, &["compose", "start", "web"]);
    all.push("start-2-b-root-/log");
    assert!(said(&all), "{}", log());
    host.ok(&["stack", "rollback", "demo"]);
    all.extend(["start-1-b-root-/log", "stop-2-root"]);
    assert!(said(&all), "{}", log());
    host.ok_in(&folder, &["down"]);
    all.push("stop-1-root");
    assert!(said(&all), "a hook that fails does not keep a stack up: {}", log());
    assert_eq!(host.ok(&["ps", "-aq"]), "");
    host.write("stack/compose.yaml", stack("3", "exit 7"));
    let failed = host.run_in(&folder, &["up", "-d"]);
    assert_eq!(failed.code, 1, "{}{}", failed.out, failed.err);
    assert!(format!("{}{}", failed.out, failed.err).contains("web hook exited with status 7"), "{}", failed.err);
    assert!(runs(&host, "demo-web-1"), "as with Compose, the container runs on");
}

#[test]
fn init_containers_run_once_before_a_service_and_gate_its_start() {
    let Some(host) = Host::with_image("init_containers_run_once_before_a_service_and_gate_its_start") else { return };
    let stack = |version: &str, replicas: u32, last: &str| {
        format!(
            "name: demo
services:
  web:
    image: {IMAGE}
    init: true
    scale: {replicas}
    command: ['sh', '-c', 'test -e /own/seeded || test -e /data/seeded && exec sleep 1000']
    environment: {{ V: '{version}' }}
    volumes: ['data:/data', '/own', './log:/log']
    depends_on: [db]
    pre_start:
      - {{ command: ['sh', '-c', 'echo seeding; touch /own/seeded /data/seeded; echo one-$$V-$$A >> /log/all'], environment: [A=b] }}
      - {{ command: ['sh', '-c', 'ping -c 1 -w 5 db > /dev/null || exit 9; echo two >> /log/all; {last}'], user: root }}
  db: {{ image: {IMAGE}, init: true, command: [sleep, '1000'] }}
volumes: {{ data: {{}} }}
"
        )
    };
    let file = host.write("stack/compose.yaml", stack("1", 2, "true"));
    let folder = folder(&file);
    std::fs::create_dir(folder.join("log")).unwrap();
    let log = || std::fs::read_to_string(folder.join("log/all")).unwrap_or_default().replace('\n', " ");
    let names = || {
        let mut names: Vec<String> =
            host.ok(&["ps", "-a", "--format", "{{.Names}}"]).lines().map(str::to_owned).collect();
        names.sort();
        names
    };
    let answer = host.run_in(&folder, &["up", "-d", "--no-watch"]);
    assert_eq!(answer.code, 0, "{}{}", answer.out, answer.err);
    assert!(format!("{}{}", answer.out, answer.err).contains("seeding"), "{}{}", answer.out, answer.err);
    assert_eq!(log(), "one-1-b two ", "before both replicas, once");
    assert_eq!(names(), ["demo-db-1", "demo-web-1", "demo-web-2"]);
    assert!(runs(&host, "demo-web-1") && runs(&host, "demo-web-2"));
    host.ok_in(&folder, &["up", "-d", "--no-watch", "--scale", "web=3"]);
    assert_eq!(log(), "one-1-b two ", "not for one more");
    host.write("stack/compose.yaml", stack("2", 1, "true"));
    host.ok_in(&folder, &["up", "-d", "--no-watch", "--scale", "web=1"]);
    assert_eq!(log(), "one-1-b two one-2-b two ");
    crash(&host, "demo-web-1");
    host.wait_until("it is healed", || runs(&host, "demo-web-1"));
    assert_eq!(log(), "one-1-b two one-2-b two ", "it has been initialised");

    host.write("stack/compose.yaml", stack("3", 1, "echo no luck >&2; exit 7"));
    let failed = host.run_in(&folder, &["up", "-d"]);
    assert_eq!(failed.code, 1, "{}{}", failed.out, failed.err);
    let wanted = "service web is not started, as demo-web-pre_start-1 exited with status 7: no luck";
    assert!(format!("{}{}", failed.out, failed.err).contains(wanted), "{}{}", failed.out, failed.err);
    assert!(host.inspect("demo-web-1")["Config"]["Env"].to_string().contains("V=2"), "what ran before runs on");
    host.wait_until("it can be looked at", || {
        // It is tried again meanwhile, by another container of that name.
        let told = host.run(&["logs", "demo-web-pre_start-1"]);
        format!("{}{}", told.out, told.err).contains("no luck")
    });
    host.write("stack/compose.yaml", stack("4", 1, "true"));
    host.wait_until("the edit mends it", || {
        let found = host.api("GET", "/containers/demo-web-1/json", None).1;
        names() == ["demo-db-1", "demo-web-1"] && found["Config"]["Env"].to_string().contains("V=4")
    });
    assert_eq!(problem(&host), "");
    host.ok_in(&folder, &["down", "-v"]);
    assert_eq!(names(), Vec::<String>::new());
    let left = host.ok(&["volume", "ls", "-q"]);
    assert_eq!(left.lines().count(), 2, "those of replicas that went before, as with Compose: {left}");
}

#[test]
fn a_stack_whose_files_are_gone_comes_back_in_order_after_a_restart() {
    let Some(mut host) = Host::with_image("a_stack_whose_files_are_gone_comes_back_in_order_after_a_restart") else {
        return;
    };
    let healthy = "healthcheck: { test: 'test -e /ready', interval: 50ms, retries: 1000 }";
    let file = host.write(
        "stack/compose.yaml",
        format!(
            "name: demo\nservices:\n  web:\n    image: {IMAGE}\n    init: true\n    command: [sleep, '1000']\n    depends_on: {{ db: {{ condition: service_healthy }} }}\n  db:\n    image: {IMAGE}\n    init: true\n    command: ['sh', '-c', 'rm -f /ready; sleep 0.5; touch /ready; exec sleep 1000']\n    {healthy}\n"
        ),
    );
    host.ok_in(&folder(&file), &["up", "-d", "--wait"]);
    let namespace = host.network_namespace();
    assert_eq!(host.stop_daemon(), Some(0));
    std::fs::remove_dir_all(folder(&file)).unwrap();
    host.spawn_in(namespace);
    host.wait_until("it runs again", || runs(&host, "demo-web-1") && runs(&host, "demo-db-1"));
    let of = |name: &str| host.inspect(name)["State"].clone();
    let healthy_at = of("demo-db-1")["Health"]["Log"][0]["End"].as_str().unwrap().to_owned();
    assert!(of("demo-web-1")["StartedAt"].as_str().unwrap() >= healthy_at.as_str(), "behind the gate");
    assert!(problem(&host).contains("the last project that was applied goes on"), "{}", problem(&host));
    host.ok(&["stack", "rm", "demo"]);
    assert_eq!(host.ok(&["ps", "-aq"]), "");
}

#[test]
fn files_are_followed_through_links_that_are_swapped_and_files_that_come_back() {
    let Some(host) = Host::with_image("files_are_followed_through_links_that_are_swapped_and_files_that_come_back")
    else {
        return;
    };
    let stack = |version: &str| {
        format!(
            "name: demo\nservices:\n  web: {{ image: {IMAGE}, init: true, command: [sleep, '1000'], env_file: more.env, environment: {{ V: '{version}' }} }}\n"
        )
    };
    // As Kubernetes lays out its configuration.
    host.write("stack/..1/compose.yaml", stack("1"));
    let folder = folder(&host.write("stack/..1/more.env", "M=1\n")).parent().unwrap().to_owned();
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, folder.join(name)).unwrap();
    link("..1", "..data");
    link("..data/compose.yaml", "compose.yaml");
    link("..data/more.env", "more.env");
    host.ok_in(&folder, &["up", "-d"]);
    let has = |text: &str| {
        let found = host.api("GET", "/containers/demo-web-1/json", None).1;
        found["Config"]["Env"].to_string().contains(text) && found["State"]["Running"] == true
    };
    assert!(has("V=1") && has("M=1"));
    host.write("stack/..2/compose.yaml", stack("2"));
    host.write("stack/..2/more.env", "M=2\n");
    link("..2", "..data_tmp");
    std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    std::fs::remove_dir_all(folder.join("..1")).unwrap();
    host.wait_until("the swap shows", || has("V=2") && has("M=2"));
    // Twice: what is watched is found again.
    host.write("stack/..3/compose.yaml", stack("3"));
    host.write("stack/..3/more.env", "M=3\n");
    link("..3", "..data_tmp");
    std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    host.wait_until("the next swap shows", || has("V=3") && has("M=3"));
    // A file that is deleted, and comes back otherwise.
    std::fs::remove_file(folder.join("compose.yaml")).unwrap();
    host.wait_until("it is told", || problem(&host).contains("compose.yaml"));
    assert!(has("V=3"), "the last good one goes on");
    host.write("stack/compose.yaml", stack("4"));
    host.wait_until("it is followed again", || has("V=4") && problem(&host).is_empty());
    std::fs::remove_file(folder.join("more.env")).unwrap();
    host.wait_until("that, too, is told", || problem(&host).contains("more.env"));
    host.write("stack/more.env", "M=5\n");
    host.wait_until("and followed", || has("M=5") && problem(&host).is_empty());
    host.write("stack/next", stack("6"));
    std::fs::rename(folder.join("next"), folder.join("compose.yaml")).unwrap();
    host.wait_until("a save by rename shows", || has("V=6"));
    // The whole folder makes way for another one, in which nothing is different at first.
    let next = host.write("next/compose.yaml", stack("6"));
    host.write("next/more.env", "M=5\n");
    std::fs::rename(&folder, host.path("before")).unwrap();
    std::fs::rename(next.parent().unwrap(), &folder).unwrap();
    let number = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&folder).unwrap());
    host.wait_until("the new folder is watched", || {
        let all = std::fs::read_dir(format!("/proc/{}/fdinfo", host.pid())).unwrap().flatten();
        let watches = all.filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
        watches.into_iter().any(|text| text.contains(&format!(" ino:{number:x} ")))
    });
    host.write("stack/compose.yaml", stack("7"));
    host.wait_until("an edit in it shows", || has("V=7"));
}
