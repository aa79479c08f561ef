//! The container's file system: mounts, devices, pivot, masked and read-only paths.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open, openat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknodat};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Mount, Spec};

use crate::mounts::MountOptions;
use crate::paths::{descriptor_path, ensure_directory, ensure_file};
use crate::sys::{self, MountAttributes, open_in_root};
use crate::{At, Failure};

/// Opens the root file system as a mount of its own, apart from the host's.
pub fn enter_private(root: &Path) -> Result<OwnedFd, Failure> {
    let none = None::<&Path>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none).at(|| "make mounts private".into())?;
    mount(Some(root), root, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
        .at(|| format!("bind the root file system {}", root.display()))?;
    mount(none, root, none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .at(|| format!("make the root file system {} private", root.display()))?;
    open(root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .at(|| format!("open the root file system {}", root.display()))
}

/// Makes every mount of the configuration, in order.
pub fn mount_all(root: BorrowedFd<'_>, spec: &Spec) -> Result<(), Failure> {
    for entry in spec.mounts().iter().flatten() {
        mount_one(root, entry).at(|| {
            let source = entry.source().as_ref().map(|source| format!("{} ", source.display())).unwrap_or_default();
            format!("mount {source}at {}", entry.destination().display())
        })?;
    }
    Ok(())
}

fn mount_one(root: BorrowedFd<'_>, entry: &Mount) -> io::Result<()> {
    let options = MountOptions::parse(entry.options().iter().flatten().map(String::as_str));
    let kind = entry.typ().as_deref().unwrap_or("bind");
    let destination = entry.destination();
    if let Some(recursive) = options.bind.or_else(|| (kind == "bind").then_some(false)) {
        let source = entry.source().as_deref().unwrap_or(Path::new(""));
        return bind(root, source, destination, recursive, &options);
    }
    let target = ensure_directory(root, destination)?;
    let flags = MsFlags::from_bits_truncate(options.flags);
    let at = descriptor_path(target.as_fd());
    match kind {
        "cgroup" => cgroup_v1(root, destination, flags),
        "tmpfs" if options.copy_up => {
            let before = sys::open_tree(target.as_fd(), false)?;
            let data = inherit_mode(&options.data, target.as_fd());
            mount(Some("tmpfs"), &at, Some("tmpfs"), flags & !MsFlags::MS_RDONLY, Some(data.as_str()))?;
            let over = open_in_root(root, destination, libc::O_PATH | libc::O_DIRECTORY, 0)?;
            copy_tree(&descriptor_path(before.as_fd()), &descriptor_path(over.as_fd()))?;
            if flags.contains(MsFlags::MS_RDONLY) {
                let attributes = MountAttributes { set: libc::MOUNT_ATTR_RDONLY, ..MountAttributes::default() };
                sys::mount_setattr(over.as_fd(), false, attributes)?;
            }
            Ok(())
        }
        _ => {
            let source = entry.source().clone().unwrap_or_else(|| PathBuf::from(kind));
            let data = Some(options.data.as_str()).filter(|data| !data.is_empty());
            mount(Some(&source), &at, Some(kind), flags, data).map_err(io::Error::from)
        }
    }
}

/// A tmpfs over a directory of the image keeps that directory's mode, unless one was asked for.
fn inherit_mode(data: &str, target: BorrowedFd<'_>) -> String {
    let mode = nix::sys::stat::fstat(target).map_or(0o755, |stat| stat.st_mode & 0o7777);
    if data.split(',').any(|option| option.starts_with("mode=")) {
        data.to_owned()
    } else if data.is_empty() {
        format!("mode={mode:o}")
    } else {
        format!("{data},mode={mode:o}")
    }
}

/// What an image has below a tmpfs is small; files, links and directories with their rights are enough.
fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            std::fs::create_dir(&target)?;
            copy_tree(&source, &target)?;
        } else if metadata.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(&source)?, &target)?;
        } else if metadata.is_file() {
            std::fs::copy(&source, &target)?;
        } else {
            continue;
        }
        std::os::unix::fs::lchown(&target, Some(metadata.uid()), Some(metadata.gid()))?;
        if !metadata.is_symlink() {
            std::fs::set_permissions(&target, metadata.permissions())?;
        }
    }
    Ok(())
}

fn bind(
    root: BorrowedFd<'_>,
    source: &Path,
    destination: &Path,
    recursive: bool,
    options: &MountOptions,
) -> io::Result<()> {
    let opened = open(source, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    let is_directory = nix::sys::stat::fstat(opened.as_fd())?.st_mode & libc::S_IFMT == libc::S_IFDIR;
    let target = if is_directory { ensure_directory(root, destination)? } else { ensure_file(root, destination)? };
    let tree = sys::open_tree(opened.as_fd(), recursive)?;
    let attributes = options.attributes;
    if attributes.propagation != 0 {
        let only = MountAttributes { propagation: attributes.propagation, ..MountAttributes::default() };
        sys::mount_setattr(tree.as_fd(), true, only)?;
    }
    let only = MountAttributes { propagation: 0, ..attributes };
    if only.set != 0 || only.clear != 0 {
        sys::mount_setattr(tree.as_fd(), options.recursive_attributes, only)?;
    }
    sys::move_mount(tree.as_fd(), target.as_fd())
}

/// Version 1 inside a container: a tmpfs with each hierarchy, seen from the container's own cgroup.
fn cgroup_v1(root: BorrowedFd<'_>, destination: &Path, flags: MsFlags) -> io::Result<()> {
    let Ok(hierarchy) = sampan_cgroup::Hierarchy::detect() else { return Ok(()) };
    if hierarchy.version() == sampan_cgroup::Version::V2 {
        let target = ensure_directory(root, destination)?;
        return mount(Some("cgroup"), &descriptor_path(target.as_fd()), Some("cgroup2"), flags, None::<&str>)
            .map_err(io::Error::from);
    }
    let base = ensure_directory(root, destination)?;
    let writable = flags & !MsFlags::MS_RDONLY;
    mount(Some("tmpfs"), &descriptor_path(base.as_fd()), Some("tmpfs"), writable, Some("mode=755"))?;
    for (name, path) in hierarchy.mount_points() {
        let target = ensure_directory(root, &destination.join(&name))?;
        let unified = name == "unified";
        let controllers: Vec<&str> = if unified { Vec::new() } else { name.split(',').collect() };
        let data = controllers.join(",");
        let kind = if unified { "cgroup2" } else { "cgroup" };
        let data = Some(data.as_str()).filter(|data| !data.is_empty());
        // A hierarchy that cannot be shown is left out rather than keeping the container from starting.
        let _ = mount(Some(kind), &descriptor_path(target.as_fd()), Some(kind), flags, data);
        drop(path);
    }
    if flags.contains(MsFlags::MS_RDONLY) {
        let base = ensure_directory(root, destination)?;
        let attributes = MountAttributes { set: libc::MOUNT_ATTR_RDONLY, ..MountAttributes::default() };
        sys::mount_setattr(base.as_fd(), false, attributes)?;
    }
    Ok(())
}

const DEVICES: [(&str, u64, u64); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Makes the standard devices, those of the configuration, and the usual links below `/dev`.
pub fn devices(root: BorrowedFd<'_>, spec: &Spec) -> Result<(), Failure> {
    let dev = ensure_directory(root, Path::new("dev")).at(|| "open /dev".into())?;
    for (name, major, minor) in DEVICES {
        make_node(dev.as_fd(), Path::new(name), SFlag::S_IFCHR, 0o666, makedev(major, minor), (0, 0))
            .at(|| format!("make the device /dev/{name}"))?;
    }
    for device in spec.linux().as_ref().and_then(|linux| linux.devices().as_ref()).into_iter().flatten() {
        configured(root, device).at(|| format!("make the device {}", device.path().display()))?;
    }
    let links = [
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
        ("pts/ptmx", "ptmx"),
    ];
    for (target, name) in links {
        match nix::unistd::symlinkat(target, dev.as_fd(), name) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            Err(errno) => return Err(errno).at(|| format!("make the link /dev/{name}")),
        }
    }
    Ok(())
}

fn configured(root: BorrowedFd<'_>, device: &LinuxDevice) -> io::Result<()> {
    let path = device.path();
    let parent = ensure_directory(root, path.parent().unwrap_or(Path::new("dev")))?;
    let name = Path::new(path.file_name().ok_or_else(|| io::Error::other("the path names no file"))?);
    let kind = match device.typ() {
        LinuxDeviceType::B => SFlag::S_IFBLK,
        LinuxDeviceType::P => SFlag::S_IFIFO,
        LinuxDeviceType::C | LinuxDeviceType::U | LinuxDeviceType::A => SFlag::S_IFCHR,
    };
    let number = makedev(device.major().cast_unsigned(), device.minor().cast_unsigned());
    let owner = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
    make_node(parent.as_fd(), name, kind, device.file_mode().unwrap_or(0o666), number, owner)
}

/// In a user namespace nodes cannot be made; the host's is bound instead.
fn make_node(
    parent: BorrowedFd<'_>,
    name: &Path,
    kind: SFlag,
    mode: u32,
    number: u64,
    owner: (u32, u32),
) -> io::Result<()> {
    match mknodat(parent, name, kind, Mode::from_bits_truncate(mode), number) {
        Ok(()) => {
            let opened = openat(parent, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
            let path = descriptor_path(opened.as_fd());
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode & 0o7777))?;
            std::os::unix::fs::chown(&path, Some(owner.0), Some(owner.1))
        }
        Err(nix::errno::Errno::EEXIST) => Ok(()),
        Err(nix::errno::Errno::EPERM) => {
            let host = open(&Path::new("/dev").join(name), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
            drop(openat(
                parent,
                name,
                OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_CLOEXEC,
                Mode::from_bits_truncate(0o666),
            )?);
            let target = openat(parent, name, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
            let tree = sys::open_tree(host.as_fd(), false)?;
            sys::move_mount(tree.as_fd(), target.as_fd())
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Makes the new root the root, and lets go of the old one.
pub fn pivot(root: BorrowedFd<'_>) -> Result<(), Failure> {
    let step = || "pivot to the root file system".to_owned();
    let old = open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).at(step)?;
    nix::unistd::fchdir(root).at(step)?;
    // The old root lands on top of the new one and is taken off again: no directory is needed for it.
    nix::unistd::pivot_root(".", ".").at(step)?;
    nix::unistd::fchdir(old.as_fd()).at(step)?;
    mount(None::<&str>, ".", None::<&str>, MsFlags::MS_SLAVE | MsFlags::MS_REC, None::<&str>).at(step)?;
    umount2(".", MntFlags::MNT_DETACH).at(|| "let go of the host's root".into())?;
    nix::unistd::chdir("/").at(step)
}

/// Hides and protects paths; those that are not there are no matter.
pub fn protect(spec: &Spec) -> Result<(), Failure> {
    let root =
        open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).at(|| "open /".into())?;
    let Some(linux) = spec.linux() else { return Ok(()) };
    let masked: Vec<&String> = linux.masked_paths().iter().flatten().collect();
    if !masked.is_empty() {
        let null = null_device(root.as_fd()).at(|| "open /dev/null of the container".into())?;
        for path in masked {
            mask(root.as_fd(), null.as_fd(), path).at(|| format!("mask {path}"))?;
        }
    }
    for path in linux.readonly_paths().iter().flatten() {
        read_only(root.as_fd(), path).at(|| format!("make {path} read-only"))?;
    }
    if spec.root().as_ref().is_some_and(|root| root.readonly().unwrap_or(false)) {
        let attributes = MountAttributes { set: libc::MOUNT_ATTR_RDONLY, ..MountAttributes::default() };
        let root = open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).at(|| "open /".into())?;
        sys::mount_setattr(root.as_fd(), false, attributes).at(|| "make the root file system read-only".into())?;
    }
    Ok(())
}

/// An image could have put something else where the null device is expected, and have it mounted over `/proc`.
fn null_device(root: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let null = open_in_root(root, Path::new("dev/null"), libc::O_PATH | libc::O_NOFOLLOW, 0)?;
    let metadata = std::fs::metadata(descriptor_path(null.as_fd()))?;
    if metadata.file_type().is_char_device() && metadata.rdev() == makedev(1, 3) {
        Ok(null)
    } else {
        Err(io::Error::other("it is not the null device"))
    }
}

fn mask(root: BorrowedFd<'_>, null: BorrowedFd<'_>, path: &str) -> io::Result<()> {
    let target = match open_in_root(root, Path::new(path), libc::O_PATH | libc::O_NOFOLLOW, 0) {
        Ok(target) => target,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(()),
        Err(error) => return Err(error),
    };
    let is_directory = nix::sys::stat::fstat(target.as_fd())?.st_mode & libc::S_IFMT == libc::S_IFDIR;
    if is_directory {
        let at = descriptor_path(target.as_fd());
        return mount(Some("tmpfs"), &at, Some("tmpfs"), MsFlags::MS_RDONLY, Some("size=0k")).map_err(io::Error::from);
    }
    let tree = sys::open_tree(null, false)?;
    sys::move_mount(tree.as_fd(), target.as_fd())
}

fn read_only(root: BorrowedFd<'_>, path: &str) -> io::Result<()> {
    let target = match open_in_root(root, Path::new(path), libc::O_PATH | libc::O_NOFOLLOW, 0) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let tree = sys::open_tree(target.as_fd(), true)?;
    let attributes = MountAttributes { set: libc::MOUNT_ATTR_RDONLY, ..MountAttributes::default() };
    sys::mount_setattr(tree.as_fd(), true, attributes)?;
    sys::move_mount(tree.as_fd(), target.as_fd())
}

/// Writes kernel parameters of the container's namespaces, through a verified `/proc`.
pub fn sysctls(root: BorrowedFd<'_>, spec: &Spec) -> Result<(), Failure> {
    let Some(values) = spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref()) else { return Ok(()) };
    for (name, value) in values {
        let path = PathBuf::from("proc/sys").join(name.replace('.', "/"));
        let write = || -> io::Result<()> {
            let file = open_in_root(root, &path, libc::O_WRONLY, 0)?;
            if nix::sys::statfs::fstatfs(file.as_fd())?.filesystem_type() != nix::sys::statfs::PROC_SUPER_MAGIC {
                return Err(io::Error::other("/proc is not the kernel's"));
            }
            nix::unistd::write(file.as_fd(), value.as_bytes()).map(drop).map_err(io::Error::from)
        };
        write().at(|| format!("set the kernel parameter {name} to {value:?}"))?;
    }
    Ok(())
}

/// Whether a descriptor lies below the present root: the way up from it ends there.
pub fn is_inside(directory: BorrowedFd<'_>) -> bool {
    // The kernel shows a directory outside of the root as unreachable.
    std::fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd()))
        .map_or(true, |path| !path.as_os_str().to_string_lossy().starts_with("(unreachable)"))
}
