//! The planner: what it decides for well-known situations.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod paper;

use std::collections::BTreeSet;

use paper::{apply, fresh, project, running, up, wanted};
use sampan_reconcile::observed::{Observed, ObservedContainer, Status};
use sampan_reconcile::plan::{self, Action, DownOptions, Plan, PlanOptions};

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
fn what_no_service_uses_is_made_only_when_all_is_asked_for() {
    let text = "services: { web: { image: web } }\nnetworks: { spare: {} }\nvolumes: { kept: {} }";
    let mut project = project(text);
    let options = PlanOptions::default();
    assert!(!up(&project, &Observed::default(), &options).to_string().contains("spare"));
    project.all_resources = true;
    let plan = up(&project, &Observed::default(), &options);
    let shown = plan.to_string();
    assert!(shown.contains("create network p_spare") && shown.contains("create volume p_kept"), "{shown}");
    let mut observed = Observed::default();
    apply(&project, &mut observed, &plan);
    assert!(up(&project, &observed, &options).is_empty());
    assert!(project.to_yaml().contains("spare"));
}

#[test]
fn an_edit_touches_its_service_and_what_is_bound_to_it() {
    let before = project(CHAIN);
    let after = project(&CHAIN.replace("image: db,", "image: db, environment: { A: b },"));
    insta::assert_snapshot!(up(&after, &running(&before), &PlanOptions::default()));
}

#[test]
fn a_container_follows_the_images_that_it_mounts() {
    let project = project("services: { web: { image: web, volumes: [{ type: image, source: tools, target: /t }] } }");
    let mut observed = Observed::default();
    observed.images.insert("tools".to_owned(), "sha256:1".to_owned());
    let plan = up(&project, &observed, &PlanOptions::default());
    apply(&project, &mut observed, &plan);
    assert!(up(&project, &observed, &PlanOptions::default()).is_empty());
    observed.images.insert("tools".to_owned(), "sha256:2".to_owned());
    let plan = up(&project, &observed, &PlanOptions::default());
    assert!(plan.to_string().contains("its image changed"), "{plan}");
    apply(&project, &mut observed, &plan);
    assert!(up(&project, &observed, &PlanOptions::default()).is_empty());
    // Compose, which made it, has noted nothing.
    observed.containers[0].mounted = None;
    assert!(up(&project, &observed, &PlanOptions::default()).is_empty());
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
fn a_network_that_others_are_in_stays_as_it_is_until_they_leave() {
    let before = project(CHAIN);
    let after = project(&CHAIN.replace("front: {}", "front: { internal: true }"));
    let mut observed = running(&before);
    observed.networks.get_mut("p_front").unwrap().others = vec!["guest".to_owned()];
    let plan = up(&after, &observed, &PlanOptions::default());
    assert!(plan.is_empty(), "nothing of ours goes for what cannot come:\n{plan}");
    assert!(plan.warnings[0].contains("containers of others are in it (guest)"), "{:?}", plan.warnings);
    observed.networks.get_mut("p_front").unwrap().others.clear();
    assert!(!up(&after, &observed, &PlanOptions::default()).is_empty());
}

#[test]
fn a_container_that_leaves_a_network_which_is_made_anew_waits_for_its_own_removal() {
    let before = project(CHAIN);
    let after = project(
        &CHAIN.replace("networks: [front]", "networks: [back]").replace("front: {}", "front: { internal: true }"),
    );
    let mut observed = running(&before);
    let plan = up(&after, &observed, &PlanOptions::default());
    apply(&after, &mut observed, &plan);
    assert!(up(&after, &observed, &PlanOptions::default()).is_empty(), "{plan}");
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
fn what_shares_with_a_container_that_was_removed_by_hand_is_made_anew_behind_the_next_one() {
    let project = project(SHARED);
    let options = PlanOptions { healing: true, ..PlanOptions::default() };
    let mut observed = running(&project);
    observed.containers.retain(|container| container.service != "vpn");
    let plan = up(&project, &observed, &options);
    let wanted = [
        "create container p-vpn-1",
        "start container p-vpn-1",
        "recreate container p-app-1: a service that it is bound to is made anew",
        "recreate container p-log-1: a service that it is bound to is made anew",
        "restart container p-web-1",
    ];
    assert_eq!(lines(&plan), wanted);
    let place = |line: &str| plan.nodes.iter().position(|node| node.action.to_string() == line).unwrap();
    for pair in wanted[1..4].windows(2) {
        assert!(paper::behind(&plan, place(pair[1])).contains(&place(pair[0])), "{plan}");
    }
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

#[test]
fn containers_that_run_before_a_service_do_so_once_and_only_when_none_of_it_runs() {
    const TEXT: &str = "
services:
  web: { image: web, scale: 3, environment: { V: '1' }, pre_start: [{ command: [seed] }], depends_on: [db] }
  db: { image: db }
";
    let before = project(TEXT);
    let prepared = |plan: &Plan| -> Vec<String> {
        let lines = lines(plan).into_iter().filter(|line| line.contains("init containers"));
        lines.map(|line| line.split(',').next().unwrap().to_owned()).collect()
    };
    let options = PlanOptions::default();
    let plan = up(&before, &Observed::default(), &options);
    assert_eq!(prepared(&plan), ["start container p-web-1"]);
    let first = plan.nodes.iter().position(|node| matches!(node.action, Action::Start { prepare: true, .. })).unwrap();
    let others = |node: &&plan::Node| matches!(&node.action, Action::Start { name, .. } if name != "p-web-1" && name != "p-db-1");
    assert!(plan.nodes.iter().filter(others).all(|node| node.after.contains(&first)), "{plan}");
    let more = project(&TEXT.replace("scale: 3", "scale: 4"));
    assert!(prepared(&up(&more, &running(&before), &options)).is_empty(), "one more");
    let edited = project(&TEXT.replace("V: '1'", "V: '2'"));
    assert_eq!(
        prepared(&up(&edited, &running(&before), &options)),
        ["recreate container p-web-1: its definition changed"]
    );
    let other = project(&TEXT.replace("[seed]", "[other]"));
    assert_eq!(prepared(&up(&other, &running(&before), &options)).len(), 1, "they are part of the definition");
    let forced = PlanOptions { force_recreate: true, ..PlanOptions::default() };
    assert_eq!(prepared(&up(&before, &running(&before), &forced)).len(), 1);
    let rolling = TEXT.replace("depends_on", "deploy: { update_config: { } }, depends_on");
    let plan = up(&project(&rolling.replace("V: '1'", "V: '2'")), &running(&project(&rolling)), &options);
    assert_eq!(prepared(&plan).len(), 1, "{plan}");
    let mut ended = running(&before);
    for container in &mut ended.containers {
        container.status = Status::Exited { code: 137, by_hand: false, lost: true };
    }
    assert_eq!(prepared(&up(&before, &ended, &options)), ["start container p-web-1"], "up after a stop");
    let healing = PlanOptions { healing: true, ..PlanOptions::default() };
    let plan = up(&before, &ended, &healing);
    assert!(!plan.is_empty() && prepared(&plan).is_empty(), "what ended by itself goes on:\n{plan}");
    for container in &mut ended.containers {
        container.status = Status::Created;
    }
    assert_eq!(prepared(&up(&before, &ended, &healing)).len(), 1, "what never ran, as they failed");
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
