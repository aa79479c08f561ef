//! Filters for system calls: the engine's own table, and profiles of the OCI configuration, compiled to the kernel's
//! classic BPF.
//!
//! The default answers EPERM to what is not in the table, and ENOSYS to calls that are newer than the table, so that a
//! libc falls back to what it knows. The kernel remembers which numbers are always allowed, so the length of the
//! program costs nothing at run time.

use std::collections::BTreeMap;

use libc::{c_long, sock_filter};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompOperator};

use crate::capabilities::number as capability;

/// What to do with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Let it pass.
    Allow,
    /// Answer with an error number.
    Errno(u16),
    /// End the process.
    KillProcess,
    /// End the thread.
    KillThread,
    /// Raise SIGSYS.
    Trap,
    /// Write it to the audit log, and let it pass.
    Log,
}

impl Action {
    fn code(self) -> u32 {
        match self {
            Self::Allow => 0x7fff_0000,
            Self::Errno(number) => 0x0005_0000 | u32::from(number),
            Self::KillProcess => 0x8000_0000,
            Self::KillThread => 0,
            Self::Trap => 0x0003_0000,
            Self::Log => 0x7ffc_0000,
        }
    }
}

/// A test of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// 0 to 5.
    pub argument: u8,
    /// The comparison.
    pub test: Test,
    /// What it is compared to.
    pub value: u64,
}

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
    /// Equal under a mask.
    Masked(u64),
    /// Greater.
    Greater,
    /// Greater or equal.
    GreaterEqual,
    /// Less.
    Less,
    /// Less or equal.
    LessEqual,
}

/// A rule for one call: all conditions must hold. The first rule that fits decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Number of the call.
    pub call: c_long,
    /// All must hold.
    pub conditions: Vec<Condition>,
    /// Then this happens.
    pub action: Action,
}

const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;

#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;

const fn step(code: u16, yes: u8, no: u8, value: u32) -> sock_filter {
    sock_filter { code, jt: yes, jf: no, k: value }
}

/// Compiles rules. `unknown` answers calls with numbers above all that the table knows.
pub fn assemble(
    rules: &[Rule],
    otherwise: Action,
    unknown: Option<(c_long, Action)>,
) -> Result<Vec<sock_filter>, String> {
    let mut program = vec![
        step(LOAD, 0, 0, 4),
        step(JUMP_EQUAL, 1, 0, AUDIT_ARCH),
        // Programs of another architecture would speak other numbers.
        step(RETURN, 0, 0, Action::Errno(libc::ENOSYS as u16).code()),
        step(LOAD, 0, 0, 0),
    ];
    if cfg!(target_arch = "x86_64") {
        // The x32 numbers mean other calls.
        program.push(step(JUMP_GREATER_EQUAL, 0, 1, 0x4000_0000));
        program.push(step(RETURN, 0, 0, Action::Errno(libc::ENOSYS as u16).code()));
    }
    let mut calls: BTreeMap<c_long, Vec<&Rule>> = BTreeMap::new();
    for rule in rules {
        calls.entry(rule.call).or_default().push(rule);
    }
    for (call, rules) in calls {
        let mut body = Vec::new();
        let mut decided = false;
        for rule in rules {
            conditions(&rule.conditions, rule.action, &mut body)?;
            decided |= rule.conditions.is_empty();
            if decided {
                break;
            }
        }
        if !decided {
            body.push(step(RETURN, 0, 0, otherwise.code()));
        }
        let over = u8::try_from(body.len()).map_err(|_| format!("too many conditions for the system call {call}"))?;
        let number = u32::try_from(call).map_err(|_| format!("no system call has the number {call}"))?;
        program.push(step(JUMP_EQUAL, 0, over, number));
        program.extend(body);
    }
    if let Some((newest, action)) = unknown {
        let newest = u32::try_from(newest).map_err(|error| error.to_string())?;
        program.push(step(JUMP_GREATER, 0, 1, newest));
        program.push(step(RETURN, 0, 0, action.code()));
    }
    program.push(step(RETURN, 0, 0, otherwise.code()));
    if program.len() > 4096 {
        return Err(format!("the filter has {} instructions; the kernel takes 4096", program.len()));
    }
    Ok(program)
}

/// A block that returns the action when all conditions hold, and falls through behind itself otherwise.
fn conditions(conditions: &[Condition], action: Action, out: &mut Vec<sock_filter>) -> Result<(), String> {
    // Arguments have 64 bits, the machine 32: each test looks at both halves. A jump to `FAIL` is mended at the end.
    const FAIL: u8 = 255;
    let mut block = Vec::new();
    for condition in conditions {
        if condition.argument > 5 {
            return Err(format!("a system call has six arguments, not {}", condition.argument + 1));
        }
        let low = 16 + 8 * u32::from(condition.argument);
        let (value_low, value_high) = ((condition.value & 0xffff_ffff) as u32, (condition.value >> 32) as u32);
        match condition.test {
            Test::Equal => block.extend([
                step(LOAD, 0, 0, low + 4),
                step(JUMP_EQUAL, 0, FAIL, value_high),
                step(LOAD, 0, 0, low),
                step(JUMP_EQUAL, 0, FAIL, value_low),
            ]),
            Test::NotEqual => block.extend([
                step(LOAD, 0, 0, low + 4),
                step(JUMP_EQUAL, 0, 2, value_high),
                step(LOAD, 0, 0, low),
                step(JUMP_EQUAL, FAIL, 0, value_low),
            ]),
            Test::Masked(mask) => block.extend([
                step(LOAD, 0, 0, low + 4),
                step(AND, 0, 0, (mask >> 32) as u32),
                step(JUMP_EQUAL, 0, FAIL, value_high),
                step(LOAD, 0, 0, low),
                step(AND, 0, 0, (mask & 0xffff_ffff) as u32),
                step(JUMP_EQUAL, 0, FAIL, value_low),
            ]),
            Test::Greater | Test::GreaterEqual => {
                let compare = if condition.test == Test::Greater { JUMP_GREATER } else { JUMP_GREATER_EQUAL };
                block.extend([
                    step(LOAD, 0, 0, low + 4),
                    step(JUMP_GREATER, 3, 0, value_high),
                    step(JUMP_EQUAL, 0, FAIL, value_high),
                    step(LOAD, 0, 0, low),
                    step(compare, 0, FAIL, value_low),
                ]);
            }
            Test::Less | Test::LessEqual => {
                let compare = if condition.test == Test::Less { JUMP_GREATER_EQUAL } else { JUMP_GREATER };
                block.extend([
                    step(LOAD, 0, 0, low + 4),
                    step(JUMP_GREATER, FAIL, 0, value_high),
                    step(JUMP_EQUAL, 0, 2, value_high),
                    step(LOAD, 0, 0, low),
                    step(compare, FAIL, 0, value_low),
                ]);
            }
        }
    }
    let length = block.len();
    for (at, instruction) in block.iter_mut().enumerate() {
        let over = u8::try_from(length - at).map_err(|_| "too many conditions".to_owned())?;
        if instruction.code != LOAD && instruction.code != AND {
            if instruction.jt == FAIL {
                instruction.jt = over;
            }
            if instruction.jf == FAIL {
                instruction.jf = over;
            }
        }
    }
    block.push(step(RETURN, 0, 0, action.code()));
    // The failing jump goes over the return.
    out.extend(block);
    Ok(())
}

macro_rules! calls {
    ($($name:ident)*) => { &[$((stringify!($name), paste_number!($name))),*] };
}
macro_rules! paste_number {
    ($name:ident) => {
        numbers::$name
    };
}

/// Numbers under the names of the calls.
#[allow(non_upper_case_globals, missing_docs)]
mod numbers {
    macro_rules! define {
        ($($name:ident = $constant:ident),* $(,)?) => { $(pub const $name: libc::c_long = libc::$constant;)* };
    }
    include!("seccomp_numbers.rs");
}

/// Allowed to everybody.
const ALLOWED: &[(&str, c_long)] = calls! {
    accept accept4 adjtimex bind brk cachestat capget capset chdir clock_getres clock_gettime clock_nanosleep close
    close_range connect copy_file_range dup dup3 epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 eventfd2 execve
    execveat exit exit_group faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat
    fcntl fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex futex_requeue
    futex_wait futex_waitv futex_wake getcpu getcwd getdents64 getegid geteuid getgid getgroups getitimer getpeername
    getpgid getpid getppid getpriority getrandom getresgid getresuid getrlimit get_robust_list getrusage getsid
    getsockname getsockopt gettid gettimeofday getuid getxattr inotify_add_watch inotify_init1 inotify_rm_watch
    io_cancel ioctl io_destroy io_getevents ioprio_get ioprio_set io_setup io_submit kill landlock_add_rule
    landlock_create_ruleset landlock_restrict_self lgetxattr linkat listen listxattr llistxattr lremovexattr lseek
    lsetxattr madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdirat mknodat mlock mlock2 mlockall
    mmap mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink mremap msgctl msgget msgrcv
    msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat openat openat2 pidfd_open
    pidfd_send_signal pipe2 pkey_alloc pkey_free pkey_mprotect ppoll prctl pread64 preadv preadv2 prlimit64
    process_mrelease process_vm_readv process_vm_writev pselect6 ptrace pwrite64 pwritev pwritev2 read readahead
    readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages removexattr renameat2 restart_syscall rseq
    rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
    rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min
    sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler
    sched_yield semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto setfsgid setfsuid setgid setgroups
    setitimer setpgid setpriority setregid setresgid setresuid setreuid setrlimit set_robust_list setsid setsockopt
    set_tid_address setuid setxattr shmat shmctl shmdt shmget shutdown sigaltstack signalfd4 socketpair splice statfs
    statx symlinkat sync sync_file_range syncfs sysinfo tee tgkill timer_create timer_delete timerfd_create
    timerfd_gettime timerfd_settime timer_getoverrun timer_gettime timer_settime times tkill truncate umask uname
    unlinkat utimensat vmsplice wait4 waitid write writev
};

/// Older forms that only this architecture has.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[(&str, c_long)] = calls! {
    access alarm arch_prctl chmod chown creat dup2 epoll_create epoll_wait eventfd fork futimesat getdents getpgrp
    inotify_init lchown link lstat mkdir mknod modify_ldt open pause pipe poll readlink rename renameat rmdir select
    signalfd stat symlink time uselib unlink utime utimes ustat vfork
};
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[(&str, c_long)] = calls! { renameat };

/// Allowed with any of the capabilities.
const BY_CAPABILITY: &[(&[&str], &[(&str, c_long)])] = &[
    (&["DAC_READ_SEARCH"], calls! { open_by_handle_at }),
    (
        &["SYS_ADMIN"],
        calls! { bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount
        open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount2 unshare },
    ),
    (&["BPF"], calls! { bpf }),
    (&["PERFMON"], calls! { perf_event_open }),
    (&["SYS_BOOT"], calls! { reboot }),
    (&["SYS_CHROOT"], calls! { chroot }),
    (&["SYS_MODULE"], calls! { delete_module init_module finit_module }),
    (&["SYS_PACCT"], calls! { acct }),
    (&["SYS_PTRACE"], calls! { kcmp pidfd_getfd process_madvise }),
    #[cfg(target_arch = "x86_64")]
    (&["SYS_RAWIO"], calls! { iopl ioperm }),
    (&["SYS_TIME"], calls! { settimeofday clock_settime }),
    (&["SYS_TTY_CONFIG"], calls! { vhangup }),
    (&["SYS_NICE"], calls! { get_mempolicy mbind set_mempolicy set_mempolicy_home_node }),
    (&["SYSLOG"], calls! { syslog }),
];

/// `CLONE_NEW*`: what may not be made without CAP_SYS_ADMIN.
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;
/// The newest call of the table (`mseal`); a later one answers ENOSYS.
const NEWEST: c_long = 462;

/// The engine's own rules for a set of capabilities (bits of the bounding set).
#[must_use]
pub fn default_rules(capabilities: u64) -> Vec<Rule> {
    let has = |name: &str| capability(name).is_some_and(|bit| capabilities & 1 << bit != 0);
    let plain = |call: c_long| Rule { call, conditions: Vec::new(), action: Action::Allow };
    let when = |call: c_long, argument: u8, test: Test, value: u64, action: Action| Rule {
        call,
        conditions: vec![Condition { argument, test, value }],
        action,
    };
    let mut rules: Vec<Rule> = ALLOWED.iter().chain(ALLOWED_HERE).map(|(_, call)| plain(*call)).collect();
    for (needed, calls) in BY_CAPABILITY {
        if needed.iter().any(|name| has(name)) {
            rules.extend(calls.iter().map(|(_, call)| plain(*call)));
        }
    }
    if !has("SYS_ADMIN") {
        rules.push(when(libc::SYS_clone, 0, Test::Masked(NAMESPACE_FLAGS), 0, Action::Allow));
        // Its flags lie in memory where no filter sees them; a libc falls back to `clone`.
        rules.push(Rule { call: libc::SYS_clone3, conditions: Vec::new(), action: Action::Errno(libc::ENOSYS as u16) });
    }
    for persona in [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        rules.push(when(libc::SYS_personality, 0, Test::Equal, persona, Action::Allow));
    }
    // Sockets to the hypervisor pass by every network namespace.
    rules.push(when(libc::SYS_socket, 0, Test::NotEqual, 40, Action::Allow));
    rules
}

/// The engine's own filter.
#[must_use]
pub fn compile_default(capabilities: u64) -> Vec<sock_filter> {
    let unknown = Some((NEWEST, Action::Errno(libc::ENOSYS as u16)));
    // The table is constant and short enough; a test compiles every combination.
    assemble(&default_rules(capabilities), Action::Errno(libc::EPERM as u16), unknown).unwrap_or_default()
}

/// The number of a call by name, as far as the table knows it.
#[must_use]
pub fn call_number(name: &str) -> Option<c_long> {
    let tables = [ALLOWED, ALLOWED_HERE, EXTRA].into_iter().chain(BY_CAPABILITY.iter().map(|(_, calls)| *calls));
    tables.into_iter().flatten().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

/// Calls that no rule of the default allows, so that profiles can name them.
const EXTRA: &[(&str, c_long)] = calls! {
    add_key keyctl request_key userfaultfd io_uring_setup io_uring_enter io_uring_register kexec_load pivot_root
    personality socket swapon swapoff migrate_pages move_pages nfsservctl
};

/// Compiles a profile of the OCI configuration. Names that this architecture does not have are passed over.
pub fn compile_profile(profile: &LinuxSeccomp) -> Result<Vec<sock_filter>, String> {
    let action = |action: LinuxSeccompAction, errno: Option<u32>| {
        let errno = errno.and_then(|number| u16::try_from(number).ok()).unwrap_or(libc::EPERM as u16);
        Ok(match action {
            LinuxSeccompAction::ScmpActAllow => Action::Allow,
            LinuxSeccompAction::ScmpActErrno => Action::Errno(errno),
            LinuxSeccompAction::ScmpActKillProcess => Action::KillProcess,
            LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => Action::KillThread,
            LinuxSeccompAction::ScmpActTrap => Action::Trap,
            LinuxSeccompAction::ScmpActLog => Action::Log,
            other => return Err(format!("the action {other:?} is not supported")),
        })
    };
    let mut rules = Vec::new();
    for syscall in profile.syscalls().iter().flatten() {
        let decided = action(syscall.action(), syscall.errno_ret())?;
        let conditions = syscall
            .args()
            .iter()
            .flatten()
            .map(|argument| {
                let value = argument.value();
                let (test, value) = match argument.op() {
                    LinuxSeccompOperator::ScmpCmpEq => (Test::Equal, value),
                    LinuxSeccompOperator::ScmpCmpNe => (Test::NotEqual, value),
                    LinuxSeccompOperator::ScmpCmpMaskedEq => (Test::Masked(value), argument.value_two().unwrap_or(0)),
                    LinuxSeccompOperator::ScmpCmpGt => (Test::Greater, value),
                    LinuxSeccompOperator::ScmpCmpGe => (Test::GreaterEqual, value),
                    LinuxSeccompOperator::ScmpCmpLt => (Test::Less, value),
                    LinuxSeccompOperator::ScmpCmpLe => (Test::LessEqual, value),
                };
                let index = u8::try_from(argument.index()).map_err(|error| error.to_string())?;
                Ok(Condition { argument: index, test, value })
            })
            .collect::<Result<Vec<_>, String>>()?;
        for name in syscall.names() {
            if let Some(call) = call_number(name) {
                rules.push(Rule { call, conditions: conditions.clone(), action: decided });
            }
        }
    }
    assemble(&rules, action(profile.default_action(), profile.default_errno_ret())?, None)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    /// Runs the filter on a call.
    fn run(program: &[sock_filter], call: c_long, arguments: [u64; 6]) -> u32 {
        let mut data = vec![u32::try_from(call).unwrap(), AUDIT_ARCH, 0, 0];
        for argument in arguments {
            data.extend([(argument & 0xffff_ffff) as u32, (argument >> 32) as u32]);
        }
        let (mut at, mut accumulator) = (0_usize, 0_u32);
        loop {
            let now = program[at];
            let mut jump = |holds: bool| at += usize::from(if holds { now.jt } else { now.jf });
            match now.code {
                LOAD => accumulator = data[now.k as usize / 4],
                AND => accumulator &= now.k,
                JUMP_EQUAL => jump(accumulator == now.k),
                JUMP_GREATER => jump(accumulator > now.k),
                JUMP_GREATER_EQUAL => jump(accumulator >= now.k),
                RETURN => return now.k,
                other => panic!("{other:#x}"),
            }
            at += 1;
        }
    }

    const DEFAULT: u64 = 0xa804_25fb;

    #[test]
    fn the_default_allows_the_ordinary_and_refuses_the_dangerous() {
        let filter = compile_default(DEFAULT);
        let verdict = |call, first: u64| run(&filter, call, [first, 0, 0, 0, 0, 0]);
        let (allow, eperm, enosys) = (Action::Allow.code(), Action::Errno(1).code(), Action::Errno(38).code());
        for call in [libc::SYS_read, libc::SYS_openat, libc::SYS_execve, libc::SYS_chroot, libc::SYS_ptrace] {
            assert_eq!(verdict(call, 0), allow, "{call}");
        }
        for call in [
            libc::SYS_mount,
            libc::SYS_unshare,
            libc::SYS_keyctl,
            libc::SYS_bpf,
            libc::SYS_init_module,
            libc::SYS_userfaultfd,
            libc::SYS_io_uring_setup,
            libc::SYS_open_by_handle_at,
            libc::SYS_setns,
            libc::SYS_reboot,
            libc::SYS_settimeofday,
        ] {
            assert_eq!(verdict(call, 0), eperm, "{call}");
        }
        assert_eq!(verdict(libc::SYS_clone, 17), allow);
        assert_eq!(verdict(libc::SYS_clone, u64::from(libc::CLONE_NEWUSER.cast_unsigned())), eperm);
        assert_eq!(verdict(libc::SYS_clone3, 0), enosys);
        assert_eq!(verdict(500, 0), enosys);
        assert_eq!(verdict(libc::SYS_socket, 2), allow);
        assert_eq!(verdict(libc::SYS_socket, 40), eperm);
        assert_eq!(verdict(libc::SYS_personality, 0xffff_ffff), allow);
        assert_eq!(verdict(libc::SYS_personality, 0x40_0000), eperm);
        let with_admin = compile_default(DEFAULT | 1 << 21);
        assert_eq!(run(&with_admin, libc::SYS_mount, [0; 6]), allow);
        assert_eq!(run(&with_admin, libc::SYS_clone3, [0; 6]), allow);
        assert!(!compile_default(0).is_empty() && !compile_default(u64::MAX).is_empty());
    }

    fn test() -> impl Strategy<Value = Test> {
        prop_oneof![
            Just(Test::Equal),
            Just(Test::NotEqual),
            any::<u64>().prop_map(Test::Masked),
            Just(Test::Greater),
            Just(Test::GreaterEqual),
            Just(Test::Less),
            Just(Test::LessEqual)
        ]
    }

    /// Values near each other and near the border of the halves.
    fn value() -> impl Strategy<Value = u64> {
        prop_oneof![0_u64..4, (1_u64 << 32) - 2..(1 << 32) + 2, any::<u64>()]
    }

    proptest! {
        #[test]
        fn conditions_mean_what_they_say(
            tests in proptest::collection::vec((0_u8..6, test(), value()), 0..4), arguments in [value(), value(), value(), value(), value(), value()],
        ) {
            let conditions: Vec<_> = tests.iter().map(|(argument, test, value)| Condition { argument: *argument, test: *test, value: *value }).collect();
            let holds = conditions.iter().all(|condition| {
                let found = arguments[usize::from(condition.argument)];
                match condition.test {
                    Test::Equal => found == condition.value,
                    Test::NotEqual => found != condition.value,
                    Test::Masked(mask) => found & mask == condition.value,
                    Test::Greater => found > condition.value,
                    Test::GreaterEqual => found >= condition.value,
                    Test::Less => found < condition.value,
                    Test::LessEqual => found <= condition.value,
                }
            });
            let rules = [Rule { call: 1, conditions, action: Action::Allow }];
            let program = assemble(&rules, Action::Errno(1), None).unwrap();
            prop_assert_eq!(run(&program, 1, arguments) == Action::Allow.code(), holds);
            prop_assert_eq!(run(&program, 2, arguments), Action::Errno(1).code());
        }
    }
}
