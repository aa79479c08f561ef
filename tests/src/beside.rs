//! Another builder as the judge of builds: what it makes of the same Dockerfile must have the same files and the same
//! configuration.
//!
//! With `SAMPAN_BESIDE=unix:///path/docker.sock` each build of a test that succeeds ([`crate::Host::build`]) is made again
//! by the `docker` in `PATH` at that daemon, and compared; a difference fails the test. Use one thread
//! (`RUST_TEST_THREADS=1`): names of images are the tests' own. What the other builder cannot do is named in
//! `SAMPAN_BESIDE_LOG`, with the rest, a line each.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;

use crate::Host;

/// What a file is, for comparison: kind, mode, owner, and content or target.
pub type Files = std::collections::BTreeMap<String, String>;

/// Directories and files that engines make for their mounts, and leave behind or not.
const STUBS: [&str; 10] =
    ["dev", "proc", "sys", "run", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab", ".dockerenv", ""];

/// The files of a tar but for what engines make for their mounts.
#[must_use]
pub fn files_of(tar: &[u8]) -> Files {
    let mut files = Files::new();
    let mut archive = tar::Archive::new(tar);
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let name = name.trim_start_matches("./").trim_matches('/').to_owned();
        if STUBS.contains(&name.as_str()) || name.starts_with("run/") || name.starts_with("dev/") || name == "." {
            continue;
        }
        let header = entry.header().clone();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let hash = content
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
        let link = entry.link_name().unwrap().map(|link| link.display().to_string()).unwrap_or_default();
        // Links have no modes of their own; which name of a file comes first is the archive's matter.
        let mode = if header.entry_type().is_symlink() { 0 } else { header.mode().unwrap() & 0o7777 };
        let what = format!(
            "{:?} {mode:o} {}:{} {link} {} {hash:x}",
            header.entry_type(),
            header.uid().unwrap(),
            header.gid().unwrap(),
            content.len()
        );
        files.insert(name, what);
    }
    files
}

/// The words of a configuration that all builders have; empty is absent.
#[must_use]
pub fn words_of(config: &serde_json::Value) -> serde_json::Value {
    let mut found = serde_json::Map::new();
    let keys = [
        "Env",
        "Cmd",
        "Entrypoint",
        "WorkingDir",
        "User",
        "ExposedPorts",
        "Volumes",
        "Labels",
        "StopSignal",
        "OnBuild",
        "Shell",
        "Healthcheck",
    ];
    for key in keys {
        let mut value = config[key].clone();
        if let Some(labels) = value.as_object_mut() {
            labels.remove("io.buildah.version");
        }
        if key == "Healthcheck"
            && let Some(fields) = value.as_object_mut()
        {
            fields.retain(|_, field| *field != 0);
        }
        let empty = value.is_null()
            || value == ""
            || value == "/"
            || value.as_array().is_some_and(Vec::is_empty)
            || value.as_object().is_some_and(serde_json::Map::is_empty);
        if !empty {
            found.insert(key.to_owned(), value);
        }
    }
    found.into()
}

/// Options that only say where a result goes, or where it may come from.
const ELSEWHERE: [&str; 11] = [
    "--tag",
    "-t",
    "--cache-from",
    "--cache-to",
    "--iidfile",
    "--metadata-file",
    "--progress",
    "--provenance",
    "--attest",
    "--output",
    "-o",
];
/// The same without a value.
const ELSEWHERE_FLAGS: [&str; 5] = ["-q", "--quiet", "--push", "--load", "--rm"];
/// Words of Dockerfiles by which two builds differ whoever builds.
const VOLATILE: [&str; 8] = ["date ", "date)", "/proc/", "urandom", "$$", "uuid", "hostname", "SOURCE_DATE_EPOCH"];

/// Compares a build that succeeded with what the other builder makes of it, where one is named.
pub(crate) fn compare(host: &Host, arguments: &[&str], told: &str) {
    let Some(socket) = std::env::var("SAMPAN_BESIDE").ok().filter(|socket| !socket.is_empty()) else { return };
    let outcome = try_compare(host, &socket, arguments, told);
    if let Some(log) = std::env::var_os("SAMPAN_BESIDE_LOG") {
        let name = std::thread::current().name().unwrap_or("?").to_owned();
        let mut file = fs::File::options().create(true).append(true).open(log).unwrap();
        let line = match &outcome {
            Ok(said) => said.clone(),
            Err(differences) => format!("differs: {differences}"),
        };
        writeln!(file, "{name}: build {}: {}", arguments.join(" "), line.replace('\n', " | ")).unwrap();
    }
    if let Err(differences) = outcome {
        panic!("build {}: the other builder's result differs:\n{differences}", arguments.join(" "));
    }
}

fn try_compare(host: &Host, socket: &str, arguments: &[&str], told: &str) -> Result<String, String> {
    let Some(id) = told.lines().rev().find_map(|line| line.strip_prefix("Successfully built ")) else {
        return Ok("not compared: no image".to_owned());
    };
    let docker = |arguments: &[&str]| {
        let mut command = Command::new("docker");
        command.args(arguments).env("DOCKER_HOST", socket).env("DOCKER_BUILDKIT", "1").current_dir(host.path(""));
        command.output().unwrap()
    };
    let mut given = vec!["build", "--load", "--provenance=false", "-t", "sampan-beside"];
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let key = argument.split('=').next().unwrap_or_default();
        if *argument == "-" || key == "--allow" || key == "--ssh" {
            return Ok(format!("not compared: {argument}"));
        }
        if ELSEWHERE.contains(&key) {
            if !argument.contains('=') {
                rest.next();
            }
        } else if !ELSEWHERE_FLAGS.contains(argument) {
            given.push(argument);
        }
    }
    // Its daemon need not have a network for steps that want none.
    if !arguments.iter().any(|argument| argument.starts_with("--network")) {
        given.insert(1, "--network=none");
    }
    // What Dockerfiles build upon is there under the same names.
    let names = host.ok(&["images", "--format", "{{.Repository}}:{{.Tag}}"]);
    for name in names.lines().filter(|name| !name.contains("<none>")) {
        let archive = host.path("beside.tar");
        let archive = archive.to_str().unwrap();
        if host.run(&["save", "-o", archive, name]).code == 0 {
            docker(&["load", "-i", archive]);
        }
    }
    let built = docker(&given);
    if !built.status.success() {
        let said = String::from_utf8_lossy(&built.stderr).into_owned();
        let why = said.lines().rev().find(|line| line.contains("ERROR") || line.contains("rror")).unwrap_or(&said);
        return Ok(format!("not compared: the other builder cannot: {why}"));
    }
    let volatile = is_volatile(arguments);
    let seen = |files: Files| -> Files {
        if !volatile {
            return files;
        }
        let plain = |what: &str| what.split(' ').take(3).collect::<Vec<_>>().join(" ");
        files.into_iter().map(|(name, what)| (name, plain(&what))).collect()
    };
    let container = host.run(&["create", id, "-"]);
    if container.code != 0 {
        return Ok("not compared: the image was not to stay".to_owned());
    }
    let container = container.out.trim().to_owned();
    let tar = host.path("beside.tar");
    host.ok(&["export", "-o", tar.to_str().unwrap(), &container]);
    host.ok(&["rm", &container]);
    let ours = seen(files_of(&fs::read(&tar).unwrap()));
    let config = words_of(&host.api("GET", &format!("/images/{id}/json"), None).1["Config"]);

    let container = String::from_utf8(docker(&["create", "sampan-beside", "-"]).stdout).unwrap();
    let mut theirs = seen(files_of(&docker(&["export", container.trim()]).stdout));
    // Made for the files that Docker mounts there.
    if !ours.contains_key("etc") {
        theirs.remove("etc");
    }
    docker(&["rm", container.trim()]);
    let inspected: serde_json::Value =
        serde_json::from_slice(&docker(&["image", "inspect", "sampan-beside"]).stdout).unwrap_or_default();
    let their_config = words_of(&inspected[0]["Config"]);

    let mut differences = Vec::new();
    for path in ours.keys().chain(theirs.keys()).collect::<std::collections::BTreeSet<_>>() {
        if ours.get(path) != theirs.get(path) {
            differences.push(format!("/{path}: {:?}, the other {:?}", ours.get(path), theirs.get(path)));
        }
    }
    if config != their_config {
        differences.push(format!("configuration {config}, the other {their_config}"));
    }
    match differences.is_empty() {
        true if volatile => Ok("the same but for contents that differ by nature".to_owned()),
        true => Ok("the same".to_owned()),
        false => Err(differences.join("\n")),
    }
}

/// Whether the Dockerfile makes something else each time.
fn is_volatile(arguments: &[&str]) -> bool {
    let context = Path::new(arguments.last().copied().unwrap_or_default());
    let named = arguments.windows(2).find(|pair| matches!(pair[0], "-f" | "--file")).map(|pair| pair[1].into());
    let text = fs::read_to_string(named.unwrap_or_else(|| context.join("Dockerfile"))).unwrap_or_default();
    VOLATILE.iter().any(|word| text.contains(word))
}
