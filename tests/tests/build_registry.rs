//! Builds and registries: what is built goes there and comes back as it was, and so do the results of its steps.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::Path;

use sampan_tests::{Host, IMAGE, Registry};

/// Forgets every image and every result of a build.
fn forget(host: &Host) {
    // An image that another was built on goes after that one.
    while let Some(ids) = Some(host.ok(&["images", "-aq", "--no-trunc"])).filter(|ids| !ids.is_empty()) {
        let gone = ids.lines().filter(|id| host.run(&["rmi", "-f", id]).code == 0).count();
        assert!(gone > 0, "none of {ids} can be removed");
    }
    host.ok(&["builder", "prune", "-af"]);
    assert_eq!(host.ok(&["images", "-aq"]), "");
}

/// Pushes an image, forgets everything, and has it again by its digest: nothing of it has changed. `shown` is what it
/// prints when it runs.
fn goes_away_and_comes_back(host: &Host, name: &str, shown: &str) {
    assert_eq!(host.ok(&["run", "--rm", name]), shown);
    let digest_of = |out: &str| {
        let found = out.split("digest: ").nth(1).and_then(|rest| rest.split(' ').next());
        found.unwrap_or_else(|| panic!("no digest in {out}")).to_owned()
    };
    let digest = digest_of(&host.ok(&["push", name]));
    let before = host.api("GET", &format!("/images/{name}/json"), None).1;
    forget(host);
    let by_digest = format!("{}@{digest}", name.rsplit_once(':').unwrap().0);
    host.ok(&["pull", &by_digest]);
    assert_eq!(host.ok(&["run", "--rm", &by_digest]), shown);
    let after = host.api("GET", &format!("/images/{by_digest}/json"), None).1;
    for key in ["Id", "Config", "RootFS", "Created", "Architecture"] {
        assert_eq!(before[key], after[key], "{key}");
    }
    // What came back goes there once more, under another name, as the same.
    let again = format!("{name}-again");
    host.ok(&["tag", &by_digest, &again]);
    assert_eq!(digest_of(&host.ok(&["push", &again])), digest);
}

const PROGRAM: &str = r#"
#include <stdio.h>
int main(void) { printf("compiled by gcc %d on Debian\n", __GNUC__); return 0; }
"#;

/// Takes a minute and a half for the root file system, once: `cargo xtask test --debian` makes it and names it.
#[test]
fn a_program_is_compiled_on_debian_and_carried_by_a_registry() {
    let test = "a_program_is_compiled_on_debian_and_carried_by_a_registry";
    let archive = std::env::var("SAMPAN_TEST_DEBIAN").unwrap_or_default();
    if !Path::new(&archive).is_file() {
        println!("skipped: {test} needs a root file system of Debian with gcc (cargo xtask test --debian)");
        return;
    }
    let Some(host) = Host::start(test) else { return };
    let Some(_registry) = Registry::start(test, &host, "", "") else { return };
    host.ok(&["import", &archive, "debian:test"]);
    let text = |greeting: &str| {
        format!(
            "FROM debian:test AS build\n\
             WORKDIR /src\n\
             COPY hello.c .\n\
             RUN --mount=type=cache,target=/var/cache/objects <<compile\n\
             set -e\n\
             test -e /var/cache/objects/hello.o && echo the object was kept || gcc -O2 -c -o /var/cache/objects/hello.o hello.c\n\
             gcc -o hello /var/cache/objects/hello.o\n\
             echo {greeting}\n\
             compile\n\
             FROM debian:test\n\
             COPY --from=build --chmod=0755 /src/hello /usr/local/bin/hello\n\
             RUN useradd --system greeter\n\
             USER greeter\n\
             CMD [\"hello\"]\n"
        )
    };
    let name = "localhost:5000/team/hello:1";
    let folder = host.context(&[("Dockerfile", &text("one")), ("hello.c", PROGRAM)]);
    let said = host.build(&["-t", name, &folder]);
    assert!(!said.contains("the object was kept"), "{said}");
    // The directory of the cache outlives the step, and is in no layer.
    host.write("ctx/Dockerfile", text("two"));
    let said = host.build(&["-t", name, &folder]);
    assert!(said.contains("the object was kept\ntwo\n"), "{said}");
    assert_eq!(host.ok(&["run", "--rm", name, "ls", "/var/cache"]).lines().find(|line| *line == "objects"), None);
    let shown = host.ok(&["run", "--rm", name]);
    assert!(shown.starts_with("compiled by gcc 1") && shown.ends_with("on Debian"), "{shown}");
    assert_eq!(host.ok(&["run", "--rm", name, "whoami"]), "greeter");
    assert_eq!(
        host.ok(&["run", "--rm", name, "sh", "-c", "test -e /src || echo only the program"]),
        "only the program"
    );
    goes_away_and_comes_back(&host, name, &shown);
}

/// The same road without a compiler, for every run of the tests.
#[test]
fn what_is_made_in_one_stage_is_carried_by_a_registry() {
    let test = "what_is_made_in_one_stage_is_carried_by_a_registry";
    let Some(host) = Host::with_image(test) else { return };
    let Some(_registry) = Registry::start(test, &host, "", "") else { return };
    let text = format!(
        "FROM {IMAGE} AS build\n\
         RUN --mount=type=cache,target=/cache echo 'echo made' > /cache/script && cp /cache/script /made && chmod 755 /made\n\
         FROM {IMAGE}\nCOPY --from=build /made /bin/made\nRUN mkdir -p /var/lib/x && echo x > /var/lib/x/y && rm /etc/group\nUSER web\nCMD [\"sh\", \"/bin/made\"]\n"
    );
    let folder = host.context(&[("Dockerfile", &text)]);
    let name = "localhost:5000/team/made:1";
    host.build(&["-t", name, &folder]);
    goes_away_and_comes_back(&host, name, "made");
}

/// Two stages; each step that ran anew writes another time.
fn two_stages() -> String {
    format!(
        "FROM {IMAGE} AS tools\nRUN date +%s%N > /tool\nCOPY file /file\nRUN cat /file > /copied\n\
         FROM {IMAGE}\nCOPY --from=tools /tool /copied /\nRUN date +%s%N > /time\nWORKDIR /srv\n"
    )
}

const CACHE: &str = "localhost:5000/team/app:cache";

/// How often a build found a step done.
fn found(said: &str) -> usize {
    said.matches("Using cache").count()
}

#[test]
fn an_image_is_written_in_the_form_that_is_asked_for() {
    let test = "an_image_is_written_in_the_form_that_is_asked_for";
    let Some(host) = Host::with_image(test) else { return };
    let Some(_registry) = Registry::start(test, &host, "", "") else { return };
    let folder = host.context(&[("Dockerfile", &format!("FROM {IMAGE}\nCOPY file /file\n")), ("file", "content")]);
    let name = "localhost:5000/team/form:1";
    let manifest = || serde_json::from_str::<serde_json::Value>(&host.ok(&["manifest", "inspect", name])).unwrap();
    for (options, kind) in [
        (
            "compression=zstd,force-compression=true,annotation.made.By=tests",
            "application/vnd.oci.image.layer.v1.tar+zstd",
        ),
        ("compression=uncompressed,force-compression=true", "application/vnd.oci.image.layer.v1.tar"),
        (
            "compression=gzip,compression-level=9,force-compression=true,oci-mediatypes=false",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ),
    ] {
        host.build(&["--output", &format!("type=image,name={name},push=true,{options}"), &folder]);
        let found = manifest();
        for layer in found["layers"].as_array().unwrap() {
            assert_eq!(layer["mediaType"], kind, "{found}");
        }
        let note = &found["annotations"]["made.By"];
        assert_eq!(note.as_str(), options.contains("annotation").then_some("tests"));
        forget(&host);
        host.ok(&["pull", name]);
        assert_eq!(host.ok(&["run", "--rm", name, "cat", "/file"]), "content");
        host.import_busybox();
    }
    // An archive has the same form, and folders of platforms are there when they are asked for.
    let (archive, files) = (host.path("image.tar"), host.path("files"));
    let to = format!("type=oci,dest={},compression=zstd,force-compression=true", archive.display());
    host.ok(&["build", "--output", &to, &folder]);
    forget(&host);
    host.ok(&["load", "-i", archive.to_str().unwrap()]);
    host.import_busybox();
    host.ok(&["build", "--output", &format!("type=local,dest={},platform-split=true", files.display()), &folder]);
    let found = std::fs::read_dir(&files).unwrap().map(|entry| entry.unwrap().path().join("file"));
    assert_eq!(found.map(|file| std::fs::read_to_string(file).unwrap()).collect::<Vec<_>>(), ["content"]);
    let (_, error) = host.fails(&["build", "--output", "type=image,compression=estargz", &folder]);
    assert!(error.contains("gzip or zstd"), "{error}");
}

#[test]
fn results_go_to_a_registry_and_come_back() {
    let test = "results_go_to_a_registry_and_come_back";
    let Some(host) = Host::with_image(test) else { return };
    let Some(_registry) = Registry::start(test, &host, "", "") else { return };
    let folder = host.context(&[("Dockerfile", &two_stages()), ("file", "content")]);
    // Not there yet: said, and no failure.
    let to = format!("type=registry,ref={CACHE},mode=max");
    let said = host.build(&["-t", "app", "--cache-from", CACHE, "--cache-to", &to, &folder]);
    assert!(said.contains("[Warning] --cache-from") && said.contains("Exported the cache: sha256:"), "{said}");
    let times = |host: &Host| host.ok(&["run", "--rm", "app", "cat", "/tool", "/time"]);
    let before = times(&host);
    let layers = |host: &Host| host.api("GET", "/images/app/json", None).1["RootFS"].clone();
    let made = layers(&host);

    forget(&host);
    host.import_busybox();
    let said = host.build(&["-t", "app", "--cache-from", CACHE, &folder]);
    assert_eq!(found(&said), 6, "{said}");
    assert_eq!(times(&host), before);
    assert_eq!(layers(&host), made);
    assert!(host.ok(&["run", "--rm", "app", "cat", "/copied"]).contains("content"));

    // The results of the image alone: the other stage runs again.
    let small = "localhost:5000/team/app:small";
    host.build(&["-t", "app", "--cache-to", &format!("type=registry,ref={small}"), &folder]);
    forget(&host);
    host.import_busybox();
    let said = host.build(&["-t", "app", "--cache-from", small, &folder]);
    assert!(found(&said) < 6, "{said}");

    // It is no image; and what is no cache brings none.
    let (_, error) = host.fails(&["pull", CACHE]);
    assert!(error.contains("not the configuration of a container image"), "{error}");
    host.ok(&["tag", IMAGE, "localhost:5000/team/plain:1"]);
    host.ok(&["push", "localhost:5000/team/plain:1"]);
    let said = host.build(&["--cache-from", "localhost:5000/team/plain:1", &folder]);
    assert!(said.contains("has no cache in it"), "{said}");
    // A registry that is not there fails the build that writes to it, unless that was said to be no matter.
    let nowhere = "type=registry,ref=localhost:1/x";
    let (_, error) = host.fails(&["build", "--cache-to", nowhere, &folder]);
    assert!(error.contains("--cache-to"), "{error}");
    let said = host.build(&["--cache-to", &format!("{nowhere},ignore-error=true"), &folder]);
    assert!(said.contains("[Warning] --cache-to"), "{said}");
}

#[test]
fn an_image_carries_the_results_of_its_steps() {
    let test = "an_image_carries_the_results_of_its_steps";
    let Some(host) = Host::with_image(test) else { return };
    let Some(_registry) = Registry::start(test, &host, "", "") else { return };
    let text = format!("FROM {IMAGE}\nRUN date +%s%N > /time\nCOPY file /file\nRUN cat /file > /copied\n");
    let folder = host.context(&[("Dockerfile", &text), ("file", "content")]);
    let name = "localhost:5000/team/inline:1";
    host.build(&["-t", name, "--cache-to", "type=inline", &folder]);
    let time = host.ok(&["run", "--rm", name, "cat", "/time"]);
    host.ok(&["push", name]);
    forget(&host);
    host.import_busybox();
    // The last step is another: what comes before it is found.
    host.write("ctx/Dockerfile", format!("{text}RUN echo more > /more\n"));
    let said = host.build(&["-t", "app", "--cache-from", name, &folder]);
    assert_eq!(found(&said), 3, "{said}");
    assert_eq!(host.ok(&["run", "--rm", "app", "cat", "/time"]), time);
    // An image that was built on it does not speak for it.
    host.write("ctx/Dockerfile", format!("FROM {name}\nRUN true\n"));
    host.ok(&["pull", name]);
    host.build(&["-t", "child", &folder]);
    let archive = host.path("child.tar").display().to_string();
    host.ok(&["save", "-o", &archive, "child"]);
    let bytes = std::fs::read(&archive).unwrap();
    assert!(!bytes.windows(19).any(|window| window == b"sampan.build.cache."), "it names the results of its base");
}

/// Changes every manifest and configuration of a registry that holds a text, keeping their digests right.
fn tamper(host: &Host, change: impl Fn(&mut serde_json::Value)) {
    let (status, manifest) = registry(host, "GET", "/v2/team/app/manifests/cache", None);
    assert_eq!(status, 200);
    let mut manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let config = manifest["config"]["digest"].as_str().unwrap().to_owned();
    let (_, document) = registry(host, "GET", &format!("/v2/team/app/blobs/{config}"), None);
    let mut document: serde_json::Value = serde_json::from_slice(&document).unwrap();
    change(&mut document);
    let document = document.to_string().into_bytes();
    let file = host.write("document", &document);
    let sum = std::process::Command::new("sha256sum").arg(file).output().unwrap();
    let digest = format!("sha256:{}", &String::from_utf8(sum.stdout).unwrap()[..64]);
    let begin = format!("/v2/team/app/blobs/uploads/?digest={digest}");
    let (_, place) = registry(host, "POST", "/v2/team/app/blobs/uploads/", Some(("", &b""[..])));
    let place = String::from_utf8(place).unwrap();
    let place = if place.is_empty() { begin } else { format!("{place}&digest={digest}") };
    let (status, answer) = registry(host, "PUT", &place, Some(("application/octet-stream", document.as_slice())));
    assert_eq!(status, 201, "{}", String::from_utf8_lossy(&answer));
    manifest["config"]["digest"] = digest.into();
    manifest["config"]["size"] = document.len().into();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let body = manifest.to_string();
    let (status, answer) = registry(host, "PUT", "/v2/team/app/manifests/cache", Some((kind, body.as_bytes())));
    assert_eq!(status, 201, "{}", String::from_utf8_lossy(&answer));
}

/// A request to the registry; of an upload that was begun its address, of others the body.
fn registry(host: &Host, method: &str, path: &str, body: Option<(&str, &[u8])>) -> (u16, Vec<u8>) {
    use std::io::{Read, Write};
    let (kind, bytes) = body.unwrap_or_default();
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost:5000\r\nConnection: close\r\nAccept: application/vnd.oci.image.manifest.v1+json\r\nContent-Length: {}\r\n",
        bytes.len()
    );
    if !kind.is_empty() {
        request.push_str(&format!("Content-Type: {kind}\r\n"));
    }
    let request = [request.as_bytes(), b"\r\n", bytes].concat();
    let answer = host.in_network(move || {
        let mut stream = std::net::TcpStream::connect("127.0.0.1:5000").unwrap();
        stream.write_all(&request).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    });
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    if status == 202
        && let Some(place) = head.lines().find_map(|line| line.strip_prefix("Location: "))
    {
        let place = place.trim_start_matches("http://localhost:5000");
        return (status, place.as_bytes().to_vec());
    }
    (status, answer[end + 4..].to_vec())
}

#[test]
fn a_cache_that_lies_is_not_believed() {
    let test = "a_cache_that_lies_is_not_believed";
    let Some(host) = Host::with_image(test) else { return };
    let Some(_registry) = Registry::start(test, &host, "", "") else { return };
    let text = format!("FROM {IMAGE}\nRUN echo one > /one\nRUN echo two > /two\n");
    let folder = host.context(&[("Dockerfile", &text)]);
    let to = format!("type=registry,ref={CACHE},mode=max");
    let shown = |host: &Host| host.ok(&["run", "--rm", "app", "cat", "/one", "/two"]);
    let again = |host: &Host| {
        forget(host);
        host.import_busybox();
        found(&host.build(&["-t", "app", "--cache-from", CACHE, &folder]))
    };
    host.build(&["-t", "app", "--cache-to", &to, &folder]);
    assert_eq!((again(&host), shown(&host)), (2, "one\ntwo".to_owned()));
    // A layer is said to be another than it is.
    tamper(&host, |document| {
        let layers = document["layers"].as_array_mut().unwrap();
        let other = layers[1]["diffId"].clone();
        layers[0]["diffId"] = other;
    });
    assert!(again(&host) < 2);
    assert_eq!(shown(&host), "one\ntwo");
    // Sizes and kinds that are not theirs.
    tamper(&host, |document| {
        for layer in document["layers"].as_array_mut().unwrap() {
            layer["size"] = 7.into();
        }
    });
    assert_eq!((again(&host), shown(&host)), (0, "one\ntwo".to_owned()));
    tamper(&host, |document| document["steps"][0]["layer"] = 99.into());
    assert_eq!((again(&host), shown(&host)), (0, "one\ntwo".to_owned()));
}

/// One of the documents that a registry has, as it has it.
fn document(host: &Host, name: &str) -> serde_json::Value {
    serde_json::from_str(&host.ok(&["manifest", "inspect", name])).unwrap()
}

#[test]
fn several_platforms_are_built_carried_and_run_under_one_name() {
    let test = "several_platforms_are_built_carried_and_run_under_one_name";
    let Some(host) = Host::with_image(test) else { return };
    let Some(_registry) = Registry::start(test, &host, "", "") else { return };
    let own = host.ok(&["version", "--format", "{{.Server.Arch}}"]);
    let text = format!(
        "FROM --platform=$BUILDPLATFORM {IMAGE} AS make\nRUN date +%s%N > /time\nARG TARGETARCH\nRUN echo for $TARGETARCH > /what\n\
         FROM {IMAGE} AS own\nFROM scratch AS other\nFROM {stage}\n",
        stage = "${TARGETARCH}"
    )
    // The base of the other platform is none: there is no image of it here.
    .replace("AS own\n", &format!("AS {own}\n"))
    .replace("AS other\n", "AS s390x\n");
    let text = format!("{text}COPY --from=make /time /what /\nCMD [\"cat\", \"/what\"]\n");
    let folder = host.context(&[("Dockerfile", &text)]);
    let (name, platforms) = ("localhost:5000/team/app:1", format!("linux/{own},linux/s390x"));
    let metadata = host.path("metadata.json").display().to_string();
    let said = host.build(&[
        "-t",
        name,
        "--platform",
        &platforms,
        "--provenance=mode=max",
        "--build-arg",
        "UNUSED=a-value",
        "--metadata-file",
        &metadata,
        &folder,
    ]);
    assert!(said.contains("[linux/s390x] ARG TARGETARCH") && said.contains("Using cache"), "{said}");
    assert_eq!(host.ok(&["run", "--rm", name]), format!("for {own}"));
    let shown = |platform: &str, format: &str| {
        host.ok(&["image", "inspect", "--platform", &format!("linux/{platform}"), "-f", format, name])
    };
    assert_eq!(shown("s390x", "{{.Architecture}}"), "s390x");
    assert_eq!(shown(&own, "{{.Architecture}}"), own);
    host.fails(&["image", "inspect", "--platform", "linux/riscv64", name]);
    // One row for the name, with and without the others.
    assert_eq!(host.ok(&["images", "-q", "localhost:5000/team/app"]).lines().count(), 1);
    let tree = host.ok(&["image", "ls", "--tree"]);
    assert!(tree.contains(&format!("├─ linux/{own} ")) && tree.contains("└─ linux/s390x "), "{tree}");
    assert!(!tree.contains("unknown"), "{tree}");
    // Neither they nor what is said about them is unused.
    host.ok(&["image", "prune", "-f"]);
    assert_eq!(shown("s390x", "{{.Architecture}}"), "s390x");

    let digest_of = |out: &str| {
        let found = out.split("digest: ").nth(1).and_then(|rest| rest.split(' ').next());
        found.unwrap_or_else(|| panic!("no digest in {out}")).to_owned()
    };
    let digest = digest_of(&host.ok(&["push", name]));
    let told: serde_json::Value = serde_json::from_slice(&std::fs::read(&metadata).unwrap()).unwrap();
    assert_eq!(told["containerimage.digest"], digest.as_str());
    let index = document(&host, name);
    let members = index["manifests"].as_array().unwrap();
    assert_eq!(members.len(), 4);
    assert_eq!(members[2]["platform"], serde_json::json!({ "architecture": "unknown", "os": "unknown" }));
    assert_eq!(members[2]["annotations"]["vnd.docker.reference.type"], "attestation-manifest");
    assert_eq!(members[2]["annotations"]["vnd.docker.reference.digest"], members[0]["digest"]);
    let statement = document(&host, &format!("localhost:5000/team/app@{}", members[2]["digest"].as_str().unwrap()));
    assert_eq!(statement["layers"][0]["mediaType"], "application/vnd.in-toto+json");
    assert_eq!(statement["layers"][0]["annotations"]["in-toto.io/predicate-type"], "https://slsa.dev/provenance/v1");

    // An archive carries all of it, and so does the registry.
    let archive = host.path("app.tar").display().to_string();
    host.ok(&["save", "-o", &archive, name]);
    forget(&host);
    host.ok(&["load", "-i", &archive]);
    assert_eq!(shown("s390x", "{{.Architecture}}"), "s390x");
    let again = "localhost:5000/other/app:1";
    host.ok(&["tag", name, again]);
    assert_eq!(digest_of(&host.ok(&["push", again])), digest);
    forget(&host);
    host.ok(&["pull", "-q", "--platform", "linux/s390x", name]);
    host.fails(&["image", "inspect", "--platform", &format!("linux/{own}"), name]);
    host.ok(&["pull", "-q", name]);
    assert_eq!(shown("s390x", "{{.Architecture}}"), "s390x");
    assert_eq!(host.ok(&["run", "--rm", name]), format!("for {own}"));
    // What came from there goes elsewhere untouched.
    host.ok(&["tag", name, "localhost:5000/third/app:1"]);
    assert_eq!(digest_of(&host.ok(&["push", "localhost:5000/third/app:1"])), digest);

    // One platform goes, then all.
    host.ok(&["rmi", "--platform", &format!("linux/{own}"), name]);
    assert_eq!(host.ok(&["image", "inspect", "-f", "{{.Architecture}}", name]), "s390x");
    forget(&host);
    let blobs = std::fs::read_dir(host.root().join("images/blobs/sha256")).unwrap().count();
    assert_eq!(blobs, 0, "something stays behind");
}

#[test]
fn what_cannot_run_here_or_is_not_told_is_refused_by_name() {
    let test = "what_cannot_run_here_or_is_not_told_is_refused_by_name";
    let Some(host) = Host::with_image(test) else { return };
    // A program for another machine: the head of one is enough.
    let mut program = std::fs::read("/bin/busybox").unwrap();
    program.truncate(4096);
    program[18] = 0xff;
    let folder = host.context(&[("Dockerfile", "FROM scratch\nCOPY program /program\nRUN [\"/program\"]\n")]);
    host.write("ctx/program", &program);
    std::process::Command::new("chmod").arg("755").arg(host.path("ctx/program")).status().unwrap();
    let (_, error) = host.fails(&["build", "--platform", "linux/s390x", &folder]);
    assert!(error.contains("binfmt_misc") && error.contains("Dockerfile:3"), "{error}");
    for (flag, part) in [
        ("--sbom", "scanner"),
        ("--provenance=mode=most", "expected min or max"),
        ("--attest=type=vex", "expected provenance or sbom"),
        ("--platform=nonsense/x/y/z", "is not a platform"),
    ] {
        let (_, error) = host.fails(&["build", flag, &folder]);
        assert!(error.contains(part), "{flag}: {error}");
    }
    // Files for several platforms have a folder each.
    host.write("ctx/Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /what\n");
    host.write("ctx/amd64", "a");
    host.write("ctx/s390x", "s");
    let out = host.path("out").display().to_string();
    host.build(&["--platform", "linux/amd64", "--platform", "linux/s390x", "--provenance=false", "-o", &out, &folder]);
    for (name, text) in [("linux_amd64", "a"), ("linux_s390x", "s")] {
        assert_eq!(std::fs::read_to_string(host.path("out").join(name).join("what")).unwrap(), text);
    }
    let files = host.path("out.tar").display().to_string();
    host.build(&["--platform", "linux/amd64,linux/s390x", "-o", &format!("type=tar,dest={files}"), &folder]);
    for (name, text) in [("linux_amd64/what", "a"), ("linux_s390x/what", "s")] {
        let found = std::process::Command::new("tar").args(["-xOf", &files, name]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&found.stdout), text, "{name}");
    }
    assert_eq!(host.ok(&["images", "-qa", "--filter", "dangling=true"]), "");
    let archive = host.path("app.oci").display().to_string();
    host.build(&["--platform", "linux/amd64,linux/s390x", "-o", &format!("type=oci,dest={archive}"), &folder]);
    let listed = std::process::Command::new("tar").args(["-xOf", &archive, "index.json"]).output().unwrap();
    let index: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(index["manifests"][0]["mediaType"], "application/vnd.oci.image.index.v1+json");
    // It has no name: the index is removed by its digest, with its images.
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    let count = || host.ok(&["images", "-q"]).lines().count();
    assert_eq!(count(), 3);
    host.ok(&["rmi", digest]);
    assert_eq!(count(), 1, "the one that was there before");
    host.build(&["--platform", "linux/amd64,linux/s390x", "-o", "type=cacheonly", &folder]);
    assert_eq!(count(), 1, "only the cache remembers");
}

#[test]
fn a_dockerfile_is_asked_without_a_build() {
    let test = "a_dockerfile_is_asked_without_a_build";
    let Some(host) = Host::start(test) else { return };
    let text = "# VERSION of all\nARG VERSION=1\nFROM scratch AS base\n\n# app is what runs\nFROM base AS app\nARG VERSION\n\
                RUN --mount=type=secret,id=token,required=true true\nMAINTAINER me\n";
    let folder = host.context(&[("Dockerfile", text)]);
    assert_eq!(
        host.ok(&["build", "--call", "targets", &folder]),
        "TARGET        DESCRIPTION\nbase\napp (default) is what runs"
    );
    let shown = host.ok(&["build", "--call=outline", "--build-arg", "VERSION=2", &folder]);
    assert!(shown.contains("TARGET:      app\n") && shown.contains("VERSION     2       of all\n"), "{shown}");
    assert!(shown.ends_with("SECRET   REQUIRED\ntoken    true"), "{shown}");
    let found: serde_json::Value =
        serde_json::from_str(&host.ok(&["build", "--call=outline,format=json", &folder])).unwrap();
    assert_eq!(found["args"][0]["value"], "1");
    assert_eq!(found["secrets"][0]["location"]["ranges"][0]["start"]["line"], 8);
    let asked = host.run(&["build", "--call=check,format=json", &folder]);
    assert_eq!(asked.code, 1);
    let found: serde_json::Value = serde_json::from_str(&asked.out).unwrap();
    assert_eq!(found["warnings"][0]["ruleName"], "MaintainerDeprecated");
    assert_eq!(host.ok(&["images", "-aq"]), "");
    let folder = host.context(&[("Dockerfile", "FROM scratch\nRUN --device=vendor.example/gpu=all,required true\n")]);
    let (_, error) = host.fails(&["build", &folder]);
    assert!(
        error.contains("Dockerfile:2") && error.contains("\"vendor.example/gpu=all\" is not registered"),
        "{error}"
    );
}
