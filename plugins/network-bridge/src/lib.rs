//! A bridge for each network, a veth pair for each endpoint.

use sampan_driver_sdk::network::{
    Address, Attachment, EndpointSpec, Failure, Guest, HostFacts, Intent, Link, LinkKind, NetworkSpec, OptionValue,
    Place, Route, Step, Veth,
};
use sampan_driver_sdk::options::truth;

struct Bridge;

const BRIDGE: &str = "bridge";

struct Settings {
    icc: bool,
    masquerade: bool,
    mtu: Option<u32>,
}

fn settings(options: &[OptionValue]) -> Result<Settings, Failure> {
    let mut settings = Settings { icc: true, masquerade: true, mtu: None };
    for OptionValue { key, value } in options {
        match key.rsplit('.').next() {
            Some("enable_icc") => settings.icc = truth(key, value).map_err(Failure::Invalid)?,
            Some("enable_ip_masquerade") => settings.masquerade = truth(key, value).map_err(Failure::Invalid)?,
            Some("mtu") => {
                let mtu = value.parse().ok().filter(|mtu| (68..=65_535).contains(mtu));
                settings.mtu = Some(mtu.ok_or_else(|| {
                    Failure::Invalid(format!("option {key}: {value:?} is not a size from 68 to 65535"))
                })?);
            }
            _ => {}
        }
    }
    Ok(settings)
}

/// `172.18.0.0/16` and `172.18.0.1` give `172.18.0.1/16`.
fn with_prefix(address: &str, cidr: &str) -> String {
    format!("{address}/{}", cidr.rsplit('/').next().unwrap_or("32"))
}

impl Guest for Bridge {
    fn attached(_: NetworkSpec) -> Result<Attachment, Failure> {
        Ok(Attachment::Joined)
    }

    fn create(_: HostFacts, network: NetworkSpec) -> Result<Vec<Step>, Failure> {
        let settings = settings(&network.options)?;
        let label = BRIDGE.to_owned();
        let mut plan = vec![Step::Link(Link {
            label: label.clone(),
            kind: LinkKind::Bridge,
            place: Place::Host,
            mtu: settings.mtu,
            mac: None,
            master: None,
        })];
        for subnet in &network.subnets {
            plan.push(Step::Address(Address {
                label: label.clone(),
                cidr: with_prefix(&subnet.gateway, &subnet.cidr),
            }));
        }
        plan.push(Step::Up(label.clone()));
        plan.push(Step::Filter(Intent::Isolate(label.clone())));
        if network.internal {
            plan.push(Step::Filter(Intent::Internal(label.clone())));
        } else if settings.masquerade {
            plan.extend(network.subnets.iter().map(|subnet| Step::Filter(Intent::Masquerade(subnet.cidr.clone()))));
        }
        if !settings.icc {
            plan.push(Step::Filter(Intent::NoInterContainer(label)));
        }
        Ok(plan)
    }

    fn join(_: HostFacts, network: NetworkSpec, endpoint: EndpointSpec) -> Result<Vec<Step>, Failure> {
        let settings = settings(&network.options)?;
        let (host, inside) = ("host".to_owned(), "inside".to_owned());
        let mut plan = vec![
            Step::Link(Link {
                label: host.clone(),
                kind: LinkKind::Veth(Veth { peer_label: inside.clone(), peer_place: Place::Endpoint }),
                place: Place::Host,
                mtu: settings.mtu,
                mac: endpoint.mac,
                master: Some(BRIDGE.into()),
            }),
            Step::Rename((inside.clone(), endpoint.interface_name)),
        ];
        plan.extend(endpoint.addresses.into_iter().map(|cidr| Step::Address(Address { label: inside.clone(), cidr })));
        plan.push(Step::Up(host));
        plan.push(Step::Up(inside));
        if !network.internal {
            for subnet in network.subnets {
                let everywhere = if subnet.cidr.contains(':') { "::/0" } else { "0.0.0.0/0" };
                plan.push(Step::Route(Route {
                    destination: everywhere.into(),
                    gateway: Some(subnet.gateway),
                    label: None,
                }));
            }
        }
        Ok(plan)
    }

    fn publishes(network: NetworkSpec) -> Result<bool, Failure> {
        Ok(!network.internal)
    }

    fn left(_: NetworkSpec, _: EndpointSpec) -> Result<(), Failure> {
        Ok(())
    }

    fn removed(_: NetworkSpec) -> Result<(), Failure> {
        Ok(())
    }
}

sampan_driver_sdk::network::export!(Bridge with_types_in sampan_driver_sdk::network::bindings);
