//! `stats`.

use futures_util::future::join_all;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Duration;

use crate::client::{Query, escape};
use crate::commands::compose::names;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::table::{self, Column, Row};
use crate::output::{human, ids};

const COLUMNS: [Column; 8] = [
    ("CONTAINER ID", "ID"),
    ("NAME", "Name"),
    ("CPU %", "CPUPerc"),
    ("MEM USAGE / LIMIT", "MemUsage"),
    ("MEM %", "MemPerc"),
    ("NET I/O", "NetIO"),
    ("BLOCK I/O", "BlockIO"),
    ("PIDS", "PIDs"),
];

/// How statistics are shown.
#[derive(Debug, clap::Args)]
pub struct StatsOptions {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    pub all: bool,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json' or a Go template
    #[arg(long)]
    pub format: Option<String>,
    /// Disable streaming stats and only pull the first result
    #[arg(long)]
    pub no_stream: bool,
    /// Do not truncate output
    #[arg(long)]
    pub no_trunc: bool,
}

/// Options of `stats`.
#[derive(Debug, clap::Args)]
pub struct StatsArgs {
    /// How.
    #[command(flatten)]
    pub options: StatsOptions,
    /// Containers, or services of the project here; all containers of the engine when there are none
    pub containers: Vec<String>,
}

/// `stats`
pub async fn run(context: Context, args: StatsArgs) -> Outcome {
    let client = &context.client;
    let mut args = args;
    if !args.containers.is_empty() {
        args.containers = names::containers(&context, &args.containers).await?;
    }
    let mut before: HashMap<String, Value> = HashMap::new();
    loop {
        let names = if args.containers.is_empty() {
            let query = Query::new().flag("all", args.options.all);
            let found: Vec<Value> = client.get(&format!("/containers/json{query}")).await?;
            found.iter().filter_map(|found| found["Id"].as_str().map(str::to_owned)).collect()
        } else {
            args.containers.clone()
        };
        let samples = join_all(names.iter().map(async |name| {
            // The first time the daemon takes two samples; later the last one is here.
            let query = Query::new().with("stream", "0").flag("one-shot", before.contains_key(name));
            client.get::<Value>(&format!("/containers/{}/stats{query}", escape(name))).await
        }))
        .await;
        let mut rows = Vec::new();
        for (name, sample) in names.into_iter().zip(samples) {
            match sample {
                Ok(mut sample) => {
                    if let Some(previous) = before.insert(name, sample.clone()) {
                        sample["precpu_stats"] = previous["cpu_stats"].clone();
                    }
                    rows.push(row(&sample, args.options.no_trunc));
                }
                Err(failure) if failure.is_not_found() && args.containers.is_empty() => {}
                Err(failure) => return Err(Failure::new(failure.message)),
            }
        }
        if !args.options.no_stream && args.options.format.is_none() && crate::output::terminal::output_is_terminal() {
            table::write_all("\x1b[2J\x1b[H")?;
        }
        table::print(&rows, &COLUMNS, args.options.format.as_deref())?;
        if args.options.no_stream {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// A sample's fields under the names that templates use.
pub fn row(sample: &Value, whole: bool) -> Row {
    let usage = memory(sample);
    let limit = sample["memory_stats"]["limit"].as_u64().unwrap_or(0);
    let id = ids::short(sample["id"].as_str().unwrap_or_default(), whole);
    let (received, sent) = network(sample);
    let (read, written) = blocks(sample);
    let pair = |a: u64, b: u64| format!("{} / {}", human::decimal_size(a), human::decimal_size(b));
    #[allow(clippy::cast_precision_loss)]
    let share = if limit > 0 { usage as f64 / limit as f64 * 100.0 } else { 0.0 };
    table::row([
        ("BlockIO", json!(pair(read, written))),
        ("CPUPerc", json!(format!("{:.2}%", processor(sample)))),
        ("Container", json!(id)),
        ("ID", json!(id)),
        ("MemPerc", json!(format!("{share:.2}%"))),
        ("MemUsage", json!(format!("{} / {}", human::binary_size(usage), human::binary_size(limit)))),
        ("Name", json!(sample["name"].as_str().unwrap_or("--").trim_start_matches('/'))),
        ("NetIO", json!(pair(received, sent))),
        ("PIDs", json!(sample["pids_stats"]["current"].as_u64().unwrap_or(0).to_string())),
    ])
}

/// Share of one processor's time, in hundredths, between the two samples.
fn processor(sample: &Value) -> f64 {
    let number = |of: &str, path: &str| sample[of].pointer(path).and_then(Value::as_f64).unwrap_or(0.0);
    let used = number("cpu_stats", "/cpu_usage/total_usage") - number("precpu_stats", "/cpu_usage/total_usage");
    let passed = number("cpu_stats", "/system_cpu_usage") - number("precpu_stats", "/system_cpu_usage");
    let count = sample["cpu_stats"]["online_cpus"].as_f64().filter(|count| *count > 0.0).unwrap_or(1.0);
    if used > 0.0 && passed > 0.0 { used / passed * count * 100.0 } else { 0.0 }
}

/// What is in use without the page cache that can go at any time.
fn memory(sample: &Value) -> u64 {
    let stats = &sample["memory_stats"];
    let usage = stats["usage"].as_u64().unwrap_or(0);
    let cache =
        ["total_inactive_file", "inactive_file"].iter().find_map(|name| stats["stats"][name].as_u64()).unwrap_or(0);
    if cache < usage { usage - cache } else { usage }
}

fn network(sample: &Value) -> (u64, u64) {
    let links = sample["networks"].as_object().into_iter().flatten();
    links.fold((0, 0), |(received, sent), (_, link)| {
        (received + link["rx_bytes"].as_u64().unwrap_or(0), sent + link["tx_bytes"].as_u64().unwrap_or(0))
    })
}

fn blocks(sample: &Value) -> (u64, u64) {
    let entries = sample["blkio_stats"]["io_service_bytes_recursive"].as_array().into_iter().flatten();
    entries.fold((0, 0), |(read, written), entry| {
        let value = entry["value"].as_u64().unwrap_or(0);
        match entry["op"].as_str().unwrap_or_default().to_ascii_lowercase().as_str() {
            "read" => (read + value, written),
            "write" => (read, written + value),
            _ => (read, written),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_read_as_dockers() {
        let sample = json!({
            "id": "0123456789abcdef", "name": "/web",
            "cpu_stats": {"cpu_usage": {"total_usage": 300}, "system_cpu_usage": 2000, "online_cpus": 2},
            "precpu_stats": {"cpu_usage": {"total_usage": 100}, "system_cpu_usage": 1000},
            "memory_stats": {"usage": 3145728, "limit": 1073741824, "stats": {"inactive_file": 1048576}},
            "networks": {"eth0": {"rx_bytes": 1000, "tx_bytes": 2000}},
            "blkio_stats": {"io_service_bytes_recursive": [{"op": "Read", "value": 5}, {"op": "write", "value": 7}]},
            "pids_stats": {"current": 3},
        });
        let row = row(&sample, false);
        assert_eq!(row["CPUPerc"], "40.00%");
        assert_eq!(row["MemUsage"], "2MiB / 1GiB");
        assert_eq!(row["MemPerc"], "0.20%");
        assert_eq!((&row["NetIO"], &row["BlockIO"]), (&json!("1kB / 2kB"), &json!("5B / 7B")));
        assert_eq!((&row["Name"], &row["PIDs"]), (&json!("web"), &json!("3")));
    }
}
