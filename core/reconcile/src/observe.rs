//! Asking the engine what it has of a project.

use std::collections::{BTreeSet, HashMap};

use bollard_stubs::models::{ContainerSummary, ContainerSummaryStateEnum};
use sampan_compose::Project;
use sampan_engine::containers::{Kept, ListOptions};
use sampan_engine::{Engine, ErrorKind, Filters, Result};

use crate::labels;
use crate::observed::{Observed, ObservedContainer, ObservedResource, Status};

/// The project's objects, and the ids of the images named.
pub async fn observe(engine: &Engine, project: &str, images: &BTreeSet<String>) -> Result<Observed> {
    let mut observed = Observed::default();
    for network in engine.list_networks(Filters::default()).await? {
        let resource = resource(network.labels.as_ref(), labels::NETWORK);
        observed.networks.insert(network.name.unwrap_or_default(), resource);
    }
    for volume in engine.list_volumes(Filters::default()).await?.volumes.into_iter().flatten() {
        observed.volumes.insert(volume.name, resource(Some(&volume.labels), labels::VOLUME));
    }
    observed.containers.extend(engine.kept_containers(&of_project(project, None)).into_iter().map(container));
    for name in images {
        match engine.inspect_image(name).await {
            Ok(image) => {
                observed.images.insert(name.clone(), image.id.unwrap_or_default());
            }
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(observed)
}

/// Looks who else is in those of a project's networks that are defined otherwise than when they were made.
pub async fn observe_others(engine: &Engine, project: &Project, observed: &mut Observed) {
    for network in project.networks.values() {
        let Some(resource) = observed.networks.get_mut(&network.name) else { continue };
        let is_own = resource.project.as_deref() == Some(&project.name);
        if network.external || !is_own || !resource.is_outdated(|| network.config_hash()) {
            continue;
        }
        let found = engine.inspect_network(&network.name, false).await.ok().and_then(|found| found.containers);
        let is_other = |id: &String| !observed.containers.iter().any(|own| own.id == *id);
        let others = found.into_iter().flatten().filter(|(id, _)| is_other(id));
        resource.others = others.map(|(id, endpoint)| endpoint.name.unwrap_or(id)).collect();
        resource.others.sort();
    }
}

/// The containers of a project, or of one of its services.
pub async fn summaries(engine: &Engine, project: &str, service: Option<&str>) -> Result<Vec<ContainerSummary>> {
    let filters = of_project(project, service);
    engine.list_containers(ListOptions { all: true, filters, ..ListOptions::default() }).await
}

/// What the containers of a project, or of one of its services, pass.
pub fn of_project(project: &str, service: Option<&str>) -> Filters {
    let mut filters = Filters::default();
    filters.add("label", &format!("{}={project}", labels::PROJECT));
    // Images that a stack builds bear its name, too: what somebody runs of them is not the stack's.
    filters.add("label", labels::ONEOFF);
    if let Some(service) = service {
        filters.add("label", &format!("{}={service}", labels::SERVICE));
    }
    filters
}

fn resource(found: Option<&HashMap<String, String>>, key: &str) -> ObservedResource {
    let label = |name: &str| found.and_then(|labels| labels.get(name)).cloned();
    ObservedResource {
        project: label(labels::PROJECT),
        key: label(key),
        hash: label(labels::CONFIG_HASH),
        others: Vec::new(),
    }
}

fn container(found: Kept) -> ObservedContainer {
    let empty = HashMap::new();
    let all = found.labels().unwrap_or(&empty);
    let label = |name: &str| all.get(name).cloned().unwrap_or_default();
    let standing = &found.standing;
    let status = match found.state() {
        ContainerSummaryStateEnum::RUNNING | ContainerSummaryStateEnum::RESTARTING => Status::Running,
        ContainerSummaryStateEnum::PAUSED => Status::Paused,
        ContainerSummaryStateEnum::EXITED => {
            Status::Exited { code: standing.code, by_hand: standing.by_hand, lost: standing.lost }
        }
        ContainerSummaryStateEnum::DEAD => Status::Dead,
        _ => Status::Created,
    };
    ObservedContainer {
        id: found.id().to_owned(),
        name: found.name().to_owned(),
        service: label(labels::SERVICE),
        number: label(labels::NUMBER).parse().unwrap_or(0),
        oneoff: labels::is_one_off(all),
        hash: labels::version(all),
        parts: label(labels::PARTS),
        image: found.image().to_owned(),
        mounted: all.get(labels::MOUNTED_IMAGES).cloned(),
        status,
        started: standing.started_boot_ns,
        updated: standing.updated,
        well: standing.well,
        bound: standing.bound.clone(),
        ran_ns: (standing.started_ns, standing.finished_ns),
        networks: found.networks,
    }
}
