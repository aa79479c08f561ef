//! BuildKit's wire protocol, as far as `docker buildx` and Compose speak it to a daemon: the messages of its services,
//! gRPC's frames and statuses, and the transfer of directories (fsutil's packets).
//!
//! Bytes and messages enter, messages and bytes leave: nothing here knows a socket, a task or a file. `control` and
//! `gateway` are what the client asks of the daemon, `session` what the daemon asks of the client, `llb` the little of
//! build graphs that names an image, `files` a directory on its way.
//!
//! Invariants:
//! - what comes from a client is bounded: a message in bytes, a directory in names, in their bytes and in those of files;
//! - a name that a client gives leads to a place below the directory that is received, or is refused.

pub mod control;
pub mod files;
pub mod gateway;
pub mod grpc;
pub mod llb;
pub mod session;

/// By which steps and operations are named.
pub use sampan_image::Digest;
