//! Of a client that is asked for its files while a build begins, and that writes the results itself: what its side of the
//! API needs of the engine.

use std::path::Path;

use sampan_build::blocking;
use sampan_build::context::{Context, Scratch, rules};
use sampan_build::error::BuildError;
use sampan_build::mount::Needed;
use tokio_util::io::SyncIoBridge;

use super::fetch;
use super::root::BuildRoot;
use crate::Engine;
use crate::containers::archive::download;
use crate::error::Result;
use crate::images::{Download, Upload};

/// The files of an image, mounted as long as the value is there.
#[derive(Debug, Clone)]
pub struct ImageFiles(BuildRoot);

impl ImageFiles {
    /// Where they are. They are the image's: links among them lead anywhere.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// All of them as a tar.
    #[must_use]
    pub fn tar(&self) -> Download {
        let files = self.clone();
        download(move |out| sampan_image::pack_tree(files.path(), out))
    }
}

/// The secrets and agents that a Dockerfile asks for; none of one that cannot be read, which the build says.
#[must_use]
pub fn needed(text: &str) -> Needed {
    sampan_build::parser::parse("Dockerfile", text).map(|file| sampan_build::mount::needed(&file)).unwrap_or_default()
}

/// The platform of this machine, as `os/architecture[/variant]`.
#[must_use]
pub fn host_platform() -> String {
    sampan_image::Platform::host().to_string()
}

/// An image's name in full; `None` of what is no name.
#[must_use]
pub fn image_name(text: &str) -> Option<String> {
    sampan_image::ImageRef::parse(text).ok().map(|name| name.to_string())
}

/// The registry that an image's name is of; `None` of what is no name.
#[must_use]
pub fn image_registry(text: &str) -> Option<String> {
    sampan_image::ImageRef::parse(text).ok().map(|name| name.domain().to_owned())
}

/// The rules of a `.dockerignore` as patterns.
///
/// # Errors
/// A pattern that is none.
pub fn ignore_patterns(text: &str) -> Result<Vec<String>, BuildError> {
    Ok(rules(".dockerignore", text)?.patterns())
}

impl Engine {
    /// Takes a tar in as the files of a build.
    pub async fn receive_context(&self, reader: Upload) -> Result<Context, BuildError> {
        let scratch = self.config().tmp();
        let work = move || Context::receive(SyncIoBridge::new(reader), &scratch);
        blocking(work).await
    }

    /// Fetches the files of a build: a git repository, an archive, or a Dockerfile alone.
    pub async fn fetch_context(&self, url: &str, keep_git: bool) -> Result<Context, BuildError> {
        super::remote(self, url, keep_git).await
    }

    /// A folder for root alone that goes with the value.
    pub fn build_scratch(&self) -> Result<Scratch, BuildError> {
        fetch::scratch(self)
    }

    /// The files of an image of this engine.
    pub async fn image_files(&self, id: &str) -> Result<ImageFiles> {
        let image = self.inner.images.resolve(id)?;
        Ok(ImageFiles(BuildRoot::open(self, &image.chain_top_first()).await?))
    }

    /// Removes what a build made when it has neither a name nor a user.
    pub async fn forget_image(&self, id: &str) {
        let Ok(found) = self.inner.images.resolve(id) else { return };
        if self.inner.images.store().names(&found.id).is_empty() {
            // Whether it goes changes nothing of the result.
            let _ = self.remove_image(id, false, true, &[]).await;
        }
    }
}
