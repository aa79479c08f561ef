//! `build`.

use std::collections::BTreeMap;

use crate::build_options::ContextKind;

use super::{Bytes, Extensions, FileReference, Ulimit, model};

/// A secret given to a build; same form as a service's.
pub type BuildSecret = FileReference;

model! {
    /// How a service's image is built.
    pub struct Build {
        /// An absolute directory, or what else [`ContextKind`] knows.
        pub context: String,
        /// Relative to the context, or absolute. `Dockerfile` unless said.
        pub dockerfile: String,
        /// The Dockerfile's text; excludes `dockerfile`.
        pub dockerfile_inline: String,
        /// Arguments with values; those without one are taken from the environment or left out.
        pub args: BTreeMap<String, String>,
        /// `default` or `id=path`, as for `--ssh`.
        pub ssh: Vec<String>,
        pub labels: BTreeMap<String, String>,
        pub cache_from: Vec<String>,
        pub cache_to: Vec<String>,
        pub no_cache: bool,
        pub no_cache_filter: Vec<String>,
        /// Name to absolute directory, URL, `docker-image://`, `oci-layout://` or `service:NAME`.
        pub additional_contexts: BTreeMap<String, String>,
        pub pull: bool,
        /// `HOST=ADDRESS`.
        pub extra_hosts: Vec<String>,
        pub network: String,
        pub target: String,
        pub secrets: Vec<BuildSecret>,
        pub shm_size: Option<Bytes>,
        pub tags: Vec<String>,
        pub ulimits: BTreeMap<String, Ulimit>,
        pub platforms: Vec<String>,
        pub privileged: bool,
        pub entitlements: Vec<String>,
        pub isolation: String,
        /// As for `--provenance`; empty: not said.
        pub provenance: String,
        /// As for `--sbom`; empty: not said.
        pub sbom: String,
        #[serde(flatten)]
        pub extensions: Extensions,
    }
}

impl Build {
    /// Whether the context is not a directory of this host.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        is_elsewhere(&self.context)
    }
}

/// Whether the text of a build context is no path of this host.
#[must_use]
pub(crate) fn is_elsewhere(context: &str) -> bool {
    ContextKind::of(context) != ContextKind::Directory
}
