//! What a driver for Sampan is written with: bindings for each world of `sampan:driver@0.1.0`, and small helpers.
//!
//! A driver implements the `Guest` trait of its module and exports itself:
//!
//! ```ignore
//! struct Driver;
//! impl sampan_driver_sdk::log::Guest for Driver { /* … */ }
//! sampan_driver_sdk::log::export!(Driver with_types_in sampan_driver_sdk::log::bindings);
//! ```
//!
//! A log driver that only writes (world `log-driver`) generates its own bindings with `wit_bindgen::generate!`, as
//! `plugins/examples/log-plain` shows, and takes [`frame`], [`options`] and [`tag`] from here.

pub mod frame;
pub mod options;
pub mod tag;

/// Layer drivers.
pub mod layer {
    #[allow(missing_docs)]
    pub mod bindings {
        wit_bindgen::generate!({ world: "layer-driver", path: "../../wit", pub_export_macro: true, default_bindings_module: "sampan_driver_sdk::layer::bindings", generate_all });
    }
    pub use bindings::export;
    pub use bindings::exports::sampan::driver::layers::{ChangeView, Guest, Prepared, Whiteouts};
    pub use bindings::sampan::driver::storage_plan::{Directory, Mount, Place, Step};
    pub use bindings::sampan::driver::types::{Failure, HostFacts};
}

/// Volume drivers.
pub mod volume {
    #[allow(missing_docs)]
    pub mod bindings {
        wit_bindgen::generate!({ world: "volume-driver", path: "../../wit", pub_export_macro: true, default_bindings_module: "sampan_driver_sdk::volume::bindings", generate_all });
    }
    pub use bindings::export;
    pub use bindings::exports::sampan::driver::volumes::{Guest, Mounted};
    pub use bindings::sampan::driver::storage_plan::{Directory, Mount, Place, Remote, Step};
    pub use bindings::sampan::driver::types::{Failure, HostFacts, Object, OptionValue};
}

/// Network drivers.
pub mod network {
    #[allow(missing_docs)]
    pub mod bindings {
        wit_bindgen::generate!({ world: "network-driver", path: "../../wit", pub_export_macro: true, default_bindings_module: "sampan_driver_sdk::network::bindings", generate_all });
    }
    pub use bindings::export;
    pub use bindings::exports::sampan::driver::network::{Attachment, EndpointSpec, Guest, NetworkSpec, Subnet};
    pub use bindings::sampan::driver::network_plan::{Address, Intent, Link, LinkKind, Place, Route, Step, Veth};
    pub use bindings::sampan::driver::types::{Failure, HostFacts, Object, OptionValue};
}

/// Log drivers that can be read back.
pub mod log {
    #[allow(missing_docs)]
    pub mod bindings {
        wit_bindgen::generate!({ world: "readable-log-driver", path: "../../wit", pub_export_macro: true, default_bindings_module: "sampan_driver_sdk::log::bindings", generate_all });
    }
    pub use bindings::export;
    pub use bindings::exports::sampan::driver::history::{Cursor, Guest as HistoryGuest, GuestCursor, Query};
    pub use bindings::exports::sampan::driver::logs::{Guest, GuestSink, Sink, Source};
    pub use bindings::sampan::driver::types::{Failure, Object, OptionValue};
}
