//! A project before its variables are replaced, and the variables it names.

use std::collections::BTreeSet;

use serde_json::{Map, Value as Json};

use crate::diagnostic::{Diagnostic, Diagnostics, Severity};
use crate::files::Files;
use crate::interpolate::{Env, Named, named};
use crate::load::{LoadOptions, Prepared, merged, prepare};
use crate::merge::{hosts, keys, pairs};
use crate::node::{At, Entry, Node, Value};
use crate::session::Session;

/// A variable that a project names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variable {
    pub name: String,
    /// Whether it must have a value.
    pub required: bool,
    /// What stands for it when it has no value.
    pub default: String,
    /// What stands for it when it has one.
    pub alternate: String,
}

/// A project whose variables are not replaced: its files merged, short forms made long as far as that needs no value.
#[derive(Debug, Clone, PartialEq)]
pub struct RawProject {
    pub model: Json,
    /// In the order of the files, each once.
    pub variables: Vec<Variable>,
    pub warnings: Vec<Diagnostic>,
}

/// Loads a project without replacing variables.
///
/// # Errors
/// What is wrong with the files as YAML, and what can't be merged.
pub fn load_raw(options: &LoadOptions, files: &dyn Files) -> Result<RawProject, Diagnostics> {
    let options = LoadOptions { interpolate: false, ..options.clone() };
    let mut session = Session::new(files, None);
    let found = prepare(&options, &mut session).and_then(|mut prepared| {
        let root = merged(&mut session, &mut prepared, false)?;
        Some((prepared, root))
    });
    let raw = found.map(|(prepared, mut root)| {
        let mut variables = Variables::default();
        variables.node(&root);
        complete(&session, &prepared, &mut root);
        (root.to_json(), variables.found)
    });
    let failed = session.failed();
    let Diagnostics { items, inputs } = session.into_diagnostics();
    match raw {
        Some((model, variables)) if !failed => {
            let warnings = items.into_iter().filter(|item| item.severity == Severity::Warning).collect();
            Ok(RawProject { model, variables, warnings })
        }
        _ => Err(Diagnostics { items, inputs }),
    }
}

/// The variables that a project's files are read with: the caller's, those of env files, the project's name.
///
/// # Errors
/// What keeps the files from being read.
pub fn environment(options: &LoadOptions, files: &dyn Files) -> Result<Env, Diagnostics> {
    let mut session = Session::new(files, None);
    match prepare(options, &mut session) {
        Some(prepared) => Ok(prepared.env),
        None => Err(session.into_diagnostics()),
    }
}

/// Variables in the order in which they are met.
#[derive(Default)]
struct Variables {
    known: BTreeSet<String>,
    found: Vec<Variable>,
}

impl Variables {
    fn node(&mut self, node: &Node) {
        match &node.value {
            Value::Str(text) => self.text(text, 0),
            Value::Seq(items) => items.iter().for_each(|item| self.node(item)),
            Value::Map(entries) => entries.iter().for_each(|entry| self.node(&entry.value)),
            _ => {}
        }
    }

    fn text(&mut self, text: &str, depth: usize) {
        for Named { name, operator, operand } in named(text) {
            let given = operand.to_owned();
            let mut variable = Variable { name: name.to_owned(), ..Variable::default() };
            match operator.trim_start_matches(':') {
                "-" => variable.default = given,
                "+" => variable.alternate = given,
                "?" => variable.required = true,
                _ => {}
            }
            if self.known.insert(variable.name.clone()) {
                self.found.push(variable);
            }
            // Nesting is bounded as where variables are replaced.
            if depth < 50 {
                self.text(operand, depth + 1);
            }
        }
    }
}

fn each<'n>(root: &'n mut Node, section: &str) -> impl Iterator<Item = &'n mut Entry> {
    let entries = root.entries_mut().and_then(|entries| entries.iter_mut().find(|entry| entry.key == section));
    entries.and_then(|entry| entry.value.entries_mut()).into_iter().flatten()
}

fn change(node: &mut Node, key: &str, act: impl FnOnce(Node) -> Node) {
    if let Some(entry) = node.entries_mut().and_then(|entries| entries.iter_mut().find(|entry| entry.key == key)) {
        let old = std::mem::replace(&mut entry.value, Node::new(entry.at, Value::Null));
        entry.value = act(old);
    }
}

fn add(node: &mut Node, key: &str, value: Value) {
    let at = node.at;
    if node.is_null() {
        node.value = Value::Map(Vec::new());
    }
    if node.lacks(key)
        && let Some(entries) = node.entries_mut()
    {
        entries.retain(|entry| entry.key != key);
        entries.push(Entry { key: key.to_owned(), at, value: Node::new(at, value) });
    }
}

/// Names, the default network, and the long forms.
fn complete(session: &Session<'_>, prepared: &Prepared, root: &mut Node) {
    let mut default = false;
    for service in each(root, "services").map(|entry| &mut entry.value) {
        for key in ["environment", "labels", "annotations", "sysctls"] {
            change(service, key, pairs);
        }
        change(service, "networks", |node| keys(node, false));
        change(service, "models", |node| keys(node, false));
        change(service, "depends_on", |node| keys(node, true));
        change(service, "extra_hosts", hosts);
        change(service, "build", |node| build(session, node));
        if service.lacks("network_mode") && service.lacks("networks") && service.lacks("provider") {
            let at = service.at;
            let entry = Entry { key: "default".to_owned(), at, value: Node::new(at, Value::Null) };
            add(service, "networks", Value::Map(vec![entry]));
        }
        default |= service.get("networks").is_some_and(|networks| networks.entry("default").is_some());
    }
    if default {
        add(root, "networks", Value::Map(Vec::new()));
        change(root, "networks", |mut networks| {
            add(&mut networks, "default", Value::Map(Vec::new()));
            networks
        });
    }
    for section in ["networks", "volumes", "secrets", "configs"] {
        for entry in each(root, section) {
            let external = entry.value.get("external").is_some_and(|external| external.value == Value::Bool(true));
            let name = if external { entry.key.clone() } else { format!("{}_{}", prepared.name, entry.key) };
            add(&mut entry.value, "name", Value::Str(name));
        }
    }
    let name = Node::string(At::default(), prepared.name.clone());
    if let Some(entries) = root.entries_mut() {
        entries.retain(|entry| !matches!(entry.key.as_str(), "name" | "version"));
        entries.insert(0, Entry { key: "name".to_owned(), at: At::default(), value: name });
    }
}

fn build(session: &Session<'_>, node: Node) -> Node {
    let mut node = crate::merge::context(node);
    change(&mut node, "args", pairs);
    change(&mut node, "labels", pairs);
    change(&mut node, "context", |context| match context.as_str() {
        Some(written) if !written.contains('$') && !crate::model::build::is_remote_context(written) => {
            let path = session.resolve_node(&context, written).to_string_lossy().into_owned();
            Node { value: Value::Str(path), ..context }
        }
        _ => context,
    });
    if node.lacks("dockerfile_inline") {
        add(&mut node, "dockerfile", Value::Str("Dockerfile".to_owned()));
    }
    node
}

/// A model of plain values as the text of a compose file.
#[must_use]
pub fn to_yaml(model: &Map<String, Json>) -> String {
    crate::output::yaml(model)
}
