//! What an edit changes, field by field. Pure.

use sampan_compose::Project;
use serde::Serialize;
use serde_json::Value;

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

/// Keys of a service that its containers do not know of.
const OUTSIDE: [&str; 7] = ["depends_on", "develop", "profiles", "pull_policy", "attach", "build", "models"];
/// Keys that the kernel or the engine can change under a container that runs.
const IN_PLACE: [&str; 19] = [
    "cpus",
    "cpu_shares",
    "cpu_period",
    "cpu_quota",
    "cpuset",
    "mem_limit",
    "mem_reservation",
    "memswap_limit",
    "pids_limit",
    "restart",
    "ports",
    "expose",
    "healthcheck",
    "labels",
    "networks",
    "links",
    "post_start",
    "pre_stop",
    "label_file",
];

/// What a change of a field does; none for what belongs to no service.
fn effect(path: &str) -> Option<Effect> {
    let mut parts = path.split('.');
    if parts.next() != Some("services") {
        return None;
    }
    let (_, key) = (parts.next()?, parts.next()?);
    let rest: Vec<&str> = parts.collect();
    Some(match (key, rest.as_slice()) {
        (key, _) if key.starts_with("x-") || OUTSIDE.contains(&key) => Effect::None,
        ("scale", _) | ("deploy", ["replicas", ..]) => Effect::Scale,
        ("deploy", ["resources" | "restart_policy", ..]) | ("logging", ["options", ..]) => Effect::InPlace,
        ("deploy", _) => Effect::None,
        (key, _) if IN_PLACE.contains(&key) => Effect::InPlace,
        _ => Effect::Recreate,
    })
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
    let before = before.map(shown).unwrap_or(Value::Null);
    compare("", Some(&before), Some(&shown(after)), &mut all);
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

fn compare(path: &str, before: Option<&Value>, after: Option<&Value>, all: &mut Vec<FieldChange>) {
    let before = before.filter(|value| !is_nothing(value));
    let after = after.filter(|value| !is_nothing(value));
    if before == after {
        return;
    }
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    let (old, new) = (before.and_then(Value::as_object), after.and_then(Value::as_object));
    match (before, after, old, new) {
        // What comes or goes as a whole below the top is one change.
        (Some(_), Some(_), Some(old), Some(new)) => {
            let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
            keys.sort();
            keys.dedup();
            keys.into_iter().for_each(|key| compare(&below(key), old.get(key), new.get(key), all));
        }
        (None, Some(_), _, Some(new)) if !path.contains('.') => {
            new.iter().for_each(|(key, value)| compare(&below(key), None, Some(value), all));
        }
        (Some(_), None, Some(old), _) if !path.contains('.') => {
            old.iter().for_each(|(key, value)| compare(&below(key), Some(value), None, all));
        }
        _ => all.push(FieldChange {
            effect: effect(path),
            path: path.to_owned(),
            before: before.cloned(),
            after: after.cloned(),
        }),
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
        let of = |path: &str| effect(&format!("services.web.{path}"));
        for path in ["ports.0.published", "healthcheck.interval", "logging.options.max-size", "mem_limit", "labels.a"] {
            assert_eq!(of(path), Some(Effect::InPlace), "{path}");
        }
        for path in ["image", "environment.A", "logging.driver", "volumes.0.source", "mac_address"] {
            assert_eq!(of(path), Some(Effect::Recreate), "{path}");
        }
        assert_eq!((of("scale"), of("deploy.replicas")), (Some(Effect::Scale), Some(Effect::Scale)));
        assert_eq!((of("x-sampan.restart_unhealthy"), of("depends_on.db")), (Some(Effect::None), Some(Effect::None)));
        assert_eq!((effect("services.web"), effect("networks.front.internal")), (None, None));
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
