//! `volume …`

use bollard_stubs::models::VolumeCreateRequest;
use serde_json::{Value, json};

use super::container::change::each_told;
use super::container::prune::{confirm, prune as prune_objects, report};
use crate::client::{Query, escape};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags;
use crate::output::table::{self, Column, Row};
use crate::output::{human, ids, json as layout};
use crate::output::{say, tell};

/// Options of `volume create`.
#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// Specify volume driver name
    #[arg(short, long, default_value = "local")]
    pub driver: String,
    /// Set metadata for a volume
    #[arg(long)]
    pub label: Vec<String>,
    /// Specify volume name
    #[arg(long, hide = true)]
    pub name: Option<String>,
    /// Set driver specific options
    #[arg(short, long, value_name = "map")]
    pub opt: Vec<String>,
    /// Name
    pub volume: Option<String>,
}

/// `volume create`
pub async fn create(context: Context, args: CreateArgs) -> Outcome {
    if args.name.is_some() && args.volume.is_some() {
        return Err(Failure::new(
            "conflicting options: cannot specify a volume-name through both --name and as a positional arg",
        ));
    }
    let request = VolumeCreateRequest {
        name: args.volume.or(args.name),
        driver: Some(args.driver),
        driver_opts: Some(flags::map(&args.opt)),
        labels: Some(flags::env::labels(&[], &args.label).map_err(Failure::usage)?),
        ..VolumeCreateRequest::default()
    };
    let made: Value = context.client.post("/volumes/create", &request).await?;
    say!("{}", made["Name"].as_str().unwrap_or_default())?;
    Ok(())
}

/// Options of `volume inspect`.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// Format output using a custom template: 'json' or a Go template
    #[arg(short, long)]
    pub format: Option<String>,
    /// Volumes
    #[arg(required = true)]
    pub volumes: Vec<String>,
}

/// `volume inspect`
pub async fn inspect(context: Context, args: InspectArgs) -> Outcome {
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    for name in &args.volumes {
        match context.client.get::<Value>(&format!("/volumes/{}", escape(name))).await {
            Ok(value) => found.push(value),
            Err(failure) => failed.push(failure),
        }
    }
    layout::inspected(&found, &failed, args.format.as_deref())
}

/// Options of `volume ls`.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Provide filter values (e.g. "dangling=true")
    #[arg(short, long, value_name = "filter")]
    pub filter: Vec<String>,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json' or a Go template
    #[arg(long)]
    pub format: Option<String>,
    /// Only display volume names
    #[arg(short, long)]
    pub quiet: bool,
}

/// `volume ls`
pub async fn list(context: Context, args: ListArgs) -> Outcome {
    let query = Query::new().filters(&args.filter)?;
    let answer: Value = context.client.get(&format!("/volumes{query}")).await?;
    for warning in answer["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        tell!("{warning}");
    }
    let mut rows: Vec<Row> = answer["Volumes"].as_array().into_iter().flatten().map(row).collect();
    rows.sort_by_key(|row| row["Name"].as_str().unwrap_or_default().to_owned());
    if args.quiet && args.format.is_none() {
        let names: String = rows.iter().map(|row| format!("{}\n", row["Name"].as_str().unwrap_or_default())).collect();
        return table::write_all(&names);
    }
    const COLUMNS: [Column; 2] = [("DRIVER", "Driver"), ("VOLUME NAME", "Name")];
    table::print(&rows, &COLUMNS, args.format.as_deref())
}

/// A volume's fields under the names that templates use.
pub fn row(volume: &Value) -> Row {
    let size = volume["UsageData"]["Size"].as_i64().and_then(|size| u64::try_from(size).ok());
    let links = volume["UsageData"]["RefCount"].as_i64().filter(|count| *count >= 0);
    table::row([
        ("Availability", json!("N/A")),
        ("Driver", volume["Driver"].clone()),
        ("Group", json!("N/A")),
        ("Labels", json!(ids::labels(&volume["Labels"]))),
        ("Links", json!(links.map_or("N/A".to_owned(), |count| count.to_string()))),
        ("Mountpoint", volume["Mountpoint"].clone()),
        ("Name", volume["Name"].clone()),
        ("Scope", volume["Scope"].clone()),
        ("Size", json!(size.map_or("N/A".to_owned(), human::size))),
        ("Status", json!("N/A")),
        (table::LABELS, volume["Labels"].clone()),
    ])
}

/// Options of `volume rm`.
#[derive(Debug, clap::Args)]
pub struct RemoveArgs {
    /// Force the removal of one or more volumes
    #[arg(short, long)]
    pub force: bool,
    /// Volumes
    #[arg(required = true)]
    pub volumes: Vec<String>,
}

/// `volume rm`
pub async fn remove(context: Context, args: RemoveArgs) -> Outcome {
    let query = Query::new().flag("force", args.force);
    let client = &context.client;
    each_told(&args.volumes, async |name| {
        client.delete(&format!("/volumes/{}{query}", escape(name))).await.map(|_| name.to_owned())
    })
    .await
}

/// Options of `volume prune`.
#[derive(Debug, clap::Args)]
pub struct PruneArgs {
    /// Remove all unused volumes, not just anonymous ones
    #[arg(short, long)]
    pub all: bool,
    /// Provide filter values (e.g. "label=<label>")
    #[arg(long, value_name = "filter")]
    pub filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    pub force: bool,
}

/// `volume prune`
pub async fn prune(context: Context, args: PruneArgs) -> Outcome {
    let mut filters = args.filter;
    let warning = if args.all {
        filters.push("all=1".to_owned());
        "This will remove all local volumes not used by at least one container."
    } else {
        "This will remove anonymous local volumes not used by at least one container."
    };
    confirm(args.force, warning)?;
    let (names, space) = prune_objects(&context, "volumes", &filters, "VolumesDeleted").await?;
    report("Volumes", &names)?;
    say!("Total reclaimed space: {}", human::size(space))?;
    Ok(())
}
