//! The `sampan` program: the command line, with the daemon behind one of its commands. Wiring only.

mod daemon;
mod memory;
mod settings;
mod socket;

use std::process::ExitCode;

use sampan_cli::Hooks;

fn main() -> ExitCode {
    sampan_cli::main(Hooks { daemon: daemon::main })
}
