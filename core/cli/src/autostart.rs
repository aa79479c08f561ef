//! Starting a daemon when nobody answers on the socket.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::failure::{Failure, Outcome};
use crate::output::tell;
use crate::paths::Paths;

/// How long a daemon may take until it answers; the first start compiles nothing, so this is for slow disks.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whether the error means that nobody listens, which a new daemon mends.
pub fn may_help(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Starts a daemon for the socket, detached from this terminal, and waits until it answers.
pub async fn start(socket: &Path) -> Outcome {
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::new(format!(
            "Cannot connect to the Sampan daemon at unix://{}, and only root can start one: run `sudo sampan daemon`, or this command with sudo",
            socket.display()
        )));
    }
    let paths = Paths::from_environment();
    let log = paths.root.join("daemon.log");
    std::fs::create_dir_all(&paths.root)
        .map_err(|error| Failure::new(format!("create the data root {}: {error}", paths.root.display())))?;
    let output = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .map_err(|error| Failure::new(format!("open the daemon's log {}: {error}", log.display())))?;
    let errors = output.try_clone()?;
    let program = std::env::current_exe()?;
    tell!("sampan: no daemon answers on {}; starting one (log: {})", socket.display(), log.display());
    let mut command = Command::new(program);
    command
        .arg("daemon")
        .arg("--socket")
        .arg(socket)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .current_dir("/")
        .process_group(0);
    let mut child = command.spawn().map_err(|error| Failure::new(format!("start the daemon: {error}")))?;
    let started = Instant::now();
    loop {
        if tokio::net::UnixStream::connect(socket).await.is_ok() {
            return Ok(());
        }
        if let Some(status) = child.try_wait()? {
            let last = std::fs::read_to_string(&log).unwrap_or_default();
            let last = last.lines().last().unwrap_or("it said nothing").to_owned();
            return Err(Failure::new(format!("the daemon ended at once ({status}): {last}")));
        }
        if started.elapsed() > PATIENCE {
            return Err(Failure::new(format!("the daemon does not answer; see {}", log.display())));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
