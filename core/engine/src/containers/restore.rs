//! Start and end of the daemon: adopting what runs, clearing what is left over, starting what policies say.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sampan_shim_protocol::{ExitStatus, OCI_CONFIG, SOCKET};
use tokio::task::JoinSet;

use super::link::{Shim, ShimEvents};
use super::monitor::End;
use super::policy::Policy;
use super::record::{ContainerRecord, Status};
use super::validate::{self, Sharing};
use super::{Container, Containers, health, start};
use crate::error::Result;
use crate::events::now_ns;
use crate::{Engine, blocking};

/// The most that an orderly end waits beyond the containers' own timeouts.
const LONGEST_STOP: Duration = Duration::from_secs(60);
/// How long a shim may take to listen after its start, on a machine that has much to do.
const SHIM_LISTENS: Duration = Duration::from_secs(20);
/// Compose's label with the services that one depends on: `service:condition:restart`, separated by commas.
const DEPENDS_ON: &str = "com.docker.compose.depends_on";
const PROJECT: &str = "com.docker.compose.project";
const SERVICE: &str = "com.docker.compose.service";

impl Engine {
    /// How many containers there are, by state, for `info`.
    pub(crate) fn count_containers(&self) -> HashMap<&'static str, i64> {
        let mut counts = HashMap::new();
        for container in self.inner.containers.all() {
            *counts.entry(container.status().word()).or_insert(0) += 1;
        }
        counts
    }
}

/// Whether a container that does not run is removed when the daemon starts: `--rm`, and the daemon went between its end and
/// its removal, or whoever created it never came to start it.
fn goes_by_itself(record: &ContainerRecord) -> bool {
    record.host.auto_remove == Some(true) && matches!(record.state.status, Status::Exited | Status::Created)
}

impl Containers {
    /// Adopts what runs, clears what is left over, and starts what policies say.
    pub(crate) async fn restore(&self) -> Result<()> {
        for record in self.unfinished() {
            self.take_back(&record).await;
        }
        let bundles = self.bundles();
        let mut adoptions = JoinSet::new();
        for container in self.all() {
            if container.status() == Status::Removing {
                let volumes = container.record().host.auto_remove == Some(true);
                if let Err(error) = self.remove_parts(&container, volumes).await {
                    tracing::warn!(container = %container.id, %error, "its removal was not completed");
                }
                continue;
            }
            if bundles.contains(&container.id)
                || container.status().is_alive()
                || container.status() == Status::Restarting
            {
                let containers = self.clone();
                adoptions.spawn(async move { containers.adopt(&container).await });
            } else if goes_by_itself(&container.record()) {
                self.remove_after_end(&container);
            }
        }
        while adoptions.join_next().await.is_some() {}
        self.clear(&bundles).await;
        self.start_by_policy();
        Ok(())
    }

    /// Names of the bundles in the run directory.
    fn bundles(&self) -> HashSet<String> {
        let folder = self.shared().config.run.join("c");
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Takes up a container whose shim lives, or notes how it ended.
    async fn adopt(&self, container: &Arc<Container>) {
        match self.find_shim(&container.id).await {
            Some((shim, mut events)) => {
                match self.adopt_running(container, &shim).await {
                    Ok(None) => self.watch(container, shim, events),
                    // It ended while no daemon was there to be told.
                    Ok(Some(status)) => self.settle(container, Some(shim), status.into()).await,
                    Err(error) => {
                        tracing::error!(container = %container.id, %error, "it runs, but could not be adopted, and is ended");
                        start::end(&shim, &mut events).await;
                        let end = self.end_without_shim(container);
                        self.settle(container, None, end).await;
                    }
                }
            }
            None => self.note_end(container).await,
        }
    }

    async fn find_shim(&self, id: &str) -> Option<(Shim, ShimEvents)> {
        let bundle = self.shared().config.bundle(id);
        if let Ok(found) = Shim::adopt(&bundle).await {
            return Some(found);
        }
        // A shim that has just been started does not listen yet: it is waited for as long as it lives. One whose socket is
        // there listens in the next moment, or is dead.
        let deadline = tokio::time::Instant::now() + SHIM_LISTENS;
        let mut is_last = false;
        while !is_last && bundle.join(OCI_CONFIG).exists() && self.last_word(id).is_none() {
            let known = bundle.clone();
            let lives = blocking(move || Ok(has_shim(&known))).await.unwrap_or(false);
            is_last = bundle.join(SOCKET).exists() || !lives || tokio::time::Instant::now() > deadline;
            tokio::time::sleep(Duration::from_millis(20)).await;
            if let Ok(found) = Shim::adopt(&bundle).await {
                return Some(found);
            }
        }
        None
    }

    async fn adopt_running(&self, container: &Arc<Container>, shim: &Shim) -> Result<Option<ExitStatus>> {
        let (connected, descriptors) = shim.connect().await?;
        let pid = connected.pid;
        let ended = connected.exit.clone();
        let record = container.snapshot();
        container.hub.serve(self.shared(), &record, shim, connected, descriptors).await?;
        container.set_shim(Some(shim.clone()));
        if !matches!(validate::network(&record.host), Sharing::Host | Sharing::Container(_))
            && let Err(error) = self.networks().adopt(&container.id, record.networks.keys().cloned().collect()).await
        {
            tracing::warn!(container = %container.id, %error, "its networks were not adopted whole");
        }
        let cgroup = self.cgroup(&container.record());
        let frozen = blocking(move || Ok(cgroup.is_frozen())).await.unwrap_or(false);
        // The daemon may have gone between the program's start and its note.
        self.update(container, |record| {
            record.state.status = if frozen { Status::Paused } else { Status::Running };
            record.state.pid = pid;
            if record.state.started_ns == 0 || record.state.started_ns < record.state.finished_ns {
                record.state.started_ns = now_ns();
            }
        })?;
        if ended.is_none() {
            health::begin(self, container);
        }
        Ok(ended)
    }

    /// Nothing runs: what had been running has ended meanwhile, by its own or with the host.
    async fn note_end(&self, container: &Arc<Container>) {
        let record = container.snapshot();
        if !record.state.status.is_alive() {
            self.tear_down(&record).await;
            self.remove_bundle(&record.id).await;
            if goes_by_itself(&record) {
                self.remove_after_end(container);
            }
            return;
        }
        let end = match self.last_word(&record.id) {
            Some(status) => status.into(),
            None => {
                if let Err(error) = self.update(container, |record| record.lost = true) {
                    tracing::warn!(container = %container.id, %error, "its end was not noted whole");
                }
                End { code: 255, oom: false, time_ns: now_ns(), error: String::new() }
            }
        };
        // Started again by `start_by_policy`, in order.
        container.restarting_by_hand.store(true, std::sync::atomic::Ordering::SeqCst);
        self.settle(container, None, end).await;
        container.restarting_by_hand.store(false, std::sync::atomic::Ordering::SeqCst);
        if record.host.auto_remove == Some(true) {
            self.remove_after_end(container);
        }
    }

    /// Takes away whatever bears the instance's mark and belongs to no container that lives.
    async fn clear(&self, bundles: &HashSet<String>) {
        let known: HashSet<String> = self.all().iter().map(|container| container.id.clone()).collect();
        let live: HashSet<String> = self
            .all()
            .iter()
            .filter(|container| container.status().is_alive())
            .map(|container| container.id.clone())
            .collect();
        for stray in bundles.difference(&known) {
            if let Some((shim, mut events)) = self.find_shim(stray).await {
                start::end(&shim, &mut events).await;
            }
            self.tear_down(&ContainerRecord { id: stray.clone(), ..ContainerRecord::default() }).await;
            self.remove_bundle(stray).await;
        }
        let (cgroups, layers, kept) = (self.shared().cgroups.clone(), self.layers().clone(), live.clone());
        let mut mounted = live.clone();
        let alive = self.all().into_iter().filter(|container| live.contains(&container.id));
        mounted.extend(alive.flat_map(|container| container.snapshot().image_roots().collect::<Vec<_>>()));
        let containers = known.clone();
        let parent = self.shared().instance.cgroup_parent();
        let cleared = blocking(move || {
            layers.clean(&mounted, &containers);
            clear_cgroups(&cgroups, &parent, &kept);
            Ok(())
        });
        let directories = self.shared().config.root.join("containers");
        for entry in fs::read_dir(directories).into_iter().flatten().flatten() {
            if !known.contains(entry.file_name().to_string_lossy().as_ref()) {
                let _ = sampan_storage::remove_tree(&entry.path());
            }
        }
        let list: Vec<String> = live.iter().cloned().collect();
        let (cleared, networks, volumes) =
            tokio::join!(cleared, self.networks().sweep(&list), self.volumes().clean(known, live));
        for (what, result) in [("mounts and cgroups", cleared), ("networks", networks), ("volumes", volumes)] {
            if let Err(error) = result {
                tracing::warn!(%error, "{what} of an earlier run were not cleared away");
            }
        }
    }

    /// Starts, one after the other and in order, what its policy wants to run.
    fn start_by_policy(&self) {
        let mut wanted: Vec<(Arc<Container>, Arc<ContainerRecord>)> = self
            .all()
            .into_iter()
            .map(|container| (Arc::clone(&container), container.snapshot()))
            .filter(|(_, record)| {
                matches!(record.state.status, Status::Exited | Status::Restarting)
                    && record.state.started_ns != 0
                    && (record.state.status == Status::Restarting
                        || Policy::of(&record.host).starts_with_daemon(
                            record.state.exit_code,
                            record.restart_count,
                            record.stopped_by_hand,
                        ))
            })
            .collect();
        if wanted.is_empty() {
            return;
        }
        let records: Vec<Arc<ContainerRecord>> = wanted.iter().map(|(_, record)| Arc::clone(record)).collect();
        let order = order(&records);
        wanted.sort_by_key(|(container, _)| order.iter().position(|id| *id == container.id));
        let containers = self.clone();
        tokio::spawn(async move {
            for (container, _) in wanted {
                let _operation = container.operation.lock().await;
                if !matches!(container.status(), Status::Exited | Status::Restarting) || containers.is_ending() {
                    continue;
                }
                if let Err(error) = containers.start_locked(&container).await {
                    tracing::warn!(container = %container.id, %error, "its restart policy wants it to run, but it does not start");
                    let record = container.snapshot();
                    let code = record.state.exit_code.max(1);
                    if Policy::of(&record.host).restarts(code, record.restart_count, record.stopped_by_hand) {
                        let _ = containers.update(&container, |record| record.state.status = Status::Restarting);
                        containers.restart_after(&container, code, Duration::ZERO);
                    }
                }
            }
        });
    }

    /// Lets go of containers (live restore), or stops them.
    pub(crate) async fn shutdown(&self) {
        self.set_ending();
        if self.shared().config.live_restore {
            return;
        }
        let mut stops = JoinSet::new();
        for container in self.all() {
            let containers = self.clone();
            stops.spawn(async move { containers.end_with_daemon(&container).await });
        }
        let all = async { while stops.join_next().await.is_some() {} };
        if tokio::time::timeout(LONGEST_STOP, all).await.is_err() {
            tracing::warn!("some containers did not stop in time, and go on");
            return;
        }
        let parent = self.shared().cgroups.cgroup(&self.shared().instance.cgroup_parent());
        let _ = blocking(move || parent.remove().map_err(|error| crate::Error::internal(error.to_string()))).await;
    }

    async fn end_with_daemon(&self, container: &Arc<Container>) {
        {
            // One that is just being started is waited for; none starts after it.
            let _operation = container.operation.lock().await;
            if !container.status().is_alive() {
                return;
            }
            let noted = self.update(container, |record| record.lost = true).map(drop);
            let ended = self.end(container, None, None).await.map(drop);
            if let Err(error) = noted.and(ended) {
                tracing::warn!(container = %container.id, %error, "it was not stopped");
                return;
            }
        }
        // Until what it leaves is cleared away.
        drop(container.settling.lock().await);
        if container.record().host.auto_remove == Some(true) {
            let mut phase = container.phase();
            let removed = phase.wait_for(|phase| phase.removed);
            let _ = tokio::time::timeout(Duration::from_secs(5), removed).await;
        }
    }
}

/// Whether a shim's process is there for a bundle.
fn has_shim(bundle: &Path) -> bool {
    let Some(bundle) = bundle.to_str() else { return false };
    fs::read_dir("/proc").into_iter().flatten().flatten().any(|entry| {
        let is_process = entry.file_name().to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        let words = if is_process { fs::read(entry.path().join("cmdline")).unwrap_or_default() } else { Vec::new() };
        let mut words = words.split(|byte| *byte == 0);
        words.next() == Some(b"sampan-shim") && words.any(|word| word == bundle.as_bytes())
    })
}

fn clear_cgroups(hierarchy: &sampan_cgroup::Hierarchy, parent: &str, live: &HashSet<String>) {
    let mut found = HashSet::new();
    for root in hierarchy.mount_points().into_values().chain([std::path::PathBuf::from("/sys/fs/cgroup")]) {
        for entry in fs::read_dir(root.join(parent.trim_start_matches('/'))).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.extend(entry.file_name().into_string());
            }
        }
    }
    for name in found.difference(live) {
        // Only containers' own: 64 hexadecimal digits.
        if name.len() != 64 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            continue;
        }
        let cgroup = hierarchy.cgroup(&format!("{parent}/{name}"));
        if let Err(error) = cgroup.kill().and_then(|()| cgroup.remove()) {
            tracing::warn!(cgroup = name, %error, "a cgroup of an earlier run was not cleared away");
        }
    }
    if live.is_empty() {
        let _ = hierarchy.cgroup(parent).remove();
    }
}

/// Ids in the order of starting: oldest first, but what one shares or depends on before it. Pure.
fn order(records: &[Arc<ContainerRecord>]) -> Vec<String> {
    let mut by_age: Vec<&ContainerRecord> = records.iter().map(Arc::as_ref).collect();
    by_age.sort_by_key(|record| (record.created_ns, record.id.clone()));
    let label =
        |record: &ContainerRecord, key: &str| record.config.labels.as_ref().and_then(|all| all.get(key).cloned());
    let needs = |record: &ContainerRecord| -> Vec<&ContainerRecord> {
        let shared: Vec<String> = [&record.host.network_mode, &record.host.pid_mode, &record.host.ipc_mode]
            .into_iter()
            .flatten()
            .filter_map(|mode| mode.strip_prefix("container:").map(str::to_owned))
            .collect();
        let services: Vec<String> = label(record, DEPENDS_ON)
            .unwrap_or_default()
            .split(',')
            .filter_map(|part| part.split(':').next().filter(|name| !name.is_empty()).map(str::to_owned))
            .collect();
        let project = label(record, PROJECT);
        records
            .iter()
            .filter(|other| {
                shared.contains(&other.id)
                    || (project.is_some()
                        && label(other, PROJECT) == project
                        && label(other, SERVICE).is_some_and(|service| services.contains(&service)))
            })
            .map(Arc::as_ref)
            .collect()
    };
    let mut done: Vec<String> = Vec::new();
    while done.len() < by_age.len() {
        let is_done = |id: &String| done.contains(id);
        let ready = by_age
            .iter()
            .find(|record| {
                !is_done(&record.id) && needs(record).iter().all(|need| is_done(&need.id) || need.id == record.id)
            })
            // A circle: the oldest goes first.
            .or_else(|| by_age.iter().find(|record| !is_done(&record.id)));
        match ready {
            Some(record) => done.push(record.id.clone()),
            None => break,
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, created_ns: u64, service: &str, depends_on: &str) -> Arc<ContainerRecord> {
        let mut record = ContainerRecord { id: id.into(), created_ns, ..ContainerRecord::default() };
        record.config.labels = Some(
            [(PROJECT, "p"), (SERVICE, service), (DEPENDS_ON, depends_on)]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        );
        Arc::new(record)
    }

    #[test]
    fn a_shim_is_found_by_its_bundle() {
        use std::os::unix::process::CommandExt;
        let mut shim = std::process::Command::new("/bin/sh")
            .arg0("sampan-shim")
            .args(["-c", "read line", "--bundle", "/nowhere/c/abc"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{error}"));
        // Its arguments show a moment after its start.
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        let found = std::iter::repeat_with(|| has_shim(Path::new("/nowhere/c/abc")))
            .any(|found| found || std::time::Instant::now() > deadline)
            && has_shim(Path::new("/nowhere/c/abc"));
        let other = has_shim(Path::new("/nowhere/c/abcd"));
        let _ = shim.kill();
        let _ = shim.wait();
        assert!(found && !other);
    }

    #[test]
    fn dependencies_start_first_and_circles_end() {
        let mut records = vec![
            record("web", 1, "web", "db:service_healthy:false,cache:service_started:true"),
            record("db", 3, "db", ""),
            record("cache", 2, "cache", ""),
        ];
        assert_eq!(order(&records), ["cache", "db", "web"]);
        let mut side = ContainerRecord { id: "side".into(), created_ns: 0, ..ContainerRecord::default() };
        side.host.network_mode = Some("container:web".into());
        records.push(Arc::new(side));
        assert_eq!(order(&records), ["cache", "db", "web", "side"]);
        let circle = [record("a", 1, "a", "b:x:y"), record("b", 2, "b", "a:x:y")];
        assert_eq!(order(&circle), ["a", "b"]);
    }
}
