//! Building, testing, showing and measuring Sampan: `cargo xtask help`.

mod bench;
mod build;
mod demo;
mod drivers;
mod emulator;
mod install;
mod packages;
mod test;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

const HELP: &str = "\
Usage: cargo xtask COMMAND

  build [--debug]           build sampan, its shim and its drivers into target/release (or target/debug)
  drivers [--debug]         build the drivers alone
  demo                      build, start a daemon of its own, bring an example stack up and show it working
  test [NAME]               build and run every test, or those whose names contain NAME
  test --kernel [PACKAGE]   boot a stock kernel (cgroup v2) in an emulator and run the end-to-end tests in it
  test --debian             compile, push and pull on a root file system of Debian (mmdebstrap; a minute and a half, once)
  lint                      formatting and clippy, warnings denied
  bench [NAME]              measure beside what is installed (docker, podman, runc, crun)
  install [--prefix DIR]    install into DIR (default /usr/local), with a systemd unit and completions";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?.to_owned();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["build"] => build::all(&root, build::Profile::Release),
        ["build", "--debug"] => build::all(&root, build::Profile::Debug),
        ["drivers"] => drivers::build(&root, &root.join("target/release/drivers")),
        ["drivers", "--debug"] => drivers::build(&root, &root.join("target/debug/drivers")),
        ["demo", rest @ ..] => demo::run(&root, rest),
        ["test", "--kernel"] => emulator::run(&root, emulator::PACKAGE, None),
        ["test", "--kernel", package] => emulator::run(&root, package, None),
        ["test", "--kernel", package, name] => emulator::run(&root, package, Some(name)),
        ["test", "--debian"] => test::debian(&root),
        ["test"] => test::run(&root, None),
        ["test", name] => test::run(&root, Some(name)),
        ["lint"] => test::lint(&root),
        ["bench", rest @ ..] => bench::run(&root, rest),
        ["install"] => install::run(&root, "/usr/local"),
        ["install", "--prefix", prefix] => install::run(&root, prefix),
        ["help" | "--help" | "-h"] | [] => {
            println!("{HELP}");
            Ok(())
        }
        other => bail!("there is no {:?}\n{HELP}", other.join(" ")),
    }
}
