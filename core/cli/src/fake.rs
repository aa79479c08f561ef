//! A daemon for tests: answers what a function says, and remembers who asked what over which connection.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use crate::client::Client;

/// An answer.
#[derive(Debug, Clone)]
pub enum Reply {
    /// A status and a JSON body.
    Json(u16, &'static str),
    /// The head at once; the body when the container was started.
    AfterStart(&'static str),
    /// The connection, on which this is sent after the start before it ends.
    Raw(&'static [u8]),
}

/// A daemon under way.
#[derive(Debug)]
pub struct Fake {
    _directory: tempfile::TempDir,
    /// Its socket.
    pub socket: PathBuf,
    asked: Arc<Mutex<Vec<(usize, String)>>>,
}

impl Fake {
    /// Starts one; the function gets `METHOD /path` without version and query, and the whole line.
    pub fn start(answer: impl Fn(&str, &str) -> Reply + Send + Sync + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let asked: Arc<Mutex<Vec<(usize, String)>>> = Arc::default();
        let (log, answer) = (asked.clone(), Arc::new(answer));
        let (started, _) = watch::channel(false);
        let started = Arc::new(started);
        tokio::spawn(async move {
            let mut count = 0;
            while let Ok((stream, _)) = listener.accept().await {
                count += 1;
                tokio::spawn(serve(stream, count, log.clone(), answer.clone(), started.clone()));
            }
        });
        Self { _directory: directory, socket, asked }
    }

    /// A client of it.
    pub fn client(&self) -> Client {
        Client::new(&format!("unix://{}", self.socket.display()), false).unwrap()
    }

    /// What was asked, with the number of the connection.
    pub fn asked(&self) -> Vec<(usize, String)> {
        self.asked.lock().unwrap().clone()
    }

    /// What was asked, alone.
    pub fn lines(&self) -> Vec<String> {
        self.asked().into_iter().map(|(_, line)| line).collect()
    }
}

async fn serve(
    mut stream: UnixStream,
    connection: usize,
    log: Arc<Mutex<Vec<(usize, String)>>>,
    answer: Arc<impl Fn(&str, &str) -> Reply + Send + Sync>,
    started: Arc<watch::Sender<bool>>,
) {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = buffer.windows(4).position(|part| part == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
        buffer.drain(..end);
        let length = head
            .lines()
            .find_map(|line| {
                line.to_ascii_lowercase().strip_prefix("content-length:").map(str::trim).and_then(|n| n.parse().ok())
            })
            .unwrap_or(0_usize);
        while buffer.len() < length {
            if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        }
        buffer.drain(..length);
        let line = head.lines().next().unwrap_or_default().replace("/v1.51", "");
        let line = line.trim_end_matches(" HTTP/1.1").to_owned();
        let short = line.split('?').next().unwrap_or_default().to_owned();
        log.lock().unwrap().push((connection, short.clone()));
        let reply = answer(&short, &line);
        if short.ends_with("/start") && !matches!(reply, Reply::Json(400.., _)) {
            started.send_replace(true);
        }
        let mut after = started.subscribe();
        match reply {
            Reply::Json(status, body) => {
                let text = format!(
                    "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(text.as_bytes()).await.unwrap();
            }
            Reply::AfterStart(body) => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
                let _ = after.wait_for(|on| *on).await;
                let text = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
                let _ = stream.write_all(text.as_bytes()).await;
            }
            Reply::Raw(bytes) => {
                stream
                    .write_all(b"HTTP/1.1 101 UPGRADED\r\nconnection: upgrade\r\nupgrade: tcp\r\n\r\n")
                    .await
                    .unwrap();
                let _ = after.wait_for(|on| *on).await;
                let _ = stream.write_all(bytes).await;
                return;
            }
        }
    }
}
