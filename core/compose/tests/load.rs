//! Loading as a whole: what is found, named, consulted, hashed, ordered, printed.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::PathBuf;

use sampan_compose::model::{Condition, Port, PublishedPorts};
use sampan_compose::{LoadOptions, Loaded, MemoryFiles, Project, environment, load, load_raw, settings};
use support::{env, files, options};

fn project(compose: &str) -> Project {
    load(&options(), &files(compose, &[])).unwrap().project
}

/// Options under which what only the specification knows is taken, too.
fn whole() -> LoadOptions {
    LoadOptions { whole_specification: true, ..options() }
}

fn paths(loaded: &Loaded) -> Vec<String> {
    loaded.inputs.iter().map(|path| path.display().to_string()).collect()
}

#[test]
fn every_consulted_path_is_an_input() {
    let files = files(
        "include: [inc/c.yaml]\nservices:\n  a: {extends: {file: e.yaml, service: s}, env_file: [x.env, {path: no.env, required: false}], label_file: l, secrets: [s], configs: [c]}\nsecrets: {s: {file: s.txt}}\nconfigs: {c: {file: gone.txt}}\n",
        &[
            ("inc/c.yaml", "services: {b: {image: x}}"),
            ("e.yaml", "services: {s: {image: x}}"),
            ("x.env", ""),
            ("l", ""),
            ("s.txt", ""),
            (".env", ""),
        ],
    );
    let loaded = load(&options(), &files).unwrap();
    let mut found = paths(&loaded);
    found.sort();
    let mut expected: Vec<String> = [
        ".env",
        "compose.yaml",
        "compose.override.yml",
        "compose.override.yaml",
        "docker-compose.override.yml",
        "docker-compose.override.yaml",
        "inc/c.yaml",
        "inc/.env",
        "e.yaml",
        "x.env",
        "no.env",
        "l",
        "s.txt",
        "gone.txt",
    ]
    .iter()
    .map(|path| format!("/p/{path}"))
    .collect();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn a_broken_file_still_tells_its_inputs() {
    let error = load(&options(), &files("include: [other.yaml]\nservices: [\n", &[])).unwrap_err();
    assert!(error.inputs.contains(&PathBuf::from("/p/compose.yaml")));
}

#[test]
fn a_file_is_found_in_a_directory_above() {
    let files = files(
        "services: {a: {image: x}}",
        &[("sub/deep/f", ""), ("compose.override.yaml", "services: {a: {image: y}}")],
    );
    let loaded = load(&LoadOptions { working_dir: "/p/sub/deep".into(), ..options() }, &files).unwrap();
    assert_eq!(loaded.project.working_dir, PathBuf::from("/p"));
    assert_eq!(loaded.project.services.get("a").unwrap().image, "y");
    assert_eq!(loaded.project.compose_files.len(), 2);
}

#[test]
fn the_preferred_name_wins_and_says_so() {
    let files = files("services: {a: {image: x}}", &[("docker-compose.yml", "services: {a: {image: y}}")]);
    let loaded = load(&options(), &files).unwrap();
    assert_eq!(loaded.project.services.get("a").unwrap().image, "x");
    assert!(loaded.warnings.iter().any(|warning| warning.message.contains("docker-compose.yml")));
}

#[test]
fn the_name_comes_from_flag_variable_file_directory() {
    let named = files("name: written-${N:-x}\nservices: {a: {image: \"$COMPOSE_PROJECT_NAME\"}}", &[]);
    let name = |options: &LoadOptions| {
        let project = load(options, &named).unwrap().project;
        assert_eq!(project.services.get("a").unwrap().image, project.name);
        project.name
    };
    assert_eq!(name(&options()), "written-x");
    let variable = LoadOptions { env: env(&[("COMPOSE_PROJECT_NAME", "variable")]), ..options() };
    assert_eq!(name(&variable), "variable");
    assert_eq!(name(&LoadOptions { project_name: Some("flag".into()), ..variable }), "flag");
    let plain = MemoryFiles::default().with("/srv/My App_1/compose.yaml", "services: {a: {image: x}}");
    let options = LoadOptions { working_dir: "/srv/My App_1".into(), ..LoadOptions::default() };
    assert_eq!(load(&options, &plain).unwrap().project.name, "myapp_1");
}

#[test]
fn variables_of_the_shell_come_before_env_files_and_later_files_before_earlier() {
    let files = files(
        "services: {a: {image: '$A-$B-$C'}}",
        &[(".env", "A=dot\nB=dot\nC=dot\n"), ("one", "A=1\nB=1\n"), ("two", "B=2\nC=${A}2\n")],
    );
    let image = |options: &LoadOptions| load(options, &files).unwrap().project.services.get("a").unwrap().image.clone();
    assert_eq!(image(&LoadOptions { env: env(&[("A", "shell")]), ..options() }), "shell-dot-dot");
    let given = LoadOptions { env: env(&[("A", "shell")]), env_files: vec!["one".into(), "two".into()], ..options() };
    assert_eq!(image(&given), "shell-2-shell2");
}

#[test]
fn files_and_profiles_may_come_from_variables() {
    let files = files(
        "services: {}",
        &[
            ("a.yaml", "services: {a: {image: x, profiles: [p]}}"),
            ("b.yaml", "services: {b: {image: x}}"),
            (".env", "COMPOSE_FILE=a.yaml:b.yaml\nCOMPOSE_PROFILES=p,q\n"),
        ],
    );
    let project = load(&options(), &files).unwrap().project;
    assert_eq!(project.service_names(), ["a", "b"]);
}

#[test]
fn inactive_services_can_be_activated_with_what_they_need() {
    let mut project = project(
        "services:\n  a: {image: x}\n  b: {image: x, profiles: [p], depends_on: [c]}\n  c: {image: x, profiles: [q]}\n  d: {image: x, profiles: [q]}\n",
    );
    assert_eq!(project.service_names(), ["a"]);
    assert!(project.activate("b"));
    assert_eq!(project.service_names(), ["a", "b", "c"]);
    assert!(!project.activate("nope"));
}

#[test]
fn services_start_after_what_they_depend_on() {
    let project = project(
        "services:\n  web: {image: x, depends_on: [api]}\n  api: {image: x, depends_on: {db: {condition: service_healthy}, init: {condition: service_completed_successfully}}}\n  db: {image: x}\n  init: {image: x, depends_on: [db]}\n  extra: {image: x}\n",
    );
    assert_eq!(project.start_levels(), [vec!["db", "extra"], vec!["init"], vec!["api"], vec!["web"]]);
    assert_eq!(project.dependents("db"), ["api", "init"]);
    let api = project.services.get("api").unwrap();
    assert_eq!(api.depends_on.get("db").unwrap().condition, Condition::Healthy);
}

#[test]
fn the_hash_follows_what_a_container_is_made_of() {
    let base = "services: {a: {image: x, environment: {A: 1}, secrets: [s], SCALE depends_on: [b]}, b: {image: y}}\nsecrets: {s: {file: s}}\n";
    let hash = |compose: &str, secret: &str| {
        load(&options(), &files(compose, &[("s", secret)])).unwrap().project.config_hash("a").unwrap()
    };
    let plain = base.replace("SCALE", "");
    let first = hash(&plain, "one");
    assert_eq!(first.len(), 64);
    assert_eq!(first, hash(&plain, "one"));
    assert_eq!(first, hash(&base.replace("SCALE", "scale: 3,"), "one"));
    assert_eq!(first, hash(&plain.replace("depends_on: [b]", ""), "one"));
    assert_ne!(first, hash(&plain.replace("A: 1", "A: 2"), "one"));
    assert_eq!(first, hash(&plain, "two"), "as Compose: what is in a secret has no part in it");
    assert!(project(&plain).config_hash("nope").is_none());
}

/// Recreating every container because of an update of the program would be worse than most bugs.
#[test]
fn the_hash_of_a_stored_service_never_changes() {
    let project = project(
        "services: {a: {image: x, command: [a], ports: ['80:80'], environment: {A: 1}, volumes: ['v:/v']}}\nvolumes: {v: }\n",
    );
    insta::assert_snapshot!(project.config_hash("a").unwrap());
}

#[test]
fn a_project_survives_storage() {
    let text = include_str!("wide.yaml");
    let others = [("a.env", "A=1\n"), ("sec.txt", "s\n")];
    let mut project = load(&whole(), &files(text, &others)).unwrap().project;
    project.profiles = vec!["x".into()];
    let stored = serde_json::to_string(&project).unwrap();
    assert_eq!(serde_json::from_str::<Project>(&stored).unwrap(), project);
}

#[test]
fn printed_text_loads_as_the_same_project() {
    for text in [include_str!("wide.yaml"), include_str!("forms.yaml")] {
        let others = [("a.env", "A=1\nB=${A}$$\n"), ("sec.txt", "s\n")];
        let first = load(&whole(), &files(text, &others)).unwrap().project;
        let printed = first.to_yaml();
        let again =
            load(&whole(), &files(&printed, &others)).map_err(|error| format!("{error}\n{printed}")).unwrap().project;
        assert_eq!(again.to_yaml(), printed);
        for name in first.service_names() {
            assert_eq!(again.config_hash(name), first.config_hash(name), "{name}");
        }
    }
}

#[test]
fn a_whole_file_prints_canonically() {
    let others = [("a.env", "A=1\n"), ("sec.txt", "s\n")];
    let loaded = load(&whole(), &files(include_str!("wide.yaml"), &others)).unwrap();
    insta::assert_snapshot!(loaded.project.to_yaml());
}

#[test]
fn values_of_secrets_are_not_printed() {
    let options = LoadOptions { env: env(&[("TOKEN", "hunter2")]), ..options() };
    let loaded =
        load(&options, &files("services: {a: {image: x, secrets: [t]}}\nsecrets: {t: {environment: TOKEN}}\n", &[]))
            .unwrap();
    let project = loaded.project;
    assert_eq!(project.secrets.get("t").unwrap().value.as_ref().unwrap().0, "hunter2");
    for shown in [project.to_yaml(), project.to_json().to_string(), format!("{project:?}")] {
        assert!(!shown.contains("hunter2"));
    }
}

#[test]
fn ports_are_taken_apart() {
    let project =
        project("services: {a: {image: x, ports: ['127.0.0.1:8000-8002:80-82/udp', 9, '7000-7005:7', '[::1]::5']}}");
    let ports = &project.services.get("a").unwrap().ports;
    let shown: Vec<String> = ports.iter().map(show).collect();
    assert_eq!(
        shown,
        [
            "127.0.0.1 8000>80/udp",
            "127.0.0.1 8001>81/udp",
            "127.0.0.1 8002>82/udp",
            " ->9/tcp",
            " 7000-7005>7/tcp",
            "::1 ->5/tcp"
        ]
    );
    assert_eq!(ports.first().unwrap().published, Some(PublishedPorts::one(8000)));
}

fn show(port: &Port) -> String {
    let published = port.published.map_or_else(|| "-".to_owned(), |ports| ports.to_string());
    format!("{} {published}>{}/{}", port.host_ip, port.target, port.protocol)
}

#[test]
fn what_is_not_used_is_declared_but_not_created() {
    let project = project("services: {a: {image: x, volumes: ['v:/v']}}\nvolumes: {v: , w: }\nnetworks: {n: }\n");
    assert_eq!(project.volume_names(), ["v"]);
    assert_eq!(project.network_names(), ["default"]);
    assert_eq!(project.volumes.get("w").unwrap().name, "p_w");
    assert_eq!(project.image_name("a"), "x");
}

#[test]
fn dollar_signs_stay_without_interpolation() {
    let options = LoadOptions { interpolate: false, ..options() };
    let project = load(&options, &files("services: {a: {image: '${X:?no}', command: [a, $$b]}}", &[])).unwrap().project;
    let service = project.services.get("a").unwrap();
    assert_eq!(service.image, "${X:?no}");
    assert_eq!(service.command.as_deref().unwrap(), ["a", "$$b"]);
}

#[test]
fn an_include_found_twice_is_one() {
    let files = files(
        "include: [a.yaml, b.yaml]\nservices: {z: {image: x}}",
        &[
            ("a.yaml", "include: [c.yaml]\n"),
            ("b.yaml", "include: [c.yaml]\n"),
            ("c.yaml", "services: {c: {image: c}}"),
        ],
    );
    assert_eq!(load(&options(), &files).unwrap().project.service_names(), ["c", "z"]);
}

#[test]
fn restart_and_limits_may_be_said_in_two_ways() {
    let project = project(
        "services:\n  a: {image: x, deploy: {restart_policy: {condition: on-failure, max_attempts: 3}, resources: {limits: {cpus: '0.5', memory: 1g, pids: 7}}}}\n  b: {image: x, restart: always, mem_limit: 5b}\n",
    );
    let a = project.services.get("a").unwrap();
    assert_eq!((a.restart_policy().as_str(), a.cpu_limit(), a.process_limit()), ("on-failure:3", Some(0.5), Some(7)));
    assert_eq!(a.memory_limit().unwrap().0, 1 << 30);
    let b = project.services.get("b").unwrap();
    assert_eq!((b.restart_policy().as_str(), b.memory_limit().unwrap().0), ("always", 5));
}

#[test]
fn a_large_project_loads_in_time() {
    use std::fmt::Write as _;
    let mut text = String::from("x-base: &base {image: x, environment: {A: 1, B: 2}, ports: [80]}\nservices:\n");
    for n in 0..3000_usize {
        let needs = n.checked_sub(1).map_or_else(String::new, |n| format!("depends_on: [s{n}], "));
        let _ = writeln!(text, "  s{n}: {{<<: *base, {needs}extends: {{service: base}}}}");
    }
    let text = format!("{text}  base: {{image: y}}\n");
    let start = std::time::Instant::now();
    let project = load(&options(), &files(&text, &[])).unwrap().project;
    assert_eq!(project.start_levels().len(), 3000);
    eprintln!("3001 services in {:?}", start.elapsed());
}

#[test]
fn an_empty_key_counts_as_absent() {
    let project = project("services: {a: {image: x, ports: , environment: , build: }}\nvolumes:\n");
    assert!(project.services.get("a").unwrap().build.is_none());
}

#[test]
fn what_the_engine_cannot_do_is_refused_where_a_stack_runs_and_printed_where_it_is_looked_at() {
    let keys = [
        "pre_start: [{command: a, per_replica: true}]",
        "blkio_config: {weight_device: [{path: /dev/sda, weight: 10}]}",
        "credential_spec: {file: a}",
        "external_links: [a]",
        "use_api_socket: true",
        "cpu_count: 1",
        "cpu_percent: 5",
        "cpu_rt_period: 5",
        "cpu_rt_runtime: 5",
        "isolation: hyperv",
        "deploy: {placement: {constraints: [a]}}",
        "deploy: {mode: global-job}",
        "deploy: {resources: {reservations: {generic_resources: [{discrete_resource_spec: {kind: a, value: 1}}]}}}",
        "build: {context: ., sbom: true}",
        "volumes: [{type: cluster, source: x, target: /a}]",
    ];
    for key in keys {
        let files = files(&format!("services:\n  a:\n    image: x\n    {key}\nmodels: {{llm: {{model: m}}}}\n"), &[]);
        let refused = load(&options(), &files).unwrap_err();
        assert!(refused.items.iter().any(|item| item.line == 4), "{key}: {refused}");
        let shown = load(&whole(), &files).map_err(|error| format!("{key}: {error}")).unwrap().project;
        let first = key.split(':').next().unwrap();
        let service = &shown.to_json()["services"]["a"];
        assert!(service.get(first).is_some(), "{key}: {service}");
        let stored = serde_json::to_string(&shown).unwrap();
        assert_eq!(serde_json::from_str::<Project>(&stored).unwrap(), shown, "{key}");
    }
    // What says nothing is not refused.
    let nothing = "services: {a: {image: x, gpus: [], post_start: [], use_api_socket: false, cpu_count: 0, deploy: {placement: {}}}}";
    load(&options(), &files(nothing, &[])).unwrap();
}

#[test]
fn variables_are_listed_without_being_replaced() {
    let text = "services:\n  a:\n    image: x:${TAG:-1}\n    command: [$A, $$B, '${C?why}', '${D+alt}', '${E:-${F-f}}', '${A:-again}']\n    ports: ['${P}:80']\n";
    let raw =
        load_raw(&options(), &files(text, &[("compose.override.yaml", "services: {b: {image: '$G', build: ./b}}")]))
            .unwrap();
    let found: Vec<String> = raw
        .variables
        .iter()
        .map(|found| format!("{} {} {:?} {:?}", found.name, found.required, found.default, found.alternate))
        .collect();
    let expected = [
        "TAG false \"1\" \"\"",
        "A false \"\" \"\"",
        "C true \"\" \"\"",
        "D false \"\" \"alt\"",
        "E false \"${F-f}\" \"\"",
        "F false \"f\" \"\"",
        "P false \"\" \"\"",
        "G false \"\" \"\"",
    ];
    assert_eq!(found, expected);
    assert_eq!(raw.model["name"], "p");
    assert_eq!(raw.model["services"]["a"]["ports"][0], "${P}:80");
    assert_eq!(raw.model["services"]["b"]["build"]["context"], "/p/b");
    assert_eq!(raw.model["networks"]["default"]["name"], "p_default");
}

#[test]
fn the_environment_is_the_callers_over_that_of_env_files() {
    let files = files("name: n\nservices: {}", &[(".env", "HOME=no\nA=1\nB=${A}2\n")]);
    let found = environment(&options(), &files).unwrap();
    let expected = env(&[("A", "1"), ("B", "12"), ("COMPOSE_PROJECT_NAME", "n"), ("HOME", "/home/me")]);
    assert_eq!(found, expected);
}

#[test]
fn a_container_that_runs_before_a_service_is_as_the_service_where_it_says_nothing() {
    let project = project(
        "services:
  a:
    image: x
    command: serve
    user: '5'
    environment: {A: b, C: d}
    cap_add: [CHOWN]
    ports: ['80:80']
    restart: always
    volumes: ['data:/data']
    privileged: true
    pre_start:
      - {command: ./x.sh, environment: {A: z}, cap_add: [KILL], privileged: false, per_replica: false}
      - {image: other, volumes: ['more:/more'], networks: [back]}
networks: {back: }
volumes: {data: , more: }",
    );
    let before = &project.services.get("a").unwrap().pre_start;
    let text = |value: &str| Some(value.to_owned());
    assert_eq!((before[0].image.as_str(), before[0].user.as_str(), before[0].privileged), ("x", "5", false));
    assert_eq!(before[0].environment, [("A".into(), text("z")), ("C".into(), text("d"))].into());
    assert_eq!(before[0].cap_add, ["CHOWN", "KILL"]);
    assert!(before[0].ports.is_empty() && before[0].volumes.is_empty() && before[0].restart.is_empty());
    assert_eq!(before[1].command, Some(vec!["serve".to_owned()]), "and so is what it runs");
    assert_eq!((before[1].image.as_str(), before[1].volumes.len(), before[1].networks.len()), ("other", 1, 1));
    for (key, column) in [("ports: ['80']", 18), ("restart: always", 18), ("pre_start: []", 18)] {
        let files =
            files(&format!("services:\n  a:\n    image: x\n    pre_start:\n      - {{command: x, {key}}}\n"), &[]);
        let refused = load(&options(), &files).unwrap_err();
        assert!(refused.items.iter().any(|item| item.line == 5 && item.column > column), "{key}: {refused}");
    }
}

#[test]
fn env_files_say_how_commands_behave() {
    let files = files(
        "services: {a: {image: x}}",
        &[(".env", "COMPOSE_PROGRESS=plain\nCOMPOSE_ANSI=never\nOTHER=x\n"), ("sub/.env", "COMPOSE_PROGRESS=json\n")],
    );
    let said = |options: LoadOptions| settings(&options, &files);
    assert_eq!(said(options()), env(&[("COMPOSE_PROGRESS", "plain"), ("COMPOSE_ANSI", "never")]));
    let elsewhere = LoadOptions { files: vec!["sub/compose.yaml".into()], ..options() };
    assert_eq!(said(elsewhere), env(&[("COMPOSE_PROGRESS", "json")]), "those beside the first file");
    let given = LoadOptions { env: env(&[("COMPOSE_ANSI", "always")]), ..options() };
    assert_eq!(said(given), env(&[("COMPOSE_PROGRESS", "plain")]), "what the environment says comes first");
    let disabled = LoadOptions { env: env(&[("COMPOSE_DISABLE_ENV_FILE", "TRUE")]), ..options() };
    assert_eq!(said(disabled), env(&[]));
}

#[test]
fn names_are_as_the_first_compose_made_them_when_asked() {
    let files = files("services: { web: { build: . } }", &[]);
    for options in [
        LoadOptions { compatibility: true, ..options() },
        LoadOptions { env: env(&[("COMPOSE_COMPATIBILITY", "1")]), ..options() },
    ] {
        let project = load(&options, &files).unwrap().project;
        assert_eq!(project.image_name("web"), format!("{}_web", project.name));
    }
}
