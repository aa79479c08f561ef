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
    let networks = |service: &str| {
        let keys = project.services[service].networks.keys();
        keys.map(|key| project.networks[key].name.clone()).collect::<Vec<_>>()
    };
    let image = |observed: &Observed, service: &str| {
        observed.images.get(&project.image_name(service)).cloned().unwrap_or_default()
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
                    image: image(observed, service),
                    networks: networks(service),
                    ..ObservedContainer::default()
                };
                observed.containers.push(container);
            }
            Action::Start { name, .. } | Action::Restart { name, .. } => {
                observed.containers.iter_mut().find(|container| container.name == *name).unwrap().status =
                    Status::Running;
            }
            Action::Recreate { service, number, name, old, .. } => {
                let image = image(observed, service);
                let container = observed.containers.iter_mut().find(|container| container.id == *old).unwrap();
                let fresh = fresh();
                *container = ObservedContainer {
                    id: format!("{fresh:064x}"),
                    name: name.clone(),
                    hash: hash(service, *number),
                    image,
                    status: Status::Running,
                    networks: networks(service),
                    ..container.clone()
                };
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

/// A project of up to five services that need only earlier ones.
fn projects() -> impl Strategy<Value = Project> {
    let service = (0_u32..4, 0_u8..3, proptest::collection::vec(any::<bool>(), 5), any::<bool>());
    proptest::collection::vec(service, 1..5).prop_map(|services| {
        let mut yaml = String::from("services:\n");
        for (number, (scale, version, needs, restart)) in services.iter().enumerate() {
            yaml +=
                &format!("  s{number}:\n    image: i{version}\n    scale: {scale}\n    networks: [n{}]\n", version % 2);
            let needs: Vec<usize> = (0..number).filter(|other| needs[*other]).collect();
            if !needs.is_empty() {
                yaml += "    depends_on:\n";
                for other in needs {
                    yaml += &format!("      s{other}: {{ condition: service_started, restart: {restart} }}\n");
                }
            }
        }
        yaml += "networks: { n0: {}, n1: {} }\n";
        project(&yaml)
    })
}

proptest! {
    #[test]
    fn a_plan_carried_out_leaves_nothing_to_plan(
        before in projects(),
        after in projects(),
        mess in proptest::collection::vec((any::<prop::sample::Index>(), 0_u8..4), 0..4),
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
                2 => observed.containers[at].hash = "other".into(),
                _ => observed.containers[at].status = Status::Dead,
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
