//! The Wasm host: drivers as sandboxed components.
//!
//! A driver comes as a component and a [`Manifest`]; [`Drivers`] finds, installs, swaps and removes them, and hands out a
//! handle for each kind ([`LayerDriver`], [`VolumeDriver`], [`NetworkDriver`], [`LogDriver`]). Their calls block: make
//! them on a thread that may. What storage and network drivers answer are plans, to be validated and executed by
//! `sampan-storage` and `sampan-network`; nothing here touches the host for them.
//!
//! Invariants:
//! - an instance sees what its manifest was granted, and nothing else;
//! - every call ends: in time, within its memory, with a bounded answer, or as an error that names driver, call and cause;
//! - a driver keeps state only through its own key-value map, in one transaction for each call; so an instance may be
//!   dropped after any call, and a component swapped between any two;
//! - machine code is run only from files that nobody but this user can write.

mod bindings;
mod cache;
mod contract;
mod egress;
mod error;
mod host;
mod kv;
mod log_drivers;
mod manifest;
mod plan_drivers;
mod registry;
mod slot;
mod voice;

pub use error::{Class, DriverError, Failure};
pub use host::Limits;
pub use log_drivers::{BATCH, LogCursor, LogDriver, LogSink, Query, Source};
pub use manifest::{Capabilities, Directory, Kind, Manifest, OptionSpec};
pub use plan_drivers::{ChangeView, HostFacts, LayerDriver, NetworkDriver, Prepared, VolumeDriver, Whiteouts};
pub use registry::{DriverInfo, Drivers, DriversConfig};
pub use sampan_network::plan::Object;
pub use slot::Trouble;
