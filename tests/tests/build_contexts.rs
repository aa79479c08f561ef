//! Where the files of a build come from beside the directory that is named.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs;
use std::process::Command;

use sampan_tests::web::{git, serve};
use sampan_tests::{Host, IMAGE};

#[test]
fn repositories_come_with_their_submodules_and_their_history_when_asked() {
    let test = "repositories_come_with_their_submodules_and_their_history_when_asked";
    if Command::new("git").arg("--version").output().is_err() {
        println!("skipped: {test} needs git");
        return;
    }
    let Some(host) = Host::with_image(test) else { return };
    let port = serve(&host, host.path("www"));
    let url = format!("http://127.0.0.1:{port}");
    let publish = |name: &str| {
        let (work, bare) = (host.path(name), host.path(&format!("www/{name}.git")));
        git(&work, &["add", "-A"]);
        git(&work, &["commit", "-q", "-m", "x"]);
        fs::create_dir_all(host.path("www")).unwrap();
        git(&host.path("www"), &["clone", "-q", "--bare", work.to_str().unwrap(), bare.to_str().unwrap()]);
        git(&bare, &["update-server-info"]);
    };
    for name in ["deep", "lib", "main"] {
        fs::create_dir_all(host.path(name)).unwrap();
        git(&host.path(name), &["init", "-q"]);
        host.write(&format!("{name}/{name}.txt"), name);
    }
    publish("deep");
    // Addresses of submodules are relative to where the repository came from.
    let submodule = |name: &str, inner: &str| {
        let commit = Command::new("git").args(["rev-parse", "HEAD"]).current_dir(host.path(inner)).output().unwrap();
        let commit = String::from_utf8(commit.stdout).unwrap();
        host.write(
            &format!("{name}/.gitmodules"),
            format!("[submodule \"{inner}\"]\n\tpath = {inner}\n\turl = ../{inner}.git\n"),
        );
        let entry = format!("160000,{},{inner}", commit.trim());
        git(&host.path(name), &["update-index", "--add", "--cacheinfo", &entry]);
        fs::create_dir_all(host.path(&format!("{name}/{inner}"))).unwrap();
    };
    submodule("lib", "deep");
    git(&host.path("lib"), &["add", ".gitmodules", "lib.txt"]);
    git(&host.path("lib"), &["commit", "-q", "-m", "x"]);
    git(&host.path("www"), &["clone", "-q", "--bare", host.path("lib").to_str().unwrap(), "lib.git"]);
    git(&host.path("www/lib.git"), &["update-server-info"]);
    submodule("main", "lib");
    host.write("main/Dockerfile", format!("FROM {IMAGE}\nCOPY . /src\n"));
    git(&host.path("main"), &["add", ".gitmodules", "main.txt", "Dockerfile"]);
    git(&host.path("main"), &["commit", "-q", "-m", "x"]);
    git(&host.path("www"), &["clone", "-q", "--bare", host.path("main").to_str().unwrap(), "main.git"]);
    git(&host.path("www/main.git"), &["update-server-info"]);

    let main = format!("{url}/main.git");
    host.build(&["-t", "app", &main]);
    let found = |name: &str| {
        host.ok(&[
            "run",
            "--rm",
            name,
            "sh",
            "-c",
            "cd /src; cat main.txt lib/lib.txt lib/deep/deep.txt; find . -name .git",
        ])
    };
    assert_eq!(found("app"), "mainlibdeep");
    host.build(&["-t", "kept", "--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1", &main]);
    assert!(found("kept").contains("./.git"), "{}", found("kept"));
    // ADD has the same, and the same choice.
    let folder =
        host.context(&[("Dockerfile", &format!("FROM {IMAGE}\nADD --keep-git-dir {main} /src\nADD {main} /plain\n"))]);
    host.build(&["-t", "added", &folder]);
    assert!(found("added").contains("./.git"));
    assert_eq!(host.ok(&["run", "--rm", "added", "find", "/plain", "-name", ".git"]), "");
    // A submodule may not lead to this host's own files.
    host.write(
        "main/.gitmodules",
        format!("[submodule \"lib\"]\n\tpath = lib\n\turl = {}\n", host.path("www/lib.git").display()),
    );
    git(&host.path("main"), &["commit", "-q", "-a", "-m", "x"]);
    git(&host.path("main"), &["push", "-q", host.path("www/main.git").to_str().unwrap(), "HEAD"]);
    git(&host.path("www/main.git"), &["update-server-info"]);
    let (_, error) = host.fails(&["build", &main]);
    assert!(error.contains("submodules"), "{error}");
}

#[test]
fn named_contexts_leave_out_what_they_ignore() {
    let test = "named_contexts_leave_out_what_they_ignore";
    let Some(host) = Host::with_image(test) else { return };
    for (name, text) in
        [("lib/part", "p"), ("lib/secret", "s"), ("lib/out/x", "x"), ("lib/.dockerignore", "secret\nout\n")]
    {
        host.write(name, text);
    }
    let folder = host.context(&[(
        "Dockerfile",
        &format!(
            "FROM {IMAGE}\nCOPY --from=lib . /lib\nRUN --mount=type=bind,from=lib,target=/m ls -A /m > /mounted\n"
        ),
    )]);
    host.build(&["-t", "app", "--build-context", &format!("lib={}", host.path("lib").display()), &folder]);
    let listed = |image: &str| host.ok(&["run", "--rm", image, "ls", "-A", "/lib"]);
    assert_eq!(listed("app"), ".dockerignore\npart");
    assert_eq!(host.ok(&["run", "--rm", "app", "cat", "/mounted"]), ".dockerignore\npart");
    // The daemon reads directories itself when it builds for a stack.
    host.write("compose.yaml", "name: own\nservices:\n  a:\n    image: own\n    command: \"true\"\n    build:\n      context: ctx\n      additional_contexts: {lib: lib}\n");
    host.ok(&["compose", "up", "-d"]);
    assert_eq!(listed("own"), ".dockerignore\npart");
    assert_eq!(host.ok(&["run", "--rm", "own", "cat", "/mounted"]), ".dockerignore\npart");
}

#[test]
fn an_image_in_a_directory_is_a_context() {
    let test = "an_image_in_a_directory_is_a_context";
    let Some(host) = Host::with_image(test) else { return };
    let base = host
        .context(&[("Dockerfile", &format!("FROM {IMAGE}\nRUN echo of the layout > /layout\nENV FROM_LAYOUT=yes\n"))]);
    let layout = host.path("layout").display().to_string();
    host.build(&["-o", &format!("type=oci,tar=false,dest={layout}"), &base]);
    let used =
        host.context(&[("Dockerfile", "FROM base\nRUN echo $FROM_LAYOUT > /env\nCOPY --from=base /layout /copied\n")]);
    for id in host.ok(&["images", "-aq", "--no-trunc"]).lines() {
        let _ = host.run(&["rmi", "-f", id]);
    }
    host.ok(&["builder", "prune", "-af"]);
    host.build(&["-t", "app", "--build-context", &format!("base=oci-layout://{layout}"), &used]);
    assert_eq!(
        host.ok(&["run", "--rm", "app", "cat", "/layout", "/env", "/copied"]),
        "of the layout\nyes\nof the layout"
    );
    let (_, error) = host.fails(&["build", "--build-context", &format!("base=oci-layout://{layout}:other"), &used]);
    assert!(error.contains("there is no other in it"), "{error}");
    // What it says of itself is checked.
    for entry in fs::read_dir(host.path("layout/blobs/sha256")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(13).position(|window| window == b"of the layout") {
            bytes[at] = b'O';
            fs::write(&path, bytes).unwrap();
        }
    }
    for id in host.ok(&["images", "-aq", "--no-trunc"]).lines() {
        let _ = host.run(&["rmi", "-f", id]);
    }
    host.ok(&["builder", "prune", "-af"]);
    let (_, error) = host.fails(&["build", "--build-context", &format!("base=oci-layout://{layout}"), &used]);
    assert!(error.contains("the context base"), "{error}");
}

#[test]
fn an_archive_over_http_is_a_context() {
    let test = "an_archive_over_http_is_a_context";
    let Some(host) = Host::with_image(test) else { return };
    let mut builder = tar::Builder::new(Vec::new());
    let mut put = |name: &str, text: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, text.as_bytes()).unwrap();
    };
    put("Dockerfile", &format!("FROM {IMAGE}\nCOPY . /all\nCOPY --from=again file /again\n"));
    put("file", "packed\n");
    put("left", "out\n");
    put(".dockerignore", "left\n");
    host.write("www/context.tar", builder.into_inner().unwrap());
    let port = serve(&host, host.path("www"));
    let url = format!("http://127.0.0.1:{port}/context.tar");
    host.build(&["-t", "app", "--build-context", &format!("again={url}"), &url]);
    assert_eq!(
        host.ok(&["run", "--rm", "app", "sh", "-c", "cat /all/file /again; ls /all"]),
        "packed\npacked\nDockerfile\nfile"
    );
}
