//! Manifests in registries: looking at them without fetching images, and putting lists of them under a name.

use sampan_image::registry::{self, RegistryClient};
use sampan_image::{Digest, ImageRef, Platform};
use serde::{Deserialize, Serialize};

use super::transfer::registry_auth;
use crate::Engine;
use crate::error::{Error, Result};
use crate::messages::Credentials;

/// A document in a registry.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct RemoteManifest {
    /// The whole name that led to it.
    pub name: String,
    /// As the registry announces it.
    pub media_type: String,
    /// Of its bytes.
    pub digest: String,
    /// In bytes.
    pub size: u64,
    /// What the image runs on, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// The document itself.
    pub document: serde_json::Value,
    /// Its text.
    pub raw: String,
}

impl RemoteManifest {
    /// The same as Docker's API describes it: a descriptor, and the platforms that there are.
    #[must_use]
    pub fn inspection(&self) -> serde_json::Value {
        let entries = self.document["manifests"].as_array().into_iter().flatten();
        let mut platforms: Vec<_> =
            entries.map(|entry| &entry["platform"]).filter(|platform| !platform.is_null()).cloned().collect();
        platforms.extend(self.platform.as_ref().and_then(|platform| serde_json::to_value(platform).ok()));
        serde_json::json!({
            "Descriptor": {"mediaType": self.media_type, "digest": self.digest, "size": self.size},
            "Platforms": platforms,
        })
    }
}

/// A list to be put under a name.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ManifestList {
    /// Its text.
    pub raw: String,
    /// For each of its manifests where it is, as `repository@digest`.
    pub sources: Vec<String>,
}

impl Engine {
    /// What reaches a registry; with `insecure` without asking for its certificate, or in the clear.
    fn reach(&self, name: &ImageRef, insecure: bool) -> RegistryClient {
        let client = self.inner.images.registries();
        if insecure { client.insecure_for(name.domain()) } else { client.clone() }
    }

    /// What a name leads to in its registry, without fetching it.
    pub async fn remote_manifest(
        &self,
        name: &str,
        insecure: bool,
        auth: Option<Credentials>,
    ) -> Result<RemoteManifest> {
        let name = ImageRef::parse(name).map_err(Error::invalid)?;
        let login = auth.map(registry_auth);
        let client = self.reach(&name, insecure);
        let found = registry::manifest(&client, &name, login.as_ref()).await?;
        let document: serde_json::Value = serde_json::from_slice(&found.bytes)
            .map_err(|error| Error::invalid(format!("manifest {}: {error}", found.digest)))?;
        // What is no image has no platform.
        let platform = match document.get("config") {
            Some(_) => registry::platform(&client, &name, &found.bytes, login.as_ref()).await.ok(),
            None => None,
        };
        Ok(RemoteManifest {
            name: name.to_string(),
            media_type: found.media_type,
            digest: found.digest.to_string(),
            size: found.bytes.len() as u64,
            platform,
            document,
            raw: String::from_utf8_lossy(&found.bytes).into_owned(),
        })
    }

    /// Puts a list of manifests, which the registry has, under a name there.
    pub async fn put_manifest_list(
        &self,
        name: &str,
        list: ManifestList,
        insecure: bool,
        auth: Option<Credentials>,
    ) -> Result<Digest> {
        let name = ImageRef::parse(name).map_err(Error::invalid)?;
        let sources: Vec<ImageRef> = list
            .sources
            .iter()
            .map(|text| ImageRef::parse_bare(text).map_err(Error::invalid))
            .collect::<Result<_>>()?;
        let login = auth.map(registry_auth);
        let client = self.reach(&name, insecure);
        Ok(registry::put_list(&client, &name, list.raw.as_bytes(), &sources, login.as_ref()).await?)
    }
}
