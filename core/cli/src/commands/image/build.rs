//! `build`.

use base64::Engine as _;
use http::Method;
use serde_json::{Map, Value, json};
use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

use super::auth::ConfigFile;
use super::ignore::Ignore;
use crate::archive::{self, Owner};
use crate::client::{JsonLines, Query};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::{network, quantity};
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
    /// Additional build contexts (refused)
    #[arg(long, hide = true)]
    pub build_context: Vec<String>,
    /// Images to consider as cache sources (refused)
    #[arg(long, hide = true)]
    pub cache_from: Vec<String>,
    /// Cache export destinations (refused)
    #[arg(long, hide = true)]
    pub cache_to: Vec<String>,
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
    /// The image is always loaded
    #[arg(long, hide = true)]
    pub load: bool,
    /// Memory limit
    #[arg(short, long, value_name = "bytes", value_parser = quantity::bytes)]
    pub memory: Option<i64>,
    /// Swap limit equal to memory plus swap: -1 to enable unlimited swap
    #[arg(long, value_name = "bytes", value_parser = quantity::bytes_or_unlimited)]
    pub memory_swap: Option<i64>,
    /// Set the networking mode for the RUN instructions during build (default "default")
    #[arg(long)]
    pub network: Option<String>,
    /// Do not use cache when building the image
    #[arg(long)]
    pub no_cache: bool,
    /// Output destination (refused)
    #[arg(short, long, hide = true)]
    pub output: Vec<String>,
    /// Set target platform for build
    #[arg(long)]
    pub platform: Option<String>,
    /// Set type of progress output ("auto", "plain", "tty", "quiet", "rawjson")
    #[arg(long, default_value = "auto")]
    pub progress: String,
    /// Always attempt to pull all referenced images
    #[arg(long)]
    pub pull: bool,
    /// Push the image (refused)
    #[arg(long, hide = true)]
    pub push: bool,
    /// Suppress the build output and print image ID on success
    #[arg(short, long)]
    pub quiet: bool,
    /// Remove intermediate containers after a successful build
    #[arg(long, default_value = "true", hide = true)]
    pub rm: bool,
    /// Secret to expose to the build (refused)
    #[arg(long, hide = true)]
    pub secret: Vec<String>,
    /// Size of "/dev/shm"
    #[arg(long, value_name = "bytes", value_parser = quantity::bytes)]
    pub shm_size: Option<i64>,
    /// SSH agent socket or keys to expose to the build (refused)
    #[arg(long, hide = true)]
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
    /// The Dockerfile itself, instead of a file.
    #[arg(skip)]
    pub dockerfile_text: Option<String>,
    /// Directory of the context, or - for standard input
    #[arg(allow_hyphen_values = true)]
    pub context: String,
}

fn refuse(args: &BuildArgs) -> Outcome {
    let no = |flag: &str, instead: &str| Err(Failure::new(format!("{flag} is not supported: {instead}")));
    match args {
        _ if !args.build_context.is_empty() => no("--build-context", "copy what is needed into the context"),
        _ if !args.cache_from.is_empty() => no("--cache-from", "the engine keeps its own cache by content"),
        _ if !args.cache_to.is_empty() => no("--cache-to", "the engine keeps its own cache by content"),
        _ if !args.output.is_empty() => no("--output", "build the image and copy out of it with create and cp"),
        _ if args.push => no("--push", "push the image with a command of its own"),
        _ if !args.secret.is_empty() => no("--secret", "the build endpoint carries no secrets yet"),
        _ if !args.ssh.is_empty() => no("--ssh", "the build endpoint carries no agent yet"),
        _ if args.squash => no("--squash", "use stages to keep images small"),
        _ => Ok(()),
    }
}

/// What is sent: the chunks of the archive, and the Dockerfile's name in it.
#[derive(Debug)]
struct Sent {
    chunks: mpsc::Receiver<io::Result<bytes::Bytes>>,
    dockerfile: Option<String>,
}

/// `build`
pub async fn run(context: Context, args: BuildArgs) -> Outcome {
    refuse(&args)?;
    let id = build(&context, &args).await?;
    if args.quiet {
        say!("{id}")?;
    }
    Ok(())
}

/// Builds, showing what happens on standard error; the image's id.
pub async fn build(context: &Context, args: &BuildArgs) -> Outcome<String> {
    let quiet = args.quiet || args.progress == "quiet";
    let raw = match args.progress.as_str() {
        "auto" | "plain" | "tty" | "quiet" => false,
        "rawjson" => true,
        other => {
            return Err(Failure::usage(format!(
                "invalid progress type {other:?}: use auto, plain, tty, quiet or rawjson"
            )));
        }
    };
    let sent = match &args.dockerfile_text {
        Some(text) => from_directory(directory(&args.context)?, Dockerfile::Given(text.clone().into_bytes()))?,
        None => gather(&args.context, args.file.as_deref())?,
    };
    let query = query(args, sent.dockerfile.as_deref())?;
    let credentials = ConfigFile::read(&context.config)?.all();
    let header = base64::engine::general_purpose::URL_SAFE.encode(Value::Object(credentials).to_string());
    let headers = [("x-registry-config", header)];
    let response = context.client.upload(Method::POST, &format!("/build{query}"), sent.chunks, &headers).await?;
    let mut lines = JsonLines::new(response);
    let mut progress = Progress::new(if quiet || raw { To::Nowhere } else { To::Errors });
    let mut told = String::new();
    while let Some(message) = lines.next::<Value>().await? {
        if raw {
            let _ = writeln!(io::stderr(), "{message}");
        }
        if quiet && let Some(text) = message["stream"].as_str() {
            told.push_str(text);
        }
        // A quiet build that fails tells what it kept back.
        progress.take(&message).inspect_err(|_| tell!("{}", told.trim_end()))?;
    }
    let id = progress.made.as_ref().and_then(|made| made["ID"].as_str()).map(str::to_owned);
    // With `q`, the classic endpoint answers with the id alone.
    let id = id
        .or_else(|| told.lines().rev().find(|line| line.starts_with("sha256:")).map(str::to_owned))
        .unwrap_or_default();
    if let Some(path) = &args.iidfile {
        fs::write(path, &id).map_err(|error| Failure::new(format!("write {}: {error}", path.display())))?;
    }
    Ok(id)
}

fn query(args: &BuildArgs, dockerfile: Option<&str>) -> Outcome<Query> {
    let mut build_args = Map::new();
    for text in &args.build_arg {
        match text.split_once('=') {
            Some((name, value)) => build_args.insert(name.to_owned(), json!(value)),
            // A name alone takes the client's value; without one it is left to the Dockerfile.
            None => build_args.insert(text.clone(), json!(std::env::var(text).ok())),
        };
    }
    let labels: Map<String, Value> =
        crate::flags::map(&args.label).into_iter().map(|(name, value)| (name, json!(value))).collect();
    let mut query = Query::new()
        .with("version", "1")
        .with("rm", "1")
        .maybe("dockerfile", dockerfile)
        .maybe("target", args.target.as_deref())
        .maybe("platform", args.platform.as_deref())
        .maybe("networkmode", args.network.as_deref())
        .maybe("shmsize", args.shm_size.map(|size| size.to_string()))
        .maybe("memory", args.memory.map(|size| size.to_string()))
        .maybe("memswap", args.memory_swap.map(|size| size.to_string()))
        .flag("nocache", args.no_cache)
        .flag("pull", args.pull)
        .flag("q", args.quiet);
    for tag in &args.tag {
        query = query.with("t", tag);
    }
    if !build_args.is_empty() {
        query = query.with("buildargs", Value::Object(build_args).to_string());
    }
    if !labels.is_empty() {
        query = query.with("labels", Value::Object(labels).to_string());
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
    if context.contains("://") || context.starts_with("git@") || context.starts_with("github.com/") {
        return Err(Failure::new(format!(
            "build context {context}: contexts are directories; fetch or clone it first"
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
        Dockerfile::Beside(_, text) | Dockerfile::Given(text) => {
            (format!(".dockerfile.{:x}", std::process::id()), Some(text))
        }
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
    Ok(Sent { chunks, dockerfile: Some(dockerfile) })
}

fn append_file<W: Write>(builder: &mut tar::Builder<W>, name: &str, text: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o600);
    header.set_mtime(0);
    builder.append_data(&mut header, name, text)
}

fn read_ignore(path: Option<&Path>) -> Outcome<Option<Ignore>> {
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
        return Ok(Sent { chunks: archive::upload(whole), dockerfile: file.map(str::to_owned) });
    }
    if file.is_some() {
        return Err(Failure::new("ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles"));
    }
    input.read_to_end(&mut start)?;
    let mut builder = tar::Builder::new(Vec::new());
    append_file(&mut builder, "Dockerfile", &start)?;
    let bytes = builder.into_inner()?;
    Ok(Sent { chunks: archive::upload(io::Cursor::new(bytes)), dockerfile: Some("Dockerfile".to_owned()) })
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
        let Sent { mut chunks, .. } = sent;
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
        assert!(name.starts_with(".dockerfile."));
        assert!(packed(sent).await.contains(&name));
    }

    #[test]
    fn what_cannot_be_a_context_is_refused() {
        assert!(gather("/no/such", None).unwrap_err().message.contains("/no/such"));
        assert!(gather("https://example.com/x.git", None).unwrap_err().message.contains("clone"));
        assert!(gather("/", Some("/no/such")).unwrap_err().message.contains("/no/such"));
    }

    #[test]
    fn archives_are_known_by_their_first_bytes() {
        let mut builder = tar::Builder::new(Vec::new());
        append_file(&mut builder, "a", b"x").unwrap();
        assert!(is_archive(&builder.into_inner().unwrap()));
        assert!(is_archive(b"\x1f\x8b\x08") && !is_archive(b"FROM scratch\n"));
    }
}
