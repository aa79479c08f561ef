//! `version`.

use serde_json::{Map, Value, json};
use std::fmt::Write as _;

use crate::client::API_VERSION;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::{human, json as layout};

/// Options of `version`.
#[derive(Debug, clap::Args)]
pub struct VersionArgs {
    /// Format output using a custom template: 'json' or a Go template
    #[arg(short, long)]
    pub format: Option<String>,
}

/// The machine's name as Docker writes it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "arm" => "arm",
        other => other,
    }
}

/// `version`
pub async fn run(context: Context, args: VersionArgs) -> Outcome {
    let mut all = Map::new();
    all.insert(
        "Client".to_owned(),
        json!({
            "Version": env!("CARGO_PKG_VERSION"), "ApiVersion": API_VERSION, "DefaultAPIVersion": API_VERSION,
            "Os": std::env::consts::OS, "Arch": architecture(), "Context": "default",
        }),
    );
    let server: Outcome<Value> = context.client.get("/version").await;
    let failed = match server {
        Ok(server) => {
            all.insert("Server".to_owned(), server);
            None
        }
        Err(failure) => {
            all.insert("Server".to_owned(), Value::Null);
            Some(failure)
        }
    };
    layout::one(&Value::Object(all), args.format.as_deref(), words)?;
    failed.map_or(Ok(()), |failure| Err(Failure::new(failure.message)))
}

fn words(all: &Value) -> String {
    let mut out = String::new();
    let line = |out: &mut String, name: &str, value: &Value| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        if !value.is_null() {
            let _ = writeln!(out, " {:<19}{text}", format!("{name}:"));
        }
    };
    let client = &all["Client"];
    out.push_str("Client:\n");
    line(&mut out, "Version", &client["Version"]);
    line(&mut out, "API version", &client["ApiVersion"]);
    line(&mut out, "OS/Arch", &json!(format!("{}/{}", std::env::consts::OS, architecture())));
    line(&mut out, "Context", &client["Context"]);
    let server = &all["Server"];
    if server.is_null() {
        return out;
    }
    let name = server["Platform"]["Name"].as_str().filter(|name| !name.is_empty()).unwrap_or("Sampan");
    let _ = writeln!(out, "\nServer: {name}\n Engine:");
    let inner = |out: &mut String, name: &str, text: String| {
        let _ = writeln!(out, "  {:<18}{text}", format!("{name}:"));
    };
    let text = |name: &str| server[name].as_str().unwrap_or_default().to_owned();
    inner(&mut out, "Version", text("Version"));
    inner(&mut out, "API version", format!("{} (minimum version {})", text("ApiVersion"), text("MinAPIVersion")));
    if let Some(commit) = server["GitCommit"].as_str().filter(|commit| !commit.is_empty()) {
        inner(&mut out, "Git commit", commit.to_owned());
    }
    if let Some(built) = server["BuildTime"].as_str().and_then(human::unix_seconds) {
        inner(&mut out, "Built", human::date(built));
    }
    inner(&mut out, "OS/Arch", format!("{}/{}", text("Os"), text("Arch")));
    if server["Experimental"].is_boolean() {
        inner(&mut out, "Experimental", server["Experimental"].to_string());
    }
    for part in server["Components"].as_array().into_iter().flatten() {
        let name = part["Name"].as_str().unwrap_or_default();
        if matches!(name, "Engine" | "") {
            continue;
        }
        let _ = writeln!(out, " {name}:");
        inner(&mut out, "Version", part["Version"].as_str().unwrap_or_default().to_owned());
    }
    out
}
