//! Files that the engine writes for a container: `hostname`, `hosts`, `resolv.conf`.

use std::fs;
use std::io;
use std::path::Path;

use super::record::ContainerRecord;
use super::validate::extra_host;
use crate::networks::Resolver;

/// What the files say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Names {
    /// The host name.
    pub hostname: String,
    /// Own addresses.
    pub addresses: Vec<String>,
    /// What `host-gateway` stands for.
    pub gateway: Option<String>,
    /// The file of the host to begin with, when its network is the host's.
    pub base: Option<String>,
}

const LOCAL: &str = "127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::\tip6-localnet\n\
    ff00::\tip6-mcastprefix\n\
    ff02::1\tip6-allnodes\n\
    ff02::2\tip6-allrouters\n";

/// The text of `/etc/hosts`. Pure.
pub(crate) fn hosts(record: &ContainerRecord, names: &Names) -> String {
    let mut text = names.base.clone().unwrap_or_else(|| LOCAL.to_owned());
    if !text.ends_with('\n') {
        text.push('\n');
    }
    for entry in record.host.extra_hosts.iter().flatten() {
        let Ok((name, address)) = extra_host(entry) else { continue };
        let address = match (address, &names.gateway) {
            ("host-gateway", Some(gateway)) => gateway.as_str(),
            // Without a bridge there is no way to the host but itself.
            ("host-gateway", None) => "127.0.0.1",
            (address, _) => address.trim_matches(['[', ']']),
        };
        text.push_str(&format!("{address}\t{name}\n"));
    }
    if names.base.is_none() {
        let domain = record.config.domainname.as_deref().filter(|domain| !domain.is_empty());
        let short = names.hostname.split('.').next().unwrap_or("");
        for address in names.addresses.iter().filter(|address| !address.is_empty()) {
            text.push_str(address);
            text.push('\t');
            if let Some(domain) = domain {
                text.push_str(&format!("{}.{domain} ", names.hostname));
            }
            text.push_str(&names.hostname);
            if short != names.hostname && !short.is_empty() {
                text.push(' ');
                text.push_str(short);
            }
            text.push('\n');
        }
    }
    text
}

/// The text of `/etc/resolv.conf`; what was asked for goes before what the network or the host says. Pure.
pub(crate) fn resolv_conf(record: &ContainerRecord, found: &Resolver, embedded: bool) -> String {
    let pick = |asked: &Option<Vec<String>>, found: &[String]| match asked {
        Some(list) if !list.is_empty() => list.clone(),
        _ => found.to_vec(),
    };
    // The embedded server forwards to those that were asked for.
    let servers = if embedded { found.servers.clone() } else { pick(&record.host.dns, &found.servers) };
    let search = pick(&record.host.dns_search, &found.search);
    let options = pick(&record.host.dns_options, &found.options);
    let mut text = String::new();
    for server in servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    // A single dot means no search domain.
    if !search.is_empty() && search != ["."] {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}

/// Reads a `resolv.conf`. Pure.
pub(crate) fn parse_resolv_conf(text: &str) -> Resolver {
    let mut found = Resolver::default();
    for line in text.lines() {
        let mut words = line.split(['#', ';']).next().unwrap_or("").split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => found.servers.extend(words.next()),
            Some("search" | "domain") => found.search = words.collect(),
            Some("options") => found.options.extend(words),
            _ => {}
        }
    }
    found
}

/// Writes them into a container's bundle.
pub(crate) fn write(directory: &Path, hostname: &str, hosts: &str, resolv_conf: &str) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    for (name, text) in [("hostname", format!("{hostname}\n").as_str()), ("hosts", hosts), ("resolv.conf", resolv_conf)]
    {
        let path = directory.join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(extra: &[&str], dns: &[&str]) -> ContainerRecord {
        let own = |list: &[&str]| Some(list.iter().map(|item| (*item).to_owned()).collect());
        let mut record = ContainerRecord::default();
        record.host.extra_hosts = own(extra);
        record.host.dns = own(dns);
        record
    }

    #[test]
    fn hosts_names_the_container_and_what_was_added() {
        let names = Names {
            hostname: "web".into(),
            addresses: vec!["172.18.0.2".into(), String::new()],
            gateway: Some("172.18.0.1".into()),
            base: None,
        };
        let text = hosts(&asking(&["db:10.0.0.9", "me:host-gateway"], &[]), &names);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("10.0.0.9\tdb\n172.18.0.1\tme\n172.18.0.2\tweb\n"), "{text}");
        let on_host = hosts(&asking(&["db:10.0.0.9"], &[]), &Names { base: Some("1.2.3.4 me".into()), ..names });
        assert_eq!(on_host, "1.2.3.4 me\n10.0.0.9\tdb\n");
    }

    #[test]
    fn servers_asked_for_replace_those_found_unless_the_embedded_one_answers() {
        let found = parse_resolv_conf("# x\nnameserver 9.9.9.9\nsearch a b\noptions ndots:0 # y\n");
        assert_eq!(resolv_conf(&asking(&[], &[]), &found, false), "nameserver 9.9.9.9\nsearch a b\noptions ndots:0\n");
        assert_eq!(
            resolv_conf(&asking(&[], &["1.1.1.1"]), &found, false),
            "nameserver 1.1.1.1\nsearch a b\noptions ndots:0\n"
        );
        let embedded = Resolver { servers: vec!["127.0.0.11".into()], ..Resolver::default() };
        assert_eq!(resolv_conf(&asking(&[], &["1.1.1.1"]), &embedded, true), "nameserver 127.0.0.11\n");
    }
}
