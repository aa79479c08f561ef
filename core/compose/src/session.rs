//! What one load has seen and said: sources, consulted paths, messages.

use std::collections::{BTreeSet, HashMap};
use std::path::{Component, Path, PathBuf};

use crate::diagnostic::{Diagnostic, Diagnostics, Severity};
use crate::files::{Files, PathKind, ReadError};
use crate::load::Without;
use crate::node::{At, Node};

/// Largest compose or env file, in bytes.
pub(crate) const FILE_LIMIT: u64 = 8 << 20;
/// Errors after which no more are kept.
const SHOWN_ERRORS: usize = 50;
/// Said when there were more.
const MORE: &str = "there are more errors";
/// Files one project may be made of.
const SOURCES: usize = 1000;

/// A text that was read.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    /// Where relative paths written in it start.
    base: PathBuf,
    /// Whether it is one of the project's files and not one that another file names.
    own: bool,
    text: String,
}

/// The state of one load.
pub(crate) struct Session<'a> {
    files: &'a dyn Files,
    sources: Vec<Source>,
    inputs: Vec<PathBuf>,
    known_inputs: BTreeSet<PathBuf>,
    items: Vec<Diagnostic>,
    errors: usize,
    /// Whether what the engine can't do is accepted.
    pub(crate) whole_specification: bool,
    /// What is left out of loading.
    pub(crate) without: Without,
    /// The project's directory, once it is known.
    pub(crate) directory: PathBuf,
    /// What `~` stands for.
    pub(crate) home: Option<PathBuf>,
    /// Bytes that aliases may still expand to.
    pub(crate) alias_budget: usize,
    /// Values that texts may still hold.
    pub(crate) node_budget: usize,
}

impl<'a> Session<'a> {
    pub(crate) fn new(files: &'a dyn Files, home: Option<PathBuf>) -> Self {
        Self {
            files,
            sources: Vec::new(),
            inputs: Vec::new(),
            known_inputs: BTreeSet::new(),
            items: Vec::new(),
            errors: 0,
            whole_specification: false,
            without: Without::default(),
            directory: PathBuf::from("/"),
            home,
            alias_budget: 64 << 20,
            node_budget: 1_000_000,
        }
    }

    /// Reads a file, remembering that it was consulted.
    pub(crate) fn read(&mut self, path: &Path) -> Result<Vec<u8>, ReadError> {
        self.input(path);
        self.files.read(path, FILE_LIMIT)
    }

    /// What lies at a path, remembering that it was consulted.
    pub(crate) fn kind(&mut self, path: &Path) -> PathKind {
        self.input(path);
        self.files.kind(path)
    }

    /// The file that holds what a reference to elsewhere leads to; none when such are not taken.
    pub(crate) fn fetched(&self, reference: &str) -> Option<Result<PathBuf, String>> {
        self.files.fetched(reference)
    }

    /// Looks without making the path an input.
    pub(crate) fn peek(&self, path: &Path) -> PathKind {
        self.files.kind(path)
    }

    pub(crate) fn input(&mut self, path: &Path) {
        if path != Path::new("-") && self.known_inputs.insert(path.to_owned()) {
            self.inputs.push(path.to_owned());
        }
    }

    /// Keeps a text so that messages can show its lines.
    pub(crate) fn add_source(&mut self, path: &Path, base: &Path, own: bool, text: String) -> u32 {
        let id = self.sources.len().min(SOURCES);
        if id == SOURCES {
            self.plain_error(Diagnostic::error(format!("a project of more than {SOURCES} files is refused")));
            return 0;
        }
        self.sources.push(Source { path: path.to_owned(), base: base.to_owned(), own, text });
        u32::try_from(id).unwrap_or_default()
    }

    pub(crate) fn text(&self, file: u32) -> &str {
        self.sources.get(file as usize).map_or("", |source| &source.text)
    }

    pub(crate) fn base(&self, at: At) -> &Path {
        self.sources.get(at.file as usize).map_or(Path::new("/"), |source| &source.base)
    }

    pub(crate) fn path_of(&self, at: At) -> &Path {
        self.sources.get(at.file as usize).map_or(Path::new(""), |source| &source.path)
    }

    pub(crate) fn too_many_sources(&self) -> bool {
        self.sources.len() >= SOURCES
    }

    fn located(&self, severity: Severity, at: At, message: String, help: Option<String>) -> Diagnostic {
        let source = self.sources.get(at.file as usize).filter(|_| at.line > 0);
        Diagnostic {
            severity,
            message,
            file: source.map(|source| source.path.clone()),
            line: at.line as usize,
            column: at.column as usize,
            source_line: source
                .and_then(|source| source.text.split('\n').nth(at.line as usize - 1))
                .map(|line| line.trim_end_matches('\r').to_owned()),
            help,
        }
    }

    pub(crate) fn error(&mut self, at: At, message: impl Into<String>) {
        if self.saturated() {
            return;
        }
        let item = self.located(Severity::Error, at, message.into(), None);
        self.plain_error(item);
    }

    pub(crate) fn error_help(&mut self, at: At, message: impl Into<String>, help: impl Into<String>) {
        if self.saturated() {
            return;
        }
        let item = self.located(Severity::Error, at, message.into(), Some(help.into()));
        self.plain_error(item);
    }

    /// Refuses what the specification allows and the engine can't do, unless the model is only looked at.
    pub(crate) fn unsupported(&mut self, at: At, message: impl Into<String>) {
        if !self.whole_specification {
            self.error(at, message);
        }
    }

    /// Says that what the specification allows does nothing here, unless the model is only looked at.
    pub(crate) fn ineffective(&mut self, at: At, message: impl Into<String>) {
        if !self.whole_specification {
            self.warning(at, message);
        }
    }

    pub(crate) fn plain_error(&mut self, item: Diagnostic) {
        self.errors += 1;
        match self.errors {
            n if n > SHOWN_ERRORS + 1 => {}
            n if n == SHOWN_ERRORS + 1 => self.items.push(Diagnostic::error(MORE)),
            // One file taken in twice says the same thing twice.
            _ if self.items.contains(&item) => {}
            _ => self.items.push(item),
        }
    }

    pub(crate) fn warning(&mut self, at: At, message: impl Into<String>) {
        if self.items.len() >= 4 * SHOWN_ERRORS {
            return;
        }
        let item = self.located(Severity::Warning, at, message.into(), None);
        if !self.items.contains(&item) {
            self.items.push(item);
        }
    }

    pub(crate) fn warn(&mut self, message: impl Into<String>) {
        self.warning(At::default(), message);
    }

    pub(crate) fn failed(&self) -> bool {
        self.errors > 0
    }

    /// Whether more errors would not be kept anyway.
    pub(crate) fn saturated(&self) -> bool {
        self.errors > SHOWN_ERRORS
    }

    /// Everything said: first what has no place, then file by file from top to bottom.
    pub(crate) fn into_diagnostics(self) -> Diagnostics {
        let order: HashMap<&Path, usize> =
            self.sources.iter().enumerate().rev().map(|(index, source)| (source.path.as_path(), index)).collect();
        let mut items = self.items;
        items.sort_by_key(|item| {
            let file = item.file.as_deref().and_then(|file| order.get(file).copied());
            (item.message == MORE, file, item.line, item.column)
        });
        Diagnostics { items, inputs: self.inputs }
    }

    /// A path as written at `at`, absolute: `~` is the home directory, the rest is relative to the file's project.
    pub(crate) fn resolve(&self, at: At, written: &str) -> PathBuf {
        if let Some(home) = &self.home {
            if written == "~" {
                return home.clone();
            }
            if let Some(rest) = written.strip_prefix("~/") {
                return clean(&home.join(rest));
            }
        }
        clean(&self.base(at).join(written))
    }

    /// A path held by a node, as the model has it: absolute, or as it is written where paths are not resolved.
    pub(crate) fn path(&self, node: &Node, written: &str) -> PathBuf {
        // As the reference has it: `/dev/disk/` keeps its end.
        if Path::new(written).is_absolute() {
            return PathBuf::from(written);
        }
        if !self.without.path_resolution {
            return self.resolve(node.at, written);
        }
        let own = self.sources.get(node.at.file as usize).is_none_or(|source| source.own);
        match written {
            _ if own => PathBuf::from(written),
            _ if written.starts_with('~') => self.resolve(node.at, written),
            _ => relative(&self.directory, &clean(&self.base(node.at).join(written))),
        }
    }
}

/// A path as seen from a directory; both absolute and clean.
fn relative(from: &Path, path: &Path) -> PathBuf {
    let shared = from.components().zip(path.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(shared).map(|_| Component::ParentDir);
    let out: PathBuf = up.chain(path.components().skip(shared)).collect();
    if out.as_os_str().is_empty() { PathBuf::from(".") } else { out }
}

/// The path without `.` and with `..` taken back, by name alone as the reference does.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => match out.components().next_back() {
                Some(Component::Normal(_)) => {
                    out.pop();
                }
                Some(Component::RootDir) => {}
                _ => out.push(".."),
            },
            other => out.push(other),
        }
    }
    if out.as_os_str().is_empty() { PathBuf::from(".") } else { out }
}
