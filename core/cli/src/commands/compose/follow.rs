//! The logs of a stack's containers in one stream, each line with its container's name.

use bytes::{Buf, BytesMut};
use http::{Method, header};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::project::{PROJECT, SERVICE, containers, is_one_off, name, short};
use crate::client::{Client, JsonLines, Query, next_chunk};
use crate::failure::{Failure, Outcome};

/// Foreground colours of names, in turn.
const COLORS: [&str; 10] = ["36", "33", "32", "35", "34", "36;1", "33;1", "32;1", "35;1", "34;1"];
/// How long the end of a container waits to be told for the end of its log.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// A line longer than this is shown in pieces.
const LONGEST: usize = 1 << 20;

/// What to show.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The stack.
    pub project: String,
    /// Its services; all when there are none.
    pub services: Vec<String>,
    /// Services that are not shown.
    pub except: Vec<String>,
    /// One container alone, by its number.
    pub index: Option<u32>,
    /// Whether to go on as more comes.
    pub follow: bool,
    /// From when, as the API takes it.
    pub since: Option<String>,
    /// Until when.
    pub until: Option<String>,
    /// Lines from the end.
    pub tail: Option<String>,
    /// Whether to show times.
    pub timestamps: bool,
    /// Whether lines have names.
    pub prefix: bool,
    /// Whether names have colours.
    pub colors: bool,
}

/// News of a container.
#[derive(Debug)]
enum News {
    Line { id: String, to_errors: bool, text: Vec<u8> },
    Ended { id: String },
}

/// A container whose log is read, or was.
#[derive(Debug)]
struct Source {
    label: String,
    color: usize,
    active: bool,
    /// When that was begun, in nanoseconds since the epoch.
    opened: i64,
    /// It was started again before its log's end was noticed: read on from here.
    again: Option<String>,
}

/// What happened to a container of the stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Its id.
    pub id: String,
    /// Its name without the stack's.
    pub label: String,
    /// Its service.
    pub service: String,
    /// Its exit status.
    pub code: i64,
}

/// What [`Follower::next`] stopped for.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// A container ended.
    Exit(Exit),
    /// No log is read at present; one may be, when a container starts.
    Quiet,
    /// There will be no more.
    Over,
}

/// Reads the logs of a stack.
#[derive(Debug)]
pub struct Follower {
    client: Client,
    wanted: Wanted,
    sources: HashMap<String, Source>,
    sender: mpsc::Sender<News>,
    news: mpsc::Receiver<News>,
    events: Option<JsonLines>,
    /// When the containers were listed, in nanoseconds since the epoch, and which of them had ended then.
    listed: i64,
    ended: HashSet<String>,
    /// What has ended and is not told yet, as its log is still read, and how long that is waited for. The oldest first.
    leaving: Vec<(Exit, Instant)>,
}

impl Follower {
    /// Begins: what happens from now on is not missed.
    pub async fn new(client: &Client, wanted: Wanted) -> Outcome<Self> {
        let (sender, news) = mpsc::channel(256);
        let events = if wanted.follow {
            let filters = [
                format!("label={PROJECT}={}", wanted.project),
                "type=container".into(),
                "event=start".into(),
                "event=die".into(),
            ];
            // From when the logs are wanted: what ended before the stream was open is told as well.
            let query = Query::new().maybe("since", wanted.since.as_deref()).filters(&filters)?;
            Some(JsonLines::new(client.call(Method::GET, &format!("/events{query}"), None::<&()>).await?))
        } else {
            None
        };
        let mut follower = Self {
            client: client.clone(),
            wanted,
            sources: HashMap::new(),
            sender,
            news,
            events,
            listed: now(),
            ended: HashSet::new(),
            leaving: Vec::new(),
        };
        let found = containers(client, &follower.wanted.project, &follower.wanted.services, true, false).await?;
        for container in &found {
            if follower.shows(&container["Labels"]) {
                let (id, since) = (container["Id"].as_str().unwrap_or_default(), follower.wanted.since.clone());
                if matches!(container["State"].as_str(), Some("exited" | "dead")) {
                    follower.ended.insert(id.to_owned());
                }
                follower.open(id, name(container), since);
            }
        }
        Ok(follower)
    }

    fn shows(&self, labels: &Value) -> bool {
        let service = labels[SERVICE].as_str().unwrap_or_default();
        let index = labels[super::project::NUMBER].as_str().and_then(|text| text.parse().ok());
        (self.wanted.services.is_empty() || self.wanted.services.iter().any(|name| name == service))
            && !self.wanted.except.iter().any(|name| name == service)
            && self.wanted.index.is_none_or(|wanted| index == Some(wanted))
            && !is_one_off(labels)
    }

    /// Begins to read a container's log.
    fn open(&mut self, id: &str, name: &str, since: Option<String>) {
        let count = self.sources.len();
        let label = short(name, &self.wanted.project).to_owned();
        let source = self.sources.entry(id.to_owned()).or_insert_with(|| Source {
            label,
            color: count % COLORS.len(),
            active: false,
            opened: 0,
            again: None,
        });
        if source.active {
            source.again = since.or_else(|| Some("0".to_owned()));
            return;
        }
        source.active = true;
        source.opened = now();
        let query = Query::new()
            .with("stdout", "1")
            .with("stderr", "1")
            .flag("follow", self.wanted.follow)
            .flag("timestamps", self.wanted.timestamps)
            .maybe("since", since)
            .maybe("until", self.wanted.until.as_deref())
            .maybe("tail", self.wanted.tail.as_deref());
        let (client, sender, id) = (self.client.clone(), self.sender.clone(), id.to_owned());
        tokio::spawn(async move {
            // A container that goes away while it is read has no more to say.
            let _ = read(&client, &id, &query.to_string(), &sender).await;
            let _ = sender.send(News::Ended { id }).await;
        });
    }

    /// Whether some log is still read.
    pub fn active(&self) -> bool {
        self.sources.values().any(|source| source.active)
    }

    /// Shows what comes until something ends.
    pub async fn next(&mut self) -> Outcome<Turn> {
        loop {
            if !self.wanted.follow && !self.active() {
                return Ok(Turn::Over);
            }
            let due = self.leaving.first().map(|(_, at)| *at);
            tokio::select! {
                biased;
                Some(news) = self.news.recv() => {
                    let ended = match &news {
                        News::Ended { id } => Some(id.clone()),
                        News::Line { .. } => None,
                    };
                    self.take(news)?;
                    if let Some(id) = ended {
                        if let Some(at) = self.leaving.iter().position(|(exit, _)| exit.id == id) {
                            return Ok(Turn::Exit(self.leaving.remove(at).0));
                        }
                        if !self.active() {
                            return Ok(Turn::Quiet);
                        }
                    }
                }
                event = next_event(&mut self.events), if self.events.is_some() => match event? {
                    Some(event) => match self.happened(&event) {
                        // What it said last stands before the word of its end.
                        Some(exit) if self.sources.get(&exit.id).is_some_and(|source| source.active) => {
                            self.leaving.push((exit, Instant::now() + LAST_WORDS));
                        }
                        Some(exit) => return Ok(Turn::Exit(exit)),
                        None => {}
                    },
                    None => self.events = None,
                },
                () = until(due), if due.is_some() => return Ok(Turn::Exit(self.leaving.remove(0).0)),
                else => return Ok(Turn::Over),
            }
        }
    }

    fn take(&mut self, news: News) -> Outcome {
        match news {
            News::Line { id, to_errors, text } => self.print(&id, to_errors, &text),
            News::Ended { id } => {
                let Some(source) = self.sources.get_mut(&id) else { return Ok(()) };
                source.active = false;
                if let Some(since) = source.again.take() {
                    let name = source.label.clone();
                    self.open(&id, &name, Some(since));
                }
                Ok(())
            }
        }
    }

    fn happened(&mut self, event: &Value) -> Option<Exit> {
        let labels = &event["Actor"]["Attributes"];
        if !self.shows(labels) {
            return None;
        }
        let id = event["Actor"]["ID"].as_str().unwrap_or_default();
        let name = labels["name"].as_str().unwrap_or_default();
        let time = event["timeNano"].as_i64().unwrap_or(0);
        let action = event["Action"].as_str().unwrap_or_default();
        // Of what was before the list, only ends are news, and only of containers that it has as ended.
        if time < self.listed && !(action == "die" && self.ended.remove(id)) {
            return None;
        }
        match action {
            "start" => {
                // The news of a start that was seen in the list already.
                if !self.sources.get(id).is_some_and(|source| source.active && time <= source.opened) {
                    // A moment earlier: its first line may be older than the news of its start.
                    let from = (time - 100_000_000).max(0);
                    self.open(id, name, Some(format!("{}.{:09}", from / 1_000_000_000, from % 1_000_000_000)));
                }
                None
            }
            "die" => Some(Exit {
                id: id.to_owned(),
                label: short(name, &self.wanted.project).to_owned(),
                service: labels[SERVICE].as_str().unwrap_or_default().to_owned(),
                code: labels["exitCode"].as_str().and_then(|code| code.parse().ok()).unwrap_or(0),
            }),
            _ => None,
        }
    }

    fn print(&self, id: &str, to_errors: bool, text: &[u8]) -> Outcome {
        let mut line = Vec::with_capacity(text.len() + 32);
        if self.wanted.prefix
            && let Some(source) = self.sources.get(id)
        {
            let width = self.sources.values().map(|source| source.label.chars().count()).max().unwrap_or(0) + 1;
            let prefix = format!("{:width$} | ", source.label);
            if self.wanted.colors {
                line.extend_from_slice(format!("\x1b[{}m{prefix}\x1b[0m", COLORS[source.color]).as_bytes());
            } else {
                line.extend_from_slice(prefix.as_bytes());
            }
        }
        line.extend_from_slice(text);
        line.push(b'\n');
        let written =
            if to_errors { std::io::stderr().write_all(&line) } else { std::io::stdout().lock().write_all(&line) };
        match written {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Failure::exit(0)),
            other => Ok(other?),
        }
    }
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos());
    i64::try_from(now).unwrap_or(i64::MAX)
}

async fn until(due: Option<Instant>) {
    match due {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn next_event(events: &mut Option<JsonLines>) -> Outcome<Option<Value>> {
    match events {
        Some(events) => events.next().await,
        None => Ok(None),
    }
}

async fn read(client: &Client, id: &str, query: &str, sender: &mpsc::Sender<News>) -> Outcome {
    let response = client.call(Method::GET, &format!("/containers/{id}/logs{query}"), None::<&()>).await?;
    let raw = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().ends_with(b"raw-stream"));
    let mut body = response.into_body();
    let mut lines = Lines { raw, ..Lines::default() };
    while let Some(chunk) = next_chunk(&mut body).await {
        let chunk = chunk.map_err(|error| Failure::new(error.to_string()))?;
        for (to_errors, text) in lines.take(&chunk) {
            if sender.send(News::Line { id: id.to_owned(), to_errors, text }).await.is_err() {
                return Ok(());
            }
        }
    }
    for (to_errors, text) in lines.rest() {
        let _ = sender.send(News::Line { id: id.to_owned(), to_errors, text }).await;
    }
    Ok(())
}

/// Puts the lines of both streams together from frames.
#[derive(Debug, Default)]
struct Lines {
    raw: bool,
    frames: BytesMut,
    left: usize,
    to_errors: bool,
    partial: [Vec<u8>; 2],
}

impl Lines {
    fn take(&mut self, chunk: &[u8]) -> Vec<(bool, Vec<u8>)> {
        let mut done = Vec::new();
        if self.raw {
            self.add(false, chunk, &mut done);
            return done;
        }
        self.frames.extend_from_slice(chunk);
        loop {
            if self.left == 0 {
                let Some([stream, _, _, _, a, b, c, d]) = self.frames.first_chunk::<8>().copied() else { return done };
                self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                self.to_errors = stream == 2;
                self.frames.advance(8);
                continue;
            }
            let now = self.left.min(self.frames.len());
            if now == 0 {
                return done;
            }
            let part = self.frames.split_to(now);
            self.add(self.to_errors, &part, &mut done);
            self.left -= now;
        }
    }

    fn add(&mut self, to_errors: bool, bytes: &[u8], done: &mut Vec<(bool, Vec<u8>)>) {
        let partial = &mut self.partial[usize::from(to_errors)];
        let mut pieces = bytes.split(|byte| *byte == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            partial.extend_from_slice(piece);
            if pieces.peek().is_some() || partial.len() > LONGEST {
                let mut line = std::mem::take(partial);
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                done.push((to_errors, line));
            }
        }
    }

    fn rest(&mut self) -> Vec<(bool, Vec<u8>)> {
        let mut done = Vec::new();
        for (at, partial) in self.partial.iter_mut().enumerate() {
            if !partial.is_empty() {
                done.push((at == 1, std::mem::take(partial)));
            }
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_wherever_frames_and_reads_end() {
        let bytes =
            b"\x01\0\0\0\0\0\0\x03one\x02\0\0\0\0\0\0\x04bad\n\x01\0\0\0\0\0\0\x06 more\n\x01\0\0\0\0\0\0\x03end";
        for size in 1..bytes.len() {
            let mut lines = Lines::default();
            let mut found: Vec<(bool, Vec<u8>)> = bytes.chunks(size).flat_map(|chunk| lines.take(chunk)).collect();
            found.extend(lines.rest());
            assert_eq!(found, [(true, b"bad".to_vec()), (false, b"one more".to_vec()), (false, b"end".to_vec())]);
        }
        let mut raw = Lines { raw: true, ..Lines::default() };
        assert_eq!(raw.take(b"a\r\nb"), [(false, b"a".to_vec())]);
    }
}
