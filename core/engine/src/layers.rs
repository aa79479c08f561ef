//! Layers of images and roots of containers, as the layer driver decides.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sampan_drivers::{HostFacts, Kind, LayerDriver, Prepared};
use sampan_image::{BackendError, ChainId, ChangeView, Digest, LayerBackend, Whiteouts};
use sampan_storage::plan::{Place, Step};
use sampan_storage::{Handles, Rules, execute, resolve, validate};

use crate::Shared;
use crate::error::{Error, ErrorKind, Result};

/// The layers of an engine. Clones share it. Calls block.
#[derive(Debug, Clone)]
pub(crate) struct Layers {
    shared: Arc<Shared>,
    driver: LayerDriver,
    whiteouts: Whiteouts,
    facts: HostFacts,
    tree: PathBuf,
    /// The lowest layer of containers, if the driver joins layers.
    mount_points: Option<String>,
}

/// What the engine mounts over in every container, and the file by which programs know that they are in one. It lies
/// below the image, so that no start makes it, and what the image has of the same name comes first.
const MOUNT_POINTS: [(&str, u32); 8] = [
    ("dev/", 0o755),
    ("etc/", 0o755),
    ("proc/", 0o755),
    ("sys/", 0o755),
    ("etc/hostname", 0o644),
    ("etc/hosts", 0o644),
    ("etc/resolv.conf", 0o644),
    (DOCKERENV, 0o755),
];

const DOCKERENV: &str = ".dockerenv";

/// Carries out what a storage driver answered: checked whole, then step by step.
pub(crate) fn carry_out(
    plan: Vec<Step>,
    driver: impl std::fmt::Display,
    rules: &Rules<'_>,
    handles: &Handles,
) -> Result<()> {
    let plan = validate(plan, rules).map_err(|refusal| Error::internal(format!("driver {driver}: {refusal}")))?;
    execute(&plan, handles).map(drop).map_err(|error| {
        use std::io::ErrorKind as Io;
        match error.source.kind() {
            Io::StorageFull | Io::QuotaExceeded => Error::unavailable(error),
            _ => Error::internal(error),
        }
    })
}

/// The path that a place of a driver's answer stands for, if the driver may name it.
pub(crate) fn place(
    place: Place,
    driver: impl std::fmt::Display,
    rules: &Rules<'_>,
    handles: &Handles,
) -> Result<PathBuf> {
    // Steps and answers name places by the same rules.
    validate(vec![Step::Unmount(place.clone())], rules).map_err(|refusal| {
        Error::internal(format!("driver {driver}: its answer: {}: {}", refusal.rule, refusal.detail))
    })?;
    Ok(resolve(&place, handles))
}

/// A driver's own directory, which only root enters: images hold programs with the set-id bit.
pub(crate) fn own_tree(shared: &Shared, kind: Kind, name: &str) -> Result<PathBuf> {
    let tree = shared.drivers.tree(kind, name);
    let mut make = fs::DirBuilder::new();
    make.recursive(true)
        .mode(0o700)
        .create(&tree)
        .map_err(|error| Error::internal(format!("create the driver's directory {}: {error}", tree.display())))?;
    Ok(tree)
}

impl Layers {
    pub(crate) fn open(shared: &Arc<Shared>) -> Result<Self> {
        let facts = HostFacts::from(&shared.facts);
        let (driver, style) = match &shared.config.storage_driver {
            Some(name) => {
                let driver = shared.drivers.layer(name)?;
                let style = driver.style(&facts)?;
                (driver, style)
            }
            None => {
                let overlay = shared.drivers.layer("overlay")?;
                match overlay.style(&facts).map_err(Error::from) {
                    Ok(style) => (overlay, style),
                    Err(error) if error.kind == ErrorKind::Unsupported => {
                        tracing::warn!("{error}; layers are kept as full copies (vfs)");
                        let vfs = shared.drivers.layer("vfs")?;
                        let style = vfs.style(&facts)?;
                        (vfs, style)
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        let whiteouts = match style {
            sampan_drivers::Whiteouts::Overlay => Whiteouts::Overlay,
            sampan_drivers::Whiteouts::Remove => Whiteouts::Remove,
        };
        let tree = own_tree(shared, Kind::Layer, driver.name())?;
        let _ = spread(&shared.config.tmp());
        let mut layers = Self { shared: Arc::clone(shared), driver, whiteouts, facts, tree, mount_points: None };
        if whiteouts == Whiteouts::Overlay {
            match layers.make_mount_points() {
                Ok(id) => layers.mount_points = Some(id),
                Err(error) => tracing::warn!("{error}; each container gets mount points of its own"),
            }
        }
        Ok(layers)
    }

    /// Makes the layer of [`MOUNT_POINTS`], whose id says what it has.
    fn make_mount_points(&self) -> Result<String> {
        let chain = ChainId(Digest::of(format!("{MOUNT_POINTS:?}").as_bytes()));
        let root = self.prepare(&chain, &[]).map_err(Error::internal)?;
        fill(&root).map_err(|error| Error::internal(format!("make mount points in {}: {error}", root.display())))?;
        Ok(chain.to_string())
    }

    /// Name of the layer driver.
    pub(crate) fn driver(&self) -> &str {
        self.driver.name()
    }

    fn handles(&self, given: Vec<PathBuf>) -> (Handles, Rules<'static>) {
        let rules = Rules { given: u32::try_from(given.len()).unwrap_or(0), device: None, remote: false };
        (Handles { tree: self.tree.clone(), given, apart: None }, rules)
    }

    fn prepared(&self, prepared: Prepared, handles: &Handles, rules: &Rules<'_>) -> Result<PathBuf> {
        let root = place(prepared.root, self.driver(), rules, handles)?;
        carry_out(prepared.plan, self.driver(), rules, handles)?;
        Ok(root)
    }

    /// Makes sure that a container's root is mounted, as [`Self::mount`] does, with what the engine mounts over.
    pub(crate) fn mount_container(&self, container: &str, chain: &[String]) -> Result<PathBuf> {
        let parents: Vec<String> = chain.iter().chain(&self.mount_points).cloned().collect();
        let root = self.mount(container, &parents)?;
        if self.mount_points.is_none() {
            // The rest is made at the start, where links of the image are followed within it.
            match fs::File::create_new(root.join(DOCKERENV)) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(Error::internal(format!("create /{DOCKERENV} in {}: {error}", root.display())));
                }
                _ => {}
            }
        }
        Ok(root)
    }

    /// Makes sure that a root is mounted at `config.rootfs(id)` over its layers (chain ids, nearest first), and returns
    /// that path.
    pub(crate) fn mount(&self, container: &str, parents: &[String]) -> Result<PathBuf> {
        let target = self.shared.config.rootfs(container);
        let (handles, rules) = self.handles(vec![target.clone()]);
        let mounted = self
            .driver
            .mount(&self.facts, container, parents)
            .map_err(Error::from)
            .and_then(|prepared| self.prepared(prepared, &handles, &rules));
        match mounted {
            Ok(root) => Ok(root),
            Err(error) => {
                let _ = fs::remove_dir(&target);
                Err(error.context("mount the root file system"))
            }
        }
    }

    /// Takes a container's root off; what was written stays. One that is not mounted is fine.
    pub(crate) fn unmount(&self, container: &str) -> Result<()> {
        take_off(&self.shared.config.rootfs(container))
    }

    /// Forgets a container's writable layer; it is unmounted first.
    pub(crate) fn remove(&self, container: &str) -> Result<()> {
        self.unmount(container)?;
        let plan = self.driver.remove_container(container)?;
        let (handles, rules) = self.handles(Vec::new());
        carry_out(plan, self.driver(), &rules, &handles).map_err(|error| error.context("remove the container's layer"))
    }

    /// Where a container's changes are found.
    pub(crate) fn changes(&self, container: &str, parents: &[String]) -> Result<ChangeView> {
        let (handles, rules) = self.handles(Vec::new());
        let path = |at| place(at, self.driver(), &rules, &handles);
        Ok(match self.driver.changes(container, parents)? {
            sampan_drivers::ChangeView::Upper(upper) => ChangeView::Upper(path(upper)?),
            sampan_drivers::ChangeView::Compare(before, after) => ChangeView::Compare(path(before)?, path(after)?),
        })
    }

    /// Takes off the roots that an earlier daemon left, except those of `live`. What was written below is kept for
    /// `known`, the containers; any other root was an image's, mounted for one of them.
    pub(crate) fn clean(&self, live: &HashSet<String>, known: &HashSet<String>) {
        let folder = self.shared.config.run.join("m");
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if live.contains(&name) {
                continue;
            }
            let cleaned = if known.contains(&name) { self.unmount(&name) } else { self.remove(&name) };
            if let Err(error) = cleaned {
                tracing::warn!("{error}");
            }
        }
    }
}

/// Unmounts whatever is mounted at a path, and removes the empty directory.
fn take_off(path: &Path) -> Result<()> {
    sampan_storage::unmount(path).map_err(|error| Error::internal(format!("unmount {}: {error}", path.display())))?;
    match fs::remove_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::internal(format!("remove the mount point {}: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

/// Tells the file system that the directories made in a folder have nothing to do with each other. ext4 then puts each
/// where much is free. Without a journal it gives no inode again for minutes, and would look through all that a removed
/// image has left behind for each file of the next. Other file systems do not know the flag, and need not.
fn spread(folder: &Path) -> rustix::io::Result<()> {
    use rustix::fs::{IFlags, Mode, OFlags, ioctl_getflags, ioctl_setflags, open};
    let folder = open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let flags = ioctl_getflags(&folder)?;
    if flags.contains(IFlags::TOPDIR) { Ok(()) } else { ioctl_setflags(&folder, flags | IFlags::TOPDIR) }
}

/// Makes the empty directories and files of [`MOUNT_POINTS`] that are not there yet.
fn fill(root: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    for (name, mode) in MOUNT_POINTS {
        let path = root.join(name.trim_end_matches('/'));
        let made = match name.ends_with('/') {
            true => fs::create_dir(&path),
            false => fs::File::create_new(&path).map(drop),
        };
        match made {
            Ok(()) => fs::set_permissions(&path, fs::Permissions::from_mode(mode))?,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl LayerBackend for Layers {
    fn whiteouts(&self) -> Result<Whiteouts, BackendError> {
        Ok(self.whiteouts)
    }

    fn prepare(&self, chain: &ChainId, parents: &[ChainId]) -> Result<PathBuf, BackendError> {
        let parents: Vec<String> = parents.iter().map(ToString::to_string).collect();
        let prepared = self.driver.prepare(&self.facts, &chain.to_string(), &parents);
        let prepared = prepared.map_err(|error| BackendError(error.to_string()))?;
        let (mut handles, rules) = self.handles(Vec::new());
        handles.apart = Some(self.shared.config.tmp());
        self.prepared(prepared, &handles, &rules).map_err(|error| BackendError(error.to_string()))
    }

    fn remove(&self, chain: &ChainId) -> Result<(), BackendError> {
        let plan = self.driver.remove_layer(&chain.to_string()).map_err(|error| BackendError(error.to_string()))?;
        let (handles, rules) = self.handles(Vec::new());
        carry_out(plan, self.driver(), &rules, &handles).map_err(|error| BackendError(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing;

    fn chain(digit: char) -> ChainId {
        ChainId::parse(&format!("sha256:{}", digit.to_string().repeat(64))).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_root_shows_its_layers_and_keeps_what_was_written() {
        for driver in ["overlay", "vfs"] {
            let Some(mut root) = testing::root("a_root_shows_its_layers_and_keeps_what_was_written") else { return };
            root.config.storage_driver = Some(driver.to_owned());
            let layers = match Layers::open(&root.shared()) {
                Ok(layers) => layers,
                Err(error) => {
                    println!("skipped: {error}");
                    continue;
                }
            };
            let (below, above) = (chain('1'), chain('2'));
            let at = layers.prepare(&below, &[]).unwrap();
            let tmp = fs::File::open(root.config.tmp()).unwrap();
            if rustix::fs::fstatfs(&tmp).unwrap().f_type == nix::libc::EXT4_SUPER_MAGIC {
                assert!(rustix::fs::ioctl_getflags(&tmp).unwrap().contains(rustix::fs::IFlags::TOPDIR), "apart");
            }
            assert_eq!(fs::read_dir(root.config.tmp()).unwrap().count(), 0, "what was made there was moved");
            fs::write(at.join("base"), "b").unwrap();
            let at = layers.prepare(&above, std::slice::from_ref(&below)).unwrap();
            fs::write(at.join("app"), "a").unwrap();
            assert_eq!(layers.prepare(&above, std::slice::from_ref(&below)).unwrap(), at, "the same place again");
            let parents = [above.to_string(), below.to_string()];
            let container = "c".repeat(64);
            let mounted = layers.mount_container(&container, &parents).unwrap();
            assert_eq!(mounted, root.config.rootfs(&container));
            assert!(mounted.join(DOCKERENV).exists(), "whatever the driver");
            assert_eq!(fs::read_to_string(mounted.join("base")).unwrap(), "b");
            assert_eq!(fs::read_to_string(mounted.join("app")).unwrap(), "a");
            fs::write(mounted.join("own"), "o").unwrap();
            layers.mount(&container, &parents).unwrap();
            let changed = match layers.changes(&container, &parents).unwrap() {
                ChangeView::Upper(upper) => upper,
                ChangeView::Compare(before, after) => {
                    assert!(before.join("app").exists());
                    after
                }
            };
            assert!(changed.join("own").exists());
            layers.unmount(&container).unwrap();
            layers.unmount(&container).unwrap();
            assert!(!mounted.exists());
            assert!(layers.mount(&container, &parents).unwrap().join("own").exists(), "as after a reboot");
            // A daemon that died: roots of containers that live stay, others go.
            let known = HashSet::from([container.clone()]);
            let image = "d".repeat(64);
            layers.mount(&image, &parents).unwrap();
            layers.clean(&known, &known);
            assert!(mounted.join("own").exists());
            assert!(!root.config.rootfs(&image).exists(), "what an earlier daemon has mounted of an image");
            layers.clean(&HashSet::new(), &known);
            assert!(!mounted.exists());
            assert!(layers.mount(&container, &parents).unwrap().join("own").exists(), "what was written is kept");
            layers.remove(&container).unwrap();
            assert!(!changed.exists() && !mounted.exists());
            LayerBackend::remove(&layers, &above).unwrap();
            LayerBackend::remove(&layers, &above).unwrap();
            assert!(!at.exists());
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn containers_have_what_is_mounted_over_and_none_of_it_is_theirs() {
        let Some(root) = testing::root("containers_have_what_is_mounted_over_and_none_of_it_is_theirs") else { return };
        let layers = Layers::open(&root.shared()).unwrap();
        if layers.driver() != "overlay" {
            return println!("skipped: layers are copies here");
        }
        let image = chain('1');
        let at = layers.prepare(&image, &[]).unwrap();
        fs::create_dir(at.join("etc")).unwrap();
        fs::write(at.join("etc/hosts"), "the image's").unwrap();
        let (container, parents) = ("c".repeat(64), [image.to_string()]);
        let mounted = layers.mount_container(&container, &parents).unwrap();
        for name in ["proc", "sys", "dev", "etc/hostname", "etc/resolv.conf", ".dockerenv"] {
            assert!(mounted.join(name).exists(), "{name}");
        }
        assert_eq!(fs::read_to_string(mounted.join("etc/hosts")).unwrap(), "the image's");
        let ChangeView::Upper(upper) = layers.changes(&container, &parents).unwrap() else { panic!("an overlay") };
        assert_eq!(fs::read_dir(upper).unwrap().count(), 0, "nothing of it was made for the container");
        layers.remove(&container).unwrap();
        let data = layers.mount(&container, &parents).unwrap();
        assert!(!data.join("proc").exists(), "an image that is mounted as data is only what it is");
        layers.remove(&container).unwrap();
        // It is made once, and what an earlier daemon began is completed.
        let shared = layers.mount_points.as_ref().unwrap();
        let shared = layers.prepare(&ChainId::parse(shared).unwrap(), &[]).unwrap();
        fs::remove_file(shared.join("etc/resolv.conf")).unwrap();
        let again = Layers::open(&root.shared()).unwrap();
        assert_eq!(again.mount_points, layers.mount_points);
        assert!(shared.join("etc/resolv.conf").exists());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn without_overlay_layers_are_copies() {
        let Some(mut root) = testing::root("without_overlay_layers_are_copies") else { return };
        root.facts.features.clear();
        assert_eq!(Layers::open(&root.shared()).unwrap().driver(), "vfs");
        root.config.storage_driver = Some("overlay2".to_owned());
        let error = Layers::open(&root.shared()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported);
        root.config.storage_driver = Some("zfs".to_owned());
        let error = Layers::open(&root.shared()).unwrap_err();
        assert_eq!(error.message, "there is no layer driver \"zfs\"; known: overlay, vfs");
    }
}
