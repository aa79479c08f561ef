//! `container prune`, and what all prunes have in common.

use serde_json::Value;
use std::io::{BufRead, Write};

use crate::client::Query;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::human;
use crate::output::{say, show};

/// Options of `container prune` and `network prune`.
#[derive(Debug, clap::Args)]
pub struct PruneArgs {
    /// Provide filter values (e.g. "until=<timestamp>")
    #[arg(long, value_name = "filter")]
    pub filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    pub force: bool,
}

/// Asks before something is lost; not agreeing ends the command.
pub fn confirm(force: bool, warning: &str) -> Outcome {
    if force {
        return Ok(());
    }
    show!("WARNING! {warning}\nAre you sure you want to continue? [y/N] ")?;
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if matches!(answer.trim(), "y" | "Y") { Ok(()) } else { Err(Failure::new("operation cancelled")) }
}

/// Prunes one kind of object; the names and the bytes.
pub async fn prune(context: &Context, kind: &str, filters: &[String], field: &str) -> Outcome<(Vec<String>, u64)> {
    let query = Query::new().filters(filters)?;
    let answer: Value = context.client.post(&format!("/{kind}/prune{query}"), &Value::Null).await?;
    let names = answer[field].as_array().into_iter().flatten();
    let names = names.map(|name| match name {
        Value::String(name) => name.clone(),
        // Images tell what became of them.
        other => match (other["Untagged"].as_str(), other["Deleted"].as_str()) {
            (Some(name), _) => format!("untagged: {name}"),
            (_, Some(name)) => format!("deleted: {name}"),
            _ => String::new(),
        },
    });
    Ok((names.collect(), answer["SpaceReclaimed"].as_u64().unwrap_or(0)))
}

/// Prints what a prune removed.
pub fn report(title: &str, names: &[String]) -> Outcome {
    if !names.is_empty() {
        say!("Deleted {title}:\n{}\n", names.join("\n"))?;
    }
    Ok(())
}

/// `container prune`
pub async fn run(context: Context, args: PruneArgs) -> Outcome {
    confirm(args.force, "This will remove all stopped containers.")?;
    let (names, space) = prune(&context, "containers", &args.filter, "ContainersDeleted").await?;
    report("Containers", &names)?;
    say!("Total reclaimed space: {}", human::size(space))?;
    Ok(())
}
