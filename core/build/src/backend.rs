//! What a build needs of an engine.

use std::collections::HashMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sampan_image::{ChainId, Digest, ImageConfig, ImageRecord, ImageRef, LayerRef, Platform};
use tokio::sync::{OwnedMutexGuard, mpsc};

use crate::cache::{Entry, Key};
use crate::context::Context;
use crate::device::{Allowed, Chosen, Device};
use crate::error::Result;
use crate::lint::Warning;
use crate::mount::Sharing;
use crate::remote::Remote;

/// Progress of a build, in Docker's classic terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Text for the terminal, with its line ends: what a program says, and notes.
    Stream(String),
    /// A step begins; what comes until [`Message::Made`] is of it.
    Step(Step),
    /// The result of the step was remembered.
    Cached,
    /// The step's program is about to run; twelve digits of its key.
    Running(String),
    /// The step has a result; twelve digits of it, for people.
    Made(String),
    /// What the linter found in a Dockerfile that is built all the same.
    Lint(Warning),
    /// What a stage says, counted over all stages that are built ([`crate::options::Options::live`]).
    Stage(usize, Box<Message>),
    /// The progress of a pull, as the engine tells it: a JSON document.
    Pull(serde_json::Value),
    /// The image, and the manifest by which it can be pushed.
    Image { id: Digest, manifest: Digest },
    /// The index that joins several images, and their ids by platform.
    Index { index: Digest, images: Vec<(Platform, Digest)> },
    /// What the linter found, in which text.
    Warnings(Vec<Warning>, String),
    /// What was asked of the Dockerfile instead of an image.
    Told(serde_json::Value),
    /// Keys of the results of all steps, and of those that the image is of.
    Keys { all: Vec<Key>, image: Vec<Key> },
}

/// A step that begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// From 1, over all stages that are built.
    pub number: usize,
    /// How many there are.
    pub of: usize,
    /// Its line in the Dockerfile.
    pub line: usize,
    /// What it is built for, when there are several platforms.
    pub platform: Option<Platform>,
    /// The name of its stage; `None` when there is but one, without a name.
    pub stage: Option<String>,
    /// Its place among those of its stage that make files, and how many those are; `None` when it makes none.
    pub place: Option<(usize, usize)>,
    /// The instruction as it is written.
    pub text: String,
}

impl Message {
    /// It in Docker's classic words; `None` when those have none for it.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        Some(match self {
            Self::Stream(text) => text.clone(),
            Self::Step(step) => {
                let label = step.platform.as_ref().map(|platform| format!("[{platform}] ")).unwrap_or_default();
                format!("Step {}/{} : {label}{}\n", step.number, step.of, step.text)
            }
            Self::Cached => " ---> Using cache\n".to_owned(),
            Self::Running(short) => format!(" ---> Running in {short}\n"),
            Self::Made(short) => format!(" ---> {short}\n"),
            Self::Lint(Warning { place, .. }) => {
                format!("[Warning] {}:{}: {}\n", place.file, place.line, place.message)
            }
            Self::Stage(_, message) => return message.text(),
            Self::Pull(_)
            | Self::Image { .. }
            | Self::Index { .. }
            | Self::Warnings(..)
            | Self::Told(_)
            | Self::Keys { .. } => return None,
        })
    }
}

/// Where progress goes. A slow reader slows the build.
pub type Output = mpsc::Sender<Message>;

/// A writable root over layers. Dropped, it is unmounted and forgotten.
pub trait Root: Send + Sync + 'static {
    /// Where it is mounted.
    fn path(&self) -> &Path;
}

/// A program to run in a root.
#[derive(Debug, Clone, Default)]
pub struct RunStep {
    /// For people: twelve digits of the step's key.
    pub id: String,
    /// The program and its arguments.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Absolute; made if it is not there.
    pub cwd: String,
    /// `user[:group]`, empty for root.
    pub user: String,
    /// `default`, `none`, `host`, or a network's name.
    pub network: String,
    /// `host:address`.
    pub extra_hosts: Vec<String>,
    /// Bytes of `/dev/shm`.
    pub shm_size: Option<i64>,
    /// Bytes of memory.
    pub memory: Option<i64>,
    /// Bytes of memory and swap.
    pub memory_swap: Option<i64>,
    /// Limits of its processes.
    pub ulimits: Vec<Ulimit>,
    /// Over the root.
    pub mounts: Vec<StepMount>,
    /// Devices of the host, by their whole names.
    pub devices: Vec<String>,
}

/// A limit of processes, as `setrlimit` knows it; -1 is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ulimit {
    /// Such as `nofile`.
    pub name: String,
    /// The limit in force.
    pub soft: i64,
    /// What it may be raised to.
    pub hard: i64,
}

/// Files that were fetched; they go with the value.
#[derive(Debug)]
pub struct Fetched {
    /// Where they are.
    pub context: Context,
    /// The file or directory that was asked for, in the context.
    pub path: String,
    /// What the user should know of.
    pub note: Option<String>,
}

/// A mount of a step, resolved.
#[derive(Debug, Clone)]
pub struct StepMount {
    /// Absolute, in the root.
    pub target: String,
    /// What is there.
    pub source: MountSource,
}

/// What is mounted.
#[derive(Debug, Clone)]
pub enum MountSource {
    /// A file or directory of the host, read only.
    Path(PathBuf),
    /// The same, writable; what is written is forgotten with the step.
    Discarded(PathBuf),
    /// A directory that the engine keeps under a name.
    Cache { id: String, seed: Option<PathBuf>, read_only: bool, sharing: Sharing, mode: u32, owner: (u32, u32) },
    /// Memory.
    Tmpfs { size: Option<u64> },
    /// A file in memory only.
    Secret { content: Arc<[u8]>, mode: u32, owner: (u32, u32) },
    /// A socket that leads to an agent's.
    Ssh { agent: PathBuf, mode: u32, owner: (u32, u32) },
}

/// An image among those of several platforms.
#[derive(Debug, Clone)]
pub struct Part {
    /// What it is for.
    pub platform: Platform,
    /// It.
    pub image: Arc<ImageRecord>,
    /// How it was made: the predicate of a statement on it.
    pub provenance: Option<serde_json::Value>,
}

/// The engine's part in builds. Futures may be dropped at any time, which ends what they do.
pub trait Backend: Send + Sync + 'static {
    /// Its roots.
    type Root: Root;

    /// Finds an image by name or id, fetching it when it is not here or `pull` is set.
    fn image(
        &self,
        name: &str,
        platform: &Platform,
        pull: bool,
        output: &Output,
    ) -> impl Future<Output = Result<Arc<ImageRecord>>> + Send;

    /// Opens a root over layers, nearest first.
    fn open(&self, parents: &[ChainId]) -> impl Future<Output = Result<Self::Root>> + Send;

    /// Looks up the devices that a step asks for, and whether it may have them.
    fn devices(&self, wanted: Vec<Device>, allowed: &Allowed) -> impl Future<Output = Result<Chosen>> + Send;

    /// Runs a program; its exit code.
    fn run(&self, root: &Self::Root, step: RunStep, output: &Output) -> impl Future<Output = Result<i32>> + Send;

    /// Makes a layer of what a root has over its parents (nearest first). Times after `latest` (seconds since 1970) become
    /// that.
    fn commit(
        &self,
        root: &Self::Root,
        parents: &[ChainId],
        latest: Option<i64>,
    ) -> impl Future<Output = Result<LayerRef>> + Send;

    /// Lays a layer that is here over others (nearest first): the same contents, with more below them.
    fn rebase(&self, layer: &LayerRef, parents: &[ChainId]) -> impl Future<Output = Result<LayerRef>> + Send;

    /// Fetches a file or a repository. `checksum` is `sha256:…` of a file, the commit of a repository.
    fn fetch(
        &self,
        remote: &Remote,
        keep_git_dir: bool,
        checksum: Option<&str>,
    ) -> impl Future<Output = Result<Fetched>> + Send;

    /// A remembered result whose layer is still here and lies on `on`.
    fn cached(&self, key: Key, on: Option<ChainId>) -> impl Future<Output = Option<Entry>> + Send;

    /// Remembers a result and keeps its layer.
    fn remember(&self, key: Key, entry: Entry) -> impl Future<Output = Result<()>> + Send;

    /// Makes the image.
    fn create(
        &self,
        config: ImageConfig,
        layers: Vec<LayerRef>,
        parent: Option<Digest>,
        names: Vec<ImageRef>,
    ) -> impl Future<Output = Result<Arc<ImageRecord>>> + Send;

    /// Joins images under names; the digest of the index that does.
    fn join(&self, parts: Vec<Part>, names: Vec<ImageRef>) -> impl Future<Output = Result<Digest>> + Send;

    /// Steps that run now, over all builds of the engine.
    fn flights(&self) -> &Flights;
}

/// One lock for each key that is being worked on, so that builds at once do a step once.
#[derive(Debug, Default)]
pub struct Flights(Mutex<HashMap<Key, Arc<tokio::sync::Mutex<()>>>>);

impl Flights {
    /// Waits until no one else works on the key.
    pub async fn lock(&self, key: Key) -> OwnedMutexGuard<()> {
        let lock = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(all.entry(key).or_default())
        };
        lock.lock_owned().await
    }
}
