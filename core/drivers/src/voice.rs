//! What drivers say: lines for the engine's log, and the last words on their standard error.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::bindings::sampan::driver::host_log::Level;
use crate::error::shown;

/// Bytes that a line may have.
const LINE: usize = 4096;
/// Lines at once, and each second after that.
const BURST: f64 = 200.0;
const RATE: f64 = 20.0;
/// Bytes of standard error that are remembered for the message of a trap.
const LAST: usize = 2048;

/// A driver's lines in the engine's log, so many a second.
#[derive(Debug)]
pub struct Voice {
    driver: String,
    state: Mutex<Allowance>,
}

#[derive(Debug)]
struct Allowance {
    lines: f64,
    at: Instant,
    dropped: u64,
}

impl Voice {
    pub fn new(driver: String) -> Self {
        Self { driver, state: Mutex::new(Allowance { lines: BURST, at: Instant::now(), dropped: 0 }) }
    }

    pub fn say(&self, level: Level, message: &str) {
        let dropped = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            state.lines = (state.lines + now.duration_since(state.at).as_secs_f64() * RATE).min(BURST);
            state.at = now;
            if state.lines < 1.0 {
                state.dropped += 1;
                return;
            }
            state.lines -= 1.0;
            std::mem::take(&mut state.dropped)
        };
        let driver = self.driver.as_str();
        if dropped > 0 {
            tracing::warn!(driver, dropped, "the driver said too much");
        }
        let message = shown(message, LINE);
        match level {
            Level::Debug => tracing::debug!(driver, "{message}"),
            Level::Info => tracing::info!(driver, "{message}"),
            Level::Warn => tracing::warn!(driver, "{message}"),
            Level::Error => tracing::error!(driver, "{message}"),
        }
    }
}

/// A standard output that remembers its end.
#[derive(Debug, Clone, Default)]
pub struct LastWords(Arc<Mutex<VecDeque<u8>>>);

impl LastWords {
    /// What stands there, and forgets it.
    pub fn take(&self) -> String {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        shown(String::from_utf8_lossy(&Vec::from(bytes)).trim(), LAST)
    }

    fn add(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(&bytes[bytes.len().saturating_sub(LAST)..]);
        let over = kept.len().saturating_sub(LAST);
        kept.drain(..over);
    }
}

impl IsTerminal for LastWords {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LastWords {
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for LastWords {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.add(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 << 10)
    }
}

// The trait is declared with `async_trait`, which this is spelled out for.
impl Pollable for LastWords {
    fn ready<'life, 'future>(&'life mut self) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + 'future>>
    where
        'life: 'future,
        Self: 'future,
    {
        Box::pin(std::future::ready(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_remembered() {
        let words = LastWords::default();
        words.add(&[b'a'; 5000]);
        words.add(b"\nthe end\x1b\n");
        let said = words.take();
        assert!(said.ends_with("aa\nthe end\\u{1b}"), "{said}");
        assert!(said.len() < LAST + 20);
        assert_eq!(words.take(), "");
    }
}
