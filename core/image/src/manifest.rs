//! Manifests and indexes of OCI and Docker, as far as they are acted on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::host_architecture;
use crate::decompress::Compression;
use crate::digest::Digest;
use crate::error::ImageError;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// A statement about an image.
pub const IN_TOTO: &str = "application/vnd.in-toto+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// Layers that registries do not hold, but others by the addresses that their descriptors name; with a packing after it.
const OCI_FOREIGN: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
const DOCKER_FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";

/// Longest document that is read: manifests, indexes and configurations.
pub const MAX_DOCUMENT: u64 = 8 << 20;

/// A reference to content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urls: Option<Vec<String>>,
}

impl Descriptor {
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self { media_type: media_type.to_owned(), digest, size, platform: None, annotations: None, urls: None }
    }
}

/// What an image runs on, in Go's words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    #[serde(default, rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
}

impl Platform {
    /// This machine's.
    pub fn host() -> Self {
        let (architecture, variant) = host_architecture();
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
            os_version: None,
        }
    }

    /// Reads `os/architecture[/variant]`, or an architecture alone.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        let invalid = || ImageError::Invalid(format!("{text:?} is not a platform: expected os/architecture[/variant]"));
        let mut parts = text.split('/');
        let first = parts.next().filter(|part| !part.is_empty()).ok_or_else(invalid)?;
        let (os, architecture) = match parts.next() {
            Some(architecture) => (first, architecture),
            None if first == "linux" => (first, host_architecture().0),
            None => ("linux", first),
        };
        let variant = parts.next();
        let word = |part: &str| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        if parts.next().is_some() || !word(os) || !word(architecture) || !variant.is_none_or(word) {
            return Err(invalid());
        }
        let (architecture, implied) = match architecture.to_ascii_lowercase().as_str() {
            "x86_64" | "x86-64" => ("amd64".to_owned(), None),
            "aarch64" => ("arm64".to_owned(), None),
            "armhf" => ("arm".to_owned(), Some("v7")),
            "armel" => ("arm".to_owned(), Some("v6")),
            "i386" => ("386".to_owned(), None),
            other => (other.to_owned(), None),
        };
        // What an architecture begins with is not said, so that one platform has one name.
        let said =
            variant.filter(|variant| !matches!((architecture.as_str(), *variant), ("arm64", "v8") | ("amd64", "v1")));
        let variant = said.or(implied).map(str::to_owned);
        Ok(Self { os: os.to_ascii_lowercase(), architecture, variant, os_version: None })
    }

    /// How well `offered` serves `self`: higher is better, `None` not at all.
    pub fn suits(&self, offered: &Self) -> Option<u32> {
        if self.os != offered.os || self.architecture != offered.architecture {
            return None;
        }
        let version = |variant: &Option<String>| -> u32 {
            match variant.as_deref().and_then(|text| text.strip_prefix('v')).and_then(|text| text.parse().ok()) {
                Some(number) => number,
                // What an image of this architecture without a variant is built for.
                None => match self.architecture.as_str() {
                    "arm64" => 8,
                    "arm" => 7,
                    _ => 1,
                },
            }
        };
        let (wanted, found) = (version(&self.variant), version(&offered.variant));
        // An older variant runs on a newer processor, not the reverse.
        (found <= wanted).then_some(found)
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

/// One image.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// One name for images of several platforms.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    pub manifests: Vec<Descriptor>,
}

/// A document of either kind.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)] // one at a time, and short-lived
pub enum Document {
    Manifest(Manifest),
    Index(Index),
}

impl Document {
    /// Reads a document; `declared` is the media type by which it was announced, empty if by none. One that could be
    /// taken for both kinds is refused (CVE-2021-41190), and so is one that is not what was announced.
    pub fn parse(bytes: &[u8], declared: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Shape {
            media_type: Option<String>,
            schema_version: Option<u32>,
            manifests: Option<serde::de::IgnoredAny>,
            layers: Option<serde::de::IgnoredAny>,
            config: Option<serde::de::IgnoredAny>,
            fs_layers: Option<serde::de::IgnoredAny>,
        }
        let shape: Shape = serde_json::from_slice(bytes).map_err(|error| format!("not a manifest: {error}"))?;
        if shape.fs_layers.is_some() || shape.schema_version == Some(1) {
            return Err("schema 1 manifests are not supported: push the image again with a current tool".to_owned());
        }
        let is_index = shape.manifests.is_some();
        if is_index && (shape.layers.is_some() || shape.config.is_some()) {
            return Err("the document has both manifests and layers".to_owned());
        }
        let announced = [Some(declared).filter(|kind| !kind.is_empty()), shape.media_type.as_deref()];
        for kind in announced.into_iter().flatten() {
            let fits = match kind {
                OCI_INDEX | DOCKER_LIST => is_index,
                OCI_MANIFEST | DOCKER_MANIFEST => !is_index,
                other => return Err(format!("media type {other} is not that of an image")),
            };
            if !fits {
                return Err(format!("the document is not the {kind} that it is said to be"));
            }
        }
        if let [Some(outer), Some(inner)] = announced
            && outer != inner
        {
            return Err(format!("announced as {outer}, but says that it is {inner}"));
        }
        let parse = |error: serde_json::Error| format!("not a manifest: {error}");
        if is_index {
            serde_json::from_slice(bytes).map(Self::Index).map_err(parse)
        } else {
            serde_json::from_slice(bytes).map(Self::Manifest).map_err(parse)
        }
    }
}

impl Manifest {
    /// The manifest of layers that were made here, or came without one.
    pub fn of_layers(config: Descriptor, layers: &[crate::record::LayerRef]) -> Self {
        Self::new(config, layers.iter().map(descriptor_of).collect())
    }

    /// In OCI's form.
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self { schema_version: 2, media_type: Some(OCI_MANIFEST.to_owned()), config, layers, annotations: None }
    }

    /// Checks what the media types promise: a container image whose layers come from here.
    pub fn check(&self) -> Result<(), String> {
        if ![OCI_CONFIG, DOCKER_CONFIG, ""].contains(&self.config.media_type.as_str()) {
            return Err(format!("{} is not the configuration of a container image", self.config.media_type));
        }
        if self.config.size > MAX_DOCUMENT {
            return Err(format!("the configuration is longer than {MAX_DOCUMENT} bytes"));
        }
        if self.layers.len() > crate::store::MAX_LAYERS {
            return Err(format!("more than {} layers", crate::store::MAX_LAYERS));
        }
        self.layers.iter().try_for_each(|layer| layer_compression(&layer.media_type).map(drop))
    }
}

fn descriptor_of(layer: &crate::record::LayerRef) -> Descriptor {
    let urls = Some(layer.urls.clone()).filter(|urls| !urls.is_empty());
    Descriptor { urls, ..Descriptor::new(oci_layer_type(&layer.media_type), layer.blob, layer.blob_size) }
}

/// A layer's media type in a manifest of OCI's: layers that came by Docker's schema have another of the same meaning.
fn oci_layer_type(media_type: &str) -> &str {
    match media_type {
        DOCKER_LAYER => OCI_LAYER,
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => layer_media_type(Compression::Gzip),
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => layer_media_type(Compression::Zstd),
        DOCKER_FOREIGN => OCI_FOREIGN,
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => {
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        }
        other => other,
    }
}

/// Docker's media type for layers of one of OCI's.
pub fn docker_layer_type(media_type: &str) -> &str {
    let docker = [DOCKER_LAYER, "application/vnd.docker.image.rootfs.diff.tar.gzip"];
    docker.into_iter().find(|docker| oci_layer_type(docker) == media_type).unwrap_or(media_type)
}

/// Whether layers of a media type are had from elsewhere, and not sent to registries.
pub fn is_foreign(media_type: &str) -> bool {
    media_type.starts_with(OCI_FOREIGN) || media_type.starts_with(DOCKER_FOREIGN)
}

/// How the layers of a media type are packed; `None` when the type does not say.
pub fn layer_compression(media_type: &str) -> Result<Option<Compression>, String> {
    if media_type.is_empty() {
        return Ok(None);
    }
    let kinds = [
        (OCI_LAYER, Compression::None),
        ("application/vnd.oci.image.layer.v1.tar+gzip", Compression::Gzip),
        ("application/vnd.oci.image.layer.v1.tar+zstd", Compression::Zstd),
        (DOCKER_LAYER, Compression::None),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", Compression::Gzip),
        ("application/vnd.docker.image.rootfs.diff.tar.zstd", Compression::Zstd),
        (OCI_FOREIGN, Compression::None),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Compression::Gzip),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", Compression::Zstd),
        (DOCKER_FOREIGN, Compression::None),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Compression::Gzip),
    ];
    match kinds.iter().find(|(kind, _)| *kind == media_type) {
        Some((_, compression)) => Ok(Some(*compression)),
        None => Err(format!("{media_type} is not a layer of a container image")),
    }
}

/// The media type of a layer that came without one.
pub const fn layer_media_type(compression: Compression) -> &'static str {
    match compression {
        Compression::None => OCI_LAYER,
        Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
    }
}
