//! What of a stack is reachable where, told at the end of `up`. Pure.

use sampan_compose::Project;
use serde_json::Value;
use std::collections::BTreeMap;

use super::project::{ONE_OFF, SERVICE};

/// Ports behind which web pages are, where a port's `app_protocol` does not say what it speaks.
const HTTP: [u64; 13] = [80, 3000, 3001, 4200, 5000, 5173, 8000, 8008, 8080, 8081, 8088, 8888, 9090];
const HTTPS: [u64; 2] = [443, 8443];
/// Replicas on ports of their own that are listed.
const MOST: usize = 5;

/// A line for each service: how it stands, and where it is reached.
pub fn lines(model: Option<&Project>, containers: &[Value]) -> Vec<Vec<String>> {
    let mut services: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for container in containers {
        let once = text(&container["Labels"][ONE_OFF]).eq_ignore_ascii_case("true");
        let service = text(&container["Labels"][SERVICE]);
        if !once && !service.is_empty() {
            services.entry(service).or_default().push(container);
        }
    }
    let mut lines = vec![["SERVICE", "STATE", "REACHABLE AT"].map(str::to_owned).to_vec()];
    for (service, own) in services {
        let mut states: BTreeMap<String, usize> = BTreeMap::new();
        for container in &own {
            *states.entry(state(container)).or_default() += 1;
        }
        let several = own.len() > 1;
        let words: Vec<String> =
            states.into_iter().map(|(state, count)| if several { format!("{count} {state}") } else { state }).collect();
        let mut places: Vec<String> = Vec::new();
        for port in own.iter().flat_map(|container| container["Ports"].as_array().into_iter().flatten()) {
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

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// `healthy`, `starting`, `unhealthy`; `running` where there is no check; `exited (0)`.
fn state(container: &Value) -> String {
    let status = text(&container["Status"]);
    if status.contains("(healthy)") {
        "healthy".to_owned()
    } else if status.contains("(unhealthy)") {
        "unhealthy".to_owned()
    } else if status.contains("(health: starting)") {
        "starting".to_owned()
    } else if let Some(code) = status.strip_prefix("Exited (").and_then(|rest| rest.split(')').next()) {
        format!("exited ({code})")
    } else {
        text(&container["State"]).to_owned()
    }
}

/// What a published port speaks, as far as the file says or its number tells.
fn protocol<'a>(model: Option<&'a Project>, service: &str, port: &Value) -> Option<&'a str> {
    let target = port["PrivatePort"].as_u64().unwrap_or(0);
    let said =
        model.and_then(|model| model.service(service)).into_iter().flat_map(|found| &found.ports).find(|known| {
            u64::from(known.target) == target && known.protocol == text(&port["Type"]) && !known.app_protocol.is_empty()
        });
    match said {
        Some(said) => Some(said.app_protocol.as_str()),
        None if text(&port["Type"]) != "tcp" => None,
        None if HTTPS.contains(&target) => Some("https"),
        None => HTTP.contains(&target).then_some("http"),
    }
}

/// `http://localhost:8080`, `localhost:5432`, `localhost:53/udp`.
fn place(port: &Value, protocol: Option<&str>) -> Option<String> {
    let public = port["PublicPort"].as_u64().filter(|port| *port > 0)?;
    let address = match text(&port["IP"]) {
        "" | "0.0.0.0" | "::" | "127.0.0.1" | "::1" => "localhost".to_owned(),
        address if address.contains(':') => format!("[{address}]"),
        address => address.to_owned(),
    };
    let kind = text(&port["Type"]);
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
    use super::*;
    use serde_json::json;

    fn container(service: &str, status: &str, ports: Value) -> Value {
        json!({"Labels": {SERVICE: service}, "State": "running", "Status": status, "Ports": ports})
    }

    #[test]
    fn services_are_told_with_their_health_and_places() {
        let port = |ip: &str, private: u64, public: u64, kind: &str| json!({"IP": ip, "PrivatePort": private, "PublicPort": public, "Type": kind});
        let shown = lines(
            None,
            &[
                container(
                    "web",
                    "Up 2 seconds (healthy)",
                    json!([port("0.0.0.0", 80, 8080, "tcp"), port("::", 80, 8080, "tcp")]),
                ),
                container("web", "Up 2 seconds (health: starting)", json!([port("0.0.0.0", 80, 8080, "tcp")])),
                container("db", "Up 1 second", json!([{"PrivatePort": 5432, "Type": "tcp"}])),
                container(
                    "dns",
                    "Up 1 second",
                    json!([port("10.0.0.1", 53, 53, "udp"), port("fd00::1", 8443, 443, "tcp")]),
                ),
                container("job", "Exited (0) 1 second ago", json!([])),
                json!({"Labels": {SERVICE: "job", ONE_OFF: "True"}, "State": "running"}),
            ],
        );
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
