//! `attach` and `resize`.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::record::Status;
use super::{AttachOptions, Attached, Container, LogOptions, Output, OutputStream, logs};
use crate::Engine;
use crate::error::{Error, Result};

/// Pieces on their way to a client that wants only one of the outputs, or what was before.
const QUEUE: usize = 64;

impl Engine {
    /// `attach`. May come before the start; ends with the container.
    pub async fn attach(&self, id: &str, options: AttachOptions) -> Result<Attached> {
        let containers = &self.inner.containers;
        let container = containers.find(id)?;
        match container.status() {
            Status::Paused => {
                return Err(Error::conflict(format!(
                    "container {} is paused, unpause the container before attach",
                    container.id
                )));
            }
            Status::Restarting => {
                return Err(Error::conflict(format!(
                    "container {} is restarting, wait until the container is running",
                    container.id
                )));
            }
            _ => {}
        }
        let (tty, open_stdin, once, name) = {
            let record = container.record();
            let config = &record.config;
            let is = |value: Option<bool>| value.unwrap_or(false);
            (is(config.tty), is(config.open_stdin), is(config.stdin_once), record.name.clone())
        };
        tracing::debug!(container = %name, ?options, "attach");
        let wanted = [options.stdout, options.stderr];
        let live = || container.hub.subscribe();
        let output = if options.logs {
            // While it runs, the log itself goes on seamlessly; before it does, there is nothing that could come twice.
            let running = container.hub.progress().borrow().serving;
            let later = (options.stream && !running).then(live);
            let history = self.history(&container, wanted, options.stream).await?;
            let (sender, output) = mpsc::channel(QUEUE);
            tokio::spawn(replay(history, later, wanted, sender));
            output
        } else if !options.stream {
            mpsc::channel(1).1
        } else if tty || wanted == [true; 2] {
            // Terminals have one output, whatever was asked for.
            live()
        } else {
            let (sender, output) = mpsc::channel(QUEUE);
            tokio::spawn(forward(live(), wanted, sender));
            output
        };
        let stdin = (options.stdin && options.stream && open_stdin).then(|| {
            let writer = container.hub.stdin();
            // A terminal has no end of input: whoever detaches leaves it to the next.
            if once && !tty { writer } else { writer.keep_open() }
        });
        Ok(Attached { tty, stdin, output })
    }

    async fn history(
        &self,
        container: &Arc<Container>,
        wanted: [bool; 2],
        follow: bool,
    ) -> Result<mpsc::Receiver<super::LogRecord>> {
        let options = LogOptions { follow, stdout: wanted[0], stderr: wanted[1], ..LogOptions::default() };
        Ok(logs::read(self.inner.containers.shared(), container, options).await?.records)
    }

    /// Sets the size of a container's terminal.
    pub async fn resize(&self, id: &str, rows: u16, columns: u16) -> Result<()> {
        let (container, shim) = self.inner.containers.running(id)?;
        if !container.record().config.tty.unwrap_or(false) {
            // As with Docker, there is nothing to do.
            return Ok(());
        }
        shim.resize(None, rows, columns).await
    }
}

async fn forward(mut live: mpsc::Receiver<Output>, wanted: [bool; 2], sender: mpsc::Sender<Output>) {
    loop {
        let output = tokio::select! {
            output = live.recv() => output,
            () = sender.closed() => None,
        };
        let Some(output) = output else { return };
        if wanted[usize::from(output.stream == OutputStream::Stderr)] && sender.send(output).await.is_err() {
            return;
        }
    }
}

/// What was written before, then what is written now.
async fn replay(
    mut history: mpsc::Receiver<super::LogRecord>,
    live: Option<mpsc::Receiver<Output>>,
    wanted: [bool; 2],
    sender: mpsc::Sender<Output>,
) {
    while let Some(record) = history.recv().await {
        let output = Output { stream: record.stream, bytes: record.bytes };
        if sender.send(output).await.is_err() {
            return;
        }
    }
    if let Some(live) = live {
        forward(live, wanted, sender).await;
    }
}
