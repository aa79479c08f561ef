//! Devices by the names of the Container Device Interface: `vendor.com/class=name`.
//!
//! Specifications are files (JSON or YAML) that vendors put into a few folders of root's. They are read when a container
//! starts, since drivers write them anew. Reading is bounded. A specification may ask for devices, binds, variables, and
//! programs that run at moments of the container's life, on the host with the rights of the engine: those only where
//! nobody but root can write the specification and the program.

mod build;
mod document;
mod yaml;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bollard_stubs::models::DeviceRequest;

pub(crate) use build::for_build;
pub(crate) use document::{DeviceNode, Hook, Mount};
use document::{Document, Edits};
use sampan_build::device::{is_device, is_kind};

use crate::error::{Error, Result};

/// The largest specification that is read.
const LARGEST: u64 = 4 << 20;
/// Files that are looked at in one folder.
const FILES: usize = 256;
/// Docker's name of the driver that takes whole names.
pub(crate) const CDI: &str = "cdi";
/// Kinds that stand for "a GPU" when no vendor is named.
const GPUS: [&str; 2] = ["nvidia.com/gpu", "amd.com/gpu"];

/// What devices bring into a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Injection {
    pub env: Vec<String>,
    pub devices: Vec<DeviceNode>,
    pub mounts: Vec<Mount>,
    pub groups: Vec<u32>,
    pub hooks: Vec<Hook>,
}

impl Injection {
    fn add(&mut self, edits: &Edits) {
        self.env.extend(edits.env.iter().cloned());
        self.devices.extend(edits.device_nodes.iter().cloned());
        self.mounts.extend(edits.mounts.iter().cloned());
        self.groups.extend(edits.additional_gids.iter().copied());
        self.hooks.extend(edits.hooks.iter().cloned());
    }
}

/// A name taken apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    /// `vendor.com/class`
    kind: String,
    device: String,
}

impl Name {
    fn parse(text: &str) -> Option<Self> {
        let (kind, device) = text.split_once('=')?;
        (is_kind(kind) && is_device(device)).then(|| Self { kind: kind.to_owned(), device: device.to_owned() })
    }
}

/// What a container's device requests come to, by the specifications in `folders`, of which later ones count more.
pub(crate) fn resolve(requests: &[DeviceRequest], folders: &[PathBuf]) -> Result<Injection> {
    if requests.is_empty() {
        return Ok(Injection::default());
    }
    let registry = Registry::read(folders);
    let mut names = Vec::new();
    for request in requests {
        names.extend(registry.names(request)?);
    }
    registry.injection(&names)
}

/// The specifications of the host.
#[derive(Debug, Default)]
struct Registry {
    /// By kind; the devices of one kind may be in several files.
    found: Vec<(PathBuf, Document)>,
    /// How far behind in the list of folders each of them lies.
    rank: Vec<usize>,
    /// What could not be read, told when a device is not found.
    broken: Vec<String>,
}

impl Registry {
    fn read(folders: &[PathBuf]) -> Self {
        let mut all = Self::default();
        for (rank, folder) in folders.iter().enumerate() {
            let mut paths: Vec<PathBuf> = fs::read_dir(folder)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| path.extension().is_some_and(|end| end == "json" || end == "yaml" || end == "yml"))
                .take(FILES)
                .collect();
            paths.sort();
            for path in paths {
                match read(&path) {
                    Ok(document) => {
                        all.found.push((path, document));
                        all.rank.push(rank);
                    }
                    Err(why) => all.broken.push(format!("{}: {why}", path.display())),
                }
            }
        }
        all
    }

    /// The file, the document and the edits of a device: those of the folder that counts most.
    fn find(&self, name: &Name) -> Result<Option<(&Path, &Document, &Edits)>> {
        let mut best: Option<(usize, &Path, &Document, &Edits)> = None;
        for ((path, document), rank) in self.found.iter().zip(&self.rank) {
            let Some(device) = document.devices.iter().find(|device| device.name == name.device) else { continue };
            if document.kind != name.kind {
                continue;
            }
            match best {
                Some((other, first, ..)) if other == *rank => {
                    return Err(Error::invalid(format!(
                        "CDI device injection failed: {}={} is in two files of one folder: {} and {}",
                        name.kind,
                        name.device,
                        first.display(),
                        path.display()
                    )));
                }
                _ => best = Some((*rank, path, document, &device.container_edits)),
            }
        }
        Ok(best.map(|(_, path, document, edits)| (path, document, edits)))
    }

    /// Names of a kind's devices, numbers in their order.
    fn devices(&self, kind: &str) -> Vec<&str> {
        let of_kind = self.found.iter().filter(|(_, document)| document.kind == kind);
        let mut all: Vec<&str> =
            of_kind.flat_map(|(_, document)| document.devices.iter().map(|device| device.name.as_str())).collect();
        all.sort_by_key(|name| (name.parse::<u32>().unwrap_or(u32::MAX), *name));
        all.dedup();
        all
    }

    /// The devices that a request means.
    fn names(&self, request: &DeviceRequest) -> Result<Vec<Name>> {
        let driver = request.driver.as_deref().unwrap_or("");
        let ids = request.device_ids.as_deref().unwrap_or_default();
        if driver == CDI {
            let parse = |id: &String| {
                Name::parse(id).ok_or_else(|| {
                    Error::invalid(format!(
                        "CDI device injection failed: {id:?} is not a name as vendor.com/class=name"
                    ))
                })
            };
            return ids.iter().map(parse).collect();
        }
        let capabilities = request.capabilities.as_deref().unwrap_or_default();
        let is_gpu = capabilities.iter().any(|all| all.iter().any(|capability| capability == "gpu"));
        let kinds = GPUS.iter().filter(|kind| is_gpu && (driver.is_empty() || kind.split('.').next() == Some(driver)));
        let Some((kind, devices)) =
            kinds.map(|kind| (*kind, self.devices(kind))).find(|(_, devices)| !devices.is_empty())
        else {
            return Err(incompatible(driver, capabilities));
        };
        let named = |device: &str| Name { kind: kind.to_owned(), device: device.to_owned() };
        let count = request.count.unwrap_or(0);
        if !ids.is_empty() {
            if count != 0 {
                return Err(Error::invalid("cannot set both Count and DeviceIDs on device request"));
            }
            return Ok(ids.iter().map(|id| named(id)).collect());
        }
        let single: Vec<&str> = devices.iter().copied().filter(|device| *device != "all").collect();
        match usize::try_from(count) {
            Err(_) if devices.contains(&"all") => Ok(vec![named("all")]),
            Err(_) => Ok(single.into_iter().map(named).collect()),
            Ok(count) if count <= single.len() => Ok(single.into_iter().take(count).map(named).collect()),
            Ok(count) => Err(Error::invalid(format!(
                "{count} devices of {kind} are asked for, and this host has {}: {}",
                single.len(),
                single.join(", ")
            ))),
        }
    }

    fn injection(&self, names: &[Name]) -> Result<Injection> {
        let mut all = Injection::default();
        let mut missing = Vec::new();
        let mut of_files: BTreeMap<&Path, &Document> = BTreeMap::new();
        let mut done: Vec<&Name> = Vec::new();
        for name in names {
            if done.contains(&name) {
                continue;
            }
            done.push(name);
            let Some((path, document, edits)) = self.find(name)? else {
                missing.push(format!("{}={}", name.kind, name.device));
                continue;
            };
            let refused = |why: &str| {
                let (kind, device) = (&name.kind, &name.device);
                Error::unsupported(format!("CDI device injection failed: {kind}={device}: {}: {why}", path.display()))
            };
            let mut add = |edits: &Edits| {
                edits.check().and_then(|()| trust(document, edits)).map_err(|why| refused(&why))?;
                all.add(edits);
                Ok::<_, Error>(())
            };
            add(edits)?;
            if of_files.insert(path, document).is_none() {
                add(&document.container_edits)?;
            }
        }
        if !missing.is_empty() {
            return Err(Error::invalid(format!(
                "CDI device injection failed: unresolvable CDI devices {}{}",
                missing.join(", "),
                self.unread()
            )));
        }
        Ok(all)
    }

    /// Which specifications are broken, for the end of a message.
    fn unread(&self) -> String {
        match self.broken.as_slice() {
            [] => String::new(),
            all => format!(" (not read: {})", all.join("; ")),
        }
    }
}

/// In Docker's words, lists as Go prints them.
fn incompatible(driver: &str, capabilities: &[Vec<String>]) -> Error {
    let sets: Vec<String> = capabilities.iter().map(|set| format!("[{}]", set.join(" "))).collect();
    Error::invalid(format!("could not select device driver {driver:?} with capabilities: [{}]", sets.join(" ")))
}

/// Whether programs may be run for a container with the rights of the engine.
fn trust(document: &Document, edits: &Edits) -> std::result::Result<(), String> {
    let Some(first) = edits.hooks.first() else { return Ok(()) };
    if !document.trusted {
        return Err(format!(
            "it has hooks ({}), and others than root can write it: hooks run as root. Make the file root's alone (chown root, chmod go-w)",
            first.path
        ));
    }
    for hook in edits.hooks.iter().filter(|hook| hook.is_of_the_host()) {
        match fs::metadata(&hook.path) {
            Ok(found) if !found.is_file() => return Err(format!("the hook {} is not a program", hook.path)),
            Ok(found) if !is_roots(&found) => {
                return Err(format!("others than root can write the hook {}, which runs as root", hook.path));
            }
            Ok(_) => {}
            Err(error) => return Err(format!("the hook {}: {error}", hook.path)),
        }
    }
    Ok(())
}

/// Whether nobody but root can write it.
fn is_roots(found: &fs::Metadata) -> bool {
    found.uid() == 0 && found.mode() & 0o022 == 0
}

fn read(path: &Path) -> std::result::Result<Document, String> {
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    let found = file.metadata().map_err(|error| error.to_string())?;
    if !found.is_file() {
        return Err("it is not a file".to_owned());
    }
    let mut text = String::new();
    let length = file.take(LARGEST + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if length as u64 > LARGEST {
        return Err(format!("it is larger than {} MiB", LARGEST >> 20));
    }
    let is_json = path.extension().is_some_and(|end| end == "json");
    let mut document: Document = if is_json {
        serde_json::from_str(&text).map_err(|error| error.to_string())?
    } else {
        serde_json::from_value(yaml::parse(&text)?).map_err(|error| error.to_string())?
    };
    document.check()?;
    document.trusted = is_roots(&found);
    Ok(document)
}

#[cfg(test)]
mod tests;
