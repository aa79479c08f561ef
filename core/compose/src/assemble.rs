//! Files to one tree: interpolation, includes, extended services, overrides.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::diagnostic::Diagnostic;
use crate::dotenv;
use crate::files::{PathKind, ReadError};
use crate::interpolate::{Env, interpolate};
use crate::merge::{merge, settle};
use crate::node::{At, Entry, MergeTag, Node, Value};
use crate::session::Session;
use crate::yaml;

/// Deepest chain of `include` or `extends`.
const CHAIN: usize = 50;
/// What an include brings in.
const SECTIONS: [&str; 6] = ["services", "networks", "volumes", "secrets", "configs", "models"];

/// The variables one set of files is read with, and the files read so far to extend services of.
pub(crate) struct Scope<'e> {
    pub env: &'e Env,
    pub interpolate: bool,
    extended: HashMap<PathBuf, Option<Rc<Node>>>,
}

impl<'e> Scope<'e> {
    pub(crate) fn new(env: &'e Env, interpolate: bool) -> Self {
        Self { env, interpolate, extended: HashMap::new() }
    }
}

/// Reads a file's documents. None after an error was reported, which is placed at `from` when another file named it.
pub(crate) fn read_documents(
    session: &mut Session<'_>,
    path: &Path,
    base: &Path,
    from: Option<At>,
) -> Option<Vec<Node>> {
    match session.read(path) {
        Ok(bytes) => {
            let documents = yaml::parse(session, path, base, from.is_none(), bytes)?;
            if documents.iter().all(Node::is_null) {
                session.plain_error(in_file(path, "the file is empty"));
                return None;
            }
            Some(documents.into_iter().filter(|document| !document.is_null()).collect())
        }
        Err(error) => {
            let message = match (&error, from) {
                (ReadError::NotFound, _) => format!("there is no file {}", path.display()),
                _ => format!("can't read {}: {error}", path.display()),
            };
            match from {
                Some(at) => session.error(at, message),
                None => session.plain_error(Diagnostic::error(message)),
            }
            None
        }
    }
}

fn in_file(path: &Path, message: &str) -> Diagnostic {
    Diagnostic { file: Some(path.to_owned()), ..Diagnostic::error(message) }
}

/// The files, each laid over those before it.
pub(crate) fn tree(
    session: &mut Session<'_>,
    scope: &mut Scope<'_>,
    documents: Vec<Node>,
    including: &mut Vec<PathBuf>,
) -> Option<Node> {
    let mut all: Option<Node> = None;
    for mut document in documents {
        if !matches!(document.value, Value::Map(_)) {
            let message = format!("a compose file is a mapping, this is {}", document.kind());
            session.error(document.at, message);
            continue;
        }
        if scope.interpolate {
            interpolate(session, &mut document, scope.env);
        }
        if scope.interpolate {
            resolve_variables(&mut document, scope.env);
        }
        include(session, scope, &mut document, including);
        extend(session, scope, &mut document, all.as_ref());
        let mut merged = match all.take() {
            Some(before) => merge(session, before, document, &mut Vec::new()),
            None => document,
        };
        settle(&mut merged);
        all = Some(merged);
    }
    all
}

/// Gives variables that are named without a value the one they have where the file is read.
fn resolve_variables(document: &mut Node, env: &Env) {
    let resolve = |node: &mut Node| match &mut node.value {
        Value::Map(entries) => {
            for entry in entries.iter_mut().filter(|entry| entry.value.is_null()) {
                if let Some(value) = env.get(&entry.key) {
                    entry.value.value = Value::Str(value.clone());
                }
            }
        }
        Value::Seq(items) => {
            for item in items {
                if let Value::Str(text) = &mut item.value
                    && !text.contains('=')
                    && let Some(value) = env.get(text.as_str())
                {
                    *text = format!("{text}={value}");
                }
            }
        }
        _ => {}
    };
    let child = |node: &mut Node, key: &str, act: &dyn Fn(&mut Node)| {
        let found = node.entries_mut().and_then(|entries| entries.iter_mut().find(|entry| entry.key == key));
        if let Some(entry) = found {
            act(&mut entry.value);
        }
    };
    child(document, "services", &|services| {
        for service in services.entries_mut().into_iter().flatten() {
            child(&mut service.value, "environment", &resolve);
            child(&mut service.value, "build", &|build| child(build, "args", &resolve));
        }
    });
}

/// One entry of `include`.
struct Include {
    at: At,
    paths: Vec<(At, String)>,
    project_directory: Option<(At, String)>,
    env_files: Option<Vec<(At, String)>>,
}

fn include(session: &mut Session<'_>, scope: &Scope<'_>, document: &mut Node, including: &mut Vec<PathBuf>) {
    let Some(list) = document.take("include") else { return };
    let items = match list.value {
        Value::Seq(items) => items,
        Value::Null => return,
        _ => {
            session.error(list.at, format!("`include` is a list, not {}", list.kind()));
            return;
        }
    };
    for item in items {
        if let Some(entry) = include_entry(session, &item)
            && let Some(tree) = included_tree(session, scope, &entry, including)
        {
            import(session, document, tree);
        }
    }
}

/// One string or several, with their places.
fn texts(session: &mut Session<'_>, node: &Node, key: &str) -> Option<Vec<(At, String)>> {
    let items = match &node.value {
        Value::Seq(items) => items.iter().collect(),
        _ => vec![node],
    };
    let mut out = Vec::new();
    for item in items {
        let Some(text) = item.as_str() else {
            session.error(item.at, format!("`{key}` takes paths, not {}", item.kind()));
            return None;
        };
        out.push((item.at, text.to_owned()));
    }
    Some(out)
}

fn include_entry(session: &mut Session<'_>, item: &Node) -> Option<Include> {
    let mut entry = Include { at: item.at, paths: Vec::new(), project_directory: None, env_files: None };
    match &item.value {
        Value::Str(path) => entry.paths.push((item.at, path.clone())),
        Value::Map(entries) => {
            for field in entries {
                match field.key.as_str() {
                    "path" => entry.paths = texts(session, &field.value, "path")?,
                    "project_directory" => {
                        entry.project_directory = texts(session, &field.value, "project_directory")?.pop();
                    }
                    "env_file" => entry.env_files = Some(texts(session, &field.value, "env_file")?),
                    other => {
                        let message = format!("`{other}` is not a key of an include");
                        session.error_help(field.at, message, "its keys are path, project_directory and env_file");
                        return None;
                    }
                }
            }
        }
        _ => {
            session.error(item.at, format!("an include is a path or a mapping, not {}", item.kind()));
            return None;
        }
    }
    if entry.paths.is_empty() {
        session.error(item.at, "an include needs a `path`");
        return None;
    }
    for (at, path) in &mut entry.paths {
        if is_elsewhere(path) {
            *path = elsewhere(session, *at, path)?.to_string_lossy().into_owned();
        }
    }
    Some(entry)
}

/// Whether a file is named by where it is fetched from.
pub(crate) fn is_elsewhere(path: &str) -> bool {
    path.contains("://") || path.starts_with("git@") || path.starts_with("github.com/")
}

/// The file that was fetched for it.
pub(crate) fn elsewhere(session: &mut Session<'_>, at: At, path: &str) -> Option<PathBuf> {
    match session.fetched(path) {
        Some(Ok(file)) => return Some(file),
        Some(Err(why)) => session.error(at, format!("`{path}`: {why}")),
        None => {
            let message = format!("`{path}` lies elsewhere; only files of this host are taken here");
            session.error_help(at, message, "fetch it first and name the file");
        }
    }
    None
}

fn included_tree(
    session: &mut Session<'_>,
    scope: &Scope<'_>,
    entry: &Include,
    including: &mut Vec<PathBuf>,
) -> Option<Node> {
    let paths: Vec<(At, PathBuf)> = entry.paths.iter().map(|(at, path)| (*at, session.resolve(*at, path))).collect();
    let (_, first) = paths.first()?;
    let base = match &entry.project_directory {
        Some((at, written)) => session.resolve(*at, written),
        None => first.parent().unwrap_or(Path::new("/")).to_owned(),
    };
    let mut env = scope.env.clone();
    if scope.interpolate {
        included_env(session, entry, &base, &mut env);
    }
    let depth = including.len();
    let mut documents = Vec::new();
    for (at, path) in &paths {
        if including.contains(path) || including.len() >= CHAIN {
            session.error(*at, format!("{} includes itself", path.display()));
            including.truncate(depth);
            return None;
        }
        documents.extend(read_documents(session, path, &base, Some(*at)).unwrap_or_default());
    }
    including.extend(paths.into_iter().map(|(_, path)| path));
    let mut scope = Scope::new(&env, scope.interpolate);
    let tree = tree(session, &mut scope, documents, including);
    including.truncate(depth);
    tree
}

/// Adds the variables of the include's env files; those of the outside come first.
fn included_env(session: &mut Session<'_>, entry: &Include, base: &Path, env: &mut Env) {
    let files = match &entry.env_files {
        Some(files) => files.iter().map(|(at, file)| (*at, session.resolve(*at, file), true)).collect(),
        None => vec![(entry.at, base.join(".env"), false)],
    };
    let mut own = Env::new();
    for (at, path, required) in files {
        if session.kind(&path) == PathKind::Missing && !required {
            continue;
        }
        let outer = env.clone();
        let lookup = |name: &str| outer.get(name).cloned();
        for (key, value) in env_file(session, &path, Some(at), &lookup, &own).unwrap_or_default() {
            own.insert(key, value);
        }
    }
    for (key, value) in own {
        env.entry(key).or_insert(value);
    }
}

/// Reads an env file; `known` are the variables of the files before it. None after an error was reported.
pub(crate) fn env_file(
    session: &mut Session<'_>,
    path: &Path,
    from: Option<At>,
    lookup: &dyn Fn(&str) -> Option<String>,
    known: &Env,
) -> Option<Vec<(String, String)>> {
    env_file_as(session, path, from, lookup, EnvFormat::Dotenv(known))
}

/// How an env file is written.
#[derive(Clone, Copy)]
pub(crate) enum EnvFormat<'e> {
    /// With quotes and variables, which may also be these.
    Dotenv(&'e Env),
    /// Taken as it is.
    Raw,
}

/// As [`env_file`], in one format or the other.
pub(crate) fn env_file_as(
    session: &mut Session<'_>,
    path: &Path,
    from: Option<At>,
    lookup: &dyn Fn(&str) -> Option<String>,
    format: EnvFormat<'_>,
) -> Option<Vec<(String, String)>> {
    // Written to empty an env file on purpose.
    if path == Path::new("/dev/null") {
        return Some(Vec::new());
    }
    let text = match session.read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => {
            let message = match error {
                ReadError::NotFound => format!("there is no env file {}", path.display()),
                _ => format!("can't read the env file {}: {error}", path.display()),
            };
            match from {
                Some(at) => session.error(at, message),
                None => session.plain_error(Diagnostic::error(message)),
            }
            return None;
        }
    };
    let file = session.add_source(path, path.parent().unwrap_or(Path::new("/")), false, text.clone());
    let mut missing = Vec::new();
    let result = match format {
        EnvFormat::Raw => dotenv::parse_raw(&text, lookup),
        EnvFormat::Dotenv(known) => {
            dotenv::parse(&text, known.clone(), lookup, &mut |name| missing.push(name.to_owned()))
        }
    };
    for name in missing {
        session.warn(format!("the variable {name} is not set; it is taken as empty"));
    }
    match result {
        Ok(found) => Some(found),
        Err(error) => {
            session.error(At { file, line: error.line, column: 1 }, error.message);
            None
        }
    }
}

/// Adds what an included project defines; what the including file says about the same thing is laid over it.
fn import(session: &mut Session<'_>, document: &mut Node, mut tree: Node) {
    for section in SECTIONS {
        let Some(found) = tree.take(section) else { continue };
        let Value::Map(found) = found.value else { continue };
        let at = document.at;
        let Some(entries) = document.entries_mut() else { continue };
        let index = match entries.iter().position(|entry| entry.key == section && !entry.value.is_null()) {
            Some(index) => index,
            None => {
                entries.retain(|entry| entry.key != section);
                entries.push(Entry { key: section.to_owned(), at, value: Node::new(at, Value::Map(Vec::new())) });
                entries.len() - 1
            }
        };
        let Some(own) = entries.get_mut(index).and_then(|entry| entry.value.entries_mut()) else { continue };
        let index: HashMap<String, usize> =
            own.iter().enumerate().map(|(index, entry)| (entry.key.clone(), index)).collect();
        for entry in found {
            match index.get(&entry.key).and_then(|&index| own.get_mut(index)) {
                None => own.push(entry),
                Some(known) if known.value == entry.value => {}
                Some(known) => {
                    let over = std::mem::replace(&mut known.value, Node::new(at, Value::Null));
                    let mut path = vec![section.to_owned(), entry.key];
                    known.value = merge(session, entry.value, over, &mut path);
                }
            }
        }
    }
}

/// Resolves `extends` in every service of a document. `before` holds the files it will be laid over.
fn extend(session: &mut Session<'_>, scope: &mut Scope<'_>, document: &mut Node, before: Option<&Node>) {
    let Some(services) = document.get("services") else { return };
    if !services.entries().iter().any(|service| service.value.get("extends").is_some()) {
        return;
    }
    let services = services.clone();
    let outer = before.and_then(|before| before.get("services")).cloned();
    let mut done = Vec::new();
    for (index, service) in services.entries().iter().enumerate() {
        if service.value.get("extends").is_some() {
            let mut chain = vec![(session.path_of(service.at).to_owned(), service.key.clone())];
            let value = extended(session, scope, &services, outer.as_ref(), &service.value, &mut chain);
            done.push((index, value));
        }
    }
    let slots = document.entries_mut().and_then(|entries| entries.iter_mut().find(|entry| entry.key == "services"));
    if let Some(slots) = slots.and_then(|entry| entry.value.entries_mut()) {
        for (index, value) in done {
            if let Some(slot) = slots.get_mut(index) {
                slot.value = value;
            }
        }
    }
}

/// A service laid over the one it extends.
fn extended(
    session: &mut Session<'_>,
    scope: &mut Scope<'_>,
    services: &Node,
    outer: Option<&Node>,
    service: &Node,
    chain: &mut Vec<(PathBuf, String)>,
) -> Node {
    let mut own = service.clone();
    let Some(extends) = own.take("extends") else { return own };
    // What an override takes back was laid under the file before it.
    if extends.is_null() || extends.tag == MergeTag::Reset {
        return own;
    }
    let Some((name, file)) = extends_target(session, &extends) else { return own };
    let at = extends.at;
    let elsewhere = match &file {
        Some(file) => match extended_file(session, scope, file, at) {
            Some(services) => Some(services),
            None => return own,
        },
        None => None,
    };
    let other = elsewhere.as_deref().unwrap_or(services);
    let outer = outer.filter(|_| file.is_none());
    let Some(found) = other.entry(&name).or_else(|| outer.and_then(|outer| outer.entry(&name))) else {
        let place = file.map_or_else(String::new, |file| format!(" in {}", file.display()));
        session.error(at, format!("there is no service `{name}`{place} to extend"));
        return own;
    };
    let step = (session.path_of(found.at).to_owned(), name.clone());
    if chain.contains(&step) || chain.len() >= CHAIN {
        let names: Vec<&str> = chain.iter().map(|(_, name)| name.as_str()).chain([name.as_str()]).collect();
        session.error(at, format!("services extend each other in a circle: {}", names.join(" → ")));
        return own;
    }
    let found = found.value.clone();
    chain.push(step);
    let base = extended(session, scope, other, outer, &found, chain);
    chain.pop();
    let mut path = vec!["services".to_owned(), name];
    merge(session, base, own, &mut path)
}

fn extends_target(session: &mut Session<'_>, extends: &Node) -> Option<(String, Option<PathBuf>)> {
    match &extends.value {
        Value::Str(name) => Some((name.clone(), None)),
        Value::Map(entries) => {
            let (mut name, mut file) = (None, None);
            for entry in entries {
                let text = entry.value.as_str().map(str::to_owned);
                match (entry.key.as_str(), text) {
                    ("service", Some(text)) => name = Some(text),
                    ("file", Some(text)) if is_elsewhere(&text) => {
                        file = Some(elsewhere(session, entry.value.at, &text)?);
                    }
                    ("file", Some(text)) => file = Some(session.resolve(entry.value.at, &text)),
                    ("service" | "file", None) => {
                        session.error(entry.value.at, format!("`{}` must be a string", entry.key));
                        return None;
                    }
                    (other, _) => {
                        let message = format!("`{other}` is not a key of `extends`");
                        session.error_help(entry.at, message, "its keys are service and file");
                        return None;
                    }
                }
            }
            if name.is_none() {
                session.error(extends.at, "`extends` needs a `service`");
            }
            name.map(|name| (name, file))
        }
        _ => {
            session.error(extends.at, format!("`extends` is a service's name or a mapping, not {}", extends.kind()));
            None
        }
    }
}

/// The services of another file, read once.
fn extended_file(session: &mut Session<'_>, scope: &mut Scope<'_>, path: &Path, at: At) -> Option<Rc<Node>> {
    if let Some(known) = scope.extended.get(path) {
        return known.clone();
    }
    let base = path.parent().unwrap_or(Path::new("/")).to_owned();
    let mut services = None;
    for mut document in read_documents(session, path, &base, Some(at)).unwrap_or_default() {
        if scope.interpolate {
            interpolate(session, &mut document, scope.env);
            resolve_variables(&mut document, scope.env);
        }
        services = document.take("services").or(services);
    }
    let services = services.map(Rc::new);
    scope.extended.insert(path.to_owned(), services.clone());
    services
}
