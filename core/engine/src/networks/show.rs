//! Networks as clients see them.

use std::collections::HashMap;

use bollard_stubs::models::{EndpointResource, EndpointSettings, Ipam, NetworkInspect};

use super::record::{NetworkRecord, Stage};
use super::state::{Inner, State};
use crate::error::{Error, Result};
use crate::filters::Filters;

impl Inner {
    pub(super) fn list(&self, filters: &Filters) -> Result<Vec<NetworkInspect>> {
        filters.only(&["dangling", "driver", "id", "label", "name", "scope", "type"])?;
        let dangling = filters.truth("dangling")?;
        for kind in filters.values("type") {
            if !matches!(kind, "custom" | "builtin") {
                return Err(Error::invalid(format!("invalid filter 'type={kind}'")));
            }
        }
        let state = self.state();
        let passes = |network: &&NetworkRecord| {
            let kind = if network.is_predefined() { "builtin" } else { "custom" };
            network.stage == Stage::There
                && filters.any("driver", |driver| network.driver == driver)
                && filters.any("id", |id| network.id.starts_with(id))
                && filters.any("name", |name| network.name.contains(name))
                && filters.any("scope", |scope| scope == "local")
                && filters.any("type", |wanted| wanted == kind)
                && filters.labels(&network.labels)
                && dangling.is_none_or(|wanted| {
                    wanted == (!network.is_predefined() && state.endpoints_in(&network.id).next().is_none())
                })
        };
        let mut list: Vec<&NetworkRecord> = state.networks.values().filter(passes).collect();
        list.sort_by_key(|network| std::cmp::Reverse(network.created_ns));
        Ok(list.into_iter().map(|network| shown(network, None)).collect())
    }

    pub(super) fn inspect(&self, reference: &str) -> Result<NetworkInspect> {
        let state = self.state();
        Ok(shown(state.find(reference)?, Some(&state)))
    }

    /// A container's endpoints by network name.
    pub(super) fn endpoints(&self, container: &str) -> HashMap<String, EndpointSettings> {
        let state = self.state();
        state
            .in_order(container)
            .into_iter()
            .map(|(endpoint, network)| (network.name.clone(), endpoint.shown(network)))
            .collect()
    }

    /// Names and ids of a container's networks.
    pub(super) fn joined(&self, container: &str) -> Vec<(String, String)> {
        let state = self.state();
        let all = state.in_order(container).into_iter();
        all.map(|(_, network)| (network.name.clone(), network.id.clone())).collect()
    }
}

fn shown(network: &NetworkRecord, state: Option<&State>) -> NetworkInspect {
    let text = |net: Option<ipnet::IpNet>| Some(net.map(|net| net.to_string()).unwrap_or_default());
    let containers = state.into_iter().flat_map(|state| state.endpoints_in(&network.id)).map(|endpoint| {
        let resource = EndpointResource {
            name: Some(endpoint.container_name.clone()),
            endpoint_id: Some(endpoint.id.clone()),
            mac_address: Some(endpoint.mac.clone()),
            ipv4_address: text(endpoint.address(true)),
            ipv6_address: text(endpoint.address(false)),
        };
        (endpoint.container.clone(), resource)
    });
    NetworkInspect {
        name: Some(network.name.clone()),
        id: Some(network.id.clone()),
        created: Some(sampan_image::timestamp::format(i64::try_from(network.created_ns).unwrap_or(0))),
        scope: Some("local".to_owned()),
        driver: Some(network.driver.clone()),
        enable_ipv4: Some(network.enable_ipv4),
        enable_ipv6: Some(network.enable_ipv6),
        ipam: Some(Ipam {
            driver: Some("default".to_owned()),
            config: Some(network.ipam_config.clone()),
            options: Some(network.ipam_options.clone()),
        }),
        internal: Some(network.internal),
        attachable: Some(network.attachable),
        ingress: Some(false),
        config_from: None,
        config_only: Some(false),
        options: Some(network.options.clone().into_iter().collect()),
        labels: Some(network.labels.clone()),
        peers: None,
        containers: Some(containers.collect()),
        services: None,
        status: None,
    }
}
