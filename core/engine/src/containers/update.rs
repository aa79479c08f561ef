//! `update`.

use std::collections::HashMap;

use bollard_stubs::models::{ContainerUpdateBody, ContainerUpdateResponse, HostConfig, RestartPolicyNameEnum};

use super::limits::{self, Host};
use super::record::Status;
use super::{Containers, validate};
use crate::error::{Error, Result};
use crate::{Engine, blocking, detached};

impl Engine {
    /// `update`: limits in place, and the restart policy.
    pub async fn update(&self, id: &str, body: ContainerUpdateBody) -> Result<ContainerUpdateResponse> {
        let containers = self.inner.containers.clone();
        let id = id.to_owned();
        detached(async move { containers.update_limits(&id, body).await }).await
    }

    /// Gives a container the limits and the restart policy of a request, and takes away those that it does not have.
    pub async fn set_limits(&self, id: &str, wanted: HostConfig) -> Result<()> {
        let containers = self.inner.containers.clone();
        let id = id.to_owned();
        detached(async move {
            let replace = move |host: &mut HostConfig| {
                host.memory = wanted.memory;
                host.memory_swap = wanted.memory_swap;
                host.memory_reservation = wanted.memory_reservation;
                host.nano_cpus = wanted.nano_cpus;
                host.cpu_shares = wanted.cpu_shares;
                host.cpu_period = wanted.cpu_period;
                host.cpu_quota = wanted.cpu_quota;
                host.cpuset_cpus = wanted.cpuset_cpus;
                host.pids_limit = wanted.pids_limit;
                host.restart_policy = wanted.restart_policy;
                Ok(())
            };
            containers.change_limits(&id, false, replace).await.map(drop)
        })
        .await
    }

    /// Gives a container other labels, in place of all it has.
    pub async fn relabel(&self, id: &str, labels: HashMap<String, String>) -> Result<()> {
        let containers = self.inner.containers.clone();
        let id = id.to_owned();
        detached(async move {
            let container = containers.find(&id)?;
            let _operation = container.operation.lock().await;
            containers.update(&container, |record| record.config.labels = Some(labels))?;
            containers.publish(&container, "update", []);
            Ok(())
        })
        .await
    }
}

impl Containers {
    async fn update_limits(&self, id: &str, body: ContainerUpdateBody) -> Result<ContainerUpdateResponse> {
        self.change_limits(id, true, move |host| merge(host, body)).await
    }

    /// `by_hand`: a user's word, against what a stack may say.
    async fn change_limits(
        &self,
        id: &str,
        by_hand: bool,
        change: impl FnOnce(&mut HostConfig) -> Result<()>,
    ) -> Result<ContainerUpdateResponse> {
        let container = self.find(id)?;
        let _operation = container.operation.lock().await;
        if matches!(container.status(), Status::Removing | Status::Dead) {
            return Err(Error::conflict(format!(
                "Cannot update container {}: Container is marked for removal and cannot be \"update\".",
                container.id
            )));
        }
        let refused = |error: Error| error.context(format!("Cannot update container {}", container.id));
        let before = container.record().host.clone();
        let mut host = before.clone();
        change(&mut host).map_err(refused)?;
        let measured = Host::measure(&self.shared().cgroups);
        let warnings = limits::check(&mut host, &measured).map_err(refused)?;
        validate::restart_policy(&host).map_err(refused)?;
        if container.status().is_alive() {
            let cgroup = self.cgroup(&container.record());
            let wanted = limits::between(&before, &host, &measured);
            let applied = blocking(move || cgroup.apply(&wanted).map_err(|error| Error::internal(error.to_string())));
            applied.await.map_err(refused)?;
        }
        self.update(&container, |record| {
            record.host = host;
            record.updated = by_hand;
        })?;
        self.publish(&container, "update", []);
        Ok(ContainerUpdateResponse { warnings: Some(warnings) })
    }
}

/// What is not zero replaces what is there. Pure.
fn merge(host: &mut HostConfig, body: ContainerUpdateBody) -> Result<()> {
    fn number<T: Default + PartialEq>(own: &mut Option<T>, given: Option<T>) {
        if given.as_ref().is_some_and(|value| *value != T::default()) {
            *own = given;
        }
    }
    let nano = body.nano_cpus.unwrap_or(0);
    if nano != 0 && (host.cpu_period.unwrap_or(0) != 0 || host.cpu_quota.unwrap_or(0) != 0) {
        return Err(Error::invalid(
            "Conflicting options: Nano CPUs cannot be updated as CPU Period or CPU Quota has already been set",
        ));
    }
    if (body.cpu_period.unwrap_or(0) != 0 || body.cpu_quota.unwrap_or(0) != 0) && host.nano_cpus.unwrap_or(0) != 0 {
        return Err(Error::invalid(
            "Conflicting options: CPU Period or CPU Quota cannot be updated as NanoCPUs has already been set",
        ));
    }
    let memory = body.memory.unwrap_or(0);
    let swap = host.memory_swap.unwrap_or(0);
    if memory != 0 && body.memory_swap.unwrap_or(0) == 0 && swap > 0 && memory > swap {
        return Err(Error::invalid(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        ));
    }
    for (given, what) in [
        (body.devices.as_ref().map(Vec::len), "devices"),
        (body.device_cgroup_rules.as_ref().map(Vec::len), "device rules"),
        (body.device_requests.as_ref().map(Vec::len), "device requests"),
        (body.ulimits.as_ref().map(Vec::len), "ulimits"),
    ] {
        if given.is_some_and(|length| length > 0) {
            return Err(Error::unsupported(format!("{what} cannot be updated in place")));
        }
    }
    number(&mut host.cpu_shares, body.cpu_shares);
    number(&mut host.memory, body.memory);
    number(&mut host.memory_swap, body.memory_swap);
    number(&mut host.memory_reservation, body.memory_reservation);
    number(&mut host.blkio_weight, body.blkio_weight);
    number(&mut host.cpu_period, body.cpu_period);
    number(&mut host.cpu_quota, body.cpu_quota);
    number(&mut host.cpuset_cpus, body.cpuset_cpus);
    number(&mut host.cpuset_mems, body.cpuset_mems);
    number(&mut host.nano_cpus, body.nano_cpus);
    number(&mut host.pids_limit, body.pids_limit);
    if body.oom_kill_disable == Some(true) {
        host.oom_kill_disable = Some(true);
    }
    if let Some(policy) =
        body.restart_policy.filter(|policy| policy.name.is_some_and(|n| n != RestartPolicyNameEnum::EMPTY))
    {
        if host.auto_remove == Some(true) && policy.name != Some(RestartPolicyNameEnum::NO) {
            return Err(Error::invalid(
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            ));
        }
        host.restart_policy = Some(policy);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_given_replaces_and_conflicts_are_told() {
        let mut host = HostConfig { memory: Some(64 << 20), cpu_shares: Some(512), ..HostConfig::default() };
        let body = ContainerUpdateBody {
            memory: Some(32 << 20),
            cpu_shares: Some(0),
            pids_limit: Some(-1),
            ..ContainerUpdateBody::default()
        };
        merge(&mut host, body).unwrap();
        assert_eq!((host.memory, host.cpu_shares, host.pids_limit), (Some(32 << 20), Some(512), Some(-1)));
        host.nano_cpus = Some(1);
        let quota = ContainerUpdateBody { cpu_quota: Some(5000), ..ContainerUpdateBody::default() };
        assert!(merge(&mut host, quota).unwrap_err().message.contains("NanoCPUs has already been set"));
    }
}
