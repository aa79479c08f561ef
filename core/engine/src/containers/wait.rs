//! `wait`.

use super::record::Status;
use super::{WaitCondition, WaitStatus, Waiting};
use crate::Engine;
use crate::error::{Error, Result};

impl Engine {
    /// `wait`: the wait has begun when this returns.
    pub async fn wait(&self, id: &str, condition: WaitCondition) -> Result<Waiting> {
        let container = self.inner.containers.find(id)?;
        let mut phase = container.phase();
        let ends = phase.borrow().ends;
        Ok(Box::pin(async move {
            let over = phase.wait_for(|phase| {
                phase.removed
                    || match condition {
                        WaitCondition::NotRunning => !phase.status.is_alive() && phase.status != Status::Restarting,
                        WaitCondition::NextExit => phase.ends > ends,
                        WaitCondition::Removed => false,
                    }
            });
            let phase = over.await.map_err(|_| Error::unavailable("the engine is about to end"))?.clone();
            let gone_before = condition == WaitCondition::NextExit && phase.ends == ends;
            let error = if gone_before {
                Some("container was removed before it ended".to_owned())
            } else {
                Some(phase.error.clone()).filter(|error| !error.is_empty())
            };
            Ok(WaitStatus { code: phase.code, error })
        }))
    }
}
