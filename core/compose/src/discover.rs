//! Finding a project's files and its name.

use std::path::{Path, PathBuf};

use crate::files::PathKind;
use crate::session::{Session, clean};

/// Names looked for, the preferred first.
pub const FILE_NAMES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];
/// Names of the file laid over it.
pub const OVERRIDE_NAMES: [&str; 4] =
    ["compose.override.yml", "compose.override.yaml", "docker-compose.override.yml", "docker-compose.override.yaml"];

/// The compose file of a directory or of the nearest one above, and its override. Empty when there is none.
pub(crate) fn discover(session: &mut Session<'_>, from: &Path) -> Vec<PathBuf> {
    let mut directory = Some(from);
    while let Some(here) = directory {
        if let Some(found) = choose(session, here, &FILE_NAMES) {
            // Those preferred to the found one would take its place if they appeared.
            for name in FILE_NAMES.iter().take_while(|name| !found.ends_with(name)) {
                session.input(&here.join(name));
            }
            let mut files = vec![found];
            OVERRIDE_NAMES.iter().for_each(|name| session.input(&here.join(name)));
            files.extend(choose(session, here, &OVERRIDE_NAMES));
            return files;
        }
        directory = here.parent();
    }
    FILE_NAMES.iter().for_each(|name| session.input(&from.join(name)));
    Vec::new()
}

fn choose(session: &mut Session<'_>, directory: &Path, names: &[&str]) -> Option<PathBuf> {
    let mut found =
        names.iter().map(|name| directory.join(name)).filter(|path| session.peek(path) != PathKind::Missing);
    let first = found.next()?;
    let others: Vec<String> = found.map(|path| file_name(&path)).collect();
    if !others.is_empty() {
        session.warn(format!("{} is used; {} lies beside it", first.display(), others.join(", ")));
    }
    Some(first)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Whether a text may be a project's name.
pub(crate) fn is_project_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_'))
        && name.len() <= 128
}

/// A directory's name made into a project's: lower case, other characters left out.
pub(crate) fn name_of_directory(directory: &Path) -> String {
    name_of(&file_name(&clean(directory)))
}

/// A text made into a project's name.
pub(crate) fn name_of(text: &str) -> String {
    let name = text.to_lowercase();
    let kept: String =
        name.chars().filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_')).collect();
    kept.trim_start_matches(['-', '_']).to_owned()
}
