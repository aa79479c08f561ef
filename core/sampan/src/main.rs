//! The `sampan` program: the command line. The daemon is a program of its own: what runs drivers is large, and each command
//! would wait until all of that is put in place.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use sampan_cli::{Hooks, paths};

fn main() -> ExitCode {
    sampan_cli::main(Hooks { daemon })
}

/// `sampan daemon`: this process becomes the daemon.
fn daemon(options: &[OsString]) -> ExitCode {
    let message = match paths::beside("sampand", "SAMPAN_DAEMON") {
        Ok(program) => {
            let error = Command::new(&program).args(options).exec();
            format!("run {}: {error}", program.display())
        }
        Err(message) => message,
    };
    eprintln!("sampan daemon: {message}");
    ExitCode::FAILURE
}
