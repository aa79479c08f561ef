//! What single instructions of a Dockerfile may ask for: mounts that forget, layers of their own, steps that are shared.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use sampan_tests::{Host, IMAGE};

#[test]
fn what_is_written_to_a_mount_goes_with_the_step() {
    let test = "what_is_written_to_a_mount_goes_with_the_step";
    let Some(host) = Host::with_image(test) else { return };
    let text = format!(
        "FROM {IMAGE} AS made\n\
         RUN mkdir /tree && echo old > /tree/kept && echo gone > /tree/gone && chown 7:8 /tree\n\
         FROM {IMAGE}\n\
         RUN --mount=type=bind,target=/ctx,rw echo new > /ctx/file && echo more > /ctx/dir/more && rm /ctx/other && cat /ctx/file /ctx/dir/more > /seen\n\
         RUN --mount=type=bind,target=/ctx,rw cat /ctx/file /ctx/other > /after && test ! -e /ctx/dir/more\n\
         RUN --mount=type=bind,from=made,source=/tree,target=/tree,readwrite echo x >> /tree/kept && rm /tree/gone && touch /tree/n && stat -c '%u:%g' /tree > /owner\n\
         RUN --mount=type=bind,from=made,source=/tree,target=/tree cat /tree/kept /tree/gone > /tree-after && ! touch /tree/x\n\
         RUN --mount=type=bind,source=file,target=/one,rw echo changed > /one && cat /one > /one-seen\n\
         COPY file /copied\n"
    );
    let folder = host.context(&[("Dockerfile", &text), ("file", "old\n"), ("other", "other\n"), ("dir/a", "a\n")]);
    host.build(&["-t", "app", &folder]);
    let files = ["/seen", "/after", "/owner", "/tree-after", "/one-seen", "/copied"];
    let shown = host.ok(&[&["run", "--rm", "app", "cat"], &files[..]].concat());
    assert_eq!(shown, "new\nmore\nold\nother\n7:8\nold\ngone\nchanged\nold");
    // The user's own files are as they were, also when the daemon builds from the directory itself.
    host.write("compose.yaml", "name: own\nservices:\n  a:\n    image: own\n    build: ctx\n    command: cat /seen\n");
    host.ok(&["compose", "up", "-d"]);
    for (name, text) in [("file", "old\n"), ("other", "other\n"), ("dir/a", "a\n")] {
        assert_eq!(std::fs::read_to_string(host.path(&format!("ctx/{name}"))).unwrap(), text, "{name}");
    }
    assert!(!host.path("ctx/dir/more").exists());
}

#[test]
fn a_linked_copy_is_the_same_layer_on_another_base() {
    let test = "a_linked_copy_is_the_same_layer_on_another_base";
    let Some(host) = Host::with_image(test) else { return };
    let text = |base: &str| {
        format!(
            "FROM {IMAGE} AS tool\nRUN date +%s%N > /made\nFROM {IMAGE}\nRUN echo {base} > /base\n\
             COPY --link --from=tool --chown=web:extra --chmod=640 /made /opt/made\nADD --link file /opt/file\nRUN cat /base /opt/file > /all\n"
        )
    };
    let folder = host.context(&[("Dockerfile", &text("one")), ("file", "content\n")]);
    host.build(&["-t", "app", &folder]);
    let layers =
        |host: &Host| host.api("GET", "/images/app/json", None).1["RootFS"]["Layers"].as_array().unwrap().clone();
    let shown =
        |host: &Host| host.ok(&["run", "--rm", "app", "sh", "-c", "stat -c '%u:%g %a' /opt/made; cat /opt/made /all"]);
    let (first, before) = (layers(&host), shown(&host));
    assert!(before.starts_with("101:103 640\n") && before.ends_with("\none\ncontent"), "{before}");
    host.write("ctx/Dockerfile", text("two"));
    let said = host.build(&["-t", "app", &folder]);
    let second = layers(&host);
    assert_eq!(first[2..4], second[2..4], "{said}");
    assert_ne!(first[1], second[1]);
    assert_eq!(shown(&host), before.replace("one", "two"));
    // All of it can go away, and comes back the same.
    host.ok(&["save", "-o", "app.tar", "app"]);
    host.ok(&["rmi", "-f", "app"]);
    host.ok(&["builder", "prune", "-af"]);
    host.ok(&["load", "-i", "app.tar"]);
    assert_eq!(layers(&host), second);
    assert_eq!(shown(&host), before.replace("one", "two"));
}

#[test]
fn builds_at_once_do_a_step_once() {
    let test = "builds_at_once_do_a_step_once";
    let Some(host) = Host::with_image(test) else { return };
    let folder = host.context(&[
        (
            "Dockerfile",
            &format!("FROM {IMAGE}\nRUN date +%s%N > /time && sleep 1\nCOPY file /file\nRUN cat /file /time > /both\n"),
        ),
        ("file", "f"),
    ]);
    let names = ["one", "two", "three", "four"];
    std::thread::scope(|scope| {
        for name in names {
            let (host, folder) = (&host, &folder);
            scope.spawn(move || host.build(&["-t", name, folder]));
        }
    });
    let times: std::collections::BTreeSet<String> =
        names.iter().map(|name| host.ok(&["run", "--rm", name, "cat", "/both"])).collect();
    assert_eq!(times.len(), 1, "{times:?}");
    let id = |name: &str| host.ok(&["images", "-q", "--no-trunc", name]);
    assert!(names.iter().all(|name| id(name) == id("one")));
}

#[test]
fn devices_are_refused_by_name() {
    let test = "devices_are_refused_by_name";
    let Some(host) = Host::with_image(test) else { return };
    for (line, part) in [
        ("RUN --device=vendor.com/gpu=all,required true", "required device \"vendor.com/gpu=all\" is not registered"),
        ("RUN --device=gpu true", "no name of a device"),
        ("RUN --security=insecure true", "needs the daemon's permission"),
        ("RUN --mount=type=bind,target=/x,sharing=locked true", "takes no sharing"),
        ("RUN --mount=type=cache,target=/x,sharing=some true", "expected shared, private or locked"),
    ] {
        let folder = host.context(&[("Dockerfile", &format!("FROM {IMAGE}\n{line}\n"))]);
        let (_, error) = host.fails(&["build", &folder]);
        assert!(error.contains(part) && error.contains('^'), "{line}: {error}");
    }
}

#[test]
fn caches_have_owners_and_modes_and_are_locked_when_asked() {
    let test = "caches_have_owners_and_modes_and_are_locked_when_asked";
    let Some(host) = Host::with_image(test) else { return };
    let text = format!(
        "FROM {IMAGE} AS seed\nRUN mkdir /seed && echo seeded > /seed/file\nFROM {IMAGE}\nARG N\n\
         RUN --mount=type=cache,id=own,target=/own,uid=101,gid=102,mode=0770 stat -c '%u:%g %a' /own\n\
         RUN --mount=type=cache,id=seeded,target=/seeded,from=seed,source=/seed cat /seeded/file\n\
         RUN --mount=type=cache,id=ro,target=/ro,readonly ! touch /ro/x\n\
         RUN --mount=type=cache,id=lock,target=/lock,sharing=locked test ! -e /lock/busy && touch /lock/busy && sleep 1 && rm /lock/busy && echo alone $N\n\
         RUN --mount=type=cache,id=mine,target=/mine,sharing=private echo $N >> /mine/list && cat /mine/list\n"
    );
    let folder = host.context(&[("Dockerfile", &text)]);
    std::thread::scope(|scope| {
        for name in ["1", "2", "3"] {
            let (host, folder) = (&host, &folder);
            scope.spawn(move || {
                let said = host.build(&["--build-arg", &format!("N={name}"), folder]);
                assert!(said.contains("101:102 770\n") && said.contains("seeded\n"), "{said}");
                assert!(said.contains(&format!("alone {name}\n")), "{said}");
            });
        }
    });
}

#[test]
fn compose_files_say_how_images_are_built() {
    let test = "compose_files_say_how_images_are_built";
    let Some(host) = Host::with_image(test) else { return };
    host.write("app/Dockerfile", format!(
        "FROM {IMAGE} AS tools\nRUN date +%s%N > /time\nFROM {IMAGE} AS web\nARG WHO\n\
         RUN --mount=type=secret,id=key --mount=type=secret,id=word cat /run/secrets/key /run/secrets/word | tr a-z A-Z > /secret\n\
         COPY --from=lib part /part\nCOPY --from=base /base /base\nCOPY --from=tools /time /time\n\
         RUN ulimit -n > /limit && df -k /dev/shm | tail -1 | awk '{{print $2}}' > /shm && grep far /etc/hosts > /hosts && echo $WHO > /who\n\
         FROM {IMAGE} AS other\n"
    ));
    host.write("lib/part", "of the library\n");
    host.write("base/Dockerfile", format!("FROM {IMAGE}\nRUN echo of the base > /base\n"));
    host.write("key.txt", "of a file\n");
    host.write("compose.yaml", format!(
        "name: built\nservices:\n  web:\n    image: web:1\n    command: sleep 1000\n    build:\n      context: app\n      target: web\n      args: {{WHO: me}}\n      labels: {{a.b: c}}\n      tags: [web:also]\n      shm_size: 8m\n      ulimits: {{nofile: {{soft: 321, hard: 400}}}}\n      extra_hosts: [\"far=10.1.2.3\"]\n      network: none\n      secrets: [key, word]\n      additional_contexts:\n        lib: ./lib\n        base: service:base\n      cache_to: [\"type=local,dest=cache,mode=max\"]\n      cache_from: [\"type=local,src=cache\"]\n  base:\n    build: base\n    image: base:1\n    command: \"true\"\nsecrets:\n  key: {{file: key.txt}}\n  word: {{environment: THE_WORD}}\n# {IMAGE}\n"
    ));
    let up = |host: &Host, words: &[&str]| {
        let output = host.command(words).env("THE_WORD", "of the environment\n").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}\n{}", host.log());
        said
    };
    let files = ["/secret", "/part", "/base", "/limit", "/shm", "/who"];
    let shown = |host: &Host| host.ok(&[&["run", "--rm", "web:also", "cat"], &files[..]].concat());
    let expected = "OF A FILE\nOF THE ENVIRONMENT\nof the library\nof the base\n321\n8192\nme";
    let time = |host: &Host| host.ok(&["run", "--rm", "web:1", "cat", "/time"]);
    up(&host, &["compose", "up", "-d"]);
    assert_eq!(shown(&host), expected);
    assert!(host.ok(&["run", "--rm", "web:1", "cat", "/hosts"]).contains("10.1.2.3"));
    assert_eq!(host.api("GET", "/images/web:1/json", None).1["Config"]["Labels"]["a.b"], "c");
    assert!(host.path("cache/cache.json").exists());
    let first = time(&host);
    host.ok(&["compose", "down"]);
    let clear = |host: &Host| {
        for name in ["web:1", "web:also", "base:1"] {
            host.ok(&["rmi", "-f", name]);
        }
        host.ok(&["builder", "prune", "-af"]);
    };
    clear(&host);
    // The cache that it wrote is what it reads.
    up(&host, &["compose", "up", "-d"]);
    assert_eq!((shown(&host), time(&host)), (expected.to_owned(), first));
    host.ok(&["compose", "down"]);
    // The command that only builds says the same of it.
    clear(&host);
    let said = up(&host, &["compose", "build", "web"]);
    assert!(said.contains("Image base:1  Built"), "{said}");
    assert_eq!(shown(&host), expected);

    for (line, part) in [
        ("privileged: true", "privileged"),
        ("ssh: [default]", "ssh"),
        ("cache_to: [\"type=gha\"]", "type=gha is not supported"),
    ] {
        host.write(
            "compose.yaml",
            format!("name: no\nservices:\n  web:\n    build:\n      context: base\n      {line}\n"),
        );
        let (_, error) = host.fails(&["compose", "up", "-d"]);
        assert!(error.contains(part), "{line}: {error}");
    }
}
