//! Images that come and go: `import`, `load`, `save`, `pull`, `push`.

use std::fs::File;
use std::future::Future;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use bollard_stubs::models::{CreateImageInfo, ErrorDetail, ProgressDetail, PushImageInfo};
use bytes::Bytes;
use sampan_image::registry::{self, Pulled, Pushed, RegistryAuth, Reporter, TransferEvent};
use sampan_image::{HistoryEntry, ImageConfig, ImageRef, Platform, timestamp};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use super::{Download, Images, ImportOptions, Upload, apply_changes, reference};
use crate::Engine;
use crate::error::{Error, ErrorKind, Result};
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
    pub async fn import_image(
        &self,
        upload: Upload,
        options: ImportOptions,
    ) -> Result<mpsc::Receiver<CreateImageInfo>> {
        let name = match options.repo.as_deref().filter(|repo| !repo.is_empty()) {
            Some(repo) => Some(reference(repo, options.tag.as_deref())?),
            None => None,
        };
        let platform = parse_platform(options.platform.as_deref())?.unwrap_or_else(Platform::host);
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
        let name = ImageRef::parse(reference).map_err(Error::invalid)?;
        let platform = parse_platform(platform)?;
        let images = self.inner.images.clone();
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            let transfer = images.pull(&name, platform, auth, |event| {
                let sender = sender.clone();
                async move { sender.send(create_info(event)).await.is_ok() }
            });
            let ended = transfer.await;
            let last = match ended {
                Ok(pulled) => {
                    let status = if pulled.known { "Image is up to date" } else { "Downloaded newer image" };
                    let texts =
                        [format!("Digest: {}", pulled.digest), format!("Status: {status} for {}", name.familiar())];
                    texts.map(|text| CreateImageInfo { status: Some(text), ..CreateImageInfo::default() }).to_vec()
                }
                Err(error) => {
                    vec![CreateImageInfo { error_detail: Some(detail(&error)), ..CreateImageInfo::default() }]
                }
            };
            for message in last {
                drop(sender.send(message).await);
            }
        });
        begun(receiver).await
    }

    /// Sends an image.
    pub async fn push_image(
        &self,
        name: &str,
        tag: Option<&str>,
        auth: Option<Credentials>,
    ) -> Result<mpsc::Receiver<PushImageInfo>> {
        let name = reference(name, tag)?;
        let images = self.inner.images.clone();
        if images.store().by_name(&name).is_none() {
            return Err(Error::not_found(format!(
                "An image does not exist locally with the tag: {}",
                name.familiar_name()
            )));
        }
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            let hello = format!("The push refers to repository [{}]", name.repository());
            drop(sender.send(PushImageInfo { status: Some(hello), ..PushImageInfo::default() }).await);
            let pushed = images.push(&name, auth, |event| {
                let sender = sender.clone();
                async move { sender.send(push_info(event)).await.is_ok() }
            });
            let last = match pushed.await {
                Ok(pushed) => {
                    let tag = name.tag().unwrap_or("latest");
                    let status = format!("{tag}: digest: {} size: {}", pushed.digest, pushed.size);
                    PushImageInfo { status: Some(status), ..PushImageInfo::default() }
                }
                Err(error) => PushImageInfo { error_detail: Some(detail(&error)), ..PushImageInfo::default() },
            };
            drop(sender.send(last).await);
        });
        Ok(receiver)
    }
}

pub(super) fn parse_platform(platform: Option<&str>) -> Result<Option<Platform>> {
    Ok(platform.filter(|text| !text.is_empty()).map(Platform::parse).transpose()?)
}

/// Waits for the first message: a pull that fails at once is answered with an error and not with a stream.
async fn begun(mut receiver: mpsc::Receiver<CreateImageInfo>) -> Result<mpsc::Receiver<CreateImageInfo>> {
    let Some(first) = receiver.recv().await else { return Err(Error::internal("the pull ended without a word")) };
    if let Some(message) = first.error_detail.as_ref().and_then(|detail| detail.message.clone()) {
        let kind = match first.error_detail.as_ref().and_then(|detail| detail.code) {
            Some(404) => ErrorKind::NotFound,
            Some(401) => ErrorKind::Unauthorized,
            Some(503) => ErrorKind::Unavailable,
            Some(400) => ErrorKind::Invalid,
            _ => ErrorKind::Internal,
        };
        return Err(Error { kind, message });
    }
    let (sender, joined) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let mut next = Some(first);
        while let Some(message) = next {
            if sender.send(message).await.is_err() {
                return;
            }
            next = receiver.recv().await;
        }
    });
    Ok(joined)
}

fn create_info(event: TransferEvent) -> CreateImageInfo {
    CreateImageInfo {
        id: event.id,
        status: Some(event.status),
        progress_detail: progress(event.progress),
        error_detail: None,
    }
}

fn push_info(event: TransferEvent) -> PushImageInfo {
    // Docker's model of a push has no id, so the state says of what it is.
    let status = match event.id {
        Some(id) => format!("{id}: {}", event.status),
        None => event.status,
    };
    PushImageInfo { status: Some(status), progress_detail: progress(event.progress), error_detail: None }
}

fn progress(progress: Option<(u64, u64)>) -> Option<ProgressDetail> {
    let number = |number: u64| i64::try_from(number).ok();
    progress.map(|(current, total)| ProgressDetail { current: number(current), total: number(total) })
}

impl Images {
    /// Whether a registry takes these credentials.
    pub(crate) async fn login(&self, credentials: Credentials) -> Result<()> {
        let server = credentials.serveraddress.clone().unwrap_or_default();
        Ok(registry::login(self.registries(), &server, &registry_auth(credentials)).await?)
    }

    /// Fetches an image; `tell` takes what happens and says whether anyone still listens. When nobody does, the pull is
    /// given up and leaves nothing.
    pub(crate) async fn pull<F: Future<Output = bool>>(
        &self,
        name: &ImageRef,
        platform: Option<Platform>,
        auth: Option<Credentials>,
        tell: impl FnMut(TransferEvent) -> F,
    ) -> Result<Pulled> {
        let auth = auth.map(registry_auth);
        let (sender, receiver) = mpsc::channel(QUEUE);
        let reporter = Reporter(sender);
        let pulling = async {
            let result =
                registry::pull(self.registries(), self.store(), name, platform.as_ref(), auth.as_ref(), &reporter)
                    .await;
            drop(reporter);
            result
        };
        let pulled = told(pulling, receiver, tell).await??;
        self.flush_soon();
        self.event("pull", &name.familiar(), Some(name.familiar()));
        Ok(pulled)
    }

    /// Sends an image; as [`Self::pull`].
    pub(crate) async fn push<F: Future<Output = bool>>(
        &self,
        name: &ImageRef,
        auth: Option<Credentials>,
        tell: impl FnMut(TransferEvent) -> F,
    ) -> Result<Pushed> {
        let auth = auth.map(registry_auth);
        let (sender, receiver) = mpsc::channel(QUEUE);
        let reporter = Reporter(sender);
        let pushing = async {
            let result = registry::push(self.registries(), self.store(), name, auth.as_ref(), &reporter).await;
            drop(reporter);
            result
        };
        let pushed = told(pushing, receiver, tell).await??;
        let digest = pushed.digest;
        let by_digest = name.with_digest(digest);
        let name = name.clone();
        let familiar = name.familiar();
        self.blocking(move |store| match store.by_name(&name) {
            Some(image) if image.manifest == digest => Ok(store.tag(&image.id, &by_digest).map(drop)?),
            _ => Ok(()),
        })
        .await?;
        self.event("push", &familiar, Some(familiar.clone()));
        Ok(pushed)
    }
}

/// Runs a transfer and passes on what it tells, until it ends or nobody listens.
async fn told<T, F: Future<Output = bool>>(
    transfer: impl Future<Output = T>,
    mut events: mpsc::Receiver<TransferEvent>,
    mut tell: impl FnMut(TransferEvent) -> F,
) -> Result<T> {
    let telling = async {
        while let Some(event) = events.recv().await {
            if !tell(event).await {
                return false;
            }
        }
        true
    };
    tokio::pin!(transfer, telling);
    tokio::select! {
        biased;
        listened = &mut telling => {
            if listened { Ok(transfer.await) } else { Err(Error::unavailable("the client went away: the transfer was given up")) }
        }
        ended = &mut transfer => {
            // What was told before the end is still on its way.
            telling.await;
            Ok(ended)
        }
    }
}

/// Credentials as Docker's API passes them.
fn registry_auth(credentials: Credentials) -> RegistryAuth {
    let text = |text: Option<String>| text.unwrap_or_default();
    let mut auth = RegistryAuth {
        username: text(credentials.username),
        password: text(credentials.password),
        identity_token: text(credentials.identitytoken),
        registry_token: text(credentials.registrytoken),
    };
    if auth.username.is_empty()
        && let Some((username, password)) = credentials.auth.as_deref().and_then(sampan_image::registry::decode_basic)
    {
        (auth.username, auth.password) = (username, password);
    }
    auth
}

fn detail(error: &Error) -> ErrorDetail {
    let code = match error.kind {
        ErrorKind::NotFound => Some(404),
        ErrorKind::Unauthorized => Some(401),
        ErrorKind::Unavailable => Some(503),
        ErrorKind::Invalid => Some(400),
        _ => None,
    };
    ErrorDetail { code, message: Some(error.message.clone()) }
}

async fn import(images: &Images, upload: Upload, config: ImageConfig, name: Option<ImageRef>) -> Result<String> {
    let spool = Spool::take(images, upload).await?;
    let familiar = name.as_ref().map(ImageRef::familiar);
    let image = images
        .blocking(move |store| {
            let file =
                File::open(spool.path()).map_err(|error| Error::internal(format!("read the archive: {error}")))?;
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
