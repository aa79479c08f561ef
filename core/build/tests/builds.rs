//! Whole builds over plain folders: everything but the isolation of RUN, whose programs are played.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use sampan_build::backend::{Backend, Fetched, Flights, Message, MountSource, Output, Part, Root, RunStep};
use sampan_build::cache::{Entry, Key};
use sampan_build::context::{Context, Scratch};
use sampan_build::device::{Allowed, Chosen, Device};
use sampan_build::error::{BuildError, Result};
use sampan_build::executor::{Named, Product, Request, build};
use sampan_build::options::Options;
use sampan_build::remote::Remote;
use sampan_image::{
    BackendError, ChainId, ChangeView, Digest, ImageConfig, ImageRecord, ImageRef, ImageStore, IndexEntry,
    LayerBackend, LayerRef, Platform, Whiteouts,
};

struct Folders(PathBuf);

impl Folders {
    fn path(&self, chain: &ChainId) -> PathBuf {
        self.0.join(chain.0.hex())
    }
}

fn copy_tree(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

impl LayerBackend for Folders {
    fn whiteouts(&self) -> std::result::Result<Whiteouts, BackendError> {
        Ok(Whiteouts::Remove)
    }

    fn prepare(&self, chain: &ChainId, parents: &[ChainId]) -> std::result::Result<PathBuf, BackendError> {
        let path = self.path(chain);
        if !path.exists() {
            match parents.first() {
                None => fs::create_dir_all(&path).unwrap(),
                Some(parent) => copy_tree(&self.path(parent), &path),
            }
        }
        Ok(path)
    }

    fn remove(&self, chain: &ChainId) -> std::result::Result<(), BackendError> {
        drop(fs::remove_dir_all(self.path(chain)));
        Ok(())
    }
}

struct Work {
    folder: tempfile::TempDir,
}

impl Root for Work {
    fn path(&self) -> &Path {
        self.folder.path()
    }
}

struct Engine {
    folder: tempfile::TempDir,
    layers: Arc<Folders>,
    images: ImageStore,
    cache: Mutex<HashMap<Key, Entry>>,
    flights: Flights,
    runs: AtomicUsize,
    steps: Mutex<Vec<RunStep>>,
}

impl Backend for Engine {
    type Root = Work;

    async fn image(&self, name: &str, _: &Platform, _: bool, _: &Output) -> Result<Arc<ImageRecord>> {
        let name = ImageRef::parse(name).map_err(|error| BuildError::Invalid(error.to_string()))?;
        self.images.by_name(&name).ok_or_else(|| BuildError::Invalid(format!("there is no image {}", name.familiar())))
    }

    async fn open(&self, parents: &[ChainId]) -> Result<Work> {
        let folder = tempfile::tempdir_in(self.folder.path().join("work")).unwrap();
        if let Some(parent) = parents.first() {
            copy_tree(&self.layers.path(parent).join("."), folder.path());
        }
        Ok(Work { folder })
    }

    async fn devices(&self, wanted: Vec<Device>, _: &Allowed) -> Result<Chosen> {
        Ok(Chosen { missing: wanted.into_iter().map(|device| device.name).collect(), ..Chosen::default() })
    }

    /// Plays a shell that knows `put PATH TEXT`, `fail CODE` and `sleep`.
    async fn run(&self, root: &Work, step: RunStep, output: &Output) -> Result<i32> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        self.steps.lock().unwrap().push(step.clone());
        let text = step.args.last().unwrap().clone();
        output.send(Message::Stream(format!("ran {text}\n"))).await.map_err(|_| BuildError::Cancelled)?;
        for mount in &step.mounts {
            fs::create_dir_all(root.path().join(mount.target.trim_start_matches('/'))).unwrap();
        }
        let words: Vec<&str> = text.split_whitespace().collect();
        match words.as_slice() {
            ["put", path, text @ ..] => {
                let path = root.path().join(path.trim_start_matches('/'));
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text.join(" ")).unwrap();
                Ok(0)
            }
            ["fail", code] => Ok(code.parse().unwrap()),
            ["sleep"] => {
                tokio::time::sleep(std::time::Duration::from_secs(3600)).await;
                Ok(0)
            }
            _ => Ok(0),
        }
    }

    /// Plays a server that has one file.
    async fn fetch(&self, remote: &Remote, _: bool, checksum: Option<&str>) -> Result<Fetched> {
        if checksum.is_some_and(|wanted| wanted != "sha256:right") {
            return Err(BuildError::Invalid("the checksum is another".to_owned()));
        }
        let scratch = Scratch::new(&self.folder.path().join("work")).unwrap();
        let path = if remote.file_name().is_empty() { "." } else { remote.file_name() };
        fs::write(scratch.path().join(if path == "." { "inside" } else { path }), remote.shown()).unwrap();
        Ok(Fetched { path: path.to_owned(), context: Context::scratch(scratch), note: None })
    }

    async fn commit(&self, root: &Work, parents: &[ChainId], _: Option<i64>) -> Result<LayerRef> {
        let below = match parents.first() {
            Some(parent) => self.layers.path(parent),
            None => {
                let empty = self.folder.path().join("empty");
                fs::create_dir_all(&empty).unwrap();
                empty
            }
        };
        let view = ChangeView::Compare(below, root.path().to_owned());
        self.images.commit_layer(&view, parents).map_err(|error| BuildError::Backend(error.to_string()))
    }

    async fn rebase(&self, layer: &LayerRef, parents: &[ChainId]) -> Result<LayerRef> {
        self.images.lay(layer, parents).map_err(|error| BuildError::Backend(error.to_string()))
    }

    async fn cached(&self, key: Key, on: Option<ChainId>) -> Option<Entry> {
        let found = self.cache.lock().unwrap().get(&key).cloned()?;
        let lies = |layer: &LayerRef| layer.chain_id == ChainId::on(on.as_ref(), &layer.diff_id);
        found.layer.as_ref().is_none_or(lies).then_some(found)
    }

    async fn remember(&self, key: Key, entry: Entry) -> Result<()> {
        if let Some(layer) = &entry.layer {
            self.images.pin(&layer.chain_id, &format!("cache:{key}")).unwrap();
        }
        self.cache.lock().unwrap().insert(key, entry);
        Ok(())
    }

    async fn create(
        &self,
        config: ImageConfig,
        layers: Vec<LayerRef>,
        parent: Option<Digest>,
        names: Vec<ImageRef>,
    ) -> Result<Arc<ImageRecord>> {
        self.images.create_image(config, layers, parent, &names).map_err(|error| BuildError::Backend(error.to_string()))
    }

    async fn join(&self, parts: Vec<Part>, names: Vec<ImageRef>) -> Result<Digest> {
        let entries: Vec<_> = parts
            .into_iter()
            .map(|part| IndexEntry { platform: part.platform, image: part.image, statements: Vec::new() })
            .collect();
        let index = self.images.create_index(&entries, &names);
        index.map(|index| index.digest).map_err(|error| BuildError::Backend(error.to_string()))
    }

    fn flights(&self) -> &Flights {
        &self.flights
    }
}

struct World {
    engine: Arc<Engine>,
    context: tempfile::TempDir,
}

struct Built {
    result: Result<Arc<ImageRecord>>,
    product: Option<Product>,
    said: String,
}

impl Built {
    fn image(&self) -> &ImageRecord {
        match &self.result {
            Ok(image) => image,
            Err(error) => panic!("{error}\n{}", self.said),
        }
    }

    fn fault(&self) -> String {
        self.result.as_ref().unwrap_err().to_string()
    }
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("work")).unwrap();
        let layers = Arc::new(Folders(folder.path().join("layers")));
        fs::create_dir(&layers.0).unwrap();
        let store = sampan_store::Store::in_memory().unwrap();
        let images = ImageStore::open(&folder.path().join("images"), store, layers.clone()).unwrap();
        images.recover().unwrap();
        let engine = Engine {
            folder,
            layers,
            images,
            cache: Mutex::default(),
            flights: Flights::default(),
            runs: AtomicUsize::new(0),
            steps: Mutex::default(),
        };
        Self { engine: Arc::new(engine), context: tempfile::tempdir().unwrap() }
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.context.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn request(&self, text: &str) -> Request {
        let mut context = Context::directory(self.context.path().to_owned());
        context.read_ignore("Dockerfile").unwrap();
        Request {
            dockerfile: "Dockerfile".into(),
            text: text.into(),
            context: Arc::new(context),
            names: vec![],
            platforms: vec![],
            contexts: BTreeMap::new(),
            options: Options::default(),
        }
    }

    async fn build(&self, text: &str) -> Built {
        self.build_with(text, |_| {}).await
    }

    async fn build_with(&self, text: &str, change: impl FnOnce(&mut Request)) -> Built {
        let mut request = self.request(text);
        change(&mut request);
        let (sender, mut receiver) = tokio::sync::mpsc::channel(4);
        let task = tokio::spawn(build(self.engine.clone(), request, sender));
        let mut said = String::new();
        while let Some(message) = receiver.recv().await {
            said.push_str(&message.text().unwrap_or_default());
        }
        let result: Result<Product> = task.await.unwrap();
        let product = result.as_ref().ok().cloned();
        Built { result: result.map(|product| product.images[0].clone()), product, said }
    }

    fn runs(&self) -> usize {
        self.engine.runs.load(Ordering::SeqCst)
    }

    fn read(&self, image: &ImageRecord, path: &str) -> String {
        let root = self.engine.layers.path(&image.top().unwrap());
        fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn has(&self, image: &ImageRecord, path: &str) -> bool {
        self.engine.layers.path(&image.top().unwrap()).join(path).symlink_metadata().is_ok()
    }

    fn left_over(&self) -> usize {
        fs::read_dir(self.engine.folder.path().join("work")).unwrap().count()
    }
}

#[tokio::test]
async fn what_is_named_and_what_is_remote_is_copied() {
    let world = World::new();
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("part"), "of another").unwrap();
    let named = Named::Files(Arc::new(Context::directory(other.path().to_owned())));
    let text = "FROM scratch\nCOPY --from=Other part /part\nADD --checksum=sha256:right http://host/dir/file.txt /in/\nADD https://host/repo.git#main:sub /repo\n";
    let change = |request: &mut Request| {
        request.contexts.insert("other".into(), named.clone());
    };
    let built = world.build_with(text, change).await;
    let image = built.image();
    assert_eq!(world.read(image, "part"), "of another");
    assert_eq!(world.read(image, "in/file.txt"), "http://host/dir/file.txt");
    assert_eq!(world.read(image, "repo/inside"), "https://host/repo.git");
    let again = world.build_with(text, change).await;
    assert_eq!(again.image().id, image.id, "{}", again.said);
    fs::write(other.path().join("part"), "changed").unwrap();
    assert_eq!(
        world.read(
            world
                .build_with(text, |request| {
                    request
                        .contexts
                        .insert("other".into(), Named::Files(Arc::new(Context::directory(other.path().to_owned()))));
                })
                .await
                .image(),
            "part"
        ),
        "changed"
    );

    for (text, part) in [
        ("FROM scratch\nADD --checksum=sha256:wrong http://host/f /f\n", "the checksum is another"),
        ("FROM scratch\nADD --checksum=sha256:right a http://host/f /f/\n", "exactly one URL"),
        ("FROM scratch\nADD http://host/ /dir/\n", "names no file"),
        ("FROM scratch\nADD https://h/r.git#--x /f\n", "cannot be a branch"),
        ("FROM scratch\nCOPY http://host/f /f\n", "ADD does"),
        ("FROM other\n", "docker-image://"),
    ] {
        let fault = world.build_with(text, change).await.fault();
        assert!(fault.contains(part) && fault.contains('^'), "{fault}");
    }
    assert_eq!(world.left_over(), 0);
}

#[tokio::test]
async fn agents_reach_the_steps_that_ask_for_them() {
    let world = World::new();
    let text = "FROM scratch\nRUN --mount=type=ssh put /a a\nRUN --mount=type=ssh,id=deploy,target=/agent,mode=0666,required put /b b\n";
    let built = world
        .build_with(text, |request| {
            request.options.ssh.insert("deploy".into(), "/run/agent.sock".into());
        })
        .await;
    built.image();
    let steps = world.engine.steps.lock().unwrap().clone();
    assert!(steps[0].mounts.is_empty(), "an agent that is not given is not needed");
    assert!(steps[1].env.contains(&"SSH_AUTH_SOCK=/agent".to_owned()));
    assert!(matches!(&steps[1].mounts[0].source, MountSource::Ssh { mode: 0o666, .. }));
    let fault = world.build("FROM scratch\nRUN --mount=type=ssh,required x\n").await.fault();
    assert!(fault.contains("--ssh default"), "{fault}");
}

#[tokio::test]
async fn a_stage_alone_may_be_built_anew() {
    let world = World::new();
    let text = "FROM scratch AS one\nRUN put /1 a\nFROM scratch AS two\nRUN put /2 b\nFROM scratch\nCOPY --from=one / /\nCOPY --from=two / /\n";
    world.build(text).await.image();
    assert_eq!(world.runs(), 2);
    world.build_with(text, |request| request.options.no_cache_stages = vec!["TWO".into()]).await.image();
    assert_eq!(world.runs(), 3);
    let fault = world.build_with(text, |request| request.options.no_cache_stages = vec!["three".into()]).await.fault();
    assert!(fault.contains("no such stage"), "{fault}");
    let fault = world.build_with(text, |request| request.options.rewrite_timestamp = true).await.fault();
    assert!(fault.contains("SOURCE_DATE_EPOCH"), "{fault}");
}

#[tokio::test]
async fn a_build_makes_files_and_configuration() {
    let world = World::new();
    world.put("app/main", "program");
    world.put("app/skip.o", "object");
    world.put(".dockerignore", "**/*.o\n");
    let text = r#"ARG VERSION=7
FROM scratch AS base
ARG VERSION
ENV A=1 B="two $VERSION"
LABEL made.by=tests
WORKDIR /srv/app
COPY --chmod=750 app .
RUN put /out ${B}
EXPOSE 80 53/udp
VOLUME /data
USER 10:20
HEALTHCHECK --interval=5s CMD check it
STOPSIGNAL SIGQUIT
ENTRYPOINT ["/srv/app/main"]
CMD ["--serve"]
"#;
    let names = vec![ImageRef::parse("test/app:1").unwrap()];
    let built = world
        .build_with(text, |request| {
            request.names = names;
            request.options.labels.insert("given".into(), "yes".into());
        })
        .await;
    let image = built.image();
    let config = &image.config.config;
    assert_eq!(config.env[1..], ["A=1".to_owned(), "B=two 7".to_owned()]);
    assert_eq!(config.entrypoint.as_deref().unwrap(), ["/srv/app/main"]);
    assert_eq!(config.cmd.as_deref().unwrap(), ["--serve"]);
    assert_eq!((config.working_dir.as_str(), config.user.as_str()), ("/srv/app", "10:20"));
    assert_eq!(config.exposed_ports.iter().collect::<Vec<_>>(), ["53/udp", "80/tcp"]);
    assert_eq!((config.labels["made.by"].as_str(), config.labels["given"].as_str()), ("tests", "yes"));
    assert_eq!(config.healthcheck.as_ref().unwrap().test, ["CMD-SHELL", "check it"]);
    assert_eq!(world.read(image, "srv/app/main"), "program");
    assert_eq!(world.read(image, "out"), "${B}");
    assert!(!world.has(image, "srv/app/skip.o"));
    assert_eq!(image.layers.len(), 3);
    let made = image.config.history.iter().filter(|entry| !entry.empty_layer).count();
    assert_eq!((made, image.config.history.len()), (3, 13));
    assert!(built.said.contains("Step 14/14 : CMD [\"--serve\"]\n"), "{}", built.said);
    assert!(built.said.ends_with("Successfully tagged test/app:1\n"));
    assert_eq!(world.engine.images.by_name(&ImageRef::parse("test/app:1").unwrap()).unwrap().id, image.id);
    assert_eq!(world.left_over(), 0);
    let history: Vec<String> = image.config.history.iter().map(|entry| entry.created_by.clone().unwrap()).collect();
    insta::assert_snapshot!(history.join("\n"));
}

#[tokio::test]
async fn nothing_changed_gives_the_same_image_and_runs_nothing() {
    let world = World::new();
    world.put("a", "1");
    world.put("b", "1");
    let text = "FROM scratch\nLABEL x=y\nCOPY a /a\nRUN put /r one\nCOPY b /b\nRUN put /s two\n";
    let first = world.build(text).await;
    assert_eq!(world.runs(), 2);
    let again = world.build(text).await;
    assert_eq!(again.image().id, first.image().id);
    assert_eq!(world.runs(), 2);
    assert_eq!(again.said.matches("Using cache").count(), 4);

    // What a program cannot see does not make it run again.
    let labelled = world.build(&text.replace("x=y", "x=z")).await;
    assert_ne!(labelled.image().id, first.image().id);
    assert_eq!(world.runs(), 2);

    world.put("b", "2");
    let changed = world.build(text).await;
    assert_eq!(world.runs(), 3);
    assert_eq!(world.read(changed.image(), "b"), "2");

    let fresh = world.build_with(text, |request| request.options.no_cache = true).await;
    assert_eq!(world.runs(), 5);
    assert_eq!(fresh.image().layers.len(), changed.image().layers.len());
}

#[tokio::test]
async fn stages_are_copied_from_and_those_not_needed_are_skipped() {
    let world = World::new();
    world.put("src", "source");
    let text = "FROM scratch AS build\nCOPY src /src/file\nRUN put /out/bin built\nFROM scratch AS unused\nRUN fail 3\nFROM scratch\nCOPY --from=build /out/bin /bin/tool\nCOPY --from=0 /src /all/\n";
    let built = world.build(text).await;
    let image = built.image();
    assert_eq!(world.read(image, "bin/tool"), "built");
    assert_eq!(world.read(image, "all/file"), "source");
    assert!(!world.has(image, "out"));
    assert!(!built.said.contains("unused"));
    let target = world.build_with(text, |request| request.options.target = Some("unused".into())).await;
    assert!(target.fault().contains("returned a non-zero code: 3"), "{}", target.fault());
    assert_eq!(world.left_over(), 0);
}

#[tokio::test]
async fn images_are_bases_and_their_triggers_run() {
    let world = World::new();
    world.put("f", "file");
    let name = ImageRef::parse("base").unwrap();
    let base = world
        .build_with(
            "FROM scratch\nENV X=base\nCMD [\"run\"]\nONBUILD COPY f /onbuild\nONBUILD RUN put /t $X\n",
            |request| {
                request.names = vec![name];
            },
        )
        .await;
    assert_eq!(base.image().config.config.on_build.len(), 2);
    let built = world.build("FROM base\nENTRYPOINT [\"e\"]\n").await;
    let image = built.image();
    assert_eq!(world.read(image, "onbuild"), "file");
    assert!(image.config.config.on_build.is_empty());
    assert_eq!(image.config.config.cmd, None);
    assert_eq!(image.parent, Some(base.image().id));
    assert!(built.said.contains("# Executing 2 build triggers"));
    let missing = world.build("FROM nowhere\n").await;
    assert_eq!(
        missing.fault(),
        "Dockerfile:1:1: there is no image nowhere:latest\n 1 | FROM nowhere\n   | ^^^^^^^^^^^^"
    );
}

#[tokio::test]
async fn heredocs_become_files_and_scripts() {
    let world = World::new();
    let text = "FROM scratch\nENV V=value\nCOPY <<one <<-\"two\" /d/\n$V\none\n\t$V\n\ttwo\nRUN <<EOF\nput /r from heredoc\nEOF\nRUN <<S\n#!/bin/tool\nwhatever\nS\n";
    let built = world.build(text).await;
    let image = built.image();
    assert_eq!(world.read(image, "d/one"), "value\n");
    assert_eq!(world.read(image, "d/two"), "$V\n");
    assert_eq!(world.read(image, "r"), "from heredoc");
    let steps = world.engine.steps.lock().unwrap();
    assert_eq!(steps[1].args, ["/dev/pipes/S"]);
    assert!(
        matches!(&steps[1].mounts[0].source, MountSource::Secret { content, .. } if content.starts_with(b"#!/bin/tool\n"))
    );
    assert!(!world.has(image, "dev"));
}

#[tokio::test]
async fn run_gets_arguments_proxies_mounts_and_secrets_but_history_only_what_it_may() {
    let world = World::new();
    world.put("dep", "1");
    let text = "FROM scratch\nARG TOKEN\nARG HTTP_PROXY\nRUN --mount=type=cache,target=/cache --mount=type=secret,id=key --mount=type=bind,source=dep,target=/dep put /x y\n";
    let request = |request: &mut Request| {
        request.options.build_args.insert("TOKEN".into(), Some("t".into()));
        request.options.build_args.insert("HTTP_PROXY".into(), Some("http://user:pass@proxy".into()));
        request.options.build_args.insert("UNKNOWN".into(), Some("u".into()));
        request.options.secrets.insert("key".into(), Arc::from(&b"hidden"[..]));
    };
    let built = world.build_with(text, request).await;
    let image = built.image();
    {
        let steps = world.engine.steps.lock().unwrap();
        assert!(steps[0].env.contains(&"TOKEN=t".to_owned()));
        assert!(steps[0].env.contains(&"HTTP_PROXY=http://user:pass@proxy".to_owned()));
        let targets: Vec<&str> = steps[0].mounts.iter().map(|mount| mount.target.as_str()).collect();
        assert_eq!(targets, ["/cache", "/run/secrets/key", "/dep"]);
    }
    assert!(!world.has(image, "cache") && !world.has(image, "run") && !world.has(image, "dep"));
    let document = serde_json::to_string(&image.config).unwrap();
    assert!(document.contains("RUN |1 TOKEN=t /bin/sh -c put /x y"), "{document}");
    assert!(!document.contains("pass") && !document.contains("hidden") && !built.said.contains("hidden"));
    assert!(built.said.starts_with("[Warning] One or more build-args [UNKNOWN] were not consumed\n"));
    // Another proxy or secret is no other result; another bound file is.
    world
        .build_with(text, |r| {
            request(r);
            r.options.build_args.insert("HTTP_PROXY".into(), Some("http://other".into()));
        })
        .await
        .image();
    assert_eq!(world.runs(), 1);
    world.put("dep", "2");
    world.build_with(text, request).await.image();
    assert_eq!(world.runs(), 2);
}

#[tokio::test]
async fn faults_are_shown_at_their_place_and_leave_nothing() {
    let world = World::new();
    world.put("main.rs", "x");
    let mut shown = Vec::new();
    for text in [
        "FROM scratch\nCOPY main.sr /\n",
        "FROM scratch\nCOPY ../etc /\n",
        "FROM scratch\nCOPY main.rs Dockerfile* /x\n",
        "FROM scratch\nCOPY --chown=nobody main.rs /x\n",
        "FROM scratch\nRUN put /a b\nRUN fail 7\n",
        "FROM scratch\nEXPOSE 99999\n",
        "FROM scratch\nENV A=${B:?needs B}\n",
        "FROM scratch\nCOPY https://x/y /\n",
        "FROM scratch\nRUN --mount=type=secret,id=k,required=true x\n",
        "FROM scratch\nRUN --security=insecure x\n",
        "FROM scratch\nCOPY --from=Build / /\n",
        "FROM scratch\nSTOPSIGNAL SIGNOPE\n",
    ] {
        let built = world.build(text).await;
        shown.push(built.fault());
    }
    assert_eq!(world.left_over(), 0);
    insta::assert_snapshot!(shown.join("\n\n"));
}

#[tokio::test]
async fn arguments_are_seen_by_the_stages_upon_and_the_later_of_two_wins() {
    let world = World::new();
    let text = "FROM scratch AS base\nARG A=1\nENV B=2\nARG B=3\nARG C=4\nENV C=5\nFROM base\nARG A\nRUN put /x $A\n";
    let built = world.build(text).await;
    let steps = world.engine.steps.lock().unwrap();
    let env: Vec<_> = steps[0].env.iter().filter(|each| !each.starts_with("PATH=")).cloned().collect();
    assert_eq!(env, ["C=5", "B=3", "A=1"]);
    // What the image brings is what ENV says.
    assert_eq!(built.image().config.config.env[1..], ["B=2".to_owned(), "C=5".to_owned()]);
}

#[tokio::test]
async fn several_files_go_into_a_directory_that_is_there() {
    let world = World::new();
    world.put("a", "1");
    world.put("b", "2");
    let built = world.build("FROM scratch\nWORKDIR /d\nCOPY a b /d\nCOPY ../a /../b d/\n").await;
    assert_eq!(
        (world.read(built.image(), "d/b"), world.read(built.image(), "d/d/a")),
        ("2".to_owned(), "1".to_owned())
    );
    assert!(world.build("FROM scratch\nCOPY a /d\nCOPY a b /d\n").await.fault().contains("more than one source file"));
}

#[tokio::test]
async fn a_working_directory_is_its_users() {
    use std::os::unix::fs::MetadataExt;
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: a_working_directory_is_its_users needs root");
        return;
    }
    let world = World::new();
    let text = "FROM scratch\nWORKDIR /first\nUSER 7:8\nWORKDIR /own/deep\nUSER 9\nWORKDIR /own\nUSER who\nWORKDIR /r\nUSER $NOBODY\n";
    let built = world.build(text).await;
    let top = built.image().layers.last().unwrap().chain_id;
    let owner = |path: &str| {
        let found = fs::metadata(world.engine.layers.path(&top).join(path)).unwrap();
        (found.uid(), found.gid())
    };
    assert_eq!([owner("first"), owner("own"), owner("own/deep"), owner("r")], [(0, 0), (7, 8), (7, 8), (0, 0)]);
    assert_eq!(built.image().config.config.user, "");
}

#[tokio::test]
async fn a_copy_with_a_mode_is_no_layer_of_its_own() {
    let world = World::new();
    world.put("a", "1");
    let built = world.build("FROM scratch\nCOPY --link a /d/x\nCOPY --link --chmod=600 a /d/y\n").await;
    let top = built.image().layers.last().unwrap().chain_id;
    let mode = |path: &str| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(world.engine.layers.path(&top).join(path)).unwrap().mode() & 0o777
    };
    assert_eq!((mode("d"), mode("d/y")), (0o755, 0o600), "the directory is that which was there");
}

#[tokio::test]
async fn the_hosts_network_is_for_whom_it_is_allowed() {
    let world = World::new();
    let text = "FROM scratch\nRUN --network=host put /x y\n";
    let fault = world.build(text).await.fault();
    assert!(fault.contains("--allow network.host"), "{fault}");
    let allow = |request: &mut Request| {
        request.options.allowed = sampan_build::device::allowed(&["network.host".to_owned()]).unwrap();
    };
    world.build_with(text, allow).await.image();
    // Or all steps are in it.
    world.build_with(text, |request| request.options.network = "host".into()).await.image();
}

#[tokio::test]
async fn a_dropped_build_ends_and_leaves_nothing() {
    let world = World::new();
    let request = world.request("FROM scratch\nRUN sleep\n");
    let (sender, mut receiver) = tokio::sync::mpsc::channel(4);
    let task = tokio::spawn(build(world.engine.clone(), request, sender));
    while let Some(message) = receiver.recv().await {
        if matches!(&message, Message::Stream(text) if text.starts_with("ran")) {
            break;
        }
    }
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    for _ in 0..6000 {
        if world.left_over() == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("roots are left");
}

#[tokio::test]
async fn equal_steps_of_builds_at_once_are_done_once() {
    let world = Arc::new(World::new());
    let text = "FROM scratch\nRUN put /x y\nRUN put /y z\n";
    let (a, b, c) = tokio::join!(world.build(text), world.build(text), world.build(text));
    assert_eq!(world.runs(), 2);
    assert_eq!(a.image().id, b.image().id);
    assert_eq!(b.image().id, c.image().id);
}

#[tokio::test]
async fn a_date_makes_builds_reproducible() {
    let worlds = [World::new(), World::new()];
    let mut ids = Vec::new();
    for world in &worlds {
        world.put("f", "same");
        let file = fs::File::options().write(true).open(world.context.path().join("f")).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        fs::set_permissions(world.context.path().join("f"), std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .unwrap();
        let built = world
            .build_with("FROM scratch\nWORKDIR /w/deep\nCOPY f new/dir/\nENV A=b\nCOPY <<E /e\nx\nE\n", |request| {
                request.options.build_args.insert("SOURCE_DATE_EPOCH".into(), Some("1000".into()));
            })
            .await;
        ids.push(built.image().id);
        assert_eq!(built.image().config.created.as_deref(), Some("1970-01-01T00:16:40Z"));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(ids[0], ids[1]);
}

#[tokio::test]
async fn a_linked_copy_stands_on_nothing_below_it() {
    let world = World::new();
    for (path, text) in [
        ("old/etc/passwd", "web:x:7:8::/:/\n"),
        ("new/etc/passwd", "web:x:7:8::/:/\n"),
        ("new/more", "m"),
        ("app", "a"),
    ] {
        world.put(path, text);
    }
    let text = |base: &str| format!("FROM scratch\nCOPY {base} /\nCOPY --link --chown=web app /srv/app\n");
    let first = world.build(&text("old")).await;
    assert_eq!(world.read(first.image(), "srv/app"), "a");
    assert_eq!(world.read(first.image(), "etc/passwd"), "web:x:7:8::/:/\n");
    // Another base: its copy is made, the linked one is there already, over what is new below it.
    let second = world.build(&text("new")).await;
    assert_eq!(second.said.matches("Using cache").count(), 1, "{}", second.said);
    assert_eq!((world.read(second.image(), "srv/app"), world.read(second.image(), "more")), ("a".into(), "m".into()));
    let layers = |built: &Built| built.image().layers.iter().map(|layer| layer.diff_id).collect::<Vec<_>>();
    assert_eq!(layers(&first)[1], layers(&second)[1], "the same layer");
    assert_ne!(layers(&first)[0], layers(&second)[0]);
    let again = world.build(&text("new")).await;
    assert_eq!(again.image().id, second.image().id, "{}", again.said);
    // Without --link what is below counts.
    let plain = |base: &str| text(base).replace("--link ", "");
    world.build(&plain("old")).await;
    let said = world.build(&plain("new")).await.said;
    assert_eq!(said.matches("Using cache").count(), 1, "{said}");
    // Who owns it is looked up where it lands.
    world.put("new/etc/passwd", "web:x:9:9::/:/\n");
    let moved = world.build(&text("new")).await;
    assert_eq!(moved.said.matches("Using cache").count(), 0, "{}", moved.said);
    let missing = world.build("FROM scratch\nCOPY --link --chown=nobody app /x\n").await.fault();
    assert!(missing.contains("there is no user nobody"), "{missing}");
}

#[tokio::test]
async fn several_platforms_share_what_does_not_depend_on_them() {
    let world = World::new();
    world.put("file", "content");
    let text = "FROM --platform=$BUILDPLATFORM scratch AS tools\nRUN put /out made once\n\
                FROM --platform=$BUILDPLATFORM tools AS cross\nARG TARGETARCH\nRUN put /out for $TARGETARCH\n\
                FROM scratch\nARG TARGETARCH\nENV ARCH=$TARGETARCH\nCOPY --from=cross /out /out\nCOPY file /file\n";
    let platforms: Vec<Platform> =
        ["linux/amd64", "linux/arm64", "linux/s390x"].map(|text| Platform::parse(text).unwrap()).into();
    let request = |no_cache: bool| {
        let platforms = platforms.clone();
        move |request: &mut Request| {
            request.platforms = platforms;
            request.names = vec![ImageRef::parse("test/app:1").unwrap()];
            request.options.no_cache = no_cache;
        }
    };
    let built = world.build_with(text, request(false)).await;
    let product = built.product.clone().unwrap_or_else(|| panic!("{}\n{}", built.fault(), built.said));
    // Once for all, then once for each: the played shell knows no variables, so those steps differ by their arguments.
    assert_eq!(world.runs(), 1 + 3, "{}", built.said);
    assert_eq!(product.images.len(), 3);
    for (image, platform) in product.images.iter().zip(&platforms) {
        assert_eq!(image.platform(), *platform);
        assert!(image.config.config.env.contains(&format!("ARCH={}", platform.architecture)));
        assert_eq!(world.read(image, "file"), "content");
    }
    // One name, which leads to the image for this machine or the first.
    let index = world.engine.images.index("test/app:1").unwrap();
    assert_eq!(Some(index.digest), product.index);
    assert_eq!(index.members.len(), 3);
    for (image, platform) in product.images.iter().zip(&platforms) {
        assert_eq!(index.image_for(platform), Some(image.id));
    }
    let total = 3 * (2 + 3 + 5);
    assert!(built.said.contains(&format!("Step 1/{total} : [linux/amd64] FROM --platform=$BUILDPLATFORM scratch")));
    assert!(built.said.contains(&format!("Step {total}/{total} : [linux/s390x] COPY file /file")), "{}", built.said);

    // Nothing remembered counts: still no step is done twice in one build.
    let again = world.build_with(text, request(true)).await;
    assert!(again.result.is_ok(), "{}", again.fault());
    assert_eq!(world.runs(), 2 * (1 + 3), "{}", again.said);
    assert_eq!(world.left_over(), 0);
}

#[tokio::test]
async fn a_platform_that_fails_fails_the_build_and_names_itself() {
    let world = World::new();
    let built = world
        .build_with("FROM scratch\nRUN fail 3\n", |request| {
            request.platforms = ["linux/amd64", "linux/arm64"].map(|text| Platform::parse(text).unwrap()).into();
            request.names = vec![ImageRef::parse("test/app:1").unwrap()];
        })
        .await;
    assert!(built.fault().contains("non-zero code: 3"), "{}", built.fault());
    assert!(built.said.contains("[linux/amd64] RUN fail 3"), "{}", built.said);
    assert!(world.engine.images.list().is_empty() && world.engine.images.index("test/app:1").is_none());
    assert_eq!(world.left_over(), 0);
}
