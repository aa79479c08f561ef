//! Random edits of a random stack, with what may go wrong in between: it always comes to what the last valid files say.
//!
//! `SAMPAN_SEED` and `SAMPAN_ROUNDS` choose another walk, and a longer one.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sampan_tests::{Host, IMAGE};

/// Numbers that follow from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// What the files say: all of it, and which containers there are to be by them.
#[derive(Debug, Default)]
struct Wanted {
    compose: String,
    variables: String,
    secret: String,
    config: String,
    /// State, name, version, and what the files beside give it; sorted.
    containers: Vec<String>,
    /// Those that carry the secret and the config.
    with_files: Vec<String>,
}

/// A service is a program that runs, or a job that ends.
struct Service {
    scale: u64,
    active: bool,
    job: bool,
    checked: bool,
}

fn roll(dice: &mut Dice) -> Wanted {
    let mut wanted = Wanted {
        compose: "name: demo\nservices:\n".to_owned(),
        variables: format!("E={}\n", dice.below(3)),
        secret: format!("secret {}", dice.below(3)),
        config: format!("config {}", dice.below(3)),
        ..Wanted::default()
    };
    let mut services: Vec<Service> = Vec::new();
    for number in 0..1 + dice.below(4) {
        let version = dice.below(3);
        let service = Service {
            scale: dice.below(3),
            active: !dice.one_in(6),
            job: number > 0 && dice.one_in(5),
            checked: dice.one_in(3),
        };
        let text = &mut wanted.compose;
        let run = if service.job { "['true']" } else { "[sleep, '1000']" };
        *text += &format!(
            "  s{number}:\n    image: {IMAGE}\n    init: true\n    command: {run}\n    scale: {}\n    labels: {{ l: '{}' }}\n    mem_limit: {}m\n    environment: {{ V: '{version}' }}\n",
            service.scale,
            dice.below(2),
            32 + dice.below(2) * 16
        );
        if !service.active {
            *text += "    profiles: [other]\n";
        }
        if service.checked {
            *text += &format!("    healthcheck: {{ test: 'true', interval: {}s }}\n", 1 + dice.below(2));
        }
        match dice.below(3) {
            0 if !service.job => *text += "    deploy: { update_config: { order: start-first } }\n",
            1 => *text += "    networks: [back, default]\n",
            _ => {}
        }
        match dice.below(6) {
            0 if !service.job => *text += &format!("    ports: ['81{number}{}:80']\n", dice.below(2)),
            1 => *text += &format!("    logging: {{ options: {{ max-size: {}m }} }}\n", 1 + dice.below(3)),
            2 if !service.job => *text += &format!("    post_start: [{{ command: ['true', '{}'] }}]\n", dice.below(2)),
            3 => *text += "    volumes: ['data:/data']\n",
            4 if !service.job => {
                *text += &format!("    pre_start: [{{ command: ['true', '{}'] }}]\n", dice.below(2));
            }
            _ => {}
        }
        let variables = dice.one_in(3);
        if variables {
            *text += "    env_file: vars.env\n";
        }
        let files = !service.job && dice.one_in(3);
        if files {
            *text += "    secrets: [word]\n    configs: [{ source: app, target: /app.conf }]\n";
        }
        let mut needs = Vec::new();
        for (peer, found) in services.iter().enumerate().filter(|(_, found)| found.active && found.scale > 0) {
            let condition = match (found.job, found.checked) {
                _ if !dice.one_in(3) => continue,
                (true, _) => "service_completed_successfully",
                (false, true) => "service_healthy",
                (false, false) => "service_started",
            };
            needs.push(format!("s{peer}: {{ condition: {condition}, restart: {} }}", dice.one_in(2)));
        }
        if !needs.is_empty() {
            *text += &format!("    depends_on: {{ {} }}\n", needs.join(", "));
        }
        for replica in 1..=if service.active { service.scale } else { 0 } {
            let name = format!("demo-s{number}-{replica}");
            let state = if service.job { "exited" } else { "running" };
            let given = if variables { wanted.variables.trim_start_matches("E=").trim() } else { "-" };
            wanted.containers.push(format!("{state} {name} {version} {given}"));
            if files {
                wanted.with_files.push(name);
            }
        }
        services.push(service);
    }
    wanted.compose += &format!(
        "networks: {{ back: {{ internal: {} }} }}\nvolumes: {{ data: {{}} }}\nsecrets: {{ word: {{ file: word.secret }} }}\nconfigs: {{ app: {{ file: app.conf }} }}\n",
        dice.one_in(3)
    );
    wanted.containers.sort();
    wanted
}

impl Wanted {
    /// Saves the files, in any order: what is seen in between is not the last word.
    fn save(&self, folder: &Path, dice: &mut Dice) {
        let mut files = vec![
            ("compose.yaml", &self.compose),
            ("vars.env", &self.variables),
            ("word.secret", &self.secret),
            ("app.conf", &self.config),
        ];
        while !files.is_empty() {
            let (name, text) = files.swap_remove(usize::try_from(dice.below(files.len() as u64)).unwrap());
            let path = folder.join(name);
            if path.is_dir() {
                std::fs::remove_dir(&path).unwrap();
            }
            if dice.one_in(2) {
                // As editors do.
                let aside = folder.join(format!("{name}~"));
                std::fs::write(&aside, text).unwrap();
                std::fs::rename(aside, path).unwrap();
            } else {
                std::fs::write(path, text).unwrap();
            }
        }
    }
}

/// Something that is broken for a while.
fn break_something(folder: &Path, dice: &mut Dice) {
    let compose = folder.join("compose.yaml");
    match dice.below(6) {
        0 => std::fs::write(&compose, "services: [").unwrap(),
        1 => std::fs::write(&compose, "").unwrap(),
        2 => std::fs::write(&compose, "services: { s0: { imagee: x } }").unwrap(),
        3 => drop(std::fs::remove_file(&compose)),
        4 => drop(std::fs::remove_file(folder.join("vars.env"))),
        _ => {
            let _ = std::fs::remove_file(&compose);
            std::fs::create_dir(&compose).unwrap();
        }
    }
}

/// Something that happens to containers, to a network, or to the daemon.
fn meddle(host: &mut Host, dice: &mut Dice) {
    let one = format!("demo-s{}-1", dice.below(2));
    let pid = |host: &Host| {
        let found = host.api("GET", &format!("/containers/{one}/json"), None).1["State"]["Pid"].as_i64();
        i32::try_from(found.unwrap_or(0)).unwrap()
    };
    match dice.below(11) {
        0 => host.crash_and_restart(),
        1 => drop(host.run(&["rm", "-f", "demo-s0-1"])),
        2 | 3 => {
            let pid = pid(host);
            if pid > 1 {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        4 => drop(host.run(&["update", "--memory", "80m", "--memory-swap", "160m", &one])),
        5 => drop(host.run(&["network", "disconnect", "-f", "demo_default", &one])),
        6 => drop(host.run(&["rename", "demo-s0-1", "by-hand"])),
        7 => {
            let folder = host.path("").display().to_string();
            if let Some(shim) = shim(pid(host), &folder) {
                let _ = kill(Pid::from_raw(shim), Signal::SIGKILL);
            }
        }
        8 => {
            let network = ["demo_default", "demo_back"][usize::try_from(dice.below(2)).unwrap()];
            let found = host.api("GET", &format!("/networks/{network}"), None).1;
            for id in found["Containers"].as_object().into_iter().flat_map(|all| all.keys()) {
                let _ = host.run(&["network", "disconnect", "-f", network, id]);
            }
            // Somebody may have joined again by now.
            let _ = host.run(&["network", "rm", network]);
        }
        _ => {}
    }
}

/// The shim of a container's process, which has this test's folder among its arguments.
fn shim(pid: i32, folder: &str) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let parent: i32 = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()?;
    let arguments = std::fs::read_to_string(format!("/proc/{parent}/cmdline")).ok()?;
    (parent > 1 && arguments.contains(folder)).then_some(parent)
}

/// What there is, as [`Wanted::containers`] has it.
fn found(host: &Host) -> Vec<String> {
    let all = host.api("GET", "/containers/json?all=1", None).1;
    let shown = |container: &serde_json::Value| {
        let id = container["Id"].as_str().unwrap_or_default();
        let seen = host.api("GET", &format!("/containers/{id}/json"), None).1;
        let env = seen["Config"]["Env"].as_array().cloned().unwrap_or_default();
        let value = |name: &str| {
            let entry = env.iter().filter_map(|entry| entry.as_str()?.strip_prefix(name)).next();
            entry.unwrap_or("-").to_owned()
        };
        let (state, name) = (seen["State"]["Status"].as_str(), seen["Name"].as_str());
        format!(
            "{} {} {} {}",
            state.unwrap_or_default(),
            name.unwrap_or_default().trim_start_matches('/'),
            value("V="),
            value("E=")
        )
    };
    let mut all: Vec<String> = all.as_array().into_iter().flatten().map(shown).collect();
    all.sort();
    all
}

#[test]
fn random_edits_and_kills_converge_to_the_last_valid_files() {
    let Some(mut host) = Host::with_image("random_edits_and_kills_converge_to_the_last_valid_files") else { return };
    let number = |name: &str, usual: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual);
    let seed = number("SAMPAN_SEED", 7);
    println!("SAMPAN_SEED={seed}");
    let mut dice = Dice(seed);
    let folder = host.write("stack/empty", "").parent().unwrap().to_owned();
    roll(&mut dice).save(&folder, &mut dice);
    host.ok_in(&folder, &["up", "-d"]);
    for round in 0..number("SAMPAN_ROUNDS", 12) {
        if dice.one_in(3) {
            break_something(&folder, &mut dice);
            // Long enough that it may be seen, short enough that it may not.
            std::thread::sleep(std::time::Duration::from_millis(dice.below(100)));
        }
        let wanted = roll(&mut dice);
        if dice.one_in(8) {
            // The edit is made while nobody looks.
            let namespace = host.network_namespace();
            host.kill_daemon();
            wanted.save(&folder, &mut dice);
            host.spawn_in(namespace);
        } else {
            wanted.save(&folder, &mut dice);
        }
        std::thread::sleep(std::time::Duration::from_millis(dice.below(400)));
        meddle(&mut host, &mut dice);
        let mut last = Vec::new();
        host.wait_until(&format!("round {round} of seed {seed}: {:#?}\n{}", wanted.containers, wanted.compose), || {
            let now = found(&host);
            if now != last {
                last = now;
                println!("round {round}: {last:?}");
            }
            last == wanted.containers
        });
        for name in &wanted.with_files {
            let expected = format!("{}{}", wanted.secret, wanted.config);
            host.wait_until(&format!("round {round} of seed {seed}: {name} has {expected:?}"), || {
                host.run(&["exec", name, "cat", "/run/secrets/word", "/app.conf"]).out == expected
            });
        }
    }
}
