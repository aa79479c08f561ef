//! What concerns the whole engine: `version`, `info`, `system df`, `events`, `login`.

use std::pin::Pin;

use bollard_stubs::models::{AuthResponse, EventMessage, SystemInfo, SystemVersion};
use futures_util::{Stream, StreamExt, stream};
use serde::Serialize;

use crate::Engine;
use crate::error::{Error, Result};
use crate::events;
use crate::filters::Filters;
use crate::messages::Credentials;

/// `system df`, in the form of API versions up to 1.51.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DiskUsage {
    /// Bytes of all layers, shared ones once.
    pub layers_size: i64,
    /// `images -a`.
    pub images: Vec<bollard_stubs::models::ImageSummary>,
    /// `ps -as`.
    pub containers: Vec<bollard_stubs::models::ContainerSummary>,
    /// Volumes with their sizes.
    pub volumes: Vec<bollard_stubs::models::Volume>,
    /// Cached build results.
    pub build_cache: Vec<bollard_stubs::models::BuildCache>,
}

impl Engine {
    /// `version`.
    pub async fn version(&self) -> Result<SystemVersion> {
        Ok(SystemVersion::default())
    }

    /// `info`.
    pub async fn info(&self) -> Result<SystemInfo> {
        Ok(SystemInfo::default())
    }

    /// `system df`.
    pub async fn disk_usage(&self) -> Result<DiskUsage> {
        Ok(DiskUsage::default())
    }

    /// `login`.
    pub async fn auth(&self, _credentials: Credentials) -> Result<AuthResponse> {
        Err(Error::unsupported("registries are not there yet"))
    }

    /// Events from `since` on, until `until` (nanoseconds since the epoch), or for ever.
    pub async fn events_stream(
        &self,
        since: Option<i64>,
        until: Option<i64>,
        filters: Filters,
    ) -> Result<Pin<Box<dyn Stream<Item = EventMessage> + Send>>> {
        filters.only(&[
            "type",
            "event",
            "container",
            "image",
            "volume",
            "network",
            "label",
            "label!",
            "scope",
            "daemon",
            "plugin",
            "stack",
        ])?;
        // With an end alone, Docker tells what has happened until then.
        let since = since.or_else(|| until.map(|_| 0));
        let (past, receiver) = self.inner.shared.events.subscribe(since);
        let remaining = until.map(|until| {
            let now = i64::try_from(events::now_ns()).unwrap_or(i64::MAX);
            std::time::Duration::from_nanos(u64::try_from(until.saturating_sub(now)).unwrap_or(0))
        });
        let end = Box::pin(async move {
            match remaining {
                Some(remaining) => tokio::time::sleep(remaining).await,
                None => std::future::pending().await,
            }
        });
        let live = stream::unfold(receiver, |mut receiver| async move {
            loop {
                match receiver.recv().await {
                    Ok(event) => return Some((event, receiver)),
                    Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => return None,
                }
            }
        });
        let before_end = move |event: &EventMessage| until.is_none_or(|until| event.time_nano.unwrap_or(0) <= until);
        let all = stream::iter(past).chain(live.take_until(end));
        Ok(Box::pin(all.filter(move |event| std::future::ready(before_end(event) && events::matches(event, &filters)))))
    }
}
