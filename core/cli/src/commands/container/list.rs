//! `ps`.

use serde_json::{Value, json};

use crate::client::Query;
use crate::commands::compose;
use crate::context::Context;
use crate::failure::Outcome;
use crate::output::table::{self, Column, Row};
use crate::output::{human, ids};

/// Options of `ps`.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    pub all: bool,
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "filter")]
    pub filter: Vec<String>,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json' or a Go template
    #[arg(long)]
    pub format: Option<String>,
    /// Show n last created containers (includes all states) (default -1)
    #[arg(short = 'n', long, value_name = "int", value_parser = crate::flags::quantity::integer)]
    pub last: Option<i64>,
    /// Show the latest created container (includes all states)
    #[arg(short, long)]
    pub latest: bool,
    /// Don't truncate output
    #[arg(long)]
    pub no_trunc: bool,
    /// Only display container IDs
    #[arg(short, long)]
    pub quiet: bool,
    /// Display total file sizes
    #[arg(short, long)]
    pub size: bool,
}

const COLUMNS: [Column; 8] = [
    ("CONTAINER ID", "ID"),
    ("IMAGE", "Image"),
    ("COMMAND", "Command"),
    ("CREATED", "RunningFor"),
    ("STATUS", "Status"),
    ("PORTS", "Ports"),
    ("NAMES", "Names"),
    ("SIZE", "Size"),
];

/// `ps`
pub async fn run(context: Context, args: ListArgs) -> Outcome {
    let limit = if args.latest { Some(1) } else { args.last.filter(|last| *last > 0) };
    let size = args.size
        || args.format.as_deref().is_some_and(|format| format.contains(".Size") || format.contains("json .}}"));
    let query = Query::new()
        .flag("all", args.all)
        .flag("size", size)
        .maybe("limit", limit.map(|limit| limit.to_string()))
        .filters(&args.filter)?;
    let containers: Vec<Value> = context.client.get(&format!("/containers/json{query}")).await?;
    if args.quiet && args.format.is_none() {
        let ids: Vec<String> =
            containers.iter().map(|found| ids::short(text(&found["Id"]), args.no_trunc) + "\n").collect();
        return table::write_all(&ids.concat());
    }
    let rows: Vec<Row> = containers.iter().map(|found| row(found, args.no_trunc)).collect();
    let columns = if args.size { &COLUMNS[..] } else { &COLUMNS[..7] };
    table::print(&rows, columns, args.format.as_deref())?;
    if args.format.is_none() {
        compose::problems::tell(&context.client).await;
    }
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A container's fields under the names that templates use.
pub fn row(found: &Value, whole: bool) -> Row {
    let names: Vec<&str> =
        found["Names"].as_array().into_iter().flatten().map(|name| text(name).trim_start_matches('/')).collect();
    let image = match text(&found["Image"]) {
        "" => "<no image>".to_owned(),
        image if !whole && image.starts_with("sha256:") => ids::short(image, false),
        image => image.to_owned(),
    };
    let command = text(&found["Command"]);
    let command = if whole { command.to_owned() } else { ids::ellipsis(command, 20) };
    let created = found["Created"].as_i64().unwrap_or(0);
    let mounts: Vec<String> = found["Mounts"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|mount| {
            let name = if text(&mount["Name"]).is_empty() { text(&mount["Source"]) } else { text(&mount["Name"]) };
            if whole { name.to_owned() } else { ids::ellipsis(name, 15) }
        })
        .collect();
    let local = found["Mounts"].as_array().into_iter().flatten().filter(|mount| mount["Driver"] == "local").count();
    let networks: Vec<&str> =
        found["NetworkSettings"]["Networks"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    let written = human::decimal_size(found["SizeRw"].as_u64().unwrap_or(0));
    let size = match found["SizeRootFs"].as_u64() {
        Some(total) if total > 0 => format!("{written} (virtual {})", human::decimal_size(total)),
        _ => written,
    };
    table::row([
        ("Command", json!(Value::from(command).to_string())),
        ("CreatedAt", json!(human::date(created))),
        ("ID", json!(ids::short(text(&found["Id"]), whole))),
        ("Image", json!(image)),
        ("Labels", json!(ids::labels(&found["Labels"]))),
        ("LocalVolumes", json!(local.to_string())),
        ("Mounts", json!(mounts.join(","))),
        ("Names", json!(names.join(","))),
        ("Networks", json!(networks.join(","))),
        ("Platform", found["ImageManifestDescriptor"]["platform"].clone()),
        ("Ports", json!(ports(&found["Ports"]))),
        ("RunningFor", json!(human::ago(created))),
        ("Size", json!(size)),
        ("State", found["State"].clone()),
        ("Status", found["Status"].clone()),
        (table::LABELS, found["Labels"].clone()),
    ])
}

/// `0.0.0.0:8080->80/tcp, 443/tcp`: neighbouring ports that lead to themselves are joined to ranges.
pub fn ports(found: &Value) -> String {
    let mut all: Vec<(u64, &str, u64, &str)> = found
        .as_array()
        .into_iter()
        .flatten()
        .map(|port| {
            let number = |field: &str| port[field].as_u64().unwrap_or(0);
            (number("PrivatePort"), text(&port["IP"]), number("PublicPort"), text(&port["Type"]))
        })
        .collect();
    all.sort_unstable();
    let mut groups: Vec<(&str, &str, u64, u64)> = Vec::new();
    let mut done = Vec::new();
    let mut mapped = Vec::new();
    for (private, ip, public, kind) in all {
        if !ip.is_empty() && public != private {
            mapped.push(format!("{}->{private}/{kind}", joined(ip, &public.to_string())));
            continue;
        }
        match groups.iter_mut().find(|(found_ip, found_kind, ..)| *found_ip == ip && *found_kind == kind) {
            None => groups.push((ip, kind, private, private)),
            Some((.., last)) if *last + 1 == private => *last = private,
            Some(group) => {
                done.push(shown(*group));
                (group.2, group.3) = (private, private);
            }
        }
    }
    done.extend(groups.into_iter().map(shown));
    done.extend(mapped);
    done.join(", ")
}

fn shown((ip, kind, first, last): (&str, &str, u64, u64)) -> String {
    let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
    if ip.is_empty() { format!("{range}/{kind}") } else { format!("{}->{range}/{kind}", joined(ip, &range)) }
}

fn joined(ip: &str, port: &str) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(ip: &str, public: u64, private: u64, kind: &str) -> Value {
        json!({"IP": ip, "PublicPort": public, "PrivatePort": private, "Type": kind})
    }

    #[test]
    fn ports_read_as_dockers() {
        for (found, expected) in [
            (json!([]), ""),
            (json!([{"PrivatePort": 80, "Type": "tcp"}]), "80/tcp"),
            (
                json!([port("0.0.0.0", 8080, 80, "tcp"), port("::", 8080, 80, "tcp")]),
                "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp",
            ),
            (json!([port("0.0.0.0", 81, 81, "tcp"), port("0.0.0.0", 80, 80, "tcp")]), "0.0.0.0:80-81->80-81/tcp"),
            (json!([{"PrivatePort": 80, "Type": "tcp"}, {"PrivatePort": 82, "Type": "tcp"}]), "80/tcp, 82/tcp"),
        ] {
            assert_eq!(ports(&found), expected);
        }
    }

    #[test]
    fn rows_are_shortened_unless_asked_for_whole() {
        let found = json!({
            "Id": "0123456789abcdef", "Image": "busybox", "Command": "sh -c 'sleep 1000000000'", "Names": ["/web"], "Created": 0,
            "Labels": {"b": "2", "a": "1"}, "State": "running", "Status": "Up",
        });
        let short = row(&found, false);
        assert_eq!(short["ID"], "0123456789ab");
        assert_eq!(short["Command"], "\"sh -c 'sleep 100000…\"");
        assert_eq!((&short["Names"], &short["Labels"]), (&json!("web"), &json!("a=1,b=2")));
        assert_eq!(row(&found, true)["ID"], "0123456789abcdef");
    }
}
