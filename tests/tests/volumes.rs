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
