//! Moves a container's output from its pipes to its log and to those attached.
//!
//! A task waits until there is something; a burst on a thread that may block then looks, tells, logs and acknowledges until
//! the pipes are dry. A container that writes nothing has no thread and no buffer.
//!
//! Nothing is taken out of a pipe before the log has it (see `sampan-shim-protocol`), lines that are not whole least of
//! all; those attached see them at once all the same.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use sampan_shim_protocol::Connected;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::bench::{self, Bench};
use super::framing::{self, Tail};
use super::keeper::Keeper;
use super::link::Shim;
use super::spool::Taken;
use super::streams::Audience;
use super::{OutputStream, readiness};
use crate::events::now_ns;

/// How long after a container's end a pipe that somebody holds open is waited for.
const LINGER: Duration = Duration::from_millis(500);
/// How long the log driver may take for the rest after a container's end.
const SETTLE: Duration = Duration::from_secs(3);

/// An output of the container.
struct Source {
    number: usize,
    reader: AsyncFd<OwnedFd>,
    /// Bytes at the front of the pipe that those attached have seen already.
    told: usize,
    /// Records that the log has already.
    skip: u64,
    ended: bool,
}

/// See the module.
pub(super) struct Pump {
    sources: Vec<Source>,
    shim: Shim,
    keeper: Keeper,
    audience: Arc<Audience>,
    /// Time of the last record.
    time: u64,
    /// The shim is gone, so that bytes are ours to take.
    orphaned: bool,
}

/// Where the log stands when a container is taken over.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Position {
    /// No record may have an earlier time.
    pub time: u64,
    /// Records of each stream that the log has beyond what was acknowledged.
    pub ahead: [u64; 2],
}

impl Pump {
    pub(super) fn new(
        readers: Vec<OwnedFd>,
        shim: Shim,
        keeper: Keeper,
        audience: Arc<Audience>,
        position: Position,
    ) -> io::Result<Self> {
        let mut sources = Vec::new();
        for (number, reader) in readers.into_iter().enumerate() {
            let reader = readiness::of_pipe(reader, Interest::READABLE)?;
            let skip = position.ahead.get(number).copied().unwrap_or(0);
            sources.push(Source { number, reader, told: 0, skip, ended: false });
        }
        Ok(Self { sources, shim, keeper, audience, time: position.time, orphaned: false })
    }

    /// A time for the next records: never one that was there before.
    fn tick(&mut self, wanted: u64) -> u64 {
        self.time = wanted.max(self.time + 1);
        self.time
    }

    /// Tells the shim from when on records will be, so that a later daemon can tell what of the log was not acknowledged.
    pub(super) async fn announce(&mut self) {
        let next = self.tick(now_ns()) + 1;
        for number in 0..self.sources.len() {
            if let Err(error) = self.shim.consumed(number, 0, next).await {
                tracing::warn!(%error, "the shim was not told when the log begins");
            }
        }
        self.time = next;
    }

    /// Puts what a shim kept into the log. Blocks.
    pub(super) fn drain(&mut self, spool: &Taken, runtime: &Handle) -> io::Result<()> {
        let mut rest: [Vec<u8>; 2] = [Vec::new(), Vec::new()];
        let mut frames = Vec::new();
        let mut last = 0;
        for (time, stream, bytes) in spool.pieces()? {
            last = time;
            self.audience.tell(stream_of(stream), &bytes, runtime);
            let waiting = &mut rest[stream];
            waiting.extend_from_slice(&bytes);
            let used = self.log(waiting, stream, time, Tail::Wait, &mut frames, runtime);
            rest[stream].drain(..used);
        }
        for (stream, waiting) in rest.iter().enumerate() {
            // The line goes on in the pipe.
            self.log(waiting, stream, last, Tail::Part, &mut frames, runtime);
        }
        Ok(())
    }

    /// Gives the log what can be cut off the front of `bytes`, and says how much that was.
    fn log(
        &mut self,
        bytes: &[u8],
        stream: usize,
        wanted: u64,
        tail: Tail,
        frames: &mut Vec<u8>,
        runtime: &Handle,
    ) -> usize {
        let mut used = 0;
        let mut time = 0;
        loop {
            let mut skip = self.sources.get(stream).map_or(0, |source| source.skip);
            if time == 0 && !bytes.is_empty() {
                time = self.tick(wanted);
            }
            frames.clear();
            let cut = framing::cut(&bytes[used..], stream, time, tail, &mut skip, frames);
            if let Some(source) = self.sources.get_mut(stream) {
                source.skip = skip;
            }
            if !frames.is_empty() {
                self.keeper.keep(frames, runtime);
            }
            used += cut.bytes;
            if cut.records == 0 || used == bytes.len() {
                return used;
            }
        }
    }

    /// Looks at one output; whether anything was moved.
    fn turn(&mut self, at: usize, closing: bool, bench: &mut Bench, runtime: &Handle) -> io::Result<bool> {
        let source = &self.sources[at];
        let (number, told) = (source.number, source.told);
        let seen = bench.look(source.reader.get_ref().as_fd())?;
        let (looked, frames) = bench.parts();
        let bytes = &looked[..seen.bytes];
        if bytes.len() > told {
            self.audience.tell(stream_of(number), &bytes[told..], runtime);
        }
        let tail = if seen.last || closing { Tail::Line } else { Tail::Wait };
        let used = self.log(bytes, number, now_ns(), tail, frames, runtime);
        let source = &mut self.sources[at];
        source.told = bytes.len() - used;
        source.ended |= seen.last && used == bytes.len();
        if used == 0 {
            return Ok(false);
        }
        self.acknowledge(at, used as u64, runtime)?;
        self.audience.grown();
        Ok(true)
    }

    fn acknowledge(&mut self, at: usize, bytes: u64, runtime: &Handle) -> io::Result<()> {
        let next = self.time + 1;
        if !self.orphaned {
            match runtime.block_on(self.shim.consumed(self.sources[at].number, bytes, next)) {
                Ok(()) => return Ok(()),
                Err(_) if self.shim.is_gone() => self.orphaned = true,
                Err(error) => return Err(io::Error::other(error.message)),
            }
        }
        bench::discard(self.sources[at].reader.get_ref().as_fd(), bytes)
    }

    /// Moves everything that is there. Blocks.
    fn burst(&mut self, closing: bool, runtime: &Handle) -> io::Result<()> {
        Bench::with(|bench| {
            let mut moved = true;
            while moved {
                moved = false;
                for at in 0..self.sources.len() {
                    if !self.sources[at].ended {
                        moved |= self.turn(at, closing, bench, runtime)?;
                    }
                }
            }
            Ok(())
        })
    }

    /// Waits until an output may have more, or has ended.
    async fn ready(&mut self) {
        let sources = &self.sources;
        std::future::poll_fn(|context| {
            let mut outcome = Poll::Pending;
            for source in sources.iter().filter(|source| !source.ended) {
                match source.reader.poll_read_ready(context) {
                    Poll::Ready(Ok(mut ready)) => {
                        // Before looking, so that what comes meanwhile counts.
                        ready.clear_ready();
                        outcome = Poll::Ready(());
                    }
                    Poll::Ready(Err(_)) => outcome = Poll::Ready(()),
                    Poll::Pending => {}
                }
            }
            outcome
        })
        .await;
    }

    /// Serves until `end` says that the container has ended and everything was told.
    pub(super) async fn run(mut self, mut end: watch::Receiver<bool>) {
        let runtime = Handle::current();
        let mut deadline = None;
        loop {
            let closing = deadline.is_some_and(|deadline| tokio::time::Instant::now() >= deadline);
            let handle = runtime.clone();
            let worked = tokio::task::spawn_blocking(move || {
                let outcome = self.burst(closing, &handle);
                (self, outcome)
            })
            .await;
            let Ok((returned, outcome)) = worked else { return };
            self = returned;
            if let Err(error) = outcome {
                tracing::error!(%error, "a container's output is not followed any more");
                break;
            }
            let ended = self.sources.iter().all(|source| source.ended);
            if closing || (ended && deadline.is_some()) {
                break;
            }
            match deadline {
                Some(deadline) => drop(tokio::time::timeout_at(deadline, self.ready()).await),
                None => tokio::select! {
                    () = self.ready(), if !ended => {}
                    _ = end.wait_for(|ended| *ended) => deadline = Some(tokio::time::Instant::now() + LINGER),
                },
            }
        }
        let _ = end.wait_for(|ended| *ended).await;
        self.keeper.settle(SETTLE).await;
    }
}

/// Drains what shims kept, oldest first, and then acknowledges it. Blocks.
pub(super) fn drain_all(pump: &mut Pump, taken: Vec<Taken>, bundle: &Path, runtime: &Handle) {
    if taken.is_empty() {
        return;
    }
    for spool in &taken {
        if let Err(error) = pump.drain(spool, runtime) {
            tracing::error!(bundle = %bundle.display(), %error, "output that was kept could not be read");
        }
    }
    // In this order: a daemon that dies in between passes over all of it by the times in the files' names.
    runtime.block_on(pump.announce());
    taken.into_iter().for_each(Taken::remove);
}

fn stream_of(number: usize) -> OutputStream {
    if number == 1 { OutputStream::Stderr } else { OutputStream::Stdout }
}

/// Who is told of what a shim dropped: a record of its own.
pub(super) fn note_dropped(pump: &mut Pump, connected: &Connected, runtime: &Handle) {
    if connected.dropped == 0 {
        return;
    }
    let text = format!(
        "sampan: {} bytes of output were dropped here: no daemon was there to take them, and the spool was full\n",
        connected.dropped
    );
    let (time, mut frames) = (now_ns(), Vec::new());
    let time = pump.tick(time);
    framing::put(&mut frames, time, 1, false, text.trim_end().as_bytes());
    pump.keeper.keep(&frames, runtime);
}
