//! As much of HTTP as the services need.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(5);
/// A request line or header may be this long.
const LINE: u64 = 8 << 10;

/// Answers requests, each on a thread of its own: a path becomes a status and a body.
pub fn serve(port: u16, answer: impl Fn(&str) -> (u16, String) + Send + Sync + Clone + 'static) -> Result<(), String> {
    let listener = TcpListener::bind(("0.0.0.0", port)).map_err(|error| format!("listen on port {port}: {error}"))?;
    println!("listening on port {port}");
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        let answer = answer.clone();
        std::thread::spawn(move || {
            // A client that goes away is no fault of ours.
            let _ = respond(&stream, &answer);
        });
    }
    Ok(())
}

fn respond(stream: &TcpStream, answer: &impl Fn(&str) -> (u16, String)) -> std::io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    (&mut reader).take(LINE).read_line(&mut first)?;
    loop {
        let mut header = String::new();
        if (&mut reader).take(LINE).read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
    }
    let path = first.split(' ').nth(1).unwrap_or("/");
    let (status, body) = answer(path);
    if path != "/health" {
        println!("{} {path} {status}", first.split(' ').next().unwrap_or_default());
    }
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status} -\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Fetches a page from `host:port`.
pub fn get(address: &str, path: &str) -> Result<String, String> {
    let fetch = || -> std::io::Result<(bool, String)> {
        // A replica that has just started may not listen yet: the next one answers.
        let mut connected = Err(std::io::Error::other("the name has no address"));
        for target in address.to_socket_addrs()? {
            connected = TcpStream::connect_timeout(&target, TIMEOUT);
            if connected.is_ok() {
                break;
            }
        }
        let mut stream = connected?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        Ok((head.starts_with("HTTP/1.1 200"), body.to_owned()))
    };
    match fetch() {
        Ok((true, body)) => Ok(body),
        Ok((false, body)) => Err(format!("{address}{path}: {}", body.trim())),
        Err(error) => Err(format!("{address}{path}: {error}")),
    }
}
