//! Carrying a plan out. Blocking; call it from a thread that may.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, RenameFlags, ResolveFlag, open, openat2, renameat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, mkdirat};
use serde::{Deserialize, Serialize};

use crate::plan::{Place, Step};
use crate::tree;
use crate::validate::Validated;

/// What handles stand for.
#[derive(Debug, Clone, Default)]
pub struct Handles {
    /// The driver's own tree.
    pub tree: PathBuf,
    /// What the core gave, by number.
    pub given: Vec<PathBuf>,
    /// A folder in which directories are made before they are moved to where they belong, if any. A file system that
    /// chooses the place on the disk by a directory's name then chooses another each time.
    pub apart: Option<PathBuf>,
}

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("{action} {path}: {source}")]
pub struct StorageError {
    /// What was being done.
    pub action: String,
    /// On what.
    pub path: PathBuf,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

/// What takes a step back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Undo {
    /// Take the mount off.
    Unmount(PathBuf),
    /// Remove the directory, if it is empty.
    RemoveDirectory(PathBuf),
    /// Remove the tree that a copy made.
    RemoveTree(PathBuf),
}

/// The path that a place stands for.
#[must_use]
pub fn resolve(place: &Place, handles: &Handles) -> PathBuf {
    match place {
        Place::Tree(path) => handles.tree.join(path),
        Place::Given(number) => handles.given.get(*number as usize).cloned().unwrap_or_default(),
    }
}

/// Carries a plan out. When a step fails, those before it are undone.
pub fn execute(plan: &Validated, handles: &Handles) -> Result<Vec<Undo>, StorageError> {
    let mut done = Vec::new();
    for step in &plan.0 {
        match take(step, handles) {
            Ok(taken) => done.extend(taken),
            Err(error) => {
                undo(&done);
                return Err(error);
            }
        }
    }
    Ok(done)
}

/// Takes steps back, the last one first. What is gone already is fine.
pub fn undo(done: &[Undo]) {
    for step in done.iter().rev() {
        match step {
            Undo::Unmount(path) => drop(unmount(path)),
            Undo::RemoveDirectory(path) => drop(fs::remove_dir(path)),
            Undo::RemoveTree(path) => drop(tree::remove_tree(path)),
        }
    }
}

fn failed(action: impl Into<String>, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    let (action, path) = (action.into(), path.to_owned());
    move |source| StorageError { action, path, source }
}

fn take(step: &Step, handles: &Handles) -> Result<Option<Undo>, StorageError> {
    match step {
        Step::Directory { at, mode, uid, gid } => {
            let path = resolve(at, handles);
            let made =
                ensure_directory(handles, at, *mode, *uid, *gid).map_err(failed("create the directory", &path))?;
            Ok(made.then_some(Undo::RemoveDirectory(path)))
        }
        Step::Remove(at) => {
            let path = resolve(at, handles);
            tree::remove_tree(&path).map_err(failed("remove", &path))?;
            Ok(None)
        }
        Step::Copy { from, to } => {
            let (source, target) = (resolve(from, handles), resolve(to, handles));
            let empty = fs::read_dir(&target).is_ok_and(|mut entries| entries.next().is_none()) || !target.exists();
            // A copy that was made before stays as it is: the container has written to it since.
            if !empty {
                return Ok(None);
            }
            tree::copy_tree(&source, &target).map_err(failed(format!("copy {} to", source.display()), &target))?;
            Ok(Some(Undo::RemoveTree(target)))
        }
        Step::Unmount(at) => {
            let path = resolve(at, handles);
            unmount(&path).map_err(failed("unmount", &path))?;
            Ok(None)
        }
        Step::Mount { fstype, source, target, options, places } => {
            let path = resolve(target, handles);
            if is_mount_point(&path) {
                return Ok(None);
            }
            mount_step(fstype, source.as_ref(), &path, options, places, handles)
                .map_err(failed(format!("mount {fstype} at"), &path))?;
            Ok(Some(Undo::Unmount(path)))
        }
        Step::Remote { fstype, device, target, options } => {
            let path = resolve(target, handles);
            if is_mount_point(&path) {
                return Ok(None);
            }
            let (flags, data) = flags_and_data(options);
            mount(Some(device.as_str()), &path, Some(fstype.as_str()), flags, Some(data.as_str()))
                .map_err(|errno| failed(format!("mount {device} ({fstype}) at"), &path)(errno.into()))?;
            Ok(Some(Undo::Unmount(path)))
        }
        Step::Bind { device, target, options } => {
            let path = resolve(target, handles);
            if is_mount_point(&path) {
                return Ok(None);
            }
            let (flags, _) = flags_and_data(options);
            bind(Path::new(device), &path, flags).map_err(failed(format!("bind {device} to"), &path))?;
            Ok(Some(Undo::Unmount(path)))
        }
    }
}

/// Opens the parent below its root without following a link, then makes the last part. Whether it was made now.
fn ensure_directory(handles: &Handles, at: &Place, mode: u32, uid: u32, gid: u32) -> io::Result<bool> {
    let Place::Tree(relative) = at else {
        return match fs::create_dir_all(resolve(at, handles)) {
            Ok(()) => Ok(false),
            Err(error) => Err(error),
        };
    };
    fs::create_dir_all(&handles.tree)?;
    let root = open(&handles.tree, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let relative = Path::new(relative);
    let parent =
        open_below(&root, relative.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new(".")))?;
    let name = relative.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    match make_directory(&parent, name, mode, handles.apart.as_deref()) {
        Ok(()) => {
            let made = open_below(&root, relative)?;
            let path = format!("/proc/self/fd/{}", made.as_raw_fd());
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
            if (uid, gid) != (0, 0) {
                std::os::unix::fs::chown(&path, Some(uid), Some(gid))?;
            }
            Ok(true)
        }
        Err(nix::errno::Errno::EEXIST) => open_below(&root, relative).map(|_| false),
        Err(errno) => Err(errno.into()),
    }
}

/// Makes a directory; by way of another folder if one is given and lies on the same file system.
fn make_directory(parent: &OwnedFd, name: &OsStr, mode: u32, apart: Option<&Path>) -> nix::Result<()> {
    let mode = Mode::from_bits_truncate(mode);
    if let Some(folder) = apart
        && let Ok(made) = tempfile::Builder::new().prefix("layer-").tempdir_in(folder)
    {
        // What is there already, a directory or not, stays: the plain way below says so.
        if renameat2(AT_FDCWD, made.path(), parent, name, RenameFlags::RENAME_NOREPLACE).is_ok() {
            let _ = made.keep();
            return Ok(());
        }
    }
    mkdirat(parent.as_fd(), name, mode)
}

fn open_below(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    openat2(root.as_fd(), path, how).map_err(io::Error::from)
}

/// Directories go to the kernel by descriptor: short, so that many fit, and not walked again by name.
fn mount_step(
    fstype: &str,
    source: Option<&Place>,
    target: &Path,
    options: &[String],
    places: &[(String, Place)],
    handles: &Handles,
) -> io::Result<()> {
    fs::create_dir_all(target)?;
    let (flags, mut data) = flags_and_data(options);
    if fstype == "bind" {
        let source = source.map(|source| resolve(source, handles)).unwrap_or_default();
        return bind(&source, target, flags);
    }
    let mut opened: Vec<File> = Vec::new();
    let mut named: Vec<(String, Vec<String>)> = Vec::new();
    for (name, place) in places {
        let file = File::from(open(
            &resolve(place, handles),
            OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?);
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        opened.push(file);
        match named.iter_mut().find(|(found, _)| found == name) {
            Some((_, paths)) => paths.push(path),
            None => named.push((name.clone(), vec![path])),
        }
    }
    for (name, paths) in named {
        if !data.is_empty() {
            data.push(',');
        }
        data.push_str(&format!("{name}={}", paths.join(":")));
    }
    let source: OsString = source.map_or_else(|| fstype.into(), |source| resolve(source, handles).into());
    mount(Some(source.as_os_str()), target, Some(fstype), flags, Some(data.as_str())).map_err(io::Error::from)
}

fn bind(source: &Path, target: &Path, flags: MsFlags) -> io::Result<()> {
    let none = None::<&str>;
    mount(Some(source), target, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
    if !flags.is_empty()
        && let Err(errno) = mount(none, target, none, flags | MsFlags::MS_BIND | MsFlags::MS_REMOUNT, none)
    {
        let _ = unmount(target);
        return Err(errno.into());
    }
    Ok(())
}

fn flags_and_data(options: &[String]) -> (MsFlags, String) {
    let mut flags = MsFlags::empty();
    let mut data = Vec::new();
    for option in options {
        match option.as_str() {
            "ro" => flags |= MsFlags::MS_RDONLY,
            "noexec" => flags |= MsFlags::MS_NOEXEC,
            "nosuid" => flags |= MsFlags::MS_NOSUID,
            "nodev" => flags |= MsFlags::MS_NODEV,
            "noatime" => flags |= MsFlags::MS_NOATIME,
            "rw" | "exec" | "bind" | "rbind" => {}
            other => data.push(other),
        }
    }
    (flags, data.join(","))
}

/// A mount point is on another device than its parent, or has another mount id.
fn is_mount_point(path: &Path) -> bool {
    let id = |path: &Path| mount_id(path).ok();
    match (id(path), path.parent().and_then(id)) {
        (Some(own), Some(parent)) => own != parent,
        _ => false,
    }
}

fn mount_id(path: &Path) -> io::Result<u64> {
    let file = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    text.lines()
        .find_map(|line| line.strip_prefix("mnt_id:"))
        .and_then(|number| number.trim().parse().ok())
        .ok_or_else(|| io::Error::other("the kernel tells no mount id"))
}

/// Takes a mount off, at once for everybody who does not use it. Nothing mounted there is fine.
pub fn unmount(path: &Path) -> io::Result<()> {
    match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::validate::{Rules, validate};

    fn able(test: &str) -> bool {
        let root = nix::unistd::geteuid().is_root();
        if !root {
            println!("skipped: {test} needs root");
        }
        root
    }

    #[test]
    fn an_overlay_is_mounted_once_and_undone() {
        if !able("an_overlay_is_mounted_once_and_undone") {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let handles =
            Handles { tree: folder.path().join("tree"), given: vec![folder.path().join("target")], apart: None };
        let tree = |path: &str| Place::Tree(path.into());
        let directory = |path: &str| Step::Directory { at: tree(path), mode: 0o755, uid: 0, gid: 0 };
        let mut steps: Vec<Step> = ["a", "b", "upper", "work"].map(directory).to_vec();
        steps.push(Step::Mount {
            fstype: "overlay".into(),
            source: None,
            target: Place::Given(0),
            options: vec![],
            places: vec![
                ("lowerdir".into(), tree("a")),
                ("lowerdir".into(), tree("b")),
                ("upperdir".into(), tree("upper")),
                ("workdir".into(), tree("work")),
            ],
        });
        let plan = validate(steps, &Rules { given: 1, device: None, remote: false }).unwrap();
        let done = execute(&plan, &handles).unwrap();
        assert!(execute(&plan, &handles).unwrap().is_empty(), "twice changes nothing");
        fs::write(handles.tree.join("b/below"), "b").unwrap();
        fs::write(handles.given[0].join("new"), "n").unwrap();
        assert!(handles.tree.join("upper/new").exists());
        undo(&done);
        assert!(!is_mount_point(&handles.given[0]));
        undo(&done);
    }

    #[test]
    fn a_failing_step_takes_the_others_back() {
        if !able("a_failing_step_takes_the_others_back") {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let handles = Handles { tree: folder.path().join("tree"), ..Handles::default() };
        fs::create_dir(&handles.tree).unwrap();
        std::os::unix::fs::symlink("/etc", handles.tree.join("link")).unwrap();
        let directory = |path: &str| Step::Directory { at: Place::Tree(path.into()), mode: 0o755, uid: 0, gid: 0 };
        let plan = validate(
            vec![directory("made"), directory("link/inside")],
            &Rules { given: 0, device: None, remote: false },
        )
        .unwrap();
        let error = execute(&plan, &handles).unwrap_err();
        assert!(error.to_string().contains("link/inside"), "{error}");
        assert!(!handles.tree.join("made").exists());
        assert!(!Path::new("/etc/inside").exists());
    }
}
