//! What an edit changes, field by field. Pure.

use std::collections::BTreeSet;
use std::path::Path;

use sampan_compose::Project;
use serde::Serialize;
use serde_json::Value;

use crate::{desired, in_place};

/// One field that is other than it was.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FieldChange {
    /// Such as `services.web.environment.PORT`, `services.web.ports.0`.
    pub path: String,
    /// None: it was not there.
    pub before: Option<Value>,
    /// None: it is no longer there.
    pub after: Option<Value>,
    /// What it does to the containers of its service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect: Option<Effect>,
}

/// What a change does to running containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// They are changed as they are.
    InPlace,
    /// They are made anew.
    Recreate,
    /// Some come or go.
    Scale,
    /// They do not notice.
    None,
}

/// What a change of one field does to the containers of its service, found by asking what a container would be with it and
/// without; none for what belongs to no service.
fn effect(before: Option<&Project>, path: &[&str], after: Option<&Value>) -> Option<Effect> {
    let ["services", name, rest @ ..] = path else { return None };
    let (before, key) = (before?, *rest.first()?);
    let service = before.services.get(*name)?;
    if key == "scale" || rest.starts_with(&["deploy", "replicas"]) {
        return Some(Effect::Scale);
    }
    let mut changed = serde_json::to_value(service).unwrap_or_default();
    set(&mut changed, rest, after);
    let Ok(changed) = serde_json::from_value(changed) else { return Some(Effect::Recreate) };
    let mut project = before.clone();
    project.services.insert((*name).to_owned(), changed);
    let container = |project: &Project| desired::container(project, name, 1, Path::new("/"));
    let (Ok(old), Ok(new)) = (container(before), container(&project)) else { return Some(Effect::Recreate) };
    Some(match in_place::changes(&in_place::to_text(&old.parts), &new.parts) {
        None => Effect::Recreate,
        Some(changes) if changes.is_empty() && old.name == new.name => Effect::None,
        Some(_) => Effect::InPlace,
    })
}

/// Puts a value to its place, or takes away what is there.
fn set(value: &mut Value, path: &[&str], new: Option<&Value>) {
    let ([key, rest @ ..], Some(map)) = (path, value.as_object_mut()) else { return };
    match (rest.is_empty(), new) {
        (false, _) => set(map.entry(*key).or_insert_with(|| Value::Object(serde_json::Map::new())), rest, new),
        (true, Some(new)) => drop(map.insert((*key).to_owned(), new.clone())),
        (true, None) => drop(map.shift_remove(*key)),
    }
}

/// The keys of a service for which its containers are made anew.
pub(crate) fn keys<'a>(changes: &'a [FieldChange], service: &str) -> Vec<&'a str> {
    let of = changes.iter().filter(|change| change.effect == Some(Effect::Recreate));
    let below = |change: &'a FieldChange| {
        let rest = change.path.strip_prefix("services.")?.strip_prefix(service)?.strip_prefix('.')?;
        Some(rest.split('.').next().unwrap_or(rest))
    };
    let mut keys: Vec<&str> = of.filter_map(below).collect();
    keys.dedup();
    keys
}

/// What is different between a project that was applied and another one. Secrets are not shown.
#[must_use]
pub fn fields(before: Option<&Project>, after: &Project) -> Vec<FieldChange> {
    let mut all = Vec::new();
    let old = before.map(shown).unwrap_or(Value::Null);
    compare(&mut Vec::new(), (Some(&old), Some(&shown(after))), &mut |path, old, new| {
        all.push(FieldChange {
            effect: effect(before, path, new),
            path: path.join("."),
            before: old.cloned(),
            after: new.cloned(),
        });
    });
    all
}

/// The parts of a project that a user wrote, without what is secret in them.
fn shown(project: &Project) -> Value {
    let whole = serde_json::to_value(project).unwrap_or_default();
    let mut kept = serde_json::Map::new();
    for part in ["services", "networks", "volumes", "configs", "secrets"] {
        let mut value = whole.get(part).cloned().unwrap_or_default();
        if matches!(part, "configs" | "secrets") {
            for found in value.as_object_mut().into_iter().flat_map(|all| all.values_mut()) {
                for key in ["value", "content"] {
                    if let Some(text) = found.get_mut(key).filter(|text| !text.is_null()) {
                        let digest = crate::desired::hash(&text.to_string());
                        *text = Value::String(format!("(hidden, {})", &digest[..8]));
                    }
                }
            }
        }
        kept.insert(part.to_owned(), value);
    }
    Value::Object(kept)
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// Tells the path of each value that is another, and what it was and is.
fn compare<'a>(
    path: &mut Vec<&'a str>,
    (before, after): (Option<&'a Value>, Option<&'a Value>),
    tell: &mut impl FnMut(&[&str], Option<&Value>, Option<&Value>),
) {
    let before = before.filter(|value| !is_nothing(value));
    let after = after.filter(|value| !is_nothing(value));
    if before == after {
        return;
    }
    let (old, new) = (before.and_then(Value::as_object), after.and_then(Value::as_object));
    // What comes or goes as a whole below the top is one change.
    let whole = path.len() > 1 && (before.is_none() || after.is_none());
    let maps = (old.is_some() || before.is_none()) && (new.is_some() || after.is_none());
    if whole || !maps {
        return tell(path, before, after);
    }
    let keys: BTreeSet<&String> = [old, new].into_iter().flatten().flat_map(|map| map.keys()).collect();
    for key in keys {
        path.push(key);
        let of = |map: Option<&'a serde_json::Map<String, Value>>| map.and_then(|map| map.get(key));
        match (of(old), of(new)) {
            // A network without settings, a variable without a value: that it is named counts.
            (None, only @ Some(Value::Null)) => tell(path, None, only),
            (only @ Some(Value::Null), None) => tell(path, only, None),
            both => compare(path, both, tell),
        }
        path.pop();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sampan_compose::{LoadOptions, MemoryFiles};

    fn project(text: &str) -> Project {
        let files = MemoryFiles::default().with("/p/compose.yaml", text);
        let options =
            LoadOptions { working_dir: "/p".into(), project_name: Some("p".into()), ..LoadOptions::default() };
        sampan_compose::load(&options, &files).unwrap_or_else(|error| panic!("{error}")).project
    }

    #[test]
    fn an_edit_is_shown_field_by_field() {
        let before = project("services: { web: { image: web, environment: { A: '1', B: x } }, old: { image: old } }");
        let after = project(
            "# a comment\nservices: { web: { environment: { B: x, A: '2' }, image: web, read_only: true }, new: { image: new } }",
        );
        let changes = fields(Some(&before), &after);
        let paths: Vec<&str> = changes.iter().map(|change| change.path.as_str()).collect();
        assert_eq!(
            paths,
            ["services.new", "services.old", "services.web.environment.A", "services.web.read_only"],
            "{changes:#?}"
        );
        assert_eq!(changes[2].before, Some("1".into()));
        assert_eq!(changes[2].after, Some("2".into()));
        assert_eq!(keys(&changes, "web"), ["environment", "read_only"]);
        assert!(fields(Some(&after), &after).is_empty());
        assert!(fields(None, &before).iter().any(|change| change.path == "services.web"));
    }

    #[test]
    fn each_field_says_what_it_does_to_containers() {
        let plain = "image: web, networks: { a: , b: }, logging: { driver: local, options: { max-size: 1m } }, labels: { a.b: x }";
        let of = |service: &str| {
            let text = |service: &str| {
                project(&format!(
                    "services: {{ web: {{ {service} }}, db: {{ image: db }} }}\nnetworks: {{ a: , b: , c: }}\nvolumes: {{ data: }}"
                ))
            };
            let changes = fields(Some(&text(plain)), &text(service));
            let shown = changes.into_iter().map(|change| (change.path.replacen("services.web.", "", 1), change.effect));
            shown.collect::<Vec<_>>()
        };
        let with = |more: &str| of(&format!("{plain}, {more}"));
        let one = |path: &str, effect| vec![(path.to_owned(), Some(effect))];
        for (more, path) in [
            ("ports: ['80:80']", "ports"),
            ("expose: ['80']", "expose"),
            ("healthcheck: { test: [CMD, a] }", "healthcheck"),
            ("mem_limit: 1m", "mem_limit"),
            ("deploy: { resources: { limits: { cpus: '1' } } }", "deploy"),
            ("restart: always", "restart"),
            ("container_name: other", "container_name"),
            ("post_start: [{ command: a }]", "post_start"),
        ] {
            assert_eq!(with(more), one(path, Effect::InPlace), "{more}");
        }
        for (more, path) in [
            ("environment: { A: b }", "environment"),
            ("volumes: ['data:/data']", "volumes"),
            ("mac_address: '02:00:00:00:00:01'", "mac_address"),
            ("read_only: true", "read_only"),
        ] {
            let effect = if path == "mac_address" { Effect::InPlace } else { Effect::Recreate };
            assert_eq!(with(more), one(path, effect), "{more}");
        }
        for (more, path) in [
            ("depends_on: [db]", "depends_on"),
            ("x-sampan: { restart_unhealthy: true }", "x-sampan"),
            ("pull_policy: always", "pull_policy"),
            ("deploy: { update_config: { order: start-first } }", "deploy"),
        ] {
            assert_eq!(with(more), one(path, Effect::None), "{more}");
        }
        assert_eq!(with("scale: 2"), one("scale", Effect::Scale));
        let edited = |from: &str, to: &str| of(&plain.replace(from, to));
        assert_eq!(edited("a.b: x", "a.b: y"), one("labels.a.b", Effect::InPlace));
        assert_eq!(edited("1m", "2m"), one("logging.options.max-size", Effect::InPlace));
        assert_eq!(edited("driver: local", "driver: json-file"), one("logging.driver", Effect::Recreate));
        let moved = |network: &str, effect| (format!("networks.{network}"), Some(effect));
        assert_eq!(edited("b: }", "c: }"), [moved("b", Effect::InPlace), moved("c", Effect::InPlace)]);
        assert_eq!(edited("{ a: ,", "{ "), one("networks.a", Effect::Recreate), "the one that it was made with");
        assert_eq!(fields(None, &project("services: { web: { image: web } }"))[0].effect, None);
    }

    #[test]
    fn secrets_are_not_shown() {
        let of = |text: &str| {
            project(&format!(
                "services: {{ web: {{ image: web, configs: [c] }} }}\nconfigs: {{ c: {{ content: {text} }} }}"
            ))
        };
        let changes = fields(Some(&of("hush")), &of("other"));
        assert!(!changes.is_empty());
        assert!(!format!("{changes:?}").contains("hush"), "{changes:?}");
    }
}
