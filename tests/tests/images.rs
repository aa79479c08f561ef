//! Images: built, carried, named, removed.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use sampan_tests::{Host, IMAGE};

#[test]
fn a_build_has_stages_cache_and_configuration() {
    let Some(host) = Host::with_image("a_build_has_stages_cache_and_configuration") else { return };
    host.write("ctx/Dockerfile", format!(
        "ARG BASE={IMAGE}\nFROM $BASE AS maker\nARG WHO=nobody\nRUN echo \"made for $WHO\" > /made && mkdir -p /tree/a && echo a > /tree/a/file\n\
         FROM {IMAGE}\nLABEL kind=test\nENV GREETING=hello\nWORKDIR /srv\nCOPY --from=maker /made ./made\nCOPY --from=maker /tree /tree\nCOPY --chown=web:web file* ./\n\
         USER web\nEXPOSE 80/tcp\nVOLUME /data\nHEALTHCHECK --interval=3s CMD true\nSTOPSIGNAL SIGINT\nENTRYPOINT [\"sh\", \"-c\"]\nCMD [\"cat made; echo $GREETING; pwd; id -un\"]\n"));
    host.write("ctx/file1", "one");
    host.write("ctx/secret", "not for the image");
    host.write("ctx/.dockerignore", "secret\n");
    let folder = host.path("ctx");
    host.ok(&["build", "-t", "app", "--build-arg", "WHO=us", folder.to_str().unwrap()]);
    assert_eq!(host.ok(&["run", "--rm", "app"]), "made for us\nhello\n/srv\nweb");
    assert_eq!(
        host.ok(&[
            "run",
            "--rm",
            "app",
            "cat file1; stat -c %U file1; cat /tree/a/file; ls /srv/secret 2>/dev/null || echo none"
        ]),
        "oneweb\na\nnone"
    );
    let (_, image) = host.api("GET", "/images/app/json", None);
    assert_eq!(image["Config"]["Labels"]["kind"], "test");
    assert_eq!(image["Config"]["StopSignal"], "SIGINT");
    assert_eq!(image["Config"]["Volumes"], serde_json::json!({"/data": {}}));
    let first = image["Id"].clone();
    host.ok(&["build", "-t", "app", "--build-arg", "WHO=us", folder.to_str().unwrap()]);
    assert_eq!(host.api("GET", "/images/app/json", None).1["Id"], first, "nothing has changed, nothing is made");
    host.write("ctx/file1", "two");
    host.ok(&["build", "-q", "-t", "app", "--build-arg", "WHO=us", folder.to_str().unwrap()]);
    assert_ne!(host.api("GET", "/images/app/json", None).1["Id"], first);
}

#[test]
fn a_failing_build_shows_its_line_and_keeps_what_was() {
    let Some(host) = Host::with_image("a_failing_build_shows_its_line_and_keeps_what_was") else { return };
    let build = |dockerfile: &str| {
        host.write("ctx/Dockerfile", dockerfile);
        host.fails(&["build", "-t", "app", host.path("ctx").to_str().unwrap()]).1
    };
    let error = build(&format!("FROM {IMAGE}\nRUN echo before && exit 3\n"));
    assert!(error.contains("exit 3") && error.contains('3'), "{error}");
    let error = build(&format!("FROM {IMAGE}\nCOPPY a b\n"));
    assert!(error.contains("COPPY") && error.contains("COPY"), "{error}");
    let error = build(&format!("FROM {IMAGE}\nCOPY missing /\n"));
    assert!(error.contains("missing"), "{error}");
    assert!(build("").contains("no instructions"));
    assert_eq!(host.ok(&["images", "-q", "app"]), "");
    assert_eq!(host.ok(&["ps", "-aq"]), "", "no container is left");
}

#[test]
fn images_are_saved_loaded_tagged_and_removed() {
    let Some(host) = Host::with_image("images_are_saved_loaded_tagged_and_removed") else { return };
    let id = host.api("GET", &format!("/images/{IMAGE}/json"), None).1["Id"].clone();
    let archive = host.path("saved.tar");
    host.ok(&["save", "-o", archive.to_str().unwrap(), IMAGE]);
    host.ok(&["tag", IMAGE, "example.com/team/box:v2"]);
    assert_eq!(host.ok(&["images", "--format", "{{.Repository}}:{{.Tag}}"]).lines().count(), 2);
    host.ok(&["rmi", IMAGE]);
    host.ok(&["rmi", "example.com/team/box:v2"]);
    assert_eq!(host.ok(&["images", "-q"]), "");
    host.ok(&["load", "-i", archive.to_str().unwrap()]);
    assert_eq!(host.api("GET", &format!("/images/{IMAGE}/json"), None).1["Id"], id, "the same image");
    host.ok(&["create", "--name", "user", IMAGE, "true"]);
    let (_, error) = host.fails(&["rmi", IMAGE]);
    assert!(error.contains("container"), "{error}");
    let half = std::fs::read(&archive).unwrap();
    let broken = host.write("half.tar", &half[..half.len() / 2]);
    host.fails(&["load", "-i", broken.to_str().unwrap()]);
    let garbage = host.write("garbage.tar", vec![7; 5000]);
    host.fails(&["load", "-i", garbage.to_str().unwrap()]);
    assert_eq!(host.ok(&["images", "-q"]).lines().count(), 1);
}

#[test]
fn a_commit_is_an_image_of_what_has_changed() {
    let Some(host) = Host::with_image("a_commit_is_an_image_of_what_has_changed") else { return };
    host.ok(&["run", "--name", "work", IMAGE, "sh", "-c", "echo done > /result; rm /etc/group; rm -r /var"]);
    host.ok(&["commit", "-c", "ENV A=b", "-m", "words", "work", "worked"]);
    assert_eq!(
        host.ok(&["run", "--rm", "worked", "sh", "-c", "cat /result; echo $A; ls /etc/group /var 2>/dev/null | wc -l"]),
        "done\nb\n0"
    );
    assert!(host.ok(&["history", "--format", "{{.Comment}}", "worked"]).starts_with("words"));
    let exported = host.run(&["export", "work"]);
    assert_eq!(exported.code, 0);
    assert!(exported.out.contains("result"));
}
