//! The planner: what it decides for well-known situations, and that its plans lead to where they should.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use proptest::prelude::*;
use sampan_compose::{LoadOptions, MemoryFiles, Project};
use sampan_reconcile::desired::{self, DesiredContainer};
use sampan_reconcile::observed::{Observed, ObservedContainer, ObservedResource, Status};
use sampan_reconcile::plan::{self, Action, DownOptions, Plan, PlanOptions};

fn project(yaml: &str) -> Project {
    let files = MemoryFiles::default().with("/p/compose.yaml", yaml);
    let options = LoadOptions { working_dir: "/p".into(), project_name: Some("p".into()), ..LoadOptions::default() };
    match sampan_compose::load(&options, &files) {
        Ok(loaded) => loaded.project,
        Err(diagnostics) => panic!("{diagnostics}"),
    }
}

fn wanted(project: &Project) -> BTreeMap<String, Vec<DesiredContainer>> {
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

fn up(project: &Project, observed: &Observed, options: &PlanOptions) -> Plan {
    plan::up(project, &wanted(project), observed, options).unwrap()
}

/// Ids are never used again.
fn fresh() -> usize {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(1);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// Carries a plan out on paper.
fn apply(project: &Project, observed: &mut Observed, plan: &Plan) {
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
        match &node.action {
            Action::CreateNetwork { key, name } => {
                let resource = ObservedResource {
                    project: Some(project.name.clone()),
                    key: Some(key.clone()),
                    hash: Some(desired::hash(&project.networks[key])),
                };
                assert!(observed.networks.insert(name.clone(), resource).is_none(), "{name} is there already");
            }
            Action::RemoveNetwork { name } => {
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
                    hash: Some(desired::hash(&project.volumes[key])),
                };
                assert!(observed.volumes.insert(name.clone(), resource).is_none());
            }
            Action::RemoveVolume { name } => drop(observed.volumes.remove(name)),
            Action::Create { service, number, name } => {
                assert!(!observed.containers.iter().any(|container| container.name == *name), "{name} is taken");
                for network in networks(service) {
                    assert!(observed.networks.contains_key(&network), "{network} is not there for {name}");
                }
                let fresh = fresh();
                let container = ObservedContainer {
                    id: format!("{fresh:064x}"),
                    name: name.clone(),
                    service: service.clone(),
                    number: *number,
                    hash: hash(service, *number),
                    parts: parts(service, *number),
                    image: image(observed, service),
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
                    status: Status::Running,
                    networks: networks(service),
                    ..container.clone()
                };
            }
            Action::Update { service, replicas, .. } => {
                let image = image(observed, service);
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

const CHAIN: &str = "
services:
  web:
    image: web
    depends_on:
      app: { condition: service_healthy }
    networks: [front]
  app:
    image: app
    depends_on:
      setup: { condition: service_completed_successfully }
      db: { condition: service_started, restart: true }
    networks: [front, back]
  setup: { image: setup, networks: [back] }
  db: { image: db, networks: [back], volumes: ['data:/data'] }
networks: { front: {}, back: {} }
volumes: { data: {} }
";

fn running(project: &Project) -> Observed {
    let mut observed = Observed::default();
    let plan = up(project, &observed, &PlanOptions::default());
    apply(project, &mut observed, &plan);
    observed
}

#[test]
fn the_first_up_makes_everything_in_order() {
    insta::assert_snapshot!(up(&project(CHAIN), &Observed::default(), &PlanOptions::default()));
}

#[test]
fn a_second_up_does_nothing() {
    let project = project(CHAIN);
    let plan = up(&project, &running(&project), &PlanOptions::default());
    assert!(plan.is_empty(), "{plan}");
}

#[test]
fn an_edit_touches_its_service_and_what_is_bound_to_it() {
    let before = project(CHAIN);
    let after = project(&CHAIN.replace("image: db,", "image: db, environment: { A: b },"));
    insta::assert_snapshot!(up(&after, &running(&before), &PlanOptions::default()));
}

#[test]
fn replicas_come_and_go_without_touching_the_others() {
    let one = project("services: { web: { image: web } }");
    let three = project("services: { web: { image: web, scale: 3 } }");
    let mut observed = running(&one);
    let plan = up(&three, &observed, &PlanOptions::default());
    assert_eq!(plan.nodes.len(), 4, "{plan}");
    apply(&three, &mut observed, &plan);
    let plan = up(&one, &observed, &PlanOptions::default());
    assert!(plan.nodes.iter().all(|node| matches!(node.action, Action::Stop { .. } | Action::Remove { .. })), "{plan}");
    apply(&one, &mut observed, &plan);
    assert_eq!(observed.containers.len(), 1);
    assert_eq!(observed.containers[0].number, 1);
}

#[test]
fn a_network_of_another_definition_is_made_anew_behind_its_users() {
    let before = project(CHAIN);
    let after = project(&CHAIN.replace("front: {}", "front: { internal: true }"));
    insta::assert_snapshot!(up(&after, &running(&before), &PlanOptions::default()));
}

#[test]
fn healing_leaves_alone_what_was_meant() {
    let project = project(CHAIN);
    let options = PlanOptions { healing: true, ..PlanOptions::default() };
    let with = |service: &str, status: Status| {
        let mut observed = running(&project);
        observed.containers.iter_mut().find(|container| container.service == service).unwrap().status = status;
        up(&project, &observed, &options)
    };
    let ended = |code, by_hand, lost| Status::Exited { code, by_hand, lost };
    assert!(with("setup", ended(0, false, false)).is_empty(), "a job that is done");
    assert!(with("setup", ended(1, false, false)).is_empty(), "a job that failed by its own word");
    assert!(with("web", ended(137, true, false)).is_empty(), "stopped by hand");
    assert!(!with("web", ended(137, false, false)).is_empty(), "killed");
    assert!(!with("web", ended(0, false, true)).is_empty(), "lost with the host");
    let mut observed = running(&project);
    observed.containers.retain(|container| container.service != "web");
    assert!(!up(&project, &observed, &options).is_empty(), "removed");
    let stopped = PlanOptions { stopped: BTreeSet::from(["web".to_owned()]), ..options };
    let mut observed = running(&project);
    observed.containers.iter_mut().find(|container| container.service == "web").unwrap().status =
        ended(137, false, false);
    assert!(up(&project, &observed, &stopped).is_empty(), "its service was stopped");
}

#[test]
fn down_ends_dependents_first() {
    let project = project(CHAIN);
    let observed = running(&project);
    let options = DownOptions { volumes: true, ..DownOptions::default() };
    insta::assert_snapshot!(plan::down("p", Some(&project), &observed, &options));
    let mut after = observed.clone();
    apply(&project, &mut after, &plan::down("p", Some(&project), &observed, &options));
    assert_eq!(after, Observed::default());
}

#[test]
fn external_things_must_be_there_and_are_named() {
    let project = project("services: { web: { image: web, networks: [out] } }\nnetworks: { out: { external: true } }");
    let error = plan::up(&project, &wanted(&project), &Observed::default(), &PlanOptions::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "network out declared as external, but could not be found; make it with `sampan network create out`"
    );
}

#[test]
fn services_that_left_the_file_go_with_their_networks_when_the_daemon_follows() {
    let before = project(CHAIN);
    let after = project(
        "services: { db: { image: db, networks: [back], volumes: ['data:/data'] } }\nnetworks: { back: {} }\nvolumes: { data: {} }",
    );
    let retired: BTreeSet<String> = ["web", "app", "setup"].map(str::to_owned).into();
    let options = PlanOptions { healing: true, retired, ..PlanOptions::default() };
    let mut observed = running(&before);
    let plan = up(&after, &observed, &options);
    apply(&after, &mut observed, &plan);
    assert_eq!(observed.containers.len(), 1);
    assert_eq!(observed.networks.keys().collect::<Vec<_>>(), ["p_back"]);
    assert_eq!(observed.volumes.len(), 1, "data stays");
}

const SHARED: &str = "
services:
  vpn: { image: vpn }
  app: { image: app, network_mode: 'service:vpn' }
  log: { image: log, pid: 'service:app' }
  web: { image: web, depends_on: { vpn: { condition: service_started, restart: true } } }
  still: { image: still, depends_on: [vpn] }
";

fn lines(plan: &Plan) -> Vec<String> {
    let acts = plan.nodes.iter().filter(|node| !matches!(node.action, Action::Await { .. }));
    acts.map(|node| node.action.to_string()).collect()
}

#[test]
fn what_is_bound_to_a_service_follows_its_restart_and_its_replacement() {
    let project = project(SHARED);
    let options = PlanOptions { healing: true, ..PlanOptions::default() };
    let mut observed = running(&project);
    assert!(up(&project, &observed, &options).is_empty());
    observed.containers.iter_mut().find(|container| container.service == "vpn").unwrap().started = fresh() as u64;
    let plan = up(&project, &observed, &options);
    let restarts = ["restart container p-app-1", "restart container p-log-1", "restart container p-web-1"];
    assert_eq!(lines(&plan), restarts, "it was started again by its policy or by hand");
    apply(&project, &mut observed, &plan);
    assert!(up(&project, &observed, &options).is_empty());
    // A daemon that died between the two.
    let owner = observed.containers.iter_mut().find(|container| container.service == "vpn").unwrap();
    owner.id = format!("{:064x}", fresh());
    let plan = up(&project, &observed, &options);
    assert!(lines(&plan)[0].starts_with("recreate container p-app-1: a service that it is bound to"), "{plan}");
    apply(&project, &mut observed, &plan);
    assert!(up(&project, &observed, &options).is_empty());
}

#[test]
fn what_was_changed_by_hand_comes_back_to_what_the_file_says() {
    let project = project(ROLLING);
    let options = PlanOptions { healing: true, ..PlanOptions::default() };
    let with = |change: fn(&mut ObservedContainer)| {
        let mut observed = running(&project);
        change(observed.containers.iter_mut().find(|container| container.name == "p-web-2").unwrap());
        let plan = up(&project, &observed, &options);
        apply(&project, &mut observed, &plan);
        assert!(up(&project, &observed, &options).is_empty(), "{plan}");
        lines(&plan)
    };
    assert_eq!(
        with(|container| container.updated = true),
        ["change container p-web-2 in place: limits and restart policy that were changed by hand"]
    );
    assert_eq!(
        with(|container| container.networks.clear()),
        ["change container p-web-2 in place: join network p_front"]
    );
    assert_eq!(with(|container| container.name = "mine".into()), ["rename container mine to p-web-2"]);
    assert!(with(|container| container.status = Status::Paused).is_empty(), "frozen by hand stays so");
    let mut observed = running(&project);
    observed.networks.remove("p_front");
    observed.containers.iter_mut().for_each(|container| container.networks.clear());
    let plan = up(&project, &observed, &options);
    assert_eq!(lines(&plan)[0], "create network p_front");
    assert_eq!(lines(&plan).len(), 5, "{plan}");
    apply(&project, &mut observed, &plan);
    assert!(up(&project, &observed, &options).is_empty());
}

#[test]
fn the_sick_are_restarted_and_those_that_crash_wait() {
    let project = project(CHAIN);
    let mut observed = running(&project);
    let id = |observed: &Observed, service: &str| {
        observed.containers.iter().find(|container| container.service == service).unwrap().id.clone()
    };
    let sick = PlanOptions { healing: true, sick: BTreeSet::from([id(&observed, "web")]), ..PlanOptions::default() };
    assert_eq!(lines(&up(&project, &observed, &sick)), ["restart container p-web-1: it is unhealthy"]);
    let waiting =
        PlanOptions { healing: true, waiting: BTreeSet::from([id(&observed, "web")]), ..PlanOptions::default() };
    observed.containers.iter_mut().find(|container| container.service == "web").unwrap().status =
        Status::Exited { code: 137, by_hand: false, lost: false };
    assert!(up(&project, &observed, &waiting).is_empty());
    assert!(!up(&project, &observed, &PlanOptions { healing: true, ..PlanOptions::default() }).is_empty());
}

/// A project of up to five services that need only earlier ones.
fn projects() -> impl Strategy<Value = Project> {
    let place = (0_u8..3, 0_u8..3, 0_u8..3, 0_u8..2);
    let service = (0_u32..4, 0_u8..3, proptest::collection::vec(any::<bool>(), 5), any::<bool>(), place);
    proptest::collection::vec(service, 1..5).prop_map(|services| {
        let mut yaml = String::from("services:\n");
        for (number, (scale, version, needs, restart, (limit, label, order, network))) in services.iter().enumerate() {
            yaml +=
                &format!("  s{number}:\n    image: i{version}\n    scale: {scale}\n    networks: [n{}]\n", version % 2);
            match limit {
                0 => {}
                limit => yaml += &format!("    mem_limit: {limit}g\n    pids_limit: {limit}\n"),
            }
            if number > 0 && *label == 2 {
                yaml += &format!("    pid: 'service:s{}'\n    ports: ['80']\n", number - 1);
            }
            if *label > 0 {
                yaml += &format!("    labels: {{ l: '{label}' }}\n");
            }
            if let Some(order) = ["start-first", "stop-first"].get(usize::from(*order)) {
                yaml += &format!("    deploy: {{ update_config: {{ order: {order} }} }}\n");
            }
            if *network > 0 {
                yaml = yaml.replace(
                    &format!("  s{number}:\n    image: i{version}\n    scale: {scale}\n    networks: [n"),
                    &format!("  s{number}:\n    image: i{version}\n    scale: {scale}\n    networks: [n2, n"),
                );
            }
            let needs: Vec<usize> = (0..number).filter(|other| needs[*other]).collect();
            if !needs.is_empty() {
                yaml += "    depends_on:\n";
                for other in needs {
                    yaml += &format!("      s{other}: {{ condition: service_started, restart: {restart} }}\n");
                }
            }
        }
        yaml += "networks: { n0: {}, n1: {}, n2: {} }\n";
        project(&yaml)
    })
}

const ROLLING: &str = "
services:
  web:
    image: web
    scale: 3
    environment: { V: '1' }
    mem_limit: 64m
    labels: { owner: me }
    networks: { front: { aliases: [page] } }
    deploy: { update_config: { order: start-first, parallelism: 2, failure_action: rollback } }
  db: { image: db, networks: [front] }
networks: { front: {}, back: {}, zone: {} }
";

#[test]
fn a_running_service_is_updated_as_it_says() {
    let before = project(ROLLING);
    let after = project(&ROLLING.replace("V: '1'", "V: '2'"));
    let mut observed = running(&before);
    insta::assert_snapshot!(up(&after, &observed, &PlanOptions::default()));
    observed.containers.iter_mut().find(|container| container.service == "web").unwrap().status =
        Status::Exited { code: 1, by_hand: false, lost: false };
    let plan = up(&after, &observed, &PlanOptions::default());
    assert!(
        plan.nodes.iter().any(|node| matches!(node.action, Action::Recreate { .. })),
        "what serves nobody is made anew at once:\n{plan}"
    );
    let frozen = PlanOptions { frozen: BTreeSet::from(["web".to_owned()]), healing: true, ..PlanOptions::default() };
    assert!(up(&after, &running(&before), &frozen).is_empty(), "an update that failed stands still");
}

#[test]
fn an_update_that_was_cut_short_goes_on_with_what_it_made() {
    let before = project(ROLLING);
    let after = project(&ROLLING.replace("V: '1'", "V: '2'"));
    let mut observed = running(&before);
    let at = observed.containers.iter().position(|container| container.name == "p-web-2").unwrap();
    let current = wanted(&after)["web"][1].clone();
    let new = ObservedContainer { id: "f".repeat(64), hash: current.hash, ..observed.containers[at].clone() };
    observed.containers[at].name = format!("{}_p-web-2", &observed.containers[at].id[..12]);
    let old = observed.containers[at].id.clone();
    observed.containers.push(new);
    let plan = up(&after, &observed, &PlanOptions::default());
    assert_eq!(plan.nodes.len(), 1, "{plan}");
    let Action::Update { replicas, .. } = &plan.nodes[0].action else { panic!("{plan}") };
    assert!(
        replicas.iter().any(|replica| replica.number == 2 && replica.old == old),
        "the one that serves is the old one"
    );
    // The file goes back meanwhile: the old one gets its name again.
    let plan = up(&before, &observed, &PlanOptions::default());
    apply(&before, &mut observed, &plan);
    assert!(up(&before, &observed, &PlanOptions::default()).is_empty());
    assert!(observed.containers.iter().any(|container| container.id == old && container.name == "p-web-2"));
}

#[test]
fn what_the_kernel_can_change_is_changed_in_place() {
    let before = project(ROLLING);
    let edit = |from: &str, to: &str| {
        let after = project(&ROLLING.replace(from, to));
        let mut observed = running(&before);
        let plan = up(&after, &observed, &PlanOptions::default());
        let ids: BTreeSet<String> = observed.containers.iter().map(|container| container.id.clone()).collect();
        apply(&after, &mut observed, &plan);
        assert!(up(&after, &observed, &PlanOptions::default()).is_empty());
        let kept = observed.containers.iter().all(|container| ids.contains(&container.id));
        let first = plan.nodes.iter().find(|node| !matches!(node.action, Action::CreateNetwork { .. })).unwrap();
        (kept, first.action.to_string())
    };
    let changed = |what: &str| (true, format!("change container p-web-1 in place: {what}"));
    assert_eq!(edit("64m", "128m"), changed("memory"));
    assert_eq!(edit("owner: me", "owner: you"), changed("labels"));
    assert_eq!(edit("aliases: [page]", "aliases: [site]"), changed("join network p_front"));
    assert_eq!(edit("    scale: 3", "    scale: 3\n    restart: always"), changed("restart policy"));
    assert!(edit("networks: { front: { aliases: [page] } }", "networks: { front: { aliases: [page] }, zone: {} }").0);
    assert!(edit("    mem_limit: 64m\n", "").0, "a limit that is taken away");
    assert_eq!(edit("scale: 3", "scale: 3\n    ports: ['8080:80']"), changed("published ports"));
    assert_eq!(edit("scale: 3", "scale: 3\n    healthcheck: { test: 'true' }"), changed("health check"));
    assert_eq!(edit("scale: 3", "scale: 3\n    logging: { options: { max-size: 1m } }"), changed("log options"));
    assert_eq!(edit("scale: 3", "scale: 3\n    post_start: [{ command: 'true' }]"), changed("hooks"));
    assert!(!edit("scale: 3", "scale: 3\n    logging: { driver: local }").0, "another driver");
    assert!(!edit("image: web", "image: web\n    read_only: true").0);
}

proptest! {
    #[test]
    fn a_plan_carried_out_leaves_nothing_to_plan(
        before in projects(),
        after in projects(),
        mess in proptest::collection::vec((any::<prop::sample::Index>(), 0_u8..11), 0..4),
    ) {
        let mut observed = running(&before);
        for (which, what) in mess {
            if observed.containers.is_empty() {
                break;
            }
            let at = which.index(observed.containers.len());
            match what {
                0 => drop(observed.containers.remove(at)),
                1 => observed.containers[at].status = Status::Exited { code: 137, by_hand: false, lost: false },
                2 => {
                    observed.containers[at].hash = "other".into();
                    observed.containers[at].parts.clear();
                }
                // A replacement that was cut short: the old one aside, with or without the new one.
                3 | 4 => {
                    let new = observed.containers[at].clone();
                    let aside = format!("{}_{}", &new.id[..12], new.name);
                    let old = &mut observed.containers[at];
                    old.name = aside;
                    if what == 4 && !observed.containers.iter().any(|container| container.name == new.name) {
                        let wanted = wanted(&after);
                        let id = format!("{:064x}", fresh());
                        let current = wanted.get(&new.service).and_then(|all| all.iter().find(|one| one.number == new.number));
                        if let Some(current) = current {
                            let parts = current.body.labels.as_ref().unwrap()["sampan.parts"].clone();
                            let hash = current.hash.clone();
                            observed.containers.push(ObservedContainer { id, hash, parts, ..new });
                        }
                    }
                }
                5 => observed.containers[at].status = Status::Dead,
                6 => observed.containers[at].updated = true,
                7 => observed.containers[at].networks.clear(),
                8 => observed.containers[at].started = fresh() as u64,
                9 => {
                    let name = format!("by-hand-{}", fresh());
                    observed.containers[at].name = name;
                }
                _ => {
                    if let Some(name) = observed.containers[at].networks.first().cloned() {
                        observed.networks.remove(&name);
                        observed.containers.iter_mut().for_each(|one| one.networks.retain(|other| *other != name));
                    }
                }
            }
        }
        let options = PlanOptions { remove_orphans: true, ..PlanOptions::default() };
        let plan = up(&after, &observed, &options);
        apply(&after, &mut observed, &plan);
        let again = up(&after, &observed, &options);
        prop_assert!(again.is_empty(), "first:\n{plan}\nthen:\n{again}");
        let expected: usize = after.services.values().map(|service| service.replicas() as usize).sum();
        prop_assert_eq!(observed.containers.len(), expected);
        prop_assert!(observed.containers.iter().all(|container| container.status == Status::Running));
    }

    #[test]
    fn down_leaves_nothing(before in projects()) {
        let mut observed = running(&before);
        let plan = plan::down("p", Some(&before), &observed, &DownOptions::default());
        apply(&before, &mut observed, &plan);
        prop_assert_eq!(observed, Observed::default());
    }
}
