//! Images on their way: given up, shared, and cut off by the daemon's death.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Stdio};

use sampan_tests::{Host, IMAGE, Registry, SlowWay};

/// Bytes of the file that makes a layer take its time.
const BIG: usize = 6 << 20;

/// A tar of a few files, one of them long and not to be compressed. The small ones come first.
fn big_tar() -> Vec<u8> {
    let mut number = 7_u64;
    let mut content = Vec::with_capacity(BIG);
    while content.len() < BIG {
        number ^= number << 13;
        number ^= number >> 7;
        number ^= number << 17;
        content.extend_from_slice(&number.to_le_bytes());
    }
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, content).unwrap();
    };
    add("first", b"first");
    add("long", &content);
    add("last", b"last");
    tar.into_inner().unwrap()
}

/// The blobs and the layer of busybox, and the layer that lies below every container.
const ALONE: usize = 5;

/// What the daemon keeps of images.
fn kept(host: &Host) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for folder in ["images/blobs/sha256", "images/blobs/tmp", "layer/overlay/layers"] {
        for entry in fs::read_dir(host.root().join(folder)).into_iter().flatten().flatten() {
            all.insert(format!("{folder}/{}", entry.file_name().to_string_lossy()));
        }
    }
    all
}

/// Whether a file of a layer is there, though the layer is not whole.
fn begins_to_be_unpacked(host: &Host, before: &BTreeSet<String>) -> bool {
    let layers = fs::read_dir(host.root().join("layer/overlay/layers")).into_iter().flatten().flatten();
    layers.map(|entry| entry.path()).any(|layer| {
        let name = layer.file_name().unwrap().to_string_lossy().into_owned();
        !before.contains(&format!("layer/overlay/layers/{name}"))
            && layer.join("first").exists()
            && !layer.join("last").exists()
    })
}

/// An image with a long layer that is in the registry and not here; its name by the slow way.
fn remote(host: &Host) -> &'static str {
    host.write("big.tar", big_tar());
    host.ok(&["import", host.path("big.tar").to_str().unwrap(), "localhost:5000/big:1"]);
    host.ok(&["push", "localhost:5000/big:1"]);
    host.ok(&["rmi", "localhost:5000/big:1"]);
    "localhost:5001/big:1"
}

fn begin(host: &Host, arguments: &[&str]) -> Child {
    host.command(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// A program that ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn settles(host: &Host, what: &str, before: &BTreeSet<String>) {
    let mut last = BTreeSet::new();
    host.wait_until(what, || {
        let now = kept(host);
        if now != last {
            println!("{what}: {:?}", now.symmetric_difference(before).collect::<Vec<_>>());
            last = now;
        }
        last == *before
    });
}

#[test]
fn a_pull_is_unpacked_while_it_comes_and_leaves_nothing_when_it_is_given_up() {
    let test = "a_pull_is_unpacked_while_it_comes_and_leaves_nothing_when_it_is_given_up";
    let Some(host) = Host::with_image(test) else { return };
    let Some(_registry) = Registry::start(test, &host, "", "") else { return };
    let name = remote(&host);
    let way = SlowWay::open(&host, 5001);
    host.wait_until("the removed image's files are gone", || kept(&host).len() == ALONE);
    let before = kept(&host);
    let mut pull = begin(&host, &["pull", name]);
    host.wait_until("the layer is unpacked while it comes", || begins_to_be_unpacked(&host, &before));
    assert!(way.passed() < BIG as u64);
    pull.kill().unwrap();
    pull.wait().unwrap();
    settles(&host, "nothing is left of a pull that was given up", &before);
    way.hurry();
    host.ok(&["pull", name]);
    assert_eq!(host.ok(&["images", "-q"]).lines().count(), 2);
}

#[test]
fn two_pulls_of_one_image_fetch_it_once() {
    let test = "two_pulls_of_one_image_fetch_it_once";
    let Some(host) = Host::with_image(test) else { return };
    let Some(_registry) = Registry::start(test, &host, "", "") else { return };
    let name = remote(&host);
    let way = SlowWay::open(&host, 5001);
    let mut pulls = [begin(&host, &["pull", name]), begin(&host, &["pull", name])];
    host.wait_until("something comes", || way.passed() > 1 << 20);
    way.hurry();
    for pull in &mut pulls {
        assert!(pull.wait().unwrap().success());
    }
    let passed = way.passed();
    assert!(passed < BIG as u64 * 3 / 2, "{passed} bytes for a layer of {BIG}");
    assert_eq!(host.ok(&["images", "-q", name]).lines().count(), 1);
}

#[test]
fn a_daemon_that_dies_in_a_pull_leaves_nothing_and_can_pull_again() {
    let test = "a_daemon_that_dies_in_a_pull_leaves_nothing_and_can_pull_again";
    let Some(mut host) = Host::with_image(test) else { return };
    let Some(_registry) = Registry::start(test, &host, "", "") else { return };
    let name = remote(&host);
    let way = SlowWay::open(&host, 5001);
    host.wait_until("the removed image's files are gone", || kept(&host).len() == ALONE);
    let before = kept(&host);
    let mut pull = begin(&host, &["pull", name]);
    host.wait_until("the layer is unpacked while it comes", || begins_to_be_unpacked(&host, &before));
    host.crash_and_restart();
    assert!(!pull.wait().unwrap().success());
    settles(&host, "nothing is left of a pull that died", &before);
    way.hurry();
    host.ok(&["pull", name]);
    assert_eq!(host.ok(&["run", "--rm", IMAGE, "echo", "fine"]), "fine");
}

/// Feeds half of an archive to a command, kills the daemon once that is being unpacked, and does it again whole.
fn dies_midway(host: &mut Host, arguments: &[&str], archive: &[u8], half: usize) {
    host.wait_until("earlier files are gone", || kept(host).len() == ALONE);
    let before = kept(host);
    let mut command = begin(host, arguments);
    let mut input = command.stdin.take().unwrap();
    input.write_all(&archive[..half]).unwrap();
    host.wait_until("the layer is unpacked while it comes", || begins_to_be_unpacked(host, &before));
    host.crash_and_restart();
    drop(input.write_all(&archive[half..]));
    drop(input);
    assert!(!command.wait().unwrap().success());
    settles(host, "nothing is left of what died", &before);
    let answer = host.run_with_input(arguments, archive);
    assert_eq!(answer.code, 0, "{}", answer.err);
    // What the client gives up halfway is no image either.
    host.ok(&["rmi", "big:1"]);
    settles(host, "nothing is left of what was removed", &before);
    let mut command = begin(host, arguments);
    let mut input = command.stdin.take().unwrap();
    input.write_all(&archive[..half]).unwrap();
    host.wait_until("the layer is unpacked while it comes", || begins_to_be_unpacked(host, &before));
    command.kill().unwrap();
    command.wait().unwrap();
    settles(host, "nothing is left of what was given up", &before);
}

#[test]
fn a_daemon_that_dies_in_an_import_or_a_load_leaves_nothing() {
    let test = "a_daemon_that_dies_in_an_import_or_a_load_leaves_nothing";
    let Some(mut host) = Host::with_image(test) else { return };
    let tar = big_tar();
    dies_midway(&mut host, &["import", "-", "big:1"], &tar, tar.len() / 2);
    host.write("big.tar", &tar);
    host.ok(&["import", host.path("big.tar").to_str().unwrap(), "big:1"]);
    host.ok(&["save", "-o", host.path("saved.tar").to_str().unwrap(), "big:1"]);
    host.ok(&["rmi", "big:1"]);
    let saved = fs::read(Path::new(&host.path("saved.tar"))).unwrap();
    dies_midway(&mut host, &["load"], &saved, saved.len() / 2);
}

#[test]
fn removed_images_do_not_wait_for_their_files() {
    let test = "removed_images_do_not_wait_for_their_files";
    let Some(mut host) = Host::with_image(test) else { return };
    host.wait_until("busybox alone is here", || kept(&host).len() == ALONE);
    let before = kept(&host);
    let mut tar = tar::Builder::new(Vec::new());
    for at in 0..3000 {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(0);
        tar.append_data(&mut header, format!("folder{}/file{at}", at % 50), std::io::empty()).unwrap();
    }
    let tar = tar.into_inner().unwrap();
    for _ in 0..3 {
        assert_eq!(host.run_with_input(&["import", "-", "many:1"], &tar).code, 0);
        host.ok(&["rmi", "many:1"]);
        // The same layer comes again while its files go.
        assert_eq!(host.run_with_input(&["import", "-", "many:1"], &tar).code, 0);
        host.ok(&["rmi", "many:1"]);
        host.crash_and_restart();
        settles(&host, "the next daemon removes what is left", &before);
    }
    assert_eq!(host.ok(&["run", "--rm", IMAGE, "echo", "fine"]), "fine");
}

#[test]
fn lists_of_manifests_are_made_and_pulled_by_platform() {
    let test = "lists_of_manifests_are_made_and_pulled_by_platform";
    let Some(host) = Host::with_image(test) else { return };
    let Some(_registry) = Registry::start(test, &host, "", "") else { return };
    let (here, other) = ("localhost:5000/team/box:here", "localhost:5000/other/box:s390x");
    host.ok(&["tag", IMAGE, here]);
    host.ok(&["push", here]);
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(5);
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut header, "other", &b"other"[..]).unwrap();
    let tar = tar.into_inner().unwrap();
    let made = host.run_with_input(&["import", "--platform", "linux/s390x", "-", other], &tar);
    assert_eq!(made.code, 0, "{}", made.err);
    host.ok(&["push", other]);

    let list = "localhost:5000/team/box:all";
    let (_, error) = host.fails(&["manifest", "push", list]);
    assert!(error.contains("No such manifest"), "{error}");
    assert!(host.ok(&["manifest", "create", list, here, other]).contains(list));
    let (_, error) = host.fails(&["manifest", "create", list, here]);
    assert!(error.contains("--amend"), "{error}");
    host.ok(&["manifest", "create", "--amend", list, here]);
    host.ok(&["manifest", "annotate", "--os-features", "sse4", list, here]);
    let (_, error) = host.fails(&["manifest", "annotate", "--arch", "arm", list, "localhost:5000/no:1"]);
    assert!(error.contains("does not exist"), "{error}");
    let kept: serde_json::Value = serde_json::from_str(&host.ok(&["manifest", "inspect", list])).unwrap();
    assert_eq!(kept["manifests"].as_array().unwrap().len(), 2);
    assert!(host.ok(&["manifest", "inspect", list, other]).contains("layers"));
    let digest = host.ok(&["manifest", "push", "--purge", list]);
    assert!(digest.starts_with("sha256:"), "{digest}");
    let (_, error) = host.fails(&["manifest", "rm", list]);
    assert!(error.contains("No such manifest"), "{error}");

    let remote: serde_json::Value = serde_json::from_str(&host.ok(&["manifest", "inspect", list])).unwrap();
    let architectures: BTreeSet<&str> = remote["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|each| each["platform"]["architecture"].as_str().unwrap())
        .collect();
    assert!(architectures.contains("s390x") && architectures.len() == 2, "{architectures:?}");
    let (status, shown) = host.api("GET", "/distribution/localhost:5000/team/box:all/json", None);
    assert_eq!((status, shown["Descriptor"]["digest"].as_str().unwrap()), (200, digest.as_str()));
    for image in host.ok(&["images", "-q"]).lines() {
        host.ok(&["rmi", "-f", image]);
    }
    host.ok(&["pull", list]);
    assert_eq!(host.ok(&["run", "--rm", list, "echo", "ours"]), "ours");
    let (_, error) = host.fails(&["image", "inspect", "--platform", "linux/s390x", list]);
    assert!(error.contains("does not match"), "{error}");
    host.fails(&["save", "--platform", "linux/s390x", "-o", host.path("no.tar").to_str().unwrap(), list]);
    host.fails(&["history", "--platform", "linux/s390x", list]);
    host.fails(&["push", "--platform", "linux/s390x", list]);
    host.fails(&["rmi", "--platform", "linux/s390x", list]);
    host.ok(&["pull", "--platform", "linux/s390x", list]);
    assert_eq!(
        host.ok(&["image", "inspect", "--format", "{{.Architecture}}", "--platform", "linux/s390x", list]),
        "s390x"
    );
    // The other repository's image was made known in the list's own.
    host.ok(&["pull", "--platform", "linux/s390x", &format!("localhost:5000/team/box@{digest}")]);
    host.ok(&["rmi", "--platform", "linux/s390x", list]);
}

#[test]
fn what_was_made_here_is_packed_once_and_comes_back_the_same() {
    let test = "what_was_made_here_is_packed_once_and_comes_back_the_same";
    let Some(host) = Host::with_image(test) else { return };
    let Some(_registry) = Registry::start(test, &host, "", "") else { return };
    host.ok(&["run", "--name", "work", IMAGE, "sh", "-c", "yes text | head -c 1000000 > /text"]);
    host.ok(&["commit", "work", "localhost:5000/made:1"]);
    host.ok(&["tag", IMAGE, "localhost:5000/base:1"]);
    let digest = |out: &str| out.split("digest: ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().to_owned();
    let first = digest(&host.ok(&["push", "localhost:5000/made:1"]));
    let manifest: serde_json::Value =
        serde_json::from_str(&host.ok(&["manifest", "inspect", "localhost:5000/made:1"])).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    assert!(layers.iter().all(|layer| layer["mediaType"].as_str().unwrap().ends_with("tar+gzip")), "{layers:?}");
    assert!(layers[1]["size"].as_u64().unwrap() < 100_000, "{layers:?}");
    assert_eq!(digest(&host.ok(&["push", "localhost:5000/made:1"])), first);
    // What lies below was packed with it.
    let out = host.ok(&["push", "localhost:5000/base:1"]);
    assert!(out.contains("Mounted from made"), "{out}");
    assert_eq!(host.ok(&["run", "--rm", "localhost:5000/made:1", "sh", "-c", "wc -c < /text"]), "1000000");
    let id = host.api("GET", "/images/localhost:5000/made:1/json", None).1["Id"].clone();
    host.ok(&["save", "-o", host.path("made.tar").to_str().unwrap(), "localhost:5000/made:1"]);
    host.ok(&["rm", "work"]);
    // What lies below goes after what was made upon it.
    host.ok(&["rmi", "localhost:5000/made:1"]);
    host.ok(&["rmi", IMAGE, "localhost:5000/base:1"]);
    assert_eq!(host.ok(&["images", "-q"]), "");
    host.ok(&["load", "-i", host.path("made.tar").to_str().unwrap()]);
    assert_eq!(host.api("GET", "/images/localhost:5000/made:1/json", None).1["Id"], id);
    assert_eq!(digest(&host.ok(&["push", "localhost:5000/made:1"])), first, "what was saved and loaded is the same");
    assert_eq!(host.ok(&["run", "--rm", "localhost:5000/made:1", "sh", "-c", "wc -c < /text"]), "1000000");
}

#[test]
fn archives_are_imported_from_the_network_while_they_come() {
    let test = "archives_are_imported_from_the_network_while_they_come";
    let Some(host) = Host::with_image(test) else { return };
    host.wait_until("busybox alone is here", || kept(&host).len() == ALONE);
    let before = kept(&host);
    let tar = big_tar();
    host.write("www/big.tar", &tar);
    host.write("www/half.tar", &tar[..tar.len() / 2]);
    let folder = host.path("www");
    let _server = host.in_network(move || {
        std::process::Command::new("/bin/busybox")
            .args(["httpd", "-f", "-p", "127.0.0.1:8000", "-h"])
            .arg(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map(Ended)
            .unwrap()
    });
    host.wait_until("the server listens", || {
        host.in_network(|| std::net::TcpStream::connect("127.0.0.1:8000")).is_ok()
    });
    let (_, error) = host.fails(&["import", "http://127.0.0.1:8000/none.tar", "big:1"]);
    assert!(error.contains("404"), "{error}");
    let (_, error) = host.fails(&["import", "http://127.0.0.1:8000/half.tar", "big:1"]);
    assert!(error.contains("middle of an entry"), "{error}");
    settles(&host, "nothing is left of what was refused", &before);
    host.ok(&["import", "http://127.0.0.1:8000/big.tar", "big:1"]);
    assert!(host.ok(&["history", "--format", "{{.Comment}}", "big:1"]).contains("Imported from http://127.0.0.1"));
}

#[test]
fn unused_images_go_when_the_configuration_asks() {
    let test = "unused_images_go_when_the_configuration_asks";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("daemon.json");
    fs::write(&file, r#"{"images": {"gc": {"unusedFor": "8s", "all": true}}}"#).unwrap();
    let Some(host) = Host::start_with(test, &["--config-file", file.to_str().unwrap()]) else { return };
    host.import_busybox();
    host.ok(&["create", "--name", "user", IMAGE, "true"]);
    let tar = big_tar();
    assert_eq!(host.run_with_input(&["import", "-", "unused:1"], &tar).code, 0);
    host.wait_until("the unused image is gone", || !host.ok(&["images", "-q", "--no-trunc"]).contains('\n'));
    assert_eq!(host.ok(&["images", "--format", "{{.Repository}}:{{.Tag}}"]), IMAGE);
    host.ok(&["rm", "user"]);
    host.wait_until("the other one is not used any more", || host.ok(&["images", "-q"]).is_empty());
}
