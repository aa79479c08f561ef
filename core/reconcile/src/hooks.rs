//! Hooks: what is run in a container after it was started for a stack, and before it is stopped.
//!
//! They travel as a label of the container, so that what was made before an edit, or is left of a stack whose files are
//! gone, ends as it was meant to. As with Compose, restarts by the restart policy run none.

use bollard_stubs::models::ExecConfig;
use sampan_compose::Service;
use sampan_compose::model::Exec;
use sampan_engine::containers::ExecStart;
use sampan_engine::{Engine, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::execute::Executor;
use crate::labels;

/// The hooks of a service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Hooks {
    pub post_start: Vec<Exec>,
    pub pre_stop: Vec<Exec>,
}

impl Hooks {
    pub(crate) fn of(service: &Service) -> Self {
        Self { post_start: service.post_start.clone(), pre_stop: service.pre_stop.clone() }
    }

    /// As the label carries them; none when there are none.
    pub(crate) fn to_text(&self) -> Option<String> {
        let any = !self.post_start.is_empty() || !self.pre_stop.is_empty();
        any.then(|| serde_json::to_string(self).unwrap_or_default())
    }
}

/// When hooks are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    PostStart,
    PreStop,
}

/// An exec as the engine takes it.
pub(crate) fn config(exec: &Exec) -> ExecConfig {
    let env = exec.environment.iter().map(|(name, value)| match value {
        Some(value) => format!("{name}={value}"),
        None => name.clone(),
    });
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    ExecConfig {
        cmd: Some(exec.command.clone()),
        user: some(&exec.user),
        working_dir: some(&exec.working_dir),
        privileged: Some(exec.privileged),
        env: Some(env.collect()),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..ExecConfig::default()
    }
}

/// Runs a command in a container: its exit code and what it wrote.
pub(crate) async fn run(engine: &Engine, container: &str, exec: &Exec) -> Result<(i64, String)> {
    const KEPT: usize = 64 << 10;
    let id = engine.exec_create(container, config(exec)).await?.id;
    let attached = engine.exec_start(&id, ExecStart { detach: false, tty: false, size: None }).await?;
    let mut text = Vec::new();
    if let Some(mut attached) = attached {
        while let Some(output) = attached.output.recv().await {
            let room = KEPT.saturating_sub(text.len()).min(output.bytes.len());
            text.extend_from_slice(&output.bytes[..room]);
        }
    }
    let code = engine.exec_inspect(&id).await?.exit_code.unwrap_or(-1);
    Ok((code, String::from_utf8_lossy(&text).into_owned()))
}

impl Executor {
    /// Runs the hooks of a container, one after the other. The first that fails after a start is an error; what fails
    /// before a stop is told, and the stop goes on: a stack can always be taken down.
    pub(crate) async fn hooks(&self, container: &str, when: When) -> Result<()> {
        let [text, service] = match self.engine.container_labels(container, [labels::HOOKS, labels::SERVICE]) {
            Err(error) if when == When::PreStop && error.kind == ErrorKind::NotFound => return Ok(()),
            found => found?,
        };
        let Some(text) = text else { return Ok(()) };
        let service = service.as_deref().unwrap_or_default();
        let all: Hooks = serde_json::from_str(&text)
            .map_err(|error| Error::internal(format!("the hooks of {container} cannot be read: {error}")))?;
        let (hooks, name) = match when {
            When::PostStart => (all.post_start, "post_start"),
            When::PreStop => (all.pre_stop, "pre_stop"),
        };
        let mut cancel = self.cancel.clone();
        for hook in &hooks {
            let command = hook.command.join(" ");
            let ran = tokio::select! {
                ran = run(&self.engine, container, hook) => ran,
                _ = cancel.wait_for(|cancel| *cancel) => Err(Error::unavailable("something newer was asked for")),
            };
            if let Ok((_, output)) = &ran {
                for line in output.lines() {
                    self.progress.log(service, line.to_owned()).await;
                }
            }
            let problem = match ran {
                Ok((0, _)) => continue,
                // It has ended by itself meanwhile: nothing is to be done before its stop.
                Err(error)
                    if when == When::PreStop && matches!(error.kind, ErrorKind::Conflict | ErrorKind::NotFound) =>
                {
                    return Ok(());
                }
                Ok((code, _)) => format!("{service} hook exited with status {code}: {name}: {command}"),
                Err(error) => format!("{service} hook could not be run: {name}: {command}: {error}"),
            };
            if when == When::PostStart {
                return Err(Error::conflict(problem));
            }
            tracing::warn!(stack = self.name, container, "{problem}");
            self.progress.warning(problem).await;
        }
        Ok(())
    }
}
