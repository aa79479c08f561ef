//! Compose files to a normalized [`Project`].
//!
//! Data enters as text through [`Files`], which the caller implements, and leaves as a [`Loaded`] project or as
//! [`Diagnostics`] that point at file, line and column. Both name every path that was consulted, so that a
//! watcher knows what to watch even while a file is broken.
//!
//! Invariants: this crate never opens a file, never blocks, never knows tokio or the kernel. The same options and the
//! same file contents give the same project. No key is dropped: each is decoded, or refused with its place.

pub mod build_options;
pub mod files;
pub mod model;

mod assemble;
mod canonical;
mod decode;
mod diagnostic;
mod discover;
mod dotenv;
mod hash;
mod interpolate;
mod load;
mod merge;
mod node;
mod normalize;
mod output;
mod query;
mod raw;
mod session;
mod suggest;
mod validate;
mod words;
mod yaml;

pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use discover::{FILE_NAMES, OVERRIDE_NAMES};
pub use files::{Files, MemoryFiles, PathKind, ReadError};
pub use load::{LoadOptions, Loaded, Without, is_truth, load, settings};
pub use model::{Project, Service};
pub use query::Used;
pub use raw::{RawProject, Variable, environment, load_raw, to_yaml};
pub use words::split as words;
