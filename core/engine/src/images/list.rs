//! Looking at images: `images`, `image inspect`, `history`, `tag`.

use std::collections::{BTreeSet, HashMap};

use bollard_stubs::models::{
    DriverData, HealthConfig, HistoryResponseItem, ImageConfig, ImageInspect, ImageInspectMetadata, ImageInspectRootFs,
    ImageSummary,
};
use sampan_build::pattern::Pattern;
use sampan_image::{ContainerDefaults, Digest, ImageRecord, ImageRef, timestamp};

use super::{Images, reference};
use crate::Engine;
use crate::error::{Error, Result};
use crate::filters::Filters;

const SECOND: i64 = 1_000_000_000;

/// What is known of an image's place among the others.
pub(super) struct Place {
    pub names: Vec<ImageRef>,
    pub children: usize,
    /// It is one of an index, by which others have the name.
    pub is_listed: bool,
}

impl Place {
    /// Without a name that people use, and no step of another image.
    pub fn is_dangling(&self) -> bool {
        self.children == 0 && !self.is_part() && !self.names.iter().any(|name| name.tag().is_some())
    }

    /// A step of another image only.
    fn is_intermediate(&self) -> bool {
        self.children > 0 && self.names.is_empty()
    }

    /// An image of an index that a name leads to only when its platform is asked for.
    pub fn is_part(&self) -> bool {
        self.is_listed && self.names.is_empty()
    }
}

impl Engine {
    /// `images`; with `manifests` what each consists of, too.
    pub async fn list_images(&self, all: bool, filters: Filters, manifests: bool) -> Result<Vec<ImageSummary>> {
        filters.only(&["before", "dangling", "label", "label!", "reference", "since", "until"])?;
        let mut found = self.filter_images(&filters)?;
        found.retain(|(_, place)| !place.is_part() && (all || !place.is_intermediate()));
        let dangling = filters.truth("dangling")?;
        found.retain(|(_, place)| dangling.is_none_or(|wanted| place.is_dangling() == wanted));
        found.sort_by(|(a, _), (b, _)| b.created_ns.cmp(&a.created_ns).then(a.id.cmp(&b.id)));
        let uses = self.inner.images.store().layer_uses();
        let mut containers: HashMap<String, Vec<String>> = HashMap::new();
        for container in self.inner.containers.all() {
            containers.entry(container.record().image.clone()).or_default().push(container.id.clone());
        }
        let images = &self.inner.images;
        let summary = |(image, place): (std::sync::Arc<ImageRecord>, Place)| {
            let (repo_tags, repo_digests) = split_names(&place.names);
            let manifests = manifests.then(|| images.manifests(&image, &place.names, &containers));
            let index = place.names.iter().find_map(|name| images.store().index_by_name(name));
            let shared = image.layers.iter().filter(|layer| uses.get(&layer.chain_id).is_some_and(|uses| *uses > 1));
            ImageSummary {
                id: image.id.to_string(),
                parent_id: image.parent.map(|parent| parent.to_string()).unwrap_or_default(),
                repo_tags,
                repo_digests,
                created: image.created_ns.div_euclid(SECOND),
                size: size(image.size),
                shared_size: size(shared.map(|layer| layer.size).sum()),
                labels: image.config.config.labels.clone().into_iter().collect(),
                containers: containers
                    .get(&image.id.to_string())
                    .map_or(0, |found| i64::try_from(found.len()).unwrap_or(i64::MAX)),
                descriptor: index.filter(|_| manifests.is_some()).map(|index| Images::descriptor(&index)),
                manifests,
            }
        };
        Ok(found.into_iter().map(summary).collect())
    }

    /// The images that pass every filter but `dangling`, with their names (those that pass, if names are filtered).
    pub(super) fn filter_images(&self, filters: &Filters) -> Result<Vec<(std::sync::Arc<ImageRecord>, Place)>> {
        let store = self.inner.images.store();
        let created = |name: &str| -> Result<i64> { Ok(store.resolve(name)?.created_ns) };
        let before = filters.values("before").map(created).collect::<Result<Vec<_>>>()?.into_iter().min();
        let since = filters.values("since").map(created).collect::<Result<Vec<_>>>()?.into_iter().max();
        let until = filters.values("until").map(until).collect::<Result<Vec<_>>>()?.into_iter().min();
        let patterns = filters.values("reference").map(reference_pattern).collect::<Result<Vec<_>>>()?;
        let list = store.list();
        let mut children: HashMap<Digest, usize> = HashMap::new();
        for (image, _) in &list {
            if let Some(parent) = image.parent {
                *children.entry(parent).or_default() += 1;
            }
        }
        let listed = store.index_images();
        let mut found = Vec::new();
        for (image, mut names) in list {
            let labels: HashMap<String, String> = image.config.config.labels.clone().into_iter().collect();
            let passes = before.is_none_or(|time| image.created_ns < time)
                && since.is_none_or(|time| image.created_ns > time)
                && until.is_none_or(|time| image.created_ns < time)
                && filters.labels(&labels);
            let is_listed = listed.contains(&image.id) && names.is_empty();
            if !patterns.is_empty() {
                names.retain(|name| patterns.iter().any(|pattern| matches_reference(pattern, name)));
            }
            if passes && (patterns.is_empty() || !names.is_empty()) {
                let children = children.get(&image.id).copied().unwrap_or(0);
                found.push((image, Place { names, children, is_listed }));
            }
        }
        Ok(found)
    }

    /// By name, id, or the beginning of an id.
    pub async fn inspect_image(&self, name: &str) -> Result<ImageInspect> {
        self.inspect_image_for(name, None).await
    }

    /// As [`Self::inspect_image`], and what the index consists of that the name leads to.
    pub async fn inspect_image_tree(&self, name: &str) -> Result<ImageInspect> {
        let images = &self.inner.images;
        let image = images.resolve(name)?;
        let mut users: HashMap<String, Vec<String>> = HashMap::new();
        for container in self.inner.containers.all() {
            users.entry(container.record().image.clone()).or_default().push(container.id.clone());
        }
        let found = self.inspect_image(name).await?;
        let manifests = images.manifests(&image, &images.store().names(&image.id), &users);
        let descriptor = images.store().index(name).map(|index| Images::descriptor(&index));
        Ok(ImageInspect { manifests: Some(manifests), descriptor, ..found })
    }

    /// As [`Self::inspect_image`], of no other platform than the one that is asked for, if any.
    pub async fn inspect_image_for(&self, name: &str, platform: Option<&str>) -> Result<ImageInspect> {
        let images = &self.inner.images;
        let image = images.resolve_for(name, platform)?;
        let mut names = images.store().names(&image.id);
        if names.is_empty()
            && let Some(index) = images.store().index(name)
        {
            // The names of the index, by which its other images are known.
            let all = images.store().indexes().into_iter().find(|(known, _)| known.digest == index.digest);
            names = all.map(|(_, names)| names).unwrap_or_default();
        }
        let (repo_tags, repo_digests) = split_names(&names);
        let config = &image.config;
        Ok(ImageInspect {
            id: Some(image.id.to_string()),
            repo_tags: Some(repo_tags),
            repo_digests: Some(repo_digests),
            comment: Some(
                config.comment.clone().unwrap_or_else(|| {
                    config.history.last().and_then(|entry| entry.comment.clone()).unwrap_or_default()
                }),
            ),
            created: config.created.clone(),
            author: Some(config.author.clone().unwrap_or_default()),
            config: Some(config_model(&config.config)),
            architecture: Some(config.architecture.clone()),
            variant: config.variant.clone(),
            os: Some(config.os.clone()),
            os_version: config.extra.get("os.version").and_then(|value| value.as_str()).map(str::to_owned),
            size: Some(size(image.size)),
            graph_driver: Some(DriverData { name: self.inner.layers.driver().to_owned(), data: HashMap::new() }),
            root_fs: Some(ImageInspectRootFs {
                typ: "layers".to_owned(),
                layers: Some(image.layers.iter().map(|layer| layer.diff_id.to_string()).collect()),
            }),
            metadata: Some(ImageInspectMetadata { last_tag_time: Some(timestamp::format(image.tagged_ns)) }),
            ..ImageInspect::default()
        })
    }

    /// The newest step first.
    pub async fn image_history(&self, name: &str, platform: Option<&str>) -> Result<Vec<HistoryResponseItem>> {
        let images = &self.inner.images;
        let image = images.resolve_for(name, platform)?;
        let (tags, _) = split_names(&images.store().names(&image.id));
        let steps = images.store().history(&image);
        let item = |(at, (entry, layer)): (usize, (sampan_image::HistoryEntry, Option<sampan_image::LayerRef>))| {
            let created = entry.created.as_deref().and_then(timestamp::parse).unwrap_or(0);
            HistoryResponseItem {
                id: if at == 0 { image.id.to_string() } else { "<missing>".to_owned() },
                created: created.div_euclid(SECOND),
                created_by: entry.created_by.unwrap_or_default(),
                tags: if at == 0 { tags.clone() } else { Vec::new() },
                size: layer.map_or(0, |layer| size(layer.size)),
                comment: entry.comment.unwrap_or_default(),
            }
        };
        Ok(steps.into_iter().enumerate().map(item).collect())
    }

    /// Gives an image another name.
    pub async fn tag_image(&self, name: &str, repo: &str, tag: Option<&str>) -> Result<()> {
        let images = &self.inner.images;
        let (id, source) = (images.resolve(name)?.id, name.to_owned());
        let name = reference(repo, tag)?;
        if name.digest().is_some() {
            return Err(Error::invalid("refusing to create a tag with a digest reference"));
        }
        let familiar = name.familiar();
        images.blocking(move |store| Ok(store.tag_as(&source, &name)?)).await?;
        images.event("tag", &id.to_string(), Some(familiar));
        Ok(())
    }
}

pub(super) fn size(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Names with tags, and those with digests.
fn split_names(names: &[ImageRef]) -> (Vec<String>, Vec<String>) {
    let (digests, tags): (Vec<_>, Vec<_>) = names.iter().partition(|name| name.digest().is_some());
    let shown = |names: Vec<&ImageRef>| names.into_iter().map(ImageRef::familiar).collect::<Vec<_>>();
    (shown(tags), shown(digests))
}

fn reference_pattern(text: &str) -> Result<Pattern> {
    Pattern::go(text).map_err(|error| Error::invalid(format!("invalid filter 'reference={text}': {error}")))
}

/// As Docker matches: the whole familiar name, or its repository alone.
fn matches_reference(pattern: &Pattern, name: &ImageRef) -> bool {
    pattern.matches(&name.familiar()) || pattern.matches(&name.familiar_name())
}

/// A time in nanoseconds: RFC 3339, seconds since 1970, or how long ago.
pub(super) fn until(text: &str) -> Result<i64> {
    if let Some(time) = timestamp::parse(text) {
        return Ok(time);
    }
    if let Ok(seconds) = text.parse::<f64>() {
        #[allow(clippy::cast_possible_truncation)] // saturates, and a filter needs no more than that
        return Ok((seconds * 1e9) as i64);
    }
    match sampan_build::parser::duration(text) {
        Some(ago) => Ok(timestamp::now().saturating_sub(i64::try_from(ago.as_nanos()).unwrap_or(i64::MAX))),
        None => Err(Error::invalid(format!("invalid filter 'until={text}': expected a time or a duration"))),
    }
}

/// An image's defaults in Docker's model.
pub(super) fn config_model(defaults: &ContainerDefaults) -> ImageConfig {
    // As with Docker, what is zero is not said.
    let said = |number: i64| (number != 0).then_some(number);
    let set = |set: &BTreeSet<String>| (!set.is_empty()).then(|| set.iter().cloned().collect::<Vec<_>>());
    ImageConfig {
        user: Some(defaults.user.clone()),
        exposed_ports: set(&defaults.exposed_ports),
        env: Some(defaults.env.clone()),
        cmd: defaults.cmd.clone(),
        healthcheck: defaults.healthcheck.as_ref().map(|check| HealthConfig {
            test: Some(check.test.clone()),
            interval: said(check.interval),
            timeout: said(check.timeout),
            retries: said(check.retries),
            start_period: said(check.start_period),
            start_interval: said(check.start_interval),
        }),
        args_escaped: defaults.args_escaped.then_some(true),
        volumes: set(&defaults.volumes),
        working_dir: Some(defaults.working_dir.clone()),
        entrypoint: defaults.entrypoint.clone(),
        on_build: (!defaults.on_build.is_empty()).then(|| defaults.on_build.clone()),
        labels: Some(defaults.labels.clone().into_iter().collect()),
        stop_signal: defaults.stop_signal.clone(),
        shell: defaults.shell.clone(),
    }
}
