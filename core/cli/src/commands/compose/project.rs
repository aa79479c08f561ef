//! Which stack is meant, from files, options and what the daemon knows.

use sampan_compose::{Diagnostics, Files, LoadOptions, Loaded, PathKind, Project, ReadError, load};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::ProjectArgs;
use super::remote::Remote;
use crate::client::Client;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::mounts::clean;
use crate::output::warn;

/// The label that names a container's stack.
pub const PROJECT: &str = "com.docker.compose.project";
/// The label that names its service.
pub const SERVICE: &str = "com.docker.compose.service";
/// The label that counts the containers of a service.
pub const NUMBER: &str = "com.docker.compose.container-number";
/// The label of containers that `run` made.
pub const ONE_OFF: &str = "com.docker.compose.oneoff";

/// The files of this host, and what is fetched for references to elsewhere.
#[derive(Debug, Default)]
pub struct HostFiles {
    remote: Option<Arc<Remote>>,
}

impl Files for HostFiles {
    fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>, ReadError> {
        let wrong = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => ReadError::NotFound,
            io::ErrorKind::IsADirectory => ReadError::IsDirectory,
            _ => ReadError::Other(error.to_string()),
        };
        let mut content = Vec::new();
        let count = if path == Path::new("-") {
            io::stdin().lock().take(limit + 1).read_to_end(&mut content)
        } else {
            File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut content))
        };
        if count.map_err(wrong)? as u64 > limit { Err(ReadError::TooLarge { limit }) } else { Ok(content) }
    }

    fn fetched(&self, reference: &str) -> Option<Result<PathBuf, String>> {
        self.remote.as_ref().map(|remote| remote.fetch(reference))
    }

    fn kind(&self, path: &Path) -> PathKind {
        match fs::metadata(path) {
            Ok(found) if found.is_file() => PathKind::File,
            Ok(found) if found.is_dir() => PathKind::Directory,
            Ok(_) => PathKind::Other,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                PathKind::Missing
            }
            Err(_) => PathKind::Other,
        }
    }
}

impl ProjectArgs {
    /// Options before the command, then those after it.
    #[must_use]
    pub fn joined(mut self, after: Self) -> Self {
        self.file.extend(after.file);
        self.env_file.extend(after.env_file);
        self.profile.extend(after.profile);
        self.project_name = after.project_name.or(self.project_name);
        self.project_directory = after.project_directory.or(self.project_directory);
        self.ansi = after.ansi.or(self.ansi);
        self.progress = after.progress.or(self.progress);
        self.parallel = after.parallel.or(self.parallel);
        self.all_resources |= after.all_resources;
        self.compatibility |= after.compatibility;
        self.dry_run |= after.dry_run;
        self.remote = self.remote.or(after.remote);
        self.settings = OnceLock::new();
        self
    }

    /// The files that are loaded.
    pub fn files(&self) -> HostFiles {
        HostFiles { remote: self.remote.clone() }
    }

    /// The references to elsewhere that were met, and the files that were fetched for them.
    pub fn fetched(&self) -> BTreeMap<String, PathBuf> {
        self.remote.as_ref().map(|remote| remote.fetched()).unwrap_or_default()
    }

    /// What to load.
    pub fn options(&self) -> LoadOptions {
        LoadOptions {
            working_dir: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            files: self.file.iter().map(PathBuf::from).collect(),
            project_dir: self.project_directory.clone(),
            project_name: self.project_name.clone(),
            env: environment(),
            env_files: self.env_file.clone(),
            profiles: self.profile.clone(),
            compatibility: self.compatibility,
            all_resources: self.all_resources,
            ..LoadOptions::default()
        }
    }

    /// The name that was given outright.
    fn given_name(&self) -> Option<String> {
        self.project_name.clone().or_else(|| std::env::var("COMPOSE_PROJECT_NAME").ok()).filter(|name| !name.is_empty())
    }
}

fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Loads the project here, warnings told; an error shows all that is wrong with it.
pub fn load_here(args: &ProjectArgs) -> Outcome<Loaded> {
    load_with(&args.options(), args)
}

/// As [`load_here`], with options of one's own.
pub fn load_with(options: &LoadOptions, args: &ProjectArgs) -> Outcome<Loaded> {
    let loaded = load(options, &args.files()).map_err(|wrong| broken(&wrong))?;
    for warning in &loaded.warnings {
        warn(&warning.to_string());
    }
    Ok(loaded)
}

/// Everything that is wrong with a project, as a command fails with it.
pub fn broken(wrong: &Diagnostics) -> Failure {
    Failure::new(wrong.items.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

/// A stack, and what is known of its files.
#[derive(Debug)]
pub struct Chosen {
    /// Its name.
    pub name: String,
    /// What the daemon needs to load it itself.
    pub request: Option<Value>,
    /// Its model.
    pub project: Option<Project>,
}

impl Chosen {
    /// As [`Chosen::check`] for services that are brought up: what is named counts, whether a profile enables it or not.
    pub fn activate(&mut self, services: &[String]) -> Outcome {
        self.check(services)?;
        if let Some(model) = &mut self.project {
            services.iter().for_each(|name| _ = model.activate(name));
        }
        Ok(())
    }

    /// Refuses services that the project does not have; a stack whose files are not known is asked itself.
    pub fn check(&self, services: &[String]) -> Outcome {
        let Some(model) = &self.project else { return Ok(()) };
        match services.iter().find(|name| model.service(name).is_none()) {
            Some(unknown) => Err(no_service(model, unknown)),
            None => Ok(()),
        }
    }
}

/// There is no such service: which there are, and which was probably meant.
pub fn no_service(model: &Project, name: &str) -> Failure {
    let known = model.services.keys().chain(model.inactive.keys()).map(String::as_str);
    Failure::new(super::names::no_service(name, &model.name, known))
}

/// The request that lets the daemon load what was loaded here.
pub fn request(args: &ProjectArgs, project: &Project) -> Value {
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let env_files: Vec<PathBuf> = args.env_file.iter().map(|path| clean(&here.join(path))).collect();
    json!({
        "files": project.compose_files,
        "working_dir": here,
        "project_directory": project.working_dir,
        "project_name": project.name,
        "env": environment(),
        "env_files": env_files,
        "profiles": args.profile,
        "compatibility": args.compatibility,
        "all_resources": args.all_resources,
        "fetched": args.fetched(),
    })
}

/// The variables that the files of the project here are read with.
pub fn variables(args: &ProjectArgs) -> Outcome<BTreeMap<String, String>> {
    sampan_compose::environment(&args.options(), &args.files()).map_err(|wrong| broken(&wrong))
}

/// The stack of the files here, which must be sound.
pub fn from_files(args: &ProjectArgs) -> Outcome<Chosen> {
    let loaded = load_here(args)?;
    let request = request(args, &loaded.project);
    Ok(Chosen { name: loaded.project.name.clone(), request: Some(request), project: Some(loaded.project) })
}

/// As [`from_files`] for a stack that the daemon is to own: it must be able to read the files later.
pub fn to_own(args: &ProjectArgs) -> Outcome<Chosen> {
    if args.file.iter().any(|file| file == "-") {
        return Err(Failure::new(
            "a stack read from standard input cannot be followed by the daemon: save it as a file (`config` can write it)",
        ));
    }
    from_files(args)
}

/// The stack that is meant: by name, by the files here, or, when those are broken, by the daemon's memory of them.
pub async fn find(client: &Client, args: &ProjectArgs) -> Outcome<Chosen> {
    let loaded = load(&args.options(), &args.files());
    match (args.given_name(), loaded) {
        (_, Ok(loaded)) => {
            let request = request(args, &loaded.project);
            Ok(Chosen { name: loaded.project.name.clone(), request: Some(request), project: Some(loaded.project) })
        }
        (Some(name), Err(_)) => Ok(Chosen { name, request: None, project: None }),
        (None, Err(wrong)) => {
            let stacks: Vec<Value> = client.get("/sampan/v1/stacks").await.unwrap_or_default();
            let known = stacks.iter().find(|stack| {
                let files = stack["config_files"].as_array().into_iter().flatten().filter_map(Value::as_str);
                files.into_iter().any(|file| wrong.inputs.iter().any(|input| input == Path::new(file)))
            });
            match known.and_then(|stack| stack["name"].as_str()) {
                Some(name) => Ok(Chosen { name: name.to_owned(), request: None, project: None }),
                None => Err(broken(&wrong)),
            }
        }
    }
}

/// The stack that is meant, of which services were named.
pub async fn of_services(context: &Context, services: &[String]) -> Outcome<Chosen> {
    let chosen = find(&context.client, &context.project).await?;
    chosen.check(services)?;
    Ok(chosen)
}

/// The containers of a stack, sorted by name; those of some services when any are named.
pub async fn containers(
    client: &Client,
    project: &str,
    services: &[String],
    all: bool,
    one_off: bool,
) -> Outcome<Vec<Value>> {
    // What is run by hand of an image that a stack has built bears the project's label, too, but not the second.
    let filters = [format!("label={PROJECT}={project}"), format!("label={ONE_OFF}")];
    let query = crate::client::Query::new().flag("all", all).filters(&filters)?;
    let mut found: Vec<Value> = client.get(&format!("/containers/json{query}")).await?;
    found.retain(|container| {
        let labels = &container["Labels"];
        let service = labels[SERVICE].as_str().unwrap_or_default();
        let once = is_one_off(labels);
        (services.is_empty() || services.iter().any(|name| name == service)) && (one_off || !once)
    });
    found.sort_by_key(|container| name(container).to_owned());
    Ok(found)
}

/// Whether labels are those of a container of `run`.
pub fn is_one_off(labels: &Value) -> bool {
    labels[ONE_OFF].as_str().is_some_and(|text| text.eq_ignore_ascii_case("true"))
}

/// A container's name as lists have it.
pub fn name(container: &Value) -> &str {
    container["Names"][0].as_str().unwrap_or_default().trim_start_matches('/')
}

/// A container's name without the project's before it.
pub fn short<'a>(name: &'a str, project: &str) -> &'a str {
    let rest = name.strip_prefix(project).and_then(|rest| rest.strip_prefix(['-', '_']));
    rest.unwrap_or(name)
}

/// One container of a service, by its number.
pub async fn container_of(client: &Client, project: &str, service: &str, index: u32) -> Outcome<Value> {
    pick(containers(client, project, std::slice::from_ref(&service.to_owned()), false, false).await?, index).ok_or_else(
        || match index {
            0 | 1 => Failure::new(format!("service \"{service}\" is not running")),
            _ => Failure::new(format!("service \"{service}\" has no running container #{index}")),
        },
    )
}

/// As [`container_of`], whether it runs or not.
pub async fn any_container_of(client: &Client, project: &str, service: &str, index: u32) -> Outcome<Value> {
    pick(containers(client, project, std::slice::from_ref(&service.to_owned()), true, false).await?, index).ok_or_else(
        || match index {
            0 => Failure::new(format!("service \"{service}\" has no container")),
            _ => Failure::new(format!("service \"{service}\" has no container #{index}")),
        },
    )
}

/// The container of that number; 0 means the lowest.
fn pick(found: Vec<Value>, index: u32) -> Option<Value> {
    let number =
        |container: &Value| container["Labels"][NUMBER].as_str().and_then(|text| text.parse::<u32>().ok()).unwrap_or(0);
    match index {
        0 => found.into_iter().min_by_key(number),
        _ => found.into_iter().find(|container| number(container) == index),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn options_after_the_command_join_those_before() {
        let before = ProjectArgs { file: vec!["a".into()], project_name: Some("x".into()), ..ProjectArgs::default() };
        let after = ProjectArgs { file: vec!["b".into()], project_name: Some("y".into()), ..ProjectArgs::default() };
        let joined = before.joined(after);
        assert_eq!((joined.file, joined.project_name.unwrap()), (vec!["a".to_owned(), "b".to_owned()], "y".to_owned()));
    }

    #[tokio::test]
    async fn a_stack_is_found_though_its_files_are_broken() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("compose.yaml");
        fs::write(&file, "services:\n  web:\n    imag: busybox\n").unwrap();
        let answer: &'static str =
            Box::leak(json!([{"name": "mine", "config_files": [file], "problem": "x"}]).to_string().into_boxed_str());
        let fake = crate::fake::Fake::start(move |_, _| crate::fake::Reply::Json(200, answer));
        let args = ProjectArgs { file: vec![file.display().to_string()], ..ProjectArgs::default() };
        assert_eq!(find(&fake.client(), &args).await.unwrap().name, "mine");
        let named = ProjectArgs { project_name: Some("other".into()), ..args };
        assert_eq!(find(&fake.client(), &named).await.unwrap().name, "other");
    }

    #[test]
    fn a_project_becomes_a_request_with_whole_paths() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("compose.yaml");
        fs::write(&file, "name: demo\nservices:\n  web:\n    image: busybox\n").unwrap();
        let args = ProjectArgs { file: vec![file.display().to_string()], ..ProjectArgs::default() };
        let chosen = from_files(&args).unwrap();
        let request = chosen.request.unwrap();
        assert_eq!(chosen.name, "demo");
        assert_eq!(request["files"], json!([file]));
        assert_eq!(request["project_directory"], json!(dir.path()));
        fs::write(&file, "services:\n  web:\n    imag: busybox\n").unwrap();
        let error = from_files(&args).unwrap_err().message;
        assert!(error.contains("compose.yaml:3:"), "{error}");
    }
}
