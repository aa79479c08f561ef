//! `build`.

use std::collections::BTreeMap;

use super::{Bytes, Extensions, FileReference, Ulimit, model};

/// A secret given to a build; same form as a service's.
pub type BuildSecret = FileReference;

model! {
    /// How a service's image is built.
    pub struct Build {
        /// An absolute directory, or a URL that [`Build::is_remote`] knows.
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
        is_remote_context(&self.context)
    }
}

/// Whether a build context names something elsewhere: a URL, or git over ssh.
#[must_use]
pub(crate) fn is_remote_context(context: &str) -> bool {
    ["https://", "http://", "git://", "ssh://", "github.com/", "git@", "docker-image://", "oci-layout://", "service:"]
        .iter()
        .any(|prefix| context.starts_with(prefix))
}
