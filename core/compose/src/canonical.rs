//! Long forms in a tree whose variables are not replaced, as far as they need no value: what `config --no-interpolate`
//! prints.

use std::collections::HashMap;
use std::path::Path;

use crate::merge::{self, keys};
use crate::model::Port;
use crate::model::build::is_elsewhere;
use crate::node::{At, Entry, Node, Value};
use crate::session::Session;

/// Lists in which each text stands once.
const SETS: &[&str] =
    &["cap_add", "cap_drop", "dns", "dns_opt", "dns_search", "expose", "label_file", "links", "profiles", "tmpfs"];

/// Writes out the short forms of a whole project. `normalize`: also what the files leave unsaid.
pub(crate) fn canonical(session: &Session<'_>, name: &str, root: &mut Node, normalize: bool) {
    for entry in each(root, "services") {
        service(session, &mut entry.value);
        if normalize {
            complete(session, &mut entry.value);
        }
    }
    for section in ["networks", "volumes", "secrets", "configs"] {
        for entry in each(root, section) {
            resource(session, section, &mut entry.value);
        }
    }
    if let Some(entries) = root.entries_mut() {
        entries.retain(|entry| entry.key != "version" && (entry.key != "name" || !normalize));
    }
    if normalize {
        names(name, root);
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

/// As [`change`] for each item of a list; one thing that is no list counts as a list of it.
fn change_items(node: &mut Node, key: &str, act: impl FnMut(Node) -> Node) {
    change(node, key, |list| {
        let at = list.at;
        let items = match list.value {
            Value::Seq(items) => items,
            Value::Null => return list,
            _ => vec![list],
        };
        Node::new(at, Value::Seq(items.into_iter().map(act).collect()))
    });
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

fn text(value: &str) -> Value {
    Value::Str(value.to_owned())
}

fn map(at: At, entries: Vec<(&str, Value)>) -> Node {
    let entry = |(key, value): (&str, Value)| Entry { key: key.to_owned(), at, value: Node::new(at, value) };
    Node::new(at, Value::Map(entries.into_iter().map(entry).collect()))
}

/// A path held by a node, resolved.
fn path(session: &Session<'_>, node: Node) -> Node {
    match node.as_str() {
        Some(written) => {
            let found = session.path(&node, written).to_string_lossy().into_owned();
            Node { value: Value::Str(found), ..node }
        }
        None => node,
    }
}

fn service(session: &Session<'_>, service: &mut Node) {
    change(service, "build", |node| build(session, node));
    change_items(service, "dns", |item| item);
    change_items(service, "env_file", |item| env_file(session, item));
    change_items(service, "label_file", |item| path(session, item));
    change(service, "depends_on", dependencies);
    change(service, "networks", |node| keys(node, false));
    change(service, "models", |node| keys(node, false));
    change(service, "gpus", |node| devices(merge::gpus(node)));
    change(service, "deploy", |mut deploy| {
        change(&mut deploy, "resources", |mut resources| {
            change(&mut resources, "reservations", |mut reservations| {
                change(&mut reservations, "devices", devices);
                reservations
            });
            resources
        });
        deploy
    });
    change(service, "ports", ports);
    change_items(service, "volumes", |item| volume(session, item));
    change_items(service, "devices", device);
    for (key, folder) in [("secrets", "/run/secrets/"), ("configs", "")] {
        change_items(service, key, |item| file_reference(item, folder));
    }
    change(service, "develop", |mut develop| {
        change_items(&mut develop, "watch", |mut rule| {
            change(&mut rule, "path", |node| path(session, node));
            change(&mut rule, "ignore", merge::list);
            change(&mut rule, "include", merge::list);
            rule
        });
        develop
    });
    for key in SETS {
        change(service, key, |node| unique(node, Node::scalar_text));
    }
    for key in ["volumes", "devices", "secrets", "configs"] {
        change(service, key, |node| {
            unique(node, |item| item.get("target").or(item.get("source")).and_then(Node::scalar_text))
        });
    }
    change(service, "env_file", |node| unique(node, |item| item.get("path").and_then(Node::scalar_text)));
}

/// A list in which each key stands once; the last item of a key takes the place of the first.
fn unique(node: Node, key: impl Fn(&Node) -> Option<String>) -> Node {
    let Value::Seq(items) = node.value else { return node };
    let mut kept: Vec<Node> = Vec::new();
    let mut index: HashMap<String, usize> = HashMap::new();
    for item in items {
        let slot = key(&item).map(|key| *index.entry(key).or_insert(kept.len()));
        match slot.and_then(|slot| kept.get_mut(slot)) {
            Some(known) => *known = item,
            None => kept.push(item),
        }
    }
    Node { value: Value::Seq(kept), ..node }
}

fn dependencies(node: Node) -> Node {
    let mut node = keys(node, true);
    let all = node.entries_mut().into_iter().flatten();
    all.for_each(|entry| add(&mut entry.value, "required", Value::Bool(true)));
    node
}

/// Requests for devices: for all of them, unless one says how many or which.
fn devices(node: Node) -> Node {
    let Value::Seq(items) = node.value else { return node };
    let mut kept: Vec<Node> = Vec::new();
    for mut item in items {
        if item.lacks("device_ids") && matches!(item.value, Value::Map(_)) {
            add(&mut item, "count", text("all"));
        }
        if !kept.contains(&item) {
            kept.push(item);
        }
    }
    Node { value: Value::Seq(kept), ..node }
}

fn env_file(session: &Session<'_>, item: Node) -> Node {
    let at = item.at;
    let mut item = match item.value {
        Value::Str(written) => map(at, vec![("path", Value::Str(written))]),
        _ => item,
    };
    add(&mut item, "required", Value::Bool(true));
    change(&mut item, "path", |node| path(session, node));
    item
}

/// Ports in their long form where all of them can be read as they are.
fn ports(node: Node) -> Node {
    let Value::Seq(items) = &node.value else { return node };
    let is_long = |item: &Node| matches!(item.value, Value::Map(_));
    let long = |item: &Node| {
        let mut item = item.clone();
        add(&mut item, "mode", text("ingress"));
        add(&mut item, "protocol", text("tcp"));
        item
    };
    let read = |item: &Node| match item.scalar_text() {
        Some(text) => crate::decode::short_ports(&text).ok(),
        None => is_long(item).then(Vec::new),
    };
    let out = match items.iter().map(read).collect::<Option<Vec<Vec<Port>>>>() {
        Some(all) => items
            .iter()
            .zip(all)
            .flat_map(|(item, ports)| match is_long(item) {
                true => vec![long(item)],
                false => ports.into_iter().map(|port| port_map(item.at, port)).collect(),
            })
            .collect(),
        None => items.iter().map(|item| if is_long(item) { long(item) } else { item.clone() }).collect(),
    };
    unique(Node { value: Value::Seq(out), ..node }, |port| {
        port.scalar_text().or_else(|| {
            let part = |key, or: &str| port.get(key).and_then(Node::scalar_text).unwrap_or_else(|| or.to_owned());
            let (host, published) = (part("host_ip", "0.0.0.0"), part("published", ""));
            Some(format!("{host}:{published}:{}/{}", part("target", ""), part("protocol", "tcp")))
        })
    })
}

fn port_map(at: At, port: Port) -> Node {
    let mut entries = vec![
        ("mode", text("ingress")),
        ("protocol", Value::Str(port.protocol)),
        ("target", Value::Int(port.target.into())),
    ];
    entries.extend(port.published.map(|published| ("published", Value::Str(published.to_string()))));
    entries.extend((!port.host_ip.is_empty()).then_some(("host_ip", Value::Str(port.host_ip))));
    map(at, entries)
}

/// The parts of a short form; a colon inside of `${}` parts nothing.
fn parts(written: &str) -> Vec<&str> {
    let (mut depth, mut start, mut out) = (0_usize, 0, Vec::new());
    let mut before = ' ';
    for (index, c) in written.char_indices() {
        match c {
            '{' if before == '$' || depth > 0 => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ':' if depth == 0 => {
                out.extend(written.get(start..index));
                start = index + 1;
            }
            _ => {}
        }
        before = c;
    }
    out.extend(written.get(start..));
    out
}

fn volume(session: &Session<'_>, item: Node) -> Node {
    let at = item.at;
    let Some(written) = item.as_str() else {
        let mut item = item;
        if item.get("type").and_then(Node::as_str) == Some("bind") {
            change(&mut item, "source", |node| path(session, node));
        }
        return item;
    };
    let (source, target, options) = match parts(written)[..] {
        [target] => ("", target, ""),
        [source, target] => (source, target, ""),
        [source, target, options] => (source, target, options),
        _ => return item,
    };
    let bind = source.starts_with(['.', '/', '~']);
    let mut extra = if bind { vec![("create_host_path", Value::Bool(true))] } else { Vec::new() };
    let (mut selinux, mut read_only) = (None, None);
    for option in options.split(',') {
        match option {
            "ro" => read_only = Some(true),
            "z" | "Z" => selinux = Some(("selinux", text(option))),
            "nocopy" => extra.push(("nocopy", Value::Bool(true))),
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" => {
                extra.push(("propagation", text(option)));
            }
            _ => {}
        }
    }
    let kind = if bind { "bind" } else { "volume" };
    let mut entries = vec![("type", text(kind)), ("target", text(target))];
    if bind {
        entries.push(("source", path(session, Node::string(at, source)).value));
        extra.extend(selinux);
    } else {
        entries.extend((!source.is_empty()).then(|| ("source", text(source))));
        let label = |label| map(at, vec![("create_host_path", Value::Bool(true)), label]).value;
        entries.extend(selinux.map(|selinux| ("bind", label(selinux))));
    }
    entries.push((kind, map(at, extra).value));
    entries.extend(read_only.map(|yes| ("read_only", Value::Bool(yes))));
    map(at, entries)
}

fn device(item: Node) -> Node {
    let Some(written) = item.as_str() else { return item };
    let (source, target, permissions) = match parts(written)[..] {
        [source] => (source, source, "rwm"),
        [source, target] if target.starts_with('/') || target.contains('$') => (source, target, "rwm"),
        [source, permissions] => (source, source, permissions),
        [source, target, permissions] => (source, target, permissions),
        _ => return item,
    };
    map(item.at, vec![("source", text(source)), ("target", text(target)), ("permissions", text(permissions))])
}

/// A config or secret with its default place in a folder.
fn file_reference(item: Node, folder: &str) -> Node {
    let mut item = match item.as_str() {
        Some(source) => map(item.at, vec![("source", text(source))]),
        None => item,
    };
    let source = item.get("source").and_then(Node::as_str).map(str::to_owned);
    if let Some(source) = source.filter(|_| !folder.is_empty()) {
        add(&mut item, "target", Value::Str(format!("{folder}{source}")));
    }
    item
}

fn build(session: &Session<'_>, node: Node) -> Node {
    let local = |node: Node| match node.as_str() {
        Some(written) if !is_elsewhere(written) => path(session, node),
        _ => node,
    };
    let mut node = merge::context(node);
    change(&mut node, "context", local);
    change(&mut node, "additional_contexts", |contexts| {
        let mut contexts = merge::pairs(contexts);
        let entries = contexts.entries_mut().into_iter().flatten();
        for entry in entries.filter(|entry| entry.value.as_str().is_some_and(|text| !text.contains("://"))) {
            let old = std::mem::replace(&mut entry.value, Node::new(entry.at, Value::Null));
            entry.value = if old.as_str().is_some_and(|text| text.starts_with("service:")) { old } else { local(old) };
        }
        contexts
    });
    change(&mut node, "ssh", |ssh| {
        let mut ssh = merge::pairs(ssh);
        for entry in ssh.entries_mut().into_iter().flatten() {
            let old = std::mem::replace(&mut entry.value, Node::new(entry.at, Value::Null));
            entry.value = path(session, old);
        }
        ssh
    });
    change_items(&mut node, "secrets", |item| file_reference(item, ""));
    for key in ["provenance", "sbom"] {
        change(&mut node, key, |node| match node.value {
            Value::Bool(value) => Node { value: Value::Str(value.to_string()), ..node },
            _ => node,
        });
    }
    node
}

/// What a service leaves unsaid.
fn complete(session: &Session<'_>, service: &mut Node) {
    change_items(service, "volumes", |mut volume| {
        change(&mut volume, "target", |node| match node.as_str() {
            Some(target) if target.starts_with('/') => {
                let target = crate::session::clean(Path::new(target)).to_string_lossy().into_owned();
                Node { value: Value::Str(target), ..node }
            }
            _ => node,
        });
        volume
    });
    change(service, "build", |mut build| {
        if build.lacks("context") {
            let here = path(session, Node::string(build.at, ".")).value;
            add(&mut build, "context", here);
        }
        if build.lacks("dockerfile_inline") {
            add(&mut build, "dockerfile", text("Dockerfile"));
        }
        // Those without a value are taken from where the build is run.
        change(&mut build, "args", |mut args| {
            match &mut args.value {
                Value::Map(entries) => entries.retain(|entry| !entry.value.is_null()),
                Value::Seq(items) => items.retain(|item| item.as_str().is_none_or(|item| item.contains('='))),
                _ => {}
            }
            args
        });
        build
    });
    if service.get("pull_policy").and_then(Node::as_str) == Some("if_not_present") {
        change(service, "pull_policy", |node| Node { value: text("missing"), ..node });
    }
    if service.lacks("network_mode") && service.lacks("networks") && service.lacks("provider") {
        let at = service.at;
        add(service, "networks", map(at, vec![("default", Value::Null)]).value);
    }
    let names = |key: &str| -> Vec<String> {
        let list = service.get(key).map_or(&[][..], |node| match &node.value {
            Value::Seq(items) => items,
            _ => &[],
        });
        list.iter().filter_map(Node::as_str).map(str::to_owned).collect()
    };
    let links = names("links");
    let mut implied: Vec<(String, bool)> =
        links.iter().map(|link| (link.split(':').next().unwrap_or(link).to_owned(), true)).collect();
    for key in ["network_mode", "ipc", "pid"] {
        let shared = service.get(key).and_then(Node::as_str).and_then(crate::normalize::shared);
        implied.extend(shared.map(|name| (name.to_owned(), true)));
    }
    for entry in names("volumes_from") {
        implied.extend(crate::normalize::volumes_source(&entry).map(|name| (name.to_owned(), false)));
    }
    if implied.is_empty() {
        return;
    }
    add(service, "depends_on", Value::Map(Vec::new()));
    change(service, "depends_on", |mut all| {
        let at = all.at;
        for (name, restart) in implied {
            let entries = vec![
                ("condition", text("service_started")),
                ("restart", Value::Bool(restart)),
                ("required", Value::Bool(true)),
            ];
            if all.entry(&name).is_none() {
                add(&mut all, &name, map(at, entries).value);
            }
        }
        all
    });
}

fn resource(session: &Session<'_>, section: &str, node: &mut Node) {
    if let Some(external) = node.get("external").filter(|external| matches!(external.value, Value::Map(_))) {
        let name = external.get("name").map(|name| name.value.clone());
        change(node, "external", |node| Node { value: Value::Bool(true), ..node });
        name.into_iter().for_each(|name| add(node, "name", name));
    }
    if matches!(section, "secrets" | "configs") {
        change(node, "file", |file| path(session, file));
    }
    if section == "volumes" && node.get("driver").and_then(Node::as_str) == Some("local") {
        change(node, "driver_opts", |mut options| {
            if options.get("o").and_then(Node::as_str) == Some("bind") {
                change(&mut options, "device", |device| path(session, device));
            }
            options
        });
    }
}

/// The project's name, the names that follow from it, and the default network.
fn names(name: &str, root: &mut Node) {
    let uses_default =
        |entry: &mut Entry| entry.value.get("networks").is_some_and(|networks| networks.entry("default").is_some());
    if each(root, "services").any(uses_default) {
        add(root, "networks", Value::Map(Vec::new()));
        change(root, "networks", |mut networks| {
            add(&mut networks, "default", Value::Map(Vec::new()));
            networks
        });
    }
    for section in ["networks", "volumes", "secrets", "configs"] {
        for entry in each(root, section) {
            let external = entry.value.get("external").and_then(Node::scalar_text).is_some_and(|text| text == "true");
            let full = if external { entry.key.clone() } else { format!("{name}_{}", entry.key) };
            add(&mut entry.value, "name", Value::Str(full));
        }
    }
    if let Some(entries) = root.entries_mut() {
        let name = Node::string(At::default(), name);
        entries.insert(0, Entry { key: "name".to_owned(), at: At::default(), value: name });
    }
}
