//! Projects in registries, as Compose publishes them: their files under a name.

use std::collections::BTreeMap;

use sampan_image::ImageRef;
use sampan_image::registry::{self, RemoteFile, Reporter};
use serde::{Deserialize, Serialize};

use super::transfer::registry_auth;
use crate::Engine;
use crate::error::{Error, Result};
use crate::messages::Credentials;

const PROJECT: &str = "application/vnd.docker.compose.project";
const CONFIG: &str = "application/vnd.docker.compose.config.empty.v1+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const COMPOSE_FILE: &str = "application/vnd.docker.compose.file+yaml";
const ENV_FILE: &str = "application/vnd.docker.compose.envfile";
/// What Compose writes beside the files.
const VERSION: &str = "2.40.0";

/// What a file of a project is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CompositionKind {
    /// Part of the project itself.
    Compose,
    /// Named by `extends` of another.
    Extends,
    /// Named by `env_file` of a service.
    Env,
}

/// A file of a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CompositionFile {
    /// Without a folder.
    pub name: String,
    /// What it is.
    pub kind: CompositionKind,
    /// Its text.
    pub content: String,
}

/// A project in a registry.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Composition {
    /// Of the manifest.
    pub digest: String,
    /// In order: later ones are merged over earlier ones.
    pub files: Vec<CompositionFile>,
}

/// A project to be put under a name.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NewComposition {
    /// In order.
    pub files: Vec<CompositionFile>,
    /// `1.0` or `1.1`.
    pub oci_version: Option<String>,
}

fn kind_of(file: &RemoteFile) -> Option<CompositionKind> {
    match file.media_type.as_str() {
        COMPOSE_FILE if file.annotations.contains_key("com.docker.compose.extends") => Some(CompositionKind::Extends),
        COMPOSE_FILE => Some(CompositionKind::Compose),
        ENV_FILE => Some(CompositionKind::Env),
        _ => None,
    }
}

/// Whether it is the name of a file in one folder. A registry does not choose where files are written (CVE-2025-62725).
fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && !name.starts_with('.')
        && !name.contains(|c: char| c == '/' || c == '\\' || c.is_control())
}

fn read(file: RemoteFile) -> std::result::Result<Option<CompositionFile>, String> {
    let Some(kind) = kind_of(&file) else { return Ok(None) };
    let key = if kind == CompositionKind::Env { "com.docker.compose.envfile" } else { "com.docker.compose.file" };
    let name = file.annotations.get(key).cloned().unwrap_or_else(|| "compose.yaml".to_owned());
    // Env files of a project are named `.env` at times.
    if !is_plain(name.strip_prefix('.').unwrap_or(&name)) {
        return Err(format!("it names a file {name:?}, which is not the plain name of one"));
    }
    let content = String::from_utf8(file.content).map_err(|_| format!("its file {name} is not text"))?;
    Ok(Some(CompositionFile { name, kind, content }))
}

fn written(file: &CompositionFile) -> RemoteFile {
    let note = |key: &str, value: &str| (format!("com.docker.compose.{key}"), value.to_owned());
    let mut annotations: BTreeMap<String, String> = [note("version", VERSION)].into();
    annotations.extend(match file.kind {
        CompositionKind::Compose => vec![note("file", &file.name)],
        CompositionKind::Extends => vec![note("file", &file.name), note("extends", "true")],
        CompositionKind::Env => vec![note("envfile", &file.name)],
    });
    let media_type = if file.kind == CompositionKind::Env { ENV_FILE } else { COMPOSE_FILE };
    RemoteFile { media_type: media_type.to_owned(), annotations, content: file.content.clone().into_bytes() }
}

impl Engine {
    /// The files of a project that was published under a name.
    pub async fn composition(&self, name: &str, auth: Option<Credentials>) -> Result<Composition> {
        let name = ImageRef::parse(name).map_err(Error::invalid)?;
        let login = auth.map(registry_auth);
        let found = registry::files(self.inner.images.registries(), &name, login.as_ref()).await?;
        if found.kind != PROJECT && found.kind != CONFIG {
            return Err(Error::invalid(format!("{}: it is no compose project but {}", name.familiar(), found.kind)));
        }
        let mut files = Vec::new();
        for file in found.files {
            let read = read(file).map_err(|why| Error::invalid(format!("{}: {why}", name.familiar())))?;
            files.extend(read);
        }
        if !files.iter().any(|file| file.kind == CompositionKind::Compose) {
            return Err(Error::invalid(format!("{}: there is no compose file in it", name.familiar())));
        }
        Ok(Composition { digest: found.digest.to_string(), files })
    }

    /// Puts the files of a project under a name; the digest of the manifest.
    pub async fn publish_composition(
        &self,
        name: &str,
        project: NewComposition,
        auth: Option<Credentials>,
    ) -> Result<String> {
        let name = ImageRef::parse(name).map_err(Error::invalid)?;
        let types = match project.oci_version.as_deref() {
            None | Some("" | "1.1") => (Some(PROJECT), EMPTY),
            Some("1.0") => (None, CONFIG),
            Some(other) => return Err(Error::invalid(format!("OCI version {other:?} is not known: use 1.0 or 1.1"))),
        };
        if let Some(file) =
            project.files.iter().find(|file| !is_plain(file.name.strip_prefix('.').unwrap_or(&file.name)))
        {
            return Err(Error::invalid(format!("{:?} is not the plain name of a file", file.name)));
        }
        let files: Vec<RemoteFile> = project.files.iter().map(written).collect();
        let login = auth.map(registry_auth);
        let images = &self.inner.images;
        // Files are small: nobody waits for their progress.
        let (reporter, _) = tokio::sync::mpsc::channel(1);
        let reporter = Reporter(reporter);
        let digest =
            registry::push_files(images.registries(), images.store(), &name, types, &files, login.as_ref(), &reporter)
                .await?;
        Ok(digest.to_string())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn files_are_written_as_they_are_read() {
        for kind in [CompositionKind::Compose, CompositionKind::Extends, CompositionKind::Env] {
            let file = CompositionFile { name: "a.yaml".into(), kind, content: "x".into() };
            assert_eq!(read(written(&file)).unwrap(), Some(file));
        }
        let other = RemoteFile { media_type: "text/plain".into(), annotations: BTreeMap::new(), content: Vec::new() };
        assert_eq!(read(other).unwrap(), None);
    }

    #[test]
    fn registries_do_not_choose_where_files_are_written() {
        for bad in ["../x", "/etc/x", "a/b", "a\\b", "..", "a\nb"] {
            let file = CompositionFile { name: bad.into(), kind: CompositionKind::Extends, content: String::new() };
            assert!(read(written(&file)).is_err(), "{bad}");
        }
    }
}
