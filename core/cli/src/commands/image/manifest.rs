//! `manifest`: looking at manifests of registries, and making lists of them.
//!
//! A list is kept beside the client's configuration, in the files that Docker's client keeps there, until it is pushed.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::pull::headers;
use super::reference;
use crate::client::{Query, escape};
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::{json as layout, say};

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// One image of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Kept {
    #[serde(rename = "Ref")]
    name: String,
    #[serde(rename = "Descriptor")]
    descriptor: Descriptor,
    /// The manifest's bytes, in base64.
    #[serde(rename = "Raw")]
    raw: String,
    /// The same as a document, under the name of its kind.
    #[serde(rename = "SchemaV2Manifest", default, skip_serializing_if = "Option::is_none")]
    docker: Option<Value>,
    #[serde(rename = "OCIManifest", default, skip_serializing_if = "Option::is_none")]
    oci: Option<Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    platform: Platform,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Platform {
    architecture: String,
    os: String,
    #[serde(rename = "os.version", skip_serializing_if = "String::is_empty")]
    os_version: String,
    #[serde(rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    os_features: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    variant: String,
}

/// The client's lists.
struct Lists(PathBuf);

/// A name as a file's name, as Docker's client makes it.
fn file_name(name: &str) -> String {
    name.replace(':', "-").replace('/', "_")
}

impl Lists {
    fn of(context: &Context) -> Self {
        Self(context.config.join("manifests"))
    }

    fn folder(&self, list: &str) -> PathBuf {
        self.0.join(file_name(&reference::canonical(list)))
    }

    /// The images of a list, in the order of their files; `None` if there is no such list.
    fn read(&self, list: &str) -> Outcome<Option<Vec<Kept>>> {
        let folder = self.folder(list);
        let failed = |path: &Path, why: String| Failure::new(format!("read {}: {why}", path.display()));
        let entries = match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| failed(&folder, error.to_string()))?,
        };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        // Those that end so are still being written.
        paths.retain(|path| path.extension().is_none_or(|end| end != "tmp"));
        paths.sort();
        let read = |path: &PathBuf| -> Outcome<Kept> {
            let bytes = std::fs::read(path).map_err(|error| failed(path, error.to_string()))?;
            serde_json::from_slice(&bytes).map_err(|error| failed(path, error.to_string()))
        };
        paths.iter().map(read).collect::<Outcome<Vec<_>>>().map(Some)
    }

    fn write(&self, list: &str, kept: &Kept) -> Outcome {
        let folder = self.folder(list);
        let path = folder.join(file_name(&kept.name));
        let temporary = folder.join(format!("{}.tmp", std::process::id()));
        let text = serde_json::to_vec(kept).map_err(|error| Failure::new(error.to_string()))?;
        std::fs::create_dir_all(&folder)
            .and_then(|()| std::fs::write(&temporary, text))
            .and_then(|()| std::fs::rename(&temporary, &path))
            .map_err(|error| Failure::new(format!("write {}: {error}", path.display())))
    }

    fn remove(&self, list: &str) -> Outcome {
        match std::fs::remove_dir_all(self.folder(list)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(Failure::new(format!("No such manifest: {list}")))
            }
            other => other.map_err(|error| Failure::new(format!("remove manifest list {list}: {error}"))),
        }
    }
}

/// What a name leads to in its registry.
async fn remote(context: &Context, name: &str, insecure: bool) -> Outcome<Value> {
    let headers = headers(context, name)?;
    let query = Query::new().flag("insecure", insecure);
    let path = format!("/sampan/v1/manifests/{}{query}", escape(&reference::tagged(name)));
    context.client.get_with_headers(&path, &headers).await
}

/// An image of a registry, as it is kept in a list.
fn keep(name: &str, found: &Value) -> Outcome<Kept> {
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    let media_type = Some(text("MediaType"))
        .filter(|kind| !kind.is_empty())
        .or_else(|| found["Document"]["mediaType"].as_str().map(str::to_owned))
        .unwrap_or_else(|| OCI_MANIFEST.to_owned());
    let platform = match &found["Platform"] {
        Value::Null => return Err(Failure::new(format!("{name} is a manifest list, or no image at all"))),
        platform => serde_json::from_value(platform.clone()).map_err(|error| Failure::new(error.to_string()))?,
    };
    let size = found["Size"].as_u64().unwrap_or(0);
    let document = Some(found["Document"].clone());
    let (docker, oci) = if media_type == OCI_MANIFEST { (None, document) } else { (document, None) };
    let descriptor = Descriptor { media_type, digest: text("Digest"), size, platform };
    Ok(Kept { name: reference::canonical(name), descriptor, raw: STANDARD.encode(text("Raw")), docker, oci })
}

/// The list as a document: Docker's, unless all its images are OCI's.
fn document(kept: &[Kept]) -> Value {
    let oci = kept.iter().all(|each| each.descriptor.media_type == OCI_MANIFEST);
    let manifests: Vec<&Descriptor> = kept.iter().map(|each| &each.descriptor).collect();
    json!({
        "schemaVersion": 2,
        "mediaType": if oci { OCI_INDEX } else { DOCKER_LIST },
        "manifests": manifests,
    })
}

/// Options of `manifest inspect`.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// Allow communication with an insecure registry
    #[arg(long)]
    pub insecure: bool,
    /// Output additional info including layers and platform
    #[arg(short, long)]
    pub verbose: bool,
    /// [MANIFEST_LIST] MANIFEST
    #[arg(required = true, num_args = 1..=2)]
    pub names: Vec<String>,
}

/// `manifest inspect`: a list that is kept here, else what a name leads to in its registry, without fetching it.
pub async fn inspect(context: Context, args: InspectArgs) -> Outcome {
    let lists = Lists::of(&context);
    let shown = |kept: &Kept| {
        let document = kept.oci.clone().or_else(|| kept.docker.clone()).unwrap_or_default();
        if args.verbose {
            json!({"Ref": kept.name, "Descriptor": kept.descriptor, "Document": document})
        } else {
            document
        }
    };
    if let [list, image] = args.names.as_slice() {
        let kept = lists.read(list)?.ok_or_else(|| Failure::new(format!("No such manifest: {list}")))?;
        let image = reference::canonical(image);
        let found = kept.iter().find(|each| each.name == image);
        let found = found.ok_or_else(|| Failure::new(format!("No such manifest: {image} in {list}")))?;
        return say!("{}", layout::pretty(&shown(found)));
    }
    let name = args.names.first().map(String::as_str).unwrap_or_default();
    if let Some(kept) = lists.read(name)? {
        let list = if args.verbose { Value::Array(kept.iter().map(shown).collect()) } else { document(&kept) };
        return say!("{}", layout::pretty(&list));
    }
    let found = remote(&context, name, args.insecure).await?;
    if !args.verbose {
        return say!("{}", layout::pretty(&found["Document"]));
    }
    let mut descriptor = json!({"mediaType": found["MediaType"], "digest": found["Digest"], "size": found["Size"]});
    if !found["Platform"].is_null() {
        descriptor["platform"] = found["Platform"].clone();
    }
    let shown = json!({"Ref": found["Name"], "Descriptor": descriptor, "Document": found["Document"]});
    say!("{}", layout::pretty(&shown))
}

/// Options of `manifest create`.
#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// Amend an existing manifest list
    #[arg(short, long)]
    pub amend: bool,
    /// Allow communication with an insecure registry
    #[arg(long)]
    pub insecure: bool,
    /// The list's name
    pub list: String,
    /// Images in its registry
    #[arg(required = true)]
    pub manifests: Vec<String>,
}

/// `manifest create`
pub async fn create(context: Context, args: CreateArgs) -> Outcome {
    let lists = Lists::of(&context);
    let list = reference::canonical(&args.list);
    if !args.amend && lists.read(&list)?.is_some() {
        return Err(Failure::new(format!("refusing to amend an existing manifest list with no --amend flag: {list}")));
    }
    // Nothing is kept unless all are there.
    let mut kept = Vec::new();
    for name in &args.manifests {
        kept.push(keep(name, &remote(&context, name, args.insecure).await?)?);
    }
    for each in &kept {
        lists.write(&list, each)?;
    }
    say!("Created manifest list {list}")
}

/// Options of `manifest annotate`.
#[derive(Debug, clap::Args)]
pub struct AnnotateArgs {
    /// Set architecture
    #[arg(long)]
    pub arch: Option<String>,
    /// Set operating system
    #[arg(long)]
    pub os: Option<String>,
    /// Set operating system feature
    #[arg(long, value_delimiter = ',')]
    pub os_features: Vec<String>,
    /// Set operating system version
    #[arg(long)]
    pub os_version: Option<String>,
    /// Set architecture variant
    #[arg(long)]
    pub variant: Option<String>,
    /// The list's name
    pub list: String,
    /// An image of it
    pub manifest: String,
}

/// `manifest annotate`
pub async fn annotate(context: Context, args: AnnotateArgs) -> Outcome {
    let lists = Lists::of(&context);
    let missing = || Failure::new(format!("manifest for image {} does not exist in {}", args.manifest, args.list));
    let name = reference::canonical(&args.manifest);
    let kept = lists.read(&args.list)?.ok_or_else(|| Failure::new(format!("No such manifest: {}", args.list)))?;
    let mut found = kept.into_iter().find(|each| each.name == name).ok_or_else(missing)?;
    let platform = &mut found.descriptor.platform;
    let set = |place: &mut String, value: &Option<String>| {
        if let Some(value) = value {
            place.clone_from(value);
        }
    };
    set(&mut platform.architecture, &args.arch);
    set(&mut platform.os, &args.os);
    set(&mut platform.os_version, &args.os_version);
    set(&mut platform.variant, &args.variant);
    for feature in args.os_features {
        if !platform.os_features.contains(&feature) {
            platform.os_features.push(feature);
        }
    }
    if platform.os.is_empty() || platform.architecture.is_empty() {
        return Err(Failure::new("a manifest needs an operating system and an architecture: give --os and --arch"));
    }
    lists.write(&args.list, &found)
}

/// Options of `manifest push`.
#[derive(Debug, clap::Args)]
pub struct PushArgs {
    /// Allow push to an insecure registry
    #[arg(long)]
    pub insecure: bool,
    /// Remove the local manifest list after push
    #[arg(short, long)]
    pub purge: bool,
    /// The list's name
    pub list: String,
}

/// `manifest push`
pub async fn push(context: Context, args: PushArgs) -> Outcome {
    let lists = Lists::of(&context);
    let list = reference::canonical(&args.list);
    let kept = lists.read(&list)?.ok_or_else(|| Failure::new(format!("No such manifest: {list}")))?;
    let sources: Vec<String> =
        kept.iter().map(|each| format!("{}@{}", reference::split(&each.name).0, each.descriptor.digest)).collect();
    let body = json!({"Raw": layout::pretty(&document(&kept)), "Sources": sources});
    let query = Query::new().flag("insecure", args.insecure);
    let path = format!("/sampan/v1/manifests/{}{query}", escape(&list));
    let answer: Value = context.client.put_with_headers(&path, &body, &headers(&context, &list)?).await?;
    say!("{}", answer["Digest"].as_str().unwrap_or_default())?;
    if args.purge { lists.remove(&list) } else { Ok(()) }
}

/// Arguments of `manifest rm`.
#[derive(Debug, clap::Args)]
pub struct RemoveArgs {
    /// Names of lists
    #[arg(required = true)]
    pub lists: Vec<String>,
}

/// `manifest rm`
pub async fn remove(context: Context, args: RemoveArgs) -> Outcome {
    let lists = Lists::of(&context);
    let failed: Vec<String> =
        args.lists.iter().filter_map(|list| lists.remove(list).err()).map(|failure| failure.message).collect();
    if failed.is_empty() { Ok(()) } else { Err(Failure::new(failed.join("\n"))) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn found(media_type: &str, architecture: &str) -> Value {
        json!({
            "Name": "localhost:5000/a:1", "MediaType": media_type, "Digest": format!("sha256:{architecture}"),
            "Size": 7, "Platform": {"os": "linux", "architecture": architecture}, "Raw": "{ }", "Document": {},
        })
    }

    #[test]
    fn a_list_is_kept_in_files_and_is_one_document() {
        let folder = tempfile::tempdir().unwrap();
        let lists = Lists(folder.path().join("manifests"));
        assert!(lists.read("localhost:5000/l").unwrap().is_none());
        for (name, architecture) in [("localhost:5000/a:1", "amd64"), ("localhost:5000/b", "arm64")] {
            lists.write("localhost:5000/l", &keep(name, &found(OCI_MANIFEST, architecture)).unwrap()).unwrap();
        }
        let kept = lists.read("localhost:5000/l:latest").unwrap().unwrap();
        assert_eq!(kept.len(), 2);
        assert_eq!(kept[1].name, "localhost:5000/b:latest");
        assert_eq!((kept[0].raw.as_str(), kept[0].docker.is_none()), ("eyB9", true));
        let list = document(&kept);
        assert_eq!(list["mediaType"], OCI_INDEX);
        assert_eq!(list["manifests"][0]["platform"], json!({"architecture": "amd64", "os": "linux"}));
        let mixed = [kept[0].clone(), keep("c", &found("application/vnd.docker.x", "arm")).unwrap()];
        assert_eq!(document(&mixed)["mediaType"], DOCKER_LIST);
        lists.remove("localhost:5000/l").unwrap();
        assert!(lists.remove("localhost:5000/l").unwrap_err().message.contains("No such manifest"));
    }

    #[test]
    fn a_list_is_no_image_of_a_list() {
        let error = keep("x", &json!({"MediaType": DOCKER_LIST, "Document": {"manifests": []}})).unwrap_err();
        assert!(error.message.contains("manifest list"), "{}", error.message);
    }
}
