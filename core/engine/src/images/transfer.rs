//! Images that come and go: `import`, `load`, `save`, `pull`, `push`.

use std::future::Future;
use std::io::{self, BufWriter, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bollard_stubs::models::{ErrorDetail, ProgressDetail};
use bytes::Bytes;
use sampan_image::registry::{self, Pulled, Pushed, RegistryAuth, Reporter, SearchResult, TransferEvent};
use sampan_image::{Digest, HistoryEntry, ImageConfig, ImageRef, Platform, SaveItem, timestamp};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::{Download, Images, ImportOptions, ImportSource, Upload, apply_changes, reference};
use crate::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::filters::Filters;
use crate::messages::{BuildMessage, Credentials};

/// Messages and chunks on their way to a client.
const QUEUE: usize = 64;
const CHUNK: usize = 256 << 10;
/// Bytes of an archive that is fetched for an import.
const MAX_IMPORT: u64 = 1 << 40;

/// What a client is told while images come and go, in Docker's words.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TransferMessage {
    /// Of which layer, or of which tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Such as `Downloading`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// How far it is.
    #[serde(rename = "progressDetail", skip_serializing_if = "Option::is_none")]
    pub progress_detail: Option<ProgressDetail>,
    /// Of a push: tag, digest and size of what is there now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aux: Option<serde_json::Value>,
    /// Why it failed; the last message.
    #[serde(rename = "errorDetail", skip_serializing_if = "Option::is_none")]
    pub error_detail: Option<ErrorDetail>,
    /// The same again, for older clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl TransferMessage {
    fn status(text: impl Into<String>) -> Self {
        Self { status: Some(text.into()), ..Self::default() }
    }

    fn failure(error: &Error) -> Self {
        Self { error_detail: Some(detail(error)), error: Some(error.message.clone()), ..Self::default() }
    }
}

impl From<TransferEvent> for TransferMessage {
    fn from(event: TransferEvent) -> Self {
        Self { id: event.id, status: Some(event.status), progress_detail: progress(event.progress), ..Self::default() }
    }
}

/// An upload as a stream for threads that may block.
struct Blocking {
    upload: Upload,
    runtime: Handle,
}

impl Blocking {
    fn new(upload: Upload) -> Self {
        Self { upload, runtime: Handle::current() }
    }
}

impl Read for Blocking {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.runtime.block_on(self.upload.read(buffer))
    }
}

impl Engine {
    /// Makes an image of one layer from a file system's tar.
    pub async fn import_image(
        &self,
        source: ImportSource,
        options: ImportOptions,
    ) -> Result<mpsc::Receiver<TransferMessage>> {
        let name = match options.repo.as_deref().filter(|repo| !repo.is_empty()) {
            Some(repo) => Some(reference(repo, options.tag.as_deref())?),
            None => None,
        };
        let platform = parse_platform(options.platform.as_deref())?.unwrap_or_else(Platform::host);
        let now = timestamp::format(timestamp::now());
        let message = options.message.filter(|text| !text.is_empty()).unwrap_or_else(|| {
            let from = match &source {
                ImportSource::Upload(_) => "-",
                // What follows may be a credential.
                ImportSource::Url(url) => url.split('?').next().unwrap_or_default(),
            };
            format!("Imported from {from}")
        });
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
            let result = match source {
                ImportSource::Upload(upload) => import(&images, upload, config, name).await,
                ImportSource::Url(url) => {
                    let status = format!("Downloading from {}", url.split('?').next().unwrap_or_default());
                    drop(sender.send(TransferMessage::status(status)).await);
                    fetch_and_import(&images, &url, config, name).await
                }
            };
            let message = match result {
                Ok(id) => TransferMessage::status(id),
                Err(error) => TransferMessage::failure(&error),
            };
            // A client that went away does not want to know.
            drop(sender.send(message).await);
        });
        Ok(receiver)
    }

    /// Reads what `save` wrote (docker-archive or OCI layout).
    pub async fn load_images(&self, upload: Upload, platform: Option<&str>) -> Result<mpsc::Receiver<BuildMessage>> {
        let platform = parse_platform(platform)?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let images = self.inner.images.clone();
        tokio::spawn(async move {
            let upload = Blocking::new(upload);
            let loaded = images.blocking(move |store| Ok(sampan_image::load(store, upload, platform.as_ref())?)).await;
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
    pub async fn save_images(&self, names: Vec<String>, platform: Option<&str>) -> Result<Download> {
        let images = self.inner.images.clone();
        // Names are looked up before the answer begins, so that a wrong one is an error and not half an archive.
        let mut items = sampan_image::save_items(images.store(), &names)?;
        if platform.is_some_and(|text| !text.is_empty()) {
            for item in &mut items {
                let name = item.index.as_ref().map_or(item.image.id, |index| index.digest);
                item.image = images.resolve_for(&name.to_string(), platform)?;
                item.index = None;
            }
        }
        Ok(self.save(items))
    }

    /// Writes an image as one tar, under names that need not lead to it here.
    pub async fn save_image_as(&self, id: &str, names: &[String]) -> Result<Download> {
        let mut items = sampan_image::save_items(self.inner.images.store(), &[id.to_owned()])?;
        for item in &mut items {
            item.names =
                names.iter().map(|name| ImageRef::parse(name).map_err(Error::invalid)).collect::<Result<_>>()?;
        }
        Ok(self.save(items))
    }

    fn save(&self, items: Vec<SaveItem>) -> Download {
        let images = self.inner.images.clone();
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
        receiver
    }

    /// Fetches what Docker's API names by two words: with a tag or a digest one image, without both all tags.
    pub async fn pull_named(
        &self,
        name: &str,
        tag: Option<&str>,
        platform: Option<&str>,
        auth: Option<Credentials>,
    ) -> Result<mpsc::Receiver<TransferMessage>> {
        let bare = ImageRef::parse_bare(name).map_err(Error::invalid)?;
        let wanted = match tag.filter(|tag| !tag.is_empty()) {
            Some(digest) if digest.contains(':') => bare.with_digest(Digest::parse(digest).map_err(Error::invalid)?),
            Some(tag) => bare.with_tag(tag).map_err(Error::invalid)?,
            None if bare.tag().is_none() && bare.digest().is_none() => {
                return self.pull_all_tags(name, platform, auth).await;
            }
            None => bare,
        };
        self.pull_names(vec![wanted], platform, auth).await
    }

    /// Fetches an image.
    pub async fn pull_image(
        &self,
        reference: &str,
        platform: Option<&str>,
        auth: Option<Credentials>,
    ) -> Result<mpsc::Receiver<TransferMessage>> {
        self.pull_names(vec![ImageRef::parse(reference).map_err(Error::invalid)?], platform, auth).await
    }

    /// Fetches an image by each tag that its repository has.
    async fn pull_all_tags(
        &self,
        repository: &str,
        platform: Option<&str>,
        auth: Option<Credentials>,
    ) -> Result<mpsc::Receiver<TransferMessage>> {
        let bare = ImageRef::parse_bare(repository).map_err(Error::invalid)?;
        let login = auth.clone().map(registry_auth);
        let tags = registry::tags(self.inner.images.registries(), &bare, login.as_ref()).await?;
        let names: Vec<ImageRef> =
            tags.iter().map(|tag| bare.with_tag(tag).map_err(Error::invalid)).collect::<Result<_>>()?;
        if names.is_empty() {
            return Err(Error::not_found(format!("{} has no tags", bare.familiar_name())));
        }
        self.pull_names(names, platform, auth).await
    }

    async fn pull_names(
        &self,
        names: Vec<ImageRef>,
        platform: Option<&str>,
        auth: Option<Credentials>,
    ) -> Result<mpsc::Receiver<TransferMessage>> {
        let platform = parse_platform(platform)?;
        let images = self.inner.images.clone();
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            for name in names {
                let transfer = images.pull(&name, platform.clone(), auth.clone(), |event| {
                    let sender = sender.clone();
                    async move { sender.send(event.into()).await.is_ok() }
                });
                let last = match transfer.await {
                    Ok(pulled) => {
                        let status = if pulled.known { "Image is up to date" } else { "Downloaded newer image" };
                        let texts =
                            [format!("Digest: {}", pulled.digest), format!("Status: {status} for {}", name.familiar())];
                        texts.map(TransferMessage::status).to_vec()
                    }
                    Err(error) => vec![TransferMessage::failure(&error)],
                };
                if !tell_last(&sender, last).await {
                    return;
                }
            }
        });
        begun(receiver).await
    }

    /// Sends an image; without a tag, by each tag that its repository has here.
    pub async fn push_image(
        &self,
        name: &str,
        tag: Option<&str>,
        platform: Option<&str>,
        auth: Option<Credentials>,
    ) -> Result<mpsc::Receiver<TransferMessage>> {
        let bare = ImageRef::parse_bare(name).map_err(Error::invalid)?;
        if bare.digest().is_some() {
            return Err(Error::invalid("cannot push a digest reference"));
        }
        let images = self.inner.images.clone();
        let names = match (tag.filter(|tag| !tag.is_empty()), bare.tag()) {
            (Some(tag), _) => vec![reference(name, Some(tag))?],
            (None, Some(_)) => vec![bare.clone()],
            (None, None) => {
                let here = images.store().list().into_iter().flat_map(|(_, names)| names);
                let mut names: Vec<ImageRef> = here
                    .filter(|other| other.tag().is_some() && other.digest().is_none())
                    .filter(|other| other.repository() == bare.repository())
                    .collect();
                names.sort();
                names
            }
        };
        if names.is_empty() || names.iter().any(|name| images.store().by_name(name).is_none()) {
            return Err(Error::not_found(format!(
                "An image does not exist locally with the tag: {}",
                bare.familiar_name()
            )));
        }
        for name in &names {
            images.resolve_for(&name.to_string(), platform)?;
        }
        let platform = parse_platform(platform)?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            let hello = format!("The push refers to repository [{}]", bare.repository());
            drop(sender.send(TransferMessage::status(hello)).await);
            for name in names {
                let pushed = images.push(&name, platform.as_ref(), auth.clone(), |event| {
                    let sender = sender.clone();
                    async move { sender.send(event.into()).await.is_ok() }
                });
                let last = match pushed.await {
                    Ok(pushed) => {
                        let tag = name.tag().unwrap_or("latest");
                        let status = format!("{tag}: digest: {} size: {}", pushed.digest, pushed.size);
                        let aux = serde_json::json!({
                            "Tag": tag, "Digest": pushed.digest.to_string(), "Size": pushed.size
                        });
                        let made = TransferMessage { aux: Some(aux), ..TransferMessage::default() };
                        vec![TransferMessage::status(status), made]
                    }
                    Err(error) => vec![TransferMessage::failure(&error)],
                };
                if !tell_last(&sender, last).await {
                    return;
                }
            }
        });
        Ok(receiver)
    }

    /// Searches Docker Hub, or the registry that the term begins with.
    pub async fn search_images(
        &self,
        term: &str,
        limit: Option<u32>,
        filters: &Filters,
        auth: Option<Credentials>,
    ) -> Result<Vec<SearchResult>> {
        filters.only(&["is-official", "is-automated", "stars"])?;
        let limit = limit.unwrap_or(25);
        if !(1..=100).contains(&limit) {
            return Err(Error::invalid(format!("limit {limit} is outside the range of [1, 100]")));
        }
        let stars = filters
            .values("stars")
            .map(|text| text.parse::<i64>().map_err(|_| Error::invalid(format!("filter stars={text}: not a number"))));
        let stars = stars.collect::<Result<Vec<_>>>()?.into_iter().max().unwrap_or(0);
        let wanted = |name: &str| filters.values(name).next().map(|text| matches!(text, "true" | "1"));
        let (official, automated) = (wanted("is-official"), wanted("is-automated"));
        let login = auth.map(registry_auth);
        let mut found = registry::search(self.inner.images.registries(), term, limit, login.as_ref()).await?;
        found.retain(|each| {
            each.star_count >= stars
                && official.is_none_or(|wanted| wanted == each.is_official)
                && automated.is_none_or(|wanted| wanted == each.is_automated)
        });
        Ok(found)
    }
}

/// Reads a platform as clients write it: `os/architecture[/variant]`, or the same as a document of OCI.
pub(super) fn parse_platform(platform: Option<&str>) -> Result<Option<Platform>> {
    let Some(text) = platform.filter(|text| !text.is_empty()) else { return Ok(None) };
    if !text.trim_start().starts_with('{') {
        return Ok(Some(Platform::parse(text)?));
    }
    let platform: Platform =
        serde_json::from_str(text).map_err(|error| Error::invalid(format!("platform {text}: {error}")))?;
    // The same rules for names hold.
    Ok(Some(Platform { os_version: platform.os_version.clone(), ..Platform::parse(&platform.to_string())? }))
}

/// Tells the end of one of several transfers; whether the next one shall begin.
async fn tell_last(sender: &mpsc::Sender<TransferMessage>, last: Vec<TransferMessage>) -> bool {
    let failed = last.iter().any(|message| message.error.is_some());
    for message in last {
        drop(sender.send(message).await);
    }
    !failed && !sender.is_closed()
}

/// Waits for the first message: a pull that fails at once is answered with an error and not with a stream.
async fn begun(mut receiver: mpsc::Receiver<TransferMessage>) -> Result<mpsc::Receiver<TransferMessage>> {
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

fn progress(progress: Option<(u64, u64)>) -> Option<ProgressDetail> {
    let number = |number: u64| i64::try_from(number).ok();
    progress.map(|(current, total)| ProgressDetail { current: number(current), total: number(total) })
}

impl Images {
    /// Whether a registry takes these credentials, and the token that it gives in place of the password, if any.
    pub(crate) async fn login(&self, credentials: Credentials) -> Result<Option<String>> {
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
        platform: Option<&Platform>,
        auth: Option<Credentials>,
        tell: impl FnMut(TransferEvent) -> F,
    ) -> Result<Pushed> {
        let auth = auth.map(registry_auth);
        let (sender, receiver) = mpsc::channel(QUEUE);
        let reporter = Reporter(sender);
        let pushing = async {
            let result =
                registry::push(self.registries(), self.store(), name, platform, auth.as_ref(), &reporter).await;
            drop(reporter);
            result
        };
        let pushed = told(pushing, receiver, tell).await??;
        let digest = pushed.digest;
        let by_digest = name.with_digest(digest);
        let name = name.clone();
        let familiar = name.familiar();
        self.blocking(move |store| match (store.index_by_name(&name), store.by_name(&name)) {
            (Some(index), _) if index.digest == digest => Ok(store.tag_as(&name.to_string(), &by_digest).map(drop)?),
            (_, Some(image)) if image.manifest == digest => Ok(store.tag(&image.id, &by_digest).map(drop)?),
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
pub(crate) fn registry_auth(credentials: Credentials) -> RegistryAuth {
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
    let upload = Blocking::new(upload);
    let familiar = name.as_ref().map(ImageRef::familiar);
    let image = images
        .blocking(move |store| {
            let layer = store.add_layer_from_tar(upload, &[])?;
            let names: Vec<_> = name.into_iter().collect();
            Ok(store.create_image(config, vec![layer], None, &names)?)
        })
        .await?;
    images.flush_soon();
    let id = image.id.to_string();
    images.event("import", &id, Some(familiar.unwrap_or_else(|| id.clone())));
    Ok(id)
}

/// Fetches an archive and imports it meanwhile.
async fn fetch_and_import(images: &Images, url: &str, config: ImageConfig, name: Option<ImageRef>) -> Result<String> {
    let (mut writer, reader) = tokio::io::duplex(CHUNK);
    let whole = Arc::new(AtomicBool::new(false));
    let upload = Box::pin(Whole { inner: reader, whole: Arc::clone(&whole) });
    let registries = images.registries().clone();
    let fetching = async move {
        let fetched = registries.fetch(url, MAX_IMPORT, &mut writer).await;
        whole.store(fetched.is_ok(), Ordering::Release);
        fetched
    };
    let (fetched, imported) = tokio::join!(fetching, import(images, upload, config, name));
    match (fetched, imported) {
        (_, Ok(id)) => Ok(id),
        // An archive that is refused ends the download, too.
        (Err(error), Err(refused)) if refused.kind != ErrorKind::Invalid => Err(Error::unavailable(error)),
        (_, Err(error)) => Err(error),
    }
}

/// A stream that ends well only if all of it came.
struct Whole {
    inner: tokio::io::DuplexStream,
    whole: Arc<AtomicBool>,
}

impl AsyncRead for Whole {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.inner).poll_read(cx, buffer);
        let ended = matches!(polled, Poll::Ready(Ok(()))) && buffer.filled().len() == before && buffer.remaining() > 0;
        if ended && !this.whole.load(Ordering::Acquire) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the download broke off")));
        }
        polled
    }
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
