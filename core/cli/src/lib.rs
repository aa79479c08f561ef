//! Sampan's command line: a client of the Docker Engine API with `docker`'s verbs, flags, words and exit codes.
//!
//! Data enters as arguments, files that they name, the environment and the daemon's answers; it leaves as requests, text
//! on standard output and an exit code. Invariants: nothing here does the engine's work (even `config` only loads files),
//! flags become request bodies in pure functions (`flags`), and only the command that was named is ever built.

mod app;
mod archive;
mod autostart;
mod client;
mod commands;
mod context;
mod daemon;
mod failure;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod fake;
mod flags;
mod output;
pub mod paths;

pub use app::Hooks;
pub use daemon::DaemonArgs;
pub use flags::quantity::bytes;

use std::process::ExitCode;

/// Runs the program's command line.
pub fn main(hooks: Hooks) -> ExitCode {
    app::main(hooks)
}

/// Runs the daemon as its command line says.
pub fn daemon(run: fn(DaemonArgs) -> ExitCode) -> ExitCode {
    app::daemon(run)
}
