//! `build`.

use std::collections::BTreeMap;

use super::fields::{Fields, unique};
use super::{Cx, mounts, networking, process, special};
use crate::model::{Build, build::is_remote_context};
use crate::node::{Node, Value};

pub(super) fn build(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Build> {
    if let Value::Str(context) = &node.value {
        let context = context_path(cx, node, context);
        return Some(Build { context, dockerfile: "Dockerfile".to_owned(), ..Build::default() });
    }
    let mut fields = Fields::of(cx, node, "`build`")?;
    let mut build = Build {
        context: fields.get(cx, "context", |cx, node| {
            let written = cx.string(node)?;
            Some(context_path(cx, node, &written))
        }),
        dockerfile: fields.get(cx, "dockerfile", Cx::string),
        dockerfile_inline: fields.get(cx, "dockerfile_inline", Cx::string),
        args: fields.get(cx, "args", args),
        ssh: fields.get(cx, "ssh", ssh),
        labels: fields.get(cx, "labels", Cx::pairs),
        cache_from: fields.get(cx, "cache_from", Cx::strings),
        cache_to: fields.get(cx, "cache_to", Cx::strings),
        no_cache: fields.get(cx, "no_cache", Cx::boolean),
        no_cache_filter: fields.get(cx, "no_cache_filter", Cx::one_or_more),
        additional_contexts: fields.get(cx, "additional_contexts", contexts),
        pull: fields.get(cx, "pull", Cx::boolean),
        extra_hosts: fields.get(cx, "extra_hosts", networking::extra_hosts),
        network: fields.get(cx, "network", Cx::string),
        target: fields.get(cx, "target", Cx::string),
        secrets: fields.get(cx, "secrets", mounts::build_secrets),
        shm_size: fields.option(cx, "shm_size", Cx::bytes),
        tags: fields.get(cx, "tags", Cx::strings),
        ulimits: fields.get(cx, "ulimits", process::ulimits),
        platforms: fields.get(cx, "platforms", Cx::strings),
        privileged: fields.get(cx, "privileged", Cx::boolean),
        entitlements: fields.get(cx, "entitlements", Cx::strings),
        isolation: fields.get(cx, "isolation", special::isolation),
        provenance: fields.get(cx, "provenance", scalar),
        sbom: fields.get(cx, "sbom", scalar),
        ..Build::default()
    };
    build.extensions = fields.finish(cx, &[]);
    for (key, given) in [("provenance", &build.provenance), ("sbom", &build.sbom)] {
        if !matches!(given.as_str(), "" | "false") {
            let at = node.entry(key).map_or(node.at, |entry| entry.at);
            cx.session.unsupported(at, format!("`{key}` is not supported: builds make no attestations yet"));
        }
    }
    if !build.dockerfile.is_empty() && !build.dockerfile_inline.is_empty() {
        cx.bad(node, "`dockerfile` and `dockerfile_inline` exclude each other");
    }
    if build.context.is_empty() {
        build.context = cx.session.resolve(node.at, ".").to_string_lossy().into_owned();
    }
    if build.dockerfile.is_empty() && build.dockerfile_inline.is_empty() {
        "Dockerfile".clone_into(&mut build.dockerfile);
    }
    Some(build)
}

/// A string or a boolean, as text.
fn scalar(cx: &mut Cx<'_, '_>, node: &Node) -> Option<String> {
    match &node.value {
        Value::Bool(value) => Some(value.to_string()),
        _ => cx.string(node),
    }
}

/// A directory made absolute; what names something elsewhere stays.
fn context_path(cx: &Cx<'_, '_>, node: &Node, written: &str) -> String {
    if is_remote_context(written) {
        return written.to_owned();
    }
    cx.session.resolve_node(node, written).to_string_lossy().into_owned()
}

/// Arguments; those without a value anywhere are left out, as the reference does.
fn args(cx: &mut Cx<'_, '_>, node: &Node) -> Option<BTreeMap<String, String>> {
    let args = cx.optional_pairs(node)?;
    Some(args.into_iter().filter_map(|(key, value)| Some((key, value?))).collect())
}

fn ssh(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Vec<String>> {
    if let Value::Str(one) = &node.value {
        return Some(vec![one.clone()]);
    }
    let keys = cx.optional_pairs(node)?;
    let list = keys.into_iter().map(|(id, path)| match path {
        Some(path) if !path.is_empty() => format!("{id}={path}"),
        _ => id,
    });
    Some(unique(list.collect()))
}

fn contexts(cx: &mut Cx<'_, '_>, node: &Node) -> Option<BTreeMap<String, String>> {
    let mut out = cx.pairs(node)?;
    // By entry: after a merge each may come from another file, with paths relative to that.
    let pairs = crate::merge::pairs(node.clone());
    for entry in pairs.entries() {
        if let Some(path) = out.get_mut(&entry.key) {
            *path = context_path(cx, &entry.value, path);
        }
    }
    Some(out)
}
