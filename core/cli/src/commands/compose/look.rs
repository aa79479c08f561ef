//! Commands that show what is in a stack: `images top port events stats version volumes`.

use http::Method;
use serde_json::{Value, json};

use super::ProjectArgs;
use super::project::{self, NUMBER, SERVICE};
use crate::client::{JsonLines, Query, escape};
use crate::commands::container::show;
use crate::commands::container::stats as container_stats;
use crate::commands::image::reference;
use crate::context::Context;
use crate::failure::Outcome;
use crate::flags::time;
use crate::output::table::{self, Column};
use crate::output::{human, ids};

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
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
    let chosen = project::of_services(&context, &args.services).await?;
    let found = project::containers(client, &chosen.name, &args.services, true, false).await?;
    let (mut rows, mut documents) = (Vec::new(), Vec::new());
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
        documents.push(json!({
            "ID": id, "ContainerName": project::name(container), "Repository": name, "Tag": tag.unwrap_or("latest"),
            "Platform": platform.join("/"), "Size": image["Size"].as_u64().unwrap_or(0), "Created": image["Created"],
            "LastTagTime": image["Metadata"]["LastTagTime"],
        }));
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
    if args.format.as_deref() == Some("json") {
        // One array, as Compose prints it here.
        return table::write_all(&format!("{}\n", Value::Array(documents)));
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
    let chosen = project::of_services(&context, &args.services).await?;
    let mut lines: Vec<Vec<String>> = Vec::new();
    for container in project::containers(client, &chosen.name, &args.services, false, true).await? {
        let found: Value = client.get(&format!("/containers/{}/top", text(&container["Id"]))).await?;
        let words = |row: &Value| row.as_array().into_iter().flatten().map(|cell| text(cell).to_owned()).collect();
        let line = |service: &str, number: &str, cells: Vec<String>| {
            [service.to_owned(), number.to_owned()].into_iter().chain(cells).collect()
        };
        if lines.is_empty() {
            lines.push(line("SERVICE", "#", words(&found["Titles"])));
        }
        let (service, number) = (text(&container["Labels"][SERVICE]), text(&container["Labels"][NUMBER]));
        let processes = found["Processes"].as_array().into_iter().flatten();
        lines.extend(processes.map(|process| line(service, number, words(process))));
    }
    table::write_all(&table::aligned(lines))
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
    /// Private port; all when there is none
    pub port: Option<u16>,
}

/// `compose port`
pub async fn port(context: Context, args: PortArgs) -> Outcome {
    let chosen = project::of_services(&context, std::slice::from_ref(&args.service)).await?;
    let container = project::container_of(&context.client, &chosen.name, &args.service, args.index).await?;
    let found: Value = context.client.get(&format!("/containers/{}/json", text(&container["Id"]))).await?;
    let wanted = args.port.map(|port| format!("{port}/{}", args.protocol));
    let lines = show::bindings(&found["NetworkSettings"]["Ports"], project::name(&container), wanted.as_deref())?;
    if wanted.is_none() {
        return table::write_all(&lines);
    }
    // Compose names one address.
    table::write_all(&lines.lines().take(1).map(|line| format!("{line}\n")).collect::<String>())
}

/// Options of `compose events`.
#[derive(Debug, clap::Args)]
pub struct EventsArgs {
    /// Output events as a stream of json objects
    #[arg(long)]
    pub json: bool,
    /// Show all events created since timestamp
    #[arg(long, value_parser = time::ago)]
    pub since: Option<String>,
    /// Stream events until this timestamp
    #[arg(long, value_parser = time::ago)]
    pub until: Option<String>,
    /// Services
    pub services: Vec<String>,
}

/// `compose events`
pub async fn events(context: Context, args: EventsArgs) -> Outcome {
    let chosen = project::of_services(&context, &args.services).await?;
    let query = Query::new().maybe("since", args.since.as_deref()).maybe("until", args.until.as_deref()).filters(&[
        format!("label={}={}", project::PROJECT, chosen.name),
        "type=container".to_owned(),
        // What is wrong with the stack's own files.
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
        table::write_all(&event_line(&event, args.json))?;
    }
    Ok(())
}

/// An event as Compose writes it: the labels of the project are known, the other attributes are told.
fn event_line(event: &Value, as_json: bool) -> String {
    let nanoseconds = event["timeNano"].as_i64().unwrap_or(0);
    let (seconds, rest) = (nanoseconds.div_euclid(1_000_000_000), nanoseconds.rem_euclid(1_000_000_000));
    let time = human::rfc3339(seconds);
    let kind = Some(text(&event["Type"])).filter(|kind| !kind.is_empty()).unwrap_or("container");
    let (action, id) = (text(&event["Action"]), text(&event["Actor"]["ID"]));
    let all = event["Actor"]["Attributes"].as_object().into_iter().flatten();
    let told: std::collections::BTreeMap<&String, &Value> =
        all.filter(|(name, _)| !name.starts_with("com.docker.compose.") && !name.starts_with("sampan.")).collect();
    if as_json {
        let time = time.replace('Z', &format!(".{rest:09}Z"));
        let service = &event["Actor"]["Attributes"][SERVICE];
        let line = json!({
            "action": action, "attributes": told, "id": id, "service": service, "time": time, "type": kind,
        });
        return format!("{line}\n");
    }
    let told: Vec<String> = told.into_iter().map(|(name, value)| format!("{name}={}", text(value))).collect();
    let time = time.replace('T', " ").replace('Z', &format!(".{:06}", rest / 1000));
    format!("{time} {kind} {action} {id} ({})\n", told.join(", "))
}

/// Options of `compose stats`.
#[derive(Debug, clap::Args)]
pub struct StatsArgs {
    /// How.
    #[command(flatten)]
    pub options: container_stats::StatsOptions,
    /// Services
    pub services: Vec<String>,
}

/// `compose stats`
pub async fn stats(context: Context, args: StatsArgs) -> Outcome {
    let chosen = project::of_services(&context, &args.services).await?;
    let found = project::containers(&context.client, &chosen.name, &args.services, args.options.all, false).await?;
    let containers: Vec<String> = found.iter().map(|container| project::name(container).to_owned()).collect();
    if containers.is_empty() {
        // As with Compose: nothing to show is no failure.
        return Ok(());
    }
    container_stats::run(context, container_stats::StatsArgs { options: args.options, containers }).await
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
    /// Which project.
    #[command(flatten)]
    pub project: ProjectArgs,
    /// Format output using a custom template
    #[arg(long)]
    pub format: Option<String>,
    /// Only display volume names
    #[arg(short, long)]
    pub quiet: bool,
    /// Services whose volumes are meant
    pub services: Vec<String>,
}

/// `volumes`: those of the stack; of services, those that they mount.
pub async fn volumes(context: Context, args: VolumesArgs) -> Outcome {
    let context = Context { project: context.project.clone().joined(args.project), ..context };
    let chosen = project::of_services(&context, &args.services).await?;
    let mut filter = vec![format!("label={}={}", project::PROJECT, chosen.name)];
    if !args.services.is_empty() {
        let found = project::containers(&context.client, &chosen.name, &args.services, true, false).await?;
        let mounts = found.iter().flat_map(|container| container["Mounts"].as_array().into_iter().flatten());
        let names: std::collections::BTreeSet<&str> =
            mounts.filter(|mount| mount["Type"] == "volume").map(|mount| text(&mount["Name"])).collect();
        if names.is_empty() {
            filter.push("name=^$".to_owned());
        }
        filter.extend(names.into_iter().map(|name| format!("name={name}")));
    }
    let list = crate::commands::volume::ListArgs { filter, format: args.format, quiet: args.quiet };
    crate::commands::volume::list(context, list).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_read_as_composes() {
        let event = json!({
            "Action": "start", "timeNano": 1_709_210_096_000_012_007_i64,
            "Actor": {"ID": "abc", "Attributes": {
                "name": "p-web-1", "image": "busybox", SERVICE: "web", "sampan.parts": "x",
            }},
        });
        assert_eq!(
            event_line(&event, false),
            "2024-02-29 12:34:56.000012 container start abc (image=busybox, name=p-web-1)\n"
        );
        assert_eq!(
            serde_json::from_str::<Value>(&event_line(&event, true)).unwrap_or_default(),
            json!({
                "action": "start", "attributes": {"image": "busybox", "name": "p-web-1"}, "id": "abc", "service": "web",
                "time": "2024-02-29T12:34:56.000012007Z", "type": "container",
            })
        );
    }
}
