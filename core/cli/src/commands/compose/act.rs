//! Commands that do one thing to the services of a stack: `start stop restart kill pause unpause rm scale`.

use std::io::{BufRead, Write};

use http::Method;
use serde_json::{Value, json};

use super::display;
use super::project::Chosen;
use super::providers::{self, Stop};
use super::{ProjectArgs, project};
use crate::client::escape;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::{say, show, tell};

/// Asks the stack that is meant, and shows what happens.
async fn act(context: &Context, verb: &str, title: &'static str, services: &[String], options: Value) -> Outcome {
    let chosen = project::of_services(context, services).await?;
    // What a program provides has no container that something could be done to.
    let mut contained = services.to_vec();
    match providers::keep_contained(chosen.project.as_ref(), &mut contained) {
        true => ask(context, &chosen, verb, title, &contained, options).await,
        false => Ok(()),
    }
}

/// Sends the request and shows what happens.
async fn ask(
    context: &Context,
    chosen: &Chosen,
    verb: &str,
    title: &'static str,
    services: &[String],
    mut options: Value,
) -> Outcome {
    let style = context.project.style()?;
    options["dry_run"] = json!(context.project.dry_run);
    options["parallel"] = json!(context.project.parallel()?);
    let body = json!({ "request": chosen.request, "services": services, "options": options });
    let path = format!("/sampan/v1/stacks/{}/{verb}", escape(&chosen.name));
    let response = context.client.call(Method::POST, &path, Some(&body)).await?;
    display::show(response, style, title).await?.outcome()
}

/// Services and nothing else.
#[derive(Debug, clap::Args)]
pub struct ServicesArgs {
    /// Services
    pub services: Vec<String>,
}

/// Options of `compose start`.
#[derive(Debug, Default, clap::Args)]
pub struct StartArgs {
    /// Wait for services to be running|healthy
    #[arg(long)]
    pub wait: bool,
    /// Maximum duration in seconds to wait for the project to be running|healthy
    #[arg(long, value_name = "int")]
    pub wait_timeout: Option<u32>,
    /// Services
    pub services: Vec<String>,
}

/// `compose start`
pub async fn start(context: Context, args: StartArgs) -> Outcome {
    let options = json!({ "wait": args.wait, "wait_timeout_s": args.wait_timeout });
    act(&context, "start", "start", &args.services, options).await
}

/// `compose pause`
pub async fn pause(context: Context, args: ServicesArgs) -> Outcome {
    act(&context, "pause", "pause", &args.services, json!({})).await
}

/// `compose unpause`
pub async fn unpause(context: Context, args: ServicesArgs) -> Outcome {
    act(&context, "unpause", "unpause", &args.services, json!({})).await
}

/// Options of `compose stop`.
#[derive(Debug, clap::Args)]
pub struct StopArgs {
    /// Specify a shutdown timeout in seconds
    #[arg(short, long, value_name = "int")]
    pub timeout: Option<u32>,
    /// Services
    pub services: Vec<String>,
}

/// `compose stop`
pub async fn stop(context: Context, args: StopArgs) -> Outcome {
    let options = json!({ "timeout_s": args.timeout });
    let chosen = project::of_services(&context, &args.services).await?;
    let steps = chosen.project.as_ref().and_then(|model| providers::stops(model, &args.services));
    let (Some(model), Some(steps)) = (&chosen.project, steps) else {
        return ask(&context, &chosen, "stop", "stop", &args.services, options).await;
    };
    let env = project::variables(&context.project)?;
    for step in steps {
        match step {
            Stop::Containers(services) => ask(&context, &chosen, "stop", "stop", &services, options.clone()).await?,
            Stop::Program(name) => providers::stop_one(model, &context.project, &env, &name).await?,
        }
    }
    Ok(())
}

/// Options of `compose restart`.
#[derive(Debug, clap::Args)]
pub struct RestartArgs {
    /// Don't restart dependent services
    #[arg(long)]
    pub no_deps: bool,
    /// Specify a shutdown timeout in seconds
    #[arg(short, long, value_name = "int")]
    pub timeout: Option<u32>,
    /// Services
    pub services: Vec<String>,
}

/// `compose restart`
pub async fn restart(context: Context, args: RestartArgs) -> Outcome {
    let options = json!({ "timeout_s": args.timeout, "no_deps": args.no_deps });
    act(&context, "restart", "restart", &args.services, options).await
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
    let chosen = project::of_services(&context, &args.services).await?;
    // What was `run` is killed, too.
    if project::containers(&context.client, &chosen.name, &args.services, false, true).await?.is_empty() {
        tell!("no container to kill");
    } else {
        act(&context, "kill", "kill", &args.services, json!({ "signal": args.signal })).await?;
    }
    if args.remove_orphans {
        remove_orphans(&context).await?;
    }
    Ok(())
}

/// Removes containers of services that the project here does not have.
pub async fn remove_orphans(context: &Context) -> Outcome {
    let chosen = project::from_files(&context.project)?;
    let Some(model) = &chosen.project else { return Ok(()) };
    for found in project::containers(&context.client, &chosen.name, &[], true, false).await? {
        let service = found["Labels"][project::SERVICE].as_str().unwrap_or_default();
        if model.service(service).is_some() {
            continue;
        }
        let name = project::name(&found);
        if context.project.dry_run {
            say!("remove container {name}")?;
            continue;
        }
        context.client.delete(&format!("/containers/{}?force=1", escape(name))).await?;
        tell!(" Container {name}  Removed");
    }
    Ok(())
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
    if args.stop && context.project.dry_run {
        // What runs would be stopped before: all of it goes.
        let chosen = project::of_services(&context, &args.services).await?;
        let own = chosen.project.as_ref().filter(|_| args.services.is_empty());
        let all = own.map(|model| model.services.keys().cloned().collect());
        return ask(&context, &chosen, "down", "rm", &all.unwrap_or(args.services), json!({})).await;
    }
    if args.stop {
        act(&context, "stop", "stop", &args.services, json!({})).await?;
    }
    let chosen = project::of_services(&context, &args.services).await?;
    let mut found = project::containers(&context.client, &chosen.name, &args.services, true, false).await?;
    let own = |container: &Value| {
        let service = container["Labels"][project::SERVICE].as_str().unwrap_or_default();
        chosen.project.as_ref().is_none_or(|model| model.service(service).is_some())
    };
    found.retain(|container| {
        own(container) && !matches!(container["State"].as_str(), Some("running" | "paused" | "restarting"))
    });
    if found.is_empty() {
        tell!("No stopped containers");
        return Ok(());
    }
    let names: Vec<&str> = found.iter().map(project::name).collect();
    if !context.project.dry_run && !agreed(args.force, &format!("Going to remove {}", names.join(", ")))? {
        return Ok(());
    }
    act(&context, "rm", "rm", &args.services, json!({ "volumes": args.volumes })).await
}

/// Says what is to be done, and asks whether it is meant; that it is not is no failure.
fn agreed(force: bool, what: &str) -> Outcome<bool> {
    if force {
        say!("{what}")?;
        return Ok(true);
    }
    show!("? {what} (y/N) ")?;
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// Options of `scale`.
#[derive(Debug, clap::Args)]
pub struct ScaleArgs {
    /// Which project.
    #[command(flatten)]
    pub project: ProjectArgs,
    /// Don't start linked services
    #[arg(long)]
    pub no_deps: bool,
    /// SERVICE=REPLICAS
    #[arg(required = true)]
    pub counts: Vec<String>,
}

/// `scale`
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
        project: args.project,
        detach: true,
        no_recreate: true,
        no_deps: args.no_deps,
        quiet_end: true,
        scale,
        services,
        ..super::up::UpArgs::default()
    };
    super::up::up(context, up).await
}
