//! What a request to a stack tells while it goes on.

use bollard_stubs::models::ContainerCreateBody;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::diff::FieldChange;

/// One line of a request's answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct StackEvent {
    /// `action`, `log`, `warning`, `error`, `plan`, `pattern`, `watch` or `done`.
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
    /// Whether all went well; with `done`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ok: Option<bool>,
}

/// Tells whoever asked. Nobody listening (any more) is fine: the work goes on.
#[derive(Debug, Clone, Default)]
pub struct Progress(Option<mpsc::Sender<StackEvent>>);

impl Progress {
    /// To a listener.
    #[must_use]
    pub fn to(listener: mpsc::Sender<StackEvent>) -> Self {
        Self(Some(listener))
    }

    async fn tell(&self, event: StackEvent) {
        if let Some(listener) = &self.0 {
            let _ = listener.send(event).await;
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
            listener.closed().await;
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

    /// The end.
    pub async fn done(&self, ok: bool) {
        self.tell(StackEvent { kind: "done", ok: Some(ok), ..StackEvent::default() }).await;
    }
}
