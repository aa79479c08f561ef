//! Proxies that the configuration or else the environment asks for: `HTTP_PROXY`, `HTTPS_PROXY`, and `NO_PROXY`, which
//! takes hosts, domains, addresses and networks, each perhaps with a port.

use std::io;
use std::net::IpAddr;

use base64::Engine as _;
use http::Uri;
use tokio::net::TcpStream;

/// A proxy, spoken to without TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    pub host: String,
    pub port: u16,
    /// The value of `Proxy-Authorization`.
    pub credentials: Option<String>,
}

impl Proxy {
    /// Reads `[http://][user:password@]host[:port]`.
    fn parse(text: &str) -> io::Result<Self> {
        let bad = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("the proxy {why}"));
        let rest = match text.split_once("://") {
            None => text,
            Some(("http", rest)) => rest,
            Some((scheme, _)) => {
                return Err(bad(&format!("is of kind {scheme}, but only http:// proxies are supported")));
            }
        };
        let rest = rest.split('/').next().unwrap_or_default();
        let (user, address) = rest.rsplit_once('@').map_or((None, rest), |(user, address)| (Some(user), address));
        let authority: http::uri::Authority = address.parse().map_err(|_| bad("is not an address"))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(bad("has no host"));
        }
        let credentials = user.map(|user| {
            let (name, password) = user.split_once(':').unwrap_or((user, ""));
            let pair = [unescape(name), vec![b':'], unescape(password)].concat();
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
        });
        Ok(Self { host, port: authority.port_u16().unwrap_or(80), credentials })
    }

    /// Connects to it.
    pub async fn connect(&self) -> io::Result<TcpStream> {
        TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|error| io::Error::new(error.kind(), format!("proxy {}:{}: {error}", self.host, self.port)))
    }
}

/// The bytes of a text with escapes as `%41`; what is no escape stays as it is.
#[must_use]
pub fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

/// What the configuration says; what it leaves out the environment says.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For `http`.
    pub http: Option<String>,
    /// For `https`.
    pub https: Option<String>,
    /// What is reached directly.
    pub none: Option<String>,
}

impl std::fmt::Debug for Proxies {
    /// A proxy's address may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxies").field("none", &self.none).finish_non_exhaustive()
    }
}

impl Proxies {
    /// One of them by its variable's name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<String> {
        let configured = match name {
            "HTTP_PROXY" => &self.http,
            "HTTPS_PROXY" => &self.https,
            _ => &self.none,
        };
        let from_environment = || {
            let lower = std::env::var(name.to_lowercase());
            lower.or_else(|_| std::env::var(name)).ok().filter(|text| !text.is_empty())
        };
        configured.clone().filter(|text| !text.is_empty()).or_else(from_environment)
    }

    /// What is wrong with them, if anything.
    pub(super) fn check(&self) -> Result<(), String> {
        for (name, text) in [("http-proxy", &self.http), ("https-proxy", &self.https)] {
            if let Some(text) = text.as_ref().filter(|text| !text.is_empty()) {
                Proxy::parse(text).map_err(|error| format!("proxies: {name}: {error}"))?;
            }
        }
        Ok(())
    }

    /// The proxy through which an address is reached, if any.
    pub fn proxy(&self, uri: &Uri) -> io::Result<Option<Proxy>> {
        chosen(uri, |name| self.get(name))
    }
}

fn chosen(uri: &Uri, read: impl Fn(&str) -> Option<String>) -> io::Result<Option<Proxy>> {
    let secure = uri.scheme_str() == Some("https");
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let Some(text) = read(if secure { "HTTPS_PROXY" } else { "HTTP_PROXY" }) else { return Ok(None) };
    let exempt = read("NO_PROXY").unwrap_or_default();
    if is_loopback(host) || exempt.split(',').any(|rule| covers(rule.trim(), host, port)) {
        return Ok(None);
    }
    Proxy::parse(&text).map(Some)
}

/// Whether a host name or address is this machine.
pub fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether one rule of `NO_PROXY` names a host.
fn covers(rule: &str, host: &str, port: u16) -> bool {
    if rule == "*" {
        return true;
    }
    if in_network(rule, host) {
        return true;
    }
    let (name, wanted) = match rule.rsplit_once(':') {
        Some((name, digits)) if !name.contains(':') || name.ends_with(']') => (name, digits.parse::<u16>().ok()),
        _ => (rule, None),
    };
    if wanted.is_some_and(|wanted| wanted != port) {
        return false;
    }
    let name = name.trim_start_matches('[').trim_end_matches(']').trim_start_matches("*.").to_ascii_lowercase();
    let host = host.to_ascii_lowercase();
    let domain = name.trim_start_matches('.');
    if domain.is_empty() {
        return false;
    }
    // A rule that begins with a dot is for what lies below the domain only.
    (host == domain && !name.starts_with('.')) || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
}

/// Whether an address lies in a network such as `10.0.0.0/8`.
pub fn in_network(network: &str, host: &str) -> bool {
    let Some((base, length)) = network.split_once('/') else { return false };
    let (Ok(base), Ok(length), Ok(address)) = (base.parse::<IpAddr>(), length.parse::<u32>(), host.parse::<IpAddr>())
    else {
        return false;
    };
    match (base, address) {
        (IpAddr::V4(base), IpAddr::V4(address)) if length <= 32 => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            u32::from(base) & mask == u32::from(address) & mask
        }
        (IpAddr::V6(base), IpAddr::V6(address)) if length <= 128 => {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            u128::from(base) & mask == u128::from(address) & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_environment_chooses_a_proxy() {
        let read = |name: &str| match name {
            "HTTP_PROXY" => Some("me:p%40ss@proxy:3128".to_owned()),
            "HTTPS_PROXY" => Some("http://[fd00::1]:8080/".to_owned()),
            _ => Some("internal.example, 10.0.0.0/8,.only.below,host:81".to_owned()),
        };
        let found = |uri: &str| chosen(&uri.parse().unwrap(), read).unwrap();
        let plain = found("http://r.example/v2/").unwrap();
        assert_eq!((plain.host.as_str(), plain.port), ("proxy", 3128));
        assert_eq!(plain.credentials.as_deref(), Some("Basic bWU6cEBzcw=="));
        assert_eq!(found("https://r.example/v2/").unwrap().host, "fd00::1");
        for direct in [
            "https://internal.example/",
            "https://a.internal.example:5000/",
            "http://10.1.2.3/",
            "http://x.only.below/",
            "http://host:81/",
            "http://localhost:5000/",
            "http://[::1]:5000/",
        ] {
            assert_eq!(found(direct), None, "{direct}");
        }
        for through in ["http://only.below/", "http://host/", "http://11.0.0.1/", "http://notinternal.example/"] {
            assert!(found(through).is_some(), "{through}");
        }
    }

    #[test]
    fn what_is_configured_comes_before_the_environment() {
        let proxies = Proxies { http: Some("http://p:1".into()), none: Some("direct".into()), ..Proxies::default() };
        assert_eq!(proxies.proxy(&"http://r.example/".parse().unwrap()).unwrap().unwrap().port, 1);
        assert_eq!(proxies.proxy(&"http://direct/".parse().unwrap()).unwrap(), None);
        assert_eq!(proxies.check(), Ok(()));
        let wrong = Proxies { https: Some("socks5://secret@x:1".into()), ..Proxies::default() };
        let error = wrong.check().unwrap_err();
        assert!(error.contains("https-proxy") && error.contains("socks5") && !error.contains("secret"), "{error}");
        assert!(!format!("{wrong:?}").contains("secret"));
    }

    #[test]
    fn other_kinds_of_proxies_are_refused_by_name() {
        assert!(Proxy::parse("socks5://x:1").unwrap_err().to_string().contains("socks5"));
        assert!(Proxy::parse("http://").is_err());
        assert_eq!(Proxy::parse("p").unwrap().port, 80);
    }

    #[test]
    fn networks_hold_their_addresses() {
        assert!(in_network("10.0.0.0/8", "10.255.0.1") && !in_network("10.0.0.0/8", "11.0.0.1"));
        assert!(in_network("0.0.0.0/0", "1.2.3.4") && !in_network("10.0.0.0/33", "10.0.0.0"));
        assert!(in_network("fd00::/8", "fd12::1") && !in_network("fd00::/8", "10.0.0.1"));
        assert!(!in_network("10.0.0.0/8", "r.example"));
    }
}
