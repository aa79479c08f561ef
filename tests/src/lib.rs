//! What end-to-end tests stand on: a daemon of their own on a private root, in a network namespace of its own, and the
//! check that nothing is left of it.
//!
//! A test asks for a [`Host`]; where the machine cannot give it one (not root, no busybox, nothing built), the test is
//! skipped by name. The real command line and the real API are driven, nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc)]

pub mod beside;
pub mod http;
mod leftovers;
pub mod load;
mod registry;
pub mod web;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

pub use leftovers::Leftovers;
pub use registry::{Registry, SlowWay};

/// The image that tests run: busybox and its links, imported once for each daemon.
pub const IMAGE: &str = "busybox:test";
const BUSYBOX: &str = "/bin/busybox";
/// What takes longer hangs, however busy the machine is.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// A daemon with its own data root, runtime directory, socket and network namespace.
#[derive(Debug)]
pub struct Host {
    folder: tempfile::TempDir,
    daemon: Option<Child>,
    arguments: Vec<String>,
    instance: String,
    before: Leftovers,
}

/// What a command answered.
#[derive(Debug)]
pub struct Answer {
    /// Exit status.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Where the programs under test lie.
#[must_use]
pub fn programs() -> PathBuf {
    std::env::var_os("SAMPAN_TEST_BIN")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("target/debug"), PathBuf::from)
}

/// Why end-to-end tests cannot run here, if so.
#[must_use]
pub fn obstacle() -> Option<String> {
    let programs = programs();
    if !nix::unistd::geteuid().is_root() {
        Some("root".to_owned())
    } else if !Path::new(BUSYBOX).exists() {
        Some(format!("{BUSYBOX} (package busybox-static)"))
    } else {
        ["sampan", "sampand", "sampan-shim", "drivers"]
            .iter()
            .map(|name| programs.join(name))
            .find(|path| !path.exists())
            .map(|path| format!("{} (cargo xtask build --debug)", path.display()))
    }
}

impl Host {
    /// Starts a daemon for a test; `None` after saying why the test is skipped.
    #[must_use]
    pub fn start(test: &str) -> Option<Self> {
        Self::start_with(test, &[])
    }

    /// As [`Host::start`], with further arguments of the daemon.
    #[must_use]
    pub fn start_with(test: &str, arguments: &[&str]) -> Option<Self> {
        if let Some(obstacle) = obstacle() {
            println!("skipped: {test} needs {obstacle}");
            return None;
        }
        Some(Self::start_in(&std::env::temp_dir(), arguments))
    }

    /// As [`Host::start_with`] where the machine can run it, with all files below a directory.
    #[must_use]
    pub fn start_in(directory: &Path, arguments: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("sampan-").tempdir_in(directory).unwrap();
        let mut host = Self {
            folder,
            daemon: None,
            arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
            instance: String::new(),
            before: Leftovers::default(),
        };
        host.spawn();
        host.instance = fs::read_to_string(host.root().join("instance")).unwrap_or_default().trim().to_owned();
        host
    }

    /// As [`Host::start`], with the image [`IMAGE`] in it.
    #[must_use]
    pub fn with_image(test: &str) -> Option<Self> {
        let host = Self::start(test)?;
        host.import_busybox();
        Some(host)
    }

    /// Imports busybox as [`IMAGE`].
    pub fn import_busybox(&self) {
        let archive = self.path("busybox.tar");
        if !archive.exists() {
            fs::write(&archive, busybox_tar()).unwrap();
        }
        self.ok(&["import", "--change", "CMD [\"/bin/sh\"]", archive.to_str().unwrap(), IMAGE]);
    }

    fn spawn(&mut self) {
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        // busybox makes the namespace and becomes the daemon, whose pid the child's therefore is.
        let mut command = Command::new(BUSYBOX);
        command
            .args(["unshare", "-n", "--", BUSYBOX, "sh", "-c"])
            .arg(format!("{BUSYBOX} ip link set lo up && exec \"$0\" \"$@\""))
            .arg(programs().join("sampan"))
            .arg("daemon")
            .args(&self.arguments)
            .envs(self.environment())
            .env(
                "SAMPAN_LOG",
                std::env::var("SAMPAN_LOG")
                    .unwrap_or_else(|_| "warn,sampan_engine=debug,sampan_reconcile=debug,sampan=info".into()),
            )
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.daemon = Some(command.spawn().unwrap());
        self.wait_until("the daemon answers", || self.answers());
    }

    /// What makes a command speak to this daemon.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let target = PathBuf::from(env!("CARGO_MANIFEST_DIR")).with_file_name("target");
        // Each test has a data root of its own; machine code of the drivers may be shared.
        let code = if target.exists() { target.join("driver-code") } else { self.path("driver-code") };
        vec![
            ("SAMPAN_DRIVER_CACHE", code.display().to_string()),
            ("SAMPAN_ROOT", self.root().display().to_string()),
            ("SAMPAN_RUN", self.run_directory().display().to_string()),
            ("SAMPAN_HOST", format!("unix://{}", self.socket().display())),
            ("DOCKER_HOST", format!("unix://{}", self.socket().display())),
            ("DOCKER_CONFIG", self.path("docker-config").display().to_string()),
            ("SAMPAN_FAULT", self.fault().display().to_string()),
        ]
    }

    /// Writes the files of a build's context and gives its directory.
    pub fn context(&self, files: &[(&str, &str)]) -> String {
        for (name, text) in files {
            self.write(&format!("ctx/{name}"), text);
        }
        self.path("ctx").display().to_string()
    }

    /// Builds, which must succeed; what was said on the way.
    pub fn build(&self, arguments: &[&str]) -> String {
        let answer = self.run(&[&["build"], arguments].concat());
        assert_eq!(answer.code, 0, "{}{}\n{}", answer.out, answer.err, self.log());
        beside::compare(self, arguments, &answer.err);
        answer.err
    }

    /// The data root.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.path("root")
    }

    /// The file that makes a daemon of a debug build kill itself at the change of state whose number it holds.
    #[must_use]
    pub fn fault(&self) -> PathBuf {
        self.path("fault")
    }

    /// The runtime directory.
    #[must_use]
    pub fn run_directory(&self) -> PathBuf {
        self.path("run")
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run_directory().join("sampan.sock")
    }

    /// The instance's id.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// A path in the test's own folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file in the test's own folder, making directories.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    fn log_path(&self) -> PathBuf {
        self.path("daemon.log")
    }

    /// What the daemon has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The daemon's process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.daemon.as_ref().map_or(0, |child| i32::try_from(child.id()).unwrap())
    }

    /// The command line, set up for this daemon and no other: where that is dead, none is started.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(programs().join("sampan"));
        command
            .arg("--no-autostart")
            .args(arguments)
            .envs(self.environment())
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs the command line.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Answer {
        answer(self.command(arguments).output().unwrap())
    }

    /// Runs the command line with an input.
    #[must_use]
    pub fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Answer {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || {
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        answer(output)
    }

    /// Runs the command line in a directory.
    #[must_use]
    pub fn run_in(&self, directory: &Path, arguments: &[&str]) -> Answer {
        answer(self.command(arguments).current_dir(directory).output().unwrap())
    }

    /// Runs the command line, which must succeed; its output without the last newline.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let answer = self.run(arguments);
        assert!(
            answer.code == 0,
            "sampan {}: exit status {}\n{}{}\n--- daemon\n{}",
            arguments.join(" "),
            answer.code,
            answer.out,
            answer.err,
            tail(&self.log())
        );
        answer.out.trim_end_matches('\n').to_owned()
    }

    /// As [`Host::ok`], in a directory.
    pub fn ok_in(&self, directory: &Path, arguments: &[&str]) -> String {
        let answer = self.run_in(directory, arguments);
        assert!(
            answer.code == 0,
            "sampan {}: exit status {}\n{}{}\n--- daemon\n{}",
            arguments.join(" "),
            answer.code,
            answer.out,
            answer.err,
            tail(&self.log())
        );
        answer.out.trim_end_matches('\n').to_owned()
    }

    /// Runs the command line, which must fail; what it wrote to standard error.
    pub fn fails(&self, arguments: &[&str]) -> (i32, String) {
        let answer = self.run(arguments);
        assert!(answer.code != 0, "sampan {} succeeded: {}", arguments.join(" "), answer.out);
        (answer.code, answer.err.trim_end().to_owned())
    }

    /// A request to the API: status and JSON (null when there is none).
    #[must_use]
    pub fn api(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let body = body.map(Value::to_string);
        let (status, bytes) = http::request(&self.socket(), method, path, body.as_deref().map(str::as_bytes)).unwrap();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// The container's inspection.
    #[must_use]
    pub fn inspect(&self, container: &str) -> Value {
        let (status, value) = self.api("GET", &format!("/containers/{container}/json"), None);
        assert_eq!(status, 200, "inspect {container}: {value}");
        value
    }

    /// Fetches a page over TCP from within the daemon's network namespace: what a program on its host sees.
    pub fn fetch(&self, address: &str) -> std::io::Result<String> {
        let address: SocketAddr = address.parse().unwrap();
        self.in_network(move || {
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3))?;
            stream.set_read_timeout(Some(Duration::from_secs(30)))?;
            stream.write_all(b"GET / HTTP/1.0\r\nHost: test\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        })
    }

    /// Runs something in the daemon's network namespace.
    pub fn in_network<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = File::open(format!("/proc/{}/ns/net", self.pid())).unwrap();
        std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
        .join()
        .unwrap()
    }

    /// Names of the links in the daemon's network namespace.
    #[must_use]
    pub fn links(&self) -> Vec<String> {
        links_of(self.network_namespace())
    }

    /// Kills the daemon as a crash would; the containers go on.
    pub fn kill_daemon(&mut self) {
        let mut daemon = self.daemon.take().expect("a daemon runs");
        // The namespace must outlive its first process, as the host's does.
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    /// Kills the daemon, and starts another one in the same network namespace.
    pub fn crash_and_restart(&mut self) {
        let namespace = File::open(format!("/proc/{}/ns/net", self.pid())).unwrap();
        self.kill_daemon();
        self.spawn_in(namespace);
    }

    /// Starts a daemon again in a network namespace that was kept.
    pub fn spawn_in(&mut self, namespace: File) {
        self.launch_in(namespace);
        self.wait_until("the daemon answers again", || self.answers());
    }

    /// Starts a daemon in a network namespace that was kept; whether it lived until it answered.
    pub fn try_spawn_in(&mut self, namespace: File) -> bool {
        self.launch_in(namespace);
        let deadline = Instant::now() + PATIENCE;
        while !self.answers() {
            if self.died() {
                return false;
            }
            assert!(Instant::now() < deadline, "the daemon never answers\n--- daemon\n{}", tail(&self.log()));
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// Whether the daemon has ended by itself; it is then forgotten.
    pub fn died(&mut self) -> bool {
        let ended = self.daemon.as_mut().is_none_or(|daemon| daemon.try_wait().unwrap().is_some());
        if ended {
            self.daemon = None;
        }
        ended
    }

    fn answers(&self) -> bool {
        http::request(&self.socket(), "GET", "/_ping", None).is_ok_and(|(status, _)| status == 200)
    }

    fn launch_in(&mut self, namespace: File) {
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = Command::new(programs().join("sampan"));
        command
            .arg("daemon")
            .args(&self.arguments)
            .envs(self.environment())
            .env("SAMPAN_LOG", "warn,sampan_engine=debug,sampan_reconcile=debug,sampan=info")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let child = std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            command.spawn().unwrap()
        })
        .join()
        .unwrap();
        self.daemon = Some(child);
    }

    /// The network namespace of the daemon, to keep it over a restart.
    #[must_use]
    pub fn network_namespace(&self) -> File {
        File::open(format!("/proc/{}/ns/net", self.pid())).unwrap()
    }

    /// Waits until something holds; fails after a time that only a hang exceeds ([`PATIENCE`]).
    pub fn wait_until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < deadline, "never: {what}\n--- daemon\n{}", tail(&self.log()));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends the daemon in order; its exit status.
    pub fn stop_daemon(&mut self) -> Option<i32> {
        let mut daemon = self.daemon.take()?;
        let _ = kill(Pid::from_raw(i32::try_from(daemon.id()).unwrap()), Signal::SIGTERM);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = daemon.try_wait().unwrap() {
                return status.code();
            }
            if Instant::now() > deadline {
                let _ = daemon.kill();
                let _ = daemon.wait();
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Host {
    /// Takes down what the test has made, ends the daemon, and checks that nothing is left.
    fn drop(&mut self) {
        if self.daemon.is_some() {
            // A daemon that does not answer must not turn a test's failure into the suite's end.
            let stacks = http::request(&self.socket(), "GET", "/sampan/v1/stacks", None).unwrap_or_default().1;
            let stacks: Value = serde_json::from_slice(&stacks).unwrap_or_default();
            for stack in stacks.as_array().into_iter().flatten().filter_map(|stack| stack["name"].as_str()) {
                let _ = self.run(&["compose", "-p", stack, "down", "--volumes", "--timeout", "0"]);
            }
            let ids = self.run(&["ps", "-aq", "--no-trunc"]).out;
            for id in ids.lines() {
                let _ = self.run(&["rm", "-f", "-v", id]);
            }
            let ended = self.stop_daemon();
            if !std::thread::panicking() {
                assert_eq!(ended, Some(0), "the daemon did not end in order\n--- daemon\n{}", tail(&self.log()));
            }
        }
        let left = Leftovers::of(self.folder.path(), &self.instance);
        if std::thread::panicking() {
            println!("--- daemon\n{}", tail(&self.log()));
            left.clear();
        } else {
            left.clear();
            assert_eq!(left, self.before, "something is left\n--- daemon\n{}", tail(&self.log()));
        }
    }
}

/// Names of the links in a network namespace.
#[must_use]
pub fn links_of(namespace: File) -> Vec<String> {
    let read = move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        text.lines().skip(2).filter_map(|line| line.split(':').next()).map(|name| name.trim().to_owned()).collect()
    };
    std::thread::spawn(read).join().unwrap()
}

fn answer(output: Output) -> Answer {
    use std::os::unix::process::ExitStatusExt;
    Answer {
        code: output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0)),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// A root file system with busybox, as a tar.
#[must_use]
pub fn busybox_tar() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let header = |kind: tar::EntryType, mode: u32, size: u64| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header
    };
    for (name, mode) in
        [("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("root", 0o700), ("var", 0o755), ("usr", 0o755)]
    {
        builder
            .append_data(&mut header(tar::EntryType::Directory, mode, 0), format!("{name}/"), std::io::empty())
            .unwrap();
    }
    let program = fs::read(BUSYBOX).unwrap();
    builder
        .append_data(
            &mut header(tar::EntryType::Regular, 0o755, program.len() as u64),
            "bin/busybox",
            program.as_slice(),
        )
        .unwrap();
    let listed = Command::new(BUSYBOX).arg("--list").output().unwrap();
    for applet in String::from_utf8_lossy(&listed.stdout).lines().filter(|name| *name != "busybox") {
        let mut link = header(tar::EntryType::Symlink, 0o777, 0);
        builder.append_link(&mut link, format!("bin/{applet}"), "busybox").unwrap();
    }
    for (name, text) in [
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102::/var:/bin/sh\n"),
        ("etc/group", "root:x:0:\nweb:x:102:\nextra:x:103:web\n"),
    ] {
        builder
            .append_data(&mut header(tar::EntryType::Regular, 0o644, text.len() as u64), name, text.as_bytes())
            .unwrap();
    }
    builder.into_inner().unwrap()
}
