//! An engine on paper: what plans do to it.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, dead_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use sampan_compose::{LoadOptions, MemoryFiles, Project};
use sampan_reconcile::desired::{self, DesiredContainer};
use sampan_reconcile::observed::{Observed, ObservedContainer, ObservedResource, Status};
use sampan_reconcile::plan::{self, Action, Plan, PlanOptions};

pub fn project(yaml: &str) -> Project {
    let files = MemoryFiles::default().with("/p/compose.yaml", yaml);
    let options = LoadOptions { working_dir: "/p".into(), project_name: Some("p".into()), ..LoadOptions::default() };
    match sampan_compose::load(&options, &files) {
        Ok(loaded) => loaded.project,
        Err(diagnostics) => panic!("{diagnostics}"),
    }
}

pub fn wanted(project: &Project) -> BTreeMap<String, Vec<DesiredContainer>> {
    project
        .services
        .iter()
        .map(|(name, service)| {
            let containers = (1..=service.replicas())
                .map(|number| desired::container(project, name, number, Path::new("/files")).unwrap())
                .collect();
            (name.clone(), containers)
        })
        .collect()
}

pub fn up(project: &Project, observed: &Observed, options: &PlanOptions) -> Plan {
    plan::up(project, &wanted(project), observed, options).unwrap()
}

/// Ids are never used again.
pub fn fresh() -> usize {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(1);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// Carries a plan out.
pub fn apply(project: &Project, observed: &mut Observed, plan: &Plan) {
    apply_some(project, observed, plan, |_| true);
}

/// Carries out those actions of a plan that are reached, and what they stand on was: a daemon that dies somewhere leaves
/// some such set done.
pub fn apply_some(project: &Project, observed: &mut Observed, plan: &Plan, reached: impl Fn(usize) -> bool) {
    let mut done = vec![false; plan.nodes.len()];
    let desired = wanted(project);
    let hash = |service: &str, number: u32| {
        desired[service].iter().find(|container| container.number == number).unwrap().hash.clone()
    };
    let parts = |service: &str, number: u32| {
        let desired = desired[service].iter().find(|container| container.number == number).unwrap();
        desired.body.labels.as_ref().unwrap()["sampan.parts"].clone()
    };
    let networks = |service: &str| {
        let keys = project.services[service].networks.keys();
        keys.map(|key| project.networks[key].name.clone()).collect::<Vec<_>>()
    };
    let image = |observed: &Observed, service: &str| {
        observed.images.get(&project.image_name(service)).cloned().unwrap_or_default()
    };
    let bound = |observed: &Observed, service: &str| {
        let owner = |peer: &str| {
            let name = desired::container_name(project, peer, 1);
            observed.containers.iter().find(|container| container.name == name).map(|container| container.id.clone())
        };
        desired::shared_with(&project.services[service]).filter_map(owner).collect::<Vec<_>>()
    };
    for (number, node) in plan.nodes.iter().enumerate() {
        assert!(node.after.iter().all(|after| *after < number), "an action comes behind what it needs:\n{plan}");
        if !reached(number) || !node.after.iter().all(|after| done[*after]) {
            continue;
        }
        done[number] = true;
        match &node.action {
            Action::CreateNetwork { key, name } => {
                let resource = ObservedResource {
                    project: Some(project.name.clone()),
                    key: Some(key.clone()),
                    hash: Some(project.networks[key].config_hash()),
                    ..ObservedResource::default()
                };
                assert!(observed.networks.insert(name.clone(), resource).is_none(), "{name} is there already");
            }
            Action::RemoveNetwork { name, .. } => {
                assert!(
                    !observed.containers.iter().any(|container| container.networks.contains(name)),
                    "{name} is in use"
                );
                assert!(observed.networks.remove(name).is_some());
            }
            Action::CreateVolume { key, name } => {
                let resource = ObservedResource {
                    project: Some(project.name.clone()),
                    key: Some(key.clone()),
                    hash: Some(project.volumes[key].config_hash()),
                    ..ObservedResource::default()
                };
                assert!(observed.volumes.insert(name.clone(), resource).is_none());
            }
            Action::RemoveVolume { name } => drop(observed.volumes.remove(name)),
            Action::Create { service, number: replica, name } => {
                let free = behind(plan, number);
                for (remove, other) in plan.nodes.iter().enumerate() {
                    if matches!(&other.action, Action::Remove { name: removed, .. } if removed == name) {
                        assert!(free.contains(&remove), "{name} is made beside its removal:\n{plan}");
                    }
                }
                assert!(!observed.containers.iter().any(|container| container.name == *name), "{name} is taken");
                for network in networks(service) {
                    assert!(observed.networks.contains_key(&network), "{network} is not there for {name}");
                }
                let fresh = fresh();
                let container = ObservedContainer {
                    id: format!("{fresh:064x}"),
                    name: name.clone(),
                    service: service.clone(),
                    number: *replica,
                    hash: hash(service, *replica),
                    parts: parts(service, *replica),
                    image: image(observed, service),
                    mounted: observed.mounted(project, service),
                    networks: networks(service),
                    bound: bound(observed, service),
                    ..ObservedContainer::default()
                };
                observed.containers.push(container);
            }
            Action::Start { name, .. } | Action::Restart { name, .. } => {
                let container = observed.containers.iter_mut().find(|container| container.name == *name).unwrap();
                container.status = Status::Running;
                container.started = fresh() as u64;
            }
            Action::Recreate { service, number, name, old, .. } => {
                let image = image(observed, service);
                let mounted = observed.mounted(project, service);
                let bound = bound(observed, service);
                let container = observed.containers.iter_mut().find(|container| container.id == *old).unwrap();
                let fresh = fresh();
                *container = ObservedContainer {
                    id: format!("{fresh:064x}"),
                    started: fresh as u64,
                    updated: false,
                    bound,
                    name: name.clone(),
                    hash: hash(service, *number),
                    parts: parts(service, *number),
                    image,
                    mounted,
                    status: Status::Running,
                    networks: networks(service),
                    ..container.clone()
                };
            }
            Action::Update { service, replicas, .. } => {
                let image = image(observed, service);
                let mounted = observed.mounted(project, service);
                let bound = bound(observed, service);
                for replica in replicas {
                    // One that an update which was cut short has made is taken as it is.
                    observed
                        .containers
                        .retain(|container| container.id == replica.old || container.name != replica.name);
                    let old = observed.containers.iter_mut().find(|container| container.id == replica.old).unwrap();
                    assert!(old.status.is_alive(), "{} does not run", replica.name);
                    let fresh = fresh();
                    *old = ObservedContainer {
                        id: format!("{fresh:064x}"),
                        started: fresh as u64,
                        updated: false,
                        bound: bound.clone(),
                        name: replica.name.clone(),
                        hash: hash(service, replica.number),
                        parts: parts(service, replica.number),
                        image: image.clone(),
                        mounted: mounted.clone(),
                        status: Status::Running,
                        networks: networks(service),
                        ..old.clone()
                    };
                }
            }
            Action::Change { service, number, id, changes, .. } => {
                let container = observed.containers.iter_mut().find(|container| container.id == *id).unwrap();
                assert!(!changes.is_empty() || container.hash != hash(service, *number));
                container.updated = false;
                container.hash = hash(service, *number);
                container.parts = parts(service, *number);
                container.networks = networks(service);
            }
            Action::Rename { id, name, .. } => {
                assert!(!observed.containers.iter().any(|container| container.name == *name), "{name} is taken");
                let container = observed.containers.iter_mut().find(|container| container.id == *id).unwrap();
                container.name.clone_from(name);
            }
            Action::Stop { id, .. } => {
                let container = observed.containers.iter_mut().find(|container| container.id == *id).unwrap();
                assert!(container.status.is_alive());
                container.status = Status::Exited { code: 143, by_hand: true, lost: false };
            }
            Action::Remove { id, .. } => {
                let at = observed.containers.iter().position(|container| container.id == *id).unwrap();
                assert!(!observed.containers.remove(at).status.is_alive(), "removed while it runs");
            }
            Action::Await { .. } => {}
        }
    }
}

pub fn running(project: &Project) -> Observed {
    let mut observed = Observed::default();
    let plan = up(project, &observed, &PlanOptions::default());
    apply(project, &mut observed, &plan);
    observed
}

/// All that must be done before an action.
pub fn behind(plan: &Plan, number: usize) -> BTreeSet<usize> {
    let mut all = BTreeSet::new();
    let mut open = plan.nodes[number].after.clone();
    while let Some(next) = open.pop() {
        if all.insert(next) {
            open.extend(&plan.nodes[next].after);
        }
    }
    all
}
