//! A project before its variables are replaced, and the variables it names.

use std::collections::BTreeSet;

use serde_json::{Map, Value as Json};

use crate::canonical::canonical;
use crate::diagnostic::{Diagnostic, Diagnostics, Severity};
use crate::files::Files;
use crate::interpolate::{Env, Named, named};
use crate::load::{LoadOptions, merged, prepare};
use crate::node::{Node, Value};
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
    let mut session = Session::new(files, options.home());
    let found = prepare(&options, &mut session).and_then(|mut prepared| {
        let root = merged(&mut session, &mut prepared, false)?;
        Some((prepared, root))
    });
    let raw = found.map(|(prepared, mut root)| {
        let mut variables = Variables::default();
        variables.node(&root);
        canonical(&session, &prepared.name, &mut root, !options.without.normalization);
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
    let mut session = Session::new(files, options.home());
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

/// A model of plain values as the text of a compose file.
#[must_use]
pub fn to_yaml(model: &Map<String, Json>) -> String {
    crate::output::yaml(model)
}
