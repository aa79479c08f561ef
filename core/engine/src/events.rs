//! What happened: a bounded history and a channel for those who listen.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bollard_stubs::models::{EventActor, EventMessage, EventMessageScopeEnum, EventMessageTypeEnum};
use tokio::sync::broadcast;

use crate::filters::Filters;

/// Events that are remembered for `since`.
const HISTORY: usize = 1024;
/// A listener this far behind misses events.
const CHANNEL: usize = 4096;

/// Publishes events. Clones share it.
#[derive(Debug, Clone)]
pub struct Events {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    history: Mutex<VecDeque<EventMessage>>,
    sender: broadcast::Sender<EventMessage>,
}

impl Default for Events {
    fn default() -> Self {
        let (sender, _) = broadcast::channel(CHANNEL);
        Self { inner: Arc::new(Inner { history: Mutex::new(VecDeque::new()), sender }) }
    }
}

/// Nanoseconds since the epoch.
#[must_use]
pub fn now_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|elapsed| u64::try_from(elapsed.as_nanos()).ok())
        .unwrap_or(0)
}

impl Events {
    /// Tells that something happened to an object. Attributes are those of Docker: name, image, labels, `exitCode`, …
    pub fn publish(
        &self,
        kind: EventMessageTypeEnum,
        action: &str,
        id: &str,
        attributes: impl IntoIterator<Item = (String, String)>,
    ) {
        let time = i64::try_from(now_ns()).unwrap_or(i64::MAX);
        let message = EventMessage {
            typ: Some(kind),
            action: Some(action.to_owned()),
            actor: Some(EventActor {
                id: Some(id.to_owned()),
                attributes: Some(attributes.into_iter().collect::<HashMap<_, _>>()),
            }),
            scope: Some(EventMessageScopeEnum::LOCAL),
            time: Some(time / 1_000_000_000),
            time_nano: Some(time),
        };
        let mut history = self.inner.history.lock().unwrap_or_else(PoisonError::into_inner);
        if history.len() == HISTORY {
            history.pop_front();
        }
        history.push_back(message.clone());
        // Nobody listening is no failure. Sent under the lock, so that history and channel have one order.
        let _ = self.inner.sender.send(message);
    }

    /// Remembered events from `since` on (nanoseconds), and the channel for what follows them.
    #[must_use]
    pub fn subscribe(&self, since: Option<i64>) -> (Vec<EventMessage>, broadcast::Receiver<EventMessage>) {
        let history = self.inner.history.lock().unwrap_or_else(PoisonError::into_inner);
        let receiver = self.inner.sender.subscribe();
        let past = match since {
            None => Vec::new(),
            Some(since) => history.iter().filter(|event| event.time_nano.unwrap_or(0) >= since).cloned().collect(),
        };
        (past, receiver)
    }
}

/// Whether an event passes Docker's filters of `events`.
#[must_use]
pub fn matches(event: &EventMessage, filters: &Filters) -> bool {
    let kind = event.typ.map(|kind| kind.to_string()).unwrap_or_default();
    let action = event.action.as_deref().unwrap_or_default();
    let empty = HashMap::new();
    let attributes = event.actor.as_ref().and_then(|actor| actor.attributes.as_ref()).unwrap_or(&empty);
    let id = event.actor.as_ref().and_then(|actor| actor.id.as_deref()).unwrap_or_default();
    let named = |wanted: &str| {
        (!wanted.is_empty() && id.starts_with(wanted)) || attributes.get("name").is_some_and(|name| name == wanted)
    };
    let of = |wanted_kind: &str, attribute: &str| {
        filters.any(wanted_kind, |wanted| {
            (kind == wanted_kind && named(wanted)) || attributes.get(attribute).is_some_and(|found| found == wanted)
        })
    };
    filters.any("type", |wanted| kind == wanted)
        && filters.any("event", |wanted| action == wanted || action.split(':').next() == Some(wanted))
        && of("container", "container")
        && of("image", "image")
        && of("volume", "volume")
        && of("network", "network")
        && filters.any("scope", |wanted| wanted == "local")
        && filters.labels(attributes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn filters(json: &str) -> Filters {
        Filters::parse(json).unwrap()
    }

    #[test]
    fn events_are_remembered_in_order_and_filtered() {
        let events = Events::default();
        let attributes = |name: &str| [("name".to_owned(), name.to_owned()), ("image".to_owned(), "img".to_owned())];
        events.publish(EventMessageTypeEnum::CONTAINER, "start", "abc123", attributes("web"));
        events.publish(EventMessageTypeEnum::CONTAINER, "exec_start: sh", "abc123", attributes("web"));
        events.publish(
            EventMessageTypeEnum::NETWORK,
            "connect",
            "net1",
            [("container".to_owned(), "abc123".to_owned())],
        );
        let (past, _) = events.subscribe(Some(0));
        let passing = |json: &str| past.iter().filter(|event| matches(event, &filters(json))).count();
        assert_eq!(passing("{}"), 3);
        assert_eq!(passing(r#"{"type":["network"]}"#), 1);
        assert_eq!(passing(r#"{"event":["exec_start"]}"#), 1);
        assert_eq!(passing(r#"{"container":["web"]}"#), 2);
        assert_eq!(passing(r#"{"container":["abc123"]}"#), 3);
        assert_eq!(passing(r#"{"image":["img"],"event":["start"]}"#), 1);
        assert_eq!(passing(r#"{"event":["die"]}"#), 0);
    }
}
