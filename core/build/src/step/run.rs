//! RUN.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sampan_image::Platform;
use sampan_image::tree::Tree;

use super::{Files, StageRun, blocking, copy_fault, with_origin};
use crate::backend::{Backend, Message, MountSource, Root, RunStep, StepMount};
use crate::cache::{Entry, KeyWriter};
use crate::copy::{self, Selection};
use crate::device::{self, Chosen};
use crate::error::{BuildError, Result};
use crate::executor::{say, tell};
use crate::instruction::{Command, Instruction, Run};
use crate::lines::{Heredoc, heredoc_mark};
use crate::mount::{self, MountKind};
use crate::scope::is_proxy;
use crate::source::Source;
use crate::stubs::Stubs;

/// Where scripts of RUN are found.
const SCRIPTS: &str = "/dev/pipes";

impl<B: Backend> StageRun<B> {
    pub(super) async fn run(&mut self, source: &Source, instruction: &Instruction, run: &Run) -> Result<()> {
        if run.security.as_deref() == Some("insecure") {
            return Err(BuildError::Unsupported(
                "RUN --security=insecure needs the daemon's permission, which it does not give".to_owned(),
            ));
        }
        let devices = self.devices(run).await?;
        let options = &self.build.request.options;
        let network = match run.network.as_deref() {
            None | Some("default") => options.network().to_owned(),
            Some("host") if options.network() != "host" && !options.allowed.network_host() => {
                return Err(BuildError::Invalid(
                    "RUN --network=host is not allowed: whoever builds must say --allow network.host".to_owned(),
                ));
            }
            Some(other) => other.to_owned(),
        };
        let (args, script) = self.arguments(run);
        let arguments: Vec<String> = self
            .state
            .scope
            .values()
            .filter(|(name, _)| !is_proxy(name))
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let mut mounts = Vec::new();
        let mut key = KeyWriter::new("run", self.state.top());
        key.list(&args).list(&self.state.config.config.env).list(&arguments);
        key.text(self.state.workdir()).text(&self.state.config.config.user).text(&network);
        key.list(&self.build.request.options.extra_hosts);
        if let Some(epoch) = self.epoch() {
            key.text("epoch").text(&epoch);
        }
        if !devices.names.is_empty() {
            key.text("devices").list(&devices.names);
        }
        let mut secret_env = Vec::new();
        for text in &run.mounts {
            let expand = |text: &str| self.word(text).map_err(|error| error.to_string());
            let parsed = mount::parse(text, &expand).map_err(BuildError::Invalid)?;
            key.text(&format!("{parsed:?}"));
            self.mount(parsed, &mut key, &mut mounts, &mut secret_env).await?;
        }
        if let Some((name, body)) = &script {
            key.text(name).text(body);
        }
        let key = key.finish();
        let step = run_history(&args, &arguments, run);
        let _flight = self.build.backend.flights().lock(key).await;
        if self.take(key, &step).await? {
            return Ok(());
        }
        tell(&self.output, Message::Running(key.short())).await?;
        let mut env = self.state.config.config.env.clone();
        // An argument that came later has another value than the variable.
        env.retain(|each| each.split('=').next().is_none_or(|name| self.state.scope.get(name).is_none()));
        env.extend(arguments);
        for (name, value) in
            self.build.args.proxies().chain(self.state.scope.values().filter(|(name, _)| is_proxy(name)))
        {
            if !self.has_env(name) && !env.iter().any(|each| each.split('=').next() == Some(name)) {
                env.push(format!("{name}={value}"));
            }
        }
        env.extend(secret_env);
        let parents = self.state.parents();
        let root = self.build.backend.open(&parents).await?;
        let folder = self.script(script, &mut mounts).await?;
        let run_step = RunStep {
            id: key.short(),
            args: args.clone(),
            env,
            cwd: self.state.workdir().to_owned(),
            user: self.state.config.config.user.clone(),
            network,
            extra_hosts: self.build.request.options.extra_hosts.clone(),
            shm_size: self.build.request.options.shm_size,
            memory: self.build.request.options.memory,
            memory_swap: self.build.request.options.memory_swap,
            ulimits: self.build.request.options.ulimits.clone(),
            mounts,
            devices: devices.names,
        };
        let targets: Vec<String> =
            run_step.mounts.iter().map(|mount| mount.target.clone()).chain(devices.targets).collect();
        let at = root.path().to_owned();
        let stubs = blocking(move || {
            Stubs::before(&at, &targets).map_err(|error| BuildError::Backend(format!("look at the root: {error}")))
        })
        .await?;
        let code = self.build.backend.run(&root, run_step, &self.output).await.map_err(|error| self.foreign(error))?;
        drop(folder);
        if code != 0 {
            let command = shown_command(&args);
            let place = source.diagnostic(instruction.span, format!("the program ended with code {code}"));
            return Err(BuildError::Run { command, code, place: Box::new(place) });
        }
        let at = root.path().to_owned();
        blocking(move || {
            stubs.remove(&at).map_err(|error| BuildError::Backend(format!("clear the root of mount points: {error}")))
        })
        .await?;
        let layer = self.build.backend.commit(&root, &parents, self.build.latest()).await?;
        drop(root);
        let created = self.build.now();
        self.keep(key, &step, Entry { layer: Some(layer), created, description: step.clone() }).await
    }

    /// The devices that the step gets.
    async fn devices(&self, run: &Run) -> Result<Chosen> {
        let mut wanted = Vec::new();
        for text in &run.devices {
            wanted.push(device::parse(&self.word(text)?).map_err(BuildError::Invalid)?);
        }
        if wanted.is_empty() {
            return Ok(Chosen::default());
        }
        let chosen = self.build.backend.devices(wanted, &self.build.request.options.allowed).await?;
        for name in &chosen.missing {
            let note = format!("[Warning] RUN --device={name}: there is none here, and the step does not require it\n");
            say(&self.output, note).await?;
        }
        Ok(chosen)
    }

    /// A program that the kernel does not know how to run, in a stage for another kind of machine.
    fn foreign(&self, error: BuildError) -> BuildError {
        let config = &self.state.config;
        let platform = Platform {
            os: config.os.clone(),
            architecture: config.architecture.clone(),
            variant: config.variant.clone(),
            os_version: None,
        };
        match error {
            BuildError::Unsupported(why)
                if !config.architecture.is_empty() && Platform::host().suits(&platform).is_none() =>
            {
                BuildError::Unsupported(format!(
                    "{why}: the stage is for {platform}, and this kernel runs programs for that only if an interpreter \
                     is registered for them (binfmt_misc; the package qemu-user-static has one for many machines). Or \
                     let the stage run here and make what is for there: FROM --platform=$BUILDPLATFORM"
                ))
            }
            other => other,
        }
    }

    fn has_env(&self, name: &str) -> bool {
        self.state.config.config.env.iter().any(|each| each.split('=').next() == Some(name))
    }

    /// The program's arguments; a here-document that is a script of its own comes as a file.
    fn arguments(&self, run: &Run) -> (Vec<String>, Option<(String, String)>) {
        let Command::Shell(text) = &run.command else { return (self.state.arguments(&run.command), None) };
        let Some(first) = run.heredocs.first() else { return (self.state.arguments(&run.command), None) };
        if run.heredocs.len() == 1 && heredoc_mark(text.trim()).is_some() {
            let body = first.body();
            if body.starts_with("#!") {
                let path = format!("{SCRIPTS}/{}", first.name);
                return (vec![path], Some((first.name.clone(), body)));
            }
            return (self.state.arguments(&Command::Shell(body)), None);
        }
        // The shell reads here-documents itself.
        let whole = run
            .heredocs
            .iter()
            .fold(text.clone(), |text, each: &Heredoc| format!("{text}\n{}{}", each.content, each.name));
        (self.state.arguments(&Command::Shell(whole)), None)
    }

    /// Writes a script where it can be mounted from.
    async fn script(
        &self,
        script: Option<(String, String)>,
        mounts: &mut Vec<StepMount>,
    ) -> Result<Option<crate::context::Scratch>> {
        let Some((name, body)) = script else { return Ok(None) };
        mounts.push(StepMount {
            target: format!("{SCRIPTS}/{name}"),
            source: MountSource::Secret { content: body.into_bytes().into(), mode: 0o755, owner: (0, 0) },
        });
        Ok(None)
    }

    async fn mount(
        &self,
        mount: mount::RunMount,
        key: &mut KeyWriter,
        mounts: &mut Vec<StepMount>,
        env: &mut Vec<String>,
    ) -> Result<()> {
        let target = self.state.absolute(&mount.target);
        match mount.kind {
            MountKind::Bind { from, source, writable } => {
                let path = self.bind(from.as_deref(), &source, Some(key)).await?;
                let source = if writable { MountSource::Discarded(path) } else { MountSource::Path(path) };
                mounts.push(StepMount { target, source });
            }
            MountKind::Cache { id, from, source, read_only, sharing, mode, uid, gid } => {
                let seed = match from {
                    Some(from) => Some(self.bind(Some(&from), &source, None).await?),
                    None => None,
                };
                let id = if id == mount.target { target.clone() } else { id };
                let owner = (uid, gid);
                mounts.push(StepMount {
                    target,
                    source: MountSource::Cache { id, seed, read_only, sharing, mode, owner },
                });
            }
            MountKind::Tmpfs { size } => mounts.push(StepMount { target, source: MountSource::Tmpfs { size } }),
            MountKind::Secret { id, required, mode, uid, gid, env: variable } => {
                let Some(content) = self.build.request.options.secrets.get(&id) else {
                    if required {
                        return Err(BuildError::Invalid(format!(
                            "the secret {id} is not given: --secret id={id},src=FILE"
                        )));
                    }
                    return Ok(());
                };
                if let Some(name) = variable {
                    let text = std::str::from_utf8(content).map_err(|_| {
                        BuildError::Invalid(format!("the secret {id} is not text: no variable can hold it"))
                    })?;
                    env.push(format!("{name}={text}"));
                }
                if !mount.target.is_empty() {
                    let source = MountSource::Secret { content: Arc::clone(content), mode, owner: (uid, gid) };
                    mounts.push(StepMount { target, source });
                }
            }
            MountKind::Ssh { id, required, mode, uid, gid } => {
                let Some(agent) = self.build.request.options.ssh.get(&id) else {
                    if required {
                        return Err(BuildError::Invalid(format!("the agent {id} is not given: --ssh {id}")));
                    }
                    return Ok(());
                };
                let number = mounts.iter().filter(|each| matches!(each.source, MountSource::Ssh { .. })).count();
                let target = if mount.target.is_empty() { format!("/run/buildkit/ssh_agent.{number}") } else { target };
                if number == 0 {
                    env.push(format!("SSH_AUTH_SOCK={target}"));
                }
                let source = MountSource::Ssh { agent: agent.clone(), mode, owner: (uid, gid) };
                mounts.push(StepMount { target, source });
            }
        }
        Ok(())
    }

    /// A path of the context, a stage or an image, as the host sees it; its contents go into the key.
    async fn bind(&self, from: Option<&str>, source: &str, key: Option<&mut KeyWriter>) -> Result<PathBuf> {
        let files = self.files(from).await?;
        let wanted = source.to_owned();
        let hash = key.is_some();
        let top = if let Files::Layers { top, .. } = &files { *top } else { None };
        let context = matches!(files, Files::Context(_));
        let (path, matches) = blocking(move || {
            let mountable = match &files {
                Files::Context(context) => Some(context.mountable()?),
                Files::Layers { .. } => None,
            };
            with_origin(&files, |origin| {
                let root = mountable.as_deref().unwrap_or(origin.root);
                let wrong = |error: std::io::Error| BuildError::Invalid(format!("--mount: {wanted}: {error}"));
                let mut tree = Tree::open(root).map_err(wrong)?;
                let name = crate::pattern::clean(&format!("/{wanted}"));
                let (path, stat) = copy::resolve(&mut tree, name.as_bytes()).map_err(wrong)?;
                if stat.is_none() {
                    return Err(BuildError::Invalid(format!("--mount: {wanted}: not found in {}", origin.label)));
                }
                let path = root.join(Path::new(std::ffi::OsStr::new(
                    <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&path),
                )));
                let matches = if hash && context {
                    copy::collect(origin, &name, &Selection::default()).map_err(copy_fault)?
                } else {
                    Vec::new()
                };
                Ok((path, matches))
            })
        })
        .await?;
        if let Some(key) = key {
            if context {
                copy::hash_into(key, &matches);
            } else {
                key.maybe(top.map(|top| top.to_string()).as_deref());
            }
        }
        Ok(path)
    }
}

fn run_history(args: &[String], arguments: &[String], run: &Run) -> String {
    let mut text = String::from("RUN");
    if !arguments.is_empty() {
        text.push_str(&format!(" |{} {}", arguments.len(), arguments.join(" ")));
    }
    let script = run.heredocs.len() == 1 && args.len() == 1;
    if script {
        return format!("{text} <<{}", run.heredocs[0].name);
    }
    format!("{text} {}", args.join(" "))
}

/// A command as Docker's error shows it.
fn shown_command(args: &[String]) -> String {
    args.join(" ")
}
