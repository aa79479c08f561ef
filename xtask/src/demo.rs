//! A real stack, brought up and shown working, on a daemon of its own.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::build::{self, Profile};

/// Where the demo's daemon has its socket.
const RUN: &str = "/run/sampan-demo";
/// The page of the example.
const PORT: u16 = 8080;

/// Runs the demo. `--debug` uses the quick build, `--down` takes everything down again at the end.
pub fn run(root: &Path, options: &[&str]) -> Result<()> {
    if let Some(unknown) = options.iter().find(|option| !["--debug", "--down"].contains(option)) {
        bail!("demo knows --debug and --down, not {unknown}");
    }
    ensure!(nix::unistd::geteuid().is_root(), "containers need root: run it as root, or with sudo -E");
    let profile = if options.contains(&"--debug") { Profile::Debug } else { Profile::Release };
    step("building sampan, its shim, its drivers and the example's program");
    build::all(root, profile)?;
    let stack = example(root)?;
    let program = profile.folder(root).join("sampan");
    let mut demo = Demo { program, stack, port: PORT, home: root.join("target/demo") };
    if demo.daemon().is_some() {
        step("ending the daemon of the last demo");
        demo.end()?;
    }
    demo.port = free_port()?;
    demo.show(options.contains(&"--down"))
}

/// A copy of the example to edit, with its program built into it.
fn example(root: &Path) -> Result<PathBuf> {
    let source = root.join("compose-examples/visits");
    let mut command = Command::new("cargo");
    command
        .args(["build", "--quiet", "--locked", "--release", "--package", "visits", "--target", &build::host()?])
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env("CARGO_TARGET_DIR", root.join("target/shim"))
        .current_dir(root);
    build::run(&mut command, "build the example's program")?;
    let program = root.join("target/shim").join(build::host()?).join("release/visits");
    let stack = root.join("target/demo/visits");
    let _ = fs::remove_dir_all(&stack);
    for service in ["store", "web"] {
        fs::create_dir_all(stack.join(service))?;
        fs::copy(source.join(service).join("Dockerfile"), stack.join(service).join("Dockerfile"))?;
        for place in [&stack, &source] {
            fs::copy(&program, place.join(service).join("visits"))?;
        }
    }
    fs::copy(source.join("compose.yaml"), stack.join("compose.yaml"))?;
    Ok(stack)
}

fn free_port() -> Result<u16> {
    let free = |port| std::net::TcpListener::bind(("0.0.0.0", port)).is_ok();
    (PORT..PORT + 100).find(|port| free(*port)).context("no port from 8080 to 8179 is free")
}

struct Demo {
    program: PathBuf,
    stack: PathBuf,
    port: u16,
    home: PathBuf,
}

impl Demo {
    fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("SAMPAN_ROOT", self.home.join("root").display().to_string()),
            ("SAMPAN_RUN", RUN.to_owned()),
            ("VISITS_PORT", self.port.to_string()),
        ]
    }

    fn sampan(&self, words: &[&str]) -> Result<()> {
        println!("\n$ sampan {}", words.join(" "));
        let mut command = Command::new(&self.program);
        command.args(words).current_dir(&self.stack).envs(self.environment()).stdin(Stdio::null());
        command.env_remove("SAMPAN_HOST").env_remove("DOCKER_HOST");
        build::run(&mut command, &format!("sampan {}", words.join(" ")))
    }

    fn fetch(&self) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET / HTTP/1.0\r\nHost: demo\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").context("the page is no answer")?;
        ensure!(head.starts_with("HTTP/1.1 200"), "the page answers {head}: {body}");
        Ok(body.trim().to_owned())
    }

    /// Fetches the page; shows it when a container answered that is not among those seen, to which it is added.
    fn fetch_new(&self, seen: &mut Vec<String>) -> Result<bool> {
        let page = self.fetch()?;
        let who = page.split(':').next().unwrap_or_default().to_owned();
        let new = !seen.contains(&who);
        if new {
            println!("{page}");
            seen.push(who);
        }
        Ok(new)
    }

    fn show(&self, down: bool) -> Result<()> {
        step("the stack comes up: images built, volumes and networks made, services started in order");
        self.sampan(&["up", "-d", "--build", "--wait"])?;
        self.sampan(&["compose", "ps"])?;
        step(&format!("the page counts: http://127.0.0.1:{}/", self.port));
        let mut seen: Vec<String> = Vec::new();
        self.fetch_new(&mut seen)?;
        for _ in 0..2 {
            println!("{}", self.fetch()?);
        }
        step("an edit is the deploy: compose.yaml gets `replicas: 2`, nothing else is done");
        let file = self.stack.join("compose.yaml");
        let text = fs::read_to_string(&file)?;
        let edited = text.replace("replicas: 1", "replicas: 2");
        ensure!(edited != text, "the example has no `replicas: 1` to edit");
        let saved = Instant::now();
        fs::write(&file, edited)?;
        while !self.fetch_new(&mut seen)? {
            ensure!(
                saved.elapsed() < Duration::from_secs(60),
                "the second replica never answered; see sampan compose ps"
            );
        }
        println!("the second replica answered {} ms after the save", saved.elapsed().as_millis());
        step("a broken edit changes nothing, and is said where it is");
        let good = fs::read_to_string(&file)?;
        fs::write(&file, good.replacen("    restart: unless-stopped\n", "    restrat: unless-stopped\n", 1))?;
        std::thread::sleep(Duration::from_millis(500));
        self.sampan(&["stack", "ls"])?;
        println!("\nstill: {}", self.fetch()?);
        fs::write(&file, good)?;
        self.sampan(&["compose", "logs", "--tail", "3", "store"])?;
        if down {
            step("and down again");
            self.sampan(&["down", "--volumes"])?;
            return self.end();
        }
        let variables: Vec<String> =
            self.environment().iter().map(|(name, value)| format!("export {name}={value}")).collect();
        println!(
            "\nIt goes on running. To try it yourself:\n\n  {}\n  cd {}\n  export PATH={}:$PATH\n\n  \
             sampan ps                       containers\n  sampan compose logs -f          what they write\n  \
             sampan run --rm --network visits_front IMAGE …    join them\n  $EDITOR compose.yaml            \
             and see it follow\n  sampan down --volumes           the end of it\n",
            variables.join("\n  "),
            self.stack.display(),
            self.program.parent().unwrap_or(Path::new("/")).display()
        );
        Ok(())
    }

    /// The demo's daemon, if one runs.
    fn daemon(&self) -> Option<Pid> {
        let pid = fs::read_to_string(Path::new(RUN).join("daemon.pid")).ok()?;
        let pid = Pid::from_raw(pid.trim().parse().ok()?);
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        (name.trim() == "sampand").then_some(pid)
    }

    /// Ends the demo's daemon, which stops its containers first.
    fn end(&self) -> Result<()> {
        let pid = self.daemon().context("the demo's daemon does not run")?;
        kill(pid, Signal::SIGTERM).context("end the demo's daemon")?;
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.daemon() == Some(pid) {
            ensure!(Instant::now() < deadline, "the demo's daemon (process {pid}) does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

fn step(text: &str) {
    println!("\n\x1b[1m== {text}\x1b[0m");
}
