//! Commands on containers.

pub mod attach;
pub mod change;
pub mod commit;
pub mod copy;
pub mod create;
pub mod exec;
pub mod list;
pub mod logs;
pub mod prune;
pub mod run;
pub mod show;
pub mod signals;
pub mod stats;
pub mod streams;
pub mod update;
