//! Commands that do one thing to the services of a stack: `start stop restart kill pause unpause rm scale`.

use http::Method;
use serde_json::{Value, json};

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
    /// SIGNAL to send to the container
    #[arg(short, long, default_value = "SIGKILL")]
    pub signal: String,
    /// Services
    pub services: Vec<String>,
}

/// `compose kill`
pub async fn kill(context: Context, args: KillArgs) -> Outcome {
    act(&context, "kill", "Killing", &args.services, json!({ "signal": args.signal})).await
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
    if args.stop {
        act(&context, "stop", "Stopping", &args.services, json!({})).await?;
    }
    act(&context, "rm", "Removing", &args.services, json!({ "volumes": args.volumes })).await
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
