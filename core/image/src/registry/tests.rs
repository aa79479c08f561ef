#![allow(clippy::unwrap_used)]

mod hostile;

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::backend::{LayerBackend, Whiteouts};
use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::manifest::{Descriptor, Manifest, OCI_CONFIG, Platform};
use crate::record::LayerRef;
use crate::reference::ImageRef;
use crate::store::{ImageStore, IndexEntry, Statement};
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
        self.images.settle();
        assert!(self.images.list().is_empty());
        assert_eq!(count(self.folder.path().join("images/blobs/sha256")), 0, "blobs");
        assert_eq!(count(self.folder.path().join("images/blobs/tmp")), 0, "scratch");
        assert_eq!(count(self.folder.path().join("layers")), 0, "layers");
    }
}

/// Waits little between tries.
fn quick() -> RegistryConfig {
    RegistryConfig { pause: Duration::from_millis(5), ..RegistryConfig::default() }
}

fn client() -> RegistryClient {
    RegistryClient::new(quick())
}

/// Takes little silence for the end of a connection.
fn impatient() -> RegistryClient {
    RegistryClient::new(RegistryConfig { patience: Duration::from_millis(700), ..quick() })
}

fn reporter() -> (Reporter, mpsc::Receiver<TransferEvent>) {
    let (sender, receiver) = mpsc::channel(1000);
    (Reporter(sender), receiver)
}

async fn try_pull(store: &Shared, name: &str, auth: Option<&RegistryAuth>) -> Result<Pulled, ImageError> {
    pull_by(&client(), store, name, auth).await
}

async fn pull_by(
    client: &RegistryClient,
    store: &Shared,
    name: &str,
    auth: Option<&RegistryAuth>,
) -> Result<Pulled, ImageError> {
    let (reporter, _events) = reporter();
    pull(client, &store.images, &ImageRef::parse(name).unwrap(), None, auth, &reporter).await
}

// ---- a real registry ----

struct Registry {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Registry {
    /// `None` where there is no such program.
    fn start(test: &str, password: Option<&str>) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut more = String::new();
        if let Some(line) = password {
            let file = folder.path().join("htpasswd");
            std::fs::write(&file, line).unwrap();
            more.push_str(&format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", file.display()));
        }
        Self::start_in(test, folder, "", &more)
    }

    /// With more lines in its configuration: below `http`, and at the top.
    fn start_in(test: &str, folder: tempfile::TempDir, http: &str, more: &str) -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n{http}{more}",
            folder.path().join("data").display()
        );
        let file = folder.path().join("config.yml");
        std::fs::write(&file, config).unwrap();
        let spawned =
            Command::new("docker-registry").arg("serve").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let Ok(child) = spawned else {
            println!("skipped: {test} needs docker-registry (package docker-registry)");
            return None;
        };
        let registry = Self { child, port, folder };
        for _ in 0..400 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(registry);
            }
            std::thread::sleep(Duration::from_millis(50));
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

/// Text that does not get shorter by much when it is packed.
fn noise(length: usize) -> String {
    let mut number = 1_u64;
    let next = |_| {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(32 + u8::try_from((number >> 33) % 94).unwrap())
    };
    (0..length).map(next).collect()
}

fn make_image(store: &Shared, names: &[ImageRef]) -> Digest {
    let lower = store
        .images
        .add_layer_from_tar(Archive::new().dir("etc").file("etc/a", &noise(700_000)).done().as_slice(), &[])
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
    let Some(registry) = Registry::start("what_is_pushed_is_pulled_with_the_same_digests", None) else { return };
    let name = ImageRef::parse(&format!("localhost:{}/a/b:1", registry.port)).unwrap();
    let source = Shared::new();
    let id = make_image(&source, std::slice::from_ref(&name));
    let (to, mut events) = reporter();
    let pushed = push(&client(), &source.images, &name, None, None, &to).await.unwrap();
    assert_eq!(pushed.digest, source.images.get(&id).unwrap().manifest);
    push(&client(), &source.images, &name, None, None, &to).await.unwrap();
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

/// Waits for a state that comes about in the background.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_mounted_from_other_repositories_and_tags_are_listed() {
    let test = "layers_are_mounted_from_other_repositories_and_tags_are_listed";
    let Some(registry) = Registry::start(test, None) else { return };
    let name = |text: &str| ImageRef::parse(&format!("localhost:{}/{text}", registry.port)).unwrap();
    let (first, second) = (name("a/b:1"), name("c/d:2"));
    let source = Shared::new();
    let id = make_image(&source, &[first.clone(), second.clone()]);
    let (to, _events) = reporter();
    let pushed = push(&client(), &source.images, &first, None, None, &to).await.unwrap();
    source.images.tag(&id, &first.with_digest(pushed.digest)).unwrap();
    let (to, mut events) = reporter();
    let again = push(&client(), &source.images, &second, None, None, &to).await.unwrap();
    assert_eq!(again.digest, pushed.digest);
    drop(to);
    let mut states = Vec::new();
    while let Some(event) = events.recv().await {
        states.push(event.status);
    }
    assert_eq!(states.iter().filter(|state| *state == "Mounted from a/b").count(), 2, "{states:?}");
    let target = Shared::new();
    assert_eq!(try_pull(&target, &second.to_string(), None).await.unwrap().image.id, id);

    assert_eq!(tags(&client(), &name("c/d"), None).await.unwrap(), ["2"]);
    assert!(matches!(tags(&client(), &name("no/such"), None).await, Err(ImageError::NotFound(_))));
    let found = manifest(&client(), &first, None).await.unwrap();
    assert_eq!((found.digest, Digest::of(&found.bytes)), (pushed.digest, pushed.digest));
    let error = search(&client(), &format!("localhost:{}/a", registry.port), 25, None).await.unwrap_err();
    assert!(error.to_string().contains("offers no search"), "{error}");
}

async fn states_of(mut events: mpsc::Receiver<TransferEvent>) -> Vec<String> {
    let mut states = Vec::new();
    while let Some(event) = events.recv().await {
        states.push(event.status);
    }
    states
}

/// Layers that come again as plain tars are known by what they unpack to, also to the next daemon.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_registry_had_is_neither_packed_nor_sent_again() {
    let test = "what_a_registry_had_is_neither_packed_nor_sent_again";
    let Some(registry) = Registry::start(test, None) else { return };
    let name = |text: &str| ImageRef::parse(&format!("localhost:{}/{text}", registry.port)).unwrap();
    let mut source = Shared::new();
    let id = make_image(&source, &[name("a/b:1")]);
    let (to, _events) = reporter();
    let first = push(&client(), &source.images, &name("a/b:1"), None, None, &to).await.unwrap();
    source.images.delete(&id).unwrap();
    source.assert_empty();

    source.images = Arc::new(Fixture::open(source.folder.path(), &source.backend));
    assert_eq!(make_image(&source, &[name("a/b:2"), name("c/d:1"), name("e/f:1")]), id);
    for (to_push, state) in [("a/b:2", "Layer already exists"), ("c/d:1", "Mounted from a/b")] {
        let (to, events) = reporter();
        let pushed = push(&client(), &source.images, &name(to_push), None, None, &to).await.unwrap();
        assert_eq!(pushed.digest, first.digest);
        drop(to);
        let states = states_of(events).await;
        assert_eq!(states.iter().filter(|said| *said == state).count(), 2, "{to_push}: {states:?}");
        let image = source.images.get(&id).unwrap();
        assert!(image.layers.iter().all(|layer| layer.blob == layer.diff_id.0), "nothing is packed");
    }
    let target = Shared::new();
    assert_eq!(try_pull(&target, &name("c/d:1").to_string(), None).await.unwrap().image.id, id);

    // What is remembered is asked for, not believed.
    std::fs::remove_dir_all(registry.folder.path().join("data")).unwrap();
    for to_push in ["e/f:1", "a/b:2"] {
        let (to, events) = reporter();
        let pushed = push(&client(), &source.images, &name(to_push), None, None, &to).await.unwrap();
        assert_eq!(pushed.digest, first.digest);
        drop(to);
        let states = states_of(events).await;
        let sent = if to_push == "e/f:1" { "Pushed" } else { "Mounted from e/f" };
        assert_eq!(states.iter().filter(|said| *said == sent).count(), 2, "{to_push}: {states:?}");
    }
    let target = Shared::new();
    assert_eq!(try_pull(&target, &name("a/b:2").to_string(), None).await.unwrap().image.id, id);
}

/// A registry's form of a layer is the one to push, whoever packed it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_pulled_goes_back_in_its_form_though_it_came_again_as_a_plain_tar() {
    let test = "what_was_pulled_goes_back_in_its_form_though_it_came_again_as_a_plain_tar";
    let Some(registry) = Registry::start(test, None) else { return };
    let name = |text: &str| ImageRef::parse(&format!("localhost:{}/{text}", registry.port)).unwrap();
    let plain = Archive::new().file("a", &noise(1000)).done();
    let packed = zstd::encode_all(plain.as_slice(), 3).unwrap();
    let make = |store: &Shared, names: &[ImageRef]| {
        let layer = store.images.add_layer_from_tar(plain.as_slice(), &[]).unwrap();
        let config = ImageConfig {
            architecture: crate::config::host_architecture().0.into(),
            os: "linux".into(),
            ..ImageConfig::default()
        };
        store.images.create_image(config, vec![layer], None, names).unwrap()
    };
    // Another tool's image: the same files, packed otherwise.
    let (other, host) = (Shared::new(), Shared::new());
    let made = make(&other, &[]);
    let blob = other.images.blobs().write(&packed).unwrap();
    let layer = LayerRef {
        blob,
        blob_size: packed.len() as u64,
        media_type: "application/vnd.oci.image.layer.v1.tar+zstd".into(),
        ..made.layers[0].clone()
    };
    let config = Descriptor::new(OCI_CONFIG, made.id, other.images.blobs().size(&made.id));
    let document = serde_json::to_vec(&Manifest::of_layers(config, &[layer])).unwrap();
    let (to, _events) = reporter();
    let theirs = push::push_document(&client(), &other.images, &name("t/x:1"), &document, None, &to).await.unwrap();

    let pulled = try_pull(&host, &name("t/x:1").to_string(), None).await.unwrap();
    host.images.delete(&pulled.image.id).unwrap();
    assert_eq!(make(&host, &[name("t/x:2")]).id, made.id);
    let (to, events) = reporter();
    let ours = push(&client(), &host.images, &name("t/x:2"), None, None, &to).await.unwrap();
    assert_eq!(ours.digest, theirs.digest);
    drop(to);
    assert!(states_of(events).await.contains(&"Layer already exists".to_owned()));
}

/// A blob that is said to be another form of a layer that is here, and is not.
#[tokio::test(flavor = "multi_thread")]
async fn another_form_of_a_layer_that_is_here_must_unpack_to_the_same() {
    let test = "another_form_of_a_layer_that_is_here_must_unpack_to_the_same";
    let Some(registry) = Registry::start(test, None) else { return };
    let name = ImageRef::parse(&format!("localhost:{}/t/x:1", registry.port)).unwrap();
    let liar = Shared::new();
    let id = make_image(&liar, &[]);
    let image = liar.images.get(&id).unwrap();
    let mut layers = image.layers.clone();
    let false_blob = Archive::new().file("etc/a", "something else").done();
    layers[0].blob = liar.images.blobs().write(&false_blob).unwrap();
    layers[0].blob_size = false_blob.len() as u64;
    let config = Descriptor::new(OCI_CONFIG, id, liar.images.blobs().size(&id));
    let document = serde_json::to_vec(&Manifest::of_layers(config, &layers)).unwrap();
    let (to, _events) = reporter();
    push::push_document(&client(), &liar.images, &name, &document, None, &to).await.unwrap();

    let host = Shared::new();
    // The layer is here, under another image.
    let lower = Archive::new().dir("etc").file("etc/a", &noise(700_000)).done();
    let layer = host.images.add_layer_from_tar(lower.as_slice(), &[]).unwrap();
    let own = host.images.create_image(ImageConfig::default(), vec![layer], None, &[]).unwrap();
    let error = try_pull(&host, &name.to_string(), None).await.unwrap_err();
    assert!(matches!(error, ImageError::Mismatch { .. }), "{error}");
    host.images.delete(&own.id).unwrap();
    // A layer that was just coming in goes by itself.
    let blobs = host.folder.path().join("images/blobs/sha256");
    eventually("the blobs are gone", || std::fs::read_dir(&blobs).unwrap().next().is_none()).await;
    host.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_registry_wants_its_password() {
    // "secret", by bcrypt.
    let line = "me:$2b$04$V.INB7cZblXsMWg9ZK/eLOFccf/yfFPg9Qa7MMIIg5r0F9pcJU2FK\n";
    let Some(registry) = Registry::start("a_private_registry_wants_its_password", Some(line)) else { return };
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

    let right = RegistryAuth { username: "me".into(), password: "secret".into(), ..RegistryAuth::default() };
    login(&client(), &server, &right).await.unwrap();
    let source = Shared::new();
    let reference = ImageRef::parse(&name).unwrap();
    let id = make_image(&source, std::slice::from_ref(&reference));
    let (to, _events) = reporter();
    let error = push(&client(), &source.images, &reference, None, None, &to).await.unwrap_err();
    assert!(matches!(error, ImageError::Unauthorized(_)), "{error}");
    let pushed = push(&client(), &source.images, &reference, None, Some(&right), &to).await.unwrap();
    let pulled = try_pull(&store, &name, Some(&right)).await.unwrap();
    assert_eq!((pulled.image.id, pulled.digest), (id, pushed.digest));
}

/// Makes an authority and a certificate that it signs for this machine and for clients; whether there is openssl.
fn make_certificates(folder: &std::path::Path) -> bool {
    std::fs::write(
        folder.join("ext"),
        "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=CA:FALSE\n",
    )
    .unwrap();
    let openssl = |line: &str| {
        Command::new("openssl")
            .args(line.split(' '))
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!("req -x509 {key} -keyout ca.key -out ca.crt -subj /CN=authority -days 30"))
        && openssl(&format!("req {key} -keyout host.key -out host.csr -subj /CN=localhost"))
        && openssl(
            "x509 -req -in host.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile ext -out host.pem",
        )
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_a_registry_are_checked_and_shown() {
    let test = "certificates_of_a_registry_are_checked_and_shown";
    let folder = tempfile::tempdir().unwrap();
    if !make_certificates(folder.path()) {
        println!("skipped: {test} needs openssl (package openssl)");
        return;
    }
    let at = folder.path().display().to_string();
    let tls = |more: &str| format!("  tls:\n    certificate: {at}/host.pem\n    key: {at}/host.key\n{more}");
    let http = tls(&format!("    clientcas: [{at}/ca.crt]\n"));
    let Some(registry) = Registry::start_in(test, folder, &http, "") else { return };
    let name = ImageRef::parse(&format!("localhost:{}/t:1", registry.port)).unwrap();
    let source = Shared::new();
    let id = make_image(&source, std::slice::from_ref(&name));
    let given = tempfile::tempdir().unwrap();
    let host = given.path().join(format!("localhost:{}", registry.port));
    std::fs::create_dir(&host).unwrap();
    let given_by = || RegistryClient::new(RegistryConfig { certificates: vec![given.path().to_owned()], ..quick() });
    let (to, _events) = reporter();

    let error = push(&given_by(), &source.images, &name, None, None, &to).await.unwrap_err();
    assert!(!matches!(error, ImageError::Unauthorized(_)), "the registry wants a certificate: {error}");
    let from = registry.folder.path();
    std::fs::copy(from.join("host.pem"), host.join("client.cert")).unwrap();
    std::fs::copy(from.join("host.key"), host.join("client.key")).unwrap();
    std::fs::copy(from.join("ca.crt"), host.join("ca.crt")).unwrap();
    let pushed = push(&given_by(), &source.images, &name, None, None, &to).await.unwrap();
    let target = Shared::new();
    let pulled = pull_by(&given_by(), &target, &name.to_string(), None).await.unwrap();
    assert_eq!((pulled.image.id, pulled.digest), (id, pushed.digest));

    // Another authority than the one that vouches for it.
    let other = tempfile::tempdir().unwrap();
    assert!(make_certificates(other.path()));
    std::fs::copy(other.path().join("ca.crt"), host.join("ca.crt")).unwrap();
    let target = Shared::new();
    pull_by(&given_by(), &target, &name.to_string(), None).await.unwrap_err();
    target.assert_empty();
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_unreachable() {
    let store = Shared::new();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = try_pull(&store, &format!("127.0.0.1:{port}/x"), None).await.unwrap_err();
    assert!(matches!(error, ImageError::Unreachable(_)), "{error}");
    store.assert_empty();
}

/// What an index says about its images is carried along, by whoever it was made.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_goes_through_untouched_with_what_it_says() {
    let Some(registry) = Registry::start("an_index_goes_through_untouched_with_what_it_says", None) else { return };
    let named = |text: &str| ImageRef::parse(&format!("localhost:{}/{text}", registry.port)).unwrap();
    let (first, second, third) = (named("team/app:1"), named("other/app:1"), named("team/part:1"));
    let source = Shared::new();
    let mut entries = Vec::new();
    for text in ["linux/amd64", "linux/s390x"] {
        let platform = Platform::parse(text).unwrap();
        let layer = source.images.add_layer_from_tar(Archive::new().file("arch", text).done().as_slice(), &[]).unwrap();
        let config =
            ImageConfig { architecture: platform.architecture.clone(), os: "linux".into(), ..ImageConfig::default() };
        let image = source.images.create_image(config, vec![layer], None, &[]).unwrap();
        let image = source.images.pack_layers(&image.id).unwrap();
        let document = format!("{{\"about\":\"{text}\"}}").into_bytes();
        let statements = vec![Statement { predicate_type: "test".into(), document }];
        entries.push(IndexEntry { platform, image, statements });
    }
    let made = source.images.create_index(&entries, std::slice::from_ref(&first)).unwrap();
    let (to, _events) = reporter();
    let pushed = push(&client(), &source.images, &first, None, None, &to).await.unwrap();
    assert_eq!(pushed.digest, made.digest);

    // One platform at a time: each brings what is said about it, and nothing else of the index.
    let host = Shared::new();
    let wanted = |text: &str| Platform::parse(text).unwrap();
    let s390x = wanted("linux/s390x");
    let pulled = pull(&client(), &host.images, &first, Some(&s390x), None, &to).await.unwrap();
    assert_eq!((pulled.digest, pulled.known), (made.digest, false));
    assert_eq!(pulled.image.config.architecture, "s390x");
    let part = host.images.index_by_name(&first).unwrap();
    let here: Vec<bool> = part.members.iter().map(|member| host.images.has_member(member)).collect();
    assert_eq!(here, [false, true, false, true]);
    // Where the rest is known, all of it can be pushed; elsewhere the image alone is.
    host.images.tag_as(&first.to_string(), &third).unwrap();
    host.images.tag_as(&first.to_string(), &second).unwrap();
    let alone = push(&client(), &host.images, &third, None, None, &to).await.unwrap();
    assert_eq!(alone.digest, entries[1].image.manifest);
    let again = push(&client(), &host.images, &first, None, None, &to).await.unwrap();
    assert_eq!(again.digest, made.digest);
    let one = push(&client(), &host.images, &third, Some(&s390x), None, &to).await.unwrap();
    assert_eq!(one.digest, entries[1].image.manifest);

    // The other platform joins the first; then all of it goes elsewhere as it came.
    pull(&client(), &host.images, &first, Some(&wanted("linux/amd64")), None, &to).await.unwrap();
    let known = pull(&client(), &host.images, &first, Some(&s390x), None, &to).await.unwrap();
    assert!(known.known);
    let whole = host.images.index_by_name(&second).unwrap();
    assert!(host.images.is_whole(&whole));
    let moved = push(&client(), &host.images, &second, None, None, &to).await.unwrap();
    assert_eq!(moved.digest, made.digest);
    let found = manifest(&client(), &second, None).await.unwrap();
    assert_eq!(found.bytes, source.images.blobs().read(&made.digest, 1 << 20).unwrap());
    for member in &made.members {
        let name = second.with_digest(member.digest());
        let there = manifest(&client(), &name, None).await.unwrap();
        assert_eq!(there.bytes, source.images.blobs().read(&member.digest(), 1 << 20).unwrap());
    }
    // Nothing of it stays behind once its names and images are gone.
    for (image, names) in host.images.list() {
        names.iter().for_each(|name| assert!(host.images.untag(name).unwrap().is_some()));
        host.images.delete(&image.id).unwrap();
    }
    host.assert_empty();
}
