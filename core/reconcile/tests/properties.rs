//! Whatever was there: the planner's plans lead to where they should. The seed of what fails is printed and kept.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod paper;

use std::collections::BTreeSet;

use paper::{apply, apply_some, behind, fresh, project, running, up, wanted};
use proptest::prelude::*;
use proptest::sample::Index;
use sampan_compose::Project;
use sampan_reconcile::desired;
use sampan_reconcile::observed::{Observed, ObservedContainer, Status};
use sampan_reconcile::plan::{self, Action, DownOptions, PlanOptions};

/// A service that needs only earlier ones.
#[derive(Debug, Clone)]
struct Spec {
    scale: u32,
    version: u8,
    needs: Vec<usize>,
    restart: bool,
    limit: u8,
    label: u8,
    order: u8,
    second_network: bool,
    before: bool,
}

fn specs() -> impl Strategy<Value = Vec<Spec>> {
    let place = (0_u8..3, 0_u8..3, 0_u8..3, any::<bool>(), any::<bool>());
    let service = (0_u32..4, 0_u8..3, proptest::collection::vec(any::<bool>(), 5), any::<bool>(), place);
    proptest::collection::vec(service, 1..5).prop_map(|services| {
        let spec = |(number, (scale, version, needs, restart, (limit, label, order, second_network, before)))| {
            let needs: Vec<bool> = needs;
            let needs = (0..number).filter(|other| needs[*other]).collect();
            Spec { scale, version, needs, restart, limit, label, order, second_network, before }
        };
        services.into_iter().enumerate().map(spec).collect()
    })
}

impl Spec {
    fn networks(&self) -> Vec<String> {
        let second = self.second_network.then(|| "n2".to_owned());
        second.into_iter().chain([format!("n{}", self.version % 2)]).collect()
    }

    /// Shares a namespace of the one before it.
    fn shares(&self, number: usize) -> bool {
        number > 0 && self.label == 2
    }
}

/// As one writes it.
fn plain(services: &[Spec]) -> String {
    let mut yaml = String::from("services:\n");
    for (number, spec) in services.iter().enumerate() {
        yaml += &format!(
            "  s{number}:\n    image: i{}\n    scale: {}\n    networks: [{}]\n",
            spec.version,
            spec.scale,
            spec.networks().join(", ")
        );
        if spec.limit > 0 {
            yaml += &format!("    mem_limit: {0}g\n    pids_limit: {0}\n", spec.limit);
        }
        if spec.shares(number) {
            yaml += &format!("    pid: 'service:s{}'\n    ports: ['80']\n", number - 1);
        }
        if spec.label > 0 {
            yaml += &format!("    labels: {{ l: '{}' }}\n", spec.label);
        }
        if spec.before {
            yaml += "    pre_start: [{ command: [seed] }]\n";
        }
        if let Some(order) = ["start-first", "stop-first"].get(usize::from(spec.order)) {
            yaml += &format!("    deploy: {{ update_config: {{ order: {order} }} }}\n");
        }
        if !spec.needs.is_empty() {
            yaml += "    depends_on:\n";
            for other in &spec.needs {
                yaml += &format!("      s{other}: {{ condition: service_started, restart: {} }}\n", spec.restart);
            }
        }
    }
    yaml + "networks: { n0: {}, n1: {}, n2: {} }\n"
}

/// The same said otherwise: comments, other places, other forms of equal values, anchors and merges.
fn otherwise(services: &[Spec]) -> String {
    let mut yaml = String::from("# the same\nnetworks:\n  n2: # comment\n  n1:\n  n0: {}\nx-limits:\n");
    for limit in 1_u64..3 {
        let bytes = limit << 30;
        yaml += &format!("  - &limit{limit} {{ pids_limit: {limit}, mem_limit: '{bytes}' }}\n");
    }
    yaml += "services:\n";
    for (number, spec) in services.iter().enumerate().rev() {
        yaml += &format!("\n  # number {number}\n  \"s{number}\":\n");
        if !spec.needs.is_empty() {
            yaml += "    depends_on: {";
            for other in spec.needs.iter().rev() {
                yaml += &format!(" s{other}: {{ restart: {}, condition: \"service_started\" }},", spec.restart);
            }
            yaml += " }\n";
        }
        if let Some(order) = ["start-first", "stop-first"].get(usize::from(spec.order)) {
            yaml += &format!("    deploy:\n      update_config:\n        order: \"{order}\"\n");
        }
        if spec.before {
            yaml += "    pre_start:\n      - command: seed\n";
        }
        if spec.label > 0 {
            yaml += &format!("    labels: [l={}]\n", spec.label);
        }
        if spec.shares(number) {
            yaml += &format!("    ports:\n      - target: 80\n    pid: service:s{}\n", number - 1);
        }
        if spec.limit > 0 {
            yaml += &format!("    <<: *limit{}\n", spec.limit);
        }
        let networks: Vec<String> = spec.networks().iter().rev().map(|name| format!("{name}: ")).collect();
        yaml += &format!("    networks: {{ {} }}\n    image: 'i{}'\n", networks.join(", "), spec.version);
        if spec.scale != 1 {
            yaml += &format!("    scale: {}\n", spec.scale);
        }
    }
    yaml
}

fn projects() -> impl Strategy<Value = Project> {
    specs().prop_map(|services| project(&plain(&services)))
}

fn running_all(project: &Project, observed: &Observed) -> bool {
    let expected: usize = project.services.values().map(|service| service.replicas() as usize).sum();
    observed.containers.len() == expected
        && observed.containers.iter().all(|container| container.status == Status::Running)
}

proptest! {
    #[test]
    fn a_plan_carried_out_leaves_nothing_to_plan(
        before in projects(),
        after in projects(),
        mess in proptest::collection::vec((any::<Index>(), 0_u8..11), 0..4),
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
        prop_assert!(running_all(&after, &observed));
    }

    #[test]
    fn down_leaves_nothing(before in projects()) {
        let mut observed = running(&before);
        let plan = plan::down("p", Some(&before), &observed, &DownOptions::default());
        apply(&before, &mut observed, &plan);
        prop_assert_eq!(observed, Observed::default());
    }

    /// As a daemon goes on: first with what the user asked for, then by healing, each time killed between any two actions.
    #[test]
    fn a_daemon_that_dies_between_any_two_actions_gets_there(
        before in projects(),
        after in projects(),
        deaths in proptest::collection::vec(proptest::collection::vec(any::<bool>(), 1..24), 1..4),
    ) {
        let mut observed = running(&before);
        let retired: BTreeSet<String> =
            before.services.keys().filter(|name| !after.services.contains_key(*name)).cloned().collect();
        let mut options = PlanOptions { retired, ..PlanOptions::default() };
        for reached in deaths {
            let plan = up(&after, &observed, &options);
            apply_some(&after, &mut observed, &plan, |number| reached[number % reached.len()]);
            options.healing = true;
        }
        let plan = up(&after, &observed, &options);
        apply(&after, &mut observed, &plan);
        prop_assert!(running_all(&after, &observed), "{plan}\n{observed:#?}");
        let again = up(&after, &observed, &options);
        prop_assert!(again.is_empty(), "first:\n{plan}\nthen:\n{again}");
    }

    #[test]
    fn how_a_file_is_written_does_not_matter(services in specs()) {
        let (one, other) = (project(&plain(&services)), project(&otherwise(&services)));
        let plan = up(&other, &running(&one), &PlanOptions::default());
        prop_assert!(plan.is_empty(), "{}\n{}\n{plan}", plain(&services), otherwise(&services));
    }

    /// Services whose definition did not change are not touched, unless they follow or share with one that did.
    #[test]
    fn an_edit_of_one_service_touches_no_other(services in specs(), which in any::<Index>()) {
        let mut services = services;
        for spec in &mut services {
            (spec.restart, spec.label) = (false, spec.label.min(1));
        }
        let before = project(&plain(&services));
        let edited = which.index(services.len());
        services[edited].version += 2;
        let plan = up(&project(&plain(&services)), &running(&before), &PlanOptions::default());
        let touched = |action: &Action| match action {
            Action::Create { service, .. } | Action::Start { service, .. } | Action::Recreate { service, .. }
            | Action::Update { service, .. } | Action::Change { service, .. } | Action::Rename { service, .. }
            | Action::Restart { service, .. } | Action::Stop { service, .. } | Action::Remove { service, .. } => {
                *service != format!("s{edited}")
            }
            Action::Await { .. } => false,
            _ => true,
        };
        prop_assert!(!plan.nodes.iter().any(|node| touched(&node.action)), "{plan}");
        prop_assert_eq!(plan.is_empty(), services[edited].scale == 0);
    }

    #[test]
    fn those_that_need_others_end_first(before in projects()) {
        let observed = running(&before);
        let plan = plan::down("p", Some(&before), &observed, &DownOptions::default());
        let stops = |service: &str| -> BTreeSet<usize> {
            let of = |node: &plan::Node| matches!(&node.action, Action::Stop { service: found, .. } if found == service);
            plan.nodes.iter().enumerate().filter(|(_, node)| of(node)).map(|(number, _)| number).collect()
        };
        for (name, service) in &before.services {
            for stop in desired::needs(service).keys().flat_map(|peer| stops(peer)) {
                prop_assert!(stops(name).is_subset(&behind(&plan, stop)), "{stop} comes before {name} ends:\n{plan}");
            }
        }
    }
}
