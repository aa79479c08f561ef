//! Commands that do one thing to the services of a stack: `start stop restart kill pause unpause rm build pull scale`.

use http::Method;
use serde_json::{Map, Value, json};

use super::display::{self, Mode};
use super::{ProjectArgs, project};
use crate::client::escape;
use crate::commands::container::prune::confirm;
use crate::context::Context;
use crate::failure::{Failure, Outcome};

/// Sends the request and shows what happens.
async fn act(context: &Context, verb: &str, title: &'static str, services: &[String], options: Value) -> Outcome {
    let ProjectArgs { progress, ansi, .. } = &context.project;
    let mode = Mode::chosen(progress.as_deref(), ansi.as_deref())?;
    let chosen = project::find(&context.client, &context.project).await?;
    if let Some(model) = &chosen.project {
        for service in services {
            if model.service(service).is_none() {
                return Err(Failure::new(format!("no such service: {service}")));
            }
        }
    }
    let body = json!({ "request": chosen.request, "services": services, "options": options });
    let path = format!("/sampan/v1/stacks/{}/{verb}", escape(&chosen.name));
    let response = context.client.call(Method::POST, &path, Some(&body)).await?;
    display::show(response, mode, title).await?.outcome()
}

/// Services and nothing else.
#[derive(Debug, clap::Args)]
pub struct ServicesArgs {
    /// Services
    pub services: Vec<String>,
}

/// `compose start`
pub async fn start(context: Context, args: ServicesArgs) -> Outcome {
    act(&context, "start", "Running", &args.services, json!({})).await
}

/// `compose pause`
pub async fn pause(context: Context, args: ServicesArgs) -> Outcome {
    act(&context, "pause", "Running", &args.services, json!({})).await
}

/// `compose unpause`
pub async fn unpause(context: Context, args: ServicesArgs) -> Outcome {
    act(&context, "unpause", "Running", &args.services, json!({})).await
}

/// Options of `compose stop` and `compose restart`.
#[derive(Debug, clap::Args)]
pub struct StopArgs {
    /// Don't restart dependent services
    #[arg(long)]
    pub no_deps: bool,
    /// Specify a shutdown timeout in seconds
    #[arg(short, long, value_name = "int")]
    pub timeout: Option<u32>,
    /// Services
    pub services: Vec<String>,
}

/// `compose stop`
pub async fn stop(context: Context, args: StopArgs) -> Outcome {
    act(&context, "stop", "Stopping", &args.services, json!({ "timeout_s": args.timeout })).await
}

/// `compose restart`
pub async fn restart(context: Context, args: StopArgs) -> Outcome {
    act(
        &context,
        "restart",
        "Restarting",
        &args.services,
        json!({ "timeout_s": args.timeout, "no_deps": args.no_deps }),
    )
    .await
}

/// Options of `compose kill`.
#[derive(Debug, clap::Args)]
pub struct KillArgs {
    /// Remove containers for services not defined in the Compose file
    #[arg(long)]
    pub remove_orphans: bool,
    /// SIGNAL to send to the container
    #[arg(short, long, default_value = "SIGKILL")]
    pub signal: String,
    /// Services
    pub services: Vec<String>,
}

/// `compose kill`
pub async fn kill(context: Context, args: KillArgs) -> Outcome {
    act(
        &context,
        "kill",
        "Killing",
        &args.services,
        json!({ "signal": args.signal, "remove_orphans": args.remove_orphans }),
    )
    .await
}

/// Options of `compose rm`.
#[derive(Debug, clap::Args)]
pub struct RemoveArgs {
    /// Don't ask to confirm removal
    #[arg(short, long)]
    pub force: bool,
    /// Stop the containers, if required, before removing
    #[arg(short, long)]
    pub stop: bool,
    /// Remove any anonymous volumes attached to containers
    #[arg(short, long)]
    pub volumes: bool,
    /// Services
    pub services: Vec<String>,
}

/// `compose rm`
pub async fn remove(context: Context, args: RemoveArgs) -> Outcome {
    confirm(args.force, "This will remove the stopped containers of the services.")?;
    act(&context, "rm", "Removing", &args.services, json!({ "stop": args.stop, "volumes": args.volumes })).await
}

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

/// `compose build`
pub async fn build(mut context: Context, args: BuildArgs) -> Outcome {
    if args.push {
        return Err(Failure::new("--push is not supported: push the images with `sampan push`"));
    }
    if args.quiet {
        context.project.progress = Some("quiet".to_owned());
    }
    let build_args: Map<String, Value> = args
        .build_arg
        .iter()
        .map(|text| match text.split_once('=') {
            Some((name, value)) => (name.to_owned(), json!(value)),
            None => (text.clone(), json!(std::env::var(text).ok())),
        })
        .collect();
    let options = json!({ "no_cache": args.no_cache, "pull": args.pull, "build_args": build_args, "with_dependencies": args.with_dependencies });
    act(&context, "build", "Building", &args.services, options).await
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
pub async fn pull(mut context: Context, args: PullArgs) -> Outcome {
    if args.quiet {
        context.project.progress = Some("quiet".to_owned());
    }
    let options = json!({
        "ignore_buildable": args.ignore_buildable, "ignore_pull_failures": args.ignore_pull_failures,
        "include_deps": args.include_deps, "policy": args.policy,
    });
    act(&context, "pull", "Pulling", &args.services, options).await
}

/// Options of `compose scale`.
#[derive(Debug, clap::Args)]
pub struct ScaleArgs {
    /// Don't start linked services
    #[arg(long)]
    pub no_deps: bool,
    /// SERVICE=REPLICAS
    #[arg(required = true)]
    pub counts: Vec<String>,
}

/// `compose scale`
pub async fn scale(context: Context, args: ScaleArgs) -> Outcome {
    let mut services = Vec::new();
    let mut scale = Vec::new();
    for text in &args.counts {
        let (service, count) = text
            .split_once('=')
            .and_then(|(service, count)| Some((service.to_owned(), count.parse::<u32>().ok()?)))
            .ok_or_else(|| Failure::usage(format!("invalid scale specifier {text:?}: use SERVICE=REPLICAS")))?;
        services.push(service.clone());
        scale.push((service, count));
    }
    let up = super::up::UpArgs {
        detach: true,
        no_recreate: true,
        no_deps: args.no_deps,
        scale,
        services,
        ..super::up::UpArgs::default()
    };
    super::up::up(context, up).await
}
