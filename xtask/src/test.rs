//! Every test, and the checks of form.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::build::{self, Profile};
use crate::packages;

/// What the end-to-end tests need of the distribution.
const PACKAGES: [(&str, &str); 1] = [("/bin/busybox", "busybox-static")];

/// Builds everything, then runs the tests of every crate, of the drivers, and those of `tests/`.
pub fn run(root: &Path, name: Option<&str>) -> Result<()> {
    packages::ensure(&PACKAGES)?;
    build::all(root, Profile::Debug)?;
    let mut command = Command::new("cargo");
    command.args(["test", "--locked", "--workspace"]).current_dir(root);
    command.env("SAMPAN_TEST_BIN", Profile::Debug.folder(root));
    if let Some(name) = name {
        command.arg(name);
    }
    build::run(&mut command, "run the tests")?;
    let mut command = Command::new("cargo");
    command.args(["test", "--locked", "--workspace", "--quiet"]).current_dir(root.join("plugins"));
    if let Some(name) = name {
        command.arg(name);
    }
    build::run(&mut command, "run the drivers' tests")
}

/// Formatting and lints, as CI wants them.
pub fn lint(root: &Path) -> Result<()> {
    build::run(Command::new("cargo").args(["fmt", "--all", "--check"]).current_dir(root), "check the format")?;
    build::run(
        Command::new("cargo").args(["fmt", "--all", "--check"]).current_dir(root.join("plugins")),
        "check the drivers' format",
    )?;
    let clippy = ["clippy", "--locked", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"];
    build::run(Command::new("cargo").args(clippy).current_dir(root), "check with clippy")
}
