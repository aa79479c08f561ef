//! The Docker Engine API (versions 1.24 to 1.51) and Sampan's own `/sampan/v1`, over a stream of connections.
//!
//! Requests enter as HTTP, are turned into typed calls of [`sampan_engine::Engine`] and [`sampan_reconcile::Stacks`],
//! and answers leave as Docker's JSON, raw streams or hijacked connections. This is the only crate that knows HTTP.
//!
//! Invariants:
//! - every body, header and URL is bounded, and a client that sends slowly is dropped;
//! - a panic or a failure of one request ends that request alone;
//! - unknown fields are ignored, as Docker does; a wrong type is refused with the path of the field.

mod buildkit;
mod hijack;
mod request;
mod response;
mod router;
mod routes;
mod server;

pub use server::{ServeError, Server};

/// The newest API version that is spoken.
pub const API_VERSION: &str = "1.51";
/// The oldest.
pub const MIN_API_VERSION: &str = "1.24";
