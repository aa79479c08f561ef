//! `pull` and `push`.

use serde_json::{Value, json};

use super::auth::{self, ConfigFile};
use super::reference;
use crate::client::{JsonLines, Query, escape};
use crate::commands::compose::{images as stack_images, names};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::progress::{Progress, To};
use crate::output::table::{self, Column, Row};
use crate::output::{ids, say};

/// Options of `pull`.
#[derive(Debug, clap::Args)]
pub struct PullArgs {
    /// Download all tagged images in the repository
    #[arg(short, long)]
    pub all_tags: bool,
    /// Skip image verification
    #[arg(long, default_value = "true", hide = true)]
    pub disable_content_trust: bool,
    /// Set platform if server is multi-platform capable
    #[arg(long)]
    pub platform: Option<String>,
    /// Suppress verbose output
    #[arg(short, long)]
    pub quiet: bool,
    /// Image
    #[arg(default_value = "", hide_default_value = true)]
    pub image: String,
}

/// `pull`; without an image, those of the project here.
pub async fn pull(context: Context, args: PullArgs) -> Outcome {
    if args.image.is_empty() {
        names::meant(&context, &[]).await?;
        let pull = stack_images::PullArgs { quiet: args.quiet, ..stack_images::PullArgs::default() };
        return stack_images::pull(context, pull).await;
    }
    let (_, tag, digest) = reference::split(&args.image);
    if args.all_tags {
        if tag.is_some() || digest.is_some() {
            return Err(Failure::new("tag can't be used with --all-tags/-a"));
        }
    } else if tag.is_none() && digest.is_none() && !args.quiet {
        say!("Using default tag: latest")?;
    }
    let what = if args.all_tags { Wanted::AllTags } else { Wanted::One };
    fetch(&context, &args.image, what, args.platform.as_deref(), args.quiet, To::Output).await?;
    let canonical = reference::canonical(&args.image);
    // All tags have no name of their own but the repository's.
    let shown = if args.all_tags { reference::split(&canonical).0 } else { &canonical };
    say!("{shown}")?;
    Ok(())
}

/// How much of a repository is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    One,
    AllTags,
}

/// The image's name with its tag, as messages show it.
pub fn familiar(image: &str) -> String {
    reference::tagged(image)
}

/// Pulls what a container needs, with the progress on standard error.
pub async fn for_run(context: &Context, image: &str, platform: Option<&str>, quiet: bool) -> Outcome {
    fetch(context, image, Wanted::One, platform, quiet, To::Errors).await
}

async fn fetch(context: &Context, image: &str, wanted: Wanted, platform: Option<&str>, quiet: bool, to: To) -> Outcome {
    let (name, tag, digest) = reference::split(image);
    let tag = (wanted == Wanted::One).then(|| digest.or(tag).unwrap_or("latest"));
    let query = Query::new().with("fromImage", name).maybe("tag", tag).maybe("platform", platform);
    let credentials = ConfigFile::read(&context.config)?.credentials(reference::registry(image));
    let headers = [("x-registry-auth", auth::header(&credentials))];
    let response = context.client.post_with_headers(&format!("/images/create{query}"), &headers).await?;
    show(JsonLines::new(response), if quiet { To::Nowhere } else { to }).await
}

/// Shows a stream of progress; its error is the command's.
pub async fn show(mut lines: JsonLines, to: To) -> Outcome {
    let mut progress = Progress::new(to);
    while let Some(message) = lines.next::<Value>().await? {
        progress.take(&message)?;
    }
    Ok(())
}

/// Options of `push`.
#[derive(Debug, clap::Args)]
pub struct PushArgs {
    /// Push all tags of an image to the repository
    #[arg(short, long)]
    pub all_tags: bool,
    /// Skip image signing
    #[arg(long, default_value = "true", hide = true)]
    pub disable_content_trust: bool,
    /// Push a platform-specific manifest as a single-platform image to the registry (Formatted as "os[/arch[/variant]]")
    #[arg(long)]
    pub platform: Option<String>,
    /// Suppress verbose output
    #[arg(short, long)]
    pub quiet: bool,
    /// Image
    #[arg(default_value = "", hide_default_value = true)]
    pub image: String,
}

/// `push`; without an image, those that the project here builds.
pub async fn push(context: Context, args: PushArgs) -> Outcome {
    if args.image.is_empty() {
        names::meant(&context, &[]).await?;
        let push = stack_images::PushArgs { quiet: args.quiet, ..stack_images::PushArgs::default() };
        return stack_images::push(context, push).await;
    }
    push_one(&context, args).await
}

/// Pushes an image.
pub async fn push_one(context: &Context, args: PushArgs) -> Outcome {
    let (name, tag, digest) = reference::split(&args.image);
    if digest.is_some() {
        return Err(Failure::new("cannot push a digest reference"));
    }
    let tag = match (args.all_tags, tag) {
        (true, Some(_)) => return Err(Failure::new("tag can't be used with --all-tags/-a")),
        (true, None) => None,
        (false, tag) => {
            if tag.is_none() && !args.quiet {
                say!("Using default tag: latest")?;
            }
            Some(tag.unwrap_or("latest"))
        }
    };
    let query = Query::new().maybe("tag", tag).maybe("platform", args.platform.as_deref());
    let credentials = ConfigFile::read(&context.config)?.credentials(reference::registry(name));
    let headers = [("x-registry-auth", auth::header(&credentials))];
    let response = context.client.post_with_headers(&format!("/images/{}/push{query}", escape(name)), &headers).await?;
    show(JsonLines::new(response), if args.quiet { To::Nowhere } else { To::Output }).await?;
    if args.quiet {
        say!("{}", reference::canonical(&args.image))?;
    }
    Ok(())
}

/// Options of `search`.
#[derive(Debug, clap::Args)]
pub struct SearchArgs {
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "filter")]
    pub filter: Vec<String>,
    /// Pretty-print search using a Go template
    #[arg(long)]
    pub format: Option<String>,
    /// Max number of search results
    #[arg(long)]
    pub limit: Option<u32>,
    /// Don't truncate output
    #[arg(long)]
    pub no_trunc: bool,
    /// What to look for
    pub term: String,
}

/// `search`
pub async fn search(context: Context, args: SearchArgs) -> Outcome {
    const COLUMNS: [Column; 4] =
        [("NAME", "Name"), ("DESCRIPTION", "Description"), ("STARS", "StarCount"), ("OFFICIAL", "IsOfficial")];
    let limit = args.limit.map(|limit| limit.to_string());
    let query = Query::new().with("term", &args.term).maybe("limit", limit).filters(&args.filter)?;
    let headers = headers(&context, &args.term)?;
    let found: Vec<Value> = context.client.get_with_headers(&format!("/images/search{query}"), &headers).await?;
    let rows: Vec<Row> = found.iter().map(|hit| search_row(hit, args.no_trunc)).collect();
    table::print(&rows, &COLUMNS, args.format.as_deref())
}

/// One hit. A description is anybody's text: it gets one line, and nothing that a terminal would act on.
fn search_row(hit: &Value, whole: bool) -> Row {
    let plain = |name: &str| -> String {
        let text = hit[name].as_str().unwrap_or_default();
        text.split(char::is_control).collect::<Vec<_>>().join(" ").trim().to_owned()
    };
    let description = plain("description");
    let description = if whole { description } else { ids::ellipsis(&description, 45) };
    let mark = |name: &str| if hit[name] == true { "[OK]" } else { "" };
    table::row([
        ("Name", json!(plain("name"))),
        ("Description", json!(description)),
        ("StarCount", json!(hit["star_count"].as_i64().unwrap_or(0).to_string())),
        ("IsOfficial", json!(mark("is_official"))),
        ("IsAutomated", json!(mark("is_automated"))),
    ])
}

/// The header with the credentials for the registry of a name.
pub fn headers(context: &Context, name: &str) -> Outcome<[(&'static str, String); 1]> {
    let credentials = ConfigFile::read(&context.config)?.credentials(reference::registry(name));
    Ok([("x-registry-auth", auth::header(&credentials))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_of_a_search_are_one_harmless_line() {
        let hit = json!({"name": "busybox", "star_count": 7, "is_official": true,
            "description": format!("first\nsecond \u{1b}[2J{}", "x".repeat(100))});
        let row = search_row(&hit, false);
        assert_eq!(
            (&row["Name"], &row["StarCount"], &row["IsOfficial"]),
            (&json!("busybox"), &json!("7"), &json!("[OK]"))
        );
        let description = row["Description"].as_str().unwrap_or_default();
        assert!(description.starts_with("first second ") && description.chars().count() == 45, "{description:?}");
        assert!(!description.contains(char::is_control));
        assert!(search_row(&hit, true)["Description"].as_str().unwrap_or_default().len() > 100);
        assert_eq!(search_row(&json!({}), false)["IsOfficial"], "");
    }
}
