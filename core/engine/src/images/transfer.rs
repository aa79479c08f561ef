//! Images that come and go: `import`, `load`, `save`, `pull`, `push`.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use bollard_stubs::models::{CreateImageInfo, ErrorDetail, PushImageInfo};
use bytes::Bytes;
use sampan_image::{HistoryEntry, ImageConfig, ImageRef, Platform, timestamp};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use super::{Download, Images, ImportOptions, Upload, apply_changes, reference};
use crate::Engine;
use crate::error::{Error, Result};
use crate::messages::{BuildMessage, Credentials};

/// Messages and chunks on their way to a client.
const QUEUE: usize = 64;
const CHUNK: usize = 256 << 10;

/// An uploaded archive on disk, removed when dropped.
struct Spool(PathBuf);

impl Drop for Spool {
    fn drop(&mut self) {
        // Scratch space is emptied at the next start in any case.
        drop(std::fs::remove_file(&self.0));
    }
}

impl Spool {
    /// Writes an upload to the disk.
    async fn take(images: &Images, mut upload: Upload) -> Result<Self> {
        let spool = Self(images.store().blobs().scratch());
        let failed = |error: io::Error| Error::internal(format!("receive the archive: {error}"));
        let mut file = tokio::fs::File::create_new(&spool.0).await.map_err(failed)?;
        let mut upload = tokio::io::BufReader::with_capacity(CHUNK, &mut upload);
        tokio::io::copy_buf(&mut upload, &mut file).await.map_err(failed)?;
        file.flush().await.map_err(failed)?;
        Ok(spool)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Engine {
    /// Makes an image of one layer from a file system's tar.
    pub async fn import_image(&self, upload: Upload, options: ImportOptions) -> Result<mpsc::Receiver<CreateImageInfo>> {
        let name = match options.repo.as_deref().filter(|repo| !repo.is_empty()) {
            Some(repo) => Some(reference(repo, options.tag.as_deref())?),
            None => None,
        };
        let platform = match options.platform.as_deref().filter(|platform| !platform.is_empty()) {
            Some(platform) => Platform::parse(platform)?,
            None => Platform::host(),
        };
        let now = timestamp::format(timestamp::now());
        let message = options.message.filter(|text| !text.is_empty()).unwrap_or_else(|| "Imported from -".to_owned());
        let mut config = ImageConfig {
            architecture: platform.architecture,
            os: platform.os,
            variant: platform.variant,
            created: Some(now.clone()),
            comment: Some(message.clone()),
            history: vec![HistoryEntry { created: Some(now), comment: Some(message), ..HistoryEntry::default() }],
            ..ImageConfig::default()
        };
        apply_changes(&mut config, &options.changes)?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let images = self.inner.images.clone();
        tokio::spawn(async move {
            let result = import(&images, upload, config, name).await;
            let message = match result {
                Ok(id) => CreateImageInfo { status: Some(id), ..CreateImageInfo::default() },
                Err(error) => CreateImageInfo { error_detail: Some(detail(&error)), ..CreateImageInfo::default() },
            };
            // A client that went away does not want to know.
            drop(sender.send(message).await);
        });
        Ok(receiver)
    }

    /// Reads what `save` wrote (docker-archive or OCI layout).
    pub async fn load_images(&self, upload: Upload, _quiet: bool) -> Result<mpsc::Receiver<BuildMessage>> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let images = self.inner.images.clone();
        tokio::spawn(async move {
            let loaded = match Spool::take(&images, upload).await {
                Err(error) => Err(error),
                Ok(spool) => images.blocking(move |store| Ok(sampan_image::load(store, spool.path())?)).await,
            };
            let messages = match loaded {
                Err(error) => vec![BuildMessage::failure(error.message, None)],
                Ok(loaded) => {
                    images.flush_soon();
                    let mut messages = Vec::new();
                    for each in loaded {
                        let id = each.image.id.to_string();
                        for name in &each.names {
                            images.event("load", &id, Some(name.familiar()));
                            messages.push(BuildMessage::text(format!("Loaded image: {}\n", name.familiar())));
                        }
                        if each.names.is_empty() {
                            images.event("load", &id, Some(id.clone()));
                            messages.push(BuildMessage::text(format!("Loaded image ID: {id}\n")));
                        }
                    }
                    messages
                }
            };
            for message in messages {
                if sender.send(message).await.is_err() {
                    return;
                }
            }
        });
        Ok(receiver)
    }

    /// Writes images as one tar.
    pub async fn save_images(&self, names: Vec<String>) -> Result<Download> {
        let images = self.inner.images.clone();
        // Names are looked up before the answer begins, so that a wrong one is an error and not half an archive.
        let items = sampan_image::save_items(images.store(), &names)?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::task::spawn_blocking(move || {
            let out = BufWriter::with_capacity(CHUNK, Chunks(sender.clone()));
            let result = sampan_image::save(images.store(), &items, out);
            match result {
                Ok(mut out) => {
                    if let Err(error) = out.flush() {
                        tracing::debug!(%error, "save was not taken to its end");
                    }
                    for item in &items {
                        images.event("save", &item.image.id.to_string(), Some(item.shown()));
                    }
                }
                Err(error) => drop(sender.blocking_send(Err(io::Error::other(error.to_string())))),
            }
        });
        Ok(receiver)
    }

    /// Fetches an image.
    pub async fn pull_image(
        &self,
        reference: &str,
        platform: Option<&str>,
        auth: Option<Credentials>,
    ) -> Result<mpsc::Receiver<CreateImageInfo>> {
        let _ = (ImageRef::parse(reference).map_err(Error::invalid)?, platform, auth);
        Err(Error::unsupported("registries are not there yet"))
    }

    /// Sends an image.
    pub async fn push_image(
        &self,
        name: &str,
        tag: Option<&str>,
        auth: Option<Credentials>,
    ) -> Result<mpsc::Receiver<PushImageInfo>> {
        let _ = (super::reference(name, tag)?, auth);
        Err(Error::unsupported("registries are not there yet"))
    }
}

fn detail(error: &Error) -> ErrorDetail {
    ErrorDetail { code: None, message: Some(error.message.clone()) }
}

async fn import(images: &Images, upload: Upload, config: ImageConfig, name: Option<ImageRef>) -> Result<String> {
    let spool = Spool::take(images, upload).await?;
    let familiar = name.as_ref().map(ImageRef::familiar);
    let image = images
        .blocking(move |store| {
            let file = File::open(spool.path()).map_err(|error| Error::internal(format!("read the archive: {error}")))?;
            let layer = store.add_layer_from_tar(file, &[])?;
            let names: Vec<_> = name.into_iter().collect();
            Ok(store.create_image(config, vec![layer], None, &names)?)
        })
        .await?;
    images.flush_soon();
    let id = image.id.to_string();
    images.event("import", &id, Some(familiar.unwrap_or_else(|| id.clone())));
    Ok(id)
}

/// A writer whose bytes go to a client in chunks.
struct Chunks(mpsc::Sender<io::Result<Bytes>>);

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .blocking_send(Ok(Bytes::copy_from_slice(bytes)))
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the client is gone"))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
