//! Networks, names and ports.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use sampan_tests::{Host, IMAGE};

const PAGE: &str = "while :; do printf \"HTTP/1.0 200 OK\\r\\n\\r\\n$(hostname)\" | nc -l -p 80; done";

#[test]
fn names_and_aliases_resolve_on_custom_networks() {
    let Some(host) = Host::with_image("names_and_aliases_resolve_on_custom_networks") else { return };
    host.ok(&["network", "create", "net"]);
    host.ok(&["run", "-d", "--name", "one", "--network", "net", "--network-alias", "other", IMAGE, "sleep", "1000"]);
    let address = host.inspect("one")["NetworkSettings"]["Networks"]["net"]["IPAddress"].as_str().unwrap().to_owned();
    let resolve = |name: &str| {
        host.ok(&["run", "--rm", "--network", "net", IMAGE, "sh", "-c", &format!("ping -c1 -W2 {name} | head -1")])
    };
    for name in ["one", "other"] {
        assert!(resolve(name).contains(&format!("({address})")), "{name}");
    }
    assert!(host.run(&["run", "--rm", "--network", "net", IMAGE, "nslookup", "nobody"]).code != 0);
    let (_, error) = host.fails(&["network", "rm", "net"]);
    assert!(error.contains("active endpoints"), "{error}");
    host.ok(&["rm", "-f", "one"]);
    host.ok(&["network", "rm", "net"]);
}

#[test]
fn published_ports_answer_and_are_given_back() {
    let Some(host) = Host::with_image("published_ports_answer_and_are_given_back") else { return };
    host.ok(&[
        "run",
        "-d",
        "--name",
        "page",
        "--hostname",
        "page",
        "-p",
        "8081:80",
        "-p",
        "80",
        IMAGE,
        "sh",
        "-c",
        PAGE,
    ]);
    host.wait_until("the page answers", || host.fetch("127.0.0.1:8081").is_ok_and(|page| page.ends_with("page")));
    let port = host.ok(&["port", "page", "80/tcp"]);
    assert!(port.contains("0.0.0.0:8081"), "{port}");
    let chosen = port
        .lines()
        .find(|line| line.starts_with("0.0.0.0:") && !line.ends_with(":8081"))
        .unwrap()
        .replace("0.0.0.0", "127.0.0.1");
    host.wait_until("the chosen port answers", || host.fetch(&chosen).is_ok_and(|page| page.ends_with("page")));
    let (code, error) = host.fails(&["run", "--rm", "-p", "8081:80", IMAGE, "true"]);
    assert_eq!(code, 125);
    assert!(error.contains("8081"), "{error}");
    let hairpin = "wget -q -O- http://172.17.0.1:8081/";
    host.wait_until("another container reaches it by the host", || {
        host.run(&["run", "--rm", IMAGE, "sh", "-c", hairpin]).out == "page"
    });
    host.ok(&["rm", "-f", "page"]);
    assert!(host.fetch("127.0.0.1:8081").is_err());
    host.ok(&["run", "-d", "--name", "page", "-p", "127.0.0.1:8081:80", IMAGE, "sh", "-c", PAGE]);
    host.wait_until("the port can be had again", || host.fetch("127.0.0.1:8081").is_ok());
}

#[test]
fn networks_are_apart_until_connected() {
    let Some(host) = Host::with_image("networks_are_apart_until_connected") else { return };
    for name in ["left", "right"] {
        host.ok(&["network", "create", name]);
        host.ok(&["run", "-d", "--name", &format!("in-{name}"), "--network", name, IMAGE, "sleep", "1000"]);
    }
    let address =
        host.inspect("in-right")["NetworkSettings"]["Networks"]["right"]["IPAddress"].as_str().unwrap().to_owned();
    let reach = || host.run(&["exec", "in-left", "ping", "-c1", "-W1", &address]).code == 0;
    assert!(!reach(), "isolated");
    host.ok(&["network", "connect", "right", "in-left"]);
    assert!(reach(), "connected while running");
    assert_eq!(host.run(&["exec", "in-left", "ping", "-c1", "-W1", "in-right"]).code, 0);
    host.ok(&["network", "disconnect", "right", "in-left"]);
    assert!(!reach(), "apart again");
}

#[test]
fn host_none_and_shared_namespaces() {
    let Some(host) = Host::with_image("host_none_and_shared_namespaces") else { return };
    let links = host.links();
    let inside = host.ok(&["run", "--rm", "--network", "host", IMAGE, "ls", "/sys/class/net"]);
    assert!(links.iter().all(|link| inside.lines().any(|found| found == link)), "{links:?} {inside}");
    host.ok(&["run", "-d", "--name", "first", IMAGE, "sleep", "1000"]);
    let own = |name: &[&str]| {
        let mut words = vec!["run", "--rm"];
        words.extend(name);
        words.extend([IMAGE, "readlink", "/proc/self/ns/net"]);
        host.ok(&words)
    };
    assert_eq!(own(&["--network", "container:first"]), host.ok(&["exec", "first", "readlink", "/proc/self/ns/net"]));
    assert_ne!(own(&["--network", "none"]), host.ok(&["exec", "first", "readlink", "/proc/self/ns/net"]));
}

#[test]
fn asked_for_addresses_are_given_or_refused() {
    let Some(host) = Host::with_image("asked_for_addresses_are_given_or_refused") else { return };
    host.ok(&["network", "create", "--subnet", "10.77.0.0/24", "--gateway", "10.77.0.9", "fixed"]);
    let address = host.ok(&[
        "run",
        "--rm",
        "--network",
        "fixed",
        "--ip",
        "10.77.0.42",
        IMAGE,
        "sh",
        "-c",
        "ip -4 addr show eth0 | grep -o 'inet [0-9.]*'; ip route | grep default",
    ]);
    assert!(address.starts_with("inet 10.77.0.42\n") && address.contains("via 10.77.0.9"), "{address}");
    let (code, error) = host.fails(&["run", "--rm", "--network", "fixed", "--ip", "10.78.0.1", IMAGE, "true"]);
    assert_eq!(code, 125, "{error}");
    let (_, error) = host.fails(&["network", "create", "--subnet", "10.77.0.0/25", "overlap"]);
    assert!(error.to_lowercase().contains("overlap"), "{error}");
    let names = host.ok(&["network", "ls", "--format", "{{.Name}}"]);
    assert_eq!(names.lines().collect::<Vec<_>>(), ["bridge", "fixed", "host", "none"]);
}
