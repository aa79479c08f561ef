//! A driver with network access: it reaches what it was granted, and nothing else.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use common::{record, root, shipped, source};
use sampan_drivers::{Class, Limits, Manifest};

fn batch(lines: std::ops::Range<u64>) -> Vec<u8> {
    lines
        .flat_map(|number| record(1_700_000_000_000_000_000 + number, 1, false, format!("line {number}").as_bytes()))
        .collect()
}

#[test]
fn syslog_sends_by_udp_and_by_tcp() {
    let Some(shipped) = shipped() else { return };
    let root = root(shipped, Limits::default());
    let driver = root.drivers.log("syslog").unwrap();
    let error = driver.check(&[]).unwrap_err();
    assert!(error.to_string().contains("needs the option \"syslog-address\""), "{error}");
    let error = driver.check(&[("syslog-address".into(), "nowhere".into())]).unwrap_err();
    assert_eq!(error.class(), Class::Invalid);

    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let address = format!("udp://{}", udp.local_addr().unwrap());
    let mut sink =
        driver.open(&source(&[("syslog-address", &address), ("tag", "{{.Name}}")]), root.folder.path()).unwrap();
    sink.write(&batch(0..2)).unwrap();
    let mut buffer = [0; 1024];
    let read = udp.recv(&mut buffer).unwrap();
    assert_eq!(std::str::from_utf8(&buffer[..read]).unwrap(), "<30>1 2023-11-14T22:13:20Z - web - - - line 0");

    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://localhost:{}", tcp.local_addr().unwrap().port());
    let mut sink = driver.open(&source(&[("syslog-address", &address)]), root.folder.path()).unwrap();
    sink.write(&batch(0..2)).unwrap();
    let (stream, _) = tcp.accept().unwrap();
    let mut lines = BufReader::new(stream).lines();
    assert!(lines.next().unwrap().unwrap().ends_with(" - - - line 0"));
    assert!(lines.next().unwrap().unwrap().ends_with(" - - - line 1"));
    sink.close().unwrap();
}

#[test]
fn a_server_that_is_away_is_unavailable_and_no_fault() {
    let Some(shipped) = shipped() else { return };
    let root = root(shipped, Limits::default());
    let driver = root.drivers.log("syslog").unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let option = format!("tcp://{address}");
    let mut sink = driver.open(&source(&[("syslog-address", &option)]), root.folder.path()).unwrap();
    sink.write(&batch(0..1)).unwrap();
    // It goes away, and comes back.
    drop((tcp.accept().unwrap(), tcp));
    // What is written before the end of the connection is known goes with it.
    let began = Instant::now();
    while sink.write(&batch(1..3)).is_ok() {
        assert!(began.elapsed() < Duration::from_secs(60), "nobody is there");
    }
    for _ in 0..15 {
        let error = sink.write(&batch(1..3)).unwrap_err();
        assert_eq!(error.class(), Class::Unavailable, "{error}");
    }
    assert_eq!(root.drivers.info("syslog").unwrap().state, "ready");
    let tcp = TcpListener::bind(address).unwrap();
    sink.write(&batch(1..3)).unwrap();
    let (mut stream, _) = tcp.accept().unwrap();
    drop(sink);
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text.lines().filter(|line| line.ends_with("line 1")).count(), 1, "{text}");

    // One that takes nothing.
    let mut sink = driver.open(&source(&[("syslog-address", &option)]), root.folder.path()).unwrap();
    let long = [b'x'; 16 << 10];
    let full: Vec<u8> = (0..3).flat_map(|number| record(number, 1, true, &long)).collect();
    let began = Instant::now();
    let error = (0..10_000).find_map(|_| sink.write(&full).err()).unwrap();
    assert!(error.to_string().contains("takes nothing"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(60));
    // It takes again: what was begun goes on, nothing twice and nothing torn.
    let (stream, _) = tcp.accept().unwrap();
    let reading =
        std::thread::spawn(move || BufReader::new(stream).lines().map(|line| line.unwrap().len()).collect::<Vec<_>>());
    while sink.write(&full).is_err() {}
    sink.write(&full).unwrap();
    drop(sink);
    let lengths = reading.join().unwrap();
    let (last, whole) = lengths.split_last().unwrap();
    assert!(whole.iter().all(|length| *length == whole[0]) && *last <= whole[0], "{lengths:?}");
}

#[test]
fn what_was_not_granted_is_not_reached() {
    let Some(shipped) = shipped() else { return };
    let component = std::fs::read(shipped.join("log-syslog.wasm")).unwrap();
    let root = root(shipped, Limits::default());
    let manifest = |network: &str| {
        let text = format!(
            r#"{{"name":"sender","kind":"log","options":[{{"name":"syslog-address"}}],"capabilities":{{"network":{network}}}}}"#
        );
        Manifest::parse(text.as_bytes()).unwrap()
    };
    // Sockets without a wish for them.
    let error = root.drivers.install(&component, manifest("[]"), true).unwrap_err();
    assert!(error.to_string().contains("it uses sockets, but its manifest asks for no network"), "{error}");
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_nonblocking(true).unwrap();
    let port = udp.local_addr().unwrap().port();
    root.drivers.install(&component, manifest(r#"["127.0.0.1:9"]"#), true).unwrap();
    let driver = root.drivers.log("sender").unwrap();
    let address = format!("udp://127.0.0.1:{port}");
    let mut sink = driver.open(&source(&[("syslog-address", &address)]), root.folder.path()).unwrap();
    let error = sink.write(&batch(0..1)).unwrap_err();
    assert_eq!(error.class(), Class::Unavailable, "{error}");
    assert!(udp.recv(&mut [0; 16]).is_err(), "nothing arrives");
    // More than before is asked for.
    let error = root.drivers.upgrade("sender", &component, manifest(r#"["127.0.0.1:*"]"#), false).unwrap_err();
    assert!(error.to_string().contains("wants network access to 127.0.0.1:*"), "{error}");
    root.drivers.upgrade("sender", &component, manifest(r#"["127.0.0.1:*"]"#), true).unwrap();
    sink.write(&batch(0..1)).unwrap();
}
