//! `--build-context NAME=oci-layout://DIRECTORY[:TAG][@DIGEST]`: one image of a directory in OCI's form.

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Longest document that is read.
const MAX_DOCUMENT: u64 = 8 << 20;
/// How deep indexes may lie in each other.
const MAX_NESTING: usize = 4;
const TAG: &str = "org.opencontainers.image.ref.name";

/// An image of a layout.
#[derive(Debug, PartialEq, Eq)]
pub struct Layout {
    folder: PathBuf,
    /// Its descriptor, without what would name it.
    descriptor: Value,
}

impl Layout {
    /// Finds the image.
    pub fn open(text: &str) -> Result<Self, String> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        // A directory may have a colon in its name; one that is there is meant.
        let (folder, tag) = match rest.rsplit_once(':') {
            Some((folder, tag)) if !tag.contains('/') && !Path::new(rest).is_dir() => (folder, Some(tag)),
            _ => (rest, None),
        };
        let folder = fs::canonicalize(folder).map_err(|error| format!("{folder}: {error}"))?;
        let index = document(&folder.join("index.json"))?;
        let entries = index["manifests"].as_array().cloned().unwrap_or_default();
        let tagged = |entry: &Value, tag: &str| entry["annotations"][TAG] == tag;
        let found = match (digest, tag) {
            (Some(digest), _) => entries.iter().find(|entry| entry["digest"] == digest),
            (None, Some(tag)) => entries.iter().find(|entry| tagged(entry, tag)),
            (None, None) if entries.len() == 1 => entries.first(),
            (None, None) => entries.iter().find(|entry| tagged(entry, "latest")),
        };
        let mut descriptor = found.cloned().ok_or_else(|| {
            let wanted = digest.or(tag).unwrap_or("latest");
            let names: Vec<&str> = entries.iter().filter_map(|entry| entry["annotations"][TAG].as_str()).collect();
            format!("there is no {wanted} in it; there are: {}", names.join(", "))
        })?;
        if let Some(fields) = descriptor.as_object_mut() {
            fields.remove("annotations");
        }
        Ok(Self { folder, descriptor })
    }

    fn blob(&self, digest: &str) -> Option<PathBuf> {
        let hex = digest.strip_prefix("sha256:")?;
        let plain = hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        plain.then(|| self.folder.join("blobs/sha256").join(hex))
    }

    /// Everything that the image is of, as far as it is there: of other platforms it need not be.
    fn blobs(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut waiting = vec![(self.descriptor.clone(), 0)];
        while let Some((descriptor, depth)) = waiting.pop() {
            let Some(path) = self.blob(descriptor["digest"].as_str().unwrap_or_default()) else { continue };
            if depth > MAX_NESTING || !path.is_file() || !found.insert(path.clone()) {
                continue;
            }
            let kind = descriptor["mediaType"].as_str().unwrap_or_default();
            if !["manifest", "index"].iter().any(|part| kind.contains(part)) {
                continue;
            }
            let Ok(document) = document(&path) else { continue };
            let inner =
                ["manifests", "layers"].into_iter().flat_map(|key| document[key].as_array().into_iter().flatten());
            waiting.extend(inner.chain([&document["config"]]).map(|each| (each.clone(), depth + 1)));
        }
        found
    }

    /// Writes it as a layout of its own. What is in it is for the daemon to judge.
    pub fn pack<W: Write>(&self, builder: &mut tar::Builder<W>) -> io::Result<()> {
        super::build::append_file(builder, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let index = json!({ "schemaVersion": 2, "manifests": [self.descriptor] });
        super::build::append_file(builder, "index.json", index.to_string().as_bytes())?;
        for path in self.blobs() {
            let Some(name) = path.file_name() else { continue };
            builder.append_file(Path::new("blobs/sha256").join(name), &mut File::open(&path)?)?;
        }
        Ok(())
    }
}

fn document(path: &Path) -> Result<Value, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes))
        .map_err(|error| wrong(&error))?;
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(wrong(&"is too long"));
    }
    serde_json::from_slice(&bytes).map_err(|error| wrong(&error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_image_of_several_is_packed() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = folder.path().join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let digest = |letter: char| format!("sha256:{}", letter.to_string().repeat(64));
        let put = |letter: char, value: Value| {
            fs::write(blobs.join(letter.to_string().repeat(64)), value.to_string()).unwrap()
        };
        let kind = "application/vnd.oci.image.manifest.v1+json";
        put(
            'a',
            json!({ "config": { "digest": digest('b') }, "layers": [{ "digest": digest('c') }, { "digest": digest('f') }] }),
        );
        put('b', json!({}));
        put('c', json!({}));
        put('d', json!({ "config": { "digest": "sha256:../../../../etc/passwd" }, "layers": [] }));
        let entry = |letter: char, tag: &str| json!({ "mediaType": kind, "digest": digest(letter), "size": 2, "annotations": { TAG: tag } });
        let index = json!({ "manifests": [entry('a', "one"), entry('d', "two")] });
        fs::write(folder.path().join("index.json"), index.to_string()).unwrap();
        let at = folder.path().display();
        let one = Layout::open(&format!("{at}:one")).unwrap();
        assert_eq!(one, Layout::open(&format!("{at}@{}", digest('a'))).unwrap());
        let mut builder = tar::Builder::new(Vec::new());
        one.pack(&mut builder).unwrap();
        let bytes = builder.into_inner().unwrap();
        let mut archive = tar::Archive::new(&bytes[..]);
        let names: Vec<String> =
            archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect();
        assert_eq!(names.len(), 5, "{names:?}");
        assert!(one.descriptor.get("annotations").is_none());
        assert_eq!(Layout::open(&format!("{at}:two")).unwrap().blobs().len(), 1);
        assert!(Layout::open(&format!("{at}")).unwrap_err().contains("there are: one, two"));
        assert!(Layout::open("/no/such").unwrap_err().contains("/no/such"));
    }
}
