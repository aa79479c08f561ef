//! Health checks.

use std::sync::Arc;

use super::{Container, Containers};

/// A container's health, and the task that watches it.
#[derive(Debug, Default)]
pub(crate) struct Checks {}

impl Checks {
    /// As `inspect` shows it; none without a check or before the first start.
    pub(crate) fn report(&self) -> Option<bollard_stubs::models::Health> {
        None
    }
}

/// The container runs (started or adopted): begins to check, when it has a check.
pub(crate) fn begin(_containers: &Containers, _container: &Arc<Container>) {}

/// The container has ended: checks no more.
pub(crate) fn end(_container: &Container) {}
