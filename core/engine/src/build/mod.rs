//! Image builds: the engine's side of `sampan-build`.
//!
//! `backend` is what a build asks of the engine, `root` a step's writable layer, `run` the program in it, `cache` what is
//! kept over builds.

mod backend;
mod cache;
mod root;
mod run;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use bollard_stubs::models::BuildPruneResponse;
use sampan_build::backend::Message;
use sampan_build::context::Context;
use sampan_build::error::BuildError;
use sampan_image::{ImageRef, Platform};
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio_util::io::SyncIoBridge;

use backend::EngineBackend;
pub(crate) use cache::Builds;
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
    Directory(std::path::PathBuf),
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
    /// Use no cached result.
    pub no_cache: bool,
    /// Ask registries for newer base images.
    pub pull: bool,
    /// Tell the id alone.
    pub quiet: bool,
    /// Secrets by id, for `RUN --mount=type=secret`.
    pub secrets: HashMap<String, Vec<u8>>,
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

/// Takes the files in and reads the Dockerfile: its name and its text. Blocks.
fn receive(request: &mut BuildRequest, scratch: &std::path::Path) -> Result<(Context, String, String), BuildError> {
    let name = request.dockerfile.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| "Dockerfile".to_owned());
    let (mut context, directory) = match std::mem::take(&mut request.context) {
        BuildContext::Tar(reader) => (Context::receive(SyncIoBridge::new(reader), scratch)?, None),
        BuildContext::Directory(path) => (Context::directory(path.clone()), Some(path)),
    };
    context.read_ignore(&name)?;
    let text = match (request.dockerfile_inline.take(), directory) {
        (Some(text), _) => text,
        // A directory of the host: the Dockerfile may lie elsewhere on it.
        (None, Some(path)) if name.starts_with('/') || name.starts_with("..") => {
            std::fs::read_to_string(path.join(&name))
                .map_err(|error| BuildError::Context(format!("{name}: {error}")))?
        }
        (None, _) => context.dockerfile(&name)?,
    };
    Ok((context, name, text))
}

/// A message in the form of the API.
fn told(message: Message) -> BuildMessage {
    match message {
        Message::Stream(text) => BuildMessage::text(text),
        Message::Image(id) => BuildMessage { aux: Some(serde_json::json!({ "ID": id })), ..BuildMessage::default() },
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
        mut request: BuildRequest,
        checked: Checked,
        sender: &mpsc::Sender<BuildMessage>,
    ) -> Result<(), BuildError> {
        let _running = self.inner.builds.begin();
        let scratch = self.config().tmp();
        let received = tokio::task::spawn_blocking(move || {
            let received = receive(&mut request, &scratch)?;
            Ok::<_, BuildError>((request, received))
        });
        let (request, (context, dockerfile, text)) = received
            .await
            .unwrap_or_else(|error| Err(BuildError::Backend(format!("a worker thread failed: {error}"))))?;
        let backend = Arc::new(EngineBackend { engine: self.clone(), auth: request.registry_auth });
        let build = sampan_build::executor::Request {
            dockerfile,
            text,
            context: Arc::new(context),
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
            no_cache: request.no_cache,
            pull: request.pull,
            quiet: request.quiet,
            secrets: request.secrets.into_iter().map(|(id, content)| (id, content.into())).collect(),
        };
        let (output, mut messages) = mpsc::channel(64);
        let forward = async {
            while let Some(message) = messages.recv().await {
                if sender.send(told(message)).await.is_err() {
                    return;
                }
            }
        };
        let (built, ()) = tokio::join!(sampan_build::executor::build(backend, build, output), forward);
        built.map(drop)
    }

    /// Forgets cached build results.
    pub async fn prune_build(&self, all: bool, filters: Filters) -> Result<BuildPruneResponse> {
        filters.only(&["until", "unused-for"])?;
        let mut until = None;
        for text in filters.values("until").chain(filters.values("unused-for")) {
            let age = sampan_build::parser::duration(text).ok_or_else(|| {
                Error::invalid(format!("invalid filter 'until={text}': give a duration, such as 24h"))
            })?;
            let age = i64::try_from(age.as_nanos()).unwrap_or(i64::MAX);
            until = Some(sampan_image::timestamp::now().saturating_sub(age));
        }
        let engine = self.clone();
        let (keys, freed) = crate::blocking(move || engine.inner.builds.prune(all, until)).await?;
        Ok(BuildPruneResponse {
            caches_deleted: Some(keys),
            space_reclaimed: Some(i64::try_from(freed).unwrap_or(i64::MAX)),
        })
    }
}
