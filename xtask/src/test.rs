//! Every test, and the checks of form.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

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

/// What the test on Debian needs beside that.
const DEBIAN_PACKAGES: [(&str, &str); 2] =
    [("/usr/bin/mmdebstrap", "mmdebstrap"), ("/usr/bin/docker-registry", "docker-registry")];

/// Makes a root file system of Debian with a compiler, once, and runs the tests that stand on it. They are no part of
/// [`run`]: downloading and unpacking a distribution takes longer than most suites.
pub fn debian(root: &Path) -> Result<()> {
    packages::ensure(&PACKAGES)?;
    packages::ensure(&DEBIAN_PACKAGES)?;
    let archive = root.join("target/debian.tar");
    if !archive.exists() {
        println!("debian: making {} by mmdebstrap", archive.display());
        let partial = archive.with_extension("partial.tar");
        let mut command = Command::new("mmdebstrap");
        command.args(["--variant=minbase", "--include=gcc,libc6-dev", "--quiet", "bookworm"]).arg(&partial);
        build::run(&mut command, "make a root file system of Debian")?;
        std::fs::rename(&partial, &archive).with_context(|| format!("keep {}", archive.display()))?;
    }
    build::all(root, Profile::Debug)?;
    let mut command = Command::new("cargo");
    command.args(["test", "--locked", "--workspace", "--test", "build_registry", "--", "debian"]).current_dir(root);
    command.env("SAMPAN_TEST_BIN", Profile::Debug.folder(root)).env("SAMPAN_TEST_DEBIAN", archive);
    build::run(&mut command, "run the tests on Debian")
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
