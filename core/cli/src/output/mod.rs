//! What commands print: tables, Go templates, human numbers and times.

pub mod human;
pub mod ids;
pub mod json;
pub mod progress;
pub mod table;
pub mod template;
pub mod terminal;
