//! From desired and observed to a plan: a graph of actions, each behind those that it needs. Pure.

mod down;
mod up;

use std::collections::BTreeSet;
use std::fmt;

use sampan_compose::Project;
use sampan_compose::model::Condition;
use serde::Serialize;

use crate::desired;
use crate::in_place::Change;
use crate::rollout::{Order, Policy};

pub use down::{DownOptions, down};
pub(crate) use up::heals;
pub use up::up;

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum Action {
    /// Make a network of the project.
    CreateNetwork { key: String, name: String },
    /// Remove a network.
    RemoveNetwork {
        name: String,
        /// To make it anew: one that others are still in is in the way then.
        #[serde(skip_serializing_if = "is_false")]
        anew: bool,
    },
    /// Make a volume of the project.
    CreateVolume { key: String, name: String },
    /// Remove a volume and what is in it.
    RemoveVolume { name: String },
    /// Make a container.
    Create { service: String, number: u32, name: String },
    /// Start a container, by name.
    Start {
        service: String,
        number: u32,
        name: String,
        /// Behind what runs before the service.
        #[serde(skip_serializing_if = "is_false")]
        prepare: bool,
    },
    /// Make a container anew in the place of another, and start it.
    Recreate {
        service: String,
        number: u32,
        name: String,
        old: String,
        why: Why,
        /// Behind what runs before the service.
        #[serde(skip_serializing_if = "is_false")]
        prepare: bool,
    },
    /// Replace running containers of a service as its `update_config` says.
    Update {
        service: String,
        replicas: Vec<Replica>,
        policy: Policy,
        /// Behind what runs before the service.
        #[serde(skip_serializing_if = "is_false")]
        prepare: bool,
    },
    /// Change a container as it is.
    Change { service: String, number: u32, name: String, id: String, changes: Vec<Change> },
    /// Give a container the name that it should have.
    Rename { service: String, name: String, id: String, before: String },
    /// Stop and start a container.
    Restart { service: String, name: String, why: Because },
    /// Stop a container.
    Stop { service: String, name: String, id: String },
    /// Remove a container that does not run.
    Remove { service: String, name: String, id: String },
    /// Wait until a service is as another needs it.
    Await { service: String, condition: Condition, required: bool },
}

fn is_false(value: &bool) -> bool {
    !value
}

/// A container that is replaced while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Replica {
    /// Which of the service's.
    pub number: u32,
    /// Name of the new one.
    pub name: String,
    /// Id of the old one.
    pub old: String,
    /// Why.
    pub why: Why,
}

/// Why a container is stopped and started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Because {
    /// What it needs was started again.
    Peer,
    /// Its health check says that it is not well, and its service wants it restarted then.
    Unhealthy,
}

/// Why a container is made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// The service's definition is another.
    Definition,
    /// The image is another.
    Image,
    /// The user wanted it.
    Forced,
    /// What it shares a namespace with was made anew.
    Peer,
    /// A network of its is made anew.
    Network,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Definition => "its definition changed",
            Self::Image => "its image changed",
            Self::Forced => "it was asked for",
            Self::Peer => "a service that it is bound to is made anew",
            Self::Network => "its network is made anew",
        })
    }
}

fn behind(prepare: bool) -> &'static str {
    if prepare { ", behind its init containers" } else { "" }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateNetwork { name, .. } => write!(f, "create network {name}"),
            Self::RemoveNetwork { name, .. } => write!(f, "remove network {name}"),
            Self::CreateVolume { name, .. } => write!(f, "create volume {name}"),
            Self::RemoveVolume { name } => write!(f, "remove volume {name}"),
            Self::Create { name, .. } => write!(f, "create container {name}"),
            Self::Start { name, prepare, .. } => write!(f, "start container {name}{}", behind(*prepare)),
            Self::Recreate { name, why, prepare, .. } => {
                write!(f, "recreate container {name}: {why}{}", behind(*prepare))
            }
            Self::Update { replicas, policy, prepare, .. } => {
                let order = if policy.order == Order::StartFirst { "start" } else { "stop" };
                let names: Vec<&str> = replicas.iter().map(|replica| replica.name.as_str()).collect();
                write!(f, "update {} {order} first", names.join(", "))?;
                replicas.first().map_or(Ok(()), |replica| write!(f, ": {}{}", replica.why, behind(*prepare)))
            }
            Self::Change { name, changes, .. } => {
                let mut words: Vec<String> = changes.iter().map(ToString::to_string).collect();
                words.dedup();
                write!(f, "change container {name} in place: {}", words.join(", "))
            }
            Self::Rename { name, before, .. } => write!(f, "rename container {before} to {name}"),
            Self::Restart { name, why: Because::Peer, .. } => write!(f, "restart container {name}"),
            Self::Restart { name, why: Because::Unhealthy, .. } => {
                write!(f, "restart container {name}: it is unhealthy")
            }
            Self::Stop { name, .. } => write!(f, "stop container {name}"),
            Self::Remove { name, .. } => write!(f, "remove container {name}"),
            Self::Await { service, condition, .. } => write!(f, "wait for {service}: {}", condition.as_str()),
        }
    }
}

/// An action and the numbers of those before it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Node {
    /// What to do.
    #[serde(flatten)]
    pub action: Action,
    /// Numbers of actions that must have succeeded.
    pub after: Vec<usize>,
}

/// What to do, in an order that is possible: an action stands behind those that it needs.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Plan {
    /// The actions.
    pub nodes: Vec<Node>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl Plan {
    /// Whether all is as it should be.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.iter().all(|node| matches!(node.action, Action::Await { .. }))
    }

    fn add(&mut self, action: Action, mut after: Vec<usize>) -> usize {
        after.sort_unstable();
        after.dedup();
        self.nodes.push(Node { action, after });
        self.nodes.len() - 1
    }

    /// Takes out what cannot be done for services without an image, and what needs it.
    pub(crate) fn leave_out(&mut self, services: &BTreeSet<String>) {
        let lacking = |action: &Action| match action {
            Action::Create { service, .. } | Action::Recreate { service, .. } | Action::Update { service, .. } => {
                services.contains(service)
            }
            _ => false,
        };
        let mut keep: Vec<bool> = Vec::new();
        for node in &self.nodes {
            let stays = !lacking(&node.action) && node.after.iter().all(|after| keep[*after]);
            keep.push(stays);
        }
        self.retain(&keep);
    }

    /// Keeps actions of a kind.
    pub(crate) fn keep_only(&mut self, wanted: impl Fn(&Action) -> bool) {
        let keep: Vec<bool> = self.nodes.iter().map(|node| wanted(&node.action)).collect();
        self.retain(&keep);
    }

    fn retain(&mut self, keep: &[bool]) {
        let mut places = Vec::new();
        let mut kept = 0;
        for keep in keep {
            places.push(keep.then_some(kept));
            kept += usize::from(*keep);
        }
        let mut stays = keep.iter();
        self.nodes.retain_mut(|node| {
            node.after = node.after.iter().filter_map(|after| places[*after]).collect();
            stays.next().copied().unwrap_or(false)
        });
    }
}

impl fmt::Display for Plan {
    /// A line for each action: its number, what it does, and behind which it comes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, node) in self.nodes.iter().enumerate() {
            write!(f, "{}. {}", number + 1, node.action)?;
            if !node.after.is_empty() {
                let after: Vec<String> = node.after.iter().map(|after| (after + 1).to_string()).collect();
                write!(f, "  (after {})", after.join(", "))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// How far to go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlanOptions {
    /// Only these services and what they need; empty for all.
    pub services: BTreeSet<String>,
    /// Not what they need.
    pub no_deps: bool,
    /// Make every container of the services that are named anew, or of all.
    pub force_recreate: bool,
    /// And of those that they need.
    pub recreate_deps: bool,
    /// Make none anew.
    pub no_recreate: bool,
    /// What is made anew gets empty anonymous volumes.
    pub renew_anon_volumes: bool,
    /// Create, and start nothing.
    pub no_start: bool,
    /// Remove containers of services that the project does not have.
    pub remove_orphans: bool,
    /// Say nothing of them.
    pub ignore_orphans: bool,
    /// Services that the project had until now: their containers go, and networks that only they needed.
    pub retired: BTreeSet<String>,
    /// The daemon's own reconciling: what was stopped by hand stays so, and what ended by itself is left alone.
    pub healing: bool,
    /// Services that the user stopped as a whole.
    pub stopped: BTreeSet<String>,
    /// Those of them whose containers the user removed: none are made.
    pub removed: BTreeSet<String>,
    /// Services whose update failed and stands still: what runs stays as it is.
    pub frozen: BTreeSet<String>,
    /// Services that go back to the version before.
    pub rolling_back: BTreeSet<String>,
    /// Ids of containers that crash again and again, and whose next start is not due yet.
    pub waiting: BTreeSet<String>,
    /// Ids of containers to be restarted, as they are unhealthy.
    pub sick: BTreeSet<String>,
}

/// A project that cannot be planned for as things are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unplannable(pub String);

/// The services that are meant: those named with what they need, or all.
#[must_use]
pub fn selected(project: &Project, options: &PlanOptions) -> Vec<String> {
    let order = desired::order(project);
    if options.services.is_empty() {
        return order;
    }
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    let mut open: Vec<String> = options.services.iter().cloned().collect();
    while let Some(name) = open.pop() {
        if wanted.insert(name.clone())
            && !options.no_deps
            && let Some(service) = project.services.get(&name)
        {
            open.extend(desired::needs(service).into_keys());
        }
    }
    order.into_iter().filter(|name| wanted.contains(name)).collect()
}
