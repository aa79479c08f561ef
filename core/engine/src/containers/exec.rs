//! `exec`: further processes in a container.
//!
//! The shim starts and reaps them; here is what is known of them, and the task that carries the output of each. An exec
//! whose client is gone goes on, and its output is read and forgotten.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bollard_stubs::models::{ExecConfig, ExecInspectResponse, IdResponse, ProcessConfig};
use bytes::{Bytes, BytesMut};
use oci_spec::runtime::{Capabilities, LinuxCapabilitiesBuilder, Process, Spec};
use sampan_shim_protocol::{ExecRequest, OCI_CONFIG, StartFailure};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};

use super::link::Shim;
use super::record::Status;
use super::security::ALL_CAPABILITIES;
use super::{Attached, Container, Containers, ExecStart, Output, OutputStream, StdinWriter, new_id, readiness};
use crate::error::{Error, Result};
use crate::{Engine, blocking};

/// How long what is known of an exec is kept after its end.
const KEPT: Duration = Duration::from_secs(300);
/// How many that ended are kept for a container.
const KEPT_COUNT: usize = 256;
/// How long output that a process left open to others is waited for after its end.
const LINGER: Duration = Duration::from_millis(250);
/// How long a resize waits for the start that it raced ahead of.
const RESIZE_WAIT: Duration = Duration::from_secs(2);
/// Pieces on their way to a client.
const QUEUE: usize = 64;
/// Read at once.
const PIECE: usize = 32 << 10;

/// How an exec stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Stand {
    started: bool,
    running: bool,
    pid: i32,
    code: Option<i64>,
    ended: Option<Instant>,
}

/// An exec.
#[derive(Debug)]
struct Exec {
    id: String,
    config: ExecConfig,
    stand: watch::Sender<Stand>,
}

impl Exec {
    fn end(&self, code: i64) {
        self.stand.send_modify(|stand| {
            stand.running = false;
            stand.code = Some(code);
            stand.ended = Some(Instant::now());
        });
    }
}

/// The `exec`s of a container.
#[derive(Debug, Default)]
pub(crate) struct Execs {
    table: Mutex<HashMap<String, Arc<Exec>>>,
}

impl Execs {
    fn table(&self) -> MutexGuard<'_, HashMap<String, Arc<Exec>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ids of those that have not ended, for `inspect`.
    pub(crate) fn ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = self
            .table()
            .values()
            .filter(|exec| exec.stand.borrow().code.is_none())
            .map(|exec| exec.id.clone())
            .collect();
        ids.sort();
        ids
    }

    fn get(&self, id: &str) -> Option<Arc<Exec>> {
        self.table().get(id).cloned()
    }

    fn add(&self, exec: Arc<Exec>) {
        let mut table = self.table();
        let ended = |exec: &Exec| exec.stand.borrow().ended;
        table.retain(|_, exec| ended(exec).is_none_or(|at| at.elapsed() < KEPT));
        if table.len() >= KEPT_COUNT
            && let Some(oldest) = table.values().filter(|exec| ended(exec).is_some()).min_by_key(|exec| ended(exec))
        {
            let oldest = oldest.id.clone();
            table.remove(&oldest);
        }
        table.insert(exec.id.clone(), exec);
    }
}

/// The shim has told that an exec has ended. Called in the order of the shim's events, so it must not wait.
pub(crate) fn exited(containers: &Containers, container: &Arc<Container>, id: &str, code: u8) {
    let Some(exec) = container.execs.get(id) else {
        container.checks.exited(id, code);
        return;
    };
    exec.end(i64::from(code));
    containers.publish(container, "exec_die", [("execID", id.to_owned()), ("exitCode", code.to_string())]);
}

/// The container has ended, and its `exec`s with it.
pub(crate) fn end_all(containers: &Containers, container: &Arc<Container>) {
    let running: Vec<_> =
        container.execs.table().values().filter(|exec| exec.stand.borrow().running).cloned().collect();
    for exec in running {
        exec.end(137);
        containers.publish(container, "exec_die", [("execID", exec.id.clone()), ("exitCode", "137".to_owned())]);
    }
}

/// A process of the container's kind: its rights, limits and environment, with what the exec wants.
pub(super) async fn process_in(containers: &Containers, container: &Container, config: &ExecConfig) -> Result<Process> {
    let path = containers.shared().config.bundle(&container.id).join(OCI_CONFIG);
    let spec: Spec = blocking(move || {
        let read = || serde_json::from_slice(&std::fs::read(&path)?).map_err(std::io::Error::from);
        read().map_err(|error| Error::internal(format!("read {}: {error}", path.display())))
    })
    .await?;
    let mut process = spec.process().clone().unwrap_or_default();
    process.set_terminal(config.tty);
    process.set_args(config.cmd.clone());
    process.set_env(Some(environment(process.env().as_deref().unwrap_or(&[]), config)));
    let folder = config.working_dir.clone().filter(|folder| !folder.is_empty());
    if let Some(folder) = folder {
        if !folder.starts_with('/') {
            return Err(Error::invalid(format!(
                "the working directory '{folder}' is invalid, it needs to be an absolute path"
            )));
        }
        process.set_cwd(folder.into());
    }
    if config.privileged.unwrap_or(false) {
        let all = all_capabilities()?;
        let capabilities = LinuxCapabilitiesBuilder::default()
            .bounding(all.clone())
            .effective(all.clone())
            .permitted(all)
            .inheritable(Capabilities::new())
            .ambient(Capabilities::new())
            .build()
            .map_err(|error| Error::internal(format!("all capabilities: {error}")))?;
        process.set_capabilities(Some(capabilities));
    }
    Ok(process)
}

fn all_capabilities() -> Result<Capabilities> {
    let names = ALL_CAPABILITIES.iter().map(|name| serde_json::Value::String(format!("CAP_{name}"))).collect();
    serde_json::from_value(names).map_err(|error| Error::internal(format!("all capabilities: {error}")))
}

/// The container's variables, and over them those of the exec.
fn environment(container: &[String], config: &ExecConfig) -> Vec<String> {
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    let mut all: Vec<String> = container.to_vec();
    if config.tty == Some(true) && !all.iter().any(|known| name(known) == "TERM") {
        all.push("TERM=xterm".to_owned());
    }
    for variable in config.env.iter().flatten().cloned() {
        let wanted = name(&variable);
        // A name alone takes the variable away.
        let value = variable.contains('=').then_some(variable);
        let place = all.iter().position(|known| name(known) == wanted);
        match (place, value) {
            (Some(at), Some(value)) => all[at] = value,
            (Some(at), None) => drop(all.remove(at)),
            (None, Some(value)) => all.push(value),
            (None, None) => {}
        }
    }
    all
}

/// What Docker says of a process that could not be started.
pub(super) fn complaint(failure: &StartFailure) -> String {
    format!("OCI runtime exec failed: exec failed: unable to start container process: {failure}: unknown")
}

impl Containers {
    fn exec(&self, id: &str) -> Result<(Arc<Container>, Arc<Exec>)> {
        self.all()
            .into_iter()
            .find_map(|container| container.execs.get(id).map(|exec| (container, exec)))
            .ok_or_else(|| Error::not_found(format!("No such exec instance: {id}")))
    }

    fn ready_for_exec(&self, reference: &str) -> Result<(Arc<Container>, Shim)> {
        let (container, shim) = self.running(reference)?;
        if container.status() == Status::Paused {
            return Err(Error::conflict(format!(
                "Container {} is paused, unpause the container before exec",
                container.id
            )));
        }
        Ok((container, shim))
    }
}

impl Engine {
    /// Prepares a process.
    pub async fn exec_create(&self, container: &str, config: ExecConfig) -> Result<IdResponse> {
        let containers = &self.inner.containers;
        let (container, _) = containers.ready_for_exec(container)?;
        if config.cmd.as_ref().is_none_or(Vec::is_empty) {
            return Err(Error::invalid("No exec command specified"));
        }
        let id = new_id()?;
        let command = config.cmd.iter().flatten().cloned().collect::<Vec<_>>().join(" ");
        let exec = Exec { id: id.clone(), config, stand: watch::Sender::new(Stand::default()) };
        container.execs.add(Arc::new(exec));
        containers.publish(&container, &format!("exec_create: {command}"), [("execID", id.clone())]);
        Ok(IdResponse { id })
    }

    /// Starts it; nothing is attached when detached. A program that cannot be run is told in the output, as by Docker.
    pub async fn exec_start(&self, id: &str, options: ExecStart) -> Result<Option<Attached>> {
        let containers = &self.inner.containers;
        let (container, exec) = containers.exec(id)?;
        let (_, shim) = containers.ready_for_exec(&container.id)?;
        let first = exec.stand.send_if_modified(|stand| {
            let first = !stand.started;
            (stand.started, stand.running) = (true, first || stand.running);
            first
        });
        if !first {
            let how = if exec.stand.borrow().running { "is already running" } else { "has already run" };
            return Err(Error::conflict(format!("Error: Exec command {id} {how}")));
        }
        let started = self.run_exec(&container, &shim, &exec, options).await;
        if started.is_err() && exec.stand.borrow().running {
            exec.end(126);
        }
        started
    }

    async fn run_exec(
        &self,
        container: &Arc<Container>,
        shim: &Shim,
        exec: &Arc<Exec>,
        options: ExecStart,
    ) -> Result<Option<Attached>> {
        let containers = &self.inner.containers;
        let config = &exec.config;
        let is = |flag: Option<bool>| flag.unwrap_or(false);
        let process = process_in(containers, container, config).await?;
        let own = config.user.clone().filter(|user| !user.is_empty());
        let (user, groups) = {
            let record = container.record();
            let groups = record.host.group_add.clone().unwrap_or_default();
            (own.unwrap_or_else(|| record.config.user.clone().unwrap_or_default()), groups)
        };
        let size = options.size.or_else(|| match config.console_size.as_deref() {
            Some([rows, columns]) => Some((u16::try_from(*rows).ok()?, u16::try_from(*columns).ok()?)),
            _ => None,
        });
        let stdin = is(config.attach_stdin) && !options.detach;
        let request = ExecRequest {
            id: exec.id.clone(),
            process,
            user,
            groups,
            stdin,
            size: size.filter(|size| *size != (0, 0)),
            privileged: is(config.privileged),
            detached: options.detach,
        };
        let command = config.cmd.iter().flatten().cloned().collect::<Vec<_>>().join(" ");
        containers.publish(container, &format!("exec_start: {command}"), [("execID", exec.id.clone())]);
        let (pid, mut descriptors) = match shim.exec(request).await? {
            Ok(started) => started,
            Err(failure) => {
                exec.end(i64::from(failure.code));
                let text = complaint(&failure);
                if options.detach {
                    return Err(Error::invalid(text));
                }
                return Ok(Some(told(is(config.tty), format!("{text}\r\n"))));
            }
        };
        exec.stand.send_modify(|stand| stand.pid = pid);
        if options.detach {
            return Ok(None);
        }
        let broken = |error: std::io::Error| Error::internal(format!("connect the exec's output: {error}"));
        let stdin = if stdin && !descriptors.is_empty() {
            Some(StdinWriter::over(descriptors.remove(0)).map_err(broken)?)
        } else {
            None
        };
        // What was not asked for is read all the same, so that the process does not block.
        let wanted = [is(config.attach_stdout) || is(config.tty), is(config.attach_stderr)];
        let (sender, output) = mpsc::channel(QUEUE);
        let ended = exec.stand.subscribe();
        let mut known = exec.stand.subscribe();
        let ends = shim.clone();
        // A client asks for the exit code as soon as the output ends: it ends when the code is known.
        let held = sender.clone();
        let carrying = carry(descriptors, wanted, sender).map_err(broken)?;
        tokio::spawn(async move {
            until_ended(carrying, ended, ends).await;
            let _ = known.wait_for(|stand| stand.code.is_some()).await;
            drop(held);
        });
        Ok(Some(Attached { tty: is(config.tty), stdin, output }))
    }

    /// Sets its terminal's size.
    pub async fn exec_resize(&self, id: &str, rows: u16, columns: u16) -> Result<()> {
        let containers = &self.inner.containers;
        let (container, exec) = containers.exec(id)?;
        let (_, shim) = containers.running(&container.id)?;
        let mut stand = exec.stand.subscribe();
        let known = stand.wait_for(|stand| stand.pid != 0 || stand.code.is_some());
        let pid =
            tokio::time::timeout(RESIZE_WAIT, known).await.is_ok_and(|known| known.is_ok_and(|stand| stand.running));
        if !pid {
            return Err(Error::conflict(format!("exec {id} is not running")));
        }
        shim.resize(Some(id), rows, columns).await
    }

    /// How it stands.
    pub async fn exec_inspect(&self, id: &str) -> Result<ExecInspectResponse> {
        let (container, exec) = self.inner.containers.exec(id)?;
        let stand = *exec.stand.borrow();
        let config = &exec.config;
        let mut command = config.cmd.iter().flatten().cloned();
        Ok(ExecInspectResponse {
            can_remove: Some(false),
            detach_keys: config.detach_keys.clone(),
            id: Some(exec.id.clone()),
            running: Some(stand.running),
            exit_code: stand.code,
            process_config: Some(ProcessConfig {
                privileged: config.privileged,
                user: config.user.clone(),
                tty: Some(config.tty.unwrap_or(false)),
                entrypoint: command.next(),
                arguments: Some(command.collect()),
            }),
            open_stdin: Some(config.attach_stdin.unwrap_or(false)),
            open_stderr: Some(config.attach_stderr.unwrap_or(false)),
            open_stdout: Some(config.attach_stdout.unwrap_or(false)),
            container_id: Some(container.id.clone()),
            pid: Some(i64::from(stand.pid)),
        })
    }
}

/// An output of one text.
fn told(tty: bool, text: String) -> Attached {
    let (sender, output) = mpsc::channel(1);
    let _ = sender.try_send(Output { stream: OutputStream::Stdout, bytes: Bytes::from(text) });
    Attached { tty, stdin: None, output }
}

/// Carries the outputs of a process (stdout, stderr) to a client until all are closed; reads on when the client is gone.
pub(super) fn carry(
    descriptors: Vec<OwnedFd>,
    wanted: [bool; 2],
    sender: mpsc::Sender<Output>,
) -> std::io::Result<Carrying> {
    let mut readers = Vec::new();
    for (number, descriptor) in descriptors.into_iter().enumerate() {
        let reader = readiness::of_pipe(descriptor, Interest::READABLE)?;
        let stream = if number == 1 { OutputStream::Stderr } else { OutputStream::Stdout };
        let sender = wanted.get(number).copied().unwrap_or(false).then(|| sender.clone());
        readers.push(read_out(reader, stream, sender));
    }
    let all = async move {
        futures_util::future::join_all(readers).await;
        drop(sender);
    };
    Ok(Box::pin(all))
}

/// See [`carry`].
pub(super) type Carrying = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

async fn read_out(reader: AsyncFd<OwnedFd>, stream: OutputStream, mut sender: Option<mpsc::Sender<Output>>) {
    let mut buffer = BytesMut::new();
    loop {
        let Ok(mut ready) = reader.readable().await else { return };
        buffer.resize(PIECE, 0);
        let read =
            ready.try_io(|reader| nix::unistd::read(reader.get_ref(), &mut buffer).map_err(std::io::Error::from));
        match read {
            Ok(Ok(0)) => return,
            Ok(Ok(read)) => {
                if let Some(client) = &sender {
                    let bytes = Bytes::copy_from_slice(&buffer[..read]);
                    if client.send(Output { stream, bytes }).await.is_err() {
                        sender = None;
                    }
                }
            }
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Ok(Err(_)) => return,
            // Nothing is there: an idle process needs no buffer.
            Err(_) => buffer = BytesMut::new(),
        }
    }
}

/// Output ends when the process has ended and its pipes are dry; not for ever when others hold them. The client sees the
/// end only when the exit code is known, as it asks for it next.
async fn until_ended(mut carrying: Carrying, mut stand: watch::Receiver<Stand>, shim: Shim) {
    let ended = async {
        loop {
            if stand.borrow_and_update().code.is_some() || shim.is_gone() {
                return;
            }
            let _ = tokio::time::timeout(Duration::from_secs(5), stand.changed()).await;
        }
    };
    tokio::pin!(ended);
    let mut dry = false;
    tokio::select! {
        () = &mut carrying => dry = true,
        () = &mut ended => {}
    }
    if dry {
        ended.await;
    } else {
        let _ = tokio::time::timeout(LINGER, &mut carrying).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn list(text: &[&str]) -> Vec<String> {
        text.iter().map(|item| (*item).to_owned()).collect()
    }

    #[test]
    fn variables_are_those_of_the_container_and_over_them_the_given() {
        let config = ExecConfig { env: Some(list(&["A=2", "B", "C=3"])), tty: Some(true), ..ExecConfig::default() };
        let found = environment(&list(&["PATH=/bin", "A=1", "B=1"]), &config);
        assert_eq!(found, list(&["PATH=/bin", "A=2", "TERM=xterm", "C=3"]));
        let config = ExecConfig { tty: Some(true), ..ExecConfig::default() };
        assert_eq!(environment(&list(&["TERM=dumb"]), &config), list(&["TERM=dumb"]));
    }

    #[test]
    fn every_capability_has_a_name_that_is_known() {
        assert_eq!(all_capabilities().unwrap().len(), ALL_CAPABILITIES.len());
    }

    #[test]
    fn a_program_that_is_not_there_is_told_as_docker_tells_it() {
        let failure = StartFailure {
            step: "exec: \"nope\"".into(),
            cause: "executable file not found in $PATH".into(),
            code: 127,
        };
        assert_eq!(
            complaint(&failure),
            "OCI runtime exec failed: exec failed: unable to start container process: exec: \"nope\": executable file \
             not found in $PATH: unknown"
        );
    }
}
