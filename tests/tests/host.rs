//! The host itself: what containers need of a kernel, and which of it there is.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::Path;

/// Whether a file system of this type is mounted at a path.
fn mounted(path: &str, kind: &str) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().any(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        fields.get(1) == Some(&path) && fields.get(2) == Some(&kind)
    })
}

#[test]
fn the_host_has_what_containers_need() {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let unified = mounted("/sys/fs/cgroup", "cgroup2");
    let version = if unified { "cgroup v2" } else { "cgroup v1" };
    println!("Linux {}, {version}", kernel.trim());
    if unified {
        let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap();
        for needed in ["cpu", "cpuset", "io", "memory", "pids"] {
            assert!(controllers.split_whitespace().any(|name| name == needed), "{needed} is not in {controllers}");
        }
    }
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap();
    for needed in ["overlay", "tmpfs", "mqueue", "proc", "sysfs"] {
        assert!(filesystems.split_whitespace().any(|name| name == needed), "no {needed} in {filesystems}");
    }
    for namespace in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
        assert!(Path::new("/proc/self/ns").join(namespace).exists(), "no {namespace} namespaces");
    }
}
