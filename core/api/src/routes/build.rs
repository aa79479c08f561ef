//! `POST /build`, the classic build endpoint.

use base64::Engine as _;
use sampan_engine::build::{
    BuildContext, BuildRequest, CachePlace, CacheSource, CacheTarget, Call as BuildCall, Compression, NamedContext,
    Options as BuildOptions, Packing, Ulimit, allowed, attestations, read_options,
};
use sampan_engine::{Engine, Error, Result};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use sampan_engine::messages::Credentials;

use crate::request::{Call, Upload};
use crate::response::{Answer, json, json_stream, stream};
use crate::routes::archive::receiver;

/// `POST /build`: the body is the context as a tar, compressed or not.
pub async fn build(engine: &Engine, call: &mut Call) -> Answer {
    let query = &call.query;
    if query.get("version") == Some("2") {
        return Err(Error::unsupported(
            "this form of BuildKit's protocol (version=2) is of clients before docker buildx: install that plugin, use `sampan build`, or set DOCKER_BUILDKIT=0",
        ));
    }
    if query.flag("squash") {
        return Err(Error::unsupported("squash: use stages to keep images small"));
    }
    let remote = query.get("remote").map(str::to_owned);
    let request = BuildRequest {
        context: BuildContext::Tar(Box::pin(tokio::io::empty())),
        dockerfile: query.get("dockerfile").map(str::to_owned),
        tags: query.all("t").into_iter().filter(|tag| !tag.is_empty()).collect(),
        platforms: query.get("platform").map(|text| text.split(',').map(str::to_owned).collect()).unwrap_or_default(),
        options: BuildOptions {
            build_args: query.json::<HashMap<String, Option<String>>>("buildargs")?.unwrap_or_default(),
            labels: query.json("labels")?.unwrap_or_default(),
            target: query.get("target").map(str::to_owned),
            network: query.get("networkmode").unwrap_or_default().to_owned(),
            extra_hosts: query
                .get("extrahosts")
                .map(|text| text.split(',').map(str::to_owned).collect())
                .unwrap_or_default(),
            shm_size: query.number("shmsize")?,
            memory: query.number("memory")?,
            memory_swap: query.number("memswap")?,
            ulimits: ulimits(call)?,
            no_cache: query.flag("nocache"),
            pull: query.flag("pull"),
            quiet: query.flag("q"),
            ..BuildOptions::default()
        },
        cache_from: cache_images(call)?,
        registry_auth: registry_config(call)?,
        ..BuildRequest::default()
    };
    let own = call.header("content-type") == Some(OWN_UPLOAD);
    let mut request = request;
    let upload = call.upload();
    match remote {
        remote if own => with_options(&mut request, remote, upload).await?,
        Some(url) => request.context = BuildContext::Remote(url),
        None => request.context = BuildContext::Tar(upload),
    }
    json_stream(receiver(engine.build_image(request).await?))
}

/// The media type of uploads that begin with [`Options`]. They are in the body, which no one logs.
const OWN_UPLOAD: &str = "application/vnd.sampan.build";

/// What Docker's classic endpoint has no place for.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Options {
    /// Base64, by id.
    secrets: HashMap<String, String>,
    /// Sockets of agents, by id.
    ssh: BTreeMap<String, PathBuf>,
    /// What steps may have beyond a container's rights, as `device=NAME`.
    allow: Vec<String>,
    /// What is to be said of the image, as `type=provenance,…`.
    attest: Vec<String>,
    contexts: Vec<ContextOption>,
    no_cache_filter: Vec<String>,
    rewrite_timestamp: bool,
    call: CallOption,
    tell_keys: bool,
    cache_from: Vec<SourceOption>,
    cache_to: Vec<TargetOption>,
    packing: Option<PackingOption>,
}

/// The form of the image.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct PackingOption {
    compression: Option<CompressionOption>,
    level: Option<u32>,
    force: bool,
    docker_types: bool,
    annotations: BTreeMap<String, String>,
}

/// How layers are packed.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
enum CompressionOption {
    Uncompressed,
    Gzip,
    Zstd,
}

impl PackingOption {
    fn checked(self) -> Result<Packing> {
        let packing = Packing {
            compression: self.compression.map(|asked| match asked {
                CompressionOption::Uncompressed => Compression::None,
                CompressionOption::Gzip => Compression::Gzip,
                CompressionOption::Zstd => Compression::Zstd,
            }),
            level: self.level,
            force: self.force,
            docker_types: self.docker_types,
            annotations: self.annotations,
        };
        packing.check().map_err(Error::invalid)?;
        Ok(packing)
    }
}

/// What is to be done with the Dockerfile.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
enum CallOption {
    #[default]
    Build,
    Check,
    Outline,
    Targets,
}

/// Where results of earlier builds are.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", tag = "kind", content = "value")]
enum SourceOption {
    Upload,
    Registry(String),
}

/// Where results go; directories are the client's own.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct TargetOption {
    /// An image's name in a registry; the configuration of the image that is built when there is none.
    #[serde(default)]
    registry: Option<String>,
    #[serde(default)]
    all: bool,
    #[serde(default)]
    ignore_error: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ContextOption {
    name: String,
    kind: ContextKind,
    #[serde(default)]
    value: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
enum ContextKind {
    Upload,
    Layout,
    Image,
    Remote,
}

/// Reads the options that an upload begins with.
async fn with_options(request: &mut BuildRequest, remote: Option<String>, mut upload: Upload) -> Result<()> {
    let bytes = read_options(&mut upload).await?;
    // What cannot be read may hold a secret: it is not repeated.
    let options: Options = serde_json::from_slice(&bytes).map_err(|error| {
        Error::invalid(format!(
            "the options of the build cannot be read (column {}): a client of another version?",
            error.column()
        ))
    })?;
    for (id, text) in options.secrets {
        let content = base64::engine::general_purpose::STANDARD
            .decode(text)
            .map_err(|_| Error::invalid(format!("the secret {id} is not base64")))?;
        request.options.secrets.insert(id, content.into());
    }
    request.options.ssh = options.ssh;
    request.options.allowed = allowed(&options.allow).map_err(Error::invalid)?;
    request.packing = options.packing.map(PackingOption::checked).transpose()?;
    request.options.provenance = attestations(&options.attest).map_err(Error::invalid)?;
    request.contexts = options
        .contexts
        .into_iter()
        .map(|each| {
            let context = match each.kind {
                ContextKind::Upload => NamedContext::Upload,
                ContextKind::Layout => NamedContext::Layout,
                ContextKind::Image => NamedContext::Image(each.value),
                ContextKind::Remote => NamedContext::Remote(each.value),
            };
            (each.name, context)
        })
        .collect();
    request.options.no_cache_stages = options.no_cache_filter;
    request.options.rewrite_timestamp = options.rewrite_timestamp;
    request.call = match options.call {
        CallOption::Build => BuildCall::Build,
        CallOption::Check => BuildCall::Check,
        CallOption::Outline => BuildCall::Outline,
        CallOption::Targets => BuildCall::Targets,
    };
    request.tell_keys = options.tell_keys;
    request.cache_from = options
        .cache_from
        .into_iter()
        .map(|each| match each {
            SourceOption::Upload => CacheSource::Upload,
            SourceOption::Registry(name) => CacheSource::Registry(name),
        })
        .collect();
    request.cache_to = options
        .cache_to
        .into_iter()
        .map(|each| CacheTarget {
            place: each.registry.map_or(CachePlace::Inline, CachePlace::Registry),
            all: each.all,
            ignore_error: each.ignore_error,
        })
        .collect();
    request.context = BuildContext::Parts { reader: upload, remote };
    Ok(())
}

/// `cachefrom`: a JSON list of images that are here.
fn cache_images(call: &Call) -> Result<Vec<CacheSource>> {
    let found = call.query.json::<Vec<String>>("cachefrom")?.unwrap_or_default();
    Ok(found.into_iter().map(CacheSource::Image).collect())
}

/// `ulimits`: a JSON list of names with their limits.
fn ulimits(call: &Call) -> Result<Vec<Ulimit>> {
    let found = call.query.json::<Vec<bollard_stubs::models::ResourcesUlimits>>("ulimits")?.unwrap_or_default();
    Ok(found
        .into_iter()
        .map(|each| Ulimit {
            name: each.name.unwrap_or_default(),
            soft: each.soft.unwrap_or(-1),
            hard: each.hard.unwrap_or(-1),
        })
        .collect())
}

/// `POST /sampan/v1/build/cache`: the results of builds by their keys, as a tar.
pub async fn export_cache(engine: &Engine, call: &mut Call) -> Answer {
    let keys: Vec<String> = call.json().await?;
    stream("application/x-tar", receiver(engine.export_build_cache(keys).await?))
}

/// The `X-Registry-Config` header: base64 of a map from registry to credentials.
fn registry_config(call: &Call) -> Result<HashMap<String, Credentials>> {
    let Some(text) = call.header("x-registry-config").filter(|text| !text.is_empty()) else {
        return Ok(HashMap::new());
    };
    let wrong = || Error::invalid("header X-Registry-Config: not base64 of a JSON document");
    let json = base64::engine::general_purpose::URL_SAFE
        .decode(text)
        .or_else(|_| base64::engine::general_purpose::STANDARD.decode(text))
        .map_err(|_| wrong())?;
    let found: Option<HashMap<String, Credentials>> = serde_json::from_slice(&json).map_err(|_| wrong())?;
    Ok(found.unwrap_or_default())
}

/// `POST /build/prune`
pub async fn prune(engine: &Engine, call: &Call) -> Answer {
    // Docker's older and newer names of the bytes that may stay.
    let mut keep = None;
    for name in ["keep-storage", "reserved-space", "max-used-space"] {
        keep = call.query.number::<u64>(name)?.filter(|bytes| *bytes > 0).or(keep);
    }
    json(&engine.prune_build(call.query.flag("all"), keep, call.query.filters()?).await?)
}
