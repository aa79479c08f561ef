//! The merged tree to the typed project. Every key is taken by name; what is left over is refused.

mod build;
mod deploy;
mod fields;
mod mounts;
mod networking;
mod ports;
mod process;
mod resources;
mod service;
mod special;

use std::collections::BTreeMap;

pub(crate) use fields::Fields;
pub(crate) use ports::short as short_ports;

use crate::interpolate::Env;
use crate::model::Project;
use crate::node::{At, Node};
use crate::session::Session;

/// What decoding needs besides the tree.
pub(crate) struct Cx<'s, 'a> {
    pub session: &'s mut Session<'a>,
    pub env: &'s Env,
    /// The key being decoded, for messages.
    pub key: &'static str,
    /// Where each service and its parts stand, for the checks that follow.
    pub places: Places,
}

/// Where things were written.
#[derive(Debug, Default)]
pub(crate) struct Places(BTreeMap<String, At>);

impl Places {
    /// The place of a path such as `services.web.depends_on.db`, or of the nearest thing around it.
    pub(crate) fn find(&self, path: &str) -> At {
        let mut path = path;
        loop {
            if let Some(at) = self.0.get(path) {
                return *at;
            }
            match path.rsplit_once('.') {
                Some((outer, _)) => path = outer,
                None => return At::default(),
            }
        }
    }

    /// The place of a list item that starts with a text, or of the list.
    pub(crate) fn find_item(&self, list: &str, start: &str) -> At {
        let wanted = format!("{list}.{start}");
        match self.0.range(wanted.clone()..).next() {
            Some((path, at)) if path.starts_with(&wanted) => *at,
            _ => self.find(list),
        }
    }

    /// Notes the places of a node's keys, and of scalar list items by their text, down to services' own keys.
    fn note(&mut self, node: &Node, path: &str, depth: usize) {
        for entry in node.entries() {
            let path = if path.is_empty() { entry.key.clone() } else { format!("{path}.{}", entry.key) };
            if depth > 0 {
                self.note(&entry.value, &path, depth - 1);
            }
            self.0.insert(path, entry.at);
        }
        if let crate::node::Value::Seq(items) = &node.value {
            for item in items {
                if let Some(text) = item.as_str() {
                    self.0.insert(format!("{path}.{text}"), item.at);
                }
            }
        }
    }
}

/// Decodes a whole project; names are not given yet and services are not sorted by profile.
pub(crate) fn project(cx: &mut Cx<'_, '_>, root: &Node) -> Project {
    cx.places.note(root, "", 4);
    let mut project = Project::default();
    let Some(mut fields) = Fields::of(cx, root, "a compose file") else { return project };
    if let Some(version) = fields.node("version") {
        cx.session.warning(version.at, "`version` is obsolete and has no effect; it can be removed");
    }
    if let Some(name) = fields.node("name")
        && name.as_str().is_none()
    {
        cx.session.error(name.at, format!("`name` must be a string, not {}", name.kind()));
    }
    // Resolved before; null by now.
    let _ = fields.node("include");
    project.services = fields.map(cx, "services", service::service);
    project.networks = fields.map(cx, "networks", resources::network);
    project.volumes = fields.map(cx, "volumes", resources::volume);
    project.secrets = fields.map(cx, "secrets", resources::secret);
    project.configs = fields.map(cx, "configs", resources::config);
    project.models = fields.map(cx, "models", special::model);
    project.extensions = fields.finish(cx, &[]);
    project
}
