//! Builds: what a person does with `build` and its options, on the real kernel.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use sampan_tests::{Host, IMAGE};

/// Writes a context and gives its directory.
fn context(host: &Host, files: &[(&str, &str)]) -> String {
    for (name, text) in files {
        host.write(&format!("ctx/{name}"), text);
    }
    host.path("ctx").display().to_string()
}

/// Builds, which must succeed; what was said on the way.
fn build(host: &Host, arguments: &[&str]) -> String {
    let answer = host.run(&[&["build"], arguments].concat());
    assert_eq!(answer.code, 0, "{}{}\n{}", answer.out, answer.err, host.log());
    answer.err
}

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
    let folder = context(
        &host,
        &[(
            "Dockerfile",
            &format!(
                "FROM {IMAGE}\n\
                 RUN --mount=type=secret,id=key,required test \"$(wc -c < /run/secrets/key)\" = {} && stat -c '%a %u %g' /run/secrets/key && grep /run/secrets /proc/mounts | cut -d' ' -f3\n\
                 RUN --mount=type=secret,id=key,target=/etc/mine,mode=0440,uid=101,gid=102 stat -c '%a %u %g' /etc/mine\n\
                 RUN --mount=type=secret,id=word,env=WORD test \"$WORD\" = of-the-environment && echo known\n\
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

#[test]
fn an_agent_answers_inside_of_a_step() {
    let Some(host) = Host::with_image("an_agent_answers_inside_of_a_step") else { return };
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
    let folder = context(
        &host,
        &[(
            "Dockerfile",
            &format!(
                "FROM {IMAGE}\nRUN --mount=type=ssh,mode=0600 stat -c '%a %F' $SSH_AUTH_SOCK && printf hello | nc local:$SSH_AUTH_SOCK\nRUN test -z \"$SSH_AUTH_SOCK\" && test ! -e /run/buildkit\n"
            ),
        )],
    );
    let said = build(&host, &["--ssh", &format!("default={}", socket.display()), &folder]);
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
    let folder = context(
        &host,
        &[(
            "Dockerfile",
            "FROM alpine:3 AS base\nRUN echo built > /built\nFROM base\nCOPY --from=lib part /part\nRUN --mount=type=bind,from=lib,target=/lib2 cat /lib2/part > /again\n",
        )],
    );
    let lib = format!("lib={}", host.path("lib").display());
    build(&host, &["-t", "app", "--build-context", &lib, "--build-context", "alpine:3=docker-image://other:1", &folder]);
    assert_eq!(host.ok(&["run", "--rm", "app", "cat", "/built", "/part", "/again"]), "built\nof the libraryof the library");
    host.write("lib/part", "changed");
    build(&host, &["-t", "app", "--build-context", &lib, "--build-context", "alpine:3=docker-image://other:1", &folder]);
    assert_eq!(host.ok(&["run", "--rm", "app", "cat", "/part"]), "changed");
}

/// Serves files below a directory over http, in the network namespace of the daemon, until the test ends.
fn serve(host: &Host, folder: PathBuf) -> u16 {
    let listener = host.in_network(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut head = Vec::new();
            let mut byte = [0; 1];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|length| length == 1) {
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let path = head.split_whitespace().nth(1).unwrap_or_default().split('?').next().unwrap_or_default();
            let answer = match (path.strip_prefix("/moved/"), fs::read(folder.join(path.trim_start_matches('/')))) {
                (Some(rest), _) => format!("HTTP/1.1 302 Found\r\nLocation: /{rest}\r\nContent-Length: 0\r\n\r\n").into_bytes(),
                (None, Ok(bytes)) => {
                    let head = format!(
                        "HTTP/1.1 200 OK\r\nLast-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                        bytes.len()
                    );
                    [head.into_bytes(), bytes].concat()
                }
                (None, Err(_)) => b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec(),
            };
            let _ = stream.write_all(&answer);
        }
    });
    port
}

fn git(folder: &Path, arguments: &[&str]) {
    let status = Command::new("git")
        .args(["-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "init.defaultBranch=main"])
        .args(arguments)
        .current_dir(folder)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .status();
    assert!(status.unwrap().success(), "git {arguments:?}");
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
    let text = |sum: &str| {
        format!("FROM {IMAGE}\nADD {sum} {url}/moved/data.txt /data/\nADD {url}/repo.git#v1:app /repo\n")
    };
    let folder = context(&host, &[("Dockerfile", &text(""))]);
    build(&host, &["-t", "app", &folder]);
    assert_eq!(
        host.ok(&["run", "--rm", "app", "sh", "-c", "cat /data/data.txt /repo/file; stat -c ' %a %Y' /data/data.txt; ls -A /repo"]),
        "over httpfrom git 600 1445412480\nDockerfile\nfile"
    );
    host.write("ctx/Dockerfile", text(&format!("--checksum={sum}")));
    let (_, error) = host.fails(&["build", &folder]);
    let right = error.split("the checksum is ").nth(1).and_then(|rest| rest.split(',').next()).expect(&error).to_owned();
    host.write("ctx/Dockerfile", text(&format!("--checksum={right}")));
    build(&host, &[&folder]);
    host.write("ctx/Dockerfile", format!("FROM {IMAGE}\nADD {url}/missing /x\n"));
    let (_, error) = host.fails(&["build", &folder]);
    assert!(error.contains("404") && error.contains('^'), "{error}");

    // A repository is a context; the default branch, a tag, a directory.
    build(&host, &["-t", "git", &format!("{url}/repo.git")]);
    assert_eq!(host.ok(&["run", "--rm", "git", "cat", "/file"]), "newer");
    build(&host, &["-t", "git", &format!("{url}/repo.git#v1:app")]);
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
    build(&host, &["-t", "named", "--build-context", &format!("src={url}/repo.git#v1"), &folder]);
    assert_eq!(host.ok(&["run", "--rm", "named", "cat", "/f"]), "from git");
    host.write("www/plain", format!("FROM {IMAGE}\nLABEL by=http\n"));
    build(&host, &["-t", "plain", &format!("{url}/plain")]);
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
        tar.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    let answer = host.run_with_input(&["build", "-t", "a", "-f", "Other", "-"], &tar.into_inner().unwrap());
    assert_eq!(answer.code, 0, "{}", answer.err);
    assert_eq!(host.ok(&["run", "--rm", "a", "cat", "/file"]), "of the archive");
    let folder = context(&host, &[("file", "of the folder")]);
    let answer = host.run_with_input(&["build", "-t", "b", "-f", "-", &folder], text.as_bytes());
    assert_eq!(answer.code, 0, "{}", answer.err);
    assert_eq!(host.ok(&["run", "--rm", "b", "cat", "/file"]), "of the folder");
    let answer = host.run_with_input(&["build", "-t", "c", "-"], format!("FROM {IMAGE}\nRUN echo x > /x\n").as_bytes());
    assert_eq!(answer.code, 0, "{}", answer.err);
}

#[test]
fn results_are_put_out_as_files_and_archives() {
    let Some(host) = Host::with_image("results_are_put_out_as_files_and_archives") else { return };
    let text = format!("FROM {IMAGE} AS make\nRUN mkdir /out && echo one > /out/a && chmod 640 /out/a && ln -s a /out/b\nFROM scratch\nCOPY --from=make /out /\n");
    let folder = context(&host, &[("Dockerfile", &text)]);
    let at = |name: &str| host.path(name).display().to_string();
    build(&host, &["-o", &at("files"), &folder]);
    assert_eq!(fs::read_to_string(host.path("files/b")).unwrap(), "one\n");
    assert_eq!(fs::metadata(host.path("files/a")).unwrap().permissions().mode() & 0o777, 0o640);
    let names: Vec<_> = fs::read_dir(host.path("files")).unwrap().map(|each| each.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!(host.ok(&["images", "-q"]).lines().count(), 1, "files only: no image stays");
    assert_eq!(host.ok(&["ps", "-aq"]), "");

    build(&host, &["--output", &format!("type=tar,dest={}", at("files.tar")), &folder]);
    let mut names: Vec<String> = tar::Archive::new(fs::File::open(host.path("files.tar")).unwrap())
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    names.sort();
    assert_eq!(names, ["a", "b"]);

    let meta = at("meta.json");
    build(
        &host,
        &["-t", "app:1", "--output", &format!("type=oci,dest={},tar=false", at("layout")), "--iidfile", &at("iid"), "--metadata-file", &meta, &folder],
    );
    let index: serde_json::Value = serde_json::from_slice(&fs::read(host.path("layout/index.json")).unwrap()).unwrap();
    let meta: serde_json::Value = serde_json::from_slice(&fs::read(&meta).unwrap()).unwrap();
    assert_eq!(index["manifests"][0]["digest"], meta["containerimage.digest"]);
    assert_eq!(meta["containerimage.config.digest"], fs::read_to_string(host.path("iid")).unwrap());
    assert_eq!(meta["image.name"], "app:1");
    build(&host, &["-t", "app:2", "-o", &format!("type=docker,dest={}", at("app.tar")), &folder]);
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
        "FROM {IMAGE} AS one\nRUN ulimit -n; df -k /dev/shm | tail -1 | cut -c1-60; grep there /etc/hosts; ip addr | grep -c ^[0-9]; date +%N > /time\nFROM {IMAGE} AS two\nRUN date +%N > /time\nFROM {IMAGE}\nARG TARGETPLATFORM\nARG HTTP_PROXY\nCOPY --from=one /time /one\nCOPY --from=two /time /two\nRUN echo $TARGETPLATFORM > /platform\n"
    );
    let folder = context(&host, &[("Dockerfile", &text)]);
    let arguments = [
        "--ulimit", "nofile=123:456", "--shm-size", "3m", "--add-host", "there:10.9.8.7", "--network", "none", "--label", "a=b", "-t", "app",
    ];
    let said = build(&host, &[&arguments[..], &[&folder]].concat());
    assert!(said.contains("\n123\n") && said.contains(" 3072 ") && said.contains("10.9.8.7"), "{said}");
    assert_eq!(host.api("GET", "/images/app/json", None).1["Config"]["Labels"]["a"], "b");
    let times = || host.ok(&["run", "--rm", "app", "cat", "/one", "/two"]);
    let before = times();
    build(&host, &[&arguments[..], &["--no-cache-filter", "two", &folder]].concat());
    let after = times();
    assert_eq!(before.lines().next(), after.lines().next());
    assert_ne!(before.lines().nth(1), after.lines().nth(1));
    assert!(host.ok(&["run", "--rm", "app", "cat", "/platform"]).starts_with("linux/"));
    for (flag, value) in [("--squash", ""), ("--allow", "security.insecure"), ("--platform", "linux/a,linux/b")] {
        let given: Vec<&str> = [flag, value].into_iter().filter(|text| !text.is_empty()).collect();
        let (_, error) = host.fails(&[&["build"][..], &given, &[&folder]].concat());
        assert!(error.contains(flag), "{error}");
    }
}

#[test]
fn a_failing_step_is_shown_with_its_place_and_its_log_again() {
    let Some(host) = Host::with_image("a_failing_step_is_shown_with_its_place_and_its_log_again") else { return };
    let folder = context(&host, &[("Dockerfile", &format!("FROM {IMAGE}\nRUN echo the-reason && exit 7\n"))]);
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
    let folder = context(&host, &[("Dockerfile", &format!("FROM {IMAGE}\nMAINTAINER me\nRUN exit 1\nCMD run\n"))]);
    let answer = host.run(&["build", "--check", &folder]);
    assert_eq!(answer.code, 1, "{}", answer.err);
    assert!(answer.out.contains("Dockerfile:2:1: MaintainerDeprecated") && answer.out.contains("^^^^^^^^^^"), "{}", answer.out);
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
    let folder = context(&host, &[("Dockerfile", &text), ("file", "content")]);
    let digest = |name: &str| {
        let meta = host.path(name);
        let arguments = [
            "--no-cache", "--build-arg", "SOURCE_DATE_EPOCH=1700000000", "--output", "type=image,rewrite-timestamp=true",
            "--metadata-file", meta.to_str().unwrap(), &folder,
        ];
        build(&host, &arguments);
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
    let (_, error) = host.fails(&["build", "-o", "type=image,rewrite-timestamp=true", &folder]);
    assert!(error.contains("SOURCE_DATE_EPOCH"), "{error}");
}

#[test]
fn a_cache_goes_to_a_directory_and_comes_back() {
    let Some(host) = Host::with_image("a_cache_goes_to_a_directory_and_comes_back") else { return };
    let text = format!("FROM {IMAGE}\nRUN date +%s%N > /time\nCOPY file /file\nRUN cat /file > /copy\n");
    let folder = context(&host, &[("Dockerfile", &text), ("file", "content")]);
    let cache = host.path("cache").display().to_string();
    build(&host, &["-t", "app", "--cache-to", &format!("type=local,dest={cache},mode=max"), &folder]);
    let time = host.ok(&["run", "--rm", "app", "cat", "/time"]);
    host.ok(&["rmi", "app"]);
    host.ok(&["builder", "prune", "-af"]);
    let said = build(&host, &["-t", "app", "--cache-from", &format!("type=local,src={cache}"), &folder]);
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
    build(&host, &["-t", "app", "--cache-from", &format!("type=local,src={cache}"), &folder]);
    assert_eq!(host.ok(&["run", "--rm", "app", "cat", "/file", "/copy"]), "contentcontent");
    let (_, error) = host.fails(&["build", "--cache-to", "type=registry,ref=x", &folder]);
    assert!(error.contains("type=registry"), "{error}");
}
