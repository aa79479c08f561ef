//! Image builds: the engine's side of `sampan-build`.
//!
//! `backend` is what a build asks of the engine, `root` a step's writable layer, `run` the program in it, `cache` what is
//! kept over builds, `export` the same outside of the engine, `fetch` what comes from the network, `parts` the upload of
//! Sampan's own client, `memory` what must not be on a disk.

mod backend;
mod cache;
mod export;
mod fetch;
mod latest;
mod memory;
mod parts;
mod root;
mod run;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bollard_stubs::models::BuildPruneResponse;
use sampan_build::backend::Message;
pub use sampan_build::backend::Ulimit;
use sampan_build::context::Context;
use sampan_build::error::BuildError;
use sampan_build::executor::Named;
pub use sampan_build::parser::duration;
use sampan_build::remote::Remote;
use sampan_image::{ImageRef, Platform};
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio_util::io::SyncIoBridge;

use backend::EngineBackend;
pub(crate) use cache::Builds;
use cache::Prune;
use export::Imported;
pub(crate) use root::recover;

use crate::Engine;
use crate::error::{Error, Result};
use crate::filters::Filters;
use crate::messages::{BuildMessage, Credentials};

/// Where the files of a build come from.
pub enum BuildContext {
    /// A tar, compressed or not.
    Tar(Pin<Box<dyn AsyncRead + Send>>),
    /// A directory of this host, for builds that the daemon itself begins (stacks).
    Directory(PathBuf),
    /// A git repository, or a tar or Dockerfile by http(s).
    Remote(String),
    /// One tar after the other: of each [`NamedContext::Upload`], of each cache, and of the main context unless it is
    /// remote. The options were read by [`read_options`].
    Parts {
        /// What follows the options.
        reader: Pin<Box<dyn AsyncRead + Send>>,
        /// How many caches come.
        caches: usize,
        /// The main context, when it is not in the upload.
        remote: Option<String>,
    },
}

/// A context beside the main one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// A directory of this host.
    Directory(PathBuf),
    /// An image by its name or id.
    Image(String),
    /// A git repository.
    Remote(String),
    /// A tar of the upload.
    Upload,
}

/// The options of Sampan's own client, at the beginning of an upload.
pub async fn read_options(reader: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>> {
    parts::whole(reader, 8 << 20).await
}

impl Default for BuildContext {
    fn default() -> Self {
        Self::Tar(Box::pin(tokio::io::empty()))
    }
}

impl fmt::Debug for BuildContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tar(_) => f.write_str("Tar"),
            Self::Directory(path) => f.debug_tuple("Directory").field(path).finish(),
            Self::Remote(_) => f.write_str("Remote"),
            Self::Parts { .. } => f.write_str("Parts"),
        }
    }
}

/// A build as asked for.
#[derive(Default)]
pub struct BuildRequest {
    /// The files.
    pub context: BuildContext,
    /// Path of the Dockerfile in the context; `Dockerfile` by default.
    pub dockerfile: Option<String>,
    /// Text of a Dockerfile that is not in the context, before `dockerfile`.
    pub dockerfile_inline: Option<String>,
    /// Names for the image.
    pub tags: Vec<String>,
    /// `ARG` values; `None` takes the default.
    pub build_args: HashMap<String, Option<String>>,
    /// Labels for the image.
    pub labels: HashMap<String, String>,
    /// The stage to build; the last by default.
    pub target: Option<String>,
    /// `os/arch[/variant]`.
    pub platform: Option<String>,
    /// Network of `RUN`: `default`, `none`, `host`, or a network's name.
    pub network: Option<String>,
    /// `host:address` for `RUN`.
    pub extra_hosts: Vec<String>,
    /// Bytes of `/dev/shm` for `RUN`.
    pub shm_size: Option<i64>,
    /// Bytes of memory for `RUN`.
    pub memory: Option<i64>,
    /// Bytes of memory and swap for `RUN`.
    pub memory_swap: Option<i64>,
    /// Limits of the processes of `RUN`.
    pub ulimits: Vec<Ulimit>,
    /// Use no cached result.
    pub no_cache: bool,
    /// Use none in these stages, by name or number.
    pub no_cache_stages: Vec<String>,
    /// Times in layers after `SOURCE_DATE_EPOCH` become that.
    pub rewrite_timestamp: bool,
    /// Build nothing: only read the Dockerfile, and say what is not well in it.
    pub check: bool,
    /// Tell the keys of the build's results, to export them.
    pub tell_keys: bool,
    /// Ask registries for newer base images.
    pub pull: bool,
    /// Tell the id alone.
    pub quiet: bool,
    /// Secrets by id, for `RUN --mount=type=secret`.
    pub secrets: HashMap<String, Vec<u8>>,
    /// Sockets of agents on this host by id, for `RUN --mount=type=ssh`.
    pub ssh: HashMap<String, PathBuf>,
    /// Further contexts by name, in the order in which they are uploaded.
    pub contexts: Vec<(String, NamedContext)>,
    /// Credentials by registry.
    pub registry_auth: HashMap<String, Credentials>,
}

impl fmt::Debug for BuildRequest {
    /// Arguments and secrets are nobody's to read in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuildRequest")
            .field("context", &self.context)
            .field("dockerfile", &self.dockerfile)
            .field("tags", &self.tags)
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

/// What a build is given, checked.
struct Checked {
    names: Vec<ImageRef>,
    platform: Platform,
}

fn check(request: &BuildRequest) -> Result<Checked> {
    let names = request.tags.iter().map(|tag| ImageRef::parse(tag).map_err(Error::invalid)).collect::<Result<_>>()?;
    let platform = match request.platform.as_deref().filter(|text| !text.is_empty()) {
        Some(text) => Platform::parse(text)?,
        None => Platform::host(),
    };
    for host in &request.extra_hosts {
        crate::containers::extra_host(host)?;
    }
    Ok(Checked { names, platform })
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

/// Fetches them.
async fn fetch_contexts(
    engine: &Engine,
    (main, named): (Option<String>, Vec<(String, String)>),
) -> Result<Remotes, BuildError> {
    let mut found = Remotes::default();
    if let Some(url) = main {
        found.main = Some(remote(engine, &url).await?);
    }
    for (name, url) in named {
        found.named.insert(name, remote(engine, &url).await?);
    }
    Ok(found)
}

/// A git repository, an archive, or a Dockerfile alone.
async fn remote(engine: &Engine, url: &str) -> Result<Context, BuildError> {
    let parsed = Remote::parse(url).map_err(BuildError::Invalid)?;
    let parsed = parsed.ok_or_else(|| BuildError::Invalid(format!("build context {url}: neither http(s) nor git")))?;
    let fetched = fetch::fetch(engine, &parsed, false, None).await?;
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
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(BuildError::Backend(format!("a worker thread failed: {error}"))))
}

/// Takes the files in and reads the Dockerfile. Blocks.
fn receive(
    request: &mut BuildRequest,
    mut remotes: Remotes,
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
            Some(Context::directory(path))
        }
        BuildContext::Remote(_) => remotes.main.take(),
        BuildContext::Parts { reader, caches, .. } => {
            upload = Some((SyncIoBridge::new(reader), caches));
            remotes.main.take()
        }
    };
    for (name, context) in std::mem::take(&mut request.contexts) {
        let lower = name.to_ascii_lowercase();
        let found = match context {
            NamedContext::Directory(path) => Named::Files(Arc::new(Context::directory(path))),
            NamedContext::Image(image) => Named::Image(image),
            NamedContext::Remote(_) => match remotes.named.remove(&lower) {
                Some(context) => Named::Files(Arc::new(context)),
                None => continue,
            },
            NamedContext::Upload => match &mut upload {
                Some((reader, _)) => Named::Files(Arc::new(part(reader, scratch)?)),
                None => return Err(BuildError::Context(format!("the context {name} is not in the upload"))),
            },
        };
        contexts.insert(lower, found);
    }
    if let Some((mut reader, count)) = upload {
        for _ in 0..count {
            caches.push(Imported::open(part(&mut reader, scratch)?)?);
        }
        if main.is_none() {
            main = Some(part(&mut reader, scratch)?);
        }
    }
    let mut context = main.ok_or_else(|| BuildError::Context("there is none".to_owned()))?;
    context.read_ignore(&name)?;
    let uploaded = directory.is_none();
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
    if uploaded && name.starts_with(".dockerfile.") && !name.contains('/') {
        std::fs::remove_file(context.root().join(&name))
            .map_err(|error| BuildError::Context(format!("{name}: {error}")))?;
    }
    Ok(Received { context, dockerfile: name, text, contexts, caches })
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

/// A message in the form of the API.
fn told(message: Message) -> BuildMessage {
    match message {
        Message::Stream(text) => BuildMessage::text(text),
        Message::Image { id, manifest } => aux(serde_json::json!({ "ID": id, "Manifest": manifest })),
        Message::Warnings(found) => {
            let found: Vec<_> = found
                .iter()
                .map(|warning| {
                    let place = &warning.place;
                    serde_json::json!({ "Rule": warning.rule, "Line": place.line, "Column": place.column, "Text": place.to_string() })
                })
                .collect();
            aux(serde_json::json!({ "Warnings": found }))
        }
        Message::Pull(value) => serde_json::from_value(value).unwrap_or_default(),
    }
}

impl Engine {
    /// Builds an image. Progress comes in Docker's form; the last message carries the id in `aux`, or an error.
    /// Dropping the receiver cancels the build.
    pub async fn build_image(&self, request: BuildRequest) -> Result<mpsc::Receiver<BuildMessage>> {
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
                Err(error) => {
                    let code = if let BuildError::Run { code, .. } = &error { Some(i64::from(*code)) } else { None };
                    let _ = sender.send(BuildMessage::failure(error.to_string(), code)).await;
                }
            }
        });
        Ok(receiver)
    }

    async fn build_to(
        &self,
        request: BuildRequest,
        checked: Checked,
        sender: &mpsc::Sender<BuildMessage>,
    ) -> Result<(), BuildError> {
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

    async fn build_in(
        &self,
        mut request: BuildRequest,
        checked: Checked,
        sender: &mpsc::Sender<BuildMessage>,
    ) -> Result<(), BuildError> {
        let scratch = self.config().tmp();
        let remotes = fetch_contexts(self, addresses(&request)).await?;
        let received = tokio::task::spawn_blocking(move || {
            let received = receive(&mut request, remotes, &scratch)?;
            Ok::<_, BuildError>((request, received))
        });
        let (request, received) = received
            .await
            .unwrap_or_else(|error| Err(BuildError::Backend(format!("a worker thread failed: {error}"))))?;
        let backend = Arc::new(EngineBackend {
            engine: self.clone(),
            auth: request.registry_auth,
            caches: received.caches,
            used: Mutex::default(),
        });
        let (check, tell_keys) = (request.check, request.tell_keys);
        let build = sampan_build::executor::Request {
            dockerfile: received.dockerfile,
            text: received.text,
            context: Arc::new(received.context),
            names: checked.names,
            build_args: request.build_args,
            labels: request.labels.into_iter().collect(),
            target: request.target,
            platform: checked.platform,
            network: request.network.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".to_owned()),
            extra_hosts: request.extra_hosts,
            shm_size: request.shm_size,
            memory: request.memory,
            memory_swap: request.memory_swap,
            ulimits: request.ulimits,
            no_cache: request.no_cache,
            no_cache_stages: request.no_cache_stages,
            rewrite_timestamp: request.rewrite_timestamp,
            pull: request.pull,
            quiet: request.quiet,
            secrets: request.secrets.into_iter().map(|(id, content)| (id, content.into())).collect(),
            ssh: request.ssh.into_iter().collect(),
            contexts: received.contexts,
        };
        let (output, mut messages) = mpsc::channel(64);
        let forward = async {
            while let Some(message) = messages.recv().await {
                if sender.send(told(message)).await.is_err() {
                    return;
                }
            }
        };
        let of = Arc::clone(&backend);
        let work = async move {
            if check {
                return sampan_build::executor::check(&build, &output).await;
            }
            sampan_build::executor::build(of, build, output).await.map(drop)
        };
        // The work owns the channel's sender, and ends the forwarding with itself.
        let (built, ()) = tokio::join!(work, forward);
        built?;
        if tell_keys {
            let keys: Vec<String> = backend.used().iter().map(ToString::to_string).collect();
            let _ = sender.send(aux(serde_json::json!({ "Keys": keys }))).await;
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
