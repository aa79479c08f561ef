//! Volumes, binds, and what images bring.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use sampan_tests::{Host, IMAGE};

#[test]
fn volumes_outlive_containers_and_take_what_the_image_has() {
    let Some(host) = Host::with_image("volumes_outlive_containers_and_take_what_the_image_has") else { return };
    host.ok(&["run", "--rm", "-v", "data:/etc", IMAGE, "sh", "-c", "test -e /etc/passwd && echo kept > /etc/new"]);
    assert_eq!(
        host.ok(&[
            "run",
            "--rm",
            "-v",
            "data:/x:ro",
            IMAGE,
            "sh",
            "-c",
            "cat /x/new; touch /x/y 2>/dev/null || echo read-only"
        ]),
        "kept\nread-only"
    );
    host.ok(&["create", "--name", "user", "-v", "data:/x", IMAGE, "true"]);
    let (_, error) = host.fails(&["volume", "rm", "data"]);
    assert!(error.contains("volume is in use"), "{error}");
    host.ok(&["rm", "user"]);
    assert_eq!(host.ok(&["volume", "ls", "-q"]), "data");
    host.ok(&["volume", "rm", "data"]);
}

#[test]
fn anonymous_volumes_go_with_their_container_when_asked() {
    let Some(host) = Host::with_image("anonymous_volumes_go_with_their_container_when_asked") else { return };
    host.ok(&["run", "--rm", "-v", "/anon", IMAGE, "touch", "/anon/x"]);
    assert_eq!(host.ok(&["volume", "ls", "-q"]), "", "--rm takes them");
    host.ok(&["create", "--name", "keeps", "-v", "/anon", IMAGE, "true"]);
    host.ok(&["rm", "keeps"]);
    assert_eq!(host.ok(&["volume", "ls", "-q"]).lines().count(), 1);
    host.ok(&["volume", "prune", "-f"]);
    assert_eq!(host.ok(&["volume", "ls", "-q"]), "");
}

#[test]
fn binds_show_the_hosts_files_and_missing_ones_are_named() {
    let Some(host) = Host::with_image("binds_show_the_hosts_files_and_missing_ones_are_named") else { return };
    let file = host.write("shared/file", "from the host");
    let folder = file.parent().unwrap().to_str().unwrap().to_owned();
    assert_eq!(
        host.ok(&[
            "run",
            "--rm",
            "-v",
            &format!("{folder}:/in"),
            IMAGE,
            "sh",
            "-c",
            "cat /in/file; echo back > /in/answer"
        ]),
        "from the host"
    );
    assert_eq!(std::fs::read_to_string(host.path("shared/answer")).unwrap(), "back\n");
    let (code, error) =
        host.fails(&["run", "--rm", "--mount", "type=bind,source=/no/such/place,target=/in", IMAGE, "true"]);
    assert_eq!(code, 125);
    assert!(error.contains("/no/such/place"), "{error}");
    // A link in the image that points out of it leads nowhere but inside.
    let tmpfs = host.ok(&[
        "run",
        "--rm",
        "--tmpfs",
        "/t:size=1m,mode=1700",
        IMAGE,
        "sh",
        "-c",
        "stat -c %a /t; df -k /t | tail -1 | awk '{print $2}'",
    ]);
    assert_eq!(tmpfs, "1700\n1024");
}

#[test]
fn local_volumes_take_dockers_options() {
    let Some(host) = Host::with_image("local_volumes_take_dockers_options") else { return };
    let folder = host.write("place/file", "x").parent().unwrap().to_str().unwrap().to_owned();
    host.ok(&["volume", "create", "-o", "type=none", "-o", "o=bind", "-o", &format!("device={folder}"), "bound"]);
    assert_eq!(host.ok(&["run", "--rm", "-v", "bound:/v", IMAGE, "cat", "/v/file"]), "x");
    host.ok(&["volume", "create", "-o", "type=tmpfs", "-o", "o=size=2m", "-o", "device=tmpfs", "memory"]);
    assert_eq!(
        host.ok(&["run", "--rm", "-v", "memory:/v", IMAGE, "sh", "-c", "df -k /v | tail -1 | awk '{print $2}'"]),
        "2048"
    );
    let (_, error) = host.fails(&["volume", "create", "-o", "colour=red", "odd"]);
    assert!(error.contains("colour"), "{error}");
    let (_, error) = host.fails(&["volume", "create", "-d", "nothing", "odd"]);
    assert!(error.contains("nothing") && error.contains("local"), "{error}");
}

#[test]
fn the_vfs_driver_serves_where_overlay_is_not_wanted() {
    let Some(host) =
        Host::start_with("the_vfs_driver_serves_where_overlay_is_not_wanted", &["--storage-driver", "vfs"])
    else {
        return;
    };
    host.import_busybox();
    assert_eq!(host.ok(&["info", "--format", "{{.Driver}}"]), "vfs");
    host.ok(&["run", "--name", "one", IMAGE, "sh", "-c", "echo x > /new; rm /etc/group"]);
    let changes = host.ok(&["diff", "one"]);
    assert!(changes.contains("A /new") && changes.contains("D /etc/group"), "{changes}");
    host.ok(&["commit", "one", "changed:1"]);
    assert_eq!(
        host.ok(&["run", "--rm", "changed:1", "sh", "-c", "cat /new; test -e /etc/group || echo gone"]),
        "x\ngone"
    );
}

#[test]
fn an_images_files_are_mounted_read_only_and_stay_while_they_are_used() {
    let test = "an_images_files_are_mounted_read_only_and_stay_while_they_are_used";
    let Some(mut host) = Host::with_image(test) else { return };
    let context = host.context(&[("Dockerfile", "FROM scratch\nCOPY sub /sub\n"), ("sub/file", "from the image")]);
    host.build(&["-t", "files", &context]);
    let mounts = ["--mount", "type=image,source=files,target=/all", "--mount"];
    let part = "type=image,source=files,target=/part,image-subpath=sub";
    let run = [&["run", "-d", "--init", "--name", "user"][..], &mounts, &[part, IMAGE, "sleep", "infinity"]].concat();
    host.ok(&run);
    let look = "cat /all/sub/file /part/file; touch /all/x 2>/dev/null || echo read-only";
    let shown = "from the imagefrom the imageread-only";
    assert_eq!(host.ok(&["exec", "user", "sh", "-c", look]), shown);
    let all = host.inspect("user")["Mounts"].as_array().unwrap().clone();
    let whole = all.iter().find(|mount| mount["Destination"] == "/all").unwrap();
    assert_eq!((&whole["Type"], &whole["Name"], &whole["RW"]), (&"image".into(), &"files".into(), &false.into()));
    let source = std::path::PathBuf::from(whole["Source"].as_str().unwrap());
    assert!(source.join("sub/file").exists());
    let id = host.ok(&["images", "-q", "--no-trunc", "files"]);
    let (_, error) = host.fails(&["rmi", "-f", &id]);
    assert!(error.contains("image is being used by running container"), "{error}");
    host.crash_and_restart();
    assert_eq!(host.ok(&["exec", "user", "sh", "-c", look]), shown, "the next daemon has adopted it");
    host.ok(&["stop", "-t", "0", "user"]);
    assert!(!source.exists(), "a container that does not run mounts nothing");
    let (_, error) = host.fails(&["rmi", "files"]);
    assert!(error.contains("container"), "{error}");
    assert_eq!(host.run(&["image", "prune", "-a", "-f"]).code, 0);
    host.ok(&["start", "user"]);
    assert_eq!(host.ok(&["exec", "user", "sh", "-c", look]), shown);
    // It ends while no daemon is there to clear up.
    let pid = host.inspect("user")["State"]["Pid"].as_i64().unwrap();
    let namespace = host.network_namespace();
    host.kill_daemon();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.try_into().unwrap()), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    host.spawn_in(namespace);
    host.wait_until("its end is known", || host.inspect("user")["State"]["Running"] == false);
    host.wait_until("what it mounted is gone", || !source.exists());
    host.ok(&["rm", "user"]);
    let written = host.root().join("layer/overlay/containers");
    assert_eq!(std::fs::read_dir(&written).map_or(0, |entries| entries.count()), 0, "{}", written.display());
    host.ok(&["rmi", "files"]);
    let (_, error) =
        host.fails(&["create", "--pull", "never", "--mount", "type=image,source=files,target=/all", IMAGE]);
    assert!(error.contains("No such image: files"), "{error}");
}
