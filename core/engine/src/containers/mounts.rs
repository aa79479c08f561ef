//! What is mounted into a container: from `-v`, `--mount`, `--volumes-from` and the image. Pure.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use bollard_stubs::models::{
    ContainerConfig, HostConfig, Mount, MountBindOptionsPropagationEnum as Propagation, MountTypeEnum,
};

use super::record::{ContainerRecord, MountRecord, MountedImage};
use crate::error::{Error, Result};

/// A mount to be; a volume is made before the record is whole.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Planned {
    /// The mount.
    pub record: MountRecord,
    /// The volume's options, when they are asked for.
    pub options: HashMap<String, String>,
    /// The volume's labels.
    pub labels: HashMap<String, String>,
}

/// What a plan asks of its surroundings.
pub(crate) trait Surroundings {
    /// A container of `--volumes-from`.
    fn container(&self, name: &str) -> Result<Arc<ContainerRecord>>;
    /// An image to mount.
    fn image(&self, name: &str) -> Result<MountedImage>;
    /// Whether a path is there on the host.
    fn exists(&self, path: &Path) -> bool;
}

/// Everything that a container mounts, in the order of Docker's precedence.
pub(crate) fn plan(config: &ContainerConfig, host: &HostConfig, around: &impl Surroundings) -> Result<Vec<Planned>> {
    let mut all: Vec<Planned> = Vec::new();
    for from in host.volumes_from.iter().flatten() {
        for mount in volumes_from(from, around)? {
            put(&mut all, mount);
        }
    }
    let mut asked: Vec<Planned> = Vec::new();
    for bind in host.binds.iter().flatten() {
        asked.push(parse_bind(bind, host.volume_driver.as_deref())?);
    }
    for mount in host.mounts.iter().flatten() {
        asked.push(parse_mount(mount, around)?);
    }
    let mut seen: Vec<String> = Vec::new();
    for path in host.tmpfs.iter().flatten().map(|(path, _)| path) {
        seen.push(destination(path).map_err(|error| error.context(format!("invalid tmpfs {path:?}")))?);
    }
    for mount in &asked {
        let at = &mount.record.destination;
        if seen.contains(at) {
            return Err(Error::invalid(format!("Duplicate mount point: {at}")));
        }
        seen.push(at.clone());
    }
    for mount in asked {
        put(&mut all, mount);
    }
    for path in config.volumes.iter().flatten() {
        let at = destination(path).map_err(|error| error.context(format!("invalid volume {path:?}")))?;
        let taken = seen.contains(&at) || all.iter().any(|mount| mount.record.destination == at);
        if !taken {
            let record = MountRecord {
                kind: "volume".into(),
                destination: at,
                rw: true,
                driver: host.volume_driver.clone().filter(|driver| !driver.is_empty()),
                ..MountRecord::default()
            };
            all.push(Planned { record, ..Planned::default() });
        }
    }
    Ok(all)
}

/// A later mount takes the place of an earlier one at the same path.
fn put(all: &mut Vec<Planned>, mount: Planned) {
    all.retain(|other| other.record.destination != mount.record.destination);
    all.push(mount);
}

/// An absolute, clean path that is not the root.
fn destination(path: &str) -> Result<String> {
    let given = Path::new(path);
    if !given.is_absolute() {
        return Err(Error::invalid(format!("invalid mount path: '{path}' mount path must be absolute")));
    }
    let mut clean = PathBuf::from("/");
    for part in given.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if clean == Path::new("/") {
        return Err(Error::invalid("invalid specification: destination can't be '/'"));
    }
    Ok(clean.to_string_lossy().into_owned())
}

fn volumes_from(text: &str, around: &impl Surroundings) -> Result<Vec<Planned>> {
    let (name, mode) = text.split_once(':').unwrap_or((text, ""));
    let writable = match mode {
        "" | "rw" | "z" | "Z" => true,
        "ro" => false,
        _ => return Err(Error::invalid(format!("invalid mode for volumes-from: {mode}"))),
    };
    if name.is_empty() {
        return Err(Error::invalid(format!("malformed volumes-from: {text:?}: it names no container")));
    }
    let record = around.container(name)?;
    Ok(record
        .mounts
        .iter()
        .cloned()
        .map(|mut mount| {
            mount.rw &= writable;
            // What was copied there belongs to it already.
            mount.no_copy = true;
            Planned { record: mount, ..Planned::default() }
        })
        .collect())
}

/// `SOURCE:DESTINATION[:OPTIONS]` or `DESTINATION`.
fn parse_bind(text: &str, driver: Option<&str>) -> Result<Planned> {
    let invalid = |why: String| Error::invalid(format!("invalid volume specification: '{text}'{why}"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match parts[..] {
        [target] => ("", target, ""),
        [source, target] => (source, target, ""),
        [source, target, mode] => (source, target, mode),
        _ => return Err(invalid(String::new())),
    };
    if target.is_empty() || (parts.len() > 1 && source.is_empty()) {
        return Err(invalid(String::new()));
    }
    let destination = destination(target).map_err(|error| invalid(format!(": {error}")))?;
    let is_bind = source.starts_with('/');
    let mut record = MountRecord {
        kind: if is_bind { "bind" } else { "volume" }.to_owned(),
        destination,
        mode: mode.to_owned(),
        rw: true,
        ..MountRecord::default()
    };
    if is_bind {
        record.source = clean(source);
        record.create_source = true;
        record.propagation = "rprivate".to_owned();
    } else {
        if source.starts_with('.') {
            return Err(invalid(format!(
                ": {source:?} is neither the name of a volume nor an absolute path; relative paths are for the client to resolve"
            )));
        }
        record.name = Some(source.to_owned()).filter(|name| !name.is_empty());
        record.driver = driver.map(str::to_owned).filter(|driver| !driver.is_empty());
    }
    let (mut writable, mut propagation, mut label, mut copy) = (0, 0, 0, 0);
    for option in mode.split(',').filter(|option| !option.is_empty()) {
        match option {
            "rw" => writable += 1,
            "ro" => {
                writable += 1;
                record.rw = false;
            }
            // Labels are for hosts with SELinux, consistency is for those that share files with a virtual machine.
            "z" | "Z" => label += 1,
            "cached" | "delegated" | "consistent" => {}
            "nocopy" if !is_bind => {
                copy += 1;
                record.no_copy = true;
            }
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" if is_bind => {
                propagation += 1;
                record.propagation = option.to_owned();
            }
            _ => return Err(invalid(format!(": invalid mode: {mode}"))),
        }
    }
    if [writable, propagation, label, copy].iter().any(|count| *count > 1) {
        return Err(invalid(format!(": invalid mode: {mode}")));
    }
    Ok(Planned { record, ..Planned::default() })
}

fn clean(path: &str) -> String {
    let mut clean = PathBuf::from("/");
    clean.extend(Path::new(path).components().filter(|part| !matches!(part, Component::RootDir | Component::CurDir)));
    clean.to_string_lossy().into_owned()
}

fn parse_mount(mount: &Mount, around: &impl Surroundings) -> Result<Planned> {
    let kind = match mount.typ {
        Some(MountTypeEnum::BIND) => "bind",
        Some(MountTypeEnum::VOLUME) => "volume",
        Some(MountTypeEnum::TMPFS) => "tmpfs",
        Some(MountTypeEnum::IMAGE) => "image",
        Some(other) => {
            return Err(Error::unsupported(format!("mounts of type {other} are not supported on this host")));
        }
        None => return Err(Error::invalid("invalid mount config: mount type unknown: \"\"")),
    };
    let invalid =
        |why: &dyn std::fmt::Display| Error::invalid(format!("invalid mount config for type \"{kind}\": {why}"));
    let target = mount.target.as_deref().unwrap_or("");
    if target.is_empty() {
        return Err(invalid(&"field Target must not be empty"));
    }
    let destination = destination(target).map_err(|error| invalid(&error))?;
    let read_only = mount.read_only.unwrap_or(false);
    let source = mount.source.as_deref().unwrap_or("");
    for (wanted, present, name) in [
        ("bind", mount.bind_options.is_some(), "BindOptions"),
        ("volume", mount.volume_options.is_some(), "VolumeOptions"),
        ("tmpfs", mount.tmpfs_options.is_some(), "TmpfsOptions"),
        ("image", mount.image_options.is_some(), "ImageOptions"),
    ] {
        if present && wanted != kind {
            return Err(invalid(&format!("field {name} must not be specified")));
        }
    }
    let record = MountRecord { kind: kind.to_owned(), destination, rw: !read_only, ..MountRecord::default() };
    match kind {
        "bind" => bind_mount(mount, source, record, around).map_err(|error| invalid(&error)),
        "volume" => volume_mount(mount, source, record).map_err(|error| invalid(&error)),
        "image" => {
            let record = image_mount(mount, source, record).map_err(|error| invalid(&error))?;
            // One that is not there is told as it is: clients fetch it.
            Ok(Planned { record: MountRecord { image: Some(around.image(source)?), ..record }, ..Planned::default() })
        }
        _ => tmpfs_mount(mount, source, record).map_err(|error| invalid(&error)),
    }
}

fn bind_mount(mount: &Mount, source: &str, mut record: MountRecord, around: &impl Surroundings) -> Result<Planned> {
    if source.is_empty() {
        return Err(Error::invalid("field Source must not be empty"));
    }
    if !source.starts_with('/') {
        return Err(Error::invalid(format!("invalid mount path: '{source}' mount path must be absolute")));
    }
    let options = mount.bind_options.clone().unwrap_or_default();
    record.source = clean(source);
    record.create_source = options.create_mountpoint.unwrap_or(false);
    if !record.create_source && !around.exists(Path::new(&record.source)) {
        return Err(Error::invalid(format!("bind source path does not exist: {source}")));
    }
    record.propagation = match options.propagation {
        None | Some(Propagation::EMPTY) => "rprivate".to_owned(),
        Some(other) => other.to_string(),
    };
    record.non_recursive = options.non_recursive.unwrap_or(false);
    record.read_only_recursive = options.read_only_force_recursive.unwrap_or(false);
    if record.read_only_recursive && (record.rw || options.read_only_non_recursive == Some(true)) {
        return Err(Error::invalid(
            "mount must be read-only, and not ReadOnlyNonRecursive, for ReadOnlyForceRecursive",
        ));
    }
    Ok(Planned { record, ..Planned::default() })
}

fn volume_mount(mount: &Mount, source: &str, mut record: MountRecord) -> Result<Planned> {
    let options = mount.volume_options.clone().unwrap_or_default();
    if source.starts_with('/') {
        return Err(Error::invalid(format!("{source:?} is a path; a volume has a name, a path is for type bind")));
    }
    record.name = Some(source.to_owned()).filter(|name| !name.is_empty());
    record.no_copy = options.no_copy.unwrap_or(false);
    if let Some(subpath) = options.subpath.filter(|path| !path.is_empty()) {
        check_subpath(&subpath)?;
        if record.name.is_none() {
            return Err(Error::invalid("must not set Subpath when using anonymous volumes"));
        }
        record.subpath = Some(subpath);
        record.no_copy = true;
    }
    let driver = options.driver_config.unwrap_or_default();
    record.driver = driver.name.filter(|name| !name.is_empty());
    Ok(Planned { record, options: driver.options.unwrap_or_default(), labels: options.labels.unwrap_or_default() })
}

/// The files of an image, which nobody writes.
fn image_mount(mount: &Mount, source: &str, record: MountRecord) -> Result<MountRecord> {
    if source.is_empty() {
        return Err(Error::invalid("field Source must not be empty"));
    }
    let subpath = mount.image_options.clone().and_then(|options| options.subpath).filter(|path| !path.is_empty());
    if let Some(subpath) = &subpath {
        check_subpath(subpath)?;
    }
    Ok(MountRecord { name: Some(source.to_owned()), subpath, rw: false, ..record })
}

fn check_subpath(subpath: &str) -> Result<()> {
    let path = Path::new(subpath);
    if path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Err(Error::invalid(format!("the subpath {subpath:?} must be relative and stay below what is mounted")));
    }
    Ok(())
}

fn tmpfs_mount(mount: &Mount, source: &str, mut record: MountRecord) -> Result<Planned> {
    if !source.is_empty() {
        return Err(Error::invalid("field Source must not be specified"));
    }
    let options = mount.tmpfs_options.clone().unwrap_or_default();
    let mut list: Vec<String> = Vec::new();
    if let Some(size) = options.size_bytes.filter(|size| *size != 0) {
        if size < 0 {
            return Err(Error::invalid(format!("invalid tmpfs size {size}")));
        }
        list.push(format!("size={size}"));
    }
    if let Some(mode) = options.mode.filter(|mode| *mode != 0) {
        list.push(format!("mode={mode:o}"));
    }
    for option in options.options.iter().flatten() {
        match &option[..] {
            [flag] => list.push(flag.clone()),
            [key, value] => list.push(format!("{key}={value}")),
            _ => return Err(Error::invalid(format!("invalid option array length: {option:?}"))),
        }
    }
    if !record.rw {
        list.push("ro".to_owned());
    }
    record.options = tmpfs_options(&list.join(","))?.join(",");
    Ok(Planned { record, ..Planned::default() })
}

/// Options of a tmpfs as OCI's: Docker's own come first, so that those given can take them back.
pub(crate) fn tmpfs_options(given: &str) -> Result<Vec<String>> {
    let mut options: Vec<String> = ["noexec", "nosuid", "nodev"].map(str::to_owned).to_vec();
    for option in given.split(',').filter(|option| !option.is_empty()) {
        let key = option.split('=').next().unwrap_or("");
        let known = matches!(
            option,
            "ro" | "rw"
                | "exec"
                | "noexec"
                | "suid"
                | "nosuid"
                | "dev"
                | "nodev"
                | "sync"
                | "async"
                | "atime"
                | "noatime"
                | "diratime"
                | "nodiratime"
                | "relatime"
                | "strictatime"
                | "private"
                | "rprivate"
                | "shared"
                | "rshared"
                | "slave"
                | "rslave"
        ) || (option.len() > key.len() + 1
            && matches!(key, "size" | "mode" | "uid" | "gid" | "nr_inodes" | "nr_blocks" | "mpol"));
        if !known {
            return Err(Error::invalid(format!("invalid tmpfs option {option:?}")));
        }
        if let Some(positive) = option.strip_prefix("no")
            && let Some(at) = options.iter().position(|earlier| earlier == positive)
        {
            options.remove(at);
        }
        let negative = format!("no{option}");
        if let Some(at) = options.iter().position(|earlier| *earlier == negative || earlier == option) {
            options.remove(at);
        }
        options.push(option.to_owned());
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bollard_stubs::models::{MountBindOptions, MountImageOptions, MountVolumeOptions};

    /// One container for `--volumes-from`, the image `tools`, and all paths or none.
    #[derive(Default)]
    struct Around {
        container: Option<Arc<ContainerRecord>>,
        nothing_on_the_host: bool,
    }

    impl Surroundings for Around {
        fn container(&self, name: &str) -> Result<Arc<ContainerRecord>> {
            self.container.clone().ok_or_else(|| Error::not_found(name))
        }

        fn image(&self, name: &str) -> Result<MountedImage> {
            match name {
                "tools" => Ok(MountedImage { id: "sha256:1".into(), chain: vec!["sha256:2".into()] }),
                other => Err(Error::not_found(format!("No such image: {other}"))),
            }
        }

        fn exists(&self, _: &Path) -> bool {
            !self.nothing_on_the_host
        }
    }

    fn from(binds: &[&str], volumes: &[&str]) -> Result<Vec<Planned>> {
        let own = |list: &[&str]| Some(list.iter().map(|item| (*item).to_owned()).collect());
        let config = ContainerConfig { volumes: own(volumes), ..ContainerConfig::default() };
        let host = HostConfig { binds: own(binds), ..HostConfig::default() };
        plan(&config, &host, &Around::default())
    }

    #[test]
    fn binds_are_read_as_dockers() {
        let all = from(&["/src/:/dst:ro,rslave", "data:/data/../lib/", "/anon"], &["/lib", "/var"]).unwrap();
        let short: Vec<_> = all
            .iter()
            .map(|mount| {
                let MountRecord { kind, name, source, destination, rw, propagation, .. } = &mount.record;
                (kind.as_str(), name.as_deref(), source.as_str(), destination.as_str(), *rw, propagation.as_str())
            })
            .collect();
        assert_eq!(
            short,
            [
                ("bind", None, "/src", "/dst", false, "rslave"),
                ("volume", Some("data"), "", "/lib", true, ""),
                ("volume", None, "", "/anon", true, ""),
                ("volume", None, "", "/var", true, ""),
            ]
        );
    }

    #[test]
    fn wrong_forms_are_refused_with_their_text() {
        for bad in
            ["", ":", "a:", ":/b", "/a:/b:zz", "/a:b", "/a:/", "a:/b:ro,rw", "/a:/b:c:d", "./a:/b", "a:/b:rshared"]
        {
            let message = from(&[bad], &[]).unwrap_err().message;
            assert!(message.starts_with(&format!("invalid volume specification: '{bad}'")), "{message}");
        }
        assert_eq!(from(&["/a:/x", "b:/x"], &[]).unwrap_err().message, "Duplicate mount point: /x");
    }

    #[test]
    fn mounts_are_checked() {
        let bind = |mount: Mount, there: bool| {
            let host = HostConfig { mounts: Some(vec![mount]), ..HostConfig::default() };
            plan(&ContainerConfig::default(), &host, &Around { nothing_on_the_host: !there, ..Around::default() })
        };
        let mount = |kind, source: &str| Mount {
            typ: Some(kind),
            source: Some(source.into()),
            target: Some("/t".into()),
            ..Mount::default()
        };
        assert_eq!(
            bind(mount(MountTypeEnum::BIND, "/no"), false).unwrap_err().message,
            "invalid mount config for type \"bind\": bind source path does not exist: /no"
        );
        let made = Mount {
            bind_options: Some(MountBindOptions { create_mountpoint: Some(true), ..MountBindOptions::default() }),
            ..mount(MountTypeEnum::BIND, "/no")
        };
        assert!(bind(made, false).unwrap()[0].record.create_source);
        let sub = |path: &str| Mount {
            volume_options: Some(MountVolumeOptions { subpath: Some(path.into()), ..MountVolumeOptions::default() }),
            ..mount(MountTypeEnum::VOLUME, "v")
        };
        assert_eq!(bind(sub("a/b"), true).unwrap()[0].record.subpath.as_deref(), Some("a/b"));
        assert!(bind(sub("../b"), true).is_err());
        assert!(bind(mount(MountTypeEnum::TMPFS, "/x"), true).unwrap_err().message.contains("field Source"));
    }

    #[test]
    fn images_are_mounted_read_only_and_whole_or_in_part() {
        let one = |source: &str, subpath: Option<&str>, read_only| {
            let options = subpath.map(|path| MountImageOptions { subpath: Some(path.into()) });
            let mount = Mount {
                typ: Some(MountTypeEnum::IMAGE),
                source: Some(source.into()),
                target: Some("/t".into()),
                read_only,
                image_options: options,
                ..Mount::default()
            };
            let host = HostConfig { mounts: Some(vec![mount]), ..HostConfig::default() };
            plan(&ContainerConfig::default(), &host, &Around::default())
        };
        let record = one("tools", Some("bin"), Some(false)).unwrap().remove(0).record;
        assert_eq!((record.name.as_deref(), record.subpath.as_deref(), record.rw), (Some("tools"), Some("bin"), false));
        assert_eq!(record.image.unwrap().chain, ["sha256:2"]);
        for (source, subpath, wanted) in [
            ("", None, "invalid mount config for type \"image\": field Source must not be empty"),
            ("none", None, "No such image: none"),
            (
                "tools",
                Some("../x"),
                "invalid mount config for type \"image\": the subpath \"../x\" must be relative and stay below what is mounted",
            ),
        ] {
            assert_eq!(one(source, subpath, None).unwrap_err().message, wanted);
        }
        let (first, second) = (record_at("/a"), record_at("/b"));
        assert_ne!(first.root_name("c"), second.root_name("c"));
        assert_ne!(first.root_name("c"), first.root_name("d"));
    }

    fn record_at(destination: &str) -> MountRecord {
        MountRecord { destination: destination.into(), ..MountRecord::default() }
    }

    #[test]
    fn volumes_of_another_container_are_taken_over() {
        let other = Arc::new(ContainerRecord {
            mounts: vec![MountRecord {
                kind: "volume".into(),
                name: Some("v".into()),
                destination: "/v".into(),
                rw: true,
                ..MountRecord::default()
            }],
            ..ContainerRecord::default()
        });
        let host = HostConfig { volumes_from: Some(vec!["web:ro".into()]), ..HostConfig::default() };
        let around = Around { container: Some(other), ..Around::default() };
        let all = plan(&ContainerConfig::default(), &host, &around).unwrap();
        assert_eq!((all[0].record.name.as_deref(), all[0].record.rw), (Some("v"), false));
    }

    #[test]
    fn options_of_a_tmpfs_can_be_taken_back() {
        assert_eq!(tmpfs_options("exec,size=64m").unwrap(), ["nosuid", "nodev", "exec", "size=64m"]);
        assert!(tmpfs_options("size=").is_err());
        assert!(tmpfs_options("upperdir=/x").is_err());
    }
}
