//! Language models, which Docker's model runner keeps: the plugin `docker-model` brings and configures them.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

use sampan_compose::Project;
use sampan_compose::model::Model;
use serde_json::{Map, Value, json};
use tokio::process::Command;

use super::messages::plain;
use super::program;
use crate::failure::{Failure, Outcome};
use crate::output::tell;

/// Runs the plugin; what it said.
async fn ask(plugin: &Path, words: &[&str]) -> Outcome<Vec<u8>> {
    let mut command = Command::new(plugin);
    command.args(words).stdin(Stdio::null()).kill_on_drop(true);
    let told = |why: &dyn std::fmt::Display| Failure::new(format!("docker-model {}: {why}", words.join(" ")));
    let output = command.output().await.map_err(|error| told(&error))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = plain(&String::from_utf8_lossy(&output.stderr));
    Err(told(&if said.is_empty() { output.status.to_string() } else { said }))
}

/// Brings and configures the models that active services use; what the daemon is told of each.
pub async fn bring(model: &Project, dry_run: bool) -> Outcome<Map<String, Value>> {
    let mut all = Map::new();
    let used: BTreeSet<&String> = model.services.values().flat_map(|service| service.models.keys()).collect();
    if used.is_empty() {
        return Ok(all);
    }
    let wanted = || used.iter().filter_map(|key| Some((*key, model.models.get(*key)?)));
    if dry_run {
        for (key, found) in wanted() {
            tell!(" Model {key}  bring {}", found.model);
            all.insert(key.clone(), json!({ "definition": found, "endpoint": "" }));
        }
        return Ok(all);
    }
    let Some(plugin) = program::plugin("model") else {
        let names = used.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
        return Err(Failure::new(format!(
            "`models` ({names}): language models need Docker's model runner, and its plugin docker-model is not installed: install the package docker-model-plugin, or give the services an endpoint under `environment`"
        )));
    };
    let there = available(&ask(&plugin, &["ls", "--json"]).await?)?;
    for (key, found) in wanted() {
        if !there.contains(&found.model) {
            tell!(" Model {key}  Pulling");
            ask(&plugin, &["pull", &found.model]).await?;
        }
        let words = configure(found);
        ask(&plugin, &words.iter().map(String::as_str).collect::<Vec<_>>()).await?;
        tell!(" Model {key}  Configured");
    }
    let status: Value = serde_json::from_slice(&ask(&plugin, &["status", "--json"]).await?)
        .map_err(|error| Failure::new(format!("docker-model status: {error}")))?;
    let Some(endpoint) = status["endpoint"].as_str().filter(|endpoint| !endpoint.contains('\0')) else {
        return Err(Failure::new("docker-model status: it does not say at which endpoint models are reached"));
    };
    for (key, found) in wanted() {
        all.insert(key.clone(), json!({ "definition": found, "endpoint": endpoint }));
    }
    Ok(all)
}

/// Tags of the models that are there.
fn available(list: &[u8]) -> Outcome<BTreeSet<String>> {
    let list: Value =
        serde_json::from_slice(list).map_err(|error| Failure::new(format!("docker-model ls: {error}")))?;
    let tags = list.as_array().into_iter().flatten().flat_map(|model| model["tags"].as_array().into_iter().flatten());
    Ok(tags.filter_map(Value::as_str).map(str::to_owned).collect())
}

/// `configure [--context-size N] MODEL [-- FLAG…]`
fn configure(model: &Model) -> Vec<String> {
    let mut words = vec!["configure".to_owned()];
    if let Some(size) = model.context_size.filter(|size| *size > 0) {
        words.extend(["--context-size".to_owned(), size.to_string()]);
    }
    words.push(model.model.clone());
    if !model.runtime_flags.is_empty() {
        words.push("--".to_owned());
        words.extend(model.runtime_flags.iter().cloned());
    }
    words
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn models_are_found_and_configured() {
        let there = available(br#"[{"id":"x","tags":["ai/small","ai/small:1"]},{"id":"y"}]"#).unwrap();
        assert_eq!(there.into_iter().collect::<Vec<_>>(), ["ai/small", "ai/small:1"]);
        let plain = Model { model: "ai/small".into(), ..Model::default() };
        assert_eq!(configure(&plain), ["configure", "ai/small"]);
        let full = Model { context_size: Some(1024), runtime_flags: vec!["--a".into(), "b".into()], ..plain };
        assert_eq!(configure(&full), ["configure", "--context-size", "1024", "ai/small", "--", "--a", "b"]);
    }
}
