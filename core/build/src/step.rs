//! What each instruction does to a stage: `transfer` is COPY and ADD, `run` RUN, the rest is here.

mod run;
mod transfer;

use std::sync::Arc;

use sampan_image::ChainId;
use sampan_image::tree::Tree;

use crate::backend::{Backend, Message, Output, Root};
use crate::blocking;
use crate::cache::{Entry, Key, KeyWriter};
use crate::context::Context;
use crate::copy::{self, CopyError};
use crate::error::{BuildError, Result};
use crate::executor::{Build, Named, OriginRoot, tell};
use crate::expand::Expander;
use crate::extract::ensure_folder;
use crate::graph::Origin;
use crate::instruction::{Instruction, Kind};
use crate::owner::resolve_owner;
use crate::scope::is_proxy;
use crate::source::Source;
use crate::state::StageState;

/// A stage that is being built.
pub(crate) struct StageRun<B: Backend> {
    build: Arc<Build<B>>,
    index: usize,
    state: StageState,
    output: Output,
    /// Once a step had to be made anew, what follows cannot be expected to be there; only for the messages.
    last: Option<Key>,
}

/// Where files are copied from.
enum Files<B: Backend> {
    Context(Arc<Context>),
    Layers { root: Arc<OriginRoot<B::Root>>, top: Option<ChainId>, label: String },
}

impl<B: Backend> StageRun<B> {
    pub(crate) fn new(build: Arc<Build<B>>, index: usize, state: StageState, output: Output) -> Self {
        Self { build, index, state, output, last: None }
    }

    pub(crate) fn into_state(self) -> StageState {
        self.state
    }

    fn escape(&self) -> char {
        self.build.file.directives.escape
    }

    fn expand<T>(&self, what: impl FnOnce(&Expander<'_>) -> Result<T, crate::expand::ExpandError>) -> Result<T> {
        let lookup = |name: &str| self.state.lookup(name);
        what(&Expander::new(&lookup, self.escape())).map_err(|error| BuildError::Invalid(error.to_string()))
    }

    fn word(&self, text: &str) -> Result<String> {
        self.expand(|expander| expander.word(text))
    }

    fn words(&self, text: &str) -> Result<Vec<String>> {
        self.expand(|expander| expander.words(text))
    }

    /// Does one instruction. Faults of the user's are shown at its place.
    pub(crate) async fn step(&mut self, source: &Source, instruction: &Instruction) -> Result<()> {
        let result = self.dispatch(source, instruction).await;
        result.map_err(|error| match error {
            BuildError::Invalid(why) | BuildError::Unsupported(why) => source.diagnostic(instruction.span, why).into(),
            BuildError::Backend(why) => BuildError::Backend(format!(
                "{}:{}: {}: {why}",
                source.name(),
                instruction.line,
                instruction.kind.keyword()
            )),
            other => other,
        })
    }

    async fn dispatch(&mut self, source: &Source, instruction: &Instruction) -> Result<()> {
        let step = match &instruction.kind {
            Kind::Run(run) => return self.run(source, instruction, run).await,
            Kind::Copy(transfer) => return self.transfer("COPY", transfer).await,
            Kind::Add(transfer) => return self.transfer("ADD", transfer).await,
            Kind::Workdir(path) => return self.workdir(path).await,
            Kind::From(_) => return Err(BuildError::Invalid("FROM begins a stage".to_owned())),
            Kind::Arg(items) => {
                let mut told = Vec::new();
                for (name, default) in items {
                    let default = default.as_deref().map(|text| self.word(text)).transpose()?;
                    if !is_proxy(name) {
                        let value = default.clone().or_else(|| self.build.graph.globals.value(name));
                        told.push(value.map_or_else(|| name.clone(), |value| format!("{name}={value}")));
                    }
                    self.state.scope.declare(&self.build.args, &self.build.graph.globals, name, default);
                }
                format!("ARG {}", told.join(" "))
            }
            Kind::Env(pairs) => {
                let pairs = self.pairs(pairs)?;
                for (name, value) in &pairs {
                    self.state.set_env(name, value);
                }
                format!("ENV {}", joined(&pairs))
            }
            Kind::Label(pairs) => {
                let pairs = self.pairs(pairs)?;
                self.state.config.config.labels.extend(pairs.iter().cloned());
                format!("LABEL {}", joined(&pairs))
            }
            Kind::Cmd(command) => format!("CMD {:?}", self.state.set_cmd(command)).replace("\", \"", "\" \""),
            Kind::Entrypoint(command) => {
                format!("ENTRYPOINT {:?}", self.state.set_entrypoint(command)).replace("\", \"", "\" \"")
            }
            Kind::Expose(words) => {
                let mut ports = Vec::new();
                for word in words {
                    ports.extend(self.words(word)?);
                }
                let ports = self.state.expose(&ports).map_err(BuildError::Invalid)?;
                format!("EXPOSE [{}]", ports.join(" "))
            }
            Kind::Volume(paths) => {
                let paths = paths.iter().map(|path| self.word(path)).collect::<Result<Vec<_>>>()?;
                if paths.iter().any(|path| path.trim().is_empty()) {
                    return Err(BuildError::Invalid("VOLUME: a path is empty".to_owned()));
                }
                self.state.config.config.volumes.extend(paths.iter().cloned());
                format!("VOLUME [{}]", paths.join(" "))
            }
            Kind::User(user) => {
                // Without a name, as of a variable that has no value, it is root again.
                let user = self.word(user)?;
                self.state.config.config.user.clone_from(&user);
                format!("USER {user}")
            }
            Kind::StopSignal(signal) => {
                let signal = self.word(signal)?;
                self.state.set_stop_signal(&signal).map_err(BuildError::Invalid)?;
                format!("STOPSIGNAL {signal}")
            }
            Kind::Healthcheck(check) => {
                self.state.set_healthcheck(check);
                instruction.text.clone()
            }
            Kind::Shell(shell) => {
                self.state.config.config.shell = Some(shell.clone());
                format!("SHELL [{}]", shell.join(" "))
            }
            Kind::Maintainer(author) => {
                self.state.config.author = Some(author.clone());
                format!("MAINTAINER {author}")
            }
            Kind::Onbuild(trigger) => {
                self.state.config.config.on_build.push(trigger.clone());
                format!("ONBUILD {trigger}")
            }
        };
        self.metadata(step).await
    }

    fn pairs(&self, pairs: &[(String, String)]) -> Result<Vec<(String, String)>> {
        pairs.iter().map(|(name, value)| Ok((self.word(name)?, self.word(value)?))).collect()
    }

    /// Records a step without a layer. Its time is that of the step before, so that a build in which nothing changed
    /// gives the same image; only where there is none is the first time remembered.
    async fn metadata(&mut self, step: String) -> Result<()> {
        let created = match (self.build.args.source_date_epoch(), self.state.created()) {
            (Some(_), _) => self.build.now(),
            (None, Some(created)) => created,
            (None, None) => {
                let mut key = KeyWriter::new("begin", None);
                key.text(&step);
                let key = key.finish();
                match self.recall(key, self.state.top()).await {
                    Some(entry) => entry.created,
                    None => {
                        let created = self.build.now();
                        let entry = Entry { layer: None, created, description: step.clone() };
                        self.remember(key, entry).await?;
                        created
                    }
                }
            }
        };
        self.state.record(step.clone(), created, None);
        let mut shown = KeyWriter::new("shown", self.state.top());
        shown.text(&step).text(&self.last.map(|key| key.to_string()).unwrap_or_default());
        let shown = shown.finish();
        self.last = Some(shown);
        tell(&self.output, Message::Made(shown.short())).await
    }

    /// A remembered result on some layers, which is said.
    async fn known(&self, key: Key, on: Option<ChainId>) -> Result<Option<Entry>> {
        let found = self.recall(key, on).await;
        if found.is_some() {
            tell(&self.output, Message::Cached).await?;
        }
        Ok(found)
    }

    /// Takes a remembered result; whether there was one.
    async fn take(&mut self, key: Key, step: &str) -> Result<bool> {
        let Some(entry) = self.known(key, self.state.top()).await? else { return Ok(false) };
        self.made(key, step, entry).await?;
        Ok(true)
    }

    async fn made(&mut self, key: Key, step: &str, entry: Entry) -> Result<()> {
        self.state.record(step.to_owned(), entry.created, entry.layer);
        self.last = Some(key);
        tell(&self.output, Message::Made(key.short())).await
    }

    /// Keeps a new result and goes on with it.
    async fn keep(&mut self, key: Key, step: &str, entry: Entry) -> Result<()> {
        self.remember(key, entry.clone()).await?;
        self.made(key, step, entry).await
    }

    /// Keeps a new result, also for what is left of this build.
    async fn remember(&self, key: Key, entry: Entry) -> Result<()> {
        self.build.backend.remember(key, entry.clone()).await?;
        self.build.has_made(key, entry);
        Ok(())
    }

    /// A result of this build, or a remembered one unless those do not count.
    async fn recall(&self, key: Key, on: Option<ChainId>) -> Option<Entry> {
        match self.build.made(key) {
            Some(made) => Some(made),
            None if self.build.no_cache(self.index) => None,
            None => self.build.backend.cached(key, on).await,
        }
    }

    fn epoch(&self) -> Option<String> {
        let rewritten = if self.build.latest().is_some() { " rewritten" } else { "" };
        self.build.args.source_date_epoch().map(|seconds| format!("{seconds}{rewritten}"))
    }

    /// The time of new directories.
    fn time(created: i64) -> (i64, u32) {
        (created.div_euclid(1_000_000_000), u32::try_from(created.rem_euclid(1_000_000_000)).unwrap_or(0))
    }

    async fn workdir(&mut self, path: &str) -> Result<()> {
        let path = self.word(path)?;
        if path.is_empty() {
            return Err(BuildError::Invalid("WORKDIR: the path is empty".to_owned()));
        }
        let path = self.state.set_workdir(&path);
        let step = format!("WORKDIR {path}");
        if path == "/" {
            return self.metadata(step).await;
        }
        let mut key = KeyWriter::new("workdir", self.state.top());
        // A new directory is its user's, as with BuildKit.
        let user = Some(self.state.config.config.user.clone()).filter(|user| !user.is_empty());
        key.text(&path).maybe(self.epoch().as_deref()).maybe(user.as_deref());
        let key = key.finish();
        let _flight = self.build.backend.flights().lock(key).await;
        // Whether a directory is there does not go stale: no_cache need not look again, unless it would make one.
        if self.take(key, &step).await? {
            return Ok(());
        }
        let parents = self.state.parents();
        let root = self.build.backend.open(&parents).await?;
        let created = self.build.now();
        let (at, wanted) = (root.path().to_owned(), path.clone());
        let is_new = blocking(move || {
            let wrong = |error: &dyn std::fmt::Display| BuildError::Invalid(format!("WORKDIR {wanted}: {error}"));
            let mut tree = Tree::open(&at).map_err(|error| wrong(&error))?;
            let name = wanted.trim_start_matches('/').as_bytes();
            if tree.folder(name).is_ok() {
                return Ok(false);
            }
            // Whom the image does not know owns nothing yet; whether a step can run as them is told there.
            let owner = user.and_then(|user| resolve_owner(&mut tree, &user).ok()).unwrap_or((0, 0));
            let time = Some(Self::time(created));
            ensure_folder(&mut tree, name, owner, 0o755, time).map_err(|error| wrong(&error))?;
            Ok(true)
        })
        .await?;
        let layer =
            if is_new { Some(self.build.backend.commit(&root, &parents, self.build.latest()).await?) } else { None };
        drop(root);
        self.keep(key, &step, Entry { layer, created, description: step.clone() }).await
    }

    async fn files(&self, from: Option<&str>) -> Result<Files<B>> {
        let Some(from) = from else { return Ok(Files::Context(Arc::clone(&self.build.request.context))) };
        let (layers, label) = match self.build.graph.origin(self.index, from).map_err(BuildError::Invalid)? {
            Origin::Stage(index) => {
                let state = self.build.result(index).await?;
                (state.parents(), format!("the stage {}", self.build.graph.label(index)))
            }
            Origin::Context(name) => match self.build.request.contexts.get(&name) {
                Some(Named::Files(context)) => return Ok(Files::Context(Arc::clone(context))),
                Some(Named::Image(image)) => {
                    let image = self.build.image(image, None, &self.output).await?;
                    (image.chain_top_first(), format!("the context {name}"))
                }
                None => return Err(BuildError::Invalid(format!("the context {name} is not given"))),
            },
            Origin::Image(name) => {
                let image = self.build.image(&name, None, &self.output).await?;
                (image.chain_top_first(), format!("the image {name}"))
            }
        };
        let top = layers.first().copied();
        Ok(Files::Layers { root: self.build.origin(&layers).await?, top, label })
    }
}

fn with_origin<B: Backend, T>(files: &Files<B>, work: impl FnOnce(&copy::Origin<'_>) -> Result<T>) -> Result<T> {
    match files {
        Files::Context(context) => work(&context.origin()),
        Files::Layers { root, label, .. } => {
            let empty;
            let path = match &root.root {
                Some(root) => root.path(),
                None => {
                    empty = crate::context::Scratch::new(&std::env::temp_dir())
                        .map_err(|error| BuildError::Backend(format!("an empty folder: {error}")))?;
                    empty.path()
                }
            };
            work(&copy::Origin { root: path, ignore: None, digests: &root.digests, keep: true, label })
        }
    }
}

fn copy_fault(error: CopyError) -> BuildError {
    match error {
        CopyError::Source(why) => BuildError::Invalid(why),
        CopyError::Archive { .. } => BuildError::Invalid(error.to_string()),
        CopyError::File(error) => BuildError::Backend(error.to_string()),
    }
}

fn joined(pairs: &[(String, String)]) -> String {
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}
