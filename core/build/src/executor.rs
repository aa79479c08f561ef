//! Walks the graph: stages that do not need each other at once, each stage's steps in order.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use sampan_image::{Digest, ImageRecord, ImageRef, Platform, timestamp};
use tokio::sync::{OnceCell, mpsc, watch};
use tokio::task::JoinSet;

use crate::backend::{Backend, Message, Output, Part, Step};
use crate::cache::{Entry, Key};
use crate::context::Context;
use crate::dockerignore::Ignore;
use crate::error::{BuildError, Result};
use crate::extract::Digests;
use crate::graph::{Base, Graph};
use crate::instruction::{Dockerfile, Instruction, Kind};
use crate::lint;
use crate::options::Options;
use crate::outline;
use crate::parser;
use crate::provenance::{self, Material, Provenance};
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
    /// What it is built for, each once; this machine if there is none.
    pub platforms: Vec<Platform>,
    /// `--build-context`, by name in lower case.
    pub contexts: BTreeMap<String, Named>,
    /// How.
    pub options: Options,
}

impl Request {
    fn platforms(&self) -> Vec<Platform> {
        if self.platforms.is_empty() { vec![Platform::host()] } else { self.platforms.clone() }
    }

    /// What ARGs are worth when it is built for a platform.
    fn args(&self, platform: &Platform) -> BuildArgs {
        let target = self.options.target.as_deref().unwrap_or_default();
        BuildArgs::new(&self.options.build_args, &Platform::host(), platform, target)
    }

    fn plan(&self, file: &Dockerfile, args: &BuildArgs) -> Result<Graph> {
        let contexts = self.contexts.keys().cloned().collect();
        Ok(Graph::plan(file, args, self.options.target.as_deref(), contexts)?)
    }
}

/// What a build has made.
#[derive(Debug, Clone)]
pub struct Product {
    /// For each platform, in the order of the request.
    pub images: Vec<Arc<ImageRecord>>,
    /// What joins them under their names, if one image alone would not do.
    pub index: Option<Digest>,
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

/// Roots that are copied from, by their topmost layer.
type Origins<R> = Mutex<HashMap<String, Shared<OriginRoot<R>>>>;

/// What all stages of a build for one platform share.
pub(crate) struct Build<B: Backend> {
    pub(crate) backend: Arc<B>,
    pub(crate) request: Arc<Request>,
    pub(crate) file: Arc<Dockerfile>,
    pub(crate) graph: Graph,
    pub(crate) args: BuildArgs,
    pub(crate) platform: Platform,
    /// There are several platforms, and messages say which is meant.
    several: bool,
    /// Steps in all stages that are built, for all platforms.
    pub(crate) steps: usize,
    stages: HashMap<usize, watch::Receiver<Option<Arc<StageState>>>>,
    /// What this build has made, for whichever platform: no step is done twice, even if nothing remembered counts.
    made: Arc<Mutex<HashMap<Key, Entry>>>,
    origins: Arc<Origins<B::Root>>,
    /// What came from elsewhere.
    materials: Mutex<BTreeSet<Material>>,
}

/// A root that is only read, and the digests of its files that are known.
pub(crate) struct OriginRoot<R> {
    /// `None` for a stage without layers.
    pub(crate) root: Option<R>,
    pub(crate) digests: Mutex<Digests>,
}

/// Builds an image, or one for each platform. Dropping the future ends the build; what was remembered until then stays.
pub async fn build<B: Backend>(backend: Arc<B>, request: Request, output: Output) -> Result<Product> {
    let file = Arc::new(parser::parse(&request.dockerfile, &request.text)?);
    let platforms = request.platforms();
    let mut plans = Vec::new();
    for platform in &platforms {
        let args = request.args(platform);
        let graph = request.plan(&file, &args)?;
        plans.push((platform.clone(), args, graph));
    }
    let Some((_, args, graph)) = plans.first() else { return Err(BuildError::Cancelled) };
    if request.options.rewrite_timestamp && args.source_date_epoch().is_none() {
        let why = "rewrite-timestamp needs a time: --build-arg SOURCE_DATE_EPOCH=SECONDS";
        return Err(BuildError::Invalid(why.to_owned()));
    }
    for wanted in &request.options.no_cache_stages {
        let known = |index: &usize| graph.label(*index) == wanted.to_ascii_lowercase() || index.to_string() == *wanted;
        if !(0..graph.stages.len()).any(|index| known(&index)) {
            return Err(BuildError::Invalid(format!("--no-cache-filter {wanted}: there is no such stage")));
        }
    }
    let quiet = request.options.quiet;
    warn(&file, args, quiet, &output).await?;
    lint(&file, request.context.ignore(), quiet, &output).await?;

    let started = timestamp::now();
    let request = Arc::new(request);
    let steps = plans.iter().map(|(.., graph)| steps(graph)).sum();
    let (made, origins) = (Arc::default(), Arc::default());
    let mut tasks: JoinSet<Result<()>> = JoinSet::new();
    let (mut builds, mut channels) = (Vec::new(), Vec::new());
    let mut first = 1;
    for (platform, args, graph) in plans {
        let several = platforms.len() > 1;
        let (mut senders, mut stages) = (Vec::new(), HashMap::new());
        for index in &graph.order {
            let (sender, receiver) = watch::channel(None);
            senders.push((*index, sender));
            stages.insert(*index, receiver);
        }
        let build = Arc::new(Build {
            backend: Arc::clone(&backend),
            request: Arc::clone(&request),
            file: Arc::clone(&file),
            graph,
            args,
            platform,
            several,
            steps,
            stages,
            made: Arc::clone(&made),
            origins: Arc::clone(&origins),
            materials: Mutex::default(),
        });
        for (index, sender) in senders {
            let (stage_output, receiver) = mpsc::channel(256);
            channels.push(receiver);
            let build = Arc::clone(&build);
            let number = first;
            first += 1 + build.graph.stages[index].body.len();
            tasks.spawn(async move {
                let state = build.stage(index, number, &stage_output).await?;
                sender.send_replace(Some(Arc::new(state)));
                Ok(())
            });
        }
        builds.push(build);
    }
    let told = output.clone();
    let live = request.options.live;
    tasks.spawn(
        async move { if live { forward_live(channels, told).await } else { forward(channels, told, quiet).await } },
    );
    if let Err(failure) = finished(tasks).await {
        // The error is Docker's sentence; where it happened stands before it.
        if let BuildError::Run { place, .. } = &failure
            && !quiet
            && !live
        {
            say(&output, format!("{place}\n")).await?;
        }
        return Err(failure);
    }
    finish(&builds, started, &output).await
}

/// Steps in the stages that are built.
fn steps(graph: &Graph) -> usize {
    graph.order.iter().map(|index| 1 + graph.stages[*index].body.len()).sum()
}

/// Waits for all stages, and for what they say to be told; the first failure that says why.
async fn finished(mut tasks: JoinSet<Result<()>>) -> Result<()> {
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
        }
    }
    failure.map_or(Ok(()), Err)
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
        tell(output, Message::Lint(warning)).await?;
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
    for platform in request.platforms() {
        request.plan(&file, &request.args(&platform))?;
    }
    let options = lint_options(&file)?;
    let found = lint::check(&file, &options, request.context.ignore());
    let count = found.len();
    output.send(Message::Warnings(found, request.text.clone())).await.map_err(|_| BuildError::Cancelled)?;
    if options.error && count > 0 {
        return Err(BuildError::Invalid(format!("the check found {count} warnings, and check=error=true is set")));
    }
    Ok(())
}

/// What is asked of a Dockerfile without building it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// What the target takes.
    Outline,
    /// Which targets there are.
    Targets,
}

/// Answers a question about a Dockerfile.
pub async fn ask(request: &Request, question: Question, output: &Output) -> Result<()> {
    let file = parser::parse(&request.dockerfile, &request.text)?;
    let platforms = request.platforms();
    let args = request.args(platforms.first().unwrap_or(&Platform::host()));
    let graph = request.plan(&file, &args)?;
    let answer = match question {
        Question::Outline => serde_json::to_value(outline::outline(&file, &graph, &args)),
        Question::Targets => serde_json::to_value(outline::targets(&file, &graph)),
    };
    let answer = answer.map_err(|error| BuildError::Backend(error.to_string()))?;
    output.send(Message::Told(answer)).await.map_err(|_| BuildError::Cancelled)
}

/// Tells what the stages say while they say it.
async fn forward_live(channels: Vec<mpsc::Receiver<Message>>, output: Output) -> Result<()> {
    let mut tasks = JoinSet::new();
    for (stage, mut channel) in channels.into_iter().enumerate() {
        let output = output.clone();
        tasks.spawn(async move {
            while let Some(message) = channel.recv().await {
                tell(&output, Message::Stage(stage, Box::new(message))).await?;
            }
            Ok(())
        });
    }
    drop(output);
    finished(tasks).await
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
    tell(output, Message::Stream(text)).await
}

pub(crate) async fn tell(output: &Output, message: Message) -> Result<()> {
    output.send(message).await.map_err(|_| BuildError::Cancelled)
}

/// Makes the images of what the stages have become, and joins them if there are several, or if more is to be said of one.
async fn finish<B: Backend>(builds: &[Arc<Build<B>>], started: i64, output: &Output) -> Result<Product> {
    let [one, ..] = builds else { return Err(BuildError::Cancelled) };
    let request = &one.request;
    let joined = builds.len() > 1 || request.options.provenance.is_some();
    let mut images = Vec::new();
    for build in builds {
        let names = if joined { Vec::new() } else { request.names.clone() };
        images.push(build.image_of(names).await?);
    }
    let index = if joined {
        let parts = builds.iter().zip(&images).map(|(build, image)| Part {
            platform: build.platform.clone(),
            image: Arc::clone(image),
            provenance: request.options.provenance.as_ref().map(|wanted| build.provenance(wanted, started)),
        });
        Some(one.backend.join(parts.collect(), request.names.clone()).await?)
    } else {
        None
    };
    let id = index.unwrap_or(images[0].id);
    let told = match index {
        None => Message::Image { id, manifest: images[0].manifest },
        Some(index) => {
            let parts = builds.iter().zip(&images).map(|(build, image)| (build.platform.clone(), image.id));
            Message::Index { index, images: parts.collect() }
        }
    };
    output.send(told).await.map_err(|_| BuildError::Cancelled)?;
    if request.options.quiet {
        say(output, format!("{id}\n")).await?;
    } else {
        say(output, format!("Successfully built {}\n", &id.hex()[..12])).await?;
        for name in &request.names {
            say(output, format!("Successfully tagged {}\n", name.familiar())).await?;
        }
    }
    Ok(Product { images, index })
}

impl<B: Backend> Build<B> {
    /// Makes the image of the target.
    async fn image_of(&self, names: Vec<ImageRef>) -> Result<Arc<ImageRecord>> {
        let state = self.result(self.graph.target).await?;
        let mut config = state.config.clone();
        config.config.labels.extend(self.request.options.labels.clone());
        if config.created.is_none() {
            config.created = Some(timestamp::format(self.now()));
        }
        self.backend.create(config, state.layers.clone(), state.base, names).await
    }

    /// How the image for this platform was made.
    fn provenance(&self, wanted: &Provenance, started: i64) -> serde_json::Value {
        let materials = self.materials.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let how = provenance::How {
            file: &self.file,
            dockerfile: &self.request.dockerfile,
            text: &self.request.text,
            options: &self.request.options,
            contexts: self.request.contexts.keys().map(String::as_str).collect(),
            platform: &self.platform,
            materials,
            started,
            ended: timestamp::now(),
        };
        provenance::predicate(wanted, &how)
    }

    /// The result of a step that this build has made.
    pub(crate) fn made(&self, key: Key) -> Option<Entry> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
    }

    /// Notes one.
    pub(crate) fn has_made(&self, key: Key, entry: Entry) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).insert(key, entry);
    }

    /// Something of elsewhere is part of what is built.
    pub(crate) fn note(&self, material: Material) {
        self.materials.lock().unwrap_or_else(PoisonError::into_inner).insert(material);
    }

    /// The time of a step that is made now, nanoseconds since 1970.
    pub(crate) fn now(&self) -> i64 {
        self.args.source_date_epoch().map_or_else(timestamp::now, |seconds| seconds.saturating_mul(1_000_000_000))
    }

    /// Whether a stage takes no remembered results.
    pub(crate) fn no_cache(&self, index: usize) -> bool {
        let named =
            |wanted: &String| *wanted == index.to_string() || wanted.to_ascii_lowercase() == self.graph.label(index);
        self.request.options.no_cache || self.request.options.no_cache_stages.iter().any(named)
    }

    /// The time that no file of a new layer may be after, in seconds since 1970.
    pub(crate) fn latest(&self) -> Option<i64> {
        self.args.source_date_epoch().filter(|_| self.request.options.rewrite_timestamp)
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
        self.begin(index, stage.from, number, output).await?;
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
            tell(output, Message::Made(shown[..12].to_owned())).await?;
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
            self.begin(index, position, number + 1 + at, output).await?;
            run.step(&self.file.source, instruction).await?;
        }
        Ok(run.into_state())
    }

    /// Says that a step begins.
    async fn begin(&self, index: usize, position: usize, number: usize, output: &Output) -> Result<()> {
        let stage = &self.graph.stages[index];
        let makes = |at: usize| match &self.file.instructions[at].kind {
            Kind::From(_) => matches!(stage.base, Base::Image(_) | Base::Context(_)),
            kind => matches!(kind, Kind::Run(_) | Kind::Copy(_) | Kind::Add(_) | Kind::Workdir(_)),
        };
        let before = |end: usize| (stage.from..end).filter(|at| makes(*at)).count();
        let step = Step {
            number,
            of: self.steps,
            line: self.file.instructions[position].line,
            platform: self.several.then(|| self.platform.clone()),
            stage: (self.graph.stages.len() > 1 || stage.name.is_some())
                .then(|| stage.name.clone().unwrap_or_else(|| format!("stage-{index}"))),
            place: makes(position).then(|| (before(position + 1), before(stage.body.end))),
            text: self.file.instructions[position].text.clone(),
        };
        tell(output, Message::Step(step)).await
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
            None => Ok(self.platform.clone()),
        }
    }

    /// An image of FROM or `--from`.
    pub(crate) async fn image(&self, name: &str, platform: Option<&str>, output: &Output) -> Result<Arc<ImageRecord>> {
        let platform = self.platform(platform)?;
        let image = self.backend.image(name, &platform, self.request.options.pull, output).await?;
        self.note(Material::image(name, &platform, image.manifest));
        Ok(image)
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
