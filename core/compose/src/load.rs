//! The entry: options in, project out.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::files::Files;
use crate::model::Project;

/// What to load, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadOptions {
    /// Where the command ran, absolute: relative paths below start here and discovery goes up from here.
    pub working_dir: PathBuf,
    /// `-f`, in order. Empty: `COMPOSE_FILE`, else discovery.
    pub files: Vec<PathBuf>,
    /// `--project-directory`. None: the directory of the first file.
    pub project_dir: Option<PathBuf>,
    /// `-p`.
    pub project_name: Option<String>,
    /// The caller's environment.
    pub env: BTreeMap<String, String>,
    /// `--env-file`, in order. Empty: `COMPOSE_ENV_FILES`, else `.env` in the project directory if it is there.
    pub env_files: Vec<PathBuf>,
    /// `--profile`; joined with `COMPOSE_PROFILES`.
    pub profiles: Vec<String>,
    /// Whether `$VAR` is replaced (default).
    pub interpolate: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            working_dir: PathBuf::from("/"),
            files: Vec::new(),
            project_dir: None,
            project_name: None,
            env: BTreeMap::new(),
            env_files: Vec::new(),
            profiles: Vec::new(),
            interpolate: true,
        }
    }
}

/// A project and what it was made from.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    pub project: Project,
    /// Every path consulted, absolute, also those that were looked for and missing (an override file, `.env`): compose
    /// files, includes, extended files, env files, files of configs and secrets.
    pub inputs: Vec<PathBuf>,
    pub warnings: Vec<Diagnostic>,
}

/// Loads a project.
///
/// # Errors
/// Everything that is wrong with it, as far as it could be read.
pub fn load(_options: &LoadOptions, _files: &dyn Files) -> Result<Loaded, Diagnostics> {
    Err(Diagnostics::default())
}
