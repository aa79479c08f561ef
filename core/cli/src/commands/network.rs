//! `network …`

use bollard_stubs::models::{
    EndpointIpamConfig, EndpointSettings, Ipam, IpamConfig, NetworkConnectRequest, NetworkCreateRequest,
    NetworkDisconnectRequest,
};
use serde_json::{Value, json};
use std::net::IpAddr;

use super::container::change::each_told;
use super::container::prune::{PruneArgs, confirm, prune as prune_objects, report};
use crate::client::{Query, escape};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::flags::{self, Parsed};
use crate::output::table::{self, Column, Row};
use crate::output::{human, ids, json as layout};
use crate::output::{say, tell};

/// Options of `network create`.
#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// Enable manual container attachment
    #[arg(long)]
    pub attachable: bool,
    /// Auxiliary IPv4 or IPv6 addresses used by Network driver
    #[arg(long, value_name = "map")]
    pub aux_address: Vec<String>,
    /// Driver to manage the Network
    #[arg(short, long, default_value = "bridge")]
    pub driver: String,
    /// IPv4 or IPv6 Gateway for the master subnet
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    pub gateway: Vec<String>,
    /// Create swarm routing-mesh network (refused)
    #[arg(long, hide = true)]
    pub ingress: bool,
    /// Restrict external access to the network
    #[arg(long)]
    pub internal: bool,
    /// Allocate container ip from a sub-range
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    pub ip_range: Vec<String>,
    /// IP Address Management Driver
    #[arg(long, default_value = "default")]
    pub ipam_driver: String,
    /// Set IPAM driver specific options
    #[arg(long, value_name = "map")]
    pub ipam_opt: Vec<String>,
    /// Enable or disable IPv4 address assignment (default true)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub ipv4: Option<bool>,
    /// Enable or disable IPv6 address assignment
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub ipv6: Option<bool>,
    /// Set metadata on a network
    #[arg(long)]
    pub label: Vec<String>,
    /// Set driver specific options
    #[arg(short, long, value_name = "map")]
    pub opt: Vec<String>,
    /// Control the network's scope
    #[arg(long)]
    pub scope: Option<String>,
    /// Subnet in CIDR format that represents a network segment
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    pub subnet: Vec<String>,
    /// Name
    pub network: String,
}

/// An address with the length of a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Subnet {
    ip: IpAddr,
    length: u8,
}

impl Subnet {
    fn parse(text: &str) -> Parsed<Self> {
        let wrong = || format!("invalid CIDR address: {text}");
        let (ip, length) = text.split_once('/').ok_or_else(wrong)?;
        let (ip, length): (IpAddr, u8) = (ip.parse().map_err(|_| wrong())?, length.parse().map_err(|_| wrong())?);
        if length > if ip.is_ipv4() { 32 } else { 128 } {
            return Err(wrong());
        }
        Ok(Self { ip, length })
    }

    fn contains(self, other: IpAddr) -> bool {
        let shifted = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => u128::from(u32::from(ip)).checked_shr(32 - u32::from(self.length)).unwrap_or(0),
            IpAddr::V6(ip) => u128::from(ip).checked_shr(128 - u32::from(self.length)).unwrap_or(0),
        };
        self.ip.is_ipv4() == other.is_ipv4() && shifted(self.ip) == shifted(other)
    }
}

/// Sorts ranges, gateways and auxiliary addresses to the subnets that they lie in.
fn pools(subnets: &[String], ranges: &[String], gateways: &[String], auxiliary: &[String]) -> Parsed<Vec<IpamConfig>> {
    if subnets.is_empty() && !(ranges.is_empty() && gateways.is_empty() && auxiliary.is_empty()) {
        return Err("every ip-range, gateway or aux-address must have a corresponding subnet".to_owned());
    }
    let parsed = subnets.iter().map(|text| Subnet::parse(text)).collect::<Parsed<Vec<_>>>()?;
    for (at, one) in parsed.iter().enumerate() {
        if parsed[..at].iter().any(|other| other.contains(one.ip) || one.contains(other.ip)) {
            return Err("multiple overlapping subnet configuration is not supported".to_owned());
        }
    }
    let mut configs: Vec<IpamConfig> =
        subnets.iter().map(|text| IpamConfig { subnet: Some(text.clone()), ..IpamConfig::default() }).collect();
    let home = |ip: IpAddr, what: &str, text: &str| {
        parsed
            .iter()
            .position(|subnet| subnet.contains(ip))
            .ok_or_else(|| format!("no matching subnet for {what} {text}"))
    };
    for text in ranges {
        let config = &mut configs[home(Subnet::parse(text)?.ip, "range", text)?];
        if config.ip_range.replace(text.clone()).is_some() {
            return Err(format!("cannot configure multiple ranges ({text}) on the same subnet"));
        }
    }
    for text in gateways {
        let ip = text.parse().map_err(|_| format!("invalid gateway address: {text}"))?;
        let config = &mut configs[home(ip, "gateway", text)?];
        if config.gateway.replace(text.clone()).is_some() {
            return Err(format!("cannot configure multiple gateways ({text}) for the same subnet"));
        }
    }
    for text in auxiliary {
        let (name, address) =
            text.split_once('=').ok_or_else(|| format!("invalid aux-address: {text}: use name=address"))?;
        let ip = address.parse().map_err(|_| format!("invalid aux-address: {text}"))?;
        let config = &mut configs[home(ip, "aux-address", address)?];
        config.auxiliary_addresses.get_or_insert_default().insert(name.to_owned(), address.to_owned());
    }
    Ok(configs)
}

/// `network create`
pub async fn create(context: Context, args: CreateArgs) -> Outcome {
    if args.ingress {
        return Err(Failure::new("--ingress is not supported: there is no swarm"));
    }
    let config = pools(&args.subnet, &args.ip_range, &args.gateway, &args.aux_address).map_err(Failure::usage)?;
    let request = NetworkCreateRequest {
        name: args.network,
        driver: Some(args.driver),
        scope: args.scope,
        internal: Some(args.internal),
        attachable: Some(args.attachable),
        ipam: Some(Ipam {
            driver: Some(args.ipam_driver),
            config: Some(config),
            options: Some(flags::map(&args.ipam_opt)),
        }),
        enable_ipv4: args.ipv4,
        enable_ipv6: args.ipv6,
        options: Some(flags::map(&args.opt)),
        labels: Some(flags::env::labels(&[], &args.label).map_err(Failure::usage)?),
        ..NetworkCreateRequest::default()
    };
    let made: Value = context.client.post("/networks/create", &request).await?;
    if let Some(warning) = made["Warning"].as_str().filter(|warning| !warning.is_empty()) {
        tell!("WARNING: {warning}");
    }
    say!("{}", made["Id"].as_str().unwrap_or_default())?;
    Ok(())
}

/// Options of `network connect`.
#[derive(Debug, clap::Args)]
pub struct ConnectArgs {
    /// Add network-scoped alias for the container
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    pub alias: Vec<String>,
    /// driver options for the network
    #[arg(long, value_name = "strings")]
    pub driver_opt: Vec<String>,
    /// Highest gw-priority provides the default gateway. Accepts positive and negative values.
    #[arg(long, value_name = "int", value_parser = flags::quantity::integer)]
    pub gw_priority: Option<i64>,
    /// IPv4 address (e.g., "172.30.100.104")
    #[arg(long)]
    pub ip: Option<String>,
    /// IPv6 address (e.g., "2001:db8::33")
    #[arg(long)]
    pub ip6: Option<String>,
    /// Add link to another container (refused)
    #[arg(long, hide = true)]
    pub link: Vec<String>,
    /// Add a link-local address for the container
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    pub link_local_ip: Vec<String>,
    /// Network
    pub network: String,
    /// Container
    pub container: String,
}

/// `network connect`
pub async fn connect(context: Context, args: ConnectArgs) -> Outcome {
    if !args.link.is_empty() {
        return Err(Failure::new("--link is not supported: containers on a network find each other by name"));
    }
    let ipam = EndpointIpamConfig {
        ipv4_address: args.ip,
        ipv6_address: args.ip6,
        link_local_ips: (!args.link_local_ip.is_empty()).then_some(args.link_local_ip),
    };
    let request = NetworkConnectRequest {
        container: args.container,
        endpoint_config: Some(EndpointSettings {
            ipam_config: (ipam != EndpointIpamConfig::default()).then_some(ipam),
            aliases: (!args.alias.is_empty()).then_some(args.alias),
            driver_opts: (!args.driver_opt.is_empty()).then(|| flags::map(&args.driver_opt)),
            gw_priority: args.gw_priority,
            ..EndpointSettings::default()
        }),
    };
    context.client.act_with(&format!("/networks/{}/connect", escape(&args.network)), &request).await
}

/// Options of `network disconnect`.
#[derive(Debug, clap::Args)]
pub struct DisconnectArgs {
    /// Force the container to disconnect from a network
    #[arg(short, long)]
    pub force: bool,
    /// Network
    pub network: String,
    /// Container
    pub container: String,
}

/// `network disconnect`
pub async fn disconnect(context: Context, args: DisconnectArgs) -> Outcome {
    let request = NetworkDisconnectRequest { container: args.container, force: Some(args.force) };
    context.client.act_with(&format!("/networks/{}/disconnect", escape(&args.network)), &request).await
}

/// Options of `network inspect`.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// Format output using a custom template: 'json' or a Go template
    #[arg(short, long)]
    pub format: Option<String>,
    /// Verbose output for diagnostics
    #[arg(short, long)]
    pub verbose: bool,
    /// Networks
    #[arg(required = true)]
    pub networks: Vec<String>,
}

/// `network inspect`
pub async fn inspect(context: Context, args: InspectArgs) -> Outcome {
    let query = Query::new().flag("verbose", args.verbose);
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    for name in &args.networks {
        match context.client.get::<Value>(&format!("/networks/{}{query}", escape(name))).await {
            Ok(value) => found.push(value),
            Err(failure) => failed.push(failure),
        }
    }
    layout::inspected(&found, &failed, args.format.as_deref())
}

/// Options of `network ls`.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Provide filter values (e.g. "driver=bridge")
    #[arg(short, long, value_name = "filter")]
    pub filter: Vec<String>,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json' or a Go template
    #[arg(long)]
    pub format: Option<String>,
    /// Do not truncate the output
    #[arg(long)]
    pub no_trunc: bool,
    /// Only display network IDs
    #[arg(short, long)]
    pub quiet: bool,
}

/// `network ls`
pub async fn list(context: Context, args: ListArgs) -> Outcome {
    let query = Query::new().filters(&args.filter)?;
    let networks: Vec<Value> = context.client.get(&format!("/networks{query}")).await?;
    let mut rows: Vec<Row> = networks
        .iter()
        .map(|network| {
            let created = network["Created"].as_str().and_then(human::unix_seconds).unwrap_or(0);
            let truth = |field: &str| json!((network[field] == true).to_string());
            table::row([
                ("CreatedAt", json!(human::date(created))),
                ("Driver", network["Driver"].clone()),
                ("ID", json!(ids::short(network["Id"].as_str().unwrap_or_default(), args.no_trunc))),
                ("IPv4", truth("EnableIPv4")),
                ("IPv6", truth("EnableIPv6")),
                ("Internal", truth("Internal")),
                ("Labels", json!(ids::labels(&network["Labels"]))),
                ("Name", network["Name"].clone()),
                ("Scope", network["Scope"].clone()),
                (table::LABELS, network["Labels"].clone()),
            ])
        })
        .collect();
    rows.sort_by_key(|row| row["Name"].as_str().unwrap_or_default().to_owned());
    if args.quiet && args.format.is_none() {
        let ids: String = rows.iter().map(|row| format!("{}\n", row["ID"].as_str().unwrap_or_default())).collect();
        return table::write_all(&ids);
    }
    const COLUMNS: [Column; 4] = [("NETWORK ID", "ID"), ("NAME", "Name"), ("DRIVER", "Driver"), ("SCOPE", "Scope")];
    table::print(&rows, &COLUMNS, args.format.as_deref())
}

/// Options of `network rm`.
#[derive(Debug, clap::Args)]
pub struct RemoveArgs {
    /// Do not error if the network does not exist
    #[arg(short, long)]
    pub force: bool,
    /// Networks
    #[arg(required = true)]
    pub networks: Vec<String>,
}

/// `network rm`
pub async fn remove(context: Context, args: RemoveArgs) -> Outcome {
    let client = &context.client;
    each_told(&args.networks, async |name| match client.delete(&format!("/networks/{}", escape(name))).await {
        Err(failure) if args.force && failure.is_not_found() => Ok(name.to_owned()),
        other => other.map(|_| name.to_owned()),
    })
    .await
}

/// `network prune`
pub async fn prune(context: Context, args: PruneArgs) -> Outcome {
    confirm(args.force, "This will remove all custom networks not used by at least one container.")?;
    let (names, _) = prune_objects(&context, "networks", &args.filter, "NetworksDeleted").await?;
    report("Networks", &names)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(subnets: &[&str], ranges: &[&str], gateways: &[&str], auxiliary: &[&str]) -> Parsed<Vec<IpamConfig>> {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        pools(&owned(subnets), &owned(ranges), &owned(gateways), &owned(auxiliary))
    }

    #[test]
    fn addresses_find_their_subnets() {
        let found =
            read(&["10.1.0.0/16", "fd00::/64"], &["10.1.2.0/24"], &["fd00::1", "10.1.0.1"], &["r=10.1.0.9"]).unwrap();
        assert_eq!(found[0].ip_range.as_deref(), Some("10.1.2.0/24"));
        assert_eq!((found[0].gateway.as_deref(), found[1].gateway.as_deref()), (Some("10.1.0.1"), Some("fd00::1")));
        assert_eq!(found[0].auxiliary_addresses.as_ref().unwrap()["r"], "10.1.0.9");
        for (wrong, part) in [
            (read(&[], &[], &["10.0.0.1"], &[]), "corresponding subnet"),
            (read(&["10.1.0.0/16"], &[], &["10.2.0.1"], &[]), "no matching subnet"),
            (read(&["10.1.0.0/16", "10.1.1.0/24"], &[], &[], &[]), "overlapping"),
            (read(&["10.1.0.0"], &[], &[], &[]), "invalid CIDR"),
            (read(&["10.1.0.0/40"], &[], &[], &[]), "invalid CIDR"),
            (read(&["10.1.0.0/16"], &[], &["10.1.0.1", "10.1.0.2"], &[]), "multiple gateways"),
        ] {
            let error = wrong.unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
