//! `inspect` of whatever has that name.

use serde_json::Value;

use crate::client::{Client, Query, escape};
use crate::commands::compose::names::{self, Meant};
use crate::commands::compose::project;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::json;

/// Kinds in the order in which they are looked for: name and path.
const KINDS: [(&str, &str, &str); 5] = [
    ("container", "/containers/", "/json"),
    ("image", "/images/", "/json"),
    ("network", "/networks/", ""),
    ("volume", "/volumes/", ""),
    ("plugin", "/sampan/v1/plugins/", ""),
];

/// Options of `inspect`.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// Format output using a custom template: 'json' or a Go template
    #[arg(short, long)]
    pub format: Option<String>,
    /// Display total file sizes if the type is container
    #[arg(short, long)]
    pub size: bool,
    /// Only inspect objects of the given type
    #[arg(long)]
    pub r#type: Option<String>,
    /// Objects, or services of the project here
    pub names: Vec<String>,
}

/// `inspect`
pub async fn run(context: Context, args: InspectArgs) -> Outcome {
    let kind = args.r#type.as_deref().filter(|kind| !kind.is_empty());
    if let Some(kind) = kind
        && !KINDS.iter().any(|(known, ..)| *known == kind)
    {
        return Err(Failure::new(format!("\"{kind}\" is not a valid value for --type")));
    }
    if args.names.is_empty() {
        names::meant(&context, &[]).await?;
        let name = project::find(&context.client, &context.project).await?.name;
        let stack: Value = context.client.get(&format!("/sampan/v1/stacks/{}", escape(&name))).await?;
        return json::inspected(&[stack], &[], args.format.as_deref());
    }
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    for name in &args.names {
        // A service's containers in the place of its name; what is neither may be of another kind.
        if matches!(kind, None | Some("container"))
            && let Ok(Meant::Named(_, services)) = names::meant(&context, std::slice::from_ref(name)).await
            && !services.is_empty()
        {
            for container in names::containers(&context, &services).await? {
                found.push(find(&context.client, &container, Some("container"), args.size).await?);
            }
            continue;
        }
        match find(&context.client, name, kind, args.size).await {
            Ok(value) => found.push(value),
            Err(failure) => failed.push(failure),
        }
    }
    json::inspected(&found, &failed, args.format.as_deref())
}

async fn find(client: &Client, name: &str, kind: Option<&str>, size: bool) -> Outcome<Value> {
    for (known, before, after) in KINDS {
        if kind.is_some_and(|kind| kind != known) {
            continue;
        }
        let query = Query::new().flag("size", size && known == "container");
        match client.get::<Value>(&format!("{before}{}{after}{query}", escape(name.trim_start_matches('/')))).await {
            // Not that kind; or, where the name could not be of that kind at all, refused as such.
            Err(failure) if kind.is_none() && (failure.is_not_found() || failure.status == Some(400)) => {}
            other => return other,
        }
    }
    Err(Failure::new(format!("Error: No such object: {name}")))
}
