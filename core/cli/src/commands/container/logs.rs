//! `logs`.

use bytes::BytesMut;
use http::{Method, header};

use super::streams::Sink;
use crate::client::{Client, Query, escape, next_chunk};
use crate::commands::compose;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::time;

/// Options of `logs`.
#[derive(Debug, clap::Args)]
pub struct LogsArgs {
    /// Show extra details provided to logs
    #[arg(long)]
    pub details: bool,
    /// Follow log output
    #[arg(short, long)]
    pub follow: bool,
    /// Produce monochrome output (of services)
    #[arg(long)]
    pub no_color: bool,
    /// Don't print prefix in logs (of services)
    #[arg(long)]
    pub no_log_prefix: bool,
    /// Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)
    #[arg(long, value_parser = time::ago)]
    pub since: Option<String>,
    /// Number of lines to show from the end of the logs (default "all")
    #[arg(short = 'n', long)]
    pub tail: Option<String>,
    /// Show timestamps
    #[arg(short, long)]
    pub timestamps: bool,
    /// Show logs before a timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)
    #[arg(long, value_parser = time::ago)]
    pub until: Option<String>,
    /// Container, or services of the project here
    pub containers: Vec<String>,
}

impl LogsArgs {
    fn query(&self) -> Query {
        Query::new()
            .with("stdout", "1")
            .with("stderr", "1")
            .flag("follow", self.follow)
            .flag("timestamps", self.timestamps)
            .flag("details", self.details)
            .maybe("since", self.since.as_deref())
            .maybe("until", self.until.as_deref())
            .maybe("tail", self.tail.as_deref())
    }
}

/// `logs`; of services in one stream, each line with its container's name.
pub async fn run(context: Context, args: LogsArgs) -> Outcome {
    let meant = compose::names::meant(&context, &args.containers).await?;
    let services = match (meant.containers(), meant.services()) {
        ([name], None) => return print(&context.client, name, &args.query()).await,
        ([], Some(services)) => services.to_vec(),
        _ => return Err(Failure::new("name one container, or services of the project here")),
    };
    let stack = compose::logs::LogsArgs {
        follow: args.follow,
        since: args.since,
        until: args.until,
        tail: args.tail,
        timestamps: args.timestamps,
        no_color: args.no_color,
        no_log_prefix: args.no_log_prefix,
        services,
        ..compose::logs::LogsArgs::default()
    };
    compose::logs::run(context, stack).await
}

async fn print(client: &Client, name: &str, query: &Query) -> Outcome {
    let response = client.call(Method::GET, &format!("/containers/{}/logs{query}", escape(name)), None::<&()>).await?;
    let raw = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().ends_with(b"raw-stream"));
    let mut sink = Sink::new(raw)?;
    let mut body = response.into_body();
    let mut buffer = BytesMut::new();
    while let Some(chunk) = next_chunk(&mut body).await {
        let chunk = chunk.map_err(|error| Failure::new(format!("the daemon's stream broke off: {error}")))?;
        buffer.extend_from_slice(&chunk);
        sink.take(&mut buffer)?;
    }
    Ok(())
}
