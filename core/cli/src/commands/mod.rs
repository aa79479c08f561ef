//! The commands, a file for each subject.

pub mod compose;
pub mod version;
