//! Docker Compose's own binary against the socket: stacks made by either side are seen and managed by the other.
//!
//! `SAMPAN_TEST_COMPOSE` names binaries (`docker-compose` of Compose 2 or later), separated by colons; else the one on the
//! path is taken.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sampan_tests::{Answer, Host, IMAGE};
use serde_json::Value;

/// The clients to try; none after saying why the test is skipped.
fn clients(test: &str) -> Vec<String> {
    let named = std::env::var("SAMPAN_TEST_COMPOSE").unwrap_or_else(|_| "docker-compose".to_owned());
    let works = |client: &&str| {
        let version = Command::new(client).args(["version", "--short"]).output();
        version.is_ok_and(|found| found.status.success() && !found.stdout.starts_with(b"1."))
    };
    let found: Vec<String> = named.split(':').filter(works).map(str::to_owned).collect();
    if found.is_empty() {
        println!("skipped: {test} needs docker-compose 2 or later (on the path, or named by SAMPAN_TEST_COMPOSE)");
    }
    found
}

struct Client<'a> {
    host: &'a Host,
    program: &'a str,
    folder: PathBuf,
}

impl Client<'_> {
    fn run(&self, words: &[&str]) -> Answer {
        let output = Command::new(self.program)
            .args(words)
            .envs(self.host.environment())
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Answer { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
    }

    fn ok(&self, words: &[&str]) -> String {
        let answer = self.run(words);
        assert_eq!(answer.code, 0, "{} {words:?}: {}{}", self.program, answer.out, answer.err);
        answer.out.trim_end().to_owned()
    }
}

fn write(host: &Host, folder: &str) -> PathBuf {
    let file = format!(
        "name: demo
services:
  web:
    image: {IMAGE}
    command: [sh, -c, 'echo page; sleep 1000']
    init: true
    depends_on: {{ db: {{ condition: service_healthy }} }}
  db:
    image: {IMAGE}
    command: [sh, -c, 'echo rows; sleep 1000']
    init: true
    healthcheck: {{ test: 'true', interval: 5s }}
    volumes: ['data:/data']
volumes: {{ data: {{}} }}
"
    );
    host.write(&format!("{folder}/compose.yaml"), file).parent().unwrap().to_owned()
}

fn running(host: &Host) -> Vec<String> {
    let mut names: Vec<String> = host.ok(&["ps", "--format", "{{.Names}}"]).lines().map(str::to_owned).collect();
    names.sort();
    names
}

fn stack(host: &Host) -> Value {
    let stacks: Vec<Value> = serde_json::from_str(&host.ok(&["ls", "-a", "--format", "json"])).unwrap();
    stacks.into_iter().next().unwrap_or_default()
}

/// Whether nothing comes back of what was taken away: the daemon knows no stack that it would mend.
fn stays_gone(host: &Host, folder: &Path) {
    host.wait_until("the stack is forgotten", || host.ok_in(folder, &["ls", "-a", "-q"]).is_empty());
    assert_eq!(host.ok(&["ps", "-aq"]), "");
}

#[test]
fn each_side_manages_the_stacks_of_the_other() {
    let test = "each_side_manages_the_stacks_of_the_other";
    for program in &clients(test) {
        let Some(host) = Host::with_image(test) else { return };
        let folder = write(&host, "stack");
        let client = Client { host: &host, program, folder: folder.clone() };
        let both = ["demo-db-1", "demo-web-1"];

        // Theirs, seen from here.
        client.ok(&["up", "-d"]);
        assert_eq!(stack(&host)["Status"], "running(2)");
        assert_eq!(host.ok_in(&folder, &["compose", "ps", "--services"]), "db\nweb");
        assert_eq!(host.ok_in(&folder, &["logs", "--no-log-prefix", "db"]), "rows");
        assert_eq!(host.ok_in(&folder, &["exec", "web", "echo", "inside"]), "inside");
        host.ok_in(&folder, &["compose", "stop", "-t", "0", "web"]);
        assert_eq!(client.ok(&["ps", "--services"]), "db");
        host.ok_in(&folder, &["compose", "start"]);
        assert_eq!(running(&host), both);
        host.ok_in(&folder, &["down", "-v"]);
        stays_gone(&host, &folder);
        assert_eq!(client.ok(&["ls", "-a", "-q"]), "");
        assert_eq!(host.ok(&["volume", "ls", "-q"]), "");

        // Ours, seen from there.
        host.ok_in(&folder, &["up", "-d"]);
        assert_eq!(client.ok(&["ls", "-q"]), "demo");
        assert_eq!(client.ok(&["ps", "--services"]).lines().count(), 2);
        assert!(client.ok(&["logs"]).contains("rows"));
        assert_eq!(client.ok(&["exec", "-T", "db", "echo", "inside"]), "inside");
        client.ok(&["stop", "-t", "0", "web"]);
        host.ok(&["rm", "-f", "demo-db-1"]);
        host.wait_until("the stack was looked at", || running(&host).contains(&"demo-db-1".to_owned()));
        assert_eq!(running(&host), ["demo-db-1"], "what Compose stopped stays so");
        client.ok(&["start"]);
        host.wait_until("it runs again", || running(&host) == both);
        assert_eq!(client.ok(&["run", "--rm", "-T", "db", "echo", "once"]), "once");
        assert_eq!(stack(&host)["Status"], "running(2)", "a run of Compose's leaves the stack to the daemon");
        client.ok(&["down", "-v"]);
        stays_gone(&host, &folder);
    }
}

#[test]
fn a_stack_that_compose_changes_is_left_to_it_until_it_is_brought_up_here() {
    let test = "a_stack_that_compose_changes_is_left_to_it_until_it_is_brought_up_here";
    for program in &clients(test) {
        let Some(host) = Host::with_image(test) else { return };
        let folder = write(&host, "stack");
        let client = Client { host: &host, program, folder: folder.clone() };
        host.ok_in(&folder, &["up", "-d"]);
        client.ok(&["up", "-d", "--force-recreate"]);
        assert_eq!(stack(&host)["Status"], "running(2), left to docker compose");
        let id = host.inspect("demo-web-1")["Id"].clone();
        client.ok(&["rm", "-s", "-f", "web"]);
        std::thread::sleep(std::time::Duration::from_millis(500));
        assert_eq!(running(&host), ["demo-db-1"], "nobody mends it");
        host.ok_in(&folder, &["up", "-d"]);
        assert_eq!(stack(&host)["Status"], "running(2)");
        assert_ne!(host.inspect("demo-web-1")["Id"], id);
        host.ok(&["rm", "-f", "demo-web-1"]);
        host.wait_until("it is the daemon's again, which mends it", || running(&host).len() == 2);

        // One name, two folders.
        let elsewhere = Client { host: &host, program, folder: write(&host, "elsewhere") };
        let refused = elsewhere.run(&["up", "-d", "--force-recreate"]);
        assert!(
            refused.code != 0 && refused.err.contains("this daemon keeps a stack named demo, from"),
            "{}",
            refused.err
        );
        assert_eq!(stack(&host)["Status"], "running(2)");
        host.ok_in(&folder, &["down", "-v"]);
        elsewhere.ok(&["up", "-d"]);
        let refused = host.run_in(&folder, &["up", "-d"]);
        assert!(refused.err.contains("a stack named demo is up already, from"), "{}", refused.err);
        elsewhere.ok(&["down", "-v"]);
    }
}
