//! `completion`: scripts for shells.

use clap_complete::{Shell, generate};

use crate::app::tree;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::table::write_all;

/// Arguments of `completion`.
#[derive(Debug, clap::Args)]
pub struct CompletionArgs {
    /// bash, zsh, fish, elvish or powershell
    pub shell: String,
}

/// `completion`
pub async fn run(_context: Context, args: CompletionArgs) -> Outcome {
    let shell: Shell = args.shell.parse().map_err(|_| {
        Failure::usage(format!("unsupported shell type {:?}: use bash, zsh, fish, elvish or powershell", args.shell))
    })?;
    let mut script = Vec::new();
    generate(shell, &mut tree(), "sampan", &mut script);
    write_all(&String::from_utf8_lossy(&script))
}
