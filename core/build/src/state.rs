//! What a stage has become so far: its configuration and layers, and how each instruction changes them.

use std::time::Duration;

use sampan_image::{ChainId, HistoryEntry, ImageConfig, ImageRecord, LayerRef, Platform, timestamp};

use crate::instruction::{Command, Healthcheck};
use crate::pattern::clean;
use crate::scope::Scope;

/// Docker's `PATH` for images that have none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A stage under construction.
#[derive(Debug, Clone)]
pub struct StageState {
    /// The configuration; its `rootfs` is filled in at the end.
    pub config: ImageConfig,
    /// Lowest first.
    pub layers: Vec<LayerRef>,
    /// The image at the bottom.
    pub base: Option<sampan_image::Digest>,
    /// ARGs declared in this stage.
    pub scope: Scope,
    /// Whether this stage has a CMD of its own: ENTRYPOINT then leaves it.
    own_command: bool,
    /// When the newest step was made, nanoseconds since 1970.
    created: Option<i64>,
}

impl StageState {
    /// `FROM scratch`.
    #[must_use]
    pub fn scratch(platform: &Platform) -> Self {
        let mut config = ImageConfig {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            variant: platform.variant.clone(),
            ..ImageConfig::default()
        };
        config.config.env.push(DEFAULT_PATH.to_owned());
        config.config.working_dir = "/".to_owned();
        Self { config, layers: Vec::new(), base: None, scope: Scope::default(), own_command: false, created: None }
    }

    /// `FROM image`. Its triggers are taken out: they run now and are not inherited.
    #[must_use]
    pub fn from_image(image: &ImageRecord) -> (Self, Vec<String>) {
        let mut config = image.config.clone();
        let triggers = std::mem::take(&mut config.config.on_build);
        // Details of the container in which the image was once made.
        for key in
            ["container", "container_config", "docker_version", "moby.buildkit.buildinfo.v1", crate::exported::INLINE]
        {
            config.extra.shift_remove(key);
        }
        // Steps and variables find one, as with other builders.
        if !config.config.env.iter().any(|each| each.starts_with("PATH=")) {
            config.config.env.push(DEFAULT_PATH.to_owned());
        }
        let created = config.created.as_deref().and_then(timestamp::parse);
        let state = Self {
            config,
            layers: image.layers.clone(),
            base: Some(image.id),
            scope: Scope::default(),
            own_command: false,
            created,
        };
        (state, triggers)
    }

    /// `FROM stage`, with its arguments.
    #[must_use]
    pub fn from_stage(stage: &Self) -> (Self, Vec<String>) {
        let mut state = stage.clone();
        let triggers = std::mem::take(&mut state.config.config.on_build);
        state.own_command = false;
        (state, triggers)
    }

    /// The topmost layer.
    #[must_use]
    pub fn top(&self) -> Option<ChainId> {
        self.layers.last().map(|layer| layer.chain_id)
    }

    /// What a root over these layers is opened with: nearest first.
    #[must_use]
    pub fn parents(&self) -> Vec<ChainId> {
        self.layers.iter().rev().map(|layer| layer.chain_id).collect()
    }

    /// When the newest step was made.
    #[must_use]
    pub fn created(&self) -> Option<i64> {
        self.created
    }

    /// A declared argument, unless an ENV came after it; else a variable of the image's environment.
    #[must_use]
    pub fn lookup(&self, name: &str) -> Option<String> {
        let of_image = || {
            self.config.config.env.iter().find_map(|each| {
                let (key, value) = each.split_once('=')?;
                (key == name).then(|| value.to_owned())
            })
        };
        self.scope.get(name).map(str::to_owned).or_else(of_image)
    }

    /// Writes a step into the history.
    pub fn record(&mut self, step: String, created: i64, layer: Option<LayerRef>) {
        self.config.history.push(HistoryEntry {
            created: Some(timestamp::format(created)),
            created_by: Some(step),
            empty_layer: layer.is_none(),
            ..HistoryEntry::default()
        });
        self.layers.extend(layer);
        self.created = Some(created);
        self.config.created = Some(timestamp::format(created));
    }

    /// `ENV`.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.scope.cover(name);
        let entry = format!("{name}={value}");
        let prefix = format!("{name}=");
        let env = &mut self.config.config.env;
        match env.iter_mut().find(|each| each.starts_with(&prefix) || **each == name) {
            Some(each) => *each = entry,
            None => env.push(entry),
        }
    }

    /// The shell of this stage.
    #[must_use]
    pub fn shell(&self) -> Vec<String> {
        match &self.config.config.shell {
            Some(shell) if !shell.is_empty() => shell.clone(),
            _ => vec!["/bin/sh".to_owned(), "-c".to_owned()],
        }
    }

    /// The arguments of a program in either form.
    #[must_use]
    pub fn arguments(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(items) => items.clone(),
            Command::Shell(text) => {
                let mut arguments = self.shell();
                arguments.push(text.clone());
                arguments
            }
        }
    }

    /// `CMD`; what it became.
    pub fn set_cmd(&mut self, command: &Command) -> Vec<String> {
        let arguments = self.arguments(command);
        self.config.config.cmd = Some(arguments.clone()).filter(|items| !items.is_empty());
        self.own_command = true;
        arguments
    }

    /// `ENTRYPOINT`; the CMD of a base image goes, as it was meant for another program.
    pub fn set_entrypoint(&mut self, command: &Command) -> Vec<String> {
        let arguments = self.arguments(command);
        self.config.config.entrypoint = Some(arguments.clone()).filter(|items| !items.is_empty());
        if !self.own_command {
            self.config.config.cmd = None;
        }
        arguments
    }

    /// `WORKDIR`; the absolute path it became.
    pub fn set_workdir(&mut self, path: &str) -> String {
        let path = self.absolute(path);
        self.config.config.working_dir.clone_from(&path);
        path
    }

    /// The working directory, `/` by default.
    #[must_use]
    pub fn workdir(&self) -> &str {
        match self.config.config.working_dir.as_str() {
            "" => "/",
            other => other,
        }
    }

    /// A path seen from the working directory, cleaned.
    #[must_use]
    pub fn absolute(&self, path: &str) -> String {
        if path.starts_with('/') { clean(path) } else { clean(&format!("{}/{path}", self.workdir())) }
    }

    /// `EXPOSE`; the ports, sorted.
    pub fn expose(&mut self, words: &[String]) -> Result<Vec<String>, String> {
        let mut ports = Vec::new();
        for word in words {
            ports.extend(parse_port(word)?);
        }
        ports.sort();
        ports.dedup();
        self.config.config.exposed_ports.extend(ports.iter().cloned());
        Ok(ports)
    }

    /// `STOPSIGNAL`.
    pub fn set_stop_signal(&mut self, signal: &str) -> Result<(), String> {
        if !is_signal(signal) {
            return Err(format!("STOPSIGNAL {signal}: not a signal"));
        }
        self.config.config.stop_signal = Some(signal.to_owned());
        Ok(())
    }

    /// `HEALTHCHECK`.
    pub fn set_healthcheck(&mut self, check: &Healthcheck) {
        let nanos = |time: &Option<Duration>| time.map_or(0, |time| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX));
        self.config.config.healthcheck = Some(match check {
            Healthcheck::None => {
                sampan_image::Healthcheck { test: vec!["NONE".to_owned()], ..sampan_image::Healthcheck::default() }
            }
            Healthcheck::Probe { command, interval, timeout, start_period, start_interval, retries } => {
                let mut test = Vec::new();
                match command {
                    Command::Shell(text) => test.extend(["CMD-SHELL".to_owned(), text.clone()]),
                    Command::Exec(items) => {
                        test.push("CMD".to_owned());
                        test.extend(items.iter().cloned());
                    }
                }
                sampan_image::Healthcheck {
                    test,
                    interval: nanos(interval),
                    timeout: nanos(timeout),
                    start_period: nanos(start_period),
                    start_interval: nanos(start_interval),
                    retries: retries.unwrap_or(0).into(),
                }
            }
        });
    }
}

/// `80`, `80/udp`, `8000-8002/tcp` as single ports. An address or a port of the host before it, as `8080:80`, is what
/// `run -p` is for, and says nothing here.
fn parse_port(text: &str) -> Result<Vec<String>, String> {
    let wrong = |why: &str| format!("EXPOSE {text}: {why}");
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(wrong("expected tcp, udp or sctp after the slash"));
    }
    let range = range.rsplit_once(':').map_or(range, |(_, port)| port);
    let number = |text: &str| text.parse::<u16>().map_err(|_| wrong("not a port number"));
    let (low, high) = match range.split_once('-') {
        Some((low, high)) => (number(low)?, number(high)?),
        None => (number(range)?, number(range)?),
    };
    if low > high {
        return Err(wrong("the range ends before it begins"));
    }
    Ok((low..=high).map(|port| format!("{port}/{protocol}")).collect())
}

fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<u8>() {
        return (1..=64).contains(&number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
        "WINCH", "IO", "PWR", "SYS",
    ];
    let real_time = name.strip_prefix("RTMIN+").or_else(|| name.strip_prefix("RTMAX-"));
    NAMES.contains(&name)
        || matches!(name, "RTMIN" | "RTMAX" | "IOT" | "POLL" | "CLD")
        || real_time.and_then(|n| n.parse::<u8>().ok()).is_some_and(|n| n <= 15)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::scope::{BuildArgs, Globals};

    fn state() -> StageState {
        StageState::scratch(&Platform::host())
    }

    #[test]
    fn an_entrypoint_ends_the_command_of_the_base_only() {
        let mut state = state();
        state.config.config.cmd = Some(vec!["base".into()]);
        state.set_entrypoint(&Command::Exec(vec!["/e".into()]));
        assert_eq!(state.config.config.cmd, None);
        state.set_cmd(&Command::Shell("x".into()));
        state.set_entrypoint(&Command::Shell("y".into()));
        assert_eq!(state.config.config.cmd.as_deref().unwrap(), ["/bin/sh", "-c", "x"]);
        let (mut next, _) = StageState::from_stage(&state);
        next.set_entrypoint(&Command::Exec(vec!["/z".into()]));
        assert_eq!(next.config.config.cmd, None);
    }

    #[test]
    fn of_variables_and_arguments_the_later_wins() {
        let mut state = state();
        state.set_env("A", "1");
        state.set_env("B", "2");
        state.set_env("A", "3");
        assert_eq!(state.config.config.env[1..], ["A=3".to_owned(), "B=2".to_owned()]);
        assert_eq!(state.lookup("A").as_deref(), Some("3"));
        let args = BuildArgs::default();
        state.scope.declare(&args, &Globals::default(), "A", Some("4".into()));
        assert_eq!(state.lookup("A").as_deref(), Some("4"));
        let (next, _) = StageState::from_stage(&state);
        assert_eq!(next.lookup("A").as_deref(), Some("4"), "a stage has the arguments of that which it is based on");
        state.set_env("A", "5");
        assert_eq!(state.lookup("A").as_deref(), Some("5"));
        assert_eq!(state.scope.values().count(), 0);
    }

    #[test]
    fn paths_ports_and_signals() {
        let mut state = state();
        assert_eq!(state.set_workdir("a"), "/a");
        assert_eq!(state.set_workdir("../b/./c"), "/b/c");
        assert_eq!(state.set_workdir("/../x"), "/x");
        assert_eq!(state.expose(&["80".into(), "90-91/UDP".into()]).unwrap(), ["80/tcp", "90/udp", "91/udp"]);
        assert_eq!(state.expose(&["127.0.0.1:8080:70".into(), "[::1]:1:60/udp".into()]).unwrap(), ["60/udp", "70/tcp"]);
        for bad in ["x", "70000", "9-8", "80/icmp", "", "8080:", "80:x"] {
            assert!(state.expose(&[bad.into()]).is_err(), "{bad}");
        }
        for good in ["SIGTERM", "term", "9", "SIGRTMIN+3"] {
            state.set_stop_signal(good).unwrap();
        }
        for bad in ["SIGFOO", "0", "65", "-1"] {
            assert!(state.set_stop_signal(bad).is_err(), "{bad}");
        }
    }
}
