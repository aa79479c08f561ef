//! `deploy`.

use super::fields::Fields;
use super::service::set;
use super::{Cx, special};
use crate::model::{Deploy, DeployResources, Placement, Preference, ResourceLimits, RestartPolicy, UpdateConfig};
use crate::node::Node;

pub(super) fn deploy(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Deploy> {
    let mut fields = Fields::of(cx, node, "`deploy`")?;
    let mut deploy = Deploy {
        mode: fields
            .get(cx, "mode", |cx, node| cx.word(node, &["replicated", "global", "replicated-job", "global-job"])),
        replicas: fields.option(cx, "replicas", Cx::count),
        labels: fields.get(cx, "labels", Cx::pairs),
        update_config: fields.option(cx, "update_config", update),
        rollback_config: fields.option(cx, "rollback_config", update),
        resources: fields.get(cx, "resources", resources),
        restart_policy: fields.option(cx, "restart_policy", restart_policy),
        placement: fields.get(cx, "placement", placement),
        endpoint_mode: fields.get(cx, "endpoint_mode", |cx, node| cx.word(node, &["vip", "dnsrr"])),
        ..Deploy::default()
    };
    deploy.extensions = fields.finish(cx, &[]);
    if deploy.mode.ends_with("-job") {
        let at = node.get("mode").unwrap_or(node).at;
        cx.session.unsupported(at, format!("`deploy`: mode {} is not supported yet", deploy.mode));
    }
    if deploy.mode == "global" && deploy.replicas.is_some_and(|replicas| replicas > 1) {
        cx.bad(node, "a global service has one replica on one host");
    }
    if let Some(entry) = node.entry("endpoint_mode") {
        cx.session.warning(entry.at, "`endpoint_mode` has no effect on one host");
    }
    if let Some(entry) = node.entry("labels").filter(|_| !deploy.labels.is_empty()) {
        let message =
            "`labels` of `deploy` are a cluster's and have no effect; a container's are the service's own `labels`";
        cx.session.ineffective(entry.at, message);
    }
    if let Some(entry) = node.entry("placement").filter(|_| deploy.placement != Placement::default()) {
        cx.session.unsupported(entry.at, "`placement` is not supported: there is one host, and nothing to choose from");
    }
    Some(deploy)
}

fn update(cx: &mut Cx<'_, '_>, node: &Node) -> Option<UpdateConfig> {
    let mut fields = Fields::of(cx, node, "an update")?;
    let mut update = UpdateConfig {
        parallelism: fields.option(cx, "parallelism", Cx::count),
        delay: set(fields.option(cx, "delay", Cx::duration)),
        failure_action: fields.get(cx, "failure_action", |cx, node| cx.word(node, &["continue", "rollback", "pause"])),
        monitor: set(fields.option(cx, "monitor", Cx::duration)),
        max_failure_ratio: fields.get(cx, "max_failure_ratio", Cx::float),
        order: fields.get(cx, "order", |cx, node| cx.word(node, &["stop-first", "start-first"])),
        ..UpdateConfig::default()
    };
    update.extensions = fields.finish(cx, &[]);
    if update.max_failure_ratio > 1.0 {
        cx.bad(node, "`max_failure_ratio` is between 0 and 1");
    }
    Some(update)
}

fn resources(cx: &mut Cx<'_, '_>, node: &Node) -> Option<DeployResources> {
    let mut fields = Fields::of(cx, node, "`resources`")?;
    let mut resources = DeployResources {
        limits: fields.option(cx, "limits", limits),
        reservations: fields.option(cx, "reservations", reservations),
        ..DeployResources::default()
    };
    resources.extensions = fields.finish(cx, &[]);
    Some(resources)
}

fn limits(cx: &mut Cx<'_, '_>, node: &Node) -> Option<ResourceLimits> {
    let mut fields = Fields::of(cx, node, "`limits`")?;
    let mut limits = ResourceLimits {
        cpus: fields.option(cx, "cpus", Cx::float),
        memory: set(fields.option(cx, "memory", Cx::bytes)),
        pids: fields.option(cx, "pids", Cx::integer),
        ..ResourceLimits::default()
    };
    limits.extensions = fields.finish(cx, &[]);
    Some(limits)
}

fn reservations(cx: &mut Cx<'_, '_>, node: &Node) -> Option<ResourceLimits> {
    let mut fields = Fields::of(cx, node, "`reservations`")?;
    let mut limits = ResourceLimits {
        cpus: fields.option(cx, "cpus", Cx::float),
        memory: set(fields.option(cx, "memory", Cx::bytes)),
        devices: fields.get(cx, "devices", special::reserved_devices),
        generic_resources: fields.get(cx, "generic_resources", special::generic_resources),
        ..ResourceLimits::default()
    };
    limits.extensions = fields.finish(cx, &[]);
    if let Some(entry) = node.entry("cpus").filter(|_| limits.cpus.is_some()) {
        cx.session
            .ineffective(entry.at, "reserved `cpus` have no effect: nothing chooses a host by them; see `cpu_shares`");
    }
    Some(limits)
}

fn restart_policy(cx: &mut Cx<'_, '_>, node: &Node) -> Option<RestartPolicy> {
    let mut fields = Fields::of(cx, node, "a restart policy")?;
    let mut policy = RestartPolicy {
        condition: fields.get(cx, "condition", |cx, node| cx.word(node, &["none", "on-failure", "any"])),
        delay: fields.option(cx, "delay", Cx::duration),
        max_attempts: fields.option(cx, "max_attempts", Cx::count),
        window: fields.option(cx, "window", Cx::duration),
        ..RestartPolicy::default()
    };
    policy.extensions = fields.finish(cx, &[]);
    for key in ["delay", "window"] {
        if let Some(entry) = node.entry(key).filter(|entry| !entry.value.is_null()) {
            let message =
                format!("`{key}` of a restart policy has no effect: the engine waits longer after each failure");
            cx.session.ineffective(entry.at, message);
        }
    }
    Some(policy)
}

fn placement(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Placement> {
    let mut fields = Fields::of(cx, node, "`placement`")?;
    let mut placement = Placement {
        constraints: fields.get(cx, "constraints", Cx::strings),
        preferences: fields.get(cx, "preferences", |cx, node| {
            cx.list(node, |cx, item| {
                let mut fields = Fields::of(cx, item, "a preference")?;
                let spread = fields.get(cx, "spread", Cx::string);
                fields.finish(cx, &[]);
                Some(Preference { spread })
            })
        }),
        max_replicas_per_node: fields.get(cx, "max_replicas_per_node", Cx::count),
        ..Placement::default()
    };
    placement.extensions = fields.finish(cx, &[]);
    Some(placement)
}
