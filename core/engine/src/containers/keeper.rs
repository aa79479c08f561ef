//! Hands records to a container's log driver, and keeps them in a file of bounded length while the driver fails or is slow,
//! so that the container never waits for it for long.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sampan_drivers::{BATCH, LogSink};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::framing::{self, HEAD};
use crate::error::Result;
use crate::events::now_ns;

/// A call that took longer makes the driver a slow one, which is no longer waited for.
const SLOW: Duration = Duration::from_millis(250);
/// Pauses between attempts, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Bytes that are kept for a driver, at most.
pub(super) const LIMIT: u64 = 64 << 20;
/// The backlog's first bytes say how far it was read.
const START: u64 = 8;
/// Batches between two looks at whether to go on.
const ROUND: usize = 64;

/// Takes whole framed records, at most [`BATCH`] bytes of them.
pub(super) trait LogTarget: Send {
    fn write(&mut self, frames: &[u8]) -> std::result::Result<(), String>;
}

impl LogTarget for LogSink {
    fn write(&mut self, frames: &[u8]) -> std::result::Result<(), String> {
        LogSink::write(self, frames).map_err(|error| error.to_string())
    }
}

/// Opens a container's target; blocks.
pub(super) type Open = Box<dyn Fn() -> Result<Box<dyn LogTarget>> + Send + Sync>;

/// See the module. Clones share it.
#[derive(Clone)]
pub(super) struct Keeper {
    inner: Arc<Inner>,
}

struct Inner {
    container: String,
    open: Mutex<Arc<Open>>,
    path: PathBuf,
    limit: u64,
    state: Mutex<State>,
    /// Whether the driver has everything.
    settled: watch::Sender<bool>,
}

struct State {
    target: Option<Box<dyn LogTarget>>,
    /// The driver is behind: records go through the backlog.
    behind: bool,
    backlog: Option<Backlog>,
    /// Bytes that found no room.
    dropped: u64,
    /// The target is opened otherwise since then.
    reopened: bool,
}

struct Backlog {
    file: Arc<File>,
    read: u64,
    written: u64,
}

impl Backlog {
    /// Waits for a keeper of the container's last start that is still in a call of its driver: two that read one backlog
    /// would both hand it over.
    fn open(path: &Path) -> io::Result<Self> {
        let file = loop {
            let file = File::options().create(true).truncate(false).read(true).write(true).open(path)?;
            file.lock()?;
            let opened = file.metadata()?;
            // The other one removes the file once it is through with it.
            if std::fs::metadata(path).is_ok_and(|now| (now.dev(), now.ino()) == (opened.dev(), opened.ino())) {
                break file;
            }
        };
        let length = file.metadata()?.len();
        let mut head = [0; START as usize];
        let read = match file.read_exact_at(&mut head, 0) {
            Ok(()) => u64::from_le_bytes(head).clamp(START, length),
            Err(_) => START,
        };
        Ok(Self { file: Arc::new(file), read, written: length.max(START) })
    }

    fn push(&mut self, frames: &[u8], limit: u64) -> io::Result<()> {
        if self.written + frames.len() as u64 > limit {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write_all_at(frames, self.written)?;
        self.written += frames.len() as u64;
        Ok(())
    }

    fn advance(&mut self, bytes: u64) {
        self.read += bytes;
        if self.read >= self.written {
            // Emptied, so that it can be filled again.
            let _ = self.file.set_len(START);
            (self.read, self.written) = (START, START);
        }
        let _ = self.file.write_all_at(&self.read.to_le_bytes(), 0);
    }
}

enum Round {
    /// Nothing is left; whether the driver is still slow.
    Drained {
        slow: bool,
    },
    More,
    Failed,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("container", &self.inner.container).finish_non_exhaustive()
    }
}

impl Keeper {
    /// Opens the target. With `must` a failure is the caller's; without, records are kept until it can be opened.
    pub(super) fn open(
        container: &str,
        open: Open,
        path: PathBuf,
        limit: u64,
        must: bool,
        runtime: &Handle,
    ) -> Result<Self> {
        let target = match open() {
            Ok(target) => Some(target),
            Err(error) if must => return Err(error),
            Err(error) => {
                tracing::warn!(container, %error, "the log driver cannot be opened; output is kept until it can");
                None
            }
        };
        let found = path.exists().then(|| Backlog::open(&path)).and_then(io::Result::ok);
        let backlog = found.filter(|backlog| {
            let left = backlog.read < backlog.written;
            if !left {
                // Another handed everything over, but died or was let go before it removed the file.
                let _ = std::fs::remove_file(&path);
            }
            left
        });
        let behind = target.is_none() || backlog.is_some();
        let state = State { target, behind, backlog, dropped: 0, reopened: false };
        let keeper = Self {
            inner: Arc::new(Inner {
                container: container.to_owned(),
                open: Mutex::new(Arc::new(open)),
                path,
                limit,
                state: Mutex::new(state),
                settled: watch::Sender::new(!behind),
            }),
        };
        if behind {
            keeper.catch_up(runtime);
        }
        Ok(keeper)
    }

    /// Takes records over: when this returns, they are the driver's or in the backlog, or counted as dropped. Blocks for
    /// one call of the driver at most.
    pub(super) fn keep(&self, frames: &[u8], runtime: &Handle) {
        let mut state = self.inner.state();
        if state.behind {
            self.inner.push(&mut state, frames);
            return;
        }
        let begun = Instant::now();
        let written = match &mut state.target {
            Some(target) => target.write(frames),
            None => Err("it is not open".to_owned()),
        };
        match written {
            Ok(()) if begun.elapsed() < SLOW => return,
            Ok(()) => tracing::warn!(container = self.inner.container, "the log driver is slow; output is kept for it"),
            Err(cause) => {
                tracing::warn!(container = self.inner.container, %cause, "the log driver fails; output is kept for it");
                self.inner.push(&mut state, frames);
            }
        }
        state.behind = true;
        drop(state);
        self.inner.settled.send_replace(false);
        self.catch_up(runtime);
    }

    /// Gives what comes from now on to a target that is opened otherwise; stays with the one before when that fails. Blocks.
    pub(super) fn reopen(&self, open: Open) -> Result<()> {
        let inner = &self.inner;
        let mut state = inner.state();
        let before = inner.opener();
        // Two that write one log would be one too many.
        state.target = None;
        let opened = open();
        let (target, outcome) = match opened {
            Ok(target) => {
                *inner.open.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(open);
                (Some(target), Ok(()))
            }
            Err(error) => (before().ok(), Err(error)),
        };
        // One that is behind may be in use just now; it is opened anew when it comes back.
        state.reopened = state.behind && outcome.is_ok();
        state.target = target.filter(|_| !state.behind);
        outcome
    }

    /// Waits until the driver has everything, for so long at most.
    pub(super) async fn settle(&self, limit: Duration) {
        let mut settled = self.inner.settled.subscribe();
        let _ = tokio::time::timeout(limit, settled.wait_for(|settled| *settled)).await;
    }

    fn catch_up(&self, runtime: &Handle) {
        let inner = Arc::downgrade(&self.inner);
        runtime.spawn(async move {
            let mut pause = PAUSE.0;
            loop {
                // Whoever holds the keeper decides how long this goes on.
                let Some(strong) = inner.upgrade() else { return };
                let round = tokio::task::spawn_blocking(move || strong.round()).await;
                match round {
                    Ok(Round::More) => {
                        pause = PAUSE.0;
                        continue;
                    }
                    Ok(Round::Drained { slow: false }) => {
                        let Some(strong) = inner.upgrade() else { return };
                        if strong.try_settle() {
                            return;
                        }
                        continue;
                    }
                    Ok(Round::Drained { slow: true }) => pause = PAUSE.0,
                    Ok(Round::Failed) | Err(_) => {}
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        });
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opener(&self) -> Arc<Open> {
        Arc::clone(&self.open.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn push(&self, state: &mut State, frames: &[u8]) {
        if state.backlog.is_none() {
            match Backlog::open(&self.path) {
                Ok(backlog) => state.backlog = Some(backlog),
                Err(error) => {
                    tracing::error!(container = self.container, %error, "output cannot be kept for the log driver");
                }
            }
        }
        let kept = state.backlog.as_mut().is_some_and(|backlog| backlog.push(frames, self.limit).is_ok());
        if !kept {
            if state.dropped == 0 {
                tracing::error!(container = self.container, "output for the log driver is being dropped");
            }
            state.dropped += framing::frames(frames).map(|frame| frame.bytes.len() as u64).sum::<u64>();
        }
    }

    /// Gives the driver some of the backlog.
    fn round(&self) -> Round {
        let mut target = match self.state().target.take() {
            Some(target) => target,
            None => match self.opener()() {
                Ok(target) => target,
                Err(_) => return Round::Failed,
            },
        };
        let mut slow = false;
        let mut outcome = Round::More;
        let mut buffer = vec![0; BATCH];
        for _ in 0..ROUND {
            let place = {
                let state = self.state();
                state.backlog.as_ref().map(|backlog| (Arc::clone(&backlog.file), backlog.read, backlog.written))
            };
            let Some((file, read, written)) = place.filter(|(_, read, written)| read < written) else {
                outcome = Round::Drained { slow };
                break;
            };
            let length = usize::try_from(written - read).unwrap_or(BATCH).min(BATCH);
            if file.read_exact_at(&mut buffer[..length], read).is_err() {
                outcome = Round::Failed;
                break;
            }
            let whole: usize = framing::frames(&buffer[..length]).map(|frame| HEAD + frame.bytes.len()).sum();
            if whole == 0 {
                // A torn end that a crash left.
                if let Some(backlog) = &mut self.state().backlog {
                    backlog.advance(length as u64);
                }
                continue;
            }
            let begun = Instant::now();
            if target.write(&buffer[..whole]).is_err() {
                outcome = Round::Failed;
                break;
            }
            slow = begun.elapsed() >= SLOW;
            if let Some(backlog) = &mut self.state().backlog {
                backlog.advance(whole as u64);
            }
        }
        if matches!(outcome, Round::Drained { .. }) {
            let dropped = self.state().dropped;
            if dropped > 0 {
                let text =
                    format!("sampan: {dropped} bytes of output were dropped here: the log driver failed or was slow");
                let mut frames = Vec::new();
                framing::put(&mut frames, now_ns(), 1, false, text.as_bytes());
                if target.write(&frames).is_ok() {
                    self.state().dropped -= dropped;
                }
            }
        }
        let mut state = self.state();
        let reopened = std::mem::take(&mut state.reopened);
        state.target = Some(target).filter(|_| !reopened);
        outcome
    }

    /// Lets records go to the driver directly again, when nothing has come meanwhile.
    fn try_settle(&self) -> bool {
        let mut state = self.state();
        if state.backlog.as_ref().is_some_and(|backlog| backlog.read < backlog.written) {
            return false;
        }
        state.backlog = None;
        let _ = std::fs::remove_file(&self.path);
        state.behind = false;
        drop(state);
        self.settled.send_replace(true);
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[derive(Default)]
    struct Log {
        broken: AtomicBool,
        lines: Mutex<Vec<String>>,
    }

    struct Target(Arc<Log>);

    impl LogTarget for Target {
        fn write(&mut self, frames: &[u8]) -> std::result::Result<(), String> {
            if self.0.broken.load(Ordering::SeqCst) {
                return Err("broken".into());
            }
            let lines = framing::frames(frames).map(|frame| String::from_utf8_lossy(frame.bytes).into_owned());
            self.0.lines.lock().unwrap().extend(lines);
            Ok(())
        }
    }

    fn line(text: &str) -> Vec<u8> {
        let mut frames = Vec::new();
        framing::put(&mut frames, 1, 0, false, text.as_bytes());
        frames
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_driver_that_fails_gets_everything_in_order_later() {
        let folder = tempfile::tempdir().unwrap();
        let log = Arc::new(Log::default());
        let open = |log: &Arc<Log>| -> Open {
            let log = Arc::clone(log);
            Box::new(move || Ok(Box::new(Target(Arc::clone(&log))) as Box<dyn LogTarget>))
        };
        let runtime = Handle::current();
        let path = folder.path().join("backlog");
        let keeper = Keeper::open("c", open(&log), path.clone(), 4000, true, &runtime).unwrap();
        keeper.keep(&line("first"), &runtime);
        log.broken.store(true, Ordering::SeqCst);
        for number in 0..200 {
            keeper.keep(&line(&number.to_string()), &runtime);
        }
        // The daemon dies; what was kept is found by the next, even while a call of the last one still goes on.
        drop(keeper);
        assert_eq!(*log.lines.lock().unwrap(), ["first"]);
        log.broken.store(false, Ordering::SeqCst);
        let keeper = Keeper::open("c", open(&log), path.clone(), 4000, true, &runtime).unwrap();
        keeper.settle(Duration::from_secs(10)).await;
        keeper.keep(&line("last"), &runtime);
        let lines = log.lines.lock().unwrap().clone();
        assert_eq!(lines[..3], ["first", "0", "1"]);
        assert_eq!(lines.last().unwrap(), "last");
        assert!(lines.len() < 203, "{lines:?}");
        assert!(!path.exists());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_backlog_that_was_handed_over_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backlog");
        let mut backlog = Backlog::open(&path).unwrap();
        backlog.push(&line("old"), 4000).unwrap();
        backlog.advance(backlog.written - START);
        drop(backlog);
        let log = Arc::new(Log::default());
        let target = Arc::clone(&log);
        let open: Open = Box::new(move || Ok(Box::new(Target(Arc::clone(&target)))));
        let runtime = Handle::current();
        let keeper = Keeper::open("c", open, path.clone(), 4000, true, &runtime).unwrap();
        keeper.keep(&line("new"), &runtime);
        assert_eq!(*log.lines.lock().unwrap(), ["new"]);
        assert!(!path.exists());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_target_is_opened_otherwise_while_records_come() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (Arc::new(Log::default()), Arc::new(Log::default()));
        let open = |log: &Arc<Log>| -> Open {
            let log = Arc::clone(log);
            Box::new(move || Ok(Box::new(Target(Arc::clone(&log))) as Box<dyn LogTarget>))
        };
        let runtime = Handle::current();
        let keeper = Keeper::open("c", open(&first), folder.path().join("backlog"), 4000, true, &runtime).unwrap();
        keeper.keep(&line("one"), &runtime);
        keeper.reopen(open(&second)).unwrap();
        keeper.keep(&line("two"), &runtime);
        let refused: Open = Box::new(|| Err(crate::Error::invalid("no such option")));
        assert!(keeper.reopen(refused).is_err());
        keeper.keep(&line("three"), &runtime);
        assert_eq!(*first.lines.lock().unwrap(), ["one"]);
        assert_eq!(*second.lines.lock().unwrap(), ["two", "three"], "what failed changes nothing");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_finds_no_room_is_counted_and_told() {
        let folder = tempfile::tempdir().unwrap();
        let log = Arc::new(Log::default());
        log.broken.store(true, Ordering::SeqCst);
        let target = Arc::clone(&log);
        let open: Open = Box::new(move || Ok(Box::new(Target(Arc::clone(&target)))));
        let runtime = Handle::current();
        let keeper = Keeper::open("c", open, folder.path().join("backlog"), 100, true, &runtime).unwrap();
        for _ in 0..10 {
            keeper.keep(&line("0123456789"), &runtime);
        }
        log.broken.store(false, Ordering::SeqCst);
        keeper.settle(Duration::from_secs(10)).await;
        let lines = log.lines.lock().unwrap().clone();
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert!(lines[3].contains("70 bytes of output were dropped"), "{lines:?}");
    }
}
