//! Answering calls: frames of messages in, frames and trailers out. A call whose client goes is dropped.

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use sampan_buildkit::grpc::{Code, Frames, Status, frame};
use sampan_buildkit::session::{BytesMessage, Nothing};
use sampan_buildkit::{control, gateway};

use super::session::id_of;
use super::{BuildKit, bridge};
use crate::response::Body;

/// Calls at once on a connection; a bake of many targets makes a few for each.
const CALLS: u32 = 1000;
/// How often a connection on which nothing comes is tried, and how long the answer may take.
const ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(30));

/// Serves a connection to its end.
pub async fn connection(kit: BuildKit, stream: Upgraded) {
    let service = service_fn(move |request| {
        let kit = kit.clone();
        async move { Ok::<_, Infallible>(dispatch(kit, request).await) }
    });
    let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(CALLS)
        .max_header_list_size(64 << 10)
        .keep_alive_interval(Some(ALIVE.0))
        .keep_alive_timeout(ALIVE.1)
        .serve_connection(stream, service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection of BuildKit's protocol ended");
    }
}

async fn dispatch(kit: BuildKit, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
    match (service, method) {
        (control::SERVICE, "Info") => unary(request, async |_: Nothing| Ok(kit.info())).await,
        (control::SERVICE, "ListWorkers") => unary(request, async |_: Nothing| Ok(kit.workers())).await,
        (control::SERVICE, "DiskUsage") => unary(request, async |asked| kit.disk_usage(asked).await).await,
        (control::SERVICE, "Prune") => match one(request).await {
            Ok(asked) => match kit.prune(asked).await {
                Ok(records) => streamed(stream::iter(records.into_iter().map(Ok))),
                Err(status) => refused(&status),
            },
            Err(status) => refused(&status),
        },
        (control::SERVICE, "Solve") => unary(request, async |asked| kit.solve(asked).await.map_err(plain)).await,
        (control::SERVICE, "Session") => tunnel(&kit, request),
        (control::SERVICE, "Status") => match one::<control::StatusRequest>(request).await {
            Ok(asked) => kit.follow(&asked.reference).map_or_else(|status| refused(&status), streamed),
            Err(status) => refused(&status),
        },
        (control::SERVICE, "ListenBuildHistory" | "UpdateBuildHistory") => refused(&Status::unimplemented(
            "no history of builds is kept here; their log is what `docker build --progress=plain` prints",
        )),
        (gateway::SERVICE, method) => {
            let id = request.headers().get(gateway::BUILD_ID).and_then(|value| value.to_str().ok());
            let id = id.unwrap_or_default().to_owned();
            match method {
                "Ping" => unary(request, async |_: Nothing| kit.bridge(&id).await.map(|_| bridge::pong(&kit))).await,
                "Solve" => {
                    unary(request, async |asked| kit.bridge(&id).await?.solve(&kit, asked).await.map_err(plain)).await
                }
                "Return" => unary(request, async |asked| kit.bridge(&id).await?.returned(asked)).await,
                // What was asked to be built is built by the time that it is named.
                "Evaluate" | "Warn" => unary(request, async |_: Nothing| Ok(Nothing {})).await,
                _ => refused(&bridge::no_graphs(method)),
            }
        }
        // Measurements of the client's own.
        ("opentelemetry.proto.collector.trace.v1.TraceService", "Export") => {
            unary(request, async |_: Nothing| Ok(Nothing {})).await
        }
        _ => refused(&Status::unimplemented(format!("unknown service or method {path}"))),
    }
}

/// A failed build's status without a class, which clients would put before its text.
fn plain(status: Status) -> Status {
    let code = if status.code == Code::Canceled as i32 { status.code } else { Code::Unknown as i32 };
    Status { code, ..status }
}

/// A session within the connection: the client's end of it speaks in messages of bytes.
fn tunnel(kit: &BuildKit, request: Request<Incoming>) -> Response<Body> {
    let id = match id_of(request.headers()) {
        Ok(id) => id,
        Err(status) => return refused(&status),
    };
    let (near, far) = tokio::io::duplex(256 << 10);
    let (from, mut to) = tokio::io::split(far);
    let mut body = request.into_body();
    tokio::spawn(async move {
        let mut frames = Frames::default();
        loop {
            match frames.take::<BytesMessage>() {
                Ok(Some(message)) => {
                    if to.write_all(&message.data).await.is_err() {
                        return;
                    }
                }
                Ok(None) => match body.frame().await {
                    Some(Ok(piece)) => frames.push(piece.data_ref().map_or(&[][..], |data| data)),
                    _ => break,
                },
                Err(_) => break,
            }
        }
        let _ = to.shutdown().await;
    });
    let sessions = Arc::clone(&kit.sessions);
    tokio::spawn(async move { sessions.serve(id, TokioIo::new(near)).await });
    streamed(stream::unfold(from, |mut from| async move {
        let mut buffer = BytesMut::with_capacity(32 << 10);
        match from.read_buf(&mut buffer).await {
            Ok(1..) => Some((Ok(BytesMessage { data: buffer.freeze() }), from)),
            _ => None,
        }
    }))
}

/// Reads the one message of a call.
async fn one<M: Message + Default>(request: Request<Incoming>) -> Result<M, Status> {
    let mut body = request.into_body();
    let mut frames = Frames::default();
    loop {
        if let Some(message) = frames.take()? {
            return Ok(message);
        }
        match body.frame().await {
            Some(Ok(piece)) => frames.push(piece.data_ref().map_or(&[][..], |data| data)),
            Some(Err(error)) => return Err(Status::new(Code::Canceled, format!("the call ended early: {error}"))),
            None => return Err(Status::new(Code::Internal, "the call has no message")),
        }
    }
}

/// One message in, one out.
async fn unary<Q: Message + Default, R: Message>(
    request: Request<Incoming>,
    handle: impl AsyncFnOnce(Q) -> Result<R, Status>,
) -> Response<Body> {
    let answer = match one(request).await {
        Ok(asked) => handle(asked).await,
        Err(status) => Err(status),
    };
    match answer {
        Ok(answer) => whole(vec![Ok(Frame::data(frame(&answer))), Ok(Frame::trailers(trailers(&Status::default())))]),
        Err(status) => refused(&status),
    }
}

fn trailers(status: &Status) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in status.trailers() {
        if let Ok(value) = HeaderValue::from_str(&value) {
            map.insert(HeaderName::from_static(name), value);
        }
    }
    map
}

fn refused(status: &Status) -> Response<Body> {
    tracing::debug!(code = status.code, message = status.message, "a call of BuildKit's protocol failed");
    whole(vec![Ok(Frame::trailers(trailers(status)))])
}

fn whole(frames: Vec<io::Result<Frame<Bytes>>>) -> Response<Body> {
    response(StreamBody::new(stream::iter(frames)).boxed_unsync())
}

fn response(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// Messages as they come, then how it ended.
fn streamed<R: Message + 'static>(
    messages: impl futures_util::Stream<Item = Result<R, Status>> + Send + 'static,
) -> Response<Body> {
    use futures_util::StreamExt;
    let (sender, receiver) = mpsc::channel::<io::Result<Frame<Bytes>>>(1);
    tokio::spawn(async move {
        let mut messages = std::pin::pin!(messages);
        let mut last = Status::default();
        loop {
            let message = tokio::select! {
                message = messages.next() => message,
                () = sender.closed() => return,
            };
            match message {
                Some(Ok(message)) => {
                    if sender.send(Ok(Frame::data(frame(&message)))).await.is_err() {
                        return;
                    }
                }
                Some(Err(status)) => {
                    last = status;
                    break;
                }
                None => break,
            }
        }
        let _ = sender.send(Ok(Frame::trailers(trailers(&last)))).await;
    });
    response(StreamBody::new(crate::routes::archive::receiver(receiver)).boxed_unsync())
}
