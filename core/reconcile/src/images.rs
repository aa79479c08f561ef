//! Images of a project's services: which to build, which to pull, and doing so.

use std::collections::BTreeSet;
use std::time::Duration;

use sampan_compose::Project;
use sampan_compose::model::units::parse_duration;
use sampan_compose::model::{MountType, Service};
use sampan_engine::{Engine, Error, ErrorKind, Result, timestamp};

use crate::build;
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

/// An image that a service needs: its own, or one that it mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Who needs it.
    pub service: String,
    /// Its name.
    pub image: String,
    /// The service whose build makes it.
    pub builder: String,
    /// How it is come by.
    pub source: Source,
}

impl Need {
    /// Of the image that a service's containers are made of.
    #[must_use]
    pub fn own(project: &Project, service: &str, source: Source) -> Self {
        Self { service: service.to_owned(), image: project.image_name(service), builder: service.to_owned(), source }
    }
}

/// Decides for the images of each service. `present` names the images that the engine has. Pure.
pub fn decide(
    project: &Project,
    services: &[String],
    present: &BTreeSet<String>,
    options: &ImageOptions,
) -> std::result::Result<Vec<Need>, String> {
    let mut all = Vec::new();
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
        all.push(Need::own(project, name, source));
        for builder in mounted(service) {
            let image = project.mounted_image(builder);
            let is_built = project.service(builder).is_some_and(|found| found.build.is_some());
            if present.contains(&image) || is_built && services.contains(builder) {
                continue;
            }
            let source = match (is_built, policy) {
                (true, _) if options.no_build => {
                    return Err(format!(
                        "service {name}: the image {image} that it mounts is not there, and --no-build forbids to build it"
                    ));
                }
                (true, _) => Source::Build,
                (false, "never") => {
                    return Err(format!(
                        "service {name}: the image {image} that it mounts is not there, and its pull policy is never"
                    ));
                }
                (false, _) => Source::Pull,
            };
            all.push(Need { service: name.clone(), image, builder: builder.clone(), source });
        }
    }
    Ok(all)
}

/// What the mounts of images name.
fn mounted(service: &Service) -> impl Iterator<Item = &String> {
    service.volumes.iter().filter(|mount| mount.kind == MountType::Image).map(|mount| &mount.source)
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
pub async fn provide(engine: &Engine, project: &Project, need: &Need, progress: &Progress) -> Result<()> {
    let Need { service, image, builder, source } = need;
    let platform = project.services.get(service).map(|found| found.platform.as_str()).filter(|text| !text.is_empty());
    match source {
        Source::Present => Ok(()),
        Source::Build => make(engine, project, builder, progress).await,
        Source::Pull => pull(engine, image, platform, service, progress).await,
        Source::PullOrBuild => match pull(engine, image, platform, service, progress).await {
            Ok(()) => Ok(()),
            Err(error) => {
                progress.log(service, format!("{}; building it", error.message)).await;
                make(engine, project, builder, progress).await
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

/// Builds an image, and those of other services before it on which it stands. Who is asked for twice is built twice, the
/// second time from the cache.
async fn make(engine: &Engine, project: &Project, service: &str, progress: &Progress) -> Result<()> {
    for name in standing_on(project, service)? {
        build(engine, project, &name, progress).await?;
    }
    build(engine, project, service, progress).await
}

/// The services whose images a build needs as contexts, each after those that it needs itself.
fn standing_on(project: &Project, service: &str) -> Result<Vec<String>> {
    fn visit(project: &Project, service: &str, path: &mut Vec<String>, order: &mut Vec<String>) -> Result<()> {
        if path.iter().any(|each| each == service) {
            return Err(Error::invalid(format!(
                "service {service}: build.additional_contexts: the images need each other: {} -> {service}",
                path.join(" -> ")
            )));
        }
        if order.iter().any(|each| each == service) {
            return Ok(());
        }
        path.push(service.to_owned());
        if let Some(found) = project.service(service).and_then(|found| found.build.as_ref()) {
            for name in build::needs(found) {
                visit(project, name, path, order)?;
            }
            order.push(service.to_owned());
        }
        path.pop();
        Ok(())
    }
    let mut order = Vec::new();
    visit(project, service, &mut Vec::new(), &mut order)?;
    order.retain(|each| each != service);
    Ok(order)
}

async fn build(engine: &Engine, project: &Project, service: &str, progress: &Progress) -> Result<()> {
    let image = project.image_name(service);
    let Some(found) = project.service(service).and_then(|found| found.build.as_ref()) else {
        return Err(Error::invalid(format!("service {service} has nothing to build")));
    };
    progress.action(format!("Image {image}"), Some(service), "Building", None).await;
    let request = build::request(project, service, found).await?;
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::BTreeMap;

    use sampan_compose::model::{Build, VolumeMount};

    fn project(service: Service) -> Project {
        Project { name: "p".into(), services: BTreeMap::from([("web".to_owned(), service)]), ..Project::default() }
    }

    fn one(service: Service, present: bool, options: ImageOptions) -> std::result::Result<Source, String> {
        let project = project(service);
        let image = project.image_name("web");
        let present = if present { BTreeSet::from([image]) } else { BTreeSet::new() };
        decide(&project, &["web".to_owned()], &present, &options).map(|all| all[0].source)
    }

    #[test]
    fn images_that_are_mounted_are_brought_too() {
        let mount = |source: &str| VolumeMount {
            kind: MountType::Image,
            source: source.into(),
            target: format!("/{source}"),
            ..VolumeMount::default()
        };
        let web = Service {
            image: "nginx".into(),
            volumes: vec![mount("tools"), mount("made"), mount("there")],
            ..Service::default()
        };
        let made = Service { build: Some(Build { context: "/x".into(), ..Build::default() }), ..Service::default() };
        let mut project = project(web);
        project.services.insert("made".to_owned(), made);
        let present: BTreeSet<String> = ["nginx", "there"].map(str::to_owned).into();
        let decided = |services: &[&str], options: &ImageOptions| {
            let services: Vec<String> = services.iter().map(|name| (*name).to_owned()).collect();
            let all = decide(&project, &services, &present, options)?;
            let missing = all.into_iter().filter(|need| need.source != Source::Present);
            Ok::<_, String>(missing.map(|need| (need.service, need.image, need.source)).collect::<Vec<_>>())
        };
        let need = |service: &str, image: &str, source| (service.to_owned(), image.to_owned(), source);
        let plain = ImageOptions::default();
        let (pulled, built) = (need("web", "tools", Source::Pull), need("web", "p-made", Source::Build));
        assert_eq!(decided(&["web"], &plain), Ok(vec![pulled.clone(), built]));
        let once = need("made", "p-made", Source::Build);
        assert_eq!(decided(&["made", "web"], &plain), Ok(vec![once, pulled]));
        let never = ImageOptions { pull: Some("never".into()), ..plain.clone() };
        assert!(decided(&["web"], &never).unwrap_err().contains("tools that it mounts"));
        let no_build = ImageOptions { no_build: true, ..plain };
        assert!(decided(&["web"], &no_build).unwrap_err().contains("p-made that it mounts"));
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
    fn images_that_others_stand_on_come_first() {
        let built = |needs: &[&str]| Service {
            build: Some(Build {
                context: "/x".into(),
                additional_contexts: needs.iter().map(|name| ((*name).to_owned(), format!("service:{name}"))).collect(),
                ..Build::default()
            }),
            ..Service::default()
        };
        let services = [
            ("a", built(&["b", "c"])),
            ("b", built(&["c"])),
            ("c", built(&[])),
            ("x", built(&["y"])),
            ("y", built(&["x"])),
        ];
        let project = Project {
            services: services.map(|(name, service)| (name.to_owned(), service)).into(),
            ..Project::default()
        };
        assert_eq!(standing_on(&project, "a").unwrap(), ["c", "b"]);
        assert!(standing_on(&project, "c").unwrap().is_empty());
        assert!(standing_on(&project, "x").unwrap_err().message.contains("x -> y -> x"));
    }
}
