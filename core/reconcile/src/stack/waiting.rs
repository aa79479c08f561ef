//! What comes while something goes on.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::Stack;
use crate::host_files::{Fingerprint, fingerprints};
use crate::request::{Command, StackRecord};
use crate::watch::DEBOUNCE;

/// Edits of the files while something goes on: it is told to come to its end, as it is outdated.
pub(super) struct Edits<'a> {
    hints: &'a mut mpsc::Receiver<()>,
    edited: &'a mut bool,
    record: Arc<RwLock<Option<StackRecord>>>,
    seen: Arc<Mutex<BTreeMap<PathBuf, Fingerprint>>>,
}

impl<'a> Edits<'a> {
    pub(super) fn of(stack: &Stack, hints: &'a mut mpsc::Receiver<()>, edited: &'a mut bool) -> Self {
        Self { hints, edited, record: Arc::clone(&stack.record), seen: Arc::clone(&stack.seen) }
    }

    pub(super) async fn over<T>(self, work: impl Future<Output = T>, cancel: &watch::Sender<bool>) -> T {
        let mut work = std::pin::pin!(work);
        let mut outdated = false;
        loop {
            tokio::select! {
                done = &mut work => return done,
                Some(()) = self.hints.recv(), if !outdated => {
                    // Whatever it is, it is looked at again afterwards.
                    *self.edited = true;
                    tokio::select! {
                        done = &mut work => return done,
                        () = tokio::time::sleep(DEBOUNCE) => {}
                    }
                    let record = self.record.read().unwrap_or_else(PoisonError::into_inner).clone();
                    let inputs = record.map(|record| record.inputs).unwrap_or_default();
                    let now = tokio::task::spawn_blocking(move || fingerprints(&inputs)).await.unwrap_or_default();
                    // Something else in the same folder is no edit.
                    if now != *self.seen.lock().unwrap_or_else(PoisonError::into_inner) {
                        outdated = true;
                        let _ = cancel.send(true);
                    }
                }
            }
        }
    }
}

/// Does work to its end. What is asked for meanwhile is kept for next, and the work is told to come to its end soon: the
/// last request counts, and a second one behind it waits its turn in the channel.
pub(super) async fn unless_newer<T>(
    work: impl Future<Output = T>,
    cancel: &watch::Sender<bool>,
    commands: &mut mpsc::Receiver<Command>,
    pending: &mut Option<Command>,
) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            newer = commands.recv(), if pending.is_none() => {
                *pending = Some(newer.unwrap_or(Command::Leave));
                let _ = cancel.send(true);
            }
        }
    }
}

pub(super) async fn wake(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
