//! One directory tree that is changed by descriptor: no name leads out of it, whatever links it holds.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, mkdirat, mknodat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};

/// Open directories that are kept.
const CACHED: usize = 64;
const MAX_DEPTH: usize = 256;
const MAX_NAME: usize = 255;
const MAX_PATH: usize = 4096;

/// A directory below the root.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    /// New files take its group rather than ours.
    pub set_gid: bool,
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A tree and the directories in it that were used last.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    folders: HashMap<Vec<u8>, Rc<Folder>>,
    last: Option<(Vec<u8>, Rc<Folder>)>,
}

/// Cleans a name from an archive: components without `.`, none for the root itself. `..` is refused, and what no
/// file system could hold.
pub fn clean(path: &[u8]) -> Result<Vec<u8>, &'static str> {
    if path.len() > MAX_PATH {
        return Err("its name is too long");
    }
    if path.contains(&0) {
        return Err("its name holds a NUL byte");
    }
    let mut cleaned = Vec::with_capacity(path.len());
    let mut depth = 0;
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err("its name leads out of the archive (..)"),
            part if part.len() > MAX_NAME => return Err("a part of its name is too long"),
            part => {
                if !cleaned.is_empty() {
                    cleaned.push(b'/');
                }
                cleaned.extend_from_slice(part);
                depth += 1;
            }
        }
    }
    if depth > MAX_DEPTH { Err("it lies too deep") } else { Ok(cleaned) }
}

/// A cleaned name's folder and last part.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
    }
}

impl Tree {
    pub fn open(root: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self { root: openat(AT_FDCWD, root, flags, Mode::empty())?, folders: HashMap::new(), last: None })
    }

    fn resolve(&self, path: &[u8], flags: OFlag) -> nix::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let path = if path.is_empty() { b"." } else { path };
        openat2(&self.root, path, how)
    }

    /// The folder of that name; links on the way are followed within the tree.
    pub fn folder(&mut self, path: &[u8]) -> nix::Result<Rc<Folder>> {
        if let Some((name, folder)) = &self.last
            && name == path
        {
            return Ok(folder.clone());
        }
        if let Some(folder) = self.folders.get(path) {
            self.last = Some((path.to_vec(), folder.clone()));
            return Ok(folder.clone());
        }
        let fd = self.resolve(path, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        let stat = nix::sys::stat::fstat(&fd)?;
        let folder = Rc::new(Folder { fd, set_gid: stat.st_mode & libc::S_ISGID != 0 });
        if self.folders.len() >= CACHED {
            self.folders.clear();
        }
        self.folders.insert(path.to_vec(), folder.clone());
        self.last = Some((path.to_vec(), folder.clone()));
        Ok(folder)
    }

    /// A folder's own name below the root, without the links that led to it.
    pub fn name_of(&self, folder: &Folder) -> Option<Vec<u8>> {
        let name = |fd: BorrowedFd<'_>| {
            let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
            readlinkat(AT_FDCWD, path.as_str()).ok().map(std::os::unix::ffi::OsStringExt::into_vec)
        };
        let (root, path): (Vec<u8>, Vec<u8>) = (name(self.root.as_fd())?, name(folder.as_fd())?);
        let rest = path.strip_prefix(root.as_slice())?;
        match rest.first() {
            None => Some(Vec::new()),
            Some(b'/') => Some(rest[1..].to_vec()),
            Some(_) => None,
        }
    }

    /// Forgets what names led to: after something that may be a part of them was replaced.
    pub fn forget(&mut self) {
        self.folders.clear();
        self.last = None;
    }

    /// Opens a folder for listing or for its attributes.
    pub fn open_folder(&self, path: &[u8]) -> nix::Result<OwnedFd> {
        self.resolve(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
    }
}

/// What is there under a name, itself and not what it points to.
pub fn stat(folder: impl AsFd, name: &[u8]) -> nix::Result<Option<FileStat>> {
    match fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

pub const fn format(stat: &FileStat) -> libc::mode_t {
    stat.st_mode & libc::S_IFMT
}

/// Whether it is a character device 0:0, by which overlayfs says "gone".
pub const fn is_whiteout(stat: &FileStat) -> bool {
    format(stat) == libc::S_IFCHR && stat.st_rdev == 0
}

pub fn read_link(folder: impl AsFd, name: &[u8]) -> nix::Result<Vec<u8>> {
    use std::os::unix::ffi::OsStringExt;
    Ok(readlinkat(folder, name)?.into_vec())
}

pub fn create_file(folder: impl AsFd, name: &[u8], mode: u32) -> nix::Result<File> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(folder, name, flags, Mode::from_bits_truncate(mode)).map(File::from)
}

pub fn make_folder(folder: impl AsFd, name: &[u8], mode: u32) -> nix::Result<()> {
    mkdirat(folder, name, Mode::from_bits_truncate(mode))
}

pub fn make_link(target: &[u8], folder: impl AsFd, name: &[u8]) -> nix::Result<()> {
    symlinkat(target, folder, name)
}

pub fn make_node(folder: impl AsFd, name: &[u8], kind: SFlag, mode: u32, device: u64) -> nix::Result<()> {
    mknodat(folder, name, kind, Mode::from_bits_truncate(mode), device)
}

pub fn hard_link(from: impl AsFd, old: &[u8], to: impl AsFd, new: &[u8]) -> nix::Result<()> {
    linkat(from, old, to, new, AtFlags::empty())
}

pub fn set_owner(folder: impl AsFd, name: &[u8], uid: u32, gid: u32) -> nix::Result<()> {
    fchownat(folder, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::AT_SYMLINK_NOFOLLOW)
}

/// Of a directory, a device or a pipe: what must not be a link, and was just made by us.
pub fn set_mode(folder: impl AsFd, name: &[u8], mode: u32) -> nix::Result<()> {
    // The kernel's fchmodat follows links; a name that was just made by us in a tree that is ours alone is none.
    nix::sys::stat::fchmodat(folder, name, Mode::from_bits_truncate(mode), nix::sys::stat::FchmodatFlags::FollowSymlink)
}

pub fn set_times(folder: impl AsFd, name: &[u8], time: (i64, u32)) -> nix::Result<()> {
    let time = TimeSpec::new(time.0, i64::from(time.1));
    nix::sys::stat::utimensat(folder, name, &time, &time, nix::sys::stat::UtimensatFlags::NoFollowSymlink)
}

/// Removes a name with everything below it, by descriptor. Nothing there is fine.
pub fn remove(folder: impl AsFd, name: &[u8]) -> nix::Result<()> {
    match unlinkat(&folder, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::EISDIR | Errno::EPERM) => {}
        Err(error) => return Err(error),
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let inner = openat(&folder, name, flags, Mode::empty())?;
    for entry in names(inner.as_fd())? {
        remove(&inner, &entry)?;
    }
    unlinkat(&folder, name, UnlinkatFlags::RemoveDir)
}

/// A folder within an open one, itself and not what a link points to.
pub fn inner(folder: impl AsFd, name: &[u8]) -> nix::Result<Folder> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(Folder { fd: openat(folder, name, flags, Mode::empty())?, set_gid: false })
}

/// Removes the whiteouts that lie directly in a folder.
pub fn drop_whiteouts(folder: impl AsFd, name: &[u8]) -> nix::Result<()> {
    let folder = inner(folder, name)?;
    for name in names(folder.as_fd())? {
        if stat(&folder, &name)?.is_some_and(|stat| is_whiteout(&stat)) {
            unlinkat(&folder, name.as_slice(), UnlinkatFlags::NoRemoveDir)?;
        }
    }
    Ok(())
}

/// The names in a directory, without `.` and `..`, sorted.
pub fn names(folder: BorrowedFd<'_>) -> nix::Result<Vec<Vec<u8>>> {
    let fd = openat(folder, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut directory = Dir::from_fd(fd)?;
    let mut found = Vec::new();
    for entry in directory.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            found.push(name.to_vec());
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// A path to something in an open directory that no link inside the tree can turn elsewhere.
fn by_descriptor(folder: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", folder.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path.push(0);
    path
}

fn c_string(bytes: &[u8]) -> Vec<u8> {
    let mut text = bytes.to_vec();
    text.push(0);
    text
}

/// Sets an extended attribute of what the name is, not of what it points to. `.` is the directory itself.
#[allow(unsafe_code)]
pub fn set_attribute(folder: impl AsFd, name: &[u8], key: &[u8], value: &[u8]) -> nix::Result<()> {
    let (path, key) = (by_descriptor(folder.as_fd(), name), c_string(key));
    // SAFETY: both texts end with NUL and live through the call; the value has the length that is told.
    let result =
        unsafe { libc::lsetxattr(path.as_ptr().cast(), key.as_ptr().cast(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(result).map(drop)
}

/// The extended attributes of what the name is, sorted.
#[allow(unsafe_code)]
pub fn attributes(folder: impl AsFd, name: &[u8]) -> nix::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let path = by_descriptor(folder.as_fd(), name);
    let mut names = vec![0_u8; 1024];
    let length = loop {
        // SAFETY: the path ends with NUL; the buffer has the length that is told.
        let length = unsafe { libc::llistxattr(path.as_ptr().cast(), names.as_mut_ptr().cast(), names.len()) };
        match Errno::result(length) {
            Ok(length) => break usize::try_from(length).unwrap_or(0),
            Err(Errno::ERANGE) if names.len() < 1 << 20 => names.resize(names.len() * 8, 0),
            Err(Errno::ENOTSUP) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        }
    };
    let mut found = Vec::new();
    for key in names[..length].split_inclusive(|byte| *byte == 0) {
        let Ok(key) = CStr::from_bytes_with_nul(key) else { continue };
        if let Some(value) = attribute(&path, key)? {
            found.push((key.to_bytes().to_vec(), value));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// One extended attribute of what the name is.
pub fn get_attribute(folder: impl AsFd, name: &[u8], key: &CStr) -> nix::Result<Option<Vec<u8>>> {
    attribute(&by_descriptor(folder.as_fd(), name), key)
}

#[allow(unsafe_code)]
fn attribute(path: &[u8], key: &CStr) -> nix::Result<Option<Vec<u8>>> {
    let mut value = vec![0_u8; 256];
    loop {
        // SAFETY: the path ends with NUL; the buffer has the length that is told.
        let length =
            unsafe { libc::lgetxattr(path.as_ptr().cast(), key.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        match Errno::result(length) {
            Ok(length) => {
                value.truncate(usize::try_from(length).unwrap_or(0));
                return Ok(Some(value));
            }
            Err(Errno::ERANGE) if value.len() < 1 << 17 => value.resize(1 << 17, 0),
            Err(Errno::ENODATA | Errno::ENOTSUP) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// The mask that new files lose bits by. Reading it by `umask` would set it for all threads.
pub fn umask() -> u32 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
            u32::from_str_radix(line.trim(), 8).ok()
        })
        .unwrap_or(0o777)
}
