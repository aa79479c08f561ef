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
    /// Container, or service of the project here
    pub container: Option<String>,
    /// Options of ps
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub options: Vec<String>,
}

/// `top`
pub async fn top(context: Context, args: TopArgs) -> Outcome {
    let names: Vec<String> = args.container.into_iter().collect();
    let meant = compose::names::meant(&context, &names).await?;
    if let Some(services) = meant.services() {
        if !args.options.is_empty() {
            return Err(Failure::new("options of ps are for one container; a service may have several"));
        }
        let top = compose::look::TopArgs { services: services.to_vec() };
        return compose::look::top(context, top).await;
    }
    let Some(container) = meant.containers().first() else { return Ok(()) };
    let options = (!args.options.is_empty()).then(|| args.options.join(" "));
    let query = Query::new().maybe("ps_args", options);
    let found: Value = context.client.get(&format!("/containers/{}/top{query}", escape(container))).await?;
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
    /// Container, or service of the project here
    pub container: Option<String>,
    /// Private port, with an optional protocol
    pub port: Option<String>,
}

/// `port`; without a container, those of the stack here.
pub async fn port(context: Context, args: PortArgs) -> Outcome {
    let names: Vec<String> = args.container.into_iter().collect();
    let all = names.is_empty();
    for container in compose::names::containers(&context, &names).await? {
        let found: Value = context.client.get(&format!("/containers/{}/json", escape(&container))).await?;
        let lines = bindings(&found["NetworkSettings"]["Ports"], &container, args.port.as_deref())?;
        let named = |line: &str| if all { format!("{container} {line}\n") } else { format!("{line}\n") };
        table::write_all(&lines.lines().map(named).collect::<String>())?;
    }
    Ok(())
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
    /// Show what `up` would change of the stack here, as without a container
    #[arg(long)]
    pub stack: bool,
    /// Format of the stack's changes. Values: [table | json]
    #[arg(long)]
    pub format: Option<String>,
    /// Container, or service of the project here
    pub container: Option<String>,
}

/// `diff`: of a container's files; without a container, of the project's.
pub async fn diff(context: Context, args: DiffArgs) -> Outcome {
    let names: Vec<String> = args.container.clone().filter(|_| !args.stack).into_iter().collect();
    if args.stack || compose::names::meant(&context, &names).await? == compose::names::Meant::Project {
        let diff = compose::stack::DiffArgs { format: args.format, ..compose::stack::DiffArgs::default() };
        return compose::stack::diff(context, diff).await;
    }
    let container = compose::names::container(&context, &names.concat()).await?;
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
