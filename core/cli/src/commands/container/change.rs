//! Commands that change the state of containers: `stop restart kill pause unpause rm rename wait`.

use futures_util::{StreamExt, stream};
use serde_json::Value;

use super::run;
use crate::client::{Client, Query, escape};
use crate::commands::compose::{act, names, wait as stack_wait};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::table::write_all;
use crate::output::tell;

/// Requests under way at once.
const AT_ONCE: usize = 50;

/// Does the same to each name, several at once; prints the names in order, then what failed.
pub async fn each(names: &[String], what: &str, act: impl AsyncFn(&str) -> Outcome) -> Outcome {
    let failed = std::cell::RefCell::new(Vec::new());
    let outcome = each_told(names, async |name| match act(name).await {
        Ok(()) => Ok(name.to_owned()),
        Err(failure) => {
            failed.borrow_mut().push(name.to_owned());
            Err(failure)
        }
    })
    .await;
    // Where `docker` does, what was tried is summed up behind the reasons.
    outcome.map_err(|failure| match what {
        "start containers" => {
            Failure::new(format!("{}\nError: failed to {what}: {}", failure.message, failed.borrow().join(", ")))
        }
        _ => failure,
    })
}

/// As [`each`], printing what the action returns.
pub async fn each_told(names: &[String], act: impl AsyncFn(&str) -> Outcome<String>) -> Outcome {
    let act = &act;
    let mut done =
        stream::iter(names.iter().map(|name| async move { act(name.trim_start_matches('/')).await })).buffered(AT_ONCE);
    let mut failed = Vec::new();
    while let Some(outcome) = done.next().await {
        match outcome {
            Ok(text) => write_all(&format!("{text}\n"))?,
            Err(failure) => failed.push(failure.message),
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(Failure::new(failed.join("\n"))) }
}

/// Options of `stop` and `restart`.
#[derive(Debug, clap::Args)]
pub struct StopArgs {
    /// Signal to send to the container
    #[arg(short, long)]
    pub signal: Option<String>,
    /// Seconds to wait before killing the container
    #[arg(short, long, alias = "time", value_name = "int", value_parser = crate::flags::quantity::integer)]
    pub timeout: Option<i64>,
    /// Containers, or services of the project here
    pub containers: Vec<String>,
}

impl StopArgs {
    /// As options for services.
    fn of_services(&self, services: &[String]) -> Outcome<act::StopArgs> {
        if self.signal.is_some() {
            return Err(Failure::new("--signal is of containers; a service has its `stop_signal`"));
        }
        let timeout = self.timeout.map(|seconds| u32::try_from(seconds).unwrap_or(u32::MAX));
        Ok(act::StopArgs { timeout, services: services.to_vec() })
    }

    fn query(&self) -> Query {
        Query::new().maybe("signal", self.signal.as_deref()).maybe("t", self.timeout.map(|seconds| seconds.to_string()))
    }
}

/// `stop`
pub async fn stop(context: Context, args: StopArgs) -> Outcome {
    let query = args.query();
    let client = &context.client;
    let meant = names::meant(&context, &args.containers).await?;
    let done = each(meant.containers(), "stop", async |name| {
        client.act(&format!("/containers/{}/stop{query}", escape(name))).await
    })
    .await;
    if let Some(services) = meant.services() {
        act::stop(context.clone(), args.of_services(services)?).await?;
    }
    done
}

/// `restart`
pub async fn restart(context: Context, args: StopArgs) -> Outcome {
    let query = args.query();
    let client = &context.client;
    let meant = names::meant(&context, &args.containers).await?;
    let done = each(meant.containers(), "restart", async |name| {
        client.act(&format!("/containers/{}/restart{query}", escape(name))).await
    })
    .await;
    if let Some(services) = meant.services() {
        let act::StopArgs { timeout, services } = args.of_services(services)?;
        act::restart(context.clone(), act::RestartArgs { no_deps: false, timeout, services }).await?;
    }
    done
}

/// Options of `kill`.
#[derive(Debug, clap::Args)]
pub struct KillArgs {
    /// Signal to send to the container
    #[arg(short, long)]
    pub signal: Option<String>,
    /// Containers, or services of the project here
    pub containers: Vec<String>,
}

/// `kill`
pub async fn kill(context: Context, args: KillArgs) -> Outcome {
    let query = Query::new().maybe("signal", args.signal.as_deref());
    let client = &context.client;
    let meant = names::meant(&context, &args.containers).await?;
    let done = each(meant.containers(), "kill", async |name| {
        client.act(&format!("/containers/{}/kill{query}", escape(name))).await
    })
    .await;
    if let Some(services) = meant.services() {
        let signal = args.signal.unwrap_or_else(|| "SIGKILL".to_owned());
        act::kill(context.clone(), act::KillArgs { remove_orphans: false, signal, services: services.to_vec() })
            .await?;
    }
    done
}

/// Containers and nothing else.
#[derive(Debug, clap::Args)]
pub struct NamesArgs {
    /// Containers, or services of the project here
    pub containers: Vec<String>,
}

/// `pause`
pub async fn pause(context: Context, args: NamesArgs) -> Outcome {
    let client = &context.client;
    let meant = names::meant(&context, &args.containers).await?;
    let done = each(meant.containers(), "pause", async |name| {
        client.act(&format!("/containers/{}/pause", escape(name))).await
    })
    .await;
    if let Some(services) = meant.services() {
        act::pause(context.clone(), act::ServicesArgs { services: services.to_vec() }).await?;
    }
    done
}

/// `unpause`
pub async fn unpause(context: Context, args: NamesArgs) -> Outcome {
    let client = &context.client;
    let meant = names::meant(&context, &args.containers).await?;
    let done = each(meant.containers(), "unpause", async |name| {
        client.act(&format!("/containers/{}/unpause", escape(name))).await
    })
    .await;
    if let Some(services) = meant.services() {
        act::unpause(context.clone(), act::ServicesArgs { services: services.to_vec() }).await?;
    }
    done
}

/// `wait`
pub async fn wait(context: Context, args: NamesArgs) -> Outcome {
    let client = &context.client;
    let meant = names::meant(&context, &args.containers).await?;
    let done =
        each_told(meant.containers(), async |name| exit_code(client, name).await.map(|code| code.to_string())).await;
    if let Some(services) = meant.services() {
        stack_wait::run(context.clone(), stack_wait::WaitArgs { down_project: false, services: services.to_vec() })
            .await?;
    }
    done
}

/// Waits until a container does not run; its exit status.
pub async fn exit_code(client: &Client, name: &str) -> Outcome<i64> {
    let mut status = run::wait(client, &escape(name), "not-running").await?;
    let ended: Value = status.next().await?.unwrap_or_default();
    match ended["Error"]["Message"].as_str().filter(|message| !message.is_empty()) {
        Some(message) => Err(Failure::new(message)),
        None => Ok(ended["StatusCode"].as_i64().unwrap_or(125)),
    }
}

/// Options of `rm`.
#[derive(Debug, clap::Args)]
pub struct RemoveArgs {
    /// Force the removal of a running container (uses SIGKILL)
    #[arg(short, long)]
    pub force: bool,
    /// Remove the specified link
    #[arg(short, long)]
    pub link: bool,
    /// Remove anonymous volumes associated with the container
    #[arg(short, long)]
    pub volumes: bool,
    /// Containers, or services of the project here
    pub containers: Vec<String>,
}

/// `rm`
pub async fn remove(context: Context, args: RemoveArgs) -> Outcome {
    let query = Query::new().flag("force", args.force).flag("link", args.link).flag("v", args.volumes);
    let client = &context.client;
    let meant = match args.force {
        true => names::meant_if_there(&context, &args.containers).await?,
        false => names::meant(&context, &args.containers).await?,
    };
    let done = each(meant.containers(), "rm", async |name| {
        match client.delete(&format!("/containers/{}{query}", escape(name))).await {
            // With force, what is not there is as good as removed, and is named all the same.
            Err(failure) if args.force && failure.is_not_found() => {
                tell!("{}", failure.message);
                Err(Failure::exit(0))
            }
            other => other.map(drop),
        }
    })
    .await
    .or_else(|failure| if failure.message.trim().is_empty() { Ok(()) } else { Err(failure) });
    if let Some(services) = meant.services() {
        let remove = act::RemoveArgs {
            // Who names services means them; who names nothing is asked.
            force: args.force || !services.is_empty(),
            stop: args.force,
            volumes: args.volumes,
            services: services.to_vec(),
        };
        act::remove(context.clone(), remove).await?;
    }
    done
}

/// Arguments of `rename`.
#[derive(Debug, clap::Args)]
pub struct RenameArgs {
    /// Container
    pub container: String,
    /// Its new name
    pub new_name: String,
}

/// `rename`
pub async fn rename(context: Context, args: RenameArgs) -> Outcome {
    let query = Query::new().with("name", args.new_name.trim());
    let renamed = context.client.act(&format!("/containers/{}/rename{query}", escape(args.container.trim()))).await;
    renamed.map_err(|failure| {
        Failure::new(format!("{}\nError: failed to rename container named {}", failure.message, args.container.trim()))
    })
}
