//! What a client wants of a build, in the words of BuildKit's frontend for Dockerfiles, as a request of the engine.

use std::collections::HashMap;

use sampan_buildkit::control::{CacheEntry, SolveRequest};
use sampan_buildkit::grpc::{Code, Status};
use sampan_buildkit::llb::Definition;
use sampan_engine::build::{
    BuildRequest, CachePlace, CacheSource, CacheTarget, Call, NamedContext, Options, Ulimit, allowed, attestations,
};

/// A directory of the client's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// By which the client knows it.
    pub name: String,
    /// The session that has it, when that is not the build's own.
    pub session: Option<String>,
}

/// Where the files come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Files {
    Local(Local),
    /// A tar, or a Dockerfile, on the client's standard input; the path that it is known by.
    Upload(String),
    /// Fetched by the engine.
    Remote(String),
}

/// A build, but for the files of the client's.
#[derive(Debug)]
pub struct Wanted {
    pub request: BuildRequest,
    pub filename: String,
    pub context: Files,
    /// Where the Dockerfile is; in the context if there is none.
    pub dockerfile: Option<Local>,
    /// Further contexts.
    pub locals: Vec<(String, Local)>,
}

/// The part of an address that means the client's standard input.
const UPLOAD: &str = "http://buildkit-session/";

fn wrong(why: impl Into<String>) -> Status {
    Status::new(Code::InvalidArgument, why)
}

/// Translates what is wanted; `names` are the image's.
pub fn translate(
    opts: &HashMap<String, String>,
    inputs: &HashMap<String, Definition>,
    imports: &[CacheEntry],
    asked: &SolveRequest,
    names: Vec<String>,
) -> Result<Wanted, Status> {
    let get = |key: &str| opts.get(key).map(String::as_str).filter(|value| !value.is_empty());
    if get("cgroup-parent").is_some() {
        return Err(Status::unimplemented("--cgroup-parent: builds run below the engine's own cgroup"));
    }
    if asked.source_policy.is_some() {
        return Err(Status::unimplemented(
            "source policies are not applied here: unset EXPERIMENTAL_BUILDKIT_SOURCE_POLICY",
        ));
    }
    let local = |name: &str| Local {
        name: name.to_owned(),
        session: get(&format!("local-sessionid:{name}")).map(str::to_owned),
    };
    let context = match get("context") {
        None => Files::Local(local(get("contextkey").unwrap_or("context"))),
        Some(url) => match url.strip_prefix(UPLOAD) {
            Some(path) => Files::Upload(path.to_owned()),
            None => Files::Remote(url.to_owned()),
        },
    };
    let dockerfile = match (get("dockerfilekey"), &context) {
        (Some(key), _) => Some(local(key)),
        (None, Files::Local(_)) => Some(local("dockerfile")),
        (None, _) => None,
    };
    let mut request = BuildRequest {
        tags: names,
        platforms: get("platform").map(|text| text.split(',').map(str::to_owned).collect()).unwrap_or_default(),
        options: options(opts, asked)?,
        call: call(get("requestid"))?,
        cache_from: cache_from(opts, imports, asked)?,
        cache_to: cache_to(asked)?,
        ..BuildRequest::default()
    };
    let mut locals = Vec::new();
    let mut keys: Vec<&String> = opts.keys().filter(|key| key.starts_with("context:")).collect();
    keys.sort();
    for key in keys {
        // One for each platform may be given, of which all are of one image.
        let name = key.trim_start_matches("context:").split("::").next().unwrap_or_default().to_owned();
        if request.contexts.iter().any(|(known, _)| *known == name) || locals.iter().any(|(known, _)| *known == name) {
            continue;
        }
        let value = opts[key].as_str();
        let (kind, rest) = value.split_once(':').unwrap_or((value, ""));
        let context = match kind {
            "local" => {
                locals.push((name, local(rest)));
                continue;
            }
            "docker-image" => NamedContext::Image(rest.trim_start_matches("//").to_owned()),
            "input" => {
                let image = inputs.get(rest).and_then(Definition::image);
                NamedContext::Image(image.ok_or_else(|| no_graph(&name))?)
            }
            "oci-layout" => {
                return Err(Status::unimplemented(format!(
                    "the context {name}: OCI layouts are not read over BuildKit's protocol; use `sampan build`, or load the image and name it (docker-image://NAME)"
                )));
            }
            _ => NamedContext::Remote(value.to_owned()),
        };
        request.contexts.push((name, context));
    }
    let filename = get("filename").unwrap_or("Dockerfile").to_owned();
    Ok(Wanted { request, filename, context, dockerfile, locals })
}

fn no_graph(name: &str) -> Status {
    Status::unimplemented(format!(
        "the context {name} is a graph of another frontend's, which is not run here: name a directory or an image"
    ))
}

fn options(opts: &HashMap<String, String>, asked: &SolveRequest) -> Result<Options, Status> {
    let get = |key: &str| opts.get(key).map(String::as_str).filter(|value| !value.is_empty());
    let mut options = Options {
        target: get("target").map(str::to_owned),
        network: get("force-network-mode").unwrap_or_default().to_owned(),
        pull: get("image-resolve-mode") == Some("pull"),
        live: true,
        ..Options::default()
    };
    for (key, value) in opts {
        if let Some(name) = key.strip_prefix("build-arg:") {
            options.build_args.insert(name.to_owned(), Some(value.clone()));
        } else if let Some(name) = key.strip_prefix("label:") {
            options.labels.insert(name.to_owned(), value.clone());
        }
    }
    for host in get("add-hosts").into_iter().flat_map(|text| text.split(',')) {
        let (name, address) = host.split_once('=').ok_or_else(|| wrong(format!("add-hosts: {host}: no address")))?;
        options.extra_hosts.push(format!("{name}:{address}"));
    }
    if let Some(text) = get("shm-size") {
        options.shm_size = Some(text.parse().map_err(|_| wrong(format!("shm-size: {text} is not a number of bytes")))?);
    }
    for text in get("ulimit").into_iter().flat_map(|text| text.split(',')) {
        options.ulimits.push(ulimit(text).ok_or_else(|| wrong(format!("ulimit: {text}: expected NAME=SOFT[:HARD]")))?);
    }
    match opts.get("no-cache").map(String::as_str) {
        None => {}
        Some("") => options.no_cache = true,
        Some(stages) => options.no_cache_stages = stages.split(',').map(str::to_owned).collect(),
    }
    options.allowed = allowed(&asked.entitlements).map_err(wrong)?;
    let mut statements = Vec::new();
    for (key, value) in opts {
        let Some(kind) = key.strip_prefix("attest:") else { continue };
        // What a client adds unasked is for results that are not images.
        if !value.split(',').any(|field| field == "inline-only=true") {
            let stated = value.split(',').any(|field| field.starts_with("type="));
            let text = if stated { value.clone() } else { format!("type={kind},{value}") };
            statements.push(text.trim_end_matches(',').to_owned());
        }
    }
    options.provenance = attestations(&statements).map_err(wrong)?;
    Ok(options)
}

fn ulimit(text: &str) -> Option<Ulimit> {
    let (name, values) = text.split_once('=')?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    Some(Ulimit { name: name.to_owned(), soft: soft.parse().ok()?, hard: hard.parse().ok()? })
}

fn call(request: Option<&str>) -> Result<Call, Status> {
    match request {
        None => Ok(Call::Build),
        Some("frontend.lint") => Ok(Call::Check),
        Some("frontend.outline") => Ok(Call::Outline),
        Some("frontend.targets") => Ok(Call::Targets),
        Some(other) => Err(Status::unimplemented(format!(
            "--call {}: check, outline and targets are known",
            other.trim_start_matches("frontend.")
        ))),
    }
}

/// A cache as the client writes it into the frontend's options.
#[derive(serde::Deserialize)]
struct Import {
    #[serde(rename = "Type")]
    kind: String,
    #[serde(rename = "Attrs", default)]
    attrs: HashMap<String, String>,
}

fn cache_from(
    opts: &HashMap<String, String>,
    imports: &[CacheEntry],
    asked: &SolveRequest,
) -> Result<Vec<CacheSource>, Status> {
    let mut all: Vec<CacheEntry> = imports.to_vec();
    all.extend(asked.cache.iter().flat_map(|cache| cache.imports.clone()));
    if let Some(text) = opts.get("cache-imports").filter(|text| !text.is_empty()) {
        let listed: Vec<Import> =
            serde_json::from_str(text).map_err(|error| wrong(format!("cache-imports: {error}")))?;
        all.extend(listed.into_iter().map(|import| CacheEntry { kind: import.kind, attrs: import.attrs }));
    }
    let mut sources = Vec::new();
    for entry in all {
        match entry.kind.as_str() {
            "registry" => {
                let name = entry.attrs.get("ref").ok_or_else(|| wrong("--cache-from type=registry: ref is missing"))?;
                sources.push(CacheSource::Registry(name.clone()));
            }
            other => return Err(no_cache("--cache-from", other)),
        }
    }
    Ok(sources)
}

fn cache_to(asked: &SolveRequest) -> Result<Vec<CacheTarget>, Status> {
    let mut targets = Vec::new();
    for entry in asked.cache.iter().flat_map(|cache| &cache.exports) {
        let truth = |key: &str| matches!(entry.attrs.get(key).map(String::as_str), Some("true" | "1"));
        let place = match entry.kind.as_str() {
            "inline" => CachePlace::Inline,
            "registry" => {
                let name = entry.attrs.get("ref").ok_or_else(|| wrong("--cache-to type=registry: ref is missing"))?;
                CachePlace::Registry(name.clone())
            }
            other => return Err(no_cache("--cache-to", other)),
        };
        let all = entry.attrs.get("mode").is_some_and(|mode| mode == "max");
        targets.push(CacheTarget { place, all, ignore_error: truth("ignore-error") });
    }
    Ok(targets)
}

fn no_cache(flag: &str, kind: &str) -> Status {
    Status::unimplemented(format!(
        "{flag} type={kind} is not done over BuildKit's protocol: use type=registry or type=inline, or `sampan build` for directories"
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn wanted(pairs: &[(&str, &str)]) -> Result<Wanted, Status> {
        let inputs = HashMap::from([
            ("base".to_owned(), Definition::of_image("sha256:abc")),
            ("graph".to_owned(), Definition::default()),
        ]);
        translate(&map(pairs), &inputs, &[], &SolveRequest::default(), vec!["x".to_owned()])
    }

    #[test]
    fn options_of_the_frontend_are_those_of_the_engine() {
        let found = wanted(&[
            ("filename", "Dockerfile.dev"),
            ("target", "app"),
            ("build-arg:A", "1"),
            ("label:l", "v"),
            ("platform", "linux/amd64,linux/arm64"),
            ("no-cache", "a,b"),
            ("image-resolve-mode", "pull"),
            ("add-hosts", "db=10.0.0.1,v6=::1"),
            ("force-network-mode", "none"),
            ("shm-size", "1024"),
            ("ulimit", "nofile=10:20,core=0"),
            ("attest:provenance", "mode=min,inline-only=true"),
            ("context:lib", "local:lib"),
            ("context:base::linux/amd64", "input:base"),
            ("context:base::linux/arm64", "input:base"),
            ("context:img", "docker-image://alpine:3"),
            ("context:src", "https://example.com/x.git#main"),
            ("local-sessionid:lib", "other"),
            ("cache-imports", r#"[{"Type":"registry","Attrs":{"ref":"r/x:cache"}}]"#),
            ("vcs:revision", "ignored"),
        ])
        .unwrap();
        let (request, options) = (&found.request, &found.request.options);
        assert_eq!(found.filename, "Dockerfile.dev");
        assert_eq!(found.context, Files::Local(Local { name: "context".into(), session: None }));
        assert_eq!(found.dockerfile.unwrap().name, "dockerfile");
        assert_eq!((options.target.as_deref(), options.network.as_str(), options.pull), (Some("app"), "none", true));
        assert_eq!(options.build_args["A"].as_deref(), Some("1"));
        assert_eq!(options.labels["l"], "v");
        assert_eq!((&request.platforms[1], options.shm_size), (&"linux/arm64".to_owned(), Some(1024)));
        assert_eq!((options.no_cache, &options.no_cache_stages[..]), (false, &["a".to_owned(), "b".to_owned()][..]));
        assert_eq!(options.extra_hosts, ["db:10.0.0.1", "v6:::1"]);
        assert_eq!((options.ulimits[0].hard, options.ulimits[1].soft), (20, 0));
        assert!(options.provenance.is_none() && options.live);
        assert_eq!(found.locals, [("lib".into(), Local { name: "lib".into(), session: Some("other".into()) })]);
        let contexts: Vec<String> = request.contexts.iter().map(|each| format!("{each:?}")).collect();
        assert_eq!(
            contexts,
            [
                r#"("base", Image("sha256:abc"))"#,
                r#"("img", Image("alpine:3"))"#,
                r#"("src", Remote("https://example.com/x.git#main"))"#
            ]
        );
        assert_eq!(request.cache_from, [CacheSource::Registry("r/x:cache".into())]);
    }

    #[test]
    fn files_come_from_where_the_client_says() {
        let found = wanted(&[("context", "http://buildkit-session/abc")]).unwrap();
        assert_eq!((found.context, found.dockerfile), (Files::Upload("abc".into()), None));
        let found = wanted(&[("context", "https://x/y.git"), ("dockerfilekey", "dockerfile")]).unwrap();
        assert_eq!(found.context, Files::Remote("https://x/y.git".into()));
        assert_eq!(found.dockerfile.unwrap().name, "dockerfile");
        assert!(wanted(&[("no-cache", "")]).unwrap().request.options.no_cache);
    }

    #[test]
    fn what_is_not_done_is_refused_with_the_way_round_it() {
        for (key, value, part) in [
            ("cgroup-parent", "/x", "--cgroup-parent"),
            ("context:x", "oci-layout://a@sha256:b", "sampan build"),
            ("context:x", "input:graph", "not run here"),
            ("context:x", "input:missing", "not run here"),
            ("requestid", "frontend.other", "check, outline and targets"),
            ("cache-imports", r#"[{"Type":"local","Attrs":{"src":"x"}}]"#, "type=registry"),
            ("cache-imports", "{", "cache-imports"),
            ("ulimit", "nofile", "NAME=SOFT"),
            ("add-hosts", "db", "no address"),
            ("attest:sbom", "", "sbom"),
        ] {
            let error = wanted(&[(key, value)]).unwrap_err();
            assert!(error.message.contains(part), "{key}: {}", error.message);
        }
        let asked = SolveRequest { entitlements: vec!["security.insecure".into()], ..SolveRequest::default() };
        translate(&map(&[]), &HashMap::new(), &[], &asked, Vec::new()).unwrap_err();
    }
}
