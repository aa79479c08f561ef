//! Handlers, a file for each noun of the API.

pub mod archive;
pub mod build;
pub mod containers;
pub mod exec;
pub mod images;
pub mod networks;
pub mod plugins;
pub mod stacks;
pub mod system;
pub mod volumes;
