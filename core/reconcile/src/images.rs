//! Images of a project's services: which to build, which to pull, and doing so.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

use sampan_compose::Project;
use sampan_compose::model::Build;
use sampan_engine::build::{BuildContext, BuildRequest};
use sampan_engine::{Engine, Error, ErrorKind, Result};

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
        let policy = options.pull.as_deref().unwrap_or(&service.pull_policy);
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
        Ok(_) => pull(engine, image, service, progress).await,
        Err(error) if error.kind == ErrorKind::NotFound && policy != "never" => {
            pull(engine, image, service, progress).await
        }
        Err(error) => Err(error),
    }
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
    match source {
        Source::Present => Ok(()),
        Source::Build => build(engine, project, service, progress).await,
        Source::Pull => pull(engine, &image, service, progress).await,
        Source::PullOrBuild => match pull(engine, &image, service, progress).await {
            Ok(()) => Ok(()),
            Err(error) => {
                progress.log(service, format!("{}; building it", error.message)).await;
                build(engine, project, service, progress).await
            }
        },
    }
}

async fn pull(engine: &Engine, image: &str, service: &str, progress: &Progress) -> Result<()> {
    progress.action(format!("Image {image}"), Some(service), "Pulling", None).await;
    let mut messages = engine.pull_image(image, None, None).await?;
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
    let request = request(project, service, build)?;
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

/// A service's build as the engine takes it; what it cannot do is refused by name.
fn request(project: &Project, service: &str, build: &Build) -> Result<BuildRequest> {
    let refuse = |key: &str, why: &str| Err(Error::unsupported(format!("service {service}: build.{key}: {why}")));
    if build.is_remote() {
        return refuse("context", "remote contexts are not supported yet; clone it and name the directory");
    }
    if !build.secrets.is_empty() {
        return refuse("secrets", "secrets in builds are not supported yet");
    }
    if !build.ssh.is_empty() {
        return refuse("ssh", "ssh in builds is not supported yet");
    }
    if !build.additional_contexts.is_empty() {
        return refuse("additional_contexts", "further contexts are not supported yet");
    }
    if build.platforms.len() > 1 {
        return refuse("platforms", "one platform is built at a time");
    }
    let mut tags = vec![project.image_name(service)];
    tags.extend(build.tags.iter().filter(|tag| *tag != &tags[0]).cloned().collect::<Vec<_>>());
    let mut labels: HashMap<String, String> = build.labels.clone().into_iter().collect();
    labels.insert(crate::labels::PROJECT.to_owned(), project.name.clone());
    labels.insert(crate::labels::SERVICE.to_owned(), service.to_owned());
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Ok(BuildRequest {
        context: BuildContext::Directory(PathBuf::from(&build.context)),
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
        no_cache: build.no_cache,
        pull: build.pull,
        ..BuildRequest::default()
    })
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
        assert!(one(pulled("never"), false, plain()).unwrap_err().contains("nginx"));
        assert_eq!(one(built(), false, plain()), Ok(Source::Build));
        assert_eq!(one(built(), true, plain()), Ok(Source::Present));
        assert_eq!(one(built(), true, ImageOptions { build: true, ..plain() }), Ok(Source::Build));
        assert!(one(built(), false, ImageOptions { no_build: true, ..plain() }).unwrap_err().contains("--no-build"));
    }
}
