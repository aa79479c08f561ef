//! The steps of a plan; see `wit/storage.wit`.

use serde::{Deserialize, Serialize};

/// A directory by handle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// Below the driver's own tree.
    Tree(String),
    /// One that the core passed in.
    Given(u32),
}

/// A step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// A directory with mode and owner.
    Directory { at: Place, mode: u32, uid: u32, gid: u32 },
    /// A tree is gone.
    Remove(Place),
    /// A mount is there.
    Mount { fstype: String, source: Option<Place>, target: Place, options: Vec<String>, places: Vec<(String, Place)> },
    /// A mount of another host's export.
    Remote { fstype: String, device: String, target: Place, options: Vec<String> },
    /// A bind of the directory that the user named.
    Bind { device: String, target: Place, options: Vec<String> },
    /// A tree is a copy of another.
    Copy { from: Place, to: Place },
    /// Nothing is mounted there.
    Unmount(Place),
}
