//! What a build tells, in BuildKit's words: steps, how far they are, what their programs say.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sampan_buildkit::Digest;
use sampan_buildkit::control::{
    Range, SourceInfo, StatusResponse, Timestamp, Vertex, VertexLog, VertexStatus, VertexWarning,
};
use sampan_engine::build::{Message, Step};
use sampan_engine::timestamp;

use super::job::Job;

fn now() -> Option<Timestamp> {
    Some(Timestamp::from_nanoseconds(timestamp::now()))
}

/// A step that the client is told of.
#[derive(Debug, Clone)]
pub struct Shown {
    job: Arc<Job>,
    vertex: Vertex,
}

impl Shown {
    /// Its name among the steps of its build.
    pub fn digest(&self) -> &str {
        &self.vertex.digest
    }

    async fn tell(&self) {
        self.job.tell(StatusResponse { vertexes: vec![self.vertex.clone()], ..StatusResponse::default() }).await;
    }

    /// It is done.
    pub async fn end(mut self) {
        self.vertex.completed = now();
        self.tell().await;
    }

    /// It failed.
    pub async fn fail(mut self, why: &str) {
        why.clone_into(&mut self.vertex.error);
        self.end().await;
    }

    /// Ends as its work did.
    pub async fn ends<T, E: std::fmt::Display>(self, result: Result<T, E>) -> Result<T, E> {
        match &result {
            Ok(_) => self.end().await,
            Err(error) => self.fail(&error.to_string()).await,
        }
        result
    }

    /// A part of it.
    pub fn part(&self, name: impl Into<String>) -> Transfer {
        Transfer {
            job: Arc::clone(&self.job),
            status: VertexStatus {
                id: name.into(),
                vertex: self.vertex.digest.clone(),
                name: "transferring".to_owned(),
                started: now(),
                ..VertexStatus::default()
            },
        }
    }
}

/// Something that comes or goes.
#[derive(Debug)]
pub struct Transfer {
    job: Arc<Job>,
    status: VertexStatus,
}

impl Transfer {
    /// Bytes have come.
    pub fn add(&mut self, bytes: usize) {
        self.status.current = self.status.current.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Says how far it is.
    pub async fn tell(&mut self) {
        self.status.timestamp = now();
        self.job.tell(StatusResponse { statuses: vec![self.status.clone()], ..StatusResponse::default() }).await;
    }

    /// It is over.
    pub async fn end(&mut self) {
        self.status.completed = now();
        self.tell().await;
    }
}

/// The steps of a build.
#[derive(Debug)]
pub struct Progress {
    job: Arc<Job>,
    number: AtomicUsize,
}

impl Progress {
    /// Of a build.
    pub fn new(job: Arc<Job>) -> Self {
        Self { job, number: AtomicUsize::new(0) }
    }

    fn vertex(&self, name: String, inputs: Vec<String>) -> Vertex {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let digest = Digest::of(format!("{}\0{number}\0{name}", self.job.reference()).as_bytes());
        Vertex { digest: digest.to_string(), name, inputs, started: now(), ..Vertex::default() }
    }

    /// A step begins.
    pub async fn begin(&self, name: impl Into<String>) -> Shown {
        self.begin_on(name.into(), Vec::new()).await
    }

    async fn begin_on(&self, name: String, inputs: Vec<String>) -> Shown {
        let shown = Shown { job: Arc::clone(&self.job), vertex: self.vertex(name, inputs) };
        shown.tell().await;
        shown
    }

    /// Follows what the engine tells of a build.
    pub fn steps(self: &Arc<Self>, definition: String, file: SourceInfo) -> Steps {
        Steps { progress: Arc::clone(self), definition, file, stages: HashMap::new() }
    }
}

/// The stage that is being built.
#[derive(Debug, Default)]
struct Stage {
    current: Option<(Shown, usize)>,
    /// The step before, on which the next one builds.
    last: Option<String>,
}

/// Follows a build's stages.
#[derive(Debug)]
pub struct Steps {
    progress: Arc<Progress>,
    /// The step that read the Dockerfile.
    definition: String,
    file: SourceInfo,
    stages: HashMap<usize, Stage>,
}

impl Steps {
    /// Tells on what the engine says.
    pub async fn take(&mut self, message: Message) {
        match message {
            Message::Stage(stage, message) => self.stage(stage, *message).await,
            Message::Lint(found) => {
                let warning = VertexWarning {
                    vertex: self.definition.clone(),
                    level: 1,
                    short: format!("{} (line {})", found.place.message, found.place.line).into_bytes(),
                    detail: vec![found.description().as_bytes().to_vec()],
                    url: rule_page(found.rule),
                    info: Some(self.file.clone()),
                    ranges: vec![Range::line(found.place.line)],
                };
                self.warn(warning).await;
            }
            Message::Stream(text) => {
                if let Some(text) = text.strip_prefix("[Warning] ") {
                    let short = text.trim_end().as_bytes().to_vec();
                    let vertex = self.definition.clone();
                    self.warn(VertexWarning { vertex, level: 1, short, ..VertexWarning::default() }).await;
                }
            }
            _ => {}
        }
    }

    async fn warn(&self, warning: VertexWarning) {
        let told = StatusResponse { warnings: vec![warning], ..StatusResponse::default() };
        self.progress.job.tell(told).await;
    }

    async fn stage(&mut self, number: usize, message: Message) {
        let stage = self.stages.entry(number).or_default();
        match message {
            Message::Step(step) => {
                if let Some((shown, _)) = stage.current.take() {
                    shown.end().await;
                }
                if let Some(name) = name(&step) {
                    let shown = self.progress.begin_on(name, stage.last.iter().cloned().collect()).await;
                    stage.last = Some(shown.digest().to_owned());
                    stage.current = Some((shown, step.line));
                }
            }
            Message::Cached => {
                if let Some((shown, _)) = &mut stage.current {
                    shown.vertex.cached = true;
                }
            }
            Message::Made(_) => {
                if let Some((shown, _)) = stage.current.take() {
                    shown.end().await;
                }
            }
            Message::Stream(text) => {
                if let Some((shown, _)) = &stage.current {
                    let log = VertexLog {
                        vertex: shown.digest().to_owned(),
                        timestamp: now(),
                        stream: 1,
                        msg: text.into_bytes(),
                    };
                    let told = StatusResponse { logs: vec![log], ..StatusResponse::default() };
                    self.progress.job.tell(told).await;
                }
            }
            Message::Pull(told) => {
                if let Some((shown, _)) = &stage.current
                    && let Some(id) = told["id"].as_str().filter(|id| !id.is_empty())
                {
                    let detail = |key: &str| told["progressDetail"][key].as_i64().unwrap_or_default();
                    let state = told["status"].as_str().unwrap_or_default();
                    let done = matches!(state, "Pull complete" | "Already exists" | "Download complete");
                    let status = VertexStatus {
                        id: id.to_owned(),
                        vertex: shown.digest().to_owned(),
                        name: state.to_ascii_lowercase(),
                        current: detail("current"),
                        total: detail("total"),
                        timestamp: now(),
                        started: shown.vertex.started,
                        completed: now().filter(|_| done),
                    };
                    let told = StatusResponse { statuses: vec![status], ..StatusResponse::default() };
                    self.progress.job.tell(told).await;
                }
            }
            _ => {}
        }
    }

    /// Ends what is open: the step of `line` because of `why`, the others because it did.
    pub async fn fail(&mut self, line: Option<usize>, why: &str) {
        let mut open: Vec<(Shown, usize)> = self.stages.values_mut().filter_map(|stage| stage.current.take()).collect();
        let failed = open.iter().position(|(_, at)| Some(*at) == line).or(if open.len() == 1 { Some(0) } else { None });
        if let Some(failed) = failed {
            open.swap_remove(failed).0.fail(why).await;
        }
        for (shown, _) in open {
            shown.fail("context canceled").await;
        }
    }
}

/// A step as people know it from BuildKit; `None` when it is not shown.
fn name(step: &Step) -> Option<String> {
    let (number, of) = step.place?;
    let mut place = String::new();
    if let Some(platform) = &step.platform {
        place.push_str(&format!("{platform} "));
    }
    if let Some(stage) = &step.stage {
        place.push_str(&format!("{stage} "));
    }
    let mut lines = step.text.lines();
    let first = lines.next().unwrap_or_default();
    let more = if lines.next().is_some() { " …" } else { "" };
    Some(format!("[{place}{number}/{of}] {first}{more}"))
}

/// Where a rule of the build checks is described.
pub fn rule_page(rule: &str) -> String {
    let mut kebab = String::new();
    for letter in rule.chars() {
        if letter.is_ascii_uppercase() && !kebab.is_empty() {
            kebab.push('-');
        }
        kebab.push(letter.to_ascii_lowercase());
    }
    format!("https://docs.docker.com/go/dockerfile/rule/{kebab}/")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::buildkit::job::Jobs;

    fn step(number: usize, place: Option<(usize, usize)>, text: &str) -> Box<Message> {
        Box::new(Message::Step(Step {
            number,
            of: 9,
            line: number,
            platform: None,
            stage: Some("app".to_owned()),
            place,
            text: text.to_owned(),
        }))
    }

    #[tokio::test]
    async fn stages_are_told_as_steps_that_begin_and_end() {
        let job = Jobs::default().get("a").unwrap();
        let progress = Arc::new(Progress::new(Arc::clone(&job)));
        let mut steps = progress.steps("sha256:file".to_owned(), SourceInfo::default());
        for message in [
            step(1, None, "FROM scratch"),
            step(2, Some((1, 2)), "COPY a /"),
            Box::new(Message::Cached),
            Box::new(Message::Made("abc".to_owned())),
            step(3, Some((2, 2)), "RUN <<X\nmake\nX"),
            Box::new(Message::Stream("made\n".to_owned())),
        ] {
            steps.take(Message::Stage(0, message)).await;
        }
        steps.take(Message::Stage(1, step(4, Some((1, 1)), "RUN other"))).await;
        steps.fail(Some(3), "exit code: 1").await;
        let mut told = Vec::new();
        while told.len() < 7 {
            let status = job.hear().await.unwrap();
            for vertex in status.vertexes {
                let state = (vertex.completed.is_some(), vertex.cached, vertex.inputs.len());
                told.push(format!("{} {state:?} {}", vertex.name, vertex.error));
            }
            told.extend(status.logs.into_iter().map(|log| String::from_utf8(log.msg).unwrap()));
        }
        assert_eq!(
            told,
            [
                "[app 1/2] COPY a / (false, false, 0) ",
                "[app 1/2] COPY a / (true, true, 0) ",
                "[app 2/2] RUN <<X … (false, false, 1) ",
                "made\n",
                "[app 1/1] RUN other (false, false, 0) ",
                "[app 2/2] RUN <<X … (true, false, 1) exit code: 1",
                "[app 1/1] RUN other (true, false, 0) context canceled",
            ]
        );
    }

    #[test]
    fn rules_have_pages() {
        assert_eq!(
            rule_page("LegacyKeyValueFormat"),
            "https://docs.docker.com/go/dockerfile/rule/legacy-key-value-format/"
        );
    }
}
