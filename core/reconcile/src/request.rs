//! What is asked of a stack, and what the store keeps of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use sampan_compose::model::Service;
use sampan_compose::{LoadOptions, Project};
use sampan_store::Collection;
use serde::{Deserialize, Serialize};

use crate::plan::PlanOptions;
use crate::progress::Progress;
use crate::provided::Provided;

/// Stacks by project name.
pub(crate) const STACKS: Collection<StackRecord> = Collection::new("stacks");

/// Where a stack comes from: what `up` was called with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StackRequest {
    /// `-f`, absolute.
    pub files: Vec<PathBuf>,
    /// Where the command ran, absolute.
    pub working_dir: Option<PathBuf>,
    /// `--project-directory`, absolute.
    pub project_directory: Option<PathBuf>,
    /// `-p`.
    pub project_name: Option<String>,
    /// The caller's environment.
    pub env: BTreeMap<String, String>,
    /// `--env-file`, absolute.
    pub env_files: Vec<PathBuf>,
    /// `--profile`.
    pub profiles: Vec<String>,
    /// `--compatibility`.
    pub compatibility: bool,
    /// `--all-resources`.
    pub all_resources: bool,
    /// Files that were fetched from elsewhere, by their references.
    pub fetched: BTreeMap<String, PathBuf>,
    /// What the programs that provide services and models have said.
    pub provided: Provided,
    /// Services that were named and that no profile of the request enables: they belong to the stack all the same.
    pub enabled: BTreeSet<String>,
}

impl StackRequest {
    /// Where the project itself comes from when that is elsewhere: its repository, whichever version of it.
    pub(crate) fn origin(&self) -> Option<&str> {
        let first = self.files.first()?;
        let (reference, _) = self.fetched.iter().find(|(_, file)| *file == first)?;
        let whole = reference.split(['#', '@']).next().unwrap_or(reference);
        let is_artifact = reference.starts_with("oci://");
        Some(match whole.rsplit_once(':') {
            Some((repository, tag)) if is_artifact && !tag.contains('/') => repository,
            _ if is_artifact => whole,
            // Users of a host stand before an `@`.
            _ => reference.split('#').next().unwrap_or(reference),
        })
    }

    /// As the loader takes it.
    #[must_use]
    pub fn load_options(&self) -> LoadOptions {
        let working_dir = self.working_dir.clone().or_else(|| self.project_directory.clone());
        LoadOptions {
            working_dir: working_dir.unwrap_or_else(|| PathBuf::from("/")),
            files: self.files.clone(),
            project_dir: self.project_directory.clone(),
            project_name: self.project_name.clone(),
            env: self.env.clone(),
            env_files: self.env_files.clone(),
            profiles: self.profiles.clone(),
            compatibility: self.compatibility,
            all_resources: self.all_resources,
            ..LoadOptions::default()
        }
    }
}

/// Options of the stack's requests; each takes what it knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StackOptions {
    pub build: bool,
    pub no_build: bool,
    pub pull: Option<String>,
    pub force_recreate: bool,
    pub no_recreate: bool,
    pub recreate_deps: bool,
    pub no_deps: bool,
    pub remove_orphans: bool,
    /// Orphans are not told of.
    pub ignore_orphans: bool,
    /// How many things are done at once; as many as the daemon likes when that is not said.
    pub parallel: Option<usize>,
    pub scale: BTreeMap<String, u32>,
    pub wait: bool,
    pub wait_timeout_s: Option<u64>,
    pub timeout_s: Option<i64>,
    pub dry_run: bool,
    /// Whether the daemon follows the files; so unless false.
    pub watch: Option<bool>,
    pub no_start: bool,
    pub renew_anon_volumes: bool,
    /// `down`: remove volumes.
    pub volumes: bool,
    /// `down`: `all` or `local`.
    pub rmi: Option<String>,
    /// `kill`: the signal.
    pub signal: Option<String>,
}

impl StackOptions {
    /// What bounds how the work is done.
    pub(crate) fn bounds(&self) -> Bounds {
        Bounds { timeout: self.timeout_s, parallel: self.parallel.unwrap_or(PARALLEL) }
    }
}

/// Actions at once, unless the user wants fewer or more.
const PARALLEL: usize = 16;

/// What bounds how work is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Seconds that containers have to stop, where the user said so.
    pub timeout: Option<i64>,
    /// Actions at once.
    pub parallel: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { timeout: None, parallel: PARALLEL }
    }
}

/// A stack as the store keeps it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct StackRecord {
    pub name: String,
    pub request: StackRequest,
    /// The last one that was applied.
    #[serde(with = "shared")]
    pub project: Arc<Project>,
    /// What it was made from.
    pub inputs: Vec<PathBuf>,
    /// The services that were asked for; empty for all.
    pub services: BTreeSet<String>,
    pub no_deps: bool,
    pub scale: BTreeMap<String, u32>,
    /// Services that were stopped as a whole.
    pub stopped: BTreeSet<String>,
    /// Those of them whose containers the user removed: none are made before somebody asks for the service.
    #[serde(default)]
    pub removed: BTreeSet<String>,
    /// Whether the files are followed.
    pub watch: bool,
    /// The daemon leaves it alone.
    #[serde(default)]
    pub paused: bool,
    /// The client that changed it last, and to which it is left.
    #[serde(default)]
    pub left_to: Option<String>,
    /// Services that have left the project, until their containers are gone.
    #[serde(default)]
    pub retired: BTreeSet<String>,
    /// Services whose update failed.
    #[serde(default)]
    pub held: BTreeMap<String, Held>,
    /// For a person: containers that are no longer mended.
    #[serde(skip)]
    pub notes: Vec<String>,
    /// What is wrong with the files now, or with the last attempt.
    #[serde(skip)]
    pub problem: Option<String>,
    /// Whether it is the files.
    #[serde(skip)]
    pub broken: bool,
}

/// A service whose update failed, until its definition changes or it is brought up again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Held {
    /// The definition that is not tried again.
    pub refused: Service,
    /// For a person.
    pub why: String,
    /// What runs instead; none: the update stands still.
    pub back: Option<Box<Back>>,
}

/// The version before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Back {
    #[serde(with = "shared")]
    pub project: Arc<Project>,
    /// Id of the image.
    pub image: String,
}

/// A project that several hold is written as one.
mod shared {
    use super::{Arc, Deserialize, Project, Serialize};

    pub fn serialize<S: serde::Serializer>(project: &Arc<Project>, serializer: S) -> Result<S::Ok, S::Error> {
        Project::serialize(project, serializer)
    }

    pub fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Arc<Project>, D::Error> {
        Project::deserialize(deserializer).map(Arc::new)
    }
}

/// What a stack was brought to in whole.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Applied {
    /// Since the epoch.
    pub at_ms: u64,
    #[serde(with = "shared")]
    pub project: Arc<Project>,
}

/// What stacks were brought to, by [`version_key`].
pub(crate) const HISTORY: Collection<Applied> = Collection::new("stack-versions");
/// How much of it is kept.
pub(crate) const KEPT: usize = 10;

/// Key of a stack's version: they are ordered as they came. No name has a slash.
pub(crate) fn version_key(stack: &str, number: u64) -> String {
    format!("{stack}/{number:020}")
}

/// Whether two projects are equal; those that are one need no look.
pub(crate) fn is_same(one: &Arc<Project>, other: &Arc<Project>) -> bool {
    Arc::ptr_eq(one, other) || one == other
}

impl StackRecord {
    /// Whether the store has the same of both.
    pub(crate) fn is_kept_as(&self, other: &Self) -> bool {
        let Self {
            name,
            request,
            project,
            inputs,
            services,
            no_deps,
            scale,
            stopped,
            removed,
            watch,
            paused,
            retired,
            held,
            ..
        } = self;
        *name == other.name
            && *request == other.request
            && *inputs == other.inputs
            && *services == other.services
            && (*no_deps, *watch, *paused) == (other.no_deps, other.watch, other.paused)
            && *scale == other.scale
            && (stopped, removed) == (&other.stopped, &other.removed)
            && *retired == other.retired
            && *held == other.held
            && is_same(project, &other.project)
    }

    /// How it is brought to what it should be when nobody asks for it.
    pub(crate) fn healing(&self) -> PlanOptions {
        PlanOptions {
            services: self.services.clone(),
            no_deps: self.no_deps,
            retired: self.retired.clone(),
            healing: true,
            stopped: self.stopped.clone(),
            removed: self.removed.clone(),
            ..PlanOptions::default()
        }
    }

    /// Notes that the user takes the containers of services away.
    pub(crate) fn take_away(&mut self, services: impl IntoIterator<Item = String>) {
        for service in services.into_iter().filter(|service| self.project.services.contains_key(service)) {
            self.stopped.insert(service.clone());
            self.removed.insert(service);
        }
    }

    /// The services that an `up` has to count as enabled although no profile says so: those that it names, and those that
    /// were named before and have not been removed since. Names that need no profile do no harm.
    pub(crate) fn still_enabled(before: Option<&Self>) -> BTreeSet<String> {
        let before = before.map(|before| &before.request.enabled - &before.removed);
        before.unwrap_or_default()
    }

    /// The numbers that were asked for earlier and still hold: not those of services that are brought up now without one.
    pub(crate) fn scale_beside(&self, services: &BTreeSet<String>) -> BTreeMap<String, u32> {
        let keeps = |name: &String| !services.is_empty() && !services.contains(name);
        self.scale.iter().filter(|(name, _)| keeps(name)).map(|(name, number)| (name.clone(), *number)).collect()
    }

    /// Takes up what the files say now.
    pub(crate) fn become_edited(&mut self, project: Project, inputs: Vec<PathBuf>) {
        self.retired = self.retiring(&project);
        // A number written into the file goes before one that was asked for earlier.
        self.scale.retain(|name, _| {
            let (before, now) = (self.project.services.get(name), project.services.get(name));
            before.zip(now).is_none_or(|(before, now)| before.replicas() == now.replicas())
        });
        self.services.retain(|name| project.services.contains_key(name));
        self.stopped.retain(|name| project.services.contains_key(name));
        self.removed.retain(|name| project.services.contains_key(name));
        // A version that failed is not tried again before its definition changes.
        self.held.retain(|name, held| project.services.get(name) == Some(&held.refused));
        self.project = Arc::new(project);
        self.inputs = inputs;
        self.problem = None;
    }

    /// The services whose containers have to go when the project becomes another: a daemon that dies meanwhile leaves
    /// them to the next one.
    pub(crate) fn retiring(&self, next: &Project) -> BTreeSet<String> {
        let known = self.project.services.keys().chain(&self.retired);
        known.filter(|name| !next.services.contains_key(*name)).cloned().collect()
    }

    /// The services whose containers an `up` with this project removes: those that the daemon was about to, and, where it
    /// follows the same files, those that have left them. Whether it or the `up` sees the edit first makes no difference.
    pub(crate) fn left_by(&self, request: &StackRequest, next: &Project) -> BTreeSet<String> {
        let follows = self.watch && !self.paused && self.project.compose_files == next.compose_files;
        let edited = self.project.services.keys().filter(|_| follows);
        let profiles =
            |request: &StackRequest| (request.profiles.clone(), request.env.get("COMPOSE_PROFILES").cloned());
        let same = profiles(&self.request) == profiles(request) && self.request.enabled == request.enabled;
        let hidden = |name: &String| !same && next.inactive.contains_key(name);
        let gone = |name: &&String| !next.services.contains_key(*name) && !hidden(name);
        self.retired.iter().chain(edited).filter(gone).cloned().collect()
    }

    /// What shall be there: the project with the numbers that `--scale` asked for, and with the versions before in the
    /// place of what was rolled back.
    pub(crate) fn effective(&self) -> Arc<Project> {
        let mut shared = Arc::clone(&self.project);
        if self.scale.is_empty() && self.held.is_empty() {
            return shared;
        }
        let project = Arc::make_mut(&mut shared);
        for (name, held) in &self.held {
            if let Some(back) = &held.back
                && let Some(service) = back.project.services.get(name)
            {
                let scale = project.services.get(name).map(Service::replicas);
                let service = Service {
                    image: back.image.clone(),
                    build: None,
                    pull_policy: String::new(),
                    scale,
                    ..service.clone()
                };
                project.services.insert(name.clone(), service);
            }
        }
        for (service, number) in &self.scale {
            if let Some(found) = project.services.get_mut(service) {
                found.scale = Some(*number);
            }
        }
        shared
    }

    /// What the user should know, if something is wrong.
    pub(crate) fn trouble(&self) -> Option<String> {
        let held = self.held.values().map(|held| held.why.clone());
        let all: Vec<String> = self.problem.iter().chain(&self.notes).cloned().chain(held).collect();
        (!all.is_empty()).then(|| all.join("\n"))
    }
}

/// What is done to services that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Start,
    Stop,
    Restart,
    Kill,
    Pause,
    Unpause,
    Remove,
    Build,
    Pull,
}

impl Verb {
    /// As a plan's line begins.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Unpause => "unpause",
            Self::Remove => "remove",
            Self::Build => "build",
            Self::Pull => "pull",
        }
    }
}

/// A request to a stack.
#[derive(Debug)]
pub(crate) enum Command {
    Up {
        request: Box<StackRequest>,
        services: BTreeSet<String>,
        options: StackOptions,
        progress: Progress,
    },
    Down {
        services: BTreeSet<String>,
        options: StackOptions,
        progress: Progress,
    },
    Act {
        verb: Verb,
        services: BTreeSet<String>,
        options: StackOptions,
        progress: Progress,
    },
    /// Tell what a container like a service's own is made from.
    Pattern {
        request: Box<StackRequest>,
        service: String,
        options: StackOptions,
        progress: Progress,
    },
    Hold {
        paused: bool,
        progress: Progress,
    },
    /// Another client changes the stack.
    Yield {
        by: String,
        progress: Progress,
    },
    RollBack {
        back: usize,
        progress: Progress,
    },
    /// Let go of everything, the daemon ends.
    Leave,
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_compose::MemoryFiles;

    fn project(file: &str, text: &str) -> Project {
        let files = MemoryFiles::default().with(file, text);
        let options = LoadOptions { working_dir: "/p".into(), files: vec![file.into()], ..LoadOptions::default() };
        sampan_compose::load(&options, &files).unwrap_or_else(|error| panic!("{error}")).project
    }

    #[test]
    fn an_up_removes_what_the_daemon_would_have_removed() {
        const BOTH: &str = "services: { web: { image: i }, db: { image: i } }";
        let left_with = |profiles: &[String], watch, retired: &[&str], file, text| {
            let record = StackRecord {
                project: Arc::new(project("/p/a.yaml", BOTH)),
                watch,
                retired: retired.iter().map(|name| (*name).to_owned()).collect(),
                ..StackRecord::default()
            };
            let request = StackRequest { profiles: profiles.to_vec(), ..StackRequest::default() };
            Vec::from_iter(record.left_by(&request, &project(file, text)))
        };
        let left = |watch, retired, file, text| left_with(&[], watch, retired, file, text);
        const ONE: &str = "services: { db: { image: i } }";
        assert_eq!(left(true, &[], "/p/a.yaml", ONE), ["web"], "it follows that file");
        assert_eq!(left(false, &[], "/p/a.yaml", ONE), [""; 0], "it does not, and orphans are told");
        assert_eq!(left(true, &[], "/p/b.yaml", ONE), [""; 0], "that is another file");
        assert_eq!(left(false, &["old"], "/p/b.yaml", ONE), ["old"], "what was begun is ended");
        assert_eq!(left(true, &["web"], "/p/a.yaml", BOTH), [""; 0], "it is back");
        let profiled = "services: { web: { image: i, profiles: [p] }, db: { image: i } }";
        assert_eq!(left(true, &[], "/p/a.yaml", profiled), ["web"], "the edit gave it a profile");
        let other = left_with(&["q".to_owned()], true, &[], "/p/a.yaml", profiled);
        assert_eq!(other, [""; 0], "the profiles asked for hide it, as with Compose");
    }

    #[test]
    fn versions_of_what_lies_elsewhere_have_one_origin() {
        let origin = |reference: &str| {
            let file = PathBuf::from("/cache/1/compose.yaml");
            let fetched = [(reference.to_owned(), file.clone()), ("oci://other".to_owned(), "/x".into())].into();
            StackRequest { files: vec![file], fetched, ..StackRequest::default() }.origin().map(str::to_owned)
        };
        for (reference, wanted) in [
            ("oci://localhost:5000/team/app:1", "oci://localhost:5000/team/app"),
            ("oci://localhost:5000/team/app", "oci://localhost:5000/team/app"),
            ("oci://registry.example/app@sha256:12", "oci://registry.example/app"),
            ("https://example.com/x.git#main:deploy", "https://example.com/x.git"),
            ("git@example.com:x/y.git#v1", "git@example.com:x/y.git"),
        ] {
            assert_eq!(origin(reference).as_deref(), Some(wanted));
        }
        let local = StackRequest { files: vec!["/p/compose.yaml".into()], ..StackRequest::default() };
        assert_eq!(local.origin(), None);
    }
}
