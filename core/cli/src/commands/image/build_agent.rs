//! `--ssh`: the user's agent, another one's socket, or keys for which an agent is started that lives as long as the build.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::failure::{Failure, Outcome};

/// How long an agent may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);

/// An agent for a build.
#[derive(Debug)]
pub struct Agent {
    /// As in `RUN --mount=type=ssh,id=…`.
    pub id: String,
    /// Its socket.
    pub socket: PathBuf,
    /// Ended with the value, if it was started here.
    pub own: Option<OwnAgent>,
}

/// A program that holds keys of files.
#[derive(Debug)]
pub struct OwnAgent {
    child: Child,
    folder: PathBuf,
}

impl Drop for OwnAgent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// `default`, `id=socket`, or `id=key[,key…]`; `standard` is the socket of the user's own.
pub fn agent(text: &str, standard: Option<String>) -> Outcome<Agent> {
    let (id, paths) = text.split_once('=').unwrap_or((text, ""));
    if id.is_empty() {
        return Err(Failure::usage(format!("--ssh {text}: expected default, id=socket or id=key")));
    }
    let wrong = |path: &str, why: &dyn std::fmt::Display| Failure::new(format!("--ssh {text}: {path}: {why}"));
    let socket_of = |path: &str| -> Outcome<Option<PathBuf>> {
        let found = fs::canonicalize(path).map_err(|error| wrong(path, &error))?;
        let kind = fs::metadata(&found).map_err(|error| wrong(path, &error))?.file_type();
        Ok(kind.is_socket().then_some(found))
    };
    if paths.is_empty() {
        let path = standard
            .filter(|path| !path.is_empty())
            .ok_or_else(|| Failure::new(format!("--ssh {text}: no agent runs: SSH_AUTH_SOCK is not set")))?;
        let socket = socket_of(&path)?.ok_or_else(|| wrong(&path, &"is not the socket of an agent"))?;
        return Ok(Agent { id: id.to_owned(), socket, own: None });
    }
    let mut keys = Vec::new();
    for path in paths.split(',') {
        match socket_of(path)? {
            Some(socket) if !paths.contains(',') => return Ok(Agent { id: id.to_owned(), socket, own: None }),
            Some(_) => return Err(Failure::usage(format!("--ssh {text}: one socket, or keys alone"))),
            None => keys.push(PathBuf::from(path)),
        }
    }
    let (socket, own) = start(&keys).map_err(|why| Failure::new(format!("--ssh {text}: {why}")))?;
    Ok(Agent { id: id.to_owned(), socket, own: Some(own) })
}

/// Starts an agent and gives it keys.
fn start(keys: &[PathBuf]) -> Result<(PathBuf, OwnAgent), String> {
    let folder = std::env::temp_dir().join(format!("sampan-agent-{}-{:x}", std::process::id(), nonce()));
    fs::DirBuilder::new().mode(0o700).create(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let socket = folder.join("agent");
    let mut command = Command::new("ssh-agent");
    command.arg("-D").arg("-a").arg(&socket).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().map_err(|error| {
        let _ = fs::remove_dir_all(&folder);
        format!("run ssh-agent, which holds the keys: {error}")
    })?;
    let mut own = OwnAgent { child, folder };
    let begin = Instant::now();
    while !socket.exists() {
        if let Ok(Some(status)) = own.child.try_wait() {
            return Err(format!("ssh-agent ended: {status}"));
        }
        if begin.elapsed() > PATIENCE {
            return Err("ssh-agent does not listen".to_owned());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    for key in keys {
        add(key, &socket)?;
    }
    Ok((socket, own))
}

/// Nobody is asked for a passphrase here: with one the user's own agent is the way.
fn add(key: &Path, socket: &Path) -> Result<(), String> {
    let output = Command::new("ssh-add")
        .arg("-q")
        .arg("--")
        .arg(key)
        .env("SSH_AUTH_SOCK", socket)
        .env("SSH_ASKPASS_REQUIRE", "force")
        .env("SSH_ASKPASS", "/bin/false")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("run ssh-add: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(format!(
        "{} is not taken as a key ({said}); one with a passphrase is given to your agent: ssh-add",
        key.display()
    ))
}

/// So that two builds of one process do not meet.
fn nonce() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_nanos())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn agents_are_sockets_or_are_started_for_keys() {
        let folder = tempfile::tempdir().unwrap();
        let (socket, key) = (folder.path().join("s"), folder.path().join("id_ed25519"));
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let standard = || Some(socket.display().to_string());
        assert_eq!(agent("default", standard()).unwrap().id, "default");
        assert_eq!(agent(&format!("deploy={}", socket.display()), None).unwrap().id, "deploy");
        assert!(agent("default", None).unwrap_err().message.contains("SSH_AUTH_SOCK"));
        assert!(agent("x=/no/such", None).unwrap_err().message.contains("/no/such"));
        assert!(agent("=x", None).is_err());
        fs::write(&key, "no key").unwrap();
        if Command::new("ssh-agent").arg("-h").output().is_err() {
            println!("skipped: agents for keys need ssh-agent (package openssh-client)");
            return;
        }
        let text = format!("x={}", key.display());
        assert!(agent(&text, None).unwrap_err().message.contains("not taken as a key"));
        fs::remove_file(&key).unwrap();
        let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status().unwrap();
        assert!(made.success());
        let started = agent(&text, None).unwrap();
        let listed = Command::new("ssh-add").arg("-l").env("SSH_AUTH_SOCK", &started.socket).output().unwrap();
        assert!(String::from_utf8_lossy(&listed.stdout).contains("ED25519"));
        let socket = started.socket.clone();
        drop(started);
        assert!(!socket.exists());
    }
}
