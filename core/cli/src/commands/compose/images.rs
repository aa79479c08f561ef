//! `build` and `pull` of services, whether the stack is up or not.

use sampan_compose::Project;
use sampan_compose::model::Build;
use std::collections::BTreeMap;

use super::project;
use crate::commands::image::build::{self, BuildArgs as ImageArgs};
use crate::commands::image::pull as images;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::tell;

/// Options of `compose build`.
#[derive(Debug, clap::Args)]
pub struct BuildArgs {
    /// Set build-time variables for services
    #[arg(long)]
    pub build_arg: Vec<String>,
    /// Do not use cache when building the image
    #[arg(long)]
    pub no_cache: bool,
    /// Always attempt to pull a newer version of the image
    #[arg(long)]
    pub pull: bool,
    /// Push service images (refused)
    #[arg(long, hide = true)]
    pub push: bool,
    /// Suppress the build output
    #[arg(short, long)]
    pub quiet: bool,
    /// Also build dependencies (transitively)
    #[arg(long)]
    pub with_dependencies: bool,
    /// Services
    pub services: Vec<String>,
}

/// The services that are meant, in the order in which they start.
fn chosen(model: &mut Project, names: &[String], dependencies: bool) -> Outcome<Vec<String>> {
    for name in names {
        if !model.activate(name) {
            return Err(Failure::new(format!("no such service: {name}")));
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
    if args.push {
        return Err(Failure::new("--push is not supported: push the images with `sampan push`"));
    }
    let mut model = project::load_here(&context.project)?.project;
    let mut built = false;
    for name in chosen(&mut model, &args.services, args.with_dependencies)? {
        let Some(service) = model.services.get(&name) else { continue };
        let Some(found) = &service.build else { continue };
        let image = model.image_name(&name);
        let request = image_args(found, &image, &service.platform, &args)
            .map_err(|why| Failure::new(format!("service {name}: {why}")))?;
        if !args.quiet {
            tell!(" Image {image}  Building");
        }
        build::build(&context, &request)
            .await
            .map_err(|failure| Failure::new(format!("service {name}: {}", failure.message)))?;
        if !args.quiet {
            tell!(" Image {image}  Built");
        }
        built = true;
    }
    if !built {
        tell!("No services to build");
    }
    Ok(())
}

/// A service's build as the options of `build`.
fn image_args(found: &Build, image: &str, platform: &str, args: &BuildArgs) -> Result<ImageArgs, String> {
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let pairs = |map: &BTreeMap<String, String>| -> Vec<String> {
        map.iter().map(|(key, value)| format!("{key}={value}")).collect()
    };
    for (given, key) in [
        (!found.ssh.is_empty(), "ssh"),
        (!found.secrets.is_empty(), "secrets"),
        (!found.additional_contexts.is_empty(), "additional_contexts"),
        (found.privileged, "privileged"),
        (!found.entitlements.is_empty(), "entitlements"),
        (!found.ulimits.is_empty(), "ulimits"),
        (found.platforms.len() > 1, "platforms"),
    ] {
        if given {
            return Err(format!("build.{key} is not supported by this command"));
        }
    }
    let dockerfile =
        some(&found.dockerfile).map(|file| std::path::Path::new(&found.context).join(file).display().to_string());
    Ok(ImageArgs {
        add_host: found.extra_hosts.iter().map(|host| host.replacen('=', ":", 1)).collect(),
        build_arg: pairs(&found.args).into_iter().chain(args.build_arg.clone()).collect(),
        context: found.context.clone(),
        dockerfile_text: some(&found.dockerfile_inline),
        file: if found.dockerfile_inline.is_empty() { dockerfile } else { None },
        label: pairs(&found.labels),
        network: some(&found.network),
        no_cache: args.no_cache || found.no_cache,
        platform: found.platforms.first().cloned().or_else(|| some(platform)),
        progress: if args.quiet { "quiet" } else { "auto" }.to_owned(),
        pull: args.pull || found.pull,
        shm_size: found.shm_size.as_ref().map(|size| size.0),
        tag: std::iter::once(image.to_owned()).chain(found.tags.iter().cloned()).collect(),
        target: some(&found.target),
        ..ImageArgs::default()
    })
}

/// Options of `compose pull`.
#[derive(Debug, clap::Args)]
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
    let mut done: Vec<String> = Vec::new();
    for name in chosen(&mut model, &args.services, args.include_deps)? {
        let Some(service) = model.services.get(&name) else { continue };
        let image = service.image.clone();
        if image.is_empty() || done.contains(&image) || (service.build.is_some() && args.ignore_buildable) {
            continue;
        }
        if missing_only || service.pull_policy == "missing" {
            let path = format!("/images/{}/json", crate::client::escape(&image));
            if context.client.get::<serde_json::Value>(&path).await.is_ok() {
                continue;
            }
        }
        if !args.quiet {
            tell!(" {name}  Pulling");
        }
        let platform = Some(service.platform.as_str()).filter(|platform| !platform.is_empty());
        match images::for_run(&context, &image, platform, args.quiet).await {
            Ok(()) if args.quiet => {}
            Ok(()) => tell!(" {name}  Pulled"),
            // What can be built is not lost when no registry has it.
            Err(failure) if args.ignore_pull_failures || service.build.is_some() => {
                tell!(" {name}  Warning  {}", failure.message)
            }
            Err(failure) => return Err(Failure::new(format!("service {name}: {}", failure.message))),
        }
        done.push(image);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::app::parse_for_test;
    use crate::commands::compose::ProjectArgs;

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
        let args: BuildArgs = parse_for_test(&["--build-arg", "B=2", "--no-cache"]).unwrap();
        let found = model.services["web"].build.clone().unwrap();
        let request = image_args(&found, "demo-web", "", &args).unwrap();
        assert_eq!(request.build_arg, ["A=1", "B=2"]);
        assert_eq!(request.tag, ["demo-web", "x:1"]);
        assert_eq!(request.file.unwrap(), dir.path().join("D").display().to_string());
        assert!(request.no_cache);
    }
}
