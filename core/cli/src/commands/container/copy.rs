//! `cp` and `export`.

use base64::Engine as _;
use http::Method;
use serde_json::Value;
use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use crate::archive::{self, Owner, Take};
use crate::client::{Client, Query, escape, next_chunk};
use crate::commands::compose::names;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::mounts::clean;
use crate::output::tell;
use crate::output::{human, terminal};

const STAT: &str = "x-docker-container-path-stat";
/// Go's bits for a directory and a symbolic link in a file mode.
const MODE_DIR: u64 = 1 << 31;
const MODE_LINK: u64 = 1 << 27;
/// Links that a path may lead through.
const LINKS: usize = 40;

/// Options of `cp`.
#[derive(Debug, clap::Args)]
pub struct CopyArgs {
    /// Archive mode (copy all uid/gid information)
    #[arg(short, long)]
    pub archive: bool,
    /// Always follow symbol link in SRC_PATH
    #[arg(short = 'L', long)]
    pub follow_link: bool,
    /// Suppress progress output during copy
    #[arg(short, long)]
    pub quiet: bool,
    /// Source
    #[arg(allow_hyphen_values = true)]
    pub source: String,
    /// Destination
    #[arg(allow_hyphen_values = true)]
    pub destination: String,
}

/// `container:path`, or a path here.
#[derive(Debug, PartialEq, Eq)]
enum Side<'a> {
    Container(&'a str, &'a str),
    Here(&'a str),
}

fn side(text: &str) -> Side<'_> {
    if text.starts_with('/') || text.starts_with('.') {
        return Side::Here(text);
    }
    match text.split_once(':') {
        Some((container, path)) if !container.is_empty() && !container.contains('/') => {
            Side::Container(container, path)
        }
        _ => Side::Here(text),
    }
}

/// `cp`
pub async fn run(context: Context, args: CopyArgs) -> Outcome {
    let client = &context.client;
    let (size, to) = match (side(&args.source), side(&args.destination)) {
        (Side::Container(..), Side::Container(..)) => {
            return Err(Failure::new("copying between containers is not supported"));
        }
        (Side::Here(_), Side::Here(_)) => return Err(Failure::new("must specify at least one container source")),
        (Side::Container(name, path), Side::Here(to)) => {
            let container = names::container(&context, name).await?;
            (copy_out(client, &container, path, to, &args).await?, to.to_owned())
        }
        (Side::Here(from), Side::Container(name, path)) => {
            let container = names::container(&context, name).await?;
            (copy_in(client, from, &container, path, &args).await?, format!("{container}:{path}"))
        }
    };
    if !args.quiet && to != "-" && std::io::stderr().is_terminal() {
        tell!("Successfully copied {} to {to}", human::decimal_size(size));
    }
    Ok(())
}

/// A path of a container: absolute, without dots, and whether only what is in it is meant.
fn absolute(path: &str) -> (String, bool) {
    let contents = path == "." || path.ends_with("/.") || path.trim_end_matches('/').is_empty();
    let cleaned = clean(&Path::new("/").join(path.trim_start_matches('/'))).display().to_string();
    (cleaned, contents)
}

/// What lies at a path of a container.
#[derive(Debug, Default)]
struct Found {
    path: String,
    directory: bool,
    exists: bool,
}

async fn stat(client: &Client, container: &str, path: &str, follow: bool) -> Outcome<Found> {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        let query = Query::new().with("path", &path);
        let url = format!("/containers/{}/archive{query}", escape(container));
        let response = match client.call(Method::HEAD, &url, None::<&()>).await {
            Ok(response) => response,
            // An answer to HEAD has no body: whether it is the container or the path that is missing shows elsewhere.
            Err(failure) if failure.is_not_found() => {
                client.get::<Value>(&format!("/containers/{}/json", escape(container))).await?;
                return Ok(Found { path, ..Found::default() });
            }
            Err(failure) => return Err(failure),
        };
        let header = response.headers().get(STAT).map(|value| value.as_bytes().to_vec()).unwrap_or_default();
        let json = base64::engine::general_purpose::STANDARD.decode(header).unwrap_or_default();
        let stat: Value =
            serde_json::from_slice(&json).map_err(|error| Failure::new(format!("read the stat of {path}: {error}")))?;
        let mode = stat["mode"].as_u64().unwrap_or(0);
        let target = stat["linkTarget"].as_str().unwrap_or_default();
        if follow && mode & MODE_LINK != 0 && !target.is_empty() {
            let parent = Path::new(&path).parent().unwrap_or(Path::new("/"));
            path = clean(&parent.join(target)).display().to_string();
            continue;
        }
        return Ok(Found { path, directory: mode & MODE_DIR != 0, exists: true });
    }
    Err(Failure::new(format!("{path}: too many links")))
}

async fn copy_out(client: &Client, container: &str, path: &str, to: &str, args: &CopyArgs) -> Outcome<u64> {
    let (absolute, contents) = absolute(path);
    let source = if args.follow_link { stat(client, container, &absolute, true).await?.path } else { absolute.clone() };
    let query = Query::new().with("path", &source);
    let url = format!("/containers/{}/archive{query}", escape(container));
    let response = client.call(Method::GET, &url, None::<&()>).await?;
    if to == "-" {
        return write_out(response, None).await;
    }
    let header = response.headers().get(STAT).map(|value| value.as_bytes().to_vec()).unwrap_or_default();
    let json = base64::engine::general_purpose::STANDARD.decode(header).unwrap_or_default();
    let stat: Value = serde_json::from_slice(&json).unwrap_or_default();
    let directory = stat["mode"].as_u64().unwrap_or(0) & MODE_DIR != 0;
    let base = Path::new(&absolute).file_name().map(PathBuf::from).unwrap_or_default();
    let target = destination(to, &base, directory, contents)?;
    let reader = archive::download(response.into_body());
    let own = args.archive;
    tokio::task::spawn_blocking(move || archive::unpack(reader, &target, own))
        .await
        .map_err(|error| Failure::new(error.to_string()))?
        .map_err(|error| Failure::new(format!("copy from {container}:{path}: {error}")))
}

/// Where what is copied here comes to lie.
fn destination(to: &str, base: &Path, directory: bool, contents: bool) -> Outcome<PathBuf> {
    let path = PathBuf::from(to);
    let dir_asked = to.ends_with('/') || to.ends_with("/.");
    match fs::metadata(&path) {
        Ok(found) if found.is_dir() => Ok(if contents && directory { path } else { path.join(base) }),
        Ok(_) if directory => Err(Failure::new("cannot copy directory")),
        Ok(_) if dir_asked => Err(Failure::new(format!("not a directory: {to}"))),
        Ok(_) => Ok(path),
        Err(_) if dir_asked && !directory => Err(Failure::new(format!("no such directory: {to}"))),
        Err(_) => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            if parent.is_dir() {
                Ok(path)
            } else {
                Err(Failure::new(format!("invalid output path: directory \"{}\" does not exist", parent.display())))
            }
        }
    }
}

async fn copy_in(client: &Client, from: &str, container: &str, path: &str, args: &CopyArgs) -> Outcome<u64> {
    let (absolute, _) = absolute(path);
    let found = stat(client, container, &absolute, true).await?;
    let dir_asked = path.ends_with('/') || path.ends_with("/.");
    if from == "-" {
        if !found.directory {
            return Err(Failure::new(format!("destination \"{container}:{path}\" must be a directory")));
        }
        put(client, container, &found.path, args, archive::upload(std::io::stdin())).await?;
        return Ok(0);
    }
    let local = PathBuf::from(from);
    let metadata = if args.follow_link { fs::metadata(&local) } else { fs::symlink_metadata(&local) };
    let metadata = metadata.map_err(|error| Failure::new(format!("{from}: {error}")))?;
    let contents = metadata.is_dir() && (from.ends_with("/.") || from == ".");
    let local = if args.follow_link { fs::canonicalize(&local)? } else { local };
    let own_name = || {
        let absolute = std::path::absolute(&local).unwrap_or_else(|_| local.clone());
        absolute.file_name().map(PathBuf::from).unwrap_or_default()
    };
    let parent_and_name = |path: &str| {
        let path = Path::new(path);
        (
            path.parent().unwrap_or(Path::new("/")).display().to_string(),
            path.file_name().map(PathBuf::from).unwrap_or_default(),
        )
    };
    let (into, name) = match (found.exists, found.directory) {
        (true, true) if contents => (found.path.clone(), PathBuf::new()),
        (true, true) => (found.path.clone(), own_name()),
        (true, false) if metadata.is_dir() => return Err(Failure::new("cannot copy directory")),
        (true, false) if dir_asked => return Err(Failure::new(format!("not a directory: {path}"))),
        (false, _) if dir_asked && !metadata.is_dir() => {
            return Err(Failure::new(format!("no such directory: {path}")));
        }
        _ => parent_and_name(&found.path),
    };
    let (mut writer, chunks) = archive::pipe();
    let owner = if args.archive { Owner::Same } else { Owner::Root };
    let packing = std::thread::spawn(move || {
        let mut builder = tar::Builder::new(&mut writer);
        let packed =
            archive::append_tree(&mut builder, &local, &name, owner, &|_, _| Take::Yes).and_then(|()| builder.finish());
        drop(builder);
        let written = writer.written;
        match packed {
            Ok(()) => Ok(written),
            Err(error) => {
                writer.fail(&error);
                Err(error)
            }
        }
    });
    let sent = put(client, container, &into, args, chunks).await;
    match packing.join() {
        Ok(Err(error)) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::new(format!("copy {error}"))),
        Ok(packed) => sent.map(|()| packed.unwrap_or(0)),
        Err(_) => Err(Failure::new("packing the files failed")),
    }
}

async fn put(
    client: &Client,
    container: &str,
    into: &str,
    args: &CopyArgs,
    chunks: tokio::sync::mpsc::Receiver<std::io::Result<bytes::Bytes>>,
) -> Outcome {
    let query = Query::new().with("path", into).with("noOverwriteDirNonDir", "true").flag("copyUIDGID", args.archive);
    client
        .upload(Method::PUT, &format!("/containers/{}/archive{query}", escape(container)), chunks, &[])
        .await
        .map(drop)
}

/// A file that gets its name once it is whole, or standard output.
#[derive(Debug)]
pub struct OutFile {
    /// The file as it is called until then, and its name.
    names: Option<(PathBuf, PathBuf)>,
    out: Option<fs::File>,
}

impl OutFile {
    /// Opens it; a terminal is refused.
    pub fn open(file: Option<&Path>) -> Outcome<Self> {
        let Some(path) = file else {
            if terminal::output_is_terminal() {
                return Err(Failure::new("cowardly refusing to save to a terminal. Use the -o flag or redirect"));
            }
            return Ok(Self { names: None, out: None });
        };
        let mut name = std::ffi::OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(format!(".{}", std::process::id()));
        let temporary = path.with_file_name(name);
        let out =
            fs::File::create(&temporary).map_err(|error| Failure::new(format!("write {}: {error}", path.display())))?;
        Ok(Self { names: Some((temporary, path.to_owned())), out: Some(out) })
    }

    /// What went wrong with it.
    pub fn failed(&self, error: &std::io::Error) -> Failure {
        let path = self.names.as_ref().map_or(Path::new("-"), |(_, path)| path);
        Failure::new(format!("write {}: {error}", path.display()))
    }

    /// Gives it its name. Dropped before, it leaves nothing.
    pub fn finish(mut self) -> Outcome {
        std::io::Write::flush(&mut self).map_err(|error| self.failed(&error))?;
        if let Some((temporary, path)) = &self.names {
            fs::rename(temporary, path).map_err(|error| self.failed(&error))?;
        }
        self.names = None;
        Ok(())
    }
}

impl std::io::Write for OutFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match &mut self.out {
            Some(file) => file.write(bytes),
            None => std::io::stdout().write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match &mut self.out {
            Some(file) => file.flush(),
            None => std::io::stdout().flush(),
        }
    }
}

impl Drop for OutFile {
    fn drop(&mut self) {
        if let Some((temporary, _)) = &self.names {
            let _ = fs::remove_file(temporary);
        }
    }
}

/// Writes what the daemon sends to a file, or to standard output; how many bytes.
pub async fn write_out(response: http::Response<hyper::body::Incoming>, file: Option<&Path>) -> Outcome<u64> {
    use std::io::Write;
    let mut out = OutFile::open(file)?;
    let mut body = response.into_body();
    let mut total = 0;
    while let Some(chunk) = next_chunk(&mut body).await {
        let chunk = chunk.map_err(|error| Failure::new(format!("the daemon's stream broke off: {error}")))?;
        total += chunk.len() as u64;
        out.write_all(&chunk).map_err(|error| out.failed(&error))?;
    }
    out.finish()?;
    Ok(total)
}

/// Options of `export`.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// Write to a file, instead of STDOUT
    #[arg(short, long)]
    pub output: Option<PathBuf>,
    /// Container, or service of the project here
    pub container: String,
}

/// `export`
pub async fn export(context: Context, args: ExportArgs) -> Outcome {
    if args.output.is_none() && terminal::output_is_terminal() {
        return Err(Failure::new("cowardly refusing to save to a terminal. Use the -o flag or redirect"));
    }
    let container = names::container(&context, &args.container).await?;
    let response =
        context.client.call(Method::GET, &format!("/containers/{}/export", escape(&container)), None::<&()>).await?;
    write_out(response, args.output.as_deref()).await.map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sides_are_told_apart() {
        assert_eq!(side("web:/etc"), Side::Container("web", "/etc"));
        assert_eq!(side("web:etc"), Side::Container("web", "etc"));
        assert_eq!(side("./a:b"), Side::Here("./a:b"));
        assert_eq!(side("/a:b"), Side::Here("/a:b"));
        assert_eq!(side("a/b:c"), Side::Here("a/b:c"));
        assert_eq!(side("-"), Side::Here("-"));
    }

    #[test]
    fn paths_of_containers_are_absolute() {
        assert_eq!(absolute("etc/../usr/"), ("/usr".into(), false));
        assert_eq!(absolute("/data/."), ("/data".into(), true));
        assert_eq!(absolute("/"), ("/".into(), true));
    }

    #[test]
    fn destinations_follow_dockers_rules() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| format!("{}/{name}", dir.path().display());
        fs::write(at("file"), "").unwrap();
        let base = Path::new("src");
        assert_eq!(destination(&at(""), base, true, false).unwrap(), dir.path().join("src"));
        assert_eq!(destination(&at("."), base, true, true).unwrap(), PathBuf::from(at(".")));
        assert_eq!(destination(&at("new"), base, true, false).unwrap(), PathBuf::from(at("new")));
        assert_eq!(destination(&at("file"), base, false, false).unwrap(), PathBuf::from(at("file")));
        assert!(destination(&at("file"), base, true, false).is_err());
        assert!(destination(&at("new/"), base, false, false).is_err());
        assert!(destination(&at("no/such/dir"), base, false, false).is_err());
    }
}
