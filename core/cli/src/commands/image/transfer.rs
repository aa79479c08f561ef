//! Images as archives: `save load import`.

use http::Method;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use super::{pull, reference};
use crate::archive;
use crate::client::{JsonLines, Query};
use crate::commands::container::copy::write_out;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::progress::To;
use crate::output::terminal;

/// Options of `save`.
#[derive(Debug, clap::Args)]
pub struct SaveArgs {
    /// Write to a file, instead of STDOUT
    #[arg(short, long)]
    pub output: Option<PathBuf>,
    /// Save only the given platform variant (Formatted as "os[/arch[/variant]]")
    #[arg(long)]
    pub platform: Option<String>,
    /// Images
    #[arg(required = true)]
    pub images: Vec<String>,
}

/// `save`
pub async fn save(context: Context, args: SaveArgs) -> Outcome {
    if args.output.is_none() && terminal::output_is_terminal() {
        return Err(Failure::new("cowardly refusing to save to a terminal. Use the -o flag or redirect"));
    }
    let query = Query::new().maybe("platform", args.platform.as_deref());
    let query = args.images.iter().fold(query, |query, image| query.with("names", image));
    let response = context.client.call(Method::GET, &format!("/images/get{query}"), None::<&()>).await?;
    write_out(response, args.output.as_deref()).await.map(drop)
}

/// Options of `load`.
#[derive(Debug, clap::Args)]
pub struct LoadArgs {
    /// Read from tar archive file, instead of STDIN
    #[arg(short, long)]
    pub input: Option<PathBuf>,
    /// Load only the given platform variant (Formatted as "os[/arch[/variant]]")
    #[arg(long)]
    pub platform: Option<String>,
    /// Suppress the load output
    #[arg(short, long)]
    pub quiet: bool,
}

/// `load`
pub async fn load(context: Context, args: LoadArgs) -> Outcome {
    let from: Box<dyn Read + Send> = match &args.input {
        Some(path) => {
            Box::new(File::open(path).map_err(|error| Failure::new(format!("open {}: {error}", path.display())))?)
        }
        None if terminal::input_is_terminal() => {
            return Err(Failure::new("requested load from stdin, but stdin is empty"));
        }
        None => Box::new(std::io::stdin()),
    };
    let quiet = if args.quiet { "1" } else { "0" };
    let query = Query::new().with("quiet", quiet).maybe("platform", args.platform.as_deref());
    let response =
        context.client.upload(Method::POST, &format!("/images/load{query}"), archive::upload(from), &[]).await?;
    pull::show(JsonLines::new(response), To::Output).await
}

/// Options of `import`.
#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// Apply Dockerfile instruction to the created image
    #[arg(short, long)]
    pub change: Vec<String>,
    /// Set commit message for imported image
    #[arg(short, long)]
    pub message: Option<String>,
    /// Set platform if server is multi-platform capable
    #[arg(long)]
    pub platform: Option<String>,
    /// File, URL, or - for standard input
    #[arg(allow_hyphen_values = true)]
    pub source: String,
    /// Name of the image
    pub reference: Option<String>,
}

/// `import`
pub async fn import(context: Context, args: ImportArgs) -> Outcome {
    let url = args.source.starts_with("http://") || args.source.starts_with("https://");
    let from: Box<dyn Read + Send> = match args.source.as_str() {
        "-" => Box::new(std::io::stdin()),
        // The daemon fetches it.
        _ if url => Box::new(std::io::empty()),
        path => Box::new(File::open(path).map_err(|error| Failure::new(format!("open {path}: {error}")))?),
    };
    let source = if url { args.source.as_str() } else { "-" };
    let mut query =
        Query::new().with("fromSrc", source).maybe("message", args.message).maybe("platform", args.platform);
    if let Some(text) = &args.reference {
        let (name, tag, _) = reference::split(text);
        query = query.with("repo", name).maybe("tag", tag);
    }
    for change in &args.change {
        query = query.with("changes", change);
    }
    let response =
        context.client.upload(Method::POST, &format!("/images/create{query}"), archive::upload(from), &[]).await?;
    pull::show(JsonLines::new(response), To::Output).await
}
