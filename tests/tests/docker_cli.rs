//! Docker's own client against the socket, where one is installed.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::process::Command;

use sampan_tests::{Host, IMAGE};

#[test]
fn the_stock_client_works_unchanged() {
    if Command::new("docker").arg("--version").output().is_err() {
        println!("skipped: the_stock_client_works_unchanged needs docker (package docker-cli or docker.io)");
        return;
    }
    let Some(host) = Host::with_image("the_stock_client_works_unchanged") else { return };
    let docker = |words: &[&str]| {
        let output = Command::new("docker").args(words).envs(host.environment()).output().unwrap();
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        );
        assert!(output.status.success(), "docker {}: {out}{err}", words.join(" "));
        out.trim_end().to_owned()
    };
    assert!(docker(&["version"]).contains("Sampan"));
    assert!(docker(&["info"]).contains("Storage Driver: overlay"));
    assert!(docker(&["images"]).contains("busybox"));
    assert_eq!(docker(&["run", "--rm", IMAGE, "echo", "hello"]), "hello");
    docker(&["run", "-d", "--name", "one", IMAGE, "sh", "-c", "echo up; sleep 1000"]);
    assert!(docker(&["ps"]).contains("one"));
    host.wait_until("its log is there", || docker(&["logs", "one"]) == "up");
    assert_eq!(docker(&["exec", "one", "echo", "inside"]), "inside");
    assert_eq!(docker(&["inspect", "--format", "{{.State.Status}}", "one"]), "running");
    docker(&["stop", "-t", "0", "one"]);
    docker(&["rm", "one"]);
}
