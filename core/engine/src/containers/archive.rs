//! Files in and out: `cp`, `export`, `diff`.

use bollard_stubs::models::FilesystemChange;

use super::PathStat;
use crate::Engine;
use crate::error::{Error, Result};
use crate::images::{Download, Upload};

fn unsupported<T>() -> Result<T> {
    Err(Error::unsupported("archives are not there yet"))
}

impl Engine {
    /// A path as a tar.
    pub async fn archive_get(&self, _id: &str, _path: &str) -> Result<(PathStat, Download)> {
        unsupported()
    }

    /// What a path is.
    pub async fn archive_head(&self, _id: &str, _path: &str) -> Result<PathStat> {
        unsupported()
    }

    /// Unpacks a tar into a directory. `keep_kinds` refuses to replace a directory by something else and the reverse;
    /// `copy_ids` keeps the owners of the archive.
    pub async fn archive_put(
        &self,
        _id: &str,
        _path: &str,
        _upload: Upload,
        _keep_kinds: bool,
        _copy_ids: bool,
    ) -> Result<()> {
        unsupported()
    }

    /// The whole root as a tar.
    pub async fn export(&self, _id: &str) -> Result<Download> {
        unsupported()
    }

    /// What has changed over the image.
    pub async fn changes(&self, _id: &str) -> Result<Vec<FilesystemChange>> {
        unsupported()
    }
}
