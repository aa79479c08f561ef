//! Stacks: up, kept, followed, healed, down.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use sampan_tests::{Host, IMAGE};

const PAGE: &str = "while :; do printf 'HTTP/1.0 200 OK\\r\\n\\r\\nhello' | nc -l -p 80; done";

fn compose(replicas: u32, environment: &str) -> String {
    format!(
        "name: demo\nservices:\n  web:\n    image: {IMAGE}\n    command: [sleep, '1000']\n    init: true\n    environment: {{ A: '{environment}' }}\n    scale: {replicas}\n    depends_on:\n      db: {{ condition: service_healthy }}\n  db:\n    image: {IMAGE}\n    command: [sleep, '1000']\n    init: true\n    volumes: ['data:/data']\n    healthcheck: {{ test: 'true', interval: 5s }}\nvolumes: {{ data: {{}} }}\n"
    )
}

fn running(host: &Host) -> Vec<String> {
    let text = host.ok(&["ps", "--format", "{{.Names}}"]);
    let mut names: Vec<String> = text.lines().map(str::to_owned).collect();
    names.sort();
    names
}

#[test]
fn short_stack_comes_up_in_order_and_goes_without_a_trace() {
    let Some(host) = Host::with_image("short_stack_comes_up_in_order_and_goes_without_a_trace") else { return };
    let file = host.write("stack/compose.yaml", compose(2, "${NO_SUCH_VARIABLE_}x"));
    let folder = file.parent().unwrap();
    let links = host.links();
    let first = host.run_in(folder, &["up", "-d", "--wait"]);
    assert_eq!(first.code, 0, "{}", first.err);
    assert_eq!(first.err.matches("is not set").count(), 1, "told by who reads the files first: {}", first.err);
    assert_eq!(running(&host), ["demo-db-1", "demo-web-1", "demo-web-2"]);
    let started = |name: &str| host.inspect(name)["State"]["StartedAt"].as_str().unwrap().to_owned();
    assert!(started("demo-db-1") < started("demo-web-1"));
    assert_eq!(host.ok(&["exec", "demo-web-1", "sh", "-c", "ping -c1 -W2 db >/dev/null && echo reached"]), "reached");
    let again = host.run_in(folder, &["up", "-d"]);
    assert_eq!(again.code, 0);
    assert_eq!(running(&host).len(), 3);
    host.ok_in(folder, &["down"]);
    assert_eq!(host.ok(&["ps", "-aq"]), "");
    assert_eq!(host.ok(&["network", "ls", "-q"]).lines().count(), 3);
    assert_eq!(host.ok(&["volume", "ls", "-q"]), "demo_data", "data stays");
    // The kernel takes links away with the namespaces that they lead into, in its own time.
    host.wait_until("no link is left", || host.links() == links);
    host.ok_in(folder, &["up", "-d"]);
    host.ok_in(folder, &["down", "-v"]);
    assert_eq!(host.ok(&["volume", "ls", "-q"]), "");
}

#[test]
fn a_saved_file_is_followed_and_only_what_changed_is_touched() {
    let Some(host) = Host::with_image("a_saved_file_is_followed_and_only_what_changed_is_touched") else { return };
    let file = host.write("stack/compose.yaml", compose(1, "x"));
    host.ok_in(file.parent().unwrap(), &["up", "-d"]);
    let id = |name: &str| host.inspect(name)["Id"].clone();
    let (web, db) = (id("demo-web-1"), id("demo-db-1"));
    host.write("stack/compose.yaml", compose(3, "x"));
    host.wait_until("the replicas are there", || running(&host).len() == 4);
    assert_eq!((id("demo-web-1"), id("demo-db-1")), (web.clone(), db.clone()), "what was there runs on");
    host.write("stack/next.yaml", compose(1, "y"));
    std::fs::rename(host.path("stack/next.yaml"), &file).unwrap();
    host.wait_until("the edit shows in the kernel", || {
        running(&host) == ["demo-db-1", "demo-web-1"]
            && host.run(&["exec", "demo-web-1", "sh", "-c", "echo $A"]).out == "y\n"
    });
    assert_ne!(id("demo-web-1"), web);
    assert_eq!(id("demo-db-1"), db);
}

#[test]
fn broken_yaml_keeps_the_last_good_model() {
    let Some(host) = Host::with_image("broken_yaml_keeps_the_last_good_model") else { return };
    let file = host.write("stack/compose.yaml", compose(1, "x"));
    let folder = file.parent().unwrap().to_owned();
    host.ok_in(&folder, &["up", "-d"]);
    let before = host.inspect("demo-web-1")["Id"].clone();
    let problem =
        || host.api("GET", "/sampan/v1/stacks/demo", None).1["problem"].as_str().unwrap_or_default().to_owned();
    for broken in ["services:\n  web:\n    imagee: x\n", "services: [", "", "\t"] {
        std::fs::write(&file, broken).unwrap();
        host.wait_until("the problem is told", || !problem().is_empty());
        assert!(problem().contains("compose.yaml"), "{}", problem());
        assert_eq!(host.inspect("demo-web-1")["Id"], before);
        std::fs::write(&file, compose(1, "x")).unwrap();
        host.wait_until("the problem is gone", || problem().is_empty());
    }
    std::fs::write(&file, "services:\n  web:\n    imagee: x\n").unwrap();
    host.wait_until("the problem is told", || !problem().is_empty());
    for command in [&["ps"][..], &["compose", "ps"], &["stack", "ls"]] {
        let told = host.run_in(&folder, command);
        assert!(told.err.contains("compose.yaml:3:5"), "{command:?}: {}{}", told.out, told.err);
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let (since, until) = ((now - 600).to_string(), (now + 1).to_string());
    let events = host.ok(&["events", "--since", &since, "--until", &until, "--filter", "type=config"]);
    assert!(events.lines().any(|line| line.contains("mended")), "{events}");
    let last = events.lines().last().unwrap_or_default();
    assert!(last.contains("broken demo") && last.contains("compose.yaml:3:5"), "{events}");
    let (code, error) = (host.run_in(&folder, &["up", "-d"]).code, host.run_in(&folder, &["up", "-d"]).err);
    assert_ne!(code, 0);
    assert!(error.contains("imagee") && error.contains("image"), "{error}");
    assert_eq!(running(&host).len(), 2, "what was there still works");
    std::fs::remove_file(&file).unwrap();
    host.wait_until("that it is gone is told", || !problem().contains("imagee"));
    assert_eq!(host.inspect("demo-web-1")["Id"], before);
    assert_eq!(running(&host).len(), 2);
}

#[test]
fn what_died_or_was_removed_is_healed_and_what_was_stopped_is_not() {
    let Some(host) = Host::with_image("what_died_or_was_removed_is_healed_and_what_was_stopped_is_not") else { return };
    let file = host.write("stack/compose.yaml", compose(1, "x"));
    let folder = file.parent().unwrap().to_owned();
    host.ok_in(&folder, &["up", "-d"]);
    host.ok(&["rm", "-f", "demo-web-1"]);
    host.wait_until("a removed container is back", || running(&host) == ["demo-db-1", "demo-web-1"]);
    let pid = host.inspect("demo-db-1")["State"]["Pid"].as_i64().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap()), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    host.wait_until("a killed container runs again", || {
        let state = host.inspect("demo-db-1")["State"].clone();
        state["Running"] == true && state["Pid"].as_i64() != Some(pid)
    });
    host.ok(&["stop", "-t", "0", "demo-web-1"]);
    host.ok(&["rm", "-f", "demo-db-1"]);
    host.wait_until("the stack was looked at again", || running(&host).contains(&"demo-db-1".to_owned()));
    assert_eq!(running(&host), ["demo-db-1"], "stopped by hand stays so");
    host.ok_in(&folder, &["compose", "start"]);
    host.wait_until("a start starts it", || running(&host).len() == 2);
}

#[test]
fn a_stack_survives_its_daemon() {
    let Some(mut host) = Host::with_image("a_stack_survives_its_daemon") else { return };
    let file = host.write(
        "stack/compose.yaml",
        format!("name: demo\nservices:\n  web:\n    image: {IMAGE}\n    command: ['sh', '-c', \"{}\"]\n    ports: ['8090:80']\n", PAGE.replace('\\', "\\\\").replace('"', "\\\"")),
    );
    host.ok_in(file.parent().unwrap(), &["up", "-d"]);
    host.wait_until("the page answers", || host.fetch("127.0.0.1:8090").is_ok());
    let id = host.inspect("demo-web-1")["Id"].clone();
    let namespace = host.network_namespace();
    host.kill_daemon();
    std::fs::write(
        &file,
        std::fs::read_to_string(&file)
            .unwrap()
            .replace("    ports", "    scale: 1\n    environment: { NEW: 'yes' }\n    ports"),
    )
    .unwrap();
    host.spawn_in(namespace);
    host.wait_until("the edit of the meantime is applied", || {
        let (status, found) = host.api("GET", "/containers/demo-web-1/json", None);
        status == 200 && found["Config"]["Env"].to_string().contains("NEW=yes") && found["State"]["Running"] == true
    });
    assert_ne!(host.inspect("demo-web-1")["Id"], id);
    host.wait_until("the page answers", || host.fetch("127.0.0.1:8090").is_ok());
}

#[test]
fn failures_are_named_and_the_others_come_up() {
    let Some(host) = Host::with_image("failures_are_named_and_the_others_come_up") else { return };
    let file = host.write(
        "stack/compose.yaml",
        format!("name: demo\nservices:\n  good: {{ image: {IMAGE}, command: [sleep, '1000'] }}\n  sick:\n    image: {IMAGE}\n    command: [sleep, '1000']\n    healthcheck: {{ test: 'false', interval: 50ms, retries: 1 }}\n  waits:\n    image: {IMAGE}\n    command: [sleep, '1000']\n    depends_on: {{ sick: {{ condition: service_healthy }} }}\n"),
    );
    let answer = host.run_in(file.parent().unwrap(), &["up", "-d"]);
    assert_ne!(answer.code, 0);
    assert!(
        format!("{}{}", answer.out, answer.err).contains("demo-sick-1 is unhealthy"),
        "{}{}",
        answer.out,
        answer.err
    );
    assert_eq!(running(&host), ["demo-good-1", "demo-sick-1"]);
}

#[test]
fn secrets_and_configs_reach_services_and_nothing_else() {
    let Some(host) = Host::with_image("secrets_and_configs_reach_services_and_nothing_else") else { return };
    host.write("stack/word", "from a file");
    let file = host.write(
        "stack/compose.yaml",
        format!("name: demo\nservices:\n  web:\n    image: {IMAGE}\n    command: [sleep, '1000']\n    secrets: [word, variable]\n    configs:\n      - source: inline\n        target: /etc/app.conf\n        mode: 0444\nsecrets:\n  word: {{ file: ./word }}\n  variable: {{ environment: TOKEN }}\nconfigs:\n  inline: {{ content: 'a = b' }}\n"),
    );
    let up =
        host.command(&["up", "-d"]).current_dir(file.parent().unwrap()).env("TOKEN", "hush-hush").output().unwrap();
    assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
    let script = "cat /run/secrets/word /run/secrets/variable /etc/app.conf";
    assert_eq!(host.ok(&["exec", "demo-web-1", "sh", "-c", script]), "from a filehush-hush".to_owned() + "a = b");
    assert!(!host.inspect("demo-web-1").to_string().contains("hush-hush"));
    assert!(!host.log().contains("hush-hush"));
}

#[test]
fn a_dry_run_shows_and_does_nothing() {
    let Some(host) = Host::with_image("a_dry_run_shows_and_does_nothing") else { return };
    let file = host.write("stack/compose.yaml", compose(1, "x"));
    let shown = host.run_in(file.parent().unwrap(), &["up", "-d", "--dry-run"]);
    assert_eq!(shown.code, 0, "{}", shown.err);
    assert!(format!("{}{}", shown.out, shown.err).contains("demo-web-1"), "{}{}", shown.out, shown.err);
    assert_eq!(host.ok(&["ps", "-aq"]), "");
    assert_eq!(host.ok(&["network", "ls", "-q"]).lines().count(), 3);
}

#[test]
fn a_stack_comes_up_again_after_an_orderly_end_whatever_its_programs_said() {
    let Some(mut host) = Host::with_image("a_stack_comes_up_again_after_an_orderly_end_whatever_its_programs_said")
    else {
        return;
    };
    let polite = "trap 'exit 0' TERM; while :; do sleep 0.05; done";
    let file = host.write(
        "stack/compose.yaml",
        format!("name: demo\nservices:\n  polite: {{ image: {IMAGE}, command: ['sh', '-c', \"{polite}\"] }}\n  job: {{ image: {IMAGE}, command: ['true'] }}\n  halted: {{ image: {IMAGE}, init: true, command: [sleep, '1000'] }}\n"),
    );
    host.ok_in(file.parent().unwrap(), &["up", "-d"]);
    host.wait_until("the job is done", || host.inspect("demo-job-1")["State"]["Status"] == "exited");
    host.ok(&["stop", "demo-halted-1"]);
    let namespace = host.network_namespace();
    assert_eq!(host.stop_daemon(), Some(0));
    host.spawn_in(namespace);
    host.wait_until("what ran runs again", || running(&host) == ["demo-polite-1"]);
    host.ok(&["rm", "-f", "demo-polite-1"]);
    host.wait_until("the stack was looked at again", || running(&host).contains(&"demo-polite-1".to_owned()));
    assert_eq!(running(&host), ["demo-polite-1"], "neither the job nor what was stopped by hand");
}

#[test]
fn containers_of_services_that_are_gone_are_told_and_removed_when_asked() {
    let Some(host) = Host::with_image("containers_of_services_that_are_gone_are_told_and_removed_when_asked") else {
        return;
    };
    let file = host.write("stack/compose.yaml", compose(1, "x"));
    let folder = file.parent().unwrap().to_owned();
    host.ok_in(&folder, &["up", "-d", "--no-watch"]);
    let only = format!("name: demo\nservices:\n  db: {{ image: {IMAGE}, command: [sleep, '1000'], init: true }}\n");
    std::fs::write(&file, only).unwrap();
    let told = host.run_in(&folder, &["up", "-d", "--no-watch"]);
    assert!(told.code == 0 && told.err.contains("Found orphan containers ([demo-web-1])"), "{}{}", told.out, told.err);
    assert_eq!(running(&host), ["demo-db-1", "demo-web-1"]);
    let told = host.run_in(&folder, &["up", "-d", "--no-watch", "--remove-orphans"]);
    assert!(told.code == 0 && !told.err.contains("Found orphan"), "{}{}", told.out, told.err);
    assert_eq!(running(&host), ["demo-db-1"]);
}

#[test]
fn anonymous_volumes_stay_with_their_service_until_it_is_taken_down_with_them() {
    let Some(host) = Host::with_image("anonymous_volumes_stay_with_their_service_until_it_is_taken_down_with_them")
    else {
        return;
    };
    let stack = |version: &str| {
        format!(
            "name: demo\nservices:\n  web: {{ image: {IMAGE}, init: true, command: [sleep, '1000'], volumes: ['/data'], environment: {{ V: '{version}' }} }}\n"
        )
    };
    let file = host.write("stack/compose.yaml", stack("1"));
    let folder = file.parent().unwrap().to_owned();
    host.ok_in(&folder, &["up", "-d", "--no-watch"]);
    host.ok(&["exec", "demo-web-1", "touch", "/data/kept"]);
    let (id, kept) = (host.inspect("demo-web-1")["Id"].clone(), || host.ok(&["exec", "demo-web-1", "ls", "/data"]));
    std::fs::write(&file, stack("2")).unwrap();
    host.ok_in(&folder, &["up", "-d", "--no-watch"]);
    assert_ne!(host.inspect("demo-web-1")["Id"], id);
    assert_eq!((kept().as_str(), host.ok(&["volume", "ls", "-q"]).lines().count()), ("kept", 1));
    host.ok_in(&folder, &["up", "-d", "--no-watch", "-V", "--force-recreate"]);
    assert_eq!(kept(), "", "-V renews them");
    host.ok_in(&folder, &["down", "-v"]);
    assert_eq!(host.ok(&["volume", "ls", "-q"]).lines().count(), 1, "the one that was renewed is nobody's");
}
