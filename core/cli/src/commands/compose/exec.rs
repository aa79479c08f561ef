//! `exec`, `attach` and `run` of services.

use bollard_stubs::models::ExecConfig;
use http::Method;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

use super::display::{self, Mode};
use super::project::{self, ONE_OFF, SERVICE};
use crate::client::{Client, Query, escape};
use crate::commands::container::create::Streams;
use crate::commands::container::{exec, run, signals};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::{env, ports};
use crate::output::say;
use crate::output::terminal::{self, DetachKeys};

/// Options of `compose exec`.
#[derive(Debug, clap::Args)]
pub struct ExecArgs {
    /// Detached mode: Run command in the background
    #[arg(short, long)]
    pub detach: bool,
    /// Set environment variables
    #[arg(short, long)]
    pub env: Vec<String>,
    /// Index of the container if service has multiple replicas
    #[arg(long, value_name = "int", default_value_t = 0)]
    pub index: u32,
    /// Keep STDIN open even if not attached
    #[arg(short, long, default_value = "true", hide = true)]
    pub interactive: bool,
    /// Disable pseudo-TTY allocation
    #[arg(short = 'T', long, alias = "no-TTY")]
    pub no_tty: bool,
    /// Allocate a pseudo-TTY
    #[arg(short, long, default_value = "true", hide = true)]
    pub tty: bool,
    /// Give extended privileges to the process
    #[arg(long)]
    pub privileged: bool,
    /// Run the command as this user
    #[arg(short, long)]
    pub user: Option<String>,
    /// Path to workdir directory for this command
    #[arg(short, long)]
    pub workdir: Option<String>,
    /// Service
    pub service: String,
    /// Command and arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// Whether both ends are terminals, so that the process gets one.
fn has_terminal(wanted: bool) -> bool {
    wanted && terminal::input_is_terminal() && terminal::output_is_terminal()
}

/// `compose exec`
pub async fn exec(context: Context, args: ExecArgs) -> Outcome {
    let client = &context.client;
    let chosen = project::find(client, &context.project).await?;
    let container = project::container_of(client, &chosen.name, &args.service, args.index).await?;
    let own = |name: &str| std::env::var(name).ok();
    let tty = has_terminal(args.tty && !args.no_tty && !args.detach);
    let config = ExecConfig {
        attach_stdin: Some(args.interactive && !args.detach),
        attach_stdout: Some(!args.detach),
        attach_stderr: Some(!args.detach),
        tty: Some(tty),
        env: Some(env::environment(&[], &args.env, own).map_err(Failure::usage)?),
        cmd: Some(args.command),
        privileged: Some(args.privileged),
        user: args.user,
        working_dir: args.workdir,
        console_size: terminal::size().filter(|_| tty).map(|(rows, columns)| vec![rows.into(), columns.into()]),
        ..ExecConfig::default()
    };
    exec::execute(client, container["Id"].as_str().unwrap_or_default(), config, args.detach, None).await
}

/// Options of `compose run`.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Run container in background and print container ID
    #[arg(short, long)]
    pub detach: bool,
    /// Override the entrypoint of the image
    #[arg(long)]
    pub entrypoint: Option<String>,
    /// Set environment variables
    #[arg(short, long)]
    pub env: Vec<String>,
    /// Keep STDIN open even if not attached
    #[arg(short, long, default_value = "true")]
    pub interactive: bool,
    /// Add or override a label
    #[arg(short, long)]
    pub label: Vec<String>,
    /// Assign a name to the container
    #[arg(long)]
    pub name: Option<String>,
    /// Disable pseudo-TTY allocation
    #[arg(short = 'T', long, alias = "no-TTY")]
    pub no_tty: bool,
    /// Don't start linked services
    #[arg(long)]
    pub no_deps: bool,
    /// Publish a container's port(s) to the host
    #[arg(short, long)]
    pub publish: Vec<String>,
    /// Automatically remove the container when it exits
    #[arg(long)]
    pub rm: bool,
    /// Run command with all service's ports enabled and mapped to the host
    #[arg(short = 'P', long)]
    pub service_ports: bool,
    /// Run as specified username or uid
    #[arg(short, long)]
    pub user: Option<String>,
    /// Bind mount a volume
    #[arg(short, long)]
    pub volume: Vec<String>,
    /// Working directory inside the container
    #[arg(short, long)]
    pub workdir: Option<String>,
    /// Service
    pub service: String,
    /// Command and arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// `compose run`: a container as the service's own are, with another command.
pub async fn run(context: Context, args: RunArgs) -> Outcome {
    let client = &context.client;
    let chosen = project::to_own(&context.project)?;
    let Some(service) = chosen.project.as_ref().and_then(|model| model.service(&args.service)) else {
        return Err(Failure::new(format!("no such service: {}", args.service)));
    };
    let mode = Mode::chosen(context.project.progress.as_deref(), context.project.ansi.as_deref())?;
    let dependencies: Vec<String> = service.depends_on.keys().cloned().collect();
    if !args.no_deps && !dependencies.is_empty() {
        bring_up(client, &chosen, &dependencies, false, mode).await?;
    }
    let pattern = pattern(client, &chosen, &args.service, mode).await?;
    let tty = has_terminal(!args.no_tty && !args.detach);
    let body = one_off(&pattern, &args, tty).map_err(Failure::usage)?;
    let name = args.name.clone().unwrap_or_else(|| format!("{}-{}-run-{:012x}", chosen.name, args.service, unique()));
    let created: Value = client.post(&format!("/containers/create{}", Query::new().with("name", &name)), &body).await?;
    let id = created["Id"].as_str().unwrap_or_default().to_owned();
    if args.detach {
        run::start(client, &id).await?;
        say!("{name}")?;
        return Ok(());
    }
    if !tty {
        signals::forward(client, &id);
    }
    let streams = Streams { input: args.interactive, output: true, errors: true };
    run::attached(client, &id, streams, tty, DetachKeys::chosen(None)?, args.rm).await
}

/// A number that no other command chooses at this moment.
fn unique() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos());
    #[allow(clippy::cast_possible_truncation)]
    let low = now as u64;
    (low ^ (u64::from(std::process::id()) << 32)) & 0xffff_ffff_ffff
}

async fn bring_up(
    client: &Client,
    chosen: &project::Chosen,
    services: &[String],
    only_create: bool,
    mode: Mode,
) -> Outcome {
    let body = json!({
        "request": chosen.request,
        "services": services,
        "options": { "no_start": only_create, "no_deps": only_create, "no_recreate": only_create, "wait": false },
    });
    let response =
        client.call(Method::POST, &format!("/sampan/v1/stacks/{}/up", escape(&chosen.name)), Some(&body)).await?;
    display::show(response, mode, "Creating").await?.outcome()
}

/// A container of the service to make the new one after; made, but not started, when there is none.
async fn pattern(client: &Client, chosen: &project::Chosen, service: &str, mode: Mode) -> Outcome<Value> {
    let services = [service.to_owned()];
    let mut found = project::containers(client, &chosen.name, &services, true, false).await?;
    if found.is_empty() {
        bring_up(client, chosen, &services, true, mode).await?;
        found = project::containers(client, &chosen.name, &services, true, false).await?;
    }
    let id = found.first().and_then(|container| container["Id"].as_str());
    let id = id.ok_or_else(|| Failure::new(format!("the daemon made no container for service \"{service}\"")))?;
    client.get(&format!("/containers/{id}/json")).await
}

/// The body of the request: the pattern with what was asked for instead.
fn one_off(pattern: &Value, args: &RunArgs, tty: bool) -> Result<Value, String> {
    let mut body = pattern["Config"].clone();
    let mut host = pattern["HostConfig"].clone();
    if !args.command.is_empty() {
        body["Cmd"] = json!(args.command);
    }
    if let Some(entry) = &args.entrypoint {
        body["Entrypoint"] = json!([entry]);
        if args.command.is_empty() {
            body["Cmd"] = Value::Null;
        }
    }
    let own = |name: &str| std::env::var(name).ok();
    let added = env::environment(&[], &args.env, own)?;
    let mut environment: Vec<String> =
        body["Env"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    for variable in added {
        let name = format!("{}=", variable.split('=').next().unwrap_or_default());
        environment.retain(|known| !known.starts_with(&name));
        environment.push(variable);
    }
    body["Env"] = json!(environment);
    for (field, value) in [("User", &args.user), ("WorkingDir", &args.workdir)] {
        if let Some(value) = value {
            body[field] = json!(value);
        }
    }
    if !body["Labels"].is_object() {
        body["Labels"] = json!({});
    }
    for (name, value) in env::labels(&[], &args.label)? {
        body["Labels"][name] = json!(value);
    }
    body["Labels"][ONE_OFF] = json!("True");
    body["Labels"][SERVICE] = json!(args.service);
    if let Some(labels) = body["Labels"].as_object_mut() {
        labels.remove(project::NUMBER);
    }
    // The name of the pattern's own host is not for two.
    body["Hostname"] = Value::Null;
    for (field, value) in [
        ("Tty", tty),
        ("OpenStdin", args.interactive && !args.detach),
        ("StdinOnce", args.interactive && !args.detach),
        ("AttachStdin", args.interactive && !args.detach),
        ("AttachStdout", !args.detach),
        ("AttachStderr", !args.detach),
    ] {
        body[field] = json!(value);
    }
    host["AutoRemove"] = json!(args.rm);
    host["RestartPolicy"] = json!({"Name": "no", "MaximumRetryCount": 0});
    if !args.service_ports {
        host["PortBindings"] = json!({});
    }
    if !args.publish.is_empty() {
        let found = ports::parse(&args.publish, &[])?;
        for (port, bindings) in found.bindings {
            host["PortBindings"][&port] = serde_json::to_value(bindings).map_err(|error| error.to_string())?;
            body["ExposedPorts"][port] = json!({});
        }
    }
    if !args.volume.is_empty() {
        let here = std::env::current_dir().unwrap_or_default();
        let volumes = crate::flags::mounts::volumes(&args.volume, &here)?;
        let mut binds: Vec<Value> = host["Binds"].as_array().cloned().unwrap_or_default();
        binds.extend(volumes.binds.into_iter().map(Value::from));
        host["Binds"] = json!(binds);
    }
    body["HostConfig"] = host;
    body["NetworkingConfig"] = json!({ "EndpointsConfig": endpoints(pattern) });
    Ok(body)
}

/// The pattern's networks, without what belongs to it alone.
fn endpoints(pattern: &Value) -> Value {
    let networks = pattern["NetworkSettings"]["Networks"].as_object().into_iter().flatten();
    networks
        .filter(|(name, _)| !matches!(name.as_str(), "host" | "none") && !name.starts_with("container:"))
        .map(|(name, found)| {
            (name.clone(), json!({ "DriverOpts": found["DriverOpts"], "GwPriority": found["GwPriority"] }))
        })
        .collect::<serde_json::Map<_, _>>()
        .into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::app::parse_for_test;

    #[test]
    fn a_one_off_container_is_as_the_services_own() {
        let pattern = json!({
            "Config": {"Image": "a", "Env": ["A=1", "B=2"], "Cmd": ["serve"], "Hostname": "abc", "Labels": {"com.docker.compose.project": "p", "com.docker.compose.container-number": "1"}},
            "HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "80"}]}, "RestartPolicy": {"Name": "always"}, "Binds": ["/a:/b"]},
            "NetworkSettings": {"Networks": {"p_default": {"IPAddress": "10.0.0.2"}}},
        });
        let args: RunArgs =
            parse_for_test(&["--rm", "-e", "A=9", "-p", "8080:90", "-v", "/x:/y", "web", "sh", "-c", "true"]).unwrap();
        let body = one_off(&pattern, &args, false).unwrap();
        assert_eq!(body["Cmd"], json!(["sh", "-c", "true"]));
        assert_eq!(body["Env"], json!(["B=2", "A=9"]));
        assert_eq!(body["Labels"][ONE_OFF], "True");
        assert!(body["Labels"][project::NUMBER].is_null());
        assert_eq!(body["HostConfig"]["RestartPolicy"]["Name"], "no");
        assert!(body["HostConfig"]["PortBindings"]["80/tcp"].is_null());
        assert_eq!(body["HostConfig"]["PortBindings"]["90/tcp"][0]["HostPort"], "8080");
        assert_eq!(body["HostConfig"]["Binds"], json!(["/a:/b", "/x:/y"]));
        assert!(body["NetworkingConfig"]["EndpointsConfig"]["p_default"]["IPAddress"].is_null());
    }
}
