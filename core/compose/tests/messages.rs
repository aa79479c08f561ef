//! What is said about broken files, word for word.
#![allow(clippy::unwrap_used)]

mod support;

use sampan_compose::{LoadOptions, MemoryFiles, load};

fn refused(files: &MemoryFiles, options: &LoadOptions) -> String {
    match load(options, files) {
        Ok(loaded) => format!("accepted: {:#?}", loaded.project.services),
        Err(diagnostics) => diagnostics.to_string(),
    }
}

fn said(compose: &str) -> String {
    refused(&support::files(compose, &[]), &support::options())
}

macro_rules! snapshot {
    ($name:ident, $text:expr) => {
        #[test]
        fn $name() {
            insta::assert_snapshot!(stringify!($name), $text);
        }
    };
}

snapshot!(
    an_unknown_key_suggests_the_nearest,
    said("services:\n  web:\n    image: a\n    enviroment:\n      A: 1\n    prots: [80]\n")
);
snapshot!(
    a_known_key_that_is_not_handled_is_named,
    said(
        "services:\n  web:\n    image: a\n    use_api_socket: true\n    blkio_config: {weight: 3}\n    deploy: {resources: {reservations: {devices: []}}}\nmodels: {}\n"
    )
);
snapshot!(
    several_errors_at_once,
    said(
        "services:\n  web:\n    image: [a]\n    user: 1000\n    ports: ['99999:80', '1-3:4-9', 'x', '1.2.3:80:80', '80/xxx']\n    restart: allways\n    stop_grace_period: 10\n    mem_limit: 12q\n    healthcheck: {test: [foo], interval: 3 parsecs, retries: -1}\n    privileged: maybe\n    depends_on: {db: {}}\n    volumes: ['a:b:c:d', 'data:relative', {type: nfs, target: /x}]\n    networks: [nope]\n    ulimits: {nofile: {soft: 5, hard: 3}}\n"
    )
);
snapshot!(a_tab_is_explained, said("services:\n\tweb:\n\t\timage: a\n"));
snapshot!(broken_yaml_is_located, said("services:\n  web:\n    image: \"a\n    command: b\n"));
snapshot!(a_duplicate_key_is_refused, said("services:\n  web:\n    image: a\n    image: b\n"));
snapshot!(an_empty_file_is_refused, said("# nothing\n"));
snapshot!(a_list_is_not_a_project, said("- a\n"));
snapshot!(no_services, said("networks: {a: }\n"));
snapshot!(a_service_without_an_image, said("services:\n  web:\n    command: x\n"));
snapshot!(
    two_things_at_one_place,
    said(
        "services:\n  web:\n    image: a\n    volumes: ['/x:/data']\n    tmpfs:\n      - /run\n      - /data:size=1m\n"
    )
);
snapshot!(
    undefined_references_are_named,
    said(
        "services:\n  web:\n    image: a\n    networks: [fornt]\n    volumes: ['dat:/d']\n    secrets: [s]\n    configs: [c]\n    depends_on: [dbb, other]\n    network_mode: service:gone\n  db: {image: b}\nnetworks: {front: }\nvolumes: {data: }\n"
    )
);
snapshot!(
    a_circle_of_dependencies,
    said(
        "services:\n  a:\n    image: x\n    depends_on: [b]\n  b:\n    image: x\n    depends_on: [c]\n  c:\n    image: x\n    links: [a]\n  d:\n    image: x\n    depends_on: [d]\n"
    )
);
snapshot!(
    a_required_variable,
    said("services:\n  web:\n    image: repo/${TAG:?say which}\n    command: echo ${} ${A\n")
);
snapshot!(
    contradictions,
    said(
        "services:\n  a:\n    image: x\n    container_name: one\n    scale: 3\n    cpus: 1\n    deploy: {replicas: 2, resources: {limits: {cpus: 2}}}\n  b:\n    image: x\n    container_name: one\n    network_mode: service:a\n    ports: [80]\n  c:\n    image: x\n    network_mode: host\n    networks: [default]\n"
    )
);
snapshot!(
    a_dependency_that_no_profile_enables,
    said("services:\n  a: {image: x, depends_on: [b]}\n  b: {image: x, profiles: [debug, test]}\n")
);
snapshot!(
    resources_that_make_no_sense,
    said(
        "services: {a: {image: x}}\nnetworks:\n  n: {external: true, driver: bridge}\n  m: {ipam: {config: [{subnet: 10.0.0.0/40, gateway: here}]}}\nsecrets:\n  none: {}\n  both: {file: ./a, environment: B}\n  swarm: {driver: x}\nconfigs:\n  c: {content: a, external: true}\nvolumes: {v: [a], w: {size: 3}}\n"
    )
);
snapshot!(unusual_tags_and_keys, said("services:\n  web: !foo\n    image: a\n"));
snapshot!(a_complex_key, said("services:\n  ? [a]\n  : b\n"));
snapshot!(
    a_long_line_is_cut,
    said(&format!("services: {{a: {{image: x, labels: {{l: {}}}, imag: y}}}}\n", "y".repeat(300)))
);
snapshot!(
    control_characters_are_not_printed,
    said("services:\n  web:\n    image: a\n    \"k\\e[31m\": \"\\u001b[2J\"\n")
);
snapshot!(merged_forms_that_differ, {
    let files = support::files(
        "services:\n  a: {image: x, ports: ['80'], healthcheck: {retries: 1}}\n",
        &[("b.yaml", "services:\n  a:\n    ports: {a: b}\n    healthcheck: 5\n")],
    );
    refused(&files, &LoadOptions { files: vec!["compose.yaml".into(), "b.yaml".into()], ..support::options() })
});
snapshot!(
    includes_that_go_wrong,
    refused(
        &support::files(
            "include:\n  - missing.yaml\n  - self.yaml\n  - other.yaml\n  - {path: other.yaml, what: 3}\n  - oci://registry/x\nservices:\n  a: {image: x}\n",
            &[("self.yaml", "include: [self.yaml]\n"), ("other.yaml", "services:\n  a: {image: y}\n")],
        ),
        &support::options(),
    )
);
snapshot!(
    extends_that_go_wrong,
    refused(
        &support::files(
            "services:\n  a: {extends: gone, image: x}\n  b: {extends: {file: o.yaml, service: x}}\n  c: {extends: {file: gone.yaml, service: x}, image: x}\n  d: {extends: {service: a, how: now}, image: x}\n",
            &[("o.yaml", "services:\n  x: {extends: y}\n  y: {extends: x}\n")],
        ),
        &support::options(),
    )
);
snapshot!(
    env_files_that_go_wrong,
    refused(
        &support::files(
            "services:\n  a: {image: x, env_file: [gone.env, bad.env, quote.env, {path: fine.env, format: odd}]}\n",
            &[("bad.env", "A=1\nB C=2\n"), ("quote.env", "A='x\n"), ("fine.env", "")],
        ),
        &support::options(),
    )
);
snapshot!(
    a_bomb_of_aliases,
    said(&format!(
        "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n{}services: {{a: {{image: x}}}}\n",
        (1..12).map(|n| format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(", "))).collect::<String>()
    ))
);
snapshot!(too_deep, said(&format!("x-a: {}{}\n", "[".repeat(120), "]".repeat(120))));
snapshot!(an_alias_of_itself, said("x-a: &a {b: *a}\nservices: {a: {image: x}}\n"));
snapshot!(not_text, {
    let files = MemoryFiles::default().with("/p/compose.yaml", b"services:\n  a: {image: \xff}\n".to_vec());
    refused(&files, &support::options())
});
snapshot!(too_large, said(&"# fifty million\n".repeat(600_000)));
snapshot!(nothing_to_load, refused(&MemoryFiles::default().with("/p/readme", ""), &support::options()));
snapshot!(
    a_directory_in_place_of_the_file,
    refused(&MemoryFiles::default().with("/p/compose.yaml/x", ""), &support::options())
);
snapshot!(a_bad_project_name, {
    let files = support::files("name: '+ +'\nservices: {a: {image: x}}\n", &[]);
    format!(
        "{}\n{}",
        refused(&files, &support::options()),
        refused(&files, &LoadOptions { project_name: Some("../x".into()), ..support::options() })
    )
});
snapshot!(warnings_are_located, {
    let text = "version: '3'\nservices:\n  a:\n    image: ${NOT_SET}x\n    init: yes\n    network_mode: host\n    ports: [80]\n    command: a && b\n    deploy: {endpoint_mode: vip}\n";
    let loaded = load(&support::options(), &support::files(text, &[])).unwrap();
    loaded.warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
});
