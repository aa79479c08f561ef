//! Images of a project's services: which to build, which to pull, and doing so.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use sampan_build::backend::Ulimit;
use sampan_compose::Project;
use sampan_compose::model::units::parse_duration;
use sampan_compose::model::{Build, Ulimit as Limit};
use sampan_engine::build::{BuildContext, BuildRequest, NamedContext};
use sampan_engine::{Engine, Error, ErrorKind, Result, timestamp};

use crate::progress::Progress;

/// How images are come by, from the options of `up`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageOptions {
    /// Build what has a build, whether the image is there or not.
    pub build: bool,
    /// Build nothing.
    pub no_build: bool,
    /// `always`, `missing`, `never`, or what the services say.
    pub pull: Option<String>,
}

/// What is done for one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// It is there.
    Present,
    /// Build it.
    Build,
    /// Fetch it.
    Pull,
    /// Fetch it, and build it if that fails.
    PullOrBuild,
}

/// Decides for each service. `present` names the images that the engine has. Pure.
pub fn decide(
    project: &Project,
    services: &[String],
    present: &BTreeSet<String>,
    options: &ImageOptions,
) -> std::result::Result<BTreeMap<String, Source>, String> {
    let mut all = BTreeMap::new();
    for name in services {
        let Some(service) = project.services.get(name) else { continue };
        let image = project.image_name(name);
        let there = present.contains(&image);
        let policy = match options.pull.as_deref().unwrap_or(&service.pull_policy) {
            "refresh" => "always",
            policy => policy,
        };
        let source = match (&service.build, policy) {
            (Some(_), _) if options.build && !options.no_build => Source::Build,
            (Some(_), "build") if !options.no_build => Source::Build,
            (Some(_), "always") if !service.image.is_empty() => Source::PullOrBuild,
            (_, _) if there && policy != "always" => Source::Present,
            (Some(_), _) if options.no_build => {
                return Err(format!(
                    "service {name}: the image {image} is not there, and --no-build forbids to build it"
                ));
            }
            (Some(_), _) => Source::Build,
            (None, "never") if there => Source::Present,
            (None, "never") => {
                return Err(format!("service {name}: the image {image} is not there, and its pull policy is never"));
            }
            (None, _) => Source::Pull,
        };
        all.insert(name.clone(), source);
    }
    Ok(all)
}

/// Provides an image that is only ever fetched.
pub async fn fetch(engine: &Engine, image: &str, policy: &str, service: &str, progress: &Progress) -> Result<()> {
    match engine.inspect_image(image).await {
        Ok(_) if policy != "always" => Ok(()),
        Ok(_) => pull(engine, image, None, service, progress).await,
        Err(error) if error.kind == ErrorKind::NotFound && policy != "never" => {
            pull(engine, image, None, service, progress).await
        }
        Err(error) => Err(error),
    }
}

/// How old an image may become before it is fetched again; none: as old as it likes.
fn period(policy: &str) -> Option<Duration> {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    match policy {
        "daily" => Some(DAY),
        "weekly" => Some(DAY * 7),
        other => parse_duration(other.strip_prefix("every_")?).ok(),
    }
}

/// Of the images that the engine has, those that the services' policies let be as they are.
pub async fn fresh(
    engine: &Engine,
    project: &Project,
    services: &[String],
    mut present: BTreeSet<String>,
) -> BTreeSet<String> {
    for name in services {
        let Some(service) = project.services.get(name) else { continue };
        let Some(period) = period(&service.pull_policy).filter(|_| service.build.is_none()) else { continue };
        let image = project.image_name(name);
        let Ok(found) = engine.inspect_image(&image).await else { continue };
        let fetched =
            found.metadata.and_then(|metadata| metadata.last_tag_time).and_then(|text| timestamp::parse(&text));
        let age = fetched.map(|fetched| timestamp::now().saturating_sub(fetched));
        if age.is_none_or(|age| u128::try_from(age).is_ok_and(|age| age >= period.as_nanos())) {
            present.remove(&image);
        }
    }
    present
}

/// Provides an image for a service.
pub async fn provide(
    engine: &Engine,
    project: &Project,
    service: &str,
    source: Source,
    progress: &Progress,
) -> Result<()> {
    let image = project.image_name(service);
    let platform = project.services.get(service).map(|found| found.platform.as_str()).filter(|text| !text.is_empty());
    match source {
        Source::Present => Ok(()),
        Source::Build => build(engine, project, service, progress).await,
        Source::Pull => pull(engine, &image, platform, service, progress).await,
        Source::PullOrBuild => match pull(engine, &image, platform, service, progress).await {
            Ok(()) => Ok(()),
            Err(error) => {
                progress.log(service, format!("{}; building it", error.message)).await;
                build(engine, project, service, progress).await
            }
        },
    }
}

async fn pull(engine: &Engine, image: &str, platform: Option<&str>, service: &str, progress: &Progress) -> Result<()> {
    progress.action(format!("Image {image}"), Some(service), "Pulling", None).await;
    let mut messages = engine.pull_image(image, platform, None).await?;
    let mut failure = None;
    while let Some(message) = messages.recv().await {
        if let Some(detail) = message.error_detail {
            failure = detail.message;
        } else if let Some(status) = message.status
            && message.progress_detail.is_none()
        {
            progress.log(service, status).await;
        }
    }
    match failure {
        Some(failure) => Err(Error::unavailable(format!("pull {image}: {failure}"))),
        None => {
            progress.action(format!("Image {image}"), Some(service), "Pulled", None).await;
            Ok(())
        }
    }
}

async fn build(engine: &Engine, project: &Project, service: &str, progress: &Progress) -> Result<()> {
    let image = project.image_name(service);
    let Some(build) = project.services.get(service).and_then(|found| found.build.as_ref()) else {
        return Err(Error::invalid(format!("service {service} has nothing to build")));
    };
    progress.action(format!("Image {image}"), Some(service), "Building", None).await;
    let request =
        BuildRequest { secrets: secrets(project, service, build).await?, ..request(project, service, build)? };
    let mut messages = engine.build_image(request).await?;
    let mut failure = None;
    while let Some(message) = messages.recv().await {
        if let Some(detail) = message.error_detail {
            failure = detail.message;
        } else if let Some(text) = message.stream {
            for line in text.lines().filter(|line| !line.trim().is_empty()) {
                progress.log(service, line.to_owned()).await;
            }
        }
    }
    if let Some(failure) = failure {
        return Err(Error::invalid(format!("build {service}: {failure}")));
    }
    // A build that ended without a word about its failure has left an image.
    match engine.inspect_image(&image).await {
        Ok(_) => {
            progress.action(format!("Image {image}"), Some(service), "Built", None).await;
            Ok(())
        }
        Err(error) if error.kind == ErrorKind::NotFound => {
            Err(Error::internal(format!("build {service}: no image came of it")))
        }
        Err(error) => Err(error),
    }
}

/// A service's build as the engine takes it. What it cannot do was refused when the project was loaded; a project that
/// was stored by another version may still name it.
fn request(project: &Project, service: &str, build: &Build) -> Result<BuildRequest> {
    let refuse = |key: &str, why: &str| Err(Error::unsupported(format!("service {service}: build.{key}: {why}")));
    if build.platforms.len() > 1 {
        return refuse("platforms", "one platform is built at a time");
    }
    let mut contexts = Vec::new();
    for (name, context) in &build.additional_contexts {
        let found = match context.strip_prefix("docker-image://") {
            Some(image) => NamedContext::Image(image.to_owned()),
            None if context.starts_with('/') => NamedContext::Directory(PathBuf::from(context)),
            None if context.starts_with("service:") || context.starts_with("oci-layout:") => {
                return refuse("additional_contexts", "a directory, a git repository or docker-image://NAME is taken");
            }
            None => NamedContext::Remote(context.clone()),
        };
        contexts.push((name.clone(), found));
    }
    let mut ssh = HashMap::new();
    for agent in &build.ssh {
        let Some((id, path)) = agent.split_once('=') else {
            return refuse("ssh", "give the path of the agent's socket, as default=/run/agent.sock");
        };
        ssh.insert(id.to_owned(), PathBuf::from(path));
    }
    let mut tags = vec![project.image_name(service)];
    tags.extend(build.tags.iter().filter(|tag| *tag != &tags[0]).cloned().collect::<Vec<_>>());
    let mut labels: HashMap<String, String> = build.labels.clone().into_iter().collect();
    labels.insert(crate::labels::PROJECT.to_owned(), project.name.clone());
    labels.insert(crate::labels::SERVICE.to_owned(), service.to_owned());
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let limit = |(name, limit): (&String, &Limit)| Ulimit { name: name.clone(), soft: limit.soft, hard: limit.hard };
    Ok(BuildRequest {
        context: match build.is_remote() {
            true => BuildContext::Remote(build.context.clone()),
            false => BuildContext::Directory(PathBuf::from(&build.context)),
        },
        dockerfile: text(&build.dockerfile),
        dockerfile_inline: text(&build.dockerfile_inline),
        tags,
        build_args: build.args.iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect(),
        labels,
        target: text(&build.target),
        platform: build.platforms.first().cloned(),
        network: text(&build.network),
        extra_hosts: build.extra_hosts.iter().map(|entry| entry.replacen('=', ":", 1)).collect(),
        shm_size: build.shm_size.map(|size| size.0),
        ulimits: build.ulimits.iter().map(limit).collect(),
        no_cache: build.no_cache,
        no_cache_stages: build.no_cache_filter.clone(),
        pull: build.pull,
        contexts,
        ssh,
        ..BuildRequest::default()
    })
}

/// The secrets of a build by the id under which its steps ask for them.
async fn secrets(project: &Project, service: &str, build: &Build) -> Result<HashMap<String, Vec<u8>>> {
    let mut all = HashMap::new();
    for reference in &build.secrets {
        let id = if reference.target.is_empty() { &reference.source } else { &reference.target };
        let wrong = |why: &dyn std::fmt::Display| {
            Error::invalid(format!("service {service}: the build secret {}: {why}", reference.source))
        };
        let found = project.secrets.get(&reference.source).ok_or_else(|| wrong(&"it is not defined"))?;
        let content = match (&found.file, &found.value) {
            (Some(file), _) => crate::material::content(file.clone()).await.map_err(|error| wrong(&error))?,
            (None, Some(value)) => value.0.clone().into_bytes(),
            (None, None) => return Err(wrong(&"it has no content")),
        };
        all.insert(id.clone(), content);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sampan_compose::Service;

    fn project(service: Service) -> Project {
        Project { name: "p".into(), services: BTreeMap::from([("web".to_owned(), service)]), ..Project::default() }
    }

    fn one(service: Service, present: bool, options: ImageOptions) -> std::result::Result<Source, String> {
        let project = project(service);
        let image = project.image_name("web");
        let present = if present { BTreeSet::from([image]) } else { BTreeSet::new() };
        decide(&project, &["web".to_owned()], &present, &options).map(|all| all["web"])
    }

    #[test]
    fn images_come_from_where_the_policies_say() {
        let pulled = |policy: &str| Service { image: "nginx".into(), pull_policy: policy.into(), ..Service::default() };
        let built =
            || Service { build: Some(Build { context: "/x".into(), ..Build::default() }), ..Service::default() };
        let plain = ImageOptions::default;
        assert_eq!(one(pulled(""), true, plain()), Ok(Source::Present));
        assert_eq!(one(pulled(""), false, plain()), Ok(Source::Pull));
        assert_eq!(one(pulled("always"), true, plain()), Ok(Source::Pull));
        assert_eq!(one(pulled("refresh"), true, plain()), Ok(Source::Pull));
        assert_eq!(one(pulled("weekly"), true, plain()), Ok(Source::Present));
        assert!(one(pulled("never"), false, plain()).unwrap_err().contains("nginx"));
        assert_eq!(one(built(), false, plain()), Ok(Source::Build));
        assert_eq!(one(built(), true, plain()), Ok(Source::Present));
        assert_eq!(one(built(), true, ImageOptions { build: true, ..plain() }), Ok(Source::Build));
        assert!(one(built(), false, ImageOptions { no_build: true, ..plain() }).unwrap_err().contains("--no-build"));
    }

    #[test]
    fn policies_with_a_period_say_how_old_an_image_may_be() {
        let hours = |count: u64| Some(Duration::from_secs(count * 60 * 60));
        for (policy, wanted) in [
            ("daily", hours(24)),
            ("weekly", hours(24 * 7)),
            ("every_12h", hours(12)),
            ("every_2d", hours(48)),
            ("missing", None),
            ("", None),
        ] {
            assert_eq!(period(policy), wanted, "{policy}");
        }
    }

    #[test]
    fn a_build_is_asked_for_with_all_that_its_service_says() {
        let build = Build {
            context: "https://example.test/a.git".into(),
            ssh: vec!["default=/run/agent".into()],
            additional_contexts: [
                ("base".to_owned(), "docker-image://alpine".to_owned()),
                ("files".to_owned(), "/files".to_owned()),
            ]
            .into(),
            ulimits: [("nofile".to_owned(), Limit { soft: 1, hard: 2, single: false })].into(),
            no_cache_filter: vec!["stage".into()],
            ..Build::default()
        };
        let project = project(Service { build: Some(build.clone()), ..Service::default() });
        let asked = request(&project, "web", &build).unwrap();
        assert!(matches!(asked.context, BuildContext::Remote(_)));
        assert_eq!(asked.ssh["default"], PathBuf::from("/run/agent"));
        assert_eq!(asked.contexts[0], ("base".to_owned(), NamedContext::Image("alpine".into())));
        assert_eq!(asked.contexts[1], ("files".to_owned(), NamedContext::Directory("/files".into())));
        assert_eq!((asked.ulimits[0].soft, asked.ulimits[0].hard), (1, 2));
        assert_eq!(asked.no_cache_stages, ["stage"]);
        let agent = Build { ssh: vec!["default".into()], ..build };
        assert!(request(&project, "web", &agent).unwrap_err().message.contains("socket"));
    }
}
