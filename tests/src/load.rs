//! Requests from within a network namespace, many of them.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

/// A thread in a network namespace.
pub fn in_namespace<T: Send + 'static>(namespace: File, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    std::thread::spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    })
}

/// Fetches a page; head and body.
pub fn get(at: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(30))?;
    stream.set_read_timeout(Some(crate::PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.0\r\nHost: test\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
