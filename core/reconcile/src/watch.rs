//! Watching the files that a stack is made from.
//!
//! Directories are watched, not files, so that editors that save by renaming count; of a link its target's directory,
//! too. What comes is only a hint that something may have changed: the contents decide.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// Events within this time of each other are one.
pub const DEBOUNCE: Duration = Duration::from_millis(30);

/// Device and number of a directory.
type Identity = (u64, u64);

/// Watches until dropped.
#[derive(Debug)]
pub struct FileWatch {
    watcher: Option<RecommendedWatcher>,
    /// Each with what tells it from another one of the same name.
    directories: BTreeMap<PathBuf, Identity>,
    hints: mpsc::Sender<()>,
}

impl FileWatch {
    /// A watch that hints through the channel. A full channel is a hint already.
    #[must_use]
    pub fn new(hints: mpsc::Sender<()>) -> Self {
        Self { watcher: None, directories: BTreeMap::new(), hints }
    }

    /// Watches for these inputs from now on; whether other directories are watched than before. Returns why some directory
    /// cannot be watched, if any.
    pub fn set(&mut self, inputs: &[PathBuf]) -> Result<bool, String> {
        let found = inputs.iter().flat_map(|input| directories(input));
        let wanted: BTreeMap<PathBuf, Identity> = found.map(|path| (path.clone(), identity(&path))).collect();
        if wanted == self.directories && self.watcher.is_some() {
            return Ok(false);
        }
        let hints = self.hints.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading is no change, and our own reading would be a loop.
            if event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_))) {
                return;
            }
            let _ = hints.try_send(());
        })
        .map_err(|error| format!("watch files: {error}"))?;
        let mut problem = None;
        for directory in wanted.keys() {
            if let Err(error) = watcher.watch(directory, RecursiveMode::NonRecursive) {
                problem.get_or_insert(format!("watch {}: {error}", directory.display()));
            }
        }
        self.watcher = Some(watcher);
        self.directories = wanted;
        problem.map_or(Ok(true), Err)
    }

    /// Has the files looked at as if something had changed.
    pub fn hint(&self) {
        let _ = self.hints.try_send(());
    }

    /// Watches nothing.
    pub fn clear(&mut self) {
        self.watcher = None;
        self.directories.clear();
    }
}

fn identity(directory: &Path) -> Identity {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(directory).map_or((0, 0), |found| (found.dev(), found.ino()))
}

/// The directory of a path, or its nearest ancestor that exists, and the same of what it links to.
fn directories(path: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        path.ancestors().skip(1).find(|ancestor| ancestor.is_dir()).map(Path::to_owned).into_iter().collect();
    if let Ok(real) = std::fs::canonicalize(path)
        && let Some(parent) = real.parent()
        && !found.iter().any(|directory| directory == parent)
    {
        found.push(parent.to_owned());
    }
    // A link among the directories (`current -> release-7`) is swapped in the directory above it.
    for ancestor in path.ancestors().skip(1) {
        if ancestor.is_symlink()
            && let Some(above) = ancestor.parent()
        {
            found.push(above.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;

    async fn hinted(hints: &mut mpsc::Receiver<()>) -> bool {
        tokio::time::timeout(Duration::from_secs(60), hints.recv()).await.is_ok()
    }

    #[tokio::test]
    async fn saves_by_rename_link_swaps_and_new_files_are_hints() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        for release in [&one, &two] {
            fs::create_dir(release).unwrap();
            fs::write(release.join("compose.yaml"), "a").unwrap();
        }
        let current = folder.path().join("current");
        std::os::unix::fs::symlink(&one, &current).unwrap();
        let (sender, mut hints) = mpsc::channel(1);
        let mut watch = FileWatch::new(sender);
        watch.set(&[current.join("compose.yaml"), folder.path().join("not/yet/.env")]).unwrap();

        fs::write(one.join("new"), "b").unwrap();
        fs::rename(one.join("new"), one.join("compose.yaml")).unwrap();
        assert!(hinted(&mut hints).await, "a save by rename");
        tokio::time::sleep(DEBOUNCE).await;
        while hints.try_recv().is_ok() {}

        std::os::unix::fs::symlink(&two, folder.path().join("next")).unwrap();
        fs::rename(folder.path().join("next"), &current).unwrap();
        assert!(hinted(&mut hints).await, "a link swapped");
        tokio::time::sleep(DEBOUNCE).await;
        while hints.try_recv().is_ok() {}

        fs::create_dir(folder.path().join("not")).unwrap();
        assert!(hinted(&mut hints).await, "a directory that was missing");
    }

    #[tokio::test]
    async fn a_directory_that_is_put_in_the_place_of_another_is_watched() {
        let folder = tempfile::tempdir().unwrap();
        let (stack, next) = (folder.path().join("stack"), folder.path().join("next"));
        for release in [&stack, &next] {
            fs::create_dir(release).unwrap();
            fs::write(release.join("compose.yaml"), "a").unwrap();
        }
        let (sender, mut hints) = mpsc::channel(1);
        let mut watch = FileWatch::new(sender);
        let inputs = [stack.join("compose.yaml")];
        assert_eq!(watch.set(&inputs), Ok(true));
        assert_eq!(watch.set(&inputs), Ok(false), "nothing is watched anew without need");
        fs::rename(&stack, folder.path().join("before")).unwrap();
        fs::rename(&next, &stack).unwrap();
        assert!(hinted(&mut hints).await, "it has gone");
        assert_eq!(watch.set(&inputs), Ok(true), "it is another one");
        while hints.try_recv().is_ok() {}
        fs::write(stack.join("compose.yaml"), "b").unwrap();
        assert!(hinted(&mut hints).await, "an edit in the new one");
    }
}
