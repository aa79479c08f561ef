//! `plugin …`: drivers as WebAssembly components.

use base64::Engine as _;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};

use super::container::change::each_told;
use crate::client::{Query, escape};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::table::{self, Column, Row};
use crate::output::{json as layout, terminal};
use crate::output::{say, show};

const PLUGINS: &str = "/sampan/v1/plugins";

/// Options of `plugin ls`.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json' or a Go template
    #[arg(long)]
    pub format: Option<String>,
    /// Don't truncate output
    #[arg(long)]
    pub no_trunc: bool,
    /// Only display names
    #[arg(short, long)]
    pub quiet: bool,
}

/// `plugin ls`
pub async fn list(context: Context, args: ListArgs) -> Outcome {
    let plugins: Vec<Value> = context.client.get(PLUGINS).await?;
    let rows: Vec<Row> = plugins
        .iter()
        .map(|plugin| {
            let problem = &plugin["Problem"];
            let enabled = plugin["Enabled"] != false;
            let digest = plugin["Digest"].as_str().unwrap_or_default();
            let status = match (problem.as_str(), enabled) {
                (Some(problem), _) if !problem.is_empty() => format!("failing: {problem}"),
                (_, true) => "ready".to_owned(),
                (_, false) => "disabled".to_owned(),
            };
            table::row([
                ("Description", plugin["Description"].clone()),
                ("Enabled", json!(enabled)),
                ("ID", json!(crate::output::ids::short(digest, args.no_trunc))),
                ("Kind", plugin["Kind"].clone()),
                ("Name", plugin["Name"].clone()),
                ("Status", json!(status)),
                ("Shipped", plugin["Shipped"].clone()),
            ])
        })
        .collect();
    if args.quiet && args.format.is_none() {
        let names: String = rows.iter().map(|row| format!("{}\n", row["Name"].as_str().unwrap_or_default())).collect();
        return table::write_all(&names);
    }
    const COLUMNS: [Column; 5] = [
        ("NAME", "Name"),
        ("KIND", "Kind"),
        ("ENABLED", "Enabled"),
        ("STATUS", "Status"),
        ("DESCRIPTION", "Description"),
    ];
    table::print(&rows, &COLUMNS, args.format.as_deref())
}

/// Options of `plugin inspect`.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// Format output using a custom template: 'json' or a Go template
    #[arg(short, long)]
    pub format: Option<String>,
    /// Plugins
    #[arg(required = true)]
    pub plugins: Vec<String>,
}

/// `plugin inspect`
pub async fn inspect(context: Context, args: InspectArgs) -> Outcome {
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    for name in &args.plugins {
        match context.client.get::<Value>(&format!("{PLUGINS}/{}", escape(name))).await {
            Ok(value) => found.push(value),
            Err(failure) => failed.push(failure),
        }
    }
    layout::inspected(&found, &failed, args.format.as_deref())
}

/// Options of `plugin install`.
#[derive(Debug, clap::Args)]
pub struct InstallArgs {
    /// Do not enable the plugin on install
    #[arg(long)]
    pub disable: bool,
    /// Grant all permissions necessary to run the plugin
    #[arg(long)]
    pub grant_all_permissions: bool,
    /// The driver's manifest (default: the file beside it that ends in .json)
    #[arg(long, value_name = "file")]
    pub manifest: Option<PathBuf>,
    /// The driver's component (.wasm)
    pub file: PathBuf,
}

/// A driver's component and its manifest.
struct Driver {
    component: Vec<u8>,
    manifest: Value,
}

/// Reads both; the manifest lies beside the component under its name, or as `manifest.json`.
fn read(file: &Path, manifest: Option<&Path>) -> Outcome<Driver> {
    let component =
        fs::read(file).map_err(|error| Failure::new(format!("read the driver {}: {error}", file.display())))?;
    if !component.starts_with(b"\0asm") {
        return Err(Failure::new(format!("{} is not a WebAssembly component", file.display())));
    }
    let beside =
        [file.with_extension("manifest.json"), file.with_extension("json"), file.with_file_name("manifest.json")];
    let path = match manifest {
        Some(path) => path.to_owned(),
        None => beside.iter().find(|path| path.is_file()).cloned().ok_or_else(|| {
            Failure::new(format!(
                "{} has no manifest beside it ({}); name it with --manifest",
                file.display(),
                beside[1].display()
            ))
        })?,
    };
    let text =
        fs::read(&path).map_err(|error| Failure::new(format!("read the manifest {}: {error}", path.display())))?;
    let manifest = serde_json::from_slice(&text)
        .map_err(|error| Failure::new(format!("read the manifest {}: {error}", path.display())))?;
    Ok(Driver { component, manifest })
}

/// The capabilities that a manifest wants, one a line; empty when it wants none.
fn wanted(manifest: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    let capabilities = &manifest["capabilities"];
    for (name, value) in capabilities.as_object().into_iter().flatten() {
        match value {
            Value::Array(items) if items.is_empty() => {}
            Value::Null | Value::Bool(false) => {}
            Value::Array(items) => lines.extend(items.iter().map(|item| format!("{name}: {}", text(item)))),
            other => lines.push(format!("{name}: {}", text(other))),
        }
    }
    for item in capabilities.as_array().into_iter().flatten() {
        lines.push(text(item));
    }
    lines
}

/// Text of a manifest, without what would steer the terminal.
fn text(value: &Value) -> String {
    let raw = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    raw.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

/// Shows what a driver wants and asks for it; a driver that wants nothing is not asked about.
fn granted(driver: &Driver, all: bool) -> Outcome<bool> {
    let wanted = wanted(&driver.manifest);
    if all || wanted.is_empty() {
        return Ok(true);
    }
    let name = text(&driver.manifest["name"]);
    if !terminal::input_is_terminal() {
        return Err(Failure::new(format!(
            "driver \"{name}\" wants:\n{}\nagree with --grant-all-permissions",
            wanted.iter().map(|line| format!(" - {line}")).collect::<Vec<_>>().join("\n")
        )));
    }
    say!("Driver \"{name}\" requests the following privileges:")?;
    for line in &wanted {
        say!(" - {line}")?;
    }
    show!("Do you grant the above permissions? [y/N] ")?;
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y"))
}

fn body(driver: &Driver) -> Value {
    json!({
        "component": base64::engine::general_purpose::STANDARD.encode(&driver.component),
        "manifest": driver.manifest,
        "grant": true,
    })
}

/// `plugin install`
pub async fn install(context: Context, args: InstallArgs) -> Outcome {
    let driver = read(&args.file, args.manifest.as_deref())?;
    if !granted(&driver, args.grant_all_permissions)? {
        return Err(Failure::new("permissions were not granted; the driver was not installed"));
    }
    let made: Value = context.client.post(PLUGINS, &body(&driver)).await?;
    let name = made["Name"].as_str().or_else(|| driver.manifest["name"].as_str()).unwrap_or_default().to_owned();
    if args.disable {
        context.client.act(&format!("{PLUGINS}/{}/disable", escape(&name))).await?;
    }
    say!("{name}")?;
    Ok(())
}

/// Options of `plugin upgrade`.
#[derive(Debug, clap::Args)]
pub struct UpgradeArgs {
    /// Grant all permissions necessary to run the plugin
    #[arg(long)]
    pub grant_all_permissions: bool,
    /// The driver's manifest (default: the file beside it that ends in .json)
    #[arg(long, value_name = "file")]
    pub manifest: Option<PathBuf>,
    /// The installed driver
    pub plugin: String,
    /// The new component (.wasm)
    pub file: PathBuf,
}

/// `plugin upgrade`
pub async fn upgrade(context: Context, args: UpgradeArgs) -> Outcome {
    let driver = read(&args.file, args.manifest.as_deref())?;
    if !granted(&driver, args.grant_all_permissions)? {
        return Err(Failure::new("permissions were not granted; the driver was not changed"));
    }
    let _: Value = context.client.post(&format!("{PLUGINS}/{}/upgrade", escape(&args.plugin)), &body(&driver)).await?;
    say!("{}", args.plugin)?;
    Ok(())
}

/// Options of `plugin enable`, `disable` and `rm`.
#[derive(Debug, clap::Args)]
pub struct NamesArgs {
    /// Force the removal of an active plugin
    #[arg(short, long)]
    pub force: bool,
    /// Plugins
    #[arg(required = true)]
    pub plugins: Vec<String>,
}

/// `plugin enable`
pub async fn enable(context: Context, args: NamesArgs) -> Outcome {
    let client = &context.client;
    each_told(&args.plugins, async |name| {
        client.act(&format!("{PLUGINS}/{}/enable", escape(name))).await.map(|()| name.to_owned())
    })
    .await
}

/// `plugin disable`
pub async fn disable(context: Context, args: NamesArgs) -> Outcome {
    let client = &context.client;
    each_told(&args.plugins, async |name| {
        client.act(&format!("{PLUGINS}/{}/disable", escape(name))).await.map(|()| name.to_owned())
    })
    .await
}

/// `plugin rm`
pub async fn remove(context: Context, args: NamesArgs) -> Outcome {
    let query = Query::new().flag("force", args.force);
    let client = &context.client;
    each_told(&args.plugins, async |name| {
        client.delete(&format!("{PLUGINS}/{}{query}", escape(name))).await.map(|_| name.to_owned())
    })
    .await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn wants_are_shown_a_line_each_without_control_characters() {
        let manifest = json!({"name": "x", "capabilities": {"network": ["a:1", "b:2\u{1b}[2J"], "directories": [], "clock": true}});
        assert_eq!(wanted(&manifest), ["network: a:1", "network: b:2\u{fffd}[2J", "clock: true"]);
        assert!(wanted(&json!({})).is_empty());
    }

    #[test]
    fn components_are_read_with_the_manifest_beside_them() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("d.wasm");
        fs::write(&file, b"\0asm").unwrap();
        assert!(read(&file, None).err().unwrap().message.contains("no manifest"));
        fs::write(dir.path().join("d.json"), "{\"name\": \"d\"}").unwrap();
        assert_eq!(read(&file, None).ok().unwrap().manifest["name"], "d");
        fs::write(&file, b"ELF").unwrap();
        assert!(read(&file, None).err().unwrap().message.contains("not a WebAssembly"));
    }
}
