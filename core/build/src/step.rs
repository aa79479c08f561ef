//! What each instruction does to a stage.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sampan_image::ChainId;
use sampan_image::tree::Tree;

use crate::backend::{Backend, MountSource, Output, Root, RunStep, StepMount};
use crate::cache::{Entry, Key, KeyWriter};
use crate::context::Context;
use crate::copy::{self, CopyError, Landing, Match, Selection};
use crate::dockerignore::Ignore;
use crate::error::{BuildError, Result};
use crate::executor::{Build, Named, OriginRoot, say};
use crate::expand::Expander;
use crate::extract::ensure_folder;
use crate::graph::Origin;
use crate::instruction::{Command, Instruction, Kind, Run, Transfer, TransferSource};
use crate::lines::{Heredoc, heredoc_mark};
use crate::mount::{self, MountKind};
use crate::owner::{ModeChange, resolve_owner};
use crate::remote::Remote;
use crate::scope::is_proxy;
use crate::source::Source;
use crate::state::{DEFAULT_PATH, StageState};
use crate::stubs::Stubs;

/// Runs blocking work on files.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(BuildError::Backend(format!("a worker thread failed: {error}"))))
}

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

/// A transfer with its variables expanded.
struct Copying {
    keyword: &'static str,
    paths: Vec<String>,
    /// What is fetched, as it was written.
    remote: Vec<(String, Remote)>,
    keep_git_dir: bool,
    checksum: Option<String>,
    inline: Vec<(String, String)>,
    dest: String,
    chown: Option<String>,
    chmod: Option<String>,
    exclude: Vec<String>,
    parents: bool,
    unpack: bool,
    /// The same for what is fetched.
    unpack_fetched: bool,
}

/// One tree that a transfer takes from, and what of it.
struct Part<B: Backend> {
    files: Files<B>,
    paths: Vec<String>,
    matches: Vec<Match>,
    unpack: bool,
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
                        told.push(default.as_ref().map_or_else(|| name.clone(), |value| format!("{name}={value}")));
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
                let user = self.word(user)?;
                if user.is_empty() {
                    return Err(BuildError::Invalid("USER: the name is empty".to_owned()));
                }
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
                match self.build.backend.cached(key).await {
                    Some(entry) if !self.build.no_cache(self.index) => entry.created,
                    _ => {
                        let created = self.build.now();
                        let entry = Entry { layer: None, created, description: step.clone() };
                        self.build.backend.remember(key, entry).await?;
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
        say(&self.output, format!(" ---> {}\n", shown.short())).await
    }

    /// Takes a remembered result; whether there was one.
    async fn take(&mut self, key: Key, step: &str) -> Result<bool> {
        if self.build.no_cache(self.index) {
            return Ok(false);
        }
        let Some(entry) = self.build.backend.cached(key).await else { return Ok(false) };
        say(&self.output, " ---> Using cache\n".to_owned()).await?;
        self.made(key, step, entry).await?;
        Ok(true)
    }

    async fn made(&mut self, key: Key, step: &str, entry: Entry) -> Result<()> {
        self.state.record(step.to_owned(), entry.created, entry.layer);
        self.last = Some(key);
        say(&self.output, format!(" ---> {}\n", key.short())).await
    }

    /// Keeps a new result and goes on with it.
    async fn keep(&mut self, key: Key, step: &str, entry: Entry) -> Result<()> {
        self.build.backend.remember(key, entry.clone()).await?;
        self.made(key, step, entry).await
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
        key.text(&path).maybe(self.epoch().as_deref());
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
            ensure_folder(&mut tree, name, (0, 0), Some(Self::time(created))).map_err(|error| wrong(&error))?;
            Ok(true)
        })
        .await?;
        let layer =
            if is_new { Some(self.build.backend.commit(&root, &parents, self.build.latest()).await?) } else { None };
        drop(root);
        self.keep(key, &step, Entry { layer, created, description: step.clone() }).await
    }

    // ---- COPY and ADD ----

    async fn transfer(&mut self, keyword: &'static str, transfer: &Transfer) -> Result<()> {
        let copying = self.copying(keyword, transfer)?;
        let files = self.files(transfer.from.as_deref()).await?;
        let step = history(&copying, transfer);

        // What a stage holds is known by its layers: nothing need be opened when they are the same.
        let quick = if let Files::Layers { top, .. } = &files {
            let mut key = self.copy_key("copy-from", &copying);
            key.maybe(top.map(|top| top.to_string()).as_deref()).list(&copying.paths);
            Some(key.finish())
        } else {
            None
        };
        if let Some(quick) = quick
            && self.take(quick, &step).await?
        {
            return Ok(());
        }
        let parts = self.parts(&copying, files).await?;
        let parts = self.collect(&copying, parts).await?;
        let mut key = self.copy_key("copy", &copying);
        for part in &parts {
            copy::hash_into(&mut key, &part.matches);
        }
        let key = key.finish();
        let _flight = self.build.backend.flights().lock(key).await;
        if !self.build.no_cache(self.index)
            && let Some(entry) = self.build.backend.cached(key).await
        {
            say(&self.output, " ---> Using cache\n".to_owned()).await?;
            if let Some(quick) = quick {
                self.build.backend.remember(quick, entry.clone()).await?;
            }
            return self.made(key, &step, entry).await;
        }
        let parents = self.state.parents();
        let root = self.build.backend.open(&parents).await?;
        let created = self.build.now();
        self.land(copying, parts, root.path().to_owned(), created).await?;
        let layer = self.build.backend.commit(&root, &parents, self.build.latest()).await?;
        drop(root);
        let entry = Entry { layer: Some(layer), created, description: step.clone() };
        if let Some(quick) = quick {
            self.build.backend.remember(quick, entry.clone()).await?;
        }
        self.keep(key, &step, entry).await
    }

    fn copying(&self, keyword: &'static str, transfer: &Transfer) -> Result<Copying> {
        let maybe = |text: &Option<String>| text.as_deref().map(|text| self.word(text)).transpose();
        let (mut paths, mut remote, mut inline) = (Vec::new(), Vec::new(), Vec::new());
        for source in &transfer.sources {
            match source {
                TransferSource::Path(text) => {
                    let path = self.word(text)?;
                    match Remote::parse(&path).map_err(BuildError::Invalid)? {
                        Some(_) if keyword != "ADD" && transfer.from.is_none() => {
                            return Err(BuildError::Invalid(format!("{path}: COPY takes no URLs; ADD does")));
                        }
                        Some(found) if keyword == "ADD" => {
                            remote.push((path, found));
                            continue;
                        }
                        _ => {}
                    }
                    paths.push(path);
                }
                TransferSource::Inline(heredoc) => {
                    let body = heredoc.body();
                    let body = if heredoc.expand { self.expand(|expander| expander.document(&body))? } else { body };
                    inline.push((heredoc.name.clone(), body));
                }
            }
        }
        let checksum = maybe(&transfer.checksum)?;
        if checksum.is_some() && (remote.len() != 1 || !paths.is_empty() || !inline.is_empty()) {
            return Err(BuildError::Invalid("ADD --checksum: exactly one URL is expected".to_owned()));
        }
        let dest = self.word(&transfer.dest)?;
        if dest.is_empty() {
            return Err(BuildError::Invalid(format!("{keyword}: the destination is empty")));
        }
        Ok(Copying {
            keyword,
            paths,
            remote,
            keep_git_dir: transfer.keep_git_dir,
            checksum,
            inline,
            dest,
            chown: maybe(&transfer.chown)?,
            chmod: maybe(&transfer.chmod)?,
            exclude: transfer.exclude.iter().map(|text| self.word(text)).collect::<Result<_>>()?,
            parents: transfer.parents,
            unpack: keyword == "ADD" && transfer.unpack.unwrap_or(true),
            unpack_fetched: keyword == "ADD" && transfer.unpack.unwrap_or(false),
        })
    }

    /// A key of all but the contents.
    fn copy_key(&self, kind: &str, copying: &Copying) -> KeyWriter {
        let mut key = KeyWriter::new(kind, self.state.top());
        key.text(&self.state.absolute(&copying.dest)).number(is_folder(&copying.dest).into());
        key.maybe(copying.chown.as_deref()).maybe(copying.chmod.as_deref()).list(&copying.exclude);
        key.number(copying.parents.into()).number(copying.unpack.into()).number(copying.paths.len() as u64);
        key.number(copying.unpack_fetched.into()).number(copying.remote.len() as u64);
        key.maybe(self.epoch().as_deref());
        for (name, content) in &copying.inline {
            key.text(name).text(content);
        }
        key
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

    /// The trees that a transfer takes from; what is remote is fetched.
    async fn parts(&self, copying: &Copying, files: Files<B>) -> Result<Vec<Part<B>>> {
        let mut parts = Vec::new();
        if !copying.paths.is_empty() {
            parts.push(Part { files, paths: copying.paths.clone(), matches: Vec::new(), unpack: copying.unpack });
        }
        for (written, remote) in &copying.remote {
            if matches!(remote, Remote::Http { .. }) && remote.file_name().is_empty() && is_folder(&copying.dest) {
                return Err(BuildError::Invalid(format!(
                    "ADD {written}: the URL names no file; name it in the destination"
                )));
            }
            say(&self.output, format!("Fetching {}\n", remote.shown())).await?;
            let fetched = self.build.backend.fetch(remote, copying.keep_git_dir, copying.checksum.as_deref()).await?;
            if let Some(note) = fetched.note {
                say(&self.output, format!("[Warning] {note}\n")).await?;
            }
            parts.push(Part {
                files: Files::Context(Arc::new(fetched.context)),
                paths: vec![fetched.path],
                matches: Vec::new(),
                unpack: copying.unpack_fetched,
            });
        }
        Ok(parts)
    }

    async fn collect(&self, copying: &Copying, mut parts: Vec<Part<B>>) -> Result<Vec<Part<B>>> {
        let selection = Selection {
            exclude: Ignore::from_patterns(copying.exclude.iter().map(String::as_str))
                .map_err(|error| BuildError::Invalid(format!("--exclude: {error}")))?,
            parents: copying.parents,
        };
        let keyword = copying.keyword;
        let parts = blocking(move || {
            for part in &mut parts {
                let found = with_origin(&part.files, |origin| {
                    let mut matches = Vec::new();
                    for path in &part.paths {
                        matches.extend(copy::collect(origin, path, &selection).map_err(copy_fault)?);
                    }
                    Ok(matches)
                })?;
                if found.is_empty() {
                    return Err(BuildError::Invalid(format!("{keyword} {}: nothing matches", part.paths.join(" "))));
                }
                part.matches = found;
            }
            Ok(parts)
        })
        .await?;
        let found: usize = parts.iter().map(|part| part.matches.len()).sum();
        let most = found.max(copying.paths.len() + copying.remote.len()) + copying.inline.len();
        if most > 1 && !is_folder(&copying.dest) {
            return Err(BuildError::Invalid(format!(
                "When using {keyword} with more than one source file, the destination must be a directory and end with a /"
            )));
        }
        Ok(parts)
    }

    async fn land(&self, copying: Copying, parts: Vec<Part<B>>, root: PathBuf, created: i64) -> Result<()> {
        let dest = self.state.absolute(&copying.dest);
        blocking(move || {
            let owner = match &copying.chown {
                Some(text) => {
                    let mut tree = Tree::open(&root)
                        .map_err(|error| BuildError::Backend(format!("open the stage's root: {error}")))?;
                    Some(resolve_owner(&mut tree, text).map_err(|why| BuildError::Invalid(format!("--chown: {why}")))?)
                }
                None => None,
            };
            let mode = copying.chmod.as_deref().map(ModeChange::parse).transpose().map_err(BuildError::Invalid)?;
            let mut landing = Landing {
                dest,
                folder: is_folder(&copying.dest),
                owner,
                mode,
                unpack: copying.unpack,
                time: Self::time(created),
            };
            for part in &parts {
                landing.unpack = part.unpack;
                with_origin(&part.files, |origin| {
                    copy::land(origin, &part.matches, &root, &landing).map_err(copy_fault)
                })?;
            }
            for (name, content) in &copying.inline {
                copy::land_inline(name, content.as_bytes(), &root, &landing).map_err(copy_fault)?;
            }
            Ok(())
        })
        .await
    }

    // ---- RUN ----

    async fn run(&mut self, source: &Source, instruction: &Instruction, run: &Run) -> Result<()> {
        if run.security.as_deref() == Some("insecure") {
            return Err(BuildError::Unsupported(
                "RUN --security=insecure needs the daemon's permission, which it does not give".to_owned(),
            ));
        }
        if !run.devices.is_empty() {
            return Err(BuildError::Unsupported("RUN --device is not there yet".to_owned()));
        }
        let network = match run.network.as_deref() {
            None | Some("default") => self.build.request.network.clone(),
            Some(other) => other.to_owned(),
        };
        let (args, script) = self.arguments(run);
        let arguments: Vec<String> = self
            .state
            .scope
            .values()
            .filter(|(name, _)| !is_proxy(name) && !self.has_env(name))
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let mut mounts = Vec::new();
        let mut key = KeyWriter::new("run", self.state.top());
        key.list(&args).list(&self.state.config.config.env).list(&arguments);
        key.text(self.state.workdir()).text(&self.state.config.config.user).text(&network);
        key.list(&self.build.request.extra_hosts);
        if let Some(epoch) = self.epoch() {
            key.text("epoch").text(&epoch);
        }
        let mut secret_env = Vec::new();
        for text in &run.mounts {
            let expand = |text: &str| self.word(text).map_err(|error| error.to_string());
            let parsed = mount::parse(text, &expand).map_err(BuildError::Invalid)?;
            key.text(&format!("{parsed:?}"));
            self.mount(parsed, &mut key, &mut mounts, &mut secret_env).await?;
        }
        if let Some((name, body)) = &script {
            key.text(name).text(body);
        }
        let key = key.finish();
        let step = run_history(&args, &arguments, run);
        let _flight = self.build.backend.flights().lock(key).await;
        if self.take(key, &step).await? {
            return Ok(());
        }
        say(&self.output, format!(" ---> Running in {}\n", key.short())).await?;
        let mut env = self.state.config.config.env.clone();
        if !env.iter().any(|each| each.starts_with("PATH=")) {
            env.push(DEFAULT_PATH.to_owned());
        }
        env.extend(arguments);
        for (name, value) in
            self.build.args.proxies().chain(self.state.scope.values().filter(|(name, _)| is_proxy(name)))
        {
            if !self.has_env(name) && !env.iter().any(|each| each.split('=').next() == Some(name)) {
                env.push(format!("{name}={value}"));
            }
        }
        env.extend(secret_env);
        let parents = self.state.parents();
        let root = self.build.backend.open(&parents).await?;
        let folder = self.script(script, &mut mounts).await?;
        let run_step = RunStep {
            id: key.short(),
            args: args.clone(),
            env,
            cwd: self.state.workdir().to_owned(),
            user: self.state.config.config.user.clone(),
            network,
            extra_hosts: self.build.request.extra_hosts.clone(),
            shm_size: self.build.request.shm_size,
            memory: self.build.request.memory,
            memory_swap: self.build.request.memory_swap,
            ulimits: self.build.request.ulimits.clone(),
            mounts,
        };
        let targets: Vec<String> = run_step.mounts.iter().map(|mount| mount.target.clone()).collect();
        let at = root.path().to_owned();
        let stubs = blocking(move || {
            Stubs::before(&at, &targets).map_err(|error| BuildError::Backend(format!("look at the root: {error}")))
        })
        .await?;
        let code = self.build.backend.run(&root, run_step, &self.output).await?;
        drop(folder);
        if code != 0 {
            let command = shown_command(&args);
            let place = source.diagnostic(instruction.span, format!("the program ended with code {code}"));
            return Err(BuildError::Run { command, code, place: Box::new(place) });
        }
        let at = root.path().to_owned();
        blocking(move || {
            stubs.remove(&at).map_err(|error| BuildError::Backend(format!("clear the root of mount points: {error}")))
        })
        .await?;
        let layer = self.build.backend.commit(&root, &parents, self.build.latest()).await?;
        drop(root);
        let created = self.build.now();
        self.keep(key, &step, Entry { layer: Some(layer), created, description: step.clone() }).await
    }

    fn has_env(&self, name: &str) -> bool {
        self.state.config.config.env.iter().any(|each| each.split('=').next() == Some(name))
    }

    /// The program's arguments; a here-document that is a script of its own comes as a file.
    fn arguments(&self, run: &Run) -> (Vec<String>, Option<(String, String)>) {
        let Command::Shell(text) = &run.command else { return (self.state.arguments(&run.command), None) };
        let Some(first) = run.heredocs.first() else { return (self.state.arguments(&run.command), None) };
        if run.heredocs.len() == 1 && heredoc_mark(text.trim()).is_some() {
            let body = first.body();
            if body.starts_with("#!") {
                let path = format!("{SCRIPTS}/{}", first.name);
                return (vec![path], Some((first.name.clone(), body)));
            }
            return (self.state.arguments(&Command::Shell(body)), None);
        }
        // The shell reads here-documents itself.
        let whole = run
            .heredocs
            .iter()
            .fold(text.clone(), |text, each: &Heredoc| format!("{text}\n{}{}", each.content, each.name));
        (self.state.arguments(&Command::Shell(whole)), None)
    }

    /// Writes a script where it can be mounted from.
    async fn script(
        &self,
        script: Option<(String, String)>,
        mounts: &mut Vec<StepMount>,
    ) -> Result<Option<crate::context::Scratch>> {
        let Some((name, body)) = script else { return Ok(None) };
        mounts.push(StepMount {
            target: format!("{SCRIPTS}/{name}"),
            source: MountSource::Secret { content: body.into_bytes().into(), mode: 0o755, owner: (0, 0) },
        });
        Ok(None)
    }

    async fn mount(
        &self,
        mount: mount::RunMount,
        key: &mut KeyWriter,
        mounts: &mut Vec<StepMount>,
        env: &mut Vec<String>,
    ) -> Result<()> {
        let target = self.state.absolute(&mount.target);
        match mount.kind {
            MountKind::Bind { writable: true, .. } => {
                return Err(BuildError::Unsupported(
                    "RUN --mount=type=bind,rw is not there yet: copy the files to a place of your own first".to_owned(),
                ));
            }
            MountKind::Bind { from, source, writable: false } => {
                let path = self.bind(from.as_deref(), &source, Some(key)).await?;
                mounts.push(StepMount { target, source: MountSource::Path(path) });
            }
            MountKind::Cache { id, from, source, read_only, sharing, mode, uid, gid } => {
                let seed = match from {
                    Some(from) => Some(self.bind(Some(&from), &source, None).await?),
                    None => None,
                };
                let id = if id == mount.target { target.clone() } else { id };
                let owner = (uid, gid);
                mounts.push(StepMount {
                    target,
                    source: MountSource::Cache { id, seed, read_only, sharing, mode, owner },
                });
            }
            MountKind::Tmpfs { size } => mounts.push(StepMount { target, source: MountSource::Tmpfs { size } }),
            MountKind::Secret { id, required, mode, uid, gid, env: variable } => {
                let Some(content) = self.build.request.secrets.get(&id) else {
                    if required {
                        return Err(BuildError::Invalid(format!(
                            "the secret {id} is not given: --secret id={id},src=FILE"
                        )));
                    }
                    return Ok(());
                };
                if let Some(name) = variable {
                    let text = std::str::from_utf8(content).map_err(|_| {
                        BuildError::Invalid(format!("the secret {id} is not text: no variable can hold it"))
                    })?;
                    env.push(format!("{name}={text}"));
                }
                if !mount.target.is_empty() {
                    let source = MountSource::Secret { content: Arc::clone(content), mode, owner: (uid, gid) };
                    mounts.push(StepMount { target, source });
                }
            }
            MountKind::Ssh { id, required, mode, uid, gid } => {
                let Some(agent) = self.build.request.ssh.get(&id) else {
                    if required {
                        return Err(BuildError::Invalid(format!("the agent {id} is not given: --ssh {id}")));
                    }
                    return Ok(());
                };
                let number = mounts.iter().filter(|each| matches!(each.source, MountSource::Ssh { .. })).count();
                let target = if mount.target.is_empty() { format!("/run/buildkit/ssh_agent.{number}") } else { target };
                if number == 0 {
                    env.push(format!("SSH_AUTH_SOCK={target}"));
                }
                let source = MountSource::Ssh { agent: agent.clone(), mode, owner: (uid, gid) };
                mounts.push(StepMount { target, source });
            }
        }
        Ok(())
    }

    /// A path of the context, a stage or an image, as the host sees it; its contents go into the key.
    async fn bind(&self, from: Option<&str>, source: &str, key: Option<&mut KeyWriter>) -> Result<PathBuf> {
        let files = self.files(from).await?;
        let wanted = source.to_owned();
        let hash = key.is_some();
        let top = if let Files::Layers { top, .. } = &files { *top } else { None };
        let context = matches!(files, Files::Context(_));
        let (path, matches) = blocking(move || {
            with_origin(&files, |origin| {
                let wrong = |error: std::io::Error| BuildError::Invalid(format!("--mount: {wanted}: {error}"));
                let mut tree = Tree::open(origin.root).map_err(wrong)?;
                let name = crate::pattern::clean(&format!("/{wanted}"));
                let (path, stat) = copy::resolve(&mut tree, name.as_bytes()).map_err(wrong)?;
                if stat.is_none() {
                    return Err(BuildError::Invalid(format!("--mount: {wanted}: not found in {}", origin.label)));
                }
                let path = origin.root.join(Path::new(std::ffi::OsStr::new(
                    <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&path),
                )));
                let matches = if hash && context {
                    copy::collect(origin, &name, &Selection::default()).map_err(copy_fault)?
                } else {
                    Vec::new()
                };
                Ok((path, matches))
            })
        })
        .await?;
        if let Some(key) = key {
            if context {
                copy::hash_into(key, &matches);
            } else {
                key.maybe(top.map(|top| top.to_string()).as_deref());
            }
        }
        Ok(path)
    }
}

/// Where scripts of RUN are found.
const SCRIPTS: &str = "/dev/pipes";

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

/// Whether a destination was written as a directory.
fn is_folder(dest: &str) -> bool {
    dest.ends_with('/') || dest == "." || dest == ".." || dest.ends_with("/.") || dest.ends_with("/..")
}

fn joined(pairs: &[(String, String)]) -> String {
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

/// COPY as the history shows it.
fn history(copying: &Copying, transfer: &Transfer) -> String {
    let mut text = copying.keyword.to_owned();
    for (name, value) in [("from", &transfer.from), ("chown", &copying.chown), ("chmod", &copying.chmod)] {
        if let Some(value) = value
            && name != "from"
        {
            text.push_str(&format!(" --{name}={value}"));
        }
    }
    for path in &copying.paths {
        text.push_str(&format!(" {path}"));
    }
    for (_, remote) in &copying.remote {
        text.push_str(&format!(" {}", remote.shown()));
    }
    for (name, _) in &copying.inline {
        text.push_str(&format!(" <<{name}"));
    }
    text.push_str(&format!(" {}", copying.dest));
    text
}

fn run_history(args: &[String], arguments: &[String], run: &Run) -> String {
    let mut text = String::from("RUN");
    if !arguments.is_empty() {
        text.push_str(&format!(" |{} {}", arguments.len(), arguments.join(" ")));
    }
    let script = run.heredocs.len() == 1 && args.len() == 1;
    if script {
        return format!("{text} <<{}", run.heredocs[0].name);
    }
    format!("{text} {}", args.join(" "))
}

/// A command as Docker's error shows it.
fn shown_command(args: &[String]) -> String {
    args.join(" ")
}
