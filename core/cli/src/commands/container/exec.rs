//! `exec`.

use bollard_stubs::models::ExecConfig;
use serde_json::{Value, json};

use super::run::{low_byte, start_code};
use super::streams::{self, Ended, Session};
use crate::client::{Client, escape};
use crate::commands::compose::names;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::env;
use crate::output::terminal::{self, DetachKeys};

/// Options of `exec`.
#[derive(Debug, clap::Args)]
pub struct ExecArgs {
    /// Detached mode: run command in the background
    #[arg(short, long)]
    pub detach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long)]
    pub detach_keys: Option<String>,
    /// Set environment variables
    #[arg(short, long)]
    pub env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long)]
    pub env_file: Vec<String>,
    /// Keep STDIN open even if not attached
    #[arg(short, long)]
    pub interactive: bool,
    /// Give extended privileges to the command
    #[arg(long)]
    pub privileged: bool,
    /// Allocate a pseudo-TTY
    #[arg(short, long)]
    pub tty: bool,
    /// Username or UID (format: "<name|uid>[:<group|gid>]")
    #[arg(short, long)]
    pub user: Option<String>,
    /// Working directory inside the container
    #[arg(short, long)]
    pub workdir: Option<String>,
    /// Container, or service of the project here
    pub container: String,
    /// Command and arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// `exec`
pub async fn run(context: Context, args: ExecArgs) -> Outcome {
    let container = names::container(&context, &args.container).await?;
    let own = |name: &str| std::env::var(name).ok();
    let environment = env::environment(&args.env_file, &args.env, own).map_err(Failure::usage)?;
    let config = ExecConfig {
        attach_stdin: Some(args.interactive && !args.detach),
        attach_stdout: Some(!args.detach),
        attach_stderr: Some(!args.detach),
        tty: Some(args.tty),
        env: Some(environment),
        cmd: Some(args.command),
        privileged: Some(args.privileged),
        user: args.user,
        working_dir: args.workdir,
        console_size: terminal::size().filter(|_| args.tty).map(|(rows, columns)| vec![rows.into(), columns.into()]),
        ..ExecConfig::default()
    };
    execute(&context.client, &container, config, args.detach, args.detach_keys.as_deref()).await
}

/// Runs a process in a container and ends as it does.
pub async fn execute(
    client: &Client,
    container: &str,
    config: ExecConfig,
    detach: bool,
    keys: Option<&str>,
) -> Outcome {
    let keys = DetachKeys::chosen(keys)?;
    let tty = config.tty == Some(true);
    let input = config.attach_stdin == Some(true);
    if input && tty && !terminal::input_is_terminal() {
        return Err(Failure::new("the input device is not a TTY"));
    }
    let created: Value = client.post(&format!("/containers/{}/exec", escape(container)), &config).await?;
    let id = created["Id"].as_str().unwrap_or_default();
    let path = format!("/exec/{id}");
    let start = json!({ "Detach": detach, "Tty": tty, "ConsoleSize": config.console_size });
    let with_code = |failure: Failure| {
        let code = match start_code(&failure.message) {
            125 => 1,
            code => code,
        };
        failure.with_code(code)
    };
    if detach {
        return client.act_with(&format!("{path}/start"), &start).await.map_err(with_code);
    }
    let raw = client.hijack(&format!("{path}/start"), Some(&start)).await.map_err(with_code)?;
    let raw = raw.ok_or_else(|| Failure::new("the daemon did not hand the connection over"))?;
    if tty {
        streams::follow_size(client, path.clone());
    }
    if streams::join(Session { raw, tty, input, detach_keys: keys }).await? == Ended::Detached {
        return Ok(());
    }
    let ended: Value = client.get(&format!("{path}/json")).await?;
    match ended["ExitCode"].as_i64().unwrap_or(0) {
        0 => Ok(()),
        code => Err(Failure::exit(low_byte(code))),
    }
}
