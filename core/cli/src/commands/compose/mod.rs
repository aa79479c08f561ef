//! Stacks: the commands of `sampan compose`, and those of them that stand at the top as well.

pub mod act;
pub mod board;
pub mod config;
pub mod copy;
pub mod display;
pub mod exec;
pub mod follow;
pub mod images;
pub mod logs;
pub mod look;
pub mod names;
pub mod problems;
pub mod project;
pub mod providers;
pub mod publish;
pub mod reach;
pub mod remote;
pub mod run;
pub mod settings;
pub mod show;
pub mod stack;
pub mod up;
pub mod wait;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// Which project is meant. Given before the command or after it.
#[derive(Debug, Default, Clone, clap::Args)]
pub struct ProjectArgs {
    /// Include all resources, even those not used by services
    #[arg(long)]
    pub all_resources: bool,
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
    /// Run compose in backward compatibility mode: names have _ between their parts
    #[arg(long)]
    pub compatibility: bool,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Control max parallelism, -1 for unlimited
    #[arg(long, value_name = "int", value_parser = crate::flags::quantity::integer)]
    pub parallel: Option<i64>,
    /// Set type of progress output (auto, tty, plain, json, quiet)
    #[arg(long)]
    pub progress: Option<String>,
    /// What fetches files that lie elsewhere.
    #[arg(skip)]
    pub remote: Option<Arc<remote::Remote>>,
    /// The variables of env files that say how commands behave, once somebody has asked.
    #[arg(skip)]
    settings: OnceLock<BTreeMap<String, String>>,
}
