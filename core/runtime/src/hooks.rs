//! Programs of the host's that run at certain moments of a container's life, as the runtime specification has them: the
//! container's state on their input, and no failure of theirs unheard.
//!
//! Which programs those are says the configuration alone, which the engine takes from specifications of root's.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use oci_spec::runtime::{Hook, Hooks, Spec};
use serde_json::json;

use crate::{At, Failure};

/// How long a program may take that names no time itself.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest time that one may name.
const LONGEST: Duration = Duration::from_secs(300);
/// The longest state that is sure to fit into a pipe; annotations, which are the user's, may make it longer.
const STATE: usize = 60 << 10;
/// What is kept of its complaint.
const COMPLAINT: usize = 4 << 10;
/// How often it is looked after.
const LOOK: u16 = 5;

/// When they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The namespaces are there; in those of the engine. With what older specifications call `prestart`.
    CreateRuntime,
    /// The mounts are there, the root is not changed yet; in those of the container.
    CreateContainer,
    /// Just before the program; inside of the container, with the rights of the program: the image says what runs.
    StartContainer,
    /// The program runs; in those of the engine.
    Poststart,
    /// The container is gone; in those of the engine.
    Poststop,
}

impl Moment {
    /// By the specification.
    fn name(self) -> &'static str {
        match self {
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }

    fn status(self) -> &'static str {
        match self {
            Self::CreateRuntime | Self::CreateContainer => "creating",
            Self::StartContainer => "created",
            Self::Poststart => "running",
            Self::Poststop => "stopped",
        }
    }

    fn of(self, hooks: &Hooks) -> impl Iterator<Item = &Hook> {
        #[allow(deprecated)]
        let older = hooks.prestart().as_ref().filter(|_| self == Self::CreateRuntime);
        let own = match self {
            Self::CreateRuntime => hooks.create_runtime(),
            Self::CreateContainer => hooks.create_container(),
            Self::StartContainer => hooks.start_container(),
            Self::Poststart => hooks.poststart(),
            Self::Poststop => hooks.poststop(),
        };
        older.into_iter().flatten().chain(own.iter().flatten())
    }
}

/// Whose hooks they are.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    /// The container's id.
    pub id: &'a str,
    /// Where its configuration lies.
    pub bundle: &'a Path,
}

/// Runs the programs of a moment one after the other; the first failure ends that. `pid` is the container's first process
/// in the host's numbering.
pub fn run(spec: &Spec, owner: Owner<'_>, moment: Moment, pid: Option<i32>) -> Result<(), Failure> {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    for hook in moment.of(hooks) {
        let state = state(spec, owner, moment, pid);
        one(hook, &state).at(|| format!("run the {} hook {}", moment.name(), hook.path().display()))?;
    }
    Ok(())
}

/// The state of a container as the specification writes it.
fn state(spec: &Spec, owner: Owner<'_>, moment: Moment, pid: Option<i32>) -> Vec<u8> {
    let mut state = json!({
        "ociVersion": spec.version(),
        "id": owner.id,
        "status": moment.status(),
        "bundle": owner.bundle,
        "annotations": spec.annotations(),
    });
    if let Some(pid) = pid {
        state["pid"] = json!(pid);
    }
    let text = state.to_string();
    if text.len() <= STATE {
        return text.into_bytes();
    }
    state["annotations"] = json!({});
    state.to_string().into_bytes()
}

fn one(hook: &Hook, state: &[u8]) -> io::Result<()> {
    let limit = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()).filter(|seconds| *seconds > 0);
    let limit = limit.map_or(PATIENCE, |seconds| Duration::from_secs(seconds).min(LONGEST));
    let mut command = Command::new(hook.path());
    let mut words = hook.args().iter().flatten();
    if let Some(name) = words.next() {
        command.arg0(name);
    }
    command.args(words).env_clear().current_dir("/").process_group(0);
    command.envs(hook.env().iter().flatten().filter_map(|variable| variable.split_once('=')));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    // The state fits into the pipe; who does not read it has no need of it.
    if let Some(mut input) = child.stdin.take() {
        let _ = input.write_all(state);
    }
    let mut complaint = Vec::new();
    let ended = attend(&mut child, limit, &mut complaint);
    let said = String::from_utf8_lossy(&complaint);
    let said = said.trim();
    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
    match ended? {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(io::Error::other(format!("{status}{said}"))),
        None => Err(io::Error::other(format!("it did not end in {} s and was killed{said}", limit.as_secs()))),
    }
}

/// Waits for a program's end, for so long; none when it had to be killed.
fn attend(child: &mut Child, limit: Duration, complaint: &mut Vec<u8>) -> io::Result<Option<ExitStatus>> {
    let begun = Instant::now();
    let mut errors = child.stderr.take();
    if let Some(errors) = &errors {
        fcntl(errors, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    loop {
        // What it leaves running in the background may hold the pipe: its own end is what counts.
        let ended = child.try_wait()?;
        if let Some(from) = &mut errors
            && !read(from, complaint)
        {
            errors = None;
        }
        if ended.is_some() {
            return Ok(ended);
        }
        if begun.elapsed() > limit {
            // With what it has started.
            let group = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
            let _ = killpg(group, Signal::SIGKILL);
            child.wait()?;
            return Ok(None);
        }
        let mut waited: Vec<PollFd<'_>> =
            errors.iter().map(|errors| PollFd::new(errors.as_fd(), PollFlags::POLLIN)).collect();
        let _ = poll(&mut waited, PollTimeout::from(LOOK));
    }
}

/// Takes what is there; false at the end.
fn read(from: &mut ChildStderr, into: &mut Vec<u8>) -> bool {
    let mut part = [0; 1024];
    loop {
        match from.read(&mut part) {
            Ok(0) => return false,
            Ok(length) => into.extend(part.iter().take(length.min(COMPLAINT.saturating_sub(into.len())))),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn spec(script: &str, timeout: i64) -> Spec {
        serde_json::from_value(json!({
            "ociVersion": "1.2.0",
            "hooks": { "poststart": [
                { "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["WHERE=here"], "timeout": timeout },
            ] },
        }))
        .unwrap()
    }

    fn told(script: &str, timeout: i64) -> Result<(), String> {
        let owner = Owner { id: "abc", bundle: Path::new("/b") };
        run(&spec(script, timeout), owner, Moment::Poststart, Some(7)).map_err(|failure| failure.to_string())
    }

    #[test]
    fn a_program_is_given_the_state_and_its_variables() {
        let test = r#"read -r state; case "$state" in *'"id":"abc"'*'"status":"running"'*'"pid":7'*) [ "$WHERE" = here ];; *) echo "$state" >&2; exit 3;; esac"#;
        told(test, 60).unwrap();
        let owner = Owner { id: "abc", bundle: Path::new("/b") };
        run(&spec("exit 1", 60), owner, Moment::Poststop, None).unwrap();
    }

    #[test]
    fn a_failure_has_a_name_and_a_cause() {
        let failure = told("echo no device >&2; exit 4", 60).unwrap_err();
        assert_eq!(failure, "run the poststart hook /bin/sh: exit status: 4: no device");
        let failure = told("exec sleep 1000", 1).unwrap_err();
        assert_eq!(failure, "run the poststart hook /bin/sh: it did not end in 1 s and was killed");
    }
}
