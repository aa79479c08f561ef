//! Where an instance keeps its data, its runtime files and its socket.

use std::env;
use std::path::{Path, PathBuf};

/// The data root of the host's main instance.
pub const ROOT: &str = "/var/lib/sampan";
/// The directory for what does not outlive a boot.
pub const RUN: &str = "/run/sampan";
/// The socket's name in the runtime directory.
pub const SOCKET: &str = "sampan.sock";

/// The places of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// Data: images, volumes, the state store, logs.
    pub root: PathBuf,
    /// Sockets, locks, namespaces: gone after a boot.
    pub run: PathBuf,
}

impl Paths {
    /// From `SAMPAN_ROOT` and `SAMPAN_RUN`, else the defaults.
    pub fn from_environment() -> Self {
        Self::from(|name| env::var_os(name).map(PathBuf::from))
    }

    fn from(variable: impl Fn(&str) -> Option<PathBuf>) -> Self {
        let place = |name: &str, otherwise: &str| {
            variable(name).filter(|path| !path.as_os_str().is_empty()).unwrap_or_else(|| otherwise.into())
        };
        Self { root: place("SAMPAN_ROOT", ROOT), run: place("SAMPAN_RUN", RUN) }
    }

    /// The socket's default path.
    pub fn socket(&self) -> PathBuf {
        self.run.join(SOCKET)
    }
}

/// The daemon's address: `--host`, `SAMPAN_HOST`, the socket below `SAMPAN_RUN` when that is set, `DOCKER_HOST`, the default.
pub fn host(flag: Option<&str>) -> String {
    choose(flag, |name| env::var(name).ok().filter(|value| !value.is_empty()))
}

/// The client's configuration directory: `DOCKER_CONFIG`, else `~/.docker`.
pub fn client_config() -> PathBuf {
    match env::var_os("DOCKER_CONFIG").filter(|path| !path.is_empty()) {
        Some(path) => path.into(),
        None => env::var_os("HOME").map_or_else(|| "/root".into(), PathBuf::from).join(".docker"),
    }
}

fn choose(flag: Option<&str>, variable: impl Fn(&str) -> Option<String>) -> String {
    if let Some(host) = flag.filter(|host| !host.is_empty()) {
        return host.to_owned();
    }
    if let Some(host) = variable("SAMPAN_HOST") {
        return host;
    }
    // An instance named by its runtime directory is meant more precisely than whatever Docker client is set up.
    if let Some(run) = variable("SAMPAN_RUN") {
        return format!("unix://{}", Path::new(&run).join(SOCKET).display());
    }
    variable("DOCKER_HOST").unwrap_or_else(|| format!("unix://{RUN}/{SOCKET}"))
}

/// What belongs to the program: beside it as built, below `lib/sampan` or `libexec/sampan` as installed.
pub fn beside(name: &str, variable: &str) -> Result<PathBuf, String> {
    if let Some(path) = env::var_os(variable).filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let program = env::current_exe().map_err(|error| format!("find this program's own path: {error}"))?;
    let folder = program.parent().unwrap_or(Path::new("/"));
    let places =
        [folder.join(name), folder.join("../lib/sampan").join(name), folder.join("../libexec/sampan").join(name)];
    match places.iter().find(|place| place.exists()) {
        Some(place) => Ok(place.canonicalize().unwrap_or_else(|_| place.clone())),
        None => Err(format!(
            "there is no {name} beside {} or in ../lib/sampan; build with `cargo xtask build`, or set {variable}",
            program.display()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_setting_names_the_socket() {
        let with = |pairs: &'static [(&str, &str)]| {
            move |name: &str| pairs.iter().find(|(found, _)| *found == name).map(|(_, value)| (*value).to_owned())
        };
        assert_eq!(choose(None, with(&[])), "unix:///run/sampan/sampan.sock");
        assert_eq!(choose(Some("unix:///a"), with(&[("SAMPAN_HOST", "unix:///b")])), "unix:///a");
        assert_eq!(choose(None, with(&[("SAMPAN_HOST", "unix:///b"), ("DOCKER_HOST", "unix:///c")])), "unix:///b");
        assert_eq!(
            choose(None, with(&[("SAMPAN_RUN", "/t/run"), ("DOCKER_HOST", "unix:///c")])),
            "unix:///t/run/sampan.sock"
        );
        assert_eq!(choose(None, with(&[("DOCKER_HOST", "unix:///c")])), "unix:///c");
    }

    #[test]
    fn places_come_from_the_environment_or_the_defaults() {
        let paths = Paths::from(|name| (name == "SAMPAN_RUN").then(|| "/t/run".into()));
        assert_eq!(paths, Paths { root: ROOT.into(), run: "/t/run".into() });
        assert_eq!(paths.socket(), Path::new("/t/run/sampan.sock"));
    }
}
