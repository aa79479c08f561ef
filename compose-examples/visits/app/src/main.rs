//! Three small services in one program: `store` keeps counts in SQLite, `web` shows a page and counts its visits there,
//! `gateway` hands requests to the web services in turn. `check ADDRESS` is their health check.

mod gateway;
mod http;
mod store;
mod web;

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["store", file] => store::run(file),
        ["web"] => web::run(),
        ["gateway"] => gateway::run(),
        ["check", address] => http::get(address, "/health").map(drop),
        _ => Err("usage: visits store FILE | web | gateway | check ADDRESS".to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("visits: {message}");
            ExitCode::FAILURE
        }
    }
}

/// A setting from the environment.
fn setting(name: &str, otherwise: &str) -> String {
    std::env::var(name).ok().filter(|value| !value.is_empty()).unwrap_or_else(|| otherwise.to_owned())
}
