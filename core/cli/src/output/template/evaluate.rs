//! Filling a template from a value.

use serde_json::Value;
use std::collections::HashMap;

use super::fields::{LISTS, OPTIONAL, walk};
use super::functions::{call, show, truth};
use super::{Command, Node, Operand, Pipeline};
use crate::output::table;

pub(super) struct Scope<'a> {
    pub(super) root: &'a Value,
    pub(super) variables: Vec<HashMap<String, Value>>,
}

impl Scope<'_> {
    pub(super) fn nodes(&mut self, nodes: &[Node], dot: &Value, out: &mut String) -> Result<(), String> {
        for node in nodes {
            match node {
                Node::Text(text) => out.push_str(text),
                Node::Show(pipeline) => match (self.pipeline(pipeline, dot)?, shown_field(pipeline)) {
                    (Value::Null, Some(name)) if LISTS.contains(&name) => out.push_str("[]"),
                    (Value::Null, Some(name)) if OPTIONAL.contains(&name) => out.push_str("<nil>"),
                    (value, _) => out.push_str(&show(&value)),
                },
                Node::Set(name, pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    if let Some(scope) = self.variables.last_mut() {
                        scope.insert(name.clone(), value);
                    }
                }
                Node::If(branches) => {
                    for (condition, body) in branches {
                        let holds = match condition {
                            Some(condition) => truth(&self.pipeline(condition, dot)?),
                            None => true,
                        };
                        if holds {
                            self.nested(body, dot, [], out)?;
                            break;
                        }
                    }
                }
                Node::With(over, body, otherwise) => {
                    let value = self.pipeline(over, dot)?;
                    if truth(&value) {
                        self.nested(body, &value, [], out)?;
                    } else {
                        self.nested(otherwise, dot, [], out)?;
                    }
                }
                Node::Range { key, item, over, body, otherwise } => {
                    let items = entries(self.pipeline(over, dot)?);
                    if items.is_empty() {
                        self.nested(otherwise, dot, [], out)?;
                    }
                    for (found_key, value) in items {
                        let bound = [(key.clone(), found_key), (item.clone(), value.clone())];
                        self.nested(body, &value, bound, out)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn nested<const N: usize>(
        &mut self,
        nodes: &[Node],
        dot: &Value,
        bound: [(Option<String>, Value); N],
        out: &mut String,
    ) -> Result<(), String> {
        let scope = bound.into_iter().filter_map(|(name, value)| name.map(|name| (name, value))).collect();
        self.variables.push(scope);
        let result = self.nodes(nodes, dot, out);
        self.variables.pop();
        result
    }

    fn pipeline(&self, pipeline: &Pipeline, dot: &Value) -> Result<Value, String> {
        let mut carried: Option<Value> = None;
        for command in pipeline {
            carried = Some(self.command(command, dot, carried)?);
        }
        Ok(carried.unwrap_or(Value::Null))
    }

    fn command(&self, command: &Command, dot: &Value, carried: Option<Value>) -> Result<Value, String> {
        let Some((first, rest)) = command.split_first() else { return Ok(Value::Null) };
        if let Operand::Function(name) = first {
            let mut arguments = rest.iter().map(|operand| self.operand(operand, dot)).collect::<Result<Vec<_>, _>>()?;
            arguments.extend(carried);
            return call(name, &arguments);
        }
        // The one method that templates call: `{{.Label "name"}}`.
        if let (Operand::Path(None, fields), [name]) = (first, rest)
            && let [field] = fields.as_slice()
            && field == "Label"
        {
            let name = show(&self.operand(name, dot)?);
            return Ok(dot[table::LABELS].get(&name).cloned().unwrap_or_else(|| Value::String(String::new())));
        }
        if !rest.is_empty() || carried.is_some() {
            return Err("template: can't give argument to non-function".to_owned());
        }
        self.operand(first, dot)
    }

    fn operand(&self, operand: &Operand, dot: &Value) -> Result<Value, String> {
        match operand {
            Operand::Literal(value) => Ok(value.clone()),
            Operand::Path(None, fields) => walk(dot, fields),
            Operand::Path(Some(name), fields) if name.is_empty() => walk(self.root, fields),
            Operand::Path(Some(name), fields) => {
                let value = self.variables.iter().rev().find_map(|scope| scope.get(name));
                walk(value.ok_or_else(|| format!("template: undefined variable \"${name}\""))?, fields)
            }
            Operand::Group(pipeline, fields) => walk(&self.pipeline(pipeline, dot)?, fields),
            Operand::Function(name) => call(name, &[]),
        }
    }
}

/// The name of the field that a pipeline shows, when it does nothing else.
fn shown_field(pipeline: &Pipeline) -> Option<&str> {
    match pipeline.as_slice() {
        [command] => match command.as_slice() {
            [Operand::Path(_, fields)] => fields.last().map(String::as_str),
            _ => None,
        },
        _ => None,
    }
}

pub(super) fn entries(value: Value) -> Vec<(Value, Value)> {
    match value {
        Value::Array(items) => items.into_iter().enumerate().map(|(at, item)| (Value::from(at), item)).collect(),
        Value::Object(map) => {
            let mut items: Vec<_> = map.into_iter().collect();
            // Go ranges over maps in the order of their keys.
            items.sort_by(|a, b| a.0.cmp(&b.0));
            items.into_iter().map(|(key, value)| (Value::String(key), value)).collect()
        }
        _ => Vec::new(),
    }
}
