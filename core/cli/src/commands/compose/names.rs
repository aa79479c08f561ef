//! What a name means at `sampan VERB NAME` in a project's folder.
//!
//! One rule for all verbs of containers: a container's whole name or id; else a service of the project whose files lie
//! here (or above, or are named by `COMPOSE_FILE`), or a container's name without the project's (`web-2`); else the
//! beginning of an id. No name at all means the project, for verbs that would need one. `sampan container VERB` knows
//! containers alone.

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

use super::ProjectArgs;
use super::project::{self, SERVICE};
use crate::app::nearest;
use crate::client::escape;
use crate::context::Context;
use crate::failure::{Failure, Outcome};

/// Digits with which an id is meant, and not its beginning by chance: services are called `db` and `cafe`.
const ID: usize = 12;

/// What the names of a command mean.
#[derive(Debug, PartialEq, Eq)]
pub enum Meant {
    /// Nothing was named: the project here.
    Project,
    /// Containers, then services of the project here.
    Named(Vec<String>, Vec<String>),
}

impl Meant {
    /// The services that a command on the stack is given, none for all; if there is something for it to do.
    pub fn services(&self) -> Option<&[String]> {
        match self {
            Self::Project => Some(&[]),
            Self::Named(_, services) => Some(services.as_slice()).filter(|services| !services.is_empty()),
        }
    }

    /// The containers.
    pub fn containers(&self) -> &[String] {
        match self {
            Self::Project => &[],
            Self::Named(containers, _) => containers,
        }
    }
}

/// Whether a project is meant, by options or by where the command runs.
fn is_here(args: &ProjectArgs) -> bool {
    let given = !args.file.is_empty() || args.project_name.is_some() || args.project_directory.is_some();
    let named = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let lies = |folder: &Path| sampan_compose::FILE_NAMES.iter().any(|name| folder.join(name).exists());
    given
        || named("COMPOSE_FILE")
        || named("COMPOSE_PROJECT_NAME")
        || std::env::current_dir().is_ok_and(|here| here.ancestors().any(lies))
}

/// The stack here with the names of its services.
#[derive(Debug)]
struct Here {
    name: String,
    services: BTreeSet<String>,
}

async fn here(context: &Context) -> Outcome<Here> {
    let chosen = project::find(&context.client, &context.project).await?;
    let mut services: BTreeSet<String> = BTreeSet::new();
    match &chosen.project {
        Some(model) => services.extend(model.services.keys().chain(model.inactive.keys()).cloned()),
        // The files are broken, or only the name is known: what has containers is a service.
        None => {
            let found = project::containers(&context.client, &chosen.name, &[], true, true).await?;
            services.extend(found.iter().filter_map(|found| found["Labels"][SERVICE].as_str()).map(str::to_owned));
        }
    }
    Ok(Here { name: chosen.name, services })
}

/// Tells containers from services. A name that is neither is told with what there is; among several it is left to the
/// command, which does what it can with the others.
pub async fn meant(context: &Context, names: &[String]) -> Outcome<Meant> {
    tell_apart(context, names, names.len() == 1).await
}

/// As [`meant`], where what is not there is no mistake (`rm --force`).
pub async fn meant_if_there(context: &Context, names: &[String]) -> Outcome<Meant> {
    tell_apart(context, names, false).await
}

async fn tell_apart(context: &Context, names: &[String], strict: bool) -> Outcome<Meant> {
    if names.is_empty() {
        return match context.services && is_here(&context.project) {
            true => Ok(Meant::Project),
            false if context.services => {
                Err(Failure::lacking("requires at least 1 argument, or a compose file in this folder or above it"))
            }
            false => Err(Failure::lacking("requires at least 1 argument")),
        };
    }
    if !context.services || !is_here(&context.project) {
        return Ok(Meant::Named(names.to_vec(), Vec::new()));
    }
    let (mut containers, mut services) = (Vec::new(), Vec::new());
    let mut project: Option<Outcome<Here>> = None;
    for name in names {
        let found = whole(context, name).await?;
        if found == Found::Whole {
            containers.push(name.clone());
            continue;
        }
        let project = match &mut project {
            Some(project) => project,
            none => none.insert(here(context).await),
        };
        match project {
            Ok(project) if project.services.contains(name) => services.push(name.clone()),
            Ok(project) => {
                let mut long = None;
                for between in ['-', '_'] {
                    let name = format!("{}{between}{name}", project.name);
                    if long.is_none() && whole(context, &name).await? == Found::Whole {
                        long = Some(name);
                    }
                }
                if let Some(long) = long {
                    containers.push(long);
                } else if found == Found::Beginning || !strict {
                    containers.push(name.clone());
                } else {
                    return Err(unknown(name, &project.name, project.services.iter().map(String::as_str)));
                }
            }
            Err(_) if found == Found::Beginning || !strict => containers.push(name.clone()),
            Err(failure) => {
                return Err(Failure::new(format!(
                    "no such container: {name}; and the project here cannot be read:\n{}",
                    failure.message
                )));
            }
        }
    }
    Ok(Meant::Named(containers, services))
}

/// Whether a name is a service's of the project here.
pub async fn is_service(context: &Context, name: &str) -> bool {
    context.services && is_here(&context.project) && here(context).await.is_ok_and(|here| here.services.contains(name))
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Whole,
    /// It is the beginning of an id.
    Beginning,
    Nothing,
}

async fn whole(context: &Context, name: &str) -> Outcome<Found> {
    let plain = name.trim_start_matches('/');
    match context.client.get::<Value>(&format!("/containers/{}/json", escape(plain))).await {
        Ok(found) => {
            let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
            let named = text("Name").trim_start_matches('/') == plain;
            Ok(if named || (plain.len() >= ID && text("Id").starts_with(plain)) {
                Found::Whole
            } else {
                Found::Beginning
            })
        }
        // Not there, no name at all, or the beginning of several ids.
        Err(failure) if matches!(failure.status, Some(404 | 400 | 409)) => Ok(Found::Nothing),
        Err(failure) => Err(failure),
    }
}

fn unknown<'a>(name: &str, project: &str, services: impl Iterator<Item = &'a str> + Clone) -> Failure {
    Failure::new(format!("no such container: {name}; {}", no_service(name, project, services)))
}

/// `no such service: wbe; project demo has db, web; did you mean "web"?`
pub fn no_service<'a>(name: &str, project: &str, services: impl Iterator<Item = &'a str> + Clone) -> String {
    let mut all: Vec<&str> = services.clone().collect();
    all.sort_unstable();
    let has = if all.is_empty() { "no services".to_owned() } else { all.join(", ") };
    let hint = nearest(name, services).map_or_else(String::new, |near| format!("; did you mean \"{near}\"?"));
    format!("no such service: {name} (project {project} has {has}){hint}")
}

/// The one container that is meant; of a service with several, the first.
pub async fn container(context: &Context, name: &str) -> Outcome<String> {
    match meant(context, std::slice::from_ref(&name.to_owned())).await? {
        Meant::Named(containers, services) => match (containers.into_iter().next(), services.first()) {
            (Some(container), _) => Ok(container),
            (None, Some(service)) => {
                let chosen = project::find(&context.client, &context.project).await?;
                let found = match project::container_of(&context.client, &chosen.name, service, 0).await {
                    Ok(found) => found,
                    Err(_) => project::any_container_of(&context.client, &chosen.name, service, 0).await?,
                };
                Ok(project::name(&found).to_owned())
            }
            (None, None) => Ok(name.to_owned()),
        },
        Meant::Project => Ok(name.to_owned()),
    }
}

/// The containers that are meant: those of a service in its place, running or not.
pub async fn containers(context: &Context, names: &[String]) -> Outcome<Vec<String>> {
    let meant = meant(context, names).await?;
    let mut all = meant.containers().to_vec();
    if let Some(services) = meant.services() {
        let chosen = project::find(&context.client, &context.project).await?;
        let found = project::containers(&context.client, &chosen.name, services, true, false).await?;
        all.extend(found.iter().map(|container| project::name(container).to_owned()));
    }
    Ok(all)
}
