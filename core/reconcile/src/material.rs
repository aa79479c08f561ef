//! Configs and secrets as files that containers bind: in memory alone, in a folder for each stack.
//!
//! The folder is a tmpfs of its own, unless the one around it is one. It outlives the daemon, as the containers do, and
//! goes with the stack.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use sampan_compose::model::SecretValue;
use sampan_engine::{Error, Result};

/// Largest config or secret, in bytes.
const LARGEST: u64 = 8 << 20;
/// What all those of a stack may take.
const SIZE: &str = "mode=0711,size=64m,nr_inodes=4k";

/// A config or secret that is put where containers can bind it, with its own owner and rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Material {
    /// Where it shall lie. Named by what it holds: one that is there is right.
    pub path: PathBuf,
    /// What is in it.
    pub content: Content,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

/// What a config or secret holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// This text.
    Text(SecretValue),
    /// What a file of the user's holds.
    File(PathBuf),
}

/// Puts configs and secrets in place that are not there yet.
pub async fn put(material: Vec<Material>) -> Result<()> {
    if material.is_empty() {
        return Ok(());
    }
    blocking(move || material.iter().try_for_each(put_one)).await
}

/// Takes a stack's folder away with all that is in it.
pub async fn remove(folder: PathBuf) -> Result<()> {
    blocking(move || {
        // Busy or not: what holds it last takes it along.
        let _ = umount2(&folder, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(format!("remove {}: {error}", folder.display()))
            }
            _ => Ok(()),
        }
    })
    .await
}

/// What a file of the user's holds.
pub(crate) async fn content(path: PathBuf) -> std::result::Result<Vec<u8>, String> {
    let shown = path.display().to_string();
    match tokio::task::spawn_blocking(move || read(&path)).await {
        Ok(read) => read.map_err(|error| format!("read {shown}: {error}")),
        Err(error) => Err(format!("read {shown}: {error}")),
    }
}

async fn blocking(work: impl FnOnce() -> std::result::Result<(), String> + Send + 'static) -> Result<()> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(Error::internal),
        Err(error) => Err(Error::internal(format!("configs and secrets: {error}"))),
    }
}

fn put_one(file: &Material) -> std::result::Result<(), String> {
    if file.path.exists() {
        return Ok(());
    }
    let Some(folder) = file.path.parent() else { return Ok(()) };
    ensure_folder(folder).map_err(|error| format!("make {} for configs and secrets: {error}", folder.display()))?;
    let content = match &file.content {
        Content::Text(text) => text.0.clone().into_bytes(),
        Content::File(path) => {
            read(path).map_err(|error| format!("read the config or secret {}: {error}", path.display()))?
        }
    };
    write(file, &content).map_err(|error| format!("write a config or secret to {}: {error}", file.path.display()))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(LARGEST + 1).read_to_end(&mut content)?;
    if content.len() as u64 > LARGEST {
        return Err(io::Error::other(format!("it is larger than {} MiB", LARGEST >> 20)));
    }
    Ok(content)
}

fn write(file: &Material, content: &[u8]) -> io::Result<()> {
    let temporary = file.path.with_extension("tmp");
    let _ = fs::remove_file(&temporary);
    let mut made = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
    made.write_all(content)?;
    std::os::unix::fs::fchown(&made, Some(file.uid), Some(file.gid))?;
    made.set_permissions(Permissions::from_mode(file.mode & 0o7777))?;
    fs::rename(temporary, &file.path)
}

/// Makes sure that the folder is there and in memory.
fn ensure_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o711).create(folder)?;
    if statfs(folder)?.filesystem_type() == TMPFS_MAGIC {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("sampan"), folder, Some("tmpfs"), flags, Some(SIZE))?;
    Ok(())
}
