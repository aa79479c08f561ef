//! The name server of a sandbox: 127.0.0.11 port 53 in its namespace, answered by the daemon.
//!
//! Names of the sandbox's networks are answered from [`Names`]; everything else goes to the servers above, from the
//! host's namespace, with an id and a port of its own for each question. What comes from inside is hostile: answers
//! are never questions, questions in flight are bounded, and every one ends in time.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::names::{Names, View};
use crate::netns::inside;

/// Where the server listens in each sandbox.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
const PORT: u16 = 53;
/// Seconds that an answer may be kept.
const TTL: u32 = 60;
/// Questions of one sandbox that wait for servers above.
const IN_FLIGHT: usize = 512;
/// Connections of one sandbox.
const CONNECTIONS: usize = 64;
/// How long one server above may take.
const ONE_SERVER: Duration = Duration::from_millis(1800);
/// How long a question may take with all servers: less than the 5 seconds after which resolvers ask again.
const ALL_SERVERS: Duration = Duration::from_millis(4500);
const IDLE: Duration = Duration::from_secs(10);
/// Datagrams are not longer where EDNS is used with sense.
const DATAGRAM: usize = 4096;

/// Who answers what the networks do not know.
#[derive(Debug, Clone)]
pub enum Upstream {
    /// Nobody: an internal network's sandbox.
    Nobody,
    /// The host's servers, as they are at the time of the question.
    Host(Arc<HostResolver>),
    /// `--dns`.
    Servers(Vec<SocketAddr>),
}

impl Upstream {
    fn servers(&self) -> Vec<SocketAddr> {
        match self {
            Self::Nobody => Vec::new(),
            Self::Host(host) => host.servers(),
            Self::Servers(servers) => servers.clone(),
        }
    }
}

/// What a `resolv.conf` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    pub servers: Vec<IpAddr>,
    pub search: Vec<String>,
    pub options: Vec<String>,
}

impl ResolvConf {
    /// Reads the text; lines that make no sense are passed over, as resolvers do.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    // A scope (`fe80::1%eth0`) means nothing elsewhere.
                    conf.servers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()));
                }
                // The last one of these counts.
                Some("search" | "domain") => conf.search = words.map(str::to_owned).collect(),
                Some("options") => conf.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        conf
    }
}

/// The host's `resolv.conf`, read again when it has changed.
#[derive(Debug)]
pub struct HostResolver {
    path: PathBuf,
    read: Mutex<Option<(SystemTime, ResolvConf)>>,
}

impl HostResolver {
    /// Of `path`, which need not exist.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), read: Mutex::default() }
    }

    /// What it says now; nothing when it cannot be read.
    #[must_use]
    pub fn conf(&self) -> ResolvConf {
        let changed = fs::metadata(&self.path).and_then(|found| found.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        match &*read {
            Some((then, conf)) if *then == changed => conf.clone(),
            _ => {
                let conf = ResolvConf::parse(&fs::read_to_string(&self.path).unwrap_or_default());
                *read = Some((changed, conf.clone()));
                conf
            }
        }
    }

    fn servers(&self) -> Vec<SocketAddr> {
        let conf = self.conf();
        // Without a server the resolver's default is this host.
        let servers = if conf.servers.is_empty() { vec![IpAddr::V4(Ipv4Addr::LOCALHOST)] } else { conf.servers };
        servers.into_iter().map(|address| SocketAddr::new(address, PORT)).collect()
    }
}

/// A sandbox's name server; it ends when the value is dropped.
#[derive(Debug)]
pub struct DnsServer {
    zone: Arc<Zone>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Zone {
    names: Arc<Names>,
    view: RwLock<View>,
    upstream: RwLock<Upstream>,
    turn: AtomicUsize,
    in_flight: Arc<Semaphore>,
}

impl DnsServer {
    /// Opens the sockets in the sandbox's namespace and serves them on the current runtime. Blocks for a moment: call it
    /// from a thread that may.
    pub fn open(
        runtime: &tokio::runtime::Handle,
        namespace: &File,
        names: Arc<Names>,
        view: View,
        upstream: Upstream,
    ) -> io::Result<Self> {
        let (udp, tcp) = inside(namespace, || {
            let udp = std::net::UdpSocket::bind((ADDRESS, PORT))?;
            let tcp = std::net::TcpListener::bind((ADDRESS, PORT))?;
            udp.set_nonblocking(true)?;
            tcp.set_nonblocking(true)?;
            Ok((udp, tcp))
        })?;
        let zone = Arc::new(Zone {
            names,
            view: RwLock::new(view),
            upstream: RwLock::new(upstream),
            turn: AtomicUsize::new(0),
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT)),
        });
        let entered = runtime.enter();
        let udp = Arc::new(UdpSocket::from_std(udp)?);
        let tcp = TcpListener::from_std(tcp)?;
        drop(entered);
        let mut tasks = JoinSet::new();
        tasks.spawn_on(serve_datagrams(Arc::clone(&zone), udp), runtime);
        tasks.spawn_on(serve_streams(Arc::clone(&zone), tcp), runtime);
        Ok(Self { zone, _tasks: tasks })
    }

    /// The sandbox has joined or left a network.
    pub fn set_view(&self, view: View, upstream: Upstream) {
        *self.zone.view.write().unwrap_or_else(PoisonError::into_inner) = view;
        *self.zone.upstream.write().unwrap_or_else(PoisonError::into_inner) = upstream;
    }
}

async fn serve_datagrams(zone: Arc<Zone>, socket: Arc<UdpSocket>) {
    let mut buffer = vec![0; DATAGRAM];
    let mut waiting = JoinSet::new();
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            // Such as a report about an answer that nobody took.
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        while waiting.try_join_next().is_some() {}
        let Some(asked) = Asked::read(&buffer[..length]) else { continue };
        let limit = usize::from(asked.message.max_payload().clamp(512, 4096));
        match zone.local(&asked) {
            Some(answer) => {
                let _ = socket.send_to(&encode(&answer, limit), from).await;
            }
            None => match Arc::clone(&zone.in_flight).try_acquire_owned() {
                Err(_) => {
                    let _ = socket.send_to(&encode(&asked.refusal(ResponseCode::ServFail), limit), from).await;
                }
                Ok(permit) => {
                    let (zone, socket) = (Arc::clone(&zone), Arc::clone(&socket));
                    waiting.spawn(async move {
                        let answer = zone.forward(&asked, false).await;
                        let _ = socket.send_to(&answer, from).await;
                        drop(permit);
                    });
                }
            },
        }
    }
}

async fn serve_streams(zone: Arc<Zone>, listener: TcpListener) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        let zone = Arc::clone(&zone);
        connections.spawn(async move {
            let _ = serve_stream(&zone, stream).await;
            drop(permit);
        });
    }
}

async fn serve_stream(zone: &Zone, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let Ok(question) = timeout(IDLE, read_framed(&mut stream)).await? else { return Ok(()) };
        let Some(asked) = Asked::read(&question) else { return Ok(()) };
        let answer = match zone.local(&asked) {
            Some(answer) => encode(&answer, usize::from(u16::MAX)),
            None => match zone.in_flight.try_acquire() {
                Ok(_permit) => zone.forward(&asked, true).await,
                Err(_) => encode(&asked.refusal(ResponseCode::ServFail), usize::from(u16::MAX)),
            },
        };
        timeout(IDLE, write_framed(&mut stream, &answer)).await??;
    }
}

async fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_framed(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::Error::other("an answer of more than 64 KiB"))?;
    let framed = [&length.to_be_bytes()[..], message].concat();
    stream.write_all(&framed).await
}

/// A question as it came.
struct Asked {
    message: Message,
    query: Query,
    bytes: Vec<u8>,
}

impl Asked {
    /// `None` for what gets no answer: rubbish, and answers.
    fn read(bytes: &[u8]) -> Option<Self> {
        let message = Message::from_vec(bytes).ok()?;
        if message.metadata.message_type != MessageType::Query {
            return None;
        }
        let query = message.queries.first().cloned()?;
        Some(Self { message, query, bytes: bytes.to_vec() })
    }

    fn answer(&self) -> Message {
        let mut answer = Message::response(self.message.metadata.id, self.message.metadata.op_code);
        answer.metadata.recursion_desired = self.message.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        answer.add_query(self.query.clone());
        answer
    }

    fn refusal(&self, code: ResponseCode) -> Message {
        let mut answer = self.answer();
        answer.metadata.response_code = code;
        answer
    }
}

/// An answer too long for the way it goes is cut, and says so.
fn encode(answer: &Message, limit: usize) -> Vec<u8> {
    match answer.to_vec() {
        Ok(bytes) if bytes.len() <= limit => bytes,
        _ => answer.truncate().to_vec().unwrap_or_default(),
    }
}

impl Zone {
    /// The answer, if it is this server's to give.
    fn local(&self, asked: &Asked) -> Option<Message> {
        if asked.message.metadata.op_code != OpCode::Query {
            return Some(asked.refusal(ResponseCode::NotImp));
        }
        let query = &asked.query;
        if query.query_class() != DNSClass::IN || asked.message.queries.len() != 1 {
            return Some(asked.refusal(ResponseCode::Refused));
        }
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        if query.query_type() == RecordType::PTR {
            let name = self.names.name_of(&view, reversed(query.name())?)?;
            let name = Name::from_ascii(&name).ok()?;
            let mut answer = asked.answer();
            answer.add_answer(Record::from_rdata(query.name().clone(), TTL, RData::PTR(PTR(name))));
            return Some(answer);
        }
        let addresses = self.names.addresses(&view, &query.name().to_ascii())?;
        drop(view);
        let mut answer = asked.answer();
        let mut records: Vec<RData> = addresses
            .into_iter()
            .filter_map(|address| match (query.query_type(), address) {
                (RecordType::A, IpAddr::V4(address)) => Some(RData::A(A(address))),
                (RecordType::AAAA, IpAddr::V6(address)) => Some(RData::AAAA(AAAA(address))),
                _ => None,
            })
            .collect();
        if !records.is_empty() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % records.len();
            records.rotate_left(turn);
        }
        for record in records {
            answer.add_answer(Record::from_rdata(query.name().clone(), TTL, record));
        }
        Some(answer)
    }

    /// The answer of the first server above that gives a good one, or the best refusal.
    async fn forward(&self, asked: &Asked, by_stream: bool) -> Vec<u8> {
        let servers = self.upstream.read().unwrap_or_else(PoisonError::into_inner).servers();
        let mut refused = None;
        let all = async {
            for server in servers {
                match timeout(ONE_SERVER, ask(server, asked, by_stream)).await {
                    Ok(Ok(answer)) => match answer.get(3).map(|flags| flags & 15) {
                        // Server failure, not implemented, refused: another may know.
                        Some(2 | 4 | 5) => refused = Some(answer),
                        _ => return Some(answer),
                    },
                    Ok(Err(error)) => tracing::debug!(%server, %error, "a name server above failed"),
                    Err(_) => tracing::debug!(%server, "a name server above did not answer in time"),
                }
            }
            None
        };
        let answer = timeout(ALL_SERVERS, all).await.ok().flatten();
        answer.or(refused).unwrap_or_else(|| encode(&asked.refusal(ResponseCode::ServFail), DATAGRAM))
    }
}

/// Asks one server, under an id of our own; the answer carries the id of the one who asked.
async fn ask(server: SocketAddr, asked: &Asked, by_stream: bool) -> io::Result<Vec<u8>> {
    let mut question = asked.bytes.clone();
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(io::Error::other)?;
    question[..2].copy_from_slice(&id);
    let mut answer = if by_stream {
        let mut stream = TcpStream::connect(server).await?;
        write_framed(&mut stream, &question).await?;
        let answer = read_framed(&mut stream).await?;
        if !answers(&answer, id, &asked.query) {
            return Err(io::Error::other("an answer to something else"));
        }
        answer
    } else {
        let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        // The kernel chooses a random port; a connected socket takes answers of that server alone.
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
        socket.connect(server).await?;
        socket.send(&question).await?;
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let length = socket.recv(&mut buffer).await?;
            if answers(&buffer[..length], id, &asked.query) {
                buffer.truncate(length);
                break buffer;
            }
        }
    };
    answer[..2].copy_from_slice(&asked.bytes[..2]);
    Ok(answer)
}

/// Whether bytes are an answer with that id to that question.
fn answers(bytes: &[u8], id: [u8; 2], query: &Query) -> bool {
    bytes.get(..2) == Some(&id)
        && Message::from_vec(bytes).is_ok_and(|answer| {
            answer.metadata.message_type == MessageType::Response
                && answer.queries.first().is_some_and(|found| {
                    found.query_type() == query.query_type()
                        && found.name().to_ascii().eq_ignore_ascii_case(&query.name().to_ascii())
                })
        })
}

/// `2.0.18.172.in-addr.arpa.` is 172.18.0.2.
fn reversed(name: &Name) -> Option<IpAddr> {
    let text = name.to_ascii().to_ascii_lowercase();
    if let Some(rest) = text.strip_suffix(".in-addr.arpa.") {
        let mut octets = [0; 4];
        let mut parts = rest.split('.');
        for octet in octets.iter_mut().rev() {
            *octet = parts.next()?.parse().ok()?;
        }
        return parts.next().is_none().then(|| IpAddr::from(octets));
    }
    let rest = text.strip_suffix(".ip6.arpa.")?;
    let mut number = 0_u128;
    let mut count = 0;
    for part in rest.split('.').rev() {
        number = number << 4 | u128::from(u8::from_str_radix(part, 16).ok().filter(|digit| *digit < 16)?);
        count += 1;
    }
    (count == 32).then(|| IpAddr::V6(Ipv6Addr::from(number)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::names::Endpoint;
    use crate::netns::{create_netns, remove_netns};

    fn zone(upstream: Upstream) -> Zone {
        let names = Names::default();
        let addresses = |last: u8| vec![IpAddr::from([172, 18, 0, last]), format!("fd00::{last}").parse().unwrap()];
        for last in 2..=4 {
            names.set(
                "n",
                "net",
                &format!("e{last}"),
                Endpoint {
                    names: vec![format!("web-{last}"), "web".into()],
                    addresses: addresses(last),
                    standby: false,
                },
            );
        }
        names.set(
            "n",
            "net",
            "e9",
            Endpoint { names: vec!["v4".into()], addresses: vec![IpAddr::from([172, 18, 0, 9])], standby: false },
        );
        Zone {
            names: Arc::new(names),
            view: RwLock::new(View { networks: vec!["n".into()], ..View::default() }),
            upstream: RwLock::new(upstream),
            turn: AtomicUsize::new(0),
            in_flight: Arc::new(Semaphore::new(1)),
        }
    }

    fn question(name: &str, kind: RecordType) -> Asked {
        let mut message = Message::query();
        message.metadata.id = 77;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        Asked::read(&message.to_vec().unwrap()).unwrap()
    }

    #[test]
    fn local_names_are_answered_in_turn() {
        let zone = zone(Upstream::Nobody);
        let first = |kind| zone.local(&question("WEB.", kind)).unwrap().answers[0].data.to_string();
        assert_eq!(
            [first(RecordType::A), first(RecordType::A), first(RecordType::A), first(RecordType::A)],
            ["172.18.0.2", "172.18.0.3", "172.18.0.4", "172.18.0.2"]
        );
        assert_eq!(zone.local(&question("web-2.net.", RecordType::AAAA)).unwrap().answers.len(), 1);
        let empty = zone.local(&question("v4.", RecordType::AAAA)).unwrap();
        assert_eq!(
            (empty.answers.len(), empty.metadata.response_code, empty.metadata.id),
            (0, ResponseCode::NoError, 77)
        );
        assert_eq!(zone.local(&question("v4.", RecordType::MX)).unwrap().answers.len(), 0);
        assert!(zone.local(&question("example.com.", RecordType::A)).is_none());
        let pointer = zone.local(&question("3.0.18.172.in-addr.arpa.", RecordType::PTR)).unwrap();
        assert_eq!(pointer.answers[0].data.to_string(), "web-3.net");
        assert!(zone.local(&question("3.0.0.10.in-addr.arpa.", RecordType::PTR)).is_none());
        let six = "3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.";
        assert_eq!(zone.local(&question(six, RecordType::PTR)).unwrap().answers.len(), 1);
    }

    #[test]
    fn rubbish_and_answers_get_nothing_and_long_answers_are_cut() {
        assert!(Asked::read(&[0; 5]).is_none());
        assert!(Asked::read(&Message::response(1, OpCode::Query).to_vec().unwrap()).is_none());
        let names = Names::default();
        for last in 1..=200 {
            names.set(
                "n",
                "net",
                &format!("e{last}"),
                Endpoint {
                    names: vec!["many".into()],
                    addresses: vec![IpAddr::from([10, 0, 0, last])],
                    standby: false,
                },
            );
        }
        let zone = Zone { names: Arc::new(names), ..zone(Upstream::Nobody) };
        let answer = zone.local(&question("many.", RecordType::A)).unwrap();
        let short = Message::from_vec(&encode(&answer, 512)).unwrap();
        assert!(short.metadata.truncation);
        assert_eq!(Message::from_vec(&encode(&answer, 65535)).unwrap().answers.len(), 200);
    }

    #[test]
    fn resolv_conf_is_read_as_resolvers_do() {
        let conf = ResolvConf::parse(
            "# x\nnameserver 10.0.0.1 # y\nnameserver fe80::1%eth0\nnameserver ::1\nsearch a b\ndomain c\noptions ndots:2 edns0\n",
        );
        assert_eq!(conf.servers, ["10.0.0.1".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()]);
        assert_eq!((conf.search, conf.options), (vec!["c".to_owned()], vec!["ndots:2".to_owned(), "edns0".to_owned()]));
    }

    #[tokio::test]
    async fn servers_above_are_asked_in_turn_and_given_up_in_time() {
        let good = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (good_at, silent_at) = (good.local_addr().unwrap(), silent.local_addr().unwrap());
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            loop {
                let (length, from) = good.recv_from(&mut buffer).await.unwrap();
                let asked = Asked::read(&buffer[..length]).unwrap();
                let mut answer = asked.answer();
                answer.add_answer(Record::from_rdata(
                    asked.query.name().clone(),
                    5,
                    RData::A(A(Ipv4Addr::new(9, 9, 9, 9))),
                ));
                // Another's answer first, then rubbish, then the right one.
                let mut wrong = answer.to_vec().unwrap();
                wrong[0] ^= 1;
                good.send_to(&wrong, from).await.unwrap();
                good.send_to(b"rubbish", from).await.unwrap();
                good.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
            }
        });
        let asked = question("example.com.", RecordType::A);
        let both = zone(Upstream::Servers(vec![silent_at, good_at]));
        let answer = Message::from_vec(&both.forward(&asked, false).await).unwrap();
        assert_eq!((answer.metadata.id, answer.answers.len()), (77, 1));
        let before = std::time::Instant::now();
        let none = zone(Upstream::Servers(vec![silent_at; 4]));
        let answer = Message::from_vec(&none.forward(&asked, false).await).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
        assert!(before.elapsed() < Duration::from_secs(60), "the silent are not waited for");
        let answer = Message::from_vec(&zone(Upstream::Nobody).forward(&asked, false).await).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_sandbox_is_served_in_its_namespace() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ns");
        create_netns(&path).unwrap();
        let namespace = File::open(&path).unwrap();
        let names = zone(Upstream::Nobody).names;
        let view = View { networks: vec!["n".into()], ..View::default() };
        let server =
            DnsServer::open(&tokio::runtime::Handle::current(), &namespace, names, view, Upstream::Nobody).unwrap();
        let asked = question("web.", RecordType::A);
        let bytes = asked.bytes.clone();
        let (by_datagram, by_stream) = tokio::task::spawn_blocking(move || {
            inside(&namespace, || {
                use std::io::{Read, Write};
                let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
                socket.set_read_timeout(Some(Duration::from_secs(2)))?;
                socket.send_to(&bytes, (ADDRESS, PORT))?;
                let mut buffer = [0; 512];
                let length = socket.recv(&mut buffer)?;
                let mut stream = std::net::TcpStream::connect((ADDRESS, PORT))?;
                stream.write_all(&[&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat())?;
                let mut framed = [0; 512];
                let read = stream.read(&mut framed)?;
                Ok((buffer[..length].to_vec(), framed[2..read].to_vec()))
            })
        })
        .await
        .unwrap()
        .unwrap();
        for answer in [by_datagram, by_stream] {
            assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), 3);
        }
        drop(server);
        remove_netns(&path).unwrap();
    }
}
