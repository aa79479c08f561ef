//! What holds for any input.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use proptest::prelude::*;
use sampan_compose::model::units::{format_duration, parse_bytes, parse_duration};
use sampan_compose::{LoadOptions, MemoryFiles, load, load_raw};
use support::{files, options};

/// Fragments of compose files, so that random joins get past the first line.
fn fragment() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("services:\n".to_owned()),
        Just("  a:\n".to_owned()),
        Just("    image: x\n".to_owned()),
        Just("    ports: ['80:80']\n".to_owned()),
        Just("    environment: {A: ${B:-c}}\n".to_owned()),
        Just("    volumes: [v:/v]\n".to_owned()),
        Just("    <<: *x\n".to_owned()),
        Just("x-a: &x {command: b}\n".to_owned()),
        Just("volumes: {v: }\n".to_owned()),
        Just("    extends: a\n".to_owned()),
        Just("include: [compose.yaml]\n".to_owned()),
        "[ -~\n]{0,20}",
        "\\PC{0,10}",
    ]
}

/// What YAML and compose files are made of.
fn token() -> impl Strategy<Value = String> {
    let words = [
        "services:",
        "a:",
        "image: x",
        "b",
        "- ",
        "? ",
        ": ",
        "\n",
        "\n  ",
        "\n    ",
        "\n      ",
        "{",
        "}",
        "[",
        "]",
        ", ",
        "&a ",
        "*a",
        "<<: ",
        "!reset ",
        "!override ",
        "!!str ",
        "!x ",
        "|\n",
        ">-\n",
        "\"",
        "'",
        "#",
        "---\n",
        "...\n",
        "\t",
        "${A:-",
        "$",
        "}",
        "~",
        "null",
        "010",
        "1e9",
        "extends: ",
        "include: ",
        "build: ",
        "ports: ",
        "deploy: ",
        "environment: ",
        "volumes: ",
        "networks: ",
        "gpus: all",
        "depends_on: ",
        "%YAML 1.2\n",
        "\u{feff}",
        "\u{0}",
        "é",
    ];
    prop_oneof![9 => proptest::sample::select(words.to_vec()).prop_map(str::to_owned), 1 => "\\PC{0,3}"]
}

fn files_of(compose: &str) -> MemoryFiles {
    files(compose, &[])
}

#[test]
fn what_grows_is_bounded() {
    let anchors: String =
        (1..40).map(|n| format!("x-{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(", "))).collect();
    let laughs = format!("x-0: &a0 [lol, lol]\n{anchors}services: {{a: {{image: x}}}}\n");
    let maps: String =
        (1..40).map(|n| format!("x-{n}: &a{n} {{<<: *a{}, a: *a{}, b: *a{}}}\n", n - 1, n - 1, n - 1)).collect();
    let merges = format!("x-0: &a0 {{k: v}}\n{maps}services: {{a: {{image: x}}}}\n");
    let deep = format!("x-a: {}{}\nservices: {{a: {{image: x}}}}\n", "[".repeat(50_000), "]".repeat(50_000));
    let variables = format!("services: {{a: {{image: '{}x{}'}}}}\n", "${A:-".repeat(20_000), "}".repeat(20_000));
    let itself = "x-a: &a [*a]\nservices: {a: {image: x}}\n".to_owned();
    for text in [laughs, merges, deep, variables, itself] {
        let start: String = text.chars().take(60).collect();
        assert!(load(&options(), &files(&text, &[])).is_err(), "{start}");
        let _ = load_raw(&options(), &files(&text, &[]));
    }
    // Much of what is allowed is no trouble either.
    let services: String = (0..2000)
        .map(|n| format!("  s{n}: {{image: x, depends_on: [s{}], ports: ['{}']}}\n", (n + 1).min(1999), n + 1))
        .collect();
    let services = services.replace("s1999: {image: x, depends_on: [s1999],", "s1999: {image: x,");
    assert_eq!(load(&options(), &files(&format!("services:\n{services}"), &[])).unwrap().project.services.len(), 2000);
}

proptest! {
    #[test]
    fn loading_never_panics(parts in proptest::collection::vec(fragment(), 0..12)) {
        let _ = load(&options(), &files(&parts.concat(), &[])).map_err(|error| error.to_string());
    }

    #[test]
    fn bytes_are_no_trouble(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let files = MemoryFiles::default().with("/p/compose.yaml", bytes.clone()).with("/p/.env", bytes);
        let _ = load(&options(), &files).map_err(|error| error.to_string());
    }

    #[test]
    fn soup_of_yaml_is_no_trouble(parts in proptest::collection::vec(token(), 0..60)) {
        let files = files(&parts.concat(), &[("b.yaml", &parts.iter().rev().map(String::as_str).collect::<String>())]);
        let both = LoadOptions { files: vec!["compose.yaml".into(), "b.yaml".into()], ..options() };
        for options in [options(), both, LoadOptions { whole_specification: true, ..options() }] {
            let _ = load(&options, &files).map_err(|error| error.to_string());
            let _ = load_raw(&options, &files).map_err(|error| error.to_string());
        }
    }

    #[test]
    fn a_damaged_case_is_no_trouble(case in 0_usize..1000, at in 0_usize..4000, with in "[\\[\\]{}:,&*!|>'\"#%@` \n\ta0$-]{0,4}", cut in 0_usize..6) {
        let text = include_str!("reference/files.txt");
        let cases: Vec<&str> = text.split("\n## ").collect();
        let chosen = cases.get(case % cases.len()).copied().unwrap_or_default();
        let mut bytes = chosen.split_once('\n').map(|(_, rest)| rest.as_bytes().to_vec()).unwrap_or_default();
        let at = at % (bytes.len() + 1);
        let end = (at + cut).min(bytes.len());
        bytes.splice(at..end, with.bytes());
        let files = MemoryFiles::default().with("/p/compose.yaml", bytes);
        let whole = LoadOptions { whole_specification: true, ..options() };
        if let Ok(loaded) = load(&whole, &files) {
            let printed = loaded.project.to_yaml();
            // What an optional dependency leads to may be in no active profile, and is then not printed.
            prop_assume!(!printed.contains("required: false"));
            let again = load(&whole, &files_of(&printed)).map_err(|error| format!("{error}\n{printed}"));
            prop_assert!(again.is_ok(), "{}", again.unwrap_err());
        }
    }

    #[test]
    fn durations_read_back(nanos in 0..i64::MAX as u64) {
        let duration = Duration::from_nanos(nanos);
        prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
    }

    #[test]
    fn texts_are_no_trouble_for_units(text in "\\PC{0,12}") {
        let _ = parse_duration(&text);
        let _ = parse_bytes(&text);
    }

    #[test]
    fn sizes_are_powers_of_1024(count in 0_i64..1 << 20, unit in 0_usize..4) {
        let (name, shift) = [("b", 0), ("k", 10), ("MB", 20), ("GiB", 30)][unit];
        prop_assert_eq!(parse_bytes(&format!("{count}{name}")), Ok(count << shift));
    }

    #[test]
    fn any_text_survives_being_printed(text in "[ -~\\n\\t\u{e9}\u{1F600}]{0,30}", key in "[a-z~:#' -]{1,8}") {
        let mut project = load(&options(), &files("services: {a: {image: x}}", &[])).unwrap().project;
        project.services.get_mut("a").unwrap().labels.insert(key.clone(), text.clone());
        let printed = project.to_yaml();
        let again = load(&options(), &files(&printed, &[])).map_err(|error| format!("{error}\n{printed}")).unwrap();
        prop_assert_eq!(again.project.services.get("a").unwrap().labels.get(&key), Some(&text), "{}", printed);
    }

    #[test]
    fn a_file_over_itself_is_itself(
        ports in proptest::collection::vec((1_u16..100, 1_u16..100, prop::bool::ANY), 0..6),
        labels in proptest::collection::btree_map("[a-z]{1,3}", "[a-z]{0,3}", 0..5),
        targets in proptest::collection::btree_set("/[a-z]{1,3}", 0..5),
        list in prop::bool::ANY,
    ) {
        let ports: Vec<String> = ports.iter().map(|(host, target, udp)| format!("'{host}:{target}{}'", if *udp { "/udp" } else { "" })).collect();
        let labels: Vec<String> = labels.iter().map(|(key, value)| if list { format!("'{key}={value}'") } else { format!("{key}: '{value}'") }).collect();
        let labels = if list { format!("[{}]", labels.join(", ")) } else { format!("{{{}}}", labels.join(", ")) };
        let volumes: Vec<String> = targets.iter().map(|target| format!("'v:{target}'")).collect();
        let text = format!(
            "services:\n  a:\n    image: x\n    command: [a, b]\n    ports: [{}]\n    labels: {labels}\n    volumes: [{}]\n    cap_add: [A, B]\n    dns: 1.1.1.1\n    extra_hosts: ['h=1.1.1.1']\n    depends_on: [b]\n    networks: [n]\n  b: {{image: y}}\nvolumes: {{v: }}\nnetworks: {{n: }}\n",
            ports.join(", "), volumes.join(", "),
        );
        let files = files(&text, &[]);
        let once = load(&options(), &files).unwrap().project;
        let twice = LoadOptions { files: vec!["compose.yaml".into(), "compose.yaml".into()], ..options() };
        prop_assert_eq!(load(&twice, &files).unwrap().project.to_json(), once.to_json());
    }

    #[test]
    fn short_ports_are_refused_or_within_range(text in "[0-9:./\\[\\]a-z-]{1,24}") {
        let compose = format!("services: {{a: {{image: x, ports: ['{text}']}}}}");
        if let Ok(loaded) = load(&options(), &files(&compose, &[])) {
            for port in &loaded.project.services.get("a").unwrap().ports {
                prop_assert!(port.target > 0);
                prop_assert!(port.published.is_none_or(|ports| ports.first <= ports.last));
            }
        }
    }
}
