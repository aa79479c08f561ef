//! The root of a build step: a writable layer of its own, and the program that may run in it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sampan_image::{ChainId, ChangeView, LayerRef};

use super::run::Program;
use crate::Engine;
use crate::containers::new_id;
use crate::error::{Error, Result};

/// Dropped with its last clone, it ends what runs in it and is forgotten, in the background.
#[derive(Debug, Clone)]
pub(crate) struct BuildRoot {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    engine: Engine,
    id: String,
    path: PathBuf,
    program: Mutex<Option<Program>>,
}

impl BuildRoot {
    /// Mounts a root over layers, nearest first.
    pub(crate) async fn open(engine: &Engine, parents: &[ChainId]) -> Result<Self> {
        let id = new_id()?;
        let parents: Vec<String> = parents.iter().map(ToString::to_string).collect();
        let (of, name) = (engine.clone(), id.clone());
        // Dropped while the mount is being made, the root would be left: it is made by the task that also cleans up.
        let task = tokio::spawn(crate::blocking(move || {
            of.inner.builds.root_begins(&name)?;
            match of.inner.layers.mount(&name, &parents) {
                Ok(path) => {
                    let inner = Inner { engine: of, id: name, path, program: Mutex::default() };
                    Ok(Self { inner: Arc::new(inner) })
                }
                Err(error) => {
                    forget(&of, &name);
                    Err(error)
                }
            }
        }));
        task.await.map_err(|error| Error::internal(format!("open a build root {id}: {error}")))?
    }

    /// 64 hexadecimal digits, as of a container.
    pub(crate) fn id(&self) -> &str {
        &self.inner.id
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Takes note of what runs in it.
    pub(crate) fn runs(&self, program: Program) {
        *self.inner.program.lock().unwrap_or_else(PoisonError::into_inner) = Some(program);
    }

    /// Ends what runs in it, if anything does, and waits for that.
    pub(crate) async fn stop(&self) {
        let program = self.inner.program.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(program) = program {
            program.end(&self.inner.engine).await;
        }
    }

    /// Makes a layer of what is in it; times after `latest` (seconds since 1970) become that.
    pub(crate) async fn commit(&self, parents: &[ChainId], latest: Option<i64>) -> Result<LayerRef> {
        let (engine, id, parents) = (self.inner.engine.clone(), self.inner.id.clone(), parents.to_vec());
        crate::blocking(move || {
            let names: Vec<String> = parents.iter().map(ToString::to_string).collect();
            let changes = engine.inner.layers.changes(&id, &names)?;
            if let Some(latest) = latest {
                let (root, below) = match &changes {
                    ChangeView::Upper(root) => (root, None),
                    ChangeView::Compare(below, root) => (root, Some(below.as_path())),
                };
                super::latest::clamp(root, below, latest)
                    .map_err(|error| Error::internal(format!("set the times of a build step's files: {error}")))?;
            }
            Ok(engine.inner.images.store().commit_layer(&changes, &parents)?)
        })
        .await
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let program = self.program.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (engine, id) = (self.engine.clone(), self.id.clone());
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            forget(&engine, &id);
            return;
        };
        runtime.spawn(async move {
            if let Some(program) = program {
                program.end(&engine).await;
            }
            let _ = tokio::task::spawn_blocking(move || forget(&engine, &id)).await;
        });
    }
}

/// Removes a root's layer and the note of it.
fn forget(engine: &Engine, id: &str) {
    let gone = engine.inner.layers.remove(id).and_then(|()| engine.inner.builds.root_ended(id));
    if let Err(error) = gone {
        tracing::warn!(root = id, %error, "a build root was left; the next start of the daemon removes it");
    }
}

/// After a start: ends and removes what an earlier daemon left of its builds.
pub(crate) async fn recover(engine: &Engine) {
    let builds = engine.inner.builds.clone();
    if let Err(error) = crate::blocking(move || builds.release()).await {
        tracing::warn!(%error, "layers of results that are not remembered are kept");
    }
    let roots = match engine.inner.builds.roots() {
        Ok(roots) => roots,
        Err(error) => {
            tracing::warn!(%error, "roots of earlier builds cannot be listed");
            return;
        }
    };
    for id in roots {
        Program::left(engine, &id).await.end(engine).await;
        let engine = engine.clone();
        let _ = tokio::task::spawn_blocking(move || forget(&engine, &id)).await;
    }
}
