//! Signals that are meant for the container's process are passed on to it.

use tokio::signal::unix::{SignalKind, signal};

use crate::client::{Client, Query};

/// Those that `docker` passes on and that people send; `SIGCHLD`, `SIGPIPE`, `SIGURG` and the window's are our own.
fn kinds() -> [(SignalKind, &'static str); 8] {
    [
        (SignalKind::hangup(), "HUP"),
        (SignalKind::interrupt(), "INT"),
        (SignalKind::quit(), "QUIT"),
        (SignalKind::terminate(), "TERM"),
        (SignalKind::user_defined1(), "USR1"),
        (SignalKind::user_defined2(), "USR2"),
        (SignalKind::alarm(), "ALRM"),
        (SignalKind::from_raw(nix::libc::SIGCONT), "CONT"),
    ]
}

/// Passes signals on to a container, from now until the program ends.
pub fn forward(client: &Client, id: &str) {
    for (kind, name) in kinds() {
        let Ok(mut arrivals) = signal(kind) else { continue };
        let client = client.clone();
        let path = format!("/containers/{id}/kill{}", Query::new().with("signal", name));
        tokio::spawn(async move {
            while arrivals.recv().await.is_some() {
                // Before its start or after its end there is nobody to tell.
                let _ = client.act(&path).await;
            }
        });
    }
}
