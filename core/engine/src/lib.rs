//! The engine: containers, images, volumes, networks, events, and the policies that keep them as asked.
//!
//! Requests enter as Docker's own models (`bollard_stubs::models`, data only), effects go through the crates that know
//! how (`image`, `build`, `network`, `storage`, `drivers`, the shim), and the truth is in the store. The engine knows
//! nothing of HTTP.
//!
//! Invariants:
//! - a change of state is one transaction; what the kernel must show for it is written as an intent first;
//! - one lock per container, taken before any of network, volume or store, and never held across another container's;
//! - what a driver decides, the engine executes; there is no driver behaviour here that a component could not replace.

pub mod config;
pub mod error;
pub mod filters;

pub use config::EngineConfig;
pub use error::{Error, ErrorKind, Result};
pub use filters::Filters;
