//! What a request to a stack tells while it goes on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bollard_stubs::models::ContainerCreateBody;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendTimeoutError;

use crate::diff::FieldChange;
use crate::places::Place;

/// One line of a request's answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct StackEvent {
    /// `action`, `log`, `warning`, `error`, `plan`, `pattern`, `watch`, `places` or `done`.
    pub kind: &'static str,
    /// Such as `Container demo-web-1`, `Network demo_default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// `Creating`, `Created`, `Starting`, `Started`, `Healthy`, `Error`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<&'static str>,
    /// For a person.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The plan's lines, of a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<Vec<String>>,
    /// What a dry run found to be different in the files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<Vec<FieldChange>>,
    /// What a container like a service's own is made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<Box<ContainerCreateBody>>,
    /// What is up, and where it is reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub places: Option<Vec<Place>>,
    /// Whether all went well; with `done`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ok: Option<bool>,
}

/// How long somebody who listens and takes nothing, such as a command that was stopped, holds the work up: once.
const PATIENCE: Duration = Duration::from_secs(5);

/// Tells whoever asked. Nobody listening (any more) is fine: the work goes on.
#[derive(Debug, Clone, Default)]
pub struct Progress(Option<Listener>);

#[derive(Debug, Clone)]
struct Listener {
    sender: mpsc::Sender<StackEvent>,
    patience: Duration,
    /// It was waited for in vain: what it has no room for is left out, but for what the work came to.
    slow: Arc<AtomicBool>,
    /// What the work came to, in order, until there is room.
    late: Arc<OnceLock<mpsc::UnboundedSender<StackEvent>>>,
}

impl Listener {
    fn later(&self, event: StackEvent) {
        let late = self.late.get_or_init(|| {
            let (late, mut events) = mpsc::unbounded_channel();
            let sender = self.sender.clone();
            tokio::spawn(async move {
                while let Some(event) = events.recv().await {
                    if sender.send(event).await.is_err() {
                        break;
                    }
                }
            });
            late
        });
        let _ = late.send(event);
    }
}

impl Progress {
    /// To a listener.
    #[must_use]
    pub fn to(listener: mpsc::Sender<StackEvent>) -> Self {
        Self::with_patience(listener, PATIENCE)
    }

    fn with_patience(sender: mpsc::Sender<StackEvent>, patience: Duration) -> Self {
        Self(Some(Listener { sender, patience, slow: Arc::default(), late: Arc::default() }))
    }

    async fn tell(&self, event: StackEvent) {
        let Some(listener) = &self.0 else { return };
        let counts = matches!(event.kind, "error" | "pattern" | "done");
        if counts && listener.late.get().is_some() {
            return listener.later(event);
        }
        let slow = listener.slow.load(Ordering::Relaxed);
        let patience = if slow { Duration::ZERO } else { listener.patience };
        match listener.sender.send_timeout(event, patience).await {
            Ok(()) => listener.slow.store(false, Ordering::Relaxed),
            Err(SendTimeoutError::Closed(_)) => {}
            Err(SendTimeoutError::Timeout(event)) => {
                listener.slow.store(true, Ordering::Relaxed);
                if counts {
                    listener.later(event);
                }
            }
        }
    }

    /// A step of something.
    pub async fn action(&self, id: String, service: Option<&str>, status: &'static str, message: Option<String>) {
        let service = service.map(str::to_owned);
        self.tell(StackEvent {
            kind: "action",
            id: Some(id),
            service,
            status: Some(status),
            message,
            ..StackEvent::default()
        })
        .await;
    }

    /// Output of a build or a pull.
    pub async fn log(&self, service: &str, message: String) {
        let service = Some(service.to_owned());
        self.tell(StackEvent { kind: "log", service, message: Some(message), ..StackEvent::default() }).await;
    }

    /// Something to know.
    pub async fn warning(&self, message: String) {
        self.tell(StackEvent { kind: "warning", message: Some(message), ..StackEvent::default() }).await;
    }

    /// Something that failed.
    pub async fn error(&self, message: String) {
        self.tell(StackEvent { kind: "error", message: Some(message), ..StackEvent::default() }).await;
    }

    /// Something that a watch did.
    pub async fn watch(&self, service: &str, message: String) {
        let service = (!service.is_empty()).then(|| service.to_owned());
        self.tell(StackEvent { kind: "watch", service, message: Some(message), ..StackEvent::default() }).await;
    }

    /// Ends when nobody listens any more.
    pub async fn closed(&self) {
        if let Some(listener) = &self.0 {
            listener.sender.closed().await;
        }
    }

    /// What would be done.
    pub async fn plan(&self, lines: Vec<String>, changes: Vec<FieldChange>) {
        let (plan, changes) = (Some(lines), Some(changes));
        self.tell(StackEvent { kind: "plan", plan, changes, ..StackEvent::default() }).await;
    }

    /// What `run` makes its container from.
    pub async fn pattern(&self, body: ContainerCreateBody) {
        self.tell(StackEvent { kind: "pattern", body: Some(Box::new(body)), ..StackEvent::default() }).await;
    }

    /// What is up now, and where it is reached.
    pub async fn places(&self, places: Vec<Place>) {
        self.tell(StackEvent { kind: "places", places: Some(places), ..StackEvent::default() }).await;
    }

    /// The end.
    pub async fn done(&self, ok: bool) {
        self.tell(StackEvent { kind: "done", ok: Some(ok), ..StackEvent::default() }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_listener_that_was_stopped_holds_nothing_up_and_is_told_the_end() {
        let (sender, mut receiver) = mpsc::channel(2);
        let progress = Progress::with_patience(sender, Duration::from_millis(1));
        for number in 0..1000 {
            progress.log("web", number.to_string()).await;
        }
        progress.error("no".to_owned()).await;
        progress.done(false).await;
        drop(progress);
        let mut kinds = Vec::new();
        while let Some(event) = receiver.recv().await {
            kinds.push(event.kind);
        }
        assert_eq!(kinds, ["log", "log", "error", "done"]);
    }
}
