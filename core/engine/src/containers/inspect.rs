//! `inspect`.

use std::collections::HashMap;

use bollard_stubs::models::{
    ContainerInspectResponse, ContainerState, ContainerStateStatusEnum, DriverData, EndpointSettings, MountPoint,
    NetworkSettings,
};

use super::record::{ContainerRecord, MountRecord, Status};
use super::validate::{self, Sharing};
use super::{Container, Containers, list, security, spec, status};
use crate::Engine;
use crate::error::Result;

impl Engine {
    /// `inspect`.
    pub async fn inspect_container(&self, id: &str, size: bool) -> Result<ContainerInspectResponse> {
        let containers = &self.inner.containers;
        let container = containers.find(id)?;
        let mut response = containers.describe(&container);
        for (mount, record) in response.mounts.iter_mut().flatten().zip(&container.snapshot().mounts) {
            self.locate(mount, record.kind == "volume").await;
        }
        if size {
            let (written, whole) = self.sizes(&container).await?;
            response.size_rw = Some(written);
            response.size_root_fs = Some(whole);
        }
        Ok(response)
    }

    /// Where a volume lies is the volume's to say.
    async fn locate(&self, mount: &mut MountPoint, is_volume: bool) {
        if let Some(name) = mount.name.as_deref().filter(|_| is_volume)
            && let Ok(volume) = self.inspect_volume(name).await
        {
            mount.source = Some(volume.mountpoint);
            mount.driver = Some(volume.driver);
        }
    }
}

impl Containers {
    fn mount_point(&self, record: &ContainerRecord, mount: &MountRecord) -> MountPoint {
        let mut shown = list::mount_point(mount);
        if mount.image.is_some() {
            let root = self.shared().config.rootfs(&mount.root_name(&record.id));
            let at = mount.subpath.as_ref().map_or_else(|| root.clone(), |subpath| root.join(subpath));
            shown.source = Some(at.to_string_lossy().into_owned());
        }
        shown
    }

    fn describe(&self, container: &Container) -> ContainerInspectResponse {
        let record = container.snapshot();
        let config = &self.shared().config;
        let directory = config.container_dir(&record.id);
        let arguments = spec::arguments(&record);
        let files = match validate::network(&record.host) {
            Sharing::Container(other) => config.bundle(&other),
            _ => config.bundle(&record.id),
        };
        let path = |name: &str| Some(files.join(name).to_string_lossy().into_owned());
        let mut host = record.host.clone();
        let unconfined = host.privileged == Some(true);
        host.masked_paths.get_or_insert_with(|| if unconfined { Vec::new() } else { security::masked_paths() });
        host.readonly_paths.get_or_insert_with(|| if unconfined { Vec::new() } else { security::readonly_paths() });
        ContainerInspectResponse {
            id: Some(record.id.clone()),
            created: Some(status::time(record.created_ns)),
            path: Some(arguments.first().cloned().unwrap_or_default()),
            args: Some(arguments.into_iter().skip(1).collect()),
            state: Some(state(container, &record)),
            image: Some(record.image.clone()),
            resolv_conf_path: path("resolv.conf"),
            hostname_path: path("hostname"),
            hosts_path: path("hosts"),
            log_path: Some(log_path(&record, &directory)),
            name: Some(format!("/{}", record.name)),
            restart_count: Some(i64::from(record.restart_count)),
            driver: Some(self.layers().driver().to_owned()),
            platform: Some("linux".to_owned()),
            mount_label: Some(String::new()),
            process_label: Some(String::new()),
            app_armor_profile: Some(String::new()),
            exec_ids: Some(container.execs.ids()).filter(|ids| !ids.is_empty()),
            host_config: Some(host),
            graph_driver: Some(DriverData { name: self.layers().driver().to_owned(), data: self.driver_data(&record) }),
            mounts: Some(record.mounts.iter().map(|mount| self.mount_point(&record, mount)).collect()),
            network_settings: Some(self.network_settings(&record)),
            config: Some(record.config.clone()),
            ..ContainerInspectResponse::default()
        }
    }

    fn driver_data(&self, record: &ContainerRecord) -> HashMap<String, String> {
        let merged = self.shared().config.rootfs(&record.id);
        let mut data = HashMap::from([("ID".to_owned(), record.id.clone())]);
        if record.state.status.is_alive() {
            data.insert("MergedDir".to_owned(), merged.to_string_lossy().into_owned());
        }
        data
    }

    fn network_settings(&self, record: &ContainerRecord) -> NetworkSettings {
        let alive = record.state.status.is_alive();
        let own = matches!(validate::network(&record.host), Sharing::Own | Sharing::None);
        let key = match validate::network(&record.host) {
            Sharing::Host => "/proc/1/ns/net".to_owned(),
            _ => self.shared().config.netns(&record.id).to_string_lossy().into_owned(),
        };
        NetworkSettings {
            sandbox_id: Some(if alive && own { record.id.clone() } else { String::new() }),
            sandbox_key: Some(if alive { key } else { String::new() }),
            ports: Some(record.state.ports.clone()),
            networks: Some(self.endpoints(record)),
        }
    }

    /// The networks of a container: as joined while it runs, as asked for otherwise.
    pub(super) fn endpoints(&self, record: &ContainerRecord) -> HashMap<String, EndpointSettings> {
        let mut all =
            if record.state.status.is_alive() { self.networks().endpoints(&record.id) } else { HashMap::new() };
        for (name, asked) in &record.networks {
            let by_id = |joined: &EndpointSettings| joined.network_id.as_ref().is_some_and(|id| id.starts_with(name));
            if !all.contains_key(name) && !all.values().any(by_id) {
                all.insert(name.clone(), blank(asked));
            }
        }
        all
    }

    /// Names of the networks of [`Self::endpoints`].
    pub(super) fn network_names(&self, record: &ContainerRecord) -> Vec<String> {
        let joined = if record.state.status.is_alive() { self.networks().joined(&record.id) } else { Vec::new() };
        let asked = record.networks.keys();
        let is_joined = |asked: &&String| joined.iter().any(|(name, id)| name == *asked || id.starts_with(*asked));
        let rest: Vec<String> = asked.filter(|asked| !is_joined(asked)).cloned().collect();
        joined.into_iter().map(|(name, _)| name).chain(rest).collect()
    }
}

/// An endpoint that is not joined, with every field that clients expect.
fn blank(asked: &EndpointSettings) -> EndpointSettings {
    EndpointSettings {
        network_id: Some(asked.network_id.clone().unwrap_or_default()),
        endpoint_id: Some(String::new()),
        gateway: Some(String::new()),
        ip_address: Some(String::new()),
        ip_prefix_len: Some(0),
        ipv6_gateway: Some(String::new()),
        global_ipv6_address: Some(String::new()),
        global_ipv6_prefix_len: Some(0),
        mac_address: Some(asked.mac_address.clone().unwrap_or_default()),
        ..asked.clone()
    }
}

fn state(container: &Container, record: &ContainerRecord) -> ContainerState {
    let state = &record.state;
    let word = match state.status {
        Status::Created => ContainerStateStatusEnum::CREATED,
        Status::Running => ContainerStateStatusEnum::RUNNING,
        Status::Paused => ContainerStateStatusEnum::PAUSED,
        Status::Restarting => ContainerStateStatusEnum::RESTARTING,
        Status::Removing => ContainerStateStatusEnum::REMOVING,
        Status::Exited => ContainerStateStatusEnum::EXITED,
        Status::Dead => ContainerStateStatusEnum::DEAD,
    };
    ContainerState {
        status: Some(word),
        running: Some(state.status.is_alive() || state.status == Status::Restarting),
        paused: Some(state.status == Status::Paused),
        restarting: Some(state.status == Status::Restarting),
        oom_killed: Some(state.oom_killed),
        dead: Some(state.status == Status::Dead),
        pid: Some(i64::from(state.pid)),
        exit_code: Some(state.exit_code),
        error: Some(state.error.clone()),
        started_at: Some(status::time(state.started_ns)),
        finished_at: Some(status::time(state.finished_ns)),
        health: container.checks.report(),
    }
}

fn log_path(record: &ContainerRecord, directory: &std::path::Path) -> String {
    if record.log_driver == "json-file" {
        directory.join("log").join(format!("{}-json.log", record.id)).to_string_lossy().into_owned()
    } else {
        String::new()
    }
}
