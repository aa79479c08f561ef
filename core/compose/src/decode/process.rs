//! Command, environment, labels, health, devices, logging, watch rules.

use std::collections::BTreeMap;

use super::Cx;
use super::fields::{Fields, Keyed, unique};
use crate::assemble::{EnvFormat, env_file_as};
use crate::files::PathKind;
use crate::interpolate::Env;
use crate::model::{
    Develop, DeviceMapping, EnvFile, Exec, Healthcheck, Logging, Service, Ulimit, WatchAction, WatchRule,
};
use crate::node::{Node, Value};
use crate::words;

/// A command: a list, or a line split as a shell would.
pub(super) fn command(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Vec<String>> {
    match &node.value {
        Value::Str(line) => {
            let split = words::split(line).map_err(|message| cx.bad(node, message)).ok()?;
            if let Some(operator) = words::operator(&split) {
                let message = format!("`{}`: `{operator}` is passed on as a word; no shell is involved", cx.key);
                cx.session.warning(node.at, message);
            }
            Some(split)
        }
        Value::Seq(_) => cx.list(node, Cx::string),
        _ => {
            cx.wants(node, "a string or a list of strings");
            None
        }
    }
}

/// `environment` over the `env_file`s.
pub(super) fn environment(cx: &mut Cx<'_, '_>, fields: &mut Fields<'_>, service: &mut Service) {
    let own = fields.get(cx, "environment", Cx::optional_pairs);
    for key in own.keys().filter(|key| key.ends_with(char::is_whitespace)) {
        cx.session.error(fields.at, format!("`environment`: the name `{key}` ends with a space"));
    }
    let mut all: BTreeMap<String, Option<String>> = BTreeMap::new();
    let files = fields.get(cx, "env_file", |_, node| Some(vec![node.clone()]));
    let items: Vec<Node> = match files.into_iter().next() {
        Some(Node { value: Value::Seq(items), .. }) => items,
        Some(one) => vec![one],
        None => Vec::new(),
    };
    // A file that is named again stays where it was first.
    let mut files = Keyed::new();
    for item in &items {
        let Some((file, from)) = env_file(cx, item) else { continue };
        let path = cx.session.path(from, &file.path.to_string_lossy());
        files.put(path.clone(), (path, file, from));
    }
    for (path, file, from) in files.into_items() {
        if cx.session.without.env_resolution {
            service.env_file.push(EnvFile { path, ..file });
            continue;
        }
        for (key, value) in env_file_variables(cx, &file, from, &own).unwrap_or_default() {
            all.insert(key, Some(value));
        }
    }
    all.extend(own);
    service.environment = all;
}

/// Groups by name and number, repetitions left out; the reference takes `5` and `"5"` for two.
pub(super) fn groups(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Vec<String>> {
    let mut known: Vec<&Node> = Vec::new();
    let mut groups = Vec::new();
    for item in cx.items(node) {
        if !known.contains(&item) {
            known.push(item);
            groups.extend(cx.text(item));
        }
    }
    Some(groups)
}

/// An env file as it is written, and where.
fn env_file<'n>(cx: &mut Cx<'_, '_>, item: &'n Node) -> Option<(EnvFile, &'n Node)> {
    let outer = std::mem::replace(&mut cx.key, "env_file");
    let file = match &item.value {
        Value::Str(path) => EnvFile { path: path.into(), ..EnvFile::default() },
        _ => {
            let mut fields = Fields::of(cx, item, "an env file")?;
            let file = EnvFile {
                path: fields.get(cx, "path", Cx::string).into(),
                required: fields.option(cx, "required", Cx::boolean).filter(|required| !required),
                format: fields.get(cx, "format", |cx, node| cx.word(node, &["raw"])),
            };
            fields.finish(cx, &[]);
            file
        }
    };
    cx.key = outer;
    if file.path.as_os_str().is_empty() {
        cx.session.error(item.at, "an env file needs a path");
        return None;
    }
    Some((file, item.get("path").unwrap_or(item)))
}

fn env_file_variables(
    cx: &mut Cx<'_, '_>,
    file: &EnvFile,
    from: &Node,
    own: &BTreeMap<String, Option<String>>,
) -> Option<Vec<(String, String)>> {
    let path = cx.session.resolve(from.at, &file.path.to_string_lossy());
    if file.required == Some(false) && cx.session.kind(&path) == PathKind::Missing {
        return None;
    }
    let env = cx.env;
    let lookup = |name: &str| env.get(name).cloned().or_else(|| own.get(name).cloned().flatten());
    let none = Env::new();
    let format = if file.format == "raw" { EnvFormat::Raw } else { EnvFormat::Dotenv(&none) };
    env_file_as(cx.session, &path, Some(from.at), &lookup, format)
}

/// `labels` over the `label_file`s.
pub(super) fn labels(cx: &mut Cx<'_, '_>, fields: &mut Fields<'_>, service: &mut Service) {
    let own = fields.get(cx, "labels", Cx::pairs);
    let node = fields.node("label_file");
    let outer = std::mem::replace(&mut cx.key, "label_file");
    let items: Vec<&Node> = match node {
        Some(Node { value: Value::Seq(items), .. }) => items.iter().collect(),
        Some(one) => vec![one],
        None => Vec::new(),
    };
    let mut known = Env::new();
    for item in items {
        let Some(written) = cx.string(item) else { continue };
        let shown = cx.session.path(item, &written);
        // A file that is named again stays where it was first.
        if service.label_file.contains(&shown) {
            continue;
        }
        service.label_file.push(shown);
        let path = cx.session.resolve(item.at, &written);
        // As the reference reads them: no variable but those of these files is known.
        let found = env_file_as(cx.session, &path, Some(item.at), &|_| None, EnvFormat::Dotenv(&known));
        known.extend(found.unwrap_or_default());
    }
    service.labels.extend(known);
    cx.key = outer;
    for key in own.keys().filter(|key| key.starts_with("com.docker.compose.")) {
        cx.session.error(fields.at, format!("the label {key} is set by the engine"));
    }
    service.labels.extend(own);
}

/// Options; a seccomp profile that is named by its path is put in its place, unless the model is only looked at.
pub(super) fn security_options(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Vec<String>> {
    let list = cx.list(node, |cx, item| {
        let option = cx.string(item)?;
        let profile = option.strip_prefix("seccomp").and_then(|rest| rest.strip_prefix([':', '=']));
        match profile.filter(|profile| !matches!(*profile, "" | "unconfined" | "builtin" | "default")) {
            Some(path) if !cx.session.whole_specification && !path.starts_with('{') => seccomp_profile(cx, item, path),
            _ => Some(option),
        }
    })?;
    Some(unique(list))
}

fn seccomp_profile(cx: &mut Cx<'_, '_>, item: &Node, written: &str) -> Option<String> {
    let path = cx.session.resolve(item.at, written);
    let content = match cx.session.read(&path) {
        Ok(content) => content,
        Err(error) => {
            cx.bad(item, format!("can't read the seccomp profile {}: {error}", path.display()));
            return None;
        }
    };
    match serde_json::from_slice::<serde_json::Value>(&content) {
        Ok(profile) => Some(format!("seccomp={profile}")),
        Err(error) => {
            cx.bad(item, format!("the seccomp profile {} is not JSON: {error}", path.display()));
            None
        }
    }
}

/// Microseconds, as a number or a duration.
pub(super) fn microseconds(cx: &mut Cx<'_, '_>, node: &Node) -> Option<i64> {
    let plain = node.as_str().is_none_or(|text| text.trim_start_matches('-').bytes().all(|b| b.is_ascii_digit()));
    if plain {
        return cx.integer(node);
    }
    let duration = cx.duration(node)?;
    i64::try_from(duration.as_micros()).ok()
}

pub(super) fn ulimits(cx: &mut Cx<'_, '_>, node: &Node) -> Option<BTreeMap<String, Ulimit>> {
    let mut out = BTreeMap::new();
    if !matches!(node.value, Value::Map(_)) {
        cx.wants(node, "a mapping");
    }
    for entry in node.entries() {
        if !entry.key.bytes().all(|b| b.is_ascii_lowercase()) || entry.key.is_empty() {
            cx.session.error(entry.at, format!("`{}` is not the name of a limit", entry.key));
            continue;
        }
        let limit = match &entry.value.value {
            Value::Map(_) => {
                let Some(mut fields) = Fields::of(cx, &entry.value, "a limit") else { continue };
                let soft = fields.option(cx, "soft", Cx::integer);
                let hard = fields.option(cx, "hard", Cx::integer);
                fields.finish(cx, &[]);
                let (Some(soft), Some(hard)) = (soft, hard) else {
                    cx.bad(&entry.value, format!("`{}` needs both `soft` and `hard`", entry.key));
                    continue;
                };
                Ulimit { soft, hard, single: false }
            }
            _ => match cx.integer(&entry.value) {
                Some(value) => Ulimit { soft: value, hard: value, single: true },
                None => continue,
            },
        };
        let unlimited = |value: i64| value == -1;
        if limit.soft < -1
            || limit.hard < -1
            || (!unlimited(limit.hard) && (unlimited(limit.soft) || limit.soft > limit.hard))
        {
            cx.bad(
                &entry.value,
                format!("`{}`: the soft limit is above the hard limit, or one is negative", entry.key),
            );
            continue;
        }
        out.insert(entry.key.clone(), limit);
    }
    Some(out)
}

pub(super) fn devices(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Vec<DeviceMapping>> {
    let mut out = Keyed::new();
    for item in cx.items(node) {
        if let Some(device) = device(cx, item) {
            out.put(device.target.clone(), device);
        }
    }
    Some(out.into_items())
}

fn device(cx: &mut Cx<'_, '_>, item: &Node) -> Option<DeviceMapping> {
    let device = if let Value::Str(text) = &item.value {
        let parts: Vec<&str> = text.split(':').collect();
        let (source, target, permissions) = match parts.as_slice() {
            // A CDI name is `vendor.com/class=name`.
            [source] => (*source, *source, "rwm"),
            [source, target] if target.starts_with('/') => (*source, *target, "rwm"),
            [source, permissions] => (*source, *source, *permissions),
            [source, target, permissions] => (*source, *target, *permissions),
            _ => {
                cx.bad(item, format!("`{text}` is not SOURCE[:TARGET[:PERMISSIONS]]"));
                return None;
            }
        };
        DeviceMapping { source: source.to_owned(), target: target.to_owned(), permissions: permissions.to_owned() }
    } else {
        let mut fields = Fields::of(cx, item, "a device")?;
        let mut device = DeviceMapping {
            source: fields.get(cx, "source", Cx::string),
            target: fields.get(cx, "target", Cx::string),
            permissions: fields.get(cx, "permissions", Cx::string),
        };
        fields.finish(cx, &[]);
        if device.target.is_empty() {
            device.target.clone_from(&device.source);
        }
        device
    };
    if device.source.is_empty() {
        cx.bad(item, "a device needs a source");
        return None;
    }
    if !device.permissions.chars().all(|c| "rwm".contains(c)) {
        cx.bad(item, format!("`{}` are not permissions; they are of r, w and m", device.permissions));
        return None;
    }
    Some(device)
}

pub(super) fn container_name(cx: &mut Cx<'_, '_>, node: &Node) -> Option<String> {
    let name = cx.string(node)?;
    let valid = name.len() > 1
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    if !valid && !name.is_empty() {
        cx.bad(
            node,
            format!("`{name}` is not a name for a container; use two or more of letters, digits, `_`, `.`, `-`"),
        );
        return None;
    }
    Some(name)
}

pub(super) fn profiles(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Vec<String>> {
    let list = cx.strings(node)?;
    for name in &list {
        let valid = name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
        if !valid {
            cx.bad(node, format!("`{name}` is not a name for a profile"));
        }
    }
    Some(list)
}

pub(super) fn restart(cx: &mut Cx<'_, '_>, node: &Node) -> Option<String> {
    // Unquoted `no` is a string in YAML 1.2, but `false` is what other tools make of it.
    if node.value == Value::Bool(false) {
        return Some("no".to_owned());
    }
    let text = cx.string(node)?;
    let count = text.strip_prefix("on-failure:");
    if count.is_some_and(|count| count.parse::<u32>().is_ok()) {
        return Some(text);
    }
    cx.word(node, &["no", "always", "on-failure", "unless-stopped"])
}

pub(super) fn healthcheck(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Healthcheck> {
    let mut fields = Fields::of(cx, node, "a health check")?;
    let mut check = Healthcheck {
        test: fields.get(cx, "test", health_test),
        timeout: fields.option(cx, "timeout", Cx::duration),
        interval: fields.option(cx, "interval", Cx::duration),
        retries: fields.option(cx, "retries", Cx::count),
        start_period: fields.option(cx, "start_period", Cx::duration),
        start_interval: fields.option(cx, "start_interval", Cx::duration),
        disable: fields.get(cx, "disable", Cx::boolean),
        ..Healthcheck::default()
    };
    check.extensions = fields.finish(cx, &[]);
    Some(check)
}

fn health_test(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Vec<String>> {
    if let Value::Str(line) = &node.value {
        return Some(vec!["CMD-SHELL".to_owned(), line.clone()]);
    }
    let test = cx.list(node, Cx::string)?;
    match (test.first().map(String::as_str), test.len()) {
        (None, _) | (Some("NONE"), 1) | (Some("CMD-SHELL"), 2) => Some(test),
        (Some("CMD"), length) if length > 1 => Some(test),
        (Some("CMD-SHELL"), length) if length > 2 => {
            cx.bad(node, "CMD-SHELL takes one line");
            None
        }
        (Some("CMD" | "CMD-SHELL"), _) => {
            cx.bad(node, "there is no command after the first item");
            None
        }
        (Some(other), _) => {
            cx.bad(node, format!("a list must start with CMD, CMD-SHELL or NONE, not `{other}`"));
            None
        }
    }
}

pub(super) fn logging(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Logging> {
    let mut fields = Fields::of(cx, node, "`logging`")?;
    let mut logging = Logging {
        driver: fields.get(cx, "driver", Cx::string),
        options: fields.get(cx, "options", Cx::options),
        ..Logging::default()
    };
    logging.extensions = fields.finish(cx, &[]);
    Some(logging)
}

pub(super) fn develop(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Develop> {
    let mut fields = Fields::of(cx, node, "`develop`")?;
    let watch = fields.get(cx, "watch", |cx, node| cx.list(node, watch_rule));
    let extensions = fields.finish(cx, &[]);
    Some(Develop { watch, extensions })
}

fn watch_rule(cx: &mut Cx<'_, '_>, node: &Node) -> Option<WatchRule> {
    let mut fields = Fields::of(cx, node, "a watch rule")?;
    let mut rule = WatchRule {
        path: fields.get(cx, "path", |cx, node| {
            let written = cx.string(node)?;
            Some(cx.session.path(node, &written))
        }),
        action: fields.get(cx, "action", |cx, node| {
            let words = ["sync", "rebuild", "restart", "sync+restart", "sync+exec"];
            Some(match cx.word(node, &words)?.as_str() {
                "rebuild" => WatchAction::Rebuild,
                "restart" => WatchAction::Restart,
                "sync+restart" => WatchAction::SyncRestart,
                "sync+exec" => WatchAction::SyncExec,
                _ => WatchAction::Sync,
            })
        }),
        target: fields.get(cx, "target", Cx::string),
        exec: fields.option(cx, "exec", exec),
        include: fields.get(cx, "include", Cx::one_or_more),
        ignore: fields.get(cx, "ignore", Cx::one_or_more),
        initial_sync: fields.get(cx, "initial_sync", Cx::boolean),
        ..WatchRule::default()
    };
    rule.extensions = fields.finish(cx, &[]);
    for (key, missing) in [("path", node.lacks("path")), ("action", node.lacks("action"))] {
        if missing {
            cx.session.error(node.at, format!("a watch rule needs `{key}`"));
        }
    }
    let syncs = matches!(rule.action, WatchAction::Sync | WatchAction::SyncRestart | WatchAction::SyncExec);
    if syncs && rule.target.is_empty() {
        cx.session.error(node.at, "a watch rule that syncs needs `target`");
    }
    if rule.action == WatchAction::SyncExec && rule.exec.as_ref().is_none_or(|exec| exec.command.is_empty()) {
        cx.session.error(node.at, "a watch rule with sync+exec needs `exec` with a `command`");
    }
    Some(rule)
}

/// A command for a running container.
pub(super) fn exec(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Exec> {
    let mut fields = Fields::of(cx, node, "`exec`")?;
    let mut exec = Exec {
        command: fields.get(cx, "command", command),
        user: fields.get(cx, "user", Cx::string),
        privileged: fields.get(cx, "privileged", Cx::boolean),
        working_dir: fields.get(cx, "working_dir", Cx::string),
        environment: fields.get(cx, "environment", Cx::optional_pairs),
        ..Exec::default()
    };
    exec.extensions = fields.finish(cx, &[]);
    Some(exec)
}
