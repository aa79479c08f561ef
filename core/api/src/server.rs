//! Accepting connections and answering their requests.

use http::{HeaderValue, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};

use sampan_engine::{Engine, Error};
use sampan_reconcile::Stacks;

use crate::buildkit::BuildKit;
use crate::request::Call;
use crate::response::failure;
use crate::router;

/// Connections served at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 4096;
/// A client that has not sent its headers by then is dropped.
const HEADER_TIME: Duration = Duration::from_secs(30);
/// How many headers and how many bytes of them a request may have.
const HEADERS: usize = 100;
const HEADER_BYTES: usize = 64 << 10;

/// Why serving ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listening socket failed for good.
    #[error("accept connections: {0}")]
    Accept(#[from] io::Error),
}

/// What handlers work on.
#[derive(Clone, Debug)]
pub struct Server {
    pub(crate) engine: Engine,
    pub(crate) stacks: Stacks,
    pub(crate) buildkit: BuildKit,
    requests: Arc<AtomicU64>,
}

impl Server {
    /// A server over an engine and its stacks.
    #[must_use]
    pub fn new(engine: Engine, stacks: Stacks) -> Self {
        let buildkit = BuildKit::new(engine.clone());
        Self { engine, stacks, buildkit, requests: Arc::new(AtomicU64::new(0)) }
    }

    /// Serves until `stop` becomes true; then no new connection is taken, and open ones end after their request.
    pub async fn serve(&self, listener: UnixListener, mut stop: watch::Receiver<bool>) -> Result<(), ServeError> {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else { return Ok(()) };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
            };
            match accepted {
                Ok((stream, _)) => {
                    let server = self.clone();
                    let stop = stop.clone();
                    tokio::spawn(async move {
                        server.connection(stream, stop).await;
                        drop(slot);
                    });
                }
                // Out of descriptors or memory: what is open will end, so wait instead of giving up.
                Err(error) if is_transient(&error) => {
                    tracing::warn!(%error, "cannot accept a connection, trying again");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn connection(self, stream: UnixStream, mut stop: watch::Receiver<bool>) {
        if let Ok(peer) = stream.peer_cred() {
            tracing::trace!(uid = peer.uid(), pid = peer.pid(), "connection");
        }
        let service = service_fn(move |request| {
            let server = self.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIME)
            .max_headers(HEADERS)
            .max_buf_size(HEADER_BYTES)
            .half_close(true)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::pin!(connection);
        let mut stopping = false;
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "connection ended");
                    }
                    return;
                }
                _ = stop.wait_for(|stop| *stop), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }

    /// Runs the handler in a task of its own, so that a panic ends this request alone.
    async fn answer(&self, request: Request<Incoming>) -> http::Response<crate::response::Body> {
        let id = self.requests.fetch_add(1, Ordering::Relaxed);
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let head = method == http::Method::HEAD;
        let server = self.clone();
        let handled = async move {
            let call = Call::new(request)?;
            router::route(&server, call).await
        };
        let mut response = match Abort(tokio::spawn(handled)).join().await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                tracing::debug!(request = id, %method, path, error = %error, "refused");
                failure(&error)
            }
            Err(error) => {
                tracing::error!(request = id, %method, path, %error, "a handler failed");
                failure(&Error::internal(format!(
                    "internal error in request {id} ({method} {path}); the daemon's log has more"
                )))
            }
        };
        if head {
            *response.body_mut() = crate::response::full(bytes::Bytes::new());
        }
        let headers = response.headers_mut();
        headers.insert("Api-Version", HeaderValue::from_static(crate::API_VERSION));
        headers.insert("Docker-Experimental", HeaderValue::from_static("false"));
        headers.insert("Ostype", HeaderValue::from_static("linux"));
        headers.insert(
            http::header::SERVER,
            HeaderValue::from_static(concat!("Sampan/", env!("CARGO_PKG_VERSION"), " (linux)")),
        );
        response
    }
}

/// A task that is aborted when the request it serves is dropped: the client went away.
struct Abort<T>(tokio::task::JoinHandle<T>);

impl<T> Abort<T> {
    async fn join(mut self) -> Result<T, tokio::task::JoinError> {
        (&mut self.0).await
    }
}

impl<T> Drop for Abort<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn is_transient(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, OutOfMemory, WouldBlock};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | OutOfMemory | WouldBlock)
        || matches!(
            error.raw_os_error().map(nix::errno::Errno::from_raw),
            Some(nix::errno::Errno::EMFILE | nix::errno::Errno::ENFILE | nix::errno::Errno::ENOBUFS)
        )
}
