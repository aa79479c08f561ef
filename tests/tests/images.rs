//! Images: built, carried, named, removed.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::Path;
use std::process::{Command, Stdio};

use sampan_tests::{Host, IMAGE, Registry};

#[test]
fn an_image_goes_to_a_registry_and_comes_back_the_same() {
    let test = "an_image_goes_to_a_registry_and_comes_back_the_same";
    let Some(host) = Host::with_image(test) else { return };
    let Some(_registry) = Registry::start(test, &host, "", "") else { return };
    let (first, second) = ("localhost:5000/team/box:1", "localhost:5000/team/box:2");
    host.ok(&["tag", IMAGE, first]);
    host.ok(&["tag", IMAGE, second]);
    let out = host.ok(&["push", first]);
    let digest = out.split("digest: ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().to_owned();
    assert!(out.contains("1: digest: sha256:") && out.contains("Pushed"), "{out}");
    let out = host.ok(&["push", "--all-tags", "localhost:5000/team/box"]);
    assert!(out.contains("Layer already exists") && out.contains("2: digest:"), "{out}");
    host.ok(&["tag", IMAGE, "localhost:5000/other:1"]);
    let out = host.ok(&["push", "localhost:5000/other:1"]);
    assert!(out.contains("Mounted from team/box"), "{out}");

    let manifest: serde_json::Value = serde_json::from_str(&host.ok(&["manifest", "inspect", first])).unwrap();
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 1);
    let shown: serde_json::Value = serde_json::from_str(&host.ok(&["manifest", "inspect", "-v", first])).unwrap();
    assert_eq!(shown["Descriptor"]["digest"], digest.as_str());
    let (status, remote) = host.api("GET", "/distribution/localhost:5000/team/box:1/json", None);
    assert_eq!((status, &remote["Descriptor"]["digest"]), (200, &digest.as_str().into()));
    let (_, error) = host.fails(&["manifest", "inspect", "localhost:5000/no/such"]);
    assert!(error.contains("not found"), "{error}");
    let (_, error) = host.fails(&["search", "localhost:5000/box"]);
    assert!(error.contains("offers no search"), "{error}");

    let id = host.api("GET", &format!("/images/{IMAGE}/json"), None).1["Id"].clone();
    host.ok(&["rmi", "-f", id.as_str().unwrap()]);
    assert_eq!(host.ok(&["images", "-q"]), "");
    assert_eq!(host.ok(&["pull", "-q", first]), first);
    let out = host.ok(&["pull", first]);
    assert!(out.contains(&format!("Digest: {digest}")) && out.contains("Image is up to date"), "{out}");
    assert_eq!(host.api("GET", &format!("/images/{first}/json"), None).1["Id"], id);
    assert_eq!(host.ok(&["run", "--rm", first, "echo", "same"]), "same");
    host.ok(&["run", "--rm", &format!("localhost:5000/team/box@{digest}"), "true"]);
    host.ok(&["pull", "--all-tags", "localhost:5000/team/box"]);
    assert_eq!(host.ok(&["images", "--format", "{{.Tag}}", "localhost:5000/team/box"]).lines().count(), 2);
    let (_, error) = host.fails(&["pull", "--platform", "linux/s390x", first]);
    assert!(error.contains("platform"), "{error}");
    host.fails(&["pull", "--all-tags", first]);
    host.fails(&["push", "localhost:5000/team/box:3"]);
}

/// A key and a certificate that vouches for itself; whether there is openssl.
fn make_certificate(folder: &Path) -> bool {
    Command::new("openssl")
        .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout tls.key -out tls.crt -subj /CN=localhost -days 30".split(' '))
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[test]
fn a_private_registry_over_tls_takes_those_who_log_in() {
    let test = "a_private_registry_over_tls_takes_those_who_log_in";
    let Some(host) = Host::start_with(test, &["--insecure-registry", "10.9.9.0/24"]) else { return };
    if !make_certificate(&host.path("")) {
        println!("skipped: {test} needs openssl (package openssl)");
        return;
    }
    let at = host.path("").display().to_string();
    // "secret", by bcrypt.
    host.write("htpasswd", "me:$2b$04$V.INB7cZblXsMWg9ZK/eLOFccf/yfFPg9Qa7MMIIg5r0F9pcJU2FK\n");
    let tls = format!("  tls:\n    certificate: {at}/tls.crt\n    key: {at}/tls.key\n");
    let auth = format!("auth:\n  htpasswd:\n    realm: test\n    path: {at}/htpasswd\n");
    let Some(_registry) = Registry::start(test, &host, &tls, &auth) else { return };
    host.in_network(|| {
        for address in ["10.9.9.9/32", "10.8.8.8/32"] {
            let mut ip = Command::new("/bin/busybox");
            assert!(ip.args(["ip", "address", "add", address, "dev", "lo"]).status().unwrap().success());
        }
    });
    host.import_busybox();
    let (server, name) = ("10.9.9.9:5000", "10.9.9.9:5000/private:1");
    host.ok(&["tag", IMAGE, name]);
    let (_, error) = host.fails(&["push", name]);
    assert!(error.contains("denied"), "{error}");
    let login = |password: &[u8]| host.run_with_input(&["login", "-u", "me", "--password-stdin", server], password);
    let refused = login(b"wrong-password\n");
    assert!(refused.code != 0 && !refused.err.contains("wrong-password"), "{}", refused.err);
    let taken = login(b"secret\n");
    assert!(taken.code == 0 && taken.out.contains("Login Succeeded"), "{}{}", taken.out, taken.err);
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(host.path("docker-config/config.json")).unwrap()).unwrap();
    assert_eq!(config["auths"][server]["auth"], "bWU6c2VjcmV0");
    assert!(host.ok(&["login", server]).contains("existing credentials"));
    host.ok(&["push", name]);
    host.ok(&["rmi", name]);
    host.ok(&["pull", name]);
    assert_eq!(host.ok(&["run", "--rm", name, "echo", "here"]), "here");

    // The same registry by an address that nobody called insecure.
    let (_, error) = host.fails(&["pull", "10.8.8.8:5000/private:1"]);
    assert!(error.contains("certificate"), "{error}");

    assert!(host.ok(&["logout", server]).contains("Removing login credentials"));
    let (_, error) = host.fails(&["pull", "10.9.9.9:5000/private:1"]);
    assert!(error.contains("denied"), "{error}");

    // A helper keeps them instead.
    let helper = host.write(
        "bin/docker-credential-sampantest",
        format!("#!/bin/sh\nread -r server\ncase \"$1 $server\" in\n\"get {server}\") echo '{{\"ServerURL\":\"{server}\",\"Username\":\"me\",\"Secret\":\"secret\"}}' ;;\n*) echo 'credentials not found in native keychain'; exit 1 ;;\nesac\n"),
    );
    std::fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    host.write("docker-config/config.json", format!(r#"{{"credHelpers": {{"{server}": "sampantest"}}}}"#));
    let path = format!("{}:{}", helper.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let output = host.command(&["pull", name]).env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (_, error) = host.fails(&["pull", name]);
    assert!(error.contains("docker-credential-sampantest") && error.contains("denied"), "{error}");
}

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

#[test]
fn unused_images_go_by_what_is_asked() {
    let test = "unused_images_go_by_what_is_asked";
    let Some(host) = Host::start(test) else { return };
    let folder = host.context(&[("Dockerfile", "FROM scratch\nARG NAME\nCOPY Dockerfile /$NAME\n")]);
    for (name, label, tag) in
        [("a", "stage=old", ""), ("b", "stage=new", ""), ("c", "stage=old", "kept:1"), ("d", "x", "")]
    {
        let mut arguments =
            vec!["--build-arg".to_owned(), format!("NAME={name}"), "--label".to_owned(), label.to_owned()];
        if !tag.is_empty() {
            arguments.extend(["-t".to_owned(), tag.to_owned()]);
        }
        arguments.push(folder.clone());
        host.build(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let labels = || {
        let ids = host.ok(&["images", "-q"]);
        let found = ids.lines().map(|id| host.ok(&["image", "inspect", "-f", "{{json .Config.Labels}}", id]));
        let mut found: Vec<String> = found.collect();
        found.sort();
        found.join(" ")
    };
    let all = r#"{"stage":"new"} {"stage":"old"} {"stage":"old"} {"x":""}"#;
    assert_eq!(labels(), all);
    let (_, error) = host.fails(&["image", "prune", "-f", "--filter", "colour=red"]);
    assert!(error.contains("colour"), "{error}");
    let (_, error) = host.fails(&["image", "prune", "-f", "--filter", "until=soon"]);
    assert!(error.contains("until=soon"), "{error}");
    // All were made just now.
    host.ok(&["image", "prune", "-af", "--filter", "until=1h"]);
    assert_eq!(labels(), all);
    let out = host.ok(&["image", "prune", "-f", "--filter", "label=stage=old", "--filter", "until=0s"]);
    assert!(out.contains("deleted: sha256:") && out.contains("Total reclaimed space: "), "{out}");
    assert_eq!(labels(), r#"{"stage":"new"} {"stage":"old"} {"x":""}"#, "the one with a name stays");
    host.ok(&["image", "prune", "-af", "--filter", "label!=stage"]);
    assert_eq!(labels(), r#"{"stage":"new"} {"stage":"old"}"#);
    host.ok(&["image", "prune", "-f"]);
    assert_eq!(labels(), r#"{"stage":"old"}"#);
    host.ok(&["image", "prune", "-af"]);
    assert_eq!(labels(), "");
}
