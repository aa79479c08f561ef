//! Whiteouts: what a layer hides of those below it.
//!
//! They act on what lies below alone, wherever they stand in the archive: what the archive makes stays, and of a folder
//! that it only mentions to hide something in it nothing is left once the folder itself is hidden.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::stat::SFlag;

use super::{OPAQUE, Step, Unpack, UnpackError, joined, rule};
use crate::backend::Whiteouts;
use crate::tree::{self, Folder};

impl Unpack<'_> {
    pub(super) fn whiteout(&mut self, path: &[u8], parent: &[u8], hidden: &[u8]) -> Result<(), UnpackError> {
        match hidden {
            b".wh..opq" => self.opaque(path, parent),
            b"" | b"." | b".." => Err(rule(path, "a whiteout of no name")),
            // Notes of aufs to itself.
            other if other.starts_with(b".wh.") => Ok(()),
            name => {
                let name = name.to_vec();
                self.hide(path, parent, &name)
            }
        }
    }

    pub(super) fn hide(&mut self, path: &[u8], parent: &[u8], name: &[u8]) -> Result<(), UnpackError> {
        // What it names may lie behind a link, of this layer or of those below.
        let Some(parent) = self.real(parent).step(path, "open its folder")? else { return Ok(()) };
        let (parent, hidden) = (parent.as_slice(), joined(&parent, name));
        if self.target.whiteouts == Whiteouts::Remove {
            let folder = self.tree.folder(parent).step(path, "open its folder")?;
            return self.remove_lower(path, &folder, name, &hidden);
        }
        // Of a folder that is here for whiteouts alone nothing stays.
        match self.tree.folder(parent) {
            Ok(folder) => drop(self.prune(path, &folder, name, &hidden)?),
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(error) => return Err(error).step(path, "open its folder"),
        }
        // Overlayfs lists whiteouts that hide nothing, so there are none of them.
        if self.below(&hidden).step(path, "look at the layers below")?.is_none() {
            return Ok(());
        }
        if self.covers(parent).step(path, "read an attribute")? {
            return Ok(());
        }
        let folder = self.folder(parent, path)?;
        match tree::make_node(&*folder, name, SFlag::S_IFCHR, 0, 0) {
            Err(Errno::EEXIST) => {}
            other => return other.step(path, "make a whiteout"),
        }
        // The layer has something of its own there; only what lies below it is hidden.
        let present = tree::stat(&*folder, name).step(path, "look at what is there")?;
        if present.is_some_and(|stat| tree::format(&stat) == libc::S_IFDIR) {
            hide_below(path, &folder, name)?;
        }
        Ok(())
    }

    fn opaque(&mut self, path: &[u8], parent: &[u8]) -> Result<(), UnpackError> {
        let folder = self.folder(parent, path)?;
        let parent = self.tree.name_of(&folder).unwrap_or_else(|| parent.to_vec());
        let parent = parent.as_slice();
        if self.target.whiteouts == Whiteouts::Overlay {
            for name in tree::names(folder.as_fd()).step(path, "list what is there")? {
                self.prune(path, &folder, &name, &joined(parent, &name))?;
            }
            return hide_below(path, &folder, b".");
        }
        for name in tree::names(folder.as_fd()).step(path, "list what lies below")? {
            self.remove_lower(path, &folder, &name, &joined(parent, &name))?;
        }
        Ok(())
    }

    /// Removes from a full tree what came from below, and keeps what this archive made.
    fn remove_lower(&mut self, path: &[u8], folder: &Folder, name: &[u8], hidden: &[u8]) -> Result<(), UnpackError> {
        if !self.made.contains(hidden) {
            let mut below = hidden.to_vec();
            below.push(b'/');
            if !self.made.iter().any(|made| made.starts_with(&below)) {
                tree::remove(folder, name).step(path, "remove what is gone")?;
                self.replaced(hidden);
                return Ok(());
            }
        }
        let is_folder = tree::stat(folder, name)
            .step(path, "look at what is there")?
            .is_some_and(|stat| tree::format(&stat) == libc::S_IFDIR);
        if !is_folder {
            return Ok(());
        }
        let inner = self.tree.folder(hidden).step(path, "open")?;
        for name in tree::names(inner.as_fd()).step(path, "list what lies below")? {
            self.remove_lower(path, &inner, &name, &joined(hidden, &name))?;
        }
        Ok(())
    }

    /// Removes from a folder that is being hidden what only says what is hidden in it: whiteouts, and folders that no
    /// entry made and in which nothing else is. Whether something stays under the name.
    fn prune(&mut self, path: &[u8], folder: &Folder, name: &[u8], hidden: &[u8]) -> Result<bool, UnpackError> {
        let stat = match tree::stat(folder, name).step(path, "look at what is there")? {
            None => return Ok(false),
            Some(stat) => stat,
        };
        if tree::format(&stat) != libc::S_IFDIR && !tree::is_whiteout(&stat) {
            return Ok(true);
        }
        if tree::format(&stat) == libc::S_IFDIR {
            let inner = tree::inner(folder, name).step(path, "open")?;
            let mut stays = !self.implied.contains(hidden);
            for name in tree::names(inner.as_fd()).step(path, "list what is there")? {
                stays |= self.prune(path, &inner, &name, &joined(hidden, &name))?;
            }
            if stays {
                return Ok(true);
            }
        }
        tree::remove(folder, name).step(path, "remove what is gone")?;
        self.replaced(hidden);
        Ok(false)
    }
}

/// Makes a directory opaque; the whiteouts in it hide nothing any more.
fn hide_below(path: &[u8], folder: &Folder, name: &[u8]) -> Result<(), UnpackError> {
    tree::set_attribute(folder, name, OPAQUE, b"y").step(path, "hide what lies below")?;
    tree::drop_whiteouts(folder, name).step(path, "hide what lies below")
}
