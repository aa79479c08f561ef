//! Image builds: the engine's side of `sampan-build`.
//!
//! `backend` is what a build asks of the engine, `root` a step's writable layer, `run` the program in it, `cache` what is
//! kept over builds, `export` and `import` the same outside of the engine, `fetch` what comes from the network, `parts` the upload of
//! Sampan's own client, `client` what one of BuildKit's protocol needs, `memory` what must not be on a disk, `discard` what may be written and is not kept.

mod backend;
mod cache;
mod client;
mod discard;
mod export;
mod fetch;
mod import;
mod latest;
mod memory;
mod mounts;
mod parts;
mod request;
mod root;
mod run;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use bollard_stubs::models::BuildPruneResponse;
pub use sampan_build::backend::{Message, Step, Ulimit};
use sampan_build::blocking;
use sampan_build::cache::Key;
pub use sampan_build::context::{Context, Scratch};
pub use sampan_build::device::allowed;
pub use sampan_build::error::BuildError;
use sampan_build::executor::Named;
pub use sampan_build::options::Options;
pub use sampan_build::parser::duration;
pub use sampan_build::provenance::attestations;
use sampan_build::remote::Remote;
use sampan_image::registry::Reporter;
pub use sampan_image::{Compression, Packing};
use sampan_image::{ImageRef, Platform};
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio_util::io::SyncIoBridge;

use backend::EngineBackend;
pub(crate) use cache::Builds;
use cache::Prune;
pub use client::{ImageFiles, host_platform, ignore_patterns, image_name, image_registry, needed};
use import::Imported;
pub use request::{AskLogin, BuildContext, BuildRequest, CachePlace, CacheSource, CacheTarget, Call, NamedContext};
pub(crate) use root::recover;

use crate::Engine;
use crate::error::{Error, Result};
use crate::filters::Filters;
use crate::messages::BuildMessage;

/// The options of Sampan's own client, at the beginning of an upload.
pub async fn read_options(reader: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>> {
    parts::whole(reader, 8 << 20).await
}

/// Platforms of one build.
const MAX_PLATFORMS: usize = 64;

/// What a build is given, checked.
struct Checked {
    names: Vec<ImageRef>,
    platforms: Vec<Platform>,
    /// Names of caches in registries, by their texts.
    caches: HashMap<String, ImageRef>,
}

fn check(request: &BuildRequest) -> Result<Checked> {
    let names = request.tags.iter().map(|tag| ImageRef::parse(tag).map_err(Error::invalid)).collect::<Result<_>>()?;
    let mut platforms = Vec::new();
    for text in request.platforms.iter().filter(|text| !text.is_empty()) {
        let platform = Platform::parse(text)?;
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    if platforms.is_empty() {
        platforms.push(Platform::host());
    }
    if platforms.len() > MAX_PLATFORMS {
        return Err(Error::invalid(format!("more than {MAX_PLATFORMS} platforms")));
    }
    for host in &request.options.extra_hosts {
        crate::containers::extra_host(host)?;
    }
    let sources = request.cache_from.iter().filter_map(|source| match source {
        CacheSource::Registry(name) => Some(name),
        _ => None,
    });
    let targets = request.cache_to.iter().filter_map(|target| match &target.place {
        CachePlace::Registry(name) => Some(name),
        _ => None,
    });
    let caches = sources.chain(targets).map(|text| {
        let name = ImageRef::parse(text).map_err(|error| Error::invalid(format!("a build cache: {error}")))?;
        Ok((text.clone(), name))
    });
    let caches = caches.collect::<Result<_>>()?;
    Ok(Checked { names, platforms, caches })
}

/// What a build is given, taken in.
struct Received {
    context: Context,
    dockerfile: String,
    text: String,
    contexts: BTreeMap<String, Named>,
    caches: Vec<Imported>,
}

/// Files that were fetched before anything is read of the upload.
#[derive(Default)]
struct Remotes {
    main: Option<Context>,
    named: HashMap<String, Context>,
}

/// Addresses of contexts that are fetched: the main one's, and those of others by name.
fn addresses(request: &BuildRequest) -> (Option<String>, Vec<(String, String)>) {
    let main = match &request.context {
        BuildContext::Remote(url) | BuildContext::Parts { remote: Some(url), .. } => Some(url.clone()),
        _ => None,
    };
    let named = request.contexts.iter().filter_map(|(name, context)| match context {
        NamedContext::Remote(url) => Some((name.to_ascii_lowercase(), url.clone())),
        _ => None,
    });
    (main, named.collect())
}

/// Whether repositories are contexts with their history, as an argument of BuildKit's says.
fn keeps_git(request: &BuildRequest) -> bool {
    let asked = request.options.build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR").and_then(Option::as_deref);
    matches!(asked, Some("1" | "t" | "T" | "true" | "TRUE" | "True"))
}

/// Fetches them.
async fn fetch_contexts(
    engine: &Engine,
    keep_git: bool,
    (main, named): (Option<String>, Vec<(String, String)>),
) -> Result<Remotes, BuildError> {
    let mut found = Remotes::default();
    if let Some(url) = main {
        found.main = Some(remote(engine, &url, keep_git).await?);
    }
    for (name, url) in named {
        found.named.insert(name, remote(engine, &url, keep_git).await?);
    }
    Ok(found)
}

/// A git repository, an archive, or a Dockerfile alone.
async fn remote(engine: &Engine, url: &str, keep_git: bool) -> Result<Context, BuildError> {
    let parsed = Remote::parse(url).map_err(BuildError::Invalid)?;
    let parsed = parsed.ok_or_else(|| BuildError::Invalid(format!("build context {url}: neither http(s) nor git")))?;
    let fetched = fetch::fetch(engine, &parsed, keep_git, None).await?;
    let scratch = engine.config().tmp();
    let work = move || {
        if matches!(parsed, Remote::Git { .. }) {
            return fetched.context.below(&fetched.path);
        }
        let path = fetched.context.root().join(&fetched.path);
        let wrong = |error: std::io::Error| BuildError::Context(format!("{}: {error}", parsed.shown()));
        let mut start = Vec::new();
        let mut file = std::fs::File::open(&path).map_err(wrong)?;
        std::io::Read::read_to_end(&mut std::io::Read::take(&mut file, 512), &mut start).map_err(wrong)?;
        if std::str::from_utf8(&start).is_ok_and(|text| !text.contains('\0')) {
            std::fs::rename(&path, path.with_file_name("Dockerfile")).map_err(wrong)?;
            return Ok(fetched.context);
        }
        Context::receive(std::fs::File::open(&path).map_err(wrong)?, &scratch)
    };
    blocking(work).await
}

/// Takes the files in and reads the Dockerfile. Blocks.
fn receive(
    request: &mut BuildRequest,
    mut remotes: Remotes,
    engine: &Engine,
    scratch: &std::path::Path,
) -> Result<Received, BuildError> {
    let name = request.dockerfile.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| "Dockerfile".to_owned());
    let (mut contexts, mut caches) = (BTreeMap::new(), Vec::new());
    let mut upload = None;
    let mut directory = None;
    let mut main = match std::mem::take(&mut request.context) {
        BuildContext::Tar(reader) => Some(Context::receive(SyncIoBridge::new(reader), scratch)?),
        BuildContext::Directory(path) => {
            directory = Some(path.clone());
            Some(Context::directory_with(path, scratch.to_owned()))
        }
        BuildContext::Remote(_) => remotes.main.take(),
        BuildContext::Received(context) => Some(*context),
        BuildContext::Parts { reader, .. } => {
            upload = Some(SyncIoBridge::new(reader));
            remotes.main.take()
        }
    };
    for (name, context) in std::mem::take(&mut request.contexts) {
        let lower = name.to_ascii_lowercase();
        let found = match context {
            NamedContext::Directory(path) => {
                let mut context = Context::directory_with(path, scratch.to_owned());
                context.read_ignore("")?;
                Named::Files(Arc::new(context))
            }
            NamedContext::Layout => match &mut upload {
                Some(reader) => Named::Image(layout(engine, &name, reader)?),
                None => return Err(BuildError::Context(format!("the context {name} is not in the upload"))),
            },
            NamedContext::Image(image) => Named::Image(image),
            NamedContext::Received(context) => Named::Files(context),
            NamedContext::Remote(_) => match remotes.named.remove(&lower) {
                Some(context) => Named::Files(Arc::new(context)),
                None => continue,
            },
            NamedContext::Upload => match &mut upload {
                Some(reader) => Named::Files(Arc::new(part(reader, scratch)?)),
                None => return Err(BuildError::Context(format!("the context {name} is not in the upload"))),
            },
        };
        contexts.insert(lower, found);
    }
    for source in &request.cache_from {
        match (source, &mut upload) {
            (CacheSource::Upload, Some(reader)) => caches.push(Imported::open(part(reader, scratch)?)?),
            (CacheSource::Upload, None) => {
                return Err(BuildError::Context("a cache is not in the upload".to_owned()));
            }
            (CacheSource::Directory(path), _) => caches.push(Imported::open(Context::directory(path.clone()))?),
            (CacheSource::Registry(_) | CacheSource::Image(_), _) => {}
        }
    }
    if let (Some(mut reader), None) = (upload, &main) {
        main = Some(part(&mut reader, scratch)?);
    }
    let mut context = main.ok_or_else(|| BuildError::Context("there is none".to_owned()))?;
    match request.dockerignore_inline.take() {
        Some(text) => context.set_ignore(&text)?,
        None => context.read_ignore(&name)?,
    }
    let uploaded = directory.is_none();
    let given = request.dockerfile_inline.is_some();
    let text = match (request.dockerfile_inline.take(), directory) {
        (Some(text), _) => text,
        // A directory of the host: the Dockerfile may lie elsewhere on it.
        (None, Some(path)) if name.starts_with('/') || name.starts_with("..") => {
            std::fs::read_to_string(path.join(&name))
                .map_err(|error| BuildError::Context(format!("{name}: {error}")))?
        }
        (None, _) => context.dockerfile(&name)?,
    };
    // A client that has its Dockerfile elsewhere puts it under such a name beside the files; it is none of them.
    if uploaded && !given && name.starts_with(".dockerfile.") && !name.contains('/') {
        std::fs::remove_file(context.root().join(&name))
            .map_err(|error| BuildError::Context(format!("{name}: {error}")))?;
    }
    let dockerfile = if uploaded { shown_name(&name).to_owned() } else { name };
    Ok(Received { context, dockerfile, text, contexts, caches })
}

/// What a Dockerfile is called where it was: clients that have it elsewhere send it as `.dockerfile.NUMBER`, ours with its
/// name after that.
fn shown_name(name: &str) -> &str {
    let Some(sent) = name.strip_prefix(".dockerfile.").filter(|sent| !sent.contains('/')) else { return name };
    sent.split_once('.').map_or("Dockerfile", |(_, own)| own)
}

/// An image in OCI's form in the upload; its id. It stays as one that FROM pulls does.
fn layout(engine: &Engine, name: &str, reader: &mut (impl std::io::Read + Send)) -> Result<String, BuildError> {
    let wrong = |error: &dyn std::fmt::Display| BuildError::Context(format!("the context {name}: {error}"));
    let mut part = parts::Part::new(reader);
    let loaded = sampan_image::load(engine.inner.images.store(), &mut part, None).map_err(|error| wrong(&error))?;
    part.finish().map_err(|error| wrong(&error))?;
    match loaded.as_slice() {
        [one] => Ok(one.image.id.to_string()),
        _ => Err(wrong(&format!("there are {} images in it", loaded.len()))),
    }
}

/// A tar of the upload.
fn part(reader: &mut impl std::io::Read, scratch: &std::path::Path) -> Result<Context, BuildError> {
    let mut part = parts::Part::new(reader);
    let context = Context::receive(&mut part, scratch)?;
    part.finish().map_err(|error| BuildError::Context(error.to_string()))?;
    Ok(context)
}

fn aux(value: serde_json::Value) -> BuildMessage {
    BuildMessage { aux: Some(value), ..BuildMessage::default() }
}

/// Tells how layers of caches come and go.
async fn tell_transfers(
    mut events: mpsc::Receiver<sampan_image::registry::TransferEvent>,
    sender: Telling,
    quiet: bool,
) {
    while let Some(event) = events.recv().await {
        let message = serde_json::to_value(crate::images::TransferMessage::from(event)).unwrap_or_default();
        if !quiet && sender.send(Ok(Message::Pull(message))).await.is_err() {
            return;
        }
    }
}

/// Where a build tells what happens; a failure is the last that is said.
type Telling = mpsc::Sender<Result<Message, BuildError>>;

/// A message in the form of the API.
fn told(message: Result<Message, BuildError>) -> BuildMessage {
    let message = match message {
        Ok(message) => message,
        Err(error) => {
            let code = if let BuildError::Run { code, .. } = &error { Some(i64::from(*code)) } else { None };
            return BuildMessage::failure(error.to_string(), code);
        }
    };
    if let Some(text) = message.text() {
        return BuildMessage::text(text);
    }
    match message {
        Message::Image { id, manifest } => aux(serde_json::json!({ "ID": id, "Manifest": manifest })),
        Message::Index { index, images } => {
            let images: Vec<_> = images
                .iter()
                .map(|(platform, id)| serde_json::json!({ "Platform": platform.to_string(), "ID": id }))
                .collect();
            aux(serde_json::json!({ "ID": index, "Manifest": index, "Images": images }))
        }
        Message::Warnings(found, text) => {
            let shown: Vec<_> = found
                .iter()
                .map(|warning| {
                    let place = &warning.place;
                    serde_json::json!({ "Rule": warning.rule, "Line": place.line, "Column": place.column, "Text": place.to_string() })
                })
                .collect();
            let report = sampan_build::lint::report(&found, &text);
            aux(serde_json::json!({ "Warnings": shown, "Call": report }))
        }
        Message::Told(document) => aux(serde_json::json!({ "Call": document })),
        Message::Pull(value) => serde_json::from_value(value).unwrap_or_default(),
        Message::Stage(_, message) => told(Ok(*message)),
        Message::Keys { all, image } => {
            let texts = |keys: Vec<Key>| keys.iter().map(ToString::to_string).collect::<Vec<_>>();
            aux(serde_json::json!({ "Keys": texts(all), "ImageKeys": texts(image) }))
        }
        // These have words.
        Message::Stream(_)
        | Message::Step(_)
        | Message::Cached
        | Message::Running(_)
        | Message::Made(_)
        | Message::Lint(_) => BuildMessage::default(),
    }
}

impl Engine {
    /// Builds an image. Progress comes in Docker's form; the last message carries the id in `aux`, or an error.
    /// Dropping the receiver cancels the build.
    pub async fn build_image(&self, request: BuildRequest) -> Result<mpsc::Receiver<BuildMessage>> {
        let mut messages = self.build(request).await?;
        let (sender, receiver) = mpsc::channel(256);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    message = messages.recv() => {
                        let Some(message) = message else { return };
                        if sender.send(told(message)).await.is_err() {
                            return;
                        }
                    }
                    () = sender.closed() => return,
                }
            }
        });
        Ok(receiver)
    }

    /// Builds an image; what happens is told as it is, and a failure last. Dropping the receiver cancels the build.
    pub async fn build(&self, request: BuildRequest) -> Result<mpsc::Receiver<Result<Message, BuildError>>> {
        let checked = check(&request)?;
        let (sender, receiver) = mpsc::channel(256);
        let engine = self.clone();
        tokio::spawn(async move {
            let result = tokio::select! {
                result = engine.build_to(request, checked, &sender) => result,
                () = sender.closed() => Err(BuildError::Cancelled),
            };
            match result {
                Ok(()) => {}
                Err(BuildError::Cancelled) => tracing::info!("a build was cancelled"),
                Err(error) => drop(sender.send(Err(error)).await),
            }
        });
        Ok(receiver)
    }

    async fn build_to(&self, request: BuildRequest, checked: Checked, sender: &Telling) -> Result<(), BuildError> {
        let result = {
            let _running = self.inner.builds.begin();
            self.build_in(request, checked, sender).await
        };
        let engine = self.clone();
        if let Err(error) = crate::blocking(move || engine.inner.builds.collect()).await {
            tracing::warn!(%error, "the build cache was not brought down to its size");
        }
        result
    }

    async fn build_in(&self, mut request: BuildRequest, checked: Checked, sender: &Telling) -> Result<(), BuildError> {
        let (engine, scratch) = (self.clone(), self.config().tmp());
        let remotes = fetch_contexts(self, keeps_git(&request), addresses(&request)).await?;
        let received = blocking(move || {
            let received = receive(&mut request, remotes, &engine, &scratch)?;
            Ok::<_, BuildError>((request, received))
        });
        let (request, received) = received.await?;
        let (reporter, events) = mpsc::channel(64);
        tokio::spawn(tell_transfers(events, sender.clone(), request.options.quiet));
        let mut backend = EngineBackend {
            engine: self.clone(),
            auth: request.registry_auth,
            login: request.login,
            packing: request.packing,
            caches: received.caches,
            reporter: Reporter(reporter),
            inline: request.cache_to.iter().any(|target| target.place == CachePlace::Inline),
            provenance: request.options.provenance.as_ref().map(|wanted| wanted.version),
            used: Mutex::default(),
            layers: Mutex::default(),
        };
        let told_to = if request.options.quiet { None } else { Some(sender) };
        backend.find_caches(&request.cache_from, &checked, told_to).await?;
        let backend = Arc::new(backend);
        let (cache_to, caches) = (request.cache_to, checked.caches);
        let (call, tell_keys) = (request.call, request.tell_keys);
        let build = sampan_build::executor::Request {
            dockerfile: received.dockerfile,
            text: received.text,
            context: Arc::new(received.context),
            names: checked.names,
            platforms: checked.platforms,
            options: request.options,
            contexts: received.contexts,
        };
        let (output, mut messages) = mpsc::channel(64);
        let forward = async {
            while let Some(message) = messages.recv().await {
                if sender.send(Ok(message)).await.is_err() {
                    return;
                }
            }
        };
        let of = Arc::clone(&backend);
        let work = async move {
            use sampan_build::executor::{self, Question};
            match call {
                Call::Build => executor::build(of, build, output).await.map(drop),
                Call::Check => executor::check(&build, &output).await,
                Call::Outline => executor::ask(&build, Question::Outline, &output).await,
                Call::Targets => executor::ask(&build, Question::Targets, &output).await,
            }
        };
        // The work owns the channel's sender, and ends the forwarding with itself.
        let (built, ()) = tokio::join!(work, forward);
        built?;
        if tell_keys {
            let keys = |all: bool| backend.results(all).into_iter().map(|(key, _)| key).collect();
            let _ = sender.send(Ok(Message::Keys { all: keys(true), image: keys(false) })).await;
        }
        for target in cache_to {
            backend.export(&target, &caches, told_to).await?;
        }
        Ok(())
    }

    /// Forgets cached build results. `keep` are bytes that may stay.
    pub async fn prune_build(&self, all: bool, keep: Option<u64>, filters: Filters) -> Result<BuildPruneResponse> {
        filters.only(&["until", "unused-for", "id", "type", "shared", "private", "inuse", "description"])?;
        let mut wanted = Prune { all, keep, ..Prune::default() };
        for text in filters.values("until").chain(filters.values("unused-for")) {
            let age = duration(text).ok_or_else(|| {
                Error::invalid(format!("invalid filter 'until={text}': give a duration, such as 24h"))
            })?;
            wanted.until = Some(sampan_image::timestamp::now().saturating_sub(cache::nanoseconds(age)));
        }
        wanted.ids = filters.values("id").map(str::to_owned).collect();
        wanted.kind = filters.values("type").next().map(str::to_owned);
        if let Some(other) = wanted.kind.as_deref().filter(|kind| !matches!(*kind, "regular" | "exec.cachemount")) {
            return Err(Error::invalid(format!("invalid filter 'type={other}': expected regular or exec.cachemount")));
        }
        wanted.shared = filters.truth("shared")?.or(filters.truth("private")?.map(|private| !private));
        wanted.description = filters.values("description").next().map(str::to_owned);
        if filters.truth("inuse")? == Some(true) {
            return Err(Error::invalid("invalid filter 'inuse=true': what is in use is not pruned"));
        }
        let engine = self.clone();
        let (keys, freed) = crate::blocking(move || engine.inner.builds.prune(&wanted)).await?;
        Ok(BuildPruneResponse {
            caches_deleted: Some(keys),
            space_reclaimed: Some(i64::try_from(freed).unwrap_or(i64::MAX)),
        })
    }
}
