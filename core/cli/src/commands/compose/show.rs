//! Commands that show stacks and their containers: `ls ps`, `stack ls ps rm`.

use serde_json::{Value, json};

use super::problems;
use super::project::{self, SERVICE};
use crate::client::escape;
use crate::commands::container::list;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::table::{self, Column, Row};

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

/// `stack ls`: all of them.
pub async fn stack_ls(context: Context, args: LsArgs) -> Outcome {
    ls(context, LsArgs { all: true, ..args }).await
}

/// Whether a stack is shown without `--all`: something of it runs, or something is wrong with it.
fn lives(stack: &Value) -> bool {
    let status = text(&stack["status"]);
    ["running", "restarting", "paused"].iter().any(|state| status.contains(state))
        || !text(&stack["problem"]).is_empty()
}

/// `ls`
pub async fn ls(context: Context, args: LsArgs) -> Outcome {
    let mut stacks: Vec<Value> = context.client.get("/sampan/v1/stacks").await?;
    stacks.retain(|stack| args.all || lives(stack));
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
            let troubled = stack["problem"].as_str().is_some_and(|problem| !problem.is_empty());
            let status = stack["status"].as_str().unwrap_or_default();
            table::row([
                ("ConfigFiles", json!(files.join(","))),
                ("Name", stack["name"].clone()),
                ("Problem", stack["problem"].clone()),
                ("Services", stack["services"].clone()),
                (
                    "Status",
                    json!(match (held(stack), troubled) {
                        _ if stack["left_to"].is_string() => format!("{status}, left to docker compose"),
                        _ if stack["paused"] == true => format!("{status}, paused"),
                        (true, _) => format!("{status}, update held back"),
                        (false, true) if stack["broken"] == true => format!("{status}, files broken"),
                        (false, true) => format!("{status}, something failed"),
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
    if args.orphans {
        // A service that left the files still has containers to be asked for.
        let known = project::containers(&context.client, &chosen.name, &args.names, true, true).await?;
        let gone = |name: &&String| known.iter().all(|found| text(&found["Labels"][SERVICE]) != name.as_str());
        chosen.check(&args.names.iter().filter(gone).cloned().collect::<Vec<_>>())?;
    } else {
        chosen.check(&args.names)?;
    }
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
