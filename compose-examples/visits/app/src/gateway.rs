//! Hands requests to the web services: the name stands for all of them, and whoever it names first gets the next one.

use crate::{http, setting};

/// Serves what the web services serve.
pub fn run() -> Result<(), String> {
    let upstream = setting("UPSTREAM", "web:8000");
    http::serve(8080, move |path| {
        if path == "/health" {
            return (200, "ok\n".to_owned());
        }
        match http::get(&upstream, path) {
            Ok(body) => (200, body),
            Err(error) => (502, format!("{error}\n")),
        }
    })
}
