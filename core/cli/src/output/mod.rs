//! What commands print: tables, Go templates, human numbers and times.

pub mod human;
pub mod table;
pub mod template;
pub mod terminal;
