//! How the commands on projects behave by variables: those of the environment, then those of the project's env file.
//!
//! `COMPOSE_MENU`, `COMPOSE_EXPERIMENTAL` and `COMPOSE_CONVERT_WINDOWS_PATHS` concern what is not here, and change nothing.
//! Those that choose files and profiles are the loader's.

use sampan_compose::is_truth;

use super::ProjectArgs;
use super::display::{Mode, Style};
use crate::failure::{Failure, Outcome};

/// What becomes of containers whose service the project does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orphans {
    /// They are told of.
    Told,
    /// They stay, without a word.
    Ignored,
    /// They go.
    Removed,
}

impl ProjectArgs {
    /// A variable that is not empty.
    fn setting(&self, name: &str) -> Option<String> {
        let own = std::env::var(name).ok();
        let of_files = || self.settings.get_or_init(|| sampan_compose::settings(&self.options(), &self.files()));
        let found = own.or_else(|| of_files().get(name).cloned());
        found.filter(|value| !value.is_empty())
    }

    fn says(&self, name: &str) -> bool {
        self.setting(name).is_some_and(|value| is_truth(&value))
    }

    /// How to show events: from `--progress` and `--ansi`, else from `COMPOSE_PROGRESS` and `COMPOSE_ANSI`.
    pub fn style(&self) -> Outcome<Style> {
        let progress = self.progress.clone().or_else(|| self.setting("COMPOSE_PROGRESS"));
        let ansi = self.ansi.clone().or_else(|| self.setting("COMPOSE_ANSI"));
        let to_stdout = self.says("COMPOSE_STATUS_STDOUT");
        Ok(Style { mode: Mode::of(progress.as_deref(), ansi.as_deref(), to_stdout)?, to_stdout })
    }

    /// How many things the daemon does at once for this: `--parallel`, else `COMPOSE_PARALLEL_LIMIT`; none for as many as
    /// it likes.
    pub fn parallel(&self) -> Outcome<Option<u32>> {
        let limit = match (self.parallel, self.setting("COMPOSE_PARALLEL_LIMIT")) {
            (Some(limit), _) => limit,
            (None, None) => return Ok(None),
            (None, Some(text)) => text
                .trim()
                .parse()
                .map_err(|_| Failure::usage(format!("COMPOSE_PARALLEL_LIMIT must be an integer (found: {text:?})")))?,
        };
        Ok(u32::try_from(limit).ok().filter(|limit| *limit > 0))
    }

    /// What `--remove-orphans`, `COMPOSE_REMOVE_ORPHANS` and `COMPOSE_IGNORE_ORPHANS` come to.
    pub fn orphans(&self, remove: Option<bool>) -> Outcome<Orphans> {
        let removed = remove.unwrap_or_else(|| self.says("COMPOSE_REMOVE_ORPHANS"));
        match (removed, self.says("COMPOSE_IGNORE_ORPHANS")) {
            (true, true) => Err(Failure::usage("cannot combine COMPOSE_IGNORE_ORPHANS and --remove-orphans")),
            (true, false) => Ok(Orphans::Removed),
            (false, true) => Ok(Orphans::Ignored),
            (false, false) => Ok(Orphans::Told),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_projects_env_file_says_how_commands_behave_and_options_come_first() {
        let dir = tempfile::tempdir().unwrap();
        let of = |text: &str| {
            std::fs::write(dir.path().join(".env"), text).unwrap();
            let file = vec![dir.path().join("compose.yaml").display().to_string()];
            ProjectArgs { file, ..ProjectArgs::default() }
        };
        let args = of(
            "COMPOSE_PROGRESS=json\nCOMPOSE_PARALLEL_LIMIT=3\nCOMPOSE_REMOVE_ORPHANS=True\nCOMPOSE_STATUS_STDOUT=1\n",
        );
        assert_eq!(args.style().unwrap(), Style { mode: Mode::Json, to_stdout: true });
        assert_eq!(args.parallel().unwrap(), Some(3));
        assert_eq!(args.orphans(None).unwrap(), Orphans::Removed);
        assert_eq!(args.orphans(Some(false)).unwrap(), Orphans::Told);
        let given = ProjectArgs { progress: Some("quiet".into()), parallel: Some(-1), ..args };
        assert_eq!(given.style().unwrap().mode, Mode::Quiet);
        assert_eq!(given.parallel().unwrap(), None);
        let args = of("COMPOSE_PARALLEL_LIMIT=many\nCOMPOSE_IGNORE_ORPHANS=t\n");
        assert!(args.parallel().unwrap_err().message.contains("must be an integer (found: \"many\")"));
        assert_eq!(args.orphans(None).unwrap(), Orphans::Ignored);
        assert!(args.orphans(Some(true)).is_err());
        assert_eq!(of("OTHER=1\n").orphans(None).unwrap(), Orphans::Told);
    }
}
