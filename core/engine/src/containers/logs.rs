//! `logs`.
//!
//! A reader goes through what the driver kept; at its end it waits until the log has grown, and asks the driver again. What
//! comes live comes by the same way, so that there is no seam at which a line could be lost or doubled.

use std::sync::Arc;
use std::time::Duration;

use sampan_drivers::{LogCursor, Query};
use tokio::sync::{mpsc, watch};

use super::streams::{Log, Progress};
use super::{Container, LogOptions, LogRecord, Logs, OutputStream};
use crate::error::Result;
use crate::events::now_ns;
use crate::{Engine, Shared, blocking};

/// Records on their way to a reader.
const QUEUE: usize = 2048;

impl Engine {
    /// `logs`.
    pub async fn logs(&self, id: &str, options: LogOptions) -> Result<Logs> {
        let containers = &self.inner.containers;
        let container = containers.find(id)?;
        read(containers.shared(), &container, options).await
    }
}

/// Reads a container's log.
pub(super) async fn read(shared: &Arc<Shared>, container: &Arc<Container>, options: LogOptions) -> Result<Logs> {
    let record = container.snapshot();
    let log = Log::of(shared, &record)?;
    let nanoseconds = |time: Option<i64>| time.map(|time| u64::try_from(time).unwrap_or(0));
    let (since, until) = (nanoseconds(options.since_ns), nanoseconds(options.until_ns));
    // Taken before the first look, so that what comes after it is noticed.
    let progress = container.hub.progress();
    let query = Query { since, until, tail: options.tail };
    let cursor = blocking(move || log.read(query)).await?;
    let (sender, records) = mpsc::channel(QUEUE);
    let reader = Reader {
        cursor,
        sender,
        wanted: [options.stdout, options.stderr],
        until,
        follow: options.follow.then_some(progress),
    };
    tokio::spawn(reader.run());
    Ok(Logs { tty: record.config.tty.unwrap_or(false), records })
}

struct Reader {
    cursor: LogCursor,
    sender: mpsc::Sender<LogRecord>,
    /// Outputs and errors.
    wanted: [bool; 2],
    until: Option<u64>,
    follow: Option<watch::Receiver<Progress>>,
}

impl Reader {
    async fn run(mut self) {
        loop {
            // What the log had before it was looked at: a change since then is another round.
            let serving = self.follow.as_mut().map(|progress| progress.borrow_and_update().serving);
            let mut cursor = self.cursor;
            let read = tokio::task::spawn_blocking(move || {
                let framed = cursor.next();
                (cursor, framed.map(|framed| super::framing::records(&framed)))
            })
            .await;
            let Ok((cursor, records)) = read else { return };
            self.cursor = cursor;
            let records = match records {
                Ok(records) => records,
                Err(error) => {
                    tracing::warn!(%error, "a log cannot be read on");
                    return;
                }
            };
            if !records.is_empty() {
                for record in records {
                    if self.until.is_some_and(|until| record.time_ns > until) {
                        return;
                    }
                    let stream = usize::from(record.stream == OutputStream::Stderr);
                    if self.wanted[stream] && self.sender.send(record).await.is_err() {
                        return;
                    }
                }
                continue;
            }
            let Some(progress) = &mut self.follow else { return };
            if serving != Some(true) {
                return;
            }
            let left = match self.until {
                None => Duration::MAX,
                Some(until) => match until.checked_sub(now_ns()) {
                    Some(left) => Duration::from_nanos(left),
                    None => return,
                },
            };
            tokio::select! {
                changed = progress.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = self.sender.closed() => return,
                () = pause(left) => {}
            }
        }
    }
}

async fn pause(time: Duration) {
    // Beyond what a timer can count is for ever.
    if time > Duration::from_secs(60 * 60 * 24 * 365) {
        std::future::pending().await
    } else {
        tokio::time::sleep(time).await
    }
}
