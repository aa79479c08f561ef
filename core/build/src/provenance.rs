//! How an image was made, as a statement on it: SLSA's provenance in the form of BuildKit, which says nothing that a
//! build was told in confidence. It is made only when asked for, as it has times in it.

use std::collections::BTreeSet;

use sampan_image::{Digest, ImageRef, Platform, timestamp};
use serde_json::{Map, Value, json};

use crate::instruction::Dockerfile;
use crate::options::Options;
use crate::remote::Remote;

/// What of a build is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Times, platform, and what came from elsewhere.
    #[default]
    Min,
    /// Also arguments, labels, the names of secrets, and the Dockerfile.
    Max,
}

/// The edition of SLSA's predicate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// `https://slsa.dev/provenance/v1`
    #[default]
    V1,
    /// `https://slsa.dev/provenance/v0.2`
    V02,
}

impl Version {
    /// What tells readers the kind of the predicate.
    #[must_use]
    pub const fn predicate_type(self) -> &'static str {
        match self {
            Self::V1 => "https://slsa.dev/provenance/v1",
            Self::V02 => "https://slsa.dev/provenance/v0.2",
        }
    }

    const fn build_type(self) -> &'static str {
        match self {
            Self::V1 => "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md",
            Self::V02 => "https://mobyproject.org/buildkit@v1",
        }
    }
}

/// A statement that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Provenance {
    /// How much it tells.
    pub mode: Mode,
    /// In which form.
    pub version: Version,
    /// Who the builder is, by an address.
    pub builder: String,
    /// Whether the user says that the same comes of it again.
    pub reproducible: bool,
}

/// Reads what is to be said of an image: texts of `--attest`, to which the others are short for
/// (`type=provenance,mode=max`). Of one kind the last counts.
///
/// # Errors
/// A sentence on what is not known, or not done.
pub fn attestations<T: AsRef<str>>(texts: &[T]) -> Result<Option<Provenance>, String> {
    let mut wanted = None;
    for text in texts {
        let text = text.as_ref();
        let wrong = |why: String| format!("--attest {text}: {why}");
        let (mut kind, mut disabled) = ("", false);
        let mut found = Provenance::default();
        let mut others = Vec::new();
        for part in text.split(',') {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            match (key, value) {
                ("type", value) => kind = value,
                ("disabled", value) => disabled = truth(value).ok_or_else(|| wrong(format!("disabled={value}")))?,
                ("mode", "min") => found.mode = Mode::Min,
                ("mode", "max") => found.mode = Mode::Max,
                ("mode", other) => return Err(wrong(format!("mode={other}: expected min or max"))),
                ("version", "v1") => found.version = Version::V1,
                ("version", "v0.2") => found.version = Version::V02,
                ("version", other) => return Err(wrong(format!("version={other}: expected v1 or v0.2"))),
                ("builder-id", value) => value.clone_into(&mut found.builder),
                ("reproducible", value) => {
                    found.reproducible = truth(value).ok_or_else(|| wrong(format!("reproducible={value}")))?;
                }
                (other, _) => others.push(other),
            }
        }
        match kind {
            "provenance" => {
                if let Some(other) = others.first() {
                    let known = "mode, version, builder-id, reproducible and disabled are known";
                    return Err(wrong(format!("unknown key {other}: {known}")));
                }
                wanted = (!disabled).then_some(found);
            }
            "sbom" if disabled => {}
            "sbom" => {
                return Err(wrong(
                    "a list of an image's software is made by a scanner that looks into it, and none is run here: \
                     make it with a tool of your choice, or say --sbom=false"
                        .to_owned(),
                ));
            }
            "" => return Err(wrong("type is missing: type=provenance".to_owned())),
            other => return Err(wrong(format!("type={other}: expected provenance or sbom"))),
        }
    }
    Ok(wanted)
}

fn truth(text: &str) -> Option<bool> {
    match text {
        "" | "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// Something of elsewhere that a build was made of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Material {
    uri: String,
    /// The digest's kind and digits, where one is known.
    digest: Option<(&'static str, String)>,
}

impl Material {
    /// An image by its name, and the manifest that was taken.
    #[must_use]
    pub fn image(name: &str, platform: &Platform, manifest: Digest) -> Self {
        // An image that came with the build has no name but its id.
        let known = if Digest::parse(name).is_ok() { None } else { ImageRef::parse(name).ok() };
        let uri = known.map_or_else(|| name.to_owned(), |name| package(&name, platform));
        Self { uri, digest: Some(("sha256", manifest.hex())) }
    }

    /// A file or a repository, and the digest by which it was asked for.
    #[must_use]
    pub fn remote(remote: &Remote, checksum: Option<&str>) -> Self {
        let digest = checksum.and_then(|text| match (remote, text.split_once(':')) {
            (Remote::Http { .. }, Some(("sha256", hex))) => Some(("sha256", hex.to_owned())),
            (Remote::Git { .. }, None) if text.len() == 40 => Some(("sha1", text.to_owned())),
            _ => None,
        });
        Self { uri: remote.shown(), digest }
    }

    fn document(&self) -> Value {
        let mut document = json!({ "uri": self.uri });
        if let Some((kind, digits)) = &self.digest {
            document["digest"] = json!({ *kind: digits });
        }
        document
    }
}

/// An image as a package is named across tools.
fn package(name: &ImageRef, platform: &Platform) -> String {
    let tag = name.tag().map(|tag| format!("@{tag}")).unwrap_or_default();
    let digest = name.digest().map(|digest| format!("digest={digest}&")).unwrap_or_default();
    let platform = platform.to_string().replace('/', "%2F");
    format!("pkg:docker/{}{tag}?{digest}platform={platform}", name.familiar_name())
}

/// What is known of a build for one platform.
#[derive(Debug)]
pub struct How<'a> {
    /// Read.
    pub file: &'a Dockerfile,
    /// Its name.
    pub dockerfile: &'a str,
    /// Its text.
    pub text: &'a str,
    /// What was asked for.
    pub options: &'a Options,
    /// Names of contexts beside the main one.
    pub contexts: Vec<&'a str>,
    /// What the image is for.
    pub platform: &'a Platform,
    /// What came from elsewhere.
    pub materials: BTreeSet<Material>,
    /// Nanoseconds since 1970.
    pub started: i64,
    /// Nanoseconds since 1970.
    pub ended: i64,
}

impl How<'_> {
    /// What was asked for, in the words of BuildKit's frontend.
    fn arguments(&self, mode: Mode) -> Value {
        let mut arguments = Map::new();
        let mut put = |name: String, value: &str| arguments.insert(name, Value::String(value.to_owned()));
        if let Some((syntax, _)) = &self.file.directives.syntax {
            put("cmdline".to_owned(), syntax);
        }
        if mode == Mode::Max {
            for (name, value) in &self.options.build_args {
                if let Some(value) = value {
                    put(format!("build-arg:{name}"), value);
                }
            }
            for (name, value) in &self.options.labels {
                put(format!("label:{name}"), value);
            }
            for name in &self.contexts {
                put(format!("context:{name}"), "local");
            }
            if let Some(target) = &self.options.target {
                put("target".to_owned(), target);
            }
            if self.options.no_cache {
                put("no-cache".to_owned(), "");
            }
        }
        Value::Object(arguments)
    }

    fn request(&self, mode: Mode) -> Value {
        let mut request = json!({
            "frontend": "dockerfile.v0",
            "args": self.arguments(mode),
            "locals": [{ "name": "context" }, { "name": "dockerfile" }],
        });
        if mode == Mode::Max {
            let ids = |ids: Vec<&String>| ids.into_iter().map(|id| json!({ "id": id })).collect::<Vec<_>>();
            if !self.options.secrets.is_empty() {
                request["secrets"] = json!(ids(self.options.secrets.keys().collect()));
            }
            if !self.options.ssh.is_empty() {
                request["ssh"] = json!(ids(self.options.ssh.keys().collect()));
            }
        }
        request
    }

    /// The Dockerfile, for those who want to know.
    fn source(&self) -> Value {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(self.text);
        json!({ "source": { "infos": [{ "filename": self.dockerfile, "language": "Dockerfile", "data": text }] } })
    }
}

/// The predicate of a statement.
#[must_use]
pub fn predicate(wanted: &Provenance, how: &How<'_>) -> Value {
    let (started, ended) = (timestamp::format(how.started), timestamp::format(how.ended));
    let materials: Vec<Value> = how.materials.iter().map(Material::document).collect();
    let max = wanted.mode == Mode::Max;
    match wanted.version {
        Version::V1 => {
            let mut metadata = json!({
                "startedOn": started,
                "finishedOn": ended,
                "buildkit_completeness": { "request": max, "resolvedDependencies": false },
                "buildkit_reproducible": wanted.reproducible,
            });
            if max {
                metadata["buildkit_metadata"] = how.source();
            }
            json!({
                "buildDefinition": {
                    "buildType": wanted.version.build_type(),
                    "externalParameters": {
                        "configSource": { "path": how.dockerfile },
                        "request": how.request(wanted.mode),
                    },
                    "internalParameters": { "builderPlatform": Platform::host().to_string() },
                    "resolvedDependencies": materials,
                },
                "runDetails": { "builder": { "id": wanted.builder }, "metadata": metadata },
            })
        }
        Version::V02 => {
            let mut metadata = json!({
                "buildStartedOn": started,
                "buildFinishedOn": ended,
                "completeness": { "parameters": max, "environment": true, "materials": false },
                "reproducible": wanted.reproducible,
            });
            if max {
                metadata["https://mobyproject.org/buildkit@v1#metadata"] = how.source();
            }
            json!({
                "builder": { "id": wanted.builder },
                "buildType": wanted.version.build_type(),
                "materials": materials,
                "invocation": {
                    "configSource": { "entryPoint": how.dockerfile },
                    "parameters": how.request(wanted.mode),
                    "environment": { "platform": Platform::host().to_string() },
                },
                "metadata": metadata,
            })
        }
    }
}

/// The statement: that a predicate holds of the image with this manifest.
#[must_use]
pub fn statement(version: Version, predicate: &Value, names: &[ImageRef], part: (&Platform, &Digest)) -> Value {
    let (platform, manifest) = part;
    let digest = json!({ "sha256": manifest.hex() });
    let mut subjects: Vec<Value> =
        names.iter().map(|name| json!({ "name": package(name, platform), "digest": digest })).collect();
    if subjects.is_empty() {
        subjects.push(json!({ "name": "_", "digest": digest }));
    }
    json!({
        "_type": "https://in-toto.io/Statement/v0.1",
        "predicateType": version.predicate_type(),
        "subject": subjects,
        "predicate": predicate,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::parser::parse;

    #[test]
    fn what_is_asked_for_is_read_and_what_is_not_done_is_named() {
        let read = |texts: &[&str]| attestations(texts);
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(read(&["type=provenance"]).unwrap().unwrap(), Provenance::default());
        let max = read(&["type=provenance,mode=max,version=v0.2,builder-id=https://b/1,reproducible=true"]);
        let max = max.unwrap().unwrap();
        assert_eq!((max.mode, max.version, max.reproducible), (Mode::Max, Version::V02, true));
        assert_eq!(read(&["type=provenance,mode=max", "type=provenance,disabled=true"]).unwrap(), None);
        assert_eq!(read(&["type=sbom,disabled=true"]).unwrap(), None);
        for (text, part) in [
            ("type=sbom", "scanner"),
            ("type=sbom,generator=x", "scanner"),
            ("mode=max", "type is missing"),
            ("type=provenance,mode=most", "expected min or max"),
            ("type=provenance,inline-only=true", "unknown key inline-only"),
            ("type=vex", "expected provenance or sbom"),
        ] {
            let error = read(&[text]).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_statement_tells_no_more_than_its_mode() {
        let text = "FROM debian:12\nADD https://u:p@files.example/x /x\n";
        let file = parse("Dockerfile", text).unwrap();
        let options = Options {
            build_args: [("TOKEN".to_owned(), Some("a-value".to_owned()))].into(),
            secrets: [("a-secret".to_owned(), std::sync::Arc::from(&b"hidden"[..]))].into(),
            ..Options::default()
        };
        let platform = Platform::parse("linux/arm64").unwrap();
        let manifest = Digest::of(b"manifest");
        let address = Remote::parse("https://u:p@files.example/x").unwrap().unwrap();
        let how = How {
            file: &file,
            dockerfile: "Dockerfile",
            text,
            options: &options,
            contexts: vec!["docs"],
            platform: &platform,
            materials: [Material::image("debian:12", &platform, manifest), Material::remote(&address, None)].into(),
            started: 1_000_000_000,
            ended: 2_000_000_000,
        };
        let names = [ImageRef::parse("localhost:5000/team/app:1").unwrap()];
        let of = |mode, version| {
            let wanted = Provenance { mode, version, ..Provenance::default() };
            let mut found = statement(version, &predicate(&wanted, &how), &names, (&platform, &manifest));
            // The machine's own.
            for place in ["/predicate/buildDefinition/internalParameters", "/predicate/invocation/environment"] {
                if let Some(place) = found.pointer_mut(place) {
                    *place = json!("here");
                }
            }
            format!("{found:#}")
        };
        let min = of(Mode::Min, Version::V1);
        assert!(!min.contains("a-value") && !min.contains("a-secret") && !min.contains("u:p@"), "{min}");
        let max = of(Mode::Max, Version::V1);
        assert!(max.contains("a-value") && max.contains("a-secret") && !max.contains("hidden"), "{max}");
        insta::assert_snapshot!([min, max, of(Mode::Min, Version::V02)].join("\n\n"));
    }
}
