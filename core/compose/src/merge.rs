//! One definition laid over another, by Compose's rules.
//!
//! Lists are appended here; what makes an entry of `ports`, `volumes` and others unique is settled when they are
//! decoded, where the later one wins.

use std::collections::{HashMap, HashSet};

use crate::node::{Entry, MergeTag, Node, Value};
use crate::session::Session;

/// How two values of one key come together.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Mappings key by key, lists appended, scalars replaced.
    Plain,
    /// The later one alone.
    Replace,
    /// Mappings that may also be written as a list of `KEY=VALUE`.
    Pairs,
    /// Lists that may also be written as one string.
    List,
    /// `HOST: ADDRESS` or a list of `HOST=ADDRESS`, several per host.
    Hosts,
    /// Mappings that may also be a list of keys.
    Keys,
    /// As `Keys`; a bare key stands for the default condition.
    Dependencies,
    /// Lists that may also be the word for all.
    Gpus,
    /// Lists in which an entry takes the place of an earlier one of its key, by the forms that are decoded later.
    Keyed,
    /// A mapping or the text of its `context`.
    Build,
    /// Options of another driver are not kept.
    Logging,
    /// Pools with one subnet are merged.
    Pools,
}

fn rule(path: &[String]) -> Rule {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    match path.as_slice() {
        ["services", _, rest @ ..] => match rest {
            ["command" | "entrypoint"] | ["healthcheck", "test"] | ["ulimits", _] | ["build", "ulimits", _] => {
                Rule::Replace
            }
            ["environment" | "labels" | "annotations" | "sysctls"]
            | ["build", "args" | "labels" | "additional_contexts" | "ssh"]
            | ["deploy", "labels"] => Rule::Pairs,
            ["dns" | "dns_search" | "dns_opt" | "tmpfs" | "env_file" | "label_file"] => Rule::List,
            ["extra_hosts"] | ["build", "extra_hosts"] => Rule::Hosts,
            ["ports" | "volumes" | "devices" | "secrets" | "configs"] => Rule::Keyed,
            ["networks" | "models"] => Rule::Keys,
            ["gpus"] => Rule::Gpus,
            ["depends_on"] => Rule::Dependencies,
            ["build"] => Rule::Build,
            ["logging"] => Rule::Logging,
            _ => Rule::Plain,
        },
        ["networks" | "volumes" | "secrets" | "configs", _, "labels"] => Rule::Pairs,
        ["networks", _, "ipam", "config"] => Rule::Pools,
        _ => Rule::Plain,
    }
}

/// Lays `over` on `base`. `path` is where both are in the project. Tags stay in the result, for what it is laid on next.
pub(crate) fn merge(session: &mut Session<'_>, base: Node, over: Node, path: &mut Vec<String>) -> Node {
    if over.tag != MergeTag::Merge {
        return over;
    }
    if base.tag == MergeTag::Reset {
        return Node { tag: MergeTag::Override, ..over };
    }
    // A variable or label without a value is one that was given none.
    let pair = path.split_last().is_some_and(|(_, outer)| rule(outer) == Rule::Pairs);
    if over.is_null() && (pair || rule(path) == Rule::Replace) {
        return over;
    }
    if over.is_null() || base.is_null() {
        return if over.is_null() { base } else { over };
    }
    let tag = base.tag;
    let rule = rule(path);
    let (base, over) = match rule {
        Rule::Replace => return Node { tag, ..over },
        Rule::Plain | Rule::Keyed | Rule::Logging | Rule::Pools => (base, over),
        Rule::Pairs => (pairs(base), pairs(over)),
        Rule::List => (list(base), list(over)),
        Rule::Hosts => (hosts(base), hosts(over)),
        Rule::Keys => (keys(base, false), keys(over, false)),
        Rule::Dependencies => (keys(base, true), keys(over, true)),
        Rule::Gpus => (gpus(base), gpus(over)),
        Rule::Build => (context(base), context(over)),
    };
    let at = over.at;
    let value = match (base.value, over.value) {
        (Value::Map(base), Value::Map(over)) => {
            let base = if rule == Rule::Logging { same_driver(base, &over) } else { base };
            Value::Map(merge_maps(session, base, over, path))
        }
        (Value::Seq(base), Value::Seq(over)) if rule == Rule::Pools => {
            Value::Seq(merge_pools(session, base, over, path))
        }
        (Value::Seq(mut base), Value::Seq(over)) => {
            // What is there already is not said again; nobody writes longer lists by hand.
            let once = matches!(rule, Rule::Plain | Rule::Gpus) && base.len().saturating_add(over.len()) <= 1000;
            // One relative path means two places in files of two folders.
            let has_paths = path.ends_with(&["develop".to_owned(), "watch".to_owned()]);
            for item in over {
                let same =
                    |known: &Node| *known == item && (!has_paths || session.base(known.at) == session.base(item.at));
                if !once || item.has_tags() || !base.iter().any(same) {
                    base.push(item);
                }
            }
            Value::Seq(base)
        }
        (old, new) => {
            if old.is_collection() || new.is_collection() {
                let (old, new) = (Node::new(at, old), Node::new(at, new));
                let message = format!("`{}` was {} before and can't become {}", path.join("."), old.kind(), new.kind());
                session.error_help(at, message, "replace it whole with !override");
                // Decoding goes on with what it was, so that one mistake is said once.
                old.value
            } else {
                new
            }
        }
    };
    Node { at, tag, value }
}

fn merge_maps(session: &mut Session<'_>, mut base: Vec<Entry>, over: Vec<Entry>, path: &mut Vec<String>) -> Vec<Entry> {
    let index: HashMap<String, usize> =
        base.iter().enumerate().map(|(index, entry)| (entry.key.clone(), index)).collect();
    for entry in over {
        match index.get(&entry.key).and_then(|&index| base.get_mut(index)) {
            Some(slot) => {
                path.push(entry.key);
                let old = std::mem::replace(&mut slot.value, Node::new(entry.at, Value::Null));
                slot.value = merge(session, old, entry.value, path);
                slot.at = entry.at;
                path.pop();
            }
            None => base.push(entry),
        }
    }
    base
}

fn same_driver(mut base: Vec<Entry>, over: &[Entry]) -> Vec<Entry> {
    let driver = |entries: &[Entry]| {
        entries.iter().find(|entry| entry.key == "driver").and_then(|entry| entry.value.scalar_text())
    };
    if let (Some(old), Some(new)) = (driver(&base), driver(over))
        && old != new
    {
        base.retain(|entry| entry.key != "options");
    }
    base
}

fn merge_pools(session: &mut Session<'_>, mut base: Vec<Node>, over: Vec<Node>, path: &mut Vec<String>) -> Vec<Node> {
    for pool in over {
        let subnet = pool.get("subnet").and_then(Node::scalar_text);
        let found =
            base.iter_mut().find(|old| subnet.is_some() && old.get("subnet").and_then(Node::scalar_text) == subnet);
        match found {
            Some(slot) => {
                let old = std::mem::replace(slot, Node::new(pool.at, Value::Null));
                path.push("*".to_owned());
                *slot = merge(session, old, pool, path);
                path.pop();
            }
            None => base.push(pool),
        }
    }
    base
}

/// A list of `KEY=VALUE` as a mapping; a key alone has no value. The last one of a key counts.
pub(crate) fn pairs(node: Node) -> Node {
    let Value::Seq(items) = &node.value else { return node };
    let mut entries: Vec<Entry> = Vec::new();
    let mut index: HashMap<String, usize> = HashMap::new();
    for item in items {
        let Some(text) = item.scalar_text() else { return node };
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key.to_owned(), Node::string(item.at, value)),
            None => (text, Node::new(item.at, Value::Null)),
        };
        let entry = Entry { key: key.clone(), at: item.at, value };
        match index.get(&key).and_then(|&index| entries.get_mut(index)) {
            Some(slot) => *slot = entry,
            None => {
                index.insert(key, entries.len());
                entries.push(entry);
            }
        }
    }
    Node { value: Value::Map(entries), ..node }
}

/// One value as a list of it.
pub(crate) fn list(node: Node) -> Node {
    match node.value {
        Value::Seq(_) => node,
        _ => Node { at: node.at, tag: node.tag, value: Value::Seq(vec![Node { tag: MergeTag::Merge, ..node }]) },
    }
}

/// Host mappings as a list of `HOST=ADDRESS`.
pub(crate) fn hosts(node: Node) -> Node {
    let Value::Map(entries) = &node.value else { return node };
    let mut items = Vec::new();
    for entry in entries {
        let addresses = match &entry.value.value {
            Value::Seq(addresses) => addresses.iter().collect(),
            _ => vec![&entry.value],
        };
        for address in addresses {
            let Some(text) = address.scalar_text() else { return node };
            items.push(Node::string(address.at, format!("{}={text}", entry.key)));
        }
    }
    Node { value: Value::Seq(items), ..node }
}

/// A list of keys as a mapping; the reference's defaults of a dependency are written out.
pub(crate) fn keys(node: Node, dependencies: bool) -> Node {
    let Value::Seq(items) = &node.value else { return node };
    let mut entries: Vec<Entry> = Vec::new();
    let mut seen = HashSet::new();
    for item in items {
        let Some(key) = item.as_str() else { return node };
        if !seen.insert(key) {
            continue;
        }
        let value = match dependencies {
            false => Value::Null,
            true => Value::Map(vec![
                Entry { key: "condition".to_owned(), at: item.at, value: Node::string(item.at, "service_started") },
                Entry { key: "required".to_owned(), at: item.at, value: Node::new(item.at, Value::Bool(true)) },
            ]),
        };
        entries.push(Entry { key: key.to_owned(), at: item.at, value: Node::new(item.at, value) });
    }
    Node { value: Value::Map(entries), ..node }
}

/// `all` as a list of one request for all.
pub(crate) fn gpus(node: Node) -> Node {
    if node.as_str() != Some("all") {
        return node;
    }
    let at = node.at;
    let request = Value::Map(vec![Entry { key: "count".to_owned(), at, value: Node::string(at, "all") }]);
    Node { value: Value::Seq(vec![Node::new(at, request)]), ..node }
}

pub(crate) fn context(node: Node) -> Node {
    match node.value {
        Value::Str(_) => Node {
            at: node.at,
            tag: node.tag,
            value: Value::Map(vec![Entry {
                key: "context".to_owned(),
                at: node.at,
                value: Node { tag: MergeTag::Merge, ..node },
            }]),
        },
        _ => node,
    }
}

/// Takes away what is to be reset, and the tags.
pub(crate) fn settle(node: &mut Node) {
    node.tag = MergeTag::Merge;
    match &mut node.value {
        Value::Map(entries) => {
            entries.retain(|entry| entry.value.tag != MergeTag::Reset);
            entries.iter_mut().for_each(|entry| settle(&mut entry.value));
        }
        Value::Seq(items) => {
            items.retain(|item| item.tag != MergeTag::Reset);
            items.iter_mut().for_each(settle);
        }
        _ => {}
    }
}
