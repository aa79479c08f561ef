//! Names of images, with Docker's rules for what may be left out.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// The registry that a name without one means.
pub const DEFAULT_DOMAIN: &str = "docker.io";
/// The tag that a name without one means.
pub const DEFAULT_TAG: &str = "latest";
const OFFICIAL: &str = "library/";
const MAX_NAME: usize = 255;

/// A normalised image name: registry, repository, and a tag, a digest or both.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageRef {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// A text that names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid reference format: {text:?}: {why}")]
pub struct InvalidRef {
    /// What was given.
    pub text: String,
    /// Which rule it breaks.
    pub why: String,
}

impl ImageRef {
    /// Reads a name as a user writes it; without tag and digest it means `latest`.
    pub fn parse(text: &str) -> Result<Self, InvalidRef> {
        let mut parsed = Self::parse_bare(text)?;
        if parsed.tag.is_none() && parsed.digest.is_none() {
            parsed.tag = Some(DEFAULT_TAG.to_owned());
        }
        Ok(parsed)
    }

    /// Reads a name and adds no tag.
    pub fn parse_bare(text: &str) -> Result<Self, InvalidRef> {
        let invalid = |why: &str| InvalidRef { text: text.to_owned(), why: why.to_owned() };
        if text.is_empty() {
            return Err(invalid("the name is empty"));
        }
        if text.len() == 64 && Digest::from_hex(text).is_some() {
            return Err(invalid("64 hexadecimal digits are an id, not a name"));
        }
        let (rest, digest) = match text.split_once('@') {
            None => (text, None),
            Some((rest, digest)) => (rest, Some(Digest::parse(digest).map_err(|error| invalid(&error.to_string()))?)),
        };
        // A colon after the last slash begins the tag; one before it belongs to the registry's port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag {
            check_tag(tag).map_err(|why| invalid(&why))?;
        }
        let (domain, path) = split_domain(name);
        check_domain(domain).map_err(|why| invalid(&why))?;
        let domain = if domain == "index.docker.io" { DEFAULT_DOMAIN } else { domain };
        let path =
            if domain == DEFAULT_DOMAIN && !path.contains('/') { format!("{OFFICIAL}{path}") } else { path.to_owned() };
        check_path(&path).map_err(|why| invalid(&why))?;
        if domain.len() + 1 + path.len() > MAX_NAME {
            return Err(invalid("the name is longer than 255 characters"));
        }
        Ok(Self { domain: domain.to_owned(), path, tag: tag.map(str::to_owned), digest })
    }

    /// The registry, with its port if one was given.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within the registry, such as `library/alpine`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if any.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest, if the name pins one.
    #[must_use]
    pub const fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Registry and repository.
    #[must_use]
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// Registry and repository as people write them: without what is implied.
    #[must_use]
    pub fn familiar_name(&self) -> String {
        if self.domain == DEFAULT_DOMAIN {
            self.path.strip_prefix(OFFICIAL).filter(|path| !path.contains('/')).unwrap_or(&self.path).to_owned()
        } else {
            self.repository()
        }
    }

    /// The whole name as people write it, such as `alpine:3.20`.
    #[must_use]
    pub fn familiar(&self) -> String {
        self.suffixed(self.familiar_name())
    }

    /// The same repository with another tag, and no digest.
    pub fn with_tag(&self, tag: &str) -> Result<Self, InvalidRef> {
        check_tag(tag).map_err(|why| InvalidRef { text: format!("{}:{tag}", self.familiar_name()), why })?;
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The same repository pinned to a manifest, and no tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    fn suffixed(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.push(':');
            name.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            name.push('@');
            name.push_str(&digest.to_string());
        }
        name
    }
}

/// Docker's rule: the part before the first slash is a registry if it could not be a repository's folder.
fn split_domain(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':']) || first == "localhost" || first.chars().any(char::is_uppercase) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    }
}

fn check_domain(domain: &str) -> Result<(), String> {
    let (host, port) = if domain.starts_with('[') {
        match domain.split_once(']') {
            Some((host, "")) => (&host[1..], None),
            Some((host, rest)) => (&host[1..], Some(rest.strip_prefix(':').unwrap_or(""))),
            None => return Err("the registry's address has no closing bracket".to_owned()),
        }
    } else {
        match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        }
    };
    if port.is_some_and(|port| port.is_empty() || port.len() > 5 || !port.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err(format!("the registry {domain:?} has no valid port"));
    }
    let valid = if domain.starts_with('[') {
        host.parse::<std::net::Ipv6Addr>().is_ok()
    } else {
        host.split('.').all(|part| {
            !part.is_empty()
                && !part.starts_with('-')
                && !part.ends_with('-')
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
    };
    if valid { Ok(()) } else { Err(format!("the registry {domain:?} is no host name")) }
}

fn check_path(path: &str) -> Result<(), String> {
    if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(format!("repository name ({path}) must be lowercase"));
    }
    if path.split('/').all(is_path_component) { Ok(()) } else { Err(format!("{path:?} is no repository name")) }
}

/// Lower-case letters and digits, joined by one dot, one or two underscores, or any number of dashes.
fn is_path_component(part: &str) -> bool {
    let bytes = part.as_bytes();
    let word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if !bytes.first().is_some_and(word) || !bytes.last().is_some_and(word) {
        return false;
    }
    bytes
        .split(word)
        .all(|separator| matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|byte| *byte == b'-'))
}

fn check_tag(tag: &str) -> Result<(), String> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let valid = tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-');
    if valid { Ok(()) } else { Err(format!("{tag:?} is no tag")) }
}

/// The canonical form, with registry and folder: what the store uses as key.
impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.suffixed(self.repository()))
    }
}

impl FromStr for ImageRef {
    type Err = InvalidRef;
    fn from_str(text: &str) -> Result<Self, InvalidRef> {
        Self::parse(text)
    }
}

impl Serialize for ImageRef {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ImageRef {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse_bare(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn what_is_left_out_is_filled_in() {
        for (written, canonical, familiar) in [
            ("alpine", "docker.io/library/alpine:latest", "alpine:latest"),
            ("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
            ("index.docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
            ("docker.io/library/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
            ("user/app", "docker.io/user/app:latest", "user/app:latest"),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            ("localhost:5000/a/b_c:x", "localhost:5000/a/b_c:x", "localhost:5000/a/b_c:x"),
            ("ghcr.io/o/r", "ghcr.io/o/r:latest", "ghcr.io/o/r:latest"),
            ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
            ("a--b/c__d", "docker.io/a--b/c__d:latest", "a--b/c__d:latest"),
        ] {
            let parsed = ImageRef::parse(written).unwrap();
            assert_eq!(parsed.to_string(), canonical);
            assert_eq!(parsed.familiar(), familiar);
            assert_eq!(ImageRef::parse(canonical).unwrap(), parsed);
            assert_eq!(ImageRef::parse(familiar).unwrap(), parsed);
        }
        let pinned = ImageRef::parse(&format!("alpine:3@sha256:{HEX}")).unwrap();
        assert_eq!(pinned.familiar(), format!("alpine:3@sha256:{HEX}"));
        assert_eq!(ImageRef::parse(&format!("alpine@sha256:{HEX}")).unwrap().tag(), None);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = format!("{}/b", "a".repeat(254));
        for bad in [
            "",
            ":",
            "@",
            "a:",
            "a@",
            "-a",
            "a-",
            "a//b",
            "/a",
            "a/",
            "A",
            "user/App",
            "a..b",
            "a___b",
            "a:b:c",
            "a:.x",
            "a:-x",
            "a@sha256:00",
            "a b",
            "a\n",
            "host:port/a",
            "h_ost.x/a",
            "[::1/a",
            "..",
            "a/../b",
            &long,
            HEX,
        ] {
            assert!(ImageRef::parse(bad).is_err(), "{bad:?}");
        }
        assert!(ImageRef::parse("Ubuntu").unwrap_err().to_string().contains("must be lowercase"));
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_read_back_alike(text in "[a-zA-Z0-9./:@_\\-\\[\\]]{0,40}") {
            if let Ok(parsed) = ImageRef::parse(&text) {
                prop_assert_eq!(&ImageRef::parse(&parsed.to_string()).unwrap(), &parsed);
                prop_assert_eq!(&ImageRef::parse(&parsed.familiar()).unwrap(), &parsed);
            }
        }
    }
}
