//! `build`.

use base64::Engine as _;
use bollard_stubs::models::ResourcesUlimits;
use serde_json::{Map, Value, json};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

use sampan_compose::build_options::ContextKind;

use super::auth::ConfigFile;
use super::build_call::{Call, Method};
use super::build_output::Outputs;
use super::build_upload::{self as upload, Extras};
use super::ignore::Ignore;
use crate::archive::{self, Owner};
use crate::client::{JsonLines, Query};
use crate::commands::compose;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::{network, quantity, ulimit};
use crate::output::build_window::BuildWindow;
use crate::output::progress::{Progress, To};
use crate::output::{say, tell};

/// Options of `build`.
#[derive(Debug, Default, clap::Args)]
pub struct BuildArgs {
    /// Add a custom host-to-IP mapping ("host:ip")
    #[arg(long, value_parser = network::extra_host)]
    pub add_host: Vec<String>,
    /// Set build-time variables
    #[arg(long)]
    pub build_arg: Vec<String>,
    /// Additional build contexts (e.g., "name=path")
    #[arg(long, value_name = "name=path")]
    pub build_context: Vec<String>,
    /// External cache sources (e.g., "user/app:cache", "type=local,src=path/to/dir")
    #[arg(long, value_name = "source")]
    pub cache_from: Vec<String>,
    /// Cache export destinations (e.g., "type=registry,ref=user/app:cache,mode=max", "type=inline")
    #[arg(long, value_name = "destination")]
    pub cache_to: Vec<String>,
    /// Set method for evaluating build ("check", "outline", "targets"; with ",format=json" as a document)
    #[arg(long, value_name = "method")]
    pub call: Option<String>,
    /// Check the Dockerfile, and build nothing
    #[arg(long)]
    pub check: bool,
    /// Compress the build context using gzip
    #[arg(long, hide = true)]
    pub compress: bool,
    /// Skip image verification
    #[arg(long, default_value = "true", hide = true)]
    pub disable_content_trust: bool,
    /// Name of the Dockerfile (default: "PATH/Dockerfile")
    #[arg(short, long)]
    pub file: Option<String>,
    /// Always remove intermediate containers
    #[arg(long, hide = true)]
    pub force_rm: bool,
    /// Write the image ID to a file
    #[arg(long, value_name = "file")]
    pub iidfile: Option<PathBuf>,
    /// Set metadata for an image
    #[arg(long)]
    pub label: Vec<String>,
    /// Keep the image in the engine, whatever else is put out
    #[arg(long)]
    pub load: bool,
    /// Memory limit
    #[arg(short, long, value_name = "bytes", value_parser = quantity::bytes)]
    pub memory: Option<i64>,
    /// Swap limit equal to memory plus swap: -1 to enable unlimited swap
    #[arg(long, value_name = "bytes", value_parser = quantity::bytes_or_unlimited)]
    pub memory_swap: Option<i64>,
    /// Write build result metadata to a file
    #[arg(long, value_name = "file")]
    pub metadata_file: Option<PathBuf>,
    /// Set the networking mode for the RUN instructions during build (default "default")
    #[arg(long)]
    pub network: Option<String>,
    /// Do not use cache when building the image
    #[arg(long)]
    pub no_cache: bool,
    /// Do not cache specified stages
    #[arg(long, value_name = "stage", value_delimiter = ',')]
    pub no_cache_filter: Vec<String>,
    /// Output destination (format: "type=local,dest=path")
    #[arg(short, long, value_name = "output")]
    pub output: Vec<String>,
    /// Set target platform for build; an image for each of several
    #[arg(long, value_delimiter = ',')]
    pub platform: Vec<String>,
    /// Set type of progress output ("auto", "plain", "tty", "quiet", "rawjson")
    #[arg(long, default_value = "auto")]
    pub progress: String,
    /// Always attempt to pull all referenced images
    #[arg(long)]
    pub pull: bool,
    /// Push the image to its registry
    #[arg(long)]
    pub push: bool,
    /// Suppress the build output and print image ID on success
    #[arg(short, long)]
    pub quiet: bool,
    /// Remove intermediate containers after a successful build
    #[arg(long, default_value = "true", hide = true)]
    pub rm: bool,
    /// Secret to expose to the build (format: "id=mysecret[,src=/local/secret]")
    #[arg(long, value_name = "secret")]
    pub secret: Vec<String>,
    /// Size of "/dev/shm"
    #[arg(long, value_name = "bytes", value_parser = quantity::bytes)]
    pub shm_size: Option<i64>,
    /// SSH agent socket or keys to expose to the build (format: "default|<id>[=<socket>|<key>[,<key>]]")
    #[arg(long, value_name = "agent")]
    pub ssh: Vec<String>,
    /// Squash newly built layers into a single new layer (refused)
    #[arg(long, hide = true)]
    pub squash: bool,
    /// Name and optionally a tag (format: "name:tag")
    #[arg(short, long)]
    pub tag: Vec<String>,
    /// Set the target build stage to build
    #[arg(long)]
    pub target: Option<String>,
    /// Ulimit options
    #[arg(long, value_name = "ulimit", value_parser = ulimit::ulimit)]
    pub ulimit: Vec<ResourcesUlimits>,
    /// Allow the steps more than a container's rights ("device", "device=vendor.com/class=name", "network.host")
    #[arg(long, value_name = "what")]
    pub allow: Vec<String>,
    /// Add annotation to the image (format: "name=value")
    #[arg(long, value_name = "annotation")]
    pub annotation: Vec<String>,
    /// Attestation parameters (format: "type=provenance,mode=max")
    #[arg(long, value_name = "attestation")]
    pub attest: Vec<String>,
    /// Shorthand for "--attest=type=provenance"
    #[arg(long, value_name = "how", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub provenance: Option<String>,
    /// Shorthand for "--attest=type=sbom" (refused unless false)
    #[arg(long, value_name = "how", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub sbom: Option<String>,
    /// The builder (only the engine's own)
    #[arg(long, hide = true)]
    pub builder: Option<String>,
    /// The Dockerfile itself, instead of a file.
    #[arg(skip)]
    pub dockerfile_text: Option<String>,
    /// Secrets whose values are known, by id.
    #[arg(skip)]
    pub secret_values: Vec<(String, Vec<u8>)>,
    /// Directory or git URL of the context, or - for standard input
    #[arg(default_value = "", hide_default_value = true)]
    pub context: String,
}

fn refuse(args: &BuildArgs) -> Outcome {
    let no = |flag: &str, instead: &str| Err(Failure::new(format!("{flag} is not supported: {instead}")));
    match args {
        _ if args.squash => no("--squash", "use stages to keep images small"),
        _ => Ok(()),
    }
}

/// What is sent: the chunks of the archive, and the Dockerfile's name in it.
#[derive(Debug)]
struct Sent {
    /// None when the daemon fetches the context itself.
    chunks: Option<mpsc::Receiver<io::Result<bytes::Bytes>>>,
    dockerfile: Option<String>,
    remote: Option<String>,
}

impl Sent {
    fn new(chunks: mpsc::Receiver<io::Result<bytes::Bytes>>, dockerfile: Option<String>) -> Self {
        Self { chunks: Some(chunks), dockerfile, remote: None }
    }
}

/// `build`; without a context, of the project here.
pub async fn run(context: Context, args: BuildArgs) -> Outcome {
    if args.context.is_empty() {
        compose::names::meant(&context, &[]).await?;
        let build = compose::images::BuildArgs {
            build_arg: args.build_arg,
            no_cache: args.no_cache,
            pull: args.pull,
            push: args.push,
            quiet: args.quiet,
            ssh: args.ssh,
            check: args.check,
            ..compose::images::BuildArgs::default()
        };
        return compose::images::build(context, build).await;
    }
    let call = Call::parse(args.call.as_deref(), args.check)?;
    refuse(&args)?;
    let id = build(&context, &args).await?;
    if args.quiet && call.method == Method::Build {
        say!("{id}")?;
    }
    Ok(())
}

/// Builds, showing what happens on standard error; the image's id.
pub async fn build(context: &Context, args: &BuildArgs) -> Outcome<String> {
    let outputs = Outputs::parse(args)?;
    let call = Call::parse(args.call.as_deref(), args.check)?;
    let mut extras = Extras::gather(args, &outputs, call.method)?;
    // Until the end of the build, whatever that is.
    let _agents = std::mem::take(&mut extras.agents);
    let sent = match &args.dockerfile_text {
        Some(text) => from_directory(directory(&args.context)?, Dockerfile::Given(text.clone().into_bytes()))?,
        None => gather(&args.context, args.file.as_deref())?,
    };
    let query = query(args, &outputs.names(args), &sent)?;
    let credentials = ConfigFile::read(&context.config)?.all();
    let header = base64::engine::general_purpose::URL_SAFE.encode(Value::Object(credentials).to_string());
    let headers = [("x-registry-config", header)];
    let path = format!("/build{query}");
    let response = if extras.needed() {
        let chunks = upload::framed(extras, sent.chunks)?;
        context.client.upload_as(http::Method::POST, &path, upload::MEDIA_TYPE, chunks, &headers).await?
    } else {
        let chunks = sent.chunks.unwrap_or_else(|| archive::upload(io::empty()));
        context.client.upload(http::Method::POST, &path, chunks, &headers).await?
    };
    let result = follow(response, args, call.method).await?;
    match call.method {
        Method::Build => {}
        Method::Check if !call.json => return check_result(&result),
        _ => {
            call.show(&result.answer)?;
            return if result.warnings.is_empty() { Ok(String::new()) } else { Err(Failure::exit(1)) };
        }
    }
    if let Some(path) = &args.iidfile {
        fs::write(path, &result.id).map_err(|error| Failure::new(format!("write {}: {error}", path.display())))?;
    }
    if let Some(path) = &args.metadata_file {
        let text = format!("{:#}\n", result.metadata(&outputs.names(args)));
        fs::write(path, text).map_err(|error| Failure::new(format!("write {}: {error}", path.display())))?;
    }
    outputs.write(context, args, &result).await?;
    upload::export_caches(context, args, &result).await?;
    Ok(result.id)
}

/// What the daemon told of a build.
#[derive(Debug, Default)]
pub struct Built {
    /// Of the image, or of the index that joins several.
    pub id: String,
    manifest: String,
    /// Platforms and ids of the images that an index joins.
    images: Vec<(String, String)>,
    /// Of the results of all steps.
    pub keys: Value,
    /// Of those that the image is of.
    pub image_keys: Value,
    warnings: Vec<Value>,
    /// To what was asked of the Dockerfile instead.
    answer: Value,
}

impl Built {
    /// The images by platform; without one where there is a single image.
    pub fn images(&self) -> Vec<(Option<&str>, &str)> {
        match self.images.as_slice() {
            [] => vec![(None, &self.id)],
            [(_, id)] => vec![(None, id)],
            all => all.iter().map(|(platform, id)| (Some(platform.as_str()), id.as_str())).collect(),
        }
    }

    fn metadata(&self, names: &[String]) -> Value {
        let mut all = json!({ "containerimage.config.digest": self.id, "containerimage.digest": self.manifest });
        if !names.is_empty() {
            all["image.name"] = json!(names.join(","));
        }
        all
    }
}

/// Shows a build's messages to its end.
async fn follow(response: http::Response<hyper::body::Incoming>, args: &BuildArgs, method: Method) -> Outcome<Built> {
    let quiet = args.quiet || args.progress == "quiet";
    let raw = match args.progress.as_str() {
        "tty" if !io::stderr().is_terminal() => {
            return Err(Failure::usage("--progress tty: standard error is no terminal"));
        }
        "auto" | "plain" | "tty" | "quiet" => false,
        "rawjson" => true,
        other => {
            return Err(Failure::usage(format!(
                "invalid progress type {other:?}: use auto, plain, tty, quiet or rawjson"
            )));
        }
    };
    let mut lines = JsonLines::new(response);
    let mut window = if method == Method::Build { window(args) } else { None };
    let mut progress = Progress::new(if quiet || raw { To::Nowhere } else { To::Errors });
    let (mut told, mut step, mut result) = (String::new(), Step::default(), Built::default());
    loop {
        let message = match &mut window {
            None => lines.next::<Value>().await?,
            // The time of the running step goes on while it says nothing.
            Some(shown) => tokio::select! {
                message = lines.next::<Value>() => message?,
                () = tokio::time::sleep(REDRAW) => {
                    write(&shown.redraw(Instant::now()));
                    continue;
                }
            },
        };
        let Some(message) = message else { break };
        if raw {
            let _ = writeln!(io::stderr(), "{message}");
        }
        if let Some(text) = message["stream"].as_str() {
            step.take(text);
            if quiet {
                told.push_str(text);
            }
        }
        let aux = &message["aux"];
        if let Some(id) = aux["ID"].as_str() {
            id.clone_into(&mut result.id);
            aux["Manifest"].as_str().unwrap_or_default().clone_into(&mut result.manifest);
        }
        for image in aux["Images"].as_array().into_iter().flatten() {
            let text = |key: &str| image[key].as_str().unwrap_or_default().to_owned();
            result.images.push((text("Platform"), text("ID")));
        }
        if aux["Keys"].is_array() {
            result.keys = aux["Keys"].clone();
            result.image_keys = aux["ImageKeys"].clone();
        }
        if !aux["Call"].is_null() {
            result.answer = aux["Call"].clone();
        }
        result.warnings.extend(aux["Warnings"].as_array().into_iter().flatten().cloned());
        if let (Some(shown), Some(text)) = (&mut window, message["stream"].as_str()) {
            write(&shown.take(text, Instant::now()));
            continue;
        }
        if let Some(shown) = &mut window
            && !message["status"].is_string()
        {
            write(&shown.finish(Instant::now()));
        }
        // A quiet build that fails tells what it kept back, any other repeats the step that failed.
        progress.take(&message).inspect_err(|_| {
            if quiet {
                tell!("{}", told.trim_end());
            } else if !raw && let Some(text) = step.repeated() {
                tell!("{text}");
            }
        })?;
    }
    if let Some(shown) = &mut window {
        write(&shown.finish(Instant::now()));
    }
    // With `q`, the classic endpoint answers with the id alone.
    if result.id.is_empty() {
        let id = told.lines().rev().find(|line| line.starts_with("sha256:"));
        id.unwrap_or_default().clone_into(&mut result.id);
    }
    Ok(result)
}

/// How often the time of a running step is shown anew.
const REDRAW: Duration = Duration::from_millis(200);

/// What is redrawn in place, where that can be.
fn window(args: &BuildArgs) -> Option<BuildWindow> {
    let wanted = matches!(args.progress.as_str(), "auto" | "tty") && !args.quiet;
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    if !wanted || dumb || !io::stderr().is_terminal() {
        return None;
    }
    let (width, _) = terminal_size::terminal_size_of(io::stderr())?;
    Some(BuildWindow::new(width.0.into()))
}

fn write(text: &str) {
    let mut errors = io::stderr().lock();
    let _ = errors.write_all(text.as_bytes()).and_then(|()| errors.flush());
}

/// The step that is being shown, and what its program said.
#[derive(Debug, Default)]
struct Step {
    title: String,
    said: Vec<String>,
}

/// Lines of a failed step that are repeated.
const REPEATED: usize = 20;

impl Step {
    fn take(&mut self, text: &str) {
        for line in text.lines() {
            if line.starts_with("Step ") && line.contains(" : ") {
                *self = Self { title: line.to_owned(), said: Vec::new() };
            } else if !line.starts_with(" ---> ") {
                self.said.push(line.to_owned());
            }
        }
    }

    fn repeated(&self) -> Option<String> {
        if self.title.is_empty() || self.said.is_empty() {
            return None;
        }
        let rule = "------";
        let last = &self.said[self.said.len().saturating_sub(REPEATED)..];
        Some(format!("{rule}\n > {}:\n{}\n{rule}", self.title, last.join("\n")))
    }
}

/// Shows what the linter found; its finds are the command's failure.
fn check_result(result: &Built) -> Outcome<String> {
    for warning in &result.warnings {
        say!("{}\n", warning["Text"].as_str().unwrap_or_default())?;
    }
    match result.warnings.len() {
        0 => {
            say!("Check complete, no warnings found.")?;
            Ok(String::new())
        }
        count => Err(Failure::new(format!("{count} warning{} found", if count == 1 { "" } else { "s" }))),
    }
}

/// The time of what is built, in seconds since 1970.
const EPOCH: &str = "SOURCE_DATE_EPOCH";

fn query(args: &BuildArgs, names: &[String], sent: &Sent) -> Outcome<Query> {
    let mut build_args = Map::new();
    for text in &args.build_arg {
        match text.split_once('=') {
            Some((name, value)) => build_args.insert(name.to_owned(), json!(value)),
            // A name alone takes the client's value; without one it is left to the Dockerfile.
            None => build_args.insert(text.clone(), json!(std::env::var(text).ok())),
        };
    }
    // As buildx does: who sets it for a whole script means its builds, too.
    if let Ok(seconds) = std::env::var(EPOCH)
        && !seconds.is_empty()
        && !build_args.contains_key(EPOCH)
    {
        build_args.insert(EPOCH.to_owned(), json!(seconds));
    }
    let labels: Map<String, Value> =
        crate::flags::map(&args.label).into_iter().map(|(name, value)| (name, json!(value))).collect();
    let mut query = Query::new()
        .with("version", "1")
        .with("rm", "1")
        .maybe("dockerfile", sent.dockerfile.as_deref())
        .maybe("remote", sent.remote.as_deref())
        .maybe("target", args.target.as_deref())
        .maybe("platform", Some(args.platform.join(",")).filter(|text| !text.is_empty()))
        .maybe("networkmode", args.network.as_deref())
        .maybe("shmsize", args.shm_size.map(|size| size.to_string()))
        .maybe("memory", args.memory.map(|size| size.to_string()))
        .maybe("memswap", args.memory_swap.map(|size| size.to_string()))
        .flag("nocache", args.no_cache)
        .flag("pull", args.pull)
        .flag("q", args.quiet);
    for tag in names {
        query = query.with("t", tag);
    }
    if !build_args.is_empty() {
        query = query.with("buildargs", Value::Object(build_args).to_string());
    }
    if !labels.is_empty() {
        query = query.with("labels", Value::Object(labels).to_string());
    }
    if !args.ulimit.is_empty() {
        query = query.with("ulimits", json!(args.ulimit).to_string());
    }
    if !args.add_host.is_empty() {
        query = query.with("extrahosts", args.add_host.join(","));
    }
    Ok(query)
}

/// Finds context and Dockerfile and begins to pack them.
fn gather(context: &str, file: Option<&str>) -> Outcome<Sent> {
    if context == "-" {
        return from_input(file);
    }
    if ContextKind::of(context) == ContextKind::Remote {
        if file == Some("-") {
            return Err(Failure::new("-f -: the Dockerfile of a remote context is one of its files"));
        }
        return Ok(Sent { chunks: None, dockerfile: file.map(str::to_owned), remote: Some(context.to_owned()) });
    }
    let root = directory(context)?;
    if file == Some("-") {
        if io::stdin().is_terminal() {
            tell!("sampan: reading the Dockerfile from standard input");
        }
        let mut text = Vec::new();
        io::stdin().read_to_end(&mut text)?;
        return from_directory(root, Dockerfile::Given(text));
    }
    let path =
        file.map_or_else(|| root.join("Dockerfile"), |file| std::env::current_dir().unwrap_or_default().join(file));
    let found = fs::canonicalize(&path).map_err(|error| {
        Failure::new(format!("unable to evaluate the Dockerfile's path {}: {error}", path.display()))
    })?;
    match found.strip_prefix(&root) {
        Ok(inside) => {
            let name = inside.display().to_string();
            from_directory(root, Dockerfile::Inside(name))
        }
        Err(_) => {
            let text = fs::read(&found).map_err(|error| Failure::new(format!("read {}: {error}", found.display())))?;
            from_directory(root, Dockerfile::Beside(found, text))
        }
    }
}

/// The context's directory; what is elsewhere is refused.
fn directory(context: &str) -> Outcome<PathBuf> {
    if context.contains("://") {
        return Err(Failure::new(format!(
            "build context {context}: a directory, or an http(s) or git URL, is expected"
        )));
    }
    let root = fs::canonicalize(context)
        .map_err(|error| Failure::new(format!("unable to prepare context: path {context:?}: {error}")))?;
    if !root.is_dir() {
        return Err(Failure::new(format!("unable to prepare context: path {context:?} is not a directory")));
    }
    Ok(root)
}

/// Where the Dockerfile is.
#[derive(Debug)]
enum Dockerfile {
    /// In the context, under this name.
    Inside(String),
    /// Elsewhere on disk.
    Beside(PathBuf, Vec<u8>),
    /// On standard input.
    Given(Vec<u8>),
}

fn from_directory(root: PathBuf, dockerfile: Dockerfile) -> Outcome<Sent> {
    let own = match &dockerfile {
        Dockerfile::Inside(name) => Some(root.join(format!("{name}.dockerignore"))),
        Dockerfile::Beside(path, _) => Some(
            path.with_file_name(format!("{}.dockerignore", path.file_name().unwrap_or_default().to_string_lossy())),
        ),
        Dockerfile::Given(_) => None,
    };
    let mut ignore = read_ignore(own.as_deref())?
        .map_or_else(|| read_ignore(Some(&root.join(".dockerignore"))), |own| Ok(Some(own)))?
        .unwrap_or_default();
    let (name, extra) = match dockerfile {
        Dockerfile::Inside(name) => {
            // The daemon reads it, whatever the patterns say.
            if ignore.ignores(&name) {
                ignore.keep(&name);
            }
            (name, None)
        }
        Dockerfile::Beside(path, text) => (sent_name(path.file_name().and_then(OsStr::to_str)), Some(text)),
        Dockerfile::Given(text) => (sent_name(None), Some(text)),
    };
    let (mut writer, chunks) = archive::pipe();
    let dockerfile = name.clone();
    std::thread::spawn(move || {
        let mut builder = tar::Builder::new(&mut writer);
        let take = |path: &Path, directory: bool| ignore.take(path, directory);
        let packed = archive::append_tree(&mut builder, &root, Path::new(""), Owner::Root, &take)
            .and_then(|()| extra.map_or(Ok(()), |text| append_file(&mut builder, &name, &text)))
            .and_then(|()| builder.finish());
        drop(builder);
        if let Err(error) = packed
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            writer.fail(&error);
        }
    });
    Ok(Sent::new(chunks, Some(dockerfile)))
}

/// The name of a Dockerfile that is none of the context's files. Messages show its own, which comes last.
fn sent_name(own: Option<&str>) -> String {
    let own = own.filter(|own| own.len() <= 200).map(|own| format!(".{own}")).unwrap_or_default();
    format!(".dockerfile.{:x}{own}", std::process::id())
}

pub fn append_file<W: Write>(builder: &mut tar::Builder<W>, name: &str, text: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    builder.append_data(&mut header, name, text)
}

pub fn read_ignore(path: Option<&Path>) -> Outcome<Option<Ignore>> {
    let Some(path) = path else { return Ok(None) };
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::new(format!("read {}: {error}", path.display()))),
    };
    Ignore::parse(&text).map(Some).map_err(|error| Failure::new(format!("{}: {error}", path.display())))
}

/// Standard input: an archive is the context, a text is a Dockerfile without one.
fn from_input(file: Option<&str>) -> Outcome<Sent> {
    let mut input = io::stdin();
    let mut start = Vec::new();
    input.by_ref().take(512).read_to_end(&mut start)?;
    if start.is_empty() {
        return Err(Failure::new("standard input is empty: it must be a Dockerfile or an archive of the context"));
    }
    if is_archive(&start) {
        if file == Some("-") {
            return Err(Failure::new("invalid argument: can't use stdin for both build context and dockerfile"));
        }
        let whole = io::Cursor::new(start).chain(input);
        return Ok(Sent::new(archive::upload(whole), file.map(str::to_owned)));
    }
    if file.is_some() {
        return Err(Failure::new("ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles"));
    }
    input.read_to_end(&mut start)?;
    let mut builder = tar::Builder::new(Vec::new());
    append_file(&mut builder, "Dockerfile", &start)?;
    let bytes = builder.into_inner()?;
    Ok(Sent::new(archive::upload(io::Cursor::new(bytes)), Some("Dockerfile".to_owned())))
}

/// A tar, or one compressed by gzip, bzip2, xz or zstd.
fn is_archive(start: &[u8]) -> bool {
    let magics: [&[u8]; 4] = [b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"];
    magics.iter().any(|magic| start.starts_with(magic)) || start.get(257..262) == Some(b"ustar")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    async fn packed(sent: Sent) -> Vec<String> {
        let mut chunks = sent.chunks.unwrap();
        let mut bytes = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            bytes.extend_from_slice(&chunk.unwrap());
        }
        let mut archive = tar::Archive::new(&bytes[..]);
        archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect()
    }

    #[tokio::test]
    async fn contexts_are_packed_without_what_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("ctx/target/x")).unwrap();
        for name in ["ctx/Dockerfile", "ctx/a", "ctx/target/x/y", "ctx/target/keep", "other"] {
            fs::write(at(name), "FROM scratch\n").unwrap();
        }
        fs::write(at("ctx/.dockerignore"), "target\n!target/keep\nDockerfile\n").unwrap();
        let context = at("ctx").display().to_string();
        let sent = gather(&context, None).unwrap();
        assert_eq!(sent.dockerfile.as_deref(), Some("Dockerfile"));
        assert_eq!(packed(sent).await, [".dockerignore", "Dockerfile", "a", "target/keep"]);
        let sent = gather(&context, Some(at("other").to_str().unwrap())).unwrap();
        let name = sent.dockerfile.clone().unwrap();
        assert!(name.starts_with(".dockerfile.") && name.ends_with(".other"), "{name}");
        assert!(packed(sent).await.contains(&name));
    }

    #[test]
    fn what_cannot_be_a_context_is_refused() {
        assert!(gather("/no/such", None).unwrap_err().message.contains("/no/such"));
        assert!(gather("ftp://example.com/x.tar", None).unwrap_err().message.contains("git URL"));
        assert!(gather("https://example.com/x.git", Some("-")).unwrap_err().message.contains("remote"));
        let sent = gather("https://example.com/x.git#v1", Some("sub/Dockerfile")).unwrap();
        assert_eq!(sent.remote.as_deref(), Some("https://example.com/x.git#v1"));
        assert!(gather("/", Some("/no/such")).unwrap_err().message.contains("/no/such"));
    }

    #[test]
    fn the_failing_step_is_repeated() {
        let mut step = Step::default();
        step.take("Step 1/2 : FROM x\n ---> abc\n");
        assert_eq!(step.repeated(), None);
        step.take("Step 2/2 : RUN y\n ---> Running in abc\n");
        for number in 0..30 {
            step.take(&format!("line {number}\n"));
        }
        let text = step.repeated().unwrap();
        assert!(text.starts_with("------\n > Step 2/2 : RUN y:\nline 10\n"), "{text}");
        assert!(text.ends_with("line 29\n------"));
    }

    #[test]
    fn archives_are_known_by_their_first_bytes() {
        let mut builder = tar::Builder::new(Vec::new());
        append_file(&mut builder, "a", b"x").unwrap();
        assert!(is_archive(&builder.into_inner().unwrap()));
        assert!(is_archive(b"\x1f\x8b\x08") && !is_archive(b"FROM scratch\n"));
    }
}
