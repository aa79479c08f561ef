//! The commands, a file for each subject.

pub mod builder;
pub mod completion;
pub mod compose;
pub mod container;
pub mod doctor;
pub mod events;
pub mod image;
pub mod inspect;
pub mod network;
pub mod plugin;
pub mod system;
pub mod version;
pub mod volume;
