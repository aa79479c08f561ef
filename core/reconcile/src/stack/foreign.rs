//! A stack that the daemon does not keep, such as one that Compose brought up: what the labels of its containers tell is
//! enough to start, stop and remove them. Nothing is made, and the stack does not become the daemon's.

use std::collections::{BTreeMap, BTreeSet};

use bollard_stubs::models::ContainerSummary;
use sampan_compose::model::{Condition, Dependency, Service};
use sampan_compose::{Project, model};
use tokio::sync::watch;

use super::Stack;
use super::requests::applies;
use crate::desired;
use crate::labels;
use crate::observe::{observe, summaries};
use crate::observed::ObservedContainer;
use crate::progress::Progress;
use crate::request::{StackOptions, Verb};

impl Stack {
    /// As [`Stack::act`], for what is there without a record.
    pub(super) async fn act_on_anothers(
        &self,
        verb: Verb,
        services: &BTreeSet<String>,
        options: &StackOptions,
        progress: &Progress,
        cancel: watch::Receiver<bool>,
    ) -> Result<bool, String> {
        let found = summaries(&self.engine, &self.name, None).await.map_err(|error| error.message)?;
        let project = by_labels(&self.name, &found);
        let observed = observe(&self.engine, &self.name, &BTreeSet::new()).await.map_err(|error| error.message)?;
        let order = desired::order(&project);
        let meant = |container: &&ObservedContainer| {
            (verb == Verb::Kill || !container.oneoff) && (services.is_empty() || services.contains(&container.service))
        };
        let mut containers: Vec<&ObservedContainer> = observed.containers.iter().filter(meant).collect();
        containers
            .sort_by_key(|container| (order.iter().position(|name| *name == container.service), container.number));
        match verb {
            Verb::Build | Verb::Pull | Verb::Start if containers.is_empty() => {
                Err(format!("there is no stack {}; bring it up first (`sampan up`)", self.name))
            }
            Verb::Build | Verb::Pull => Err(format!(
                "the daemon does not keep the stack {}, and does not know its images; `sampan up` makes it the daemon's",
                self.name
            )),
            // Nobody named would mean everybody.
            Verb::Stop if containers.is_empty() => Ok(true),
            Verb::Start => self.start_in_order(&project, &containers, options, progress, cancel).await,
            Verb::Stop => {
                let services = containers.iter().map(|container| container.service.clone()).collect();
                self.halt((&project, &observed), services, options, progress, cancel).await
            }
            _ => {
                containers.retain(|container| applies(verb, container.status));
                self.treat(verb, &containers, options, progress, cancel).await
            }
        }
    }

    /// Starts what is there, each service once what it needs is as it wants it.
    async fn start_in_order(
        &self,
        project: &Project,
        containers: &[&ObservedContainer],
        options: &StackOptions,
        progress: &Progress,
        cancel: watch::Receiver<bool>,
    ) -> Result<bool, String> {
        let idle = || containers.iter().filter(|container| !container.status.is_alive());
        if options.dry_run {
            progress.plan(idle().map(|found| format!("start container {}", found.name)).collect(), Vec::new()).await;
            return Ok(true);
        }
        let executor = self.executor(None, progress, options.bounds(), cancel);
        for container in idle() {
            let needs = project.services.get(&container.service).map(|service| &service.depends_on);
            for (peer, need) in needs.into_iter().flatten() {
                // A peer that runs by now counts, whoever started it; one that has no container never will.
                if need.condition != Condition::Started && project.services.contains_key(peer) {
                    executor.wait_for(peer, need.condition).await.map_err(|error| error.message)?;
                }
            }
            let (id, service) = (format!("Container {}", container.name), Some(container.service.as_str()));
            progress.action(id.clone(), service, "Starting", None).await;
            executor.start(&container.id).await.map_err(|error| format!("{id}: {error}"))?;
            progress.action(id, service, "Started", None).await;
        }
        if options.wait {
            let services: BTreeSet<&String> = containers.iter().map(|container| &container.service).collect();
            for service in services {
                executor.wait_for(service, Condition::Started).await.map_err(|error| error.message)?;
            }
        }
        Ok(true)
    }
}

/// What the labels of containers tell of their project: its services, and which need which.
fn by_labels(name: &str, found: &[ContainerSummary]) -> Project {
    let mut services: BTreeMap<String, Service> = BTreeMap::new();
    for container in found {
        let label = |name: &str| container.labels.as_ref().and_then(|all| all.get(name)).map(String::as_str);
        let Some(service) = label(labels::SERVICE) else { continue };
        let needs = label(labels::DEPENDS_ON).unwrap_or_default().split(',').filter_map(need);
        services.entry(service.to_owned()).or_default().depends_on.extend(needs);
    }
    Project { name: name.to_owned(), services, ..model::Project::default() }
}

/// `service:condition:restart`
fn need(text: &str) -> Option<(String, Dependency)> {
    let mut parts = text.split(':');
    let peer = parts.next().filter(|peer| !peer.is_empty())?;
    let known = [Condition::Healthy, Condition::CompletedSuccessfully];
    let condition = parts.next().and_then(|word| known.into_iter().find(|known| known.as_str() == word));
    let restart = parts.next() == Some("true");
    Some((peer.to_owned(), Dependency { condition: condition.unwrap_or_default(), restart, required: true }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn labels_tell_which_services_there_are_and_what_they_need() {
        let container = |service: &str, needs: &str| ContainerSummary {
            labels: Some(
                [(labels::SERVICE, service), (labels::DEPENDS_ON, needs)]
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .into(),
            ),
            ..ContainerSummary::default()
        };
        let found = [
            container("web", "db:service_healthy:true,cache:service_started:false,odd"),
            container("db", ""),
            ContainerSummary::default(),
        ];
        let project = by_labels("p", &found);
        assert_eq!(project.services.keys().collect::<Vec<_>>(), ["db", "web"]);
        let needs = &project.services["web"].depends_on;
        assert_eq!((needs["db"].condition, needs["db"].restart), (Condition::Healthy, true));
        assert_eq!((needs["cache"].condition, needs["odd"].condition), (Condition::Started, Condition::Started));
        assert_eq!(desired::order(&project).last().map(String::as_str), Some("web"));
    }
}
