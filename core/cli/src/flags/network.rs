//! `--network` and what goes with it: addresses, aliases, hosts, name servers.

use bollard_stubs::models::{EndpointIpamConfig, EndpointSettings, NetworkingConfig};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Parsed, csv};

/// Flags that stand for the first network.
#[derive(Debug, Default)]
pub struct First<'a> {
    /// `--network-alias`
    pub aliases: &'a [String],
    /// `--ip`
    pub ip: Option<&'a str>,
    /// `--ip6`
    pub ip6: Option<&'a str>,
    /// `--mac-address`
    pub mac: Option<&'a str>,
    /// `--link-local-ip`
    pub link_local: &'a [String],
}

/// The network mode, and the endpoints to make.
#[derive(Debug, Default, PartialEq)]
pub struct Networks {
    /// `NetworkMode`; the daemon's default when there is none.
    pub mode: Option<String>,
    /// Endpoints by network.
    pub config: Option<NetworkingConfig>,
}

/// Reads all `--network` values.
pub fn networks(texts: &[String], first: &First<'_>) -> Parsed<Networks> {
    let mut parsed = texts.iter().map(|text| one(text)).collect::<Parsed<Vec<_>>>()?;
    if parsed.is_empty() {
        parsed.push(("default".to_owned(), EndpointSettings::default()));
    }
    let fixed = |name: &str| matches!(name, "host" | "none" | "bridge" | "default") || name.starts_with("container:");
    if parsed.len() > 1 && parsed.iter().any(|(name, _)| fixed(name)) {
        return Err(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes".to_owned()
        );
    }
    if let Some((name, endpoint)) = parsed.first_mut() {
        apply(name, endpoint, first)?;
    }
    let mode = texts.first().map(|_| parsed[0].0.clone());
    let alone = parsed.len() == 1;
    let mut endpoints = HashMap::new();
    for (name, endpoint) in parsed {
        // One network without settings needs no endpoint: the mode says it all.
        if alone && endpoint == EndpointSettings::default() {
            continue;
        }
        if endpoints.insert(name.clone(), endpoint).is_some() {
            return Err(format!("network {name:?} is specified multiple times"));
        }
    }
    let config = (!endpoints.is_empty()).then_some(NetworkingConfig { endpoints_config: Some(endpoints) });
    Ok(Networks { mode, config })
}

/// `name`, or `name=…,alias=…,ip=…,driver-opt=k=v`.
fn one(text: &str) -> Parsed<(String, EndpointSettings)> {
    if text.is_empty() {
        return Err("invalid --network: a name is missing".to_owned());
    }
    if !text.contains('=') {
        return Ok((text.to_owned(), EndpointSettings::default()));
    }
    let (mut name, mut endpoint, mut ipam) = (None, EndpointSettings::default(), EndpointIpamConfig::default());
    for field in csv(text)? {
        let (key, value) = field.split_once('=').ok_or_else(|| format!("invalid field {field}"))?;
        let value = value.trim().to_owned();
        match key.trim().to_ascii_lowercase().as_str() {
            "name" => name = Some(value),
            "alias" => endpoint.aliases.get_or_insert_default().push(value),
            "ip" => ipam.ipv4_address = Some(ipv4(&value)?),
            "ip6" => ipam.ipv6_address = Some(ipv6(&value)?),
            "mac-address" => endpoint.mac_address = Some(mac(&value)?),
            "link-local-ip" => ipam.link_local_ips.get_or_insert_default().push(address(&value)?),
            "driver-opt" => {
                let (key, value) = value
                    .split_once('=')
                    .ok_or_else(|| "invalid key value pair format in driver options".to_owned())?;
                endpoint.driver_opts.get_or_insert_default().insert(key.to_owned(), value.to_owned());
            }
            "gw-priority" => {
                let number = value.parse().map_err(|_| format!("invalid gw-priority ({value}): not a number"))?;
                endpoint.gw_priority = Some(number);
            }
            other => return Err(format!("invalid field key {other}")),
        }
    }
    if ipam != EndpointIpamConfig::default() {
        endpoint.ipam_config = Some(ipam);
    }
    Ok((name.ok_or_else(|| "network name is missing: use name=NETWORK".to_owned())?, endpoint))
}

fn apply(name: &str, endpoint: &mut EndpointSettings, first: &First<'_>) -> Parsed<()> {
    let both =
        |flag: &str, key: &str| Err(format!("conflicting options: cannot specify both --{flag} and per-network {key}"));
    if !first.aliases.is_empty() {
        if endpoint.aliases.is_some() {
            return both("network-alias", "alias");
        }
        endpoint.aliases = Some(first.aliases.to_vec());
    }
    if let Some(text) = first.mac {
        if endpoint.mac_address.is_some() {
            return both("mac-address", "MAC address");
        }
        endpoint.mac_address = Some(mac(text)?);
    }
    let has = |pick: fn(&EndpointIpamConfig) -> bool| endpoint.ipam_config.as_ref().is_some_and(pick);
    if first.ip.is_some() && has(|ipam| ipam.ipv4_address.is_some()) {
        return both("ip", "IPv4 address");
    }
    if first.ip6.is_some() && has(|ipam| ipam.ipv6_address.is_some()) {
        return both("ip6", "IPv6 address");
    }
    if first.ip.is_none() && first.ip6.is_none() && first.link_local.is_empty() {
        return Ok(());
    }
    if matches!(name, "host" | "none") || name.starts_with("container:") {
        return Err(format!("conflicting options: an address cannot be chosen with --network {name}"));
    }
    let ipam = endpoint.ipam_config.get_or_insert_default();
    if let Some(text) = first.ip {
        ipam.ipv4_address = Some(ipv4(text)?);
    }
    if let Some(text) = first.ip6 {
        ipam.ipv6_address = Some(ipv6(text)?);
    }
    if !first.link_local.is_empty() {
        ipam.link_local_ips = Some(first.link_local.iter().map(|text| address(text)).collect::<Parsed<_>>()?);
    }
    Ok(())
}

fn ipv4(text: &str) -> Parsed<String> {
    text.parse::<Ipv4Addr>().map(|ip| ip.to_string()).map_err(|_| format!("invalid IPv4 address: {text}"))
}

fn ipv6(text: &str) -> Parsed<String> {
    text.parse::<Ipv6Addr>().map(|ip| ip.to_string()).map_err(|_| format!("invalid IPv6 address: {text}"))
}

/// An address of either family.
pub fn address(text: &str) -> Parsed<String> {
    text.parse::<IpAddr>()
        .map(|ip| ip.to_string())
        .map_err(|_| format!("IP address is not correctly formatted: {text}"))
}

/// `92:d0:c6:0a:29:33`, colons or hyphens.
fn mac(text: &str) -> Parsed<String> {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    let right = parts.len() == 6
        && parts.iter().all(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if right { Ok(parts.join(":").to_ascii_lowercase()) } else { Err(format!("{text} is not a valid mac address")) }
}

/// `--add-host`: `host:ip` or `host=ip`, or the host's gateway by name; as `host:ip`.
pub fn extra_host(text: &str) -> Parsed<String> {
    let wrong = || format!("bad format for add-host: {text:?}");
    let (host, ip) = text.split_once('=').or_else(|| text.split_once(':')).ok_or_else(wrong)?;
    if host.is_empty() {
        return Err(wrong());
    }
    if ip == "host-gateway" {
        return Ok(format!("{host}:{ip}"));
    }
    let bare = ip.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(ip);
    bare.parse::<IpAddr>().map_err(|_| format!("invalid IP address in add-host: {ip:?}"))?;
    Ok(format!("{host}:{bare}"))
}

/// `--dns-search`; a lone dot means none.
pub fn search_domain(text: &str) -> Parsed<String> {
    let domain = text.trim();
    if domain == "." {
        return Ok(domain.to_owned());
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if domain.len() < 255 && domain.trim_end_matches('.').split('.').all(label) {
        Ok(domain.to_owned())
    } else {
        Err(format!("{text} is not a valid domain"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(texts: &[&str], first: &First<'_>) -> Parsed<Networks> {
        networks(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>(), first)
    }

    #[test]
    fn one_plain_network_is_a_mode() {
        assert_eq!(read(&[], &First::default()).unwrap(), Networks::default());
        for name in ["host", "none", "bridge", "container:x", "mine"] {
            assert_eq!(read(&[name], &First::default()).unwrap(), Networks { mode: Some(name.into()), config: None });
        }
    }

    #[test]
    fn settings_make_endpoints() {
        let aliases = ["db".to_owned()];
        let first = First { aliases: &aliases, ip: Some("10.0.0.5"), ..First::default() };
        let found =
            read(&["mine", "name=other,alias=x,alias=y,ip6=fd00::1,driver-opt=a=b,gw-priority=1"], &first).unwrap();
        assert_eq!(found.mode.as_deref(), Some("mine"));
        let endpoints = found.config.unwrap().endpoints_config.unwrap();
        assert_eq!(endpoints["mine"].aliases.as_deref().unwrap(), ["db"]);
        assert_eq!(endpoints["mine"].ipam_config.as_ref().unwrap().ipv4_address.as_deref(), Some("10.0.0.5"));
        assert_eq!(endpoints["other"].aliases.as_deref().unwrap(), ["x", "y"]);
        assert_eq!(endpoints["other"].gw_priority, Some(1));
    }

    #[test]
    fn mistakes_are_named() {
        let address = First { ip: Some("10.0.0.5"), ..First::default() };
        assert!(read(&["host", "mine"], &First::default()).unwrap_err().contains("user-defined"));
        assert!(read(&["a", "a"], &First::default()).unwrap_err().contains("multiple times"));
        assert!(read(&["alias=x"], &First::default()).unwrap_err().contains("name is missing"));
        assert!(read(&["name=x,frob=1"], &First::default()).unwrap_err().contains("frob"));
        assert!(read(&["name=x,ip=10.0.0.1"], &address).unwrap_err().contains("both --ip"));
        assert!(read(&["host"], &address).unwrap_err().contains("--network host"));
        assert!(read(&["x"], &First { ip: Some("fd00::1"), ..First::default() }).unwrap_err().contains("IPv4"));
        assert!(read(&["x"], &First { mac: Some("zz"), ..First::default() }).unwrap_err().contains("mac address"));
    }

    #[test]
    fn hosts_and_domains() {
        assert_eq!(extra_host("a:1.2.3.4").unwrap(), "a:1.2.3.4");
        assert_eq!(extra_host("a=::1").unwrap(), "a:::1");
        assert_eq!(extra_host("a:[::1]").unwrap(), "a:::1");
        assert_eq!(extra_host("a:host-gateway").unwrap(), "a:host-gateway");
        assert!(extra_host("a").is_err() && extra_host("a:b").is_err() && extra_host(":1.2.3.4").is_err());
        assert!(search_domain("example.com").is_ok() && search_domain(".").is_ok() && search_domain("a b").is_err());
    }
}
