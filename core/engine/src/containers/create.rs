//! `create`: from a request to a record; nothing of it is seen before all of it is there.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use bollard_stubs::models::{
    ContainerConfig, ContainerCreateBody, ContainerCreateResponse, EndpointSettings, HostConfig,
    HostConfigCgroupnsModeEnum, HostConfigLogConfig, ImageInspect, NetworkingConfig, RestartPolicyNameEnum,
};

use super::limits::Host;
use super::mounts::{self, Planned};
use super::record::{ContainerRecord, MountRecord, MountedImage, State};
use super::validate::{self, Sharing};
use super::{Container, Containers, merge, names};
use crate::error::{Error, Result};
use crate::events::now_ns;
use crate::images::Images;
use crate::{Engine, blocking, detached};

impl Engine {
    /// `create`.
    pub async fn create(
        &self,
        name: Option<&str>,
        body: ContainerCreateBody,
        platform: Option<&str>,
    ) -> Result<ContainerCreateResponse> {
        let image = body.image.clone().unwrap_or_default();
        if image.is_empty() {
            return Err(Error::invalid("no image is named to make the container from"));
        }
        let using = Arc::clone(&self.inner.image_use).read_owned().await;
        let image = match self.inspect_image_for(&image, platform).await {
            Ok(found) => found,
            // An image that does not say what it is for, or says it in other words, is judged by its own.
            Err(_) => self.inspect_image(&image).await?,
        };
        require_platform(&image, platform)?;
        let (containers, images) = (self.inner.containers.clone(), self.inner.images.clone());
        let name = name.map(str::to_owned);
        // A client that goes away does not leave half a container.
        detached(async move {
            let created = containers.create(name.as_deref(), body, &image, &images).await;
            drop(using);
            created
        })
        .await
    }
}

fn require_platform(image: &ImageInspect, platform: Option<&str>) -> Result<()> {
    let Some(wanted) = platform.filter(|platform| !platform.is_empty()) else { return Ok(()) };
    let os = image.os.as_deref().unwrap_or("linux");
    let architecture = image.architecture.as_deref().unwrap_or("");
    let mut parts = wanted.split('/');
    let agrees = match (parts.next(), parts.next()) {
        (Some(only), None) => only == os || only == architecture,
        (Some(wanted_os), Some(wanted_architecture)) => {
            wanted_os == os && normal(wanted_architecture) == normal(architecture)
        }
        (None, _) => true,
    };
    if agrees {
        return Ok(());
    }
    let name = image.repo_tags.as_ref().and_then(|tags| tags.first()).cloned().or(image.id.clone()).unwrap_or_default();
    Err(Error::not_found(format!(
        "image with reference {name} was found but its platform ({os}/{architecture}) does not match the specified platform ({wanted})"
    )))
}

fn normal(architecture: &str) -> &str {
    match architecture {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Chain ids of an image's layers, nearest first.
pub(super) fn chain(image: &ImageInspect) -> Vec<String> {
    let mut chain: Vec<String> = Vec::new();
    for diff in image.root_fs.iter().flat_map(|root| root.layers.iter().flatten()) {
        let id = match chain.last() {
            None => diff.clone(),
            Some(parent) => sampan_image::Digest::of(format!("{parent} {diff}").as_bytes()).to_string(),
        };
        chain.push(id);
    }
    chain.reverse();
    chain
}

/// Where the mounts of a container that is being made come from.
struct Surroundings<'a> {
    containers: &'a Containers,
    images: &'a Images,
}

impl mounts::Surroundings for Surroundings<'_> {
    fn container(&self, name: &str) -> Result<Arc<ContainerRecord>> {
        self.containers.find(name).map(|other| other.snapshot())
    }

    fn image(&self, name: &str) -> Result<MountedImage> {
        let image = self.images.resolve(name)?;
        let chain = image.layers.iter().rev().map(|layer| layer.chain_id.to_string()).collect();
        Ok(MountedImage { id: image.id.to_string(), chain })
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }
}

impl Containers {
    async fn create(
        &self,
        name: Option<&str>,
        body: ContainerCreateBody,
        image: &ImageInspect,
        images: &Images,
    ) -> Result<ContainerCreateResponse> {
        let (mut config, mut host, networking) = merge::split(body);
        if let Some(image) = &image.config {
            merge::with_image(&mut config, image);
        }
        let warnings = validate::check(&mut config, &mut host, &Host::measure(&self.shared().cgroups))?;
        let id = names::new_id()?;
        let name = match name.filter(|name| !name.is_empty()) {
            Some(name) => names::check(name)?.to_owned(),
            None => names::generate(names::random, |name| self.is_free(name)),
        };
        self.require_free(&name)?;
        self.check_log(&mut host).await?;
        self.share(&mut host)?;
        let networks = self.check_networks(&mut host, networking, config.network_disabled == Some(true)).await?;
        self.complete(&id, &mut config, &mut host);
        let planned = mounts::plan(&config, &host, &Surroundings { containers: self, images })?;
        let log = host.log_config.clone().unwrap_or_default();
        let record = ContainerRecord {
            id,
            name,
            created_ns: now_ns(),
            image: image.id.clone().unwrap_or_default(),
            chain: chain(image),
            config,
            host,
            networks,
            mounts: Vec::new(),
            log_driver: log.typ.unwrap_or_default(),
            log_options: log.config.unwrap_or_default(),
            state: State::default(),
            restart_count: 0,
            stopped_by_hand: false,
            lost: false,
            updated: false,
            creating: true,
        };
        let container = self.make(record, planned).await?;
        self.publish(&container, "create", []);
        Ok(ContainerCreateResponse { id: container.id.clone(), warnings })
    }

    /// Reserves the name, makes what belongs to the container, and shows it; or takes all of it back.
    async fn make(&self, record: ContainerRecord, planned: Vec<Planned>) -> Result<Arc<Container>> {
        self.reserve(&record)?;
        let made = async {
            let mut record = record.clone();
            record.mounts = self.ensure_volumes(&record.id, planned).await?;
            record.creating = false;
            let directory = self.shared().config.container_dir(&record.id);
            std::fs::create_dir_all(&directory)
                .map_err(|error| Error::internal(format!("create {}: {error}", directory.display())))?;
            self.show(record)
        }
        .await;
        if made.is_err() {
            self.take_back(&record).await;
        }
        made
    }

    /// Undoes a creation that did not come to its end, also one of an earlier daemon.
    pub(super) async fn take_back(&self, record: &ContainerRecord) {
        if let Err(error) = self.volumes().release(&record.id, true).await {
            tracing::warn!(container = %record.id, %error, "volumes of a container that was not made were not released");
        }
        let _ = std::fs::remove_dir_all(self.shared().config.container_dir(&record.id));
        if let Err(error) = self.unreserve(record) {
            tracing::warn!(container = %record.id, %error, "the name of a container that was not made was not released");
        }
    }

    async fn ensure_volumes(&self, id: &str, planned: Vec<Planned>) -> Result<Vec<MountRecord>> {
        let mut mounts = Vec::new();
        for Planned { mut record, options, labels } in planned {
            if record.kind == "volume" {
                let (name, driver) = (record.name.clone(), record.driver.clone());
                let name = self.volumes().ensure(name.as_deref(), driver.as_deref(), options, labels, id).await?;
                record.name = Some(name);
                record.driver = Some(driver.unwrap_or_else(|| "local".to_owned()));
            }
            mounts.push(record);
        }
        Ok(mounts)
    }

    /// Settles the log driver, and refuses one that is not there or options that it does not take.
    pub(super) async fn check_log(&self, host: &mut HostConfig) -> Result<()> {
        let defaults = &self.shared().config;
        let log = host.log_config.get_or_insert_with(HostConfigLogConfig::default);
        let driver = log.typ.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| defaults.log_driver.clone());
        let options = log.config.get_or_insert_default();
        if driver == defaults.log_driver {
            for (key, value) in &defaults.log_opts {
                options.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        log.typ = Some(driver.clone());
        let mut given: Vec<(String, String)> = options.clone().into_iter().collect();
        given.sort();
        let drivers = self.shared().drivers.clone();
        blocking(move || {
            let log = drivers.log(&driver).map_err(|error| {
                let error = Error::from(error);
                match error.kind {
                    crate::ErrorKind::NotFound => {
                        // Docker's words first, then which ones there are.
                        Error::invalid(format!("logger: no log driver named '{driver}' is registered: {error}"))
                    }
                    _ => error,
                }
            })?;
            log.check(&given).map_err(|error| Error::from(error).context("log options"))
        })
        .await
    }

    /// Writes ids in place of the names of containers whose namespaces are joined: names change.
    fn share(&self, host: &mut HostConfig) -> Result<()> {
        if let Sharing::Container(target) = validate::pid(host)? {
            host.pid_mode = Some(format!("container:{}", self.find(&target)?.id));
        }
        if let Sharing::Container(target) = validate::ipc(host)? {
            let target = self.find(&target)?;
            if !matches!(validate::ipc(&target.record().host)?, Sharing::Shareable) {
                return Err(Error::invalid(format!(
                    "can't join IPC of container {}: non-shareable IPC (start it with --ipc shareable)",
                    target.id
                )));
            }
            host.ipc_mode = Some(format!("container:{}", target.id));
        }
        if let Sharing::Container(target) = validate::network(host) {
            host.network_mode = Some(format!("container:{}", self.find(&target)?.id));
        }
        Ok(())
    }

    /// The networks to join, checked; the network mode's own is one of them.
    async fn check_networks(
        &self,
        host: &mut HostConfig,
        networking: NetworkingConfig,
        disabled: bool,
    ) -> Result<HashMap<String, EndpointSettings>> {
        let mode = match host.network_mode.as_deref() {
            _ if disabled => "none",
            None | Some("" | "default") => "bridge",
            Some(mode) => mode,
        }
        .to_owned();
        host.network_mode = Some(mode.clone());
        let mut wanted = networking.endpoints_config.unwrap_or_default();
        if matches!(validate::network(host), Sharing::Container(_)) {
            if !wanted.is_empty() {
                return Err(Error::invalid("conflicting options: networks and the container type network mode"));
            }
            return Ok(wanted);
        }
        if let Some(default) = wanted.remove("default") {
            wanted.entry("bridge".to_owned()).or_insert(default);
        }
        if !wanted.contains_key(&mode) {
            wanted.insert(mode.clone(), EndpointSettings::default());
        }
        if wanted.len() > 1 && (mode == "host" || mode == "none") {
            return Err(Error::invalid(format!("conflicting options: cannot attach both {mode} and other networks")));
        }
        for (network, settings) in &wanted {
            // Not found would be the image: clients answer that by a pull.
            self.networks().check(network, settings).await.map_err(|error| match error.kind {
                crate::ErrorKind::NotFound => Error::invalid(error.message),
                _ => error,
            })?;
        }
        Ok(wanted)
    }

    /// Fills in what Docker shows for what was not said.
    fn complete(&self, id: &str, config: &mut ContainerConfig, host: &mut HostConfig) {
        let uses_hosts_name = validate::network(host).is_host() || validate::uts(host).is_ok_and(|uts| uts.is_host());
        if config.hostname.as_ref().is_none_or(String::is_empty) {
            config.hostname = match validate::network(host) {
                Sharing::Container(_) => None,
                _ if uses_hosts_name => Some(host_name()),
                _ => Some(id[..12].to_owned()),
            };
        }
        let text = |value: &mut Option<String>, default: &str| {
            if value.as_ref().is_none_or(String::is_empty) {
                *value = Some(default.to_owned());
            }
        };
        text(&mut host.ipc_mode, "private");
        text(&mut host.runtime, "sampan");
        if host.cgroupns_mode.is_none_or(|mode| mode == HostConfigCgroupnsModeEnum::EMPTY) {
            host.cgroupns_mode = Some(HostConfigCgroupnsModeEnum::PRIVATE);
        }
        if host.shm_size.unwrap_or(0) == 0 {
            host.shm_size = Some(64 << 20);
        }
        let policy = host.restart_policy.get_or_insert_default();
        if policy.name.is_none_or(|name| name == RestartPolicyNameEnum::EMPTY) {
            policy.name = Some(RestartPolicyNameEnum::NO);
        }
        policy.maximum_retry_count.get_or_insert(0);
    }
}

/// The host's own name.
pub(super) fn host_name() -> String {
    nix::unistd::gethostname().map_or_else(|_| "localhost".to_owned(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bollard_stubs::models::ImageInspectRootFs;

    #[test]
    fn chains_name_each_layer_with_what_is_below() {
        let layer = |digit: &str| format!("sha256:{}", digit.repeat(64));
        let image = ImageInspect {
            root_fs: Some(ImageInspectRootFs { layers: Some(vec![layer("a"), layer("b")]), ..Default::default() }),
            ..ImageInspect::default()
        };
        let chain = chain(&image);
        assert_eq!(chain[1], layer("a"));
        // printf 'sha256:aa… sha256:bb…' | sha256sum
        assert_eq!(chain[0].len(), 71);
        assert_ne!(chain[0], layer("b"));
    }

    #[test]
    fn platforms_are_compared_by_their_usual_names() {
        let image = ImageInspect { os: Some("linux".into()), architecture: Some("amd64".into()), ..Default::default() };
        for good in ["", "linux", "linux/amd64", "linux/x86_64", "amd64"] {
            assert!(require_platform(&image, Some(good)).is_ok(), "{good}");
        }
        assert!(require_platform(&image, Some("linux/arm64")).unwrap_err().message.contains("linux/arm64"));
    }
}
