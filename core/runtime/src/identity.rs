//! Who the program is: limits, groups, user, capabilities, and the filter for system calls.

use nix::sys::resource::{Resource, setrlimit};
use oci_spec::runtime::{PosixRlimitType, Process};

use crate::capabilities::mask;
use crate::user::Identity;
use crate::{At, Failure, sys};

/// Applies the resource limits.
pub fn limits(process: &Process) -> Result<(), Failure> {
    for limit in process.rlimits().iter().flatten() {
        let resource = match limit.typ() {
            PosixRlimitType::RlimitCpu => Resource::RLIMIT_CPU,
            PosixRlimitType::RlimitFsize => Resource::RLIMIT_FSIZE,
            PosixRlimitType::RlimitData => Resource::RLIMIT_DATA,
            PosixRlimitType::RlimitStack => Resource::RLIMIT_STACK,
            PosixRlimitType::RlimitCore => Resource::RLIMIT_CORE,
            PosixRlimitType::RlimitRss => Resource::RLIMIT_RSS,
            PosixRlimitType::RlimitNproc => Resource::RLIMIT_NPROC,
            PosixRlimitType::RlimitNofile => Resource::RLIMIT_NOFILE,
            PosixRlimitType::RlimitMemlock => Resource::RLIMIT_MEMLOCK,
            PosixRlimitType::RlimitAs => Resource::RLIMIT_AS,
            PosixRlimitType::RlimitLocks => Resource::RLIMIT_LOCKS,
            PosixRlimitType::RlimitSigpending => Resource::RLIMIT_SIGPENDING,
            PosixRlimitType::RlimitMsgqueue => Resource::RLIMIT_MSGQUEUE,
            PosixRlimitType::RlimitNice => Resource::RLIMIT_NICE,
            PosixRlimitType::RlimitRtprio => Resource::RLIMIT_RTPRIO,
            PosixRlimitType::RlimitRttime => Resource::RLIMIT_RTTIME,
        };
        setrlimit(resource, limit.soft(), limit.hard()).at(|| format!("set the limit {:?}", limit.typ()))?;
    }
    Ok(())
}

/// Becomes the user with the capabilities of the configuration, and puts the filter on as the last thing.
pub fn become_user(
    process: &Process,
    identity: &Identity,
    filter: Option<&[libc::sock_filter]>,
) -> Result<(), Failure> {
    let empty = std::collections::HashSet::new();
    let set = |pick: fn(&oci_spec::runtime::LinuxCapabilities) -> &Option<oci_spec::runtime::Capabilities>| {
        mask(process.capabilities().as_ref().and_then(|all| pick(all).as_ref()).unwrap_or(&empty))
    };
    let bounding = set(|all| all.bounding());
    let ambient = set(|all| all.ambient());
    let (mut effective, mut permitted) = (set(|all| all.effective()), set(|all| all.permitted()));
    // What this host's own bounding set lacks cannot be given; a privileged container gets all that there is.
    let held = sys::bounding_set();
    effective &= held;
    permitted &= held;
    if identity.uid != 0 {
        // As in Docker: another user than root holds only what was made ambient for it.
        effective &= ambient;
        permitted &= ambient;
    }
    let no_new_privileges = process.no_new_privileges().unwrap_or(false);
    // With CAP_SYS_ADMIN a filter needs no promise, but the promise must come before the right is lost.
    if let Some(filter) = filter.filter(|_| !no_new_privileges) {
        sys::seccomp_filter(filter).at(|| "install the seccomp filter".into())?;
    }
    for capability in 0..64 {
        if bounding & 1 << capability == 0 && sys::prctl(libc::PR_CAPBSET_DROP, capability).is_err() {
            // Beyond the last one that the kernel knows.
            break;
        }
    }
    sys::prctl(libc::PR_SET_KEEPCAPS, 1).at(|| "keep capabilities over the change of user".into())?;
    sys::set_groups(&identity.groups).at(|| "set the groups".into())?;
    sys::set_ids(identity.uid, identity.gid).at(|| format!("become user {}:{}", identity.uid, identity.gid))?;
    sys::capset(effective, permitted, ambient).at(|| "set the capabilities".into())?;
    let _ = sys::prctl_ambient(libc::PR_CAP_AMBIENT_CLEAR_ALL, 0);
    for capability in 0..64 {
        if ambient & 1 << capability != 0 {
            sys::prctl_ambient(libc::PR_CAP_AMBIENT_RAISE, capability).at(|| "raise ambient capabilities".into())?;
        }
    }
    if no_new_privileges {
        sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).at(|| "set no_new_privs".into())?;
        if let Some(filter) = filter {
            sys::seccomp_filter(filter).at(|| "install the seccomp filter".into())?;
        }
    }
    Ok(())
}
