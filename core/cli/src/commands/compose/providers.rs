//! Services and models that programs provide: `provider` and `models` of compose files.
//!
//! The programs run here, as the user who asks, in the user's folder and with the user's environment. The daemon, which is
//! root, runs none of them: it is told what they said, and gives that to the services that depend on them.

mod messages;
mod model_runner;
mod program;

use std::collections::{BTreeMap, BTreeSet};

use http::Method;
use sampan_compose::Project;
use sampan_compose::model::{Condition, Provider};
use serde_json::{Value, json};

use super::ProjectArgs;
use super::display::{self, Style};
use super::project::{self, Chosen};
use crate::client::{Client, escape};
use crate::failure::{Failure, Outcome};
use crate::output::tell;
use messages::Said;
use program::{Ask, Program};

/// How containers are brought up that a program needs.
pub struct Needed<'a> {
    /// The daemon.
    pub client: &'a Client,
    /// How it is shown.
    pub style: Style,
    /// The body of the request for the stack; which services, and whether they are waited for, is put in its place.
    pub body: Value,
}

impl Needed<'_> {
    async fn bring(&self, stack: &str, request: &Value, need: &Need) -> Outcome {
        let mut body = self.body.clone();
        body["request"] = request.clone();
        body["services"] = json!(need.services);
        body["options"]["wait"] = json!(need.wait);
        // What concerns all of the stack is done when all of it is brought up.
        for later in ["force_recreate", "recreate_deps", "remove_orphans", "renew_anon_volumes"] {
            body["options"][later] = json!(false);
        }
        body["options"]["ignore_orphans"] = json!(true);
        let path = format!("/sampan/v1/stacks/{}/up", escape(stack));
        let response = self.client.call(Method::POST, &path, Some(&body)).await?;
        display::show(response, self.style, "up").await?.outcome()
    }
}

/// Before the daemon brings services up: runs the programs of those that are provided, and leaves the others in `services`.
/// Containers that a program needs are brought up before it, unless none are to be started. False when nothing is left to
/// be brought up.
pub async fn before_up(
    chosen: &mut Chosen,
    options: &ProjectArgs,
    services: &mut Vec<String>,
    needed: Option<Needed<'_>>,
    dry_run: bool,
) -> Outcome<bool> {
    let (Some(model), Some(request)) = (&chosen.project, &mut chosen.request) else { return Ok(true) };
    up(model, &chosen.name, options, request, needed.as_ref(), dry_run).await?;
    Ok(keep_contained(Some(model), services))
}

/// The containers that the program of a service needs before it is asked.
#[derive(Debug, PartialEq, Eq)]
struct Need {
    services: Vec<String>,
    /// Whether they must be more than started.
    wait: bool,
}

/// What a provided service needs; none when that is no container.
fn need(model: &Project, name: &str) -> Option<Need> {
    let mut found = BTreeSet::new();
    let mut open = vec![name];
    let mut wait = false;
    while let Some(service) = open.pop().and_then(|name| model.services.get(name)) {
        for (name, dependency) in &service.depends_on {
            // One that no profile enables is not there, and not required.
            let Some(other) = model.services.get(name) else { continue };
            if other.provider.is_some() {
                open.push(name);
            } else if found.insert(name.clone()) {
                // What containers need of each other is the daemon's business.
                wait |= dependency.condition != Condition::Started;
            }
        }
    }
    (!found.is_empty()).then(|| Need { services: found.into_iter().collect(), wait })
}

/// Leaves those services that have containers. False when some were named and none of them has.
pub fn keep_contained(model: Option<&Project>, services: &mut Vec<String>) -> bool {
    let named = !services.is_empty();
    services.retain(|name| !model.is_some_and(|model| is_provided(model, name)));
    !named || !services.is_empty()
}

/// Whether a service of a project is provided by a program, and so has no container.
pub fn is_provided(model: &Project, service: &str) -> bool {
    model.service(service).is_some_and(|found| found.provider.is_some())
}

/// The services that are provided, in the order in which services start.
fn provided(model: &Project) -> Vec<(&str, &Provider)> {
    let provider = |name: &str| model.services.get(name).and_then(|service| service.provider.as_ref());
    if model.services.values().all(|service| service.provider.is_none()) {
        return Vec::new();
    }
    model.start_order().into_iter().filter_map(|name| Some((name, provider(name)?))).collect()
}

/// The variables that programs see; where there are none of them, nobody needs to look.
fn variables(provided: &[(&str, &Provider)], options: &ProjectArgs) -> Outcome<BTreeMap<String, String>> {
    if provided.is_empty() { Ok(BTreeMap::new()) } else { project::variables(options) }
}

/// Runs the program of a service; none when it does not know what is asked.
async fn run(
    model: &Project,
    env: &BTreeMap<String, String>,
    (name, provider): (&str, &Provider),
    ask: Ask,
) -> Outcome<Option<Said>> {
    let said = match Program::of(&provider.kind) {
        Ok(program) => program.run(model, env, (name, provider), ask).await,
        Err(why) => Err(why),
    };
    said.map_err(|why| Failure::new(format!("service {name}: {why}")))
}

/// Runs the programs of every provided service, in the order in which services start, has models brought, and adds what
/// they said to the request. A dry run runs nothing, and assumes that they say nothing.
async fn up(
    model: &Project,
    stack: &str,
    options: &ProjectArgs,
    request: &mut Value,
    needed: Option<&Needed<'_>>,
    dry_run: bool,
) -> Outcome {
    let mut services = serde_json::Map::new();
    let provided = provided(model);
    let env = variables(&provided, options)?;
    let mut models = None;
    for (index, (name, provider)) in provided.iter().copied().enumerate() {
        if let (Some(needed), Some(need), false) = (needed, need(model, name), dry_run) {
            // What these containers need themselves is needed by now.
            if models.is_none() {
                models = Some(model_runner::bring(model, dry_run).await?);
            }
            let pending: Vec<&str> = provided.iter().skip(index).map(|(name, _)| *name).collect();
            request["provided"] = json!({ "services": services, "models": models, "pending": pending });
            needed.bring(stack, request, &need).await?;
        }
        let said = if dry_run {
            tell!(" Service {name}  run {} compose up", provider.kind);
            Said::default()
        } else {
            tell!(" Service {name}  Creating");
            let said = run(model, &env, (name, provider), Ask::Up).await?.unwrap_or_default();
            tell!(" Service {name}  Created");
            said
        };
        services.insert(name.to_owned(), json!({ "definition": provider, "env": said.variables(name) }));
    }
    let models = match models {
        Some(models) => models,
        None => model_runner::bring(model, dry_run).await?,
    };
    if !services.is_empty() || !models.is_empty() {
        request["provided"] = json!({ "services": services, "models": models });
    }
    Ok(())
}

/// Has the programs of provided services let go of what they hold, the last to start first; all of them, or those named.
pub async fn down(model: &Project, options: &ProjectArgs, services: &[String]) -> Outcome {
    let mut provided = provided(model);
    provided.retain(|(name, _)| services.is_empty() || services.iter().any(|wanted| wanted == name));
    let env = variables(&provided, options)?;
    let mut failed = None;
    for (name, provider) in provided.into_iter().rev() {
        if options.dry_run {
            tell!(" Service {name}  run {} compose down", provider.kind);
            continue;
        }
        tell!(" Service {name}  Removing");
        match run(model, &env, (name, provider), Ask::Down).await {
            Ok(_) => tell!(" Service {name}  Removed"),
            // The others are let go of all the same.
            Err(failure) => {
                tell!(" Service {name}  Error: {}", failure.message);
                failed = Some(failure);
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

/// One step of a `stop`.
#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    /// The daemon stops the containers of these services.
    Containers(Vec<String>),
    /// The program of this one is asked.
    Program(String),
}

/// In which order services stop, of which some are provided: what needs a provided one stops before its program is asked,
/// what it needs itself stops after. None when there is nothing to order.
pub fn stops(model: &Project, services: &[String]) -> Option<Vec<Stop>> {
    let meant = |name: &str| services.is_empty() || services.iter().any(|wanted| wanted == name);
    let programs: Vec<&str> = provided(model).into_iter().map(|(name, _)| name).filter(|name| meant(name)).collect();
    if programs.is_empty() {
        return None;
    }
    let mut open: BTreeSet<&str> =
        model.services.keys().map(String::as_str).filter(|name| meant(name) && !is_provided(model, name)).collect();
    let mut steps = Vec::new();
    for program in programs.into_iter().rev() {
        let mut above = BTreeSet::from([program]);
        // Whoever starts later may need one that was found before.
        for name in model.start_order() {
            let needs = model.services.get(name).map(|service| &service.depends_on);
            if needs.is_some_and(|needs| needs.keys().any(|need| above.contains(need.as_str()))) {
                above.insert(name);
            }
        }
        let first: Vec<String> = open.intersection(&above).map(|name| (*name).to_owned()).collect();
        open.retain(|name| !above.contains(name));
        steps.extend((!first.is_empty()).then_some(Stop::Containers(first)));
        steps.push(Stop::Program(program.to_owned()));
    }
    let rest: Vec<String> = open.into_iter().map(str::to_owned).collect();
    steps.extend((!rest.is_empty()).then_some(Stop::Containers(rest)));
    Some(steps)
}

/// Asks the program of a service to stop, if it knows that.
pub async fn stop_one(model: &Project, options: &ProjectArgs, env: &BTreeMap<String, String>, name: &str) -> Outcome {
    let Some(provider) = model.services.get(name).and_then(|service| service.provider.as_ref()) else { return Ok(()) };
    if options.dry_run {
        tell!(" Service {name}  run {} compose stop", provider.kind);
        return Ok(());
    }
    if run(model, env, (name, provider), Ask::Stop).await?.is_some() {
        tell!(" Service {name}  Stopped");
    }
    Ok(())
}

/// Asks the programs of all provided services to stop: their containers have.
pub async fn stop(model: Option<&Project>, options: &ProjectArgs) -> Outcome {
    let Some(model) = model else { return Ok(()) };
    let provided = provided(model);
    let env = variables(&provided, options)?;
    for (name, _) in provided.into_iter().rev() {
        stop_one(model, options, &env, name).await?;
    }
    Ok(())
}

/// Tells of the programs that nobody asks to let go, as the stack's files are not there. What the daemon remembers may have
/// been written by another user: nothing is run for that.
pub async fn warn_of_untold(client: &Client, stack: &str) {
    let found: Value = client.get(&format!("/sampan/v1/stacks/{}", escape(stack))).await.unwrap_or_default();
    for (service, kind) in found["providers"].as_object().into_iter().flatten() {
        tell!(
            "WARN: service {service}: what its provider {} holds is not let go of, as the files of the stack were not found; run `down` with them (-f)",
            kind.as_str().unwrap_or_default()
        );
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sampan_compose::{LoadOptions, MemoryFiles};

    fn model(text: &str) -> Project {
        let files = MemoryFiles::default().with("/p/compose.yaml", text);
        let options = LoadOptions { working_dir: "/p".into(), ..LoadOptions::default() };
        sampan_compose::load(&options, &files).unwrap_or_else(|error| panic!("{error}")).project
    }

    #[test]
    fn what_a_program_needs_is_there_before_it() {
        let model = model(
            "
name: p
services:
  base: {image: x}
  db: {image: x, depends_on: [base]}
  one: {provider: {type: cloud}, depends_on: {db: {condition: service_healthy}}}
  two: {provider: {type: cloud}, depends_on: [one, base]}
  free: {provider: {type: cloud}}
  web: {image: x, depends_on: [two]}
",
        );
        let shown = |name: &str| need(&model, name).map(|need| (need.services.join(","), need.wait));
        assert_eq!(shown("one"), Some(("db".to_owned(), true)));
        assert_eq!(shown("two"), Some(("base,db".to_owned(), true)));
        assert_eq!(shown("free"), None);
    }

    #[test]
    fn what_needs_a_program_stops_before_it_and_what_it_needs_after() {
        let text = "
name: p
services:
  base: {image: x}
  db: {provider: {type: cloud}, depends_on: [base]}
  web: {image: x, depends_on: [db]}
  front: {image: x, depends_on: [web]}
  cache: {provider: {type: cloud}}
";
        let model = model(text);
        let shown = |services: &[&str]| {
            let services: Vec<String> = services.iter().map(|name| (*name).to_owned()).collect();
            let steps = stops(&model, &services)?.into_iter().map(|step| match step {
                Stop::Containers(names) => names.join(","),
                Stop::Program(name) => format!("<{name}>"),
            });
            Some(steps.collect::<Vec<_>>().join(" "))
        };
        assert_eq!(shown(&[]).unwrap(), "front,web <db> <cache> base");
        assert_eq!(shown(&["db", "base"]).unwrap(), "<db> base");
        assert_eq!(shown(&["web"]), None);
    }
}
