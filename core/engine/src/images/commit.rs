//! `commit`: an image of what a container has changed.

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
        config.config = defaults(options.config.as_ref().unwrap_or(&source.config))?;
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
