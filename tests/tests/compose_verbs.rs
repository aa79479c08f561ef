//! The verbs of stacks, by their short names and as Compose has them.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::PathBuf;

use sampan_tests::{Host, IMAGE};
use serde_json::Value;

fn file() -> String {
    format!(
        "name: demo
services:
  web:
    image: {IMAGE}
    command: [sh, -c, 'echo page; sleep 1000']
    init: true
    scale: 2
    environment: {{ A: one }}
    ports: ['80']
    depends_on: {{ db: {{ condition: service_healthy }} }}
    volumes: ['data:/data']
  db:
    image: {IMAGE}
    command: [sh, -c, 'echo rows; sleep 1000']
    init: true
    healthcheck: {{ test: 'true', interval: 5s }}
volumes: {{ data: {{}} }}
"
    )
}

/// A host with the stack's file, and the folder in which it lies.
fn prepared(test: &str) -> Option<(Host, PathBuf)> {
    let host = Host::with_image(test)?;
    let folder = host.write("stack/compose.yaml", file()).parent().unwrap().to_owned();
    Some((host, folder))
}

fn states(host: &Host) -> Vec<(String, String)> {
    let text = host.ok(&["ps", "-a", "--format", "{{.Names}} {{.State}}"]);
    let mut all: Vec<_> =
        text.lines().filter_map(|line| line.split_once(' ')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect();
    all.sort();
    all
}

#[test]
fn a_name_that_is_no_container_is_a_service_of_the_project_here() {
    let Some((host, folder)) = prepared("a_name_that_is_no_container_is_a_service_of_the_project_here") else { return };
    let up = host.run_in(&folder, &["up", "-d"]);
    assert_eq!(up.code, 0, "{}", up.err);
    assert!(up.out.is_empty(), "{}", up.out);
    assert!(
        up.err.contains(" Container demo-db-1  Healthy") && up.err.contains(" Network demo_default  Created"),
        "{}",
        up.err
    );
    let told: Vec<Vec<&str>> = up.err.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(told.contains(&vec!["db", "healthy"]), "{}", up.err);
    assert!(told.iter().any(|line| line.starts_with(&["web", "2", "running"]) && line.len() == 5), "{}", up.err);

    let here = |words: &[&str]| host.ok_in(&folder, words);
    assert_eq!(here(&["exec", "web", "sh", "-c", "echo $A"]), "one");
    assert_eq!(here(&["exec", "web-2", "hostname"]).len(), 12, "a container's name without the project's");
    assert_eq!(here(&["logs", "demo-db-1"]), "rows", "a container's whole name: as docker has it");
    let logs = here(&["logs", "web", "db"]);
    for line in ["web-1  | page", "web-2  | page", "db-1   | rows"] {
        assert!(logs.lines().any(|known| known.trim_end() == line), "{line:?} in {logs}");
    }
    assert_eq!(here(&["logs", "--no-log-prefix", "db"]), "rows");
    assert!(here(&["top", "web"]).lines().next().unwrap().starts_with("SERVICE"));
    assert!(here(&["top"]).contains("db"));
    assert!(here(&["port", "web"]).contains("80/tcp -> 0.0.0.0:"));
    assert!(here(&["port"]).contains("demo-web-2 80/tcp -> "));
    assert_eq!(serde_json::from_str::<Value>(&here(&["inspect", "web"])).unwrap().as_array().unwrap().len(), 2);
    assert_eq!(serde_json::from_str::<Value>(&here(&["inspect"])).unwrap()[0]["name"], "demo");
    assert!(here(&["stats", "--no-stream", "db"]).contains("demo-db-1"));
    host.write("stack/note", "text");
    here(&["cp", "note", "db:/tmp/note"]);
    here(&["cp", "db:/tmp/note", "back"]);
    assert_eq!(std::fs::read_to_string(folder.join("back")).unwrap(), "text");
    assert!(here(&["diff", "db"]).contains("A /tmp/note"));
    assert!(here(&["diff"]).starts_with("Nothing to do"));
    here(&["commit", "db", "kept:1"]);
    here(&["export", "-o", "root.tar", "db"]);
    assert!(folder.join("root.tar").exists());

    let file = folder.join("compose.yaml").display().to_string();
    assert_eq!(host.ok(&["-f", &file, "compose", "ps", "--services"]), "db\nweb");
    assert_eq!(host.ok(&["-p", "demo", "exec", "web", "echo", "inside"]), "inside", "a project by its name");

    here(&["pause", "db"]);
    assert!(states(&host).contains(&("demo-db-1".into(), "paused".into())));
    here(&["unpause"]);
    here(&["stop", "-t", "0", "web"]);
    assert_eq!(states(&host).iter().filter(|(_, state)| state == "exited").count(), 2);
    assert_eq!(here(&["rm", "web"]), "Going to remove demo-web-1, demo-web-2");
    assert!(host.run_in(&folder, &["rm", "web"]).err.starts_with("No stopped containers"));
    assert_eq!(states(&host), [("demo-db-1".to_owned(), "running".to_owned())], "as their stack is asked, not by hand");
    here(&["start"]);
    host.wait_until("what was stopped is there", || states(&host).len() == 3);
    here(&["restart", "db", "-t", "0"]);
    here(&["compose", "run", "-d", "--name", "once", "db", "sleep", "1234"]);
    assert!(here(&["compose", "top", "db"]).contains("sleep 1234"), "what was run is looked at, too");
    here(&["kill"]);
    host.wait_until("none runs, nor what was run", || states(&host).iter().all(|(_, state)| state == "exited"));
    assert_eq!(states(&host).len(), 4);
    assert_eq!(host.run_in(&folder, &["kill"]).err.trim_end(), "no container to kill");

    // Where nothing is meant by the folder, all is docker's.
    for words in [&["stop", "web"][..], &["container", "stop", "web"]] {
        let answer = if words.len() == 2 { host.run(words) } else { host.run_in(&folder, words) };
        assert_eq!((answer.code, answer.err.trim_end()), (1, "Error response from daemon: No such container: web"));
    }
    assert!(host.fails(&["stop"]).1.contains("'sampan stop' requires at least 1 argument, or a compose file"));
    let unknown = host.run_in(&folder, &["logs", "wbe"]);
    assert_eq!(
        unknown.err.trim_end(),
        "no such container: wbe; no such service: wbe (project demo has db, web); did you mean \"web\"?"
    );
    let none = host.run(&["up", "-d"]);
    assert!(none.err.contains("there is no compose file in") && none.code != 0, "{}", none.err);
    host.ok_in(&folder, &["down", "-v"]);
}

#[test]
fn compose_verbs_take_composes_options() {
    let Some((host, folder)) = prepared("compose_verbs_take_composes_options") else { return };
    let compose = |words: &[&str]| host.ok_in(&folder, &[&["compose"], words].concat());
    compose(&["--progress", "quiet", "up", "-d"]);
    assert_eq!(compose(&["exec", "--index", "2", "-T", "web", "hostname"]).len(), 12);
    assert_eq!(compose(&["ps", "--services"]), "db\nweb");
    assert_eq!(compose(&["ps", "--filter", "status=running", "-q"]).lines().count(), 3);
    assert_eq!(compose(&["ps", "--format", "{{.Service}} {{.Health}}", "db"]), "db healthy");
    let json: Value =
        serde_json::from_str(compose(&["ps", "--format", "json", "web"]).lines().next().unwrap()).unwrap();
    assert_eq!((json["Service"].as_str(), json["Project"].as_str()), (Some("web"), Some("demo")));
    assert_eq!(host.run_in(&folder, &["compose", "ps", "nope"]).code, 1);
    let events = compose(&["events", "--json", "--since", "10m", "--until", "0s", "db"]);
    let first: Value = serde_json::from_str(events.lines().next().unwrap()).unwrap();
    assert_eq!((&first["service"], &first["type"]), (&"db".into(), &"container".into()));
    host.write("stack/note", "text");
    compose(&["cp", "note", "web:/tmp/note"]);
    for index in ["1", "2"] {
        assert_eq!(compose(&["exec", "-T", "--index", index, "web", "cat", "/tmp/note"]), "text", "every replica");
    }
    compose(&["cp", "--index", "2", "web:/tmp/note", "back"]);
    compose(&["export", "-o", "db.tar", "db"]);
    compose(&["commit", "--index", "1", "web", "kept:2"]);
    assert!(compose(&["images", "--format", "json"]).contains("busybox"));
    assert_eq!(compose(&["volumes", "-q", "web"]), "demo_data");
    assert_eq!(compose(&["volumes", "-q", "db"]), "");
    assert_eq!(compose(&["port", "web", "80"]).lines().count(), 1);
    for dry in [
        &["stop", "--dry-run"][..],
        &["down", "--dry-run"],
        &["--dry-run", "kill", "web"],
        &["up", "--dry-run", "--force-recreate"],
    ] {
        let told = compose(dry);
        assert!(told.contains("demo-web-1"), "{dry:?}: {told}");
    }
    assert!(host.run_in(&folder, &["--dry-run", "stop", "demo-web-1"]).err.contains("--dry-run is not for"));
    assert!(states(&host).iter().all(|(_, state)| state == "running"));
    let told = compose(&["--compatibility", "up", "--dry-run"]);
    assert!(told.contains("rename container demo-web-1 to demo_web_1"), "{told}");
    assert!(host.run_in(&folder, &["compose", "bridge", "x"]).err.contains("not supported"));

    // `wait` ends as the container ended.
    let waiting = host
        .command(&["compose", "wait", "db"])
        .current_dir(&folder)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    compose(&["stop", "-t", "0", "db"]);
    let ended = waiting.wait_with_output().unwrap();
    let code = host.inspect("demo-db-1")["State"]["ExitCode"].as_i64().unwrap();
    assert_eq!(i64::from(ended.status.code().unwrap()), code);
    assert_eq!(
        String::from_utf8_lossy(&ended.stdout).trim_end(),
        format!("container {} exited with status code {code}", host.inspect("demo-db-1")["Id"])
    );
    compose(&["start", "--wait"]);
    let ls = |words: &[&str]| host.ok(&[&["ls"], words].concat());
    assert!(ls(&["--format", "json"]).contains("\"Name\":\"demo\""));
    compose(&["stop", "-t", "0"]);
    assert_eq!(ls(&["-q"]), "", "nothing of it runs");
    assert_eq!(ls(&["-a", "-q", "--filter", "name=de"]), "demo");
    compose(&["down", "-v"]);
}

#[test]
fn a_one_off_run_needs_no_stack_and_makes_none() {
    let Some((host, folder)) = prepared("a_one_off_run_needs_no_stack_and_makes_none") else { return };
    let run = |words: &[&str]| host.run_in(&folder, &[&["compose", "run", "--rm", "-T"], words].concat());
    let answer = run(&[
        "--no-deps",
        "-e",
        "B=two",
        "-v",
        "/etc:/host:ro",
        "web",
        "sh",
        "-c",
        "echo $A $B; ls /host | wc -l; exit 4",
    ]);
    assert_eq!(answer.code, 4, "{}{}", answer.out, answer.err);
    assert!(answer.out.starts_with("one two\n"), "{}", answer.out);
    assert_eq!(host.ok(&["ps", "-aq"]), "", "no container of the service was made");
    assert_eq!(host.ok(&["stack", "ls", "-q"]), "", "the stack is not the daemon's by this");
    let answer = run(&["--entrypoint", "sh -c 'cat'", "--name", "mine", "--no-deps", "-u", "1:1", "-w", "/tmp", "web"]);
    assert_eq!(answer.code, 0, "{}", answer.err);
    // What it needs comes up, and as far as it needs it.
    let answer = run(&["--quiet", "--use-aliases", "--service-ports", "web", "ping", "-c1", "-W2", "db"]);
    assert_eq!(answer.code, 0, "{}{}", answer.out, answer.err);
    assert_eq!(states(&host), [("demo-db-1".to_owned(), "running".to_owned())]);
    for (words, part) in
        [(&["web", "not-there"][..], "executable file not found"), (&["--pull", "often", "web"], "--pull")]
    {
        let answer = run(&[&["--no-deps"], words].concat());
        assert!(answer.code == 1 && answer.err.contains(part), "{} {}", answer.code, answer.err);
    }
    let unknown = run(&["wbe"]);
    assert!(unknown.err.contains("did you mean \"web\"?"), "{}", unknown.err);
    assert!(run(&["--no-deps", "--cap-drop", "ALL", "web", "chown", "1", "/tmp"]).code != 0);
    host.ok_in(&folder, &["down", "-v"]);
    assert_eq!(host.ok(&["ps", "-aq"]), "");
}

#[test]
fn a_service_is_there_when_it_is_named_and_away_when_it_was_removed() {
    let test = "a_service_is_there_when_it_is_named_and_away_when_it_was_removed";
    let Some(host) = Host::with_image(test) else { return };
    let yaml = |label: &str| {
        let service = format!("image: {IMAGE}, init: true, command: [sleep, '1000'], labels: {{ l: '{label}' }}");
        format!(
            "name: demo
services:
  db: {{ {service} }}
  web: {{ {service}, scale: 1 }}
  tool: {{ {service}, profiles: [tools], depends_on: [helper] }}
  helper: {{ {service}, profiles: [others] }}
  never: {{ {service}, profiles: [tools] }}
"
        )
    };
    let folder = host.write("stack/compose.yaml", yaml("1")).parent().unwrap().to_owned();
    let here = |words: &[&str]| host.ok_in(&folder, words);
    let services = || here(&["compose", "ps", "--services"]).lines().map(str::to_owned).collect::<Vec<_>>();
    here(&["up", "-d"]);
    assert_eq!(services(), ["db", "web"]);

    // No profile enables it; its name does, from then on.
    here(&["up", "-d", "tool"]);
    assert_eq!(services(), ["db", "helper", "tool", "web"]);
    host.write("stack/compose.yaml", yaml("2"));
    let label = || host.inspect("demo-tool-1")["Config"]["Labels"]["l"].clone();
    host.wait_until("the edit reaches it", || {
        host.run(&["inspect", "demo-tool-1"]).code == 0 && label() == "2" && services().len() == 4
    });
    here(&["up", "-d"]);
    assert_eq!(services(), ["db", "helper", "tool", "web"], "an `up` of the others leaves it");

    // What is taken away as a service is not mended: when another container is, it has been looked at.
    here(&["compose", "rm", "-s", "-f", "tool"]);
    here(&["down", "-t", "0", "web"]);
    host.ok(&["rm", "-f", "demo-db-1"]);
    host.wait_until("the stack was looked at", || services().contains(&"db".to_owned()));
    assert_eq!(host.ok(&["ps", "-a", "--format", "{{.Names}}"]).lines().count(), 2, "{}", host.log());
    here(&["up", "-d"]);
    assert_eq!(services(), ["db", "helper", "web"], "a service of the file comes back, a named one when it is named");

    // Volumes are renewed by making all anew.
    let id = || host.inspect("demo-web-1")["Id"].clone();
    let before = id();
    here(&["up", "-d", "-V"]);
    assert_ne!(id(), before);
    assert_eq!(host.run_in(&folder, &["compose", "logs", "--index", "9", "web"]).code, 1);
    assert!(here(&["compose", "rm", "-s", "-f", "--dry-run"]).contains("remove container demo-web-1"));

    // A number holds until the service is brought up without one.
    here(&["scale", "web=3"]);
    here(&["up", "-d", "db"]);
    let count = || host.ok(&["ps", "-q", "--filter", "label=com.docker.compose.service=web"]).lines().count();
    assert_eq!(count(), 3);
    here(&["up", "-d"]);
    assert_eq!(count(), 1);
    here(&["down", "-t", "0"]);
}

#[test]
fn a_stack_that_the_daemon_does_not_keep_obeys_all_the_same() {
    let test = "a_stack_that_the_daemon_does_not_keep_obeys_all_the_same";
    let Some((host, folder)) = prepared(test) else { return };
    // As Compose leaves it.
    for (service, needs) in [("db", ""), ("web", "db:service_started:false")] {
        let name = format!("demo-{service}-1");
        let labels = [
            format!("com.docker.compose.project=demo,com.docker.compose.service={service}"),
            "com.docker.compose.oneoff=False,com.docker.compose.container-number=1".to_owned(),
            format!("com.docker.compose.depends_on={needs}"),
        ];
        let labels: Vec<&str> = labels.iter().flat_map(|all| all.split(',')).collect();
        let mut words = vec!["run", "-d", "--init", "--name", name.as_str()];
        labels.iter().for_each(|label| words.extend(["--label", *label]));
        words.extend([IMAGE, "sleep", "1000"]);
        host.ok(&words);
    }
    let here = |words: &[&str]| host.ok_in(&folder, &[&["compose"], words].concat());
    let state = |service: &str| {
        let all = states(&host);
        let found = all.iter().find(|(name, _)| *name == format!("demo-{service}-1"));
        found.map_or("none", |(_, state)| state.as_str()).to_owned()
    };
    let both = || (state("db"), state("web"));
    let is = |db: &str, web: &str| assert_eq!(both(), (db.to_owned(), web.to_owned()));
    here(&["stop", "-t", "0", "web"]);
    is("running", "exited");
    here(&["start"]);
    is("running", "running");
    here(&["pause", "db"]);
    is("paused", "running");
    here(&["unpause"]);
    here(&["restart", "-t", "0"]);
    is("running", "running");
    here(&["kill", "web"]);
    host.wait_until("it is dead", || state("web") == "exited");
    here(&["rm", "-f"]);
    is("running", "none");
    here(&["rm", "-s", "-f"]);
    is("none", "none");

    // With nothing there: as Compose, only a start is a failure.
    for words in
        [&["stop"][..], &["kill"], &["restart"], &["pause"], &["unpause"], &["rm", "-f"], &["stats", "--no-stream"]]
    {
        assert_eq!(here(words), "", "{words:?}");
    }
    let start = host.run_in(&folder, &["compose", "start"]);
    assert!(start.code == 1 && start.err.contains("bring it up first"), "{}", start.err);
    let typo = host.run_in(&folder, &["compose", "stop", "--nothere"]);
    assert!(typo.code == 1 && typo.err.starts_with("unknown flag: --nothere"), "{} {}", typo.code, typo.err);
}

#[test]
fn waiting_understands_jobs() {
    let Some(host) = Host::with_image("waiting_understands_jobs") else { return };
    let stack = |job: &str| {
        format!(
            "name: demo
services:
  web: {{ image: {IMAGE}, command: [sleep, '1000'], init: true, depends_on: {{ job: {{ condition: service_completed_successfully }} }} }}
  job: {{ image: {IMAGE}, command: [sh, -c, '{job}'] }}
  once: {{ image: {IMAGE}, command: ['true'] }}
  other: {{ image: {IMAGE}, command: [sleep, '1000'], init: true }}
"
        )
    };
    let folder = host.write("stack/compose.yaml", stack("sleep 0.3")).parent().unwrap().to_owned();
    let up = host.run_in(&folder, &["up", "--wait", "web", "once"]);
    assert_eq!(up.code, 0, "{}", up.err);
    assert!(up.err.contains("Container demo-job-1  Exited"), "{}", up.err);
    assert_eq!(host.inspect("demo-job-1")["State"]["ExitCode"], 0);
    assert_eq!(states(&host).len(), 3, "what was not named is not waited for");
    host.ok_in(&folder, &["down"]);
    host.write("stack/compose.yaml", stack("exit 3"));
    let up = host.run_in(&folder, &["up", "--wait"]);
    assert_eq!(up.code, 1, "{}", up.err);
    assert!(up.err.contains("demo-job-1 exited (3)"), "{}", up.err);
    host.ok_in(&folder, &["down"]);
    let up = host.run_in(&folder, &["up", "-d", "--progress", "json", "other"]);
    let events: Vec<Value> = up.err.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(events.iter().any(|event| {
        (&event["id"], &event["status"], &event["text"])
            == (&"Container demo-other-1".into(), &"Done".into(), &"Started".into())
    }));
    host.ok_in(&folder, &["down"]);
}

#[test]
fn an_attached_up_ends_as_it_was_asked_to() {
    let Some(host) = Host::with_image("an_attached_up_ends_as_it_was_asked_to") else { return };
    let stack = format!(
        "name: demo
services:
  test: {{ image: {IMAGE}, command: [sh, -c, 'echo testing; sleep 0.3; exit 7'], depends_on: [db] }}
  db: {{ image: {IMAGE}, command: [sh, -c, 'echo rows; sleep 1000'], init: true }}
"
    );
    let folder = host.write("stack/compose.yaml", stack).parent().unwrap().to_owned();
    let up = |words: &[&str]| host.run_in(&folder, &[&["up", "--progress", "quiet", "-t", "0"], words].concat());
    let answer = up(&["--exit-code-from", "test", "--attach", "test"]);
    assert_eq!(answer.code, 7, "{}{}", answer.out, answer.err);
    assert_eq!(answer.out, "test-1  | testing\ntest-1 exited with code 7\n");
    let answer = up(&["--abort-on-container-failure", "--attach-dependencies", "--no-log-prefix", "test"]);
    assert_eq!(answer.code, 7, "{}{}", answer.out, answer.err);
    assert!(answer.out.lines().any(|line| line == "rows"), "{}", answer.out);
    host.wait_until("all is stopped", || states(&host).iter().all(|(_, state)| state == "exited"));
    for (words, message) in [
        (&["--attach", "tset"][..], "did you mean \"test\"?"),
        (&["--attach", "test", "--attach-dependencies"], "--attach-dependencies and --attach are incompatible"),
        (&["--watch", "-d"], "--watch and --detach or --wait are incompatible"),
    ] {
        let answer = up(words);
        assert!(answer.code != 0 && answer.err.contains(message), "{words:?}: {}", answer.err);
    }
    host.ok_in(&folder, &["down"]);
}
