//! The daemon's end of a shim.
//!
//! One task reads what comes: answers go to whoever waits for their number, events to [`ShimEvents`]. Requests are sent
//! by their callers; the socket keeps their order.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sampan_shim_protocol::{Connected, Connection, Event, ExecRequest, Message, Packet, Reply, Request, StartFailure};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use super::{readiness, shim_program};
use crate::error::{Error, Result};

/// How long a shim may take for an ordinary answer.
const ANSWER: Duration = Duration::from_secs(20);
/// The same for a process that is started inside: it may have to wait for a slow file system.
const EXEC_ANSWER: Duration = Duration::from_secs(120);

/// A connected shim. Clones share the connection, which ends with the last of them.
#[derive(Debug, Clone)]
pub(crate) struct Shim {
    handle: Arc<Handle>,
}

/// What the shim says by itself, in order; ends when the shim is gone.
pub(crate) type ShimEvents = mpsc::UnboundedReceiver<Event>;

type Answer = (Reply, Vec<OwnedFd>);

#[derive(Debug)]
struct Handle {
    link: Arc<Link>,
    reader: AbortHandle,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

#[derive(Debug)]
struct Link {
    connection: AsyncFd<Connection>,
    next: AtomicU64,
    /// Those who wait for an answer; `None` when none will come any more.
    waiting: Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>,
}

impl Link {
    fn waiting(&self) -> MutexGuard<'_, Option<HashMap<u64, oneshot::Sender<Answer>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, packet: &Packet) -> io::Result<()> {
        loop {
            let mut ready = self.connection.writable().await?;
            match ready.try_io(|connection| connection.get_ref().send(packet, &[])) {
                Ok(sent) => return sent,
                Err(_) => continue,
            }
        }
    }

    async fn receive(&self) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
        loop {
            let mut ready = self.connection.readable().await?;
            match ready.try_io(|connection| connection.get_ref().receive()) {
                Ok(received) => return received,
                Err(_) => continue,
            }
        }
    }

    async fn read(&self, events: mpsc::UnboundedSender<Event>) {
        loop {
            match self.receive().await {
                Ok(Some((Message::Reply { seq, reply }, descriptors))) => {
                    let waiter = self.waiting().as_mut().and_then(|waiting| waiting.remove(&seq));
                    // Whoever gave up waiting leaves its descriptors to be closed here.
                    if let Some(waiter) = waiter {
                        let _ = waiter.send((reply, descriptors));
                    }
                }
                Ok(Some((Message::Event(event), _))) => {
                    // Nobody listening is no reason to stop reading answers.
                    let _ = events.send(event);
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, "the connection to a shim broke");
                    break;
                }
            }
        }
        *self.waiting() = None;
    }
}

impl Shim {
    /// Starts a shim for a bundle whose files are written. `Started` or `StartFailed` is its first event.
    pub(crate) async fn launch(program: &Path, bundle: &Path) -> Result<(Self, ShimEvents)> {
        let (program, bundle) = (program.to_owned(), bundle.to_owned());
        let (connection, pid) = crate::blocking(move || {
            let program = shim_program::prepare(&program)
                .map_err(|error| Error::internal(format!("prepare the shim {}: {error}", program.display())))?;
            let start = || -> io::Result<_> {
                let (connection, theirs) = Connection::pair()?;
                let pid = shim_program::spawn(&program, theirs.as_fd(), &bundle)?;
                Ok((connection, pid))
            };
            start().map_err(|error| Error::internal(format!("start the shim: {error}")))
        })
        .await?;
        shim_program::reap(pid);
        Self::over(connection)
    }

    /// Connects to the shim of a bundle that runs already. Fails when there is none.
    pub(crate) async fn adopt(bundle: &Path) -> Result<(Self, ShimEvents)> {
        let bundle = bundle.to_owned();
        let connection = crate::blocking(move || {
            Connection::open(&bundle)
                .map_err(|error| Error::not_found(format!("no shim answers in {}: {error}", bundle.display())))
        })
        .await?;
        Self::over(connection)
    }

    fn over(connection: Connection) -> Result<(Self, ShimEvents)> {
        let connection = readiness::of_connection(connection)
            .map_err(|error| Error::internal(format!("watch the shim's connection: {error}")))?;
        let link = Arc::new(Link { connection, next: AtomicU64::new(1), waiting: Mutex::new(Some(HashMap::new())) });
        let (sender, events) = mpsc::unbounded_channel();
        let reading = Arc::clone(&link);
        let reader = tokio::spawn(async move { reading.read(sender).await }).abort_handle();
        Ok((Self { handle: Arc::new(Handle { link, reader }) }, events))
    }

    /// Whether no answer will come any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.handle.link.waiting().is_none()
    }

    /// Sends a request and waits for its answer.
    async fn ask(&self, what: &str, request: Request, limit: Duration) -> Result<Answer> {
        let link = &self.handle.link;
        let seq = link.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        let gone = || Error::unavailable(format!("{what}: the container's shim is gone"));
        match link.waiting().as_mut() {
            Some(waiting) => waiting.insert(seq, sender),
            None => return Err(gone()),
        };
        let asked = async {
            link.send(&Packet { seq, request })
                .await
                .map_err(|error| Error::unavailable(format!("{what}: {error}")))?;
            answer.await.map_err(|_| gone())
        };
        let result = tokio::time::timeout(limit, asked).await.unwrap_or_else(|_| {
            Err(Error::unavailable(format!("{what}: the container's shim did not answer in {} s", limit.as_secs())))
        });
        if result.is_err()
            && let Some(waiting) = link.waiting().as_mut()
        {
            waiting.remove(&seq);
        }
        result
    }

    /// Asks for something that is either done or not.
    async fn order(&self, what: &str, request: Request) -> Result<()> {
        match self.ask(what, request, ANSWER).await?.0 {
            Reply::Done => Ok(()),
            Reply::Failed(cause) => Err(Error::internal(format!("{what}: {cause}"))),
            other => Err(unexpected(what, &other)),
        }
    }

    /// Takes the output over: descriptors of stdout, stderr (unless a terminal) and stdin's writing end (if open).
    pub(crate) async fn connect(&self) -> Result<(Connected, Vec<OwnedFd>)> {
        let what = "take over the container's output";
        match self.ask(what, Request::Connect, ANSWER).await? {
            (Reply::Connected(connected), descriptors) => Ok((*connected, descriptors)),
            (Reply::Failed(cause), _) => Err(Error::internal(format!("{what}: {cause}"))),
            (other, _) => Err(unexpected(what, &other)),
        }
    }

    /// Says that the log has these bytes of a stream.
    pub(crate) async fn consumed(&self, stream: usize, bytes: u64, next_time: u64) -> Result<()> {
        self.order("take note of what was logged", Request::Consumed { stream, bytes, next_time }).await
    }

    /// Signals process 1, or every process. A process that has ended already is not found.
    pub(crate) async fn kill(&self, signal: i32, all: bool) -> Result<()> {
        self.order("signal the container", Request::Kill { signal, all }).await
    }

    /// Sets a terminal's size.
    pub(crate) async fn resize(&self, exec: Option<&str>, rows: u16, columns: u16) -> Result<()> {
        let request = Request::Resize { exec: exec.map(ToOwned::to_owned), rows, columns };
        self.order("resize the terminal", request).await
    }

    /// Ends the input.
    pub(crate) async fn close_stdin(&self) -> Result<()> {
        self.order("end the container's input", Request::CloseStdin).await
    }

    /// Runs another process: its pid and the descriptors as asked.
    pub(crate) async fn exec(
        &self,
        request: ExecRequest,
    ) -> Result<std::result::Result<(i32, Vec<OwnedFd>), StartFailure>> {
        let what = "exec";
        match self.ask(what, Request::Exec(Box::new(request)), EXEC_ANSWER).await? {
            (Reply::ExecStarted { pid }, descriptors) => Ok(Ok((pid, descriptors))),
            (Reply::ExecFailed(failure), _) => Ok(Err(failure)),
            (Reply::Failed(cause), _) => Err(Error::internal(format!("{what}: {cause}"))),
            (other, _) => Err(unexpected(what, &other)),
        }
    }

    /// Signals an exec's process.
    pub(crate) async fn kill_exec(&self, exec: &str, signal: i32) -> Result<()> {
        self.order("signal the exec", Request::KillExec { id: exec.to_owned(), signal }).await
    }

    /// The end was taken note of: the shim may leave.
    pub(crate) async fn shutdown(&self) -> Result<()> {
        self.order("let the shim go", Request::Shutdown).await
    }
}

fn unexpected(what: &str, reply: &Reply) -> Error {
    Error::internal(format!("{what}: the shim answered something else: {reply:?}"))
}
