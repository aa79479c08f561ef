//! The way to the server. Nothing here waits for long: a call has an end, and the engine comes again.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long one message may take, and one connection.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of a message by UDP; longer ones are cut, as receivers would.
const DATAGRAM: usize = 60_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
}

/// Where the server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    transport: Transport,
    host: String,
    port: u16,
}

impl Address {
    /// Reads `udp://host:port`, `tcp://[::1]:port`, with 514 where there is no port.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("option syslog-address: {text:?} {why}");
        let (scheme, rest) =
            text.split_once("://").ok_or_else(|| wrong("is not udp://host:port or tcp://host:port"))?;
        let transport = match scheme {
            "udp" => Transport::Udp,
            "tcp" => Transport::Tcp,
            "tcp+tls" => return Err(wrong("asks for TLS, which this driver does not have")),
            "unix" | "unixgram" => {
                return Err(wrong("is a socket of the host, which drivers do not reach; use udp or tcp"));
            }
            _ => return Err(wrong("is not udp://host:port or tcp://host:port")),
        };
        let (host, port) = match rest.strip_prefix('[') {
            Some(inside) => {
                let (host, behind) = inside.split_once(']').ok_or_else(|| wrong("has no ] behind its address"))?;
                (host, behind.strip_prefix(':'))
            }
            None => match rest.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        if host.is_empty() || host.contains('/') {
            return Err(wrong("names no host"));
        }
        let port = port.map_or(Ok(514), |port| port.parse().map_err(|_| wrong("has no port behind its colon")))?;
        Ok(Self { transport, host: host.to_owned(), port })
    }

    fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let found: Vec<SocketAddr> = (self.host.as_str(), self.port).to_socket_addrs()?.collect();
        if found.is_empty() { Err(io::Error::other("the name has no address")) } else { Ok(found) }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.transport == Transport::Udp { "udp" } else { "tcp" };
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{scheme}://{open}{}{close}:{}", self.host, self.port)
    }
}

enum Open {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

/// A connection that is made when it is needed, and anew when it broke.
pub struct Link {
    address: Address,
    open: Option<Open>,
    /// The end of a message that the server has not taken yet.
    rest: Vec<u8>,
}

/// How far a message has come when the call has to end.
#[derive(Debug)]
pub struct Failed {
    /// Whether it is on its way: not to be sent again.
    pub begun: bool,
    pub error: io::Error,
}

impl Link {
    pub fn new(address: Address) -> Self {
        Self { address, open: None, rest: Vec::new() }
    }

    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Sends one message, framed for the transport. After an error the next call connects anew, unless the server only
    /// takes nothing at present: to let go of such a connection would mean to wait for it.
    pub fn send(&mut self, message: &mut Vec<u8>) -> Result<(), Failed> {
        let unsent = |error| Failed { begun: false, error };
        if matches!(&self.open, Some(Open::Tcp(stream)) if is_closed(stream)) {
            self.open = None;
        }
        if self.open.is_none() {
            self.rest.clear();
            self.open = Some(connect(&self.address).map_err(unsent)?);
        }
        match &mut self.open {
            Some(Open::Udp(socket)) => {
                if let Err(error) = socket.send(&message[..message.len().min(DATAGRAM)]) {
                    self.open = None;
                    return Err(unsent(error));
                }
                Ok(())
            }
            Some(Open::Tcp(stream)) => {
                let until = Instant::now() + PATIENCE;
                let mut sent = push(stream, &mut self.rest, until).map_err(unsent);
                if sent.is_ok() {
                    message.push(b'\n');
                    let length = message.len();
                    sent =
                        push(stream, message, until).map_err(|error| Failed { begun: message.len() < length, error });
                    if sent.is_err() && message.len() < length {
                        self.rest.append(message);
                    }
                }
                if matches!(&sent, Err(failed) if failed.error.kind() != ErrorKind::TimedOut) {
                    self.open = None;
                }
                sent
            }
            None => Ok(()),
        }
    }
}

fn connect(address: &Address) -> io::Result<Open> {
    let mut last = io::Error::other("nothing answers");
    for target in address.resolve()? {
        let opened = match address.transport {
            Transport::Udp => {
                let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                UdpSocket::bind(any).and_then(|socket| socket.connect(target).map(|()| Open::Udp(socket)))
            }
            Transport::Tcp => TcpStream::connect_timeout(&target, PATIENCE)
                .and_then(|stream| stream.set_nonblocking(true).map(|()| Open::Tcp(stream))),
        };
        match opened {
            Ok(open) => return Ok(open),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Whether the server has hung up: a write would only fail the time after.
fn is_closed(mut stream: &TcpStream) -> bool {
    let mut block = [0; 64];
    match stream.read(&mut block) {
        Ok(read) => read == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

/// Writes from the front; what is left is what was not taken.
fn push(stream: &mut TcpStream, bytes: &mut Vec<u8>, until: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => drop(bytes.drain(..written)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < until => {
                sleep(Duration::from_millis(2));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Err(io::Error::new(ErrorKind::TimedOut, "the server takes nothing"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_or_refused() {
        let shown = |text: &str| Address::parse(text).unwrap().to_string();
        assert_eq!(shown("udp://logs.example"), "udp://logs.example:514");
        assert_eq!(shown("tcp://[::1]:601"), "tcp://[::1]:601");
        for (text, says) in [
            ("", "is not udp://"),
            ("logs.example:514", "is not udp://"),
            ("http://x", "is not udp://"),
            ("tcp+tls://x:6514", "TLS"),
            ("unix:///dev/log", "socket of the host"),
            ("tcp://:514", "names no host"),
            ("tcp://x:many", "no port"),
        ] {
            let error = Address::parse(text).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
