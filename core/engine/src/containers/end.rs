//! How a container ended, for those who decide whether it shall run again.

use super::record::CONTAINERS;
use crate::Engine;

/// How a container ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct End {
    /// The exit code; 128 and more for a signal.
    pub code: i64,
    /// A user asked for it.
    pub by_hand: bool,
    /// Not the program's doing: the host was restarted, or the shim was killed.
    pub lost: bool,
}

impl Engine {
    /// How a container ended, by its whole id; zeros for one that is not there.
    #[must_use]
    pub fn container_end(&self, id: &str) -> End {
        let record = self.store().read(|tx| CONTAINERS.get(tx, id)).ok().flatten();
        record.map_or_else(End::default, |record| End {
            code: record.state.exit_code,
            by_hand: record.stopped_by_hand,
            lost: record.lost,
        })
    }
}
