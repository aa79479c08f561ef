//! How the running containers of a service are replaced: `deploy.update_config` and `rollback_config`. Pure.

use std::time::Duration;

use sampan_compose::Project;
use sampan_compose::model::{Service, UpdateConfig};
use serde::Serialize;

/// Which of the two is there first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// The old container ends, then the new one starts.
    #[default]
    StopFirst,
    /// The new container runs and is healthy, then the old one ends.
    StartFirst,
}

/// What happens when too many replacements failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureAction {
    /// The update stands still until the service is changed or brought up again.
    #[default]
    Pause,
    /// The others are replaced all the same.
    Continue,
    /// What was replaced is replaced by the version before.
    Rollback,
}

/// How to replace the containers of a service.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Policy {
    /// At once; 0 is all.
    pub parallelism: u32,
    /// Between one group and the next.
    pub delay: Duration,
    /// How long a new container is looked at after it is ready.
    pub monitor: Duration,
    pub order: Order,
    pub failure_action: FailureAction,
    /// Share of replacements that may fail.
    pub max_failure_ratio: f64,
}

/// The policy of a service that has one, and what the user should know of it.
#[must_use]
pub fn policy(project: &Project, name: &str, back: bool) -> Option<(Policy, Option<String>)> {
    let service = project.services.get(name)?;
    let deploy = service.deploy.as_ref()?;
    let update = deploy.update_config.as_ref();
    let config = if back { deploy.rollback_config.as_ref().or(update) } else { update }?;
    let mut policy = Policy {
        parallelism: config.parallelism.unwrap_or(1),
        delay: config.delay.unwrap_or_default(),
        monitor: config.monitor.unwrap_or_default(),
        order: order(config),
        failure_action: match config.failure_action.as_str() {
            "continue" => FailureAction::Continue,
            "rollback" if !back => FailureAction::Rollback,
            _ => FailureAction::Pause,
        },
        max_failure_ratio: config.max_failure_ratio,
    };
    let mut warning = None;
    if policy.order == Order::StartFirst
        && let Some(why) = alone(service)
    {
        policy.order = Order::StopFirst;
        warning = Some(format!("service {name}: it is updated stop-first, as {why}"));
    }
    Some((policy, warning))
}

fn order(config: &UpdateConfig) -> Order {
    if config.order == "start-first" { Order::StartFirst } else { Order::StopFirst }
}

/// Why two containers of a service cannot be there at once, if so.
fn alone(service: &Service) -> Option<String> {
    if !service.network_mode.is_empty() {
        return Some(format!("two containers cannot serve at once with network_mode {:?}", service.network_mode));
    }
    let fixed = service.networks.iter().find(|(_, settings)| {
        settings.as_ref().is_some_and(|settings| {
            !settings.ipv4_address.is_empty() || !settings.ipv6_address.is_empty() || !settings.mac_address.is_empty()
        })
    });
    if let Some((network, _)) = fixed {
        return Some(format!("its address in the network {network} is fixed"));
    }
    (!service.mac_address.is_empty()).then(|| "its hardware address is fixed".to_owned())
}

impl Policy {
    /// The groups in which so many containers are replaced.
    #[must_use]
    pub fn groups(&self, containers: usize) -> usize {
        match usize::try_from(self.parallelism).unwrap_or(usize::MAX) {
            0 => containers.max(1),
            some => some,
        }
    }

    /// Whether so many failures of so many are too many.
    #[must_use]
    pub fn is_failed(&self, failed: usize, of: usize) -> bool {
        #[allow(clippy::cast_precision_loss)]
        let ratio = failed as f64 / of.max(1) as f64;
        failed > 0 && ratio > self.max_failure_ratio
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sampan_compose::{LoadOptions, MemoryFiles};

    fn project(service: &str) -> Project {
        let files =
            MemoryFiles::default().with("/p/compose.yaml", format!("services:\n  web:\n    image: web\n{service}\n"));
        let options =
            LoadOptions { working_dir: "/p".into(), project_name: Some("p".into()), ..LoadOptions::default() };
        sampan_compose::load(&options, &files).unwrap_or_else(|error| panic!("{error}")).project
    }

    #[test]
    fn a_policy_is_what_the_file_says_with_the_specifications_defaults() {
        assert_eq!(policy(&project(""), "web", false), None);
        let plain = project("    deploy: { update_config: {} }");
        let (found, warning) = policy(&plain, "web", false).unwrap();
        assert_eq!(found, Policy { parallelism: 1, ..Policy::default() });
        assert_eq!(warning, None);
        let own = project(
            "    deploy: { update_config: { order: start-first, parallelism: 0, delay: 2s, monitor: 1s, failure_action: rollback, max_failure_ratio: 0.5 } }",
        );
        let (found, _) = policy(&own, "web", false).unwrap();
        assert_eq!(
            (found.order, found.failure_action, found.groups(3)),
            (Order::StartFirst, FailureAction::Rollback, 3)
        );
        assert!(!found.is_failed(1, 2) && found.is_failed(2, 3) && !found.is_failed(0, 3));
        let (back, _) = policy(&own, "web", true).unwrap();
        assert_eq!((back.order, back.failure_action), (Order::StartFirst, FailureAction::Pause), "as the update went");
    }

    #[test]
    fn what_cannot_be_there_twice_is_stopped_first_and_told() {
        let host = project("    network_mode: host\n    deploy: { update_config: { order: start-first } }");
        let (found, warning) = policy(&host, "web", false).unwrap();
        assert_eq!(found.order, Order::StopFirst);
        assert!(warning.unwrap().contains("network_mode"));
    }
}
