//! Measuring Sampan beside what is installed: medians of one run, and their ratios.
//!
//! Peers are started on roots of their own. What cannot run here is left out by name.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::build::{self, Profile};
use crate::packages;

/// What the last row's containers leave to the kernel is done before the next one is measured.
const SETTLE: Duration = Duration::from_millis(500);
/// After which an engine that has nothing to do is idle.
const REST: Duration = Duration::from_secs(10);
/// How often each thing is measured, after one warm-up.
const RUNS: usize = 11;
/// Containers that run all the time.
const STANDING: [&str; 2] = ["standing", "beside"];
const IMAGE: &str = "bench:latest";
/// Docker leaves it behind.
const DOCKERS_CGROUP: &str = "/sampan-bench-docker";

/// A thing to measure, as words of the command line, the same for every peer. Stacks are words that begin with `compose`.
struct Row {
    name: &'static str,
    runs: usize,
    /// What is done before and not timed.
    before: &'static [&'static str],
    words: &'static [&'static str],
    /// So often at once.
    at_once: usize,
    /// What takes it away again, not timed.
    after: &'static [&'static str],
    /// The stack's file says something else each time.
    edited: bool,
}

const ROW: Row = Row { name: "", runs: RUNS, before: &[], words: &[], at_once: 1, after: &[], edited: false };

const CHAIN: &[&str] = &["compose", "-f", "chain.yaml", "-p", "chain", "up", "-d", "--wait"];
const CHAIN_DOWN: &[&str] = &["compose", "-f", "chain.yaml", "-p", "chain", "down", "-t", "0"];
const WIDE: &[&str] = &["compose", "-f", "wide.yaml", "-p", "wide", "up", "-d"];
const WIDE_DOWN: &[&str] = &["compose", "-f", "wide.yaml", "-p", "wide", "down", "-t", "0"];

const ROWS: [Row; 16] = [
    Row { name: "run --rm true, default bridge", words: &["run", "--rm", IMAGE, "true"], ..ROW },
    Row { name: "run --rm true, no network", words: &["run", "--rm", "--network", "none", IMAGE, "true"], ..ROW },
    Row {
        name: "run --rm true, one published port",
        words: &["run", "--rm", "-p", "127.0.0.1:39999:80", IMAGE, "true"],
        ..ROW
    },
    Row {
        name: "run -d",
        words: &["run", "-d", "--name", "timed", IMAGE, "sleep", "1000"],
        after: &["rm", "-f", "timed"],
        ..ROW
    },
    Row { name: "create", words: &["create", "--name", "timed", IMAGE, "true"], after: &["rm", "-f", "timed"], ..ROW },
    Row { name: "exec true", words: &["exec", "standing", "true"], ..ROW },
    Row { name: "ps", words: &["ps"], ..ROW },
    Row { name: "inspect", words: &["inspect", "standing"], ..ROW },
    Row { name: "logs of one line", words: &["logs", "standing"], ..ROW },
    Row { name: "stats --no-stream", runs: 5, words: &["stats", "--no-stream"], ..ROW },
    Row { name: "8 run --rm at once", runs: 5, words: &["run", "--rm", IMAGE, "true"], at_once: 8, ..ROW },
    Row { name: "chain of 10 healthy services: up", runs: 3, words: CHAIN, after: CHAIN_DOWN, ..ROW },
    Row { name: "50 services: up", runs: 3, words: WIDE, after: WIDE_DOWN, ..ROW },
    Row { name: "50 services: up, nothing changed", runs: 5, before: WIDE, words: WIDE, ..ROW },
    Row { name: "50 services: up, one edited", runs: 5, before: WIDE, words: WIDE, edited: true, ..ROW },
    Row { name: "50 services: down", runs: 3, before: WIDE, words: WIDE_DOWN, ..ROW },
];

/// A client and how it reaches its engine.
struct Peer {
    name: String,
    program: PathBuf,
    /// Takes the words behind `compose`, if that is another program.
    compose: Option<PathBuf>,
    environment: Vec<(String, String)>,
    daemon: Option<std::process::Child>,
    home: PathBuf,
}

/// Runs the rows whose names contain the word that is given, or all; `--built` measures what was built before.
pub fn run(root: &Path, options: &[&str]) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "engines need root: run it as root");
    packages::ensure(&[("/bin/busybox", "busybox-static")])?;
    if !options.contains(&"--built") {
        build::all(root, Profile::Release)?;
    }
    // Whatever links and rules the engines make go with this.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
    let mut up = Command::new("/bin/busybox");
    build::run(up.args(["ip", "link", "set", "lo", "up"]), "bring the loopback up")?;
    let wanted = options.iter().find(|word| !word.starts_with("--")).copied().unwrap_or_default();
    let mut peers = vec![sampan(root)?];
    for (name, start) in [("docker", docker as fn(&Path) -> Result<Option<Peer>>), ("podman", podman)] {
        match start(root) {
            Ok(Some(peer)) => peers.push(peer),
            Ok(None) => println!("{name}: not installed, left out"),
            Err(error) => println!("{name}: cannot run here, left out ({error:#})"),
        }
    }
    let result = measure(&peers, wanted);
    for peer in &mut peers {
        peer.end();
    }
    result
}

fn measure(peers: &[Peer], wanted: &str) -> Result<()> {
    std::thread::sleep(REST);
    let idle: Vec<Option<u64>> =
        peers.iter().map(|peer| peer.daemon.as_ref().and_then(|daemon| resident(daemon.id()))).collect();
    let archive = peers[0].home.join("image.tar");
    make_image(&archive)?;
    for peer in peers {
        write_stacks(&peer.home)?;
        peer.quiet(&["import", &archive.display().to_string(), IMAGE])?;
        for name in STANDING {
            peer.quiet(&["run", "-d", "--name", name, IMAGE, "sh", "-c", "echo hello; sleep 100000"])?;
        }
    }
    println!(
        "\n{:<36}{}",
        "milliseconds, median (min to max)",
        peers.iter().map(|peer| format!("{:>26}", peer.name)).collect::<String>()
    );
    for row in ROWS.iter().filter(|row| row.name.contains(wanted)) {
        let mut line = format!("{:<36}", row.name);
        let mut first = None;
        for peer in peers {
            match peer.time(row) {
                Ok(mut times) => {
                    times.sort_by(f64::total_cmp);
                    let median = times[times.len() / 2];
                    let ratio = first.map_or_else(String::new, |first: f64| format!(" ×{:.1}", median / first));
                    first.get_or_insert(median);
                    line += &format!(
                        "{:>26}",
                        format!("{median:.1} ({:.1} to {:.1}){ratio}", times[0], times[times.len() - 1])
                    );
                }
                Err(error) => line += &format!("{:>26}", format!("{error}").chars().take(24).collect::<String>()),
            }
        }
        println!("{line}");
    }
    std::thread::sleep(REST);
    for (peer, idle) in peers.iter().zip(idle) {
        if let (Some(daemon), Some(idle)) = (&peer.daemon, idle) {
            let after = resident(daemon.id()).unwrap_or(0);
            println!(
                "{}: the daemon has {idle} KiB resident when it is idle, {after} KiB when it is idle after all this",
                peer.name
            );
        }
    }
    if let Some(kib) = shim_private() {
        println!("sampan: a shim beside others has {kib} KiB of private memory");
    }
    Ok(())
}

impl Peer {
    /// The stacks' files lie in the peer's folder; `EDIT` is what one of their services gets to see.
    fn command(&self, words: &[&str], edit: usize) -> Command {
        let mut command = match (&self.compose, words) {
            (Some(compose), ["compose", words @ ..]) => {
                let mut command = Command::new(compose);
                command.args(words);
                command
            }
            _ => {
                let mut command = Command::new(&self.program);
                command.args(words);
                command
            }
        };
        command.envs(self.environment.iter().map(|(name, value)| (name, value))).env("EDIT", edit.to_string());
        command.current_dir(&self.home).stdin(Stdio::null());
        command
    }

    fn quiet(&self, words: &[&str]) -> Result<()> {
        self.quietly(words, 0)
    }

    fn quietly(&self, words: &[&str], edit: usize) -> Result<()> {
        let output = self.command(words, edit).output().with_context(|| format!("start {}", self.name))?;
        ensure!(
            output.status.success(),
            "{} {}: {}",
            self.name,
            words.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    fn time(&self, row: &Row) -> Result<Vec<f64>> {
        let mut times = Vec::new();
        std::thread::sleep(SETTLE);
        for run in 0..=row.runs {
            if !row.before.is_empty() {
                self.quiet(row.before)?;
            }
            let edit = if row.edited { run + 1 } else { 0 };
            let began = Instant::now();
            if row.at_once == 1 {
                self.quietly(row.words, edit)?;
            } else {
                let children: Vec<_> = (0..row.at_once)
                    .map(|_| self.command(row.words, edit).stdout(Stdio::null()).stderr(Stdio::null()).spawn())
                    .collect::<std::io::Result<_>>()?;
                for mut child in children {
                    ensure!(child.wait()?.success(), "one of several failed");
                }
            }
            let elapsed = began.elapsed().as_secs_f64() * 1000.0;
            if !row.after.is_empty() {
                self.quiet(row.after)?;
            }
            // The first one warms up.
            if run > 0 {
                times.push(elapsed);
            }
        }
        Ok(times)
    }

    fn end(&mut self) {
        for name in STANDING {
            let _ = self.quiet(&["rm", "-f", name]);
        }
        if let Some(mut daemon) = self.daemon.take() {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.id()).unwrap_or(0));
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
            let _ = daemon.wait();
        }
        let _ = fs::remove_dir_all(&self.home);
        if self.name == "docker" {
            let roots = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
            for root in roots.chain(["/sys/fs/cgroup".into()]) {
                let _ = fs::remove_dir(root.join(&DOCKERS_CGROUP[1..]));
            }
        }
    }

    fn wait(self, what: &[&str]) -> Result<Self> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.quiet(what).is_err() {
            if Instant::now() > deadline {
                let mut peer = self;
                peer.end();
                anyhow::bail!("its daemon does not answer");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(self)
    }
}

fn home(name: &str) -> Result<PathBuf> {
    let home = std::env::temp_dir().join(format!("sampan-bench-{name}-{}", std::process::id()));
    fs::create_dir_all(&home)?;
    Ok(home)
}

fn sampan(root: &Path) -> Result<Peer> {
    let home = home("sampan")?;
    let program = Profile::Release.folder(root).join("sampan");
    let environment = vec![
        ("SAMPAN_ROOT".to_owned(), home.join("root").display().to_string()),
        ("SAMPAN_RUN".to_owned(), home.join("run").display().to_string()),
        ("SAMPAN_HOST".to_owned(), format!("unix://{}", home.join("run/sampan.sock").display())),
    ];
    let log = fs::File::create(home.join("log"))?;
    let daemon = Command::new(&program)
        .arg("daemon")
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    let ready = home.join("run/sampan.sock");
    let deadline = Instant::now() + Duration::from_secs(30);
    while !ready.exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    Peer { name: "sampan".into(), program, compose: None, environment, daemon: Some(daemon), home }.wait(&["version"])
}

fn docker(_root: &Path) -> Result<Option<Peer>> {
    let Some(dockerd) = found("dockerd") else { return Ok(None) };
    let program = found("docker").context("dockerd is there, docker is not")?;
    let home = home("docker")?;
    let socket = format!("unix://{}", home.join("docker.sock").display());
    let log = fs::File::create(home.join("log"))?;
    let daemon = Command::new(dockerd)
        .args(["--host", &socket])
        .arg("--data-root")
        .arg(home.join("root"))
        .arg("--exec-root")
        .arg(home.join("run"))
        .arg("--pidfile")
        .arg(home.join("pid"))
        .args(["--cgroup-parent", DOCKERS_CGROUP])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    let environment = vec![("DOCKER_HOST".to_owned(), socket)];
    Peer { name: "docker".into(), program, compose: found("docker-compose"), environment, daemon: Some(daemon), home }
        .wait(&["info"])
        .map(Some)
}

fn podman(_root: &Path) -> Result<Option<Peer>> {
    let Some(program) = found("podman") else { return Ok(None) };
    let home = home("podman")?;
    let environment = vec![("CONTAINERS_STORAGE_CONF".to_owned(), home.join("storage.conf").display().to_string())];
    fs::write(
        home.join("storage.conf"),
        format!("[storage]\ndriver = \"overlay\"\nrunroot = \"{0}/run\"\ngraphroot = \"{0}/root\"\n", home.display()),
    )?;
    Peer { name: "podman".into(), program, compose: found("podman-compose"), environment, daemon: None, home }
        .wait(&["info"])
        .map(Some)
}

fn found(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| path.exists())
}

/// A root file system with busybox.
fn make_image(archive: &Path) -> Result<()> {
    let folder = archive.with_extension("root");
    fs::create_dir_all(folder.join("bin"))?;
    fs::create_dir_all(folder.join("etc"))?;
    fs::copy("/bin/busybox", folder.join("bin/busybox"))?;
    for applet in ["sh", "true", "sleep", "echo", "cat", "ls"] {
        std::os::unix::fs::symlink("busybox", folder.join("bin").join(applet))?;
    }
    let mut command = Command::new("tar");
    command.arg("-C").arg(&folder).arg("-cf").arg(archive).arg(".");
    build::run(&mut command, "make the image")
}

/// A chain in which each waits for the one before it to be healthy, and fifty services side by side.
fn write_stacks(home: &Path) -> Result<()> {
    let mut chain = "services:\n".to_owned();
    let mut wide = chain.clone();
    for number in 0..10 {
        writeln!(chain, "  s{number}:\n    image: {IMAGE}\n    command: sleep 100000\n    init: true")?;
        writeln!(chain, "    healthcheck: {{test: [CMD, 'true'], interval: 1s}}")?;
        if number > 0 {
            writeln!(chain, "    depends_on: {{s{}: {{condition: service_healthy}}}}", number - 1)?;
        }
    }
    for number in 0..50 {
        writeln!(wide, "  s{number}:\n    image: {IMAGE}\n    command: sleep 100000\n    init: true")?;
        if number == 0 {
            writeln!(wide, "    environment: {{EDIT: '${{EDIT}}'}}\n    stop_grace_period: 0s")?;
        }
    }
    fs::write(home.join("chain.yaml"), chain)?;
    fs::write(home.join("wide.yaml"), wide)?;
    Ok(())
}

/// Resident memory of a process in KiB.
fn resident(pid: u32) -> Option<u64> {
    field(&format!("/proc/{pid}/status"), &["VmRSS:"])
}

/// Private memory of one of the shims in KiB.
fn shim_private() -> Option<u64> {
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let path = entry.path();
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
        if name.trim() == "sampan-shim" {
            return field(&path.join("smaps_rollup").display().to_string(), &["Private_Clean:", "Private_Dirty:"]);
        }
    }
    None
}

fn field(file: &str, names: &[&str]) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let values = names.iter().map(|name| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    values.sum()
}
