//! What `config` prints, case by case, beside what the reference implementation prints.
//!
//! `reference/*.txt` hold the cases, the `.json` beside each what the reference said. A line `> KEYS` is a service with
//! these keys; `## NAME` starts a project, with `# args:`, `# env:`, `# dir:` and further files after `# file:`.
//! A line that starts with `~`, or a project with `# differs:`, is a difference that is meant; its reason follows.
#![allow(clippy::unwrap_used, clippy::panic)]

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

    fn load(&self) -> Result<Value, String> {
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
        let files = self
            .files
            .iter()
            .fold(MemoryFiles::default(), |files, (name, text)| files.with(dir.join(name), text.as_str()));
        sampan_compose::load(&options, &files).map(|loaded| loaded.project.to_json()).map_err(|error| error.to_string())
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

/// What says nothing: empty things that the reference prints or leaves out without a rule.
fn settle(value: &mut Value) {
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
            map.values_mut().for_each(settle);
        }
        Value::Array(items) => items.iter_mut().for_each(settle),
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
    match (case.load(), expected.get("refused").is_some()) {
        (Ok(mut ours), false) => {
            let mut theirs = expected.clone();
            settle(&mut ours);
            settle(&mut theirs);
            differences("", &ours, &theirs, &mut found);
        }
        (Err(_), true) => {}
        (Ok(_), true) => found.push("only the reference refuses".to_owned()),
        (Err(error), false) => found.push(format!("only we refuse: {error}")),
    }
    found
}

#[test]
fn every_case_gives_the_references_model() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference");
    let mut wrong = String::new();
    let mut count = 0;
    let mut paths: Vec<PathBuf> = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "txt")) {
        let recorded = std::fs::read(path.with_extension("json")).unwrap();
        let recorded: Map<String, Value> = serde_json::from_slice(&recorded).unwrap();
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
    assert!(count > 500, "{count} cases");
    assert!(wrong.is_empty(), "\n{wrong}");
}
