//! Loading a project, and knowing when it would be the same again.
//!
//! A project follows from the request and from what was found at the paths that were consulted. When both are as they
//! were, what was loaded before is it: `up` on a stack that is as it should be need not read the YAML again.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sampan_compose::{Files, Loaded, PathKind, Project, ReadError};
use sha2::{Digest as _, Sha256};

use crate::host_files::HostFiles;
use crate::request::StackRequest;

/// Why a project cannot be loaded, and the files that have a part in it.
pub(crate) struct Broken {
    pub message: String,
    pub inputs: Vec<PathBuf>,
}

impl From<Broken> for String {
    fn from(broken: Broken) -> Self {
        broken.message
    }
}

/// Loads on a thread that may block.
pub(crate) async fn load(request: &StackRequest) -> Result<Loaded, Broken> {
    let request = request.clone();
    blocking(move || load_from(&request, &host_files(&request))).await
}

/// A project as it was loaded, and what that followed from.
#[derive(Debug)]
pub(super) struct Reading {
    request: StackRequest,
    consulted: Vec<Consulted>,
    pub project: Arc<Project>,
    pub inputs: Vec<PathBuf>,
    pub warnings: Vec<String>,
}

/// As [`load`]; `before` is it again when nothing says otherwise.
pub(super) async fn read(request: StackRequest, before: Option<Reading>) -> Result<Reading, Broken> {
    blocking(move || {
        let files = host_files(&request);
        match before {
            Some(before) if before.holds(&request, &files) => Ok(before),
            _ => Reading::new(request, &files),
        }
    })
    .await
}

impl Reading {
    fn new(request: StackRequest, files: &dyn Files) -> Result<Self, Broken> {
        let recorder = Recorder { files, consulted: RefCell::default() };
        let loaded = load_from(&request, &recorder)?;
        Ok(Self {
            request,
            consulted: recorder.consulted.into_inner(),
            project: Arc::new(loaded.project),
            inputs: loaded.inputs,
            warnings: loaded.warnings.iter().map(ToString::to_string).collect(),
        })
    }

    /// With the project as it is known, which equals this one: the next that is read is the very same.
    pub(super) fn with_known(self, project: &Arc<Project>) -> Self {
        Self { project: Arc::clone(project), ..self }
    }

    /// Whether loading would give the same.
    fn holds(&self, request: &StackRequest, files: &dyn Files) -> bool {
        self.request == *request
            && self.consulted.iter().all(|consulted| match consulted {
                Consulted::Content { path, limit, found } => digest(&files.read(path, *limit)) == *found,
                Consulted::Kind { path, found } => files.kind(path) == *found,
            })
    }
}

/// Something that was looked at, and what was found.
#[derive(Debug)]
enum Consulted {
    Content { path: PathBuf, limit: u64, found: Result<[u8; 32], ReadError> },
    Kind { path: PathBuf, found: PathKind },
}

fn digest(content: &Result<Vec<u8>, ReadError>) -> Result<[u8; 32], ReadError> {
    content.as_ref().map(|content| Sha256::digest(content).into()).map_err(Clone::clone)
}

/// Files, with a note of each that was looked at. What was fetched for references is the request's.
struct Recorder<'a> {
    files: &'a dyn Files,
    consulted: RefCell<Vec<Consulted>>,
}

impl Files for Recorder<'_> {
    fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>, ReadError> {
        let content = self.files.read(path, limit);
        let found = digest(&content);
        self.consulted.borrow_mut().push(Consulted::Content { path: path.to_owned(), limit, found });
        content
    }

    fn kind(&self, path: &Path) -> PathKind {
        let found = self.files.kind(path);
        self.consulted.borrow_mut().push(Consulted::Kind { path: path.to_owned(), found });
        found
    }

    fn fetched(&self, reference: &str) -> Option<Result<PathBuf, String>> {
        self.files.fetched(reference)
    }
}

fn host_files(request: &StackRequest) -> HostFiles {
    HostFiles { fetched: request.fetched.clone() }
}

fn load_from(request: &StackRequest, files: &dyn Files) -> Result<Loaded, Broken> {
    let mut loaded = sampan_compose::load(&request.load_options(), files)
        .map_err(|diagnostics| Broken { message: diagnostics.to_string(), inputs: diagnostics.inputs.clone() })?;
    for service in &request.enabled {
        // One that has left the files is missed elsewhere.
        loaded.project.activate(service);
    }
    match request.provided.apply(&mut loaded.project) {
        Ok(()) => Ok(loaded),
        Err(message) => Err(Broken { message, inputs: loaded.inputs }),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Broken> + Send + 'static) -> Result<T, Broken> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Broken { message: format!("load the project: {error}"), inputs: Vec::new() }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sampan_compose::MemoryFiles;

    const FILE: &str = "/x/compose.yaml";

    fn request() -> StackRequest {
        StackRequest { files: vec![FILE.into()], working_dir: Some("/x".into()), ..StackRequest::default() }
    }

    fn files() -> MemoryFiles {
        MemoryFiles::default()
            .with(FILE, "name: x\nservices:\n  a: { image: i, env_file: [{ path: more.env, required: false }] }\n")
    }

    fn reading(request: &StackRequest, files: &MemoryFiles) -> Reading {
        Reading::new(request.clone(), files).unwrap_or_else(|broken| panic!("{}", broken.message))
    }

    #[test]
    fn a_project_holds_until_something_that_it_came_from_changes() {
        let before = reading(&request(), &files());
        assert!(before.holds(&request(), &files()));
        assert!(before.holds(&request(), &files().with("/x/other", "of no part in it")));
        let others = [
            files().with(FILE, "name: x\nservices: { a: { image: j } }\n"),
            files().with("/x/more.env", "A=1\n"),
            files().with("/x/.env", "B=1\n"),
            MemoryFiles::default(),
        ];
        for other in others {
            assert!(!before.holds(&request(), &other), "{other:?}");
        }
        let variable = StackRequest { env: [("A".to_owned(), "1".to_owned())].into(), ..request() };
        assert!(!before.holds(&variable, &files()));
        let named = StackRequest { enabled: ["a".to_owned()].into(), ..request() };
        assert!(!before.holds(&named, &files()));
    }

    #[tokio::test]
    async fn what_holds_is_not_loaded_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("compose.yaml");
        std::fs::write(&file, "name: x\nservices: { a: { image: i } }\n").unwrap();
        let request = StackRequest {
            files: vec![file.clone()],
            working_dir: Some(folder.path().to_owned()),
            ..StackRequest::default()
        };
        let read =
            async |before| read(request.clone(), before).await.unwrap_or_else(|broken| panic!("{}", broken.message));
        let first = read(None).await;
        let project = Arc::clone(&first.project);
        let again = read(Some(first)).await;
        assert!(Arc::ptr_eq(&again.project, &project));
        std::fs::write(&file, "name: x\nservices: { a: { image: j } }\n").unwrap();
        let edited = read(Some(again)).await;
        assert_eq!(edited.project.service("a").unwrap().image, "j");
    }
}
