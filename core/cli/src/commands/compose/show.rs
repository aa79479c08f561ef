//! Commands that show stacks and what is in them: `ls ps images top port events stats version volumes`.

use http::Method;
use serde_json::{Value, json};

use super::problems;
use super::project::{self, SERVICE};
use crate::client::{JsonLines, Query, escape};
use crate::commands::container::{list, show};
use crate::commands::image::reference;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::say;
use crate::output::table::{self, Column, Row};
use crate::output::{human, ids};

/// Options of `compose ls`.
#[derive(Debug, clap::Args)]
pub struct LsArgs {
    /// Show all stopped Compose projects
    #[arg(short, long)]
    pub all: bool,
    /// Filter output based on conditions provided
    #[arg(long, value_name = "filter")]
    pub filter: Vec<String>,
    /// Format the output. Values: [table | json]
    #[arg(long)]
    pub format: Option<String>,
    /// Only display project names
    #[arg(short, long)]
    pub quiet: bool,
}

/// `compose ls`, `stack ls`
pub async fn ls(context: Context, args: LsArgs) -> Outcome {
    let mut stacks: Vec<Value> = context.client.get("/sampan/v1/stacks").await?;
    for filter in &args.filter {
        match filter.split_once('=') {
            Some(("name", wanted)) => {
                stacks.retain(|stack| stack["name"].as_str().is_some_and(|name| name.contains(wanted)))
            }
            _ => return Err(Failure::usage(format!("invalid filter {filter:?}: use name=TEXT"))),
        }
    }
    let rows: Vec<Row> = stacks
        .iter()
        .map(|stack| {
            let files: Vec<&str> =
                stack["config_files"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let broken = stack["problem"].as_str().is_some_and(|problem| !problem.is_empty());
            let status = stack["status"].as_str().unwrap_or_default();
            table::row([
                ("ConfigFiles", json!(files.join(","))),
                ("Name", stack["name"].clone()),
                ("Problem", stack["problem"].clone()),
                ("Services", stack["services"].clone()),
                (
                    "Status",
                    json!(match (held(stack), broken) {
                        _ if stack["paused"] == true => format!("{status}, paused"),
                        (true, _) => format!("{status}, update held back"),
                        (false, true) => format!("{status}, files broken"),
                        (false, false) => status.to_owned(),
                    }),
                ),
                ("Watching", stack["watching"].clone()),
            ])
        })
        .collect();
    if args.quiet {
        let names: String = rows.iter().map(|row| format!("{}\n", row["Name"].as_str().unwrap_or_default())).collect();
        return table::write_all(&names);
    }
    if args.format.as_deref() == Some("json") {
        // One array, as Compose prints it here.
        let all = Value::Array(rows.into_iter().map(Value::Object).collect());
        return table::write_all(&format!("{all}\n"));
    }
    const COLUMNS: [Column; 3] = [("NAME", "Name"), ("STATUS", "Status"), ("CONFIG FILES", "ConfigFiles")];
    table::print(&rows, &COLUMNS, args.format.as_deref())?;
    stacks.iter().for_each(problems::tell_of);
    Ok(())
}

/// Whether an update failed, and what ran before runs on.
fn held(stack: &Value) -> bool {
    stack["held"].as_object().is_some_and(|held| !held.is_empty())
}

/// Options of `compose ps`.
#[derive(Debug, clap::Args)]
pub struct PsArgs {
    /// Show all stopped containers (including those created by the run command)
    #[arg(short, long)]
    pub all: bool,
    /// Filter services by a property (supported filters: status)
    #[arg(long)]
    pub filter: Vec<String>,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json' or a Go template
    #[arg(long)]
    pub format: Option<String>,
    /// Don't truncate output
    #[arg(long)]
    pub no_trunc: bool,
    /// Include orphaned services (not declared by project)
    #[arg(long, default_value = "true")]
    pub orphans: bool,
    /// Only display IDs
    #[arg(short, long)]
    pub quiet: bool,
    /// Display services
    #[arg(long)]
    pub services: bool,
    /// Filter services by status
    #[arg(long)]
    pub status: Vec<String>,
    /// Services
    #[arg(value_name = "SERVICE")]
    pub names: Vec<String>,
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// `compose ps`
pub async fn ps(context: Context, args: PsArgs) -> Outcome {
    let chosen = project::find(&context.client, &context.project).await?;
    list_of(&context, &chosen, &args).await
}

async fn list_of(context: &Context, chosen: &project::Chosen, args: &PsArgs) -> Outcome {
    let mut statuses = args.status.clone();
    for filter in &args.filter {
        match filter.split_once('=') {
            Some(("status", status)) => statuses.push(status.to_owned()),
            _ => return Err(Failure::usage(format!("invalid filter {filter:?}: use status=STATUS"))),
        }
    }
    let all = args.all || !statuses.is_empty();
    let mut found = project::containers(&context.client, &chosen.name, &args.names, all, all).await?;
    found.retain(|container| statuses.is_empty() || statuses.iter().any(|status| status == text(&container["State"])));
    if !args.orphans
        && let Some(model) = &chosen.project
    {
        found.retain(|container| model.service(text(&container["Labels"][SERVICE])).is_some());
    }
    if args.services {
        let mut names: Vec<&str> = found.iter().map(|container| text(&container["Labels"][SERVICE])).collect();
        names.dedup();
        return table::write_all(&names.iter().map(|name| format!("{name}\n")).collect::<String>());
    }
    if args.quiet {
        return table::write_all(
            &found.iter().map(|container| format!("{}\n", text(&container["Id"]))).collect::<String>(),
        );
    }
    let rows: Vec<Row> = found
        .iter()
        .map(|container| {
            let mut row = list::row(container, args.no_trunc);
            let status = text(&container["Status"]);
            let health =
                ["(healthy)", "(unhealthy)", "(health: starting)"].into_iter().find(|word| status.contains(word));
            row.insert("Name".into(), json!(project::name(container)));
            row.insert("Service".into(), container["Labels"][SERVICE].clone());
            row.insert("Project".into(), json!(chosen.name));
            let health = match health {
                Some("(health: starting)") => "starting",
                Some(word) => word.trim_matches(['(', ')']),
                None => "",
            };
            row.insert("Health".into(), json!(health));
            row.insert("ExitCode".into(), json!(exit_code(status)));
            row.insert("Publishers".into(), publishers(&container["Ports"]));
            row
        })
        .collect();
    const COLUMNS: [Column; 7] = [
        ("NAME", "Name"),
        ("IMAGE", "Image"),
        ("COMMAND", "Command"),
        ("SERVICE", "Service"),
        ("CREATED", "RunningFor"),
        ("STATUS", "Status"),
        ("PORTS", "Ports"),
    ];
    table::print(&rows, &COLUMNS, args.format.as_deref())?;
    if args.format.is_none()
        && let Ok(stack) = context.client.get::<Value>(&format!("/sampan/v1/stacks/{}", escape(&chosen.name))).await
    {
        problems::tell_of(&stack);
    }
    Ok(())
}

/// From `Exited (3) 2 minutes ago`.
fn exit_code(status: &str) -> i64 {
    let inner = status.strip_prefix("Exited (").and_then(|rest| rest.split(')').next());
    inner.and_then(|code| code.parse().ok()).unwrap_or(0)
}

/// Published ports as Compose lists them.
fn publishers(ports: &Value) -> Value {
    let one = |port: &Value| {
        json!({
            "URL": text(&port["IP"]), "TargetPort": port["PrivatePort"].as_u64().unwrap_or(0),
            "PublishedPort": port["PublicPort"].as_u64().unwrap_or(0), "Protocol": text(&port["Type"]),
        })
    };
    Value::Array(ports.as_array().into_iter().flatten().map(one).collect())
}

/// Options of `stack ps`, `stack rm` and the like: a stack by its name.
#[derive(Debug, clap::Args)]
pub struct StackArgs {
    /// Remove named volumes, too (rm)
    #[arg(short, long)]
    pub volumes: bool,
    /// Stacks
    #[arg(required = true)]
    pub stacks: Vec<String>,
}

/// `stack ps`
pub async fn stack_ps(context: Context, args: StackArgs) -> Outcome {
    let ps = PsArgs {
        all: true,
        filter: Vec::new(),
        format: None,
        no_trunc: false,
        orphans: true,
        quiet: false,
        services: false,
        status: Vec::new(),
        names: Vec::new(),
    };
    for name in args.stacks {
        list_of(&context, &project::Chosen { name, request: None, project: None }, &ps).await?;
    }
    Ok(())
}

/// `stack rm`
pub async fn stack_rm(context: Context, args: StackArgs) -> Outcome {
    let down = super::up::DownArgs { volumes: args.volumes, ..super::up::DownArgs::default() };
    for name in args.stacks {
        let chosen = project::Chosen { name, request: None, project: None };
        super::up::down_named(&context.client, &chosen, &down, &context.project).await?;
    }
    Ok(())
}

/// Options of `compose images`.
#[derive(Debug, clap::Args)]
pub struct ImagesArgs {
    /// Format the output. Values: [table | json]
    #[arg(long)]
    pub format: Option<String>,
    /// Only display IDs
    #[arg(short, long)]
    pub quiet: bool,
    /// Services
    pub services: Vec<String>,
}

/// `compose images`
pub async fn images(context: Context, args: ImagesArgs) -> Outcome {
    let client = &context.client;
    let chosen = project::find(client, &context.project).await?;
    let found = project::containers(client, &chosen.name, &args.services, true, false).await?;
    let mut rows = Vec::new();
    for container in &found {
        let id = text(&container["ImageID"]);
        let image: Value = client.get(&format!("/images/{}/json", escape(id))).await.unwrap_or_default();
        let (name, tag, _) = reference::split(text(&container["Image"]));
        let created = image["Created"].as_str().and_then(human::unix_seconds).unwrap_or(0);
        let platform: Vec<&str> = ["Os", "Architecture", "Variant"]
            .iter()
            .map(|field| text(&image[*field]))
            .filter(|part| !part.is_empty())
            .collect();
        rows.push(table::row([
            ("ContainerName", json!(project::name(container))),
            ("Created", json!(human::ago(created))),
            ("ID", json!(id)),
            ("Platform", json!(platform.join("/"))),
            ("Repository", json!(name)),
            ("ShortID", json!(ids::short(id, false))),
            ("Size", json!(human::decimal_size(image["Size"].as_u64().unwrap_or(0)))),
            ("Tag", json!(tag.unwrap_or("latest"))),
        ]));
    }
    if args.quiet {
        let mut ids: Vec<&str> =
            rows.iter().map(|row| text(&row["ID"])).map(|id| id.trim_start_matches("sha256:")).collect();
        ids.sort_unstable();
        ids.dedup();
        return table::write_all(&ids.iter().map(|id| format!("{id}\n")).collect::<String>());
    }
    const COLUMNS: [Column; 7] = [
        ("CONTAINER", "ContainerName"),
        ("REPOSITORY", "Repository"),
        ("TAG", "Tag"),
        ("PLATFORM", "Platform"),
        ("IMAGE ID", "ShortID"),
        ("SIZE", "Size"),
        ("CREATED", "Created"),
    ];
    table::print(&rows, &COLUMNS, args.format.as_deref())
}

/// Services and nothing else.
#[derive(Debug, clap::Args)]
pub struct TopArgs {
    /// Services
    pub services: Vec<String>,
}

/// `compose top`
pub async fn top(context: Context, args: TopArgs) -> Outcome {
    let client = &context.client;
    let chosen = project::find(client, &context.project).await?;
    for container in project::containers(client, &chosen.name, &args.services, false, false).await? {
        let found: Value = client.get(&format!("/containers/{}/top", text(&container["Id"]))).await?;
        say!("{}", project::name(&container))?;
        let words = |row: &Value| row.as_array().into_iter().flatten().map(|cell| text(cell).to_owned()).collect();
        let lines = std::iter::once(&found["Titles"])
            .chain(found["Processes"].as_array().into_iter().flatten())
            .map(words)
            .collect();
        table::print_lines(lines)?;
        say!()?;
    }
    Ok(())
}

/// Options of `compose port`.
#[derive(Debug, clap::Args)]
pub struct PortArgs {
    /// Index of the container if service has multiple replicas
    #[arg(long, value_name = "int", default_value_t = 0)]
    pub index: u32,
    /// tcp or udp
    #[arg(long, default_value = "tcp")]
    pub protocol: String,
    /// Service
    pub service: String,
    /// Private port
    pub port: u16,
}

/// `compose port`
pub async fn port(context: Context, args: PortArgs) -> Outcome {
    let chosen = project::find(&context.client, &context.project).await?;
    let container = project::container_of(&context.client, &chosen.name, &args.service, args.index).await?;
    let found: Value = context.client.get(&format!("/containers/{}/json", text(&container["Id"]))).await?;
    let wanted = format!("{}/{}", args.port, args.protocol);
    let lines = show::bindings(&found["NetworkSettings"]["Ports"], project::name(&container), Some(&wanted))?;
    // Compose names one address.
    table::write_all(&lines.lines().take(1).map(|line| format!("{line}\n")).collect::<String>())
}

/// Options of `compose events`.
#[derive(Debug, clap::Args)]
pub struct EventsArgs {
    /// Output events as a stream of json objects
    #[arg(long)]
    pub json: bool,
    /// Services
    pub services: Vec<String>,
}

/// `compose events`
pub async fn events(context: Context, args: EventsArgs) -> Outcome {
    let chosen = project::find(&context.client, &context.project).await?;
    let query = Query::new().filters(&[
        format!("label={}={}", project::PROJECT, chosen.name),
        "type=container".to_owned(),
        "type=config".to_owned(),
    ])?;
    let response = context.client.call(Method::GET, &format!("/events{query}"), None::<&()>).await?;
    let mut lines = JsonLines::new(response);
    while let Some(event) = lines.next::<Value>().await? {
        let attributes = &event["Actor"]["Attributes"];
        let service = text(&attributes[SERVICE]);
        if !args.services.is_empty() && !args.services.iter().any(|name| name == service) {
            continue;
        }
        let time = human::rfc3339(event["time"].as_i64().unwrap_or(0));
        let (action, id) = (text(&event["Action"]), text(&event["Actor"]["ID"]));
        // The stack's own files: what is wrong with them.
        if event["Type"] == "config" {
            let problem = text(&attributes["problem"]);
            let line = if args.json {
                json!({"time": time, "type": "config", "action": action, "id": id, "attributes": {"problem": problem}})
                    .to_string()
            } else {
                format!("{time} config {action} {id} (problem={problem})")
            };
            table::write_all(&format!("{line}\n"))?;
            continue;
        }
        if args.json {
            let line = json!({
                "time": time, "type": "container", "action": action, "id": id, "service": service,
                "attributes": {"image": attributes["image"], "name": attributes["name"]},
            });
            table::write_all(&format!("{line}\n"))?;
        } else {
            table::write_all(&format!(
                "{time} container {action} {id} (image={}, name={})\n",
                text(&attributes["image"]),
                text(&attributes["name"])
            ))?;
        }
    }
    Ok(())
}

/// Options of `compose stats`.
#[derive(Debug, clap::Args)]
pub struct StatsArgs {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    pub all: bool,
    /// Format output using a custom template
    #[arg(long)]
    pub format: Option<String>,
    /// Disable streaming stats and only pull the first result
    #[arg(long)]
    pub no_stream: bool,
    /// Do not truncate output
    #[arg(long)]
    pub no_trunc: bool,
    /// Services
    pub services: Vec<String>,
}

/// `compose stats`
pub async fn stats(context: Context, args: StatsArgs) -> Outcome {
    let chosen = project::find(&context.client, &context.project).await?;
    let found = project::containers(&context.client, &chosen.name, &args.services, args.all, false).await?;
    let containers: Vec<String> = found.iter().map(|container| project::name(container).to_owned()).collect();
    if containers.is_empty() {
        return Err(Failure::new("no container of the stack is running"));
    }
    let stats = crate::commands::container::stats::StatsArgs {
        all: args.all,
        format: args.format,
        no_stream: args.no_stream,
        no_trunc: args.no_trunc,
        containers,
    };
    crate::commands::container::stats::run(context, stats).await
}

/// Options of `compose version`.
#[derive(Debug, clap::Args)]
pub struct VersionArgs {
    /// Format the output. Values: [pretty | json]
    #[arg(short, long)]
    pub format: Option<String>,
    /// Shows only the version number
    #[arg(long)]
    pub short: bool,
}

/// `compose version`
pub async fn version(_context: Context, args: VersionArgs) -> Outcome {
    let version = env!("CARGO_PKG_VERSION");
    table::write_all(&match (args.short, args.format.as_deref()) {
        (true, _) => format!("{version}\n"),
        (_, Some("json")) => format!("{}\n", json!({"version": version})),
        _ => format!("Sampan Compose version {version}\n"),
    })
}

/// Options of `compose volumes`.
#[derive(Debug, clap::Args)]
pub struct VolumesArgs {
    /// Format output using a custom template
    #[arg(long)]
    pub format: Option<String>,
    /// Only display volume names
    #[arg(short, long)]
    pub quiet: bool,
}

/// `compose volumes`
pub async fn volumes(context: Context, args: VolumesArgs) -> Outcome {
    let chosen = project::find(&context.client, &context.project).await?;
    let filter = vec![format!("label={}={}", project::PROJECT, chosen.name)];
    let list = crate::commands::volume::ListArgs { filter, format: args.format, quiet: args.quiet };
    crate::commands::volume::list(context, list).await
}

/// Options of `compose cp`.
#[derive(Debug, clap::Args)]
pub struct CopyArgs {
    /// Archive mode (copy all uid/gid information)
    #[arg(short, long)]
    pub archive: bool,
    /// Always follow symbol link in SRC_PATH
    #[arg(short = 'L', long)]
    pub follow_link: bool,
    /// Index of the container if service has multiple replicas
    #[arg(long, value_name = "int", default_value_t = 0)]
    pub index: u32,
    /// Source
    pub source: String,
    /// Destination
    pub destination: String,
}

/// `compose cp`
pub async fn copy(context: Context, args: CopyArgs) -> Outcome {
    let chosen = project::find(&context.client, &context.project).await?;
    let mut sides = Vec::new();
    for side in [args.source, args.destination] {
        sides.push(match side.split_once(':') {
            Some((service, path)) if !side.starts_with(['/', '.']) && !service.contains('/') => {
                let container = project::container_of(&context.client, &chosen.name, service, args.index).await?;
                format!("{}:{path}", project::name(&container))
            }
            _ => side,
        });
    }
    let (Some(destination), Some(source)) = (sides.pop(), sides.pop()) else { return Ok(()) };
    let copy = crate::commands::container::copy::CopyArgs {
        archive: args.archive,
        follow_link: args.follow_link,
        quiet: false,
        source,
        destination,
    };
    crate::commands::container::copy::run(context, copy).await
}
