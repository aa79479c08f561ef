//! Init containers: `pre_start` of a service, each of which runs to its end before a container of the service starts.
//!
//! As with Compose they run once for a service, and only when none of its containers runs: at the first `up`, when all
//! are made anew, or after a stop; neither when replicas are added nor at restarts. They see the volumes of the container
//! that waits for them and join its networks. One that succeeded is removed, one that failed is kept to be looked at.

use std::path::Path;

use bollard_stubs::models::{ContainerCreateBody, MountTypeEnum};
use sampan_compose::Project;
use sampan_engine::containers::{AttachOptions, RemoveOptions, WaitCondition};
use sampan_engine::{Error, ErrorKind, Result};

use crate::desired::{self, Unfit};
use crate::execute::{Executor, settled};
use crate::material::{self, Material};
use crate::{images, labels};

/// What is kept of an unfinished line of output.
const LINE: usize = 16 << 10;

/// A container that runs before those of its service.
#[derive(Debug, Clone, PartialEq)]
pub struct InitContainer {
    /// Its name.
    pub name: String,
    /// The request.
    pub body: ContainerCreateBody,
    /// Files to put in place first.
    pub material: Vec<Material>,
    /// `linux/arm64`; empty for the host's.
    pub platform: String,
    /// When its image is fetched; none for the service's own image.
    pub pull: Option<String>,
}

/// The containers that run before those of a service. Pure. `files` is the folder for the texts of configs and secrets.
pub(crate) fn of(project: &Project, service: &str, files: &Path) -> std::result::Result<Vec<InitContainer>, Unfit> {
    let Some(found) = project.services.get(service) else { return Ok(Vec::new()) };
    let mut all = Vec::new();
    for (number, before) in found.pre_start.iter().enumerate() {
        let mut with = project.clone();
        let own = project.image_name(service);
        let image = if before.image.is_empty() { own.clone() } else { before.image.clone() };
        let pull = (image != own).then(|| before.pull_policy.clone());
        with.services.insert(service.to_owned(), sampan_compose::Service { image, ..before.clone() });
        let made = desired::container(&with, service, 1, files)?;
        let mut body = made.body;
        // The service's own names are for those who serve.
        let endpoints = body.networking_config.as_mut().and_then(|networking| networking.endpoints_config.as_mut());
        endpoints.into_iter().flat_map(|all| all.values_mut()).for_each(|endpoint| endpoint.aliases = None);
        let labels = body.labels.get_or_insert_default();
        let own = [labels::NUMBER, labels::HASH, labels::PARTS, labels::HOOKS, labels::DEPENDS_ON];
        for own in own {
            labels.remove(own);
        }
        labels.insert(labels::ONEOFF.to_owned(), "True".to_owned());
        labels.insert(labels::HOOK.to_owned(), "pre_start".to_owned());
        all.push(InitContainer {
            name: format!("{0}{1}{service}{1}pre_start{1}{number}", project.name, project.separator()),
            body,
            material: made.material,
            platform: before.platform.clone(),
            pull,
        });
    }
    Ok(all)
}

impl Executor {
    /// Runs the containers that come before those of a service, one after the other. `container` waits for them.
    pub(crate) async fn prepare(&self, service: &str, container: &str) -> Result<()> {
        let before = self.before.get(service).map_or(&[][..], Vec::as_slice);
        for init in before {
            let id = format!("Container {}", init.name);
            self.progress.action(id.clone(), Some(service), "Starting", None).await;
            // What is left of one that failed or was cut short.
            let options = RemoveOptions { force: true, volumes: true, link: false };
            settled(self.engine.remove(&init.name, options).await, ErrorKind::NotFound)?;
            let (code, last) = tokio::select! {
                ran = self.run_before(service, init, container) => ran?,
                () = self.cancelled() => {
                    settled(self.engine.remove(&init.name, options).await, ErrorKind::NotFound)?;
                    return Err(Error::unavailable("something newer was asked for"));
                }
            };
            if code != 0 {
                let said = if last.is_empty() { String::new() } else { format!(": {last}") };
                return Err(Error::conflict(format!(
                    "service {service} is not started, as {} exited with status {code}{said} (it is kept to be looked at)",
                    init.name
                )));
            }
            settled(self.engine.remove(&init.name, options).await, ErrorKind::NotFound)?;
            self.progress.action(id, Some(service), "Exited", None).await;
        }
        Ok(())
    }

    /// Runs one to its end: its exit code and the last line that it wrote.
    async fn run_before(&self, service: &str, init: &InitContainer, container: &str) -> Result<(i64, String)> {
        if let (Some(policy), Some(image)) = (&init.pull, &init.body.image) {
            images::fetch(&self.engine, image, policy, service, &self.progress).await?;
        }
        let mounts = init.body.host_config.iter().flat_map(|host| host.mounts.iter().flatten());
        for mount in mounts.filter(|mount| mount.typ == Some(MountTypeEnum::IMAGE)) {
            let image = mount.source.as_deref().unwrap_or_default();
            images::fetch(&self.engine, image, "missing", service, &self.progress).await?;
        }
        material::put(init.material.clone()).await?;
        let mut body = init.body.clone();
        // Anonymous volumes are seen, too; volumes of its own come before them.
        let from = body.host_config.get_or_insert_default().volumes_from.get_or_insert_default();
        from.push(container.to_owned());
        let platform = Some(init.platform.as_str()).filter(|platform| !platform.is_empty());
        let name = init.name.as_str();
        self.engine.create(Some(name), body, platform).await?;
        let options = AttachOptions { stdout: true, stderr: true, stream: true, ..AttachOptions::default() };
        let mut output = self.engine.attach(name, options).await?.output;
        let end = self.engine.wait(name, WaitCondition::NextExit).await?;
        self.engine.start(name).await?;
        let mut lines = Lines::default();
        while let Some(piece) = output.recv().await {
            for line in lines.of(&piece.bytes) {
                self.progress.log(service, line).await;
            }
        }
        if let Some(line) = lines.rest() {
            self.progress.log(service, line).await;
        }
        let status = end.await?;
        match status.error {
            Some(error) => Err(Error::conflict(format!("{name}: {error}"))),
            None => Ok((status.code, lines.last)),
        }
    }
}

/// Output cut into lines.
#[derive(Debug, Default)]
struct Lines {
    open: Vec<u8>,
    last: String,
}

impl Lines {
    fn of(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut whole = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            let room = LINE.saturating_sub(self.open.len()).min(text.len());
            self.open.extend_from_slice(&text[..room]);
            if ends {
                whole.extend(self.rest());
            }
        }
        whole
    }

    fn rest(&mut self) -> Option<String> {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.open)).trim_end().to_owned();
        if line.is_empty() {
            return None;
        }
        self.last.clone_from(&line);
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sampan_compose::{LoadOptions, MemoryFiles};

    #[test]
    fn an_init_container_is_its_services_without_what_serves() {
        let files = MemoryFiles::default().with(
            "/p/compose.yaml",
            "services: { web: { image: web, user: '5', ports: ['80:80'], volumes: ['data:/data'], labels: { a: b }, pre_start: [{ command: [seed] }, { image: other, command: [more] }] } }\nvolumes: { data: }",
        );
        let options =
            LoadOptions { working_dir: "/p".into(), project_name: Some("p".into()), ..LoadOptions::default() };
        let project = sampan_compose::load(&options, &files).unwrap_or_else(|error| panic!("{error}")).project;
        let all = of(&project, "web", Path::new("/files")).unwrap();
        let names: Vec<&str> = all.iter().map(|init| init.name.as_str()).collect();
        assert_eq!(names, ["p-web-pre_start-0", "p-web-pre_start-1"]);
        let body = &all[0].body;
        assert_eq!((body.image.as_deref(), body.user.as_deref()), (Some("web"), Some("5")));
        assert_eq!(body.host_config.as_ref().unwrap().port_bindings, None);
        let endpoints = body.networking_config.as_ref().unwrap().endpoints_config.as_ref().unwrap();
        assert_eq!(endpoints["p_default"].aliases, None);
        let labels = body.labels.as_ref().unwrap();
        assert_eq!(labels[labels::ONEOFF], "True");
        assert!(labels.contains_key("a") && !labels.contains_key(labels::CONFIG_HASH));
        assert_eq!(all[1].body.image.as_deref(), Some("other"));
    }

    #[test]
    fn output_comes_in_lines() {
        let mut lines = Lines::default();
        assert_eq!(lines.of(b"one\ntw"), ["one"]);
        assert_eq!(lines.of(b"o\n\nthree"), ["two"]);
        assert_eq!(lines.rest(), Some("three".to_owned()));
        assert_eq!(lines.last, "three");
    }
}
