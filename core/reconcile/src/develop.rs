//! `develop.watch`: files of the host that show in running containers as they are saved.
//!
//! Which change leads to what is pure ([`Rules`]); files go straight into the containers' roots, many in one archive.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard_stubs::models::ContainerSummaryStateEnum;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use sampan_build::dockerignore::Ignore;
use sampan_compose::Project;
use sampan_compose::model::{Exec, WatchAction, WatchRule};
use sampan_engine::{Engine, Error, Result};
use tokio::sync::mpsc;

use crate::hooks;
use crate::observe::summaries;
use crate::progress::Progress;

/// Saves within this time of each other are one.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Paths that wait to be looked at; more are found by looking at everything.
const QUEUE: usize = 4096;
/// Bytes of files that go into a container at once.
const BATCH: usize = 32 << 20;
/// What editors and version control leave, which is nobody's source.
const ALWAYS_IGNORED: [&str; 6] = ["**/.git", "**/*~", "**/.*.sw?", "**/.#*", "**/#*#", "**/4913"];

/// A rule of one service.
#[derive(Debug)]
struct Rule {
    service: String,
    rule: WatchRule,
    ignore: Ignore,
    include: Vec<Ignore>,
}

/// The rules of a project's services.
#[derive(Debug, Default)]
pub struct Rules {
    all: Vec<Rule>,
}

/// What is to be done for one service.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Work {
    /// Where files go in the container, with where they lie on the host.
    pub sync: BTreeMap<String, PathBuf>,
    /// Restart its containers afterwards.
    pub restart: bool,
    /// Run these in its containers afterwards.
    pub exec: Vec<Exec>,
    /// Build its image, and make its containers anew.
    pub rebuild: bool,
}

impl Rules {
    /// Of the services named, or of all. An error names the pattern that is none.
    pub fn of(project: &Project, services: &BTreeSet<String>, ignored: &BTreeMap<String, String>) -> Result<Self> {
        let mut all = Vec::new();
        for (name, service) in &project.services {
            if !services.is_empty() && !services.contains(name) {
                continue;
            }
            for rule in service.develop.iter().flat_map(|develop| &develop.watch) {
                let bad = |error: sampan_build::pattern::BadPattern| {
                    Error::invalid(format!("service {name}: develop.watch: the pattern {:?} is not valid", error.0))
                };
                let file = ignored.get(name).map(String::as_str).unwrap_or_default();
                let patterns = ALWAYS_IGNORED.into_iter().chain(file.lines().filter(|line| !line.starts_with('#')));
                let own = rule.ignore.iter().map(String::as_str);
                all.push(Rule {
                    service: name.clone(),
                    ignore: Ignore::from_patterns(patterns.chain(own)).map_err(bad)?,
                    include: rule
                        .include
                        .iter()
                        .map(|pattern| Ignore::from_patterns([pattern.as_str()]))
                        .collect::<std::result::Result<_, _>>()
                        .map_err(bad)?,
                    rule: rule.clone(),
                });
            }
        }
        Ok(Self { all })
    }

    /// Whether there is nothing to watch.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// What is watched.
    #[must_use]
    pub fn paths(&self) -> BTreeSet<&Path> {
        self.all.iter().map(|rule| rule.rule.path.as_path()).collect()
    }

    /// What files that changed lead to, by service. Pure.
    #[must_use]
    pub fn work(&self, changed: &BTreeSet<PathBuf>) -> BTreeMap<String, Work> {
        let mut all: BTreeMap<String, Work> = BTreeMap::new();
        for rule in &self.all {
            for path in changed {
                let Some(below) = rule.meets(path) else { continue };
                let work = all.entry(rule.service.clone()).or_default();
                if let Some(target) = rule.target(below) {
                    work.sync.insert(target, path.clone());
                }
                match rule.rule.action {
                    WatchAction::Sync => {}
                    WatchAction::Restart | WatchAction::SyncRestart => work.restart = true,
                    WatchAction::Rebuild => work.rebuild = true,
                    WatchAction::SyncExec => {
                        let exec = rule.rule.exec.clone().filter(|exec| !work.exec.contains(exec));
                        work.exec.extend(exec);
                    }
                }
            }
        }
        all
    }

    /// The rules whose files go into the containers at once, as if all had changed.
    fn initial(&self) -> Self {
        let wanted = |rule: &&Rule| rule.rule.initial_sync && rule.target(Path::new("")).is_some();
        let only_sync = |rule: &Rule| Rule {
            service: rule.service.clone(),
            rule: WatchRule { action: WatchAction::Sync, ..rule.rule.clone() },
            ignore: rule.ignore.clone(),
            include: rule.include.clone(),
        };
        Self { all: self.all.iter().filter(wanted).map(only_sync).collect() }
    }
}

impl Rule {
    /// The rest of a path behind the rule's, if the rule wants it.
    fn meets<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        let below = path.strip_prefix(&self.rule.path).ok()?;
        let text = below.to_str()?;
        if text.is_empty() {
            return Some(below);
        }
        let included = self.include.is_empty()
            || self.include.iter().any(|pattern| {
                pattern.ignores(text)
                    || below.file_name().and_then(|name| name.to_str()).is_some_and(|name| pattern.ignores(name))
            });
        (included && !self.ignore.ignores(text)).then_some(below)
    }

    fn target(&self, below: &Path) -> Option<String> {
        let syncs = matches!(self.rule.action, WatchAction::Sync | WatchAction::SyncRestart | WatchAction::SyncExec);
        let target = self.rule.target.trim_end_matches('/');
        let below = below.to_str()?;
        syncs.then(|| if below.is_empty() { target.to_owned() } else { format!("{target}/{below}") })
    }
}

/// Watches while somebody listens.
pub(crate) struct Watching {
    pub engine: Engine,
    pub name: String,
    pub services: BTreeSet<String>,
    pub progress: Progress,
}

/// Paths that changed. Watches until dropped.
struct Changes {
    _watcher: RecommendedWatcher,
    paths: mpsc::Receiver<PathBuf>,
}

impl Changes {
    fn watch(rules: &Rules) -> Result<Self> {
        let (sender, paths) = mpsc::channel(QUEUE);
        let failed = |error: notify::Error| Error::internal(format!("watch files: {error}"));
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if let Ok(event) = event
                && !matches!(event.kind, EventKind::Access(_))
            {
                for path in event.paths {
                    let _ = sender.try_send(path);
                }
            }
        })
        .map_err(failed)?;
        for path in rules.paths() {
            // A file is watched in its folder: it may be replaced.
            let (folder, mode) = match path.parent() {
                Some(parent) if !path.is_dir() => (parent, RecursiveMode::NonRecursive),
                _ => (path, RecursiveMode::Recursive),
            };
            watcher.watch(folder, mode).map_err(|error| {
                Error::invalid(format!("develop.watch: {} cannot be watched: {error}", path.display()))
            })?;
        }
        Ok(Self { _watcher: watcher, paths })
    }

    /// What has changed, once it is quiet.
    async fn next(&mut self) -> BTreeSet<PathBuf> {
        let mut changed: BTreeSet<PathBuf> = self.paths.recv().await.into_iter().collect();
        while let Ok(Some(path)) = tokio::time::timeout(DEBOUNCE, self.paths.recv()).await {
            changed.insert(path);
            if changed.len() >= QUEUE {
                break;
            }
        }
        changed
    }
}

impl Watching {
    /// Watches for a project until nobody listens. `rebuild` brings a service up anew.
    pub(crate) async fn run<F: Future<Output = bool>>(
        &self,
        project: &Project,
        rebuild: impl Fn(String) -> F,
    ) -> Result<()> {
        let ignored = ignore_files(project).await;
        let rules = Rules::of(project, &self.services, &ignored)?;
        if rules.is_empty() {
            return Err(Error::invalid(
                "none of the selected services is configured for watch, consider setting a 'develop' section",
            ));
        }
        let mut changes = Changes::watch(&rules)?;
        let initial = rules.initial();
        let everything = initial.paths().into_iter().map(Path::to_owned).collect();
        for (service, work) in initial.work(&spread(everything).await) {
            self.tell(self.sync(&service, work.sync).await, &service).await;
        }
        self.progress.watch("", "Watch enabled".to_owned()).await;
        loop {
            let changed = tokio::select! {
                changed = changes.next() => changed,
                () = self.progress.closed() => return Ok(()),
            };
            for (service, work) in rules.work(&spread(changed).await) {
                self.carry_out(&service, work, &rebuild).await;
            }
        }
    }

    async fn tell(&self, result: Result<Option<String>>, service: &str) -> bool {
        match result {
            Ok(message) => {
                if let Some(message) = message {
                    self.progress.watch(service, message).await;
                }
                true
            }
            Err(error) => {
                self.progress.watch(service, format!("Failed for service {service:?}: {error}")).await;
                false
            }
        }
    }

    async fn carry_out<F: Future<Output = bool>>(&self, service: &str, work: Work, rebuild: &impl Fn(String) -> F) {
        if work.rebuild {
            self.progress.watch(service, format!("Rebuilding service {service:?} after changes were detected")).await;
            let done = rebuild(service.to_owned()).await;
            let how = if done { "successfully built and started" } else { "could not be built or started" };
            self.progress.watch(service, format!("service {service:?} {how}")).await;
            return;
        }
        if !self.tell(self.sync(service, work.sync).await, service).await {
            return;
        }
        for exec in &work.exec {
            self.tell(self.exec(service, exec).await, service).await;
        }
        if work.restart {
            self.tell(self.restart(service).await, service).await;
        }
    }

    /// Ids of a service's containers that run.
    async fn running(&self, service: &str) -> Result<Vec<String>> {
        let found = summaries(&self.engine, &self.name, Some(service)).await?;
        let runs = found.into_iter().filter(|found| found.state == Some(ContainerSummaryStateEnum::RUNNING));
        Ok(runs.filter_map(|found| found.id).collect())
    }

    /// Puts files into a service's containers, and takes out what is gone.
    async fn sync(&self, service: &str, files: BTreeMap<String, PathBuf>) -> Result<Option<String>> {
        if files.is_empty() {
            return Ok(None);
        }
        let count = files.len();
        let packed = tokio::task::spawn_blocking(move || pack(&files)).await;
        let (archives, gone) = packed
            .map_err(|error| Error::internal(error.to_string()))?
            .map_err(|error| Error::internal(format!("read what changed: {error}")))?;
        let containers = self.running(service).await?;
        for id in &containers {
            for archive in &archives {
                let upload = Box::pin(Cursor::new(archive.clone()));
                self.engine.archive_put(id, "/", upload, false, true).await?;
            }
            self.engine.remove_paths(id, gone.clone()).await?;
        }
        let plural = if count == 1 { "1 change was".to_owned() } else { format!("{count} changes were") };
        Ok(Some(format!("Syncing service {service:?} after {plural} detected")))
    }

    async fn restart(&self, service: &str) -> Result<Option<String>> {
        for id in self.running(service).await? {
            self.engine.restart(&id, None, None).await?;
        }
        Ok(Some(format!("service {service:?} restarted")))
    }

    async fn exec(&self, service: &str, exec: &Exec) -> Result<Option<String>> {
        for id in self.running(service).await? {
            let (code, output) = hooks::run(&self.engine, &id, exec).await?;
            if code != 0 {
                let said = output.lines().last().map(|line| format!(": {line}")).unwrap_or_default();
                return Err(Error::conflict(format!("{} exited with code {code}{said}", exec.command.join(" "))));
            }
        }
        Ok(Some(format!("service {service:?}: {} ran", exec.command.join(" "))))
    }
}

/// What the `.dockerignore` of each service's build context says.
async fn ignore_files(project: &Project) -> BTreeMap<String, String> {
    let contexts: Vec<(String, String)> = project
        .services
        .iter()
        .filter_map(|(name, service)| Some((name.clone(), service.build.as_ref()?.context.clone())))
        .collect();
    let read = move || {
        let text = |context: &str| std::fs::read_to_string(Path::new(context).join(".dockerignore")).ok();
        contexts.into_iter().filter_map(|(name, context)| Some((name, text(&context)?))).collect()
    };
    tokio::task::spawn_blocking(read).await.unwrap_or_default()
}

/// Folders stand for what is in them.
async fn spread(changed: BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
    fn add(path: PathBuf, all: &mut BTreeSet<PathBuf>) {
        let is_folder = path.symlink_metadata().is_ok_and(|found| found.is_dir());
        if !is_folder {
            all.insert(path);
            return;
        }
        for entry in std::fs::read_dir(&path).into_iter().flatten().flatten() {
            add(entry.path(), all);
        }
    }
    let work = move || {
        let mut all = BTreeSet::new();
        changed.into_iter().for_each(|path| add(path, &mut all));
        all
    };
    tokio::task::spawn_blocking(work).await.unwrap_or_default()
}

/// Archives with the files by their paths in the container, and the paths of what is no longer there.
fn pack(files: &BTreeMap<String, PathBuf>) -> std::io::Result<(Vec<Vec<u8>>, Vec<String>)> {
    let mut archives = Vec::new();
    let mut gone = Vec::new();
    let mut builder = tar::Builder::new(Vec::new());
    builder.follow_symlinks(false);
    for (target, path) in files {
        let name = target.trim_start_matches('/');
        match path.symlink_metadata() {
            Ok(found) if found.is_file() || found.is_symlink() => {
                let mut header = tar::Header::new_gnu();
                header.set_metadata(&found);
                header.set_uid(0);
                header.set_gid(0);
                if found.is_symlink() {
                    builder.append_link(&mut header, name, std::fs::read_link(path)?)?;
                } else {
                    // What is read counts: an editor may be writing.
                    let content = std::fs::read(path)?;
                    header.set_size(content.len() as u64);
                    builder.append_data(&mut header, name, content.as_slice())?;
                }
            }
            Ok(_) => {}
            Err(_) => gone.push(target.clone()),
        }
        if builder.get_ref().len() > BATCH {
            let full = std::mem::replace(&mut builder, tar::Builder::new(Vec::new()));
            archives.push(full.into_inner()?);
        }
    }
    if !builder.get_ref().is_empty() {
        archives.push(builder.into_inner()?);
    }
    Ok((archives, gone))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sampan_compose::{LoadOptions, MemoryFiles};

    fn rules(watch: &str, ignored: &str) -> Rules {
        let text = format!("services:\n  web:\n    image: web\n    develop:\n      watch:\n{watch}");
        let files = MemoryFiles::default().with("/p/compose.yaml", text);
        let options =
            LoadOptions { working_dir: "/p".into(), project_name: Some("p".into()), ..LoadOptions::default() };
        let project = sampan_compose::load(&options, &files).unwrap_or_else(|error| panic!("{error}")).project;
        let ignored = BTreeMap::from([("web".to_owned(), ignored.to_owned())]);
        Rules::of(&project, &BTreeSet::new(), &ignored).unwrap()
    }

    fn work(rules: &Rules, paths: &[&str]) -> Work {
        rules.work(&paths.iter().map(PathBuf::from).collect()).remove("web").unwrap_or_default()
    }

    fn targets(work: &Work) -> Vec<&str> {
        work.sync.keys().map(String::as_str).collect()
    }

    #[test]
    fn a_change_leads_to_what_its_rules_say() {
        let rules = rules(
            "        - { path: ./src, action: sync, target: /app/src, ignore: [node_modules/, '*.log'] }\n        - { path: ./conf, action: sync+restart, target: /etc/app }\n        - { path: ./package.json, action: rebuild }\n        - { path: ./css, action: sync+exec, target: /app/css, exec: { command: [make, css] } }\n        - { path: ./flag, action: restart }\n",
            "secret\n",
        );
        assert_eq!(targets(&work(&rules, &["/p/src/a/b.js", "/p/other/c.js"])), ["/app/src/a/b.js"]);
        let ignored =
            ["/p/src/node_modules/x.js", "/p/src/x.log", "/p/src/secret", "/p/src/.git/HEAD", "/p/src/a/b.js~"];
        assert_eq!(work(&rules, &ignored), Work::default());
        let conf = work(&rules, &["/p/conf/app.ini"]);
        assert!(conf.restart && targets(&conf) == ["/etc/app/app.ini"]);
        assert!(work(&rules, &["/p/package.json"]).rebuild);
        let css = work(&rules, &["/p/css/a.css", "/p/css/b.css"]);
        assert_eq!((css.exec.len(), css.sync.len()), (1, 2));
        let flag = work(&rules, &["/p/flag"]);
        assert!(flag.restart && flag.sync.is_empty());
    }

    #[test]
    fn only_what_is_included_counts() {
        let rules = rules("        - { path: ./src, action: sync, target: /app, include: ['*.js', docs/] }\n", "");
        let found = work(&rules, &["/p/src/a.js", "/p/src/deep/b.js", "/p/src/a.py", "/p/src/docs/x.md"]);
        assert_eq!(targets(&found), ["/app/a.js", "/app/deep/b.js", "/app/docs/x.md"]);
        assert!(rules.initial().is_empty());
    }

    #[test]
    fn what_is_gone_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), "text").unwrap();
        let files = BTreeMap::from([
            ("/app/a".to_owned(), folder.path().join("a")),
            ("/app/b".to_owned(), folder.path().join("b")),
        ]);
        let (archives, gone) = pack(&files).unwrap();
        assert_eq!((archives.len(), gone), (1, vec!["/app/b".to_owned()]));
    }
}
