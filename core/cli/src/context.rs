//! What every command is given.

use crate::client::Client;
use crate::commands::compose::ProjectArgs;
use crate::failure::{Failure, Outcome};

/// The daemon's client, and the options that stood before the command.
#[derive(Clone, Debug)]
pub struct Context {
    /// The client.
    pub client: Client,
    /// Where the client's own configuration (`config.json`) lies.
    pub config: std::path::PathBuf,
    /// Project options given before the verb: `sampan compose -f x up`.
    pub project: ProjectArgs,
    /// Whether a name that is no container may be a service of the project here; not so under `sampan container`.
    pub services: bool,
}

impl Context {
    /// Refuses `--dry-run` where there is none.
    pub fn no_dry_run(&self, verb: &str, why: &str) -> Outcome {
        match self.project.dry_run {
            true => Err(Failure::new(format!("`{verb}` has no --dry-run: {why}"))),
            false => Ok(()),
        }
    }
}
