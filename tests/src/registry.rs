//! A real registry beside a daemon, and a slow way to it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::Host;

/// A real registry in the daemon's network namespace, on port 5000.
#[derive(Debug)]
pub struct Registry(Child);

impl Registry {
    /// With more lines in its configuration: below `http`, and at the top. `None` where there is no such program.
    #[must_use]
    pub fn start(test: &str, host: &Host, http: &str, more: &str) -> Option<Self> {
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  delete: {{enabled: true}}\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: :5000\n{http}{more}",
            host.path("registry").display()
        );
        let file = host.write("registry.yml", config);
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(file).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(child) = host.in_network(move || command.spawn()) else {
            println!("skipped: {test} needs docker-registry (package docker-registry)");
            return None;
        };
        let registry = Self(child);
        host.wait_until("the registry listens", || host.in_network(|| TcpStream::connect("127.0.0.1:5000")).is_ok());
        Some(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A way to the registry, on a port of its own, that lets answers through piece by piece until it is told to hurry.
#[derive(Debug)]
pub struct SlowWay {
    hurry: Arc<AtomicBool>,
    passed: Arc<AtomicU64>,
}

impl SlowWay {
    /// Opens it in the daemon's network namespace. It lasts as long as the test's process.
    #[must_use]
    pub fn open(host: &Host, port: u16) -> Self {
        let way = Self { hurry: Arc::default(), passed: Arc::default() };
        let (hurry, passed) = (Arc::clone(&way.hurry), Arc::clone(&way.passed));
        host.in_network(move || {
            let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
            // Threads begin in the network namespace of the one that starts them.
            std::thread::spawn(move || {
                for client in listener.incoming().flatten() {
                    let (hurry, passed) = (Arc::clone(&hurry), Arc::clone(&passed));
                    std::thread::spawn(move || drop(pass(client, &hurry, &passed)));
                }
            });
        });
        way
    }

    /// Holds nothing back any more.
    pub fn hurry(&self) {
        self.hurry.store(true, Ordering::SeqCst);
    }

    /// Bytes of answers that came through.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }
}

fn pass(client: TcpStream, hurry: &AtomicBool, passed: &AtomicU64) -> std::io::Result<()> {
    let mut server = TcpStream::connect("127.0.0.1:5000")?;
    let (mut asks, mut asked) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || {
        drop(std::io::copy(&mut asks, &mut asked));
        drop(asked.shutdown(Shutdown::Write));
    });
    let mut client = client;
    let mut piece = vec![0; 32 << 10];
    loop {
        let read = server.read(&mut piece)?;
        if read == 0 {
            drop(client.shutdown(Shutdown::Both));
            return Ok(());
        }
        client.write_all(&piece[..read])?;
        passed.fetch_add(read as u64, Ordering::SeqCst);
        if !hurry.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
