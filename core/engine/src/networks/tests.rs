//! Networks with the drivers that ship, on the real kernel, in a namespace of the test's own.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard_stubs::models::{EndpointIpamConfig, Ipam, IpamConfig, PortBinding};
use nix::sched::{CloneFlags, setns};
use sampan_network::{Executor, Links, create_netns, inside, remove_netns};
use sampan_store::Store;
use tempfile::TempDir;

use super::*;
use crate::EngineConfig;
use crate::events::Events;
use crate::facts::Facts;
use crate::instance::Instance;

struct Host {
    folder: TempDir,
    drivers: PathBuf,
    store: Store,
}

impl Host {
    fn shared(&self) -> Arc<Shared> {
        let (root, run) = (self.folder.path().join("root"), self.folder.path().join("run"));
        let config = EngineConfig::new(root.clone(), run.clone(), self.drivers.clone(), PathBuf::new());
        for directory in [&root, &run.join("netns"), &config.cache()] {
            std::fs::create_dir_all(directory).unwrap();
        }
        let drivers = crate::plugins::open(&config, &self.store).unwrap();
        Arc::new(Shared {
            instance: Instance::of(&root).unwrap(),
            store: self.store.clone(),
            facts: Facts::measure(&root),
            drivers,
            events: Events::default(),
            cgroups: sampan_cgroup::Hierarchy::detect().unwrap(),
            config,
        })
    }

    async fn open(&self) -> Networks {
        Networks::open(&self.shared()).await.unwrap()
    }
}

/// Every thread of the test's runtime is in one new namespace.
fn on_a_host<F: Future<Output = ()>>(test: impl FnOnce(Host) -> F + Send + 'static) {
    let named = std::env::var_os("SAMPAN_DRIVERS").map(PathBuf::from);
    let drivers = named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/debug/drivers"));
    if !nix::unistd::geteuid().is_root() || !drivers.join("network-bridge.wasm").exists() {
        println!("skipped: needs root, and drivers in {}", drivers.display());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("host");
    create_netns(&path).unwrap();
    let namespace = Arc::new(File::open(&path).unwrap());
    let enter = Arc::clone(&namespace);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .on_thread_start(move || setns(&*enter, CloneFlags::CLONE_NEWNET).unwrap())
        .build()
        .unwrap();
    std::thread::scope(|scope| {
        let ran = scope.spawn(|| {
            setns(&*namespace, CloneFlags::CLONE_NEWNET).unwrap();
            runtime.block_on(test(Host { folder, drivers, store: Store::in_memory().unwrap() }));
        });
        let outcome = ran.join();
        remove_netns(&path).unwrap();
        assert!(outcome.is_ok());
    });
}

fn create(name: &str) -> NetworkCreateRequest {
    NetworkCreateRequest { name: name.to_owned(), ..NetworkCreateRequest::default() }
}

fn with_subnet(name: &str, subnet: &str) -> NetworkCreateRequest {
    let config = IpamConfig { subnet: Some(subnet.to_owned()), ..IpamConfig::default() };
    NetworkCreateRequest { ipam: Some(Ipam { config: Some(vec![config]), ..Ipam::default() }), ..create(name) }
}

fn join(container: &str, network: &str) -> Join {
    Join {
        container: format!("{container:0>64}"),
        name: container.to_owned(),
        hostname: String::new(),
        network: network.to_owned(),
        settings: EndpointSettings::default(),
        dns: Vec::new(),
    }
}

async fn start(networks: &Networks, join: Join) -> EndpointSettings {
    networks.create_sandbox(&join.container).await.unwrap();
    networks.join(join).await.unwrap()
}

fn namespace(networks: &Networks, container: &str) -> File {
    File::open(networks.inner.netns(&format!("{container:0>64}"))).unwrap()
}

fn serve(namespace: &File) {
    let listener = inside(namespace, || TcpListener::bind("0.0.0.0:80")).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.write_all(b"hello");
        }
    });
}

fn ask(at: SocketAddr) -> Option<String> {
    // On a busy machine the first packets of a new link may take longer than one try waits.
    (0..4).find_map(|_| ask_once(at))
}

fn ask_once(at: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&at, Duration::from_millis(500)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

/// How many addresses the embedded server knows for a name; `None` when it refuses.
fn resolve(namespace: &File, name: &str) -> Option<u16> {
    let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len()).unwrap());
        question.extend_from_slice(label.as_bytes());
    }
    question.extend_from_slice(&[0, 0, 1, 0, 1]);
    let answer = inside(namespace, || {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(6)))?;
        socket.send_to(&question, "127.0.0.11:53")?;
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer)?;
        Ok(buffer[..length].to_vec())
    });
    let answer = answer.unwrap();
    (answer[3] & 15 == 0).then(|| u16::from_be_bytes([answer[6], answer[7]]))
}

fn message(result: Result<impl std::fmt::Debug>) -> String {
    result.unwrap_err().message
}

fn port(ip: &str, port: &str) -> PortMap {
    let binding = PortBinding { host_ip: Some(ip.to_owned()), host_port: Some(port.to_owned()) };
    PortMap::from([("80/tcp".to_owned(), Some(vec![binding]))])
}

fn chosen(map: &PortMap) -> u16 {
    map["80/tcp"].as_ref().unwrap()[0].host_port.as_ref().unwrap().parse().unwrap()
}

#[test]
fn networks_are_made_refused_and_removed() {
    on_a_host(|host| async move {
        let networks = host.open().await;
        let inner = &networks.inner;
        let names = |filters: &str| {
            let list = inner.list(&Filters::parse(filters).unwrap()).unwrap();
            let mut names: Vec<String> = list.into_iter().filter_map(|network| network.name).collect();
            names.sort();
            names
        };
        assert_eq!(names("{}"), ["bridge", "host", "none"]);
        let default = inner.inspect("default").unwrap().ipam.unwrap().config.unwrap();
        assert_eq!(default[0].subnet.as_deref(), Some("172.17.0.0/16"));
        assert_eq!(default[0].gateway.as_deref(), Some("172.17.0.1"));
        let front = inner.create(create("front")).unwrap().id;
        inner
            .create(NetworkCreateRequest {
                enable_ipv6: Some(true),
                internal: Some(true),
                ..with_subnet("back", "10.77.0.0/24")
            })
            .unwrap();
        assert_eq!(names(r#"{"type":["custom"]}"#), ["back", "front"]);
        assert_eq!(inner.inspect("back").unwrap().ipam.unwrap().config.unwrap().len(), 2);
        assert_eq!(inner.inspect(&front[..7]).unwrap().name.as_deref(), Some("front"));
        assert_eq!(message(inner.create(create("front"))), "network with name front already exists");
        assert!(message(inner.create(create("bridge"))).contains("predefined bridge"));
        assert!(message(inner.create(create("a b"))).contains("invalid network name"));
        let driver =
            |name: &str, driver: &str| NetworkCreateRequest { driver: Some(driver.to_owned()), ..create(name) };
        assert!(message(inner.create(driver("x", "host"))).contains("only one instance"));
        assert!(message(inner.create(driver("x", "teleport"))).contains("no network driver \"teleport\""));
        let overlap = message(inner.create(with_subnet("x", "10.77.0.128/25")));
        assert!(overlap.contains("Pool overlaps") && overlap.contains("network back"), "{overlap}");
        assert!(message(inner.create(with_subnet("x", "10.78.0.1/24"))).contains("it should be 10.78.0.0/24"));
        let options = HashMap::from([("com.docker.network.driver.mtu".to_owned(), "9".to_owned())]);
        let refused = message(inner.create(NetworkCreateRequest { options: Some(options), ..create("x") }));
        assert!(refused.contains("68 to 65535"), "{refused}");
        let options = HashMap::from([("com.docker.network.bridge.name".to_owned(), "br-mine".to_owned())]);
        inner.create(NetworkCreateRequest { options: Some(options), ..create("named") }).unwrap();
        assert!(Links::open().unwrap().find("br-mine").unwrap().is_some());
        assert!(message(inner.remove("bridge")).contains("pre-defined"));
        assert_eq!(message(inner.remove("nothing")), "network nothing not found");
        for name in ["front", "back", "named"] {
            inner.remove(name).unwrap();
        }
        assert_eq!(inner.executor.marked().unwrap().len(), 1, "the default bridge is left");
    });
}

#[test]
fn containers_join_find_each_other_and_are_published() {
    on_a_host(|host| async move {
        let networks = host.open().await;
        let inner = &networks.inner;
        inner.create(with_subnet("app", "10.80.0.0/24")).unwrap();
        let links = || Links::open().unwrap().list().unwrap().len();
        let before = links();
        let aliased = |name: &str| Join {
            settings: EndpointSettings { aliases: Some(vec!["web".to_owned()]), ..EndpointSettings::default() },
            ..join(name, "app")
        };
        let web1 = start(&networks, aliased("web1")).await;
        assert_eq!((web1.ip_address.as_deref(), web1.gateway.as_deref()), (Some("10.80.0.2"), Some("10.80.0.1")));
        assert_eq!(web1.mac_address.as_deref(), Some("02:42:0a:50:00:02"));
        start(&networks, aliased("web2")).await;
        let fixed = EndpointIpamConfig { ipv4_address: Some("10.80.0.99".to_owned()), ..EndpointIpamConfig::default() };
        let settings = EndpointSettings { ipam_config: Some(fixed), ..EndpointSettings::default() };
        let other = start(&networks, Join { settings: settings.clone(), ..join("other", "app") }).await;
        assert_eq!(other.ip_address.as_deref(), Some("10.80.0.99"));
        let taken = message(networks.join(Join { settings, ..join("late", "app") }).await);
        assert!(taken.contains("Address already in use: 10.80.0.99"), "{taken}");
        assert!(message(networks.join(join("web1", "app")).await).contains("already exists in network app"));

        let from = namespace(&networks, "other");
        assert_eq!(resolve(&from, "web"), Some(2));
        assert_eq!(resolve(&from, "web1"), Some(1));
        assert_eq!(resolve(&from, "web1.app"), Some(1));
        networks.renamed(&format!("{:0>64}", "web1"), "renamed").await.unwrap();
        assert_eq!(resolve(&from, "renamed"), Some(1));
        let resolver = networks.resolver(&format!("{:0>64}", "other")).await.unwrap();
        assert_eq!(resolver.servers, ["127.0.0.11"]);

        let web1 = format!("{:0>64}", "web1");
        serve(&namespace(&networks, "web1"));
        let map = networks.publish(&web1, &port("", "18080"), None).await.unwrap();
        assert_eq!(chosen(&map), 18080);
        assert_eq!(map["80/tcp"].as_ref().unwrap().len(), 2, "both families");
        for at in ["127.0.0.1:18080", "[::1]:18080", "10.80.0.1:18080"] {
            assert_eq!(ask(at.parse().unwrap()).as_deref(), Some("hello"), "{at}");
        }
        let web2 = format!("{:0>64}", "web2");
        let taken = message(networks.publish(&web2, &port("", "18080"), None).await);
        assert_eq!(taken, "Bind for 0.0.0.0:18080 failed: port is already allocated (by container renamed)");
        let program = TcpListener::bind("127.0.0.1:18081").unwrap();
        let taken = message(networks.publish(&web2, &port("", "18081"), None).await);
        assert!(taken.contains("address already in use"), "{taken}");
        assert_eq!(chosen(&networks.publish(&web2, &port("127.0.0.1", "18080-18082"), None).await.unwrap()), 18082);
        drop(program);
        inner.unpublish(&web2).unwrap();
        assert!(chosen(&networks.publish(&web2, &port("", ""), None).await.unwrap()) > 1024);

        // Two of a group have one port: each connection goes to whoever is ready, or to all.
        let one = TcpListener::bind("127.0.0.1:18083").unwrap();
        let group = || Some("demo/web".to_owned());
        assert!(message(networks.publish(&web2, &port("", "18083"), group()).await).contains("address already in use"));
        drop(one);
        inner.unpublish(&web1).unwrap();
        inner.unpublish(&web2).unwrap();
        networks.publish(&web1, &port("", "18084"), group()).await.unwrap();
        networks.publish(&web2, &port("", "18084"), group()).await.unwrap();
        let other = format!("{:0>64}", "other");
        let foreign = message(networks.publish(&other, &port("", "18084"), Some("demo/db".to_owned())).await);
        assert!(foreign.contains("port is already allocated"), "{foreign}");
        let reached = |at: &str| (0..32).filter(|_| ask(at.parse().unwrap()).as_deref() == Some("hello")).count();
        // Nobody listens in web2: what is sent there is refused.
        for at in ["127.0.0.1:18084", "10.80.0.1:18084"] {
            // Asked once each: another try would be another connection.
            let hits = (0..32).filter(|_| ask_once(at.parse().unwrap()).as_deref() == Some("hello")).count();
            assert!(0 < hits && hits < 32, "{at}: {hits} of 32 came to the first of two");
        }
        networks.set_ready(&web2, false).await;
        assert_eq!(resolve(&from, "web"), Some(1), "the name means who is ready");
        for at in ["127.0.0.1:18084", "[::1]:18084", "10.80.0.1:18084"] {
            assert_eq!(reached(at), 32, "{at}");
        }
        networks.withdraw(&web1, true).await.unwrap();
        assert_eq!(resolve(&from, "web"), Some(2), "rather one of them than none");
        networks.set_ready(&web2, true).await;
        assert_eq!(reached("127.0.0.1:18084"), 0, "the one that is about to go gets nothing");
        networks.withdraw(&web1, false).await.unwrap();
        inner.unpublish(&web2).unwrap();
        assert_eq!(reached("127.0.0.1:18084"), 32);

        let in_use = message(inner.remove("app"));
        assert!(in_use.contains("has active endpoints") && in_use.contains("renamed"), "{in_use}");
        assert_eq!(inner.inspect("app").unwrap().containers.unwrap().len(), 3);
        for container in ["web1", "web2", "other"] {
            networks.remove_sandbox(&format!("{container:0>64}")).await.unwrap();
            networks.remove_sandbox(&format!("{container:0>64}")).await.unwrap();
        }
        let gone = (0..1200).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            links() <= before + 2
        });
        assert!(gone, "a namespace is kept by its server's socket, and one by this test: {} of {before}", links());
        assert_eq!(ask("127.0.0.1:18080".parse().unwrap()), None);
        inner.remove("app").unwrap();
    });
}

#[test]
fn traffic_leaves_by_the_network_that_leads() {
    on_a_host(|host| async move {
        let networks = host.open().await;
        let inner = &networks.inner;
        inner.create(with_subnet("alpha", "10.81.0.0/24")).unwrap();
        inner.create(with_subnet("beta", "10.82.0.0/24")).unwrap();
        inner.create(NetworkCreateRequest { internal: Some(true), ..with_subnet("closed", "10.83.0.0/24") }).unwrap();
        let id = format!("{:0>64}", "c");
        start(&networks, join("c", "closed")).await;
        networks.join(join("c", "beta")).await.unwrap();
        let map = networks.publish(&id, &port("", "18090"), None).await.unwrap();
        assert_eq!(chosen(&map), 18090);
        let leaves_by = || {
            let namespace = namespace(&networks, "c");
            inside(&namespace, || {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                socket.connect("192.0.2.7:9")?;
                Ok(socket.local_addr()?.ip().to_string())
            })
            .unwrap()
        };
        assert_eq!(leaves_by(), "10.82.0.2");
        networks.join(join("c", "alpha")).await.unwrap();
        assert_eq!(leaves_by(), "10.81.0.2");
        serve(&namespace(&networks, "c"));
        assert_eq!(ask("127.0.0.1:18090".parse().unwrap()).as_deref(), Some("hello"));
        networks.leave(&id, "alpha", false).await.unwrap();
        assert_eq!(leaves_by(), "10.82.0.2");
        assert_eq!(ask("127.0.0.1:18090".parse().unwrap()).as_deref(), Some("hello"));
        assert!(message(networks.leave(&id, "alpha", false).await).contains("is not connected to network alpha"));
        networks.leave(&id, "alpha", true).await.unwrap();
        assert_eq!(networks.endpoints(&id).len(), 2);
        networks.remove_sandbox(&id).await.unwrap();
    });
}

#[test]
fn what_another_program_removes_is_made_again() {
    on_a_host(|host| async move {
        let networks = host.open().await;
        networks.inner.create(with_subnet("app", "10.85.0.0/24")).unwrap();
        start(&networks, join("web", "app")).await;
        let web = format!("{:0>64}", "web");
        serve(&namespace(&networks, "web"));
        networks.publish(&web, &port("", "18110"), None).await.unwrap();
        let at: SocketAddr = "127.0.0.1:18110".parse().unwrap();
        let heals = || {
            (0..600).any(|_| {
                std::thread::sleep(Duration::from_millis(100));
                ask(at).is_some()
            })
        };
        networks.inner.filter.drop_table().unwrap();
        assert!(heals(), "the table");
        let bridge = networks.inner.state().find("app").unwrap().side.links["bridge"].clone();
        Links::open().unwrap().delete(&bridge).unwrap();
        assert!(heals(), "the bridge");
        networks.remove_sandbox(&web).await.unwrap();
    });
}

#[test]
fn what_an_ending_daemon_takes_away_stays_away() {
    on_a_host(|host| async move {
        let networks = host.open().await;
        networks.inner.create(with_subnet("app", "10.86.0.0/24")).unwrap();
        networks.clear().await.unwrap();
        // Longer than removals are waited for before they are looked at.
        std::thread::sleep(Duration::from_millis(600));
        assert_eq!(networks.inner.executor.marked().unwrap(), []);
        assert!(!networks.inner.filter.exists().unwrap());
    });
}

#[test]
fn the_next_daemon_goes_on_where_the_last_one_died() {
    on_a_host(|host| async move {
        let first = host.open().await;
        first.inner.create(with_subnet("app", "10.84.0.0/24")).unwrap();
        start(&first, join("lives", "app")).await;
        start(&first, join("dies", "app")).await;
        let (lives, dies) = (format!("{:0>64}", "lives"), format!("{:0>64}", "dies"));
        serve(&namespace(&first, "lives"));
        first.publish(&lives, &port("", "18100"), None).await.unwrap();
        first.publish(&dies, &port("", "18101"), None).await.unwrap();
        let kept = namespace(&first, "lives");
        first.shutdown().await;
        drop(first);
        assert_eq!(ask("127.0.0.1:18100".parse().unwrap()).as_deref(), Some("hello"), "served without a daemon");
        // Half-made things, and what an unknown daemon of this instance has left.
        let mut half = crate::networks::record::NetworkRecord::clone(
            &host.store.read::<_, Error>(|tx| Ok(record::NETWORKS.all(tx)?)).unwrap()[0].1,
        );
        half.id = "f".repeat(64);
        half.name = "half".to_owned();
        half.stage = record::Stage::Making;
        half.side = sampan_network::HostSide::default();
        host.store
            .write::<_, Error>(sampan_store::Durability::Process, |tx| Ok(record::NETWORKS.put(tx, &half.id, &half)?))
            .unwrap();

        let second = host.open().await;
        second.adopt(&lives, vec!["app".to_owned()]).await.unwrap();
        second.sweep(std::slice::from_ref(&lives)).await.unwrap();
        assert!(second.inner.inspect("half").is_err());
        assert_eq!(resolve(&kept, "lives"), Some(1));
        assert_eq!(ask("127.0.0.1:18100".parse().unwrap()).as_deref(), Some("hello"));
        assert_eq!(ask("[::1]:18100".parse().unwrap()).as_deref(), Some("hello"));
        assert!(second.endpoints(&dies).is_empty());
        assert!(!second.inner.netns(&dies).exists());
        TcpListener::bind("127.0.0.1:18101").unwrap();
        // Two bridges and the live one's outer end.
        let instance = second.inner.shared.instance.as_str().to_owned();
        assert_eq!(Executor::open(&instance).unwrap().marked().unwrap().len(), 3);
        let again = start(&second, join("new", "app")).await;
        assert_eq!(again.ip_address.as_deref(), Some("10.84.0.3"), "the dead one's lease is free");
        for container in ["lives", "new"] {
            second.remove_sandbox(&format!("{container:0>64}")).await.unwrap();
        }
    });
}
