//! The same files through Compose itself: what `config` prints must be the same.
//!
//! `SAMPAN_COMPOSE_ORACLE` names the program; without it the test says so and passes.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use sampan_compose::LoadOptions;
use serde_json::Value;

/// What the reference's JSON leaves out or adds without saying anything: extensions below the top, empty commands.
fn settle(value: &mut Value, depth: usize) {
    match value {
        Value::Object(map) => {
            if map.get("exec").is_some_and(|exec| exec.get("command").is_some_and(Value::is_null)) {
                map.remove("exec");
            }
            map.retain(|key, _| depth == 0 || !key.starts_with("x-"));
            for key in ["placement", "bind", "volume", "resources"] {
                if map.get(key).and_then(Value::as_object).is_some_and(serde_json::Map::is_empty) {
                    map.remove(key);
                }
            }
            map.values_mut().for_each(|value| settle(value, depth + 1));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| settle(item, depth + 1)),
        _ => {}
    }
}

/// Order within an object says nothing, and numbers are compared by value.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, value)| b.get(key).is_some_and(|other| same(value, other)))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

fn differences(path: &str, ours: &Value, theirs: &Value, out: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                match b.get(key) {
                    Some(other) => differences(&format!("{path}.{key}"), value, other, out),
                    None => out.push(format!("{path}.{key}: only ours: {value}")),
                }
            }
            out.extend(
                b.iter()
                    .filter(|(key, _)| !a.contains_key(*key))
                    .map(|(key, value)| format!("{path}.{key}: only theirs: {value}")),
            );
        }
        (a, b) if !same(a, b) => out.push(format!("{path}: ours {a}, theirs {b}")),
        _ => {}
    }
}

/// A folder's arguments: the first line of its main file may be `# args: …`.
fn arguments(folder: &Path) -> (Vec<String>, LoadOptions) {
    let mut options = LoadOptions { working_dir: folder.to_owned(), ..LoadOptions::default() };
    options.env = support::env(&[("HOME", "/home/me"), ("SET", "yes"), ("EMPTY", "")]);
    let text = std::fs::read_to_string(folder.join("compose.yaml")).unwrap_or_default();
    let line = text.lines().next().and_then(|line| line.strip_prefix("# args:")).unwrap_or_default();
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    for pair in words.chunks(2) {
        let [flag, value] = pair else { panic!("{line}") };
        match flag.as_str() {
            "-f" => options.files.push(value.into()),
            "-p" => options.project_name = Some(value.clone()),
            "--profile" => options.profiles.push(value.clone()),
            "--env-file" => options.env_files.push(value.into()),
            other => panic!("{other}"),
        }
    }
    (words, options)
}

/// What differs between Compose's `config` and ours.
fn compare(oracle: &OsStr, folder: &Path, words: &[String], options: &LoadOptions) -> Vec<String> {
    let output = Command::new(oracle)
        .args(words)
        .args(["config", "--format", "json"])
        .current_dir(folder)
        .env_clear()
        .envs(&options.env)
        .output()
        .unwrap();
    let mut found = Vec::new();
    match (sampan_compose::load(options, &support::Disk), output.status.success()) {
        (Ok(loaded), true) => {
            let mut theirs: Value = serde_json::from_slice(&output.stdout).unwrap();
            let mut ours = loaded.project.to_json();
            settle(&mut theirs, 0);
            settle(&mut ours, 0);
            differences("", &ours, &theirs, &mut found);
        }
        (Err(_), false) => {}
        (Ok(_), false) => found.push(format!("only Compose refuses: {}", String::from_utf8_lossy(&output.stderr))),
        (Err(error), true) => found.push(format!("only we refuse: {error}")),
    }
    found
}

#[test]
fn config_prints_what_compose_prints() {
    let Some(oracle) = std::env::var_os("SAMPAN_COMPOSE_ORACLE") else {
        eprintln!("skipped: config_prints_what_compose_prints: SAMPAN_COMPOSE_ORACLE names no program");
        return;
    };
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/oracle");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    let mut wrong = Vec::new();
    for folder in folders {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let (words, options) = arguments(&folder);
        let found = compare(&oracle, &folder, &words, &options);
        wrong.extend(found.into_iter().map(|line| format!("{name}: {line}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// One key at a time: each line of `snippets.txt` is put into a service, and both must agree on it. A line that starts
/// with `~` is a difference that is meant.
#[test]
fn each_key_means_what_it_means_to_compose() {
    let Some(oracle) = std::env::var_os("SAMPAN_COMPOSE_ORACLE") else {
        eprintln!("skipped: each_key_means_what_it_means_to_compose: SAMPAN_COMPOSE_ORACLE names no program");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    for line in include_str!("snippets.txt").lines() {
        let (meant, line) = line.strip_prefix('~').map_or((false, line), |line| (true, line));
        let image = if line.starts_with("image:") { "" } else { "image: x, " };
        let text = format!("name: p\nservices: {{a: {{{image}{line}}}}}\n");
        std::fs::write(folder.path().join("compose.yaml"), text).unwrap();
        let (_, options) = arguments(folder.path());
        let found = compare(&oracle, folder.path(), &[], &options);
        if found.is_empty() == meant {
            wrong.push(format!("{line}: {}", if meant { "no difference".to_owned() } else { found.join("; ") }));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
