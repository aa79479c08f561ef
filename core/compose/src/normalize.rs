//! What a file leaves unsaid: names, the default network, dependencies that follow from other keys, profiles.

use std::collections::BTreeSet;

use crate::model::{Condition, Dependency, Project, Service};

/// The service that a namespace or mount is shared with, in `service:NAME`.
pub(crate) fn shared(mode: &str) -> Option<&str> {
    mode.strip_prefix("service:").filter(|name| !name.is_empty())
}

/// The service of a `volumes_from` entry, and none for a container.
pub(crate) fn volumes_source(entry: &str) -> Option<&str> {
    if entry.starts_with("container:") {
        return None;
    }
    Some(entry.split(':').next().unwrap_or(entry))
}

/// Completes a decoded project and sorts its services by profile; `sort_only`: the latter alone.
pub(crate) fn normalize(project: &mut Project, profiles: &BTreeSet<String>, sort_only: bool) {
    if !sort_only {
        complete(project);
    }
    let chosen = |service: &Service| {
        service.profiles.is_empty()
            || profiles.contains("*")
            || service.profiles.iter().any(|profile| profiles.contains(profile))
    };
    let (active, inactive) =
        std::mem::take(&mut project.services).into_iter().partition(|(_, service)| chosen(service));
    project.services = active;
    project.inactive = inactive;
    project.profiles = profiles.iter().cloned().collect();
}

/// What is said in one of two places holds in the other, too.
pub(crate) fn agree(project: &mut Project) {
    for service in project.services.values_mut().chain(project.inactive.values_mut()) {
        if let (Some(scale), Some(deploy)) = (service.scale, &mut service.deploy) {
            deploy.replicas.get_or_insert(scale);
        }
    }
}

fn complete(project: &mut Project) {
    let name = project.name.clone();
    let mut needs_default = false;
    for service in project.services.values_mut() {
        if service.network_mode.is_empty() && service.networks.is_empty() && service.provider.is_none() {
            service.networks.insert("default".to_owned(), None);
        }
        needs_default |= service.networks.contains_key("default");
        implied_dependencies(service);
        let (image, networks) = (service.image.clone(), service.networks.clone());
        for container in &mut service.pre_start {
            if container.image.is_empty() {
                container.image.clone_from(&image);
            }
            if container.network_mode.is_empty() && container.networks.is_empty() {
                container.networks.clone_from(&networks);
            }
        }
    }
    if needs_default {
        project.networks.entry("default".to_owned()).or_default();
    }
    let full = |key: &str, external: bool, given: &mut String| {
        if given.is_empty() {
            *given = if external { key.to_owned() } else { format!("{name}_{key}") };
        }
    };
    project.networks.iter_mut().for_each(|(key, network)| full(key, network.external, &mut network.name));
    project.volumes.iter_mut().for_each(|(key, volume)| full(key, volume.external, &mut volume.name));
    project.secrets.iter_mut().for_each(|(key, secret)| full(key, secret.external, &mut secret.name));
    project.configs.iter_mut().for_each(|(key, config)| full(key, config.external, &mut config.name));
}

fn implied_dependencies(service: &mut Service) {
    let linked = service.links.iter().map(|link| link.split(':').next().unwrap_or(link).to_owned());
    let spaces = [&service.network_mode, &service.ipc, &service.pid];
    let sharing = spaces.into_iter().filter_map(|mode| shared(mode)).map(str::to_owned);
    let restarting: Vec<String> = linked.chain(sharing).collect();
    let sources: Vec<String> =
        service.volumes_from.iter().filter_map(|entry| volumes_source(entry)).map(str::to_owned).collect();
    for (names, restart) in [(restarting, true), (sources, false)] {
        for name in names {
            let implied = Dependency { condition: Condition::Started, restart, required: true };
            service.depends_on.entry(name).or_insert(implied);
        }
    }
}
