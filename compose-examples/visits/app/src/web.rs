//! A page that counts its visits.

use crate::{http, setting};

/// Serves the page.
pub fn run() -> Result<(), String> {
    let store = setting("STORE", "store:7000");
    let greeting = setting("GREETING", "Hello");
    let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default().trim().to_owned();
    http::serve(8000, move |path| {
        if path == "/health" {
            return (200, "ok\n".to_owned());
        }
        match http::get(&store, "/add/page") {
            Ok(count) => (200, format!("{greeting} from {host}: visit {}\n", count.trim())),
            Err(error) => (503, format!("the store does not answer: {error}\n")),
        }
    })
}
