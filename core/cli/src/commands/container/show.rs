//! Commands that show one thing about containers: `inspect top port diff`.

use serde_json::Value;

use crate::client::{Query, escape};
use crate::commands::compose;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::{json, table};

/// Options of `container inspect`.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// Format output using a custom template: 'json' or a Go template
    #[arg(short, long)]
    pub format: Option<String>,
    /// Display total file sizes
    #[arg(short, long)]
    pub size: bool,
    /// Containers
    #[arg(required = true)]
    pub containers: Vec<String>,
}

/// `container inspect`
pub async fn inspect(context: Context, args: InspectArgs) -> Outcome {
    let query = Query::new().flag("size", args.size);
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    for name in &args.containers {
        match context.client.get::<Value>(&format!("/containers/{}/json{query}", escape(name))).await {
            Ok(value) => found.push(value),
            Err(failure) => failed.push(failure),
        }
    }
    json::inspected(&found, &failed, args.format.as_deref())
}

/// Arguments of `top`.
#[derive(Debug, clap::Args)]
pub struct TopArgs {
    /// Container
    pub container: String,
    /// Options of ps
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub options: Vec<String>,
}

/// `top`
pub async fn top(context: Context, args: TopArgs) -> Outcome {
    let options = (!args.options.is_empty()).then(|| args.options.join(" "));
    let query = Query::new().maybe("ps_args", options);
    let found: Value = context.client.get(&format!("/containers/{}/top{query}", escape(&args.container))).await?;
    let words = |row: &Value| {
        row.as_array().into_iter().flatten().map(|cell| cell.as_str().unwrap_or_default().to_owned()).collect()
    };
    let lines: Vec<Vec<String>> = std::iter::once(&found["Titles"])
        .chain(found["Processes"].as_array().into_iter().flatten())
        .map(words)
        .collect();
    table::print_lines(lines)
}

/// Arguments of `port`.
#[derive(Debug, clap::Args)]
pub struct PortArgs {
    /// Container
    pub container: String,
    /// Private port, with an optional protocol
    pub port: Option<String>,
}

/// `port`
pub async fn port(context: Context, args: PortArgs) -> Outcome {
    let found: Value = context.client.get(&format!("/containers/{}/json", escape(&args.container))).await?;
    table::write_all(&bindings(&found["NetworkSettings"]["Ports"], &args.container, args.port.as_deref())?)
}

/// The lines of `port`: all bindings, or those of one port.
pub fn bindings(ports: &Value, container: &str, wanted: Option<&str>) -> Outcome<String> {
    let shown = |binding: &Value| {
        let part = |name: &str| binding[name].as_str().unwrap_or_default();
        if part("HostIp").contains(':') {
            format!("[{}]:{}", part("HostIp"), part("HostPort"))
        } else {
            format!("{}:{}", part("HostIp"), part("HostPort"))
        }
    };
    let Some(wanted) = wanted else {
        let mut lines: Vec<(u32, String)> = Vec::new();
        for (port, found) in ports.as_object().into_iter().flatten() {
            let number = port.split('/').next().and_then(|number| number.parse().ok()).unwrap_or(0);
            lines.extend(
                found
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|binding| (number, format!("{port} -> {}\n", shown(binding)))),
            );
        }
        lines.sort();
        return Ok(lines.into_iter().map(|(_, line)| line).collect());
    };
    let (number, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
    if number.parse::<u16>().is_err() {
        return Err(Failure::new(format!("Error: invalid port ({wanted})")));
    }
    let found = ports[format!("{number}/{protocol}")].as_array().filter(|found| !found.is_empty());
    let found =
        found.ok_or_else(|| Failure::new(format!("Error: No public port '{wanted}' published for {container}")))?;
    Ok(found.iter().map(|binding| shown(binding) + "\n").collect())
}

/// Arguments of `diff`.
#[derive(Debug, clap::Args)]
pub struct DiffArgs {
    /// Show what `up` would change of the stack whose files lie here
    #[arg(long)]
    pub stack: bool,
    /// Container
    #[arg(required_unless_present = "stack")]
    pub container: Option<String>,
}

/// `diff`
pub async fn diff(context: Context, args: DiffArgs) -> Outcome {
    let Some(container) = args.container.filter(|_| !args.stack) else {
        return compose::stack::diff(context, compose::stack::DiffArgs::default()).await;
    };
    let changes: Option<Vec<Value>> =
        context.client.get(&format!("/containers/{}/changes", escape(&container))).await?;
    let line = |change: &Value| {
        let kind = match change["Kind"].as_u64() {
            Some(1) => 'A',
            Some(2) => 'D',
            _ => 'C',
        };
        format!("{kind} {}\n", change["Path"].as_str().unwrap_or_default())
    };
    table::write_all(&changes.unwrap_or_default().iter().map(line).collect::<String>())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ports_are_shown_by_number() {
        let ports = serde_json::json!({
            "443/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8443"}],
            "80/tcp": [{"HostIp": "::", "HostPort": "8080"}],
            "90/udp": null,
        });
        assert_eq!(bindings(&ports, "c", None).unwrap(), "80/tcp -> [::]:8080\n443/tcp -> 0.0.0.0:8443\n");
        assert_eq!(bindings(&ports, "c", Some("443")).unwrap(), "0.0.0.0:8443\n");
        assert!(bindings(&ports, "c", Some("90/udp")).unwrap_err().message.contains("No public port '90/udp'"));
        assert!(bindings(&ports, "c", Some("x")).is_err());
    }
}
