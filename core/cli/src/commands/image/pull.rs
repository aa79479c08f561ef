//! `pull` and `push`.

use serde_json::Value;

use super::auth::{self, ConfigFile};
use super::reference;
use crate::client::{JsonLines, Query, escape};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::progress::{Progress, To};
use crate::output::say;

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
    pub image: String,
}

/// `pull`
pub async fn pull(context: Context, args: PullArgs) -> Outcome {
    let (_, tag, digest) = reference::split(&args.image);
    if args.all_tags {
        if tag.is_some() || digest.is_some() {
            return Err(Failure::new("tag can't be used with --all-tags/-a"));
        }
        return Err(Failure::new("--all-tags is not supported: name the tags to pull"));
    }
    if tag.is_none() && digest.is_none() && !args.quiet {
        say!("Using default tag: latest")?;
    }
    fetch(&context, &args.image, args.platform.as_deref(), args.quiet, To::Output).await?;
    say!("{}", reference::canonical(&args.image))?;
    Ok(())
}

/// The image's name with its tag, as messages show it.
pub fn familiar(image: &str) -> String {
    reference::tagged(image)
}

/// Pulls what a container needs, with the progress on standard error.
pub async fn for_run(context: &Context, image: &str, platform: Option<&str>, quiet: bool) -> Outcome {
    fetch(context, image, platform, quiet, To::Errors).await
}

async fn fetch(context: &Context, image: &str, platform: Option<&str>, quiet: bool, to: To) -> Outcome {
    let (name, tag, digest) = reference::split(image);
    let query = Query::new()
        .with("fromImage", name)
        .with("tag", digest.or(tag).unwrap_or("latest"))
        .maybe("platform", platform);
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
    /// Suppress verbose output
    #[arg(short, long)]
    pub quiet: bool,
    /// Image
    pub image: String,
}

/// `push`
pub async fn push(context: Context, args: PushArgs) -> Outcome {
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
    let query = Query::new().maybe("tag", tag);
    let credentials = ConfigFile::read(&context.config)?.credentials(reference::registry(name));
    let headers = [("x-registry-auth", auth::header(&credentials))];
    let response = context.client.post_with_headers(&format!("/images/{}/push{query}", escape(name)), &headers).await?;
    show(JsonLines::new(response), if args.quiet { To::Nowhere } else { To::Output }).await?;
    if args.quiet {
        say!("{}", reference::canonical(&args.image))?;
    }
    Ok(())
}

/// Arguments of `search`.
#[derive(Debug, clap::Args)]
pub struct SearchArgs {
    /// What to look for
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub term: Vec<String>,
}

/// `search`
pub async fn search(_context: Context, _args: SearchArgs) -> Outcome {
    Err(Failure::new(
        "search is not supported: registries are searched on their own pages; name the image and its registry to pull it",
    ))
}
