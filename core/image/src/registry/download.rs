//! One blob from the wire to the disk: hashed while it comes, taken up again where it broke, bounded.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, Bytes};
use http::{Method, StatusCode, Uri, header};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Reporter;
use super::client::{Extra, Repository, next_piece};
use super::pull::{REPORT, blocking};
use crate::arrival::{Arrival, Arriving, arrival};
use crate::digest::Digest;
use crate::error::{Context, ImageError};
use crate::manifest::{Descriptor, is_foreign};
use crate::store::ImageStore;

/// How often a broken download is taken up again.
const RESUMES: u32 = 5;
/// A connection that brought so much is forgiven its end.
const WORTHWHILE: u64 = 4 << 20;
/// Less than this within the time that a registry may be silent is a connection that leads nowhere.
const DRIP: u64 = 4 << 10;
/// Addresses of a foreign layer that are tried.
const MAX_URLS: usize = 8;
/// Pieces on their way from the wire to the disk.
const QUEUE: usize = 64;

/// Removes what a download has written when it is given up.
pub(super) struct Partial(pub PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

/// A thread that hashes and writes what comes.
pub(super) struct Sink {
    what: String,
    to: mpsc::Sender<Bytes>,
    thread: JoinHandle<io::Result<(Digest, Arriving)>>,
}

impl Sink {
    /// Opens a file for a blob. Dropped, the sink lets those who read from the file know that no more comes.
    pub(super) async fn open(
        store: &Arc<ImageStore>,
        descriptor: &Descriptor,
    ) -> Result<(Partial, Self, Arrival), ImageError> {
        let what = format!("layer {}", descriptor.digest);
        let partial = Partial(store.blobs().scratch());
        let path = partial.0.clone();
        let context = what.clone();
        let file = blocking(store, move |_| {
            let file = std::fs::File::options().read(true).write(true).create_new(true).open(&path);
            file.context(|| format!("keep {context}"))
        })
        .await?;
        let (arriving, coming) = arrival(file);
        let (to, mut from) = mpsc::channel::<Bytes>(QUEUE);
        let thread = tokio::task::spawn_blocking(move || {
            let mut hash = Sha256::new();
            while let Some(piece) = from.blocking_recv() {
                hash.update(&piece);
                arriving.write(&piece)?;
            }
            Ok((Digest::from_bytes(hash.finalize().into()), arriving))
        });
        Ok((partial, Self { what, to, thread }, coming))
    }

    async fn send(&self, piece: Bytes) -> Result<(), ImageError> {
        // Why the thread ended is told when it is asked for its result.
        self.to.send(piece).await.map_err(|_| ImageError::Io {
            context: format!("keep {}", self.what),
            source: io::Error::from(io::ErrorKind::BrokenPipe),
        })
    }

    /// Waits until all is written: its digest.
    pub(super) async fn finish(self) -> Result<(Digest, Arriving), ImageError> {
        drop(self.to);
        let failed = |source| ImageError::Io { context: format!("keep {}", self.what), source };
        self.thread.await.map_err(|error| failed(io::Error::other(error)))?.map_err(failed)
    }
}

/// Downloads one blob. A connection that breaks is taken up where it broke.
pub(super) async fn download(
    repository: &Repository,
    descriptor: &Descriptor,
    sink: &Sink,
    id: &str,
    reporter: &Reporter,
) -> Result<(), ImageError> {
    let mut done: u64 = 0;
    let mut refusals: Vec<String> = Vec::new();
    if is_foreign(&descriptor.media_type) {
        let elsewhere = repository.elsewhere();
        for url in descriptor.urls.iter().flatten().take(MAX_URLS) {
            let result = match foreign_url(url) {
                Ok(()) => download_url(&elsewhere, url, descriptor, sink, &mut done, id, reporter).await,
                Err(why) => Err(ImageError::Registry(format!("{url}: {why}"))),
            };
            match result {
                Ok(()) => return Ok(()),
                Err(error @ (ImageError::Io { .. } | ImageError::Refused { .. })) => return Err(error),
                // The next address may know better.
                Err(error) => refusals.push(error.to_string()),
            }
        }
    }
    // Some registries hold such layers all the same.
    let url = repository.url(&format!("blobs/{}", descriptor.digest));
    match download_url(repository, &url, descriptor, sink, &mut done, id, reporter).await {
        Err(error) if !refusals.is_empty() => {
            refusals.push(error.to_string());
            let all = refusals.join("; ");
            Err(ImageError::Registry(format!("foreign layer {}: {all}", descriptor.digest)))
        }
        result => result,
    }
}

/// Whether a layer may be fetched from an address that a manifest names, as it is written. What it leads to is judged by
/// whoever connects to it.
fn foreign_url(url: &str) -> Result<(), &'static str> {
    let uri: Uri = url.parse().map_err(|_| "not an address")?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err("layers are fetched by http and https only");
    }
    if uri.authority().is_none_or(|authority| authority.as_str().contains('@')) {
        return Err("an address with credentials, or without a host");
    }
    Ok(())
}

async fn download_url(
    repository: &Repository,
    url: &str,
    descriptor: &Descriptor,
    sink: &Sink,
    done: &mut u64,
    id: &str,
    reporter: &Reporter,
) -> Result<(), ImageError> {
    let mut resumes = 0;
    while *done < descriptor.size {
        let before = *done;
        match download_from(repository, url, descriptor, sink, done, id, reporter).await {
            Ok(()) => {}
            Err(Broken::For(error)) => return Err(error),
            Err(Broken::Meanwhile(error)) if resumes < RESUMES => {
                tracing::debug!(%error, done, "a download is taken up again");
                if *done >= before + WORTHWHILE {
                    resumes = 0;
                }
                repository.wait(resumes).await;
                resumes += 1;
            }
            Err(Broken::Meanwhile(error)) => {
                return Err(ImageError::Unreachable(format!(
                    "layer {}: {error} (after {done} of {} bytes)",
                    descriptor.digest, descriptor.size
                )));
            }
        }
    }
    Ok(())
}

enum Broken {
    /// Asking again does not help.
    For(ImageError),
    Meanwhile(io::Error),
}

/// Of an answer to a request for the rest of a blob: how many of its first bytes are here already.
fn known_part(status: StatusCode, range: Option<&str>, done: u64) -> Result<u64, String> {
    if status != StatusCode::PARTIAL_CONTENT {
        // The server begins anew.
        return Ok(done);
    }
    // `bytes 10-19/20`
    let from: Option<u64> =
        range.and_then(|range| range.trim().strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok());
    match from {
        Some(from) if from != done => Err(format!("asked for the bytes from {done} on, it sends those from {from} on")),
        // Without the header it is what was asked for; the digest will tell.
        _ => Ok(0),
    }
}

async fn download_from(
    repository: &Repository,
    url: &str,
    descriptor: &Descriptor,
    sink: &Sink,
    done: &mut u64,
    id: &str,
    reporter: &Reporter,
) -> Result<(), Broken> {
    let mut extra = Extra::default();
    if *done > 0 {
        extra.headers.push((header::RANGE, format!("bytes={done}-")));
    }
    let response = repository.request(&Method::GET, url, &extra).await.map_err(|error| Broken::For(error.into()))?;
    let mut skip = 0;
    if *done > 0 {
        let range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
        skip = known_part(response.status(), range, *done)
            .map_err(|why| Broken::For(ImageError::Registry(format!("layer {}: {why}", descriptor.digest))))?;
    }
    let mut body = response.into_body();
    let mut reported = Instant::now();
    let (mut since, mut came) = (Instant::now(), 0_u64);
    while let Some(mut piece) = next_piece(&mut body, repository.patience).await.map_err(Broken::Meanwhile)? {
        came += piece.len() as u64;
        let known = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
        piece.advance(known);
        skip -= known as u64;
        *done += piece.len() as u64;
        if since.elapsed() >= repository.patience {
            if came < DRIP && *done < descriptor.size {
                return Err(Broken::Meanwhile(io::Error::new(io::ErrorKind::TimedOut, "the body comes too slowly")));
            }
            (since, came) = (Instant::now(), 0);
        }
        if *done > descriptor.size {
            let why = format!("longer than the {} bytes that its descriptor promises", descriptor.size);
            return Err(Broken::For(ImageError::refused(format!("layer {}", descriptor.digest), why)));
        }
        if !piece.is_empty() {
            sink.send(piece).await.map_err(Broken::For)?;
        }
        if reported.elapsed() >= REPORT {
            reported = Instant::now();
            reporter.progress(id, "Downloading", *done, descriptor.size);
        }
    }
    if *done < descriptor.size {
        return Err(Broken::Meanwhile(io::Error::new(io::ErrorKind::UnexpectedEof, "the body ends too early")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_sends_is_what_was_asked_for_or_all_of_it() {
        let partial = StatusCode::PARTIAL_CONTENT;
        assert_eq!(known_part(partial, Some("bytes 10-19/20"), 10), Ok(0));
        assert_eq!(known_part(partial, None, 10), Ok(0));
        assert_eq!(known_part(StatusCode::OK, None, 10), Ok(10));
        assert!(known_part(partial, Some("bytes 5-19/20"), 10).is_err());
    }

    #[test]
    fn foreign_layers_come_from_addresses_that_anyone_could_ask() {
        for good in ["https://layers.example/x?y", "http://10.1.2.3/x"] {
            assert_eq!(foreign_url(good), Ok(()));
        }
        let bad =
            ["file:///etc/shadow", "ftp://layers.example/x", "https://user:word@layers.example/x", "/x", "http:///x"];
        for bad in bad {
            assert!(foreign_url(bad).is_err(), "{bad}");
        }
    }
}
