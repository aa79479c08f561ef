//! `info`, `system df`, `system prune`.

use serde_json::{Value, json};
use std::fmt::Write as _;

use super::container::prune::{confirm, prune as prune_objects, report};
use super::volume;
use crate::client::Query;
use crate::context::Context;
use crate::failure::Outcome;
use crate::output::table::{self, Column, Row};
use crate::output::{human, ids, json as layout};
use crate::output::{say, tell};

/// Options of `info`.
#[derive(Debug, clap::Args)]
pub struct InfoArgs {
    /// Format output using a custom template: 'json' or a Go template
    #[arg(short, long)]
    pub format: Option<String>,
}

/// `info`
pub async fn info(context: Context, args: InfoArgs) -> Outcome {
    let mut found: Value = context.client.get("/info").await?;
    found["ClientInfo"] = json!({
        "Version": env!("CARGO_PKG_VERSION"), "Context": "default", "Debug": false, "Plugins": [], "Os": std::env::consts::OS,
        "Arch": super::version::architecture(),
    });
    layout::one(&found, args.format.as_deref(), info_words)?;
    if args.format.is_none() {
        for warning in found["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            tell!("{warning}");
        }
    }
    Ok(())
}

fn info_words(found: &Value) -> String {
    let mut out = format!(
        "Client:\n Version:    {}\n Context:    default\n Debug Mode: false\n\nServer:\n",
        env!("CARGO_PKG_VERSION")
    );
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let line = |out: &mut String, name: &str, value: &Value| {
        if !value.is_null() && value != "" {
            let _ = writeln!(out, " {name}: {}", text(value));
        }
    };
    line(&mut out, "Containers", &found["Containers"]);
    for (name, field) in
        [("Running", "ContainersRunning"), ("Paused", "ContainersPaused"), ("Stopped", "ContainersStopped")]
    {
        let _ = writeln!(out, "  {name}: {}", found[field].as_u64().unwrap_or(0));
    }
    line(&mut out, "Images", &found["Images"]);
    line(&mut out, "Server Version", &found["ServerVersion"]);
    line(&mut out, "Storage Driver", &found["Driver"]);
    for pair in found["DriverStatus"].as_array().into_iter().flatten() {
        let _ = writeln!(out, "  {}: {}", text(&pair[0]), text(&pair[1]));
    }
    line(&mut out, "Logging Driver", &found["LoggingDriver"]);
    line(&mut out, "Cgroup Driver", &found["CgroupDriver"]);
    line(&mut out, "Cgroup Version", &found["CgroupVersion"]);
    out.push_str(" Plugins:\n");
    for kind in ["Volume", "Network", "Log"] {
        let names: Vec<&str> =
            found["Plugins"][kind].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if !names.is_empty() {
            let _ = writeln!(out, "  {kind}: {}", names.join(" "));
        }
    }
    let runtimes: Vec<&String> = found["Runtimes"].as_object().into_iter().flatten().map(|(name, _)| name).collect();
    if !runtimes.is_empty() {
        let _ = writeln!(out, " Runtimes: {}", runtimes.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" "));
    }
    line(&mut out, "Default Runtime", &found["DefaultRuntime"]);
    line(&mut out, "Init Binary", &found["InitBinary"]);
    let security = found["SecurityOptions"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut options = security.peekable();
    if options.peek().is_some() {
        out.push_str(" Security Options:\n");
    }
    for option in options {
        for (at, part) in option.split(',').enumerate() {
            let part = part.split_once('=').map_or((part, part), |pair| pair);
            let _ = match (at, part) {
                (0, (_, name)) => writeln!(out, "  {name}"),
                (_, (key, value)) => writeln!(out, "   {}: {value}", if key == "profile" { "Profile" } else { key }),
            };
        }
    }
    for (name, field) in [
        ("Kernel Version", "KernelVersion"),
        ("Operating System", "OperatingSystem"),
        ("OSType", "OSType"),
        ("Architecture", "Architecture"),
        ("CPUs", "NCPU"),
    ] {
        line(&mut out, name, &found[field]);
    }
    if let Some(memory) = found["MemTotal"].as_u64() {
        let _ = writeln!(out, " Total Memory: {}", human::binary_size(memory));
    }
    for (name, field) in [
        ("Name", "Name"),
        ("ID", "ID"),
        ("Docker Root Dir", "DockerRootDir"),
        ("Debug Mode", "Debug"),
        ("Experimental", "ExperimentalBuild"),
    ] {
        line(&mut out, name, &found[field]);
    }
    for (title, values) in [
        ("Labels", &found["Labels"]),
        ("Insecure Registries", &found["RegistryConfig"]["InsecureRegistryCIDRs"]),
        ("Registry Mirrors", &found["RegistryConfig"]["Mirrors"]),
    ] {
        let values: Vec<String> = values.as_array().into_iter().flatten().map(text).collect();
        if !values.is_empty() {
            let _ = writeln!(out, " {title}:\n  {}", values.join("\n  "));
        }
    }
    line(&mut out, "Live Restore Enabled", &found["LiveRestoreEnabled"]);
    out.push('\n');
    out
}

/// Options of `system df`.
#[derive(Debug, clap::Args)]
pub struct UsageArgs {
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json' or a Go template
    #[arg(long)]
    pub format: Option<String>,
    /// Show detailed information on space usage
    #[arg(short, long)]
    pub verbose: bool,
}

/// `system df`
pub async fn usage(context: Context, args: UsageArgs) -> Outcome {
    let found: Value = context.client.get("/system/df").await?;
    if args.verbose && args.format.is_none() {
        return detailed(&found);
    }
    const COLUMNS: [Column; 5] = [
        ("TYPE", "Type"),
        ("TOTAL", "TotalCount"),
        ("ACTIVE", "Active"),
        ("SIZE", "Size"),
        ("RECLAIMABLE", "Reclaimable"),
    ];
    table::print(&usage_rows(&found), &COLUMNS, args.format.as_deref())
}

fn items<'a>(found: &'a Value, field: &str) -> Vec<&'a Value> {
    found[field].as_array().into_iter().flatten().collect()
}

fn sum<'a>(of: impl Iterator<Item = &'a Value>, path: &str) -> u64 {
    of.filter_map(|item| item.pointer(path).and_then(Value::as_i64)).filter_map(|size| u64::try_from(size).ok()).sum()
}

fn usage_rows(found: &Value) -> Vec<Row> {
    let line = |kind: &str, total: usize, active: usize, size: u64, reclaimable: u64, share: bool| {
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
        let percent = if size > 0 { (reclaimable as f64 / size as f64 * 100.0) as u64 } else { 0 };
        let text = human::size(reclaimable);
        let text = if share && size > 0 { format!("{text} ({percent}%)") } else { text };
        table::row([
            ("Active", json!(active.to_string())),
            ("Reclaimable", json!(text)),
            ("Size", json!(human::size(size))),
            ("TotalCount", json!(total.to_string())),
            ("Type", json!(kind)),
        ])
    };
    let images = items(found, "Images");
    let used = |image: &&&Value| image["Containers"].as_i64().unwrap_or(0) > 0;
    let layers = found["LayersSize"].as_u64().unwrap_or_else(|| sum(images.iter().copied(), "/Size"));
    // What an image in use shares with others goes only with them.
    let own = |image: &&Value| {
        let number = |field: &str| image[field].as_i64().filter(|size| *size >= 0);
        number("Size").zip(number("SharedSize")).map_or(0, |(size, shared)| u64::try_from(size - shared).unwrap_or(0))
    };
    let kept: u64 = images.iter().filter(used).map(own).sum();
    let containers = items(found, "Containers");
    let running =
        |container: &&&Value| matches!(container["State"].as_str(), Some("running" | "paused" | "restarting"));
    let volumes = items(found, "Volumes");
    let linked = |volume: &&&Value| volume["UsageData"]["RefCount"].as_i64().unwrap_or(0) > 0;
    let caches = items(found, "BuildCache");
    let in_use = |cache: &&&Value| cache["InUse"] == true || cache["Shared"] == true;
    let container_size = sum(containers.iter().copied(), "/SizeRw");
    let volume_size = sum(volumes.iter().copied(), "/UsageData/Size");
    let cache_size = sum(caches.iter().copied(), "/Size");
    vec![
        line("Images", images.len(), images.iter().filter(used).count(), layers, layers.saturating_sub(kept), true),
        line(
            "Containers",
            containers.len(),
            containers.iter().filter(running).count(),
            container_size,
            container_size.saturating_sub(sum(containers.iter().filter(running).copied(), "/SizeRw")),
            true,
        ),
        line(
            "Local Volumes",
            volumes.len(),
            volumes.iter().filter(linked).count(),
            volume_size,
            volume_size.saturating_sub(sum(volumes.iter().filter(linked).copied(), "/UsageData/Size")),
            true,
        ),
        line(
            "Build Cache",
            caches.len(),
            caches.iter().filter(in_use).count(),
            cache_size,
            cache_size.saturating_sub(sum(caches.iter().filter(in_use).copied(), "/Size")),
            false,
        ),
    ]
}

fn detailed(found: &Value) -> Outcome {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    say!("Images space usage:\n")?;
    let rows: Vec<Row> = items(found, "Images")
        .into_iter()
        .map(|image| {
            let name = image["RepoTags"][0].as_str().unwrap_or("<none>:<none>");
            let (name, tag, _) = super::image::reference::split(name);
            let size = image["Size"].as_u64().unwrap_or(0);
            let shared = image["SharedSize"].as_u64();
            table::row([
                ("Repository", json!(name)),
                ("Tag", json!(tag.unwrap_or("<none>"))),
                ("ID", json!(ids::short(&text(&image["Id"]), false))),
                ("Created", json!(human::ago(image["Created"].as_i64().unwrap_or(0)))),
                ("Size", json!(human::decimal_size(image["Size"].as_u64().unwrap_or(0)))),
                ("Shared", json!(shared.map_or("N/A".to_owned(), human::size))),
                ("Unique", json!(shared.map_or("N/A".to_owned(), |shared| human::size(size.saturating_sub(shared))))),
                ("Containers", json!(image["Containers"].as_i64().unwrap_or(0).max(0).to_string())),
            ])
        })
        .collect();
    const IMAGES: [Column; 8] = [
        ("REPOSITORY", "Repository"),
        ("TAG", "Tag"),
        ("IMAGE ID", "ID"),
        ("CREATED", "Created"),
        ("SIZE", "Size"),
        ("SHARED SIZE", "Shared"),
        ("UNIQUE SIZE", "Unique"),
        ("CONTAINERS", "Containers"),
    ];
    table::print(&rows, &IMAGES, None)?;
    say!("\nContainers space usage:\n")?;
    let rows: Vec<Row> = items(found, "Containers")
        .into_iter()
        .map(|container| {
            let mut row = super::container::list::row(container, false);
            row.insert("Size".into(), json!(human::decimal_size(container["SizeRw"].as_u64().unwrap_or(0))));
            row
        })
        .collect();
    const CONTAINERS: [Column; 8] = [
        ("CONTAINER ID", "ID"),
        ("IMAGE", "Image"),
        ("COMMAND", "Command"),
        ("LOCAL VOLUMES", "LocalVolumes"),
        ("SIZE", "Size"),
        ("CREATED", "RunningFor"),
        ("STATUS", "Status"),
        ("NAMES", "Names"),
    ];
    table::print(&rows, &CONTAINERS, None)?;
    say!("\nLocal Volumes space usage:\n")?;
    let rows: Vec<Row> = items(found, "Volumes").into_iter().map(volume::row).collect();
    table::print(&rows, &[("VOLUME NAME", "Name"), ("LINKS", "Links"), ("SIZE", "Size")], None)?;
    say!("\nBuild cache usage: {}\n", human::decimal_size(sum(items(found, "BuildCache").into_iter(), "/Size")))?;
    Ok(())
}

/// Options of `system prune`.
#[derive(Debug, clap::Args)]
pub struct PruneArgs {
    /// Remove all unused images not just dangling ones
    #[arg(short, long)]
    pub all: bool,
    /// Provide filter values (e.g. "label=<key>=<value>")
    #[arg(long, value_name = "filter")]
    pub filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    pub force: bool,
    /// Prune anonymous volumes
    #[arg(long)]
    pub volumes: bool,
}

/// `system prune`
pub async fn prune(context: Context, args: PruneArgs) -> Outcome {
    let mut warning =
        "This will remove:\n  - all stopped containers\n  - all networks not used by at least one container\n"
            .to_owned();
    if args.volumes {
        warning.push_str("  - all anonymous volumes not used by at least one container\n");
    }
    warning.push_str(if args.all {
        "  - all images without at least one container associated to them\n"
    } else {
        "  - all dangling images\n"
    });
    warning.push_str(if args.all { "  - all build cache\n" } else { "  - unused build cache\n" });
    confirm(args.force, &warning)?;
    let mut total = 0;
    let (names, space) = prune_objects(&context, "containers", &args.filter, "ContainersDeleted").await?;
    report("Containers", &names)?;
    total += space;
    let (names, _) = prune_objects(&context, "networks", &args.filter, "NetworksDeleted").await?;
    report("Networks", &names)?;
    if args.volumes {
        let filters: Vec<String> = args.filter.iter().filter(|filter| !filter.starts_with("until=")).cloned().collect();
        let (names, space) = prune_objects(&context, "volumes", &filters, "VolumesDeleted").await?;
        report("Volumes", &names)?;
        total += space;
    }
    let mut filters = args.filter.clone();
    filters.push(format!("dangling={}", !args.all));
    let (names, space) = prune_objects(&context, "images", &filters, "ImagesDeleted").await?;
    report("Images", &names)?;
    total += space;
    let query = Query::new().flag("all", args.all).filters(&args.filter)?;
    let caches: Value = context.client.post(&format!("/build/prune{query}"), &Value::Null).await?;
    let names: Vec<String> =
        caches["CachesDeleted"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    report("build cache objects", &names)?;
    total += caches["SpaceReclaimed"].as_u64().unwrap_or(0);
    say!("Total reclaimed space: {}", human::size(total))?;
    Ok(())
}

/// Options of `builder prune`.
#[derive(Debug, clap::Args)]
pub struct BuilderPruneArgs {
    /// Remove all unused build cache, not just dangling ones
    #[arg(short, long)]
    pub all: bool,
    /// Provide filter values (e.g. "until=24h")
    #[arg(long, value_name = "filter")]
    pub filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    pub force: bool,
    /// Amount of disk space to keep for cache
    #[arg(long, alias = "max-used-space", alias = "reserved-space", value_name = "bytes", value_parser = crate::flags::quantity::bytes)]
    pub keep_storage: Option<i64>,
}

/// `builder prune`
pub async fn builder_prune(context: Context, args: BuilderPruneArgs) -> Outcome {
    confirm(
        args.force,
        if args.all { "This will remove all build cache." } else { "This will remove all dangling build cache." },
    )?;
    let query = Query::new()
        .flag("all", args.all)
        .maybe("keep-storage", args.keep_storage.map(|bytes| bytes.to_string()))
        .filters(&args.filter)?;
    let caches: Value = context.client.post(&format!("/build/prune{query}"), &Value::Null).await?;
    let names: Vec<String> =
        caches["CachesDeleted"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    report("build cache objects", &names)?;
    say!("Total reclaimed space: {}", human::size(caches["SpaceReclaimed"].as_u64().unwrap_or(0)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_counts_what_can_go() {
        let found = json!({
            "LayersSize": 3000, "Images": [{"Size": 1000, "SharedSize": 0, "Containers": 1}, {"Size": 2000, "SharedSize": 0, "Containers": 0}],
            "Containers": [{"State": "running", "SizeRw": 10}, {"State": "exited", "SizeRw": 30}],
            "Volumes": [{"UsageData": {"Size": -1, "RefCount": 0}}], "BuildCache": null,
        });
        let rows = usage_rows(&found);
        assert_eq!((&rows[0]["Active"], &rows[0]["Reclaimable"]), (&json!("1"), &json!("2kB (66%)")));
        assert_eq!((&rows[1]["Size"], &rows[1]["Reclaimable"]), (&json!("40B"), &json!("30B (75%)")));
        assert_eq!((&rows[2]["TotalCount"], &rows[2]["Size"]), (&json!("1"), &json!("0B")));
        assert_eq!(rows[3]["Reclaimable"], "0B");
    }
}
