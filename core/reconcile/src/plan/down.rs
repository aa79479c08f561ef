//! Planning `down`. Pure.

use std::collections::{BTreeMap, BTreeSet};

use sampan_compose::Project;

use super::{Action, Plan};
use crate::desired;
use crate::observed::{Observed, ObservedContainer};

/// How `down` goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DownOptions {
    /// Only these services; empty for all with networks.
    pub services: BTreeSet<String>,
    /// Remove the volumes that the project declares.
    pub volumes: bool,
    /// Remove containers of services that the project does not have, too.
    pub remove_orphans: bool,
}

/// Plans `down`: dependents first. Without a project (its files are gone) everything that carries its name goes.
#[must_use]
pub fn down(name: &str, project: Option<&Project>, observed: &Observed, options: &DownOptions) -> Plan {
    let mut plan = Plan::default();
    let order = project.map(desired::order).unwrap_or_default();
    let rank = |service: &str| order.iter().position(|found| found == service).unwrap_or(usize::MAX);
    let mut containers: Vec<&ObservedContainer> = observed
        .containers
        .iter()
        .filter(|container| options.services.is_empty() || options.services.contains(&container.service))
        .filter(|container| {
            options.remove_orphans
                || options.services.contains(&container.service)
                || project.is_none_or(|project| {
                    project.services.contains_key(&container.service)
                        || project.inactive.contains_key(&container.service)
                })
        })
        .collect();
    containers.sort_by_key(|container| (std::cmp::Reverse(rank(&container.service)), container.number));
    let mut stops: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let mut removals = Vec::new();
    for container in containers {
        let (service, container_name, id) = (container.service.clone(), container.name.clone(), container.id.clone());
        // Behind the stops of those that need this service.
        let after: Vec<usize> = project
            .into_iter()
            .flat_map(|project| &project.services)
            .filter(|(_, dependent)| desired::needs(dependent).contains_key(&container.service))
            .filter_map(|(dependent, _)| stops.get(dependent.as_str()))
            .flatten()
            .copied()
            .collect();
        let mut last = after;
        if container.status.is_alive() {
            let stop =
                plan.add(Action::Stop { service: service.clone(), name: container_name.clone(), id: id.clone() }, last);
            stops.entry(&container.service).or_default().push(stop);
            last = vec![stop];
        }
        removals.push(plan.add(Action::Remove { service, name: container_name, id }, last));
    }
    if options.services.is_empty() {
        let own = |found: &crate::observed::ObservedResource| found.project.as_deref() == Some(name);
        for (network, _) in observed.networks.iter().filter(|(_, found)| own(found)) {
            plan.add(Action::RemoveNetwork { name: network.clone(), anew: false }, removals.clone());
        }
        if options.volumes {
            for (volume, _) in observed.volumes.iter().filter(|(_, found)| own(found)) {
                plan.add(Action::RemoveVolume { name: volume.clone() }, removals.clone());
            }
        }
    }
    plan
}
