//! What a build is given beside its context: secrets, agents, further contexts, caches. It travels in the upload's body,
//! before the context: several streams one after the other, each in pieces with their lengths and ended by an empty one.

use base64::Engine as _;
use bytes::Bytes;
use http::Method;
use serde_json::{Map, Value, json};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

use sampan_compose::build_options::{self, CachePlace, CacheTarget, ContextKind};

use super::build::{BuildArgs, Built, read_ignore};
use super::build_agent::{OwnAgent, agent};
use super::build_call;
use super::build_layout::Layout;
use super::build_output::Outputs;
use crate::archive::{self, Owner, Take};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags;
use crate::output::tell;

/// The kind of such an upload.
pub const MEDIA_TYPE: &str = "application/vnd.sampan.build";
/// A secret may be this long, as with Docker.
const MAX_SECRET: u64 = 500 << 10;

type Chunks = mpsc::Receiver<io::Result<Bytes>>;

/// One part of the upload.
#[derive(Debug, PartialEq, Eq)]
enum Folder {
    /// A context, of which `.dockerignore` takes things away.
    Context(PathBuf),
    /// An image.
    Layout(Layout),
    /// A cache.
    Cache(PathBuf),
}

/// Read and checked.
#[derive(Default)]
pub struct Extras {
    secrets: Map<String, Value>,
    ssh: Map<String, Value>,
    /// Agents that were started for the build; they end with the value.
    pub agents: Vec<OwnAgent>,
    contexts: Vec<Value>,
    /// Directories of contexts and caches, in the order of the upload.
    uploads: Vec<Folder>,
    cache_from: Vec<Value>,
    cache_to: Vec<Value>,
    no_cache_filter: Vec<String>,
    rewrite_timestamp: bool,
    call: build_call::Method,
    tell_keys: bool,
    attest: Vec<String>,
    allow: Vec<String>,
    packing: Option<Value>,
}

impl std::fmt::Debug for Extras {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Extras").field("uploads", &self.uploads).finish_non_exhaustive()
    }
}

/// Comma-separated `key=value`; what has no `=` has an empty value.
pub fn fields(flag: &str, text: &str) -> Outcome<Vec<(String, String)>> {
    let parts = flags::csv(text).map_err(|why| Failure::usage(format!("--{flag} {text}: {why}")))?;
    Ok(parts
        .iter()
        .map(|part| part.split_once('=').unwrap_or((part, "")))
        .map(|(key, value)| (key.trim(), value.to_owned()))
        .map(|(key, value)| match key.split_once('.') {
            // What comes after the dot is a name of the user's.
            Some((kind, name)) => (format!("{}.{name}", kind.to_ascii_lowercase()), value),
            None => (key.to_ascii_lowercase(), value),
        })
        .collect())
}

impl Extras {
    /// Reads what the options name.
    pub fn gather(args: &BuildArgs, outputs: &Outputs, call: build_call::Method) -> Outcome<Self> {
        let mut extras = Self {
            no_cache_filter: args.no_cache_filter.clone(),
            rewrite_timestamp: outputs.rewrite_timestamp,
            call,
            attest: attestations(args),
            allow: args.allow.clone(),
            packing: outputs.packing.as_ref().map(|packing| json!(packing)),
            ..Self::default()
        };
        for target in cache_targets(args)? {
            let registry = match target.place {
                CachePlace::Local(_) => {
                    extras.tell_keys = true;
                    continue;
                }
                CachePlace::Registry(name) => Some(name),
                CachePlace::Inline => None,
            };
            extras
                .cache_to
                .push(json!({ "registry": registry, "all": target.all, "ignoreError": target.ignore_error }));
        }
        let named = args.secret.iter().map(|text| secret(text)).collect::<Outcome<Vec<_>>>()?;
        for (id, content) in named.into_iter().chain(args.secret_values.iter().cloned()) {
            let content = base64::engine::general_purpose::STANDARD.encode(content);
            extras.secrets.insert(id, Value::String(content));
        }
        for text in &args.ssh {
            let found = agent(text, std::env::var("SSH_AUTH_SOCK").ok())?;
            extras.ssh.insert(found.id, json!(found.socket));
            extras.agents.extend(found.own);
        }
        for text in &args.build_context {
            extras.context(text)?;
        }
        for text in &args.cache_from {
            match cache_source(text)? {
                Some(CachePlace::Local(folder)) => {
                    extras.uploads.push(Folder::Cache(folder));
                    extras.cache_from.push(json!({ "kind": "upload" }));
                }
                Some(CachePlace::Registry(name)) => {
                    extras.cache_from.push(json!({ "kind": "registry", "value": name }));
                }
                Some(CachePlace::Inline) | None => {}
            }
        }
        Ok(extras)
    }

    fn context(&mut self, text: &str) -> Outcome {
        let Some((name, value)) = text.split_once('=').filter(|(name, value)| !name.is_empty() && !value.is_empty())
        else {
            return Err(Failure::usage(format!(
                "--build-context {text}: expected name=path, or name=docker-image://image"
            )));
        };
        let context = if let Some(image) = value.strip_prefix("docker-image://") {
            json!({ "name": name, "kind": "image", "value": image })
        } else if let ContextKind::Layout(layout) = ContextKind::of(value) {
            let layout = Layout::open(layout)
                .map_err(|why| Failure::new(format!("--build-context {name}: oci-layout://{layout}: {why}")))?;
            self.uploads.push(Folder::Layout(layout));
            json!({ "name": name, "kind": "layout" })
        } else if ContextKind::of(value) == ContextKind::Remote {
            json!({ "name": name, "kind": "remote", "value": value })
        } else {
            let folder = fs::canonicalize(value).ok().filter(|path| path.is_dir());
            let folder =
                folder.ok_or_else(|| Failure::new(format!("--build-context {name}: {value:?} is not a directory")))?;
            self.uploads.push(Folder::Context(folder));
            json!({ "name": name, "kind": "upload" })
        };
        self.contexts.push(context);
        Ok(())
    }

    /// Whether anything must be told that the classic endpoint has no place for.
    pub fn needed(&self) -> bool {
        !self.secrets.is_empty()
            || !self.ssh.is_empty()
            || !self.contexts.is_empty()
            || !self.cache_from.is_empty()
            || !self.cache_to.is_empty()
            || !self.no_cache_filter.is_empty()
            || self.rewrite_timestamp
            || self.call != build_call::Method::Build
            || self.tell_keys
            || !self.attest.is_empty()
            || !self.allow.is_empty()
            || self.packing.is_some()
    }

    fn options(&self) -> Value {
        json!({
            "secrets": self.secrets, "ssh": self.ssh, "contexts": self.contexts, "cacheFrom": self.cache_from,
            "noCacheFilter": self.no_cache_filter, "rewriteTimestamp": self.rewrite_timestamp, "call": self.call.name(),
            "tellKeys": self.tell_keys, "cacheTo": self.cache_to, "attest": self.attest, "allow": self.allow,
            "packing": self.packing,
        })
    }
}

/// What is to be said of the image; nothing when all of it is turned off.
fn attestations(args: &BuildArgs) -> Vec<String> {
    let short = |kind: &str, text: &Option<String>| {
        text.as_deref().map(|text| match text {
            "true" | "1" | "" => format!("type={kind}"),
            "false" | "0" => format!("type={kind},disabled=true"),
            more => format!("type={kind},{more}"),
        })
    };
    let mut all = args.attest.clone();
    all.extend(short("provenance", &args.provenance));
    all.extend(short("sbom", &args.sbom));
    let off = |text: &String| text.split(',').any(|part| matches!(part, "disabled=true" | "disabled" | "disabled=1"));
    if all.iter().all(off) { Vec::new() } else { all }
}

/// `id=name[,src=file|env=variable]`: its id and content.
fn secret(text: &str) -> Outcome<(String, Vec<u8>)> {
    let usage = |why: &str| Failure::usage(format!("--secret {text}: {why}"));
    let (mut id, mut file, mut variable, mut kind) = (None, None, None, None);
    for (key, value) in fields("secret", text)? {
        match key.as_str() {
            "id" => id = Some(value),
            "src" | "source" => file = Some(value),
            "env" => variable = Some(value),
            "type" if matches!(value.as_str(), "file" | "env") => kind = Some(value),
            "type" => return Err(usage("expected type=file or type=env")),
            other => return Err(usage(&format!("unknown key {other}: id, src, env and type are known"))),
        }
    }
    let id = id.filter(|id| !id.is_empty()).ok_or_else(|| usage("id is missing"))?;
    if file.is_some() && variable.is_some() {
        return Err(usage("src and env exclude each other"));
    }
    if kind.as_deref() == Some("env") {
        variable = variable.or(file.take()).or_else(|| Some(id.clone()));
    }
    // A name alone is a variable, if there is one, else a file.
    if file.is_none() && variable.is_none() {
        if kind.is_none() && std::env::var_os(&id).is_some() {
            variable = Some(id.clone());
        } else {
            file = Some(id.clone());
        }
    }
    let content = match (variable, file) {
        (Some(name), _) => {
            use std::os::unix::ffi::OsStringExt;
            std::env::var_os(&name)
                .ok_or_else(|| Failure::new(format!("secret {id}: the variable {name} is not set")))?
                .into_vec()
        }
        (None, file) => {
            let path = file.unwrap_or_default();
            let size =
                fs::metadata(&path).map_err(|error| Failure::new(format!("secret {id}: {path}: {error}")))?.len();
            if size > MAX_SECRET {
                return Err(Failure::new(format!("secret {id}: {path} has {size} bytes, more than {MAX_SECRET}")));
            }
            fs::read(&path).map_err(|error| Failure::new(format!("secret {id}: {path}: {error}")))?
        }
    };
    Ok((id, content))
}

/// A cache that `--cache-from` names; a directory that is no cache (yet) is left out, with a word.
fn cache_source(text: &str) -> Outcome<Option<CachePlace>> {
    let place = build_options::cache_from(text).map_err(|why| Failure::usage(format!("--cache-from {text}: {why}")))?;
    if let CachePlace::Local(source) = &place
        && !source.join("cache.json").is_file()
    {
        tell!("sampan: --cache-from {}: there is no cache yet", source.display());
        return Ok(None);
    }
    Ok(Some(place))
}

/// What `--cache-to` names.
fn cache_targets(args: &BuildArgs) -> Outcome<Vec<CacheTarget>> {
    let read = |text: &String| {
        build_options::cache_to(text).map_err(|why| Failure::usage(format!("--cache-to {text}: {why}")))
    };
    args.cache_to.iter().map(read).collect()
}

/// Writes the results of a build into the directories that `--cache-to` names; the daemon has seen to the rest.
pub async fn export_caches(context: &Context, args: &BuildArgs, built: &Built) -> Outcome {
    for target in cache_targets(args)? {
        let CachePlace::Local(folder) = &target.place else { continue };
        let keys = if target.all { &built.keys } else { &built.image_keys };
        match export_cache(context, keys, folder).await {
            Err(error) if target.ignore_error => tell!("sampan: {}", error.message),
            result => result?,
        }
    }
    Ok(())
}

/// Writes a build's results into a directory: complete, or not at all. What was a cache there before is replaced.
async fn export_cache(context: &Context, keys: &Value, folder: &Path) -> Outcome {
    let named = |error: io::Error| Failure::new(format!("--cache-to {}: {error}", folder.display()));
    let response = context.client.call(Method::POST, "/sampan/v1/build/cache", Some(keys)).await?;
    fs::create_dir_all(folder).map_err(named)?;
    let reader = archive::download(response.into_body());
    let at = folder.to_owned();
    let written = tokio::task::spawn_blocking(move || write_cache(reader, &at)).await;
    written.map_err(|error| Failure::new(error.to_string()))?.map_err(named)
}

fn write_cache(reader: impl io::Read, folder: &Path) -> io::Result<()> {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let fresh = folder.join(".cache.json.new");
    let mut kept = std::collections::HashSet::new();
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let Some(name) = path.file_name() else { continue };
        if path == Path::new("cache.json") {
            io::copy(&mut entry, &mut fs::File::create(&fresh)?)?;
            continue;
        }
        kept.insert(name.to_owned());
        let target = blobs.join(name);
        if target.exists() {
            continue;
        }
        let partial = folder.join(".blob.new");
        io::copy(&mut entry, &mut fs::File::create(&partial)?)?;
        fs::rename(&partial, &target)?;
    }
    if !fresh.exists() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the daemon sent no cache"));
    }
    fs::rename(&fresh, folder.join("cache.json"))?;
    for entry in fs::read_dir(&blobs)? {
        let entry = entry?;
        if !kept.contains(&entry.file_name()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The whole upload.
pub fn framed(extras: Extras, main: Option<Chunks>) -> Outcome<Chunks> {
    let options = serde_json::to_vec(&extras.options()).map_err(|error| Failure::new(error.to_string()))?;
    let (sender, receiver) = mpsc::channel(4);
    let mut parts = Vec::new();
    for folder in extras.uploads {
        parts.push(match folder {
            Folder::Context(path) => {
                let ignore = read_ignore(Some(&path.join(".dockerignore")))?.unwrap_or_default();
                packed(move |builder| {
                    let take = |path: &Path, directory: bool| ignore.take(path, directory);
                    archive::append_tree(builder, &path, Path::new(""), Owner::Root, &take)
                })
            }
            Folder::Cache(path) => packed(move |builder| {
                archive::append_tree(builder, &path, Path::new(""), Owner::Root, &|_, _| Take::Yes)
            }),
            Folder::Layout(layout) => packed(move |builder| layout.pack(builder)),
        });
    }
    parts.extend(main);
    tokio::spawn(async move {
        // The daemon that takes no more has answered already; its answer says why.
        let _ = send(&sender, options, parts).await;
    });
    Ok(receiver)
}

type Closed = mpsc::error::SendError<io::Result<Bytes>>;

async fn send(sender: &mpsc::Sender<io::Result<Bytes>>, options: Vec<u8>, parts: Vec<Chunks>) -> Result<(), Closed> {
    piece(sender, options.into()).await?;
    sender.send(Ok(Bytes::from_static(&[0; 4]))).await?;
    for mut part in parts {
        while let Some(chunk) = part.recv().await {
            match chunk {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => piece(sender, bytes).await?,
                Err(error) => return sender.send(Err(error)).await,
            }
        }
        sender.send(Ok(Bytes::from_static(&[0; 4]))).await?;
    }
    Ok(())
}

async fn piece(sender: &mpsc::Sender<io::Result<Bytes>>, bytes: Bytes) -> Result<(), Closed> {
    // Pieces of an upload are far shorter than this; the daemon's bound is 4 MiB.
    let mut left = bytes;
    while !left.is_empty() {
        let part = left.split_to(left.len().min(1 << 20));
        let length = u32::try_from(part.len()).unwrap_or(0).to_be_bytes();
        sender.send(Ok(Bytes::copy_from_slice(&length))).await?;
        sender.send(Ok(part)).await?;
    }
    Ok(())
}

/// A tar of what is packed into it.
fn packed(
    pack: impl FnOnce(&mut tar::Builder<&mut archive::ChannelWriter>) -> io::Result<()> + Send + 'static,
) -> Chunks {
    let (mut writer, chunks) = archive::pipe();
    std::thread::spawn(move || {
        let mut builder = tar::Builder::new(&mut writer);
        let packed = pack(&mut builder).and_then(|()| builder.finish());
        drop(builder);
        if let Err(error) = packed
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            writer.fail(&error);
        }
    });
    chunks
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn secrets_come_from_files_and_variables() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, "hidden").unwrap();
        let shown = path.display();
        assert_eq!(secret(&format!("id=a,src={shown}")).unwrap(), ("a".into(), b"hidden".to_vec()));
        assert_eq!(secret(&format!("id=a,type=file,source={shown}")).unwrap().1, b"hidden");
        let home = std::env::var("PATH").unwrap();
        assert_eq!(secret("id=a,env=PATH").unwrap().1, home.as_bytes());
        assert_eq!(secret("id=PATH").unwrap().1, home.as_bytes());
        for (text, part) in [
            ("src=/x", "id is missing"),
            ("id=a,src=/no/such", "/no/such"),
            ("id=a,env=NO_SUCH_VARIABLE_", "is not set"),
            ("id=a,scr=x", "unknown key scr"),
            ("id=a,src=x,env=y", "exclude"),
        ] {
            let message = secret(text).unwrap_err().message;
            assert!(message.contains(part), "{text}: {message}");
        }
    }

    #[test]
    fn contexts_and_caches_that_cannot_be_are_refused() {
        let mut extras = Extras::default();
        extras.context("a=docker-image://debian:12").unwrap();
        extras.context("b=https://h/r.git#v1").unwrap();
        extras.context("c=/").unwrap();
        assert_eq!(extras.contexts[2], json!({ "name": "c", "kind": "upload" }));
        assert_eq!(extras.uploads, [Folder::Context(PathBuf::from("/"))]);
        assert!(extras.context("d=/no/such").unwrap_err().message.contains("/no/such"));
        assert!(extras.context("e=oci-layout:///no/such").unwrap_err().message.contains("/no/such"));
        assert!(extras.context("name").is_err());
        assert_eq!(cache_source("type=local,src=/no/such").unwrap(), None, "not there yet");
        assert_eq!(cache_source("debian").unwrap(), Some(CachePlace::Registry("debian".into())));
        assert!(cache_source("type=gha").unwrap_err().message.contains("--cache-from type=gha"));
    }
}
