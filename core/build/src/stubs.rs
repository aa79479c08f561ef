//! Empty files and directories that mounts of a RUN leave in a root: they are no part of its layer.

use std::path::Path;

use nix::unistd::{UnlinkatFlags, unlinkat};
use sampan_image::tree::{self, Tree};

use crate::copy::resolve;

/// What every RUN mounts.
const ALWAYS: [&str; 6] = ["/proc", "/sys", "/dev", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];

/// Names that were not there before, the deepest first.
#[derive(Debug)]
pub struct Stubs(Vec<Vec<u8>>);

impl Stubs {
    /// Looks which targets a run will have to make. Blocks.
    pub fn before(root: &Path, targets: &[String]) -> std::io::Result<Self> {
        let mut tree = Tree::open(root)?;
        let mut missing = Vec::new();
        for target in ALWAYS.iter().copied().chain(targets.iter().map(String::as_str)) {
            let (path, stat) = resolve(&mut tree, target.trim_matches('/').as_bytes())?;
            if stat.is_some() {
                continue;
            }
            let mut each = path.as_slice();
            while !each.is_empty() {
                let (parent, last) = tree::split(each);
                let there = tree.folder(parent).ok().and_then(|folder| tree::stat(&*folder, last).ok().flatten());
                if there.is_some() {
                    break;
                }
                missing.push(each.to_vec());
                each = parent;
            }
        }
        missing.sort_by(|a, b| b.cmp(a));
        missing.dedup();
        Ok(Self(missing))
    }

    /// Removes those that are there now and empty. Blocks.
    pub fn remove(self, root: &Path) -> std::io::Result<()> {
        let mut tree = Tree::open(root)?;
        for path in self.0 {
            let (parent, last) = tree::split(&path);
            let Ok(folder) = tree.folder(parent) else { continue };
            let Some(stat) = tree::stat(&*folder, last)? else { continue };
            let flag = match tree::format(&stat) {
                libc::S_IFDIR => UnlinkatFlags::RemoveDir,
                libc::S_IFREG if stat.st_size == 0 => UnlinkatFlags::NoRemoveDir,
                _ => continue,
            };
            // A directory that the program filled stays.
            let _ = unlinkat(&*folder, last, flag);
            tree.forget();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;

    #[test]
    fn only_what_a_run_had_to_make_goes() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(root.join("etc/hosts"), "").unwrap();
        let stubs = Stubs::before(root, &["/cache/deep".into(), "/filled/x".into()]).unwrap();
        for path in ["proc", "sys", "dev", "cache/deep", "filled/x"] {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        fs::write(root.join("etc/resolv.conf"), "").unwrap();
        fs::write(root.join("filled/y"), "").unwrap();
        stubs.remove(root).unwrap();
        let mut left: Vec<_> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["etc", "filled"]);
        assert!(root.join("etc/hosts").exists() && !root.join("etc/resolv.conf").exists());
        assert!(!root.join("filled/x").exists());
    }
}
