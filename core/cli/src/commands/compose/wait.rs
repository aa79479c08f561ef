//! `compose wait`, and the commands that do with one container of a service what `docker` does: `attach commit export`.

use futures_util::{StreamExt, stream};

use super::project;
use crate::commands::container::run::low_byte;
use crate::commands::container::{attach as one, change, commit as image, copy};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::say;

/// Options of `compose wait`.
#[derive(Debug, clap::Args)]
pub struct WaitArgs {
    /// Drops project when the first container stops
    #[arg(long)]
    pub down_project: bool,
    /// Services
    pub services: Vec<String>,
}

/// `compose wait`: ends as the container that ended last; with `--down-project`, as the first.
pub async fn run(context: Context, args: WaitArgs) -> Outcome {
    context.no_dry_run("wait", "it changes nothing but with --down-project")?;
    let client = &context.client;
    let chosen = project::find(client, &context.project).await?;
    chosen.check(&args.services)?;
    let found = project::containers(client, &chosen.name, &args.services, true, false).await?;
    if found.is_empty() {
        return Err(Failure::new(format!("no containers for project \"{}\"", chosen.name)));
    }
    let mut ends = stream::iter(
        found
            .iter()
            .filter_map(|found| found["Id"].as_str())
            .map(|id| async move { (id, change::exit_code(client, id).await) }),
    )
    .buffer_unordered(found.len());
    let mut last = 0;
    while let Some((id, code)) = ends.next().await {
        last = code?;
        say!("container \"{id}\" exited with status code {last}")?;
        if args.down_project {
            super::up::down_named(client, &chosen, &super::up::DownArgs::default(), &context.project).await?;
            break;
        }
    }
    if last == 0 { Ok(()) } else { Err(Failure::exit(low_byte(last))) }
}

/// The name of one container of a service.
async fn container(context: &Context, service: &str, index: u32, running: bool) -> Outcome<String> {
    let chosen = project::find(&context.client, &context.project).await?;
    chosen.check(std::slice::from_ref(&service.to_owned()))?;
    let found = match running {
        true => project::container_of(&context.client, &chosen.name, service, index).await?,
        false => project::any_container_of(&context.client, &chosen.name, service, index).await?,
    };
    Ok(project::name(&found).to_owned())
}

/// Options of `compose attach`.
#[derive(Debug, clap::Args)]
pub struct AttachArgs {
    /// Override the key sequence for detaching from a container
    #[arg(long)]
    pub detach_keys: Option<String>,
    /// Index of the container if service has multiple replicas
    #[arg(long, value_name = "int", default_value_t = 0)]
    pub index: u32,
    /// Do not attach STDIN
    #[arg(long)]
    pub no_stdin: bool,
    /// Proxy all received signals to the process
    #[arg(long, default_value = "true")]
    pub sig_proxy: bool,
    /// Service
    pub service: String,
}

/// `compose attach`
pub async fn attach(context: Context, args: AttachArgs) -> Outcome {
    context.no_dry_run("attach", "it changes nothing")?;
    let container = container(&context, &args.service, args.index, true).await?;
    let AttachArgs { detach_keys, no_stdin, sig_proxy, .. } = args;
    one::attach(context, one::AttachArgs { detach_keys, no_stdin, sig_proxy, container }).await
}

/// Options of `compose commit`.
#[derive(Debug, clap::Args)]
pub struct CommitArgs {
    /// What is said of the image, and how it is made.
    #[command(flatten)]
    pub options: image::CommitOptions,
    /// Index of the container if service has multiple replicas
    #[arg(long, value_name = "int", default_value_t = 0)]
    pub index: u32,
    /// Service
    pub service: String,
    /// Name of the image
    pub reference: Option<String>,
}

/// `compose commit`
pub async fn commit(context: Context, args: CommitArgs) -> Outcome {
    context.no_dry_run("commit", "it would have to make the image")?;
    let container = container(&context, &args.service, args.index, false).await?;
    let CommitArgs { options, reference, .. } = args;
    image::run(context, image::CommitArgs { options, container, reference }).await
}

/// Options of `compose export`.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// Index of the container if service has multiple replicas
    #[arg(long, value_name = "int", default_value_t = 0)]
    pub index: u32,
    /// Write to a file, instead of STDOUT
    #[arg(short, long)]
    pub output: Option<std::path::PathBuf>,
    /// Service
    pub service: String,
}

/// `compose export`
pub async fn export(context: Context, args: ExportArgs) -> Outcome {
    context.no_dry_run("export", "it changes nothing but the file that it writes")?;
    let container = container(&context, &args.service, args.index, false).await?;
    copy::export(context, copy::ExportArgs { output: args.output, container }).await
}

/// Arguments of commands that are known and not there.
#[derive(Debug, clap::Args)]
pub struct RefusedArgs {
    /// Whatever they take
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub arguments: Vec<String>,
}

/// `compose bridge`
pub async fn bridge(_context: Context, _args: RefusedArgs) -> Outcome {
    Err(Failure::new("`bridge` is not supported: `config --format json` prints what converters of projects read"))
}
