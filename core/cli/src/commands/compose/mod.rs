//! Stacks: the commands of `sampan compose`, and those of them that stand at the top as well.

pub mod act;
pub mod config;
pub mod display;
pub mod exec;
pub mod follow;
pub mod images;
pub mod logs;
pub mod problems;
pub mod project;
pub mod show;
pub mod stack;
pub mod up;

use std::path::PathBuf;

/// Which project is meant. Given before the command or after it.
#[derive(Debug, Default, Clone, clap::Args)]
pub struct ProjectArgs {
    /// Compose configuration files
    #[arg(short, long)]
    pub file: Vec<String>,
    /// Project name
    #[arg(short, long)]
    pub project_name: Option<String>,
    /// Specify an alternate environment file
    #[arg(long)]
    pub env_file: Vec<PathBuf>,
    /// Specify a profile to enable
    #[arg(long)]
    pub profile: Vec<String>,
    /// Specify an alternate working directory (default: the path of the first compose file)
    #[arg(long, alias = "workdir")]
    pub project_directory: Option<PathBuf>,
    /// Control when to print ANSI control characters ("never"|"always"|"auto")
    #[arg(long)]
    pub ansi: Option<String>,
    /// Set type of progress output (auto, tty, plain, json, quiet)
    #[arg(long)]
    pub progress: Option<String>,
}
