//! `build`.

use std::collections::BTreeMap;

use super::fields::{Fields, unique};
use super::{Cx, mounts, networking, process, special};
use crate::model::{Build, build::is_elsewhere};
use crate::node::{Node, Value};

pub(super) fn build(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Build> {
    if let Value::Str(context) = &node.value {
        let context = context_path(cx, node, context);
        let dockerfile = if cx.session.without.normalization { "" } else { "Dockerfile" };
        return Some(Build { context, dockerfile: dockerfile.to_owned(), ..Build::default() });
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
    if !matches!(build.sbom.as_str(), "" | "false") {
        let at = node.entry("sbom").map_or(node.at, |entry| entry.at);
        let why = "a list of an image's software is made by a scanner that looks into it, and none is run here";
        cx.session.unsupported(at, format!("`sbom` is not supported: {why}"));
    }
    refuse(cx, node, &build);
    if !build.dockerfile.is_empty() && !build.dockerfile_inline.is_empty() {
        cx.bad(node, "`dockerfile` and `dockerfile_inline` exclude each other");
    }
    if build.context.is_empty() {
        build.context = cx.session.path(node, ".").to_string_lossy().into_owned();
    }
    if cx.session.without.normalization {
        return Some(build);
    }
    if build.dockerfile.is_empty() && build.dockerfile_inline.is_empty() {
        "Dockerfile".clone_into(&mut build.dockerfile);
    }
    Some(build)
}

/// Refuses what builds of stacks can't do, and says what does nothing in them.
fn refuse(cx: &mut Cx<'_, '_>, node: &Node, build: &Build) {
    let at = |key: &str| node.entry(key).map_or(node.at, |entry| entry.at);
    let mut refused: Vec<(&str, String)> = Vec::new();
    let allowed = |one: &String| matches!(one.split('=').next(), Some("device")) || one == "network.host";
    if build.privileged || !build.entitlements.iter().all(allowed) {
        let key = if build.privileged { "privileged" } else { "entitlements" };
        refused.push((key, "steps of a build have the rights of a container, no more".to_owned()));
    }
    for (name, context) in &build.additional_contexts {
        if context.starts_with("oci-layout://") {
            let why = "a directory, a git repository, `docker-image://NAME` or `service:NAME` is taken";
            refused.push(("additional_contexts", format!("{name} is {context}; {why}")));
        }
    }
    if let Some(agent) = build.ssh.iter().find(|agent| !agent.contains('=')) {
        let why = "the daemon does not know the agent of whoever runs a command";
        refused.push(("ssh", format!("give the path of the socket, as {agent}=/run/agent.sock: {why}")));
    }
    for (key, why) in refused {
        cx.session.unsupported(at(key), format!("`{key}` is not supported so: {why}"));
    }
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
    if is_elsewhere(written) {
        return written.to_owned();
    }
    cx.session.path(node, written).to_string_lossy().into_owned()
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
