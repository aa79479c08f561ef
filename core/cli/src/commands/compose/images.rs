//! `build`, `pull` and `push` of services, whether the stack is up or not.

use bollard_stubs::models::ResourcesUlimits;
use sampan_compose::Project;
use sampan_compose::build_options::ContextKind;
use sampan_compose::model::{Build, BuildSecret};
use std::collections::BTreeMap;

use super::project;
use crate::commands::image::build::{self, BuildArgs as ImageArgs};
use crate::commands::image::pull as images;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::{say, tell};

/// Options of `compose build`.
#[derive(Debug, Default, clap::Args)]
pub struct BuildArgs {
    /// Set build-time variables for services
    #[arg(long)]
    pub build_arg: Vec<String>,
    /// Set builder to use (refused: the engine builds)
    #[arg(long, hide = true)]
    pub builder: Option<String>,
    /// Check build configuration
    #[arg(long)]
    pub check: bool,
    /// Set memory limit for the build container (taken and not used)
    #[arg(short, long, hide = true)]
    pub memory: Option<String>,
    /// Do not use cache when building the image
    #[arg(long)]
    pub no_cache: bool,
    /// Print equivalent bake file (refused)
    #[arg(long, hide = true)]
    pub print: bool,
    /// Add a provenance attestation
    #[arg(long)]
    pub provenance: Option<String>,
    /// Always attempt to pull a newer version of the image
    #[arg(long)]
    pub pull: bool,
    /// Push service images
    #[arg(long)]
    pub push: bool,
    /// Suppress the build output
    #[arg(short, long)]
    pub quiet: bool,
    /// Add a SBOM attestation (refused unless false)
    #[arg(long, hide = true)]
    pub sbom: Option<String>,
    /// Set SSH authentications used when building service images. (use 'default' for using your default SSH Agent)
    #[arg(long)]
    pub ssh: Vec<String>,
    /// Also build dependencies (transitively)
    #[arg(long)]
    pub with_dependencies: bool,
    /// Services
    pub services: Vec<String>,
}

impl BuildArgs {
    /// Refuses what this builder has not, with the reason.
    fn check_known(&self) -> Outcome {
        let said =
            |value: &Option<String>| value.as_deref().is_some_and(|value| !matches!(value, "" | "false" | "default"));
        let refused = |flag: &str, why: &str| Err(Failure::new(format!("{flag} is not supported: {why}")));
        match self {
            _ if said(&self.builder) => refused("--builder", "the engine builds by itself"),
            _ if self.print => refused("--print", "this builder has no bake files"),
            _ if said(&self.sbom) => refused("--sbom", "no scanner is run that would make a list of software"),
            _ => Ok(()),
        }
    }
}

/// The services that are meant, in the order in which they start.
fn chosen(model: &mut Project, names: &[String], dependencies: bool) -> Outcome<Vec<String>> {
    for name in names {
        if !model.activate(name) {
            return Err(project::no_service(model, name));
        }
    }
    let mut wanted: Vec<String> = names.to_vec();
    let mut at = 0;
    while dependencies && at < wanted.len() {
        let needed: Vec<String> = model
            .services
            .get(&wanted[at])
            .into_iter()
            .flat_map(|service| service.depends_on.keys().cloned())
            .collect();
        for name in needed {
            if !wanted.contains(&name) {
                wanted.push(name);
            }
        }
        at += 1;
    }
    let order = model.start_order().into_iter().map(str::to_owned);
    Ok(order.filter(|name| wanted.is_empty() || wanted.contains(name)).collect())
}

/// `compose build`
pub async fn build(context: Context, args: BuildArgs) -> Outcome {
    args.check_known()?;
    if args.memory.is_some() {
        tell!("WARN: --memory: builds have no limit of their own");
    }
    let mut model = project::load_here(&context.project)?.project;
    let mut built = false;
    let names = chosen(&mut model, &args.services, args.with_dependencies)?;
    for name in standing_on(&model, names) {
        let Some(service) = model.services.get(&name) else { continue };
        let Some(found) = &service.build else { continue };
        let image = model.image_name(&name);
        let request = image_args(&model, found, &image, &service.platform, &args)
            .map_err(|why| Failure::new(format!("service {name}: {why}")))?;
        built = true;
        if context.project.dry_run {
            say!("build image {image}")?;
            continue;
        }
        if !args.quiet {
            tell!(" Image {image}  Building");
        }
        build::build(&context, &request)
            .await
            .map_err(|failure| Failure::new(format!("service {name}: {}", failure.message)))?;
        if args.check {
            continue;
        }
        if !args.quiet {
            tell!(" Image {image}  Built");
        }
        if args.push {
            push_image(&context, &name, &image, args.quiet).await?;
        }
    }
    if !built {
        tell!("No services to build");
    }
    Ok(())
}

/// The same services, each after those whose images it has as contexts. Of a ring of them the daemon tells.
fn standing_on(model: &Project, names: Vec<String>) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    let mut waiting: Vec<(String, bool)> = names.into_iter().rev().map(|name| (name, false)).collect();
    let mut begun = std::collections::BTreeSet::new();
    while let Some((name, needs_are_there)) = waiting.pop() {
        if needs_are_there {
            order.push(name);
        } else if begun.insert(name.clone()) {
            let found = model.services.get(&name).and_then(|service| service.build.as_ref());
            let contexts = found.into_iter().flat_map(|found| found.additional_contexts.values());
            let needs = contexts.filter_map(|text| match ContextKind::of(text) {
                ContextKind::Service(service) => Some((service.to_owned(), false)),
                _ => None,
            });
            let needs: Vec<_> = needs.collect();
            waiting.push((name, true));
            waiting.extend(needs);
        }
    }
    order
}

/// A service's build as the options of `build`.
fn image_args(
    model: &Project,
    found: &Build,
    image: &str,
    platform: &str,
    args: &BuildArgs,
) -> Result<ImageArgs, String> {
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let pairs = |map: &BTreeMap<String, String>| -> Vec<String> {
        map.iter().map(|(key, value)| format!("{key}={value}")).collect()
    };
    for (given, key) in
        [(found.privileged, "privileged"), (!matches!(found.isolation.as_str(), "" | "default"), "isolation")]
    {
        if given {
            return Err(format!("build.{key} is not supported by this command"));
        }
    }
    let remote = ContextKind::of(&found.context) == ContextKind::Remote;
    let beside = |file: String| std::path::Path::new(&found.context).join(file).display().to_string();
    let dockerfile = some(&found.dockerfile).map(|file| if remote { file } else { beside(file) });
    let contexts = found.additional_contexts.iter().map(|(name, text)| match ContextKind::of(text) {
        ContextKind::Service(service) => format!("{name}=docker-image://{}", model.image_name(service)),
        _ => format!("{name}={text}"),
    });
    let ulimits = found.ulimits.iter().map(|(name, limit)| ResourcesUlimits {
        name: Some(name.clone()),
        soft: Some(limit.soft),
        hard: Some(limit.hard),
    });
    Ok(ImageArgs {
        allow: found.entitlements.clone(),
        add_host: found.extra_hosts.iter().map(|host| host.replacen('=', ":", 1)).collect(),
        build_context: contexts.collect(),
        cache_from: found.cache_from.clone(),
        cache_to: found.cache_to.clone(),
        check: args.check,
        no_cache_filter: found.no_cache_filter.clone(),
        provenance: args.provenance.clone().or_else(|| some(&found.provenance)),
        sbom: some(&found.sbom),
        secret_values: secrets(model, found)?,
        ssh: found.ssh.iter().chain(&args.ssh).cloned().collect(),
        ulimit: ulimits.collect(),
        build_arg: pairs(&found.args).into_iter().chain(args.build_arg.clone()).collect(),
        context: found.context.clone(),
        dockerfile_text: some(&found.dockerfile_inline),
        file: if found.dockerfile_inline.is_empty() { dockerfile } else { None },
        label: pairs(&found.labels),
        network: some(&found.network),
        no_cache: args.no_cache || found.no_cache,
        platform: if found.platforms.is_empty() {
            some(platform).into_iter().collect()
        } else {
            found.platforms.clone()
        },
        progress: if args.quiet { "quiet" } else { "auto" }.to_owned(),
        pull: args.pull || found.pull,
        shm_size: found.shm_size.as_ref().map(|size| size.0),
        tag: std::iter::once(image.to_owned()).chain(found.tags.iter().cloned()).collect(),
        target: some(&found.target),
        ..ImageArgs::default()
    })
}

/// The secrets of a build, read.
fn secrets(model: &Project, found: &Build) -> Result<Vec<(String, Vec<u8>)>, String> {
    let read = |reference: &BuildSecret| {
        let source = &reference.source;
        let missing = || format!("build.secrets: {source} is not one of the project's secrets");
        let secret = model.secrets.get(source).ok_or_else(missing)?;
        let content = match (&secret.file, &secret.value) {
            (Some(path), _) => {
                std::fs::read(path).map_err(|error| format!("build.secrets: {source}: {}: {error}", path.display()))?
            }
            (None, Some(value)) => value.0.clone().into_bytes(),
            (None, None) => return Err(format!("build.secrets: {source} has no value here")),
        };
        let id = if reference.target.is_empty() { source } else { &reference.target };
        Ok((id.clone(), content))
    };
    found.secrets.iter().map(read).collect()
}

/// Options of `compose push`.
#[derive(Debug, Default, clap::Args)]
pub struct PushArgs {
    /// Push what it can and ignores images with push failures
    #[arg(long)]
    pub ignore_push_failures: bool,
    /// Also push images of services declared as dependencies
    #[arg(long)]
    pub include_deps: bool,
    /// Push without printing progress information
    #[arg(short, long)]
    pub quiet: bool,
    /// Services
    pub services: Vec<String>,
}

/// `compose push`: the images that services build, and their further names.
pub async fn push(context: Context, args: PushArgs) -> Outcome {
    let mut model = project::load_here(&context.project)?.project;
    let mut pushed = false;
    for name in chosen(&mut model, &args.services, args.include_deps)? {
        let Some(service) = model.services.get(&name) else { continue };
        let Some(build) = service.build.as_ref().filter(|_| !service.image.is_empty()) else { continue };
        pushed = true;
        for image in std::iter::once(&service.image).chain(&build.tags) {
            if context.project.dry_run {
                say!("push image {image}")?;
                continue;
            }
            match push_image(&context, &name, image, args.quiet).await {
                Err(failure) if args.ignore_push_failures => tell!(" {name}  Warning  {}", failure.message),
                other => other?,
            }
        }
    }
    if !pushed {
        tell!("No images to push: those are pushed that a service builds and names by `image`");
    }
    Ok(())
}

async fn push_image(context: &Context, service: &str, image: &str, quiet: bool) -> Outcome {
    if !quiet {
        tell!(" {service}  Pushing");
    }
    let push = images::PushArgs {
        all_tags: false,
        disable_content_trust: true,
        platform: None,
        quiet,
        image: image.to_owned(),
    };
    let pushed = images::push_one(context, push).await;
    pushed.map_err(|failure| Failure::new(format!("service {service}: {}", failure.message)))?;
    if !quiet {
        tell!(" {service}  Pushed");
    }
    Ok(())
}

/// Options of `compose pull`.
#[derive(Debug, Default, clap::Args)]
pub struct PullArgs {
    /// Ignore images that can be built
    #[arg(long)]
    pub ignore_buildable: bool,
    /// Pull what it can and ignores images with pull failures
    #[arg(long)]
    pub ignore_pull_failures: bool,
    /// Also pull services declared as dependencies
    #[arg(long)]
    pub include_deps: bool,
    /// Apply pull policy ("missing"|"always")
    #[arg(long)]
    pub policy: Option<String>,
    /// Pull without printing progress information
    #[arg(short, long)]
    pub quiet: bool,
    /// Services
    pub services: Vec<String>,
}

/// `compose pull`
pub async fn pull(context: Context, args: PullArgs) -> Outcome {
    let missing_only = match args.policy.as_deref() {
        None | Some("always") => false,
        Some("missing") => true,
        Some(other) => return Err(Failure::usage(format!("unexpected pull policy {other:?}: use missing or always"))),
    };
    let mut model = project::load_here(&context.project)?.project;
    let names = chosen(&mut model, &args.services, args.include_deps)?;
    for image in to_pull(&model, &names, args.ignore_buildable) {
        if missing_only || image.if_missing {
            let path = format!("/images/{}/json", crate::client::escape(&image.name));
            if context.client.get::<serde_json::Value>(&path).await.is_ok() {
                continue;
            }
        }
        if context.project.dry_run {
            say!("pull image {}", image.name)?;
            continue;
        }
        let service = image.service;
        if !args.quiet {
            tell!(" {service}  Pulling");
        }
        match images::for_run(&context, &image.name, image.platform, args.quiet).await {
            Ok(()) if args.quiet => {}
            Ok(()) => tell!(" {service}  Pulled"),
            // What can be built is not lost when no registry has it.
            Err(failure) if args.ignore_pull_failures || image.buildable => {
                tell!(" {service}  Warning  {}", failure.message)
            }
            Err(failure) => return Err(Failure::new(format!("service {service}: {}", failure.message))),
        }
    }
    Ok(())
}

/// An image to pull, and the first service that needs it.
#[derive(Debug, PartialEq, Eq)]
struct Pull<'a> {
    service: &'a str,
    name: String,
    platform: Option<&'a str>,
    /// Whether it is pulled only when it is not there.
    if_missing: bool,
    buildable: bool,
}

/// The images that services run and mount, each once.
fn to_pull<'a>(model: &'a Project, services: &'a [String], ignore_buildable: bool) -> Vec<Pull<'a>> {
    let mut all: Vec<Pull<'a>> = Vec::new();
    for service in services {
        let Some(found) = model.services.get(service) else { continue };
        let platform = Some(found.platform.as_str()).filter(|platform| !platform.is_empty());
        let buildable = found.build.is_some();
        let left_out = found.image.is_empty()
            || buildable && ignore_buildable
            || matches!(found.pull_policy.as_str(), "never" | "build");
        let if_missing = matches!(found.pull_policy.as_str(), "missing" | "if_not_present");
        let own = (!left_out).then(|| Pull { service, name: found.image.clone(), platform, if_missing, buildable });
        // An image that a service of the project builds is that service's business.
        let is_elsewhere = |name: &String| !model.services.keys().any(|peer| model.image_name(peer) == *name);
        let mounted = model.mounted_images(service).into_iter().filter(is_elsewhere);
        let mounted = mounted.map(|name| Pull { service, name, platform: None, if_missing: false, buildable: false });
        for image in own.into_iter().chain(mounted) {
            if !all.iter().any(|known| known.name == image.name) {
                all.push(image);
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::app::parse_for_test;
    use crate::commands::compose::ProjectArgs;

    #[test]
    fn what_services_run_and_mount_is_pulled_once() {
        let dir = tempfile::tempdir().unwrap();
        let yaml = "
name: demo
services:
  web:
    image: a
    volumes: [{type: image, source: data:1, target: /d}, {type: image, source: made, target: /m}]
  db: {image: a, volumes: [{type: image, source: 'data:1', target: /d}]}
  made: {build: ., image: mine}
  own: {image: here, pull_policy: never}
  old: {image: old, pull_policy: if_not_present, platform: linux/arm64}
";
        std::fs::write(dir.path().join("compose.yaml"), yaml).unwrap();
        let file = dir.path().join("compose.yaml").display().to_string();
        let model = project::load_here(&ProjectArgs { file: vec![file], ..ProjectArgs::default() }).unwrap().project;
        let services: Vec<String> = ["web", "db", "made", "own", "old"].map(str::to_owned).to_vec();
        let shown = |ignore_buildable| {
            let all = to_pull(&model, &services, ignore_buildable);
            let missing = |image: &Pull<'_>| if image.if_missing { "?" } else { "" };
            all.iter().map(|image| format!("{}:{}{}", image.service, image.name, missing(image))).collect::<Vec<_>>()
        };
        assert_eq!(shown(false), ["web:a", "web:data:1", "made:mine", "old:old?"]);
        assert_eq!(shown(true), ["web:a", "web:data:1", "old:old?"]);
    }

    #[test]
    fn services_build_as_their_files_say() {
        let dir = tempfile::tempdir().unwrap();
        let yaml = "name: demo\nservices:\n  web:\n    build: {context: ., dockerfile: D, args: {A: 1}, target: t, tags: [x:1]}\n    depends_on: [db]\n  db:\n    image: b\n";
        std::fs::write(dir.path().join("compose.yaml"), yaml).unwrap();
        let file = dir.path().join("compose.yaml").display().to_string();
        let mut model =
            project::load_here(&ProjectArgs { file: vec![file], ..ProjectArgs::default() }).unwrap().project;
        assert_eq!(chosen(&mut model, &["web".into()], true).unwrap(), ["db", "web"]);
        assert_eq!(chosen(&mut model, &["web".into()], false).unwrap(), ["web"]);
        let mut other = model.clone();
        let build = other.services.get_mut("web").unwrap().build.as_mut().unwrap();
        build.additional_contexts.insert("base".into(), "service:db".into());
        assert_eq!(standing_on(&other, vec!["web".into(), "db".into()]), ["db", "web"]);
        let args: BuildArgs = parse_for_test(&["--build-arg", "B=2", "--no-cache"]).unwrap();
        let found = model.services["web"].build.clone().unwrap();
        let request = image_args(&model, &found, "demo-web", "", &args).unwrap();
        assert_eq!(request.build_arg, ["A=1", "B=2"]);
        assert_eq!(request.tag, ["demo-web", "x:1"]);
        assert_eq!(request.file.unwrap(), dir.path().join("D").display().to_string());
        assert!(request.no_cache);
    }
}
