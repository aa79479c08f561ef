//! Registries that break off, lie, stall, and lead astray.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::json;

use super::*;

type Answer = Box<dyn Fn(&HashMap<String, String>, usize) -> (String, Vec<u8>) + Send + Sync>;

/// Serves answers by path; each is told the request's headers and how often it was asked before.
struct Hostile {
    port: u16,
    seen: Arc<Mutex<Vec<(String, HashMap<String, String>)>>>,
    /// Bodies of requests in the order in which they ended.
    bodies: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Hostile {
    fn start(answers: Vec<(String, Answer)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let kept = bodies.clone();
        let answers = Arc::new(answers);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answers, log, kept) = (answers.clone(), log.clone(), kept.clone());
                std::thread::spawn(move || drop(Self::serve(stream, &answers, &log, &kept)));
            }
        });
        Self { port, seen, bodies }
    }

    /// How often a path was asked for.
    fn count(&self, path: &str) -> usize {
        self.seen.lock().unwrap().iter().filter(|(seen, _)| seen == path).count()
    }

    fn serve(
        mut stream: TcpStream,
        answers: &[(String, Answer)],
        log: &Mutex<Vec<(String, HashMap<String, String>)>>,
        bodies: &Mutex<Vec<Vec<u8>>>,
    ) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let method = line.split(' ').next().unwrap_or_default().to_owned();
        let mut headers = HashMap::from([(":method".to_owned(), method.clone())]);
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
        let sent: u64 = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let taken = head.strip_prefix("BREAK ").map(|taken| taken.parse().unwrap());
        let mut received = Vec::new();
        reader.take(taken.unwrap_or(sent)).read_to_end(&mut received)?;
        if sent > 0 {
            bodies.lock().unwrap().push(received);
        }
        if taken.is_some() {
            return Ok(());
        }
        let stalls = head.contains("X-Stall");
        let length = if head.to_lowercase().contains("content-length") {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        write!(stream, "HTTP/1.1 {head}\r\n{length}Connection: close\r\n\r\n")?;
        if method != "HEAD" {
            stream.write_all(&body)?;
        }
        if stalls {
            // Until the client hangs up.
            drop(stream.read(&mut [0; 1]));
        }
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

/// A layer that comes from where it is asked for on, half of what is left at a time and then silence, the given number
/// of times.
fn stalling(layer: &[u8], times: usize) -> Answer {
    let whole = layer.to_vec();
    Box::new(move |headers, before| {
        let from: usize = headers
            .get("range")
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
            .unwrap_or(0);
        let rest = &whole[from..];
        let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
        if before < times {
            let head = format!("{status}\r\nX-Stall: yes\r\nContent-Length: {}", rest.len());
            (head, rest[..rest.len() / 2].to_vec())
        } else {
            (status.to_owned(), rest.to_vec())
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_an_end_and_not_for_ever() {
    let small = small();
    let (layer, _) = paths(&small);
    let server = serve(&small, &layer, stalling(&small.layer, 1));
    let store = Shared::new();
    pull_by(&impatient(), &store, &server.name(), None).await.unwrap();
    assert!(server.seen.lock().unwrap().iter().any(|(path, headers)| *path == layer && headers.contains_key("range")));

    let server = serve(&small, &layer, stalling(&small.layer, usize::MAX));
    let store = Shared::new();
    let error = pull_by(&impatient(), &store, &server.name(), None).await.unwrap_err();
    assert!(matches!(error, ImageError::Unreachable(_)) && error.to_string().contains("stalled"), "{error}");
    store.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_breaks_off_is_fetched_again() {
    let small = small();
    let whole = small.manifest.clone();
    let answer: Answer = Box::new(move |_, before| {
        let sent = if before == 0 { &whole[..10] } else { &whole[..] };
        (format!("200 OK\r\nContent-Length: {}", whole.len()), sent.to_vec())
    });
    let server = serve(&small, "/v2/x/manifests/1", answer);
    try_pull(&Shared::new(), &server.name(), None).await.unwrap();
    assert_eq!(server.count("/v2/x/manifests/1"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn troubles_that_do_not_pass_end_the_pull() {
    let small = small();
    for status in ["500 Internal Server Error", "503 Service Unavailable", "429 Too Many Requests\r\nRetry-After: 0"] {
        let (layer, _) = paths(&small);
        let server = serve(&small, &layer, fixed(status, Vec::new()));
        let store = Shared::new();
        let error = try_pull(&store, &server.name(), None).await.unwrap_err();
        assert!(error.to_string().contains(&status[..3]), "{error}");
        let asked = server.count(&layer);
        assert!((2..20).contains(&asked), "{status}: asked {asked} times");
        store.assert_empty();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_ends_midway_is_renewed() {
    let small = small();
    let (layer, config) = paths(&small);
    let port = Arc::new(Mutex::new(0_u16));
    let guarded = |good: &'static str, body: Vec<u8>| -> Answer {
        let port = port.clone();
        Box::new(move |headers, _| {
            if headers.get("authorization").map(String::as_str) == Some(good) {
                return ("200 OK".to_owned(), body.clone());
            }
            let realm = format!("http://127.0.0.1:{}/token", port.lock().unwrap());
            (format!("401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"{realm}\",service=\"s\""), Vec::new())
        })
    };
    let server = Hostile::start(vec![
        (
            "/token".to_owned(),
            Box::new(|_: &HashMap<String, String>, before| {
                let token = if before == 0 { r#"{"token":"old"}"# } else { r#"{"access_token":"new"}"# };
                ("200 OK".to_owned(), token.as_bytes().to_vec())
            }),
        ),
        ("/v2/x/manifests/1".to_owned(), guarded("Bearer old", small.manifest.clone())),
        (config, guarded("Bearer old", small.config.clone())),
        (layer, guarded("Bearer new", small.layer.clone())),
    ]);
    *port.lock().unwrap() = server.port;
    try_pull(&Shared::new(), &server.name(), None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_a_registry_redirects_to_learns_no_password() {
    let small = small();
    let (layer, _) = paths(&small);
    let port = Arc::new(Mutex::new(0_u16));
    let told = port.clone();
    let thief = Hostile::start(vec![
        ("/token".to_owned(), fixed("200 OK", br#"{"token":"x"}"#.to_vec())),
        (
            "/blob".to_owned(),
            Box::new(move |_: &HashMap<String, String>, _| {
                let realm = format!("http://127.0.0.1:{}/token", told.lock().unwrap());
                let challenges =
                    format!("WWW-Authenticate: Bearer realm=\"{realm}\"\r\nWWW-Authenticate: Basic realm=\"x\"");
                (format!("401 Unauthorized\r\n{challenges}"), Vec::new())
            }),
        ),
    ]);
    *port.lock().unwrap() = thief.port;
    let to = format!("307 Temporary Redirect\r\nLocation: http://127.0.0.1:{}/blob", thief.port);
    let server = serve(&small, &layer, fixed(&to, Vec::new()));
    let store = Shared::new();
    let auth = RegistryAuth { username: "me".into(), password: "secret".into(), ..RegistryAuth::default() };
    let error = try_pull(&store, &server.name(), Some(&auth)).await.unwrap_err();
    assert!(matches!(error, ImageError::Unauthorized(_)), "{error}");
    store.assert_empty();
    let seen = thief.seen.lock().unwrap();
    assert!(!seen.is_empty());
    for (path, headers) in seen.iter() {
        assert_eq!((path.as_str(), headers.get("authorization")), ("/blob", None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pulls_of_one_image_share_the_work() {
    let small = small();
    let (layer, _) = paths(&small);
    let whole = small.layer.clone();
    let slow: Answer = Box::new(move |_, _| {
        std::thread::sleep(Duration::from_millis(500));
        ("200 OK".to_owned(), whole.clone())
    });
    let server = serve(&small, &layer, slow);
    let store = Shared::new();
    let client = client();
    let name = server.name();
    let (one, other) = tokio::join!(pull_by(&client, &store, &name, None), pull_by(&client, &store, &name, None));
    assert_eq!(one.unwrap().image.id, other.unwrap().image.id);
    assert_eq!(server.count(&layer), 1);
    let id = store.images.list()[0].0.id;
    store.images.delete(&id).unwrap();
    store.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_given_up_leaves_nothing_and_does_not_harm_another() {
    // The first layer comes and is unpacked, the second one stalls.
    let layers = [Archive::new().file("a", "a").done(), Archive::new().file("b", &"b".repeat(100_000)).done()];
    let digests = layers.each_ref().map(|layer| Digest::of(layer));
    let config = serde_json::to_vec(&json!({"architecture": crate::config::host_architecture().0, "os": "linux",
        "config": {}, "rootfs": {"type": "layers", "diff_ids": digests}}))
    .unwrap();
    let entry = |layer: &Vec<u8>| json!({"mediaType": crate::manifest::OCI_LAYER, "digest": Digest::of(layer), "size": layer.len()});
    let manifest = serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": crate::manifest::OCI_MANIFEST,
        "config": {"mediaType": crate::manifest::OCI_CONFIG, "digest": Digest::of(&config), "size": config.len()},
        "layers": layers.iter().map(entry).collect::<Vec<_>>()}))
    .unwrap();
    let path = |digest: &Digest| format!("/v2/x/blobs/{digest}");
    let server = Hostile::start(vec![
        ("/v2/x/manifests/1".to_owned(), manifest_answer(manifest)),
        (path(&Digest::of(&config)), fixed("200 OK", config.clone())),
        (path(&digests[0]), fixed("200 OK", layers[0].clone())),
        (path(&digests[1]), stalling(&layers[1], 1)),
    ]);
    let store = Arc::new(Shared::new());
    let (client, name) = (client(), server.name());
    let begin = || {
        let (store, client, name) = (store.clone(), client.clone(), name.clone());
        tokio::spawn(async move { pull_by(&client, &store, &name, None).await })
    };
    let first = begin();
    let folder = store.folder.path().join("layers");
    // The second has a directory as soon as its first bytes are here.
    let unpacked = || std::fs::read_dir(&folder).map_or(0, Iterator::count) >= 1;
    eventually("the first layer is unpacked and the second asked for", || {
        unpacked() && server.count(&path(&digests[1])) == 1
    })
    .await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    let scratch = store.folder.path().join("images/blobs");
    let count = |name: &str| std::fs::read_dir(scratch.join(name)).unwrap().count();
    eventually("nothing is left", || {
        count("sha256") + count("tmp") == 0 && std::fs::read_dir(&folder).map_or(0, Iterator::count) == 0
    })
    .await;
    store.assert_empty();
    begin().await.unwrap().unwrap();
    assert_eq!(store.images.list().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_serves_the_hub_without_its_password() {
    let small = small();
    let answers = |bytes: &[u8]| fixed("200 OK", bytes.to_vec());
    let server = Hostile::start(vec![
        ("/v2/library/x/manifests/1".to_owned(), manifest_answer(small.manifest.clone())),
        (format!("/v2/library/x/blobs/{}", Digest::of(&small.layer)), answers(&small.layer)),
        (format!("/v2/library/x/blobs/{}", Digest::of(&small.config)), answers(&small.config)),
    ]);
    let mirrors = vec![format!("http://127.0.0.1:{}", server.port)];
    let client = RegistryClient::new(RegistryConfig { mirrors, ..quick() });
    let auth = RegistryAuth { username: "me".into(), password: "secret".into(), ..RegistryAuth::default() };
    let store = Shared::new();
    let pulled = pull_by(&client, &store, "x:1", Some(&auth)).await.unwrap();
    assert!(store.images.names(&pulled.image.id).contains(&ImageRef::parse("docker.io/library/x:1").unwrap()));
    assert!(server.seen.lock().unwrap().iter().all(|(_, headers)| !headers.contains_key("authorization")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_upload_goes_on_where_it_broke() {
    const TAKEN: usize = 200_000;
    let missing = || fixed("404 Not Found", Vec::new());
    let server = Hostile::start(vec![
        (
            "/v2/x/blobs/uploads/".to_owned(),
            Box::new(|_: &HashMap<String, String>, before| {
                (format!("202 Accepted\r\nLocation: /v2/x/up/{before}"), Vec::new())
            }),
        ),
        ("/v2/x/blobs/sha256".to_owned(), missing()),
        (
            "/v2/x/up/".to_owned(),
            Box::new(|headers: &HashMap<String, String>, _| {
                let length: u64 = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
                let head = match headers[":method"].as_str() {
                    "PATCH" if length > 500_000 && !headers.contains_key("content-range") => format!("BREAK {TAKEN}"),
                    "PATCH" => "202 Accepted\r\nLocation: ?state=1".to_owned(),
                    "GET" => format!("204 No Content\r\nRange: 0-{}", TAKEN - 1),
                    _ => "201 Created".to_owned(),
                };
                (head, Vec::new())
            }),
        ),
        ("/v2/x/manifests/".to_owned(), fixed("201 Created", Vec::new())),
        ("/v2/".to_owned(), fixed("200 OK", Vec::new())),
    ]);
    let name = ImageRef::parse(&server.name()).unwrap();
    let source = Shared::new();
    let id = make_image(&source, std::slice::from_ref(&name));
    let (to, _events) = reporter();
    push(&client(), &source.images, &name, None, None, &to).await.unwrap();
    let layer = source.images.get(&id).unwrap().layers[0].clone();
    let bodies = server.bodies.lock().unwrap();
    let start = bodies.iter().find(|body| body.len() == TAKEN).expect("the part that arrived");
    let whole =
        bodies.iter().map(|rest| [start.as_slice(), rest].concat()).find(|whole| Digest::of(whole) == layer.blob);
    assert_eq!(whole.map(|whole| whole.len() as u64), Some(layer.blob_size), "the rest was sent, and only the rest");
    let seen = server.seen.lock().unwrap();
    let range = seen.iter().find_map(|(_, headers)| headers.get("content-range").cloned());
    assert_eq!(range, Some(format!("{TAKEN}-{}", layer.blob_size - 1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_come_in_pages_and_search_in_json() {
    let server = Hostile::start(vec![
        (
            "/v2/x/tags/list?n=1000".to_owned(),
            fixed(
                "200 OK\r\nLink: </v2/x/tags/list?last=b>; rel=\"next\"",
                br#"{"name":"x","tags":["a","b"]}"#.to_vec(),
            ),
        ),
        ("/v2/x/tags/list?last=b".to_owned(), fixed("200 OK", br#"{"name":"x","tags":["c"]}"#.to_vec())),
        (
            "/v1/search?q=box%20a&n=3".to_owned(),
            fixed(
                "200 OK",
                br#"{"num_results":1,"results":[{"name":"busybox","star_count":7,"is_official":true}]}"#.to_vec(),
            ),
        ),
    ]);
    let name = ImageRef::parse(&server.name()).unwrap();
    assert_eq!(tags(&client(), &name, None).await.unwrap(), ["a", "b", "c"]);
    let found = search(&client(), &format!("127.0.0.1:{}/box a", server.port), 3, None).await.unwrap();
    assert_eq!((found.len(), found[0].name.as_str(), found[0].star_count), (1, "busybox", 7));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_begins_anew_is_taken_at_its_word_and_one_that_skips_is_not() {
    let small = small();
    let (layer, _) = paths(&small);
    let whole = small.layer.clone();
    let answer: Answer = Box::new(move |_, before| {
        // Knows nothing of ranges.
        let sent = if before < 2 { whole.len() / 2 } else { whole.len() };
        (format!("200 OK\r\nContent-Length: {}", whole.len()), whole[..sent].to_vec())
    });
    let server = serve(&small, &layer, answer);
    try_pull(&Shared::new(), &server.name(), None).await.unwrap();
    assert_eq!(server.count(&layer), 3);

    let whole = small.layer.clone();
    let answer: Answer = Box::new(move |headers, _| {
        if headers.contains_key("range") {
            let range = format!("Content-Range: bytes 7-{}/{}", whole.len() - 1, whole.len());
            return (format!("206 Partial Content\r\n{range}"), whole[7..].to_vec());
        }
        (format!("200 OK\r\nContent-Length: {}", whole.len()), whole[..1000].to_vec())
    });
    let server = serve(&small, &layer, answer);
    let store = Shared::new();
    let error = try_pull(&store, &server.name(), None).await.unwrap_err();
    assert!(error.to_string().contains("from 7 on"), "{error}");
    store.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_layers_come_from_where_their_descriptor_says_and_are_not_pushed() {
    let small = small();
    let elsewhere = Hostile::start(vec![("/layer".to_owned(), fixed("200 OK", small.layer.clone()))]);
    let manifest = |urls: &[String], layer: &[u8]| {
        serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": crate::manifest::OCI_MANIFEST,
            "config": {"mediaType": crate::manifest::OCI_CONFIG, "digest": Digest::of(&small.config), "size": small.config.len()},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar", "urls": urls,
                "digest": Digest::of(layer), "size": layer.len()}]}))
        .unwrap()
    };
    let serve = |manifest: Vec<u8>| {
        let (_, config) = paths(&small);
        Hostile::start(vec![
            ("/v2/x/manifests/1".to_owned(), manifest_answer(manifest)),
            (config, fixed("200 OK", small.config.clone())),
            ("/v2/y/manifests/1".to_owned(), fixed("201 Created", Vec::new())),
            ("/v2/y/blobs/".to_owned(), fixed("200 OK", Vec::new())),
            ("/v2/".to_owned(), fixed("200 OK", Vec::new())),
        ])
    };
    let good = format!("http://127.0.0.1:{}/layer", elsewhere.port);
    let server = serve(manifest(&["file:///etc/shadow".to_owned(), good.clone()], &small.layer));
    let store = Shared::new();
    let pulled = try_pull(&store, &server.name(), None).await.unwrap();
    assert_eq!(pulled.image.layers[0].urls, ["file:///etc/shadow", &good]);
    assert!(elsewhere.seen.lock().unwrap().iter().all(|(_, headers)| !headers.contains_key("authorization")));

    let name = ImageRef::parse(&format!("127.0.0.1:{}/y:1", server.port)).unwrap();
    store.images.tag(&pulled.image.id, &name).unwrap();
    let (to, mut events) = reporter();
    let pushed = push(&client(), &store.images, &name, None, None, &to).await.unwrap();
    assert_eq!(pushed.digest, pulled.digest);
    drop(to);
    let mut states = Vec::new();
    while let Some(event) = events.recv().await {
        states.push(event.status);
    }
    assert!(states.contains(&"Skipped foreign layer".to_owned()), "{states:?}");
    assert_eq!(server.count(&format!("/v2/y/blobs/{}", Digest::of(&small.layer))), 0);

    // What comes is checked as everything is, and a layer that is nowhere says where it was looked for.
    let server = serve(manifest(std::slice::from_ref(&good), b"another one"));
    let store = Shared::new();
    let error = try_pull(&store, &server.name(), None).await.unwrap_err();
    assert!(matches!(error, ImageError::Refused { .. } | ImageError::Mismatch { .. }), "{error:?}");
    store.assert_empty();
    let server = serve(manifest(&["http://127.0.0.1:1/layer".to_owned()], &small.layer));
    let error = try_pull(&store, &server.name(), None).await.unwrap_err();
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
    store.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_brings_a_token_that_takes_the_place_of_the_password() {
    let port = Arc::new(Mutex::new(0_u16));
    let realm = port.clone();
    let server = Hostile::start(vec![
        ("/token".to_owned(), fixed("200 OK", br#"{"token":"short","refresh_token":"long"}"#.to_vec())),
        (
            "/v2/".to_owned(),
            Box::new(move |headers: &HashMap<String, String>, _| {
                if headers.get("authorization").map(String::as_str) == Some("Bearer short") {
                    return ("200 OK".to_owned(), Vec::new());
                }
                let realm = format!("http://127.0.0.1:{}/token", realm.lock().unwrap());
                (format!("401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"{realm}\",service=\"s\""), Vec::new())
            }),
        ),
    ]);
    *port.lock().unwrap() = server.port;
    let auth = RegistryAuth { username: "me".into(), password: "secret".into(), ..RegistryAuth::default() };
    let token = login(&client(), &format!("127.0.0.1:{}", server.port), &auth).await.unwrap();
    assert_eq!(token.as_deref(), Some("long"));
    let asked = server.seen.lock().unwrap().iter().find(|(path, _)| path.starts_with("/token")).cloned().unwrap();
    assert!(asked.0.contains("offline_token=true") && asked.0.contains("account=me"), "{}", asked.0);
    assert!(!asked.0.contains("secret"));
}

/// Whoever writes a manifest does not reach by it what only this machine reaches: not by an address, and not by one that
/// an address redirects to.
#[tokio::test(flavor = "multi_thread")]
async fn foreign_layers_reach_nothing_nearer_than_their_registry() {
    let small = small();
    let secret = Hostile::start(vec![("/".to_owned(), fixed("200 OK", small.layer.clone()))]);
    let target = format!("http://127.0.0.1:{}/secret", secret.port);
    let mut manifest: serde_json::Value = serde_json::from_slice(&small.manifest).unwrap();
    manifest["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.nondistributable.v1.tar");
    manifest["layers"][0]["urls"] = json!([target, "http://layers.example/layer", "http://layers.example/relative"]);
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let moved = format!("307 Temporary Redirect\r\nLocation: {target}");
    // All but the addresses of this machine is reached by a proxy, which plays the registry and another server.
    let proxy = Hostile::start(vec![
        (
            "http://registry.example/v2/x/manifests/".to_owned(),
            fixed("200 OK\r\nContent-Type: application/vnd.oci.image.manifest.v1+json", manifest),
        ),
        (
            format!("http://registry.example/v2/x/blobs/{}", Digest::of(&small.config)),
            fixed("200 OK", small.config.clone()),
        ),
        ("http://layers.example/layer".to_owned(), fixed(&moved, Vec::new())),
    ]);
    let config = RegistryConfig {
        insecure: vec!["registry.example".to_owned()],
        proxies: Proxies {
            http: Some(format!("http://127.0.0.1:{}", proxy.port)),
            https: Some("http://127.0.0.1:1".to_owned()),
            none: Some("127.0.0.1".to_owned()),
        },
        ..quick()
    };
    let store = Shared::new();
    let error = pull_by(&RegistryClient::new(config), &store, "registry.example/x:1", None).await.unwrap_err();
    assert!(error.to_string().contains("an address of this machine"), "{error}");
    assert_eq!(proxy.count("http://layers.example/layer"), 1, "{error}");
    assert_eq!(secret.count("/secret"), 0, "the address of this machine was reached");
    store.assert_empty();
}

/// Ten gibibytes of nothing, packed into ten megabytes: the head of a file, and the same piece again and again.
fn bomb(pack: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    const PIECE: usize = 64 << 20;
    let mut head = tar::Header::new_gnu();
    head.set_path("zeros").unwrap();
    head.set_size(10 << 30);
    head.set_mode(0o644);
    head.set_entry_type(tar::EntryType::Regular);
    head.set_cksum();
    let mut layer = pack(head.as_bytes());
    let piece = pack(&vec![0; PIECE]);
    for _ in 0..(10 << 30) / PIECE {
        layer.extend_from_slice(&piece);
    }
    layer.extend(pack(&[0; 1024]));
    assert!(layer.len() < 12 << 20, "{} bytes", layer.len());
    layer
}

async fn a_bomb_is_refused(layer: Vec<u8>, media_type: &str) {
    let config = json!({"architecture": crate::config::host_architecture().0, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"what it would be")]}});
    let config = serde_json::to_vec(&config).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_slice(&manifest_of(&config, &layer)).unwrap();
    manifest["layers"][0]["mediaType"] = json!(media_type);
    let server = Hostile::start(vec![
        ("/v2/x/manifests/".to_owned(), manifest_answer(serde_json::to_vec(&manifest).unwrap())),
        (format!("/v2/x/blobs/{}", Digest::of(&config)), fixed("200 OK", config)),
        ("/v2/x/blobs/".to_owned(), fixed("200 OK", layer)),
    ]);
    let store = Shared::new();
    let error = try_pull(&store, &server.name(), None).await.unwrap_err();
    assert!(error.to_string().contains("times its packed size"), "{error}");
    store.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_of_gzip_is_refused_before_it_goes_off() {
    use std::io::Write as _;
    let pack = |bytes: &[u8]| {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        out.write_all(bytes).unwrap();
        out.finish().unwrap()
    };
    a_bomb_is_refused(bomb(pack), "application/vnd.oci.image.layer.v1.tar+gzip").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_of_zstd_is_refused_before_it_goes_off() {
    // What is passed over makes it as long as one of gzip.
    let passed = [&0x184d_2a50_u32.to_le_bytes()[..], &60_000_u32.to_le_bytes(), &[7; 60_000]].concat();
    let pack = |bytes: &[u8]| [zstd::encode_all(bytes, 3).unwrap(), passed.clone()].concat();
    a_bomb_is_refused(bomb(pack), "application/vnd.oci.image.layer.v1.tar+zstd").await;
}
