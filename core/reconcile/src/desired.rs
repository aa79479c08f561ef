//! What the engine is asked for on behalf of a project. Pure: a service becomes the body of a `create` request.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;

use bollard_stubs::models::{
    ContainerCreateBody, EndpointIpamConfig, EndpointSettings, HealthConfig, HostConfig, HostConfigCgroupnsModeEnum,
    HostConfigLogConfig, Ipam, IpamConfig, Mount, MountBindOptions, MountBindOptionsPropagationEnum, MountImageOptions,
    MountTmpfsOptions, MountTypeEnum, MountVolumeOptions, NetworkCreateRequest, NetworkingConfig, PortBinding, PortMap,
    ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum, ThrottleDevice, VolumeCreateRequest,
};
use sampan_compose::Project;
use sampan_compose::model::{
    Bytes, Condition, FileReference, MountType, Network, Port, SecretValue, Service, Ulimit, Volume, VolumeMount,
};

use crate::devices;
use crate::hooks::Hooks;
use crate::in_place::{self, Parts};
use crate::labels;
use crate::material::{Content, Material};

/// Why a project cannot be turned into requests.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("service {service}: {message}")]
pub struct Unfit {
    /// Of which service.
    pub service: String,
    /// What does not fit, and what to do.
    pub message: String,
}

/// A container as it should be.
#[derive(Debug, Clone, PartialEq)]
pub struct DesiredContainer {
    /// Its name.
    pub name: String,
    /// Which of the service's, from 1.
    pub number: u32,
    /// The request, without the label of the image's id, which is known when the image is, and that of Compose's hash.
    pub body: ContainerCreateBody,
    /// Of the request, the number left out: equal for all containers of a service.
    pub hash: String,
    /// Of its parts.
    pub parts: Parts,
    /// Files to put in place first.
    pub material: Vec<Material>,
}

impl DesiredContainer {
    /// Whether a container of this version is it: also one that Compose has made of the project's service. Its hash costs
    /// more than the rest of planning, so that it is reckoned last.
    #[must_use]
    pub fn is(&self, version: &str, project: &Project, service: &str) -> bool {
        version == self.hash || project.config_hash(service).is_some_and(|hash| hash == version)
    }

    /// The labels that a container gets, the image's id left out.
    #[must_use]
    pub fn labels(&self, project: &Project, service: &str) -> HashMap<String, String> {
        let mut all = self.body.labels.clone().unwrap_or_default();
        all.extend(project.config_hash(service).map(|hash| (labels::CONFIG_HASH.to_owned(), hash)));
        all
    }
}

/// Name of a service's container.
#[must_use]
pub fn container_name(project: &Project, service: &str, number: u32) -> String {
    match project.services.get(service) {
        Some(found) if !found.container_name.is_empty() => found.container_name.clone(),
        _ => format!("{0}{1}{service}{1}{number}", project.name, project.separator()),
    }
}

/// The labels that every object of a project carries.
fn project_labels(project: &Project) -> HashMap<String, String> {
    HashMap::from([
        (labels::PROJECT.to_owned(), project.name.clone()),
        (labels::VERSION.to_owned(), labels::VERSION_VALUE.to_owned()),
    ])
}

/// The request for a network.
#[must_use]
pub fn network(project: &Project, key: &str, network: &Network) -> NetworkCreateRequest {
    let mut all = project_labels(project);
    all.extend(network.labels.clone());
    all.insert(labels::NETWORK.to_owned(), key.to_owned());
    all.insert(labels::CONFIG_HASH.to_owned(), network.config_hash());
    let pools = network.ipam.config.iter().map(|pool| IpamConfig {
        subnet: some(&pool.subnet),
        ip_range: some(&pool.ip_range),
        gateway: some(&pool.gateway),
        auxiliary_addresses: (!pool.aux_addresses.is_empty()).then(|| map(&pool.aux_addresses)),
    });
    NetworkCreateRequest {
        name: network.name.clone(),
        driver: some(&network.driver),
        internal: Some(network.internal),
        attachable: Some(network.attachable),
        enable_ipv4: network.enable_ipv4,
        enable_ipv6: network.enable_ipv6,
        ipam: Some(Ipam {
            driver: some(&network.ipam.driver).or_else(|| Some("default".to_owned())),
            config: (!network.ipam.config.is_empty()).then(|| pools.collect()),
            options: (!network.ipam.options.is_empty()).then(|| map(&network.ipam.options)),
        }),
        options: (!network.driver_opts.is_empty()).then(|| map(&network.driver_opts)),
        labels: Some(all),
        ..NetworkCreateRequest::default()
    }
}

/// The request for a volume.
#[must_use]
pub fn volume(project: &Project, key: &str, volume: &Volume) -> VolumeCreateRequest {
    let mut all = project_labels(project);
    all.extend(volume.labels.clone());
    all.insert(labels::VOLUME.to_owned(), key.to_owned());
    all.insert(labels::CONFIG_HASH.to_owned(), volume.config_hash());
    VolumeCreateRequest {
        name: Some(volume.name.clone()),
        driver: some(&volume.driver),
        driver_opts: (!volume.driver_opts.is_empty()).then(|| map(&volume.driver_opts)),
        labels: Some(all),
        ..VolumeCreateRequest::default()
    }
}

/// The hash of what a value is as JSON.
#[must_use]
pub fn hash<T: serde::Serialize>(value: &T) -> String {
    let text = serde_json::to_vec(value).unwrap_or_default();
    sampan_engine::Digest::of(&text).hex()
}

/// So many containers of a service, which differ by their numbers alone.
pub fn containers(project: &Project, service: &str, count: u32, files: &Path) -> Result<Vec<DesiredContainer>, Unfit> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let mut all = vec![container(project, service, 1, files)?];
    for number in 2..=count {
        let mut next = all[0].clone();
        (next.name, next.number) = (container_name(project, service, number), number);
        next.body.labels.get_or_insert_default().insert(labels::NUMBER.to_owned(), number.to_string());
        all.push(next);
    }
    Ok(all)
}

/// A service's container. `files` is the folder for the texts of configs and secrets.
pub fn container(project: &Project, service: &str, number: u32, files: &Path) -> Result<DesiredContainer, Unfit> {
    let unfit = |message: String| Unfit { service: service.to_owned(), message };
    let found = project.services.get(service).ok_or_else(|| unfit("it is not in the project".to_owned()))?;
    let mut material = Vec::new();
    let mut mounts = Vec::new();
    for mount in &found.volumes {
        mounts.push(mount_of(project, mount).map_err(&unfit)?);
    }
    for (reference, secret) in found.secrets.iter().map(|r| (r, true)).chain(found.configs.iter().map(|r| (r, false))) {
        mounts.push(file_mount(project, reference, secret, files, &mut material).map_err(&unfit)?);
    }
    let host = host_config(project, service, found, mounts).map_err(&unfit)?;
    let mut body = ContainerCreateBody {
        hostname: some(&found.hostname),
        domainname: some(&found.domainname),
        user: some(&found.user),
        exposed_ports: exposed(found),
        tty: found.tty.then_some(true),
        open_stdin: found.stdin_open.then_some(true),
        env: (!found.environment.is_empty()).then(|| {
            found
                .environment
                .iter()
                .map(|(name, value)| match value {
                    Some(value) => format!("{name}={value}"),
                    None => name.clone(),
                })
                .collect()
        }),
        cmd: found.command.clone(),
        entrypoint: found.entrypoint.clone(),
        healthcheck: found.healthcheck.as_ref().map(health),
        image: Some(project.image_name(service)),
        working_dir: some(&found.working_dir),
        stop_signal: some(&found.stop_signal),
        stop_timeout: found
            .stop_grace_period
            .map(|time| i64::try_from(time.as_secs_f64().ceil() as u64).unwrap_or(i64::MAX)),
        host_config: Some(host),
        networking_config: networking(project, service, found),
        ..ContainerCreateBody::default()
    };
    // Depend on contents, not on names: an edited secret file makes a new container.
    let digests: Vec<&String> = found
        .secrets
        .iter()
        .filter_map(|reference| project.secrets.get(&reference.source)?.digest.as_ref())
        .chain(found.configs.iter().filter_map(|reference| project.configs.get(&reference.source)?.digest.as_ref()))
        .collect();
    let ordered = sorted(&body);
    let hooks = Hooks::of(found);
    let no_labels = found.labels.is_empty();
    let mut parts = match found.pre_start.as_slice() {
        [] => in_place::parts(&ordered, &found.labels, no_labels, &digests),
        before => in_place::parts(&ordered, &found.labels, no_labels, &(&digests, before)),
    };
    let hash = match (hooks.to_text(), found.pre_start.as_slice()) {
        (None, []) => hash(&(ordered, &found.labels, digests)),
        (text, before) => {
            if let Some(text) = &text {
                parts.insert(in_place::HOOKS.to_owned(), hash(text)[..16].to_owned());
            }
            match before {
                [] => hash(&(ordered, &found.labels, digests, text)),
                before => hash(&(ordered, &found.labels, digests, text, before)),
            }
        }
    };
    let mut all = project_labels(project);
    all.extend(found.labels.clone());
    all.extend([
        (labels::SERVICE.to_owned(), service.to_owned()),
        (labels::NUMBER.to_owned(), number.to_string()),
        (labels::ONEOFF.to_owned(), "False".to_owned()),
        (labels::HASH.to_owned(), hash.clone()),
        (labels::PARTS.to_owned(), in_place::to_text(&parts)),
        (labels::DEPENDS_ON.to_owned(), depends_on(found)),
        (labels::WORKING_DIR.to_owned(), project.working_dir.display().to_string()),
        (
            labels::CONFIG_FILES.to_owned(),
            project.compose_files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(","),
        ),
    ]);
    all.extend(hooks.to_text().map(|text| (labels::HOOKS.to_owned(), text)));
    body.labels = Some(all);
    let name = container_name(project, service, number);
    Ok(DesiredContainer { name, number, body, hash, parts, material })
}

/// Every config and secret that the containers of a project bind and that is put in place for them.
#[must_use]
pub fn material(project: &Project, files: &Path) -> Vec<Material> {
    let all = project.services.keys().filter_map(|service| container(project, service, 1, files).ok());
    all.flat_map(|container| container.material).collect()
}

/// A JSON value whose maps are in order, so that its text is the same every time.
fn sorted(body: &ContainerCreateBody) -> serde_json::Value {
    in_order(serde_json::to_value(body).unwrap_or_default())
}

/// The same value with its maps in order.
fn in_order(value: serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::Object(map) => {
            let ordered: BTreeMap<String, serde_json::Value> =
                map.into_iter().map(|(key, value)| (key, in_order(value))).collect();
            serde_json::Value::Object(ordered.into_iter().collect())
        }
        serde_json::Value::Array(items) => serde_json::Value::Array(items.into_iter().map(in_order).collect()),
        other => other,
    }
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn list(items: &[String]) -> Option<Vec<String>> {
    (!items.is_empty()).then(|| items.to_vec())
}

fn map(items: &BTreeMap<String, String>) -> HashMap<String, String> {
    items.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn nanoseconds(duration: Option<Duration>) -> Option<i64> {
    duration.map(|duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
}

fn depends_on(service: &Service) -> String {
    service
        .depends_on
        .iter()
        .map(|(name, dependency)| format!("{name}:{}:{}", dependency.condition.as_str(), dependency.restart))
        .collect::<Vec<_>>()
        .join(",")
}

fn health(check: &sampan_compose::model::Healthcheck) -> HealthConfig {
    if check.disable {
        return HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() };
    }
    HealthConfig {
        test: list(&check.test),
        interval: nanoseconds(check.interval),
        timeout: nanoseconds(check.timeout),
        retries: check.retries.map(i64::from),
        start_period: nanoseconds(check.start_period),
        start_interval: nanoseconds(check.start_interval),
    }
}

fn exposed(service: &Service) -> Option<Vec<String>> {
    let mut ports: Vec<String> =
        service.ports.iter().map(|port| format!("{}/{}", port.target, protocol(&port.protocol))).collect();
    for exposed in &service.expose {
        let (range, protocol) = exposed.split_once('/').unwrap_or((exposed, "tcp"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        if let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) {
            ports.extend((first..=last).map(|port| format!("{port}/{protocol}")));
        }
    }
    ports.sort();
    ports.dedup();
    (!ports.is_empty()).then_some(ports)
}

fn protocol(text: &str) -> &str {
    if text.is_empty() { "tcp" } else { text }
}

fn port_map(ports: &[Port]) -> Option<PortMap> {
    let mut map = PortMap::new();
    for port in ports {
        let key = format!("{}/{}", port.target, protocol(&port.protocol));
        let binding = PortBinding {
            host_ip: some(&port.host_ip),
            host_port: Some(port.published.map(|ports| ports.to_string()).unwrap_or_default()),
        };
        map.entry(key).or_default().get_or_insert_default().push(binding);
    }
    (!map.is_empty()).then_some(map)
}

fn ulimits(limits: &BTreeMap<String, Ulimit>) -> Option<Vec<ResourcesUlimits>> {
    (!limits.is_empty()).then(|| {
        limits
            .iter()
            .map(|(name, limit)| ResourcesUlimits {
                name: Some(name.clone()),
                soft: Some(limit.soft),
                hard: Some(limit.hard),
            })
            .collect()
    })
}

/// `no`, `always`, `unless-stopped`, `on-failure[:N]`, or what `deploy.restart_policy` says.
fn restart(service: &Service) -> Result<Option<RestartPolicy>, String> {
    if let Some(policy) = service.deploy.as_ref().and_then(|deploy| deploy.restart_policy.as_ref())
        && service.restart.is_empty()
    {
        let name = match policy.condition.as_str() {
            "none" => RestartPolicyNameEnum::NO,
            "on-failure" => RestartPolicyNameEnum::ON_FAILURE,
            _ if policy.max_attempts.is_some() => RestartPolicyNameEnum::ON_FAILURE,
            _ => RestartPolicyNameEnum::UNLESS_STOPPED,
        };
        let count = policy.max_attempts.filter(|_| name == RestartPolicyNameEnum::ON_FAILURE).map(i64::from);
        return Ok(Some(RestartPolicy { name: Some(name), maximum_retry_count: count }));
    }
    let (word, count) = service.restart.split_once(':').unwrap_or((&service.restart, ""));
    let name = match word {
        "" => return Ok(None),
        "no" => RestartPolicyNameEnum::NO,
        "always" => RestartPolicyNameEnum::ALWAYS,
        "unless-stopped" => RestartPolicyNameEnum::UNLESS_STOPPED,
        "on-failure" => RestartPolicyNameEnum::ON_FAILURE,
        other => {
            return Err(format!("restart: {other:?} is not a policy (no, always, unless-stopped, on-failure[:N])"));
        }
    };
    Ok(Some(RestartPolicy { name: Some(name), maximum_retry_count: count.parse().ok() }))
}

fn host_config(project: &Project, name: &str, service: &Service, mounts: Vec<Mount>) -> Result<HostConfig, String> {
    let deploy = service.deploy.as_ref().map(|deploy| &deploy.resources);
    let limits = deploy.and_then(|resources| resources.limits.as_ref());
    let reserved = deploy.and_then(|resources| resources.reservations.as_ref());
    let bytes = |value: Option<Bytes>| value.map(|value| value.0);
    let cpus = limits.and_then(|limits| limits.cpus).or(service.cpus);
    let tmpfs: HashMap<String, String> = service
        .tmpfs
        .iter()
        .map(|entry| {
            let (path, options) = entry.split_once(':').unwrap_or((entry, ""));
            (path.to_owned(), options.to_owned())
        })
        .collect();
    let logging = service.logging.as_ref().map(|logging| HostConfigLogConfig {
        typ: some(&logging.driver),
        config: (!logging.options.is_empty()).then(|| map(&logging.options)),
    });
    let volumes_from = service
        .volumes_from
        .iter()
        .map(|entry| {
            peer(project, entry.strip_prefix("container:").map_or_else(|| Peer::Service(entry), Peer::Container))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let blkio = service.blkio_config.clone().unwrap_or_default();
    let throttle = |devices: &[sampan_compose::model::ThrottleDevice]| {
        let device = |device: &sampan_compose::model::ThrottleDevice| ThrottleDevice {
            path: Some(device.path.clone()),
            rate: Some(device.rate.0),
        };
        (!devices.is_empty()).then(|| devices.iter().map(device).collect())
    };
    Ok(HostConfig {
        blkio_weight: (blkio.weight > 0).then_some(blkio.weight),
        blkio_device_read_bps: throttle(&blkio.device_read_bps),
        blkio_device_read_iops: throttle(&blkio.device_read_iops),
        blkio_device_write_bps: throttle(&blkio.device_write_bps),
        blkio_device_write_iops: throttle(&blkio.device_write_iops),
        cpu_shares: service.cpu_shares,
        memory: limits.and_then(|limits| bytes(limits.memory)).or_else(|| bytes(service.mem_limit)),
        memory_reservation: reserved.and_then(|limits| bytes(limits.memory)).or_else(|| bytes(service.mem_reservation)),
        memory_swap: bytes(service.memswap_limit),
        memory_swappiness: service.mem_swappiness,
        nano_cpus: cpus.map(|cpus| (cpus * 1e9).round() as i64),
        cpu_period: service.cpu_period,
        cpu_quota: service.cpu_quota,
        cpuset_cpus: some(&service.cpuset),
        cgroup_parent: some(&service.cgroup_parent),
        pids_limit: limits.and_then(|limits| limits.pids).or(service.pids_limit),
        devices: devices::nodes(service),
        device_requests: devices::requests(service),
        device_cgroup_rules: list(&service.device_cgroup_rules),
        oom_kill_disable: service.oom_kill_disable.then_some(true),
        oom_score_adj: service.oom_score_adj,
        init: service.init,
        ulimits: ulimits(&service.ulimits),
        log_config: logging,
        network_mode: Some(network_mode(project, name, service)?),
        port_bindings: port_map(&service.ports),
        restart_policy: restart(service)?,
        volumes_from: (!volumes_from.is_empty()).then_some(volumes_from),
        mounts: (!mounts.is_empty()).then_some(mounts),
        annotations: (!service.annotations.is_empty()).then(|| map(&service.annotations)),
        cap_add: list(&service.cap_add),
        cap_drop: list(&service.cap_drop),
        cgroupns_mode: match service.cgroup.as_str() {
            "host" => Some(HostConfigCgroupnsModeEnum::HOST),
            "private" => Some(HostConfigCgroupnsModeEnum::PRIVATE),
            _ => None,
        },
        dns: list(&service.dns),
        dns_options: list(&service.dns_opt),
        dns_search: list(&service.dns_search),
        // Docker's own form has a colon; addresses of version 6 contain some, so the first separator counts.
        extra_hosts: (!service.extra_hosts.is_empty())
            .then(|| service.extra_hosts.iter().map(|entry| entry.replacen('=', ":", 1)).collect()),
        group_add: list(&service.group_add),
        ipc_mode: mode(project, &service.ipc)?,
        pid_mode: mode(project, &service.pid)?,
        uts_mode: some(&service.uts),
        userns_mode: some(&service.userns_mode),
        privileged: service.privileged.then_some(true),
        readonly_rootfs: service.read_only.then_some(true),
        security_opt: list(&service.security_opt),
        storage_opt: (!service.storage_opt.is_empty()).then(|| map(&service.storage_opt)),
        tmpfs: (!tmpfs.is_empty()).then_some(tmpfs),
        shm_size: bytes(service.shm_size),
        sysctls: (!service.sysctls.is_empty()).then(|| map(&service.sysctls)),
        runtime: some(&service.runtime),
        ..HostConfig::default()
    })
}

enum Peer<'a> {
    Service(&'a str),
    Container(&'a str),
}

/// Another container by service (its first one) or by name, with what follows its name (`:ro`) kept.
fn peer(project: &Project, peer: Peer<'_>) -> Result<String, String> {
    match peer {
        Peer::Container(name) => Ok(name.to_owned()),
        Peer::Service(entry) => {
            let (service, rest) =
                entry.split_once(':').map_or((entry, String::new()), |(name, rest)| (name, format!(":{rest}")));
            if project.services.contains_key(service) {
                Ok(format!("{}{rest}", container_name(project, service, 1)))
            } else {
                Err(format!("it refers to the service {service}, which is not in the project"))
            }
        }
    }
}

/// `service:x` as `container:<name of its first>`; other words stay.
fn mode(project: &Project, text: &str) -> Result<Option<String>, String> {
    match text.strip_prefix("service:") {
        Some(service) => Ok(Some(format!("container:{}", peer(project, Peer::Service(service))?))),
        None => Ok(some(text)),
    }
}

/// The networks that a service joins, the first to be connected first.
fn joined(service: &Service) -> Vec<(&String, Option<&sampan_compose::model::ServiceNetwork>)> {
    let mut all: Vec<_> = service.networks.iter().map(|(key, settings)| (key, settings.as_ref())).collect();
    all.sort_by_key(|(key, settings)| (-settings.map_or(0, |settings| settings.priority), (*key).clone()));
    all
}

fn network_name(project: &Project, key: &str) -> String {
    project.networks.get(key).map_or_else(|| format!("{}_{key}", project.name), |network| network.name.clone())
}

fn network_mode(project: &Project, _name: &str, service: &Service) -> Result<String, String> {
    if let Some(mode) = mode(project, &service.network_mode)? {
        return Ok(mode);
    }
    Ok(joined(service).first().map_or_else(|| "none".to_owned(), |(key, _)| network_name(project, key)))
}

fn networking(project: &Project, name: &str, service: &Service) -> Option<NetworkingConfig> {
    if !service.network_mode.is_empty() {
        return None;
    }
    let mut endpoints = HashMap::new();
    for (key, settings) in joined(service) {
        let mut endpoint = EndpointSettings { aliases: Some(vec![name.to_owned()]), ..EndpointSettings::default() };
        if let Some(settings) = settings {
            endpoint.aliases.get_or_insert_default().extend(settings.aliases.iter().cloned());
            let ipam = EndpointIpamConfig {
                ipv4_address: some(&settings.ipv4_address),
                ipv6_address: some(&settings.ipv6_address),
                link_local_ips: list(&settings.link_local_ips),
            };
            if ipam != EndpointIpamConfig::default() {
                endpoint.ipam_config = Some(ipam);
            }
            endpoint.mac_address = some(&settings.mac_address);
            endpoint.gw_priority = (settings.gw_priority != 0).then_some(settings.gw_priority);
            let mut options = map(&settings.driver_opts);
            if !settings.interface_name.is_empty() {
                options.insert("com.docker.network.endpoint.ifname".to_owned(), settings.interface_name.clone());
            }
            endpoint.driver_opts = (!options.is_empty()).then_some(options);
        }
        if endpoint.mac_address.is_none() {
            endpoint.mac_address = some(&service.mac_address);
        }
        // `links: [db:database]` makes the other known by a further name: here and to its network's members.
        endpoints.insert(network_name(project, key), endpoint);
    }
    for (other, found) in &project.services {
        // Aliases that others gave this service by `links`.
        for link in &found.links {
            if let Some((target, alias)) = link.split_once(':')
                && target == name
                && other != name
            {
                for endpoint in endpoints.values_mut() {
                    endpoint.aliases.get_or_insert_default().push(alias.to_owned());
                }
            }
        }
    }
    (!endpoints.is_empty()).then_some(NetworkingConfig { endpoints_config: Some(endpoints) })
}

fn mount_of(project: &Project, mount: &VolumeMount) -> Result<Mount, String> {
    let mut result = Mount {
        target: Some(mount.target.clone()),
        source: some(&mount.source),
        read_only: mount.read_only.then_some(true),
        ..Mount::default()
    };
    match mount.kind {
        MountType::Bind => {
            result.typ = Some(MountTypeEnum::BIND);
            let propagation = mount.bind.as_ref().map_or("", |bind| bind.propagation.as_str());
            let recursive = mount.bind.as_ref().map_or("", |bind| bind.recursive.as_str());
            result.bind_options = Some(MountBindOptions {
                propagation: match propagation {
                    "" => None,
                    "private" => Some(MountBindOptionsPropagationEnum::PRIVATE),
                    "rprivate" => Some(MountBindOptionsPropagationEnum::RPRIVATE),
                    "shared" => Some(MountBindOptionsPropagationEnum::SHARED),
                    "rshared" => Some(MountBindOptionsPropagationEnum::RSHARED),
                    "slave" => Some(MountBindOptionsPropagationEnum::SLAVE),
                    "rslave" => Some(MountBindOptionsPropagationEnum::RSLAVE),
                    other => return Err(format!("volumes: {}: propagation {other:?} is not known", mount.target)),
                },
                create_mountpoint: mount.create_host_path().then_some(true),
                non_recursive: (recursive == "disabled").then_some(true),
                read_only_non_recursive: (recursive == "writable").then_some(true),
                read_only_force_recursive: (recursive == "readonly").then_some(true),
            });
        }
        MountType::Volume => {
            result.typ = Some(MountTypeEnum::VOLUME);
            if !mount.source.is_empty() {
                let volume = project
                    .volumes
                    .get(&mount.source)
                    .ok_or_else(|| format!("volumes: {} is not among the project's volumes", mount.source))?;
                result.source = Some(volume.name.clone());
            }
            if let Some(options) = &mount.volume {
                result.volume_options = Some(MountVolumeOptions {
                    no_copy: options.nocopy.then_some(true),
                    subpath: some(&options.subpath),
                    labels: (!options.labels.is_empty()).then(|| map(&options.labels)),
                    ..MountVolumeOptions::default()
                });
            }
        }
        MountType::Tmpfs => {
            result.typ = Some(MountTypeEnum::TMPFS);
            if let Some(options) = &mount.tmpfs {
                result.tmpfs_options = Some(MountTmpfsOptions {
                    size_bytes: options.size.map(|size| size.0),
                    mode: options.mode.map(i64::from),
                    ..MountTmpfsOptions::default()
                });
            }
        }
        MountType::Image => {
            result.typ = Some(MountTypeEnum::IMAGE);
            result.source = Some(project.mounted_image(&mount.source));
            let subpath = mount.image.as_ref().and_then(|image| some(&image.subpath));
            result.image_options = subpath.map(|subpath| MountImageOptions { subpath: Some(subpath) });
        }
        other @ (MountType::Npipe | MountType::Cluster) => {
            return Err(format!("volumes: {}: mounts of type {other:?} are not supported", mount.target).to_lowercase());
        }
    }
    Ok(result)
}

/// A config or secret as a bind of a file: the user's own, or one that is put in place with its text, owner and rights.
fn file_mount(
    project: &Project,
    reference: &FileReference,
    secret: bool,
    files: &Path,
    material: &mut Vec<Material>,
) -> Result<Mount, String> {
    let kind = if secret { "secret" } else { "config" };
    let missing = || format!("{kind}s: {} is not among the project's {kind}s", reference.source);
    let (file, digest, content, external) = if secret {
        let found = project.secrets.get(&reference.source).ok_or_else(missing)?;
        (found.file.as_ref(), &found.digest, found.value.clone(), found.external)
    } else {
        let found = project.configs.get(&reference.source).ok_or_else(missing)?;
        let text = found.content.clone().map(SecretValue).or_else(|| found.value.clone());
        (found.file.as_ref(), &found.digest, text, found.external)
    };
    if external {
        return Err(format!(
            "{kind}s: {} is external, which needs a cluster; give it by file, environment or content",
            reference.source
        ));
    }
    let target = match reference.target.as_str() {
        "" if secret => format!("/run/secrets/{}", reference.source),
        "" => format!("/{}", reference.source),
        target if secret && !target.starts_with('/') => format!("/run/secrets/{target}"),
        target => target.to_owned(),
    };
    let own = !reference.uid.is_empty() || !reference.gid.is_empty() || reference.mode.is_some();
    let (content, name) = match (file, content) {
        (Some(file), _) => (Content::File(file.clone()), hash(&(file, digest))),
        (None, Some(content)) => (Content::Text(content.clone()), hash(&content)),
        (None, None) => return Err(format!("{kind}s: {} has no content", reference.source)),
    };
    let source = match content {
        // One that is not to differ from the user's file is that file: an edit in place shows at once.
        Content::File(file) if !own => file,
        content => {
            let number = |text: &str, what: &str| match text {
                "" => Ok(0),
                text => text
                    .parse::<u32>()
                    .map_err(|_| format!("{kind}s: {}: {what} {text:?} is not a number", reference.source)),
            };
            let (uid, gid) = (number(&reference.uid, "uid")?, number(&reference.gid, "gid")?);
            // As Compose: whoever the program runs as can read it, unless the file says otherwise.
            let mode = reference.mode.unwrap_or(0o444);
            let path = files.join(&hash(&(name, uid, gid, mode))[..32]);
            material.push(Material { path: path.clone(), content, uid, gid, mode });
            path
        }
    };
    Ok(Mount {
        target: Some(target),
        source: Some(source.display().to_string()),
        typ: Some(MountTypeEnum::BIND),
        read_only: Some(true),
        ..Mount::default()
    })
}

/// Services in the order in which they start: each behind those that it depends on. Cycles were refused at load.
#[must_use]
pub fn order(project: &Project) -> Vec<String> {
    fn visit(project: &Project, name: &str, done: &mut Vec<String>, depth: usize) {
        if done.iter().any(|found| found == name) || depth > project.services.len() {
            return;
        }
        let Some(service) = project.services.get(name) else { return };
        for dependency in needs(service) {
            visit(project, &dependency.0, done, depth + 1);
        }
        done.push(name.to_owned());
    }
    let mut done = Vec::new();
    for name in project.services.keys() {
        visit(project, name, &mut done, 0);
    }
    done
}

/// The services whose namespaces a service shares.
pub fn shared_with(service: &Service) -> impl Iterator<Item = &str> {
    [&service.network_mode, &service.ipc, &service.pid].into_iter().filter_map(|mode| mode.strip_prefix("service:"))
}

/// What a service waits for: its `depends_on`, and the services whose namespaces or volumes it shares.
#[must_use]
pub fn needs(service: &Service) -> BTreeMap<String, (Condition, bool, bool)> {
    let mut all: BTreeMap<String, (Condition, bool, bool)> = service
        .depends_on
        .iter()
        .map(|(name, dependency)| (name.clone(), (dependency.condition, dependency.restart, dependency.required)))
        .collect();
    let volumes = service
        .volumes_from
        .iter()
        .filter(|entry| !entry.starts_with("container:"))
        .map(|entry| entry.split(':').next().unwrap_or(entry));
    for name in volumes {
        all.entry(name.to_owned()).or_insert((Condition::Started, false, true));
    }
    for name in shared_with(service) {
        // What shares a namespace must follow when the other is started again.
        all.entry(name.to_owned()).or_insert((Condition::Started, true, true)).1 = true;
    }
    all
}
