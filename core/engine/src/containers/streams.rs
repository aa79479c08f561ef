//! What goes in and out of a container while it lives: to its log, and to those attached.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sampan_drivers::{LogDriver, Query, Source};
use sampan_shim_protocol::Connected;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use super::framing;
use super::keeper::{self, Keeper, LogTarget};
use super::link::Shim;
use super::pump::{self, Position, Pump};
use super::record::ContainerRecord;
use super::{readiness, spool};
use crate::Shared;
use crate::error::{Error, Result};

/// Pieces that wait for an attached client.
const QUEUE: usize = 64;
/// The largest piece, in bytes.
const PIECE: usize = 64 << 10;
/// How long a client that takes nothing is waited for: alone, and beside others, who wait with it.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(2));

/// Which output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputStream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Which.
    pub stream: OutputStream,
    /// What.
    pub bytes: Bytes,
}

/// A client attached to a container or an exec.
#[derive(Debug)]
pub struct Attached {
    /// Whether it is a terminal.
    pub tty: bool,
    /// The input, when wanted and open.
    pub stdin: Option<StdinWriter>,
    /// Ends when the process has ended and all was told.
    pub output: mpsc::Receiver<Output>,
}

/// A pipe to a process's input.
pub(super) type InputPipe = Arc<AsyncFd<OwnedFd>>;

/// Where a container's input stands.
#[derive(Debug, Clone, Default)]
enum Input {
    /// The container does not run.
    #[default]
    Waiting,
    /// It runs and reads.
    Open(InputPipe, Shim),
    /// It runs without input, or its input was ended.
    Closed,
}

/// The way to a process's input. Dropping it leaves the input open for others.
#[derive(Debug)]
pub struct StdinWriter {
    target: InputTarget,
}

#[derive(Debug)]
enum InputTarget {
    /// Of a container, over its starts; whether the end of the writer's is the end of the container's.
    Container { audience: Arc<Audience>, once: bool },
    /// Of an exec.
    Pipe(InputPipe),
}

impl StdinWriter {
    /// Of a process with its own pipe.
    pub(super) fn over(pipe: OwnedFd) -> std::io::Result<Self> {
        Ok(Self { target: InputTarget::Pipe(input_pipe(pipe)?) })
    }

    /// Leaves a container's input open when this writer ends.
    pub(super) fn keep_open(mut self) -> Self {
        if let InputTarget::Container { once, .. } = &mut self.target {
            *once = false;
        }
        self
    }

    /// Writes all of it; fails when the process has closed its input. Waits until a container that was not started yet is.
    pub async fn write(&mut self, bytes: Bytes) -> std::io::Result<()> {
        let pipe = match &self.target {
            InputTarget::Pipe(pipe) => Arc::clone(pipe),
            InputTarget::Container { audience, .. } => {
                let mut input = audience.input.subscribe();
                let open = input.wait_for(|input| !matches!(input, Input::Waiting)).await;
                match open.map_err(|_| std::io::ErrorKind::BrokenPipe)?.clone() {
                    Input::Open(pipe, _) => pipe,
                    Input::Waiting | Input::Closed => return Err(std::io::ErrorKind::BrokenPipe.into()),
                }
            }
        };
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let mut ready = pipe.writable().await?;
            let written =
                ready.try_io(|pipe| nix::unistd::write(pipe.get_ref().as_fd(), rest).map_err(std::io::Error::from));
            match written {
                Ok(Ok(written)) => rest = &rest[written..],
                Ok(Err(error)) => return Err(error),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Ends the input.
    pub async fn close(self) {
        let InputTarget::Container { audience, once: true } = self.target else { return };
        let mut input = audience.input.subscribe();
        let open = match input.wait_for(|input| !matches!(input, Input::Waiting)).await {
            Ok(input) => input.clone(),
            Err(_) => return,
        };
        if let Input::Open(pipe, shim) = open {
            audience.input.send_replace(Input::Closed);
            drop(pipe);
            if let Err(error) = shim.close_stdin().await {
                tracing::debug!(%error, "the input was not ended");
            }
        }
    }
}

fn input_pipe(pipe: OwnedFd) -> std::io::Result<InputPipe> {
    readiness::of_pipe(pipe, Interest::WRITABLE).map(Arc::new)
}

/// How far a container's log has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Grows with every batch.
    pub batches: u64,
    /// Whether output may still come in this start.
    pub serving: bool,
}

/// Who listens to a container, and where its input goes; over all its starts.
#[derive(Debug, Default)]
pub(super) struct Audience {
    listeners: Mutex<Vec<mpsc::Sender<Output>>>,
    input: watch::Sender<Input>,
    progress: watch::Sender<Progress>,
    /// Told that the container has ended, for the pump of the present start.
    ending: Mutex<Option<watch::Sender<bool>>>,
    /// Of the present start.
    keeper: Mutex<Option<Keeper>>,
}

impl Audience {
    fn listeners(&self) -> Vec<mpsc::Sender<Output>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives output to everyone attached. Blocks while a client is full, and leaves it behind when that takes too long.
    pub(super) fn tell(&self, stream: OutputStream, bytes: &[u8], runtime: &Handle) {
        let listeners = self.listeners();
        if listeners.is_empty() {
            return;
        }
        let patience = if listeners.len() == 1 { PATIENCE.0 } else { PATIENCE.1 };
        for piece in bytes.chunks(PIECE) {
            let output = Output { stream, bytes: Bytes::copy_from_slice(piece) };
            for listener in &listeners {
                if let Err(mpsc::error::TrySendError::Full(output)) = listener.try_send(output.clone()) {
                    let waited = runtime.block_on(tokio::time::timeout(patience, listener.send(output)));
                    if waited.is_err() {
                        tracing::warn!("an attached client takes nothing and is left behind");
                        self.leave(listener);
                    }
                }
            }
        }
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).retain(|listener| !listener.is_closed());
    }

    fn leave(&self, left: &mpsc::Sender<Output>) {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| !listener.same_channel(left));
    }

    /// Says that the log has grown.
    pub(super) fn grown(&self) {
        self.progress.send_modify(|progress| progress.batches += 1);
    }
}

/// Joins a container to those attached, over all its starts. Made with the container, kept as long as it.
/// Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hub {
    audience: Arc<Audience>,
}

impl Hub {
    /// What is written from now on; may be asked for before the container starts. Ends with the container.
    pub(crate) fn subscribe(&self) -> mpsc::Receiver<Output> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        self.audience.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        receiver
    }

    /// The input of this start or the next.
    pub(crate) fn stdin(&self) -> StdinWriter {
        StdinWriter { target: InputTarget::Container { audience: Arc::clone(&self.audience), once: true } }
    }

    /// Follows how far the log has come.
    pub(super) fn progress(&self) -> watch::Receiver<Progress> {
        self.audience.progress.subscribe()
    }

    /// Serves a start: opens the log driver's sink, drains the spool, and moves output to log and subscribers until its
    /// end. Call it after [`Shim::connect`].
    pub(crate) async fn serve(
        &self,
        shared: &Arc<Shared>,
        record: &ContainerRecord,
        shim: &Shim,
        connected: Connected,
        descriptors: Vec<OwnedFd>,
    ) -> Result<()> {
        let log = Log::of(shared, record)?;
        let bundle = shared.config.bundle(&record.id);
        let backlog = shared.config.container_dir(&record.id).join("backlog");
        let opener = log.clone();
        let open: keeper::Open = Box::new(move || Ok(Box::new(opener.sink()?) as Box<dyn LogTarget>));
        let wiring = Wiring { bundle, backlog, open, ahead: Box::new(move |since| log.since(since)) };
        self.wire(&record.id, wiring, shim, connected, descriptors).await
    }

    /// The log has other options from now on: what a start that goes on writes is written so.
    pub(super) async fn reopen(&self, shared: &Arc<Shared>, record: &ContainerRecord) -> Result<()> {
        let log = Log::of(shared, record)?;
        let keeper = self.audience.keeper.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(keeper) = keeper else { return Ok(()) };
        let open: keeper::Open = Box::new(move || Ok(Box::new(log.sink()?) as Box<dyn LogTarget>));
        crate::blocking(move || keeper.reopen(open)).await
    }

    /// [`Hub::serve`] with a log of any kind.
    pub(super) async fn wire(
        &self,
        id: &str,
        wiring: Wiring,
        shim: &Shim,
        connected: Connected,
        mut descriptors: Vec<OwnedFd>,
    ) -> Result<()> {
        let broken = |error: std::io::Error| Error::internal(format!("connect the container's output: {error}"));
        let input = match connected.stdin.then(|| descriptors.pop()).flatten() {
            Some(pipe) => Input::Open(input_pipe(pipe).map_err(broken)?, shim.clone()),
            None => Input::Closed,
        };
        let (audience, shim, id) = (Arc::clone(&self.audience), shim.clone(), id.to_owned());
        let runtime = Handle::current();
        let fresh = connected.next_time == [0; 2] && connected.spooled == 0;
        let mut pump = crate::blocking(move || {
            let taken = spool::take(&wiring.bundle, connected.next_time).map_err(broken)?;
            let since = taken.first().map_or(connected.next_time, |oldest| oldest.since);
            // Opened first: it mends what a crash left.
            let keeper = Keeper::open(&id, wiring.open, wiring.backlog, keeper::LIMIT, fresh, &runtime)?;
            *audience.keeper.lock().unwrap_or_else(PoisonError::into_inner) = Some(keeper.clone());
            let mut position = Position { time: since[0].max(since[1]), ahead: [0; 2] };
            if since != [0; 2] {
                let (time, ahead) = (wiring.ahead)(since);
                position = Position { time: position.time.max(time), ahead };
            }
            let mut pump = Pump::new(descriptors, shim, keeper, audience, position).map_err(broken)?;
            pump::drain_all(&mut pump, taken, &wiring.bundle, &runtime);
            pump::note_dropped(&mut pump, &connected, &runtime);
            Ok(pump)
        })
        .await?;
        if fresh {
            pump.announce().await;
        }
        let (end, ended) = watch::channel(false);
        *self.audience.ending.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
        self.audience.progress.send_modify(|progress| progress.serving = true);
        self.audience.input.send_replace(input);
        let audience = Arc::clone(&self.audience);
        tokio::spawn(async move {
            pump.run(ended).await;
            *audience.keeper.lock().unwrap_or_else(PoisonError::into_inner) = None;
            audience.input.send_replace(Input::Waiting);
            audience.listeners.lock().unwrap_or_else(PoisonError::into_inner).clear();
            audience.progress.send_modify(|progress| progress.serving = false);
        });
        Ok(())
    }

    /// After the container's end: returns when all of its output has reached the log and the subscribers, and ends them.
    pub(crate) async fn finish(&self) {
        let mut progress = self.progress();
        let end = self.audience.ending.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(end) = end {
            end.send_replace(true);
            let _ = progress.wait_for(|progress| !progress.serving).await;
        }
        // Those of a start that failed before it was served.
        self.audience.listeners.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// What a start is served with.
pub(super) struct Wiring {
    pub bundle: std::path::PathBuf,
    pub backlog: std::path::PathBuf,
    pub open: keeper::Open,
    /// The latest time in the log and how many records it has from given times on, for each stream.
    pub ahead: Box<dyn FnOnce([u64; 2]) -> (u64, [u64; 2]) + Send>,
}

/// A container's log, as its driver keeps it. Calls block.
#[derive(Debug, Clone)]
pub(super) struct Log {
    driver: LogDriver,
    source: Source,
    directory: std::path::PathBuf,
}

impl Log {
    /// The log of a container, whether it runs or not.
    pub(super) fn of(shared: &Shared, record: &ContainerRecord) -> Result<Self> {
        let sorted = |map: &HashMap<String, String>| {
            let mut pairs: Vec<_> = map.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
            pairs.sort();
            pairs
        };
        let source = Source {
            container: sampan_drivers::Object { id: record.id.clone(), name: record.name.clone() },
            image: record.config.image.clone().unwrap_or_default(),
            labels: record.config.labels.as_ref().map(sorted).unwrap_or_default(),
            environment: record.config.env.clone().unwrap_or_default(),
            options: sorted(&record.log_options),
        };
        let driver = shared.drivers.log(&record.log_driver)?;
        Ok(Self { driver, source, directory: shared.config.container_dir(&record.id).join("log") })
    }

    fn sink(&self) -> Result<sampan_drivers::LogSink> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().recursive(true).mode(0o710).create(&self.directory).map_err(|error| {
            Error::internal(format!("create the log directory {}: {error}", self.directory.display()))
        })?;
        self.driver
            .open(&self.source, &self.directory)
            .map_err(|error| Error::from(error).context("failed to initialize logging driver"))
    }

    /// Reads it back.
    pub(super) fn read(&self, query: Query) -> Result<sampan_drivers::LogCursor> {
        if !self.driver.readable()? {
            return Err(Error::unsupported("configured logging driver does not support reading"));
        }
        Ok(self.driver.read(&self.source, &self.directory, query)?)
    }

    fn since(&self, since: [u64; 2]) -> (u64, [u64; 2]) {
        let (mut latest, mut records) = (0, [0; 2]);
        let from = since.into_iter().filter(|time| *time > 0).min();
        let Ok(mut cursor) = self.read(Query { since: from, until: None, tail: None }) else {
            return (latest, records);
        };
        while let Ok(framed) = cursor.next() {
            if framed.is_empty() {
                break;
            }
            for frame in framing::frames(&framed) {
                latest = latest.max(frame.time);
                let stream = usize::from(frame.stream == OutputStream::Stderr);
                if since[stream] > 0 && frame.time >= since[stream] {
                    records[stream] += 1;
                }
            }
        }
        (latest, records)
    }
}
