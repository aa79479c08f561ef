//! Commands that show or name images: `images history rmi tag inspect prune`.

use serde_json::{Value, json};

use super::{reference, tree};
use crate::client::{Query, escape};
use crate::commands::container::prune::{confirm, prune as prune_objects, report};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::table::{self, Column, Row};
use crate::output::{human, ids, json as layout};
use crate::output::{say, tell};

/// Options of `images`.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Show all images (default hides intermediate images)
    #[arg(short, long)]
    pub all: bool,
    /// Show digests
    #[arg(long)]
    pub digests: bool,
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "filter")]
    pub filter: Vec<String>,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json' or a Go template
    #[arg(long)]
    pub format: Option<String>,
    /// Don't truncate output
    #[arg(long)]
    pub no_trunc: bool,
    /// Only show image IDs
    #[arg(short, long)]
    pub quiet: bool,
    /// List the platforms of multi-platform images as a tree
    #[arg(long, conflicts_with_all = ["format", "quiet", "digests"])]
    pub tree: bool,
    /// Repository, with an optional tag
    pub repository: Option<String>,
}

const COLUMNS: [Column; 6] = [
    ("REPOSITORY", "Repository"),
    ("TAG", "Tag"),
    ("DIGEST", "Digest"),
    ("IMAGE ID", "ID"),
    ("CREATED", "CreatedSince"),
    ("SIZE", "Size"),
];

/// `images`
pub async fn list(context: Context, args: ListArgs) -> Outcome {
    let mut filters = args.filter.clone();
    if let Some(repository) = &args.repository {
        filters.push(format!("reference={repository}"));
    }
    let digests = args.digests || args.format.as_deref().is_some_and(|format| format.contains(".Digest"));
    let query = Query::new().flag("all", args.all).flag("digests", digests).flag("manifests", args.tree);
    let images: Vec<Value> = context.client.get(&format!("/images/json{}", query.filters(&filters)?)).await?;
    if args.tree {
        return table::write_all(&tree::render(&images, args.no_trunc));
    }
    let rows: Vec<Row> = images.iter().flat_map(|image| rows(image, args.no_trunc, digests)).collect();
    if args.quiet && args.format.is_none() {
        let ids: String = rows.iter().map(|row| format!("{}\n", row["ID"].as_str().unwrap_or_default())).collect();
        return table::write_all(&ids);
    }
    let columns: Vec<Column> =
        COLUMNS.iter().filter(|(_, field)| args.digests || *field != "Digest").copied().collect();
    table::print(&rows, &columns, args.format.as_deref())
}

/// A row for each name of an image; one without names for an image that has none.
fn rows(image: &Value, whole: bool, digests: bool) -> Vec<Row> {
    let texts = |field: &str| -> Vec<&str> {
        image[field].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    };
    let real = |text: &&str| !text.starts_with("<none>");
    let tags: Vec<&str> = texts("RepoTags").into_iter().filter(real).collect();
    let known: Vec<&str> = texts("RepoDigests").into_iter().filter(real).collect();
    let digest_of = |name: &str| {
        known.iter().find_map(|text| text.split_once('@').filter(|(found, _)| *found == name).map(|(_, digest)| digest))
    };
    let mut names: Vec<(&str, &str, &str)> = tags
        .iter()
        .map(|text| {
            let (name, tag, _) = reference::split(text);
            (name, tag.unwrap_or("<none>"), digest_of(name).filter(|_| digests).unwrap_or("<none>"))
        })
        .collect();
    if names.is_empty() {
        names = known
            .iter()
            .filter_map(|text| text.split_once('@'))
            .map(|(name, digest)| (name, "<none>", digest))
            .collect();
    }
    if names.is_empty() {
        names.push(("<none>", "<none>", "<none>"));
    }
    let created = image["Created"].as_i64().unwrap_or(0);
    let bytes = image["Size"].as_u64().unwrap_or(0);
    let size = human::decimal_size(bytes);
    let containers = image["Containers"].as_u64().map_or("N/A".to_owned(), |count| count.to_string());
    let shared = image["SharedSize"].as_u64();
    let or_unknown = |bytes: Option<u64>| bytes.map_or("N/A".to_owned(), human::size);
    names
        .into_iter()
        .map(|(name, tag, digest)| {
            table::row([
                ("Containers", json!(containers)),
                ("CreatedAt", json!(human::date(created))),
                ("CreatedSince", json!(human::ago(created))),
                ("Digest", json!(digest)),
                ("ID", json!(ids::short(image["Id"].as_str().unwrap_or_default(), whole))),
                ("Repository", json!(name)),
                ("SharedSize", json!(or_unknown(shared))),
                ("Size", json!(size)),
                ("Tag", json!(tag)),
                ("UniqueSize", json!(or_unknown(shared.map(|shared| bytes.saturating_sub(shared))))),
                ("VirtualSize", json!(human::size(bytes))),
                (table::LABELS, image["Labels"].clone()),
            ])
        })
        .collect()
}

/// Options of `history`.
#[derive(Debug, clap::Args)]
pub struct HistoryArgs {
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json' or a Go template
    #[arg(long)]
    pub format: Option<String>,
    /// Print sizes and dates in human readable format
    #[arg(short = 'H', long, default_value = "true")]
    pub human: bool,
    /// Don't truncate output
    #[arg(long)]
    pub no_trunc: bool,
    /// Show history for the given platform (Formatted as "os[/arch[/variant]]")
    #[arg(long)]
    pub platform: Option<String>,
    /// Only show image IDs
    #[arg(short, long)]
    pub quiet: bool,
    /// Image
    pub image: String,
}

/// `history`
pub async fn history(context: Context, args: HistoryArgs) -> Outcome {
    let query = Query::new().maybe("platform", args.platform.as_deref());
    let steps: Vec<Value> = context.client.get(&format!("/images/{}/history{query}", escape(&args.image))).await?;
    let text = |step: &Value, field: &str| step[field].as_str().unwrap_or_default().to_owned();
    let rows: Vec<Row> = steps
        .iter()
        .map(|step| {
            let created = step["Created"].as_i64().unwrap_or(0);
            let size = step["Size"].as_u64().unwrap_or(0);
            let by = text(step, "CreatedBy").replace('\t', " ");
            let by = if args.no_trunc { by } else { ids::ellipsis(&by, 45) };
            table::row([
                ("Comment", step["Comment"].clone()),
                ("CreatedAt", json!(human::rfc3339(created))),
                ("CreatedBy", json!(by)),
                ("CreatedSince", json!(if args.human { human::ago(created) } else { human::rfc3339(created) })),
                ("ID", json!(ids::short(&text(step, "Id"), args.no_trunc))),
                ("Size", json!(if args.human { human::decimal_size(size) } else { size.to_string() })),
            ])
        })
        .collect();
    if args.quiet && args.format.is_none() {
        let ids: String = rows.iter().map(|row| format!("{}\n", row["ID"].as_str().unwrap_or_default())).collect();
        return table::write_all(&ids);
    }
    const COLUMNS: [Column; 5] = [
        ("IMAGE", "ID"),
        ("CREATED", "CreatedSince"),
        ("CREATED BY", "CreatedBy"),
        ("SIZE", "Size"),
        ("COMMENT", "Comment"),
    ];
    table::print(&rows, &COLUMNS, args.format.as_deref())
}

/// Options of `rmi`.
#[derive(Debug, clap::Args)]
pub struct RemoveArgs {
    /// Force removal of the image
    #[arg(short, long)]
    pub force: bool,
    /// Do not delete untagged parents
    #[arg(long)]
    pub no_prune: bool,
    /// Remove only the given platform variant (Formatted as "os[/arch[/variant]]")
    #[arg(long, value_delimiter = ',')]
    pub platform: Vec<String>,
    /// Images
    #[arg(required = true)]
    pub images: Vec<String>,
}

/// `rmi`
pub async fn remove(context: Context, args: RemoveArgs) -> Outcome {
    let query = Query::new().flag("force", args.force).flag("noprune", args.no_prune);
    let query = args.platform.iter().fold(query, |query, platform| query.with("platforms", platform));
    let mut failed = Vec::new();
    for image in &args.images {
        match context.client.delete(&format!("/images/{}{query}", escape(image))).await {
            Ok(done) => {
                let lines = done.as_array().into_iter().flatten().map(|step| {
                    match (step["Untagged"].as_str(), step["Deleted"].as_str()) {
                        (Some(name), _) => format!("Untagged: {name}\n"),
                        (None, Some(id)) => format!("Deleted: {id}\n"),
                        (None, None) => String::new(),
                    }
                });
                table::write_all(&lines.collect::<String>())?;
            }
            Err(failure) if args.force && failure.is_not_found() => tell!("{}", failure.message),
            Err(failure) => failed.push(failure.message),
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(Failure::new(failed.join("\n"))) }
}

/// Arguments of `tag`.
#[derive(Debug, clap::Args)]
pub struct TagArgs {
    /// Image
    pub source: String,
    /// Its new name
    pub target: String,
}

/// `tag`
pub async fn tag(context: Context, args: TagArgs) -> Outcome {
    let (name, tag, digest) = reference::split(&args.target);
    if digest.is_some() {
        return Err(Failure::new("refusing to create a tag with a digest reference"));
    }
    // The daemon would take one for a tag that is to be replaced.
    if name.rsplit('/').next().is_some_and(|last| last.contains(':')) {
        return Err(Failure::new(format!("{:?} is not a valid repository/tag: invalid reference format", args.target)));
    }
    let query = Query::new().with("repo", name).with("tag", tag.unwrap_or("latest"));
    context.client.act(&format!("/images/{}/tag{query}", escape(&args.source))).await
}

/// Options of `image inspect`.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// Format output using a custom template: 'json' or a Go template
    #[arg(short, long)]
    pub format: Option<String>,
    /// Inspect a specific platform of the multi-platform image (Formatted as "os[/arch[/variant]]")
    #[arg(long)]
    pub platform: Option<String>,
    /// Images
    #[arg(required = true)]
    pub images: Vec<String>,
}

/// `image inspect`
pub async fn inspect(context: Context, args: InspectArgs) -> Outcome {
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    let query = Query::new().maybe("platform", args.platform.as_deref());
    for image in &args.images {
        match context.client.get::<Value>(&format!("/images/{}/json{query}", escape(image))).await {
            Ok(value) => found.push(value),
            Err(failure) => failed.push(failure),
        }
    }
    layout::inspected(&found, &failed, args.format.as_deref())
}

/// Options of `image prune`.
#[derive(Debug, clap::Args)]
pub struct PruneArgs {
    /// Remove all unused images, not just dangling ones
    #[arg(short, long)]
    pub all: bool,
    /// Provide filter values (e.g. "until=<timestamp>")
    #[arg(long, value_name = "filter")]
    pub filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    pub force: bool,
}

/// `image prune`
pub async fn prune(context: Context, args: PruneArgs) -> Outcome {
    let warning = if args.all {
        "This will remove all images without at least one container associated to them."
    } else {
        "This will remove all dangling images."
    };
    confirm(args.force, warning)?;
    let mut filters = args.filter;
    filters.push(format!("dangling={}", !args.all));
    let (names, space) = prune_objects(&context, "images", &filters, "ImagesDeleted").await?;
    report("Images", &names)?;
    say!("Total reclaimed space: {}", human::size(space))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_row() {
        let image = json!({"Id": "sha256:0123456789abcdef", "RepoTags": ["a:1", "localhost:5000/b:2"], "RepoDigests": ["a@sha256:d"], "Size": 1000, "Created": 0});
        let found = rows(&image, false, true);
        assert_eq!(found.len(), 2);
        assert_eq!(
            (&found[0]["Repository"], &found[0]["Tag"], &found[0]["Digest"]),
            (&json!("a"), &json!("1"), &json!("sha256:d"))
        );
        assert_eq!(found[1]["Repository"], "localhost:5000/b");
        assert_eq!(found[0]["ID"], "0123456789ab");
        assert_eq!(rows(&json!({"Id": "x"}), false, false)[0]["Repository"], "<none>");
    }
}
