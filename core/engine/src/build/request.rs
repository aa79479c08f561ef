//! What a build is asked for by.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use sampan_build::context::Context;
use sampan_build::options::Options;
use sampan_image::Packing;
use tokio::io::AsyncRead;

use crate::messages::Credentials;

/// Asks who wants the build for the credentials that it has for a registry.
pub type AskLogin = Arc<dyn Fn(String) -> Pin<Box<dyn Future<Output = Option<Credentials>> + Send>> + Send + Sync>;

/// Where the files of a build come from.
pub enum BuildContext {
    /// A tar, compressed or not.
    Tar(Pin<Box<dyn AsyncRead + Send>>),
    /// A directory of this host, for builds that the daemon itself begins (stacks).
    Directory(PathBuf),
    /// A git repository, or a tar or Dockerfile by http(s).
    Remote(String),
    /// Files that were taken in already.
    Received(Box<Context>),
    /// One tar after the other: of each [`NamedContext::Upload`] and [`NamedContext::Layout`], of each [`CacheSource::Upload`], and of the main context unless it is
    /// remote. The options were read by [`read_options`].
    Parts {
        /// What follows the options.
        reader: Pin<Box<dyn AsyncRead + Send>>,
        /// The main context, when it is not in the upload.
        remote: Option<String>,
    },
}

/// A context beside the main one.
#[derive(Debug, Clone)]
pub enum NamedContext {
    /// A directory of this host.
    Directory(PathBuf),
    /// An image by its name or id.
    Image(String),
    /// A git repository.
    Remote(String),
    /// Files that were taken in already.
    Received(Arc<Context>),
    /// A tar of the upload.
    Upload,
    /// A tar of the upload, with one image in OCI's form.
    Layout,
}

impl Default for BuildContext {
    fn default() -> Self {
        Self::Tar(Box::pin(tokio::io::empty()))
    }
}

impl fmt::Debug for BuildContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tar(_) => f.write_str("Tar"),
            Self::Directory(path) => f.debug_tuple("Directory").field(path).finish(),
            Self::Remote(_) => f.write_str("Remote"),
            Self::Received(_) => f.write_str("Received"),
            Self::Parts { .. } => f.write_str("Parts"),
        }
    }
}

/// Where results of earlier builds are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheSource {
    /// A tar of the upload.
    Upload,
    /// A directory of this host.
    Directory(PathBuf),
    /// What an image's name leads to in its registry, or here when it is not there: a cache, or an image that has one.
    Registry(String),
    /// An image that is here.
    Image(String),
}

/// Where results of a build go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheTarget {
    /// The place.
    pub place: CachePlace,
    /// The results of all steps (`mode=max`), and not those of the image alone.
    pub all: bool,
    /// That they cannot be written there does not fail the build.
    pub ignore_error: bool,
}

/// A place for results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CachePlace {
    /// A directory of this host.
    Directory(PathBuf),
    /// A registry, under an image's name.
    Registry(String),
    /// The configuration of the image that is built.
    Inline,
}

/// What is to be done with a Dockerfile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Call {
    /// An image is built.
    #[default]
    Build,
    /// Only read: what is not well in it is said.
    Check,
    /// Only read: what the target takes is said.
    Outline,
    /// Only read: which targets there are is said.
    Targets,
}

/// A build as asked for.
#[derive(Default)]
pub struct BuildRequest {
    /// The files.
    pub context: BuildContext,
    /// Path of the Dockerfile in the context; `Dockerfile` by default.
    pub dockerfile: Option<String>,
    /// Text of a Dockerfile that is not in the context, before `dockerfile`.
    pub dockerfile_inline: Option<String>,
    /// Text of the `.dockerignore`, in place of those of the context.
    pub dockerignore_inline: Option<String>,
    /// Names for the image.
    pub tags: Vec<String>,
    /// What it is built for, each `os/arch[/variant]`; this machine if there is none.
    pub platforms: Vec<String>,
    /// How.
    pub options: Options,
    /// What is to be done with the Dockerfile.
    pub call: Call,
    /// Tell the keys of the build's results, to export them.
    pub tell_keys: bool,
    /// Further contexts by name, in the order in which they are uploaded.
    pub contexts: Vec<(String, NamedContext)>,
    /// Results of earlier builds, in the order in which they are asked.
    pub cache_from: Vec<CacheSource>,
    /// Where the results of this one go.
    pub cache_to: Vec<CacheTarget>,
    /// The form of the image; the usual one if none.
    pub packing: Option<Packing>,
    /// Credentials by registry.
    pub registry_auth: HashMap<String, Credentials>,
    /// Asked for those of others.
    pub login: Option<AskLogin>,
}

impl fmt::Debug for BuildRequest {
    /// Arguments and secrets are nobody's to read in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuildRequest")
            .field("context", &self.context)
            .field("dockerfile", &self.dockerfile)
            .field("tags", &self.tags)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
