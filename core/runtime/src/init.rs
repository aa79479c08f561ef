//! The child's side: from a clone in new namespaces to the user's program.

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd;
use oci_spec::runtime::{Process, Spec};

use crate::hooks::{self, Moment};
use crate::launch::LaunchOptions;
use crate::rootfs;
use crate::user::{self, Identity};
use crate::{At, Failure, identity, program, sys, terminal, tiny_init};

/// What the child was given by its parent.
pub struct Inheritance<'a> {
    /// The configuration.
    pub spec: &'a Spec,
    /// What goes beyond it.
    pub options: &'a LaunchOptions,
    /// The compiled filter.
    pub filter: Option<Vec<libc::sock_filter>>,
    /// Input and outputs, unless a terminal.
    pub stdio: Option<[OwnedFd; 3]>,
    /// Hands the terminal's master to the parent.
    pub give_terminal: &'a dyn Fn(&OwnedFd) -> std::io::Result<()>,
}

/// Builds the container around this process and becomes its program.
pub fn container(given: Inheritance<'_>) -> Result<Infallible, Failure> {
    let spec = given.spec;
    let process = spec.process().as_ref().ok_or_else(|| Failure {
        step: "read the configuration".into(),
        cause: "it has no process".into(),
        code: 125,
    })?;
    unistd::setsid().at(|| "make a session".into())?;
    sys::new_keyring();
    let root_path = spec.root().as_ref().map_or(Path::new("rootfs"), |root| root.path());
    let root = rootfs::enter_private(root_path)?;
    rootfs::mount_all(root.as_fd(), spec)?;
    rootfs::devices(root.as_fd(), spec)?;
    rootfs::sysctls(root.as_fd(), spec)?;
    if let Some(name) = spec.hostname() {
        unistd::sethostname(name).at(|| format!("set the host name to {name:?}"))?;
    }
    if let Some(name) = spec.domainname() {
        nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
        let _ = std::fs::write("/proc/sys/kernel/domainname", name);
    }
    // In the host's numbering, which ends with the host's `/proc`.
    let own = || std::fs::read_link("/proc/self").ok().and_then(|name| name.to_str()?.parse().ok());
    let own = spec.hooks().as_ref().and_then(|_| own());
    let owner = given.options.owner();
    hooks::run(spec, owner, Moment::CreateContainer, own)?;
    rootfs::pivot(root.as_fd())?;
    drop(root);
    let console = if process.terminal().unwrap_or(false) {
        let (master, peer) = terminal::open_terminal(given.options.size)?;
        terminal::bind_console(&peer)?;
        (given.give_terminal)(&master).at(|| "hand over the terminal".into())?;
        Some(peer)
    } else {
        None
    };
    rootfs::protect(spec)?;
    // A program of the image, with no more rights than the container's own.
    let last = || hooks::run(spec, owner, Moment::StartContainer, own);
    finish(process, given.options, given.filter.as_deref(), console, given.stdio, last)
}

/// The steps that a container's first process and a later one share.
pub fn finish(
    process: &Process,
    options: &LaunchOptions,
    filter: Option<&[libc::sock_filter]>,
    console: Option<OwnedFd>,
    stdio: Option<[OwnedFd; 3]>,
    last: impl FnOnce() -> Result<(), Failure>,
) -> Result<Infallible, Failure> {
    let root =
        open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).at(|| "open /".into())?;
    let identity = if options.user.is_empty() {
        let user = process.user();
        let home = user::lookup(root.as_fd(), &user.uid().to_string(), &[]).ok().and_then(|found| found.home);
        Identity { uid: user.uid(), gid: user.gid(), groups: user.additional_gids().clone().unwrap_or_default(), home }
    } else {
        user::lookup(root.as_fd(), &options.user, &options.groups).map_err(|cause| Failure {
            step: "find the user".into(),
            cause,
            code: 126,
        })?
    };
    let mut environment = process.env().clone().unwrap_or_default();
    if !environment.iter().any(|variable| variable.starts_with("HOME=")) {
        let home = identity.home.clone().filter(|home| !home.is_empty()).unwrap_or_else(|| "/".to_owned());
        environment.push(format!("HOME={home}"));
    }
    connect_stdio(console.as_ref(), stdio, &identity)?;
    identity::limits(process)?;
    if let Some(score) = process.oom_score_adj() {
        std::fs::write("/proc/self/oom_score_adj", score.to_string()).at(|| format!("set oom_score_adj to {score}"))?;
    }
    enter_directory(&root, process)?;
    drop(root);
    sys::close_on_exec_from(3).at(|| "close descriptors".into())?;
    identity::become_user(process, &identity, filter)?;
    // After the change of user, which clears it: if the shim is killed, so is the program.
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong).at(|| "tie the program to its shim".into())?;
    nix::sys::stat::umask(Mode::from_bits_truncate(process.user().umask().unwrap_or(0o022)));
    last()?;
    if options.init {
        let child = sys::fork().at(|| "fork the program".into())?;
        if child != 0 {
            tiny_init::supervise(child);
        }
        let _ = unistd::setpgid(unistd::Pid::from_raw(0), unistd::Pid::from_raw(0));
    }
    let _ = nix::sys::signal::SigSet::empty().thread_set_mask();
    // Ignored by every Rust program, and passed on by exec.
    sys::default_signal(libc::SIGPIPE);
    Err(program::run(process, &environment))
}

/// Docker makes the working directory if it is not there. It must lie inside of the root when all is done.
fn enter_directory(root: &OwnedFd, process: &Process) -> Result<(), Failure> {
    let step = || format!("change to the working directory {}", process.cwd().display());
    let directory = crate::paths::ensure_directory(root.as_fd(), process.cwd()).at(step)?;
    unistd::fchdir(directory.as_fd()).at(step)?;
    if !rootfs::is_inside(directory.as_fd()) || !unistd::getcwd().is_ok_and(|path| path.is_absolute()) {
        return Err(Failure { step: step(), cause: "it lies outside of the container".into(), code: 126 });
    }
    Ok(())
}

fn connect_stdio(console: Option<&OwnedFd>, stdio: Option<[OwnedFd; 3]>, identity: &Identity) -> Result<(), Failure> {
    let step = || "connect input and output".to_owned();
    let owner = (Some(unistd::Uid::from_raw(identity.uid)), Some(unistd::Gid::from_raw(identity.gid)));
    if let Some(peer) = console {
        terminal::take(peer)?;
        let _ = unistd::fchown(peer.as_fd(), owner.0, None);
        unistd::dup2_stdin(peer.as_fd()).at(step)?;
        unistd::dup2_stdout(peer.as_fd()).at(step)?;
        unistd::dup2_stderr(peer.as_fd()).at(step)?;
    } else if let Some([input, output, errors]) = stdio {
        // So that `/dev/stdout` can be opened anew by a user that is not root.
        if identity.uid != 0 {
            for end in [&output, &errors] {
                let _ = unistd::fchown(end.as_fd(), owner.0, owner.1);
            }
        }
        unistd::dup2_stdin(input.as_fd()).at(step)?;
        unistd::dup2_stdout(output.as_fd()).at(step)?;
        unistd::dup2_stderr(errors.as_fd()).at(step)?;
    }
    Ok(())
}
