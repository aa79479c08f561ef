//! `compose run`: a container as the service's own are, with another command.

use http::Method;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

use super::display::{self, Mode, Style};
use super::exec::has_terminal;
use super::project::{self, NUMBER, ONE_OFF, SERVICE};
use super::settings::Orphans;
use super::{providers, remote};
use crate::client::{Client, Query, escape};
use crate::commands::container::create::Streams;
use crate::commands::container::{run, signals};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::{env, mounts, ports};
use crate::output::say;
use crate::output::terminal::DetachKeys;

/// What the reconciler knows a service's own containers by.
const PARTS: &str = "sampan.parts";

/// Options of `compose run`.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Build image before starting container
    #[arg(long)]
    pub build: bool,
    /// Add Linux capabilities
    #[arg(long)]
    pub cap_add: Vec<String>,
    /// Drop Linux capabilities
    #[arg(long)]
    pub cap_drop: Vec<String>,
    /// Run container in background and print container ID
    #[arg(short, long)]
    pub detach: bool,
    /// Override the entrypoint of the image
    #[arg(long)]
    pub entrypoint: Option<String>,
    /// Set environment variables
    #[arg(short, long)]
    pub env: Vec<String>,
    /// Set environment variables from file
    #[arg(long)]
    pub env_from_file: Vec<String>,
    /// Keep STDIN open even if not attached
    #[arg(short, long, default_value = "true")]
    pub interactive: bool,
    /// Add or override a label
    #[arg(short, long)]
    pub label: Vec<String>,
    /// Assign a name to the container
    #[arg(long)]
    pub name: Option<String>,
    /// Don't start linked services
    #[arg(long)]
    pub no_deps: bool,
    /// Disable pseudo-TTY allocation (default: auto-detected)
    #[arg(short = 'T', long, alias = "no-TTY")]
    pub no_tty: bool,
    /// Publish a container's port(s) to the host
    #[arg(short, long)]
    pub publish: Vec<String>,
    /// Pull image before running ("always"|"missing"|"never")
    #[arg(long)]
    pub pull: Option<String>,
    /// Don't print anything to STDOUT
    #[arg(short, long)]
    pub quiet: bool,
    /// Suppress progress output from the build process
    #[arg(long)]
    pub quiet_build: bool,
    /// Pull without printing progress information
    #[arg(long)]
    pub quiet_pull: bool,
    /// Remove containers for services not defined in the Compose file
    #[arg(long)]
    pub remove_orphans: bool,
    /// Automatically remove the container when it exits
    #[arg(long)]
    pub rm: bool,
    /// Run command with all service's ports enabled and mapped to the host
    #[arg(short = 'P', long)]
    pub service_ports: bool,
    /// Allocate a pseudo-TTY
    #[arg(short, long, default_value = "true", hide = true)]
    pub tty: bool,
    /// Use the service's network aliases in the network(s) the container connects to
    #[arg(long)]
    pub use_aliases: bool,
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

/// `compose run`
pub async fn run(context: Context, args: RunArgs) -> Outcome {
    context.no_dry_run("run", "it would have to run the command")?;
    super::up::check_pull(args.pull.as_deref()).map_err(Failure::usage)?;
    let client = &context.client;
    let mut chosen = project::to_own(&context.project)?;
    chosen.activate(std::slice::from_ref(&args.service))?;
    remote::trust(&context.project, false)?;
    let chosen_style = context.project.style()?;
    let style = if args.quiet { Style { mode: Mode::Quiet, ..chosen_style } } else { chosen_style };
    let body = json!({ "options": { "parallel": context.project.parallel()? } });
    let needed = (!args.no_deps).then_some(providers::Needed { client, style, body });
    if !providers::before_up(&mut chosen, &context.project, &mut vec![args.service.clone()], needed, false).await? {
        return Err(Failure::new(format!("service {} is provided by a program and has no container", args.service)));
    }
    let Some(service) = chosen.project.as_ref().and_then(|model| model.service(&args.service)) else { return Ok(()) };
    let orphans = context.project.orphans(args.remove_orphans.then_some(true))?;
    if orphans == Orphans::Removed {
        super::act::remove_orphans(&context).await?;
    }
    let model = chosen.project.as_ref();
    let provided = |name: &String| model.is_some_and(|model| providers::is_provided(model, name));
    let dependencies: Vec<String> = service.depends_on.keys().filter(|name| !provided(name)).cloned().collect();
    if !args.no_deps && !dependencies.is_empty() {
        // What it needs may have to be more than started.
        let wait = service.depends_on.values().any(|need| need.condition != sampan_compose::model::Condition::Started);
        let options = json!({
            "wait": wait,
            "no_recreate": false,
            "ignore_orphans": orphans == Orphans::Ignored,
            "parallel": context.project.parallel()?,
        });
        let body = json!({ "request": chosen.request, "services": dependencies, "options": options });
        let path = format!("/sampan/v1/stacks/{}/up", escape(&chosen.name));
        let response = client.call(Method::POST, &path, Some(&body)).await?;
        display::show(response, style, "run").await?.outcome()?;
    }
    let pattern = pattern(client, &chosen, &args, style).await?;
    let tty = has_terminal(args.tty && !args.no_tty && !args.detach);
    let body = one_off(pattern, &args, tty).map_err(Failure::usage)?;
    let between = chosen.project.as_ref().map_or('-', sampan_compose::Project::separator);
    let name = args
        .name
        .clone()
        .unwrap_or_else(|| format!("{1}{0}{2}{0}run{0}{3:012x}", between, chosen.name, args.service, unique()));
    let created: Value = client.post(&format!("/containers/create{}", Query::new().with("name", &name)), &body).await?;
    let id = created["Id"].as_str().unwrap_or_default().to_owned();
    if args.detach {
        run::start(client, &id).await.map_err(not_started)?;
        if !args.quiet {
            say!("{id}")?;
        }
        return Ok(());
    }
    if !tty {
        signals::forward(client, &id);
    }
    let streams = Streams { input: args.interactive, output: true, errors: true };
    run::attached(client, &id, streams, tty, DetachKeys::chosen(None)?, args.rm).await.map_err(not_started)
}

/// Of a container that does not start Compose says 1, where `docker run` says 125 to 127; a program's own status stays.
fn not_started(failure: Failure) -> Failure {
    if failure.message.is_empty() { failure } else { failure.with_code(1) }
}

/// A number that no other command chooses at this moment.
fn unique() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos());
    #[allow(clippy::cast_possible_truncation)]
    let low = now as u64;
    (low ^ (u64::from(std::process::id()) << 32)) & 0xffff_ffff_ffff
}

/// The body of a request for one of the service's own containers; all that it needs is in place then.
async fn pattern(client: &Client, chosen: &project::Chosen, args: &RunArgs, style: Style) -> Outcome<Value> {
    let options = json!({
        "build": args.build,
        "pull": args.pull,
        "quiet_pull": args.quiet_pull || args.quiet,
        "quiet_build": args.quiet_build || args.quiet,
    });
    let body = json!({ "request": chosen.request, "services": [args.service], "options": options });
    let path = format!("/sampan/v1/stacks/{}/pattern", escape(&chosen.name));
    let response = client.call(Method::POST, &path, Some(&body)).await?;
    let mut shown = display::show(response, style, "run").await?;
    let pattern = shown.pattern.take();
    shown.outcome()?;
    pattern
        .ok_or_else(|| Failure::new(format!("the daemon did not tell what service \"{}\" is made from", args.service)))
}

/// The body of the request: the pattern with what was asked for instead.
fn one_off(pattern: Value, args: &RunArgs, tty: bool) -> Result<Value, String> {
    let mut body = pattern;
    let mut host = body["HostConfig"].take();
    if !args.command.is_empty() {
        body["Cmd"] = json!(args.command);
    }
    if let Some(entry) = &args.entrypoint {
        body["Entrypoint"] = json!(sampan_compose::words(entry)?);
        if args.command.is_empty() {
            body["Cmd"] = Value::Null;
        }
    }
    let own = |name: &str| std::env::var(name).ok();
    let added = env::environment(&args.env_from_file, &args.env, own)?;
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
        labels.remove(NUMBER);
        labels.remove(PARTS);
    }
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
        let volumes = mounts::volumes(&args.volume, &here)?;
        for bind in volumes.binds {
            // What is mounted there instead takes its place.
            let target = bind.split(':').nth(1).unwrap_or_default().to_owned();
            if let Some(mounts) = host["Mounts"].as_array_mut() {
                mounts.retain(|mount| mount["Target"] != target.as_str());
            }
            let mut binds: Vec<Value> = host["Binds"].as_array().cloned().unwrap_or_default();
            binds.retain(|known| known.as_str().and_then(|known| known.split(':').nth(1)) != Some(target.as_str()));
            binds.push(json!(bind));
            host["Binds"] = json!(binds);
        }
    }
    for (field, other, names) in [("CapAdd", "CapDrop", &args.cap_add), ("CapDrop", "CapAdd", &args.cap_drop)] {
        for name in names {
            let plain =
                |known: &str| known.trim_start_matches("CAP_").eq_ignore_ascii_case(name.trim_start_matches("CAP_"));
            if let Some(others) = host[other].as_array_mut() {
                others.retain(|known| !known.as_str().is_some_and(plain));
            }
            let mut all: Vec<Value> = host[field].as_array().cloned().unwrap_or_default();
            all.push(json!(name));
            host[field] = json!(all);
        }
    }
    body["HostConfig"] = host;
    for (_, endpoint) in body["NetworkingConfig"]["EndpointsConfig"].as_object_mut().into_iter().flatten() {
        // An address belongs to the service's own container, and its names unless they are asked for.
        for field in ["IPAMConfig", "MacAddress", "IPAddress", "GlobalIPv6Address"] {
            if let Some(endpoint) = endpoint.as_object_mut() {
                endpoint.remove(field);
            }
        }
        if !args.use_aliases && endpoint["Aliases"].is_array() {
            endpoint["Aliases"] = json!([]);
        }
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::app::parse_for_test;

    fn pattern() -> Value {
        json!({
            "Image": "a", "Env": ["A=1", "B=2"], "Cmd": ["serve"],
            "Labels": {"com.docker.compose.project": "p", "com.docker.compose.container-number": "1", "sampan.parts": "x"},
            "HostConfig": {
                "PortBindings": {"80/tcp": [{"HostPort": "80"}]}, "RestartPolicy": {"Name": "always"},
                "Binds": ["/a:/b"], "Mounts": [{"Target": "/y", "Source": "v"}], "CapAdd": ["SYS_ADMIN"],
            },
            "NetworkingConfig": {"EndpointsConfig": {"p_default": {
                "Aliases": ["web"], "IPAMConfig": {"IPv4Address": "10.0.0.2"},
            }}},
        })
    }

    #[test]
    fn a_one_off_container_is_as_the_services_own() {
        let words =
            ["--rm", "-e", "A=9", "-p", "8080:90", "-v", "/x:/y", "--cap-drop", "sys_admin", "web", "sh", "-c", "true"];
        let body = one_off(pattern(), &parse_for_test::<RunArgs>(&words).unwrap(), false).unwrap();
        assert_eq!(body["Cmd"], json!(["sh", "-c", "true"]));
        assert_eq!(body["Env"], json!(["B=2", "A=9"]));
        assert_eq!(body["Labels"][ONE_OFF], "True");
        assert!(body["Labels"][NUMBER].is_null() && body["Labels"][PARTS].is_null());
        assert_eq!(body["HostConfig"]["RestartPolicy"]["Name"], "no");
        assert!(body["HostConfig"]["PortBindings"]["80/tcp"].is_null());
        assert_eq!(body["HostConfig"]["PortBindings"]["90/tcp"][0]["HostPort"], "8080");
        assert_eq!(body["HostConfig"]["Binds"], json!(["/a:/b", "/x:/y"]));
        assert_eq!(body["HostConfig"]["Mounts"], json!([]), "mounted over");
        assert_eq!(
            (&body["HostConfig"]["CapAdd"], &body["HostConfig"]["CapDrop"]),
            (&json!([]), &json!(["sys_admin"]))
        );
        let endpoint = &body["NetworkingConfig"]["EndpointsConfig"]["p_default"];
        assert_eq!(endpoint, &json!({"Aliases": []}));
    }

    #[test]
    fn ports_names_and_entrypoint_when_asked_for() {
        let words = ["--service-ports", "--use-aliases", "--entrypoint", "sh -c 'a b'", "web"];
        let body = one_off(pattern(), &parse_for_test::<RunArgs>(&words).unwrap(), true).unwrap();
        assert_eq!(body["HostConfig"]["PortBindings"]["80/tcp"][0]["HostPort"], "80");
        assert_eq!(body["NetworkingConfig"]["EndpointsConfig"]["p_default"]["Aliases"], json!(["web"]));
        assert_eq!((&body["Entrypoint"], &body["Cmd"]), (&json!(["sh", "-c", "a b"]), &Value::Null));
        assert_eq!(body["Tty"], true);
    }
}
