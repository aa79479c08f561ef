//! Images: names, content, layers, archives and registries.
//!
//! Data enters as tar streams (archives, layers, changes of a container) and as documents of Docker and OCI, and leaves
//! as the same; unpacked layers live in directories that a [`LayerBackend`] gives. The crate knows nothing of
//! containers, of drivers or of Docker's API.
//!
//! Invariants:
//! - an image is visible only when its documents and layers are here, verified against their digests;
//! - whatever comes out of an archive is hostile: a layer acts only inside its own directory;
//! - documents and layer tars are kept byte for byte, so that what came in goes out with the same digests.

mod archive;
mod arrival;
mod backend;
mod blobs;
mod config;
mod decompress;
mod digest;
mod error;
mod gzip;
mod ingest;
mod manifest;
mod pack;
mod record;
mod reference;
pub mod registry;
mod store;
pub mod tar_reader;
pub mod tar_writer;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod testing;
pub mod timestamp;
pub mod tree;
mod unpack;

pub use archive::{Loaded, SaveItem, load, save, save_items};
pub use backend::{BackendError, ChangeView, LayerBackend, Whiteouts};
pub use blobs::{BlobWriter, Blobs};
pub use config::{ContainerDefaults, Healthcheck, HistoryEntry, ImageConfig, RootFs, host_architecture};
pub use decompress::{Compression, Decompress};
pub use digest::{ChainId, DiffId, Digest, InvalidDigest};
pub use error::ImageError;
pub use manifest::Platform;
pub use pack::{Change, ChangeKind, PackError, changes, pack_entry, pack_tree};
pub use record::{ImageRecord, LayerRef};
pub use reference::{DEFAULT_DOMAIN, DEFAULT_TAG, ImageRef, InvalidRef};
pub use store::{Content, Hold, ImageStore, IndexEntry, IndexRecord, Member, Packing, Removed, Statement};
pub use unpack::{Limits, UnpackError};
