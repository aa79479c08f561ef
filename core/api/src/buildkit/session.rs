//! Sessions: connections on which the daemon calls, and the client answers.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper::rt::{Read, Write};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use prost::Message;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

use sampan_buildkit::grpc::{Code, Frames, Status, frame};

use crate::routes::archive::receiver;

/// Sessions at once.
const MAX_SESSIONS: usize = 1024;
/// How long a build waits for the session that it names; a client opens both at once.
const OPENING: Duration = Duration::from_secs(20);
/// How often a client of which nothing comes is tried, and how long its answer may take.
const ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(30));

type CallBody = UnsyncBoxBody<Bytes, Infallible>;

/// Those that are open.
#[derive(Debug)]
pub struct Sessions {
    open: Mutex<HashMap<String, Session>>,
    /// Changes with each that is opened.
    opened: watch::Sender<()>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { open: Mutex::default(), opened: watch::Sender::new(()) }
    }
}

/// One client that answers. Clones are of the same connection.
#[derive(Clone, Debug)]
pub struct Session {
    calls: SendRequest<CallBody>,
}

impl Sessions {
    /// Calls on a connection as long as it is open.
    pub async fn serve(&self, id: String, stream: impl Read + Write + Unpin + Send + 'static) {
        let shaken = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(Some(ALIVE.0))
            .keep_alive_timeout(ALIVE.1)
            .max_header_list_size(64 << 10)
            .handshake(stream)
            .await;
        let (calls, connection) = match shaken {
            Ok(shaken) => shaken,
            Err(error) => {
                tracing::debug!(%error, "a session did not begin");
                return;
            }
        };
        {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            // Nobody takes the place of another, and nobody opens them without end.
            if open.len() >= MAX_SESSIONS || open.contains_key(&id) {
                return;
            }
            open.insert(id.clone(), Session { calls });
        }
        self.opened.send_replace(());
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a session ended");
        }
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// A session by its id.
    pub async fn get(&self, id: &str) -> Result<Session, Status> {
        let mut opened = self.opened.subscribe();
        let find = async {
            loop {
                if let Some(found) = self.open.lock().unwrap_or_else(PoisonError::into_inner).get(id) {
                    return found.clone();
                }
                if opened.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let missing = || Status::new(Code::NotFound, format!("no active session for {id}: the client is gone"));
        tokio::time::timeout(OPENING, find).await.map_err(|_| missing())
    }
}

/// The id that a client gives its session.
pub fn id_of(headers: &http::HeaderMap) -> Result<String, Status> {
    let id = headers.get("x-docker-expose-session-uuid").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if id.is_empty() || id.len() > 256 {
        return Err(Status::new(Code::InvalidArgument, "a session needs the header X-Docker-Expose-Session-Uuid"));
    }
    Ok(id.to_owned())
}

/// A header of a call, with one value or several.
pub type Field = (&'static str, Vec<String>);

impl Session {
    /// Begins a call in which both sides send as they like.
    pub fn open(&self, path: &'static str, fields: &[Field]) -> Result<Exchange, Status> {
        let (sender, pieces) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(8);
        let mut request = Request::builder()
            .method(http::Method::POST)
            .uri(format!("http://localhost{path}"))
            .header(http::header::CONTENT_TYPE, "application/grpc")
            .header(http::header::TE, "trailers");
        for (name, values) in fields {
            let (values, encoded) = sampan_buildkit::session::header_values(values);
            for value in values {
                request = request.header(HeaderName::from_static(name), header(&value)?);
            }
            if encoded {
                request = request.header(format!("{name}-encoded"), "1");
            }
        }
        let body = StreamBody::new(receiver(pieces)).boxed_unsync();
        let request = request.body(body).map_err(|error| Status::new(Code::Internal, error.to_string()))?;
        let answer = Box::pin(self.calls.clone().send_request(request));
        Ok(Exchange {
            sender: Some(sender),
            reading: Reading { answer: Some(answer), body: None, frames: Frames::default(), settled: false },
        })
    }

    /// A call with one message and one answer.
    pub async fn call<R: Message + Default>(&self, path: &'static str, message: &impl Message) -> Result<R, Status> {
        let mut exchange = self.open(path, &[])?;
        exchange.send(message).await?;
        exchange.end();
        let answer = exchange.receive().await?;
        let answer = answer.ok_or_else(|| Status::new(Code::Internal, format!("{path}: no answer")))?;
        exchange.rest().await?;
        Ok(answer)
    }
}

fn header(value: &str) -> Result<HeaderValue, Status> {
    HeaderValue::from_str(value).map_err(|_| Status::new(Code::InvalidArgument, format!("{value:?} fits no header")))
}

/// A call under way. Dropped, it is reset.
pub struct Exchange {
    sender: Option<mpsc::Sender<Result<Frame<Bytes>, Infallible>>>,
    reading: Reading,
}

/// The other half of it.
pub struct Reading {
    answer: Option<BoxFuture<'static, hyper::Result<Response<Incoming>>>>,
    body: Option<Incoming>,
    frames: Frames,
    /// The status came with the head of the answer.
    settled: bool,
}

fn lost(error: &hyper::Error) -> Status {
    Status::new(Code::Unavailable, format!("the client is gone: {error}"))
}

impl Exchange {
    /// Sends a message.
    pub async fn send(&mut self, message: &impl Message) -> Result<(), Status> {
        let gone = || Status::new(Code::Unavailable, "the client has ended the call");
        let Some(sender) = &self.sender else { return Err(gone()) };
        sender.send(Ok(Frame::data(frame(message)))).await.map_err(|_| gone())
    }

    /// No message follows.
    pub fn end(&mut self) {
        self.sender = None;
    }

    /// The next message; `None` after the last, when the call went well.
    pub async fn receive<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        self.reading.receive().await
    }

    /// Waits until the call is over.
    pub async fn rest(&mut self) -> Result<(), Status> {
        while self.receive::<sampan_buildkit::session::Nothing>().await?.is_some() {}
        Ok(())
    }

    /// Both halves.
    pub fn split(self) -> (Sending, Reading) {
        (Sending(self.sender), self.reading)
    }
}

/// The half that sends.
pub struct Sending(Option<mpsc::Sender<Result<Frame<Bytes>, Infallible>>>);

impl Sending {
    /// Sends a message; whether there is still someone who takes it.
    pub async fn send(&self, message: &impl Message) -> bool {
        match &self.0 {
            Some(sender) => sender.send(Ok(Frame::data(frame(message)))).await.is_ok(),
            None => false,
        }
    }
}

impl Reading {
    /// The next message; `None` after the last, when the call went well.
    pub async fn receive<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        if let Some(answer) = &mut self.answer {
            let answer = answer.await;
            self.answer = None;
            let answer = answer.map_err(|error| lost(&error))?;
            if answer.headers().contains_key("grpc-status") {
                check(answer.headers())?;
                self.settled = true;
            }
            self.body = Some(answer.into_body());
        }
        loop {
            if let Some(message) = self.frames.take()? {
                return Ok(Some(message));
            }
            let Some(body) = &mut self.body else { return Ok(None) };
            match body.frame().await {
                Some(Ok(piece)) => match piece.into_data() {
                    Ok(data) => self.frames.push(&data),
                    Err(piece) => {
                        self.body = None;
                        self.frames.end()?;
                        if let Some(trailers) = piece.trailers_ref() {
                            check(trailers)?;
                        }
                        return Ok(None);
                    }
                },
                Some(Err(error)) => return Err(lost(&error)),
                None if self.settled => {
                    self.body = None;
                    self.frames.end()?;
                }
                None => return Err(Status::new(Code::Unavailable, "the client ended the call without a status")),
            }
        }
    }
}

fn check(fields: &http::HeaderMap) -> Result<(), Status> {
    Status::check(|name| fields.get(name).and_then(|value| value.to_str().ok()))
}
