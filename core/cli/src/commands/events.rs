//! `events`.

use http::Method;
use serde_json::Value;

use crate::client::{JsonLines, Query};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::time;
use crate::output::{human, table};

/// Options of `events`.
#[derive(Debug, clap::Args)]
pub struct EventsArgs {
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "filter")]
    pub filter: Vec<String>,
    /// Format output using a custom template: 'json' or a Go template
    #[arg(long)]
    pub format: Option<String>,
    /// Show all events created since timestamp
    #[arg(long, value_parser = time::ago)]
    pub since: Option<String>,
    /// Stream events until this timestamp
    #[arg(long, value_parser = time::ago)]
    pub until: Option<String>,
}

/// `events`
pub async fn run(context: Context, args: EventsArgs) -> Outcome {
    let template = match args.format.as_deref() {
        None | Some("" | "json") => None,
        Some(format) => Some(table::parse(format)?),
    };
    let query = Query::new()
        .maybe("since", args.since.as_deref())
        .maybe("until", args.until.as_deref())
        .filters(&args.filter)?;
    let response = context.client.call(Method::GET, &format!("/events{query}"), None::<&()>).await?;
    let mut lines = JsonLines::new(response);
    while let Some(event) = lines.next::<Value>().await? {
        let line = match (&template, args.format.as_deref()) {
            (Some(template), _) => template.render(&event).map_err(Failure::new)?,
            (None, Some("json")) => event.to_string(),
            _ => line(&event),
        };
        table::write_all(&(line + "\n"))?;
    }
    Ok(())
}

/// `TIME type action id (name=value, …)`
fn line(event: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let nanoseconds = event["timeNano"].as_i64().unwrap_or(0);
    let seconds =
        if nanoseconds != 0 { nanoseconds.div_euclid(1_000_000_000) } else { event["time"].as_i64().unwrap_or(0) };
    let time = human::rfc3339(seconds).replace('Z', &format!(".{:09}Z", nanoseconds.rem_euclid(1_000_000_000)));
    let actor = &event["Actor"];
    let mut attributes: Vec<String> = actor["Attributes"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| format!("{name}={}", text(value)))
        .collect();
    attributes.sort_unstable();
    let tail = if attributes.is_empty() { String::new() } else { format!(" ({})", attributes.join(", ")) };
    format!("{time} {} {} {}{tail}", text(&event["Type"]), text(&event["Action"]), text(&actor["ID"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_read_as_dockers() {
        let event = serde_json::json!({
            "Type": "container", "Action": "start", "timeNano": 1_709_210_096_000_000_007_i64,
            "Actor": {"ID": "abc", "Attributes": {"name": "web", "image": "busybox"}},
        });
        assert_eq!(line(&event), "2024-02-29T12:34:56.000000007Z container start abc (image=busybox, name=web)");
    }
}
