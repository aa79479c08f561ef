//! Walks the graph: stages that do not need each other at once, each stage's steps in order.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use sampan_image::{ImageRecord, ImageRef, Platform, timestamp};
use tokio::sync::{OnceCell, mpsc, watch};
use tokio::task::JoinSet;

use crate::backend::{Backend, Message, Output, Ulimit};
use crate::context::Context;
use crate::dockerignore::Ignore;
use crate::error::{BuildError, Result};
use crate::extract::Digests;
use crate::graph::{Base, Graph};
use crate::instruction::{Dockerfile, Instruction, Kind};
use crate::lint;
use crate::parser;
use crate::scope::BuildArgs;
use crate::source::Source;
use crate::state::StageState;
use crate::step::StageRun;

/// A build as asked for.
#[derive(Debug)]
pub struct Request {
    /// The Dockerfile's name, for messages.
    pub dockerfile: String,
    /// Its text.
    pub text: String,
    /// The files.
    pub context: Arc<Context>,
    /// Names for the image.
    pub names: Vec<ImageRef>,
    /// `--build-arg`; `None` takes the default.
    pub build_args: HashMap<String, Option<String>>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// `--target`.
    pub target: Option<String>,
    /// `--platform`.
    pub platform: Platform,
    /// Network of RUN.
    pub network: String,
    /// `--add-host`.
    pub extra_hosts: Vec<String>,
    /// Bytes of `/dev/shm`.
    pub shm_size: Option<i64>,
    /// Bytes of memory of RUN.
    pub memory: Option<i64>,
    /// Bytes of memory and swap of RUN.
    pub memory_swap: Option<i64>,
    /// Limits of RUN's processes.
    pub ulimits: Vec<Ulimit>,
    /// Take no remembered result.
    pub no_cache: bool,
    /// Take none in these stages, by name or number.
    pub no_cache_stages: Vec<String>,
    /// Times in layers that are after `SOURCE_DATE_EPOCH` become that.
    pub rewrite_timestamp: bool,
    /// Ask for newer base images.
    pub pull: bool,
    /// Tell the id alone.
    pub quiet: bool,
    /// Secrets by id.
    pub secrets: BTreeMap<String, Arc<[u8]>>,
    /// Sockets of agents by id.
    pub ssh: BTreeMap<String, PathBuf>,
    /// `--build-context`, by name in lower case.
    pub contexts: BTreeMap<String, Named>,
}

/// A context beside the main one.
#[derive(Debug, Clone)]
pub enum Named {
    /// Files.
    Files(Arc<Context>),
    /// An image by its name or id.
    Image(String),
}

/// Made once, by the first who needs it.
type Shared<T> = Arc<OnceCell<Arc<T>>>;

/// What all stages of a build share.
pub(crate) struct Build<B: Backend> {
    pub(crate) backend: Arc<B>,
    pub(crate) request: Request,
    pub(crate) file: Dockerfile,
    pub(crate) graph: Graph,
    pub(crate) args: BuildArgs,
    /// Steps in all stages that are built.
    pub(crate) steps: usize,
    stages: HashMap<usize, watch::Receiver<Option<Arc<StageState>>>>,
    /// Roots that are copied from, by their topmost layer.
    pub(crate) origins: Mutex<HashMap<String, Shared<OriginRoot<B::Root>>>>,
}

/// A root that is only read, and the digests of its files that are known.
pub(crate) struct OriginRoot<R> {
    /// `None` for a stage without layers.
    pub(crate) root: Option<R>,
    pub(crate) digests: Mutex<Digests>,
}

/// Builds an image. Dropping the future ends the build; what was remembered until then stays.
pub async fn build<B: Backend>(backend: Arc<B>, request: Request, output: Output) -> Result<Arc<ImageRecord>> {
    let file = parser::parse(&request.dockerfile, &request.text)?;
    let host = Platform::host();
    let target = request.target.clone().unwrap_or_default();
    let args = BuildArgs::new(&request.build_args, &host, &request.platform, &target);
    if request.rewrite_timestamp && args.source_date_epoch().is_none() {
        let why = "rewrite-timestamp needs a time: --build-arg SOURCE_DATE_EPOCH=SECONDS";
        return Err(BuildError::Invalid(why.to_owned()));
    }
    let contexts = request.contexts.keys().cloned().collect();
    let graph = Graph::plan(&file, &args, request.target.as_deref(), contexts)?;
    for wanted in &request.no_cache_stages {
        let known = |index: &usize| graph.label(*index) == wanted.to_ascii_lowercase() || index.to_string() == *wanted;
        if !(0..graph.stages.len()).any(|index| known(&index)) {
            return Err(BuildError::Invalid(format!("--no-cache-filter {wanted}: there is no such stage")));
        }
    }
    let quiet = request.quiet;
    warn(&file, &args, quiet, &output).await?;
    lint(&file, request.context.ignore(), quiet, &output).await?;

    let (mut senders, mut stages) = (HashMap::new(), HashMap::new());
    for index in &graph.order {
        let (sender, receiver) = watch::channel(None);
        senders.insert(*index, sender);
        stages.insert(*index, receiver);
    }
    let steps = graph.order.iter().map(|index| 1 + graph.stages[*index].body.len()).sum();
    let order = graph.order.clone();
    let target = graph.target;
    let build = Arc::new(Build { backend, request, file, graph, args, steps, stages, origins: Mutex::default() });

    let mut tasks: JoinSet<Result<()>> = JoinSet::new();
    let mut channels = Vec::new();
    let mut first = 1;
    for index in order {
        let (stage_output, receiver) = mpsc::channel(256);
        channels.push(receiver);
        let Some(sender) = senders.remove(&index) else { continue };
        let build = Arc::clone(&build);
        let number = first;
        first += 1 + build.graph.stages[index].body.len();
        tasks.spawn(async move {
            let state = build.stage(index, number, &stage_output).await?;
            sender.send_replace(Some(Arc::new(state)));
            Ok(())
        });
    }
    let told = output.clone();
    tasks.spawn(async move { forward(channels, told, quiet).await });
    let mut failure: Option<BuildError> = None;
    while let Some(ended) = tasks.join_next().await {
        let result = ended.unwrap_or_else(|error| {
            if error.is_cancelled() {
                Err(BuildError::Cancelled)
            } else {
                Err(BuildError::Backend(format!("a build task failed: {error}")))
            }
        });
        if let Err(error) = result {
            // A stage that waits for a failed one is cancelled, which says nothing.
            if failure.as_ref().is_none_or(|known| matches!(known, BuildError::Cancelled)) {
                failure = Some(error);
            }
            // What was said before the failure is still forwarded.
            if !matches!(failure, Some(BuildError::Cancelled)) && tasks.len() == 1 {
                continue;
            }
        }
    }
    if let Some(failure) = failure {
        // The error is Docker's sentence; where it happened stands before it.
        if let BuildError::Run { place, .. } = &failure
            && !quiet
        {
            say(&output, format!("{place}\n")).await?;
        }
        return Err(failure);
    }
    let state = build.result(target).await?;
    finish(&build, state, &output).await
}

/// Notes on what the user probably did not mean.
async fn warn(file: &Dockerfile, args: &BuildArgs, quiet: bool, output: &Output) -> Result<()> {
    let declared: Vec<String> = file
        .instructions
        .iter()
        .filter_map(|each| match &each.kind {
            Kind::Arg(items) => Some(items.iter().map(|(name, _)| name.clone())),
            _ => None,
        })
        .flatten()
        .collect();
    let unused: Vec<&str> = args.unused(&declared).collect();
    if unused.is_empty() || quiet {
        return Ok(());
    }
    say(output, format!("[Warning] One or more build-args [{}] were not consumed\n", unused.join(" "))).await
}

/// What the linter finds; an error where `# check=error=true` makes it one.
async fn lint(file: &Dockerfile, ignore: &Ignore, quiet: bool, output: &Output) -> Result<()> {
    let options = lint_options(file)?;
    let found = lint::check(file, &options, ignore);
    if options.error
        && let Some(first) = found.first()
    {
        return Err(first.place.clone().into());
    }
    if quiet {
        return Ok(());
    }
    for warning in found {
        let place = &warning.place;
        say(output, format!("[Warning] {}:{}: {}\n", place.file, place.line, place.message)).await?;
    }
    Ok(())
}

fn lint_options(file: &Dockerfile) -> Result<lint::Options> {
    let text = file.directives.check.as_deref().unwrap_or_default();
    lint::Options::parse(text).map_err(BuildError::Invalid)
}

/// Reads a Dockerfile as a build would, and builds nothing; what the linter finds.
pub async fn check(request: &Request, output: &Output) -> Result<()> {
    let file = parser::parse(&request.dockerfile, &request.text)?;
    let host = Platform::host();
    let target = request.target.clone().unwrap_or_default();
    let args = BuildArgs::new(&request.build_args, &host, &request.platform, &target);
    let contexts = request.contexts.keys().cloned().collect();
    Graph::plan(&file, &args, request.target.as_deref(), contexts)?;
    let options = lint_options(&file)?;
    let found = lint::check(&file, &options, request.context.ignore());
    let count = found.len();
    output.send(Message::Warnings(found)).await.map_err(|_| BuildError::Cancelled)?;
    if options.error && count > 0 {
        return Err(BuildError::Invalid(format!("the check found {count} warnings, and check=error=true is set")));
    }
    Ok(())
}

/// Tells what the stages say, one stage after the other.
async fn forward(channels: Vec<mpsc::Receiver<Message>>, output: Output, quiet: bool) -> Result<()> {
    for mut channel in channels {
        while let Some(message) = channel.recv().await {
            if !quiet {
                output.send(message).await.map_err(|_| BuildError::Cancelled)?;
            }
        }
    }
    Ok(())
}

pub(crate) async fn say(output: &Output, text: String) -> Result<()> {
    output.send(Message::Stream(text)).await.map_err(|_| BuildError::Cancelled)
}

async fn finish<B: Backend>(build: &Build<B>, state: Arc<StageState>, output: &Output) -> Result<Arc<ImageRecord>> {
    let mut config = state.config.clone();
    config.config.labels.extend(build.request.labels.clone());
    if config.created.is_none() {
        config.created = Some(timestamp::format(build.now()));
    }
    let image = build.backend.create(config, state.layers.clone(), state.base, build.request.names.clone()).await?;
    output.send(Message::Image { id: image.id, manifest: image.manifest }).await.map_err(|_| BuildError::Cancelled)?;
    if build.request.quiet {
        say(output, format!("{}\n", image.id)).await?;
        return Ok(image);
    }
    say(output, format!("Successfully built {}\n", &image.id.hex()[..12])).await?;
    for name in &build.request.names {
        say(output, format!("Successfully tagged {}\n", name.familiar())).await?;
    }
    Ok(image)
}

impl<B: Backend> Build<B> {
    /// The time of a step that is made now, nanoseconds since 1970.
    pub(crate) fn now(&self) -> i64 {
        self.args.source_date_epoch().map_or_else(timestamp::now, |seconds| seconds.saturating_mul(1_000_000_000))
    }

    /// Whether a stage takes no remembered results.
    pub(crate) fn no_cache(&self, index: usize) -> bool {
        let named =
            |wanted: &String| *wanted == index.to_string() || wanted.to_ascii_lowercase() == self.graph.label(index);
        self.request.no_cache || self.request.no_cache_stages.iter().any(named)
    }

    /// The time that no file of a new layer may be after, in seconds since 1970.
    pub(crate) fn latest(&self) -> Option<i64> {
        self.args.source_date_epoch().filter(|_| self.request.rewrite_timestamp)
    }

    /// Waits for a stage.
    pub(crate) async fn result(&self, index: usize) -> Result<Arc<StageState>> {
        let Some(mut receiver) = self.stages.get(&index).cloned() else {
            return Err(BuildError::Invalid(format!(
                "the stage {} is needed by an ONBUILD trigger alone; name it in a COPY --from of the Dockerfile too",
                self.graph.label(index)
            )));
        };
        // The sender goes without a value when the stage fails, which its own task reports.
        let state = receiver.wait_for(Option::is_some).await.map_err(|_| BuildError::Cancelled)?;
        state.clone().ok_or(BuildError::Cancelled)
    }

    async fn stage(self: &Arc<Self>, index: usize, number: usize, output: &Output) -> Result<StageState> {
        let stage = &self.graph.stages[index];
        let from = &self.file.instructions[stage.from];
        say(output, format!("Step {number}/{} : {}\n", self.steps, from.text)).await?;
        let (state, triggers) = match &stage.base {
            Base::Scratch => (StageState::scratch(&self.platform(stage.platform.as_deref())?), Vec::new()),
            Base::Stage(base) => StageState::from_stage(&*self.result(*base).await?),
            Base::Image(name) => self.base(name, stage.platform.as_deref(), from, output).await?,
            Base::Context(name) => match self.request.contexts.get(name) {
                Some(Named::Image(image)) => self.base(image, stage.platform.as_deref(), from, output).await?,
                _ => {
                    let why = format!("the context {name} holds files: FROM takes an image");
                    let help = format!("--build-context {name}=docker-image://IMAGE, or COPY --from={name}");
                    return Err(self.file.source.diagnostic(from.span, why).help(help).into());
                }
            },
        };
        let shown = match (&state.base, state.top()) {
            (Some(image), _) if state.layers.len() <= 1 || matches!(stage.base, Base::Image(_)) => image.hex(),
            (_, Some(top)) => top.0.hex(),
            _ => String::new(),
        };
        if !shown.is_empty() {
            say(output, format!(" ---> {}\n", &shown[..12])).await?;
        }
        let mut run = StageRun::new(Arc::clone(self), index, state, output.clone());
        if !triggers.is_empty() {
            let plural = if triggers.len() == 1 { "" } else { "s" };
            say(output, format!("# Executing {} build trigger{plural}\n", triggers.len())).await?;
            for trigger in &triggers {
                let source = Source::new("ONBUILD trigger of the base image", trigger.as_str());
                let instruction = parser::parse_one(source.name(), trigger)?;
                run.step(&source, &instruction).await?;
            }
        }
        for (at, position) in stage.body.clone().enumerate() {
            let instruction = &self.file.instructions[position];
            say(output, format!("Step {}/{} : {}\n", number + 1 + at, self.steps, instruction.text)).await?;
            run.step(&self.file.source, instruction).await?;
        }
        Ok(run.into_state())
    }

    /// An image that a stage begins with, and its triggers.
    async fn base(
        &self,
        name: &str,
        platform: Option<&str>,
        from: &Instruction,
        output: &Output,
    ) -> Result<(StageState, Vec<String>)> {
        let image = self.image(name, platform, output).await.map_err(|error| match error {
            BuildError::Invalid(why) => self.file.source.diagnostic(from.span, why).into(),
            other => other,
        })?;
        Ok(StageState::from_image(&image))
    }

    fn platform(&self, text: Option<&str>) -> Result<Platform> {
        match text {
            Some(text) => Platform::parse(text).map_err(|error| BuildError::Invalid(error.to_string())),
            None => Ok(self.request.platform.clone()),
        }
    }

    /// An image of FROM or `--from`.
    pub(crate) async fn image(&self, name: &str, platform: Option<&str>, output: &Output) -> Result<Arc<ImageRecord>> {
        self.backend.image(name, &self.platform(platform)?, self.request.pull, output).await
    }

    /// A root to copy from; opened once, whoever asks.
    pub(crate) async fn origin(&self, layers: &[sampan_image::ChainId]) -> Result<Arc<OriginRoot<B::Root>>> {
        let name = layers.first().map(ToString::to_string).unwrap_or_default();
        let cell = {
            let mut origins = self.origins.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(origins.entry(name).or_default())
        };
        let root = cell
            .get_or_try_init(|| async {
                let root = if layers.is_empty() { None } else { Some(self.backend.open(layers).await?) };
                Ok::<_, BuildError>(Arc::new(OriginRoot { root, digests: Mutex::default() }))
            })
            .await?;
        Ok(Arc::clone(root))
    }
}
