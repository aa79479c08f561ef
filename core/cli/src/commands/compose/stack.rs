//! `stack inspect pause resume history rollback`: a stack by its name; and `diff`: what `up` would change.

use http::Method;
use serde_json::{Value, json};

use super::display;
use super::{ProjectArgs, project, providers};
use crate::client::{JsonLines, escape};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::say;
use crate::output::table::{self, Column, Row};

/// Stacks by name.
#[derive(Debug, clap::Args)]
pub struct NamedArgs {
    /// Stacks
    #[arg(required = true)]
    pub stacks: Vec<String>,
}

/// `stack inspect`
pub async fn inspect(context: Context, args: NamedArgs) -> Outcome {
    let mut all = Vec::new();
    for name in &args.stacks {
        all.push(context.client.get::<Value>(&format!("/sampan/v1/stacks/{}", escape(name))).await?);
    }
    let text = serde_json::to_string_pretty(&all).map_err(|error| Failure::new(error.to_string()))?;
    table::write_all(&format!("{text}\n"))
}

async fn change(context: &Context, name: &str, verb: &str, body: &Value) -> Outcome {
    let style = context.project.style()?;
    let path = format!("/sampan/v1/stacks/{}/{verb}", escape(name));
    let response = context.client.call(Method::POST, &path, Some(body)).await?;
    display::show(response, style, "Running").await?.outcome()
}

/// `stack pause`: the daemon neither follows its files nor heals it.
pub async fn pause(context: Context, args: NamedArgs) -> Outcome {
    for name in &args.stacks {
        change(&context, name, "hold", &json!({})).await?;
    }
    Ok(())
}

/// `stack resume`
pub async fn resume(context: Context, args: NamedArgs) -> Outcome {
    for name in &args.stacks {
        change(&context, name, "resume", &json!({})).await?;
    }
    Ok(())
}

/// Options of `stack history`.
#[derive(Debug, clap::Args)]
pub struct HistoryArgs {
    /// Format the output. Values: [table | json]
    #[arg(long)]
    pub format: Option<String>,
    /// Stack
    pub stack: String,
}

/// `stack history`: what a stack was brought to, the newest first.
pub async fn history(context: Context, args: HistoryArgs) -> Outcome {
    let path = format!("/sampan/v1/stacks/{}/history", escape(&args.stack));
    let entries: Vec<Value> = context.client.get(&path).await?;
    let rows: Vec<Row> = entries
        .iter()
        .map(|entry| {
            let changes = entry["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
            let fields: Vec<&str> = changes.iter().filter_map(|change| change["path"].as_str()).take(3).collect();
            let more = if changes.len() > fields.len() { ", …" } else { "" };
            let seconds = i64::try_from(entry["at_ms"].as_u64().unwrap_or(0) / 1000).unwrap_or(0);
            table::row([
                ("Back", entry["back"].clone()),
                ("Applied", json!(seconds)),
                ("Services", entry["services"].clone()),
                ("Changes", json!(format!("{}{more}", fields.join(", ")))),
            ])
        })
        .collect();
    const COLUMNS: [Column; 4] =
        [("BACK", "Back"), ("APPLIED", "Applied"), ("SERVICES", "Services"), ("CHANGES", "Changes")];
    table::print(&rows, &COLUMNS, args.format.as_deref())
}

/// Options of `stack rollback`.
#[derive(Debug, clap::Args)]
pub struct RollbackArgs {
    /// How many versions to go back, as `stack history` counts them
    #[arg(long, default_value = "1")]
    pub back: u32,
    /// Stack
    pub stack: String,
}

/// `stack rollback`
pub async fn rollback(context: Context, args: RollbackArgs) -> Outcome {
    change(&context, &args.stack, "rollback", &json!({ "back": args.back })).await
}

/// Options of `compose diff`.
#[derive(Debug, Default, clap::Args)]
pub struct DiffArgs {
    /// Which project.
    #[command(flatten)]
    pub project: ProjectArgs,
    /// Format the output. Values: [table | json]
    #[arg(long)]
    pub format: Option<String>,
    /// Services
    pub services: Vec<String>,
}

/// `diff`: field by field what is different in the files, and what `up` would do about it.
pub async fn diff(context: Context, mut args: DiffArgs) -> Outcome {
    let options = context.project.clone().joined(std::mem::take(&mut args.project));
    let mut chosen = project::to_own(&options)?;
    chosen.activate(&args.services)?;
    if !providers::before_up(&mut chosen, &options, &mut args.services, None, true).await? {
        return Ok(());
    }
    let body = json!({ "request": chosen.request, "services": args.services, "options": { "dry_run": true } });
    let path = format!("/sampan/v1/stacks/{}/up", escape(&chosen.name));
    let response = context.client.call(Method::POST, &path, Some(&body)).await?;
    let mut lines = JsonLines::new(response);
    while let Some(event) = lines.next::<Value>().await? {
        match event["kind"].as_str() {
            Some("error") => return Err(Failure::new(event["message"].as_str().unwrap_or_default())),
            Some("plan") if args.format.as_deref() == Some("json") => {
                say!("{}", json!({ "changes": event["changes"], "plan": event["plan"] }))?;
            }
            Some("plan") => table::write_all(&lines_of(&event))?,
            _ => {}
        }
    }
    Ok(())
}

/// `- before`, `+ after` for each field, then the steps.
fn lines_of(event: &Value) -> String {
    let mut out = String::new();
    let list = |key: &str| event[key].as_array().cloned().unwrap_or_default();
    for change in list("changes") {
        let effect = match change["effect"].as_str() {
            Some("in-place") => "  (changed in place)",
            Some("recreate") => "  (made anew)",
            _ => "",
        };
        out += &format!("{}{effect}\n", change["path"].as_str().unwrap_or_default());
        for (sign, key) in [("-", "before"), ("+", "after")] {
            if !change[key].is_null() {
                out += &format!("  {sign} {}\n", change[key]);
            }
        }
    }
    let steps = list("plan");
    if steps.is_empty() {
        return out + "Nothing to do: everything is as the files say.\n";
    }
    for step in steps {
        out += &format!("{}\n", step.as_str().unwrap_or_default());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_shown_field_by_field() {
        let event = json!({
            "changes": [{"path": "services.web.environment.A", "before": "1", "after": "2"}, {"path": "services.new", "after": {}}],
            "plan": ["recreate container p-web-1: its definition changed"],
        });
        assert_eq!(
            lines_of(&event),
            "services.web.environment.A\n  - \"1\"\n  + \"2\"\nservices.new\n  + {}\nrecreate container p-web-1: its definition changed\n"
        );
        assert!(lines_of(&json!({"plan": []})).starts_with("Nothing to do"));
    }
}
