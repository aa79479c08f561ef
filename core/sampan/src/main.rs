//! The `sampan` program: the command line, with the daemon behind one of its commands.

use std::process::ExitCode;

use sampan_cli::{DaemonArgs, Hooks};

fn main() -> ExitCode {
    sampan_cli::main(Hooks { daemon })
}

fn daemon(_args: DaemonArgs) -> ExitCode {
    eprintln!("sampan: this build has no daemon");
    ExitCode::FAILURE
}
