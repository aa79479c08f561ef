//! What holds for any input.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use proptest::prelude::*;
use sampan_compose::model::units::{format_duration, parse_bytes, parse_duration};
use sampan_compose::{LoadOptions, load};
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

proptest! {
    #[test]
    fn loading_never_panics(parts in proptest::collection::vec(fragment(), 0..12)) {
        let _ = load(&options(), &files(&parts.concat(), &[])).map_err(|error| error.to_string());
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
