//! A daemon that dies at any change of its state: the operation is then done or undone, can be asked for again, and what
//! it leaves can be taken away without a trace.
//!
//! Each operation is tried with a death before its first change of state, after it, before the second one, and so on until
//! it gets through; every third time the daemon that follows dies while it recovers, too.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use sampan_tests::{Host, IMAGE, Leftovers, busybox_tar};

/// More changes of state than any operation here makes.
const MOST: u64 = 400;

struct Operation {
    name: &'static str,
    /// What must be there first.
    before: &'static [&'static [&'static str]],
    act: &'static [&'static str],
    /// Whether the next daemon brings it to its end without being asked again.
    by_itself: bool,
    done: fn(&Host) -> bool,
    /// Takes everything away, whether or not it is there.
    after: &'static [&'static [&'static str]],
}

const CREATE: &[&str] =
    &["create", "--name", "box", "--network", "net", "-p", "8080:80", "-v", "vol:/data", IMAGE, "sleep", "1000"];
const NETWORK: &[&str] = &["network", "create", "net"];
const ALL_GONE: &[&[&str]] =
    &[&["rm", "-f", "-v", "box"], &["network", "rm", "net"], &["network", "rm", "net2"], &["volume", "rm", "vol"]];

const CONTAINERS: &[Operation] = &[
    Operation {
        name: "create",
        before: &[NETWORK],
        act: CREATE,
        by_itself: false,
        done: |host| exists(host, "box"),
        after: ALL_GONE,
    },
    Operation {
        name: "start",
        before: &[NETWORK, CREATE],
        act: &["start", "box"],
        by_itself: false,
        done: |host| running(host, "box"),
        after: ALL_GONE,
    },
    Operation {
        name: "stop",
        before: &[NETWORK, CREATE, &["start", "box"]],
        act: &["stop", "-t", "0", "box"],
        by_itself: false,
        done: |host| !running(host, "box"),
        after: ALL_GONE,
    },
    Operation {
        name: "restart",
        before: &[NETWORK, CREATE, &["start", "box"]],
        act: &["restart", "-t", "0", "box"],
        by_itself: false,
        done: |host| running(host, "box"),
        after: ALL_GONE,
    },
    Operation {
        name: "rm -f",
        before: &[NETWORK, CREATE, &["start", "box"]],
        act: &["rm", "-f", "box"],
        by_itself: false,
        done: |host| !exists(host, "box"),
        after: ALL_GONE,
    },
    Operation {
        name: "rename",
        before: &[NETWORK, CREATE],
        act: &["rename", "box", "box2"],
        by_itself: false,
        done: |host| exists(host, "box2"),
        after: &[&["rename", "box2", "box"], ALL_GONE[0], ALL_GONE[1], ALL_GONE[3]],
    },
    Operation {
        name: "run --rm",
        before: &[],
        act: &["run", "--rm", "--name", "box", "-v", "/anonymous", IMAGE, "true"],
        by_itself: true,
        done: |host| !exists(host, "box"),
        after: ALL_GONE,
    },
];

const NETWORKS: &[Operation] = &[
    Operation {
        name: "network create",
        before: &[],
        act: NETWORK,
        by_itself: false,
        done: |host| listed(host, "network", "net"),
        after: ALL_GONE,
    },
    Operation {
        name: "network rm",
        before: &[NETWORK],
        act: &["network", "rm", "net"],
        by_itself: false,
        done: |host| !listed(host, "network", "net"),
        after: ALL_GONE,
    },
    Operation {
        name: "network connect",
        before: &[NETWORK, &["network", "create", "net2"], CREATE, &["start", "box"]],
        act: &["network", "connect", "net2", "box"],
        by_itself: false,
        done: |host| connected(host, "net2"),
        after: ALL_GONE,
    },
    Operation {
        name: "network disconnect",
        before: &[
            NETWORK,
            &["network", "create", "net2"],
            CREATE,
            &["start", "box"],
            &["network", "connect", "net2", "box"],
        ],
        act: &["network", "disconnect", "net2", "box"],
        by_itself: false,
        done: |host| !connected(host, "net2"),
        after: ALL_GONE,
    },
    Operation {
        name: "volume create",
        before: &[],
        act: &["volume", "create", "vol"],
        by_itself: false,
        done: |host| listed(host, "volume", "vol"),
        after: ALL_GONE,
    },
    Operation {
        name: "volume rm",
        before: &[&["volume", "create", "vol"]],
        act: &["volume", "rm", "vol"],
        by_itself: false,
        done: |host| !listed(host, "volume", "vol"),
        after: ALL_GONE,
    },
];

const NO_IMAGES: &[&[&str]] = &[
    &["rm", "-f", "box"],
    &["rmi", "-f", "new"],
    &["rmi", "-f", "other"],
    &["image", "prune", "-f"],
    &["builder", "prune", "-a", "-f"],
];
const IMPORT: &[&str] = &["import", "other.tar", "new"];
const BUILD: &[&str] = &["build", "-t", "new", "context"];

const IMAGES: &[Operation] = &[
    Operation {
        name: "import",
        before: &[],
        act: IMPORT,
        by_itself: false,
        done: |host| image(host, "new"),
        after: NO_IMAGES,
    },
    Operation {
        name: "load",
        before: &[IMPORT, &["save", "-o", "saved.tar", "new"], &["rmi", "-f", "new"]],
        act: &["load", "-i", "saved.tar"],
        by_itself: false,
        done: |host| image(host, "new"),
        after: NO_IMAGES,
    },
    Operation {
        name: "rmi",
        before: &[IMPORT],
        act: &["rmi", "-f", "new"],
        by_itself: false,
        done: |host| !image(host, "new"),
        after: NO_IMAGES,
    },
    Operation {
        name: "tag",
        before: &[IMPORT],
        act: &["tag", "new", "other"],
        by_itself: false,
        done: |host| image(host, "other"),
        after: NO_IMAGES,
    },
    Operation {
        name: "commit",
        before: &[&["run", "--name", "box", IMAGE, "touch", "/made"]],
        act: &["commit", "box", "new"],
        by_itself: false,
        done: |host| image(host, "new"),
        after: NO_IMAGES,
    },
    Operation {
        name: "build",
        before: &[],
        act: BUILD,
        by_itself: false,
        done: |host| image(host, "new"),
        after: NO_IMAGES,
    },
    Operation {
        name: "builder prune",
        before: &[BUILD, &["rmi", "-f", "new"]],
        act: &["builder", "prune", "-a", "-f"],
        by_itself: false,
        done: |_| true,
        after: NO_IMAGES,
    },
];

const DOWN: &[&str] = &["compose", "-p", "s", "down", "-v", "-t", "0"];
const UP: &[&str] = &["compose", "-f", "stack/one.yaml", "-p", "s", "up", "-d"];
const EDITED: &[&str] = &["compose", "-f", "stack/two.yaml", "-p", "s", "up", "-d"];

const STACKS: &[Operation] = &[
    Operation {
        name: "up",
        before: &[],
        act: UP,
        by_itself: false,
        done: |host| stands(host, "one", 2) && listed(host, "network", "s_back") && listed(host, "volume", "s_data"),
        after: &[DOWN],
    },
    // Another network, one replica more, and labels of what stays.
    Operation {
        name: "up after an edit",
        before: &[UP],
        act: EDITED,
        by_itself: false,
        done: |host| stands(host, "two", 3) && listed(host, "network", "s_other"),
        after: &[DOWN],
    },
    Operation {
        name: "down",
        before: &[UP],
        act: DOWN,
        by_itself: false,
        done: |host| stands(host, "", 0) && !listed(host, "network", "s_back") && !listed(host, "volume", "s_data"),
        after: &[DOWN],
    },
];

/// The files of the stack before and after its edit.
fn write_stack(host: &Host) {
    let service = |more: &str| format!("{{ image: {IMAGE}, command: sleep 1000, stop_grace_period: 0s, {more} }}");
    for (version, replicas, networks) in [("one", 1, "front, back"), ("two", 2, "front, other")] {
        let web = service(&format!(
            "scale: {replicas}, depends_on: [db], networks: [{networks}], labels: {{ v: {version} }}, environment: {{ V: {version} }}"
        ));
        let db =
            service(&format!("networks: [back], labels: {{ v: {version} }}, volumes: ['data:/data'], configs: [c]"));
        let text = format!(
            "services:\n  web: {web}\n  db: {db}\nnetworks: {{ front: , back: , {} }}\nvolumes: {{ data: }}\nconfigs: {{ c: {{ content: same }} }}\n",
            if version == "two" { "other:" } else { "" }
        );
        host.write(&format!("stack/{version}.yaml"), text);
    }
}

/// Whether so many containers run, all of this version.
fn stands(host: &Host, version: &str, count: usize) -> bool {
    let (_, all) = host.api("GET", "/containers/json?all=1", None);
    let all = all.as_array().cloned().unwrap_or_default();
    // One that is replaced lies aside under a name with its id.
    let current = |container: &Value| {
        let aside = container["Names"][0].as_str().is_none_or(|name| name.contains('_'));
        container["State"] == "running" && container["Labels"]["v"] == version && !aside
    };
    all.len() == count && all.iter().all(current)
}

fn exists(host: &Host, container: &str) -> bool {
    host.run(&["container", "inspect", container]).code == 0
}

fn running(host: &Host, container: &str) -> bool {
    host.run(&["container", "inspect", "--format", "{{.State.Running}}", container]).out == "true\n"
}

fn image(host: &Host, name: &str) -> bool {
    host.run(&["image", "inspect", name]).code == 0
}

fn listed(host: &Host, noun: &str, name: &str) -> bool {
    host.ok(&[noun, "ls", "--format", "{{.Name}}"]).lines().any(|line| line == name)
}

fn connected(host: &Host, network: &str) -> bool {
    host.inspect("box")["NetworkSettings"]["Networks"].get(network).is_some()
}

/// Everything on the machine that is the daemon's, and the files that it keeps.
fn everything(host: &Host) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    all.extend(host.links().into_iter().map(|name| format!("link {name}")));
    let left = Leftovers::of(&host.path(""), host.instance());
    all.extend(left.mounts.iter().map(|path| format!("mount {}", path.display())));
    all.extend(left.processes.iter().filter(|(pid, _)| *pid != host.pid()).map(|(_, text)| format!("process {text}")));
    for cgroup in &left.cgroups {
        all.extend(children(cgroup).map(|name| format!("cgroup {}/{name}", cgroup.display())));
    }
    all.extend(children(&host.run_directory().join("c")).map(|name| format!("bundle {name}")));
    for folder in [
        "containers",
        "images",
        "images/blobs/sha256",
        "images/blobs/tmp",
        "layer/overlay/layers",
        "layer/overlay/containers",
        "tmp",
        "volumes",
        "volume/local",
        "build-cache",
    ] {
        all.extend(children(&host.root().join(folder)).map(|name| format!("file {folder}/{name}")));
    }
    all
}

fn children(folder: &Path) -> impl Iterator<Item = String> {
    fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|entry| {
        // Of a control group only the groups below it are something that was made.
        let kept = !entry.path().starts_with("/sys") || entry.path().is_dir();
        kept.then(|| entry.file_name().to_string_lossy().into_owned())
    })
}

/// Runs the operation with a death at each of its changes of state.
fn dies_everywhere(host: &mut Host, operation: &Operation) {
    let name = operation.name;
    let clean = everything(host);
    let namespace = host.network_namespace();
    for place in 0..MOST {
        for command in operation.before {
            host.ok(command);
        }
        fs::write(host.fault(), place.to_string()).unwrap();
        let answer = host.run(operation.act);
        let whole = !has_died(host);
        if whole {
            assert_eq!(answer.code, 0, "{name}: {}{}", answer.out, answer.err);
        } else {
            let mut deaths = 0;
            while host.pid() == 0 {
                if place % 3 == 2 && deaths < 3 {
                    fs::write(host.fault(), (place % 5 + deaths).to_string()).unwrap();
                }
                let asked = host.fault().exists();
                host.try_spawn_in(namespace.try_clone().unwrap());
                deaths += 1;
                if asked {
                    has_died(host);
                }
            }
            if operation.by_itself {
                host.wait_until(&format!("{name} is done after a death at place {place}"), || (operation.done)(host));
            }
            if !(operation.done)(host) {
                host.ok(operation.act);
            }
        }
        assert!(
            (operation.done)(host),
            "{name}: not done, with a death at place {place}; there are\n{}",
            host.ok(&["ps", "-a"])
        );
        for command in operation.after {
            let _ = host.run(command);
        }
        let mut left = BTreeSet::new();
        host.wait_until(&format!("{name} with a death at place {place} leaves nothing"), || {
            let now = everything(host);
            if now != left {
                left = now;
                println!("{name} {place}: {:?}", left.symmetric_difference(&clean).collect::<Vec<_>>());
            }
            left == clean
        });
        if whole {
            assert!(place > 0, "{name}: nothing died; are these programs of a debug build?");
            return;
        }
    }
    panic!("{name}: not through after {MOST} deaths");
}

/// Whether the daemon has taken the file that asks for its death; where it has not, it need not any more.
fn has_died(host: &mut Host) -> bool {
    let dies = fs::remove_file(host.fault()).is_err();
    while dies && !host.died() {
        std::thread::yield_now();
    }
    dies
}

fn each(test: &str, operations: &[Operation]) {
    let Some(mut host) = Host::with_image(test) else { return };
    if !dies_at_all(&mut host) {
        println!("skipped: {test} needs programs of a debug build");
        return;
    }
    let mut other = busybox_tar();
    other.truncate(other.len() - 1024);
    let mut builder = tar::Builder::new(other);
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(4);
    builder.append_data(&mut header, "etc/other", &b"more"[..]).unwrap();
    host.write("other.tar", builder.into_inner().unwrap());
    host.write("context/Dockerfile", format!("FROM {IMAGE}\nCOPY file /file\nRUN echo made > /made\nENV A=b\n"));
    host.write("context/file", "content");
    write_stack(&host);
    for operation in operations {
        dies_everywhere(&mut host, operation);
    }
}

/// Only debug builds can be asked to die.
fn dies_at_all(host: &mut Host) -> bool {
    let namespace = host.network_namespace();
    fs::write(host.fault(), "0").unwrap();
    let _ = host.run(&["volume", "create", "vol"]);
    let dies = has_died(host);
    if dies {
        host.spawn_in(namespace);
    }
    let _ = host.run(&["volume", "rm", "vol"]);
    dies
}

#[test]
fn containers_whose_daemon_dies_at_any_change() {
    each("containers_whose_daemon_dies_at_any_change", CONTAINERS);
}

#[test]
fn networks_and_volumes_whose_daemon_dies_at_any_change() {
    each("networks_and_volumes_whose_daemon_dies_at_any_change", NETWORKS);
}

#[test]
fn images_whose_daemon_dies_at_any_change() {
    each("images_whose_daemon_dies_at_any_change", IMAGES);
}

#[test]
fn stacks_whose_daemon_dies_at_any_change() {
    each("stacks_whose_daemon_dies_at_any_change", STACKS);
}
