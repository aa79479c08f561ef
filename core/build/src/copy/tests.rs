#![allow(clippy::unwrap_used)]
use super::*;
use crate::owner::ModeChange;
use crate::pattern::clean;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

struct World {
    _folder: tempfile::TempDir,
    context: PathBuf,
    root: PathBuf,
    digests: Mutex<Digests>,
    ignore: Ignore,
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let (context, root) = (folder.path().join("context"), folder.path().join("root"));
    fs::create_dir_all(context.join("src/deep")).unwrap();
    fs::create_dir_all(root.join("etc")).unwrap();
    for (name, text) in [("a.txt", "a"), ("b.txt", "b"), ("src/main.c", "m"), ("src/deep/x.h", "x"), ("skip", "s")] {
        fs::write(context.join(name), text).unwrap();
    }
    symlink("a.txt", context.join("link")).unwrap();
    symlink("/etc/passwd", context.join("src/out")).unwrap();
    World { _folder: folder, context, root, digests: Mutex::default(), ignore: Ignore::parse("skip\n").unwrap() }
}

impl World {
    fn origin(&self) -> Origin<'_> {
        Origin {
            root: &self.context,
            ignore: Some(&self.ignore),
            digests: &self.digests,
            keep: false,
            label: "the build context",
        }
    }

    fn copy(&self, sources: &[&str], dest: &str) -> Result<(), CopyError> {
        self.copy_with(sources, dest, &Selection::default(), |_| {})
    }

    fn copy_with(
        &self,
        sources: &[&str],
        dest: &str,
        selection: &Selection,
        change: impl Fn(&mut Landing),
    ) -> Result<(), CopyError> {
        let me = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let mut landing = Landing {
            dest: clean(dest),
            folder: dest.ends_with('/'),
            owner: Some(me),
            mode: None,
            unpack: false,
            time: (5, 0),
        };
        change(&mut landing);
        for source in sources {
            let matches = collect(&self.origin(), source, selection)?;
            land(&self.origin(), &matches, &self.root, &landing)?;
        }
        Ok(())
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap()
    }

    fn key(&self, source: &str) -> crate::cache::Key {
        let mut key = KeyWriter::new("copy", None);
        hash_into(&mut key, &collect(&self.origin(), source, &Selection::default()).unwrap());
        key.finish()
    }
}

#[test]
fn a_file_a_folder_and_a_pattern() {
    let world = world();
    world.copy(&["a.txt"], "/new/name").unwrap();
    assert_eq!(world.read("new/name"), "a");
    world.copy(&["a.txt"], "/etc").unwrap();
    assert_eq!(world.read("etc/a.txt"), "a");
    world.copy(&["src"], "/app").unwrap();
    assert_eq!(world.read("app/main.c"), "m");
    assert_eq!(world.read("app/deep/x.h"), "x");
    assert_eq!(fs::read_link(world.root.join("app/out")).unwrap().to_str(), Some("/etc/passwd"));
    world.copy(&["*.txt"], "/texts/").unwrap();
    assert_eq!(world.read("texts/b.txt"), "b");
    world.copy(&["link"], "/linked").unwrap();
    assert!(fs::symlink_metadata(world.root.join("linked")).unwrap().is_file());
    world.copy(&["."], "/all").unwrap();
    assert!(!world.root.join("all/skip").exists());
    assert!(world.root.join("all/src/main.c").exists());
    assert!(world.copy(&["*.nothing"], "/x/").is_ok());
}

#[test]
fn what_is_not_there_is_said() {
    let world = world();
    let fault = |source: &str| world.copy(&[source], "/x/").unwrap_err().to_string();
    assert_eq!(fault("a.tx"), "a.tx: not found in the build context; did you mean a.txt?");
    assert_eq!(fault("skip"), "skip: excluded from the build context by .dockerignore");
    assert_eq!(fault("../x"), "../x: not found in the build context");
    assert_eq!(fault("src/main.d"), "src/main.d: not found in the build context; did you mean main.c?");
}

#[test]
fn links_in_the_root_are_followed_inside_it() {
    let world = world();
    let outside = tempfile::tempdir().unwrap();
    symlink(outside.path(), world.root.join("out")).unwrap();
    symlink("usr/lib", world.root.join("lib")).unwrap();
    world.copy(&["../../a.txt"], "/out/x").unwrap();
    world.copy(&["src"], "/out/sub/").unwrap();
    world.copy(&["a.txt"], "/lib/x").unwrap();
    world.copy(&["a.txt"], "/../../x").unwrap();
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    assert_eq!(world.read("usr/lib/x"), "a");
    assert_eq!(world.read("x"), "a");
}

#[test]
fn a_folder_meets_a_link_to_one() {
    let world = world();
    fs::create_dir_all(world.root.join("usr/lib")).unwrap();
    symlink("usr/lib", world.root.join("lib")).unwrap();
    fs::create_dir_all(world.context.join("tree/lib")).unwrap();
    fs::write(world.context.join("tree/lib/f"), "f").unwrap();
    world.copy(&["tree"], "/").unwrap();
    assert_eq!(world.read("usr/lib/f"), "f");
    assert!(world.root.join("lib").is_symlink());
}

#[test]
fn a_folder_is_not_replaced_by_a_file() {
    let world = world();
    fs::create_dir_all(world.root.join("d/a.txt")).unwrap();
    assert!(world.copy(&["a.txt"], "/d/").unwrap_err().to_string().contains("/d/a.txt is a directory"));
    fs::write(world.root.join("file"), "").unwrap();
    assert!(world.copy(&["src"], "/file").is_err());
}

#[test]
fn modes_exclusions_and_parents() {
    let world = world();
    let selection = Selection { exclude: Ignore::from_patterns(["**/*.h"]).unwrap(), parents: false };
    world.copy_with(&["src"], "/x", &selection, |landing| landing.mode = Some(ModeChange::Exact(0o600))).unwrap();
    assert!(!world.root.join("x/deep/x.h").exists());
    assert_eq!(fs::metadata(world.root.join("x/main.c")).unwrap().permissions().mode() & 0o777, 0o600);
    let parents = Selection { parents: true, ..Selection::default() };
    world.copy_with(&["src/deep/x.h", "./src/./deep"], "/p/", &parents, |_| {}).unwrap();
    assert_eq!(world.read("p/src/deep/x.h"), "x");
    assert_eq!(world.read("p/deep/x.h"), "x");
}

#[test]
fn folders_made_on_the_way_have_the_mode_that_is_asked_for() {
    let world = world();
    let mode = |path: &str| fs::metadata(world.root.join(path)).unwrap().permissions().mode() & 0o7777;
    world.copy(&["a.txt"], "/plain/way/").unwrap();
    let exact = |landing: &mut Landing| landing.mode = Some(ModeChange::Exact(0o700));
    world.copy_with(&["a.txt"], "/exact/way/", &Selection::default(), exact).unwrap();
    world.copy_with(&["a.txt"], "/etc/way/", &Selection::default(), exact).unwrap();
    assert_eq!((mode("plain"), mode("plain/way")), (0o755, 0o755));
    assert_eq!((mode("exact"), mode("exact/way"), mode("exact/way/a.txt")), (0o700, 0o700, 0o700));
    assert_eq!((mode("etc/way"), mode("etc")), (0o700, 0o755), "what was there stays");
}

#[test]
fn keys_are_made_of_contents() {
    let world = world();
    let before = world.key(".");
    fs::File::options()
        .write(true)
        .open(world.context.join("a.txt"))
        .unwrap()
        .set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    fs::write(world.context.join("skip"), "changed").unwrap();
    world.digests.lock().unwrap().clear();
    assert_eq!(world.key("."), before);
    fs::set_permissions(world.context.join("a.txt"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_ne!(world.key("."), before);
    assert_ne!(world.key("a.txt"), world.key("b.txt"));
}

#[test]
fn archives_are_unpacked_and_other_files_are_not() {
    let world = world();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_path_with_name(world.context.join("a.txt"), "inner/a").unwrap();
    fs::write(world.context.join("x.tar"), builder.into_inner().unwrap()).unwrap();
    let unpack = |landing: &mut Landing| landing.unpack = true;
    world.copy_with(&["x.tar", "a.txt"], "/into/", &Selection::default(), unpack).unwrap();
    assert_eq!(world.read("into/inner/a"), "a");
    assert_eq!(world.read("into/a.txt"), "a");
    assert!(!world.root.join("into/x.tar").exists());
}

#[test]
fn folders_that_were_there_keep_their_times() {
    let world = world();
    let etc = fs::File::open(world.root.join("etc")).unwrap();
    etc.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    world.copy(&["a.txt"], "/etc/new/x").unwrap();
    assert_eq!(fs::metadata(world.root.join("etc")).unwrap().mtime(), 0);
    assert_eq!(fs::metadata(world.root.join("etc/new")).unwrap().mtime(), 5);
}
