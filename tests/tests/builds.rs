//! Builds: what a person does with `build` and its options, on the real kernel.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use sampan_tests::beside::{files_of, words_of};
use sampan_tests::web::{git, serve};
use sampan_tests::{Host, IMAGE};

/// Every file below a directory that holds a text.
fn holding(folder: &Path, needle: &[u8], found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(meta) = path.symlink_metadata() else { continue };
        if meta.is_dir() {
            holding(&path, needle, found);
        } else if meta.is_file() && meta.len() < 64 << 20 {
            let bytes = fs::read(&path).unwrap_or_default();
            if bytes.windows(needle.len()).any(|window| window == needle) {
                found.push(path);
            }
        }
    }
}

#[test]
fn secrets_are_in_memory_while_they_are_used_and_nowhere_after() {
    let Some(host) = Host::with_image("secrets_are_in_memory_while_they_are_used_and_nowhere_after") else { return };
    let hidden = "correct-horse-battery-staple";
    let key = host.write("key", hidden);
    let folder = host.context(&[(
            "Dockerfile",
            &format!(
                "FROM {IMAGE}\n\
                 RUN --mount=type=secret,id=key,required test \"$(wc -c < /run/secrets/key)\" = {} && stat -c '%a %u %g' /run/secrets/key && grep /run/secrets /proc/mounts | cut -d' ' -f3\n\
                 RUN --mount=type=secret,id=key,target=/etc/mine,mode=0440,uid=101,gid=102 stat -c '%a %u %g' /etc/mine\n\
                 RUN --mount=type=secret,id=word,env=WORD test ${{#WORD}} = 18 && echo known\n\
                 RUN --mount=type=secret,id=other cat /run/secrets/other 2>/dev/null || echo no other\n\
                 RUN test ! -e /run/secrets && test ! -e /etc/mine && test -z \"$WORD\"\n",
                hidden.len()
            ),
        )],
    );
    let source = format!("id=key,src={}", key.display());
    let mut command =
        host.command(&["build", "-t", "app", "--secret", &source, "--secret", "id=word,env=MY_WORD", &folder]);
    let output = command.env("MY_WORD", "of-the-environment").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("400 0 0\ntmpfs\n"), "{said}");
    assert!(said.contains("440 101 102\n") && said.contains("known\n") && said.contains("no other\n"), "{said}");

    // Nowhere: no layer, no database, no log, no history.
    fs::remove_file(&key).unwrap();
    for needle in [hidden, "of-the-environment"] {
        let mut found = Vec::new();
        holding(&host.root(), needle.as_bytes(), &mut found);
        holding(&host.run_directory(), needle.as_bytes(), &mut found);
        assert_eq!(found, Vec::<PathBuf>::new(), "{needle}");
        assert!(!said.contains(needle) && !host.log().contains(needle));
        assert!(!host.ok(&["history", "--no-trunc", "app"]).contains(needle));
    }
    let (_, error) = host.fails(&["build", "--no-cache", &folder]);
    assert!(error.contains("--secret id=key") && error.contains("Dockerfile:2"), "{error}");
}

/// Says hello to a socket and prints the answer.
const CLIENT: &str = r#"
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
int main(int count, char **words) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, words[1], sizeof address.sun_path - 1);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) return 1;
    if (write(fd, "hello", 5) != 5) return 2;
    char text[100];
    ssize_t length = read(fd, text, sizeof text);
    return length > 0 && write(1, text, length) == length ? 0 : 3;
}
"#;

#[test]
fn an_agent_answers_inside_of_a_step() {
    let Some(host) = Host::with_image("an_agent_answers_inside_of_a_step") else { return };
    // busybox has no client of unix sockets.
    let source = host.write("client.c", CLIENT);
    let client = host.path("ctx/client");
    fs::create_dir_all(host.path("ctx")).unwrap();
    let compiled = Command::new("cc").arg("-static").arg("-o").arg(&client).arg(&source).status();
    if !compiled.is_ok_and(|status| status.success()) {
        println!("skipped: an_agent_answers_inside_of_a_step needs a C compiler with a static C library");
        return;
    }
    let socket = host.path("agent.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let agent = std::thread::spawn(move || {
        // The first connection only asks whether someone is there.
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut bytes = [0; 5];
            if stream.read_exact(&mut bytes).is_ok() && &bytes == b"hello" {
                stream.write_all(b"keys of the user\n").unwrap();
                return;
            }
        }
    });
    let folder = host.context(&[(
            "Dockerfile",
            &format!(
                "FROM {IMAGE}\nCOPY client /bin/client\nRUN --mount=type=ssh,mode=0600 stat -c '%a %F' $SSH_AUTH_SOCK && /bin/client $SSH_AUTH_SOCK\nRUN test -z \"$SSH_AUTH_SOCK\" && test ! -e /run/buildkit\n"
            ),
        )],
    );
    let said = host.build(&["--ssh", &format!("default={}", socket.display()), &folder]);
    assert!(said.contains("600 socket\n") && said.contains("keys of the user\n"), "{said}");
    agent.join().unwrap();
    let (_, error) = host.fails(&["build", "--no-cache", "--ssh", "default=/etc/passwd", &folder]);
    assert!(error.contains("ssh-add"), "{error}");
}

#[test]
fn named_contexts_are_directories_and_images() {
    let Some(host) = Host::with_image("named_contexts_are_directories_and_images") else { return };
    host.write("lib/part", "of the library");
    host.ok(&["tag", IMAGE, "other:1"]);
    let folder = host.context(&[(
            "Dockerfile",
            "FROM alpine:3 AS base\nRUN echo built > /built\nFROM base\nCOPY --from=lib part /part\nRUN --mount=type=bind,from=lib,target=/lib2 cat /lib2/part > /again\n",
        )],
    );
    let lib = format!("lib={}", host.path("lib").display());
    host.build(&["-t", "app", "--build-context", &lib, "--build-context", "alpine:3=docker-image://other:1", &folder]);
    assert_eq!(
        host.ok(&["run", "--rm", "app", "cat", "/built", "/part", "/again"]),
        "built\nof the libraryof the library"
    );
    host.write("lib/part", "changed");
    host.build(&["-t", "app", "--build-context", &lib, "--build-context", "alpine:3=docker-image://other:1", &folder]);
    assert_eq!(host.ok(&["run", "--rm", "app", "cat", "/part"]), "changed");
}

/// A repository with a hook that must not run, served as plain files.
fn repository(host: &Host) {
    let work = host.path("work");
    fs::create_dir_all(work.join("app")).unwrap();
    git(&work, &["init", "-q"]);
    host.write("work/Dockerfile", format!("FROM {IMAGE}\nCOPY app/file /file\n"));
    host.write("work/app/file", "from git");
    host.write("work/app/Dockerfile", format!("FROM {IMAGE}\nCOPY file /sub\n"));
    std::os::unix::fs::symlink("/etc", work.join("way-out")).unwrap();
    git(&work, &["add", "."]);
    git(&work, &["commit", "-q", "-m", "one"]);
    git(&work, &["tag", "v1"]);
    host.write("work/app/file", "newer");
    git(&work, &["commit", "-q", "-a", "-m", "two"]);
    fs::create_dir_all(host.path("www")).unwrap();
    git(&host.path("www"), &["clone", "-q", "--bare", work.to_str().unwrap(), "repo.git"]);
    git(&host.path("www/repo.git"), &["update-server-info"]);
}

#[test]
fn files_and_repositories_are_added_and_built_from() {
    let test = "files_and_repositories_are_added_and_built_from";
    if Command::new("git").arg("--version").output().is_err() {
        println!("skipped: {test} needs git");
        return;
    }
    let Some(host) = Host::with_image(test) else { return };
    repository(&host);
    host.write("www/data.txt", "over http");
    let port = serve(&host, host.path("www"));
    let url = format!("http://127.0.0.1:{port}");
    let sum = "sha256:c8e35ff0a4f46ff4b9f6d1b0fbbbfe2ecdcd07ca30e2a22c6ddbc0c6a7a0f3a2";
    let text =
        |sum: &str| format!("FROM {IMAGE}\nADD {sum} {url}/moved/data.txt /data/\nADD {url}/repo.git#v1:app /repo\n");
    let folder = host.context(&[("Dockerfile", &text(""))]);
    host.build(&["-t", "app", &folder]);
    assert_eq!(
        host.ok(&[
            "run",
            "--rm",
            "app",
            "sh",
            "-c",
            "cat /data/data.txt /repo/file; stat -c ' %a %Y' /data/data.txt; ls -A /repo"
        ]),
        "over httpfrom git 600 1445412480\nDockerfile\nfile"
    );
    host.write("ctx/Dockerfile", text(&format!("--checksum={sum}")));
    let (_, error) = host.fails(&["build", &folder]);
    let right =
        error.split("the checksum is ").nth(1).and_then(|rest| rest.split(',').next()).expect(&error).to_owned();
    host.write("ctx/Dockerfile", text(&format!("--checksum={right}")));
    host.build(&[&folder]);
    host.write("ctx/Dockerfile", format!("FROM {IMAGE}\nADD {url}/missing /x\n"));
    let (_, error) = host.fails(&["build", &folder]);
    assert!(error.contains("404") && error.contains('^'), "{error}");

    // A repository is a context; the default branch, a tag, a directory.
    host.build(&["-t", "git", &format!("{url}/repo.git")]);
    assert_eq!(host.ok(&["run", "--rm", "git", "cat", "/file"]), "newer");
    host.build(&["-t", "git", &format!("{url}/repo.git#v1:app")]);
    assert_eq!(host.ok(&["run", "--rm", "git", "cat", "/sub"]), "from git");
    for (address, part) in [
        (format!("{url}/repo.git#v1:way-out"), "is not a directory there"),
        (format!("{url}/repo.git#nothing"), "no branch, tag or commit"),
        (format!("{url}/repo.git#--upload-pack=touch"), "cannot be a branch"),
    ] {
        let (_, error) = host.fails(&["build", &address]);
        assert!(error.contains(part), "{error}");
    }
    // A named context may be remote, too; and a Dockerfile alone comes by http.
    host.write("ctx/Dockerfile", format!("FROM {IMAGE}\nCOPY --from=src app/file /f\n"));
    host.build(&["-t", "named", "--build-context", &format!("src={url}/repo.git#v1"), &folder]);
    assert_eq!(host.ok(&["run", "--rm", "named", "cat", "/f"]), "from git");
    host.write("www/plain", format!("FROM {IMAGE}\nLABEL by=http\n"));
    host.build(&["-t", "plain", &format!("{url}/plain")]);
    assert_eq!(host.api("GET", "/images/plain/json", None).1["Config"]["Labels"]["by"], "http");
}

#[test]
fn contexts_come_from_standard_input() {
    let Some(host) = Host::with_image("contexts_come_from_standard_input") else { return };
    let text = format!("FROM {IMAGE}\nCOPY file /file\n");
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in [("Other", text.as_str()), ("file", "of the archive")] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(7);
        header.set_gid(7);
        tar.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    let answer = host.run_with_input(&["build", "-t", "a", "-f", "Other", "-"], &tar.into_inner().unwrap());
    assert_eq!(answer.code, 0, "{}", answer.err);
    assert_eq!(host.ok(&["run", "--rm", "a", "cat", "/file"]), "of the archive");
    let folder = host.context(&[("file", "of the folder")]);
    let answer = host.run_with_input(&["build", "-t", "b", "-f", "-", &folder], text.as_bytes());
    assert_eq!(answer.code, 0, "{}", answer.err);
    assert_eq!(host.ok(&["run", "--rm", "b", "cat", "/file"]), "of the folder");
    let answer = host.run_with_input(&["build", "-t", "c", "-"], format!("FROM {IMAGE}\nRUN echo x > /x\n").as_bytes());
    assert_eq!(answer.code, 0, "{}", answer.err);
}

#[test]
fn results_are_put_out_as_files_and_archives() {
    let Some(host) = Host::with_image("results_are_put_out_as_files_and_archives") else { return };
    let text = format!(
        "FROM {IMAGE} AS make\nRUN mkdir /out && echo one > /out/a && chmod 640 /out/a && ln -s a /out/b\nFROM scratch\nCOPY --from=make /out /\n"
    );
    let folder = host.context(&[("Dockerfile", &text)]);
    let at = |name: &str| host.path(name).display().to_string();
    host.build(&["-o", &at("files"), &folder]);
    assert_eq!(fs::read_to_string(host.path("files/b")).unwrap(), "one\n");
    assert_eq!(fs::metadata(host.path("files/a")).unwrap().permissions().mode() & 0o777, 0o640);
    let names: Vec<_> = fs::read_dir(host.path("files")).unwrap().map(|each| each.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!(host.ok(&["images", "-q"]).lines().count(), 1, "files only: no image stays");
    assert_eq!(host.ok(&["ps", "-aq"]), "");

    host.build(&["--output", &format!("type=tar,dest={}", at("files.tar")), &folder]);
    let mut names: Vec<String> = tar::Archive::new(fs::File::open(host.path("files.tar")).unwrap())
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    names.sort();
    assert_eq!(names, ["a", "b"]);

    let meta = at("meta.json");
    host.build(&[
        "-t",
        "app:1",
        "--output",
        &format!("type=oci,dest={},tar=false", at("layout")),
        "--iidfile",
        &at("iid"),
        "--metadata-file",
        &meta,
        &folder,
    ]);
    let index: serde_json::Value = serde_json::from_slice(&fs::read(host.path("layout/index.json")).unwrap()).unwrap();
    let meta: serde_json::Value = serde_json::from_slice(&fs::read(&meta).unwrap()).unwrap();
    assert_eq!(index["manifests"][0]["digest"], meta["containerimage.digest"]);
    assert_eq!(meta["containerimage.config.digest"], fs::read_to_string(host.path("iid")).unwrap());
    assert_eq!(meta["image.name"], "app:1");
    host.build(&["-t", "app:2", "-o", &format!("type=docker,dest={}", at("app.tar")), &folder]);
    host.ok(&["rmi", "app:1", "app:2"]);
    host.ok(&["load", "-i", &at("app.tar")]);
    assert_eq!(host.ok(&["images", "-q", "app:2"]).lines().count(), 1);
    let (_, error) = host.fails(&["build", "-o", "type=nothing,dest=x", &folder]);
    assert!(error.contains("type=nothing"), "{error}");
}

#[test]
fn options_reach_the_steps_and_the_image() {
    let Some(host) = Host::with_image("options_reach_the_steps_and_the_image") else { return };
    let text = format!(
        "FROM {IMAGE} AS one\nRUN ulimit -n; df -k /dev/shm | tail -1 | cut -c1-60; grep there /etc/hosts; ip addr | grep -c ^[0-9]; cat /proc/sys/kernel/random/uuid > /time\nFROM {IMAGE} AS two\nRUN cat /proc/sys/kernel/random/uuid > /time\nFROM {IMAGE}\nARG TARGETPLATFORM\nARG HTTP_PROXY\nCOPY --from=one /time /one\nCOPY --from=two /time /two\nRUN echo $TARGETPLATFORM > /platform\n"
    );
    let folder = host.context(&[("Dockerfile", &text)]);
    let arguments = [
        "--ulimit",
        "nofile=123:456",
        "--shm-size",
        "3m",
        "--add-host",
        "there:10.9.8.7",
        "--network",
        "none",
        "--label",
        "a=b",
        "-t",
        "app",
    ];
    let said = host.build(&[&arguments[..], &[&folder]].concat());
    assert!(said.contains("\n123\n") && said.contains(" 3072 ") && said.contains("10.9.8.7"), "{said}");
    assert_eq!(host.api("GET", "/images/app/json", None).1["Config"]["Labels"]["a"], "b");
    let times = || host.ok(&["run", "--rm", "app", "cat", "/one", "/two"]);
    let before = times();
    host.build(&[&arguments[..], &["--no-cache-filter", "two", &folder]].concat());
    let after = times();
    assert_eq!(before.lines().next(), after.lines().next());
    assert_ne!(before.lines().nth(1), after.lines().nth(1));
    assert!(host.ok(&["run", "--rm", "app", "cat", "/platform"]).starts_with("linux/"));
    for (flag, value) in [("--squash", ""), ("--allow", "security.insecure")] {
        let given: Vec<&str> = [flag, value].into_iter().filter(|text| !text.is_empty()).collect();
        let (_, error) = host.fails(&[&["build"][..], &given, &[&folder]].concat());
        assert!(error.contains(flag), "{error}");
    }
}

#[test]
fn a_failing_step_is_shown_with_its_place_and_its_log_again() {
    let Some(host) = Host::with_image("a_failing_step_is_shown_with_its_place_and_its_log_again") else { return };
    let folder = host.context(&[("Dockerfile", &format!("FROM {IMAGE}\nRUN echo the-reason && exit 7\n"))]);
    let (_, error) = host.fails(&["build", &folder]);
    assert!(error.contains("Dockerfile:2:1: the program ended with code 7"), "{error}");
    assert!(error.contains("------\n > Step 2/2 : RUN echo the-reason && exit 7:\nthe-reason\n"), "{error}");
    host.write("ctx/Dockerfile", format!("FROM {IMAGE}\nRUN --security=insecure true\n"));
    let (_, error) = host.fails(&["build", &folder]);
    assert!(error.contains("insecure") && error.contains('^'), "{error}");
}

#[test]
fn a_dockerfile_is_checked_and_nothing_is_built() {
    let Some(host) = Host::with_image("a_dockerfile_is_checked_and_nothing_is_built") else { return };
    let folder = host.context(&[("Dockerfile", &format!("FROM {IMAGE}\nMAINTAINER me\nRUN exit 1\nCMD run\n"))]);
    let answer = host.run(&["build", "--check", &folder]);
    assert_eq!(answer.code, 1, "{}", answer.err);
    assert!(
        answer.out.contains("Dockerfile:2:1: MaintainerDeprecated") && answer.out.contains("^^^^^^^^^^"),
        "{}",
        answer.out
    );
    assert!(answer.err.contains("2 warnings found"), "{}", answer.err);
    host.write("ctx/Dockerfile", format!("# check=skip=all\nFROM {IMAGE}\nMAINTAINER me\nRUN exit 1\n"));
    assert_eq!(host.ok(&["build", "--check", &folder]), "Check complete, no warnings found.");
    host.write("ctx/Dockerfile", format!("# check=error=true\nFROM {IMAGE}\nMAINTAINER me\n"));
    let (_, error) = host.fails(&["build", &folder]);
    assert!(error.contains("MaintainerDeprecated"), "{error}");
    assert_eq!(host.ok(&["images", "-q"]).lines().count(), 1);
}

#[test]
fn two_builds_of_one_context_give_one_digest() {
    let Some(host) = Host::with_image("two_builds_of_one_context_give_one_digest") else { return };
    let text = format!(
        "FROM {IMAGE}\nCOPY file /srv/app/file\nRUN mkdir -p /made/deep && date > /dev/null && echo x > /made/deep/x && ln -s x /made/deep/y && rm /etc/group\nWORKDIR /new/place\n"
    );
    let folder = host.context(&[("Dockerfile", &text), ("file", "content")]);
    let digest = |name: &str| {
        let meta = host.path(name);
        let arguments = [
            "--no-cache",
            "--build-arg",
            "SOURCE_DATE_EPOCH=1700000000",
            "--output",
            "type=image,rewrite-timestamp=true",
            "--metadata-file",
            meta.to_str().unwrap(),
            &folder,
        ];
        host.build(&arguments);
        serde_json::from_slice::<serde_json::Value>(&fs::read(meta).unwrap()).unwrap()
    };
    let first = digest("one.json");
    let ids = host.ok(&["images", "-q", "--no-trunc"]);
    // Nothing is left of the first when the second begins: what is the same was made the same.
    for id in ids.lines().filter(|id| Some(*id) == first["containerimage.config.digest"].as_str()) {
        host.ok(&["rmi", id]);
    }
    host.ok(&["builder", "prune", "-af"]);
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
    fs::File::options().write(true).open(host.path("ctx/file")).unwrap().set_modified(later).unwrap();
    assert_eq!(digest("two.json"), first);
    let (code, error) = host.fails(&["build", "--frob", "x", &folder]);
    assert_eq!((code, error.lines().next()), (125, Some("unknown flag: --frob")), "an option, and not the context");
    let (_, error) = host.fails(&["build", "-o", "type=image,rewrite-timestamp=true", &folder]);
    assert!(error.contains("SOURCE_DATE_EPOCH"), "{error}");
}

#[test]
fn the_build_cache_is_pruned_by_what_is_asked_and_kept_to_its_size() {
    let test = "the_build_cache_is_pruned_by_what_is_asked_and_kept_to_its_size";
    let Some(host) = Host::with_image(test) else { return };
    let text = |size: u32| format!("FROM {IMAGE}\nRUN head -c {size} /dev/zero > /zeros\nRUN echo small > /small\n");
    let folder = host.context(&[("Dockerfile", &text(3_000_000))]);
    let rebuilt = |host: &Host| 2 - host.build(&[&folder]).matches("Using cache").count();
    let drop_images = |host: &Host| host.ok(&["image", "prune", "-f"]);
    host.build(&[&folder]);
    drop_images(&host);
    assert_eq!(rebuilt(&host), 0);
    drop_images(&host);
    host.ok(&["builder", "prune", "-f", "--filter", "until=1h"]);
    host.ok(&["builder", "prune", "-f", "--keep-storage", "10m"]);
    host.ok(&["builder", "prune", "-af", "--filter", "type=exec.cachemount"]);
    assert_eq!(rebuilt(&host), 0, "nothing was old enough, or more than may stay");
    drop_images(&host);
    host.ok(&["builder", "prune", "-f", "--filter", "description=small"]);
    assert_eq!(rebuilt(&host), 1);
    drop_images(&host);
    host.ok(&["builder", "prune", "-f", "--keep-storage", "1m"]);
    assert!(rebuilt(&host) >= 1, "the large layer went");
    // The directories of cache mounts count, and go by the same order.
    for (id, size) in [("large", 3_000_000), ("little", 10)] {
        let text =
            format!("FROM {IMAGE}\nRUN --mount=type=cache,id={id},target=/c head -c {size} /dev/zero > /c/zeros\n");
        host.write("ctx/Dockerfile", text);
        host.build(&[&folder]);
    }
    let mounts = || -> Vec<String> {
        let all = host.api("GET", "/system/df?type=build-cache", None).1;
        let of_kind = all["BuildCache"].as_array().unwrap().iter().filter(|each| each["Type"] == "exec.cachemount");
        of_kind.map(|each| format!("{} {}", each["Description"].as_str().unwrap(), each["Size"])).collect()
    };
    let mut both = mounts();
    both.sort();
    assert_eq!(both, ["cache mount large 3000000", "cache mount little 10"]);
    host.ok(&["builder", "prune", "-f", "--filter", "type=exec.cachemount", "--keep-storage", "1m"]);
    assert_eq!(mounts(), ["cache mount little 10"]);
    host.ok(&["builder", "prune", "-f", "--filter", "type=exec.cachemount", "--filter", "description=little"]);
    assert!(mounts().is_empty());
    let (_, error) = host.fails(&["builder", "prune", "-f", "--filter", "colour=red"]);
    assert!(error.contains("colour"), "{error}");
}

#[test]
fn the_daemon_keeps_the_build_cache_to_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("daemon.json");
    fs::write(&config, r#"{"builder": {"gc": {"defaultKeepStorage": "1MB", "unusedFor": "100h"}}}"#).unwrap();
    let test = "the_daemon_keeps_the_build_cache_to_its_size";
    let Some(host) = Host::start_with(test, &["--config-file", config.to_str().unwrap()]) else { return };
    host.import_busybox();
    let text = |size: u32| format!("FROM {IMAGE}\nRUN head -c {size} /dev/zero > /zeros\n");
    for (size, cached) in [(1000, true), (3_000_000, false)] {
        let folder = host.context(&[("Dockerfile", &text(size))]);
        host.build(&[&folder]);
        host.ok(&["image", "prune", "-f"]);
        host.write("ctx/Dockerfile", format!("FROM {IMAGE}\nRUN echo {size} > /other\n"));
        host.build(&[&folder]);
        host.write("ctx/Dockerfile", text(size));
        assert_eq!(host.build(&[&folder]).contains("Using cache"), cached, "{size}");
    }
}

#[test]
fn a_cache_goes_to_a_directory_and_comes_back() {
    let Some(host) = Host::with_image("a_cache_goes_to_a_directory_and_comes_back") else { return };
    let text = format!("FROM {IMAGE}\nRUN date +%s%N > /time\nCOPY file /file\nRUN cat /file > /copy\n");
    let folder = host.context(&[("Dockerfile", &text), ("file", "content")]);
    let cache = host.path("cache").display().to_string();
    host.build(&["-t", "app", "--cache-to", &format!("type=local,dest={cache},mode=max"), &folder]);
    let time = host.ok(&["run", "--rm", "app", "cat", "/time"]);
    host.ok(&["rmi", "app"]);
    host.ok(&["builder", "prune", "-af"]);
    let said = host.build(&["-t", "app", "--cache-from", &format!("type=local,src={cache}"), &folder]);
    assert_eq!(said.matches("Using cache").count(), 3, "{said}");
    assert_eq!(host.ok(&["run", "--rm", "app", "cat", "/time"]), time);

    // A cache that was tampered with is not used.
    host.ok(&["rmi", "app"]);
    host.ok(&["builder", "prune", "-af"]);
    for entry in fs::read_dir(host.path("cache/blobs/sha256")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(7).position(|window| window == b"content") {
            bytes[at] = b'C';
            fs::write(&path, bytes).unwrap();
        }
    }
    host.build(&["-t", "app", "--cache-from", &format!("type=local,src={cache}"), &folder]);
    assert_eq!(host.ok(&["run", "--rm", "app", "cat", "/file", "/copy"]), "contentcontent");
    let (_, error) = host.fails(&["build", "--cache-to", "type=gha", &folder]);
    assert!(error.contains("type=gha is not supported"), "{error}");
}

/// Dockerfiles that another builder understands as well, each over the same first lines.
const CORPUS: [(&str, &str); 24] = [
    (
        "configuration",
        "ENV A=1 B=\"two words\" C=$A\nLABEL a.b=c \"d e\"=f\nUSER web\nEXPOSE 80 53/udp\nVOLUME [\"/data\"]\nSTOPSIGNAL SIGINT\nENTRYPOINT [\"/bin/sh\",\"-c\"]\nCMD [\"echo hi\"]\n",
    ),
    ("shell forms", "ENTRYPOINT exec top -b\nCMD ignored $X\n"),
    ("workdir", "WORKDIR /a/b\nWORKDIR c\nRUN pwd > where\nWORKDIR /a/b/d\nCOPY one .\n"),
    (
        "copy",
        "COPY one /one\nCOPY one two /both/\nCOPY dir /into\nCOPY dir/ /into2/\nCOPY . /all/\nCOPY o* d*/deep /globs/\n",
    ),
    ("copy modes", "COPY --chown=web:web dir /owned\nCOPY --chown=7:8 one /numbers\nCOPY --chmod=0751 one /moded\n"),
    (
        "copy links",
        "COPY link /link\nCOPY dir /d\nRUN ln -s /d /to-d && mkdir /real && ln -s real /rel\nCOPY one /to-d/x\nCOPY two /rel/y\n",
    ),
    ("add", "ADD inner.tar /unpacked/\nADD one /plain\nADD one two /two/\n"),
    (
        "run",
        "RUN mkdir -p /x/y && echo z > /x/y/z && chmod 4750 /x/y/z && chown 5:6 /x/y && ln -s z /x/y/l && rm -r /tmp\nRUN [\"/bin/sh\", \"-c\", \"echo exec > /exec\"]\nUSER web\nRUN id -u > /var/tmp-id 2>/dev/null || true\n",
    ),
    (
        "arguments",
        "ARG NAME=none\nARG WITH=${NAME}-x\nRUN echo $NAME $WITH > /args\nENV NAME=env\nRUN echo $NAME > /env\n",
    ),
    (
        "expansion",
        "ENV E= S=set\nENV A=${E:-default} B=${S:+alt} C=${N:-x} D=\\$S E2='$S' F=\"${S}s\"\nRUN echo $A $B $C $D $E2 $F > /expanded\n",
    ),
    (
        "stages",
        "RUN echo made > /made && mkdir /tree && echo t > /tree/t\nFROM scratch\nCOPY --from=0 /made /tree /\nCOPY --from=base /bin /bin\n",
    ),
    ("shell", "SHELL [\"/bin/sh\", \"-ec\"]\nRUN echo $0 > /shell; true\n"),
    ("health", "HEALTHCHECK --interval=5s --timeout=3s --retries=2 CMD test -e /x\n"),
    ("continuations", "RUN echo a \\\n    b \\\n# a comment within\n    c > /cont\nENV A=1 \\\n    B=2\n"),
    ("triggers", "ONBUILD ENV A=1\nONBUILD LABEL b=c\n"),
    ("legacy forms", "ENV OLD some words here\nLABEL old value\nEXPOSE 8000\n"),
    ("what replaces", "CMD [\"a\"]\nENTRYPOINT [\"b\"]\nCMD [\"c\"]\nHEALTHCHECK NONE\nSTOPSIGNAL 9\nUSER 7:8\n"),
    ("links to directories", "RUN ln -s /etc /to-etc\nCOPY one /to-etc/\nRUN cd /to-etc && pwd -P > /where\n"),
    (
        "stages by number and name",
        "RUN echo a > /a\nFROM base AS second\nRUN echo b > /b\nCOPY --from=0 /etc/passwd /etc2/\nFROM second\nCOPY --from=second /b /c\n",
    ),
    ("defaults", "ARG V=1\nARG W=${V:-2}\nENV E=$W\nRUN echo $V$W$E > /v\nARG V=3\nRUN echo $V > /v2\n"),
    (
        "owners of directories",
        "RUN mkdir -p /d && chown 5:6 /d && chmod 2775 /d\nCOPY dir /d\nCOPY --chown=9 one /d/sub/one\n",
    ),
    (
        "names",
        "RUN mkdir /empty && touch /.hidden && mkdir -m 700 /private && echo x > '/a b'\nCOPY [\"one\", \"/with space/one\"]\nCOPY [a-z]ne d?r/ /w/\nCOPY dir/*/b /x/\n",
    ),
    ("removal", "RUN rm -rf /etc/group /tmp && mkdir /tmp && echo x > /tmp/x\nRUN rm -rf /tmp\n"),
    (
        "mounts",
        "RUN --mount=type=bind,target=/ctx cp /ctx/one /copied\nRUN --mount=type=tmpfs,target=/mem echo x > /mem/x\nRUN --mount=type=cache,target=/cache echo x > /cache/x\n",
    ),
];

#[test]
fn another_builder_makes_the_same_of_a_dockerfile() {
    let test = "another_builder_makes_the_same_of_a_dockerfile";
    if Command::new("buildah").arg("--version").output().is_err() {
        println!("skipped: {test} needs buildah (package buildah)");
        return;
    }
    let Some(host) = Host::start(test) else { return };
    let mut inner = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o604);
    header.set_uid(3);
    header.set_gid(4);
    header.set_mtime(1_600_000_000);
    inner.append_data(&mut header, "deep/in", &b"inner"[..]).unwrap();
    host.write("ctx/inner.tar", inner.into_inner().unwrap());
    host.write("ctx/base.tar", sampan_tests::busybox_tar());
    for (name, text) in
        [("one", "1\n"), ("two", "2\n"), ("dir/a", "a\n"), ("dir/deep/b", "b\n"), ("dir/skip.o", "no\n")]
    {
        host.write(&format!("ctx/{name}"), text);
    }
    host.write("ctx/.dockerignore", "**/*.o\nDockerfile*\n.dockerignore\n");
    fs::set_permissions(host.path("ctx/two"), fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("one", host.path("ctx/link")).unwrap();
    std::os::unix::fs::symlink("../one", host.path("ctx/dir/up")).unwrap();
    let folder = host.path("ctx").display().to_string();

    let store = tempfile::tempdir().unwrap();
    let at = |name: &str| store.path().join(name).display().to_string();
    let other = |arguments: &[&str]| {
        let output = Command::new("buildah")
            .args(["--root", &at("root"), "--runroot", &at("run"), "--storage-driver", "vfs"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "buildah {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let mut differences = Vec::new();
    for (name, text) in CORPUS {
        let file = host.write("Dockerfile.test", format!("FROM scratch AS base\nADD base.tar /\n{text}"));
        let file = file.display().to_string();
        host.build(&["-f", &file, "-t", "ours", "--build-arg", "NAME=given", &folder]);
        let tar = host.path("ours.tar");
        host.build(&[
            "-f",
            &file,
            "--build-arg",
            "NAME=given",
            "-o",
            &format!("type=tar,dest={}", tar.display()),
            &folder,
        ]);
        let ours = files_of(&fs::read(&tar).unwrap());
        let config = words_of(&host.api("GET", "/images/ours/json", None).1["Config"]);

        other(&[
            "bud",
            "--isolation",
            "chroot",
            "--network",
            "host",
            "--format",
            "docker",
            "--build-arg",
            "NAME=given",
            "-f",
            &file,
            "-t",
            "theirs",
            &folder,
        ]);
        let inspected: serde_json::Value =
            serde_json::from_str(&other(&["inspect", "--type", "image", "theirs"])).unwrap();
        let container = other(&["from", "theirs"]);
        let root = other(&["mount", &container]);
        let mut builder = tar::Builder::new(Vec::new());
        builder.follow_symlinks(false);
        builder.append_dir_all(".", &root).unwrap();
        let theirs = files_of(&builder.into_inner().unwrap());
        other(&["umount", &container]);
        other(&["rm", &container]);

        for path in ours.keys().chain(theirs.keys()).collect::<std::collections::BTreeSet<_>>() {
            if ours.get(path) != theirs.get(path) {
                differences.push(format!("{name}: /{path}: {:?}, buildah {:?}", ours.get(path), theirs.get(path)));
            }
        }
        let their_config = words_of(&inspected["Docker"]["config"]);
        if config != their_config {
            differences.push(format!("{name}: configuration {config}, buildah {their_config}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn here_documents_are_scripts_files_and_input() {
    let test = "here_documents_are_scripts_files_and_input";
    let Some(host) = Host::with_image(test) else { return };
    let text = format!(
        "FROM {IMAGE}\nARG WHO=world\nENV KIND=image\n\
         RUN <<EOF\nset -e\necho \"hello $WHO\" > /script\nfalse || echo went on >> /script\nEOF\n\
         RUN <<-EOF\n\techo \"without tabs\" > /tabs\n\tEOF\n\
         RUN <<'EOF'\necho '$WHO' of $KIND > /quoted\nEOF\n\
         RUN <<EOF\n#!/bin/busybox sh\necho $0 | grep -q EOF && echo by its own program > /shebang\nEOF\n\
         RUN sh -e <<one && cat <<two >> /input\necho first $WHO > /input\none\nsecond $KIND\ntwo\n\
         RUN cat <<\"END\" > /raw\n$WHO `date`\nEND\n\
         COPY <<EOF /file\nfor $WHO \\$WHO\nEOF\n\
         COPY <<\"EOF\" <<-other /files/\n$KIND\nEOF\n\tmore of $KIND\n\tother\n\
         COPY --chmod=0640 --chown=5:6 <<EOF /owned\nEOF\n"
    );
    let folder = host.context(&[("Dockerfile", &text)]);
    host.build(&["-t", "here", &folder]);
    let show = "for each in script tabs quoted shebang input raw file files/EOF files/other; do echo \"$each:\"; cat /$each; done; stat -c '%a %u:%g %s' /owned";
    assert_eq!(
        host.ok(&["run", "--rm", "here", "sh", "-c", show]),
        "script:\nhello world\nwent on\ntabs:\nwithout tabs\nquoted:\n$WHO of image\nshebang:\nby its own program\n\
         input:\nfirst world\nsecond image\nraw:\n$WHO `date`\nfile:\nfor world $WHO\nfiles/EOF:\n$KIND\n\
         files/other:\nmore of image\n640 5:6 0"
    );
}
