//! `-v`, `--mount`, `--tmpfs`.

use bollard_stubs::models::{
    Mount, MountBindOptions, MountBindOptionsPropagationEnum, MountImageOptions, MountTmpfsOptions, MountTypeEnum,
    MountVolumeOptions, MountVolumeOptionsDriverConfig,
};
use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use super::{Parsed, csv, quantity};

/// What `-v` values come to.
#[derive(Debug, Default, PartialEq)]
pub struct Volumes {
    /// `source:target[:mode]`, with absolute sources or names of volumes.
    pub binds: Vec<String>,
    /// Targets of anonymous volumes.
    pub anonymous: Vec<String>,
}

/// Reads all `--volume` values; relative sources lie below `here`.
pub fn volumes(texts: &[String], here: &Path) -> Parsed<Volumes> {
    let mut found = Volumes::default();
    for text in texts {
        let parts: Vec<&str> = text.split(':').collect();
        let target = |path: &str| {
            if path.starts_with('/') {
                Ok(())
            } else {
                Err(format!("invalid volume specification: '{text}': the path in the container must be absolute"))
            }
        };
        match parts.as_slice() {
            [""] => return Err(format!("invalid empty volume spec {text:?}")),
            [path] => {
                target(path)?;
                if *path == "/" {
                    return Err(format!("invalid volume specification: '{text}': destination can't be '/'"));
                }
                found.anonymous.push((*path).to_owned());
            }
            ["", ..] | [_, "", ..] => return Err(format!("invalid volume specification: '{text}'")),
            [source, path] => {
                target(path)?;
                found.binds.push(format!("{}:{path}", source_of(source, here)));
            }
            [source, path, mode] => {
                target(path)?;
                check_mode(mode, text)?;
                found.binds.push(format!("{}:{path}:{mode}", source_of(source, here)));
            }
            _ => return Err(format!("invalid volume specification: '{text}'")),
        }
    }
    Ok(found)
}

/// Relative paths begin with a dot; anything else without a slash in front is a volume's name.
fn source_of(source: &str, here: &Path) -> String {
    if source.starts_with('.') {
        return clean(&here.join(source)).display().to_string();
    }
    if let Some(rest) = source.strip_prefix("~/")
        && let Some(home) = std::env::var_os("HOME")
    {
        return Path::new(&home).join(rest).display().to_string();
    }
    source.to_owned()
}

/// Without `.` and `..`, by name alone.
pub fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                cleaned.pop();
            }
            other => cleaned.push(other),
        }
    }
    cleaned
}

fn check_mode(mode: &str, text: &str) -> Parsed<()> {
    let known = |word: &str| {
        matches!(
            word,
            "ro" | "rw"
                | "z"
                | "Z"
                | "nocopy"
                | "private"
                | "rprivate"
                | "shared"
                | "rshared"
                | "slave"
                | "rslave"
                | "consistent"
                | "cached"
                | "delegated"
                | "default"
                | "rbind"
                | "bind"
                | "volume-nocopy"
                | ""
        )
    };
    match mode.split(',').find(|word| !known(word)) {
        Some(word) => Err(format!("invalid volume specification: '{text}': invalid mode: {word}")),
        None => Ok(()),
    }
}

/// One `--mount` value; a relative source of a bind lies below `here`.
pub fn mount(text: &str, here: &Path) -> Parsed<Mount> {
    let mut mount = Mount { typ: Some(MountTypeEnum::VOLUME), ..Mount::default() };
    let mut volume = MountVolumeOptions::default();
    let mut driver = MountVolumeOptionsDriverConfig::default();
    let mut bind = MountBindOptions::default();
    let mut tmpfs = MountTmpfsOptions::default();
    let mut image = MountImageOptions::default();
    let mut groups: Vec<&'static str> = Vec::new();
    for field in csv(text)? {
        let (key, value) = field.split_once('=').map_or((field.as_str(), None), |(key, value)| (key, Some(value)));
        let key = key.to_ascii_lowercase();
        let flag = || match value {
            None => Ok(true),
            Some("true" | "1" | "TRUE" | "True") => Ok(true),
            Some("false" | "0" | "FALSE" | "False") => Ok(false),
            Some(other) => Err(format!("invalid value for {key}: {other}")),
        };
        match key.as_str() {
            "readonly" | "ro" => {
                mount.read_only = Some(flag()?);
                continue;
            }
            "bind-nonrecursive" => {
                groups.push("bind");
                bind.non_recursive = Some(flag()?);
                continue;
            }
            "volume-nocopy" => {
                groups.push("volume");
                volume.no_copy = Some(flag()?);
                continue;
            }
            _ => {}
        }
        let Some(value) = value else {
            return Err(format!("invalid field '{field}' must be a key=value pair"));
        };
        match key.as_str() {
            "type" => {
                mount.typ = Some(match value.to_ascii_lowercase().as_str() {
                    "bind" => MountTypeEnum::BIND,
                    "volume" => MountTypeEnum::VOLUME,
                    "tmpfs" => MountTypeEnum::TMPFS,
                    "image" => MountTypeEnum::IMAGE,
                    other => return Err(format!("invalid mount type {other:?}: use bind, volume, tmpfs or image")),
                });
            }
            "source" | "src" => mount.source = Some(value.to_owned()),
            "target" | "dst" | "destination" => mount.target = Some(value.to_owned()),
            "consistency" => mount.consistency = Some(value.to_ascii_lowercase()),
            "bind-propagation" => {
                groups.push("bind");
                bind.propagation = Some(propagation(value)?);
            }
            "bind-recursive" => {
                groups.push("bind");
                match value {
                    "enabled" => {}
                    "disabled" => bind.non_recursive = Some(true),
                    "writable" => bind.read_only_non_recursive = Some(true),
                    "readonly" => bind.read_only_force_recursive = Some(true),
                    other => {
                        return Err(format!(
                            "invalid value for {key}: {other} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")"
                        ));
                    }
                }
            }
            "volume-subpath" => {
                groups.push("volume");
                volume.subpath = Some(value.to_owned());
            }
            "volume-label" => {
                groups.push("volume");
                put(volume.labels.get_or_insert_default(), value);
            }
            "volume-driver" => {
                groups.push("volume");
                driver.name = Some(value.to_owned());
            }
            "volume-opt" => {
                groups.push("volume");
                put(driver.options.get_or_insert_default(), value);
            }
            "image-subpath" => {
                groups.push("image");
                image.subpath = Some(value.to_owned());
            }
            "tmpfs-size" => {
                groups.push("tmpfs");
                tmpfs.size_bytes =
                    Some(quantity::bytes(value).map_err(|_| format!("invalid value for {key}: {value}"))?);
            }
            "tmpfs-mode" => {
                groups.push("tmpfs");
                tmpfs.mode =
                    Some(i64::from_str_radix(value, 8).map_err(|_| format!("invalid value for {key}: {value}"))?);
            }
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    finish(&mut mount, here)?;
    let kind = mount.typ.map(|kind| kind.to_string()).unwrap_or_default();
    if let Some(group) = groups.iter().find(|group| **group != kind) {
        return Err(format!("cannot mix '{group}-*' options with mount type '{kind}'"));
    }
    if driver != MountVolumeOptionsDriverConfig::default() {
        volume.driver_config = Some(driver);
    }
    let has = |group| groups.contains(&group);
    mount.bind_options = has("bind").then_some(bind);
    mount.volume_options = has("volume").then_some(volume);
    mount.tmpfs_options = has("tmpfs").then_some(tmpfs);
    mount.image_options = has("image").then_some(image);
    Ok(mount)
}

fn finish(mount: &mut Mount, here: &Path) -> Parsed<()> {
    if mount.target.as_deref().unwrap_or_default().is_empty() {
        return Err("target is required".to_owned());
    }
    match (mount.typ, mount.source.as_deref()) {
        (Some(MountTypeEnum::BIND | MountTypeEnum::IMAGE), None | Some("")) => Err("source is required".to_owned()),
        (Some(MountTypeEnum::TMPFS), Some(_)) => Err("a tmpfs mount takes no source".to_owned()),
        (Some(MountTypeEnum::BIND), Some(source)) if !source.starts_with('/') => {
            mount.source = Some(clean(&here.join(source)).display().to_string());
            Ok(())
        }
        _ => Ok(()),
    }
}

fn put(map: &mut HashMap<String, String>, text: &str) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    map.insert(key.to_owned(), value.to_owned());
}

fn propagation(text: &str) -> Parsed<MountBindOptionsPropagationEnum> {
    use MountBindOptionsPropagationEnum as Kind;
    Ok(match text.to_ascii_lowercase().as_str() {
        "private" => Kind::PRIVATE,
        "rprivate" => Kind::RPRIVATE,
        "shared" => Kind::SHARED,
        "rshared" => Kind::RSHARED,
        "slave" => Kind::SLAVE,
        "rslave" => Kind::RSLAVE,
        other => {
            return Err(format!(
                "invalid propagation {other:?}: use private, rprivate, shared, rshared, slave or rslave"
            ));
        }
    })
}

/// `--tmpfs` values: target and options.
pub fn tmpfs(texts: &[String]) -> Parsed<HashMap<String, String>> {
    texts
        .iter()
        .map(|text| {
            let (target, options) = text.split_once(':').unwrap_or((text, ""));
            if target.starts_with('/') {
                Ok((target.to_owned(), options.to_owned()))
            } else {
                Err(format!("invalid tmpfs {text:?}: the path in the container must be absolute"))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn one(text: &str) -> Parsed<Volumes> {
        volumes(&[text.to_owned()], Path::new("/work/here"))
    }

    #[test]
    fn volumes_of_every_form() {
        for (text, bind) in [
            ("/a:/b", "/a:/b"),
            ("/a:/b:ro", "/a:/b:ro"),
            ("data:/b:ro,z", "data:/b:ro,z"),
            ("./a:/b", "/work/here/a:/b"),
            ("../a:/b", "/work/a:/b"),
            (".:/b", "/work/here:/b"),
        ] {
            assert_eq!(one(text).unwrap().binds, [bind], "{text}");
        }
        assert_eq!(one("/data").unwrap().anonymous, ["/data"]);
        for text in ["", "a:b", "/a:b", "/a:/b:frob", "a:b:c:d", ":/b", "/a:", "data", "/"] {
            assert!(one(text).is_err(), "{text}");
        }
    }

    fn parsed(text: &str) -> Parsed<Mount> {
        mount(text, Path::new("/work/here"))
    }

    #[test]
    fn mounts_of_every_type() {
        let found = parsed("type=bind,source=/a,target=/b,readonly,bind-propagation=rslave").unwrap();
        assert_eq!(found.typ, Some(MountTypeEnum::BIND));
        assert_eq!(found.read_only, Some(true));
        assert_eq!(found.bind_options.unwrap().propagation, Some(MountBindOptionsPropagationEnum::RSLAVE));
        assert_eq!(parsed("type=bind,src=./a,dst=/b").unwrap().source.unwrap(), "/work/here/a");

        let found = parsed("src=data,dst=/b,ro=false,volume-nocopy,volume-driver=local,\"volume-opt=o=addr=1.2.3.4,rw\",volume-label=a=b").unwrap();
        assert_eq!((found.typ, found.read_only), (Some(MountTypeEnum::VOLUME), Some(false)));
        let options = found.volume_options.unwrap();
        assert_eq!(options.no_copy, Some(true));
        assert_eq!(options.labels.unwrap()["a"], "b");
        assert_eq!(options.driver_config.unwrap().options.unwrap()["o"], "addr=1.2.3.4,rw");

        let found = parsed("type=tmpfs,destination=/t,tmpfs-size=1m,tmpfs-mode=1770").unwrap().tmpfs_options.unwrap();
        assert_eq!((found.size_bytes, found.mode), (Some(1 << 20), Some(0o1770)));
        assert!(parsed("type=image,source=busybox,target=/i,image-subpath=bin").unwrap().image_options.is_some());
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("type=bind,target=/b", "source is required"),
            ("type=volume", "target is required"),
            ("type=frob,target=/b", "invalid mount type"),
            ("target", "must be a key=value pair"),
            ("frob=1,target=/b", "unexpected key 'frob' in 'frob=1'"),
            ("type=tmpfs,target=/b,bind-propagation=shared", "cannot mix 'bind-*' options with mount type 'tmpfs'"),
            ("type=tmpfs,target=/b,tmpfs-mode=9", "invalid value for tmpfs-mode"),
            ("type=tmpfs,source=a,target=/b", "takes no source"),
            ("type=bind,source=/a,target=/b,ro=maybe", "invalid value for ro: maybe"),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn temporary_file_systems() {
        let found = tmpfs(&["/run:size=1m,mode=755".into(), "/tmp".into()]).unwrap();
        assert_eq!((found["/run"].as_str(), found["/tmp"].as_str()), ("size=1m,mode=755", ""));
        assert!(tmpfs(&["run".into()]).is_err());
    }
}
