//! `volumes`, `tmpfs`, `secrets`, `configs` of a service.

use std::path::Path;

use super::Cx;
use super::fields::{Fields, Keyed};
use super::service::set;
use crate::model::{BindOptions, FileReference, ImageOptions, MountType, TmpfsOptions, VolumeMount, VolumeOptions};
use crate::node::{Node, Value};
use crate::session::clean;

const PROPAGATION: &[&str] = &["rprivate", "private", "rshared", "shared", "rslave", "slave"];

pub(super) fn volumes(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Vec<VolumeMount>> {
    let mut out = Keyed::new();
    for item in cx.items(node) {
        let mount = match &item.value {
            Value::Str(text) => short(cx, item, text),
            Value::Map(_) => long(cx, item),
            _ => {
                cx.bad(item, format!("an item must be a string or a mapping, not {}", item.kind()));
                None
            }
        };
        if let Some(mount) = mount {
            out.put(mount.target.trim_end_matches('/').to_owned(), mount);
        }
    }
    Some(out.into_items())
}

/// Whether the source of a short form is a path of the host, not the name of a volume.
fn is_path(source: &str) -> bool {
    source.starts_with(['.', '/', '~'])
}

/// A target without what says nothing in it.
fn cleaned(target: &str) -> String {
    clean(Path::new(target)).to_string_lossy().into_owned()
}

/// `[SOURCE:]TARGET[:OPTIONS]`.
fn short(cx: &mut Cx<'_, '_>, item: &Node, text: &str) -> Option<VolumeMount> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => ("", *target, ""),
        // `/data:ro`-like forms do not exist: two parts are always source and target.
        [source, target] => (*source, *target, ""),
        [source, target, options] => (*source, *target, *options),
        _ => {
            cx.bad(item, format!("`{text}` has too many parts; it is SOURCE:TARGET:OPTIONS"));
            return None;
        }
    };
    if target.is_empty() || (parts.len() > 1 && source.is_empty()) || (parts.len() > 2 && options.is_empty()) {
        cx.bad(item, format!("`{text}` has an empty part; it is SOURCE:TARGET:OPTIONS"));
        return None;
    }
    let mut mount = VolumeMount { target: target.to_owned(), ..VolumeMount::default() };
    if is_path(source) {
        mount.kind = MountType::Bind;
        mount.source = cx.session.path(item, source).to_string_lossy().into_owned();
        mount.bind = Some(BindOptions::default());
    } else {
        source.clone_into(&mut mount.source);
        // As the reference has it, a name that short is never looked into.
        mount.volume = (text.len() > 2).then(VolumeOptions::default);
    }
    for option in options.split(',').filter(|option| !option.is_empty()) {
        short_option(cx, item, &mut mount, option);
    }
    checked(cx, item, mount)
}

fn short_option(cx: &mut Cx<'_, '_>, item: &Node, mount: &mut VolumeMount, option: &str) {
    match (option, &mut mount.bind, &mut mount.volume) {
        ("ro", ..) => mount.read_only = true,
        ("rw", ..) => mount.read_only = false,
        ("nocopy", _, Some(volume)) => volume.nocopy = true,
        ("z" | "Z", bind, _) => option.clone_into(&mut bind.get_or_insert_default().selinux),
        // For file sharing into virtual machines; no difference here.
        ("cached" | "delegated" | "consistent", ..) => {}
        (word, Some(bind), _) if PROPAGATION.contains(&word) => word.clone_into(&mut bind.propagation),
        _ => {
            let message = format!("`{}`: `{option}` is not an option of this mount", cx.key);
            let known = ["ro", "rw", "nocopy", "z", "Z"];
            let help = format!("options are {}, {}", known.join(", "), PROPAGATION.join(", "));
            cx.session.error_help(item.at, message, help);
        }
    }
}

fn long(cx: &mut Cx<'_, '_>, item: &Node) -> Option<VolumeMount> {
    let mut fields = Fields::of(cx, item, "a volume")?;
    let kind = fields.option(cx, "type", mount_type);
    if item.lacks("type") {
        cx.bad(item, "a mount needs a `type`: bind, volume, tmpfs or image");
    }
    let mut mount = VolumeMount {
        kind: kind.unwrap_or_default(),
        read_only: fields.get(cx, "read_only", Cx::boolean),
        target: fields.get(cx, "target", Cx::string),
        source: fields.get(cx, "source", Cx::string),
        consistency: fields.get(cx, "consistency", Cx::string),
        bind: fields.option(cx, "bind", bind),
        volume: fields.option(cx, "volume", volume),
        tmpfs: fields.option(cx, "tmpfs", tmpfs),
        image: fields.option(cx, "image", image),
        ..VolumeMount::default()
    };
    mount.extensions = fields.finish(cx, &[]);
    // Without a known type, which was reported, the rest can't be judged.
    kind?;
    let given = [
        (MountType::Bind, "bind", mount.bind.is_some()),
        (MountType::Volume, "volume", mount.volume.is_some()),
        (MountType::Tmpfs, "tmpfs", mount.tmpfs.is_some()),
        (MountType::Image, "image", mount.image.is_some()),
    ];
    for (kind, name, set) in given {
        if set && kind != mount.kind {
            cx.bad(item, format!("`{name}` options do not belong to a mount of another type"));
        }
    }
    match mount.kind {
        MountType::Bind => {
            if mount.source.is_empty() {
                cx.bad(item, "a bind needs a `source`");
            } else {
                let at = item.get("source").unwrap_or(item);
                mount.source = cx.session.path(at, &mount.source).to_string_lossy().into_owned();
            }
        }
        MountType::Tmpfs if !mount.source.is_empty() => cx.bad(item, "a tmpfs has no `source`"),
        MountType::Image if mount.source.is_empty() => cx.bad(item, "an image mount needs a `source`"),
        MountType::Volume | MountType::Tmpfs | MountType::Image | MountType::Npipe | MountType::Cluster => {}
    }
    checked(cx, item, mount)
}

fn checked(cx: &mut Cx<'_, '_>, item: &Node, mut mount: VolumeMount) -> Option<VolumeMount> {
    if mount.target.is_empty() {
        cx.bad(item, "a mount needs a `target`");
        return None;
    }
    if !mount.target.starts_with('/') && mount.kind != MountType::Npipe {
        cx.bad(item, format!("the target `{}` must be an absolute path", mount.target));
        return None;
    }
    let as_written = cx.session.without.normalization && matches!(item.value, Value::Map(_));
    if mount.kind != MountType::Npipe && !as_written {
        mount.target = cleaned(&mount.target);
    }
    if mount.target.trim_matches('/').is_empty() {
        cx.bad(item, "nothing can be mounted on `/`");
        return None;
    }
    if mount.kind == MountType::Volume && is_path(&mount.source) {
        cx.bad(item, format!("`{}` is a path, not the name of a volume; use type bind", mount.source));
        return None;
    }
    Some(mount)
}

fn mount_type(cx: &mut Cx<'_, '_>, node: &Node) -> Option<MountType> {
    match cx.string(node)?.as_str() {
        "bind" => Some(MountType::Bind),
        "volume" => Some(MountType::Volume),
        "tmpfs" => Some(MountType::Tmpfs),
        "image" => Some(MountType::Image),
        other @ ("npipe" | "cluster") => {
            let why = if other == "npipe" { "they are of Windows alone" } else { "only a cluster has such volumes" };
            cx.session.unsupported(node.at, format!("`type`: mounts of type {other} are not supported: {why}"));
            Some(if other == "npipe" { MountType::Npipe } else { MountType::Cluster })
        }
        other => {
            cx.bad(node, format!("`{other}` is not a type of mount; it is bind, volume, tmpfs or image"));
            None
        }
    }
}

fn bind(cx: &mut Cx<'_, '_>, node: &Node) -> Option<BindOptions> {
    let mut fields = Fields::of(cx, node, "`bind`")?;
    let options = BindOptions {
        selinux: fields.get(cx, "selinux", |cx, node| cx.word(node, &["z", "Z"])),
        propagation: fields.get(cx, "propagation", |cx, node| cx.word(node, PROPAGATION)),
        // So unless said otherwise: only `false` says something.
        create_host_path: fields.option(cx, "create_host_path", Cx::boolean).filter(|create| !create),
        recursive: fields
            .get(cx, "recursive", |cx, node| cx.word(node, &["enabled", "disabled", "writable", "readonly"])),
    };
    fields.finish(cx, &[]);
    Some(options)
}

fn volume(cx: &mut Cx<'_, '_>, node: &Node) -> Option<VolumeOptions> {
    let mut fields = Fields::of(cx, node, "`volume`")?;
    let options = VolumeOptions {
        nocopy: fields.get(cx, "nocopy", Cx::boolean),
        subpath: fields.get(cx, "subpath", Cx::string),
        labels: fields.get(cx, "labels", Cx::pairs),
    };
    inside(cx, node, &options.subpath, "volume");
    fields.finish(cx, &[]);
    Some(options)
}

fn inside(cx: &mut Cx<'_, '_>, node: &Node, subpath: &str, of: &str) {
    if subpath.starts_with('/') || subpath.split('/').any(|part| part == "..") {
        cx.bad(node, format!("the subpath `{subpath}` must stay inside the {of}"));
    }
}

fn tmpfs(cx: &mut Cx<'_, '_>, node: &Node) -> Option<TmpfsOptions> {
    let mut fields = Fields::of(cx, node, "`tmpfs`")?;
    let options =
        TmpfsOptions { size: set(fields.option(cx, "size", Cx::bytes)), mode: fields.option(cx, "mode", mode) };
    fields.finish(cx, &[]);
    Some(options)
}

fn image(cx: &mut Cx<'_, '_>, node: &Node) -> Option<ImageOptions> {
    let mut fields = Fields::of(cx, node, "`image`")?;
    let options = ImageOptions { subpath: fields.get(cx, "subpath", Cx::string) };
    inside(cx, node, &options.subpath, "image");
    fields.finish(cx, &[]);
    Some(options)
}

/// Permission bits: a YAML number (`0440` is octal there), or octal digits as text.
fn mode(cx: &mut Cx<'_, '_>, node: &Node) -> Option<u32> {
    let mode = match &node.value {
        Value::Int(value) => u32::try_from(*value).ok(),
        Value::Str(text) => u32::from_str_radix(text.trim_start_matches("0o"), 8).ok(),
        _ => None,
    };
    let mode = mode.filter(|mode| *mode <= 0o7777);
    if mode.is_none() {
        cx.bad(node, "permission bits are octal, for example 0440");
    }
    mode
}

pub(super) fn secrets(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Vec<FileReference>> {
    references(cx, node, "/run/secrets/")
}

pub(super) fn configs(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Vec<FileReference>> {
    references(cx, node, "/")
}

/// References to configs or secrets; the later one at a target counts.
fn references(cx: &mut Cx<'_, '_>, node: &Node, folder: &str) -> Option<Vec<FileReference>> {
    let mut out = Keyed::new();
    for item in cx.items(node) {
        let Some(mut reference) = reference(cx, item) else { continue };
        let secret = folder != "/";
        if secret && reference.target.is_empty() {
            reference.target = format!("{folder}{}", reference.source);
        }
        let path = match reference.target.as_str() {
            "" => format!("/{}", reference.source),
            target if secret && !target.starts_with('/') => format!("{folder}{target}"),
            target => target.to_owned(),
        };
        out.put(path, reference);
    }
    Some(out.into_items())
}

/// A build's secrets: no default target.
pub(super) fn build_secrets(cx: &mut Cx<'_, '_>, node: &Node) -> Option<Vec<FileReference>> {
    let mut out = Keyed::new();
    for item in cx.items(node) {
        if let Some(reference) = reference(cx, item) {
            out.put((reference.source.clone(), reference.target.clone()), reference);
        }
    }
    Some(out.into_items())
}

fn reference(cx: &mut Cx<'_, '_>, item: &Node) -> Option<FileReference> {
    if let Value::Str(source) = &item.value {
        return Some(FileReference { source: source.clone(), ..FileReference::default() });
    }
    let mut fields = Fields::of(cx, item, "a reference to a config or secret")?;
    let mut reference = FileReference {
        source: fields.get(cx, "source", Cx::string),
        target: fields.get(cx, "target", Cx::string),
        uid: fields.get(cx, "uid", Cx::text),
        gid: fields.get(cx, "gid", Cx::text),
        mode: fields.option(cx, "mode", mode),
        ..FileReference::default()
    };
    reference.extensions = fields.finish(cx, &[]);
    for (name, id) in [("uid", &reference.uid), ("gid", &reference.gid)] {
        if !id.is_empty() && id.parse::<u32>().is_err() {
            cx.bad(item, format!("{name} `{id}` must be a number"));
        }
    }
    if reference.source.is_empty() {
        cx.bad(item, "an item needs a `source`");
        return None;
    }
    Some(reference)
}
