//! `attach` and `start`.

use serde_json::Value;

use super::create::Streams;
use super::streams::{self, Ended, Session};
use super::{run, signals};
use crate::client::escape;
use crate::commands::compose::{act, names};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::terminal::{self, DetachKeys};

/// Options of `attach`.
#[derive(Debug, clap::Args)]
pub struct AttachArgs {
    /// Override the key sequence for detaching a container
    #[arg(long)]
    pub detach_keys: Option<String>,
    /// Do not attach STDIN
    #[arg(long)]
    pub no_stdin: bool,
    /// Proxy all received signals to the process
    #[arg(long, default_value = "true")]
    pub sig_proxy: bool,
    /// Container, or service of the project here
    pub container: String,
}

/// `attach`
pub async fn attach(context: Context, args: AttachArgs) -> Outcome {
    let client = &context.client;
    let keys = DetachKeys::chosen(args.detach_keys.as_deref())?;
    let container = names::container(&context, &args.container).await?;
    let found: Value = client.get(&format!("/containers/{}/json", escape(&container))).await?;
    let state = &found["State"];
    for (holds, message) in [
        (state["Running"] != true, "You cannot attach to a stopped container, start it first"),
        (state["Paused"] == true, "You cannot attach to a paused container, unpause it first"),
        (state["Restarting"] == true, "You cannot attach to a restarting container, wait until it is running"),
    ] {
        if holds {
            return Err(Failure::new(message));
        }
    }
    let tty = found["Config"]["Tty"] == true;
    let input = !args.no_stdin && found["Config"]["OpenStdin"] == true;
    if input && tty && !terminal::input_is_terminal() {
        return Err(Failure::new("the input device is not a TTY"));
    }
    let id = found["Id"].as_str().unwrap_or(&container);
    let streams = Streams { input, output: true, errors: true };
    let (raw, status) = tokio::join!(run::attach(client, id, streams), run::wait(client, id, "not-running"));
    let (raw, mut status) = (raw?, status?);
    if args.sig_proxy && !tty {
        signals::forward(client, id);
    }
    if tty {
        let path = format!("/containers/{id}");
        // Another size first makes the program inside draw its screen anew.
        let _ = streams::resize(client, &path, 1).await;
        streams::follow_size(client, path);
    }
    match streams::join(Session { raw, tty, input, detach_keys: keys }).await? {
        Ended::Detached => Ok(()),
        Ended::Output => run::exit_status(&mut status).await,
    }
}

/// Options of `start`.
#[derive(Debug, clap::Args)]
pub struct StartArgs {
    /// Attach STDOUT/STDERR and forward signals
    #[arg(short, long)]
    pub attach: bool,
    /// Attach container's STDIN
    #[arg(short, long)]
    pub interactive: bool,
    /// Override the key sequence for detaching a container
    #[arg(long)]
    pub detach_keys: Option<String>,
    /// Proxy received signals to the process
    #[arg(long, default_value = "true", hide = true)]
    pub sig_proxy: bool,
    /// Containers, or services of the project here
    pub containers: Vec<String>,
}

/// `start`
pub async fn start(context: Context, args: StartArgs) -> Outcome {
    let client = &context.client;
    let meant = names::meant(&context, &args.containers).await?;
    if !args.attach && !args.interactive {
        let done = super::change::each(meant.containers(), "start containers", async |name| {
            client.act(&format!("/containers/{}/start", escape(name))).await
        })
        .await;
        if let Some(services) = meant.services() {
            act::start(context.clone(), act::StartArgs { services: services.to_vec(), ..act::StartArgs::default() })
                .await?;
        }
        return done;
    }
    if meant.services().is_some() {
        return Err(Failure::new(
            "--attach and --interactive are of containers; services start with the stack (`sampan up`)",
        ));
    }
    let [name] = meant.containers() else {
        return Err(Failure::new("you cannot start and attach multiple containers at once"));
    };
    let keys = DetachKeys::chosen(args.detach_keys.as_deref())?;
    let found: Value = client.get(&format!("/containers/{}/json", escape(name))).await?;
    let id = found["Id"].as_str().unwrap_or(name);
    let tty = found["Config"]["Tty"] == true;
    let input = args.interactive && found["Config"]["OpenStdin"] == true;
    if input && tty && !terminal::input_is_terminal() {
        return Err(Failure::new("the input device is not a TTY"));
    }
    if args.sig_proxy && !tty {
        signals::forward(client, id);
    }
    let removed = found["HostConfig"]["AutoRemove"] == true;
    let streams = Streams { input, output: args.attach || input, errors: args.attach || input };
    run::attached(client, id, streams, tty, keys, removed).await
}
