//! A service's `build` as the engine takes it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use sampan_compose::Project;
use sampan_compose::build_options::{self, ContextKind};
use sampan_compose::model::Build;
use sampan_engine::build::{
    BuildContext, BuildRequest, CachePlace, CacheSource, CacheTarget, NamedContext, Options, Ulimit, allowed,
    attestations,
};
use sampan_engine::{Error, Result};

/// Writes down what is asked; what cannot be done is refused by name. Reads the files of secrets.
pub async fn request(project: &Project, service: &str, build: &Build) -> Result<BuildRequest> {
    let refuse = |key: &str, why: &str| Error::unsupported(format!("service {service}: build.{key}: {why}"));
    let wrong = |key: &str, why: &str| Error::invalid(format!("service {service}: build.{key}: {why}"));
    if build.privileged {
        return Err(refuse("privileged", "steps have a container's rights and no more"));
    }
    let allowed = allowed(&build.entitlements).map_err(|why| refuse("entitlements", &why))?;
    if !matches!(build.isolation.as_str(), "" | "default") {
        return Err(refuse("isolation", "there is one way to isolate on Linux: default"));
    }
    let platforms = if build.platforms.is_empty() {
        project.services.get(service).map(|found| found.platform.clone()).into_iter().collect()
    } else {
        build.platforms.clone()
    };
    let provenance = match build.provenance.as_str() {
        "" | "false" => None,
        "true" => attestations(&["type=provenance"]).map_err(|why| wrong("provenance", &why))?,
        more => attestations(&[format!("type=provenance,{more}")]).map_err(|why| wrong("provenance", &why))?,
    };
    let context = match ContextKind::of(&build.context) {
        ContextKind::Directory => BuildContext::Directory(PathBuf::from(&build.context)),
        ContextKind::Remote => BuildContext::Remote(build.context.clone()),
        _ => {
            return Err(refuse("context", "an image holds no Dockerfile: name it in additional_contexts"));
        }
    };
    let mut tags = vec![project.image_name(service)];
    tags.extend(build.tags.iter().filter(|tag| *tag != &tags[0]).cloned().collect::<Vec<_>>());
    let mut labels: BTreeMap<String, String> = build.labels.clone().into_iter().collect();
    labels.insert(crate::labels::PROJECT.to_owned(), project.name.clone());
    labels.insert(crate::labels::SERVICE.to_owned(), service.to_owned());
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let ulimit = |(name, limit): (&String, &sampan_compose::model::Ulimit)| Ulimit {
        name: name.clone(),
        soft: limit.soft,
        hard: limit.hard,
    };
    Ok(BuildRequest {
        context,
        dockerfile: text(&build.dockerfile),
        dockerfile_inline: text(&build.dockerfile_inline),
        tags,
        platforms,
        options: Options {
            build_args: build.args.iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect(),
            labels,
            target: text(&build.target),
            network: build.network.clone(),
            extra_hosts: build.extra_hosts.iter().map(|entry| entry.replacen('=', ":", 1)).collect(),
            shm_size: build.shm_size.map(|size| size.0),
            ulimits: build.ulimits.iter().map(ulimit).collect(),
            no_cache: build.no_cache,
            no_cache_stages: build.no_cache_filter.clone(),
            pull: build.pull,
            secrets: secrets(project, build).await.map_err(|why| wrong("secrets", &why))?,
            ssh: build
                .ssh
                .iter()
                .map(|text| agent(text))
                .collect::<Result<_, _>>()
                .map_err(|why| wrong("ssh", &why))?,
            allowed,
            provenance,
            ..Options::default()
        },
        contexts: contexts(project, build).map_err(|why| wrong("additional_contexts", &why))?,
        cache_from: caches_from(project, build).map_err(|why| wrong("cache_from", &why))?,
        cache_to: caches_to(project, build).map_err(|why| wrong("cache_to", &why))?,
        ..BuildRequest::default()
    })
}

/// The services whose images a build stands on.
pub fn needs(build: &Build) -> Vec<&str> {
    let named = build.additional_contexts.values().filter_map(|text| match ContextKind::of(text) {
        ContextKind::Service(name) => Some(name),
        _ => None,
    });
    named.collect()
}

async fn secrets(project: &Project, build: &Build) -> Result<BTreeMap<String, Arc<[u8]>>, String> {
    let mut all = BTreeMap::new();
    for reference in &build.secrets {
        let source = &reference.source;
        let found =
            project.secrets.get(source).ok_or_else(|| format!("{source} is not one of the project's secrets"))?;
        let content = match (&found.file, &found.value) {
            (Some(path), _) => crate::material::content(path.clone())
                .await
                .map_err(|why| format!("{source}: {}: {why}", path.display()))?,
            (None, Some(value)) => value.0.clone().into_bytes(),
            (None, None) => match &found.environment {
                Some(variable) => return Err(format!("{source}: the variable {variable} is not set")),
                None => {
                    return Err(format!("{source} is external, which needs a cluster: give it by file or environment"));
                }
            },
        };
        let id = if reference.target.is_empty() { source } else { &reference.target };
        all.insert(id.clone(), content.into());
    }
    Ok(all)
}

/// `id=socket`. The agent of whoever ran `up` is not known to the daemon, which may build again long after.
fn agent(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((id, path)) if !path.is_empty() => Ok((id.to_owned(), PathBuf::from(path))),
        _ => Err(format!(
            "{text}: the daemon builds, and knows no agent of yours: give its socket, {text}=/path/to/socket"
        )),
    }
}

fn contexts(project: &Project, build: &Build) -> Result<Vec<(String, NamedContext)>, String> {
    let read = |(name, text): (&String, &String)| {
        let context = match ContextKind::of(text) {
            ContextKind::Directory => NamedContext::Directory(PathBuf::from(text)),
            ContextKind::Remote => NamedContext::Remote(text.clone()),
            ContextKind::Image(image) => NamedContext::Image(image.to_owned()),
            ContextKind::Service(service) if project.services.contains_key(service) => {
                NamedContext::Image(project.image_name(service))
            }
            ContextKind::Service(service) => return Err(format!("{name}: there is no service {service}")),
            ContextKind::Layout(_) => {
                return Err(format!("{name}: OCI layouts are not read here: load it, and name docker-image://IMAGE"));
            }
        };
        Ok((name.clone(), context))
    };
    build.additional_contexts.iter().map(read).collect()
}

fn caches_from(project: &Project, build: &Build) -> Result<Vec<CacheSource>, String> {
    let mut all = Vec::new();
    for text in &build.cache_from {
        match build_options::cache_from(text).map_err(|why| format!("{text}: {why}"))? {
            build_options::CachePlace::Local(path) => {
                let path = project.working_dir.join(path);
                // What a build is about to write is not there when the first one begins.
                if path.join("cache.json").is_file() {
                    all.push(CacheSource::Directory(path));
                }
            }
            build_options::CachePlace::Registry(name) => all.push(CacheSource::Registry(name)),
            build_options::CachePlace::Inline => {}
        }
    }
    Ok(all)
}

fn caches_to(project: &Project, build: &Build) -> Result<Vec<CacheTarget>, String> {
    let read = |text: &String| {
        let found = build_options::cache_to(text).map_err(|why| format!("{text}: {why}"))?;
        let place = match found.place {
            build_options::CachePlace::Local(path) => CachePlace::Directory(project.working_dir.join(path)),
            build_options::CachePlace::Registry(name) => CachePlace::Registry(name),
            build_options::CachePlace::Inline => CachePlace::Inline,
        };
        Ok(CacheTarget { place, all: found.all, ignore_error: found.ignore_error })
    };
    build.cache_to.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sampan_compose::model::{BuildSecret, Secret, SecretValue, Service};

    fn project() -> Project {
        let secret =
            |value: Option<&str>| Secret { value: value.map(|text| SecretValue(text.to_owned())), ..Secret::default() };
        Project {
            name: "p".into(),
            working_dir: "/srv/p".into(),
            services: BTreeMap::from([
                ("web".to_owned(), Service::default()),
                ("base".to_owned(), Service { image: "base:1".into(), ..Service::default() }),
            ]),
            secrets: BTreeMap::from([("key".to_owned(), secret(Some("hidden"))), ("far".to_owned(), secret(None))]),
            ..Project::default()
        }
    }

    async fn asked(change: impl FnOnce(&mut Build)) -> Result<BuildRequest> {
        let mut build = Build { context: "/srv/p/web".into(), ..Build::default() };
        change(&mut build);
        request(&project(), "web", &build).await
    }

    #[tokio::test]
    async fn every_key_reaches_the_build() {
        let found = asked(|build| {
            build.secrets.push(BuildSecret { source: "key".into(), ..BuildSecret::default() });
            build.ssh = vec!["deploy=/run/agent".into()];
            build.additional_contexts = [("a", "/srv/a"), ("b", "service:base"), ("c", "docker-image://d:1")]
                .map(|(name, text)| (name.to_owned(), text.to_owned()))
                .into();
            build.cache_from = vec!["r:5000/x:cache".into(), "type=local,src=missing".into()];
            build.cache_to = vec!["type=local,dest=cache,mode=max".into(), "type=inline".into()];
            build.no_cache_filter = vec!["tools".into()];
            build.platforms = vec!["linux/amd64".into(), "linux/arm64".into()];
            build.provenance = "mode=max".into();
            build.ulimits.insert("nofile".into(), sampan_compose::model::Ulimit { soft: 5, hard: 6, single: false });
        });
        let found = found.await.unwrap();
        assert_eq!(*found.options.secrets["key"], b"hidden"[..]);
        assert_eq!(found.options.ssh["deploy"], std::path::Path::new("/run/agent"));
        assert!(
            matches!(&found.contexts[1], (name, NamedContext::Image(image)) if name == "b" && image == "base:1"),
            "{:?}",
            found.contexts
        );
        assert_eq!(found.cache_from, [CacheSource::Registry("r:5000/x:cache".into())]);
        let places: Vec<_> = found.cache_to.iter().map(|target| (&target.place, target.all)).collect();
        let folder = CachePlace::Directory("/srv/p/cache".into());
        assert_eq!(places, [(&folder, true), (&CachePlace::Inline, false)]);
        assert_eq!(found.platforms, ["linux/amd64", "linux/arm64"]);
        assert!(found.options.provenance.is_some());
        assert_eq!(found.options.no_cache_stages, ["tools"]);
        assert_eq!(found.options.ulimits, [Ulimit { name: "nofile".into(), soft: 5, hard: 6 }]);
        let remote = asked(|build| build.context = "https://h/r.git#v1:sub".into()).await.unwrap();
        assert!(matches!(remote.context, BuildContext::Remote(url) if url == "https://h/r.git#v1:sub"));
    }

    #[tokio::test]
    async fn what_cannot_be_done_is_refused_by_its_key() {
        type Change = Box<dyn FnOnce(&mut Build)>;
        let cases: [(&str, Change); 7] = [
            ("build.privileged", Box::new(|build| build.privileged = true)),
            ("build.entitlements", Box::new(|build| build.entitlements = vec!["security.insecure".into()])),
            ("build.ssh: default", Box::new(|build| build.ssh = vec!["default".into()])),
            ("build.cache_to: type=gha", Box::new(|build| build.cache_to = vec!["type=gha".into()])),
            ("build.context", Box::new(|build| build.context = "docker-image://x".into())),
            (
                "build.additional_contexts: b: there is no service nobody",
                Box::new(|build| drop(build.additional_contexts.insert("b".into(), "service:nobody".into()))),
            ),
            (
                "far is external",
                Box::new(|build| build.secrets.push(BuildSecret { source: "far".into(), ..BuildSecret::default() })),
            ),
        ];
        for (part, change) in cases {
            let error = asked(change).await.unwrap_err().message;
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
