//! The shim's loop: what the daemon asks, what the container does, and what must happen when either is gone.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use oci_spec::runtime::Spec;
use sampan_cgroup::{Cgroup, Hierarchy};
use sampan_runtime::LaunchOptions;
use sampan_runtime::hooks::{self, Moment, Owner};
use sampan_shim_protocol::{
    Connected, Connection, EXIT, Event, ExecRequest, ExitStatus, Message, OCI_CONFIG, Packet, Reply, Request,
    SHIM_CONFIG, Seccomp, ShimConfig, StartFailure, listen_in,
};

use crate::output::{self, Spool, Stream, Terminal};
use crate::process::{self, Exec};

/// Everything the shim holds.
#[derive(Debug)]
pub struct Server {
    bundle: PathBuf,
    spec: Spec,
    config: ShimConfig,
    cgroup: Cgroup,
    listener: OwnedFd,
    daemon: Option<Connection>,
    /// Whether the connected daemon takes the output.
    attached: bool,
    signals: SignalFd,
    null: OwnedFd,
    pid: i32,
    pidfd: OwnedFd,
    stdin: Option<OwnedFd>,
    streams: Vec<Stream>,
    terminal: Option<Terminal>,
    execs: Vec<Exec>,
    spool: Spool,
    next_time: [u64; 2],
    exit: Option<ExitStatus>,
    oom_kills: u64,
    leaving: bool,
}

fn read_json<T: serde::de::DeserializeOwned>(path: &std::path::Path) -> Result<T, StartFailure> {
    let step = || format!("read {}", path.display());
    let bytes = fs::read(path).map_err(|error| StartFailure { step: step(), cause: error.to_string(), code: 125 })?;
    serde_json::from_slice(&bytes).map_err(|error| StartFailure { step: step(), cause: error.to_string(), code: 125 })
}

impl Server {
    /// Launches the container of the bundle. On failure the daemon is told, and the exit code is returned.
    pub fn start(bundle: PathBuf, control: Option<OwnedFd>, signals: &SigSet) -> Result<Self, u8> {
        let daemon = control.map(Connection::new);
        match Self::prepare(bundle, signals) {
            Ok(mut server) => {
                server.daemon = daemon;
                server.tell(&Event::Started { pid: server.pid });
                Ok(server)
            }
            Err(failure) => {
                if let Some(daemon) = daemon {
                    let _ = daemon.send(&Message::Event(Event::StartFailed(failure.clone())), &[]);
                }
                Err(failure.code)
            }
        }
    }

    fn prepare(bundle: PathBuf, signals: &SigSet) -> Result<Self, StartFailure> {
        let spec: Spec = read_json(&bundle.join(OCI_CONFIG))?;
        let config: ShimConfig = read_json(&bundle.join(SHIM_CONFIG))?;
        let own = |step: &'static str| process::own_failure(step);
        let listener = listen_in(&bundle).map_err(own("listen for the daemon"))?;
        let signals = SignalFd::with_flags(signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(io::Error::from)
            .map_err(own("listen for signals"))?;
        let null = process::null().map_err(own("open /dev/null"))?;
        let hierarchy = Hierarchy::detect().map_err(|error| cgroup_failure("find the cgroup file system", &error))?;
        let path = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.cgroups_path().clone())
            .unwrap_or_else(|| format!("/sampan/{}", config.id).into());
        let cgroup = hierarchy.cgroup(&path.to_string_lossy());
        cgroup.ensure().map_err(|error| cgroup_failure("create the cgroup", &error))?;
        let launched = cgroup
            .apply(&sampan_runtime::cgroup_limits(&spec))
            .map_err(|error| cgroup_failure("set the limits", &error))
            .and_then(|()| {
                let terminal = spec.process().as_ref().and_then(oci_spec::runtime::Process::terminal).unwrap_or(false);
                let ends = process::ends(terminal, config.open_stdin).map_err(own("make pipes"))?;
                let options = LaunchOptions {
                    user: config.user.clone(),
                    groups: config.groups.clone(),
                    init: config.init,
                    default_seccomp: config.seccomp == Seccomp::Default,
                    size: config.size,
                    id: config.id.clone(),
                    bundle: bundle.clone(),
                };
                let mut launched =
                    sampan_runtime::launch(&spec, &options, &cgroup, ends.stdio).map_err(process::failed)?;
                let terminal = process::join_terminal(&mut launched, ends.inner).map_err(own("join the terminal"))?;
                // The program runs: by the specification, what fails now changes nothing.
                let owner = Owner { id: &config.id, bundle: &bundle };
                let _ = hooks::run(&spec, owner, Moment::Poststart, Some(launched.pid));
                Ok((launched, ends.outside, terminal))
            });
        let (launched, outside, terminal) = match launched {
            Ok(launched) => launched,
            Err(failure) => {
                let _ = cgroup.kill();
                let _ = cgroup.remove();
                return Err(failure);
            }
        };
        let mut streams = Vec::new();
        for reader in [outside.stdout, outside.stderr].into_iter().flatten() {
            streams.push(Stream { reader, ended: false });
        }
        let spool = Spool::new(config.spool_limit);
        Ok(Self {
            bundle,
            spec,
            config,
            cgroup,
            listener,
            daemon: None,
            attached: false,
            signals,
            null,
            pid: launched.pid,
            pidfd: launched.pidfd,
            stdin: outside.stdin,
            streams,
            terminal,
            execs: Vec::new(),
            spool,
            next_time: [0; 2],
            exit: None,
            oom_kills: 0,
            leaving: false,
        })
    }

    /// Serves until the daemon lets it go.
    pub fn run(&mut self) {
        while !self.leaving {
            self.wait_and_serve();
        }
        let _ = self.cgroup.kill();
        let _ = self.cgroup.remove();
    }

    fn tell(&mut self, event: &Event) {
        if let Some(daemon) = &self.daemon
            && daemon.send(&Message::Event(event.clone()), &[]).is_err()
        {
            self.forget_daemon();
        }
    }

    fn forget_daemon(&mut self) {
        self.daemon = None;
        self.attached = false;
    }

    /// Whether nobody takes the output, so that it goes into the spool.
    fn spooling(&self) -> bool {
        !self.attached && self.daemon.is_none()
    }

    fn wait_and_serve(&mut self) {
        let mut polled = Polled::default();
        polled.push((Source::Signals, PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)));
        polled.push((Source::Listener, PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)));
        if let Some(daemon) = &self.daemon {
            polled.push((Source::Daemon, PollFd::new(daemon.as_fd(), PollFlags::POLLIN)));
        }
        if self.spooling() {
            for (number, stream) in self.streams.iter().enumerate().filter(|(_, stream)| !stream.ended) {
                polled.push((Source::Stream(number), PollFd::new(stream.reader.as_fd(), PollFlags::POLLIN)));
            }
        }
        if let Some(terminal) = &self.terminal {
            poll_terminal(&mut polled, terminal, None);
        }
        for (at, exec) in self.execs.iter().enumerate() {
            if let Some(terminal) = &exec.terminal {
                poll_terminal(&mut polled, terminal, Some(at));
            }
        }
        for source in polled.wait() {
            match source {
                Source::Terminal(exec, output) => {
                    let terminal = match exec {
                        None => self.terminal.as_mut(),
                        Some(at) => self.execs.get_mut(at).and_then(|exec| exec.terminal.as_mut()),
                    };
                    if let Some(terminal) = terminal {
                        if output { terminal.pump_output() } else { terminal.pump_input() }
                    }
                }
                Source::Stream(number) => {
                    if let Some(stream) = self.streams.get(number) {
                        let number_of_stream = u8::try_from(number).unwrap_or(0);
                        let ended = self.spool.take(&self.bundle, number_of_stream, stream);
                        self.streams[number].ended |= ended;
                    }
                }
                Source::Listener => self.accept(),
                Source::Daemon => self.serve_daemon(),
                Source::Signals => self.take_signals(),
            }
        }
    }

    fn accept(&mut self) {
        if let Ok(accepted) =
            nix::sys::socket::accept4(self.listener.as_raw_fd(), nix::sys::socket::SockFlag::SOCK_CLOEXEC)
        {
            self.attached = false;
            self.daemon = Some(Connection::new(own(accepted)));
        }
    }

    fn take_signals(&mut self) {
        while let Ok(Some(information)) = self.signals.read_signal() {
            // Told to end (by a system that shuts down): end the container in order, its end will end us.
            if information.ssi_signo == Signal::SIGTERM as u32 {
                let _ = kill(Pid::from_raw(self.pid), Signal::SIGTERM);
            }
        }
        self.reap();
    }

    fn reap(&mut self) {
        loop {
            let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid.as_raw(), u8::try_from(code & 0xff).unwrap_or(255)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    (pid.as_raw(), 128 + u8::try_from(signal as i32).unwrap_or(0))
                }
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            if pid == self.pid {
                self.first_process_ended(code);
            } else if let Some(at) = self.execs.iter().position(|exec| exec.pid == pid) {
                let mut exec = self.execs.remove(at);
                if let Some(terminal) = &mut exec.terminal {
                    terminal.pump_output();
                }
                self.tell(&Event::ExecExited { id: exec.id, code });
            }
        }
    }

    fn first_process_ended(&mut self, code: u8) {
        // With a process namespace of the host's, others may be left.
        let _ = self.cgroup.kill();
        if let Some(terminal) = &mut self.terminal {
            terminal.pump_output();
            terminal.output = None;
        }
        self.oom_kills = self.cgroup.oom_kills();
        let status = ExitStatus { code, oom: self.oom_kills > 0, time: output::now() };
        let _ = self.write_exit(&status);
        self.exit = Some(status.clone());
        if self.oom_kills > 0 {
            self.tell(&Event::Oom);
        }
        self.tell(&Event::Exited(status));
        let owner = Owner { id: &self.config.id, bundle: &self.bundle };
        let _ = hooks::run(&self.spec, owner, Moment::Poststop, None);
    }

    /// Written aside and renamed, so that it is whole whenever it is there.
    fn write_exit(&self, status: &ExitStatus) -> io::Result<()> {
        let temporary = self.bundle.join("exit.json.tmp");
        fs::write(&temporary, serde_json::to_vec(status)?)?;
        fs::rename(temporary, self.bundle.join(EXIT))
    }

    fn serve_daemon(&mut self) {
        let Some(daemon) = &self.daemon else { return };
        let packet = match daemon.receive::<Packet>() {
            Ok(Some((packet, _))) => packet,
            Ok(None) | Err(_) => {
                self.forget_daemon();
                return;
            }
        };
        let mut given: Vec<OwnedFd> = Vec::new();
        let reply = self.answer(packet.request, &mut given);
        let Some(daemon) = &self.daemon else { return };
        let borrowed: Vec<BorrowedFd<'_>> = given.iter().map(AsFd::as_fd).collect();
        if daemon.send(&Message::Reply { seq: packet.seq, reply }, &borrowed).is_err() {
            self.forget_daemon();
        }
    }

    fn answer(&mut self, request: Request, given: &mut Vec<OwnedFd>) -> Reply {
        let done = |result: io::Result<()>| match result {
            Ok(()) => Reply::Done,
            Err(error) => Reply::Failed(error.to_string()),
        };
        match request {
            Request::Connect => self.connect(given),
            Request::Consumed { stream, bytes, next_time } => {
                if let Some(next) = self.next_time.get_mut(stream) {
                    *next = next_time;
                }
                match self.streams.get(stream) {
                    Some(stream) => done(output::discard(stream.reader.as_fd(), self.null.as_fd(), bytes)),
                    None => Reply::Failed(format!("there is no stream {stream}")),
                }
            }
            Request::Kill { signal, all } => done(self.signal(signal, all)),
            Request::Resize { exec: None, rows, columns } => match &self.terminal {
                Some(terminal) => done(process::resize(terminal, rows, columns)),
                None => Reply::Failed("the container has no terminal".into()),
            },
            Request::Resize { exec: Some(id), rows, columns } => {
                let terminal = self.execs.iter().find(|exec| exec.id == id).and_then(|exec| exec.terminal.as_ref());
                match terminal {
                    Some(terminal) => done(process::resize(terminal, rows, columns)),
                    None => Reply::Failed(format!("the exec {id} has no terminal")),
                }
            }
            Request::CloseStdin => {
                self.stdin = None;
                Reply::Done
            }
            Request::Exec(request) => self.exec(&request, given),
            Request::KillExec { id, signal } => match self.execs.iter().find(|exec| exec.id == id) {
                // It leads a group: what it has started goes with it, unless it went away by itself.
                Some(exec) => done(send_signal(-exec.pid, signal).or_else(|_| send_signal(exec.pid, signal))),
                None => Reply::Failed(format!("the exec {id} has ended")),
            },
            Request::Shutdown => {
                self.leaving = self.exit.is_some();
                if self.leaving { Reply::Done } else { Reply::Failed("the container still runs".into()) }
            }
        }
    }

    fn connect(&mut self, given: &mut Vec<OwnedFd>) -> Reply {
        // What is in the pipes stays there for the daemon; what is in the spool came before it.
        let (spooled, dropped) = self.spool.hand_over();
        for stream in &self.streams {
            match stream.reader.try_clone() {
                Ok(reader) => given.push(reader),
                Err(error) => return Reply::Failed(error.to_string()),
            }
        }
        let mut stdin = false;
        if let Some(Ok(writer)) = self.stdin.as_ref().map(OwnedFd::try_clone) {
            given.push(writer);
            stdin = true;
        }
        self.attached = true;
        Reply::Connected(Box::new(Connected {
            pid: self.pid,
            exit: self.exit.clone(),
            spooled,
            dropped,
            next_time: self.next_time,
            stdin,
            terminal: self.terminal.is_some(),
        }))
    }

    fn exec(&mut self, request: &ExecRequest, given: &mut Vec<OwnedFd>) -> Reply {
        if self.exit.is_some() {
            return Reply::ExecFailed(StartFailure {
                step: "exec".into(),
                cause: "the container has ended".into(),
                code: 126,
            });
        }
        let filter = if request.privileged { None } else { self.filter() };
        match process::exec(&self.pidfd, &self.cgroup, request, filter) {
            Ok((exec, outside)) => {
                given.extend([outside.stdin, outside.stdout, outside.stderr].into_iter().flatten());
                let pid = exec.pid;
                self.execs.push(exec);
                Reply::ExecStarted { pid }
            }
            Err(failure) => Reply::ExecFailed(failure),
        }
    }

    /// The container's own filter.
    fn filter(&self) -> Option<Vec<libc::sock_filter>> {
        if let Some(profile) = self.spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) {
            return sampan_runtime::seccomp::compile_profile(profile).ok();
        }
        if self.config.seccomp == Seccomp::Unconfined {
            return None;
        }
        let empty = std::collections::HashSet::new();
        let bounding = self
            .spec
            .process()
            .as_ref()
            .and_then(|process| process.capabilities().as_ref())
            .and_then(|all| all.bounding().as_ref());
        Some(sampan_runtime::seccomp::compile_default(sampan_runtime::capabilities::mask(bounding.unwrap_or(&empty))))
    }

    fn signal(&self, signal: i32, all: bool) -> io::Result<()> {
        if self.exit.is_some() {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        if !all {
            return send_signal(self.pid, signal);
        }
        for pid in self.cgroup.processes() {
            let _ = send_signal(pid, signal);
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy)]
enum Source {
    Signals,
    Listener,
    Daemon,
    Stream(usize),
    /// Of the container or of an exec; whether its output.
    Terminal(Option<usize>, bool),
}

/// What is waited for, and what each stands for.
#[derive(Default)]
struct Polled<'a> {
    sources: Vec<Source>,
    descriptors: Vec<PollFd<'a>>,
}

impl<'a> Polled<'a> {
    fn push(&mut self, (source, descriptor): (Source, PollFd<'a>)) {
        self.sources.push(source);
        self.descriptors.push(descriptor);
    }

    /// Waits for at least one, and returns those that are ready.
    fn wait(mut self) -> Vec<Source> {
        if poll(&mut self.descriptors, PollTimeout::NONE).is_err() {
            return Vec::new();
        }
        let ready = |descriptor: &PollFd<'_>| descriptor.revents().is_some_and(|events| !events.is_empty());
        self.sources
            .iter()
            .zip(&self.descriptors)
            .filter(|(_, descriptor)| ready(descriptor))
            .map(|(source, _)| *source)
            .collect()
    }
}

fn poll_terminal<'a>(polled: &mut Polled<'a>, terminal: &'a Terminal, exec: Option<usize>) {
    if let Some(output) = &terminal.output {
        // A full pipe is waited for at its writing end, the terminal otherwise.
        if terminal.is_blocked() {
            polled.push((Source::Terminal(exec, true), PollFd::new(output.as_fd(), PollFlags::POLLOUT)));
        } else {
            polled.push((Source::Terminal(exec, true), PollFd::new(terminal.master.as_fd(), PollFlags::POLLIN)));
        }
    }
    if terminal.has_pending() {
        polled.push((Source::Terminal(exec, false), PollFd::new(terminal.master.as_fd(), PollFlags::POLLOUT)));
    } else if let Some(input) = &terminal.input {
        polled.push((Source::Terminal(exec, false), PollFd::new(input.as_fd(), PollFlags::POLLIN)));
    }
}

fn send_signal(pid: i32, signal: i32) -> io::Result<()> {
    let signal = Signal::try_from(signal)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("{signal} is not the number of a signal")))?;
    kill(Pid::from_raw(pid), signal).map_err(io::Error::from)
}

#[allow(unsafe_code)]
fn own(raw: i32) -> OwnedFd {
    // SAFETY: accept has just made this descriptor for us.
    unsafe { std::os::fd::FromRawFd::from_raw_fd(raw) }
}

fn cgroup_failure(step: &str, error: &sampan_cgroup::CgroupError) -> StartFailure {
    StartFailure { step: step.to_owned(), cause: error.to_string(), code: 125 }
}
