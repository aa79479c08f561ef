//! `commit`.

use serde_json::{Value, json};

use crate::client::Query;
use crate::commands::compose::names;
use crate::commands::image::reference;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::say;

/// What is said of the image, and how it is made.
#[derive(Debug, clap::Args)]
pub struct CommitOptions {
    /// Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")
    #[arg(short, long)]
    pub author: Option<String>,
    /// Apply Dockerfile instruction to the created image
    #[arg(short, long)]
    pub change: Vec<String>,
    /// Commit message
    #[arg(short, long)]
    pub message: Option<String>,
    /// Pause container during commit
    #[arg(short, long, default_value = "true")]
    pub pause: bool,
}

/// Options of `commit`.
#[derive(Debug, clap::Args)]
pub struct CommitArgs {
    /// How.
    #[command(flatten)]
    pub options: CommitOptions,
    /// Container, or service of the project here
    pub container: String,
    /// Name of the image
    pub reference: Option<String>,
}

/// `commit`
pub async fn run(context: Context, args: CommitArgs) -> Outcome {
    let container = names::container(&context, &args.container).await?;
    let mut query = Query::new()
        .with("container", container)
        .maybe("author", args.options.author)
        .maybe("comment", args.options.message)
        .with("pause", if args.options.pause { "1" } else { "0" });
    if let Some(text) = &args.reference {
        let (name, tag, digest) = reference::split(text);
        if digest.is_some() {
            return Err(Failure::new("refusing to create a tag with a digest reference"));
        }
        query = query.with("repo", name).maybe("tag", tag);
    }
    for change in &args.options.change {
        query = query.with("changes", change);
    }
    let made: Value = context.client.post(&format!("/commit{query}"), &json!({})).await?;
    say!("{}", made["Id"].as_str().unwrap_or_default())?;
    Ok(())
}
