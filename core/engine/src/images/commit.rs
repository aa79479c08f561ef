//! `commit`: an image of what a container has changed.

use std::collections::BTreeSet;

use bollard_stubs::models::{ContainerConfig, IdResponse};
use sampan_image::{ChainId, ContainerDefaults, HistoryEntry, ImageConfig, ImageRef, Platform};

use super::changes::apply_changes;
use super::{CommitOptions, reference};
use crate::containers::CommitSource;
use crate::error::{Error, Result};
use crate::{Engine, blocking};

/// What of a container's configuration is its own and not an image's.
const OWN: [&str; 11] = [
    "Hostname",
    "Domainname",
    "AttachStdin",
    "AttachStdout",
    "AttachStderr",
    "Tty",
    "OpenStdin",
    "StdinOnce",
    "NetworkDisabled",
    "MacAddress",
    "Image",
];

impl Engine {
    /// Makes an image of a container's changes. A running container is frozen meanwhile when asked for.
    pub async fn commit(&self, options: CommitOptions) -> Result<IdResponse> {
        let name = options
            .repo
            .as_deref()
            .filter(|repo| !repo.is_empty())
            .map(|repo| reference(repo, options.tag.as_deref()))
            .transpose()?;
        let source = self.commit_source(&options.container)?;
        let frozen = options.pause && source.running;
        if frozen {
            self.pause(&source.id).await?;
        }
        let made = self.commit_changes(&source, &options, name.clone()).await;
        if frozen {
            self.unpause(&source.id).await?;
        }
        let id = made?;
        self.inner.images.flush_soon();
        self.inner.images.event("commit", &id, name.as_ref().map(ImageRef::familiar));
        Ok(IdResponse { id })
    }

    async fn commit_changes(
        &self,
        source: &CommitSource,
        options: &CommitOptions,
        name: Option<ImageRef>,
    ) -> Result<String> {
        let images = &self.inner.images;
        let parents = source
            .chain
            .iter()
            .map(|chain| ChainId::parse(chain).map_err(|error| Error::internal(format!("chain id {chain}: {error}"))))
            .collect::<Result<Vec<_>>>()?;
        let (layers, id, chain) = (self.inner.layers.clone(), source.id.clone(), source.chain.clone());
        let view = blocking(move || layers.changes(&id, &chain)).await?;
        let base = if source.image.is_empty() { None } else { Some(images.resolve(&source.image)?) };
        let mut config = base.as_ref().map_or_else(scratch, |base| base.config.clone());
        config.config = defaults(&source.config)?;
        if let Some(given) = &options.config {
            config.config = filled(defaults(given)?, config.config);
        }
        apply_changes(&mut config, &options.changes)?;
        let now = sampan_image::timestamp::format(sampan_image::timestamp::now());
        config.created = Some(now.clone());
        config.author.clone_from(&options.author);
        config.comment.clone_from(&options.comment);
        config.history.push(HistoryEntry {
            created: Some(now),
            created_by: source.config.cmd.as_ref().map(|words| words.join(" ")),
            author: options.author.clone(),
            comment: options.comment.clone(),
            empty_layer: false,
        });
        let below = base.as_ref().map(|base| base.layers.clone()).unwrap_or_default();
        let parent = base.as_ref().map(|base| base.id);
        let image = images
            .blocking(move |store| {
                let mut layers = below;
                layers.push(store.commit_layer(&view, &parents)?);
                let names: Vec<_> = name.into_iter().collect();
                Ok(store.create_image(config, layers, parent, &names)?)
            })
            .await?;
        Ok(image.id.to_string())
    }
}

/// A configuration that came with the request; what it does not say is the container's.
fn filled(mut given: ContainerDefaults, own: ContainerDefaults) -> ContainerDefaults {
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let set: BTreeSet<String> = given.env.iter().map(|entry| name(entry)).collect();
    let mut env: Vec<String> = own.env.into_iter().filter(|entry| !set.contains(&name(entry))).collect();
    env.append(&mut given.env);
    let none = |words: &Option<Vec<String>>| words.as_ref().is_none_or(Vec::is_empty);
    // A command of the container's was meant for its own entry point.
    if none(&given.entrypoint) {
        if none(&given.cmd) {
            given.cmd = own.cmd;
        }
        given.entrypoint = given.entrypoint.or(own.entrypoint);
    }
    let or = |given: String, own: String| if given.is_empty() { own } else { given };
    let mut labels = own.labels;
    labels.append(&mut given.labels);
    ContainerDefaults {
        user: or(given.user, own.user),
        working_dir: or(given.working_dir, own.working_dir),
        exposed_ports: given.exposed_ports.into_iter().chain(own.exposed_ports).collect(),
        volumes: given.volumes.into_iter().chain(own.volumes).collect(),
        env,
        labels,
        stop_signal: given.stop_signal.or(own.stop_signal),
        stop_timeout: given.stop_timeout.or(own.stop_timeout),
        healthcheck: given.healthcheck.or(own.healthcheck),
        shell: given.shell.or(own.shell),
        on_build: if given.on_build.is_empty() { own.on_build } else { given.on_build },
        ..given
    }
}

fn scratch() -> ImageConfig {
    let host = Platform::host();
    ImageConfig { architecture: host.architecture, os: host.os, ..ImageConfig::default() }
}

/// The image's part of a container's configuration: both have the same names in their documents.
fn defaults(config: &ContainerConfig) -> Result<ContainerDefaults> {
    let wrong = |error: serde_json::Error| Error::invalid(format!("the configuration to commit: {error}"));
    let mut document = serde_json::to_value(config).map_err(wrong)?;
    if let Some(map) = document.as_object_mut() {
        map.retain(|key, value| !OWN.contains(&key.as_str()) && !value.is_null());
    }
    serde_json::from_value(document).map_err(wrong)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_a_request_does_not_say_is_the_containers() {
        let own: ContainerDefaults = serde_json::from_value(serde_json::json!({
            "Env": ["A=1", "B=2"], "Cmd": ["x"], "Labels": { "a": "1", "b": "2" }, "User": "me", "Volumes": { "/v": {} },
        }))
        .unwrap();
        let given = |value: serde_json::Value| -> ContainerDefaults { serde_json::from_value(value).unwrap() };
        let read = |found: &ContainerDefaults| serde_json::to_value(found).unwrap();
        assert_eq!(read(&filled(given(serde_json::json!({})), own.clone())), read(&own));
        let asked =
            serde_json::json!({ "Env": ["B=3"], "Labels": { "b": "3" }, "Entrypoint": ["e"], "WorkingDir": "/w" });
        let wanted = serde_json::json!({
            "Env": ["A=1", "B=3"], "Entrypoint": ["e"], "Labels": { "a": "1", "b": "3" }, "User": "me",
            "WorkingDir": "/w", "Volumes": { "/v": {} },
        });
        assert_eq!(read(&filled(given(asked), own)), wanted);
    }
}
