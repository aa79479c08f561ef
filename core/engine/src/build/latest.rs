//! Times of a new layer's files, for reproducible builds.

use std::path::Path;

use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

/// Sets the times that are after `latest` (seconds since 1970) to it, in a whole tree; what has the same time in `below`
/// is not new, and left. Links are not followed. Blocks.
pub(super) fn clamp(root: &Path, below: Option<&Path>, latest: i64) -> std::io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let set = |path: &Path, meta: &std::fs::Metadata| {
        let same = below.and_then(|below| std::fs::symlink_metadata(below.join(path.strip_prefix(root).ok()?)).ok());
        let time = |meta: &std::fs::Metadata| (meta.mtime(), meta.mtime_nsec());
        if time(meta) <= (latest, 0) || same.is_some_and(|same| time(&same) == time(meta)) {
            return Ok(());
        }
        let time = TimeSpec::new(latest, 0);
        utimensat(nix::fcntl::AT_FDCWD, path, &time, &time, UtimensatFlags::NoFollowSymlink)
    };
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let meta = std::fs::symlink_metadata(&folder)?;
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if meta.is_dir() {
                folders.push(entry.path());
            } else {
                set(&entry.path(), &meta)?;
            }
        }
        set(&folder, &meta)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn only_later_times_change() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("d")).unwrap();
        std::fs::write(at("d/new"), "x").unwrap();
        std::fs::write(at("old"), "x").unwrap();
        let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(5);
        std::fs::File::options().write(true).open(at("old")).unwrap().set_modified(old).unwrap();
        std::os::unix::fs::symlink("/nowhere", at("link")).unwrap();
        clamp(folder.path(), None, 1000).unwrap();
        for (name, time) in [("d", 1000), ("d/new", 1000), ("old", 5), ("link", 1000)] {
            assert_eq!(std::fs::symlink_metadata(at(name)).unwrap().mtime(), time, "{name}");
        }
    }
}
