//! What of a stack is reachable where, told at the end of `up`. Pure.

use sampan_compose::Project;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Ports behind which web pages are, where a port's `app_protocol` does not say what it speaks.
const HTTP: [u16; 13] = [80, 3000, 3001, 4200, 5000, 5173, 8000, 8008, 8080, 8081, 8088, 8888, 9090];
const HTTPS: [u16; 2] = [443, 8443];
/// Replicas on ports of their own that are listed.
const MOST: usize = 5;

/// A container of a stack, as the daemon tells it.
#[derive(Debug, Deserialize)]
pub struct Place {
    service: String,
    state: String,
    #[serde(default)]
    ports: Vec<Port>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Port {
    #[serde(rename = "IP", default)]
    ip: String,
    private_port: u16,
    #[serde(default)]
    public_port: u16,
    #[serde(default)]
    r#type: String,
}

/// A line for each service: how it stands, and where it is reached.
pub fn lines(model: Option<&Project>, containers: &[Place]) -> Vec<Vec<String>> {
    let mut services: BTreeMap<&str, Vec<&Place>> = BTreeMap::new();
    for container in containers {
        services.entry(&container.service).or_default().push(container);
    }
    let mut lines = vec![["SERVICE", "STATE", "REACHABLE AT"].map(str::to_owned).to_vec()];
    for (service, own) in services {
        let mut states: BTreeMap<&str, usize> = BTreeMap::new();
        for container in &own {
            *states.entry(&container.state).or_default() += 1;
        }
        let several = own.len() > 1;
        let words: Vec<String> = states
            .into_iter()
            .map(|(state, count)| if several { format!("{count} {state}") } else { state.to_owned() })
            .collect();
        let mut places: Vec<String> = Vec::new();
        for port in own.iter().flat_map(|container| &container.ports) {
            if let Some(place) = place(port, protocol(model, service, port))
                && !places.contains(&place)
            {
                places.push(place);
            }
        }
        places.sort_by_key(|place| (!place.starts_with("http"), place.clone()));
        if places.len() > MOST {
            let more = places.len() - MOST;
            places.truncate(MOST);
            places.push(format!("and {more} more"));
        }
        lines.push(vec![service.to_owned(), words.join(", "), places.join(", ")]);
    }
    lines
}

/// What a published port speaks, as far as the file says or its number tells.
fn protocol<'a>(model: Option<&'a Project>, service: &str, port: &Port) -> Option<&'a str> {
    let target = port.private_port;
    let said = model
        .and_then(|model| model.service(service))
        .into_iter()
        .flat_map(|found| &found.ports)
        .find(|known| known.target == target && known.protocol == port.r#type && !known.app_protocol.is_empty());
    match said {
        Some(said) => Some(said.app_protocol.as_str()),
        None if port.r#type != "tcp" => None,
        None if HTTPS.contains(&target) => Some("https"),
        None => HTTP.contains(&target).then_some("http"),
    }
}

/// `http://localhost:8080`, `localhost:5432`, `localhost:53/udp`.
fn place(port: &Port, protocol: Option<&str>) -> Option<String> {
    let public = Some(port.public_port).filter(|port| *port > 0)?;
    let address = match port.ip.as_str() {
        "" | "0.0.0.0" | "::" | "127.0.0.1" | "::1" => "localhost".to_owned(),
        address if address.contains(':') => format!("[{address}]"),
        address => address.to_owned(),
    };
    let kind = &port.r#type;
    Some(match protocol.map(str::to_ascii_lowercase).as_deref() {
        Some("http" | "http2" | "h2c" | "ws") if public == 80 => format!("http://{address}"),
        Some("https" | "wss") if public == 443 => format!("https://{address}"),
        Some("http" | "http2" | "h2c" | "ws") => format!("http://{address}:{public}"),
        Some("https" | "wss") => format!("https://{address}:{public}"),
        _ if kind == "tcp" => format!("{address}:{public}"),
        _ => format!("{address}:{public}/{kind}"),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn services_are_told_with_their_health_and_places() {
        let port = |ip: &str, private: u64, public: u64, kind: &str| json!({"IP": ip, "PrivatePort": private, "PublicPort": public, "Type": kind});
        let web = port("0.0.0.0", 80, 8080, "tcp");
        let containers: Vec<Place> = serde_json::from_value(json!([
            {"service": "web", "state": "healthy", "ports": [web, port("::", 80, 8080, "tcp")]},
            {"service": "web", "state": "starting", "ports": [web]},
            {"service": "db", "state": "running", "ports": [{"PrivatePort": 5432, "Type": "tcp"}]},
            {"service": "dns", "state": "running",
                "ports": [port("10.0.0.1", 53, 53, "udp"), port("fd00::1", 8443, 443, "tcp")]},
            {"service": "job", "state": "exited (0)"},
        ]))
        .unwrap();
        let shown = lines(None, &containers);
        let lines: Vec<String> = shown.iter().skip(1).map(|line| line.join("|")).collect();
        assert_eq!(
            lines,
            [
                "db|running|",
                "dns|running|https://[fd00::1], 10.0.0.1:53/udp",
                "job|exited (0)|",
                "web|1 healthy, 1 starting|http://localhost:8080",
            ]
        );
    }
}
