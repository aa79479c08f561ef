//! Measuring Sampan beside what is installed: medians of one run, and their ratios.
//!
//! Peers are started on roots of their own. What cannot run here is left out by name.

mod rows;

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::build::{self, Profile};
use crate::packages;
use rows::{ROWS, Row};

/// What went before is over once the machine did as good as nothing for so long: the kernel still takes namespaces apart,
/// engines remove files, and disks are written to.
const SETTLE: Duration = Duration::from_millis(200);
/// After which an engine that has nothing to do is idle.
const REST: Duration = Duration::from_secs(10);
/// How often each thing is measured, after one warm-up.
const RUNS: usize = 11;
/// Containers that run all the time.
const STANDING: [&str; 2] = ["standing", "beside"];
const IMAGE: &str = "bench:latest";
/// A large image.
const BIG: &str = "big:1";
/// Where the registry keeps what it is given.
const REGISTRY: &str = "registry";
/// The most that an engine may store.
const DISK: u64 = 16 << 30;
/// Docker leaves it behind.
const DOCKERS_CGROUP: &str = "/sampan-bench-docker";

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
    let common = folder("common")?;
    let mut registry = registry(&common)?;
    if registry.is_none() {
        println!("docker-registry: not installed, pull and push are left out");
    }
    let stored = registry.is_some().then(|| common.join(REGISTRY));
    let result = measure(&peers, wanted, &common, stored.as_deref());
    if let Some(registry) = &mut registry {
        let _ = registry.kill();
        let _ = registry.wait();
    }
    for peer in &mut peers {
        peer.end();
    }
    fs::remove_dir_all(common)?;
    result
}

/// `common` holds what all of them are given.
fn measure(peers: &[Peer], wanted: &str, common: &Path, registry: Option<&Path>) -> Result<()> {
    std::thread::sleep(REST);
    let idle: Vec<Option<u64>> =
        peers.iter().map(|peer| peer.daemon.as_ref().and_then(|daemon| resident(daemon.id()))).collect();
    let archive = common.join("image.tar");
    make_image(&archive)?;
    let rows: Vec<&Row> =
        ROWS.iter().filter(|row| row.name.contains(wanted) && (registry.is_some() || !row.registry)).collect();
    if rows.iter().any(|row| row.name.contains("300 MB") || row.name.contains("of it")) {
        make_big(&peers[0], common)?;
    }
    for peer in peers {
        write_stacks(&peer.home)?;
        write_build(&peer.home)?;
        for file in ["big.tar", "root.tar"] {
            let _ = std::os::unix::fs::symlink(common.join(file), peer.home.join(file));
        }
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
    let mut failures = Vec::new();
    for row in rows {
        let mut line = format!("{:<36}", row.name);
        let mut first = None;
        for peer in peers {
            match peer.time(row, registry) {
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
                Err(error) => {
                    failures.push(format!("{}: {error:#}", row.name));
                    line += &format!("{:>26}", format!("failed ({})", failures.len()));
                }
            }
        }
        println!("{line}");
    }
    for (number, failure) in (1..).zip(&failures) {
        println!("({number}) {failure}");
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
    /// The files lie in the peer's folder; `EDIT` is what one service or step gets to see.
    fn command(&self, words: &[&str], edit: usize, run: usize) -> Command {
        let words: Vec<String> =
            words.iter().map(|word| word.replace("{peer}", &self.name).replace("{run}", &run.to_string())).collect();
        let mut command = match (&self.compose, words.as_slice()) {
            (Some(compose), [first, words @ ..]) if first == "compose" => {
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
        self.quietly(words, 0, 0)
    }

    fn quietly(&self, words: &[&str], edit: usize, run: usize) -> Result<()> {
        let output = self.command(words, edit, run).output().with_context(|| format!("start {}", self.name))?;
        ensure!(
            output.status.success(),
            "{} {}: {}",
            self.name,
            words.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    fn time(&self, row: &Row, registry: Option<&Path>) -> Result<Vec<f64>> {
        let mut times = Vec::new();
        for run in 0..=row.runs {
            if let Some(stored) = registry.filter(|stored| row.registry && stored.exists()) {
                fs::remove_dir_all(stored)?;
            }
            for words in row.before {
                self.quietly(words, 0, run)?;
            }
            let edit = if row.edited { run + 1 } else { 0 };
            fs::write(self.home.join("ten/EDIT"), format!("{edit}\n"))?;
            settle();
            let began = Instant::now();
            if row.at_once == 1 {
                self.quietly(row.words, edit, run)?;
            } else {
                let children: Vec<_> = (0..row.at_once)
                    .map(|_| self.command(row.words, edit, run).stdout(Stdio::null()).stderr(Stdio::null()).spawn())
                    .collect::<std::io::Result<_>>()?;
                for mut child in children {
                    ensure!(child.wait()?.success(), "one of several failed");
                }
            }
            let elapsed = began.elapsed().as_secs_f64() * 1000.0;
            for words in row.after {
                self.quietly(words, 0, run)?;
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
        for mounted in [&self.home.join("run"), &self.home] {
            let _ = nix::mount::umount2(mounted, nix::mount::MntFlags::MNT_DETACH);
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

/// A folder that is a file system of its own, if it can be made: ext4 with a journal as installers make it, so that
/// nothing that was removed before, by whoever, slows an engine. Its `run` lies in memory, as `/run` does everywhere.
fn home(name: &str) -> Result<PathBuf> {
    let home = folder(name)?;
    if let Err(error) = make_disk(&home) {
        println!("{name}: without a file system of its own ({error:#})");
    }
    let run = home.join("run");
    fs::create_dir_all(&run)?;
    let data = Some("mode=755");
    nix::mount::mount(Some("run"), &run, Some("tmpfs"), nix::mount::MsFlags::empty(), data)
        .with_context(|| format!("mount a tmpfs at {}", run.display()))?;
    Ok(home)
}

fn folder(name: &str) -> Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("sampan-bench-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn make_disk(home: &Path) -> Result<()> {
    let disk = home.with_extension("disk");
    fs::File::create(&disk)?.set_len(DISK)?;
    let make = || {
        // What is put off otherwise is done while something is measured.
        let mut command = Command::new("mkfs.ext4");
        command.args(["-q", "-F", "-i", "65536", "-E", "lazy_itable_init=0,lazy_journal_init=0"]).arg(&disk);
        build::run(&mut command, "make a file system")?;
        build::run(Command::new("mount").args(["-o", "loop"]).args([&disk, home]), "mount a file system")
    };
    let made = make();
    // The mount holds it.
    fs::remove_file(&disk)?;
    made
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
    // Its plug-ins lie beside it, wherever it is installed.
    let beside = program.parent().map(|bin| bin.join("../libexec/docker/cli-plugins/docker-compose"));
    let compose = found("docker-compose").or(beside.filter(|path| path.exists()));
    Peer { name: "docker".into(), program, compose, environment, daemon: Some(daemon), home }.wait(&["info"]).map(Some)
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

/// Waits until the machine has come to rest, but not for ever.
fn settle() {
    let deadline = Instant::now() + REST;
    loop {
        let before = processors();
        std::thread::sleep(SETTLE);
        let rested = before.zip(processors()).is_none_or(|((idle, all), (idle_now, all_now))| {
            idle_now.saturating_sub(idle) * 10 >= all_now.saturating_sub(all) * 9
        });
        if rested || Instant::now() > deadline {
            return;
        }
    }
}

/// How long the processors were idle, and how long they were there.
fn processors() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let times: Vec<u64> =
        text.lines().next()?.split_whitespace().skip(1).filter_map(|time| time.parse().ok()).collect();
    Some((*times.get(3)?, times.iter().take(8).sum()))
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

/// The distribution's registry, on the loopback.
fn registry(home: &Path) -> Result<Option<std::process::Child>> {
    let Some(program) = found("docker-registry") else { return Ok(None) };
    let configuration = home.join("registry.yml");
    let store = home.join(REGISTRY);
    fs::write(
        &configuration,
        format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:5999'}}\n",
            store.display()
        ),
    )?;
    let mut command = Command::new(program);
    command.arg("serve").arg(configuration).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().context("start docker-registry")?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while std::net::TcpStream::connect("127.0.0.1:5999").is_err() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(Some(child))
}

/// 20,000 files of text and noise, as a root to import and an image to load.
fn make_big(peer: &Peer, common: &Path) -> Result<()> {
    let root = common.join("root");
    let mut noise: u64 = 1;
    for folder in 0..200 {
        let folder = root.join(format!("usr/share/part{folder}"));
        fs::create_dir_all(&folder)?;
        for file in 0..100 {
            let mut content = Vec::with_capacity(15_000);
            while content.len() < 15_000 {
                // Half of it does not compress, as programs and pictures don't.
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                content.extend_from_slice(&noise.to_le_bytes());
                content.extend_from_slice(b"some text");
            }
            fs::write(folder.join(format!("file{file}")), content)?;
        }
    }
    let archive = common.join("root.tar");
    let mut command = Command::new("tar");
    command.arg("-C").arg(&root).arg("-cf").arg(&archive).arg(".");
    build::run(&mut command, "make the large image")?;
    fs::remove_dir_all(root)?;
    peer.quiet(&["import", &archive.display().to_string(), BIG])?;
    peer.quiet(&["save", "-o", &common.join("big.tar").display().to_string(), BIG])?;
    peer.quiet(&["rmi", BIG])
}

/// A build of ten steps; the last one copies the file that is edited.
fn write_build(home: &Path) -> Result<()> {
    let folder = home.join("ten");
    fs::create_dir_all(&folder)?;
    for number in 0..5 {
        fs::write(folder.join(format!("file{number}")), format!("file {number}\n"))?;
    }
    fs::write(folder.join("EDIT"), "0\n")?;
    let mut steps = String::new();
    for number in 0..4 {
        writeln!(steps, "COPY file{number} /app/\nRUN echo {number} > /app/made{number}")?;
    }
    fs::write(folder.join("Dockerfile"), format!("FROM {IMAGE}\nENV STEPS=ten\n{steps}COPY EDIT /app/\n"))?;
    fs::write(
        folder.join("Dockerfile.anew"),
        format!("FROM {IMAGE}\nARG EDIT\nRUN echo $EDIT > /begun\n{steps}COPY file4 /app/\n"),
    )?;
    Ok(())
}

/// A chain in which each waits for the one before it to be healthy, and fifty services side by side.
fn write_stacks(home: &Path) -> Result<()> {
    let mut chain = "services:\n".to_owned();
    let mut wide = chain.clone();
    for number in 0..10 {
        writeln!(chain, "  s{number}:\n    image: {IMAGE}\n    command: sleep 100000")?;
        writeln!(chain, "    healthcheck: {{test: [CMD, 'true'], interval: 1s}}")?;
        if number > 0 {
            writeln!(chain, "    depends_on: {{s{}: {{condition: service_healthy}}}}", number - 1)?;
        }
    }
    for number in 0..50 {
        writeln!(wide, "  s{number}:\n    image: {IMAGE}\n    command: sleep 100000")?;
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
