//! `--output`, `--push`, `--load`: where the result of a build goes.

use http::Method;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::build::{BuildArgs, Built};
use super::build_upload::fields;
use super::pull::{self, PushArgs};
use crate::archive;
use crate::client::{Query, escape};
use crate::commands::container::copy::{OutFile, write_out};
use crate::context::Context;
use crate::failure::{Failure, Outcome};

/// One destination.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Output {
    /// The files, into a directory.
    Local(PathBuf, Split),
    /// The files as a tar; `None` is standard output.
    Tar(Option<PathBuf>, Split),
    /// The image as a tar in both forms, OCI's and Docker's.
    Archive(Option<PathBuf>),
    /// The image in OCI's form, in a directory.
    Layout(PathBuf),
    /// The image in the engine.
    Image { push: bool },
    /// Nothing but the results of the steps, which the engine remembers.
    Nothing,
}

/// Whether the files for each platform lie in a folder of its own (`platform-split`); `None` when there are several.
type Split = Option<bool>;

/// The form in which the engine is to write the image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Packing {
    #[serde(skip_serializing_if = "Option::is_none")]
    compression: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    level: Option<u32>,
    force: bool,
    docker_types: bool,
    annotations: BTreeMap<String, String>,
}

impl Packing {
    /// Takes a key of `--output`; whether it is one of these.
    fn take(&mut self, key: &str, value: &str) -> Result<bool, String> {
        match key {
            "compression" => match value {
                "gzip" | "zstd" | "uncompressed" => self.compression = Some(value.to_owned()),
                "estargz" => return Err("compression=estargz: layers are packed as gzip or zstd, or not at all".into()),
                other => return Err(format!("compression={other}: expected uncompressed, gzip or zstd")),
            },
            "compression-level" => {
                let level = value.parse().map_err(|_| format!("compression-level={value}: expected a number"))?;
                self.level = Some(level);
            }
            "force-compression" => self.force = truth(key, value)?,
            "oci-mediatypes" => self.docker_types = !truth(key, value)?,
            key => match annotation(key)? {
                Some(name) => drop(self.annotations.insert(name.to_owned(), value.to_owned())),
                None => return Ok(false),
            },
        }
        Ok(true)
    }
}

/// The annotation that a key of `--output` sets: `annotation.NAME`, `annotation-manifest.NAME`.
fn annotation(key: &str) -> Result<Option<&str>, String> {
    let Some(rest) = key.strip_prefix("annotation") else { return Ok(None) };
    match rest.split_once('.') {
        Some(("" | "-manifest", name)) if !name.is_empty() => Ok(Some(name)),
        _ => Err(format!("{key}: expected annotation.NAME or annotation-manifest.NAME: an image's manifest has them")),
    }
}

/// The annotation of `--annotation`: `[manifest:]name=value`.
fn annotation_flag(text: &str) -> Result<(String, String), String> {
    let wrong = |why: &str| format!("--annotation {text}: {why}");
    let (key, value) = text.split_once('=').ok_or_else(|| wrong("expected name=value"))?;
    let name = match key.split_once(':') {
        Some(("manifest", name)) => name,
        Some((kind, _)) if kind.starts_with("index") || kind.starts_with("manifest") => {
            return Err(wrong("only an image's manifest has annotations here: manifest:name=value"));
        }
        _ => key,
    };
    if name.is_empty() { Err(wrong("the name is empty")) } else { Ok((name.to_owned(), value.to_owned())) }
}

fn truth(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "" | "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        other => Err(format!("{key}={other}: expected true or false")),
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Outputs {
    all: Vec<Output>,
    /// Names beside those of `--tag`.
    names: Vec<String>,
    /// How many of them are an image.
    images: usize,
    /// Times in layers become `SOURCE_DATE_EPOCH`.
    pub rewrite_timestamp: bool,
    /// The form of the image; one for all outputs.
    pub packing: Option<Packing>,
}

impl Outputs {
    /// Reads the options.
    pub fn parse(args: &BuildArgs) -> Outcome<Self> {
        let mut outputs = Self::default();
        for text in &args.output {
            outputs.add(text)?;
        }
        for text in &args.annotation {
            let (name, value) = annotation_flag(text).map_err(Failure::usage)?;
            outputs.packing.get_or_insert_default().annotations.insert(name, value);
        }
        if args.push {
            outputs.all.push(Output::Image { push: true });
        }
        if args.load {
            outputs.all.push(Output::Image { push: false });
        }
        let pushes = outputs.all.contains(&Output::Image { push: true });
        if pushes && outputs.names(args).is_empty() {
            return Err(Failure::new("a tag is needed when pushing to registry: name the image with --tag"));
        }
        Ok(outputs)
    }

    fn add(&mut self, text: &str) -> Outcome {
        if !text.contains('=') {
            self.all.push(match text {
                "-" => Output::Tar(None, None),
                folder => Output::Local(PathBuf::from(folder), None),
            });
            return Ok(());
        }
        let usage = |why: String| Failure::usage(format!("--output {text}: {why}"));
        let truth = |key: &str, value: &str| truth(key, value).map_err(usage);
        let (mut kind, mut dest, mut push, mut tar) = (String::new(), None, false, true);
        let (mut split, mut packing) = (None, None);
        for (key, value) in fields("output", text)? {
            match key.as_str() {
                "type" => kind = value,
                "dest" => dest = Some(value).filter(|value| value != "-").map(PathBuf::from),
                "name" => self.names.extend(value.split(',').map(str::to_owned)),
                "push" => push = truth("push", &value)?,
                "tar" => tar = truth("tar", &value)?,
                "rewrite-timestamp" => self.rewrite_timestamp |= truth("rewrite-timestamp", &value)?,
                "platform-split" => split = Some(truth("platform-split", &value)?),
                // So it is in any case.
                "unpack" | "store" if truth(&key, &value)? => {}
                other => {
                    let mut form: Packing = packing.take().unwrap_or_default();
                    if !form.take(other, &value).map_err(usage)? {
                        let known = "type, dest, name, push, tar, platform-split, compression, compression-level, \
                                     force-compression, oci-mediatypes, annotation.NAME and rewrite-timestamp are known";
                        return Err(usage(format!("unknown key {other}: {known}")));
                    }
                    packing = Some(form);
                }
            }
        }
        let files = matches!(kind.as_str(), "local" | "tar" | "cacheonly");
        if packing.is_some() && files {
            return Err(usage(format!("type={kind} writes no image: compression and annotations are an image's")));
        }
        if split.is_some() && !matches!(kind.as_str(), "local" | "tar") {
            return Err(usage("platform-split goes with type=local and type=tar".to_owned()));
        }
        if !files {
            if self.images > 0 && self.packing != packing {
                return Err(usage("an image has one form: say the same for all outputs that are images".to_owned()));
            }
            self.images += 1;
            self.packing = packing;
        }
        self.all.push(match (kind.as_str(), dest) {
            ("local", Some(dest)) => Output::Local(dest, split),
            ("cacheonly", None) => Output::Nothing,
            ("local", None) => return Err(usage("dest is missing".to_owned())),
            ("tar", dest) => Output::Tar(dest, split),
            ("oci" | "docker", Some(dest)) if !tar => Output::Layout(dest),
            ("oci" | "docker", None) if !tar => return Err(usage("tar=false needs dest".to_owned())),
            ("docker", None) | ("image", None) => Output::Image { push },
            ("registry", None) => Output::Image { push: true },
            ("oci" | "docker", dest) => Output::Archive(dest),
            ("image" | "registry", Some(_)) => return Err(usage("dest goes with files, not with an image".to_owned())),
            ("", _) => return Err(usage("type is missing".to_owned())),
            (other, _) => {
                return Err(usage(format!(
                    "type={other}: expected local, tar, oci, docker, image, registry or cacheonly"
                )));
            }
        });
        Ok(())
    }

    /// Only the files are wanted: the image itself need not stay.
    fn files_only(&self) -> bool {
        !self.all.is_empty()
            && self.all.iter().all(|output| matches!(output, Output::Local(..) | Output::Tar(..) | Output::Nothing))
    }

    /// Names for the image.
    pub fn names(&self, args: &BuildArgs) -> Vec<String> {
        if self.files_only() { self.names.clone() } else { args.tag.iter().chain(&self.names).cloned().collect() }
    }

    /// Writes what was built.
    pub async fn write(&self, context: &Context, args: &BuildArgs, built: &Built) -> Outcome {
        let names = self.names(args);
        let id = &built.id;
        for output in &self.all {
            match output {
                Output::Local(dest, split) => {
                    for (platform, id) in split_images(context, built, *split).await? {
                        let dest = platform.map_or_else(|| dest.clone(), |each| dest.join(folder_of(&each)));
                        export(context, &id, Some(&dest), true).await?;
                    }
                }
                Output::Tar(dest, split) => match split_images(context, built, *split).await?.as_slice() {
                    [(None, id)] => export(context, id, dest.as_deref(), false).await?,
                    images => export_all(context, images, dest.as_deref()).await?,
                },
                Output::Archive(dest) => {
                    write_out(save(context, &names, id).await?, dest.as_deref()).await?;
                }
                Output::Layout(dest) => {
                    let response = save(context, &names, id).await?;
                    unpack(archive::download(response.into_body()), dest).await?;
                }
                Output::Image { push: false } | Output::Nothing => {}
                Output::Image { push: true } => {
                    for image in &names {
                        let args = PushArgs {
                            all_tags: false,
                            platform: None,
                            disable_content_trust: true,
                            quiet: args.quiet,
                            image: image.clone(),
                        };
                        pull::push(context.clone(), args).await?;
                    }
                }
            }
        }
        if self.files_only() && names.is_empty() {
            for (_, id) in built.images() {
                forget(context, id).await;
            }
        }
        Ok(())
    }
}

/// The images whose files are written, each with its platform when that has a folder of its own.
async fn split_images(context: &Context, built: &Built, split: Split) -> Outcome<Vec<(Option<String>, String)>> {
    let images = built.images();
    let mut found = Vec::new();
    for (platform, id) in &images {
        let platform = match (split, platform) {
            (Some(false), _) | (None, None) => None,
            (_, Some(platform)) => Some((*platform).to_owned()),
            (Some(true), None) => Some(platform_of(context, id).await?),
        };
        found.push((platform, (*id).to_owned()));
    }
    Ok(found)
}

/// The platform of an image.
async fn platform_of(context: &Context, id: &str) -> Outcome<String> {
    let image: Value = context.client.get(&format!("/images/{}/json", escape(id))).await?;
    let parts = ["Os", "Architecture", "Variant"].map(|key| image[key].as_str().unwrap_or_default());
    Ok(parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/"))
}

async fn save(context: &Context, names: &[String], id: &str) -> Outcome<http::Response<hyper::body::Incoming>> {
    let mut query = Query::new();
    for name in names {
        query = query.with("names", name);
    }
    if names.is_empty() {
        query = query.with("names", id);
    }
    context.client.call(Method::GET, &format!("/images/get{query}"), None::<&()>).await
}

/// The folder for the files of a platform among several: `linux_arm64`, as with other builders.
fn folder_of(platform: &str) -> String {
    platform.replace('/', "_")
}

/// A container that never runs, for an image's files.
struct Files<'a> {
    context: &'a Context,
    container: String,
}

impl<'a> Files<'a> {
    async fn of(context: &'a Context, id: &str) -> Outcome<Self> {
        let body = json!({ "Image": id, "Cmd": ["-"], "Entrypoint": [], "HostConfig": { "NetworkMode": "none" } });
        let made: Value = context.client.post("/containers/create", &body).await?;
        Ok(Self { context, container: made["Id"].as_str().unwrap_or_default().to_owned() })
    }

    async fn tar(&self) -> Outcome<http::Response<hyper::body::Incoming>> {
        let path = format!("/containers/{}/export", self.container);
        self.context.client.call(Method::GET, &path, None::<&()>).await
    }

    async fn end(self) -> Outcome {
        self.context.client.delete(&format!("/containers/{}?v=1&force=1", self.container)).await.map(drop)
    }
}

/// An image's files, as a tar or into a folder.
async fn export(context: &Context, id: &str, dest: Option<&Path>, folder: bool) -> Outcome {
    let files = Files::of(context, id).await?;
    let written = match (files.tar().await, dest) {
        (Ok(tar), Some(dest)) if folder => unpack(archive::download(tar.into_body()), dest).await,
        (Ok(tar), dest) => write_out(tar, dest).await.map(drop),
        (Err(error), _) => Err(error),
    };
    written.and(files.end().await)
}

/// The files of images for several platforms as one tar, with a folder for each.
async fn export_all(context: &Context, images: &[(Option<String>, String)], dest: Option<&Path>) -> Outcome {
    let mut archive = tar::Builder::new(OutFile::open(dest)?);
    for (platform, id) in images {
        let files = Files::of(context, id).await?;
        let written = match files.tar().await {
            Ok(tar) => {
                let (reader, folder) = (archive::download(tar.into_body()), platform.as_deref().map(folder_of));
                let work = tokio::task::spawn_blocking(move || {
                    let done = archive::append_below(&mut archive, reader, folder.as_deref().unwrap_or_default());
                    done.map(|()| archive)
                });
                work.await.map_err(io::Error::other).flatten()
            }
            Err(error) => {
                files.end().await?;
                return Err(error);
            }
        };
        files.end().await?;
        archive = written
            .map_err(|error| Failure::new(format!("write {}: {error}", dest.unwrap_or(Path::new("-")).display())))?;
    }
    archive.into_inner().map_err(|error| Failure::new(error.to_string()))?.finish()
}

/// Unpacks into a directory, made if need be; nothing is written outside of it.
async fn unpack(reader: impl io::Read + Send + 'static, dest: &Path) -> Outcome {
    let at = dest.to_owned();
    let work = move || -> io::Result<()> {
        fs::create_dir_all(&at)?;
        let mut archive = tar::Archive::new(reader);
        archive.set_preserve_permissions(true);
        archive.set_preserve_mtime(true);
        archive.set_preserve_ownerships(nix::unistd::geteuid().is_root());
        archive.set_unpack_xattrs(true);
        archive.unpack(&at)
    };
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| Failure::new(error.to_string()))?;
    done.map_err(|error| Failure::new(format!("write {}: {error}", dest.display())))
}

/// Removes the image unless it has a name or a user; whether it goes changes nothing of the result.
async fn forget(context: &Context, id: &str) {
    let path = escape(id);
    let Ok(found) = context.client.get::<Value>(&format!("/images/{path}/json")).await else { return };
    if found["RepoTags"].as_array().is_none_or(Vec::is_empty) {
        let _ = context.client.delete(&format!("/images/{path}?noprune=1")).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn outputs(texts: &[&str]) -> Outcome<Outputs> {
        Outputs::parse(&BuildArgs {
            output: texts.iter().map(|text| (*text).to_owned()).collect(),
            ..BuildArgs::default()
        })
    }

    #[test]
    fn destinations_in_short_and_long() {
        let found = outputs(&["out", "-", "type=tar,dest=x.tar", "type=oci,dest=-", "type=docker,tar=false,dest=d"]);
        assert_eq!(
            found.unwrap().all,
            [
                Output::Local("out".into(), None),
                Output::Tar(None, None),
                Output::Tar(Some("x.tar".into()), None),
                Output::Archive(None),
                Output::Layout("d".into()),
            ]
        );
        let found = outputs(&["type=image,name=a:1,push=true,rewrite-timestamp=true"]).unwrap();
        assert!(found.rewrite_timestamp);
        assert_eq!((found.all, found.names), (vec![Output::Image { push: true }], vec!["a:1".to_owned()]));
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        for (text, part) in [
            ("type=local", "dest is missing"),
            ("type=cache", "expected local"),
            ("dest=x", "type is missing"),
            ("type=image,compresion=zstd", "unknown key compresion"),
            ("type=image,compression=estargz", "gzip or zstd"),
            ("type=image,compression=lz4", "expected uncompressed, gzip or zstd"),
            ("type=image,compression-level=high", "expected a number"),
            ("type=tar,compression=zstd", "writes no image"),
            ("type=oci,platform-split=true", "goes with type=local"),
            ("type=image,annotation-index.a=b", "annotation.NAME"),
            ("type=image,push-by-digest=true", "unknown key push-by-digest"),
            ("type=image,push=maybe", "expected true or false"),
            ("type=image,push=true", "a tag is needed"),
        ] {
            let message = outputs(&[text]).unwrap_err().message;
            assert!(message.contains(part), "{text}: {message}");
        }
    }

    #[test]
    fn an_image_has_the_form_that_is_asked_for() {
        let found = outputs(&[
            "type=oci,dest=x,compression=zstd,compression-level=5,force-compression=true,annotation.A.b=c=d",
            "type=image,compression=zstd,compression-level=5,force-compression=true,annotation-manifest.A.b=c=d",
            "type=local,dest=out,platform-split=true",
        ])
        .unwrap();
        let form = json!({
            "compression": "zstd", "level": 5, "force": true, "dockerTypes": false, "annotations": { "A.b": "c=d" },
        });
        assert_eq!(json!(found.packing), form);
        assert_eq!(found.all[2], Output::Local("out".into(), Some(true)));
        let other = outputs(&["type=oci,dest=x,compression=zstd", "type=image"]).unwrap_err().message;
        assert!(other.contains("one form"), "{other}");
        let args = BuildArgs { annotation: vec!["manifest:a=b".into(), "c.d/e=f:g".into()], ..BuildArgs::default() };
        let found = Outputs::parse(&args).unwrap().packing.unwrap();
        assert_eq!(json!(found.annotations), json!({ "a": "b", "c.d/e": "f:g" }));
        for wrong in ["a", "=b", "index:a=b", "manifest[linux/amd64]:a=b"] {
            let args = BuildArgs { annotation: vec![wrong.into()], ..BuildArgs::default() };
            assert!(Outputs::parse(&args).is_err(), "{wrong}");
        }
    }
}
