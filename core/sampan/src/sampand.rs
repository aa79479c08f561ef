//! The `sampand` program: the daemon. Wiring only.

mod daemon;
mod memory;
mod settings;
mod socket;

use std::process::ExitCode;

fn main() -> ExitCode {
    sampan_cli::daemon(daemon::main)
}
