//! What the daemon does not need any more goes back to the system: an engine is idle for most of its life.
//!
//! glibc keeps an arena for each of many threads, and in each of them what was freed; compiling drivers and bringing up
//! a large stack leave megabytes there.
#![cfg_attr(target_env = "gnu", allow(unsafe_code))]

use std::time::Duration;

use futures_util::StreamExt;
use sampan_engine::{Engine, Filters};

/// So long after the last event free memory is given back.
const QUIET: Duration = Duration::from_secs(5);

/// Lets threads share arenas: as many as run at once. Call it before there are threads.
pub fn share_arenas() {
    #[cfg(target_env = "gnu")]
    {
        let arenas = std::thread::available_parallelism().map_or(2, |number| number.get().max(2));
        // SAFETY: mallopt takes no pointers; no other thread runs yet.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, i32::try_from(arenas).unwrap_or(8)) };
    }
}

/// Gives free memory back whenever it has become quiet. Ends with the engine's events.
pub async fn give_back(engine: Engine) {
    let Ok(mut events) = engine.events_stream(None, None, Filters::default()).await else { return };
    loop {
        while let Ok(event) = tokio::time::timeout(QUIET, events.next()).await {
            if event.is_none() {
                return;
            }
        }
        let _ = tokio::task::spawn_blocking(trim).await;
        if events.next().await.is_none() {
            return;
        }
    }
}

fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes no pointers and locks each arena itself.
    unsafe {
        libc::malloc_trim(0);
    }
}
