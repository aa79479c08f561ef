//! Planning `up`: networks and volumes, then each service behind those that it needs. Pure.

use std::collections::{BTreeMap, BTreeSet};

use sampan_compose::Project;
use sampan_compose::model::Condition;

use super::{Action, Because, Plan, PlanOptions, Replica, Unplannable, Why, selected};
use crate::desired::{self, DesiredContainer};
use crate::in_place::{self, Change};
use crate::observed::{Observed, ObservedContainer, Status};
use crate::rollout::{self, Order, Policy};

/// Whether the daemon starts an ended container by itself. What the program decided (an exit code of its own) is left to
/// the restart policy; what happened to it (a signal, a restart of the host) is mended, unless the file says `restart: "no"`.
pub(crate) fn heals(project: &Project, container: &ObservedContainer, options: &PlanOptions) -> bool {
    if options.stopped.contains(&container.service) || options.waiting.contains(&container.id) {
        return false;
    }
    let never = project.services.get(&container.service).is_some_and(|service| service.restart == "no");
    match container.status {
        Status::Created => true,
        Status::Exited { by_hand: true, .. } | Status::Running | Status::Paused => false,
        Status::Exited { lost: true, .. } => true,
        Status::Exited { code, .. } => code >= 128 && !never,
        Status::Dead => false,
    }
}

struct Planner<'a> {
    project: &'a Project,
    observed: &'a Observed,
    options: &'a PlanOptions,
    plan: Plan,
    /// Networks that are made now, or made anew: the action that makes them.
    networks: BTreeMap<String, usize>,
    /// Names of networks that are made anew.
    replaced: BTreeSet<String>,
    volumes: BTreeMap<String, usize>,
    /// Actions behind which a service has its containers running.
    running: BTreeMap<String, Vec<usize>>,
    /// Services of which a container is made anew or started again.
    renewed: BTreeSet<String>,
    /// Services of which a container is made anew.
    remade: BTreeSet<String>,
    gates: BTreeMap<(String, &'static str), usize>,
    /// Ids of containers that are removed.
    going: BTreeSet<String>,
    /// Their names, each with the action behind which it is free.
    freed: BTreeMap<String, usize>,
    /// Running containers of the service at hand that are replaced.
    updates: Vec<Replica>,
    init: Init,
}

/// What becomes of a container that is there.
enum Fate {
    Keep,
    Change(Vec<Change>),
    Remake(Why),
}

/// Whether the service at hand waits for containers that run before it.
#[derive(Debug, Clone, Copy)]
enum Init {
    /// It has none, or they are not run now.
    None,
    /// The first container that is started or made anew waits for them.
    Open,
    /// They are run by this action: the others come behind it.
    Done(usize),
}

/// Plans `up`: every selected service with the containers of `desired`.
pub fn up(
    project: &Project,
    desired: &BTreeMap<String, Vec<DesiredContainer>>,
    observed: &Observed,
    options: &PlanOptions,
) -> Result<Plan, Unplannable> {
    let mut planner = Planner {
        project,
        observed,
        options,
        plan: Plan::default(),
        networks: BTreeMap::new(),
        replaced: BTreeSet::new(),
        volumes: BTreeMap::new(),
        running: BTreeMap::new(),
        renewed: BTreeSet::new(),
        remade: BTreeSet::new(),
        gates: BTreeMap::new(),
        going: BTreeSet::new(),
        freed: BTreeMap::new(),
        updates: Vec::new(),
        init: Init::None,
    };
    let services = selected(project, options);
    planner.orphans();
    planner.plan_networks(&services)?;
    planner.plan_volumes(&services)?;
    for service in &services {
        planner.plan_service(service, desired.get(service).map_or(&[], Vec::as_slice));
    }
    planner.retire_networks();
    Ok(planner.plan)
}

impl Planner<'_> {
    fn containers_of<'b>(observed: &'b Observed, service: &str) -> Vec<&'b ObservedContainer> {
        let mut found: Vec<_> =
            observed.containers.iter().filter(|container| container.service == service && !container.oneoff).collect();
        found.sort_by_key(|container| (container.number, !container.status.is_alive(), container.id.clone()));
        found
    }

    /// Whether a service's containers are made anew, changed or not.
    fn forced(&self, service: &str) -> bool {
        let named = self.options.services.is_empty() || self.options.services.contains(service);
        if named { self.options.force_recreate } else { self.options.recreate_deps }
    }

    /// Stops (if it runs) and removes a container.
    fn discard(&mut self, container: &ObservedContainer, after: Vec<usize>) -> usize {
        let (service, name, id) = (container.service.clone(), container.name.clone(), container.id.clone());
        self.going.insert(id.clone());
        let freed = name.clone();
        let after = if container.status.is_alive() {
            vec![self.plan.add(Action::Stop { service: service.clone(), name: name.clone(), id: id.clone() }, after)]
        } else {
            after
        };
        let removed = self.plan.add(Action::Remove { service, name, id }, after);
        self.freed.insert(freed, removed);
        removed
    }

    fn orphans(&mut self) {
        let mut orphans = Vec::new();
        for container in &self.observed.containers {
            let known = self.project.services.contains_key(&container.service);
            let inactive = self.project.inactive.contains_key(&container.service);
            if known || container.oneoff {
                continue;
            }
            if self.options.remove_orphans && !inactive || self.options.retired.contains(&container.service) {
                self.discard(container, Vec::new());
            } else if !inactive && !self.options.healing && !self.options.ignore_orphans {
                orphans.push(container.name.clone());
            }
        }
        if !orphans.is_empty() {
            self.plan.warnings.push(format!(
                "Found orphan containers ([{}]) for this project. If you removed or renamed this service in your compose file, you can run this command with the --remove-orphans flag to clean it up.",
                orphans.join(" ")
            ));
        }
    }

    fn plan_networks(&mut self, services: &[String]) -> Result<(), Unplannable> {
        let used: BTreeSet<&String> = services
            .iter()
            .filter_map(|service| self.project.services.get(service))
            .flat_map(|service| std::iter::once(service).chain(&service.pre_start))
            .filter(|service| service.network_mode.is_empty())
            .flat_map(|service| service.networks.keys())
            .chain(self.project.networks.keys().filter(|_| self.project.all_resources))
            .collect();
        for key in used {
            let Some(network) = self.project.networks.get(key) else { continue };
            let name = network.name.clone();
            let found = self.observed.networks.get(&name);
            match found {
                None if network.external => {
                    return Err(Unplannable(format!(
                        "network {name} declared as external, but could not be found; make it with `sampan network create {name}`"
                    )));
                }
                None => {
                    let made =
                        self.plan.add(Action::CreateNetwork { key: key.clone(), name: name.clone() }, Vec::new());
                    self.networks.insert(key.clone(), made);
                }
                Some(_) if network.external => {}
                Some(found) if found.project.as_deref() != Some(&self.project.name) => {
                    self.plan.warnings.push(format!(
                        "a network with name {name} exists but was not created for project \"{}\". Set `external: true` to use an existing network",
                        self.project.name
                    ));
                }
                Some(found) if !found.is_outdated(|| network.config_hash()) => {}
                // Our containers would be gone, and it still there.
                Some(found) if !found.others.is_empty() => {
                    self.plan.warnings.push(format!(
                        "network {name} is defined otherwise than when it was made, and stays as it is while containers of others are in it ({})",
                        found.others.join(", ")
                    ));
                }
                Some(_) => {
                    // What is in the network must leave it first.
                    let users: Vec<ObservedContainer> = self
                        .observed
                        .containers
                        .iter()
                        .filter(|container| container.networks.contains(&name))
                        .cloned()
                        .collect();
                    let gone: Vec<usize> = users.iter().map(|container| self.discard(container, Vec::new())).collect();
                    let removed = self.plan.add(Action::RemoveNetwork { name: name.clone(), anew: true }, gone);
                    let made =
                        self.plan.add(Action::CreateNetwork { key: key.clone(), name: name.clone() }, vec![removed]);
                    self.networks.insert(key.clone(), made);
                    self.replaced.insert(name);
                }
            }
        }
        Ok(())
    }

    fn plan_volumes(&mut self, services: &[String]) -> Result<(), Unplannable> {
        use sampan_compose::model::MountType;
        let used: BTreeSet<&String> = services
            .iter()
            .filter_map(|service| self.project.services.get(service))
            .flat_map(|service| std::iter::once(service).chain(&service.pre_start))
            .flat_map(|service| &service.volumes)
            .filter(|mount| mount.kind == MountType::Volume && !mount.source.is_empty())
            .map(|mount| &mount.source)
            .chain(self.project.volumes.keys().filter(|_| self.project.all_resources))
            .collect();
        for key in used {
            let Some(volume) = self.project.volumes.get(key) else { continue };
            let name = volume.name.clone();
            match self.observed.volumes.get(&name) {
                None if volume.external => {
                    return Err(Unplannable(format!(
                        "external volume \"{name}\" not found; make it with `sampan volume create {name}`"
                    )));
                }
                None => {
                    let made = self.plan.add(Action::CreateVolume { key: key.clone(), name: name.clone() }, Vec::new());
                    self.volumes.insert(key.clone(), made);
                }
                Some(found) if !volume.external && found.is_outdated(|| volume.config_hash()) => {
                    self.plan.warnings.push(format!(
                        "volume {name} is defined otherwise than when it was made, and stays as it is with its data; remove it (`sampan volume rm {name}`) to have it made anew"
                    ));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// The action that waits for a dependency, made when the first one needs it.
    fn gate(&mut self, service: &str, condition: Condition, required: bool) -> usize {
        let key = (service.to_owned(), condition.as_str());
        if let Some(gate) = self.gates.get(&key) {
            // Needed by one is needed.
            if required && let Action::Await { required, .. } = &mut self.plan.nodes[*gate].action {
                *required = true;
            }
            return *gate;
        }
        let after = self.running.get(service).cloned().unwrap_or_default();
        let gate = self.plan.add(Action::Await { service: service.to_owned(), condition, required }, after);
        self.gates.insert(key, gate);
        gate
    }

    fn plan_service(&mut self, name: &str, wanted: &[DesiredContainer]) {
        let Some(service) = self.project.services.get(name) else { return };
        let needs = desired::needs(service);
        let mut made: Vec<usize> = Vec::new();
        for one in std::iter::once(service).chain(&service.pre_start) {
            made.extend(one.networks.keys().filter_map(|key| self.networks.get(key)));
            made.extend(one.volumes.iter().filter_map(|mount| self.volumes.get(&mount.source)));
        }
        let policy = self.policy(name);
        let mut existing: Vec<ObservedContainer> = Self::containers_of(self.observed, name)
            .into_iter()
            .filter(|container| !container.networks.iter().any(|network| self.replaced.contains(network)))
            .cloned()
            .collect();
        let frozen = self.options.frozen.contains(name);
        existing.sort_by_key(|container| {
            let current = self.is_current(name, container, wanted);
            let aside = wanted.iter().all(|desired| desired.name != container.name);
            (container.number, !container.status.is_alive(), current == frozen, aside, container.id.clone())
        });
        if policy.as_ref().is_some_and(|policy| policy.order == Order::StartFirst)
            && !self.options.no_recreate
            && !frozen
        {
            self.resume(name, &mut existing, wanted);
        }
        let mut kept: BTreeMap<u32, ObservedContainer> = BTreeMap::new();
        let mut discarded = Vec::new();
        for container in existing {
            let superfluous = container.number == 0
                || !wanted.iter().any(|desired| desired.number == container.number)
                || kept.contains_key(&container.number)
                || container.status == Status::Dead;
            if superfluous {
                discarded.push(self.discard(&container, Vec::new()));
            } else {
                kept.insert(container.number, container);
            }
        }
        // Not beside one that runs on.
        let serves = |container: &ObservedContainer| {
            let desired = wanted.iter().find(|desired| desired.number == container.number);
            let fate = desired.map(|desired| self.fate(name, container, desired, false));
            container.status.is_alive() && !matches!(fate, Some(Fate::Remake(_)))
        };
        let idle = self.options.no_start || self.options.stopped.contains(name);
        let prepares = !service.pre_start.is_empty() && !idle && !frozen && !kept.values().any(serves);
        self.init = if prepares { Init::Open } else { Init::None };
        let peer_renewed = needs.iter().any(|(peer, (_, restart, _))| *restart && self.renewed.contains(peer));
        let shares = desired::shared_with(service).any(|peer| self.remade.contains(peer));
        let mut running = Vec::new();
        for desired in wanted {
            let step = match kept.get(&desired.number) {
                None if self.options.removed.contains(name) => None,
                None => {
                    let mut after = made.clone();
                    after.extend(&discarded);
                    // A namespace to share must be there when the container is made.
                    after.extend(self.peers(service));
                    let (number, container) = (desired.number, desired.name.clone());
                    after.extend(self.freed.get(&container));
                    let created = self
                        .plan
                        .add(Action::Create { service: name.to_owned(), number, name: container.clone() }, after);
                    // One more beside others that stay renews nothing: who depends on the service goes on as it is.
                    if kept.is_empty() {
                        self.note_remade(name);
                    } else if desired.number == 1 {
                        self.remade.insert(name.to_owned());
                    }
                    let start = !self.options.no_start && !self.options.stopped.contains(name);
                    if start {
                        let mut after = self.gates_of(&needs);
                        after.push(created);
                        let service = name.to_owned();
                        Some(self.behind_init(after, |prepare| Action::Start {
                            service,
                            number,
                            name: container,
                            prepare,
                        }))
                    } else {
                        Some(created)
                    }
                }
                Some(found) => {
                    let before: Vec<usize> = made.iter().chain(&discarded).copied().collect();
                    let place = (found, policy.as_ref());
                    let renewed = peer_renewed || self.is_behind(found, &needs);
                    let shares = shares || self.is_unbound(service, found);
                    self.plan_existing(name, desired, place, &needs, &before, (renewed, shares))
                }
            };
            running.extend(step);
        }
        if let Some(policy) = policy
            && !self.updates.is_empty()
        {
            let replicas = std::mem::take(&mut self.updates);
            let mut after: Vec<usize> = made.iter().chain(&discarded).copied().collect();
            after.extend(replicas.iter().filter_map(|replica| self.freed.get(&replica.name)));
            after.extend(self.gates_of(&needs));
            let service = name.to_owned();
            running.push(self.behind_init(after, |prepare| Action::Update { service, replicas, policy, prepare }));
        }
        running.extend(discarded);
        self.running.insert(name.to_owned(), running);
    }

    fn peers(&self, service: &sampan_compose::Service) -> Vec<usize> {
        desired::shared_with(service).filter_map(|peer| self.running.get(peer)).flatten().copied().collect()
    }

    fn note_remade(&mut self, service: &str) {
        self.renewed.insert(service.to_owned());
        self.remade.insert(service.to_owned());
    }

    /// Whether what a container is bound to was started again after it: the container whose namespace it shares, or all
    /// of a service's. One more of several is no reason.
    fn is_behind(&self, found: &ObservedContainer, needs: &BTreeMap<String, (Condition, bool, bool)>) -> bool {
        if found.started == 0 || found.status != Status::Running {
            return false;
        }
        let peers = |service: &str| {
            let service = service.to_owned();
            let all = self.observed.containers.iter().filter(|peer| peer.status == Status::Running);
            all.filter(move |peer| !peer.oneoff && peer.service == service)
        };
        let later = |peer: &ObservedContainer| peer.started > found.started;
        needs.iter().filter(|(_, (_, restart, _))| *restart).any(|(service, _)| {
            let shared = peers(service).any(|peer| found.bound.contains(&peer.id) && later(peer));
            shared || peers(service).next().is_some() && peers(service).all(later)
        })
    }

    /// Whether a container shares the namespace of one that is no longer its service's.
    fn is_unbound(&self, service: &sampan_compose::Service, found: &ObservedContainer) -> bool {
        let by_hand = matches!(found.status, Status::Exited { by_hand: true, .. });
        if self.options.healing && by_hand || found.bound.is_empty() {
            return false;
        }
        desired::shared_with(service).any(|peer| {
            let first = self.observed.containers.iter().find(|container| {
                container.service == peer
                    && !container.oneoff
                    && container.name == desired::container_name(self.project, peer, 1)
            });
            first.is_some_and(|first| !found.bound.contains(&first.id))
        })
    }

    /// What was changed by hand, against what the file says.
    fn drift(&self, name: &str, found: &ObservedContainer, desired: &DesiredContainer) -> Vec<Change> {
        let mut changes = Vec::new();
        if self.options.frozen.contains(name) || !desired.is(&found.hash, self.project, name) {
            return changes;
        }
        if found.updated {
            changes.push(Change::Restore);
        }
        let networking = desired.body.networking_config.as_ref();
        let endpoints = networking.and_then(|networking| networking.endpoints_config.as_ref());
        let mut missing: Vec<&String> = endpoints
            .into_iter()
            .flat_map(|all| all.keys())
            .filter(|network| !found.networks.contains(network))
            .collect();
        missing.sort();
        changes.extend(missing.into_iter().map(|network| Change::Connect(network.clone())));
        changes
    }

    fn gates_of(&mut self, needs: &BTreeMap<String, (Condition, bool, bool)>) -> Vec<usize> {
        let known: Vec<(String, Condition, bool)> = needs
            .iter()
            .filter(|(peer, _)| self.running.contains_key(*peer))
            .map(|(peer, (condition, _, required))| (peer.clone(), *condition, *required))
            .collect();
        known.into_iter().map(|(peer, condition, required)| self.gate(&peer, condition, required)).collect()
    }

    fn plan_existing(
        &mut self,
        name: &str,
        desired: &DesiredContainer,
        (found, policy): (&ObservedContainer, Option<&Policy>),
        needs: &BTreeMap<String, (Condition, bool, bool)>,
        made: &[usize],
        (peer_renewed, shares): (bool, bool),
    ) -> Option<usize> {
        let idle = self.options.no_start || self.options.stopped.contains(name);
        let mut made = made.to_vec();
        let mut done = None;
        let mut own_name = found.name.clone();
        let why = match self.fate(name, found, desired, shares) {
            Fate::Keep => None,
            Fate::Remake(why) => Some(why),
            Fate::Change(changes) => {
                let (service, number) = (name.to_owned(), desired.number);
                let (name, id) = (found.name.clone(), found.id.clone());
                let changed = self.plan.add(Action::Change { service, number, name, id, changes }, made.clone());
                made.push(changed);
                done = Some(changed);
                None
            }
        };
        let drift = self.drift(name, found, desired);
        if why.is_none() && !drift.is_empty() {
            let (service, number) = (name.to_owned(), desired.number);
            let (name, id) = (found.name.clone(), found.id.clone());
            let changed = self.plan.add(Action::Change { service, number, name, id, changes: drift }, made.clone());
            made.push(changed);
            done = Some(changed);
        }
        if let (Some(why), Some(_), false, true) = (why, policy, idle, found.status.is_alive()) {
            self.note_remade(name);
            let (name, old) = (desired.name.clone(), found.id.clone());
            self.updates.push(Replica { number: desired.number, name, old, why });
            return None;
        }
        if why.is_none() && self.is_misnamed(found, desired) {
            let (service, id, before) = (name.to_owned(), found.id.clone(), found.name.clone());
            made.extend(self.freed.get(&desired.name));
            let renamed =
                self.plan.add(Action::Rename { service, name: desired.name.clone(), id, before }, made.clone());
            made.push(renamed);
            done = Some(renamed);
            own_name.clone_from(&desired.name);
        }
        if let Some(why) = why {
            let mut after = made;
            after.extend(self.freed.get(&desired.name));
            if !idle {
                after.extend(self.gates_of(needs));
            }
            self.note_remade(name);
            let (service, number, old) = (name.to_owned(), desired.number, found.id.clone());
            let name = desired.name.clone();
            let remake = |prepare| Action::Recreate { service, number, name, old, why, prepare };
            return Some(self.behind_init(after, remake));
        }
        if idle {
            return done;
        }
        let start = match found.status {
            Status::Running | Status::Paused => {
                let why = if peer_renewed { Because::Peer } else { Because::Unhealthy };
                if (peer_renewed || self.options.sick.contains(&found.id)) && found.status == Status::Running {
                    let mut after = self.gates_of(needs);
                    after.extend(done);
                    self.renewed.insert(name.to_owned());
                    let restart = Action::Restart { service: name.to_owned(), name: own_name, why };
                    return Some(self.plan.add(restart, after));
                }
                false
            }
            _ if self.options.healing => heals(self.project, found, self.options),
            _ => true,
        };
        if !start {
            return done;
        }
        let mut after = made;
        after.extend(self.gates_of(needs));
        self.renewed.insert(name.to_owned());
        let (service, number, name) = (name.to_owned(), desired.number, own_name);
        // What ended by itself goes on; what never ran, or a user brings up again, begins at the beginning.
        if self.options.healing && found.status != Status::Created {
            return Some(self.plan.add(Action::Start { service, number, name, prepare: false }, after));
        }
        Some(self.behind_init(after, |prepare| Action::Start { service, number, name, prepare }))
    }

    /// Adds what starts a container: behind the containers that run before its service, if they are run now.
    fn behind_init(&mut self, mut after: Vec<usize>, start: impl FnOnce(bool) -> Action) -> usize {
        match self.init {
            Init::None => self.plan.add(start(false), after),
            Init::Done(before) => {
                after.push(before);
                self.plan.add(start(false), after)
            }
            Init::Open => {
                let started = self.plan.add(start(true), after);
                self.init = Init::Done(started);
                started
            }
        }
    }

    /// What becomes of a container that is there. `shares`: it must follow another one.
    fn fate(&self, name: &str, found: &ObservedContainer, desired: &DesiredContainer, shares: bool) -> Fate {
        let same_image = self.observed.has_images(self.project, name, found);
        if self.options.no_recreate || self.options.frozen.contains(name) {
            Fate::Keep
        } else if self.forced(name) {
            Fate::Remake(Why::Forced)
        } else if !desired.is(&found.hash, self.project, name) {
            match in_place::changes(&found.parts, &desired.parts) {
                Some(changes) if same_image && !shares => Fate::Change(changes),
                _ => Fate::Remake(Why::Definition),
            }
        } else if !same_image {
            Fate::Remake(Why::Image)
        } else if shares {
            Fate::Remake(Why::Peer)
        } else {
            Fate::Keep
        }
    }

    /// How running containers of a service are replaced, when it says how.
    fn policy(&mut self, name: &str) -> Option<Policy> {
        let (policy, warning) = rollout::policy(self.project, name, self.options.rolling_back.contains(name))?;
        self.plan.warnings.extend(warning.filter(|_| !self.options.healing));
        Some(policy)
    }

    /// An update that was cut short has left two: the old one, which serves, and the new one, which may not yet. The old
    /// one is what is replaced; the new one is found by its name.
    fn resume(&self, name: &str, existing: &mut Vec<ObservedContainer>, wanted: &[DesiredContainer]) {
        for desired in wanted {
            let alive =
                |container: &&ObservedContainer| container.number == desired.number && container.status.is_alive();
            let new = existing
                .iter()
                .filter(alive)
                .find(|container| container.name == desired.name && self.is_current(name, container, wanted));
            let replaced = |container: &ObservedContainer| {
                !self.is_current(name, container, wanted)
                    && in_place::changes(&container.parts, &desired.parts).is_none()
            };
            let others = |container: &&ObservedContainer| alive(container) && container.name != desired.name;
            if let Some(new) = new.map(|container| container.id.clone())
                && existing.iter().any(|container| others(&container))
                && existing.iter().filter(others).all(replaced)
            {
                existing.retain(|container| container.id != new);
            }
        }
    }

    /// Whether a container is of the wanted definition and image.
    fn is_current(&self, name: &str, found: &ObservedContainer, wanted: &[DesiredContainer]) -> bool {
        self.observed.has_images(self.project, name, found)
            && wanted
                .iter()
                .any(|desired| desired.number == found.number && desired.is(&found.hash, self.project, name))
    }

    /// Whether a container has another name than it should: it lies aside, as one that is being replaced does, or was
    /// renamed by hand.
    fn is_misnamed(&self, found: &ObservedContainer, desired: &DesiredContainer) -> bool {
        let holds = |other: &ObservedContainer| other.name == desired.name && !self.going.contains(&other.id);
        let taken = self.observed.containers.iter().any(holds);
        found.name != desired.name && !taken
    }

    /// Networks of the project that it no longer declares go when services were retired with them.
    fn retire_networks(&mut self) {
        if self.options.retired.is_empty() {
            return;
        }
        let removals: Vec<usize> = (0..self.plan.nodes.len()).collect();
        let declared: BTreeSet<&String> = self.project.networks.values().map(|network| &network.name).collect();
        let stale: Vec<String> = self
            .observed
            .networks
            .iter()
            .filter(|(name, found)| found.project.as_deref() == Some(&self.project.name) && !declared.contains(name))
            .map(|(name, _)| name.clone())
            .collect();
        for name in stale {
            self.plan.add(Action::RemoveNetwork { name, anew: false }, removals.clone());
        }
    }
}
