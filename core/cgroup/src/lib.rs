//! Control groups: one way to limit, count, freeze and end the processes of a container, whichever version the host has.
//!
//! [`Hierarchy::detect`] finds out once; [`Cgroup`] is a path below it. Limits enter in Docker's units
//! ([`Limits`]), numbers leave as [`Stats`].
//!
//! Invariants: every operation is idempotent; nothing outside of the given path is written, except that controllers
//! are enabled for it on the way down (version 2) and that `cpuset` is filled from the parent (version 1).

mod devices;
mod limits;
mod marks;
mod stats;
mod v1;
mod v2;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use devices::{Access, DeviceKind, DeviceRule, default_rules};
pub use limits::{Limits, Throttle, ThrottleKind};
pub use stats::Stats;

/// Why a cgroup could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// Nothing is mounted that we could use.
    #[error("no cgroup file system is mounted at /sys/fs/cgroup; mount one (cgroup2 is best)")]
    Absent,
    /// A limit needs a controller that this host does not have.
    #[error("this host has no {controller} cgroup controller, which {wanted} needs")]
    NoController { controller: &'static str, wanted: &'static str },
    /// A file of the kernel refused.
    #[error("cgroup: {action} {path}: {source}")]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Device rules are a program of the kernel's in version 2, and it refused it.
    #[error("cgroup: device rules of {path}: {source}")]
    Devices {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Processes would not die.
    #[error("cgroup {path}: processes are left after they were killed")]
    Busy { path: PathBuf },
}

/// Which generation of the interface limits go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy for each controller.
    V1,
    /// One for all.
    V2,
}

/// The cgroup file systems of this host.
#[derive(Debug, Clone)]
pub struct Hierarchy {
    version: Version,
    hybrid: bool,
    /// Where each controller lives: the root of its hierarchy (version 1), or one root for all.
    controllers: BTreeMap<String, PathBuf>,
    unified: Option<PathBuf>,
    /// Held while parents that cgroups share are made or removed.
    shared: Arc<Mutex<()>>,
}

const CGROUP2_MAGIC: i64 = 0x6367_7270;

impl Hierarchy {
    /// Looks at `/sys/fs/cgroup`.
    pub fn detect() -> Result<Self, CgroupError> {
        Self::detect_at(Path::new("/sys/fs/cgroup"))
    }

    fn detect_at(root: &Path) -> Result<Self, CgroupError> {
        if is_cgroup2(root) {
            let listed = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
            let mut controllers: BTreeMap<String, PathBuf> =
                listed.split_whitespace().map(|name| (name.to_owned(), root.to_owned())).collect();
            // Freezing and device rules belong to every cgroup of version 2.
            for built_in in ["freezer", "devices"] {
                controllers.insert(built_in.to_owned(), root.to_owned());
            }
            return Ok(Self {
                version: Version::V2,
                hybrid: false,
                controllers,
                unified: Some(root.to_owned()),
                shared: Arc::default(),
            });
        }
        let mut controllers = BTreeMap::new();
        let mut unified = None;
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for line in mounts.lines() {
            let mut fields = line.split(' ');
            let (Some(_), Some(target), Some(kind), Some(options)) =
                (fields.next(), fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let target = PathBuf::from(target);
            if !target.starts_with(root) {
                continue;
            }
            if kind == "cgroup2" {
                unified = Some(target);
            } else if kind == "cgroup" {
                for name in options.split(',') {
                    let known = [
                        "cpu",
                        "cpuacct",
                        "cpuset",
                        "memory",
                        "devices",
                        "freezer",
                        "blkio",
                        "pids",
                        "hugetlb",
                        "net_cls",
                        "net_prio",
                        "perf_event",
                    ];
                    if known.contains(&name) {
                        controllers.entry(name.to_owned()).or_insert_with(|| target.clone());
                    }
                }
            }
        }
        if controllers.is_empty() && unified.is_none() {
            return Err(CgroupError::Absent);
        }
        Ok(Self { version: Version::V1, hybrid: unified.is_some(), controllers, unified, shared: Arc::default() })
    }

    /// The generation in use.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether version 2 is mounted beside the controllers of version 1.
    #[must_use]
    pub fn hybrid(&self) -> bool {
        self.hybrid
    }

    /// Names of the controllers.
    pub fn controllers(&self) -> impl Iterator<Item = &str> {
        self.controllers.keys().map(String::as_str)
    }

    /// Whether there is such a controller.
    #[must_use]
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.contains_key(controller)
    }

    /// Whether a group's memory has a swappiness of its own.
    #[must_use]
    pub fn has_swappiness(&self) -> bool {
        self.has_memory_file("memory.swappiness")
    }

    /// Whether the kernel can be kept from killing for want of memory in a group.
    #[must_use]
    pub fn can_disable_oom_kills(&self) -> bool {
        self.has_memory_file("memory.oom_control")
    }

    fn has_memory_file(&self, name: &str) -> bool {
        self.version == Version::V1 && self.controllers.get("memory").is_some_and(|root| root.join(name).exists())
    }

    /// The mount points to show inside a container under version 1: name of the folder and where it lies.
    #[must_use]
    pub fn mount_points(&self) -> BTreeMap<String, PathBuf> {
        let mut points = BTreeMap::new();
        for root in self.controllers.values().chain(self.unified.iter()) {
            if let Some(name) = root.file_name() {
                points.insert(name.to_string_lossy().into_owned(), root.clone());
            }
        }
        points
    }

    /// The cgroup at an absolute path such as `/sampan-ab12cd/<id>`.
    #[must_use]
    pub fn cgroup(&self, path: &str) -> Cgroup {
        Cgroup { hierarchy: self.clone(), path: path.trim_matches('/').to_owned() }
    }
}

// The type differs between targets.
#[allow(clippy::useless_conversion)]
fn is_cgroup2(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|found| i64::from(found.filesystem_type().0) == CGROUP2_MAGIC)
}

/// A cgroup, whether it exists yet or not.
#[derive(Debug, Clone)]
pub struct Cgroup {
    hierarchy: Hierarchy,
    path: String,
}

impl Cgroup {
    /// Every directory that this cgroup is: one for each hierarchy.
    fn directories(&self) -> Vec<PathBuf> {
        let mut roots: Vec<&PathBuf> = self.hierarchy.controllers.values().collect();
        roots.sort();
        roots.dedup();
        roots.into_iter().map(|root| root.join(&self.path)).collect()
    }

    /// The directory of one controller.
    fn directory(&self, controller: &str) -> Option<PathBuf> {
        self.hierarchy.controllers.get(controller).map(|root| root.join(&self.path))
    }

    /// Makes sure that it exists.
    pub fn ensure(&self) -> Result<(), CgroupError> {
        match self.hierarchy.version {
            Version::V1 => v1::ensure(self),
            Version::V2 => v2::ensure(self),
        }
    }

    /// As [`Self::ensure`]; those above it that were missing are noted as `owner`'s, where the kernel keeps such notes.
    pub fn ensure_for(&self, owner: &str) -> Result<(), CgroupError> {
        let _shared = self.shared();
        let mut missing: Vec<PathBuf> = Vec::new();
        for directory in self.directories() {
            // A hierarchy's root is always there: the walk ends below it.
            let above = directory.ancestors().skip(1).take_while(|above| !above.exists());
            missing.extend(above.map(Path::to_owned));
        }
        self.ensure()?;
        for directory in missing {
            marks::set(&directory, owner);
        }
        Ok(())
    }

    /// Removes what is empty above it and was made for `owner`, up to but without `top`.
    pub fn remove_parents(&self, owner: &str, top: &str) {
        let _shared = self.shared();
        let top = Path::new(top.trim_matches('/'));
        for directory in self.directories() {
            for above in directory.ancestors().skip(1) {
                if above.ends_with(top) || !marks::is(above, owner) || fs::remove_dir(above).is_err() {
                    break;
                }
            }
        }
    }

    fn shared(&self) -> MutexGuard<'_, ()> {
        self.hierarchy.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies the limits that are given; the others stay.
    pub fn apply(&self, limits: &Limits) -> Result<(), CgroupError> {
        match self.hierarchy.version {
            Version::V1 => v1::apply(self, limits)?,
            Version::V2 => v2::apply(self, limits)?,
        }
        match &limits.devices {
            Some(rules) => self.apply_devices(rules),
            None => Ok(()),
        }
    }

    fn apply_devices(&self, rules: &[DeviceRule]) -> Result<(), CgroupError> {
        match self.hierarchy.version {
            Version::V1 => v1::devices(self, rules),
            Version::V2 => {
                let Some(directory) = self.directory("devices") else { return Ok(()) };
                devices::attach(&directory, rules).map_err(|source| CgroupError::Devices { path: directory, source })
            }
        }
    }

    /// What a process of one thread moves itself into it with.
    ///
    /// Whoever moves another process waits until the kernel has every processor's word that nobody forks, 8 to 20 ms;
    /// a thread that moves itself alone, as version 1 allows, waits for nobody.
    pub fn entry(&self) -> Result<Entry, CgroupError> {
        let file = match self.hierarchy.version {
            Version::V1 => "tasks",
            Version::V2 => "cgroup.procs",
        };
        let open = |directory: PathBuf| {
            let path = directory.join(file);
            match fs::OpenOptions::new().write(true).open(&path) {
                Ok(file) => Ok((path, file)),
                Err(source) => Err(CgroupError::File { action: "open", path, source }),
            }
        };
        self.directories().into_iter().map(open).collect::<Result<_, _>>().map(Entry)
    }

    /// The directory for `CLONE_INTO_CGROUP`; only version 2 can do that.
    #[must_use]
    pub fn descriptor(&self) -> Option<OwnedFd> {
        if self.hierarchy.version == Version::V1 {
            return None;
        }
        let root = self.hierarchy.unified.as_ref()?;
        fs::File::open(root.join(&self.path)).ok().map(OwnedFd::from)
    }

    /// Processes in it and below.
    #[must_use]
    pub fn processes(&self) -> Vec<i32> {
        let Some(directory) = self.directories().into_iter().next() else { return Vec::new() };
        let mut found = Vec::new();
        collect_processes(&directory, &mut found);
        found.sort_unstable();
        found
    }

    /// Stops every process from running.
    pub fn freeze(&self) -> Result<(), CgroupError> {
        self.set_frozen(true)
    }

    /// Lets them go on.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        self.set_frozen(false)
    }

    fn set_frozen(&self, frozen: bool) -> Result<(), CgroupError> {
        let Some(directory) = self.directory("freezer") else {
            return Err(CgroupError::NoController { controller: "freezer", wanted: "pausing" });
        };
        let (file, value) = match self.hierarchy.version {
            Version::V1 => ("freezer.state", if frozen { "FROZEN" } else { "THAWED" }),
            Version::V2 => ("cgroup.freeze", if frozen { "1" } else { "0" }),
        };
        write(&directory.join(file), value)?;
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.is_frozen() != frozen && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Whether it is frozen.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        let Some(directory) = self.directory("freezer") else { return false };
        match self.hierarchy.version {
            Version::V1 => {
                fs::read_to_string(directory.join("freezer.state")).is_ok_and(|state| state.trim() == "FROZEN")
            }
            Version::V2 => fs::read_to_string(directory.join("cgroup.events"))
                .is_ok_and(|events| events.lines().any(|line| line == "frozen 1")),
        }
    }

    /// Kills every process in it, also frozen ones, and waits until they are gone.
    pub fn kill(&self) -> Result<(), CgroupError> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let processes = self.processes();
            if processes.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(CgroupError::Busy { path: PathBuf::from(&self.path) });
            }
            if self.hierarchy.version == Version::V2 {
                v2::kill(self);
            }
            for pid in processes {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            }
            if self.is_frozen() {
                let _ = self.thaw();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The numbers.
    #[must_use]
    pub fn stats(&self) -> Stats {
        match self.hierarchy.version {
            Version::V1 => v1::stats(self),
            Version::V2 => v2::stats(self),
        }
    }

    /// How many processes the kernel has killed in it for want of memory.
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        let (file, key) = match self.hierarchy.version {
            Version::V1 => ("memory.oom_control", "oom_kill"),
            Version::V2 => ("memory.events", "oom_kill"),
        };
        self.directory("memory")
            .map_or(0, |directory| stats::keyed(&directory.join(file)).get(key).copied().unwrap_or(0))
    }

    /// Removes it with what is below; processes must be gone.
    pub fn remove(&self) -> Result<(), CgroupError> {
        for directory in self.directories() {
            remove_tree(&directory)?;
        }
        Ok(())
    }
}

/// Files of a cgroup that let in who writes to them.
#[derive(Debug)]
pub struct Entry(Vec<(PathBuf, fs::File)>);

impl Entry {
    /// Moves the calling process, which has one thread.
    pub fn join(&self) -> Result<(), CgroupError> {
        for (path, file) in &self.0 {
            let mut file: &fs::File = file;
            file.write_all(b"0").map_err(|source| CgroupError::File { action: "write", path: path.clone(), source })?;
        }
        Ok(())
    }
}

fn collect_processes(directory: &Path, found: &mut Vec<i32>) {
    let listed = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    found.extend(listed.lines().filter_map(|line| line.parse::<i32>().ok()));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_processes(&entry.path(), found);
        }
    }
}

fn remove_tree(directory: &Path) -> Result<(), CgroupError> {
    match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(CgroupError::File { action: "list", path: directory.to_owned(), source }),
        Ok(entries) => {
            for entry in entries.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    remove_tree(&entry.path())?;
                }
            }
        }
    }
    // A process that was just reaped can hold its cgroup for a moment.
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        match fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(source) => return Err(CgroupError::File { action: "remove", path: directory.to_owned(), source }),
        }
    }
}

fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    fs::write(path, value).map_err(|source| CgroupError::File { action: "write", path: path.to_owned(), source })
}

fn make_directory(path: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(CgroupError::File { action: "create", path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::process::CommandExt;

    #[test]
    fn parents_go_when_they_are_empty_and_were_made_for_their_owner() {
        let test = "parents_go_when_they_are_empty_and_were_made_for_their_owner";
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: {test} needs root");
            return;
        }
        let Ok(hierarchy) = Hierarchy::detect() else {
            println!("skipped: {test} needs a cgroup mount");
            return;
        };
        let top = format!("/sampan-test-parents-{}", std::process::id());
        let found = hierarchy.cgroup(&format!("{top}/found"));
        let (one, two) = (format!("{top}/found/a/b/one"), format!("{top}/found/a/two"));
        let (one, two) = (hierarchy.cgroup(&one), hierarchy.cgroup(&two));
        found.ensure().unwrap();
        one.ensure_for("me").unwrap();
        two.ensure_for("me").unwrap();
        let is_there = |path: &str| hierarchy.cgroup(&format!("{top}/{path}")).directories()[0].exists();
        one.remove().unwrap();
        one.remove_parents("another", "/none");
        assert!(is_there("found/a/b"), "another's");
        one.remove_parents("me", "/none");
        assert!(!is_there("found/a/b") && is_there("found/a/two"), "what is not empty stays");
        two.remove().unwrap();
        two.remove_parents("me", "/none");
        assert!(!is_there("found/a") && is_there("found"), "what was there before stays");
        one.ensure_for("me").unwrap();
        one.remove().unwrap();
        one.remove_parents("me", &format!("{top}/found/a"));
        assert!(!is_there("found/a/b") && is_there("found/a"), "the top stays");
        hierarchy.cgroup(&top).remove().unwrap();
    }

    #[test]
    fn a_cgroup_limits_counts_kills_and_goes() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: a_cgroup_limits_counts_kills_and_goes needs root");
            return;
        }
        let Ok(hierarchy) = Hierarchy::detect() else {
            println!("skipped: a_cgroup_limits_counts_kills_and_goes needs a cgroup mount");
            return;
        };
        let parent = hierarchy.cgroup(&format!("/sampan-test-{}", std::process::id()));
        let cgroup = hierarchy.cgroup(&format!("/sampan-test-{}/one", std::process::id()));
        cgroup.ensure().unwrap();
        cgroup.ensure().unwrap();
        let limits = Limits {
            memory: Some(64 << 20),
            pids: Some(20),
            cpu_shares: Some(512),
            devices: Some(default_rules()),
            ..Limits::default()
        };
        cgroup.apply(&limits).unwrap();
        cgroup.apply(&limits).unwrap();
        let entry = cgroup.entry().unwrap();
        let mut command = std::process::Command::new("sleep");
        // SAFETY: the child writes to files that are open, and no more.
        #[allow(unsafe_code)]
        unsafe {
            command.pre_exec(move || entry.join().map_err(io::Error::other));
        }
        let mut child = command.arg("60").spawn().unwrap();
        assert_eq!(cgroup.processes(), [i32::try_from(child.id()).unwrap()]);
        let stats = cgroup.stats();
        assert_eq!(stats.memory_limit, Some(64 << 20));
        assert_eq!(stats.pids_limit, Some(20));
        assert_eq!(stats.pids_current, 1);
        cgroup.freeze().unwrap();
        assert!(cgroup.is_frozen());
        let reaper = std::thread::spawn(move || child.wait().unwrap());
        cgroup.kill().unwrap();
        assert!(!reaper.join().unwrap().success());
        cgroup.remove().unwrap();
        cgroup.remove().unwrap();
        parent.remove().unwrap();
        assert!(cgroup.directories().iter().all(|directory| !directory.exists()));
    }
}
