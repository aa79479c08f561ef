//! Services and models that programs provide: `provider` and `models` of compose files.
//!
//! The programs run here, as the user who asks, in the user's folder and with the user's environment. The daemon, which is
//! root, runs none of them: it is told what they said, and gives that to the services that depend on them.

mod messages;
mod model_runner;
mod program;

use sampan_compose::Project;
use serde_json::{Value, json};

use super::project::Chosen;
use crate::failure::{Failure, Outcome};
use crate::output::tell;
use messages::Said;
use program::Program;

/// Before the daemon brings services up: runs the programs of those that are provided, and leaves the others in `services`.
/// False when nothing is left to be brought up.
pub async fn before_up(chosen: &mut Chosen, services: &mut Vec<String>, dry_run: bool) -> Outcome<bool> {
    let (Some(model), Some(request)) = (&chosen.project, &mut chosen.request) else { return Ok(true) };
    up(model, request, dry_run).await?;
    let named = !services.is_empty();
    services.retain(|name| !is_provided(model, name));
    Ok(!named || !services.is_empty())
}

/// Whether a service of a project is provided by a program, and so has no container.
pub fn is_provided(model: &Project, service: &str) -> bool {
    model.service(service).is_some_and(|found| found.provider.is_some())
}

/// Runs the programs of every provided service, in the order in which services start, has models brought, and adds what
/// they said to the request. A dry run runs nothing, and assumes that they say nothing.
async fn up(model: &Project, request: &mut Value, dry_run: bool) -> Outcome {
    let mut services = serde_json::Map::new();
    for name in model.start_order() {
        let Some(provider) = model.services.get(name).and_then(|service| service.provider.as_ref()) else { continue };
        let said = if dry_run {
            tell!(" Service {name}  run {} compose up", provider.kind);
            Said::default()
        } else {
            let program = Program::of(&provider.kind).map_err(|why| of_service(name, why))?;
            tell!(" Service {name}  Creating");
            let said = program.run(model, name, provider, "up").await.map_err(|why| of_service(name, why))?;
            tell!(" Service {name}  Created");
            said
        };
        services.insert(name.to_owned(), json!({ "definition": provider, "env": said.variables(name) }));
    }
    let models = model_runner::bring(model, dry_run).await?;
    if !services.is_empty() || !models.is_empty() {
        request["provided"] = json!({ "services": services, "models": models });
    }
    Ok(())
}

/// Has the programs of provided services let go of what they hold, the last to start first; all of them, or those named.
pub async fn down(model: &Project, services: &[String], dry_run: bool) -> Outcome {
    let mut failed = None;
    for name in model.start_order().into_iter().rev() {
        let Some(provider) = model.services.get(name).and_then(|service| service.provider.as_ref()) else { continue };
        if !services.is_empty() && !services.iter().any(|wanted| wanted == name) {
            continue;
        }
        if dry_run {
            tell!(" Service {name}  run {} compose down", provider.kind);
            continue;
        }
        tell!(" Service {name}  Removing");
        let done = match Program::of(&provider.kind) {
            Ok(program) => program.run(model, name, provider, "down").await.map(drop),
            Err(why) => Err(why),
        };
        match done {
            Ok(()) => tell!(" Service {name}  Removed"),
            // The others are let go of all the same.
            Err(why) => {
                let failure = of_service(name, why);
                tell!(" Service {name}  Error: {}", failure.message);
                failed = Some(failure);
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

fn of_service(name: &str, why: String) -> Failure {
    Failure::new(format!("service {name}: {why}"))
}
