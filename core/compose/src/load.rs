//! The entry: options in, project out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::assemble::{Scope, elsewhere, env_file, is_elsewhere, read_documents, tree};
use crate::decode::{self, Cx, Places};
use crate::diagnostic::{Diagnostic, Diagnostics, Severity};
use crate::discover::{FILE_NAMES, discover, is_project_name, name_of, name_of_directory};
use crate::files::{Files, PathKind};
use crate::interpolate::{Env, interpolate};
use crate::model::Project;
use crate::node::{At, Node};
use crate::normalize::{agree, normalize};
use crate::session::{Session, clean};
use crate::validate::validate;

/// What to load, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadOptions {
    /// Where the command ran, absolute: relative paths below start here and discovery goes up from here.
    pub working_dir: PathBuf,
    /// `-f`, in order. Empty: `COMPOSE_FILE`, else discovery.
    pub files: Vec<PathBuf>,
    /// `--project-directory`. None: the directory of the first file.
    pub project_dir: Option<PathBuf>,
    /// `-p`.
    pub project_name: Option<String>,
    /// The caller's environment.
    pub env: BTreeMap<String, String>,
    /// `--env-file`, in order. Empty: `COMPOSE_ENV_FILES`, else `.env` in the project directory if it is there.
    pub env_files: Vec<PathBuf>,
    /// `--profile`; joined with `COMPOSE_PROFILES`.
    pub profiles: Vec<String>,
    /// `--compatibility`, if not `COMPOSE_COMPATIBILITY`: names have `_` between their parts.
    pub compatibility: bool,
    /// `--all-resources`: what no service uses belongs to the project all the same.
    pub all_resources: bool,
    /// Whether `$VAR` is replaced (default).
    pub interpolate: bool,
    /// Whether what the specification allows and the engine can't do is taken into the model, for those who only look
    /// at it. Else it is refused by name and place (default).
    pub whole_specification: bool,
    /// Steps that are left out, for those who only look at the model.
    pub without: Without,
}

/// Steps of loading that can be left out. A project that lacks one is to be shown, not to be run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Without {
    /// What the files leave unsaid stays so: names, the default network, dependencies that follow from other keys.
    pub normalization: bool,
    /// Paths stay as they are written; those of other files than the project's own become relative to its directory.
    pub path_resolution: bool,
    /// `env_file`s are named and not read.
    pub env_resolution: bool,
    /// Nothing is checked between the parts of the project.
    pub consistency: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            working_dir: PathBuf::from("/"),
            files: Vec::new(),
            project_dir: None,
            project_name: None,
            env: BTreeMap::new(),
            env_files: Vec::new(),
            profiles: Vec::new(),
            compatibility: false,
            all_resources: false,
            interpolate: true,
            whole_specification: false,
            without: Without::default(),
        }
    }
}

impl LoadOptions {
    /// What `~` stands for.
    pub(crate) fn home(&self) -> Option<PathBuf> {
        self.env.get("HOME").filter(|home| home.starts_with('/')).map(PathBuf::from)
    }
}

/// A project and what it was made from.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    pub project: Project,
    /// Every path consulted, absolute, also those that were looked for and missing (an override file, `.env`): compose
    /// files, includes, extended files, env files, files of configs and secrets.
    pub inputs: Vec<PathBuf>,
    pub warnings: Vec<Diagnostic>,
}

/// Loads a project.
///
/// # Errors
/// Everything that is wrong with it, as far as it could be read.
pub fn load(options: &LoadOptions, files: &dyn Files) -> Result<Loaded, Diagnostics> {
    let mut session = Session::new(files, options.home());
    let project = run(options, &mut session);
    let failed = session.failed();
    let Diagnostics { items, inputs } = session.into_diagnostics();
    match project {
        Some(project) if !failed => {
            let warnings = items.into_iter().filter(|item| item.severity == Severity::Warning).collect();
            Ok(Loaded { project, inputs, warnings })
        }
        _ => Err(Diagnostics { items, inputs }),
    }
}

/// What env files say of the commands themselves: their variables that begin with `COMPOSE_`. As with Compose, those of the
/// project's directory or of the first file's count, else those of the directory where the command runs. What cannot be
/// read says nothing here: loading the project tells of it.
#[must_use]
pub fn settings(options: &LoadOptions, files: &dyn Files) -> Env {
    let mut session = Session::new(files, options.home());
    let first = options.files.first().filter(|path| *path != Path::new("-"));
    let dir = match (&options.project_dir, first) {
        (Some(dir), _) => clean(&options.working_dir.join(dir)),
        (None, Some(file)) => clean(&options.working_dir.join(file)).parent().unwrap_or(Path::new("/")).to_owned(),
        (None, None) => options.working_dir.clone(),
    };
    let mut env = options.env.clone();
    let _ = env_files(options, &mut session, &dir, &mut env);
    env.retain(|name, _| name.starts_with("COMPOSE_") && !options.env.contains_key(name));
    env
}

/// What a project is made from, read but not put together.
pub(crate) struct Prepared {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) env: Env,
    documents: Vec<Node>,
    /// Whether a file could not be read, which was reported.
    broken: bool,
}

/// Finds and reads the files.
pub(crate) fn prepare(options: &LoadOptions, session: &mut Session<'_>) -> Option<Prepared> {
    session.whole_specification = options.whole_specification;
    session.without = options.without;
    let mut env = options.env.clone();
    let given_dir = options.project_dir.as_deref().map(|dir| clean(&options.working_dir.join(dir)));
    let first_dir = given_dir.clone().unwrap_or_else(|| options.working_dir.clone());
    env_files(options, session, &first_dir, &mut env)?;
    let paths = compose_files(options, session, &first_dir, &env)?;
    let dir = match (given_dir, paths.first()) {
        (Some(dir), _) => dir,
        (None, Some(first)) if first != Path::new("-") => first.parent().unwrap_or(Path::new("/")).to_owned(),
        (None, _) => options.working_dir.clone(),
    };
    if dir != first_dir {
        env_files(options, session, &dir, &mut env)?;
    }
    session.directory.clone_from(&dir);
    let mut documents = Vec::new();
    let mut broken = false;
    for path in &paths {
        match read_documents(session, path, &dir, None) {
            Some(found) => documents.extend(found),
            None => broken = true,
        }
    }
    let name = project_name(options, session, &documents, &dir, &env)?;
    env.insert("COMPOSE_PROJECT_NAME".to_owned(), name.clone());
    Some(Prepared { name, dir, paths, env, documents, broken })
}

/// The merged tree of what was read.
pub(crate) fn merged(session: &mut Session<'_>, prepared: &mut Prepared, interpolate: bool) -> Option<Node> {
    let mut scope = Scope::new(&prepared.env, interpolate);
    let documents = std::mem::take(&mut prepared.documents);
    tree(session, &mut scope, documents, &mut prepared.paths.clone()).filter(|_| !prepared.broken)
}

fn run(options: &LoadOptions, session: &mut Session<'_>) -> Option<Project> {
    let mut prepared = prepare(options, session)?;
    let root = merged(session, &mut prepared, options.interpolate)?;
    let mut cx = Cx { session, env: &prepared.env, key: "", places: Places::default() };
    let mut project = decode::project(&mut cx, &root);
    project.name.clone_from(&prepared.name);
    project.working_dir.clone_from(&prepared.dir);
    project.compose_files.clone_from(&prepared.paths);
    project.compatibility =
        options.compatibility || prepared.env.get("COMPOSE_COMPATIBILITY").is_some_and(|value| is_truth(value));
    project.all_resources = options.all_resources;
    normalize(&mut project, &profiles(options, &prepared.env), options.without.normalization);
    if !options.without.consistency {
        agree(&mut project);
        validate(&mut cx, &project);
    }
    Some(project)
}

/// Whether a variable says yes, in any of the spellings that Compose takes.
#[must_use]
pub fn is_truth(value: &str) -> bool {
    matches!(value.trim().to_ascii_lowercase().as_str(), "1" | "t" | "true")
}

/// Reads the env files into `env`; what the caller's environment has stays, later files come before earlier ones.
fn env_files(options: &LoadOptions, session: &mut Session<'_>, dir: &Path, env: &mut Env) -> Option<()> {
    let listed: Vec<PathBuf> = match env.get("COMPOSE_ENV_FILES").filter(|_| options.env_files.is_empty()) {
        Some(list) => list.split(',').filter(|path| !path.is_empty()).map(PathBuf::from).collect(),
        None => options.env_files.clone(),
    };
    let mut paths: Vec<PathBuf> = listed.iter().map(|path| clean(&options.working_dir.join(path))).collect();
    let disabled = env.get("COMPOSE_DISABLE_ENV_FILE").is_some_and(|value| is_truth(value));
    if paths.is_empty() && !disabled {
        let default = dir.join(".env");
        if session.kind(&default) == PathKind::File {
            paths.push(default);
        }
    }
    let mut found = Env::new();
    for path in paths {
        let lookup = |name: &str| env.get(name).cloned();
        let variables = env_file(session, &path, None, &lookup, &found)?;
        found.extend(variables);
    }
    for (key, value) in found {
        env.entry(key).or_insert(value);
    }
    Some(())
}

/// The compose files, absolute: given, from the environment, or found.
fn compose_files(options: &LoadOptions, session: &mut Session<'_>, dir: &Path, env: &Env) -> Option<Vec<PathBuf>> {
    let mut absolute = |path: &Path| match path.to_str() {
        Some("-") => Some(path.to_owned()),
        Some(text) if is_elsewhere(text) => elsewhere(session, At::default(), text),
        _ => Some(clean(&options.working_dir.join(path))),
    };
    if !options.files.is_empty() {
        return options.files.iter().map(|path| absolute(path)).collect();
    }
    if let Some(list) = env.get("COMPOSE_FILE").filter(|list| !list.is_empty()) {
        let separator = env.get("COMPOSE_PATH_SEPARATOR").map_or(":", String::as_str);
        let paths = list.split(separator).filter(|path| !path.is_empty());
        return paths.map(|path| absolute(Path::new(path))).collect();
    }
    let found = discover(session, dir);
    if found.is_empty() {
        let message = format!("there is no compose file in {} or in a directory above it", dir.display());
        let help = format!("looked for {}; name another file with -f", FILE_NAMES.join(", "));
        session.plain_error(Diagnostic::error(message).with_help(help));
        return None;
    }
    Some(found)
}

fn profiles(options: &LoadOptions, env: &Env) -> BTreeSet<String> {
    let listed = env.get("COMPOSE_PROFILES").map(String::as_str).unwrap_or_default();
    // The command line stands instead of the environment.
    let names: Vec<&str> = match options.profiles.is_empty() {
        true => listed.split(',').collect(),
        false => options.profiles.iter().map(String::as_str).collect(),
    };
    names.into_iter().map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// `-p`, `COMPOSE_PROJECT_NAME`, the last top-level `name`, the directory.
fn project_name(
    options: &LoadOptions,
    session: &mut Session<'_>,
    documents: &[Node],
    dir: &Path,
    env: &Env,
) -> Option<String> {
    let given = options.project_name.as_ref().or_else(|| env.get("COMPOSE_PROJECT_NAME"));
    let written = documents.iter().rev().find_map(|document| document.get("name").filter(|name| !name.is_null()));
    let (name, at) = match (given.filter(|name| !name.is_empty()), written) {
        (Some(name), _) => (name.clone(), None),
        (None, Some(node)) => {
            let mut node = node.clone();
            if options.interpolate {
                interpolate(session, &mut node, env);
            }
            let written = node.scalar_text().unwrap_or_default();
            let name = name_of(&written);
            if name != written && is_project_name(&name) {
                session
                    .warning(node.at, format!("the project is named `{name}`: `{written}` can't be a project's name"));
            }
            (if name.is_empty() { written } else { name }, Some(node.at))
        }
        (None, None) => (name_of_directory(dir), None),
    };
    if is_project_name(&name) {
        return Some(name);
    }
    let message = match name.is_empty() {
        true => "the project has no name".to_owned(),
        false => format!("`{name}` can't be the name of a project"),
    };
    let help = "use lower case letters, digits, - and _, a letter or digit first";
    match at {
        Some(at) => session.error_help(at, message, help),
        None => session.plain_error(Diagnostic::error(message).with_help(help)),
    }
    None
}
