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

/// What is known of edits that were not taken up yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Edited {
    #[default]
    No,
    /// Something was written in their folders.
    Perhaps,
    /// The files are others.
    Surely,
}

/// Edits of the files while something goes on: it is told to come to its end, as it is outdated.
pub(super) struct Edits<'a> {
    hints: &'a mut mpsc::Receiver<()>,
    edited: &'a mut Edited,
    record: Arc<RwLock<Option<StackRecord>>>,
    seen: Arc<Mutex<BTreeMap<PathBuf, Fingerprint>>>,
}

impl<'a> Edits<'a> {
    pub(super) fn of(stack: &Stack, hints: &'a mut mpsc::Receiver<()>, edited: &'a mut Edited) -> Self {
        Self { hints, edited, record: Arc::clone(&stack.record), seen: Arc::clone(&stack.seen) }
    }

    pub(super) async fn over<T>(self, work: impl Future<Output = T>, cancel: &watch::Sender<bool>) -> T {
        let mut work = std::pin::pin!(work);
        let mut outdated = false;
        // Heard of before this work began.
        let mut heard = *self.edited != Edited::No;
        loop {
            let hint = async {
                if !heard && self.hints.recv().await.is_none() {
                    std::future::pending().await
                }
            };
            tokio::select! {
                done = &mut work => return done,
                () = hint, if !outdated => {
                    heard = false;
                    // Whatever it is, it is looked at again afterwards.
                    *self.edited = Edited::Perhaps;
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
                        *self.edited = Edited::Surely;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Work that goes on until it is cut short or `noise` has been made that often.
    async fn over(edited: Edited, seen: &[&str], noise: usize) -> (bool, Edited) {
        let (sender, mut hints) = mpsc::channel(1);
        let (mut now, (cancel, mut cancelled)) = (edited, watch::channel(false));
        let seen = seen.iter().map(|path| (PathBuf::from(path), None)).collect();
        let seen = Arc::new(Mutex::new(seen));
        // Without a record there are no files.
        let edits = Edits { hints: &mut hints, edited: &mut now, record: Arc::default(), seen };
        let noisy = async {
            for _ in 0..noise {
                let _ = sender.send(()).await;
            }
            noise == 0 && std::future::pending().await
        };
        let work = async {
            tokio::select! {
                cut = cancelled.wait_for(|cancel| *cancel) => cut.is_ok(),
                cut = noisy => cut,
            }
        };
        let cut = edits.over(work, &cancel).await;
        (cut, now)
    }

    #[tokio::test]
    async fn work_on_files_that_are_others_by_now_is_cut_short_and_noise_does_not_count() {
        assert_eq!(over(Edited::Perhaps, &["/other"], 0).await, (true, Edited::Surely), "heard of before");
        assert_eq!(over(Edited::No, &[], 5).await, (false, Edited::Perhaps), "it is looked at again afterwards");
    }
}
