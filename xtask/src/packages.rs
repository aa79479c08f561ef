//! The distribution's packages that tests and the demo need.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

/// Makes sure that a program of a package is there: `(path, package)`.
pub fn ensure(wanted: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> =
        wanted.iter().filter(|(program, _)| !Path::new(program).exists()).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() || !Path::new("/usr/bin/apt-get").exists() {
        bail!("these packages are needed and are not installed: {} (apt-get install {0})", missing.join(" "));
    }
    println!("packages: installing {}", missing.join(" "));
    let install = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(words);
        command.output()
    };
    let mut words = vec!["install", "-y", "-q", "--no-install-recommends"];
    words.extend(&missing);
    if install(&words).is_ok_and(|run| run.status.success()) {
        return Ok(());
    }
    // Without the lists of packages nothing is found.
    install(&["update", "-q"])?;
    let second = install(&words)?;
    if !second.status.success() {
        bail!("install {}: {}", missing.join(" "), String::from_utf8_lossy(&second.stderr).trim());
    }
    Ok(())
}
