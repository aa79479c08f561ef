//! Processes of the container that the shim watches: the first, and those of `exec`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use sampan_runtime::{ExecOptions, LaunchOptions, Launched, Stdio};
use sampan_shim_protocol::{ExecRequest, StartFailure};

use crate::output::{self, Terminal};

/// A process started by `exec`.
#[derive(Debug)]
pub struct Exec {
    /// The exec's id.
    pub id: String,
    /// In the host's numbering.
    pub pid: i32,
    /// Its terminal, if it has one.
    pub terminal: Option<Terminal>,
}

/// The null device.
pub fn null() -> io::Result<OwnedFd> {
    open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).map_err(io::Error::from)
}

/// A failure in the protocol's words.
pub fn failed(failure: sampan_runtime::Failure) -> StartFailure {
    StartFailure { step: failure.step, cause: failure.cause, code: failure.code }
}

/// A failure of the shim itself.
pub fn own_failure(step: &str) -> impl FnOnce(io::Error) -> StartFailure + '_ {
    move |error| StartFailure { step: step.to_owned(), cause: error.to_string(), code: 125 }
}

/// Ends of pipes that stay outside of the container: stdin's writer, stdout's and stderr's reader.
#[derive(Debug, Default)]
pub struct Outside {
    /// To write input.
    pub stdin: Option<OwnedFd>,
    /// To read output.
    pub stdout: Option<OwnedFd>,
    /// To read errors; none with a terminal.
    pub stderr: Option<OwnedFd>,
}

/// Input and outputs for a new process, with the ends that stay outside. With a terminal, the inner ends come third.
pub struct Ends {
    pub stdio: Stdio,
    pub outside: Outside,
    pub inner: Option<(OwnedFd, Option<OwnedFd>)>,
}

/// Makes them.
pub fn ends(terminal: bool, stdin: bool) -> io::Result<Ends> {
    let (input, input_writer) = if stdin {
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        (Some(reader), Some(writer))
    } else {
        (None, None)
    };
    let (output_reader, output) = output::pipe()?;
    if terminal {
        let outside = Outside { stdin: input_writer, stdout: Some(output_reader), stderr: None };
        return Ok(Ends { stdio: Stdio::Terminal, outside, inner: Some((output, input)) });
    }
    let (errors_reader, errors) = output::pipe()?;
    let input = match input {
        Some(input) => input,
        None => null()?,
    };
    let outside = Outside { stdin: input_writer, stdout: Some(output_reader), stderr: Some(errors_reader) };
    Ok(Ends { stdio: Stdio::Descriptors([input, output, errors]), outside, inner: None })
}

/// Joins a started process's terminal to its pipes.
pub fn join_terminal(
    launched: &mut Launched,
    inner: Option<(OwnedFd, Option<OwnedFd>)>,
) -> io::Result<Option<Terminal>> {
    match (launched.terminal.take(), inner) {
        (Some(master), Some((output, input))) => Terminal::new(master, output, input).map(Some),
        (None, Some(_)) => Err(io::Error::other("the container handed over no terminal")),
        _ => Ok(None),
    }
}

/// Runs a process in the container.
pub fn exec(
    target: &OwnedFd,
    cgroup: &sampan_cgroup::Cgroup,
    request: &ExecRequest,
    filter: Option<Vec<libc::sock_filter>>,
) -> Result<(Exec, Outside), StartFailure> {
    let terminal = request.process.terminal().unwrap_or(false);
    let mut ends = if request.detached && !terminal {
        let null = || -> io::Result<Ends> {
            Ok(Ends {
                stdio: Stdio::Descriptors([null()?, null()?, null()?]),
                outside: Outside::default(),
                inner: None,
            })
        };
        null().map_err(own_failure("open /dev/null"))?
    } else {
        ends(terminal, request.stdin).map_err(own_failure("make pipes"))?
    };
    if request.detached {
        // The terminal's output then has no reader, and is forgotten.
        ends.outside = Outside::default();
    }
    let options = LaunchOptions {
        user: request.user.clone(),
        groups: request.groups.clone(),
        init: false,
        default_seccomp: false,
        size: request.size,
        ..LaunchOptions::default()
    };
    let wanted = ExecOptions { process: &request.process, options, filter };
    let mut launched = sampan_runtime::exec(target.as_fd(), cgroup, wanted, ends.stdio).map_err(failed)?;
    let terminal = join_terminal(&mut launched, ends.inner).map_err(own_failure("join the terminal"))?;
    Ok((Exec { id: request.id.clone(), pid: launched.pid, terminal }, ends.outside))
}

/// Sets a terminal's size.
pub fn resize(terminal: &Terminal, rows: u16, columns: u16) -> io::Result<()> {
    sampan_runtime::resize(terminal.master.as_fd(), rows, columns)
}
