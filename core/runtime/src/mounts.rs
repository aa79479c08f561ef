//! Mount options as OCI writes them, in the kernel's terms. Pure.

use nix::mount::MsFlags;

use crate::sys::MountAttributes;

/// Options of one mount.
#[derive(Debug, Default, Clone)]
pub struct MountOptions {
    /// For `mount(2)`.
    pub flags: u64,
    /// Attributes to set and clear on bind mounts, and whether on those below too.
    pub attributes: MountAttributes,
    /// `rro` and the like: also for the mounts below.
    pub recursive_attributes: bool,
    /// A bind mount, with what is below or without.
    pub bind: Option<bool>,
    /// Copy what the image has there into a tmpfs.
    pub copy_up: bool,
    /// What is left for the file system itself.
    pub data: String,
}

impl MountOptions {
    /// Sorts a list of options.
    pub fn parse<'a>(options: impl IntoIterator<Item = &'a str>) -> Self {
        let mut parsed = Self::default();
        let mut data: Vec<&str> = Vec::new();
        for option in options {
            if let Some((flag, attribute, on)) = flag(option) {
                if on {
                    parsed.flags |= flag.bits();
                    parsed.attributes.set |= attribute;
                    parsed.attributes.clear &= !attribute;
                } else {
                    parsed.flags &= !flag.bits();
                    parsed.attributes.set &= !attribute;
                    parsed.attributes.clear |= attribute;
                }
                continue;
            }
            match option {
                "bind" => parsed.bind = Some(parsed.bind.unwrap_or(false)),
                "rbind" => parsed.bind = Some(true),
                "rro" => {
                    parsed.flags |= MsFlags::MS_RDONLY.bits();
                    parsed.attributes.set |= libc::MOUNT_ATTR_RDONLY;
                    parsed.recursive_attributes = true;
                }
                "private" | "rprivate" => parsed.attributes.propagation = MsFlags::MS_PRIVATE.bits(),
                "slave" | "rslave" => parsed.attributes.propagation = MsFlags::MS_SLAVE.bits(),
                "shared" | "rshared" => parsed.attributes.propagation = MsFlags::MS_SHARED.bits(),
                "unbindable" | "runbindable" => parsed.attributes.propagation = MsFlags::MS_UNBINDABLE.bits(),
                "tmpcopyup" => parsed.copy_up = true,
                "defaults" | "" => {}
                other => data.push(other),
            }
        }
        parsed.data = data.join(",");
        parsed
    }
}

fn flag(option: &str) -> Option<(MsFlags, u64, bool)> {
    Some(match option {
        "ro" => (MsFlags::MS_RDONLY, libc::MOUNT_ATTR_RDONLY, true),
        "rw" => (MsFlags::MS_RDONLY, libc::MOUNT_ATTR_RDONLY, false),
        "nosuid" => (MsFlags::MS_NOSUID, libc::MOUNT_ATTR_NOSUID, true),
        "suid" => (MsFlags::MS_NOSUID, libc::MOUNT_ATTR_NOSUID, false),
        "nodev" => (MsFlags::MS_NODEV, libc::MOUNT_ATTR_NODEV, true),
        "dev" => (MsFlags::MS_NODEV, libc::MOUNT_ATTR_NODEV, false),
        "noexec" => (MsFlags::MS_NOEXEC, libc::MOUNT_ATTR_NOEXEC, true),
        "exec" => (MsFlags::MS_NOEXEC, libc::MOUNT_ATTR_NOEXEC, false),
        "nodiratime" => (MsFlags::MS_NODIRATIME, libc::MOUNT_ATTR_NODIRATIME, true),
        "noatime" => (MsFlags::MS_NOATIME, libc::MOUNT_ATTR_NOATIME, true),
        "strictatime" => (MsFlags::MS_STRICTATIME, libc::MOUNT_ATTR_STRICTATIME, true),
        "relatime" => (MsFlags::MS_RELATIME, 0, true),
        "sync" => (MsFlags::MS_SYNCHRONOUS, 0, true),
        "dirsync" => (MsFlags::MS_DIRSYNC, 0, true),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_sort_into_flags_attributes_and_data() {
        let options = MountOptions::parse(["nosuid", "noexec", "mode=755", "size=64k", "ro", "rw"]);
        assert_eq!(options.flags, (MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC).bits());
        assert_eq!(options.data, "mode=755,size=64k");
        assert_eq!(options.bind, None);
        let bind = MountOptions::parse(["rbind", "rro", "rprivate"]);
        assert_eq!(bind.bind, Some(true));
        assert!(bind.recursive_attributes);
        assert_eq!(bind.attributes.set, libc::MOUNT_ATTR_RDONLY);
        assert_eq!(bind.attributes.propagation, MsFlags::MS_PRIVATE.bits());
    }
}
