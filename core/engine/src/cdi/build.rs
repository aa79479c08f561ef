//! Devices for the steps of builds, by BuildKit's rules: a class stands for its first device, `*` for all of it, and a name
//! that no device has for those whose class, by an annotation, is called so. Whoever builds must allow them, unless their
//! specification does.

use std::path::PathBuf;

use sampan_build::device::{Allowed, Chosen, Device};
use serde_json::Value;

use super::{Name, Registry};
use crate::error::{Error, Result};

/// Says to which class within its kind a device belongs.
const CLASS: &str = "org.mobyproject.buildkit.device.class";
/// Says that builds may have a device unasked.
const AUTO_ALLOW: &str = "org.mobyproject.buildkit.device.autoallow";

/// The devices that a step asks for, by the specifications in `folders`.
pub(crate) fn for_build(wanted: &[Device], allowed: &Allowed, folders: &[PathBuf]) -> Result<Chosen> {
    let registry = Registry::read(folders);
    let mut chosen = Chosen::default();
    for device in wanted {
        let found = registry.matching(&device.name);
        if found.is_empty() {
            if device.required {
                return Err(Error::invalid(format!(
                    "required device {:?} is not registered{}",
                    device.name,
                    registry.unread()
                )));
            }
            chosen.missing.push(device.name.clone());
        }
        for name in found {
            let shown = format!("{}={}", name.kind, name.device);
            if !allowed.has(&shown) && registry.annotation(&name, AUTO_ALLOW).is_none_or(|value| value != "true") {
                return Err(Error::invalid(format!(
                    "device {shown} is requested by the build but not allowed: build with --allow device={shown}"
                )));
            }
            if !chosen.names.contains(&shown) {
                chosen.names.push(shown);
            }
        }
    }
    let names: Vec<Name> = chosen.names.iter().filter_map(|name| Name::parse(name)).collect();
    let brought = registry.injection(&names)?;
    chosen.targets = brought.mounts.into_iter().map(|mount| mount.container_path).collect();
    Ok(chosen)
}

impl Registry {
    fn matching(&self, wanted: &str) -> Vec<Name> {
        let (kind, device) = wanted.split_once('=').map_or((wanted, None), |(kind, device)| (kind, Some(device)));
        let all =
            self.devices(kind).into_iter().map(|device| Name { kind: kind.to_owned(), device: device.to_owned() });
        match device {
            None => all.take(1).collect(),
            Some("*") => all.collect(),
            Some(device) => {
                let all: Vec<Name> = all.collect();
                match all.iter().find(|name| name.device == device) {
                    Some(name) => vec![name.clone()],
                    None => all
                        .into_iter()
                        .filter(|name| self.annotation(name, CLASS).is_some_and(|class| class == device))
                        .collect(),
                }
            }
        }
    }

    /// What a device's annotation says, or else that of its specification.
    fn annotation(&self, name: &Name, key: &str) -> Option<String> {
        let (_, document, _) = self.find(name).ok()??;
        let device = document.devices.iter().find(|device| device.name == name.device)?;
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        device.annotations.get(key).or_else(|| document.annotations.get(key)).map(text)
    }
}
