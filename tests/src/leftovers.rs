//! What a daemon could leave behind on the machine.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Things that carry a daemon's mark.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Mount points below its folder.
    pub mounts: Vec<PathBuf>,
    /// Its control groups.
    pub cgroups: Vec<PathBuf>,
    /// Processes that were started with its folder among their arguments.
    pub processes: Vec<(i32, String)>,
}

impl Leftovers {
    /// Looks for what is left of the daemon of a folder. Links and the packet filter went with its network namespace.
    #[must_use]
    pub fn of(folder: &Path, instance: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mounts = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .map(PathBuf::from)
            .filter(|target| target.starts_with(folder))
            .collect();
        let mut cgroups = Vec::new();
        if !instance.is_empty() {
            let name = format!("sampan-{instance}");
            let root = Path::new("/sys/fs/cgroup");
            let mut roots = vec![root.to_owned()];
            roots.extend(fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path()));
            cgroups = roots.into_iter().map(|root| root.join(&name)).filter(|path| path.exists()).collect();
            cgroups.sort();
            cgroups.dedup_by_key(|path| fs::canonicalize(path).unwrap_or_default());
        }
        let mut processes = Vec::new();
        let text = folder.to_string_lossy().into_owned();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
            if arguments.contains(&text) {
                processes.push((pid, arguments));
            }
        }
        Self { mounts, cgroups, processes }
    }

    /// Takes away what is left, so that a failed test does not trouble the next one.
    pub fn clear(&self) {
        for (pid, _) in &self.processes {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        for mount in self.mounts.iter().rev() {
            let _ = umount2(mount, MntFlags::MNT_DETACH);
        }
        for cgroup in &self.cgroups {
            for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
                let _ = fs::remove_dir(entry.path());
            }
            let _ = fs::remove_dir(cgroup);
        }
    }
}
