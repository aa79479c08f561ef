//! What this host can do, found out once when the engine starts.

use std::fs;
use std::path::Path;

/// Facts that drivers choose by; see `wit/types.wit`.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Release of the kernel.
    pub kernel: String,
    /// Type of the file system below the data root.
    pub data_root_fs: String,
    /// `overlay`, `ipv6`, `link.macvlan` and the like.
    pub features: Vec<String>,
}

impl Facts {
    /// Looks at the kernel and at the data root.
    #[must_use]
    pub fn measure(root: &Path) -> Self {
        let kernel = nix::sys::utsname::uname()
            .map(|name| name.release().to_string_lossy().into_owned())
            .unwrap_or_else(|_| "unknown".to_owned());
        let mut features = Vec::new();
        let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        let has = |name: &str| filesystems.lines().any(|line| line.rsplit('\t').next() == Some(name));
        let data_root_fs = filesystem_type(root);
        // An overlay's upper directory cannot lie on another overlay.
        if has("overlay") && data_root_fs != "overlay" {
            features.push("overlay".to_owned());
        }
        if Path::new("/proc/net/if_inet6").exists() {
            features.push("ipv6".to_owned());
        }
        Self { kernel, data_root_fs, features }
    }

    /// Whether the host has a feature.
    #[must_use]
    pub fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|found| found == feature)
    }
}

fn filesystem_type(path: &Path) -> String {
    use nix::sys::statfs;
    let Ok(found) = statfs::statfs(path) else { return "unknown".to_owned() };
    let name = match found.filesystem_type() {
        statfs::EXT4_SUPER_MAGIC => "ext4",
        statfs::XFS_SUPER_MAGIC => "xfs",
        statfs::BTRFS_SUPER_MAGIC => "btrfs",
        statfs::TMPFS_MAGIC => "tmpfs",
        statfs::OVERLAYFS_SUPER_MAGIC => "overlay",
        statfs::NFS_SUPER_MAGIC => "nfs",
        statfs::FUSE_SUPER_MAGIC => "fuse",
        other => return format!("{:#x}", other.0),
    };
    name.to_owned()
}
