//! How a stack's containers stand when it is up, and where they are reached.

use bollard_stubs::models::{ContainerSummaryStateEnum, HealthStatusEnum, PortSummary};
use sampan_engine::Engine;
use sampan_engine::containers::Kept;
use serde::Serialize;

use crate::labels;
use crate::observe::of_project;

/// One container of a stack.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Place {
    /// Of which service.
    pub service: String,
    /// `healthy`, `unhealthy`, `starting`; `running` where there is no check; `exited (0)`, `paused`, …
    pub state: String,
    /// Its ports.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortSummary>,
}

/// Those of a project, but for what is run beside it.
pub(crate) fn places(engine: &Engine, project: &str) -> Vec<Place> {
    engine.kept_containers(&of_project(project, None)).iter().filter_map(place).collect()
}

fn place(container: &Kept) -> Option<Place> {
    let label = |name: &str| container.labels()?.get(name).map(String::as_str);
    if container.labels().is_some_and(labels::is_one_off) {
        return None;
    }
    let service = label(labels::SERVICE).filter(|service| !service.is_empty())?.to_owned();
    Some(Place {
        service,
        state: state(container.state(), container.health, container.standing.code),
        ports: container.ports(),
    })
}

fn state(state: ContainerSummaryStateEnum, health: Option<HealthStatusEnum>, code: i64) -> String {
    match (state, health) {
        (ContainerSummaryStateEnum::RUNNING, Some(HealthStatusEnum::HEALTHY)) => "healthy".to_owned(),
        (ContainerSummaryStateEnum::RUNNING, Some(HealthStatusEnum::UNHEALTHY)) => "unhealthy".to_owned(),
        (ContainerSummaryStateEnum::RUNNING, Some(HealthStatusEnum::STARTING)) => "starting".to_owned(),
        (ContainerSummaryStateEnum::EXITED, _) => format!("exited ({code})"),
        (other, _) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_told_by_health_where_there_is_a_check() {
        use ContainerSummaryStateEnum as State;
        assert_eq!(state(State::RUNNING, None, 0), "running");
        assert_eq!(state(State::RUNNING, Some(HealthStatusEnum::NONE), 0), "running");
        assert_eq!(state(State::RUNNING, Some(HealthStatusEnum::STARTING), 0), "starting");
        assert_eq!(state(State::PAUSED, Some(HealthStatusEnum::HEALTHY), 0), "paused");
        assert_eq!(state(State::EXITED, Some(HealthStatusEnum::UNHEALTHY), 3), "exited (3)");
    }
}
