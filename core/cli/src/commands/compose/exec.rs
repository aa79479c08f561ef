//! `compose exec`.

use bollard_stubs::models::ExecConfig;

use super::project;
use crate::commands::container::exec;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::env;
use crate::output::terminal;

/// Options of `compose exec`.
#[derive(Debug, clap::Args)]
pub struct ExecArgs {
    /// Detached mode: Run command in the background
    #[arg(short, long)]
    pub detach: bool,
    /// Set environment variables
    #[arg(short, long)]
    pub env: Vec<String>,
    /// Index of the container if service has multiple replicas
    #[arg(long, value_name = "int", default_value_t = 0)]
    pub index: u32,
    /// Keep STDIN open even if not attached
    #[arg(short, long, default_value = "true", hide = true)]
    pub interactive: bool,
    /// Disable pseudo-TTY allocation
    #[arg(short = 'T', long, alias = "no-TTY")]
    pub no_tty: bool,
    /// Allocate a pseudo-TTY
    #[arg(short, long, default_value = "true", hide = true)]
    pub tty: bool,
    /// Give extended privileges to the process
    #[arg(long)]
    pub privileged: bool,
    /// Run the command as this user
    #[arg(short, long)]
    pub user: Option<String>,
    /// Path to workdir directory for this command
    #[arg(short, long)]
    pub workdir: Option<String>,
    /// Service
    pub service: String,
    /// Command and arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// Whether both ends are terminals, so that the process gets one.
pub fn has_terminal(wanted: bool) -> bool {
    wanted && terminal::input_is_terminal() && terminal::output_is_terminal()
}

/// `compose exec`
pub async fn exec(context: Context, args: ExecArgs) -> Outcome {
    context.no_dry_run("exec", "it would have to run the command")?;
    let client = &context.client;
    let chosen = project::of_services(&context, std::slice::from_ref(&args.service)).await?;
    let container = project::container_of(client, &chosen.name, &args.service, args.index).await?;
    let own = |name: &str| std::env::var(name).ok();
    let tty = has_terminal(args.tty && !args.no_tty && !args.detach);
    let config = ExecConfig {
        attach_stdin: Some(args.interactive && !args.detach),
        attach_stdout: Some(!args.detach),
        attach_stderr: Some(!args.detach),
        tty: Some(tty),
        env: Some(env::environment(&[], &args.env, own).map_err(Failure::usage)?),
        cmd: Some(args.command),
        privileged: Some(args.privileged),
        user: args.user,
        working_dir: args.workdir,
        console_size: terminal::size().filter(|_| tty).map(|(rows, columns)| vec![rows.into(), columns.into()]),
        ..ExecConfig::default()
    };
    exec::execute(client, container["Id"].as_str().unwrap_or_default(), config, args.detach, None).await
}
