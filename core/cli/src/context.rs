//! What every command is given.

use crate::client::Client;
use crate::commands::compose::ProjectArgs;

/// The daemon's client, and the options that stood before the command.
#[derive(Clone, Debug)]
pub struct Context {
    /// The client.
    pub client: Client,
    /// Where the client's own configuration (`config.json`) lies.
    pub config: std::path::PathBuf,
    /// Project options given before the verb: `sampan compose -f x up`.
    pub project: ProjectArgs,
}
