//! The daemon's settings: options first, then the configuration file, then defaults.

use std::collections::HashMap;
use std::env;
use std::path::{Path, PathBuf};

use sampan_cli::DaemonArgs;
use sampan_cli::paths::beside;
use sampan_engine::EngineConfig;
use serde::Deserialize;

/// Where the configuration file is looked for when none is named.
const FILE: &str = "/etc/sampan/daemon.json";

/// What is read of Docker's `daemon.json`. Other keys are refused by name, so that none is thought to have an effect.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct ConfigFile {
    data_root: Option<PathBuf>,
    exec_root: Option<PathBuf>,
    group: Option<String>,
    log_level: Option<String>,
    debug: Option<bool>,
    storage_driver: Option<String>,
    log_driver: Option<String>,
    log_opts: HashMap<String, String>,
    insecure_registries: Vec<String>,
    registry_mirrors: Vec<String>,
    cdi_spec_dirs: Option<Vec<PathBuf>>,
    labels: Vec<String>,
    live_restore: Option<bool>,
    builder: Builder,
    images: Images,
    proxies: Proxies,
}

/// How registries are reached. What is left out the environment says.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Proxies {
    http_proxy: Option<String>,
    https_proxy: Option<String>,
    no_proxy: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Images {
    gc: ImagesGc,
}

/// How much images without a container may keep, and for how long. Docker has no such setting; without it all stay.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct ImagesGc {
    enabled: Option<bool>,
    /// Such as `20GB`.
    default_keep_storage: Option<String>,
    /// Such as `720h`.
    unused_for: Option<String>,
    /// Images with names, too, and not only dangling ones.
    all: bool,
}

impl ImagesGc {
    fn apply(&self, engine: &mut EngineConfig) -> Result<(), String> {
        if self.enabled == Some(false) {
            return Ok(());
        }
        engine.unused_image_size = bytes("images.gc.defaultKeepStorage", self.default_keep_storage.as_deref())?;
        engine.unused_image_age = age("images.gc.unusedFor", self.unused_for.as_deref())?;
        engine.unused_image_all = self.all;
        Ok(())
    }
}

fn bytes(key: &str, text: Option<&str>) -> Result<Option<u64>, String> {
    let Some(text) = text else { return Ok(None) };
    let bytes = sampan_cli::bytes(text).map_err(|why| format!("{key}: {why}"))?;
    Ok(u64::try_from(bytes).ok())
}

fn age(key: &str, text: Option<&str>) -> Result<Option<std::time::Duration>, String> {
    let Some(text) = text else { return Ok(None) };
    let age = sampan_engine::build::duration(text);
    age.map(Some).ok_or_else(|| format!("{key}: {text:?} is not a duration, such as 168h"))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Builder {
    gc: BuilderGc,
}

/// How much the results of builds may keep, and for how long.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct BuilderGc {
    enabled: Option<bool>,
    /// Such as `20GB`; beside images.
    default_keep_storage: Option<String>,
    /// Such as `168h`: Docker's filter of that name, without its policies.
    unused_for: Option<String>,
}

impl BuilderGc {
    fn apply(&self, engine: &mut EngineConfig) -> Result<(), String> {
        if self.enabled == Some(false) {
            return Ok(());
        }
        engine.build_cache_size = bytes("builder.gc.defaultKeepStorage", self.default_keep_storage.as_deref())?;
        engine.build_cache_age = age("builder.gc.unusedFor", self.unused_for.as_deref())?;
        Ok(())
    }
}

/// Everything that a daemon is started with.
#[derive(Debug)]
pub struct Settings {
    /// For the engine.
    pub engine: EngineConfig,
    /// Where to listen.
    pub socket: PathBuf,
    /// Whose group the socket is given to.
    pub group: String,
    /// What is logged, in the form of `tracing`'s filter.
    pub log: String,
}

/// Puts the settings together.
pub fn gather(args: &DaemonArgs) -> Result<Settings, String> {
    let file = read(args.config_file.as_deref())?;
    let mut paths = args.paths();
    if args.root.is_none()
        && env::var_os("SAMPAN_ROOT").is_none()
        && let Some(root) = &file.data_root
    {
        paths.root.clone_from(root);
    }
    if args.run.is_none()
        && env::var_os("SAMPAN_RUN").is_none()
        && let Some(run) = &file.exec_root
    {
        paths.run.clone_from(run);
    }
    let named = args.socket.is_some() || !args.host.is_empty();
    let socket = if named { args.socket() } else { paths.socket() };
    for (what, path) in [("data root", &paths.root), ("runtime directory", &paths.run), ("socket", &socket)] {
        if !path.is_absolute() {
            return Err(format!("the {what} {} is not an absolute path", path.display()));
        }
    }
    if let Some(host) = args.host.iter().find(|host| !host.starts_with("unix://") && !host.starts_with("fd://")) {
        return Err(format!("cannot listen on {host}: unix:///path and fd:// are supported"));
    }
    let drivers = match &args.drivers {
        Some(drivers) => drivers.clone(),
        None => beside("drivers", "SAMPAN_DRIVERS")?,
    };
    let mut engine = EngineConfig::new(paths.root, paths.run, drivers, beside("sampan-shim", "SAMPAN_SHIM")?);
    if let Some(driver) = args.log_driver.clone().or(file.log_driver) {
        engine.log_driver = driver;
    }
    engine.log_opts = file.log_opts;
    for option in &args.log_opt {
        let (name, value) =
            option.split_once('=').ok_or_else(|| format!("--log-opt {option}: write it as name=value"))?;
        engine.log_opts.insert(name.to_owned(), value.to_owned());
    }
    engine.storage_driver = args.storage_driver.clone().or(file.storage_driver);
    engine.insecure_registries = [file.insecure_registries, args.insecure_registry.clone()].concat();
    engine.registry_mirrors = [file.registry_mirrors, args.registry_mirror.clone()].concat();
    file.builder.gc.apply(&mut engine)?;
    file.images.gc.apply(&mut engine)?;
    engine.proxies = sampan_engine::config::Proxies {
        http: file.proxies.http_proxy,
        https: file.proxies.https_proxy,
        none: file.proxies.no_proxy,
    };
    if let Some(folders) = file.cdi_spec_dirs {
        // An empty name is Docker's way to say: none.
        engine.cdi_spec_dirs = folders.into_iter().filter(|folder| !folder.as_os_str().is_empty()).collect();
    }
    if let Some(folder) = engine.cdi_spec_dirs.iter().find(|folder| !folder.is_absolute()) {
        return Err(format!("cdi-spec-dirs: {} is not an absolute path", folder.display()));
    }
    engine.labels = [file.labels, args.label.clone()].concat();
    engine.live_restore = args.live_restore || file.live_restore.unwrap_or(false);
    let level = args
        .log_level
        .clone()
        .or(file.log_level)
        .unwrap_or_else(|| if file.debug.unwrap_or(false) { "debug" } else { "info" }.to_owned());
    let log = match level.as_str() {
        "trace" | "debug" | "info" | "warn" | "error" => format!("warn,sampan={level},{}", crates(&level)),
        "fatal" => "error".to_owned(),
        other => return Err(format!("--log-level {other}: use trace, debug, info, warn or error")),
    };
    let group = args.group.clone().or(file.group).unwrap_or_else(|| "sampan".to_owned());
    Ok(Settings { engine, socket, group, log })
}

/// The level for each of our crates.
fn crates(level: &str) -> String {
    ["api", "build", "compose", "drivers", "engine", "image", "network", "reconcile", "storage"]
        .map(|name| format!("sampan_{name}={level}"))
        .join(",")
}

fn read(named: Option<&Path>) -> Result<ConfigFile, String> {
    let path = named.unwrap_or(Path::new(FILE));
    match std::fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => Ok(ConfigFile::default()),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}
