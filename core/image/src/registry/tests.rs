#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::json;

use super::*;
use crate::backend::{LayerBackend, Whiteouts};
use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::reference::ImageRef;
use crate::store::ImageStore;
use crate::testing::{Archive, Fixture, Folders};

/// A store that tasks can share.
struct Shared {
    folder: tempfile::TempDir,
    backend: Arc<Folders>,
    images: Arc<ImageStore>,
}

impl Shared {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let backend = Arc::new(Folders { root: folder.path().join("layers"), form: Whiteouts::Overlay });
        let images = Arc::new(Fixture::open(folder.path(), &backend));
        Self { folder, backend, images }
    }

    fn assert_empty(&self) {
        let count = |path: std::path::PathBuf| std::fs::read_dir(path).map_or(0, Iterator::count);
        self.images.gc().unwrap();
        assert!(self.images.list().is_empty());
        assert_eq!(count(self.folder.path().join("images/blobs/sha256")), 0, "blobs");
        assert_eq!(count(self.folder.path().join("images/blobs/tmp")), 0, "scratch");
        assert_eq!(count(self.folder.path().join("layers")), 0, "layers");
    }
}

fn client() -> RegistryClient {
    RegistryClient::new(RegistryConfig::default())
}

fn reporter() -> (Reporter, mpsc::Receiver<TransferEvent>) {
    let (sender, receiver) = mpsc::channel(1000);
    (Reporter(sender), receiver)
}

async fn try_pull(store: &Shared, name: &str, auth: Option<&RegistryAuth>) -> Result<Pulled, ImageError> {
    let (reporter, _events) = reporter();
    pull(&client(), &store.images, &ImageRef::parse(name).unwrap(), None, auth, &reporter).await
}

// ---- a real registry ----

struct Registry {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Registry {
    /// `None` where there is no such program.
    fn start(password: Option<&str>) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
            folder.path().display()
        );
        if let Some(line) = password {
            let file = folder.path().join("htpasswd");
            std::fs::write(&file, line).unwrap();
            config.push_str(&format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", file.display()));
        }
        let file = folder.path().join("config.yml");
        std::fs::write(&file, config).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let registry = Self { child, port, _folder: folder };
        for _ in 0..200 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(registry);
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("the registry does not answer");
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn make_image(store: &Shared, names: &[ImageRef]) -> Digest {
    let lower = store
        .images
        .add_layer_from_tar(Archive::new().dir("etc").file("etc/a", &"x".repeat(700_000)).done().as_slice(), &[])
        .unwrap();
    let upper = store
        .images
        .add_layer_from_tar(
            Archive::new().dir("etc").file("etc/.wh.a", "").file("b", "b").done().as_slice(),
            &[lower.chain_id],
        )
        .unwrap();
    let config = ImageConfig {
        architecture: crate::config::host_architecture().0.into(),
        os: "linux".into(),
        ..ImageConfig::default()
    };
    store.images.create_image(config, vec![lower, upper], None, names).unwrap().id
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_is_pulled_with_the_same_digests() {
    let Some(registry) = Registry::start(None) else { return };
    let name = ImageRef::parse(&format!("localhost:{}/a/b:1", registry.port)).unwrap();
    let source = Shared::new();
    let id = make_image(&source, std::slice::from_ref(&name));
    let (to, mut events) = reporter();
    let pushed = push(&client(), &source.images, &name, None, &to).await.unwrap();
    assert_eq!(pushed.digest, source.images.get(&id).unwrap().manifest);
    push(&client(), &source.images, &name, None, &to).await.unwrap();
    drop(to);
    let mut states = Vec::new();
    while let Some(event) = events.recv().await {
        states.push(event.status);
    }
    assert!(states.contains(&"Pushed".to_owned()) && states.contains(&"Layer already exists".to_owned()), "{states:?}");

    let target = Shared::new();
    let pulled = try_pull(&target, &name.to_string(), None).await.unwrap();
    assert_eq!((pulled.image.id, pulled.digest, pulled.known), (id, pushed.digest, false));
    assert_eq!(target.images.names(&id), [name.with_digest(pushed.digest), name.clone()]);
    let top = pulled.image.layers[1].chain_id;
    assert!(target.backend.prepare(&top, &[]).unwrap().join("b").exists());
    assert!(try_pull(&target, &name.to_string(), None).await.unwrap().known);
    assert!(try_pull(&target, &name.with_digest(pushed.digest).to_string(), None).await.unwrap().known);
    // Only the name is new.
    let missing = try_pull(&target, &format!("localhost:{}/a/b:2", registry.port), None).await.unwrap_err();
    assert!(matches!(missing, ImageError::NotFound(_)), "{missing}");
    let missing = try_pull(&target, &format!("localhost:{}/a/c:2", registry.port), None).await.unwrap_err();
    assert!(matches!(missing, ImageError::NotFound(_)), "{missing}");
    target.images.delete(&id).unwrap();
    target.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_registry_wants_its_password() {
    // "secret", by bcrypt.
    let Some(registry) = Registry::start(Some("me:$2y$05$2nD3MhZTRtyJ2cVgVZlHu.0d9rXmdmR8Y1e1Wnm9nxvqPzuQKf0Z2\n"))
    else {
        return;
    };
    let name = format!("localhost:{}/p:1", registry.port);
    let store = Shared::new();
    let error = try_pull(&store, &name, None).await.unwrap_err();
    assert!(matches!(error, ImageError::Unauthorized(_)), "{error}");
    let wrong = RegistryAuth { username: "me".into(), password: "wrong-password".into(), ..RegistryAuth::default() };
    let error = try_pull(&store, &name, Some(&wrong)).await.unwrap_err();
    assert!(matches!(error, ImageError::Unauthorized(_)), "{error}");
    assert!(!error.to_string().contains("wrong-password"));
    let server = format!("localhost:{}", registry.port);
    let error = login(&client(), &server, &wrong).await.unwrap_err();
    assert!(matches!(error, ImageError::Unauthorized(_)), "{error}");
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_unreachable() {
    let store = Shared::new();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = try_pull(&store, &format!("127.0.0.1:{port}/x"), None).await.unwrap_err();
    assert!(matches!(error, ImageError::Unreachable(_)), "{error}");
    store.assert_empty();
}

// ---- a hostile one ----

type Answer = Box<dyn Fn(&HashMap<String, String>, usize) -> (String, Vec<u8>) + Send + Sync>;

/// Serves answers by path; each is told the request's headers and how often it was asked before.
struct Hostile {
    port: u16,
    seen: Arc<Mutex<Vec<(String, HashMap<String, String>)>>>,
}

impl Hostile {
    fn start(answers: Vec<(String, Answer)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let answers = Arc::new(answers);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answers, log) = (answers.clone(), log.clone());
                std::thread::spawn(move || drop(Self::serve(stream, &answers, &log)));
            }
        });
        Self { port, seen }
    }

    fn serve(
        mut stream: TcpStream,
        answers: &[(String, Answer)],
        log: &Mutex<Vec<(String, HashMap<String, String>)>>,
    ) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut headers = HashMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((key, value)) = line.trim_end().split_once(": ") else { break };
            headers.insert(key.to_ascii_lowercase(), value.to_owned());
        }
        let before = {
            let mut log = log.lock().unwrap();
            let before = log.iter().filter(|(seen, _)| *seen == path).count();
            log.push((path.clone(), headers.clone()));
            before
        };
        let found = answers.iter().find(|(prefix, _)| path.starts_with(prefix.as_str()));
        let (head, body) = match found {
            Some((_, answer)) => answer(&headers, before),
            None => ("404 Not Found".to_owned(), Vec::new()),
        };
        let length = if head.to_lowercase().contains("content-length") {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        write!(stream, "HTTP/1.1 {head}\r\n{length}Connection: close\r\n\r\n")?;
        stream.write_all(&body)?;
        stream.shutdown(std::net::Shutdown::Write)?;
        drop(stream.read(&mut [0; 1]));
        Ok(())
    }

    fn name(&self) -> String {
        format!("127.0.0.1:{}/x:1", self.port)
    }
}

/// Layer, configuration and manifest of a small image.
struct Small {
    layer: Vec<u8>,
    config: Vec<u8>,
    manifest: Vec<u8>,
}

fn small() -> Small {
    let layer = Archive::new().file("hello", &"hello ".repeat(50_000)).done();
    let diff_id = Digest::of(&layer);
    let config = json!({"architecture": crate::config::host_architecture().0, "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [diff_id]}});
    let config = serde_json::to_vec(&config).unwrap();
    let manifest = manifest_of(&config, &layer);
    Small { layer, config, manifest }
}

fn manifest_of(config: &[u8], layer: &[u8]) -> Vec<u8> {
    serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": crate::manifest::OCI_MANIFEST,
        "config": {"mediaType": crate::manifest::OCI_CONFIG, "digest": Digest::of(config), "size": config.len()},
        "layers": [{"mediaType": crate::manifest::OCI_LAYER, "digest": Digest::of(layer), "size": layer.len()}]}))
    .unwrap()
}

fn fixed(head: &str, body: Vec<u8>) -> Answer {
    let head = head.to_owned();
    Box::new(move |_, _| (head.clone(), body.clone()))
}

fn manifest_answer(body: Vec<u8>) -> Answer {
    fixed("200 OK\r\nContent-Type: application/vnd.oci.image.manifest.v1+json", body)
}

fn paths(small: &Small) -> (String, String) {
    (format!("/v2/x/blobs/{}", Digest::of(&small.layer)), format!("/v2/x/blobs/{}", Digest::of(&small.config)))
}

/// A registry of the small image, with one answer replaced.
fn serve(small: &Small, path: &str, answer: Answer) -> Hostile {
    let (layer, config) = paths(small);
    Hostile::start(vec![
        (path.to_owned(), answer),
        ("/v2/x/manifests/1".to_owned(), manifest_answer(small.manifest.clone())),
        (layer, fixed("200 OK", small.layer.clone())),
        (config, fixed("200 OK", small.config.clone())),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_what_its_digest_says_is_refused_and_leaves_nothing() {
    let small = small();
    let (layer, config) = paths(&small);
    let mut changed = small.layer.clone();
    changed[1000] ^= 1;
    let other_diff = {
        let mut config = small.config.clone();
        let text = String::from_utf8(config.clone()).unwrap();
        config = text.replace(&Digest::of(&small.layer).to_string(), &Digest::of(b"other").to_string()).into_bytes();
        config
    };
    let wrong_config_manifest = manifest_of(&other_diff, &small.layer);
    let both = br#"{"schemaVersion":2,"manifests":[],"layers":[],"config":{}}"#.to_vec();
    let looping = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [{"mediaType": crate::manifest::OCI_INDEX, "digest": Digest::of(b"x"), "size": 1}]})).unwrap();
    let longer = [small.layer.clone(), vec![0; 10]].concat();
    let cases: Vec<(&str, String, Answer)> = vec![
        ("changed layer", layer.clone(), fixed("200 OK", changed)),
        ("longer layer", layer.clone(), fixed("200 OK", longer)),
        ("changed config", config.clone(), fixed("200 OK", b"{}".to_vec())),
        (
            "announced otherwise",
            "/v2/x/manifests/1".into(),
            fixed(&format!("200 OK\r\nDocker-Content-Digest: {}", Digest::of(b"other")), small.manifest.clone()),
        ),
        ("both kinds", "/v2/x/manifests/1".into(), fixed("200 OK", both)),
        (
            "type of document and header differ",
            "/v2/x/manifests/1".into(),
            fixed(
                "200 OK\r\nContent-Type: application/vnd.docker.distribution.manifest.v2+json",
                small.manifest.clone(),
            ),
        ),
        ("not an image", "/v2/x/manifests/1".into(), fixed("200 OK", b"<html>".to_vec())),
        ("schema 1", "/v2/x/manifests/1".into(), fixed("200 OK", br#"{"schemaVersion":1,"fsLayers":[]}"#.to_vec())),
        ("an index of nothing", "/v2/x/manifests/1".into(), fixed("200 OK", looping)),
        (
            "a refusal",
            "/v2/x/manifests/1".into(),
            fixed("403 Forbidden", br#"{"errors":[{"code":"DENIED","message":"no"}]}"#.to_vec()),
        ),
        (
            "an endless redirect",
            layer.clone(),
            fixed(&format!("307 Temporary Redirect\r\nLocation: {layer}"), Vec::new()),
        ),
    ];
    for (case, path, answer) in cases {
        let server = serve(&small, &path, answer);
        let store = Shared::new();
        let error = try_pull(&store, &server.name(), None).await.expect_err(case);
        assert!(!matches!(error, ImageError::Unreachable(_) | ImageError::Io { .. }), "{case}: {error:?}");
        store.assert_empty();
    }
    // The diff id of the configuration is another one.
    let other = format!("/v2/x/blobs/{}", Digest::of(&other_diff));
    let server = Hostile::start(vec![
        ("/v2/x/manifests/1".to_owned(), manifest_answer(wrong_config_manifest)),
        (other, fixed("200 OK", other_diff)),
        (layer, fixed("200 OK", small.layer.clone())),
    ]);
    let store = Shared::new();
    let error = try_pull(&store, &server.name(), None).await.unwrap_err();
    assert!(matches!(error, ImageError::Mismatch { .. }), "{error:?}");
    store.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_download_goes_on_where_it_broke() {
    let small = small();
    let (layer, _) = paths(&small);
    let whole = small.layer.clone();
    let answer: Answer = Box::new(move |headers, before| {
        let from: usize = headers
            .get("range")
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
            .unwrap_or(0);
        let rest = &whole[from..];
        let sent = if before < 2 { &rest[..rest.len() / 2] } else { rest };
        let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
        (format!("{status}\r\nContent-Length: {}", rest.len()), sent.to_vec())
    });
    let server = serve(&small, &layer, answer);
    let store = Shared::new();
    try_pull(&store, &server.name(), None).await.unwrap();
    let seen = server.seen.lock().unwrap();
    let ranges: Vec<_> =
        seen.iter().filter(|(path, _)| *path == layer).map(|(_, headers)| headers.get("range").cloned()).collect();
    assert_eq!(ranges.len(), 3);
    assert!(ranges[0].is_none() && ranges[1].is_some() && ranges[2].is_some(), "{ranges:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn passing_troubles_are_waited_out_and_tokens_go_to_the_registry_alone() {
    let small = small();
    let (layer, config) = paths(&small);
    let elsewhere = Hostile::start(vec![("/cdn".to_owned(), fixed("200 OK", small.layer.clone()))]);
    let cdn = format!("http://127.0.0.1:{}/cdn?signature=1", elsewhere.port);
    let port = Arc::new(Mutex::new(0_u16));
    let told = port.clone();
    let manifest = small.manifest.clone();
    let (config_bytes, redirect) = (small.config.clone(), format!("307 Temporary Redirect\r\nLocation: {cdn}"));
    let server = Hostile::start(vec![
        (
            "/token".to_owned(),
            Box::new(|headers: &HashMap<String, String>, _| {
                if headers.get("authorization").map(String::as_str) == Some("Basic bWU6c2VjcmV0") {
                    ("200 OK".to_owned(), br#"{"token":"good"}"#.to_vec())
                } else {
                    ("401 Unauthorized".to_owned(), Vec::new())
                }
            }),
        ),
        (
            "/v2/x/manifests/1".to_owned(),
            Box::new(move |headers, before| {
                if before == 0 {
                    return ("503 Service Unavailable".to_owned(), Vec::new());
                }
                if before == 1 {
                    return ("429 Too Many Requests\r\nRetry-After: 0".to_owned(), Vec::new());
                }
                if headers.get("authorization").map(String::as_str) == Some("Bearer good") {
                    return ("200 OK".to_owned(), manifest.clone());
                }
                let realm = format!("http://127.0.0.1:{}/token", told.lock().unwrap());
                (format!("401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"{realm}\",service=\"s\""), Vec::new())
            }),
        ),
        (config, fixed("200 OK", config_bytes)),
        (layer.clone(), fixed(&redirect, Vec::new())),
    ]);
    *port.lock().unwrap() = server.port;
    let store = Shared::new();
    let auth = RegistryAuth { username: "me".into(), password: "secret".into(), ..RegistryAuth::default() };
    try_pull(&store, &server.name(), Some(&auth)).await.unwrap();
    let seen = server.seen.lock().unwrap();
    let (_, headers) = seen.iter().find(|(path, _)| *path == layer).unwrap();
    assert_eq!(headers.get("authorization").map(String::as_str), Some("Bearer good"));
    for (_, headers) in elsewhere.seen.lock().unwrap().iter() {
        assert_eq!(headers.get("authorization"), None);
    }
    assert!(seen.iter().any(|(path, _)| path.starts_with("/token?service=s&scope=repository%3Ax%3Apull")));
}
