//! Plans and the packet filter on the real kernel, in namespaces of the tests' own: nothing of the host's is touched.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use ipnet::IpNet;
use nix::sched::{CloneFlags, unshare};
use sampan_network::plan::{Address, Intent, Link, LinkKind, Place, Route, Step, Veth};
use sampan_network::{
    Executor, Filter, HostSide, Joined, Links, NetlinkError, Protocol, Publish, Purpose, Rules, SubnetRule, Wanted,
    create_netns, ensure_forwarding, inside, is_netns, remove_netns, validate,
};

/// A host of the test's own, on a thread of its own.
fn on_a_host(test: impl FnOnce(&Host) + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let handle = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        Links::open().unwrap().set_up(1).unwrap();
        ensure_forwarding(false).unwrap();
        ensure_forwarding(true).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let host = Host {
            folder,
            executor: Executor::open("ab12cd").unwrap(),
            outside: Executor::open("0utsid").unwrap(),
            filter: Filter::open("ab12cd").unwrap(),
        };
        test(&host);
        for entry in std::fs::read_dir(host.folder.path()).unwrap() {
            remove_netns(&entry.unwrap().path()).unwrap();
        }
    });
    handle.join().unwrap();
}

struct Host {
    folder: tempfile::TempDir,
    executor: Executor,
    /// Another engine, as whose endpoint the outside world is played.
    outside: Executor,
    filter: Filter,
}

struct Network {
    id: String,
    subnets: Vec<SubnetRule>,
    side: HostSide,
}

struct Endpoint {
    namespace: File,
    path: PathBuf,
    joined: Joined,
}

fn rule(cidr: &str) -> SubnetRule {
    let subnet: IpNet = cidr.parse().unwrap();
    SubnetRule {
        subnet,
        gateway: subnet.hosts().next().filter(|_| subnet.addr().is_ipv4()).or_else(|| subnet.hosts().nth(1)),
    }
}

fn network(executor: &Executor, id: &str, subnets: &[&str], intents: &[&str]) -> Network {
    let subnets: Vec<SubnetRule> = subnets.iter().map(|cidr| rule(cidr)).collect();
    let bridge = || "bridge".to_owned();
    let mut steps = vec![Step::Link(Link {
        label: bridge(),
        kind: LinkKind::Bridge,
        place: Place::Host,
        mtu: None,
        mac: None,
        master: None,
    })];
    for rule in &subnets {
        let cidr = format!("{}/{}", rule.gateway.unwrap(), rule.subnet.prefix_len());
        steps.push(Step::Address(Address { label: bridge(), cidr }));
        if !intents.contains(&"internal") {
            steps.push(Step::Filter(Intent::Masquerade(rule.subnet.to_string())));
        }
    }
    steps.push(Step::Up(bridge()));
    for intent in intents {
        steps.push(Step::Filter(match *intent {
            "isolate" => Intent::Isolate(bridge()),
            "internal" => Intent::Internal(bridge()),
            _ => Intent::NoInterContainer(bridge()),
        }));
    }
    let plan =
        validate(&steps, &Rules { purpose: Purpose::Network, subnets: &subnets, parents: &[], locals: &[] }).unwrap();
    let side = executor.ensure_network(id, None, &plan, &subnets).unwrap();
    assert_eq!(executor.ensure_network(id, None, &plan, &subnets).unwrap(), side, "twice is the same");
    Network { id: id.to_owned(), subnets, side }
}

impl Host {
    fn network(&self, id: &str, subnets: &[&str], intents: &[&str]) -> Network {
        network(&self.executor, id, subnets, intents)
    }

    fn join(&self, executor: &Executor, network: &Network, id: &str, addresses: &[&str]) -> Endpoint {
        let path = self.folder.path().join(id);
        create_netns(&path).unwrap();
        let namespace = File::open(&path).unwrap();
        let leased: Vec<IpNet> = addresses.iter().map(|cidr| cidr.parse().unwrap()).collect();
        let mut steps = vec![
            Step::Link(Link {
                label: "host".into(),
                kind: LinkKind::Veth(Veth { peer_label: "inside".into(), peer_place: Place::Endpoint }),
                place: Place::Host,
                mtu: None,
                mac: None,
                master: Some("bridge".into()),
            }),
            Step::Rename("inside".into(), "eth0".into()),
            Step::Up("host".into()),
        ];
        steps.extend(
            addresses.iter().map(|cidr| Step::Address(Address { label: "inside".into(), cidr: (*cidr).to_owned() })),
        );
        steps.push(Step::Up("inside".into()));
        for rule in &network.subnets {
            let everywhere = if rule.subnet.addr().is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            let gateway = rule.gateway.map(|address| address.to_string());
            steps.push(Step::Route(Route { destination: everywhere.into(), gateway, label: None }));
        }
        let purpose = Purpose::Endpoint { network: &network.side.labels, addresses: &leased };
        let plan = validate(&steps, &Rules { purpose, subnets: &network.subnets, parents: &[], locals: &[] }).unwrap();
        let joined = executor.join(id, &namespace, &plan, &network.side).unwrap();
        Endpoint { namespace, path, joined }
    }

    /// The instance's own networks are known to the filter.
    fn filtered(&self, networks: &[&Network], publishes: &[Publish]) {
        let networks = networks.iter().map(|network| (network.id.clone(), network.side.filter.clone())).collect();
        self.filter.rebuild(&Wanted { networks, publishes: publishes.to_vec(), ..Wanted::default() }).unwrap();
    }
}

/// Answers each connection with the address that it came from.
fn serve(endpoint: &Endpoint, at: &str) {
    let listener = inside(&endpoint.namespace, || TcpListener::bind(at)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip().to_string();
            let _ = stream.write_all(peer.as_bytes());
        }
    });
}

fn ask(at: &str) -> Option<IpAddr> {
    let at: SocketAddr = at.parse().unwrap();
    // A first packet that is lost is sent again after a second.
    let mut stream = TcpStream::connect_timeout(&at, Duration::from_millis(1500)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.parse().ok()
}

fn ask_from(endpoint: &Endpoint, at: &str) -> Option<IpAddr> {
    inside(&endpoint.namespace, || Ok(ask(at))).unwrap()
}

fn ip(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

fn tcp(host: &str, target: &str) -> Publish {
    Publish { protocol: Protocol::Tcp, host: host.parse().unwrap(), target: target.parse().unwrap() }
}

#[test]
fn endpoints_reach_what_they_should_and_nothing_else() {
    on_a_host(|host| {
        let a = host.network("a", &["172.18.0.0/16", "fd00:a::/64"], &["isolate"]);
        let b = host.network("b", &["172.19.0.0/16", "fd00:b::/64"], &["isolate"]);
        let world = network(&host.outside, "world", &["10.9.0.0/24", "fd00:9::/64"], &[]);
        let a1 = host.join(&host.executor, &a, "a1", &["172.18.0.2/16", "fd00:a::2/64"]);
        let a2 = host.join(&host.executor, &a, "a2", &["172.18.0.3/16", "fd00:a::3/64"]);
        let b1 = host.join(&host.executor, &b, "b1", &["172.19.0.2/16", "fd00:b::2/64"]);
        let out = host.join(&host.outside, &world, "out", &["10.9.0.2/24", "fd00:9::2/64"]);
        for endpoint in [&a1, &a2, &b1, &out] {
            serve(endpoint, "[::]:80");
        }
        let own = TcpListener::bind("[::1]:8080").unwrap();
        let publishes = [
            tcp("0.0.0.0:8080", "172.18.0.2:80"),
            tcp("127.0.0.1:8081", "172.18.0.2:80"),
            tcp("10.9.0.1:8082", "172.19.0.2:80"),
            tcp("[::]:8080", "[fd00:a::2]:80"),
        ];
        host.filtered(&[&a, &b], &publishes);

        // Mapped addresses: the servers listen on both families.
        let mapped = |text: &str| ip(&format!("::ffff:{text}"));
        assert_eq!(ask_from(&a1, "172.18.0.3:80"), mapped("172.18.0.2"), "within a network");
        assert_eq!(ask_from(&a1, "[fd00:a::3]:80"), ip("fd00:a::2"), "within a network, IPv6");
        assert_eq!(ask_from(&a1, "172.19.0.2:80"), None, "isolation");
        assert_eq!(ask_from(&b1, "172.18.0.2:80"), None, "isolation, other direction");
        assert_eq!(ask_from(&b1, "[fd00:a::2]:80"), None, "isolation, IPv6");
        assert_eq!(ask_from(&a1, "10.9.0.2:80"), mapped("10.9.0.1"), "leaves under the host's address");
        assert_eq!(ask_from(&a1, "[fd00:9::2]:80"), ip("fd00:9::1"), "leaves under the host's address, IPv6");
        assert_eq!(ask_from(&out, "172.18.0.3:80"), None, "not published");
        assert_eq!(ask_from(&out, "172.18.0.2:80"), None, "published, but not under this address");
        assert_eq!(ask_from(&out, "[fd00:a::3]:80"), None, "not published, IPv6");

        assert_eq!(ask_from(&out, "10.9.0.1:8080"), mapped("10.9.0.2"), "published");
        assert_eq!(ask_from(&out, "[fd00:9::1]:8080"), ip("fd00:9::2"), "published, IPv6");
        assert_eq!(ask_from(&out, "10.9.0.1:8082"), mapped("10.9.0.2"), "published on one address");
        assert_eq!(ask_from(&out, "10.9.0.1:8081"), None, "published on loopback only");
        assert_eq!(ask("127.0.0.1:8080"), mapped("172.18.0.1"), "by the host's loopback");
        assert_eq!(ask("127.0.0.1:8081"), mapped("172.18.0.1"), "by the host's loopback alone");
        assert_eq!(ask("10.9.0.1:8080"), mapped("10.9.0.1"), "by the host's own address");
        assert_eq!(ask("[fd00:9::1]:8080"), ip("fd00:9::1"), "by the host's own address, IPv6");
        TcpStream::connect("[::1]:8080").unwrap();
        own.accept().unwrap();
        assert_eq!(ask("127.0.0.1:8082"), None, "published on another address");
        assert_eq!(ask_from(&a1, "10.9.0.1:8080"), mapped("172.18.0.1"), "hairpin to itself");
        assert_eq!(ask_from(&a2, "10.9.0.1:8080"), mapped("172.18.0.1"), "hairpin to a neighbour");
        assert_eq!(ask_from(&a2, "[fd00:9::1]:8080"), ip("fd00:a::1"), "hairpin to a neighbour, IPv6");
        assert_eq!(ask_from(&b1, "10.9.0.1:8080"), mapped("172.18.0.1"), "from another network by the host");
        assert_eq!(ask_from(&b1, "172.19.0.1:8080"), mapped("172.18.0.1"), "from another network by its gateway");

        host.filter.unpublish(&publishes[..1]).unwrap();
        assert_eq!(ask_from(&out, "10.9.0.1:8080"), None, "withdrawn");
        host.filter.publish(&publishes[..1]).unwrap();
        assert_eq!(ask_from(&out, "10.9.0.1:8080"), mapped("10.9.0.2"), "published again");
        let taken: NetlinkError = host
            .filter
            .publish(&[tcp("0.0.0.0:9000", "172.18.0.3:80"), tcp("0.0.0.0:8080", "172.18.0.3:80")])
            .unwrap_err();
        assert_eq!(taken.errno(), Some(libc::EEXIST));
        host.filter.remove_network(&b.side.filter).unwrap();
        host.filter.add_network(&b.side.filter).unwrap();
        assert_eq!(ask_from(&a1, "172.19.0.2:80"), None, "isolation again");

        for (endpoint, network) in [(&a1, &a), (&a2, &a), (&b1, &b)] {
            host.executor.leave(&endpoint.joined, Some(&endpoint.namespace)).unwrap();
            host.executor.leave(&endpoint.joined, Some(&endpoint.namespace)).unwrap();
            host.executor.remove_network(&network.side).unwrap();
        }
        assert_eq!(host.executor.marked().unwrap(), []);
        assert_eq!(host.outside.marked().unwrap().len(), 2, "what is another's stays");
        assert!(host.filter.exists().unwrap());
        host.filter.drop_table().unwrap();
        assert!(!host.filter.exists().unwrap());
    });
}

#[test]
fn a_flow_of_datagrams_follows_the_port() {
    on_a_host(|host| {
        let a = host.network("a", &["172.18.0.0/16"], &["isolate"]);
        let world = network(&host.outside, "world", &["10.9.0.0/24"], &[]);
        let a1 = host.join(&host.executor, &a, "a1", &["172.18.0.2/16"]);
        let a2 = host.join(&host.executor, &a, "a2", &["172.18.0.3/16"]);
        let out = host.join(&host.outside, &world, "out", &["10.9.0.2/24"]);
        for (endpoint, name) in [(&a1, "a1"), (&a2, "a2")] {
            let socket = inside(&endpoint.namespace, || UdpSocket::bind("0.0.0.0:53")).unwrap();
            thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(name.as_bytes(), from);
                }
            });
        }
        // One sender with one port, as a resolver that has begun before the port was published.
        let client = inside(&out.namespace, || UdpSocket::bind("0.0.0.0:5555")).unwrap();
        let ask_for = |time: Duration| {
            client.set_read_timeout(Some(time)).unwrap();
            let mut buffer = [0; 64];
            client.send_to(b"?", "10.9.0.1:53").unwrap();
            let (length, _) = client.recv_from(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
        };
        // An answer is waited for as long as a slow machine needs.
        let (ask, nobody) = (|| ask_for(Duration::from_secs(30)), || ask_for(Duration::from_millis(300)).is_none());
        let udp = |target: &str| Publish { protocol: Protocol::Udp, ..tcp("0.0.0.0:53", target) };
        host.filtered(&[&a], &[]);
        assert!(nobody());
        let (first, second) = ([udp("172.18.0.2:53")], [udp("172.18.0.3:53")]);
        host.filter.publish(&first).unwrap();
        assert_eq!(ask().as_deref(), Some("a1"));
        host.filter.unpublish(&first).unwrap();
        assert!(nobody());
        host.filter.publish(&second).unwrap();
        assert_eq!(ask().as_deref(), Some("a2"));
    });
}

#[test]
fn internal_and_separated_networks_are_closed() {
    on_a_host(|host| {
        let inner = host.network("inner", &["172.20.0.0/16"], &["isolate", "internal"]);
        let apart = host.network("apart", &["172.21.0.0/16"], &["isolate", "no-inter-container"]);
        let world = network(&host.outside, "world", &["10.9.0.0/24"], &[]);
        let i1 = host.join(&host.executor, &inner, "i1", &["172.20.0.2/16"]);
        let i2 = host.join(&host.executor, &inner, "i2", &["172.20.0.3/16"]);
        let p1 = host.join(&host.executor, &apart, "p1", &["172.21.0.2/16"]);
        let p2 = host.join(&host.executor, &apart, "p2", &["172.21.0.3/16"]);
        let out = host.join(&host.outside, &world, "out", &["10.9.0.2/24"]);
        for endpoint in [&i1, &i2, &p1, &p2, &out] {
            serve(endpoint, "0.0.0.0:80");
        }
        host.filtered(&[&inner, &apart], &[tcp("0.0.0.0:8080", "172.21.0.3:80")]);
        assert_eq!(ask_from(&i1, "172.20.0.3:80"), ip("172.20.0.2"));
        assert_eq!(ask_from(&i1, "10.9.0.2:80"), None, "internal, outwards");
        assert_eq!(ask_from(&out, "172.20.0.2:80"), None, "internal, inwards");
        assert_eq!(ask_from(&i1, "10.9.0.1:8080"), None, "internal, by a published port");
        assert_eq!(ask_from(&p1, "172.21.0.3:80"), None, "no traffic between endpoints");
        assert_eq!(ask_from(&p1, "10.9.0.2:80"), ip("10.9.0.1"), "but outwards");
        assert_eq!(ask_from(&p1, "10.9.0.1:8080"), ip("172.21.0.1"), "and to what is published");
        assert_eq!(ask("172.20.0.2:80"), ip("172.20.0.1"), "the host reaches its own");
    });
}

#[test]
fn what_fails_leaves_nothing() {
    on_a_host(|host| {
        let a = host.network("a", &["172.18.0.0/16"], &["isolate"]);
        let first = host.join(&host.executor, &a, "a1", &["172.18.0.2/16"]);
        let count = Links::open().unwrap().list().unwrap().len();
        // The name inside is taken.
        let steps = [
            Step::Link(Link {
                label: "x".into(),
                kind: LinkKind::Veth(Veth { peer_label: "y".into(), peer_place: Place::Endpoint }),
                place: Place::Host,
                mtu: None,
                mac: None,
                master: Some("bridge".into()),
            }),
            Step::Rename("y".into(), "eth0".into()),
        ];
        let purpose = Purpose::Endpoint { network: &a.side.labels, addresses: &[] };
        let plan = validate(&steps, &Rules { purpose, subnets: &a.subnets, parents: &[], locals: &[] }).unwrap();
        let error = host.executor.join("other", &first.namespace, &plan, &a.side).unwrap_err();
        assert!(error.to_string().contains("eth0 in the endpoint"), "{error}");
        // A route that the kernel refuses.
        let steps = [
            steps[0].clone(),
            Step::Rename("y".into(), "eth1".into()),
            Step::Route(Route {
                destination: "0.0.0.0/0".into(),
                gateway: Some("172.18.9.9".into()),
                label: Some("y".into()),
            }),
        ];
        let plan = validate(&steps, &Rules { purpose, subnets: &a.subnets, parents: &[], locals: &[] }).unwrap();
        let error = host.executor.join("other", &first.namespace, &plan, &a.side).unwrap_err();
        assert!(error.to_string().contains("route to 0.0.0.0/0"), "{error}");
        assert_eq!(Links::open().unwrap().list().unwrap().len(), count);
        assert!(is_netns(&first.path));
        create_netns(&first.path).unwrap();
        remove_netns(&first.path).unwrap();
        remove_netns(&first.path).unwrap();
        assert!(!first.path.exists());
        // A join that was cut off is done again.
        let again = host.join(&host.executor, &a, "a1", &["172.18.0.2/16"]);
        assert_eq!(again.joined.host, first.joined.host);
        assert_eq!(host.executor.marked().unwrap().len(), 2);
        assert!(!host.executor.host_routes().unwrap().contains(&"172.18.0.0/16".parse().unwrap()));
    });
}

#[test]
fn an_abandoned_endpoint_gives_its_address_free_at_once() {
    on_a_host(|host| {
        let a = host.network("a", &["172.18.0.0/16"], &["isolate"]);
        host.filtered(&[&a], &[]);
        let before = Links::open().unwrap().list().unwrap().len();
        for round in 0..5 {
            let endpoint = host.join(&host.executor, &a, &format!("t{round}"), &["172.18.0.2/16"]);
            serve(&endpoint, "0.0.0.0:80");
            // The host may take a moment to forget the hardware address of the one before.
            let answered = (0..20).any(|_| ask("172.18.0.2:80") == ip("172.18.0.1"));
            assert!(answered, "round {round}");
            // The servers' sockets hold the namespaces: all of them live on.
            host.executor.abandon(&endpoint.joined).unwrap();
            host.executor.abandon(&endpoint.joined).unwrap();
            remove_netns(&endpoint.path).unwrap();
        }
        assert_eq!(ask("172.18.0.2:80"), None, "none of them is reached");
        let endpoint = host.join(&host.executor, &a, "last", &["172.18.0.3/16"]);
        host.executor.abandon(&endpoint.joined).unwrap();
        remove_netns(&endpoint.path).unwrap();
        drop(endpoint);
        let gone = (0..1200).any(|_| {
            thread::sleep(Duration::from_millis(50));
            Links::open().unwrap().list().unwrap().len() == before + 5
        });
        assert!(gone, "the kernel removes the links");
    });
}

/// What the steps of a start and an end cost; for reading, not for judging.
#[test]
#[ignore = "a measurement"]
fn times() {
    use std::time::Instant;
    on_a_host(|host| {
        let a = host.network("a", &["172.18.0.0/16"], &["isolate"]);
        host.filtered(&[&a], &[]);
        for round in 0..20 {
            let id = format!("t{round}");
            let start = Instant::now();
            create_netns(&host.folder.path().join(&id)).unwrap();
            let made = start.elapsed();
            let endpoint = host.join(&host.executor, &a, &id, &["172.18.0.2/16"]);
            let joined = start.elapsed() - made;
            let publish = [tcp("0.0.0.0:8080", "172.18.0.2:80"), tcp("[::]:8080", "[fd00::2]:80")];
            host.filter.publish(&publish).unwrap();
            let published = start.elapsed() - made - joined;
            host.filter.unpublish(&publish).unwrap();
            let before = Instant::now();
            host.executor.abandon(&endpoint.joined).unwrap();
            let left = before.elapsed();
            drop(endpoint.namespace);
            remove_netns(&endpoint.path).unwrap();
            eprintln!(
                "namespace {made:?} join {joined:?} publish {published:?} leave {left:?} remove {:?}",
                before.elapsed() - left
            );
        }
    });
}

#[test]
fn the_first_packet_arrives() {
    on_a_host(|host| {
        for round in 0..20 {
            let (id, subnet) = (format!("n{round}"), format!("172.{}.0.0/16", 18 + round % 10));
            let network = host.network(&id, &[&subnet], &[]);
            let address = |last: u8| subnet.replace(".0.0/16", &format!(".0.{last}/16"));
            let first = host.join(&host.executor, &network, &format!("{id}a"), &[&address(2)]);
            let second = host.join(&host.executor, &network, &format!("{id}b"), &[&address(3)]);
            let at = address(3).replace("/16", ":99");
            let server = inside(&second.namespace, || UdpSocket::bind("0.0.0.0:99")).unwrap();
            server.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            for from in ["an endpoint", "the host"] {
                if from == "the host" {
                    UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", &at).unwrap();
                } else {
                    inside(&first.namespace, || UdpSocket::bind("0.0.0.0:0")?.send_to(b"x", &at)).unwrap();
                }
                assert!(server.recv_from(&mut [0; 8]).is_ok(), "from {from} in round {round}");
            }
            host.executor.leave(&first.joined, None::<&File>).unwrap();
            host.executor.leave(&second.joined, None::<&File>).unwrap();
            host.executor.remove_network(&network.side).unwrap();
        }
    });
}

/// Whoever dies between the making of a link and its marking leaves one with this engine's kind of name and nothing else.
#[test]
fn a_link_that_was_never_marked_is_known_by_its_name() {
    on_a_host(|host| {
        let Ok(added) =
            Command::new("busybox").args(["ip", "link", "add", "spab12cd-aaaaaa", "type", "bridge"]).output()
        else {
            eprintln!("skipped: needs busybox");
            return;
        };
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
        let marked = host.executor.marked().unwrap();
        assert_eq!((marked.len(), marked[0].object.as_str()), (1, ""));
        assert_eq!(host.outside.marked().unwrap(), [], "another's");
        host.executor.remove_marked(&marked[0]).unwrap();
        assert_eq!(host.executor.marked().unwrap(), []);
    });
}

#[test]
fn a_bridge_may_have_a_name_of_the_users() {
    on_a_host(|host| {
        let a = host.network("a", &["172.18.0.0/16"], &[]);
        let plan = |subnets: &[SubnetRule]| {
            let label = || "bridge".to_owned();
            let link =
                Link { label: label(), kind: LinkKind::Bridge, place: Place::Host, mtu: None, mac: None, master: None };
            let steps = [Step::Link(link), Step::Up(label())];
            validate(&steps, &Rules { purpose: Purpose::Network, subnets, parents: &[], locals: &[] }).unwrap()
        };
        let side = host.executor.ensure_network("b", Some("br-mine"), &plan(&[]), &[]).unwrap();
        assert_eq!(side.links["bridge"], "br-mine");
        assert_eq!(host.executor.ensure_network("b", Some("br-mine"), &plan(&[]), &[]).unwrap(), side);
        let error = host.executor.ensure_network("c", Some("br-mine"), &plan(&[]), &[]).unwrap_err();
        assert!(error.to_string().contains("br-mine exists and is not this engine's"), "{error}");
        assert_eq!(host.executor.marked().unwrap().len(), 2, "and nothing is left of it");
        host.executor.remove_network(&side).unwrap();
        host.executor.remove_network(&a.side).unwrap();
        assert_eq!(host.executor.marked().unwrap(), []);
    });
}

#[test]
fn a_list_is_whole_while_links_come_and_go() {
    on_a_host(|host| {
        // Enough for a list that the kernel tells in several pieces.
        let standing: Vec<Network> = (0..60)
            .map(|number| network(&host.executor, &format!("n{number}"), &[&format!("10.90.{number}.0/24")], &[]))
            .collect();
        let churning = thread::spawn(|| {
            let outside = Executor::open("0utsid").unwrap();
            for number in 0..150 {
                let coming = network(&outside, &format!("c{number}"), &["10.91.0.0/24"], &[]);
                outside.remove_network(&coming.side).unwrap();
            }
        });
        let mut lists = 0;
        while !churning.is_finished() {
            let marked = host.executor.marked().unwrap();
            assert_eq!(marked.len(), standing.len());
            lists += 1;
        }
        churning.join().unwrap();
        assert!(lists > 0);
        for network in standing {
            host.executor.remove_network(&network.side).unwrap();
        }
    });
}
