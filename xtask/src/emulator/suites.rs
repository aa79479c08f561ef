//! Which tests run in the machine, and the files that they need.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::build::{self, Profile};

/// The end-to-end tests; they alone need the whole engine built.
const WHOLE: &str = "sampan-tests";
/// Packages whose tests speak to the kernel, cheapest first.
const PACKAGES: [&str; 5] = ["sampan-cgroup", "sampan-storage", "sampan-shim", "sampan-network", WHOLE];

/// A test program.
#[derive(Debug)]
pub struct Suite {
    /// How it is chosen and shown.
    pub name: String,
    /// The package's folder, in which it runs.
    pub folder: PathBuf,
    /// The program.
    pub program: PathBuf,
}

impl Suite {
    /// The line that init reads.
    pub fn line(&self) -> String {
        format!("{} {} {}\n", self.name, self.folder.display(), self.program.display())
    }
}

/// What goes into the machine.
#[derive(Debug)]
pub struct Chosen {
    /// In the order in which they run.
    pub suites: Vec<Suite>,
    /// Programs that they start.
    pub programs: Vec<PathBuf>,
    /// Folders that they read.
    pub trees: Vec<PathBuf>,
    /// Parts of tests' names; none for all.
    pub words: Vec<String>,
}

/// Builds the tests; words that name a suite choose it, the others are parts of tests' names.
pub fn choose(root: &Path, names: &str) -> Result<Chosen> {
    let words: Vec<&str> = names.split([',', ' ']).filter(|word| !word.is_empty()).collect();
    let files = test_files(root);
    let (named, words): (Vec<&str>, Vec<&str>) =
        words.iter().partition(|word| files.iter().any(|file| file == *word) || package(word).is_some());
    let wanted = |name: &str| named.is_empty() || named.contains(&name) || named.contains(&package_part(name));
    let packages: Vec<&str> = PACKAGES
        .into_iter()
        .filter(|package| {
            let short = short(package);
            wanted(short) || (*package == WHOLE && files.iter().any(|file| wanted(file)))
        })
        .collect();
    let whole = packages.contains(&WHOLE);
    let (mut programs, mut trees) = (Vec::new(), Vec::new());
    let built = programs_folder(root);
    if whole {
        if built == Profile::Debug.folder(root) {
            build::all(root, Profile::Debug)?;
        }
        programs.extend(["sampan", "sampand", "sampan-shim"].map(|name| built.join(name)));
        trees.extend([built.join("drivers"), root.join("compose-examples")]);
    }
    let mut suites = Vec::new();
    for artifact in compile(root, &packages)? {
        let Some(program) = artifact["executable"].as_str().map(PathBuf::from) else { continue };
        if artifact["profile"]["test"] == Value::Bool(false) {
            programs.push(program);
            continue;
        }
        let manifest = artifact["manifest_path"].as_str().unwrap_or_default();
        if !packages.iter().any(|package| Path::new(manifest).parent().is_some_and(|folder| is_of(folder, package))) {
            continue;
        }
        let folder = artifact["manifest_path"].as_str().and_then(|path| Path::new(path).parent());
        let folder = folder.context("a package has a folder")?.to_owned();
        let name = suite_name(&artifact).context("a target has a name")?;
        if wanted(&name) {
            suites.push(Suite { name, folder, program });
        }
    }
    suites.sort_by_key(|suite| order(&suite.name));
    ensure!(!suites.is_empty(), "no suite is called {names:?}");
    programs.sort();
    programs.dedup();
    Ok(Chosen { suites, programs, trees, words: words.into_iter().map(str::to_owned).collect() })
}

/// Where the programs under test lie: built here, or where `SAMPAN_TEST_BIN` says that they are built already.
pub fn programs_folder(root: &Path) -> PathBuf {
    std::env::var_os("SAMPAN_TEST_BIN").map_or_else(|| Profile::Debug.folder(root), PathBuf::from)
}

fn short(package: &str) -> &str {
    package.strip_prefix("sampan-").unwrap_or(package)
}

fn package(word: &str) -> Option<&'static str> {
    PACKAGES.into_iter().find(|package| short(package) == word)
}

/// `network` of `network/kernel`.
fn package_part(name: &str) -> &str {
    name.split('/').next().unwrap_or(name)
}

/// The end-to-end suites' names.
fn test_files(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root.join("tests/tests")).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".rs")?.to_owned())).collect()
}

/// End-to-end suites are called as their files; others by their package, those of a folder `tests` with their file's name.
fn suite_name(artifact: &Value) -> Option<String> {
    let target = artifact["target"]["name"].as_str()?;
    let manifest = Path::new(artifact["manifest_path"].as_str()?);
    let folder = manifest.parent()?.file_name()?.to_str()?;
    let integration = artifact["target"]["kind"].as_array()?.iter().any(|kind| kind == "test");
    Some(match (folder, integration) {
        ("tests", true) => target.to_owned(),
        (_, true) => format!("{folder}/{target}"),
        (_, false) => folder.to_owned(),
    })
}

/// The packages in their order, the whole engine last.
fn order(name: &str) -> (usize, String) {
    let at = PACKAGES.into_iter().position(|package| short(package) == package_part(name));
    (at.unwrap_or(PACKAGES.len()), name.to_owned())
}

/// Whether a folder is a package's: `core/shim` of `sampan-shim`, `tests` of `sampan-tests`.
fn is_of(folder: &Path, package: &str) -> bool {
    folder.file_name().is_some_and(|name| name == short(package))
}

/// Compiles the tests: what cargo says about each artifact.
fn compile(root: &Path, packages: &[&str]) -> Result<Vec<Value>> {
    let mut command = Command::new("cargo");
    command.args(["test", "--locked", "--no-run", "--message-format=json-render-diagnostics"]).current_dir(root);
    if packages.contains(&WHOLE) {
        // As everything was built: other features would mean another build.
        command.arg("--workspace");
    } else {
        command.args(packages.iter().flat_map(|package| ["--package", package]));
    }
    let run = command.stderr(Stdio::inherit()).output().context("run cargo")?;
    ensure!(run.status.success(), "the tests do not build");
    let said = String::from_utf8_lossy(&run.stdout).into_owned();
    let messages = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Ok(messages.filter(|message| message["reason"] == "compiler-artifact").collect())
}

/// The shared libraries of a program, by the loader's own account; none when it is static.
pub fn libraries(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let run = Command::new("ldd").arg(program).output().context("run ldd")?;
    let text = String::from_utf8_lossy(&run.stdout);
    ensure!(!text.contains("not found"), "{} lacks libraries:\n{text}", program.display());
    Ok(text.lines().filter_map(library).collect())
}

/// The path in a line such as `libc.so.6 => /lib/libc.so.6 (0x…)` or `/lib64/ld-linux-x86-64.so.2 (0x…)`.
fn library(line: &str) -> Option<PathBuf> {
    let line = line.trim();
    let path = line.split_once(" => ").map_or(line, |(_, path)| path);
    let path = path.split(" (").next().unwrap_or_default();
    path.starts_with('/').then(|| PathBuf::from(path))
}

/// A copy without symbols, which would fill the machine's memory; made anew when the program is newer.
pub fn strip(program: &Path, folder: &Path) -> Result<PathBuf> {
    let name = program.to_string_lossy().trim_start_matches('/').replace('/', "-");
    let copy = folder.join(name);
    let time = |path: &Path| fs::metadata(path).and_then(|facts| facts.modified());
    if let (Ok(made), Ok(built)) = (time(&copy), time(program))
        && made > built
    {
        return Ok(copy);
    }
    fs::create_dir_all(folder)?;
    let run =
        Command::new("strip").arg("-o").arg(&copy).arg(program).output().context("run strip (package binutils)")?;
    ensure!(run.status.success(), "strip {}: {}", program.display(), String::from_utf8_lossy(&run.stderr).trim());
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loaders_account_is_read() {
        let lines = [
            "\tlinux-vdso.so.1 (0x00007ffd)",
            "\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)",
            "\t/lib64/ld-linux-x86-64.so.2 (0x00007f)",
            "\tstatically linked",
        ];
        let found: Vec<PathBuf> = lines.into_iter().filter_map(library).collect();
        assert_eq!(found, [PathBuf::from("/lib/x86_64-linux-gnu/libc.so.6"), "/lib64/ld-linux-x86-64.so.2".into()]);
    }

    #[test]
    fn suites_are_called_by_package_and_file() {
        let artifact = |manifest: &str, kind: &str, name: &str| serde_json::json!({"manifest_path": manifest, "target": {"kind": [kind], "name": name}});
        assert_eq!(suite_name(&artifact("/w/tests/Cargo.toml", "test", "host")).unwrap(), "host");
        assert_eq!(suite_name(&artifact("/w/core/shim/Cargo.toml", "test", "launch")).unwrap(), "shim/launch");
        assert_eq!(suite_name(&artifact("/w/core/cgroup/Cargo.toml", "lib", "sampan_cgroup")).unwrap(), "cgroup");
    }
}
