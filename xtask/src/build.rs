//! Building the programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::drivers;

/// How programs are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// For tests: quick to build.
    Debug,
    /// For use.
    Release,
}

impl Profile {
    /// The folder below `target`.
    pub fn folder(self, root: &Path) -> PathBuf {
        root.join("target").join(match self {
            Self::Debug => "debug",
            Self::Release => "release",
        })
    }
}

/// The engine, the shim and the drivers, where the engine finds them.
pub fn all(root: &Path, profile: Profile) -> Result<()> {
    let mut command = Command::new("cargo");
    command.args(["build", "--locked"]).current_dir(root);
    match profile {
        Profile::Release => command.args(["--release", "--package", "sampan"]),
        // As `cargo test` builds it: other features would mean another build of everything.
        Profile::Debug => command.args(["--workspace", "--all-targets"]),
    };
    run(&mut command, "build sampan")?;
    shim(root, profile)?;
    drivers::build(root, &profile.folder(root).join("drivers"))
}

/// The shim is linked whole, so that it starts fast and shares nothing with the host it outlives; it is small and has no
/// use for unwinding.
fn shim(root: &Path, profile: Profile) -> Result<()> {
    let mut command = Command::new("cargo");
    let target = host()?;
    command
        .args(["build", "--locked", "--package", "sampan-shim", "--bin", "sampan-shim", "--target", &target])
        .current_dir(root)
        .env("RUSTFLAGS", "-C target-feature=+crt-static -C relocation-model=static")
        .env("CARGO_TARGET_DIR", root.join("target/shim"));
    let folder = if profile == Profile::Release {
        command
            .arg("--release")
            .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s");
        "release"
    } else {
        "debug"
    };
    run(&mut command, "build the shim")?;
    let built = root.join("target/shim").join(target).join(folder).join("sampan-shim");
    let place = profile.folder(root).join("sampan-shim");
    // Written aside and renamed: a shim that runs keeps its own file.
    let temporary = place.with_extension("new");
    fs::copy(&built, &temporary).with_context(|| format!("copy {}", built.display()))?;
    fs::rename(temporary, place).context("put the shim in its place")
}

/// The compiler's own target.
pub fn host() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("run rustc")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    Ok(line.to_owned())
}

/// Runs a command that must succeed.
pub fn run(command: &mut Command, what: &str) -> Result<()> {
    let status = command.status().with_context(|| format!("{what}: start {:?}", command.get_program()))?;
    ensure!(status.success(), "{what}: {status}");
    Ok(())
}
