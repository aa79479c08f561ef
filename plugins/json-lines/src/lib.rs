//! Logs in files of lines: `{"log":"…\n","stream":"stdout","time":"…"}` for each record, as Docker's `json-file` has them.
//! Written, rotated, packed and read back; what `log-json-file` and `log-local` share.

mod encode;
pub mod files;
mod packing;
pub mod reader;
pub mod settings;
mod time;
pub mod writer;

use std::io;

use sampan_driver_sdk::log::Failure;

/// A failure of a file, as the engine is told.
pub fn failed(what: &str, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Failure::Unavailable(format!("{what}: no space is left"))
        }
        _ => Failure::Internal(format!("{what}: {error}")),
    }
}
