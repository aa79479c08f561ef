//! `sampan daemon`: its options. What it does is the caller's.

use std::path::PathBuf;

use crate::paths::Paths;

/// Options of `sampan daemon`; what is not given is the configuration file's to say, then the default.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct DaemonArgs {
    /// Data root (SAMPAN_ROOT, default /var/lib/sampan)
    #[arg(long, visible_alias = "data-root", value_name = "path")]
    pub root: Option<PathBuf>,
    /// Directory for runtime files (SAMPAN_RUN, default /run/sampan)
    #[arg(long, visible_alias = "exec-root", value_name = "path")]
    pub run: Option<PathBuf>,
    /// Path of the unix socket to listen on
    #[arg(long, value_name = "path")]
    pub socket: Option<PathBuf>,
    /// Address to listen on (unix:///path or fd://)
    #[arg(short = 'H', long, value_name = "list")]
    pub host: Vec<String>,
    /// Group that owns the socket
    #[arg(short = 'G', long, value_name = "string")]
    pub group: Option<String>,
    /// Logging level (trace, debug, info, warn, error)
    #[arg(short = 'l', long, value_name = "string")]
    pub log_level: Option<String>,
    /// Storage driver of images and containers
    #[arg(short = 's', long, value_name = "string")]
    pub storage_driver: Option<String>,
    /// Default logging driver of containers
    #[arg(long, value_name = "string")]
    pub log_driver: Option<String>,
    /// Default logging driver option
    #[arg(long, value_name = "map")]
    pub log_opt: Vec<String>,
    /// Registry that may be spoken to without TLS
    #[arg(long, value_name = "list")]
    pub insecure_registry: Vec<String>,
    /// Preferred mirror of a registry
    #[arg(long, value_name = "list")]
    pub registry_mirror: Vec<String>,
    /// Label of the daemon (key=value)
    #[arg(long, value_name = "list")]
    pub label: Vec<String>,
    /// Keep containers alive while the daemon is down (always so)
    #[arg(long)]
    pub live_restore: bool,
    /// Configuration file (default /etc/sampan/daemon.json)
    #[arg(long, value_name = "file")]
    pub config_file: Option<PathBuf>,
    /// Directory of the drivers that ship with the engine
    #[arg(long, value_name = "path")]
    pub drivers: Option<PathBuf>,
}

impl DaemonArgs {
    /// Data root and runtime directory: from the options, then the environment, then the defaults.
    pub fn paths(&self) -> Paths {
        let otherwise = Paths::from_environment();
        Paths { root: self.root.clone().unwrap_or(otherwise.root), run: self.run.clone().unwrap_or(otherwise.run) }
    }

    /// The socket to listen on: `--socket`, the first `--host unix://…`, else below the runtime directory.
    pub fn socket(&self) -> PathBuf {
        let named = self.host.iter().find_map(|host| host.strip_prefix("unix://")).map(PathBuf::from);
        self.socket.clone().or(named).unwrap_or_else(|| self.paths().socket())
    }
}
