//! The parent's side: namespaces, cgroup, and what the child needs to build the rest.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::fcntl::{OFlag, open};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair,
};
use nix::sys::stat::Mode;
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Process, Spec};
use sampan_cgroup::{Access, Cgroup, DeviceKind, DeviceRule, Entry, Limits, Throttle, ThrottleKind};

use crate::hooks::{self, Moment, Owner};
use crate::init::{self, Inheritance};
use crate::sys::{self, Cloned};
use crate::{At, Failure, seccomp};

/// What goes beyond the OCI configuration.
#[derive(Debug, Clone, Default)]
pub struct LaunchOptions {
    /// `user[:group]` by name or number, resolved in the container; empty takes the configuration's.
    pub user: String,
    /// Further groups by name or number.
    pub groups: Vec<String>,
    /// Run a small init as process 1.
    pub init: bool,
    /// Use the engine's own filter when the configuration has none.
    pub default_seccomp: bool,
    /// Rows and columns of the terminal.
    pub size: Option<(u16, u16)>,
    /// The container's id, for its hooks.
    pub id: String,
    /// Where its configuration lies, for its hooks.
    pub bundle: PathBuf,
}

impl LaunchOptions {
    pub(crate) fn owner(&self) -> Owner<'_> {
        Owner { id: &self.id, bundle: &self.bundle }
    }
}

/// Where the program's input and output go.
#[derive(Debug)]
pub enum Stdio {
    /// Three descriptors.
    Descriptors([OwnedFd; 3]),
    /// A terminal, whose master comes back in [`Launched`].
    Terminal,
}

/// A running process.
#[derive(Debug)]
pub struct Launched {
    /// In the host's numbering.
    pub pid: i32,
    /// The process itself.
    pub pidfd: OwnedFd,
    /// The terminal's master.
    pub terminal: Option<OwnedFd>,
}

/// The configuration's resources in Docker's terms.
#[must_use]
pub fn cgroup_limits(spec: &Spec) -> Limits {
    let mut limits = Limits::default();
    let Some(resources) = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref()) else { return limits };
    if let Some(memory) = resources.memory() {
        limits.memory = memory.limit();
        limits.memory_swap = memory.swap();
        limits.memory_reservation = memory.reservation();
        limits.swappiness = memory.swappiness();
        limits.oom_kill_disable = memory.disable_oom_killer() == Some(true);
    }
    if let Some(cpu) = resources.cpu() {
        limits.cpu_shares = cpu.shares();
        limits.cpu_quota = cpu.quota();
        limits.cpu_period = cpu.period();
        limits.cpuset_cpus.clone_from(cpu.cpus());
        limits.cpuset_mems.clone_from(cpu.mems());
    }
    limits.pids = resources.pids().as_ref().map(oci_spec::runtime::LinuxPids::limit);
    limits.blkio_weight = resources.block_io().as_ref().and_then(oci_spec::runtime::LinuxBlockIo::weight);
    limits.throttle = resources.block_io().as_ref().map(throttles).unwrap_or_default();
    limits.devices = resources.devices().as_ref().map(|rules| {
        let mut all = sampan_cgroup::default_rules();
        all.extend(rules.iter().map(|rule| DeviceRule {
            allow: rule.allow(),
            kind: match rule.typ() {
                Some(oci_spec::runtime::LinuxDeviceType::B) => DeviceKind::Block,
                Some(oci_spec::runtime::LinuxDeviceType::A) | None => DeviceKind::All,
                Some(_) => DeviceKind::Char,
            },
            major: rule.major().and_then(|number| u32::try_from(number).ok()),
            minor: rule.minor().and_then(|number| u32::try_from(number).ok()),
            access: rule.access().as_deref().and_then(Access::parse).unwrap_or(Access::ALL),
        }));
        all
    });
    limits
}

fn throttles(io: &oci_spec::runtime::LinuxBlockIo) -> Vec<Throttle> {
    let lists = [
        (ThrottleKind::ReadBytes, io.throttle_read_bps_device()),
        (ThrottleKind::WriteBytes, io.throttle_write_bps_device()),
        (ThrottleKind::ReadOperations, io.throttle_read_iops_device()),
        (ThrottleKind::WriteOperations, io.throttle_write_iops_device()),
    ];
    let number = |number: i64| u32::try_from(number).unwrap_or_default();
    let limit = |kind, device: &oci_spec::runtime::LinuxThrottleDevice| Throttle {
        kind,
        major: number(device.major()),
        minor: number(device.minor()),
        rate: device.rate(),
    };
    lists.into_iter().flat_map(|(kind, list)| list.iter().flatten().map(move |device| limit(kind, device))).collect()
}

struct Namespaces {
    /// Flags of those that are made.
    new: u64,
    /// Those that are joined.
    join: Vec<(OwnedFd, i32)>,
    /// The process namespace that is joined, which must be set before the clone.
    join_pid: Option<OwnedFd>,
}

fn namespaces(spec: &Spec) -> Result<Namespaces, Failure> {
    let mut found = Namespaces { new: 0, join: Vec::new(), join_pid: None };
    for namespace in spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref()).into_iter().flatten() {
        let flag = match namespace.typ() {
            LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
            LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
            LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
            LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
            LinuxNamespaceType::User => libc::CLONE_NEWUSER,
            LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
            LinuxNamespaceType::Network => libc::CLONE_NEWNET,
            other => {
                return Err(Failure {
                    step: "make namespaces".into(),
                    cause: format!("{other:?} is not supported"),
                    code: 125,
                });
            }
        };
        match namespace.path() {
            None => found.new |= u64::from(flag.cast_unsigned()),
            Some(path) => {
                let opened = open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
                    .at(|| format!("open the namespace {}", path.display()))?;
                if flag == libc::CLONE_NEWPID {
                    found.join_pid = Some(opened);
                } else {
                    found.join.push((opened, flag));
                }
            }
        }
    }
    Ok(found)
}

/// A pair of sockets between parent and child. Nothing is sent on success: the child's end is closed by exec.
fn channel() -> Result<(OwnedFd, OwnedFd), Failure> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .at(|| "make a channel to the container".into())
}

/// Starts a container. The cgroup exists and is limited already.
pub fn launch(spec: &Spec, options: &LaunchOptions, cgroup: &Cgroup, stdio: Stdio) -> Result<Launched, Failure> {
    let namespaces = namespaces(spec)?;
    let process = spec.process().as_ref();
    let filter = match (spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()), options.default_seccomp) {
        (Some(profile), _) => Some(seccomp::compile_profile(profile).map_err(|cause| Failure {
            step: "compile the seccomp profile".into(),
            cause,
            code: 125,
        })?),
        (None, true) => {
            let empty = std::collections::HashSet::new();
            let bounding =
                process.and_then(|process| process.capabilities().as_ref()).and_then(|all| all.bounding().as_ref());
            Some(seccomp::compile_default(crate::capabilities::mask(bounding.unwrap_or(&empty))))
        }
        (None, false) => None,
    };
    let (ours, theirs) = channel()?;
    let (into, entry) = ways_into(cgroup)?;
    let user_namespace = namespaces.new & u64::from(libc::CLONE_NEWUSER.cast_unsigned()) != 0;
    // Its root is the cgroup that the process is in when it is made, which by the clone were still the parent's.
    let cgroup_namespace = namespaces.new & u64::from(libc::CLONE_NEWCGROUP.cast_unsigned());
    let cloned = with_pid_namespace(namespaces.join_pid.as_ref(), || {
        sys::clone3(namespaces.new & !cgroup_namespace, into.as_ref().map(AsFd::as_fd))
    })
    .at(|| "clone the container's first process".into())?;
    match cloned {
        Cloned::Child => {
            drop(ours);
            let work = || -> Result<std::convert::Infallible, Failure> {
                wait_for_go(&theirs)?;
                join(entry.as_ref())?;
                if user_namespace {
                    sys::set_ids(0, 0).at(|| "become root of the user namespace".into())?;
                }
                if cgroup_namespace != 0 {
                    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP)
                        .at(|| "make the cgroup namespace".into())?;
                }
                for (namespace, kind) in &namespaces.join {
                    sys::setns(namespace.as_fd(), *kind).at(|| "join a namespace".into())?;
                }
                let give = |master: &OwnedFd| send_descriptor(&theirs, master);
                let stdio = match stdio {
                    Stdio::Descriptors(ends) => Some(ends),
                    Stdio::Terminal => None,
                };
                init::container(Inheritance { spec, options, filter, stdio, give_terminal: &give })
            };
            report_and_exit(&theirs, work())
        }
        Cloned::Parent { pid, pidfd } => {
            drop((theirs, stdio));
            let prepared = if user_namespace { write_maps(pid, spec) } else { Ok(()) };
            let prepared = prepared.and_then(|()| hooks::run(spec, options.owner(), Moment::CreateRuntime, Some(pid)));
            finish_parent(&ours, pid, pidfd, prepared)
        }
    }
}

/// A process to add to a running container.
#[derive(Debug)]
pub struct ExecOptions<'a> {
    /// What to run.
    pub process: &'a Process,
    /// Who runs it, and how.
    pub options: LaunchOptions,
    /// The filter of the container.
    pub filter: Option<Vec<libc::sock_filter>>,
}

/// Runs another process in the container of `target`.
pub fn exec(
    target: BorrowedFd<'_>,
    cgroup: &Cgroup,
    wanted: ExecOptions<'_>,
    stdio: Stdio,
) -> Result<Launched, Failure> {
    let (ours, theirs) = channel()?;
    let (into, entry) = ways_into(cgroup)?;
    let own = open("/proc/self/ns/pid", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .at(|| "open the process namespace".into())?;
    sys::setns(target, libc::CLONE_NEWPID).at(|| "join the container's process namespace".into())?;
    let cloned = sys::clone3(0, into.as_ref().map(AsFd::as_fd));
    if !matches!(cloned, Ok(Cloned::Child)) {
        sys::setns(own.as_fd(), libc::CLONE_NEWPID).at(|| "return to the process namespace".into())?;
    }
    match cloned.at(|| "clone the process".into())? {
        Cloned::Child => {
            drop(ours);
            let work = || -> Result<std::convert::Infallible, Failure> {
                wait_for_go(&theirs)?;
                join(entry.as_ref())?;
                let kinds = libc::CLONE_NEWNS
                    | libc::CLONE_NEWUTS
                    | libc::CLONE_NEWIPC
                    | libc::CLONE_NEWNET
                    | libc::CLONE_NEWCGROUP;
                sys::setns(target, kinds).at(|| "join the container's namespaces".into())?;
                nix::unistd::setsid().at(|| "make a session".into())?;
                sys::new_keyring();
                let (console, stdio) = match stdio {
                    Stdio::Descriptors(ends) => (None, Some(ends)),
                    Stdio::Terminal => {
                        let (master, peer) = crate::terminal::open_terminal(wanted.options.size)?;
                        send_descriptor(&theirs, &master).at(|| "hand over the terminal".into())?;
                        (Some(peer), None)
                    }
                };
                init::finish(wanted.process, &wanted.options, wanted.filter.as_deref(), console, stdio, || Ok(()))
            };
            report_and_exit(&theirs, work())
        }
        Cloned::Parent { pid, pidfd } => {
            drop((theirs, stdio));
            finish_parent(&ours, pid, pidfd, Ok(()))
        }
    }
}

/// How a process gets into a cgroup: born into it where the kernel can do that, else by a step of its own.
fn ways_into(cgroup: &Cgroup) -> Result<(Option<OwnedFd>, Option<Entry>), Failure> {
    match cgroup.descriptor() {
        Some(directory) => Ok((Some(directory), None)),
        None => cgroup.entry().map(|entry| (None, Some(entry))).at(|| "open the cgroup".into()),
    }
}

/// Before anything that the cgroup is to count.
fn join(entry: Option<&Entry>) -> Result<(), Failure> {
    entry.map_or(Ok(()), Entry::join).at(|| "move into the cgroup".into())
}

/// Children of this process are born into the namespace while `body` runs.
fn with_pid_namespace(join: Option<&OwnedFd>, body: impl FnOnce() -> io::Result<Cloned>) -> io::Result<Cloned> {
    let Some(join) = join else { return body() };
    let own = open("/proc/self/ns/pid", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    sys::setns(join.as_fd(), libc::CLONE_NEWPID)?;
    let cloned = body();
    if !matches!(cloned, Ok(Cloned::Child)) {
        sys::setns(own.as_fd(), libc::CLONE_NEWPID)?;
    }
    cloned
}

fn wait_for_go(channel: &OwnedFd) -> Result<(), Failure> {
    let mut byte = [0];
    match nix::unistd::read(channel.as_fd(), &mut byte) {
        Ok(1) => Ok(()),
        // The parent gave up; it reports why.
        _ => sys::exit(125),
    }
}

fn report_and_exit(channel: &OwnedFd, result: Result<std::convert::Infallible, Failure>) -> ! {
    let Err(failure) = result;
    let bytes = serde_json::to_vec(&failure).unwrap_or_default();
    let _ = nix::unistd::write(channel.as_fd(), &bytes);
    sys::exit(i32::from(failure.code))
}

fn send_descriptor(channel: &OwnedFd, descriptor: &OwnedFd) -> io::Result<()> {
    let raw = [descriptor.as_raw_fd()];
    sendmsg::<()>(
        channel.as_raw_fd(),
        &[io::IoSlice::new(b"T")],
        &[ControlMessage::ScmRights(&raw)],
        MsgFlags::empty(),
        None,
    )
    .map(drop)
    .map_err(io::Error::from)
}

/// Lets the child go on, and waits until it has become the program or failed.
fn finish_parent(
    channel: &OwnedFd,
    pid: i32,
    pidfd: OwnedFd,
    prepared: Result<(), Failure>,
) -> Result<Launched, Failure> {
    let result = prepared.and_then(|()| {
        nix::unistd::write(channel.as_fd(), b"g").at(|| "start the container's first process".into())?;
        watch(channel)
    });
    match result {
        Ok(terminal) => Ok(Launched { pid, pidfd, terminal }),
        Err(failure) => {
            let process = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGKILL);
            let _ = nix::sys::wait::waitpid(process, None);
            Err(failure)
        }
    }
}

fn watch(channel: &OwnedFd) -> Result<Option<OwnedFd>, Failure> {
    let mut terminal = None;
    loop {
        let mut buffer = vec![0; 16 << 10];
        let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
        let mut parts = [io::IoSliceMut::new(&mut buffer)];
        let received =
            match recvmsg::<()>(channel.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
                Err(nix::errno::Errno::EINTR) => continue,
                other => other.at(|| "listen to the container's first process".into())?,
            };
        for control in received.cmsgs().into_iter().flatten() {
            if let ControlMessageOwned::ScmRights(raw) = control {
                for descriptor in raw {
                    // SAFETY: the kernel made this descriptor for us in recvmsg.
                    terminal = Some(unsafe { std::os::fd::FromRawFd::from_raw_fd(descriptor) });
                }
            }
        }
        let length = received.bytes;
        match length {
            0 => return Ok(terminal),
            1 => {}
            _ => {
                return Err(serde_json::from_slice(&buffer[..length]).unwrap_or_else(|_| Failure {
                    step: "start the container's first process".into(),
                    cause: "it failed without saying why".into(),
                    code: 125,
                }));
            }
        }
    }
}

fn write_maps(pid: i32, spec: &Spec) -> Result<(), Failure> {
    let text = |maps: Option<&Vec<LinuxIdMapping>>| -> String {
        maps.into_iter()
            .flatten()
            .map(|map| format!("{} {} {}\n", map.container_id(), map.host_id(), map.size()))
            .collect()
    };
    let linux = spec.linux().as_ref();
    for (file, maps) in [
        ("uid_map", linux.and_then(|linux| linux.uid_mappings().as_ref())),
        ("gid_map", linux.and_then(|linux| linux.gid_mappings().as_ref())),
    ] {
        std::fs::write(format!("/proc/{pid}/{file}"), text(maps)).at(|| format!("write {file}"))?;
    }
    Ok(())
}
