//! `up`, `create`, `watch`, `down`.

use http::Method;
use sampan_compose::Project;
use serde_json::{Map, Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::display::{self, Display, Mode, Style};
use super::follow::{Follower, Turn, Wanted};
use super::logs::colors;
use super::settings::Orphans;
use super::{ProjectArgs, project, providers, reach, remote};
use crate::client::{Client, JsonLines, escape};
use crate::commands::container::run::low_byte;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::Parsed;
use crate::output::{say, table, tell};

/// How long after the last container ended the stack may take to start it again.
const REVIVAL: Duration = Duration::from_millis(700);
/// How long the logs of what was stopped may take to end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Options of `up`.
#[derive(Debug, Default, clap::Args)]
pub struct UpArgs {
    /// Which project.
    #[command(flatten)]
    pub project: ProjectArgs,
    /// Stops all containers if any container was stopped. Incompatible with -d
    #[arg(long)]
    pub abort_on_container_exit: bool,
    /// Stops all containers if any container exited with failure. Incompatible with -d
    #[arg(long)]
    pub abort_on_container_failure: bool,
    /// Recreate dependent containers. Incompatible with --no-recreate
    #[arg(long)]
    pub always_recreate_deps: bool,
    /// Restrict attaching to the specified services. Incompatible with --attach-dependencies
    #[arg(long)]
    pub attach: Vec<String>,
    /// Automatically attach to log output of dependent services
    #[arg(long)]
    pub attach_dependencies: bool,
    /// Build images before starting containers
    #[arg(long)]
    pub build: bool,
    /// Detached mode: Run containers in the background
    #[arg(short, long)]
    pub detach: bool,
    /// Return the exit code of the selected service container. Implies --abort-on-container-exit
    #[arg(long)]
    pub exit_code_from: Option<String>,
    /// Recreate containers even if their configuration and image haven't changed
    #[arg(long)]
    pub force_recreate: bool,
    /// Interactive shortcuts when running attached (there are none: the daemon follows the files by itself)
    #[arg(long, hide = true)]
    pub menu: bool,
    /// Do not attach (stream logs) to the specified services
    #[arg(long)]
    pub no_attach: Vec<String>,
    /// Don't build an image, even if it's policy
    #[arg(long)]
    pub no_build: bool,
    /// Produce monochrome output
    #[arg(long)]
    pub no_color: bool,
    /// Don't start linked services
    #[arg(long)]
    pub no_deps: bool,
    /// Don't print prefix in logs
    #[arg(long)]
    pub no_log_prefix: bool,
    /// If containers already exist, don't recreate them
    #[arg(long)]
    pub no_recreate: bool,
    /// Don't start the services after creating them
    #[arg(long)]
    pub no_start: bool,
    /// Pull image before running ("always"|"missing"|"never")
    #[arg(long)]
    pub pull: Option<String>,
    /// Suppress the build output
    #[arg(long)]
    pub quiet_build: bool,
    /// Pull without printing progress information
    #[arg(long)]
    pub quiet_pull: bool,
    /// Remove containers for services not defined in the Compose file
    #[arg(long)]
    pub remove_orphans: bool,
    /// Recreate anonymous volumes instead of retrieving data from the previous containers
    #[arg(short = 'V', long)]
    pub renew_anon_volumes: bool,
    /// Scale SERVICE to NUM instances. Overrides the scale setting in the Compose file if present
    #[arg(long, value_parser = scale)]
    pub scale: Vec<(String, u32)>,
    /// Use this timeout in seconds for container shutdown
    #[arg(short, long, value_name = "int")]
    pub timeout: Option<u32>,
    /// Show timestamps
    #[arg(long)]
    pub timestamps: bool,
    /// Wait for services to be running|healthy. Implies detached mode
    #[arg(long)]
    pub wait: bool,
    /// Maximum duration in seconds to wait for the project to be running|healthy
    #[arg(long, value_name = "int")]
    pub wait_timeout: Option<u32>,
    /// Watch source code and sync or rebuild when files change, as `develop.watch` says
    #[arg(short, long)]
    pub watch: bool,
    /// Do not have the daemon follow the files
    #[arg(long)]
    pub no_watch: bool,
    /// Assume "yes" as answer to all prompts
    #[arg(short, long)]
    pub yes: bool,
    /// Whether it ends without a word on what is reachable where.
    #[arg(skip)]
    pub quiet_end: bool,
    /// Services
    pub services: Vec<String>,
}

fn scale(text: &str) -> Parsed<(String, u32)> {
    let wrong = || format!("invalid --scale option {text:?}: should be SERVICE=NUM");
    let (service, count) = text.split_once('=').ok_or_else(wrong)?;
    Ok((service.to_owned(), count.parse().map_err(|_| wrong())?))
}

fn check(args: &UpArgs) -> Parsed<()> {
    let both = |a: &str, b: &str| Err(format!("{a} and {b} are incompatible"));
    let aborts = args.abort_on_container_exit || args.abort_on_container_failure || args.exit_code_from.is_some();
    match args {
        _ if args.build && args.no_build => both("--build", "--no-build"),
        _ if args.force_recreate && args.no_recreate => both("--force-recreate", "--no-recreate"),
        _ if args.always_recreate_deps && args.no_recreate => both("--always-recreate-deps", "--no-recreate"),
        _ if args.attach_dependencies && !args.attach.is_empty() => both("--attach-dependencies", "--attach"),
        _ if args.watch && args.no_start => both("--watch", "--no-start"),
        _ if args.watch && (args.detach || args.wait) => both("--watch", "--detach or --wait"),
        _ if (args.detach || args.wait) && aborts => {
            both("--detach or --wait", "--abort-on-container-exit, --abort-on-container-failure or --exit-code-from")
        }
        _ if args.abort_on_container_exit && args.abort_on_container_failure => {
            both("--abort-on-container-exit", "--abort-on-container-failure")
        }
        _ => check_pull(args.pull.as_deref()),
    }
}

/// Whether `--pull` says one of the ways that there are.
pub fn check_pull(pull: Option<&str>) -> Parsed<()> {
    match pull {
        None | Some("always" | "missing" | "never" | "build" | "policy") => Ok(()),
        Some(other) => Err(format!("invalid --pull option {other:?}: use always, missing or never")),
    }
}

/// The body of the request.
fn body(args: &UpArgs, request: &Value, options: &ProjectArgs) -> Outcome<Value> {
    let orphans = options.orphans(args.remove_orphans.then_some(true))?;
    let counts: Map<String, Value> =
        args.scale.iter().map(|(service, count)| (service.clone(), json!(count))).collect();
    Ok(json!({
        "request": request,
        "services": args.services,
        "options": {
            "build": args.build,
            "no_build": args.no_build,
            "pull": args.pull,
            // As with Compose: volumes are renewed by making all anew.
            "force_recreate": args.force_recreate || args.renew_anon_volumes && !args.no_recreate,
            "no_recreate": args.no_recreate,
            "recreate_deps": args.always_recreate_deps,
            "no_deps": args.no_deps,
            "remove_orphans": orphans == Orphans::Removed,
            "ignore_orphans": orphans == Orphans::Ignored,
            "parallel": options.parallel()?,
            "scale": counts,
            "wait": args.wait,
            "wait_timeout_s": args.wait_timeout,
            "timeout_s": args.timeout,
            "dry_run": options.dry_run,
            "watch": !args.no_watch,
            "no_start": args.no_start,
            "renew_anon_volumes": args.renew_anon_volumes,
        },
    }))
}

/// `up`
pub async fn up(context: Context, mut args: UpArgs) -> Outcome {
    check(&args).map_err(Failure::usage)?;
    let options = context.project.clone().joined(std::mem::take(&mut args.project));
    if args.menu {
        tell!("WARN: --menu: there are no shortcuts; the daemon follows the files by itself, and --watch the sources");
    }
    let style = options.style()?;
    let mut chosen = project::to_own(&options)?;
    for services in [&args.attach, &args.no_attach] {
        chosen.check(services)?;
    }
    chosen.check(args.exit_code_from.as_slice())?;
    chosen.activate(&args.services)?;
    chosen.activate(&args.scale.iter().map(|(service, _)| service.clone()).collect::<Vec<_>>())?;
    if !options.dry_run {
        remote::trust(&options, args.yes)?;
    }
    let client = &context.client;
    let needed = match args.no_start || args.no_deps {
        true => None,
        false => Some(providers::Needed { client, style, body: body(&args, &Value::Null, &options)? }),
    };
    if !providers::before_up(&mut chosen, &options, &mut args.services, needed, options.dry_run).await? {
        return Ok(());
    }
    let since = now();
    let body = body(&args, chosen.request.as_ref().unwrap_or(&Value::Null), &options)?;
    let path = format!("/sampan/v1/stacks/{}/up", escape(&chosen.name));
    let attached = !(args.detach || args.wait || options.dry_run || args.no_start);
    let wanted = Wanted {
        project: chosen.name.clone(),
        services: attached_services(&args, chosen.project.as_ref()),
        except: unattached_services(&args, chosen.project.as_ref()),
        follow: true,
        since: Some(since),
        timestamps: args.timestamps,
        prefix: !args.no_log_prefix,
        colors: colors(args.no_color, options.ansi.as_deref()),
        ..Wanted::default()
    };
    let title = if args.no_start { "create" } else { "up" };
    let work = async {
        let response = client.call(Method::POST, &path, Some(&body)).await?;
        let mut result = Display::new(style, title).quiet(args.quiet_pull, args.quiet_build).show(response).await?;
        let places = std::mem::take(&mut result.places);
        result.outcome()?;
        if matches!(style.mode, Mode::Terminal | Mode::Plain) && !places.is_empty() && !args.quiet_end {
            tell!("\n{}", table::aligned(reach::lines(chosen.project.as_ref(), &places)).trim_end());
        }
        Ok(())
    };
    if !attached {
        return work.await;
    }
    let mut interrupts = Interrupts::new()?;
    tokio::select! {
        outcome = work => outcome?,
        // Interrupted before everything is up: what is up already ends too.
        () = interrupts.next() => {
            stop(client, &chosen.name, style, args.timeout, "stop").await?;
            providers::stop(chosen.project.as_ref(), &options).await?;
            return Err(Failure::exit(130));
        }
    }
    tell!("Attaching to {}", attached_to(client, &wanted).await);
    let sources = async {
        match args.watch {
            true => follow_sources(client, &chosen.name, &args.services).await,
            false => std::future::pending().await,
        }
    };
    let (stopped, outcome) = tokio::select! {
        ended = watch_over(client, wanted, &args, &mut interrupts) => ended?,
        failed = sources => return failed,
    };
    if stopped {
        providers::stop(chosen.project.as_ref(), &options).await?;
    }
    outcome
}

/// The services whose logs are shown; none for all.
fn attached_services(args: &UpArgs, model: Option<&Project>) -> Vec<String> {
    if !args.attach.is_empty() {
        return args.attach.clone();
    }
    let mut services = args.services.clone();
    let mut at = 0;
    while args.attach_dependencies && at < services.len() {
        let found = model.and_then(|model| model.service(&services[at]));
        let needs: Vec<String> = found.into_iter().flat_map(|found| found.depends_on.keys().cloned()).collect();
        for name in needs {
            if !services.contains(&name) {
                services.push(name);
            }
        }
        at += 1;
    }
    services
}

/// Those whose logs are not: as options say, and as the file says of services that were not named.
fn unattached_services(args: &UpArgs, model: Option<&Project>) -> Vec<String> {
    let named = |name: &String| args.attach.contains(name) || args.services.contains(name);
    let own = model.into_iter().flat_map(|model| &model.services);
    let by_file = own.filter(|(name, found)| found.attach == Some(false) && !named(name)).map(|(name, _)| name.clone());
    args.no_attach.iter().cloned().chain(by_file).collect()
}

/// Has the daemon bring sources into containers as they are saved, and shows a line for each thing that it did.
async fn follow_sources(client: &Client, project: &str, services: &[String]) -> Outcome {
    let path = format!("/sampan/v1/stacks/{}/watch", escape(project));
    let response = client.call(Method::POST, &path, Some(&json!({ "services": services }))).await?;
    let mut lines = JsonLines::new(response);
    while let Some(event) = lines.next::<Value>().await? {
        let message = event["message"].as_str().unwrap_or_default();
        match event["kind"].as_str() {
            Some("watch") => tell!("{message}"),
            Some("error") => return Err(Failure::new(message)),
            _ => {}
        }
    }
    Ok(())
}

async fn attached_to(client: &Client, wanted: &Wanted) -> String {
    let found = project::containers(client, &wanted.project, &wanted.services, false, false).await.unwrap_or_default();
    let names: Vec<&str> = found.iter().map(|found| project::short(project::name(found), &wanted.project)).collect();
    names.join(", ")
}

/// Shows logs until the stack ends or the user ends it; whether it was stopped for that, and how the command ends.
async fn watch_over(
    client: &Client,
    wanted: Wanted,
    args: &UpArgs,
    interrupts: &mut Interrupts,
) -> Outcome<(bool, Outcome)> {
    let project = wanted.project.clone();
    let mut follower = Follower::new(client, wanted).await?;
    loop {
        let quiet = !follower.active();
        let turn = tokio::select! {
            turn = follower.next() => turn?,
            () = interrupts.next() => {
                tell!("Gracefully stopping... (press Ctrl+C again to force)");
                stop_while_following(client, &mut follower, &project, interrupts, args.timeout).await?;
                return Ok((true, Err(Failure::exit(130))));
            }
            () = all_ended(client, &project), if quiet => return Ok((false, Ok(()))),
        };
        let exit = match turn {
            Turn::Exit(exit) => exit,
            Turn::Quiet => continue,
            Turn::Over => return Ok((false, Ok(()))),
        };
        say!("{} exited with code {}", exit.label, exit.code)?;
        let from = args.exit_code_from.as_deref();
        let ends = from.is_some_and(|service| service == exit.service)
            || (from.is_none() && args.abort_on_container_exit)
            || (args.abort_on_container_failure && exit.code != 0);
        if ends {
            tell!("Aborting on container exit...");
            stop_while_following(client, &mut follower, &project, interrupts, args.timeout).await?;
            let outcome = if exit.code == 0 { Ok(()) } else { Err(Failure::exit(low_byte(exit.code))) };
            return Ok((true, outcome));
        }
    }
}

/// Ends when no container of the stack runs and none is started again.
async fn all_ended(client: &Client, project: &str) {
    loop {
        tokio::time::sleep(REVIVAL).await;
        match project::containers(client, project, &[], false, false).await {
            Ok(found) if found.is_empty() => return,
            _ => {}
        }
    }
}

/// Stops the stack while its logs go on; an interrupt kills it instead.
async fn stop_while_following(
    client: &Client,
    follower: &mut Follower,
    project: &str,
    interrupts: &mut Interrupts,
    timeout: Option<u32>,
) -> Outcome {
    // Lines of logs come between: there is no place that could be drawn over.
    let mut stopping = Box::pin(stop(client, project, Mode::Plain.into(), timeout, "stop"));
    let mut open = true;
    loop {
        tokio::select! {
            outcome = &mut stopping => {
                outcome?;
                break;
            }
            turn = follower.next(), if open => open = told(turn?)?,
            () = interrupts.next() => {
                stop(client, project, Mode::Plain.into(), None, "kill").await?;
                break;
            }
        }
    }
    // What they said at their end is still on its way.
    let last_words = async {
        while open && follower.active() {
            open = told(follower.next().await?)?;
        }
        Ok(())
    };
    tokio::time::timeout(LAST_WORDS, last_words).await.unwrap_or(Ok(()))
}

/// Tells of an exit; whether there may be more.
fn told(turn: Turn) -> Outcome<bool> {
    match turn {
        Turn::Exit(exit) => say!("{} exited with code {}", exit.label, exit.code).map(|()| true),
        Turn::Quiet => Ok(true),
        Turn::Over => Ok(false),
    }
}

async fn stop(client: &Client, project: &str, style: Style, timeout: Option<u32>, verb: &str) -> Outcome {
    let body = json!({ "services": [], "options": { "timeout_s": timeout } });
    let response =
        client.call(Method::POST, &format!("/sampan/v1/stacks/{}/{verb}", escape(project)), Some(&body)).await?;
    display::show(response, style, "stop").await?.outcome()
}

/// Interrupts and requests to end, none of which is missed.
#[derive(Debug)]
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    fn new() -> Outcome<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn now() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}.{:09}", now.as_secs(), now.subsec_nanos())
}

/// Options of `compose create`.
#[derive(Debug, Default, clap::Args)]
pub struct CreateArgs {
    /// Build images before starting containers
    #[arg(long)]
    pub build: bool,
    /// Recreate containers even if their configuration and image haven't changed
    #[arg(long)]
    pub force_recreate: bool,
    /// Don't build an image, even if it's policy
    #[arg(long)]
    pub no_build: bool,
    /// If containers already exist, don't recreate them. Incompatible with --force-recreate
    #[arg(long)]
    pub no_recreate: bool,
    /// Pull image before running ("always"|"missing"|"never"|"build")
    #[arg(long)]
    pub pull: Option<String>,
    /// Pull without printing progress information
    #[arg(long)]
    pub quiet_pull: bool,
    /// Remove containers for services not defined in the Compose file
    #[arg(long)]
    pub remove_orphans: bool,
    /// Scale SERVICE to NUM instances. Overrides the scale setting in the Compose file if present
    #[arg(long, value_parser = scale)]
    pub scale: Vec<(String, u32)>,
    /// Assume "yes" as answer to all prompts
    #[arg(short, long)]
    pub yes: bool,
    /// Services
    pub services: Vec<String>,
}

/// `compose create`: everything but the start.
pub async fn create(context: Context, args: CreateArgs) -> Outcome {
    let up_args = UpArgs {
        build: args.build,
        force_recreate: args.force_recreate,
        no_build: args.no_build,
        no_recreate: args.no_recreate,
        no_start: true,
        pull: args.pull,
        quiet_pull: args.quiet_pull,
        remove_orphans: args.remove_orphans,
        scale: args.scale,
        yes: args.yes,
        services: args.services,
        ..UpArgs::default()
    };
    up(context, up_args).await
}

/// Options of `watch`.
#[derive(Debug, Default, clap::Args)]
pub struct WatchArgs {
    /// Which project.
    #[command(flatten)]
    pub project: ProjectArgs,
    /// Do not build & start services before watching
    #[arg(long)]
    pub no_up: bool,
    /// Prune dangling images on rebuild (they are pruned by `image prune`, and by the daemon's own limits)
    #[arg(long, default_value = "true", hide = true)]
    pub prune: bool,
    /// Hide build output
    #[arg(long)]
    pub quiet: bool,
    /// Services
    pub services: Vec<String>,
}

/// `watch`: brings the stack up, and its sources into its containers as they are saved.
pub async fn watch(context: Context, mut args: WatchArgs) -> Outcome {
    let options = context.project.clone().joined(std::mem::take(&mut args.project));
    let context = Context { project: options.clone(), ..context };
    context.no_dry_run("watch", "it changes containers as files change; `up --dry-run` shows what up would do")?;
    if !args.prune {
        // Layers that nothing refers to are the image store's business, which keeps them within its limits.
        tell!("WARN: --prune=false: images that were replaced stay until `image prune` anyway");
    }
    let name = if args.no_up {
        project::find(&context.client, &options).await?.name
    } else {
        let mut chosen = project::to_own(&options)?;
        chosen.activate(&args.services)?;
        remote::trust(&options, false)?;
        let style = options.style()?;
        let client = &context.client;
        let needed = providers::Needed { client, style, body: body(&UpArgs::default(), &Value::Null, &options)? };
        if !providers::before_up(&mut chosen, &options, &mut args.services, Some(needed), false).await? {
            return Ok(());
        }
        let up_args = UpArgs { detach: true, services: args.services.clone(), ..UpArgs::default() };
        let body = body(&up_args, &chosen.request.unwrap_or_default(), &options)?;
        let path = format!("/sampan/v1/stacks/{}/up", escape(&chosen.name));
        let response = context.client.call(Method::POST, &path, Some(&body)).await?;
        Display::new(style, "up").quiet(args.quiet, args.quiet).show(response).await?.outcome()?;
        chosen.name
    };
    let mut interrupts = Interrupts::new()?;
    tokio::select! {
        outcome = follow_sources(&context.client, &name, &args.services) => outcome,
        () = interrupts.next() => Ok(()),
    }
}

/// Options of `down`.
#[derive(Debug, Default, clap::Args)]
pub struct DownArgs {
    /// Which project.
    #[command(flatten)]
    pub project: ProjectArgs,
    /// Remove containers for services not defined in the Compose file
    #[arg(long)]
    pub remove_orphans: bool,
    /// Remove images used by services. "local" remove only images that don't have a custom tag ("local"|"all")
    #[arg(long)]
    pub rmi: Option<String>,
    /// Specify a shutdown timeout in seconds
    #[arg(short, long, value_name = "int")]
    pub timeout: Option<u32>,
    /// Remove named volumes declared in the "volumes" section of the Compose file and anonymous volumes attached to containers
    #[arg(short, long)]
    pub volumes: bool,
    /// Services
    pub services: Vec<String>,
}

/// `down`
pub async fn down(context: Context, mut args: DownArgs) -> Outcome {
    if let Some(kind) = args.rmi.as_deref().filter(|kind| !matches!(*kind, "all" | "local")) {
        return Err(Failure::usage(format!("invalid --rmi option {kind:?}: use local or all")));
    }
    let options = context.project.clone().joined(std::mem::take(&mut args.project));
    let chosen = project::find(&context.client, &options).await?;
    chosen.check(&args.services)?;
    down_named(&context.client, &chosen, &args, &options).await
}

/// Ends a stack.
pub async fn down_named(client: &Client, chosen: &project::Chosen, args: &DownArgs, options: &ProjectArgs) -> Outcome {
    if chosen.project.is_none() {
        providers::warn_of_untold(client, &chosen.name).await;
    }
    let provided = async || match &chosen.project {
        Some(model) => providers::down(model, options, &args.services).await,
        None => Ok(()),
    };
    let mut services = args.services.clone();
    if !providers::keep_contained(chosen.project.as_ref(), &mut services) {
        return provided().await;
    }
    let style = options.style()?;
    let orphans = options.orphans(args.remove_orphans.then_some(true))?;
    let body = json!({
        "request": chosen.request,
        "services": services,
        "options": {
            "volumes": args.volumes,
            "rmi": args.rmi,
            "remove_orphans": orphans == Orphans::Removed,
            "parallel": options.parallel()?,
            "timeout_s": args.timeout,
            "dry_run": options.dry_run,
        },
    });
    let response =
        client.call(Method::POST, &format!("/sampan/v1/stacks/{}/down", escape(&chosen.name)), Some(&body)).await?;
    display::show(response, style, "down").await?.outcome()?;
    // What programs provide goes when nothing uses it any more.
    provided().await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::app::parse_for_test;

    #[test]
    fn options_reach_the_daemon_under_their_names() {
        let args: UpArgs = parse_for_test(&[
            "-f",
            "x.yaml",
            "-d",
            "--build",
            "--scale",
            "web=3",
            "--scale=db=1",
            "--wait",
            "--wait-timeout",
            "5",
            "-t",
            "3",
            "--no-watch",
            "web",
        ])
        .unwrap();
        assert_eq!(args.project.file, ["x.yaml"]);
        let body = body(&args, &json!({"files": []}), &ProjectArgs::default()).unwrap();
        let options = &body["options"];
        assert_eq!(options["scale"], json!({"web": 3, "db": 1}));
        assert_eq!((&options["wait_timeout_s"], &options["timeout_s"]), (&json!(5), &json!(3)));
        assert_eq!(
            (&options["build"], &options["watch"], &options["wait"]),
            (&json!(true), &json!(false), &json!(true))
        );
        assert_eq!(body["services"], json!(["web"]));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for words in [
            &["--build", "--no-build"][..],
            &["-d", "--exit-code-from", "web"],
            &["--force-recreate", "--no-recreate"],
            &["--pull", "often"],
            &["--watch", "-d"],
            &["--always-recreate-deps", "--no-recreate"],
            &["--attach", "web", "--attach-dependencies"],
        ] {
            assert!(check(&parse_for_test(words).unwrap()).is_err(), "{words:?}");
        }
        assert!(parse_for_test::<UpArgs>(&["--scale", "web"]).is_err());
    }
}
