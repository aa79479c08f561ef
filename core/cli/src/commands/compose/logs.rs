//! `logs` of a stack.

use std::io::IsTerminal;

use super::ProjectArgs;
use super::follow::{Follower, Turn, Wanted};
use super::project;
use crate::context::Context;
use crate::failure::Outcome;
use crate::flags::time;

/// Options of `compose logs`.
#[derive(Debug, Default, clap::Args)]
pub struct LogsArgs {
    /// Follow log output
    #[arg(short, long)]
    pub follow: bool,
    /// Index of the container if service has multiple replicas
    #[arg(long, value_name = "int")]
    pub index: Option<u32>,
    /// Produce monochrome output
    #[arg(long)]
    pub no_color: bool,
    /// Don't print prefix in logs
    #[arg(long)]
    pub no_log_prefix: bool,
    /// Show logs since timestamp (e.g. 2013-01-02T13:23:37Z) or relative (e.g. 42m for 42 minutes)
    #[arg(long, value_parser = time::ago)]
    pub since: Option<String>,
    /// Number of lines to show from the end of the logs for each container (default "all")
    #[arg(short = 'n', long)]
    pub tail: Option<String>,
    /// Show timestamps
    #[arg(short, long)]
    pub timestamps: bool,
    /// Show logs before a timestamp (e.g. 2013-01-02T13:23:37Z) or relative (e.g. 42m for 42 minutes)
    #[arg(long, value_parser = time::ago)]
    pub until: Option<String>,
    /// Services
    pub services: Vec<String>,
}

/// Whether names are coloured.
pub fn colors(no_color: bool, ansi: Option<&str>) -> bool {
    match ansi {
        Some("always") => !no_color,
        Some("never") => false,
        _ => !no_color && std::env::var_os("NO_COLOR").is_none() && std::io::stdout().is_terminal(),
    }
}

/// `compose logs`
pub async fn run(context: Context, args: LogsArgs) -> Outcome {
    let chosen = project::of_services(&context, &args.services).await?;
    if let (Some(index), [service]) = (args.index, &args.services[..]) {
        project::any_container_of(&context.client, &chosen.name, service, index).await?;
    }
    let ProjectArgs { ansi, .. } = context.project;
    let wanted = Wanted {
        project: chosen.name,
        services: args.services,
        index: args.index,
        follow: args.follow,
        since: args.since,
        until: args.until,
        tail: args.tail,
        timestamps: args.timestamps,
        prefix: !args.no_log_prefix,
        colors: colors(args.no_color, ansi.as_deref()),
        ..Wanted::default()
    };
    let mut follower = Follower::new(&context.client, wanted).await?;
    while follower.next().await? != Turn::Over {}
    Ok(())
}
