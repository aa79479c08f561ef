//! When Compose changes a stack that the daemon keeps: the last who was asked decides.
//!
//! Compose makes containers after its own hash, and takes away what it takes down. Whoever would mend that at once would
//! undo what the user wanted: the daemon lets go of the stack until somebody asks it again.

use sampan_engine::{Error, Result};

use super::Stack;
use crate::observe::summaries;
use crate::progress::Progress;
use crate::request::{Command, StackRecord};
use crate::{Stacks, labels};

impl Stacks {
    /// Lets go of a stack that `by` is about to change. `working_dir`: the folder of its project, if that is known; another
    /// one means another project of the same name, which is refused.
    pub async fn make_way(&self, name: &str, by: &str, working_dir: Option<&str>) -> Result<()> {
        let Some(record) = self.records().await.remove(name) else { return Ok(()) };
        if record.left_to.is_some() {
            return Ok(());
        }
        let own = &record.project.working_dir;
        if working_dir.is_some_and(|other| std::path::Path::new(other) != own)
            && record.project.compose_files.iter().any(|file| file.exists())
        {
            return Err(Error::conflict(format!(
                "this daemon keeps a stack named {name}, from {}; give this project another name (-p), or take that one down first (`sampan stack rm {name}`)",
                own.display()
            )));
        }
        let by = by.to_owned();
        let mut events = self.send(name, |progress| Command::Yield { by, progress }).await?;
        while events.recv().await.is_some() {}
        Ok(())
    }
}

impl Stack {
    pub(super) async fn make_way(&mut self, by: String, progress: &Progress) -> std::result::Result<bool, String> {
        if let Some(record) = self.record() {
            tracing::info!(stack = self.name, by, "left to another client");
            self.keep(StackRecord { paused: true, left_to: Some(by), ..record }).await?;
        }
        progress.action(format!("Stack {}", self.name), None, "Paused", None).await;
        Ok(true)
    }

    /// Forgets a stack that was left to another client and taken down by it.
    pub(super) async fn forget_if_gone(&mut self) {
        if self.record().is_none_or(|record| record.left_to.is_none()) {
            return;
        }
        let own =
            |found: &bollard_stubs::models::ContainerSummary| !found.labels.as_ref().is_some_and(labels::is_one_off);
        if summaries(&self.engine, &self.name, None).await.is_ok_and(|found| !found.iter().any(own)) {
            self.files.clear();
            if let Err(error) = self.forget().await {
                tracing::warn!(stack = self.name, error, "forget a stack that is gone");
            }
        }
    }
}
