//! Storage plans: what a layer or volume driver decides, checked and carried out.
//!
//! A plan ([`plan::Step`]s) comes from a driver, which is not trusted. [`validate`] checks it whole against the handles
//! that the core gave; [`execute`] carries it out, each step being "make sure that", and undoes what it did when a step
//! fails. Validation is pure.
//!
//! Invariants: no step names a path of the host, except what the user named as a volume's device; nothing outside of
//! the driver's own tree and the given places is touched; links in the tree are not followed out of it.

mod execute;
pub mod plan;
mod tree;
mod validate;

pub use execute::{Handles, StorageError, Undo, execute, resolve, undo, unmount};
pub use tree::{copy_tree, remove_tree, tree_size};
pub use validate::{Refusal, Rules, Validated, validate};
