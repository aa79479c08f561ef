//! Measuring Sampan beside what is installed: medians of one run, and their ratios.
//!
//! Peers are started on roots of their own. What cannot run here is left out by name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::build::{self, Profile};
use crate::packages;

/// How often each thing is measured, after one warm-up.
const RUNS: usize = 11;
const IMAGE: &str = "bench:latest";

/// A thing to measure, as words of the command line.
struct Row {
    name: &'static str,
    runs: usize,
    work: Work,
}

/// What is timed: commands of the peer's own client.
enum Work {
    /// One command.
    One(&'static [&'static str]),
    /// A command that is timed, and one that cleans up after it.
    Then(&'static [&'static str], &'static [&'static str]),
    /// The same command so often at once.
    AtOnce(usize, &'static [&'static str]),
}

const ROWS: [Row; 11] = [
    Row { name: "run --rm true, default bridge", runs: RUNS, work: Work::One(&["run", "--rm", IMAGE, "true"]) },
    Row {
        name: "run --rm true, no network",
        runs: RUNS,
        work: Work::One(&["run", "--rm", "--network", "none", IMAGE, "true"]),
    },
    Row {
        name: "run --rm true, one published port",
        runs: RUNS,
        work: Work::One(&["run", "--rm", "-p", "127.0.0.1:39999:80", IMAGE, "true"]),
    },
    Row {
        name: "run -d",
        runs: RUNS,
        work: Work::Then(&["run", "-d", "--name", "timed", IMAGE, "sleep", "1000"], &["rm", "-f", "timed"]),
    },
    Row {
        name: "create",
        runs: RUNS,
        work: Work::Then(&["create", "--name", "timed", IMAGE, "true"], &["rm", "-f", "timed"]),
    },
    Row { name: "exec true", runs: RUNS, work: Work::One(&["exec", "standing", "true"]) },
    Row { name: "ps", runs: RUNS, work: Work::One(&["ps"]) },
    Row { name: "inspect", runs: RUNS, work: Work::One(&["inspect", "standing"]) },
    Row { name: "logs of one line", runs: RUNS, work: Work::One(&["logs", "standing"]) },
    Row { name: "stats --no-stream", runs: 5, work: Work::One(&["stats", "--no-stream"]) },
    Row { name: "8 run --rm at once", runs: 5, work: Work::AtOnce(8, &["run", "--rm", IMAGE, "true"]) },
];

/// A client and how it reaches its engine.
struct Peer {
    name: String,
    program: PathBuf,
    environment: Vec<(String, String)>,
    daemon: Option<std::process::Child>,
    home: PathBuf,
}

/// Runs the rows whose names contain the first word, or all.
pub fn run(root: &Path, options: &[&str]) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "engines need root: run it as root");
    packages::ensure(&[("/bin/busybox", "busybox-static")])?;
    build::all(root, Profile::Release)?;
    let wanted = options.first().copied().unwrap_or_default();
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
    let archive = peers[0].home.join("image.tar");
    make_image(&archive)?;
    for peer in peers {
        peer.quiet(&["import", &archive.display().to_string(), IMAGE])?;
        peer.quiet(&["run", "-d", "--name", "standing", IMAGE, "sh", "-c", "echo hello; sleep 100000"])?;
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
    for peer in peers {
        if let Some(daemon) = &peer.daemon {
            println!("{}: the daemon has {} KiB resident", peer.name, resident(daemon.id()).unwrap_or(0));
        }
    }
    if let Some(kib) = shim_private() {
        println!("sampan: a shim has {kib} KiB of private memory");
    }
    Ok(())
}

impl Peer {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).envs(self.environment.iter().map(|(name, value)| (name, value))).stdin(Stdio::null());
        command
    }

    fn quiet(&self, words: &[&str]) -> Result<()> {
        let output = self.command(words).output().with_context(|| format!("start {}", self.name))?;
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
        for run in 0..=row.runs {
            let began = Instant::now();
            match &row.work {
                Work::One(words) => self.quiet(words)?,
                Work::Then(words, _) => self.quiet(words)?,
                Work::AtOnce(number, words) => {
                    let children: Vec<_> = (0..*number)
                        .map(|_| self.command(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn())
                        .collect::<std::io::Result<_>>()?;
                    for mut child in children {
                        ensure!(child.wait()?.success(), "one of several failed");
                    }
                }
            }
            let elapsed = began.elapsed().as_secs_f64() * 1000.0;
            if let Work::Then(_, clean) = &row.work {
                self.quiet(clean)?;
            }
            // The first one warms up.
            if run > 0 {
                times.push(elapsed);
            }
        }
        Ok(times)
    }

    fn end(&mut self) {
        let _ = self.quiet(&["rm", "-f", "standing"]);
        if let Some(mut daemon) = self.daemon.take() {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.id()).unwrap_or(0));
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
            let _ = daemon.wait();
        }
        let _ = fs::remove_dir_all(&self.home);
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
    Peer { name: "sampan".into(), program, environment, daemon: Some(daemon), home }.wait(&["version"])
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
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    let environment = vec![("DOCKER_HOST".to_owned(), socket)];
    Peer { name: "docker".into(), program, environment, daemon: Some(daemon), home }.wait(&["info"]).map(Some)
}

fn podman(_root: &Path) -> Result<Option<Peer>> {
    let Some(program) = found("podman") else { return Ok(None) };
    let home = home("podman")?;
    let environment = vec![("CONTAINERS_STORAGE_CONF".to_owned(), home.join("storage.conf").display().to_string())];
    fs::write(
        home.join("storage.conf"),
        format!("[storage]\ndriver = \"overlay\"\nrunroot = \"{0}/run\"\ngraphroot = \"{0}/root\"\n", home.display()),
    )?;
    Peer { name: "podman".into(), program, environment, daemon: None, home }.wait(&["info"]).map(Some)
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
